"""Model cards in Markdown: of an audited model, as the Hub lays it out, and of a repaired one.

The Hub's card has its head and the sections of its template, filled with the report's texts and
tables. It has no ``model-index``: that asks for the id of a data set on the Hub. The card of a
repaired model says to someone who finds its folder alone what the model is, what was measured, what
got worse and what is not known.

References
----------
Hugging Face, model card metadata (hub-docs, modelcard.md) and annotated model card template;
Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ravl_med import __version__
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.mitigation_result import ArmOutcome, MitigationResult
from ravl_med.reporting.audit.cohort import (
    composition_table,
    confounder_part,
    digest_table,
    flow_table,
    model_table,
    performance_annex,
    performance_chapter,
    prompt_table,
)
from ravl_med.reporting.audit.history import MitigationDetails, ReportDetails
from ravl_med.reporting.audit.search import every_correlation, search_chapter, sensitivity_part
from ravl_med.reporting.audit.sentences import verdict_name
from ravl_med.reporting.audit.verdict import NEXT_STEPS
from ravl_med.reporting.cards import words
from ravl_med.reporting.layout.blocks import Table, Text
from ravl_med.reporting.layout.markdown import (
    as_markdown,
    bullets,
    code,
    escaped,
    markdown_table,
    pair_table,
)
from ravl_med.reporting.mitigation.report import (
    OUTCOME_LINES,
    OUTCOME_NAMES,
    gone_sentence,
    mitigated_sentence,
    worsened_sentence,
)
from ravl_med.reporting.mitigation.tables import (
    accuracy_table,
    arm_kind,
    before_after_table,
    gap_table,
    score_table,
    worsened_table,
)
from ravl_med.reporting.wording import DASH

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
    "Zero-shot accuracy with intervals by patient; its difference between subgroups, adjusted "
    "for class (q: false discovery rate over all comparisons); gaps of accuracy with minus without "
    "a feature; change of the score when the feature is removed or transplanted."
)


def hub_card(result: AuditResult, details: ReportDetails) -> str:
    """Return the card of an audited model as Markdown with a YAML head."""
    films = [
        flow_table(result),
        composition_table(result),
        *(one for one in confounder_part(result.confounders or ()) if isinstance(one, Table)),
    ]
    parts = [
        _HEAD.format(library=_library(result.model.architecture)),
        f"# Model Card for {escaped(result.model.name, 120)}",
        words.card_summary(result, details),
        "## Model Details",
        "### Model Description",
        markdown_table(model_table(result)),
        markdown_table(digest_table(result)),
        _not_filled(_DESCRIPTION),
        "### Model Sources",
        _not_filled(("Repository", "Paper", "Demo")),
        "## Uses",
        *("### Direct Use", words.intended_use(result)),
        *_unfilled("### Downstream Use"),
        "### Out-of-Scope Use",
        words.out_of_scope(result),
        "## Bias, Risks, and Limitations",
        words.known_limits(result),
        "### Recommendations",
        NEXT_STEPS[result.verdict.name],
        "## How to Get Started with the Model",
        words.audited_use_text(result),
        markdown_table(prompt_table(result)),
        "## Training Details",
        *_unfilled("### Training Data", "### Training Procedure"),
        *_evaluation(result, films),
        "## Model Examination",
        words.found_biases(result),
        words.decisions_text(result),
        *as_markdown(
            [
                *search_chapter(result),
                *every_correlation(result),
                *sensitivity_part(result.sensitivity),
            ]
        ),
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
    return [text for title in titles for text in (title, words.NOT_FILLED)]


def _not_filled(names: Sequence[str]) -> str:
    return "\n".join(f"- **{name}:** {words.NOT_FILLED}" for name in names)


def _evaluation(result: AuditResult, films: Sequence[Table]) -> list[str]:
    measured = [
        block
        for block in (*performance_chapter(result), *performance_annex(result))
        if isinstance(block, Table) or (isinstance(block, Text) and block.role == "lead")
    ]
    return [
        "## Evaluation",
        "### Testing Data, Factors & Metrics",
        "#### Testing Data",
        words.films_origin(result),
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
        f"{words.audited_model(result)} Objective of the training: {words.NOT_FILLED}",
        "### Compute Infrastructure",
        "Software of the audit, not of the training:",
        pair_table("Package", "Version", details.versions),
        "## Citation",
        f"Of the model: {words.NOT_FILLED} Of the method of the audit:",
        f"```bibtex\n{words.METHOD_CITATION}\n```",
        "## More Information",
        "report.pdf and report.html show films, numbers, method, thresholds and config; "
        "result.json holds the numbers; model_card.xml is the card of the Coalition for Health AI.",
        digests,
        "## Model Card Authors",
        f"Made by RaVL-Med {escaped(__version__, 20)} from run {escaped(result.name, 80)}.",
        *_unfilled("## Model Card Contact"),
    ]


_MITIGATED_HEAD = """---
library_name: {library}
pipeline_tag: zero-shot-image-classification
tags:
- radiology
- shortcut-mitigation
---"""
_LIMITS = (
    "No clinical validation: this model is not for diagnosis. What was measured is how it answers "
    "on films of one final test; films of another site can differ.",
    "What was mitigated is what the audit found. A shortcut that the audit could not see on these "
    "films is neither removed nor ruled out.",
    "Films were cut, scaled and windowed as for the audited model; other preprocessing or other "
    "prompts give other results.",
    "A class, group or subgroup with too few films was not measured by itself.",
    "Nobody has signed the report of this mitigation; it is a draft until a person does.",
)
_OPEN = {
    "open_clip": """```python
import open_clip

folder = "local-dir:."  # this folder
model, transform = open_clip.create_model_from_pretrained(folder)
tokenizer = open_clip.get_tokenizer(folder)
```""",
    "transformers": """```python
from transformers import AutoModel, AutoProcessor

folder = "."  # this folder
model = AutoModel.from_pretrained(folder, local_files_only=True)
processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
```""",
}


def model_card_text(
    result: MitigationResult,
    details: MitigationDetails,
    library: Literal["open_clip", "transformers"] = "open_clip",
) -> str:
    """Return the model card of the delivered model as Markdown; `library` opens the folder."""
    verdict, delivered = result.verdict, result.delivered
    parts = [
        _MITIGATED_HEAD.format(library=library),
        f"# {escaped(result.title, 120)}",
        f"**{OUTCOME_NAMES[verdict.name]}** – {OUTCOME_LINES[verdict.name]}",
        bullets(verdict.reasons),
    ]
    if delivered is None:
        parts += [
            "No model was made: there is nothing to open in this folder.",
            f"- Audited model: SHA-256 {code(result.audited_digest)}",
        ]
    else:
        parts += [
            *_origin(result, delivered, details),
            *_measured(result, delivered),
            *_audited_again(result),
        ]
    notes = ["## Notes", bullets(result.notes)] if result.notes else []
    parts += [*notes, "## Limits", bullets(_LIMITS)]
    if delivered is not None:
        parts += [
            "## How to open it",
            f"With {library}, offline, from within this folder:",
            _OPEN[library],
            "With RaVL-Med, name this folder as `model.path` in the config of an audit.",
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _origin(result: MitigationResult, arm: ArmOutcome, details: MitigationDetails) -> list[str]:
    """Say what the model is, how it came about, and what it was taught to ignore."""
    facts = [
        f"- This model: SHA-256 {code(result.new_digest or DASH)}",
        f"- Fine-tuned from the audited model: SHA-256 {code(result.audited_digest)}",
        f"- Arm: {escaped(arm.title, 80)} ({escaped(arm.name, 40)}; {arm_kind(arm)})",
        f"- Made with RaVL-Med {escaped(__version__, 20)}, run {escaped(result.name, 80)}, "
        f"{escaped(details.date or 'no date given', 40)}",
    ]
    repaired = [mitigated_sentence(entry) for entry in result.mitigated]
    gates = [
        f"{'✓ met' if gate.passed else '✗ not met'}: {gate.name} – {gate.text}"
        for gate in result.verdict.gates
    ]
    return [
        "## What this is",
        "A vision-language model for radiographs: the image tower of an audited model, fine-tuned "
        "away from a shortcut, with the text tower that it had.",
        "\n".join(facts),
        *(["### Criteria set before the run", bullets(gates)] if gates else []),
        "## What it was taught to ignore",
        bullets(repaired) or DASH,
        "## Recipe",
        pair_table("Setting", "Value", details.recipe),
        pair_table("Seed of", "Value", {name: str(seed) for name, seed in details.seeds.items()}),
    ]


def _measured(result: MitigationResult, arm: ArmOutcome) -> list[str]:
    tables = [before_after_table(result, arm)]
    if arm.gaps:
        tables.append(gap_table(result, arm))
    worse = [markdown_table(worsened_table(result, arm))] if arm.worsened() else []
    return [
        "## Measured on the final test",
        *map(markdown_table, tables),
        markdown_table(accuracy_table(result)),
        markdown_table(score_table(result)),
        "## What got worse",
        escaped(worsened_sentence(arm)),
        *worse,
    ]


def _audited_again(result: MitigationResult) -> list[str]:
    reaudit = result.reaudit
    if reaudit is None:
        return ["## Re-audit", "The new model was not audited again."]
    remaining = ["Found again:", bullets(reaudit.remaining)] if reaudit.remaining else []
    return [
        "## Re-audit",
        "The whole audit again, of this model on the final test: "
        f"**{escaped(verdict_name(reaudit.verdict))}**. {escaped(gone_sentence(reaudit))}",
        bullets(reaudit.reasons),
        *remaining,
        "Appeared:",
        bullets(reaudit.appeared) or "- nothing: no other correlation counts",
        f"What these films could have shown: {escaped(reaudit.detectable) or 'not known'}",
    ]
