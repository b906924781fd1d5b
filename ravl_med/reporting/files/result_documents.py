"""The parts of ``result.json``, but for its correlations, and what each number means.

Accuracies and gaps are shares between -1 and 1, effects are in logits. A number that does not
exist, such as the accuracy of an arm without films, is ``null``.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ravl_med.evidence.claims import Interval
from ravl_med.evidence.rulings import Word
from ravl_med.evidence.sanity import SanityStatus

__all__ = [
    "AccuracyDocument",
    "Bounds",
    "BurnedInTextDocument",
    "ClassAccuracyDocument",
    "ClusterMapDocument",
    "CohortDocument",
    "Count",
    "DetectableGapDocument",
    "DiscoveryDocument",
    "FindingAurocDocument",
    "GateDocument",
    "HalfDocument",
    "MappedClusterDocument",
    "ModelDocument",
    "Number",
    "Part",
    "PartitionDocument",
    "PrevalenceDocument",
    "RejectedRowDocument",
    "RulingDocument",
    "SanityCheckDocument",
    "SanityDocument",
    "SensitivityDocument",
    "StratumDocument",
    "TaskDocument",
]


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _bounds(value: Any) -> Any:
    return (value.low, value.high) if isinstance(value, Interval) else value


def _count(value: int | None) -> int | None:
    return None if value is None or value < 0 else int(value)


Number = Annotated[float | None, BeforeValidator(_number)]
Count = Annotated[int | None, BeforeValidator(_count)]
"""A number of films or patients; null: hidden, since so few patients may not be told."""
Bounds = Annotated[
    tuple[Number, Number],
    BeforeValidator(_bounds),
    Field(description="[low, high] of a confidence interval, by patient; null: nothing to tell"),
]


class Part(BaseModel):
    """A part of the file; reads its fields off the dataclass of the same shape."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), from_attributes=True
    )


class ModelDocument(Part):
    """The model under audit."""

    name: str = Field(description="as the config calls it")
    architecture: str = Field(description="as the model folder calls it")
    digest: str = Field(description="SHA-256 over everything that was loaded")
    image_size: int = Field(description="side of the input in pixels")
    resize_mode: str = Field(description="how a film becomes a square")
    region_pooling: str = Field(description="where in the image tower regions are pooled")
    parameters: int = Field(description="number of weights")
    logit_scale: float | None = Field(description="what the model multiplies cosines with")
    logit_bias: float | None = Field(description="and adds; of models with a sigmoid loss")
    digests: dict[str, str] = Field(description="SHA-256 of weights, config, tokenizer and prompts")


class TaskDocument(Part):
    """The zero-shot task."""

    name: str = Field(description="as the config calls it")
    classes: dict[str, list[str]] = Field(description="the texts of each class, verbatim")
    temperature: float = Field(description="tau: cosine similarities are divided by it")
    scores: str = Field(
        description="softmax over the classes, sigmoid of each, or a table of a model that nobody "
        "can open"
    )


class RejectedRowDocument(Part):
    """A row of the manifest whose film could not be read."""

    row: int = Field(description="row of the manifest; the header is row 1")
    reason: str = Field(description="reason code")


class PrevalenceDocument(Part):
    """The films of one class among those with one value of an attribute."""

    films: Count = Field(description="films of the class with the value")
    share: Number = Field(description="of all films with the value")


class CohortDocument(Part):
    """Who was audited, in counts."""

    listed: int = Field(description="rows of the manifest")
    left_out: dict[str, int] = Field(description="rows that split or task do not take, by reason")
    rejected: dict[str, int] = Field(description="films that could not be read, by reason code")
    rejected_rows: list[RejectedRowDocument] = Field(description="each of them")
    images: Count = Field(description="films that were audited")
    patients: Count = Field(description="patients that they belong to")
    images_by_class: dict[str, Count] = Field(description="audited films of each class")
    attributes: dict[str, dict[str, Count]] = Field(
        description="audited films by value of each attribute, such as view or sex"
    )
    classes_by_attribute: dict[str, dict[str, dict[str, PrevalenceDocument]]] = Field(
        description="by attribute, value and class: how frequent each class is there"
    )
    radiology_reports: Count = Field(description="audited films with a report text")
    synthetic: bool = Field(description="phantoms only, no patient")


class BurnedInTextDocument(Part):
    """Text burned into the films that the report shows; never what it says."""

    method: str = Field(description="what it was looked for with")
    reads: bool = Field(description="allowed words were told from others and left")
    films: int = Field(description="films that are shown")
    masked: int = Field(description="of them with text hidden")
    areas: int = Field(description="lines of text that were hidden")
    allowed: int = Field(description="films with words that may be shown (privacy.shown_words)")
    declared: int = Field(description="films whose header says so, (0028,0301) YES")


class ClassAccuracyDocument(Part):
    """Accuracy on the films of one class."""

    images: Count = Field(description="films of the class")
    accuracy: Number = Field(description="share of them that the model calls so")
    interval: Bounds
    predicted_share: Number = Field(
        description="share of the films of all classes that the model calls so"
    )


class AccuracyDocument(Part):
    """Zero-shot accuracy on all audited films."""

    overall: Number = Field(description="share of the films that are called right")
    interval: Bounds
    images: int = Field(description="films of all classes")
    classes: dict[str, ClassAccuracyDocument] = Field(description="class by class")


