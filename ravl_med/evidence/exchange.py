"""Exchange of whole patients: the permutation test behind every p-value.

Films of one patient are not exchangeable, patients with equally many films are. Within a class and
a number of films, the patients swap what they show (does each film hold the feature?) while what
the model made of their films stays. With one film a patient the number of hits among films with
the feature is hypergeometric and the test is exact; otherwise tables with the same margins are
drawn.

References
----------
Patefield, "Algorithm AS 159: an efficient method of generating random R x C tables with given row
and column totals", Applied Statistics 30 (1981).
Phipson, Smyth, "Permutation p-values should never be zero", Statistical Applications in Genetics
and Molecular Biology 9 (2010).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["ExchangeTest", "exchange_patients", "one_film_a_patient"]

Alternative = Literal["greater", "less", "two-sided"]

_CELLS_AT_ONCE = 4_000_000
_BITS = 62  # films of a patient that fit into one number


@dataclass(frozen=True, slots=True)
class ExchangeTest:
    """Outcome of a test.

    Attributes
    ----------
    p_value : float - 1 where nothing can be exchanged
    exact : bool - from the hypergeometric distribution and not from draws
    """

    p_value: float
    exact: bool


def one_film_a_patient(patients: NDArray[np.int64]) -> bool:
    """Tell whether no patient has two films here."""
    return len(np.unique(patients)) == len(patients)


def exchange_patients(
    present: NDArray[np.bool_],
    correct: NDArray[np.bool_],
    patients: NDArray[np.int64],
    *,
    alternative: Alternative,
    draws: int,
    seed: int | tuple[int, ...],
    strata: NDArray[np.int64] | None = None,
) -> ExchangeTest:
    """Test whether films with a feature are right more (or less) often than films without.

    Parameters
    ----------
    present : ndarray of shape (n,), bool - film holds the feature
    correct : ndarray of shape (n,), bool - the prediction is right
    patients : ndarray of shape (n,), int64
    alternative : {"greater", "less", "two-sided"} - hits among films with the feature
    draws : int - random tables where the test is not exact
    seed : int or tuple of int
    strata : ndarray of shape (n,), int64, optional - class of each film; patients are exchanged
        within a class only. Default: one class.

    Returns
    -------
    ExchangeTest
    """
    if (
        len(present) == 0
        or present.all()
        or not present.any()
        or correct.all()
        or not correct.any()
    ):
        return ExchangeTest(1.0, True)
    group = np.zeros(len(present), np.int64) if strata is None else strata
    observed = int((present & correct).sum())
    if len(np.unique(group)) == 1 and one_film_a_patient(patients):
        table = stats.hypergeom(len(present), int(correct.sum()), int(present.sum()))
        return ExchangeTest(
            _p_value(float(table.sf(observed - 1)), float(table.cdf(observed)), alternative),
            True,
        )
    rng = np.random.default_rng(seed)
    drawn = np.zeros(draws, dtype=np.int64)
    for block_present, block_correct in _exchangeable(present, correct, patients, group):
        drawn += _draw_hits(block_present, block_correct, draws, rng)
    upper = (1 + int((drawn >= observed).sum())) / (draws + 1)
    lower = (1 + int((drawn <= observed).sum())) / (draws + 1)
    return ExchangeTest(_p_value(upper, lower, alternative), False)


def _p_value(upper: float, lower: float, alternative: Alternative) -> float:
    if alternative == "greater":
        return min(1.0, upper)
    if alternative == "less":
        return min(1.0, lower)
    return min(1.0, 2.0 * min(upper, lower))


def _exchangeable(
    present: NDArray[np.bool_],
    correct: NDArray[np.bool_],
    patients: NDArray[np.int64],
    strata: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Films of patients with equally many films in a stratum, as (patients, films) arrays."""
    order = np.lexsort((patients, strata))
    key = np.column_stack([strata[order], patients[order]])
    starts = np.flatnonzero(np.r_[True, (key[1:] != key[:-1]).any(axis=1)])
    counts = np.diff(np.r_[starts, len(order)])
    kinds = np.column_stack([key[starts, 0], counts])
    for stratum, count in np.unique(kinds, axis=0):
        chosen = starts[(kinds[:, 0] == stratum) & (counts == count)]
        films = order[chosen[:, None] + np.arange(count)]
        yield present[films], correct[films]


def _draw_hits(
    present: NDArray[np.bool_],
    correct: NDArray[np.bool_],
    draws: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw the hits among films with the feature when m patients of f films swap theirs."""
    patients, films = present.shape
    if films == 1:
        hits, marked = int(correct.sum()), int(present.sum())
        drawn: NDArray[np.int64] = rng.hypergeometric(hits, patients - hits, marked, size=draws)
        return drawn
    shown, shown_counts = _patterns(present)
    made, made_counts = _patterns(correct)
    worth = shown.astype(np.int64) @ made.T.astype(np.int64)  # hits of each pair of patterns
    if len(shown) == 1 or len(made) == 1:  # nothing changes by a swap
        return np.full(draws, int(shown_counts @ worth @ made_counts) // patients, dtype=np.int64)
    tables = stats.random_table(shown_counts, made_counts)
    block = max(1, _CELLS_AT_ONCE // worth.size)
    parts = [
        np.einsum(
            "dij,ij->d",
            tables.rvs(size=min(block, draws - start), random_state=rng).astype(np.int64),
            worth,
        )
        for start in range(0, draws, block)
    ]
    return np.concatenate(parts)


def _patterns(flags: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return the distinct rows of (m, f) flags and how often each occurs."""
    films = flags.shape[1]
    if films > _BITS:
        rows, counts = np.unique(flags, axis=0, return_counts=True)
        return rows, counts.astype(np.int64)
    codes = flags @ (1 << np.arange(films, dtype=np.int64))
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    return flags[first], counts.astype(np.int64)
