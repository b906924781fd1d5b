"""Confounded: what loses its gap when a feature that the model uses is held fixed."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ravl_med.evidence.duplicates import fold_counting, name_confounded
from ravl_med.evidence.results import (
    Counterfactual,
    Interval,
    PairedChange,
    Removal,
    SpuriousCorrelation,
)

MAX_GAP = 0.1
NOTHING = Interval(0.0, 0.0)
NO_FILMS = SimpleNamespace(n_present=np.zeros(2))
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
            confirmation=SimpleNamespace(status=status, arms=NO_FILMS),
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
            confirmation=SimpleNamespace(status="confirmed", strength=1.0 / rank, arms=NO_FILMS),
            counterfactual=None,
            strata=None,
            kind=kind,
            counts=True,
            reasons=(),
            also=(),
            order=np.arange(int(np.sum(present))),
        )

    return make


def changed_by(contrast):
    return PairedChange(20, 20, contrast, NOTHING, 0.0, contrast, NOTHING, 0.1, NOTHING, 0.001)


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
        "It occurs together with the feature of correlation 1; once that is accounted for, its "
        "gaps shrink to 0 points on the raised and 0 points on the lowered side.",
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
            "shrink to +20 points on the raised and −20 points on the lowered side."
        )


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        (1, "0 points on the raised and −20 points on"),
        (0, "+20 points on the raised and 0 points on"),
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
        "It cannot be separated from the feature of correlation 1: on one side, no films "
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
    assert "the feature of correlation 2;" in named[2].reasons[-1]
    assert "the feature of correlation 1;" in named[4].reasons[-1]


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
    assert "occurs together with the feature of correlations 1 and 2; " in named.reasons[-1]


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
        change = changed_by(size)
        count = len(films)
        removal = Removal(
            effect=np.linspace(2, 1, count),
            carries=np.full(count, carries),
            threshold=0.5,
            spread=1.0,
            both=change,
            located=np.tile(np.array([[x, 0, x + 10, 10]], np.float32), (count, 1)),
        )
        return SpuriousCorrelation(
            rank=0,
            cluster=cluster,
            confirmation=SimpleNamespace(status="confirmed", arms=NO_FILMS),
            counterfactual=Counterfactual(removal, change, True, (), shown_by=("transplant",)),
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

    @pytest.mark.parametrize(
        ("weak", "strong", "stands"),
        [
            ("shortcut", "plausible_sign", True),
            ("undecided", "plausible_sign", True),
            ("shortcut", "undecided", True),
            ("plausible_sign", "undecided", False),
            ("plausible_sign", "shortcut", False),
            ("undecided", "shortcut", False),
        ],
    )
    def test_nothing_is_hidden_by_what_is_less_grave(self, cluster_of, weak, strong, stands):
        first = replace(self.used(cluster_of, 7, 0, 3.0, 0.4), kind=weak)
        second = replace(self.used(cluster_of, 8, 1, 0.0, 0.9), kind=strong)

        folded = self.folded(first, second)
        assert {number: counts for number, counts, _ in folded} == {7: stands, 8: True}

    def test_half_of_the_smaller_is_one_place_as_before_the_test(self, cluster_of):
        here = self.used(cluster_of, 1, 0, 0.0, 0.9)

        assert self.folded(here, self.used(cluster_of, 2, 1, 4.9, 0.4))[1] == (2, False, 1)
        assert self.folded(here, self.used(cluster_of, 2, 1, 5.1, 0.4))[1] == (2, True, None)

    @pytest.mark.parametrize(
        "other", [{"raised": 0}, {"films": range(4)}, {"carries": False}], ids=str
    )
    def test_another_class_few_films_or_no_carrier_stand_alone(self, cluster_of, other):
        here = self.used(cluster_of, 1, 0, 0.0, 0.9)
        there = self.used(cluster_of, 2, 1, 0.0, 0.4, **other)

        assert self.folded(here, there)[1] == (2, True, None)

    @pytest.mark.parametrize(
        ("counts", "hosts", "companion"),
        [(True, {2: 1}, 1), (False, {2: 1}, None), (True, {2: 9}, None), (True, {}, None)],
        ids=["counts", "does not count", "another", "none"],
    )
    def test_what_one_that_counts_was_tested_for_belongs_to_it(
        self, cluster_of, counts, hosts, companion
    ):
        first, second = (self.used(cluster_of, n, n - 1, 20.0 * n, 0.9) for n in (1, 2))
        pair = [replace(first, counts=counts), replace(second, counts=False)]

        found = {c.cluster.cluster: c for c in fold_counting(pair, self.data, MAX_GAP, hosts)}

        assert found[1].counts is counts
        assert (found[2].counts, found[2].companion_of) == (False, companion)

    def test_a_companion_by_place_is_named_once(self, cluster_of):
        pair = self.used(cluster_of, 1, 0, 0.0, 0.9), self.used(cluster_of, 2, 1, 0.0, 0.4)
        ranked = fold_counting(pair, self.data, MAX_GAP)

        assert name_confounded(ranked, self.data, MAX_GAP)[1].reasons == ranked[1].reasons


class TestParts:
    """Two features that raise class 1 and are used; the first moves other films more."""

    def folded(self, counting, data_of, cells, kinds=("shortcut", "shortcut")):
        (first, second), labels, hits = cells
        entries = [
            counting(rank, present, labels, hits, kind)
            for rank, present, kind in zip((1, 2), (first, second), kinds, strict=True)
        ]
        moved = [
            replace(
                entry,
                counterfactual=Counterfactual(
                    Removal(np.ones(2), np.ones(2, bool), 0.5, spread=1.0),
                    changed_by(size),
                    True,
                    (),
                ),
            )
            for entry, size in zip(entries, (0.9, 0.4), strict=True)
        ]
        return fold_counting(moved, data_of(labels, hits), MAX_GAP)

    def test_what_has_its_gaps_from_a_stronger_one_is_part_of_it(self, counting, data_of, films):
        used, second, labels, hits = films(*TOGETHER)

        first, part = self.folded(counting, data_of, ((used, second), labels, hits))

        assert (first.counts, part.counts, part.companion_of) == (True, False, 1)
        assert part.reasons == (
            "It occurs together with correlation 1, which accounts for its gaps: it is part of it.",
        )

    def test_on_the_same_films_the_weaker_is_part_of_the_other(self, counting, data_of, films):
        used, _, labels, hits = films(*TOGETHER)

        found = self.folded(counting, data_of, ((used, used.copy()), labels, hits))

        assert [c.counts for c in found] == [True, False]

    def test_what_has_gaps_of_its_own_stands_by_itself(self, counting, data_of, films):
        used, second, labels, hits = films(*APART)

        found = self.folded(counting, data_of, ((used, second), labels, hits))

        assert [c.counts for c in found] == [True, True]

    @pytest.mark.parametrize("share", [0.55, 0.5], ids=["little", "nothing"])
    def test_gaps_that_were_small_before_do_not_go(self, counting, data_of, films, share):
        """It counts for what else it does, and is on films of its own."""
        together, apart = round(100 * share), round(100 * (1 - share))
        cells = both_classes((True, True, together), (True, False, apart),
                             (False, True, apart), (False, False, together))  # fmt: skip
        used, second, labels, hits = films(*cells)
        gaps = hits[second & (labels == 1)].mean() - hits[~second & (labels == 1)].mean()
        assert abs(gaps) < MAX_GAP

        second = second if gaps > 0 else ~second
        found = self.folded(counting, data_of, ((used, second), labels, hits))

        assert [c.counts for c in found] == [True, True]

    @pytest.mark.parametrize(
        ("kinds", "alone"),
        [
            (("undecided", "shortcut"), True),
            (("plausible_sign", "shortcut"), True),
            (("shortcut", "undecided"), False),
            (("undecided", "undecided"), False),
        ],
    )
    def test_no_shortcut_is_part_of_what_is_none(self, counting, data_of, films, kinds, alone):
        used, second, labels, hits = films(*TOGETHER)

        found = self.folded(counting, data_of, ((used, second), labels, hits), kinds)

        assert sum(c.counts for c in found) == 1 + alone

    def test_of_another_class_nothing_is_a_part(self, counting, data_of, films):
        """Where the first is not the second mostly is, and its gaps go as well: a complement."""
        used, second, labels, hits = films(*TOGETHER)

        found = self.folded(counting, data_of, ((used, ~second), labels, hits))

        assert [c.cluster.raised_class for c in found] == [1, 0]
        assert len(found[1].reasons) == 1
        assert "complement" in found[1].reasons[0]


class TestComplements:
    """A feature that raises class 1, and one on the films without it that raises class 0."""

    APART = both_classes((True, True, 10), (True, False, 90), (False, True, 90), (False, False, 10))
    """Phi of the two is -0.8."""

    def pair(self, counting, films, cells, sizes, spreads=(1.0, 1.0), sharp=(0.5, 0.5)):
        used, second, labels, hits = films(*cells)
        self.where = labels, hits
        both = (
            counting(1, used, labels, hits, "shortcut"),
            counting(2, second, labels, hits, "undecided"),
        )
        how = zip(both, sizes, spreads, sharp, strict=True)
        return [self.put_in(*one) for one in how]

    def put_in(self, entry, size, spread, sharper):
        """Put into other films it moves the margin so far; None: it could not be.

        On so many of its films it is sharper than its control.
        """
        count = len(entry.cluster.regions)
        removal = Removal(np.ones(count), np.ones(count, bool), 0.5, spread=spread, sharper=sharper)
        transplant = None if size is None else changed_by(size)
        return replace(entry, counterfactual=Counterfactual(removal, transplant, True, ()))

    def found(self, data_of, pair):
        return fold_counting(pair, data_of(*self.where), MAX_GAP)

    @pytest.mark.parametrize(
        ("sizes", "stays"), [((0.9, 0.4), 1), ((0.4, 0.9), 0), ((0.4, None), 1), ((None, 0.1), 0)]
    )
    def test_the_side_stays_that_moves_other_films_more(
        self, counting, data_of, films, sizes, stays
    ):
        pair = self.pair(counting, films, self.APART, sizes)
        assert [c.cluster.raised_class for c in pair] == [1, 0]

        first, second = self.found(data_of, pair)

        assert (first.counts, first.cluster.raised_class, first.companion_of) == (True, stays, None)
        assert (second.counts, second.companion_of) == (False, 1)
        assert second.reasons == (
            "It is the complement of correlation 1: it is there where that feature is not, and "
            "lowers what that raises. Of the two, that one is the thing: it is sharper, and moves "
            "films that it is put into.",
        )

    @pytest.mark.parametrize(("removed", "stays"), [((1.4, 0.4), 1), ((0.4, 1.4), 0)])
    @pytest.mark.parametrize("sizes", [(None, 0.1), (0.1, None), (None, None)])
    def test_where_one_was_put_into_no_film_that_stays_which_is_missed_more(
        self, counting, data_of, films, sizes, removed, stays
    ):
        """A thing on few of the mapped films has no donors; it may be the plainer side."""
        pair = self.pair(counting, films, self.APART, sizes)
        for at, size in enumerate(removed):
            tested = pair[at].counterfactual
            removal = replace(tested.removal, both=changed_by(size))
            pair[at] = replace(pair[at], counterfactual=replace(tested, removal=removal))

        first, second = self.found(data_of, pair)

        assert (first.counts, first.cluster.raised_class, first.companion_of) == (True, stays, None)
        assert (second.counts, second.companion_of) == (False, 1)
        assert second.reasons[0].endswith("it is sharper, and moves films that it is taken from.")

    def test_what_is_shown_to_move_other_films_stays_whatever_is_missed_more(
        self, counting, data_of, films
    ):
        pair = self.pair(counting, films, self.APART, (0.4, None))
        for at, (size, shown_by) in enumerate([(0.4, ("transplant",)), (1.4, ("removal",))]):
            tested = pair[at].counterfactual
            removal = replace(tested.removal, both=changed_by(size))
            tested = replace(tested, removal=removal, shown_by=shown_by)
            pair[at] = replace(pair[at], counterfactual=tested)

        assert self.found(data_of, pair)[0].cluster.raised_class == 1

    def test_films_are_moved_in_standard_deviations_of_the_margin(self, counting, data_of, films):
        pair = self.pair(counting, films, self.APART, (0.9, 0.8), spreads=(3.0, 1.0))

        assert self.found(data_of, pair)[0].cluster.raised_class == 0

    @pytest.mark.parametrize(
        ("sharp", "stays"),
        [
            ((0.8, 0.3), 1),
            ((0.3, 0.8), 0),
            ((0.55, 0.5), 0),  # 0.55 x 0.8 is below 0.5 x 0.9
            ((0.6, 0.5), 1),  # 0.6 x 0.8 is above it
            ((math.nan, 0.1), 1),  # removal could not be tried: how often it is sharper is open
            ((0.1, math.nan), 0),
        ],
    )
    def test_what_is_sharper_is_the_thing_even_where_its_lack_moves_films_more(
        self, counting, data_of, films, sharp, stays
    ):
        pair = self.pair(counting, films, self.APART, (0.8, 0.9), sharp=sharp)

        first, second = self.found(data_of, pair)

        assert (first.counts, first.cluster.raised_class) == (True, stays)
        assert (second.counts, second.companion_of) == (False, 1)

    @pytest.mark.parametrize("shown_by", [("transplant",), ("removal",)])
    @pytest.mark.parametrize("kind", ["shortcut", "undecided"])
    def test_a_thing_counts_whose_lack_does(self, counting, data_of, films, shown_by, kind):
        """Its own gaps were not confirmed; it moves the films that it is put into."""
        thing, lack = self.pair(counting, films, self.APART, (0.9, 0.4))
        tested = replace(thing.counterfactual, shown_by=shown_by)
        thing = replace(
            thing, counterfactual=tested, counts=False, kind=kind, reasons=("q is 0.07.",)
        )

        first, second = self.found(data_of, [thing, lack])

        if shown_by == ("removal",):  # of the two, nothing says that it is the thing
            assert (first.counts, first.cluster.raised_class) == (True, 0)
            assert (second.counts, second.companion_of) == (False, None)
            return
        assert (first.cluster.raised_class, first.counts, first.kind) == (1, True, kind)
        assert (first.reasons, first.companion_of) == ((), None)
        assert (second.cluster.raised_class, second.counts, second.companion_of) == (0, False, 1)

    @pytest.mark.parametrize(("low", "counts"), [(0.6, False), (0.61, True)])
    def test_the_opposite_of_a_sign_counts_only_where_it_looks_man_made(
        self, counting, data_of, films, low, counts
    ):
        """A consolidation moves other films, and a clear lung is the sign of another class."""
        thing, lack = self.pair(counting, films, self.APART, (0.9, 0.4))
        edges = replace(thing.counterfactual.removal, sharper_interval=Interval(low, 1.0))
        tested = replace(thing.counterfactual, shown_by=("transplant",), removal=edges)
        thing = replace(thing, counterfactual=tested, counts=False, reasons=("q is 0.07.",))
        lack = replace(lack, kind="plausible_sign")

        by_class = {c.cluster.raised_class: c for c in self.found(data_of, [thing, lack])}

        assert by_class[1].counts is counts
        assert by_class[0].counts is not counts

    def test_a_sign_hides_nothing_that_has_to_be_decided(self, counting, data_of, films):
        """However far it moves other films: nobody is asked about a sign."""
        pair = self.pair(counting, films, self.APART, (0.4, 0.9), sharp=(0.4, 0.9))
        pair[1] = replace(pair[1], kind="plausible_sign")
        both = [replace(c, kind="plausible_sign") for c in pair]

        assert self.found(data_of, pair)[0].cluster.raised_class == 1
        assert self.found(data_of, both)[0].cluster.raised_class == 0

    def test_a_thing_whose_control_moves_films_too_is_the_thing(self, counting, data_of, films):
        """Its control is a film of its finding, and the control of its lack is one with it."""
        pair = self.pair(counting, films, self.APART, (0.5, 0.2))
        for at, contrast in enumerate((0.1, 0.3)):
            tested = pair[at].counterfactual
            moved = replace(tested.transplant, contrast=contrast)
            pair[at] = replace(pair[at], counterfactual=replace(tested, transplant=moved))

        assert self.found(data_of, pair)[0].cluster.raised_class == 1

    @pytest.mark.parametrize("sizes", [(0.5, 0.5), (-0.2, -0.4), (None, None)])
    def test_of_two_that_are_as_much_of_a_thing_none_is_the_complement(
        self, counting, data_of, films, sizes
    ):
        """What lowers the margin in other films is no more than what does nothing there."""
        pair = self.pair(counting, films, self.APART, sizes)

        assert [c.counts for c in self.found(data_of, pair)] == [True, True]

    @pytest.mark.parametrize(
        ("cells", "alone"),
        [((30, 70), False), ((40, 60), False), ((45, 55), True), ((60, 40), True)],
        ids=["phi -0.4", "phi -0.2", "phi -0.1", "phi 0.2"],
    )
    def test_what_is_on_many_of_the_same_films_stands_by_itself(
        self, counting, data_of, films, cells, alone
    ):
        both, one = cells
        made = both_classes((True, True, both), (True, False, one), (False, True, one),
                            (False, False, both))  # fmt: skip
        pair = self.pair(counting, films, made, (0.9, 0.4))
        pair[1] = replace(pair[1], cluster=replace(pair[1].cluster, lowered_classes=(1,)))

        assert [c.counts for c in self.found(data_of, pair)] == [True, alone]

    def test_what_does_not_lower_what_the_other_raises_stands_by_itself(
        self, counting, data_of, films
    ):
        pair = self.pair(counting, films, self.APART, (0.9, 0.4))
        pair[1] = replace(pair[1], cluster=replace(pair[1].cluster, lowered_classes=(2,)))

        assert [c.counts for c in self.found(data_of, pair)] == [True, True]

    @pytest.mark.parametrize(("own", "status", "alone"), [
        (0.3, "confirmed", True), (0.3, "not_confirmed", False), (0.05, "confirmed", False),
    ])  # fmt: skip
    def test_what_keeps_its_confirmed_gaps_where_the_other_is_held_fixed_is_a_thing_itself(
        self, counting, data_of, films, own, status, alone
    ):
        """Digits with a mark beside them: what looks like a seven hid a mark that raised fives."""
        cells = [
            (label, used, second, n, round(n * (0.5 + (0.2 * used - own * second) * side)))
            for label, side in ((0, -1), (1, 1))
            for used, second, n in (
                (True, True, 60), (True, False, 140), (False, True, 140), (False, False, 60),
            )
        ]  # fmt: skip
        pair = self.pair(counting, films, cells, (0.9, 0.4))
        pair[1] = replace(
            pair[1], confirmation=SimpleNamespace(status=status, strength=0.5, arms=NO_FILMS)
        )

        assert [c.counts for c in self.found(data_of, pair)] == [True, alone]

    def test_what_does_not_count_is_no_complement(self, counting, data_of, films):
        pair = self.pair(counting, films, self.APART, (0.9, 0.4))
        pair[1] = replace(pair[1], counts=False, reasons=("Not used.",))

        assert self.found(data_of, pair)[1].reasons == ("Not used.",)
