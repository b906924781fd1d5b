"""Two audits side by side: what differs between two models on the same films, and how surely.

Films are the same where their pseudonyms are. Both models are measured on the same films and
resampled with the same draws of patients, so that the interval of a difference knows that they are
alike; two runs that say the same of every film differ by 0 (0 to 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from ravl_med.errors import ConfigError, DataError
from ravl_med.evidence.claims import Interval
from ravl_med.evidence.small_cells import HIDDEN
from ravl_med.evidence.statistics import PatientBootstrap, percentile_interval
from ravl_med.reporting.comparison.compared_correlations import (
    ComparedCorrelation,
    compare_correlations,
)
from ravl_med.reporting.comparison.compared_run import (
    ComparedRun,
    RunFacts,
    Setting,
    facts_of,
    open_run,
    settings_apart,
)
from ravl_med.reporting.comparison.shared_films import (
    HIDDEN_AGREEMENT,
    HIDDEN_PAIR,
    Agreement,
    Paired,
    SharedFilms,
    swap_test,
)
from ravl_med.reporting.layout.blocks import Status

__all__ = ["Comparison", "FilmCounts", "Outcome", "WorstClass", "compare_runs"]

Outcome = Literal["same_decisions", "no_difference_shown", "a_more_accurate", "b_more_accurate"]

_CONFIDENCE = 0.95
_DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class FilmCounts:
    """Which films are compared.

    Attributes
    ----------
    compared, patients : int - films in both runs with the same label, and their patients
    only_a, only_b : int - films of one run alone
    other_label : int - films of both runs that bear another label in B; left out
    joined : int - patients of one run that the other splits, taken as one
    """

    compared: int
    patients: int
    only_a: int
    only_b: int
    other_label: int
    joined: int


@dataclass(frozen=True, slots=True)
class WorstClass:
    """Accuracy on the class that each model does worst on; it need not be the same class."""

    change: Paired
    class_a: str
    class_b: str


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Everything that a comparison says; differences are B minus A.

    Attributes
    ----------
    a, b : RunFacts
    task : str
    classes : tuple of str, length C
    films : FilmCounts
    settings : tuple of Setting - that differ, by key
    overall : Paired - accuracy
    worst : WorstClass
    by_class : tuple of Paired, length C
    agreement : Agreement
    agreement_interval : Interval - of the share with the same decision
    agreement_by_class : tuple of Agreement, length C
    p_value : float - of the difference of accuracy, see `swap_test`
    one_film_a_patient : bool - that test is McNemar's
    correlations : tuple of ComparedCorrelation - those of A by rank, then those of B alone
    confidence : float
    draws, seed : int
    hidden_below : int - counts of fewer patients are hidden, see `small_cells`; 0: none is
    """

    a: RunFacts
    b: RunFacts
    task: str
    classes: tuple[str, ...]
    films: FilmCounts
    settings: tuple[Setting, ...]
    overall: Paired
    worst: WorstClass
    by_class: tuple[Paired, ...]
    agreement: Agreement
    agreement_interval: Interval
    agreement_by_class: tuple[Agreement, ...]
    p_value: float
    one_film_a_patient: bool
    correlations: tuple[ComparedCorrelation, ...]
    confidence: float
    draws: int
    seed: int
    hidden_below: int = 0

    @property
    def outcome(self) -> Outcome:
        """What the interval of the difference of accuracy shows."""
        if self.agreement.same == self.agreement.films:
            return "same_decisions"
        if not self.overall.interval.excludes_zero():
            return "no_difference_shown"
        return "b_more_accurate" if self.overall.difference > 0 else "a_more_accurate"

    @property
    def status(self) -> Status:
        """FINAL where both runs are."""
        return "FINAL" if self.a.status == self.b.status == "FINAL" else "DRAFT"


def compare_runs(folder_a: Path, folder_b: Path) -> Comparison:
    """Compare two run folders of audits.

    Parameters
    ----------
    folder_a, folder_b : Path - of two models on the same films, or of one before and after

    Raises
    ------
    ConfigError
        One is no run of an audit, or they audit different tasks.
    DataError
        A file cannot be used, or the runs have no film in common.
    """
    a, b = open_run(folder_a, "RUN_A"), open_run(folder_b, "RUN_B")
    _refuse_other_task(a, b)
    films, counts = _shared(a, b)
    every = np.ones(films.count, dtype=np.bool_)
    member = np.column_stack([every, films.labels[:, None] == np.arange(len(a.classes))])
    overall, *by_class = films.shares(member)
    few = films.hidden(member[:, 1:])
    by_class = [HIDDEN_PAIR if c in few else paired for c, paired in enumerate(by_class)]
    return Comparison(
        a=facts_of(a),
        b=facts_of(b),
        task=a.result.task.name,
        classes=a.classes,
        films=counts,
        settings=settings_apart(a, b),
        overall=overall,
        worst=_worst(films, member, by_class),
        by_class=tuple(by_class),
        agreement=films.agreement(every),
        agreement_interval=percentile_interval(
            films.bootstrap.proportions(every[:, None], films.same)[:, 0], films.confidence
        ),
        agreement_by_class=tuple(
            HIDDEN_AGREEMENT if c in few else films.agreement(own)
            for c, own in enumerate(member.T[1:])
        ),
        p_value=swap_test(*films.correct, films.patients),
        one_film_a_patient=len(np.unique(films.patients)) == films.count,
        correlations=compare_correlations(a, b, films),
        confidence=films.confidence,
        draws=films.bootstrap.draws,
        seed=films.bootstrap.seed,
        hidden_below=films.least,
    )


