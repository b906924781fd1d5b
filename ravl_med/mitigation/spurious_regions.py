"""Where mitigated features lie in films that had no part in the audit, and the groups they make.

Regions go to the nearest frozen medoid; removal then shows which of them carry the feature. Groups
are classes crossed with its presence.

A grid of tiles cuts a device in two. With half of it covered the other half is still there, and the
model goes on seeing it. So regions may be moved by half of their sides; some films settle whether
and where to, and how large an effect has to be.

What lies on the same films and was not needed so far, the lead of a generator, would take the place
of the feature once that is dealt out anew. So it is dealt out with it. It is looked for among the
clusters of the audit, class by class: what shows the finding itself goes with the class.

References
----------
Mantel and Haenszel, J Natl Cancer Inst 22 (1959), 719-748: test of association over strata; the
difference of shares has its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from ravl_med.discovery.candidates import FeatureDetector, Texture
from ravl_med.errors import ConfigError
from ravl_med.evidence.counterfactual.interventions import fill_films
from ravl_med.evidence.counterfactual.model_inputs import ModelInputs
from ravl_med.evidence.results import ConfirmedFeature
from ravl_med.evidence.statistics import spread_positions
from ravl_med.mitigation.trainer import Selection

_FILMS_AT_ONCE = 64


def choose_features(
    features: Sequence[ConfirmedFeature], force: Sequence[int]
) -> tuple[ConfirmedFeature, ...]:
    """Choose the confirmed shortcuts that count, and whatever has a rank that is forced.

    Raises
    ------
    ConfigError
        A forced rank is of no correlation of the audit.
    """
    known = {feature.rank for feature in features}
    unknown = sorted(set(force) - known)
    if unknown:
        raise ConfigError(
            f"mitigation.force names rank {unknown[0]}; expected ranks of correlations of the "
            f"audit: {', '.join(map(str, sorted(known))) or 'there is none'}."
        )
    return tuple(f for f in features if f.rank in force or (f.kind == "shortcut" and f.counts))


def find_features(
    detectors: Sequence[FeatureDetector],
    regions: NDArray[np.float32],
    shares: NDArray[np.floating],
    texture: Texture,
) -> NDArray[np.bool_]:
    """Return which regions belong to which feature, (R, F).

    Their embeddings are (R, D), unit norm; they lie at `shares` of their films, (R, 4), xyxy; the
    texture is measured of those that a feature with a place asks for.
    """
    if not detectors:
        return np.zeros((len(regions), 0), dtype=np.bool_)
    return np.stack([detector.find(regions, shares, texture) for detector in detectors], axis=1)


_EXPLORED_FILMS = 8
_SHIFTS = 0.5 * np.array([(0, 0), *((x, y) for y in (-1, 0, 1) for x in (-1, 0, 1) if x or y)])
_GAIN = 0.25  # by what share a shift has to raise the largest effect in a film, and
_MATTERS = 0.2  # by what share of the standard deviation of the margin over these films


@dataclass(frozen=True, slots=True, eq=False)
class TrimmingRule:
    """Where regions of a feature are filled, and from which effect on they carry it."""

    shifts: NDArray[np.float64]  # (1, 2) or (2, 2) shares of a region's sides; the first is (0, 0)
    threshold: float  # logits


def settle_rule(
    inputs: ModelInputs, films: Sequence[int], regions: Mapping[int, NDArray[np.int64]]
) -> TrimmingRule:
    """Settle how the regions of a feature are filled, on some films with it.

    The regions stay where they are; and the one shift is added that raises the largest effect in a
    film most, on average, if it raises it by a quarter and by enough to matter. A region carries
    the feature from half of the median, over the films, of the largest effect in a film.
    """
    jobs = [
        (film, inputs.place(film, move_shares(inputs.shares(regions[film]), _SHIFTS)))
        for film in films[:_EXPLORED_FILMS]
    ]
    if not jobs:
        return TrimmingRule(_SHIFTS[:1], 0.0)
    filled = fill_films(inputs, jobs)
    best = np.array([film.effect.reshape(len(_SHIFTS), -1).max(axis=1) for film in filled])
    spread = float(np.std([film.before for film in filled]))
    together = np.maximum(best, best[:, :1])
    mean = together.mean(axis=0)
    chosen = int(mean.argmax())
    gain = mean[chosen] - mean[0]
    if not (mean[chosen] > 0 and gain > max(_GAIN * abs(mean[0]), _MATTERS * spread)):
        chosen = 0
    threshold = max(0.0, 0.5 * float(np.median(together[:, chosen])))
    return TrimmingRule(_SHIFTS[[0, chosen] if chosen else [0]], threshold)


def move_shares(shares: NDArray[np.float64], shifts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move film-relative boxes (k, 4) by shifts (s, 2) of their sides, without leaving the film.

    Returns (s k, 4): all boxes by the first shift, then by the second, ...
    """
    sides = shares[:, 2:] - shares[:, :2]
    low = shares[None, :, :2] + shifts[:, None, :] * sides
    low = np.clip(low, 0.0, np.maximum(1.0 - sides, 0.0))
    moved: NDArray[np.float64] = np.concatenate([low, low + sides], axis=2).reshape(-1, 4)
    return moved


