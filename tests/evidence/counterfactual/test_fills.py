"""Fills and transplants: what a picture looks like without a region, and with a foreign one."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravl_med.evidence.counterfactual.fills import (
    fill_contrast,
    fill_inpaint,
    fill_interpolated,
    fill_median,
    transplant_patches,
)


def box(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def smooth_film(size: int = 96, seed: int = 0) -> np.ndarray:
    """A film with soft structure, normalised differently in each channel, (3, size, size)."""
    rng = np.random.default_rng(seed)
    gray = cv2.GaussianBlur(rng.normal(size=(size, size)).astype(np.float32), (0, 0), size / 12)
    return np.stack([gray * scale + shift for scale, shift in ((3, 0), (2.5, 1), (4, -2))])


class TestInterpolated:
    def test_what_rises_evenly_is_filled_as_it_was(self):
        across, down = np.meshgrid(np.arange(48.0), np.arange(48.0))
        image = np.stack([2 * across - down, across + 3 * down, 5 - across]).astype(np.float32)
        covered = image.copy()
        covered[:, 10:26, 20:30] = 99.0

        filled = fill_interpolated(covered, box(20, 10, 30, 26))

        np.testing.assert_allclose(filled, image, atol=0.6)  # corners of the border are smoothed
        assert covered[0, 12, 22] == 99  # the original is left alone

    @given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 23), st.integers(1, 23))
    def test_it_invents_no_value(self, x, y, wide, high):
        image = smooth_film(48)
        place = np.s_[:, y : y + high, x : x + wide]
        covered = image.copy()
        covered[place] = 1e3

        filled = fill_interpolated(covered, box(x, y, min(x + wide, 48), min(y + high, 48)))

        outside = np.delete(image.reshape(3, -1), [], axis=1)
        low, high_ = outside.min(axis=1)[:, None, None], outside.max(axis=1)[:, None, None]
        assert (filled[place] >= low - 1e-4).all()
        assert (filled[place] <= high_ + 1e-4).all()

    def test_a_side_of_the_image_takes_the_opposite_side(self):
        image = np.zeros((1, 16, 16), np.float32)
        image[:, :, 4:] = 2.0

        filled = fill_interpolated(image, box(0, 0, 4, 16))  # of full height: the right side alone

        assert (filled == 2).all()

    def test_the_whole_image_takes_its_median(self):
        image = np.arange(16, dtype=np.float32).reshape(1, 4, 4)

        assert (fill_interpolated(image, box(0, 0, 4, 4)) == 7).all()


class TestMedian:
    def test_a_region_takes_the_median_of_its_ring_channel_by_channel(self):
        image = np.stack([np.full((20, 20), v, np.float32) for v in (1, 2, 3)])
        image[:, 8:12, 8:12] = 9.0
        image[0, 6:14, 6] = 5.0  # the ring, 2 pixels wide, has 48 pixels; 8 of them stand out

        filled = fill_median(image, box(8, 8, 12, 12))

        expected = image.copy()
        expected[:, 8:12, 8:12] = np.array([1, 2, 3])[:, None, None]
        np.testing.assert_array_equal(filled, expected)
        assert filled.dtype == np.float32
        assert image[0, 9, 9] == 9  # the original is left alone

    def test_the_ring_is_a_quarter_of_the_box_wide(self):
        image = np.zeros((1, 64, 64), np.float32)
        image[:, 24:40, 20:44] = 1.0  # 4 rows and 4 columns around a box of 16 x 8
        image[:, 28:36, 24:40] = 9.0

        near = fill_median(image, box(24, 28, 40, 36))

        # Ring: columns 20 to 44 (16 // 4 = 4), rows 26 to 38 (8 // 4 = 2): all ones.
        assert (near[0, 28:36, 24:40] == 1).all()

    def test_a_box_in_the_corner_uses_the_ring_that_is_there(self):
        image = np.zeros((3, 16, 16), np.float32)
        image[:, :6, :6] = 2.0
        image[:, :4, :4] = 9.0

        filled = fill_median(image, box(0, 0, 4, 4))

        assert (filled[:, :4, :4] == 2).all()
        np.testing.assert_array_equal(filled[:, 6:], image[:, 6:])

    def test_of_an_even_number_of_pixels_the_lower_middle_is_taken(self):
        image = np.arange(16, dtype=np.float32).reshape(1, 4, 4)

        assert (fill_median(image, box(0, 0, 4, 4)) == 7).all()  # the whole image has no ring

    def test_a_box_between_pixels_covers_each_pixel_that_it_touches(self):
        image = np.zeros((1, 12, 12), np.float32)
        image[:, 5, 5] = 9.0

        assert (fill_median(image, box(5.2, 5.2, 5.6, 5.6)) == 0).all()
        assert (fill_median(image, box(5.0005, 5.0005, 5.9995, 5.9995)) == 0).all()


class TestContrast:
    def test_it_is_the_root_mean_square_of_the_change(self):
        image = np.zeros((3, 20, 20), np.float32)
        image[0, 8:12, 8:12] = 3.0
        image[1, 8:12, 8:10] = -4.0

        # Channels: 9, half of 16, and 0 on the mean.
        assert fill_contrast(image, box(8, 8, 12, 12)) == pytest.approx(np.sqrt(17 / 3))

    def test_a_flat_region_has_none(self):
        assert fill_contrast(np.ones((3, 20, 20), np.float32), box(2, 2, 9, 9)) == 0


class TestInpaint:
    def test_a_flat_surrounding_is_continued(self):
        image = np.full((3, 24, 24), -1.25, np.float32)
        image[:, 8:16, 8:16] = 2.0

        filled = fill_inpaint(image, box(8, 8, 16, 16))

        np.testing.assert_allclose(filled, -1.25, atol=1e-4)

    def test_an_edge_is_carried_into_the_box_where_the_median_is_flat(self):
        image = np.zeros((3, 48, 48), np.float32)
        image[:, :, 24:] = 1.0

        place = box(16, 16, 32, 32)
        painted, flat = fill_inpaint(image, place), fill_median(image, place)

        assert np.abs(painted - image).mean() < 0.3 * np.abs(flat - image).mean()

    def test_shades_are_finer_than_eight_bits(self):
        image = np.tile(np.linspace(0, 1, 96, dtype=np.float32), (3, 96, 1))

        painted = fill_inpaint(image, box(20, 20, 76, 76))[0, 20:76, 20:76]

        assert len(np.unique(painted)) > 500

    def test_channels_that_differ_by_scale_and_offset_are_computed_once(self, monkeypatch):
        calls = []
        inpaint = cv2.inpaint
        monkeypatch.setattr(cv2, "inpaint", lambda *a: calls.append(1) or inpaint(*a))
        film = smooth_film()

        filled = fill_inpaint(film, box(30, 30, 46, 46))

        assert len(calls) == 1
        np.testing.assert_allclose(filled[1], filled[0] * 2.5 / 3 + 1, atol=1e-3)
        fill_inpaint(np.random.default_rng(0).random((3, 32, 32), np.float32), box(8, 8, 16, 16))
        assert len(calls) == 4

    def test_the_whole_image_takes_its_median(self):
        image = np.arange(48, dtype=np.float32).reshape(3, 4, 4)

        np.testing.assert_array_equal(
            fill_inpaint(image, box(0, 0, 4, 4)), fill_median(image, box(0, 0, 4, 4))
        )

    def test_an_image_of_one_value_stays_as_it_is(self):
        image = np.full((3, 16, 16), 0.3, np.float32)

        np.testing.assert_array_equal(fill_inpaint(image, box(4, 4, 8, 8)), image)


boxes = st.tuples(
    st.floats(-4, 30, width=32), st.floats(-4, 30, width=32),
    st.floats(0, 30, width=32), st.floats(0, 30, width=32),
).map(lambda v: box(v[0], v[1], v[0] + v[2], v[1] + v[3]))  # fmt: skip


@given(boxes)
@settings(max_examples=60, deadline=None)
def test_fills_stay_inside_the_box_and_within_the_values_of_the_film(place):
    film = smooth_film(28)
    x0, y0 = np.clip(np.floor(place[:2] + 1e-3), 0, 27).astype(int)
    x1, y1 = np.clip(np.ceil(place[2:] - 1e-3), [x0 + 1, y0 + 1], 28).astype(int)
    outside = np.ones((28, 28), bool)
    outside[y0:y1, x0:x1] = False

    for fill in (fill_median, fill_inpaint):
        filled = fill(film, place)
        np.testing.assert_array_equal(filled[:, outside], film[:, outside])
        for channel in range(3):
            assert filled[channel].min() >= film[channel].min() - 1e-4
            assert filled[channel].max() <= film[channel].max() + 1e-4
    assert np.isfinite(fill_contrast(film, place))


class TestBlend:
    def test_a_region_of_the_film_itself_changes_nothing(self):
        film = smooth_film()
        places = np.stack([box(16, 16, 32, 32), box(60, 10, 76, 26)])

        np.testing.assert_allclose(transplant_patches(film, film, places, places), film, atol=1e-6)

    def test_a_patch_takes_the_level_of_its_new_surroundings(self):
        target = np.zeros((3, 48, 48), np.float32)
        source = np.full((3, 48, 48), 5.0, np.float32)
        source[:, 20:28, 20:28] = 8.0
        place = box(16, 16, 32, 32)[None]

        blended = transplant_patches(target, source, place, place)

        assert (blended[:, 20:28, 20:28] == 3).all()  # 8, shifted by the ring's 0 - 5
        outside = np.ones((48, 48), bool)
        outside[16:32, 16:32] = False
        assert (blended[:, outside] == 0).all()

    def test_it_fades_in_over_a_sixth_of_the_side(self):
        target = np.zeros((1, 64, 64), np.float32)
        source = np.zeros((1, 64, 64), np.float32)
        source[:, 8:56, 8:56] = 1.0
        place = box(8, 8, 56, 56)[None]  # ramp of 8 pixels

        row = transplant_patches(target, source, place, place)[0, 32, 8:32]

        expected = 0.5 - 0.5 * np.cos(np.pi * (np.arange(8) + 0.5) / 8)
        np.testing.assert_allclose(row[:8], expected, atol=1e-6)
        np.testing.assert_allclose(row[8:], 1, atol=1e-6)

    def test_boxes_that_touch_have_no_seam_and_one_level(self):
        rng = np.random.default_rng(0)
        target = np.zeros((3, 48, 48), np.float32)
        source = rng.normal(size=(3, 48, 48)).astype(np.float32)
        tiles = np.stack([box(8, 8, 24, 24), box(24, 8, 40, 24)])

        blended = transplant_patches(target, source, tiles, tiles)

        shift = blended[:, 11:21, 11:37] - source[:, 11:21, 11:37]
        np.testing.assert_allclose(shift, np.tile(shift[:, :1, :1], (10, 26)), atol=1e-5)

    def test_nothing_fades_at_the_border_of_the_image(self):
        target = np.zeros((3, 32, 32), np.float32)
        source = np.zeros((3, 32, 32), np.float32)
        source[:, :12, :12] = 1.0
        place = box(0, 0, 12, 12)[None]

        blended = transplant_patches(target, source, place, place)

        assert (blended[:, :9, 0] == 1).all()
        assert (blended[:, 0, 11] < 0.5).all()

    def test_a_patch_is_resized_to_its_place(self):
        target = np.zeros((3, 48, 48), np.float32)
        source = np.zeros((3, 48, 48), np.float32)
        source[:, 30:38, 34:38] = 1.0  # the right half of the box

        blended = transplant_patches(
            target, source, box(8, 8, 24, 24)[None], box(30, 30, 38, 38)[None]
        )

        assert (blended[:, 12:20, 19:21] == 1).all()
        assert (blended[:, 12:20, 11:13] == 0).all()

    def test_the_whole_image_becomes_the_other_one_at_its_own_level(self):
        target, source = smooth_film(24, 1), smooth_film(24, 2)
        place = box(0, 0, 24, 24)[None]

        blended = transplant_patches(target, source, place, place)

        middle = [np.sort(x.reshape(3, -1), axis=1)[:, 287] for x in (target, source)]
        np.testing.assert_allclose(
            blended, source + (middle[0] - middle[1])[:, None, None], atol=1e-5
        )

    def test_no_box_no_change(self):
        film, none = smooth_film(24), np.empty((0, 4), np.float32)

        np.testing.assert_array_equal(transplant_patches(film, film + 1, none, none), film)
