"""A spurious correlation and all that is known of it, as values.

It was found on one part of the patients and tested on the others; its regions were filled in, and
it was crossed with attributes and with the origin of the labels. Arrays have a value for each of C
classes of the task, or for each of n regions of a cluster.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, FiniteFloat

from ravl_med.config.cohort import RegionSource
from ravl_med.discovery.candidates import FeatureCluster, FeatureDetector
from ravl_med.storage.documents import Count, Number, Table, result_type

if TYPE_CHECKING:
    from ravl_med.evidence.audit_result import AuditResult


@result_type(
    written=Annotated[
        tuple[Number, Number],
        BeforeValidator(lambda interval: (interval.low, interval.high)),
        Field(description="[low, high] of a confidence interval, by patient; null: not known"),
    ]
)
class Interval:
    """A two-sided confidence interval; NaN bounds where there was nothing to estimate from."""

    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


UNKNOWN = Interval(math.nan, math.nan)
"""The interval of what could not be estimated."""


@result_type()
class BurnedInText:
    """Text burned into the films that the report shows; never what it says."""

    method: str = Field(description="what it was looked for with")
    reads: bool = Field(description="allowed words were recognised and left")
    films: int = Field(description="films that are shown")
    masked: int = Field(description="of them with text hidden")
    areas: int = Field(description="lines of text that were hidden")
    allowed: int = Field(description="films with words that may be shown (privacy.shown_words)")
    declared: int = Field(description="films whose header says so, (0028,0301) YES")


@dataclass(frozen=True, slots=True)
class Check:
    """A rule: whether it is met, and what is said where it is not."""

    passed: bool
    reason: str


def failed_reasons(checks: Iterable[Check]) -> tuple[str, ...]:
    """Return the reasons of the checks that did not pass."""
    return tuple(check.reason for check in checks if not check.passed)


_ROUNDING = 1e-9  # 0.9 - 0.8 is a harm of 0.1
FOREIGN = 0.5  # share of an effect in artifacts from which it is theirs
_SHARP = 0.6  # of the films: 0.5 by chance, somewhat more where ribs and vessels lie

StatedOutcome = Literal["unchanged", "holds", "vanishes", "turns", "insufficient", "hidden"]


@result_type()
class LabelShare:
    """The films whose labels are of one kind, with the feature and without it."""

    value: str = Field(description="such as manifest, report: impression, or stated")
    n_present: Count = Field(description="films with the feature")
    n_absent: Count = Field(description="films without it")
    share_present: float = Field(description="share of the films with the feature")
    share_absent: float = Field(description="share of the films without it")
    patients: tuple[int, int] | None = Field(
        default=None,
        exclude=True,
        description="with and without the feature; None where a film is a patient",
    )


@result_type()
class StatedGap:
    """A gap on the films of the test whose labels are stated, as no policy had to decide."""

    n_present: Count = Field(description="films with the feature")
    n_absent: Count = Field(description="films without it")
    gap: float = Field(description="accuracy with minus without; null: too few films, or hidden")
    interval: Interval
    outcome: StatedOutcome = Field(
        description="unchanged: every label was stated; holds: the interval keeps to the side of "
        "the gap on all labels; vanishes: it holds 0; turns: it lies on the other side; "
        "insufficient: fewer films in an arm than evidence.min_n; hidden: of few patients"
    )


@result_type(eq=False)
class LabelQuality:
    """The labels behind a correlation: a gap can be one of labels and not of the model."""

    n_present: Count = Field(description="audited films with the feature")
    n_absent: Count = Field(description="audited films without it")
    sources: tuple[LabelShare, ...] = Field(
        description="by where labels come from: the manifest, or sections of the report"
    )
    certainty: tuple[LabelShare, ...] = Field(
        description="stated, uncertain and blank: whether labels.uncertain or labels.blank decided"
    )
    not_stated: LabelShare = Field(description="uncertain and blank together")
    difference: float = Field(
        description="share of labels that are not stated, with the feature minus without it"
    )
    interval: Interval = Field(description="of the difference, by patient")
    raised: StatedGap = Field(description="gap of the raised class on stated labels alone")
    lowered: StatedGap | None = Field(
        description="gap of the opposed classes together on stated labels alone; null: none are"
    )
    patients: NDArray[np.int64] | None = Field(
        default=None,
        exclude=True,
        description="(3, 2, 2), behind the gaps: raised side, lowered side, all other films; with "
        "and without the feature; stated and not. None once hidden",
    )

    @property
    def one_source(self) -> str:
        """Where all labels come from; blank where they come from several places."""
        return self.sources[0].value if len(self.sources) == 1 else ""

    @property
    def all_stated(self) -> bool:
        """Whether no policy had to decide on any label."""
        return self.not_stated.n_present == 0 and self.not_stated.n_absent == 0


ConfirmationStatus = Literal["confirmed", "raised_only", "not_confirmed", "not_tested"]
Kind = Literal["shortcut", "plausible_sign", "undecided"]


@dataclass(frozen=True, slots=True, eq=False)
class ArmPatients:
    """Patients with films on either side of a feature, (C,); one with films on both is in both."""

    present: NDArray[np.int64]
    absent: NDArray[np.int64]


@result_type(
    eq=False,
    tables=(
        Table(
            "classes",
            row="ArmsDocument",
            doc="One class with and without the feature, on the films of the test.",
            columns="n_present n_absent accuracy_present accuracy_present_interval=present_interval"
            " accuracy_absent accuracy_absent_interval=absent_interval gap gap_interval",
        ),
    ),
)
class AccuracyByPresence:
    """Accuracy of each class with and without a feature, on the films it is tested on.

    Intervals are a bootstrap by patient, not corrected: multiplicity is the business of the
    q-value. The gap of the opposed classes together has the weights n_in n_out / n.
    """

    n_present: NDArray[np.int64] = Field(description="films of the class with the feature")
    n_absent: NDArray[np.int64] = Field(description="films of the class without it")
    accuracy_present: NDArray[np.float64] = Field(description="accuracy on those with it")
    accuracy_absent: NDArray[np.float64] = Field(description="accuracy on those without it")
    present_interval: tuple[Interval, ...]
    absent_interval: tuple[Interval, ...]
    gap_interval: tuple[Interval, ...]
    opposed_gap: float = Field(description="gap of the opposed classes taken together")
    opposed_interval: Interval
    patients: ArmPatients | None = Field(default=None, description="None where a film is a patient")

    @property
    def gap(self) -> NDArray[np.float64]:
        """Accuracy with minus without the feature; null where an arm is empty."""
        return self.accuracy_present - self.accuracy_absent


@result_type()
class ScoreShift:
    """How far the margin moves with the feature, on the films of the test.

    The margin is the logit of the raised class minus that of the lowered class.
    """

    raised: float = Field(
        description="mean margin of films of the raised class with the feature, minus without"
    )
    raised_interval: Interval
    lowered: float = Field(description="the same on films of the lowered class")
    lowered_interval: Interval


@result_type(
    members="films patients swapped reasons arms.classes arms.opposed_gap"
    " opposed_gap_interval=arms.opposed_interval",
    eq=False,
)
class Confirmation:
    """The measures on patients that had no part in choosing the candidate."""

    status: ConfirmationStatus = Field(
        description="outcome of the test on patients that had no part in choosing it"
    )
    reasons: tuple[str, ...] = Field(description="why it is not confirmed; empty when it is")
    films: Count = Field(description="films of the test")
    patients: Count = Field(description="patients of the test")
    p_raised: float = Field(description="one-sided, of the raised class; null: not tested")
    p_lowered: float = Field(description="one-sided, of the opposed classes; null: not tested")
    p_value: float = Field(description="of both sides together, or of the raised one alone")
    q_value: float = Field(description="Benjamini-Hochberg over all candidates")
    exact: bool = Field(description="hypergeometric, not by drawn exchanges of patients")
    arms: AccuracyByPresence
    shift: ScoreShift
    swapped: bool = Field(
        default=False,
        description="chosen on the confirmation half and tested on the discovery half (cross-fit)",
    )


@result_type()
class PairedChange:
    """How far an intervention moves the margin, against the same intervention on a control.

    The margin is the logit of the raised class minus that of the lowered class. Intervals and p are
    by patient (Student's t), not corrected: multiplicity is the business of the q-value.
    """

    pairs: Count = Field(description="films, each with its control")
    patients: Count = Field(description="patients that the films belong to")
    change: float = Field(description="mean change of the margin, in logits")
    change_interval: Interval = Field(description="of the change itself")
    control: float = Field(description="the same on the controls")
    contrast: float = Field(description="change - control")
    interval: Interval = Field(description="of the contrast")
    decisions: float = Field(
        description="share of films whose decision changes, minus that of the controls"
    )
    decisions_interval: Interval
    p_value: float = Field(
        description="one-sided, of: the change by itself, or beyond its control, is at most "
        "evidence.min_effect of the spread (the larger of the two)"
    )


@result_type(members="inside inside_interval artifact lowered elsewhere edges regions unknown")
class EffectShares:
    """In what the removal effect lies, from what each part of a region costs the model."""

    inside: float = Field(description="share in anatomy where the raised class shows")
    inside_interval: Interval = Field(description="of that share, by patient")
    artifact: float = Field(description="share in artifacts")
    regions: int = Field(description="regions that were taken apart")
    unknown: int = Field(description="regions on films where none of that anatomy was found")
    lowered: float = Field(default=0.0, description="share elsewhere, where a lowered class shows")
    edges: bool = Field(
        default=False, description="the finding has sharp edges itself, so that they say nothing"
    )

    @property
    def elsewhere(self) -> float:
        """Share in other anatomy."""
        return 1.0 - self.inside - self.artifact

    @property
    def speaks_by_lack(self) -> bool:
        """Whether a per cent of it, as reports round, lies where a lowered class shows."""
        return round(100 * self.lowered) > 0


@result_type(
    members="measured carrying threshold spread explored typical replaced both"
    " wrong_calls called imbalance sharper sharper_interval shares",
    eq=False,
)
class Removal:
    """What happens when the places of a feature are filled.

    The effect of a region is the margin before minus the margin after a window over it is filled as
    like places of other films are, less the usual drop of that place. Positive: it speaks for the
    raised class. The test fills the place with the largest effect of a film in a second way too:
    with a like place of one film without the feature.
    """

    effect: NDArray[np.float64] = Field(
        description="(n,), logits, in the order of cluster.regions; NaN where not measured"
    )
    carries: NDArray[np.bool_] = Field(
        description="(n,), measured regions that pass the trimming rule"
    )
    threshold: float = Field(
        description="least effect of a region that carries the feature, from the discovery half"
    )
    spread: float = Field(
        default=math.nan,
        description="standard deviation of the margin over the mapped films, untouched; null: no "
        "film was mapped",
    )
    explored: PairedChange | None = Field(
        default=None,
        description="fall of the margin in the effect maps of the discovery half, not corrected; "
        "it chooses what is tested; null: too few mapped films with the feature or without",
    )
    typical: PairedChange | None = Field(
        default=None,
        description="filled with the most ordinary of like places; null: too few pairs",
    )
    replaced: PairedChange | None = Field(
        default=None, description="filled with a like place of a film without the feature"
    )
    both: PairedChange | None = Field(
        default=None, description="the mean of both fills, film by film: this is tested"
    )
    wrong_calls: PairedChange | None = Field(
        default=None,
        description="on films of other classes that are called as the raised one, the typical fill "
        "beside the same at places of the same film that lie beside and hold up such calls most; "
        "its decisions are the share of these calls that removal undoes. On the discovery half "
        "where it was not tested, or too few such films are left; null: too few such films",
    )
    called: float = Field(
        default=math.nan,
        description="share of the films of other classes with the feature that are called so",
    )
    imbalance: float = Field(
        default=math.nan,
        description="mean margin of the films minus that of their controls, as a share of the "
        "spread; 0 is a perfect match",
    )
    sharper: float = Field(
        default=math.nan,
        description="share of the films whose place holds finer detail than the same of its "
        "control: things have edges, and what is of the body is blurred; by chance 0.5",
    )
    sharper_interval: Interval = Field(
        default=Interval(math.nan, math.nan), description="of that share, by patient"
    )
    shares: EffectShares | None = Field(
        default=None,
        description="in what the effect of a used feature lies; null: not used, or the table of "
        "relevance does not know the raised class",
    )
    located: NDArray[np.float32] | None = Field(
        default=None,
        description="(n, 4), where the effect lies, xyxy in stored pixels: the window with the "
        "largest effect over the region; those of a used feature with the largest effects are "
        "adjusted to the area of effect. NaN where the effect was not measured, None where nothing "
        "was",
    )

    @property
    def size(self) -> float:
        """Contrast of removal, mean of both fills, as a share of the spread; NaN without pairs."""
        if self.both is None or not self.spread > 0:
            return math.nan
        return self.both.contrast / self.spread

    @property
    def harm(self) -> float:
        """Share of the films of other classes with the feature whose wrong call is its doing."""
        return self.called * self.wrong_calls.decisions if self.wrong_calls else math.nan

    def undoes(self, least: float) -> bool:
        """Whether the harm is a share or more, and calls and margin fall by no chance."""
        wrong = self.wrong_calls
        shown = wrong is not None and min(wrong.decisions_interval.low, wrong.interval.low) > 0
        return shown and self.harm > 0 and self.harm >= least - _ROUNDING

    @property
    def is_sharp(self) -> bool:
        """Whether more than six in ten of its places are sharper than those of their controls."""
        return self.sharper_interval.low > _SHARP

    @property
    def measured(self) -> int:
        """Regions whose effect was measured."""
        return int(np.isfinite(self.effect).sum())

    @property
    def carrying(self) -> int:
        """Regions among them with an effect of the threshold or more."""
        return int(self.carries.sum())


@result_type(eq=False)
class Counterfactual:
    """Whether the model uses the feature or the feature only travels along.

    It is used where removal lowers the margin or transplant raises it: by more than
    ``evidence.min_effect`` of the spread, by itself and beyond what the same does to a control. The
    two make one test (a union): its p is twice the smaller of theirs.
    """

    removal: Removal = Field(description="null: not tested")
    transplant: PairedChange | None = Field(
        description="rise of the margin when the feature is put into films of other classes, "
        "against an ordinary place; null: not tested, or no place for it"
    )
    used: bool = Field(
        description="removal lowers the margin or transplant raises it; null: not tested"
    )
    reasons: tuple[str, ...] = Field(description="why it is not called used; empty when it is")
    p_value: float = Field(
        default=math.nan,
        description="that neither moves the margin by enough: twice the smaller p of the two, that "
        "of removal being 1 where the two fills disagree; null: not tested",
    )
    q_value: float = Field(
        default=math.nan, description="Benjamini-Hochberg over all features that were tested so"
    )
    shown_by: tuple[str, ...] = Field(
        default=(), description="the interventions that show it: removal, transplant"
    )
    tested: bool = Field(
        default=True,
        description="on held-out patients; false: the effect maps of the discovery half show no "
        "effect that a test could confirm",
    )

    @property
    def travels(self) -> bool:
        """Whether transplant shows that it is used: it does its work on other films too."""
        return "transplant" in self.shown_by

    @property
    def does_less_elsewhere(self) -> bool:
        """Whether it is shown to move other films less than its own, by independent intervals."""
        own, moved = self.removal.both, self.transplant
        if own is None or moved is None:
            return False
        widths = [one.interval.high - one.interval.low for one in (own, moved)]
        return own.contrast - moved.contrast > math.hypot(*widths) / 2.0

    @property
    def is_man_made(self) -> bool:
        """Whether it travels and looks man-made: in artifacts for the most part, or sharp."""
        shares = self.removal.shares
        artifact = shares is not None and shares.artifact >= FOREIGN
        return self.travels and (artifact or self.removal.is_sharp)

    @property
    def changed_answers(self) -> float:
        """Largest share of answers that an intervention which shows use changes, by no chance."""
        made = {"removal": self.removal.both, "transplant": self.transplant}
        shown = (one for one in map(made.get, self.shown_by) if one)
        return max((o.decisions for o in shown if o.decisions_interval.low > 0), default=0.0)

    def map_changes(self, on: Callable[[PairedChange], PairedChange]) -> Counterfactual:
        """Return it with each comparison of removal and transplant replaced."""
        removal, moved = self.removal, self.transplant
        names = ("explored", "typical", "replaced", "both", "wrong_calls")
        known = {name: getattr(removal, name) for name in names}
        changed: dict[str, Any] = {name: on(one) for name, one in known.items() if one}
        removal = replace(removal, **changed)
        return replace(self, removal=removal, transplant=on(moved) if moved else None)


@result_type()
class StratumGap:
    """The gap of one class on the films with one value of an attribute."""

    value: str = Field(description="such as AP")
    n_present: Count = Field(description="films of the class with the feature")
    n_absent: Count = Field(description="films of the class without it")
    gap: float = Field(description="accuracy with minus without; null: an arm is empty")
    interval: Interval
    patients: tuple[int, int] | None = Field(
        default=None,
        exclude=True,
        description="with and without the feature; None where a film is a patient",
    )


@result_type(
    members="association raised raised_adjusted raised_interval lowered lowered_adjusted"
    " lowered_interval empty",
    key="attribute",
)
class CrossedAttribute:
    """The correlation inside the strata of one attribute."""

    attribute: str
    association: float = Field(description="Cramer's V of the feature and the attribute")
    raised: tuple[StratumGap, ...] = Field(description="raised class, by value")
    lowered: tuple[StratumGap, ...] = Field(description="lowered class, by value")
    raised_adjusted: float = Field(
        description="gap of the raised class over all strata (Mantel-Haenszel risk difference)"
    )
    raised_interval: Interval = Field(description="of raised_adjusted, by patient")
    lowered_adjusted: float = Field(description="the same for the lowered class")
    lowered_interval: Interval = Field(description="of lowered_adjusted, by patient")
    empty: tuple[str, ...] = Field(description="strata that say nothing, as an arm is empty")


@result_type()
class Strata:
    """The correlation inside views, scanners, sexes, ages: does it survive there."""

    label_association: float = Field(
        description="Cramer's V of the feature and the label, which RaVL assumes to be near 0"
    )
    attributes: tuple[CrossedAttribute, ...] = Field(description="attribute by attribute")


Box = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]


@result_type("RegionDocument")
class ListedRegion:
    """One region; lists run in the order of the correlation."""

    image_id: str = Field(description="pseudonym of the film")
    box: Box = Field(
        description="[x0, y0, x1, y1] in stored pixels, from the top left corner of the film"
    )
    located_box: Box | None = Field(
        description="where its removal effect lies: the box, adjusted to the area of effect; "
        "null: not measured"
    )
    left_edge: Literal["R", "L", "A", "P", "H", "F"] | None = Field(
        description="side of the patient at the left edge of the film: right, left, front, back, "
        "head or feet; null: not stated"
    )
    source: RegionSource = Field(description="what proposed it")
    name: str = Field(description="such as tile 2,5, or pulse generator, left shoulder")
    similarity: float = Field(description="cosine similarity to the medoid, the paper's order")
    removal_effect: float | None = Field(
        description="margin before minus after filling, in logits; null: not measured"
    )
    carries: bool | None = Field(
        description="its effect is the threshold or more; null: removal was not tested"
    )


@result_type(
    "CorrelationDocument",
    "rank correlation_id kind description counts reasons task cluster.cluster also companion_of"
    " cluster.rare cluster.source raised_class lowered_class lowered_classes opposed_classes"
    " confirmation.status confirmed confirmation.p_value confirmation.q_value confirmation.p_raised"
    " confirmation.p_lowered exact discovery=cluster confirmation score_shift=confirmation.shift"
    " counterfactual.removal counterfactual.transplant counterfactual.used"
    " intervention_p=counterfactual.p_value intervention_q=counterfactual.q_value"
    " counterfactual.shown_by counterfactual.tested used_reasons strata labels"
    " films_with_feature=films regions_total regions",
    eq=False,
)
class SpuriousCorrelation:
    """One candidate with its evidence."""

    rank: int = Field(description="1 for the first")
    cluster: FeatureCluster
    confirmation: Confirmation
    counterfactual: Counterfactual | None
    strata: Strata | None = Field(description="null: not checked")
    kind: Kind = Field(description="by where the removal effect lies")
    counts: bool = Field(
        description="the model uses it, and it does harm (gate.max_gap): it decides the verdict"
    )
    reasons: tuple[str, ...] = Field(description="the rules that it does not pass")
    also: tuple[int, ...] = Field(
        description="clusters that share its regions and are shown as this one"
    )
    order: NDArray[np.int64] = Field(
        description="(n,), positions in cluster.regions by removal effect, descending, then by "
        "similarity; where most regions are larger than a quarter of the sides those that carry it "
        "first, both kinds by similarity"
    )
    companion_of: int | None = Field(
        default=None,
        description="rank of the counting correlation that it travels with: with that feature held "
        "fixed its own gap goes away, or its effect lies in the same place",
    )
    found_patients: ArmPatients | None = Field(
        default=None, description="where it was chosen; None where a film is a patient"
    )
    films_hidden: bool = Field(
        default=False, description="the number of films with the feature is hidden"
    )
    labels: LabelQuality | None = Field(
        default=None,
        description="the labels behind it; null: it does not hold, or nobody knows their source",
    )

    @property
    def films(self) -> Count:
        """Audited films with at least one region of the cluster."""
        return -1 if self.films_hidden else int(self.cluster.present.sum())

    @property
    def confirmed(self) -> bool:
        """Status is confirmed."""
        return self.confirmation.status == "confirmed"

    @property
    def exact(self) -> bool | None:
        """Hypergeometric, not by drawn exchanges of patients; null: not tested."""
        return None if self.confirmation.status == "not_tested" else self.confirmation.exact

    @property
    def used(self) -> bool:
        """Whether an intervention shows that the model uses it."""
        return self.counterfactual is not None and self.counterfactual.used

    @property
    def used_reasons(self) -> tuple[str, ...]:
        """Why it is not called used."""
        return self.counterfactual.reasons if self.counterfactual else ()

    @property
    def regions_total(self) -> int:
        """Regions of the cluster on all films."""
        return len(self.cluster.regions)

    @property
    def located_boxes(self) -> NDArray[np.float32]:
        """Where the effect of each region lies (n, 4), stored pixels; NaN where not measured."""
        if self.counterfactual is None or self.counterfactual.removal.located is None:
            return np.full((len(self.cluster.regions), 4), np.nan, dtype=np.float32)
        return self.counterfactual.removal.located

    def correlation_id(self, result: AuditResult) -> str:
        """Return the 12 hex digits of model, raised class and regions; what review.csv calls it.

        Films count by what they are and their order: pseudonyms differ between users.
        """
        hasher = hashlib.sha256(f"{result.model.digest}{result.films_digest}".encode())
        hasher.update(self.raised_class(result).encode())
        for region in np.sort(self.cluster.regions).tolist():
            hasher.update(b"%d" % result.region_image[region])
            hasher.update(np.round(result.region_boxes[region], 1).tobytes())
        return hasher.hexdigest()[:12]

    def description(self, result: AuditResult) -> str:
        """Return what its regions are called and where on the film they lie; blank: no regions."""
        return result.descriptions.get(self.cluster.cluster, "")

    def task(self, result: AuditResult) -> str:
        """Return the name of the task."""
        return result.task.name

    def raised_class(self, result: AuditResult) -> str:
        """Return the class that the feature raises."""
        return result.classes[self.cluster.raised_class]

    def lowered_class(self, result: AuditResult) -> str | None:
        """Return the class that is lowered most; null: the raised side alone can be tested."""
        lowered = self.cluster.lowered_class
        return None if lowered is None else result.classes[lowered]

    def lowered_classes(self, result: AuditResult) -> tuple[str, ...]:
        """Return all lowered classes, the most lowered first."""
        return tuple(result.classes[c] for c in self.cluster.lowered_classes)

    def opposed_classes(self, result: AuditResult) -> tuple[str, ...]:
        """Return the lowered classes that are tested together as one."""
        return tuple(result.classes[c] for c in self.cluster.opposed_classes)

    def regions(self, result: AuditResult) -> tuple[ListedRegion, ...]:
        """Return regions of the cluster, the first of them."""
        located = self.located_boxes
        return tuple(self._region(at, located[at], result) for at in self.order.tolist())

    def _region(
        self, position: int, located: NDArray[np.float32], result: AuditResult
    ) -> ListedRegion:
        region = int(self.cluster.regions[position])
        image = int(result.region_image[region])
        kind = result.region_kinds[int(result.region_kind[region])]
        removal = self.counterfactual.removal if self.counterfactual else None
        return ListedRegion(
            image_id=result.image_ids[image],
            box=_rounded(result.region_boxes[region]),
            located_box=_rounded(located) if np.isfinite(located).all() else None,
            left_edge=result.left_edge(image) or None,
            source=kind.source,
            name=kind.text(),
            similarity=float(self.cluster.similarity[position]),
            removal_effect=float(removal.effect[position]) if removal else None,
            carries=bool(removal.carries[position]) if removal else None,
        )


def _rounded(box: NDArray[np.floating]) -> Box:
    x0, y0, x1, y1 = (round(float(edge), 3) for edge in box)
    return x0, y0, x1, y1


@dataclass(frozen=True, slots=True, eq=False)
class ConfirmedFeature:
    """A correlation as what a later mitigation needs of it.

    Attributes
    ----------
    rank : int - of the correlation in its audit
    counts : bool - it decided the verdict
    confirmed : bool - it counts or was confirmed, and was tested by counterfactuals; what was not
        is mitigated by force alone
    """

    rank: int
    kind: Kind
    counts: bool
    detector: FeatureDetector
    confirmed: bool = True


Decision = Literal["disease", "accepted", "shortcut", "chance", "cannot_tell"]
"""The disease; tolerated for a time; a shortcut; nothing in common; looked at, and still open."""


@result_type("RulingDocument", "rank word=decision until reason name date in_force")
class ReviewDecision:
    """A decision of a reviewer."""

    rank: int = Field(description="of the correlation")
    decision: Decision = Field(
        description="disease, accepted for a time, shortcut, chance, or cannot tell"
    )
    until: str = Field(description="last day of an acceptance; blank without")
    reason: str = Field(description="as the reviewer gave it")
    name: str = Field(description="of the reviewer")
    date: str = Field(description="of the decision")
    in_force: bool = Field(description="false: the acceptance has expired")

    def settles(self, counting: Collection[int]) -> bool:
        """Whether nothing is open on its correlation; a feature that the model uses is no chance.

        `counting` are ranks of the correlations that count.
        """
        closed = self.decision not in ("chance", "cannot_tell")
        return closed or (self.decision == "chance" and self.rank not in counting)
