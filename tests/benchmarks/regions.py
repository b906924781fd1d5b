"""Regions on phantoms and on films that people have marked, and the seconds that they take.

Films of patients never leave the machine: only numbers are written.
"""

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

from ravl_med.cohort.film import Film, FilmReader
from ravl_med.config.cohort import RegionsConfig
from ravl_med.errors import DataError
from ravl_med.evidence.statistics import mean_interval
from ravl_med.phantoms.cohort import render_film
from ravl_med.phantoms.devices import FEATURES
from ravl_med.phantoms.plan import plan_cohort
from ravl_med.regions.annotations import AnnotationTable
from ravl_med.regions.burned_in_text import open_text_search
from ravl_med.regions.film_structures import (
    ARTIFACT_NAMES,
    Artifact,
    FilmStructures,
    read_structures,
)
from ravl_med.regions.geometry import InputGeometry, box_overlaps
from ravl_med.regions.proposal import RegionProposer, describe_sources
from ravl_med.regions.segmenter import ANY, LINES, SIDE, Segmenter, built_in_segmenter
from ravl_med.reporting.contact_sheet import ContactSheet, SheetFilm
from tests.benchmarks.boxed_films import BoxedFilm, group_of, is_found, read_boxed_films, true_kinds
from tests.benchmarks.painted_objects import THINGS, paint_thing
from tests.benchmarks.runner import Page, Part, Progress, Setup
from tests.benchmarks.tables import Column, Row, Table, Target

_FOUND = 0.5  # intersection over union, or share of a line that is covered
_MASK_VALUE = 255
_PHANTOMS_SEED = 4_000  # no film of it was seen in training
_SIDE, _RUNS = 1024, 15


_RECALL = {
    "generator": 0.95, "marker": 0.95, "text": 0.95, "electrode": 0.95, "tube": 0.8, "lead": 0.8,
}  # fmt: skip
_DICE, _LOW_DICE = 0.92, 0.85
_BOXES_FOUND = {"letters": 0.9, "compact": 0.75, "line": 0.6}
_NAMES_RIGHT = 0.8
_FALSE, _FALSE_NAMES = 0.5, 0.1  # a clean film, on average
_PAINTED_RIGHT, _PAINTED_WRONG = 0.95, 0.03
_PAINTED_SEED = 53  # no painted film of training has it
_SECONDS = {1024: 0.15, 512: 0.4}  # target, by the side of a film: regions; burned-in text
_GROUPS = {"letters": "markers and text", "compact": "electrodes, clips, clothing and the like",
           "line": "pieces of tubes, lines and wires"}  # fmt: skip


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


def measure_found(
    segmenter: Segmenter, films: Sequence[BoxedFilm], progress: Progress
) -> list[Row]:
    """Count the boxes of real films where something was found, by what they hold."""
    found: dict[tuple[str, str], list[bool]] = {}
    of_patient: dict[str, list[tuple[str, bool]]] = {}
    boxed = [film for film in films if film.boxed]
    for number, film in enumerate(boxed):
        seen = read_structures(segmenter, film.read())
        for box in film.boxes:
            hit = is_found(box, seen)
            found.setdefault((box.group, box.word), []).append(hit)
            of_patient.setdefault(box.group, []).append((film.patient, hit))
        progress("boxes", number + 1, len(boxed))
    rows: list[Row] = []
    for group in _GROUPS:
        words = {word: hits for (own, word), hits in sorted(found.items()) if own == group}
        if words:
            hits = [hit for own in words.values() for hit in own]
            rows.append(
                {
                    "group": group,
                    "boxes": len(hits),
                    "share": float(np.mean(hits)),
                    "interval": _by_patient(of_patient[group]),
                    "words": {word: f"{sum(own)} of {len(own)}" for word, own in words.items()},
                }
            )
    return rows


def _by_patient(hits: Sequence[tuple[str, bool]]) -> tuple[float, float]:
    """Return the interval of a share, 95 %, by patient."""
    values = np.array([hit for _, hit in hits], dtype=np.float64)
    about = mean_interval(values, np.array([patient for patient, _ in hits]), 0.95)
    return max(about.low, 0.0), min(about.high, 1.0)


def measure_names(
    segmenter: Segmenter, films: Sequence[BoxedFilm], progress: Progress
) -> list[Row]:
    """Count the names on real films that are right; a line that meets no box is left out."""
    right: dict[str, list[tuple[str, bool]]] = {}
    boxed = [film for film in films if film.boxed]
    for number, film in enumerate(boxed):
        for one in read_structures(segmenter, film.read()).artifacts:
            kinds = true_kinds(one, film.boxes)
            group = group_of(one.kind)
            if group == "border" or (group == "line" and not kinds):
                continue
            open_name = one.kind in ANY or not one.sure
            fits = bool(kinds) if open_name else one.kind in kinds
            right.setdefault(one.name, []).append((film.patient, fits))
        progress("names", number + 1, len(boxed))
    return [
        {
            "called": name,
            "named": len(hits),
            "right": sum(hit for _, hit in hits),
            "share": float(np.mean([hit for _, hit in hits])),
            "interval": _by_patient(hits),
        }
        for name, hits in sorted(right.items())
    ]


