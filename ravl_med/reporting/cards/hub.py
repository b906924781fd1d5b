"""The model card of an audited model in the layout of the Hugging Face Hub.

The head holds what the Hub reads, the body the sections of its template in their order, filled with
the words and tables of the report. There is no ``model-index``: it asks for the id of a data set on
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
    decisions_told,
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
    "Developed by",
    "Funded by",
    "Shared by",
    "Language(s) (NLP)",
    "License",
    "Finetuned from model",
)
_TRAINING = (
    "## Training Details",
    "### Training Data",
    NOT_FILLED,
    "### Training Procedure",
    NOT_FILLED,
)
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
        *_model_details(model),
        *_uses(result),
        *_risks(result),
        "## How to Get Started with the Model",
        audited_use(result),
        markdown_table(prompts),
        *_TRAINING,
        *_evaluation(result, films),
        "## Model Examination",
        found_biases(result),
        decisions_told(result),
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


def _not_filled(names: Sequence[str]) -> str:
    return "\n".join(f"- **{name}:** {NOT_FILLED}" for name in names)


def _model_details(model: Table) -> list[str]:
    return [
        "## Model Details",
        "### Model Description",
        markdown_table(model),
        _not_filled(_DESCRIPTION),
        "### Model Sources",
        _not_filled(("Repository", "Paper", "Demo")),
    ]


def _uses(result: AuditResult) -> list[str]:
    return [
        "## Uses",
        "### Direct Use",
        NOT_FILLED,
        "### Downstream Use",
        NOT_FILLED,
        "### Out-of-Scope Use",
        out_of_scope(result),
    ]


def _risks(result: AuditResult) -> list[str]:
    return [
        "## Bias, Risks, and Limitations",
        known_limits(result),
        "### Recommendations",
        NEXT_STEPS[result.verdict.name],
    ]


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
        "Attributes of films and patients that the files tell; a row each in the results below.",
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
        "## Environmental Impact",
        NOT_FILLED,
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
        "## Model Card Contact",
        NOT_FILLED,
    ]
