"""Where the mitigated features lie in films that took no part in the audit.

Regions go to the nearest frozen medoid; then removal asks the audited model which of them carry the
feature, by the rule that the audit fixed on its discovery half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.detector import FeatureDetector
from ravl_med.errors import ConfigError
from ravl_med.evidence.counterfactual.localisation import EXPLORED_FILMS, choose_shifts, move_shares
from ravl_med.evidence.counterfactual.model_inputs import ModelInputs
from ravl_med.evidence.counterfactual.removal import fill_films
from ravl_med.evidence.results import ConfirmedFeature

_FILMS_AT_ONCE = 64


def choose_features(
    features: Sequence[ConfirmedFeature], force: Sequence[int]
) -> tuple[ConfirmedFeature, ...]:
    """Choose the confirmed shortcuts that count, and those whose ranks are forced.

    Raises
    ------
    ConfigError
        A forced rank is of no confirmed feature.
    """
    known = {feature.rank for feature in features}
    unknown = sorted(set(force) - known)
    if unknown:
        raise ConfigError(
            f"mitigation.force names rank {unknown[0]}; expected confirmed correlations that were "
            f"tested by counterfactuals: {', '.join(map(str, sorted(known))) or 'there is none'}."
        )
    return tuple(f for f in features if f.rank in force or (f.kind == "shortcut" and f.counts))


def find_features(
    detectors: Sequence[FeatureDetector], regions: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Return which regions (R, D), unit norm, belong to which feature, (R, F)."""
    if not detectors:
        return np.zeros((len(regions), 0), dtype=np.bool_)
    return np.stack([detector.find(regions) for detector in detectors], axis=1)


def locate_carriers(
    inputs: ModelInputs,  # of these films, asking for the margin of the detector's classes
    detector: FeatureDetector,
    found: NDArray[np.bool_],  # (R,) regions of the feature
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the regions that carry a feature: those whose removal lowers the margin enough.

    In a film without such a region it is the one whose removal lowers the margin most. Return films
    (M,), ascending, and boxes (M, 4), xyxy in input pixels: the region, or its place half a step
    aside where more of the effect lies there.
    """
    regions = regions_by_film(found, inputs.data.region_image)
    shifts = choose_shifts(inputs, films_to_explore(list(regions)), regions)
    return carriers_in(inputs, detector, regions, shifts, progress)


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
    return [films[i] for i in _spread(len(films), EXPLORED_FILMS)]


def carriers_in(
    inputs: ModelInputs,
    detector: FeatureDetector,
    regions: Mapping[int, NDArray[np.int64]],  # (k,) regions of the feature
    shifts: NDArray[np.float64],  # (s, 2) see `choose_shifts`
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the regions of some films that carry a feature, see `locate_carriers`."""
    films = list(regions)
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
            carries = (effect[best] > 0) & (effect[best] >= detector.threshold)
            # A film of the cluster in which nothing reaches the threshold mostly has the feature
            # all the same; left as it is, it would go on tying the feature to its class.
            if not carries.any():
                carries[effect[best].argmax()] = True
            where += [filled.film] * int(carries.sum())
            boxes.append(filled.boxes.reshape(len(shifts), count, 4)[best][carries])
        progress(min(start + len(part), len(films)), len(films))
    located = np.concatenate(boxes) if boxes else np.empty((0, 4), np.float32)
    return np.array(where, dtype=np.int64), located.astype(np.float32)


def _spread(count: int, wanted: int) -> list[int]:
    """Positions spread over a list, at most so many."""
    places: list[int] = np.unique(
        np.linspace(0, count - 1, min(wanted, count)).astype(int)
    ).tolist()
    return places
