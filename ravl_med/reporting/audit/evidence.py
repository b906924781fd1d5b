"""The evidence of one correlation in tables: found and tested, interventions, strata, labels."""

from __future__ import annotations

import math

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.disclosure_control import total_of
from ravl_med.evidence.results import (
    AccuracyByPresence,
    Counterfactual,
    CrossedAttribute,
    LabelQuality,
    LabelShare,
    PairedChange,
    Removal,
    SpuriousCorrelation,
    StatedGap,
    StatedOutcome,
    Strata,
    StratumGap,
)
from ravl_med.reporting import wording
from ravl_med.reporting.audit.sentences import (
    label_objections,
    lowered_class_name,
    lowered_classes_text,
    use_sentence,
)
from ravl_med.reporting.layout import blocks
from ravl_med.reporting.tables import shortened
from ravl_med.reporting.wording import number

_SOURCES_SHOWN = 6
_OUTCOMES: dict[StatedOutcome, str] = {
    "vanishes": ", not distinguished from 0",
    "turns": ", sign changes",
}
_NOTE = (
    "Shares are of all audited films, gaps of held-out patients. What is uncertain or blank counts "
    "as labels.uncertain and labels.blank say; stated labels alone leave it out."
)


def labels_text(labels: LabelQuality | None) -> str:
    """Say in a few words that all labels are alike; blank where they are not, or not known."""
    if labels is None or not labels.one_source or not labels.all_stated:
        return ""
    return f"Labels: from the {wording.printable(labels.one_source, 60)}; none missing."


