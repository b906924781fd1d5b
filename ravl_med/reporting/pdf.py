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
from reportlab.platypus import Flowable, KeepTogether, Table

from ravl_med import __version__
from ravl_med.evidence.audit_result import AuditResult, SpuriousCorrelation
from ravl_med.reporting.figures import (
    CORRELATIONS_SHOWN,
    CorrelationPictures,
    correlation_pictures,
    shown_correlations,
)
from ravl_med.reporting.pdf_cohort import cohort_page, performance_page
from ravl_med.reporting.pdf_correlation import correlation_page, page_key
from ravl_med.reporting.pdf_method import method_page, reproducibility_page, threshold_table
from ravl_med.reporting.pdf_shapes import FilmFlowable, VerdictBanner
from ravl_med.reporting.pdf_style import WIDTH, Document, Heading, columns, gap, paragraph, table
from ravl_med.reporting.wording import (
    DASH,
    KIND_WORDS,
    class_name,
    correlation_sentence,
    gap_words,
    number,
    percent,
    plural,
    printable,
    signed,
    spread,
)

__all__ = ["ReportDetails", "write_pdf"]

_REASONS_SHOWN = 8
_LEARNED_SHOWN = 3
_ROWS_SHOWN = 40
_PICTURE = 0.34  # of the width of the page


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
        made += cohort_page(result)
        made += performance_page(result)
        made += _search_page(result, details, pages)
        for entry, pictures in shown:
            made += correlation_page(result, entry, pictures)
        made += method_page(details.thresholds)
        return made + reproducibility_page(
            {
                "Digests": details.digests,
                "Seeds": {name: str(seed) for name, seed in details.seeds.items()},
                "Versions": details.versions,
            },
            details.config_yaml,
        )

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
        story.append(columns([gap(9), *text], picture, 1 - _PICTURE))
    story += [
        *_certainty(result, [entry for entry, _ in counting]),
        paragraph("What next", "h2"),
        paragraph(_next_step(result)),
        KeepTogether([paragraph("Key facts", "h2"), _key_facts(result, details)]),
        gap(6),
        paragraph(
            "This report is about a model, not about a patient. It is no diagnosis and no clinical "
            "validation.",
            "muted",
        ),
    ]
    return story


def _subtitle(result: AuditResult, details: ReportDetails) -> str:
    date = details.date or "no date given"
    kind = " · synthetic phantoms only, no patient" if result.cohort.synthetic else ""
    return f"Run {result.name} · {date} · DRAFT, not signed{kind}"


def _learned(
    result: AuditResult, counting: list[SpuriousCorrelation], pages: dict[str, int]
) -> list[Flowable]:
    """Say what the model learned, a sentence for each correlation that counts."""
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
    return story


def _certainty(result: AuditResult, counting: list[SpuriousCorrelation]) -> list[Flowable]:
    """Say how sure that is: gaps and removal effect of what counts, with intervals."""
    if not counting:
        return []
    classes = result.task.classes
    rows = [("", "Raised class, gap in points", "Most lowered class", "Removal effect, logits")]
    for entry in counting[:_LEARNED_SHOWN]:
        cluster = entry.cluster
        rows.append(
            (
                f"Correlation {entry.rank}",
                gap_words(entry, cluster.raised_class, classes),
                gap_words(entry, cluster.lowered_classes[0], classes)
                if cluster.lowered_classes
                else DASH,
                f"{signed(entry.removal.mean, 2)} ({spread(entry.removal.interval, 2, scale=1.0)})",
            )
        )
    side = (WIDTH - 68 - 112) / 2
    note = (
        "In brackets: interval by patient, corrected for the number of clusters. Removal effect: "
        "how far the margin of the raised class falls when the region is filled from its "
        "surroundings."
    )
    return [
        paragraph("How sure", "h2"),
        table(rows, [68, side, side, 112]),
        gap(3),
        paragraph(note, "muted"),
    ]


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
        FilmFlowable(first.picture, _PICTURE * WIDTH, 170, 1.4),
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


def _search_page(
    result: AuditResult, details: ReportDetails, pages: dict[str, int]
) -> list[Flowable]:
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
            f"They make {plural(len(found), 'correlation')}, of which {counting} passed every rule "
            "of evidence and counted for the verdict."
        )
    )
    rest = len(found) - CORRELATIONS_SHOWN
    if rest > 0:
        story.append(
            paragraph(
                f"{CORRELATIONS_SHOWN} of them have a page of their own, those that count first, "
                f"and {rest} more {'has' if rest == 1 else 'have'} none."
            )
        )
    return [*story, gap(4), _correlation_list(result, pages)]


def _correlation_list(result: AuditResult, pages: dict[str, int]) -> Table:
    """Every correlation in a row: what it does, how strong, whether it counts, and where."""
    rows = [("No.", "Raises", "Lowers most", "G", "H", "Removal effect", "Outcome", "Page")]
    classes = result.task.classes
    for entry in result.correlations[:_ROWS_SHOWN]:
        cluster, page = entry.cluster, pages.get(page_key(entry))
        rows.append(
            (
                str(entry.rank),
                class_name(classes, cluster.raised_class),
                class_name(classes, cluster.lowered_classes[0])
                if cluster.lowered_classes
                else DASH,
                number(cluster.performance_gap, 2),
                number(cluster.influence, 2),
                signed(entry.removal.mean, 2),
                KIND_WORDS[entry.kind] if entry.counts else "not counted",
                str(page) if page else DASH,
            )
        )
    rest = len(result.correlations) - _ROWS_SHOWN
    if rest > 0:
        rows.append(("…", f"and {rest} more", "", "", "", "", "", ""))
    names = (WIDTH - 26 - 36 - 36 - 56 - 80 - 34) / 2
    return table(rows, [26, names, names, 36, 36, 56, 80, 34], right=(3, 4, 5, 7))


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
        story += [
            paragraph("Thresholds, fixed before the run", "h2"),
            threshold_table(details.thresholds),
        ]
    return story
