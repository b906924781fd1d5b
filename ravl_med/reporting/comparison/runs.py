"""A run folder as a comparison reads it: what the audit found, what the model said of each film.

The verdict and the reviewers' decisions are those of the report in the folder, so that a comparison
never says something else of a run than its own report. Both models are measured alike, on the films
that the runs share.

References
----------
McNemar, "Note on the sampling error of the difference between correlated proportions or
percentages", Psychometrika 12 (1947). With one film a patient `swap_test` is its exact form.
"""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError
from ruamel.yaml.error import YAMLError
from scipy import stats
from typing_extensions import TypedDict

from ravl_med.errors import DataError
from ravl_med.evidence.audit_result import AuditResult, VerdictName
from ravl_med.evidence.disclosure_control import HIDDEN, hidden_cells, hide_small_cells
from ravl_med.evidence.results import UNKNOWN, Decision, Interval
from ravl_med.evidence.statistics import PatientBootstrap, count_patients, percentile_interval
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.files.run_folder import Strangers, find_strangers
from ravl_med.reporting.files.saved_run import read_patients, read_run
from ravl_med.reporting.layout.blocks import Status
from ravl_med.storage.bounded_reading import parse_yaml, read_regular
from ravl_med.storage.documents import Count, result_type

FilmKey = tuple[str, int]
"""Pseudonym of a film, and which of several films of the same pixels it is."""


_Ruling = TypedDict(  # noqa: UP013 - a class would have to use the file's name as its own
    "_Ruling", {"rank": int, "word": Decision, "until": str, "in_force": bool}
)
"""A decision of a reviewer, by the names of ``result.json``."""


@dataclass(frozen=True, slots=True)
class ReviewedOutcome:
    """What the report of a run says after any review."""

    verdict: VerdictName
    undecided: int | None
    rulings: tuple[_Ruling, ...]


_REVIEWED = TypeAdapter(ReviewedOutcome)


@dataclass(frozen=True, slots=True, eq=False)
class ComparedRun:
    """A finished audit, film by film.

    Attributes
    ----------
    result : AuditResult - before any review of this run, counts of few patients hidden
    reviewed : ReviewedOutcome - as ``result.json`` has it
    config : mapping of key, in dots, to value - the effective config, without paths
    labels : ndarray of shape (N,), int64 - class of each film, in the order of the task
    predictions : ndarray of shape (N,), int64 - class with the highest score
    patients : ndarray of shape (N,), int64
    """

    result: AuditResult
    details: ReportDetails
    reviewed: ReviewedOutcome
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
        return {one["rank"]: one["word"] for one in self.reviewed.rulings if one["in_force"]}


@result_type()
class RunFacts:
    """One of the two runs."""

    name: str = Field(description="of the run")
    title: str = Field(description="of its report")
    date: str | None = Field(description="of the run")
    model: str = Field(description="as its config calls it")
    model_digest: str = Field(description="SHA-256 over everything that was loaded")
    cohort_digest: str = Field(description="SHA-256 over the audited films and their labels")
    config_digest: str = Field(description="SHA-256 over the effective config")
    films: Count = Field(description="that were audited")
    patients: Count = Field(description="that they belong to")
    synthetic: bool = Field(description="phantoms only, no patient")
    verdict: VerdictName = Field(description="as its own report has it, after any review")
    until: str = Field(description="last day of the first acceptance to end; blank without any")
    status: Status = Field(description="FINAL: reviewers have decided on all that asks for one")
    searched: bool = Field(description="the audit got as far as the search for correlations")
    candidates: int = Field(description="feature clusters that went on to the test")
    confirmed: int = Field(description="those among them that hold on held-out patients")
    counting: int = Field(description="those that decide its verdict")


@result_type()
class Setting:
    """A config key, or a version, that is not the same in both."""

    key: str = Field(description="in dots; or 'version of' a package")
    a: str = Field(description="text, or JSON; 'not set' for none")
    b: str = Field(description="the same in B")


