"""Effect maps: where they look, what they find, and what grows out of it."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.candidates import ANYWHERE, FeatureCluster, FeatureDetector, places_of
from ravl_med.discovery.effect_features import (
    EffectFeature,
    RegionEffects,
    measure_effect_feature,
    propose_at_places,
    propose_from_effects,
    propose_from_margins,
)
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.counterfactual.effect_maps import (
    EffectMaps,
    Exploration,
    effects_over,
    explore_feature,
    map_effects,
    most_map_pictures,
    region_effects,
    sample_for_maps,
    window_side,
)
from ravl_med.evidence.counterfactual.fills import LikePlaces, fill_interpolated
from ravl_med.evidence.counterfactual.interventions import window_worth
from ravl_med.evidence.counterfactual.model_inputs import Margins, ModelInputs
from ravl_med.evidence.model_checks import class_scores
from ravl_med.regions.geometry import InputGeometry
from ravl_med.regions.region_set import slide_windows

SIDE = 64
PLACE = np.s_[40:48, 8:16]  # rows and columns of a bright square


def films_with(square: np.ndarray) -> np.ndarray:
    """Noisy films (n, 3, SIDE, SIDE), some of them with a bright square at one place."""
    films = np.random.default_rng(0).normal(0, 0.05, (len(square), 1, SIDE, SIDE))
    films[np.flatnonzero(square), 0, PLACE[0], PLACE[1]] += 4.0
    return np.repeat(films, 3, axis=1).astype(np.float32)


def ask(pictures) -> np.ndarray:
    """Logits of three classes: the mean of the place raises the second; the third is constant."""
    seen = np.array([picture[0][PLACE].mean() for picture in pictures])
    return np.stack([-seen, seen, np.ones_like(seen)], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def maps() -> EffectMaps:
    films = films_with(np.arange(24) < 8)
    return map_effects(films.__getitem__, like_places(films).fill, ask, np.arange(24), SIDE)


def like_places(
    films: NDArray[np.float32], patients: NDArray[np.int64] | None = None
) -> LikePlaces:
    """What fills places of films, each of a patient of its own unless they are given."""
    frames = np.tile(np.array([0, 0, SIDE, SIDE], np.float32), (len(films), 1))
    whose = np.arange(len(films)) if patients is None else patients
    return LikePlaces(films.__getitem__, whose, frames, 0)


def inputs_of(data: AuditData, pictures: NDArray[np.float32] | None = None) -> ModelInputs:
    """The films of a task, for a model whose margin is the second class against the first."""
    geometry = InputGeometry.of(SIDE, SIDE, SIDE, "squash")

    def margins(stream: Iterable[NDArray[np.float32]]) -> Margins:
        logits = ask(stream)
        return Margins(logits[:, 1] - logits[:, 0], logits.argmax(axis=1) == 1)

    films = (
        np.zeros((len(data.labels), 3, SIDE, SIDE), np.float32) if pictures is None else pictures
    )
    return ModelInputs(
        data,
        lambda film: films[film],
        lambda height, width: geometry,
        margins,
        lambda which: margins(films[which]),
        like_places(films, data.patients),
        lambda count: None,
    )


def data_of(labels, predictions, patients=None, regions=1) -> AuditData:
    films = len(labels)
    scores = np.eye(3)[np.asarray(predictions)]
    return AuditData(
        classes=("a", "b", "c"),
        labels=np.asarray(labels),
        predictions=np.asarray(predictions),
        patients=np.arange(films) if patients is None else np.asarray(patients),
        sizes=np.full((films, 2), SIDE),
        region_image=np.repeat(np.arange(films), regions),
        region_boxes=np.tile(slide_windows(SIDE, SIDE, 0.25, 0.5)[::2][:regions], (films, 1)),
        image_scores=scores,
        region_scores=np.repeat(scores, regions, axis=0),
    )


def test_the_largest_drop_lies_on_what_the_model_looks_at(maps: EffectMaps) -> None:
    drops = maps.drops()[:, :, 1]
    for film in range(8):
        x0, y0, x1, y1 = maps.windows[np.nanargmax(drops[film])]
        assert x0 <= 8
        assert x1 >= 16
        assert y0 <= 40
        assert y1 >= 48
    assert np.nanmax(drops[:8], axis=1).min() > 1.0
    assert np.nanmax(drops[8:], axis=1).max() < 0.2


def test_finer_windows_are_looked_at_where_something_moved(maps: EffectMaps) -> None:
    fine = maps.windows[:, 2] - maps.windows[:, 0] < SIDE / 4
    looked = np.isfinite(maps.change[:, :, 0])

    assert looked[:, ~fine].all()
    assert (looked[:, fine].sum(axis=1) == 9).all()  # all that lie in one coarse window
    inside = (maps.windows[:, 0] == 8) & (maps.windows[:, 1] == 40) & fine
    assert looked[:8, inside].all()


def test_a_drop_is_that_of_the_margin_less_what_is_usual_at_the_place(maps: EffectMaps) -> None:
    window, before = 30, class_scores(maps.logits, 1.0)[:, 0]
    after = class_scores(maps.logits - maps.change[:, window], 1.0)[:, 0]
    drop = (before - after) / before.std()

    np.testing.assert_allclose(maps.drops()[:, window, 0], drop - np.median(drop), atol=1e-9)


def test_maps_equal_a_naive_loop_film_by_film() -> None:
    """More films than are asked about at once."""
    films = films_with(np.arange(18) % 3 == 0)
    wanted = np.array([17, 3, 4, *range(5, 17), 0, 1, 2])

    like = like_places(films)

    maps = map_effects(films.__getitem__, like.fill, ask, wanted, SIDE)

    np.testing.assert_array_equal(maps.films, wanted)
    assert maps.coarse == 49
    np.testing.assert_array_equal(maps.windows[:49], slide_windows(SIDE, SIDE, 1 / 4, 0.5))
    np.testing.assert_array_equal(maps.windows[49:], slide_windows(SIDE, SIDE, 1 / 8, 0.5))
    for row, film in enumerate(wanted):
        before = ask([films[film]])[0]
        change = before - ask([like.fill(film, box) for box in maps.windows])
        alone = before - ask([fill_interpolated(films[film], box) for box in maps.windows])
        assert np.abs(change - alone).max() > 1e-3
        widest = maps.windows[np.ptp(change[:49], axis=1).argmax()]
        inside = (maps.windows[49:, :2] >= widest[:2]) & (maps.windows[49:, 2:] <= widest[2:])
        looked = np.concatenate([np.ones(49, bool), inside.all(axis=1)])
        np.testing.assert_allclose(maps.logits[row], before, atol=1e-5)
        np.testing.assert_allclose(maps.change[row, looked], change[looked], atol=1e-5)
        assert np.isnan(maps.change[row, ~looked]).all()


def test_windows_are_as_large_as_regions_and_a_quarter_at_least() -> None:
    def side(*sides: int) -> float:
        boxes = np.array([[0, 0, wide, wide] for wide in sides], np.float32)
        return window_side(boxes / SIDE)

    assert [side(10), side(16), side(32), side(64)] == [1 / 4, 1 / 4, 1 / 2, 1.0]
    assert side(10, 10, 60) == 1 / 4  # one large one among small ones
    assert side(10, 40, 60) == pytest.approx(40 / 64)


def test_of_larger_windows_there_are_fewer_and_finer_ones_have_half_of_their_side() -> None:
    films = films_with(np.arange(4) < 2)

    maps = map_effects(films.__getitem__, like_places(films).fill, ask, np.arange(4), SIDE, 1 / 2)

    np.testing.assert_array_equal(maps.windows[: maps.coarse], slide_windows(SIDE, SIDE, 0.5, 0.5))
    np.testing.assert_array_equal(maps.windows[maps.coarse :], slide_windows(SIDE, SIDE, 0.25, 0.5))
    assert np.isfinite(maps.change[:, maps.coarse :, 0]).sum() == 4 * 9 < most_map_pictures(4)
    assert np.isfinite(maps.change[:, :, 0]).sum() + 4 == most_map_pictures(4, 1 / 2)
    assert maps.side == 1 / 2


@pytest.mark.parametrize("side", [32, 50])
def test_maps_take_as_many_pictures_as_they_are_said_to_take_at_most(side: int) -> None:
    asked: list[int] = []

    def counted(pictures: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
        seen = [picture.mean() for picture in pictures]
        asked.append(len(seen))
        return np.array([[one, 0.0] for one in seen], np.float32)

    films = np.random.default_rng(0).normal(size=(3, 3, side, side)).astype(np.float32)
    filled: list[int] = []

    def fill(film: int, box: NDArray[np.float32]) -> NDArray[np.float32]:
        filled.append(film)
        return fill_interpolated(films[film], box)

    map_effects(films.__getitem__, fill, counted, np.arange(3), side)

    assert sum(asked) == most_map_pictures(3) == len(filled) + 3
    assert most_map_pictures(0) == 0


def small_maps(films: int = 2) -> EffectMaps:
    """Two windows; the second was looked at in the first film alone."""
    logits = np.tile(np.array([[3.0, 1, 0], [1, 2, 4]], np.float32), (films // 2, 1))
    change = np.array([[[3, 0, 1], [-1, 1, 0]], [[0, 0, 3], [np.nan] * 3]], np.float32)
    windows = np.array([[0, 0, 4, 4], [4, 4, 6, 6]], np.float32)
    return EffectMaps(np.arange(films), windows, 1, logits, np.tile(change, (films // 2, 1, 1)))


def test_a_window_that_is_the_region_is_alone_over_it_where_it_is_as_large_as_regions() -> None:
    """Nine tenths of both are as good as all; of the smaller of any two half is shared."""
    windows = np.array([[0, 0, 16, 16], [8, 0, 24, 16], [4, 4, 12, 12]], np.float32)
    boxes = np.array([[0, 0, 16, 16], [0, 0, 16, 14.5], [0, 0, 16, 14], [8, 0, 24, 16]], np.float32)
    small = replace(small_maps(), windows=windows)

    assert small.over(boxes).all()
    assert replace(small, side=1 / 2).over(boxes).tolist() == [
        [True, False, False],
        [True, False, False],
        [True, True, True],
        [False, True, False],
    ]


class TestMargins:
    def test_against_one_class_by_hand(self) -> None:
        before, drop, usual = small_maps().margins(0, 1, np.ones(2, bool))

        assert before.tolist() == [2, -1]
        np.testing.assert_array_equal(drop, [[3, -2], [0, np.nan]])
        assert usual.tolist() == [0, 0]  # two films do not say what is usual

    def test_of_the_decision_the_best_other_class_is_sought_again(self) -> None:
        before, drop, _ = small_maps().margins(0, None, np.ones(2, bool))

        assert before.tolist() == [2, -3]  # 3 - 1, 1 - 4
        # After the first window 0 against 1 and 1 against 2; after the second 4 against 0.
        np.testing.assert_array_equal(drop, [[3, -2], [-2, np.nan]])

    def test_usual_is_the_median_of_the_films_that_were_looked_at(self) -> None:
        every, ten = np.ones(20, bool), np.arange(20) % 2 == 0

        _, drop, usual = small_maps(20).margins(0, 1, every)

        assert drop.shape == (20, 2)
        assert usual.tolist() == [1.5, -2]  # of 3 and 0, ten times each; of -2, ten times
        assert small_maps(20).margins(0, 1, ten)[2].tolist() == [3, -2]  # of those that are bare
        assert small_maps(18).margins(0, 1, ten[:18])[2].tolist() == [0, 0]  # nine say nothing

    def test_what_filling_undoes_is_a_decision_that_goes(self) -> None:
        maps = small_maps()

        # The first film says class 0: not after the first window. What was not looked at stays.
        assert maps.undone(0).tolist() == [[1, 0], [0, 0]]
        assert maps.undone(2).tolist() == [[0, 0], [1, 0]]
        assert maps.undone(1).tolist() == [[0, 0], [0, 0]]


class TestEffectsOver:
    WINDOWS = np.array([[0, 0, 16, 16], [8, 0, 24, 16], [4, 4, 12, 12], [32, 32, 48, 48]], "f4")

    def over(self, box: tuple[float, ...], drop: list[float]) -> tuple[float, list[float]]:
        data = data_of([0], [0])
        data.region_boxes[0] = box
        effect, located = effects_over(
            inputs_of(data), 0, np.array([0]), self.WINDOWS, np.array(drop)
        )
        return float(effect[0]), located[0].tolist()

    def test_the_largest_drop_of_the_windows_over_a_region(self) -> None:
        effect, located = self.over((4, 0, 12, 16), [1.0, 3.0, 2.0, 9.0])

        assert (effect, located) == (3.0, [8, 0, 24, 16])  # half of the region is enough

    def test_a_small_window_in_a_large_region_is_over_it(self) -> None:
        assert self.over((0, 0, 32, 32), [1.0, 0.5, 2.0, 9.0])[0] == 2.0

    def test_what_was_not_filled_says_nothing(self) -> None:
        assert self.over((4, 4, 12, 12), [1.0, 3.0, np.nan, 9.0])[0] == 3.0
        assert self.over((4, 4, 12, 12), [-1.0, -3.0, np.nan, 9.0])[0] == -1.0

    def test_without_a_window_there_is_no_effect_and_no_place(self) -> None:
        effect, located = self.over((50, 0, 64, 16), [1.0, 3.0, 2.0, 9.0])

        assert np.isnan(effect)
        assert np.isnan(located).all()


class TestExploration:
    """Films 0 to 7 hold the square, 8 to 15 are their controls; 16 to 79 were not mapped.

    Of films 16 to 39 fifteen hold it, of the others none.
    """

    PRESENT = (np.arange(80) % 16 < 8) & (np.arange(80) != 16) & (np.arange(80) < 40)
    PICTURES = films_with(PRESENT)
    MARGIN = np.arange(80) % 8 * 1.0  # film 8 goes with 0, 9 with 1, ...
    HALF = np.arange(80) < 16
    LABELS = np.array([0, 0, 1, 2] * 20)
    PREDICTIONS = np.where(PRESENT, 1, 2)
    REGION = (8.0, 40.0, 20.0, 56.0)  # within a window; other windows hold a part of it

    def explore(
        self,
        cluster_of: Callable[..., FeatureCluster],
        region: tuple[float, ...] = REGION,
        margin: NDArray[np.float64] = MARGIN,
        mapped: NDArray[np.int64] | None = None,
        predictions: NDArray[np.int64] | None = None,
        side: float = 1 / 4,
        **changes: float,
    ) -> Exploration:
        called = self.PREDICTIONS if predictions is None else predictions
        data = data_of(self.LABELS, called, np.arange(80) // 2)
        data.region_boxes[:] = region
        cluster = cluster_of(
            self.PRESENT, self.LABELS, data.correct, 3, np.flatnonzero(self.PRESENT)[::-1],
            raised_class=1, lowered_classes=(0,),
        )  # fmt: skip
        films = np.arange(16) if mapped is None else mapped
        like = like_places(self.PICTURES, data.patients)
        maps = map_effects(self.PICTURES.__getitem__, like.fill, ask, films, SIDE, side)
        evidence = EvidenceConfig.model_construct(
            **{"min_pairs": 8, "min_n": 2, "confidence": 0.95, "effect_films": 16, "seed": 0}
            | changes
        )
        inputs = inputs_of(data, self.PICTURES)
        return explore_feature(inputs, maps, cluster, ~cluster.present, self.HALF, margin, evidence)

    def test_it_equals_a_naive_loop(self, cluster_of: Callable[..., FeatureCluster]) -> None:
        explored = self.explore(cluster_of)

        coarse = slide_windows(SIDE, SIDE, 1 / 4, 0.5)
        shared = [
            max(min(x1, 20) - max(x0, 8), 0) * max(min(y1, 56) - max(y0, 40), 0)
            for x0, y0, x1, y1 in coarse
        ]
        like = like_places(self.PICTURES, np.arange(80) // 2)

        def margin(picture: NDArray[np.float32]) -> float:
            return float(np.subtract(*ask([picture])[0, [1, 0]]))

        alike = np.linspace(1, 0.5, self.PRESENT.sum())[::-1][:8]  # the regions of films 0 to 7
        over = np.array(shared) >= 0.5 * 12 * 16  # of the region, which is smaller than a window
        held = np.array(shared) * over / 16.0**2 * alike[:, None]
        dropped = np.array([
            [margin(film) - margin(like.fill(at, box)) for box in coarse]
            for at, film in enumerate(self.PICTURES[:8])
        ])  # fmt: skip
        _, worth = window_worth(held, dropped, np.arange(8) // 2)  # too few say what is usual
        tried = coarse[np.argsort(-held * worth, axis=1, kind="stable")[:, :3]]

        def best(film: int) -> tuple[float, int]:
            picture = self.PICTURES[film]
            places = tried[film % 8]  # controls are filled as their partners are
            drops = [margin(picture) - margin(like.fill(film, box)) for box in places]
            return max(drops), int(np.argmax(drops))

        own, controls = ([best(film) for film in films] for films in (range(8), range(8, 16)))
        assert explored.change.pairs == 8
        assert explored.change.patients == 4
        assert explored.change.change == pytest.approx(np.mean([d for d, _ in own]), abs=1e-5)
        assert explored.change.control == pytest.approx(
            np.mean([drop for drop, _ in controls]), abs=1e-5
        )
        assert explored.change.contrast > 5
        assert explored.change.interval.low > 4
        assert explored.spread == pytest.approx(
            np.std([margin(picture) for picture in self.PICTURES[:16]]), abs=1e-5
        )
        donors = explored.donors
        assert donors.films.tolist() == list(range(8))
        assert donors.ordinary.tolist() == list(range(8, 16))
        np.testing.assert_array_equal(donors.boxes, [tried[f, at] for f, (_, at) in enumerate(own)])
        np.testing.assert_array_equal(
            donors.ordinary_boxes, [tried[f, at] for f, (_, at) in enumerate(controls)]
        )
        assert sorted(explored.places) == list(range(8))
        np.testing.assert_array_equal(explored.places[3], tried[3, own[3][1]])
        np.testing.assert_array_equal(explored.windows.boxes, coarse)

    def test_regions_of_mapped_films_have_an_effect_and_a_place(
        self, cluster_of: Callable[..., FeatureCluster]
    ) -> None:
        explored = self.explore(cluster_of)

        # Regions run from the last film to the first: 15 of films that were not mapped.
        assert np.isnan(explored.effect[:15]).all()
        assert np.isnan(explored.located[:15]).all()
        np.testing.assert_allclose(explored.effect[15:], 8.0, atol=0.1)
        assert {film: own.tolist() for film, own in explored.rows.items()} == {
            film: [22 - film] for film in range(8)
        }
        for x0, y0, x1, y1 in explored.located[15:]:  # over the square
            assert x0 <= 8 < 16 <= x1
            assert y0 <= 40 < 48 <= y1

    def test_what_is_usual_is_that_of_films_without_the_feature(
        self, cluster_of: Callable[..., FeatureCluster]
    ) -> None:
        """Of 40 mapped films 23 have it; what it does is not usual for its place all the same."""
        explored = self.explore(cluster_of, mapped=np.arange(40))

        assert (explored.effect > 7.5).all()
        assert np.abs(explored.windows.usual).max() < 0.1

    def test_what_its_windows_do_is_known_of_films_with_it_and_without(
        self, cluster_of: Callable[..., FeatureCluster]
    ) -> None:
        explored = self.explore(cluster_of, mapped=np.arange(40))

        labels, present = self.LABELS[:40], self.PRESENT[:40].astype(np.float64)
        for values, whole in ((explored.present, present), (explored.moved, 8.0 * present)):
            for label in range(3):
                of_class = whole[labels == label]
                centred = of_class - of_class.mean()
                np.testing.assert_allclose(values[labels == label], centred, atol=0.3)

    def test_what_tells_films_of_other_classes_is_known_of_things_as_large_as_regions(
        self, cluster_of: Callable[..., FeatureCluster]
    ) -> None:
        """Films of the mapped half; more exactly than by which of them have it, it cannot be."""
        half, labels = np.flatnonzero(self.HALF & (self.LABELS != 1)), self.LABELS
        centred = []
        for values in (self.PRESENT[half] * 1.0, self.MARGIN[half]):
            means = {label: values[labels[half] == label].mean() for label in (0, 2)}
            centred.append(values - [means[label] for label in labels[half]])

        assert self.explore(cluster_of).along is None
        large = self.explore(cluster_of, side=1 / 2)
        assert large.along == pytest.approx(np.corrcoef(*centred)[0, 1])

    def test_without_a_film_that_has_it_nothing_is_known_of_its_windows(
        self, cluster_of: Callable[..., FeatureCluster]
    ) -> None:
        explored = self.explore(cluster_of, mapped=np.arange(8, 16))

        assert explored.present.tolist() == explored.moved.tolist() == [0.0] * 8

    def test_wrong_calls_are_compared_by_themselves(
        self, cluster_of: Callable[..., FeatureCluster]
    ) -> None:
        """Beside other places of the same films: what fills those undoes no call."""
        explored = self.explore(cluster_of)
        # Of films 0 to 7 two are of class 1; with the square all are called so.
        assert explored.called == 1.0
        assert (explored.wrong_calls.pairs, explored.wrong_calls.patients) == (6, 4)
        assert explored.wrong_calls.decisions == 1.0
        assert explored.wrong_calls.change == pytest.approx(8.0, abs=0.1)
        assert explored.wrong_calls.control == pytest.approx(0.0, abs=0.1)

    def test_controls_are_of_the_same_class_and_donors_of_the_same_margin(
        self, cluster_of: Callable[..., FeatureCluster]
    ) -> None:
        by_margin = [10, 9, 14, 11, 12, 13, 8, 15]  # class 0 with class 1, and the other way round
        margin = self.MARGIN.copy()
        margin[by_margin] = np.arange(8)

        explored = self.explore(cluster_of, margin=margin)

        donors = explored.donors
        assert dict(zip(donors.films.tolist(), donors.ordinary.tolist(), strict=True)) == dict(
            enumerate(by_margin)
        )

    def test_too_few_pairs_are_no_comparison(
        self, cluster_of: Callable[..., FeatureCluster]
    ) -> None:
        explored = self.explore(cluster_of, min_pairs=9)

        assert explored.change is None
        assert len(explored.donors.films) == 8

    def test_donors_are_of_the_whole_half_where_too_few_mapped_films_hold_the_feature(
        self, cluster_of: Callable[..., FeatureCluster]
    ) -> None:
        mapped = np.array([0, 1, 2, 8, 9, 10, 11, 12])

        enough = self.explore(cluster_of, mapped=mapped, min_pairs=3).donors
        donors = self.explore(cluster_of, mapped=mapped, min_pairs=4).donors

        assert sorted(enough.films.tolist()) == [0, 1, 2]
        assert sorted(donors.films.tolist()) == list(range(8))
        assert sorted(donors.ordinary.tolist()) == list(range(8, 16))
        assert (self.MARGIN[donors.films] == self.MARGIN[donors.ordinary]).all()
        np.testing.assert_array_equal(donors.boxes, donors.ordinary_boxes)
        x0, y0, x1, y1 = self.REGION
        assert (donors.boxes[:, :2] <= (x0, y0)).all()
        assert (donors.boxes[:, 2:] >= (x1, y1)).all()
        few = self.explore(cluster_of, mapped=mapped, min_pairs=4, effect_films=5).donors
        assert len(few.films) == 5

    @pytest.mark.parametrize("films", [np.arange(8), np.arange(8, 16)])
    def test_without_a_control_or_without_the_feature_there_are_no_pairs(
        self, cluster_of: Callable[..., FeatureCluster], films: NDArray[np.int64]
    ) -> None:
        explored = self.explore(cluster_of, mapped=films)

        assert explored.change is None
        assert (explored.wrong_calls is None) == (films[0] != 0)  # they need no other film
        assert explored.places == {}
        assert len(explored.donors.films) == len(explored.donors.boxes) == 8  # of the whole half
        assert np.isfinite(explored.effect).sum() == (8 if films[0] == 0 else 0)

    def test_a_region_larger_than_a_window_is_looked_at_all_over(
        self, cluster_of: Callable[..., FeatureCluster]
    ) -> None:
        """The square lies at its lower left; the first window in it lies at its upper left."""
        explored = self.explore(cluster_of, region=(0.0, 8.0, 48.0, 56.0))

        assert explored.change.contrast > 5
        for x0, y0, x1, y1 in explored.donors.boxes:
            assert x0 <= 8 < 16 <= x1
            assert y0 <= 40 < 48 <= y1


def test_half_of_the_sample_is_called_wrongly_and_none_comes_from_outside() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 300)
    predictions = np.where(rng.random(300) < 0.3, (labels + 1) % 3, labels)
    data, half = data_of(labels, predictions), rng.random(300) < 0.5

    films = sample_for_maps(data, half, 60, seed=0)

    assert len(np.unique(films)) == 60
    assert half[films].all()
    assert (~data.correct[films]).sum() == 30
    assert np.bincount(predictions[films[~data.correct[films]]]).tolist() == [10, 10, 10]
    np.testing.assert_array_equal(films, sample_for_maps(data, half, 60, seed=0))
    assert films.tolist() != sample_for_maps(data, half, 60, seed=1).tolist()


@pytest.mark.parametrize("wrong", [0, 5, 40])
def test_where_one_kind_of_films_runs_out_the_other_fills_the_sample(wrong: int) -> None:
    labels = np.arange(40) % 3
    predictions = np.where(np.arange(40) < wrong, (labels + 1) % 3, labels)

    films = sample_for_maps(data_of(labels, predictions), np.ones(40, bool), 30, seed=0)

    assert len(np.unique(films)) == 30
    if wrong == 5:
        assert (films < 5).sum() == 5


def test_a_region_has_the_effect_of_the_windows_over_it(maps: EffectMaps) -> None:
    data = data_of([0] * 24, [0] * 24, regions=25)
    inputs = inputs_of(data)
    rows = [np.flatnonzero(data.region_image == film) for film in range(24)]

    effects = region_effects(inputs, maps, rows)

    assert effects.effect.shape == (24 * 25, 3)
    drops = np.nan_to_num(maps.drops()[:, :, 1], nan=-np.inf)
    for region in (0, 7, 24):
        box = data.region_boxes[region]
        low, high = (
            np.maximum(maps.windows[:, :2], box[:2]),
            np.minimum(maps.windows[:, 2:], box[2:]),
        )
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        smaller = np.minimum(np.prod(maps.windows[:, 2:] - maps.windows[:, :2], axis=1), 256)
        over = shared >= 0.5 * smaller
        assert effects.effect[region, 1] == pytest.approx(drops[0][over].max())
        coarse = np.flatnonzero(over & (np.arange(len(over)) < maps.coarse))
        assert len(coarse) > 1
        assert effects.mean[region, 1] == pytest.approx(drops[0][coarse].mean())


def test_one_region_of_a_film_stands_for_a_place(maps: EffectMaps) -> None:
    """A tile and a larger window have one middle; the window is of a quarter, as those of maps."""
    boxes = np.array([[16, 16, 32, 32], [20, 20, 28, 28], [0, 0, 16, 16]], np.float32)
    plain = data_of([0] * 24, [0] * 24, regions=3)
    data = replace(plain, region_boxes=np.tile(boxes, (24, 1)))

    effects = region_effects(inputs_of(data), maps, list(np.arange(72).reshape(24, 3)))

    assert effects.places.reshape(24, 3).tolist() == [[2 * 7 + 2, ANYWHERE, 0]] * 24


def test_places_lie_an_eighth_of_the_film_apart() -> None:
    windows = slide_windows(1, 1, 0.25, 0.5)

    assert places_of(windows).tolist() == list(range(49))
    near = np.array([[0.0, 0.0, 0.1, 0.1], [0.9, 0.9, 1.0, 1.0], [0.0, 0.45, 1.0, 0.55]])
    assert places_of(near).tolist() == [0, 48, 3 * 7 + 3]


def test_mapped_films_without_any_region_have_no_effects(maps: EffectMaps) -> None:
    inputs = inputs_of(data_of([0] * 24, [0] * 24, regions=25))

    effects = region_effects(inputs, maps, [np.empty(0, np.int64)] * 24)

    assert effects.effect.shape == effects.mean.shape == (0, 3)
    assert len(effects.regions) == len(effects.films) == len(effects.places) == 0


def regions_with(planted: np.ndarray, of_each: int = 6, dimensions: int = 24, size: float = 0.5):
    """Embeddings of `of_each` regions a film; the third of some films has a part in common."""
    rng = np.random.default_rng(3)
    films = len(planted)
    common, part = rng.normal(size=(2, dimensions))
    made = rng.normal(0, 0.4, (films, of_each, dimensions)) + common
    made[planted, 2] += size * part / np.linalg.norm(part) * np.sqrt(dimensions)
    flat = made.reshape(-1, dimensions)
    return (flat / np.linalg.norm(flat, axis=1, keepdims=True)).astype(np.float32)


def found_by(feature: EffectFeature, embeddings: np.ndarray) -> np.ndarray:
    """Which regions belong to a feature, wherever they lie."""
    detector = FeatureDetector(feature.medoids, 1, 0, None)
    return detector.find(embeddings, np.zeros((len(embeddings), 4)), no_texture)


def effects_of(planted: np.ndarray, mapped: int, effect: float) -> RegionEffects:
    rng = np.random.default_rng(4)
    values = rng.normal(0, 0.05, (mapped * 6, 2))
    values.reshape(mapped, 6, 2)[planted[:mapped], 2, 0] += effect
    films = np.repeat(np.arange(mapped), 6)
    return RegionEffects(np.arange(6 * mapped), films, values, values, np.arange(6 * mapped) % 6)


def test_of_regions_under_one_window_the_one_with_the_larger_mean_is_learned_from() -> None:
    """A window takes the region next to a thing with it; the other windows tell them apart."""
    planted = np.random.default_rng(5).random(200) < 0.4
    embeddings = regions_with(planted)
    alone = effects_of(planted, 80, 1.0)
    shared = alone.effect.reshape(80, 6, 2).copy()
    shared[planted[:80], 1] = shared[planted[:80], 2]  # the thing is in the third
    effects = replace(alone, effect=shared.reshape(-1, 2))

    (wanted,), (feature,), (misled,) = (
        propose_from_effects(embeddings, one, seed=0)
        for one in (alone, effects, replace(effects, mean=effects.effect))
    )

    def third(feature: EffectFeature) -> float:
        found = found_by(feature, embeddings).reshape(200, 6)
        return float(found[planted, 2].mean())

    assert third(feature) == third(wanted) > 0.95
    assert third(misled) < 0.5


def test_what_has_an_effect_is_found_on_films_that_were_not_mapped() -> None:
    planted = np.random.default_rng(5).random(200) < 0.4
    embeddings = regions_with(planted)

    (feature,) = propose_from_effects(embeddings, effects_of(planted, 80, 1.0), seed=0)

    assert feature.raised_class == 0
    assert feature.films == planted[:80].sum()
    assert feature.effect == pytest.approx(1.0, abs=0.1)
    found = found_by(feature, embeddings).reshape(200, 6)
    later = found[80:].any(axis=1)
    assert (later == planted[80:]).mean() > 0.95
    assert found[80:][planted[80:], 2].mean() > 0.95


@pytest.mark.parametrize("effect", [0.0, 0.15])
def test_a_faint_effect_proposes_nothing(effect: float) -> None:
    planted = np.random.default_rng(5).random(200) < 0.4
    assert propose_from_effects(regions_with(planted), effects_of(planted, 80, effect), 0) == []


def test_too_few_films_propose_nothing() -> None:
    planted = np.arange(200) < 4
    assert propose_from_effects(regions_with(planted), effects_of(planted, 80, 1.0), 0) == []


def test_two_kinds_that_hold_up_one_class_are_two_features() -> None:
    planted, other = np.arange(120) % 3 == 0, np.arange(120) % 3 == 1
    embeddings = regions_with(planted, size=2.0).reshape(120, 6, -1).copy()
    rng = np.random.default_rng(6)
    embeddings[other, 4] += 2.0 * rng.normal(size=embeddings.shape[2]).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=2, keepdims=True)
    effects = effects_of(planted, 120, 1.0)
    effects.effect.reshape(120, 6, 2)[other, 4, 0] += 1.0

    features = propose_from_effects(embeddings.reshape(720, -1), effects, seed=0)

    assert sorted(feature.films for feature in features) == [40, 40]


def test_a_feature_becomes_a_candidate_of_the_class_that_it_holds_up() -> None:
    planted = np.random.default_rng(7).random(120) < 0.5
    labels = np.arange(120) % 2
    predictions = np.where(planted, 0, labels)  # with it, all are called the first class
    embeddings = regions_with(planted)
    data = data_of(labels, predictions, regions=6)
    (feature,) = propose_from_effects(embeddings, effects_of(planted, 120, 1.0), seed=0)

    cluster = measure_effect_feature(
        feature, 77, data, embeddings, no_texture, np.arange(120) < 60, min_films=5
    )

    assert (cluster.cluster, cluster.source, cluster.raised_class) == (77, "effects", 0)
    assert (cluster.present == planted).mean() > 0.95
    assert cluster.lowered_classes == (1,)
    assert set(data.region_image[cluster.regions]) == set(np.flatnonzero(cluster.present))
    assert (np.diff(cluster.similarity) <= 0).all()
    own = labels[:60] == 1
    gap = (predictions == labels)[:60][own & cluster.present[:60]].mean() - 1.0
    assert cluster.gap[1] == pytest.approx(gap)


def no_texture(rows: np.ndarray) -> np.ndarray:
    return np.zeros((len(rows), 0), dtype=np.float32)


def weak_at_a_place(planted: np.ndarray, mapped: int, effect: float) -> RegionEffects:
    """A weak effect in the third region of some films, below a strong one elsewhere in each."""
    rng = np.random.default_rng(8)
    values = rng.normal(0, 0.1, (mapped, 6, 2))
    values[:, 5] += rng.normal(1.5, 0.2, (mapped, 1))  # of no region in particular
    values[planted[:mapped], 2, 0] += effect
    films, flat = np.repeat(np.arange(mapped), 6), values.reshape(-1, 2)
    return RegionEffects(np.arange(6 * mapped), films, flat, flat, np.arange(6 * mapped) % 6)


@pytest.mark.parametrize("films", [2, 8, 12])
def test_what_is_never_the_strongest_of_a_film_is_found_at_its_place(films: int) -> None:
    """Of many patients with two films each, or of some twenty with many."""
    planted = np.random.default_rng(5).random(240) < 0.5
    embeddings, patients = regions_with(planted), np.arange(240) // films
    effects = weak_at_a_place(planted, 160, 0.4)

    (feature,) = propose_at_places(embeddings, effects, patients, no_texture, seed=0)

    assert (feature.raised_class, feature.place) == (0, 2)
    assert feature.effect == pytest.approx(0.4, abs=0.1)
    shares = slide_windows(1, 1, 0.25, 0.5)[np.arange(1440) % 6]
    detector = FeatureDetector(feature.medoids, 1, 0, None, feature.place)
    found = detector.find(embeddings, shares, no_texture).reshape(240, 6)
    assert not np.delete(found, 2, axis=1).any()
    assert (found[160:, 2] == planted[160:]).mean() > 0.95
    loose = propose_from_effects(embeddings, effects, seed=0)
    for other in loose:
        there = found_by(other, embeddings).reshape(240, 6).any(axis=1)
        assert abs(np.corrcoef(there, planted)[0, 1]) < 0.5


def test_what_the_model_embeds_alike_is_told_apart_by_how_it_looks() -> None:
    planted = np.random.default_rng(5).random(240) < 0.5
    embeddings, patients = regions_with(np.zeros(240, bool)), np.arange(240) // 2
    effects = weak_at_a_place(planted, 160, 0.4)
    rng = np.random.default_rng(6)
    looks = rng.normal(7.0, 0.1, (1440, 3)).astype(np.float32)
    looks[2::6, 1] += planted

    def texture(rows: np.ndarray) -> np.ndarray:
        return np.asarray(looks[rows])

    (feature,) = propose_at_places(embeddings, effects, patients, texture, seed=0)

    assert (feature.raised_class, feature.place) == (0, 2)
    shares = slide_windows(1, 1, 0.25, 0.5)[np.arange(1440) % 6]
    rows, score = feature.find(embeddings, shares, texture)
    assert (rows % 6 == 2).all()
    assert (np.diff(score) <= 0).all()
    there = np.isin(np.arange(240), rows // 6)
    assert (there[160:] == planted[160:]).mean() > 0.95
    assert propose_at_places(embeddings, effects, patients, no_texture, seed=0) == []


@pytest.mark.parametrize("apart", [1, 2, 14])
def test_a_class_has_several_places_but_no_neighbours(apart: int) -> None:
    first, second = np.random.default_rng(5).random((2, 160)) < 0.5
    effects = weak_at_a_place(first, 160, 0.6)
    effects.mean[4::6, 0] += 0.4 * second
    places = np.array([0, 24 - apart, 24, 40, -1, 6])[np.arange(960) % 6]
    places[4::6] = 24 + apart
    looks = np.random.default_rng(6).normal(0.0, 0.1, (960, 2)).astype(np.float32)
    looks[2::6, 0] += first
    looks[4::6, 1] += second
    effects = replace(effects, places=places)

    features = propose_at_places(
        regions_with(np.zeros(160, bool)),
        effects,
        np.arange(160),
        lambda rows: np.asarray(looks[rows]),
        0,
    )

    found = [(f.raised_class, f.place) for f in features]
    assert found == [(0, 24), (0, 24 + apart)][: 1 if apart == 1 else 2]


def test_a_thing_comes_before_a_neighbour_where_the_body_differs_as_much() -> None:
    rng = np.random.default_rng(5)
    planted, shade = rng.random(160) < 0.5, rng.random(160)
    effects = weak_at_a_place(planted, 160, 0.6)
    effects.mean[4::6, 0] += 1.1 * shade  # spread more widely, but of no two kinds of films
    looks = rng.normal(0.0, 0.02, (960, 2)).astype(np.float32)
    looks[2::6, 0] += planted
    looks[4::6, 1] += shade
    places = np.array([0, 23, 24, 40, 25, 6])[np.arange(960) % 6]

    features = propose_at_places(
        regions_with(np.zeros(160, bool)),
        replace(effects, places=places),
        np.arange(160),
        lambda rows: np.asarray(looks[rows]),
        0,
    )

    assert [(f.raised_class, f.place) for f in features] == [(0, 24)]


@pytest.mark.parametrize("seed", range(5))
def test_noise_at_places_proposes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    embeddings = regions_with(np.zeros(160, bool))
    flat = rng.normal(0, 0.3, (960, 4))
    films = np.repeat(np.arange(160), 6)
    effects = RegionEffects(np.arange(960), films, flat, flat, np.arange(960) % 6)

    assert propose_at_places(embeddings, effects, np.arange(160), no_texture, seed) == []


def test_what_goes_with_patients_by_chance_proposes_nothing() -> None:
    """Twelve patients are twelve draws, however many films each has."""
    proposed = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        patients = np.arange(160) % 12
        own = rng.normal(0, 1, (12, 6, 32))[patients] + rng.normal(0, 0.3, (160, 6, 32))
        embeddings = (own / np.linalg.norm(own, axis=2, keepdims=True)).reshape(960, 32)
        values = rng.normal(0, 1, (12, 6, 2))[patients] + rng.normal(0, 0.3, (160, 6, 2))
        flat, films = values.reshape(960, 2), np.repeat(np.arange(160), 6)
        effects = RegionEffects(np.arange(960), films, flat, flat, np.arange(960) % 6)
        known = embeddings.astype(np.float32), effects, patients, no_texture, seed
        proposed += bool(propose_at_places(*known))
    assert proposed <= 1  # of 30, each at 1 %


@pytest.mark.parametrize(
    ("share", "patients"),
    [(0.9, 160), (0.5, 9)],
    ids=["most films have it", "too few patients"],
)
def test_what_is_usual_at_a_place_is_no_feature(share: float, patients: int) -> None:
    planted = np.random.default_rng(5).random(160) < share
    effects = weak_at_a_place(planted, 160, 0.4)

    who = np.arange(160) % patients
    assert propose_at_places(regions_with(planted), effects, who, no_texture, 0) == []


def margins_of(
    planted: NDArray[np.bool_], labels: NDArray[np.int64], effect: float
) -> NDArray[np.float64]:
    """Margins of two classes: the finding decides, and what is planted speaks for the first."""
    rng = np.random.default_rng(9)
    margins = 4.0 * np.eye(2)[labels] + rng.normal(0.0, 0.3, (len(labels), 2))
    margins[planted, 0] += effect
    return margins


class TestFeaturesOfMargins:
    """A thing in any region of films of both classes; films of the first have a sign as well."""

    LABELS = np.arange(240) % 2
    PLANTED = np.random.default_rng(5).random(240) < 0.4

    def embeddings(self, sign: float = 0.5) -> NDArray[np.float32]:
        made = regions_with(self.PLANTED, size=1.0).reshape(240, 6, -1).copy()
        rng = np.random.default_rng(10)
        made[self.LABELS == 0, 4] += sign * rng.normal(size=made.shape[2]).astype(np.float32)
        for film, place in enumerate(rng.integers(6, size=240)):
            made[film] = np.roll(made[film], place, axis=0)
        flat = made.reshape(1440, -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    def propose(self, effect: float, films: int = 160, patients: int = 240) -> list[EffectFeature]:
        rng = np.random.default_rng(9)
        margins = 4.0 * np.eye(3)[self.LABELS] + rng.normal(0.0, 0.3, (240, 3))
        margins[self.PLANTED, 0] += effect
        data = data_of(self.LABELS, self.LABELS, np.arange(240) % patients, regions=6)
        return propose_from_margins(
            self.embeddings(), data, margins, np.arange(240) < films, seed=0
        )

    def test_what_speaks_for_a_class_on_films_of_others_is_found_wherever_it_lies(self) -> None:
        (feature,) = self.propose(1.0)

        assert (feature.raised_class, feature.place) == (0, ANYWHERE)
        assert feature.films == pytest.approx(self.PLANTED[1:160:2].sum(), abs=3)
        assert feature.effect > 0
        found = found_by(feature, self.embeddings()).reshape(240, 6).any(axis=1)
        later = np.arange(240) >= 160
        for label in (0, 1):  # the sign is on all films of the first class, and is not the thing
            own = later & (label == self.LABELS)
            assert (found == self.PLANTED)[own].mean() > 0.9

    @pytest.mark.parametrize(
        ("effect", "films", "patients"), [(0.0, 160, 240), (1.0, 60, 240), (1.0, 160, 18)]
    )
    def test_chance_and_too_few_patients_propose_nothing(
        self, effect: float, films: int, patients: int
    ) -> None:
        """Half of the films are of other classes: of 30 and 9 patients in the last two."""
        assert self.propose(effect, films, patients) == []
