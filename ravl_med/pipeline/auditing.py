"""Every stage of an audit, in order."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from ravl_med.cache import Cache
from ravl_med.cohort.attributes import add_header_attributes
from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.manifest import read_manifest
from ravl_med.cohort.score_table import read_scores
from ravl_med.config import Config
from ravl_med.encoders.precision import using_threads
from ravl_med.encoders.zero_shot import embed_classes, score_embeddings, sigmoid_of
from ravl_med.engine.opening import Engine, opened_engine
from ravl_med.errors import DataError
from ravl_med.evidence.accuracy import auditability, measure_accuracy
from ravl_med.evidence.adjudication import adjudicate, decisions_on, read_decisions
from ravl_med.evidence.relevance import read_relevance
from ravl_med.evidence.statistics import PatientBootstrap
from ravl_med.evidence.verdict import stop_audit
from ravl_med.pipeline.audited_model import AuditedModel, scores_of_table, summarise_model
from ravl_med.pipeline.counterfactual_units import AuditedFilms, probe_of, spread_probe
from ravl_med.pipeline.film_units import embed_with
from ravl_med.pipeline.sanity_gate import check_sanity
from ravl_med.pipeline.searching import (
    Findings,
    ScoredFilms,
    Search,
    collect_result,
    search_films,
)
from ravl_med.pipeline.stages import (
    Clock,
    Progress,
    digest_cohort,
    films_not_finite,
    headers_asked,
    open_model_of,
    prepare_manifest,
    prepare_model,
    require_films,
)
from ravl_med.regions.proposal import choose_segmenter
from ravl_med.reporting.files.audit_run import Audit
from ravl_med.storage.freed_memory import hand_back_memory

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
        manifest = prepare_manifest(config, cache, progress)
        listed = read_manifest(
            manifest,
            split=config.cohort.split,
            columns=config.task.columns(),
            labels=config.labels,
            unit=config.cohort.unit,
            roots=config.cohort.roots,
        )
        hand_back_memory()
    vendor = config.model.scores
    if vendor is not None:  # a bad table is told of before hours of embedding
        read_scores(vendor, listed, complete=False)
    with clock.stage("model"):
        folder, model_cached = prepare_model(config, manifest, reader, cache, progress)
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
        hand_back_memory()
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
        sanity = check_sanity(config, cohort, model, reader)
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
        probe = spread_probe(probe_of(films, encoder, segmenter), films, engine, folder)
        search = Search(None if table is not None else probe, probe.structures, relevance, sanity)
        try:
            found = search_films(config, scored, search, clock, progress)
        except DataError as error:  # nothing to search in is an outcome, told in the report
            found = Findings(stop_audit((str(error),)))
    summary = summarise_model(config, encoder.info, table)
    result = collect_result(config, scored, summary, accuracy, found, key)
    result = replace(result, sanity=sanity)
    embeddings.let_go()
    hand_back_memory()
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
