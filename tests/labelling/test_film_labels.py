"""Classes of films under each policy, by hand."""

from __future__ import annotations

import pytest

from ravl_med.config.cohort import LabelsConfig
from ravl_med.labelling.film_labels import FindingCells, label_films

TASK = {"edema": {"edema": 1}, "other": {"edema": 0, "mass": 0}}
CELLS = FindingCells(
    {"edema": [1, 0, -1, None, 0, 1], "mass": [0, 0, 0, 0, None, 1]},
    ["manifest"] * 6,
    {5: "no report"},
)


@pytest.mark.parametrize(
    ("policy", "classes", "reasons"),
    [
        (LabelsConfig(), [0, 1, -1, -1, -1, -1],
         ["", "", "uncertain label", "blank label", "blank label", "no report"]),
        (LabelsConfig(blank="negative"), [0, 1, -1, 1, 1, -1],
         ["", "", "uncertain label", "", "", "no report"]),
        (LabelsConfig(uncertain="positive"), [0, 1, 0, -1, -1, -1],
         ["", "", "", "blank label", "blank label", "no report"]),
        (LabelsConfig(uncertain="negative", blank="negative"), [0, 1, 1, 1, 1, -1],
         ["", "", "", "", "", "no report"]),
    ],
)  # fmt: skip
def test_policies(policy: LabelsConfig, classes: list[int], reasons: list[str]) -> None:
    labels = label_films(CELLS, TASK, policy)
    assert labels.classes.tolist() == classes
    assert labels.reasons == tuple(reasons)
    assert labels.certainty == ("stated", "stated", "uncertain", "blank", "blank", "stated")
    assert labels.sources == ("manifest",) * 6


def test_several_classes_and_none() -> None:
    cells = FindingCells({"a": [1, 0], "b": [1, 0]}, ["manifest"] * 2, {})
    labels = label_films(cells, {"a": {"a": 1}, "b": {"b": 1}}, LabelsConfig())
    assert labels.classes.tolist() == [-1, -1]
    assert labels.reasons == ("several classes", "no class")
