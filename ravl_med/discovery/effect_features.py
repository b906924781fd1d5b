"""Features that effects propose: what holds up a class, found by where filling moves the answer.

Clusters hold what looks alike. A thing that is a small part of its region, or that many clusters
share, is in none of them; but films differ by it, and the model's answers with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_1samp

from ravl_med.discovery.candidates import (
    ANYWHERE,
    PLACES,
    FeatureCluster,
    FeatureDetector,
    Texture,
    measure_candidate,
    score_place,
)
from ravl_med.discovery.clusters import FeatureClusters
from ravl_med.discovery.ravl import AuditData, influence_scores, performance_gaps, strongest_regions
from ravl_med.storage.mapped_arrays import multiply, take_rows


@dataclass(frozen=True, slots=True, eq=False)
class RegionEffects:
    """What m regions of some films hold up, by filling windows over them.

    Effects are drops of the margin of each class against the rest, in standard deviations of that
    margin over films, less the usual drop of the place; -inf where no window lay over it.
    """

    regions: NDArray[np.int64]  # (m,)
    films: NDArray[np.int64]  # (m,)
    effect: NDArray[np.float64]  # (m, C) of the strongest window over each region
    mean: NDArray[np.float64]  # (m, C) of all of these windows, the coarse ones
    places: NDArray[np.int64]  # (m,) of `places_of`; -1: another region of the film stands for it


@dataclass(frozen=True, slots=True, eq=False)
class EffectFeature:
    """Regions that look alike to the model and hold up a class: what tells them from the rest."""

    raised_class: int
    # a region belongs to it if it lies along: its embedding, (D,); with a place see `score_place`
    direction: NDArray[np.float32]
    films: int  # that it was learned from
    effect: float  # median over them, in standard deviations of the margin
    place: int = ANYWHERE  # of `places_of`, where it lies

    @property
    def medoids(self) -> NDArray[np.float32]:
        """The feature as the second of two medoids (2, D): the nearest by inner product."""
        return np.stack([np.zeros_like(self.direction), self.direction])

    def find(
        self, regions: NDArray[np.float32], shares: NDArray[np.floating], texture: Texture
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return which of the regions (R, D) belong to it, the surest first, and how surely."""
        if self.place == ANYWHERE:
            score = multiply(regions, self.direction[:, None])[:, 0]
            rows = np.arange(len(score))
        else:
            rows, score = score_place(self.place, self.direction, regions, shares, texture)
        order = np.argsort(-score, kind="stable")[: int((score > 0).sum())]
        return rows[order], score[order]


_MOST_GROUPS = 5  # kinds of regions that hold up one class
FEWEST_FILMS = 6
"""Films that a kind is learned from, at least."""

_FAINT_EFFECT = 0.25  # standard deviations of the margin below which nothing is proposed
_TOP_FILMS = 20  # by which the effect of a class is judged
_OTHERS = 4000  # regions that a kind is told from


def propose_from_effects(
    embeddings: NDArray[np.float32], effects: RegionEffects, seed: int
) -> list[EffectFeature]:
    """Group the regions that hold up each class into features, by their embeddings.

    Each film gives the region with the largest effect, if it is at least half of what the strongest
    films show. Several lie under its strongest window; it is the one over which windows show an
    effect on the mean. They are grouped by average linkage and cosine distance, into as many groups
    as the silhouette asks for; a linear discriminant tells each group from regions without effect.
    A discriminant finds what no cluster holds: a feature that is a small part of what a region is.

    Parameters
    ----------
    embeddings : ndarray of shape (R, D), float32 - of all regions, unit norm
    """
    rng = np.random.default_rng([seed, 8])
    own = take_rows(embeddings, effects.regions)
    one = _constant(own)
    features = []
    for label in range(effects.effect.shape[1]):
        effect = effects.effect[:, label]
        best = _best_of_films(effects.films, effect, effects.mean[:, label])
        strong = np.sort(effect[best])[-_TOP_FILMS:]
        least = max(0.5 * float(np.median(strong)), _FAINT_EFFECT) if len(strong) else math.inf
        holding = best[effect[best] >= least]
        quiet = np.flatnonzero(effect < 0.5 * least)
        if len(holding) < FEWEST_FILMS or len(quiet) < FEWEST_FILMS:
            continue
        quiet = quiet[rng.permutation(len(quiet))[:_OTHERS]]
        for group in _group(own[holding]):
            if len(group) >= FEWEST_FILMS:
                direction = _discriminant(own[holding[group]], own[quiet])
                offset = _halfway(own @ direction, effects.films, holding[group])
                size = float(np.median(effect[holding[group]]))
                direction -= offset * one
                features.append(EffectFeature(label, direction, len(group), size))
    return features


