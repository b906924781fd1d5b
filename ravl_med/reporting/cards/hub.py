"""The model card of an audited model in the layout of the Hugging Face Hub.

The head holds what the Hub reads, the body the sections of its template in their order, filled with
the texts and tables of the report. There is no ``model-index``: it asks for the id of a data set on
the Hub, which the films of a hospital do not have. The numbers stand in tables instead.

References
----------
Hugging Face, model card metadata (hub-docs, modelcard.md) and annotated model card template;
Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

from ravl_med import __version__
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit.cohort import cohort_chapter, performance_chapter
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.audit.search import search_chapter
from ravl_med.reporting.audit.verdict import NEXT_STEPS
from ravl_med.reporting.cards.words import (
    METHOD_CITATION,
    NOT_FILLED,
    audited_model,
    audited_use,
    card_summary,
    decisions_text,
    films_origin,
    found_biases,
    known_limits,
    out_of_scope,
)
from ravl_med.reporting.layout.blocks import Table, Text
from ravl_med.reporting.layout.markdown import (
    as_markdown,
    code,
    escaped,
    markdown_table,
    pair_table,
)

_HEAD = """---
{library}pipeline_tag: zero-shot-image-classification
metrics:
- accuracy
tags:
- radiology
- shortcut-audit
---"""
_LIBRARIES = {"open_clip": "open_clip", "Hugging Face": "transformers"}
_DESCRIPTION = (
    "Developed by", "Funded by", "Shared by", "Language(s) (NLP)", "License",
    "Finetuned from model",
)  # fmt: skip
_METRICS = (
    "Zero-shot accuracy with intervals by patient; its difference between subgroups, classes held "
    "apart (q: false discovery rate over all comparisons); gaps of accuracy with minus without a "
    "feature; change of the score when the feature is removed or transplanted."
)


def hub_card(result: AuditResult, details: ReportDetails) -> str:
    """Return the card of an audited model as Markdown with a YAML head."""
    tables = [block for block in cohort_chapter(result) if isinstance(block, Table)]
    model, prompts, *films = tables
    parts = [
        _HEAD.format(library=_library(result.model.architecture)),
        f"# Model Card for {escaped(result.model.name, 120)}",
        card_summary(result, details),
        "## Model Details",
        "### Model Description",
        markdown_table(model),
        _not_filled(_DESCRIPTION),
        "### Model Sources",
        _not_filled(("Repository", "Paper", "Demo")),
        "## Uses",
        *_unfilled("### Direct Use", "### Downstream Use"),
        "### Out-of-Scope Use",
        out_of_scope(result),
        "## Bias, Risks, and Limitations",
        known_limits(result),
        "### Recommendations",
        NEXT_STEPS[result.verdict.name],
        "## How to Get Started with the Model",
        audited_use(result),
        markdown_table(prompts),
        "## Training Details",
        *_unfilled("### Training Data", "### Training Procedure"),
        *_evaluation(result, films),
        "## Model Examination",
        found_biases(result),
        decisions_text(result),
        *as_markdown(search_chapter(result)),
        *_rest(result, details),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _library(architecture: str) -> str:
    """Return the line that names the library a model opens in; none for one of the user's own."""
    for start, library in _LIBRARIES.items():
        if architecture.startswith(start):
            return f"library_name: {library}\n"
    return ""


def _unfilled(*titles: str) -> list[str]:
    return [text for title in titles for text in (title, NOT_FILLED)]


def _not_filled(names: Sequence[str]) -> str:
    return "\n".join(f"- **{name}:** {NOT_FILLED}" for name in names)


def _evaluation(result: AuditResult, films: Sequence[Table]) -> list[str]:
    measured = [
        block
        for block in performance_chapter(result)
        if isinstance(block, Table) or (isinstance(block, Text) and block.role == "lead")
    ]
    return [
        "## Evaluation",
        "### Testing Data, Factors & Metrics",
        "#### Testing Data",
        films_origin(result),
        *map(markdown_table, films),
        "#### Factors",
        "Attributes of films and patients that the files name; a row each in the results below.",
        "#### Metrics",
        _METRICS,
        "### Results",
        *as_markdown(measured),
    ]


def _rest(result: AuditResult, details: ReportDetails) -> list[str]:
    digests = "\n".join(
        f"- {escaped(name, 60)}: SHA-256 {code(digest)}" for name, digest in details.digests.items()
    )
    return [
        *_unfilled("## Environmental Impact"),
        "## Technical Specifications",
        "### Model Architecture and Objective",
        f"{audited_model(result)} Objective of the training: {NOT_FILLED}",
        "### Compute Infrastructure",
        "Software of the audit, not of the training:",
        pair_table("Package", "Version", details.versions),
        "## Citation",
        f"Of the model: {NOT_FILLED} Of the method of the audit:",
        f"```bibtex\n{METHOD_CITATION}\n```",
        "## More Information",
        "report.pdf and report.html show films, numbers, method, thresholds and config; "
        "result.json holds the numbers; model_card.xml is the card of the Coalition for Health AI.",
        digests,
        "## Model Card Authors",
        f"Made by RaVL-Med {escaped(__version__, 20)} from run {escaped(result.name, 80)}.",
        *_unfilled("## Model Card Contact"),
    ]
