"""Storages that fsspec opens, and what goes wrong with them as errors of ours.

Credentials are never told to a storage here: its library finds them where it always does, in the
environment, a profile or the machine's role.

Where an object lies, used like a `Path`: `name`, `parent`, `/`; and what can be done with it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.callbacks import Callback

from ravl_med.errors import ConfigError, RavlMedError, StorageError
from ravl_med.storage.disk_room import FULL

AT_ONCE = 32
"""Requests at once, of threads that look at many objects."""

_S3 = ("s3", "s3a")
_LIBRARIES = {
    **dict.fromkeys(_S3, "s3fs (pip install 'ravl-med[s3]')"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs (pip install gcsfs)"),
    **dict.fromkeys(("abfs", "abfss", "az"), "adlfs (pip install adlfs)"),
}
_LACKS = ("Credential", "Profile", "SSO", "Token", "Auth")  # in names of errors of the libraries
_BROKEN = ("Connect", "HTTPClient", "Payload", "IncompleteRead")
_SLOWEST = 1e6  # bytes a second below which a storage counts as silent


@dataclass(frozen=True, slots=True)
class StorageAccess:
    """How a storage is reached; nothing of it is secret.

    Attributes
    ----------
    endpoint : str or None - URL of an S3 that is not Amazon's; None: what the environment says
    timeout : float - seconds that an answer may take
    retries : int - times that a request is tried again
    """

    endpoint: str | None = None
    timeout: float = 20.0
    retries: int = 3


class TooLargeError(Exception):
    """An object is larger than it may be: its size in bytes, as far as it is known."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def ask(protocol: str, access: StorageAccess, method: str, *told: Any, **more: Any) -> Any:
    """Ask a storage something, by the name of a method of fsspec's file systems.

    Parameters
    ----------
    protocol : str - such as ``s3``
    told, more - its arguments; `size`, bytes that are moved, makes patience and is not passed on

    Raises
    ------
    ConfigError
        Its library is missing, or nothing opens such a protocol.
    Exception
        Whatever the library raises, see `naming_faults`.
    """
    storage = _opened(protocol, access, os.getpid())
    size = more.pop("size", 0)
    if storage.async_impl:  # a body that is waiting to be sent has no time limit of its own
        more["timeout"] = 2.0 * (1 + access.retries) * access.timeout + size / _SLOWEST
    return getattr(storage, method)(*told, **more)


@contextmanager
def naming_faults(protocol: str, access: StorageAccess, role: str) -> Iterator[None]:
    """Turn what a storage raises into an error of ours; what is not there stays FileNotFoundError.

    Parameters
    ----------
    role : str - what led to the object, such as ``cohort.manifest``; its name is never told

    Raises
    ------
    ConfigError
        Access is denied, credentials are missing, or this machine has no room for a copy.
    StorageError
        The storage gives no answer, cannot be reached, or answers with an error.
    """
    try:
        yield
    except (RavlMedError, FileNotFoundError, TooLargeError, MemoryError):
        raise
    except (IsADirectoryError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, "no such object") from None
    except PermissionError:
        raise ConfigError(
            f"{role}: the storage ({protocol}://) denies access; expected credentials that may "
            "read there, list, and write where cache.shared lies. Check the environment (for S3 "
            "AWS_PROFILE, or AWS_ACCESS_KEY_ID and its like), and whether they have run out."
        ) from None
    except Exception as error:  # each library has a tree of its own
        raise _named(error, protocol, access, role) from None


