"""Frontal chest films by their pixels: phantoms, things that are none, real films of both views."""

import csv
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ravl_med.cohort.image_file import read_image_file
from ravl_med.config.cohort import DEFAULT_READING, RegionsConfig
from ravl_med.phantoms.cohort import render_film, synthesize
from ravl_med.phantoms.plan import plan_cohort
from ravl_med.regions.film_structures import read_structures, shows_frontal_chest
from ravl_med.regions.proposal import RegionProposer
from ravl_med.regions.segmenter import ANY, LETTERS, built_in_segmenter

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


def phantom(number: int, size: int = 256) -> NDArray[np.float32]:
    plans = plan_cohort(20, "generator", "cardiomegaly", 0.0, 3)
    plan = replace(plans[number], features=("marker", "electrode"))
    return render_film(plan, seed=3, size=size).pixels


def four_in_one(film: NDArray[np.float32]) -> NDArray[np.float32]:
    """Four films on one picture, as a screen shows them."""
    others = [cv2.resize(one, (256, 256)) for one in (film, *map(phantom, (1, 2, 3)))]
    return np.vstack([np.hstack(others[:2]), np.hstack(others[2:])])


def photo_of_a_screen(film: NDArray[np.float32]) -> NDArray[np.float32]:
    """A film on a screen with a black frame, from the side, in a gray room."""
    film = cv2.resize(film, (256, 256))
    corners = np.array([[0, 0], [256, 0], [256, 256], [0, 256]], np.float32)
    seen = np.array([[190, 90], [560, 140], [540, 480], [215, 520]], np.float32)
    view = cv2.getPerspectiveTransform(corners, seen)
    picture = cv2.warpPerspective(0.8 * film + 0.1, view, (800, 600))
    screen = cv2.warpPerspective(np.ones_like(film), view, (800, 600)) > 0.5
    frame = cv2.dilate(screen.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    return np.where(screen, picture, np.where(frame, 0.03, 0.25)).astype(np.float32)


def hand(_: NDArray[np.float32]) -> NDArray[np.float32]:
    picture = np.zeros((512, 512), np.float32)
    cv2.ellipse(picture, (256, 360), (90, 110), 0, 0, 360, 0.6, -1)
    for across in (-90, -45, 0, 45, 90):
        cv2.line(picture, (256 + across // 2, 300), (256 + 2 * across, 90), 0.7, 32)
    return cv2.GaussianBlur(picture, (0, 0), 3)


def blank(_: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.full((300, 300), 0.5, np.float32)


@pytest.mark.parametrize("made", [four_in_one, photo_of_a_screen, hand, blank])
def test_what_is_no_chest_film_has_no_names_and_says_why(made, tmp_path: Path) -> None:
    film = made(phantom(0))
    seen = read_structures(built_in_segmenter(), film)
    assert seen.view == "none"
    assert not seen.anatomy
    assert {one.kind for one in seen.artifacts} <= {*LETTERS, *ANY, "border"}
    cv2.imwrite(str(tmp_path / "film.png"), np.rint(255 * film))
    read = read_image_file(tmp_path / "film.png", DEFAULT_READING)
    proposer = RegionProposer(RegionsConfig(sources=("anatomy",)), segmenter=built_in_segmenter())
    proposed = proposer.propose(read)
    assert proposed.problems == ("anatomy_not_found", "no_region")
    assert {kind.source for kind in proposed.kinds} == {"tiles"}


@pytest.mark.long
@pytest.mark.parametrize("size", [50, 5000])
def test_films_of_any_size(size: int) -> None:
    film = cv2.resize(phantom(0), (size, size), interpolation=cv2.INTER_AREA)
    seen = read_structures(built_in_segmenter(), film)
    assert seen.view == "frontal"
    assert {"right lung", "left lung"} <= set(seen.anatomy)


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


@pytest.mark.long
def test_some_real_films_of_either_view() -> None:
    found, films = count_real_films(lateral=False, step=15)
    assert found >= films - 2
    assert count_real_films(lateral=True, step=3)[0] == 0


@pytest.mark.slow
def test_all_real_films_of_either_view() -> None:
    # 180 of 184 and 0 of 26 when the thresholds were chosen on these films.
    assert count_real_films(lateral=False, step=1)[0] >= 178
    assert count_real_films(lateral=True, step=1)[0] <= 1
