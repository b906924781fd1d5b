"""The phantom films: pixels, boxes and label maps agree."""

import numpy as np
import pytest

from ravl_med.phantoms.anatomy import draw_body
from ravl_med.phantoms.devices import BASE_RATE, FEATURES
from ravl_med.phantoms.film import FINDINGS, LABELS, Phantom, render_phantom

KINDS = {
    "generator": {"generator", "lead"},
    "tube": {"tube"},
    "electrode": {"electrode", "wire"},
    "marker": {"marker"},
    "text": {"text"},
}


def film(number: int, finding: str, features: tuple[str, ...] = (), **options: object) -> Phantom:
    enlarged = finding == "cardiomegaly"
    body = draw_body((1, number), female=number % 2 == 0, age=50, enlarged=enlarged)
    seeds = ((1, number), (1, number, 7))
    return render_phantom(body, finding, features, seeds=seeds, **options)


@pytest.mark.parametrize("finding", FINDINGS)
@pytest.mark.parametrize("anteroposterior", [False, True])
def test_pixels_are_a_film(finding: str, anteroposterior: bool) -> None:
    phantom = film(3, finding, anteroposterior=anteroposterior, size=128)
    height, width = phantom.pixels.shape
    assert phantom.pixels.dtype == np.float32
    assert min(height, width) == 128
    assert max(height, width) <= round(128 * 1.12)
    assert 0 <= phantom.pixels.min() < 0.1
    assert 0.85 < phantom.pixels.max() <= 1
    lung = phantom.pixels[phantom.label_map == LABELS["lung"]].mean()
    heart = phantom.pixels[phantom.label_map == LABELS["heart"]].mean()
    assert heart - lung > 0.25


def test_a_film_is_its_seed() -> None:
    first, second = (film(4, "consolidation", FEATURES, size=96) for _ in range(2))
    np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(first.label_map, second.label_map)
    assert first.boxes == second.boxes


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("number", range(8))
def test_boxes_cover_the_label_map(number: int, size: int) -> None:
    finding = FINDINGS[number % 5]
    phantom = film(number, finding, FEATURES, size=size)
    height, width = phantom.label_map.shape
    painted = {kind for group in KINDS.values() for kind in group} | set(FINDINGS)
    for kind in painted:
        inside = np.zeros((height, width), dtype=bool)
        for name, x0, y0, x1, y1 in phantom.boxes:
            if name == kind:
                assert 0 <= x0 < x1 <= width
                assert 0 <= y0 < y1 <= height
                inside[y0:y1, x0:x1] = True
        assert not np.any((phantom.label_map == LABELS[kind]) & ~inside), kind


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_brings_its_own_kinds_only(feature: str) -> None:
    for number in range(4):
        phantom = film(number, "no finding", (feature,))
        assert {box[0] for box in phantom.boxes} == KINDS[feature]


def test_a_finding_has_a_box_and_health_has_none() -> None:
    for finding in FINDINGS:
        for number in range(6):
            kinds = [box[0] for box in film(number, finding, size=96).boxes]
            assert set(kinds) == {finding} - {"no finding"}
            assert len(kinds) <= (2 if finding == "pleural effusion" else 1)


def test_a_generator_is_bright_and_lies_at_the_patients_left() -> None:
    for number in range(6):
        phantom = film(number, "no finding", ("generator",))
        box = next(box for box in phantom.boxes if box[0] == "generator")
        height, width = phantom.pixels.shape
        assert (box[1] + box[3]) / 2 > 0.6 * width
        assert (box[2] + box[4]) / 2 < 0.5 * height
        assert 0.06 < (box[3] - box[1]) / width < 0.13
        metal = phantom.pixels[phantom.label_map == LABELS["generator"]]
        assert np.median(metal) > 0.9


def heart_share(phantom: Phantom) -> float:
    """Width of the heart over the width of both lungs, on the label map."""
    heart = np.flatnonzero((phantom.label_map == LABELS["heart"]).any(axis=0))
    lungs = np.flatnonzero((phantom.label_map == LABELS["lung"]).any(axis=0))
    return float(np.ptp(heart) / np.ptp(lungs))


def test_an_enlarged_heart_is_wider() -> None:
    healthy = [heart_share(film(number, "no finding")) for number in range(12)]
    enlarged = [heart_share(film(number, "cardiomegaly")) for number in range(12)]
    assert 0.38 < np.mean(healthy) < 0.50
    assert 0.52 < np.mean(enlarged) < 0.68
    assert np.mean(np.array(enlarged) > max(healthy)) > 0.7


def test_every_feature_has_a_base_rate() -> None:
    assert set(BASE_RATE) == set(FEATURES)
