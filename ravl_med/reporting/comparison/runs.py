"""A run folder as a comparison reads it: what the audit found, what the model said of each film.

The verdict and the reviewers' decisions are those of the report in the folder, so that a comparison
never says something else of a run than its own report.

The films that two runs share, and what both models do on them, measured alike.

References
----------
McNemar, "Note on the sampling error of the difference between correlated proportions or
percentages", Psychometrika 12 (1947). With one film a patient `swap_test` is its exact form.
"""

from __future__ import annotations

import json
import math
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
from scipy import stats

from ravl_med.errors import DataError
from ravl_med.evidence.audit_result import AuditResult, VerdictName
from ravl_med.evidence.disclosure_control import HIDDEN, hidden_cells, hide_small_cells
from ravl_med.evidence.results import Interval
from ravl_med.evidence.statistics import PatientBootstrap, count_patients, percentile_interval
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.files.result_json import ResultDocument
from ravl_med.reporting.files.saved_run import read_patients, read_run
from ravl_med.reporting.layout.blocks import Status

FilmKey = tuple[str, int]
"""Pseudonym of a film, and which of several films of the same pixels it is."""


@dataclass(frozen=True, slots=True, eq=False)
class ComparedRun:
    """A finished audit, film by film.

    Attributes
    ----------
    result : AuditResult - before any review of this run, counts of few patients hidden
    document : ResultDocument - ``result.json``, with the verdict after a review
    config : mapping of key, in dots, to value - the effective config, without paths
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
    films, patients : int - audited
    synthetic : bool - phantoms only
    verdict : {"fail", "review", "pass", "not_auditable"} - as its own report has it
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


NOTHING = Interval(float("nan"), float("nan"))
_NAN = float("nan")

Two = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Paired:
    """A measure of both models on the same films.

    Attributes
    ----------
    films : int - that it is measured on; -1 where that may not be told, and nothing of them
    a, b : float - NaN where nothing could be measured
    a_interval, b_interval : Interval - bootstrap by patient
    difference : float - b minus a
    interval : Interval - of the difference, the same draws for both
    """

    films: int
    a: float
    a_interval: Interval
    b: float
    b_interval: Interval
    difference: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often two models are right together.

    Attributes
    ----------
    films : int - -1 where nothing of them may be told
    same : int - films with the same decision, right or wrong
    both_right, only_a, only_b, both_wrong : int - films; they sum to `films`
    """

    films: int
    same: int
    both_right: int
    only_a: int
    only_b: int
    both_wrong: int

    @property
    def same_share(self) -> float:
        """Share of films with the same decision; NaN without any."""
        return self.same / self.films if self.films > 0 else math.nan


HIDDEN_PAIR = Paired(HIDDEN, _NAN, NOTHING, _NAN, NOTHING, _NAN, NOTHING)
HIDDEN_AGREEMENT = Agreement(*(HIDDEN,) * 6)
"""Of few patients, nothing is told."""


