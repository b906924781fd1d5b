"""What the labels behind a correlation are worth, as values.

A film's label is stated, or a policy decided what an uncertain or a blank cell counts as. Where the
films with a feature are the ones whose labels are less often stated, such as portable films with
their shorter reports, a gap may be one of labels and not of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ravl_med.evidence.interval import Interval

__all__ = ["LabelOrigin", "LabelQuality", "LabelShare", "StatedGap", "StatedOutcome"]

StatedOutcome = Literal["unchanged", "holds", "vanishes", "turns", "insufficient", "hidden"]
"""Of a gap on stated labels alone: every label is stated; its interval keeps to the side of the gap
on all labels; holds 0; lies on the other side; too few films; of few patients, not to be told."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelOrigin:
    """Where the labels of N films come from, and how certain they are.

    Attributes
    ----------
    sources : ndarray of shape (N,), str - as ``Cohort.label_sources``
    certainty : ndarray of shape (N,), str - ``"stated"``, ``"uncertain"`` or ``"blank"``
    """

    sources: NDArray[np.str_]
    certainty: NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class LabelShare:
    """The films whose labels are of one kind, with a feature and without it.

    Attributes
    ----------
    value : str
    n_present, n_absent : int - films
    share_present, share_absent : float - of the films with and without it; NaN where there are none
    patients : tuple of int or None - with and without the feature; None where a film is a patient
    """

    value: str
    n_present: int
    n_absent: int
    share_present: float
    share_absent: float
    patients: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class StatedGap:
    """The gap of one side of a correlation on the films of the test whose labels are stated.

    Attributes
    ----------
    n_present, n_absent : int - films
    gap : float - accuracy with minus without; NaN where there are too few films
    interval : Interval - bootstrap by patient
    outcome : {"unchanged", "holds", "vanishes", "turns", "insufficient", "hidden"}
    """

    n_present: int
    n_absent: int
    gap: float
    interval: Interval
    outcome: StatedOutcome


@dataclass(frozen=True, slots=True, eq=False)
class LabelQuality:
    """The labels behind a correlation, on all audited films, and its gaps on stated ones alone.

    Attributes
    ----------
    n_present, n_absent : int - audited films with the feature and without it
    sources : tuple of LabelShare - the most frequent first
    certainty : tuple of LabelShare - stated, uncertain, blank
    not_stated : LabelShare - uncertain and blank together
    difference : float - share of labels that are not stated, with minus without; NaN where an arm
        is empty
    interval : Interval - of the difference, bootstrap by patient
    raised : StatedGap - of the raised class, on the films of the test
    lowered : StatedGap or None - of ``cluster.opposed_classes`` together; None without any
    patients : ndarray of shape (3, 2, 2), int64, or None - behind the gaps: raised side, lowered
        side, all other films; with and without the feature; stated and not. None once hidden
    """

    n_present: int
    n_absent: int
    sources: tuple[LabelShare, ...]
    certainty: tuple[LabelShare, ...]
    not_stated: LabelShare
    difference: float
    interval: Interval
    raised: StatedGap
    lowered: StatedGap | None
    patients: NDArray[np.int64] | None = None

    @property
    def one_source(self) -> str:
        """Where all labels come from; blank where they come from several places."""
        return self.sources[0].value if len(self.sources) == 1 else ""

    @property
    def all_stated(self) -> bool:
        """Whether no policy had to decide on any label."""
        return self.not_stated.n_present == 0 and self.not_stated.n_absent == 0
