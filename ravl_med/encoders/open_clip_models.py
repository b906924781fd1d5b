"""open_clip models from a layout and a state dict, without open_clip's own reading of either.

open_clip would fetch the config and the tokenizer of a Hugging Face text tower, interpolate
position embeddings of another size without a word, and name a path in its messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from typing import Any

from torch import Tensor

from ravl_med.encoders.architectures import describe_state, explain_difference
from ravl_med.encoders.local_files import no_network, require_finite
from ravl_med.encoders.text_files import TextFiles, open_tokenizer
from ravl_med.encoders.text_poolers import add_projection_bias
from ravl_med.errors import ModelError

__all__ = ["build_model", "build_tokenizer", "check_layout", "load_state"]

Layout = Mapping[str, Any]
"""Content of an ``open_clip_config.json``: ``model_cfg`` and ``preprocess_cfg``."""

_DEFAULT_CONTEXT = 77


def check_layout(layout: Layout, key: str, name: str) -> None:
    """Refuse a layout that is none, or that open_clip would go elsewhere for.

    Parameters
    ----------
    layout : mapping
    key : str - of the config that led here
    name : str - of the file

    Raises
    ------
    ModelError
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
    if (text.get("tokenizer_kwargs") or {}).get("reduction_mask"):
        raise ModelError(
            f"{key}: the tokenizer cuts long texts at random (tokenizer_kwargs.reduction_mask); "
            "refused, since no two runs would be alike. Remove that key."
        )


def build_model(layout: Layout, text: TextFiles, key: str) -> Any:
    """Build the model of a layout with random weights, and the preprocessing it was trained with.

    Parameters
    ----------
    layout : mapping - as `check_layout` lets it pass
    text : TextFiles - of its text tower
    key : str - of the config that led here

    Returns
    -------
    nn.Module - a CLIP, CustomTextCLIP or CoCa of open_clip

    Raises
    ------
    ModelError
        open_clip cannot build it.
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
        with no_network():
            model = kind(**config)
        if biased:
            add_projection_bias(model)
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

    Parameters
    ----------
    model : nn.Module - of open_clip
    state : mapping of str to Tensor
    key : str - of the config that led here
    described : str - what the weights should be, such as "the architecture 'ViT-B-32'"

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
    require_finite(model, key)


def build_tokenizer(layout: Layout, text: TextFiles, key: str) -> Any:
    """Return the tokenizer of a layout: list of str to int64 tokens (T, L).

    Raises
    ------
    ModelError
        The tokenizer does not open, or cannot pad.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    config = layout["model_cfg"]["text_cfg"]
    options = dict(config.get("tokenizer_kwargs") or {})
    context = int(config.get("context_length", _DEFAULT_CONTEXT))
    if text.tokenizer is None:
        return SimpleTokenizer(context_length=context, **options)
    return open_tokenizer(
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
