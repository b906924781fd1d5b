"""The final test of a mitigation: every arm beside the audited model.

The audit of the new model, read against what the audit of the old one had confirmed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ravl_med.encoders.opening import open_folder
from ravl_med.evidence.mitigation_result import ArmOutcome, LearningCurve, MeasureName, Reaudit
from ravl_med.evidence.results import ConfirmedFeature, SpuriousCorrelation
from ravl_med.evidence.statistics import PatientBootstrap
from ravl_med.evidence.subgroups import attribute_strata, cramers_v
from ravl_med.mitigation.arms import ARMS, ImageTower
from ravl_med.mitigation.class_heads import feature_directions, project_texts, retrain_last_layer
from ravl_med.mitigation.final_test import Answered, FinalTest
from ravl_med.mitigation.groups import PseudoGroups
from ravl_med.mitigation.training import TrainedArm, ask_films_and_regions
from ravl_med.pipeline.mitigation_setup import Setting, staged
from ravl_med.pipeline.split_films import SplitFilms
from ravl_med.reporting.files.audit_run import Audit


def prove_arms(
    setting: Setting,
    test: SplitFilms,
    validation: SplitFilms,
    half: NDArray[np.bool_],
    trained: Mapping[str, TrainedArm],
    device: torch.device,
) -> tuple[tuple[ArmOutcome, ...], dict[str, Answered], frozenset[MeasureName]]:
    """Read the final test once, for every arm.

    Parameters
    ----------
    half : ndarray of shape (N,), bool - validation films of the discovery half
    device : torch.device - that the towers are asked on; they are on the CPU before and after

    Returns
    -------
    outcomes : tuple of ArmOutcome - the audited model first, the delivered one last
    untold : frozenset - classes, groups and subgroups that a report does not tell
    """
    config, texts = setting.config, setting.texts()
    tau = config.task.temperature
    proof = FinalTest(
        labels=test.cohort.labels,
        classes=test.cohort.classes,
        present=test.present(test.find(setting.features)),
        sides=tuple((f.detector.raised_class, f.detector.lowered_class) for f in setting.features),
        axes=attribute_strata(test.cohort.attributes),
        bootstrap=PatientBootstrap(
            test.cohort.patients, config.evidence.draws, config.evidence.seed
        ),
        confidence=config.evidence.confidence,
        min_group=config.mitigation.min_group,
        min_films=config.evidence.min_n,
        hidden_below=config.hidden_below,
    )

    def ask(tower: ImageTower, title: str) -> Answered:
        stage = f"final test: {title}"
        answered = ask_films_and_regions(
            tower.to(device), test.films, test.regions, texts, tau, staged(setting.progress, stage)
        )
        tower.to("cpu")
        return answered

    original = ImageTower(
        open_folder(setting.start, torch.device("cpu")).model, config.model.region_pooling
    )
    before = ask(original, "the audited model")

    def outcome(
        name: str,
        title: str,
        after: Answered,
        curve: LearningCurve | None = None,
        role: str = "tower",
    ) -> ArmOutcome:
        return ArmOutcome(
            name=name,
            title=title,
            role="before" if role == "before" else "head" if role == "head" else "tower",
            published=ARMS[name].published if name in ARMS else True,
            delivered=name == config.mitigation.arm,
            curve=curve,
            **proof.measure(before, after),
        )

    answers = {"before": before}
    outcomes = [outcome("before", "audited model", before, role="before")]
    if config.mitigation.heads:
        for name, title, logits in _heads(setting, test, validation, half):
            answers[name] = Answered(logits, None)
            outcomes.append(outcome(name, title, answers[name], role="head"))
    for name, arm in trained.items():
        title = ARMS[name].title
        answers[name] = ask(arm.tower, title)
        outcomes.append(outcome(name, title, answers[name], arm.curve))
    return tuple(outcomes), answers, proof.untold()


def _heads(
    setting: Setting, test: SplitFilms, validation: SplitFilms, half: NDArray[np.bool_]
) -> list[tuple[str, str, NDArray[np.float32]]]:
    """Logits of the arms that train no tower."""
    config = setting.config
    found = validation.find(setting.features)
    present = validation.present(found).any(axis=1)
    groups = PseudoGroups.cross(
        validation.cohort.labels, np.asarray(present), validation.cohort.classes
    )
    heads = []
    tested = test.kept.images()
    head = retrain_last_layer(
        validation.kept.images()[half],
        validation.cohort.labels[half],
        groups.of_film[half],
        len(validation.cohort.classes),
        config.mitigation.seed,
    )
    if head is not None:
        title = "last-layer retraining (DFR), on the discovery half"
        heads.append(("dfr", title, head.logits(tested)))
    directions = feature_directions(
        (regions, found[part]) for part, regions in validation.kept.region_parts()
    )
    if len(directions):
        texts = project_texts(setting.classes, directions)
        logits = tested @ texts.T / config.task.temperature
        heads.append(("projection", "class texts without the feature's direction", logits))
    return heads


_SAME = 0.3  # phi of two features' presence from which they are one


def compare_reaudit(
    again: Audit,
    known: Sequence[ConfirmedFeature],
    mitigated: Sequence[ConfirmedFeature],
    present: NDArray[np.bool_],
) -> Reaudit:
    """Tell what of the old correlations is left, and what is new.

    A correlation of the new model is an old one when it raises the same class and its films are
    those of the old feature (phi of at least 0.3).

    Parameters
    ----------
    again : Audit - of the new model on the final test
    known : sequence of ConfirmedFeature, length F - of the audit of the old model
    mitigated : sequence of ConfirmedFeature - those of them that were mitigated
    present : ndarray of shape (N, F), bool - the known features on the films of `again`
    """
    classes = again.result.task.classes
    repaired = {feature.rank for feature in mitigated}
    remaining, appeared = [], []
    for correlation in again.result.correlations:
        if not correlation.counts:
            continue
        same = _same_feature(correlation, known, present)
        told = _told(correlation, classes)
        if same is not None and same.rank in repaired:
            remaining.append(told)
        elif correlation.kind == "shortcut" and same is None:
            appeared.append(told)
    return Reaudit(
        verdict=again.result.verdict.name,
        reasons=again.result.verdict.reasons,
        remaining=tuple(remaining),
        appeared=tuple(appeared),
        detectable=_detectable(again),
    )


def _same_feature(
    correlation: SpuriousCorrelation,
    known: Sequence[ConfirmedFeature],
    present: NDArray[np.bool_],
) -> ConfirmedFeature | None:
    there = correlation.cluster.present
    if len(there) != len(present):  # the new model could not read a film that the old one read
        return None
    for number, feature in enumerate(known):
        if feature.detector.raised_class != correlation.cluster.raised_class:
            continue
        if cramers_v(there, present[:, number]) >= _SAME:
            return feature
    return None


def _told(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> str:
    cluster, arms = correlation.cluster, correlation.confirmation.arms
    raised = cluster.raised_class
    low, high = arms.gap_interval[raised].low, arms.gap_interval[raised].high
    return (
        f"{correlation.kind.replace('_', ' ')} {correlation.rank}: raises {classes[raised]} by "
        f"{100 * arms.gap[raised]:+.0f} points ({100 * low:+.0f} to {100 * high:+.0f})"
    )


def _detectable(again: Audit) -> str:
    sensitivity = again.result.sensitivity
    if sensitivity is None:
        return "what these films could have shown was not measured, since the audit stopped before"
    told = [
        f"{100 * d.gap:.0f} points for a feature in {d.prevalence:.0%} of the films"
        for d in sensitivity.detectable
        if np.isfinite(d.gap)
    ]
    if not told:
        return "these films could not have shown any gap with the asked power"
    return f"smallest gap found with {sensitivity.power:.0%} power: {', '.join(told)}"
