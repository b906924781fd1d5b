"""The weights that the quickstart model that writes starts from: those of its image side.

They learn to tell the findings of phantoms apart, and to see the devices, which lie on half of the
films whatever they show. That takes many films, of which a decoder would make each ten times as
dear. One epoch: an image side that knows the findings well has no use for a shortcut.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
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
from ravl_med.mitigation.distributed import make_fabric
from ravl_med.mitigation.generative_quickstart import (
    AnsweredReports,
    write_untrained_model,
)
from ravl_med.mitigation.quickstart import RECIPE, input_transform, quickstart_layout
from ravl_med.mitigation.trainer import Task, TrainingConfig, fit
from ravl_med.phantoms.cohort import render_film
from ravl_med.phantoms.devices import FEATURES
from ravl_med.phantoms.plan import FilmPlan, plan_cohort
from ravl_med.phantoms.report import write_report
from ravl_med.pipeline.stages import questions_of
from tests.benchmarks.processes import side_by_side
from tests.benchmarks.runner import QUICKSTART
from tests.benchmarks.train_quickstart import write_packed

GENERATIVE = QUICKSTART.with_name("quickstart_generative.yaml")
_FILM_SIDE = 256  # pixels, as `ravl-med synthesize` renders them
_BATCH, _RATE = 32, 5e-4


def train_start(
    file: Path,
    films: int,
    epochs: int,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> None:
    """Train on so many phantoms for so many epochs; write the weights."""
    config = load_config(GENERATIVE, ("model.quickstart.retrain=true",))
    questions, own = questions_of(config), config.model.quickstart
    assert questions is not None
    assert own is not None
    taught, devices = draw_films(own, tuple(config.task.classes), films, seed, progress)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as place:
        write_untrained_model(own, questions, taught.reports, Path(place))
        encoder = open_generative(Path(place), torch.device("cpu"), questions)
        _learn_to_see(encoder, taught, devices, epochs, seed, partial(progress, "train"))
    pack_image_side(encoder, {"films": films, "epochs": epochs, "seed": seed}, file)


def pack_image_side(encoder: GenerativeEncoder, recipe: Mapping[str, int], file: Path) -> None:
    """Write the weights of tower and projector, and how they were trained."""
    weights = {
        name: weight.contiguous()
        for name, weight in encoder.model.state_dict().items()
        if "vision_tower" in name or "projector" in name
    }
    write_packed(weights, {RECIPE: json.dumps(recipe, sort_keys=True)}, file)


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
    for at, film in enumerate(side_by_side(render, plans, at_once=64)):
        inputs[at] = film
        progress("films", at + 1, len(plans))
    reports = [_impression(plan, seed) for plan in plans]
    labels = np.array([classes.index(plan.finding) for plan in plans], dtype=np.int64)
    return AnsweredReports(inputs, reports, labels), laid


def _render(plan: FilmPlan, config: QuickstartModelConfig, seed: int) -> NDArray[np.float32]:
    gray = render_film(plan, seed=seed, size=_FILM_SIDE).pixels
    film = Image.fromarray(np.rint(gray * 255).astype(np.uint8))
    inputs: NDArray[np.float32] = input_transform(quickstart_layout(config))(film)[0]
    return np.asarray(inputs)


def _impression(plan: FilmPlan, seed: int) -> str:
    rng = np.random.default_rng([seed, 30, plan.image])
    return impression_of(write_report(plan.finding, (), plan.acquisition.view, rng))


class _Seeing(nn.Module):
    """The image side of a model that writes, with a class for each finding and a flag a device.

    Each place speaks for itself and the loudest are heard: a mean over places says little of a
    thing that lies in one of them, and is learned late.
    """

    def __init__(self, encoder: GenerativeEncoder, classes: int) -> None:
        super().__init__()
        self.inner = encoder.model
        self._see = encoder.visual.see
        self.head = nn.Linear(encoder.info.embedding_size, classes + len(FEATURES))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K + F) of inputs (B, 3, S, S)."""
        logits: Tensor = self.head(self._see(images).tokens)
        return torch.logsumexp(logits, dim=1) - math.log(logits.shape[1])


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
        logits = model(inputs[rows][:, None].expand(-1, 3, -1, -1).contiguous())
        finding = functional.cross_entropy(logits[:, :classes], labels[rows])
        return finding + functional.binary_cross_entropy_with_logits(
            logits[:, classes:], flags[rows]
        )

    fit(
        make_fabric(alone=True),
        module,
        len(inputs),
        Task(step),
        TrainingConfig(epochs, _BATCH, _RATE, seed),
        progress=lambda done, total, note: progress(done, total),
    )
