"""The models of the settings, and what they make of films: small CLIPs, trained in seconds.

Towers and poolings are those of real models: a ResNet with CLIP's attention pool, a ViT, a
ConvNeXt. Their maps have a cell for every 16 pixels (the ViT: 12), so that a region of 16 pixels is
no part of a cell; the coarse ones, for comparison, have one for 32 or 16. As in the paper a model
is pre-trained first, on films of other patients without any mark, once for all settings of a
domain, architecture and seed; a setting fine-tunes it. What makes them fast: few channels, few
pixels, one pass of the text tower over the few texts that differ, and word embeddings that stay as
they were drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models import register_model
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.nn import functional

from ravl_med import __version__
from ravl_med.config.model import RegionPooling
from ravl_med.discovery.ravl import AuditData
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.conv_pooling import split_tower
from ravl_med.encoders.local_files import TextFiles
from ravl_med.encoders.open_clip import OpenClipEncoder, build_model, open_model
from ravl_med.encoders.zero_shot import Scores, embed_classes, score_embeddings
from ravl_med.evaluation.films import PRETRAIN, SIDE
from ravl_med.evaluation.planting import FilmPool, SplitFilms
from ravl_med.evaluation.settings import RATE, RECIPE, TAU, Architecture
from ravl_med.evidence.counterfactual import CounterfactualModel
from ravl_med.evidence.counterfactual.localisation import StructureReader
from ravl_med.mitigation.arms import draw_views, view_films
from ravl_med.mitigation.distributed import make_fabric
from ravl_med.mitigation.trainer import Task, TrainingConfig, fit
from ravl_med.storage.cache import Cache

MEAN, STD = 0.5, 0.25
_CONTEXT = 24
_BATCH = 64  # films that a model is asked at once
_CROPPED = 0.5  # share of films that are cut to a part in the second half of the training
_PRETRAINED = 4
"""Epochs; few on purpose: a model that knows all findings beforehand has no use for a shortcut."""
_FINE_TUNED: Mapping[Architecture, int] = {
    "resnet": 10, "vit": 14, "convnext": 14, "coarse resnet": 10, "coarse vit": 14,
}  # fmt: skip
_WIDTHS = (16, 32, 64, 128)
_STRIDE = 16


def _of_timm(trunk: Any) -> Any:
    """Say of a trunk what timm's builder says of those that it makes."""
    cells = SIDE // _STRIDE
    trunk.pretrained_cfg = trunk.default_cfg = {
        "input_size": (3, SIDE, SIDE), "pool_size": (cells, cells),
    }  # fmt: skip
    return trunk


@register_model
def ravl_small_resnet(pretrained: bool = False, **options: Any) -> nn.Module:
    """ResNet with CLIP's deep stem and a block a stage; the last stage keeps the map before it."""
    block: Any = BasicBlock  # timm asks for an instance where it means the class
    trunk: Any = ResNet(block, (1, 1, 1, 1), channels=_WIDTHS, stem_width=8, stem_type="deep")
    for convolution in (trunk.layer4[0].conv1, trunk.layer4[0].downsample[0]):
        convolution.stride = (1, 1)
    return cast(nn.Module, _of_timm(trunk))


@register_model
def ravl_small_convnext(pretrained: bool = False, **options: Any) -> nn.Module:
    """ConvNeXt with kernels of 5; the last stage keeps the map before it."""
    sizes: dict[str, Any] = {"depths": (1, 1, 2, 1), "dims": _WIDTHS, "kernel_sizes": 5}
    # Scaled by 1e-6, as deep ones are, blocks hardly take part in so short a training.
    return cast(nn.Module, _of_timm(ConvNeXt(**sizes, output_stride=_STRIDE, ls_init_value=None)))


