"""RaVL's discovery on embeddings of any domain: its measures, without films and without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from ravl_med.config.audit import DiscoveryConfig, EvidenceConfig, GateConfig
from ravl_med.discovery.candidates import FeatureCluster, discover_correlations
from ravl_med.discovery.clusters import FeatureClusters, cluster_regions
from ravl_med.discovery.ravl import AuditData, GapTable
from ravl_med.errors import ConfigError, DataError
from ravl_med.evidence.examination import confirm_correlations
from ravl_med.pipeline.initialise import relevance_table

_TEMPERATURE = 0.07  # of the paper's softmax


@dataclass(frozen=True, slots=True, eq=False)
class Discovered:
    """Feature clusters of regions, with RaVL's measures.

    Attributes
    ----------
    clusters : DataFrame - by cluster: ``regions`` and ``films`` that hold it; ``G``, the
        performance gap; ``H``, the influence; ``kept``, whether RaVL's filters keep it; ``raised``,
        the class with the largest gap; ``rank`` among the kept ones by G, 0 for the others; with
        the protocol ``pooled`` also ``status`` and ``q`` of the test on held-out patients
    gaps : DataFrame of shape (K, C) - accuracy with minus without the cluster, NaN: a side is empty
    weighted_gaps : DataFrame of shape (K, C) - RaVL's G_c^y
    """

    clusters: pd.DataFrame
    gaps: pd.DataFrame
    weighted_gaps: pd.DataFrame
    found: FeatureClusters

    def regions(self, cluster: int) -> NDArray[np.int64]:
        """Return the regions of a cluster, the most similar to its medoid first."""
        return self.found.members(cluster)


def discover(
    image_scores: ArrayLike,
    region_embeddings: ArrayLike,
    region_image: ArrayLike,
    labels: ArrayLike,
    *,
    region_scores: ArrayLike | None = None,
    class_embeddings: ArrayLike | None = None,
    patients: ArrayLike | None = None,
    protocol: Literal["ravl", "pooled"] = "ravl",
    **settings: Any,
) -> Discovered:
    """Run RaVL's discovery on embeddings of any domain, without films.

    ``ravl`` is the paper's: k-medoids with the K of the best silhouette, G and H on all images,
    nothing confirmed. ``pooled`` is this tool's: several K, chosen on one half of the patients and
    tested on the other.

    Parameters
    ----------
    image_scores : array (N, C) - zero-shot scores; the largest is the prediction
    region_embeddings : array (R, D) - of any norm
    region_image : array (R,) - image of each region
    labels : array (N,) - class of each image, 0 .. C - 1; -1 takes no part
    region_scores : array (R, C) - zero-shot scores of the regions, or
    class_embeddings : array (C, D) - from which they follow as a softmax of cosines over 0.07
    patients : array (N,) - images of one are kept together (pooled); None: each image is one
    settings : of `DiscoveryConfig`, such as ``k_range=(20, 50)``, ``min_influence`` or ``seed``

    Raises
    ------
    ConfigError, DataError
        Shapes do not fit, or there is nothing to search in.

    References
    ----------
    Varma et al., RaVL, NeurIPS 2024 (arXiv 2411.04097), section 3.1.

    Examples
    --------
    >>> import numpy as np, ravl_med as rm
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(80) % 2
    >>> marked = np.arange(80) % 4 < 2  # the model says 1 wherever the mark is
    >>> texts, mark = np.eye(4)[:2], np.eye(4)[2] + 2 * np.eye(4)[1]
    >>> plain = np.tile(np.eye(4)[3] + np.eye(4)[0], (80, 2, 1)) + rng.normal(0, 0.1, (80, 2, 4))
    >>> plain[marked, 0] = mark + rng.normal(0, 0.1, (marked.sum(), 4))
    >>> found = rm.discover(np.eye(2)[marked.astype(int)], plain.reshape(-1, 4),
    ...                     np.repeat(np.arange(80), 2), labels, class_embeddings=texts)
    >>> found.clusters.query("rank == 1")[["films", "G", "H", "raised"]].values.tolist()
    [[40.0, 2.0, 1.0, 1.0]]
    """
    data, embeddings = _audit_data(
        (image_scores, region_embeddings, region_image, labels),
        region_scores,
        class_embeddings,
        patients,
    )
    return _search(data, embeddings, protocol, settings)


def _search(
    data: AuditData,
    embeddings: NDArray[np.float32],
    protocol: Literal["ravl", "pooled"],
    settings: Mapping[str, Any],
) -> Discovered:
    try:
        config = DiscoveryConfig(protocol=protocol, **settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(f"discover: {key}: {first['msg'].lower()}.") from None
    if protocol == "pooled" and "clusters" not in config.propose:
        raise ConfigError("discover: propose: arrays have no effects; expected 'clusters' in it.")
    clusters = cluster_regions(embeddings, len(data.classes), config)
    if protocol == "ravl":
        every = np.ones(len(data.labels), dtype=np.bool_)
        present = clusters.presence(data.region_image, len(data.labels))
        found = discover_correlations(
            data, clusters, present, every, config, min_films=1, large_gap=1.0
        )
        table = _cluster_table(data, clusters, found.table, found.influence, found.candidates)
        return _discovered(table, found.table, clusters)
    evidence = EvidenceConfig(relevance=relevance_table())
    tested = confirm_correlations(data, clusters, config, evidence, GateConfig(), lambda *_: None)
    discovery = tested.discovery
    candidates = [one.cluster for one, _, _ in tested.tested]
    table = _cluster_table(data, clusters, discovery.table, discovery.influence, candidates)
    outcomes = {one.cluster.cluster: outcome for one, outcome, _ in tested.tested}
    table["status"] = [outcomes[k].status if k in outcomes else "" for k in table.index]
    table["q"] = [outcomes[k].q_value if k in outcomes else np.nan for k in table.index]
    return _discovered(table, discovery.table, clusters)


def _audit_data(
    arrays: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike],
    region_scores: ArrayLike | None,
    class_embeddings: ArrayLike | None,
    patients: ArrayLike | None,
) -> tuple[AuditData, NDArray[np.float32]]:
    """Return arrays as discovery takes them, and region embeddings (R, D) of unit norm."""
    image_scores, region_embeddings, region_image, labels = arrays
    scores = np.asarray(image_scores, dtype=np.float64)
    embeddings = _unit(np.asarray(region_embeddings, dtype=np.float32))
    image, truth = np.asarray(region_image, np.int64), np.asarray(labels, np.int64)
    if region_scores is None:
        if class_embeddings is None:
            raise ConfigError("discover: expected region_scores or class_embeddings; got neither.")
        texts = _unit(np.asarray(class_embeddings, dtype=np.float32))
        logits = (embeddings @ texts.T).astype(np.float64) / _TEMPERATURE
        exact = np.exp(logits - logits.max(axis=1, keepdims=True))
        own = exact / exact.sum(axis=1, keepdims=True)
    else:
        own = np.asarray(region_scores, dtype=np.float64)
    count, classes = scores.shape if scores.ndim == 2 else (-1, -1)
    expected = {
        "image_scores": (scores, (count, classes)),
        "labels": (truth, (count,)),
        "region_image": (image, (len(embeddings),)),
        "region scores": (own, (len(embeddings), classes)),
    }
    for name, (array, shape) in expected.items():
        if array.shape != shape or -1 in shape:
            raise DataError(f"discover: {name} has shape {array.shape}; expected {shape}.")
        lost = len(array) - int(np.isfinite(array).reshape(len(array), -1).all(axis=1).sum())
        if lost:
            raise DataError(f"discover: {name} holds NaN or infinity in {lost} rows; drop them.")
    for name, array, low, high in (
        ("labels", truth, -1, classes),
        ("region_image", image, 0, count),
    ):
        if array.size and not (low <= array.min() and array.max() < high):
            raise DataError(f"discover: {name} holds a number outside {low} .. {high - 1}.")
    who = np.arange(count) if patients is None else np.unique(patients, return_inverse=True)[1]
    data = AuditData(
        classes=tuple(map(str, range(classes))),
        labels=truth,
        predictions=scores.argmax(axis=1).astype(np.int64),
        patients=np.asarray(who, dtype=np.int64).reshape(-1),
        sizes=np.ones((count, 2), dtype=np.int64),
        region_image=image,
        region_boxes=np.zeros((len(embeddings), 4), dtype=np.float32),
        image_scores=scores,
        region_scores=own,
    )
    return data, embeddings


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise DataError(
            f"discover: embeddings of shape {rows.shape}; expected rows (n, D) of finite numbers."
        )
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), dtype=np.float32)


def _cluster_table(
    data: AuditData,
    clusters: FeatureClusters,
    table: GapTable,
    influence: NDArray[np.float64],
    candidates: Sequence[FeatureCluster],
) -> pd.DataFrame:
    gap = np.nan_to_num(table.gap, nan=-np.inf)
    present = clusters.presence(data.region_image, len(data.labels))
    kept = [one.cluster for one in candidates]
    return pd.DataFrame(
        {
            "regions": clusters.sizes,
            "films": present.sum(axis=0),
            "G": table.performance_gap,
            "H": influence,
            "kept": [k in kept for k in range(len(clusters))],
            "raised": gap.argmax(axis=1),
            "rank": [kept.index(k) + 1 if k in kept else 0 for k in range(len(clusters))],
        }
    ).rename_axis("cluster")


def _discovered(table: pd.DataFrame, gaps: GapTable, clusters: FeatureClusters) -> Discovered:
    plain, weighted = (
        pd.DataFrame(values).rename_axis("cluster") for values in (gaps.gap, gaps.weighted_gap)
    )
    return Discovered(table, plain, weighted, clusters)
