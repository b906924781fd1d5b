"""The report of a mitigation: the same blocks for paper and for the browser.

Verdict first, then every arm, the delivered one in detail with everything that got worse, the
trainings, the re-audit, and what it takes to do it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ravl_med.evidence.mitigation_result import (
    ArmOutcome,
    MitigatedCorrelation,
    MitigationResult,
    Reaudit,
    SplitSummary,
    VerdictWord,
)
from ravl_med.reporting.audit.history import MitigationDetails
from ravl_med.reporting.audit.sentences import verdict_name
from ravl_med.reporting.audit.verdict import DISCLAIMER
from ravl_med.reporting.layout import blocks
from ravl_med.reporting.layout.html import draw_html
from ravl_med.reporting.layout.pdf import draw_pdf
from ravl_med.reporting.mitigation.tables import (
    accuracy_table,
    before_after_table,
    curve_table,
    gap_table,
    part_tables,
    score_table,
    worsened_table,
)
from ravl_med.reporting.tables import fact_table, gate_table
from ravl_med.reporting.wording import DASH, KIND_NAMES, counted, plural, printable

OUTCOME_NAMES: dict[VerdictWord, str] = {
    "improved": "Improved",
    "no_change": "No change",
    "worse": "Worse",
    "nothing_to_do": "Nothing to do",
}
OUTCOME_LINES: dict[VerdictWord, str] = {
    "improved": "By the criteria set before the run, the new model is better than the audited one.",
    "no_change": "By the criteria set before the run, the new model is not shown to be better.",
    "worse": "By the criteria set before the run, the new model is worse than the audited one.",
    "nothing_to_do": "The audit gave no shortcut to mitigate. No model was made.",
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
_LOOKS: dict[VerdictWord, tuple[blocks.Tone, blocks.Symbol]] = {
    "improved": ("good", "tick"),
    "no_change": ("caution", "level"),
    "worse": ("bad", "cross"),
    "nothing_to_do": ("open", "dash"),
}
_ROLES = ("Radiologist", "Responsible for the model")


def mitigated_sentence(entry: MitigatedCorrelation) -> str:
    """Say what a mitigated correlation makes the model do, and why it was mitigated."""
    kind = "of undecided kind" if entry.kind == "undecided" else f"a {KIND_NAMES[entry.kind]}"
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
    if not entry.confirmed:
        forced += (
            " It was not confirmed on other patients or on the model, so it may be chance, or the "
            "disease itself, that was trained away."
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
    if not reaudit.searched:
        return "Not known: the films of the final test are no test of the new model."
    return (
        "Gone: no mitigated shortcut was found again on the films of the final test, within what "
        "these films could have shown."
    )


def nothing_new(reaudit: Reaudit) -> str:
    """Say that nothing appeared, or that it is not known."""
    return "Nothing: no other correlation counts." if reaudit.searched else "Not known."


def mitigation_blocks(result: MitigationResult, details: MitigationDetails) -> list[blocks.Block]:
    """Return the whole report as blocks."""
    content = _verdict_chapter(result, details.date)
    if result.verdict.name == "nothing_to_do":
        content += [*_splits(result.splits)]
    else:
        content += _arms_chapter(result)
        if result.delivered is not None:
            content += _delivered_chapter(result, result.delivered)
        content += _training_chapter(result)
        content += _reaudit_chapter(result)
    return [*content, *_reproduction(result, details)]


def _verdict_chapter(result: MitigationResult, date: str | None) -> list[blocks.Block]:
    """Page one: the verdict, why, what was mitigated, before and after, what next, signatures."""
    verdict, delivered = result.verdict, result.delivered
    content: list[blocks.Block] = [
        blocks.Title(
            result.title, f"Run {result.name} · {date or 'no date given'} · DRAFT, not signed"
        ),
        blocks.Banner(
            OUTCOME_NAMES[verdict.name], OUTCOME_LINES[verdict.name], *_LOOKS[verdict.name]
        ),
        blocks.Section("Why"),
        blocks.Items(verdict.reasons or ("No reason is named.",)),
    ]
    if delivered is not None:
        content += [
            before_after_table(result, delivered),
            blocks.Text(worsened_sentence(delivered)),
        ]
    content += [*_mitigated(result), blocks.Section("What next"), blocks.Text(_NEXT[verdict.name])]
    if verdict.gates:
        content.append(gate_table(verdict.gates))
    if result.notes:
        content += [blocks.Section("Notes"), blocks.Items(result.notes)]
    return [
        *content,
        _key_facts(result),
        blocks.SignOff(_ROLES, short=True),
        blocks.Text(DISCLAIMER, "muted"),
    ]


def _mitigated(result: MitigationResult) -> list[blocks.Block]:
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
        blocks.Table(
            caption="What was mitigated",
            columns=(
                blocks.Column("No. in audit"),
                *blocks.columns("wide", "Kind", "Raises", "Lowers"),
                blocks.Column("Fine-tuning films with it", "number"),
                blocks.Column("Regions with it", "number"),
                blocks.Column("Films where removal located it", "number"),
            ),
            rows=[
                (
                    str(entry.rank),
                    KIND_NAMES[entry.kind] + (", forced" if entry.forced else ""),
                    printable(entry.raised_class, 60) or DASH,
                    printable(entry.lowered_class or "", 60) or DASH,
                    f"{entry.finetune_films:,}",
                    f"{entry.finetune_regions:,}",
                    f"{entry.located_films:,}",
                )
                for entry in result.mitigated
            ],
            note=note,
        )
    ]


def _key_facts(result: MitigationResult) -> blocks.Table:
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
    return fact_table("Key facts", facts)


def _arms_chapter(result: MitigationResult) -> list[blocks.Block]:
    if not result.arms:
        return []
    films = result.arms[0].image_overall.films
    return [
        blocks.Chapter("All arms on the final test", "arms"),
        blocks.Text(
            f"Every arm answers the same {plural(films, 'film')} of the final test, which had no "
            "part in the search for the shortcut, in the training or in the choice of the epoch. "
            "The audited model comes first; differences are always to it.",
            "lead",
        ),
        accuracy_table(result),
        blocks.Text(
            "Whole film: the class of a film is the one whose text its embedding is nearest to, or "
            "what a model that writes answers. Regions: it is that of its best-matching region. "
            "Worst group: the lowest accuracy among the classes with and without the feature; "
            "groups with few films are joined first. Published: an arm that others have described. "
            "Ours: one of this project. Intervals come from a bootstrap that draws patients, the "
            "same draws for both models.",
            "muted",
        ),
        score_table(result),
    ]


def _delivered_chapter(result: MitigationResult, arm: ArmOutcome) -> list[blocks.Block]:
    """Show the delivered model in detail; what got worse stands before the long tables."""
    worsened = [worsened_table(result, arm)] if arm.worsened() else []
    gaps = [gap_table(result, arm)] if arm.gaps else []
    return [
        blocks.Chapter("The delivered model, before and after", "delivered", "page"),
        blocks.Text(f"Arm: {printable(arm.title, 80)}. {worsened_sentence(arm)}", "lead"),
        *gaps,
        *worsened,
        *part_tables(result, arm),
        blocks.Text(
            "A class, group or subgroup with too few films is not shown by itself; its films count "
            "in the accuracy of all films.",
            "muted",
        ),
    ]


def _training_chapter(result: MitigationResult) -> list[blocks.Block]:
    trained = [(arm.title, arm.curve) for arm in result.arms if arm.curve is not None]
    groups = blocks.Table(
        caption="Groups of the selection films",
        columns=(blocks.Column("Group", "wide"), blocks.Column("Films", "number")),
        rows=[(name, counted(films)) for name, films in result.selection_groups.items()],
        note="The epoch with the best accuracy of the worst of these groups was kept, averaged "
        "over as many epochs in a row as the recipe says.",
    )
    if not trained and not result.selection_groups:
        return []
    content: list[blocks.Block] = [
        blocks.Chapter("How the training went", "training"),
        blocks.Text(
            "Each trained arm, after each epoch: the mean loss above, the accuracy on the "
            "selection films below. The selection films are of other patients than the final test.",
            "lead",
        ),
    ]
    if trained:
        content += [
            blocks.CurvePanels(
                "Learning curves",
                tuple(trained),
                "Above: loss. Below: accuracy of the worst group (blue, thick) and of all films "
                "(grey, dashed), from 0 to 100 %. Dotted line and dot: the epoch that was kept.",
            ),
            curve_table(result),
        ]
    return [*content, groups] if result.selection_groups else content


def _reaudit_chapter(result: MitigationResult) -> list[blocks.Block]:
    content: list[blocks.Block] = [blocks.Chapter("The re-audit and the data", "reaudit")]
    if result.reaudit is None:
        content.append(blocks.Text("The new model was not audited again.", "lead"))
    else:
        content += _reaudit(result.reaudit)
    return [*content, *_splits(result.splits)]


def _reaudit(reaudit: Reaudit) -> list[blocks.Block]:
    appeared = reaudit.appeared or (nothing_new(reaudit),)
    remaining: list[blocks.Block] = (
        [blocks.Section("Found again"), blocks.Items(reaudit.remaining)]
        if reaudit.remaining
        else []
    )
    return [
        blocks.Text(
            "The whole audit was made again, of the new model on the films of the final test. Its "
            f"verdict: {verdict_name(reaudit.verdict)}.",
            "lead",
        ),
        blocks.Items(reaudit.reasons or ("No reason is named.",)),
        blocks.Section("Is the shortcut gone?"),
        blocks.Text(gone_sentence(reaudit)),
        *remaining,
        blocks.Section("What appeared"),
        blocks.Items(appeared),
        blocks.Section("What these films could have shown"),
        blocks.Text(reaudit.detectable or "Not known."),
    ]


def _splits(splits: Sequence[SplitSummary]) -> list[blocks.Block]:
    if not splits:
        return []
    return [
        blocks.Table(
            caption="Parts of the data",
            columns=(
                blocks.Column("Part"),
                *blocks.columns("number", "Films", "Patients"),
                blocks.Column("Films of each class", "wide"),
            ),
            rows=[
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
            ],
            note="No patient is in two of these parts.",
            limit=1500,
        )
    ]


def _reproduction(result: MitigationResult, details: MitigationDetails) -> list[blocks.Block]:
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
        tables = {"Recipe": details.recipe, **tables}
    return [blocks.Reproduction(tables, details.config_yaml)]


def write_mitigation_report(
    result: MitigationResult, details: MitigationDetails, folder: Path
) -> None:
    """Write ``report.pdf`` and ``report.html``; the same input gives the same bytes."""
    content = mitigation_blocks(result, details)
    subject = f"Mitigation {result.name}"
    document = draw_pdf(content, result.name, result.title, subject, date=details.date)
    (folder / "report.pdf").write_bytes(document)
    page = draw_html(content, result.name, result.title, still=True)
    (folder / "report.html").write_text(page, encoding="utf-8")
