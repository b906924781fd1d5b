"""The chapters of a mitigation report: the same for paper and for the browser.

Verdict first, then every arm, the delivered one in detail with everything that got worse, the
trainings, the re-audit, and what it takes to do it again. The pages say what the result holds.

What a mitigation report says in words: the verdict, the arms, measures with their intervals.

The tables of a mitigation report: every arm, and the delivered arm class by class.

What a number was before stands beside it with its own interval, that of the audited model on the
same films.
"""

from __future__ import annotations

from collections.abc import Mapping

from ravl_med.evidence.mitigation_result import (
    ArmOutcome,
    Change,
    MitigatedCorrelation,
    MitigationResult,
    Reaudit,
    SplitSummary,
    VerdictWord,
)
from ravl_med.evidence.results import Interval
from ravl_med.reporting.audit.history import MitigationDetails
from ravl_med.reporting.layout.blocks import (
    NEW_PAGE,
    Banner,
    Block,
    Cell,
    Chapter,
    CurvePanels,
    Dot,
    DotLook,
    Dots,
    Items,
    Lines,
    Reproduction,
    Scale,
    Section,
    Signatures,
    Sized,
    Symbol,
    Table,
    Text,
    Title,
    Tone,
)
from ravl_med.reporting.layout.figures import epochs_words
from ravl_med.reporting.wording import (
    DASH,
    KIND_WORDS,
    NBSP,
    VERDICT_WORDS,
    counted,
    estimate,
    number,
    percent,
    plural,
    printable,
    spread,
)

OUTCOME_WORDS: dict[VerdictWord, str] = {
    "improved": "Improved",
    "no_change": "No change",
    "worse": "Worse",
    "nothing_to_do": "Nothing to do",
}
OUTCOME_LINES: dict[VerdictWord, str] = {
    "improved": "By the gates below, the new model is better than the audited one.",
    "no_change": "By the gates below, the new model is not shown to be better.",
    "worse": "By the gates below, the new model is worse than the audited one.",
    "nothing_to_do": "The audit gave no shortcut to mitigate. No model was made.",
}
ENDED_WORDS = {
    "budget": "after its last epoch",
    "early": "early, no more gain",
    "diverged": "it diverged",
}
_NEXT: dict[VerdictWord, str] = {
    "improved": "Read what got worse and what the re-audit found together with a radiologist, and "
    "decide whether the gain is worth it. Then audit the new model on films of the site where it "
    "will be used. This report does not replace clinical validation.",
    "no_change": "The shortcut has to be taken as still there: the verdict of the audit stands. "
    "More films of the rare groups for fine-tuning or a longer training may help. Do not replace "
    "the audited model on the strength of this report.",
    "worse": "Do not use the new model. The verdict of the audit stands for the audited one. Look "
    "at the learning curves and at the groups that got worse before another attempt.",
    "nothing_to_do": "The verdict of the audit stands; nothing was trained and nothing has "
    "changed. A confirmed correlation that is no shortcut is mitigated only when the config names "
    "its rank (mitigation.force), which is a decision for a radiologist.",
}
_SURE = f"{NBSP}*"


def _bracketed(value: str, bounds: str) -> str:
    """Return a value with its interval; a line ends before the interval, not inside."""
    if DASH in (value, bounds):
        return value
    return f"{value} ({bounds.replace(' ', NBSP)})"


def accuracy_words(value: float, interval: Interval) -> str:
    """Return an accuracy with its interval, ``81.2 % (76.0 to 86.1)``; a dash where none is."""
    return _bracketed(percent(value, 1), spread(interval, 1, sign=False))


def score_words(value: float, interval: Interval) -> str:
    """Return a score between 0 and 1 with its interval, ``0.912 (0.880 to 0.941)``."""
    return _bracketed(number(value, 3), spread(interval, 3, scale=1.0, sign=False))


