"""The report of a comparison of two audits, and its folder: PDF, HTML and JSON, the same numbers.

What differs comes first, then which runs and films these are, accuracy and agreement, and the
correlations of both runs beside each other. A comparison describes; it passes no verdict of its
own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ravl_med import __version__
from ravl_med.errors import ConfigError
from ravl_med.reporting import wording
from ravl_med.reporting.comparison.compare import (
    MIN_OVERLAP,
    ComparedCorrelation,
    Comparison,
    FilmCounts,
    FoundCorrelation,
    Matching,
    Outcome,
)
from ravl_med.reporting.comparison.runs import Agreement, Paired, RunFacts, Setting
from ravl_med.reporting.files.run_folder import (
    draft_folder,
    find_strangers,
    prepare_folder,
    write_json,
)
from ravl_med.reporting.layout import blocks
from ravl_med.reporting.layout.html import draw_html
from ravl_med.reporting.layout.pdf import draw_pdf
from ravl_med.reporting.tables import paired_columns, paired_row
from ravl_med.reporting.wording import signed
from ravl_med.storage.documents import document_of

_CONTENT = "comparison.json"
_TITLE = "Two audits side by side"
_SETTINGS_SHOWN = 12
_CORRELATIONS_SHOWN = 12
_CLASSES_NAMED = 3
_NAMES = {"A": "A", "B": "B", "difference": "B minus A, points"}
_OUTCOMES: dict[Outcome, str] = {
    "same_decisions": "Same decisions",
    "no_difference_shown": "No difference shown",
    "a_more_accurate": "A is more accurate",
    "b_more_accurate": "B is more accurate",
}
_MATCHING: dict[Matching, str] = {
    "in_both": "in both",
    "not_confirmed_in_b": "not confirmed in B",
    "not_found_in_b": "not found in B",
    "not_confirmed_in_a": "not confirmed in A",
    "new_in_b": "new in B",
}


def comparison_blocks(comparison: Comparison) -> list[blocks.Block]:
    """Return the whole report as blocks."""
    return [
        *_first_page(comparison),
        *_accuracy_chapter(comparison),
        *_correlation_chapter(comparison),
        *_method_chapter(comparison),
    ]


def _first_page(comparison: Comparison) -> list[blocks.Block]:
    a, b = comparison.a, comparison.b
    phantoms = " · synthetic phantoms only, no patient" if a.synthetic and b.synthetic else ""
    below = (
        f"A: {wording.printable(a.name, 64)}, {a.date or 'no date given'} · B: "
        f"{wording.printable(b.name, 64)}, "
        f"{b.date or 'no date given'} · {comparison.status}, not signed{phantoms}"
    )
    overall = comparison.overall
    points, bounds = signed(100 * overall.difference), wording.spread(overall.interval, 1)
    line = f"Accuracy, B minus A: {points} points, interval {bounds}."
    return [
        blocks.Title(_TITLE, below),
        blocks.Banner(headline(comparison), line, "open", "level", comparison.status),
        blocks.Section("What differs"),
        blocks.Items(tuple(difference_sentences(comparison)), 500),
        blocks.Section("Which films"),
        blocks.Text(_films_sentence(comparison.films)),
        _run_table(comparison),
        _settings_table(comparison.settings),
        blocks.Text(
            "A comparison describes two models on the same films. It passes no verdict: each run "
            "has its own, and neither is a clinical validation.",
            "muted",
        ),
    ]


def headline(comparison: Comparison) -> str:
    """Say what the difference of accuracy shows, in a few words."""
    return _OUTCOMES[comparison.outcome]


def difference_sentences(comparison: Comparison) -> list[str]:
    """Say what differs: accuracy, worst class, decisions, correlations."""
    overall, worst, agreed = comparison.overall, comparison.worst, comparison.agreement
    sentences = [
        f"Accuracy on {wording.plural(overall.films, 'film')}: A "
        f"{wording.percent(overall.a, 1)}, B {wording.percent(overall.b, 1)}; B minus A "
        f"{wording.estimate(overall.difference, overall.interval)} points, p "
        f"{wording.probability(comparison.p_value)}.",
        f"Worst class: A {wording.percent(worst.change.a, 1)} "
        f"({wording.printable(worst.class_a, 40)}), B "
        f"{wording.percent(worst.change.b, 1)} ({wording.printable(worst.class_b, 40)}); B minus A "
        f"{wording.estimate(worst.change.difference, worst.change.interval)} points.",
        f"Decisions: the same on {wording.percent(agreed.same_share, 1)} of the films "
        f"({wording.spread(comparison.agreement_interval, 1, sign=False)} %). Both right on "
        f"{wording.counted(agreed.both_right)}, A alone on {wording.counted(agreed.only_a)}, B "
        f"alone on {wording.counted(agreed.only_b)}, neither on "
        f"{wording.counted(agreed.both_wrong)}.",
        _correlations_sentence(comparison),
    ]
    if comparison.outcome == "same_decisions":
        sentences.insert(0, "Both models decide alike on every film: in this, nothing differs.")
    return sentences


def _correlations_sentence(comparison: Comparison) -> str:
    a, b, found = comparison.a, comparison.b, comparison.correlations
    if not (a.searched and b.searched):
        which = "A and B" if not (a.searched or b.searched) else "B" if a.searched else "A"
        return f"Correlations: not to be compared, since the audit of {which} stopped before them."
    if not found:
        return "Correlations: none is confirmed in either run."
    both = [entry for entry in found if entry.matching == "in_both"]
    of_a = len({entry.a.rank for entry in both if entry.a})
    of_b = len({entry.b.rank for entry in both if entry.b})
    return (
        f"Correlations that count: {a.counting:,} in A, {b.counting:,} in B. Confirmed: "
        f"{a.confirmed:,} in A, of which {of_a:,} are confirmed in B too; {b.confirmed:,} in B, of "
        f"which {of_b:,} are confirmed in A too."
    )


def _films_sentence(films: FilmCounts) -> str:
    of = f"{wording.plural(films.compared, 'film')} of {wording.plural(films.patients, 'patient')}"
    if not (films.only_a or films.only_b or films.other_label):
        sentences = [f"The films are the same: {of} are compared, none is left out."]
    else:
        sentences = [
            f"{of} are in both runs and are compared. Left out: {films.only_a:,} in A alone, "
            f"{films.only_b:,} in B alone, {films.other_label:,} in both that bear another label."
        ]
    if films.joined:
        sentences.append(
            "The runs do not agree on who is one patient: "
            f"{wording.plural(films.joined, 'patient')} joined to others."
        )
    return " ".join(sentences)


def _accuracy_chapter(comparison: Comparison) -> list[blocks.Block]:
    test = (
        "McNemar's exact test, one film per patient"
        if comparison.one_film_a_patient
        else "exact, the answers of both models exchanged patient by patient, since films of one "
        "patient are not independent, as McNemar's test would have them"
    )
    return [
        blocks.Chapter("Accuracy and agreement", "accuracy"),
        blocks.Text(
            f"Zero-shot accuracy on the same {wording.plural(comparison.films.compared, 'film')}: "
            f"A {wording.accuracy_text(comparison.overall.a, comparison.overall.a_interval)}, B "
            f"{wording.accuracy_text(comparison.overall.b, comparison.overall.b_interval)}. p of "
            f"the difference: {wording.probability(comparison.p_value)} ({test}).",
            "lead",
        ),
        _class_table(comparison),
        blocks.Section("Where they agree"),
        _agreement_table(comparison),
    ]


def _correlation_chapter(comparison: Comparison) -> list[blocks.Block]:
    head = blocks.Chapter("Correlations", "correlations", "page")
    if not comparison.correlations:
        return [head, blocks.Text(_correlations_sentence(comparison))]
    return [
        head,
        blocks.Text(
            "What counts, or is confirmed, in one run beside what the other has of it. Two "
            "correlations are the same where they raise the same class and share films: a Jaccard "
            f"index of the compared films that hold the feature of at least {MIN_OVERLAP:g}.",
            "lead",
        ),
        *_correlation_table(comparison),
        *_gap_table(comparison),
    ]


def _method_chapter(comparison: Comparison) -> list[blocks.Block]:
    a, b = comparison.a, comparison.b
    hidden = wording.hidden_sentence(comparison.hidden_below)
    return [
        blocks.Chapter("How this was compared", "method"),
        blocks.Items(
            (
                "Films are the same where their pseudonyms are; those with another label in B are "
                "left out. Predictions are those of the runs, nothing was computed anew.",
                f"Intervals: {wording.percent(comparison.confidence)}, percentile bootstrap of "
                "patients, "
                f"{comparison.draws:,} draws, seed {comparison.seed}; the same draws for A and B. "
                "They are not corrected for the number of classes or correlations looked at. An "
                f"interval of {signed(0)} to {signed(0)}: both are right on the very same films.",
                "Worst class: of each model its own, the lowest accuracy among the classes.",
                "A match prefers a correlation that is confirmed, then the largest overlap; "
                "several of one run may match one of the other.",
                "That a correlation is confirmed in one run and not in the other does not show "
                "that the models differ in it; the interval of the difference of gaps says that.",
                *([hidden] if hidden else []),
            ),
            600,
        ),
        blocks.Text(
            f"Config digests: A {wording.printable(a.config_digest, 20) or wording.DASH}, B "
            f"{wording.printable(b.config_digest, 20) or wording.DASH}. All numbers are in "
            "comparison.json.",
            "muted",
        ),
    ]


def _run_table(comparison: Comparison) -> blocks.Table:
    """Return which runs these are, and how each ended."""
    heads = ("Report", "Model", "Model digest", "Cohort digest", "Audited", "Verdict",
             "Correlations")  # fmt: skip
    a, b = comparison.a, comparison.b
    same = " The model is the same." if a.model_digest == b.model_digest else ""
    same += " So is the cohort." if same and a.cohort_digest == b.cohort_digest else ""
    return blocks.Table(
        caption="The two runs",
        columns=(blocks.Column("", "status"), *blocks.columns("wide", "A", "B")),
        rows=list(zip(heads, _facts(a), _facts(b), strict=True)),
        note=f"Verdict and status are those of each run's own report.{same}",
        limit=120,
    )


def _facts(run: RunFacts) -> tuple[str, ...]:
    return (
        wording.printable(run.title, 80) or wording.DASH,
        wording.printable(run.model, 60) or wording.DASH,
        wording.printable(run.model_digest, 17) or wording.DASH,
        wording.printable(run.cohort_digest, 17) or wording.DASH,
        f"{wording.plural(run.films, 'phantom')}, synthetic, no patient"
        if run.synthetic
        else f"{wording.plural(run.films, 'film')} of {wording.plural(run.patients, 'patient')}",
        f"{wording.VERDICT_NAMES[run.verdict]}, {run.status}"
        + (f"; tolerates a shortcut or an open feature until {run.until}" if run.until else ""),
        f"{run.counting:,} counted, {run.confirmed:,} confirmed of "
        f"{wording.plural(run.candidates, 'candidate')}"
        if run.searched
        else "not searched",
    )


def _settings_table(settings: Sequence[Setting]) -> blocks.Table:
    """Return the settings and versions that are not the same."""
    rows = [
        (
            wording.printable(s.key, 80) or wording.DASH,
            wording.printable(s.a, 90) or wording.DASH,
            wording.printable(s.b, 90) or wording.DASH,
        )
        for s in settings[:_SETTINGS_SHOWN]
    ]
    rest = len(settings) - _SETTINGS_SHOWN
    if rest > 0:
        rows.append((f"and {rest} more", "in comparison.json", ""))
    return blocks.Table(
        caption="Set otherwise",
        columns=(blocks.Column("Key", "code"), *blocks.columns("wide", "A", "B")),
        rows=rows or [("none", "the effective config is the same", "")],
        note="Keys of the effective config without paths, and versions.",
        headed=bool(rows),
        limit=90,
    )


def _class_table(comparison: Comparison) -> blocks.Table:
    """Return accuracy by class, of the worst class and overall."""
    worst = comparison.worst
    names = " / ".join(
        dict.fromkeys(wording.printable(n, 30) for n in (worst.class_a, worst.class_b))
    )
    rows = [
        _row(wording.printable(name, 40) or wording.DASH, paired, wording.counted(paired.films))
        for name, paired in zip(comparison.classes, comparison.by_class, strict=True)
    ]
    rows.append(_row(blocks.Lines(("Worst class", names)), worst.change, wording.DASH))
    rows.append(_row("All classes", comparison.overall, wording.counted(comparison.overall.films)))
    return blocks.Table(
        caption="Accuracy by class, side by side",
        columns=paired_columns("Class", _NAMES),
        rows=rows,
        note="In brackets: intervals by patient. B minus A in points.",
        limit=120,
        titled=False,
        dense=False,
    )


def _row(
    name: blocks.Cell, paired: Paired, films: str | None, signed: bool = False
) -> tuple[blocks.Cell, ...]:
    values = (("A", paired.a, paired.a_interval), ("B", paired.b, paired.b_interval))
    difference = wording.estimate(paired.difference, paired.interval)
    return paired_row(name, films, values, difference, signed=signed)


def _agreement_table(comparison: Comparison) -> blocks.Table:
    """Return on how many films the models are right together, by class."""
    agreed = (*comparison.agreement_by_class, comparison.agreement)
    names = (
        *(wording.printable(name, 40) or wording.DASH for name in comparison.classes),
        "All classes",
    )
    heads = ("Films", "Same decision", "Both right", "A alone right", "B alone right", "Both wrong")
    return blocks.Table(
        caption="Agreement by class",
        columns=(blocks.Column("Class", "wide"), *blocks.columns("number", *heads)),
        rows=[_agreement_row(*row) for row in zip(names, agreed, strict=True)],
        note="Counts of films. Both may be wrong with the same decision or with two.",
        limit=120,
        titled=False,
        dense=False,
    )


def _agreement_row(name: str, agreed: Agreement) -> tuple[str, ...]:
    if agreed.films < 0:
        return (name, wording.HIDDEN_TEXT, *(wording.DASH,) * 5)
    same = (
        wording.HIDDEN_TEXT
        if agreed.same < 0
        else f"{agreed.same:,} ({wording.percent(agreed.same_share, 1)})"
        if agreed.films
        else wording.DASH
    )
    counts = (agreed.both_right, agreed.only_a, agreed.only_b, agreed.both_wrong)
    return (name, f"{agreed.films:,}", same, *map(wording.counted, counts))


def _correlation_table(comparison: Comparison) -> list[blocks.Block]:
    """Return every correlation as both runs report it, one row a run."""
    shown = comparison.correlations[:_CORRELATIONS_SHOWN]
    rest = len(comparison.correlations) - len(shown)
    more = f" {rest:,} more, all of them in comparison.json." if rest else ""
    return [
        blocks.Section("As each run reports them"),
        blocks.Table(
            caption="Correlations as each run reports them",
            columns=(
                blocks.Column("No.", "number"),
                blocks.Column("Correlation", "wide"),
                blocks.Column("Run"),
                blocks.Column("Outcome"),
                blocks.Column("Raised, lowered", "interval"),
                blocks.Column("q", "number"),
                blocks.Column("Removal", "interval"),
            ),
            rows=[row for at, one in enumerate(shown, 1) for row in _two_rows(at, one)],
            note="Raised, lowered: gaps in points on the held-out patients of each run, accuracy "
            "with minus without the feature, of the raised class and, in the second line, of the "
            "lowered ones together. Removal: fall of the margin beyond that of a control, in "
            "logits, and below it as a share of the standard deviation of the margin (s.d.), which "
            f"can be compared between models.{more}",
            limit=160,
            titled=False,
            joined=range(0, 2 * len(shown), 2),
        ),
    ]


def _two_rows(at: int, entry: ComparedCorrelation) -> tuple[tuple[blocks.Cell, ...], ...]:
    raises = f"raises {wording.printable(entry.raised_class, 40) or wording.DASH}"
    matched = _MATCHING[entry.matching]
    if math.isfinite(entry.overlap):
        matched += f", films shared {wording.number(entry.overlap)}"
    side = entry.a or entry.b
    what = wording.printable("; ".join(side.description.split("; ")[:2]), 56) if side else ""
    lines = tuple(filter(None, (raises, what)))
    return (
        (str(at), blocks.Lines(lines, strong=True), "A", *_found_cells(entry.a)),
        ("", matched, "B", *_found_cells(entry.b)),
    )


def _found_cells(found: FoundCorrelation | None) -> tuple[blocks.Cell, ...]:
    if found is None:
        return ("no candidate", wording.DASH, wording.DASH, wording.DASH)
    outcome = [f"{found.rank}. {found.outcome}"]
    if found.ruling is not None:
        outcome.append(f"reviewer: {_decision(found.ruling)}")
    removal = [wording.estimate(found.removal, found.removal_interval, 2, scale=1.0)]
    if math.isfinite(found.removal_size):
        removal.append(f"{wording.number(found.removal_size)} s.d.")
    gaps = (
        wording.estimate(found.raised_gap, found.raised_interval),
        wording.estimate(found.lowered_gap, found.lowered_interval),
    )
    return (
        blocks.Lines(tuple(outcome)),
        blocks.Lines(gaps),
        wording.probability(found.q_value),
        blocks.Lines(tuple(removal)),
    )


def _decision(name: str) -> str:
    texts: dict[str, str] = dict(wording.DECISION_TEXT.items())
    return texts.get(name, wording.printable(name, 30))


def _gap_table(comparison: Comparison) -> list[blocks.Block]:
    """Return the gaps of both models with one and the same feature, on the same films."""
    shown = comparison.correlations[:_CORRELATIONS_SHOWN]
    return [
        blocks.Section("The same feature, the same films"),
        blocks.Text(
            "Here both models are measured with one feature, that of the run that is named: gap, "
            "accuracy with minus without it, on all compared films. Films on which a run chose the "
            "feature are among them, which makes its own gap look larger than it is, most of all "
            "where only one run found it.",
            "muted",
        ),
        blocks.Table(
            caption="Gaps of both models with the same feature",
            columns=paired_columns(
                "Feature and side", _NAMES, ", points", films=False, signed=True
            ),
            rows=[row for at, one in enumerate(shown, 1) for row in _gap_rows(at, one)],
            limit=160,
            titled=False,
            joined=range(0, 2 * len(shown), 2),
        ),
    ]


def _gap_rows(at: int, entry: ComparedCorrelation) -> tuple[tuple[blocks.Cell, ...], ...]:
    feature = entry.a if entry.feature_of == "A" else entry.b
    lowered = [wording.printable(name, 40) for name in feature.lowered_classes] if feature else []
    raised = wording.printable(entry.raised_class, 40) or wording.DASH
    of = f"feature of {entry.feature_of}, {wording.plural(entry.films_with_feature, 'film')}"
    return (
        _row(blocks.Lines((f"{at}. raised: {raised}", of), strong=True), entry.raised, None, True),
        _row(
            f"lowered: {wording.listing(lowered, _CLASSES_NAMED) or wording.DASH}",
            entry.lowered,
            None,
            True,
        ),
    )


def prepare_comparison_folder(target: Path, *, replace: bool = False) -> tuple[str, ...]:
    """Raise a ConfigError for a folder that holds something else, such as an audit.

    Returns what `prepare_folder` does.
    """
    if find_strangers(target) is not None and not (target / _CONTENT).is_file():
        raise ConfigError(
            "--out: the folder holds a run that is no comparison, which would be replaced. Choose "
            "another."
        )
    return prepare_folder(target, replace=replace)


def write_comparison(comparison: Comparison, folder: Path, *, replace: bool = False) -> None:
    """Write a comparison, whole or not at all; an earlier one in the folder is replaced.

    With `replace` one that holds what no comparison wrote is kept beside the new one.

    Raises
    ------
    ConfigError
        The folder holds something else, or cannot be written.
    """
    prepare_comparison_folder(folder, replace=replace)
    content = comparison_blocks(comparison)
    name = f"{comparison.a.name} vs {comparison.b.name}"
    document = document_of(comparison).model_dump(mode="json")
    with draft_folder(folder, replace=replace) as draft:
        write_json(draft / _CONTENT, document)
        (draft / "report.pdf").write_bytes(draw_pdf(content, name, _TITLE, f"Comparison {name}"))
        page = draw_html(content, name, _TITLE)
        (draft / "report.html").write_text(page, encoding="utf-8")
        record = {
            "tool": {"name": "ravl-med", "version": __version__},
            "kind": "comparison",
            "digests": {"a": _digests(comparison.a), "b": _digests(comparison.b)},
            "seeds": {"draws of patients": comparison.seed},
        }
        write_json(draft / "run.json", record)


def _digests(run: RunFacts) -> dict[str, str]:
    return {"model": run.model_digest, "cohort": run.cohort_digest, "config": run.config_digest}
