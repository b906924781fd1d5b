"""Removal: what is filled in, and what the margin does."""

import numpy as np
import pytest
import torch

from ravl_med.evidence.counterfactual import (
    class_margin,
    fill_region,
    opposed_class,
    removal_effects,
)
from ravl_med.regions.geometry import InputGeometry


def box(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_a_region_takes_the_median_of_its_ring_channel_by_channel():
    image = torch.stack([torch.full((20, 20), float(v)) for v in (1, 2, 3)])
    image[:, 8:12, 8:12] = 9.0
    image[0, 6:14, 6] = 5.0  # the ring, 2 pixels wide, has 48 pixels; 8 of them stand out

    filled = fill_region(image, box(8, 8, 12, 12))

    expected = image.clone()
    expected[:, 8:12, 8:12] = torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    assert torch.equal(filled, expected)
    assert image[0, 9, 9] == 9  # the original is left alone


def test_the_ring_is_a_quarter_of_the_box_wide():
    image = torch.zeros(1, 64, 64)
    image[:, 24:40, 20:44] = 1.0  # 4 rows and 6 columns... around a box of 16 x 8
    image[:, 28:36, 24:40] = 9.0

    near = fill_region(image, box(24, 28, 40, 36))

    # Ring: columns 20 to 44 (16 // 4 = 4), rows 26 to 38 (8 // 4 = 2): all ones.
    assert (near[0, 28:36, 24:40] == 1).all()


def test_a_box_in_the_corner_uses_the_ring_that_is_there():
    image = torch.zeros(3, 16, 16)
    image[:, :4, :4] = 9.0
    image[:, 4:6, :6] = 2.0
    image[:, :6, 4:6] = 2.0

    filled = fill_region(image, box(0, 0, 4, 4))

    assert (filled[:, :4, :4] == 2).all()
    assert torch.equal(filled[:, 6:], image[:, 6:])


def test_the_whole_image_takes_its_own_median():
    image = torch.arange(16.0).reshape(1, 4, 4)

    assert (fill_region(image, box(0, 0, 4, 4)) == 7).all()  # torch takes the lower middle


def test_a_box_between_pixels_covers_each_pixel_that_it_touches():
    image = torch.zeros(1, 12, 12)
    image[:, 5, 5] = 9.0

    assert (fill_region(image, box(5.2, 5.2, 5.6, 5.6)) == 0).all()
    edges = fill_region(image + 0, box(5.0005, 5.0005, 5.9995, 5.9995))
    assert (edges == 0).all()


def test_margins_by_hand():
    logits = np.array([[3, 1, 2], [3, 1, 2], [0, 5, 4]], dtype=np.float32)
    opposed = np.array([2, 1, 0])

    margin = class_margin(logits, np.array([0, 0, 2]), opposed)

    assert margin.tolist() == [1, 2, 4]


class TestOpposedClass:
    """Gaps: class 0 raised by 1, class 1 lowered by 1, class 2 by 1/2, class 3 by 0."""

    LABELS = np.repeat(np.arange(4), 4)
    PRESENT = np.tile([1, 1, 0, 0], 4)
    CORRECT = np.array([1, 1, 0, 0, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1])

    @pytest.mark.parametrize(
        ("present", "min_n", "expected"),
        [
            (PRESENT, 2, 1),
            (PRESENT, 3, 1),  # none has enough films: the most lowered one
            ([1, 1, 0, 0, 1, 1, 1, 0, *PRESENT[8:]], 2, 2),  # class 1 has one film without it
        ],
    )
    def test_by_hand(self, cluster_of, present, min_n, expected):
        cluster = cluster_of(np.array(present), self.LABELS, self.CORRECT, classes=4)

        assert opposed_class(cluster, min_n) == expected


class CornerEncoder:
    """Embeds an input as the means of its four quadrants, unit norm."""

    size = 16

    def geometry(self, height, width):
        return InputGeometry.of(height, width, self.size, "squash")

    def preprocess(self, pixels):
        image = torch.from_numpy(pixels)[None, None]
        small = torch.nn.functional.interpolate(image, (16, 16), mode="area")[0]
        return small.repeat(3, 1, 1)

    def encode_image(self, images):
        assert images.dim() == 4
        means = torch.nn.functional.adaptive_avg_pool2d(images[:, :1], 2).flatten(1)
        return torch.nn.functional.normalize(means, dim=-1)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_effects_equal_a_naive_loop(batch_size):
    rng = np.random.default_rng(0)
    encoder = CornerEncoder()
    films = [rng.random((32, 48)).astype(np.float32) for _ in range(4)]
    classes = rng.normal(size=(3, 4)).astype(np.float32)
    region_image = np.array([2, 0, 3, 2, 0, 2])  # not sorted, image 1 not at all
    corners = rng.uniform(0, 20, size=(6, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(4, 12, size=(6, 2))], axis=1)
    boxes = boxes.astype(np.float32)
    raised = np.array([0, 1, 2, 1, 0, 0])
    opposed = np.array([1, 0, 1, 2, 1, 2])
    told = []

    effects = removal_effects(
        encoder, lambda i: films[i], classes, 0.5, region_image, boxes, raised, opposed,
        batch_size=batch_size, progress=lambda *done: told.append(done),
    )  # fmt: skip

    def margin(inputs, r):
        logits = encoder.encode_image(inputs[None])[0].numpy() @ classes.T / 0.5
        return logits[raised[r]] - logits[opposed[r]]

    for r in range(6):
        original = encoder.preprocess(films[region_image[r]])
        inside = encoder.geometry(32, 48).to_input(boxes[r : r + 1])[0]
        expected = margin(original, r) - margin(fill_region(original, inside), r)
        assert effects[r] == pytest.approx(expected, abs=1e-5)
    assert np.abs(effects).min() > 0
    assert told == [(2, 6), (5, 6), (6, 6)]


def test_no_region_has_no_effect():
    none = np.empty(0, np.int64)

    effects = removal_effects(
        CornerEncoder(), lambda i: pytest.fail("read"), np.eye(2, 4, dtype="f4"), 1.0, none,
        np.empty((0, 4), "f4"), none, np.empty((0, 2), bool), batch_size=4,
    )  # fmt: skip

    assert effects.shape == (0,)