def difference_words(change: Change, *, score: bool = False) -> str:
    """Return the difference to the audited model with its interval, marked where it is sure.

    Parameters
    ----------
    score : bool - print a score with three decimals and not points
    """
    decimals, scale = (3, 1.0) if score else (1, 100.0)
    text = estimate(change.difference, change.difference_interval, decimals, scale=scale)
    return text + (_SURE if change.difference_interval.excludes_zero() else "")


def change_words(change: Change, before: Interval) -> str:
    """Say in half a sentence what an accuracy was, what it is, and how far these differ."""
    return (
        f"{accuracy_words(change.before, before)} before, "
        f"{accuracy_words(change.after, change.interval)} after, difference "
        f"{difference_words(change)} points"
    )


def arm_kind(arm: ArmOutcome) -> str:
    """Say what an arm is: audited, published or ours, whether it trains a tower."""
    if arm.role == "before":
        return "not changed"
    whose = "published" if arm.published else "ours"
    kind = "head, trains no tower" if arm.role == "head" else "tower trained"
    return f"{whose}; {kind}"


def mitigated_sentence(entry: MitigatedCorrelation) -> str:
    """Say what a mitigated correlation makes the model do, and why it was mitigated."""
    kind = "of undecided kind" if entry.kind == "undecided" else f"a {KIND_WORDS[entry.kind]}"
    calls = f"with the feature the model tends to call films {printable(entry.raised_class, 40)}"
    cost = (
        f", at the cost of {printable(entry.lowered_class, 40)}"
        if entry.lowered_class is not None
        else ""
    )
    forced = (
        " It is no confirmed shortcut; it was mitigated because the config asks for it "
        "(mitigation.force)."
        if entry.forced
        else ""
    )
    return f"Correlation {entry.rank} of the audit, {kind}: {calls}{cost}.{forced}"


def worsened_sentence(arm: ArmOutcome) -> str:
    """Say how many classes, groups and subgroups are lower than before, and how many surely."""
    measured = len(arm.classes) + len(arm.groups) + len(arm.subgroups)
    worsened = arm.worsened()
    of = f"of {measured} measured classes, groups and subgroups"
    if not worsened:
        return f"None {of} has a lower accuracy than before."
    surely = sum(change.fell_surely() for _, change in worsened)
    sure = {0: "for none of them does", 1: "for 1 of them"}.get(surely, f"for {surely} of them")
    verb = "the whole interval of the difference " + ("lie" if not surely else "lies")
    have = "has" if len(worsened) == 1 else "have"
    return f"{len(worsened)} {of} {have} a lower accuracy than before; {sure} {verb} below zero."


def gone_sentence(reaudit: Reaudit) -> str:
    """Say whether what was mitigated was found again."""
    if reaudit.remaining:
        found = plural(len(reaudit.remaining), "mitigated shortcut")
        return f"Not gone: {found} found again on the films of the final test."
    if reaudit.verdict == "not_auditable":
        return "Not known: the films of the final test did not allow an audit of the new model."
    return (
        "Gone: no mitigated shortcut was found again on the films of the final test, within what "
        "these films could have shown."
    )


def reaudit_word(reaudit: Reaudit) -> str:
    """Return the verdict of the re-audit as the audit prints it."""
    words: dict[str, str] = {str(name): word for name, word in VERDICT_WORDS.items()}
    return words.get(reaudit.verdict, printable(reaudit.verdict, 30))


def next_step(result: MitigationResult) -> str:
    """Say what a reader should do now."""
    return _NEXT[result.verdict.name]


SURE_NOTE = "* the interval of the difference excludes zero."
_NOTHING = Interval(float("nan"), float("nan"))
_BEFORE, _AFTER = "Before (interval)", "After (interval)"
_DIFFERENCE = "Difference, points (interval)"
_SIDE_WORDS = {"raised": "raised by it", "lowered": "lowered by it"}
_MARKS: tuple[tuple[str, DotLook], ...] = (("before", "before"), ("after", "main"))


def _audited(result: MitigationResult) -> ArmOutcome | None:
    """Return the arm of the audited model, whose own intervals are those of `before`."""
    return next((arm for arm in result.arms if arm.role == "before"), None)


