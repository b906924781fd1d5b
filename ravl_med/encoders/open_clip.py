"""open_clip models from a layout and a state dict, without open_clip's own reading of either.

open_clip would fetch the config and the tokenizer of a Hugging Face text tower, interpolate
position embeddings of another size silently, and name a path in its messages. Added here is what
text towers of published checkpoints need: ``hf_pooler_type: eos_pooler`` and, with ``hf_proj_type:
linear``, ``hf_proj_bias: true`` in ``text_cfg`` (CXR-CLIP has both).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.hf_model import register_pooler
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from ravl_med.config.model import RegionPooling
from ravl_med.encoders import local_files
from ravl_med.encoders.architectures import describe_state, explain_difference
from ravl_med.encoders.base import EncoderInfo
from ravl_med.encoders.model_config import OpenClipLayout, require_room_for, require_valid
from ravl_med.encoders.region_pooling import region_pooling_of
from ravl_med.errors import ModelError
from ravl_med.regions.geometry import InputGeometry


@register_pooler
class EosPooler(nn.Module):
    """Takes the last token that is no padding: ``[SEP]`` of a BERT."""

    def forward(self, x: Any, attention_mask: Tensor) -> Tensor:
        """Pool the hidden states (T, L, W) of `x` under a mask (T, L) to (T, W)."""
        last = attention_mask.sum(dim=1) - 1
        pooled: Tensor = x.last_hidden_state[torch.arange(len(last), device=last.device), last]
        return pooled


Layout = Mapping[str, Any]
"""Content of an ``open_clip_config.json``: ``model_cfg`` and ``preprocess_cfg``."""

_DEFAULT_CONTEXT = 77


def check_layout(layout: Layout, key: str, name: str) -> None:
    """Refuse a layout that is invalid, or that would make open_clip fetch something (ModelError).

    `key` is the config key that led here, `name` that of the file.
    """
    try:
        embedding = layout["model_cfg"]["embed_dim"]
        visual, text = layout["model_cfg"]["vision_cfg"], layout["model_cfg"]["text_cfg"]
    except (KeyError, TypeError):
        raise ModelError(
            f"{key}: {name} is not a config of open_clip; expected JSON with "
            "model_cfg.embed_dim, model_cfg.vision_cfg and model_cfg.text_cfg."
        ) from None
    if not (isinstance(embedding, int) and isinstance(visual, dict) and isinstance(text, dict)):
        raise ModelError(f"{key}: {name}: model_cfg holds values of wrong type.")
    tower = str(visual.get("timm_model_name") or "")
    if ":" in tower:  # timm's schemas: hf-hub:, local-dir:
        raise ModelError(
            f"{key}: the image tower {tower[:80]!r} is one that timm would fetch from "
            "elsewhere; expected the plain name of an architecture."
        )
    options = text.get("tokenizer_kwargs")
    if isinstance(options, dict) and options.get("reduction_mask"):
        raise ModelError(
            f"{key}: the tokenizer cuts long texts at random (tokenizer_kwargs.reduction_mask); "
            "refused, since no two runs would be alike. Remove that key."
        )
    require_valid(OpenClipLayout, layout, key, name)


def build_model(layout: Layout, text: local_files.TextFiles, key: str) -> Any:
    """Build the model of a checked layout, with random weights and its preprocessing.

    It is a CLIP, CustomTextCLIP or CoCa of open_clip.

    Raises
    ------
    ModelError
        open_clip cannot build it, or this machine cannot hold it.
    """
    import open_clip
    from open_clip.model import set_model_preprocess_cfg
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    config = deepcopy(dict(layout["model_cfg"]))
    if config["vision_cfg"].get("timm_model_name"):
        config["vision_cfg"]["timm_model_pretrained"] = False
    custom = bool(config.pop("custom_text", False))
    if text.config is not None:
        custom = True
        config["text_cfg"] |= {"hf_model_name": str(text.config), "hf_model_pretrained": False}
    biased = bool(config["text_cfg"].pop("hf_proj_bias", False))
    kind: Any = open_clip.CLIP
    if custom:
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    try:
        with local_files.no_network():
            _require_room(kind, config, key)
            model = kind(**config)
        if biased:
            plain = model.text.proj
            model.text.proj = nn.Linear(plain.in_features, plain.out_features)
    except ModelError:
        raise
    except Exception as error:  # open_clip, timm and transformers raise many types here
        raise ModelError(
            f"{key}: open_clip cannot build the model that its config describes "
            f"({type(error).__name__}); expected the config as it was published. A newer model may "
            "need a newer open_clip or timm."
        ) from None
    settings = merge_preprocess_dict(
        asdict(PreprocessCfg()), dict(layout.get("preprocess_cfg") or {})
    )
    settings["size"] = getattr(model.visual, "image_size", settings["size"])
    set_model_preprocess_cfg(model, settings)
    _require_size(model.visual, key)
    return model


def _require_room(kind: Any, config: Mapping[str, Any], key: str) -> None:
    """Refuse a model that memory does not hold (ModelError)."""
    try:
        require_room_for(lambda: kind(**deepcopy(config)), key)
    except ModelError:
        raise
    except Exception:  # some towers of timm ask for values; their size is one that timm knows
        if not config["vision_cfg"].get("timm_model_name"):
            raise
        small = {"layers": 1, "width": 64, "image_size": 16}
        require_room_for(lambda: kind(**deepcopy({**config, "vision_cfg": small})), key)


def _require_size(visual: Any, key: str) -> None:
    """Refuse an input that is not square, or that a tower of timm does not read."""
    size = visual.preprocess_cfg["size"]
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    if height != width:
        raise ModelError(
            f"{key}: the model's input is {height} x {width} pixels; expected a square."
        )
    patches = getattr(getattr(visual, "trunk", None), "patch_embed", None)
    wanted = getattr(patches, "img_size", None)
    if wanted is not None and getattr(patches, "strict_img_size", True):
        if tuple(wanted) != (height, width):
            raise ModelError(
                f"{key}: image_size is {height}; the image tower of timm reads {wanted[0]} pixels. "
                "Correct vision_cfg.image_size or the name of the tower."
            )
    elif patches is not None and height % int(patches.patch_size[0]):
        raise ModelError(
            f"{key}: image_size {height} does not divide into patches of "
            f"{patches.patch_size[0]} pixels; expected a multiple."
        )


def load_state(model: Any, state: Mapping[str, Tensor], key: str, described: str) -> None:
    """Put weights into a model, all of them and nothing else.

    `described` is what the weights should be, such as "the architecture 'ViT-B-32'".

    Raises
    ------
    ModelError
        Names or shapes differ; the nearest architecture is named.
    """
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    given = dict(convert_state_dict(model, dict(state)))
    if "positional_embedding" in given and not hasattr(model, "positional_embedding"):
        given = convert_to_custom_text_state_dict(given)
    wanted = model.state_dict()
    for name in ("logit_scale", "logit_bias"):
        if name in given and name in wanted:  # a scalar, or a vector of one
            given[name] = given[name].reshape(wanted[name].shape)
    for name in [n for n in given if n.endswith("embeddings.position_ids") and n not in wanted]:
        del given[name]  # older transformers saved what is only a range
    difference = explain_difference(wanted, given)
    if difference is not None:
        raise ModelError(
            f"{key}: the weights do not open as the model that {described} describes: "
            f"{difference}. As the file is, {describe_state(state)}"
        )
    # A half-precision file fills a float32 model; on CPU halves are slow and coarse.
    model.load_state_dict({name: value.to(wanted[name].dtype) for name, value in given.items()})
    local_files.require_finite(model, key)


def build_tokenizer(layout: Layout, text: local_files.TextFiles, key: str) -> Any:
    """Return the tokenizer of a layout: list of str to int64 tokens (T, L).

    Raises
    ------
    ModelError
        The tokenizer does not open, or cannot pad.
    """
    from open_clip.tokenizer import HFTokenizer

    config = layout["model_cfg"]["text_cfg"]
    options = dict(config.get("tokenizer_kwargs") or {})
    context = int(config.get("context_length", _DEFAULT_CONTEXT))
    if text.tokenizer is None:
        return _simple_tokenizer(context, json.dumps(options))
    return local_files.open_tokenizer(
        text.tokenizer,
        key,
        lambda: HFTokenizer(
            str(text.tokenizer),
            context_length=context,
            tokenizer_mode=config.get("tokenizer_mode"),
            local_files_only=True,
            trust_remote_code=False,
            **options,
        ),
    )


@cache
def _simple_tokenizer(context: int, options: str) -> Any:
    """Return open_clip's own tokenizer, whose table of words takes long to read."""
    from open_clip.tokenizer import SimpleTokenizer

    try:
        return SimpleTokenizer(context_length=context, **json.loads(options))
    except TypeError:
        raise ModelError(
            f"model: tokenizer_kwargs names {', '.join(json.loads(options))[:80]}, of which some "
            "are not of open_clip's own tokenizer; expected clean or additional_special_tokens."
        ) from None


