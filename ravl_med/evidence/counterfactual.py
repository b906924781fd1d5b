"""Counterfactual removal: what happens to the margin of a class when a region is filled in.

The margin is taken against the class that the correlation lowers most, not against all others: a
filled piece of lung looks like a consolidation to a model, a filled costophrenic angle like an
effusion, and neither says anything about a feature that moves films from "no finding" to
"cardiomegaly".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ravl_med.discovery.ravl import FeatureCluster
from ravl_med.encoders.base import Encoder

__all__ = ["class_margin", "fill_region", "opposed_class", "removal_effects"]

ReadPixels = Callable[[int], NDArray[np.float32]]


def opposed_class(cluster: FeatureCluster, min_n: int) -> int:
    """Return the class against which the raised class of a cluster is weighed.

    It is the most lowered class with at least `min_n` films in the smaller arm; the most lowered
    one of all where none has so many.
    """
    smaller = np.minimum(cluster.n_present, cluster.n_absent)
    enough = [c for c in cluster.lowered_classes if smaller[c] >= min_n]
    return (enough or cluster.lowered_classes)[0]


def class_margin(
    logits: NDArray[np.float32], raised: NDArray[np.int64], opposed: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the logit of one class minus that of another, row by row.

    Parameters
    ----------
    logits : ndarray of shape (n, C), float32
    raised, opposed : ndarray of shape (n,), int64 - the two classes of each row

    Returns
    -------
    ndarray of shape (n,), float64
    """
    rows = np.arange(len(logits))
    exact = logits.astype(np.float64)
    margin: NDArray[np.float64] = exact[rows, raised] - exact[rows, opposed]
    return margin


def fill_region(image: Tensor, box: NDArray[np.float32]) -> Tensor:
    """Fill a box with the median of its surroundings, channel by channel.

    The surroundings are a ring around the box, a quarter of its sides wide, at least 2 pixels.

    Parameters
    ----------
    image : Tensor of shape (3, S, S)
    box : ndarray of shape (4,), float32 - xyxy in input pixels

    Returns
    -------
    Tensor of shape (3, S, S) - a copy
    """
    size_y, size_x = image.shape[-2:]
    x0, y0 = (int(np.floor(v + 1e-3)) for v in box[:2])
    x1, y1 = (int(np.ceil(v - 1e-3)) for v in box[2:])
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    pad_x, pad_y = max(2, (x1 - x0) // 4), max(2, (y1 - y0) // 4)
    top, bottom = max(y0 - pad_y, 0), min(y1 + pad_y, size_y)
    left, right = max(x0 - pad_x, 0), min(x1 + pad_x, size_x)
    ring = torch.ones((bottom - top, right - left), dtype=torch.bool)
    ring[y0 - top : y1 - top, x0 - left : x1 - left] = False
    filled = image.clone()
    if ring.any():
        value = image[:, top:bottom, left:right][:, ring].median(dim=1).values
    else:  # the box is the whole image
        value = image.flatten(1).median(dim=1).values
    filled[:, y0:y1, x0:x1] = value[:, None, None]
    return filled


def removal_effects(
    encoder: Encoder,
    read_pixels: ReadPixels,
    classes: NDArray[np.float32],
    temperature: float,
    region_image: NDArray[np.int64],
    region_boxes: NDArray[np.float32],
    raised: NDArray[np.int64],
    opposed: NDArray[np.int64],
    *,
    batch_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float64]:
    """Measure the removal effect of regions, each for its own class.

    Parameters
    ----------
    encoder : Encoder
    read_pixels : callable - image index to pixels (H, W), float32 of 0 .. 1
    classes : ndarray of shape (C, D), float32 - class embeddings
    temperature : float - tau of the logits
    region_image : ndarray of shape (n,), int64 - image of each region
    region_boxes : ndarray of shape (n, 4), float32 - xyxy in stored pixels
    raised : ndarray of shape (n,), int64 - class whose margin is watched
    opposed : ndarray of shape (n,), int64 - class that it is weighed against
    batch_size : int - inputs encoded at once

    Returns
    -------
    ndarray of shape (n,), float64 - margin before minus margin after, in logits
    """
    before = np.full(len(region_image), np.nan)
    after = np.full(len(region_image), np.nan)
    queue: list[Tensor] = []
    slots: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = []

    def flush() -> None:
        if queue:
            embedded = encoder.encode_image(torch.stack(queue)).float().cpu().numpy()
            logits = embedded @ classes.T / np.float32(temperature)
            for row, (store, regions) in zip(logits, slots, strict=True):
                rows = np.tile(row, (len(regions), 1))
                store[regions] = class_margin(rows, raised[regions], opposed[regions])
            queue.clear()
            slots.clear()

    done = 0
    for image in np.unique(region_image):
        regions = np.flatnonzero(region_image == image)
        pixels = read_pixels(int(image))
        boxes = encoder.geometry(*pixels.shape).to_input(region_boxes[regions])
        original = encoder.preprocess(pixels)
        queue.append(original)
        slots.append((before, regions))
        for region, box in zip(regions, boxes, strict=True):
            queue.append(fill_region(original, box))
            slots.append((after, np.array([region])))
            if len(queue) >= batch_size:
                flush()
        done += len(regions)
        progress(done, len(region_image))
    flush()
    effect: NDArray[np.float64] = before - after
    return effect
