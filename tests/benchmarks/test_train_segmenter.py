"""Training films, painted objects, and the training of the segmenter."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from ravl_med.errors import DataError
from ravl_med.phantoms.film import ANATOMY
from ravl_med.regions.film_structures import Artifact, FilmStructures
from ravl_med.regions.segmenter import (
    ANY,
    FINE,
    LETTERS,
    OBJECTS,
    SIDE,
    STRUCTURES,
    WEIGHTS,
    BuiltInSegmenter,
    Segmentation,
)
from tests.benchmarks.boxed_films import Box, is_found, read_boxed_films, true_kinds
from tests.benchmarks.calibrate_segmenter import choose_thresholds
from tests.benchmarks.followed_lines import draw_lines
from tests.benchmarks.painted_objects import PAINTERS, THINGS, no_masks, paint_objects, paint_thing
from tests.benchmarks.train_segmenter import (
    LETTER_BOXES,
    SOURCE,
    box_masks,
    boxed_lesson,
    keeps_back,
    train_segmenter,
)
from tests.benchmarks.training_films import draw_training_film

SEEDS = range(24)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small films with boxes: three to train, clean or boxed, and one to validate."""
    root = tmp_path_factory.mktemp("boxed")
    (root / "films").mkdir()
    rng = np.random.default_rng(0)
    rows, boxes = [], []
    for number, (patient, split, clean) in enumerate(
        [("1", "train", "yes"), ("2", "train", "yes"), ("3", "train", "no"),
         ("4", "validation", "yes"), ("5", "validation", "no"), ("6", "test", "no")]
    ):  # fmt: skip
        film = np.clip(rng.normal(110, 8, (96, 96)), 0, 255).astype(np.uint8)
        if clean == "no":
            film[20:30, 30:40] = 250
            film[60:62, 10:80] = 220
            boxes += [(f"{number}.png", "electrode", 30, 20, 40, 30)]
            boxes += [(f"{number}.png", "wire", 10, 58, 80, 64)]
        Image.fromarray(film).save(root / "films" / f"{number}.png")
        boxed = "no" if clean == "yes" else "yes"
        kinds = "" if clean == "yes" else "electrode;wire"
        rows.append((f"{number}.png", patient, split, clean, clean, boxed, kinds))
    for name, header, content in (
        ("films", ("file", "patient", "split", "clean", "certain", "boxed", "kinds"), rows),
        ("boxes", ("file", "kind", "x0", "y0", "x1", "y1"), boxes),
    ):
        with (root / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([header, *content])
    return root


def test_the_same_seed_draws_the_same_film() -> None:
    first, masks = draw_training_film(5, 64)
    again, same = draw_training_film(5, 64)
    other, _ = draw_training_film(6, 64)

    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(masks, same)
    assert (first != other).any()
    assert first.shape == (64, 64)
    assert masks.shape == (len(STRUCTURES), 64, 64)


def test_every_kind_is_drawn_and_can_be_seen() -> None:
    films, masks = zip(*(draw_training_film(seed, 128) for seed in SEEDS), strict=True)
    there = np.array([mask.any(axis=(1, 2)) for mask in masks])

    assert there.any(axis=0).all()
    assert there[:, [STRUCTURES.index(name) for name in ANATOMY]].mean() > 0.9
    for film, mask in zip(films, masks, strict=True):
        assert np.ptp(film) > 100
        whole = np.any([mask[STRUCTURES.index(kind)] for kind in ANY["line"]], axis=0)
        assert (mask[STRUCTURES.index("line")] | ~whole).mean() > 0.99


@pytest.mark.parametrize("painter", [paint for _, paint in PAINTERS])
def test_what_is_painted_brightens_the_film_where_its_mask_is(painter) -> None:
    for seed in range(4):
        film = np.full((160, 160), 0.4, np.float32)
        masks = no_masks(film.shape)
        painter(film, masks, np.random.default_rng(seed))
        mask = np.any(list(masks.values()), axis=0)
        assert 0.0 <= film.min() <= film.max() <= 1.0
        if mask.any():
            assert np.abs(film[mask] - 0.4).mean() > 3 * np.abs(film[~mask] - 0.4).mean()


def test_what_is_bright_already_changes_little_and_is_not_seen() -> None:
    dark, bright = (np.full((160, 160), value, np.float32) for value in (0.3, 0.99))
    seen = [paint_objects(film, np.random.default_rng(3)) for film in (dark, bright)]

    lines = [np.any([masks[kind] for kind in ANY["line"]], axis=0).sum() for masks in seen]
    assert lines[0] > 3 * lines[1]


@pytest.mark.parametrize("thing", THINGS)
def test_a_thing_is_painted_alone(thing: str) -> None:
    film = np.full((160, 160), 0.4, np.float32)
    kind, mask = paint_thing(film, thing, np.random.default_rng(1))

    assert kind in OBJECTS
    assert mask.any()
    assert np.abs(film[mask] - 0.4).mean() > 0.05


def test_boxes_are_read_as_shares_and_become_masks(films: Path) -> None:
    (boxed,) = (film for film in read_boxed_films(films, "train") if film.boxed)

    assert [box.word for box in boxed.boxes] == ["electrode", "wire"]
    assert boxed.boxes[0].xyxy == pytest.approx((30 / 96, 20 / 96, 40 / 96, 30 / 96))
    masks = box_masks(boxed, 96)
    assert masks["electrode"][20:30, 30:40].mean() == pytest.approx(np.pi / 4, abs=0.05)
    assert masks["electrode"].sum() == masks["electrode"][20:30, 30:40].sum()
    assert not masks["wire"].any()
    with pytest.raises(DataError, match="no film of the split none"):
        read_boxed_films(films, "none")
    with pytest.raises(DataError, match=r"boxes\.csv cannot be read \(FileNotFoundError\)"):
        read_boxed_films(films / "films", "train")


def test_where_lines_lie_on_boxed_films_is_not_known(films: Path) -> None:
    (boxed,) = (film for film in read_boxed_films(films, "train") if film.boxed)
    for painted in (False, True):
        lesson = boxed_lesson(boxed, 0, painted=painted)
        assert not lesson.known[[FINE.index(name) for name in ("line", "wire")]].any()
        assert lesson.known[[FINE.index(name) for name in ("compact", "text", "tube")]].all()


def test_a_line_is_followed_through_its_box_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    film = rng.normal(0.4, 0.01, (64, 64)).astype(np.float32)
    along = np.arange(8, 56)
    course = np.rint(20 + 6 * np.sin(along / 12)).astype(int)
    film[course, along] += 0.3
    pieces = [("wire", slice(12, 30), slice(8, 56)), ("tube", slice(40, 52), slice(8, 56))]
    masks, empty = draw_lines(film, pieces, {"wire": 1, "tube": 1})

    at_line = np.zeros(film.shape, np.bool_)
    at_line[course, along] = True
    assert masks["wire"][at_line].mean() > 0.95
    assert masks["wire"].sum() == len(along)
    assert not masks["tube"].any()
    assert not empty[at_line].any()
    assert not empty[40:52].any()  # no clear line: nothing is known
    assert empty[29, 8:56].all()


def test_letters_of_clean_films_lie_on_them() -> None:
    with LETTER_BOXES.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) > 20
    for row in rows:
        x0, y0, x1, y1 = (int(row[edge]) for edge in ("x0", "y0", "x1", "y1"))
        assert row["kind"] in ("marker", "text")
        assert 0 <= x0 < x1 <= 768
        assert 0 <= y0 < y1 <= 768


