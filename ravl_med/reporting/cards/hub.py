"""Model cards in Markdown: of an audited model, as the Hub lays it out, and of a repaired one.

The Hub's card has its head and the sections of its template that an audit fills, in about a page:
the report has the tables. It has no ``model-index``: that asks for the id of a data set on the Hub.
The card of a repaired model says to someone who finds its folder alone what the model is, what was
measured, what got worse and what is not known.

References
----------
Hugging Face, model card metadata (hub-docs, modelcard.md) and annotated model card template;
Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

from __future__ import annotations

from typing import Literal

from ravl_med import __version__
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.mitigation_result import ArmOutcome, MitigationResult
from ravl_med.reporting.audit.cohort import performance_chapter
from ravl_med.reporting.audit.history import MitigationDetails, ReportDetails
from ravl_med.reporting.audit.sentences import detectable_sentences, verdict_name
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
    nothing_new,
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
from ravl_med.reporting.wording import DASH, gate_mark

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
    "Developer, funding, languages, licence, model that it was fine-tuned from, repository, paper, "
    "environmental impact, contact"
)


def hub_card(result: AuditResult, details: ReportDetails) -> str:
    """Return the card of an audited model as Markdown with a YAML head: about a page."""
    performance = [one for one in performance_chapter(result) if isinstance(one, Table | Text)]
    parts = [
        _HEAD.format(library=_library(result.model.architecture)),
        f"# Model Card for {escaped(result.model.name, 120)}",
        words.card_summary(result, details),
        "## Model Details",
        f"{_DESCRIPTION}: {words.NOT_FILLED}",
        "## Uses",
        *("### Direct Use", words.intended_use(result)),
        *("### Out-of-Scope Use", words.not_examined(result)),
        "## Bias, Risks, and Limitations",
        bullets(words.first_reasons(result)),
        bullets(words.LIMITS),
        "### Recommendations",
        NEXT_STEPS[result.verdict.name].replace("this report", "the report"),
        "## How to Get Started with the Model",
        words.audited_use_text(result),
        "## Training Details",
        words.NOT_FILLED,
        "## Evaluation",
        words.films_origin(result),
        *as_markdown(performance),
        "## Model Examination",
        words.found_biases(result),
        words.decisions_text(result),
        *map(escaped, detectable_sentences(result.sensitivity) if result.sensitivity else ()),
        "## More Information",
        "report.pdf and report.html show films, subgroups, prompts, method and config; result.json "
        "holds the numbers; model_card.xml is the card of the Coalition for Health AI. Method: "
        f"[RaVL, NeurIPS 2024](https://arxiv.org/abs/2411.04097). Made by RaVL-Med "
        f"{escaped(__version__, 20)} from run {escaped(result.name, 80)}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _library(architecture: str) -> str:
    """Return the line that names the library a model opens in; none for one of the user's own."""
    for start, library in _LIBRARIES.items():
        if architecture.startswith(start):
            return f"library_name: {library}\n"
    return ""


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
    gates = [f"{gate_mark(gate)}: {gate.name} – {gate.text}" for gate in result.verdict.gates]
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
        bullets(reaudit.appeared or (nothing_new(reaudit),)),
        f"What these films could have shown: {escaped(reaudit.detectable) or 'not known'}",
    ]
