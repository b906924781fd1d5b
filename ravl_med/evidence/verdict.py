"""From evidence to claims, from claims to a verdict.

A correlation *counts* when the model is shown to use it and when it does harm on held-out patients:
the gaps of both sides are confirmed and at least ``gate.max_gap``, or so large a share of the films
of other classes that have it are called wrongly for it: filling its places undoes the call, and
filling other places of the same film does not. Of something foreign any such share is harm that is
no chance, and so is any share of answers that change when it is taken out or put in: a model has no
business with it, even where too few films show a gap. No harm is what no mistakes go with: where
the sum of both gaps on held-out patients is not above 0. What a feature is follows from where its
effect lies, from whether it travels, and from whether it goes with the finding. This folder's
README.md has the table of it, and that of the verdict.

A sign raises the margin of other films as well as a coin does. It is of the body where its places
are not shown to be sharper than the same places of films without it, and where it does not travel
or hardly any of its effect lies in artifacts: man-made objects have edges, and what is of the body
is blurred, but for findings that have edges themselves, as a fracture. That a sharp thing is not
shown to travel says little where few films were tried. It goes with its finding against all other
classes, or against those that it tells the finding from; where those show, their lack is a sign,
such as a clear costophrenic angle against an effusion. A thing does its work wherever it is put:
what is soft and shown to do less in other films is anatomy, whether or not it goes with a finding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact

from ravl_med.config.audit import EvidenceConfig, GateConfig
from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.evidence.audit_result import (
    Gate,
    Leak,
    LocalEffectBound,
    ModelChecks,
    Sensitivity,
    Verdict,
    VerdictName,
)
from ravl_med.evidence.results import (
    FOREIGN,
    Check,
    Confirmation,
    Counterfactual,
    Interval,
    Kind,
    ReviewDecision,
    SpuriousCorrelation,
    Strata,
    failed_reasons,
)

BY_GRAVITY: tuple[Kind, ...] = ("shortcut", "undecided", "plausible_sign")
_ROUNDING = 1e-9  # 0.9 - 0.8 is a gap of 0.1
_NO_COUNTERFACTUAL = (
    "No counterfactual is possible: the model's scores came as a table (model.scores), and the "
    "model cannot be run on a changed film. So it cannot be shown to use a feature."
)
_NOT_MAPPED = "Not tested by removal or transplant: no film of the discovery half could be mapped."
_NO_MISTAKES = (
    "It holds up answers, but no mistakes go with it: on held-out patients, the gaps of both sides "
    "do not add up to more than 0."
)
_COMMON = 0.20  # prevalence at which a pass needs power
_SIGN_LEVEL = 0.01


def assess_correlation(
    cluster: FeatureCluster,
    confirmation: Confirmation,
    counterfactual: Counterfactual | None,
    strata: Strata | None,
    also: tuple[int, ...],
    evidence: EvidenceConfig,
    gate: GateConfig,
    *,
    black_box: bool = False,
) -> SpuriousCorrelation:
    """Put the evidence on one candidate together; its rank is not set yet.

    `also` are the clusters that are shown as this one; a `black_box` is known by its scores alone.
    """
    reasons = list(confirmation.reasons)
    if confirmation.status == "confirmed":
        reasons += gaps_below_gate(cluster, confirmation, gate)
    kind: Kind = "undecided"
    if counterfactual is not None:
        goes_along = goes_with_finding(confirmation, cluster.raised_class, cluster.opposed_classes)
        kind = kind_of(counterfactual, evidence, goes_along=goes_along)
        foreign = is_foreign(counterfactual, evidence, goes_along=goes_along)
        harm = counterfactual.removal.undoes(0.0 if foreign else gate.max_gap)
        if harm or (foreign and counterfactual.changed_answers):
            reasons = [] if goes_with_mistakes(cluster, confirmation) else [_NO_MISTAKES]
        reasons += counterfactual.reasons
    elif confirmation.status in ("confirmed", "raised_only"):
        reasons.append(_NO_COUNTERFACTUAL if black_box else _NOT_MAPPED)
    return SpuriousCorrelation(
        rank=0,
        cluster=cluster,
        confirmation=confirmation,
        counterfactual=counterfactual,
        strata=strata,
        kind=kind,
        counts=not reasons,
        reasons=tuple(reasons),
        also=also,
        order=_order_regions(cluster, counterfactual),
    )


def goes_with_finding(confirmation: Confirmation, raised: int, opposed: Sequence[int] = ()) -> bool:
    """Whether held-out films of the raised class have the feature more often than others.

    The others are all of the other classes, or the `opposed` ones that it tells the raised class
    from: a clear costophrenic angle speaks for "no finding" against an effusion alone. Fisher's
    exact test, one-sided, at 1 % over both. A sign goes with its finding; a thing that lies on
    films of any finding is none, wherever it lies.
    """
    both = np.stack([confirmation.arms.n_present, confirmation.arms.n_absent])
    every = frozenset(range(both.shape[1])) - {raised}
    against = {every, frozenset(opposed) or every}

    def p_value(others: frozenset[int]) -> float:
        sides = [raised], list(others)
        table = np.stack([both[:, side].sum(axis=1) for side in sides]).astype(np.int64)
        return float(fisher_exact(table, alternative="greater").pvalue)

    return len(against) * min(map(p_value, against)) <= _SIGN_LEVEL


def goes_with_mistakes(cluster: FeatureCluster, confirmation: Confirmation) -> bool:
    """Whether both gaps on held-out patients add up to more than 0; unknown ones may."""
    known = [gap for gap in _gaps(cluster, confirmation) if math.isfinite(gap)]
    return not known or sum(known) > 0.0


def _gaps(cluster: FeatureCluster, confirmation: Confirmation) -> tuple[float, float]:
    """Return the gaps on held-out patients, of the raised side and of the lowered one."""
    return float(confirmation.arms.gap[cluster.raised_class]), -confirmation.arms.opposed_gap


def kind_of(counterfactual: Counterfactual, evidence: EvidenceConfig, *, goes_along: bool) -> Kind:
    """Say what a used feature is: by its place, and by whether it travels and goes along."""
    removal, shares = counterfactual.removal, counterfactual.removal.shares
    if not counterfactual.used or shares is None:
        return "undecided"
    may_be_sign = goes_along and shares.artifact < FOREIGN
    most = evidence.shortcut_share if may_be_sign else evidence.sign_share
    outside = shares.inside_interval.high <= most  # NaN is not
    if outside and is_foreign(counterfactual, evidence, goes_along=goes_along):
        return "shortcut"
    stays = counterfactual.transplant is not None and not counterfactual.travels
    natural = math.isfinite(removal.sharper) and shares.artifact <= evidence.shortcut_share
    of_body = (shares.edges or not removal.is_sharp) and (stays or natural)
    soft = natural and not removal.is_sharp
    least = evidence.shortcut_share if soft and stays and goes_along else evidence.sign_share
    least = 1.0 - evidence.shortcut_share if removal.is_sharp else least
    inside = shares.inside + (shares.lowered if soft or (stays and natural) else 0.0) >= least
    anatomy = goes_along or (soft and stays and counterfactual.does_less_elsewhere)
    return "plausible_sign" if inside and anatomy and of_body else "undecided"


def is_foreign(tested: Counterfactual, evidence: EvidenceConfig, *, goes_along: bool) -> bool:
    """Whether a feature is man-made, and no edge of the body where the finding shows."""
    shares = tested.removal.shares
    inside, artifact = (shares.inside, shares.artifact) if shares else (math.nan, 0.0)
    edge = goes_along and not inside < evidence.sign_share
    return tested.is_man_made and (artifact >= FOREIGN or not edge)


def gaps_below_gate(
    cluster: FeatureCluster, confirmation: Confirmation, gate: GateConfig
) -> tuple[str, ...]:
    """Return a reason for each side whose gap on held-out patients is below the gate."""
    return failed_reasons(
        Check(
            not value < gate.max_gap - _ROUNDING,
            f"The gap of the {side} side on held-out patients is below {100 * gate.max_gap:g} "
            "points (gate.max_gap).",
        )
        for side, value in zip(("raised", "lowered"), _gaps(cluster, confirmation), strict=True)
    )


def _order_regions(
    cluster: FeatureCluster, counterfactual: Counterfactual | None
) -> NDArray[np.int64]:
    """Positions of the regions by removal effect; unmeasured ones after, by similarity."""
    if counterfactual is None:
        return np.arange(len(cluster.regions), dtype=np.int64)
    effect = counterfactual.removal.effect
    order = np.lexsort((-cluster.similarity, -np.where(np.isfinite(effect), effect, -np.inf)))
    return order.astype(np.int64)


def rank_correlations(found: Sequence[SpuriousCorrelation]) -> tuple[SpuriousCorrelation, ...]:
    """Rank correlations: what counts first, shortcuts before the others, then by what it costs.

    What surely makes more calls wrong than another may comes before it. Of what may make as many,
    gaps that other patients confirmed come before wrong calls alone, and what is as sure goes by
    effect of removal. What does not count goes by status and performance gap.
    """
    status = ("confirmed", "raised_only", "not_confirmed", "not_tested")
    surest = sorted(
        found,
        key=lambda c: (
            not c.counts,
            BY_GRAVITY.index(c.kind) if c.counts else 0,
            status.index(c.confirmation.status),
            -np.nan_to_num(c.counterfactual.removal.size) if c.counts and c.counterfactual else 0.0,
            -c.cluster.performance_gap,
        ),
    )
    ranked = (
        c for _, same in groupby(surest, lambda c: c.counts and c.kind) for c in _by_cost(same)
    )
    return tuple(replace(c, rank=rank) for rank, c in enumerate(ranked, 1))


def _by_cost(surest: Iterable[SpuriousCorrelation]) -> Iterator[SpuriousCorrelation]:
    """Give them in their order, but what surely costs more calls before what costs fewer."""
    left = [(one, *_wrong_calls(one)) for one in surest]
    while left:
        least = max(low for _, low, _ in left)
        first = next(at for at, (_, _, high) in enumerate(left) if not high < least)
        yield left.pop(first)[0]


def _wrong_calls(correlation: SpuriousCorrelation) -> tuple[float, float]:
    """Held-out films whose wrong call is its doing, at least and at most; NaN: nobody knows."""
    tested = correlation.counterfactual
    if tested is None or not correlation.counts:
        return 0.0, math.nan
    removal, present = tested.removal, correlation.confirmation.arms.n_present
    called = removal.called * float(present.sum() - present[correlation.cluster.raised_class])
    share = removal.wrong_calls.decisions_interval if removal.wrong_calls else Interval(0.0, 1.0)
    return max(0.0, called * share.low), max(called * share.high, 0.0)  # in this order NaN stays


def decide_verdict(
    correlations: Sequence[SpuriousCorrelation],
    classes: Sequence[str],
    gate: GateConfig,
    sensitivity: Sensitivity,
    *,
    checks: ModelChecks | None = None,
    black_box: bool = False,
    rulings: Sequence[ReviewDecision] = (),
    styles: Sequence[str] = (),
) -> Verdict:
    """Turn correlations and what could have been seen into a verdict, gate by gate.

    Parameters
    ----------
    black_box : bool - the model is known by its scores alone; the reasons say so
    rulings : sequence of ReviewDecision - what reviewers decided; one that is not in force changes
        nothing and is named
    styles : sequence of str - findings of `Dependence`, each a point for a reviewer
    """
    reviewed = _Reviewed.of(correlations, rulings)
    open_points = tuple(
        f"{_count(group, noun)} {text.format(_name_classes(group, classes))}"
        for group, noun, text in _open_groups(reviewed.left, gate)
    )
    open_points += tuple(styles)
    bound = sensitivity.local
    power, blind = _effect_gate(bound, gate) if bound else _power_gates(sensitivity, gate)
    gates = (reviewed.gate(gate), *_model_gates(checks), *power)
    tolerated, overruled = reviewed.tolerations(classes), reviewed.overrulings(classes)
    doubts = checks.doubts if checks is not None else ()
    outcomes: tuple[tuple[VerdictName, tuple[str, ...]], ...] = (
        ("fail", reviewed.accusations(classes)),
        ("not_auditable", doubts),
        ("review", open_points),
        ("not_auditable", blind),
        ("conditional", (*tolerated, *overruled)),
        ("pass", _pass_reasons(reviewed, classes, gate, bound)),
    )
    name, why = next((name, why) for name, why in outcomes if why)
    rest = doubts if all(one.passed for one in _model_gates(checks)) else ()  # else a row says it
    reasons = (*why, *rest, *reviewed.lapses(), *tolerated, *open_points, *overruled)
    closed = (_NO_COUNTERFACTUAL,) if black_box else ()
    return Verdict(name, (*dict.fromkeys(reasons), *closed), gates)


@dataclass(frozen=True, slots=True)
class _Reviewed:
    """Correlations by what the audit found and what reviewers decided."""

    found: tuple[SpuriousCorrelation, ...]  # shortcuts of the audit that no decision took away
    named: tuple[SpuriousCorrelation, ...]  # called one by a reviewer alone
    tolerated: tuple[tuple[SpuriousCorrelation, ReviewDecision], ...]
    overruled: tuple[tuple[SpuriousCorrelation, ReviewDecision], ...]  # shortcuts of the audit
    left: tuple[SpuriousCorrelation, ...]  # without a decision
    settled: int  # correlations that were judged part of the finding
    expired: tuple[ReviewDecision, ...]

    @classmethod
    def of(
        cls, correlations: Sequence[SpuriousCorrelation], rulings: Sequence[ReviewDecision]
    ) -> _Reviewed:
        held = {ruling.rank: ruling for ruling in rulings if ruling.in_force}
        decided = [(c, held[c.rank]) for c in correlations if c.rank in held]
        called = [c for c, ruling in decided if ruling.decision == "shortcut"]
        disease = [(c, ruling) for c, ruling in decided if ruling.decision == "disease"]
        left = tuple(c for c in correlations if c.rank not in held)
        return cls(
            found=tuple(c for c in (*left, *called) if is_shortcut(c)),
            named=tuple(c for c in called if not is_shortcut(c)),
            tolerated=tuple((c, one) for c, one in decided if one.decision == "accepted"),
            overruled=tuple((c, ruling) for c, ruling in disease if is_shortcut(c)),
            left=left,
            settled=len(disease),
            expired=tuple(ruling for ruling in rulings if not ruling.in_force),
        )

    def gate(self, gate: GateConfig) -> Gate:
        """Count shortcuts by who found them; what a reviewer decides takes none of them away."""
        allowed = [(c, ruling) for c, ruling in self.tolerated if is_shortcut(c)]
        known = [*self.found, *(c for c, _ in (*allowed, *self.overruled))]
        parts = [f"{_count(known, 'shortcut') if known else 'no shortcut'} found"]
        if allowed:
            until = min(ruling.until for _, ruling in allowed)
            parts.append(f"{len(allowed)} of them tolerated until {until}")
        if self.overruled:
            parts.append(f"{len(self.overruled)} of them judged part of the finding by a reviewer")
        if self.named:
            parts.append(f"{len(self.named)} named by a reviewer")
        unplaced = [c for c in self.left if c.counts and c.kind == "undecided"]
        if unplaced:
            parts.append(f"{_count(unplaced, 'feature')} undecided")
        others = len(self.tolerated) - len(allowed)
        if others:
            parts.append(f"{others} other feature{'' if others == 1 else 's'} tolerated")
        text = (
            f"{', '.join(parts)}; allowed: no shortcut with gaps of {100 * gate.max_gap:g} points "
            "or more, and nothing foreign that changes more answers than chance explains"
        )
        passed = not (known or self.named or self.tolerated)
        return Gate("gate.max_gap", passed, text, open=bool(passed and unplaced))

    def accusations(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Say what was found, and what a reviewer called a shortcut."""
        known = "shown on patients that had no part in the search"
        used = [c for c in self.named if c.used]
        groups = ((self.found, known), (used, "by the judgement of a reviewer"))
        unused = tuple(
            f"A reviewer calls correlation {c.rank}, a feature that goes with "
            f"{_name_classes((c,), classes)}, a shortcut; the audit did not show that the model "
            "uses it."
            for c in self.named
            if not c.used
        )
        accused = tuple(
            f"{_count(group, 'shortcut')}, {how}: the model calls films "
            f"{_name_classes(group, classes)} because of "
            f"{'a feature that is' if len(group) == 1 else 'features that are'} not part of "
            "the finding."
            for group, how in groups
            if group
        )
        return accused + unused

    def tolerations(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Say what is tolerated, by whom and until when, and what it will be then."""
        return tuple(
            f"Correlation {ruling.rank}, {_TOLERATED[c.kind]} that raises "
            f"{_name_classes((c,), classes)}, is tolerated by {reviewer_name(ruling)} until "
            f"{ruling.until}; it is still there. After that day "
            + ("the verdict is fail again." if is_shortcut(c) else "it has to be decided on again.")
            for c, ruling in self.tolerated
        )

    def lapses(self) -> tuple[str, ...]:
        """Name the acceptances that have ended."""
        return tuple(
            f"Correlation {ruling.rank} was tolerated by {reviewer_name(ruling)} until "
            f"{ruling.until}; that day is over, and it counts again."
            for ruling in self.expired
        )

    def overrulings(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Name the shortcuts of the audit that a reviewer took for the finding."""
        return tuple(
            f"The audit found correlation {ruling.rank} to be a shortcut; {reviewer_name(ruling)} "
            f"judged it part of {_name_classes((c,), classes)}, which the measurements do not show."
            for c, ruling in self.overruled
        )


_TOLERATED: Mapping[Kind, str] = {
    "shortcut": "a shortcut",
    "plausible_sign": "a plausible sign",
    "undecided": "a feature",
}


def is_shortcut(correlation: SpuriousCorrelation) -> bool:
    """Whether the audit found a shortcut, whatever a reviewer decided."""
    return correlation.counts and correlation.kind == "shortcut"


def reviewer_name(ruling: ReviewDecision) -> str:
    """Return who decided, as reasons say it."""
    return " ".join(ruling.name.split())[:60]


def with_protocol(verdict: Verdict, protocol: str, listed: int) -> Verdict:
    """Return the verdict of a protocol: plain RaVL confirms nothing, so it is review at most.

    `listed` clusters pass its filters.
    """
    if protocol != "ravl":
        return verdict
    reason = (
        f"Plain RaVL lists {listed} feature cluster{'' if listed == 1 else 's'}, by gaps on the "
        "films that they were chosen on; nothing was confirmed on other patients or tested on the "
        "model (discovery.protocol), and it lists some for clean models as well: a radiologist "
        "decides."
    )
    if verdict.name == "pass":
        return Verdict("review", (reason,), verdict.gates)
    name: VerdictName = "review" if verdict.name == "conditional" else verdict.name
    return Verdict(name, (*verdict.reasons, reason), verdict.gates)


def with_leaks(verdict: Verdict, leaks: Sequence[Leak], gate: GateConfig) -> Verdict:
    """Return a verdict that names films which stand elsewhere too.

    Nothing but a fail can be said of a model on patients that it was fitted on. The sentences hold
    no number, since few patients may not be counted.
    """
    known = [leak for leak in leaks if leak.patients]
    if not known:
        return verdict
    fitted = [leak for leak in known if leak.fitted]
    reasons = tuple(
        _LEAKED[leak.fitted].format(leak.share.capitalize(), leak.place) for leak in known
    )
    void = max((leak.patients for leak in fitted), default=0) > gate.max_leaked_patients
    share = max(fitted, key=lambda leak: leak.patients).share if fitted else "none"
    text = (
        f"audited patients that the model may have been fitted on: {share}; allowed: at most "
        f"{gate.max_leaked_patients}"
    )
    gates = (*verdict.gates, Gate(_LEAKS, not void, text))
    if void and verdict.name != "fail":
        return Verdict("not_auditable", (*reasons, *verdict.reasons), gates)
    return Verdict(verdict.name, (*verdict.reasons[:1], *reasons, *verdict.reasons[1:]), gates)


def is_void(verdict: Verdict) -> bool:
    """Whether the model may have been fitted on more of the audited patients than is allowed."""
    return any(gate.name == _LEAKS and not gate.passed for gate in verdict.gates)


_LEAKS = "gate.max_leaked_patients"
_LEAKED = {
    True: "{} of the audited patients, or their films, are in {} too: the model may have been "
    "fitted on them, and what it says of them is no test. Take them out of one of both.",
    False: "{} of the audited patients, or their films, are in {} too.",
}


def _pass_reasons(
    reviewed: _Reviewed, classes: Sequence[str], gate: GateConfig, bound: LocalEffectBound | None
) -> tuple[str, ...]:
    """Say what was not found, and name the signs that the model uses."""
    reason = (
        "Of what the model was shown to use, nothing is left that is not the finding itself and "
        f"does harm: gaps of {100 * gate.max_gap:g} points or more, or any where it is foreign."
        if bound
        else f"No correlation with gaps of {100 * gate.max_gap:g} points or more was confirmed on "
        "held-out patients."
    )
    if reviewed.settled:
        judged = "1 feature was" if reviewed.settled == 1 else f"{reviewed.settled} features were"
        reason = (
            f"Nothing that was confirmed remains open: {judged} judged part of the finding by a "
            "reviewer."
        )
    signs = [c for c in reviewed.left if c.counts and c.kind == "plausible_sign"]
    if not signs:
        return (reason,)
    shares = [c.counterfactual.removal.shares for c in signs if c.counterfactual]
    lack = any(one is not None and one.speaks_by_lack for one in shares)
    kept = (
        f"{_count(signs, 'feature')} that the model uses where the finding itself shows "
        f"({_name_classes(signs, classes)}){', or one that it is told from' * lack}, that "
        f"{'goes with it and lacks' if len(signs) == 1 else 'go with it and lack'} a mark of things"
        " (sharp edges, an effect in any film they are put into): a sign, as far as can be told."
    )
    return reason, kept


def _effect_gate(
    bound: LocalEffectBound, gate: GateConfig
) -> tuple[tuple[Gate, ...], tuple[str, ...]]:
    """Gate on what a local feature that was not named may cost, and why it does not hold."""
    passed = bound.points <= gate.max_local_effect + _ROUNDING  # NaN does not hold
    text = (
        f"a local feature not named here may cost up to {100 * bound.points:.1f} points of "
        f"accuracy; allowed: at most {100 * gate.max_local_effect:g}"
    )
    reason = (
        f"Too few films: a local feature not named here may cost up to "
        f"{100 * bound.points:.1f} points of accuracy; a pass needs at most "
        f"{100 * gate.max_local_effect:g} (gate.max_local_effect). Audit more films."
    )
    return (Gate("gate.max_local_effect", passed, text),), () if passed else (reason,)


def _model_gates(checks: ModelChecks | None) -> tuple[Gate, ...]:
    if checks is None or not checks.min_auroc:
        return ()
    clear = sum(one.interval.low > checks.min_auroc for one in checks.findings)
    text = (
        f"the model distinguishes {clear} of {len(checks.findings)} findings (lower bound of the "
        f"AUROC above {checks.min_auroc:g})"
    )
    judged = sum(one.films > 0 for one in checks.findings)
    return (Gate("gate.min_auroc", clear == judged, text),)


def points_for_reviewer(
    correlations: Sequence[SpuriousCorrelation], gate: GateConfig
) -> tuple[SpuriousCorrelation, ...]:
    """Return what a reviewer may decide on: all that counts, and what could not be tested."""
    asked = open_correlations(correlations, gate)
    signs = [c for c in correlations if c.counts and c not in asked]
    return tuple(sorted([*asked, *signs], key=lambda c: c.rank))


def open_correlations(
    correlations: Sequence[SpuriousCorrelation], gate: GateConfig
) -> tuple[SpuriousCorrelation, ...]:
    """Return what a reviewer has to decide on: shortcuts, and what is not placed or not tested."""
    shortcuts = [c for c in correlations if is_shortcut(c)]
    others = [c for group, _, _ in _open_groups(correlations, gate) for c in group]
    return tuple(sorted([*shortcuts, *others], key=lambda c: c.rank))


def _open_groups(
    correlations: Sequence[SpuriousCorrelation], gate: GateConfig
) -> list[tuple[list[SpuriousCorrelation], str, str]]:
    """Return the correlations that a radiologist has to decide on, with a noun and a sentence."""
    undecided = [c for c in correlations if c.counts and c.kind == "undecided"]
    untested = [
        c
        for c in correlations
        if c.confirmation.status == "confirmed"
        and _is_untested(c.counterfactual)
        and c.companion_of is None
        and not gaps_below_gate(c.cluster, c.confirmation, gate)
    ]
    groups = (
        (
            undecided,
            "feature",
            "that the model uses could not be classified as a sign or a shortcut ({}): a "
            "radiologist decides.",
        ),
        (
            untested,
            "confirmed association",
            "above the limit could not be tested by removal or transplant ({}): accuracy differs "
            "with the feature, but something else on the same films may be the cause.",
        ),
    )
    return [group for group in groups if group[0]]


def _is_untested(counterfactual: Counterfactual | None) -> bool:
    """Whether it was to be tested on held-out patients, and no intervention could be made."""
    made = counterfactual and (counterfactual.removal.both or counterfactual.transplant)
    return counterfactual is None or (counterfactual.tested and not made)


def _power_gates(
    sensitivity: Sensitivity, gate: GateConfig
) -> tuple[tuple[Gate, ...], tuple[str, ...]]:
    """Gates on what could have been seen, and the reasons of those that do not hold."""
    common = min(sensitivity.detectable, key=lambda d: abs(d.prevalence - _COMMON))
    seen = common.gap <= gate.max_detectable_gap + _ROUNDING  # NaN does not hold
    share = sensitivity.tested / max(sensitivity.clusters, 1)
    tested = sensitivity.clusters > 0 and share >= gate.min_tested - _ROUNDING
    finite = bool(np.isfinite(common.gap))
    smallest = f"{100 * common.gap:.0f} points" if finite else "not even a gap of 100 points"
    gates = (
        Gate(
            "gate.max_detectable_gap",
            bool(seen),
            "smallest gap these films can detect (feature on "
            f"{100 * common.prevalence:.0f} % of the films, {100 * sensitivity.power:.0f} % "
            f"power): {smallest}; allowed: at most {100 * gate.max_detectable_gap:.0f} points",
        ),
        Gate(
            "gate.min_tested",
            bool(tested),
            f"{sensitivity.tested} of {sensitivity.clusters} clusters could be tested; at "
            f"least {100 * gate.min_tested:.0f} % required",
        ),
    )
    reasons = []
    if not seen:
        reasons.append(
            f"Too few films: a feature on {100 * common.prevalence:.0f} % of them is found with "
            f"{100 * sensitivity.power:.0f} % power only from {smallest} on; a pass needs "
            f"{100 * gate.max_detectable_gap:.0f} points (gate.max_detectable_gap). Audit more "
            "films."
            if finite
            else f"Too few films: a feature on {100 * common.prevalence:.0f} % of them would not "
            f"be found with {100 * sensitivity.power:.0f} % power, however large its gap "
            "(gate.max_detectable_gap). Audit more films."
        )
    if not tested:
        reasons.append(
            f"Too few films: {sensitivity.tested} of {sensitivity.clusters} clusters have enough "
            f"films to be tested; a pass needs {100 * gate.min_tested:.0f} % (gate.min_tested). "
            "Audit more films."
        )
    return gates, tuple(reasons)


def _count(correlations: Sequence[SpuriousCorrelation], noun: str) -> str:
    return f"{len(correlations)} {noun}{'' if len(correlations) == 1 else 's'}"


def _name_classes(correlations: Sequence[SpuriousCorrelation], classes: Sequence[str]) -> str:
    return ", ".join(sorted({classes[c.cluster.raised_class] for c in correlations}))
