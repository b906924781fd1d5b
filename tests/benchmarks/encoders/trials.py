"""Region embeddings of every kind of image tower: faithful to the image, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ravl_med.encoders.region_pooling import Pooling, embed_images, pool_crops, region_pooling_of
from ravl_med.regions.region_set import cut_tiles
from tests.benchmarks.encoders.towers import TOWERS, build_tower

_SIDE = 224
_GRID = 4  # tiles a side: 16 regions
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class FaithRow:
    """How a tower's regions compare with its images.

    Attributes
    ----------
    tower, pooling : str
    images : int
    whole : float - least cosine of the region that is the whole image and the image
    image : float - least cosine of the image beside regions and the image alone
    quarter : float - largest cosine of a quarter and its image: no other region is the image
    others : float - largest cosine of two images
    """

    tower: str
    pooling: str
    images: int
    whole: float
    image: float
    quarter: float
    others: float


@dataclass(frozen=True, slots=True)
class CostRow:
    """Processor seconds of a batch, and ratios to the pass of the images alone beside it.

    Attributes
    ----------
    tower, pooling : str
    batch, regions, threads, rounds : int - regions are those of each image
    seconds : float - median of the images alone
    ratio : float - median over rounds of images with regions against images alone
    crops : float - the same with each region encoded as an image; of one round
    target : float or None
    """

    tower: str
    pooling: str
    batch: int
    regions: int
    threads: int
    rounds: int
    seconds: float
    ratio: float
    crops: float
    target: float | None


@torch.inference_mode()
def measure_faith(
    images: int, seed: int, progress: Progress, towers: Sequence[str] = ()
) -> list[FaithRow]:
    """Compare regions with images on smooth noise, tower by tower.

    Parameters
    ----------
    images : int
    seed : int - of images and weights
    progress : callable - called with (stage, done, total)
    towers : sequence of str - of `TOWERS`; none: all
    """
    rows, towers = [], towers or tuple(TOWERS)
    inputs = smooth_noise(images, seed)
    side = float(_SIDE)
    boxes = torch.tensor([[0.0, 0.0, side, side], [0.0, 0.0, side / 2, side / 2]])
    for done, name in enumerate(towers, start=1):
        visual = build_tower(name, seed)
        pooling, pool = region_pooling_of(visual)
        whole, regions = pool(visual, inputs, [boxes] * images)
        alone = functional.normalize(embed_images(visual, inputs), dim=1)
        regions = functional.normalize(regions, dim=1)
        similar = (alone @ alone.T).fill_diagonal_(-1.0)
        rows.append(
            FaithRow(
                tower=TOWERS[name].title,
                pooling=pooling,
                images=images,
                whole=_least(regions[::2], alone),
                image=_least(functional.normalize(whole, dim=1), alone),
                quarter=round(float((regions[1::2] * alone).sum(dim=1).max()), 4),
                others=round(float(similar.max()), 4),
            )
        )
        progress("faithful", done, len(towers))
    return rows


@torch.inference_mode()
def measure_cost(
    batch: int,
    rounds: int,
    seed: int,
    progress: Progress,
    towers: Sequence[str] = (),
) -> list[CostRow]:
    """Time images alone, images with 16 regions, and crops, in turns on the same batch.

    Parameters
    ----------
    batch : int - images
    rounds : int - each has one pass of the images alone and one with regions
    seed : int - of images and weights
    progress : callable - called with (stage, done, total)
    towers : sequence of str - of `TOWERS`; none: all
    """
    tiles = torch.from_numpy(cut_tiles(_SIDE, _SIDE, _GRID, _GRID))
    boxes = [tiles] * batch
    inputs = smooth_noise(batch, seed).contiguous(memory_format=torch.channels_last)
    rows, towers = [], towers or tuple(TOWERS)
    for done, name in enumerate(towers, start=1):
        visual = build_tower(name, seed)
        pooling, pool = region_pooling_of(visual)
        alone, ratio = time_regions(visual, pool, inputs, boxes, rounds)
        crops = _seconds(lambda v=visual: pool_crops(v, inputs, boxes))  # type: ignore[misc]
        rows.append(
            CostRow(
                tower=TOWERS[name].title,
                pooling=pooling,
                batch=batch,
                regions=len(tiles),
                threads=torch.get_num_threads(),
                rounds=rounds,
                seconds=round(alone, 4),
                ratio=round(ratio, 3),
                crops=round(crops / alone, 1),
                target=TOWERS[name].target,
            )
        )
        progress("cost", done, len(towers))
    return rows


def time_regions(
    visual: nn.Module, pool: Pooling, inputs: Tensor, boxes: Sequence[Tensor], rounds: int
) -> tuple[float, float]:
    """Time images alone and images with regions, in turns, by the processor.

    Parameters
    ----------
    visual : nn.Module
    pool : callable - see `region_pooling_of`
    inputs : Tensor of shape (B, 3, S, S)
    boxes : sequence of B tensors of shape (r_i, 4)
    rounds : int

    Returns
    -------
    seconds : float - of the images alone, median over rounds
    ratio : float - median over rounds of images with regions against images alone
    """
    alone, together = [], []
    for turn in range(rounds + 1):
        one = _seconds(lambda: embed_images(visual, inputs))
        two = _seconds(lambda: pool(visual, inputs, boxes))
        if turn:  # the first is for caches to fill
            alone.append(one)
            together.append(two)
    return float(np.median(alone)), float(np.median(np.array(together) / np.array(alone)))


def smooth_noise(count: int, seed: int) -> Tensor:
    """Return images (count, 3, S, S) of smooth noise."""
    coarse = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, _SIDE, mode="bicubic")


def _least(a: Tensor, b: Tensor) -> float:
    return round(float((a * b).sum(dim=1).min()), 6)


def _seconds(run: Callable[[], object]) -> float:
    """Time a call by the processor: other programs on the machine do not count."""
    start = time.process_time()
    run()
    return time.process_time() - start
