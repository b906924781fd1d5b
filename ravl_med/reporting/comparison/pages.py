"""The chapters of a comparison of two audits: the same for paper and for the browser.

What differs comes first, then which runs and films these are, accuracy and agreement, and the
correlations of both runs beside each other. A comparison describes; it passes no verdict of its
own.
"""

from __future__ import annotations

from ravl_med.reporting.comparison.compared_correlations import MIN_OVERLAP
from ravl_med.reporting.comparison.run_comparison import Comparison, FilmCounts, Outcome
from ravl_med.reporting.comparison.tables import (
    agreement_table,
    class_table,
    correlation_table,
    gap_table,
    run_table,
    settings_table,
    short_accuracy,
)
from ravl_med.reporting.layout.blocks import (
    NEW_PAGE,
    Banner,
    Block,
    Chapter,
    Items,
    Section,
    Text,
    Title,
)
from ravl_med.reporting.wording import (
    DASH,
    HIDDEN_WORD,
    estimate,
    percent,
    plural,
    printable,
    probability,
    signed,
    spread,
)

__all__ = ["comparison_story", "difference_sentences", "headline"]

_OUTCOMES: dict[Outcome, str] = {
    "same_decisions": "Same decisions",
    "no_difference_shown": "No difference shown",
    "a_more_accurate": "A is more accurate",
    "b_more_accurate": "B is more accurate",
}


def comparison_story(comparison: Comparison, title: str) -> list[Block]:
    """Return the whole report as blocks.

    Parameters
    ----------
    comparison : Comparison
    title : str
    """
    return [
        *_first_page(comparison, title),
        *_accuracy_chapter(comparison),
        *_correlation_chapter(comparison),
        *_method_chapter(comparison),
    ]


def _first_page(comparison: Comparison, title: str) -> list[Block]:
    a, b = comparison.a, comparison.b
    phantoms = " · synthetic phantoms only, no patient" if a.synthetic and b.synthetic else ""
    below = (
        f"A: {printable(a.name, 64)}, {a.date or 'no date given'} · B: {printable(b.name, 64)}, "
        f"{b.date or 'no date given'} · {comparison.status}, not signed{phantoms}"
    )
    overall = comparison.overall
    points, bounds = signed(100 * overall.difference), spread(overall.interval, 1)
    line = f"Accuracy, B minus A: {points} points, interval {bounds}."
    return [
        Title(title, below),
        Banner(headline(comparison), line, "open", "level", comparison.status),
        Section("What differs"),
        Items(tuple(difference_sentences(comparison)), 500),
        Section("Which films"),
        Text(_films_sentence(comparison.films)),
        run_table(comparison),
        settings_table(comparison.settings),
        Text(
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
    told = [
        f"Accuracy on {plural(overall.films, 'film')}: A {percent(overall.a, 1)}, B "
        f"{percent(overall.b, 1)}; B minus A "
        f"{estimate(overall.difference, overall.interval)} points, p "
        f"{probability(comparison.p_value)}.",
        f"Worst class: A {percent(worst.change.a, 1)} ({printable(worst.class_a, 40)}), B "
        f"{percent(worst.change.b, 1)} ({printable(worst.class_b, 40)}); B minus A "
        f"{estimate(worst.change.difference, worst.change.interval)} points.",
        f"Decisions: the same on {percent(agreed.same_share, 1)} of the films "
        f"({spread(comparison.agreement_interval, 1, sign=False)} %). Both right on "
        f"{agreed.both_right:,}, A alone on {agreed.only_a:,}, B alone on {agreed.only_b:,}, "
        f"neither on {agreed.both_wrong:,}.",
        _correlations_sentence(comparison),
    ]
    if comparison.outcome == "same_decisions":
        told.insert(0, "Both models decide alike on every film: in this, nothing differs.")
    return told


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
    of = f"{plural(films.compared, 'film')} of {plural(films.patients, 'patient')}"
    if not (films.only_a or films.only_b or films.other_label):
        told = [f"The films are the same: {of} are compared, none is left out."]
    else:
        told = [
            f"{of} are in both runs and are compared. Left out: {films.only_a:,} in A alone, "
            f"{films.only_b:,} in B alone, {films.other_label:,} in both that bear another label."
        ]
    if films.joined:
        told.append(
            f"The runs do not agree on who is one patient: {plural(films.joined, 'patient')} "
            "joined to others."
        )
    return " ".join(told)


def _accuracy_chapter(comparison: Comparison) -> list[Block]:
    test = (
        "McNemar's exact test, one film a patient"
        if comparison.one_film_a_patient
        else "exact, the answers of both models exchanged patient by patient, since films of one "
        "patient are not independent, as McNemar's test would have them"
    )
    return [
        Chapter("Accuracy and agreement", "accuracy"),
        Text(
            f"Zero-shot accuracy on the same {plural(comparison.films.compared, 'film')}: A "
            f"{short_accuracy(comparison.overall.a, comparison.overall.a_interval)}, B "
            f"{short_accuracy(comparison.overall.b, comparison.overall.b_interval)}. "
            f"p of the difference: {probability(comparison.p_value)} ({test}).",
            "lead",
        ),
        class_table(comparison),
        Section("Where they agree", room=150),
        agreement_table(comparison),
    ]


def _correlation_chapter(comparison: Comparison) -> list[Block]:
    head = Chapter("Correlations", "correlations", NEW_PAGE)
    if not comparison.correlations:
        return [head, Text(_correlations_sentence(comparison))]
    return [
        head,
        Text(
            "What counts, or is confirmed, in one run beside what the other has of it. Two "
            "correlations are the same where they raise the same class and share films: a Jaccard "
            f"index of the compared films that hold the feature of at least {MIN_OVERLAP:g}.",
            "lead",
        ),
        *correlation_table(comparison),
        *gap_table(comparison),
    ]


def _hidden_note(least: int) -> tuple[str, ...]:
    if not least:
        return ()
    return (
        f"“{HIDDEN_WORD.capitalize()}” stands for what is told of fewer than {least} patients, and "
        "for what it could be told from (privacy.min_cell).",
    )


def _method_chapter(comparison: Comparison) -> list[Block]:
    a, b = comparison.a, comparison.b
    return [
        Chapter("How this was compared", "method", 260.0),
        Items(
            (
                "Films are the same where their pseudonyms are; those with another label in B are "
                "left out. Predictions are those of the runs, nothing was computed anew.",
                f"Intervals: {percent(comparison.confidence)}, percentile bootstrap of patients, "
                f"{comparison.draws:,} draws, seed {comparison.seed}; the same draws for A and B. "
                "They are not corrected for the number of classes or correlations looked at. An "
                f"interval of {signed(0)} to {signed(0)}: both are right on the very same films.",
                "Worst class: of each model its own, the lowest accuracy among the classes.",
                "A match prefers a correlation that is confirmed, then the largest overlap; "
                "several of one run may match one of the other.",
                "That a correlation is confirmed in one run and not in the other does not show "
                "that the models differ in it; the interval of the difference of gaps says that.",
                *_hidden_note(comparison.hidden_below),
            ),
            600,
        ),
        Text(
            f"Config digests: A {printable(a.config_digest, 20) or DASH}, B "
            f"{printable(b.config_digest, 20) or DASH}. All numbers are in comparison.json.",
            "muted",
        ),
    ]
