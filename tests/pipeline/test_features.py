"""Which correlations of an audit can be looked for in other films, and by what."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ravl_med.discovery.effect_features import EffectFeature
from ravl_med.pipeline.audit import _features

REGIONS = np.eye(4, dtype=np.float32)
CLUSTERS = SimpleNamespace(
    partitions=(SimpleNamespace(medoids=np.array([2, 3])),), origin=[0, 0], label=[0, 1]
)
PROPOSED = SimpleNamespace(features=(EffectFeature(1, REGIONS[0], 9, 1.5, place=48),))
HERE, ELSEWHERE = (np.tile(box, (4, 1)) for box in ([0.8, 0.8, 1.0, 1.0], [0.0, 0.0, 0.2, 0.2]))


class Clusters(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.label)


def correlation(number=1, *, counts=False, confirmed=False, tested=True, source="clusters"):
    cluster = SimpleNamespace(cluster=number, source=source, raised_class=1, lowered_class=None)
    return SimpleNamespace(
        rank=5,
        kind="shortcut",
        counts=counts,
        confirmed=confirmed,
        cluster=cluster,
        counterfactual="measured" if tested else None,
    )


def no_texture(rows: np.ndarray) -> np.ndarray:
    return np.zeros((len(rows), 0), np.float32)


def features(*correlations):
    clusters = Clusters(**vars(CLUSTERS))
    return _features(correlations, clusters, SimpleNamespace(region=REGIONS), PROPOSED)


@pytest.mark.parametrize(
    ("counts", "confirmed", "tested", "held"),
    [
        (True, True, True, True),
        (True, False, True, True),  # it counts by the wrong calls that it makes
        (False, True, True, True),
        (False, False, True, False),
        (False, True, False, False),
    ],
)
def test_what_counts_or_was_confirmed_needs_no_force(counts, confirmed, tested, held) -> None:
    (kept,) = features(correlation(counts=counts, confirmed=confirmed, tested=tested))

    assert (kept.rank, kept.kind, kept.counts, kept.confirmed) == (5, "shortcut", counts, held)


def test_a_cluster_is_found_by_its_medoid_and_what_effects_proposed_by_its_direction() -> None:
    cluster, proposed = features(
        correlation(1, counts=True), correlation(2, counts=True, source="effects")
    )

    for where, there in ((HERE, True), (ELSEWHERE, False)):
        found = [one.detector.find(REGIONS, where, no_texture) for one in (cluster, proposed)]
        assert found[0].tolist() == [False, False, False, True]
        assert found[1].tolist() == [there, False, False, False]
    assert (proposed.detector.raised_class, proposed.detector.lowered_class) == (1, None)
