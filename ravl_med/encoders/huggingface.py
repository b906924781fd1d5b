"""Hugging Face folders: CLIP, SigLIP and SigLIP 2 through transformers, offline."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from ravl_med.config.model import RegionPooling
from ravl_med.encoders import local_files
from ravl_med.encoders.base import EncoderInfo
from ravl_med.encoders.huggingface_tower import HuggingFaceTower
from ravl_med.encoders.model_config import (
    HuggingFaceConfig,
    HuggingFaceImages,
    require_room_for,
    require_valid,
)
from ravl_med.encoders.region_pooling import region_pooling_of
from ravl_med.errors import ModelError
from ravl_med.regions.geometry import InputGeometry, ResizeMode

_CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel", "siglip2": "Siglip2Model"}
_TITLES = {"clip": "CLIP", "siglip": "SigLIP", "siglip2": "SigLIP 2 (NaFlex)"}
_KEY = "model.path"
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_EXPECTED = (
    "expected a resize to height and width, or of the shortest edge with a crop of the centre"
)


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What a processor makes of gray values."""

    processor: Any  # of transformers

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the normalisation, by channel."""
        return tuple(float(v) for v in self.processor.image_mean)

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the normalisation, by channel."""
        return tuple(float(v) for v in self.processor.image_std)


