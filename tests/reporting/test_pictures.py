from dataclasses import replace

import numpy as np
import pytest

from ravl_med.evidence.audit_result import result_document
from ravl_med.regions.region_set import RegionKind
from ravl_med.reporting.audit.report import _crop
from ravl_med.reporting.pictures import (
    correlation_pictures,
    crop_picture,
    film_picture,
    removal_effect,
    shown_correlations,
)


def test_film_keeps_its_shape_and_boxes_become_shares():
    film = np.zeros((400, 800), dtype=np.uint8)
    film[100:200, 200:400] = 255
    picture = film_picture(film, [(200, 100, 400, 200)], side=200)
    assert picture.pixels.shape == (100, 200)
    assert picture.boxes == ((0.25, 0.25, 0.5, 0.5),)
    assert picture.pixels[30:45, 55:95].min() > 240
    assert picture.pixels[60:, :].max() < 15


def test_small_film_is_not_blown_up():
    assert film_picture(np.zeros((50, 70), np.uint8), []).pixels.shape == (50, 70)


@pytest.mark.parametrize(
    ("box", "own"),
    [
        ((40, 40, 60, 60), (1 / 6, 1 / 6, 5 / 6, 5 / 6)),  # a quarter of 20 on each side
        ((0, 0, 20, 20), (0, 0, 0.8, 0.8)),  # cut at the edge of the film
        ((0, 0, 100, 100), (0, 0, 1, 1)),
    ],
)
def test_crop_has_context_and_knows_its_region(box, own):
    picture = crop_picture(np.zeros((100, 100), np.uint8), box, side=60)
    assert max(picture.pixels.shape) == 60
    assert picture.boxes[0] == pytest.approx(own)


def test_crop_shows_the_region():
    film = np.zeros((100, 100), np.uint8)
    film[40:60, 40:60] = 200
    pixels = crop_picture(film, (40, 40, 60, 60), side=90).pixels
    assert pixels[20:70, 20:70].min() > 190
    assert pixels[:8].max() < 10


def test_box_outside_the_film_is_cut():
    film = np.zeros((50, 50), np.uint8)
    assert film_picture(film, [(-5, 10, 60, 70)]).boxes == ((0, 0.2, 1, 1),)
    assert crop_picture(film, (49.9, 49.9, 50, 50)).pixels.size > 0


def test_regions_come_in_order_and_a_film_once(result_of, film):
    result = result_of()
    entry = result.correlations[0]
    # The first and the third region lie on one film.
    regions = entry.cluster.regions.copy()
    first, third = entry.order[0], entry.order[2]
    regions[third] = regions[first] // 36 * 36 + (regions[first] + 5) % 36
    entry = replace(entry, cluster=replace(entry.cluster, regions=regions))
    asked = []
    pictures = correlation_pictures(result, entry, lambda i: asked.append(i) or film(i), 10)
    assert [crop.number for crop in pictures.crops] == list(range(1, 11))
    removal = entry.counterfactual.removal
    assert [crop.effect for crop in pictures.crops] == removal.effect[entry.order[:10]].tolist()
    assert [crop.carries for crop in pictures.crops] == removal.carries[entry.order[:10]].tolist()
    assert pictures.films[0].numbers == (1, 3)
    assert len(pictures.films[0].picture.boxes) == 2
    assert len(pictures.films) == 9
    assert len(asked) == len(set(asked)) == 9


def test_without_an_intervention_no_region_has_an_effect_or_carries(full_result, film):
    entry = full_result.correlations[4]
    assert entry.counterfactual is None
    assert np.isnan(removal_effect(entry)).all()
    assert removal_effect(entry).shape == entry.cluster.regions.shape
    pictures = correlation_pictures(full_result, entry, film, 10)
    assert len(pictures.crops) == 10
    assert all(np.isnan(crop.effect) and not crop.carries for crop in pictures.crops)


def test_counting_correlations_are_shown_first(result_of):
    result = result_of(correlations=12)
    late = replace(result.correlations[-1], counts=True)
    shown = shown_correlations(replace(result, correlations=(*result.correlations[:-1], late)))
    assert [entry.rank for entry in shown] == [1, 2, 12, 3, 4, 5, 6, 7, 8, 9]


def test_a_picture_has_a_larger_one_where_the_film_has_more_to_show():
    film = np.zeros((1200, 1000), np.uint8)
    assert film_picture(film, []).large is None
    picture = film_picture(film, [], large=768)
    assert (picture.pixels.shape, picture.large.shape) == ((300, 250), (768, 640))
    assert film_picture(film, [], large=2000).large.shape == (1200, 1000)
    assert film_picture(film[:300, :200], [], large=768).large is None
    box = (0, 0, 480, 480)
    assert crop_picture(film, box, large=400).large.shape == (400, 400)
    assert crop_picture(film, (0, 0, 80, 80), large=400).large is None


def test_pictures_for_a_screen_show_the_same(result_of, film):
    result = result_of()
    entry = result.correlations[0]
    large = lambda i: np.repeat(np.repeat(film(i), 4, axis=0), 4, axis=1)  # noqa: E731
    plain, enlarged = (
        correlation_pictures(result, entry, large, 10, enlarged=asked) for asked in (False, True)
    )
    for one, other in zip(plain.films, enlarged.films, strict=True):
        assert one.numbers == other.numbers
        assert (one.picture.pixels == other.picture.pixels).all()
        assert one.picture.boxes == other.picture.boxes
        assert one.picture.large is None
        assert max(other.picture.large.shape) == 768


def test_a_region_that_has_a_name_tells_it_under_its_crop(result_of, film):
    result = result_of()
    can = RegionKind("artifacts", "pulse generator", "left shoulder")
    named = replace(result, region_kinds=(can,) * len(result.region_kinds))

    def told(of):
        pictures = correlation_pictures(of, of.correlations[0], film, 3)
        shots = [_crop(crop, 11, measured=True) for crop in pictures.crops]
        return [shot.lines[1:-1] for shot in shots]

    assert told(result) == [()] * 3  # a tile is where it is
    assert told(named) == [("pulse generator, left shoulder",)] * 3
    regions = result_document(named, 5).correlations[0].regions
    assert {(region.source, region.name) for region in regions} == {
        ("artifacts", "pulse generator, left shoulder")
    }