def _intervals(arm: ArmOutcome | None) -> dict[str, Interval]:
    """Intervals of an arm by what is measured, under the names that `worsened` gives."""
    if arm is None:
        return {}
    named = {
        "image_overall": arm.image_overall,
        "image_worst": arm.image_worst,
        "region_overall": arm.region_overall,
        "region_worst": arm.region_worst,
        **{f"gap {place}": entry.gap for place, entry in enumerate(arm.gaps)},
        **{f"class {name}": change for name, change in arm.classes.items()},
        **arm.groups,
        **{f"{axis} {value}": change for (axis, value), change in arm.subgroups.items()},
    }
    return {name: change.interval for name, change in named.items()}


def _row(
    name: str, change: Change, before: Interval, *, films: bool = True, signed: bool = False
) -> tuple[Cell, ...]:
    """Name, films, before, after, difference, and the dots of all that."""
    words = estimate if signed else accuracy_words
    return (
        printable(name, 90) or DASH,
        *([f"{change.films:,}"] if films else []),
        words(change.before, before),
        words(change.after, change.interval),
        difference_words(change),
        before_after_dots(change, before, signed=signed),
    )


def before_after_dots(change: Change, before: Interval, *, signed: bool = False) -> Dots:
    """Return what a number was, with its own interval, above what it is."""
    return Dots(
        (
            Dot("before", change.before, before, "before"),
            Dot("after", change.after, change.interval, "main"),
        ),
        signed,
        height=15.0,
    )


def _columns(head: str, *, signed: bool = False) -> tuple[Sized, ...]:
    unit = ", points" if signed else ""
    return (
        Sized(head, 0.2),
        Sized("Films", 0.065, right=True),
        Sized(_BEFORE.replace(" (", f"{unit} ("), 0.18),
        Sized(_AFTER.replace(" (", f"{unit} ("), 0.18),
        Sized(_DIFFERENCE, 0.215),
        Sized(Scale(_MARKS, signed), 0.16),
    )


def before_after_table(result: MitigationResult, arm: ArmOutcome) -> Table:
    """Return the accuracy of the worst group and of all films, of the whole film.

    Parameters
    ----------
    arm : ArmOutcome - the delivered one
    """
    before = _intervals(_audited(result))
    named = (
        ("Worst group", "image_worst", arm.image_worst),
        ("All films", "image_overall", arm.image_overall),
    )
    return Table(
        caption="Accuracy on the final test, before and after",
        columns=(
            Sized("Measure", 0.13),
            Sized(_BEFORE, 0.18),
            Sized(_AFTER, 0.18),
            Sized(_DIFFERENCE, 0.22),
            Sized(Scale(_MARKS), 0.29),
        ),
        rows=tuple(
            _row(name, change, before.get(key, _NOTHING), films=False)
            for name, key, change in named
        ),
        note=f"Answers to the whole film; {plural(arm.image_overall.films, 'film')}. Intervals by "
        "patient. Worst group: the lowest accuracy among the classes with and without the feature. "
        f"{SURE_NOTE}",
    )


def _arm_cell(arm: ArmOutcome) -> Lines:
    marks = ["DELIVERED"] if arm.delivered else []
    return Lines((printable(arm.title, 60) or DASH, arm_kind(arm), *marks), strong=arm.delivered)


def _measure(change: Change, arm: ArmOutcome, *, score: bool = False) -> Lines:
    words = score_words if score else accuracy_words
    value = words(change.after, change.interval)
    if arm.role == "before" or value == DASH:
        return Lines((value,))
    return Lines((value, difference_words(change, score=score)))


def accuracy_table(result: MitigationResult) -> Table:
    """Return the accuracies of all arms, each with its difference to the audited model."""
    share = 0.2
    return Table(
        caption="Accuracy of every arm",
        columns=(
            Sized("Arm", 1 - 4 * share),
            Sized("Whole film, all films", share),
            Sized("Whole film, worst group", share),
            Sized("Regions, all films", share),
            Sized("Regions, worst group", share),
        ),
        rows=tuple(
            (
                _arm_cell(arm),
                _measure(arm.image_overall, arm),
                _measure(arm.image_worst, arm),
                _measure(arm.region_overall, arm),
                _measure(arm.region_worst, arm),
            )
            for arm in result.arms
        ),
        note="First line: the value (interval). Second line: the difference to the audited model, "
        f"in points (interval); {SURE_NOTE} {DASH}: not measured; a head has no regions of its "
        "own.",
    )


