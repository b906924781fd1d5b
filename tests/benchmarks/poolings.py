"""Ways of embedding the regions of a tower, by what they keep of the image and what they cost.

Four measures. Is the region that is the whole film the film? Do windows of phantoms say what crops
of them say? How much of a region comes from outside of it: its film is laid into another film, so
that nothing but the region stays, and the change is measured in units of that to the same place of
the other film. And what do 16 regions cost?
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ravl_med.config.loading import Config
from ravl_med.config.model import ModelConfig, RegionPooling
from ravl_med.encoders.region_pooling import Pooling, embed_images, region_pooling_of
from ravl_med.errors import ModelError
from ravl_med.regions.region_set import cut_tiles
from ravl_med.storage.cache import Cache
from tests.benchmarks.runner import Progress
from tests.benchmarks.tables import Column, Row, Table, bullets, yes_no
from tests.benchmarks.towers import (
    TOWERS,
    TrainedTower,
    build_tower,
    smooth_noise,
    time_regions,
    train_towers,
)

_GRID = 4  # tiles a side: 16 regions
_COMPARED = 64  # phantoms whose regions are compared, at most
_UNTRAINED = ("RN50", "ConvNeXt-B")

DEFAULT: str = ModelConfig.model_fields["region_pooling"].default
WHOLE = 0.999
"""Least cosine of the region that is the whole image and the image."""
MARGIN = 0.03
"""Share of the windows by which regions may say less than crops."""


@dataclass(frozen=True, slots=True)
class PoolingSizes:
    """How much is measured.

    Attributes
    ----------
    films : int - phantoms whose windows are asked, at most; at least 2
    images : int - of noise whose regions are compared, at least 2
    batch : int - images that are timed together
    rounds : int - of the cost
    """

    films: int
    images: int
    batch: int
    rounds: int


def measure_poolings(
    config: Config, sizes: PoolingSizes, seed: int, cache: Cache, progress: Progress
) -> list[Row]:
    """Measure every way of embedding regions that a tower has, tower by tower.

    The quickstart models are trained on phantoms without a shortcut; towers of published sizes have
    random weights, and are shown smooth noise.

    Parameters
    ----------
    config : Config - of the quickstart; its planted correlation is taken away
    seed : int - of random weights and noise
    cache : Cache - of cohorts and models
    """
    rows = []
    on_cpu = config.model.model_copy(update={"device": "cpu"})  # whose time is what is measured
    config = config.model_copy(update={"model": on_cpu})
    for trained in train_towers(config, cache, progress):
        films = min(sizes.films, _COMPARED)
        inputs = torch.cat([part for part, *_ in trained.windows(films)])
        visual = trained.encoder.model.visual
        for how, pooling, pool in _poolings_of(visual):
            asked = _ask_windows(trained, pool, sizes.films, progress)
            rows.append(_measure(visual, inputs, trained.title, (how, pooling, pool), sizes, asked))
    for done, name in enumerate(_UNTRAINED, start=1):
        visual, inputs = build_tower(name, seed), smooth_noise(sizes.images, seed)
        for way in _poolings_of(visual):
            rows.append(_measure(visual, inputs, TOWERS[name].title, way, sizes, (0, math.nan)))
        progress("poolings", done, len(_UNTRAINED))
    return rows


Way = tuple[RegionPooling, str, Pooling]


def _poolings_of(visual: nn.Module) -> Iterator[Way]:
    for how in get_args(RegionPooling):
        try:
            yield how, *region_pooling_of(visual, how)
        except ModelError:  # no tower has all
            continue


@torch.inference_mode()
def _measure(
    visual: nn.Module,
    inputs: Tensor,
    tower: str,
    way: Way,
    sizes: PoolingSizes,
    asked: tuple[int, float],
) -> Row:
    how, pooling, pool = way
    side = int(inputs.shape[-1])
    tiles = torch.from_numpy(cut_tiles(side, side, _GRID, _GRID)).round()
    alone = functional.normalize(embed_images(visual, inputs), dim=1)
    everything = torch.tensor([[0.0, 0.0, side, side]])
    whole = functional.normalize(pool(visual, inputs, [everything] * len(inputs))[1], dim=1)
    outside, other = _compare_surroundings(visual, pool, inputs, tiles)
    timed = inputs[: sizes.batch].contiguous(memory_format=torch.channels_last)
    _, ratio = time_regions(visual, pool, timed, [tiles] * len(timed), sizes.rounds)
    return {
        "tower": tower,
        "how": how,
        "pooling": pooling,
        "images": len(inputs),
        "regions": len(tiles),
        "whole": round(float((whole * alone).sum(dim=1).min()), 6),
        "windows": asked[0],
        "right": round(asked[1], 4),
        "outside": round(outside, 4),
        "other": round(other, 4),
        "leak": round((1.0 - outside) / (1.0 - other), 4) if other < 1.0 else math.nan,
        "threads": torch.get_num_threads(),
        "rounds": sizes.rounds,
        "ratio": round(ratio, 3),
    }


def _compare_surroundings(
    visual: nn.Module, pool: Pooling, inputs: Tensor, tiles: Tensor
) -> tuple[float, float]:
    """Mean cosine of regions with themselves in another film, and with that other film's."""
    others = inputs.roll(1, dims=0)
    own = _regions(visual, pool, inputs, tiles)
    moved = torch.empty_like(own)
    for number, (x0, y0, x1, y1) in enumerate(tiles.int().tolist()):
        laid = others.clone()
        laid[..., y0:y1, x0:x1] = inputs[..., y0:y1, x0:x1]
        moved[:, number] = _regions(visual, pool, laid, tiles[number : number + 1])[:, 0]
    same = (own * moved).sum(dim=-1).mean()
    other = (own * own.roll(1, dims=0)).sum(dim=-1).mean()
    return float(same), float(other)


