from dataclasses import replace

import numpy as np
import pytest

from ravl_med.encoders.zero_shot import Scores
from ravl_med.evaluation.methods import RankedRegions
from ravl_med.evaluation.painting import Mark
from ravl_med.evaluation.planting import PlacedFeature, SplitFilms
from ravl_med.evaluation.settings import Pair, Setting
from ravl_med.evaluation.small_models import RegionEvidence
from ravl_med.evaluation.trial import (
    measure_leak,
    measure_use,
    propose_regions,
    score_ranking,
    true_cluster_rank,
)

TILES = np.array([[0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [8, 8, 16, 16]], np.float32)


@pytest.fixture
def evidence() -> RegionEvidence:
    """Twenty films of four tiles; a feature fills the first tile of the even films."""
    present = np.arange(20) % 2 == 0
    film = np.flatnonzero(present)
    feature = PlacedFeature("letter", 1, present, np.tile(TILES[:1], (len(film), 1)), film, None)
    labels = np.arange(20) // 10
    films = SplitFilms(np.zeros((20, 16, 16), np.uint8), labels, np.arange(20), (feature,))
    return RegionEvidence(
        ("a", "b"),
        films,
        np.eye(80, 8, dtype=np.float32),
        np.repeat(np.arange(20), 4),
        np.tile(TILES, (20, 1)),
        Scores(np.full((20, 2), 0.5), np.full((80, 2), 0.5), labels),
        np.eye(2, 8, dtype=np.float32),
    )


def test_precision_by_hand(evidence: RegionEvidence) -> None:
    hits = np.arange(0, 80, 8)  # first tiles of even films
    ranked = RankedRegions(np.concatenate([hits[:7], np.arange(1, 19)]), raised_class=1)
    scores = score_ranking(ranked, evidence.films.features, evidence)
    # Of 1 to 18, region 8 and 16 are first tiles of even films too.
    assert scores == (0.7, (7 + 2) / 25, 0.7, True)


def test_a_short_list_is_not_better_than_a_long_one(evidence: RegionEvidence) -> None:
    ranked = RankedRegions(np.array([0, 8, 16]), raised_class=0)
    assert score_ranking(ranked, evidence.films.features, evidence) == (0.3, 0.12, 0.3, False)


def test_nothing_scores_nothing(evidence: RegionEvidence) -> None:
    ranked = RankedRegions(np.empty(0, np.int64), accuses=False)
    assert score_ranking(ranked, evidence.films.features, evidence) == (0.0, 0.0, 0.0, False)


def test_boxes_of_a_method_take_the_place_of_its_regions(evidence: RegionEvidence) -> None:
    beside = np.arange(1, 41, 4)  # second tiles; the method says that the feature is in the first
    moved = RankedRegions(beside, 1, boxes=np.tile(TILES[:1], (10, 1)))
    assert score_ranking(moved, evidence.films.features, evidence)[0] == 0.5  # odd films have none
    assert score_ranking(RankedRegions(beside, 1), evidence.films.features, evidence)[0] == 0.0


def test_rank_of_the_true_cluster_by_hand(evidence: RegionEvidence) -> None:
    wrong, right = np.arange(1, 80, 4), np.arange(0, 80, 8)
    features = evidence.films.features
    assert true_cluster_rank([wrong, right], features, evidence) == 2
    assert true_cluster_rank([wrong], features, evidence) == 0
    assert true_cluster_rank([], features, evidence) == 0
    assert true_cluster_rank([right], (), evidence) == 0


def test_digits_are_cut_into_quadrants_and_films_into_36(evidence: RegionEvidence) -> None:
    for domain, count in (("digits", 4), ("garments", 4), ("phantoms", 36)):
        setting = Setting(domain, "planted", (Pair(Mark("disc"), "y"),), 0.9, "resnet", 0)
        boxes = propose_regions(evidence.films, setting)
        assert len(boxes) == 20
        assert boxes[0].shape == (count, 4)
        assert boxes[0].max() == 16


def scored(evidence: RegionEvidence, margin: np.ndarray) -> RegionEvidence:
    """Films with this log odds (20,) of the second class."""
    share = 1 / (1 + np.exp(-margin))
    scores = replace(evidence.scores, image=np.stack([1 - share, share], axis=1))
    return replace(evidence, scores=scores)


def test_use_is_how_far_the_margin_of_other_classes_falls_without_the_mark(
    evidence: RegionEvidence,
) -> None:
    (feature,) = evidence.films.features
    bare = np.where(evidence.films.labels == 1, 1.0, -1.0)
    marked = bare + 0.5 * feature.present * (evidence.films.labels != feature.target)
    asked = scored(evidence, marked)
    assert measure_use(asked, scored(evidence, bare)) == pytest.approx(0.5 / marked.std())
    assert measure_use(asked, asked) == 0
    assert np.isnan(measure_use(evidence, evidence))  # it answers every film alike
    # Of two marks the less used one; films with both say nothing of either.
    present = np.isin(np.arange(20), (0, 1, 3))
    films = replace(evidence.films, features=(feature, replace(feature, present=present)))
    two = replace(asked, films=films)
    assert measure_use(two, replace(scored(evidence, bare), films=films)) == 0


def test_leak_is_the_change_of_regions_beside_the_mark_by_that_of_its_own(
    evidence: RegionEvidence,
) -> None:
    asked = replace(evidence, region=np.tile(np.eye(8, dtype=np.float32)[:1], (80, 1)))
    first = np.arange(0, 80, 8)  # tiles of even films: the mark's own
    region = asked.region.copy()
    region[first] *= -1  # one less the cosine is 2
    region[first + 1] = 0  # and 1, for one of the three beside it
    plain = replace(asked, region=region)
    assert measure_leak(asked, plain) == pytest.approx((1 / 3) / 2)
    assert np.isnan(measure_leak(asked, asked))
    films = replace(evidence.films, features=evidence.films.features * 2)
    assert np.isnan(measure_leak(replace(asked, films=films), plain))
