"""``result.json``: the numbers of an audit under stable names, with a JSON Schema.

Numbers that do not exist (no films in an arm, no image that qualifies) are ``null``.

The parts of ``result.json``, but for its correlations, and what each number means.

Accuracies and gaps are shares between -1 and 1, effects are in logits. A number that does not
exist, such as the accuracy of an arm without films, is ``null``.

A correlation in ``result.json``: how it was found, tested, and whether the model uses it.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ravl_med.config.cohort import RegionSource
from ravl_med.evidence.audit_result import AuditResult, ModelCheckStatus, VerdictName
from ravl_med.evidence.results import (
    ConfirmationStatus,
    Counterfactual,
    Decision,
    Interval,
    Kind,
    PairedChange,
    SpuriousCorrelation,
    StatedOutcome,
    Strata,
)
from ravl_med.evidence.review import correlation_id
from ravl_med.reporting.pictures import located_boxes


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
    status: ModelCheckStatus = Field(description="held, odd, or failed: the audit stopped")
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
    word: Decision = Field(description="disease, accepted for a time, or shortcut")
    until: str = Field(description="last day of an acceptance; blank without")
    reason: str = Field(description="as the reviewer gave it")
    name: str = Field(description="of the reviewer")
    date: str = Field(description="of the decision")
    in_force: bool = Field(description="false: the acceptance has expired")


class FoundClassDocument(Part):
    """One class with and without the feature, on the films that the candidate was chosen on."""

    n_present: Count = Field(description="films of the class with the feature")
    n_absent: Count = Field(description="films of the class without it")
    accuracy_present: Number = Field(description="accuracy on those with it")
    accuracy_absent: Number = Field(description="accuracy on those without it")
    gap: Number = Field(description="accuracy_present - accuracy_absent")
    weighted_gap: Number = Field(description="RaVL's G_c^y; 0 where a side is empty")


class FoundDocument(Part):
    """The measures of RaVL by which a candidate was chosen; picked for being large."""

    performance_gap: Number = Field(description="RaVL's G_c, the sum of all |weighted_gap|")
    influence: Number = Field(description="RaVL's H_c; null where no mistake qualifies")
    classes: dict[str, FoundClassDocument] = Field(description="class by class")
    opposed_gap: Number = Field(description="gap of the opposed classes taken together")


class ArmsDocument(Part):
    """One class with and without the feature, on the films of the test."""

    n_present: Count = Field(description="films of the class with the feature")
    n_absent: Count = Field(description="films of the class without it")
    accuracy_present: Number = Field(description="accuracy on those with it")
    accuracy_present_interval: Bounds
    accuracy_absent: Number = Field(description="accuracy on those without it")
    accuracy_absent_interval: Bounds
    gap: Number = Field(description="accuracy_present - accuracy_absent")
    gap_interval: Bounds


class ConfirmationDocument(Part):
    """The measures on patients that had no part in choosing the candidate."""

    films: Count = Field(description="films of the test")
    patients: Count = Field(description="patients of the test")
    swapped: bool = Field(
        description="chosen on the confirmation half and tested on the discovery half (cross-fit)"
    )
    reasons: list[str] = Field(description="why it is not confirmed; empty when it is")
    classes: dict[str, ArmsDocument] = Field(description="class by class")
    opposed_gap: Number = Field(description="gap of the opposed classes taken together")
    opposed_gap_interval: Bounds


class ScoreShiftDocument(Part):
    """How far the margin moves with the feature, on the films of the test.

    The margin is the logit of the raised class minus that of the lowered class.
    """

    raised: Number = Field(
        description="mean margin of films of the raised class with the feature, minus without"
    )
    raised_interval: Bounds
    lowered: Number = Field(description="the same on films of the lowered class")
    lowered_interval: Bounds


class PairedChangeDocument(Part):
    """How far an intervention moves the margin, against the same intervention on a control.

    The margin is the logit of the raised class minus that of the lowered class.
    """

    pairs: Count = Field(description="films, each with its control")
    patients: Count = Field(description="patients that the films belong to")
    change: Number = Field(description="mean change of the margin, in logits")
    control: Number = Field(description="the same on the controls")
    contrast: Number = Field(description="change - control")
    interval: Bounds = Field(
        description="of the contrast, corrected for the number of correlations tested so"
    )
    decisions: Number = Field(
        description="share of films whose decision changes, minus that of the controls"
    )
    decisions_interval: Bounds


class EffectSharesDocument(Part):
    """In what the removal effect lies, from what each part of a region costs the model."""

    inside: Number = Field(description="share in anatomy where the raised class shows")
    artifact: Number = Field(description="share in artifacts")
    elsewhere: Number = Field(description="share in other anatomy")
    regions: int = Field(description="regions that were taken apart")
    unknown: int = Field(description="regions on films where none of that anatomy was found")


class RemovalDocument(Part):
    """What happens when the regions of the cluster are filled from their surroundings."""

    measured: int = Field(description="regions whose effect was measured")
    carrying: int = Field(description="regions among them with an effect of the threshold or more")
    threshold: Number = Field(
        description="least effect of a region that carries the feature, from the discovery half"
    )
    median: PairedChangeDocument | None = Field(
        description="fall of the margin when filled with the median around; null: no pairs"
    )
    inpainted: PairedChangeDocument | None = Field(
        description="fall of the margin when filled by inpainting; null: no pairs"
    )
    contrast_ratio: Number = Field(
        description="how strongly the fill changes the region, over the same on the control; "
        "1 is a perfect match"
    )
    shares: EffectSharesDocument | None = Field(
        description="in what the effect of a used feature lies; null: not used, or the table of "
        "relevance does not know the raised class"
    )


class StratumGapDocument(Part):
    """The gap of one class on the films with one value of an attribute."""

    value: str = Field(description="such as AP")
    n_present: Count = Field(description="films of the class with the feature")
    n_absent: Count = Field(description="films of the class without it")
    gap: Number = Field(description="accuracy with minus without; null: an arm is empty")
    interval: Bounds


class CrossedAttributeDocument(Part):
    """The correlation inside the strata of one attribute."""

    association: Number = Field(description="Cramer's V of the feature and the attribute")
    raised: list[StratumGapDocument] = Field(description="raised class, by value")
    raised_adjusted: Number = Field(
        description="gap of the raised class over all strata (Mantel-Haenszel risk difference)"
    )
    raised_interval: Bounds = Field(description="of raised_adjusted, by patient")
    lowered: list[StratumGapDocument] = Field(description="lowered class, by value")
    lowered_adjusted: Number = Field(description="the same for the lowered class")
    lowered_interval: Bounds = Field(description="of lowered_adjusted, by patient")
    empty: list[str] = Field(description="strata that say nothing, as an arm is empty")


class StrataDocument(Part):
    """The correlation inside views, scanners, sexes, ages: does it survive there."""

    label_association: Number = Field(
        description="Cramer's V of the feature and the label, which RaVL assumes to be near 0"
    )
    attributes: dict[str, CrossedAttributeDocument] = Field(description="attribute by attribute")


class LabelShareDocument(Part):
    """The films whose labels are of one kind, with the feature and without it."""

    value: str = Field(description="such as manifest, report: impression, or stated")
    n_present: Count = Field(description="films with the feature")
    n_absent: Count = Field(description="films without it")
    share_present: Number = Field(description="share of the films with the feature")
    share_absent: Number = Field(description="share of the films without it")


class StatedGapDocument(Part):
    """A gap on the films of the test whose labels are stated, as no policy had to decide."""

    n_present: Count = Field(description="films with the feature")
    n_absent: Count = Field(description="films without it")
    gap: Number = Field(description="accuracy with minus without; null: too few films, or hidden")
    interval: Bounds
    outcome: StatedOutcome = Field(
        description="unchanged: every label was stated; holds: the interval keeps to the side of "
        "the gap on all labels; vanishes: it holds 0; turns: it lies on the other side; "
        "insufficient: fewer films in an arm than evidence.min_n; hidden: of few patients"
    )


class LabelQualityDocument(Part):
    """The labels behind a correlation: a gap can be one of labels and not of the model."""

    n_present: Count = Field(description="audited films with the feature")
    n_absent: Count = Field(description="audited films without it")
    sources: list[LabelShareDocument] = Field(
        description="by where labels come from: the manifest, or sections of the report"
    )
    certainty: list[LabelShareDocument] = Field(
        description="stated, uncertain and blank: whether labels.uncertain or labels.blank decided"
    )
    not_stated: LabelShareDocument = Field(description="uncertain and blank together")
    difference: Number = Field(
        description="share of labels that are not stated, with the feature minus without it"
    )
    interval: Bounds = Field(description="of the difference, by patient")
    raised: StatedGapDocument = Field(description="gap of the raised class on stated labels alone")
    lowered: StatedGapDocument | None = Field(
        description="gap of the opposed classes together on stated labels alone; null: none are"
    )


class RegionDocument(Part):
    """One region; lists run by removal effect, descending, then by similarity."""

    image_id: str = Field(description="pseudonym of the film")
    box: tuple[float, float, float, float] = Field(
        description="[x0, y0, x1, y1] in stored pixels, from the top left corner of the film"
    )
    located_box: tuple[float, float, float, float] | None = Field(
        description="where its removal effect lies: moved, grown or shrunk; null: not measured"
    )
    left_edge: Literal["R", "L", "A", "P", "H", "F"] | None = Field(
        description="side of the patient at the left edge of the film: right, left, front, back, "
        "head or feet; null: not stated"
    )
    source: RegionSource = Field(description="what proposed it")
    name: str = Field(description="such as tile 2,5, or pulse generator, left shoulder")
    similarity: Number = Field(description="cosine similarity to the medoid, the paper's order")
    removal_effect: Number = Field(
        description="margin before minus after filling, in logits; null: not measured"
    )
    carries: bool | None = Field(
        description="its effect is the threshold or more; null: removal was not tested"
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Take the side of a film for unknown in files before schema 3.1, which do not name it."""
        return {"left_edge": None, **data} if isinstance(data, dict) else data


