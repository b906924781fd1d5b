"""Where a feature lies in films that took no part in the audit."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from ravl_med.discovery.candidates import FeatureDetector
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.counterfactual.model_inputs import Margins, ModelInputs
from ravl_med.mitigation.spurious_regions import find_features, locate_carriers
from ravl_med.regions.geometry import InputGeometry
from ravl_med.regions.region_set import cut_tiles

SIDE = 32
TILES = cut_tiles(SIDE, SIDE, 4, 4)


def pictures(count: int) -> NDArray[np.float32]:
    """Films with a bright square in the first tile, but for every third; noise elsewhere."""
    rng = np.random.default_rng(0)
    films = rng.normal(0, 0.05, (count, 3, SIDE, SIDE)).astype(np.float32)
    films[np.arange(count) % 3 != 0, :, 1:7, 1:7] += 4
    return films


def inputs(films: NDArray[np.float32], left: int = 0) -> ModelInputs:
    """A model whose margin is how bright a square is: that of the first tile, or more to the right.

    It is that bright everywhere around, where nothing is planted.
    """
    count = len(films)
    images = AuditData(
        classes=("a", "b"),
        labels=np.zeros(count, np.int64),
        predictions=np.zeros(count, np.int64),
        patients=np.arange(count),
        sizes=np.full((count, 2), SIDE),
        region_image=np.repeat(np.arange(count), len(TILES)),
        region_boxes=np.tile(TILES, (count, 1)),
    )

    def ask(shown: Iterable[NDArray[np.float32]]) -> Margins:
        margin = np.array(
            [picture[:, :8, left : left + 8].mean() for picture in shown], dtype=np.float64
        )
        return Margins(margin, margin > 0)

    return ModelInputs(
        images,
        lambda film: films[film],
        lambda height, width: InputGeometry.of(height, width, SIDE, "squash"),
        ask,
        lambda count: None,
    )


def detector(threshold: float) -> FeatureDetector:
    return FeatureDetector(np.eye(3, dtype=np.float32), 0, 0, 1, threshold)


def test_regions_go_to_their_features() -> None:
    regions = np.eye(3, dtype=np.float32)[[0, 2, 1, 0]]
    second = FeatureDetector(np.eye(3, dtype=np.float32), 2, 0, 1, 0.0)
    found = find_features([detector(0.0), second], regions)
    assert found.tolist() == [[True, False], [False, True], [False, False], [True, False]]
    assert find_features([], regions).shape == (4, 0)


def test_removal_tells_the_square_from_its_neighbours() -> None:
    films = pictures(9)
    stand = inputs(films)
    # The detector also takes the tile beside the square and one far away, as receptive fields do.
    found = np.zeros(9 * len(TILES), dtype=bool)
    for film in range(9):
        if film % 3:
            found[film * len(TILES) + np.array([0, 1, 10])] = True
    told: list[tuple[int, int]] = []
    film, boxes = locate_carriers(
        stand, detector(1.0), found, lambda done, total: told.append((done, total))
    )
    assert film.tolist() == [1, 2, 4, 5, 7, 8]
    assert boxes == pytest.approx(np.tile(TILES[0], (6, 1)))
    assert told[-1] == (6, 6)


def test_a_film_without_a_region_above_the_threshold_gives_its_best_one() -> None:
    films = pictures(3)
    found = np.zeros(3 * len(TILES), dtype=bool)
    found[len(TILES) + np.array([0, 10])] = True
    film, boxes = locate_carriers(inputs(films), detector(1000.0), found)
    assert film.tolist() == [1]
    assert boxes == pytest.approx(TILES[:1])


def test_nothing_found_is_nothing_located() -> None:
    films = pictures(3)
    film, boxes = locate_carriers(inputs(films), detector(1.0), np.zeros(3 * len(TILES), bool))
    assert len(film) == 0
    assert boxes.shape == (0, 4)


def test_a_square_between_two_tiles_is_located_half_a_step_aside() -> None:
    films = pictures(6)
    films = np.roll(films, 4, axis=3)  # half a tile to the right
    found = np.zeros(6 * len(TILES), dtype=bool)
    for film in (1, 2, 4, 5):
        found[film * len(TILES)] = True
    film, boxes = locate_carriers(inputs(films, left=4), detector(1.0), found)
    assert film.tolist() == [1, 2, 4, 5]
    assert boxes == pytest.approx(np.tile([4, 0, 12, 8], (4, 1)))


def test_many_films_go_in_parts_and_the_threshold_counts_as_enough() -> None:
    films = pictures(102)
    found = np.zeros(102 * len(TILES), dtype=bool)
    rows = np.flatnonzero(np.arange(102) % 3)
    for film in rows:
        found[film * len(TILES) + np.array([0, 5])] = True  # the second one has no effect at all
    told: list[tuple[int, int]] = []
    film, boxes = locate_carriers(
        inputs(films), detector(0.0), found, lambda done, total: told.append((done, total))
    )
    assert film.tolist() == rows.tolist()
    assert boxes == pytest.approx(np.tile(TILES[0], (68, 1)))
    assert told == [(64, 68), (68, 68)]