@dataclass(frozen=True, slots=True)
class FilmProcessor(Normalisation):
    """The way of a film, and of boxes on it, to the input of a model."""

    resized: int  # side in pixels to which `mode` resizes
    size: int  # side of the square that is cut out of it
    mode: ResizeMode
    whole: bool = False  # this class resizes, since the processor would keep the proportions

    def __call__(self, pixels: NDArray[np.float32]) -> Tensor:
        """Turn a film (H, W) of 0 .. 1 into the model's input, float32 of shape (3, S, S)."""
        image = Image.fromarray(np.rint(pixels * 255.0).astype(np.uint8)).convert("RGB")
        if not self.whole:
            values: Tensor = self.processor(images=image, return_tensors="pt")["pixel_values"]
            return values[0].float()
        resample = Image.Resampling(int(self.processor.resample))
        level = np.asarray(image.resize((self.size, self.size), resample), dtype=np.float32) / 255.0
        mean, std = (np.array(v, dtype=np.float32) for v in (self.mean, self.std))
        return torch.from_numpy(((level - mean) / std).transpose(2, 0, 1).copy())

    def geometry(self, height: int, width: int) -> InputGeometry:
        """Return the mapping of boxes from a stored film of that size to the input."""
        side_y = side_x = self.resized
        if self.mode == "shortest":  # transformers truncates the longer side
            if height <= width:
                side_x = int(self.resized * width / height)
            else:
                side_y = int(self.resized * height / width)
        return InputGeometry(
            height,
            width,
            self.size,
            side_x / width,
            side_y / height,
            -float((side_x - self.size) // 2),
            -float((side_y - self.size) // 2),
        )


def read_processor(folder: Path, tower: HuggingFaceTower, key: str) -> FilmProcessor:
    """Read the image processor of a folder for a tower; `key` is the config key, for messages.

    Raises
    ------
    ModelError
        There is none, it asks for code of its own, or boxes cannot follow what it does.
    """
    import transformers

    if not any((folder / name).is_file() for name in _PROCESSORS):
        raise ModelError(
            f"{key}: the folder has no preprocessor_config.json, which says how the model wants "
            "its images. Lay the one that was published with the model beside config.json."
        )
    for name in (name for name in _PROCESSORS if (folder / name).is_file()):
        content = local_files.read_json(folder / name, key)
        require_valid(HuggingFaceImages, content.get("image_processor", content), key, name)
    try:
        with local_files.no_network():
            kind: Any = transformers.AutoImageProcessor
            processor = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many types here
        raise ModelError(
            f"{key}: preprocessor_config.json names no image processor that transformers has "
            f"({type(error).__name__}); expected the file as it was published, without code of its "
            "own."
        ) from None
    if tower.naflex:
        return FilmProcessor(processor, tower.image_size, tower.image_size, "squash", whole=True)
    made = measure_processor(processor, key)
    if made.size != tower.image_size:
        raise ModelError(
            f"{key}: preprocessor_config.json makes images of {made.size} pixels, the image tower "
            f"reads {tower.image_size}. Correct size and crop_size there."
        )
    return made


def measure_processor(processor: Any, key: str) -> FilmProcessor:
    """Return how a processor resizes and crops."""
    size, crop = processor.size or {}, getattr(processor, "crop_size", None) or {}
    cuts, pads = (bool(getattr(processor, name, False)) for name in ("do_center_crop", "do_pad"))
    height, width, shortest = (_entry(size, name) for name in ("height", "width", "shortest_edge"))
    mode: ResizeMode = "squash" if height and height == width else "shortest"
    resized = height if mode == "squash" else shortest
    final = (_entry(crop, "height"), _entry(crop, "width")) if cuts else (height, width)
    plain = processor.do_resize and processor.do_rescale and processor.do_normalize and not pads
    if not plain or not resized or not final[0] or final[0] != final[1]:
        raise ModelError(
            f"{key}: preprocessor_config.json does with images what boxes of regions cannot follow "
            f"(size {_sides(size)}, crop {_sides(crop) if cuts else 'none'}); {_EXPECTED}, rescale "
            "and normalisation, no padding."
        )
    if final[0] > resized:
        raise ModelError(
            f"{key}: preprocessor_config.json cuts {final[0]} pixels out of {resized}; {_EXPECTED}."
        )
    return FilmProcessor(processor, resized, final[0], mode)


def _entry(size: Any, name: str) -> int:
    value = size.get(name) if isinstance(size, dict) else getattr(size, name, None)
    return int(value) if value else 0


def _sides(size: Any) -> str:
    names = ("shortest_edge", "longest_edge", "height", "width")
    known = {name: _entry(size, name) for name in names if _entry(size, name)}
    return ", ".join(f"{name} {value}" for name, value in known.items()) or "none"


class HuggingFaceModel(nn.Module):
    """A CLIP, SigLIP or SigLIP 2 of transformers with the names that mitigation uses."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.visual = HuggingFaceTower(inner)
        self.logit_scale = inner.logit_scale
        self.logit_bias = getattr(inner, "logit_bias", None)

    def encode_text(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Embed tokens as (T, D), not normalised."""
        embedded: Tensor = self.inner.get_text_features(**tokens).pooler_output
        return embedded


class HuggingFaceEncoder:
    """A model of transformers as an `Encoder`; `folder` is where it came from."""

    def __init__(
        self,
        model: HuggingFaceModel,
        processor: FilmProcessor,
        tokenizer: Any,
        folder: Path,
        device: torch.device,
    ) -> None:
        self.model = model.eval().to(device)
        self.device = device
        self._processor, self._tokenizer, self._folder = processor, tokenizer, folder
        config = model.inner.config
        self._kind = str(config.model_type)
        self._context = int(config.text_config.max_position_embeddings)
        # SigLIP was trained on lower case; the tokenizers of SigLIP 2 do not see to it.
        settings = local_files.read_json(folder / "tokenizer_config.json", _KEY) if (
            folder / "tokenizer_config.json"
        ).is_file() else {}  # fmt: skip
        self._lower = self._kind != "clip" and bool(settings.get("do_lower_case", True))
        pooling, self._pool = region_pooling_of(model.visual)
        digests = _digests(folder)
        bias = model.logit_bias
        size = config.projection_dim if self._kind == "clip" else config.vision_config.hidden_size
        self.info = EncoderInfo(
            architecture=_architecture(config),
            digest=local_files.join_digests(digests.values()),
            image_size=processor.size,
            resize_mode=processor.mode,
            mean=processor.mean,
            std=processor.std,
            region_pooling=pooling,
            embedding_size=int(size),
            parameters=sum(p.numel() for p in model.inner.parameters()),
            logit_scale=float(model.logit_scale.detach().exp()),
            logit_bias=None if bias is None else float(bias.detach()),
            digests=digests,
        )

    def pool_regions_by(self, how: RegionPooling) -> None:
        """Choose how regions are embedded, see `region_pooling_of`."""
        pooling, self._pool = region_pooling_of(self.model.visual, how)
        self.info = replace(self.info, region_pooling=pooling)

    def preprocess(self, pixels: NDArray[np.float32]) -> Tensor:
        """Turn a film (H, W) of 0 .. 1 into the model's input, float32 of shape (3, S, S)."""
        return self._processor(pixels)

    def geometry(self, height: int, width: int) -> InputGeometry:
        """Return the mapping of boxes from a stored film of that size to the input."""
        return self._processor.geometry(height, width)

    @torch.inference_mode()
    def encode_image(self, images: Tensor) -> Tensor:
        """Embed inputs (B, 3, S, S) as (B, D), unit norm."""
        return functional.normalize(self.model.visual(images.to(self.device)), dim=-1)

    @torch.inference_mode()
    def encode_regions(self, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embed inputs (B, 3, S, S) as (B, D) and their regions as (sum of r_i, D), unit norm."""
        whole, regions = self._pool(self.model.visual, images.to(self.device), boxes)
        return functional.normalize(whole, dim=-1), functional.normalize(regions, dim=-1)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as (T, D), unit norm."""
        tokens = self._tokenizer(
            [text.lower() if self._lower else text for text in texts],
            padding="max_length",
            max_length=self._context,
            truncation=True,
            return_tensors="pt",
        )
        # SigLIP was trained without a mask: its padding is part of the text.
        names = ("input_ids", "attention_mask") if self._kind == "clip" else ("input_ids",)
        given = {name: tokens[name].to(self.device) for name in names if name in tokens}
        return functional.normalize(self.model.encode_text(given), dim=-1)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights under the names of transformers."""
        return dict(self.model.inner.state_dict())

    def save(self, folder: Path) -> None:
        """Write the model, as it is now, into a folder that `open_huggingface` opens."""
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            self.model.inner.save_pretrained(folder)
        others = [self._folder / name for name in _PROCESSORS]
        for path in (*others, *local_files.tokenizer_files(self._folder)):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)


def open_huggingface(folder: Path, device: torch.device) -> HuggingFaceEncoder:
    """Open a Hugging Face folder of a CLIP, SigLIP or SigLIP 2 without touching the network.

    Raises
    ------
    ModelError
        The folder is of another kind, asks for code of its own, or lacks a file or holds a wrong
        one.
    """
    import transformers

    config = local_files.read_json(folder / "config.json", _KEY)
    kind = str(config.get("model_type"))
    if kind not in _CLASSES:
        raise ModelError(
            f"{_KEY}: config.json is of a {kind[:40]!r}; expected model_type clip, siglip or "
            "siglip2. An open_clip model needs its open_clip_config.json in the folder; a model "
            "that writes text is asked as model.answers says."
        )
    require_valid(HuggingFaceConfig, config, _KEY, "config.json")
    inner = _load(folder, getattr(transformers, _CLASSES[kind]))
    if not getattr(inner.config.vision_config, "vision_use_head", True):
        raise ModelError(
            f"{_KEY}: the image tower has no head (vision_use_head is false), so that images and "
            "texts share no space; expected a model trained with one."
        )
    model = HuggingFaceModel(inner)
    processor = read_processor(folder, model.visual, _KEY)
    tokenizer = local_files.open_tokenizer(
        folder,
        _KEY,
        lambda: transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        ),
    )
    return HuggingFaceEncoder(model, processor, tokenizer, folder, device)


def _load(folder: Path, kind: Any) -> Any:
    """Load the weights, all of them and nothing else."""
    safe = any(path.suffix == ".safetensors" for path in _weights(folder))
    try:
        with quiet(), local_files.no_network():
            config = kind.config_class.from_pretrained(folder, local_files_only=True)
            require_room_for(lambda: kind(config), _KEY)
            model, report = kind.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=safe,
                weights_only=True,
                output_loading_info=True,
                dtype=torch.float32,
                attn_implementation="sdpa",
            )
    except ModelError:
        raise
    except Exception as error:  # transformers, torch and safetensors raise many types here
        raise ModelError(
            f"{_KEY}: the weights do not open as the model that config.json describes "
            f"({type(error).__name__}); expected model.safetensors, or a pytorch_model.bin that "
            "loads with weights_only, as it was published."
        ) from None
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    unexpected = [name for name in unexpected if not name.endswith("position_ids")]
    if missing or unexpected:
        raise ModelError(
            f"{_KEY}: the weights do not open as the model that config.json describes: "
            f"{len(missing)} are missing ({', '.join(missing[:3]) or 'none'}), {len(unexpected)} "
            f"are not expected ({', '.join(unexpected[:3]) or 'none'})."
        )
    local_files.require_finite(model, _KEY)
    return model


def _weights(folder: Path) -> list[Path]:
    """Return the weights to load, safetensors first, in one file or several."""
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        found = sorted(folder.glob(pattern))
        if found:
            return found
    raise ModelError(
        f"{_KEY}: no weights in the folder; expected model.safetensors or pytorch_model.bin. "
        "Without them the model would be random."
    )


def _digests(folder: Path) -> dict[str, str]:
    described = [folder / name for name in ("config.json", *_PROCESSORS)]
    return {
        "weights": local_files.digest_files(_weights(folder)),
        "config": local_files.digest_files(path for path in described if path.is_file()),
        "tokenizer": local_files.digest_files(local_files.tokenizer_files(folder)),
    }


def _architecture(config: Any) -> str:
    vision, text = config.vision_config, config.text_config
    towers = [f"{part.num_hidden_layers} layers x {part.hidden_size}" for part in (vision, text)]
    return (
        f"Hugging Face {_TITLES[config.model_type]}, image tower {towers[0]}, patches of "
        f"{vision.patch_size}, text tower {towers[1]}"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from writing to the terminal in the context."""
    from transformers import utils

    logging: Any = utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
