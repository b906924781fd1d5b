"""Simulated cohorts through the tool's own discovery and confirmation, many at a time.

Each cohort is examined in a child process with one BLAS thread, so that the numbers are the same
whatever the count of workers.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ravl_med.config.audit import DiscoveryConfig
from ravl_med.config.loading import Config
from ravl_med.discovery.candidates import discover_correlations
from ravl_med.discovery.clusters import FeatureClusters, cluster_regions
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.examination import confirm_correlations
from tests.benchmarks.discovery.simulation import CohortPlan, SimulatedCohort, simulate_cohort

_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_DRAWS = 20  # of the bootstrap: intervals are for the report and decide nothing here

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one simulated cohort.

    Attributes
    ----------
    clusters, candidates : int - proposed, and carried into confirmation
    survivors : int - proposed clusters that pass RaVL's own filters, over all films
    published : bool or None - RaVL as published reports a cluster: its own K, its own filters, all
        films; None where it was not asked
    confirmed, raised_only : int - correlations, duplicates folded
    found : bool - one is confirmed that is the feature and raises the class that it raises
    half_found : bool - at least the raised side is
    strays : int - confirmed ones that are not the feature, or raise another class
    """

    clusters: int
    candidates: int
    survivors: int
    published: bool | None
    confirmed: int
    raised_only: int
    found: bool
    half_found: bool
    strays: int


def examine_cohort(
    plan: CohortPlan, seed: tuple[int, ...], config: Config, *, published: bool = False
) -> Trial:
    """Simulate a cohort and take it through proposal, discovery and confirmation.

    Parameters
    ----------
    plan : CohortPlan
    seed : tuple of int - of the cohort; its last number is the seed of the search too
    config : Config - its sections discovery, evidence and gate
    published : bool - run RaVL as published beside it
    """
    own = {"seed": seed[-1]}
    settings = config.model_copy(
        update={
            "discovery": config.discovery.model_copy(update=own),
            "evidence": config.evidence.model_copy(update={**own, "draws": _DRAWS}),
        }
    )
    cohort = simulate_cohort(plan, seed)
    data = simulated_data(cohort)
    clusters = cluster_regions(cohort.embeddings, len(data.classes), settings.discovery)
    examination = confirm_correlations(
        data,
        clusters,
        settings.discovery,
        settings.evidence,
        settings.gate,
        lambda stage, done, total: None,
    )
    outcomes = [
        (
            confirmation.status,
            bool(cohort.is_feature[candidate.cluster.regions].mean() > 0.5)
            and candidate.cluster.raised_class == cohort.raised,
        )
        for candidate, confirmation, _ in examination.tested
    ]
    return Trial(
        clusters=len(clusters),
        candidates=examination.candidates,
        survivors=_count_survivors(data, clusters, settings),
        published=_published(cohort, settings) if published else None,
        confirmed=sum(status == "confirmed" for status, _ in outcomes),
        raised_only=sum(status == "raised_only" for status, _ in outcomes),
        found=("confirmed", True) in outcomes,
        half_found=("confirmed", True) in outcomes or ("raised_only", True) in outcomes,
        strays=outcomes.count(("confirmed", False)),
    )


def _count_survivors(data: AuditData, clusters: FeatureClusters, config: Config) -> int:
    """Count the clusters that pass RaVL's own filters over all films."""
    films = np.ones(len(data.labels), dtype=np.bool_)
    present = clusters.presence(data.region_image, len(films))
    return discover_correlations(
        data, clusters, present, films, _paper(config), min_films=1, large_gap=1.0
    ).survivors


def _published(cohort: SimulatedCohort, config: Config) -> bool:
    """Whether RaVL as published reports a cluster."""
    data = simulated_data(cohort)
    clusters = cluster_regions(cohort.embeddings, len(data.classes), _paper(config))
    return _count_survivors(data, clusters, config) > 0


def _paper(config: Config) -> DiscoveryConfig:
    return config.discovery.model_copy(update={"protocol": "paper"})


def simulated_data(cohort: SimulatedCohort) -> AuditData:
    """Return a simulated cohort as evidence takes it: films without pixels or attributes."""
    films, regions = len(cohort.labels), len(cohort.region_image)
    return AuditData(
        classes=tuple(f"class {c + 1}" for c in range(cohort.image_scores.shape[1])),
        labels=cohort.labels,
        predictions=cohort.predictions,
        patients=cohort.patients,
        sizes=np.zeros((films, 2), dtype=np.int64),
        region_image=cohort.region_image,
        region_boxes=np.zeros((regions, 4), dtype=np.float32),
        image_scores=cohort.image_scores,
        region_scores=cohort.region_scores,
    )


def map_in_children(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    threads: int | None = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Result]:
    """Call a function for every item in fresh child processes; results in the order of the items.

    Parameters
    ----------
    function : callable - of a module, so that a child can import it
    items : sequence
    workers : int - processes
    threads : int or None - BLAS threads of each; None leaves them as they are
    progress : callable - called with (items done, items in all)
    """
    progress(0, len(items))
    with (
        _threads_of_children(threads),
        ProcessPoolExecutor(
            max_workers=max(1, min(workers, len(items))),
            mp_context=multiprocessing.get_context("spawn"),
        ) as pool,
    ):
        futures = [pool.submit(function, item) for item in items]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                progress(done, len(items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


@contextmanager
def _threads_of_children(threads: int | None) -> Iterator[None]:
    """Children read these names before they load BLAS; this process has loaded it already."""
    before = {name: os.environ.get(name) for name in _THREADS}
    try:
        if threads is not None:
            os.environ.update(dict.fromkeys(_THREADS, str(threads)))
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
