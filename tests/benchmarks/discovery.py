"""The search on simulated cohorts whose truth is known: calibration, power, time and memory.

Calibration: how often a cohort without any shortcut is accused. Power: how often a planted feature
is confirmed, as the feature and with the class that it raises. Each cohort is examined in a child
process with one BLAS thread, so that the numbers are the same whatever the count of workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ravl_med.config.audit import EvidenceConfig
from ravl_med.config.loading import Config
from ravl_med.discovery.candidates import discover_correlations
from ravl_med.discovery.clusters import FeatureClusters, cluster_regions
from ravl_med.discovery.k_medoids import silhouette
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.examination import min_strength_of
from ravl_med.evidence.power import PREVALENCES, CohortDesign, SimulatedCohort, design_to_collect
from tests.benchmarks.processes import forget_peak, map_in_children, peak_mb
from tests.benchmarks.runner import Page, Part, Progress, Setup
from tests.benchmarks.simulated_cohorts import (
    CohortPlan,
    Feature,
    Lowered,
    Trial,
    draw_embeddings,
    draw_prototypes,
    examine_cohort,
)
from tests.benchmarks.tables import Column, Row, Table, Target, draw_table, exact_interval, fill

NULL_PLANS = {
    "plain": CohortPlan(600, (0.25,) * 4, (0.8,) * 4),
    "a feature goes with the label": CohortPlan(
        600, (0.25,) * 4, (0.95, 0.85, 0.75, 0.65), Feature((0.80, 0.40, 0.20, 0.05))
    ),
    "classes of 70, 15, 10 and 5 %": CohortPlan(
        600, (0.70, 0.15, 0.10, 0.05), (0.9, 0.8, 0.7, 0.6)
    ),
    "2 to 6 films a patient": CohortPlan(
        1200, (0.25,) * 4, (0.8,) * 4, Feature(0.5), films_a_patient=(2, 6), correlation=0.6
    ),
    "tiny clusters": CohortPlan(600, (0.25,) * 4, (0.8,) * 4, tiny=60),
}
PLANTED = ((600, 2, 0.25), (600, 4, 0.40), (2400, 4, 0.20))
"""Films, classes, and the gap of the raised class and of the lowered ones."""

_WORKERS = 2  # no number but the seconds depends on it
_PREVALENCE, _ACCURACY = 0.5, 0.8
_POWER = 0.9
_COMPARED = 20  # null cohorts of a kind that RaVL as published, which is slower, runs on too
_ACCUSED = 15 / 200  # the binomial upper bound of a true level of 5 %, nearly

_GAPS = (0.10, 0.20, 0.30, 0.40)
_FILMS = (300, 600, 1200, 2400)
_CLASSES = (2, 4)
_CANDIDATES, _SIMULATIONS = 10, 100

_PROTOTYPES, _TIMED_CLASSES = 25, 10
_MATRIX = 20_000  # regions whose distances fit into 2 GB
_SECONDS = {11_997: 4.0, 1_000_000: 90.0}  # targets, by regions
_PEAK_MB = {1_000_000: 2_000.0}


def accusations_allowed(cohorts: int) -> int:
    """Return how many null cohorts may be accused: 15 of 200."""
    return int(_ACCUSED * cohorts + 1e-9)


def measure_calibration(
    config: Config, cohorts: int, *, workers: int, progress: Progress
) -> Iterator[Row]:
    """Examine so many null cohorts of every kind."""
    for number, (variant, plan) in enumerate(NULL_PLANS.items()):
        examine = partial(_examine_null, plan=plan, kind=(1, number), config=config)
        trials = _examine(examine, cohorts, workers, f"null: {variant}", progress)
        accused = sum(trial.confirmed > 0 for trial in trials)
        low, high = exact_interval(accused, cohorts)
        yield {
            "variant": variant,
            "films": plan.films,
            "classes": len(plan.shares),
            "cohorts": cohorts,
            "accused": accused,
            "low": low,
            "high": high,
            "raised_only": sum(t.raised_only > 0 and t.confirmed == 0 for t in trials),
            "survived": sum(trial.survivors > 0 for trial in trials),
            "published": sum(trial.published is True for trial in trials),
            "compared": sum(trial.published is not None for trial in trials),
            "clusters": _median([trial.clusters for trial in trials]),
            "candidates": _median([trial.candidates for trial in trials]),
            "allowed": accusations_allowed(cohorts),
        }


def measure_power(
    config: Config, cohorts: int, *, workers: int, progress: Progress
) -> Iterator[Row]:
    """Examine so many planted cohorts of a kind: all other classes lowered, then one alone."""
    kinds: list[tuple[int, int, float, Lowered]] = [
        (films, classes, gap, lowered)
        for films, classes, gap in PLANTED
        for lowered in ("others", "one")
        if classes > 2 or lowered == "others"  # with two classes they are the same
    ]
    for number, (films, classes, gap, lowered) in enumerate(kinds):
        plan = CohortPlan(
            films,
            (1 / classes,) * classes,
            (_ACCURACY,) * classes,
            Feature(_PREVALENCE, gap, lowered),
        )
        stage = f"planted: {classes} classes, {films} films, {100 * gap:.0f} points, {lowered}"
        examine = partial(_examine_planted, plan=plan, kind=(2, number), config=config)
        trials = _examine(examine, cohorts, workers, stage, progress)
        found = sum(trial.found for trial in trials)
        low, high = exact_interval(found, cohorts)
        yield {
            "films": films,
            "classes": classes,
            "gap": gap,
            "lowered": lowered,
            "cohorts": cohorts,
            "found": found,
            "low": low,
            "high": high,
            "half_found": sum(trial.half_found for trial in trials),
            "strays": sum(trial.strays > 0 for trial in trials),
            "survived": sum(trial.survivors > 0 for trial in trials),
            "clusters": _median([trial.clusters for trial in trials]),
            "candidates": _median([trial.candidates for trial in trials]),
            "needed": int(np.ceil(_POWER * cohorts - 1e-9)) if lowered == "others" else 0,
        }


def tabulate_power(
    config: Config, simulations: int, *, workers: int, progress: Progress
) -> list[Row]:
    """Tabulate the power of the confirmation alone by films, classes, prevalence and gap."""
    kinds = [
        (films, classes, prevalence)
        for classes in _CLASSES
        for films in _FILMS
        for prevalence in PREVALENCES
    ]
    cells = map_in_children(
        partial(_power_cells, config=config, simulations=simulations),
        kinds,
        workers=workers,
        progress=lambda done, total: progress("table of power", done, total),
    )
    return [cell for row in cells for cell in row]


def _power_cells(kind: tuple[int, int, float], config: Config, simulations: int) -> list[Row]:
    films, classes, prevalence = kind
    evidence = config.evidence
    design = design_to_collect(
        films, classes, _ACCURACY, 1.0, evidence.discovery_share, evidence.seed
    )
    min_strength = min_strength_of(config.discovery)
    return [
        {
            "films": films,
            "classes": classes,
            "prevalence": prevalence,
            "gap": gap,
            "power": simulated_power(
                design,
                evidence,
                min_strength=min_strength,
                prevalence=prevalence,
                gap=gap,
                candidates=_CANDIDATES,
                simulations=simulations,
            ),
        }
        for gap in _GAPS
    ]


def simulated_power(
    design: CohortDesign,
    evidence: EvidenceConfig,
    *,
    min_strength: float,
    prevalence: float,
    gap: float,
    candidates: int,
    simulations: int,
) -> float:
    """Return the share of simulated cohorts in which a feature with this gap is confirmed."""
    films = design.films_of_classes()
    cohorts = (
        SimulatedCohort(design, films, prevalence, evidence, min_strength, (0, run))
        for run in range(simulations)
    )
    return sum(cohort.finds(gap, max(candidates, 1)) for cohort in cohorts) / simulations


def _examine(
    examine: Callable[[int], Trial], cohorts: int, workers: int, stage: str, progress: Progress
) -> list[Trial]:
    return map_in_children(
        examine,
        range(cohorts),
        workers=workers,
        progress=lambda done, total: progress(stage, done, total),
    )


def _examine_null(number: int, plan: CohortPlan, kind: tuple[int, int], config: Config) -> Trial:
    return examine_cohort(plan, (*kind, number), config, published=number < _COMPARED)


def _examine_planted(number: int, plan: CohortPlan, kind: tuple[int, int], config: Config) -> Trial:
    return examine_cohort(plan, (*kind, number), config)


def _median(values: Sequence[int]) -> float:
    return float(np.median(values))


@dataclass(frozen=True, slots=True)
class SpeedCase:
    """Films, regions of each, embedding size, and how often the search is timed."""

    films: int
    regions: int
    size: int
    runs: int


SPEED_CASES = (
    SpeedCase(1_333, 9, 256, 3),
    SpeedCase(10_000, 10, 512, 3),
    SpeedCase(100_000, 10, 512, 1),
)


def measure_speed(config: Config, cases: Iterable[SpeedCase], progress: Progress) -> Iterator[Row]:
    """Time the search case by case, one after the other, each in a fresh process."""
    for case in cases:
        stage = f"search {case.films * case.regions:,} regions"
        progress(stage, 0, 1)
        yield from map_in_children(time_search, [(case, config)], threads=None)
        progress(stage, 1, 1)


def time_search(job: tuple[SpeedCase, Config]) -> Row:
    """Propose clusters, find them on the films, filter and rank, in this process."""
    case, config = job
    rng = np.random.default_rng(0)
    regions = case.films * case.regions
    embeddings = np.empty((regions, case.size), dtype=np.float32)
    anchors = draw_prototypes(_PROTOTYPES, case.size, rng)
    draw_embeddings(anchors, rng.integers(_PROTOTYPES, size=regions), embeddings, rng)
    data = _timed_data(case, rng)
    films = np.ones(case.films, dtype=np.bool_)
    before = forget_peak()
    whole, proposing = [], []
    for _ in range(case.runs):
        start = time.perf_counter()
        clusters = cluster_regions(embeddings, _TIMED_CLASSES, config.discovery)
        proposing.append(time.perf_counter() - start)
        discover_correlations(
            data,
            clusters,
            clusters.presence(data.region_image, case.films),
            films,
            config.discovery,
            min_films=config.evidence.min_n_on_half,
            large_gap=config.gate.max_gap,
        )
        whole.append(time.perf_counter() - start)
    peak = peak_mb() - before  # above what was held before, embeddings included there
    return {
        "regions": regions,
        "size": case.size,
        "films": case.films,
        "classes": _TIMED_CLASSES,
        "runs": case.runs,
        "seconds": float(np.median(whole)),
        "proposing": float(np.median(proposing)),
        "peak_mb": round(peak, 1),
        "clusters": len(clusters),
        "silhouettes": _silhouettes(embeddings, clusters) if regions <= _MATRIX else {},
    }


def _timed_data(case: SpeedCase, rng: np.random.Generator) -> AuditData:
    labels = rng.integers(_TIMED_CLASSES, size=case.films)
    wrong = (labels + rng.integers(1, _TIMED_CLASSES, size=case.films)) % _TIMED_CLASSES
    return AuditData(
        classes=tuple(f"class {c + 1}" for c in range(_TIMED_CLASSES)),
        labels=labels,
        predictions=np.where(rng.random(case.films) < _ACCURACY, labels, wrong),
        patients=np.arange(case.films, dtype=np.int64),
        sizes=np.zeros((case.films, 2), dtype=np.int64),
        region_image=np.repeat(np.arange(case.films, dtype=np.int64), case.regions),
        region_boxes=np.empty((0, 4), dtype=np.float32),
        region_scores=rng.random((case.films * case.regions, _TIMED_CLASSES), dtype=np.float32),
    )


def _silhouettes(embeddings: NDArray[np.float32], clusters: FeatureClusters) -> dict[str, float]:
    """Mean silhouette of each K over its draws, on all regions."""
    distances = np.maximum(1.0 - embeddings @ embeddings.T, 0.0, dtype=np.float32)
    np.fill_diagonal(distances, 0.0)
    widths: dict[str, list[float]] = {}
    for partition in clusters.partitions:
        width = silhouette(distances, partition.assignment.astype(np.int64))
        widths.setdefault(str(len(partition.medoids)), []).append(width)
    return {k: round(float(np.mean(values)), 4) for k, values in widths.items()}


def _count(name: str) -> Callable[[Row], str]:
    """Show a count of cohorts with its exact interval."""
    return lambda row: (
        f"{row[name]} of {row['cohorts']} ({100 * row['low']:.1f} to {100 * row['high']:.1f} %)"
    )


_SURVIVED = (
    Column("a proposed cluster passes RaVL's filters", "{survived} of {cohorts}"),
    Column("clusters, candidates (median)", "{clusters:.0f}, {candidates:.0f}"),
)
_CALIBRATION = Table(
    Column("null cohorts", "{variant}"),
    Column("films, classes", "{films:,}, {classes}"),
    Target("accused", lambda row: row["allowed"], "{limit} of {cohorts}").beside(
        "reached: accused (95 % interval)", _count("accused"), "target: accused"
    ),
    Column("raised side alone", "{raised_only} of {cohorts}"),
    Column("RaVL as published accuses", "{published} of {compared}"),
    _SURVIVED,
)
_FOUND = Table(
    Column("films, classes", "{films:,}, {classes}"),
    Column("gap", "{gap:points}"),
    Column(
        "lowered",
        lambda row: "all other classes" if row["lowered"] == "others" else "one other class",
    ),
    Target("found", lambda row: row["needed"] or None, "{limit} of {cohorts}", least=True).beside(
        "reached: found (95 % interval)", _count("found"), "target: found"
    ),
    Column("found or raised side alone", "{half_found} of {cohorts}"),
    Column("something else confirmed", "{strays} of {cohorts}"),
    _SURVIVED,
)
_SPEED = Table(
    Column("regions x size", "{regions:,} x {size}"),
    Column("films", "{films:,}"),
    Target("seconds", lambda row: _SECONDS.get(row["regions"]), "{limit:.0f} s").beside(
        "seconds (runs)", "{seconds:.1f} s ({runs})"
    ),
    Column("of it proposing", "{proposing:.1f} s"),
    Target("peak_mb", lambda row: _PEAK_MB.get(row["regions"]), "2 GB").beside(
        "peak memory", "{peak_mb:GB}"
    ),
    Column("clusters", "{clusters}"),
    Column(
        "silhouette by K",
        lambda row: ", ".join(f"{k}: {v:.3f}" for k, v in row["silhouettes"].items()) or None,
    ),
)


def _power_table(rows: Sequence[Row]) -> str:
    gaps = sorted({row["gap"] for row in rows})
    power = {(r["classes"], r["films"], r["prevalence"], r["gap"]): r["power"] for r in rows}
    return draw_table(
        ["classes", "films", "feature in", *(f"{100 * gap:.0f} points" for gap in gaps)],
        [
            [
                f"{key[0]}",
                f"{key[1]:,}",
                f"{key[2]:.0%}",
                *(f"{power[(*key, gap)]:.0%}" for gap in gaps),
            ]
            for key in dict.fromkeys((c, f, p) for c, f, p, _ in power)
        ],
    )


def growth(rows: Sequence[Row]) -> tuple[float, float] | None:
    """Return how many times the regions, and the seconds, the largest case has of the one below.

    None where there is one case alone, or their embeddings differ in size.
    """
    largest = sorted(rows, key=lambda row: int(row["regions"]))[-2:]
    if len(largest) < 2 or largest[0]["size"] != largest[1]["size"]:
        return None
    less, more = largest
    return more["regions"] / less["regions"], more["seconds"] / less["seconds"]


def _growth(rows: Sequence[Row]) -> str:
    grown = growth(rows)
    if grown is None:
        return ""
    return fill(
        "{more:.0f} times the regions take {ratio:.1f} times the seconds ({more:.0f} is linear).",
        dict(zip(("more", "ratio"), grown, strict=True)),
    )


def _speed_cases(setup: Setup) -> list[SpeedCase]:
    return [case for case in SPEED_CASES if case.films * case.regions <= setup.size("regions")]


PAGE = Page(
    "discovery",
    "The search, on cohorts whose truth is known",
    "Measure how often the search accuses without cause, what it finds, and how fast.",
    (
        Part(
            "calibration",
            "Calibration: cohorts without a shortcut",
            "Predictions have nothing to do with the regions, given the label. Region scores are "
            "chosen so that RaVL's influence filter gives no protection. Accused: a correlation is "
            "confirmed on held-out patients. RaVL as published: K over 2C .. 5C by the silhouette, "
            "its filters over all films, no test.",
            [_CALIBRATION],
            lambda setup: measure_calibration(
                setup.config, setup.size("cohorts"), workers=_WORKERS, progress=setup.progress
            ),
            {"cohorts": 200},
        ),
        Part(
            "power",
            "Power: cohorts with a planted feature",
            "Feature in half of the films, independent of the class; accuracy 0.8. Found: "
            "confirmed on held-out patients, most of its regions are the feature's, and it names "
            "the class that the feature raises.",
            [_FOUND],
            lambda setup: measure_power(
                setup.config, setup.size("cohorts"), workers=_WORKERS, progress=setup.progress
            ),
            {"cohorts": 200},
        ),
        Part(
            "table",
            "Power of the confirmation by films, classes, prevalence and gap",
            "Simulated from what films hold, the feature's cluster perfect, accuracy 0.8, one film "
            "a patient, 10 candidates.",
            [_power_table],
            lambda setup: tabulate_power(
                setup.config, setup.size("simulations"), workers=_WORKERS, progress=setup.progress
            ),
            {"simulations": _SIMULATIONS},
        ),
        Part(
            "speed",
            "Time and memory of the search",
            "Clusters proposed, found on the films, filtered and ranked; 10 classes. Memory is the "
            "peak above what was held before the search, which the embeddings are part of.",
            [_SPEED, _growth],
            lambda setup: measure_speed(setup.config, _speed_cases(setup), setup.progress),
            {"regions": 1_000_000},
        ),
    ),
)