def small_layout(architecture: Architecture) -> dict[str, Any]:
    """Return the ``open_clip_config.json`` of a small model; `open_model` needs this module."""
    vision: dict[str, Any] = {"image_size": SIDE}
    if architecture in ("resnet", "convnext"):
        pool, last = ("abs_attn", "") if architecture == "resnet" else ("avg", "linear")
        vision |= {
            "timm_model_name": f"ravl_small_{architecture}",
            "timm_pool": pool,
            "timm_proj": last,
        }
    elif architecture == "coarse resnet":
        vision |= {"layers": [1, 1, 1, 1], "width": 12, "head_width": 64}
    else:
        patch = 12 if architecture == "vit" else 16
        vision |= {"layers": 3, "width": 96, "head_width": 32, "patch_size": patch}
    text = {"context_length": _CONTEXT, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    size = {"size": [SIDE, SIDE], "mean": [MEAN] * 3, "std": [STD] * 3}
    return {
        "model_cfg": {"embed_dim": 96, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {**size, "interpolation": "bicubic", "resize_mode": "squash"},
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
    return _recipe(_FINE_TUNED[architecture], seed)


def _recipe(epochs: int, seed: int, rate: float = RATE) -> TrainingConfig:
    return TrainingConfig(epochs=epochs, batch_size=32, learning_rate=rate, seed=seed)


def train_small_model(
    architecture: Architecture,
    films: NDArray[np.float32],
    labels: NDArray[np.int64],
    prompts: Mapping[str, Sequence[str]],
    recipe: TrainingConfig,
    device: str = "cpu",
    *,
    start: Path | None = None,
) -> OpenClipEncoder:
    """Train a small CLIP on films, each beside one of the texts of its class.

    Parameters
    ----------
    films : ndarray of shape (n, S, S), float32 - as `normalise_films` makes them
    start : Path or None - folder of a model to go on from; None starts from the recipe's seed

    Raises
    ------
    DataError
        Fewer films than one batch.
    """
    torch.manual_seed(recipe.seed)
    layout = small_layout(architecture)
    if start is None:
        model = build_model(layout, TextFiles(), "evaluate")
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

    fit(fabric, model, len(films), Task(step), recipe)
    return OpenClipEncoder(
        model.cpu(),
        _tokenize,
        layout,
        TextFiles(),
        {"weights": f"seed {recipe.seed}"},
        fabric.device,
    )


def pretrained_folder(
    architecture: Architecture, pool: FilmPool, cache: Cache, device: str, rate: float = RATE
) -> Path | None:
    """Return the folder of the model that the settings of a pool start from; None for none.

    It is trained on films of other patients, as they are without a feature, and cached.
    """
    rows = pool.films.rows(PRETRAIN)
    if not len(rows):
        return None
    recipe = {
        "version": __version__,
        "torch": torch.__version__,
        "layout": small_layout(architecture),
        "settings": RECIPE,
        "recipe": asdict(_recipe(_PRETRAINED, 0, rate)),
        "films": pool.digest,
        "seed": pool.seed,
    }

    def make(folder: Path) -> None:
        films = normalise_films(np.asarray(pool.films.pixels[rows]))
        labels = pool.films.labels[rows]
        own = _recipe(_PRETRAINED, pool.seed, rate)
        train_small_model(architecture, films, labels, pool.prompts, own, device).save(folder)

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


@dataclass(frozen=True, eq=False)  # no slots: it holds what is derived
class RegionEvidence:
    """N films of a setting and their R regions."""

    classes: tuple[str, ...]
    films: SplitFilms
    region: NDArray[np.float32]  # (R, D), unit norm
    region_image: NDArray[np.int64]  # (R,), ascending
    region_boxes: NDArray[np.float32]  # (R, 4), xyxy in pixels of the film
    scores: Scores
    class_embeddings: NDArray[np.float32]  # (C, D), unit norm

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each film is classified rightly, (N,)."""
        right: NDArray[np.bool_] = self.scores.predictions == self.films.labels
        return right

    @cached_property
    def data(self) -> AuditData:
        """The films as discovery and evidence take them; patients are numbered from 0."""
        side = self.films.pixels.shape[-1]
        return AuditData(
            classes=self.classes,
            labels=self.films.labels,
            predictions=self.scores.predictions,
            patients=np.unique(self.films.patients, return_inverse=True)[1].astype(np.int64),
            sizes=np.full((len(self.films), 2), side, dtype=np.int64),
            region_image=self.region_image,
            region_boxes=self.region_boxes,
            image_scores=self.scores.image,
            region_scores=self.scores.region,
        )

    def counterfactual_model(
        self, encoder: Encoder, structures: StructureReader | None
    ) -> CounterfactualModel:
        """Return what the model can be asked by."""

        def read_input(film: int) -> NDArray[np.float32]:
            pixels = self.films.pixels[film].astype(np.float32) / np.float32(255.0)
            return encoder.preprocess(pixels).numpy()

        return CounterfactualModel(
            encoder,
            read_input,
            self.class_embeddings,
            TAU,
            _BATCH,
            structures,
            np.log(np.maximum(self.scores.image, 1e-30)),  # logits, up to a constant a film
        )


def embed_split(
    encoder: Encoder,
    films: SplitFilms,
    boxes: Sequence[NDArray[np.float32]],
    prompts: Mapping[str, Sequence[str]],
) -> RegionEvidence:
    """Embed N films and their regions, N boxes (r_i, 4), and score both against the classes."""
    inputs = torch.from_numpy(normalise_films(films.pixels))
    images, regions = [], []
    for start in range(0, len(films), _BATCH):
        part = inputs[start : start + _BATCH, None].expand(-1, 3, -1, -1)
        places = [torch.from_numpy(own) for own in boxes[start : start + _BATCH]]
        image, region = encoder.encode_regions(part.contiguous(), places)
        images.append(image.float().cpu().numpy())
        regions.append(region.float().cpu().numpy())
    embedded = np.concatenate(regions)
    classes = embed_classes(encoder, prompts)
    counts = [len(own) for own in boxes]
    return RegionEvidence(
        classes=tuple(prompts),
        films=films,
        region=embedded,
        region_image=np.repeat(np.arange(len(films), dtype=np.int64), counts),
        region_boxes=np.concatenate(boxes).astype(np.float32),
        scores=score_embeddings(np.concatenate(images), embedded, classes, TAU),
        class_embeddings=classes,
    )


def pool_regions(encoder: OpenClipEncoder, how: RegionPooling) -> None:
    """Choose how regions are embedded; a tower without known stages knows one pass alone."""
    known = how == "one_pass" or split_tower(encoder.model.visual) is not None
    encoder.pool_regions_by(how if known else "one_pass")
