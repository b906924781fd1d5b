"""Everything that a mitigation found, as values: what was repaired, the arms, the verdict.

It is written as ``mitigation.json``. Accuracies, gaps and differences are shares between -1 and 1;
a number that does not exist, such as the accuracy of the regions of a head, is NaN.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Literal

from pydantic import Field

from ravl_med.evidence.audit_result import Gate
from ravl_med.evidence.results import Interval, Kind
from ravl_med.storage.documents import Count, result_type

MITIGATION_SCHEMA_VERSION = "1.0"
"""Of ``mitigation.json``: major.minor; the major changes when a name goes."""

VerdictWord = Literal["improved", "no_change", "worse", "nothing_to_do"]
ArmRole = Literal["before", "tower", "head"]
MeasureName = str | tuple[str, str]
"""A class, a group, or an attribute and its value: what an accuracy is measured on."""


@result_type()
class Change:
    """A measure on the final test beside that of the audited model on the same films."""

    before: float = Field(description="of the audited model")
    after: float = Field(description="of this arm")
    interval: Interval = Field(description="[low, high] of `after`, bootstrap by patient")
    difference: float = Field(description="after minus before")
    difference_interval: Interval = Field(
        description="[low, high] of the difference, the same draws of patients for both models"
    )
    films: int = Field(description="films that it is measured on")

    def fell(self) -> bool:
        """Whether the measure is lower than before, as a point estimate."""
        return self.difference < 0

    def fell_surely(self) -> bool:
        """Whether the whole interval of the difference lies below zero."""
        return self.difference_interval.high < 0


@result_type()
class LearningCurve:
    """How a training went."""

    losses: tuple[float, ...] = Field(description="mean loss of each epoch")
    worst_group: tuple[float, ...] = Field(
        description="accuracy of the worst group of the selection films after each epoch"
    )
    overall: tuple[float, ...] = Field(
        description="accuracy on the selection films after each epoch"
    )
    best: int = Field(description="epoch that was kept, from 0; -1 for none")
    stopped: Literal["budget", "early", "diverged"] = Field(description="how it ended")
    steps: int = Field(description="steps of the optimiser")
    seconds: float = Field(description="duration")


@result_type()
class FeatureGap:
    """Accuracy of a class on films with minus on films without a mitigated feature."""

    class_name: str = Field(description="class of the films")
    side: Literal["raised", "lowered"] = Field(description="what the feature did to the class")
    gap: Change


@result_type()
class SubgroupChange:
    """Accuracy on the films with one value of an attribute."""

    attribute: str = Field(description="such as view or sex")
    value: str = Field(description="such as AP or F")
    accuracy: Change


@result_type()
class Worsened:
    """A class, group or subgroup whose accuracy is lower than before."""

    name: str = Field(description="'class C', 'C, with the feature' or 'attribute value'")
    difference: float = Field(description="after minus before")
    difference_interval: Interval
    surely: bool = Field(description="the whole interval of the difference lies below zero")


@result_type(
    "ArmDocument",
    "name title role published delivered image_overall image_worst region_overall region_worst"
    " auroc calibration classes groups subgroups=subgroup_changes gaps worsened=fallen curve",
    eq=False,
)
class ArmOutcome:
    """One arm on the final test."""

    name: str = Field(description="as the config calls it")
    title: str = Field(description="as reports call it")
    role: ArmRole = Field(
        description="the audited model, a trained tower, or a head that trains no tower"
    )
    published: bool = Field(description="by others than this project")
    delivered: bool = Field(description="its model is handed over")
    image_overall: Change = Field(description="accuracy on all films, of the whole film")
    image_worst: Change = Field(description="lowest accuracy among the groups, of the whole film")
    region_overall: Change = Field(
        description="accuracy on all films, of the best-matching region; null: not defined"
    )
    region_worst: Change = Field(
        description="lowest accuracy among the groups, of the best-matching region"
    )
    auroc: Change = Field(description="mean over classes, one against the rest")
    calibration: Change = Field(description="expected calibration error; lower is better")
    classes: Mapping[str, Change] = Field(description="accuracy by class")
    groups: Mapping[str, Change] = Field(
        description="accuracy by class, with and without the feature"
    )
    subgroups: Mapping[tuple[str, str], Change] = Field(
        description="accuracy by (attribute, value)"
    )
    gaps: tuple[FeatureGap, ...] = Field(description="in the order of `mitigated`")
    curve: LearningCurve | None = Field(description="null: no tower was trained")

    def without(self, names: Collection[MeasureName]) -> ArmOutcome:
        """Return the arm without what is measured on these classes, groups and subgroups."""
        return replace(
            self,
            classes={name: c for name, c in self.classes.items() if name not in names},
            groups={name: c for name, c in self.groups.items() if name not in names},
            subgroups={name: c for name, c in self.subgroups.items() if name not in names},
        )

    def worsened(self) -> tuple[tuple[str, Change], ...]:
        """Every class, group and subgroup whose accuracy is lower than before, the worst first."""
        named = [
            *((f"class {name}", change) for name, change in self.classes.items()),
            *self.groups.items(),
            *((f"{axis} {value}", change) for (axis, value), change in self.subgroups.items()),
        ]
        return tuple(sorted((e for e in named if e[1].fell()), key=lambda e: e[1].difference))

    @property
    def subgroup_changes(self) -> tuple[SubgroupChange, ...]:
        """Accuracy by attribute and value."""
        return tuple(SubgroupChange(*names, change) for names, change in self.subgroups.items())

    @property
    def fallen(self) -> tuple[Worsened, ...]:
        """All of them, the worst first."""
        return tuple(
            Worsened(name, change.difference, change.difference_interval, change.fell_surely())
            for name, change in self.worsened()
        )


@result_type("MitigatedDocument")
class MitigatedCorrelation:
    """A correlation that was repaired."""

    rank: int = Field(description="in the audit")
    kind: Kind = Field(description="as the audit found it")
    forced: bool = Field(description="mitigated although it is no confirmed shortcut")
    raised_class: str = Field(description="class that the feature speaks for")
    lowered_class: str | None = Field(description="class that it speaks most against")
    finetune_films: int = Field(description="films of the fine-tuning set that hold it")
    finetune_regions: int = Field(description="regions of the fine-tuning set that hold it")
    located_films: int = Field(description="films in which removal located it")
    confirmed: bool = Field(
        default=True, description="on patients that had no part in choosing it, and on the model"
    )


@result_type()
class SplitSummary:
    """A part of the data; no patient is in two of them."""

    role: str = Field(description="what it was used for")
    films: int = Field(description="films of the part")
    patients: Count = Field(description="patients of the part")
    by_class: Mapping[str, Count] = Field(description="films of each class")


@result_type()
class Reaudit:
    """The whole audit again, of the new model on the final test."""

    verdict: str = Field(description="of the audit")
    reasons: tuple[str, ...] = Field(description="why, in sentences")
    remaining: tuple[str, ...] = Field(description="mitigated shortcuts found again; empty: gone")
    appeared: tuple[str, ...] = Field(description="other correlations that count")
    detectable: str = Field(description="what the films could have shown")
    searched: bool = Field(
        default=True, description="on films that the new model was not fitted on, as far as known"
    )


@result_type()
class MitigationVerdict:
    """The outcome, with its reasons and every gate."""

    name: VerdictWord = Field(description="the outcome")
    reasons: tuple[str, ...] = Field(description="why, in sentences")
    gates: tuple[Gate, ...] = Field(default=(), description="by name")


@result_type(
    "MitigationDocument",
    "schema_version name title verdict=verdict.name verdict_reasons=verdict.reasons verdict.gates"
    " audited_digest new_digest=new_model audit_reused mitigated companion_regions splits"
    " selection_groups arms delivered=delivered_name reaudit notes",
    doc="A mitigation.",
    eq=False,
)
class MitigationResult:
    """Everything that a mitigation found."""

    name: str = Field(description="of the run")
    title: str = Field(description="of the report")
    verdict: MitigationVerdict
    audited_digest: str = Field(description="SHA-256 of the audited model")
    new_digest: str = Field(description="SHA-256 of the new model; blank: there is none")
    audit_reused: bool = Field(description="an earlier run of the audit had the same digests")
    mitigated: tuple[MitigatedCorrelation, ...] = Field(
        description="empty: there was nothing to do"
    )
    companion_regions: int = Field(
        description="regions of fine-tuning films that travel with the features: their fine detail "
        "is exchanged with them"
    )
    splits: tuple[SplitSummary, ...] = Field(
        description="films and patients of each part of the data"
    )
    selection_groups: Mapping[str, Count] = Field(
        description="films of each group that the best epoch was chosen by"
    )
    arms: tuple[ArmOutcome, ...] = Field(
        description="the audited model first, the delivered one last"
    )
    reaudit: Reaudit | None = Field(description="null: there was nothing to audit again")
    notes: tuple[str, ...] = Field(description="what a reader has to know, in sentences")

    @property
    def schema_version(self) -> str:
        """Major.minor; the major changes when a name goes."""
        return MITIGATION_SCHEMA_VERSION

    @property
    def new_model(self) -> str | None:
        """SHA-256 of the new model; null: there is none."""
        return self.new_digest or None

    @property
    def delivered(self) -> ArmOutcome | None:
        """The arm whose model is handed over; None when there was nothing to do."""
        return next((arm for arm in self.arms if arm.delivered), None)

    @property
    def delivered_name(self) -> str | None:
        """Name of the delivered arm; null: there is none."""
        return self.delivered.name if self.delivered else None
