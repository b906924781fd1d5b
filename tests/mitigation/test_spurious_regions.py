"""Where a feature lies in films that took no part in the audit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ravl_med.discovery.candidates import FeatureDetector
from ravl_med.discovery.ravl import AuditData
from ravl_med.errors import ConfigError
from ravl_med.evidence.counterfactual.fills import Interpolation
from ravl_med.evidence.counterfactual.model_inputs import Margins, ModelInputs
from ravl_med.evidence.results import ConfirmedFeature
from ravl_med.mitigation.spurious_regions import (
    TrimmingRule,
    carriers_in,
    choose_features,
    films_to_explore,
    find_features,
    locate_carriers,
    move_shares,
    regions_by_film,
    settle_rule,
)
from ravl_med.regions.geometry import InputGeometry
from ravl_med.regions.region_set import cut_tiles

SIDE = 32
TILES = cut_tiles(SIDE, SIDE, 4, 4)
EXPLORED = 8  # films on which a rule is settled
STAY = np.zeros((1, 2))


def pictures(count: int) -> NDArray[np.float32]:
    """Films with a bright square in the first tile, but for every third; noise elsewhere."""
    rng = np.random.default_rng(0)
    films = rng.normal(0, 0.05, (count, 3, SIDE, SIDE)).astype(np.float32)
    films[np.arange(count) % 3 != 0, :, 1:7, 1:7] += 4
    return films


def inputs(
    films: NDArray[np.float32],
    place: tuple[int, int, int, int] = (0, 0, 8, 8),
    margin: Callable[[NDArray[np.float64]], NDArray[np.float64]] = lambda light: light,
    asked: list[int] | None = None,
) -> ModelInputs:
    """A model whose margin is how bright a place is, xyxy: that of the first tile, or another.

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
    x0, y0, x1, y1 = place

    def answer(shown: Iterable[NDArray[np.float32]]) -> Margins:
        light = np.array([picture[:, y0:y1, x0:x1].mean() for picture in shown], np.float64)
        return Margins(margin(light), margin(light) > 0)

    def ask(shown: Iterable[NDArray[np.float32]]) -> Margins:
        told = answer(shown)
        if asked is not None:
            asked.append(len(told.margin))
        return told

    return ModelInputs(
        images,
        lambda film: films[film],
        lambda height, width: InputGeometry.of(height, width, SIDE, "squash"),
        ask,
        lambda which: answer(films[film] for film in which),
        Interpolation(lambda film: films[film]),
        lambda count: None,
    )


def found_in(films: int, tiles: dict[int, list[int]]) -> NDArray[np.bool_]:
    """Regions of a feature: tiles by film."""
    found = np.zeros(films * len(TILES), dtype=bool)
    for film, own in tiles.items():
        found[film * len(TILES) + np.array(own)] = True
    return found


def test_regions_go_to_their_features() -> None:
    regions = np.eye(3, dtype=np.float32)[[0, 2, 1, 0]]
    first, second = (FeatureDetector(np.eye(3, dtype=np.float32), n, 0, 1) for n in (0, 2))
    placed = FeatureDetector(np.array([[0, 0, 0, 0, 0], [0, 0, 0, 1, -2]], np.float32), 1, 0, 1, 0)
    found = find_features(
        [first, second, placed], regions, np.zeros((4, 4)), lambda rows: rows[:, None] * 1.0
    )
    assert found[:, 0].tolist() == [True, False, False, True]
    assert found[:, 1].tolist() == [False, True, False, False]
    assert found[:, 2].tolist() == [False, False, False, True]  # its texture is above 2
    assert find_features([], regions, np.zeros((4, 4)), np.empty_like).shape == (4, 0)


class TestMoves:
    def test_boxes_are_moved_by_hand(self) -> None:
        boxes = np.array([[0.25, 0.5, 0.5, 0.75], [0.5, 0.0, 1.0, 0.25]])

        moved = move_shares(boxes, np.array([[0, 0], [0.5, -0.5]]))

        assert moved[:2].tolist() == boxes.tolist()
        assert moved[2].tolist() == [0.375, 0.375, 0.625, 0.625]
        assert moved[3].tolist() == [0.5, 0.0, 1.0, 0.25]  # it does not leave the film

    def test_a_box_as_large_as_the_film_cannot_move(self) -> None:
        whole = np.array([[0.0, 0.0, 1.0, 1.0]])
        shifts = np.array([[0.5, 0.5], [-0.5, 0.5]])
        assert (move_shares(whole, shifts) == whole).all()


