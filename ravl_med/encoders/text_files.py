"""Config and tokenizer of a Hugging Face text tower, found beside the model and never fetched.

open_clip's config names such a tower as the hub does (``microsoft/BiomedNLP-...``). Its two parts
are looked for in the model's folder: in a subfolder with the last part of that name, in
``text_tower``, and in the folder itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ravl_med.encoders.local_files import no_network, read_json
from ravl_med.errors import ModelError

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
_SUBFOLDER = "text_tower"


@dataclass(frozen=True, slots=True)
class TextFiles:
    """Where the parts of a text tower lie; None where the model needs none.

    Attributes
    ----------
    config : Path or None - folder with the ``config.json`` of the tower
    tokenizer : Path or None - folder with the tokenizer
    """

    config: Path | None = None
    tokenizer: Path | None = None


def find_text_files(text: Mapping[str, Any], folder: Path, key: str) -> TextFiles:
    """Find what the text part of an open_clip config names.

    Parameters
    ----------
    text : mapping - ``text_cfg``
    folder : Path - of the model
    key : str - of the config that led here, for the messages

    Raises
    ------
    ModelError
        A part is not there, or its config wants code of its own.
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
    """Open a tokenizer offline and see to it that it can pad.

    Parameters
    ----------
    folder : Path - with the tokenizer's files
    key : str - of the config that led here, for the messages
    open_it : callable - opens it; what it returns is, or has as ``tokenizer``, a Hugging Face one

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
    if "auto_map" in read_json(folder / "config.json", key):
        raise ModelError(
            f"{key}: the config.json of the text tower asks for code of its own (auto_map); "
            "refused. Expected a tower that transformers knows."
        )
