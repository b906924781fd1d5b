"""Clusters, tasks and proposals, made by hand."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ravl_med.discovery.candidates import FeatureCluster, measure_candidate
from ravl_med.discovery.clusters import FeatureClusters, Partition
from ravl_med.discovery.ravl import AuditData, performance_gaps


@pytest.fixture(scope="session")
def films_of() -> Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]:
    def make(*groups: tuple[int, bool, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Presence, labels, hits; from groups of (class, feature, films, hits), in their order."""
        labels, present, films, hits = (np.array(column) for column in zip(*groups, strict=True))
        return (
            np.repeat(present.astype(bool), films),
            np.repeat(labels, films),
            np.concatenate([np.arange(n) < x for n, x in zip(films, hits, strict=True)]),
        )

    return make


@pytest.fixture(scope="session")
def cluster_of() -> Callable[..., FeatureCluster]:
    def make(
        present: Sequence[bool],
        labels: Sequence[int],
        correct: Sequence[bool],
        classes: int = 2,
        regions: Sequence[int] | None = None,
        films: Sequence[bool] | None = None,
        **changes: Any,
    ) -> FeatureCluster:
        """Region i lies in image i unless `regions` says otherwise; measured on `films` or all."""
        here, truth, right = np.asarray(present, bool), np.asarray(labels), np.asarray(correct)
        rows = np.ones(len(here), bool) if films is None else np.asarray(films)
        table = performance_gaps(here[rows, None], truth[rows], right[rows], classes)
        members = np.flatnonzero(here) if regions is None else np.asarray(regions, np.int64)
        cluster = measure_candidate(
            0,
            here,
            table,
            np.nan_to_num(table.gap[0]),
            regions=members,
            similarity=np.linspace(1, 0.5, len(members)),
            influence=1.0,
        )
        return replace(cluster, **changes)

    return make


@pytest.fixture(scope="session")
def data_of() -> Callable[..., AuditData]:
    def make(
        labels: Sequence[int],
        correct: Sequence[bool],
        classes: Sequence[str] = ("clear", "heart"),
        image_scores: np.ndarray | None = None,
        region_scores: np.ndarray | None = None,
        patients: np.ndarray | None = None,
        **changes: Any,
    ) -> AuditData:
        """Film i is of patient i, and region i of film i; a wrong prediction is the next class."""
        truth = np.asarray(labels, np.int64)
        wrong = (np.maximum(truth, 0) + 1) % len(classes)
        flat = np.full((len(truth), len(classes)), 1 / len(classes))
        films = np.arange(len(truth))
        values = {
            "classes": tuple(classes),
            "labels": truth,
            "predictions": np.where(np.asarray(correct, bool), np.maximum(truth, 0), wrong),
            "patients": films if patients is None else patients,
            "sizes": np.full((len(truth), 2), 100),
            "region_image": films,
            "region_boxes": np.tile(np.array([[0, 0, 20, 20]], np.float32), (len(truth), 1)),
            "image_scores": flat if image_scores is None else image_scores,
            "region_scores": flat if region_scores is None else region_scores,
        }
        return AuditData(**values | changes)

    return make


@pytest.fixture(scope="session")
def clusters_of() -> Callable[..., FeatureClusters]:
    def make(*assignments: np.ndarray, counts: Sequence[int] | None = None) -> FeatureClusters:
        """One partition for each assignment of the regions; nothing is folded."""
        sizes = [int(a.max(initial=-1)) + 1 for a in assignments] if counts is None else counts
        similarity = np.ones(len(assignments[0]), np.float32)
        return FeatureClusters(
            partitions=tuple(
                Partition(np.zeros(k, np.int64), a.astype(np.int32), similarity, draw, 0.0, 0.0)
                for draw, (a, k) in enumerate(zip(assignments, sizes, strict=True))
            ),
            origin=np.repeat(np.arange(len(sizes)), sizes),
            label=np.concatenate([np.arange(k) for k in sizes]),
            folded=((),) * sum(sizes),
            left_out={},
            silhouettes={},
        )

    return make
