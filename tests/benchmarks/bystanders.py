"""A planted feature and its bystander, each by the tiles that hit it, and which the model uses.

The clusters are taken from the truth and not from a clustering, so that what is measured is the
test: a cluster that mixes both, or misses one, would say nothing of it. All else is as in an audit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.candidates import FeatureCluster, measure_candidate
from ravl_med.discovery.ravl import AuditData, performance_gaps
from ravl_med.encoders.base import pick_device
from ravl_med.encoders.open_clip import open_model
from ravl_med.encoders.zero_shot import embed_classes
from ravl_med.errors import ConfigError
from ravl_med.evidence.confirmation import Candidate, confirm_candidates, split_patients
from ravl_med.evidence.counterfactual import CounterfactualModel
from ravl_med.evidence.counterfactual.localisation import read_relevance
from ravl_med.evidence.examination import InterventionTools, assess_correlations, map_films
from ravl_med.evidence.results import Counterfactual, PairedChange, SpuriousCorrelation
from ravl_med.mitigation.quickstart import cached_quickstart_model
from ravl_med.pipeline.truth import film_names, is_hit, truth_boxes
from ravl_med.regions.geometry import box_overlap
from ravl_med.reporting.files.audit_run import Audit
from ravl_med.storage.cache import Cache
from tests.benchmarks.runner import silent
from tests.benchmarks.tables import Row

_NOT_HELD = "Its gaps were not confirmed on held-out patients."


def confirm_planted(run: Audit, seed: int, cache: Cache) -> list[Row]:
    """Confirm the planted feature and the bystander, and ask the model about both.

    Tiles that hold anything of the other one are left out. Halves, maps, what is tested and use are
    those of the audit: of two features whose effect lies in one place one is tested, and speaks
    for both. Contrasts stand with their intervals, in logits; each fill of a removal for
    itself. Accused: the audit calls a correlation used and a shortcut whose regions hit the one
    more often than the other.

    Raises
    ------
    ConfigError
        The audited cohort has no bystander.
    """
    planted = run.config.cohort.synthetic
    if planted is None or planted.bystander is None:
        raise ConfigError("benchmark: the audited cohort has no bystander.")
    names = (planted.feature, planted.bystander)
    shown = {name: hit_regions(run, name) for name in names}
    own = [
        shown[name].regions & ~shown[other].touched
        for name, other in zip(names, reversed(names), strict=True)
    ]
    correlations = _assess(run, own, cache)
    return [
        {
            "thing": name,
            "role": "planted" if name == planted.feature else "bystander",
            "seed": seed,
            "phi": _phi(shown[planted.feature].films, shown[name].films),
            "status": correlation.confirmation.status,
            "raised": run.cohort.classes[correlation.cluster.raised_class],
            "raised_gap": float(
                correlation.confirmation.arms.gap[correlation.cluster.raised_class]
            ),
            "opposed_gap": correlation.confirmation.arms.opposed_gap,
            "accused": _accused(run, name, shown),
            **_use_columns(correlation.counterfactual),
        }
        for name, correlation in zip(names, correlations, strict=True)
    ]


def _assess(
    run: Audit, clusters: Sequence[NDArray[np.bool_]], cache: Cache
) -> list[SpuriousCorrelation]:
    """Confirm and test clusters of regions (R,) as an audit does; return them in their order."""
    data, model, evidence = _data(run), _model(run, cache), run.config.evidence
    half = split_patients(data.patients, data.labels, evidence.discovery_share, evidence.seed)
    candidates = [
        Candidate(_true_cluster(number, data, own, half), ~half)
        for number, own in enumerate(clusters)
    ]
    confirmed = confirm_candidates(data, candidates, evidence)
    assert evidence.relevance is not None
    tools = InterventionTools(
        model,
        map_films(data, model, evidence, silent),
        read_relevance(evidence.relevance),
    )
    assessed = assess_correlations(
        data, [(*one, ()) for one in confirmed], tools, evidence, run.config.gate, silent
    )
    by_number = {c.cluster.cluster: c for c in assessed}
    return [by_number[number] for number in range(len(clusters))]


def _use_columns(known: Counterfactual | None) -> Row:
    """Return what the maps and the interventions say of one feature; None: it does not hold."""
    if known is None:
        contrasts: Row = {name: [] for name in ("mapped", "typical", "replaced", "transplant")}
        return {"used": False, "shown_by": [], "q_value": None, "untested": _NOT_HELD, **contrasts}
    removal = known.removal
    return {
        "used": known.used,
        "shown_by": list(known.shown_by),
        "q_value": known.q_value if known.tested else None,
        "untested": "" if known.tested else known.reasons[0],
        "mapped": _contrast(removal.explored),
        "typical": _contrast(removal.typical),
        "replaced": _contrast(removal.replaced),
        "transplant": _contrast(known.transplant),
    }


def _data(run: Audit) -> AuditData:
    cohort = run.cohort
    sizes = [run.reader.film(cohort, index).pixels.shape for index in range(len(cohort))]
    return AuditData(
        classes=cohort.classes,
        labels=cohort.labels,
        predictions=run.scores.predictions,
        patients=cohort.patients,
        sizes=np.array(sizes, dtype=np.int64),
        region_image=run.result.region_image,
        region_boxes=run.result.region_boxes,
        image_scores=run.scores.image,
        region_scores=run.scores.region,
    )


@dataclass(frozen=True, slots=True, eq=False)
class ShownFeature:
    """Where a feature lies on the audited films.

    Attributes
    ----------
    films : ndarray of shape (N,), bool - film holds it
    regions : ndarray of shape (R,), bool - region hits it
    touched : ndarray of shape (R,), bool - region holds any part of it
    """

    films: NDArray[np.bool_]
    regions: NDArray[np.bool_]
    touched: NDArray[np.bool_]


def hit_regions(run: Audit, name: str) -> ShownFeature:
    """Find the films and the regions of an audit that hold a feature, by the boxes of its truth."""
    boxes, names = truth_boxes(run, name), film_names(run)
    image, own = run.result.region_image, run.result.region_boxes

    def flags(holds: Callable[[NDArray[np.floating], NDArray[np.floating]], bool]) -> Any:
        return np.array(
            [
                any(holds(box, truth) for truth in boxes.get(names[film], ()))
                for film, box in zip(image.tolist(), own, strict=True)
            ],
            dtype=np.bool_,
        )

    return ShownFeature(
        films=np.array([film in boxes for film in names], dtype=np.bool_),
        regions=flags(is_hit),
        touched=flags(lambda box, truth: box_overlap(box, truth) > 0),
    )


def _model(run: Audit, cache: Cache) -> CounterfactualModel:
    """Open the audited model once more."""
    config = run.config
    if config.model.quickstart is None:
        raise ConfigError("benchmark: the audited model is not a quickstart model.")
    folder, _ = cached_quickstart_model(
        config.model.quickstart, run.manifest, run.reader, cache, lambda stage, done, total: None
    )
    encoder = open_model(folder, pick_device(config.model.device))
    return CounterfactualModel(
        encoder,
        lambda index: encoder.preprocess(run.reader.film(run.cohort, index).pixels).numpy(),
        embed_classes(encoder, config.task.texts()),
        config.task.temperature,
        config.model.batch_size,
        audited=np.log(np.maximum(run.scores.image, 1e-30)),  # logits, up to a constant a film
    )


def _true_cluster(
    number: int, data: AuditData, hits: NDArray[np.bool_], half: NDArray[np.bool_]
) -> FeatureCluster:
    """Return the regions that hit something as a cluster; its classes are chosen on one half."""
    regions = np.flatnonzero(hits)
    present = np.zeros(len(data.labels), dtype=np.bool_)
    present[data.region_image[regions]] = True
    rows = np.flatnonzero(half)
    table = performance_gaps(
        present[rows, None], data.labels[rows], data.correct[rows], len(data.classes)
    )
    measured = measure_candidate(
        0,
        present,
        table,
        table.standardised_gap[0],
        regions=regions,
        similarity=np.ones(len(regions)),
        influence=1.0,
    )
    return replace(measured, cluster=number)


def _phi(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def _accused(run: Audit, name: str, shown: Mapping[str, ShownFeature]) -> bool:
    """Whether a shortcut of the audit shows the one of this name more than the other."""

    def hits(regions: NDArray[np.int64], which: str) -> int:
        return int(shown[which].regions[regions].sum())

    (other,) = set(shown) - {name}
    return any(
        hits(c.cluster.regions, name) > hits(c.cluster.regions, other)
        for c in run.result.correlations
        if c.counts and c.kind == "shortcut"
    )


def _contrast(change: PairedChange | None) -> list[float]:
    if change is None:
        return []
    return [change.contrast, change.interval.low, change.interval.high]
