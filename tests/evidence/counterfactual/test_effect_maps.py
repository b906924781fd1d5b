"""Effect maps: where they look, what they find, and what grows out of it."""

import numpy as np
import pytest

from ravl_med.discovery.candidates import (
    FeatureDetector,
    RegionEffects,
    measure_effect_feature,
    propose_from_effects,
)
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.counterfactual.effect_maps import (
    EffectMaps,
    map_effects,
    region_effects,
    sample_for_maps,
)
from ravl_med.evidence.counterfactual.model_inputs import ModelInputs
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
    return np.stack([-seen, seen, np.zeros_like(seen)], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def maps() -> EffectMaps:
    films = films_with(np.arange(24) < 8)
    return map_effects(films.__getitem__, ask, np.arange(24), SIDE)


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
    assert (looked[:, fine].sum(axis=1) <= 18).all()
    inside = (maps.windows[:, 0] == 8) & (maps.windows[:, 1] == 40) & fine
    assert looked[:8, inside].all()


def test_a_drop_is_that_of_the_margin_less_what_is_usual_at_the_place(maps: EffectMaps) -> None:
    window, before = 30, class_scores(maps.logits, 1.0)[:, 0]
    after = class_scores(maps.logits - maps.change[:, window], 1.0)[:, 0]
    drop = (before - after) / before.std()

    np.testing.assert_allclose(maps.drops()[:, window, 0], drop - np.median(drop), atol=1e-9)


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
    geometry = InputGeometry.of(SIDE, SIDE, SIDE, "squash")
    inputs = ModelInputs(data, lambda film: film, lambda h, w: geometry, ask, lambda n: None)
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


def regions_with(planted: np.ndarray, of_each: int = 6, dimensions: int = 24, size: float = 0.5):
    """Embeddings of `of_each` regions a film; the third of some films has a part in common."""
    rng = np.random.default_rng(3)
    films = len(planted)
    common, part = rng.normal(size=(2, dimensions))
    made = rng.normal(0, 0.4, (films, of_each, dimensions)) + common
    made[planted, 2] += size * part / np.linalg.norm(part) * np.sqrt(dimensions)
    flat = made.reshape(-1, dimensions)
    return (flat / np.linalg.norm(flat, axis=1, keepdims=True)).astype(np.float32)


def effects_of(planted: np.ndarray, mapped: int, effect: float) -> RegionEffects:
    rng = np.random.default_rng(4)
    values = rng.normal(0, 0.05, (mapped * 6, 2))
    values.reshape(mapped, 6, 2)[planted[:mapped], 2, 0] += effect
    return RegionEffects(np.arange(6 * mapped), np.repeat(np.arange(mapped), 6), values)


def test_what_has_an_effect_is_found_on_films_that_were_not_mapped() -> None:
    planted = np.random.default_rng(5).random(200) < 0.4
    embeddings = regions_with(planted)

    (feature,) = propose_from_effects(embeddings, effects_of(planted, 80, 1.0), seed=0)

    assert feature.raised_class == 0
    assert feature.films == planted[:80].sum()
    assert feature.effect == pytest.approx(1.0, abs=0.1)
    found = FeatureDetector(feature.medoids, 1, 0, None, 0.0).find(embeddings).reshape(200, 6)
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
        feature, 77, data, embeddings, np.arange(120) < 60, min_films=5
    )

    assert (cluster.cluster, cluster.source, cluster.raised_class) == (77, "effects", 0)
    assert (cluster.present == planted).mean() > 0.95
    assert cluster.lowered_classes == (1,)
    assert set(data.region_image[cluster.regions]) == set(np.flatnonzero(cluster.present))
    assert (np.diff(cluster.similarity) <= 0).all()
    own = labels[:60] == 1
    gap = (predictions == labels)[:60][own & cluster.present[:60]].mean() - 1.0
    assert cluster.gap[1] == pytest.approx(gap)
