"""Fills and transplants: what a picture looks like without a region, and with a foreign one."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ravl_med.evidence.counterfactual.fills import (
    fill_interpolated,
    fill_mask,
    fill_mirrored,
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

    for changed in (
        fill_interpolated(film, place),
        transplant_box(film, other, place),
        fill_mirrored(film, place),
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


class TestMirrored:
    SIDES = ((2, 5, 9, 11), (15, 3, 22, 14), (0, 0, 11, 24), (13, 6, 24, 18), (0, 20, 5, 24))
    MIDDLE = ((9, 5, 14, 11), (11, 2, 16, 8), (8, 6, 16, 18), (6, 0, 18, 24), (2, 4, 13, 9))

    @pytest.mark.parametrize("place", SIDES)
    def test_the_other_side_is_flipped_and_offset_at_the_border(self, place):
        film = rough_film()
        flipped = film[:, :, ::-1]
        inside = mask(24, *place)

        filled = fill_mirrored(film, box(*place))

        wanted = flipped + interpolated_by_hand(film - flipped, *place)
        np.testing.assert_allclose(filled[:, inside], wanted[:, inside], atol=1e-5)
        np.testing.assert_array_equal(filled[:, ~inside], film[:, ~inside])

    def test_a_film_that_is_its_own_mirror_image_stays_as_it_is(self):
        half = rough_film()[:, :, :12]
        film = np.concatenate([half, half[:, :, ::-1]], axis=2)

        np.testing.assert_allclose(fill_mirrored(film, box(3, 4, 11, 15)), film, atol=1e-6)

    def test_a_thing_on_one_side_gives_way_to_the_other_side(self):
        """The other side is darker all over, and has a rib that leans the other way."""
        film = np.zeros((3, 32, 32), np.float32)
        film[:, :, 16:] = -5.0
        rib = np.arange(8)
        film[:, 12 + rib, 22 + rib] += 1.0
        clear = film.copy()
        clear[:, 12 + rib, 9 - rib] += 1.0
        film[:, 14:18, 3:8] += 9.0

        filled = fill_mirrored(film, box(1, 11, 11, 21))

        np.testing.assert_allclose(filled, clear, atol=1e-5)

    @pytest.mark.parametrize("place", MIDDLE[:2])
    def test_a_box_over_the_middle_is_filled_from_beside_it(self, place):
        film = rough_film()
        x0, y0, x1, y1 = place
        left = x0 >= 24 - x1  # where there is more room
        step = x1 - x0 + 1
        start = x0 - step if left else x0 + step
        source = np.zeros_like(film)
        source[:, y0:y1, x0:x1] = film[:, y0:y1, start : start + x1 - x0]
        roll = np.roll(film, step if left else -step, axis=2)

        filled = fill_mirrored(film, box(*place))

        offset = interpolated_by_hand(film - roll, *place)
        inside = mask(24, *place)
        np.testing.assert_allclose(filled[:, inside], (source + offset)[:, inside], atol=1e-5)

    @pytest.mark.parametrize("place", [*SIDES, *MIDDLE])
    def test_a_box_never_shows_itself(self, place):
        """Other noise in it gives the same picture."""
        self.fill_both(place, 24)

    def fill_both(self, place, size):
        """Two films that differ inside of a box alone."""
        x0, y0, x1, y1 = place
        film = rough_film(size)
        other = film.copy()
        other[:, y0:y1, x0:x1] += 9

        first, second = (fill_mirrored(one, box(*place)) for one in (film, other))

        np.testing.assert_allclose(first, second, atol=1e-5)

    @given(boxes)
    @settings(max_examples=60, deadline=None)
    def test_no_box_shows_itself(self, place):
        x0, y0, x1, y1 = pixels_of(place, 28)
        assume(x0 > 0 or x1 < 28 or y0 > 0 or y1 < 28)  # the whole image has but itself

        self.fill_both((x0, y0, x1, y1), 28)

    @pytest.mark.parametrize("place", [*SIDES, *MIDDLE, (2, 0, 20, 24), (0, 0, 24, 24)])
    def test_a_film_of_one_gray_stays_as_it_is(self, place):
        film = np.full((3, 24, 24), -1.25, np.float32)

        np.testing.assert_allclose(fill_mirrored(film, box(*place)), film, atol=1e-6)

    @pytest.mark.parametrize("place", [(2, 5, 9, 11), (8, 6, 16, 18), (0, 0, 24, 24)])
    def test_the_film_itself_is_left_alone(self, place):
        film, where = rough_film(), box(*place)
        film.flags.writeable = where.flags.writeable = False

        filled = fill_mirrored(film, where)

        assert filled.dtype == np.float32
        assert not np.shares_memory(filled, film)
        np.testing.assert_array_equal(film, rough_film())

    @pytest.mark.parametrize("place", [(0, 0, 24, 24), (3, 4, 20, 9), (2, 4, 13, 9)])
    def test_what_leaves_no_room_beside_it_is_interpolated(self, place):
        film = rough_film()

        filled = fill_mirrored(film, box(*place))

        np.testing.assert_array_equal(filled, fill_interpolated(film, box(*place)))


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
