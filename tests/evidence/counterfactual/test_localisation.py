"""What the parts of a region cost a model that looks at known pixels."""

from dataclasses import replace

import numpy as np
import pytest

from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.counterfactual.fills import LikePlaces
from ravl_med.evidence.counterfactual.localisation import (
    MOST_REGIONS,
    RelevantPlaces,
    most_share_pictures,
    share_effect,
)
from ravl_med.evidence.counterfactual.model_inputs import Margins, ModelInputs
from ravl_med.regions.film_structures import FilmStructures
from ravl_med.regions.geometry import InputGeometry

SIZE = 64
HEART = RelevantPlaces(anatomy=("cardiac silhouette",))
BOX = (8.0, 8.0, 40.0, 40.0)


def mask(x0, y0, x1, y1):
    inside = np.zeros((SIZE, SIZE), dtype=bool)
    inside[y0:y1, x0:x1] = True
    return inside


LEAD, MUSCLE, SKIN = mask(22, 8, 26, 40), mask(8, 26, 20, 40), mask(32, 10, 40, 20)


class Film:
    """A dark film with a bright lead across the heart, bright muscle, bright skin beside it."""

    def __init__(self, looked_at):
        self.picture = np.zeros((3, SIZE, SIZE), dtype=np.float32)
        self.picture[:, LEAD | MUSCLE | SKIN] = 1.0
        self.looked_at = looked_at
        self.asked = 0

    def inputs(self, films=1, patients=None):
        images = AuditData(
            classes=("a", "b"),
            labels=np.zeros(films, dtype=np.int64),
            predictions=np.zeros(films, dtype=np.int64),
            patients=np.arange(films) if patients is None else np.asarray(patients),
            sizes=np.full((films, 2), SIZE),
            region_image=np.arange(films),
            region_boxes=np.tile(np.array(BOX, dtype=np.float32), (films, 1)),
        )

        def ask(pictures):
            seen = list(pictures)
            self.asked += len(seen)
            margin = [sum(w * p[0][m].mean() for m, w in self.looked_at) for p in seen]
            return Margins(np.array(margin), np.ones(len(seen), dtype=bool))

        def untouched(which):
            return ask(self.picture for _ in which)

        def geometry(height, width):
            return InputGeometry.of(height, width, SIZE, "squash")

        frames = np.tile(np.array([0, 0, SIZE, SIZE], dtype=np.float32), (films, 1))

        def read(film):
            return self.picture

        like = LikePlaces(read, images.patients, frames, 0)
        return ModelInputs(images, read, geometry, ask, untouched, like, lambda count: None)


def structures(film, heart=(4, 4, 28, 44), device=LEAD):
    anatomy = {} if heart is None else {"cardiac silhouette": mask(*heart)}
    return FilmStructures(anatomy, (), device, device)


def share(looked_at, places=HEART, reader=structures, films=1, effect=None, patients=None):
    film = Film(looked_at)
    boxes = np.tile(np.array(BOX, dtype=np.float32), (films, 1))
    effects = np.full(films, 1.0) if effect is None else np.array(effect, dtype=float)
    found = share_effect(
        film.inputs(films, patients), places, reader, np.arange(films), boxes, effects, 0.95
    )
    assert film.asked <= most_share_pictures(films)
    return found


@pytest.mark.parametrize(
    ("looked_at", "inside", "artifact"),
    [
        ([(LEAD, 1.0)], 0.0, 1.0),  # a tenth of the box, and all of the effect
        ([(MUSCLE, 1.0)], 1.0, 0.0),
        ([(SKIN, 1.0)], 0.0, 0.0),
        ([(LEAD, 1.0), (MUSCLE, 1.0)], 0.5, 0.5),
        ([(LEAD, 1.0), (MUSCLE, -1.0)], 0.0, 1.0),  # what speaks against the class is no part of it
    ],
)
def test_the_effect_lies_where_the_model_looks(looked_at, inside, artifact):
    found = share(looked_at)

    assert found.inside == pytest.approx(inside, abs=0.12)
    assert found.artifact == pytest.approx(artifact, abs=0.12)
    assert found.elsewhere == pytest.approx(1 - inside - artifact, abs=0.12)
    assert (found.regions, found.unknown) == (1, 0)


@pytest.mark.parametrize(
    ("looked_at", "inside", "artifact", "lowered"),
    [
        ([(SKIN, 1.0)], 0.0, 0.0, 1.0),
        ([(SKIN, 1.0), (MUSCLE, 1.0)], 0.5, 0.0, 0.5),
        ([(LEAD, 1.0)], 0.0, 1.0, 0.0),  # what lies in an artifact lies nowhere else
    ],
)
def test_places_of_lowered_classes_have_a_share_of_what_is_elsewhere(
    looked_at, inside, artifact, lowered
):
    def with_angle(film):
        found = structures(film)
        angle = {"right costophrenic angle": mask(30, 4, 44, 44)}
        return replace(found, anatomy={**found.anatomy, **angle})

    places = replace(HEART, lowered=("right costophrenic angle", "left costophrenic angle"))
    found = share(looked_at, places, with_angle)

    assert found.inside == pytest.approx(inside, abs=0.12)
    assert found.artifact == pytest.approx(artifact, abs=0.12)
    assert found.lowered == pytest.approx(lowered, abs=0.12)
    assert found.lowered <= found.elsewhere + 1e-9


