from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ravl_med.discovery.clusters import paper_clusters
from ravl_med.encoders.zero_shot import Scores
from ravl_med.evaluation.methods import (
    BASELINES,
    CHOSEN,
    METHODS,
    OPTIONS,
    OURS,
    PUBLISHED,
    RankedRegions,
    distil_failures,
    domino,
    fit_error_mixture,
    george,
    harm_of,
    spurious_aware,
)
from ravl_med.evaluation.planting import PlacedFeature, SplitFilms
from ravl_med.evaluation.small_models import RegionEvidence

FILMS, REGIONS, SIZE = 400, 4, 24

SLOW = pytest.mark.slow  # UMAP compiles for twenty seconds
GEORGE = pytest.param("george", marks=SLOW)
OTHERS = [name for name in BASELINES if name != "george"]


def planted_evidence(seed: int = 0, gap: float = 0.8) -> RegionEvidence:
    """Films of two classes whose feature, a direction of its own, makes the model say class 0."""
    rng = np.random.default_rng(seed)
    labels = np.arange(FILMS) % 2
    present = rng.random(FILMS) < 0.5
    flipped = rng.random(FILMS) < gap
    predictions = np.where(present & flipped, 0, np.where(~present & flipped, 1, labels))
    anchors = rng.standard_normal((6, SIZE))
    kind = rng.integers(0, 5, (FILMS, REGIONS))
    place = rng.integers(0, REGIONS, FILMS)
    kind[present, place[present]] = 5
    region = anchors[kind.ravel()] + 0.4 * rng.standard_normal((FILMS * REGIONS, SIZE))
    region /= np.linalg.norm(region, axis=1, keepdims=True)
    tiles = np.array([[0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [8, 8, 16, 16]], np.float32)
    film = np.flatnonzero(present)
    feature = PlacedFeature("letter", 0, present, tiles[place[film]], film, None)
    films = SplitFilms(np.zeros((FILMS, 16, 16), np.uint8), labels, np.arange(FILMS), (feature,))
    likely = np.full((FILMS, 2), 0.1, np.float32)
    likely[np.arange(FILMS), predictions] = 0.9
    spoken = np.full((FILMS * REGIONS, 2), 0.5, np.float32)
    spoken[kind.ravel() == 5] = (0.9, 0.1)
    return RegionEvidence(
        ("a", "b"),
        films,
        region.astype(np.float32),
        np.repeat(np.arange(FILMS), REGIONS),
        np.tile(tiles, (FILMS, 1)),
        Scores(likely, spoken, predictions),
        np.eye(2, SIZE, dtype=np.float32),
    )


def share_on_thing(evidence: RegionEvidence, ranked: RankedRegions, count: int = 10) -> float:
    """Naive precision: the region is the tile that holds the feature of its film."""
    feature = evidence.films.features[0]
    hits = 0
    for region in ranked.regions[:count]:
        film = evidence.region_image[region]
        box = evidence.region_boxes[region]
        own = feature.boxes[feature.film == film]
        hits += bool(len(own)) and bool((own[0] == box).all())
    return hits / count


def test_domino_reads_a_slice_of_errors() -> None:
    evidence = planted_evidence()
    films = evidence.region_image[domino(evidence, "weight 10", 0).regions[:10]]
    assert not evidence.correct[films].any()


@pytest.mark.parametrize("name", ["distilling_failures", GEORGE])
def test_a_baseline_finds_a_planted_direction(name: str) -> None:
    evidence = planted_evidence()
    for option in OPTIONS[name][:2]:
        ranked = BASELINES[name](evidence, option.own, 0)
        assert share_on_thing(evidence, ranked) >= 0.9
        assert ranked.accuses is None  # it would name something in any model
        assert ranked.score > 0.2


def test_distilling_failures_and_domino_name_the_raised_class() -> None:
    evidence = planted_evidence()
    assert distil_failures(evidence, "failing end", 0).raised_class == 0
    assert domino(evidence, "weight 10", 0).raised_class == 0


def test_random_regions_find_the_thing_as_often_as_it_is_there() -> None:
    evidence = planted_evidence()
    shares = [share_on_thing(evidence, BASELINES["random"](evidence, "", s), 400) for s in range(5)]
    assert np.mean(shares) == pytest.approx(0.5 / REGIONS, abs=0.03)
    assert len(BASELINES["random"](evidence, "", 0).regions) == FILMS * REGIONS


@pytest.mark.parametrize("name", [*OTHERS, GEORGE])
def test_a_baseline_repeats_itself(name: str) -> None:
    evidence = planted_evidence(1)
    first, second = (BASELINES[name](evidence, CHOSEN[name].own, 3) for _ in range(2))
    assert (first.regions == second.regions).all()
    assert first.raised_class == second.raised_class


@pytest.mark.parametrize("name", [*OTHERS, GEORGE])
def test_a_model_without_failures_gives_a_list_all_the_same(name: str) -> None:
    evidence = planted_evidence(gap=0.0)
    assert len(BASELINES[name](evidence, CHOSEN[name].own, 0).regions) > 0


def test_spurious_aware_reads_the_largest_gap() -> None:
    evidence = planted_evidence()
    clusters = paper_clusters(evidence.region, 2, sample=2000, seed=0)
    ranked = spurious_aware(evidence, clusters)
    best = (-1.0, -1)
    right = evidence.scores.predictions == evidence.films.labels
    for cluster in range(len(clusters)):
        with_it = np.zeros(FILMS, dtype=np.bool_)
        for region in clusters.members(cluster):
            with_it[evidence.region_image[region]] = True
        for label in (0, 1):
            own = evidence.films.labels == label
            if not (own & with_it).any() or not (own & ~with_it).any():
                continue
            gap = right[own & with_it].mean() - right[own & ~with_it].mean()
            best = max(best, (abs(gap), cluster))
    assert (ranked.regions == clusters.members(best[1])).all()
    assert ranked.raised_class == 0


@SLOW
def test_george_reads_the_worst_cluster_of_a_class() -> None:
    evidence, threads = planted_evidence(), torch.get_num_threads()
    ranked = george(evidence, "UMAP to 2", 0)
    assert torch.get_num_threads() == threads
    films = evidence.region_image[ranked.regions]
    labels = evidence.films.labels[films]
    assert len(set(labels.tolist())) == 1
    own = evidence.correct[evidence.films.labels == labels[0]].mean()
    assert evidence.correct[films].mean() < own


def test_the_mixture_follows_the_formula() -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((60, 3))
    labels = rng.integers(0, 2, 60)
    predicted = rng.dirichlet(np.ones(2), 60)
    earlier, fitted = (
        fit_error_mixture(points, labels, predicted, slices=4, weight=2.0, steps=steps)
        for steps in (2, 3)
    )
    naive = _naive_posterior(points, labels, predicted, earlier.share, 2.0)
    assert fitted.share == pytest.approx(naive, abs=1e-6)
    assert fitted.share.sum(axis=1) == pytest.approx(1.0)
    assert fitted.label.sum(axis=1) == pytest.approx(1.0)


def _naive_posterior(
    points: NDArray[np.float64],
    labels: NDArray[np.int64],
    predicted: NDArray[np.float64],
    share: NDArray[np.float64],
    weight: float,
) -> NDArray[np.float64]:
    """One M-step and one E-step, written out point by point."""
    slices = share.shape[1]
    posterior = np.zeros_like(share)
    for point in range(len(points)):
        for one in range(slices):
            own = share[:, one]
            mean = (own[:, None] * points).sum(0) / own.sum()
            spread = (own[:, None] * (points - mean) ** 2).sum(0) / own.sum()
            spread = np.maximum(spread, 1e-6)
            density = np.prod(
                np.exp(-((points[point] - mean) ** 2) / (2 * spread)) / np.sqrt(2 * np.pi * spread)
            )
            said = sum(own[labels == labels[point]]) / own.sum()
            mixed = sum(
                predicted[point, c] * (own * predicted[:, c]).sum() / own.sum() for c in (0, 1)
            )
            posterior[point, one] = own.mean() * density * said**weight * mixed**weight
    return posterior / posterior.sum(axis=1, keepdims=True)


def test_every_published_method_is_asked_at_as_many_options() -> None:
    assert set(PUBLISHED) <= set(METHODS)
    assert set(BASELINES) <= set(METHODS)
    assert set(OPTIONS) == {*PUBLISHED, OURS}
    counts = {len(options) for name, options in OPTIONS.items() if name != "random"}
    assert counts == {4}
    assert all(CHOSEN[name] in options for name, options in OPTIONS.items())


def test_distilling_failures_reads_the_clearer_end() -> None:
    evidence = planted_evidence()
    failing, clearer = (distil_failures(evidence, own, 0) for own in ("failing end", "clearer end"))
    assert failing.score == clearer.score
    reads_other = clearer.regions[0] == failing.regions[-1]
    assert reads_other or (clearer.regions == failing.regions).all()


@pytest.mark.parametrize(
    ("kind", "confirmed", "undone", "changed", "harm"),
    [
        ("shortcut", True, 0.0, 0.2, 0.3),  # the smaller gap
        ("shortcut", True, 0.4, 0.2, 0.4),
        ("shortcut", False, 0.0, 0.2, 0.2),  # no gap is confirmed: it counts by what it changes
        ("undecided", True, 0.4, 0.2, 0.0),
    ],
)
def test_the_harm_of_a_shortcut_is_the_largest_that_is_shown(
    kind: str, confirmed: bool, undone: float, changed: float, harm: float
) -> None:
    removal = SimpleNamespace(harm=undone, undoes=lambda least: undone > least)
    tested = SimpleNamespace(used=True, removal=removal, changed_answers=changed)
    arms = SimpleNamespace(gap=np.array([0.0, 0.5]), opposed_gap=-0.3)
    one: Any = SimpleNamespace(
        kind=kind,
        counterfactual=tested,
        confirmed=confirmed,
        confirmation=SimpleNamespace(arms=arms),
        cluster=SimpleNamespace(raised_class=1),
    )
    assert harm_of(one) == harm
