"""The audited model: one that is run, or a table of scores that another one gave.

Counterfactuals run it on changed films, one hypothesis a unit of work, by workers that hold model
and films. A worker is sent the regions of its hypothesis alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from ravl_med.cohort.dicom_header import Edge
from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.manifest import Cohort
from ravl_med.cohort.score_table import ScoreTable
from ravl_med.config.audit import EvidenceConfig
from ravl_med.config.loading import Config
from ravl_med.discovery.ravl import AuditData
from ravl_med.encoders.base import Encoder, EncoderInfo
from ravl_med.encoders.embeddings import Embeddings
from ravl_med.encoders.kept_films import KeptFilms
from ravl_med.encoders.opening import open_encoder
from ravl_med.encoders.zero_shot import Scores, digest_texts, embed_classes, softmax
from ravl_med.engine import Engine
from ravl_med.engine.local import Work
from ravl_med.errors import ModelError
from ravl_med.evidence import model_checks
from ravl_med.evidence.audit_result import ModelCheck, ModelChecks, ModelSummary
from ravl_med.evidence.counterfactual import CounterfactualModel, Hypothesis, measure_counterfactual
from ravl_med.evidence.counterfactual.fills import fill_interpolated
from ravl_med.evidence.disclosure_control import hidden_classes
from ravl_med.evidence.results import Counterfactual
from ravl_med.evidence.statistics import auroc, spread_positions
from ravl_med.pipeline.answers import AnsweredFilms, check_answers
from ravl_med.pipeline.stages import open_model_of, structure_reader
from ravl_med.regions.geometry import box_overlaps
from ravl_med.regions.proposal import choose_segmenter
from ravl_med.regions.segmenter import Segmenter
from ravl_med.storage.cache import Cache
from ravl_med.storage.mapped_arrays import multiply

_SAMPLE = 8  # films whose input is checked
_LEAK = 0.5  # of what covering a region does, from which its neighbour is not told apart
_TRIED = 256  # films that another activation is tried on
_BETTER = 0.05  # mean AUROC that another activation has to bring


@dataclass(frozen=True, slots=True, eq=False)
class AuditedModel:
    """A model, and what it says of a cohort."""

    encoder: Encoder
    embeddings: Embeddings  # of N films
    classes: NDArray[np.float32]  # (C, D) class texts
    scores: NDArray[np.float32] | None = None  # (N, C) of a table, in place of the model's own


def scores_of_table(table: ScoreTable, region: NDArray[np.float32], kind: str) -> Scores:
    """Return the scores of a table, beside those (R, C) of the model that embeds regions.

    The kind, softmax or sigmoid, says how logits become scores.
    """
    image = table.values
    if table.logits:
        image = softmax(image) if kind == "softmax" else expit(image).astype(np.float32)
    return Scores(image, region, table.values.argmax(axis=1).astype(np.int64))


def summarise_model(config: Config, info: EncoderInfo, table: ScoreTable | None) -> ModelSummary:
    """Summarise what was audited; beside a table, the model that only embeds regions."""
    architecture, digest, digests = info.architecture, info.digest, dict(info.digests)
    if table is not None:
        architecture = f"not known: scores from a table; regions by {architecture}"
        digest = hashlib.sha256(f"{table.digest} {digest}".encode()).hexdigest()
        digests = {"scores": table.digest, **digests}
    return ModelSummary(
        name=config.model.name or ("quickstart" if config.model.quickstart else "unnamed"),
        architecture=architecture,
        digest=digest,
        image_size=info.image_size,
        resize_mode=info.resize_mode,
        region_pooling=info.region_pooling,
        parameters=info.parameters,
        logit_scale=info.logit_scale,
        logit_bias=info.logit_bias,
        digests={**digests, "prompts": digest_texts(config.task.texts())},
    )


def check_audited_model(
    config: Config, cohort: Cohort, model: AuditedModel, reader: FilmReader
) -> ModelChecks:
    """Check how a model is set up, before anything is searched for."""
    texts, image = config.task.texts(), model.embeddings.image
    temperature = config.task.temperature if config.task.scores == "softmax" else None
    by_prompt: list[NDArray[np.float64]] = []
    answers = model.embeddings.answers if model.scores is None else None
    if answers is not None:
        scores = model_checks.class_scores(answers, 1.0)
    elif model.scores is None:
        similarity = multiply(image, model.classes.T)
        scores = model_checks.class_scores(similarity, temperature)
        for c, prompts in enumerate(texts.values()):
            single = model.encoder.encode_text(list(prompts)).float().cpu().numpy()
            by_prompt.append(
                model_checks.prompt_scores(multiply(image, single.T), similarity, c, temperature)
            )
    else:
        scores = model.scores.astype(np.float64)
    findings = model_checks.measure_findings(
        scores,
        cohort.labels,
        cohort.patients,
        cohort.classes,
        config.evidence.confidence,
        by_prompt,
    )
    hidden = hidden_classes(
        cohort.labels, cohort.patients, len(cohort.classes), config.hidden_below
    )
    stops, doubts = model_checks.assess_findings(findings, config.gate.min_auroc, hidden)
    own = model.scores is None and answers is None
    chosen = spread_positions(len(cohort), _SAMPLE)
    inputs = _inputs(model, reader, cohort, chosen)
    checks = [
        *model_checks.check_embeddings(image, model.classes if own else None, cohort.classes),
        *model_checks.check_inputs(model.encoder.info, inputs),
        *_check_regions(model, inputs, chosen, config.evidence.seed),
    ]
    if answers is not None:
        read = input_reader(model.encoder, cohort, reader, model.embeddings.inputs)
        films = AnsweredFilms.of(cohort, model.embeddings, model.encoder, read)
        checks += check_answers(films, inputs)
    if own:
        checks += [
            model_checks.check_prompts(findings, hidden),
            *model_checks.check_texts(model.encoder, texts),
            model_checks.check_logit_scale(model.encoder.info, temperature),
        ]
        if (stops or doubts) and config.model.weights is not None:
            checks += _try_activation(config, cohort, model, reader)
    stops += tuple(check.text for check in checks if check.status == "failed")
    return ModelChecks(config.gate.min_auroc, findings, tuple(checks), stops, doubts)


def _check_regions(
    model: AuditedModel, inputs: NDArray[np.float32], films: Sequence[int], seed: int
) -> list[ModelCheck]:
    """Check that the model tells a region from its neighbour, by covering either of them."""
    rng, ratios = np.random.default_rng([seed, 31]), []
    embeddings = model.embeddings
    for picture, film in zip(inputs, films, strict=True):
        rows = np.arange(*np.searchsorted(embeddings.region_image, [film, film + 1]))
        height, width = embeddings.sizes[film].tolist()
        boxes = model.encoder.geometry(height, width).to_input(embeddings.region_boxes[rows])
        pair = _neighbours(boxes, rng)
        if pair is not None:
            filled = [picture, *(fill_interpolated(picture, boxes[at]) for at in pair)]
            asked = [torch.from_numpy(boxes[[pair[0]]])] * 3
            _, found = model.encoder.encode_regions(torch.from_numpy(np.stack(filled)), asked)
            vectors = found.float().cpu().numpy()
            moved = np.linalg.norm(vectors[1:] - vectors[0], axis=1)
            ratios.append(float(moved[1] / max(moved[0], 1e-12)))
    if not ratios:
        return []
    leak = float(np.median(ratios))
    text = (
        f"on {len(ratios)} films covering a neighbour moves the embedding of a region {leak:.2f} "
        "times as far as covering the region itself"
    )
    if leak > _LEAK:
        text += (
            ": the regions are finer than what the model tells apart. Take coarser regions.tiles, "
            "a larger input, or model.region_pooling: crops"
        )
    return [ModelCheck("regions", "odd" if leak > _LEAK else "held", text)]


def _neighbours(boxes: NDArray[np.float32], rng: np.random.Generator) -> tuple[int, int] | None:
    """Draw a region (k, 4) and the nearest one that shares nothing with it; None without any."""
    if len(boxes) < 2:
        return None
    first = int(rng.integers(len(boxes)))
    apart = box_overlaps(boxes[[first]], boxes)[0] == 0.0
    apart[first] = False
    if not apart.any():
        return None
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2.0
    distance = np.linalg.norm(middle - middle[first], axis=1)
    return first, int(np.argmin(np.where(apart, distance, np.inf)))


def _inputs(
    model: AuditedModel, reader: FilmReader, cohort: Cohort, chosen: Sequence[int]
) -> NDArray[np.float32]:
    """Return films (k, 3, S, S) as the model reads them."""
    read = input_reader(model.encoder, cohort, reader, model.embeddings.inputs)
    films = [read(film) for film in chosen]
    empty: NDArray[np.float32] = np.empty((0, 3, 0, 0), np.float32)
    return np.stack(films) if films else empty


def input_reader(
    encoder: Encoder, cohort: Cohort, reader: FilmReader, inputs: KeptFilms | None
) -> Callable[[int], NDArray[np.float32]]:
    """Return what reads a film as the model's input (3, S, S), from where it is kept if it is."""

    def read(film: int) -> NDArray[np.float32]:
        kept = None if inputs is None else inputs.input(film)
        if kept is None:
            kept = encoder.preprocess(reader.film(cohort, film).pixels).numpy()
        return kept

    return read