def _named(error: Exception, protocol: str, access: StorageAccess, role: str) -> RavlMedError:
    name = type(error).__name__
    kinds = [kind.__name__ for kind in type(error).__mro__]
    if isinstance(error, OSError) and error.errno in FULL:
        return ConfigError(
            f"{role}: no room for a copy of an object; expected some in the temporary folder. Make "
            "room, or name another one in TMPDIR."
        )
    if any(word in kind for kind in kinds for word in _LACKS):
        return ConfigError(
            f"{role}: no credentials for the storage ({protocol}://, {name}); expected some where "
            "its library looks for them: for S3 AWS_PROFILE, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or the machine's role."
        )
    if "ParamValidation" in name:
        return ConfigError(f"{role}: no bucket can be called so; expected a name that S3 allows.")
    if any("Timeout" in kind for kind in kinds):
        what = f"gives no answer within {access.timeout:g} s (storage.timeout)"
    elif any(word in kind for kind in kinds for word in _BROKEN):
        what = "cannot be reached, or is gone"
    else:
        what = "answers with an error"
    attempts = f"{1 + access.retries} attempt{'s' if access.retries else ''}"
    return StorageError(
        f"{role}: the storage ({protocol}://) {what} ({name}), after {attempts} "
        "(storage.retries); expected one that answers. Check storage.endpoint and the network. "
        "What is done is kept: run again, and it goes on from there."
    )


@lru_cache(maxsize=16)
def _opened(protocol: str, access: StorageAccess, process: int) -> Any:
    """Return the file system of a protocol; one for each process."""
    try:
        kind: Any = fsspec.get_filesystem_class(protocol)
    except ImportError:
        library = _LIBRARIES.get(protocol, "a library")
        raise ConfigError(
            f"{protocol}:// needs {library}, which is not installed; expected it. Install it, or "
            "name a folder of this machine."
        ) from None
    except ValueError:
        raise ConfigError(
            f"{protocol[:20]!r} is no storage that fsspec knows; expected s3, gs, abfs or another "
            "one of its protocols."
        ) from None
    storage = kind(skip_instance_cache=True, use_listings_cache=False, **_options(protocol, access))
    if protocol in _S3:  # one attempt more for what breaks off in the middle
        storage.retries = min(2, 1 + access.retries)
    return storage


def _options(protocol: str, access: StorageAccess) -> dict[str, Any]:
    if protocol not in _S3:
        return {}
    settings = {
        "connect_timeout": access.timeout,
        "read_timeout": access.timeout,
        "retries": {"total_max_attempts": 1 + access.retries, "mode": "standard"},
        "max_pool_connections": AT_ONCE,
    }
    return {"endpoint_url": access.endpoint, "config_kwargs": settings}


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOCAL = ("file://", "local://")
_MARKS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified",
          "updated", "created")  # fmt: skip
_LARGEST = 10_000_000_000  # bytes that a storage is waited for where nobody says how many


def is_url(text: str) -> bool:
    """Tell whether a text is a URL, and no path of this machine."""
    return _URL.match(text) is not None


