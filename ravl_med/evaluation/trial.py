"""One setting from its films to its rows: plant, train, ask every method, score the answers.

RaVL's validity test finds the models that did not learn what was planted before any method is
asked; they keep a row without methods.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ravl_med import __version__
from ravl_med.cohort.film import Film
from ravl_med.config.cohort import RegionsConfig
from ravl_med.encoders.open_clip import OpenClipEncoder
from ravl_med.errors import DataError
from ravl_med.evaluation import planting
from ravl_med.evaluation.methods import (
    METHODS,
    OURS,
    Answers,
    RankedRegions,
    our_ranking,
    rank_by_all_methods,
)
from ravl_med.evaluation.settings import Setting, relevance_of, setting_config
from ravl_med.evaluation.small_models import (
    RegionEvidence,
    embed_split,
    fine_tuning_recipe,
    normalise_films,
    pretrained_folder,
    train_small_model,
)
from ravl_med.pipeline.stages import structure_reader
from ravl_med.pipeline.truth import precision_at
from ravl_med.regions.proposal import RegionProposer
from ravl_med.regions.region_set import cut_tiles
from ravl_med.regions.segmenter import built_in_segmenter
from ravl_med.storage.cache import Cache

_TILES = {"digits": (2, 2), "mnist": (2, 2)}
_DEFAULT_TILES = (6, 6)
_STRUCTURE_FILMS = 400  # the segmenter takes 70 ms a film
_FOUND = 0.6  # precision at 10 from which RaVL calls a discovery right
_TRAVELS = 0.5  # phi of cluster and feature from which a candidate is the planted one
_STRANGER = 0.2  # and up to which it has nothing to do with it

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method on one setting; the fields up to `training_seconds` are the same for all methods.

    A model is valid where both gaps of RaVL's validity test exceed 10 points; null settings have
    nothing to learn and are not valid. The last seven fields are those of our own protocol.
    """

    digest: str
    group: str  # of the setting, whatever its seed
    domain: str
    kind: str
    architecture: str
    regions: str
    feature: str
    finding: str
    feature_2: str  # blank where one pair is planted
    finding_2: str
    strength: float  # Cramer's V that was asked for
    reached: float  # and reached on the films to fine-tune on
    seed: int
    version: str  # of this package
    accuracy: float  # zero-shot, on the validation films
    raised_gap: float  # of the pair that was learned least
    lowered_gap: float
    valid: bool
    films: int
    region_count: int
    seconds: float  # of the whole setting
    cpu_seconds: float
    training_seconds: float
    method: str = ""  # blank where no method was asked
    precision_10: float = math.nan  # share of the first regions that lie on the feature
    precision_25: float = math.nan
    touching_10: float = math.nan  # the same, where any common area counts
    right_class: bool = False  # the planted class is named as raised
    accuses: bool = False  # it says that there is a shortcut
    true_rank: int = 0  # place of the true cluster among its candidates, from 1; 0: none
    tested_true: int = 0  # candidates that travel with the feature
    confirmed_true: int = 0
    tested_other: int = 0  # candidates that do not
    confirmed_other: int = 0
    shortcuts: int = 0  # correlations that count, of kind shortcut
    reviewed: int = 0  # and undecided
    pairs_found: int = 0  # pairs of which one that counts names the class and the place


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
    films: planting.SettingFilms
    encoder: OpenClipEncoder
    evidence: RegionEvidence
    answers: Answers | None