def score_table(result: MitigationResult) -> Table:
    """Return discrimination and calibration of all arms."""
    return Table(
        caption="Discrimination and calibration of every arm",
        columns=(
            Sized("Arm", 0.4),
            Sized("AUROC, higher is better", 0.3),
            Sized("Calibration error, lower is better", 0.3),
        ),
        rows=tuple(
            (
                _arm_cell(arm),
                _measure(arm.auroc, arm, score=True),
                _measure(arm.calibration, arm, score=True),
            )
            for arm in result.arms
        ),
        note="Both between 0 and 1. AUROC: mean over the classes, one against the rest. "
        "Calibration error: mean distance of the model's confidence from its share of right "
        f"answers. Second line: the difference to the audited model (interval); {SURE_NOTE}",
    )


def gap_table(result: MitigationResult, arm: ArmOutcome) -> Table:
    """Return the gap of each mitigated class with minus without the feature, before and after."""
    before = _intervals(_audited(result))
    sides = [
        entry.rank
        for entry in result.mitigated
        for name in (entry.raised_class, entry.lowered_class)
        if name is not None
    ]
    ranks = [f"{rank}: " for rank in sides] if len(sides) == len(arm.gaps) else [""] * len(arm.gaps)
    return Table(
        caption="Gap of accuracy: films with minus films without the feature",
        columns=_columns("Correlation: class" if sides else "Class", signed=True),
        rows=tuple(
            _row(
                f"{rank}{entry.class_name}, {_SIDE_WORDS[entry.side]}",
                entry.gap,
                before.get(f"gap {place}", _NOTHING),
                signed=True,
            )
            for place, (rank, entry) in enumerate(zip(ranks, arm.gaps, strict=True))
        ),
        note="A gap of 0 means that the feature makes no difference. A shortcut gives a positive "
        f"gap to the class that it raises and a negative one to the class that it lowers. "
        f"{SURE_NOTE}",
    )


def class_table(result: MitigationResult, arm: ArmOutcome) -> Table:
    """Return the accuracy of each class, before and after."""
    before = _intervals(_audited(result))
    return Table(
        caption="By class",
        columns=_columns("Class"),
        rows=tuple(
            _row(name, change, before.get(f"class {name}", _NOTHING))
            for name, change in arm.classes.items()
        ),
        note=SURE_NOTE,
    )


def group_table(result: MitigationResult, arm: ArmOutcome) -> Table:
    """Return the accuracy of each class with and without the feature, before and after."""
    before = _intervals(_audited(result))
    return Table(
        caption="By group: class, with and without the feature",
        columns=_columns("Group"),
        rows=tuple(
            _row(name, change, before.get(name, _NOTHING)) for name, change in arm.groups.items()
        ),
        note=f"With several features, “with” means with any of them. {SURE_NOTE}",
    )


def subgroup_table(result: MitigationResult, arm: ArmOutcome) -> Table:
    """Return the accuracy of each value of each attribute, before and after."""
    before = _intervals(_audited(result))
    return Table(
        caption="By subgroup",
        columns=_columns("Attribute and value"),
        rows=tuple(
            _row(f"{axis}: {value}", change, before.get(f"{axis} {value}", _NOTHING))
            for (axis, value), change in arm.subgroups.items()
        ),
        note=SURE_NOTE,
    )


