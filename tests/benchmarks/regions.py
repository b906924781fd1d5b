"""Regions on phantoms and on films that people have marked, and the seconds that they take.

Films of patients never leave the machine: only numbers are written.
"""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Sequence
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
from ravl_med.regions.film_structures import ARTIFACT_NAMES, FilmStructures, read_structures
from ravl_med.regions.geometry import InputGeometry, box_overlaps
from ravl_med.regions.segmenter import LINES, SIDE, Segmenter, built_in_segmenter
from tests.benchmarks.runner import Page, Part, Progress, Setup
from tests.benchmarks.tables import Column, Row, Table, Target

_FOUND = 0.5  # intersection over union, or share of a line that is covered
_MASK_VALUE = 255
_PHANTOMS_SEED = 4_000  # no film of it was seen in training
_SIDE, _RUNS = 1024, 15


_RECALL = {
    "generator": 0.95, "marker": 0.95, "text": 0.95, "electrode": 0.95, "tube": 0.8, "lead": 0.8,
}  # fmt: skip
_DICE, _LOW_DICE = 0.88, 0.75
_MOST_ARTIFACTS = 24.0
_SECONDS = {1024: 0.4}  # target, by the side of a film


@dataclass(frozen=True, slots=True)
class MarkedFilm:
    """A film that people have marked; its mask is 255 where lungs are."""

    image: Path
    patient: str
    mask: Path | None


def read_marked_films(table: Path) -> list[MarkedFilm]:
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
        MarkedFilm(
            root / row["image"],
            row["patient"],
            root / row["mask"] if row.get("mask") else None,
        )
        for row in rows
    ]


def measure_phantoms(segmenter: Segmenter, films: int, seed: int, progress: Progress) -> list[Row]:
    """Look for devices and letters on phantoms of a cohort, whose truth is known.

    Found: a region overlaps by half; a line: half of its pixels lie in the mask of a line.
    """
    plans = plan_cohort(max(films, 40), "generator", "cardiomegaly", 0.0, seed)[:films]
    hits: dict[str, list[bool]] = {}
    covered: dict[str, list[float]] = {}
    proposed: Counter[str] = Counter()
    for number, plan in enumerate(plans):
        phantom = render_film(plan, seed=seed, size=256)
        film = read_structures(segmenter, phantom.pixels)
        height, width = phantom.pixels.shape
        proposed.update(artifact.kind for artifact in film.artifacts)
        boxes = _stored_boxes(film, height, width)
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
        {
            "kind": kind,
            "things": len(found),
            "recall": float(np.mean(found)),
            "covered": float(np.mean(covered[kind])) if kind in covered else None,
            "proposed": proposed[kind] / len(plans),
        }
        for kind, found in sorted(hits.items())
    ]


def measure_lungs(
    segmenter: Segmenter, films: Sequence[MarkedFilm], progress: Progress
) -> list[Row]:
    """Compare lungs with masks drawn by people; blank masks are left out, no lung counts as 0."""
    reader = FilmReader()
    dice: list[float] = []
    patients: set[str] = set()
    blank = not_found = 0
    masked = [(film, film.mask) for film in films if film.mask is not None]
    for number, (film, mask) in enumerate(masked):
        progress("lungs", number + 1, len(masked))
        with Image.open(mask) as image:
            drawn = np.asarray(image.convert("L")) == _MASK_VALUE
        if not drawn.any():
            blank += 1
            continue
        pixels, _ = reader.read(film.image)
        found = read_structures(segmenter, pixels).region(("lungs",))
        lungs = np.zeros_like(drawn) if found is None else _enlarge(found, *drawn.shape)
        not_found += found is None
        dice.append(2.0 * float((lungs & drawn).sum()) / float(lungs.sum() + drawn.sum()))
        patients.add(film.patient)
    if not dice:
        return []
    return [
        {
            "films": len(dice),
            "patients": len(patients),
            "blank": blank,
            "not_found": int(not_found),
            "median": float(np.median(dice)),
            "low": float(np.quantile(dice, 0.1)),
            "least": min(dice),
        }
    ]


def measure_devices(
    segmenter: Segmenter, films: Sequence[MarkedFilm], boxes: Path, progress: Progress
) -> list[Row]:
    """Compare artifact regions with boxes drawn by people, name by name."""
    table = AnnotationTable.read(boxes, [film.image for film in films])
    reader = FilmReader()
    best: dict[str, list[float]] = {}
    for done, (index, drawn) in enumerate(table.of_film.items(), start=1):
        pixels, _ = reader.read(films[index].image)
        found = _stored_boxes(read_structures(segmenter, pixels), *pixels.shape)
        for one in drawn:
            shares = box_overlaps(np.array([one.box], dtype=np.float64), found)
            best.setdefault(one.name, []).append(float(shares.max(initial=0.0)))
        progress("devices", done, len(table.of_film))
    return [
        {
            "name": name,
            "things": len(overlaps),
            "found": sum(overlap >= _FOUND for overlap in overlaps),
            "overlaps": [round(overlap, 3) for overlap in overlaps],
        }
        for name, overlaps in sorted(best.items())
    ]