def run_setting(
    setting: Setting,
    pool: planting.FilmPool,
    cache: Cache,
    device: str = "cpu",
    progress: Progress = lambda stage, done, total: None,
) -> Trial:
    """Run a setting on the films of a pool of its domain and seed.

    Raises
    ------
    DataError
        Too few films to train on.
    """
    start = pretrained_folder(setting.architecture, pool, cache, device)
    begun = time.perf_counter(), time.process_time()
    films = planting.make_films(setting, pool)
    progress(f"train: {setting.label()}", 0, 1)
    encoder = train_small_model(
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
    evidence = embed_split(encoder, seen, propose_regions(seen, setting), pool.prompts)
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
            answers = rank_by_all_methods(
                evidence, encoder, config, relevance_of(setting.domain), structures
            )
    took = time.perf_counter() - begun[0], time.process_time() - begun[1]
    row = replace(row, seconds=round(took[0], 2), cpu_seconds=round(took[1], 2))
    rows = tuple(_method_rows(row, evidence, answers)) if answers is not None else (row,)
    return Trial(rows, films, encoder, evidence, answers)


def propose_regions(films: planting.SplitFilms, setting: Setting) -> list[NDArray[np.float32]]:
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


def _validation(films: planting.SplitFilms, setting: Setting) -> planting.SplitFilms:
    """Films to audit; fewer of them where a segmenter proposes the regions."""
    if setting.regions == "tiles" or len(films) <= _STRUCTURE_FILMS:
        return films
    rows = slice(0, _STRUCTURE_FILMS)
    features = tuple(
        replace(
            feature,
            present=feature.present[rows],
            boxes=feature.boxes[feature.film < _STRUCTURE_FILMS],
            film=feature.film[feature.film < _STRUCTURE_FILMS],
            masks=None if feature.masks is None else feature.masks[rows],
        )
        for feature in films.features
    )
    return planting.SplitFilms(
        films.pixels[rows], films.labels[rows], films.patients[rows], features
    )


_OF_SETTING = (
    "digest", "group", "domain", "kind", "architecture", "regions", "strength", "seed",
)  # fmt: skip


def _model_row(
    setting: Setting, films: planting.SettingFilms, evidence: RegionEvidence, trained: float
) -> MethodRow:
    """Return what is known of the model, whatever the method."""
    gaps = [
        planting.learned_gaps(evidence.films.labels, evidence.scores.predictions, feature)
        for feature in evidence.films.features
    ]
    least = min(gaps, key=min)
    second = setting.pairs[1] if len(setting.pairs) > 1 else None
    return MethodRow(
        **{name: getattr(setting, name) for name in _OF_SETTING},
        feature=setting.pairs[0].feature,
        finding=setting.pairs[0].finding,
        feature_2=second.feature if second else "",
        finding_2=second.finding if second else "",
        reached=round(min(films.reached), 4),
        version=__version__,
        accuracy=float(evidence.correct.mean()),
        raised_gap=least[0],
        lowered_gap=least[1],
        valid=setting.kind != "null" and min(least) > planting.LEARNED,
        films=len(evidence.films),
        region_count=len(evidence.region),
        seconds=math.nan,
        cpu_seconds=math.nan,
        training_seconds=round(trained, 2),
    )


def _method_rows(row: MethodRow, evidence: RegionEvidence, answers: Answers) -> Iterator[MethodRow]:
    planted = evidence.films.features if row.kind != "null" else ()
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


def score_ranking(
    ranked: RankedRegions, features: Sequence[planting.PlacedFeature], evidence: RegionEvidence
) -> tuple[float, float, float, bool]:
    """Score a ranked list against the truth, by the planted feature that it shows best.

    Returned are precision at 10 and at 25, the same at 10 where any common area counts, and whether
    the class is right. Missing regions count as misses.
    """
    first = ranked.regions[:25]
    boxes = evidence.region_boxes[first] if ranked.boxes is None else ranked.boxes[:25]
    film = evidence.region_image[first]
    best = (-1.0, -1.0, -1.0, False)
    for feature in features:
        hits = planting.regions_on(feature, boxes, film).tolist()
        touched = planting.regions_on(feature, boxes, film, touching=True).tolist()
        right = ranked.raised_class == feature.target
        scores = precision_at(hits, 10), precision_at(hits, 25), precision_at(touched, 10), right
        best = max(best, scores)
    return best


def true_cluster_rank(
    members: Sequence[NDArray[np.int64]],
    features: Sequence[planting.PlacedFeature],
    evidence: RegionEvidence,
) -> int:
    """Return the place, from 1, of the first cluster that is mostly the feature; 0 without one.

    A cluster is the feature where half of its members, regions (m,), touch it.
    """
    if not members or not features:
        return 0
    touched = np.zeros(len(evidence.region), dtype=np.bool_)
    for feature in features:
        touched |= planting.regions_on(
            feature, evidence.region_boxes, evidence.region_image, touching=True
        )
    for place, regions in enumerate(members, start=1):
        if len(regions) and touched[regions].mean() >= 0.5:
            return place
    return 0


def members_of(method: str, answers: Answers) -> list[NDArray[np.int64]]:
    """Return the regions (m,) of each cluster that a method lists, in its order."""
    if method == OURS:
        return [c.cluster.regions for c in answers.correlations]
    if method == "pooled":
        return [c.regions for c in answers.examination.discovery.candidates]
    members = answers.ranked[method].members
    return [] if members is None else [members]


def count_tested(
    answers: Answers, planted: Sequence[planting.PlacedFeature]
) -> tuple[int, int, int, int]:
    """Count candidates that are the planted feature and strangers to it, and those confirmed.

    In null settings nothing is planted: all candidates are strangers.
    """
    counts = [0, 0, 0, 0]
    for candidate, outcome, _ in answers.examination.tested:
        cluster, confirmed = candidate.cluster, outcome.status == "confirmed"
        travels = [_phi(cluster.present, feature.present) for feature in planted]
        right = any(
            phi >= _TRAVELS and cluster.raised_class == feature.target
            for phi, feature in zip(travels, planted, strict=True)
        )
        if right:
            counts[0] += 1
            counts[1] += confirmed
        elif max(travels, default=0.0) < _STRANGER:
            counts[2] += 1
            counts[3] += confirmed
    return counts[0], counts[1], counts[2], counts[3]


def count_pairs_found(
    evidence: RegionEvidence, answers: Answers, planted: Sequence[planting.PlacedFeature]
) -> int:
    """Count planted features of which a correlation that counts names class and place."""
    found = 0
    for feature in planted:
        found += any(
            c.counts
            and c.cluster.raised_class == feature.target
            and score_ranking(our_ranking(c, evidence), [feature], evidence)[0] >= _FOUND
            for c in answers.correlations
        )
    return found


def _phi(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Phi of two flags (n,), of either sign; 0 where one is constant."""
    if a.all() or b.all() or not a.any() or not b.any():
        return 0.0
    return abs(float(np.corrcoef(a, b)[0, 1]))
