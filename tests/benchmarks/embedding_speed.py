"""Embedding from DICOM files: its time beside that of the passes alone, and its memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ravl_med.cohort.film import Film, FilmReader
from ravl_med.cohort.manifest import Cohort
from ravl_med.cohort.table import ManifestFiles, RejectedFilm
from ravl_med.encoders.batches import BatchEncoder, PreparedFilm, encode_films, films_a_part
from ravl_med.encoders.open_clip import OpenClipEncoder, open_model, save_model
from ravl_med.phantoms.dicom import Acquisition, write_dicom
from ravl_med.regions.region_set import RegionKind, RegionSet, cut_tiles, tile_names
from tests.benchmarks.processes import forget_peak, map_in_children, peak_mb
from tests.benchmarks.runner import Progress
from tests.benchmarks.tables import Row

_SIDE = 1024
_GRID = 4
_TIMES = 8
_TOWERS = {"ViT-B/16": "ViT-B-16", "RN50": "RN50"}
_MOST = 1.25


def measure_throughput(
    films: int, batch: int, rounds: int, progress: Progress, tower: str = "ViT-B/16"
) -> Row:
    """Embed films of 1024 x 1024 pixels from DICOM files, and time the passes by themselves.

    Parameters
    ----------
    batch : int - films encoded at once
    rounds : int - each has everything, and the passes alone
    tower : str - a name of open_clip, with random weights
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cohort = _write_films(folder, films)
        encoder = _open(folder / "model", _TOWERS[tower])
        reader = FilmReader(workers=2)
        whole, passes, decoding = [], [], 0.0
        for turn in range(rounds + 1):
            store = folder / f"store {turn}"
            one = _seconds(lambda at=store: _embed(encoder, reader, cohort, batch, at))  # type: ignore[misc]
            start = time.perf_counter()
            prepared = [_prepared(encoder, film, turn) for film in reader.films(cohort)]
            decoding = time.perf_counter() - start
            batches = BatchEncoder(encoder, folder / "none", batch, _GRID * _GRID)
            two = _seconds(lambda p=prepared, b=batches: _pass(b, p))  # type: ignore[misc]
            if turn:  # the first is for caches to fill
                whole.append(one)
                passes.append(two)
            progress("films", turn + 1, rounds + 1)
    return {
        "tower": tower,
        "films": films,
        "regions": _GRID * _GRID,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "workers": reader.workers,
        "rounds": rounds,
        "passes": round(float(np.median(passes)), 3),
        "ratio": round(float(np.median(np.array(whole) / np.array(passes))), 3),
        "decoding": round(decoding, 3),
        "target": _MOST,
    }


def measure_memory(films: int, batch: int, progress: Progress, tower: str = "RN50") -> Row:
    """Measure the memory of processes of their own that embed films, and eight times as many."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _write_films(folder, films * _TIMES)
        _open(folder / "model", _TOWERS[tower])
        peaks = []
        for done, count in enumerate((films, films * _TIMES), start=1):
            peaks += map_in_children(_peak_of, [(folder, count, batch)], threads=None)
            progress("memory", done, 2)
    return {
        "tower": tower,
        "films": films,
        "times": _TIMES,
        "batch": batch,
        "once": peaks[0],
        "more": peaks[1],
    }


def _peak_of(job: tuple[Path, int, int]) -> float:
    """Embed films of a folder into a store beside them; return the peak meanwhile in MB."""
    folder, films, batch = job
    encoder = open_model(folder / "model", torch.device("cpu"))
    cohort = _cohort(folder, films)
    forget_peak()  # that of opening the model, which would hide the rest
    _embed(encoder, FilmReader(workers=2), cohort, batch, folder / f"store {films}")
    return round(peak_mb(), 1)


def _write_films(folder: Path, count: int) -> Cohort:
    rng = np.random.default_rng(0)
    for film in range(count):
        coarse = rng.random((_SIDE // 32, _SIDE // 32), dtype=np.float32)
        pixels = np.kron(coarse, np.ones((32, 32), np.float32))
        pixels = (0.8 * pixels + 0.2 * rng.random((_SIDE, _SIDE), dtype=np.float32)).clip(0, 1)
        acquisition = Acquisition(film, "F", 60, "PA", "A", 0, film, burned_in=False)
        write_dicom(folder / f"{film}.dcm", pixels, acquisition, seed=0, image=film)
    return _cohort(folder, count)


def _cohort(folder: Path, count: int) -> Cohort:
    return Cohort(
        name="films",
        rows=np.arange(2, 2 + count),
        paths=ManifestFiles((f"{film}.dcm" for film in range(count)), folder),
        patients=np.arange(count),
        radiology_reports=("",) * count,
        labels=np.zeros(count, np.int64),
        classes=(),
        attributes={},
        listed=count,
        left_out={},
    )


def _open(folder: Path, name: str) -> OpenClipEncoder:
    import open_clip

    torch.manual_seed(0)
    config = open_clip.get_model_config(name)
    save_model(open_clip.CLIP(**config), {"model_cfg": config, "preprocess_cfg": {}}, folder)
    return open_model(folder, torch.device("cpu"))


def _tiles(film: Film) -> RegionSet:
    kinds = tuple(RegionKind("tiles", name) for name in tile_names(_GRID, _GRID))
    height, width = film.pixels.shape
    return RegionSet(cut_tiles(height, width, _GRID, _GRID), kinds)


def _embed(
    encoder: OpenClipEncoder, reader: FilmReader, cohort: Cohort, batch: int, store: Path
) -> None:
    batches = BatchEncoder(encoder, store, batch, _GRID * _GRID)
    films, part = enumerate(reader.films(cohort)), films_a_part(batch)
    encode_films(batches, films, _tiles, min_visible=0.5, part=part)


def _prepared(encoder: OpenClipEncoder, film: Film | RejectedFilm, turn: int) -> PreparedFilm:
    assert isinstance(film, Film)
    boxes = encoder.geometry(*film.pixels.shape).to_input(_tiles(film).boxes)
    return PreparedFilm(
        f"{turn} {film.index}".encode(), encoder.preprocess(film.pixels), torch.from_numpy(boxes)
    )


def _pass(batches: BatchEncoder, films: list[PreparedFilm]) -> None:
    stream: Iterator[PreparedFilm] = iter(films)
    while part := list(islice(stream, batches.size)):
        batches.encode(dict(enumerate(part)))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
