"""What was done about text that is burned into the films of a report.

A confidence interval, which every claim is made of.

What the labels behind a correlation are worth, as values.

A film's label is stated, or a policy decided what an uncertain or a blank cell counts as. Where the
films with a feature are the ones whose labels are less often stated, such as portable films with
their shorter reports, a gap may be one of labels and not of the model.

A spurious correlation and everything that is known of it, as values.

Found on one half of the patients, tested on the other, intervened on, crossed with attributes.

A reviewer's word on a correlation, as a value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.discovery.detector import FeatureDetector


@dataclass(frozen=True, slots=True)
class BurnedInText:
    """Text that was looked for on the films that a report shows, in counts; never what it says.

    Attributes
    ----------
    method : str - what it was looked for with
    reads : bool - allowed words were told from others and are shown
    films : int - that are shown
    masked : int - of them with text hidden
    areas : int - lines of text that were hidden
    allowed : int - films with words that may be shown
    declared : int - films whose header says that text is burned in, (0028,0301)
    """

    method: str
    reads: bool
    films: int
    masked: int
    areas: int
    allowed: int
    declared: int


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided confidence interval; NaN bounds where there was nothing to estimate from."""

    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


StatedOutcome = Literal["unchanged", "holds", "vanishes", "turns", "insufficient", "hidden"]
"""Of a gap on stated labels alone: every label is stated; its interval keeps to the side of the gap
on all labels; holds 0; lies on the other side; too few films; of few patients, not to be told."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelOrigin:
    """Where the labels of N films come from, and how certain they are.

    Attributes
    ----------
    sources : ndarray of shape (N,), str - as ``Cohort.label_sources``
    certainty : ndarray of shape (N,), str - ``"stated"``, ``"uncertain"`` or ``"blank"``
    """

    sources: NDArray[np.str_]
    certainty: NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class LabelShare:
    """The films whose labels are of one kind, with a feature and without it.

    Attributes
    ----------
    value : str
    n_present, n_absent : int - films
    share_present, share_absent : float - of the films with and without it; NaN where there are none
    patients : tuple of int or None - with and without the feature; None where a film is a patient
    """

    value: str
    n_present: int
    n_absent: int
    share_present: float
    share_absent: float
    patients: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class StatedGap:
    """The gap of one side of a correlation on the films of the test whose labels are stated.

    Attributes
    ----------
    n_present, n_absent : int - films
    gap : float - accuracy with minus without; NaN where there are too few films
    interval : Interval - bootstrap by patient
    outcome : {"unchanged", "holds", "vanishes", "turns", "insufficient", "hidden"}
    """

    n_present: int
    n_absent: int
    gap: float
    interval: Interval
    outcome: StatedOutcome


@dataclass(frozen=True, slots=True, eq=False)
class LabelQuality:
    """The labels behind a correlation, on all audited films, and its gaps on stated ones alone.

    Attributes
    ----------
    n_present, n_absent : int - audited films with the feature and without it
    sources : tuple of LabelShare - the most frequent first
    certainty : tuple of LabelShare - stated, uncertain, blank
    not_stated : LabelShare - uncertain and blank together
    difference : float - share of labels that are not stated, with minus without; NaN where an arm
        is empty
    interval : Interval - of the difference, bootstrap by patient
    raised : StatedGap - of the raised class, on the films of the test
    lowered : StatedGap or None - of ``cluster.opposed_classes`` together; None without any
    patients : ndarray of shape (3, 2, 2), int64, or None - behind the gaps: raised side, lowered
        side, all other films; with and without the feature; stated and not. None once hidden
    """

    n_present: int
    n_absent: int
    sources: tuple[LabelShare, ...]
    certainty: tuple[LabelShare, ...]
    not_stated: LabelShare
    difference: float
    interval: Interval
    raised: StatedGap
    lowered: StatedGap | None
    patients: NDArray[np.int64] | None = None

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
    """Patients with films on either side of a feature, class by class.

    Attributes
    ----------
    present, absent : ndarray of shape (C,), int64 - a patient with films on both is in both
    """

    present: NDArray[np.int64]
    absent: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class AccuracyByPresence:
    """Accuracy of each class with and without a feature, on the films it is tested on.

    Attributes
    ----------
    n_present, n_absent : ndarray of shape (C,), int64
    accuracy_present, accuracy_absent : ndarray of shape (C,), float64 - NaN where n is 0
    present_interval, absent_interval, gap_interval : tuple of Interval, length C - bootstrap by
        patient, not corrected: multiplicity is the business of the q-value
    opposed_gap : float - gap of ``cluster.opposed_classes`` together (weights n_in n_out / n); NaN
        without any
    opposed_interval : Interval
    patients : ArmPatients or None - None where a film is a patient
    """

    n_present: NDArray[np.int64]
    n_absent: NDArray[np.int64]
    accuracy_present: NDArray[np.float64]
    accuracy_absent: NDArray[np.float64]
    present_interval: tuple[Interval, ...]
    absent_interval: tuple[Interval, ...]
    gap_interval: tuple[Interval, ...]
    opposed_gap: float
    opposed_interval: Interval
    patients: ArmPatients | None = None

    @property
    def gap(self) -> NDArray[np.float64]:
        """Unweighted gap, accuracy with minus without, shape (C,); NaN where a side is empty."""
        return self.accuracy_present - self.accuracy_absent


@dataclass(frozen=True, slots=True)
class ScoreShift:
    """How far the margin of the raised class moves with the feature, whatever the threshold.

    Attributes
    ----------
    raised, lowered : float - mean margin (logit of the raised class minus logit of the lowered
        one) of films of that class with the feature, minus that of films without; NaN where a side
        is empty
    raised_interval, lowered_interval : Interval - bootstrap by patient
    """

    raised: float
    raised_interval: Interval
    lowered: float
    lowered_interval: Interval


@dataclass(frozen=True, slots=True, eq=False)
class Confirmation:
    """Test of a candidate on patients that had no part in choosing it.

    Attributes
    ----------
    status : {"confirmed", "raised_only", "not_confirmed", "not_tested"}
    reasons : tuple of str - why it is not confirmed, in words; empty when it is
    films, patients : int - of the task, on the side of the test
    p_raised, p_lowered : float - one-sided p of each side; NaN where it was not tested
    p_value : float - of the candidate: Stouffer of both sides, or the raised side alone
    q_value : float - Benjamini-Hochberg over all candidates of all tasks
    exact : bool - hypergeometric, one film a patient
    arms : AccuracyByPresence - on the side of the test
    shift : ScoreShift - on the side of the test
    swapped : bool - with cross-fitting, found on the confirmation half and tested on the other
    """

    status: ConfirmationStatus
    reasons: tuple[str, ...]
    films: int
    patients: int
    p_raised: float
    p_lowered: float
    p_value: float
    q_value: float
    exact: bool
    arms: AccuracyByPresence
    shift: ScoreShift
    swapped: bool = False


@dataclass(frozen=True, slots=True)
class PairedChange:
    """A change under an intervention, against the same intervention on a control.

    Margins are the logit of the raised class minus that of the lowered class.

    Attributes
    ----------
    pairs : int - films, each with its control
    patients : int
    change : float - mean change of the margin, logits
    control : float - the same under the control
    contrast : float - change minus control
    interval : Interval - of the contrast, bootstrap by patient, Bonferroni over the correlations
        that were tested
    decisions : float - share of films whose decision for the raised class changes, minus that of
        the controls
    decisions_interval : Interval
    """

    pairs: int
    patients: int
    change: float
    control: float
    contrast: float
    interval: Interval
    decisions: float
    decisions_interval: Interval


@dataclass(frozen=True, slots=True)
class EffectShares:
    """In what the removal effect of a feature lies.

    Attributes
    ----------
    inside : float - share in anatomy where the raised class shows; NaN where it cannot be said
    artifact : float - share in artifacts; NaN where it cannot be said
    regions : int - regions that were taken apart
    unknown : int - regions on films where none of that anatomy was found
    """

    inside: float
    artifact: float
    regions: int
    unknown: int

    @property
    def elsewhere(self) -> float:
        """Share in other anatomy."""
        return 1.0 - self.inside - self.artifact


@dataclass(frozen=True, slots=True, eq=False)
class Removal:
    """What happens when the regions of a cluster are filled in.

    The effect of a region is the margin before minus the margin after it is filled, the mean of two
    fills: the median of its surroundings, and inpainting. Positive: the region speaks for the
    raised class.

    Attributes
    ----------
    effect : ndarray of shape (n,), float64 - in logits, in the order of ``cluster.regions``; NaN
        where it was not measured
    carries : ndarray of shape (n,), bool - measured regions that pass the trimming rule
    threshold : float - the trimming rule: least effect, fixed on the discovery half
    median, inpainted : PairedChange or None - drop of the margin on films of the side of the test,
        against films of the same class without the feature, filled at the same place; best region
        of k against best of k; None where no pair could be made
    contrast_ratio : float - how strongly the fill changes a region with the feature over how
        strongly it changes the control, median over pairs; 1 is a perfect match
    shares : EffectShares or None - in what the effect of a used feature lies; None where the table
        of relevance does not know the raised class
    spread : float - standard deviation of the margin over the films of the test and their controls,
        untouched; NaN where no pair could be made
    located : ndarray of shape (n, 4), float32, or None - where the effect lies, xyxy in stored
        pixels: the region, or its place half a step aside where that was settled on the discovery
        half; those of a used feature with the largest effects are grown or shrunk as well. NaN
        where the effect was not measured, None where nothing was
    """

    effect: NDArray[np.float64]
    carries: NDArray[np.bool_]
    threshold: float
    median: PairedChange | None
    inpainted: PairedChange | None
    contrast_ratio: float
    shares: EffectShares | None = None
    spread: float = math.nan
    located: NDArray[np.float32] | None = None

    @property
    def size(self) -> float:
        """Contrast of removal, mean of both fills, as a share of the spread; NaN without pairs."""
        if self.median is None or self.inpainted is None or not self.spread > 0:
            return math.nan
        return (self.median.contrast + self.inpainted.contrast) / 2.0 / self.spread


@dataclass(frozen=True, slots=True, eq=False)
class Counterfactual:
    """Whether the model uses the feature or the feature only travels along.

    Attributes
    ----------
    removal : Removal
    transplant : PairedChange or None - rise of the margin when the feature is blended into films
        of other classes without it, against an ordinary region from the same place
    used : bool - removal lowers the margin, more than in controls (both fills agree in sign, the
        interval excludes 0), and transplant, where it could be tried, raises it
    reasons : tuple of str - why it is not called used; empty when it is
    """

    removal: Removal
    transplant: PairedChange | None
    used: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StratumGap:
    """The gap of one class inside one stratum.

    Attributes
    ----------
    value : str
    n_present, n_absent : int - films
    gap : float - NaN where an arm is empty
    interval : Interval
    patients : tuple of int or None - with and without the feature; None where a film is a patient
    """

    value: str
    n_present: int
    n_absent: int
    gap: float
    interval: Interval
    patients: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class CrossedAttribute:
    """A correlation inside the strata of one attribute.

    Attributes
    ----------
    attribute : str
    association : float - Cramer's V of presence of the feature and the attribute
    raised, lowered : tuple of StratumGap - by value, for the raised and the lowered class
    raised_adjusted, lowered_adjusted : float - Mantel-Haenszel risk difference over the strata
    raised_interval, lowered_interval : Interval - bootstrap by patient
    empty : tuple of str - strata with an empty arm, in words
    """

    attribute: str
    association: float
    raised: tuple[StratumGap, ...]
    lowered: tuple[StratumGap, ...]
    raised_adjusted: float
    raised_interval: Interval
    lowered_adjusted: float
    lowered_interval: Interval
    empty: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Strata:
    """A correlation crossed with every attribute.

    Attributes
    ----------
    label_association : float - Cramer's V of presence and label, which RaVL assumes near 0
    attributes : tuple of CrossedAttribute
    """

    label_association: float
    attributes: tuple[CrossedAttribute, ...]


@dataclass(frozen=True, slots=True, eq=False)
class SpuriousCorrelation:
    """One candidate of discovery with its evidence.

    Attributes
    ----------
    rank : int - 1 for the first
    cluster : FeatureCluster - as it was found
    confirmation : Confirmation
    counterfactual : Counterfactual or None - None where it was not tested
    strata : Strata or None - of confirmed ones
    kind : {"shortcut", "plausible_sign", "undecided"}
    counts : bool - confirmed, used by the model, and above the gate: it decides the verdict
    reasons : tuple of str - the rules that it does not pass, in words
    also : tuple of int - other clusters that share its regions and are shown as this one
    companion_of : int or None - rank of the counting correlation that it travels with, or whose
        place it shares
    found_patients : ArmPatients or None - where the candidate was chosen; None where a film is a
        patient
    films_hidden : bool - how many films hold the feature may not be told
    labels : LabelQuality or None - of the labels behind it; None where it does not stand, or where
        nobody knows what the labels come from
    order : ndarray of shape (n,), int64 - positions in ``cluster.regions`` by removal effect,
        descending; unmeasured ones after, by similarity
    """

    rank: int
    cluster: FeatureCluster
    confirmation: Confirmation
    counterfactual: Counterfactual | None
    strata: Strata | None
    kind: Kind
    counts: bool
    reasons: tuple[str, ...]
    also: tuple[int, ...]
    order: NDArray[np.int64]
    companion_of: int | None = None
    found_patients: ArmPatients | None = None
    films_hidden: bool = False
    labels: LabelQuality | None = None

    @property
    def films(self) -> int:
        """Audited films that hold the feature; -1 where that may not be told."""
        return -1 if self.films_hidden else int(self.cluster.present.sum())


@dataclass(frozen=True, slots=True, eq=False)
class ConfirmedFeature:
    """A confirmed correlation as what a later mitigation needs of it.

    Attributes
    ----------
    rank : int - of the correlation in its audit
    kind : {"shortcut", "plausible_sign", "undecided"}
    counts : bool - it decided the verdict
    detector : FeatureDetector
    """

    rank: int
    kind: Kind
    counts: bool
    detector: FeatureDetector


Decision = Literal["disease", "accepted", "shortcut"]
"""It is the disease; it is tolerated for a time; it is a shortcut."""


@dataclass(frozen=True, slots=True)
class ReviewDecision:
    """A decision on a correlation of this run.

    Attributes
    ----------
    rank : int - of the correlation
    word : {"disease", "accepted", "shortcut"}
    until : str - last day of an acceptance, ISO 8601; blank without
    reason, name : str - as the reviewer gave them
    date : str - of the decision, ISO 8601
    in_force : bool - not expired
    """

    rank: int
    word: Decision
    until: str
    reason: str
    name: str
    date: str
    in_force: bool
