"""The quickstart model: a small open_clip CLIP, trained on the fine-tuning split and cached.

That of ``configs/quickstart.yaml`` comes trained, in 8 bits: `SHIPPED`. It was made by
``python -m tests.benchmarks train-quickstart``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ravl_med import __version__
from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.manifest import read_manifest
from ravl_med.cohort.table import RejectedFilm
from ravl_med.config.loading import Config
from ravl_med.config.model import QuickstartModelConfig
from ravl_med.encoders.open_clip import save_model
from ravl_med.encoders.questions import Questions
from ravl_med.errors import DataError
from ravl_med.labelling.sections import impression_of
from ravl_med.mitigation.arms import draw_views, view_films
from ravl_med.mitigation.distributed import make_fabric
from ravl_med.mitigation.trainer import Task, TrainingConfig, fit
from ravl_med.storage.cache import Cache
from ravl_med.storage.remote import FilePath

SHIPPED = Path(__file__).with_name("quickstart.safetensors")
RECIPE, SCALE, ROWS = "recipe", ".scale", ".rows"
"""In the files that ship: metadata; what follows the name of a weight of 8 bits, a scale for each
row; and what follows that of the vocabulary, the rows of words that were learned."""

CONTEXT = 40
"""Tokens of a text."""

STD = 0.25
"""Of the input: at SigLIP's 0.5 a small tower hardly learns."""

_CROPPED = 0.5  # share of films that are cut to a part in the second half of the training
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class GenerativeTask:
    """What a quickstart model that writes has to answer, and where the answers stand."""

    questions: Questions
    columns: Mapping[str, Mapping[str, int]]  # of the manifest, by class

    @property
    def digest(self) -> str:
        """SHA-256 of all that its weights depend on."""
        plain = f"{self.questions.digest} {sorted(self.columns)}"
        return hashlib.sha256(plain.encode()).hexdigest()


