"""``mitigation.json``: the numbers of a mitigation under stable names, with a JSON Schema.

Accuracies, gaps and differences are shares between -1 and 1. A number that does not exist, such as
the accuracy of the regions of a head, is ``null``.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ravl_med.evidence.mitigation_result import (
    ArmOutcome,
    ArmRole,
    Change,
    LearningCurve,
    MitigationResult,
    VerdictWord,
)
from ravl_med.evidence.results import Kind
from ravl_med.reporting.files.result_json import Bounds, Count, GateDocument, Number, Part

MITIGATION_SCHEMA_VERSION = "1.0"


class ChangeDocument(Part):
    """A measure on the final test beside that of the audited model on the same films."""

    before: Number = Field(description="of the audited model")
    after: Number = Field(description="of this arm")
    interval: Bounds = Field(description="[low, high] of `after`, bootstrap by patient")
    difference: Number = Field(description="after minus before")
    difference_interval: Bounds = Field(
        description="[low, high] of the difference, the same draws of patients for both models"
    )
    films: int = Field(description="films that it is measured on")


class SubgroupChangeDocument(Part):
    """Accuracy on the films with one value of an attribute."""

    attribute: str = Field(description="such as view or sex")
    value: str = Field(description="such as AP or F")
    accuracy: ChangeDocument


class FeatureGapDocument(Part):
    """Accuracy of a class on films with minus on films without a mitigated feature."""

    class_name: str = Field(description="class of the films")
    side: Literal["raised", "lowered"] = Field(description="what the feature did to the class")
    gap: ChangeDocument


class WorsenedDocument(Part):
    """A class, group or subgroup whose accuracy is lower than before."""

    name: str = Field(description="'class C', 'C, with the feature' or 'attribute value'")
    difference: Number = Field(description="after minus before")
    difference_interval: Bounds
    surely: bool = Field(description="the whole interval of the difference lies below zero")


class LearningCurveDocument(Part):
    """How a training went."""

    losses: list[Number] = Field(description="mean loss of each epoch")
    worst_group: list[Number] = Field(
        description="accuracy of the worst group of the selection films after each epoch"
    )
    overall: list[Number] = Field(description="accuracy on the selection films after each epoch")
    best: int = Field(description="epoch that was kept, from 0; -1 for none")
    stopped: Literal["budget", "early", "diverged"] = Field(description="how it ended")
    steps: int = Field(description="steps of the optimiser")
    seconds: Number = Field(description="duration")


class ArmDocument(Part):
    """One arm on the final test."""

    name: str = Field(description="as the config calls it")
    title: str = Field(description="as reports call it")
    role: ArmRole = Field(
        description="the audited model, a trained tower, or a head that trains no tower"
    )
    published: bool = Field(description="by others than this project")
    delivered: bool = Field(description="its model is handed over")
    image_overall: ChangeDocument = Field(description="accuracy on all films, of the whole film")
    image_worst: ChangeDocument = Field(
        description="lowest accuracy among the groups, of the whole film"
    )
    region_overall: ChangeDocument = Field(
        description="accuracy on all films, of the best-matching region; null: not defined"
    )
    region_worst: ChangeDocument = Field(
        description="lowest accuracy among the groups, of the best-matching region"
    )
    auroc: ChangeDocument = Field(description="mean over classes, one against the rest")
    calibration: ChangeDocument = Field(description="expected calibration error; lower is better")
    classes: dict[str, ChangeDocument] = Field(description="accuracy by class")
    groups: dict[str, ChangeDocument] = Field(
        description="accuracy by class, with and without the feature"
    )
    subgroups: list[SubgroupChangeDocument] = Field(description="accuracy by attribute and value")
    gaps: list[FeatureGapDocument] = Field(description="in the order of `mitigated`")
    worsened: list[WorsenedDocument] = Field(description="all of them, the worst first")
    curve: LearningCurveDocument | None = Field(description="null: no tower was trained")


class MitigatedDocument(Part):
    """A correlation that was repaired."""

    rank: int = Field(description="in the audit")
    kind: Kind = Field(description="as the audit told it")
    forced: bool = Field(description="mitigated although it is no confirmed shortcut")
    raised_class: str = Field(description="class that the feature speaks for")
    lowered_class: str | None = Field(description="class that it speaks most against")
    finetune_films: int = Field(description="films of the fine-tuning set that hold it")
    finetune_regions: int = Field(description="regions of the fine-tuning set that hold it")
    located_films: int = Field(description="films in which removal located it")


class SplitDocument(Part):
    """A part of the data; no patient is in two of them."""

    role: str = Field(description="what it was used for")
    films: int = Field(description="films of the part")
    patients: Count = Field(description="patients of the part")
    by_class: dict[str, Count] = Field(description="films of each class")


class ReauditDocument(Part):
    """The whole audit again, of the new model on the final test."""

    verdict: str = Field(description="of the audit")
    reasons: list[str] = Field(description="why, in sentences")
    remaining: list[str] = Field(description="mitigated shortcuts found again; empty: gone")
    appeared: list[str] = Field(description="other correlations that count")
    detectable: str = Field(description="what the films could have shown")


class MitigationDocument(Part):
    """A mitigation."""

    schema_version: str = Field(description="major.minor; the major changes when a name goes")
    name: str = Field(description="of the run")
    title: str = Field(description="of the report")
    verdict: VerdictWord = Field(description="the outcome")
    verdict_reasons: list[str] = Field(description="why, in sentences")
    gates: dict[str, GateDocument] = Field(description="by name")
    audited_digest: str = Field(description="SHA-256 of the audited model")
    new_digest: str | None = Field(description="SHA-256 of the new model; null: there is none")
    audit_reused: bool = Field(description="an earlier run of the audit had the same digests")
    mitigated: list[MitigatedDocument] = Field(description="empty: there was nothing to do")
    companion_regions: int = Field(
        description="regions of fine-tuning films that travel with the features: their fine detail "
        "is exchanged with them"
    )
    splits: list[SplitDocument] = Field(description="films and patients of each part of the data")
    selection_groups: dict[str, Count] = Field(
        description="films of each group that the best epoch was chosen by"
    )
    arms: list[ArmDocument] = Field(description="the audited model first, the delivered one last")
    delivered: str | None = Field(description="name of the delivered arm; null: there is none")
    reaudit: ReauditDocument | None = Field(description="null: there was nothing to audit again")
    notes: list[str] = Field(description="what a reader has to know, in sentences")


def mitigation_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``mitigation.json``."""
    return MitigationDocument.model_json_schema()


