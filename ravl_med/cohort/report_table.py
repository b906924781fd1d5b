"""Tables (CSV) beside films: reports, findings, and what a header says of a DICOM film.

A column names the film or the examination; which other columns say what is found by their names and
their cells.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ravl_med.errors import ConfigError
from ravl_med.storage.bounded_reading import read_csv

_WORDS = {
    **dict.fromkeys(("yes", "y", "true", "positive", "pos", "present"), "1"),
    **dict.fromkeys(("no", "n", "false", "negative", "neg", "absent"), "0"),
    **dict.fromkeys(("uncertain", "possible", "equivocal"), "-1"),
    **dict.fromkeys(("unknown", "not stated", "n/a", ""), ""),
}
"""Cells of a label column in words; a manifest has 1, 0 and -1."""
_NO_FINDINGS = frozenset({"portable", "split"})

LABEL_CELLS = {"1": "1", "1.0": "1", "0": "0", "0.0": "0", "-1": "-1", "-1.0": "-1", "": ""}
"""How a finding's cells may be written, and how a manifest writes them."""
MEANINGS = (LABEL_CELLS, _WORDS)
"""How the cells of a column of labels may be written, in small letters."""

_FILES = (
    "image", "image_id", "image_index", "dicom_id", "file", "filename", "file_name", "path",
)  # fmt: skip
_KEYS = (
    "accession", "accession_number", "accessionnumber", "study", "study_id", "study_uid",
    "studyinstanceuid", "study_instance_uid", "sopinstanceuid", "sop_instance_uid", "uid", *_FILES,
)  # fmt: skip
_STATED = {
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id"),
    "view": ("view", "view_position", "viewposition", "ap/pa", "frontal/lateral"),
    "sex": ("sex", "gender", "patient_sex", "patient_gender"),
    "age": ("age", "patient_age"),
    "site": ("site", "institution", "hospital"),
}
"""Columns that say what a header says of a DICOM film; of several the first that is not blank."""
_CATEGORIES = ("finding", "findings", "finding_labels", "label", "labels", "diagnosis", "class")
_MOST_CATEGORIES, _LONGEST_CATEGORY = 60, 60
_TEXTS = ("report", "report_text", "radiology_report", "text", "findings", "impression")
_LARGEST = 200_000_000  # bytes of a table


@dataclass(frozen=True, slots=True)
class FilmReport:
    """The report of one film, and the findings that a table states for it."""

    text: str = ""  # blank where the report is a file, or there is none
    path: Path | None = None  # of a text file
    source: str = ""  # "structured report", "text file", "table" or blank
    findings: Mapping[str, str] = field(default_factory=dict)  # cells 1, 0, -1 or blank of a table
    stated: Mapping[str, str] = field(default_factory=dict)  # of a table, by the names of `_STATED`

    def beside(self, other: FilmReport) -> FilmReport:
        """Return it with what another table says of the same film."""
        worded = self if self.text else other
        findings = {**other.findings, **self.findings}
        stated = {**other.stated, **{name: text for name, text in self.stated.items() if text}}
        return FilmReport(worded.text, None, worded.source, findings, stated)


def read_report_table(path: Path) -> tuple[dict[str, FilmReport], tuple[str, ...]]:
    """Read a CSV of reports or findings.

    Returns
    -------
    rows : dict of key to FilmReport - empty where the table has no column of keys, or says nothing
        of films; a path counts by its ends, as far as they name one file, each after a slash
    findings : tuple of str - columns whose cells are 1, 0, -1 or blank, or yes, no and the like;
        and the categories in a column such as finding or label

    Raises
    ------
    ConfigError
        There is no such file.
    DataError
        It is no CSV. The message does not name it.
    """
    lines = _lines(path)
    if not lines:
        return {}, ()
    table = _Columns.of(lines)
    rows: dict[str, FilmReport] = {}
    files: list[tuple[str, FilmReport]] = []
    useful = any((table.texts, table.findings, table.categories, *table.stated.values()))
    for line in lines[1:] if useful else ():
        cells = [cell.strip() for cell in line] + [""] * (len(lines[0]) - len(line))
        found = table.report(cells)
        for key in filter(None, (cells[at] for at in table.keys)):
            rows.setdefault(key, found)
        files += [(cells[at].replace("\\", "/").strip("/"), found) for at in table.files]
    rows = {**_by_ends(files), **rows}
    return rows, table.labels if rows else ()


