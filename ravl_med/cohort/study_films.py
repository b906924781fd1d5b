"""One film of each study, where studies are what is counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["one_film_a_study"]

_PREFERRED = ("PA", "AP", "")
"""Views in the order in which they are taken; any other, such as a lateral one, comes last."""


def one_film_a_study(
    patients: Sequence[str], studies: Sequence[str], views: Sequence[str], taken: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Choose the film that stands for each study: PA before AP before others, then the first.

    Parameters
    ----------
    patients, studies, views : sequence of str, length N - a study is one of its patient
    taken : ndarray of shape (N,), bool - films to choose from

    Returns
    -------
    ndarray of shape (N,), bool
    """
    best: dict[tuple[str, str], tuple[int, int]] = {}
    for film in np.flatnonzero(taken).tolist():
        study = patients[film], studies[film]
        view = views[film].strip().upper()
        rank = _PREFERRED.index(view) if view in _PREFERRED else len(_PREFERRED)
        best[study] = min(best.get(study, (rank, film)), (rank, film))
    chosen = np.zeros(len(taken), dtype=np.bool_)
    chosen[[film for _, film in best.values()]] = True
    return chosen