class FindingAurocDocument(Part):
    """How well a finding is told from the other classes."""

    films: Count = Field(description="films of the class")
    auroc: Number = Field(description="area under the ROC curve, the class against the others")
    interval: Bounds
    lowest: Number = Field(description="the same of the single prompt that is worst")
    highest: Number = Field(description="and of the best; null: one prompt, or hidden")
    flipped: bool = Field(description="clearly below 0.5")


class SanityCheckDocument(Part):
    """A look at how the model is wired."""

    name: str = Field(description="what was looked at")
    status: SanityStatus = Field(description="held, odd, or failed: the audit stopped")
    text: str = Field(description="what was found")


class SanityDocument(Part):
    """Whether the model is wired right."""

    min_auroc: float = Field(description="that every interval has to be above; 0: not judged")
    findings: dict[str, FindingAurocDocument] = Field(description="by class")
    checks: list[SanityCheckDocument] = Field(description="in the order they were made")
    stops: list[str] = Field(description="why the audit could not go on, in sentences")
    doubts: list[str] = Field(description="why it could end in nothing better than a fail")


class StratumDocument(Part):
    """Accuracy on the films with one value of an attribute."""

    attribute: str = Field(description="such as view or sex")
    value: str = Field(description="such as AP or F")
    films: Count = Field(description="films with this value")
    patients: Count = Field(description="patients that they belong to")
    accuracy: Number = Field(description="share of the films that are called right")
    interval: Bounds
    difference: Number = Field(
        description="accuracy minus that of the other films, classes held apart"
    )
    p_value: Number = Field(description="two-sided, by exchange of whole patients within class")
    q_value: Number = Field(description="Benjamini-Hochberg over all comparisons")
    insufficient: bool = Field(description="too few films or patients to say anything")


class DetectableGapDocument(Part):
    """What would have been found of a feature that is in a given share of the films."""

    prevalence: float = Field(description="share of the films with the feature")
    gap: Number = Field(
        description="smallest gap found with the asked power; null: not even the largest possible"
    )
    power_at_largest: Number = Field(description="power at the largest gap that is possible")


class SensitivityDocument(Part):
    """What this audit could have found, by simulation of cohorts like this one."""

    power: float = Field(description="power that is asked of a detectable gap, such as 0.8")
    simulations: int = Field(description="simulated cohorts for each prevalence")
    candidates: int = Field(description="candidates that multiplicity was charged for")
    detectable: list[DetectableGapDocument] = Field(description="by prevalence of the feature")
    clusters: int = Field(description="clusters that were proposed")
    tested: int = Field(description="clusters with enough films on both halves to be tested")
    untested: dict[str, int] = Field(description="the other clusters, by reason")


class HalfDocument(Part):
    """One half of the patients."""

    films: Count = Field(description="films of the half")
    patients: Count = Field(description="patients of the half; none is in the other")


class PartitionDocument(Part):
    """One clustering of all regions."""

    clusters: int = Field(description="K, the number of medoids")
    draw: int = Field(description="number of the sample that the medoids were fitted on, from 0")
    loss: Number = Field(description="mean cosine distance of the regions to their medoids")


class MappedClusterDocument(Part):
    """A feature cluster on the map."""

    cluster: int = Field(description="number of the cluster")
    x: float = Field(description="of its medoid, in distances on the unit sphere")
    y: float = Field(description="the same, upwards")
    regions: int = Field(description="regions of the cluster")
    rank: int | None = Field(description="of the correlation that it is; null: it is none")


class ClusterMapDocument(Part):
    """Where the clusters lie to each other: classical scaling of the distances of their medoids."""

    kept: Number = Field(description="share of the squared distances that the map holds")
    correlation: Number = Field(description="of distances on the map with the true ones")
    clusters: list[MappedClusterDocument] = Field(description="every cluster that was proposed")


class DiscoveryDocument(Part):
    """How candidates were searched for."""

    protocol: str = Field(description="'pooled' over several K, or the 'paper's single best K")
    regions: int = Field(description="regions of all films")
    regions_unseen: int = Field(
        description="regions left out, as the model sees too little of them"
    )
    region_source: str = Field(description="what a region is, such as 6 x 6 tiles")
    region_problems: dict[str, int] = Field(
        description="what was to be a region and is none, counted by reason"
    )
    partitions: list[PartitionDocument] = Field(description="clusterings that clusters come from")
    left_out: dict[str, str] = Field(description="K that were not used, each with its reason")
    clusters: int = Field(description="clusters proposed, near-duplicates folded into one")
    survivors: int = Field(description="clusters that pass RaVL's filters")
    candidates: int = Field(description="clusters that went on to the test")
    discovery_half: HalfDocument = Field(description="on it candidates were chosen")
    confirmation_half: HalfDocument = Field(description="on it they were tested")
    cluster_map: ClusterMapDocument


class GateDocument(Part):
    """A threshold of the config that the verdict depends on."""

    passed: bool = Field(description="it held")
    text: str = Field(description="what was found beside what is asked")


class RulingDocument(Part):
    """A decision of a reviewer."""

    rank: int = Field(description="of the correlation")
    word: Word = Field(description="disease, accepted for a time, or shortcut")
    until: str = Field(description="last day of an acceptance; blank without")
    reason: str = Field(description="as the reviewer gave it")
    name: str = Field(description="of the reviewer")
    date: str = Field(description="of the decision")
    in_force: bool = Field(description="false: the acceptance has expired")