@dataclass(frozen=True, slots=True, eq=False)
class SharedFilms:
    """The n films of both runs that bear the same label.

    Attributes
    ----------
    rows : two ndarrays of shape (n,), int64 - their places in run A and in run B
    labels : ndarray of shape (n,), int64
    predictions : two ndarrays of shape (n,), int64 - class with the highest score, of A and of B
    patients : ndarray of shape (n,), int64 - 0 .. P - 1
    bootstrap : PatientBootstrap - over these films
    least : int - counts of fewer patients are hidden; 0: none is
    """

    classes: tuple[str, ...]
    rows: tuple[NDArray[np.int64], NDArray[np.int64]]
    labels: NDArray[np.int64]
    predictions: tuple[NDArray[np.int64], NDArray[np.int64]]
    patients: NDArray[np.int64]
    bootstrap: PatientBootstrap
    confidence: float
    least: int = 0

    @property
    def count(self) -> int:
        """Number of films."""
        return len(self.labels)

    @property
    def correct(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether each model is right on each film."""
        in_a, in_b = self.predictions
        return in_a == self.labels, in_b == self.labels

    @property
    def same(self) -> NDArray[np.bool_]:
        """Whether both models decide alike, rightly or wrongly."""
        alike: NDArray[np.bool_] = self.predictions[0] == self.predictions[1]
        return alike

    def drawn(self, member: NDArray[np.bool_]) -> Two:
        """Draw the accuracy of both models in each of M arms (n, M), as (draws, M) each."""
        in_a, in_b = (self.bootstrap.proportions(member, right) for right in self.correct)
        return in_a, in_b

    def shares(self, member: NDArray[np.bool_]) -> tuple[Paired, ...]:
        """Measure the accuracy in each of M arms.

        Parameters
        ----------
        member : ndarray of shape (n, M), bool
        """
        draws_a, draws_b = self.drawn(member)
        in_a, in_b = self.accuracies(member)
        return tuple(
            self.paired(float(in_a[m]), float(in_b[m]), draws_a[:, m], draws_b[:, m], films)
            for m, films in enumerate(member.sum(axis=0).tolist())
        )

    def accuracies(self, member: NDArray[np.bool_]) -> Two:
        """Return the accuracy of both models in each of M arms, (M,) each; NaN without a film."""
        films = member.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            in_a, in_b = ((member & right[:, None]).sum(axis=0) / films for right in self.correct)
        return in_a, in_b

    def hidden(self, member: NDArray[np.bool_]) -> frozenset[int]:
        """Return which of M groups of films, (n, M), with a known total may not be told of."""
        if not self.least:
            return frozenset()
        return hidden_cells(count_patients(member, self.patients).tolist(), self.least)

    def agreement(self, member: NDArray[np.bool_]) -> Agreement:
        """Count on which of the films `member`, (n,), the two models agree."""
        in_a, in_b = self.correct
        return Agreement(
            films=int(member.sum()),
            same=int((member & self.same).sum()),
            both_right=int((member & in_a & in_b).sum()),
            only_a=int((member & in_a & ~in_b).sum()),
            only_b=int((member & ~in_a & in_b).sum()),
            both_wrong=int((member & ~in_a & ~in_b).sum()),
        )

    def paired(
        self,
        a: float,
        b: float,
        draws_a: NDArray[np.float64],
        draws_b: NDArray[np.float64],
        films: int,
    ) -> Paired:
        """Return two values with the intervals of (B,) draws each; none where one is unknown."""
        if not films or not np.isfinite(a + b):
            return Paired(films, a, NOTHING, b, NOTHING, b - a, NOTHING)
        return Paired(
            films,
            a,
            percentile_interval(draws_a, self.confidence),
            b,
            percentile_interval(draws_b, self.confidence),
            b - a,
            percentile_interval(draws_b - draws_a, self.confidence),
        )


def swap_test(
    right_a: NDArray[np.bool_], right_b: NDArray[np.bool_], patients: NDArray[np.int64]
) -> float:
    """Test whether one of two models is right more often, by exchange of their answers.

    Under the null hypothesis the two models' answers on a patient may be exchanged, all films of
    the patient together; the distribution over all exchanges is computed whole, not drawn.

    Parameters
    ----------
    right_a, right_b : ndarray of shape (N,), bool
    patients : ndarray of shape (N,), int64

    Returns
    -------
    float - exact two-sided p; 1 where both are right on equally many films
    """
    gain = np.bincount(patients, weights=right_b.astype(np.float64) - right_a)
    sums = np.rint(gain).astype(np.int64)
    chances = np.ones(1)  # of each total, from -(len - 1) / 2 on
    for size, count in zip(*np.unique(np.abs(sums[sums != 0]), return_counts=True), strict=True):
        own = np.zeros(2 * size * count + 1)
        own[:: 2 * size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, own)
    totals = np.arange(len(chances)) - len(chances) // 2
    return float(min(chances[np.abs(totals) >= abs(int(sums.sum()))].sum(), 1.0))
