"""Removal: whether the margin falls when the feature is filled in, and which regions carry it.

Choosing the region with the largest drop and testing that drop on the same film is circular: on
pure noise the best of nine regions drops by more than a standard deviation. So the control makes
the same choice. It is a film of the same class without the feature, filled at the same places;
its best of k stands against the best of k of the feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.counterfactual.fills import fill_contrast, fill_inpaint, fill_median
from ravl_med.evidence.counterfactual.model_inputs import (
    ModelInputs,
    compare_pairs,
    spread_over_patients,
)
from ravl_med.evidence.results import PairedChange

CANDIDATES = 8
"""Films that are looked at for each control."""

_DISCOVERY_PART = 1 / 3
_FAINT = 1e-3  # in units of the input; a flat region has no contrast at all


@dataclass(frozen=True, slots=True, eq=False)
class FilledFilm:
    """A film before and after each of its k regions is filled, in two ways.

    The median of the surroundings can itself look like a device to a model, and inpainting can
    leave a trace of what it covers; a region is judged by the mean of both.
    """

    film: int
    boxes: NDArray[np.float32]  # (k, 4) xyxy in input pixels
    before: float  # margin
    decided: bool  # for the raised class
    after: NDArray[np.float64]  # (k, 2) margin with the surrounding median, inpainted
    decided_after: NDArray[np.bool_]  # (k, 2)

    @property
    def effect(self) -> NDArray[np.float64]:
        """Removal effect of each region, shape (k,): positive where it speaks for the class."""
        effect: NDArray[np.float64] = self.before - self.after.mean(axis=1)
        return effect

    @property
    def best(self) -> int:
        """Position of the region with the largest removal effect."""
        return int(np.argmax(self.effect))


@dataclass(frozen=True, slots=True, eq=False)
class FilmPair:
    """A film with the feature, its control, and how strongly the fill changes each."""

    film: int
    control: int
    # (k, 4) the regions of the film, carried to the same place of the control; xyxy in input
    # pixels
    control_boxes: NDArray[np.float32]
    contrast_ratio: float  # of the film over that of the control


def fill_films(
    inputs: ModelInputs, jobs: Sequence[tuple[int, NDArray[np.float32]]]
) -> list[FilledFilm]:
    """Fill boxes (k, 4), in input pixels, one at a time and measure the margin after each."""

    def pictures() -> Iterator[NDArray[np.float32]]:
        for film, boxes in jobs:
            picture = inputs.read(film)
            yield picture
            for box in boxes:
                yield fill_median(picture, box)
                yield fill_inpaint(picture, box)

    answers = inputs.margins(pictures())
    filled, start = [], 0
    for film, boxes in jobs:
        end = start + 1 + 2 * len(boxes)
        filled.append(
            FilledFilm(
                film=film,
                boxes=boxes,
                before=float(answers.margin[start]),
                decided=bool(answers.decided[start]),
                after=answers.margin[start + 1 : end].reshape(-1, 2),
                decided_after=answers.decided[start + 1 : end].reshape(-1, 2),
            )
        )
        start = end
    return filled


def sample_films(
    data: AuditData,
    cluster: FeatureCluster,
    discovery: NDArray[np.bool_],  # (N,)
    max_removals: int,
    max_pairs: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sample the films whose regions are filled, with all their regions of the cluster.

    A third of the regions is for the discovery half, the rest for the other half, which carries
    the test; what one half cannot use goes to the other. Films that a control can be found for come
    first.

    Returns
    -------
    films : ndarray of shape (n,), int64 - of both halves, all that are measured
    testable : ndarray of shape (m,), int64 - those of the confirmation half to find controls for;
        of each class no more than there are controls, at most `max_pairs` in all
    """
    labels, patients = data.labels, data.patients
    size = np.bincount(data.region_image[cluster.regions], minlength=len(labels))
    with_feature = (size > 0) & (labels >= 0)
    found = spread_over_patients(np.flatnonzero(with_feature & discovery), patients, rng)
    other = spread_over_patients(np.flatnonzero(with_feature & ~discovery), patients, rng)
    free = np.bincount(
        labels[(labels >= 0) & ~cluster.present & ~discovery], minlength=len(data.classes)
    )
    controlled = _rank_in_class(labels[other]) < free[labels[other]]
    testable = other[controlled][:max_pairs]
    other = np.concatenate([testable, other[~np.isin(other, testable)]])

    def take(films: NDArray[np.int64], regions: int) -> NDArray[np.int64]:
        count = int(np.searchsorted(np.cumsum(size[films]), regions, side="right"))
        return films[: max(count, 1)]

    first = take(found, int(max_removals * _DISCOVERY_PART))
    second = take(other, max_removals - int(size[first].sum()))
    first = take(found, max(max_removals - int(size[second].sum()), int(size[first].sum())))
    return np.concatenate([first, second]), testable[np.isin(testable, second)]