@dataclass(frozen=True, slots=True)
class RemotePath:
    """Place of an object, or of a folder of objects, in a storage.

    It holds no connection: what is sent to another process connects there by itself.

    Attributes
    ----------
    url : str - without ``.``, ``..`` and a slash at its end; never printed, keys name patients
    role : str - what led here, for messages
    """

    url: str
    access: StorageAccess = field(default_factory=StorageAccess, compare=False)
    role: str = field(default="storage", compare=False)

    @classmethod
    def parse(cls, text: str, access: StorageAccess, role: str) -> FilePath:
        """Read a URL; one of this machine becomes a `Path`.

        Raises
        ------
        ValueError
            It holds a password, or names nothing.
        """
        if text.lower().startswith(_LOCAL):
            return Path(text.partition("://")[2])
        if ":" in (urlsplit(text).netloc.rpartition("@")[0]):
            raise ValueError("the URL holds a password; credentials come from the environment")
        found = cls(_tidy(text), access, role)
        if not found.name:
            raise ValueError("the URL names nothing; expected a bucket and what lies in it")
        return found

    @property
    def protocol(self) -> str:
        """Name of the storage's protocol, such as ``s3``."""
        return self.url.partition("://")[0]

    @property
    def name(self) -> str:
        """Last part of the place."""
        return self.url.partition("://")[2].rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Ending of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """Folder that it lies in; a bucket lies in itself."""
        above = self.url.rpartition("/")[0]
        return self if above.endswith("/") else replace(self, url=above)

    def __truediv__(self, name: str) -> RemotePath:
        return replace(self, url=_tidy(f"{self.url}/{name}"))

    def __str__(self) -> str:
        return self.url

    def as_posix(self) -> str:
        """Return the URL."""
        return self.url

    def relative_to(self, folder: object) -> PurePosixPath:
        """Return the place as seen from a folder.

        Raises
        ------
        ValueError
            It does not lie there.
        """
        return PurePosixPath(self.url).relative_to(str(folder))

    def lies_below(self, folder: RemotePath) -> bool:
        """Tell whether it lies in a folder, however a server reads percent signs."""
        return all(
            read(self.url).startswith(f"{read(folder.url)}/")
            for read in (str, lambda url: _tidy(unquote(url)))
        )

    def is_file(self) -> bool:
        """Tell whether there is such an object."""
        try:
            return bool(self._ask("info")["type"] == "file")
        except FileNotFoundError:
            return False

    def stamp(self) -> str:
        """Return the size of the object, and what changes with its content.

        Raises
        ------
        FileNotFoundError
        ConfigError, StorageError
            See `naming_faults`; so in every method below.
        """
        return _stamp(self._ask("info"))

    def entries(self) -> dict[str, int | None]:
        """Return what lies in the folder, with sizes in bytes; None: a folder."""
        return {name: None if size is None else size for name, size, _ in self._listed()}

    def stamps(self) -> dict[str, str]:
        """Return the stamp of each object in the folder."""
        return {name: stamp for name, size, stamp in self._listed() if size is not None}

    def read_bytes(self, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes of the object, or a part of them that is not beyond its end."""
        size = _LARGEST if end is None else end - (start or 0)
        content: bytes = self._ask("cat_file", start=start, end=end, size=size)
        return content

    def write_bytes(self, content: bytes) -> None:
        """Write the object, in one step where the storage has such."""
        self._ask("pipe_file", content, size=len(content))

    def fetch(self, target: Path, most: int | None = None) -> None:
        """Copy the object into a file that its owner alone may read.

        Parameters
        ----------
        target : Path - is made, or written over
        most : int or None - bytes that it may have

        Raises
        ------
        FileNotFoundError, TooLargeError
        """
        target.touch(mode=0o600)
        bound = _Bound(most)
        self._ask("get_file", str(target), callback=bound, size=most or _LARGEST)
        size = target.stat().st_size
        bound.check(size)
        if bound.size is not None and size != bound.size:
            raise StorageError(
                f"{self.role}: an object arrived with {size} of {bound.size} bytes; expected all. "
                "What is done is kept: run again, and it goes on from there."
            )

    def _ask(self, method: str, *told: Any, **more: Any) -> Any:
        with naming_faults(self.protocol, self.access, self.role):
            return ask(self.protocol, self.access, method, self.url, *told, **more)

    def _listed(self) -> list[tuple[str, int | None, str]]:
        found = self._ask("ls", detail=True)
        told = [(str(one["name"]).rstrip("/").rpartition("/")[2], one) for one in found]
        return sorted(
            (name, int(one["size"] or 0) if one["type"] == "file" else None, _stamp(one))
            for name, one in told
            if name
        )


FilePath = Path | RemotePath
"""A file or folder: of this machine, or in a storage."""


class _Bound(Callback):  # type: ignore[misc]
    """Stops a copy that grows too large."""

    def __init__(self, most: int | None) -> None:
        super().__init__()
        self._most, self._copied = most, 0

    def set_size(self, size: int | None) -> None:
        self.size = size
        self.check(size or 0)

    def relative_update(self, inc: int = 1) -> None:
        self._copied += inc
        self.check(self._copied)

    def check(self, size: int) -> None:
        if self._most is not None and size > self._most:
            raise TooLargeError(size)


def _stamp(told: dict[str, Any]) -> str:
    mark = next((told[name] for name in _MARKS if told.get(name)), "")
    return f"{told.get('size')} {mark}"


def _tidy(url: str) -> str:
    """Take ``.``, ``..`` and blank parts out of a URL; above its bucket there is nothing."""
    protocol, _, rest = url.partition("://")
    parts: list[str] = []
    for part in rest.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return f"{protocol.lower()}://{'/'.join(parts)}"
