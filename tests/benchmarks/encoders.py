"""Region embeddings of every kind of image tower: faithful to the image, what they cost, what they
say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ravl_med.encoders.region_pooling import embed_images, pool_crops, region_pooling_of
from ravl_med.regions.region_set import cut_tiles
from tests.benchmarks.embedding_speed import measure_memory, measure_throughput
from tests.benchmarks.poolings import (
    MARGIN,
    WHOLE,
    PoolingSizes,
    draw_poolings,
    measure_poolings,
)
from tests.benchmarks.published_models import measure_published
from tests.benchmarks.runner import Page, Part, Progress, Setup
from tests.benchmarks.tables import Column, Row, Table, Target
from tests.benchmarks.towers import (
    SIDE,
    TOWERS,
    build_tower,
    measure_accuracy,
    processor_seconds,
    smooth_noise,
    time_regions,
)

_GRID = 4  # tiles a side: 16 regions
_SEED = 0
_BATCHES = 4  # of films that are read from files
_FLAT = 1.05


@torch.inference_mode()
def measure_faith(
    images: int, seed: int, progress: Progress, towers: Sequence[str] = ()
) -> list[Row]:
    """Compare regions with images of smooth noise, by towers of `TOWERS`; none named: by all."""
    rows: list[Row] = []
    towers = towers or tuple(TOWERS)
    inputs = smooth_noise(images, seed)
    side = float(SIDE)
    boxes = torch.tensor([[0.0, 0.0, side, side], [0.0, 0.0, side / 2, side / 2]])
    for done, name in enumerate(towers, start=1):
        visual = build_tower(name, seed)
        pooling, pool = region_pooling_of(visual)
        whole, regions = pool(visual, inputs, [boxes] * images)
        alone = functional.normalize(embed_images(visual, inputs), dim=1)
        regions = functional.normalize(regions, dim=1)
        similar = (alone @ alone.T).fill_diagonal_(-1.0)
        rows.append(
            {
                "tower": TOWERS[name].title,
                "pooling": pooling,
                "images": images,
                "whole": _least(regions[::2], alone),
                "image": _least(functional.normalize(whole, dim=1), alone),
                "quarter": round(float((regions[1::2] * alone).sum(dim=1).max()), 4),
                "others": round(float(similar.max()), 4),
            }
        )
        progress("faithful", done, len(towers))
    return rows


@torch.inference_mode()
def measure_cost(
    batch: int, rounds: int, seed: int, progress: Progress, towers: Sequence[str] = ()
) -> list[Row]:
    """Time images alone, images with 16 regions, and crops, in turns on the same batch."""
    tiles = torch.from_numpy(cut_tiles(SIDE, SIDE, _GRID, _GRID))
    boxes = [tiles] * batch
    inputs = smooth_noise(batch, seed).contiguous(memory_format=torch.channels_last)
    rows: list[Row] = []
    towers = towers or tuple(TOWERS)
    for done, name in enumerate(towers, start=1):
        visual = build_tower(name, seed)
        pooling, pool = region_pooling_of(visual)
        alone, ratio = time_regions(visual, pool, inputs, boxes, rounds)
        crops = processor_seconds(lambda v=visual: pool_crops(v, inputs, boxes))  # type: ignore[misc]
        rows.append(
            {
                "tower": TOWERS[name].title,
                "pooling": pooling,
                "batch": batch,
                "regions": len(tiles),
                "threads": torch.get_num_threads(),
                "rounds": rounds,
                "seconds": round(alone, 4),
                "ratio": round(ratio, 3),
                "crops": round(crops / alone, 1),
                "target": TOWERS[name].target,
            }
        )
        progress("cost", done, len(towers))
    return rows


def _least(a: Tensor, b: Tensor) -> float:
    return round(float((a * b).sum(dim=1).min()), 6)


def _poolings(setup: Setup) -> list[Row]:
    sizes = PoolingSizes(*(setup.size(name) for name in ("films", "images", "batch", "rounds")))
    return measure_poolings(setup.config, sizes, _SEED, setup.cache, setup.progress)


def _films(setup: Setup) -> Iterator[Row]:
    batch = setup.size("batch")
    yield measure_throughput(_BATCHES * batch, batch, setup.size("rounds"), setup.progress)


def _memory(setup: Setup) -> Iterator[Row]:
    batch = setup.size("batch")
    yield measure_memory(_BATCHES * batch, batch, setup.progress)


_TOWER = Column("tower", "{tower}")
_FAITHFUL = Table(
    _TOWER,
    Column("regions by", "{pooling}"),
    Target("whole", WHOLE, least=True).beside("whole image, least", "{whole:.6f}"),
    Column("image beside regions, least", "{image:.6f}"),
    Column("a quarter, most", "{quarter:.3f}"),
    Column("another image, most", "{others:.3f}"),
)
_COST = Table(
    _TOWER,
    Column("batch, threads", "{batch}, {threads}"),
    Column("images alone", "{seconds:.2f} s"),
    Target("ratio", lambda row: row["target"], "{limit} x").beside(
        "with 16 regions", "{ratio:.2f} x"
    ),
    Column("crops", "{crops:.1f} x"),
)
_ACCURACY = Table(
    _TOWER,
    Column("films, windows", "{films}, {windows}"),
    Column("whole films", "{whole:.1%}"),
    Column("crops", "{crops:.1%}"),
    Target("regions", lambda row: row["crops"] - MARGIN, "{limit:.1%}", least=True).beside(
        "regions", "{regions:.1%}"
    ),
)
_THROUGHPUT = Table(
    _TOWER,
    Column("films, batch, threads, readers", "{films}, {batch}, {threads}, {workers}"),
    Column("passes alone", "{passes:.2f} s"),
    Column("decoding alone", "{decoding:.2f} s"),
    Target("ratio", lambda row: row["target"], "{limit} x").beside("everything", "{ratio:.2f} x"),
)
_MEMORY = Table(
    _TOWER,
    Column("films, batch", "{films}, {batch}"),
    Column("peak", "{once:.0f} MB"),
    Column("films", lambda row: str(row["films"] * row["times"])),
    Target("more", lambda row: _FLAT * row["once"], "{limit:.0f} MB (5 % more)").beside(
        "peak", "{more:.0f} MB"
    ),
)

_EXACT = 1e-4
_SAME = Target("difference", _EXACT, "{limit:.0e}")
_PUBLISHED = Table(
    Column("model", "{model}"),
    Column("parameters", "{parameters:,}"),
    Column("pixels", "{side}"),
    Column("opened", "{opened:.1f} s"),
    Column("peak", "{peak:,} MB"),
    Column("a film", "{film:.2f} s"),
    Column("with 16 regions", "{regions:.2f} x"),
    Column("one removal", "{removal:.2f} s"),
    *_SAME.beside("logits, difference", "{difference:.0e}"),
    Column("saved and opened again, difference", lambda row: _again(row["again"])),
    Column("logits, spread over films", "{spread:.3f}"),
)


def _again(difference: float | None) -> str:
    return "–" if difference is None else f"{difference:.0e}"


PAGE = Page(
    "encoders",
    "Encoders: regions in the space of the text, in one pass",
    "Measure the region embeddings of every kind of image tower: faithful, fast, right.",
    (
        Part(
            "faithful",
            "Is the region that is the whole image the image?",
            "Cosines on smooth noise; towers of published sizes, random weights with attention "
            "scaled up. A quarter of the image and another image stand beside it, so that a tower "
            "that says the same of everything would show.",
            [_FAITHFUL],
            lambda setup: measure_faith(setup.size("images"), _SEED, setup.progress),
            {"images": 8},
        ),
        Part(
            "cost",
            "What 16 regions cost",
            "Processor seconds of a batch of images alone; the same batch with 16 regions an "
            "image, and with each region encoded as an image, as multiples of it. In turns in one "
            "run; medians of rounds.",
            [_COST],
            lambda setup: measure_cost(
                setup.size("batch"), setup.size("rounds"), _SEED, setup.progress
            ),
            {"batch": 4, "rounds": 7},
        ),
        Part(
            "poolings",
            "Which way of embedding regions?",
            "Every way that a tower has (`model.region_pooling`). Windows: of phantoms of the "
            "final test, right where the nearest class is that of the film. Leak: a region's "
            "change when another film lies around it, as a share of its change when all of it is "
            "of that other film; 0 where nothing but the region is seen. In brackets the mean "
            "cosines behind it: with itself in the other film, and with the same place of that "
            "film. Cost: images with 16 regions against images alone, processor time. Towers of "
            "published sizes have random weights and see smooth noise: they have no windows, and "
            "their leak is their reach, not what a training made of it. Chosen is the cheapest way "
            f"that is faithful: whole film at least {WHOLE}, windows at least those of crops less "
            f"{100 * MARGIN:.0f} points.",
            [draw_poolings],
            _poolings,
            {"films": 300, "images": 8, "batch": 4, "rounds": 7},
        ),
        Part(
            "accuracy",
            "Do regions say what crops of them say?",
            "Models trained on phantoms without a planted correlation. Each film of the final test "
            "is seen through windows; a window is right where its nearest class is that of the "
            "film.",
            [_ACCURACY],
            lambda setup: measure_accuracy(
                setup.config, setup.size("films"), setup.cache, setup.progress
            ),
            {"films": 300},
        ),
        Part(
            "films",
            "What reading films costs beside the passes",
            "DICOM films of 1024 x 1024 pixels to embeddings on disk, as `ravl-med embed` makes "
            "them, as multiples of the passes of the same batches with their regions, in turns in "
            "one run; medians of rounds. Decoding: the same films read and prepared with nothing "
            "beside it.",
            [_THROUGHPUT],
            _films,
            {"batch": 4, "rounds": 7},
        ),
        Part(
            "memory",
            "Does memory grow with the number of films?",
            "Peak resident memory of a process that embeds films of 1024 x 1024 pixels; without "
            "those that read files for it.",
            [_MEMORY],
            _memory,
            {"batch": 4},
        ),
        Part(
            "published",
            "Published models, whole",
            "Files as their publishers hand them out, at full size, with random weights: opened as "
            "`model` names them, asked about two films and three classes, one of the films with 16 "
            "regions and with one place taken out, saved and opened again. Logits beside those of "
            "the publisher's own library (open_clip, transformers, timm) on the same files. "
            "Seconds of one thread; peak is what the process holds beyond its libraries. No "
            "vocabulary but OpenAI's was at hand: the others are short, and the tables of the text "
            "towers as long as published. Swin-T is code of one's own (`model.factory`): beside it "
            "stands that code without this package, and it has no `save`. CheXzero's weights are "
            "for 224 pixels; those for 320 have position embeddings of that size.",
            [_PUBLISHED],
            measure_published,
            {"rounds": 3},
        ),
    ),
)
