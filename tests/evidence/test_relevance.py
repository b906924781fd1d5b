"""Where findings show: the table and the share of the effect."""

from pathlib import Path

import numpy as np
import pytest

from ravl_med.errors import ConfigError
from ravl_med.evidence.relevance import kind_of_share, read_relevance, relevant_share

CHEST = Path(__file__).parents[2] / "configs" / "relevance" / "chest.yaml"
LEFT_HALF = ((0.0, 0.0, 0.5, 1.0),)


def read(folder: Path, text: str):
    path = folder / "table.yaml"
    path.write_text(text, encoding="utf-8")
    return read_relevance(path)


def test_the_chest_table_loads_and_knows_its_findings_by_any_name():
    table = read_relevance(CHEST)

    assert table.find("cardiomegaly") == ((0.26, 0.40, 0.86, 0.86),)
    assert table.find(" Enlarged Heart ") == table.find("cardiomegaly")
    assert len(table.find("pleural effusion") or ()) == 2
    assert table.find("fracture") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping 'findings'"),
        ("- 1", "expected a mapping 'findings'"),
        ("findings: {}", "expected a mapping 'findings'"),
        ("findings: [a]", "expected a mapping 'findings'"),
        ("findings: {edema: [[0, 0, 1, 1]]}", "edema: expected a mapping with a list 'boxes'"),
        ("findings: {edema: {boxes: 3}}", "edema: expected a mapping with a list 'boxes'"),
        ("findings: {edema: {boxes: []}}", "edema: expected .* 'boxes', not empty"),
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

    assert table.boxes == {"edema": ((0, 0, 1, 0.5),)}


def share(boxes, effect, relevant=LEFT_HALF, size=(200, 100)):
    boxes = np.array(boxes, dtype=np.float32)
    sizes = np.tile(np.array(size), (len(boxes), 1))
    return relevant_share(boxes, sizes, np.array(effect, dtype=float), relevant)


@pytest.mark.parametrize(
    ("boxes", "effect", "expected"),
    [
        ([[0, 0, 50, 100]], [2], 1),  # films are 100 wide and 200 high
        ([[50, 0, 100, 100]], [2], 0),
        ([[25, 0, 75, 100]], [2], 1 / 2),
        ([[0, 0, 40, 40], [60, 0, 100, 40]], [3, 1], 3 / 4),
        ([[0, 0, 40, 40], [60, 0, 100, 40]], [1, -5], 1),  # negative effects do not count
        ([[0, 0, 40, 40], [60, 0, 100, 40]], [np.nan, 1], 0),
        ([[45, 0, 65, 40], [0, 0, 100, 200]], [1, 3], (1 / 4 + 3 / 2) / 4),
        ([[0, 0, 0.1, 0.1]], [1], 1),  # smaller than a cell of the grid
    ],
)
def test_shares_by_hand(boxes, effect, expected):
    assert share(boxes, effect) == pytest.approx(expected, abs=1e-6)


def test_boxes_that_overlap_count_once():
    relevant = ((0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 0.75, 1.0))

    assert share([[0, 0, 100, 200]], [1], relevant) == pytest.approx(0.75)


@pytest.mark.parametrize("effect", [[0], [-1], [np.nan]])
def test_without_a_positive_effect_there_is_no_share(effect):
    assert np.isnan(share([[0, 0, 50, 100]], effect))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1.0, "plausible_sign"),
        (0.5, "plausible_sign"),
        (0.49, "undecided"),
        (0.21, "undecided"),
        (0.2, "shortcut"),
        (0.0, "shortcut"),
        (float("nan"), "undecided"),
    ],
)
def test_kinds_by_hand(value, kind):
    assert kind_of_share(value, 0.5, 0.2) == kind
