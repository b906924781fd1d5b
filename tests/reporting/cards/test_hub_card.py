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
    "### Model Description",
    "### Model Sources",
    "## Uses",
    "### Direct Use",
    "### Downstream Use",
    "### Out-of-Scope Use",
    "## Bias, Risks, and Limitations",
    "### Recommendations",
    "## How to Get Started with the Model",
    "## Training Details",
    "### Training Data",
    "### Training Procedure",
    "## Evaluation",
    "### Testing Data, Factors & Metrics",
    "#### Testing Data",
    "#### Factors",
    "#### Metrics",
    "### Results",
    "## Model Examination",
    "## Environmental Impact",
    "## Technical Specifications",
    "### Model Architecture and Objective",
    "### Compute Infrastructure",
    "## Citation",
    "## More Information",
    "## Model Card Authors",
    "## Model Card Contact",
)


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
    assert card.count(NOT_FILLED) > 15


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
    groups = table_with(card, "Attribute", "Value", "Films")
    for row, entry in zip(groups[:-1], found["subgroups"], strict=True):
        told = [entry["value"], str(entry["films"]), str(entry["patients"])]
        assert row[1:4] == told
        if not entry["insufficient"]:
            assert row[4] == f"{100 * entry['accuracy']:.1f} %"
            assert row[6] == f"{100 * entry['difference']:+.1f}".replace("-", "−")


def test_cohort_and_correlations_are_those_of_the_json(full_result, details):
    card = hub_card(full_result, details)
    found = json.loads(result_document(full_result, 20).model_dump_json())
    cohort = found["cohort"]
    flow = table_with(card, "Step", "Reason", "Rows")
    assert [row[2] for row in flow] == [
        str(cohort["listed"]),
        *(f"−{count}" for count in [*cohort["left_out"].values(), *cohort["rejected"].values()]),
        str(cohort["images"]),
    ]
    listed = [
        row for table in tables_of(card) if table[0][:2] == ["No.", "Feature"] for row in table[1:]
    ]
    assert all("Page" not in table[0] for table in tables_of(card))
    by_rank = {entry["rank"]: entry for entry in found["correlations"]}
    assert {int(row[0]) for row in listed} == set(by_rank)
    for row in listed:
        entry = by_rank[int(row[0])]
        test = entry["confirmation"]
        gaps = (test["classes"][entry["raised_class"]]["gap"], test["opposed_gap"])
        assert row[5] == " / ".join(f"{100 * gap:+.0f}".replace("-", "−") for gap in gaps)
    could = table_with(card, "Films with the feature")
    for row, entry in zip(could, found["sensitivity"]["detectable"], strict=True):
        gap = entry["gap"]
        assert row[:2] == [
            f"{100 * entry['prevalence']:.0f} %",
            "not even 100 points" if gap is None else f"{100 * gap:.0f}",
        ]


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
    assert "PA: hidden, AP: hidden" in card
    assert "fewer than 26 patients" in card
    assert not re.search(r"(?<![\w-])[-−]1(?!\d)|\bnan\b", card.split("**From the list")[0])
    rows = table_with(card, "Attribute", "Value", "Films")
    assert [row[2] for row in rows[:3]] == ["hidden", "hidden", "hidden"]


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
