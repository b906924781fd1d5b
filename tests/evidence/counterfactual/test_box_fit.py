"""Boxes grown or shrunk to where the removal effect lies."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.counterfactual.fills import LikePlaces
from ravl_med.evidence.counterfactual.localisation import fit_boxes, most_fit_pictures
from ravl_med.evidence.counterfactual.model_inputs import Margins, ModelInputs
from ravl_med.regions.geometry import InputGeometry

SIZE = 48
DEVICE = (16, 20, 28, 30)  # xyxy in input pixels
SCALE = 4  # the stored film is so many times larger than the input


def iou(a: NDArray[np.float32], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return float(both / (sum(areas) - both))


def inputs_of(
    boxes: list[tuple[float, ...]],
    margin: Callable[[float], float] = lambda light: light,
    plain: int = 0,
) -> tuple[ModelInputs, list[int]]:
    """One film for each box, a bright device on all of them; the model adds up its light.

    Plain films have no device; without any, or with few, places are interpolated.
    """
    rng = np.random.default_rng(0)
    films = []
    for film in rng.normal(0.0, 0.01, size=(len(boxes) + plain, 3, SIZE, SIZE)):
        if len(films) < len(boxes):
            film[:, DEVICE[1] : DEVICE[3], DEVICE[0] : DEVICE[2]] += 1.0
        films.append(film.astype(np.float32))
    asked: list[int] = []

    def answer(pictures: Iterable[NDArray[np.float32]]) -> Margins:
        light = [p[0, DEVICE[1] : DEVICE[3], DEVICE[0] : DEVICE[2]].sum() / 10 for p in pictures]
        return Margins(np.array([margin(seen) for seen in light]), np.ones(len(light), np.bool_))

    def ask(pictures: Iterable[NDArray[np.float32]]) -> Margins:
        told = answer(pictures)
        asked.append(len(told.margin))
        return told

    def untouched(which: NDArray[np.int64]) -> Margins:
        return answer(films[film] for film in which)

    labels = np.zeros(len(films), np.int64)
    images = AuditData(
        classes=("a", "b"),
        labels=labels,
        predictions=labels,
        patients=np.arange(len(films)),
        sizes=np.full((len(films), 2), SIZE * SCALE),
        region_image=np.arange(len(boxes)),
        region_boxes=np.array(boxes, np.float32) * SCALE,
    )
    geometry = InputGeometry.of(SIZE * SCALE, SIZE * SCALE, SIZE, "squash")
    frames = np.tile(np.array([0, 0, SIZE, SIZE], np.float32), (len(films), 1))
    like = LikePlaces(films.__getitem__, images.patients, frames, 0)
    inputs = ModelInputs(
        images, films.__getitem__, lambda h, w: geometry, ask, untouched, like, lambda n: None
    )
    return inputs, asked


def fit(
    inputs: ModelInputs, boxes: list[tuple[float, ...]], films: tuple[int, ...] = (0,)
) -> NDArray[np.float32]:
    stored = np.array(boxes, np.float32).reshape(-1, 4) * SCALE
    return fit_boxes(inputs, np.array(films, np.int64), stored, SIZE)


@pytest.mark.parametrize("plain", [0, 12])
@pytest.mark.parametrize(
    "region",
    [
        (8, 12, 40, 40),  # far too large: it shrinks
        (10, 14, 34, 36),  # too large
        (20, 18, 36, 34),  # a tile that cuts the device: one side grows, the others shrink
        (16, 12, 28, 24),  # holds a part of it
    ],
)
def test_a_box_finds_the_device(region: tuple[float, ...], plain: int) -> None:
    inputs, _ = inputs_of([region], plain=plain)

    (fitted,) = fit(inputs, [region])

    fitted = fitted / SCALE  # it is told in stored pixels
    assert iou(fitted, DEVICE) > max(iou(np.array(region), DEVICE) + 0.15, 0.6)


def test_a_box_crosses_what_looks_like_the_feature_when_it_is_half_filled() -> None:
    """With half of the light the margin is higher than with two thirds."""

    def margin(light: float) -> float:
        return float(np.interp(light, [0, 6, 8, 12], [0, 8.4, 4.8, 12]))

    region = (24, 20, 36, 30)
    inputs, _ = inputs_of([region], margin)

    (fitted,) = fit(inputs, [region])

    assert iou(np.array(region), DEVICE) < 0.25
    assert iou(fitted / SCALE, DEVICE) > 0.6


def test_a_box_that_fits_stays_as_it_is() -> None:
    inputs, asked = inputs_of([DEVICE])

    (fitted,) = fit(inputs, [DEVICE])

    assert (fitted / SCALE).tolist() == list(DEVICE)
    assert len(asked) == 1 + 2 * 2  # a quarter, then an eighth: nothing raises the score


def test_boxes_are_fitted_each_by_itself_and_within_the_budget() -> None:
    regions: list[tuple[float, ...]] = [(8, 12, 40, 40), DEVICE, (20, 18, 36, 34)]
    inputs, asked = inputs_of(regions)

    together = fit(inputs, [regions[f] for f in (2, 0, 1)], (2, 0, 1))

    assert sum(asked) <= most_fit_pictures(3)
    for place, region in enumerate((2, 0, 1)):
        alone, _ = inputs_of(regions)
        own = fit(alone, [regions[region]], (region,))
        assert own.tolist() == [together[place].tolist()]


def test_no_region_is_no_box() -> None:
    inputs, asked = inputs_of([DEVICE])

    assert fit(inputs, [], ()).shape == (0, 4)
    assert sum(asked) == most_fit_pictures(0) == 0


def test_a_box_stays_on_the_film() -> None:
    inputs, _ = inputs_of([(0, 0, 47, 48)])

    (fitted,) = fit(inputs, [(0, 0, 47, 48)])

    assert (fitted >= 0).all()
    assert (fitted <= SIZE * SCALE).all()
