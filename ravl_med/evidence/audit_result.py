"""What an audit found, as one value: the single source of the report and of ``result.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, FiniteFloat

from ravl_med.cohort.dicom_header import Edge
from ravl_med.discovery.clusters import ClusterMap
from ravl_med.evidence.results import (
    Box,
    BurnedInText,
    Interval,
    ReviewDecision,
    SpuriousCorrelation,
)
from ravl_med.regions.region_set import RegionKind
from ravl_med.storage.documents import Count, Table, document_of, result_type

SCHEMA_VERSION = "4.5"
"""Of ``result.json``: major.minor; the major changes when a name goes."""

ModelCheckStatus = Literal["held", "odd", "failed"]


@result_type(key="finding")
class FindingAuroc:
    """How well the model separates a finding from the other classes."""

    finding: str
    films: Count = Field(description="films of the class")
    auroc: float = Field(description="area under the ROC curve, the class against the others")
    interval: Interval
    lowest: float = Field(description="the same of the single prompt that is worst")
    highest: float = Field(description="and of the best; null: one prompt, or hidden")
    flipped: bool = Field(description="clearly below 0.5")


@result_type("SanityCheckDocument")
class ModelCheck:
    """A look at how the model is wired."""

    name: str = Field(description="what was checked")
    status: ModelCheckStatus = Field(description="held, odd, or failed: the audit stopped")
    text: str = Field(description="what was found")


@result_type("SanityDocument")
class ModelChecks:
    """Whether the model is wired right."""

    min_auroc: FiniteFloat = Field(description="that every interval has to be above; 0: not judged")
    findings: tuple[FindingAuroc, ...] = Field(description="by class")
    checks: tuple[ModelCheck, ...] = Field(description="in the order they were made")
    stops: tuple[str, ...] = Field(description="why the audit could not go on, in sentences")
    doubts: tuple[str, ...] = Field(description="why it could end in nothing better than a fail")


VerdictName = Literal["fail", "review", "conditional", "pass", "not_auditable"]
"""Conditional: a pass but for what a reviewer tolerates for a time."""


@result_type()
class Stratum:
    """Accuracy on the films with one value of an attribute."""

    attribute: str = Field(description="such as view or sex")
    value: str = Field(description="such as AP or F")
    films: Count = Field(description="films with this value")
    patients: Count = Field(description="patients that they belong to")
    accuracy: float = Field(description="share of the films that are called right")
    interval: Interval
    difference: float = Field(
        description="accuracy minus that of the other films, adjusted for class mix"
    )
    p_value: float = Field(description="two-sided, by exchange of whole patients within class")
    q_value: float = Field(description="Benjamini-Hochberg over all comparisons")
    insufficient: bool = Field(description="too few films or patients to say anything")


@result_type()
class AttributeValue:
    """How often a label goes with one value of an attribute."""

    value: str = Field(description="such as AP; pooled where an attribute has many")
    finding: str = Field(description="the class")
    patients: Count = Field(description="patients with a labelled film of this value")
    with_finding: Count = Field(description="those of them whose film is of the class")
    elsewhere: float = Field(description="share of the class among patients with other values")
    p_value: float = Field(
        description="of a value under which the class always, or never, occurs: that chance does "
        "does this, exact binomial, Bonferroni over all attributes, values and classes; null: "
        "neither, or chance may"
    )


@result_type(eq=False)
class Confounder:
    """How far an attribute of the acquisition or the patient goes with the label, without a model.

    Each patient counts once: the films of a patient share its weight.
    """

    attribute: str = Field(description="such as view or manufacturer")
    left_out: str = Field(default="", description="why it could not be measured; blank: it was")
    association: float = Field(
        default=math.nan, description="bias-corrected Cramér's V: 0 none, 1 inseparable"
    )
    interval: Interval = Field(
        default=Interval(math.nan, math.nan), description="of it, by bootstrap of the patients"
    )
    auroc: float = Field(
        default=math.nan,
        description="of a classifier that knows this attribute alone, each class against the "
        "others, cross-validated by patient, mean of the classes",
    )
    auroc_interval: Interval = Field(
        default=Interval(math.nan, math.nan), description="of the mean, by patient"
    )
    finding: str = Field(default="", description="the class that it predicts best")
    finding_auroc: float = Field(default=math.nan, description="AUROC of this class")
    finding_interval: Interval = Field(
        default=Interval(math.nan, math.nan),
        description="of it, by patient, corrected for the choice among the classes",
    )
    strongest: AttributeValue | None = Field(
        default=None, description="the value that says most of the label; null: all are rare"
    )
    sentence: str = Field(
        default="", description="what page one says of a confounder; blank: it is none"
    )
    patients: NDArray[np.int64] | None = Field(
        default=None,
        exclude=True,
        description="(V, C), by value and class; None once hidden, or where it was not measured",
    )


@result_type()
class DetectableGap:
    """What would have been found of a feature that is in a given share of the films."""

    prevalence: FiniteFloat = Field(description="share of the films with the feature")
    gap: float = Field(
        description="smallest gap found with this power; null: not even the largest possible"
    )
    power_at_largest: float = Field(description="power at the largest gap that is possible")
    interval: Interval = Field(
        default=Interval(math.nan, math.nan),
        description="of the gap, by the number of simulations; null: beyond the largest gap",
    )


@result_type()
class LocalEffectBound:
    """What a local feature that the audit does not name may cost, at most."""

    points: float = Field(
        description="accuracy on these films, upper confidence limit: the larger of the next two"
    )
    seen: float = Field(
        description="of the features that were checked and not named, the one that may cost "
        "most: share of the films that have it and are called wrongly as the class that it raises, "
        "times the upper limit of the share of these calls that removing it undoes: by those that "
        "were tried, or by how far it moves the margin"
    )
    unseen: float = Field(
        description="of a feature that no effect proposed: it has to show in wrong calls, and so "
        "many of those that were mapped are needed for a proposal"
    )
    looked_at: int = Field(description="features that were checked and not named, but for signs")
    films: Count = Field(description="films of the discovery half whose effects were mapped")
    wrong: Count = Field(description="of them called wrongly")


@result_type()
class Sensitivity:
    """What this audit could have found, by simulation of cohorts like this one."""

    power: FiniteFloat = Field(description="power that a detectable gap has to have, such as 0.8")
    simulations: int = Field(description="simulated cohorts for each prevalence")
    candidates: int = Field(description="candidates that multiplicity was charged for")
    detectable: tuple[DetectableGap, ...] = Field(description="by prevalence of the feature")
    clusters: int = Field(description="clusters that were proposed")
    tested: int = Field(description="clusters with enough films on both halves to be tested")
    untested: Mapping[str, int] = Field(description="the other clusters, by reason")
    local: LocalEffectBound | None = Field(
        default=None, description="null: the model could not be run on changed films"
    )


@result_type(members="name classes=texts temperature scores")
class TaskSummary:
    """The zero-shot task."""

    name: str = Field(description="as the config calls it")
    classes: tuple[str, ...]
    texts: Mapping[str, tuple[str, ...]] = Field(description="the texts of each class, verbatim")
    temperature: FiniteFloat = Field(description="tau: cosine similarities are divided by it")
    scores: str = Field(
        default="softmax",
        description="softmax over the classes, sigmoid of each, a table of a model that nobody "
        "can open, or answers of a model that writes: yes_no, choice or report",
    )


@result_type()
class ModelSummary:
    """The model under audit."""

    name: str = Field(description="as the config calls it")
    architecture: str = Field(description="as the model folder calls it")
    digest: str = Field(description="SHA-256 over everything that was loaded")
    image_size: int = Field(description="side of the input in pixels")
    resize_mode: str = Field(description="how a film becomes a square")
    region_pooling: str = Field(description="where in the image tower regions are pooled")
    parameters: int = Field(description="number of weights")
    logit_scale: float | None = Field(
        default=None, description="what the model multiplies cosines with"
    )
    logit_bias: float | None = Field(
        default=None, description="and adds; of models with a sigmoid loss"
    )
    digests: Mapping[str, str] = Field(
        default_factory=dict, description="SHA-256 of weights, config, tokenizer and prompts"
    )


@result_type()
class RejectedRow:
    """A row of the manifest whose film could not be read."""

    row: int = Field(description="row of the manifest; the header is row 1")
    reason: str = Field(description="reason code")


@result_type()
class Prevalence:
    """The films of one class among those with one value of an attribute."""

    films: Count = Field(description="films of the class with the value")
    share: float = Field(description="of all films with the value")


@result_type()
class Leak:
    """Audited films that stand somewhere else too, they or their patient."""

    place: str = Field(description="another split, or model.trained_on")
    images: Count = Field(description="of the audited films")
    patients: Count = Field(description="of the audited patients")
    fitted: bool = Field(description="what a model is fitted on, so that these are no test of it")
    share: Literal["some", "most", "all"] = Field(description="of the audited patients")


@result_type(
    members="listed left_out rejected rejected_rows=unread leaks not_compared images patients"
    " images_by_class attributes classes_by_attribute=prevalences radiology_reports synthetic"
)
class CohortSummary:
    """Who was audited, in counts."""

    listed: int = Field(description="rows of the manifest")
    left_out: Mapping[str, int] = Field(
        description="rows that split or task do not take, by reason"
    )
    rejected: Mapping[str, int] = Field(description="films that could not be read, by reason code")
    rejected_rows: tuple[tuple[int, str, str], ...] = Field(
        description="row of the manifest, reason code and message of each of them"
    )
    images: Count = Field(description="films that were audited")
    patients: Count = Field(description="patients that they belong to")
    images_by_class: Mapping[str, Count] = Field(description="audited films of each class")
    attributes: Mapping[str, Mapping[str, Count]] = Field(
        description="audited films by value of each attribute, such as view or sex"
    )
    radiology_reports: Count = Field(description="audited films with a report text")
    synthetic: bool = Field(description="phantoms only, no patient")
    patients_by_class: Mapping[str, int] | None = Field(
        default=None, description="None where a film is a patient"
    )
    attribute_patients: Mapping[str, Mapping[str, int]] | None = Field(
        default=None, description="as attributes, in patients; None where a film is a patient"
    )
    classes_by_attribute: Mapping[str, Mapping[str, tuple[int, ...]]] = Field(
        default_factory=dict,
        description="films of each class by attribute and value; empty where nobody counted them",
    )
    class_patients: Mapping[str, Mapping[str, tuple[int, ...]]] | None = Field(
        default=None, description="the same in patients; None where a film is a patient"
    )
    leaks: tuple[Leak, ...] = Field(
        default=(),
        description="films, or nearly the same ones, or patients, that are in another split or "
        "list as well",
    )
    not_compared: int = Field(
        default=0,
        description="films of other splits whose pixels were not compared (cohort.compared_films)",
    )

    def prevalence(self, attribute: str, value: str, index: int) -> float:
        """Return the share of the films with a value that are of a class; NaN where hidden."""
        films = self.classes_by_attribute[attribute][value][index]
        of = self.attributes.get(attribute, {}).get(value, 0)
        return films / of if films >= 0 and of > 0 else math.nan

    def prevalences(
        self, result: AuditResult
    ) -> Mapping[str, Mapping[str, Mapping[str, Prevalence]]]:
        """By attribute, value and class: how frequent each class is there."""
        return {
            attribute: {
                value: {
                    name: Prevalence(films[c], self.prevalence(attribute, value, c))
                    for c, name in enumerate(result.classes)
                }
                for value, films in values.items()
            }
            for attribute, values in self.classes_by_attribute.items()
        }

    @property
    def unread(self) -> tuple[RejectedRow, ...]:
        """Each of them."""
        return tuple(RejectedRow(row, reason) for row, reason, _ in self.rejected_rows)


@result_type(
    members="overall interval=overall_interval images classes",
    tables=(
        Table(
            "classes",
            row="ClassAccuracyDocument",
            doc="Accuracy on the films of one class.",
            columns="images=images_by_class accuracy=by_class interval=by_class_interval"
            " predicted_share",
        ),
    ),
)
class Accuracy:
    """Zero-shot accuracy on all audited films."""

    overall: float = Field(description="share of the films that are called right")
    overall_interval: Interval
    images: int = Field(description="films of all classes")
    by_class: tuple[float, ...] = Field(description="share of them that the model calls so")
    by_class_interval: tuple[Interval, ...]
    images_by_class: tuple[Count, ...] = Field(description="films of the class")
    predicted_share: tuple[float, ...] = Field(
        description="share of the films of all classes that the model calls so"
    )


@result_type()
class PartitionSummary:
    """One clustering of all regions."""

    clusters: int = Field(description="K, the number of medoids")
    draw: int = Field(description="number of the sample that the medoids were fitted on, from 0")
    loss: float = Field(description="mean cosine distance of the regions to their medoids")


@result_type()
class Half:
    """One half of the patients."""

    films: Count = Field(description="films of the half")
    patients: Count = Field(description="patients of the half; none is in the other")


@result_type(
    members="protocol regions regions_unseen region_source region_problems partitions left_out"
    " clusters survivors candidates discovery_half confirmation_half cluster_map"
)
class DiscoverySummary:
    """How candidates were searched for."""

    protocol: str = Field(description="'pooled' over several K, or the 'paper's single best K")
    regions: int = Field(description="regions of all films")
    regions_unseen: int = Field(
        description="regions left out, as the model sees too little of them"
    )
    region_source: str = Field(description="what a region is, such as 6 x 6 tiles")
    region_problems: Mapping[str, int] = Field(
        description="what was to be a region and is none, counted by reason"
    )
    partitions: tuple[PartitionSummary, ...] = Field(
        description="clusterings that clusters come from"
    )
    left_out: Mapping[int, str] = Field(description="K that were not used, each with its reason")
    clusters: int = Field(description="clusters proposed, near-duplicates folded into one")
    survivors: int = Field(description="clusters that pass RaVL's filters")
    candidates: int = Field(description="clusters that went on to the test")
    films: Count = Field(description="of the discovery half")
    confirmation_films: Count = Field(description="of the confirmation half")
    patients: Count = Field(description="of the discovery half")
    confirmation_patients: Count = Field(description="of the confirmation half")
    cluster_map: ClusterMap

    @property
    def discovery_half(self) -> Half:
        """On it candidates were chosen."""
        return Half(self.films, self.patients)

    @property
    def confirmation_half(self) -> Half:
        """On it they were tested."""
        return Half(self.confirmation_films, self.confirmation_patients)


@result_type(key="name")
class Gate:
    """A threshold of the config that the verdict depends on."""

    name: str
    passed: bool = Field(description="it held")
    text: str = Field(description="what was found beside what is required")
    open: bool = Field(default=False, description="it hangs on what a person has not decided yet")


@result_type()
class Verdict:
    """The outcome, with its reasons and every gate."""

    name: VerdictName = Field(description="the outcome")
    reasons: tuple[str, ...] = Field(description="why, in sentences")
    gates: tuple[Gate, ...] = Field(default=(), description="by config key")


DependenceGroup = Literal["structure", "anatomy", "style"]


@result_type()
class DependenceCell:
    """What a change of the films does to the answers about one finding."""

    finding: str = Field(description="class of the task")
    group: DependenceGroup = Field(
        description="structure: one is covered; anatomy: what is relevant or all else is; style: "
        "the whole film looks otherwise"
    )
    change: str = Field(description="such as heart, relevant covered, gamma 0.7")
    films: Count = Field(description="films that could be changed so")
    patients: Count = Field(description="patients that they belong to")
    covered: float = Field(description="share of the input that is covered; null for a style")
    steps: float = Field(
        description="size of the change of style in standard deviations over the films; null where "
        "the style has no measure"
    )
    shift: float = Field(
        description="mean change of the finding's margin, in its standard deviations over the films"
    )
    shift_interval: Interval
    flips: float = Field(description="share of the films whose call for the finding changes")
    flips_interval: Interval
    auroc_before: float = Field(description="of the finding against all others, same films")
    auroc_after: float = Field(description="the same on the changed films")
    auroc_interval: Interval = Field(description="of auroc_after")
    correlation: float = Field(description="of the margins before and after, over the films")
    note: str = Field(default="", description="why nothing was measured; blank: it was")


@result_type()
class StyleDependence:
    """What one finding gains when a style goes from the low to the high end among these films."""

    finding: str = Field(description="class of the task")
    style: str = Field(description="brightness, gamma, contrast, or frame: width of a dark border")
    films: Count = Field(description="films whose style could be measured and set")
    patients: Count = Field(description="patients that they belong to")
    spread: float = Field(description="standard deviation of the style over the films")
    low: float = Field(description="level one standard deviation below the mean of the films")
    high: float = Field(description="and one above")
    shift: float = Field(
        description="mean of the margin at the high minus at the low level, in its standard "
        "deviations over the films"
    )
    shift_interval: Interval = Field(description="corrected for all findings and styles")
    association: float = Field(
        description="correlation of style and margin over the films as they are, adjusted for label"
    )
    association_interval: Interval = Field(description="corrected for all findings and styles")
    exceeds: bool = Field(
        description="the shift lies beyond evidence.max_style_shift, and films that differ so by "
        "themselves are answered otherwise in the same direction"
    )


@result_type()
class Dependence:
    """What the answers depend on: structures of the films, and their style."""

    films: Count = Field(description="films that were changed")
    patients: Count = Field(description="patients that they belong to")
    pictures: int = Field(description="films and changed films that the model was run on")
    max_style_shift: FiniteFloat = Field(description="evidence.max_style_shift of the run")
    cells: tuple[DependenceCell, ...] = Field(description="finding by change")
    styles: tuple[StyleDependence, ...] = Field(
        description="finding by style, over the spread that these films have by themselves"
    )
    findings: tuple[str, ...] = Field(description="styles that a reviewer has to decide on")


@result_type()
class LookingCell:
    """What is answered when something else is shown in place of the film."""

    condition: str = Field(description="such as the film, a blank film, noise, another patient")
    films: Count = Field(description="films in whose place it could be shown")
    patients: Count = Field(description="patients that they belong to")
    accuracy: float = Field(description="share of the answers that are the label of the film")
    accuracy_interval: Interval
    auroc: float = Field(description="of the labels of the films, mean of the findings")
    unchanged: float = Field(description="share of the answers that are those to the film")
    unchanged_interval: Interval
    note: str = Field(default="", description="why nothing was measured; blank: it was")


@result_type()
class Regrounding:
    """What becomes of right calls when places of findings are covered."""

    finding: str = Field(description="class of the task; the films are called so, rightly")
    kind: str = Field(
        description="direct: its own places are covered, and the call persists; contextual: those "
        "of other findings are, and the call falls"
    )
    films: Count = Field(description="films that could be covered so")
    patients: Count = Field(description="patients that they belong to")
    share: float = Field(description="share of these films; small where a model looks well")
    interval: Interval
    note: str = Field(default="", description="why nothing was measured; blank: it was")


@result_type()
class Rewording:
    """Whether answers stay when the question is put in other words."""

    wording: str = Field(description="of the question, or the order of yes and no")
    unchanged: float = Field(description="share of the films that are called as before")
    unchanged_interval: Interval
    correlation: float = Field(description="of the margins before and after, mean of the findings")


@result_type()
class LookingCheck:
    """Whether the model looks at the film."""

    films: Count = Field(description="films that were asked about")
    patients: Count = Field(description="patients that they belong to")
    conditions: tuple[LookingCell, ...] = Field(description="by what is shown")
    grounding: tuple[Regrounding, ...] = Field(description="by finding and kind")
    wordings: tuple[Rewording, ...] = Field(description="empty for a model without questions")
    ignores: str = Field(description="why it ignores the film, in a sentence; blank: it does not")


@result_type()
class WrittenPair:
    """What a model writes of a film, and of the same film with a feature removed."""

    rank: int = Field(description="of the correlation whose feature it is")
    image: str = Field(description="pseudonym of the film")
    before: str = Field(description="report of the film, greedily; numbers and names are masked")
    after: str = Field(description="report of the film with the place of the feature filled")


@result_type(eq=False)
class FilmChange:
    """A film before and after a feature is taken out of it or put into it, drawn at random."""

    rank: int = Field(description="of the correlation whose feature it is")
    image: str = Field(description="pseudonym of the film")
    change: Literal["removal", "insertion"] = Field(description="taken out, or put in")
    box: Box = Field(description="[x0, y0, x1, y1] in stored pixels, where the film is changed")
    label: str = Field(description="reference class of the film; blank: none")
    called: str = Field(description="class that the model says before")
    score: float = Field(description="its score, softmax over the classes")
    called_after: str = Field(description="class that it says after")
    score_after: float = Field(description="its score")
    patch: NDArray[np.uint8] = Field(
        exclude=True, description="(h, w) what the box holds after, at the model's resolution"
    )


@result_type(eq=False)
class FilmAnswers:
    """Reference label and answer of each of N films, as ``predictions.parquet`` has them."""

    labels: NDArray[np.int64] = Field(description="(N,) class of each film")
    called: NDArray[np.int64] = Field(description="(N,) class that the model says")
    score: NDArray[np.float32] = Field(description="(N,) its score")


@result_type(
    "ResultDocument",
    "schema_version name hidden_below burned_in_text=burned_in verdict=verdict.name"
    " verdict_reasons=verdict.reasons verdict.gates rulings to_decide undecided model task cohort"
    " accuracy sanity looking written changes dependence subgroups confounders sensitivity "
    "discovery correlations about",
    doc="An audit.",
    eq=False,
)
class AuditResult:
    """Everything that a run found on N films with R regions."""

    name: str = Field(description="of the run")
    title: str = Field(description="of the report")
    verdict: Verdict
    task: TaskSummary
    model: ModelSummary
    cohort: CohortSummary
    accuracy: Accuracy
    discovery: DiscoverySummary | None = Field(description="null: the audit stopped before it")
    correlations: tuple[SpuriousCorrelation, ...] = Field(
        description="by rank; empty is a result: nothing was found"
    )
    descriptions: Mapping[int, str] = Field(
        description="by cluster: what its regions are and where they lie"
    )
    subgroups: tuple[Stratum, ...] = Field(description="accuracy by attribute and value")
    sensitivity: Sensitivity | None = Field(description="null: the audit stopped before it")
    image_ids: tuple[str, ...] = Field(description="pseudonyms of the N films")
    region_image: NDArray[np.int64] = Field(description="(R,), film of each region")
    region_boxes: NDArray[np.float32] = Field(
        description="(R, 4), xyxy in stored pixels, origin at the outer corner of the top-left "
        "pixel, half-open"
    )
    region_kind: NDArray[np.int64] = Field(description="(R,), position in region_kinds")
    region_kinds: tuple[RegionKind, ...] = Field(description="all that there are")
    rulings: tuple[ReviewDecision, ...] = Field(
        default=(), description="decisions of reviewers; the verdict follows"
    )
    to_decide: tuple[int, ...] | None = Field(
        default=None,
        description="ranks of the correlations that a reviewer has to decide on, decided or not; "
        "null: not known",
    )
    hidden_below: int = Field(
        default=0,
        description="counts of fewer patients, and what they follow from, are null; 0: none is",
    )
    sanity: ModelChecks | None = Field(default=None, description="null: it was not checked")
    left_edges: tuple[Edge, ...] = Field(
        default=(),
        description="side of the patient at the left edge of each film; empty where nothing is "
        "known of any, as of runs before it was noted",
    )
    burned_in: BurnedInText | None = Field(
        default=None,
        description="text hidden on the films that are shown; null: they are shown as they are "
        "(privacy.burned_in_text), or are phantoms",
    )
    about: Mapping[str, str] = Field(
        default_factory=dict,
        description="institution, operator and intended_use, as far as the config states them",
    )
    confounders: tuple[Confounder, ...] | None = Field(
        default=None,
        description="attributes that go with the label, the closest first; null: not checked",
    )
    dependence: Dependence | None = Field(
        default=None,
        description="null: it was not measured (evidence.dependence_films 0, a table of scores)",
    )
    looking: LookingCheck | None = Field(
        default=None,
        description="null: it was not asked whether the model looks at the film "
        "(evidence.looking_films 0, a table of scores, too few films)",
    )
    written: tuple[WrittenPair, ...] | None = Field(
        default=None,
        description="by rank, of correlations that count; null: the model writes nothing, or the "
        "audit stopped",
    )
    changes: tuple[FilmChange, ...] = Field(
        default=(), description="by rank, of correlations that count or have to be decided on"
    )
    films_digest: str = Field(
        default="", description="SHA-256 over the digests of the films, whoever audits them"
    )
    answers: FilmAnswers | None = Field(
        default=None, exclude=True, description="None: not known, as of older runs"
    )

    @property
    def open_ranks(self) -> tuple[int, ...]:
        """Ranks of what still has to be decided on."""
        counting = {one.rank for one in self.correlations if one.counts}
        decided = {one.rank for one in self.rulings if one.in_force and one.settles(counting)}
        return tuple(rank for rank in self.to_decide or () if rank not in decided)

    @property
    def undecided(self) -> int | None:
        """Correlations that a reviewer still has to decide on; null: not known."""
        return None if self.to_decide is None else len(self.open_ranks)

    @property
    def schema_version(self) -> str:
        """Major.minor; the major changes when a name goes."""
        return SCHEMA_VERSION

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the task."""
        return self.task.classes

    def left_edge(self, image: int) -> Edge:
        """Return the side of the patient at the left edge of a film; blank where it is unknown."""
        return self.left_edges[image] if self.left_edges else ""


_LISTED_OF_CANDIDATE = 10  # regions of a candidate that nobody has to look into


def result_document(result: AuditResult, regions_listed: int) -> BaseModel:
    """Return what ``result.json`` says, with so many regions of each that was tested on the model.

    Of the others it lists a few.
    """
    few = min(regions_listed, _LISTED_OF_CANDIDATE)

    def listed(one: SpuriousCorrelation) -> int:
        return regions_listed if one.counterfactual and one.counterfactual.tested else few

    return document_of(
        replace(
            result,
            correlations=tuple(
                replace(one, order=one.order[: listed(one)]) for one in result.correlations
            ),
        )
    )
