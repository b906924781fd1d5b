"""One setting from its films to its rows: plant, train, see what was learned, ask every method.

A setting whose model did not learn what was planted is told from the others by RaVL's validity test
before any method is asked, and keeps a row without methods.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ravl_med import __version__
from ravl_med.cohort.film import Film
from ravl_med.config.cohort import RegionsConfig
from ravl_med.errors import DataError
from ravl_med.evaluation.baselines import RegionEvidence
from ravl_med.evaluation.discovery_methods import METHODS, OURS, Answers, answer_all, embed_split
from ravl_med.evaluation.film_pool import FilmPool
from ravl_med.evaluation.scores import (
    count_pairs_found,
    count_tested,
    members_of,
    score_ranking,
    true_cluster_rank,
)
from ravl_med.evaluation.setting_films import (
    LEARNED,
    SettingFilms,
    SplitFilms,
    learned_gaps,
    make_films,
)
from ravl_med.evaluation.settings import Setting, relevance_of, setting_config
from ravl_med.evaluation.small_models import (
    SmallModel,
    fine_tuning_recipe,
    normalise_films,
    pretrained_folder,
    train_small_model,
)
from ravl_med.pipeline.stages import structure_reader
from ravl_med.regions.proposal import RegionProposer
from ravl_med.regions.region_set import cut_tiles
from ravl_med.regions.segmenter import built_in_segmenter
from ravl_med.storage.cache import Cache

_TILES = {"digits": (2, 2), "mnist": (2, 2)}
_DEFAULT_TILES = (6, 6)
_STRUCTURE_FILMS = 400  # the segmenter takes 70 ms a film

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method on one setting; the fields up to `cpu_seconds` are the same for all methods.

    Attributes
    ----------
    digest, group : str - of the setting, and of it whatever its seed
    thing, finding, thing_2, finding_2 : str - the planted pairs; the second blank without one
    strength, reached : float - Cramer's V, asked for and reached
    version : str - of this package
    accuracy : float - zero-shot, on the validation films
    raised_gap, lowered_gap : float - of the validity test, of the pair that was learned least
    valid : bool - both exceed 10 points; null settings have nothing to learn and are not valid
    seconds, cpu_seconds, training_seconds : float - of the whole setting, of its processor, and of
        the training
    method : str - blank where no method was asked
    precision_10, precision_25 : float - share of the first ten and 25 regions that lie on the thing
    touching_10 : float - the same, where any common area counts
    right_class : bool - the raised class that is named is the planted one
    accuses : bool - it says that there is a shortcut
    true_rank : int - place of the true cluster among the method's candidates, from 1; 0: none
    tested_true, confirmed_true, tested_other, confirmed_other : int - of our protocol: candidates
        that travel with the thing, those that do not, and how many were confirmed of each
    shortcuts, reviewed : int - of our protocol: correlations that count, of kind shortcut, and
        undecided
    pairs_found : int - planted pairs of which a correlation that counts names the class and the
        place
    """

    digest: str
    group: str
    domain: str
    kind: str
    architecture: str
    regions: str
    thing: str
    finding: str
    thing_2: str
    finding_2: str
    strength: float
    reached: float
    seed: int
    version: str
    accuracy: float
    raised_gap: float
    lowered_gap: float
    valid: bool
    films: int
    region_count: int
    seconds: float
    cpu_seconds: float
    training_seconds: float
    method: str = ""
    precision_10: float = math.nan
    precision_25: float = math.nan
    touching_10: float = math.nan
    right_class: bool = False
    accuses: bool = False
    true_rank: int = 0
    tested_true: int = 0
    confirmed_true: int = 0
    tested_other: int = 0
    confirmed_other: int = 0
    shortcuts: int = 0
    reviewed: int = 0
    pairs_found: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A setting that was run.

    Attributes
    ----------
    rows : tuple of MethodRow - one a method, or one alone
    answers : Answers or None - None where the planted pair was not learned, or where all regions
        are embedded alike
    """

    rows: tuple[MethodRow, ...]
    films: SettingFilms
    model: SmallModel
    evidence: RegionEvidence
    answers: Answers | None


def run_setting(
    setting: Setting,
    pool: FilmPool,
    cache: Cache,
    device: str = "cpu",
    progress: Progress = lambda stage, done, total: None,
) -> Trial:
    """Run a setting.

    Parameters
    ----------
    pool : FilmPool - of its domain and seed
    cache : Cache - of the pre-trained models
    device : str - that the model is trained and asked on

    Raises
    ------
    DataError
        Too few films to train on.
    """
    start = pretrained_folder(setting.architecture, pool, cache, device)
    begun = time.perf_counter(), time.process_time()
    films = make_films(setting, pool)
    progress(f"train: {setting.label()}", 0, 1)
    model = train_small_model(
        setting.architecture,
        normalise_films(films.finetune.pixels),
        films.finetune.labels,
        pool.prompts,
        fine_tuning_recipe(setting.architecture, setting.seed),
        device,
        start=start,
    )
    trained = time.perf_counter() - begun[0]
    seen = _validation(films.validation, setting)
    evidence = embed_split(model.encoder, seen, propose_regions(seen, setting), pool.prompts)
    row = _model_row(setting, films, evidence, trained)
    answers = None
    if row.valid or setting.kind == "null":
        config = setting_config(pool.prompts, setting.seed)
        structures = None
        if setting.domain == "phantoms":
            structures = structure_reader(
                built_in_segmenter(),
                lambda film: seen.pixels[film].astype(np.float32) / np.float32(255.0),
            )
        progress(f"ask every method: {setting.label()}", 0, 1)
        with suppress(DataError):  # all regions look alike to this model: it cannot be audited
            answers = answer_all(
                evidence, model.encoder, config, relevance_of(setting.domain), structures
            )
    took = time.perf_counter() - begun[0], time.process_time() - begun[1]
    row = replace(row, seconds=round(took[0], 2), cpu_seconds=round(took[1], 2))
    rows = tuple(_method_rows(row, evidence, answers)) if answers is not None else (row,)
    return Trial(rows, films, model, evidence, answers)


def propose_regions(films: SplitFilms, setting: Setting) -> list[NDArray[np.float32]]:
    """Cut films into regions: tiles, quadrants for digits, or what the segmenter finds."""
    side = films.pixels.shape[-1]
    if setting.regions == "tiles":
        tiles = cut_tiles(side, side, *_TILES.get(setting.domain, _DEFAULT_TILES))
        return [tiles.astype(np.float32)] * len(films)
    config = RegionsConfig(sources=("artifacts", "anatomy"))
    proposer = RegionProposer(config, segmenter=built_in_segmenter())
    return [
        proposer.propose(Film(row, film.astype(np.float32) / np.float32(255.0), "", "")).boxes
        for row, film in enumerate(films.pixels)
    ]


def _validation(films: SplitFilms, setting: Setting) -> SplitFilms:
    """Films to audit; fewer of them where a segmenter proposes the regions."""
    if setting.regions == "tiles" or len(films) <= _STRUCTURE_FILMS:
        return films
    rows = slice(0, _STRUCTURE_FILMS)
    things = tuple(
        replace(
            thing,
            present=thing.present[rows],
            boxes=thing.boxes[thing.film < _STRUCTURE_FILMS],
            film=thing.film[thing.film < _STRUCTURE_FILMS],
            masks=None if thing.masks is None else thing.masks[rows],
        )
        for thing in films.things
    )
    return SplitFilms(films.pixels[rows], films.labels[rows], films.patients[rows], things)


def _model_row(
    setting: Setting, films: SettingFilms, evidence: RegionEvidence, trained: float
) -> MethodRow:
    """Return what is known of the model, whatever the method."""
    gaps = [
        learned_gaps(evidence.films.labels, evidence.scores.predictions, thing)
        for thing in evidence.films.things
    ]
    least = min(gaps, key=min)
    second = setting.pairs[1] if len(setting.pairs) > 1 else None
    return MethodRow(
        digest=setting.digest,
        group=setting.group,
        domain=setting.domain,
        kind=setting.kind,
        architecture=setting.architecture,
        regions=setting.regions,
        thing=setting.pairs[0].thing,
        finding=setting.pairs[0].finding,
        thing_2=second.thing if second else "",
        finding_2=second.finding if second else "",
        strength=setting.strength,
        reached=round(min(films.reached), 4),
        seed=setting.seed,
        version=__version__,
        accuracy=float(evidence.correct.mean()),
        raised_gap=least[0],
        lowered_gap=least[1],
        valid=setting.kind != "null" and min(least) > LEARNED,
        films=len(evidence.films),
        region_count=len(evidence.region),
        seconds=math.nan,
        cpu_seconds=math.nan,
        training_seconds=round(trained, 2),
    )


def _method_rows(row: MethodRow, evidence: RegionEvidence, answers: Answers) -> Iterator[MethodRow]:
    planted = evidence.films.things if row.kind != "null" else ()
    tested = count_tested(answers, planted)
    for method in METHODS:
        ranked = answers.ranked[method]
        one = replace(row, method=method, accuses=ranked.accuses)
        if planted:
            scores = score_ranking(ranked, planted, evidence)
            one = replace(
                one,
                precision_10=scores[0],
                precision_25=scores[1],
                touching_10=scores[2],
                right_class=scores[3],
                true_rank=true_cluster_rank(members_of(method, answers), planted, evidence),
            )
        if method == OURS:
            counting = [c for c in answers.correlations if c.counts]
            one = replace(
                one,
                tested_true=tested[0],
                confirmed_true=tested[1],
                tested_other=tested[2],
                confirmed_other=tested[3],
                shortcuts=sum(c.kind == "shortcut" for c in counting),
                reviewed=sum(c.kind == "undecided" for c in counting),
                pairs_found=count_pairs_found(evidence, answers, planted),
            )
        yield one
