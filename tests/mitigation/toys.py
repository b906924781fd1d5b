"""A tiny set to fine-tune on: bright above or below, and a square that goes with the class."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import torch
from torch.nn import functional

from ravl_med.config.model import QuickstartModelConfig
from ravl_med.encoders.film_store import InputStore
from ravl_med.encoders.kept_films import KeptFilms
from ravl_med.mitigation.fine_tuning_set import FineTuningSet, GrayFilms, RegionTable
from ravl_med.mitigation.quickstart import quickstart_layout
from ravl_med.mitigation.spurious_regions import PseudoGroups
from ravl_med.regions.region_set import cut_tiles

SIDE = 32
CLASSES = ("above", "below")
SQUARE = np.array([0, 0, 8, 8], dtype=np.float32)


def toy_model(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    layout = quickstart_layout(QuickstartModelConfig(image_size=SIDE))
    model: torch.nn.Module = open_clip.CLIP(**layout["model_cfg"])
    return model


def toy_set(count: int = 48, seed: int = 0) -> FineTuningSet:
    """Films (count, 32, 32); nine in ten of class 0 have the square, one in ten of class 1."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 2
    gray = rng.integers(60, 100, (count, SIDE, SIDE)).astype(np.uint8)
    gray[labels == 0, 10:16] += 80
    gray[labels == 1, 24:30] += 80
    has = rng.random(count) < np.where(labels == 0, 0.9, 0.1)
    gray[has, :8, :8] = 255
    boxes = cut_tiles(SIDE, SIDE, 4, 4)
    film = np.repeat(np.arange(count), len(boxes))
    table = RegionTable.of(np.tile(boxes, (count, 1)), film, count)
    spurious = np.zeros(len(film), dtype=np.bool_)
    spurious[np.flatnonzero(has) * len(boxes)] = True  # the first tile is the square
    texts = functional.normalize(
        torch.randn(2, 128, generator=torch.Generator().manual_seed(5)), dim=1
    )
    return FineTuningSet(
        films=GrayFilms(gray, np.arange(len(gray)), (0.5,) * 3, (0.25,) * 3),
        reports=texts[labels],
        labels=labels,
        present=has,
        regions=table,
        spurious=spurious,
        carriers=RegionTable.of(table.boxes[spurious], film[spurious], count),
        companions=RegionTable.empty(count),
    )


def keep_films(gray: np.ndarray, folder: Path, counts: tuple[int, ...]) -> KeptFilms:
    """Put films (n, S, S), uint8, into files of so many each, as a store does; in their order."""
    info = SimpleNamespace(image_size=gray.shape[-1], mean=(0.0,) * 3, std=(1.0,) * 3)
    store = InputStore(folder, info)  # type: ignore[arg-type]
    first = 0
    for part, count in enumerate(counts):
        films = gray[first : first + count]
        inputs = [torch.from_numpy(film).float().expand(3, -1, -1) / 255.0 for film in films]
        store.write(part, [store.pack(f"{first + at}", one) for at, one in enumerate(inputs)])
        first += count
    return store.keep([str(film) for film in range(len(gray))])


def toy_texts() -> torch.Tensor:
    return toy_set(2).reports


def toy_groups(films: FineTuningSet) -> PseudoGroups:
    return PseudoGroups.cross(films.labels, films.present, CLASSES)
