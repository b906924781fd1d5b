"""Files of a model, from this machine alone: JSON, weights without code, digests.

Models that lie in a storage: fetched once into the cache, for their owner alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ravl_med.errors import ModelError
from ravl_med.storage.cache import Cache
from ravl_med.storage.remote import RemotePath

_CONFIGS = ("open_clip_config.json", "config.json")
_MOST_FILES = 200
_DEEPEST = 2  # a folder may have its text tower in one of its own


def fetch_model(place: RemotePath, cache: Cache) -> Path:
    """Return a model that lies in a storage, on this machine.

    It is fetched when the cache does not hold it as it is there now, by the sizes and entity tags
    of its files.

    Parameters
    ----------
    place : RemotePath - of a folder, or of a checkpoint

    Returns
    -------
    Path - of the folder, or of the checkpoint

    Raises
    ------
    ModelError
        There is no such object, or the folder is none of a model.
    ConfigError, StorageError
        The storage denies access, or does not answer.
    """
    checkpoint = place.role == "model.weights"
    try:
        files = {place.name: place.stamp()} if checkpoint else _files(place, "", _DEEPEST)
    except FileNotFoundError:
        raise _nothing(place.role) from None
    if not checkpoint and not set(files) & set(_CONFIGS):
        raise ModelError(
            f"{place.role}: what the URL names has no {_CONFIGS[0]} and no {_CONFIGS[1]}; expected "
            "the folder of an open_clip or Hugging Face model."
        )
    if len(files) > _MOST_FILES:
        raise ModelError(
            f"{place.role}: {len(files)} files or more lie where the URL leads; expected those of "
            f"one model, at most {_MOST_FILES}."
        )

    def make(folder: Path) -> None:
        for name in files:
            target = folder / name
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            (place if checkpoint else place / name).fetch(target)

    try:
        folder, _ = cache.folder("models", {"url": place.url, "files": sorted(files.items())}, make)
    except FileNotFoundError:  # taken away while it was fetched
        raise _nothing(place.role) from None
    return folder / place.name if checkpoint else folder


def _files(place: RemotePath, below: str, deepest: int) -> dict[str, str]:
    """Stamps of the files of a folder, by name, with those of its folders."""
    found = {f"{below}{name}": stamp for name, stamp in place.stamps().items()}
    if deepest > 1:
        for name, size in place.entries().items():
            if size is None and len(found) <= _MOST_FILES:
                found |= _files(place / name, f"{below}{name}/", deepest - 1)
    return found


def _nothing(role: str) -> ModelError:
    return ModelError(
        f"{role}: the storage holds nothing where the URL leads; expected the folder of a model, "
        "or a checkpoint in model.weights. Check bucket and name."
    )


_NESTED = ("state_dict", "model_state_dict", "model", "net")
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


@contextmanager
def no_network() -> Iterator[None]:
    """Forbid the Hugging Face libraries every call to their hub for a while.

    ``HF_HUB_OFFLINE`` is read when they are imported, which may have been long before.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def read_json(path: Path, key: str) -> dict[str, Any]:
    """Read a JSON object of a model.

    Parameters
    ----------
    key : str - of the config that led here, for the message

    Raises
    ------
    ModelError
        It cannot be read, or is no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{key}: {path.name} cannot be read ({type(error).__name__}); expected a JSON object."
        ) from None
    if not isinstance(content, dict):
        raise ModelError(
            f"{key}: {path.name} holds a {type(content).__name__}; expected a JSON object."
        )
    return content


def read_weights(path: Path, key: str) -> dict[str, Tensor]:
    """Read a state dict: safetensors, or a PyTorch file that holds nothing but values.

    A state dict that lies under ``state_dict`` or ``model`` is taken from there; ``module.`` before
    every name, which distributed training leaves, is cut off.

    Parameters
    ----------
    key : str - of the config that led here, for the messages

    Raises
    ------
    ModelError
        The file is missing, is broken, would have to run code, or holds no tensors.
    """
    if not path.is_file():
        raise ModelError(f"{key}: no such file; expected a .safetensors, .pt, .pth or .tar file.")
    content = _load(path, key)
    if isinstance(content, Mapping):
        nested = (content[name] for name in _NESTED if isinstance(content.get(name), Mapping))
        content = next(nested, content)
    state = {
        str(name): value
        for name, value in (content.items() if isinstance(content, Mapping) else ())
        if isinstance(value, Tensor)
    }
    if not state:
        raise ModelError(
            f"{key}: the file holds no named tensors; expected a state dict, alone or under one of "
            f"{', '.join(_NESTED)}."
        )
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _load(path: Path, key: str) -> Any:
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile, pickle and safetensors raise many types here
        raise ModelError(f"{key}: {_explain(error)}") from None


def _explain(error: Exception) -> str:
    text = str(error)
    if "TorchScript" in text:
        return (
            "the file is a TorchScript program; expected a state dict. Save model.state_dict() as "
            "safetensors on a machine where you trust it."
        )
    if "weights_only" in text.lower() or "WeightsUnpickler" in text:
        named = _GLOBAL.search(text)
        what = f" ({named.group(1)[:80]})" if named else ""
        return (
            f"the file is a pickle that would have to run code{what}; refused. Expected "
            "safetensors, or a state dict that loads with weights_only: save it so where you trust "
            "the file."
        )
    return (
        f"the file cannot be read ({type(error).__name__}); expected safetensors, or a state dict "
        "that loads with weights_only."
    )


def require_finite(model: nn.Module, key: str) -> None:
    """Refuse weights that hold NaN or infinity.

    Raises
    ------
    ModelError
    """
    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
        raise ModelError(
            f"{key}: the weights hold NaN or infinity; expected finite numbers. Fetch the file "
            "again, or save the model before its training broke off."
        )


def digest_files(paths: Iterable[Path]) -> str:
    """Return the SHA-256 over the contents of files, in their order."""
    hasher = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            hasher.update(hashlib.file_digest(stream, "sha256").digest())
    return hasher.hexdigest()


def join_digests(digests: Iterable[str]) -> str:
    """Return the SHA-256 over other digests, in their order."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
