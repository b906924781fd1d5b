"""Boxes through the preprocessing: the same place as open_clip's own transform."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image

from ravl_med.regions.geometry import InputGeometry, ResizeMode

MODES = ("shortest", "longest", "squash")
sides = st.integers(16, 170)
sizes = st.sampled_from([32, 33, 48, 63])


def transform(size: int, mode: ResizeMode):
    return image_transform(
        size, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3, resize_mode=mode, fill_color=0
    )


def box(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


@given(sides, sides, sizes, st.sampled_from(["shortest", "longest"]))
def test_scale_and_offset_are_those_of_open_clip_to_the_pixel(height, width, size, mode):
    resize, crop = transform(size, mode).transforms[:2]
    resized = resize(Image.new("L", (width, height)))
    x, y = np.meshgrid(np.arange(resized.width) + 1, np.arange(resized.height) + 1)
    cropped_x = np.asarray(crop(Image.fromarray(x.astype(np.int32))))
    cropped_y = np.asarray(crop(Image.fromarray(y.astype(np.int32))))
    row, column = np.argwhere(cropped_x > 0)[0]  # padding is 0

    geometry = InputGeometry.of(height, width, size, mode)

    assert cropped_x.shape == (size, size)
    assert geometry.scale_x * width == pytest.approx(resized.width)
    assert geometry.scale_y * height == pytest.approx(resized.height)
    assert geometry.offset_x == column - (cropped_x[row, column] - 1)
    assert geometry.offset_y == row - (cropped_y[row, column] - 1)


@given(sides, sides, sizes, st.sampled_from(MODES), st.floats(0, 1), st.floats(0, 1))
def test_a_marked_pixel_lands_in_the_middle_of_its_box(height, width, size, mode, fx, fy):
    geometry = InputGeometry.of(height, width, size, mode)
    # Large films shrink a pixel below what 8 bits hold; the mark is then a few pixels wide.
    mark_w = math.ceil(1 / geometry.scale_x)
    mark_h = math.ceil(1 / geometry.scale_y)
    x, y = int(fx * (width - mark_w)), int(fy * (height - mark_h))
    moved = geometry.to_input(box(x, y, x + mark_w, y + mark_h))[0]
    assume(moved[0] >= 3 and moved[1] >= 3 and moved[2] <= size - 3 and moved[3] <= size - 3)
    film = np.zeros((height, width), np.uint8)
    film[y : y + mark_h, x : x + mark_w] = 255

    seen = transform(size, mode)(Image.fromarray(film))[0].numpy()

    centres = np.arange(size) + 0.5
    found_x = (seen.sum(axis=0) * centres).sum() / seen.sum()
    found_y = (seen.sum(axis=1) * centres).sum() / seen.sum()
    assert found_x == pytest.approx((moved[0] + moved[2]) / 2, abs=0.3)
    assert found_y == pytest.approx((moved[1] + moved[3]) / 2, abs=0.3)


@given(
    sides, sides, sizes, st.sampled_from(MODES),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
)  # fmt: skip
def test_visible_boxes_come_back(height, width, size, mode, shares):
    geometry = InputGeometry.of(height, width, size, mode)
    (x0, x1), (y0, y1) = sorted(shares[:2]), sorted(shares[2:])
    boxes = box(x0 * width, y0 * height, x1 * width, y1 * height)
    assume((x1 - x0) * width > 0.01 and (y1 - y0) * height > 0.01)
    assume(geometry.visible_share(boxes)[0] > 1 - 1e-9)

    back = geometry.to_stored(geometry.to_input(boxes))

    np.testing.assert_allclose(back, boxes, atol=1e-3)
    assert back.dtype == np.float32


def test_a_wide_film_is_cropped_at_its_sides():
    # 100 x 300 to 50: resized to 50 x 150, cut from 50 to 100, so stored x from 100 to 200.
    geometry = InputGeometry.of(100, 300, 50, "shortest")
    boxes = np.concatenate(
        [box(0, 0, 300, 100), box(100, 0, 200, 100), box(0, 0, 100, 100), box(50, 0, 150, 50)]
    )

    assert geometry.visible_share(boxes).tolist() == pytest.approx([1 / 3, 1, 0, 0.5])
    assert geometry.to_input(boxes).tolist() == [
        [0, 0, 50, 50], [0, 0, 50, 50], [0, 0, 0, 50], [0, 0, 25, 25],
    ]  # fmt: skip
    assert geometry.to_stored(box(0, 0, 50, 50)).tolist() == [[100, 0, 200, 100]]


def test_a_wide_film_is_padded_above_and_below():
    # 100 x 300 to 60: resized to 20 x 60, 20 rows of padding above.
    geometry = InputGeometry.of(100, 300, 60, "longest")

    assert geometry.to_input(box(0, 0, 300, 100)).tolist() == [[0, 20, 60, 40]]
    assert geometry.to_stored(box(0, 0, 60, 60)).tolist() == [[0, 0, 300, 100]]
    assert geometry.visible_share(box(0, 0, 300, 100)).tolist() == [1]


def test_squash_stretches_each_side_for_itself():
    geometry = InputGeometry.of(100, 300, 60, "squash")

    assert geometry.to_input(box(150, 50, 300, 100)).tolist() == [[30, 30, 60, 60]]


def test_a_box_without_area_has_no_visible_share():
    geometry = InputGeometry.of(100, 100, 50, "squash")

    assert geometry.visible_share(box(10, 10, 10, 20)).tolist() == [0]
