"""What an audit would cut films into, shown on some of them; no model is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.film import Film, FilmReader, pseudonym
from ravl_med.cohort.manifest import Cohort, read_manifest
from ravl_med.cohort.table import RejectedFilm
from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError
from ravl_med.pipeline.stages import (
    Progress,
    Run,
    prepare_manifest,
    require_films,
)
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
    shown: int,
    seed: int,
    key: bytes,
    cache: Cache,
    progress: Progress = lambda stage, done, total: None,
) -> ContactSheet:
    """Propose the regions of some films of a cohort.

    The cohort is that of the audit, its task and split included. Patients come in random order, one
    film of each, then a second one, until enough films were read. What the audit leaves out since
    its model does not see it is shown.

    Parameters
    ----------
    shown : int - films, 1 to `MOST_SHOWN`; fewer where the cohort has fewer that can be read
    seed : int, 0 or more - of the sample
    key : bytes - secret of the pseudonyms
    cache : Cache - of synthetic cohorts

    Raises
    ------
    ConfigError
        `shown` or `seed` is out of range, or the config names what is not there.
    DataError
        The manifest or the annotations cannot be used, or none of the films can be read.
    """
    _require_in_range("--show", shown, 1, MOST_SHOWN)
    _require_in_range("--seed", seed, 0, None)
    reader = FilmReader.of(config.cohort)
    cohort = read_manifest(
        prepare_manifest(config, Run(cache, progress)),
        split=config.cohort.split,
        columns=config.task.columns(),
        labels=config.labels,
        unit=config.cohort.unit,
        roots=config.cohort.roots,
    )
    proposer = RegionProposer.of(config.regions, cohort)
    films: list[SheetFilm] = []
    skipped: list[RejectedFilm] = []
    problems = Counter(proposer.unmatched())
    wanted = min(shown, len(cohort))
    masking, masked = TextMasking.of(config), 0
    for film in _sampled_films(cohort, reader, seed):
        if isinstance(film, RejectedFilm):
            skipped.append(film)
            continue
        proposed = proposer.propose(film)
        problems.update(proposed.problems)
        image_id = pseudonym(film.digest, key)
        pixels = film.gray()
        if masking is not None:
            done = masking.mask(pixels)
            pixels, masked = done.pixels, masked + (done.hidden > 0)
        films.append(SheetFilm.of(image_id, pixels, proposed, film.left_edge))
        progress("propose regions", len(films), wanted)
        if len(films) == wanted:
            break
    if not films:
        require_films(cohort.keep(np.array([], dtype=np.int64), skipped), 1.0)
    return ContactSheet(
        name=config.name,
        sources=config.regions.sources,
        description=describe_sources(config.regions),
        cohort_films=len(cohort),
        films=tuple(films),
        skipped=Counter(film.reason for film in skipped),
        problems=problems,
        text_note=_text_note(masking, masked),
    )


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
