"""The table of where findings show."""

from pathlib import Path

import pytest

from ravl_med.errors import ConfigError
from ravl_med.evidence.counterfactual.localisation import RelevantPlaces, read_relevance

CHEST = Path(__file__).parents[3] / "configs" / "relevance" / "chest.yaml"
CHEXPERT = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Lesion", "Lung Opacity", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
    "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
NIH = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia",
    "Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening",
    "Hernia",
)  # fmt: skip


def read(folder: Path, text: str):
    path = folder / "table.yaml"
    path.write_text(text, encoding="utf-8")
    return read_relevance(path)


def test_the_chest_table_loads_and_knows_its_findings_by_any_name():
    table = read_relevance(CHEST)

    assert table.find("cardiomegaly") == RelevantPlaces(anatomy=("cardiac silhouette",))
    assert table.find(" Enlarged  Heart ") == table.find("cardiomegaly")
    assert table.find("Pleural_Effusion").anatomy[:2] == (
        "right costophrenic angle", "left costophrenic angle",
    )  # fmt: skip
    assert table.find("support devices").artifacts
    sharp = {name for name, places in table.places.items() if places.edges}
    assert sharp == {"support devices", "fracture"}
    assert set(table.find("Normal").anatomy) > set(table.find("pneumonia").anatomy)
    assert table.find("scoliosis") is None


def test_what_a_finding_is_told_from_shows_in_places_of_its_own():
    table = read_relevance(CHEST)
    effusion, lungs = table.find("effusion").anatomy, table.find("pneumonia").anatomy

    heart = table.find("cardiomegaly", ["effusion", "scoliosis", "pneumonia"])
    assert heart.anatomy == ("cardiac silhouette",)
    assert heart.lowered == (*effusion, *lungs)
    # Read wherever a finding shows, "no finding" would make all of the chest a sign of any.
    assert table.find("cardiomegaly", ["no finding"]).lowered == ()
    assert table.find("pneumonia", ["lung opacity"]).lowered == ()
    assert table.find("scoliosis", ["effusion"]) is None


@pytest.mark.parametrize("finding", [*CHEXPERT, *NIH])
def test_the_chest_table_knows_the_findings_of_the_public_sets(finding):
    assert read_relevance(CHEST).find(finding) is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping 'findings'"),
        ("- 1", "expected a mapping 'findings'"),
        ("findings: {}", "expected a mapping 'findings'"),
        ("findings: [a]", "expected a mapping 'findings'"),
        ("findings: {edema: [[0, 0, 1, 1]]}", "edema: expected a mapping with 'anatomy' or"),
        ("findings: {edema: {boxes: 3}}", "edema: 'boxes' is 3; expected a list"),
        ("findings: {edema: {boxes: []}}", "edema: expected 'anatomy', 'boxes' or .*, not empty"),
        ("findings: {edema: {anatomy: lungs}}", "edema: 'anatomy' is 'lungs'; expected a list"),
        ("findings: {edema: {anatomy: [liver]}}", "anatomy 'liver' is not known; expected one of"),
        ("findings: {edema: {artifacts: 1}}", "edema: 'artifacts' is 1; expected true or false"),
        ("findings: {edema: {anatomy: [lungs], edges: 0.5}}", "'edges' is 0.5; expected true or"),
        ("findings: {edema: {boxes: [[0, 0, 1, 1]], bxs: 1}}", "unknown key 'bxs'; known: "),
        ("findings: {edema: {boxes: [[0, 0, 1]]}}", r"edema: a box is \[0, 0, 1\]; expected \[x0"),
        ("findings: {edema: {boxes: [[0, 0, 1, a]]}}", "edema: a box is .*; expected "),
        ("findings: {edema: {boxes: [3]}}", "edema: a box is 3; expected "),
        ("findings: {edema: {boxes: [[0.5, 0, 0.2, 1]]}}", "expected shares 0 <= x0 < x1 <= 1"),
        ("findings: {edema: {boxes: [[0, 0, 100, 200]]}}", "expected shares 0 <= x0 < x1 <= 1"),
        ("findings: {edema: {boxes: [[0, 0, .nan, 1]]}}", "expected shares 0 <= x0 < x1 <= 1"),
        ("findings: {edema: {boxes: [[0, 0, 1, 1]], also: fluid}}", "'also' is 'fluid'; expected"),
        ("findings: {", "not valid YAML"),
    ],
)
def test_a_table_that_is_not_one_is_said(text, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_a_missing_table_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"'none\.yaml': no such file"):
        read_relevance(tmp_path / "none.yaml")


def test_no_further_name_may_be_stated_as_null(tmp_path):
    table = read(tmp_path, "findings: {Edema: {boxes: [[0, 0, 1, 0.5]], also: }}")

    assert table.places == {"edema": RelevantPlaces(boxes=((0, 0, 1, 0.5),))}


def test_a_plural_stands_for_both_sides(tmp_path):
    table = read(tmp_path, "findings: {edema: {anatomy: [Hila, right lung, right hilum]}}")

    assert table.find("edema").anatomy == ("right hilum", "left hilum", "right lung")
