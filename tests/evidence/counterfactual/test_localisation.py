"""Half-steps around a region, for a device that the grid cuts in two."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.counterfactual.localisation import EXPLORED_FILMS, choose_shifts
from ravl_med.evidence.counterfactual.model_inputs import SHIFTS, Margins, ModelInputs, move_shares
from ravl_med.regions.geometry import InputGeometry

SIZE = 32
SIDE = 8


def test_shifts_are_half_steps_in_every_direction() -> None:
    assert SHIFTS[0].tolist() == [0, 0]
    assert len({tuple(shift) for shift in SHIFTS.tolist()}) == len(SHIFTS) == 9
    assert np.unique(SHIFTS).tolist() == [-0.5, 0, 0.5]


def test_boxes_are_moved_by_hand() -> None:
    boxes = np.array([[0.25, 0.5, 0.5, 0.75], [0.5, 0.0, 1.0, 0.25]])

    moved = move_shares(boxes, np.array([[0, 0], [0.5, -0.5]]))

    assert moved[:2].tolist() == boxes.tolist()
    assert moved[2].tolist() == [0.375, 0.375, 0.625, 0.625]
    assert moved[3].tolist() == [0.5, 0.0, 1.0, 0.25]  # it does not leave the film


def test_a_box_as_large_as_the_film_cannot_move() -> None:
    whole = np.array([[0.0, 0.0, 1.0, 1.0]])
    assert (move_shares(whole, SHIFTS) == whole).all()


def inputs_of(
    films: int, device: tuple[int, int, int, int], signal: float = 1.0
) -> tuple[ModelInputs, dict[int, NDArray[np.int64]], list[int]]:
    """Films with a bright device; one region each, the tile from 8 to 16; the model sees light.

    The light counts from half of the device on only, as with a detector of whole devices.
    """
    rng = np.random.default_rng(0)
    x0, y0, x1, y1 = device
    pictures = []
    for _ in range(films):
        picture = rng.normal(0.0, 0.01, size=(3, SIZE, SIZE)).astype(np.float32)
        picture[:, y0:y1, x0:x1] += 1.0
        pictures.append(picture)
    asked: list[int] = []

    def ask(stream: Iterable[NDArray[np.float32]]) -> Margins:
        light = np.array([float(p[0, y0:y1, x0:x1].mean()) for p in stream])
        asked.append(len(light))
        margin = signal * np.minimum(light, 0.5)
        return Margins(margin, margin > 0.25)

    labels = np.zeros(films, np.int64)
    images = AuditData(
        classes=("a", "b"),
        labels=labels,
        predictions=labels,
        patients=np.arange(films),
        sizes=np.full((films, 2), SIZE),
        region_image=np.arange(films),
        region_boxes=np.tile(np.array([[8, 8, 8 + SIDE, 8 + SIDE]], np.float32), (films, 1)),
    )
    geometry = InputGeometry.of(SIZE, SIZE, SIZE, "squash")
    inputs = ModelInputs(images, pictures.__getitem__, lambda h, w: geometry, ask, lambda n: None)
    return inputs, {film: np.array([film]) for film in range(films)}, asked


@pytest.mark.parametrize(
    ("device", "shift"),
    [((13, 9, 19, 15), (0.5, 0)), ((9, 5, 15, 11), (0, -0.5)), ((13, 13, 19, 19), (0.5, 0.5))],
)
def test_a_device_that_is_cut_is_reached_by_a_shift(
    device: tuple[int, int, int, int], shift: tuple[float, float]
) -> None:
    inputs, regions, _ = inputs_of(5, device)

    shifts = choose_shifts(inputs, list(regions), regions)

    assert shifts.tolist() == [[0, 0], list(shift)]


def test_a_device_inside_its_tile_needs_no_shift() -> None:
    inputs, regions, asked = inputs_of(20, (9, 9, 15, 15))

    assert choose_shifts(inputs, list(regions), regions).tolist() == [[0, 0]]
    assert sum(asked) == EXPLORED_FILMS * (1 + 2 * len(SHIFTS))  # and no more films


def test_what_has_no_effect_anywhere_is_not_moved() -> None:
    inputs, regions, _ = inputs_of(5, (24, 24, 30, 30))
    assert choose_shifts(inputs, list(regions), regions).tolist() == [[0, 0]]
    against, regions, _ = inputs_of(5, (13, 9, 19, 15), signal=-1.0)
    assert choose_shifts(against, list(regions), regions).tolist() == [[0, 0]]


def test_without_a_film_nothing_is_moved() -> None:
    inputs, regions, asked = inputs_of(1, (13, 9, 19, 15))
    assert choose_shifts(inputs, [], regions).tolist() == [[0, 0]]
    assert asked == []


def test_what_does_not_matter_moves_nothing() -> None:
    """A device that is cut, on films whose margins differ far more than it could move them."""
    inputs, regions, _ = inputs_of(5, (13, 9, 19, 15))
    quiet = inputs.margins

    def loud(stream: Iterable[NDArray[np.float32]]) -> Margins:
        told = quiet(stream)
        # One film after the other: its own picture, then nine places with two fills each.
        level = np.repeat(np.arange(5) * 3.0, 1 + 2 * len(SHIFTS))
        return Margins(told.margin + level, told.decided)

    assert len(choose_shifts(inputs, list(regions), regions)) == 2
    assert len(choose_shifts(replace(inputs, margins=loud), list(regions), regions)) == 1
