"""The parts of a counterfactual test: sampling, controls, pairs, removal and transplant."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.counterfactual.fills import fill_inpaint, fill_median, transplant_patches
from ravl_med.evidence.counterfactual.interventions import (
    FilledFilm,
    FilmPair,
    Transplantation,
    carrying_threshold,
    compare_removals,
    compare_transplants,
    fill_films,
    match_controls,
    plan_transplants,
    sample_films,
)
from ravl_med.evidence.counterfactual.model_inputs import (
    Margins,
    ModelInputs,
    compare_pairs,
    spread_over_patients,
)
from ravl_med.regions.geometry import InputGeometry

SIZE = 24
BOTH = (fill_median, fill_inpaint)
EVIDENCE = EvidenceConfig.model_construct(draws=500)


def tiles(sizes, rows=3):
    """Tiles of every film, row by row: image of each, and boxes in stored pixels."""
    image, boxes = [], []
    for i, (h, w) in enumerate(sizes):
        for r in range(rows):
            for c in range(rows):
                image.append(i)
                boxes.append([c * w / rows, r * h / rows, (c + 1) * w / rows, (r + 1) * h / rows])
    return np.array(image), np.array(boxes, np.float32)


def make_images(labels, patients=None, sizes=None, classes=3):
    n = len(labels)
    sizes = np.full((n, 2), SIZE) if sizes is None else np.asarray(sizes)
    region_image, region_boxes = tiles(sizes)
    return AuditData(
        classes=tuple("abc"[:classes]),
        labels=np.asarray(labels),
        predictions=np.asarray(labels),
        patients=np.arange(n) if patients is None else np.asarray(patients),
        sizes=sizes,
        region_image=region_image,
        region_boxes=region_boxes,
    )


def make_inputs(images, pictures, mode="squash"):
    """The margin is the weighted mean of a picture; decided where it is above 0."""
    weight = np.random.default_rng(9).normal(size=(3, SIZE, SIZE))

    def margins(stream):
        margin = np.array([float((weight * picture).mean()) for picture in stream])
        return Margins(margin, margin > 0)

    return ModelInputs(
        images,
        lambda film: pictures[film],
        lambda height, width: InputGeometry.of(height, width, SIZE, mode),
        margins,
        lambda count: None,
    )


def places(inputs, cluster, films):
    """Where the regions of a cluster lie on these films."""
    image = inputs.data.region_image[cluster.regions]
    return {int(f): inputs.shares(cluster.regions[image == f]) for f in films}


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
    change = np.array([3.0, 1.0, 2.0]), np.array([True, True, False])
    control = np.array([0.0, 1.0, 0.5]), np.array([False, True, False])

    told = compare_pairs(change, control, np.array([7, 7, 3]), EVIDENCE, 1)

    assert (told.pairs, told.patients) == (3, 2)
    assert (told.change, told.control, told.contrast) == (2.0, 0.5, 1.5)
    assert told.decisions == pytest.approx(1 / 3)
    # Two patients: both of one (1.5 for the first, two films), both of the other, or one of each.
    assert (told.interval.low, told.interval.high) == (1.5, 1.5)
    assert (told.decisions_interval.low, told.decisions_interval.high) == (0.0, 0.5)


class TestBench:
    IMAGES = make_images([0, 0], sizes=[(24, 24), (48, 24)])

    def test_a_place_is_relative_to_the_film(self):
        inputs = make_inputs(self.IMAGES, None)
        shares = inputs.shares(np.array([5]))  # second row, third column of the first film

        np.testing.assert_allclose(shares, [[2 / 3, 1 / 3, 1, 2 / 3]])
        np.testing.assert_allclose(inputs.place(1, shares), [[16, 8, 24, 16]])

    def test_what_the_model_does_not_see_is_cut(self):
        inputs = make_inputs(self.IMAGES, None, "shortest")  # the middle of the tall film
        shares = inputs.shares(np.array([1, 4]))

        np.testing.assert_allclose(inputs.window(0), [0, 0, 1, 1])
        np.testing.assert_allclose(inputs.window(1), [0, 0.25, 1, 0.75])
        np.testing.assert_allclose(inputs.place(1, shares), [[8, 0, 16, 4], [8, 4, 16, 20]])
        np.testing.assert_allclose(inputs.visible_share(1, shares), [0.25, 1])


def test_filled_films_equal_a_naive_loop():
    images = make_images([0] * 4)
    inputs = make_inputs(images, random_pictures(4))
    jobs = [(f, inputs.place(f, inputs.shares(np.array(r)))) for f, r in ((2, [18, 22]), (0, [5]))]

    filled = fill_films(inputs, jobs)

    for told, (film, boxes) in zip(filled, jobs, strict=True):
        before = inputs.margins([inputs.read(film)]).margin[0]
        after = np.array([
            [inputs.margins([fill(inputs.read(film), box)]).margin[0] for fill in BOTH]
            for box in boxes
        ])  # fmt: skip
        mean = [(flat + painted) / 2 for flat, painted in after]
        assert told.film == film
        assert told.before == pytest.approx(before)
        assert told.decided == (before > 0)
        np.testing.assert_allclose(told.after, after)
        np.testing.assert_array_equal(told.decided_after, after > 0)
        np.testing.assert_allclose(told.effect, before - np.array(mean))
        assert told.best == int(np.argmin(mean))


def film_after(before, *after):
    """A film whose regions leave these margins: with the surrounding median, inpainted."""
    margins = np.array(after)
    return FilledFilm(
        0, np.zeros((len(after), 4), np.float32), before, before > 0, margins, margins > 0
    )


def test_a_region_is_judged_by_both_fills():
    """The first is best by its median, the second by its inpainting, the third by their mean."""
    film = film_after(4.0, (0.0, 5.0), (5.0, -0.5), (1.0, 2.0))

    assert film.effect.tolist() == [1.5, 1.75, 2.5]
    assert film.best == 2


def filled_film(*effects):
    """Neither fill has the effect by itself; their mean has it."""
    return film_after(0.0, *((0.5 - effect, -0.5 - effect) for effect in effects))


@pytest.mark.parametrize(
    ("films", "expected"),
    [
        ([(4.0, 1.0), (2.0,), (0.5, 1.0, 0.1)], 1.0),  # median of 4, 2, 1
        ([(4.0,), (2.0,)], 1.5),
        ([(-1.0, -3.0), (-0.5,)], 0.0),
        ([], 0.0),
    ],
)
def test_the_trimming_rule(films, expected):
    assert carrying_threshold([filled_film(*effects) for effects in films]) == expected


class TestSample:
    """Films 0 to 39: two regions of the cluster in the even ones; the first half discovers."""

    LABELS = np.tile([0, 0, 1, 1, 2, 2, -1, -1], 5)
    IMAGES = make_images(LABELS)
    PRESENT = np.arange(40) % 2 == 0
    REGIONS = np.flatnonzero(PRESENT[IMAGES.region_image] & (np.arange(360) % 9 < 2))
    DISCOVERY = np.arange(40) < 16

    def cluster(self, cluster_of, present=PRESENT, regions=REGIONS):
        return cluster_of(
            present, np.maximum(self.LABELS, 0), present, 3, regions, raised_class=0,
            lowered_classes=(1,),
        )  # fmt: skip

    def sample(self, cluster, discovery=DISCOVERY, max_removals=40, max_pairs=10):
        rng = np.random.default_rng(0)
        return sample_films(self.IMAGES, cluster, discovery, max_removals, max_pairs, rng)

    def test_all_films_of_the_task_are_taken_where_the_budget_lasts(self, cluster_of):
        films, testable = self.sample(self.cluster(cluster_of))

        expected = np.flatnonzero(self.PRESENT & (self.LABELS >= 0))
        assert sorted(films) == expected.tolist()
        assert sorted(testable) == expected[expected >= 16].tolist()

    def test_a_third_of_the_budget_is_for_discovery(self, cluster_of):
        films, testable = self.sample(self.cluster(cluster_of), max_removals=12)

        assert (films < 16).sum() == 2  # 4 regions
        assert (films >= 16).sum() == 4  # 8 regions
        assert sorted(testable) == sorted(films[films >= 16])

    def test_what_one_half_leaves_goes_to_the_other(self, cluster_of):
        cluster = self.cluster(cluster_of)

        films, _ = self.sample(cluster, np.arange(40) < 36, max_removals=12)
        assert (films >= 36).sum() == 1  # film 36; film 38 takes no part in the task
        assert (films < 36).sum() == 5

    def test_pairs_are_limited(self, cluster_of):
        films, testable = self.sample(self.cluster(cluster_of), max_pairs=4)

        assert len(testable) == 4
        assert (films >= 16).sum() == 9

    def test_no_more_of_a_class_are_tested_than_have_a_control(self, cluster_of):
        present = self.PRESENT | (self.LABELS == 0)  # class a: no film without
        present[17] = False  # but this one
        cluster = self.cluster(cluster_of, present)

        _, testable = self.sample(cluster)

        assert Counter(self.LABELS[testable]) == {0: 1, 1: 3, 2: 3}

    def test_nothing_to_sample(self, cluster_of):
        cluster = self.cluster(
            cluster_of, np.arange(40) == 6, np.array([54])
        )  # a film that takes no part

        films, testable = self.sample(cluster)

        assert len(films) == len(testable) == 0


class TestControls:
    LABELS = np.repeat([0, 1], 20)
    PRESENT = np.tile(np.repeat([True, False], 5), 4)
    DISCOVERY = np.zeros(40, bool)

    def match(self, cluster_of, patients=None, pictures=None, films=None):
        images = make_images(self.LABELS, patients)
        regions = np.flatnonzero(self.PRESENT[images.region_image] & (np.arange(360) % 9 == 4))
        cluster = cluster_of(self.PRESENT, self.LABELS, self.PRESENT, 2, regions)
        inputs = make_inputs(images, random_pictures(40) if pictures is None else pictures)
        films = np.flatnonzero(self.PRESENT) if films is None else films
        return match_controls(
            inputs,
            cluster,
            self.DISCOVERY,
            places(inputs, cluster, films),
            np.random.default_rng(0),
        )

    def test_a_control_is_of_the_same_class_without_the_feature_and_used_once(self, cluster_of):
        pairs = self.match(cluster_of)

        assert len(pairs) == 20
        assert len({pair.control for pair in pairs}) == 20
        for pair in pairs:
            assert self.LABELS[pair.film] == self.LABELS[pair.control]
            assert not self.PRESENT[pair.control]
            np.testing.assert_array_equal(pair.control_boxes, [[8, 8, 16, 16]])

    def test_films_of_the_discovery_half_are_no_controls(self, cluster_of):
        self.DISCOVERY = np.isin(np.arange(40), [5, 6, 7, 8, 9])

        pairs = self.match(cluster_of, films=np.arange(5))

        assert {pair.control for pair in pairs} == {15, 16, 17, 18, 19}

    def test_the_fill_changes_it_about_as_strongly(self, cluster_of):
        strength = np.ones(40)
        strength[[0, 16]] = 3.0, 2.5
        pictures = random_pictures(40) * strength[:, None, None, None]
        self.DISCOVERY = np.isin(np.arange(40), [5, 6])  # leaves 8 of class a: all are looked at

        [pair] = self.match(cluster_of, pictures=pictures.astype(np.float32), films=np.array([0]))

        assert pair.control == 16
        assert 1.0 < pair.contrast_ratio < 1.4

    def test_another_patient_is_preferred(self, cluster_of):
        patients = np.arange(40)
        patients[5:10] = 0  # of the same patient as film 0; films 15 to 19 are not
        patients[15:20] = 15

        [pair] = self.match(cluster_of, patients, films=np.array([0]))
        assert pair.control in range(5, 20)
        self.DISCOVERY = np.isin(np.arange(40), [7, 8, 9])

        strange = self.match(cluster_of, np.where(np.arange(40) < 9, 0, 1), films=np.array([0]))
        assert strange[0].control in {5, 6, 15, 16, 17, 18, 19}

    def test_a_film_that_hides_the_place_is_no_control(self, cluster_of):
        sizes = np.full((40, 2), SIZE)
        sizes[5:10] = [72, 24]  # "shortest" shows the middle third
        images = make_images(self.LABELS, sizes=sizes)
        regions = np.array([0])  # the upper left tile of film 0
        cluster = cluster_of(self.PRESENT, self.LABELS, self.PRESENT, 2, regions)
        inputs = make_inputs(images, random_pictures(40), "shortest")
        self.DISCOVERY = np.isin(np.arange(40), [15, 16, 17, 18])

        [pair] = match_controls(
            inputs, cluster, self.DISCOVERY, places(inputs, cluster, [0]), np.random.default_rng(0)
        )
        assert pair.control == 19
        self.DISCOVERY[19] = True
        assert not match_controls(
            inputs, cluster, self.DISCOVERY, places(inputs, cluster, [0]), np.random.default_rng(0)
        )


def test_removals_are_compared_by_a_naive_loop():
    images = make_images([0] * 6, patients=[0, 0, 1, 2, 3, 4])
    inputs = make_inputs(images, random_pictures(6))
    place = inputs.place(0, inputs.shares(np.array([0, 4, 8])))
    pairs = [FilmPair(0, 3, place, 1.0), FilmPair(1, 4, place, 1.0), FilmPair(2, 5, place, 1.0)]
    filled = fill_films(inputs, [(pair.film, place) for pair in pairs])

    median, inpainted, spread = compare_removals(inputs, pairs, filled, EVIDENCE, 1)

    def margin(picture):
        return float(inputs.margins([picture]).margin[0])

    changes = {fill: [] for fill in BOTH}
    lost = {fill: [] for fill in BOTH}
    choices = []
    for film in range(6):
        picture = inputs.read(film)
        after_each = [[margin(fill(picture, box)) for fill in BOTH] for box in place]
        best = place[np.argmin([sum(pair) / 2 for pair in after_each])]
        choices.append([np.argmin(each) for each in zip(*after_each, strict=True)])
        for fill in changes:
            after = margin(fill(picture, best))
            changes[fill].append(margin(picture) - after)
            lost[fill].append(margin(picture) > 0 >= after)
    assert spread == pytest.approx(np.std([margin(inputs.read(film)) for film in range(6)]))
    assert any(flat != painted for flat, painted in choices)  # it matters that both choose
    for told, fill in ((median, fill_median), (inpainted, fill_inpaint)):
        assert (told.pairs, told.patients) == (3, 2)
        assert told.change == pytest.approx(np.mean(changes[fill][:3]))
        assert told.control == pytest.approx(np.mean(changes[fill][3:]))
        assert told.contrast == pytest.approx(told.change - told.control)
        assert told.decisions == pytest.approx(np.mean(lost[fill][:3]) - np.mean(lost[fill][3:]))


class TestTransplants:
    LABELS = np.tile([0, 0, 1, 1, 2, 2, -1, -1], 6)
    PRESENT = np.arange(48) % 2 == 0
    DISCOVERY = np.arange(48) < 24

    def plan(self, cluster_of, images, mode="squash", tile=(4, 5), max_pairs=10):
        regions = np.flatnonzero(
            self.PRESENT[images.region_image]
            & np.isin(np.arange(len(images.region_image)) % 9, tile)
        )
        cluster = cluster_of(
            self.PRESENT, np.maximum(self.LABELS, 0), self.PRESENT, 3, regions, raised_class=0,
            lowered_classes=(1,),
        )  # fmt: skip
        inputs = make_inputs(images, random_pictures(48), mode)
        return inputs, plan_transplants(
            inputs, cluster, self.DISCOVERY, max_pairs, np.random.default_rng(0)
        )

    def test_who_gives_and_who_takes(self, cluster_of):
        _, planned = self.plan(cluster_of, make_images(self.LABELS))

        # Confirmation half: 3 films each of b and c without; discovery half: 3 of a, b and c.
        assert len(planned) == 6
        for plan in planned:
            assert self.LABELS[plan.target] in (1, 2)
            assert not self.PRESENT[plan.target]
            assert not self.DISCOVERY[plan.target]
            assert self.DISCOVERY[[plan.donor, plan.ordinary]].all()
            assert self.PRESENT[plan.donor]
            assert not self.PRESENT[plan.ordinary]
            assert self.LABELS[plan.donor] == self.LABELS[plan.ordinary] >= 0
            np.testing.assert_allclose(
                plan.shares, np.array([[1, 1, 2, 2], [2, 1, 3, 2]]) / 3, atol=1e-6
            )
        for role in ("target", "donor", "ordinary"):
            assert len({getattr(plan, role) for plan in planned}) == 6

    def test_pairs_are_limited(self, cluster_of):
        assert len(self.plan(cluster_of, make_images(self.LABELS), max_pairs=4)[1]) == 4

    def test_the_ordinary_film_is_of_another_patient_where_there_is_one(self, cluster_of):
        patients = np.arange(48) // 2  # each film with the feature beside one without

        _, planned = self.plan(cluster_of, make_images(self.LABELS, patients), max_pairs=3)

        assert all(patients[plan.donor] != patients[plan.ordinary] for plan in planned)

    def test_a_place_that_one_of_the_films_hides_is_left_out(self, cluster_of):
        sizes = np.full((48, 2), SIZE)
        sizes[24:] = [36, 24]  # of the targets, "shortest" shows rows 1/6 to 5/6

        _, planned = self.plan(
            cluster_of, make_images(self.LABELS, sizes=sizes), "shortest", (1, 4)
        )
        assert len(planned) == 6
        for plan in planned:  # the upper tile keeps half of its area
            np.testing.assert_allclose(
                plan.shares, [[1 / 3, 1 / 6, 2 / 3, 1 / 3], [1 / 3, 1 / 3, 2 / 3, 2 / 3]], atol=1e-6
            )
        sizes[24:] = [48, 24]  # rows 1/4 to 3/4
        _, planned = self.plan(
            cluster_of, make_images(self.LABELS, sizes=sizes), "shortest", (1, 4)
        )
        assert all(len(plan.shares) == 1 for plan in planned)
        assert not self.plan(
            cluster_of, make_images(self.LABELS, sizes=sizes), "shortest", (1,)
        )[1]  # fmt: skip

    def test_they_are_compared_by_a_naive_loop(self):
        images = make_images([0] * 6, sizes=[(24, 24)] * 3 + [(48, 30)] * 3)
        inputs = make_inputs(images, random_pictures(6))
        shares = inputs.shares(np.array([4, 5]))
        planned = [Transplantation(0, 2, 4, shares), Transplantation(3, 1, 5, shares)]

        told = compare_transplants(inputs, planned, EVIDENCE, 1)

        def margin(picture):
            return float(inputs.margins([picture]).margin[0])

        rises = []
        won = []
        for plan in planned:
            target = inputs.read(plan.target)
            for film in (plan.donor, plan.ordinary):
                there, here = inputs.place(plan.target, shares), inputs.place(film, shares)
                after = margin(transplant_patches(target, inputs.read(film), there, here))
                rises.append(after - margin(target))
                won.append(after > 0 >= margin(target))
        assert told.pairs == 2
        assert told.change == pytest.approx(np.mean(rises[::2]))
        assert told.control == pytest.approx(np.mean(rises[1::2]))
        assert told.decisions == pytest.approx(np.mean(won[::2]) - np.mean(won[1::2]))