class CorrelationDocument(Part):
    """One candidate with its evidence."""

    rank: int = Field(description="1 for the first")
    correlation_id: str = Field(
        description="12 hex digits of model, raised class and regions; what review.csv calls it"
    )
    kind: Kind = Field(description="by where the removal effect lies")
    description: str = Field(
        description="what its regions are called and where on the film they lie; blank: no regions"
    )
    counts: bool = Field(
        description="confirmed, used by the model, and above the gate: it decides the verdict"
    )
    reasons: list[str] = Field(description="the rules that it does not pass")
    task: str = Field(description="name of the task")
    cluster: int = Field(description="number of the cluster of regions")
    also: list[int] = Field(description="clusters that share its regions and are shown as this one")
    companion_of: int | None = Field(
        description="rank of the counting correlation that it travels with: with that feature held "
        "fixed its own gap goes away, or its effect lies in the same place"
    )
    rare: bool = Field(
        description="a candidate for its unweighted gaps alone, which RaVL's filters drop"
    )
    raised_class: str = Field(description="class that the feature raises")
    lowered_class: str | None = Field(
        description="class that is lowered most; null: the raised side alone can be tested"
    )
    lowered_classes: list[str] = Field(description="all lowered classes, the most lowered first")
    opposed_classes: list[str] = Field(description="the first of them, tested together as one")
    status: ConfirmationStatus = Field(
        description="outcome of the test on patients that had no part in choosing it"
    )
    confirmed: bool = Field(description="status is confirmed")
    p_value: Number = Field(description="of both sides together, or of the raised one alone")
    q_value: Number = Field(description="Benjamini-Hochberg over all candidates")
    p_raised: Number = Field(description="one-sided, of the raised class; null: not tested")
    p_lowered: Number = Field(description="one-sided, of the opposed classes; null: not tested")
    exact: bool | None = Field(
        description="hypergeometric, not by drawn exchanges of patients; null: not tested"
    )
    discovery: FoundDocument
    confirmation: ConfirmationDocument
    score_shift: ScoreShiftDocument
    removal: RemovalDocument | None = Field(description="null: not tested")
    transplant: PairedChangeDocument | None = Field(
        description="rise of the margin when the feature is blended into other films; null: not "
        "tested, or no place for it"
    )
    used: bool | None = Field(
        description="removal lowers the margin and transplant, where possible, raises it; null: "
        "not tested"
    )
    used_reasons: list[str] = Field(description="why it is not called used")
    strata: StrataDocument | None = Field(description="null: not looked at")
    labels: LabelQualityDocument | None = Field(
        description="the labels behind it; null: it does not hold, or nobody knows their source"
    )
    films_with_feature: Count = Field(
        description="audited films with at least one region of the cluster"
    )
    regions_total: int = Field(description="regions of the cluster on all films")
    regions: list[RegionDocument] = Field(description="the first of them")


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
        name=kind.text(),
        similarity=correlation.cluster.similarity[position],
        removal_effect=tested.removal.effect[position] if tested else None,
        carries=bool(tested.removal.carries[position]) if tested else None,
    )


def _box(edges: NDArray[np.floating]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (round(float(v), 3) for v in edges)
    return x0, y0, x1, y1