def draw_contact_sheet(
    segmenter: Segmenter, films: Sequence[BoxedFilm], shown: int, seed: int
) -> ContactSheet:
    """Draw what is found on some films, one of a patient first."""
    config = RegionsConfig(sources=("artifacts", "anatomy"))
    proposer = RegionProposer(config, segmenter=segmenter, scored=True)
    order = np.random.default_rng(seed).permutation(len(films)).tolist()
    first = {films[at].patient: at for at in reversed(order)}
    chosen = [*first.values(), *(at for at in order if at not in first.values())][:shown]
    sheet = []
    for at in chosen:
        film = Film(at, films[at].read(), "", "")
        sheet.append(SheetFilm.of(films[at].image.stem, film.gray(), proposer.propose(film)))
    problems = Counter(reason for film in sheet for reason in film.regions.problems)
    return ContactSheet(
        name="real films",
        sources=config.sources,
        description=describe_sources(config),
        cohort_films=len(films),
        films=tuple(sheet),
        skipped={},
        problems=problems,
    )


def count_false(segmenter: Segmenter, films: Sequence[BoxedFilm], progress: Progress) -> list[Row]:
    """Count what is found on films without anything made by man but letters, which do not count."""
    clean = [film for film in films if film.clean]
    kinds: Counter[str] = Counter()
    for number, film in enumerate(clean):
        seen = read_structures(segmenter, film.read()).artifacts
        kinds.update(one.kind for one in seen if group_of(one.kind) not in ("letters", "border"))
        progress("clean films", number + 1, len(clean))
    return [
        {
            "films": len(clean),
            "patients": len({film.patient for film in clean}),
            "objects": kinds.total() / len(clean),
            "names": sum(n for kind, n in kinds.items() if kind not in ANY) / len(clean),
            "by_kind": {kind: round(n / len(clean), 2) for kind, n in kinds.most_common()},
        }
    ]


def measure_painted(
    segmenter: Segmenter, films: Sequence[BoxedFilm], times: int, progress: Progress
) -> list[Row]:
    """Paint things on clean real films and count what is right, foreign, wrong or not found."""
    clean = [film for film in films if film.clean]
    rng = np.random.default_rng(_PAINTED_SEED)
    rows: list[Row] = []
    for thing in THINGS:
        outcomes: Counter[str] = Counter()
        called: Counter[str] = Counter()
        for number in range(times):
            pixels = clean[number % len(clean)].read()
            kind, mask = paint_thing(pixels, thing, rng)
            artifacts = [
                one
                for one in read_structures(segmenter, pixels).artifacts
                if one.kind != "border" and _lies_on(one.box, mask)
            ]
            outcomes[_outcome(artifacts, kind)] += 1
            called.update({one.name for one in artifacts})
            progress(thing, number + 1, times)
        rows.append(
            {
                "thing": thing,
                "films": times,
                "found": (outcomes["right"] + outcomes["foreign"]) / times,
                **{what: outcomes[what] / times for what in ("right", "wrong", "not_found")},
                "called": dict(called.most_common()),
            }
        )
    return rows


def _outcome(artifacts: Sequence[Artifact], kind: str) -> str:
    """Say what the artifacts on a painted thing are: the best that one of them is called.

    Letters of no sure kind are called a marker or another foreign object, which any thing is.
    """
    if any(one.kind == kind and one.sure for one in artifacts):
        return "right"
    if any(one.kind in ANY or not one.sure for one in artifacts):
        return "foreign"
    return "wrong" if any(group_of(one.kind) != "line" for one in artifacts) else "not_found"


def _lies_on(box: tuple[float, float, float, float], mask: NDArray[np.bool_]) -> bool:
    """Return whether a part of a thing lies in a box, or half of the box is the thing's."""
    height, width = mask.shape
    x0, y0, x1, y1 = (
        round(edge * side) for edge, side in zip(box, (width, height) * 2, strict=True)
    )
    part = mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return bool(part.mean() >= 0.15) if part.size else False


