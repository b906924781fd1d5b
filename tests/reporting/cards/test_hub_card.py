"""The card in Hugging Face's layout: head, sections in order, the numbers of result.json."""

import json
import re
from dataclasses import replace

import pytest
from hostile_results import HOSTILE, hostile_result
from ruamel.yaml import YAML

from ravl_med.evidence.audit_result import result_document
from ravl_med.evidence.disclosure_control import hide_small_cells
from ravl_med.reporting.cards.hub import hub_card
from ravl_med.reporting.cards.words import NOT_FILLED

SECTIONS = (
    "# Model Card for quickstart-resnet",
    "## Model Details",
    "## Uses",
    "### Direct Use",
    "### Out-of-Scope Use",
    "## Bias, Risks, and Limitations",
    "### Recommendations",
    "## How to Get Started with the Model",
    "## Training Details",
    "## Evaluation",
    "## Model Examination",
    "## More Information",
)
WORDS = 1_000  # about a page


def plain(text: str) -> str:
    """The card without the backslashes of Markdown."""
    return re.sub(r"\\([^\w\s])", r"\1", text)


def tables_of(card: str) -> list[list[list[str]]]:
    """Rows of each table, the line under its head left out."""
    tables = []
    for block in card.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        if lines:
            cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
            tables.append([[plain(cell).strip() for cell in row] for row in cells[:1] + cells[2:]])
    return tables


def table_with(card: str, *heads: str) -> list[list[str]]:
    (found,) = [table for table in tables_of(card) if table[0][: len(heads)] == list(heads)]
    return found[1:]


def test_the_head_is_what_the_hub_reads(full_result, details):
    card = hub_card(full_result, details)
    _, head, body = card.split("---\n", 2)
    assert YAML(typ="safe", pure=True).load(head) == {
        "library_name": "open_clip",
        "pipeline_tag": "zero-shot-image-classification",
        "metrics": ["accuracy"],
        "tags": ["radiology", "shortcut-audit"],
    }
    assert body.startswith("\n# Model Card for")


@pytest.mark.parametrize(
    ("architecture", "library"),
    [("Hugging Face SigLIP, image tower 2 layers", "transformers"), ("a tower of ours", None)],
)
def test_the_library_is_the_one_that_opens_the_model(full_result, details, architecture, library):
    model = replace(full_result.model, architecture=architecture)
    card = hub_card(replace(full_result, model=model), details)
    head = YAML(typ="safe", pure=True).load(card.split("---\n", 2)[1])
    assert head.get("library_name") == library


def test_the_hubs_own_library_reads_it(full_result, details):
    hub = pytest.importorskip("huggingface_hub")
    read = hub.ModelCard(hub_card(full_result, details))
    assert read.data.pipeline_tag == "zero-shot-image-classification"
    assert read.data.library_name == "open_clip"
    assert read.data.eval_results is None
    assert read.text.lstrip().startswith("# Model Card for quickstart-resnet")


@pytest.mark.parametrize("name", ["full_result", "null_result", "stopped_result"])
def test_sections_stand_in_the_order_of_the_template(name, details, request):
    card = hub_card(request.getfixturevalue(name), details)
    assert tuple(re.findall(r"^#+ .*$", card, re.MULTILINE)) == SECTIONS
    assert not re.search(r"^#[^\n]*\n\n(?=#{1,2} )", card, re.MULTILINE)  # an empty section
    assert card.count(NOT_FILLED) == 4
    assert len(re.findall(r"\w+", card)) < WORDS
    assert "this report" not in card.replace("This report is about", "")


def test_accuracies_are_those_of_the_json(full_result, details):
    card = hub_card(full_result, details)
    found = json.loads(result_document(full_result, 20).model_dump_json())
    accuracy = found["accuracy"]
    rows = table_with(card, "Class", "Films", "Accuracy")
    assert len(rows) == len(accuracy["classes"]) + 1
    entries = [(name, entry) for name, entry in accuracy["classes"].items()]
    entries.append(("All classes", accuracy | {"accuracy": accuracy["overall"]}))
    for row, (name, entry) in zip(rows, entries, strict=True):
        low, high = entry["interval"]
        assert row[:4] == [
            name,
            str(entry["images"]),
            f"{100 * entry['accuracy']:.1f} %",
            f"{100 * low:.1f} to {100 * high:.1f}",
        ]


def test_cohort_features_and_gaps_are_those_of_the_json(full_result, details):
    card = hub_card(full_result, details)
    found = json.loads(result_document(full_result, 20).model_dump_json())
    cohort = found["cohort"]
    assert f"{cohort['images']} films of {cohort['patients']} patients" in card
    for entry in found["correlations"]:
        assert (f"- Correlation {entry['rank']}. When " in plain(card)) == entry["counts"]
    assert "When feature" not in card  # the report's names
    for entry in found["sensitivity"]["detectable"][1:]:
        assert re.search(
            rf"{100 * entry['prevalence']:.0f} %[^.]* {100 * entry['gap']:.0f} points", card
        )


def test_tables_have_as_many_cells_in_every_row(full_result, details):
    for table in tables_of(hub_card(full_result, details)):
        assert len({len(row) for row in table}) == 1


def test_nothing_drawn_is_spoken_of(full_result, details):
    card = hub_card(full_result, details)
    assert "without a dot" not in card
    assert "dark line" not in card
    assert "\u00a0" not in card


def test_no_film_is_named(full_result, details):
    card = hub_card(full_result, details)
    assert not any(name in card for name in full_result.image_ids)


def test_counts_of_few_patients_stay_hidden(full_result, details):
    card = hub_card(hide_small_cells(full_result, 26), details)
    assert "fewer than 26 patients" in card
    assert not re.search(r"(?<![\w-])[-−]1(?!\d)|\bnan\b", card)
    few = hub_card(hide_small_cells(full_result, 41), details)
    assert "hidden" in [row[1] for row in table_with(few, "Class", "Films")]


def test_text_from_outside_is_no_markup(result_of, details):
    card = hub_card(hostile_result(result_of(HOSTILE, 2)), details)
    assert r"\<img src=" in card
    assert not re.search(r"(?<!\\)<(?!br>)", card)
    assert len(re.findall(r"^# ", card, re.MULTILINE)) == 1
    assert len(card) < 200_000
    for table in tables_of(card):
        assert len({len(row) for row in table}) == 1


def test_the_same_audit_the_same_card(result_of, details):
    assert hub_card(result_of(), details) == hub_card(result_of(), replace(details))
