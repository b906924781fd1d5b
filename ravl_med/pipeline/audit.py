"""Every stage of an audit, in order.

The search of an audit: clusters, candidates, confirmation, counterfactuals, strata, verdict.

Everything that comes after the model: where nobody can ask it, nothing here needs one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date

import numpy as np

from ravl_med.cohort.film import FilmReader, pseudonym
from ravl_med.cohort.manifest import Cohort, add_header_attributes, read_manifest
from ravl_med.cohort.score_table import read_scores
from ravl_med.config.loading import Config
from ravl_med.discovery.cluster_map import map_clusters
from ravl_med.discovery.clusters import FeatureClusters, paper_clusters, propose_clusters
from ravl_med.discovery.detector import FeatureDetector, describe_regions
from ravl_med.discovery.ravl import AuditData, AuditedTask
from ravl_med.encoders.base import using_threads
from ravl_med.encoders.embeddings import Embeddings
from ravl_med.encoders.zero_shot import Scores, embed_classes, score_embeddings, sigmoid_of
from ravl_med.engine import Engine, opened_engine
from ravl_med.errors import DataError
from ravl_med.evidence.audit_result import (
    Accuracy,
    AuditResult,
    DiscoverySummary,
    ModelChecks,
    ModelSummary,
    PartitionSummary,
    Sensitivity,
    Stratum,
    TaskSummary,
    Verdict,
)
from ravl_med.evidence.counterfactual import CounterfactualModel
from ravl_med.evidence.counterfactual.effect_places import (
    MOST_REGIONS,
    RelevanceTable,
    StructureReader,
    read_relevance,
)
from ravl_med.evidence.effects import auditability, measure_accuracy, summarise_cohort
from ravl_med.evidence.examination import (
    Examination,
    Subject,
    assess_correlations,
    confirm_correlations,
    measure_detectable_gap,
)
from ravl_med.evidence.label_quality import origin_of
from ravl_med.evidence.results import ConfirmedFeature, SpuriousCorrelation
from ravl_med.evidence.review import adjudicate, decisions_on, read_decisions
from ravl_med.evidence.statistics import PatientBootstrap
from ravl_med.evidence.subgroups import attribute_strata, measure_subgroups
from ravl_med.evidence.verdict import decide_verdict, stop_audit
from ravl_med.pipeline.counterfactual_units import (
    AuditedFilms,
    counterfactual_model,
    spread_hypotheses,
)
from ravl_med.pipeline.embedding import embed_with
from ravl_med.pipeline.model_checks import (
    AuditedModel,
    check_model,
    scores_of_table,
    summarise_model,
)
from ravl_med.pipeline.stages import (
    Clock,
    Progress,
    Run,
    digest_cohort,
    films_not_finite,
    headers_asked,
    open_model_of,
    prepare_manifest,
    prepare_model,
    require_films,
)
from ravl_med.regions.proposal import choose_segmenter, describe_sources
from ravl_med.reporting.files.audit_run import Audit
from ravl_med.storage.cache import Cache
from ravl_med.storage.mapped_arrays import take_rows, trim_memory


@dataclass(frozen=True, slots=True, eq=False)
class ScoredFilms:
    """The films of an audit, their regions, and what the model says of both.

    Attributes
    ----------
    cohort : Cohort - N films
    embeddings : Embeddings - of these, with R regions
    """

    cohort: Cohort
    embeddings: Embeddings
    scores: Scores


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """What a search needs beside films and scores.

    Attributes
    ----------
    probe : CounterfactualModel or None - None where nobody can ask the model
    structures : callable or None - film to its anatomy and artifacts
    """

    probe: CounterfactualModel | None
    structures: StructureReader | None
    relevance: RelevanceTable
    sanity: ModelChecks


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
    clock : Clock - that times the stages

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
        correlations = assess_correlations(
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
        decide_verdict(
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
        images=AuditData(
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
    key : bytes - secret of the pseudonyms
    cache : Cache - of synthetic cohorts and quickstart models
    today : date or None - on which acceptances of ``gate.accepted`` hold; None: all do

    Raises
    ------
    ConfigError, ModelError, DataError
        With one clear line; nothing has been written to a run folder by then.
    """
    with using_threads(config.threads), opened_engine(config) as engine:
        return _audit(config, engine, key, cache, progress, today)


