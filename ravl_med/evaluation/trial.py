"""One setting from its films to its rows: plant, train, ask every method, score the answers.

RaVL's validity test finds the models that did not learn what was planted before any method is
asked; they keep a row without methods. On the seeds that options are chosen on, every option of
every method is asked.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravl_med import __version__
from ravl_med.config.loading import Config
from ravl_med.config.model import RegionPooling
from ravl_med.encoders.open_clip import OpenClipEncoder
from ravl_med.errors import DataError
from ravl_med.evaluation import planting
from ravl_med.evaluation.films import VALIDATION
from ravl_med.evaluation.methods import (
    CHOSEN,
    METHODS,
    OPTIONS,
    OURS,
    Option,
    OurAnswer,
    Panel,
    RankedRegions,
    harm_of,
    our_ranking,
)
from ravl_med.evaluation.settings import (
    OBJECTS,
    RECIPE,
    TRIED,
    Setting,
    relevance_of,
    setting_config,
)
from ravl_med.evaluation.small_models import (
    RegionEvidence,
    embed_split,
    fine_tuning_recipe,
    normalise_films,
    pool_regions,
    pretrained_folder,
    train_small_model,
)
from ravl_med.evidence.model_checks import class_scores
from ravl_med.pipeline.stages import Progress
from ravl_med.pipeline.truth import precision_at
from ravl_med.regions.region_set import cut_tiles
from ravl_med.storage.cache import Cache

_TILES, _QUADRANTS = (6, 6), (2, 2)
FOUND = 0.6
"""Precision at 10 from which RaVL calls a discovery right."""
_TRAVELS = 0.5  # phi of cluster and feature from which a candidate is the planted one
_STRANGER = 0.2  # and up to which it has nothing to do with it
_STYLE_FILMS = 80


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method on one setting; the fields up to `problem` are the same for all methods.

    A model is valid where both gaps of RaVL's validity test exceed 10 points; null settings have
    nothing to learn and are not valid. The last fields are those of our own protocol.
    """

    digest: str
    group: str  # of the setting, whatever its seed
    domain: str
    kind: str
    architecture: str
    feature: str  # shape of the mark
    place: str
    inside: bool  # over anatomy where a finding of the chest shows
    radius: float  # share of the film's side
    contrast: float
    finding: str
    feature_2: str  # blank where one pair is planted
    finding_2: str
    strength: float  # Cramer's V that was asked for
    reached: float  # and reached on the films to fine-tune on
    seed: int
    version: str  # of this package
    recipe: int
    accuracy: float  # zero-shot, on the validation films
    bare: float  # on those without any mark
    majority: float  # share of the largest class among them
    raised_gap: float  # of the pair that was learned least
    lowered_gap: float
    valid: bool
    leak: float  # change of regions beside the mark by it, as a share of that of regions on it
    films: int
    region_count: int
    seconds: float  # of the whole setting
    cpu_seconds: float
    training_seconds: float
    use: float = math.nan  # how far the mark that is used least moves the margin, in sd
    problem: str = ""  # why no method was asked of a model that should have been
    method: str = ""  # blank where no method was asked
    option: str = ""
    precision_10: float = math.nan  # share of the first regions, as cut, that lie on the mark
    precision_25: float = math.nan
    touching_10: float = math.nan  # the same, where any common area counts
    fitted_10: float = math.nan  # of boxes that were fitted to where the effect lies
    right_class: bool = False  # the planted class is named as raised
    decides: bool = False  # the method has a rule that may say that there is no shortcut
    accuses: bool = False  # it says that there is a shortcut; ours: the verdict is fail
    asks: bool = False  # it asks a reviewer
    harm: float = math.nan  # what a gate would be set on
    true_rank: int = 0  # place of the true cluster among its candidates, from 1; 0: none
    verdict: str = ""
    tested_true: int = 0  # candidates that travel with the mark
    confirmed_true: int = 0
    tested_other: int = 0  # candidates that do not
    confirmed_other: int = 0
    pairs_found: int = 0  # pairs of which one that counts names the class and the place
    items: str = ""  # JSON: kind, counts, harm, right class and hits of what is used or counts


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A setting that was run.

    Attributes
    ----------
    rows : tuple of MethodRow - one a method, or one alone
    ours : OurAnswer or None - None where no method was asked
    """

    setting: Setting
    rows: tuple[MethodRow, ...]
    films: planting.SettingFilms
    encoder: OpenClipEncoder
    evidence: RegionEvidence
    ours: OurAnswer | None


def run_setting(
    setting: Setting,
    pool: planting.FilmPool,
    cache: Cache,
    device: str = "cpu",
    progress: Progress = lambda stage, done, total: None,
    known: Sequence[MethodRow] = (),
) -> Trial:
    """Run a setting on the films of a pool of its domain and seed.

    Methods are not asked again where `known`, rows of the setting, are of the model that is trained
    here: another kind of processor trains another one.

    Raises
    ------
    DataError
        Too few films to train on.
    """
    start = pretrained_folder(setting.architecture, pool, cache, device)
    begun = time.perf_counter(), time.process_time()
    films = planting.make_films(setting, pool)
    progress(f"train: {setting.label()}", 0, 1)
    encoder = train_model(setting, films.finetune, pool, start, device)
    trained, seen = time.perf_counter() - begun[0], films.validation

    def embed(pooling: RegionPooling, split: planting.SplitFilms = seen) -> RegionEvidence:
        pool_regions(encoder, pooling)
        return embed_split(encoder, split, propose_regions(split, setting), pool.prompts)

    panel = Panel(
        embed,
        encoder,
        _config_of(setting, pool),
        relevance_of(setting.domain),
        pool.structures(seen, VALIDATION, cache),
    )
    ours_at = panel.fitting(CHOSEN[OURS])
    evidence = panel.evidence(ours_at.pooling)
    row = _model_row(setting, films, evidence, trained)
    if not np.isfinite(evidence.region).all():
        row = replace(row, valid=False, problem="diverged")
    else:
        bare = pool.films.pixels[pool.films.rows(VALIDATION)]
        plain = embed(ours_at.pooling, replace(seen, pixels=bare))
        row = replace(row, leak=measure_leak(evidence, plain), use=measure_use(evidence, plain))
    same = bool(known) and _ANSWERS(row) == _ANSWERS(known[0])
    rows, ours = [*known] if same else [row], None
    if row.valid or (setting.kind == "null" and not row.problem):
        progress(f"ask every method: {setting.label()}", 0, 1)
        try:
            if not same:
                rows = [_ask(row, panel, method, option) for method, option in _questions(setting)]
            ours = panel.ours(ours_at)
        except DataError:  # all regions look alike to this model: it cannot be audited
            rows = [replace(row, valid=False, problem="regions alike")]
    if not same:
        took, used = time.perf_counter() - begun[0], time.process_time() - begun[1]
        rows = [replace(row, seconds=round(took, 2), cpu_seconds=round(used, 2)) for row in rows]
    return Trial(setting, tuple(rows), films, encoder, evidence, ours)


def train_model(
    setting: Setting,
    films: planting.SplitFilms,
    pool: planting.FilmPool,
    start: Path | None,
    device: str,
) -> OpenClipEncoder:
    """Train a model of a setting on films, from the weights of a folder or from nothing."""
    return train_small_model(
        setting.architecture,
        normalise_films(films.pixels),
        films.labels,
        pool.prompts,
        fine_tuning_recipe(setting.architecture, setting.seed),
        device,
        start=start,
    )


_ANSWERS = attrgetter("accuracy", "bare", "raised_gap", "lowered_gap", "use")  # of one model


def _config_of(setting: Setting, pool: planting.FilmPool) -> Config:
    """Return the config; what styles do is asked of fewer films, and of chest films alone."""
    config = setting_config(pool.prompts, setting.seed)
    films = 0 if setting.domain in OBJECTS else _STYLE_FILMS
    own = config.evidence.model_copy(update={"dependence_films": films})
    return config.model_copy(update={"evidence": own})


def _questions(setting: Setting) -> Iterator[tuple[str, Option]]:
    """Every method at the option that was chosen; to choose, at each of its own."""
    for method in METHODS:
        if method in OPTIONS and setting.seed in TRIED:
            yield from ((method, option) for option in OPTIONS[method])
        elif method in OPTIONS:
            yield method, CHOSEN[method]
        else:
            yield method, CHOSEN["ravl" if method.startswith("gap") else OURS]


def propose_regions(films: planting.SplitFilms, setting: Setting) -> list[NDArray[np.float32]]:
    """Cut films into tiles, those with an object into quadrants."""
    side = films.pixels.shape[-1]
    tiles = cut_tiles(side, side, *(_QUADRANTS if setting.domain in OBJECTS else _TILES))
    return [tiles.astype(np.float32)] * len(films)


def measure_leak(evidence: RegionEvidence, plain: RegionEvidence) -> float:
    """Return how much a mark changes regions beside it, as a share of how much it changes its own.

    Change is one less the cosine of a region's embedding on a film with the mark and on the same
    film without it (`plain`); regions on it are those that it touches. NaN: it has no place, or
    there are several.
    """
    feature, *more = evidence.films.features
    own = np.flatnonzero(feature.present[evidence.region_image])
    change = 1.0 - np.einsum("rd,rd->r", evidence.region[own], plain.region[own])
    on = planting.regions_on(
        feature, evidence.region_boxes[own], evidence.region_image[own], touching=True
    )
    if more or not on.any() or on.all() or not change[on].mean() > 0:
        return math.nan
    return float(change[~on].mean() / change[on].mean())


def measure_use(evidence: RegionEvidence, plain: RegionEvidence) -> float:
    """Return how far a mark moves the model towards its class: of several, the least used one.

    That is how far the margin of the class falls where the mark is not painted (`plain`), on the
    mean of films of other classes, in standard deviations over all films. Gaps may be there though
    the model does not use the mark: few films of a class differ by chance. NaN: it answers every
    film alike.
    """
    films = evidence.films
    marks = np.sum([feature.present for feature in films.features], axis=0)
    with_it, without = (
        class_scores(np.log(np.maximum(one.scores.image, 1e-30)), 1.0) for one in (evidence, plain)
    )
    spread = with_it.std(axis=0)
    fall = (with_it - without) / np.where(spread > 0, spread, np.nan)
    return min(
        float(fall[f.present & (marks == 1) & (films.labels != f.target), f.target].mean())
        for f in films.features
    )


_OF_SETTING = ("digest", "group", "domain", "kind", "architecture", "strength", "seed")


def _model_row(
    setting: Setting, films: planting.SettingFilms, evidence: RegionEvidence, trained: float
) -> MethodRow:
    """Return what is known of the model, whatever the method."""
    audited = evidence.films
    gaps = [
        planting.learned_gaps(audited.labels, evidence.scores.predictions, feature)
        for feature in audited.features
    ]
    least = min(gaps, key=min)
    bare = ~np.any([feature.present for feature in audited.features], axis=0)
    first = setting.pairs[0]
    second = setting.pairs[1] if len(setting.pairs) > 1 else None
    return MethodRow(
        **{name: getattr(setting, name) for name in _OF_SETTING},
        feature=first.mark.shape,
        place=first.mark.place,
        inside=first.inside,
        radius=first.mark.radius,
        contrast=first.mark.contrast,
        finding=first.finding,
        feature_2=second.mark.shape if second else "",
        finding_2=second.finding if second else "",
        reached=round(min(films.reached), 4),
        version=__version__,
        recipe=RECIPE,
        accuracy=float(evidence.correct.mean()),
        bare=float(evidence.correct[bare].mean()),
        majority=float(np.bincount(audited.labels[bare]).max() / bare.sum()),
        raised_gap=least[0],
        lowered_gap=least[1],
        valid=setting.kind != "null" and min(least) > planting.LEARNED,
        leak=math.nan,
        films=len(audited),
        region_count=len(evidence.region),
        seconds=math.nan,
        cpu_seconds=math.nan,
        training_seconds=round(trained, 2),
    )


def _ask(row: MethodRow, panel: Panel, method: str, option: Option) -> MethodRow:
    """Ask a method and score its answer, as cut and with fitted boxes."""
    row, option = replace(row, method=method, option=option.label()), panel.fitting(option)
    ranked = panel.ask(method, option)
    evidence = panel.evidence(option.pooling)
    planted = evidence.films.features if row.kind != "null" else ()
    row = replace(
        row,
        decides=ranked.accuses is not None,
        accuses=bool(ranked.accuses),
        asks=ranked.asks,
        harm=ranked.score,
    )
    if planted:
        cut = replace(ranked, boxes=None)
        scores = score_ranking(cut, planted, evidence)
        fitted = panel.fit(ranked, option.pooling, 10)
        moved = replace(cut, regions=cut.regions[:10], boxes=fitted)
        members = [] if ranked.members is None else [ranked.members]
        if row.method in (OURS, "pooled"):
            members = _listed(row.method, panel.ours(option))
        row = replace(
            row,
            precision_10=scores[0],
            precision_25=scores[1],
            touching_10=scores[2],
            fitted_10=score_ranking(moved, planted, evidence)[0],
            right_class=scores[3],
            true_rank=true_cluster_rank(members, planted, evidence),
        )
    if row.method != OURS:
        return row
    ours = panel.ours(option)
    return replace(
        row,
        verdict=ours.verdict.name,
        **count_tested(ours, planted),
        pairs_found=count_pairs_found(ours, planted),
        items=_items(ours, planted),
    )


def _items(ours: OurAnswer, planted: Sequence[planting.PlacedFeature]) -> str:
    """Return what is used or counts, with its harm, so that a gate can be moved afterwards."""
    found = []
    for one in (c for c in ours.correlations if c.counts or c.used):
        hits = [
            score_ranking(our_ranking(one, ours.evidence), [feature], ours.evidence)[0]
            for feature in planted
            if feature.target == one.cluster.raised_class
        ]
        found.append(
            {
                "kind": one.kind,
                "counts": one.counts,
                "harm": round(harm_of(one), 4),
                "hits": max(hits, default=0.0),
                "right": bool(hits),
            }
        )
    return json.dumps(found)


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


def _listed(method: str, ours: OurAnswer) -> list[NDArray[np.int64]]:
    """Return the regions (m,) of each cluster that we list, in order."""
    if method == OURS:
        return [c.cluster.regions for c in ours.correlations]
    return [c.regions for c in ours.examination.discovery.candidates]


def count_tested(ours: OurAnswer, planted: Sequence[planting.PlacedFeature]) -> dict[str, Any]:
    """Count candidates that are the planted feature and strangers to it, and those confirmed.

    In null settings nothing is planted: all candidates are strangers.
    """
    counts = dict.fromkeys(("tested_true", "confirmed_true", "tested_other", "confirmed_other"), 0)
    for candidate, outcome, _ in ours.examination.tested:
        cluster, confirmed = candidate.cluster, outcome.status == "confirmed"
        travels = [_phi(cluster.present, feature.present) for feature in planted]
        right = any(
            phi >= _TRAVELS and cluster.raised_class == feature.target
            for phi, feature in zip(travels, planted, strict=True)
        )
        if right or max(travels, default=0.0) < _STRANGER:
            whose = "true" if right else "other"
            counts[f"tested_{whose}"] += 1
            counts[f"confirmed_{whose}"] += confirmed
    return counts


def count_pairs_found(ours: OurAnswer, planted: Sequence[planting.PlacedFeature]) -> int:
    """Count planted features of which a correlation that counts names class and place."""
    found = 0
    for feature in planted:
        found += any(
            c.counts
            and c.cluster.raised_class == feature.target
            and score_ranking(our_ranking(c, ours.evidence), [feature], ours.evidence)[0] >= FOUND
            for c in ours.correlations
        )
    return found


def _phi(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Phi of two flags (n,), of either sign; 0 where one is constant."""
    if a.all() or b.all() or not a.any() or not b.any():
        return 0.0
    return abs(float(np.corrcoef(a, b)[0, 1]))
