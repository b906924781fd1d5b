"""Confounded: what loses its gap when a feature that the model uses is held fixed."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ravl_med.evidence.duplicates import fold_counting, name_confounded
from ravl_med.evidence.results import (
    Counterfactual,
    EffectShares,
    Interval,
    PairedChange,
    Removal,
    SpuriousCorrelation,
)

MAX_GAP = 0.1
NOTHING = Interval(0.0, 0.0)
SHARE = {(1, True): 0.8, (1, False): 0.4, (0, True): 0.2, (0, False): 0.6, (-1, False): 0.0}
"""Accuracy by class and presence of the used feature: it raises class 1 and lowers class 0."""


@pytest.fixture
def films(films_of):
    def make(*cells):
        """Used feature, second one, labels, hits; from (class, used, second, films[, hits]).

        Unless they are given, the used feature alone decides the hits.
        """
        groups = [
            (label, used, n, own[0] if own else round(SHARE[label, used] * n))
            for label, used, _, n, *own in cells
        ]
        used, labels, hits = films_of(*groups)
        second = np.repeat([cell[2] for cell in cells], [cell[3] for cell in cells])
        return used, second, labels, hits

    return make


@pytest.fixture
def entry(cluster_of):
    def make(rank, present, labels, hits, counts=False, status="confirmed"):
        cluster = cluster_of(present, labels, hits)
        assert (cluster.raised_class, cluster.opposed_classes) == (1, (0,))
        return SpuriousCorrelation(
            rank=rank,
            cluster=cluster,
            confirmation=SimpleNamespace(status=status),
            counterfactual=None,
            strata=None,
            kind="shortcut" if counts else "undecided",
            counts=counts,
            reasons=() if counts else (f"Why {rank} does not count.",),
            also=(),
            order=np.arange(len(cluster.regions)),
        )

    return make


@pytest.fixture
def counting(cluster_of):
    def make(rank, present, labels, hits, kind):
        return SpuriousCorrelation(
            rank=rank,
            cluster=cluster_of(present, labels, hits, cluster=10 * rank),
            confirmation=SimpleNamespace(status="confirmed", strength=1.0 / rank),
            counterfactual=None,
            strata=None,
            kind=kind,
            counts=True,
            reasons=(),
            also=(),
            order=np.arange(int(np.sum(present))),
        )

    return make


def both_classes(*cells):
    return [(label, *cell) for label in (0, 1) for cell in cells]


TOGETHER = both_classes((True, True, 90), (True, False, 10), (False, True, 10), (False, False, 90))
"""Nine films of ten have both or neither: phi is 0.8 in each class."""

APART = [
    (1, True, True, 50, 45), (1, True, False, 50, 35),
    (1, False, True, 50, 25), (1, False, False, 50, 15),
    (0, True, True, 50, 5), (0, True, False, 50, 15),
    (0, False, True, 50, 25), (0, False, False, 50, 35),
]  # fmt: skip
"""The second feature is independent of the used one and moves 20 points of each class itself."""


def test_a_bystander_is_the_companion_of_what_is_used(films, entry, data_of):
    used, bystander, labels, hits = films(*TOGETHER, (-1, False, True, 40))
    part = labels >= 0
    assert np.corrcoef(used[part], bystander[part])[0, 1] == pytest.approx(0.8)
    first = entry(1, used, labels, hits, counts=True)
    second = entry(2, bystander, labels, hits)
    gap = second.cluster.gap
    assert gap[1] == pytest.approx(0.32)  # 0.8 of the 40 points of the feature that is used
    assert gap[0] == pytest.approx(-0.32)

    named = name_confounded([first, second], data_of(labels, hits), MAX_GAP)

    assert named[0] is first
    assert named[1].companion_of == 1
    assert named[1].reasons == (
        "Why 2 does not count.",
        "It travels with the feature of correlation 1: with that held fixed, its gaps are +0 "
        "points on the raised side and +0 on the lowered side.",
    )
    assert named[1].cluster is second.cluster
    assert not named[1].counts


def test_a_correlation_with_a_gap_of_its_own_is_no_companion(films, entry, data_of):
    used, marker, labels, hits = films(*APART)
    first = entry(1, used, labels, hits, counts=True)
    second = entry(2, marker, labels, hits)

    assert name_confounded([first, second], data_of(labels, hits), MAX_GAP)[1] is second


@pytest.mark.parametrize(("max_gap", "named"), [(0.19, False), (0.21, True)])
def test_the_gap_that_is_tolerated_decides(films, entry, data_of, max_gap, named):
    used, marker, labels, hits = films(*APART)
    pair = [entry(1, used, labels, hits, counts=True), entry(2, marker, labels, hits)]

    second = name_confounded(pair, data_of(labels, hits), max_gap)[1]

    assert (second.companion_of == 1) is named
    if named:
        assert second.reasons[-1].endswith(
            "its gaps are +20 points on the raised side and -20 on the lowered side."
        )


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        (1, "+0 points on the raised side and -20 on"),
        (0, "+20 points on the raised side and +0 on"),
    ],
)
def test_one_side_without_a_gap_is_enough(films, entry, data_of, lost, told):
    cells = [cell for cell in TOGETHER if cell[0] == lost]
    cells += [cell for cell in APART if cell[0] != lost]
    used, second, labels, hits = films(*cells)
    pair = [entry(1, used, labels, hits, counts=True), entry(2, second, labels, hits)]

    named = name_confounded(pair, data_of(labels, hits), MAX_GAP)[1]

    assert named.companion_of == 1
    assert told in named.reasons[-1]


@pytest.mark.parametrize("same", [{0, 1}, {0}, {1}])
def test_what_is_on_the_same_films_cannot_be_told_apart(films, entry, data_of, same):
    """In one class alone it is enough: the NaN may be of either side."""
    used, marker, labels, hits = films(*APART)
    present = np.where(np.isin(labels, list(same)), used, marker)
    pair = [entry(1, used, labels, hits, counts=True), entry(2, present, labels, hits)]

    named = name_confounded(pair, data_of(labels, hits), MAX_GAP)[1]

    assert named.companion_of == 1
    assert named.reasons == (
        "Why 2 does not count.",
        "It cannot be told apart from the feature of correlation 1: of one side, no films "
        "have the one without the other.",
    )


@pytest.mark.parametrize("status", ["raised_only", "not_confirmed", "not_tested"])
def test_what_counts_or_is_not_confirmed_stays_as_it_is(films, entry, data_of, status):
    used, bystander, labels, hits = films(*TOGETHER)
    given = [
        entry(1, used, labels, hits, counts=True),
        entry(2, bystander, labels, hits, counts=True),
        entry(3, bystander, labels, hits, status=status),
    ]

    named = name_confounded(given, data_of(labels, hits), MAX_GAP)

    assert all(a is b for a, b in zip(named, given, strict=True))


def test_without_one_that_counts_there_is_no_companion(films, entry, data_of):
    used, bystander, labels, hits = films(*TOGETHER)
    given = [entry(1, used, labels, hits), entry(2, bystander, labels, hits)]
    task = data_of(labels, hits)

    named = name_confounded(given, task, MAX_GAP)

    assert all(a is b for a, b in zip(named, given, strict=True))
    assert name_confounded([], task, MAX_GAP) == ()


def test_each_is_named_after_the_first_that_it_travels_with_and_order_is_kept(
    films, entry, data_of
):
    used, marker, labels, hits = films(*APART)
    flipped = np.arange(len(labels)) % 10 == 0  # one film of ten, in every cell
    given = [
        entry(1, used, labels, hits, counts=True),
        entry(2, marker, labels, hits, counts=True),
        entry(3, marker ^ flipped, labels, hits),
        entry(4, marker ^ flipped, labels, hits, status="not_confirmed"),
        entry(5, used ^ flipped, labels, hits),
    ]

    named = name_confounded(given, data_of(labels, hits), MAX_GAP)

    assert [c.rank for c in named] == [1, 2, 3, 4, 5]
    assert [c.companion_of for c in named] == [None, None, 2, None, 1]
    assert "the feature of correlation 2:" in named[2].reasons[-1]
    assert "the feature of correlation 1:" in named[4].reasons[-1]


def test_clusters_that_share_a_device_are_held_fixed_together(films, entry, data_of):
    used, second, labels, hits = films(*TOGETHER)
    half = np.arange(len(labels)) % 2 == 0
    parts = [
        entry(n, used & side, labels, hits, counts=True) for n, side in ((1, half), (2, ~half))
    ]
    traveller = entry(3, second, labels, hits)
    task = data_of(labels, hits)

    assert name_confounded([parts[0], traveller], task, MAX_GAP)[1].companion_of is None
    (*_, named) = name_confounded([*parts, traveller], task, MAX_GAP)
    assert named.companion_of == 1
    assert "travels with the feature of correlations 1 and 2: " in named.reasons[-1]


class TestPlaces:
    """Ten films of three tiles; clusters by the tile that they hold, effects by where they lie."""

    FILMS = 10
    IMAGE = np.repeat(np.arange(FILMS), 3)
    LABELS = np.tile([0, 1], 5)

    def used(self, cluster_of, number, tile, x, size, films=range(FILMS), raised=1, carries=True):
        """Cluster of one tile a film, its effect in a box that begins at x."""
        films = np.array(films)
        present = np.isin(np.arange(self.FILMS), films)
        cluster = cluster_of(
            present, self.LABELS, present, regions=3 * films + tile, cluster=number,
            raised_class=raised,
        )  # fmt: skip
        change = PairedChange(20, 20, size, 0.0, size, NOTHING, 0.1, NOTHING)
        count = len(films)
        effect = np.linspace(2, 1, count)
        removal = Removal(
            effect, np.full(count, carries), 0.5, change, change, 1.0, None, 1.0,
            np.tile(np.array([[x, 0, x + 10, 10]], np.float32), (count, 1)),
        )  # fmt: skip
        return SpuriousCorrelation(
            rank=0,
            cluster=cluster,
            confirmation=SimpleNamespace(status="confirmed"),
            counterfactual=Counterfactual(removal, None, True, ()),
            strata=None,
            kind="shortcut",
            counts=True,
            reasons=(),
            also=(),
            order=np.arange(count),
        )

    @pytest.fixture(autouse=True)
    def films(self, data_of):
        self.data = data_of(self.LABELS, self.LABELS == 1, region_image=self.IMAGE)

    def folded(self, *entries):
        found = fold_counting(entries, self.data, MAX_GAP)
        assert [c.rank for c in found] == list(range(1, len(entries) + 1))
        return [(c.cluster.cluster, c.counts, c.companion_of) for c in found]

    def test_the_larger_effect_stands_for_one_place(self, cluster_of):
        weak, strong = (
            self.used(cluster_of, 7, 0, 3.0, 0.4), self.used(cluster_of, 8, 1, 0.0, 0.9)
        )  # fmt: skip

        assert self.folded(weak, strong) == [(8, True, None), (7, False, 1)]
        found = fold_counting([weak, strong], self.data, MAX_GAP)
        assert found[1].reasons == (
            "Its effect lies in the same place as that of correlation 1: they are one feature.",
        )

    def test_half_of_both_together_is_one_place(self, cluster_of):
        here = self.used(cluster_of, 1, 0, 0.0, 0.9)

        # 20/3 of 10 in common make 1/2 of both together.
        assert self.folded(here, self.used(cluster_of, 2, 1, 3.3, 0.4))[1] == (2, False, 1)
        assert self.folded(here, self.used(cluster_of, 2, 1, 3.4, 0.4))[1] == (2, True, None)

    @pytest.mark.parametrize(
        "other", [{"raised": 0}, {"films": range(4)}, {"carries": False}], ids=str
    )
    def test_another_class_few_films_or_no_carrier_stand_alone(self, cluster_of, other):
        here = self.used(cluster_of, 1, 0, 0.0, 0.9)
        there = self.used(cluster_of, 2, 1, 0.0, 0.4, **other)

        assert self.folded(here, there)[1] == (2, True, None)

    def test_a_companion_by_place_is_named_once(self, cluster_of):
        pair = self.used(cluster_of, 1, 0, 0.0, 0.9), self.used(cluster_of, 2, 1, 0.0, 0.4)
        ranked = fold_counting(pair, self.data, MAX_GAP)

        assert name_confounded(ranked, self.data, MAX_GAP)[1].reasons == ranked[1].reasons


class TestMirrors:
    """The used feature raises class 1; the second is on films without it and raises class 0."""

    CELLS = both_classes((True, True, 10), (True, False, 90), (False, True, 90), (False, False, 10))

    def fold(self, counting, data_of, films, cells, kind="undecided"):
        used, second, labels, hits = films(*cells)
        pair = [
            counting(1, used, labels, hits, "shortcut"),
            counting(2, second, labels, hits, kind),
        ]
        assert pair[0].cluster.raised_class == 1
        return fold_counting(pair, data_of(labels, hits), MAX_GAP)

    def test_what_is_there_where_the_shortcut_is_not_is_its_mirror_image(
        self, counting, data_of, films
    ):
        first, second = self.fold(counting, data_of, films, self.CELLS)

        assert (first.counts, first.companion_of) == (True, None)
        assert (second.counts, second.companion_of) == (False, 1)
        assert second.cluster.raised_class == 0
        assert second.reasons[-1].startswith("It is the mirror image of correlation 1: ")

    def test_shortcuts_that_share_a_device_are_held_fixed_together(self, counting, data_of, films):
        """Each of two clusters holds the device on half of its films; the mirror lacks both."""
        used, second, labels, hits = films(*self.CELLS)
        half = np.arange(len(labels)) % 2 == 0
        parts = [
            counting(n, used & side, labels, hits, "shortcut")
            for n, side in ((1, half), (2, ~half))
        ]
        mirror = counting(3, second, labels, hits, "undecided")
        data = data_of(labels, hits)

        alone = fold_counting([parts[0], mirror], data, MAX_GAP)
        assert [c.counts for c in alone] == [True, True]

        found = fold_counting([*parts, mirror], data, MAX_GAP)
        assert [c.counts for c in found] == [True, True, False]
        assert found[2].companion_of == 1
        assert found[2].reasons[-1].startswith("It is the mirror image of correlations 1 and 2: ")

    def test_one_that_was_placed_stands_by_itself(self, counting, data_of, films):
        found = self.fold(counting, data_of, films, self.CELLS, kind="shortcut")

        assert [c.counts for c in found] == [True, True]

    def test_one_with_a_gap_of_its_own_stands_by_itself(self, counting, data_of, films):
        """It moves 40 points itself, whether the used feature is there or not."""
        cells = [
            (1, True, True, 10, 5), (1, True, False, 90, 81),
            (1, False, True, 90, 18), (1, False, False, 10, 6),
            (0, True, True, 10, 5), (0, True, False, 90, 9),
            (0, False, True, 90, 72), (0, False, False, 10, 4),
        ]  # fmt: skip
        found = self.fold(counting, data_of, films, cells)

        assert [c.counts for c in found] == [True, True]

    def test_what_raises_the_same_class_is_no_mirror_image(self, counting, data_of, films):
        found = self.fold(counting, data_of, films, TOGETHER)

        assert [c.cluster.raised_class for c in found] == [1, 1]
        assert [c.counts for c in found] == [True, True]


class TestArtifactsAndTheirPlaces:
    """Where removal says in what an effect lies, a placed one can be a mirror image, too."""

    KEPT = both_classes((True, True, 20), (True, False, 80), (False, True, 80), (False, False, 20))
    """Phi of the two features is -0.6."""

    def lying_in(self, entry, artifact, size):
        change = PairedChange(20, 20, size, 0.0, size, NOTHING, 0.1, NOTHING)
        count = len(entry.cluster.regions)
        removal = Removal(
            np.ones(count), np.ones(count, bool), 0.5, change, change, 1.0,
            EffectShares(0.0, artifact, count, 0), 1.0,
        )  # fmt: skip
        return replace(entry, counterfactual=Counterfactual(removal, None, True, ()))

    def pair(self, counting, films, cells, artifacts, kind="shortcut"):
        """The used feature and a larger one on other films, each with a gap of its own."""
        used, second, labels, hits = films(*cells)
        hits = np.where(np.arange(len(labels)) % 3 == 0, (labels == 0) == second, hits)
        device = self.lying_in(counting(1, used, labels, hits, "shortcut"), artifacts[0], 0.4)
        place = self.lying_in(counting(2, second, labels, hits, kind), artifacts[1], 0.9)
        assert [c.cluster.raised_class for c in (device, place)] == [1, 0]
        self.where = labels, hits
        return device, place

    def found(self, data_of, pair):
        labels, hits = self.where
        found = fold_counting(pair, data_of(labels, hits), MAX_GAP)
        return [(c.cluster.cluster, c.counts, c.companion_of) for c in found]

    @pytest.mark.parametrize("kind", ["shortcut", "undecided"])
    def test_the_place_of_an_artifact_is_its_mirror_image(self, counting, data_of, films, kind):
        pair = self.pair(counting, films, self.KEPT, (0.8, 0.1), kind)

        assert self.found(data_of, pair) == [(10, True, None), (20, False, 1)]
        labels, hits = self.where
        folded = fold_counting(pair, data_of(labels, hits), MAX_GAP)[1]
        assert folded.reasons[-1].endswith("and its own effect lies in no artifact.")

    @pytest.mark.parametrize("artifacts", [(0.8, 0.6), (0.4, 0.1), (math.nan, 0.1)], ids=str)
    def test_two_artifacts_or_none_stand_by_themselves(self, counting, data_of, films, artifacts):
        pair = self.pair(counting, films, self.KEPT, artifacts)

        assert self.found(data_of, pair) == [(20, True, None), (10, True, None)]

    def test_what_is_on_many_of_the_same_films_stands_by_itself(self, counting, data_of, films):
        cells = both_classes(
            (True, True, 40), (True, False, 60), (False, True, 60), (False, False, 40)
        )
        pair = self.pair(counting, films, cells, (0.8, 0.1))

        assert self.found(data_of, pair) == [(20, True, None), (10, True, None)]
