"""What an audit found, as one value: the single source of the PDF and the JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.laterality import Edge
from ravl_med.discovery.cluster_map import ClusterMap
from ravl_med.evidence.burned_in_text import BurnedInText
from ravl_med.evidence.claims import Interval, SpuriousCorrelation
from ravl_med.evidence.rulings import Ruling
from ravl_med.evidence.sanity import Sanity
from ravl_med.regions.region_set import RegionKind

__all__ = [
    "Accuracy",
    "AuditResult",
    "CohortSummary",
    "DetectableGap",
    "DiscoverySummary",
    "Gate",
    "ModelSummary",
    "PartitionSummary",
    "Sensitivity",
    "Stratum",
    "TaskSummary",
    "Verdict",
    "VerdictName",
]

VerdictName = Literal["fail", "review", "pass", "not_auditable"]


@dataclass(frozen=True, slots=True)
class Stratum:
    """One value of an acquisition or patient attribute.

    Attributes
    ----------
    attribute, value : str
    films, patients : int
    accuracy : float - NaN where nothing can be said
    interval : Interval - bootstrap by patient
    difference : float - accuracy minus that of the other films, classes held apart
    p_value, q_value : float - two-sided exchange of patients within class; Benjamini-Hochberg over
        all strata; NaN for an insufficient stratum
    insufficient : bool - fewer films or patients than needed, or no films to compare with
    """

    attribute: str
    value: str
    films: int
    patients: int
    accuracy: float
    interval: Interval
    difference: float
    p_value: float
    q_value: float
    insufficient: bool


@dataclass(frozen=True, slots=True)
class DetectableGap:
    """What the films could have shown of a feature that is in a given share of them.

    Attributes
    ----------
    prevalence : float
    gap : float - smallest gap found with the asked power; NaN where even the largest was not
    power_at_largest : float - power at a gap of 1, or of what the accuracy allows
    """

    prevalence: float
    gap: float
    power_at_largest: float


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What this audit could have found.

    Attributes
    ----------
    power : float - for example 0.8
    simulations : int - for each prevalence
    candidates : int - that multiplicity was charged for
    detectable : tuple of DetectableGap
    clusters, tested : int - proposed, and with enough films on both halves
    untested : mapping of reason to count
    """

    power: float
    simulations: int
    candidates: int
    detectable: tuple[DetectableGap, ...]
    clusters: int
    tested: int
    untested: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """The zero-shot task: class names and, for each, the texts that were embedded, verbatim."""

    name: str
    classes: tuple[str, ...]
    texts: Mapping[str, tuple[str, ...]]
    temperature: float
    scores: str = "softmax"


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
    logit_scale: float | None = None
    logit_bias: float | None = None
    digests: Mapping[str, str] = field(default_factory=dict)


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
    patients_by_class, attribute_patients : the same in patients; None where a film is a patient
    classes_by_attribute : mapping of attribute to (value to films of each class, in task order) -
        empty where nobody counted them
    class_patients : the same in patients; None where a film is a patient
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
    patients_by_class: Mapping[str, int] | None = None
    attribute_patients: Mapping[str, Mapping[str, int]] | None = None
    classes_by_attribute: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    class_patients: Mapping[str, Mapping[str, tuple[int, ...]]] | None = None

    def prevalence(self, attribute: str, value: str, index: int) -> float:
        """Return the share of the films with a value that are of a class; NaN where hidden."""
        films = self.classes_by_attribute[attribute][value][index]
        of = self.attributes.get(attribute, {}).get(value, 0)
        return films / of if films >= 0 and of > 0 else math.nan


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
class PartitionSummary:
    """One clustering of all regions: K, its draw, and the mean cosine distance to the medoids."""

    clusters: int
    draw: int
    loss: float


@dataclass(frozen=True, slots=True)
class DiscoverySummary:
    """How the search was done.

    Attributes
    ----------
    protocol : {"pooled", "paper"}
    regions, regions_unseen : int
    region_source : str
    region_problems : mapping of str to int - what was to be a region and is none, by reason
    partitions : tuple of PartitionSummary
    left_out : mapping of K to the reason why it was not used
    clusters : int - proposed, near-duplicates folded
    survivors, candidates : int - that pass RaVL's filters; that were carried into evidence
    films, confirmation_films : int - of the discovery half and of the other
    patients, confirmation_patients : int
    cluster_map : ClusterMap - where the proposed clusters lie to each other
    """

    protocol: str
    regions: int
    regions_unseen: int
    region_source: str
    region_problems: Mapping[str, int]
    partitions: tuple[PartitionSummary, ...]
    left_out: Mapping[int, str]
    clusters: int
    survivors: int
    candidates: int
    films: int
    confirmation_films: int
    patients: int
    confirmation_patients: int
    cluster_map: ClusterMap


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate: its config key, whether it held, and what was found beside what is asked."""

    name: str
    passed: bool
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome, the reasons in sentences, and every gate by name."""

    name: VerdictName
    reasons: tuple[str, ...]
    gates: tuple[Gate, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class AuditResult:
    """Everything that a run found.

    Attributes
    ----------
    image_ids : tuple of str, length N - pseudonyms
    region_image : ndarray of shape (R,), int64 - image of each region
    region_boxes : ndarray of shape (R, 4), float32 - xyxy in stored pixels, origin at the outer
        corner of the top-left pixel, half-open
    region_kind : ndarray of shape (R,), int64 - position in `region_kinds`
    region_kinds : tuple of RegionKind - all that there are
    rulings : tuple of Ruling - of reviewers; empty before any review
    undecided : int or None - correlations that a reviewer still has to decide on; None before any
        review
    sanity : Sanity or None - whether the model is wired right; None where it was not looked at
    hidden_below : int - counts of fewer patients are hidden, see `small_cells`; 0: none is
    correlations : tuple of SpuriousCorrelation - ranked; empty is a result
    descriptions : mapping of int to str - by cluster: what its regions are and where they lie
    discovery : DiscoverySummary or None - None when the audit stopped before discovery
    subgroups : tuple of Stratum - accuracy by attribute; empty when the audit stopped
    sensitivity : Sensitivity or None - None when the audit stopped before it
    left_edges : tuple of Edge, length N - side of the patient at the left edge of each film; empty
        where nothing is known of any, as of runs before it was noted
    burned_in : BurnedInText or None - text on the films that are shown; None where they are shown
        as they are
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
    descriptions: Mapping[int, str]
    subgroups: tuple[Stratum, ...]
    sensitivity: Sensitivity | None
    image_ids: tuple[str, ...]
    region_image: NDArray[np.int64]
    region_boxes: NDArray[np.float32]
    region_kind: NDArray[np.int64]
    region_kinds: tuple[RegionKind, ...]
    rulings: tuple[Ruling, ...] = ()
    undecided: int | None = None
    hidden_below: int = 0
    sanity: Sanity | None = None
    left_edges: tuple[Edge, ...] = ()
    burned_in: BurnedInText | None = None

    def left_edge(self, image: int) -> Edge:
        """Return the side of the patient at the left edge of a film; blank where it is unknown."""
        return self.left_edges[image] if self.left_edges else ""
