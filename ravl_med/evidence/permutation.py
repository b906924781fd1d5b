"""Exchange of whole patients: the permutation test behind every p-value.

Films of one patient are not exchangeable, patients with equally many films are. Within a class and
a number of films, the patients swap what they show (does each film hold the feature?) while what
the model made of their films stays. With one film a patient the number of hits among films with
the feature is hypergeometric and the test is exact; otherwise tables with the same margins are
drawn. Where patients have many films, nearly each shows a pattern of its own, and a table has as
many cells as patients squared; so the patients themselves are shuffled, in the very order in which
the tables would be made.

References
----------
Patefield, "Algorithm AS 159: an efficient method of generating random R x C tables with given row
and column totals", Applied Statistics 30 (1981).
Boyett, "Algorithm AS 144: random R x C tables with given row and column totals", Applied Statistics
28 (1979).
Phipson, Smyth, "Permutation p-values should never be zero", Statistical Applications in Genetics
and Molecular Biology 9 (2010).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Alternative = Literal["greater", "less", "two-sided"]

_CELLS_AT_ONCE = 4_000_000
_SHUFFLED_AT_ONCE = 250_000  # patients whose hits are counted together: they stay in the cache
_BITS = 62  # films of a patient that fit into one number
_TABLE_CELLS, _TABLE_PATIENTS = 240, 0.6  # up to so many cells a table is made, not a shuffle
_FILMS = 2_000  # from which on it is first checked whether any draw can matter
_CERTAIN = 40.0  # natural logarithms of the chance that one does


@dataclass(frozen=True, slots=True)
class ExchangeTest:
    """Outcome of a test."""

    p_value: float  # 1 where nothing can be exchanged
    exact: bool  # from the hypergeometric distribution and not from draws


@dataclass(frozen=True, slots=True, eq=False)
class AlikePatients:
    """Films with those of alike patients side by side: what all tests on the same films share."""

    # (n,) the films by class, number of films of their patient in the class, and patient
    order: NDArray[np.int64]
    groups: tuple[tuple[int, int], ...]  # patients that are alike, and films of each, in this order
    alone: bool  # one class, in which no patient has two films

    @classmethod
    def of(
        cls, patients: NDArray[np.int64], strata: NDArray[np.int64] | None = None
    ) -> AlikePatients:
        """Put films of patients (n,) together; `strata` (n,) are their classes, None: all one."""
        group = np.zeros(len(patients), np.int64) if strata is None else strata
        order = np.lexsort((patients, group))
        ours, theirs = group[order], patients[order]
        new = np.r_[True, (ours[1:] != ours[:-1]) | (theirs[1:] != theirs[:-1])]
        starts = np.flatnonzero(new[: len(order)])
        counts = np.diff(np.r_[starts, len(order)])
        films = np.repeat(counts, counts)
        by_count = np.lexsort((films, ours))  # stable: patients stay in their order
        ours, films = ours[by_count], films[by_count]
        turns = np.flatnonzero((ours[1:] != ours[:-1]) | (films[1:] != films[:-1])) + 1
        firsts = np.r_[0, turns] if len(order) else turns
        sizes = np.diff(np.r_[firsts, len(order)])
        groups = zip((sizes // films[firsts]).tolist(), films[firsts].tolist(), strict=True)
        return cls(
            order[by_count], tuple(groups), len(np.unique(ours)) == 1 and len(starts) == len(order)
        )

    def test(
        self,
        present: NDArray[np.bool_],  # (n,) film holds the feature
        correct: NDArray[np.bool_],  # (n,) the prediction is right
        *,
        alternative: Alternative,
        draws: int,
        seed: int | tuple[int, ...],
    ) -> ExchangeTest:
        """Test whether films with a feature are right more (or less) often than films without.

        `draws` random tables are made where the test is not exact.
        """
        some = present.any() and correct.any()
        if not some or present.all() or correct.all():
            return ExchangeTest(1.0, True)
        observed = int((present & correct).sum())
        if self.alone:
            table = stats.hypergeom(len(present), int(correct.sum()), int(present.sum()))
            tails = float(table.sf(observed - 1)), float(table.cdf(observed))
            return ExchangeTest(_p_value(*tails, alternative), True)
        above = below = draws
        beyond = self._beyond(present, correct, observed)
        if beyond:
            above, below = (0, draws) if beyond > 0 else (draws, 0)
        else:
            rng = np.random.default_rng(seed)
            drawn = np.zeros(draws, dtype=np.int64)
            for shown, made in self._flags(present, correct):
                drawn += _draw_hits(shown, made, draws, rng)
            above, below = int((drawn >= observed).sum()), int((drawn <= observed).sum())
        tails = (1 + above) / (draws + 1), (1 + below) / (draws + 1)
        return ExchangeTest(_p_value(*tails, alternative), False)

    def _flags(
        self, present: NDArray[np.bool_], correct: NDArray[np.bool_]
    ) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """Yield the flags of the films of alike patients, as (patients, films) arrays."""
        shown, made = present[self.order], correct[self.order]
        start = 0
        for patients, films in self.groups:
            part = slice(start, start + patients * films)
            start = part.stop
            yield shown[part].reshape(patients, films), made[part].reshape(patients, films)

    def _beyond(self, present: NDArray[np.bool_], correct: NDArray[np.bool_], observed: int) -> int:
        """Return 1 or -1 where every draw will surely lie below or above (Bernstein), else 0."""
        if len(present) < _FILMS:
            return 0
        groups = np.array([_spread(*flags) for flags in self._flags(present, correct)])
        far = observed - float(groups[:, 0].sum())
        variance, most = groups[:, 1], groups[:, 2 if far > 0 else 3]
        if not far or not variance.any():
            return 0
        tilt = np.linspace(0.0, 3.0 / most.max(), 64, endpoint=False)[1:, None]
        cost = (variance * tilt**2 / (2.0 * (1.0 - tilt * most / 3.0))).sum(axis=1)
        certain = float((tilt[:, 0] * abs(far) - cost).max()) > _CERTAIN
        return int(np.sign(far)) if certain else 0


def _spread(present: NDArray[np.bool_], correct: NDArray[np.bool_]) -> tuple[float, ...]:
    """Mean and variance of hits under exchange; the most that a patient's lie above, and below."""
    patients = len(present)
    shown, made = present.mean(axis=0), correct.mean(axis=0)
    mean = patients * float(shown @ made)
    if patients == 1:
        return mean, 0.0, 0.0, 0.0
    one, other = present - shown, correct - made
    variance = float(((one.T @ one) * (other.T @ other)).sum()) / (patients - 1)
    up, down = np.maximum(one, 0.0), np.maximum(-one, 0.0)
    above, below = up @ (1.0 - made) + down @ made, up @ made + down @ (1.0 - made)
    return mean, variance, float(above.max()), float(below.max())


