"""What an audit would cut films into, shown on some of them; no model is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.film import Film, FilmReader, pseudonym
from ravl_med.cohort.manifest import Cohort
from ravl_med.cohort.table import RejectedFilm
from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError
from ravl_med.pipeline.stages import Progress, Run, list_films, prepare_manifest, require_films
from ravl_med.regions.proposal import RegionProposer, describe_sources
from ravl_med.reporting.contact_sheet import ContactSheet, SheetFilm
from ravl_med.reporting.pictures import TextMasking
from ravl_med.reporting.wording import plural
from ravl_med.storage.cache import Cache

MOST_SHOWN = 100
"""Films on a contact sheet, at most."""


def preview_regions(
    config: Config,
    *,
    shown: int,  # films, 1 to `MOST_SHOWN`; fewer where the cohort has fewer that can be read
    seed: int,  # of the sample
    key: bytes,  # secret of the pseudonyms
    cache: Cache,  # of synthetic cohorts
    progress: Progress = lambda stage, done, total: None,
) -> ContactSheet:
    """Propose the regions of some films of a cohort.

    The cohort is that of the audit, its task and split included. Patients come in random order, one
    film of each, then a second one, until enough films were read. What the audit leaves out since
    its model does not see it is shown.

    Raises
    ------
    ConfigError
        `shown` or `seed` is out of range, or the config names what is not there.
    DataError
        The manifest or the annotations cannot be used, or none of the films can be read.
    """
    _require_in_range("--show", shown, 1, MOST_SHOWN)
    _require_in_range("--seed", seed, 0, None)
    cohort = list_films(config, prepare_manifest(config, Run(cache, progress)))
    proposer = replace(RegionProposer.of(config.regions, cohort), scored=True)
    masking = TextMasking.of(config)
    wanted = min(shown, len(cohort))
    with FilmReader.of(config.cohort).kept_open() as reader:
        sheet = _Sheet(proposer.with_reader(reader), masking, key)
        for film in _sampled_films(cohort, reader, seed):
            sheet.add(film)
            progress("propose regions", len(sheet.films), wanted)
            if len(sheet.films) == wanted:
                break
    if not sheet.films:
        require_films(cohort.keep(np.array([], dtype=np.int64), sheet.skipped), 1.0)
    return ContactSheet(
        name=config.name,
        sources=config.regions.sources,
        description=describe_sources(config.regions),
        cohort_films=len(cohort),
        films=tuple(sheet.films),
        skipped=Counter(film.reason for film in sheet.skipped),
        problems=sheet.problems,
        text_note=_text_note(sheet.masking, sheet.masked),
    )


class _Sheet:
    """Films with their regions, and text that was hidden on them."""

    def __init__(self, proposer: RegionProposer, masking: TextMasking | None, key: bytes) -> None:
        self._proposer, self.masking, self._key = proposer, masking, key
        self.films: list[SheetFilm] = []
        self.skipped: list[RejectedFilm] = []
        self.problems = Counter(proposer.unmatched())
        self.masked = 0

    def add(self, film: Film | RejectedFilm) -> None:
        if isinstance(film, RejectedFilm):
            self.skipped.append(film)
            return
        proposed, pixels = self._proposer.propose(film), film.gray()
        self.problems.update(proposed.problems)
        if self.masking is not None:
            done = self.masking.mask(pixels)
            pixels, self.masked = done.pixels, self.masked + (done.hidden > 0)
        name = pseudonym(film.digest, self._key)
        self.films.append(SheetFilm.of(name, pixels, proposed, film.left_edge))


def _text_note(masking: TextMasking | None, masked: int) -> str:
    if masking is None:
        return "Burned-in text is shown."
    return f"Burned-in text is hidden on {plural(masked, 'film')} ({masking.search.method})."


def _require_in_range(option: str, value: int, least: int, most: int | None) -> None:
    if value < least or (most is not None and value > most):
        upper = "inf)" if most is None else f"{most}]"
        raise ConfigError(
            f"{option} must be an int in the range [{least}, {upper}. Got {value} instead."
        )


def _sampled_films(cohort: Cohort, reader: FilmReader, seed: int) -> Iterator[Film | RejectedFilm]:
    """Read the films of a cohort in random order; a film knows its place in the whole cohort."""
    order = _spread(cohort.patients, seed)
    for film in reader.films(cohort.keep(order)):
        yield replace(film, index=int(order[film.index])) if isinstance(film, Film) else film


def _spread(patients: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return a random order of films (N,) in which each patient has one before any has two."""
    order = np.random.default_rng(seed).permutation(len(patients))
    earlier: Counter[int] = Counter()
    turns = []
    for patient in patients[order].tolist():
        turns.append(earlier[patient])
        earlier[patient] += 1
    return order[np.argsort(turns, kind="stable")].astype(np.int64)
