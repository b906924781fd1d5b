"""Fills and transplants: what a picture looks like without a region, and with a foreign one."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravl_med.evidence.counterfactual.fills import (
    LikePlaces,
    fill_interpolated,
    fill_mask,
    transplant_box,
)


def box(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def mask(size: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    inside = np.zeros((size, size), dtype=bool)
    inside[y0:y1, x0:x1] = True
    return inside


def smooth_film(size: int = 96, seed: int = 0) -> np.ndarray:
    """A film with soft structure, normalised differently in each channel, (3, size, size)."""
    rng = np.random.default_rng(seed)
    gray = cv2.GaussianBlur(rng.normal(size=(size, size)).astype(np.float32), (0, 0), size / 12)
    return np.stack([gray * scale + shift for scale, shift in ((3, 0), (2.5, 1), (4, -2))])


def rough_film(size: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, size, size)).astype(np.float32)


def interpolated_by_hand(image: np.ndarray, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """The formula of `fill_interpolated`, pixel by pixel, for a box of whole pixels."""
    size = image.shape[1]
    filled = image.copy()

    def smoothed(line: list[float], at: int) -> float:
        before, after = line[max(at - 1, 0)], line[min(at + 1, len(line) - 1)]
        return 0.25 * before + 0.5 * line[at] + 0.25 * after

    for channel in range(len(image)):
        gray = image[channel]
        sides = {
            "left": gray[y0:y1, x0 - 1].tolist() if x0 > 0 else None,
            "right": gray[y0:y1, x1].tolist() if x1 < size else None,
            "top": gray[y0 - 1, x0:x1].tolist() if y0 > 0 else None,
            "bottom": gray[y1, x0:x1].tolist() if y1 < size else None,
        }
        for y in range(y0, y1):
            for x in range(x0, x1):
                ways = []
                for first, last, along, way, far in (
                    ("left", "right", y - y0, x - x0 + 1, x1 - x0 + 1),
                    ("top", "bottom", x - x0, y - y0 + 1, y1 - y0 + 1),
                ):
                    ends = [sides[first] or sides[last], sides[last] or sides[first]]
                    if ends[0] is not None:
                        a, b = (smoothed(end, along) for end in ends)
                        ways.append((a + (b - a) * way / far, min(way, far - way)))
                if len(ways) == 2:  # the nearer pair of sides counts for more
                    (across, near), (down, above) = ways
                    filled[channel, y, x] = (across * above + down * near) / (near + above)
                else:
                    filled[channel, y, x] = ways[0][0] if ways else np.median(gray)
    return filled


boxes = st.tuples(
    st.floats(-4, 30, width=32), st.floats(-4, 30, width=32),
    st.floats(0, 30, width=32), st.floats(0, 30, width=32),
).map(lambda v: box(v[0], v[1], v[0] + v[2], v[1] + v[3]))  # fmt: skip


def pixels_of(place: np.ndarray, size: int) -> tuple[int, int, int, int]:
    """Every pixel that a box touches, and one at least."""
    x0, y0 = np.clip(np.floor(place[:2] + 1e-3), 0, size - 1).astype(int)
    x1, y1 = np.clip(np.ceil(place[2:] - 1e-3), [x0 + 1, y0 + 1], size).astype(int)
    return int(x0), int(y0), int(x1), int(y1)


class TestInterpolated:
    def test_what_rises_evenly_is_filled_as_it_was(self):
        across, down = np.meshgrid(np.arange(48.0), np.arange(48.0))
        image = np.stack([2 * across - down, across + 3 * down, 5 - across]).astype(np.float32)
        covered = image.copy()
        covered[:, 10:26, 20:30] = 99.0

        filled = fill_interpolated(covered, box(20, 10, 30, 26))

        np.testing.assert_allclose(filled, image, atol=0.6)  # corners of the border are smoothed
        assert covered[0, 12, 22] == 99  # the original is left alone

    @pytest.mark.parametrize(
        "place",
        [
            (7, 5, 15, 11), (3, 9, 4, 10), (6, 6, 7, 20),  # with all four sides; a pixel; a column
            (0, 5, 6, 11), (18, 18, 24, 24), (5, 0, 9, 24), (0, 4, 24, 9), (0, 0, 23, 24),
            (0, 0, 24, 24),
        ],
    )  # fmt: skip
    def test_it_equals_the_formula_pixel_by_pixel(self, place):
        image = rough_film()

        filled = fill_interpolated(image, box(*place))

        assert filled.dtype == np.float32
        np.testing.assert_allclose(filled, interpolated_by_hand(image, *place), atol=1e-5)

    @given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 23), st.integers(1, 23))
    def test_it_invents_no_value(self, x, y, wide, high):
        image = rough_film(48)
        x1, y1 = min(x + wide, 48), min(y + high, 48)

        filled = fill_interpolated(image, box(x, y, x1, y1))[:, y:y1, x:x1]

        sides = (
            np.s_[:, y:y1, x - 1 : x], np.s_[:, y:y1, x1 : x1 + 1],
            np.s_[:, y - 1 : y, x:x1], np.s_[:, y1 : y1 + 1, x:x1],
        )  # fmt: skip
        border = np.concatenate([image[side].reshape(3, -1) for side in sides], axis=1)
        assert (filled.reshape(3, -1).min(axis=1) >= border.min(axis=1) - 1e-5).all()
        assert (filled.reshape(3, -1).max(axis=1) <= border.max(axis=1) + 1e-5).all()

    def test_a_side_of_the_image_takes_the_opposite_side(self):
        image = np.zeros((1, 16, 16), np.float32)
        image[:, :, 4:] = 2.0

        filled = fill_interpolated(image, box(0, 0, 4, 16))  # of full height: the right side alone

        assert (filled == 2).all()

    def test_the_whole_image_takes_its_median_channel_by_channel(self):
        image = np.arange(32, dtype=np.float32).reshape(2, 4, 4)

        filled = fill_interpolated(image, box(0, 0, 4, 4))

        assert (filled == np.array([7.5, 23.5])[:, None, None]).all()

    def test_a_box_between_pixels_covers_each_pixel_that_it_touches(self):
        image = np.zeros((1, 12, 12), np.float32)
        image[:, 5, 5] = 9.0

        assert (fill_interpolated(image, box(5.2, 5.2, 5.6, 5.6)) == 0).all()
        assert (fill_interpolated(image, box(5.0005, 5.0005, 5.9995, 5.9995)) == 0).all()


@given(boxes)
@settings(max_examples=60, deadline=None)
def test_what_lies_outside_of_the_box_stays_as_it_is(place):
    film, other = smooth_film(28), rough_film(28)
    x0, y0, x1, y1 = pixels_of(place, 28)
    outside = ~mask(28, x0, y0, x1, y1)

    like = Bank(np.stack([film, *(rough_film(28, seed) for seed in range(7))])).like
    seam = x0 > 0 or x1 < 28 or y0 > 0 or y1 < 28  # the whole image has no border
    for changed in (
        fill_interpolated(film, place),
        transplant_box(film, other, place),
        *([like.fill(0, place), like.replace(0, place, np.arange(8) > 3)] if seam else []),
        fill_mask(film, ~outside),
    ):
        np.testing.assert_array_equal(changed[:, outside], film[:, outside])
        assert np.isfinite(changed).all()


class TestTransplant:
    def test_where_the_borders_agree_it_is_the_source(self):
        target, source = rough_film(seed=1), rough_film(seed=1)
        source[:, 8:14, 6:16] = rough_film(seed=2)[:, 8:14, 6:16]

        moved = transplant_box(target, source, box(6, 8, 16, 14))

        np.testing.assert_allclose(moved, source, atol=1e-6)

    def test_a_film_that_is_brighter_all_over_leaves_no_seam(self):
        film = rough_film()

        moved = transplant_box(film, film + 5, box(6, 8, 16, 14))

        np.testing.assert_allclose(moved, film, atol=1e-5)

    def test_a_slope_of_the_light_leaves_no_seam(self):
        """The source is ever brighter to the right; what lies on it is carried over."""
        film = np.zeros((3, 32, 32), np.float32)
        bright = np.tile(np.arange(32, dtype=np.float32), (3, 32, 1))
        bright[:, 14:18, 14:18] += 7

        moved = transplant_box(film, bright, box(8, 8, 24, 24))

        thing = film.copy()
        thing[:, 14:18, 14:18] = 7
        np.testing.assert_allclose(moved, thing, atol=0.3)  # corners of the border are smoothed

    @pytest.mark.parametrize(
        "place", [(7, 5, 15, 11), (0, 5, 6, 11), (18, 18, 24, 24), (5, 0, 9, 24), (0, 0, 24, 24)]
    )
    def test_it_equals_the_formula_pixel_by_pixel(self, place):
        target, source = rough_film(seed=1), rough_film(seed=2)
        before = target.copy(), source.copy()

        moved = transplant_box(target, source, box(*place))

        inside = mask(24, *place)
        wanted = source + interpolated_by_hand(target - source, *place)
        np.testing.assert_allclose(moved[:, inside], wanted[:, inside], atol=1e-5)
        np.testing.assert_array_equal(moved[:, ~inside], target[:, ~inside])
        for film, kept in zip((target, source), before, strict=True):
            np.testing.assert_array_equal(film, kept)  # the originals are left alone

    def test_the_whole_image_is_the_source_at_the_level_of_the_target(self):
        source = rough_film(seed=2)
        target = source * 0 + 3

        moved = transplant_box(target, source, box(0, 0, 24, 24))

        np.testing.assert_allclose(np.median(moved.reshape(3, -1), axis=1), 3, atol=1e-5)
        level = moved - source
        np.testing.assert_allclose(level, np.broadcast_to(level[:, :1, :1], level.shape), atol=1e-5)


def ring_by_hand(place: tuple[int, int, int, int], size: int) -> list[tuple[int, int]]:
    """Pixels (y, x) outside of a box, two wide, that lie on the image."""
    x0, y0, x1, y1 = place
    return [
        (y, x)
        for y in range(max(y0 - 2, 0), min(y1 + 2, size))
        for x in range(max(x0 - 2, 0), min(x1 + 2, size))
        if not (y0 <= y < y1 and x0 <= x < x1)
    ]


class Bank:
    """Films of a bank; what is filled from them is worked out film by film and pixel by pixel."""

    def __init__(self, films, patients=None, frames=None, seed=0):
        n, self.size = len(films), films.shape[2]
        self.films = films
        self.patients = np.arange(n) if patients is None else np.asarray(patients)
        whole = np.tile(box(0, 0, self.size, self.size), (n, 1))
        self.frames = whole if frames is None else np.asarray(frames, np.float32)
        self.reads = []
        self.like = LikePlaces(self.read, self.patients, self.frames, seed)

    def read(self, film):
        self.reads.append(film)
        return self.films[film]

    def likest(self, film, place):
        """Films of other patients and of the same frame, by how unlike their borders are."""
        ring = ring_by_hand(place, self.size)

        def border(one):
            gray = np.array([self.films[one][0, y, x] for y, x in ring], np.float64)
            return gray - gray.mean()

        others = [
            one
            for one in range(len(self.films))
            if self.patients[one] != self.patients[film]
            and (self.frames[one] == self.frames[film]).all()
        ]
        return sorted(others, key=lambda one: ((border(one) - border(film)) ** 2).mean())

    def filled(self, film, place):
        picture = interpolated_by_hand(self.films[film], *place)
        donors = self.likest(film, place)[:24]
        if len(donors) < 5:
            return picture
        patches = {one: self.patch(one, place) for one in (film, *donors)}
        height = {one: (patch[0].astype(float) ** 2).mean() for one, patch in patches.items()}
        taken = [one for one in donors if height[one] <= height[film]][:15]
        if len(taken) < 5:
            taken = sorted(donors, key=height.__getitem__)[:5]
        x0, y0, x1, y1 = place
        picture[:, y0:y1, x0:x1] += patches[self.medoid(taken, place)]
        return picture

    def medoid(self, films, place):
        """The film whose place is nearest to those of the others, by the median distance."""
        patches = {one: self.patch(one, place)[0].astype(float) for one in films}

        def distance(one):
            return np.median([((patches[one] - patches[o]) ** 2).sum() for o in films])

        return min(films, key=distance)

    def patch(self, film, place):
        x0, y0, x1, y1 = place
        change = self.films[film] - interpolated_by_hand(self.films[film], *place)
        return change[:, y0:y1, x0:x1]

    def replaced(self, film, place, bare):
        donors = [one for one in self.likest(film, place) if bare[one]]
        if not donors:
            return self.filled(film, place)
        target, source = self.films[film], self.films[donors[0]]
        x0, y0, x1, y1 = place
        moved, offset = target.copy(), interpolated_by_hand(target - source, *place)
        moved[:, y0:y1, x0:x1] = (source + offset)[:, y0:y1, x0:x1]
        return moved


def rough_films(count: int, size: int = 24, seed: int = 0) -> np.ndarray:
    """Films of which some are rougher than others."""
    rng = np.random.default_rng(seed)
    films = rng.normal(size=(count, 3, size, size)) * rng.uniform(0.5, 2.0, (count, 1, 1, 1))
    return films.astype(np.float32)


class TestLikePlaces:
    PLACES = ((7, 5, 15, 11), (0, 5, 6, 11), (18, 18, 24, 24), (5, 0, 9, 24), (3, 9, 4, 10))

    @pytest.mark.parametrize("place", PLACES)
    def test_a_fill_equals_a_naive_loop(self, place):
        bank = Bank(rough_films(40), np.arange(40) // 2)
        outside = ~mask(24, *place)

        for film in (0, 7, 19, 38):
            filled = bank.like.fill(film, box(*place))

            assert filled.dtype == np.float32
            np.testing.assert_allclose(filled, bank.filled(film, place), atol=1e-5)
            np.testing.assert_array_equal(filled[:, outside], bank.films[film][:, outside])

    @given(st.integers(0, 10_000), st.integers(1, 24))
    @settings(max_examples=25, deadline=None)
    def test_it_does_for_any_films_patients_and_frames(self, seed, count):
        rng = np.random.default_rng(seed)
        frames = np.where(rng.random((count, 1)) < 0.7, box(0, 0, 16, 16), box(4, 0, 12, 16))
        bank = Bank(rough_films(count, 16, seed), rng.integers(0, 12, count), frames, seed)
        x0, y0 = rng.integers(0, 12, 2).tolist()
        place = x0, y0, x0 + int(rng.integers(1, 5)), y0 + int(rng.integers(1, 5))
        film, bare = int(rng.integers(count)), rng.random(count) < 0.3

        filled = bank.like.fill(film, box(*place))
        replaced = bank.like.replace(film, box(*place), bare)

        np.testing.assert_allclose(filled, bank.filled(film, place), atol=1e-5)
        np.testing.assert_allclose(replaced, bank.replaced(film, place, bare), atol=1e-5)

    @pytest.mark.parametrize("place", PLACES)
    def test_a_replacement_equals_a_naive_loop(self, place):
        bank = Bank(rough_films(40), np.arange(40) // 2)
        bare = np.arange(40) % 3 == 0

        apart = []
        for film in (0, 7, 19, 38):
            replaced = bank.like.replace(film, box(*place), bare)

            np.testing.assert_allclose(replaced, bank.replaced(film, place, bare), atol=1e-5)
            apart.append(np.abs(replaced - bank.filled(film, place)).max())
        assert np.median(apart) > 0.1  # they may choose one film

    def test_a_replacement_is_of_bare_films_alone(self):
        """All films but one hold a bright thing; in that one place comes from the other."""
        films = rough_films(12) * 0.1
        films[:11, :, 8:12, 8:12] += 5
        bank, bare = Bank(films), np.arange(12) == 11

        replaced = bank.like.replace(3, box(6, 6, 14, 14), bare)

        np.testing.assert_array_equal(
            replaced, transplant_box(films[3], films[11], box(6, 6, 14, 14))
        )
        assert np.abs(replaced[:, 8:12, 8:12]).max() < 1
        assert bank.like.fill(3, box(6, 6, 14, 14))[:, 8:12, 8:12].mean() > 4  # the usual film

    @pytest.mark.parametrize("bare", [[], [3], [2, 3]])  # none, itself, and one of its patient
    def test_without_a_bare_film_it_is_filled(self, bare):
        bank = Bank(rough_films(12), np.arange(12) // 2)

        replaced = bank.like.replace(3, box(6, 6, 14, 14), np.isin(np.arange(12), bare))

        np.testing.assert_array_equal(replaced, bank.like.fill(3, box(6, 6, 14, 14)))

    def test_a_thing_that_few_films_hold_disappears(self):
        """It lies within the box; a film that holds it looks as one that does not."""
        rng = np.random.default_rng(0)
        films = np.repeat(rng.normal(0, 0.1, (60, 1, 24, 24)), 3, axis=1).astype(np.float32)
        films[:, :, 9:15, 9:15] += 1.0  # what all hold
        few = np.arange(60) % 5 == 0
        films[few, :, 8:10, 7:13] += 3.0
        bank = Bank(films)

        filled = np.array([bank.like.fill(film, box(6, 6, 18, 18)) for film in range(60)])

        thing, usual = filled[few][:, :, 8:9, 7:13], filled[few][:, :, 10:15, 9:15]
        assert np.abs(thing.mean(axis=(1, 2, 3))).max() < 0.3
        assert np.abs(usual.mean(axis=(1, 2, 3)) - 1).max() < 0.3
        assert np.abs(filled[~few][:, :, 8:9, 7:13].mean(axis=(1, 2, 3))).max() < 0.3

    @pytest.mark.parametrize("bare", [5, 9])
    def test_what_most_films_hold_is_not_put_into_one_without_it(self, bare):
        """Nothing comes in that stands out more than what is taken out, if five films allow."""
        films = rough_films(17, seed=3) * 0.1
        films[bare + 1 :, :, 8:12, 8:12] += 5  # film 0 and so many others are bare
        films[0] *= 3  # the roughest of them
        bank = Bank(films)

        filled = bank.like.fill(0, box(6, 6, 14, 14))

        assert np.abs(filled[:, 8:12, 8:12]).max() < 1

    def test_fewer_than_five_that_stand_out_less_are_joined_by_the_plainest(self):
        """With four bare others and twelve with a thing, one of these is among five, not chosen."""
        films = rough_films(17, seed=3) * 0.1
        films[0] *= 3
        films[5:, :, 8:12, 8:12] += np.linspace(9, 5, 12).reshape(-1, 1, 1, 1)
        bank = Bank(films)
        place = 6, 6, 14, 14

        filled = bank.like.fill(0, box(*place))

        x0, y0, x1, y1 = place
        wanted = interpolated_by_hand(films[0], *place)
        wanted[:, y0:y1, x0:x1] += bank.patch(bank.medoid((1, 2, 3, 4, 16), place), place)
        np.testing.assert_allclose(filled, wanted, atol=1e-5)
        assert np.abs(filled[:, 8:12, 8:12]).max() < 1

    def test_only_of_the_24_likest_is_chosen(self):
        """Those behind them hold nothing at the place, as film 0 does, and stay where they are."""
        films, place = rough_films(40, seed=5), (6, 6, 14, 14)
        bank = Bank(films)
        near = bank.likest(0, place)[:24]
        for film in set(range(40)) - set(near):
            films[film] = interpolated_by_hand(films[film], *place)

        filled = bank.like.fill(0, box(*place))

        plainest = sorted(near, key=lambda film: (bank.patch(film, place)[0] ** 2).mean())[:5]
        chosen = bank.patch(bank.medoid(plainest, place), place)
        np.testing.assert_allclose((filled - films[0])[:, 6:14, 6:14], chosen, atol=1e-5)
        assert np.abs(chosen).mean() > 0.1

    @pytest.mark.parametrize(("others", "interpolated"), [(0, True), (4, True), (5, False)])
    def test_fewer_than_five_others_are_too_few(self, others, interpolated):
        bank = Bank(rough_films(others + 1))

        filled = bank.like.fill(0, box(7, 5, 15, 11))

        alone = fill_interpolated(bank.films[0], box(7, 5, 15, 11))
        assert np.array_equal(filled, alone) == interpolated

    def test_a_film_is_never_filled_from_one_of_its_own_patient(self):
        """Nor does what they hold matter: films 0 to 5 are of one patient, the others of seven."""
        films, patients = rough_films(20), np.maximum(np.arange(20), 5) % 12
        patients[:6] = 0
        others = films.copy()
        others[1:6, :, 7:13, 7:13] = films[0, :, 7:13, 7:13] + 0.01
        others[1:6, :, 2:7] = films[0, :, 2:7]  # their borders are as alike as can be
        place = box(7, 7, 13, 13)

        first, second = (Bank(both, patients) for both in (films, others))

        np.testing.assert_array_equal(first.like.fill(0, place), second.like.fill(0, place))
        every = np.ones(20, bool)
        np.testing.assert_array_equal(
            first.like.replace(0, place, every), second.like.replace(0, place, every)
        )

    def test_films_of_one_frame_are_filled_from_each_other(self):
        """The frames of films 0 to 11 and 12 to 19 differ by an eighth of the side."""
        wide, tall = box(0, 0, 24, 24), box(3, 0, 21, 24)
        films, frames = rough_films(20), np.where(np.arange(20)[:, None] < 12, wide, tall)
        bank, place = Bank(films, frames=frames), box(7, 5, 15, 11)

        filled = [bank.like.fill(film, place) for film in (2, 15)]

        np.testing.assert_array_equal(filled[0], Bank(films[:12]).like.fill(2, place))
        np.testing.assert_array_equal(filled[1], Bank(films[12:]).like.fill(3, place))

    def test_frames_that_differ_by_rounding_are_one(self):
        films = rough_films(12)
        frames = np.tile(box(0, 3, 24, 21), (12, 1))
        frames[:, 1::2] += np.linspace(-0.3, 0.3, 12)[:, None]

        filled = Bank(films, frames=frames).like.fill(2, box(7, 5, 15, 11))

        np.testing.assert_array_equal(filled, Bank(films).like.fill(2, box(7, 5, 15, 11)))

    def test_the_whole_image_has_no_border_and_is_interpolated(self):
        bank, place = Bank(rough_films(12)), box(0, 0, 24, 24)
        wanted = interpolated_by_hand(bank.films[2], 0, 0, 24, 24)

        np.testing.assert_allclose(bank.like.fill(2, place), wanted, atol=1e-6)
        bare = np.ones(12, bool)
        np.testing.assert_allclose(bank.like.replace(2, place, bare), wanted, atol=1e-6)

    @staticmethod
    def bank_of(patients, seed, frames=None, film=0):
        """Films that are looked at to fill one."""
        films = np.zeros((len(patients), 3, 8, 8), np.float32)
        bank = Bank(films, patients, frames, seed)
        bank.like.fill(film, box(2, 2, 5, 5))
        return set(bank.reads)

    def test_a_bank_is_of_64_films_and_seeded(self):
        first, again, other = (self.bank_of(np.arange(300), seed) for seed in (0, 0, 1))

        assert len(first - {0}) in (63, 64)  # film 0 may be one of them
        assert first == again
        assert len(first & other) < 40
        films, place = rough_films(80, 12), box(4, 3, 8, 9)
        filled = [Bank(films, seed=seed).like.fill(5, place) for seed in (0, 0, 1)]
        np.testing.assert_array_equal(filled[0], filled[1])
        assert not np.array_equal(filled[0], filled[2])

    @pytest.mark.parametrize("seed", [0, 1])
    @pytest.mark.parametrize("mixed", [False, True])
    def test_a_film_of_each_patient_comes_before_the_second_of_any(self, seed, mixed):
        """40 patients with one film of the frame each, one with 200; others have but other ones."""
        patients = np.concatenate([np.arange(40), np.full(200, 40), np.arange(240) // 6])
        frames = np.tile(box(0, 0, 8, 8), (480, 1))
        frames[240:] = box(2, 0, 6, 8)

        bank = self.bank_of(*(
            (patients, seed, frames) if mixed else (patients[:240], seed)
        ))  # fmt: skip

        assert max(bank) < 240
        assert len(set(patients[sorted(bank)].tolist())) == 41

    def test_what_was_filled_before_changes_nothing(self):
        bank, fresh = Bank(rough_films(20)), Bank(rough_films(20))
        places = [box(*place) for place in self.PLACES]
        bare = np.arange(20) % 2 == 0

        for film in range(20):
            for place in places:
                bank.like.fill(film, place)
                bank.like.replace(film, place, bare)

        np.testing.assert_array_equal(bank.like.fill(7, places[0]), fresh.like.fill(7, places[0]))
        np.testing.assert_array_equal(
            bank.like.replace(7, places[0], bare), fresh.like.replace(7, places[0], bare)
        )

    def test_the_films_are_left_alone(self):
        films, place = rough_films(12), box(7, 5, 15, 11)
        films.flags.writeable = place.flags.writeable = False
        bank = Bank(films)

        for filled in (bank.like.fill(0, place), bank.like.replace(0, place, np.ones(12, bool))):
            assert not np.shares_memory(filled, films)
        np.testing.assert_array_equal(films, rough_films(12))

    def test_a_film_of_one_gray_among_such_films_stays_as_it_is(self):
        films = np.full((12, 3, 24, 24), -1.25, np.float32)
        films += np.arange(12, dtype=np.float32).reshape(-1, 1, 1, 1)  # some are brighter all over
        bank = Bank(films)

        for place in self.PLACES:
            np.testing.assert_allclose(bank.like.fill(4, box(*place)), films[4], atol=1e-5)


class TestMask:
    def test_a_flat_surrounding_is_continued(self):
        image = np.full((3, 24, 24), -1.25, np.float32)
        image[:, 8:16, 8:16] = 2.0

        filled = fill_mask(image, mask(24, 8, 8, 16, 16))

        np.testing.assert_allclose(filled, -1.25, atol=1e-4)
        assert image[0, 9, 9] == 2  # the original is left alone

    def test_an_edge_is_carried_into_the_mask(self):
        image = np.zeros((3, 48, 48), np.float32)
        image[:, :, 24:] = 1.0
        inside = mask(48, 16, 16, 32, 32)

        painted = fill_mask(image, inside)

        flat = np.where(inside, np.float32(0.5), image)
        assert np.abs(painted - image).mean() < 0.3 * np.abs(flat - image).mean()

    def test_no_value_lies_outside_of_those_of_the_film(self):
        film = smooth_film(48)
        rng = np.random.default_rng(0)

        for _ in range(10):
            x, y, wide, high = rng.integers(0, 36, 4)
            filled = fill_mask(film, mask(48, x, y, x + wide + 1, y + high + 1))
            assert (filled.min(axis=(1, 2)) >= film.min(axis=(1, 2)) - 1e-4).all()
            assert (filled.max(axis=(1, 2)) <= film.max(axis=(1, 2)) + 1e-4).all()

    def test_shades_are_finer_than_eight_bits(self):
        image = np.tile(np.linspace(0, 1, 96, dtype=np.float32), (3, 96, 1))

        painted = fill_mask(image, mask(96, 20, 20, 76, 76))[0, 20:76, 20:76]

        assert len(np.unique(painted)) > 500

    def test_channels_that_differ_by_scale_and_offset_are_computed_once(self, monkeypatch):
        calls = []
        inpaint = cv2.inpaint
        monkeypatch.setattr(cv2, "inpaint", lambda *a: calls.append(1) or inpaint(*a))

        filled = fill_mask(smooth_film(), mask(96, 30, 30, 46, 46))

        assert len(calls) == 1
        np.testing.assert_allclose(filled[1], filled[0] * 2.5 / 3 + 1, atol=1e-3)
        fill_mask(rough_film(32), mask(32, 8, 8, 16, 16))
        assert len(calls) == 4

    def test_the_whole_image_takes_its_median_channel_by_channel(self):
        image = np.arange(48, dtype=np.float32).reshape(3, 4, 4)

        filled = fill_mask(image, np.ones((4, 4), bool))

        assert (filled == np.array([7.5, 23.5, 39.5])[:, None, None]).all()

    def test_an_image_of_one_value_stays_as_it_is(self):
        image = np.full((3, 16, 16), 0.3, np.float32)

        np.testing.assert_array_equal(fill_mask(image, mask(16, 4, 4, 8, 8)), image)

    def test_an_empty_mask_changes_nothing(self):
        film = rough_film()

        np.testing.assert_array_equal(fill_mask(film, np.zeros((24, 24), bool)), film)
