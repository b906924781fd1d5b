"""Repairs of what was found in a setting, by every arm and by ours with parts left out.

The steps are those of a mitigation: regions of the films to fine-tune on go to the medoids of the
audit, removal locates the features in them, and all arms train from the audited model under one
recipe. Only what this tool has found is repaired: the shortcuts that count, and where there is none
what is undecided and counts, as if a reviewer had named it. The groups that the arms are judged by
are those of the truth, on films that nobody has touched.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ravl_med.config.loading import Config
from ravl_med.discovery.candidates import FeatureDetector, nearest_medoids
from ravl_med.discovery.effect_features import detect_feature
from ravl_med.encoders.opening import open_model_folder
from ravl_med.evaluation.methods import OURS, Answers
from ravl_med.evaluation.planting import FilmPool, SplitFilms, learned_gaps, plant_test
from ravl_med.evaluation.settings import TAU, Setting, setting_config
from ravl_med.evaluation.small_models import MEAN, STD, RegionEvidence, embed_split
from ravl_med.evaluation.trial import Trial, propose_regions
from ravl_med.evidence.confirmation import split_patients
from ravl_med.evidence.counterfactual import prepare_inputs
from ravl_med.evidence.counterfactual.fills import Interpolation
from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.mitigation.arms import ARMS, Arm, ImageTower
from ravl_med.mitigation.distributed import make_fabric
from ravl_med.mitigation.final_test import Predictions
from ravl_med.mitigation.fine_tuning_set import FineTuningSet, GrayFilms, RegionTable, embed_reports
from ravl_med.mitigation.spurious_regions import (
    PseudoGroups,
    find_co_occurring,
    find_features,
    locate_carriers,
)
from ravl_med.mitigation.training import ArmTraining, SelectionFilms, predict_films_and_regions

BASE = "counterfactual"
"""The arm that parts are left out of."""

_LESS, _MORE = 0.5, 0.95  # lambda, about the 0.8 of the paper


@dataclass(frozen=True, slots=True)
class Repair:
    """One way to fine-tune.

    Attributes
    ----------
    title : str - how pages call it
    clip_weight : float or None - lambda, of L_CLIP; None: the config's
    """

    title: str
    arm: Arm
    clip_weight: float | None = None


REPAIRS: Mapping[str, Repair] = {
    **{name: Repair(arm.title, arm) for name, arm in ARMS.items()},
    "relevance": Repair("exchange and L_R", replace(ARMS[BASE], terms=("relevance",))),
    "alignment": Repair("exchange and L_A", replace(ARMS[BASE], terms=("alignment",))),
    "less_clip": Repair(f"exchange, L_R and L_A, lambda {_LESS:g}", ARMS[BASE], _LESS),
    "more_clip": Repair(f"exchange, L_R and L_A, lambda {_MORE:g}", ARMS[BASE], _MORE),
}
"""By name; the first are those of `ARMS`."""

ABLATIONS = tuple(name for name in REPAIRS if name not in ARMS)


def choose_repairs(*, arms: bool, ablations: bool) -> tuple[str, ...]:
    """Return the names that are asked for: every arm, and ours with parts left out."""
    return (*(ARMS if arms else ()), *(ABLATIONS if ablations else ()))


BEFORE = "before"
"""The audited model, beside the arms."""


@dataclass(frozen=True, slots=True)
class ArmOfSetting:
    """One arm on the final test of one setting, groups by the truth.

    Attributes
    ----------
    precision_10 : float - of our discovery, on the same setting
    arm : str - of `REPAIRS`, or `BEFORE`; blank where nothing was found that could be repaired
    raised_gap, lowered_gap : float - of the validity test
    seconds : float - of the training
    """

    digest: str
    group: str
    domain: str
    architecture: str
    strength: float
    seed: int
    precision_10: float
    arm: str = ""
    image_overall: float = math.nan
    image_worst: float = math.nan
    region_overall: float = math.nan
    region_worst: float = math.nan
    raised_gap: float = math.nan
    lowered_gap: float = math.nan
    seconds: float = math.nan


def mitigate_setting(
    setting: Setting,
    pool: FilmPool,
    trial: Trial,
    device: str = "cpu",
    arms: Sequence[str] = tuple(REPAIRS),
) -> list[ArmOfSetting]:
    """Repair what our protocol found, by several of `REPAIRS`; a row for each, and one before.

    There is one row without an arm where the model did not learn the pair, or where no correlation
    counts.
    """
    precision = next((row.precision_10 for row in trial.rows if row.method == OURS), math.nan)
    known = (
        setting.digest, setting.group, setting.domain, setting.architecture, setting.strength,
        setting.seed, precision,
    )  # fmt: skip
    answers = trial.answers
    found = [] if answers is None else _to_repair(answers)
    if answers is None or not found or setting.kind == "null":
        return [ArmOfSetting(*known)]
    config = setting_config(pool.prompts, setting.seed)
    detectors = [
        detect_feature(one.cluster, answers.clusters, trial.evidence.region, answers.proposed)
        for one in found
    ]
    films, selection = _prepare(setting, pool, trial, detectors, config)
    classes = torch.from_numpy(trial.evidence.class_embeddings)
    test = plant_test(setting, pool)
    store, regions = _store(test), _region_table(test, setting)

    def assess(tower: ImageTower, arm: str, seconds: float) -> ArmOfSetting:
        said = predict_films_and_regions(tower, store, regions, classes, TAU)
        return ArmOfSetting(*known, arm, *_measure(test, said, pool.classes), seconds)

    fabric = make_fabric(device)
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch) / "model"
        trial.encoder.save(start)
        audited = open_model_folder(start, torch.device("cpu"))
        outcomes = [assess(ImageTower(audited.model), BEFORE, math.nan)]
        for name in arms:
            repair, rules = REPAIRS[name], config.mitigation
            if repair.clip_weight is not None:
                rules = rules.model_copy(update={"clip_weight": repair.clip_weight})
            training = ArmTraining(
                repair.arm, start, films, selection, trial.evidence.class_embeddings, rules
            )
            trained = training(fabric)
            outcomes.append(assess(trained.tower, name, trained.curve.seconds))
    return outcomes


def _to_repair(answers: Answers) -> list[SpuriousCorrelation]:
    counting = [one for one in answers.correlations if one.counts]
    shortcuts = [one for one in counting if one.kind == "shortcut"]
    return shortcuts or [one for one in counting if one.kind == "undecided"]


def _prepare(
    setting: Setting,
    pool: FilmPool,
    trial: Trial,
    detectors: Sequence[FeatureDetector],
    config: Config,
) -> tuple[FineTuningSet, SelectionFilms]:
    """Locate the features in the films to fine-tune on; choose epochs on the discovery half."""
    encoder, validation = trial.encoder, trial.evidence
    split = trial.films.finetune
    taught = embed_split(encoder, split, propose_regions(split, setting), pool.prompts)
    found = find_features(detectors, taught.region, taught.data.region_shares())
    spurious = np.asarray(found.any(axis=1))
    model = taught.counterfactual_model(encoder, None)
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
    holds = find_features(detectors, validation.region, validation.data.region_shares())
    seen = np.asarray(holds.any(axis=1))
    there = _films_of(validation, seen)
    along = _companions(detectors, taught, validation, there, half, config)
    along &= carriers.counts()[taught.region_image] > 0
    films = FineTuningSet(
        films=_store(split),
        reports=embed_reports(
            encoder, [pool.prompts[pool.classes[label]][0] for label in split.labels]
        ),
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
    for medoids in {one.medoids.tobytes(): one.medoids for one in detectors}.values():
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


def _measure(
    test: SplitFilms, said: Predictions, classes: tuple[str, ...]
) -> tuple[float, float, float, float, float, float]:
    """Overall and worst-group accuracy of films and of regions, and the gaps."""
    present = np.any([feature.present for feature in test.features], axis=0)
    groups = PseudoGroups.cross(test.labels, present, classes)
    predictions = said.logits.argmax(axis=1).astype(np.int64)
    assert said.region_class is not None  # small models have regions
    measured: list[float] = []
    for answer in (predictions, said.region_class):
        right = np.asarray(answer == test.labels)
        measured += [float(right.mean()), float(np.nanmin(groups.accuracy(right)))]
    gaps = max((learned_gaps(test.labels, predictions, t) for t in test.features), key=max)
    return measured[0], measured[1], measured[2], measured[3], gaps[0], gaps[1]
