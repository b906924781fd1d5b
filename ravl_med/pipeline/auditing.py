"""Every stage of an audit, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

import numpy as np

from ravl_med.cache import Cache
from ravl_med.cohort.film import FilmReader, pseudonym
from ravl_med.cohort.manifest import Cohort, read_manifest
from ravl_med.config import Config
from ravl_med.discovery.clustering import paper_clusters, propose_clusters
from ravl_med.discovery.description import describe_regions
from ravl_med.discovery.detector import FeatureDetector
from ravl_med.discovery.feature_clusters import FeatureClusters
from ravl_med.discovery.ravl import AuditedTask
from ravl_med.encoders.base import Encoder, pick_device
from ravl_med.encoders.embeddings import Embeddings
from ravl_med.encoders.open_clip import open_model
from ravl_med.encoders.zero_shot import Scores, embed_classes, score_embeddings
from ravl_med.errors import DataError
from ravl_med.evidence.adjudication import adjudicate, decisions_on, read_decisions
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
from ravl_med.evidence.relevance import RelevanceTable, read_relevance
from ravl_med.evidence.statistics import PatientBootstrap
from ravl_med.evidence.subgroups import attribute_strata, measure_subgroups
from ravl_med.evidence.verdict import auditability, judge, measure_accuracy, stop_audit
from ravl_med.pipeline.stages import (
    Clock,
    Progress,
    digest_cohort,
    embed_cohort,
    films_not_finite,
    prepare_manifest,
    prepare_model,
    require_films,
    structure_reader,
)
from ravl_med.regions.proposal import choose_segmenter, describe_sources
from ravl_med.reporting.audit_run import Audit

__all__ = ["audit"]


def audit(
    config: Config,
    *,
    key: bytes,
    cache: Cache,
    progress: Progress = lambda stage, done, total: None,
    today: date | None = None,
) -> Audit:
    """Run an audit.

    Parameters
    ----------
    config : Config
    key : bytes - secret of the pseudonyms
    cache : Cache - of synthetic cohorts and quickstart models
    progress : callable - called with (stage, done, total)
    today : date or None - on which acceptances of ``gate.accepted`` hold; None: all do

    Raises
    ------
    ConfigError, ModelError, DataError
        With one clear line; nothing has been written to a run folder by then.
    """
    clock = Clock()
    relevance = read_relevance(config.evidence.relevance)
    decided = read_decisions(config.gate.accepted) if config.gate.accepted else ()
    segmenter = choose_segmenter(config.regions)
    reader = FilmReader(config.cohort.voi_view, config.cohort.max_pixels)
    with clock.stage("cohort"):
        manifest = prepare_manifest(config, cache, progress)
        listed = read_manifest(
            manifest,
            split=config.cohort.split,
            columns=config.task.columns(),
            blank=config.labels.blank,
        )
    with clock.stage("model"):
        folder, model_cached = prepare_model(config, manifest, reader, cache, progress)
        encoder = open_model(folder, pick_device(config.model.device))
    with clock.stage("embeddings"):
        embeddings = embed_cohort(config, listed, encoder, reader.films(listed), progress)
        broken = films_not_finite(listed, embeddings)
        cohort = listed.keep(embeddings.films, (*embeddings.rejected, *broken))
        require_films(cohort)
    with clock.stage("zero-shot"):
        texts = config.task.texts()
        classes = embed_classes(encoder, texts)
        scores = score_embeddings(
            embeddings.image, embeddings.region, classes, config.task.temperature
        )
    bootstrap = PatientBootstrap(cohort.patients, config.evidence.draws, config.evidence.seed)
    accuracy = measure_accuracy(
        cohort.labels, scores.predictions, len(classes), bootstrap, config.evidence.confidence
    )
    reasons = auditability(accuracy, cohort.classes, config.gate)
    if broken:
        reasons = (
            f"The model gives NaN or infinity for {len(broken)} of {len(listed)} films; expected "
            "finite numbers. Check the weights, and the precision on this device.",
            *reasons,
        )
    found = _Findings(stop_audit(reasons))
    if not found.verdict.reasons:
        probe = Probe(
            encoder,
            lambda index: reader.film(cohort, index).pixels,
            classes,
            config.task.temperature,
            config.model.batch_size,
            structure_reader(segmenter, lambda index: reader.film(cohort, index).pixels),
        )
        try:
            found = _search(config, cohort, embeddings, scores, probe, relevance, clock, progress)
        except DataError as error:  # nothing to search in is an outcome, told in the report
            found = _Findings(stop_audit((str(error),)))
    result = _collect(config, cohort, encoder, embeddings, accuracy, found, key)
    if decided:
        on_this = decisions_on(result, decided, config.gate)
        result = adjudicate(result, on_this, config.gate, today or date.min)
    return Audit(
        config=config,
        result=result,
        cohort=cohort,
        scores=scores,
        reader=reader,
        manifest=manifest,
        cohort_digest=digest_cohort(embeddings.digests, cohort.labels),
        segmenter_digest=segmenter.digest,
        timings=clock.seconds,
        model_cached=model_cached,
        features=found.features,
    )


@dataclass(frozen=True, slots=True)
class _Findings:
    """What the search found; the verdict alone where it could not be made."""

    verdict: Verdict
    discovery: DiscoverySummary | None = None
    correlations: tuple[SpuriousCorrelation, ...] = ()
    subgroups: tuple[Stratum, ...] = ()
    sensitivity: Sensitivity | None = None
    features: tuple[ConfirmedFeature, ...] = ()
    descriptions: Mapping[int, str] = field(default_factory=dict)


def _search(
    config: Config,
    cohort: Cohort,
    embeddings: Embeddings,
    scores: Scores,
    probe: Probe,
    relevance: RelevanceTable,
    clock: Clock,
    progress: Progress,
) -> _Findings:
    """Propose clusters, confirm, test by counterfactuals, cross, and judge."""
    evidence = config.evidence
    with clock.stage("clustering"):
        clusters = _propose(config, embeddings, len(cohort.classes), progress)
        subject = _subject(cohort, embeddings, scores, clusters, config.task.name)
    with clock.stage("confirmation"):
        examination = confirm_correlations(subject, config, progress)
    with clock.stage("counterfactuals"):
        correlations = weigh_correlations(subject, examination, probe, relevance, config, progress)
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
    return _Findings(
        judge(correlations, cohort.classes, config.gate, sensitivity),
        _summarise_search(config, embeddings, subject, examination),
        correlations,
        subgroups,
        sensitivity,
        _features(correlations, clusters, embeddings),
        {c.cluster.cluster: _describe(c, embeddings, probe.structures) for c in correlations},
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
            medoids=embeddings.region[partition.medoids],
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


def _subject(
    cohort: Cohort, embeddings: Embeddings, scores: Scores, clusters: FeatureClusters, task: str
) -> Subject:
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
    )


def _summarise_search(
    config: Config, embeddings: Embeddings, subject: Subject, examination: Examination
) -> DiscoverySummary:
    half, patients = examination.half, subject.images.patients
    return DiscoverySummary(
        protocol=config.discovery.protocol,
        regions=len(embeddings.region),
        regions_unseen=embeddings.unseen,
        region_source=describe_sources(config.regions),
        region_problems=embeddings.problems,
        partitions=tuple(
            PartitionSummary(len(p.medoids), p.draw, p.loss) for p in subject.clusters.partitions
        ),
        left_out=subject.clusters.left_out,
        clusters=len(subject.clusters),
        survivors=examination.discovery.survivors,
        candidates=examination.candidates,
        films=int(half.sum()),
        confirmation_films=int((~half).sum()),
        patients=len(np.unique(patients[half])),
        confirmation_patients=len(np.unique(patients[~half])),
    )


def _collect(
    config: Config,
    cohort: Cohort,
    encoder: Encoder,
    embeddings: Embeddings,
    accuracy: Accuracy,
    found: _Findings,
    key: bytes,
) -> AuditResult:
    names = [kind.words() for kind in embeddings.kinds]
    info = encoder.info
    return AuditResult(
        name=config.name,
        title=config.report.title,
        verdict=found.verdict,
        task=TaskSummary(
            name=config.task.name,
            classes=cohort.classes,
            texts={name: tuple(texts) for name, texts in config.task.texts().items()},
            temperature=config.task.temperature,
        ),
        model=ModelSummary(
            name=config.model.name or ("quickstart" if config.model.quickstart else "unnamed"),
            architecture=info.architecture,
            digest=info.digest,
            image_size=info.image_size,
            resize_mode=info.resize_mode,
            region_pooling=info.region_pooling,
            parameters=info.parameters,
        ),
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
        region_names=tuple(names[i] for i in embeddings.region_kind),
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
