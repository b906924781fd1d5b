"""Embedding from DICOM files by one worker and by two, local and Ray: films a second, and start."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch

from ravl_med.cohort.manifest import read_manifest
from ravl_med.config.loading import Config
from ravl_med.encoders.base import using_threads
from ravl_med.encoders.open_clip import open_model, save_model
from ravl_med.engine import Engine, opened_engine
from ravl_med.engine.local import Work
from ravl_med.errors import ConfigError
from ravl_med.phantoms.cohort import synthesize
from ravl_med.pipeline.embedding import embed_with
from ravl_med.pipeline.stages import Run, open_model_of
from ravl_med.storage.cache import Cache
from tests.benchmarks.processes import map_in_children
from tests.benchmarks.runner import Progress
from tests.benchmarks.tables import Row

U = TypeVar("U")
R = TypeVar("R")

SMALL_TOWER = "quickstart"
"""The small tower: that of the quickstart, with random weights."""

_GRID = 4  # tiles a side: 16 regions
_BATCH = 32
_MORE = 8  # times the films for the small tower, which has done them in seconds
_ENGINES = (("local", 1), ("local", 2), ("ray", 1), ("ray", 2))
_BARE = "passes alone"


def measure_speed(
    films: int,
    towers: Sequence[str],
    rounds: int,
    progress: Progress,
    *,
    ray: bool = True,
    side: int = 512,
    alone: float = 8.0,
) -> Iterator[Row]:
    """Embed phantoms, by turns with each engine, each time in a process of its own.

    Parameters
    ----------
    films : int - for a large tower; the small one has eight times as many
    towers : sequence of str - `SMALL_TOWER`, or a name of open_clip with random weights
    ray : bool - Ray too
    side : int - shorter side of a film in pixels
    alone : float - seconds in which passes alone are counted

    Raises
    ------
    ConfigError
        open_clip knows no such tower; Ray is asked for and not installed.
    """
    engines = [one for one in _ENGINES if ray or one[0] == "local"]
    counts = {tower: films * (_MORE if tower == SMALL_TOWER else 1) for tower in towers}
    with tempfile.TemporaryDirectory(prefix="ravl-scale-") as place:
        folder = Path(place)
        synthesize(
            folder / "films",
            images=max(counts.values()),
            size=side,
            progress=lambda done, total: progress("synthesize films", done, total),
        )
        for number, tower in enumerate(towers):
            model = folder / f"model {number}"
            save_tower(tower, model)
            stage = f"speed: {tower}"
            of = _Films(folder, model, counts[tower])
            timed = _take_turns(of, engines, rounds, stage, progress)
            bare = {n: [_pass_together(model, n, alone) for _ in range(rounds)] for n in (1, 2)}
            numbers = [[rate] + [math.nan] + [0.0] * 3 for rate in map(_median, bare.values())]
            for workers, row in zip(bare, numbers, strict=True):
                yield _row(tower, _BARE, workers, 0, rounds, row)
            for (kind, workers), times in timed.items():
                middle = np.median(np.array([astuple(one) for one in times]), axis=0).tolist()
                yield _row(tower, kind, workers, of.count, rounds, middle)


def _row(
    tower: str, engine: str, workers: int, films: int, rounds: int, numbers: Sequence[float]
) -> Row:
    about = {"tower": tower, "engine": engine, "workers": workers, "films": films}
    names = (field.name for field in fields(_Timing))
    measured = {name: round(one, 3) for name, one in zip(names, numbers, strict=True)}
    return {**about, "rounds": rounds, **measured}


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def save_tower(name: str, folder: Path) -> None:
    """Save a model with random weights.

    Parameters
    ----------
    name : str - `SMALL_TOWER`, or a name of open_clip

    Raises
    ------
    ConfigError
        open_clip knows no such name.
    """
    import open_clip

    from ravl_med.config.model import QuickstartModelConfig
    from ravl_med.mitigation.quickstart import quickstart_layout

    torch.manual_seed(0)
    if name == SMALL_TOWER:
        layout = quickstart_layout(QuickstartModelConfig(tower="resnet", image_size=96))
    else:
        known = open_clip.get_model_config(name)
        if known is None:
            raise ConfigError(
                f"benchmark scale: open_clip has no model {name[:40]!r}; expected {SMALL_TOWER}, "
                "or a name such as ViT-B-32."
            )
        layout = {"model_cfg": known, "preprocess_cfg": {}}
    save_model(open_clip.CLIP(**layout["model_cfg"]), layout, folder)


@dataclass(frozen=True, slots=True)
class _Films:
    """The first so many films of a folder, and the model that embeds them."""

    folder: Path
    model: Path
    count: int


def _take_turns(
    of: _Films,
    engines: Sequence[tuple[str, int]],
    rounds: int,
    stage: str,
    progress: Progress,
) -> dict[tuple[str, int], list[_Timing]]:
    """Measure by turns, so that what else the machine does falls on all alike."""
    timed: dict[tuple[str, int], list[_Timing]] = {engine: [] for engine in engines}
    total = rounds * len(engines)
    for turn in range(rounds):
        for number, engine in enumerate(engines):
            progress(stage, turn * len(engines) + number, total)
            timed[engine] += map_in_children(
                partial(_embed, of), [(*engine, f"{turn} {number}")], workers=1
            )
    progress(stage, total, total)
    return timed


@dataclass(frozen=True, slots=True)
class _Timing:
    """What one engine took.

    Attributes
    ----------
    rate : float - films a second while all workers are at work
    processors : float - that workers use meanwhile, seconds of them a second; NaN of passes alone
    engine_start : float - seconds until the engine is there; Ray is started
    model_start : float - seconds from there until the first worker has its model open
    seconds : float - of everything
    """

    rate: float
    processors: float
    engine_start: float
    model_start: float
    seconds: float


@dataclass(frozen=True, slots=True)
class _Unit:
    """When a worker did a unit, on the clock that all processes share, and what it took."""

    worker: int
    opened: float
    begun: float
    ended: float
    films: int
    processor: float  # seconds, of all its threads

    def spread(self, amount: float) -> tuple[int, float, float, float]:
        return self.worker, self.begun, self.ended, amount


@dataclass(frozen=True, slots=True)
class _Opener:
    """Opens what it is given, and notes when."""

    open: Callable[[], Callable[[Any], Any]]

    def __call__(self) -> Callable[[Any], Any]:
        do = self.open()
        opened = time.monotonic()

        def timed(unit: Any) -> tuple[Any, _Unit]:
            begun, used = time.monotonic(), time.process_time()
            made = do(unit)
            ended, used = time.monotonic(), time.process_time() - used
            return made, _Unit(os.getpid(), opened, begun, ended, len(unit.positions), used)

        return timed


@dataclass(frozen=True, slots=True)
class _TimedEngine:
    """An engine that notes when its workers did what."""

    engine: Engine
    units: list[_Unit]

    @property
    def workers(self) -> int:
        return self.engine.workers

    def map(self, work: Work[U, R], units: Sequence[U]) -> Iterator[R]:
        timed: Work[U, Any] = replace(work, open=_Opener(work.open), here=None)
        for made, noted in self.engine.map(timed, units):
            self.units.append(noted)
            yield made


def _embed(of: _Films, case: tuple[str, int, str]) -> _Timing:
    """Embed films in a fresh cache; what a process of its own does."""
    kind, workers, name = case
    config = _config(of.folder / "films" / "manifest.csv", of.model, kind, workers)
    noted: list[_Unit] = []
    start = time.monotonic()
    with (
        using_threads(1),
        opened_engine(config.engine, config.model.device, config.threads) as engine,
    ):
        there = time.monotonic()
        cohort = read_manifest(of.folder / "films" / "manifest.csv", split=None)
        encoder = open_model_of(config, of.model)
        with tempfile.TemporaryDirectory(dir=of.folder, prefix=f"cache {name} ") as cache:
            embed_with(
                cast(Engine, _TimedEngine(engine, noted)),
                config,
                cohort.keep(np.arange(of.count)),
                (encoder, of.model),
                Run(Cache(Path(cache))),
            )
            end = time.monotonic()
    return _Timing(
        rate=steady_rate([unit.spread(unit.films) for unit in noted]),
        processors=steady_rate([unit.spread(unit.processor) for unit in noted]),
        engine_start=there - start,
        model_start=min(unit.opened for unit in noted) - there,
        seconds=end - start,
    )


def steady_rate(units: Sequence[tuple[int, float, float, float]]) -> float:
    """Return what is done a second from when all workers have begun until one has nothing to do.

    Parameters
    ----------
    units : sequence of (worker, begin, end, amount) - in seconds of one clock; an amount, such as
        films, is spread evenly over its unit
    """
    spans: dict[int, list[float]] = {}
    for worker, begun, ended, _ in units:
        spans.setdefault(worker, []).extend((begun, ended))
    first = max(min(times) for times in spans.values())
    last = min(max(times) for times in spans.values())
    if last <= first:  # one had ended before another began: all there is, then
        first, last = min(u[1] for u in units), max(u[2] for u in units)
    done = sum(
        amount * max(0.0, min(ended, last) - max(begun, first)) / max(ended - begun, 1e-9)
        for _, begun, ended, amount in units
    )
    return done / (last - first)


def _pass_together(model: Path, processes: int, seconds: float) -> float:
    """Films a second of so many processes at once."""
    passes = partial(_pass_alone, seconds=seconds)
    return sum(map_in_children(passes, [model] * processes, workers=processes))


def _pass_alone(model: Path, seconds: float) -> float:
    """Films a second of the model's passes on ready inputs: what a process of its own does."""
    from ravl_med.regions.region_set import cut_tiles

    with using_threads(1):
        encoder = open_model(model, torch.device("cpu"))
        side = encoder.info.image_size
        images = torch.rand(_BATCH, 3, side, side)
        boxes = [torch.from_numpy(cut_tiles(side, side, _GRID, _GRID))] * _BATCH
        encoder.encode_regions(images, boxes)
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            encoder.encode_regions(images, boxes)
            done += _BATCH
        return done / (time.perf_counter() - start)


def _config(manifest: Path, model: Path, kind: str, workers: int) -> Config:
    return Config.model_validate(
        {
            "name": "speed",
            "cohort": {"manifest": manifest, "split": None, "workers": 0},
            "task": {"name": "none", "classes": {"a": {"prompts": ["a"]}, "b": {"prompts": ["b"]}}},
            "model": {"path": model, "batch_size": _BATCH, "threads": 1, "device": "cpu"},
            "engine": {"kind": kind, "workers": workers},
            "regions": {"tiles": (_GRID, _GRID)},
            "evidence": {"relevance": manifest},
        }
    )