def lit(
    films: int, device: tuple[int, int, int, int], signal: float = 1.0, level: float = 0.0
) -> tuple[ModelInputs, dict[int, NDArray[np.int64]], list[int]]:
    """Films with a bright device; one region each, the tile from 8 to 16; the model sees light.

    The light counts from half of the device on only, as with a detector of whole devices. `level`
    is by how much the margin of a film differs from that of the one before.
    """
    rng = np.random.default_rng(0)
    x0, y0, x1, y1 = device
    shown = rng.normal(0.0, 0.01, size=(films, 3, SIDE, SIDE)).astype(np.float32)
    shown[:, :, y0:y1, x0:x1] += 1.0
    asked: list[int] = []
    model = inputs(shown, device, lambda light: signal * np.minimum(light, 0.5), asked)
    if level:
        shown[:, :, -1, -1] = level * np.arange(films)[:, None]  # a pixel that no fill covers
        quiet = model.margins

        def loud(stream: Iterable[NDArray[np.float32]]) -> Margins:
            seen = list(stream)
            told = quiet(seen)
            own = np.array([picture[0, -1, -1] for picture in seen])
            return Margins(told.margin + own, told.decided)

        model = replace(
            model, margins=loud, untouched=lambda which: loud(shown[film] for film in which)
        )
    return model, {film: np.array([16 * film + 5]) for film in range(films)}, asked


class TestRule:
    @pytest.mark.parametrize(
        ("device", "shift"),
        [((13, 9, 19, 15), (0.5, 0)), ((9, 5, 15, 11), (0, -0.5)), ((13, 13, 19, 19), (0.5, 0.5))],
    )
    def test_a_device_that_is_cut_is_reached_by_a_shift(
        self, device: tuple[int, int, int, int], shift: tuple[float, float]
    ) -> None:
        model, regions, _ = lit(5, device)

        rule = settle_rule(model, list(regions), regions)

        assert rule.shifts.tolist() == [[0, 0], list(shift)]

    def test_a_device_inside_its_tile_needs_no_shift(self) -> None:
        model, regions, asked = lit(20, (9, 9, 15, 15))

        assert settle_rule(model, list(regions), regions).shifts.tolist() == [[0, 0]]
        assert sum(asked) == EXPLORED * 9  # nine places, and no more films

    def test_what_has_no_effect_anywhere_is_not_moved(self) -> None:
        for model, regions, _ in (
            lit(5, (24, 24, 30, 30)),
            lit(5, (13, 9, 19, 15), signal=-1.0),  # it speaks against the class
        ):
            rule = settle_rule(model, list(regions), regions)
            assert rule.shifts.tolist() == [[0, 0]]
            assert rule.threshold == pytest.approx(0.0, abs=1e-6)

    def test_without_a_film_nothing_is_moved(self) -> None:
        model, regions, asked = lit(1, (13, 9, 19, 15))

        rule = settle_rule(model, [], regions)

        assert (rule.shifts.tolist(), rule.threshold) == ([[0, 0]], 0.0)
        assert asked == []

    def test_what_does_not_matter_moves_nothing(self) -> None:
        """A device that is cut, on films whose margins differ far more than it could move them."""
        quiet, regions, _ = lit(5, (13, 9, 19, 15))
        loud, _, _ = lit(5, (13, 9, 19, 15), level=3.0)

        assert len(settle_rule(quiet, list(regions), regions).shifts) == 2
        assert len(settle_rule(loud, list(regions), regions).shifts) == 1

    def test_a_region_carries_the_feature_from_half_of_the_usual_largest_effect(self) -> None:
        """Squares of three strengths, and a second region that holds nothing."""
        films = np.zeros((3, 3, SIDE, SIDE), np.float32)
        films[:, :, 1:7, 1:7] = np.array([8.0, 4.0, 1.0])[:, None, None, None]
        regions = {film: 16 * film + np.array([0, 10]) for film in range(3)}

        rule = settle_rule(inputs(films), [0, 1, 2], regions)

        assert rule.shifts.tolist() == [[0, 0]]
        share = 36 / 64  # of the tile that a square fills
        assert rule.threshold == pytest.approx(0.5 * 4.0 * share)

    def test_the_films_are_spread_over_all(self) -> None:
        assert films_to_explore(list(range(0, 100, 2))) == [0, 14, 28, 42, 56, 70, 84, 98]
        assert films_to_explore([4, 9]) == [4, 9]
        assert films_to_explore([]) == []


