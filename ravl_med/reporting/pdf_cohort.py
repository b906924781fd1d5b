"""Who was audited, how, and how well: model, prompts, cohort, performance, subgroups."""

from __future__ import annotations

from reportlab.platypus import CondPageBreak, Flowable, KeepTogether, PageBreak, Table

from ravl_med.evidence.audit_result import AuditResult, Stratum
from ravl_med.reporting.pdf_shapes import PRESENT, Dot, DotAxis, DotRow
from ravl_med.reporting.pdf_style import (
    INK,
    WIDTH,
    Cell,
    Heading,
    LeavePageOne,
    gap,
    paragraph,
    table,
)
from ravl_med.reporting.wording import (
    DASH,
    class_name,
    listing,
    percent,
    plural,
    printable,
    probability,
    signed,
    spread,
)

__all__ = ["cohort_page", "performance_page"]

_ROWS_SHOWN = 20
_VALUES_SHOWN = 12
_TEXTS_SHOWN = 96
_TEXTS_A_ROW = 12
_CLASSES_LISTED = 60
_SUBGROUPS_SHOWN = 120


def cohort_page(result: AuditResult) -> list[Flowable]:
    """Return what the model is, what it reads, and which films were audited."""
    return [
        LeavePageOne(),
        Heading("Model and cohort", "cohort"),
        paragraph("Model", "h2"),
        _model_table(result),
        paragraph("Prompts, verbatim as the text tower reads them", "h2"),
        _prompt_table(result),
        paragraph("From the list to the audit", "h2"),
        _flow_table(result),
        *_rejected_rows(result),
        KeepTogether([paragraph("Audited films", "h2"), _composition_table(result)]),
    ]


def _model_table(result: AuditResult) -> Table:
    model = result.model
    facts = [
        ("Name", model.name),
        ("Architecture", model.architecture),
        ("Digest", model.digest),
        ("Parameters", f"{model.parameters:,}"),
        ("Input", f"{model.image_size} x {model.image_size} pixels, {model.resize_mode}"),
        ("Region pooling", model.region_pooling),
        ("Zero-shot temperature", f"{result.task.temperature:g}"),
    ]
    return table(facts, [110, WIDTH - 110], header=False)


def _prompt_table(result: AuditResult) -> Table:
    rows = [("Class", "Texts")]
    for index, name in enumerate(result.task.classes):
        texts = [f"“{printable(text, 200)}”" for text in result.task.texts.get(name, ())]
        label = class_name(result.task.classes, index)
        # Few texts a row, so that a class with 80 templates splits over pages.
        for start in range(0, min(max(len(texts), 1), _TEXTS_SHOWN), _TEXTS_A_ROW):
            part = texts[start : min(start + _TEXTS_A_ROW, _TEXTS_SHOWN)]
            rows.append((label if start == 0 else "", ", ".join(part) or DASH))
        if len(texts) > _TEXTS_SHOWN:
            rest = plural(len(texts) - _TEXTS_SHOWN, "more text")
            rows.append(("", f"and {rest}, in the effective config"))
    return table(rows, [110, WIDTH - 110], limit=2600)


def _flow_table(result: AuditResult) -> Table:
    cohort = result.cohort
    rows = [("Step", "Reason", "Rows"), ("Listed in the manifest", "", f"{cohort.listed:,}")]
    rows += [("Left out", reason, f"−{count:,}") for reason, count in cohort.left_out.items()]
    rows += [
        ("Rejected, not readable", code, f"−{count:,}") for code, count in cohort.rejected.items()
    ]
    if not cohort.left_out:
        rows.append(("Left out", "none", "0"))
    if not cohort.rejected:
        rows.append(("Rejected", "none", "0"))
    patients = "phantoms, no patient" if cohort.synthetic else plural(cohort.patients, "patient")
    rows.append(("Audited", patients, f"{cohort.images:,}"))
    return table(rows, [140, WIDTH - 210, 70], right=(2,))


def _rejected_rows(result: AuditResult) -> list[Flowable]:
    rows = result.cohort.rejected_rows
    if not rows:
        return []
    named = [f"row {row} ({printable(code, 40)})" for row, code, _ in rows]
    return [gap(3), paragraph(f"Rejected: {listing(named, _ROWS_SHOWN)}.", "muted", 2000)]


