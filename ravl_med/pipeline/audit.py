"""An audit in its six stages: read the films, embed, score, check the model, search, collect."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.film import FilmReader, pseudonym
from ravl_med.cohort.manifest import Cohort, add_header_attributes
from ravl_med.cohort.score_table import ScoreTable, read_scores
from ravl_med.config.loading import Config
from ravl_med.discovery.candidates import describe_regions
from ravl_med.discovery.clusters import FeatureClusters, cluster_regions, map_clusters
from ravl_med.discovery.effect_features import detect_feature
from ravl_med.discovery.ravl import AuditData
from ravl_med.encoders.base import Encoder, using_threads
from ravl_med.encoders.embeddings import Embeddings
from ravl_med.encoders.zero_shot import Scores, embed_classes, score_embeddings, sigmoid_of
from ravl_med.engine import Engine, opened_engine
from ravl_med.errors import DataError
from ravl_med.evidence.audit_result import (
    Accuracy,
    AuditResult,
    Confounder,
    Dependence,
    DiscoverySummary,
    FilmAnswers,
    FilmChange,
    LookingCheck,
    ModelChecks,
    ModelSummary,
    PartitionSummary,
    Sensitivity,
    Stratum,
    TaskSummary,
    Verdict,
    WrittenPair,
)
from ravl_med.evidence.confounders import measure_confounders, with_confounders
from ravl_med.evidence.counterfactual import CounterfactualModel
from ravl_med.evidence.counterfactual.examples import example_changes
from ravl_med.evidence.counterfactual.localisation import (
    MOST_REGIONS,
    RelevanceTable,
    StructureReader,
    read_relevance,
)
from ravl_med.evidence.dependence import measure_dependence
from ravl_med.evidence.effects import check_auditability, measure_accuracy, summarise_cohort
from ravl_med.evidence.examination import (
    Examination,
    InterventionTools,
    ProposedFeatures,
    assess_correlations,
    confirm_correlations,
    map_films,
    measure_detectable_gap,
    propose_features,
)
from ravl_med.evidence.looking import measure_looking
from ravl_med.evidence.results import ConfirmedFeature, SpuriousCorrelation
from ravl_med.evidence.review import apply_earlier, read_decisions
from ravl_med.evidence.statistics import PatientBootstrap
from ravl_med.evidence.subgroups import attribute_strata, measure_subgroups
from ravl_med.evidence.verdict import decide_verdict, points_for_reviewer, with_leaks, with_protocol
from ravl_med.pipeline import stages
from ravl_med.pipeline.answers import (
    AnsweredFilms,
    reworded_answers,
    score_answered,
    summarise_questions,
    write_pairs,
)
from ravl_med.pipeline.audited_model import (
    AuditedFilms,
    AuditedModel,
    check_audited_model,
    counterfactual_model,
    input_reader,
    scores_of_table,
    spread_hypotheses,
    summarise_model,
)
from ravl_med.pipeline.embedding import embed_with
from ravl_med.pipeline.other_splits import find_films_elsewhere
from ravl_med.regions.film_structures import NAME_RECORDS
from ravl_med.regions.looks import describe_looks
from ravl_med.regions.proposal import choose_segmenter, describe_sources
from ravl_med.regions.segmenter import Segmenter
from ravl_med.reporting.files.audit_run import Audit
from ravl_med.storage.cache import Cache
from ravl_med.storage.mapped_arrays import take_rows, trim_memory
from ravl_med.storage.remote import FilePath


def audit(
    config: Config,
    *,
    key: bytes,
    cache: Cache,
    progress: stages.Progress = lambda stage, done, total: None,
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
    run = stages.Run(cache, progress, key=key)
    relevance = read_relevance(config.evidence.relevance)  # bad files are refused before all work
    decided = read_decisions(config.gate.accepted) if config.gate.accepted else ()
    segmenter = choose_segmenter(config.regions)
    with (
        using_threads(config.threads),
        opened_engine(config.engine, config.model.device, config.threads) as engine,
    ):
        listed = read_films(config, run)
        films = embed(config, listed, engine, run)
        scored = score(config, films, run)
        checks = check_model(config, scored, run)
        model = _counterfactual_model(config, scored, segmenter, engine, run.cache)
        black_box = scored.table is not None
        confounders = find_confounders(config, films, run)
        tools = SearchTools(None if black_box else model, model.structures, relevance, checks)
        found = search(config, scored, tools, run).beside(confounders)
        made = collect(config, scored, found, segmenter.digest, run)
    return replace(made, result=apply_earlier(made.result, decided, config.gate, today or date.min))


@dataclass(frozen=True, slots=True, eq=False)
class ListedFilms:
    """The films that a manifest lists, and the model; no film has been read yet."""

    manifest: FilePath
    cohort: Cohort
    reader: FilmReader
    encoder: Encoder
    folder: Path | None  # of the model, as workers open it
    model_cached: bool  # the quickstart model was found in the cache


def read_films(config: Config, run: stages.Run) -> ListedFilms:
    """List the films of the manifest, and open the model that they are read for."""
    reader = FilmReader.of(config.cohort)
    with run.stage("cohort"):
        manifest = stages.prepare_manifest(config, run)
        cohort = stages.list_films(config, manifest)
        stages.require_films(cohort, config.gate.max_rejected_fraction)
        stages.require_classes(cohort, config.gate.min_films, config.cohort.split)
        trim_memory()
    if config.model.scores is not None:  # a bad table is refused before hours of embedding
        read_scores(config.model.scores, cohort, complete=False)
    with run.stage("model"):
        folder, cached = stages.prepare_model(config, manifest, reader, run)
        encoder = stages.open_model_of(config, folder)
    return ListedFilms(manifest, cohort, reader, encoder, folder, cached)


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedFilms:
    """The films that could be read and embedded."""

    listed: ListedFilms
    cohort: Cohort  # N films
    embeddings: Embeddings  # of these, with R regions


def embed(config: Config, listed: ListedFilms, engine: Engine, run: stages.Run) -> EmbeddedFilms:
    """Read and embed films and their regions; set aside what cannot be used."""
    with run.stage("embeddings"):
        model = listed.encoder, listed.folder
        embeddings = embed_with(engine, config, listed.cohort, model, run)
        run.clock.note(
            "embeddings",
            films=len(embeddings.digests) + len(embeddings.not_finite),
            regions=len(embeddings.region),
            megabytes=embeddings.file_bytes / 1e6,
        )
        broken = stages.films_not_finite(listed.cohort, embeddings)
        cohort = listed.cohort.keep(embeddings.films, (*embeddings.rejected, *broken))
        stages.require_films(cohort, config.gate.max_rejected_fraction)
        cohort = add_header_attributes(cohort, embeddings.attributes, stages.headers_wanted(config))
        trim_memory()
    with run.stage("other splits"):
        cohort = find_films_elsewhere(config, listed.manifest, cohort, embeddings, run)
    return EmbeddedFilms(listed, cohort, embeddings)


@dataclass(frozen=True, slots=True, eq=False)
class ScoredFilms:
    """What the model says of the films."""

    films: EmbeddedFilms
    classes: NDArray[np.float32]  # (C, D) class texts
    scores: Scores
    table: ScoreTable | None  # that the scores of the films come from, in place of the model
    accuracy: Accuracy


def score(config: Config, films: EmbeddedFilms, run: stages.Run) -> ScoredFilms:
    """Score films and regions against the class texts, or take scores from a table."""
    cohort, embeddings, encoder = films.cohort, films.embeddings, films.listed.encoder
    own = config.model.scores is None
    with run.stage("zero-shot"):
        classes = embed_classes(encoder, config.task.texts())
        if embeddings.answers is None:
            sigmoid = sigmoid_of(encoder.info) if config.task.scores == "sigmoid" and own else None
            scores = score_embeddings(
                embeddings.image,
                embeddings.region,
                classes,
                config.task.temperature,
                sigmoid=sigmoid,
            )
        else:
            read = input_reader(encoder, cohort, films.listed.reader, embeddings.inputs)
            answered = AnsweredFilms.of(cohort, embeddings, encoder, read)
            scores = score_answered(config, answered, run.staged("ask the model"))
        table = None if config.model.scores is None else read_scores(config.model.scores, cohort)
        if table is not None:
            scores = scores_of_table(table, scores.region, config.task.scores)
    bootstrap = PatientBootstrap(cohort.patients, config.evidence.draws, config.evidence.seed)
    accuracy = measure_accuracy(
        cohort.labels, scores.predictions, len(classes), bootstrap, config.evidence.confidence
    )
    return ScoredFilms(films, classes, scores, table, accuracy)


def check_model(config: Config, scored: ScoredFilms, run: stages.Run) -> ModelChecks:
    """Check how the model is set up: prompts, padding, resize, an inverted class."""
    films = scored.films
    with run.stage("sanity"):
        table = None if scored.table is None else scored.scores.image
        model = AuditedModel(films.listed.encoder, films.embeddings, scored.classes, table)
        return check_audited_model(config, films.cohort, model, films.listed.reader)


def find_confounders(
    config: Config, films: EmbeddedFilms, run: stages.Run
) -> tuple[Confounder, ...]:
    """Measure which attributes of the films go with their labels; the model is not asked."""
    cohort = films.cohort
    attributes = {**cohort.attributes, "pixels": films.embeddings.applied}
    if cohort.label_sources:
        attributes |= {
            "label source": cohort.label_sources,
            "label certainty": cohort.label_certainty,
        }
    least = config.privacy.min_cell if config.cohort.synthetic is None else 0
    with run.stage("confounders"):
        return measure_confounders(
            attributes, cohort.labels, cohort.patients, cohort.classes, config.evidence, least
        )


@dataclass(frozen=True, slots=True, eq=False)
class SearchTools:
    """What a search needs beside films and scores."""

    model: CounterfactualModel | None  # None where a table of scores was audited
    structures: StructureReader | None  # film to its anatomy and artifacts
    relevance: RelevanceTable
    checks: ModelChecks


@dataclass(frozen=True, slots=True)
class Findings:
    """What the search found; the verdict alone where it could not be made."""

    verdict: Verdict
    checks: ModelChecks | None = None
    discovery: DiscoverySummary | None = None
    correlations: tuple[SpuriousCorrelation, ...] = ()
    subgroups: tuple[Stratum, ...] = ()
    sensitivity: Sensitivity | None = None
    features: tuple[ConfirmedFeature, ...] = ()
    descriptions: Mapping[int, str] = field(default_factory=dict)
    confounders: tuple[Confounder, ...] = ()
    dependence: Dependence | None = None
    looking: LookingCheck | None = None
    written: tuple[WrittenPair, ...] | None = None
    changes: tuple[FilmChange, ...] = ()

    def beside(self, confounders: tuple[Confounder, ...]) -> Findings:
        """Return them with what is confounded, which the verdict names."""
        verdict = with_confounders(self.verdict, confounders)
        return replace(self, verdict=verdict, confounders=confounders)


def search(config: Config, scored: ScoredFilms, tools: SearchTools, run: stages.Run) -> Findings:
    """Search for shortcuts, unless model or films leave nothing to search in."""
    films, broken = scored.films, len(scored.films.embeddings.not_finite)
    lost = (
        f"The model gives NaN or infinity for {broken} of {len(films.listed.cohort)} films; "
        "expected finite numbers. Check the weights, and the precision on this device."
    )
    data = audit_data(films.cohort, films.embeddings, scored.scores)
    looking = check_looking(config, data, tools, run)
    ignores = [looking.ignores] if looking is not None and looking.ignores else []
    stops, doubts = check_auditability(scored.accuracy, films.cohort.classes, config.gate)
    reasons = [*ignores, *([lost] if broken else ()), *tools.checks.stops, *stops]
    tools = replace(tools, checks=replace(tools.checks, doubts=(*doubts, *tools.checks.doubts)))
    if not reasons:
        try:
            found = search_films(config, data, films.embeddings, tools, run)
            return replace(found, looking=looking)
        except DataError as error:  # nothing to search in is an outcome that the report shows
            reasons = [str(error)]
    return Findings(Verdict("not_auditable", (*reasons, *doubts)), tools.checks, looking=looking)


def check_looking(
    config: Config, data: AuditData, tools: SearchTools, run: stages.Run
) -> LookingCheck | None:
    """Ask whether the model looks at the films; None where that is not asked, or it is a table."""
    if tools.model is None or not config.evidence.looking_films:
        return None
    model = tools.model
    asked = reworded_answers(model.encoder, config.model.batch_size)
    with run.stage("looking"):
        return measure_looking(
            model,
            data,
            tools.relevance,
            config.evidence,
            wordings=asked.wordings,
            blind=asked.blind,
            progress=run.staged("look at the film"),
        )


def audit_data(cohort: Cohort, embeddings: Embeddings, scores: Scores) -> AuditData:
    """Return films, regions and scores as discovery and evidence take them."""
    return AuditData(
        classes=cohort.classes,
        labels=cohort.labels,
        predictions=scores.predictions,
        patients=cohort.patients,
        sizes=embeddings.sizes,
        region_image=embeddings.region_image,
        region_boxes=embeddings.region_boxes,
        image_scores=scores.image,
        region_scores=scores.region,
        attributes=attribute_strata(cohort.attributes),
        label_sources=np.array(cohort.label_sources, dtype=np.str_),
        label_certainty=np.array(cohort.label_certainty, dtype=np.str_),
    )


def search_films(
    config: Config, data: AuditData, embeddings: Embeddings, tools: SearchTools, run: stages.Run
) -> Findings:
    """Propose clusters, confirm, test by counterfactuals, cross with attributes, and decide.

    Raises
    ------
    DataError
        There is nothing to search in.
    """
    discovery, evidence, gate = config.discovery, config.evidence, config.gate
    with run.stage("clustering"):
        run.clock.note("clustering", regions=len(embeddings.region))
        clusters = cluster_regions(
            embeddings.region, len(data.classes), discovery, run.staged("cluster regions")
        )
    intervention, proposed = _map_effects(config, data, embeddings, tools, run)
    with run.stage("confirmation"):
        examination = confirm_correlations(
            data, clusters, discovery, evidence, gate, run.progress, proposed
        )
        embeddings.release_pages()
    with run.stage("counterfactuals"):
        correlations = assess_correlations(
            data, examination.tested, intervention, evidence, gate, run.progress
        )
        tested = sum(bool(c.counterfactual and c.counterfactual.tested) for c in correlations)
        run.clock.note("counterfactuals", correlations=tested)
        embeddings.release_pages()
    with run.stage("subgroups"):
        bootstrap = PatientBootstrap(data.patients, evidence.draws, evidence.seed)
        subgroups = measure_subgroups(data, evidence, bootstrap)
    with run.stage("sensitivity"):
        sensitivity = measure_detectable_gap(data, examination, discovery, evidence, run.progress)
        if intervention is not None:
            local = intervention.bound_unnamed(data, examination.half, correlations)
            sensitivity = replace(sensitivity, local=local)
    dependence = find_dependence(config, data, tools, run)
    verdict = decide_verdict(
        correlations,
        data.classes,
        gate,
        sensitivity,
        checks=tools.checks,
        black_box=tools.model is None,
        styles=dependence.findings if dependence else (),
    )
    return Findings(
        with_protocol(verdict, discovery.protocol, len(correlations)),
        tools.checks,
        _summarise_search(config, data, embeddings, clusters, examination, correlations),
        correlations,
        subgroups,
        sensitivity,
        _features(correlations, clusters, embeddings, proposed),
        _describe_all(config, correlations, embeddings, tools.structures),
        dependence=dependence,
        written=_write(data, correlations, embeddings, tools, run),
        changes=_change_films(config, data, correlations, embeddings, tools, run),
    )


def _write(
    data: AuditData,
    correlations: tuple[SpuriousCorrelation, ...],
    embeddings: Embeddings,
    tools: SearchTools,
    run: stages.Run,
) -> tuple[WrittenPair, ...] | None:
    """Let a model that writes do so, of films with and without each feature that counts."""
    if tools.model is None:
        return None
    names = [pseudonym(digest, run.key) for digest in embeddings.digests]
    return write_pairs(tools.model, data, correlations, names)


def _change_films(
    config: Config,
    data: AuditData,
    correlations: tuple[SpuriousCorrelation, ...],
    embeddings: Embeddings,
    tools: SearchTools,
    run: stages.Run,
) -> tuple[FilmChange, ...]:
    """Change a few films of each correlation that counts or has to be decided on, to be shown."""
    if tools.model is None:
        return ()
    names = [pseudonym(digest, run.key) for digest in embeddings.digests]
    with run.stage("examples"):
        return tuple(
            change
            for one in points_for_reviewer(correlations, config.gate)
            for change in example_changes(tools.model, data, one, names)
        )


def find_dependence(
    config: Config, data: AuditData, tools: SearchTools, run: stages.Run
) -> Dependence | None:
    """Measure what the answers depend on; None where that is not asked, or the model is a table."""
    if tools.model is None or not config.evidence.dependence_films:
        return None
    with run.stage("dependence"):
        found = measure_dependence(
            tools.model, data, tools.relevance, config.evidence, run.staged("dependence")
        )
        if found is not None:
            run.clock.note("dependence", films=found.films, pictures=found.pictures)
    return found


def _map_effects(
    config: Config, data: AuditData, embeddings: Embeddings, tools: SearchTools, run: stages.Run
) -> tuple[InterventionTools | None, ProposedFeatures | None]:
    """Map effects on films, and propose features from them; nothing of a model known by scores."""
    if tools.model is None or config.discovery.protocol == "ravl":  # which tests nothing
        return None, None
    discovery, evidence = config.discovery, config.evidence
    with run.stage("effects"):
        maps = map_films(data, tools.model, evidence, run.progress)
        intervention = InterventionTools(tools.model, maps, tools.relevance, embeddings.region)
        wanted = discovery.protocol == "pooled" and "effects" in discovery.propose
        if not wanted or False not in maps:
            return intervention, None
        proposed = propose_features(data, embeddings.region, tools.model, maps[False], evidence)
    return intervention, proposed


def _counterfactual_model(
    config: Config, scored: ScoredFilms, segmenter: Segmenter, engine: Engine, cache: Cache
) -> CounterfactualModel:
    """Return the model as counterfactuals run it, with the workers of the engine."""
    films, listed = scored.films, scored.films.listed
    edges = films.embeddings.left_edges
    inputs = films.embeddings.inputs
    logits = films.embeddings.logits(scored.classes, config.task.temperature)
    kept = cache if config.cache.embeddings else None
    audited = AuditedFilms(config, films.cohort, scored.classes, edges, inputs, logits, kept)
    model = counterfactual_model(audited, listed.encoder, segmenter)
    return spread_hypotheses(model, audited, engine, listed.folder)


def _features(
    correlations: tuple[SpuriousCorrelation, ...],
    clusters: FeatureClusters,
    embeddings: Embeddings,
    proposed: ProposedFeatures | None,
) -> tuple[ConfirmedFeature, ...]:
    """Return what was found as features that can be looked for in other films."""
    features = []
    for correlation in correlations:
        known = correlation.counts or correlation.confirmed
        confirmed = known and correlation.counterfactual is not None
        detector = detect_feature(
            correlation.cluster,
            clusters,
            embeddings.region,
            () if proposed is None else proposed.features,
        )
        features.append(
            ConfirmedFeature(
                correlation.rank, correlation.kind, correlation.counts, detector, confirmed
            )
        )
    return tuple(features)


def _summarise_search(
    config: Config,
    data: AuditData,
    embeddings: Embeddings,
    clusters: FeatureClusters,
    examination: Examination,
    correlations: tuple[SpuriousCorrelation, ...],
) -> DiscoverySummary:
    half, patients = examination.half, data.patients
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


def _describe_all(
    config: Config,
    correlations: tuple[SpuriousCorrelation, ...],
    embeddings: Embeddings,
    structures: StructureReader | None,
) -> dict[int, str]:
    """Describe the regions of each correlation, by its cluster."""
    # What the user's own segmenter calls right is not known here.
    records = NAME_RECORDS if config.regions.segmenter is None else {}
    return {c.cluster.cluster: _describe(c, embeddings, structures, records) for c in correlations}


def _describe(
    correlation: SpuriousCorrelation,
    embeddings: Embeddings,
    structures: StructureReader | None,
    records: Mapping[str, str],
) -> str:
    """Describe the regions of a correlation, or those that carry it, and what lies there."""
    regions = correlation.cluster.regions
    tested = correlation.counterfactual
    rows = np.arange(len(regions))
    if tested is not None and tested.removal.carries.any():
        rows = correlation.order[tested.removal.carries[correlation.order]]
    films = embeddings.region_image[regions[rows]]
    boxes = embeddings.region_boxes[regions[rows]]
    if tested is not None and tested.removal.located is not None:
        located = tested.removal.located[rows]
        boxes = np.where(np.isfinite(located), located, boxes)
    sizes = embeddings.sizes[films]
    shares = boxes / np.tile(sizes[:, ::-1], 2)
    if correlation.counts and structures is not None:
        seen = [structures(int(film)) for film in films[:MOST_REGIONS]]
        shares = shares[: len(seen)]
        held = [film.artifacts_in(box) for film, box in zip(seen, shares, strict=True)]
        places = [film.place(box) for film, box in zip(seen, shares, strict=True)]
        looks = [film.look(box) for film, box in zip(seen, shares, strict=True)]
        widths = embeddings.widths_mm(films[: len(seen)])
        return describe_regions(held, shares, places, describe_looks(looks, widths), records)
    kinds = [embeddings.kinds[i] for i in embeddings.region_kind[regions[rows]]]
    names = [() if kind.source in ("tiles", "windows") else (kind.name,) for kind in kinds]
    edges = embeddings.left_edges
    return describe_regions(
        names,
        shares,
        [kind.place for kind in kinds],
        edges=[edges[film] for film in films.tolist()] if edges else (),
    )


def collect(
    config: Config, scored: ScoredFilms, found: Findings, segmenter_digest: str, run: stages.Run
) -> Audit:
    """Put together what is shown of an audit, and let go of what is held of the films."""
    films, listed = scored.films, scored.films.listed
    model = summarise_model(config, listed.encoder.info, scored.table)
    result = collect_result(
        config, films.cohort, films.embeddings, model, scored.accuracy, found, run.key
    )
    if films.embeddings.answers is not None:
        task = summarise_questions(result.task, listed.encoder)
        result = replace(result, task=task)
    called = scored.scores.predictions
    answers = FilmAnswers(
        labels=films.cohort.labels,
        called=called,
        score=scored.scores.image[np.arange(len(called)), called],
    )
    result = replace(result, answers=answers)
    films.embeddings.release_pages()
    trim_memory()
    return Audit(
        config=config,
        result=result,
        cohort=films.cohort,
        scores=scored.scores,
        reader=listed.reader,
        manifest=listed.manifest,
        cohort_digest=stages.digest_cohort(films.embeddings.digests, films.cohort.labels),
        segmenter_digest=segmenter_digest,
        timings=run.clock.seconds,
        model_cached=listed.model_cached,
        features=found.features,
        applied=films.embeddings.applied,
        halved_to=films.embeddings.halved_to,
        throughput=run.clock.throughput(),
    )


def collect_result(
    config: Config,
    cohort: Cohort,
    embeddings: Embeddings,
    model: ModelSummary,
    accuracy: Accuracy,
    found: Findings,
    key: bytes,
) -> AuditResult:
    """Put together what an audit found; `key` is the secret of the pseudonyms."""
    synthetic = config.cohort.synthetic is not None
    summary = summarise_cohort(cohort, embeddings.applied, synthetic=synthetic)
    return AuditResult(
        name=config.name,
        title=config.report.title,
        about=config.report.stated(),
        verdict=with_leaks(found.verdict, summary.leaks, config.gate),
        task=TaskSummary(
            name=config.task.name,
            classes=cohort.classes,
            texts={name: tuple(texts) for name, texts in config.task.texts().items()},
            temperature=config.task.temperature,
            scores=config.task.scores if config.model.scores is None else "table",
        ),
        model=model,
        cohort=summary,
        accuracy=accuracy,
        discovery=found.discovery,
        correlations=found.correlations,
        descriptions=found.descriptions,
        subgroups=found.subgroups,
        sensitivity=found.sensitivity,
        sanity=found.checks,
        confounders=found.confounders,
        dependence=found.dependence,
        looking=found.looking,
        written=found.written,
        changes=found.changes,
        image_ids=tuple(pseudonym(digest, key) for digest in embeddings.digests),
        films_digest=hashlib.sha256("".join(embeddings.digests).encode()).hexdigest(),
        region_image=embeddings.region_image,
        region_boxes=embeddings.region_boxes,
        region_kind=embeddings.region_kind,
        region_kinds=embeddings.kinds,
        left_edges=embeddings.left_edges,
    )
