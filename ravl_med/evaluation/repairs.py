"""Repairs of what was found in a setting, by every arm and by ours with parts left out.

The steps are those of a mitigation: regions of the films to fine-tune on go to the medoids of the
audit, removal locates the features in them, and all arms train from the audited model under one
recipe; some also start from the weights before that. Only what this tool has found is repaired: the
shortcuts that count, and where there is none what is undecided and counts, as if a reviewer had
named it. A model that knows little without the shortcut's help is not repaired: no arm could show
anything on it. The groups that the arms are judged by are those of the truth, on films that nobody
has touched. Beside the arms stand a guesser, and a model that was trained on the same films with
the mark on half of each class: what repair could reach.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ravl_med.config.loading import Config
from ravl_med.discovery.candidates import ANYWHERE, FeatureDetector, nearest_medoids
from ravl_med.discovery.effect_features import detect_feature
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.opening import open_model_folder
from ravl_med.encoders.zero_shot import embed_classes
from ravl_med.evaluation.methods import CHOSEN, OURS, OurAnswer
from ravl_med.evaluation.planting import FilmPool, SplitFilms, learned_gaps, make_films, plant_test
from ravl_med.evaluation.settings import RECIPE, TAU, Setting, setting_config
from ravl_med.evaluation.small_models import (
    MEAN,
    STD,
    RegionEvidence,
    embed_split,
    pool_regions,
    pretrained_folder,
)
from ravl_med.evaluation.trial import MethodRow, Trial, propose_regions, train_model
from ravl_med.evidence.confirmation import split_patients
from ravl_med.evidence.counterfactual import CounterfactualModel, prepare_inputs
from ravl_med.evidence.counterfactual.fills import Interpolation
from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.mitigation.arms import ARMS, Arm, ImageTower, Tower
from ravl_med.mitigation.distributed import make_fabric
from ravl_med.mitigation.fine_tuning_set import (
    FineTuningSet,
    GrayFilms,
    RegionTable,
    ReportTable,
    embed_reports,
)
from ravl_med.mitigation.spurious_regions import (
    PseudoGroups,
    find_co_occurring,
    find_features,
    locate_carriers,
)
from ravl_med.mitigation.training import ArmTraining, SelectionFilms, predict_films_and_regions
from ravl_med.storage.cache import Cache

BASE = "counterfactual"
"""The arm that parts are left out of."""

_LESS, _MORE = 0.5, 0.95  # lambda, about the 0.8 of the paper
ABOVE = 0.15
"""A model enters if its accuracy on films without any mark is so far above the largest class."""


@dataclass(frozen=True, slots=True)
class Repair:
    """One way to fine-tune.

    Attributes
    ----------
    title : str - how pages call it
    clip_weight : float or None - lambda, of L_CLIP; None: the config's
    reduction : {"sum", "mean"} - of the region losses over a batch, where the arm does not say
    pretrained : bool - it starts from the weights that the audited model started from
    """

    title: str
    arm: Arm
    clip_weight: float | None = None
    reduction: Literal["sum", "mean"] = "sum"
    pretrained: bool = False


_RAVL = {
    "ravl": Repair("RaVL, summed over the batch", ARMS["ravl"]),
    "ravl_mean": Repair("RaVL, averaged over the batch", ARMS["ravl"], reduction="mean"),
}
_STARTED_BEFORE = {
    f"{name}_pretrained": replace(one, title=f"{one.title}, from the start", pretrained=True)
    for name, one in {
        "standard": Repair(ARMS["standard"].title, ARMS["standard"]),
        **_RAVL,
        BASE: Repair(ARMS[BASE].title, ARMS[BASE]),
    }.items()
}
REPAIRS: Mapping[str, Repair] = {
    **{name: Repair(arm.title, arm) for name, arm in ARMS.items()},
    **_RAVL,
    **_STARTED_BEFORE,
    "relevance": Repair("exchange and L_R", replace(ARMS[BASE], terms=("relevance",))),
    "alignment": Repair("exchange and L_A", replace(ARMS[BASE], terms=("alignment",))),
    "less_clip": Repair(f"exchange, L_R and L_A, lambda {_LESS:g}", ARMS[BASE], _LESS),
    "more_clip": Repair(f"exchange, L_R and L_A, lambda {_MORE:g}", ARMS[BASE], _MORE),
}
"""By name; the first are those of `ARMS`."""

ABLATIONS = ("relevance", "alignment", "less_clip", "more_clip")


def choose_repairs(*, arms: bool, ablations: bool) -> tuple[str, ...]:
    """Return the names that are asked for: every arm, and ours with parts left out."""
    own = tuple(name for name in REPAIRS if name not in ABLATIONS)
    return (*(own if arms else ()), *(ABLATIONS if ablations else ()))


BEFORE, GUESS, CLEAN = "before", "guess", "clean"
"""Beside the arms: the audited model, a guesser, and a model trained without the correlation."""

_GUESSES = 50


@dataclass(frozen=True, slots=True)
class ArmOfSetting:
    """One arm on the final test of one setting, groups by the truth.

    Attributes
    ----------
    precision_10 : float - of our discovery, on the same setting, by fitted boxes
    bare, majority : float - accuracy on films without any mark, and the share of the largest class
    reason : str - why nothing was repaired; blank where it was
    arm : str - of `REPAIRS`, or `BEFORE`, `GUESS`, `CLEAN`; blank where nothing was repaired
    smallest : int - films of the smallest group
    raised_gap, lowered_gap : float - of the validity test
    seconds : float - of the training
    """

    digest: str
    group: str
    domain: str
    architecture: str
    strength: float
    seed: int
    recipe: int
    precision_10: float
    bare: float
    majority: float
    reason: str = ""
    arm: str = ""
    image_overall: float = math.nan
    image_worst: float = math.nan
    region_overall: float = math.nan
    region_worst: float = math.nan
    raised_gap: float = math.nan
    lowered_gap: float = math.nan
    smallest: int = 0
    seconds: float = math.nan


def mitigate_setting(
    setting: Setting,
    pool: FilmPool,
    trial: Trial,
    cache: Cache,
    device: str = "cpu",
    arms: Sequence[str] = tuple(REPAIRS),
) -> list[ArmOfSetting]:
    """Repair what our protocol found, by several of `REPAIRS`; a row for each, and those beside.

    There is one row without an arm, and with the reason, where there is nothing to repair. Arms
    that start before the audited model are left out where that started from nothing.
    """
    arm_of, alone = _arms_of(trial.rows), left_alone(trial.rows)
    if alone:
        return alone
    found = [] if trial.ours is None else _to_repair(trial.ours)
    if not found:
        return [arm_of("nothing found")]
    fabric = make_fabric(device)
    config = setting_config(pool.prompts, setting.seed)
    films, selection = _prepare(pool, trial, found, config)
    test = FinalTest.of(setting, pool)
    before = pretrained_folder(setting.architecture, pool, cache, device)
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch) / "model"
        trial.encoder.save(start)
        audited = _Start.of(start, pool, films)
        earlier = None if before is None else _Start.of(before, pool, films)
        outcomes = [
            arm_of("", BEFORE, *test.of_model(audited.encoder), math.nan),
            arm_of("", GUESS, *test.of_guesser(setting.seed), math.nan),
        ]
        clean, seconds = _train_clean(setting, pool, before, device)
        outcomes.append(arm_of("", CLEAN, *test.of_model(clean), seconds))
        for name in arms:
            repair, rules = REPAIRS[name], config.mitigation
            begin = earlier if repair.pretrained else audited
            if begin is None:
                continue
            change: dict[str, object] = {"reduction": repair.reduction}
            if repair.clip_weight is not None:
                change["clip_weight"] = repair.clip_weight
            own = rules.model_copy(update=change)
            trained = ArmTraining(
                repair.arm, begin.folder, begin.films, selection, begin.classes, own
            )(fabric)
            measured = test.of_tower(trained.tower, begin.classes)
            outcomes.append(arm_of("", name, *measured, trained.curve.seconds))
    return outcomes


def left_alone(rows: Sequence[MethodRow]) -> list[ArmOfSetting]:
    """Return the one row, with the reason, of a model that is not repaired whatever is found in it.

    `rows` are those of one setting, at least one. Nothing is returned of a model that is repaired.
    """
    model = rows[0]
    against = {"null": model.kind == "null", "not learned": not model.valid}
    against["knows too little"] = model.bare < model.majority + ABOVE
    reason = next((why for why, holds in against.items() if holds), "")
    return [_arms_of(rows)(reason)] if reason else []


def _arms_of(rows: Sequence[MethodRow]) -> partial[ArmOfSetting]:
    """Return what makes a row of an arm of a setting."""
    m = rows[0]
    precision = next((row.fitted_10 for row in rows if row.method == OURS), math.nan)
    of_setting = (m.digest, m.group, m.domain, m.architecture, m.strength, m.seed, RECIPE)
    return partial(ArmOfSetting, *of_setting, precision, m.bare, m.majority)


@dataclass(frozen=True, slots=True, eq=False)
class _Start:
    """Weights that arms start from; class texts and reports are those of its frozen text tower."""

    folder: Path
    encoder: Encoder
    films: FineTuningSet
    classes: NDArray[np.float32]

    @classmethod
    def of(cls, folder: Path, pool: FilmPool, films: FineTuningSet) -> _Start:
        encoder = open_model_folder(folder, torch.device("cpu"))
        texts = [pool.prompts[pool.classes[label]][0] for label in films.labels]
        own = replace(films, reports=embed_reports(encoder, texts))
        return cls(folder, encoder, own, embed_classes(encoder, pool.prompts))


def _train_clean(
    setting: Setting, pool: FilmPool, start: Path | None, device: str
) -> tuple[Encoder, float]:
    """Train a model on the same films, with the mark on half of each class."""
    free = make_films(replace(setting, kind="null", strength=0.0), pool).finetune
    begun = time.perf_counter()
    encoder = train_model(setting, free, pool, start, device)
    return encoder, round(time.perf_counter() - begun, 1)


@dataclass(frozen=True, slots=True, eq=False)
class FinalTest:
    """The films that arms are judged by, in groups by the truth."""

    films: SplitFilms
    prompts: Mapping[str, Sequence[str]]
    store: GrayFilms
    regions: RegionTable
    groups: PseudoGroups

    @classmethod
    def of(cls, setting: Setting, pool: FilmPool) -> FinalTest:
        """Plant the marks on the films of the final test, where they are free."""
        test = plant_test(setting, pool)
        present = np.any([feature.present for feature in test.features], axis=0)
        groups = PseudoGroups.cross(test.labels, present, pool.classes)
        return cls(test, pool.prompts, _store(test), _region_table(test, setting), groups)

    def of_model(self, encoder: Encoder) -> Measured:
        """Measure a model with its own class texts."""
        return self.of_tower(ImageTower(encoder.model), embed_classes(encoder, self.prompts))

    def of_tower(self, tower: Tower, classes: NDArray[np.float32]) -> Measured:
        """Measure an image tower."""
        texts = torch.from_numpy(classes)
        said = predict_films_and_regions(tower, self.store, self.regions, texts, TAU)
        assert said.region_class is not None  # small models have regions
        return self._measure(said.logits.argmax(axis=1).astype(np.int64), said.region_class)

    def of_guesser(self, seed: int) -> Measured:
        """Return the mean over guesses of films and regions by chance."""
        rng = np.random.default_rng([seed, 53])
        shape = (2, len(self.films))
        drawn = [rng.integers(len(self.prompts), size=shape) for _ in range(_GUESSES)]
        rows = np.array([self._measure(*guess)[:-1] for guess in drawn])
        overall, worst, regions, regions_worst, raised, lowered = rows.mean(axis=0).tolist()
        return overall, worst, regions, regions_worst, raised, lowered, self._smallest

    @property
    def _smallest(self) -> int:
        return int(self.groups.used().sizes().min())

    def _measure(self, films: NDArray[np.int64], regions: NDArray[np.int64]) -> Measured:
        """Overall and worst-group accuracy of films and of regions; gaps; the smallest group."""
        labels = self.films.labels
        measured: list[float] = []
        for answer in (films, regions):
            right = np.asarray(answer == labels)
            measured += [float(right.mean()), float(np.nanmin(self.groups.accuracy(right)))]
        gaps = max((learned_gaps(labels, films, t) for t in self.films.features), key=max)
        return measured[0], measured[1], measured[2], measured[3], *gaps, self._smallest


Measured = tuple[float, float, float, float, float, float, int]
"""Accuracy of films, over all and of the worst group, the same of regions, raised and lowered gap,
and the films of the smallest group."""


def _to_repair(answers: OurAnswer) -> list[SpuriousCorrelation]:
    counting = [one for one in answers.correlations if one.counts]
    shortcuts = [one for one in counting if one.kind == "shortcut"]
    return shortcuts or [one for one in counting if one.kind == "undecided"]


def _prepare(
    pool: FilmPool, trial: Trial, wanted: Sequence[SpuriousCorrelation], config: Config
) -> tuple[FineTuningSet, SelectionFilms]:
    """Locate the features in the films to fine-tune on; choose epochs on the discovery half."""
    assert trial.ours is not None
    ours, encoder = trial.ours, trial.encoder
    detectors = [
        detect_feature(one.cluster, ours.clusters, ours.evidence.region, ours.proposed)
        for one in wanted
    ]
    validation = ours.evidence
    pool_regions(encoder, CHOSEN[OURS].pooling)
    split = trial.films.finetune
    taught = embed_split(encoder, split, propose_regions(split, trial.setting), pool.prompts)
    model = taught.counterfactual_model(encoder, None)
    found = _find(detectors, taught, model)
    spurious = np.asarray(found.any(axis=1))
    located = [
        locate_carriers(
            prepare_inputs(
                model,
                one.raised_class,
                one.lowered_class,
                taught.data,
                like=Interpolation(model.read),
            ),
            own,
        )
        for one, own in zip(detectors, found.T, strict=True)
    ]
    film, boxes = (np.concatenate(parts) for parts in zip(*located, strict=True))
    order = np.argsort(film, kind="stable")
    carriers = RegionTable.of(boxes[order], film[order], len(split))
    half = split_patients(
        validation.data.patients,
        validation.films.labels,
        config.evidence.discovery_share,
        config.evidence.seed,
    )
    holds = _find(detectors, validation, validation.counterfactual_model(encoder, None))
    seen = np.asarray(holds.any(axis=1))
    there = _films_of(validation, seen)
    along = _companions(detectors, taught, validation, there, half, config)
    along &= carriers.counts()[taught.region_image] > 0
    films = FineTuningSet(
        films=_store(split),
        reports=ReportTable(np.empty((0, 0), np.float32), np.empty(0, np.int64)),  # not yet
        labels=split.labels,
        present=_films_of(taught, spurious),
        regions=RegionTable.of(taught.region_boxes, taught.region_image, len(split)),
        spurious=spurious,
        carriers=carriers,
        companions=RegionTable.of(
            taught.region_boxes[along], taught.region_image[along], len(split)
        ),
    )
    labels = validation.films.labels
    groups = PseudoGroups.cross(labels, there, pool.classes)
    least = config.mitigation.min_group
    return films, SelectionFilms.of(_store(validation.films), half, groups, labels, least)


def _find(
    detectors: Sequence[FeatureDetector], films: RegionEvidence, model: CounterfactualModel
) -> NDArray[np.bool_]:
    """Regions of films that belong to the features, (R, F)."""
    texture = prepare_inputs(model, 0, None, films.data).texture
    return find_features(detectors, films.region, films.data.region_shares(), texture)


def _companions(
    detectors: Sequence[FeatureDetector],
    taught: RegionEvidence,
    validation: RegionEvidence,
    there: NDArray[np.bool_],
    half: NDArray[np.bool_],
    config: Config,
) -> NDArray[np.bool_]:
    """Regions (R,) of the films to fine-tune on that travel with the features."""
    along = np.zeros(len(taught.region_image), dtype=np.bool_)
    labels, lift = validation.films.labels[half], config.mitigation.companion_lift
    own = (one for one in detectors if one.place == ANYWHERE)  # others come from no partition
    for medoids in {one.medoids.tobytes(): one.medoids for one in own}.values():
        holds = np.zeros((len(validation.films), len(medoids)), dtype=np.bool_)
        holds[validation.region_image, nearest_medoids(medoids, validation.region)] = True
        beside = find_co_occurring(holds[half], there[half], labels, lift)
        along |= np.isin(nearest_medoids(medoids, taught.region), beside)
    return along


def _films_of(evidence: RegionEvidence, regions: NDArray[np.bool_]) -> NDArray[np.bool_]:
    there = np.zeros(len(evidence.films), dtype=np.bool_)
    there[evidence.region_image[regions]] = True
    return there


def _store(films: SplitFilms) -> GrayFilms:
    return GrayFilms(films.pixels, np.arange(len(films), dtype=np.int64), (MEAN,) * 3, (STD,) * 3)


def _region_table(films: SplitFilms, setting: Setting) -> RegionTable:
    boxes = propose_regions(films, setting)
    film = np.repeat(np.arange(len(films), dtype=np.int64), [len(own) for own in boxes])
    return RegionTable.of(np.concatenate(boxes), film, len(films))
