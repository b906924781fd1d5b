"""RaVL as published, its ablations, and this tool's own protocol, on the evidence of a setting.

Each answers with a ranked list of regions, as the baselines do:

- ``gap_unweighted``, ``gap_weighted`` : RaVL's clusters by the sum of absolute gaps, without and
  with RaVL's weight, no influence; regions by similarity to the medoid
- ``ravl`` : the paper's protocol, influence filter included, on all films
- ``pooled`` : candidates of several K, pooled, the first of them; chosen on half of the patients
- ``confirmed`` : the first of those that the other half confirms
- ``ours`` : the first after counterfactuals; regions where removal finds the effect

What every method of a setting is given: the same films, predictions and region embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ravl_med.config.audit import DiscoveryConfig
from ravl_med.config.loading import Config
from ravl_med.discovery.candidates import FeatureCluster, discover_correlations
from ravl_med.discovery.clusters import FeatureClusters, paper_clusters, propose_clusters
from ravl_med.discovery.ravl import GapTable, performance_gaps
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.zero_shot import embed_classes, score_embeddings
from ravl_med.evaluation.baselines import BASELINES, RankedRegions, RegionEvidence, spurious_aware
from ravl_med.evaluation.setting_films import SplitFilms
from ravl_med.evaluation.settings import TAU
from ravl_med.evaluation.small_models import normalise_films
from ravl_med.evidence.counterfactual.effect_places import RelevanceTable, StructureReader
from ravl_med.evidence.examination import (
    Examination,
    assess_correlations,
    confirm_correlations,
)
from ravl_med.evidence.results import SpuriousCorrelation

_BATCH = 64


def embed_split(
    encoder: Encoder,
    films: SplitFilms,
    boxes: Sequence[NDArray[np.float32]],
    prompts: Mapping[str, Sequence[str]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RegionEvidence:
    """Embed films and their regions, and score both against the classes.

    Parameters
    ----------
    encoder : Encoder - a small model
    films : SplitFilms - N films
    boxes : sequence of N ndarrays of shape (r_i, 4), float32 - xyxy in pixels of the film
    """
    inputs = torch.from_numpy(normalise_films(films.pixels))
    images, regions = [], []
    for start in range(0, len(films), _BATCH):
        part = inputs[start : start + _BATCH, None].expand(-1, 3, -1, -1)
        places = [torch.from_numpy(own) for own in boxes[start : start + _BATCH]]
        image, region = encoder.encode_regions(part.contiguous(), places)
        images.append(image.float().cpu().numpy())
        regions.append(region.float().cpu().numpy())
        progress(min(start + _BATCH, len(films)), len(films))
    embedded = np.concatenate(regions)
    classes = embed_classes(encoder, prompts)
    counts = [len(own) for own in boxes]
    return RegionEvidence(
        classes=tuple(prompts),
        films=films,
        region=embedded,
        region_image=np.repeat(np.arange(len(films), dtype=np.int64), counts),
        region_boxes=np.concatenate(boxes).astype(np.float32),
        scores=score_embeddings(np.concatenate(images), embedded, classes, TAU),
        class_embeddings=classes,
    )


OURS = "ours"
PUBLISHED = ("random", "distilling_failures", "george", "domino", "spurious_aware", "ravl")
METHODS = (*PUBLISHED[:-1], "gap_unweighted", "gap_weighted", "ravl", "pooled", "confirmed", OURS)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What all methods say of one setting.

    Attributes
    ----------
    ranked : mapping of method to RankedRegions - of `METHODS`
    clusters : FeatureClusters - those pooled
    examination : Examination - of this tool's protocol
    correlations : tuple of SpuriousCorrelation - of this tool, in its order
    """

    ranked: Mapping[str, RankedRegions]
    clusters: FeatureClusters
    examination: Examination
    correlations: tuple[SpuriousCorrelation, ...]