def _try_activation(
    config: Config, cohort: Cohort, model: AuditedModel, reader: FilmReader
) -> list[ModelCheck]:
    """Try the other activation of a raw checkpoint, which does not say which one it has."""
    rng = np.random.default_rng(config.evidence.seed)
    films = np.sort(rng.permutation(len(cohort))[:_TRIED])
    for quick in (True, False):
        settings = config.model.model_copy(update={"quick_gelu": quick})
        try:
            other = open_encoder(settings, None, model.encoder.device)
        except ModelError:
            continue
        if other.info.digest == model.encoder.info.digest:  # the one that was audited
            continue
        inputs = [other.preprocess(reader.film(cohort, int(i)).pixels) for i in films]
        parts = [
            other.encode_image(torch.stack(inputs[start : start + config.model.batch_size]))
            for start in range(0, len(inputs), config.model.batch_size)
        ]
        image = torch.cat(parts).float().cpu().numpy()
        labels = cohort.labels[films]
        now = _mean_auroc(model.embeddings.image[films], model.classes, labels)
        then = _mean_auroc(image, embed_classes(other, config.task.texts()), labels)
        text = (
            f"on {len(films)} films the mean AUROC is {now:.2f}; with model.quick_gelu: "
            f"{str(quick).lower()} it would be {then:.2f}"
        )
        return [ModelCheck("activation", "odd" if then > now + _BETTER else "held", text)]
    return []