_USUAL = 2 / 3  # share of films from which a feature is what is usual at its place
_FOLDS = 5
_PENALTIES = tuple(np.logspace(-1, 3, 9).tolist())  # of a ridge regression
_CHANCE = 0.01  # over all places and classes, that a regression predicts by chance
_LEAST_PATIENTS = 2 * _FOLDS
_MOST_PLACES = 3  # of a class


def propose_at_places(
    embeddings: NDArray[np.float32],
    effects: RegionEffects,
    patients: NDArray[np.int64],
    texture: Texture,
    seed: int,
) -> list[EffectFeature]:
    """Find what lies in one place of some films and holds up a class there.

    A weak feature is never the strongest of its film. But at its own place it is what the films
    differ by: how much a window holds up is predicted there from the region, its embedding and its
    texture, by ridge regression, on patients that it was not fitted on. Where that is no chance,
    the films of the place are split in two by what is predicted, and a linear discriminant tells
    the two. Of each class the places are proposed where the split explains most of the effects,
    none beside another: the first is often where the body differs.

    Parameters
    ----------
    embeddings : ndarray of shape (R, D), float32 - of all regions, unit norm
    patients : ndarray of shape (N,), int64 - of all films
    """
    placed = np.flatnonzero(effects.places != ANYWHERE)
    looks = texture(effects.regions[placed])
    predicted: list[_Predicted] = []
    places = [np.flatnonzero(effects.places == place) for place in range(PLACES**2)]
    used = [
        (place, rows)
        for place, rows in enumerate(places)
        if len(np.unique(patients[effects.films[rows]])) >= _LEAST_PATIENTS
    ]
    for place, rows in used:
        known, films = effects.mean[rows], effects.films[rows]
        own, who = take_rows(embeddings, effects.regions[rows]), patients[films]
        seen = _Seen.of(own, looks[np.searchsorted(placed, rows)])
        effect = _predict_effects(seen.scaled, known, who)[0]
        for label in range(known.shape[1]):
            holds = _split(effect[:, label], seed)
            one = _Predicted(place, label, films, seen, known[:, label], effect[:, label], holds)
            chance = _p_value(one.effect, one.known, who) * known.shape[1] * len(used)
            if chance <= _CHANCE and holds.sum() >= FEWEST_FILMS and holds.mean() <= _USUAL:
                predicted.append(one)
    features: list[EffectFeature] = []
    for one in sorted(predicted, key=lambda one: -one.size):
        taken = [f.place for f in features if f.raised_class == one.label]
        if len(taken) < _MOST_PLACES and all(_apart(one.place, place) for place in taken):
            features.append(one.feature())
    return features


_MOST_FILMS = 2000  # that margins are learned from


