"""The chapters of a mitigation report: the same for paper and for the browser.

Verdict first, then every arm, the delivered one in detail with everything that got worse, the
trainings, the re-audit, and what it takes to do it again. The pages say what the result holds.
"""

from __future__ import annotations

from collections.abc import Mapping

from ravl_med.evidence.mitigation_result import (
    ArmOutcome,
    MitigationResult,
    Reaudit,
    SplitSummary,
    VerdictWord,
)
from ravl_med.reporting.audit.details import MitigationDetails
from ravl_med.reporting.layout.blocks import (
    NEW_PAGE,
    Banner,
    Block,
    Chapter,
    CurvePanels,
    Items,
    Reproduction,
    Section,
    Signatures,
    Sized,
    Symbol,
    Table,
    Text,
    Title,
    Tone,
)
from ravl_med.reporting.mitigation.tables import (
    accuracy_table,
    before_after_table,
    class_table,
    curve_table,
    gap_table,
    group_table,
    score_table,
    subgroup_table,
    worsened_table,
)
from ravl_med.reporting.mitigation.words import (
    OUTCOME_LINES,
    OUTCOME_WORDS,
    gone_sentence,
    next_step,
    reaudit_word,
    worsened_sentence,
)
from ravl_med.reporting.wording import DASH, KIND_WORDS, counted, plural, printable

__all__ = ["mitigation_story"]

_ROLES = ("Radiologist", "Responsible for the model")
_LOOKS: dict[VerdictWord, tuple[Tone, Symbol]] = {
    "improved": ("good", "tick"),
    "no_change": ("caution", "level"),
    "worse": ("bad", "cross"),
    "nothing_to_do": ("open", "dash"),
}


def mitigation_story(result: MitigationResult, details: MitigationDetails) -> list[Block]:
    """Return the whole report as blocks.

    Parameters
    ----------
    result : MitigationResult
    details : MitigationDetails
    """
    story = _verdict_chapter(result, details.date)
    if result.verdict.name == "nothing_to_do":
        story += [*_splits(result.splits)]
    else:
        story += _arms_chapter(result)
        if result.delivered is not None:
            story += _delivered_chapter(result, result.delivered)
        story += _training_chapter(result)
        story += _reaudit_chapter(result)
    return [*story, *_reproduction(result, details)]


def _verdict_chapter(result: MitigationResult, date: str | None) -> list[Block]:
    """Page one: the verdict, why, what was mitigated, before and after, what next, signatures."""
    verdict, delivered = result.verdict, result.delivered
    story: list[Block] = [
        Title(result.title, f"Run {result.name} · {date or 'no date given'} · DRAFT, not signed"),
        Banner(OUTCOME_WORDS[verdict.name], OUTCOME_LINES[verdict.name], *_LOOKS[verdict.name]),
        Section("Why"),
        Items(verdict.reasons or ("No reason is named.",)),
    ]
    if delivered is not None:
        story += [before_after_table(result, delivered), Text(worsened_sentence(delivered))]
    story += [*_mitigated(result), Section("What next"), Text(next_step(result))]
    if verdict.gates:
        story.append(_gates(result))
    if result.notes:
        story += [Section("Notes"), Items(result.notes)]
    return [
        *story,
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
    story: list[Block] = [
        Chapter("How the training went", "training"),
        Text(
            "Each trained arm, after each epoch: the mean loss above, the accuracy on the "
            "selection films below. The selection films are of other patients than the final "
            "test.",
            "lead",
        ),
    ]
    if trained:
        story += [
            CurvePanels(
                "Learning curves",
                tuple(trained),
                "Above: loss. Below: accuracy of the worst group (blue, thick) and of all films "
                "(grey, dashed), from 0 to 100 %. Dotted line and dot: the epoch that was kept.",
            ),
            curve_table(result),
        ]
    return [*story, groups] if result.selection_groups else story


def _reaudit_chapter(result: MitigationResult) -> list[Block]:
    story: list[Block] = [Chapter("The re-audit and the data", "reaudit")]
    if result.reaudit is None:
        story.append(Text("The new model was not audited again.", "lead"))
    else:
        story += _reaudit(result.reaudit)
    return [*story, *_splits(result.splits)]


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
        tables = {"Recipe": details.recipe, **tables}
    return [Reproduction(tables, details.config_yaml)]