def labels_part(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> list[blocks.Block]:
    """Return where the labels come from: a table where it is several places; or nothing."""
    labels = correlation.labels
    if labels is None:
        return []
    line = labels_text(labels)
    if line:
        # Without an intervention one page is enough, and the line stands with what was not tested.
        return [blocks.Text(line, "muted")] if correlation.counterfactual is not None else []
    meaning = _conclusion(correlation, classes)
    if labels.one_source:
        return [blocks.Text(_one_source(correlation, labels, classes), "muted"), *meaning]
    table = _labels_table(correlation, labels, classes)
    return [blocks.Section("Where the labels come from"), table, *meaning]


def _conclusion(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> list[blocks.Block]:
    """Say what it means, where no list of counter-evidence does."""
    if correlation.counterfactual is not None:
        return []
    against = label_objections(correlation, classes)
    sentences = [f"{text[:1].upper()}{text[1:]}." for text in against]
    return [blocks.Text(" ".join(sentences))] if sentences else []


def _sides(
    correlation: SpuriousCorrelation, labels: LabelQuality, classes: tuple[str, ...]
) -> list[tuple[str, str, StatedGap]]:
    """Name each side, with its gap on all labels in words, and its gap on stated ones."""
    cluster, arms = correlation.cluster, correlation.confirmation.arms
    raised = cluster.raised_class
    whole = wording.estimate(float(arms.gap[raised]), arms.gap_interval[raised])
    sides = [(wording.class_name(classes, raised), whole, labels.raised)]
    if labels.lowered is not None:
        whole = wording.estimate(arms.opposed_gap, arms.opposed_interval)
        sides.append((lowered_classes_text(cluster, classes), whole, labels.lowered))
    return sides


def _gap_text(gap: StatedGap) -> str:
    if gap.outcome == "hidden":
        return wording.HIDDEN_TEXT
    if gap.outcome == "insufficient":
        return "insufficient"
    return f"{wording.estimate(gap.gap, gap.interval)}{_OUTCOMES.get(gap.outcome, '')}"


def _one_source(
    correlation: SpuriousCorrelation, labels: LabelQuality, classes: tuple[str, ...]
) -> str:
    """Say in a paragraph how many labels are not stated, and what the gaps are without them."""
    left = labels.not_stated
    kinds = [row.value for row in labels.certainty[1:] if row.n_present or row.n_absent]
    arms = [
        f"{wording.counted(n)} of {wording.counted(of)} {which} the feature "
        f"({wording.percent(share, 1)})"
        for n, of, share, which in (
            (left.n_present, labels.n_present, left.share_present, "with"),
            (left.n_absent, labels.n_absent, left.share_absent, "without"),
        )
    ]
    gaps = [
        f"{name} {_gap_text(gap)}, {wording.with_without(gap.n_present, gap.n_absent)} films"
        for name, _, gap in _sides(correlation, labels, classes)
    ]
    return (
        f"Labels: all from the {wording.printable(labels.one_source, 60)}; {' or '.join(kinds)}: "
        f"{' and '.join(arms)}, a difference of "
        f"{wording.estimate(labels.difference, labels.interval)} "
        f"points. Gaps in points on stated labels alone, held-out patients: {'; '.join(gaps)}."
    )


def _labels_table(
    correlation: SpuriousCorrelation, labels: LabelQuality, classes: tuple[str, ...]
) -> blocks.Table:
    rows: list[tuple[blocks.Cell, ...]] = [
        (f"from the {wording.printable(row.value, 60)}", *_share(row), "") for row in labels.sources
    ]
    rows = shortened(rows, _SOURCES_SHOWN, 5, mark="")
    rows += [
        (row.value, *_share(row), "") for row in labels.certainty if row.n_present or row.n_absent
    ]
    if not labels.all_stated:
        difference = wording.estimate(labels.difference, labels.interval)
        rows.append((labels.not_stated.value, *_share(labels.not_stated), difference))
        for name, whole, gap in _sides(correlation, labels, classes):
            n, again = wording.with_without(gap.n_present, gap.n_absent), _gap_text(gap)
            rows.append((f"gap on {name}, all labels", "", "", "", whole))
            rows.append(
                (blocks.Lines((f"on {name}, stated labels",), indented=True), n, "", "", again)
            )
    return blocks.Table(
        caption="Labels with and without the feature",
        columns=(
            blocks.Column("Labels", "wide"),
            blocks.Column("With / without", "status"),
            blocks.Column("With", "number"),
            blocks.Column("Without", "number"),
            blocks.Column("With minus without, points", "interval"),
        ),
        rows=rows,
        note=_NOTE,
        limit=120,
        titled=False,
    )


def _share(row: LabelShare) -> tuple[str, str, str]:
    return (
        wording.with_without(row.n_present, row.n_absent),
        wording.percent(row.share_present, 1),
        wording.percent(row.share_absent, 1),
    )


_VALUES_SHOWN = 8
_ATTRIBUTES_SHOWN = 10
_EMPTY_SHOWN = 10
_CLUSTERS_SHOWN = 12


def evidence_part(result: AuditResult, correlation: SpuriousCorrelation) -> list[blocks.Block]:
    """Return what was found on one half beside what was tested on the other."""
    return [
        blocks.Section("Evidence"),
        _halves_table(result, correlation),
        _test_table(correlation),
    ]


def _halves_table(result: AuditResult, correlation: SpuriousCorrelation) -> blocks.Table:
    cluster, confirmation = correlation.cluster, correlation.confirmation
    classes, arms, raised = result.task.classes, confirmation.arms, cluster.raised_class
    search = result.discovery
    found = wording.DASH
    if search is not None:
        halves = [
            (search.films, search.patients),
            (search.confirmation_films, search.confirmation_patients),
        ]
        films, patients = halves[confirmation.swapped]
        found = wording.of_patients(films, patients)
    names = ["discovery half", "confirmation half"]
    if confirmation.swapped:
        names.reverse()
    rows = (
        (
            f"Found, {names[0]}",
            found,
            wording.with_without(total_of(cluster.n_present), total_of(cluster.n_absent)),
            number(cluster.performance_gap, 2),
            number(cluster.influence, 2),
            wording.signed(100 * float(cluster.gap[raised])),
            wording.signed(100 * cluster.opposed_gap),
        ),
        (
            f"Tested, {names[1]}",
            wording.of_patients(confirmation.films, confirmation.patients),
            wording.with_without(total_of(arms.n_present), total_of(arms.n_absent)),
            "",
            "",
            wording.estimate(float(arms.gap[raised]), arms.gap_interval[raised]),
            wording.estimate(arms.opposed_gap, arms.opposed_interval),
        ),
    )
    columns = (
        *blocks.columns("status", "", "Films (patients)", "With / without it"),
        *blocks.columns("number", "G", "H"),
        blocks.Column(f"{wording.class_name(classes, raised)}, gap in points", "wide"),
        blocks.Column(f"{lowered_classes_text(cluster, classes)}, gap in points", "wide"),
    )
    shown = len(columns) if cluster.lowered_classes else -1  # else the last one would be dashes
    kept = [row[:shown] for row in rows]
    return blocks.Table("Found and tested", columns[:shown], kept, limit=200, titled=False)


def _test_table(correlation: SpuriousCorrelation) -> blocks.Table:
    test = correlation.confirmation
    values = {
        "p, raised side": test.p_raised,
        "p, lowered side": test.p_lowered,
        "p, both": test.p_value,
        "q, all candidates": test.q_value,
    }
    return blocks.Table(
        caption="Test on held-out patients",
        columns=(*(blocks.Column(name) for name in values), blocks.Column("Test")),
        rows=((*map(wording.probability, values.values()), _test_name(correlation)),),
        note=_extent(correlation),
        limit=120,
        titled=False,
    )


def _test_name(correlation: SpuriousCorrelation) -> str:
    if correlation.confirmation.status == "not_tested":
        return "none: too few films"
    if correlation.confirmation.exact:
        return "exact, one film per patient"
    return "permutation of whole patients"


def _extent(correlation: SpuriousCorrelation) -> str:
    """Say how large the cluster is, on all films, and what it stands for."""
    cluster = correlation.cluster
    of = wording.plural(len(cluster.present), "film")
    films = f"few of {of} (hidden)" if correlation.films < 0 else f"{correlation.films:,} of {of}"
    parts = [
        f"Cluster {cluster.cluster} holds {wording.plural(len(cluster.regions), 'region')} on "
        f"{films}."
    ]
    if correlation.also:
        also = wording.listing([str(number) for number in correlation.also], _CLUSTERS_SHOWN)
        count = wording.plural(len(correlation.also), "near-identical cluster")
        verb = "is" if len(correlation.also) == 1 else "are"
        parts.append(f"{count} ({also}) {verb} merged into this one.")
    if cluster.source == "effects":
        parts.append("Found by the effects of removal, not by clustering.")
    if cluster.rare:
        parts.append("RaVL's filters would drop it; kept because both gaps are large.")
    return " ".join(parts)


def counterfactual_part(correlation: SpuriousCorrelation) -> list[blocks.Block]:
    """Return what removing and transplanting the feature does, and whether the model uses it."""
    tested = correlation.counterfactual
    if tested is None:
        return [blocks.Text(f"{use_sentence(None)} {labels_text(correlation.labels)}".rstrip())]
    used = blocks.Text(
        use_sentence(tested)
        if tested.used or correlation.counts
        else "Not shown to be used by the model, for the reasons above."
    )
    made = blocks.Table(
        caption="What the interventions do",
        columns=(
            blocks.Column("Intervention"),
            blocks.Column("Films (patients)", "status"),
            blocks.Column("Change", "number"),
            blocks.Column("Control", "number"),
            blocks.Column("Contrast (interval)", "interval"),
            blocks.Column("Decisions, points (interval)", "interval"),
        ),
        rows=[(name, *_changes(change)) for name, change in _made(tested).items()],
        note=_SHORT_NOTE if tested.tested else _intervention_note(correlation, tested),
        limit=120,
        titled=False,
    )
    return [blocks.KeepTogether((blocks.Section("Does the model use it?"), used, made))]


def intervention_note(correlation: SpuriousCorrelation) -> str:
    """Say how the interventions were made and measured; blank where none was."""
    tested = correlation.counterfactual
    if tested is None or not tested.tested:
        return ""
    return _intervention_note(correlation, tested)


_SHORT_NOTE = (
    "Change, control and contrast: of the score, in logits. Decisions: how many more films change "
    "their class than control films. Intervals by patient. How it was measured: annex."
)


def _made(tested: Counterfactual) -> dict[str, PairedChange | None]:
    """Interventions by name; of what was not tested, what the effect maps show."""
    removal = tested.removal
    if not tested.tested:
        return {"Effect maps": removal.explored, "Effect maps, wrong calls": removal.wrong_calls}
    # Of a feature that no test shows they are those of the maps, of other films.
    wrong_calls = {"Removal, wrong calls": removal.wrong_calls} if tested.used else {}
    return {
        "Removal, typical": removal.typical,
        "Removal, replaced": removal.replaced,
        "Removal, both": removal.both,
        **wrong_calls,
        "Transplant": tested.transplant,
    }


def _changes(change: PairedChange | None) -> tuple[str, ...]:
    if change is None:
        return ("not tried", wording.DASH, wording.DASH, wording.DASH, wording.DASH)
    return (
        wording.of_patients(change.pairs, change.patients),
        wording.signed(change.change, 2),
        wording.signed(change.control, 2),
        wording.estimate(change.contrast, change.interval, 2, scale=1.0),
        wording.estimate(change.decisions, change.decisions_interval),
    )


def _intervention_note(correlation: SpuriousCorrelation, tested: Counterfactual) -> str:
    cluster, removal = correlation.cluster, tested.removal
    margin = (
        "Logits of the raised minus the lowered class"
        if cluster.lowered_class is not None
        else "Logits of the raised minus the largest other class"
    )
    spread = ""
    if math.isfinite(removal.imbalance):
        spread = (
            f" Its standard deviation over films is {number(removal.spread, 2)}; films with the "
            f"feature start {number(removal.imbalance, 2)} of it above their controls."
        )
    if math.isfinite(removal.sharper):
        sharper = wording.accuracy_text(removal.sharper, removal.sharper_interval)
        spread += f" Its place is sharper than that of the control on {sharper} of the films."
    if not tested.tested:
        return (
            f"{margin}: how far it falls where places of the feature are covered, on mapped films "
            "of the discovery half. Control: films of the same class without it; of wrong calls, "
            "the strongest other places of the same films. Intervals are not corrected for the "
            "number of features."
        )
    return (
        f"{margin}: how far removal lowers, and transplant raises, this margin.{spread} Control: "
        "the same places on films of the same class without the feature; for the transplant a "
        "place of a film without it that has about the same margin. Decisions: how many more "
        "films change their class than control films; of wrong calls, how many more are undone "
        "than by the strongest other places of the same films. The test of whether the model uses "
        f"it has q {wording.probability(tested.q_value)}.{_removal_sample(correlation, removal)}"
    )


def _removal_sample(correlation: SpuriousCorrelation, removal: Removal) -> str:
    """Say of how many films with the feature those are a sample that the removal is on."""
    tested, held = removal.both, total_of(correlation.confirmation.arms.n_present)
    if tested is None or not 0 < tested.pairs < held:
        return ""
    return (
        f" Removal is measured on a sample of {wording.plural(tested.pairs, 'film')} with the "
        f"feature, spread over patients, of {wording.counted(held)} in the half it was tested on."
    )


def strata_part(result: AuditResult, correlation: SpuriousCorrelation) -> list[blocks.Block]:
    """Return the gaps inside the strata of each attribute; nothing where it was not crossed."""
    strata = correlation.strata
    if strata is None:
        return []
    note = (
        "Subgroups are of the films of both halves. Adjusted: Mantel-Haenszel difference over "
        "them, in points, with its interval by patient. V: Cramer's V of the feature and the "
        "attribute; with the label it is "
        f"{number(strata.label_association, 2)} (RaVL assumes near 0)."
    )
    empty = [
        f"{wording.printable(crossed.attribute, 30)} {wording.printable(text, 160)}"
        for crossed in strata.attributes
        for text in crossed.empty
    ]
    notes = [blocks.Text(note, "muted")]
    if empty:
        arms = wording.listing(empty, _EMPTY_SHOWN)
        notes.append(blocks.Text(f"Not compared, an arm is empty: {arms}.", "muted"))
    return [
        blocks.Section("Does it hold in every subgroup?"),
        *notes,
        _strata_table(correlation, strata, result.task.classes),
    ]


def _strata_table(
    correlation: SpuriousCorrelation, strata: Strata, classes: tuple[str, ...]
) -> blocks.Table:
    cluster, arms = correlation.cluster, correlation.confirmation.arms
    up, down = (
        wording.class_name(classes, cluster.raised_class),
        lowered_class_name(cluster, classes),
    )
    rows: list[tuple[blocks.Cell, ...]] = [
        (
            "held-out films, unadjusted",
            "",
            *_raw(arms, cluster.raised_class),
            *_raw(arms, cluster.lowered_class),
        )
    ]
    joined = []
    for crossed in strata.attributes[:_ATTRIBUTES_SHOWN]:
        own = _attribute_rows(crossed)
        # The row of an attribute stays on the page of its first value.
        joined += [len(rows)] if len(own) > 1 else []
        rows += own
    left_out = len(strata.attributes) - _ATTRIBUTES_SHOWN
    if left_out > 0:
        rows.append((f"and {wording.plural(left_out, 'more attribute')}", *[""] * 5))
    columns = (
        blocks.Column("Attribute, value", "label"),
        blocks.Column("V", "number"),
        blocks.Column("With / without", "status"),
        blocks.Column(f"{up}: gap", "wide"),
        blocks.Column("With / without", "status"),
        blocks.Column(f"{down}: gap", "wide"),
    )
    shown = len(columns) if cluster.lowered_class is not None else -2  # else dashes
    return blocks.Table(
        caption="Gaps by subgroup, in points",
        columns=columns[:shown],
        rows=[row[:shown] for row in rows],
        limit=120,
        titled=False,
        joined=joined,
    )


def _raw(arms: AccuracyByPresence, index: int | None) -> tuple[str, str]:
    """Films and gap of a class over all strata."""
    if index is None:
        return wording.DASH, wording.DASH
    return (
        wording.with_without(int(arms.n_present[index]), int(arms.n_absent[index])),
        wording.estimate(float(arms.gap[index]), arms.gap_interval[index]),
    )


def _attribute_rows(crossed: CrossedAttribute) -> list[tuple[blocks.Cell, ...]]:
    """Return the adjusted gaps of an attribute, then its largest values, each on a row."""
    adjusted: tuple[blocks.Cell, ...] = (
        blocks.Lines((f"adjusted for {wording.printable(crossed.attribute, 30)}",), strong=True),
        number(crossed.association, 2),
        "",
        blocks.Lines(
            (wording.estimate(crossed.raised_adjusted, crossed.raised_interval),), strong=True
        ),
        "",
        blocks.Lines(
            (wording.estimate(crossed.lowered_adjusted, crossed.lowered_interval),), strong=True
        ),
    )
    raised = {gap.value: gap for gap in crossed.raised}
    lowered = {gap.value: gap for gap in crossed.lowered}
    values = [
        value
        for value in dict.fromkeys((*raised, *lowered))
        if _known(raised.get(value)) or _known(lowered.get(value))
    ]
    size = {value: _films(raised.get(value)) + _films(lowered.get(value)) for value in values}
    kept = set(sorted(values, key=lambda value: -size[value])[:_VALUES_SHOWN])
    rows = [adjusted]
    for value in values:
        if value in kept:
            name = blocks.Lines((wording.printable(value, 30) or wording.DASH,), indented=True)
            rows.append((name, "", *_inside(raised.get(value)), *_inside(lowered.get(value))))
    if len(values) > len(kept):
        rest = blocks.Lines((f"and {len(values) - len(kept)} more",), indented=True)
        rows.append((rest, *[""] * 5))
    return rows


def _known(stratum: StratumGap | None) -> bool:
    """Return whether there is a gap; strata without any are listed below the table."""
    return stratum is not None and math.isfinite(stratum.gap)


def _films(stratum: StratumGap | None) -> int:
    return 0 if stratum is None else stratum.n_present + stratum.n_absent


def _inside(stratum: StratumGap | None) -> tuple[str, str]:
    if stratum is None:
        return wording.DASH, wording.DASH
    return (
        wording.with_without(stratum.n_present, stratum.n_absent),
        wording.estimate(stratum.gap, stratum.interval),
    )
