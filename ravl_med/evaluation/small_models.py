"""The models of the settings: small CLIPs that are trained in seconds, towers as in the large ones.

Towers and pooling are those of CLIP ResNets and ViTs, so that regions are embedded as in a real
audit. As in the paper a model is pre-trained first, on films of other patients without any thing,
once for all settings of a domain, architecture and seed; a setting fine-tunes it. What makes them
fast: few channels, few pixels, one pass of the text tower over the few texts that differ, and word
embeddings that stay as they were drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ravl_med import __version__
from ravl_med.encoders.local_files import TextFiles
from ravl_med.encoders.open_clip import OpenClipEncoder, build_model, open_model
from ravl_med.evaluation.film_pool import FilmPool
from ravl_med.evaluation.pool_films import PRETRAIN, SIDE
from ravl_med.evaluation.settings import Architecture
from ravl_med.mitigation.arms import draw_views, view_films
from ravl_med.mitigation.distributed import make_fabric
from ravl_med.mitigation.trainer import Task, TrainingConfig, fit
from ravl_med.storage.cache import Cache

MEAN, STD = 0.5, 0.25
_CONTEXT = 24
_CROPPED = 0.5  # share of films that are cut to a part in the second half of the training
_PRETRAINED: Mapping[Architecture, TrainingConfig] = {
    "resnet": TrainingConfig(epochs=4, batch_size=32, learning_rate=1e-3, seed=0),
    "vit": TrainingConfig(epochs=4, batch_size=32, learning_rate=1e-3, seed=0),
}
"""Short on purpose: a model that knows all findings beforehand has no use for a shortcut."""
_FINE_TUNED: Mapping[Architecture, TrainingConfig] = {
    "resnet": TrainingConfig(epochs=10, batch_size=32, learning_rate=1e-3, seed=0),
    "vit": TrainingConfig(epochs=14, batch_size=32, learning_rate=1e-3, seed=0),
}


@dataclass(frozen=True, slots=True, eq=False)
class SmallModel:
    """A trained model as an encoder, and the loss of its last steps."""

    encoder: OpenClipEncoder
    loss: float


def small_layout(architecture: Architecture) -> dict[str, Any]:
    """Return the ``open_clip_config.json`` of a small model."""
    vision: dict[str, Any] = {"image_size": SIDE}
    if architecture == "resnet":
        vision |= {"layers": [1, 1, 1, 1], "width": 12, "head_width": 64}
    else:
        vision |= {"layers": 3, "width": 96, "head_width": 32, "patch_size": 12}
    return {
        "model_cfg": {
            "embed_dim": 96,
            "vision_cfg": vision,
            "text_cfg": {
                "context_length": _CONTEXT,
                "vocab_size": 49408,
                "width": 64,
                "heads": 2,
                "layers": 1,
            },
        },
        "preprocess_cfg": {
            "size": [SIDE, SIDE],
            "mean": [MEAN] * 3,
            "std": [STD] * 3,
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


def normalise_films(films: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return films (n, S, S), uint8, as the model's input in one channel, float32.

    They have the side of the input, so nothing is resized: the same numbers as from the encoder's
    own preprocessing.
    """
    shares = films.astype(np.float32) / np.float32(255.0)
    inputs: NDArray[np.float32] = (shares - np.float32(MEAN)) / np.float32(STD)
    return inputs


def fine_tuning_recipe(architecture: Architecture, seed: int) -> TrainingConfig:
    """Return how the model of a setting is trained, pre-trained or not."""
    return replace(_FINE_TUNED[architecture], seed=seed)


