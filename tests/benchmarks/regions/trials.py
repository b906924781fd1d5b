"""Segmenter and proposals against what is known: phantoms, masks and boxes of people, the clock."""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ravl_med.cohort.film import FilmReader
from ravl_med.errors import DataError
from ravl_med.phantoms.cohort import render_film
from ravl_med.phantoms.devices import FEATURES
from ravl_med.phantoms.plan import plan_cohort
from ravl_med.regions.annotations import AnnotationTable
from ravl_med.regions.film_structures import FilmStructures, read_structures
from ravl_med.regions.geometry import InputGeometry, box_overlaps
from ravl_med.regions.segmenter import LINES, SIDE, Segmenter

Progress = Callable[[str, int, int], None]

_FOUND = 0.5  # intersection over union, or share of a line that is covered
_MASK_VALUE = 255


@dataclass(frozen=True, slots=True)
class KindRow:
    """How well one kind of thing is found on phantoms.

    Attributes
    ----------
    kind : str
    things : int
    recall : float - share of them that are found: a region overlaps by half (intersection over
        union); a line: half of its pixels lie in the mask of a line
    covered : float - mean share of a line's pixels that are covered; NaN for other things
    proposed : float - regions of this kind proposed for each film
    """

    kind: str
    things: int
    recall: float
    covered: float
    proposed: float


@dataclass(frozen=True, slots=True)
class LungRow:
    """Lungs against masks drawn by people.

    Attributes
    ----------
    films, patients : int
    blank : int - masks that hold nothing and are left out
    not_found : int - films on which no lung was found; they count as 0
    median, low, least : float - Dice: median, 10th percentile, minimum
    """

    films: int
    patients: int
    blank: int
    not_found: int
    median: float
    low: float
    least: float


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """Boxes drawn by people against artifact regions.

    Attributes
    ----------
    name : str - as the annotation calls it
    things : int
    found : int - a region overlaps by half
    overlaps : tuple of float - the best of each
    """

    name: str
    things: int
    found: int
    overlaps: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FilmRow:
    """What is proposed for films.

    Attributes
    ----------
    films : int
    artifacts : float - mean number
    most : int - largest number
    anatomy : float - mean number of anatomical regions
    by_kind : dict of str to float - mean number of each kind
    """

    films: int
    artifacts: float
    most: int
    anatomy: float
    by_kind: dict[str, float]


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """Seconds for one film on one thread.

    Attributes
    ----------
    side : int - of the film in pixels
    seconds : float - median
    runs : int
    """

    side: int
    seconds: float
    runs: int


@dataclass(frozen=True, slots=True)
class TestFilm:
    """A film that people have marked.

    Attributes
    ----------
    image : Path
    patient : str
    mask : Path or None - of the lungs, 255
    """

    __test__ = False  # not for pytest

    image: Path
    patient: str
    mask: Path | None


def read_test_films(table: Path) -> list[TestFilm]:
    """Read a CSV with the columns ``image``, ``patient`` and, where there are any, ``mask``.

    Raises
    ------
    DataError
        A column is missing, or there is no row.
    """
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            missing = {"image", "patient"} - set(reader.fieldnames or ())
            rows = list(reader)
    except OSError as error:
        raise DataError(f"--films: cannot be read ({type(error).__name__}).") from None
    if missing or not rows:
        raise DataError("--films: expected a CSV with the columns image and patient, and rows.")
    root = table.parent
    return [
        TestFilm(
            root / row["image"],
            row["patient"],
            root / row["mask"] if row.get("mask") else None,
        )
        for row in rows
    ]


def measure_phantoms(
    segmenter: Segmenter, films: int, seed: int, progress: Progress
) -> list[KindRow]:
    """Look for devices and letters on phantoms of a cohort, whose truth is known."""
    plans = plan_cohort(max(films, 40), "generator", "cardiomegaly", 0.0, seed)[:films]
    hits: dict[str, list[bool]] = {}
    covered: dict[str, list[float]] = {}
    proposed: Counter[str] = Counter()
    for number, plan in enumerate(plans):
        phantom = render_film(plan, seed=seed, size=256)
        film = read_structures(segmenter, phantom.pixels)
        height, width = phantom.pixels.shape
        sides = np.array([width, height, width, height])
        for artifact in film.artifacts:
            proposed[artifact.kind] += 1
        boxes = np.array([artifact.box for artifact in film.artifacts]).reshape(-1, 4) * sides
        for kind, *box in phantom.boxes:
            if kind in FEATURES and kind != "tube":
                best = box_overlaps(np.array([box], dtype=np.float64), boxes).max(initial=0.0)
                hits.setdefault(kind, []).append(bool(best >= _FOUND))
        seen = _enlarge(film.lines, height, width)
        for kind in LINES:
            there = phantom.structures.get(kind)
            if there is not None and there.any():
                share = float(seen[there].mean())
                covered.setdefault(kind, []).append(share)
                hits.setdefault(kind, []).append(share >= _FOUND)
        progress("phantoms", number + 1, len(plans))
    return [
        KindRow(
            kind,
            len(found),
            float(np.mean(found)),
            float(np.mean(covered[kind])) if kind in covered else float("nan"),
            proposed[kind] / len(plans),
        )
        for kind, found in sorted(hits.items())
    ]