def mitigation_document(result: MitigationResult) -> MitigationDocument:
    """Turn the result of a mitigation into the document that is written."""
    verdict, delivered, reaudit = result.verdict, result.delivered, result.reaudit
    return MitigationDocument(
        schema_version=MITIGATION_SCHEMA_VERSION,
        name=result.name,
        title=result.title,
        verdict=verdict.name,
        verdict_reasons=list(verdict.reasons),
        gates={
            gate.name: GateDocument(passed=gate.passed, text=gate.text) for gate in verdict.gates
        },
        audited_digest=result.audited_digest,
        new_digest=result.new_digest or None,
        audit_reused=result.audit_reused,
        mitigated=[MitigatedDocument.model_validate(entry) for entry in result.mitigated],
        companion_regions=result.companion_regions,
        splits=[
            SplitDocument(
                role=split.role,
                films=split.films,
                patients=split.patients,
                by_class=dict(split.by_class),
            )
            for split in result.splits
        ],
        selection_groups=dict(result.selection_groups),
        arms=[_arm(arm) for arm in result.arms],
        delivered=None if delivered is None else delivered.name,
        reaudit=None if reaudit is None else ReauditDocument.model_validate(reaudit),
        notes=list(result.notes),
    )


def _arm(arm: ArmOutcome) -> ArmDocument:
    return ArmDocument(
        name=arm.name,
        title=arm.title,
        role=arm.role,
        published=arm.published,
        delivered=arm.delivered,
        image_overall=_change(arm.image_overall),
        image_worst=_change(arm.image_worst),
        region_overall=_change(arm.region_overall),
        region_worst=_change(arm.region_worst),
        auroc=_change(arm.auroc),
        calibration=_change(arm.calibration),
        classes={name: _change(change) for name, change in arm.classes.items()},
        groups={name: _change(change) for name, change in arm.groups.items()},
        subgroups=[
            SubgroupChangeDocument(attribute=axis, value=value, accuracy=_change(change))
            for (axis, value), change in arm.subgroups.items()
        ],
        gaps=[FeatureGapDocument.model_validate(gap) for gap in arm.gaps],
        worsened=[
            WorsenedDocument(
                name=name,
                difference=change.difference,
                difference_interval=change.difference_interval,
                surely=change.fell_surely(),
            )
            for name, change in arm.worsened()
        ],
        curve=_curve(arm.curve),
    )


def _change(change: Change) -> ChangeDocument:
    return ChangeDocument.model_validate(change)


def _curve(curve: LearningCurve | None) -> LearningCurveDocument | None:
    return None if curve is None else LearningCurveDocument.model_validate(curve)