_CONFIG = "open_clip_config.json"
_WEIGHTS = ("*.safetensors", "*.bin", "*.pth")
_SUBFOLDER = "text_tower"


class OpenClipEncoder:
    """An open_clip model as an `Encoder`; `layout` is its ``open_clip_config.json``."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        layout: Mapping[str, Any],
        text: local_files.TextFiles,
        digests: Mapping[str, str],
        device: torch.device,
    ) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        model.eval()
        model.visual.to(memory_format=torch.channels_last)  # convolutions on CPU: a third faster
        self.model = model.to(device)
        self.device = device
        self._tokenizer, self._layout, self._text = tokenizer, layout, text
        settings = PreprocessCfg(**model.visual.preprocess_cfg)
        self._transform = image_transform_v2(settings, is_train=False)
        pooling, self._pool = region_pooling_of(model.visual)
        size, bias = settings.size, getattr(model, "logit_bias", None)
        parts = {**digests, "tokenizer": _tokenizer_digest(text)}
        self.info = EncoderInfo(
            architecture=_architecture(model, layout),
            digest=local_files.join_digests(parts.values()),
            image_size=int(size[0] if isinstance(size, (tuple, list)) else size),
            resize_mode=settings.resize_mode or "shortest",
            mean=tuple(float(v) for v in settings.mean),
            std=tuple(float(v) for v in settings.std),
            region_pooling=pooling,
            embedding_size=int(layout["model_cfg"]["embed_dim"]),
            parameters=sum(p.numel() for p in model.parameters()),
            logit_scale=float(model.logit_scale.detach().exp()),
            logit_bias=None if bias is None else float(bias.detach()),
            digests=parts,
        )

    def pool_regions_by(self, how: RegionPooling) -> None:
        """Choose how regions are embedded, see `region_pooling_of`."""
        pooling, self._pool = region_pooling_of(self.model.visual, how)
        self.info = replace(self.info, region_pooling=pooling)

    def preprocess(self, pixels: NDArray[np.float32]) -> Tensor:
        """Turn a film (H, W) of 0 .. 1 into the model's input, float32 of shape (3, S, S)."""
        gray = np.rint(pixels * 255.0).astype(np.uint8)
        image: Tensor = self._transform(Image.fromarray(gray))
        return image

    def geometry(self, height: int, width: int) -> InputGeometry:
        """Return the mapping of boxes from a stored film of that size to the input."""
        return InputGeometry.of(height, width, self.info.image_size, self.info.resize_mode)

    @torch.inference_mode()
    def encode_image(self, images: Tensor) -> Tensor:
        """Embed inputs (B, 3, S, S) as (B, D), unit norm."""
        # Channels last saves a small convolutional tower a fifth of its time.
        images = images.to(self.device, memory_format=torch.channels_last)
        embedded: Tensor = self.model.encode_image(images, normalize=True)
        return embedded

    @torch.inference_mode()
    def encode_regions(self, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embed inputs (B, 3, S, S) as (B, D) and their regions as (sum of r_i, D), unit norm."""
        whole, regions = self._pool(self.model.visual, images.to(self.device), boxes)
        return functional.normalize(whole, dim=-1), functional.normalize(regions, dim=-1)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as (T, D), unit norm."""
        tokens = self._tokenizer(list(texts)).to(self.device)
        embedded: Tensor = self.model.encode_text(tokens, normalize=True)
        return embedded

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights under the names of open_clip."""
        return dict(self.model.state_dict())

    def save(self, folder: Path) -> None:
        """Write the model, as it is now, into a folder that `open_model` opens."""
        save_model(self.model, dict(self._layout), folder)
        if self._text.config is not None:
            (folder / _SUBFOLDER).mkdir(exist_ok=True)
            shutil.copyfile(self._text.config / "config.json", folder / _SUBFOLDER / "config.json")
        for path in (
            local_files.tokenizer_files(self._text.tokenizer) if self._text.tokenizer else ()
        ):
            shutil.copyfile(path, folder / path.name)  # where open_clip looks for them too


def open_model(folder: Path, device: torch.device) -> OpenClipEncoder:
    """Open an open_clip folder without touching the network.

    Raises
    ------
    ModelError
        The folder, its config, its weights or a part of its text tower is missing or wrong.
    """
    key = "model.path"
    layout = _read_layout(folder)
    weights = _find_weights(folder)
    text = local_files.find_text_files(layout["model_cfg"]["text_cfg"], folder, key)
    model = build_model(layout, text, key)
    try:
        state = local_files.read_weights(weights, key)
    except ModelError as error:
        raise ModelError(
            f"{key}: the weights do not open as the model that {_CONFIG} describes:"
            f"{str(error).removeprefix(key + ':')}"
        ) from None
    load_state(model, state, key, _CONFIG)
    tokenizer = build_tokenizer(layout, text, key)
    described = [folder / _CONFIG, *([text.config / "config.json"] if text.config else [])]
    digests = {
        "weights": local_files.digest_files((weights,)),
        "config": local_files.digest_files(described),
    }
    return OpenClipEncoder(model, tokenizer, layout, text, digests, device)


def save_model(model: nn.Module, config: dict[str, Any], folder: Path) -> None:
    """Write a model as a new folder that `open_model` and ``open_clip`` (``local-dir:``) open."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / _CONFIG).write_text(text, encoding="utf-8")


def _read_layout(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        what = "model.path: no such folder"
        if folder.is_file():
            what = "model.path: a file, which model.weights takes"
        raise ModelError(
            f"{what}. Expected a folder with {_CONFIG}, or config.json of Hugging "
            "Face, and weights. Paths are relative to the config file."
        )
    if not (folder / _CONFIG).is_file():
        raise ModelError(
            f"model.path: the folder has no {_CONFIG}, and no config.json of Hugging Face; "
            "expected one beside the weights."
        )
    try:
        layout = local_files.read_json(folder / _CONFIG, "model.path")
    except ModelError:
        layout = {}
    check_layout(layout, "model.path", _CONFIG)
    return layout


def _find_weights(folder: Path) -> Path:
    """Return the weights that open_clip would take."""
    from open_clip.factory import _find_checkpoint_in_dir

    found = _find_checkpoint_in_dir(folder)
    if found is None:
        raise ModelError(
            f"model.path: no weights in the folder; expected a file of {', '.join(_WEIGHTS)}. "
            "Without them the model would be random."
        )
    return Path(found)


def _architecture(model: Any, layout: Mapping[str, Any]) -> str:
    visual, text = layout["model_cfg"]["vision_cfg"], layout["model_cfg"]["text_cfg"]
    tower = str(visual.get("timm_model_name") or type(model.visual).__name__)
    described = f"open_clip {type(model).__name__}, image tower {tower}"
    if visual.get("layers") is not None:
        described += f", layers {visual['layers']}"
    if text.get("hf_model_name"):
        described += f", text tower {str(text['hf_model_name'])[:80]}"
    return described


def _tokenizer_digest(text: local_files.TextFiles) -> str:
    from open_clip.tokenizer import default_bpe

    own = (Path(default_bpe()),)
    return local_files.digest_files(
        local_files.tokenizer_files(text.tokenizer) if text.tokenizer else own
    )