def _refuse_other_task(a: ComparedRun, b: ComparedRun) -> None:
    if a.result.task.name != b.result.task.name:
        raise ConfigError(
            f"RUN_B: its task is {b.result.task.name[:40]!r}, that of RUN_A is "
            f"{a.result.task.name[:40]!r}; expected two audits of one task."
        )
    if set(a.classes) != set(b.classes):
        apart = sorted(set(a.classes) ^ set(b.classes))
        raise ConfigError(
            f"RUN_B: its classes are not those of RUN_A ({apart[0][:40]!r} is in one of them "
            "alone); expected two audits of one task."
        )


def _shared(a: ComparedRun, b: ComparedRun) -> tuple[SharedFilms, FilmCounts]:
    """Return the films of both runs, in the order of A and with the classes of A."""
    where = {key: at for at, key in enumerate(b.films)}
    pairs = [(at, where[key]) for at, key in enumerate(a.films) if key in where]
    if not pairs:
        raise DataError(
            "the two runs have no film in common: pseudonyms agree only between audits of the same "
            "films under the same key (the user's key of this tool). Audit both on one machine."
        )
    at_a, at_b = np.array(pairs, dtype=np.int64).T
    to_a = np.array([a.classes.index(name) for name in b.classes])
    alike = a.labels[at_a] == to_a[b.labels[at_b]]
    if not alike.any():
        raise DataError(
            "no film that is in both runs bears the same label in both. Audit both with the same "
            "manifest."
        )
    at_a, at_b = at_a[alike], at_b[alike]
    patients, joined = _patients(a.patients[at_a], b.patients[at_b])
    evidence = [a.config.get("evidence.draws"), b.config.get("evidence.draws")]
    draws = max([n for n in evidence if isinstance(n, int)], default=_DRAWS)
    seed = a.config.get("evidence.seed", 0)
    films = SharedFilms(
        classes=a.classes,
        rows=(at_a, at_b),
        labels=a.labels[at_a],
        predictions=(a.predictions[at_a], to_a[b.predictions[at_b]]),
        patients=patients,
        bootstrap=PatientBootstrap(patients, draws, seed),
        confidence=_CONFIDENCE,
        least=max(a.result.hidden_below, b.result.hidden_below),
    )
    counts = FilmCounts(
        compared=len(at_a),
        patients=HIDDEN if patients.max() + 1 < films.least else int(patients.max()) + 1,
        only_a=len(a.films) - len(pairs),
        only_b=len(b.films) - len(pairs),
        other_label=int((~alike).sum()),
        joined=joined,
    )
    return films, counts


def _patients(of_a: NDArray[np.int64], of_b: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Return patient numbers of (n,) films; two that either run takes for one are one."""
    _, in_a = np.unique(of_a, return_inverse=True)
    _, in_b = np.unique(of_b, return_inverse=True)
    many_a, many_b = int(in_a.max()) + 1, int(in_b.max()) + 1
    links = sparse.coo_matrix(
        (np.ones(len(in_a)), (in_a, many_a + in_b)), shape=(many_a + many_b,) * 2
    )
    count, of = connected_components(links, directed=False)
    _, patients = np.unique(of[in_a], return_inverse=True)
    return patients.astype(np.int64), max(many_a, many_b) - int(count)


def _worst(films: SharedFilms, member: NDArray[np.bool_], by_class: Sequence[Paired]) -> WorstClass:
    """Return the lowest accuracy of a class that has films, for each model its own."""
    known = [c for c, paired in enumerate(by_class) if paired.films > 0]
    if not known:
        return WorstClass(HIDDEN_PAIR, "", "")
    draws_a, draws_b = (draws[:, 1:][:, known].min(axis=1) for draws in films.drawn(member))
    lowest_a = min(known, key=lambda c: by_class[c].a)
    lowest_b = min(known, key=lambda c: by_class[c].b)
    change = films.paired(by_class[lowest_a].a, by_class[lowest_b].b, draws_a, draws_b, films.count)
    return WorstClass(change, films.classes[lowest_a], films.classes[lowest_b])
