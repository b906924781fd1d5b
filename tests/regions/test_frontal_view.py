"""Frontal chest films by their pixels: phantoms, things that are none, real films of both views."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ravl_med.cohort.image_file import read_image_file
from ravl_med.config.cohort import DEFAULT_READING
from ravl_med.phantoms.cohort import synthesize
from ravl_med.regions.film_structures import shows_frontal_chest
from ravl_med.regions.segmenter import built_in_segmenter

SHARED = Path(os.environ.get("RAVL_MED_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
FILMS = SHARED / "covidcxr"


def shows(pixels: NDArray[np.float32]) -> bool:
    return shows_frontal_chest(built_in_segmenter(), pixels)


def test_phantoms_are_frontal_films(tmp_path: Path) -> None:
    synthesize(tmp_path / "c", images=40, size=128, seed=4, workers=1)
    paths = sorted((tmp_path / "c" / "images").iterdir())[:10]
    assert all(shows(read_image_file(path, DEFAULT_READING).pixels) for path in paths)


def test_what_is_no_chest() -> None:
    rng = np.random.default_rng(0)
    assert not shows(np.zeros((64, 64), dtype=np.float32))
    assert not shows(rng.random((64, 64), dtype=np.float32))
    assert not shows(np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1)))


def count_real_films(lateral: bool, step: int) -> tuple[int, int]:
    """Films of one view that count as frontal, and all of them, every `step`-th."""
    if not (FILMS / "metadata.csv").is_file():
        pytest.skip("the shared test films are not beside this checkout")
    with (FILMS / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if (row["view"] == "L") is lateral][::step]
    found = 0
    for row in rows:
        film = Image.open(FILMS / "images" / row["filename"]).convert("L")
        film.thumbnail((512, 512))
        found += shows(np.asarray(film, dtype=np.float32) / np.float32(255))
    return found, len(rows)


def test_some_real_films_of_either_view() -> None:
    found, films = count_real_films(lateral=False, step=15)
    assert found >= films - 2
    assert count_real_films(lateral=True, step=3)[0] == 0


@pytest.mark.slow
def test_all_real_films_of_either_view() -> None:
    # 180 of 184 and 0 of 26 when the thresholds were chosen on these films.
    assert count_real_films(lateral=False, step=1)[0] >= 178
    assert count_real_films(lateral=True, step=1)[0] <= 1
