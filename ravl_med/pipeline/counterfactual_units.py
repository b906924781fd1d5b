"""Counterfactuals as units of work: one suspect each, by workers that hold the model and films.

Of millions of regions a worker is sent those of its suspect alone.
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
from ravl_med.config.loading import Config
from ravl_med.discovery.ravl import AuditData
from ravl_med.encoders.base import Encoder
from ravl_med.engine import Engine
from ravl_med.engine.local import Work
from ravl_med.evidence.counterfactual import CounterfactualModel, Hypothesis, measure_counterfactual
from ravl_med.evidence.counterfactual.model_inputs import CounterfactualRules
from ravl_med.evidence.results import Counterfactual
from ravl_med.pipeline.stages import open_model_of, structure_reader
from ravl_med.regions.proposal import choose_segmenter
from ravl_med.regions.segmenter import Segmenter


@dataclass(frozen=True, slots=True, eq=False)
class AuditedFilms:
    """What a probe reads and asks for; it can be sent to a worker.

    Attributes
    ----------
    cohort : Cohort - the N audited films
    classes : ndarray of shape (C, D), float32 - class texts
    mirrored : frozenset of int - films that have the patient's left at the left edge
    """

    config: Config
    cohort: Cohort
    classes: NDArray[np.float32]
    mirrored: frozenset[int]


def counterfactual_model(
    films: AuditedFilms, encoder: Encoder, segmenter: Segmenter
) -> CounterfactualModel:
    """Return what asks a model about films, in this process."""
    reader = FilmReader.of(films.config.cohort)

    def read(index: int) -> NDArray[np.float32]:
        return reader.film(films.cohort, index).pixels

    return CounterfactualModel(
        encoder,
        read,
        films.classes,
        films.config.task.temperature,
        films.config.model.batch_size,
        structure_reader(segmenter, read, films.mirrored),
    )


def spread_hypotheses(
    probe: CounterfactualModel, films: AuditedFilms, engine: Engine, folder: Path | None
) -> CounterfactualModel:
    """Return a probe whose suspects are spread over the workers of an engine.

    Parameters
    ----------
    probe : CounterfactualModel - of this process
    folder : Path or None - of the model, as workers open it
    """
    if not engine.workers:
        return probe
    told = replace(
        films,
        cohort=replace(films.cohort, radiology_reports=("",) * len(films.cohort), rejected=()),
    )

    def spread(
        hypotheses: Sequence[Hypothesis], images: AuditData, rules: CounterfactualRules
    ) -> Iterator[Counterfactual]:
        none = np.empty(0, dtype=np.int64)
        work: Work[_SuspectUnit, Counterfactual] = Work(
            open=partial(_open_probe, told, folder, _with_regions(images, none), rules),
            threads=films.config.threads or 1,
            name="counterfactuals",
        )
        return engine.map(work, [_SuspectUnit.of(hypothesis, images) for hypothesis in hypotheses])

    return replace(probe, spread=spread)


@dataclass(frozen=True, slots=True, eq=False)
class _SuspectUnit:
    """A suspect whose regions are numbered 0 .. n - 1, with their films (n,) and boxes (n, 4)."""

    hypothesis: Hypothesis
    region_image: NDArray[np.int64]
    region_boxes: NDArray[np.float32]

    @classmethod
    def of(cls, hypothesis: Hypothesis, images: AuditData) -> _SuspectUnit:
        regions = hypothesis.cluster.regions
        own = _with_regions(images, regions)
        cluster = replace(hypothesis.cluster, regions=np.arange(len(regions), dtype=np.int64))
        return cls(replace(hypothesis, cluster=cluster), own.region_image, own.region_boxes)


def _with_regions(images: AuditData, regions: NDArray[np.int64]) -> AuditData:
    """Return the same films with some of their regions alone."""
    return replace(
        images,
        region_image=images.region_image[regions],
        region_boxes=images.region_boxes[regions],
    )


def _open_probe(
    films: AuditedFilms, folder: Path | None, images: AuditData, rules: CounterfactualRules
) -> Callable[[_SuspectUnit], Counterfactual]:
    """Open in a worker what asks the model."""
    encoder = open_model_of(films.config, folder)
    probe = counterfactual_model(films, encoder, choose_segmenter(films.config.regions))

    def measure(unit: _SuspectUnit) -> Counterfactual:
        own = replace(images, region_image=unit.region_image, region_boxes=unit.region_boxes)
        return measure_counterfactual(probe, unit.hypothesis, own, rules)

    return measure
