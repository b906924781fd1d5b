"""Films as the model sees them, and how changes of its margins are compared in pairs.

Nothing here knows how the model works: `ModelInputs.margins` takes pictures and returns margins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.counterfactual.fills import Interpolation
from ravl_med.evidence.results import PairedChange
from ravl_med.evidence.statistics import mean_interval, mean_test, share_interval
from ravl_med.regions.geometry import InputGeometry
from ravl_med.regions.looks import measure_textures


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
    untouched: Callable[[NDArray[np.int64]], Margins]  # films (n,) to `Margins`
    like: Interpolation
    tick: Callable[[int], None]  # called with the number of steps that were done

    def texture(self, regions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Measure how regions (k,) look, (k, T), see `measure_textures`."""
        films, boxes = self.data.region_image[regions], self.data.region_boxes[regions]
        pairs = zip(films.tolist(), boxes[:, None], strict=True)
        carried = [np.empty((0, 4), np.float32), *(self.carry_in(*pair) for pair in pairs)]
        return measure_textures(self.read, films, np.concatenate(carried))

    def shares(self, regions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return boxes of regions as shares of width and height of their film, (k, 4) xyxy."""
        sides = self.data.sizes[self.data.region_image[regions]][:, [1, 0, 1, 0]]
        shares: NDArray[np.float64] = self.data.region_boxes[regions] / sides
        return shares

    def place(self, film: int, shares: NDArray[np.float64]) -> NDArray[np.float32]:
        """Carry film-relative boxes (k, 4) into the input of a film, clipped to what is seen."""
        return self.carry_in(
            film, (shares * self.data.sizes[film][[1, 0, 1, 0]]).astype(np.float32)
        )

    def frame(self, film: int) -> NDArray[np.float32]:
        """Return what of the model's input is film and not padding, (4,) xyxy."""
        height, width = self.data.sizes[film]
        whole = np.array([[0, 0, width, height]], dtype=np.float32)
        framed: NDArray[np.float32] = self.carry_in(film, whole)[0]
        return framed

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


def class_margin(
    logits: NDArray[np.floating],  # (n, C)
    raised: int | NDArray[np.int64],  # one class, or one for each row
    opposed: int | NDArray[np.int64] | None,
) -> NDArray[np.float64]:
    """Return the logit of one class minus that of another, row by row.

    Without an opposed class the largest other logit stands for it: the margin of the decision,
    positive where the raised class wins. The largest is sought again after each intervention. To
    keep the class that was largest before would favour it: it was chosen for a high value, which
    falls back by itself.
    """
    rows = np.arange(len(logits))
    exact = logits.astype(np.float64)
    own = exact[rows, raised]
    if opposed is not None:
        margin: NDArray[np.float64] = own - exact[rows, opposed]
        return margin
    exact[rows, raised] = -np.inf
    best: NDArray[np.float64] = own - exact.max(axis=1)
    return best


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
    change: tuple[NDArray[np.float64], NDArray[np.floating]],
    control: tuple[NDArray[np.float64], NDArray[np.floating]],
    patients: NDArray[np.int64],  # (n,) of the film of each pair
    confidence: float,
    least: float,  # logits; the test is of more than that
) -> PairedChange:
    """Compare changes with those of their controls, pair by pair.

    Either are the changes of the margin (n,) in logits, and whether the decision changed (n,), 0 to
    1.
    """
    contrast, decisions = (one - other for one, other in zip(change, control, strict=True))
    own, beyond = (mean_interval(values, patients, confidence) for values in (change[0], contrast))
    return PairedChange(
        pairs=len(patients),
        patients=len(np.unique(patients)),
        change=float(change[0].mean()),
        change_interval=own,
        control=float(control[0].mean()),
        contrast=float(contrast.mean()),
        interval=beyond,
        decisions=float(decisions.mean()),
        decisions_interval=share_interval(decisions, patients, confidence),
        p_value=max(mean_test(values, patients, least) for values in (change[0], contrast)),
    )
