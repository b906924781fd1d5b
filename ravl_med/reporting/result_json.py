"""``result.json``: the numbers of an audit under stable names, with a JSON Schema.

Numbers that do not exist (no films in an arm, no image that qualifies) are ``null``.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ravl_med.evidence.audit_result import AuditResult, Interval, SpuriousCorrelation

__all__ = ["SCHEMA_VERSION", "ResultDocument", "document_of", "result_schema"]

SCHEMA_VERSION = "1.0"

Bounds = tuple[float | None, float | None]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelDocument(_Part):
    """The model under audit."""

    name: str
    architecture: str
    digest: str
    image_size: int = Field(description="side of the input in pixels")
    resize_mode: str
    region_pooling: str
    parameters: int


class CohortDocument(_Part):
    """Counts of the cohort."""

    listed: int = Field(description="rows of the manifest")
    left_out: dict[str, int] = Field(description="rows that split or task do not take, by reason")
    rejected: dict[str, int] = Field(description="films that could not be read, by reason code")
    images: int
    patients: int
    images_by_class: dict[str, int]
    attributes: dict[str, dict[str, int]]
    radiology_reports: int
    synthetic: bool


class ClassAccuracyDocument(_Part):
    """Accuracy on the films of one class."""

    images: int
    accuracy: float | None
    interval: Bounds
    predicted_share: float = Field(description="share of all films that the model calls so")


class AccuracyDocument(_Part):
    """Zero-shot accuracy."""

    overall: float | None
    interval: Bounds
    classes: dict[str, ClassAccuracyDocument]


class DiscoveryDocument(_Part):
    """How the search was done."""

    regions: int
    regions_unseen: int
    region_source: str
    clusters: int
    silhouettes: dict[int, float]
    survivors: int


class ClassGapDocument(_Part):
    """One class with and without the feature."""

    n_present: int
    n_absent: int
    accuracy_present: float | None
    accuracy_present_interval: Bounds
    accuracy_absent: float | None
    accuracy_absent_interval: Bounds
    gap: float | None = Field(description="accuracy_present - accuracy_absent")
    gap_interval: Bounds
    weighted_gap: float = Field(description="RaVL's G_c^y")


class RemovalDocument(_Part):
    """Removal effect over the regions of a cluster, in logits."""

    mean: float | None
    interval: Bounds
    measured: int
    inside_share: float | None = Field(
        description="share of the positive effect that lies where the raised class shows"
    )


class RegionDocument(_Part):
    """One region; lists run by removal effect, descending."""

    image_id: str
    box: tuple[float, float, float, float] = Field(description="xyxy in stored pixels")
    name: str
    similarity: float = Field(description="cosine similarity to the medoid, the paper's order")
    removal_effect: float | None


class CorrelationDocument(_Part):
    """One correlation."""

    rank: int
    kind: Literal["shortcut", "plausible_sign", "undecided"]
    counts: bool = Field(description="passes every rule of evidence")
    reasons: list[str] = Field(description="the rules that it does not pass")
    task: str
    cluster: int
    raised_class: str
    lowered_classes: list[str]
    performance_gap: float
    influence: float | None
    classes: dict[str, ClassGapDocument]
    removal: RemovalDocument
    regions_total: int
    regions: list[RegionDocument]


class TaskDocument(_Part):
    """The zero-shot task, texts verbatim."""

    name: str
    classes: dict[str, list[str]]
    temperature: float


class ResultDocument(_Part):
    """An audit."""

    schema_version: str
    name: str
    verdict: Literal["fail", "review", "pass", "not_auditable"]
    verdict_reasons: list[str]
    model: ModelDocument
    task: TaskDocument
    cohort: CohortDocument
    accuracy: AccuracyDocument
    discovery: DiscoveryDocument | None
    correlations: list[CorrelationDocument]


def result_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``result.json``."""
    return ResultDocument.model_json_schema()


