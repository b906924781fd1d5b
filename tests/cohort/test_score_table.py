"""Scores of a model that nobody can open: every fault of the table is one clear line."""

import os
from pathlib import Path

import numpy as np
import pytest

from ravl_med.cohort.manifest import Cohort
from ravl_med.cohort.score_table import read_scores
from ravl_med.cohort.table import ManifestFiles
from ravl_med.errors import ConfigError, DataError

NAMES = ("heart", "lung")


def cohort_of(*images: str) -> Cohort:
    n = len(images)
    return Cohort(
        name="manifest.csv",
        rows=np.arange(2, 2 + n),
        paths=ManifestFiles(images, Path("/data")),
        patients=np.arange(n),
        radiology_reports=("",) * n,
        labels=np.zeros(n, dtype=np.int64),
        classes=NAMES,
        attributes={},
        listed=n,
        left_out={},
    )


COHORT = cohort_of("a/1.dcm", "a/2.dcm", "b/3.png")
GOOD = "image,lung,heart\na/1.dcm,0.1,0.9\na/2.dcm,0.8,0.2\n3.png,0.5,0.5\n"


def read(tmp_path, text, cohort=COHORT):
    path = tmp_path / "scores.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_scores(path, cohort)


def test_probabilities_stand_in_the_order_of_films_and_classes(tmp_path):
    table = read(tmp_path, GOOD)
    np.testing.assert_allclose(table.values, [[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    assert not table.logits
    assert len(table.digest) == 64


def test_other_films_are_passed_over_and_numbers_beyond_0_to_1_are_logits(tmp_path):
    table = read(tmp_path, GOOD.replace("0.9", "-3.5") + "c/other.png,7,x\n\n")
    assert table.logits
    assert table.values[0, 0] == -3.5


def test_the_order_of_rows_does_not_matter(tmp_path):
    header, *rows = GOOD.strip().splitlines()
    turned = "\r\n".join([header, *reversed(rows)])
    np.testing.assert_array_equal(read(tmp_path, turned).values, read(tmp_path, GOOD).values)
    other = turned.replace(",", ";")  # as spreadsheets of other countries save it
    np.testing.assert_array_equal(read(tmp_path, other).values, read(tmp_path, GOOD).values)


FAULTS = {
    "image,heart\n1.dcm,1\n": "the column of class 'lung' is missing; expected heart, lung",
    "image,heart,lungs\n1.dcm,1,1\n": "There is a column 'lungs'",
    "image,heart,lung,sick\n1.dcm,1,1,1\n": "column 'sick' is no class of the task",
    "image,heart,lung,lung\n1.dcm,1,1,1\n": "class 'lung' stands more than once",
    "film,heart,lung\n1.dcm,1,1\n": "the column 'image' is missing",
    "": "the column 'image' is missing",
    "image,heart,lung\n1.dcm,1\n": "row 2: 2 cells; expected 3, as the header",
    "image,heart,lung\nx.png,1,1\n": "none of its images is one of the 3 films of manifest.csv",
    GOOD.replace("0.9", "nan"): r"1 cells hold no finite number \(row 2, column 'heart'\)",
    GOOD.replace("0.9", "inf"): r"1 cells hold no finite number \(row 2, column 'heart'\)",
    GOOD.replace("0.9", ""): r"1 cells hold no finite number",
    GOOD + "b/3.png,0,1\n": r"1 films stand twice \(row 5 \(as row 4\)\); expected one row a film",
    GOOD.replace("3.png", "9.png"): r"1 of 3 films of manifest.csv have no row \(row 4 of the",
}


@pytest.mark.parametrize("text", FAULTS)
def test_every_fault_is_one_line(tmp_path, text):
    with pytest.raises(DataError, match=FAULTS[text]) as error:
        read(tmp_path, text)
    (line,) = str(error.value).splitlines()
    assert line.startswith("model.scores")
    assert str(tmp_path) not in line
    assert "a/1" not in line  # file names carry names


def test_two_kinds_of_faults_are_two_lines(tmp_path):
    with pytest.raises(DataError, match="no finite number") as error:
        read(tmp_path, GOOD.replace("0.9", "x").replace("3.png", "9.png"))
    assert len(str(error.value).splitlines()) == 2


def test_a_name_that_two_films_have_names_none(tmp_path):
    both = cohort_of("a/1.dcm", "b/1.dcm")
    with pytest.raises(DataError, match="none of its images"):
        read(tmp_path, "image,heart,lung\n1.dcm,1,0\n", both)


@pytest.mark.timeout(20)
def test_a_file_that_is_no_table(tmp_path):
    with pytest.raises(ConfigError, match=r"'scores.csv' does not exist"):
        read_scores(tmp_path / "scores.csv", COHORT)
    for kind in ("pipe", "/dev/zero"):
        if kind == "pipe":
            os.mkfifo(tmp_path / kind)
        with pytest.raises(DataError, match=r"expected a regular file\. Name a CSV"):
            read_scores(tmp_path / kind, COHORT)
    with pytest.raises(DataError, match="not a UTF-8 CSV table"):
        read(tmp_path, b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"model\.scores row 3: double quotes .* never closed"):
        read(tmp_path, GOOD.replace("a/2", '"a/2'))


def test_before_the_films_are_read_a_film_may_lack_its_row(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(GOOD.replace("3.png", "9.png"))
    table = read_scores(path, COHORT, complete=False)
    assert np.isnan(table.values[2]).all()
    assert not table.logits
    path.write_text(GOOD.replace("3.png", "9.png").replace("0.9", "x"))
    with pytest.raises(DataError, match="1 cells hold no finite number"):
        read_scores(path, COHORT, complete=False)
