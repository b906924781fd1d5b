from dataclasses import replace

import numpy as np
import pytest

from ravl_med.evidence.audit_result import FilmAnswers, FilmChange, result_document
from ravl_med.regions.region_set import RegionKind
from ravl_med.reporting.audit.report import _crop
from ravl_med.reporting.pictures import (
    answer_text,
    companions,
    correlation_pictures,
    crop_picture,
    film_panels,
    film_picture,
    removal_effect,
    shown_boxes,
    shown_correlations,
    with_changes,
    words_of_answer,
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


def test_regions_come_in_order_and_each_lies_where_its_effect_does(result_of, film):
    result = result_of()
    entry = result.correlations[0]
    pictures = correlation_pictures(result, entry, film, 10)
    assert [crop.number for crop in pictures.crops] == list(range(1, 11))
    removal = entry.counterfactual.removal
    assert [crop.effect for crop in pictures.crops] == removal.effect[entry.order[:10]].tolist()
    moved = np.full((len(entry.cluster.regions), 4), [10.0, 20.0, 30.0, 60.0], np.float32)
    located = replace(removal, located=moved)
    entry = replace(entry, counterfactual=replace(entry.counterfactual, removal=located))
    shown = correlation_pictures(result, entry, film, 1)
    assert shown.crops[0].picture.boxes == crop_picture(film(0), (10, 20, 30, 60)).boxes
    assert shown.random[0].picture.boxes == film_picture(film(0), [(10, 20, 30, 60)]).boxes


def answered(result, seed=0):
    """A result with labels and answers, of which about half are wrong."""
    rng = np.random.default_rng(seed)
    labels, called = rng.integers(0, 3, (2, len(result.image_ids)))
    score = rng.random(len(labels)).astype(np.float32)
    return replace(result, answers=FilmAnswers(labels, called, score))


def test_mistakes_come_first_then_films_at_random_with_it_and_without(result_of):
    result = answered(result_of())
    entry, answers = result.correlations[0], result.answers
    panels = film_panels(result, entry)
    present, raised = entry.cluster.present, entry.cluster.raised_class
    assert len(panels.mistakes) == len(panels.random) == len(panels.without) == 4
    assert present[[*panels.mistakes, *panels.random]].all()
    assert not present[list(panels.without)].any()
    labels, called = answers.labels, answers.called
    assert (labels[list(panels.mistakes)] != called[list(panels.mistakes)]).all()
    assert (called[list(panels.mistakes)] == raised).all()
    assert (np.diff(answers.score[list(panels.mistakes)]) <= 0).all()
    assert (labels[list(panels.random)] == labels[list(panels.without)]).all()
    assert film_panels(result, entry) == panels
    assert film_panels(replace(result, answers=None), entry).mistakes == ()


def test_what_stands_under_mistakes_is_marked_as_one(result_of):
    """A film without a label is none: nobody knows whether its answer is right."""
    result = result_of(correlations=1)
    entry = result.correlations[0]
    labels = np.where(np.arange(len(result.image_ids)) % 2, 0, -1)
    called = np.where(np.arange(len(labels)) % 3, 0, 1)
    answers = FilmAnswers(labels, called, np.full(len(labels), 0.8, np.float32))
    result = replace(result, answers=answers)
    mistakes = film_panels(result, entry).mistakes
    assert mistakes
    assert all(answer_text(result, film).startswith("✗") for film in mistakes)


@pytest.mark.parametrize(
    ("label", "called", "told"),
    [
        ("edema", "edema", "✓ edema (0.91)"),
        ("normal", "edema", "✗ labelled normal, called edema (0.91)"),
        ("", "edema", "called edema (0.91)"),
    ],
)
def test_label_and_answer_stand_under_a_film(label, called, told):
    assert words_of_answer(label, called, 0.912) == told


def test_a_film_after_a_change_holds_the_patch_where_it_was_changed(result_of, film):
    patch = np.full((5, 4), 17, np.uint8)
    result = result_of()
    change = FilmChange(
        1, result.image_ids[3], "removal", (40.0, 60.0, 80.0, 110.0),
        "no finding", "cardiomegaly", 0.77, "no finding", 0.61, patch,
    )  # fmt: skip
    result = replace(result, changes=(change,))
    read = with_changes(result, film)
    assert (read(3) == film(3)).all()
    after = read(len(result.image_ids))
    assert (after[60:110, 40:80] == 17).all()
    after[60:110, 40:80] = film(3)[60:110, 40:80]
    assert (after == film(3)).all()
    assert {3, len(result.image_ids)} <= set(shown_boxes(result, 3))
    (shown,) = correlation_pictures(result, result.correlations[0], read, 1).changes
    assert shown.before.answer == "✗ labelled no finding, called cardiomegaly (0.77)"
    assert shown.after.answer == "✓ no finding (0.61)"
    assert shown.after.picture.pixels.shape == shown.before.picture.pixels.shape


def test_without_an_intervention_no_region_has_an_effect_or_carries(full_result, film):
    entry = full_result.correlations[4]
    assert entry.counterfactual is None
    assert np.isnan(removal_effect(entry)).all()
    assert removal_effect(entry).shape == entry.cluster.regions.shape
    pictures = correlation_pictures(full_result, entry, film, 10)
    assert len(pictures.crops) == 10
    assert all(np.isnan(crop.effect) for crop in pictures.crops)


def test_what_counts_or_has_to_be_decided_has_a_page_and_nothing_else(result_of):
    result = result_of(correlations=12)
    assert [entry.rank for entry in shown_correlations(result)] == [1, 2]
    late = replace(result.correlations[-1], counts=True)
    along = replace(result.correlations[3], companion_of=1)
    entries = (*result.correlations[:3], along, *result.correlations[4:-1], late)
    result = replace(result, correlations=entries, to_decide=(1, 2, 5))
    assert [entry.rank for entry in shown_correlations(result)] == [1, 2, 12, 5]
    assert [entry.rank for entry in companions(result)] == [4]


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
    for one, other in zip(plain.random, enlarged.random, strict=True):
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