def locate_carriers(
    inputs: ModelInputs,  # of these films, asking for the margin of the feature's classes
    found: NDArray[np.bool_],  # (R,) regions of the feature
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the regions that carry a feature: those whose removal lowers the margin enough.

    In a film without such a region it is the one whose removal lowers the margin most. Return films
    (M,), ascending, and boxes (M, 4), xyxy in input pixels: the region, or its place half a step
    aside where more of the effect lies there.
    """
    regions = regions_by_film(found, inputs.data.region_image)
    rule = settle_rule(inputs, films_to_explore(list(regions)), regions)
    return carriers_in(inputs, regions, rule, progress)


def regions_by_film(
    found: NDArray[np.bool_], region_image: NDArray[np.int64]
) -> dict[int, NDArray[np.int64]]:
    """Return the regions of a feature film by film, of the films that have some, ascending.

    Both arrays are (R,); `region_image` ascends.
    """
    rows = np.flatnonzero(found)
    films, starts = np.unique(region_image[rows], return_index=True)
    return dict(zip(films.tolist(), np.split(rows, starts[1:]), strict=True)) if len(rows) else {}


def films_to_explore(films: Sequence[int]) -> list[int]:
    """Return the films that shifts of their regions are tried on, spread over all of them."""
    return [films[i] for i in spread_positions(len(films), _EXPLORED_FILMS)]


def carriers_in(
    inputs: ModelInputs,
    regions: Mapping[int, NDArray[np.int64]],  # (k,) regions of the feature
    rule: TrimmingRule,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the regions of some films that carry a feature, see `locate_carriers`."""
    films, shifts = list(regions), rule.shifts
    where, boxes = [], []
    for start in range(0, len(films), _FILMS_AT_ONCE):
        part = films[start : start + _FILMS_AT_ONCE]
        jobs = [
            (film, inputs.place(film, move_shares(inputs.shares(regions[film]), shifts)))
            for film in part
        ]
        for filled in fill_films(inputs, jobs):
            count = len(regions[filled.film])
            effect = filled.effect.reshape(len(shifts), count)
            best = effect.argmax(axis=0), np.arange(count)
            carries = (effect[best] > 0) & (effect[best] >= rule.threshold)
            # A film of the cluster in which nothing reaches the threshold mostly has the feature
            # all the same; left as it is, it would go on tying the feature to its class.
            if not carries.any():
                carries[effect[best].argmax()] = True
            where += [filled.film] * int(carries.sum())
            boxes.append(filled.boxes.reshape(len(shifts), count, 4)[best][carries])
        progress(min(start + len(part), len(films)), len(films))
    located = np.concatenate(boxes) if boxes else np.empty((0, 4), np.float32)
    return np.array(where, dtype=np.int64), located.astype(np.float32)


_LEVEL = 0.05  # of the test, shared among the clusters


def find_co_occurring(
    holds: NDArray[np.bool_], present: NDArray[np.bool_], labels: NDArray[np.int64], least: float
) -> NDArray[np.int64]:
    """Find the clusters (k,) that films with the feature hold more often, class by class.

    `holds` (N, K) says which film has a region of which cluster, `present` (N,) which has the
    feature. A cluster is taken where the share of films that hold it rises by `least` with the
    feature, and beyond chance; 1 takes none. The feature's own cluster is among them.
    """
    excess = np.zeros(holds.shape[1])
    variance = np.zeros(holds.shape[1])
    weight = 0.0
    for label in np.unique(labels[labels >= 0]):
        stratum = labels == label
        films, having = int(stratum.sum()), int((stratum & present).sum())
        bare = films - having
        if having == 0 or bare == 0:
            continue
        holding = holds[stratum].sum(axis=0)
        excess += holds[stratum & present].sum(axis=0) - having * holding / films
        variance += having * bare * holding * (films - holding) / (films**2 * (films - 1))
        weight += having * bare / films
    if weight == 0.0 or least >= 1.0:
        return np.empty(0, dtype=np.int64)
    beyond = excess > norm.isf(_LEVEL / holds.shape[1]) * np.sqrt(variance)
    return np.flatnonzero(beyond & (excess / weight >= least))


@dataclass(frozen=True, slots=True, eq=False)
class PseudoGroups:
    """Groups of N films."""

    names: tuple[str, ...]
    of_film: NDArray[np.int64]  # (N,) 0 .. G - 1; -1 for films without a class

    @classmethod
    def cross(
        cls,
        labels: NDArray[np.int64],  # (N,) -1 without a class
        present: NDArray[np.bool_],  # (N,)
        classes: tuple[str, ...],
    ) -> PseudoGroups:
        """Cross classes with the presence of any mitigated feature."""
        names = tuple(
            f"{name}, {side} the feature" for name in classes for side in ("without", "with")
        )
        return cls(names, np.where(labels < 0, -1, 2 * labels + present))

    def sizes(self) -> NDArray[np.int64]:
        """Return the films of each group, shape (G,)."""
        return np.bincount(self.of_film[self.of_film >= 0], minlength=len(self.names))

    def pooled(self, least: int) -> PseudoGroups:
        """Return the groups with those of fewer than `least` films joined into one.

        A pool that is still too small joins the smallest other group.
        """
        sizes = self.sizes()
        small = [g for g in np.argsort(sizes, kind="stable") if 0 < sizes[g] < least]
        if not small:
            return self
        rest = [g for g in np.argsort(sizes, kind="stable") if sizes[g] >= least]
        if sizes[small].sum() < least and rest:
            small.append(rest[0])
        number = np.arange(len(self.names))
        number[small] = small[0]
        names = list(self.names)
        names[small[0]] = " + ".join(self.names[g] for g in sorted(small))
        return PseudoGroups(
            tuple(names), np.where(self.of_film < 0, -1, number[np.maximum(self.of_film, 0)])
        )

    def used(self) -> PseudoGroups:
        """Return the groups without those that hold no film."""
        kept = np.flatnonzero(self.sizes())
        number = np.full(len(self.names), -1)
        number[kept] = np.arange(len(kept))
        return PseudoGroups(
            tuple(self.names[g] for g in kept),
            np.where(self.of_film < 0, -1, number[np.maximum(self.of_film, 0)]),
        )

    def accuracy(self, correct: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the accuracy of each group, shape (G,); NaN for an empty one."""
        known = self.of_film >= 0
        sizes = self.sizes()
        right = np.bincount(self.of_film[known], weights=correct[known], minlength=len(self.names))
        share: NDArray[np.float64] = np.full(len(self.names), np.nan)
        np.divide(right, sizes, out=share, where=sizes > 0)
        return share


def sampling_weights(groups: PseudoGroups) -> NDArray[np.float64]:
    """Return the chance of each film to be drawn, shape (N,), so that groups are drawn alike.

    Films without a class are drawn as often as the average film.
    """
    sizes = groups.sizes()
    known = groups.of_film >= 0
    weight = np.zeros(len(groups.of_film))
    weight[known] = 1.0 / sizes[groups.of_film[known]]
    if known.any():
        weight[~known] = weight[known].mean()
    else:
        weight[:] = 1.0
    normal: NDArray[np.float64] = weight / weight.sum()
    return normal


def select_by_groups(groups: PseudoGroups, correct: NDArray[np.bool_]) -> Selection:
    """Judge weights by the worst group, and by all films."""
    accuracy = groups.accuracy(correct)
    known = groups.of_film >= 0
    return Selection(float(np.nanmin(accuracy)), float(correct[known].mean()))
