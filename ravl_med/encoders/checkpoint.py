"""Raw checkpoints: a state dict alone, of which the config says what it is and what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ravl_med.config.model import ModelConfig, PreprocessConfig
from ravl_med.encoders.local_files import digest_files, join_digests, read_json, read_weights
from ravl_med.encoders.open_clip import (
    OpenClipEncoder,
    build_model,
    build_tokenizer,
    check_layout,
    load_state,
)
from ravl_med.encoders.text_files import TextFiles, find_text_files
from ravl_med.errors import ModelError

_KEY = "model.weights"


def open_checkpoint(config: ModelConfig, device: torch.device) -> OpenClipEncoder:
    """Open a raw checkpoint.

    Parameters
    ----------
    config : ModelConfig - with `weights`, and `architecture` or `layout`

    Raises
    ------
    ModelError
        The architecture is unknown, a file is missing or is not what it should be, or the weights
        are of another architecture; the nearest is named.
    """
    assert isinstance(config.weights, Path)  # the config demands it; an object is fetched before
    layout, described = _layout(config)
    text = _text_files(config, layout)
    model = build_model(layout, text, _KEY)
    state = rename_weights(read_weights(config.weights, _KEY), config.keys)
    load_state(model, state, _KEY, described)
    tokenizer = build_tokenizer(layout, text, "model.text_tower")
    files = [path for path in (config.layout,) if path is not None]
    files += [text.config / "config.json"] if text.config else []
    digests = {
        "weights": digest_files((config.weights,)),
        "config": join_digests(
            [repr(layout), repr(sorted(config.keys.items())), digest_files(files)]
        ),
    }
    return OpenClipEncoder(model, tokenizer, layout, text, digests, device)


def rename_weights(
    state: Mapping[str, Tensor], keys: Mapping[str, str | None]
) -> dict[str, Tensor]:
    """Rename weights by the beginnings of their names; the longest beginning that fits counts.

    Parameters
    ----------
    keys : mapping of str to str or None - None drops the weights

    Raises
    ------
    ModelError
        A beginning is that of no weight, or two weights get one name.
    """
    ordered = sorted(keys, key=len, reverse=True)
    used, renamed = set(), {}
    for name, value in state.items():
        start = next((key for key in ordered if name.startswith(key)), None)
        new: str | None = name
        if start is not None:
            used.add(start)
            put = keys[start]
            new = None if put is None else put + name.removeprefix(start)
        if new is None:
            continue
        if new in renamed:
            raise ModelError(f"model.keys: two weights would be called {new[:80]!r}; expected one.")
        renamed[new] = value
    unused = [key for key in keys if key not in used]
    if unused:
        begun = sorted({name.split(".")[0] for name in state})
        raise ModelError(
            f"model.keys: no weight begins with {unused[0][:80]!r}; the names begin with "
            f"{', '.join(begun[:8])}."
        )
    return renamed


def _layout(config: ModelConfig) -> tuple[dict[str, Any], str]:
    """Content that an open_clip_config.json would have, and how messages call it."""
    import open_clip

    if config.layout is not None:
        layout = read_json(config.layout, "model.layout")
        layout = layout if "model_cfg" in layout else {"model_cfg": layout}
        described = "model.layout"
    else:
        name = str(config.architecture)
        known = open_clip.get_model_config(name) if ":" not in name else None
        if known is None:
            raise ModelError(f"model.architecture: open_clip has no {name[:80]!r}{_near(name)}")
        layout, described = {"model_cfg": known}, f"the architecture {name!r}"
    check_layout(layout, "model.layout", "the file")
    model = layout["model_cfg"]
    if config.quick_gelu is not None:
        model["quick_gelu"] = config.quick_gelu
    given = config.preprocess
    if given is not None or "preprocess_cfg" not in layout:
        settings = given or PreprocessConfig()
        if settings.size is not None:
            model["vision_cfg"]["image_size"] = _size(settings.size, model["vision_cfg"])
        layout["preprocess_cfg"] = {
            **settings.model_dump(exclude={"size"}),
            "size": model["vision_cfg"].get("image_size", 224),
        }
    return layout, described


def _size(size: int, vision: Mapping[str, Any]) -> int:
    """Return the side of the input; it must divide into what the tower cuts it into."""
    cells = 32 if isinstance(vision.get("layers"), (list, tuple)) else vision.get("patch_size", 16)
    if "timm_model_name" not in vision and size % int(cells):
        raise ModelError(
            f"model.preprocess.size: {size} pixels do not divide into patches of {cells}; expected "
            f"a multiple, such as {max(1, round(size / int(cells))) * int(cells)}."
        )
    return size


def _near(name: str) -> str:
    import difflib

    import open_clip

    near = difflib.get_close_matches(name, open_clip.list_models(), n=1, cutoff=0.5)
    return f". Did you mean {near[0]!r}?" if near else "; expected a name of its built-in list."


def _text_files(config: ModelConfig, layout: Mapping[str, Any]) -> TextFiles:
    """Find the text tower's files in the folder that the config names for them."""
    text = layout["model_cfg"]["text_cfg"]
    needed = text.get("hf_model_name") or text.get("hf_tokenizer_name")
    if not needed:
        return TextFiles()
    if config.text_tower is None:
        raise ModelError(
            f"model.text_tower: the text tower or tokenizer {str(needed)[:80]!r} is a Hugging Face "
            "one; name the folder with its config.json and tokenizer. Nothing is fetched from the "
            "network."
        )
    folder: Path = config.text_tower
    if not folder.is_dir():
        raise ModelError("model.text_tower: no such folder; expected one with config.json.")
    return find_text_files(text, folder, "model.text_tower")