def count_proposals(
    segmenter: Segmenter, films: Sequence[MarkedFilm], progress: Progress
) -> list[Row]:
    """Count what is proposed for films."""
    reader = FilmReader()
    seen: list[FilmStructures] = []
    for number, film in enumerate(films):
        seen.append(read_structures(segmenter, reader.read(film.image)[0]))
        progress("films", number + 1, len(films))
    counts = [len(film.artifacts) for film in seen]
    kinds = Counter(artifact.kind for film in seen for artifact in film.artifacts)
    return [
        {
            "films": len(seen),
            "artifacts": float(np.mean(counts)),
            "most": max(counts),
            "anatomy": float(np.mean([len(film.anatomy) for film in seen])),
            "by_kind": {kind: round(n / len(seen), 2) for kind, n in kinds.most_common()},
        }
    ]


def measure_speed(segmenter: Segmenter, side: int, runs: int, progress: Progress) -> list[Row]:
    """Time all regions of one film, on one thread; the median of the runs."""
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
    return [{"side": side, "seconds": float(np.median(seconds[1:])), "runs": runs}]


def _stored_boxes(film: FilmStructures, height: int, width: int) -> NDArray[np.float64]:
    """Boxes (n, 4) of the artifacts of a film, xyxy in stored pixels."""
    sides = np.array([width, height, width, height])
    shares = [artifact.box for artifact in film.artifacts]
    boxes: NDArray[np.float64] = np.array(shares, dtype=np.float64).reshape(-1, 4) * sides
    return boxes


def _enlarge(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    return InputGeometry.of(height, width, SIDE, "squash").mask_to_stored(mask)


def _marked(setup: Setup) -> list[MarkedFilm]:
    return read_marked_films(setup.files["films"])


_PHANTOMS = Table(
    Column("found on the film", lambda row: ARTIFACT_NAMES[row["kind"]]),
    Column("so many", "{things}"),
    Target("recall", lambda row: _RECALL.get(row["kind"]), "{limit:.0%}", least=True).beside(
        "reached", "{recall:.1%}", "target: found"
    ),
    Column("pixels of a line that are covered", "{covered:.0%}"),
    Column("regions of this kind a film", "{proposed:.1f}"),
)
_LUNGS = Table(
    Column("films (patients)", "{films} ({patients})"),
    Target("median", _DICE, least=True).beside("reached", "{median:.3f}", "target: median"),
    Target("low", _LOW_DICE, least=True).beside("reached", "{low:.3f}", "target: 10th percentile"),
    Column("least", "{least:.3f}"),
    Column("not found", "{not_found}"),
    Column("blank masks left out", "{blank}"),
)
_DEVICES = Table(
    Column("annotated as", "{name}"),
    Column("found", "{found} of {things}"),
    Column(
        "best overlap of each", lambda row: ", ".join(f"{share:.2f}" for share in row["overlaps"])
    ),
)
_FILMS = Table(
    Column("films", "{films}"),
    Target("artifacts", _MOST_ARTIFACTS).beside(
        "reached", "{artifacts:.1f}", "target: artifacts a film, mean"
    ),
    Column("most", "{most}"),
    Column("anatomical regions, mean", "{anatomy:.1f}"),
    Column(
        "by kind, mean",
        lambda row: ", ".join(f"{ARTIFACT_NAMES[k]} {v:.1f}" for k, v in row["by_kind"].items()),
    ),
)
_SPEED = Table(
    Column("side", "{side}"),
    Target("seconds", lambda row: _SECONDS.get(row["side"]), "{limit} s").beside(
        "median seconds (runs)", "{seconds:.3f} s ({runs})"
    ),
)

PAGE = Page(
    "regions",
    "Regions, on phantoms and on films that people have marked",
    "Measure anatomy and artifact regions against what is known of films. Films of patients never "
    "leave this machine: only numbers are written.",
    (
        Part(
            "phantoms",
            "Devices and letters on phantoms",
            "Films of a cohort as `ravl-med synthesize` makes them, of a seed that no training "
            "film has. Found: a region overlaps by half (intersection over union); a line: half of "
            "its pixels lie in the mask of a line.",
            [_PHANTOMS],
            lambda setup: measure_phantoms(
                built_in_segmenter(), setup.size("phantoms"), _PHANTOMS_SEED, setup.progress
            ),
            {"phantoms": 400},
        ),
        Part(
            "lungs",
            "Lungs on real films",
            "Dice against masks that people have drawn, in stored pixels; a film without lungs "
            "found counts as 0. No real film was trained on.",
            [_LUNGS],
            lambda setup: measure_lungs(built_in_segmenter(), _marked(setup), setup.progress),
            files={"films": "FILMS.csv"},
        ),
        Part(
            "devices",
            "Boxes that people have drawn on real films",
            "Found: an artifact region overlaps by half (intersection over union).",
            [_DEVICES],
            lambda setup: measure_devices(
                built_in_segmenter(), _marked(setup), setup.files["boxes"], setup.progress
            ),
            files={"films": "FILMS.csv", "boxes": "BOXES"},
        ),
        Part(
            "films",
            "What is proposed for real films",
            "",
            [_FILMS],
            lambda setup: count_proposals(built_in_segmenter(), _marked(setup), setup.progress),
            files={"films": "FILMS.csv"},
        ),
        Part(
            "speed",
            "All regions of one film, on one thread",
            "",
            [_SPEED],
            lambda setup: measure_speed(built_in_segmenter(), _SIDE, _RUNS, setup.progress),
        ),
    ),
)
