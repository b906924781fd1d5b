"""Zero-shot accuracy, and whether it leaves anything to audit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ravl_med.config import GateConfig
from ravl_med.evidence.audit_result import Accuracy
from ravl_med.evidence.claims import Interval
from ravl_med.evidence.statistics import PatientBootstrap, percentile_interval

__all__ = ["auditability", "measure_accuracy"]


def measure_accuracy(
    labels: NDArray[np.int64],
    predictions: NDArray[np.int64],
    classes: int,
    bootstrap: PatientBootstrap,
    confidence: float,
) -> Accuracy:
    """Measure zero-shot accuracy overall and class by class.

    Parameters
    ----------
    labels, predictions : ndarray of shape (N,), int64
    classes : int - C
    bootstrap : PatientBootstrap - over the same N images
    confidence : float
    """
    correct = predictions == labels
    member = np.column_stack([np.ones(len(labels), bool), np.eye(classes, dtype=bool)[labels]])
    draws = bootstrap.proportions(member, correct)
    counts = member.sum(axis=0)
    unknown = Interval(float("nan"), float("nan"))
    intervals = [
        percentile_interval(draws[:, arm], confidence) if counts[arm] else unknown
        for arm in range(classes + 1)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = (member & correct[:, None]).sum(axis=0) / counts
    predicted = np.bincount(predictions, minlength=classes) / max(len(predictions), 1)
    return Accuracy(
        overall=float(shares[0]),
        overall_interval=intervals[0],
        images=len(labels),
        by_class=tuple(float(v) for v in shares[1:]),
        by_class_interval=tuple(intervals[1:]),
        images_by_class=tuple(int(n) for n in counts[1:]),
        predicted_share=tuple(float(v) for v in predicted),
    )


def auditability(accuracy: Accuracy, classes: Sequence[str], gate: GateConfig) -> tuple[str, ...]:
    """Return the reasons why the model cannot be audited on this cohort; empty when it can.

    Too few films in a class, or a class that gets almost all or almost none of the predictions:
    a model that always says the same has no gaps at all.
    """
    reasons = [
        f"Class {name} has fewer than {gate.min_films} films (gate.min_films)."
        for name, count in zip(classes, accuracy.images_by_class, strict=True)
        if count < gate.min_films
    ]
    for name, share in zip(classes, accuracy.predicted_share, strict=True):
        if accuracy.images and share > gate.max_prediction_share:
            reasons.append(
                f"The model calls {share:.1%} of the films {name}, above "
                f"{gate.max_prediction_share:.0%} (gate.max_prediction_share): it does not tell "
                "the classes apart. Check prompts and preprocessing."
            )
        elif accuracy.images and share < gate.min_prediction_share:
            reasons.append(
                f"The model calls {share:.1%} of the films {name}, below "
                f"{gate.min_prediction_share:.0%} (gate.min_prediction_share): the class is never "
                "predicted. Check its prompts."
            )
    return tuple(reasons)
