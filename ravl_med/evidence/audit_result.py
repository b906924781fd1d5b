"""What an audit found, as one value: the single source of the PDF and the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.ravl import FeatureCluster

__all__ = [
    "Accuracy",
    "AuditResult",
    "CohortSummary",
    "DiscoverySummary",
    "Interval",
    "Kind",
    "ModelSummary",
    "Removal",
    "SpuriousCorrelation",
    "TaskSummary",
    "Verdict",
    "VerdictName",
]

Kind = Literal["shortcut", "plausible_sign", "undecided"]
VerdictName = Literal["fail", "review", "pass", "not_auditable"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided confidence interval; NaN bounds where there was nothing to estimate from."""

    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True, eq=False)
class Removal:
    """Removal effect of the regions of a cluster.

    The effect is the margin of the raised class (its logit minus that of the most lowered class)
    before, minus after the region is filled from its surroundings. Positive: the region speaks for
    the raised class.

    Attributes
    ----------
    effect : ndarray of shape (n,), float64 - in logits, in the order of ``cluster.regions``; NaN
        where it was not measured
    mean : float - over measured regions, each image counted once
    interval : Interval - of the mean, bootstrap by patient, Bonferroni over clusters
    inside_share : float - share of the positive effect that lies where the raised class shows;
        NaN without such a place or without positive effect
    """

    effect: NDArray[np.float64]
    mean: float
    interval: Interval
    inside_share: float


@dataclass(frozen=True, slots=True, eq=False)
class SpuriousCorrelation:
    """One candidate of discovery with its evidence.

    Attributes
    ----------
    rank : int - 1 for the first
    cluster : FeatureCluster
    kind : {"shortcut", "plausible_sign", "undecided"}
    counts : bool - it passes every evidence rule and so decides the verdict
    reasons : tuple of str - the rules that it does not pass, in words
    gap_interval : tuple of Interval, length C - of the unweighted gap of each class
    accuracy_present_interval, accuracy_absent_interval : tuple of Interval, length C
    removal : Removal
    order : ndarray of shape (n,), int64 - positions in ``cluster.regions`` by removal effect,
        descending; unmeasured ones after, by similarity
    """

    rank: int
    cluster: FeatureCluster
    kind: Kind
    counts: bool
    reasons: tuple[str, ...]
    gap_interval: tuple[Interval, ...]
    accuracy_present_interval: tuple[Interval, ...]
    accuracy_absent_interval: tuple[Interval, ...]
    removal: Removal
    order: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """The zero-shot task: class names and, for each, the texts that were embedded, verbatim."""

    name: str
    classes: tuple[str, ...]
    texts: Mapping[str, tuple[str, ...]]
    temperature: float


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """The model under audit."""

    name: str
    architecture: str
    digest: str
    image_size: int
    resize_mode: str
    region_pooling: str
    parameters: int


@dataclass(frozen=True, slots=True)
class CohortSummary:
    """Who was audited: counts only, no identity.

    Attributes
    ----------
    listed : int - rows of the manifest
    left_out : mapping of reason to count - rows that the task or split does not take
    rejected : mapping of reason code to count - films that could not be read
    rejected_rows : tuple of (row, reason, message) - row numbers of the manifest
    images, patients : int - audited
    images_by_class : mapping of class to count
    attributes : mapping of attribute to (value to count) - view, sex, manufacturer, ...
    radiology_reports : int - audited films with a report text
    synthetic : bool - phantoms only, no patient
    """

    listed: int
    left_out: Mapping[str, int]
    rejected: Mapping[str, int]
    rejected_rows: tuple[tuple[int, str, str], ...]
    images: int
    patients: int
    images_by_class: Mapping[str, int]
    attributes: Mapping[str, Mapping[str, int]]
    radiology_reports: int
    synthetic: bool


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Zero-shot accuracy with bootstrap intervals by patient; per class in task order.

    A class without films has NaN accuracy and interval.
    """

    overall: float
    overall_interval: Interval
    images: int
    by_class: tuple[float, ...]
    by_class_interval: tuple[Interval, ...]
    images_by_class: tuple[int, ...]
    predicted_share: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DiscoverySummary:
    """How the search was done: regions, chosen K and the silhouette of every K that was tried."""

    regions: int
    regions_unseen: int
    region_source: str
    clusters: int
    silhouettes: Mapping[int, float]
    survivors: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome and the gates that decided it, each in one sentence."""

    name: VerdictName
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class AuditResult:
    """Everything that a run found.

    Attributes
    ----------
    image_ids : tuple of str, length N - pseudonyms
    region_image : ndarray of shape (R,), int64 - image of each region
    region_boxes : ndarray of shape (R, 4), float32 - xyxy in stored pixels, origin at the outer
        corner of the top-left pixel, half-open
    region_names : tuple of str, length R
    correlations : tuple of SpuriousCorrelation - ranked; empty is a result
    discovery : DiscoverySummary or None - None when the audit stopped before discovery
    """

    name: str
    title: str
    verdict: Verdict
    task: TaskSummary
    model: ModelSummary
    cohort: CohortSummary
    accuracy: Accuracy
    discovery: DiscoverySummary | None
    correlations: tuple[SpuriousCorrelation, ...]
    image_ids: tuple[str, ...]
    region_image: NDArray[np.int64]
    region_boxes: NDArray[np.float32]
    region_names: tuple[str, ...]
