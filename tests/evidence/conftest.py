"""A surviving cluster, made by hand."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from ravl_med.discovery.ravl import FeatureCluster, performance_gaps


@pytest.fixture(scope="session")
def cluster_of() -> Callable[..., FeatureCluster]:
    def make(
        present: Sequence[bool],
        labels: Sequence[int],
        correct: Sequence[bool],
        classes: int = 2,
        regions: Sequence[int] | None = None,
    ) -> FeatureCluster:
        """Region i lies in image i unless `regions` says otherwise."""
        here, truth = np.asarray(present, bool), np.asarray(labels)
        table = performance_gaps(here[:, None], truth, np.asarray(correct, bool), classes)
        gap = table.gap[0]
        members = np.flatnonzero(here) if regions is None else np.asarray(regions)
        order = np.argsort(np.nan_to_num(gap, nan=np.inf))
        return FeatureCluster(
            cluster=0,
            regions=members,
            similarity=np.linspace(1, 0.5, len(members)),
            present=here,
            n_present=table.n_present[0],
            n_absent=table.n_absent[0],
            accuracy_present=table.accuracy_present[0],
            accuracy_absent=table.accuracy_absent[0],
            weighted_gap=table.weighted_gap[0],
            performance_gap=float(table.performance_gap[0]),
            influence=1.0,
            raised_class=int(np.nanargmax(gap)),
            lowered_classes=tuple(int(c) for c in order if gap[c] < 0),
        )

    return make
