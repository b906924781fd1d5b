"""Transplant: whether the margin rises when the feature is put into films without it.

The regions of a film with the feature go, all together, into a film of another class; as a control
the same places of an ordinary film go into the same target. Choosing the region with the largest
removal effect instead would answer another question: whatever the cluster is, the best region of
its films is one that the model uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.evidence.counterfactual.fills import transplant_patches
from ravl_med.evidence.counterfactual.localisation import SHIFTS, move_shares
from ravl_med.evidence.counterfactual.model_inputs import (
    ModelInputs,
    compare_pairs,
    spread_over_patients,
)
from ravl_med.evidence.results import PairedChange

_LEAST_SEEN = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Transplantation:
    """Regions of two films that go into the same place of a third."""

    target: int  # film of another class than the raised one, without the feature
    donor: int  # film with the feature
    ordinary: int  # film of the donor's class without the feature
    shares: NDArray[np.float64]  # (k, 4) the place, xyxy as shares of width and height


def plan_transplants(
    inputs: ModelInputs,
    cluster: FeatureCluster,
    discovery: NDArray[np.bool_],  # (N,)
    max_pairs: int,
    rng: np.random.Generator,
    shifts: NDArray[np.float64] = SHIFTS[:1],  # (s, 2)
) -> list[Transplantation]:
    """Choose targets, donors and ordinary films, each of them once and spread over patients.

    The regions of a donor go along, and with them their places half a step aside where `shifts`
    has them: half of a device would not do.

    Targets are of the confirmation half, donors and ordinary films of the discovery half, so no
    patient gives and takes. No film is used twice: the interval then covers how donors differ as
    well as how targets do.
    """
    labels, patients = inputs.data.labels, inputs.data.patients
    task, present = labels >= 0, cluster.present
    aims = np.flatnonzero(task & (labels != cluster.raised_class) & ~present & ~discovery)
    targets = spread_over_patients(aims, patients, rng)
    donors = spread_over_patients(np.flatnonzero(task & present & discovery), patients, rng)
    free = spread_over_patients(np.flatnonzero(task & ~present & discovery), patients, rng)
    region_film = inputs.data.region_image[cluster.regions]
    planned: list[Transplantation] = []
    for donor in donors:
        if len(planned) == min(max_pairs, len(targets)):
            break
        same = free[labels[free] == labels[donor]]
        if len(same) == 0:
            continue
        # A stable sort: another patient where there is one, else as they were spread.
        own = patients[same] == patients[donor]
        ordinary = same[np.argsort(own, kind="stable")][0]
        target = targets[len(planned)]
        shares = move_shares(inputs.shares(cluster.regions[region_film == donor]), shifts)
        shares = _shared_part(inputs, shares, (int(target), int(donor), int(ordinary)))
        if len(shares):
            planned.append(Transplantation(int(target), int(donor), int(ordinary), shares))
            free = free[free != ordinary]
    return planned


def _shared_part(
    inputs: ModelInputs, shares: NDArray[np.float64], films: Sequence[int]
) -> NDArray[np.float64]:
    """Cut boxes to what the model sees of each film; boxes that are mostly unseen are left out."""
    windows = np.stack([inputs.window(film) for film in films])
    low = np.maximum(shares[:, :2], windows[:, :2].max(axis=0))
    high = np.minimum(shares[:, 2:], windows[:, 2:].min(axis=0))
    area = np.prod(np.maximum(high - low, 0.0), axis=1)
    kept = area >= _LEAST_SEEN * np.prod(shares[:, 2:] - shares[:, :2], axis=1)
    seen: NDArray[np.float64] = np.concatenate([low, high], axis=1)[kept & (area > 0)]
    return seen


def compare_transplants(
    inputs: ModelInputs,
    planned: Sequence[Transplantation],
    evidence: EvidenceConfig,
    comparisons: int,
) -> PairedChange:
    """Test whether the feature raises the margin of films that it is put into.

    Returns
    -------
    PairedChange - rise of the margin with the regions of the donor, and with those of the ordinary
        film; decisions that become the raised class
    """

    def pictures() -> Iterator[NDArray[np.float32]]:
        for plan in planned:
            target = inputs.read(plan.target)
            place = inputs.place(plan.target, plan.shares)
            yield target
            for film in (plan.donor, plan.ordinary):
                yield transplant_patches(
                    target, inputs.read(film), place, inputs.place(film, plan.shares)
                )

    answers = inputs.margins(pictures())
    margin, decided = answers.margin.reshape(-1, 3).T, answers.decided.reshape(-1, 3).T
    return compare_pairs(
        (margin[1] - margin[0], decided[1] & ~decided[0]),
        (margin[2] - margin[0], decided[2] & ~decided[0]),
        inputs.data.patients[[plan.target for plan in planned]],
        evidence,
        comparisons,
    )
