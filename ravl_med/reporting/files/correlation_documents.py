"""A correlation in ``result.json``: how it was found, tested, and whether the model uses it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ravl_med.config import RegionSource
from ravl_med.evidence.claims import ConfirmationStatus, Kind
from ravl_med.evidence.label_claims import StatedOutcome
from ravl_med.reporting.files.result_documents import Bounds, Count, Number, Part

__all__ = [
    "ArmsDocument",
    "ConfirmationDocument",
    "CorrelationDocument",
    "CrossedAttributeDocument",
    "FoundClassDocument",
    "FoundDocument",
    "LabelQualityDocument",
    "LabelShareDocument",
    "PairedChangeDocument",
    "RegionDocument",
    "RemovalDocument",
    "ScoreShiftDocument",
    "StatedGapDocument",
    "StrataDocument",
    "StratumGapDocument",
]


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