def document_of(result: AuditResult, regions_listed: int) -> ResultDocument:
    """Turn an audit result into the document that is written.

    Parameters
    ----------
    result : AuditResult
    regions_listed : int - regions listed for each correlation
    """
    model, cohort, accuracy = result.model, result.cohort, result.accuracy
    return ResultDocument(
        schema_version=SCHEMA_VERSION,
        name=result.name,
        verdict=result.verdict.name,
        verdict_reasons=list(result.verdict.reasons),
        model=ModelDocument(
            name=model.name,
            architecture=model.architecture,
            digest=model.digest,
            image_size=model.image_size,
            resize_mode=model.resize_mode,
            region_pooling=model.region_pooling,
            parameters=model.parameters,
        ),
        task=TaskDocument(
            name=result.task.name,
            classes={name: list(texts) for name, texts in result.task.texts.items()},
            temperature=result.task.temperature,
        ),
        cohort=CohortDocument(
            listed=cohort.listed,
            left_out=dict(cohort.left_out),
            rejected=dict(cohort.rejected),
            images=cohort.images,
            patients=cohort.patients,
            images_by_class=dict(cohort.images_by_class),
            attributes={name: dict(counts) for name, counts in cohort.attributes.items()},
            radiology_reports=cohort.radiology_reports,
            synthetic=cohort.synthetic,
        ),
        accuracy=AccuracyDocument(
            overall=_number(accuracy.overall),
            interval=_bounds(accuracy.overall_interval),
            classes={
                name: ClassAccuracyDocument(
                    images=accuracy.images_by_class[c],
                    accuracy=_number(accuracy.by_class[c]),
                    interval=_bounds(accuracy.by_class_interval[c]),
                    predicted_share=accuracy.predicted_share[c],
                )
                for c, name in enumerate(result.task.classes)
            },
        ),
        discovery=_discovery(result),
        correlations=[_correlation(c, result, regions_listed) for c in result.correlations],
    )


def _discovery(result: AuditResult) -> DiscoveryDocument | None:
    found = result.discovery
    if found is None:
        return None
    return DiscoveryDocument(
        regions=found.regions,
        regions_unseen=found.regions_unseen,
        region_source=found.region_source,
        clusters=found.clusters,
        silhouettes=dict(found.silhouettes),
        survivors=found.survivors,
    )


def _correlation(
    correlation: SpuriousCorrelation, result: AuditResult, regions_listed: int
) -> CorrelationDocument:
    cluster, names, removal = correlation.cluster, result.task.classes, correlation.removal
    gap = cluster.gap
    return CorrelationDocument(
        rank=correlation.rank,
        kind=correlation.kind,
        counts=correlation.counts,
        reasons=list(correlation.reasons),
        task=result.task.name,
        cluster=cluster.cluster,
        raised_class=names[cluster.raised_class],
        lowered_classes=[names[c] for c in cluster.lowered_classes],
        performance_gap=cluster.performance_gap,
        influence=_number(cluster.influence),
        classes={
            name: ClassGapDocument(
                n_present=int(cluster.n_present[c]),
                n_absent=int(cluster.n_absent[c]),
                accuracy_present=_number(cluster.accuracy_present[c]),
                accuracy_present_interval=_bounds(correlation.accuracy_present_interval[c]),
                accuracy_absent=_number(cluster.accuracy_absent[c]),
                accuracy_absent_interval=_bounds(correlation.accuracy_absent_interval[c]),
                gap=_number(gap[c]),
                gap_interval=_bounds(correlation.gap_interval[c]),
                weighted_gap=float(cluster.weighted_gap[c]),
            )
            for c, name in enumerate(names)
        },
        removal=RemovalDocument(
            mean=_number(removal.mean),
            interval=_bounds(removal.interval),
            measured=int(np.isfinite(removal.effect).sum()),
            inside_share=_number(removal.inside_share),
        ),
        regions_total=len(cluster.regions),
        regions=[_region(correlation, int(i), result) for i in correlation.order[:regions_listed]],
    )


def _region(correlation: SpuriousCorrelation, position: int, result: AuditResult) -> RegionDocument:
    region = int(correlation.cluster.regions[position])
    x0, y0, x1, y1 = (round(float(v), 3) for v in result.region_boxes[region])
    return RegionDocument(
        image_id=result.image_ids[int(result.region_image[region])],
        box=(x0, y0, x1, y1),
        name=result.region_names[region],
        similarity=float(correlation.cluster.similarity[position]),
        removal_effect=_number(correlation.removal.effect[position]),
    )


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _bounds(interval: Interval) -> Bounds:
    return _number(interval.low), _number(interval.high)
