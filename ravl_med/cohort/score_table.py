"""Scores of a model that cannot be opened: a CSV with a row a film and a column for each class.

The column ``image`` names films as the manifest does, or by file name alone where that is unique.
Numbers that all lie between 0 and 1 are probabilities; any others are logits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.manifest import Cohort
from ravl_med.errors import ConfigError, DataError
from ravl_med.storage.bounded_reading import read_csv
from ravl_med.storage.remote import FilePath

_KEY = "model.scores"
_IMAGE = "image"
_NAMED = 3

Rows = list[tuple[int, str, list[str]]]


@dataclass(frozen=True, slots=True, eq=False)
class ScoreTable:
    """Scores of a cohort."""

    values: NDArray[np.float32]  # (N, C)
    logits: bool  # else they are probabilities
    digest: str  # SHA-256 of the file


def read_scores(path: Path, cohort: Cohort, *, complete: bool = True) -> ScoreTable:
    """Read the scores of a cohort's films; rows of other films are ignored.

    A film without a row has NaN, or is an error if `complete`.

    Raises
    ------
    ConfigError
        There is no such file.
    DataError
        With one line for each kind of fault: it is no such table, a class has no column, a column
        is no class, a cell is no number, a film occurs twice, or a film has no row.
    """
    content, rows, header = _read(path)
    classes = _class_columns(header, cohort.classes)
    values = np.full((len(cohort), len(classes)), np.nan, dtype=np.float32)
    seen: dict[int, int] = {}
    twice, bad = [], []
    find = _finder(cohort.paths)
    for number, image, cells in rows:
        film = find(image)
        if film is None:
            continue
        if film in seen:
            twice.append(f"row {number} (as row {seen[film]})")
            continue
        seen[film] = number
        for c, column in enumerate(classes):
            value = _number(cells[column])
            if math.isfinite(value):
                values[film, c] = value
            else:
                bad.append(f"row {number}, column {header[column][:40]!r}")
    missing = [f"row {cohort.rows[i]}" for i in range(len(cohort)) if complete and i not in seen]
    faults = list(_faults(cohort, len(seen), twice, bad, missing))
    if faults:
        raise DataError("\n".join(f"{_KEY}: {fault}" for fault in faults))
    known = values[sorted(seen)]
    logits = bool(len(known) and (known.min() < 0 or known.max() > 1))
    return ScoreTable(values, logits, hashlib.sha256(content).hexdigest())


def _read(path: Path) -> tuple[bytes, Rows, list[str]]:
    try:
        content, lines = read_csv(path, 1 << 30, _KEY)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"{_KEY}: {path.name!r} does not exist. Paths are relative to the config file."
        ) from None
    header = [cell.strip() for cell in lines[0]] if lines else []
    if _IMAGE not in header:
        raise DataError(f"{_KEY}: the column 'image' is missing; expected it beside the classes.")
    at = header.index(_IMAGE)
    rows: Rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in line):
            continue
        if len(line) != len(header):
            raise DataError(
                f"{_KEY} row {number}: {len(line)} cells; expected {len(header)}, as the header."
            )
        rows.append((number, line[at].strip(), line))
    return content, rows, header


def _class_columns(header: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return the column of each class."""
    lacking = [name for name in classes if header.count(name) != 1]
    other = [name for name in header if name not in (*classes, _IMAGE)]
    expected = ", ".join(classes)
    if lacking:
        how = "is missing" if lacking[0] not in header else "stands more than once"
        near = f" There is a column {other[0][:40]!r}." if other else ""
        raise DataError(
            f"{_KEY}: the column of class {lacking[0]!r} {how}; expected {expected}.{near}"
        )
    if other:
        raise DataError(
            f"{_KEY}: column {other[0][:40]!r} is no class of the task; expected {expected}."
        )
    return [header.index(name) for name in classes]


def _finder(films: Sequence[FilePath]) -> Callable[[str], int | None]:
    """Return a function that finds a film by the end of its path, or by its name alone."""
    parts = [PurePosixPath(path.as_posix()).parts for path in films]
    by_name: dict[str, list[int]] = {}
    for index, own in enumerate(parts):
        by_name.setdefault(own[-1], []).append(index)

    def find(image: str) -> int | None:
        wanted = PurePosixPath(image.replace("\\", "/")).parts
        near = by_name.get(wanted[-1], []) if wanted else []
        if len(wanted) > 1:  # of another folder it may be another film
            near = [i for i in near if parts[i][-len(wanted) :] == wanted]
        return near[0] if len(near) == 1 else None

    return find


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _faults(
    cohort: Cohort, found: int, twice: list[str], bad: list[str], missing: list[str]
) -> Iterator[str]:
    if not found:
        yield (
            f"none of its images is one of the {len(cohort)} films of {cohort.name}; expected "
            "names as in the manifest, or file names that are unique."
        )
        return
    if bad:
        yield f"{len(bad)} cells hold no finite number ({_first(bad)}); expected one in each."
    if twice:
        yield f"{len(twice)} films stand twice ({_first(twice)}); expected one row a film."
    if missing:
        yield (
            f"{len(missing)} of {len(cohort)} films of {cohort.name} have no row "
            f"({_first(missing)} of the manifest); expected one each."
        )


def _first(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
