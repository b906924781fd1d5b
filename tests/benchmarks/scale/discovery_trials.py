"""Everything of an audit that comes after its model, on very many films: seconds and memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ravl_med.config.loading import Config
from ravl_med.evidence.audit_result import ModelChecks, ModelSummary, result_document
from ravl_med.evidence.counterfactual.effect_places import read_relevance
from ravl_med.evidence.disclosure_control import hide_small_cells
from ravl_med.evidence.effects import measure_accuracy
from ravl_med.evidence.statistics import PatientBootstrap
from ravl_med.pipeline.audit import (
    Findings,
    SearchTools,
    audit_data,
    collect_result,
    search_films,
)
from ravl_med.pipeline.stages import Run
from ravl_med.reporting.files.run_folder import write_json
from ravl_med.storage.cache import Cache
from tests.benchmarks.discovery.trials import map_in_children
from tests.benchmarks.peak_memory import forget_peak, peak_mb
from tests.benchmarks.scale.simulated_films import (
    FEATURE,
    FilmsPlan,
    SimulatedFilms,
    draw_films,
    open_films,
)

Progress = Callable[[str, int, int], None]

_MODEL = ModelSummary("none", "none", "0" * 64, 224, "squash", "simulated", 0)


@dataclass(frozen=True, slots=True)
class DiscoveryRow:
    """One search, from embeddings in a mapped file to ``result.json``.

    Attributes
    ----------
    films, patients, regions, size, classes : int - regions of all films
    seconds : float - of all stages
    stages : mapping of str to float - seconds by stage
    before_mb, peak_mb : float - resident memory of the process before the first stage, and at most;
        mapped files included
    clusters, candidates, confirmed : int
    found : bool - a confirmed correlation is the planted feature, and raises its class
    json_bytes : int - of ``result.json``
    """

    films: int
    patients: int
    regions: int
    size: int
    classes: int
    seconds: float
    stages: dict[str, float]
    before_mb: float
    peak_mb: float
    clusters: int
    candidates: int
    confirmed: int
    found: bool
    json_bytes: int


def measure_discovery(
    config: Config, plans: Sequence[FilmsPlan], progress: Progress
) -> list[DiscoveryRow]:
    """Search films of each plan, each in a process of its own; another one has drawn them.

    Parameters
    ----------
    config : Config - its sections discovery, evidence and gate
    plans : sequence of FilmsPlan
    progress : callable - called with (stage, done, total)
    """
    rows = []
    for plan in plans:
        stage = f"search {plan.films * plan.regions:,} regions"
        with tempfile.TemporaryDirectory(prefix="ravl-scale-") as place:
            progress(stage, 0, 2)
            map_in_children(partial(_draw, Path(place)), [plan], workers=1, threads=None)
            progress(stage, 1, 2)
            rows += map_in_children(
                partial(_search, Path(place), config), [plan], workers=1, threads=None
            )
            progress(stage, 2, 2)
    return rows


def _draw(place: Path, plan: FilmsPlan) -> None:
    draw_films(plan, place)


def _search(place: Path, config: Config, plan: FilmsPlan) -> DiscoveryRow:
    simulated = open_films(plan, place)
    cohort, scores = simulated.cohort, simulated.scores
    embeddings, evidence = simulated.embeddings, config.evidence
    run, checks = Run(Cache(place)), ModelChecks(0.0, (), (), (), ())
    tools = SearchTools(None, None, read_relevance(evidence.relevance), checks)
    before = forget_peak()
    start = time.perf_counter()
    with run.stage("accuracy"):
        bootstrap = PatientBootstrap(cohort.patients, evidence.draws, evidence.seed)
        accuracy = measure_accuracy(
            cohort.labels,
            scores.predictions,
            len(cohort.classes),
            bootstrap,
            evidence.confidence,
        )
    data = audit_data(cohort, embeddings, scores)
    found = search_films(config, data, embeddings, tools, run)
    with run.stage("result.json"):
        result = collect_result(config, cohort, embeddings, _MODEL, accuracy, found, b"scale" * 8)
        document = result_document(
            hide_small_cells(result, config.privacy.min_cell), config.report.regions_listed
        )
        write_json(place / "result.json", document.model_dump(mode="json"))
    seconds = time.perf_counter() - start
    peak = peak_mb()
    discovery = found.discovery
    assert discovery is not None
    return DiscoveryRow(
        films=len(cohort),
        patients=len(np.unique(cohort.patients)),
        regions=discovery.regions,
        size=plan.size,
        classes=len(cohort.classes),
        seconds=round(seconds, 1),
        stages={stage: round(took, 1) for stage, took in run.clock.seconds.items()},
        before_mb=round(before, 1),
        peak_mb=round(peak, 1),
        clusters=discovery.clusters,
        candidates=discovery.candidates,
        confirmed=sum(c.confirmation.status == "confirmed" for c in found.correlations),
        found=_finds(simulated, found),
        json_bytes=(place / "result.json").stat().st_size,
    )


def _finds(simulated: SimulatedFilms, found: Findings) -> bool:
    """Whether a confirmed correlation is the planted feature, and raises its class."""
    return any(
        entry.confirmation.status == "confirmed"
        and entry.cluster.raised_class == 0
        and bool(np.mean(simulated.kinds[entry.cluster.regions] == FEATURE) > 0.5)
        for entry in found.correlations
    )