def _p_value(upper: float, lower: float, alternative: Alternative) -> float:
    if alternative == "greater":
        return min(1.0, upper)
    if alternative == "less":
        return min(1.0, lower)
    return min(1.0, 2.0 * min(upper, lower))


def _draw_hits(
    present: NDArray[np.bool_], correct: NDArray[np.bool_], draws: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw the hits among films with the feature when m patients of f films swap theirs."""
    patients, films = present.shape
    if films == 1:
        hits, marked = int(correct.sum()), int(present.sum())
        drawn: NDArray[np.int64] = rng.hypergeometric(hits, patients - hits, marked, size=draws)
        return drawn
    shown, made = _patterns(present), _patterns(correct)
    cells = len(shown.counts) * len(made.counts)
    if min(len(shown.counts), len(made.counts)) == 1:  # nothing changes by a swap
        total = int(shown.counts @ shown.worth(made) @ made.counts)
        return np.full(draws, total // patients, dtype=np.int64)
    at_once = max(1, _CELLS_AT_ONCE // cells)
    few = patients > np.log(patients + 1) * cells
    if few or films > _BITS or cells <= _TABLE_CELLS + _TABLE_PATIENTS * patients:
        return _from_tables(shown, made, draws, at_once, rng, "patefield" if few else "boyett")
    return _from_shuffles(shown, made, draws, at_once, rng)


@dataclass(frozen=True, slots=True, eq=False)
class _Patterns:
    """Distinct patterns of flags, as numbers (k,), or as rows (k, f) where one is too long."""

    flags: NDArray[Any]
    counts: NDArray[np.int64]

    def worth(self, made: _Patterns) -> NDArray[np.int64]:
        """Hits (k, l) of each pattern shown with each pattern made."""
        hits: NDArray[np.int64]
        if self.flags.ndim == 2:
            hits = self.flags.astype(np.int64) @ made.flags.T.astype(np.int64)
        else:
            hits = np.bitwise_count(self.flags[:, None] & made.flags).astype(np.int64)
        return hits


def _patterns(flags: NDArray[np.bool_]) -> _Patterns:
    """Return the distinct rows of (m, f) flags and how often each occurs."""
    films = flags.shape[1]
    if films > _BITS:
        rows, counts = np.unique(flags, axis=0, return_counts=True)
        return _Patterns(rows, counts.astype(np.int64))
    codes = flags @ (1 << np.arange(films, dtype=np.int64))
    found, counts = np.unique(codes, return_counts=True)
    return _Patterns(found, counts.astype(np.int64))


def _from_tables(
    shown: _Patterns,
    made: _Patterns,
    draws: int,
    at_once: int,
    rng: np.random.Generator,
    method: Literal["boyett", "patefield"],
) -> NDArray[np.int64]:
    """Draw how often each pattern meets each other, and count the hits."""
    worth = shown.worth(made)
    parts = [
        np.einsum(
            "dij,ij->d",
            stats.random_table.rvs(
                shown.counts,
                made.counts,
                size=min(at_once, draws - start),
                method=method,
                random_state=rng,
            ).astype(np.int64),
            worth,
        )
        for start in range(0, draws, at_once)
    ]
    return np.concatenate(parts)


def _from_shuffles(
    shown: _Patterns, made: _Patterns, draws: int, at_once: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw what Boyett's tables hold, by the same numbers, `at_once` tables at a time."""
    given, in_order = np.repeat(shown.flags, shown.counts), np.repeat(made.flags, made.counts)
    silent = int(np.searchsorted(given, 0, side="right"))  # patients who show nothing, the first
    given = given[silent:]
    shuffler = np.random.RandomState(rng.bit_generator)  # it shuffles as he does
    hits = np.empty(draws, dtype=np.int64)
    held = np.empty((max(1, _SHUFFLED_AT_ONCE // len(in_order)), len(given)), dtype=np.int64)
    taken = in_order.copy()
    start = 0
    while start < draws:
        end = min(start + len(held), draws)
        for draw in range(start, end):
            if draw % at_once == 0:
                taken[:] = in_order
            shuffler.shuffle(taken)
            held[draw - start] = taken[silent:]
        met = np.bitwise_count(held[: end - start] & given)
        hits[start:end] = met.sum(axis=1, dtype=np.int64)
        start = end
    return hits
