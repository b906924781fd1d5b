"""The final test of a mitigation, read once: every arm beside the audited model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ravl_med.evidence.mitigation_result import ArmOutcome, ArmRole, LearningCurve
from ravl_med.evidence.statistics import PatientBootstrap
from ravl_med.evidence.subgroups import attribute_strata
from ravl_med.mitigation.arms import (
    ARMS,
    Tower,
    feature_directions,
    project_texts,
    retrain_last_layer,
)
from ravl_med.mitigation.final_test import FinalTest, Predictions
from ravl_med.mitigation.training import TrainedArm, open_tower, predict_films_and_regions
from ravl_med.pipeline import stages
from ravl_med.pipeline.mitigation_setup import ExploredFilms, Setting
from ravl_med.pipeline.split_films import SplitFilms


@dataclass(frozen=True, slots=True, eq=False)
class FinalTestOutcome:
    """What the final test says of the arms."""

    films: SplitFilms  # of the test, as the audited model sees them
    outcomes: tuple[ArmOutcome, ...]  # the audited model first, the delivered one last
    predictions: Mapping[str, Predictions]
    shown: tuple[ArmOutcome, ...]  # the same as a report shows them


def run_final_test(
    setting: Setting,
    test: SplitFilms,
    explored: ExploredFilms,
    trained: Mapping[str, TrainedArm],
    device: torch.device,  # that the towers work on; they are on the CPU before and after
) -> FinalTestOutcome:
    """Measure every arm on the films that nobody touched."""
    config, final_test = setting.config, _final_test(setting, test)

    def predict(tower: Tower, title: str) -> Predictions:
        made = predict_films_and_regions(
            tower.to(device),
            test.films,
            test.regions,
            torch.from_numpy(setting.classes),
            config.task.temperature,
            setting.run.staged(f"final test: {title}"),
        )
        tower.to("cpu")
        return made

    _, tower = open_tower(setting.start, config.model.region_pooling, stages.questions_of(config))
    before = predict(tower, "the audited model")
    predictions = {"before": before}
    outcomes: list[ArmOutcome] = []

    def add(name: str, title: str, role: ArmRole, curve: LearningCurve | None = None) -> None:
        outcomes.append(
            ArmOutcome(
                name=name,
                title=title,
                role=role,
                published=ARMS[name].published if name in ARMS else True,
                delivered=name == config.mitigation.arm,
                curve=curve,
                **final_test.measure(before, predictions[name]),
            )
        )

    add("before", "audited model", "before")
    for name, (title, logits) in _heads(setting, test, explored).items():
        predictions[name] = Predictions(logits, None)
        add(name, title, "head")
    for name, arm in trained.items():
        predictions[name] = predict(arm.tower, ARMS[name].title)
        add(name, ARMS[name].title, "tower", arm.curve)
    shown = tuple(map(final_test.shown, outcomes))
    return FinalTestOutcome(test, tuple(outcomes), predictions, shown)


def _final_test(setting: Setting, test: SplitFilms) -> FinalTest:
    config, cohort = setting.config, test.cohort
    bootstrap = PatientBootstrap(cohort.patients, config.evidence.draws, config.evidence.seed)
    return FinalTest(
        labels=cohort.labels,
        classes=cohort.classes,
        present=test.present(test.find(setting.features)),
        sides=tuple((f.detector.raised_class, f.detector.lowered_class) for f in setting.features),
        axes=attribute_strata(cohort.attributes),
        bootstrap=bootstrap,
        confidence=config.evidence.confidence,
        min_group=config.mitigation.min_group,
        min_films=config.evidence.min_n,
        hidden_below=config.hidden_below,
    )


def _heads(
    setting: Setting, test: SplitFilms, explored: ExploredFilms
) -> dict[str, tuple[str, NDArray[np.float32]]]:
    """Titles and logits of the arms that train no tower."""
    config, films, half = setting.config, explored.films, explored.half
    heads: dict[str, tuple[str, NDArray[np.float32]]] = {}
    if not config.mitigation.heads or config.model.answers is not None:  # which come from a decoder
        return heads
    tested = np.asarray(test.embeddings.image)
    head = retrain_last_layer(
        np.asarray(films.embeddings.image)[half],
        films.cohort.labels[half],
        explored.groups(setting.features).of_film[half],
        len(films.cohort.classes),
        config.mitigation.seed,
    )
    if head is not None:
        title = "last-layer retraining (DFR), on the discovery half"
        heads["dfr"] = title, head.logits(tested)
    directions = feature_directions(films.region_parts(films.find(setting.features)))
    if len(directions):
        texts = project_texts(setting.classes, directions)
        logits = tested @ texts.T / config.task.temperature
        heads["projection"] = "class texts without the feature's direction", logits
    return heads