def _rank_in_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the same class came before, (n,)."""
    same = labels[:, None] == np.unique(labels)
    rank: NDArray[np.int64] = np.where(same, np.cumsum(same, axis=0) - 1, 0).sum(axis=1)
    return rank


def match_controls(
    inputs: ModelInputs,
    cluster: FeatureCluster,
    discovery: NDArray[np.bool_],  # (N,)
    places: Mapping[int, NDArray[np.float64]],  # film to boxes (k, 4) as shares of its sides
    rng: np.random.Generator,
) -> list[FilmPair]:
    """Find a control for each film: same class, same half, without the feature.

    Each control is used once, since the bootstrap of the films would not notice the noise of a
    control that many of them share. Among a random handful, films of other patients first, the one
    is taken that the fill of the same places changes about as strongly. Films of which the model
    sees less than half as much of some place are passed over; a film without any control is left
    out.
    """
    data = inputs.data
    films = np.array(list(places), dtype=np.int64)
    pairs = []
    for label in np.unique(data.labels[films]):
        own = films[data.labels[films] == label]
        free = np.flatnonzero((data.labels == label) & ~cluster.present & ~discovery)
        # Twice as many as are needed: choice enough, and few films to read.
        pool = spread_over_patients(free, data.patients, rng)
        pool = pool[: max(CANDIDATES, 2 * len(own))]
        for film in own:
            shares = places[int(film)]
            order = rng.permutation(pool)
            foreign = data.patients[order] != data.patients[film]
            handful = order[np.argsort(~foreign, kind="stable")][:CANDIDATES]
            pair = _nearest_control(inputs, int(film), shares, handful)
            if pair is not None:
                pairs.append(pair)
                pool = pool[pool != pair.control]
            inputs.tick(CANDIDATES)
    return pairs


def _nearest_control(
    inputs: ModelInputs, film: int, shares: NDArray[np.float64], handful: NDArray[np.int64]
) -> FilmPair | None:
    """Pick the film of a handful that the fill changes about as strongly as it changes `film`."""

    def contrast(of: int, boxes: NDArray[np.float32]) -> float:
        picture = inputs.read(of)
        return _FAINT + sum(fill_contrast(picture, box) for box in boxes)

    own = contrast(film, inputs.place(film, shares))
    seen = inputs.visible_share(film, shares)
    nearest: FilmPair | None = None
    for control in handful:
        if (inputs.visible_share(int(control), shares) < 0.5 * seen).any():
            continue
        boxes = inputs.place(int(control), shares)
        ratio = own / contrast(int(control), boxes)
        if nearest is None or abs(np.log(ratio)) < abs(np.log(nearest.contrast_ratio)):
            nearest = FilmPair(film, int(control), boxes, ratio)
    return nearest


def carrying_threshold(filled: Sequence[FilledFilm]) -> float:
    """Return the least effect of a region that carries the feature.

    Half of the median, over films of the discovery half, of the largest effect in the film, at
    least 0; 0 without a film. A device that spans several tiles leaves some of them with a corner
    of it, whose effect is a small part of the whole.
    """
    if not filled:
        return 0.0
    return max(0.0, 0.5 * float(np.median([film.effect.max() for film in filled])))


def compare_removals(
    inputs: ModelInputs,
    pairs: Sequence[FilmPair],
    filled: Sequence[FilledFilm],  # the films of the pairs
    evidence: EvidenceConfig,
    comparisons: int,
) -> tuple[PairedChange, PairedChange, float]:
    """Test whether removal lowers the margin, against the controls.

    Returns
    -------
    median, inpainted : PairedChange - drop of the margin when the best region of k, by the mean of
        both fills, is filled with its surrounding median, and when it is inpainted
    spread : float - standard deviation of the margin over the films and the controls, untouched
    """
    controls = fill_films(inputs, [(pair.control, pair.control_boxes) for pair in pairs])
    both = [*filled, *controls]
    before = np.array([f.before for f in both])
    decided = np.array([f.decided for f in both])
    after = np.array([f.after[f.best] for f in both])
    held = np.array([f.decided_after[f.best] for f in both])
    patients = inputs.data.patients[[pair.film for pair in pairs]]
    n = len(pairs)

    def compare(fill: int) -> PairedChange:
        drop, lost = before - after[:, fill], decided & ~held[:, fill]
        return compare_pairs(
            (drop[:n], lost[:n]), (drop[n:], lost[n:]), patients, evidence, comparisons
        )

    return compare(0), compare(1), float(before.std())
