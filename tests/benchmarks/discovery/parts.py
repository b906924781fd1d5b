"""Calibration and power of the search, counted over simulated cohorts.

Calibration: how often a cohort without any shortcut is accused. Power: how often a planted feature
is confirmed, as the feature and with the class that it raises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import stats

from ravl_med.config.audit import EvidenceConfig
from ravl_med.config.loading import Config
from ravl_med.evidence.examination import min_strength_of
from ravl_med.evidence.power import PREVALENCES, CohortDesign, SimulatedCohort, plan_design
from tests.benchmarks.discovery.simulation import CohortPlan, Feature, Lowered
from tests.benchmarks.discovery.trials import Trial, examine_cohort, map_in_children

Progress = Callable[[str, int, int], None]

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

_PLANTED = ((600, 2, 0.25), (600, 4, 0.40), (2400, 4, 0.20))  # films, classes, gap
_PREVALENCE = 0.5
_ACCURACY = 0.8
_POWER = 0.9
_COMPARED = 20  # null cohorts of a kind that RaVL as published, which is slower, runs on too
_ACCUSED = 15 / 200  # the binomial upper bound of a true level of 5 %, nearly

_GAPS = (0.10, 0.20, 0.30, 0.40)
_FILMS = (300, 600, 1200, 2400)
_CLASSES = (2, 4)
_CANDIDATES = 10


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """Null cohorts of one kind.

    Attributes
    ----------
    variant : str
    films, classes, cohorts : int
    accused : int - cohorts with a confirmed correlation
    low, high : float - exact 95 % interval of their share
    raised_only : int - cohorts without one in which the raised side alone stands
    survived : int - cohorts in which a proposed cluster passes RaVL's own filters
    published, compared : int - cohorts in which RaVL as published reports a cluster, of the first
        so many
    clusters, candidates : float - median
    allowed : int - target: at most so many accused
    """

    variant: str
    films: int
    classes: int
    cohorts: int
    accused: int
    low: float
    high: float
    raised_only: int
    survived: int
    published: int
    compared: int
    clusters: float
    candidates: float
    allowed: int


@dataclass(frozen=True, slots=True)
class PowerRow:
    """Planted cohorts of one kind.

    Attributes
    ----------
    films, classes : int
    gap : float - of the raised class, and of the lowered ones
    lowered : {"others", "one"}
    cohorts : int
    found : int - cohorts in which the feature is confirmed, with the class that it raises
    low, high : float - exact 95 % interval of their share
    half_found : int - the same, or its raised side alone
    strays : int - cohorts in which something else is confirmed
    survived : int - cohorts in which a proposed cluster passes RaVL's own filters
    clusters, candidates : float - median
    needed : int - target: at least so many found; 0 where none is set
    """

    films: int
    classes: int
    gap: float
    lowered: Lowered
    cohorts: int
    found: int
    low: float
    high: float
    half_found: int
    strays: int
    survived: int
    clusters: float
    candidates: float
    needed: int


@dataclass(frozen=True, slots=True)
class PowerCell:
    """Power of the confirmation alone, clusters perfect, by simulation of what films hold."""

    films: int
    classes: int
    prevalence: float
    gap: float
    power: float


def accusations_allowed(cohorts: int) -> int:
    """Return how many null cohorts may be accused: 15 of 200."""
    return int(_ACCUSED * cohorts + 1e-9)


def measure_calibration(
    config: Config, cohorts: int, *, workers: int, progress: Progress
) -> list[CalibrationRow]:
    """Examine null cohorts of every kind.

    Parameters
    ----------
    config : Config
    cohorts : int - of each kind
    workers : int - processes; the numbers do not depend on it
    progress : callable - called with (stage, done, total)
    """
    rows = []
    for number, (variant, plan) in enumerate(NULL_PLANS.items()):
        trials = _examine(
            partial(_examine_null, plan=plan, kind=(1, number), config=config),
            cohorts,
            workers,
            f"null: {variant}",
            progress,
        )
        accused = sum(trial.confirmed > 0 for trial in trials)
        low, high = _exact_interval(accused, cohorts)
        rows.append(
            CalibrationRow(
                variant=variant,
                films=plan.films,
                classes=len(plan.shares),
                cohorts=cohorts,
                accused=accused,
                low=low,
                high=high,
                raised_only=sum(t.raised_only > 0 and t.confirmed == 0 for t in trials),
                survived=sum(trial.survivors > 0 for trial in trials),
                published=sum(trial.published is True for trial in trials),
                compared=sum(trial.published is not None for trial in trials),
                clusters=_median([trial.clusters for trial in trials]),
                candidates=_median([trial.candidates for trial in trials]),
                allowed=accusations_allowed(cohorts),
            )
        )
    return rows


def measure_power(
    config: Config, cohorts: int, *, workers: int, progress: Progress
) -> list[PowerRow]:
    """Examine planted cohorts: all other classes lowered, then one alone.

    Parameters
    ----------
    config : Config
    cohorts : int - of each kind
    workers : int - processes; the numbers do not depend on it
    progress : callable - called with (stage, done, total)
    """
    kinds: list[tuple[int, int, float, Lowered]] = [
        (films, classes, gap, lowered)
        for films, classes, gap in _PLANTED
        for lowered in ("others", "one")
        if classes > 2 or lowered == "others"  # with two classes they are the same
    ]
    rows = []
    for number, (films, classes, gap, lowered) in enumerate(kinds):
        plan = CohortPlan(
            films,
            (1 / classes,) * classes,
            (_ACCURACY,) * classes,
            Feature(_PREVALENCE, gap, lowered),
        )
        stage = f"planted: {classes} classes, {films} films, {100 * gap:.0f} points, {lowered}"
        trials = _examine(
            partial(_examine_planted, plan=plan, kind=(2, number), config=config),
            cohorts,
            workers,
            stage,
            progress,
        )
        found = sum(trial.found for trial in trials)
        low, high = _exact_interval(found, cohorts)
        rows.append(
            PowerRow(
                films=films,
                classes=classes,
                gap=gap,
                lowered=lowered,
                cohorts=cohorts,
                found=found,
                low=low,
                high=high,
                half_found=sum(trial.half_found for trial in trials),
                strays=sum(trial.strays > 0 for trial in trials),
                survived=sum(trial.survivors > 0 for trial in trials),
                clusters=_median([trial.clusters for trial in trials]),
                candidates=_median([trial.candidates for trial in trials]),
                needed=int(np.ceil(_POWER * cohorts - 1e-9)) if lowered == "others" else 0,
            )
        )
    return rows


def tabulate_power(
    config: Config, simulations: int, *, workers: int, progress: Progress
) -> list[PowerCell]:
    """Tabulate the power of the confirmation by films, classes, prevalence and gap.

    Parameters
    ----------
    config : Config
    simulations : int - for each cell
    workers : int - processes; the numbers do not depend on it
    progress : callable - called with (stage, done, total)
    """
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


def _power_cells(kind: tuple[int, int, float], config: Config, simulations: int) -> list[PowerCell]:
    films, classes, prevalence = kind
    evidence = config.evidence
    design = plan_design(films, classes, _ACCURACY, 1.0, evidence.discovery_share, evidence.seed)
    return [
        PowerCell(
            films,
            classes,
            prevalence,
            gap,
            simulated_power(
                design,
                evidence,
                min_strength=min_strength_of(config.discovery),
                prevalence=prevalence,
                gap=gap,
                candidates=_CANDIDATES,
                simulations=simulations,
            ),
        )
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
    examine: Callable[[int], Trial],
    cohorts: int,
    workers: int,
    stage: str,
    progress: Progress,
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


def _exact_interval(count: int, total: int) -> tuple[float, float]:
    interval = stats.binomtest(count, total).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def _median(values: Sequence[int]) -> float:
    return float(np.median(values))