def propose_from_margins(
    embeddings: NDArray[np.float32],
    data: AuditData,
    margins: NDArray[np.float64],
    films: NDArray[np.bool_],
    seed: int,
) -> list[EffectFeature]:
    """Find what raises a class on films of other classes, wherever it lies.

    On its own films a class is held up by its signs, and what else is there mixes with them. But
    among films of one other class the finding is the same: which of them speak for the class hangs
    on what is no sign. So margins, less the mean of the film's class, are predicted from the mean
    of a film's regions by ridge regression, on patients that it was not fitted on. Where that is no
    chance, the films are split in two by their region that lies furthest along, and a linear
    discriminant tells these regions from others, as many of them of the class's own films.

    Parameters
    ----------
    embeddings : ndarray of shape (R, D), float32 - of all regions, unit norm
    margins : ndarray of shape (N, C), float64 - of each class against the rest
    films : ndarray of shape (N,), bool - to learn from
    """
    rng = np.random.default_rng([seed, 15])
    chosen = rng.permutation(np.flatnonzero(films & (data.labels >= 0)))[:_MOST_FILMS]
    rows = np.flatnonzero(np.isin(data.region_image, chosen))
    known, film = np.unique(data.region_image[rows], return_inverse=True)
    own, labels = take_rows(embeddings, rows), data.labels[known]
    seen, wanted = (_less_class(one, labels) for one in (_means(own, film), margins[known]))
    one, features = _constant(own), []
    for label, its in enumerate(labels[film] == np.arange(margins.shape[1])[:, None]):
        other, foreign = np.flatnonzero(labels != label), np.flatnonzero(~its)
        patients, target = data.patients[known[other]], wanted[other, label]
        if len(np.unique(patients)) < _LEAST_PATIENTS or not its.any():
            continue
        predicted, along = _predict_effects(seen[other], target[:, None], patients)
        if _p_value(predicted[:, 0], target, patients) * margins.shape[1] > _CHANCE:
            continue
        score = own @ along[:, 0]
        best = foreign[_best_of_films(film[foreign], score[foreign], score[foreign])]
        holds = _split(score[best], seed)
        if not FEWEST_FILMS <= holds.sum() <= _USUAL * len(best):
            continue
        rest = rng.permutation(np.setdiff1d(foreign, best[holds]))[:_OTHERS]
        outside = np.concatenate([rest, rng.choice(np.flatnonzero(its), len(rest))])
        direction = _discriminant(own[best[holds]], own[outside])
        learned = np.searchsorted(foreign, best[holds])
        offset = _halfway(own[foreign] @ direction, film[foreign], learned)
        size = float(np.median(target[holds])) / max(float(margins[known, label].std()), 1e-9)
        direction -= offset * one
        features.append(EffectFeature(label, direction, int(holds.sum()), size))
    return features


