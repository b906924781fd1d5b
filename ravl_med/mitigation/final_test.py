"""The final test: every arm beside the audited model, with paired intervals.

Both models are measured on the same films and resampled with the same draws of patients, so that an
interval of a difference knows that they are alike.

References
----------
Guo et al., "On calibration of modern neural networks", ICML 2017 (expected calibration error).
DeLong, DeLong, Clarke-Pearson, Biometrics 44 (1988), for AUROC as a rank statistic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ravl_med.encoders.zero_shot import softmax
from ravl_med.evidence.disclosure_control import hidden_cells
from ravl_med.evidence.mitigation_result import (
    ArmOutcome,
    Change,
    FeatureGap,
    LearningCurve,
    MeasureName,
)
from ravl_med.evidence.rate_rounding import coarse_rates, coarsen_change, coarsen_gap
from ravl_med.evidence.results import UNKNOWN
from ravl_med.evidence.statistics import PatientBootstrap, count_patients, percentile_interval
from ravl_med.mitigation.spurious_regions import PseudoGroups

_BINS = 15
_AUROC_DRAWS = 1000
_DRAWS_AT_ONCE = 50


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """The predictions of a model for the N films of the final test."""

    logits: NDArray[np.float32]  # (N, C) of the films
    # (N,) class of the best-matching region of each film; None where regions are not defined
    region_class: NDArray[np.int64] | None


@dataclass(frozen=True, slots=True, eq=False)
class FinalTest:
    """The films that nobody touched, and how they are divided."""

    labels: NDArray[np.int64]  # (N,)
    classes: tuple[str, ...]
    present: NDArray[np.bool_]  # (N, F) mitigated features, found by the audited model
    sides: tuple[tuple[int, int | None], ...]
    axes: Mapping[str, NDArray[np.str_]]
    bootstrap: PatientBootstrap
    confidence: float
    min_group: int  # groups with fewer films are joined before the worst is taken
    min_films: int  # classes, groups and subgroups below are not reported one by one
    hidden_below: int = 0  # nor is a gap with fewer patients on a side; 0: all are

    def hidden(self) -> frozenset[MeasureName]:
        """Name the classes, groups and subgroups of few patients, or that would give them away.

        They are measured, and judged by; a report does not show them, see `disclosure_control`.
        """
        return frozenset(
            name
            for names, member in self._tables()
            for at, name in enumerate(names)
            if at in self._hidden(member)
        )

    def shown(self, arm: ArmOutcome) -> ArmOutcome:
        """Return an arm as a report shows it: nothing of few patients, and no number of them."""
        least = self.hidden_below
        if not least:
            return arm
        counts = {
            name: n
            for names, member in self._tables()
            for name, n in zip(names, self._count(member), strict=True)
        }
        total = self._count(np.ones((len(self.labels), 1), dtype=np.bool_))[0]
        fewest = min(n for name, n in counts.items() if name in self.groups().names and n)

        def coarsen(changes: Mapping[Any, Change]) -> dict[Any, Change]:
            return {name: coarsen_change(c, counts[name], least) for name, c in changes.items()}

        return replace(
            arm.without(self.hidden()),
            image_overall=coarsen_change(arm.image_overall, total, least),
            region_overall=coarsen_change(arm.region_overall, total, least),
            image_worst=coarsen_change(arm.image_worst, max(fewest, 2 * least), least),
            region_worst=coarsen_change(arm.region_worst, max(fewest, 2 * least), least),
            classes=coarsen(arm.classes),
            groups=coarsen(arm.groups),
            subgroups=coarsen(arm.subgroups),
            gaps=tuple(
                replace(gap, gap=coarsen_gap(gap.gap, self._count(member), least))
                for gap, (*_, member) in zip(arm.gaps, self._arms(), strict=True)
            ),
            curve=arm.curve and _coarse_curve(arm.curve, max(fewest // least, 2)),
        )

    def _tables(self) -> list[tuple[list[MeasureName], NDArray[np.bool_]]]:
        """Names of classes, groups and subgroups, with their films (N, M)."""
        groups = self.groups()
        by_class = np.eye(len(self.classes), dtype=np.bool_)[self.labels]
        rows: list[tuple[list[MeasureName], NDArray[np.bool_]]] = [
            (list(self.classes), by_class),
            (list(groups.names), _members(groups)),
        ]
        for axis, values in self.axes.items():
            found = np.unique(values)
            rows.append(([(axis, str(v)) for v in found], values[:, None] == found))
        return rows

    def _count(self, member: NDArray[np.bool_]) -> list[int]:
        counts: list[int] = count_patients(member, self.bootstrap.patients).tolist()
        return counts

    def _arms(self) -> Iterator[tuple[Literal["raised", "lowered"], int, NDArray[np.bool_]]]:
        """Films (N, 2) with and without each feature, of the classes that it raised and lowered."""
        for feature, (raised, lowered) in enumerate(self.sides):
            there = self.present[:, feature]
            for side, label in (("raised", raised), ("lowered", lowered)):
                if label is not None:
                    own = (self.labels == label)[:, None]
                    yield side, label, np.column_stack([there, ~there]) & own  # type: ignore[misc]

    def _hidden(self, member: NDArray[np.bool_]) -> frozenset[int]:
        """Arms (N, M) of few patients, and those that would give them away."""
        if not self.hidden_below:
            return frozenset()
        return hidden_cells(self._count(member), self.hidden_below)

    def groups(self) -> PseudoGroups:
        """Return classes crossed with the presence of any mitigated feature."""
        any_of_them: NDArray[np.bool_] = np.asarray(self.present.any(axis=1))
        return PseudoGroups.cross(self.labels, any_of_them, self.classes)

    def measure(self, before: Predictions, after: Predictions) -> dict[str, Any]:
        """Measure a model beside the audited one: the `Change` fields of `ArmOutcome`."""
        right = [model.logits.argmax(axis=1) == self.labels for model in (before, after)]
        everyone = np.ones((len(self.labels), 1), dtype=np.bool_)
        groups, pooled = self.groups(), self.groups().pooled(self.min_group)
        of_group = _members(groups)
        worst = _members(pooled)[:, pooled.sizes() > 0]
        region = [
            None if model.region_class is None else model.region_class == self.labels
            for model in (before, after)
        ]
        by_class = np.eye(len(self.classes), dtype=np.bool_)[self.labels]
        strata = [
            ((axis, str(value)), values == value)
            for axis, values in self.axes.items()
            for value in np.unique(values)
        ]
        subgroups = self._shares(np.array([m for _, m in strata]).T, right) if strata else []
        return {
            "image_overall": self._shares(everyone, right)[0],
            "image_worst": self._worst(worst, right),
            "region_overall": self._if_known(lambda hits: self._shares(everyone, hits)[0], region),
            "region_worst": self._if_known(lambda hits: self._worst(worst, hits), region),
            "auroc": self._auroc(before, after),
            "calibration": self._calibration(before, after),
            "classes": self._named(self.classes, self._shares(by_class, right)),
            "groups": self._named(groups.names, self._shares(of_group, right)),
            "subgroups": self._named([name for name, _ in strata], subgroups),
            "gaps": self._gaps(right),
        }

    def _named(self, names: Sequence[Any], changes: Sequence[Change]) -> dict[Any, Change]:
        return {
            name: change
            for name, change in zip(names, changes, strict=True)
            if change.films >= self.min_films
        }

    def _shares(self, member: NDArray[np.bool_], hits: Sequence[NDArray[np.bool_]]) -> list[Change]:
        """Accuracy in each of M arms (N, M), before and after."""
        draws = [self.bootstrap.proportions(member, hit) for hit in hits]
        films = member.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = [(member & hit[:, None]).sum(axis=0) / films for hit in hits]
        return [
            self._change(
                float(values[0][m]), float(values[1][m]), draws[0][:, m], draws[1][:, m], n
            )
            for m, n in enumerate(films.tolist())
        ]

    def _worst(self, member: NDArray[np.bool_], hits: Sequence[NDArray[np.bool_]]) -> Change:
        drawn = [self.bootstrap.proportions(member, hit).min(axis=1) for hit in hits]
        values = [((member & hit[:, None]).sum(axis=0) / member.sum(axis=0)).min() for hit in hits]
        films = len(self.labels)
        return self._change(float(values[0]), float(values[1]), drawn[0], drawn[1], films)

    def _if_known(
        self,
        measure: Callable[[Sequence[NDArray[np.bool_]]], Change],
        hits: Sequence[NDArray[np.bool_] | None],
    ) -> Change:
        known = [hit for hit in hits if hit is not None]
        if len(known) < len(hits):
            return Change(np.nan, np.nan, UNKNOWN, np.nan, UNKNOWN, 0)
        return measure(known)

    def _change(
        self,
        before: float,
        after: float,
        before_draws: NDArray[np.float64],
        after_draws: NDArray[np.float64],
        films: int,
    ) -> Change:
        if films == 0:
            return Change(before, after, UNKNOWN, after - before, UNKNOWN, 0)
        return Change(
            before,
            after,
            percentile_interval(after_draws, self.confidence),
            after - before,
            percentile_interval(after_draws - before_draws, self.confidence),
            films,
        )

    def _auroc(self, before: Predictions, after: Predictions) -> Change:
        bootstrap = PatientBootstrap(
            self.bootstrap.patients, min(_AUROC_DRAWS, self.bootstrap.draws), self.bootstrap.seed
        )
        values, draws = [], []
        for model in (before, after):
            scores = softmax(model.logits)
            areas = [
                area_under_curve(scores[:, c], self.labels == c, bootstrap)
                for c in range(len(self.classes))
                if 0 < int((self.labels == c).sum()) < len(self.labels)
            ]
            values.append(float(np.mean([area for area, _ in areas])))
            draws.append(np.mean([drawn for _, drawn in areas], axis=0))
        return self._change(values[0], values[1], draws[0], draws[1], len(self.labels))

    def _calibration(self, before: Predictions, after: Predictions) -> Change:
        pairs = [
            calibration_error(model.logits, self.labels, self.bootstrap)
            for model in (before, after)
        ]
        (value_before, drawn_before), (value_after, drawn_after) = pairs
        return self._change(value_before, value_after, drawn_before, drawn_after, len(self.labels))

    def _gaps(self, hits: Sequence[NDArray[np.bool_]]) -> tuple[FeatureGap, ...]:
        """Accuracy with minus without each feature, of the classes that it raised and lowered."""
        gaps: list[FeatureGap] = []
        for side, label, member in self._arms():
            draws = [self.bootstrap.proportions(member, hit) for hit in hits]
            if self._hidden(member):
                member = np.zeros_like(member)
            with np.errstate(invalid="ignore", divide="ignore"):
                values = [(member & hit[:, None]).sum(axis=0) / member.sum(axis=0) for hit in hits]
            change = self._change(
                float(values[0][0] - values[0][1]),
                float(values[1][0] - values[1][1]),
                draws[0][:, 0] - draws[0][:, 1],
                draws[1][:, 0] - draws[1][:, 1],
                int(member.sum()) if member.any(axis=0).all() else 0,
            )
            gaps.append(FeatureGap(self.classes[label], side, change))
        return tuple(gaps)


def _coarse_curve(curve: LearningCurve, steps: int) -> LearningCurve:
    """Return a curve whose accuracies are the middles of so many steps."""
    overall, worst = (
        tuple(coarse_rates(rates, 1_000_000, steps).tolist())
        for rates in (curve.overall, curve.worst_group)
    )
    return replace(curve, overall=overall, worst_group=worst)


def _members(groups: PseudoGroups) -> NDArray[np.bool_]:
    """Films of each group, (N, G)."""
    member: NDArray[np.bool_] = groups.of_film[:, None] == np.arange(len(groups.names))
    return member


def area_under_curve(
    scores: NDArray[np.float32], positive: NDArray[np.bool_], bootstrap: PatientBootstrap
) -> tuple[float, NDArray[np.float64]]:
    """Return the area under the ROC curve of scores (N,), and its draws over patients.

    It is the chance that a positive film scores above a negative one, ties count half; some films
    are positive and some are not. A draw that lacks one kind is NaN.
    """
    values, rank = np.unique(scores, return_inverse=True)
    patients = int(bootstrap.patients.max()) + 1

    def area(weights: NDArray[np.float64]) -> NDArray[np.float64]:  # (B, N) to (B,)
        count = len(values)
        up = np.zeros((len(weights), count))
        down = np.zeros((len(weights), count))
        for row, own in enumerate(weights):
            up[row] = np.bincount(rank, weights=own * positive, minlength=count)
            down[row] = np.bincount(rank, weights=own * ~positive, minlength=count)
        below = np.cumsum(down, axis=1) - down / 2.0
        pairs = up.sum(axis=1) * down.sum(axis=1)
        share: NDArray[np.float64] = np.full(len(weights), np.nan)
        np.divide((up * below).sum(axis=1), pairs, out=share, where=pairs > 0)
        return share

    rng = np.random.default_rng([bootstrap.seed, 5])
    chance = np.full(patients, 1.0 / patients)
    draws = []
    for start in range(0, bootstrap.draws, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, bootstrap.draws - start)
        drawn = rng.multinomial(patients, chance, size=size).astype(np.float64)
        draws.append(area(drawn[:, bootstrap.patients]))
    return float(area(np.ones((1, len(scores))))[0]), np.concatenate(draws)


def calibration_error(
    logits: NDArray[np.float32], labels: NDArray[np.int64], bootstrap: PatientBootstrap
) -> tuple[float, NDArray[np.float64]]:
    """Return the expected calibration error of logits (N, C), and its draws over patients."""
    scores = softmax(logits)
    confidence = scores.max(axis=1).astype(np.float64)
    right = scores.argmax(axis=1) == labels
    bins = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    excess = (bins[:, None] == np.arange(_BINS)) * (confidence - right)[:, None]
    drawn = bootstrap.totals(np.column_stack([excess, np.ones(len(labels))]))
    draws = np.abs(drawn[:, :-1]).sum(axis=1) / np.maximum(drawn[:, -1], 1.0)
    return float(np.abs(excess.sum(axis=0)).sum() / max(len(labels), 1)), draws
