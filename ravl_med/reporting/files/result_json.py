"""``result.json``: the numbers of an audit under stable names, with a JSON Schema.

Numbers that do not exist (no films in an arm, no image that qualifies) are ``null``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ravl_med.evidence.adjudication import correlation_id
from ravl_med.evidence.audit_result import AuditResult, VerdictName
from ravl_med.evidence.claims import Counterfactual, PairedChange, SpuriousCorrelation, Strata
from ravl_med.reporting.files.correlation_documents import (
    ArmsDocument,
    ConfirmationDocument,
    CorrelationDocument,
    CrossedAttributeDocument,
    EffectSharesDocument,
    FoundClassDocument,
    FoundDocument,
    LabelQualityDocument,
    PairedChangeDocument,
    RegionDocument,
    RemovalDocument,
    ScoreShiftDocument,
    StrataDocument,
)
from ravl_med.reporting.files.result_documents import (
    AccuracyDocument,
    BurnedInTextDocument,
    ClassAccuracyDocument,
    ClusterMapDocument,
    CohortDocument,
    DiscoveryDocument,
    FindingAurocDocument,
    GateDocument,
    HalfDocument,
    ModelDocument,
    Part,
    PartitionDocument,
    PrevalenceDocument,
    RejectedRowDocument,
    RulingDocument,
    SanityCheckDocument,
    SanityDocument,
    SensitivityDocument,
    StratumDocument,
    TaskDocument,
)
from ravl_med.reporting.pictures import located_boxes

__all__ = ["SCHEMA_VERSION", "ResultDocument", "document_of", "result_schema"]

SCHEMA_VERSION = "3.1"

_LISTED_OF_CANDIDATE = 10


class ResultDocument(Part):
    """An audit."""

    schema_version: str = Field(description="major.minor; the major changes when a name goes")
    name: str = Field(description="of the run")
    hidden_below: int = Field(
        description="counts of fewer patients, and what would tell them, are null; 0: none is"
    )
    burned_in_text: BurnedInTextDocument | None = Field(
        description="text hidden on the films that are shown; null: they are shown as they are "
        "(privacy.burned_in_text), or are phantoms"
    )
    verdict: VerdictName = Field(description="the outcome")
    verdict_reasons: list[str] = Field(description="why, in sentences")
    gates: dict[str, GateDocument] = Field(description="by config key")
    rulings: list[RulingDocument] = Field(description="decisions of reviewers; the verdict follows")
    undecided: int | None = Field(
        description="correlations that a reviewer still has to decide on; null: no review yet"
    )
    model: ModelDocument
    task: TaskDocument
    cohort: CohortDocument
    accuracy: AccuracyDocument
    sanity: SanityDocument | None = Field(description="null: it was not looked at")
    subgroups: list[StratumDocument] = Field(description="accuracy by attribute and value")
    sensitivity: SensitivityDocument | None = Field(description="null: the audit stopped before it")
    discovery: DiscoveryDocument | None = Field(description="null: the audit stopped before it")
    correlations: list[CorrelationDocument] = Field(
        description="by rank; empty is a result: nothing was found"
    )


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
    task, verdict, could = result.task, result.verdict, result.sensitivity
    return ResultDocument(
        schema_version=SCHEMA_VERSION,
        name=result.name,
        hidden_below=result.hidden_below,
        burned_in_text=None
        if result.burned_in is None
        else BurnedInTextDocument.model_validate(result.burned_in),
        verdict=verdict.name,
        verdict_reasons=list(verdict.reasons),
        gates={
            gate.name: GateDocument(passed=gate.passed, text=gate.text) for gate in verdict.gates
        },
        rulings=[RulingDocument.model_validate(ruling) for ruling in result.rulings],
        undecided=result.undecided,
        model=ModelDocument.model_validate(result.model),
        task=TaskDocument(
            name=task.name,
            classes={name: list(texts) for name, texts in task.texts.items()},
            temperature=task.temperature,
            scores=task.scores,
        ),
        cohort=_cohort(result),
        accuracy=_accuracy(result),
        sanity=_sanity(result),
        subgroups=[StratumDocument.model_validate(stratum) for stratum in result.subgroups],
        sensitivity=None if could is None else SensitivityDocument.model_validate(could),
        discovery=_discovery(result),
        correlations=[_correlation(c, result, regions_listed) for c in result.correlations],
    )


def _cohort(result: AuditResult) -> CohortDocument:
    cohort = result.cohort
    return CohortDocument(
        listed=cohort.listed,
        left_out=dict(cohort.left_out),
        rejected=dict(cohort.rejected),
        rejected_rows=[
            RejectedRowDocument(row=row, reason=reason) for row, reason, _ in cohort.rejected_rows
        ],
        images=cohort.images,
        patients=cohort.patients,
        images_by_class=dict(cohort.images_by_class),
        attributes={name: dict(counts) for name, counts in cohort.attributes.items()},
        classes_by_attribute={
            attribute: {
                value: {
                    name: PrevalenceDocument(
                        films=films[c], share=cohort.prevalence(attribute, value, c)
                    )
                    for c, name in enumerate(result.task.classes)
                }
                for value, films in values.items()
            }
            for attribute, values in cohort.classes_by_attribute.items()
        },
        radiology_reports=cohort.radiology_reports,
        synthetic=cohort.synthetic,
    )


def _accuracy(result: AuditResult) -> AccuracyDocument:
    accuracy = result.accuracy
    return AccuracyDocument(
        overall=accuracy.overall,
        interval=accuracy.overall_interval,
        images=accuracy.images,
        classes={
            name: ClassAccuracyDocument(
                images=accuracy.images_by_class[c],
                accuracy=accuracy.by_class[c],
                interval=accuracy.by_class_interval[c],
                predicted_share=accuracy.predicted_share[c],
            )
            for c, name in enumerate(result.task.classes)
        },
    )


def _sanity(result: AuditResult) -> SanityDocument | None:
    sanity = result.sanity
    if sanity is None:
        return None
    return SanityDocument(
        min_auroc=sanity.min_auroc,
        findings={
            one.finding: FindingAurocDocument(
                films=one.films,
                auroc=one.auroc,
                interval=one.interval,
                lowest=one.lowest,
                highest=one.highest,
                flipped=one.flipped,
            )
            for one in sanity.findings
        },
        checks=[SanityCheckDocument.model_validate(check) for check in sanity.checks],
        stops=list(sanity.stops),
        doubts=list(sanity.doubts),
    )


def _discovery(result: AuditResult) -> DiscoveryDocument | None:
    found = result.discovery
    if found is None:
        return None
    return DiscoveryDocument(
        protocol=found.protocol,
        regions=found.regions,
        regions_unseen=found.regions_unseen,
        region_source=found.region_source,
        region_problems=dict(found.region_problems),
        partitions=[PartitionDocument.model_validate(part) for part in found.partitions],
        left_out={str(clusters): reason for clusters, reason in found.left_out.items()},
        clusters=found.clusters,
        survivors=found.survivors,
        candidates=found.candidates,
        discovery_half=HalfDocument(films=found.films, patients=found.patients),
        confirmation_half=HalfDocument(
            films=found.confirmation_films, patients=found.confirmation_patients
        ),
        cluster_map=ClusterMapDocument.model_validate(found.cluster_map),
    )


def _correlation(
    correlation: SpuriousCorrelation, result: AuditResult, regions_listed: int
) -> CorrelationDocument:
    cluster, names = correlation.cluster, result.task.classes
    test, counterfactual = correlation.confirmation, correlation.counterfactual
    lowered = cluster.lowered_class
    listed = regions_listed
    if correlation.counterfactual is None:  # a candidate that nobody has to look into
        listed = min(regions_listed, _LISTED_OF_CANDIDATE)
    return CorrelationDocument(
        rank=correlation.rank,
        correlation_id=correlation_id(result, correlation),
        kind=correlation.kind,
        description=result.descriptions.get(cluster.cluster, ""),
        counts=correlation.counts,
        reasons=list(correlation.reasons),
        task=result.task.name,
        cluster=cluster.cluster,
        also=list(correlation.also),
        companion_of=correlation.companion_of,
        rare=cluster.rare,
        raised_class=names[cluster.raised_class],
        lowered_class=None if lowered is None else names[lowered],
        lowered_classes=[names[c] for c in cluster.lowered_classes],
        opposed_classes=[names[c] for c in cluster.opposed_classes],
        status=test.status,
        confirmed=test.status == "confirmed",
        p_value=test.p_value,
        q_value=test.q_value,
        p_raised=test.p_raised,
        p_lowered=test.p_lowered,
        exact=None if test.status == "not_tested" else test.exact,
        discovery=_found(correlation, names),
        confirmation=_confirmation(correlation, names),
        score_shift=ScoreShiftDocument.model_validate(test.shift),
        removal=_removal(counterfactual),
        transplant=_paired(counterfactual.transplant if counterfactual else None),
        used=counterfactual.used if counterfactual else None,
        used_reasons=list(counterfactual.reasons) if counterfactual else [],
        strata=_strata(correlation.strata),
        labels=None
        if correlation.labels is None
        else LabelQualityDocument.model_validate(correlation.labels),
        films_with_feature=correlation.films,
        regions_total=len(cluster.regions),
        regions=[_region(correlation, int(i), result) for i in correlation.order[:listed]],
    )


def _found(correlation: SpuriousCorrelation, names: tuple[str, ...]) -> FoundDocument:
    cluster = correlation.cluster
    return FoundDocument(
        performance_gap=cluster.performance_gap,
        influence=cluster.influence,
        classes={
            name: FoundClassDocument(
                n_present=int(cluster.n_present[c]),
                n_absent=int(cluster.n_absent[c]),
                accuracy_present=cluster.accuracy_present[c],
                accuracy_absent=cluster.accuracy_absent[c],
                gap=cluster.gap[c],
                weighted_gap=cluster.weighted_gap[c],
            )
            for c, name in enumerate(names)
        },
        opposed_gap=cluster.opposed_gap,
    )


def _confirmation(correlation: SpuriousCorrelation, names: tuple[str, ...]) -> ConfirmationDocument:
    test, arms = correlation.confirmation, correlation.confirmation.arms
    return ConfirmationDocument(
        films=test.films,
        patients=test.patients,
        swapped=test.swapped,
        reasons=list(test.reasons),
        classes={
            name: ArmsDocument(
                n_present=int(arms.n_present[c]),
                n_absent=int(arms.n_absent[c]),
                accuracy_present=arms.accuracy_present[c],
                accuracy_present_interval=arms.present_interval[c],
                accuracy_absent=arms.accuracy_absent[c],
                accuracy_absent_interval=arms.absent_interval[c],
                gap=arms.gap[c],
                gap_interval=arms.gap_interval[c],
            )
            for c, name in enumerate(names)
        },
        opposed_gap=arms.opposed_gap,
        opposed_gap_interval=arms.opposed_interval,
    )


def _removal(counterfactual: Counterfactual | None) -> RemovalDocument | None:
    if counterfactual is None:
        return None
    removal = counterfactual.removal
    return RemovalDocument(
        measured=int(np.isfinite(removal.effect).sum()),
        carrying=int(removal.carries.sum()),
        threshold=removal.threshold,
        median=_paired(removal.median),
        inpainted=_paired(removal.inpainted),
        contrast_ratio=removal.contrast_ratio,
        shares=None
        if removal.shares is None
        else EffectSharesDocument.model_validate(removal.shares),
    )


def _paired(change: PairedChange | None) -> PairedChangeDocument | None:
    return None if change is None else PairedChangeDocument.model_validate(change)


def _strata(strata: Strata | None) -> StrataDocument | None:
    if strata is None:
        return None
    return StrataDocument(
        label_association=strata.label_association,
        attributes={
            crossed.attribute: CrossedAttributeDocument.model_validate(crossed)
            for crossed in strata.attributes
        },
    )


def _region(correlation: SpuriousCorrelation, position: int, result: AuditResult) -> RegionDocument:
    region = int(correlation.cluster.regions[position])
    kind = result.region_kinds[int(result.region_kind[region])]
    tested = correlation.counterfactual
    located = located_boxes(correlation)[position]
    image = int(result.region_image[region])
    return RegionDocument(
        image_id=result.image_ids[image],
        box=_box(result.region_boxes[region]),
        located_box=_box(located) if np.isfinite(located).all() else None,
        left_edge=result.left_edge(image) or None,
        source=kind.source,
        name=kind.words(),
        similarity=correlation.cluster.similarity[position],
        removal_effect=tested.removal.effect[position] if tested else None,
        carries=bool(tested.removal.carries[position]) if tested else None,
    )


def _box(edges: NDArray[np.floating]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (round(float(v), 3) for v in edges)
    return x0, y0, x1, y1
