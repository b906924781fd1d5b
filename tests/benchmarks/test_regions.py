"""The benchmark of regions: numbers by hand, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ravl_med.errors import DataError
from ravl_med.regions.film_structures import (
    NAMES_RIGHT,
    NAMES_RIGHT_PAINTED,
    UNSURE_LETTERS,
)
from ravl_med.regions.segmenter import Segmentation
from tests.benchmarks import regions
from tests.benchmarks.__main__ import app
from tests.benchmarks.boxed_films import Box, BoxedFilm
from tests.benchmarks.painted_objects import THINGS
from tests.benchmarks.regions import (
    count_false,
    draw_contact_sheet,
    measure_devices,
    measure_found,
    measure_lungs,
    measure_names,
    measure_painted,
    measure_phantoms,
    measure_speed,
    read_marked_films,
)
from tests.benchmarks.runner import silent


class Eye:
    """Sees what is bright: lungs left and right, and electrodes of full brightness."""

    structures = ("right lung", "left lung", "electrode", "body")

    def segment(self, pixels: np.ndarray) -> Segmentation:
        small = np.asarray(Image.fromarray(pixels).resize((256, 256), Image.Resampling.NEAREST))
        lungs = ((small > 0.4) & (small < 0.6)).astype(np.float32)
        left, right = lungs.copy(), lungs.copy()
        left[:, :128] = 0
        right[:, 128:] = 0
        return Segmentation(
            {
                "right lung": right,
                "left lung": left,
                "electrode": (small > 0.9).astype(np.float32),
                "body": np.ones_like(lungs),
            },
        )


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Three films of two patients, with masks; the second is moved, the third is blank."""
    rows = []
    for number, shift in enumerate((0, 16, 0)):
        film = np.zeros((256, 256), np.uint8)
        film[40:200, 30:110] = film[40:200, 150:230] = 128
        film[60:80, 60:80] = 255
        mask = np.zeros((256, 256), np.uint8)
        if number < 2:
            mask[40 + shift : 200 + shift, 30:110] = 255
            mask[40 + shift : 200 + shift, 150:230] = 255
            mask[0:9, 0:9] = 127  # another region
        Image.fromarray(film).save(tmp_path / f"film{number}.png")
        Image.fromarray(mask).save(tmp_path / f"mask{number}.png")
        rows.append((f"film{number}.png", f"p{number % 2}", f"mask{number}.png"))
    with (tmp_path / "films.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("image", "patient", "mask"), *rows])
    (tmp_path / "boxes.csv").write_text(
        "image,name,x0,y0,x1,y1\nfilm0.png,snap,60,60,80,80\nfilm1.png,snap,60,60,80,100\n"
        "film1.png,clip,200,200,210,210\n"
    )
    return tmp_path / "films.csv"


def test_lungs_by_hand(films: Path) -> None:
    (row,) = measure_lungs(Eye(), read_marked_films(films), silent)

    lungs = 2 * 160 * 80
    snap = 20 * 20  # a hole, which is filled
    assert snap < lungs
    assert (row["films"], row["patients"], row["blank"], row["not_found"]) == (2, 2, 1, 0)
    assert row["median"] == pytest.approx(0.95, abs=0.01)
    assert row["least"] == pytest.approx(0.9, abs=0.01)


def test_devices_by_hand(films: Path) -> None:
    rows = measure_devices(Eye(), read_marked_films(films), films.with_name("boxes.csv"), silent)

    assert [(row["name"], row["things"], row["found"]) for row in rows] == [
        ("clip", 1, 0),
        ("snap", 2, 2),
    ]
    assert rows[1]["overlaps"] == pytest.approx((1.0, 0.5), abs=0.02)


@pytest.fixture
def boxed(tmp_path: Path) -> list[BoxedFilm]:
    """One clean film and one with a snap, found, and a clip that is too faint to see."""
    films = []
    for number, (name, clean) in enumerate((("clean", True), ("boxed", False))):
        film = np.zeros((256, 256), np.uint8)
        film[40:200, 30:110] = film[40:200, 150:230] = 128
        boxes: tuple[Box, ...] = ()
        if not clean:
            film[60:80, 60:80] = 255
            boxes = (
                Box("electrode", (60 / 256, 60 / 256, 80 / 256, 80 / 256)),
                Box("clip", (0.8, 0.8, 0.85, 0.85)),
                Box("wire", (0.1, 0.9, 0.5, 0.95)),
            )
        Image.fromarray(film).save(tmp_path / f"{name}.png")
        films.append(
            BoxedFilm(tmp_path / f"{name}.png", f"p{number}", "test", clean, not clean, boxes)
        )
    return films


def test_boxes_found_and_names_by_hand(boxed: list[BoxedFilm]) -> None:
    compact, line = measure_found(Eye(), boxed, silent)
    assert (compact["group"], compact["boxes"], compact["share"]) == ("compact", 2, 0.5)
    assert compact["words"] == {"clip": "0 of 1", "electrode": "1 of 1"}
    assert (line["boxes"], line["share"]) == (1, 0.0)
    (name,) = measure_names(Eye(), boxed, silent)
    assert (name["called"], name["right"], name["named"]) == ("electrode", 1, 1)


def test_what_is_found_where_nothing_is_by_hand(boxed: list[BoxedFilm]) -> None:
    (row,) = count_false(Eye(), boxed, silent)
    assert (row["films"], row["objects"], row["names"]) == (1, 0.0, 0.0)
    (seen,) = count_false(Eye(), [replace(film, clean=True) for film in boxed], silent)
    assert (seen["objects"], seen["names"], seen["by_kind"]) == (0.5, 0.5, {"electrode": 0.5})


def test_painted_things_by_hand(boxed: list[BoxedFilm]) -> None:
    rows = measure_painted(Eye(), boxed, 2, silent)
    assert [row["thing"] for row in rows] == list(THINGS)
    for row in rows:
        assert row["found"] + row["wrong"] + row["not_found"] == pytest.approx(1.0)
        assert row["right"] == 0.0  # it calls all that is bright an electrode


class Reader(Eye):
    """Takes all that is bright for letters, of no kind that it would name."""

    def segment(self, pixels: np.ndarray) -> Segmentation:
        seen = super().segment(pixels).likelihoods
        return Segmentation({"marker": seen["electrode"]}, names={"marker": 2.0})


def test_letters_of_no_sure_kind_are_no_wrong_name(boxed: list[BoxedFilm]) -> None:
    rows = measure_painted(Reader(), boxed, 2, silent)
    assert sum(row["found"] for row in rows) > 0
    assert all(row["wrong"] == row["right"] == 0.0 for row in rows)
    assert {name for row in rows for name in row["called"]} == {UNSURE_LETTERS}


def test_what_a_report_says_of_a_name_was_measured() -> None:
    page = Path(__file__).parents[2] / "reports/benchmark/regions.json"
    parts = json.loads(page.read_text("utf-8"))["parts"]
    rows = {part: parts[part]["rows"] for part in ("names", "painted")}
    real = {row["called"]: (row["right"], row["named"]) for row in rows["names"]}
    assert dict(NAMES_RIGHT) == real

    name_of = {"generator": "pulse generator", "marker": "laterality marker"}
    given: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for row in rows["painted"]:
        given.update(row["called"])
        name = name_of.get(row["thing"], "metal")
        right[name] += row["called"].get(name, 0)
    for name, record in NAMES_RIGHT_PAINTED.items():
        assert record == (right[name], given[name])
    assert set(given) <= {*NAMES_RIGHT, *NAMES_RIGHT_PAINTED}


def test_a_contact_sheet_shows_one_film_of_a_patient_first(boxed: list[BoxedFilm]) -> None:
    sheet = draw_contact_sheet(Eye(), [*boxed, boxed[0]], 2, 0)
    assert {film.image_id for film in sheet.films} == {"clean", "boxed"}
    assert any(kind.score is not None for film in sheet.films for kind in film.regions.kinds)


def test_a_blind_segmenter_finds_nothing_on_phantoms() -> None:
    rows = measure_phantoms(Eye(), 3, 0, silent)

    assert {row["kind"] for row in rows} <= {"generator", "marker", "text", "electrode", "lead",
                                          "tube", "wire"}  # fmt: skip
    for row in rows:
        assert row["things"] >= 1
        if row["kind"] in ("lead", "tube", "wire"):
            assert row["recall"] == row["covered"] == 0


def test_the_clock_runs() -> None:
    regions, text = measure_speed(Eye(), 128, 2, silent)

    assert (regions["side"], regions["runs"], text["side"]) == (128, 2, 64)
    assert min(regions["seconds"], text["seconds"]) > 0


@pytest.mark.slow
def test_the_whole_of_it_for_the_built_in_segmenter(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "_SIDE", 256)
    out = tmp_path / "out"
    outcome = CliRunner().invoke(
        app,
        [
            "regions", "--size", "phantoms=4", "--films", str(films),
            "--boxes", str(films.with_name("boxes.csv")), "--out", str(out),
        ],
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    parts = json.loads((out / "regions.json").read_text(encoding="utf-8"))["parts"]
    assert list(parts) == ["phantoms", "lungs", "devices", "speed"]
    assert parts["speed"]["rows"][0]["side"] == 256
    text = (out / "regions.md").read_text(encoding="utf-8")
    assert "film0" not in text
    assert str(tmp_path) not in text


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "films.csv").write_text("film,patient\na,b\n")
    with pytest.raises(DataError, match="--films: expected a CSV with the columns image"):
        read_marked_films(tmp_path / "films.csv")
    with pytest.raises(DataError, match=r"--films: cannot be read \(FileNotFoundError\)"):
        read_marked_films(tmp_path / "none.csv")
