"""The parts of a counterfactual test: places, controls, fills and transplants."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import t, ttest_1samp

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.counterfactual.fills import LikePlaces, fill_interpolated, transplant_box
from ravl_med.evidence.counterfactual.interventions import (
    PLACES,
    Donors,
    FilledFilm,
    FilmPairs,
    Windows,
    _fine_detail,
    choose_places,
    compare_transplants,
    fill_films,
    fill_pairs,
    match_films,
    pair_films,
    rows_by_film,
    share_called,
    strongest_beside,
    window_worth,
    wrongly_called,
)
from ravl_med.evidence.counterfactual.model_inputs import (
    Margins,
    ModelInputs,
    compare_pairs,
    spread_over_patients,
)
from ravl_med.regions.geometry import InputGeometry, box_shares
from ravl_med.regions.region_set import slide_windows

SIZE = 24
WINDOWS = slide_windows(SIZE, SIZE, 0.25, 0.5)  # 6 pixels, in steps of 3
EVEN = Windows(WINDOWS, np.zeros(len(WINDOWS)), np.ones(len(WINDOWS)))  # worth the same


def tiles(sizes, rows=3):
    """Tiles of every film, row by row: image of each, and boxes in stored pixels."""
    image, boxes = [], []
    for i, (h, w) in enumerate(sizes):
        for r in range(rows):
            for c in range(rows):
                image.append(i)
                boxes.append([c * w / rows, r * h / rows, (c + 1) * w / rows, (r + 1) * h / rows])
    return np.array(image), np.array(boxes, np.float32)


def make_images(labels, patients=None, sizes=None, predictions=None):
    n = len(labels)
    sizes = np.full((n, 2), SIZE) if sizes is None else np.asarray(sizes)
    region_image, region_boxes = tiles(sizes)
    return AuditData(
        classes=("a", "b", "c"),
        labels=np.asarray(labels),
        predictions=np.asarray(labels if predictions is None else predictions),
        patients=np.arange(n) if patients is None else np.asarray(patients),
        sizes=sizes,
        region_image=region_image,
        region_boxes=region_boxes,
    )


WEIGHT = np.random.default_rng(9).normal(size=(3, SIZE, SIZE))


def margin_of(picture):
    return float((WEIGHT * picture).mean())


def make_inputs(images, pictures=None, mode="squash", asked=None):
    """The margin is the weighted mean of a picture; decided where it is above 0."""

    def margins(stream):
        seen = list(stream)
        if asked is not None:
            asked.extend(seen)
        margin = np.array([margin_of(picture) for picture in seen])
        return Margins(margin, margin > 0)

    def untouched(films):
        margin = np.array([margin_of(pictures[film]) for film in films])
        return Margins(margin, margin > 0)

    return ModelInputs(
        images,
        lambda film: pictures[film],
        lambda height, width: InputGeometry.of(height, width, SIZE, mode),
        margins,
        untouched,
        like_places(images, pictures),
        lambda count: None,
    )


def like_places(images, pictures):
    frames = np.tile(np.array([0, 0, SIZE, SIZE], np.float32), (len(images.patients), 1))
    return LikePlaces(lambda film: pictures[film], images.patients, frames, 0)


def random_pictures(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 3, SIZE, SIZE)).astype(np.float32)


def test_one_film_of_each_patient_comes_before_the_second_of_any():
    patients = np.array([0, 0, 0, 0, 1, 2, 2, 3])

    order = spread_over_patients(np.arange(8), patients, np.random.default_rng(0))

    assert sorted(order) == list(range(8))
    assert set(patients[order[:4]]) == {0, 1, 2, 3}
    assert set(patients[order[4:6]]) == {0, 2}
    assert (patients[order[6:]] == 0).all()


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(0, 9))
def test_any_beginning_holds_as_many_patients_as_it_can(patients, seed):
    films = np.arange(len(patients))
    who = np.array(patients, np.int64)[spread_over_patients(
        films, np.array(patients, np.int64), np.random.default_rng(seed)
    )]  # fmt: skip

    for count in range(len(patients) + 1):
        assert len(set(who[:count])) == min(count, len(set(patients)))


def test_pairs_are_compared_by_hand():
    change = np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0])
    control = np.array([0.0, 1.0, 0.5]), np.array([0.0, 1.0, 0.0])

    told = compare_pairs(change, control, np.array([7, 7, 3]), 0.95, 1.9)

    assert (told.pairs, told.patients) == (3, 2)
    assert (told.change, told.control, told.contrast) == (2.0, 0.5, 1.5)
    assert told.decisions == pytest.approx(1 / 3)
    # Two patients whose sums are three times the mean by films: nothing varies between them.
    assert (told.interval.low, told.interval.high) == (1.5, 1.5)
    assert (told.change_interval.low, told.change_interval.high) == (2.0, 2.0)
    # Deviations of 1/3 and -1/3 of patients with 2/3 and 1/3 of the films: a variance of
    # (1/9 : 1/3 + 1/9 : 2/3) / 9 = 1/18, and 1 / (4/9 + 1/9) - 1 = 0.8 degrees of freedom.
    reach = t.isf(0.025, 0.8) / 18**0.5
    ends = told.decisions_interval.low, told.decisions_interval.high
    assert ends == pytest.approx((1 / 3 - reach, 1 / 3 + reach))
    assert told.p_value == 1.0  # the contrast is 1.5 and does not vary
    assert compare_pairs(change, control, np.array([7, 7, 3]), 0.95, 1.4).p_value == 0.0


@pytest.mark.parametrize(
    ("change", "control"),
    [(0.6, 0.0), (0.6, 0.4), (0.4, -0.4), (0.0, -1.0), (1.0, 1.0), (-0.5, -1.0)],
)
def test_a_change_is_shown_by_itself_and_beyond_its_control(change, control):
    """The p is the larger one of two tests, each on one film a patient."""
    rng = np.random.default_rng(0)
    moved, usual = rng.normal(change, 0.5, 30), rng.normal(control, 0.5, 30)

    told = compare_pairs((moved, np.zeros(30)), (usual, np.zeros(30)), np.arange(30), 0.9, 0.1)

    of_both = [
        ttest_1samp(values, 0.1, alternative="greater").pvalue for values in (moved, moved - usual)
    ]
    assert told.p_value == pytest.approx(max(of_both))
    wide = compare_pairs((moved, np.zeros(30)), (usual, np.zeros(30)), np.arange(30), 0.99, 0.1)
    assert wide.p_value == told.p_value  # intervals alone have a level
    assert wide.interval.low < told.interval.low
    assert wide.change_interval.high > told.change_interval.high


class TestInputs:
    IMAGES = make_images([0, 0], sizes=[(24, 24), (48, 24)])

    def test_a_place_is_relative_to_the_film(self):
        inputs = make_inputs(self.IMAGES)
        shares = inputs.shares(np.array([5]))  # second row, third column of the first film

        np.testing.assert_allclose(shares, [[2 / 3, 1 / 3, 1, 2 / 3]])
        np.testing.assert_allclose(inputs.place(1, shares), [[16, 8, 24, 16]])

    def test_what_the_model_does_not_see_is_cut(self):
        inputs = make_inputs(self.IMAGES, mode="shortest")  # the middle of the tall film
        shares = inputs.shares(np.array([1, 4]))

        np.testing.assert_allclose(inputs.place(1, shares), [[8, 0, 16, 4], [8, 4, 16, 20]])

    def test_the_frame_is_the_film_without_its_padding(self):
        for mode, frame in (
            ("squash", [0, 0, 24, 24]), ("shortest", [0, 0, 24, 24]), ("longest", [6, 0, 18, 24]),
        ):  # fmt: skip
            inputs = make_inputs(self.IMAGES, mode=mode)
            np.testing.assert_allclose(inputs.frame(0), [0, 0, 24, 24])
            np.testing.assert_allclose(inputs.frame(1), frame)


def test_filled_films_equal_a_naive_loop():
    images, pictures = make_images([0] * 12), random_pictures(12)
    inputs, like = make_inputs(images, pictures), like_places(images, pictures)
    jobs = [(f, inputs.place(f, inputs.shares(np.array(r)))) for f, r in ((2, [18, 22]), (0, [5]))]

    filled = fill_films(inputs, jobs)

    assert len(filled) == 2
    for told, (film, boxes) in zip(filled, jobs, strict=True):
        before = margin_of(inputs.read(film))
        after = np.array([margin_of(like.fill(film, box)) for box in boxes])
        alone = [margin_of(fill_interpolated(pictures[film], box)) for box in boxes]
        assert (after != alone).all()
        assert told.film == film
        assert told.before == pytest.approx(before)
        assert told.decided == (before > 0)
        np.testing.assert_allclose(told.after, after)
        np.testing.assert_array_equal(told.decided_after, after > 0)
        np.testing.assert_allclose(told.effect, before - after)
        assert told.best == int(np.argmin(after))


def test_the_best_place_is_the_one_that_takes_most():
    film = FilledFilm(
        0, np.zeros((3, 4), np.float32), 4.0, True, np.array([5.0, 1.0, 2.0]), np.ones(3, bool)
    )

    assert film.effect.tolist() == [-1, 3, 2]
    assert film.best == 1


class TestPlaces:
    """Regions of film 1, in stored pixels, which are those of the input."""

    def choose(self, cluster_of, boxes, similarity=None, worth=None):
        images = make_images([0, 0])
        images.region_boxes[9 : 9 + len(boxes)] = boxes
        cluster = cluster_of([False, True], [0, 0], [True, True], 3, 9 + np.arange(len(boxes)))
        if similarity is not None:
            cluster.similarity[:] = similarity
        inputs = make_inputs(images)
        rows = np.arange(len(boxes))
        windows = EVEN if worth is None else replace(EVEN, worth=worth)
        return choose_places(inputs, cluster, rows, windows).tolist()

    def test_the_window_that_holds_most_of_the_regions_comes_first(self, cluster_of):
        first, *rest = self.choose(cluster_of, [[7, 6, 11, 11], [12, 6, 15, 9]])

        assert first == [6, 6, 12, 12]  # 20 of it; a step to the right holds 10 + 9
        assert rest[0] == [9, 6, 15, 12]

    def test_a_region_counts_by_its_similarity(self, cluster_of):
        boxes = [[0, 0, 6, 6], [12, 12, 16, 16]]

        assert self.choose(cluster_of, boxes, [1.0, 1.0])[0] == [0, 0, 6, 6]
        assert self.choose(cluster_of, boxes, [0.1, 1.0])[0] == [12, 12, 18, 18]

    def test_a_region_larger_than_a_window_is_a_place_itself(self, cluster_of):
        first, second, _ = self.choose(cluster_of, [[2, 3, 13, 17], [18, 18, 22, 22]])

        assert first == [2, 3, 13, 17]
        assert second == [18, 18, 24, 24]  # the small one is held by a window

    def test_large_regions_leave_the_windows_to_the_small_ones(self, cluster_of):
        places = self.choose(cluster_of, [[2, 3, 13, 17], [4, 4, 14, 14], [1, 1, 9, 9]])

        assert places == [[2, 3, 13, 17], [4, 4, 14, 14], [1, 1, 9, 9]]

    def test_what_holds_nothing_of_the_regions_is_no_place(self, cluster_of):
        assert self.choose(cluster_of, [[2, 3, 13, 17]]) == [[2, 3, 13, 17]]
        assert self.choose(cluster_of, [[0, 0, 2, 2]]) == [[0, 0, 6, 6]]

    @pytest.mark.parametrize("rounding", [0.0, 1e-4])
    def test_a_region_as_large_as_a_window_is_that_window(self, cluster_of, rounding):
        places = self.choose(cluster_of, [[6, 6, 12 + rounding, 12]])

        assert places[0] == [6, 6, 12, 12]
        assert len(places) == PLACES

    def test_a_window_that_reaches_a_region_with_a_corner_is_no_place_whatever_it_is_worth(
        self, cluster_of
    ):
        worth = np.full(len(WINDOWS), 0.01)
        corner = [3, 3, 9, 9]
        worth[WINDOWS.tolist().index(corner)] = 1.0

        assert self.choose(cluster_of, [[6, 6, 10, 10]], worth=worth)[0] == corner  # 9 of 16
        assert corner not in self.choose(cluster_of, [[7, 7, 11, 11]], worth=worth)  # 4 of 16

    def test_what_no_window_is_over_is_held_by_those_that_are_nearest_to_it(self, cluster_of):
        places = self.choose(cluster_of, [[0, 8, 24, 9.5]])  # six wide, each holds a quarter

        assert len(places) == PLACES
        assert all(y0 <= 8 and y1 >= 9.5 for _, y0, _, y1 in places)

    def test_regions_that_the_model_does_not_see_leave_one_place(self, cluster_of):
        images = make_images([0], sizes=[(72, 24)])  # the middle third is seen
        cluster = cluster_of([True], [0], [True], 3, [0])  # a tile at the top
        inputs = make_inputs(images, mode="shortest")

        assert len(choose_places(inputs, cluster, np.array([0]), EVEN)) == 1

    def test_of_windows_that_hold_a_region_those_worth_more_come_first(self, cluster_of):
        worth = np.full(len(WINDOWS), 0.1)
        beside = WINDOWS.tolist().index([9, 9, 15, 15])
        worth[beside] = 1.0

        boxes = [[6, 6, 9, 12], [9, 6, 14, 12]]
        assert self.choose(cluster_of, boxes, worth=worth)[0] == [9, 9, 15, 15]
        assert self.choose(cluster_of, [[0, 0, 6, 6]], worth=worth)[0] == [0, 0, 6, 6]


class TestBeside:
    """Windows that stand as control of a wrong call."""

    def test_they_are_those_that_hold_up_the_call_most_without_the_feature(self):
        usual = np.linspace(0.0, 1.0, len(WINDOWS))
        known = Windows(WINDOWS, usual, np.ones(len(WINDOWS)))
        places = WINDOWS[-3:]  # the strongest of all

        chosen = strongest_beside(places, known)

        apart = box_shares(places, WINDOWS).max(axis=0) == 0
        assert chosen.tolist() == np.flatnonzero(apart)[::-1][:3].tolist()
        assert len(strongest_beside(WINDOWS, known)) == 0  # nothing lies beside all of them


class TestWorth:
    """What filling a window does to 60 films, by how much of a feature it holds."""

    PATIENTS = np.repeat(np.arange(30), 2)

    def of(self, effects, noise=0.2, seed=0):
        rng = np.random.default_rng(seed)
        held = rng.uniform(0.2, 1.0, (60, len(effects)))
        held[rng.random(held.shape) < 0.3] = 0.0
        return held, held * effects + rng.normal(0, noise, held.shape)

    def test_it_equals_the_formula(self):
        held, drop = self.of(np.array([0.2, 0.5, 0.4, 0.9]), noise=0.6)

        def naive(films):
            n, sums = {}, {}
            for window in range(4):
                n[window] = sum(held[f, window] ** 2 for f in films)
                sums[window] = sum(held[f, window] * drop[f, window] for f in films)
            return n, sums

        n, sums = naive(range(60))
        holding = [(f, w) for f in range(60) for w in range(4) if held[f, w] > 0]
        left = sum((drop[f, w] - held[f, w] * sums[w] / n[w]) ** 2 for f, w in holding)
        noise, total = left / (len(holding) - 4), sum(n.values())
        mean = sum(sums.values()) / total
        q = sum(n[w] * (sums[w] / n[w] - mean) ** 2 for w in range(4)) / noise
        between = noise * (q - 3) / (total - sum(one**2 for one in n.values()) / total)
        assert between > 0

        def shares(films):
            n, sums = naive(films)
            kept = {w: 1 / (1 + noise / (between * n[w])) for w in range(4)}
            found = [kept[w] * sums[w] / n[w] + (1 - kept[w]) * mean for w in range(4)]
            return np.maximum(found, 0) / max(found)

        worth, without = window_worth(held, drop, self.PATIENTS)

        np.testing.assert_allclose(worth, shares(range(60)))
        others = [film for film in range(60) if self.PATIENTS[film] != 4]
        np.testing.assert_allclose(without[8], shares(others))

    def test_windows_are_worth_what_they_do(self):
        worth, _ = window_worth(*self.of(np.array([1.0, 0.5, 0.0, 2.0])), self.PATIENTS)

        np.testing.assert_allclose(worth, [0.5, 0.25, 0.0, 1.0], atol=0.06)

    def test_the_unit_of_similarity_changes_nothing(self):
        held, drop = self.of(np.array([0.2, 0.5, 0.4, 0.9]), noise=0.6)

        for unit in (1e-4, 1e4):
            for one, other in zip(
                window_worth(held, drop, self.PATIENTS),
                window_worth(unit * held, drop, self.PATIENTS),
                strict=True,
            ):
                np.testing.assert_allclose(one, other)

    def test_where_windows_differ_by_chance_alone_they_are_worth_the_same(self):
        rough, _ = window_worth(*self.of(np.full(20, 0.3), noise=1.0), self.PATIENTS)
        held, drop = self.of(np.full(20, 0.3), noise=1.0)
        raw = (held * drop).sum(axis=0) / (held**2).sum(axis=0)

        assert raw.min() < 0.5 * raw.max()
        assert rough.min() > 0.8

    def test_where_nothing_does_anything_windows_are_worth_the_same(self):
        worth, without = window_worth(*self.of(np.full(6, -1.0)), self.PATIENTS)

        np.testing.assert_array_equal(worth, 1.0)
        np.testing.assert_array_equal(without, 1.0)

    def test_a_film_says_nothing_of_itself(self):
        patients = np.repeat([0, 1, 2, 3], 15)
        held, drop = self.of(np.ones(3), noise=0.01)
        drop[patients == 3, 2] += held[patients == 3, 2]

        worth, without = window_worth(held, drop, patients)

        assert worth.argmax() == 2
        assert worth[0] < 0.9
        assert without[patients == 3].min() > 0.98
        assert (without[patients != 3].argmax(axis=1) == 2).all()

    def test_no_film_says_nothing(self):
        worth, without = window_worth(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, np.int64))

        assert worth.tolist() == [1, 1, 1]
        assert without.shape == (0, 3)


def test_regions_are_found_film_by_film(cluster_of):
    images = make_images([0] * 4)
    regions = np.array([30, 2, 27, 11, 0])  # of films 3, 0, 3, 1, 0
    cluster = cluster_of([True] * 4, [0] * 4, [True] * 4, 3, regions)

    rows = rows_by_film(cluster, images.region_image, np.array([0, 2, 3]))

    assert {film: own.tolist() for film, own in rows.items()} == {0: [1, 4], 3: [0, 2]}


class TestMatching:
    def match(self, films, pool, margin, labels=None, patients=None, sizes=None, mode="squash"):
        n = len(labels if margin is None else margin)
        images = make_images([0] * n if labels is None else labels, patients, sizes)
        own, controls = match_films(
            make_inputs(images, mode=mode),
            np.asarray(films),
            np.asarray(pool),
            margin if margin is None else np.asarray(margin, float),
        )
        assert len(set(controls.tolist())) == len(controls)
        return dict(zip(own.tolist(), controls.tolist(), strict=True))

    def test_a_control_has_about_the_same_margin_and_is_taken_once(self):
        margin = [1.0, 2.0, 3.0, 0.9, 2.2, 2.9, 9.0]

        assert self.match([0, 1, 2], [3, 4, 5, 6], margin) == {0: 3, 1: 4, 2: 5}

    def test_the_sum_of_all_differences_is_smallest(self):
        """Film 0 would rather have 3, but then 1 is left with nothing near."""
        margin = [1.0, 0.0, 9.0, 0.8, 1.4]

        assert self.match([0, 1], [3, 4, 2], margin) == {0: 4, 1: 3}

    def test_a_patient_is_never_its_own_control(self):
        margin, patients = [1.0, 2.0, 1.0, 8.0], [5, 6, 5, 7]

        assert self.match([0], [2, 3], margin, patients=patients) == {0: 3}
        assert self.match([0], [2], margin, patients=patients) == {}
        assert self.match([0, 1], [2], margin, patients=patients) == {1: 2}

    def test_the_same_class_is_preferred_where_margins_are_about_alike(self):
        labels = [1, 0, 1, 0, 0]
        spread = [0.0, 0.1, 0.3, -4.0, 4.0]

        assert self.match([0], [1, 2, 3, 4], spread, labels) == {0: 2}
        assert self.match([0], [1, 2], [0.0, 0.1, 4.0], labels[:3]) == {0: 1}

    def test_the_same_frame_is_preferred(self):
        """Letterboxed films: a place in the film is a place in the padding of another."""
        sizes, margin = [(48, 24), (24, 24), (96, 48)], [0.0, 0.0, 1.5]

        assert self.match([0], [1, 2], margin, sizes=sizes, mode="longest") == {0: 2}
        assert self.match([0], [1, 2], margin, sizes=sizes, mode="squash") == {0: 1}

    def test_there_may_be_nobody(self):
        none = np.empty(0, dtype=np.int64)

        assert self.match(none, [0, 1], [1.0, 2.0]) == {}
        assert self.match([0, 1], none, [1.0, 2.0]) == {}

    def test_films_of_one_margin_are_matched_all_the_same(self):
        assert len(self.match([0, 1], [2, 3, 4], [3.0] * 5)) == 2

    def test_without_a_margin_class_frame_and_patient_count(self):
        labels, sizes = [1, 0, 1, 0], [(24, 24), (24, 24), (24, 24), (48, 24)]

        assert self.match([0], [1, 2, 3], None, labels) == {0: 2}
        assert self.match([0, 1], [2, 3], None, labels) == {0: 2, 1: 3}
        assert self.match([0], [2, 3], None, labels, patients=[7, 8, 7, 9]) == {0: 3}
        assert self.match([1], [2, 3], None, labels, sizes=sizes, mode="longest") == {1: 2}
        assert self.match([0], [1], None, labels) == {0: 1}  # better of another class than none

    @given(st.integers(0, 10_000), st.booleans())
    @settings(max_examples=60, deadline=None)
    def test_it_is_as_good_as_the_best_of_all_assignments(self, seed, by_margin):
        rng = np.random.default_rng(seed)
        n, m = rng.integers(1, 5, 2)
        films, pool = np.arange(n), np.arange(n, n + m)
        margin, labels = rng.normal(size=n + m), rng.integers(0, 3, n + m)
        patients = rng.integers(0, 4, n + m)
        sizes = np.where(rng.random((n + m, 1)) < 0.5, [[24, 24]], [[48, 24]])

        matched = self.match(
            films, pool, margin if by_margin else None, labels, patients, sizes, "longest"
        )

        def cost(film, control):
            if patients[film] == patients[control]:
                return 1e6
            frame = 0.0 if (sizes[film] == sizes[control]).all() else 20 * 12 / 24
            other = 0.5 * (labels[film] != labels[control])
            apart = abs(margin[film] - margin[control]) / margin.std() if by_margin else 0.0
            return apart + other + frame

        short, long = (films, pool) if n <= m else (pool, films)
        best = min(
            sum(cost(*sorted(pair)) for pair in zip(short, order, strict=True))
            for order in permutations(long, len(short))
        )
        missing = min(n, m) - len(matched)
        total = sum(cost(*pair) for pair in matched.items())
        assert total + missing * 1e6 == pytest.approx(best)


class TestPairs:
    """Films 0 to 59: the feature in every other one; the first half has discovered."""

    LABELS = np.tile([0, 0, 1, 1, 2, 2, 1, 1, -1, -1], 6)
    PREDICTIONS = np.tile([0, 0, 0, 0, 2, 2, 0, 0, 0, 0], 6)  # class b is called a
    PRESENT = np.arange(60) % 2 == 0
    HALF = np.arange(60) >= 20
    IMAGES = make_images(LABELS, predictions=PREDICTIONS)

    def cluster(self, cluster_of):
        regions = np.flatnonzero(self.PRESENT[self.IMAGES.region_image] & (np.arange(540) % 9 < 2))
        return cluster_of(
            self.PRESENT, np.maximum(self.LABELS, 0), self.PRESENT, 3, regions, raised_class=0,
            lowered_classes=(1,),
        )  # fmt: skip

    def pair(self, cluster_of, most=50, images=IMAGES, bare=~PRESENT):
        inputs, cluster = make_inputs(images), self.cluster(cluster_of)
        rng = np.random.default_rng(0)
        return pair_films(inputs, cluster, bare, self.HALF, EVEN, most, rng)

    def test_who_is_called_wrongly(self, cluster_of):
        cluster = self.cluster(cluster_of)

        wrong = wrongly_called(self.IMAGES, cluster)

        assert wrong.tolist() == ((self.LABELS != 0) & (self.PREDICTIONS == 0)).tolist()
        # On films of b and c with the feature, of which two of three are called a.
        assert share_called(self.IMAGES, cluster, self.HALF) == pytest.approx(2 / 3)
        assert share_called(self.IMAGES, cluster, self.LABELS == 0) == 0.0

    def test_films_of_the_half_that_tests_and_controls_without_the_feature(self, cluster_of):
        pairs = self.pair(cluster_of)

        assert len(pairs.films) == len(pairs.controls) == len(pairs.places) == 16
        assert self.PRESENT[pairs.films].all()
        assert not self.PRESENT[pairs.controls].any()
        for films in (pairs.films, pairs.controls):
            assert self.HALF[films].all()
            assert (self.LABELS[films] >= 0).all()
            assert len(set(films.tolist())) == 16
        for places in pairs.places:  # tiles that are larger than a window
            assert places.tolist() == [[0, 0, 8, 8], [8, 0, 16, 8]]

    def test_no_control_holds_what_is_folded_into_the_feature(self, cluster_of):
        bare = ~self.PRESENT & (np.arange(60) % 5 > 0)

        pairs = self.pair(cluster_of, bare=bare)

        assert bare[pairs.controls].all()
        assert len(pairs.films) == (bare & self.HALF & (self.LABELS >= 0)).sum()

    def test_own_films_and_others_take_turns_whatever_they_are_called(self, cluster_of):
        pairs = self.pair(cluster_of, most=8)

        own = self.LABELS[pairs.films] == 0
        assert (own.sum(), (~own).sum()) == (4, 4)
        other_way = replace(self.IMAGES, predictions=(self.IMAGES.predictions + 1) % 3)
        again = self.pair(cluster_of, most=8, images=other_way)
        assert again.films.tolist() == pairs.films.tolist()

    @pytest.mark.parametrize("most", [9, 50])
    def test_the_controls_are_of_the_same_class(self, cluster_of, most):
        """There are as many of each class with the feature as without."""
        pairs = self.pair(cluster_of, most=most)

        assert (self.LABELS[pairs.films] == self.LABELS[pairs.controls]).all()
        assert set(self.LABELS[pairs.films]) == {0, 1, 2}

    def test_films_of_each_kind_are_spread_over_patients(self, cluster_of):
        patients = np.where(np.arange(60) < 40, 20, np.arange(60))  # most films are of one patient
        images = make_images(self.LABELS, patients, predictions=self.PREDICTIONS)

        pairs = self.pair(cluster_of, most=6, images=images)

        own = self.LABELS[pairs.films] == 0
        for kind in (own, ~own):
            assert len(set(patients[pairs.films[kind]].tolist())) == 3


class TestFilledPairs:
    def fill(self, patients, films=(0, 1, 2), controls=(3, 4, 5), asked=None):
        pictures = random_pictures(len(patients))
        images = make_images([0] * len(patients), patients)
        inputs = make_inputs(images, pictures, asked=asked)
        places = [WINDOWS[[at, at + 9, at + 20]] for at in range(len(films))]
        pairs = FilmPairs(np.array(films), np.array(controls), places)
        self.bare = np.arange(len(patients)) % 2 == 1
        self.like = like_places(images, pictures)
        return pictures, pairs, fill_pairs(inputs, pairs, self.bare)

    def test_it_equals_a_naive_loop(self):
        pictures, pairs, filled = self.fill(np.arange(12))

        before = [margin_of(picture) for picture in pictures]
        for columns, films in (
            ((filled.drop, filled.undone), pairs.films),
            ((filled.control_drop, filled.control_undone), pairs.controls),
        ):
            for at, film in enumerate(films):
                painted = [self.like.fill(film, box) for box in pairs.places[at]]
                best = int(np.argmin([margin_of(picture) for picture in painted]))
                replaced = self.like.replace(film, pairs.places[at][best], self.bare)
                after = [margin_of(painted[best]), margin_of(replaced)]
                assert after[0] != after[1]
                np.testing.assert_allclose(columns[0][at], np.subtract(before[film], after))
                assert columns[1][at].tolist() == [before[film] > 0 >= one for one in after]
        assert [film.film for film in filled.filled] == [0, 1, 2]
        assert filled.imbalance == pytest.approx(np.mean(before[:3]) - np.mean(before[3:6]))

    def test_no_more_is_encoded_than_the_places_and_one_replaced_each(self):
        asked = []

        self.fill(np.arange(6), asked=asked)

        assert len(asked) == 2 * 3 * (PLACES + 1)

    def test_a_pair_is_filled_alike_whichever_the_others_are(self):
        _, _, alone = self.fill(np.arange(12), (0,), (3,))

        _, _, among = self.fill(np.arange(12))

        for name in ("drop", "undone", "control_drop", "control_undone"):
            np.testing.assert_array_equal(getattr(among, name)[:1], getattr(alone, name))


class TestSharper:
    """Three pairs whose films have a square at their only place, as have the controls."""

    def sharper(self, of_films, of_controls, blur=0.0):
        """Compare squares of so much contrast; those of the films are blurred so."""
        pictures = np.zeros((12, 3, SIZE, SIZE), np.float32)
        squares = np.array([*of_films, *of_controls, *[0.0] * 6])
        pictures[:, :, 7:11, 2:4] = squares.reshape(12, 1, 1, 1)
        if blur:
            pictures[:3] = gaussian_filter(pictures[:3], (0, 0, blur, blur))
        inputs = make_inputs(make_images([0] * 12), pictures)
        place = np.array([[1, 6, 5, 12]], np.float32)
        pairs = FilmPairs(np.arange(3), np.arange(3, 6), [place] * 3)
        return fill_pairs(inputs, pairs, np.ones(12, bool)).sharper.tolist()

    def test_what_has_stronger_edges_is_sharper_each_pair_by_itself(self):
        assert self.sharper([3.0, 1.0, -3.0], [1.5, 1.5, 1.5]) == [1.0, 0.0, 1.0]

    @pytest.mark.parametrize(("blur", "expected"), [(0.5, 1.0), (2.0, 0.0)])
    def test_what_is_blurred_as_a_body_is_not_though_it_is_brighter(self, blur, expected):
        assert self.sharper([3.0] * 3, [1.5] * 3, blur) == [expected] * 3

    def test_of_two_places_that_are_as_sharp_neither_is(self):
        assert self.sharper([2.0] * 3, [2.0] * 3) == [0.5] * 3
        assert self.sharper([0.0] * 3, [0.0] * 3) == [0.5] * 3

    def test_it_equals_a_filter_of_the_whole_film(self):
        picture = np.random.default_rng(0).normal(size=(3, 40, 40)).astype(np.float32)
        box = np.array([3, 20, 11, 33], np.float32)
        fine = picture - gaussian_filter(picture, (0, 2, 2), mode="nearest")
        naive = np.sqrt(np.square(fine[:, 20:33, 3:11]).mean())
        assert _fine_detail(picture, box) == pytest.approx(naive, rel=1e-5)


class TestTransplants:
    LABELS = np.tile([0, 0, 1, 1, 2, 2, -1, -1], 6)
    PRESENT = np.arange(48) % 2 == 0
    HALF = np.arange(48) >= 24

    def compare(
        self, cluster_of, pairs=2, donors=12, asked=None, patients=None, least=0.0, sizes=None
    ):
        regions = np.flatnonzero(np.repeat(self.PRESENT, 9) & (np.arange(432) % 9 == 4))
        cluster = cluster_of(
            self.PRESENT, np.maximum(self.LABELS, 0), self.PRESENT, 3, regions, raised_class=0,
            lowered_classes=(1,),
        )  # fmt: skip
        self.pictures = random_pictures(48)
        images = make_images(self.LABELS, patients, sizes)
        inputs = make_inputs(images, self.pictures, "longest", asked=asked)
        self.donors = Donors(
            np.arange(0, 24, 2)[:donors], WINDOWS[:donors],
            np.arange(1, 24, 2)[:donors], WINDOWS[20 : 20 + donors],
        )  # fmt: skip
        evidence = EvidenceConfig.model_construct(min_pairs=pairs)
        rng = np.random.default_rng(0)
        aims = self.HALF & ~self.PRESENT
        return compare_transplants(inputs, cluster, self.donors, aims, evidence, least, rng)

    def test_it_equals_a_naive_loop_over_who_gave_to_whom(self, cluster_of):
        asked, donors = [], None

        told = self.compare(cluster_of, asked=asked, least=-0.1)

        donors, given, taken = self.donors, [], []
        rises, gains = [], []
        for first, second in zip(asked[::2], asked[1::2], strict=True):
            fits = [
                (target, row)
                for target in range(48)
                for row in range(12)
                if np.array_equal(first, self.transplant(target, donors.films, donors.boxes, row))
            ]
            assert len(fits) == 1
            [(target, row)] = fits
            ordinary = self.transplant(target, donors.ordinary, donors.ordinary_boxes, row)
            np.testing.assert_array_equal(second, ordinary)
            given.append(row)
            taken.append(target)
            before = margin_of(self.pictures[target])
            rises.append([margin_of(picture) - before for picture in (first, second)])
            gains.append([margin_of(picture) > 0 >= before for picture in (first, second)])
        # Targets: of the half that tests, of another class, without the feature; each once.
        free = self.HALF & ~self.PRESENT & np.isin(self.LABELS, (1, 2))
        assert sorted(taken) == np.flatnonzero(free).tolist()
        assert len(set(given)) == len(given) == told.pairs == 6
        change, control = np.mean(rises, axis=0)
        assert told.change == pytest.approx(change)
        assert told.control == pytest.approx(control)
        assert told.contrast == pytest.approx(change - control)
        own, usual = np.transpose(rises)
        of_both = [
            ttest_1samp(values, -0.1, alternative="greater").pvalue for values in (own, own - usual)
        ]
        assert told.p_value == pytest.approx(max(of_both))
        gained, without = np.mean(gains, axis=0)
        assert told.decisions == pytest.approx(gained - without)

    def transplant(self, target, films, boxes, row):
        return transplant_box(self.pictures[target], self.pictures[films[row]], boxes[row])

    def test_a_place_goes_into_films_of_the_same_frame(self, cluster_of):
        """Else a place on the film becomes one on the padding, or takes its border along."""
        upright = np.isin(np.arange(48), [2, 3, 8, 9, 27, 35])  # two donors, and two targets
        sizes = np.where(upright[:, None], (SIZE, SIZE // 2), (SIZE, SIZE))
        asked = []

        self.compare(cluster_of, asked=asked, sizes=sizes)

        for first in asked[::2]:
            [(target, donor)] = [
                (target, donor)
                for target in range(48)
                for row, donor in enumerate(self.donors.films)
                if np.array_equal(
                    first, self.transplant(target, self.donors.films, self.donors.boxes, row)
                )
            ]
            assert upright[target] == upright[donor]

    def test_fewer_pairs_than_the_least_are_no_test(self, cluster_of):
        asked = []

        assert self.compare(cluster_of, pairs=7, asked=asked) is None  # six targets
        assert self.compare(cluster_of, pairs=5, donors=4, asked=asked) is None
        assert asked == []
        assert self.compare(cluster_of, pairs=6).pairs == 6
        assert self.compare(cluster_of, pairs=4, donors=4).pairs == 4

    def test_where_donors_are_few_targets_are_of_many_patients(self, cluster_of):
        patients = np.where(np.isin(np.arange(48), [27, 29, 35]), 99, np.arange(48))

        told = self.compare(cluster_of, donors=3, patients=patients)

        assert (told.pairs, told.patients) == (3, 3)
