"""The image towers that are measured: of published sizes, and trained on phantoms.

Those of published sizes have random weights whose attention matters. With plain random weights
every token sees the mean of all, and what a region attends to is hidden; so queries and keys are
scaled up, and class tokens and probes are drawn anew. Times are those of trained weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ravl_med.cohort.film import Film, FilmReader
from ravl_med.cohort.manifest import Cohort, read_manifest
from ravl_med.config.loading import Config
from ravl_med.encoders.base import Encoder, pick_device
from ravl_med.encoders.huggingface_tower import HuggingFaceTower
from ravl_med.encoders.opening import CropEncoder, open_encoder
from ravl_med.encoders.region_pooling import Pooling, embed_images
from ravl_med.encoders.zero_shot import embed_classes
from ravl_med.pipeline.stages import Run, prepare_manifest, prepare_model
from ravl_med.regions.region_set import slide_windows
from ravl_med.storage.cache import Cache
from tests.benchmarks.runner import Progress
from tests.benchmarks.tables import Row

SIDE = 224
_TEXT = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
         "num_attention_heads": 1}  # fmt: skip
_TRAINED = ("resnet", "vit")
_FILMS_AT_ONCE = 32
_WINDOW, _STEP = 0.7, 0.25  # of a window, and of the way to the next: nine a film
_SHARP, _PLAIN = 0.07, 0.04  # standard deviations of weights


@dataclass(frozen=True, slots=True)
class Tower:
    """An image tower of a known family.

    Attributes
    ----------
    title : str - how tables call it
    build : callable - without arguments, to the tower
    target : float or None - most that an image with 16 regions may cost, in images alone
    """

    title: str
    build: Callable[[], nn.Module]
    target: float | None = None


def build_tower(name: str, seed: int) -> nn.Module:
    """Build a tower of `TOWERS` in evaluation mode, its weights drawn from a seed."""
    torch.manual_seed(seed)
    visual = TOWERS[name].build().eval()
    with torch.no_grad():
        for key, weight in visual.named_parameters():
            if key.endswith(("q_proj.weight", "k_proj.weight", "in_proj_weight", "qkv.weight")):
                weight.mul_(_SHARP / weight.std())
            elif key.endswith(("v_proj.weight", "out_proj.weight", "attn.proj.weight")):
                weight.mul_(max(_PLAIN / float(weight.std()), 1.0))
            elif key.endswith(("class_embedding", "cls_token", "probe", "latent")):
                weight.copy_(torch.randn_like(weight))
    if name == "RN50":
        _settle_norms(visual)
    lay_out: Any = visual.to  # its stubs do not know memory formats
    lay_out(memory_format=torch.channels_last)
    return visual


def _open_clip(name: str, **vision: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from open_clip.model import _build_vision_tower

        config = open_clip.get_model_config(name)
        tower: nn.Module = _build_vision_tower(
            config["embed_dim"], {**config["vision_cfg"], **vision}
        )
        return tower

    return build


def _timm(name: str, pool: str, projection: str, size: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from open_clip.timm_model import TimmModel

        tower: nn.Module = TimmModel(name, size, SIDE, pool=pool, proj=projection)
        return tower

    return build


def _hugging_face(kind: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                  "num_attention_heads": 12, "patch_size": 16, "image_size": SIDE}  # fmt: skip
        config: Any = transformers.CLIPConfig if kind == "clip" else transformers.SiglipConfig
        model: Any = transformers.CLIPModel if kind == "clip" else transformers.SiglipModel
        return HuggingFaceTower(model(config(vision_config=vision, text_config=_TEXT)))

    return build


def _settle_norms(visual: nn.Module) -> None:
    """Fill the statistics of the norms, and take away what all images share."""
    coarse = torch.randn(8, 3, 8, 8)
    images = nn.functional.interpolate(coarse, SIDE, mode="bicubic")
    with torch.no_grad():
        for key, weight in visual.named_parameters():
            if key.endswith("bn3.weight"):
                weight.fill_(0.2)
        visual.train()
        visual(images)
        visual.eval()
        pool: Any = visual.attnpool
        pool.c_proj.bias -= visual(images).mean(dim=0)


TOWERS: dict[str, Tower] = {
    "RN50": Tower("CLIP RN50 (open_clip)", _open_clip("RN50"), 1.4),
    "ViT-B/16": Tower("CLIP ViT-B/16 (open_clip)", _open_clip("ViT-B-16"), 1.3),
    "ViT-B/16 average": Tower(
        "ViT-B/16, average of the patches (open_clip)", _open_clip("ViT-B-16", pool_type="avg")
    ),
    "CoCa ViT-B/32": Tower("CoCa ViT-B/32 (open_clip)", _open_clip("coca_ViT-B-32")),
    "BiomedCLIP": Tower(
        "ViT-B/16 of BiomedCLIP (timm)", _timm("vit_base_patch16_224", "", "linear", 512), 1.3
    ),
    "SigLIP timm": Tower(
        "SigLIP B/16 (timm)", _timm("vit_base_patch16_siglip_224", "map", "none", 768), 1.3
    ),
    "ConvNeXt-B": Tower("ConvNeXt-B (timm)", _timm("convnext_base", "", "linear", 512)),
    "CLIP Hugging Face": Tower("CLIP ViT-B/16 (Hugging Face)", _hugging_face("clip"), 1.3),
    "SigLIP Hugging Face": Tower("SigLIP B/16 (Hugging Face)", _hugging_face("siglip"), 1.3),
}


def time_regions(
    visual: nn.Module, pool: Pooling, inputs: Tensor, boxes: Sequence[Tensor], rounds: int
) -> tuple[float, float]:
    """Time images (B, 3, S, S) alone and with regions, B boxes (r_i, 4), in turns by the processor.

    Returns
    -------
    seconds : float - of the images alone, median over rounds
    ratio : float - median over rounds of images with regions against images alone
    """
    alone, together = [], []
    for turn in range(rounds + 1):
        one = processor_seconds(lambda: embed_images(visual, inputs))
        two = processor_seconds(lambda: pool(visual, inputs, boxes))
        if turn:  # the first is for caches to fill
            alone.append(one)
            together.append(two)
    return float(np.median(alone)), float(np.median(np.array(together) / np.array(alone)))


def smooth_noise(count: int, seed: int) -> Tensor:
    """Return images (count, 3, S, S) of smooth noise."""
    coarse = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, SIDE, mode="bicubic")


def processor_seconds(run: Callable[[], object]) -> float:
    """Time a call by the processor: other programs on the machine do not count."""
    start = time.process_time()
    run()
    return time.process_time() - start


@dataclass(frozen=True, slots=True, eq=False)
class TrainedTower:
    """A quickstart model and the films of its final test.

    Attributes
    ----------
    title : str - how tables call it
    encoder : Encoder
    reader : FilmReader
    cohort : Cohort - the final test
    classes : ndarray of shape (C, D), float32 - class texts, unit norm
    """

    title: str
    encoder: Encoder
    reader: FilmReader
    cohort: Cohort
    classes: NDArray[np.float32]

    def windows(
        self, films: int
    ) -> Iterator[tuple[Tensor, list[Tensor], NDArray[np.int64], int, int]]:
        """Yield films with windows of them, some at once.

        Parameters
        ----------
        films : int - at most

        Returns
        -------
        inputs : Tensor of shape (n, 3, S, S)
        boxes : list of n tensors of shape (r, 4) - windows in input pixels
        labels : ndarray of shape (n,), int64
        done, count : int - films so far, and of all
        """
        count = min(films, len(self.cohort))
        for start in range(0, count, _FILMS_AT_ONCE):
            indices = range(start, min(start + _FILMS_AT_ONCE, count))
            seen = [self.reader.film(self.cohort, index) for index in indices]
            inputs = torch.stack([self.encoder.preprocess(film.pixels) for film in seen])
            boxes = [self._windows_of(film) for film in seen]
            yield inputs, boxes, self.cohort.labels[list(indices)], indices[-1] + 1, count

    def nearest(self, embedded: Tensor) -> NDArray[np.int64]:
        """Return the class (n,) whose text is nearest to embeddings (n, D)."""
        similar = embedded.float().cpu().numpy() @ self.classes.T
        return np.asarray(similar.argmax(axis=1))

    def _windows_of(self, film: Film) -> Tensor:
        height, width = film.pixels.shape
        boxes = slide_windows(height, width, _WINDOW, _STEP)
        return torch.from_numpy(self.encoder.geometry(height, width).to_input(boxes))


def measure_accuracy(config: Config, films: int, cache: Cache, progress: Progress) -> Iterator[Row]:
    """Train the quickstart model of each tower on a cohort without a shortcut, and ask it.

    Parameters
    ----------
    config : Config - of the quickstart; its planted correlation is taken away
    films : int - of the final test, at most
    cache : Cache - of cohorts and models
    """
    for trained in train_towers(config, cache, progress):
        yield _ask(trained, films, progress)


def train_towers(config: Config, cache: Cache, progress: Progress) -> Iterator[TrainedTower]:
    """Yield the quickstart model of each tower, trained on a cohort without a shortcut.

    Parameters
    ----------
    config : Config - of the quickstart; its planted correlation is taken away
    cache : Cache - of cohorts and models
    """
    synthetic, model = config.cohort.synthetic, config.model.quickstart
    assert synthetic is not None
    assert model is not None
    plain = config.cohort.model_copy(
        update={"synthetic": synthetic.model_copy(update={"strength": 0.0}), "split": "test"}
    )
    for tower in _TRAINED:
        own = config.model.model_copy(
            update={"quickstart": model.model_copy(update={"tower": tower})}
        )
        trained = config.model_copy(update={"cohort": plain, "model": own})
        reader = FilmReader.of(trained.cohort)
        run = Run(cache, progress)
        manifest = prepare_manifest(trained, run)
        cohort = read_manifest(manifest, split="test", columns=trained.task.columns())
        folder, _ = prepare_model(trained, manifest, reader, run)
        encoder = open_encoder(trained.model, folder, pick_device(trained.model.device))
        title = f"quickstart {tower}, {encoder.info.image_size} pixels"
        classes = embed_classes(encoder, trained.task.texts())
        yield TrainedTower(title, encoder, reader, cohort, classes)


def _ask(trained: TrainedTower, films: int, progress: Progress) -> Row:
    encoder = trained.encoder
    cropping: Encoder = CropEncoder(encoder)
    right: dict[str, list[NDArray[np.bool_]]] = {"whole": [], "regions": [], "crops": []}
    for inputs, boxes, labels, done, count in trained.windows(films):
        of_window = np.repeat(labels, [len(part) for part in boxes])
        whole, regions = encoder.encode_regions(inputs, boxes)
        _, crops = cropping.encode_regions(inputs, boxes)
        for name, embedded, wanted in (
            ("whole", whole, labels),
            ("regions", regions, of_window),
            ("crops", crops, of_window),
        ):
            right[name].append(trained.nearest(embedded) == wanted)
        progress(f"ask {trained.title}", done, count)
    share = {name: round(float(np.concatenate(parts).mean()), 4) for name, parts in right.items()}
    windows = sum(len(part) for part in right["regions"])
    return {"tower": trained.title, "films": count, "windows": windows, **share}
