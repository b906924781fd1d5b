"""Every stage of an audit, in order, and the folder that it leaves."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med import __version__
from ravl_med.cache import Cache
from ravl_med.cohort.film import FilmReader, pseudonym
from ravl_med.cohort.manifest import Cohort, read_manifest
from ravl_med.config import Config
from ravl_med.discovery.clustering import cluster_regions
from ravl_med.discovery.ravl import Discovery, discover_correlations
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
    SpuriousCorrelation,
    TaskSummary,
    Verdict,
)
from ravl_med.evidence.cohort_summary import summarise_cohort
from ravl_med.evidence.counterfactual import opposed_class, removal_effects
from ravl_med.evidence.relevance import read_relevance
from ravl_med.evidence.statistics import PatientBootstrap
from ravl_med.evidence.verdict import (
    AuditedImages,
    EvidenceRules,
    auditability,
    judge,
    measure_accuracy,
    weigh_correlation,
)
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
        cohort = listed.keep(embeddings.films, embeddings.rejected)
        _require_films(cohort)
    with clock.stage("zero-shot"):
        texts = config.task.texts()
        classes = embed_classes(encoder, texts)
        scores = score_embeddings(
            embeddings.image, embeddings.region, classes, config.task.temperature
        )
    evidence = config.evidence
    bootstrap = PatientBootstrap(cohort.patients, evidence.draws, evidence.seed)
    accuracy = measure_accuracy(
        cohort.labels, scores.predictions, len(classes), bootstrap, evidence.confidence
    )
    stopped = auditability(accuracy, cohort.classes, config.gate)
    discovery: Discovery | None = None
    correlations: tuple[SpuriousCorrelation, ...] = ()
    if not stopped:
        with clock.stage("discovery"):
            discovery = _discover(config, cohort, embeddings, scores, progress)
        images = AuditedImages(
            classes=cohort.classes,
            labels=cohort.labels,
            correct=scores.predictions == cohort.labels,
            sizes=embeddings.sizes,
            region_image=embeddings.region_image,
            region_boxes=embeddings.region_boxes,
        )
        rules = EvidenceRules(
            evidence, config.gate, relevance, bootstrap, len(discovery.clustering.medoids)
        )
        with clock.stage("removal"):
            effects = _measure_removal(
                config, discovery, encoder, classes, cohort, reader, images, progress
            )
        with clock.stage("evidence"):
            correlations = _weigh(discovery, effects, images, rules, progress)
    verdict = (
        Verdict("not_auditable", stopped)
        if stopped
        else judge(correlations, cohort.classes, config.gate)
    )
    result = _collect(
        config, verdict, cohort, encoder, embeddings, accuracy, discovery, correlations, key
    )
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


def _discover(
    config: Config, cohort: Cohort, embeddings: Embeddings, scores: Scores, progress: Progress
) -> Discovery:
    settings = config.discovery
    clustering = cluster_regions(
        embeddings.region,
        settings.cluster_range(len(cohort.classes)),
        settings.sample,
        settings.seed,
        lambda done, total: progress("cluster regions", done, total),
    )
    return discover_correlations(
        clustering,
        embeddings.region_image,
        scores.region,
        cohort.labels,
        scores.predictions,
        settings.min_influence,
    )


def _measure_removal(
    config: Config,
    discovery: Discovery,
    encoder: Encoder,
    classes: NDArray[np.float32],
    cohort: Cohort,
    reader: FilmReader,
    images: AuditedImages,
    progress: Progress,
) -> list[NDArray[np.float64]]:
    """Measure the removal effect in each surviving cluster, on a seeded sample of large ones."""
    if not discovery.clusters:
        return []
    rng = np.random.default_rng([config.evidence.seed, 2])
    picked: list[NDArray[np.int64]] = []
    for cluster in discovery.clusters:
        size = min(len(cluster.regions), config.evidence.max_removals)
        picked.append(np.sort(rng.choice(len(cluster.regions), size, replace=False)))
    clusters = list(zip(discovery.clusters, picked, strict=True))
    regions = np.concatenate([cluster.regions[rows] for cluster, rows in clusters])
    raised = np.concatenate([np.full(len(rows), c.raised_class) for c, rows in clusters])
    least = config.evidence.min_n
    opposed = np.concatenate([np.full(len(rows), opposed_class(c, least)) for c, rows in clusters])
    effect = removal_effects(
        encoder,
        lambda index: reader.film(cohort, index).pixels,
        classes,
        config.task.temperature,
        images.region_image[regions],
        images.region_boxes[regions],
        raised.astype(np.int64),
        opposed.astype(np.int64),
        batch_size=config.model.batch_size,
        progress=lambda done, total: progress("remove regions", done, total),
    )
    effects = []
    start = 0
    for cluster, rows in clusters:
        values = np.full(len(cluster.regions), np.nan)
        values[rows] = effect[start : start + len(rows)]
        start += len(rows)
        effects.append(values)
    return effects


def _weigh(
    discovery: Discovery,
    effects: list[NDArray[np.float64]],
    images: AuditedImages,
    rules: EvidenceRules,
    progress: Progress,
) -> tuple[SpuriousCorrelation, ...]:
    """Weigh each surviving cluster; rank what counts before what does not, each by its gap."""
    correlations = []
    for rank, (cluster, effect) in enumerate(zip(discovery.clusters, effects, strict=True), 1):
        correlations.append(weigh_correlation(rank, cluster, effect, images, rules))
        progress("weigh correlations", rank, len(effects))
    ordered = sorted(correlations, key=lambda c: (not c.counts, c.rank))
    return tuple(replace(c, rank=rank) for rank, c in enumerate(ordered, start=1))


def _collect(
    config: Config,
    verdict: Verdict,
    cohort: Cohort,
    encoder: Encoder,
    embeddings: Embeddings,
    accuracy: Accuracy,
    discovery: Discovery | None,
    correlations: tuple[SpuriousCorrelation, ...],
    key: bytes,
) -> AuditResult:
    rows, columns = config.regions.tiles
    names = tile_names(rows, columns)
    summary = None
    if discovery is not None:
        summary = DiscoverySummary(
            regions=len(embeddings.region),
            regions_unseen=embeddings.unseen,
            region_source=f"tiles, {rows} rows x {columns} columns",
            clusters=len(discovery.clustering.medoids),
            silhouettes=discovery.clustering.silhouettes,
            survivors=len(discovery.clusters),
        )
    info = encoder.info
    return AuditResult(
        name=config.name,
        title=config.report.title,
        verdict=verdict,
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
        discovery=summary,
        correlations=correlations,
        image_ids=tuple(pseudonym(digest, key) for digest in embeddings.digests),
        region_image=embeddings.region_image,
        region_boxes=embeddings.region_boxes,
        region_names=tuple(names[i] for i in embeddings.region_number),
    )