def _composition_table(result: AuditResult) -> Table:
    cohort = result.cohort
    rows = [("Attribute", "Films")]
    groups = {"class": cohort.images_by_class, **cohort.attributes}
    for name, counts in groups.items():
        values = [f"{printable(value, 40) or DASH} {count:,}" for value, count in counts.items()]
        rows.append(
            (
                printable(name, 40),
                listing(values, _CLASSES_LISTED if name == "class" else _VALUES_SHOWN) or DASH,
            )
        )
    rows.append(("radiology report", f"{cohort.radiology_reports:,} films with a text"))
    return table(rows, [110, WIDTH - 110], limit=1500)


def performance_page(result: AuditResult) -> list[Flowable]:
    """Return accuracy overall, by class, and by subgroup, as numbers and as plots."""
    accuracy, classes = result.accuracy, result.task.classes
    plot = 170.0
    rows: list[list[str | Flowable | list[Flowable]]] = [
        ["Class", "Films", "Accuracy", "Interval, %", "Predicted", DotAxis(plot)]
    ]
    for c, value in enumerate(accuracy.by_class):
        interval = accuracy.by_class_interval[c]
        rows.append(
            [
                class_name(classes, c),
                f"{accuracy.images_by_class[c]:,}",
                percent(value, 1),
                spread(interval, 1, sign=False),
                percent(accuracy.predicted_share[c], 1),
                DotRow([Dot(value, interval, PRESENT, True)], plot),
            ]
        )
    rows.append(
        [
            "All classes",
            f"{accuracy.images:,}",
            percent(accuracy.overall, 1),
            spread(accuracy.overall_interval, 1, sign=False),
            DASH,
            DotRow([Dot(accuracy.overall, accuracy.overall_interval, INK, True)], plot),
        ]
    )
    widths = [WIDTH - 44 - 52 - 82 - 56 - plot - 8, 44, 52, 82, 56, plot + 8]
    return [
        PageBreak(),
        Heading("Performance", "performance"),
        paragraph(
            f"Zero-shot accuracy on {plural(accuracy.images, 'film')}: "
            f"{percent(accuracy.overall, 1)} (interval "
            f"{spread(accuracy.overall_interval, 1, sign=False)} %). "
            "“Predicted” is the share of all films that the model gives to a class.",
            "lead",
        ),
        table(rows, widths, right=(1, 2, 4)),
        *_subgroup_part(result.subgroups),
    ]


def _subgroup_part(subgroups: tuple[Stratum, ...]) -> list[Flowable]:
    """Accuracy by value of each attribute; rows with too few films stay and say so."""
    if not subgroups:
        return []
    plot = 64.0
    rows: list[list[Cell]] = [
        [
            "Attribute",
            "Value",
            "Films",
            "Patients",
            "Accuracy",
            "Interval, %",
            "Difference, points",
            "q",
            DotAxis(plot),
        ]
    ]
    before = ""
    for stratum in subgroups[:_SUBGROUPS_SHOWN]:
        told = "insufficient" if stratum.insufficient else signed(100 * stratum.difference)
        dot = Dot(stratum.accuracy, stratum.interval, PRESENT, not stratum.insufficient)
        rows.append(
            [
                printable(stratum.attribute, 30) if stratum.attribute != before else "",
                printable(stratum.value, 40) or DASH,
                f"{stratum.films:,}",
                f"{stratum.patients:,}",
                percent(stratum.accuracy, 1),
                spread(stratum.interval, 1, sign=False),
                told,
                DASH if stratum.insufficient else probability(stratum.q_value),
                DotRow([dot], plot, 10),
            ]
        )
        before = stratum.attribute
    rest = len(subgroups) - _SUBGROUPS_SHOWN
    if rest > 0:
        rows.append([f"and {rest} more", *[""] * 8])
    fixed = [34, 42, 44, 62, 56, 42, plot + 8]
    widths = [62, WIDTH - 62 - sum(fixed), *fixed]
    return [
        CondPageBreak(150),
        paragraph("By subgroup", "h2"),
        paragraph(
            "Difference: accuracy minus that of the other films of the attribute, classes held "
            "apart. q: exchange of whole patients within class, false discovery rate over all "
            "comparisons. Insufficient: too few films or patients to compare; the row stays.",
            "muted",
        ),
        table(rows, widths, right=(2, 3, 4, 6, 7), dense=True),
    ]
