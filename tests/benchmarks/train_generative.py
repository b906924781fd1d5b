"""The weights that the quickstart model that writes starts from: it reads phantoms.

First its image side learns to tell the findings, since that takes many films and the decoder makes
each ten times as dear, and to see the devices, which lie on half of the films whatever they show;
then the decoder learns to answer and to write from what that side sees.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from ravl_med.config.loading import load_config
from ravl_med.config.model import QuickstartModelConfig
from ravl_med.encoders.generative import GenerativeEncoder, open_generative
from ravl_med.labelling.sections import impression_of
from ravl_med.mitigation.arms import draw_views, view_films
from ravl_med.mitigation.distributed import make_fabric
from ravl_med.mitigation.generative_quickstart import (
    AnsweredReports,
    teach,
    write_untrained_model,
)
from ravl_med.mitigation.quickstart import WRITING_STD, input_transform, quickstart_layout
from ravl_med.mitigation.trainer import Task, TrainingConfig, fit
from ravl_med.phantoms.cohort import render_film
from ravl_med.phantoms.devices import FEATURES
from ravl_med.phantoms.plan import FilmPlan, plan_cohort
from ravl_med.phantoms.report import write_report
from ravl_med.pipeline.stages import questions_of
from tests.benchmarks.runner import QUICKSTART
from tests.benchmarks.train_quickstart import write_packed

GENERATIVE = QUICKSTART.with_name("quickstart_generative.yaml")
_FILM_SIDE = 256  # pixels, as `ravl-med synthesize` renders them
_BATCH, _RATES = 32, (5e-4, 1e-3)  # of findings and devices, and of answers


def train_start(
    file: Path,
    films: int,
    epochs: tuple[int, int],
    seed: int,
    progress: Callable[[str, int, int], None],
) -> None:
    """Train on so many phantoms, so many epochs of findings and of answers; write the weights."""
    config = load_config(GENERATIVE, ("model.quickstart.retrain=true",))
    questions, own = questions_of(config), config.model.quickstart
    assert questions is not None
    assert own is not None
    taught, devices = draw_films(own, tuple(config.task.classes), films, seed, progress)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as place:
        write_untrained_model(own, questions, taught.reports, Path(place))
        encoder = open_generative(Path(place), torch.device("cpu"), questions)
        _learn_to_see(encoder, taught, devices, epochs[0], seed, partial(progress, "findings"))
        _learn_answers(encoder, own, taught, epochs[1], seed, partial(progress, "answers"))
        vocabulary = encoder.tokenizer.get_vocab()
        words = sorted(vocabulary, key=lambda word: vocabulary[word])
    weights = {name: w.contiguous() for name, w in encoder.model.state_dict().items()}
    write_packed(weights, {"words": json.dumps(words)}, file)


def draw_films(
    config: QuickstartModelConfig,
    classes: tuple[str, ...],
    films: int,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> tuple[AnsweredReports, NDArray[np.bool_]]:
    """Render phantoms and write their impressions; return which of `FEATURES` lie on them (N, F).

    Each lies on half of the films, whatever they show.
    """
    laid = np.random.default_rng([seed, 31]).random((films, len(FEATURES))) < 0.5
    plans = [
        replace(
            plan, features=tuple(name for name, there in zip(FEATURES, own, strict=True) if there)
        )
        for plan, own in zip(
            plan_cohort(films, FEATURES[0], classes[0], 0.0, seed), laid, strict=True
        )
    ]
    inputs = np.empty((len(plans), config.image_size, config.image_size), dtype=np.float32)
    render = partial(_render, config=config, seed=seed)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for at, film in enumerate(pool.map(render, plans, chunksize=64)):
            inputs[at] = film
            progress("films", at + 1, len(plans))
    reports = [_impression(plan, seed) for plan in plans]
    labels = np.array([classes.index(plan.finding) for plan in plans], dtype=np.int64)
    return AnsweredReports(inputs, reports, labels), laid


def _render(plan: FilmPlan, config: QuickstartModelConfig, seed: int) -> NDArray[np.float32]:
    gray = render_film(plan, seed=seed, size=_FILM_SIDE).pixels
    film = Image.fromarray(np.rint(gray * 255).astype(np.uint8))
    inputs: NDArray[np.float32] = input_transform(quickstart_layout(config, WRITING_STD))(film)[0]
    return np.asarray(inputs)


def _impression(plan: FilmPlan, seed: int) -> str:
    rng = np.random.default_rng([seed, 30, plan.image])
    return impression_of(write_report(plan.finding, (), plan.acquisition.view, rng))


class _Seeing(nn.Module):
    """The image side of a model that writes, with a class for each finding and a flag a device."""

    def __init__(self, encoder: GenerativeEncoder, classes: int) -> None:
        super().__init__()
        self.inner = encoder.model
        self._see = encoder.visual.see
        self.head = nn.Linear(encoder.info.embedding_size, classes + len(FEATURES))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K + F) of inputs (B, 3, S, S)."""
        logits: Tensor = self.head(self._see(images).tokens.mean(dim=1))
        return logits


def _learn_to_see(
    encoder: GenerativeEncoder,
    taught: AnsweredReports,
    devices: NDArray[np.bool_],
    epochs: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> None:
    """Train the image side to tell the findings apart, and to see the devices."""
    inputs, labels = torch.from_numpy(taught.films), torch.from_numpy(taught.labels)
    flags, classes = torch.from_numpy(devices).float(), int(labels.max()) + 1
    module = _Seeing(encoder, classes)

    def step(
        model: nn.Module, rows: Tensor, part: slice, epoch: int, generator: torch.Generator
    ) -> Tensor:
        seen = view_films(inputs[rows], draw_views(len(rows), 0.0, generator))
        logits = model(seen[:, None].expand(-1, 3, -1, -1).contiguous())
        finding = functional.cross_entropy(logits[:, :classes], labels[rows])
        return finding + functional.binary_cross_entropy_with_logits(
            logits[:, classes:], flags[rows]
        )

    fit(
        make_fabric(alone=True),
        module,
        len(inputs),
        Task(step),
        TrainingConfig(epochs, _BATCH, _RATES[0], seed),
        progress=lambda done, total, note: progress(done, total),
    )


def _learn_answers(
    encoder: GenerativeEncoder,
    config: QuickstartModelConfig,
    taught: AnsweredReports,
    epochs: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> None:
    """Train the decoder on what the image side sees of the films."""
    tokens = _see(encoder, taught.films)
    for name, weight in encoder.model.named_parameters():
        weight.requires_grad_("language_model" in name or "lm_head" in name)
    own = {"epochs": epochs, "batch_size": _BATCH, "learning_rate": _RATES[1], "seed": seed}
    teach(config.model_copy(update=own), encoder, taught, progress, tokens)


@torch.inference_mode()
def _see(encoder: GenerativeEncoder, films: NDArray[np.float32]) -> Tensor:
    """Return the visual tokens of films, (N, T, D) in half precision."""
    inputs = torch.from_numpy(films)[:, None].expand(-1, 3, -1, -1)
    parts = (inputs[at : at + 200].contiguous() for at in range(0, len(films), 200))
    return torch.cat([encoder.visual.see(part).tokens.half() for part in parts])
