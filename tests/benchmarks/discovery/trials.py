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
from numpy.typing import NDArray

from ravl_med.config.loading import Config
from ravl_med.discovery.candidates import DiscoveryRules, discover_correlations
from ravl_med.discovery.clusters import FeatureClusters, paper_clusters, propose_clusters
from ravl_med.discovery.ravl import AuditData, AuditedTask
from ravl_med.evidence.examination import Subject, confirm_correlations
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
    clusters = propose_as_configured(cohort.embeddings, settings)
    subject = simulated_subject(cohort, clusters)
    examination = confirm_correlations(subject, settings, lambda stage, done, total: None)
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
        survivors=_count_survivors(subject, settings),
        published=_published(cohort, settings) if published else None,
        confirmed=sum(status == "confirmed" for status, _ in outcomes),
        raised_only=sum(status == "raised_only" for status, _ in outcomes),
        found=("confirmed", True) in outcomes,
        half_found=("confirmed", True) in outcomes or ("raised_only", True) in outcomes,
        strays=outcomes.count(("confirmed", False)),
    )


def _count_survivors(subject: Subject, config: Config) -> int:
    """Count the clusters that pass RaVL's own filters over all films."""
    rules = DiscoveryRules(config.discovery.min_influence, 1, 1.0, choice="gap", top=1)
    films = np.ones(len(subject.task.labels), dtype=np.bool_)
    return discover_correlations(
        subject.clusters, subject.present, subject.images.region_image, subject.task, films, rules
    ).survivors


def _published(cohort: SimulatedCohort, config: Config) -> bool:
    """Whether RaVL as published reports a cluster."""
    clusters = paper_clusters(
        cohort.embeddings,
        cohort.image_scores.shape[1],
        sample=config.discovery.sample,
        seed=config.discovery.seed,
    )
    return _count_survivors(simulated_subject(cohort, clusters), config) > 0


def propose_as_configured(embeddings: NDArray[np.float32], config: Config) -> FeatureClusters:
    """Propose clusters with the values of the config's discovery section.

    Parameters
    ----------
    embeddings : ndarray of shape (R, D), float32 - unit norm
    config : Config
    """
    discovery = config.discovery
    return propose_clusters(
        embeddings,
        discovery.clusters,
        draws=discovery.draws,
        sample=discovery.sample,
        seed=discovery.seed,
        overlap=discovery.merge_overlap,
    )


def simulated_subject(cohort: SimulatedCohort, clusters: FeatureClusters) -> Subject:
    """Return a simulated cohort as evidence takes it: films without pixels or attributes.

    Parameters
    ----------
    cohort : SimulatedCohort
    clusters : FeatureClusters - of its regions
    """
    films, regions = len(cohort.labels), len(cohort.region_image)
    classes = tuple(f"class {c + 1}" for c in range(cohort.image_scores.shape[1]))
    return Subject(
        task=AuditedTask(
            name="simulated",
            classes=classes,
            labels=cohort.labels,
            predictions=cohort.predictions,
            image_scores=cohort.image_scores,
            region_scores=cohort.region_scores,
        ),
        images=AuditData(
            classes=classes,
            labels=cohort.labels,
            predictions=cohort.predictions,
            patients=cohort.patients,
            sizes=np.zeros((films, 2), dtype=np.int64),
            region_image=cohort.region_image,
            region_boxes=np.zeros((regions, 4), dtype=np.float32),
        ),
        clusters=clusters,
        present=clusters.presence(cohort.region_image, films),
        axes={},
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