def answer_all(
    evidence: RegionEvidence,
    encoder: Encoder,
    config: Config,
    relevance: RelevanceTable,
    structures: StructureReader | None = None,
) -> Answers:
    """Ask every method.

    Parameters
    ----------
    encoder : Encoder - the model of the setting, for counterfactuals
    structures : callable or None - film to its anatomy and artifacts, by a segmenter

    Raises
    ------
    DataError
        Embeddings that are not finite or all equal.
    """
    seed = config.discovery.seed
    ranked = {name: baseline(evidence, seed) for name, baseline in BASELINES.items()}
    paper = paper_clusters(
        evidence.region, len(evidence.classes), sample=config.discovery.sample, seed=seed
    )
    ranked["spurious_aware"] = spurious_aware(evidence, paper)
    ranked |= _rank_paper(evidence, paper, config.discovery)
    pooled = propose_clusters(
        evidence.region,
        config.discovery.clusters,
        draws=config.discovery.draws,
        sample=config.discovery.sample,
        seed=seed,
        overlap=config.discovery.merge_overlap,
    )
    data, own, gate = evidence.data, config.evidence, config.gate
    examination = confirm_correlations(data, pooled, config.discovery, own, gate, _silent)
    model = evidence.probe(encoder, structures)
    correlations = assess_correlations(data, examination, model, relevance, own, gate, _silent)
    ranked["pooled"] = _first_candidate(examination.discovery.candidates)
    ranked["confirmed"] = _first_confirmed(examination)
    ranked[OURS] = rank_correlation(correlations[0], evidence) if correlations else _NOTHING
    return Answers(ranked, pooled, examination, correlations)


def rank_correlation(correlation: SpuriousCorrelation, evidence: RegionEvidence) -> RankedRegions:
    """Read a correlation as a ranked list: by removal effect, each region where its effect lies."""
    cluster = correlation.cluster
    regions = cluster.regions[correlation.order]
    boxes = np.array(evidence.region_boxes[cluster.regions])
    tested = correlation.counterfactual
    if tested is not None and tested.removal.located is not None:
        located = tested.removal.located
        boxes = np.where(np.isfinite(located), located, boxes).astype(np.float32)
    return RankedRegions(
        regions,
        cluster.raised_class,
        accuses=correlation.counts,
        boxes=boxes[correlation.order],
        members=np.sort(cluster.regions),
    )


_NOTHING = RankedRegions(np.empty(0, dtype=np.int64), accuses=False)


def _silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


def _rank_paper(
    evidence: RegionEvidence, clusters: FeatureClusters, config: DiscoveryConfig
) -> dict[str, RankedRegions]:
    """RaVL's protocol and its two ablations, on all films."""
    present = clusters.presence(evidence.region_image, len(evidence.films))
    data = evidence.data
    table = performance_gaps(present, data.labels, data.correct, len(data.classes))
    unweighted = np.nan_to_num(np.abs(table.gap)).sum(axis=1)
    films = np.ones(len(data.labels), dtype=np.bool_)
    paper = config.model_copy(update={"protocol": "paper"})
    found = discover_correlations(
        data, clusters, present, films, paper, min_films=1, large_gap=np.inf
    ).candidates
    return {
        "gap_unweighted": _by_gap(clusters, table, unweighted),
        "gap_weighted": _by_gap(clusters, table, table.performance_gap),
        "ravl": _first_candidate(found),
    }


def _by_gap(
    clusters: FeatureClusters, table: GapTable, score: NDArray[np.float64]
) -> RankedRegions:
    cluster = int(np.argmax(score))
    members = clusters.members(cluster)
    raised = int(np.nan_to_num(table.gap[cluster], nan=-np.inf).argmax())
    return RankedRegions(members, raised, members=np.sort(members))


def _first_candidate(candidates: tuple[FeatureCluster, ...]) -> RankedRegions:
    if not candidates:
        return _NOTHING
    first = candidates[0]
    return RankedRegions(first.regions, first.raised_class, members=np.sort(first.regions))


def _first_confirmed(examination: Examination) -> RankedRegions:
    """First confirmed candidate, the clearest first; by similarity to the medoid."""
    standing = [
        (outcome.q_value, number, candidate.cluster)
        for number, (candidate, outcome, _) in enumerate(examination.tested)
        if outcome.status == "confirmed"
    ]
    if not standing:
        return _NOTHING
    _, _, first = min(standing, key=lambda entry: entry[:2])
    return RankedRegions(first.regions, first.raised_class, members=np.sort(first.regions))
