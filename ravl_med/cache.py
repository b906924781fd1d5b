"""Folders that are made once and found again: content-addressed, owner-only, never half made."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import platformdirs

from ravl_med.errors import ConfigError

__all__ = ["Cache", "user_cache", "user_key"]


class Cache:
    """A folder of results, each under the digest of what made it.

    Parameters
    ----------
    root : Path - made with owner-only rights when it is first written to
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(
        self, kind: str, recipe: Mapping[str, Any], make: Callable[[Path], None]
    ) -> tuple[Path, bool]:
        """Return the folder for a recipe, making it when it is not there.

        Parameters
        ----------
        kind : str - name of the subfolder
        recipe : mapping - everything that the content depends on; must be JSON
        make : callable - fills an empty folder; when it fails, nothing is kept

        Returns
        -------
        folder : Path
        found : bool - it was there before
        """
        text = json.dumps(recipe, sort_keys=True, default=str)
        target = self.root / kind / hashlib.sha256(text.encode()).hexdigest()[:24]
        if target.is_dir():
            return target, True
        for part in (self.root, self.root / kind):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        draft.mkdir(mode=0o700)
        try:
            make(draft)
            try:
                draft.rename(target)
            except OSError:  # another run made it first
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return target, False


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
        The key file is damaged.
    """
    path = Path(platformdirs.user_config_dir("ravl-med")) / "pseudonym.key"
    if not path.exists():
        _write_key(path)
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigError(
            "pseudonym.key in the user's config folder is not a key of 64 hex digits. Put the "
            "right file back, or delete it: films then get new pseudonyms."
        )
    return key


def _write_key(path: Path) -> None:
    """Put a new key at the path in one step, so that no run ever reads half of one."""
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
