"""The open_clip architecture that a state dict fits best, for messages about wrong keys."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_MARKS = ("visual.class_embedding", "visual.layer1.0.conv1.weight")
_HUGGING_FACE = ("vision_model.encoder.layers.", "vision_model.embeddings.")
_SHOWN = 3

Shapes = Mapping[str, tuple[int, ...]]


def explain_difference(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """Return what is wrong with a state dict as text, or None where it fits."""
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    other = [n for n, v in given.items() if n in wanted and v.shape != wanted[n].shape]
    parts = []
    if missing:
        parts.append(f"{len(missing)} weights are missing ({_first(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} are not expected ({_first(unexpected)})")
    if other:
        shapes = [
            f"{name} {_shape(given[name])} instead of {_shape(wanted[name])}" for name in other
        ]
        parts.append(f"{len(other)} have another shape ({_first(shapes)})")
    return "; ".join(parts) or None


def describe_state(state: Mapping[str, Tensor]) -> str:
    """Return a sentence about the architecture that a state dict looks like."""
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    prefix = _common_prefix(shapes)
    begun = f"its names begin with {prefix!r}: map it with model.keys; " if prefix else ""
    shapes = {name.removeprefix(prefix): shape for name, shape in shapes.items()}
    if any(name.startswith(_HUGGING_FACE) for name in shapes):
        return (
            f"{begun}it looks like a Hugging Face CLIP or SigLIP: lay it beside its config.json in "
            "a folder and name that in model.path."
        )
    facts = _facts_of_state(shapes)
    if not any(name.startswith("image ") for name in facts):
        timm = any(name.startswith("visual.trunk.") for name in shapes)
        tower = "a timm image tower" if timm else "no tower of open_clip"
        return f"{begun}it holds {tower}."
    name, equal = _nearest(facts)
    if equal == len(facts):
        return f"{begun}it fits the architecture {name!r}."
    return f"{begun}the nearest architecture is {name!r} ({equal} of {len(facts)} sizes agree)."


def _first(names: list[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:_SHOWN])
    return f"{shown}, ..." if len(names) > _SHOWN else shown


def _shape(value: Tensor) -> str:
    return " x ".join(map(str, value.shape)) or "scalar"


def _common_prefix(shapes: Shapes) -> str:
    """Return the text before the names of open_clip, such as ``clip_model.``."""
    for name in shapes:
        for mark in (*_MARKS, *_HUGGING_FACE):
            if f".{mark}" in name:
                return name[: name.index(f".{mark}") + 1]
    return ""


def _facts_of_state(shapes: Shapes) -> dict[str, Any]:
    """Return the sizes that distinguish architectures, from the shapes of the weights."""
    facts: dict[str, Any] = {}
    if "visual.class_embedding" in shapes and "visual.conv1.weight" in shapes:
        facts["image kind"] = "vit"
        facts["image width"] = shapes["visual.conv1.weight"][0]
        facts["image patch"] = shapes["visual.conv1.weight"][-1]
        facts["image layers"] = _count(shapes, r"visual\.transformer\.resblocks\.(\d+)\.")
        facts["image grid"] = _side(shapes, "visual.positional_embedding")
        if "visual.proj" in shapes:
            facts["embedding"] = shapes["visual.proj"][1]
    elif "visual.layer1.0.conv1.weight" in shapes:
        facts["image kind"] = "resnet"
        facts["image width"] = shapes["visual.layer1.0.conv1.weight"][0]
        facts["image layers"] = tuple(
            _count(shapes, rf"visual\.layer{stage}\.(\d+)\.") for stage in range(1, 5)
        )
        facts["image grid"] = _side(shapes, "visual.attnpool.positional_embedding")
        if "visual.attnpool.c_proj.weight" in shapes:
            facts["embedding"] = shapes["visual.attnpool.c_proj.weight"][0]
    for before in ("", "text."):
        if f"{before}token_embedding.weight" in shapes:
            vocabulary, width = shapes[f"{before}token_embedding.weight"]
            facts |= {"text vocabulary": vocabulary, "text width": width}
            facts["text layers"] = _count(
                shapes, rf"{re.escape(before)}transformer\.resblocks\.(\d+)\."
            )
            if f"{before}positional_embedding" in shapes:
                facts["text context"] = shapes[f"{before}positional_embedding"][0]
    return facts


def _facts_of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same sizes from an open_clip config; none for timm and Hugging Face towers."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision or "hf_model_name" in text:
        return {}
    size, layers = vision["image_size"], vision.get("layers", 12)
    side = size[0] if isinstance(size, (list, tuple)) else size
    facts: dict[str, Any] = {"embedding": config["embed_dim"]}
    if isinstance(layers, (list, tuple)):
        facts |= {"image kind": "resnet", "image width": vision.get("width", 64)}
        facts |= {"image layers": tuple(layers), "image grid": side // 32}
    else:
        patch = vision.get("patch_size", 16)
        facts |= {"image kind": "vit", "image width": vision.get("width", 768)}
        facts |= {"image layers": layers, "image patch": patch, "image grid": side // patch}
    facts |= {
        "text vocabulary": text.get("vocab_size", 49408),
        "text width": text.get("width", 512),
        "text layers": text.get("layers", 12),
        "text context": text.get("context_length", 77),
    }
    return facts


def _nearest(facts: Mapping[str, Any]) -> tuple[str, int]:
    """Return the architecture that shares the most sizes, and how many."""
    import open_clip

    best, most = "", -1
    for name in open_clip.list_models():
        known = _facts_of_config(open_clip.get_model_config(name))
        equal = sum(known.get(fact) == value for fact, value in facts.items())
        if equal > most:
            best, most = name, equal
    return best, most


def _count(shapes: Shapes, pattern: str) -> int:
    found = {int(m.group(1)) for name in shapes if (m := re.match(pattern, name))}
    return len(found)


def _side(shapes: Shapes, name: str) -> int:
    return math.isqrt(shapes[name][0] - 1) if name in shapes and shapes[name][0] > 1 else 0