def open_run(folder: Path, argument: str) -> ComparedRun:
    """Read the run folder of an audit; the argument is its name on the command line, as RUN_A.

    Raises
    ------
    ConfigError
        There is no run of an audit.
    DataError
        A file of it is missing, damaged, or of another run.
    """
    try:
        saved = read_run(folder, argument)
        if "result.json" in (find_strangers(folder) or Strangers()).changed:
            raise DataError(
                "result.json changed since the run wrote it; expected it as it was. Draw the "
                "report again (ravl-med report), or audit again."
            )
        result = hide_small_cells(saved.result, saved.min_cell)
        labels, predictions = _answers(folder / "predictions.parquet", result)
        text = read_regular(folder / "result.json", 1 << 30).decode("utf-8")
        return ComparedRun(
            result=result,
            details=saved.details,
            reviewed=_REVIEWED.validate_json(text),
            config=_flat(parse_yaml(saved.details.config_yaml) or {}),
            films=_keys(result.image_ids),
            labels=labels,
            predictions=predictions,
            patients=read_patients(folder, len(result.image_ids)),
        )
    except DataError as error:
        raise DataError(f"{argument}: {error}") from None
    except (ValidationError, YAMLError, ValueError, OSError) as error:
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
        table = parquet.read_table(io.BytesIO(read_regular(path, 1 << 30)))
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
    result, digests = run.result, run.details.digests
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
        verdict=run.reviewed.verdict,
        until=min(
            (r["until"] for r in run.reviewed.rulings if r["in_force"] and r["word"] == "accepted"),
            default="",
        ),
        status="FINAL" if run.reviewed.undecided == 0 else "DRAFT",
        searched=result.discovery is not None,
        candidates=0 if result.discovery is None else result.discovery.candidates,
        confirmed=sum(one.confirmation.status == "confirmed" for one in found),
        counting=sum(one.counts for one in found),
    )


def differing_settings(a: ComparedRun, b: ComparedRun) -> tuple[Setting, ...]:
    """Return what was set otherwise, then which versions are others."""
    versions = [
        {f"version of {name}": number for name, number in run.details.versions.items()}
        for run in (a, b)
    ]
    return (*_apart(a.config, b.config), *_apart(*versions))


def _apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Setting]:
    settings = [Setting(key, _value(a, key), _value(b, key)) for key in sorted({*a, *b})]
    return [setting for setting in settings if setting.a != setting.b]


def _value(config: Mapping[str, Any], key: str) -> str:
    value = config.get(key)
    if value is None:
        return "not set"
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


Two = tuple[NDArray[np.float64], NDArray[np.float64]]


@result_type()
class Paired:
    """A measure of both models on the same films."""

    films: Count = Field(description="that it is measured on")
    a: float = Field(description="of the model of A")
    a_interval: Interval
    b: float = Field(description="of the model of B")
    b_interval: Interval
    difference: float = Field(description="b minus a")
    interval: Interval = Field(
        description="[low, high] of the difference, the same draws of patients for both models"
    )


@result_type(members="films same same_share both_right only_a only_b both_wrong")
class Agreement:
    """How often both models are right together; counts of films."""

    films: Count = Field(description="all of them")
    same: Count = Field(description="with the same decision, right or wrong")
    both_right: Count
    only_a: Count = Field(description="A right, B wrong")
    only_b: Count = Field(description="B right, A wrong")
    both_wrong: Count

    @property
    def same_share(self) -> float:
        """The same as a share."""
        return self.same / self.films if self.films > 0 and self.same >= 0 else math.nan


HIDDEN_PAIR = Paired(HIDDEN, math.nan, UNKNOWN, math.nan, UNKNOWN, math.nan, UNKNOWN)
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
        """Measure the accuracy in each of M arms, (n, M)."""
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
            return Paired(films, a, UNKNOWN, b, UNKNOWN, b - a, UNKNOWN)
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
    the patient together; the distribution over all exchanges is computed whole, not drawn. Whether
    each is right is (N,), the patients are (N,). Returns the exact two-sided p; 1 where both are
    right on equally many films.
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
