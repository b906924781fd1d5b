"""Configs of model folders: types, ranges and allowed names, before anything is built from them.

A config decides how much memory is taken and what code of a library runs. One wrong number would
end in the middle of it, so each key that is used is looked at here, and the parameters of what is
described are counted on PyTorch's meta device, which holds no values.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, Strict, StrictBool, StrictStr, ValidationError
from torch import nn

from ravl_med.config.base import explain_problems
from ravl_med.errors import ModelError

_WIDEST, _DEEPEST, _MOST_WORDS, _LONGEST = 65_536, 512, 5_000_000, 65_536
_LARGEST_NUMBER = 1 << 32


Width = Annotated[int, Strict(), Field(ge=1, le=_WIDEST)]
Inner = Annotated[int, Strict(), Field(ge=1, le=4 * _WIDEST)]
Layers = Annotated[int, Strict(), Field(ge=1, le=_DEEPEST)]
Heads = Annotated[int, Strict(), Field(ge=1, le=1024)]
Channels = Annotated[int, Strict(), Field(ge=1, le=64)]
Pixels = Annotated[int, Strict(), Field(ge=1, le=8192)]
Area = Annotated[int, Strict(), Field(ge=1, le=1 << 26)]
Patch = Annotated[int, Strict(), Field(ge=1, le=1024)]
Words = Annotated[int, Strict(), Field(ge=1, le=_MOST_WORDS)]
TokenId = Annotated[int, Strict(), Field(ge=0, le=_MOST_WORDS)]
Context = Annotated[int, Strict(), Field(ge=1, le=_LONGEST)]
Byte = Annotated[int, Strict(), Field(ge=0, le=255)]
Filter = Annotated[int, Strict(), Field(ge=0, le=5)]  # of Pillow's resampling
Ratio = Annotated[float, Strict(), Field(ge=0.01, le=64.0)]
Share = Annotated[float, Strict(), Field(ge=0.0, le=1.0)]
Factor = Annotated[float, Strict(), Field(ge=1e-9, le=1e3)]
Colour = Annotated[float, Strict(), Field(ge=-1e4, le=1e4)]
Spread = Annotated[float, Strict(), Field(ge=1e-6, le=1e4)]
Colours = Annotated[tuple[Colour, ...], Field(min_length=1, max_length=4)]
Spreads = Annotated[tuple[Spread, ...], Field(min_length=1, max_length=4)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False, protected_namespaces=())


class _OpenClipVision(_Part):
    layers: Layers | Annotated[tuple[Layers, ...], Field(min_length=4, max_length=4)] = 12
    width: Width = 768
    head_width: Width = 64
    mlp_ratio: Ratio = 4.0
    patch_size: Patch | None = 16  # open_clip writes none for a ResNet
    image_size: Pixels | Annotated[tuple[Pixels, ...], Field(min_length=2, max_length=2)] = 224
    patch_dropout: Share = 0.0
    attn_pooler_queries: Width = 256
    attn_pooler_heads: Heads = 8
    timm_model_name: StrictStr | None = None
    timm_pool: StrictStr = "avg"
    timm_proj: StrictStr | None = "linear"
    timm_drop: Share = 0.0


class _OpenClipTokenizer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    clean: Literal["canonicalize", "lower", "whitespace"] = "lower"
    strip_sep_token: StrictBool = False
    language: StrictStr | None = None
    additional_special_tokens: tuple[StrictStr, ...] | None = None


class _OpenClipText(_Part):
    context_length: Context = 77
    vocab_size: Words = 49_408
    hf_tokenizer_name: StrictStr | None = None
    hf_model_name: StrictStr | None = None
    tokenizer_kwargs: _OpenClipTokenizer | None = None
    width: Width = 512
    heads: Heads = 8
    layers: Layers = 12
    dim_head: Width = 64
    n_queries: Width = 256
    attn_pooler_heads: Heads = 8
    mlp_ratio: Ratio = 4.0
    pad_id: TokenId = 0
    eos_id: TokenId = 2


class _OpenClipModel(_Part):
    embed_dim: Width
    vision_cfg: _OpenClipVision
    text_cfg: _OpenClipText
    multimodal_cfg: _OpenClipText | None = None
    quick_gelu: StrictBool | None = False
    custom_text: StrictBool | None = False
    init_logit_scale: Colour = 2.66
    init_logit_bias: Colour | None = None


class _OpenClipImages(_Part):
    size: Pixels | Annotated[tuple[Pixels, ...], Field(min_length=2, max_length=2)] = 224
    mode: Literal["RGB"] = "RGB"
    mean: Colours = (0.5,)
    std: Spreads = (0.5,)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    fill_color: Byte = 0


class OpenClipLayout(_Part):
    """Content of an ``open_clip_config.json``."""

    model_cfg: _OpenClipModel
    preprocess_cfg: _OpenClipImages | None = None


class _Tower(_Part):
    hidden_size: Width = 512
    intermediate_size: Inner = 2048
    num_hidden_layers: Layers = 12
    num_attention_heads: Heads = 8
    projection_dim: Width = 512
    image_size: Pixels = 224
    patch_size: Patch = 32
    num_channels: Channels = 3
    num_patches: Context = 256
    vocab_size: Words = 49_408
    max_position_embeddings: Context = 77
    attention_dropout: Share = 0.0
    layer_norm_eps: Share = 1e-5
    hidden_act: StrictStr = "quick_gelu"


class HuggingFaceConfig(_Part):
    """Content of the ``config.json`` of a CLIP or SigLIP."""

    model_type: StrictStr
    projection_dim: Width = 512
    logit_scale_init_value: Colour = 2.66
    vision_config: _Tower | None = None
    text_config: _Tower | None = None
    vision_config_dict: _Tower | None = None
    text_config_dict: _Tower | None = None


class _Sides(_Part):
    height: Pixels | None = None
    width: Pixels | None = None
    shortest_edge: Pixels | None = None
    longest_edge: Pixels | None = None


class HuggingFaceImages(_Part):
    """Content of a ``preprocessor_config.json``."""

    image_mean: Colours | Colour | None = None
    image_std: Spreads | Spread | None = None
    resample: Filter | None = None
    rescale_factor: Factor | None = None
    size: _Sides | Pixels | None = None
    crop_size: _Sides | Pixels | None = None
    do_resize: StrictBool | None = None
    do_rescale: StrictBool | None = None
    do_normalize: StrictBool | None = None
    do_center_crop: StrictBool | None = None
    do_pad: StrictBool | None = None
    do_convert_rgb: StrictBool | None = None


class _Areas(_Part):
    shortest_edge: Area | None = None
    longest_edge: Area | None = None


class AreaImages(HuggingFaceImages):
    """One of a family that bounds the area of its images, in place of their sides."""

    size: _Areas | None = None  # type: ignore[assignment]


class _Token(_Part):
    content: StrictStr


class HuggingFaceTokenizer(_Part):
    """Content of a ``tokenizer_config.json``."""

    pad_token: StrictStr | _Token | None = None
    do_lower_case: StrictBool | None = None
    tokenizer_class: StrictStr | None = None


def require_valid(kind: type[BaseModel], content: Any, key: str, name: str) -> None:
    """Refuse the first wrong value of a config of that kind.

    `key` is the config key that led to it and `name` that of its file, for messages.

    Raises
    ------
    ModelError
        One line: where, what is allowed, what was found.
    """
    try:
        kind.model_validate(content)
    except ValidationError as error:
        problem = explain_problems(error, kind)[0].rstrip(".")
        raise ModelError(
            f"{key}: {name}: {problem}. Expected the file as it was published."
        ) from None


def require_bounded_numbers(content: Any, key: str, name: str, depth: int = 0) -> None:
    """Refuse numbers of a config of any kind that no tower of today has (ModelError)."""
    if depth > 8 or not isinstance(content, Mapping):
        return
    for part, value in content.items():
        layers = "layer" in str(part) and not str(part).endswith(("_eps", "_norm"))
        most = _DEEPEST if layers else _LARGEST_NUMBER
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) > most:
            raise ModelError(
                f"{key}: {name}: {str(part)[:40]} is {str(value)[:40]}; expected at most {most:,}. "
                "Expected the file as it was published."
            )
        require_bounded_numbers(value, key, name, depth + 1)


def require_room_for(build: Callable[[], nn.Module], key: str, each: int = 8) -> None:
    """Build a model without values, and refuse one that does not fit into this machine's memory.

    `each` is the bytes of a parameter: 8 are two in float32, the model and what is read into it.

    Raises
    ------
    ModelError
        Its parameters take more.
    """
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in build().parameters())
    room = machine_memory()
    if each * parameters > room:
        raise ModelError(
            f"{key}: the config describes {parameters:,} parameters, which take "
            f"{each * parameters / 1e9:,.1f} GB while they are read; this machine has "
            f"{room / 1e9:,.1f} GB. Check the numbers of the config, or take a larger machine."
        )


def machine_memory() -> int:
    """Return the bytes of memory of this machine, or of the container that it is."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no container, or one without a limit ("max")
            continue
    return min(found)