def measure_lungs(
    segmenter: Segmenter,
    films: Sequence[TestFilm],
    progress: Progress,
    show: Callable[[float, NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]], None]
    | None = None,
) -> list[LungRow]:
    """Compare lungs with masks drawn by people.

    Parameters
    ----------
    segmenter : Segmenter
    films : sequence of TestFilm - those without a mask are passed over
    progress : callable
    show : callable or None - called with Dice, film, lungs as found and as drawn
    """
    reader = FilmReader()
    dice: list[float] = []
    patients: set[str] = set()
    blank = not_found = 0
    masked = [film for film in films if film.mask is not None]
    for number, film in enumerate(masked):
        progress("lungs", number + 1, len(masked))
        assert film.mask is not None
        with Image.open(film.mask) as image:
            drawn = np.asarray(image.convert("L")) == _MASK_VALUE
        if not drawn.any():
            blank += 1
            continue
        pixels, _ = reader.read(film.image)
        found = read_structures(segmenter, pixels).region(("lungs",))
        height, width = drawn.shape
        lungs = np.zeros_like(drawn) if found is None else _enlarge(found, height, width)
        not_found += found is None
        dice.append(2.0 * float((lungs & drawn).sum()) / float(lungs.sum() + drawn.sum()))
        patients.add(film.patient)
        if show is not None:
            show(dice[-1], pixels, lungs, drawn)
    if not dice:
        return []
    values = np.array(dice)
    return [
        LungRow(
            len(values),
            len(patients),
            blank,
            int(not_found),
            float(np.median(values)),
            float(np.quantile(values, 0.1)),
            float(values.min()),
        )
    ]


def _enlarge(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    return InputGeometry.of(height, width, SIDE, "squash").mask_to_stored(mask)


def measure_devices(
    segmenter: Segmenter, films: Sequence[TestFilm], boxes: Path, progress: Progress
) -> list[DeviceRow]:
    """Compare artifact regions with boxes drawn by people, name by name."""
    table = AnnotationTable.read(boxes, [film.image for film in films])
    reader = FilmReader()
    best: dict[str, list[float]] = {}
    for done, (index, drawn) in enumerate(table.of_film.items(), start=1):
        pixels, _ = reader.read(films[index].image)
        film = read_structures(segmenter, pixels)
        height, width = pixels.shape
        sides = np.array([width, height, width, height])
        found = np.array([artifact.box for artifact in film.artifacts]).reshape(-1, 4) * sides
        for one in drawn:
            shares = box_overlaps(np.array([one.box], dtype=np.float64), found)
            best.setdefault(one.name, []).append(float(shares.max(initial=0.0)))
        progress("devices", done, len(table.of_film))
    return [
        DeviceRow(name, len(all_), sum(v >= _FOUND for v in all_), tuple(round(v, 3) for v in all_))
        for name, all_ in sorted(best.items())
    ]


def count_proposals(
    segmenter: Segmenter, films: Sequence[TestFilm], progress: Progress
) -> list[FilmRow]:
    """Count what is proposed for films."""
    reader = FilmReader()
    seen: list[FilmStructures] = []
    for number, film in enumerate(films):
        seen.append(read_structures(segmenter, reader.read(film.image)[0]))
        progress("films", number + 1, len(films))
    counts = [len(film.artifacts) for film in seen]
    kinds = Counter(artifact.kind for film in seen for artifact in film.artifacts)
    return [
        FilmRow(
            len(seen),
            float(np.mean(counts)),
            max(counts),
            float(np.mean([len(film.anatomy) for film in seen])),
            {kind: round(count / len(seen), 2) for kind, count in kinds.most_common()},
        )
    ]


def measure_speed(segmenter: Segmenter, side: int, runs: int, progress: Progress) -> list[SpeedRow]:
    """Time all regions of one film, on one thread."""
    plan = plan_cohort(40, "generator", "cardiomegaly", 0.0, 0)[0]
    phantom = render_film(replace(plan, features=FEATURES), seed=0, size=side)
    film = np.ascontiguousarray(phantom.pixels[:side, :side])
    threads = torch.get_num_threads()
    seconds = []
    try:
        torch.set_num_threads(1)
        for run in range(runs + 1):
            start = time.perf_counter()
            read_structures(segmenter, film)
            seconds.append(time.perf_counter() - start)
            progress("speed", run, runs)
    finally:
        torch.set_num_threads(threads)
    return [SpeedRow(side, float(np.median(seconds[1:])), runs)]
