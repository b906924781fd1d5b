"""Films as the model sees them, and how changes of its margins are compared in pairs.

Nothing here knows how the model works: `ModelInputs.margins` takes pictures and returns margins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.results import PairedChange
from ravl_med.evidence.statistics import PatientBootstrap, percentile_interval
from ravl_med.regions.geometry import InputGeometry


@dataclass(frozen=True, slots=True, eq=False)
class Margins:
    """What the model says of n pictures."""

    margin: NDArray[np.float64]  # (n,) of the raised class, in logits
    decided: NDArray[np.bool_]  # (n,) the raised class has the highest logit of all


@dataclass(frozen=True, slots=True, eq=False)
class ModelInputs:
    """The films of a task at the resolution of the model."""

    data: AuditData
    # image index to the preprocessed input (3, S, S), float32, read-only
    read: Callable[[int], NDArray[np.float32]]
    # height and width of a film to its `InputGeometry`
    geometry: Callable[[int, int], InputGeometry]
    # pictures (3, S, S) to `Margins`; they are taken one by one, so that a generator of any
    # length needs little memory
    margins: Callable[[Iterable[NDArray[np.float32]]], Margins]
    tick: Callable[[int], None]  # called with the number of steps that were done

    def shares(self, regions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return boxes of regions as shares of width and height of their film, (k, 4) xyxy."""
        sides = self.data.sizes[self.data.region_image[regions]][:, [1, 0, 1, 0]]
        shares: NDArray[np.float64] = self.data.region_boxes[regions] / sides
        return shares

    def place(self, film: int, shares: NDArray[np.float64]) -> NDArray[np.float32]:
        """Carry film-relative boxes (k, 4) into the input of a film, clipped to what is seen."""
        return self._geometry(film).to_input(self._stored(film, shares))

    def visible_share(self, film: int, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the share of each film-relative box that the model sees of a film, (k,)."""
        return self._geometry(film).visible_share(self._stored(film, shares))

    def window(self, film: int) -> NDArray[np.float64]:
        """Return what the model sees of a film, as shares of width and height, (4,) xyxy."""
        geometry = self._geometry(film)
        whole = np.array([[0, 0, geometry.size, geometry.size]], dtype=np.float32)
        seen: NDArray[np.float64] = geometry.to_stored(whole)[0] / self._sides(film)
        return seen

    def carry_in(self, film: int, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Carry boxes (k, 4) in stored pixels into the input of a film, clipped to what is seen."""
        return self._geometry(film).to_input(boxes)

    def carry_mask(self, film: int, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Carry a mask of a whole film, (h, w) of any size, into its input (S, S)."""
        return self._geometry(film).mask_to_input(mask)

    def carry_back(self, film: int, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Carry boxes (k, 4) of the input of a film to its stored pixels, clipped to the film."""
        return self._geometry(film).to_stored(boxes)

    def _geometry(self, film: int) -> InputGeometry:
        height, width = self.data.sizes[film]
        return self.geometry(int(height), int(width))

    def _stored(self, film: int, shares: NDArray[np.float64]) -> NDArray[np.float32]:
        return (shares * self._sides(film)).astype(np.float32)

    def _sides(self, film: int) -> NDArray[np.int64]:
        sides: NDArray[np.int64] = self.data.sizes[film][[1, 0, 1, 0]]
        return sides


SHIFTS = 0.5 * np.array([(0, 0), *((x, y) for y in (-1, 0, 1) for x in (-1, 0, 1) if x or y)])
"""Half-steps (9, 2) in x and y, as shares of the sides of a region; the first stays in place."""


def move_shares(shares: NDArray[np.float64], shifts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move film-relative boxes (k, 4) by shifts (s, 2) of their sides, without leaving the film.

    Returns (s k, 4): all boxes by the first shift, then by the second, ...
    """
    sides = shares[:, 2:] - shares[:, :2]
    low = shares[None, :, :2] + shifts[:, None, :] * sides
    low = np.clip(low, 0.0, np.maximum(1.0 - sides, 0.0))
    moved: NDArray[np.float64] = np.concatenate([low, low + sides], axis=2).reshape(-1, 4)
    return moved


def spread_over_patients(
    films: NDArray[np.int64], patients: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Put films (n,) in random order, one of each of the patients (N,) before the second of any.

    Any beginning of it holds as many patients as it can.
    """
    shuffled = rng.permutation(films)
    by_patient = np.argsort(patients[shuffled], kind="stable")
    who = patients[shuffled][by_patient]
    turn = np.empty(len(films), dtype=np.int64)
    turn[by_patient] = np.arange(len(films)) - np.searchsorted(who, who)
    return shuffled[np.argsort(turn, kind="stable")]


def compare_pairs(
    change: tuple[NDArray[np.float64], NDArray[np.bool_]],
    control: tuple[NDArray[np.float64], NDArray[np.bool_]],
    patients: NDArray[np.int64],  # (n,) of the film of each pair
    evidence: EvidenceConfig,
    comparisons: int,
) -> PairedChange:
    """Compare changes with those of their controls, pair by pair.

    Either are the changes of the margin (n,) in logits, and whether the decision changed (n,).
    Intervals are corrected for `comparisons` by Bonferroni.
    """
    known, patient = np.unique(patients, return_inverse=True)
    bootstrap = PatientBootstrap(patient.astype(np.int64), evidence.draws, evidence.seed)
    contrast = change[0] - control[0]
    decisions = change[1].astype(np.float64) - control[1]
    intervals = [
        percentile_interval(bootstrap.mean(values), evidence.confidence, comparisons)
        for values in (contrast, decisions)
    ]
    return PairedChange(
        pairs=len(patients),
        patients=len(known),
        change=float(change[0].mean()),
        control=float(control[0].mean()),
        contrast=float(contrast.mean()),
        interval=intervals[0],
        decisions=float(decisions.mean()),
        decisions_interval=intervals[1],
    )
