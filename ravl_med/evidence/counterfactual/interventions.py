"""Interventions: whether the margin falls when a feature is removed, and rises when it is put in.

Removal also says which regions carry the feature. Choosing the region with the largest drop and
testing that drop on the same film is circular: on pure noise the best of nine regions drops by more
than a standard deviation. So the control makes the same choice. It is a film of the same class
without the feature, filled at the same places; its best of k stands against the best of k of the
feature.

In a transplant the regions of a film with the feature go, all together, into a film of another
class; as a control the same places of an ordinary film go into the same target. Choosing the region
with the largest removal effect instead would answer another question: whatever the cluster is, the
best region of its films is one that the model uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.counterfactual.fills import (
    fill_contrast,
    fill_inpaint,
    fill_median,
    transplant_patches,
)
from ravl_med.evidence.counterfactual.model_inputs import (
    SHIFTS,
    ModelInputs,
    compare_pairs,
    move_shares,
    spread_over_patients,
)
from ravl_med.evidence.results import PairedChange

CANDIDATES = 8
"""Films that are looked at for each control."""

_DISCOVERY_PART = 1 / 3
_LEAST_SEEN = 0.5  # of a place, in each of the films of a transplant
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
