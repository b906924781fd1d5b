"""Tables of a comparison: runs, settings, accuracy, agreement, correlations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

from ravl_med.evidence.claims import Interval
from ravl_med.reporting.comparison.compared_correlations import (
    ComparedCorrelation,
    FoundCorrelation,
    Matching,
)
from ravl_med.reporting.comparison.compared_run import Setting
from ravl_med.reporting.comparison.run_comparison import Comparison
from ravl_med.reporting.comparison.shared_films import Agreement, Paired
from ravl_med.reporting.layout.blocks import (
    Block,
    Cell,
    Dot,
    DotLook,
    Dots,
    Lines,
    Scale,
    Section,
    Table,
    Text,
    sized,
)
from ravl_med.reporting.wording import (
    DASH,
    HIDDEN_WORD,
    NBSP,
    RULING_WORDS,
    VERDICT_WORDS,
    counted,
    estimate,
    listing,
    number,
    percent,
    plural,
    printable,
    probability,
    spread,
)

__all__ = [
    "agreement_table",
    "class_table",
    "correlation_table",
    "gap_table",
    "run_table",
    "settings_table",
    "short_accuracy",
]

_SETTINGS_SHOWN = 12
_CORRELATIONS_SHOWN = 12
_CLASSES_NAMED = 3
_MARKS: tuple[tuple[str, DotLook], ...] = (("A", "before"), ("B", "main"))
_MATCHING: dict[Matching, str] = {
    "in_both": "in both",
    "not_confirmed_in_b": "not confirmed in B",
    "not_found_in_b": "not found in B",
    "not_confirmed_in_a": "not confirmed in A",
    "new_in_b": "new in B",
}


def short_accuracy(value: float, interval: Interval) -> str:
    """Return an accuracy as ``71.1 % (67.9 to 74.2)``; a dash where there is none."""
    text, bounds = percent(value, 1), spread(interval, 1, sign=False)
    return text if DASH in (text, bounds) else f"{text} ({bounds.replace(' ', NBSP)})"


def run_table(comparison: Comparison) -> Table:
    """Return which runs these are, and how each ended."""
    columns = []
    for run in (comparison.a, comparison.b):
        audited = (
            f"{plural(run.films, 'phantom')}, synthetic, no patient"
            if run.synthetic
            else f"{plural(run.films, 'film')} of {plural(run.patients, 'patient')}"
        )
        columns.append(
            (
                printable(run.title, 80) or DASH,
                printable(run.model, 60) or DASH,
                printable(run.model_digest, 17) or DASH,
                printable(run.cohort_digest, 17) or DASH,
                audited,
                f"{VERDICT_WORDS[run.verdict]}, {run.status}",
                f"{run.counting:,} counted, {run.confirmed:,} confirmed of "
                f"{plural(run.candidates, 'candidate')}"
                if run.searched
                else "not searched",
            )
        )
    heads = ("Report", "Model", "Model digest", "Cohort digest", "Audited", "Verdict",
             "Correlations")  # fmt: skip
    same = " The model is the same." if _alike(comparison, "model_digest") else ""
    same += " So is the cohort." if same and _alike(comparison, "cohort_digest") else ""
    return Table(
        caption="The two runs",
        columns=sized(("", "A", "B"), (80, 206.5, 206.5)),
        rows=tuple(zip(heads, *columns, strict=True)),
        note=f"Verdict and status are those of each run's own report.{same}",
        limit=120,
    )


def _alike(comparison: Comparison, name: str) -> bool:
    return bool(getattr(comparison.a, name) == getattr(comparison.b, name))


def settings_table(settings: Sequence[Setting]) -> Table:
    """Return the settings and versions that are not the same."""
    rows = [
        (printable(s.key, 80) or DASH, printable(s.a, 90) or DASH, printable(s.b, 90) or DASH)
        for s in settings[:_SETTINGS_SHOWN]
    ]
    rest = len(settings) - _SETTINGS_SHOWN
    if rest > 0:
        rows.append((f"and {rest} more", "in comparison.json", ""))
    return Table(
        caption="Set otherwise",
        columns=sized(("Key", "A", "B"), (170, 0, 0), mono=(0,)),
        rows=tuple(rows) or (("none", "the effective config is the same", ""),),
        note="Keys of the effective config without paths, and versions.",
        headed=bool(rows),
        limit=90,
    )


def class_table(comparison: Comparison) -> Table:
    """Return accuracy overall, of the worst class and by class."""
    worst = comparison.worst
    names = " / ".join(dict.fromkeys(printable(n, 30) for n in (worst.class_a, worst.class_b)))
    rows = [
        _paired_row(printable(name, 40) or DASH, paired)
        for name, paired in zip(comparison.classes, comparison.by_class, strict=True)
    ]
    rows.append(_paired_row(Lines(("Worst class", names)), worst.change, films=DASH))
    rows.append(_paired_row("All classes", comparison.overall))
    return Table(
        caption="Accuracy by class, side by side",
        columns=sized(
            ("Class", "Films", "A", "B", "B minus A, points", Scale(_MARKS)),
            (0, 38, 96, 96, 100, 80),
            right=(1,),
        ),
        rows=tuple(rows),
        note="In brackets: intervals by patient. B minus A in points.",
        limit=120,
        titled=False,
        dense=False,
    )


def _paired_row(name: Cell, paired: Paired, films: str = "") -> tuple[Cell, ...]:
    return (
        name,
        films or counted(paired.films),
        short_accuracy(paired.a, paired.a_interval),
        short_accuracy(paired.b, paired.b_interval),
        estimate(paired.difference, paired.interval),
        _dots(paired),
    )


def _dots(paired: Paired, *, signed: bool = False) -> Dots:
    return Dots(
        (
            Dot("A", paired.a, paired.a_interval, "before"),
            Dot("B", paired.b, paired.b_interval, "main"),
        ),
        signed,
        height=15.0,
    )


def agreement_table(comparison: Comparison) -> Table:
    """Return on how many films the models are right together, by class."""
    agreed = (*comparison.agreement_by_class, comparison.agreement)
    names = (*(printable(name, 40) or DASH for name in comparison.classes), "All classes")
    heads = ("Class", "Films", "Same decision", "Both right", "A alone right", "B alone right",
             "Both wrong")  # fmt: skip
    return Table(
        caption="Agreement by class",
        columns=sized(heads, (0, 44, 74, 56, 70, 70, 60), right=(1, 2, 3, 4, 5, 6)),
        rows=tuple(_agreement_row(*row) for row in zip(names, agreed, strict=True)),
        note="Counts of films. Both may be wrong with the same decision or with two.",
        limit=120,
        titled=False,
        dense=False,
    )


def _agreement_row(name: str, agreed: Agreement) -> tuple[str, ...]:
    if agreed.films < 0:
        return (name, HIDDEN_WORD, *(DASH,) * 5)
    same = f"{agreed.same:,} ({percent(agreed.same_share, 1)})" if agreed.films else DASH
    counts = (agreed.both_right, agreed.only_a, agreed.only_b, agreed.both_wrong)
    return (name, f"{agreed.films:,}", same, *(f"{count:,}" for count in counts))


def correlation_table(comparison: Comparison) -> list[Block]:
    """Return every correlation as both runs report it, one row a run."""
    shown = comparison.correlations[:_CORRELATIONS_SHOWN]
    rest = len(comparison.correlations) - len(shown)
    more = f" {rest:,} more, all of them in comparison.json." if rest else ""
    heads = ("No.", "Correlation", "Run", "Outcome", "Raised, lowered", "q", "Removal")
    return [
        Section("As each run reports them", room=150),
        Table(
            caption="Correlations as each run reports them",
            columns=sized(heads, (22, 0, 24, 84, 104, 40, 106)),
            rows=tuple(chain.from_iterable(_two_rows(at, c) for at, c in enumerate(shown, 1))),
            note="Raised, lowered: gaps in points on the held-out patients of each run, accuracy "
            "with minus without the feature, of the raised class and, in the second line, of the "
            "lowered ones together. Removal: fall of the "
            "margin beyond that of a control, in logits, and below it as a share of the standard "
            f"deviation of the margin (s.d.), which can be compared between models.{more}",
            limit=160,
            titled=False,
            joined=tuple(range(0, 2 * len(shown), 2)),
        ),
    ]


def _two_rows(at: int, entry: ComparedCorrelation) -> tuple[tuple[Cell, ...], ...]:
    raises = f"raises {printable(entry.raised_class, 40) or DASH}"
    matched = _MATCHING[entry.matching]
    if math.isfinite(entry.overlap):
        matched += f", films shared {number(entry.overlap)}"
    side = entry.a or entry.b
    what = printable("; ".join(side.description.split("; ")[:2]), 56) if side else ""
    lines = tuple(filter(None, (raises, what)))
    return (
        (str(at), Lines(lines, strong=True), "A", *_found_cells(entry.a)),
        ("", matched, "B", *_found_cells(entry.b)),
    )


def _found_cells(found: FoundCorrelation | None) -> tuple[Cell, ...]:
    if found is None:
        return ("no candidate", DASH, DASH, DASH)
    outcome = [f"{found.rank}. {found.outcome}"]
    if found.ruling is not None:
        outcome.append(f"reviewer: {_ruling(found.ruling)}")
    removal = [estimate(found.removal, found.removal_interval, 2, scale=1.0)]
    if math.isfinite(found.removal_size):
        removal.append(f"{number(found.removal_size)} s.d.")
    gaps = (
        estimate(found.raised_gap, found.raised_interval),
        estimate(found.lowered_gap, found.lowered_interval),
    )
    return (
        Lines(tuple(outcome)),
        Lines(gaps),
        probability(found.q_value),
        Lines(tuple(removal)),
    )


def _ruling(word: str) -> str:
    words: dict[str, str] = {str(key): told for key, told in RULING_WORDS.items()}
    return words.get(word, printable(word, 30))


def gap_table(comparison: Comparison) -> list[Block]:
    """Return the gaps of both models with one and the same feature, on the same films."""
    shown = comparison.correlations[:_CORRELATIONS_SHOWN]
    rows = chain.from_iterable(_gap_rows(at, entry) for at, entry in enumerate(shown, 1))
    return [
        Section("The same feature, the same films", room=180),
        Text(
            "Here both models are measured with one feature, that of the run that is named: gap, "
            "accuracy with minus without it, on all compared films. Films on which a run chose the "
            "feature are among them, which makes its own gap look larger than it is, most of all "
            "where only one run found it.",
            "muted",
        ),
        Table(
            caption="Gaps of both models with the same feature",
            columns=sized(
                (
                    "Feature and side",
                    "A, points",
                    "B, points",
                    "B minus A, points",
                    Scale(_MARKS, signed=True),
                ),
                (0, 102, 102, 102, 76),
            ),
            rows=tuple(rows),
            limit=160,
            titled=False,
            joined=tuple(range(0, 2 * len(shown), 2)),
        ),
    ]


def _gap_rows(at: int, entry: ComparedCorrelation) -> tuple[tuple[Cell, ...], ...]:
    feature = entry.a if entry.feature_of == "A" else entry.b
    lowered = [printable(name, 40) for name in feature.lowered_classes] if feature else []
    raised = printable(entry.raised_class, 40) or DASH
    of = f"feature of {entry.feature_of}, {plural(entry.films_with_feature, 'film')}"
    return (
        _gap_row(Lines((f"{at}. raised: {raised}", of), strong=True), entry.raised),
        _gap_row(f"lowered: {listing(lowered, _CLASSES_NAMED) or DASH}", entry.lowered),
    )


def _gap_row(name: Cell, paired: Paired) -> tuple[Cell, ...]:
    return (
        name,
        estimate(paired.a, paired.a_interval),
        estimate(paired.b, paired.b_interval),
        estimate(paired.difference, paired.interval),
        _dots(paired, signed=True),
    )