def worsened_table(result: MitigationResult, arm: ArmOutcome) -> Table:
    """Return every class, group and subgroup that got worse, the worst first; none is left out."""
    before = _intervals(_audited(result))
    return Table(
        caption="What got worse, all of it, the worst first",
        columns=(
            Sized("Class, group or subgroup", 0.27),
            Sized("Films", 0.065, right=True),
            Sized(_BEFORE, 0.18),
            Sized(_AFTER, 0.18),
            Sized(_DIFFERENCE, 0.22),
            Sized("Surely", 0.085),
        ),
        rows=tuple(
            (
                *_row(name, change, before.get(name, _NOTHING))[:-1],
                "✗ yes" if change.fell_surely() else "no",
            )
            for name, change in arm.worsened()
        ),
        note="Surely: the whole interval of the difference lies below zero (*). Intervals are not "
        "corrected for the number of rows.",
    )


def curve_table(result: MitigationResult) -> Table:
    """Return how each training went, in numbers."""
    rows = []
    for arm in result.arms:
        curve = arm.curve
        if curve is None:
            continue
        kept = 0 <= curve.best < min(len(curve.worst_group), len(curve.overall))
        losses = [number(loss, 3) for loss in (*curve.losses[:1], *curve.losses[-1:])]
        rows.append(
            (
                _arm_cell(arm),
                epochs_words(curve),
                " to ".join(losses) or DASH,
                percent(curve.worst_group[curve.best], 1) if kept else DASH,
                percent(curve.overall[curve.best], 1) if kept else DASH,
                ENDED_WORDS[curve.stopped],
                f"{curve.steps:,}",
                f"{curve.seconds:,.0f}{NBSP}s",
            )
        )
    return Table(
        caption="Every training in numbers",
        columns=(
            Sized("Arm", 0.25),
            Sized("Kept epoch", 0.09),
            Sized("Loss, first to last", 0.13),
            Sized("Worst group there", 0.11),
            Sized("All films there", 0.1),
            Sized("It ended", 0.14),
            Sized("Steps", 0.08, right=True),
            Sized("Time", 0.1, right=True),
        ),
        rows=tuple(rows),
        note="Accuracies on the selection films, which chose the epoch: they are no estimate of "
        "how well a model does and have no interval. That is what the final test is for.",
    )


_ROLES = ("Radiologist", "Responsible for the model")
_LOOKS: dict[VerdictWord, tuple[Tone, Symbol]] = {
    "improved": ("good", "tick"),
    "no_change": ("caution", "level"),
    "worse": ("bad", "cross"),
    "nothing_to_do": ("open", "dash"),
}


def mitigation_story(result: MitigationResult, details: MitigationDetails) -> list[Block]:
    """Return the whole report as blocks."""
    blocks = _verdict_chapter(result, details.date)
    if result.verdict.name == "nothing_to_do":
        blocks += [*_splits(result.splits)]
    else:
        blocks += _arms_chapter(result)
        if result.delivered is not None:
            blocks += _delivered_chapter(result, result.delivered)
        blocks += _training_chapter(result)
        blocks += _reaudit_chapter(result)
    return [*blocks, *_reproduction(result, details)]


def _verdict_chapter(result: MitigationResult, date: str | None) -> list[Block]:
    """Page one: the verdict, why, what was mitigated, before and after, what next, signatures."""
    verdict, delivered = result.verdict, result.delivered
    blocks: list[Block] = [
        Title(result.title, f"Run {result.name} · {date or 'no date given'} · DRAFT, not signed"),
        Banner(OUTCOME_WORDS[verdict.name], OUTCOME_LINES[verdict.name], *_LOOKS[verdict.name]),
        Section("Why"),
        Items(verdict.reasons or ("No reason is named.",)),
    ]
    if delivered is not None:
        blocks += [before_after_table(result, delivered), Text(worsened_sentence(delivered))]
    blocks += [*_mitigated(result), Section("What next"), Text(next_step(result))]
    if verdict.gates:
        blocks.append(_gates(result))
    if result.notes:
        blocks += [Section("Notes"), Items(result.notes)]
    return [
        *blocks,
        _key_facts(result),
        Signatures(_ROLES),
        Text(
            "This report is about a model, not about a patient. It is no diagnosis and no clinical "
            "validation.",
            "muted",
        ),
    ]


