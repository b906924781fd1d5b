"""A finished audit, and the run folder that it leaves."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.image_file import declares_burned_in
from ravl_med.cohort.manifest import Cohort
from ravl_med.config.loading import Config
from ravl_med.encoders.zero_shot import Scores
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.confirmation import split_patients
from ravl_med.evidence.results import ConfirmedFeature
from ravl_med.reporting.audit.history import (
    AuditHistory,
    PastAudit,
    ReportDetails,
    describe_history,
    earlier_audits,
    record_audit,
    settings_of,
)
from ravl_med.reporting.files.run_folder import (
    config_text,
    draft_folder,
    write_json,
    write_predictions_file,
    write_private,
)
from ravl_med.reporting.files.run_record import describe_run, describe_thresholds, peak_memory_mb
from ravl_med.reporting.files.saved_run import SavedRun, write_patients
from ravl_med.reporting.files.tables import (
    INTAKE,
    REVIEW,
    earlier_rows,
    write_features,
    write_intake,
    write_rejected_films,
    write_review,
)
from ravl_med.reporting.layout.dicom_pdf import DocumentDetails
from ravl_med.reporting.pictures import TextMasking, shown_correlations
from ravl_med.storage.cache import open_cache
from ravl_med.storage.remote import FilePath


@dataclass(frozen=True, slots=True, eq=False)
class Audit:
    """A finished audit: the result, and what is needed to show it."""

    config: Config  # effective
    result: AuditResult
    cohort: Cohort  # the audited films; holds paths and is never printed
    scores: Scores
    reader: FilmReader
    manifest: FilePath  # that was read
    cohort_digest: str  # SHA-256 over the digests of the audited films and their labels
    segmenter_digest: str  # SHA-256 of the weights that name anatomy and artifacts
    timings: dict[str, float]
    model_cached: bool  # the quickstart model was found in the cache
    features: tuple[ConfirmedFeature, ...]  # confirmed and tested by counterfactuals, in order
    applied: tuple[str, ...] = ()  # how the stored values of each film became pixels
    halved_to: int = 0  # films encoded at once, where memory did not suffice for more; 0: it did
    throughput: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def film(self, index: int) -> NDArray[np.uint8]:
        """Return a film of the audited cohort as (H, W) uint8, windowed, bright is dense."""
        return self.reader.film(self.cohort, index).gray()

    def declares_text(self, index: int) -> bool:
        """Return whether the header of a film says that text is burned in."""
        return declares_burned_in(self.cohort.paths[index])


def write_run(
    run: Audit,
    folder: Path,
    *,
    date: str | None,
    history_root: Path | None,
    replace: bool = False,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> None:
    """Write a finished audit as a run folder, whole or not at all, and note it in the history.

    Parameters
    ----------
    folder : Path - an earlier run there is replaced
    date : str or None - printed on the report
    history_root : Path or None - where earlier audits are noted, see `user_history_root`; None
        reads and writes no history, and the report then says nothing of earlier audits
    replace : bool - an earlier run that holds what no run wrote is kept beside the new one
    progress : callable - stage, films done, films in all

    Raises
    ------
    ConfigError
        The folder holds something else than a run, or cannot be written; the history cannot be
        read, or, once the run folder is in its place, not written.
    """
    digests = (run.result.model.digest, run.cohort_digest)
    settings = settings_of(run.config)
    history = None
    if history_root is not None:
        history = describe_history(earlier_audits(history_root, *digests), settings)
    reviewed = earlier_rows(folder)
    with draft_folder(folder, replace=replace) as draft:
        _fill(draft, run, date, history, reviewed, progress)
    if history_root is not None:
        record_audit(history_root, *digests, PastAudit(run.result.verdict.name, settings))


def _fill(
    draft: Path,
    run: Audit,
    date: str | None,
    history: AuditHistory | None,
    reviewed: list[dict[str, str]],
    progress: Callable[[str, int, int], None],
) -> None:
    """Write every file of a run folder; ``result.json`` knows neither date nor history."""
    config, result = run.config, run.result
    shared_config = config_text(config, show_paths=False, without=("mitigation",))
    record = describe_run(
        config, result, (run.cohort_digest, run.segmenter_digest), run.model_cached, history
    )
    start = time.perf_counter()
    (draft / "config.yaml").write_text(shared_config, encoding="utf-8")
    labels = [run.cohort.classes[c] for c in run.cohort.labels]
    write_predictions_file(
        draft / "predictions.parquet",
        result.image_ids,
        labels,
        run.cohort.classes,
        run.scores.image,
        _film_columns(run),
    )
    write_private(draft / "private", result.image_ids, run.cohort.paths, config)
    write_rejected_films(draft / "private" / "rejected.csv", run.cohort)
    write_intake(draft / INTAKE, run.cohort, result.image_ids, run.applied or ("",) * len(labels))
    write_features(draft / "private" / "features.npz", run.features)
    write_patients(draft, run.cohort.patients)
    masking = TextMasking.of(config, open_cache(config.cache.folder))
    _saved(run, date, history, shared_config, record).save(
        draft, run.film, masking, run.declares_text, progress
    )
    write_review(draft / REVIEW, result, config.gate, reviewed)
    run.timings["report"] = round(time.perf_counter() - start, 3)
    record["timings_s"] = run.timings
    record["throughput"] = run.throughput
    record["peak_memory_mb"] = peak_memory_mb()
    write_json(draft / "run.json", record)


def _film_columns(run: Audit) -> dict[str, Any]:
    """Return what ``predictions.parquet`` says of each film beside label and scores."""
    config, cohort, result = run.config, run.cohort, run.result
    evidence = config.evidence
    half = split_patients(cohort.patients, cohort.labels, evidence.discovery_share, evidence.seed)
    if config.discovery.protocol == "ravl":
        half = np.ones_like(half)  # chosen on all films
    films: dict[int, list[str]] = {}
    for patient, name in zip(cohort.patients.tolist(), result.image_ids, strict=True):
        films.setdefault(patient, []).append(name)
    names = {
        patient: hashlib.sha256(" ".join(sorted(own)).encode()).hexdigest()[:12]
        for patient, own in films.items()
    }
    return {
        "prediction": [cohort.classes[c] for c in run.scores.predictions],
        "split": [config.cohort.split or ""] * len(cohort),
        "half": np.where(half, "discovery", "confirmation").tolist(),
        "patient": [names[patient] for patient in cohort.patients.tolist()],
        **{
            f"feature:{one.rank}": one.cluster.present
            for one in result.correlations
            if one.counts or one.confirmed
        },
    }


def _saved(
    run: Audit,
    date: str | None,
    history: AuditHistory | None,
    shared_config: str,
    record: Mapping[str, Any],
) -> SavedRun:
    """Return all that the report says."""
    config = run.config
    details = ReportDetails(
        date=date,
        config_yaml=shared_config,
        versions=record["versions"],
        digests=record["digests"],
        seeds=record["seeds"],
        thresholds=describe_thresholds(config),
        regions_shown=config.report.regions,
        history=history,
    )
    return SavedRun(
        run.result,
        details,
        config.gate.model_dump_json(exclude={"accepted"}),
        config.report.regions_listed,
        _document_details(run, date, record["digests"]) if config.report.dicom else None,
        config.privacy.min_cell,
    )


def _document_details(run: Audit, date: str | None, digests: Mapping[str, str]) -> DocumentDetails:
    """Return what the DICOM document says of the audit; phantoms are no patients."""
    result = run.result
    return DocumentDetails(
        kind="audit",
        name=result.name,
        title=result.title,
        date=date,
        model_digest=digests["model"],
        digests=(digests["cohort"], digests["config"]),
        shows_patients=bool(shown_correlations(result)) and not result.cohort.synthetic,
    )
