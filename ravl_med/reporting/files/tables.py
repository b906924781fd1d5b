"""Tables of a run folder: ``intake.csv``, ``review.csv``, and the features for a mitigation.

``intake.csv`` says what became of every film, a line each; paths stay in the private folder.
``review.csv`` asks a reviewer to decide, row by row. ``private/features.npz`` holds the confirmed
features: medoids are embeddings of regions of the audited films, so it lies with what only its
owner may read. It holds arrays alone; nothing in it is ever unpickled.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.manifest import Cohort
from ravl_med.config.audit import GateConfig
from ravl_med.discovery.candidates import FeatureDetector
from ravl_med.errors import DataError
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.results import ConfirmedFeature, Kind
from ravl_med.evidence.review import bare_id, read_review_rows
from ravl_med.evidence.verdict import points_for_reviewer
from ravl_med.reporting.files.run_folder import write_owner_only
from ravl_med.reporting.wording import KIND_NAMES, printable
from ravl_med.storage.bounded_reading import read_arrays

_KINDS: tuple[Kind, ...] = get_args(Kind)


def write_features(path: Path, features: Sequence[ConfirmedFeature]) -> None:
    """Write features so that only the owner can read them; equal medoids are kept once."""
    medoids: list[NDArray[np.float32]] = []
    table = []
    for feature in features:
        own = feature.detector.medoids
        place = next((i for i, m in enumerate(medoids) if np.array_equal(m, own)), len(medoids))
        if place == len(medoids):
            medoids.append(own)
        lowered = feature.detector.lowered_class
        table.append(
            (
                feature.rank,
                _KINDS.index(feature.kind),
                int(feature.counts),
                place,
                feature.detector.label,
                feature.detector.raised_class,
                -1 if lowered is None else lowered,
                feature.detector.place,
                int(feature.confirmed),
            )
        )
    content = io.BytesIO()
    arrays: Any = {f"medoids_{i}": own for i, own in enumerate(medoids)}
    np.savez(content, table=np.array(table, dtype=np.int64).reshape(-1, 9), **arrays)
    write_owner_only(path, content.getvalue())


def read_features(path: Path) -> tuple[ConfirmedFeature, ...]:
    """Read features that `write_features` has written.

    Raises
    ------
    OSError, ValueError, KeyError
        The file is missing or is not one.
    """
    kept = read_arrays(path)
    return tuple(
        ConfirmedFeature(
            rank=rank,
            kind=_KINDS[kind],
            counts=bool(counts),
            detector=FeatureDetector(
                medoids=kept[f"medoids_{place}"],
                label=label,
                raised_class=raised,
                lowered_class=None if lowered < 0 else lowered,
                place=where,
            ),
            confirmed=all(confirmed),  # of older audits only what was confirmed is kept
        )
        for rank, kind, counts, place, label, raised, lowered, where, *confirmed in kept[
            "table"
        ].tolist()
    )


INTAKE = "intake.csv"
READ = "read"


def write_intake(
    path: Path, cohort: Cohort, image_ids: Sequence[str], applied: Sequence[str]
) -> None:
    """Write a line for each film that was read or set aside, in the order of the manifest.

    Columns: ``row`` of the manifest, ``image_id`` (blank where there are no pixels to make a
    pseudonym of), ``reason`` (``read``, or the code of the refusal) and ``message`` (the steps that
    made the pixels, or why there are none).
    """
    lines = [
        (int(row), name, READ, steps)
        for row, name, steps in zip(cohort.rows, image_ids, applied, strict=True)
    ]
    lines += [
        (film.row, "", film.reason, film.message.removeprefix(f"{cohort.name} row {film.row}: "))
        for film in cohort.rejected
    ]
    text = _table(("row", "image_id", "reason", "message"), sorted(lines))
    path.write_text(text, encoding="utf-8")


def write_rejected_films(path: Path, cohort: Cohort) -> None:
    """Write rows and paths of the films that were set aside, for the owner alone."""
    rows = [(film.row, str(film.path)) for film in cohort.rejected if film.path is not None]
    write_owner_only(path, _table(("row", "path"), rows))


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()


REVIEW = "review.csv"

_COLUMNS = (
    "correlation", "rank", "raised_class", "kind", "description",
    "decision", "until", "reason", "name", "date",
)  # fmt: skip
_DECIDED = ("decision", "until", "reason", "name", "date")

Row = dict[str, str]


def earlier_rows(folder: Path) -> list[Row]:
    """Return the rows that reviewers have filled in, in the review of an earlier run there."""
    try:
        read = [cells for _, cells in read_review_rows(folder / REVIEW)]
    except DataError:
        return []
    rows = [{key: cells.get(key, "") for key in _COLUMNS} for cells in read]
    return [row for row in rows if any(row[key] for key in _DECIDED)]


def write_review(path: Path, result: AuditResult, gate: GateConfig, earlier: list[Row]) -> None:
    """Write the correlations that may be decided on; what was filled in before is kept.

    Rows of an earlier run that fit none of this one follow, without a decision on anything here.
    """
    filled = {row["correlation"]: row for row in earlier}
    rows = []
    for row in review_rows(result, gate):
        before = filled.pop(row["correlation"], {})
        rows.append(row | {key: before.get(key, "") for key in _DECIDED})
    _write_rows(path, rows)
    if filled:
        _write_rows(path.with_name("review.earlier.csv"), filled.values())


def review_rows(result: AuditResult, gate: GateConfig) -> list[Row]:
    """Return a row for each correlation that may be decided on, and nothing decided."""
    return [
        {
            "correlation": one.correlation_id(result),
            "rank": str(one.rank),
            "raised_class": _cell(one.raised_class(result)),
            "kind": KIND_NAMES[one.kind],
            "description": _cell(one.description(result)),
            **dict.fromkeys(_DECIDED, ""),
        }
        for one in points_for_reviewer(result.correlations, gate)
    ]


def run_digest(rows: Sequence[Row]) -> str:
    """Return a digest of the correlations that are decided on, each bound to its regions."""
    return sha256("\n".join(row["correlation"] for row in rows).encode()).hexdigest()[:16]


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.write_text(review_text(rows), encoding="utf-8", newline="")


def review_text(rows: Iterable[Row]) -> str:
    """Return the content of a ``review.csv``; a letter keeps spreadsheets from reading numbers."""
    table = [[_inert(row[key]) for key in _COLUMNS] for row in rows]
    return _table(_COLUMNS, [[f"c-{bare_id(name)}", *rest] for name, *rest in table])


def _inert(text: str) -> str:
    """Return what a reader typed so that no spreadsheet runs it; reading takes the space away."""
    return f" {text}" if text[:1] in ("=", "+", "-", "@") else text


def _cell(text: str) -> str:
    """Return text that a spreadsheet does not take for a formula."""
    plain = printable(text, 200)
    return f"'{plain}" if plain[:1] in ("=", "+", "-", "@") else plain
