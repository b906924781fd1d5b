"""Everything that a mitigation found, as values: what was repaired, the arms, the verdict."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ravl_med.evidence.audit_result import Gate
from ravl_med.evidence.results import Interval, Kind

VerdictWord = Literal["improved", "no_change", "worse", "nothing_to_do"]
ArmRole = Literal["before", "tower", "head"]
MeasureName = str | tuple[str, str]
"""A class, a group, or an attribute and its value: what an accuracy is measured on."""


@dataclass(frozen=True, slots=True)
class Change:
    """A measure of a model on the final test, beside that of the audited model on the same films.

    Attributes
    ----------
    before, after : float - NaN where nothing could be measured
    interval : Interval - of `after`, bootstrap by patient
    difference : float - after minus before
    difference_interval : Interval - of the difference, the same draws for both
    films : int - that it is measured on
    """

    before: float
    after: float
    interval: Interval
    difference: float
    difference_interval: Interval
    films: int

    def fell(self) -> bool:
        """Whether the measure is lower than before, as a point estimate."""
        return self.difference < 0

    def fell_surely(self) -> bool:
        """Whether the whole interval of the difference lies below zero."""
        return self.difference_interval.high < 0


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """How a training went.

    Attributes
    ----------
    losses : tuple of float - mean loss of each epoch
    worst_group, overall : tuple of float - accuracy on the selection films after each epoch
    best : int - epoch that was kept, from 0; -1 where none was and the start stands
    stopped : {"budget", "early", "diverged"}
    steps : int
    seconds : float
    """

    losses: tuple[float, ...]
    worst_group: tuple[float, ...]
    overall: tuple[float, ...]
    best: int
    stopped: Literal["budget", "early", "diverged"]
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class FeatureGap:
    """Accuracy of a class with minus without the feature, before and after.

    Attributes
    ----------
    class_name : str
    side : {"raised", "lowered"}
    gap : Change - in accuracy
    """

    class_name: str
    side: Literal["raised", "lowered"]
    gap: Change


@dataclass(frozen=True, slots=True, eq=False)
class ArmOutcome:
    """One arm on the final test.

    Attributes
    ----------
    name, title : str
    role : {"before", "tower", "head"} - the audited model; a tower that was trained; a head over
        the embeddings of the audited model
    published : bool
    delivered : bool - this arm's model is the one that is handed over
    image_overall, image_worst, region_overall, region_worst : Change - accuracies; `region`: the
        class of a film is that of its best-matching region. Heads have NaN for regions where they
        are not defined
    auroc : Change - mean over classes, one against the rest
    calibration : Change - expected calibration error; lower is better
    classes : mapping of class to Change
    groups : mapping of "class, with(out) the feature" to Change
    subgroups : mapping of (attribute, value) to Change
    gaps : tuple of FeatureGap - by the mitigated correlations, in their order
    curve : LearningCurve or None - of a trained tower
    """

    name: str
    title: str
    role: ArmRole
    published: bool
    delivered: bool
    image_overall: Change
    image_worst: Change
    region_overall: Change
    region_worst: Change
    auroc: Change
    calibration: Change
    classes: Mapping[str, Change]
    groups: Mapping[str, Change]
    subgroups: Mapping[tuple[str, str], Change]
    gaps: tuple[FeatureGap, ...]
    curve: LearningCurve | None

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


@dataclass(frozen=True, slots=True)
class MitigatedCorrelation:
    """What was repaired.

    Attributes
    ----------
    rank : int - in the audit
    kind : {"shortcut", "plausible_sign", "undecided"}
    forced : bool - mitigated although it is no confirmed shortcut
    raised_class : str
    lowered_class : str or None
    finetune_films, finetune_regions : int - films and regions of the fine-tuning set that hold it
    located_films : int - films in which removal located it
    """

    rank: int
    kind: Kind
    forced: bool
    raised_class: str
    lowered_class: str | None
    finetune_films: int
    finetune_regions: int
    located_films: int


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """Films and patients of a part of the data; no patient is in two of them."""

    role: str
    films: int
    patients: int
    by_class: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Reaudit:
    """The whole audit again, of the new model on the final test.

    Attributes
    ----------
    verdict : str - of the audit
    reasons : tuple of str
    remaining : tuple of str - shortcuts found again, in words; empty when they are gone
    appeared : tuple of str - other correlations that count, in words
    detectable : str - what the films could have shown, in words
    """

    verdict: str
    reasons: tuple[str, ...]
    remaining: tuple[str, ...]
    appeared: tuple[str, ...]
    detectable: str


@dataclass(frozen=True, slots=True)
class MitigationVerdict:
    """The outcome in one word, the reasons in sentences, and every gate by name."""

    name: VerdictWord
    reasons: tuple[str, ...]
    gates: tuple[Gate, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class MitigationResult:
    """Everything that a mitigation found.

    Attributes
    ----------
    name, title : str
    verdict : MitigationVerdict
    audited_digest, new_digest : str - SHA-256 of the models; the second blank when there is none
    audit_reused : bool - an earlier run of the audit had the same digests
    mitigated : tuple of MitigatedCorrelation
    companion_regions : int - of fine-tuning films, that travel with the features
    splits : tuple of SplitSummary - discovery, confirmation, fine-tuning, final test
    selection_groups : mapping of group to films - that the best epoch was chosen by
    arms : tuple of ArmOutcome - the audited model first, the delivered one last
    reaudit : Reaudit or None - None when there was nothing to do
    notes : tuple of str - what a reader has to know, in sentences
    """

    name: str
    title: str
    verdict: MitigationVerdict
    audited_digest: str
    new_digest: str
    audit_reused: bool
    mitigated: tuple[MitigatedCorrelation, ...]
    companion_regions: int
    splits: tuple[SplitSummary, ...]
    selection_groups: Mapping[str, int]
    arms: tuple[ArmOutcome, ...]
    reaudit: Reaudit | None
    notes: tuple[str, ...]

    @property
    def delivered(self) -> ArmOutcome | None:
        """The arm whose model is handed over; None when there was nothing to do."""
        return next((arm for arm in self.arms if arm.delivered), None)
