"""Two halves of the patients: one to choose candidates on, one to test them on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.ravl import AuditedTask, performance_gaps

__all__ = ["count_untested", "split_patients"]


def split_patients(
    patients: NDArray[np.int64], labels: NDArray[np.int64], share: float, seed: int
) -> NDArray[np.bool_]:
    """Split the patients in two, evenly over classes and numbers of films.

    Parameters
    ----------
    patients : ndarray of shape (N,), int64 - patient of each film, 0 .. P - 1
    labels : ndarray of shape (N,), int64 - class of each film
    share : float - of the patients on the discovery half
    seed : int

    Returns
    -------
    ndarray of shape (N,), bool - film belongs to the discovery half; all films of a patient do
    """
    if len(patients) == 0:
        return np.zeros(0, dtype=np.bool_)
    rng = np.random.default_rng([seed, 3])
    codes = np.unique(labels, return_inverse=True)[1]
    counts = np.zeros((int(patients.max()) + 1, int(codes.max()) + 1), dtype=np.int64)
    np.add.at(counts, (patients, codes), 1)
    # Alike patients stand side by side, so that every class and film count is dealt out evenly.
    order = np.lexsort((rng.random(len(counts)), counts.sum(axis=1), counts.argmax(axis=1)))
    start = rng.random()
    dealt = np.floor(start + share * np.arange(1, len(counts) + 1)) > np.floor(
        start + share * np.arange(len(counts))
    )
    discovery = np.zeros(len(counts), dtype=np.bool_)
    discovery[order] = dealt
    return discovery[patients]


def count_untested(
    present: NDArray[np.bool_],
    task: AuditedTask,
    discovery: NDArray[np.bool_],
    min_films: int,
) -> Mapping[str, int]:
    """Count the clusters that no test could reach, by reason.

    A cluster can be tested when, on both halves, two classes have enough films in the smaller arm.

    Parameters
    ----------
    present : ndarray of shape (N, K), bool
    task : AuditedTask
    discovery : ndarray of shape (N,), bool - the discovery half
    min_films : int - films in the smaller arm of a class, on each half
    """
    reached = np.ones((present.shape[1], len(task.classes)), dtype=np.bool_)
    shares = []
    for half in (discovery, ~discovery):
        rows = np.flatnonzero(half & (task.labels >= 0))
        labels = task.labels[rows]
        table = performance_gaps(
            present[rows], labels, np.zeros(len(rows), bool), len(task.classes)
        )
        reached &= table.smaller_arm >= min_films
        shares.append(table.n_present.sum(axis=1) / max(len(rows), 1))
    share = np.mean(shares, axis=0)
    short = reached.sum(axis=1) < 2
    reasons = {
        "in every film": short & (share == 1.0),
        "in no film": short & (share == 0.0),
        f"fewer than {min_films} films with it, in all classes but one, on a half": short
        & (share > 0.0)
        & (share <= 0.5),
        f"fewer than {min_films} films without it, in all classes but one, on a half": short
        & (share > 0.5)
        & (share < 1.0),
    }
    return {reason: int(flags.sum()) for reason, flags in reasons.items() if flags.any()}
