"""What an audit found, as one value: the single source of the PDF and the JSON.

Whether a model is wired right, told before its shortcuts are looked for.

Most faults of published models are wiring: prompts, padding, resize, an inverted class. What such a
model says is noise, and so would its audit be. Faults that leave no doubt stop the audit. A finding
that is not told from the others does not stop it, since a model that follows a shortcut alone is at
chance too where the shortcut is balanced: a confirmed shortcut fails it, anything else is not
auditable.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from ravl_med.cohort.dicom_header import Edge
from ravl_med.discovery.cluster_map import ClusterMap
from ravl_med.evidence.results import BurnedInText, Interval, ReviewDecision, SpuriousCorrelation
from ravl_med.evidence.statistics import auroc, auroc_interval
from ravl_med.regions.region_set import RegionKind

ModelCheckStatus = Literal["held", "odd", "failed"]

_CHANCE = 0.5
_CURE_FLIPPED = (
    "The usual cure: prompts or label columns of two classes stand in each other's place, or those "
    "of presence and absence."
)
_CURE_LOW = (
    "The usual cure: prompts in the style that the model was trained with, its own preprocessing "
    "(size, mean, std, resize) and activation, or more films."
)


@dataclass(frozen=True, slots=True)
class FindingAuroc:
    """How well a finding is told from the other classes.

    Attributes
    ----------
    finding : str
    films : int - of the class
    auroc : float - NaN where the class has no film, or all
    interval : Interval - by patient
    lowest, highest : float - AUROC of single prompts in place of their mean; NaN with one prompt
    flipped : bool - clearly below chance, all findings taken together
    """

    finding: str
    films: int
    auroc: float
    interval: Interval
    lowest: float
    highest: float
    flipped: bool


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """A look at the wiring: what was looked at, how it is, and what was found."""

    name: str
    status: ModelCheckStatus
    text: str


@dataclass(frozen=True, slots=True)
class ModelChecks:
    """What was seen of the wiring.

    Attributes
    ----------
    min_auroc : float - that the interval of each finding has to be above; 0: not judged
    findings : tuple of FindingAuroc - in the order of the classes
    checks : tuple of ModelCheck
    stops : tuple of str - why the audit cannot go on
    doubts : tuple of str - why it can end in nothing better than a fail
    """

    min_auroc: float
    findings: tuple[FindingAuroc, ...]
    checks: tuple[ModelCheck, ...]
    stops: tuple[str, ...]
    doubts: tuple[str, ...]


def class_scores(
    similarity: NDArray[np.floating], temperature: float | None
) -> NDArray[np.float64]:
    """Return how far each class is above the others, where no softmax saturates.

    Parameters
    ----------
    similarity : ndarray of shape (N, C) - cosines with the classes
    temperature : float or None - of the softmax; None: each class by itself

    Returns
    -------
    ndarray of shape (N, C), float64
    """
    exact = similarity.astype(np.float64)
    if temperature is None:
        return exact
    return np.column_stack(
        [_against(exact[:, c], exact, c, temperature) for c in range(exact.shape[1])]
    )


def prompt_scores(
    by_prompt: NDArray[np.floating],
    similarity: NDArray[np.floating],
    own: int,
    temperature: float | None,
) -> NDArray[np.float64]:
    """Return the same with single prompts in place of a class.

    Parameters
    ----------
    by_prompt : ndarray of shape (N, T) - cosines with the prompts of the class
    similarity : ndarray of shape (N, C) - cosines with the classes
    own : int - the class
    temperature : float or None

    Returns
    -------
    ndarray of shape (N, T), float64
    """
    prompts, exact = by_prompt.astype(np.float64), similarity.astype(np.float64)
    if temperature is None:
        return prompts
    return np.column_stack([_against(one, exact, own, temperature) for one in prompts.T])


def _against(
    one: NDArray[np.float64], others: NDArray[np.float64], own: int, temperature: float
) -> NDArray[np.float64]:
    rest: NDArray[np.float64] = logsumexp(np.delete(others, own, axis=1) / temperature, axis=1)
    return one / temperature - rest


def measure_findings(
    scores: NDArray[np.floating],
    labels: NDArray[np.int64],
    patients: NDArray[np.int64],
    classes: Sequence[str],
    confidence: float,
    by_prompt: Sequence[NDArray[np.floating]] = (),
) -> tuple[FindingAuroc, ...]:
    """Measure the AUROC of each class against the others.

    Parameters
    ----------
    scores : ndarray of shape (N, C)
    labels, patients : ndarray of shape (N,), int64
    classes : sequence of str, length C
    confidence : float - of the intervals
    by_prompt : sequence of ndarray of shape (N, T_c) - scores of single prompts, class by class
    """
    found = []
    for c, name in enumerate(classes):
        member = labels == c
        single = [auroc(one, member) for one in by_prompt[c].T] if by_prompt else []
        several = len(single) > 1
        strict = auroc_interval(
            scores[:, c], member, patients, 1 - (1 - confidence) / max(len(classes), 1)
        )
        found.append(
            FindingAuroc(
                finding=name,
                films=int(member.sum()),
                auroc=auroc(scores[:, c], member),
                interval=auroc_interval(scores[:, c], member, patients, confidence),
                lowest=min(single) if several else float("nan"),
                highest=max(single) if several else float("nan"),
                flipped=bool(strict.high < _CHANCE),
            )
        )
    return tuple(found)


def assess_findings(
    findings: Sequence[FindingAuroc], min_auroc: float, hidden: Collection[int] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return why an audit cannot go on, and why it can end in nothing better than a fail.

    Parameters
    ----------
    findings : sequence of FindingAuroc
    min_auroc : float - 0: nothing is judged
    hidden : collection of int - classes of so few patients that no number of them is told
    """
    if not min_auroc:
        return (), ()
    stops, doubts = [], []
    for c, one in enumerate(findings):
        told = "" if c in hidden else f" (AUROC {_told(one)})"
        if one.flipped:
            stops.append(
                f"Class {one.finding} is flipped: the model gives it to films without it{told}. "
                f"{_CURE_FLIPPED}"
            )
        elif one.interval.low <= min_auroc:
            doubts.append(
                f"Class {one.finding} is not told from the others{told}; the interval has to lie "
                f"above {min_auroc:g} (gate.min_auroc). {_CURE_LOW}"
            )
    return tuple(stops), tuple(doubts)


def _told(one: FindingAuroc) -> str:
    return f"{one.auroc:.2f}, {one.interval.low:.2f} to {one.interval.high:.2f}"


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
    rulings : tuple of ReviewDecision - of reviewers; empty before any review
    undecided : int or None - correlations that a reviewer still has to decide on; None before any
        review
    sanity : ModelChecks or None - whether the model is wired right; None where it was not looked at
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
    rulings: tuple[ReviewDecision, ...] = ()
    undecided: int | None = None
    hidden_below: int = 0
    sanity: ModelChecks | None = None
    left_edges: tuple[Edge, ...] = ()
    burned_in: BurnedInText | None = None

    def left_edge(self, image: int) -> Edge:
        """Return the side of the patient at the left edge of a film; blank where it is unknown."""
        return self.left_edges[image] if self.left_edges else ""
