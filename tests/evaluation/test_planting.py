import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats.contingency import association

from ravl_med.evaluation.films import FINETUNE, TEST, VALIDATION, PoolFilms, deal_splits
from ravl_med.evaluation.painting import (
    ANYWHERE,
    BESIDE,
    LETTERS,
    PLACES,
    RECTANGLE,
    SHAPES,
    STYLES,
    Mark,
    draw_mark,
)
from ravl_med.evaluation.planting import (
    FilmPool,
    PlacedFeature,
    draw_carriers,
    learned_gaps,
    make_films,
    paint_films,
    plant_test,
    regions_on,
)
from ravl_med.evaluation.settings import Pair, Setting

LETTER = Mark("letter")


def small_pool(films: int = 240) -> FilmPool:
    rng = np.random.default_rng(0)
    patients = np.arange(films) // 2
    labels = patients % 2
    split = deal_splits(patients, labels, (0.3, 0.2), rng)
    pixels = rng.integers(40, 90, (films, 128, 128)).astype(np.uint8)
    prompts = {"present": ("A.",), "absent": ("B.",)}
    return FilmPool("radiographs", 0, prompts, PoolFilms(pixels, labels, patients, split))


def test_patients_are_apart() -> None:
    films = small_pool().films
    owners = [set(films.patients[films.split == s]) for s in (FINETUNE, VALIDATION, TEST)]
    assert all(owners)
    assert not owners[0] & (owners[1] | owners[2])
    assert not owners[1] & owners[2]


def test_perfect_association_without_a_step_and_halves_at_zero() -> None:
    labels = np.repeat([0, 1], 10)
    alone = np.arange(20)
    rng = np.random.default_rng(0)
    assert (draw_carriers(labels, alone, 1, 1.0, rng) == (labels == 1)).all()
    free = draw_carriers(labels, alone, 1, 0.0, rng)
    assert all(abs(int(free[own].sum()) - 5) <= 1 for own in (slice(10), slice(10, 20)))


def test_strength_by_hand() -> None:
    # 10 + 10 films, one moved a class: cells 9 1 / 1 9, V = (81 - 1) / 100 = 0.8.
    labels = np.repeat([0, 1], 10)
    carries = draw_carriers(labels, np.arange(20), 1, 0.8, np.random.default_rng(0))
    assert carries[:10].sum() == 1
    assert carries[10:].sum() == 9


@pytest.mark.parametrize("strength", [0.7, 0.9, 0.99])
def test_strength_is_reached_where_it_learns_and_none_where_it_is_asked(strength: float) -> None:
    setting = Setting("radiographs", "planted", (Pair(LETTER, "absent"),), strength, "resnet", 0)
    films = make_films(setting, small_pool(800))
    feature = films.finetune.features[0]
    table = np.array(
        [
            [np.sum((films.finetune.labels == a) & (feature.present == b)) for b in (0, 1)]
            for a in (0, 1)
        ]
    )
    assert association(table, method="cramer") == pytest.approx(films.reached[0])
    assert films.reached[0] == pytest.approx(strength, abs=0.02)
    free = films.validation.features[0]
    for label in (0, 1):
        own = free.present[films.validation.labels == label]
        assert abs(own.mean() - 0.5) < 0.03


def test_two_things_lie_on_films_independently_of_each_other_when_audited() -> None:
    pairs = (Pair(LETTER, "absent"), Pair(Mark("disc", "heart", 0.06), "present"))
    setting = Setting("radiographs", "two", pairs, 0.95, "resnet", 0)
    films = make_films(setting, small_pool(800))
    first, second = films.validation.features
    assert abs(np.corrcoef(first.present, second.present)[0, 1]) < 0.2
    assert len(films.reached) == 2


def test_the_thing_is_where_its_box_is_and_other_films_are_untouched() -> None:
    pool = small_pool()
    setting = Setting("radiographs", "planted", (Pair(LETTER, "absent"),), 0.9, "resnet", 0)
    test = plant_test(setting, pool)
    plain = pool.films.pixels[pool.films.rows(TEST)]
    feature = test.features[0]
    changed = (test.pixels != plain).any(axis=(1, 2))
    assert (changed == feature.present).all()
    assert set(feature.film) == set(np.flatnonzero(feature.present))


MARKS = [
    *(Mark(shape, ANYWHERE, 0.06) for shape in SHAPES),
    *(Mark("disc", place, 0.05, 0.7) for place in (*PLACES, BESIDE)),
    *map(Mark, LETTERS),
    Mark(RECTANGLE, BESIDE, contrast=0.6),
]


