"""Findings of reports: sentences read by hand, other languages, hostile text."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravl_med.labelling.findings import ReportLabeller, chest_labeller
from ravl_med.phantoms.report import write_report

CLASSES = ("cardiomegaly", "pleural effusion", "pneumothorax", "consolidation", "no finding")


def states(text: str) -> dict[str, str]:
    """What a report says, without the two findings that follow from the others."""
    said = chest_labeller().read(text).states
    return {name: state for name, state in said.items() if name not in ("no finding", "normal")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No pneumothorax.", {"pneumothorax": "absent"}),
        ("Cannot exclude small effusion.", {"pleural effusion": "uncertain"}),
        ("Pneumothorax cannot be excluded.", {"pneumothorax": "uncertain"}),
        ("Heart size is normal.", {"cardiomegaly": "absent"}),
        ("The heart is not enlarged.", {"cardiomegaly": "absent"}),
        ("The heart is moderately enlarged.", {"cardiomegaly": "present"}),
        ("Heart size upper limits of normal.", {"cardiomegaly": "absent"}),
        ("Heart normal in size, aorta enlarged.", {"cardiomegaly": "absent"}),
        ("Stable cardiomegaly.", {"cardiomegaly": "present"}),
        ("Interval resolution of effusion.", {"pleural effusion": "absent"}),
        ("The effusion has resolved.", {"pleural effusion": "absent"}),
        ("Resolving effusion.", {"pleural effusion": "present"}),
        ("History of pneumonia.", {}),
        ("Pacemaker in place.", {"device": "present"}),
        ("The chest tube has been removed.", {"device": "absent"}),
        ("Interval removal of the chest tube.", {"device": "absent"}),
        ("No change in the left effusion.", {"pleural effusion": "present"}),
        ("No focal consolidation, pneumothorax, or large effusion.",
         {"consolidation": "absent", "pneumothorax": "absent", "pleural effusion": "absent"}),
        ("No pneumothorax, however a large effusion.",
         {"pneumothorax": "absent", "pleural effusion": "present"}),
        ("Opacity may represent pneumonia.",
         {"lung opacity": "present", "consolidation": "uncertain"}),
        ("Atelectasis versus pneumonia.",
         {"atelectasis": "uncertain", "consolidation": "uncertain"}),
        ("Basilar opacity, atelectasis vs pneumonia.",
         {"lung opacity": "present", "atelectasis": "uncertain", "consolidation": "uncertain"}),
        ("There is no effusion, and the cardiac silhouette is enlarged.",
         {"pleural effusion": "absent", "cardiomegaly": "present"}),
        ("A trace effusion is difficult to exclude.", {"pleural effusion": "uncertain"}),
        ("The effusion, seen before, has resolved.", {"pleural effusion": "absent"}),
        ("Probable small effusion.", {"pleural effusion": "present"}),  # more likely than not
        ("Blunted costophrenic angle.", {"pleural effusion": "uncertain"}),
        ("Costophrenic angles are sharp.", {"pleural effusion": "absent"}),
        ("Pericardial effusion.", {}),
        ("Large hydropneumothorax.", {"pneumothorax": "present", "pleural effusion": "present"}),
        ("Lungs are clear.", {"consolidation": "absent", "lung opacity": "absent",
                              "atelectasis": "absent", "edema": "absent"}),
        ("The lungs are not clear.", {}),
        ("The left lung is clear.", {}),  # of the other it says nothing
        ("INDICATION: Edema? Effusion. IMPRESSION: No edema.", {"edema": "absent"}),
        # The stronger statement of two sections counts.
        ("FINDINGS: Heart size is normal. IMPRESSION: Stable cardiomegaly.",
         {"cardiomegaly": "present"}),
        ("FINDINGS: Possible edema. IMPRESSION: No edema.", {"edema": "uncertain"}),
        ("<b>No</b> edema.", {"edema": "absent"}),
        ("NO\0EDEMA.", {"edema": "absent"}),
    ],
)  # fmt: skip
def test_sentences_read_by_hand(text: str, expected: dict[str, str]) -> None:
    assert states(text) == expected


@pytest.mark.parametrize(
    ("text", "no_finding", "normal"),
    [
        ("No acute cardiopulmonary abnormality.", "present", "present"),
        ("Pacemaker in place. No acute disease.", "present", "absent"),
        ("Scoliosis. The lungs are clear.", "present", "absent"),
        ("Lung nodule. No pneumothorax. No effusion.", "absent", "absent"),
        ("Possible edema. No acute disease.", "uncertain", "uncertain"),
        ("No edema. No effusion.", "present", "present"),
        ("No edema.", None, None),  # of all else it says nothing
        ("History of edema.", None, None),
    ],
)
def test_no_finding_and_normal_follow(
    text: str, no_finding: str | None, normal: str | None
) -> None:
    said = chest_labeller().read(text).states
    assert (said.get("no finding"), said.get("normal")) == (no_finding, normal)


def test_cells_are_those_of_a_manifest() -> None:
    reading = chest_labeller().read("FINDINGS: Edema. IMPRESSION: No effusion. Possible mass.")
    assert [reading.cell(n) for n in ("edema", "pleural effusion", "device")] == [1, 0, None]
    assert chest_labeller().read("Possible edema.").cell("edema") == -1
    assert reading.sections == ("findings", "impression")
    assert list(reading.states) == ["pleural effusion", "edema", "no finding", "normal"]


@pytest.mark.parametrize(
    "text",
    [
        "Herz nicht vergrößert. Kein Pneumothorax. Keine Ergüsse. Lunge frei.",
        "No hay derrame pleural ni neumotorax. Silueta cardiaca normal.",
        "Silueta cardiaca normal. Infiltrado basal. No derrame. No pneumotorax.",
        "Kein Pneumothorax. Herz normal. Silhouette normal.",
        "Pas de pneumothorax.",
        "Nincs pneumothorax.",
        "Ei pneumothoraxia. Pneumothorax normaali.",
        "No pneumotorax ni consolidación.",
        "Sin edema.",
        "Pas de pneumothorax ni d'épanchement pleural. Silhouette cardiaque normale.",
        "Geen pneumothorax. Hart niet vergroot.",
        "Nessun versamento pleurico. Non pneumotorace.",
        "Sem derrame pleural. Area cardiaca normal. Pulmoes normais.",
        "无气胸。心脏大小正常。",
        "Нет пневмоторакса.",
        "See report of the CT.",
        "Thank you.",
        "1 2 3",
    ],
)
def test_another_language_is_not_recognised(text: str) -> None:
    reading = chest_labeller().read(text)
    assert not reading.recognised
    assert reading.states == {}


@pytest.mark.parametrize(
    "text", ["", " \n", "\0\0", "FINDINGS:\nIMPRESSION:", "<br>", "HISTORY: x"]
)
def test_nothing_to_read(text: str) -> None:
    reading = chest_labeller().read(text)
    assert (reading.sections, reading.states, reading.recognised) == ((), {}, False)


def test_names_and_aliases() -> None:
    labeller = chest_labeller()
    assert labeller.finding("Cardiomegaly") == "cardiomegaly"
    assert (
        labeller.finding("pleural_effusion") == labeller.finding("Effusion") == "pleural effusion"
    )
    assert labeller.finding("no finding") == "no finding"
    assert labeller.finding("minor change") is None
    assert labeller.finding("covid") is None
    assert labeller.nearest("cardiomegally") == "cardiomegaly"
    assert set(CLASSES) <= set(labeller.findings)


@pytest.mark.parametrize("finding", CLASSES)
def test_synthetic_reports_are_read_without_error(finding: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        said = chest_labeller().read(write_report(finding, ["generator"], "PA", rng)).states
        assert [name for name in CLASSES if said.get(name) == "present"] == [finding]


def test_another_vocabulary_reads_other_things() -> None:
    labeller = ReportLabeller(
        {
            "lists": {"break": ["fracture", "broken"]},
            "findings": {"fracture": {"aliases": ["break"], "present": ["{break}"]}},
            "normal": {"absent": ["intact"]},
            "context": {"absent": {"after": ["no"]}},
            "english": ["the bone is"],
            "international": [],
            "foreign": ["kein"],
        }
    )
    assert labeller.findings == ("fracture", "no finding", "normal")
    assert labeller.read("The bone is broken.").states["fracture"] == "present"
    assert labeller.read("No fracture.").states == {"fracture": "absent"}
    assert labeller.read("The bone is intact.").states["normal"] == "present"


@given(st.text(max_size=400))
@settings(max_examples=150)
def test_any_text_is_read(text: str) -> None:
    reading = chest_labeller().read(text)
    assert set(reading.states.values()) <= {"present", "uncertain", "absent"}
    assert reading.recognised or not reading.states


@given(
    st.permutations(["No edema.", "Possible effusion.", "Stable cardiomegaly.", "Heart normal."])
)
def test_the_order_of_sentences_does_not_matter(sentences: list[str]) -> None:
    assert states(" ".join(sentences)) == {
        "cardiomegaly": "present", "pleural effusion": "uncertain", "edema": "absent",
    }  # fmt: skip


@pytest.mark.parametrize(
    "unit",
    ["no ", "no heart possible large but effusion history of ", "heart is large ", "heart ",
     "enlargement of heart enlarged heart large ", "effusion versus ", "no edema. "],
)  # fmt: skip
def test_hostile_reports_cost_their_length(unit: str) -> None:
    labeller = chest_labeller()

    def seconds(length: int) -> float:
        text = (unit * (length // len(unit) + 1))[:length]
        start = time.process_time()
        labeller.read(text)
        return time.process_time() - start

    short = min(seconds(25_000) for _ in range(2))
    assert min(seconds(100_000) for _ in range(2)) < 9 * short + 0.3


@pytest.mark.slow
def test_ten_megabytes_are_read_within_a_minute() -> None:
    line = "No focal consolidation or effusion. The heart is enlarged, with possible edema. "
    start = time.perf_counter()
    reading = chest_labeller().read(line * (10_000_000 // len(line)))
    assert time.perf_counter() - start < 60
    assert reading.states["cardiomegaly"] == "present"
