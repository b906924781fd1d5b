"""Folders made once and found again: named by content, for their owner alone, never half made."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shlex
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from ravl_med.errors import ConfigError, needing_disk_space
from ravl_med.storage.bounded_reading import open_regular, read_regular
from ravl_med.storage.files import atomic_write_bytes

KINDS = {  # the content of each subfolder of a cache
    "cohorts": "phantoms, no patient",
    "embeddings": "films as one model reads them, and their embeddings",
    "evaluation-films": "phantoms of `ravl-med evaluate`",
    "evaluation-models": "small models of `ravl-med evaluate` and of benchmarks",
    "mitigations": "weights and lists of films of a mitigation that was ended",
    "models": "a quickstart model, or one that was fetched",
    "sketches": "digests of films of other splits, by which they are found among audited ones",
    "structures": "outlines of anatomy and artifacts on films",
    "texts": "places of text on films, without what it says",
}

_NO_ROOM = (
    "cache: no room left on the disk; what was begun is removed, what was finished is kept. "
    "Make room, or name another folder in cache.folder, and run the same command again."
)
_SEAL = 32  # bytes of a SHA-256
_ENTRY = re.compile(r"\.?[0-9a-f]{24}(\.[0-9a-z-]+)?")


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """An entry of a cache."""

    kind: str  # of `KINDS`
    name: str  # digest of its recipe, which reveals nothing about patients
    size: int  # bytes
    changed: float  # seconds since the epoch at which a file of it was last written


class Cache:
    """A folder of results, each under the digest of its recipe; made on the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(
        self, kind: str, recipe: Mapping[str, Any], make: Callable[[Path], None]
    ) -> tuple[Path, bool]:
        """Return the folder for a recipe, which must be JSON, and whether it was there before.

        `make` fills an empty folder; when it fails, nothing is kept.
        """
        target = self._target(kind, recipe)
        if target.is_dir():
            return target, True
        self.open_kind(kind)
        draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        draft.mkdir(mode=0o700)
        try:
            with needing_disk_space(_NO_ROOM):
                make(draft)
            try:
                draft.rename(target)
            except OSError:  # another run made it first
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return target, False

    def holds(self, kind: str, recipe: Mapping[str, Any]) -> bool:
        """Return whether there is a folder for a recipe."""
        return self._target(kind, recipe).is_dir()

    def _target(self, kind: str, recipe: Mapping[str, Any]) -> Path:
        text = json.dumps(recipe, sort_keys=True, default=str)
        return self.root / kind / hashlib.sha256(text.encode()).hexdigest()[:24]

    def recall(self, kind: str, name: str) -> bytes | None:
        """Return what `keep` has kept; None where there is nothing, or it was changed."""
        with contextlib.suppress(OSError, ValueError):
            sealed = read_regular(self.root / kind / name)
            if hashlib.sha256(sealed[_SEAL:]).digest() == sealed[:_SEAL]:
                return sealed[_SEAL:]
        return None

    def keep(self, kind: str, name: str, content: bytes) -> None:
        """Keep bytes under a name, after their SHA-256.

        Raises
        ------
        ConfigError
            The folder of the kind cannot be made.
        OSError
            The file cannot be written.
        """
        sealed = hashlib.sha256(content).digest() + content
        atomic_write_bytes(self.open_kind(kind) / name, sealed)

    def open_kind(self, kind: str) -> Path:
        """Return the subfolder of a kind; it and the root are made for their owner alone.

        Raises
        ------
        ConfigError
            It cannot be made.
        """
        assert kind in KINDS  # or it could not be cleared
        for part in (self.root, self.root / kind):
            try:
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"cache: its folder cannot be made ({error.strerror}); expected a place that "
                    "may be written to. Name another one in cache.folder."
                ) from None
        return self.root / kind

    def entries(self) -> Iterator[CacheEntry]:
        """Yield the entries kind by kind, and nothing that the cache did not make."""
        for kind, path in self._paths():
            try:
                files = [path, *path.rglob("*")] if path.is_dir() else [path]
                states = [file.lstat() for file in files]
            except OSError:  # another run is just removing it
                continue
            size = sum(s.st_size for f, s in zip(files, states, strict=True) if not f.is_dir())
            yield CacheEntry(kind, path.name, size, max(state.st_mtime for state in states))

    def remove(self, entries: Collection[CacheEntry]) -> None:
        """Remove entries.

        Raises
        ------
        ConfigError
            One of them cannot be removed.
        """
        names = {(entry.kind, entry.name) for entry in entries}
        for kind, path in self._paths():
            if (kind, path.name) not in names:
                continue
            try:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            except OSError as error:
                raise ConfigError(
                    f"cache: an entry of {kind} cannot be removed ({type(error).__name__}); "
                    "expected a folder that may be written to."
                ) from None

    def _paths(self) -> Iterator[tuple[str, Path]]:
        for kind in KINDS:
            for path in sorted((self.root / kind).glob("*")):
                if _ENTRY.fullmatch(path.name) and not path.is_symlink():
                    yield kind, path


def open_cache(folder: Path | None) -> Cache:
    """Return the cache in a folder, or the user's own for None.

    Raises
    ------
    ConfigError
        The folder is a file.
    """
    if folder is None:
        return user_cache()
    if folder.exists() and not folder.is_dir():
        raise ConfigError("cache.folder names a file; expected a folder, or a path that is free.")
    return Cache(folder)


def user_cache() -> Cache:
    """Return the cache in the user's cache folder."""
    return Cache(Path(platformdirs.user_cache_dir("ravl-med")))


def user_key() -> bytes:
    """Return the secret key of the user's pseudonyms, made at the first call.

    It lies in the user's config folder, readable by the owner alone, so that two runs give a film
    the same pseudonym and nobody else can recompute it.

    Raises
    ------
    ConfigError
        The key file is damaged, can be read by others, or cannot be written.
    """
    path = Path(platformdirs.user_config_dir("ravl-med")) / "pseudonym.key"
    try:
        if not path.exists():
            _write_key(path)
        with open_regular(path) as stream:
            others = stat.S_IMODE(os.fstat(stream.fileno()).st_mode) & 0o077
            key = bytes.fromhex(stream.read(100).decode("ascii"))
    except ValueError:
        key = b""
    except OSError as error:
        raise ConfigError(
            f"pseudonym.key cannot be kept in the user's config folder ({type(error).__name__}); "
            "expected one that may be written to. Name another in XDG_CONFIG_HOME."
        ) from None
    if len(key) != 32:
        raise ConfigError(
            "pseudonym.key in the user's config folder is not a key of 64 hex digits. Put the "
            "right file back, or delete it: films then get new pseudonyms."
        )
    if others and os.name == "posix":
        raise ConfigError(
            "pseudonym.key can be read by others, who could tell which film has which pseudonym; "
            f"expected its owner alone. Take their rights away: chmod 600 {shlex.quote(str(path))}"
        )
    return key


def _write_key(path: Path) -> None:
    """Write a new key in one step, so that no run ever reads half of one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):  # another run made it first
            os.link(draft, path)
    finally:
        draft.unlink()
