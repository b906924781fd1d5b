"""``intake.csv``: what became of every film, a line each; paths stay in the private folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from ravl_med.cohort.manifest import Cohort
from ravl_med.reporting.files.run_folder import write_owner_only

__all__ = ["INTAKE", "write_intake", "write_rejected_paths"]

INTAKE = "intake.csv"
READ = "read"


def write_intake(
    path: Path, cohort: Cohort, image_ids: Sequence[str], applied: Sequence[str]
) -> None:
    """Write a line for each film that was read or set aside, in the order of the manifest.

    Columns: ``row`` of the manifest, ``image_id`` (blank where there are no pixels to make a
    pseudonym of), ``reason`` (``read``, or the code of the refusal) and ``message`` (the steps that
    made the pixels, or why there are none).

    Parameters
    ----------
    path : Path - of the file to write
    cohort : Cohort - the audited films, and those that were set aside
    image_ids : sequence of str, length N - pseudonyms
    applied : sequence of str, length N - how stored values became pixels
    """
    lines = [
        (int(row), name, READ, steps)
        for row, name, steps in zip(cohort.rows, image_ids, applied, strict=True)
    ]
    lines += [
        (film.row, "", film.reason, film.message.removeprefix(f"{cohort.name} row {film.row}: "))
        for film in cohort.rejected
    ]
    path.write_text(
        _table(("row", "image_id", "reason", "message"), sorted(lines)), encoding="utf-8"
    )


def write_rejected_paths(path: Path, cohort: Cohort) -> None:
    """Write rows and paths of the films that were set aside, for the owner alone."""
    rows = [(film.row, str(film.path)) for film in cohort.rejected if film.path is not None]
    write_owner_only(path, _table(("row", "path"), rows))


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()
