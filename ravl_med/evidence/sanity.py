"""Whether a model is wired right, told before its shortcuts are looked for.

Most faults of published models are wiring: prompts, padding, resize, an inverted class. What such a
model says is noise, and so would its audit be. Faults that leave no doubt stop the audit. A finding
that is not told from the others does not stop it, since a model that follows a shortcut alone is at
chance too where the shortcut is balanced: a confirmed shortcut fails it, anything else is not
auditable.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from ravl_med.evidence.auroc import auroc, auroc_interval
from ravl_med.evidence.claims import Interval

__all__ = [
    "FindingAuroc",
    "Sanity",
    "SanityCheck",
    "SanityStatus",
    "class_scores",
    "judge_findings",
    "measure_findings",
    "prompt_scores",
]

SanityStatus = Literal["held", "odd", "failed"]

_CHANCE = 0.5
_CURE_FLIPPED = (
    "The usual cure: prompts or label columns of two classes stand in each other's place, or those "
    "of presence and absence."
)
_CURE_LOW = (
    "The usual cure: prompts in the style that the model was trained with, its own preprocessing "
    "(size, mean, std, resize) and activation, or more films."
)


@dataclass(frozen=True, slots=True)
class FindingAuroc:
    """How well a finding is told from the other classes.

    Attributes
    ----------
    finding : str
    films : int - of the class
    auroc : float - NaN where the class has no film, or all
    interval : Interval - by patient
    lowest, highest : float - AUROC of single prompts in place of their mean; NaN with one prompt
    flipped : bool - clearly below chance, all findings taken together
    """

    finding: str
    films: int
    auroc: float
    interval: Interval
    lowest: float
    highest: float
    flipped: bool


@dataclass(frozen=True, slots=True)
class SanityCheck:
    """A look at the wiring: what was looked at, how it is, and what was found."""

    name: str
    status: SanityStatus
    text: str


@dataclass(frozen=True, slots=True)
class Sanity:
    """What was seen of the wiring.

    Attributes
    ----------
    min_auroc : float - that the interval of each finding has to be above; 0: not judged
    findings : tuple of FindingAuroc - in the order of the classes
    checks : tuple of SanityCheck
    stops : tuple of str - why the audit cannot go on
    doubts : tuple of str - why it can end in nothing better than a fail
    """

    min_auroc: float
    findings: tuple[FindingAuroc, ...]
    checks: tuple[SanityCheck, ...]
    stops: tuple[str, ...]
    doubts: tuple[str, ...]


def class_scores(
    similarity: NDArray[np.floating], temperature: float | None
) -> NDArray[np.float64]:
    """Return how far each class is above the others, where no softmax saturates.

    Parameters
    ----------
    similarity : ndarray of shape (N, C) - cosines with the classes
    temperature : float or None - of the softmax; None: each class by itself

    Returns
    -------
    ndarray of shape (N, C), float64
    """
    exact = similarity.astype(np.float64)
    if temperature is None:
        return exact
    return np.column_stack(
        [_against(exact[:, c], exact, c, temperature) for c in range(exact.shape[1])]
    )


def prompt_scores(
    by_prompt: NDArray[np.floating],
    similarity: NDArray[np.floating],
    own: int,
    temperature: float | None,
) -> NDArray[np.float64]:
    """Return the same with single prompts in place of a class.

    Parameters
    ----------
    by_prompt : ndarray of shape (N, T) - cosines with the prompts of the class
    similarity : ndarray of shape (N, C) - cosines with the classes
    own : int - the class
    temperature : float or None

    Returns
    -------
    ndarray of shape (N, T), float64
    """
    prompts, exact = by_prompt.astype(np.float64), similarity.astype(np.float64)
    if temperature is None:
        return prompts
    return np.column_stack([_against(one, exact, own, temperature) for one in prompts.T])


def _against(
    one: NDArray[np.float64], others: NDArray[np.float64], own: int, temperature: float
) -> NDArray[np.float64]:
    rest: NDArray[np.float64] = logsumexp(np.delete(others, own, axis=1) / temperature, axis=1)
    return one / temperature - rest


def measure_findings(
    scores: NDArray[np.floating],
    labels: NDArray[np.int64],
    patients: NDArray[np.int64],
    classes: Sequence[str],
    confidence: float,
    by_prompt: Sequence[NDArray[np.floating]] = (),
) -> tuple[FindingAuroc, ...]:
    """Measure the AUROC of each class against the others.

    Parameters
    ----------
    scores : ndarray of shape (N, C)
    labels, patients : ndarray of shape (N,), int64
    classes : sequence of str, length C
    confidence : float - of the intervals
    by_prompt : sequence of ndarray of shape (N, T_c) - scores of single prompts, class by class
    """
    found = []
    for c, name in enumerate(classes):
        member = labels == c
        single = [auroc(one, member) for one in by_prompt[c].T] if by_prompt else []
        several = len(single) > 1
        strict = auroc_interval(
            scores[:, c], member, patients, 1 - (1 - confidence) / max(len(classes), 1)
        )
        found.append(
            FindingAuroc(
                finding=name,
                films=int(member.sum()),
                auroc=auroc(scores[:, c], member),
                interval=auroc_interval(scores[:, c], member, patients, confidence),
                lowest=min(single) if several else float("nan"),
                highest=max(single) if several else float("nan"),
                flipped=bool(strict.high < _CHANCE),
            )
        )
    return tuple(found)


def judge_findings(
    findings: Sequence[FindingAuroc], min_auroc: float, hidden: Collection[int] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return why an audit cannot go on, and why it can end in nothing better than a fail.

    Parameters
    ----------
    findings : sequence of FindingAuroc
    min_auroc : float - 0: nothing is judged
    hidden : collection of int - classes of so few patients that no number of them is told
    """
    if not min_auroc:
        return (), ()
    stops, doubts = [], []
    for c, one in enumerate(findings):
        told = "" if c in hidden else f" (AUROC {_told(one)})"
        if one.flipped:
            stops.append(
                f"Class {one.finding} is flipped: the model gives it to films without it{told}. "
                f"{_CURE_FLIPPED}"
            )
        elif one.interval.low <= min_auroc:
            doubts.append(
                f"Class {one.finding} is not told from the others{told}; the interval has to lie "
                f"above {min_auroc:g} (gate.min_auroc). {_CURE_LOW}"
            )
    return tuple(stops), tuple(doubts)


def _told(one: FindingAuroc) -> str:
    return f"{one.auroc:.2f}, {one.interval.low:.2f} to {one.interval.high:.2f}"