def measure_speed(segmenter: Segmenter, side: int, runs: int, progress: Progress) -> list[Row]:
    """Time the regions of one film, and the search for text on a small one; one thread, medians."""
    plan = plan_cohort(40, "generator", "cardiomegaly", 0.0, 0)[0]
    phantom = render_film(replace(plan, features=FEATURES), seed=0, size=side)
    film = np.ascontiguousarray(phantom.pixels[:side, :side])
    gray = np.rint(255.0 * film[: side // 2, : side // 2]).astype(np.uint8)
    search = open_text_search((), RegionsConfig())
    work: list[tuple[str, int, Callable[[], object]]] = [
        ("all regions", side, lambda: read_structures(segmenter, film)),
        (f"burned-in text ({search.method})", side // 2, lambda: search.find(gray)),
    ]
    threads = torch.get_num_threads()
    rows: list[Row] = []
    try:
        torch.set_num_threads(1)
        for what, pixels, do in work:
            seconds = []
            for run in range(runs + 1):
                start = time.perf_counter()
                do()
                seconds.append(time.perf_counter() - start)
                progress(what, run, runs)
            median = float(np.median(seconds[1:]))
            rows.append({"what": what, "side": pixels, "seconds": median, "runs": runs})
    finally:
        torch.set_num_threads(threads)
    return rows


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


def _boxed(setup: Setup) -> list[BoxedFilm]:
    return read_boxed_films(setup.files["objects"], "test")


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
_FOUND_BOXES = Table(
    Column("boxed", lambda row: _GROUPS[row["group"]]),
    Column("boxes", "{boxes}"),
    Target("share", lambda row: _BOXES_FOUND[row["group"]], "{limit:.0%}", least=True).beside(
        "reached (95 %, by patient)",
        lambda row: _share(row["share"], row["interval"]),
        "target: found",
    ),
    Column("by what was drawn", lambda row: ", ".join(f"{k} {v}" for k, v in row["words"].items())),
)
_NAMES = Table(
    Column("called", "{called}"),
    Column("right", "{right} of {named}"),
    Target("share", _NAMES_RIGHT, "{limit:.0%}", least=True).beside(
        "reached (95 %, by patient)",
        lambda row: _share(row["share"], row["interval"]),
        "target: right",
    ),
)
_CLEAN = Table(
    Column("films (patients)", "{films} ({patients})"),
    Target("objects", _FALSE).beside("reached", "{objects:.2f}", "target: objects a film, mean"),
    Target("names", _FALSE_NAMES).beside("reached", "{names:.2f}", "target: named ones"),
    Column(
        "by kind, mean",
        lambda row: (
            ", ".join(f"{ARTIFACT_NAMES[k]} {v:.2f}" for k, v in row["by_kind"].items()) or "–"
        ),
    ),
)
_PAINTED = Table(
    Column("painted", "{thing}"),
    Column("films", "{films}"),
    Target("found", _PAINTED_RIGHT, "{limit:.0%}", least=True).beside(
        "reached", "{found:.0%}", "target: right name or foreign object"
    ),
    Target("wrong", _PAINTED_WRONG, "{limit:.0%}").beside(
        "reached", "{wrong:.0%}", "target: wrong name"
    ),
    Column("right name", "{right:.0%}"),
    Column("not found", "{not_found:.0%}"),
    Column("called", lambda row: ", ".join(f"{name} {n}" for name, n in row["called"].items())),
)


def _share(share: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{share:.0%} ({low:.0%} to {high:.0%})"


_SPEED = Table(
    Column("what", "{what}"),
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
            "found counts as 0. None of these films was trained on.",
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
            "found",
            "Boxes of man-made objects on real films, the test part",
            "Films of NIH ChestX-ray14 whose objects were boxed by eye, of patients that no "
            "network and no threshold has seen. Found: an artifact shares half of the smaller box; "
            "of a line: it is followed along half of its box.",
            [_FOUND_BOXES],
            lambda setup: measure_found(built_in_segmenter(), _boxed(setup), setup.progress),
            files={"objects": "DIR"},
        ),
        Part(
            "names",
            "Names on the same films",
            "An artifact without a box is wrong; a line without one is left out, since boxes do "
            "not follow every strand.",
            [_NAMES],
            lambda setup: measure_names(built_in_segmenter(), _boxed(setup), setup.progress),
            files={"objects": "DIR"},
        ),
        Part(
            "false",
            "What is found where nothing is, on real films of the test part",
            "Films without anything made by man, after a second look; letters do not count.",
            [_CLEAN],
            lambda setup: count_false(built_in_segmenter(), _boxed(setup), setup.progress),
            files={"objects": "DIR"},
        ),
        Part(
            "painted",
            "Things painted on clean real films of the test part",
            "Of a seed that no training film has.",
            [_PAINTED],
            lambda setup: measure_painted(
                built_in_segmenter(), _boxed(setup), setup.size("painted"), setup.progress
            ),
            {"painted": 60},
            files={"objects": "DIR"},
        ),
        Part(
            "speed",
            "Regions and burned-in text of one film, on one thread",
            "Text is looked for on the films that a report shows alone, on all cores, once a film.",
            [_SPEED],
            lambda setup: measure_speed(built_in_segmenter(), _SIDE, _RUNS, setup.progress),
        ),
    ),
)
