"""Labels behind a correlation by hand: shares on both sides, and gaps on stated labels alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ravl_med.discovery.ravl import performance_gaps
from ravl_med.evidence.confirmation import Candidate
from ravl_med.evidence.effects import measure_by_presence
from ravl_med.evidence.label_quality import measure_label_quality
from ravl_med.evidence.results import LabelQuality
from ravl_med.evidence.statistics import PatientBootstrap

CLEAR, HEART = 0, 1
Group = tuple[int, bool, int, int, str]
MANIFEST, IMPRESSION = "manifest", "report: impression"


@pytest.fixture
def measure(cluster_of, data_of) -> Callable[..., LabelQuality]:
    def make(
        *groups: Group,
        sources: Sequence[str] | None = None,
        patients: np.ndarray | None = None,
        held_out: np.ndarray | None = None,
        opposed: tuple[int, ...] = (CLEAR,),
        min_films: int = 10,
    ) -> LabelQuality:
        """From groups of (class, feature, films, hits, certainty); all are films of the test."""
        films = [group[2] for group in groups]
        labels, present, certainty = (
            np.repeat([group[at] for group in groups], films) for at in (0, 1, 4)
        )
        correct = np.concatenate([np.arange(n) < hits for _, _, n, hits, _ in groups])
        present = present.astype(bool)
        who = np.arange(len(labels)) if patients is None else patients
        tested = np.ones(len(labels), bool) if held_out is None else held_out
        data = data_of(
            labels, correct, patients=who,
            label_sources=np.array(sources or [MANIFEST] * len(labels)), label_certainty=certainty,
        )  # fmt: skip
        cluster = replace(
            cluster_of(present, labels, correct),
            raised_class=HEART, lowered_classes=opposed, opposed_classes=opposed,
        )  # fmt: skip
        rows = np.flatnonzero(tested & (labels >= 0))
        table = performance_gaps(present[rows, None], labels[rows], correct[rows], 2)
        bootstrap = PatientBootstrap(np.unique(who[rows], return_inverse=True)[1], 500, 0)
        return measure_label_quality(
            data,
            Candidate(cluster, tested),
            measure_by_presence(data, cluster, rows, table, bootstrap, 0.95),
            bootstrap=PatientBootstrap(who, 500, 0),
            min_films=min_films,
            confidence=0.95,
        )

    return make


# Films with the feature have blank labels, and the gaps are those of the blank ones alone.
PLANTED: tuple[Group, ...] = (
    (HEART, True, 40, 20, "stated"),
    (HEART, True, 40, 40, "blank"),
    (HEART, False, 80, 40, "stated"),
    (CLEAR, True, 40, 32, "stated"),
    (CLEAR, True, 30, 0, "blank"),
    (CLEAR, True, 10, 0, "uncertain"),
    (CLEAR, False, 76, 61, "stated"),
    (CLEAR, False, 4, 3, "uncertain"),
)


def test_shares_by_hand(measure):
    films = sum(group[2] for group in PLANTED)
    found = measure(*PLANTED, sources=[MANIFEST] * 100 + [IMPRESSION] * (films - 100))

    assert (found.n_present, found.n_absent) == (160, 160)
    rows = {row.value: row for row in (*found.sources, *found.certainty)}
    assert list(rows) == [IMPRESSION, MANIFEST, "stated", "uncertain", "blank"]
    assert (rows[MANIFEST].n_present, rows[MANIFEST].n_absent) == (80, 20)  # of the first 100
    assert (rows[IMPRESSION].n_present, rows[IMPRESSION].n_absent) == (80, 140)
    assert (rows["stated"].n_present, rows["stated"].n_absent) == (80, 156)
    assert (rows["uncertain"].n_present, rows["uncertain"].n_absent) == (10, 4)
    assert (rows["blank"].n_present, rows["blank"].n_absent) == (70, 0)
    assert rows["blank"].share_present == 70 / 160
    assert rows["blank"].patients == (70, 0)
    assert (found.not_stated.n_present, found.not_stated.n_absent) == (80, 4)
    assert found.difference == 80 / 160 - 4 / 160
    assert 0.38 < found.interval.low < found.difference < found.interval.high < 0.56
    assert (found.one_source, found.all_stated) == ("", False)


def test_a_gap_through_blank_labels_alone_vanishes(measure):
    """60 of 80 against 40 of 80 hearts are right; of stated ones 20 of 40, and 40 of 80."""
    found = measure(*PLANTED)

    assert (found.raised.n_present, found.raised.n_absent) == (40, 80)
    assert found.raised.gap == 0
    assert found.raised.interval.low < 0 < found.raised.interval.high
    assert found.raised.outcome == "vanishes"
    assert found.lowered is not None
    assert found.lowered.gap == pytest.approx(32 / 40 - 61 / 76)
    assert found.lowered.outcome == "vanishes"
    assert found.one_source == MANIFEST


@pytest.mark.parametrize(
    ("stated_hits", "outcome"), [(38, "holds"), (20, "vanishes"), (3, "turns")]
)
def test_what_becomes_of_a_gap_on_stated_labels(measure, stated_hits, outcome):
    found = measure((HEART, True, 40, stated_hits, "stated"), *PLANTED[1:])

    assert found.raised.outcome == outcome
    assert found.raised.gap == pytest.approx(stated_hits / 40 - 0.5)


def test_too_few_stated_films_are_insufficient(measure):
    found = measure((HEART, True, 9, 5, "stated"), *PLANTED[1:])

    assert (found.raised.n_present, found.raised.n_absent) == (9, 80)
    assert found.raised.outcome == "insufficient"
    assert math.isnan(found.raised.gap)
    assert math.isnan(found.raised.interval.low)
    assert measure((HEART, True, 9, 5, "stated"), *PLANTED[1:], min_films=9).raised.gap != 0


def test_where_every_label_is_stated_nothing_is_said_of_labels(measure):
    """Both gaps are within noise, and that has nothing to do with labels."""
    groups = [(label, feature, 30, 15, "stated") for label in (0, 1) for feature in (True, False)]
    found = measure(*groups)

    assert found.all_stated
    assert found.raised.outcome == found.lowered.outcome == "unchanged"
    assert found.difference == 0
    assert found.interval.low < 0 < found.interval.high


def test_all_uncertain(measure):
    groups = [
        (label, feature, 30, 15, "uncertain") for label in (0, 1) for feature in (True, False)
    ]
    found = measure(*groups)

    assert found.not_stated.share_present == found.not_stated.share_absent == 1
    assert found.raised.outcome == found.lowered.outcome == "insufficient"
    assert (found.raised.n_present, found.raised.n_absent) == (0, 0)


def test_one_class_has_no_lowered_side(measure):
    found = measure(*PLANTED[:3], opposed=())

    assert found.raised.outcome == "vanishes"
    assert found.lowered is None


def test_a_feature_of_every_film_has_nothing_to_compare(measure):
    found = measure((HEART, True, 30, 15, "stated"), (CLEAR, True, 30, 15, "blank"))

    assert (found.n_present, found.n_absent) == (60, 0)
    assert math.isnan(found.certainty[0].share_absent)
    assert math.isnan(found.difference)
    assert math.isnan(found.interval.low)
    assert found.raised.outcome == "insufficient"


def test_films_without_a_class_are_left_out(measure):
    found = measure(*PLANTED, (-1, True, 50, 0, "blank"))
    plain = measure(*PLANTED)

    assert (found.n_present, found.n_absent) == (plain.n_present, plain.n_absent)
    assert found.not_stated == plain.not_stated


def test_gaps_are_of_the_films_of_the_test(measure):
    """Half of each group chose the candidate: shares are of all films, gaps of the other half."""
    films = sum(group[2] for group in PLANTED)
    found = measure(*PLANTED, held_out=np.arange(films) % 2 == 0)

    assert (found.n_present, found.n_absent) == (160, 160)
    assert (found.raised.n_present, found.raised.n_absent) == (20, 40)
    assert found.raised.gap == 0
    assert found.patients is not None
    assert found.patients.sum() == films
    assert found.patients[0].tolist() == [[20, 20], [40, 0]]
    assert found.patients[1].tolist() == [[20, 20], [38, 2]]
    assert found.patients[2].tolist() == [[40, 40], [78, 2]]


def test_one_patient_is_drawn_whole(measure):
    """Every draw is the same patient: only the pseudo-films vary."""
    films = sum(group[2] for group in PLANTED)
    found = measure(*PLANTED, patients=np.zeros(films, np.int64))

    assert found.not_stated.patients == (1, 1)
    assert found.interval.high - found.interval.low < 0.05
    assert found.difference == pytest.approx(80 / 160 - 4 / 160)


def test_films_of_one_patient_widen_the_interval(measure):
    films = sum(group[2] for group in PLANTED)
    many = measure(*PLANTED).interval
    few = measure(*PLANTED, patients=np.arange(films) // 10).interval

    assert few.high - few.low > 2 * (many.high - many.low)


@pytest.mark.parametrize("sources", [(), (MANIFEST,) * 4])
def test_labels_of_unknown_origin_are_not_measured(cluster_of, data_of, sources):
    labels, flags = [0, 1, 0, 1], [True, False, True, False]
    data = data_of(labels, flags, label_sources=np.array(sources, np.str_))
    candidate = Candidate(cluster_of(flags, labels, flags), np.ones(4, bool))
    bootstrap = PatientBootstrap(data.patients, 50, 0)
    asked = {"bootstrap": bootstrap, "min_films": 1, "confidence": 0.95}
    assert measure_label_quality(data, candidate, None, **asked) is None


CERTAINTY = ("stated", "uncertain", "blank")


@settings(max_examples=30, deadline=None)
@given(
    table=arrays(
        np.int64,
        st.integers(4, 40).map(lambda n: (n, 4)),
        elements=st.integers(0, 2),
    )
)
def test_shares_sum_to_one_and_agree_with_a_plain_count(table):
    """Columns: class, feature, certainty, hit."""
    labels, present, kinds, hits = table[:, 0] % 2, table[:, 1] > 0, table[:, 2], table[:, 3] > 0
    found = _measured(labels, present, kinds, hits)

    for arm, inside in (("present", present), ("absent", ~present)):
        counts = [getattr(row, f"n_{arm}") for row in found.certainty]
        assert counts == [int((inside & (kinds == kind)).sum()) for kind in range(3)]
        assert sum(counts) == getattr(found, f"n_{arm}") == inside.sum()
        if inside.any():
            shares = [getattr(row, f"share_{arm}") for row in found.certainty]
            assert sum(shares) == pytest.approx(1)
            left = getattr(found.not_stated, f"share_{arm}")
            assert left == pytest.approx((kinds[inside] > 0).mean())
    here = (labels == HEART) & (kinds == 0)
    assert found.raised.n_present == (here & present).sum()
    if found.raised.outcome != "insufficient":
        expected = hits[here & present].mean() - hits[here & ~present].mean()
        assert found.raised.gap == pytest.approx(expected)


def _measured(
    labels: np.ndarray, present: np.ndarray, kinds: np.ndarray, hits: np.ndarray
) -> LabelQuality:
    from ravl_med.discovery.candidates import measure_candidate
    from ravl_med.discovery.ravl import AuditData

    films, rows = len(labels), np.arange(len(labels))
    table = performance_gaps(present[:, None], labels, hits, 2)
    cluster = replace(
        measure_candidate(
            0, present, table, np.nan_to_num(table.gap[0]),
            regions=np.flatnonzero(present), similarity=np.ones(present.sum()), influence=1.0,
        ),
        raised_class=HEART, lowered_classes=(CLEAR,), opposed_classes=(CLEAR,),
    )  # fmt: skip
    flat = np.full((films, 2), 0.5)
    data = AuditData(
        ("a", "b"), labels, np.where(hits, labels, 1 - labels), rows, np.ones((films, 2), np.int64),
        rows, np.zeros((films, 4), np.float32), flat, flat,
        label_sources=np.array([MANIFEST] * films),
        label_certainty=np.array([CERTAINTY[kind] for kind in kinds]),
    )  # fmt: skip
    bootstrap = PatientBootstrap(rows, 50, 0)
    return measure_label_quality(
        data,
        Candidate(cluster, np.ones(films, bool)),
        measure_by_presence(data, cluster, rows, table, bootstrap, 0.95),
        bootstrap=bootstrap,
        min_films=1,
        confidence=0.95,
    )
