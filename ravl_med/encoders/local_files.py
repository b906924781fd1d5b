"""Files of a model, from this machine alone: JSON, weights without code, text towers, digests.

A model in a storage is fetched once into the cache. open_clip's config names a Hugging Face text
tower as the hub does (``microsoft/BiomedNLP-...``); its config and tokenizer are looked for in the
model's folder: in a subfolder with the last part of that name, in ``text_tower``, and in the folder
itself. Nothing is fetched from the hub.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ravl_med.encoders.model_config import (
    HuggingFaceTokenizer,
    require_bounded_numbers,
    require_valid,
)
from ravl_med.errors import ModelError
from ravl_med.storage.bounded_reading import open_regular, parse_json, read_regular
from ravl_med.storage.cache import Cache
from ravl_med.storage.remote import RemotePath

_CONFIGS = ("open_clip_config.json", "config.json")
_MOST_FILES = 200
_LARGEST_JSON = 64 << 20  # bytes
_DEEPEST = 2  # the text tower may lie in a subfolder
_NESTED = ("state_dict", "model_state_dict", "model", "net")
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_TOKENIZERS = (
    ("tokenizer.json",),
    ("vocab.txt",),
    ("vocab.json", "merges.txt"),
    ("spiece.model",),
    ("tokenizer.model",),
)
_TOKENIZER_PARTS = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_SUBFOLDER, _TOKENIZER = "text_tower", "tokenizer_config.json"


def fetch_model(place: RemotePath, cache: Cache) -> Path:
    """Return the local copy of a model in a storage, a folder or a checkpoint.

    It is fetched when the cache does not hold it with the present sizes and entity tags.

    Raises
    ------
    ModelError
        There is no such object, or the folder holds no model.
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
    except FileNotFoundError:  # removed while it was fetched
        raise _nothing(place.role) from None
    return folder / place.name if checkpoint else folder


def _files(place: RemotePath, below: str, deepest: int) -> dict[str, str]:
    """Return the stamps of the files of a folder and its subfolders, by name."""
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


@contextmanager
def no_network() -> Iterator[None]:
    """Forbid the Hugging Face libraries every call to their hub in the context.

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
    """Read a JSON object of a model; `key` is the config key that led here, for messages.

    Raises
    ------
    ModelError
        It cannot be read, or is no object.
    """
    try:
        content = parse_json(read_regular(path, _LARGEST_JSON))
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

    A state dict under ``state_dict`` or ``model`` is taken from there; ``module.`` before every
    name, which distributed training leaves, is cut off.

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
    """Refuse weights that hold NaN or infinity (ModelError)."""
    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
        raise ModelError(
            f"{key}: the weights hold NaN or infinity; expected finite numbers. Fetch the file "
            "again, or save the model before its training broke off."
        )


def digest_files(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the contents of files, in their order."""
    hasher = hashlib.sha256()
    for path in paths:
        with open_regular(path) as stream:
            hasher.update(hashlib.file_digest(stream, "sha256").digest())
    return hasher.hexdigest()


def join_digests(digests: Iterable[str]) -> str:
    """Return the SHA-256 of other digests, in their order."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class TextFiles:
    """Folders of the parts of a text tower; None where the model needs none."""

    config: Path | None = None
    tokenizer: Path | None = None


def find_text_files(text: Mapping[str, Any], folder: Path, key: str) -> TextFiles:
    """Find the files that ``text_cfg`` of an open_clip config names, in the model's folder.

    Raises
    ------
    ModelError
        A part is missing, or its config wants code of its own.
    """
    tower, tokenizer = text.get("hf_model_name"), text.get("hf_tokenizer_name")
    config_folder = tokenizer_folder = None
    if tower:
        config_folder = _find(folder, str(tower), _is_tower)
        if config_folder is None:
            raise ModelError(
                f"{key}: the text tower {str(tower)[:80]!r} is described by a config.json of its "
                f"own, which is not in the folder. Lay the config.json of that model into "
                f"{_SUBFOLDER}/ there; nothing is fetched from the network."
            )
        _refuse_code(config_folder, key)
    if tokenizer:
        tokenizer_folder = _find(folder, str(tokenizer), _has_tokenizer)
        if tokenizer_folder is None:
            raise ModelError(
                f"{key}: the tokenizer {str(tokenizer)[:80]!r} is not in the folder. Lay its "
                f"tokenizer.json (or vocab.txt) and tokenizer_config.json beside the config, or "
                f"into {_SUBFOLDER}/; nothing is fetched from the network."
            )
    return TextFiles(config_folder, tokenizer_folder)


def open_tokenizer(folder: Path, key: str, open_it: Callable[[], Any]) -> Any:
    """Open a tokenizer offline by `open_it`, and make sure that it can pad.

    Raises
    ------
    ModelError
        The files are no tokenizer, or it has no token to pad with.
    """
    if not _has_tokenizer(folder):
        raise ModelError(
            f"{key}: no tokenizer in the folder; expected tokenizer.json, vocab.txt, vocab.json "
            "with merges.txt, or spiece.model, beside tokenizer_config.json."
        )
    if (folder / _TOKENIZER).is_file():
        require_valid(HuggingFaceTokenizer, read_json(folder / _TOKENIZER, key), key, _TOKENIZER)
    try:
        with no_network():
            tokenizer = open_it()
    except ImportError:
        raise ModelError(
            f"{key}: the tokenizer is a SentencePiece model, for which the packages sentencepiece "
            "and protobuf are needed. Install them, or lay a tokenizer.json beside it."
        ) from None
    except Exception as error:  # tokenizers and transformers raise many types here
        raise ModelError(
            f"{key}: the tokenizer in the folder does not open ({type(error).__name__}); expected "
            "the files as they were published."
        ) from None
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    if getattr(inner, "pad_token", None) is None:
        raise ModelError(
            f"{key}: the tokenizer has no padding token, so that texts of several lengths cannot "
            "stand in one batch. Name pad_token in tokenizer_config.json as the model was trained."
        )
    return tokenizer


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of the tokenizer in a folder, in a fixed order."""
    return tuple(folder / name for name in _TOKENIZER_PARTS if (folder / name).is_file())


def _places(folder: Path, name: str) -> Iterator[Path]:
    last = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    if last not in ("", ".", ".."):
        yield folder / last
    yield folder / _SUBFOLDER
    yield folder


def _find(folder: Path, name: str, holds: Callable[[Path], bool]) -> Path | None:
    return next((place for place in _places(folder, name) if holds(place)), None)


def _has_tokenizer(folder: Path) -> bool:
    return any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS)


def _is_tower(folder: Path) -> bool:
    from open_clip.hf_configs import arch_dict

    path = folder / "config.json"
    return path.is_file() and read_json(path, "text tower").get("model_type") in arch_dict


def _refuse_code(folder: Path, key: str) -> None:
    config = read_json(folder / "config.json", key)
    require_bounded_numbers(config, key, "config.json")
    if "auto_map" in config:
        raise ModelError(
            f"{key}: the config.json of the text tower asks for code of its own (auto_map); "
            "refused. Expected a tower that transformers knows."
        )