def _mitigated(result: MitigationResult) -> list[Block]:
    """Say what the model was taught to ignore, and how much of it the fine-tuning set holds."""
    if not result.mitigated:
        return []
    note = "Raises: with the feature the model says this class more often; lowers: less often."
    if result.companion_regions:
        note += (
            " Where an arm exchanges them, fine detail of what travels with them goes along "
            f"({plural(result.companion_regions, 'region')})."
        )
    if any(entry.forced for entry in result.mitigated):
        note += (
            " Forced: it is no confirmed shortcut and was mitigated because the config asks for "
            "it (mitigation.force)."
        )
    return [
        Table(
            caption="What was mitigated",
            columns=(
                Sized("No. in audit", 0.08),
                Sized("Kind", 0.2),
                Sized("Raises", 0.19),
                Sized("Lowers", 0.19),
                Sized("Fine-tuning films with it", 0.11, right=True),
                Sized("Regions with it", 0.1, right=True),
                Sized("Films where removal located it", 0.13, right=True),
            ),
            rows=tuple(
                (
                    str(entry.rank),
                    KIND_WORDS[entry.kind] + (", forced" if entry.forced else ""),
                    printable(entry.raised_class, 60) or DASH,
                    printable(entry.lowered_class or "", 60) or DASH,
                    f"{entry.finetune_films:,}",
                    f"{entry.finetune_regions:,}",
                    f"{entry.located_films:,}",
                )
                for entry in result.mitigated
            ),
            note=note,
        )
    ]


def _gates(result: MitigationResult) -> Table:
    return Table(
        caption="Gates, fixed before the run",
        columns=(Sized("", 0.10), Sized("", 0.33, mono=True), Sized("", 0.57)),
        rows=tuple(
            ("✓ held" if gate.passed else "✗ not held", printable(gate.name, 60), gate.text)
            for gate in result.verdict.gates
        ),
        headed=False,
    )


def _key_facts(result: MitigationResult) -> Table:
    """Facts side by side; the whole digests stand on the last page."""
    delivered = result.delivered
    facts = [
        (
            "Audited model",
            printable(result.audited_digest, 17),
            "Its audit",
            "an earlier run, same digests" if result.audit_reused else "made in this run",
        )
    ]
    if delivered is not None:
        facts.append(
            (
                "New model",
                printable(result.new_digest, 17) or DASH,
                "Delivered arm",
                printable(delivered.title, 60),
            )
        )
    shares = (0.14, 0.36, 0.14, 0.36)
    columns = tuple(Sized("", share) for share in shares)
    return Table("Key facts", columns, tuple(facts), headed=False)


def _arms_chapter(result: MitigationResult) -> list[Block]:
    if not result.arms:
        return []
    films = result.arms[0].image_overall.films
    return [
        Chapter("All arms on the final test", "arms"),
        Text(
            f"Every arm answers the same {plural(films, 'film')} of the final test, which had no "
            "part in the search for the shortcut, in the training or in the choice of the epoch. "
            "The audited model comes first; what a difference is told against is always it.",
            "lead",
        ),
        accuracy_table(result),
        Text(
            "Whole film: the class of a film is the one whose text its embedding is nearest to. "
            "Regions: it is that of its best-matching region. Worst group: the lowest accuracy "
            "among the classes with and without the feature; groups with few films are joined "
            "first. Published: an arm that others have described. Ours: one of this project. "
            "Intervals come from a bootstrap that draws patients, the same draws for both models.",
            "muted",
        ),
        score_table(result),
    ]


def _delivered_chapter(result: MitigationResult, arm: ArmOutcome) -> list[Block]:
    """Show the delivered model in detail; what got worse stands before the long tables."""
    worsened = [worsened_table(result, arm)] if arm.worsened() else []
    gaps = [gap_table(result, arm)] if arm.gaps else []
    subgroups = [subgroup_table(result, arm)] if arm.subgroups else []
    return [
        Chapter("The delivered model, before and after", "delivered", NEW_PAGE),
        Text(f"Arm: {printable(arm.title, 80)}. {worsened_sentence(arm)}", "lead"),
        *gaps,
        *worsened,
        class_table(result, arm),
        group_table(result, arm),
        *subgroups,
        Text(
            "A class, group or subgroup with too few films is not told by itself; its films count "
            "in the accuracy of all films.",
            "muted",
        ),
    ]