def _audit(
    config: Config,
    engine: Engine,
    key: bytes,
    cache: Cache,
    progress: Progress,
    today: date | None,
) -> Audit:
    clock = Clock()
    relevance = read_relevance(config.evidence.relevance)
    decided = read_decisions(config.gate.accepted) if config.gate.accepted else ()
    segmenter = choose_segmenter(config.regions)
    reader = FilmReader.of(config.cohort)
    with clock.stage("cohort"):
        manifest = prepare_manifest(config, Run(cache, progress))
        listed = read_manifest(
            manifest,
            split=config.cohort.split,
            columns=config.task.columns(),
            labels=config.labels,
            unit=config.cohort.unit,
            roots=config.cohort.roots,
        )
        trim_memory()
    vendor = config.model.scores
    if vendor is not None:  # a bad table is told of before hours of embedding
        read_scores(vendor, listed, complete=False)
    with clock.stage("model"):
        folder, model_cached = prepare_model(config, manifest, reader, Run(cache, progress))
        encoder = open_model_of(config, folder)
    with clock.stage("embeddings"):
        embeddings = embed_with(engine, config, listed, (encoder, folder), cache, progress)
        clock.note(
            "embeddings",
            films=len(embeddings.digests) + len(embeddings.not_finite),
            regions=len(embeddings.region),
            megabytes=embeddings.file_bytes / 1e6,
        )
        broken = films_not_finite(listed, embeddings)
        cohort = listed.keep(embeddings.films, (*embeddings.rejected, *broken))
        require_films(cohort, config.gate.max_rejected_fraction)
        cohort = add_header_attributes(cohort, embeddings.attributes, headers_asked(config))
        trim_memory()
    with clock.stage("zero-shot"):
        texts = config.task.texts()
        classes = embed_classes(encoder, texts)
        scores = score_embeddings(
            embeddings.image,
            embeddings.region,
            classes,
            config.task.temperature,
            sigmoid=sigmoid_of(encoder.info)
            if config.task.scores == "sigmoid" and vendor is None
            else None,
        )
        table = None if vendor is None else read_scores(vendor, cohort)
        if table is not None:
            scores = scores_of_table(table, scores.region, config.task.scores)
    bootstrap = PatientBootstrap(cohort.patients, config.evidence.draws, config.evidence.seed)
    accuracy = measure_accuracy(
        cohort.labels, scores.predictions, len(classes), bootstrap, config.evidence.confidence
    )
    with clock.stage("sanity"):
        model = AuditedModel(encoder, embeddings, classes, None if table is None else scores.image)
        sanity = check_model(config, cohort, model, reader)
    reasons = (*sanity.stops, *auditability(accuracy, cohort.classes, config.gate))
    if broken:
        reasons = (
            f"The model gives NaN or infinity for {len(broken)} of {len(listed)} films; expected "
            "finite numbers. Check the weights, and the precision on this device.",
            *reasons,
        )
    scored = ScoredFilms(cohort, embeddings, scores)
    found = Findings(stop_audit(reasons))
    if not found.verdict.reasons:
        mirrored = frozenset(at for at, edge in enumerate(embeddings.left_edges) if edge == "L")
        films = AuditedFilms(config, cohort, classes, mirrored)
        probe = spread_hypotheses(
            counterfactual_model(films, encoder, segmenter), films, engine, folder
        )
        search = Search(None if table is not None else probe, probe.structures, relevance, sanity)
        try:
            found = search_films(config, scored, search, clock, progress)
        except DataError as error:  # nothing to search in is an outcome, told in the report
            found = Findings(stop_audit((str(error),)))
    summary = summarise_model(config, encoder.info, table)
    result = collect_result(config, scored, summary, accuracy, found, key)
    result = replace(result, sanity=sanity)
    embeddings.let_go()
    trim_memory()
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
        applied=embeddings.applied,
        halved_to=embeddings.halved_to,
        throughput=clock.throughput(),
    )