def test_a_device_that_is_the_finding_is_relevant():
    found = share([(LEAD, 1.0)], RelevantPlaces(artifacts=True, edges=True))

    assert found.inside == pytest.approx(1, abs=0.12)
    assert found.artifact == 0
    assert found.edges


def test_boxes_do_where_no_anatomy_is_known():
    found = share([(MUSCLE, 1.0)], RelevantPlaces(boxes=((0.0, 0.3, 0.33, 0.8),)), reader=None)

    assert found.inside == pytest.approx(1, abs=0.12)


def test_a_region_that_is_all_of_one_kind_is_not_asked_about():
    def everywhere(film):
        return structures(film, heart=(0, 0, SIZE, SIZE), device=np.zeros((SIZE, SIZE), bool))

    film = Film([(LEAD, 1.0)])
    boxes = np.array([BOX], dtype=np.float32)
    found = share_effect(
        film.inputs(), HEART, everywhere, np.zeros(1, dtype=int), boxes, np.ones(1), 0.95
    )

    assert (found.inside, found.artifact, film.asked) == (1.0, 0.0, 0)


def test_parts_that_do_nothing_alone_share_by_area():
    found = share([(mask(50, 50, 60, 60), 1.0)])

    assert 0.1 < found.artifact < 0.35  # the lead and its rim
    assert 0.3 < found.inside < 0.7


def test_without_the_anatomy_nothing_is_said():
    found = share([(LEAD, 1.0)], reader=lambda film: structures(film, heart=None))

    assert np.isnan(found.inside)
    assert np.isnan(found.artifact)
    assert (found.regions, found.unknown) == (0, 1)


def test_films_without_the_anatomy_are_counted_and_left_out():
    found = share(
        [(LEAD, 1.0)],
        films=4,
        reader=lambda film: structures(film, heart=None if film == 2 else (4, 4, 28, 44)),
    )

    assert (found.regions, found.unknown) == (3, 1)
    assert found.artifact == pytest.approx(1, abs=0.12)


def inside_or_not(film):
    """A region that lies in the heart, or in every other film beside it."""
    heart = (50, 50, 60, 60) if film % 2 else (0, 0, SIZE, SIZE)
    return structures(film, heart, device=np.zeros((SIZE, SIZE), bool))


@pytest.mark.parametrize(
    ("patients", "error", "t"),
    [
        ([0, 1, 2, 3], np.sqrt(4 / 3 * 4 * 0.5**2) / 4, 3.18245),  # three degrees of freedom
        ([0, 1, 0, 1], np.sqrt(2 / 1 * 2 * 1.0**2) / 4, 12.70620),
        ([0, 0, 1, 1], 0.0, 12.70620),  # each patient has one of either kind
    ],
)
def test_the_share_inside_has_an_interval_by_patient(patients, error, t):
    found = share([(LEAD, 1.0)], films=4, reader=inside_or_not, patients=patients)

    assert found.inside == 0.5
    assert found.inside_interval.low == pytest.approx(0.5 - t * error, abs=1e-4)
    assert found.inside_interval.high == pytest.approx(0.5 + t * error, abs=1e-4)


def test_large_effects_count_for_more_in_the_share_and_in_its_interval():
    found = share([(LEAD, 1.0)], films=4, reader=inside_or_not, effect=[3.0, 1.0, 3.0, 1.0])

    assert found.inside == pytest.approx(0.75)
    deviations = np.array([1.5 * 0.25, 0.5 * -0.75, 1.5 * 0.25, 0.5 * -0.75])
    error = np.sqrt(4 / 3 * (deviations**2).sum()) / 4
    assert found.inside_interval.low == pytest.approx(0.75 - 3.18245 * error, abs=1e-4)
    assert found.inside_interval.high == pytest.approx(0.75 + 3.18245 * error, abs=1e-4)


def test_one_patient_says_nothing_of_others():
    found = share([(LEAD, 1.0)], films=3, patients=[4, 4, 4])

    assert found.artifact == pytest.approx(1, abs=0.12)
    assert np.isnan([found.inside_interval.low, found.inside_interval.high]).all()


def test_only_the_largest_effects_are_taken_apart():
    films = MOST_REGIONS + 10
    found = share([(LEAD, 1.0)], films=films, effect=np.arange(films) + 1.0)

    assert found.regions == MOST_REGIONS


@pytest.mark.parametrize("effect", [[0.0], [-1.0], [np.nan]])
def test_without_an_effect_there_is_no_share(effect):
    found = share([(LEAD, 1.0)], effect=effect)

    assert np.isnan([found.inside, found.inside_interval.low, found.inside_interval.high]).all()
    assert (found.regions, found.unknown) == (0, 0)
