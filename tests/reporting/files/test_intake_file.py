"""intake.csv: a line a file, and no path in it."""

import csv
from pathlib import Path

import numpy as np

from ravl_med.cohort.manifest import Cohort
from ravl_med.cohort.table import ManifestFiles, RejectedFilm
from ravl_med.reporting.files.tables import write_intake, write_rejected_films

COHORT = Cohort(
    name="manifest.csv",
    rows=np.array([2, 5], dtype=np.int64),
    paths=ManifestFiles(["doe1.dcm", "doe4.dcm"], Path("/films")),
    patients=np.array([0, 1], dtype=np.int64),
    radiology_reports=("", ""),
    labels=np.array([0, 1], dtype=np.int64),
    classes=("a", "b"),
    attributes={},
    listed=4,
    left_out={},
    rejected=(
        RejectedFilm(4, "no_patient", "manifest.csv row 4: patient is blank, or so."),
        RejectedFilm(3, "truncated", "manifest.csv row 3: it ends.", Path("/films/doe2.dcm")),
    ),
)


def test_a_line_for_each_film_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    write_intake(tmp_path / "intake.csv", COHORT, ("aa", "bb"), ("window 1 of 1", "8-bit"))
    with (tmp_path / "intake.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        ["row", "image_id", "reason", "message"],
        ["2", "aa", "read", "window 1 of 1"],
        ["3", "", "truncated", "it ends."],
        ["4", "", "no_patient", "patient is blank, or so."],
        ["5", "bb", "read", "8-bit"],
    ]


def test_paths_are_for_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "rejected.csv"
    write_rejected_films(path, COHORT)
    assert path.read_text(encoding="utf-8") == f"row,path\n3,{Path('/films/doe2.dcm')}\n"
    assert path.stat().st_mode & 0o777 == 0o600