def structures(*artifacts: Artifact, line: tuple[int, int, int, int] | None = None):
    lines = np.zeros((SIDE, SIDE), np.bool_)
    if line is not None:
        x0, y0, x1, y1 = line
        lines[y0:y1, x0:x1] = True
    return FilmStructures({}, artifacts, lines, lines)


def test_found_and_named_by_hand() -> None:
    snap = Box("electrode", (0.1, 0.1, 0.2, 0.2))
    wire = Box("wire", (0.5, 0.5, 0.75, 0.55))
    seen = structures(Artifact("metal", 0.9, (0.12, 0.12, 0.2, 0.2)), line=(128, 130, 180, 132))

    assert is_found(snap, seen)
    assert is_found(wire, seen)
    assert not is_found(wire, structures(line=(128, 130, 150, 132)))
    assert not is_found(snap, structures(Artifact("line", 0.9, snap.xyxy)))
    assert true_kinds(seen.artifacts[0], (snap, wire)) == {"electrode"}
    assert true_kinds(Artifact("line", 0.9, (0.4, 0.5, 0.8, 0.56)), (snap, wire)) == {"wire"}


def test_thresholds_let_through_what_is_there_and_not_what_is_not(films: Path) -> None:
    def segment(pixels: np.ndarray) -> Segmentation:
        """Sees what is bright; on clean films a spot that is half likely."""
        side = SIDE
        small = np.asarray(
            Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).resize((side, side), 0)
        )
        bright = (small > 200).astype(np.float32)
        likely = {name: np.zeros((side, side), np.float32) for name in FINE}
        likely["compact"] = 0.95 * bright
        likely["compact"][200:206, 200:206] = 0.62
        likely["electrode"] = 0.9 * bright
        return Segmentation(likely)

    kept = read_boxed_films(films, "validation")
    found, names = choose_thresholds(segment, kept, 0)

    assert found["compact"] == pytest.approx(0.66)
    assert names["electrode"] > 1.0  # on painted films it calls everything an electrode
    assert set(names) == {*LETTERS, *(kind for kinds in ANY.values() for kind in kinds)}


@pytest.mark.slow
def test_a_little_training_writes_weights_that_open(films: Path, tmp_path: Path) -> None:
    steps = []
    path = tmp_path / "small.safetensors"
    train_segmenter(
        path, films, phantoms=8, steps=4, seed=1, progress=lambda *step: steps.append(step)
    )

    assert ("train objects", 4, 4) in steps
    assert any(name == "films that agree" for name, _, _ in steps)
    film = BuiltInSegmenter.read(path).segment(
        np.random.default_rng(0).random((40, 60), dtype=np.float32)
    )
    assert film.likelihoods["heart"].shape == (SIDE, SIDE)
    assert film.likelihoods["tube"].shape == (2 * SIDE, 2 * SIDE)
    assert set(film.found) == {"compact", "line", "marker", "text"}


def test_films_that_calibrate_are_not_trained_on(films: Path) -> None:
    train = read_boxed_films(films, "train")
    assert not any(keeps_back(film) for film in train)  # "3" is of the third, but not clean
    assert all(keeps_back(replace(film, patient="3", clean=True)) for film in train)


def test_the_weights_of_the_package_say_how_they_were_made() -> None:
    with safe_open(str(WEIGHTS), framework="np") as stored:
        made = stored.metadata()

    assert made["structures"] == ", ".join(STRUCTURES)
    assert made["films"] == SOURCE
    assert int(made["steps"]) >= 1000
    found, names = json.loads(made["thresholds"])
    assert {*found, *names} <= set(STRUCTURES)
    assert WEIGHTS.stat().st_size < 4_000_000


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3, np.float32)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(RuntimeError, match="Missing key"):
        BuiltInSegmenter.read(tmp_path / "other.safetensors")