def _regions(visual: nn.Module, pool: Pooling, images: Tensor, boxes: Tensor) -> Tensor:
    """Regions of images, the same of each: (B, r, D), unit norm."""
    embedded = pool(visual, images, [boxes] * len(images))[1]
    return functional.normalize(embedded, dim=-1).reshape(len(images), len(boxes), -1)


@torch.inference_mode()
def _ask_windows(
    trained: TrainedTower, pool: Pooling, films: int, progress: Progress
) -> tuple[int, float]:
    """Windows of films, and the share of them whose nearest class is that of the film."""
    encoder = trained.encoder
    right: list[NDArray[np.bool_]] = []
    for inputs, boxes, labels, done, count in trained.windows(films):
        _, regions = pool(encoder.model.visual, inputs, boxes)
        wanted = np.repeat(labels, [len(part) for part in boxes])
        right.append(trained.nearest(functional.normalize(regions, dim=-1)) == wanted)
        progress(f"ask {trained.title}", done, count)
    every = np.concatenate(right)
    return len(every), float(every.mean())


def is_faithful(row: Row) -> bool:
    """Whether the whole image is the image, and regions say nearly as much as crops do."""
    right, crops = row["right"], row["crops_right"]
    said = right is None or crops is None or right >= crops - MARGIN
    return bool(row["whole"] >= WHOLE and said)


def choose_pooling(rows: Sequence[Row]) -> str | None:
    """Choose the cheapest way of those of one tower that are faithful; None where none is.

    It is the value of ``model.region_pooling``.
    """
    held = [row for row in rows if is_faithful(row)]
    return str(min(held, key=lambda row: float(row["ratio"]))["how"]) if held else None


def judge_poolings(rows: Sequence[Row]) -> list[Row]:
    """Return the rows, those of a tower together, with what the table says of them."""
    judged: list[Row] = []
    for _, of_tower in groupby(rows, key=lambda row: str(row["tower"])):
        own = list(of_tower)
        crops = next((row["right"] for row in own if row["how"] == "crops"), None)
        own = [{**row, "crops_right": crops} for row in own]
        chosen = choose_pooling(own)
        judged += [{**row, "chosen": chosen} for row in own]
    return judged


_TABLE = Table(
    Column("tower", "{tower}"),
    Column("regions by", "`{how}`: {pooling}"),
    Column("whole film, least", "{whole:.6f}"),
    Column(
        "windows, right",
        lambda row: None if row["right"] is None else f"{row['right']:.1%} of {row['windows']}",
    ),
    Column("faithful", lambda row: yes_no(is_faithful(row))),
    Column("leak (cosines)", "{leak:.2f} ({outside:.3f}, {other:.3f})"),
    Column("with 16 regions", "{ratio:.2f} x"),
    Column("chosen", lambda row: yes_no(row["how"] == row["chosen"])),
)


def draw_poolings(rows: Sequence[Row]) -> str:
    """Draw the table of all ways, and a sentence for each tower."""
    judged = judge_poolings(rows)
    towers = groupby(judged, key=lambda row: str(row["tower"]))
    lines = [_sentence(tower, list(own)) for tower, own in towers]
    return f"{_TABLE(judged)}\n\n{bullets(lines)}"


def _sentence(tower: str, rows: Sequence[Row]) -> str:
    """Say what the default is for a tower, and what it gives up."""
    chosen = rows[0]["chosen"]
    if chosen is None:
        return f"{tower}: no way is faithful; the default, `{DEFAULT}`, is not either."
    own = next(row for row in rows if row["how"] == DEFAULT)
    beside = "; ".join(
        f"`{row['how']}` leaks {_leak(row)} and costs {row['ratio']:.2f} x"
        for row in rows
        if row["how"] != DEFAULT
    )
    role = "is" if chosen == DEFAULT else f"would be `{chosen}`, not"
    return (
        f"{tower}: the default {role} `{DEFAULT}`, which leaks {_leak(own)} and costs "
        f"{own['ratio']:.2f} x{f'; {beside}' if beside else ''}."
    )


def _leak(row: Row) -> str:
    return "an unknown share" if row["leak"] is None else f"{row['leak']:.2f}"
