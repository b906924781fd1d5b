"""The labels behind a correlation: their source, how certain they are, the gaps on certain ones."""

from __future__ import annotations

from ravl_med.evidence.claims import SpuriousCorrelation
from ravl_med.evidence.label_claims import LabelQuality, LabelShare, StatedGap, StatedOutcome
from ravl_med.reporting.audit.sentences import label_objections, lowered_side
from ravl_med.reporting.layout.blocks import Block, Cell, Lines, Section, Table, Text, sized
from ravl_med.reporting.wording import (
    HIDDEN_WORD,
    class_name,
    counted,
    estimate,
    percent,
    printable,
    with_without,
)

__all__ = ["labels_line", "labels_part"]

_SOURCES_SHOWN = 6
_OUTCOMES: dict[StatedOutcome, str] = {
    "vanishes": ", not told from 0",
    "turns": ", sign changes",
}
_NOTE = (
    "Shares are of all audited films, gaps of held-out patients. What is uncertain or blank counts "
    "as labels.uncertain and labels.blank say; stated labels alone leave it out."
)


def labels_line(labels: LabelQuality | None) -> str:
    """Say in a few words that all labels are alike; blank where they are not, or not known.

    Parameters
    ----------
    labels : LabelQuality or None
    """
    if labels is None or not labels.one_source or not labels.all_stated:
        return ""
    return f"Labels: {printable(labels.one_source, 60)}, all stated."


def labels_part(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> list[Block]:
    """Return where the labels come from: a table where it is several places; or nothing.

    Parameters
    ----------
    correlation : SpuriousCorrelation
    classes : tuple of str
    """
    labels = correlation.labels
    if labels is None:
        return []
    line = labels_line(labels)
    if line:
        # Without an intervention one page is enough, and the line stands with what was not tested.
        return [Text(line, "muted")] if correlation.counterfactual is not None else []
    meaning = _conclusion(correlation, classes)
    if labels.one_source:
        return [Text(_one_source(correlation, labels, classes), "muted"), *meaning]
    table = _labels_table(correlation, labels, classes)
    return [Section("Where the labels come from"), table, *meaning]


def _conclusion(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> list[Block]:
    """Say what it means, where no list of counter-evidence does."""
    if correlation.counterfactual is not None:
        return []
    told = label_objections(correlation, classes)
    return [Text(" ".join(f"{text[:1].upper()}{text[1:]}." for text in told))] if told else []


def _sides(
    correlation: SpuriousCorrelation, labels: LabelQuality, classes: tuple[str, ...]
) -> list[tuple[str, str, StatedGap]]:
    """Name each side, with its gap on all labels in words, and its gap on stated ones."""
    cluster, arms = correlation.cluster, correlation.confirmation.arms
    raised = cluster.raised_class
    whole = estimate(float(arms.gap[raised]), arms.gap_interval[raised])
    sides = [(class_name(classes, raised), whole, labels.raised)]
    if labels.lowered is not None:
        whole = estimate(arms.opposed_gap, arms.opposed_interval)
        sides.append((lowered_side(cluster, classes), whole, labels.lowered))
    return sides


def _gap_words(gap: StatedGap) -> str:
    if gap.outcome == "hidden":
        return HIDDEN_WORD
    if gap.outcome == "insufficient":
        return "insufficient"
    return f"{estimate(gap.gap, gap.interval)}{_OUTCOMES.get(gap.outcome, '')}"


def _one_source(
    correlation: SpuriousCorrelation, labels: LabelQuality, classes: tuple[str, ...]
) -> str:
    """Say in a paragraph how many labels are not stated, and what the gaps are without them."""
    left = labels.not_stated
    kinds = [row.value for row in labels.certainty[1:] if row.n_present or row.n_absent]
    arms = [
        f"{counted(n)} of {counted(of)} {which} the feature ({percent(share, 1)})"
        for n, of, share, which in (
            (left.n_present, labels.n_present, left.share_present, "with"),
            (left.n_absent, labels.n_absent, left.share_absent, "without"),
        )
    ]
    gaps = [
        f"{name} {_gap_words(gap)}, {with_without(gap.n_present, gap.n_absent)} films"
        for name, _, gap in _sides(correlation, labels, classes)
    ]
    return (
        f"Labels: all from the {printable(labels.one_source, 60)}; {' or '.join(kinds)}: "
        f"{' and '.join(arms)}, a difference of {estimate(labels.difference, labels.interval)} "
        f"points. Gaps in points on stated labels alone, held-out patients: {'; '.join(gaps)}."
    )


def _labels_table(
    correlation: SpuriousCorrelation, labels: LabelQuality, classes: tuple[str, ...]
) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (f"from the {printable(row.value, 60)}", *_share(row), "")
        for row in labels.sources[:_SOURCES_SHOWN]
    ]
    rest = len(labels.sources) - _SOURCES_SHOWN
    if rest > 0:
        rows.append((f"and {rest} more", "", "", "", ""))
    rows += [
        (row.value, *_share(row), "") for row in labels.certainty if row.n_present or row.n_absent
    ]
    if not labels.all_stated:
        difference = estimate(labels.difference, labels.interval)
        rows.append((labels.not_stated.value, *_share(labels.not_stated), difference))
        for name, whole, gap in _sides(correlation, labels, classes):
            n, again = with_without(gap.n_present, gap.n_absent), _gap_words(gap)
            rows.append((f"gap on {name}, all labels", "", "", "", whole))
            rows.append((Lines((f"on {name}, stated labels",), inner=True), n, "", "", again))
    heads = ("Labels", "With / without", "With", "Without", "With minus without, points")
    return Table(
        caption="Labels with and without the feature",
        columns=sized(heads, (0, 62, 42, 44, 158), right=(2, 3)),
        rows=tuple(rows),
        note=_NOTE,
        limit=120,
        titled=False,
    )


def _share(row: LabelShare) -> tuple[str, str, str]:
    return (
        with_without(row.n_present, row.n_absent),
        percent(row.share_present, 1),
        percent(row.share_absent, 1),
    )
