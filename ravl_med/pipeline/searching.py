"""The search of an audit: clusters, candidates, confirmation, counterfactuals, strata, verdict.

Everything that comes after the model: where nobody can ask it, nothing here needs one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ravl_med.cohort.film import pseudonym
from ravl_med.cohort.manifest import Cohort
from ravl_med.config import Config
from ravl_med.discovery.cluster_map import map_clusters
from ravl_med.discovery.clustering import paper_clusters, propose_clusters
from ravl_med.discovery.description import describe_regions
from ravl_med.discovery.detector import FeatureDetector
from ravl_med.discovery.feature_clusters import FeatureClusters
from ravl_med.discovery.ravl import AuditedTask
from ravl_med.encoders.embeddings import Embeddings
from ravl_med.encoders.zero_shot import Scores
from ravl_med.evidence.audit_result import (
    Accuracy,
    AuditResult,
    DiscoverySummary,
    ModelSummary,
    PartitionSummary,
    Sensitivity,
    Stratum,
    TaskSummary,
    Verdict,
)
from ravl_med.evidence.audited_images import AuditedImages
from ravl_med.evidence.claims import ConfirmedFeature, SpuriousCorrelation
from ravl_med.evidence.cohort_summary import summarise_cohort
from ravl_med.evidence.counterfactual import Probe
from ravl_med.evidence.effect_places import MOST_REGIONS, StructureReader
from ravl_med.evidence.examination import (
    Examination,
    Subject,
    confirm_correlations,
    measure_detectable_gap,
    weigh_correlations,
)
from ravl_med.evidence.label_quality import origin_of
from ravl_med.evidence.relevance import RelevanceTable
from ravl_med.evidence.sanity import Sanity
from ravl_med.evidence.statistics import PatientBootstrap
from ravl_med.evidence.subgroups import attribute_strata, measure_subgroups
from ravl_med.evidence.verdict import judge
from ravl_med.pipeline.stages import Clock, Progress
from ravl_med.regions.proposal import describe_sources
from ravl_med.storage.mapped_rows import take_rows

__all__ = ["Findings", "ScoredFilms", "Search", "collect_result", "search_films"]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredFilms:
    """The films of an audit, their regions, and what the model says of both.

    Attributes
    ----------
    cohort : Cohort - N films
    embeddings : Embeddings - of these, with R regions
    scores : Scores
    """

    cohort: Cohort
    embeddings: Embeddings
    scores: Scores


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """What a search needs beside films and scores.

    Attributes
    ----------
    probe : Probe or None - None where nobody can ask the model
    structures : callable or None - film to its anatomy and artifacts
    relevance : RelevanceTable
    sanity : Sanity
    """

    probe: Probe | None
    structures: StructureReader | None
    relevance: RelevanceTable
    sanity: Sanity


@dataclass(frozen=True, slots=True)
class Findings:
    """What the search found; the verdict alone where it could not be made."""

    verdict: Verdict
    discovery: DiscoverySummary | None = None
    correlations: tuple[SpuriousCorrelation, ...] = ()
    subgroups: tuple[Stratum, ...] = ()
    sensitivity: Sensitivity | None = None
    features: tuple[ConfirmedFeature, ...] = ()
    descriptions: Mapping[int, str] = field(default_factory=dict)


def search_films(
    config: Config, films: ScoredFilms, search: Search, clock: Clock, progress: Progress
) -> Findings:
    """Propose clusters, confirm, test by counterfactuals, cross, and judge.

    Parameters
    ----------
    config : Config
    films : ScoredFilms
    search : Search
    clock : Clock - that times the stages
    progress : callable - called with (stage, done, total)

    Raises
    ------
    DataError
        There is nothing to search in.
    """
    evidence, cohort, embeddings = config.evidence, films.cohort, films.embeddings
    with clock.stage("clustering"):
        clock.note("clustering", regions=len(embeddings.region))
        clusters = _propose(config, embeddings, len(cohort.classes), progress)
        subject = _subject(films, clusters, config.task.name)
    with clock.stage("confirmation"):
        examination = confirm_correlations(subject, config, progress)
        embeddings.let_go()
    with clock.stage("counterfactuals"):
        correlations = weigh_correlations(
            subject, examination, search.probe, search.relevance, config, progress
        )
        tested = sum(one.counterfactual is not None for one in correlations)
        clock.note("counterfactuals", correlations=tested)
        embeddings.let_go()
    with clock.stage("subgroups"):
        subgroups = measure_subgroups(
            subject.axes,
            cohort.labels,
            subject.task.correct,
            min_films=evidence.min_n,
            draws=evidence.permutations,
            bootstrap=PatientBootstrap(cohort.patients, evidence.draws, evidence.seed),
            confidence=evidence.confidence,
            seed=evidence.seed,
        )
    with clock.stage("sensitivity"):
        sensitivity = measure_detectable_gap(subject, examination, config, progress)
    return Findings(
        judge(
            correlations,
            cohort.classes,
            config.gate,
            sensitivity,
            sanity=search.sanity,
            black_box=search.probe is None,
        ),
        _summarise_search(config, embeddings, subject, examination, correlations),
        correlations,
        subgroups,
        sensitivity,
        _features(correlations, clusters, embeddings),
        {c.cluster.cluster: _describe(c, embeddings, search.structures) for c in correlations},
    )


def _features(
    correlations: tuple[SpuriousCorrelation, ...],
    clusters: FeatureClusters,
    embeddings: Embeddings,
) -> tuple[ConfirmedFeature, ...]:
    """Make features that can be looked for of what was confirmed and tested."""
    features = []
    for correlation in correlations:
        if correlation.confirmation.status != "confirmed" or correlation.counterfactual is None:
            continue
        cluster = correlation.cluster
        partition = clusters.partitions[clusters.origin[cluster.cluster]]
        detector = FeatureDetector(
            medoids=take_rows(embeddings.region, partition.medoids),
            label=int(clusters.label[cluster.cluster]),
            raised_class=cluster.raised_class,
            lowered_class=cluster.lowered_class,
            threshold=correlation.counterfactual.removal.threshold,
        )
        features.append(
            ConfirmedFeature(correlation.rank, correlation.kind, correlation.counts, detector)
        )
    return tuple(features)


def _propose(
    config: Config, embeddings: Embeddings, classes: int, progress: Progress
) -> FeatureClusters:
    settings = config.discovery

    def told(done: int, total: int) -> None:
        progress("cluster regions", done, total)

    if settings.protocol == "paper":
        return paper_clusters(
            embeddings.region, classes, sample=settings.sample, seed=settings.seed, progress=told
        )
    return propose_clusters(
        embeddings.region,
        settings.clusters,
        draws=settings.draws,
        sample=settings.sample,
        seed=settings.seed,
        overlap=settings.merge_overlap,
        progress=told,
    )


def _subject(films: ScoredFilms, clusters: FeatureClusters, task: str) -> Subject:
    cohort, embeddings, scores = films.cohort, films.embeddings, films.scores
    return Subject(
        task=AuditedTask(
            name=task,
            classes=cohort.classes,
            labels=cohort.labels,
            predictions=scores.predictions,
            image_scores=scores.image,
            region_scores=scores.region,
        ),
        images=AuditedImages(
            classes=cohort.classes,
            labels=cohort.labels,
            predictions=scores.predictions,
            patients=cohort.patients,
            sizes=embeddings.sizes,
            region_image=embeddings.region_image,
            region_boxes=embeddings.region_boxes,
        ),
        clusters=clusters,
        present=clusters.presence(embeddings.region_image, len(cohort)),
        axes=attribute_strata(cohort.attributes),
        origin=origin_of(cohort.label_sources, cohort.label_certainty),
    )


def _summarise_search(
    config: Config,
    embeddings: Embeddings,
    subject: Subject,
    examination: Examination,
    correlations: tuple[SpuriousCorrelation, ...],
) -> DiscoverySummary:
    half, patients, clusters = examination.half, subject.images.patients, subject.clusters
    return DiscoverySummary(
        protocol=config.discovery.protocol,
        regions=len(embeddings.region),
        regions_unseen=embeddings.unseen,
        region_source=describe_sources(config.regions),
        region_problems=embeddings.problems,
        partitions=tuple(
            PartitionSummary(len(p.medoids), p.draw, p.loss) for p in clusters.partitions
        ),
        left_out=clusters.left_out,
        clusters=len(clusters),
        survivors=examination.discovery.survivors,
        candidates=examination.candidates,
        films=int(half.sum()),
        confirmation_films=int((~half).sum()),
        patients=len(np.unique(patients[half])),
        confirmation_patients=len(np.unique(patients[~half])),
        cluster_map=map_clusters(
            take_rows(embeddings.region, clusters.medoids),
            clusters.sizes,
            {entry.cluster.cluster: entry.rank for entry in correlations},
        ),
    )


def collect_result(
    config: Config,
    films: ScoredFilms,
    model: ModelSummary,
    accuracy: Accuracy,
    found: Findings,
    key: bytes,
) -> AuditResult:
    """Put together what an audit found.

    Parameters
    ----------
    config : Config
    films : ScoredFilms
    model : ModelSummary
    accuracy : Accuracy
    found : Findings
    key : bytes - secret of the pseudonyms
    """
    cohort, embeddings = films.cohort, films.embeddings
    return AuditResult(
        name=config.name,
        title=config.report.title,
        verdict=found.verdict,
        task=TaskSummary(
            name=config.task.name,
            classes=cohort.classes,
            texts={name: tuple(texts) for name, texts in config.task.texts().items()},
            temperature=config.task.temperature,
            scores=config.task.scores if config.model.scores is None else "table",
        ),
        model=model,
        cohort=summarise_cohort(
            cohort, embeddings.applied, synthetic=config.cohort.synthetic is not None
        ),
        accuracy=accuracy,
        discovery=found.discovery,
        correlations=found.correlations,
        descriptions=found.descriptions,
        subgroups=found.subgroups,
        sensitivity=found.sensitivity,
        image_ids=tuple(pseudonym(digest, key) for digest in embeddings.digests),
        region_image=embeddings.region_image,
        region_boxes=embeddings.region_boxes,
        region_kind=embeddings.region_kind,
        region_kinds=embeddings.kinds,
        left_edges=embeddings.left_edges,
    )


def _describe(
    correlation: SpuriousCorrelation, embeddings: Embeddings, structures: StructureReader | None
) -> str:
    """Describe the regions of a correlation; where it was tested, those that carry the feature.

    Of a used one, what a segmenter finds under the regions is told as well.
    """
    regions = correlation.cluster.regions
    tested = correlation.counterfactual
    if tested is not None and tested.removal.carries.any():
        carriers = [row for row in correlation.order if tested.removal.carries[row]]
        regions = regions[carriers]
    films = embeddings.region_image[regions]
    shares = embeddings.region_boxes[regions] / np.tile(embeddings.sizes[films][:, ::-1], 2)
    if tested is not None and tested.used and structures is not None:
        seen = [structures(int(film)) for film in films[:MOST_REGIONS]]
        held = [film.artifacts_in(box) for film, box in zip(seen, shares, strict=False)]
        places = [film.place(box) for film, box in zip(seen, shares, strict=False)]
        return describe_regions(held, shares[: len(seen)], places)
    kinds = [embeddings.kinds[i] for i in embeddings.region_kind[regions]]
    names = [() if kind.source in ("tiles", "windows") else (kind.name,) for kind in kinds]
    return describe_regions(names, shares, [kind.place for kind in kinds])
