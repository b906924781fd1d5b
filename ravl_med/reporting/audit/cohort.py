"""Who was audited, how, and how well: model, prompts, cohort, performance, subgroups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import groupby

from ravl_med.evidence.audit_result import (
    Accuracy,
    AttributeValue,
    AuditResult,
    CohortSummary,
    Confounder,
    FindingAuroc,
    ModelCheckStatus,
    Stratum,
)
from ravl_med.evidence.confounders import attribute_name
from ravl_med.evidence.results import UNKNOWN, Interval
from ravl_med.reporting import wording
from ravl_med.reporting.layout import blocks
from ravl_med.reporting.pictures import burned_in_sentence, shown_correlations
from ravl_med.reporting.tables import fact_table, shortened

_FINDINGS_SHOWN = 60
_CHECKED: dict[ModelCheckStatus, str] = {"held": "✓ held", "odd": "! odd", "failed": "✗ failed"}


def model_checks_part(result: AuditResult) -> list[blocks.Block]:
    """Return the section on the sanity of the model; nothing where it was not looked at."""
    sanity = result.sanity
    if sanity is None:
        return []
    gate = (
        f"The interval of each finding must lie above {sanity.min_auroc:g} (gate.min_auroc), or "
        "the verdict is fail or not auditable; one that lies below 0.5 stops it."
        if sanity.min_auroc
        else "It is not judged (gate.min_auroc)."
    )
    rows = [
        (wording.class_name(result.task.classes, c), wording.counted(one.films), *_numbers(one))
        for c, one in enumerate(sanity.findings)
    ]
    checks = tuple(
        (_CHECKED[check.status], check.name, wording.printable(check.text, 400))
        for check in sanity.checks
    )
    return [
        blocks.Section("Basic checks"),
        blocks.Text(
            "How well the model distinguishes each finding from the other classes (area under the "
            f"ROC curve, interval by patient), and technical checks of model and input. {gate}",
            "muted",
        ),
        blocks.Table(
            caption="AUROC by finding",
            columns=(
                blocks.Column("Finding", "wide"),
                blocks.Column("Films", "number"),
                blocks.Column("AUROC", "number"),
                blocks.Column("Interval", "interval"),
                blocks.Column("AUROC by prompt", "interval"),
                blocks.Column("", "status"),
            ),
            rows=shortened(rows, _FINDINGS_SHOWN, 6, mark=""),
            limit=120,
            titled=False,
        ),
        blocks.Table(
            caption="Checks",
            columns=(
                blocks.Column("Outcome", "status"),
                blocks.Column("What"),
                blocks.Column("Found", "wide"),
            ),
            rows=checks,
            limit=400,
        ),
    ]


def _numbers(one: FindingAuroc) -> tuple[str, str, str, str]:
    prompts = f"{wording.number(one.lowest)} to {wording.number(one.highest)}"
    return (
        wording.number(one.auroc),
        wording.spread(one.interval, 2, scale=1.0, sign=False),
        wording.DASH if wording.DASH in prompts else prompts,
        "flipped" if one.flipped else "",
    )


_ANSWERS = {
    "yes_no": "log-odds of the yes-words against the no-words, at the first token of the answer",
    "choice": "log-likelihood of the text of each class after the question, by its tokens",
    "report": "a film is called as its report says, read for findings; effects are measured by "
    "log-odds of yes against no",
}
_ROWS_SHOWN = 20
_VALUES_SHOWN = 12
_TEXTS_SHOWN = 96
_TEXTS_A_ROW = 12
_CLASSES_LISTED = 60
_SUBGROUPS_SHOWN = 120
_ONE_WINDOW = "window 1 of 1"
_FEW_APART = 2  # values of an attribute with too few films; more of them share a row
_FLOW_REASONS = 5
_SURE = 0.05  # q from which a subgroup is said to differ


def cohort_chapter(result: AuditResult) -> list[blocks.Block]:
    """Return what the model is, and which films were audited."""
    shown = shown_correlations(result)  # else it stands beside the performance
    return [
        blocks.Chapter("Model and cohort", "cohort", "page" if shown else "whole"),
        model_table(result),
        cohort_flow(result),
        composition_table(result),
        *(confounder_part(result.confounders or ()) if _gives_away(result) else []),
        *(blocks.Text(text, "muted") for text in _notes(result) if text),
    ]


def cohort_annex(result: AuditResult) -> list[blocks.Block]:
    """Return what the model reads, its digests, and every reason for which rows were left out."""
    return [
        blocks.Chapter("Prompts, digests and rows", "prompts"),
        prompt_table(result),
        digest_table(result),
        flow_table(result),
        *([] if _gives_away(result) else confounder_part(result.confounders or ())),
    ]


def _gives_away(result: AuditResult) -> bool:
    """Whether an attribute gives away the label: then it stands with the films."""
    return any(one.sentence for one in result.confounders or ())


def _notes(result: AuditResult) -> tuple[str, str]:
    """Say what is hidden of few patients, and what was done about text on films; blank for none."""
    hidden = wording.hidden_sentence(result.hidden_below, "here and on every page")
    if hidden:
        hidden += (
            " Rates and intervals that belong to it are dashes. Counts of rows and files that were "
            "not taken are counts of files."
        )
    burned_in = burned_in_sentence(result.burned_in, synthetic=result.cohort.synthetic)
    return hidden, burned_in


def digest_table(result: AuditResult) -> blocks.Table:
    """Return the digests of all that was loaded, and how a region is embedded."""
    model = result.model
    facts = (
        ("Digest of the model", model.digest),
        *((f"Digest of the {name}", digest) for name, digest in model.digests.items()),
        ("Region pooling", model.region_pooling),
    )
    return fact_table("Model, exactly", facts)


def model_table(result: AuditResult) -> blocks.Table:
    """Return what the model is and how it answers."""
    model = result.model
    facts = (
        ("Name", model.name),
        ("Architecture", model.architecture),
        ("Digest", wording.printable(model.digest, 17)),
        ("Parameters", f"{model.parameters:,}"),
        (
            "Input",
            f"{model.image_size} x {model.image_size} pixels, "
            f"{wording.RESIZE_TEXT.get(model.resize_mode, model.resize_mode)}",
        ),
        *(
            []
            if is_answered(result)
            else [("Zero-shot temperature", f"{result.task.temperature:g}")]
        ),
        ("Scores", _scores_text(result)),
    )
    return fact_table("Model", facts)


def is_answered(result: AuditResult) -> bool:
    """Whether the model writes, and was scored by its answers."""
    return result.task.scores.startswith("answers")


def _scores_text(result: AuditResult) -> str:
    """Say how similarities became scores, and what scale the model itself was trained with."""
    model = result.model
    bias = "" if model.logit_bias is None else f", bias {model.logit_bias:.3g}"
    own = "" if model.logit_scale is None else f"; the model's scale {model.logit_scale:.3g}{bias}"
    if result.task.scores == "table":
        return (
            "a table of what the model said of each film (model.scores); it cannot be run on a "
            "changed film, so that no counterfactual is possible. Regions are those of the model "
            "named here"
        )
    if is_answered(result):
        return _ANSWERS[result.task.scores.removeprefix("answers, ")]
    if result.task.scores == "sigmoid":
        return f"sigmoid of each class, without the temperature{own}"
    return f"softmax over the classes{own}"


def prompt_table(result: AuditResult) -> blocks.Table:
    """Return the texts of each class, as they are read."""
    rows = []
    for index, name in enumerate(result.task.classes):
        texts = [f"“{wording.printable(text, 200)}”" for text in result.task.texts.get(name, ())]
        label = wording.class_name(result.task.classes, index)
        # Few texts a row, so that a class with 80 templates splits over pages.
        for start in range(0, min(max(len(texts), 1), _TEXTS_SHOWN), _TEXTS_A_ROW):
            part = texts[start : min(start + _TEXTS_A_ROW, _TEXTS_SHOWN)]
            rows.append((label if start == 0 else "", ", ".join(part) or wording.DASH))
        if len(texts) > _TEXTS_SHOWN:
            rest = wording.plural(len(texts) - _TEXTS_SHOWN, "more text")
            rows.append(("", f"and {rest}, in the effective config"))
    return blocks.Table(
        caption="Questions, verbatim as the model reads them with each film"
        if is_answered(result)
        else "Prompts, verbatim as the text tower reads them",
        columns=(blocks.Column("Class", "label"), blocks.Column("Texts", "wide")),
        rows=rows,
        limit=2600,
    )


def cohort_flow(result: AuditResult) -> blocks.Flow:
    """Return how films came from the manifest into the two halves; none where nothing was split."""
    cohort, search = result.cohort, result.discovery
    left_out, rejected = sum(cohort.left_out.values()), sum(cohort.rejected.values())
    parts: tuple[blocks.FlowBox, ...] = ()
    if search is not None:
        chosen = _counted(cohort, search.films, search.patients)
        tested = _counted(cohort, search.confirmation_films, search.confirmation_patients)
        parts = (
            blocks.FlowBox("Discovery half", chosen),
            blocks.FlowBox("Confirmation half", tested),
        )
    films, patients = _counted(cohort, cohort.images, cohort.patients)
    return blocks.Flow(
        caption="Cohort flow",
        start=blocks.FlowBox(f"Listed in the manifest: {wording.plural(cohort.listed, 'row')}"),
        left_out=(
            blocks.FlowBox(
                f"Left out by task or split: {wording.plural(left_out, 'row')}",
                _reasons(cohort.left_out),
            ),
            blocks.FlowBox(
                f"Could not be read: {wording.plural(rejected, 'film')}", _reasons(cohort.rejected)
            ),
        ),
        end=blocks.FlowBox(f"Audited: {films}", (f"of {patients}",)),
        parts=parts,
    )


def _counted(cohort: CohortSummary, images: int, patients: int) -> tuple[str, str]:
    """Return films and patients as counts; those of phantoms say so."""
    if cohort.synthetic:
        return wording.plural(images, "phantom"), wording.plural(patients, "synthetic patient")
    return wording.plural(images, "film"), wording.plural(patients, "patient")


def _reasons(counts: Mapping[str, int]) -> tuple[str, ...]:
    """Return the most frequent reasons, and how many more there are."""
    ranked = sorted(counts.items(), key=lambda entry: -entry[1])
    reasons = [
        f"{count:,} {wording.printable(reason, 120) or wording.DASH}" for reason, count in ranked
    ]
    return tuple(wording.first_of(reasons, _FLOW_REASONS, "reason"))


def flow_table(result: AuditResult) -> blocks.Table:
    """Return every reason for which rows of the manifest were left out."""
    cohort = result.cohort
    rows = [("Listed in the manifest", "", f"{cohort.listed:,}")]
    rows += [("Left out", reason, f"−{count:,}") for reason, count in cohort.left_out.items()]
    rows += [
        ("Rejected, not readable", code, f"−{count:,}") for code, count in cohort.rejected.items()
    ]
    if not cohort.left_out:
        rows.append(("Left out", "none", "0"))
    if not cohort.rejected:
        rows.append(("Rejected", "none", "0"))
    patients = (
        "phantoms, no patient" if cohort.synthetic else wording.plural(cohort.patients, "patient")
    )
    rows.append(("Audited", patients, wording.counted(cohort.images)))
    named = [f"row {row} ({wording.printable(code, 40)})" for row, code, _ in cohort.rejected_rows]
    return blocks.Table(
        caption="From the list to the audit",
        columns=(
            blocks.Column("Step", "label"),
            blocks.Column("Reason", "wide"),
            blocks.Column("Rows", "number"),
        ),
        rows=rows,
        note=f"Rejected: {wording.listing(named, _ROWS_SHOWN)}." if named else "",
        limit=120,
    )


def composition_table(result: AuditResult) -> blocks.Table:
    """Return how many films there are of each class and of each value of an attribute."""
    cohort = result.cohort
    rows = []
    groups = {"class": cohort.images_by_class, **cohort.attributes}
    for name, counts in groups.items():
        values = [
            f"{wording.printable(value, 40).replace(_ONE_WINDOW, 'its window') or wording.DASH}: "
            f"{wording.counted(count)}"
            for value, count in counts.items()
        ]
        rows.append(
            (
                wording.printable(name, 40),
                wording.listing(values, _CLASSES_LISTED if name == "class" else _VALUES_SHOWN)
                or wording.DASH,
            )
        )
    rows.append(
        ("radiology report", f"{wording.plural(cohort.radiology_reports, 'film')} with a report")
    )
    return blocks.Table(
        caption="Audited films",
        columns=(blocks.Column("Attribute", "label"), blocks.Column("Films", "wide")),
        rows=rows,
        limit=1500,
    )


def confounder_part(confounders: tuple[Confounder, ...]) -> list[blocks.Block]:
    """Return what each attribute says of the label, those that give it away marked."""
    if not confounders:
        return []
    rows = [
        (
            f"{wording.printable(attribute_name(one.attribute), 30)}{' !' * bool(one.sentence)}",
            wording.score_text(one.association, one.interval, 2),
            wording.score_text(one.auroc, one.auroc_interval, 2),
            f"{wording.printable(one.finding, 40)} "
            + wording.score_text(one.finding_auroc, one.finding_interval, 2),
            _value_text(one.strongest),
        )
        for one in confounders
        if not one.left_out
    ]
    left_out = ", ".join(
        f"{attribute_name(one.attribute)} ({one.left_out})" for one in confounders if one.left_out
    )
    return [
        blocks.Table(
            caption="Attributes that go with the label",
            columns=(
                blocks.Column("Attribute", "label"),
                *blocks.columns("interval", "Cramér's V", "AUROC, mean", "AUROC, best class"),
                blocks.Column("Value that says most", "wide"),
            ),
            rows=rows,
            note="Measured on the labels, without the model. Cramér's V: 0 independent, 1 "
            "inseparable. AUROC: of guessing the label from this attribute alone, on other "
            "patients; 0.5 and less is chance. In brackets: intervals by patient. !: the "
            "attribute gives away the label, see page one."
            + (f" Not measured: {left_out}." if left_out else ""),
            limit=200,
        )
    ]


def _value_text(one: AttributeValue | None) -> str:
    """Return the value with its class, such as ``PA: no finding in 88 of 88 patients``."""
    if one is None:
        return wording.DASH
    text = f"{wording.printable(one.value, 40)}: {wording.printable(one.finding, 40)}"
    if one.patients < 0:
        return f"{text}, {wording.HIDDEN_TEXT}"
    counts = f"{one.with_finding:,} of {wording.plural(one.patients, 'patient')}"
    return f"{text} in {counts}, elsewhere {wording.percent(one.elsewhere)}"


def _dot(
    value: float, interval: Interval, look: blocks.DotLook = "main", reference: float = math.nan
) -> blocks.Dots:
    return blocks.Dots((blocks.Dot("accuracy", value, interval, look),), reference=reference)


def performance_chapter(result: AuditResult) -> list[blocks.Block]:
    """Return accuracy overall and by class, and in a sentence by subgroup."""
    accuracy = result.accuracy
    return [
        blocks.Chapter("Performance", "performance"),
        *([key_facts(result)] if any(entry.counts for entry in result.correlations) else []),
        blocks.Text(
            f"Zero-shot accuracy on {wording.plural(accuracy.images, 'film')}: "
            f"{wording.accuracy_text(accuracy.overall, accuracy.overall_interval)}. "
            "“Predicted” is the share of all films that the model gives to a class.",
            "lead",
        ),
        _class_table(result),
        *(
            blocks.Text(text)
            for text in (_auroc_sentence(result), _subgroup_sentence(result))
            if text
        ),
    ]


def performance_annex(result: AuditResult) -> list[blocks.Block]:
    """Return the basic checks and accuracy by subgroup, as numbers and as plots."""
    parts = [*model_checks_part(result), *_subgroup_part(result)]
    return [blocks.Chapter("Checks and subgroups", "subgroups"), *parts] if parts else []


def _auroc_sentence(result: AuditResult) -> str:
    """Say whether the model tells the findings apart, and which least."""
    sanity = result.sanity
    known = [
        (one.auroc, c)
        for c, one in enumerate(sanity.findings if sanity else ())
        if math.isfinite(one.auroc)
    ]
    if sanity is None or not known:
        return ""
    (least, c), most = min(known), max(known)[0]
    text = f"The model distinguishes the findings with an AUROC of {wording.number(least)}"
    if most - least < 0.005:  # two classes have one
        return f"{text}."
    return f"{text} ({wording.class_name(result.classes, c)}) to {wording.number(most)}."


def _subgroup_sentence(result: AuditResult) -> str:
    """Say whether accuracy differs by subgroup; the annex has the numbers."""
    compared = [one for one in result.subgroups if not one.insufficient]
    compared = [one for one in compared if math.isfinite(one.q_value)]
    if not compared:
        return ""
    differ = sorted((one for one in compared if one.q_value <= _SURE), key=lambda o: o.difference)
    if not differ:
        lowest = min(one.q_value for one in compared)
        return (
            f"None of the {wording.plural(len(compared), 'subgroup')} that can be compared differs "
            f"in accuracy from the other films (smallest q {wording.probability(lowest)})."
        )
    named = [
        f"{wording.printable(one.attribute, 30)} {wording.printable(one.value, 30)} "
        f"{wording.signed(100 * one.difference)} points"
        for one in differ
    ]
    return (
        f"Of {wording.plural(len(compared), 'subgroup')} that can be compared, {len(differ)} "
        f"{'differs' if len(differ) == 1 else 'differ'} in accuracy from the other films: "
        f"{wording.listing(named, 4)}."
    )


def _search_text(result: AuditResult) -> str:
    """Say how many candidates there were, and what came of them."""
    if result.discovery is None:
        return "no search was made"
    found = result.correlations
    confirmed = sum(entry.confirmation.status == "confirmed" for entry in found)
    return (
        f"{wording.plural(result.discovery.candidates, 'candidate')}, {confirmed} confirmed, "
        f"{sum(entry.counts for entry in found)} counted"
    )


def key_facts(result: AuditResult) -> blocks.Table:
    """Return what was audited, on how many films, and what the search came to."""
    cohort, accuracy = result.cohort, result.accuracy
    films = (
        f"{wording.plural(cohort.images, 'film')} of {wording.plural(cohort.patients, 'patient')}"
    )
    if cohort.synthetic:
        films = f"{wording.plural(cohort.images, 'phantom')}, synthetic, no patient"
    facts = (
        ("Model", wording.printable(result.model.name, 60), "Cohort", films),
        (
            "Model digest",
            wording.printable(result.model.digest, 17),
            "Accuracy",
            wording.accuracy_text(accuracy.overall, accuracy.overall_interval)
            if math.isfinite(accuracy.overall)
            else "hidden, of few patients",
        ),
        (
            "Task",
            f"{wording.printable(result.task.name, 40)}, "
            f"{wording.plural(len(result.task.classes), 'class', 'es')}",
            "Search",
            _search_text(result),
        ),
    )
    return fact_table("Key facts", facts)


def _class_table(result: AuditResult) -> blocks.Table:
    accuracy = result.accuracy
    rows = [
        (
            wording.class_name(result.task.classes, c),
            wording.counted(accuracy.images_by_class[c]),
            wording.percent(value, 1),
            wording.spread(accuracy.by_class_interval[c], 1, sign=False),
            wording.percent(accuracy.predicted_share[c], 1),
            _dot(value, accuracy.by_class_interval[c]),
        )
        for c, value in enumerate(accuracy.by_class)
    ]
    whole = (
        "All classes",
        wording.counted(accuracy.images),
        wording.percent(accuracy.overall, 1),
        wording.spread(accuracy.overall_interval, 1, sign=False),
        wording.DASH,
        _dot(accuracy.overall, accuracy.overall_interval, "total"),
    )
    return blocks.Table(
        caption="Accuracy by class",
        columns=(
            blocks.Column("Class", "wide"),
            blocks.Column("Films", "number"),
            blocks.Column("Accuracy", "number"),
            blocks.Column("Interval, %", "interval"),
            blocks.Column("Predicted", "number"),
            blocks.Column(blocks.Scale(), "plot"),
        ),
        rows=[*rows, whole],
        limit=120,
        titled=False,
        dense=False,
    )


def _subgroup_part(result: AuditResult) -> list[blocks.Block]:
    """Accuracy by value of each attribute as a forest plot; rows with too few films say so."""
    subgroups, accuracy = result.subgroups, result.accuracy
    if not subgroups:
        return []
    rows: list[tuple[blocks.Cell, ...]] = []
    for attribute, group in groupby(subgroups, key=lambda one: one.attribute):
        own = list(group)
        few = [one for one in own if one.insufficient]
        folded = few if len(few) > _FEW_APART else []
        lines = [_subgroup_row(one, accuracy.overall) for one in own if one not in folded]
        if folded:
            rest = f"{len(folded)} {'other ' if lines else ''}values with too few films"
            lines.append((rest, *[""] * 4, "insufficient", wording.DASH, ""))
        names = [wording.printable(attribute, 30), *[""] * (len(lines) - 1)]
        rows += [(name, *line) for name, line in zip(names, lines, strict=True)]
    rows = shortened(rows, _SUBGROUPS_SHOWN, 9, mark="")
    rows.append(_all_films_row(accuracy, result.cohort.patients))
    return [
        blocks.Section("By subgroup"),
        blocks.Text(
            "Difference: accuracy minus that of the other films of the attribute, adjusted for "
            "class mix, so that it can differ in sign from the plain accuracies. q: exchange of "
            "whole patients within class, false discovery rate over all comparisons. Insufficient: "
            "too few films or patients to compare. The dark line "
            "marks the accuracy of all films; a subgroup is part of them, so that the comparison "
            "is the difference, not the distance from the line.",
            "muted",
        ),
        blocks.Table(
            caption="Accuracy by subgroup",
            columns=(
                blocks.Column("Attribute"),
                blocks.Column("Value", "wide"),
                *blocks.columns("number", "Films", "Patients", "Accuracy"),
                blocks.Column("Interval, %", "interval"),
                *blocks.columns("number", "Difference, points", "q"),
                blocks.Column(blocks.Scale(reference="all films"), "plot"),
            ),
            rows=rows,
            limit=120,
            titled=False,
            joined=(len(rows) - 2,),
        ),
    ]


def _subgroup_row(stratum: Stratum, overall: float) -> tuple[blocks.Cell, ...]:
    few = stratum.insufficient
    return (
        wording.printable(stratum.value, 40) or wording.DASH,
        wording.counted(stratum.films),
        wording.counted(stratum.patients),
        wording.percent(stratum.accuracy, 1),
        wording.spread(stratum.interval, 1, sign=False),
        "insufficient" if few else wording.signed(100 * stratum.difference),
        wording.DASH if few else wording.probability(stratum.q_value),
        _dot(math.nan, UNKNOWN, reference=overall)
        if few
        else _dot(stratum.accuracy, stratum.interval, reference=overall),
    )


def _all_films_row(accuracy: Accuracy, patients: int) -> tuple[blocks.Cell, ...]:
    """Return what the line of reference stands for."""
    overall, interval = accuracy.overall, accuracy.overall_interval
    return (
        "All films",
        "",
        wording.counted(accuracy.images),
        wording.counted(patients),
        wording.percent(overall, 1),
        wording.spread(interval, 1, sign=False),
        wording.DASH,
        wording.DASH,
        _dot(overall, interval, "total", overall),
    )