def test_regions_are_grouped_by_film() -> None:
    grouped = regions_by_film(found_in(3, {0: [1, 3], 2: [0]}), np.repeat(np.arange(3), 16))

    assert {film: own.tolist() for film, own in grouped.items()} == {0: [1, 3], 2: [32]}
    assert regions_by_film(found_in(3, {}), np.repeat(np.arange(3), 16)) == {}


def test_removal_tells_the_square_from_its_neighbours() -> None:
    films = pictures(9)
    # The detector also takes the tile beside the square and one far away, as receptive fields do.
    found = found_in(9, {film: [0, 1, 10] for film in range(9) if film % 3})
    told: list[tuple[int, int]] = []
    film, boxes = locate_carriers(
        inputs(films), found, lambda done, total: told.append((done, total))
    )
    assert film.tolist() == [1, 2, 4, 5, 7, 8]
    assert boxes == pytest.approx(np.tile(TILES[0], (6, 1)))
    assert told[-1] == (6, 6)


def test_a_film_without_a_region_above_the_threshold_gives_its_best_one() -> None:
    regions = regions_by_film(found_in(3, {1: [0, 10]}), np.repeat(np.arange(3), 16))
    film, boxes = carriers_in(inputs(pictures(3)), regions, TrimmingRule(STAY, 1000.0))
    assert film.tolist() == [1]
    assert boxes == pytest.approx(TILES[:1])


def test_the_threshold_decides_and_what_lies_on_it_is_enough() -> None:
    films = pictures(2)
    regions = {1: 16 + np.array([0, 1])}
    model = inputs(films, (0, 0, 16, 8))  # both tiles hold up the margin
    films[1, :, 1:7, 9:15] += 2
    (effects,) = ([settle_rule(model, [1], {1: own[None]}).threshold * 2 for own in regions[1]],)

    for threshold, carrying in ((effects[1] - 1e-6, 2), (effects[1] + 1e-3, 1)):
        film, _ = carriers_in(model, regions, TrimmingRule(STAY, threshold))
        assert film.tolist() == [1] * carrying


def test_nothing_found_is_nothing_located() -> None:
    film, boxes = locate_carriers(inputs(pictures(3)), found_in(3, {}))
    assert len(film) == 0
    assert boxes.shape == (0, 4)


def test_a_square_between_two_tiles_is_located_half_a_step_aside() -> None:
    films = np.roll(pictures(6), 4, axis=3)  # half a tile to the right
    found = found_in(6, {film: [0] for film in (1, 2, 4, 5)})
    film, boxes = locate_carriers(inputs(films, (4, 0, 12, 8)), found)
    assert film.tolist() == [1, 2, 4, 5]
    assert boxes == pytest.approx(np.tile([4, 0, 12, 8], (4, 1)))


def test_many_films_go_in_parts() -> None:
    rows = np.flatnonzero(np.arange(102) % 3)
    found = found_in(102, {int(film): [0, 5] for film in rows})  # the second has no effect at all
    told: list[tuple[int, int]] = []
    film, boxes = locate_carriers(
        inputs(pictures(102)), found, lambda done, total: told.append((done, total))
    )
    assert film.tolist() == rows.tolist()
    assert boxes == pytest.approx(np.tile(TILES[0], (68, 1)))
    assert told == [(64, 68), (68, 68)]


def test_what_was_not_confirmed_is_mitigated_by_force_alone() -> None:
    detector = FeatureDetector(np.eye(3, dtype=np.float32), 0, 0, 1)
    shortcut = ConfirmedFeature(1, "shortcut", True, detector)
    other = ConfirmedFeature(2, "undecided", False, detector, confirmed=False)
    assert choose_features([shortcut, other], ()) == (shortcut,)
    assert choose_features([shortcut, other], (2,)) == (shortcut, other)
    with pytest.raises(ConfigError, match=r"names rank 3; expected ranks .*: 1, 2"):
        choose_features([shortcut, other], (3,))
