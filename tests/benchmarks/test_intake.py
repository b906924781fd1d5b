"""The benchmark of reading: the same film in every syntax, and times of each."""

from pathlib import Path

import numpy as np
import pytest

from ravl_med.cohort.dicom import film_pixels, open_dicom
from tests.benchmarks import intake
from tests.benchmarks.intake import SYNTAXES, measure_cores, measure_speed, write_films
from tests.benchmarks.runner import silent


@pytest.fixture(autouse=True)
def small_films(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_HEIGHT", 320)
    monkeypatch.setattr(intake, "_WIDTH", 256)


def test_one_film_in_every_syntax(tmp_path: Path) -> None:
    films = write_films(tmp_path, 1)
    assert set(films) == {name for name, _, _ in SYNTAXES}
    first = film_pixels(open_dicom(films["uncompressed"][0]))[0]
    assert first.shape == (320, 256)
    assert 0.2 < first.mean() < 0.8
    for paths in films.values():
        np.testing.assert_array_equal(film_pixels(open_dicom(paths[0]))[0], first)


def test_each_syntax_is_timed(tmp_path: Path) -> None:
    films = write_films(tmp_path, 1)
    speed = list(measure_speed(films, 1, silent))
    cores = list(measure_cores(films, 2, 1, silent))
    names = [name for name, _, _ in SYNTAXES]
    assert [row["syntax"] for row in speed] == [row["syntax"] for row in cores] == names
    for row in speed:
        assert row["ratio"] == pytest.approx(row["ours_ms"] / row["pydicom_ms"])
        assert row["with_digest_ms"] > 0
    for row in cores:
        assert row["gain"] == pytest.approx(row["one_ms"] / row["two_ms"])
        assert row["films"] == 2
