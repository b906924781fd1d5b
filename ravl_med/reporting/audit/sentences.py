"""What the report says in sentences about a correlation, about power, and about earlier audits.

"Association" is the word until an intervention has shown that the model uses a feature.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np

from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.evidence.audit_result import AuditResult, Sensitivity
from ravl_med.evidence.results import (
    AccuracyByPresence,
    ConfirmationStatus,
    Counterfactual,
    PairedChange,
    ReviewDecision,
    SpuriousCorrelation,
    Strata,
)
from ravl_med.evidence.verdict import goes_with_finding, is_shortcut
from ravl_med.reporting import wording
from ravl_med.reporting.audit.history import AuditHistory

_STATUS_NAMES: dict[ConfirmationStatus, str] = {
    "confirmed": "confirmed, not shown to be used",
    "raised_only": "one-sided",
    "not_confirmed": "not confirmed",
    "not_tested": "not tested",
}
_STATUS_ENDS: dict[ConfirmationStatus, str] = {
    "confirmed": "also in patients that had no part in the search; it was not shown that the model "
    "uses the feature",
    "raised_only": "but in patients that had no part in the search only on the raised side",
    "not_confirmed": "but not in patients that had no part in the search",
    "not_tested": "which could not be tested on other patients",
}
_USUAL_SHARE = 0.2  # the prevalence that the sentence on what could be seen begins with
_OBJECTIONS_SHOWN = 10
_LOSING_SHOWN = 3
_FEW_PATIENTS = "How many were called right is hidden, since they are of few patients."
_CHANGES_SHOWN = 6
_KEYS_SHOWN = 8
_VALUE_LIMIT = 40


def used_text(correlation: SpuriousCorrelation) -> str:
    """Say whether the model uses the feature: yes, no, or not tested."""
    if correlation.counterfactual is None:
        return "not tested"
    return "yes" if correlation.counterfactual.used else "no"


def outcome_text(correlation: SpuriousCorrelation) -> str:
    """Say what became of a candidate; only what counts has a kind."""
    if correlation.counts:
        return wording.KIND_NAMES[correlation.kind]
    if correlation.confirmation.status == "confirmed" and correlation.used:
        return "confirmed and used, not counted"
    return _STATUS_NAMES[correlation.confirmation.status]


def lowered_classes_text(cluster: FeatureCluster, classes: tuple[str, ...]) -> str:
    """Write the names of the classes that a feature lowers; a dash where there is none."""
    names = wording.class_names(classes, cluster.opposed_classes)
    return f"{names} together" if len(cluster.opposed_classes) > 1 else names


def correlation_key(correlation: SpuriousCorrelation) -> str:
    """Return the bookmark of the page of a correlation."""
    return f"correlation-{correlation.rank}"


def correlation_name(correlation: SpuriousCorrelation) -> str:
    """Name a correlation by its rank."""
    return f"Correlation {correlation.rank}"


_ANATOMY = re.compile(
    r"\b(lung|heart|hilum|diaphragm|spine|mediastin|clavicle|abdomen|costophrenic|zone|apex|rib)"
)
_MOSTLY = re.compile(r"; (?:5[1-9]|[6-9]\d|100) % ([^;(]*[^;( ])")


def feature_name(result: AuditResult, correlation: SpuriousCorrelation) -> str:
    """Call a feature by the commonest name of its regions, their look or their place.

    Such as ``a pulse generator``, ``a bright, round spot 12 mm across``; where nothing is common
    it is ``feature 3``, by its rank.
    """
    described = wording.printable(correlation.description(result).split("; ")[0], 80)
    share, _, name = described.partition(" % ")
    number = f"feature {correlation.rank}"
    if not share.isdecimal():
        return _name_of_look(described) or number
    name = name.partition(" (")[0]
    if name.startswith("in the "):
        return number
    if _ANATOMY.search(name):
        return f"a feature over the {name}"
    article = "an" if name[:1].lower() in "aeio" else "a"
    return name if name.endswith("s") else f"{article} {name}"


def name_sentence(result: AuditResult, correlation: SpuriousCorrelation) -> str:
    """Say how often the segmenter was right with the name of a feature; blank where unknown."""
    record = re.search(r" \((right [^)]+)\)", correlation.description(result).split("; ")[0])
    return f"The name comes from the segmenter, which was {record[1]}." if record else ""


_SPOT_MM = 30  # what is longer is an area


def _name_of_look(described: str) -> str:
    """Make a name of a look of `describe_looks`; blank where there is none."""
    words = described.split(", ")
    if words[0] not in ("bright", "dark", "round", "long and thin", "in pieces"):
        return ""
    *known, last = words
    size = last if last.endswith(("mm", "width")) else ""
    traits = known if size else words
    millimetres = size.removesuffix(" mm")
    spot = not size or (millimetres.isdecimal() and int(millimetres) <= _SPOT_MM)
    noun = "line" if "long and thin" in traits else "spot" if spot else "area"
    plain = [trait for trait in traits if trait not in ("long and thin", "in pieces")]
    name = f"a {', '.join(plain)} {noun}" if plain else f"a {noun}"
    if "in pieces" in traits:
        name += " in pieces"
    if not size:
        return name
    return f"{name} {size} {'long' if noun == 'line' else 'across'}"


def correlation_marks(result: AuditResult, correlation: SpuriousCorrelation) -> tuple[str, ...]:
    """Return what a reader may choose correlations by; only what counts has a kind."""
    own = wording.KIND_NAMES[correlation.kind]
    kind = ("counted", own) if correlation.counts else ("not counted",)
    return ("needs my decision", *kind) if correlation.rank in result.open_ranks else kind


def headline(result: AuditResult, correlation: SpuriousCorrelation) -> str:
    """Say in one sentence what the model does with a feature that it uses."""
    raised = wording.class_name(result.classes, correlation.cluster.raised_class)
    feature = feature_name(result, correlation) + _place(result, correlation)
    ruling = ruling_on(result, correlation)
    decision = ruling.decision if ruling else None
    if decision == "disease":
        against = ", against the measurements" if is_shortcut(correlation) else ""
        judged = f"a reviewer judged it part of the finding{against}."
        return f"The model reads {feature} as {raised}; {judged}"
    ending = f" This is tolerated until {ruling.until}." if ruling and ruling.until else ""
    if correlation.kind == "shortcut" or decision == "shortcut":
        return f"The model takes {feature} for {raised}.{ending}"
    sign = correlation.kind == "plausible_sign"
    open_point = "; whether it is part of the finding is open."
    what = ": anatomy or a sign of it, as far as can be told." if sign else open_point
    return f"The model reads {feature} as {raised}{what}{ending}"


def _place(result: AuditResult, correlation: SpuriousCorrelation) -> str:
    """Say over which anatomy most regions of a feature without a name lie; blank for none."""
    described = wording.printable(correlation.description(result), 200)
    mostly = _MOSTLY.search(described)
    if not _name_of_look(described.split("; ")[0]) or not mostly or not _ANATOMY.search(mostly[1]):
        return ""
    return f", over the {mostly[1]},"


def ruling_on(result: AuditResult, correlation: SpuriousCorrelation) -> ReviewDecision | None:
    """Return the decision of a reviewer that is in force."""
    held = (one for one in result.rulings if one.in_force and one.rank == correlation.rank)
    return next(held, None)


def harm_sentence(result: AuditResult, correlation: SpuriousCorrelation) -> str:
    """Count films that are called right with the feature and without it, class by class.

    Classes that lose come first, those beyond the tested ones too, then the raised class.
    """
    cluster, test = correlation.cluster, correlation.confirmation
    arms, raised, classes = test.arms, cluster.raised_class, result.classes
    lost = [
        c
        for c in range(len(classes))
        if c != raised and (c in cluster.opposed_classes or arms.gap_interval[c].high < 0)
    ]
    lost.sort(key=lambda c: float(np.nan_to_num(arms.gap[c], nan=1.0)))
    texts = [_called_right(result, arms, c) for c in (*lost[:_LOSING_SHOWN], raised)]
    known = " ".join(filter(None, texts)) or _FEW_PATIENTS
    rest = len(lost) - _LOSING_SHOWN
    verb = "loses" if rest == 1 else "lose"
    more = f" {wording.plural(rest, 'more class', 'es')} {verb} too." if rest > 0 else ""
    return (
        f"{known}{more} They are among {wording.plural(test.films, 'film')} of "
        f"{wording.plural(test.patients, 'patient')} that had no part in the search."
    )


def _called_right(result: AuditResult, arms: AccuracyByPresence, c: int) -> str:
    """Say of a class how many films are called right, with and without the feature; or the rate."""
    films, others = int(arms.n_present[c]), int(arms.n_absent[c])
    share, share_other = float(arms.accuracy_present[c]), float(arms.accuracy_absent[c])
    if min(films, others) <= 0 or not (math.isfinite(share) and math.isfinite(share_other)):
        return ""
    of = f"{wording.plural(films, 'film')} of {wording.class_name(result.classes, c)} with it"
    if result.hidden_below:
        return (
            f"Of {of}, {wording.percent(share)} were called right; without it, "
            f"{wording.percent(share_other)} of {others:,}."
        )
    right = round(films * share)
    verb = "was" if right == 1 else "were"
    return (
        f"Of {of}, {right:,} {verb} called right; without it, {round(others * share_other):,} of "
        f"{others:,}."
    )


def certainty_sentence(result: AuditResult, correlation: SpuriousCorrelation) -> str:
    """Say on whom a feature was found and tested, and what every intervention does."""
    test, tested, search = correlation.confirmation, correlation.counterfactual, result.discovery
    parts = [f"{correlation_name(correlation)}:"]
    if search is not None:
        found = search.confirmation_patients if test.swapped else search.patients
        verb = "confirmed" if correlation.confirmed else "tested"
        others, sure = wording.plural(test.patients, "other"), ""
        if math.isfinite(test.q_value):
            tried = wording.plural(search.candidates, "candidate")
            sure = f" (q {wording.probability(test.q_value)}, corrected for {tried})"
        parts.append(f"found on {wording.plural(found, 'patient')}, {verb} on {others}{sure}.")
    if tested is None or not tested.tested:
        return " ".join([*parts, "The model was not tested on changed films."])
    removal = tested.removal
    fills = sorted(
        (one for one in (removal.typical, removal.replaced) if one), key=lambda one: one.contrast
    )
    raised = wording.class_name(result.classes, correlation.cluster.raised_class)
    if fills:
        other = ""
        if fills[1:]:
            answers = wording.number(100 * fills[1].decisions, 0)
            other = f"{wording.number(fills[1].contrast, 2)} logits"
            other += "" if answers == wording.DASH else f", {answers} of 100"
            other = f" (the weaker of two fills; the other: {other})"
        parts.append(f"Taking it out lowers the score for {raised} by {_effect(fills[0])}{other}.")
    if tested.transplant is not None and math.isfinite(tested.transplant.contrast):
        parts.append(f"Putting it into other films raises it by {_effect(tested.transplant)}.")
    return " ".join(parts)


def _effect(change: PairedChange) -> str:
    """Write by how much an intervention moves the score, and how many answers, if not hidden."""
    text = f"{wording.estimate(change.contrast, change.interval, 2, scale=1.0)} logits"
    if math.isfinite(change.decisions):
        answers = wording.estimate(change.decisions, change.decisions_interval, 0)
        text += f" and changes {answers} of 100 answers"
    return f"{text.replace('+', '')}, beyond control films"


def strata_sentence(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> str:
    """Say in a line whether the raised gap holds in every subgroup, and where it is smallest."""
    strata, cluster = correlation.strata, correlation.cluster
    if strata is None:
        return ""
    raised = wording.class_name(classes, cluster.raised_class)
    gaps = [
        (float(one.gap), f"{wording.printable(crossed.attribute, 30)} "
         f"{wording.printable(one.value, 30)}")
        for crossed in strata.attributes
        for one in crossed.raised
        if math.isfinite(one.gap)
    ]  # fmt: skip
    if not gaps:
        return ""
    least, where = min(gaps)
    turned = sum(gap <= 0 for gap, _ in gaps)
    some = f"does not hold in {turned} of {wording.plural(len(gaps), 'subgroup')}"
    every = f"holds in all {len(gaps):,} subgroups that can be compared"
    smallest = f"smallest {wording.signed(100 * least)} points ({where})"
    return f"In both halves the gap on {raised} {some if turned else every}; {smallest}."


def correlation_heading(
    correlation: SpuriousCorrelation, classes: tuple[str, ...], name: str = ""
) -> str:
    """Return rank, outcome, name, raised class and lowered classes in one line."""
    cluster = correlation.cluster
    parts = [
        f"{correlation_name(correlation)}: {outcome_text(correlation)}",
        *([name] if name else []),
        f"raises {wording.class_name(classes, cluster.raised_class)}",
    ]
    if cluster.opposed_classes and not name:
        parts.append(f"lowers {wording.class_names(classes, cluster.opposed_classes)}")
    return " · ".join(parts)


def correlation_sentence(
    correlation: SpuriousCorrelation, classes: tuple[str, ...], description: str = ""
) -> str:
    """Say what goes with the feature on held-out patients; that the model follows it only if so.

    The feature is called by the commonest name in the description of its regions.
    """
    cluster, arms = correlation.cluster, correlation.confirmation.arms
    raised = wording.class_name(classes, cluster.raised_class)
    commonest = wording.printable(description.split("; ")[0], 60)
    feature = f"feature {correlation.rank}" + (f" ({commonest})" if commonest else "")
    if correlation.used:
        start = f"When {feature} is present, the model tends to call films {raised}"
    else:
        ending = _STATUS_ENDS[correlation.confirmation.status]
        start = f"Accuracy differs between films with {feature} and films without it, {ending}"
    shares = [
        (c, float(arms.accuracy_present[c]), float(arms.accuracy_absent[c]))
        for c in (cluster.raised_class, *cluster.opposed_classes[:3])
    ]
    parts = [
        f"{wording.class_name(classes, c)} {wording.percent(share)} with it and "
        f"{wording.percent(other)} without"
        for c, share, other in shares
        if math.isfinite(share) or math.isfinite(other)
    ]
    if not parts:
        return f"{start}. Too few patients to show accuracies."
    rest = len(cluster.opposed_classes) - 3
    if rest > 0:
        parts.append(f"{rest} more {'class is' if rest == 1 else 'classes are'} lowered")
    return f"{start}. Accuracy on held-out patients: {'; '.join(parts)}."


def kind_sentence(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> str:
    """Say where the removal effect lies, and what that means for what counts."""
    raised = wording.class_name(classes, correlation.cluster.raised_class)
    tested = correlation.counterfactual
    shares = None if tested is None else tested.removal.shares
    if shares is None or not math.isfinite(shares.inside):
        where = "Where the effect of removal lies could not be measured"
        if shares is not None and shares.unknown:
            where += f": the anatomy was not found on {wording.plural(shares.unknown, 'film')}"
    else:
        where = (
            f"{wording.percent(shares.artifact)} of the effect of removal comes from artifacts, "
            f"{wording.percent(shares.inside)} from anatomy where {raised} shows, "
            f"{wording.percent(shares.elsewhere)} from elsewhere"
        )
        if shares.speaks_by_lack:
            where += f" ({wording.percent(shares.lowered)} where lowered classes show)"
    if not correlation.counts:
        return f"{where}."
    lack = ", or the lack of a lowered class" if shares and shares.speaks_by_lack else ""
    meaning = {
        "shortcut": f"a shortcut, since it {_why_foreign(tested)}changes the answers to films that "
        "it is put into",
        "plausible_sign": f"{_why_sign(correlation)}{lack}, as far as can be told",
        "undecided": f"{_why_undecided(tested)}, so whether this is a sign or a shortcut is open; "
        "a radiologist has to look",
    }[correlation.kind]
    return f"{where}: {meaning}."


def _why_sign(correlation: SpuriousCorrelation) -> str:
    """Say what a sign lacks of a thing; one that is sharp is of a finding with edges."""
    tested, cluster = correlation.counterfactual, correlation.cluster
    along = correlation.confirmation, cluster.raised_class, cluster.opposed_classes
    bare = " and is not shown to have the sharp edges of a thing"
    if tested is None or not tested.travels:
        if tested is not None and tested.does_less_elsewhere and not goes_with_finding(*along):
            return f"it does less in other films than in its own{bare}, so that it is their anatomy"
        bare = " and is not shown to raise it in other films"
    elif tested.removal.is_sharp:
        bare = ", which has sharp edges itself"
    return f"it goes with the finding{bare}, so that it is the sign itself"


def _why_foreign(tested: Counterfactual | None) -> str:
    """Say why a feature is not of the body; blank where its artifacts are named already."""
    shares = None if tested is None else tested.removal.shares
    if shares is not None and shares.artifact >= max(shares.inside, shares.elsewhere):
        return ""
    return "is sharper than the same places of films without it, as things are, and "


def _why_undecided(tested: Counterfactual | None) -> str:
    """Say what keeps a used feature from being called a sign or a shortcut."""
    shares = None if tested is None else tested.removal.shares
    if tested is None or shares is None or not math.isfinite(shares.inside):
        return "its place says nothing"
    inside = shares.inside >= max(shares.artifact, shares.elsewhere)
    if tested.travels:
        moves = "it changes the answers to other films, as a shortcut does,"
        if inside:
            edged = ", and is not shown to go with it" if shares.edges else ", sharp as a thing is"
            sharp = edged if tested.removal.is_sharp else ""
            return f"{moves} and lies where the finding shows{sharp}"
        if shares.artifact < shares.elsewhere:
            return f"{moves} and no artifact is known in its place"
        return f"{moves} and part of it may lie where the finding shows"
    if tested.transplant is None:
        return "it could not be put into other films"
    if tested.removal.is_sharp:
        return "it is sharp, as a thing is, and is not shown to change the answers to other films"
    both = shares.inside + shares.lowered
    if inside or both >= max(shares.artifact, shares.elsewhere - shares.lowered):
        lies = "where the finding shows" if inside else "where the finding or a lowered class shows"
        return f"it lies {lies}, and does not go with the finding clearly enough"
    return (
        "it does not lie where the finding shows, and is not shown to change the answers to other "
        "films"
    )


def use_sentence(counterfactual: Counterfactual | None) -> str:
    """Say whether the model uses the feature, and why not where it does not."""
    if counterfactual is None:
        return "Not tested whether the model uses it."
    if counterfactual.used:
        shown = " and ".join(counterfactual.shown_by)
        return f"Used by the model: yes, shown by {shown}."
    why = " ".join(wording.printable(reason, 300) for reason in counterfactual.reasons[:4])
    return f"Used by the model: not shown. {why}".rstrip()


def counter_evidence(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> str:
    """Say what in the measurements speaks against a correlation, beside the rules it fails."""
    against = []
    if correlation.confirmation.swapped:
        against.append("it was found on the confirmation half and tested on the other")
    if correlation.counterfactual is not None:
        against += _against_intervention(correlation.counterfactual)
    else:
        against.append("no intervention was made")
    against += label_objections(correlation, classes)
    if correlation.strata is not None:
        against += _against_strata(correlation.strata, correlation.cluster, classes)
    if not against:
        return "Counter-evidence: none in the measurements below."
    return f"Counter-evidence: {'; '.join(wording.first_of(against, _OBJECTIONS_SHOWN))}."


def _against_intervention(tested: Counterfactual) -> list[str]:
    """Name every intervention that is missing, and each whose effect may be none."""
    if not tested.tested:
        return ["the model was not tested on the other half"]
    removal, against = tested.removal, []
    if removal.typical is None and removal.replaced is None:
        against.append("removal could not be tried")
    elif removal.typical is None or removal.replaced is None:
        against.append("one of the two fills could not be tried")
    elif removal.typical.contrast * removal.replaced.contrast <= 0:
        against.append("the two fills do not agree in sign")
    if tested.transplant is None:
        against.append("a transplant could not be tried")
    for name, change in (
        ("removal (typical fill)", removal.typical),
        ("removal (replaced)", removal.replaced),
        ("transplant", tested.transplant),
    ):
        against += _doubts_of(name, change) if change is not None else []
    return against


def _doubts_of(name: str, change: PairedChange) -> list[str]:
    """Name the measures of an intervention whose interval reaches 0, or that go the other way."""
    measures = (
        ("the score", change.contrast, change.interval, 2, 1.0, ""),
        ("decisions", change.decisions, change.decisions_interval, 1, 100.0, " points"),
    )
    against = []
    for what, value, interval, decimals, scale, unit in measures:
        if math.isnan(value) or scale * interval.low >= 10.0**-decimals / 2:  # as is printed
            continue  # what is hidden of few patients is no evidence
        how = "the other way" if interval.high < 0 else "not distinguished from 0"
        change_text = wording.estimate(value, interval, decimals, scale=scale)
        against.append(f"{name} changes {what} by {change_text}{unit}, {how}")
    return against


def label_objections(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> list[str]:
    """Say where a gap may be one of the labels, and whether labels differ with the feature."""
    labels, arms = correlation.labels, correlation.confirmation.arms
    if labels is None:
        return []
    cluster, against = correlation.cluster, []
    raised = wording.class_name(classes, cluster.raised_class)
    sides = [(raised, float(arms.gap[cluster.raised_class]), labels.raised)]
    if labels.lowered is not None:
        sides.append((lowered_classes_text(cluster, classes), arms.opposed_gap, labels.lowered))
    for name, whole, gap in sides:
        if gap.outcome in ("vanishes", "turns"):
            what = "changes sign" if gap.outcome == "turns" else "is not distinguished from 0"
            against.append(
                f"on stated labels alone the gap on {name} {what} "
                f"({wording.estimate(gap.gap, gap.interval)}; {wording.signed(100 * whole)} "
                "points on all labels), so that it may be one of the labels and not of the model"
            )
    if labels.interval.excludes_zero():
        left = labels.not_stated
        against.append(
            f"{wording.percent(left.share_present, 1)} of the labels with the feature are not "
            f"stated, {wording.percent(left.share_absent, 1)} of those without it"
        )
    return against


def _against_strata(strata: Strata, cluster: FeatureCluster, classes: tuple[str, ...]) -> list[str]:
    """Name the gaps that may be those of an attribute, and what could not be compared."""
    against, crossed = [], strata.attributes
    sides = [
        (wording.class_name(classes, cluster.raised_class), [c.raised_interval for c in crossed])
    ]
    if cluster.lowered_class is not None:
        lowered = [c.lowered_interval for c in crossed]
        sides.append((lowered_class_name(cluster, classes), lowered))
    names = [wording.printable(c.attribute, 30) for c in crossed]
    for side, intervals in sides:
        held = [n for n, i in zip(names, intervals, strict=True) if i.low <= 0 <= i.high]
        if held:
            apart = wording.listing(held, _KEYS_SHOWN)
            against.append(
                f"the gap on {side} is not distinguished from 0 once adjusted for {apart}"
            )
    empty = [f"{n} {len(c.empty)}" for n, c in zip(names, crossed, strict=True) if c.empty]
    if empty:
        against.append(f"comparisons with an empty arm: {wording.listing(empty, _KEYS_SHOWN)}")
    return against


def lowered_class_name(cluster: FeatureCluster, classes: tuple[str, ...]) -> str:
    """Name the most lowered class, the one that margins and strata are about; a dash without."""
    lowered = cluster.lowered_class
    return wording.DASH if lowered is None else wording.class_name(classes, lowered)


def shift_sentence(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> str:
    """Say how far scores move with the feature, whatever the threshold."""
    cluster, shift = correlation.cluster, correlation.confirmation.shift
    raised = wording.class_name(classes, cluster.raised_class)
    lowered = lowered_class_name(cluster, classes)
    than = "the largest other" if cluster.lowered_class is None else f"that for {lowered}"
    parts = [
        f"{wording.estimate(value, interval, 2, scale=1.0)} on films of {name}"
        for name, value, interval in (
            (raised, shift.raised, shift.raised_interval),
            (lowered, shift.lowered, shift.lowered_interval),
        )
        if math.isfinite(value)
    ]
    if not parts:
        return "How far the score moves with the feature was not measured."
    return (
        f"With the feature, the score for {raised} minus {than} is shifted by "
        f"{' and by '.join(parts)} (logits)."
    )


def detectable_sentences(sensitivity: Sensitivity) -> list[str]:
    """Say which features an audit would have found, and which it would have missed."""
    found = [entry for entry in sensitivity.detectable if math.isfinite(entry.gap)]
    missed = [entry for entry in sensitivity.detectable if not math.isfinite(entry.gap)]
    power, sentences, start = wording.percent(sensitivity.power), [], "A feature"
    if sensitivity.local is not None:
        points = wording.number(100 * sensitivity.local.points, 1)
        sentences.append(
            f"A local feature that is not named here may cost up to {points} points of accuracy "
            "(upper limit, from films that were changed)."
        )
        start = "By accuracy alone, a feature"
    if found:
        first = min(found, key=lambda entry: abs(entry.prevalence - _USUAL_SHARE))
        others = [
            f"in {wording.percent(entry.prevalence)}: {wording.number(100 * entry.gap, 0)} points"
            for entry in found
            if entry is not first
        ]
        more = f" ({wording.listing(others, 8)})" if others else ""
        sentences.append(
            f"{start} in {wording.percent(first.prevalence)} of the films with a gap of "
            f"{wording.number(100 * first.gap, 0)} points or more would have been found with "
            f"{power} probability{more}."
        )
    if missed:
        shares = " or ".join(wording.percent(entry.prevalence) for entry in missed)
        sentences.append(
            f"{start} in {shares} of the films may have been missed, however large its gap."
        )
    return sentences


def history_sentence(history: AuditHistory) -> str:
    """Say which audit of the model on these films this is, and what changed since the last."""
    if history.number <= 1:
        return "This is the first audit of this model on these films."
    changes = [
        f"{wording.printable(key, 60)} {_setting(before)} -> {_setting(now)}"
        for key, before, now in history.changed
    ]
    verdicts = [
        f"{count:,} {verdict_name(name, 20).lower()}" for name, count in history.verdicts.items()
    ]
    parts = [
        f"This is the {wording.ordinal(history.number)} audit of this model on these films",
        f"changed since the last: {wording.listing(changes, _CHANGES_SHOWN) or 'nothing'}",
    ]
    before = [key for key in history.ever_changed if key not in {c[0] for c in history.changed}]
    if before:
        keys = wording.listing([wording.printable(key, 60) for key in before], _KEYS_SHOWN)
        parts.append(f"changed at some time before: {keys}")
    return f"{'; '.join(parts)}; earlier verdicts: {wording.listing(verdicts, 8) or 'none'}."


def verdict_line(result: AuditResult) -> str:
    """Say in a line what the verdict means for this audit."""
    name, named = result.verdict.name, any(entry.counts for entry in result.correlations)
    more = " What was found all the same is named." if named and name == "not_auditable" else ""
    return wording.VERDICT_LINES[name] + more


def holds_until(result: AuditResult) -> str:
    """Return the last day of the first acceptance to end; blank where nothing is tolerated."""
    tolerated = (one for one in result.rulings if one.in_force and one.decision == "accepted")
    return min((one.until for one in tolerated), default="")


def decision_text(ruling: ReviewDecision) -> str:
    """Say what a reviewer decided, or that it no longer holds."""
    if not ruling.in_force:
        return f"tolerated until {ruling.until}, expired"
    if ruling.decision == "accepted":
        return f"tolerated until {ruling.until}"
    return wording.DECISION_TEXT[ruling.decision]


def verdict_name(name: str, limit: int = 30) -> str:
    """Return the name of a verdict as it is printed, whatever was read from a file."""
    names: dict[str, str] = dict(wording.VERDICT_NAMES.items())
    return names.get(name, wording.printable(name, limit))


def _setting(value: Any) -> str:
    """Write a value of the config as YAML would: ``0.1``, ``true``, ``not set``."""
    if value is None:
        return "not set"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return wording.printable(text, _VALUE_LIMIT) or wording.DASH
