"""Models that lie in a storage: fetched once into the cache, for their owner alone."""

from __future__ import annotations

from pathlib import Path

from ravl_med.cache import Cache
from ravl_med.errors import ModelError
from ravl_med.storage.remote_path import RemotePath

__all__ = ["fetch_model"]

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
    cache : Cache

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
