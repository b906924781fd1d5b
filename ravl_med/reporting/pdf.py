"""The audit on paper: what a radiologist and a regulator read.

Verdict first, then who was audited, how well the model does, one page a correlation, and how all of
this was found. The pages say what the result holds and nothing else.

References
----------
Varma et al., RaVL, NeurIPS 2024 (arXiv 2411.04097).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from reportlab.platypus import Flowable, KeepTogether, PageBreak, Table

from ravl_med import __version__
from ravl_med.evidence.audit_result import AuditResult, SpuriousCorrelation
from ravl_med.reporting.figures import (
    CORRELATIONS_SHOWN,
    CorrelationPictures,
    correlation_pictures,
    shown_correlations,
)
from ravl_med.reporting.pdf_correlation import correlation_page, page_key
from ravl_med.reporting.pdf_shapes import (
    PRESENT,
    Dot,
    FilmFlowable,
    VerdictBanner,
    dot_axis,
    dot_row,
)
from ravl_med.reporting.pdf_style import (
    INK,
    WIDTH,
    Document,
    Heading,
    block,
    columns,
    gap,
    paragraph,
    table,
)
from ravl_med.reporting.wording import (
    DASH,
    certainty_sentence,
    class_name,
    correlation_sentence,
    listing,
    percent,
    plural,
    printable,
    printable_block,
    spread,
)

__all__ = ["ReportDetails", "write_pdf"]

_REASONS_SHOWN = 8
_LEARNED_SHOWN = 3
_ROWS_SHOWN = 20
_VALUES_SHOWN = 12
_TEXTS_SHOWN = 40


@dataclass(frozen=True, slots=True)
class ReportDetails:
    """What the report prints beside the result, for the sake of doing it again.

    Attributes
    ----------
    date : str or None - of the run
    config_yaml : str - the effective config, paths already replaced
    versions, digests : mapping of name to version or digest
    seeds : mapping of stage to seed
    thresholds : mapping of rule to its threshold, in words
    regions_shown : int - regions of each correlation that are shown
    """

    date: str | None
    config_yaml: str
    versions: Mapping[str, str]
    digests: Mapping[str, str]
    seeds: Mapping[str, int]
    thresholds: Mapping[str, str]
    regions_shown: int = 10


def write_pdf(
    result: AuditResult,
    film: Callable[[int], NDArray[np.uint8]],
    details: ReportDetails,
    path: Path,
) -> None:
    """Write the report of an audit.

    Parameters
    ----------
    result : AuditResult
    film : callable - index of an image to its film, ndarray of shape (H, W), uint8, windowed,
        MONOCHROME2; asked once for each film and correlation
    details : ReportDetails
    path : Path - of the PDF; the same input gives the same bytes
    """
    shown = [
        (entry, correlation_pictures(result, entry, film, details.regions_shown))
        for entry in shown_correlations(result)
    ]

    def story(pages: dict[str, int]) -> list[Flowable]:
        made = _verdict_page(result, details, shown, pages)
        made += _cohort_page(result)
        made += _performance_page(result)
        made += _search_page(result, details, len(shown))
        for entry, pictures in shown:
            made += correlation_page(result, entry, pictures)
        return made + _method_page(details) + _reproducibility_page(details)

    path.write_bytes(Document.render(story, result.name, result.title, __version__))


Shown = list[tuple[SpuriousCorrelation, CorrelationPictures]]


def _verdict_page(
    result: AuditResult, details: ReportDetails, shown: Shown, pages: dict[str, int]
) -> list[Flowable]:
    verdict = result.verdict
    story: list[Flowable] = [
        Heading(result.title, "verdict", style="title", limit=120),
        paragraph(_subtitle(result, details), "muted", 300),
        gap(4),
        VerdictBanner(verdict.name),
        gap(4),
        paragraph("Why", "h2"),
        *[paragraph(reason, "item", 400) for reason in verdict.reasons[:_REASONS_SHOWN]],
    ]
    rest = len(verdict.reasons) - _REASONS_SHOWN
    if rest > 0:
        story.append(paragraph(f"and {plural(rest, 'more reason')}.", "item"))
    counting = [(entry, pictures) for entry, pictures in shown if entry.counts]
    text = _learned(result, [entry for entry, _ in counting], pages)
    # A picture beside the text: of what counts, else of the candidate that came closest.
    pictured = next(((e, p) for e, p in shown if p.films), None)
    if pictured is None:
        story += text
    else:
        picture = _first_film(result, *pictured)
        story.append(columns(text, picture, 0.66))
    story += [
        paragraph("What next", "h2"),
        paragraph(_next_step(result)),
        KeepTogether([paragraph("Key facts", "h2"), _key_facts(result, details)]),
    ]
    return story


def _subtitle(result: AuditResult, details: ReportDetails) -> str:
    date = details.date or "no date given"
    kind = " · synthetic phantoms only, no patient" if result.cohort.synthetic else ""
    return f"Run {result.name} · {date} · DRAFT, not signed{kind}"


def _learned(
    result: AuditResult, counting: list[SpuriousCorrelation], pages: dict[str, int]
) -> list[Flowable]:
    """Say what the model learned, and how sure that is."""
    classes = result.task.classes
    total = sum(entry.counts for entry in result.correlations)
    story: list[Flowable] = [paragraph("What the model learned", "h2")]
    if not total:
        story.append(paragraph(_nothing_learned(result)))
        return story
    for entry in counting[:_LEARNED_SHOWN]:
        page = pages.get(page_key(entry))
        where = f" (page {page})" if page else ""
        story.append(paragraph(correlation_sentence(entry, classes)[:-1] + f"{where}."))
    if total > _LEARNED_SHOWN:
        story.append(paragraph(f"{plural(total - _LEARNED_SHOWN, 'more correlation')} counted."))
    story.append(paragraph("How sure", "h2"))
    story += [paragraph(certainty_sentence(e, classes)) for e in counting[:_LEARNED_SHOWN]]
    return story


def _nothing_learned(result: AuditResult) -> str:
    if result.discovery is None:
        return "Not known: the audit stopped before any search for shortcuts."
    candidates = len(result.correlations)
    if not candidates:
        return "No candidate for a shortcut came out of the search. Smaller effects stay possible."
    return (
        f"Nothing that passes every rule of evidence. {plural(candidates, 'candidate')} of the "
        "search stayed an association and did not count; the pages below show what was seen."
    )


def _first_film(
    result: AuditResult, entry: SpuriousCorrelation, pictures: CorrelationPictures
) -> list[Flowable]:
    first = pictures.films[0]
    raised = class_name(result.task.classes, entry.cluster.raised_class, 30)
    role = "counted" if entry.counts else "candidate, not counted"
    return [
        gap(12),
        FilmFlowable(first.picture, 0.31 * WIDTH, 170, 1.4),
        gap(2),
        paragraph(
            f"Correlation {entry.rank} ({role}): film {printable(first.image_id, 20)}, feature of "
            f"cluster {entry.cluster.cluster}, raises {raised}",
            "caption",
            160,
        ),
    ]


def _next_step(result: AuditResult) -> str:
    return {
        "fail": "Look at the films on the following pages together with a radiologist. If the "
        "feature is no sign of the finding, keep the model out of use, repair it, and audit the "
        "repaired model again on films of other patients.",
        "review": "A radiologist should look at the films on the following pages and say whether "
        "each feature belongs to the finding. Record the decision and its reason beside this "
        "report before the model is used.",
        "pass": "Audit again whenever model, prompts or acquisition change, and on films of the "
        "site where the model will be used. A pass does not replace clinical validation.",
        "not_auditable": "Mend what the reasons above name (more films of a class, other prompts, "
        "readable films) and run the audit again. Until then nothing is known about shortcuts.",
    }[result.verdict.name]


def _key_facts(result: AuditResult, details: ReportDetails) -> Table:
    cohort, accuracy = result.cohort, result.accuracy
    films = f"{plural(cohort.images, 'film')} of {plural(cohort.patients, 'patient')}"
    if cohort.synthetic:
        films = f"{plural(cohort.images, 'phantom')}, synthetic, no patient"
    facts = [
        ("Model", printable(result.model.name, 60), "Cohort", films),
        (
            "Model digest",
            printable(result.model.digest, 17),
            "Accuracy",
            f"{percent(accuracy.overall, 1)} ({spread(accuracy.overall_interval, 1, sign=False)})",
        ),
        (
            "Task",
            f"{printable(result.task.name, 40)}, {plural(len(result.task.classes), 'class', 'es')}",
            "Correlations",
            f"{len(result.correlations)} found, "
            f"{sum(entry.counts for entry in result.correlations)} counted",
        ),
        ("Date", details.date or DASH, "Tool", f"RaVL-Med {__version__}"),
    ]
    return table(facts, [70, WIDTH / 2 - 70, 70, WIDTH / 2 - 70], header=False)


def _cohort_page(result: AuditResult) -> list[Flowable]:
    return [
        PageBreak(),
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
        shown = listing(texts[:_TEXTS_SHOWN], _TEXTS_SHOWN)
        if len(texts) > _TEXTS_SHOWN:
            shown += f", and {len(texts) - _TEXTS_SHOWN} more"
        rows.append((class_name(result.task.classes, index), shown or DASH))
    return table(rows, [110, WIDTH - 110], limit=1500)


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
        rows.append((name, listing(values, _VALUES_SHOWN if name != "class" else 60) or DASH))
    rows.append(("radiology report", f"{cohort.radiology_reports:,} films with a text"))
    return table(rows, [110, WIDTH - 110], limit=1500)


def _performance_page(result: AuditResult) -> list[Flowable]:
    accuracy, classes = result.accuracy, result.task.classes
    plot = 170.0
    rows: list[list[str | Flowable | list[Flowable]]] = [
        ["Class", "Films", "Accuracy", "Interval, %", "Predicted", dot_axis(plot)]
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
                dot_row([Dot(value, interval, PRESENT, True)], plot),
            ]
        )
    rows.append(
        [
            "All classes",
            f"{accuracy.images:,}",
            percent(accuracy.overall, 1),
            spread(accuracy.overall_interval, 1, sign=False),
            DASH,
            dot_row([Dot(accuracy.overall, accuracy.overall_interval, INK, True)], plot),
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
    ]


def _search_page(result: AuditResult, details: ReportDetails, shown: int) -> list[Flowable]:
    """Say what was looked for and what came of it, also where that is nothing."""
    found, search = result.correlations, result.discovery
    story: list[Flowable] = [gap(22), Heading("Search for shortcuts", "search")]
    if search is None:
        reasons = [paragraph(reason, "item", 400) for reason in result.verdict.reasons[:8]]
        text = "No search was made: the audit stopped before discovery. Nothing is known about "
        return [*story, paragraph(text + "shortcuts of this model.", "lead"), *reasons]
    story.append(
        paragraph(
            f"{search.regions:,} regions ({search.region_source}) were grouped into "
            f"{search.clusters:,} clusters by how the model sees them; "
            f"{plural(search.regions_unseen, 'region')} that the model does not see enough of "
            f"were left out. {plural(search.survivors, 'cluster')} survived RaVL's filters.",
            limit=800,
        )
    )
    if not found:
        return [*story, *_nothing_found(details)]
    counting = sum(entry.counts for entry in found)
    story.append(
        paragraph(
            f"{plural(len(found), 'correlation')}, of which {counting} passed every rule of "
            "evidence and counted for the verdict."
        )
    )
    if len(found) > shown:
        rest = len(found) - shown
        story.append(
            paragraph(
                f"The following pages show {CORRELATIONS_SHOWN}: those that count first, then by "
                f"rank, and {rest} more {'was' if rest == 1 else 'were'} found but not shown."
            )
        )
    return story


def _nothing_found(details: ReportDetails) -> list[Flowable]:
    story: list[Flowable] = [
        paragraph("Nothing found", "h2"),
        paragraph(
            "No cluster of regions goes with higher accuracy on one class and lower accuracy on "
            "another while also leading the model in its mistakes. This says nothing about "
            "effects smaller than the thresholds, about features that are rare in these films or "
            "spread over the whole film, or about films of another kind."
        ),
    ]
    if details.thresholds:
        story += [paragraph("Thresholds, fixed before the run", "h2"), _thresholds(details)]
    return story


def _thresholds(details: ReportDetails) -> Table:
    return table(list(details.thresholds.items()), [WIDTH - 130, 130], header=False)


_METHOD = (
    "Each film is cut into regions. The model's own image tower embeds every region, and regions "
    "that look alike to the model are grouped into clusters. For each cluster and class the "
    "zero-shot accuracy on films with a region of the cluster is compared with the accuracy on "
    "films without one; G sums these gaps over classes, weighted by how evenly the films are "
    "split. H is the share of mistakes in which the region that speaks loudest for the wrong "
    "answer belongs to the cluster. Clusters with low H, or without both a raised and a lowered "
    "class, are dropped. This is the discovery stage of RaVL (Varma, Delbrouck, Chen, Chaudhari, "
    "Langlotz, NeurIPS 2024, arXiv 2411.04097).",
    "A gap is an association: the feature and the accuracy go together, whatever the cause. The "
    "removal effect is an intervention: the region is filled from its surroundings, and the drop "
    "in the margin of the raised class (its logit minus the largest other logit) is measured. "
    "Where that effect lies, in the anatomy of the finding or elsewhere, separates a plausible "
    "sign from a shortcut; this needs a radiologist's eye in the end.",
    "Intervals come from a bootstrap that draws patients, not films, and are widened by "
    "Bonferroni for the number of clusters that were tested. Thresholds were fixed before the "
    "run.",
)

_LIMITATIONS = (
    "This report is about a model on one set of films. It is no diagnosis and no clinical "
    "validation.",
    "Clusters are chosen and tested on the same films; intervals do not take that choice into "
    "account beyond the Bonferroni correction.",
    "Only features that fit into regions, and that appear in enough films, can be found. A feature "
    "that every film carries shows no gap.",
    "Filling a region can itself look unusual to the model. A region next to the cause can carry "
    "part of its effect, since the model sees beyond the edge of a region.",
    "Labels are taken as given; a gap may come from labels that are wrong more often with the "
    "feature than without.",
)


def _method_page(details: ReportDetails) -> list[Flowable]:
    story: list[Flowable] = [PageBreak(), Heading("Method and limitations", "method")]
    story += [paragraph(text) for text in _METHOD]
    if details.thresholds:
        story += [paragraph("Thresholds", "h2"), _thresholds(details)]
    story.append(paragraph("Limitations", "h2"))
    return story + [paragraph(text, "item") for text in _LIMITATIONS]


def _reproducibility_page(details: ReportDetails) -> list[Flowable]:
    story: list[Flowable] = [PageBreak(), Heading("Reproducibility", "reproducibility")]
    for title, entries in (
        ("Digests", details.digests),
        ("Seeds", {name: str(seed) for name, seed in details.seeds.items()}),
        ("Versions", details.versions),
    ):
        rows = [(printable(name, 60), printable(value, 140)) for name, value in entries.items()]
        story.append(paragraph(title, "h2"))
        story.append(
            table(rows, [130, WIDTH - 130], mono=(1,), header=False, limit=140)
            if rows
            else paragraph(DASH)
        )
    config = printable_block(details.config_yaml, 105, 600)
    return [*story, paragraph("Effective config", "h2"), gap(4), block(config or DASH)]
