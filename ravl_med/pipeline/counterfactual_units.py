"""Counterfactuals as units of work: one hypothesis each, by workers that hold model and films.

Of millions of regions a worker is sent those of its hypothesis alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.manifest import Cohort
from ravl_med.config.audit import EvidenceConfig
from ravl_med.config.loading import Config
from ravl_med.discovery.ravl import AuditData
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.kept_films import KeptFilms
from ravl_med.engine import Engine
from ravl_med.engine.local import Work
from ravl_med.evidence.counterfactual import CounterfactualModel, Hypothesis, measure_counterfactual
from ravl_med.evidence.results import Counterfactual
from ravl_med.pipeline.stages import open_model_of, structure_reader
from ravl_med.regions.proposal import choose_segmenter
from ravl_med.regions.segmenter import Segmenter


@dataclass(frozen=True, slots=True, eq=False)
class AuditedFilms:
    """The films that counterfactuals change, and the classes; it can be sent to a worker."""

    config: Config
    cohort: Cohort  # the N audited films
    classes: NDArray[np.float32]  # (C, D) class texts
    mirrored: frozenset[int]  # films that have the patient's left at the left edge
    inputs: KeptFilms | None = None  # the same films as the model reads them


def counterfactual_model(
    films: AuditedFilms, encoder: Encoder, segmenter: Segmenter
) -> CounterfactualModel:
    """Return the model as counterfactuals run it in this process."""
    reader = FilmReader.of(films.config.cohort)

    def read(index: int) -> NDArray[np.float32]:
        return reader.film(films.cohort, index).pixels

    def read_input(index: int) -> NDArray[np.float32]:
        kept = None if films.inputs is None else films.inputs.input(index)
        if kept is None:
            kept = encoder.preprocess(read(index)).numpy()
        return kept

    return CounterfactualModel(
        encoder,
        read_input,
        films.classes,
        films.config.task.temperature,
        films.config.model.batch_size,
        structure_reader(segmenter, read, films.mirrored),
    )


def spread_hypotheses(
    model: CounterfactualModel, films: AuditedFilms, engine: Engine, folder: Path | None
) -> CounterfactualModel:
    """Return a model whose hypotheses are spread over workers, which open it from `folder`."""
    if not engine.workers:
        return model
    nameless = replace(
        films,
        cohort=replace(films.cohort, radiology_reports=("",) * len(films.cohort), rejected=()),
    )

    def spread(
        hypotheses: Sequence[Hypothesis], data: AuditData, evidence: EvidenceConfig
    ) -> Iterator[Counterfactual]:
        bare = _with_regions(data, np.empty(0, dtype=np.int64))
        work: Work[_HypothesisUnit, Counterfactual] = Work(
            open=partial(_open_model, nameless, folder, bare, evidence),
            threads=films.config.threads or 1,
            name="counterfactuals",
        )
        return engine.map(work, [_HypothesisUnit.of(one, data) for one in hypotheses])

    return replace(model, spread=spread)


@dataclass(frozen=True, slots=True, eq=False)
class _HypothesisUnit:
    """A hypothesis whose regions are numbered 0 .. n - 1, with films (n,) and boxes (n, 4)."""

    hypothesis: Hypothesis
    region_image: NDArray[np.int64]
    region_boxes: NDArray[np.float32]

    @classmethod
    def of(cls, hypothesis: Hypothesis, data: AuditData) -> _HypothesisUnit:
        regions = hypothesis.cluster.regions
        own = _with_regions(data, regions)
        cluster = replace(hypothesis.cluster, regions=np.arange(len(regions), dtype=np.int64))
        return cls(replace(hypothesis, cluster=cluster), own.region_image, own.region_boxes)


def _with_regions(data: AuditData, regions: NDArray[np.int64]) -> AuditData:
    """Return the same films with some of their regions alone, without scores and attributes."""
    return AuditData(
        classes=data.classes,
        labels=data.labels,
        predictions=data.predictions,
        patients=data.patients,
        sizes=data.sizes,
        region_image=data.region_image[regions],
        region_boxes=data.region_boxes[regions],
    )


def _open_model(
    films: AuditedFilms, folder: Path | None, data: AuditData, evidence: EvidenceConfig
) -> Callable[[_HypothesisUnit], Counterfactual]:
    """Open the model in a worker."""
    encoder = open_model_of(films.config, folder)
    model = counterfactual_model(films, encoder, choose_segmenter(films.config.regions))

    def measure(unit: _HypothesisUnit) -> Counterfactual:
        own = replace(data, region_image=unit.region_image, region_boxes=unit.region_boxes)
        return measure_counterfactual(model, unit.hypothesis, own, evidence)

    return measure
