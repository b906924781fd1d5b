"""RaVL's measures, cluster performance gap and cluster influence score, and what they take.

References
----------
Varma et al., RaVL, NeurIPS 2024 (arXiv 2411.04097), section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_ROWS, _REGIONS = 2**14, 2**18  # at once


def film_shares(boxes: NDArray[np.float32], sizes: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return boxes (R, 4), xyxy in stored pixels, as shares of films of a height and width."""
    sides = np.tile(sizes[:, ::-1], 2).astype(np.float32)
    return np.asarray(boxes / sides, dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class AuditData:
    """The films of one zero-shot task, their regions, and what the model says of both."""

    classes: tuple[str, ...]  # of length C; for a finding of a multi-label set absent, present
    labels: NDArray[np.int64]  # (N,) class of each film; -1 takes no part in the task
    predictions: NDArray[np.int64]  # (N,) class with the highest zero-shot score
    patients: NDArray[np.int64]  # (N,) patient of each film, 0 .. P - 1
    sizes: NDArray[np.int64]  # (N, 2) height and width of each stored film in pixels
    region_image: NDArray[np.int64]  # (R,) film of each region
    # (R, 4) xyxy in stored pixels, origin at the outer corner of the top-left pixel, half-open
    region_boxes: NDArray[np.float32]
    # Zero-shot scores of films (N, C) and regions (R, C); counterfactuals do without them.
    image_scores: NDArray[np.floating] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    region_scores: NDArray[np.floating] = field(
        default_factory=lambda: np.empty((0, 0), np.float32)
    )
    # Strata of the films (N,) by attribute.
    attributes: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    # Where each label comes from, and "stated", "uncertain" or "blank"; (N,), empty if not known.
    label_sources: NDArray[np.str_] = field(default_factory=lambda: np.empty(0, np.str_))
    label_certainty: NDArray[np.str_] = field(default_factory=lambda: np.empty(0, np.str_))

    def region_shares(self) -> NDArray[np.float32]:
        """Return the boxes of all regions as shares of their films' width and height, (R, 4)."""
        return film_shares(self.region_boxes, self.sizes[self.region_image])

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the prediction equals the label, shape (N,)."""
        right: NDArray[np.bool_] = self.predictions == self.labels
        return right


@dataclass(frozen=True, slots=True, eq=False)
class GapTable:
    """Accuracy with and without each feature cluster, class by class."""

    n_present: NDArray[np.int64]  # (K, C) films of the class in I_c
    n_absent: NDArray[np.int64]  # (K, C) films of the class outside I_c
    accuracy_present: NDArray[np.float64]  # (K, C) NaN where n is 0
    accuracy_absent: NDArray[np.float64]  # (K, C)
    weighted_gap: NDArray[np.float64]  # (K, C) G_c^y; 0 where a side is empty

    @property
    def gap(self) -> NDArray[np.float64]:
        """Unweighted gap p_in - p_out, shape (K, C); NaN where a side is empty."""
        return self.accuracy_present - self.accuracy_absent

    @property
    def performance_gap(self) -> NDArray[np.float64]:
        """G_c, the sum over classes of the absolute weighted gaps, shape (K,)."""
        total: NDArray[np.float64] = np.abs(self.weighted_gap).sum(axis=1)
        return total

    @property
    def smaller_arm(self) -> NDArray[np.int64]:
        """Images in the smaller of the two arms, shape (K, C)."""
        smaller: NDArray[np.int64] = np.minimum(self.n_present, self.n_absent)
        return smaller

    @property
    def standardised_gap(self) -> NDArray[np.float64]:
        """Gap over its standard error with a pseudo-success and -failure an arm, shape (K, C).

        0 where a side is empty, and where the pseudo-films would turn the sign of the gap.
        """
        n_in, n_out = self.n_present, self.n_absent
        right_in = np.rint(np.nan_to_num(self.accuracy_present) * n_in)
        right_out = np.rint(np.nan_to_num(self.accuracy_absent) * n_out)
        p_in, p_out = (right_in + 1) / (n_in + 2), (right_out + 1) / (n_out + 2)
        error = np.sqrt(p_in * (1 - p_in) / (n_in + 2) + p_out * (1 - p_out) / (n_out + 2))
        agrees = (p_in - p_out) * np.nan_to_num(self.gap) > 0
        standardised: NDArray[np.float64] = np.where(agrees, (p_in - p_out) / error, 0.0)
        return standardised


def performance_gaps(
    present: NDArray[np.bool_],  # (N, K) film i holds a region of cluster k
    labels: NDArray[np.int64],  # (N,) class of each film; -1 takes no part
    correct: NDArray[np.bool_],  # (N,)
    classes: int,
) -> GapTable:
    """Compute the cluster performance gap of every cluster and class.

    References
    ----------
    RaVL section 3.1: G_c^y = w (p_in - p_out), w = 2 min(n_in, n_out) / (n_in + n_out).
    """
    taken = labels >= 0
    total = _count_classes(labels, taken, correct, classes)[0]
    if present.shape[1] == 1:
        counts = _count_classes(labels, taken & present[:, 0], correct, classes)
    else:
        counts = _count_in_clusters(present, labels, correct, classes)
    n_in, right_in = counts[:, :classes], counts[:, classes:]
    n_out, right_out = total[:classes] - n_in, total[classes:] - right_in
    with np.errstate(invalid="ignore", divide="ignore"):
        p_in, p_out = right_in / n_in, right_out / n_out
        weight = 2.0 * np.minimum(n_in, n_out) / (n_in + n_out)
        weighted = weight * (p_in - p_out)
    both = (n_in > 0) & (n_out > 0)
    return GapTable(
        n_present=np.rint(n_in).astype(np.int64),
        n_absent=np.rint(n_out).astype(np.int64),
        accuracy_present=p_in,
        accuracy_absent=p_out,
        weighted_gap=np.where(both, weighted, 0.0),
    )


def _count_in_clusters(
    present: NDArray[np.bool_], labels: NDArray[np.int64], correct: NDArray[np.bool_], classes: int
) -> NDArray[np.float64]:
    """Films of each class, then those that are right, in each cluster: (K, 2 C)."""
    counts = np.zeros((present.shape[1], 2 * classes))
    for start in range(0, len(present), _ROWS):
        part = slice(start, start + _ROWS)
        member = labels[part, None] == np.arange(classes)
        # Counts of 0 and 1 are exact in float32 up to 16.7 million films, and BLAS is fast.
        columns = np.hstack([member, member & correct[part, None]]).astype(np.float32)
        counts += present[part].T.astype(np.float32) @ columns
    return counts


def _count_classes(
    labels: NDArray[np.int64], taken: NDArray[np.bool_], correct: NDArray[np.bool_], classes: int
) -> NDArray[np.float64]:
    """Films of each class, then those that are right, among the ones that are taken: (1, 2 C)."""
    right = taken & correct
    counts = [np.bincount(labels[rows], minlength=classes)[:classes] for rows in (taken, right)]
    return np.concatenate(counts)[None].astype(np.float64)


def opposed_gap(table: GapTable, row: int, opposed: Sequence[int]) -> float:
    """Return the gap of the opposed classes of a row together, with weights n_in n_out / n."""
    columns = list(opposed)
    n_in, n_out = table.n_present[row, columns], table.n_absent[row, columns]
    weight = n_in * n_out / np.maximum(n_in + n_out, 1)
    if not weight.sum() > 0:
        return math.nan
    gap = np.where(weight > 0, table.gap[row, columns], 0.0)
    return float((weight * gap).sum() / weight.sum())


def strongest_regions(
    region_image: NDArray[np.int64],  # (R,)
    region_scores: NDArray[np.floating],  # (R, C)
    predictions: NDArray[np.int64],  # (N,)
) -> NDArray[np.int64]:
    """Return the first region (N,) of each film with the highest score for its prediction.

    It is -1 for films with fewer than two regions, which say nothing, and for those whose regions
    have no scores (NaN): a model that answers questions is not asked about every region.
    """
    images = len(predictions)
    strongest = np.full(images, -1, dtype=np.int64)
    best = np.full(images, -np.inf)
    for start in range(0, len(region_image), _REGIONS):
        image = region_image[start : start + _REGIONS]
        score = region_scores[np.arange(start, start + len(image)), predictions[image]]
        order = np.lexsort((-score, image))  # stable: the first of equals
        image, first = np.unique(image[order], return_index=True)
        first = order[first]
        louder = score[first] > best[image]
        strongest[image[louder]] = start + first[louder]
        best[image[louder]] = score[first[louder]]
    strongest[np.bincount(region_image, minlength=images) < 2] = -1
    return strongest


def influence_scores(
    present: NDArray[np.bool_],  # (N, K)
    table: GapTable,  # of the same clusters
    labels: NDArray[np.int64],  # (N,)
    predictions: NDArray[np.int64],  # (N,)
    leads: NDArray[np.bool_],  # (N, K) the strongest region of the film is in the cluster
    judged: NDArray[np.bool_],  # (N,) the film has two regions or more
) -> NDArray[np.float64]:
    """Compute the cluster influence score H_c (K,) of every cluster; -inf where no film qualifies.

    Over the mispredicted films of I_c whose label is lowered by the cluster (p_in < p_out), the
    share whose strongest region for the predicted class belongs to the cluster; per label, then
    the maximum.
    """
    gap = np.nan_to_num(table.gap, nan=0.0)
    clusters, classes = gap.shape
    wrong = (predictions != labels) & (labels >= 0) & judged
    influence = np.full((clusters, classes), -np.inf)
    for label in range(classes):
        rows = np.flatnonzero(wrong & (labels == label))
        inside = present[rows]
        total = inside.sum(axis=0)
        led = (inside & leads[rows]).sum(axis=0)
        valid = (total > 0) & (gap[:, label] < 0)
        influence[valid, label] = led[valid] / total[valid]
    best: NDArray[np.float64] = influence.max(axis=1)
    return best