def quickstart_layout(config: QuickstartModelConfig) -> dict[str, Any]:
    """Return the ``open_clip_config.json`` of the quickstart model."""
    vision: dict[str, Any] = {"image_size": config.image_size}
    if config.tower == "resnet":
        vision |= {"layers": [1, 1, 1, 1], "width": 24, "head_width": 64}
    else:
        vision |= {"layers": 4, "width": 128, "head_width": 32, "patch_size": 16}
    text = {"context_length": CONTEXT, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
    size = {"size": [config.image_size] * 2, "mean": [0.5] * 3, "std": [STD] * 3}
    return {
        "model_cfg": {"embed_dim": 128, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {**size, "interpolation": "bicubic", "resize_mode": "squash"},
    }


def input_transform(layout: dict[str, Any]) -> Any:
    """Return the inference preprocessing of an open_clip config: PIL image to (3, S, S)."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    settings = {**layout["preprocess_cfg"]}
    settings["size"] = tuple(settings["size"])
    return image_transform_v2(PreprocessCfg(**settings), is_train=False)


def train_quickstart_model(
    config: QuickstartModelConfig,
    films: NDArray[np.float32],
    texts: Sequence[str],
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Train the quickstart model and save it as a folder that open_clip opens.

    Films (N, S, S) are one channel of the preprocessed input, each with a text.

    Raises
    ------
    DataError
        Fewer films than one batch.
    """
    import open_clip
    from open_clip.loss import ClipLoss

    torch.manual_seed(config.seed)
    layout = quickstart_layout(config)
    model = open_clip.CLIP(**layout["model_cfg"])
    tokens = open_clip.SimpleTokenizer(context_length=CONTEXT)(list(texts))
    training = TrainingConfig(config.epochs, config.batch_size, config.learning_rate, config.seed)
    inputs, objective = torch.from_numpy(films), ClipLoss()

    def step(
        module: nn.Module, rows: Tensor, part: slice, epoch: int, generator: torch.Generator
    ) -> Tensor:
        # Whole films first: what shows only on a whole film is not learned from parts.
        cropped = _CROPPED if 2 * epoch >= config.epochs else 0.0
        seen = view_films(inputs[rows], draw_views(len(rows), cropped, generator))
        images = seen[:, None].expand(-1, 3, -1, -1)
        images = images.contiguous(memory_format=torch.channels_last)
        loss: Tensor = objective(*module(images, tokens[rows]))
        return loss

    fit(
        make_fabric(alone=True),
        model,
        len(films),
        Task(step),
        training,
        progress=lambda done, total, note: progress(done, total),
    )
    save_model(model, layout, folder)


def shipped_recipe(config: Config) -> dict[str, Any]:
    """Return what makes a config's quickstart model, as the file that ships states it."""
    synthetic, model = config.cohort.synthetic, config.model.quickstart
    assert model is not None
    return {
        "cohort": None if synthetic is None else synthetic.model_dump(),
        "model": model.model_dump(exclude={"retrain"}),
        "answers": config.model.answers is not None,
    }


def comes_trained(config: Config) -> bool:
    """Return whether the quickstart model of a config ships with the package."""
    own = config.model.quickstart
    return own is not None and not own.retrain and shipped_recipe(config) == _recipe_of_shipped()


@cache
def _recipe_of_shipped() -> dict[str, Any]:
    recipe: dict[str, Any] = json.loads(read_facts(SHIPPED)[RECIPE])
    return recipe


def shipped_model(cache: Cache) -> Path:
    """Return the folder of the model that ships."""
    recipe = {"shipped": hashlib.sha256(SHIPPED.read_bytes()).hexdigest()}
    return cache.folder("models", recipe, _unpack_model)[0]


def _unpack_model(folder: Path) -> None:
    """Write the model that ships as a folder that open_clip opens."""
    import open_clip

    weights = read_packed(SHIPPED)
    layout = quickstart_layout(QuickstartModelConfig(**_recipe_of_shipped()["model"]))
    model = open_clip.CLIP(**layout["model_cfg"])
    state = model.state_dict()
    for name, held in state.items():
        weight = weights[name]
        if name + ROWS in weights:
            weight = torch.zeros_like(held).index_copy(0, weights[name + ROWS].long(), weight)
        state[name] = weight
    model.load_state_dict(state)
    save_model(model, layout, folder)


def read_facts(file: Path) -> dict[str, str]:
    """Return what a file that ships says of its weights, without reading them."""
    from safetensors import safe_open

    with safe_open(file, "pt") as held:
        return dict(held.metadata())


def read_packed(file: Path) -> dict[str, Tensor]:
    """Return the weights of a file that ships, those of 8 bits in float32."""
    from safetensors.torch import load_file

    packed = load_file(file)
    weights = {name: weight for name, weight in packed.items() if not name.endswith(SCALE)}
    for name, weight in weights.items():
        if name + SCALE in packed:
            scale = packed[name + SCALE].reshape(-1, *(1,) * (weight.ndim - 1))
            weights[name] = weight.float() * scale
    return weights


def cached_quickstart_model(
    config: QuickstartModelConfig,
    manifest: FilePath,
    reader: FilmReader,
    cache: Cache,
    progress: Progress,
    task: GenerativeTask | None = None,
) -> tuple[Path, bool]:
    """Return the folder of the quickstart model for a manifest, and whether it was there before.

    With a task it is a model that writes and answers its questions. The digest covers the manifest,
    the settings and the versions that shape the weights; a manifest whose images change in place
    under the same names is not noticed.
    """
    recipe: dict[str, Any] = {
        "version": __version__,
        "torch": torch.__version__,
        "manifest": hashlib.sha256(manifest.read_bytes()).hexdigest(),
        **config.model_dump(exclude={"retrain"}),
    }
    if task is not None:
        from ravl_med.mitigation import generative_quickstart

        start = generative_quickstart.starting_weights(config)
        recipe["start"] = start and hashlib.sha256(start.read_bytes()).hexdigest()
        recipe["task"] = task.digest

    def make(folder: Path) -> None:
        trained = partial(progress, "fine-tune the model")
        films, texts, labels = _fine_tuning_set(config, manifest, reader, progress, task)
        if task is not None:
            generative_quickstart.train_generative_model(
                config,
                task.questions,
                generative_quickstart.AnsweredReports(films, texts, labels),
                folder,
                trained,
            )
            return
        train_quickstart_model(config, films, texts, folder, trained)

    return cache.folder("models", recipe, make)


def _fine_tuning_set(
    config: QuickstartModelConfig,
    manifest: FilePath,
    reader: FilmReader,
    progress: Progress,
    task: GenerativeTask | None = None,
) -> tuple[NDArray[np.float32], list[str], NDArray[np.int64]]:
    """Films (N, S, S), impressions and classes, if a task has some, of the fine-tuning split."""
    columns = None if task is None else task.columns
    cohort = read_manifest(manifest, split="finetune", roots=reader.roots, columns=columns)
    transform = input_transform(quickstart_layout(config))
    films: list[NDArray[np.float32]] = []
    texts: list[str] = []
    labels: list[int] = []
    impressions = [impression_of(text) for text in cohort.radiology_reports]
    reported = np.flatnonzero([bool(text) for text in impressions])
    cohort = cohort.keep(reported)
    for done, film in enumerate(reader.films(cohort), start=1):
        progress("read films to fine-tune on", done, len(cohort))
        if isinstance(film, RejectedFilm):
            continue
        films.append(transform(Image.fromarray(film.gray()))[0].numpy())
        texts.append(impressions[reported[film.index]])
        labels.append(int(cohort.labels[film.index]) if len(cohort.labels) else -1)
    if not films:
        raise DataError(
            f"{cohort.name}: no film of split 'finetune' can be read and has a report; the "
            "quickstart model needs both. Name a model folder in model.path instead."
        )
    return np.stack(films), texts, np.array(labels, dtype=np.int64)
