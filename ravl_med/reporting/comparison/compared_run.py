"""A run folder as a comparison reads it: what the audit found, what the model said of each film.

The verdict and the reviewers' decisions are those of the report in the folder, so that a comparison
never says something else of a run than its own report.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ravl_med.errors import DataError
from ravl_med.evidence.audit_result import AuditResult, VerdictName
from ravl_med.evidence.small_cells import hide_small_cells
from ravl_med.reporting.audit.details import ReportDetails
from ravl_med.reporting.files.result_json import ResultDocument
from ravl_med.reporting.files.saved_run import read_patients, read_run
from ravl_med.reporting.layout.blocks import Status

__all__ = [
    "ComparedRun",
    "FilmKey",
    "RunFacts",
    "Setting",
    "facts_of",
    "open_run",
    "settings_apart",
]

FilmKey = tuple[str, int]
"""Pseudonym of a film, and which of several films of the same pixels it is."""


@dataclass(frozen=True, slots=True, eq=False)
class ComparedRun:
    """A finished audit, film by film.

    Attributes
    ----------
    result : AuditResult - before any review of this run, counts of few patients hidden
    details : ReportDetails
    document : ResultDocument - ``result.json``, with the verdict after a review
    config : mapping of key, in dots, to value - the effective config, without paths
    films : tuple of FilmKey, length N
    labels : ndarray of shape (N,), int64 - class of each film, in the order of the task
    predictions : ndarray of shape (N,), int64 - class with the highest score
    patients : ndarray of shape (N,), int64
    """

    result: AuditResult
    details: ReportDetails
    document: ResultDocument
    config: Mapping[str, Any]
    films: tuple[FilmKey, ...]
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    patients: NDArray[np.int64]

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the task."""
        return self.result.task.classes

    @property
    def rulings(self) -> dict[int, str]:
        """Decision of a reviewer on a correlation, by rank, where it is in force."""
        return {ruling.rank: ruling.word for ruling in self.document.rulings if ruling.in_force}


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Which run it is, and how it ended.

    Attributes
    ----------
    name, title : str
    date : str or None
    model, model_digest, cohort_digest, config_digest : str
    films, patients : int - audited
    synthetic : bool - phantoms only
    verdict : {"fail", "review", "pass", "not_auditable"} - as its own report has it
    status : {"DRAFT", "FINAL"}
    searched : bool - the audit got as far as the search for correlations
    candidates, confirmed, counting : int - correlations
    """

    name: str
    title: str
    date: str | None
    model: str
    model_digest: str
    cohort_digest: str
    config_digest: str
    films: int
    patients: int
    synthetic: bool
    verdict: VerdictName
    status: Status
    searched: bool
    candidates: int
    confirmed: int
    counting: int


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting, or a version, that is not the same; values as JSON, "not set" for none."""

    key: str
    a: str
    b: str


def open_run(folder: Path, argument: str) -> ComparedRun:
    """Read a run folder.

    Parameters
    ----------
    folder : Path - of an audit, with ``private/``
    argument : str - what the folder is called on the command line, such as RUN_A

    Raises
    ------
    ConfigError
        There is no run of an audit.
    DataError
        A file of it is missing, damaged, or of another run.
    """
    saved = read_run(folder, argument)
    result = hide_small_cells(saved.result, saved.min_cell)
    try:
        labels, predictions = _answers(folder / "predictions.parquet", result)
        text = (folder / "result.json").read_text(encoding="utf-8")
        return ComparedRun(
            result=result,
            details=saved.details,
            document=ResultDocument.model_validate_json(text),
            config=_flat(YAML(typ="safe", pure=True).load(saved.details.config_yaml) or {}),
            films=_keys(result.image_ids),
            labels=labels,
            predictions=predictions,
            patients=read_patients(folder, len(result.image_ids)),
        )
    except DataError as error:
        raise DataError(f"{argument}: {error}") from None
    except (ValidationError, YAMLError, UnicodeDecodeError, OSError) as error:
        raise DataError(
            f"{argument}: result.json or the config cannot be read ({type(error).__name__}); the "
            "folder is damaged or of another version. Audit again."
        ) from None


def _answers(path: Path, result: AuditResult) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return label and prediction of each film, (N,) each."""
    import pyarrow as pa
    from pyarrow import parquet

    classes = result.task.classes
    try:
        table = parquet.read_table(path)
        names = table.column("image_id").to_pylist()
        labels = [classes.index(name) for name in table.column("label").to_pylist()]
        scores = np.array([table.column(f"score:{name}").to_numpy() for name in classes])
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(
            f"predictions.parquet cannot be read ({type(error).__name__}); it is missing, damaged "
            "or of another run. Audit again."
        ) from None
    if names != list(result.image_ids):
        raise DataError("predictions.parquet is of other films than the run. Audit again.")
    return np.array(labels, dtype=np.int64), np.asarray(scores.argmax(axis=0), dtype=np.int64)


def _keys(image_ids: Sequence[str]) -> tuple[FilmKey, ...]:
    """Return pseudonyms, films of the same pixels (and so of one pseudonym) numbered."""
    seen: Counter[str] = Counter()
    keys = []
    for name in image_ids:
        keys.append((name, seen[name]))
        seen[name] += 1
    return tuple(keys)


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by their keys, joined by dots."""
    if not isinstance(value, Mapping) or (key and not value):
        return {key: value}
    leaves: dict[str, Any] = {}
    for name, inner in value.items():
        leaves |= _flat(inner, f"{key}.{name}".strip("."))
    return leaves


def facts_of(run: ComparedRun) -> RunFacts:
    """Say which run it is, and how it ended."""
    result, document, digests = run.result, run.document, run.details.digests
    found = result.correlations
    return RunFacts(
        name=result.name,
        title=result.title,
        date=run.details.date,
        model=result.model.name,
        model_digest=result.model.digest,
        cohort_digest=digests.get("cohort", ""),
        config_digest=digests.get("config", ""),
        films=result.cohort.images,
        patients=result.cohort.patients,
        synthetic=result.cohort.synthetic,
        verdict=document.verdict,
        status="FINAL" if document.undecided == 0 else "DRAFT",
        searched=result.discovery is not None,
        candidates=len(found),
        confirmed=sum(one.confirmation.status == "confirmed" for one in found),
        counting=sum(one.counts for one in found),
    )


def settings_apart(a: ComparedRun, b: ComparedRun) -> tuple[Setting, ...]:
    """Return what was set otherwise, then which versions are others."""
    versions = [
        {f"version of {name}": number for name, number in run.details.versions.items()}
        for run in (a, b)
    ]
    return (*_apart(a.config, b.config), *_apart(*versions))


def _apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Setting]:
    told = [Setting(key, _value(a, key), _value(b, key)) for key in sorted({*a, *b})]
    return [setting for setting in told if setting.a != setting.b]


def _value(config: Mapping[str, Any], key: str) -> str:
    value = config.get(key)
    if value is None:
        return "not set"
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
