"""A planted feature and its bystander, each by the tiles that hit it, and which the model uses.

The clusters are taken from the truth and not from a clustering, so that what is measured is the
test: a cluster that mixes both, or misses one, would say nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from ravl_med.evidence.counterfactual import (
    CounterfactualModel,
    Hypothesis,
    decide_use,
    measure_counterfactual,
    prepare_inputs,
)
from ravl_med.evidence.counterfactual.effect_maps import explore_feature
from ravl_med.evidence.examination import map_films
from ravl_med.evidence.results import Counterfactual, PairedChange
from ravl_med.mitigation.quickstart import cached_quickstart_model
from ravl_med.pipeline.truth import film_names, is_hit, truth_boxes
from ravl_med.regions.geometry import box_overlap
from ravl_med.reporting.files.audit_run import Audit
from ravl_med.storage.cache import Cache
from tests.benchmarks.tables import Row


def confirm_planted(run: Audit, seed: int, cache: Cache) -> list[Row]:
    """Confirm the planted feature and the bystander, and ask the model about both.

    Tiles that hold anything of the other one are left out. Halves, maps and counterfactuals are
    those of the audit; both are tested, whatever the maps say of them, and use is decided over the
    two together. Contrasts stand with their intervals, in logits; each fill of a removal for
    itself. Accused: the audit calls a correlation used and a shortcut
    whose regions hit the one more often than the other.

    Raises
    ------
    ConfigError
        The audited cohort has no bystander.
    """
    planted = run.config.cohort.synthetic
    if planted is None or planted.bystander is None:
        raise ConfigError("benchmark: the audited cohort has no bystander.")
    shown = {name: hit_regions(run, name) for name in (planted.feature, planted.bystander)}
    data, model = _data(run), _model(run, cache)
    evidence = run.config.evidence
    half = split_patients(data.patients, data.labels, evidence.discovery_share, evidence.seed)
    maps = map_films(data, model, evidence, lambda stage, done, total: None)[False]
    rows: list[Row] = []
    measured: list[Counterfactual] = []
    for name, role in ((planted.feature, "planted"), (planted.bystander, "bystander")):
        (other,) = set(shown) - {name}
        own = shown[name].regions & ~shown[other].touched
        cluster = _true_cluster(data, own, half)
        ((_, confirmation),) = confirm_candidates(data, [Candidate(cluster, ~half)], evidence)
        inputs = prepare_inputs(model, cluster.raised_class, cluster.lowered_class, data)
        margin = inputs.untouched(np.arange(len(data.labels))).margin
        explored = explore_feature(inputs, maps, cluster, half, margin, evidence)
        hypothesis = Hypothesis(cluster, half, explored)
        measured.append(measure_counterfactual(model, hypothesis, data, evidence))
        rows.append(
            {
                "thing": name,
                "role": role,
                "seed": seed,
                "phi": _phi(shown[planted.feature].films, shown[name].films),
                "status": confirmation.status,
                "raised": data.classes[cluster.raised_class],
                "raised_gap": float(confirmation.arms.gap[cluster.raised_class]),
                "opposed_gap": confirmation.arms.opposed_gap,
                "accused": _accused(run, name, shown),
            }
        )
    decided = decide_use(measured, evidence)
    pairs = zip(rows, decided, strict=True)
    return [{**row, **_use_columns(tested)} for row, tested in pairs]


def _use_columns(tested: Counterfactual) -> Row:
    """Return what the maps and the interventions say of one feature."""
    removal = tested.removal
    return {
        "used": tested.used,
        "shown_by": list(tested.shown_by),
        "q_value": tested.q_value,
        "mapped": _contrast(removal.explored),
        "typical": _contrast(removal.typical),
        "replaced": _contrast(removal.replaced),
        "transplant": _contrast(tested.transplant),
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
    data: AuditData, hits: NDArray[np.bool_], half: NDArray[np.bool_]
) -> FeatureCluster:
    """Return the regions that hit something as a cluster; its classes are chosen on one half."""
    regions = np.flatnonzero(hits)
    present = np.zeros(len(data.labels), dtype=np.bool_)
    present[data.region_image[regions]] = True
    rows = np.flatnonzero(half)
    table = performance_gaps(
        present[rows, None], data.labels[rows], data.correct[rows], len(data.classes)
    )
    return measure_candidate(
        0,
        present,
        table,
        table.standardised_gap[0],
        regions=regions,
        similarity=np.ones(len(regions)),
        influence=1.0,
    )


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