def _means(values: NDArray[np.floating], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of the values (n, k) of each group, numbered from 0."""
    sums = np.zeros((int(groups.max(initial=-1)) + 1, values.shape[1]))
    np.add.at(sums, groups, values)
    means: NDArray[np.float64] = sums / np.bincount(groups)[:, None]
    return means


def _less_class(values: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values of films (n, k) less the mean of their class."""
    which = np.unique(labels, return_inverse=True)[1]
    return np.subtract(values, _means(values, which)[which])


def _apart(place: int, other: int) -> bool:
    """Whether two of `places_of` are no neighbours: what lies in one is not seen in the other."""
    rows, columns = zip(divmod(place, PLACES), divmod(other, PLACES), strict=True)
    return max(abs(rows[0] - rows[1]), abs(columns[0] - columns[1])) > 1


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Embeddings and textures of the regions of one place, on one scale."""

    scaled: NDArray[np.float32]  # (n, D + T)
    factor: NDArray[np.float32]  # (T,) of the textures
    shift: NDArray[np.float32]  # (T,) subtracted then

    @classmethod
    def of(cls, own: NDArray[np.float32], looks: NDArray[np.float32]) -> _Seen:
        """Give each texture the mean 0 and the spread that the numbers of embeddings have."""
        factor = own.std() / np.maximum(looks.std(axis=0), 1e-9)
        shift = looks.mean(axis=0) * factor
        return cls(np.concatenate([own, looks * factor - shift], axis=1), factor, shift)

    def direction(self, scaled: NDArray[np.float32], offset: float) -> NDArray[np.float32]:
        """Return a direction (D + T,) and its offset as one of `score_place`, (D + T + 1,)."""
        split = len(scaled) - len(self.factor)
        least = offset + float(scaled[split:] @ self.shift)
        parts = [scaled[:split], scaled[split:] * self.factor, np.array([-least])]
        return np.concatenate(parts).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Predicted:
    """Effects at one place on one class, and what the regions there say of them."""

    place: int
    label: int
    films: NDArray[np.int64]  # (n,) ascending
    seen: _Seen
    known: NDArray[np.float64]  # (n,)
    effect: NDArray[np.float64]  # (n,) predicted on other patients
    holds: NDArray[np.bool_]  # (n,) by the split of predicted effects

    @property
    def size(self) -> float:
        """Standard deviation of the effects that the split explains, in those of the margin."""
        return float(np.corrcoef(self.holds, self.known)[0, 1] * self.known.std())

    def feature(self) -> EffectFeature:
        """Return what tells the films that have it from the others."""
        here, holds = self.seen.scaled, self.holds
        direction = _discriminant(here[holds], here[~holds])
        offset = _halfway(here @ direction, self.films, np.flatnonzero(holds))
        direction = self.seen.direction(direction, offset)
        size = float(np.median(self.known[holds]))
        return EffectFeature(self.label, direction, int(holds.sum()), size, self.place)


def _p_value(
    predicted: NDArray[np.float64], known: NDArray[np.float64], patients: NDArray[np.int64]
) -> float:
    """Chance that two (n,) go together so well over patients where the one says nothing."""
    if min(np.ptp(known), np.ptp(predicted)) <= 0:
        return 1.0
    own = (predicted - predicted.mean()) * (known - known.mean())
    each = np.bincount(np.unique(patients, return_inverse=True)[1], own)
    return float(ttest_1samp(each, 0.0, alternative="greater").pvalue)


def _split(effect: NDArray[np.float64], seed: int) -> NDArray[np.bool_]:
    """Split predicted effects (n,) in two groups; return which are of the larger ones, (n,)."""
    from sklearn.cluster import KMeans

    if not np.ptp(effect) > 0:
        return np.zeros(len(effect), dtype=np.bool_)
    split = KMeans(2, n_init=5, random_state=seed).fit(effect[:, None])
    return np.asarray(split.labels_ == split.cluster_centers_[:, 0].argmax(), dtype=np.bool_)


def _predict_effects(
    regions: NDArray[np.floating],  # (n, D)
    effects: NDArray[np.float64],  # (n, C)
    patients: NDArray[np.int64],  # (n,)
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predict effects (n, C), each from other patients; and the mean direction of it (D, C)."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold

    predicted, along = np.zeros_like(effects), np.zeros((regions.shape[1], effects.shape[1]))
    scale = max(float(regions.std()), 1e-12)
    for fitted, left in GroupKFold(_FOLDS).split(regions, groups=patients):
        model = RidgeCV(_PENALTIES, alpha_per_target=True)
        model.fit(regions[fitted].astype(np.float64) / scale, effects[fitted])
        answers = model.predict(regions[left].astype(np.float64) / scale)
        predicted[left] = answers.reshape(len(left), -1)  # of one target they are flat
        along += model.coef_.reshape(effects.shape[1], -1).T
    return predicted, along


def _best_of_films(
    films: NDArray[np.int64], effect: NDArray[np.float64], mean: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Position of the region with the largest effect of each film; of equals by the mean."""
    order = np.lexsort((-mean, -effect, films))
    return order[np.unique(films[order], return_index=True)[1]]


def _group(regions: NDArray[np.float32]) -> list[NDArray[np.int64]]:
    """Group regions (n, D) by their embeddings; positions of each group."""
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.metrics import silhouette_score

    best, labels = 0.0, np.zeros(len(regions), dtype=np.int64)
    for count in range(2, min(_MOST_GROUPS, len(regions) // FEWEST_FILMS) + 1):
        model = AgglomerativeClustering(count, metric="cosine", linkage="average")
        found = model.fit_predict(regions)
        score = float(silhouette_score(regions, found, metric="cosine"))
        if score > best and np.bincount(found).min() >= FEWEST_FILMS:  # an odd one out is no kind
            best, labels = score, found
    return [np.flatnonzero(labels == group) for group in range(int(labels.max()) + 1)]


def _discriminant(inside: NDArray[np.float32], outside: NDArray[np.float32]) -> NDArray[np.float32]:
    """Direction (D,), unit norm, that tells regions from others; covariance after Ledoit, Wolf."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
    labels = np.repeat([1, 0], [len(inside), len(outside)])
    model.fit(np.concatenate([inside, outside]).astype(np.float64), labels)
    direction = model.coef_[0]
    return np.asarray(direction / max(float(np.linalg.norm(direction)), 1e-12), dtype=np.float32)


def _constant(regions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Direction (D,) along which regions (n, D) lie about 1 far: an offset in a medoid's form."""
    from sklearn.covariance import LedoitWolf

    exact = regions.astype(np.float64)
    mean = exact.mean(axis=0)
    least = np.linalg.solve(LedoitWolf().fit(exact).covariance_, mean)
    return np.asarray(least / (least @ mean), dtype=np.float32)


def _halfway(
    score: NDArray[np.float32], films: NDArray[np.int64], learned: NDArray[np.int64]
) -> float:
    """Halfway between the best regions (m,) of films that a feature was learned from and others."""
    known, film = np.unique(films, return_inverse=True)
    highest = np.full(len(known), -np.inf)
    np.maximum.at(highest, film, score)
    own = np.isin(known, films[learned])
    if own.all():
        return float(highest.min())
    return float((np.median(highest[own]) + np.median(highest[~own])) / 2.0)


def find_films_like(
    embeddings: NDArray[np.float32],  # (R, D) of all regions
    films: NDArray[np.int64],  # (R,) their films
    inside: NDArray[np.int64],  # regions to learn from
    outside: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return the films with a region that a linear discriminant takes for one of the inside."""
    own, other = (take_rows(embeddings, rng.permutation(o)[:_OTHERS]) for o in (inside, outside))
    along = multiply(embeddings, _discriminant(own, other)[:, None])[:, 0]
    return np.unique(films[along > _halfway(along, films, inside)])


def measure_effect_feature(
    feature: EffectFeature,
    number: int,
    data: AuditData,
    embeddings: NDArray[np.float32],  # (R, D)
    texture: Texture,
    films: NDArray[np.bool_],  # (N,) to look at
    min_films: int,
) -> FeatureCluster:
    """Collect the regions of all films that belong to a feature, and measure its gaps on some.

    The raised class is the one that it holds up, whatever the gaps; its number is that of a cluster
    that no clustering has.
    """
    regions, along = feature.find(embeddings, data.region_shares(), texture)
    present = np.zeros(len(data.labels), dtype=np.bool_)
    present[data.region_image[regions]] = True
    rows = np.flatnonzero(films & (data.labels >= 0))
    here, labels, predictions = present[rows, None], data.labels[rows], data.predictions[rows]
    table = performance_gaps(here, labels, predictions == labels, len(data.classes))
    strongest = strongest_regions(data.region_image, data.region_scores, data.predictions)[rows]
    leads = np.isin(strongest, regions)[:, None]
    influence = influence_scores(here, table, labels, predictions, leads, strongest >= 0)
    strength = np.where(table.smaller_arm[0] >= min_films, table.standardised_gap[0], 0.0)
    strength[feature.raised_class] = max(strength.max(), 0.0) + 1.0  # it is known by its effect
    alike, led = along.astype(np.float64), float(influence[0])
    measured = measure_candidate(
        0, present, table, strength, regions=regions, similarity=alike, influence=led
    )
    return replace(measured, cluster=number, source="effects")


def detect_feature(
    candidate: FeatureCluster,
    clusters: FeatureClusters,
    embeddings: NDArray[np.float32],  # (R, D)
    proposed: Sequence[EffectFeature] = (),
) -> FeatureDetector:
    """Return what finds a candidate's feature in other films, whichever search has proposed it.

    Features of effects are numbered after the clusters, in the order of `proposed`.
    """
    if candidate.source == "effects":
        feature = proposed[candidate.cluster - len(clusters)]
        medoids, label, place = feature.medoids, 1, feature.place
    else:
        partition = clusters.partitions[clusters.origin[candidate.cluster]]
        medoids = take_rows(embeddings, partition.medoids)
        label, place = int(clusters.label[candidate.cluster]), ANYWHERE
    return FeatureDetector(medoids, label, candidate.raised_class, candidate.lowered_class, place)
