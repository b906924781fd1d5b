"""Every stage of an audit, in order, and the folder that it leaves."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ravl_med import __version__
from ravl_med.cache import Cache
from ravl_med.cohort.film import FilmReader, pseudonym
from ravl_med.cohort.manifest import Cohort, RejectedFilm, read_manifest
from ravl_med.config import Config
from ravl_med.discovery.clustering import paper_clusters, propose_clusters
from ravl_med.discovery.feature_clusters import FeatureClusters
from ravl_med.discovery.ravl import AuditedTask
from ravl_med.encoders.base import Encoder, pick_device
from ravl_med.encoders.embeddings import Embeddings, embed_films
from ravl_med.encoders.open_clip import open_model
from ravl_med.encoders.zero_shot import Scores, embed_classes, score_embeddings
from ravl_med.errors import DataError
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
from ravl_med.evidence.claims import SpuriousCorrelation
from ravl_med.evidence.cohort_summary import summarise_cohort
from ravl_med.evidence.counterfactual import Probe
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
from ravl_med.mitigation.quickstart import cached_quickstart_model
from ravl_med.regions.tiles import cut_tiles, tile_names
from ravl_med.reporting.audit_run import Audit, write_run

__all__ = ["Audit", "Progress", "audit", "write_run"]

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class _Clock:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


def audit(
    config: Config,
    *,
    key: bytes,
    cache: Cache,
    progress: Progress = lambda stage, done, total: None,
) -> Audit:
    """Run an audit.

    Parameters
    ----------
    config : Config
    key : bytes - secret of the pseudonyms
    cache : Cache - of synthetic cohorts and quickstart models
    progress : callable - called with (stage, done, total)

    Raises
    ------
    ConfigError, ModelError, DataError
        With one clear line; nothing has been written to a run folder by then.
    """
    clock = _Clock()
    relevance = read_relevance(config.evidence.relevance)
    reader = FilmReader(config.cohort.voi_view, config.cohort.max_pixels)
    with clock.stage("cohort"):
        manifest = _prepare_manifest(config, cache, progress)
        listed = read_manifest(
            manifest,
            split=config.cohort.split,
            columns=config.task.columns(),
            blank=config.labels.blank,
        )
    with clock.stage("model"):
        folder, model_cached = _prepare_model(config, manifest, reader, cache, progress)
        encoder = open_model(folder, pick_device(config.model.device))
    with clock.stage("embeddings"):
        embeddings = _embed(config, listed, encoder, reader, progress)
        broken = _not_finite(listed, embeddings)
        cohort = listed.keep(embeddings.films, (*embeddings.rejected, *broken))
        _require_films(cohort)
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
        )
        try:
            found = _search(config, cohort, embeddings, scores, probe, relevance, clock, progress)
        except DataError as error:  # nothing to search in is an outcome, told in the report
            found = _Findings(stop_audit((str(error),)))
    result = _collect(config, cohort, encoder, embeddings, accuracy, found, key)
    digest = hashlib.sha256()
    for film, label in sorted(zip(embeddings.digests, cohort.labels.tolist(), strict=True)):
        digest.update(f"{film} {label}\n".encode())
    return Audit(
        config=config,
        result=result,
        cohort=cohort,
        scores=scores,
        reader=reader,
        manifest=manifest,
        cohort_digest=digest.hexdigest(),
        timings=clock.seconds,
        model_cached=model_cached,
    )


def _prepare_manifest(config: Config, cache: Cache, progress: Progress) -> Path:
    """Path of the manifest; a synthetic cohort is made first when the cache lacks it."""
    if config.cohort.manifest is not None:
        return config.cohort.manifest
    from ravl_med.cohort.synthetic import synthesize

    synthetic = config.cohort.synthetic
    assert synthetic is not None  # the config demands one of the two
    recipe = {"version": __version__, **synthetic.model_dump()}

    def make(folder: Path) -> None:
        synthesize(
            folder,
            **synthetic.model_dump(),
            progress=lambda done, total: progress("synthesize films", done, total),
        )

    folder, _ = cache.folder("cohorts", recipe, make)
    return folder / "manifest.csv"


def _prepare_model(
    config: Config, manifest: Path, reader: FilmReader, cache: Cache, progress: Progress
) -> tuple[Path, bool]:
    """Folder of the model; the quickstart model is trained first when the cache lacks it."""
    if config.model.path is not None:
        return config.model.path, False
    assert config.model.quickstart is not None  # the config demands one of the two
    return cached_quickstart_model(config.model.quickstart, manifest, reader, cache, progress)


def _embed(
    config: Config, cohort: Cohort, encoder: Encoder, reader: FilmReader, progress: Progress
) -> Embeddings:
    rows, columns = config.regions.tiles
    return embed_films(
        encoder,
        reader.films(cohort),
        lambda height, width: cut_tiles(height, width, rows, columns),
        min_visible=config.regions.min_visible,
        batch_size=config.model.batch_size,
        progress=lambda done: progress("embed films and regions", done, len(cohort)),
    )


def _not_finite(listed: Cohort, embeddings: Embeddings) -> tuple[RejectedFilm, ...]:
    """Films for which the model gives NaN or infinity, as set aside."""
    return tuple(
        RejectedFilm(
            row := int(listed.rows[i]),
            "not_finite",
            f"{listed.name} row {row}: the model gives NaN or infinity for this film.",
        )
        for i in embeddings.not_finite
    )


def _require_films(cohort: Cohort) -> None:
    if len(cohort):
        return
    reasons = Counter(film.reason for film in cohort.rejected) + Counter(cohort.left_out)
    told = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    first = f" First: {cohort.rejected[0].message}" if cohort.rejected else ""
    raise DataError(
        f"{cohort.name}: none of its {cohort.listed} rows can be audited ({told}); expected "
        f"readable films with a label.{first}"
    )


@dataclass(frozen=True, slots=True)
class _Findings:
    """What the search found; the verdict alone where it could not be made."""

    verdict: Verdict
    discovery: DiscoverySummary | None = None
    correlations: tuple[SpuriousCorrelation, ...] = ()
    subgroups: tuple[Stratum, ...] = ()
    sensitivity: Sensitivity | None = None


def _search(
    config: Config,
    cohort: Cohort,
    embeddings: Embeddings,
    scores: Scores,
    probe: Probe,
    relevance: RelevanceTable,
    clock: _Clock,
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
    )


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
    rows, columns = config.regions.tiles
    half, patients = examination.half, subject.images.patients
    return DiscoverySummary(
        protocol=config.discovery.protocol,
        regions=len(embeddings.region),
        regions_unseen=embeddings.unseen,
        region_source=f"tiles, {rows} rows x {columns} columns",
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
    names = tile_names(*config.regions.tiles)
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
        subgroups=found.subgroups,
        sensitivity=found.sensitivity,
        image_ids=tuple(pseudonym(digest, key) for digest in embeddings.digests),
        region_image=embeddings.region_image,
        region_boxes=embeddings.region_boxes,
        region_names=tuple(names[i] for i in embeddings.region_number),
    )