@pytest.mark.parametrize("mark", MARKS, ids=Mark.label)
def test_painted_marks_stay_in_their_boxes(mark: Mark) -> None:
    plain = np.full((6, 128, 128), 90, dtype=np.uint8)
    seeds = np.arange(12).reshape(6, 2)
    planted = paint_films(mark, plain, seeds)
    again = paint_films(mark, plain, seeds)
    assert (planted.pixels == again.pixels).all()
    assert planted.film.tolist() == [*range(6)]
    for film, box in zip(planted.pixels, planted.boxes, strict=True):
        rows, columns = np.nonzero(film != 90)
        near = 4 if mark.shape == "staple" else 2  # which is turned
        assert box[0] - near <= columns.min() <= columns.max() <= box[2] + near
        assert box[1] - near <= rows.min() <= rows.max() <= box[3] + near
    assert (plain == 90).all()


def test_contrast_and_place_are_what_a_mark_says() -> None:
    plain = np.full((20, 128, 128), 90, dtype=np.uint8)
    seeds = np.arange(40).reshape(20, 2)
    faint, clear = (
        int(paint_films(Mark("disc", "heart", 0.06, contrast), plain, seeds).pixels.max())
        for contrast in (0.3, 0.9)
    )
    assert 90 < faint < clear
    fixed, free = (
        float(np.ptp(paint_films(Mark("disc", place, 0.06), plain, seeds).boxes[:, 0]))
        for place in ("heart", ANYWHERE)
    )
    assert fixed < 20 < 40 < free


def test_what_lies_beside_an_object_leaves_its_quadrant_free() -> None:
    plain = np.zeros((30, 96, 96), dtype=np.uint8)
    plain[:, 8:40, 56:88] = 200
    for mark in (Mark("ring", BESIDE, 0.08), Mark(RECTANGLE, BESIDE)):
        planted = paint_films(mark, plain, np.arange(60).reshape(30, 2))
        assert (planted.pixels[:, :46, 50:] == plain[:, :46, 50:]).all()
        middles = (planted.boxes[:, :2] + planted.boxes[:, 2:]) / 2
        assert len(np.unique(np.floor(middles / 48), axis=0)) == 3


@pytest.mark.parametrize("style", STYLES)
def test_a_style_has_no_place(style: str) -> None:
    plain = np.random.default_rng(0).integers(60, 120, (2, 64, 64)).astype(np.uint8)
    planted = paint_films(Mark(style), plain, np.zeros((2, 1), np.int64))
    assert planted.boxes.shape == (0, 4)
    assert planted.film.shape == (0,)
    assert (planted.pixels != plain).mean() > 0.1


def test_marks_that_are_drawn_differ_and_those_over_anatomy_are_round() -> None:
    drawn = {draw_mark(np.random.default_rng(n), ("heart",)) for n in range(20)}
    assert len(drawn) == 20
    assert {mark.shape for mark in drawn} == {"disc", "ring"}


def test_gaps_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    present = np.array([1, 1, 0, 0, 1, 1, 0, 0], dtype=np.bool_)
    said = np.array([0, 0, 0, 1, 0, 1, 1, 1])
    # Class 0: 1.0 with it and 0.5 without; class 1: 0.5 with it and 1.0 without.
    assert learned_gaps(labels, said, placed(present)) == (0.5, 0.5)


def test_regions_on_by_hand() -> None:
    present = np.array([True, False])
    boxes = np.array([[0, 0, 20, 20], [10, 0, 30, 20], [15, 0, 40, 20], [0, 0, 20, 20]])
    feature = placed(present, np.array([[0, 0, 10, 20]], np.float32), np.array([0]))
    film = np.array([0, 0, 0, 1])
    places = boxes.astype(np.float32)
    assert regions_on(feature, places, film).tolist() == [True, False, False, False]
    wide = placed(present, np.array([[0, 0, 12, 20]], np.float32), np.array([0]))
    assert regions_on(wide, places, film, touching=True).tolist() == [True, True, False, False]


def test_a_line_counts_by_its_pixels() -> None:
    masks = np.zeros((1, 32, 32), dtype=np.bool_)
    masks[0, 4, :5] = True
    feature = placed(np.array([True]), masks=masks)
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10]], dtype=np.float32)
    film = np.zeros(2, dtype=np.int64)
    assert regions_on(feature, boxes, film).tolist() == [True, False]
    assert regions_on(feature, boxes, film, touching=True).tolist() == [True, True]


def test_a_mark_without_a_place_is_on_every_region_of_its_films() -> None:
    feature = placed(np.array([True, False]), name=STYLES[0])
    boxes = np.zeros((3, 4), dtype=np.float32)
    assert regions_on(feature, boxes, np.array([0, 1, 0])).tolist() == [True, False, True]


def placed(
    present: NDArray[np.bool_],
    boxes: NDArray[np.float32] | None = None,
    film: NDArray[np.int64] | None = None,
    masks: NDArray[np.bool_] | None = None,
    name: str = "letter",
) -> PlacedFeature:
    return PlacedFeature(
        name,
        0,
        present,
        np.empty((0, 4), np.float32) if boxes is None else boxes,
        np.empty(0, np.int64) if film is None else film,
        masks,
    )