def train_small_model(
    architecture: Architecture,
    films: NDArray[np.float32],
    labels: NDArray[np.int64],
    prompts: Mapping[str, Sequence[str]],
    recipe: TrainingConfig,
    device: str = "cpu",
    *,
    start: Path | None = None,
) -> SmallModel:
    """Train a small CLIP on films, each beside one of the texts of its class.

    Parameters
    ----------
    films : ndarray of shape (n, S, S), float32 - as `normalise_films` makes them
    labels : ndarray of shape (n,), int64
    recipe : TrainingConfig - its seed is that of weights, texts and batches
    device : str - ``cpu``, ``cuda`` or ``cuda:i``
    start : Path or None - folder of a model to go on from; None starts from the seed

    Raises
    ------
    DataError
        Fewer films than one batch.
    """
    torch.manual_seed(recipe.seed)
    layout = small_layout(architecture)
    if start is None:
        model = build_model(layout, TextFiles(), "benchmark")
    else:
        model = open_model(start, torch.device("cpu")).model
    model.token_embedding.weight.requires_grad_(False)
    fabric = make_fabric(device)
    texts = [text for several in prompts.values() for text in several]
    tokens = _tokenize(texts).to(fabric.device)
    said = torch.from_numpy(_draw_texts(labels, prompts, recipe.seed)).to(fabric.device)
    inputs = torch.from_numpy(films).to(fabric.device)

    def step(
        module: nn.Module, rows: Tensor, part: slice, epoch: int, generator: torch.Generator
    ) -> Tensor:
        cropped = _CROPPED if 2 * epoch >= recipe.epochs else 0.0
        views = draw_views(len(rows), cropped, generator)
        seen = view_films(inputs[rows.to(inputs.device)].cpu(), views).to(fabric.device)
        images = seen[:, None].expand(-1, 3, -1, -1)
        images = images.contiguous(memory_format=torch.channels_last)
        embedded, spoken, scale = module(images, tokens)
        return _contrast(embedded, spoken, said[rows.to(said.device)], scale)

    history = fit(fabric, model, len(films), Task(step), recipe)
    encoder = OpenClipEncoder(
        model.cpu(),
        _tokenize,
        layout,
        TextFiles(),
        {"weights": f"seed {recipe.seed}"},
        fabric.device,
    )
    return SmallModel(encoder, float(np.mean(history.losses[-10:])))


def pretrained_folder(
    architecture: Architecture,
    pool: FilmPool,
    cache: Cache,
    device: str = "cpu",
) -> Path | None:
    """Return the folder of the model that the settings of a pool start from; None for none.

    It is trained on films of other patients, as they are without a thing, and cached.
    """
    rows = pool.films.rows(PRETRAIN)
    if not len(rows):
        return None
    recipe = {
        "version": __version__,
        "torch": torch.__version__,
        "layout": small_layout(architecture),
        "recipe": asdict(_PRETRAINED[architecture]),
        "films": pool.digest,
        "seed": pool.seed,
    }

    def make(folder: Path) -> None:
        films = normalise_films(np.asarray(pool.films.pixels[rows]))
        labels = pool.films.labels[rows]
        schedule = replace(_PRETRAINED[architecture], seed=pool.seed)
        model = train_small_model(architecture, films, labels, pool.prompts, schedule, device)
        model.encoder.save(folder)

    return cache.folder("evaluation-models", recipe, make)[0]


def _contrast(images: Tensor, texts: Tensor, said: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss where films of a batch share texts: a pair that says the same is no negative."""
    logits = scale * images @ texts[said].T
    same = (said[:, None] == said).float()
    shares = same / same.sum(dim=1, keepdim=True)
    to_text = functional.cross_entropy(logits, shares)
    return (to_text + functional.cross_entropy(logits.T, shares)) / 2


def _draw_texts(
    labels: NDArray[np.int64], prompts: Mapping[str, Sequence[str]], seed: int
) -> NDArray[np.int64]:
    """Which of all texts each film is described by, (n,)."""
    counts = np.array([len(several) for several in prompts.values()])
    first = np.cumsum(counts) - counts
    turn = np.random.default_rng([seed, 60]).integers(0, 2**31, len(labels)) % counts[labels]
    drawn: NDArray[np.int64] = first[labels] + turn
    return drawn


def _tokenize(texts: Sequence[str]) -> Tensor:
    from open_clip import SimpleTokenizer

    tokens: Tensor = SimpleTokenizer(context_length=_CONTEXT)(list(texts))
    return tokens
