"""Boxes and masks through the preprocessing: the same place as open_clip's own transform."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image
from torchvision.ops import roi_align

from ravl_med.regions.geometry import InputGeometry, ResizeMode

MODES = ("shortest", "longest", "squash")
sides = st.integers(16, 170)
sizes = st.sampled_from([32, 33, 48, 63])
shares = st.lists(st.floats(0, 1), min_size=4, max_size=4)
geometries = st.builds(
    InputGeometry.of, sides, sides, sizes, st.sampled_from(MODES), mirrored=st.booleans()
)


def transform(size: int, mode: ResizeMode):
    return image_transform(
        size, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3, resize_mode=mode, fill_color=0
    )


def box(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


def filled(shape: tuple[int, int], x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def extent(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def overlap(one: np.ndarray, two: np.ndarray) -> float:
    return (one & two).sum() / (one | two).sum()


def whole_box(geometry: InputGeometry, fractions: list[float], cells: int) -> list[int]:
    """Box of whole stored pixels in the visible part, at least `cells` input pixels long."""
    size = geometry.size
    x0, y0, x1, y1 = geometry.to_stored(box(0, 0, size, size))[0].astype(np.float64)
    ends = []
    for (low, high), scale, (a, b) in (
        ((x0, x1), geometry.scale_x, fractions[:2]),
        ((y0, y1), geometry.scale_y, fractions[2:]),
    ):
        low, high = math.ceil(low - 1e-3), math.floor(high + 1e-3)
        length = math.ceil(cells / scale)
        assume(length <= high - low)
        start = low + int(a * (high - low - length))
        ends.append((start, start + length + int(b * (high - start - length))))
    return [ends[0][0], ends[1][0], ends[0][1], ends[1][1]]


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


@given(geometries, shares)
def test_visible_boxes_come_back(geometry, shares):
    (x0, x1), (y0, y1) = sorted(shares[:2]), sorted(shares[2:])
    height, width = geometry.height, geometry.width
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
    mirrored = InputGeometry.of(100, 300, 60, "squash", mirrored=True)
    assert mirrored.to_input(box(150, 50, 300, 100)).tolist() == [[0, 30, 30, 60]]


def test_a_box_without_area_has_no_visible_share():
    geometry = InputGeometry.of(100, 100, 50, "squash")

    assert geometry.visible_share(box(10, 10, 10, 20)).tolist() == [0]


@given(geometries, shares, sides, sides)
def test_mirrored_twice_is_the_identity(geometry, shares, height, width):
    (x0, x1), (y0, y1) = sorted(shares[:2]), sorted(shares[2:])
    twin = replace(geometry, mirrored=not geometry.mirrored)
    boxes = box(x0, y0, x1, y1) * ([geometry.width, geometry.height] * 2)
    x0, y0, x1, y1 = twin.to_input(boxes)[0]
    size = geometry.size
    flipped = box(size - x1, y0, size - x0, y1)
    film = np.random.default_rng(height).random((height, width)) > 0.5
    seen = twin.mask_to_input(film)

    np.testing.assert_allclose(geometry.to_input(boxes), flipped, atol=1e-4)
    np.testing.assert_allclose(
        geometry.to_stored(flipped), twin.to_stored(box(x0, y0, x1, y1)), atol=1e-3
    )
    assert geometry.visible_share(boxes) == twin.visible_share(boxes)
    assert np.array_equal(geometry.mask_to_input(film), np.fliplr(seen))
    assert np.array_equal(geometry.mask_to_stored(np.fliplr(seen)), twin.mask_to_stored(seen))


@given(geometries, sides, sides, shares)
def test_a_mask_of_any_sampling_lands_on_its_box(geometry, height, width, shares):
    (x0, x1), (y0, y1) = sorted(shares[:2]), sorted(shares[2:])
    cells = [int(x0 * width), int(y0 * height), math.ceil(x1 * width), math.ceil(y1 * height)]
    stored = box(*cells) * ([geometry.width / width, geometry.height / height] * 2)
    moved = geometry.to_input(stored)[0]
    assume(moved[2] - moved[0] >= 4 and moved[3] - moved[1] >= 4)

    seen = geometry.mask_to_input(filled((height, width), *cells))

    assert seen.shape == (geometry.size, geometry.size)
    assert seen.dtype == bool
    np.testing.assert_allclose(extent(seen), moved, atol=1)


@given(geometries, shares)
def test_a_mask_comes_back(geometry, fractions):
    film = filled((geometry.height, geometry.width), *whole_box(geometry, fractions, cells=12))

    back = geometry.mask_to_stored(geometry.mask_to_input(film))

    assert back.dtype == bool
    assert overlap(back, film) >= 0.8


@given(geometries, st.integers(1, 3))
def test_what_the_model_does_not_see_leaves_nothing(geometry, finer):
    height, width, size = geometry.height, geometry.width, geometry.size
    x0, y0, x1, y1 = finer * geometry.to_stored(box(0, 0, size, size))[0]
    unseen = np.ones((finer * height, finer * width), dtype=bool)
    unseen[math.floor(y0) : math.ceil(y1), math.floor(x0) : math.ceil(x1)] = False
    padding = ~geometry.mask_to_input(np.ones((height, width), dtype=bool))

    assert not geometry.mask_to_input(unseen).any()
    assert not geometry.mask_to_stored(padding).any()


@given(geometries)
def test_the_whole_film_and_the_whole_input_are_their_boxes(geometry):
    height, width, size = geometry.height, geometry.width, geometry.size
    film, square = box(0, 0, width, height), box(0, 0, size, size)

    seen = geometry.mask_to_input(np.ones((height, width), dtype=bool))
    shown = geometry.mask_to_stored(np.ones((size, size), dtype=bool))

    for mask, expected in (
        (seen, geometry.to_input(film)[0]),
        (shown, geometry.to_stored(square)[0]),
    ):
        np.testing.assert_allclose(extent(mask), expected, atol=0.5001)
        assert np.array_equal(mask, filled(mask.shape, *extent(mask)))  # corners are not rounded


@given(geometries, st.sampled_from(MODES), shares)
def test_a_mask_covers_the_pixels_that_open_clip_makes_bright(geometry, mode, fractions):
    geometry = InputGeometry.of(
        geometry.height, geometry.width, geometry.size, mode, mirrored=geometry.mirrored
    )
    film = filled((geometry.height, geometry.width), *whole_box(geometry, fractions, cells=6))

    level = transform(geometry.size, mode)(Image.fromarray(np.uint8(255) * film))[0]
    level = (level.flip(-1) if geometry.mirrored else level).numpy()
    seen = geometry.mask_to_input(film)

    clear = np.abs(level - 0.5) > 0.25  # the bicubic kernel and the area differ on the rim alone
    assert (level > 0.75).any()
    assert np.array_equal(seen[clear], level[clear] > 0.5)


def test_a_mirrored_box_is_ordered_and_seen_from_the_other_side():
    # 100 x 300 to 50: stored x from 100 to 200 is seen; its left quarter lands on the right.
    geometry = InputGeometry.of(100, 300, 50, "shortest", mirrored=True)
    boxes = np.concatenate([box(100, 0, 125, 50), box(50, 0, 150, 50), box(0, 0, 100, 100)])

    assert geometry.to_input(boxes).tolist() == [
        [37.5, 0, 50, 25], [25, 0, 50, 25], [50, 0, 50, 50],
    ]  # fmt: skip
    assert geometry.visible_share(boxes).tolist() == pytest.approx([1, 0.5, 0])
    assert geometry.to_stored(box(37.5, 0, 50, 25)).tolist() == [[100, 0, 125, 50]]


@pytest.mark.parametrize(("mirrored", "left"), [(False, 0), (True, 25)])
def test_a_mask_is_cropped_like_its_box(mirrored, left):
    geometry = InputGeometry.of(100, 300, 50, "shortest", mirrored=mirrored)

    seen = geometry.mask_to_input(filled((100, 300), 50, 0, 150, 50))

    assert np.array_equal(seen, filled((50, 50), left, 0, left + 25, 25))
    # What came back lacks the part that was cropped away.
    assert np.array_equal(geometry.mask_to_stored(seen), filled((100, 300), 100, 0, 150, 50))


def test_a_coarse_mask_is_padded_like_the_film():
    # 100 x 300 to 60: resized to 20 x 60, 20 rows of padding above and below.
    geometry = InputGeometry.of(100, 300, 60, "longest")

    seen = geometry.mask_to_input(np.array([[True, False]]))

    assert np.array_equal(seen, filled((60, 60), 0, 20, 30, 40))
    assert np.array_equal(
        geometry.mask_to_stored(np.ones((60, 60), dtype=bool)), np.ones((100, 300), dtype=bool)
    )


@pytest.mark.parametrize("mirrored", [False, True])
def test_torch_takes_the_masks(mirrored):
    geometry = InputGeometry.of(20, 30, 16, "longest", mirrored=mirrored)
    film = np.ones((20, 30), dtype=bool)

    seen = torch.from_numpy(geometry.mask_to_input(film))  # refuses a reversed view

    assert torch.from_numpy(geometry.mask_to_stored(seen.numpy())).all()


def test_an_input_pixel_counts_from_half_on():
    film = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]], dtype=bool)

    seen = InputGeometry.of(4, 4, 2, "squash").mask_to_input(film)

    assert seen.tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize(("bright", "expected"), [(2, False), (3, True)])
def test_stripes_finer_than_an_input_pixel_are_averaged(bright, expected):
    # Each input pixel spans 50 stored columns, 2 or 3 of every 5 in the mask.
    film = np.tile(np.arange(1000) % 5 < bright, (1000, 1))

    geometry = InputGeometry.of(1000, 1000, 20, "squash")

    assert (geometry.mask_to_input(film) == expected).all()
    assert (geometry.mask_to_input(film.T) == expected).all()


@given(geometries, st.integers(4, 16), shares)
def test_roi_align_pools_the_cells_of_the_map(geometry, side, shares):
    (x0, x1), (y0, y1) = sorted(shares[:2]), sorted(shares[2:])
    cells = 0.5 + (side - 1) * box(x0, y0, x1, y1)  # beyond the outer centres roi_align repeats
    centres = torch.arange(side) + 0.5
    feature_map = torch.stack([centres.expand(side, side), centres[:, None].expand(side, side)])

    pixels = (cells * (geometry.size / side)).astype(np.float32)
    pooled = roi_align(
        feature_map[None], [torch.from_numpy(pixels)], 1, side / geometry.size, aligned=True
    )

    assume(x1 - x0 > 0.01 and y1 - y0 > 0.01)
    middle = (cells[0, :2] + cells[0, 2:]) / 2
    np.testing.assert_allclose(pooled[0, :, 0, 0], middle, atol=1e-3)
