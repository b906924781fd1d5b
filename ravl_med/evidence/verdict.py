"""From candidates to claims, from claims to a verdict.

A correlation *counts* when the unweighted gaps of its raised class and of one lowered class are
both at least ``gate.max_gap``, their bootstrap intervals by patient (Bonferroni over all clusters)
exclude 0, and so does the interval of its mean removal effect. Only then has it a kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.config import EvidenceConfig, GateConfig
from ravl_med.discovery.ravl import FeatureCluster
from ravl_med.evidence.audit_result import (
    Accuracy,
    Interval,
    Kind,
    Removal,
    SpuriousCorrelation,
    Verdict,
)
from ravl_med.evidence.relevance import RelevanceTable, kind_of_share, relevant_share
from ravl_med.evidence.statistics import PatientBootstrap, percentile_interval

__all__ = [
    "AuditedImages",
    "EvidenceRules",
    "auditability",
    "judge",
    "measure_accuracy",
    "weigh_correlation",
]


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
        f"Class {name} has {count} films; at least {gate.min_films} are needed (gate.min_films)."
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


_ROUNDING = 1e-9  # 0.9 - 0.8 is a gap of 0.1


@dataclass(frozen=True, slots=True, eq=False)
class AuditedImages:
    """The audited images and their regions, as evidence needs them.

    Attributes
    ----------
    classes : tuple of str, length C
    labels : ndarray of shape (N,), int64
    correct : ndarray of shape (N,), bool - the zero-shot prediction equals the label
    sizes : ndarray of shape (N, 2), int64 - height and width of each stored film
    region_image : ndarray of shape (R,), int64
    region_boxes : ndarray of shape (R, 4), float32 - xyxy in stored pixels
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    correct: NDArray[np.bool_]
    sizes: NDArray[np.int64]
    region_image: NDArray[np.int64]
    region_boxes: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class EvidenceRules:
    """Thresholds and tools of evidence, fixed before the run.

    Attributes
    ----------
    evidence : EvidenceConfig
    gate : GateConfig
    relevance : RelevanceTable
    bootstrap : PatientBootstrap - over the audited images
    comparisons : int - clusters that were looked at, for Bonferroni
    """

    evidence: EvidenceConfig
    gate: GateConfig
    relevance: RelevanceTable
    bootstrap: PatientBootstrap
    comparisons: int


def weigh_correlation(
    rank: int,
    cluster: FeatureCluster,
    effect: NDArray[np.float64],
    images: AuditedImages,
    rules: EvidenceRules,
) -> SpuriousCorrelation:
    """Put intervals, removal effect and kind to a surviving cluster.

    Parameters
    ----------
    rank : int - from 1
    cluster : FeatureCluster
    effect : ndarray of shape (n,), float64 - removal effect of ``cluster.regions``, in logits;
        NaN where it was not measured
    images : AuditedImages
    rules : EvidenceRules
    """
    classes = len(images.classes)
    member = np.eye(classes, dtype=bool)[images.labels]  # (N, C)
    arms = np.column_stack([member & cluster.present[:, None], member & ~cluster.present[:, None]])
    draws = rules.bootstrap.proportions(arms, images.correct)
    present, absent = draws[:, :classes], draws[:, classes:]
    confidence = rules.evidence.confidence
    has_present, has_absent = cluster.n_present > 0, cluster.n_absent > 0
    gaps = _intervals(present - absent, has_present & has_absent, confidence, rules.comparisons)
    removal = _summarise_removal(cluster, effect, images, rules)
    reasons = _objections(cluster, gaps, removal, images.classes, rules)
    kind: Kind = "undecided"
    if not reasons:
        kind = kind_of_share(
            removal.inside_share, rules.evidence.sign_share, rules.evidence.shortcut_share
        )
    order = np.lexsort((-cluster.similarity, -np.where(np.isfinite(effect), effect, -np.inf)))
    return SpuriousCorrelation(
        rank=rank,
        cluster=cluster,
        kind=kind,
        counts=not reasons,
        reasons=reasons,
        gap_interval=gaps,
        accuracy_present_interval=_intervals(present, has_present, confidence, 1),
        accuracy_absent_interval=_intervals(absent, has_absent, confidence, 1),
        removal=removal,
        order=order.astype(np.int64),
    )