def _mean_auroc(
    image: NDArray[np.float32], classes: NDArray[np.float32], labels: NDArray[np.int64]
) -> float:
    scores = model_checks.class_scores(image @ classes.T, 0.07)
    areas = [auroc(scores[:, c], labels == c) for c in range(len(classes))]
    known = [area for area in areas if np.isfinite(area)]
    return float(np.mean(known)) if known else float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class AuditedFilms:
    """The films that counterfactuals change, and the classes; it can be sent to a worker."""

    config: Config
    cohort: Cohort  # the N audited films
    classes: NDArray[np.float32]  # (C, D) class texts
    left_edges: tuple[Edge, ...]  # (N,) side of the patient at the left edge of each film
    inputs: KeptFilms | None = None  # the same films as the model reads them
    logits: NDArray[np.float32] | None = None  # (N, C) of the same films
    cache: Cache | None = None  # of what is found on them


def counterfactual_model(
    films: AuditedFilms, encoder: Encoder, segmenter: Segmenter
) -> CounterfactualModel:
    """Return the model as counterfactuals run it in this process."""
    reader = FilmReader.of(films.config.cohort)

    def read(index: int) -> NDArray[np.float32]:
        return reader.film(films.cohort, index).pixels

    return CounterfactualModel(
        encoder,
        input_reader(encoder, films.cohort, reader, films.inputs),
        films.classes,
        films.config.task.temperature,
        films.config.model.batch_size,
        structure_reader(segmenter, read, films.left_edges, films.cache),
        films.logits,
        seed=films.config.evidence.seed,
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
