"""Anatomy and artifacts in names, from masks whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from ravl_med.phantoms.cohort import render_film
from ravl_med.phantoms.devices import FEATURES
from ravl_med.phantoms.plan import plan_cohort
from ravl_med.regions.anatomy import ANATOMICAL_REGIONS, PROPOSED, anatomical_names, find_anatomy
from ravl_med.regions.film_structures import (
    ARTIFACT_NAMES,
    NOTHING,
    FilmStructures,
    KeptStructures,
    box_of,
    find_artifacts,
    read_structures,
)
from ravl_med.regions.geometry import InputGeometry
from ravl_med.regions.segmenter import (
    SIDE,
    STRUCTURES,
    BuiltInSegmenter,
    JointSegmenter,
    Segmentation,
    built_in_segmenter,
    join_segmentations,
)
from ravl_med.storage.cache import Cache

PLANS = plan_cohort(40, "generator", "cardiomegaly", 0.0, 3)


def phantom(number: int = 0, features: tuple[str, ...] = FEATURES, size: int = 256):
    return render_film(replace(PLANS[number], features=features), seed=3, size=size)


def truth(film) -> Segmentation:
    """What a perfect segmenter says."""
    side = (SIDE, SIDE)
    masks = {name: mask.copy() for name, mask in film.structures.items()}
    for kind, x0, y0, x1, y1 in film.boxes:
        if kind in ("marker", "text"):  # letters are one thing with what lies between them
            masks[kind][y0:y1, x0:x1] = True
    likely = {
        name: cv2.resize(mask.astype(np.float32), side, interpolation=cv2.INTER_AREA)
        for name, mask in masks.items()
    }
    return Segmentation(likely)


def blank(**masks: tuple[int, int, int, int]) -> Segmentation:
    """Rectangles x0, y0, x1, y1 by structure, underscores for blanks."""
    likely = {}
    for name, (x0, y0, x1, y1) in masks.items():
        plane = np.zeros((SIDE, SIDE), np.float32)
        plane[y0:y1, x0:x1] = 0.9
        likely[name.replace("_", " ")] = plane
    return Segmentation(likely)


CHEST = {
    "right_lung": (40, 40, 110, 200),
    "left_lung": (146, 40, 216, 200),
    "heart": (100, 120, 180, 200),
    "body": (10, 0, 246, 256),
    "abdomen": (10, 200, 246, 256),
    "airway": (120, 0, 136, 60),
    "mediastinum": (112, 30, 144, 200),
    "spine": (118, 0, 138, 256),
}


@pytest.mark.parametrize("number", range(4))
def test_every_region_is_found_on_a_phantom_and_lies_where_it_should(number: int) -> None:
    found = find_anatomy(truth(phantom(number)))

    # An arm that fills the corners leaves nothing outside the body.
    assert set(ANATOMICAL_REGIONS) - set(found) <= {"outside the body"}
    for side, other in (("right", "left"), ("left", "right")):
        lung = found[f"{side} lung"]
        zones = [found[f"{side} {part} lung zone"] for part in ("upper", "middle", "lower")]
        np.testing.assert_array_equal(np.any(zones, axis=0), lung)
        assert np.sum(zones, axis=0).max() == 1
        assert not (lung & found[f"{other} lung"]).any()
        x0, y0, x1, y1 = box_of(lung)
        angle = box_of(found[f"{side} costophrenic angle"])
        assert angle[3] > y1 - 0.05
        assert (angle[0] < x0 + 0.05) if side == "right" else (angle[2] > x1 - 0.05)
        assert box_of(found[f"{side} lung apex"])[1] == pytest.approx(y0)
        shoulder = box_of(found[f"{side} shoulder"])
        assert shoulder[0] < 0.3 if side == "right" else shoulder[2] > 0.7
    assert box_of(found["right lung"])[0] < box_of(found["left lung"])[0]
    assert box_of(found["upper abdomen"])[3] > 0.9
    assert box_of(found["trachea and neck"])[1] < 0.1


def test_regions_by_hand() -> None:
    found = find_anatomy(blank(**CHEST))

    assert box_of(found["right upper lung zone"]) == pytest.approx(
        (40 / 256, 40 / 256, 110 / 256, 93 / 256)
    )
    assert box_of(found["left costophrenic angle"])[2] == pytest.approx(219 / 256, abs=0.005)
    assert box_of(found["cardiac silhouette"]) == (100 / 256, 120 / 256, 180 / 256, 200 / 256)
    hilum = box_of(found["right hilum"])
    assert hilum[2] == pytest.approx(110 / 256)  # it borders on the mediastinum
    assert hilum[1] == pytest.approx(88 / 256)


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"heart": (100, 120, 102, 122)}, "cardiac silhouette"),
        ({"body": (0, 0, 256, 256)}, "outside the body"),
    ],
)
def test_what_is_not_there_is_not_guessed(change: dict, missing: str) -> None:
    found = find_anatomy(blank(**{**CHEST, **change}))

    assert missing not in found
    assert "left lung" in found


def ragged(film: Segmentation) -> Segmentation:
    rows = np.arange(SIDE) % 8 < 4
    film.likelihoods["left lung"][rows, 170:] = 0.0
    return film


@pytest.mark.parametrize(
    "film",
    [
        blank(**{**CHEST, "right_lung": CHEST["left_lung"], "left_lung": CHEST["right_lung"]}),
        blank(**{**CHEST, "right_lung": (0, 0, 0, 0)}),
        blank(**{**CHEST, "right_lung": (40, 40, 50, 60)}),  # a speck
        blank(**{**CHEST, "left_lung": (120, 0, 256, 256)}),  # half of the film
        ragged(blank(**CHEST)),
    ],
    ids=["wrong sides", "one lung", "a speck", "too large", "ragged"],
)
def test_without_two_lungs_in_their_places_nothing_is_found(film: Segmentation) -> None:
    assert find_anatomy(film) == {}


def test_a_heart_alone_is_no_chest() -> None:
    assert find_anatomy(blank(heart=(0, 0, 90, 90))) == {}


def test_holes_are_filled_and_strays_dropped() -> None:
    film = blank(**CHEST)
    film.likelihoods["right lung"][100:110, 60:70] = 0.0
    film.likelihoods["right lung"][230:240, 10:20] = 0.9
    found = find_anatomy(film)["right lung"]

    assert found[105, 65]
    assert not found[235, 15]


def test_a_model_without_an_outline_takes_all_of_the_film_for_body() -> None:
    found = find_anatomy(blank(**{name: box for name, box in CHEST.items() if name != "body"}))

    assert "outside the body" not in found
    assert box_of(found["upper abdomen"])[0] == 10 / 256


def test_a_plural_is_both_sides() -> None:
    assert anatomical_names("Hila") == ("right hilum", "left hilum")
    assert anatomical_names("left  hilum") == ("left hilum",)
    assert anatomical_names("liver") == ()
    assert set(PROPOSED) < set(ANATOMICAL_REGIONS)


@pytest.mark.parametrize("number", range(3))
def test_things_on_a_phantom_are_found_with_their_names(number: int) -> None:
    film = phantom(number)
    found, foreign, lines = find_artifacts(truth(film))

    for kind, *box in film.boxes:
        if kind in ("generator", "text"):
            height, width = film.pixels.shape
            near = [a for a in found if a.kind == kind]
            sides = np.array([width, height] * 2)
            assert min(np.abs(np.array(a.box) * sides - box).max() for a in near) < 4
    assert {a.kind for a in found} >= {"generator", "lead", "tube"}
    assert all(0.5 < a.score <= 1 for a in found)
    assert [a.score for a in found] == sorted((a.score for a in found), reverse=True)
    assert all(a.name == ARTIFACT_NAMES[a.kind] for a in found)
    assert foreign.sum() > lines.sum() > 0
    assert not (lines & ~foreign).any()


def test_a_long_line_is_cut_and_a_speck_is_none() -> None:
    film = blank(**CHEST)
    line = np.zeros((SIDE, SIDE), np.float32)
    for step in range(200):
        line[20 + step : 23 + step, 20 + step] = 0.8
    line[250:252, 5:8] = 0.8
    film.likelihoods["tube"] = line
    found, _, _ = find_artifacts(film)

    assert len(found) >= 2
    assert all(a.box[2] - a.box[0] <= 0.35 for a in found)
    together = np.array([a.box for a in found])
    assert together[:, 0].min() == pytest.approx(20 / 256)
    assert together[:, 2].max() == pytest.approx(220 / 256)


def test_borders_are_strips() -> None:
    film = blank(**CHEST)
    frame = np.ones((SIDE, SIDE), np.float32)
    frame[16:, 32:] = 0.0
    film.likelihoods["border"] = frame
    boxes = {a.box for a in find_artifacts(film)[0]}

    assert boxes == {(0.0, 0.0, 1.0, 16 / 256), (0.0, 0.0, 32 / 256, 1.0)}


def test_one_thing_is_not_of_two_kinds() -> None:
    film = blank(marker=(20, 20, 40, 40), text=(22, 20, 42, 40), metal=(100, 100, 120, 120))
    film.likelihoods["text"] *= 0.8
    kinds = [a.kind for a in find_artifacts(film)[0]]

    assert sorted(kinds) == ["marker", "metal"]


def test_places_and_what_a_box_holds() -> None:
    film = blank(**CHEST, generator=(180, 50, 210, 80))
    structures = FilmStructures(find_anatomy(film), *find_artifacts(film))

    assert structures.place((0.7, 0.2, 0.82, 0.3)) == "left upper lung zone"
    assert structures.place((0.45, 0.6, 0.6, 0.7)) == "cardiac silhouette"
    assert structures.place((0.0, 0.0, 0.03, 0.9)) == "outside the body"
    assert structures.artifacts_in((0.66, 0.17, 0.83, 0.33)) == ("pulse generator",)
    assert structures.artifacts_in((0.0, 0.0, 0.3, 0.3)) == ()
    assert structures.region(["lungs"]).sum() > structures.region(["left lung"]).sum()
    assert structures.region(["liver"]) is None
    assert NOTHING.place((0, 0, 1, 1)) == ""


FOREIGN = {"compact": (180, 50, 210, 80), "line": (40, 20, 44, 70)}


def foreign(**likely: float) -> Segmentation:
    """Return something compact and a line, of kinds that are so likely."""
    film = blank(**CHEST, **FOREIGN)
    for kind, value in likely.items():
        own = "line" if kind in ("tube", "wire") else "compact"
        film.likelihoods[kind] = film.likelihoods[own] / 0.9 * np.float32(value)
    names = {"generator": 0.6, "electrode": 0.6, "tube": 0.6, "wire": 0.6}
    return replace(film, found={"compact": 0.7, "line": 0.7}, names=names)


@pytest.mark.parametrize(
    ("likely", "names"),
    [
        ({"generator": 0.5, "tube": 0.3}, {"foreign object", "tube, line or wire"}),
        ({"generator": 0.7, "tube": 0.9}, {"pulse generator", "tube or line"}),
        ({"generator": 0.65, "electrode": 0.8, "wire": 0.7}, {"electrode", "wire"}),
    ],
)
def test_only_what_is_likely_enough_has_the_name_of_a_kind(
    likely: dict[str, float], names: set[str]
) -> None:
    artifacts, mask, lines = find_artifacts(foreign(**likely))

    assert {one.name for one in artifacts} == names
    assert mask.sum() == 30 * 30 + 4 * 50
    assert lines.sum() == 4 * 50


@pytest.mark.parametrize(
    ("least", "name"), [(0.8, "laterality marker"), (0.95, "marker or other foreign object")]
)
def test_letters_keep_their_kind_but_not_a_name_that_is_not_likely(least: float, name: str) -> None:
    film = replace(blank(marker=(20, 20, 40, 40)), names={"marker": least, "text": least})
    (found,), _, _ = find_artifacts(film)
    assert (found.kind, found.name) == ("marker", name)


def test_what_is_not_sure_enough_is_nothing() -> None:
    film = replace(foreign(generator=0.9), found={"compact": 0.95, "line": 0.95})
    assert find_artifacts(film)[0] == ()


def test_a_segmenter_of_ones_own_names_what_it_knows_and_nothing_is_found_twice() -> None:
    own = blank(generator=FOREIGN["compact"])
    joined = join_segmentations(own, foreign(electrode=0.9, tube=0.9))

    assert [(one.kind, one.score > 0.8) for one in find_artifacts(joined)[0]] == [
        ("generator", True),
        ("tube", True),
    ]
    lines = join_segmentations(blank(line=FOREIGN["line"]), foreign(electrode=0.9, tube=0.9))
    assert {one.kind for one in find_artifacts(lines)[0]} == {"line", "electrode"}


class Stated:
    """A segmenter that gives what it was given, turned as the film is."""

    structures = STRUCTURES
    digest = "0" * 64

    def __init__(self, film: Segmentation) -> None:
        self.film = film

    def segment(self, pixels: np.ndarray) -> Segmentation:
        turns = round(float(pixels[0, 0]) * 4)
        likely = {
            name: np.rot90(plane, -turns).copy() for name, plane in self.film.likelihoods.items()
        }
        return replace(self.film, likelihoods=likely)


MARKS = np.array([[0.0, 0.75], [0.25, 0.5]], np.float32)
"""A film whose first pixel says by how many quarters it is turned."""


def looked_at(turns: int = 0, left_edge: str = "", **change: tuple[int, int, int, int]):
    film = replace(foreign(generator=0.9), likelihoods={
        **foreign(generator=0.9).likelihoods, **blank(**change).likelihoods})  # fmt: skip
    pixels = np.ascontiguousarray(np.rot90(MARKS, -turns) if turns else MARKS)
    return read_structures(Stated(film), pixels, left_edge=left_edge)


def test_a_film_on_its_side_is_told_and_nothing_on_it_is_named() -> None:
    upright = looked_at()
    assert (upright.view, upright.sided) == ("frontal", True)
    assert {one.kind for one in upright.artifacts} == {"generator", "line"}
    turned = looked_at(1)
    assert (turned.view, dict(turned.anatomy)) == ("turned", {})
    assert {one.kind for one in turned.artifacts} == {"compact", "line"}
    lateral = looked_at(spine=(0, 0, 2, 2), heart=(100, 120, 110, 130))
    assert (lateral.view, dict(lateral.anatomy)) == ("lateral", {})


def test_sides_are_the_patients_where_they_are_stated_or_seen_else_the_pictures() -> None:
    mirrored = looked_at(heart=(80, 120, 140, 200))
    place = (0.7, 0.2, 0.82, 0.3)
    assert (mirrored.view, mirrored.sided) == ("mirrored", False)
    assert mirrored.place(place) == "upper lung zone at the right of the picture"
    assert mirrored.call("cardiac silhouette") == "cardiac silhouette"
    stated = looked_at(left_edge="R", heart=(80, 120, 140, 200))
    assert (stated.view, stated.place(place)) == ("frontal", "left upper lung zone")
    middle = looked_at(heart=(98, 120, 158, 200))
    assert (middle.view, middle.sided) == ("frontal", False)


def test_what_is_not_known_lies_nowhere() -> None:
    assert not blank(heart=(64, 0, 128, 256)).mask("lead").any()


def test_the_built_in_segmenter_finds_the_lungs_and_the_generator_of_a_phantom() -> None:
    shares, found = [], 0
    for number in range(6):
        film = phantom(number, ("generator", "text"))
        structures = read_structures(built_in_segmenter(), film.pixels)
        height, width = film.pixels.shape
        to_film = InputGeometry.of(height, width, SIDE, "squash").mask_to_stored
        seen = to_film(structures.region(["lungs"]))
        drawn = film.structures["right lung"] | film.structures["left lung"]
        shares.append(2 * (seen & drawn).sum() / (seen.sum() + drawn.sum()))
        found += any(a.kind == "generator" for a in structures.artifacts)
    assert min(shares) > 0.8
    assert found == 6


def test_on_a_mirrored_film_the_sides_are_those_of_the_patient() -> None:
    film = phantom(1, ("generator", "text"))
    segmenter = built_in_segmenter()
    seen = read_structures(segmenter, film.pixels)
    mirrored = read_structures(segmenter, film.pixels[:, ::-1], left_edge="L")

    assert (
        {"right lung", "left lung", "left shoulder"} <= set(seen.anatomy) == set(mirrored.anatomy)
    )
    for name, mask in seen.anatomy.items():
        np.testing.assert_array_equal(mirrored.anatomy[name], mask[:, ::-1])
    np.testing.assert_array_equal(mirrored.foreign, seen.foreign[:, ::-1])
    np.testing.assert_array_equal(mirrored.lines, seen.lines[:, ::-1])
    for one, other in zip(seen.artifacts, mirrored.artifacts, strict=True):
        x0, y0, x1, y1 = one.box
        assert (other.kind, other.box) == (one.kind, pytest.approx((1 - x1, y0, 1 - x0, y1)))
    # Where nobody says so, the left of the picture is taken for the patient's right.
    unsaid = read_structures(segmenter, film.pixels[:, ::-1].copy())
    assert box_of(unsaid.anatomy["right lung"])[0] < box_of(unsaid.anatomy["left lung"])[0]
    assert box_of(mirrored.anatomy["left lung"])[0] < box_of(mirrored.anatomy["right lung"])[0]


def test_a_film_that_is_no_chest_has_no_anatomy() -> None:
    rng = np.random.default_rng(0)
    noise = rng.random((300, 200), dtype=np.float32)

    assert "right lung" not in read_structures(built_in_segmenter(), noise).anatomy


def test_what_the_first_segmenter_does_not_know_the_second_finds() -> None:
    class Own:
        structures = ("right lung",)
        digest = "ab" * 32

        def segment(self, pixels):
            return blank(right_lung=CHEST["right_lung"])

    joint = JointSegmenter(Own(), built_in_segmenter())
    film = joint.segment(phantom().pixels)

    assert set(joint.structures) == set(built_in_segmenter().structures) <= set(STRUCTURES)
    assert joint.digest not in (Own.digest, built_in_segmenter().digest)
    assert set(film.likelihoods) == set(joint.structures)
    np.testing.assert_array_equal(
        film.mask("right lung"), blank(right_lung=CHEST["right_lung"]).mask("right lung")
    )
    assert isinstance(built_in_segmenter(), BuiltInSegmenter)


class Counting:
    """The built-in segmenter, and how often it was asked."""

    digest = "a" * 64

    def __init__(self) -> None:
        self.asked, self._inner = 0, built_in_segmenter()

    def segment(self, pixels: np.ndarray) -> Segmentation:
        self.asked += 1
        return self._inner.segment(pixels)

    def __getattr__(self, name: str):
        return getattr(self._inner, name)


def test_what_was_found_on_a_film_is_kept(tmp_path) -> None:
    segmenter, cache = Counting(), Cache(tmp_path)
    pixels = phantom().pixels.astype(np.float32)
    first = KeptStructures(segmenter, cache).read(pixels, left_edge="R")
    asked = segmenter.asked
    again = KeptStructures(segmenter, cache).read(pixels, left_edge="R")
    assert segmenter.asked == asked > 0
    assert first.artifacts
    assert first.anatomy
    assert [vars_of(one) for one in again.artifacts] == [vars_of(one) for one in first.artifacts]
    assert list(again.anatomy) == list(first.anatomy)
    for name, mask in first.anatomy.items():
        np.testing.assert_array_equal(again.anatomy[name], mask)
    for name in ("foreign", "lines", "picture"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    assert (again.view, again.sided) == (first.view, first.sided)

    (kept,) = (tmp_path / "structures").iterdir()
    assert kept.stat().st_size < 60_000
    content = kept.read_bytes()
    for damaged in (content[:-1], content[:40] + b"0" + content[41:], b""):
        kept.write_bytes(damaged)
        assert KeptStructures(segmenter, cache).read(pixels, left_edge="R").view == first.view
        assert segmenter.asked > asked
        asked = segmenter.asked
        assert kept.read_bytes() == content
    for changed in ({"left_edge": ""}, {}):
        KeptStructures(segmenter, cache).read(pixels * 0.99, **changed)
    assert len(list((tmp_path / "structures").iterdir())) == 2


def vars_of(artifact) -> tuple:
    return artifact.kind, artifact.score, tuple(artifact.box), dict(artifact.likely), artifact.sure