def _by_ends(files: Iterable[tuple[str, FilmReport]]) -> dict[str, FilmReport]:
    """Return rows by the ends of their files' paths, as far as an end is that of one file."""
    found: dict[str, tuple[str, FilmReport]] = {}
    for file, row in files:
        parts = file.split("/")
        for start in range(len(parts) if file else 0):
            end = "/".join(parts[start:])
            if found.setdefault(end, (file, row))[0] != file:
                found[end] = ("", row)
    return {f"/{end}": row for end, (file, row) in found.items() if file}


@dataclass(frozen=True, slots=True)
class _Columns:
    """What the columns of a table hold, by their places."""

    header: tuple[str, ...]
    keys: tuple[int, ...]  # that name an examination
    files: tuple[int, ...]  # that name a file
    texts: tuple[int, ...]
    findings: Mapping[int, Mapping[str, str]]  # cell to 1, 0, -1 or blank
    categories: Mapping[int, tuple[str, ...]]
    stated: Mapping[str, tuple[int, ...]]  # by the names of `_STATED`

    @classmethod
    def of(cls, lines: Sequence[Sequence[str]]) -> _Columns:
        header = tuple(cell.strip() for cell in lines[0])
        lower = [name.lower().replace(" ", "_") for name in header]
        cells = [[line[at].strip() if at < len(line) else "" for line in lines[1:]]
                 for at in range(len(header))]  # fmt: skip
        stated = {
            name: tuple(lower.index(column) for column in columns if column in lower)
            for name, columns in _STATED.items()
        }
        keys = {at for at, name in enumerate(lower) if name in _KEYS}
        categories = {
            at: names
            for at, name in enumerate(lower)
            if name in _CATEGORIES and (names := _categories(cells[at]))
        }
        texts = [at for at, n in enumerate(lower) if n in _TEXTS and at not in categories]
        taken = {*keys, *texts, *categories, *(at for places in stated.values() for at in places)}
        findings = {
            at: meaning
            for at, name in enumerate(lower)
            if name and at not in taken and name not in _NO_FINDINGS
            if (meaning := meaning_of(cells[at]))
        }
        files = tuple(at for at in sorted(keys) if lower[at] in _FILES)
        examinations = tuple(sorted(keys.difference(files)))
        return cls(header, examinations, files, tuple(texts), findings, categories, stated)

    @property
    def labels(self) -> tuple[str, ...]:
        names = [name for own in self.categories.values() for name in own]
        return tuple(dict.fromkeys((*(self.header[at] for at in self.findings), *names)))

    def report(self, cells: Sequence[str]) -> FilmReport:
        """Return what a row says of its film."""
        text = _joined(self.header, cells, self.texts)
        labels = {self.header[at]: known[cells[at].lower()] for at, known in self.findings.items()}
        for at, names in self.categories.items():
            own = _split(cells[at])
            labels |= {name: ("1" if name in own else "0") if own else "" for name in names}
        stated = {
            name: next((cells[at] for at in places if cells[at]), "")
            for name, places in self.stated.items()
        }
        return FilmReport(text, None, "table" if text else "", labels, stated)


def _categories(cells: Sequence[str]) -> tuple[str, ...]:
    """Return the categories that a column sorts films into; empty for any other column."""
    counts = Counter(name for cell in cells for name in _split(cell))
    plain = all(len(name) <= _LONGEST_CATEGORY and "." not in name for name in counts)
    few = 2 <= len(counts) <= min(_MOST_CATEGORIES, counts.total() // 2)
    words = {name.lower() for name in counts} - LABEL_CELLS.keys() - _WORDS.keys()
    return tuple(name for name, _ in counts.most_common()) if plain and few and words else ()


def _split(cell: str) -> list[str]:
    """Return the categories in a cell, as ChestX-ray14 writes them: Edema|Effusion."""
    return [part.strip() for part in re.split(r"[|;,]", cell) if part.strip()]


def _lines(path: Path) -> list[list[str]]:
    try:
        return [line for line in read_csv(path, _LARGEST, "a table")[1] if any(line)]
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"--reports {path.name[:80]}: no such file.") from None


def meaning_of(cells: Iterable[str]) -> Mapping[str, str]:
    """Return what the cells of a column mean, in small letters; empty if they are no labels.

    They are labels where they are 1, 0, -1 or blank, or yes, no and the like, and one is present.
    """
    found = {cell.lower() for cell in cells}
    for meaning in MEANINGS:
        if found <= meaning.keys() and "1" in {meaning[cell] for cell in found}:
            return meaning
    return {}


def _joined(header: Sequence[str], cells: Sequence[str], texts: Sequence[int]) -> str:
    """Join the report columns of a row; findings and impression keep their headings."""
    parts = [
        f"{header[at].upper()}: {cells[at]}" if len(texts) > 1 else cells[at]
        for at in texts
        if cells[at]
    ]
    return "\n".join(parts)