def _intervals(
    draws: NDArray[np.float64], known: NDArray[np.bool_], confidence: float, comparisons: int
) -> tuple[Interval, ...]:
    """Interval of each column of (B, C) draws; without bounds where nothing is known."""
    unknown = Interval(float("nan"), float("nan"))
    return tuple(
        percentile_interval(draws[:, c], confidence, comparisons) if known[c] else unknown
        for c in range(draws.shape[1])
    )


def _summarise_removal(
    cluster: FeatureCluster,
    effect: NDArray[np.float64],
    images: AuditedImages,
    rules: EvidenceRules,
) -> Removal:
    image = images.region_image[cluster.regions]
    known = np.isfinite(effect)
    count = np.bincount(image[known], minlength=len(images.sizes)).astype(np.float64)
    total = np.bincount(image[known], weights=effect[known], minlength=len(images.sizes))
    # Without a measured region bincount gives integers, which hold no NaN.
    by_image = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    relevant = rules.relevance.find(images.classes[cluster.raised_class])
    share = float("nan")
    if relevant is not None:
        boxes = images.region_boxes[cluster.regions]
        share = relevant_share(boxes, images.sizes[image], effect, relevant)
    return Removal(
        effect=effect,
        mean=float(np.nanmean(by_image)) if count.any() else float("nan"),
        interval=percentile_interval(
            rules.bootstrap.mean(by_image), rules.evidence.confidence, rules.comparisons
        ),
        inside_share=share,
    )


def _objections(
    cluster: FeatureCluster,
    gaps: tuple[Interval, ...],
    removal: Removal,
    classes: Sequence[str],
    rules: EvidenceRules,
) -> tuple[str, ...]:
    """List the rules of evidence that a cluster does not pass, in words."""
    evidence, gate = rules.evidence, rules.gate
    smaller = np.minimum(cluster.n_present, cluster.n_absent)

    def lacks(c: int) -> str:
        if smaller[c] < evidence.min_n:
            return f"only {smaller[c]} films in the smaller arm (evidence.min_n {evidence.min_n})"
        if abs(cluster.gap[c]) < gate.max_gap - _ROUNDING:
            return f"a gap below {gate.max_gap:.0%} (gate.max_gap)"
        return "" if gaps[c].excludes_zero() else "an interval of the gap that holds 0"

    objections = []
    if why := lacks(cluster.raised_class):
        objections.append(f"The raised class {classes[cluster.raised_class]} has {why}.")
    lowered = {c: lacks(c) for c in cluster.lowered_classes}
    if all(lowered.values()):
        told = "; ".join(f"{classes[c]}: {why}" for c, why in list(lowered.items())[:3])
        objections.append(f"No lowered class passes ({told}).")
    if not removal.interval.low > 0:
        objections.append("Removing the regions does not lower the raised class beyond chance.")
    return tuple(objections)


def judge(
    correlations: Sequence[SpuriousCorrelation], classes: Sequence[str], gate: GateConfig
) -> Verdict:
    """Turn the list of correlations into a verdict."""
    counting = [c for c in correlations if c.counts]
    shortcuts = [c for c in counting if c.kind == "shortcut"]
    if shortcuts:
        told = _name_classes(shortcuts, classes)
        return Verdict(
            "fail",
            (
                f"{_count(shortcuts, 'shortcut')} above the gate of {gate.max_gap:.0%}: the model "
                f"raises {told} by a feature outside the place where it shows.",
            ),
        )
    if counting:
        signs = [c for c in counting if c.kind == "plausible_sign"]
        open_ones = [c for c in counting if c.kind == "undecided"]
        reasons = []
        if signs:
            reasons.append(
                f"{_count(signs, 'correlation')} above the gate, where the finding itself shows "
                f"({_name_classes(signs, classes)}): a radiologist decides whether they are the "
                "disease."
            )
        if open_ones:
            reasons.append(
                f"{_count(open_ones, 'correlation')} above the gate, not placed as sign or "
                f"shortcut ({_name_classes(open_ones, classes)}): a radiologist decides."
            )
        return Verdict("review", tuple(reasons))
    return Verdict(
        "pass",
        (f"No correlation above the gate of {gate.max_gap:.0%} holds under the evidence rules.",),
    )


def _count(correlations: Sequence[SpuriousCorrelation], word: str) -> str:
    return f"{len(correlations)} {word}{'' if len(correlations) == 1 else 's'}"


def _name_classes(correlations: Sequence[SpuriousCorrelation], classes: Sequence[str]) -> str:
    return ", ".join(sorted({classes[c.cluster.raised_class] for c in correlations}))