def _training_chapter(result: MitigationResult) -> list[Block]:
    trained = [(arm.title, arm.curve) for arm in result.arms if arm.curve is not None]
    groups = Table(
        caption="Groups of the selection films",
        columns=(Sized("Group", 0.85), Sized("Films", 0.15, right=True)),
        rows=tuple((name, counted(films)) for name, films in result.selection_groups.items()),
        note="The epoch with the best accuracy of the worst of these groups was kept, averaged "
        "over as many epochs in a row as the recipe says.",
    )
    if not trained and not result.selection_groups:
        return []
    blocks: list[Block] = [
        Chapter("How the training went", "training"),
        Text(
            "Each trained arm, after each epoch: the mean loss above, the accuracy on the "
            "selection films below. The selection films are of other patients than the final "
            "test.",
            "lead",
        ),
    ]
    if trained:
        blocks += [
            CurvePanels(
                "Learning curves",
                tuple(trained),
                "Above: loss. Below: accuracy of the worst group (blue, thick) and of all films "
                "(grey, dashed), from 0 to 100 %. Dotted line and dot: the epoch that was kept.",
            ),
            curve_table(result),
        ]
    return [*blocks, groups] if result.selection_groups else blocks


def _reaudit_chapter(result: MitigationResult) -> list[Block]:
    blocks: list[Block] = [Chapter("The re-audit and the data", "reaudit")]
    if result.reaudit is None:
        blocks.append(Text("The new model was not audited again.", "lead"))
    else:
        blocks += _reaudit(result.reaudit)
    return [*blocks, *_splits(result.splits)]


def _reaudit(reaudit: Reaudit) -> list[Block]:
    appeared = reaudit.appeared or ("Nothing: no other correlation counts.",)
    remaining: list[Block] = (
        [Section("Found again"), Items(reaudit.remaining)] if reaudit.remaining else []
    )
    return [
        Text(
            "The whole audit was made again, of the new model on the films of the final test. Its "
            f"verdict: {reaudit_word(reaudit)}.",
            "lead",
        ),
        Items(reaudit.reasons or ("No reason is named.",)),
        Section("Is the shortcut gone?"),
        Text(gone_sentence(reaudit)),
        *remaining,
        Section("What appeared"),
        Items(appeared),
        Section("What these films could have shown"),
        Text(reaudit.detectable or "Not known."),
    ]


def _splits(splits: tuple[SplitSummary, ...]) -> list[Block]:
    if not splits:
        return []
    return [
        Table(
            caption="Parts of the data",
            columns=(
                Sized("Part", 0.22),
                Sized("Films", 0.09, right=True),
                Sized("Patients", 0.1, right=True),
                Sized("Films of each class", 0.59),
            ),
            rows=tuple(
                (
                    split.role,
                    counted(split.films),
                    counted(split.patients),
                    ", ".join(
                        f"{printable(name, 40)} {counted(films)}"
                        for name, films in split.by_class.items()
                    )
                    or DASH,
                )
                for split in splits
            ),
            note="No patient is in two of these parts.",
            limit=1500,
        )
    ]


def _reproduction(result: MitigationResult, details: MitigationDetails) -> list[Block]:
    models = {"audited model": result.audited_digest}
    if result.new_digest:
        models["new model"] = result.new_digest
    seeds = {name: str(seed) for name, seed in details.seeds.items()}
    tables: dict[str, Mapping[str, str]] = {
        "Digests": {**models, **details.digests},
        "Seeds": seeds,
        "Versions": details.versions,
    }
    if details.recipe:
        tables = {"TrainingConfig": details.recipe, **tables}
    return [Reproduction(tables, details.config_yaml)]
