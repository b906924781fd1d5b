"""Objects of a storage that fsspec opens, used like a `Path`; its failures become our errors.

No credentials are passed to a storage: its library finds them in the environment, a profile or the
machine's role. No message holds a URL, since the names of objects may name patients.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.callbacks import Callback

from ravl_med.errors import DISK_FULL, ConfigError, RavlMedError, StorageError

AT_ONCE = 32
"""Requests in flight when threads look at many objects."""

_S3 = ("s3", "s3a")
_LIBRARIES = {
    **dict.fromkeys(_S3, "s3fs (pip install '.[s3]')"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs (pip install gcsfs)"),
    **dict.fromkeys(("abfs", "abfss", "az"), "adlfs (pip install adlfs)"),
}
_LACKS = ("Credential", "Profile", "SSO", "Token", "Auth")  # in names of errors of the libraries
_BROKEN = ("Connect", "HTTPClient", "Payload", "IncompleteRead")
_SLOWEST = 1e6  # bytes a second below which a storage counts as silent


@dataclass(frozen=True, slots=True)
class StorageAccess:
    """How a storage is reached; none of it is secret."""

    endpoint: str | None = None  # URL of an S3 that is not Amazon's; None: from the environment
    timeout: float = 20.0  # seconds
    retries: int = 3


class TooLargeError(Exception):
    """An object is larger than it may be: its size in bytes, as far as it is known."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def _named(error: Exception, protocol: str, access: StorageAccess, role: str) -> RavlMedError:
    name = type(error).__name__
    kinds = [kind.__name__ for kind in type(error).__mro__]
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return ConfigError(
            f"{role}: no room for a copy of an object; expected some in the temporary folder. Make "
            "room, or name another one in TMPDIR."
        )
    if any(part in kind for kind in kinds for part in _LACKS):
        return ConfigError(
            f"{role}: no credentials for the storage ({protocol}://, {name}); expected some where "
            "its library looks for them: for S3 AWS_PROFILE, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or the machine's role."
        )
    if "ParamValidation" in name:
        return ConfigError(f"{role}: no bucket can be called so; expected a name that S3 allows.")
    if any("Timeout" in kind for kind in kinds):
        what = f"gives no answer within {access.timeout:g} s (storage.timeout)"
    elif any(part in kind for kind in kinds for part in _BROKEN):
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
    """Return the file system of a protocol; each process has its own."""
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


SCHEMES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory")
"""Protocols of storages that may be named; the last is fsspec's own, in the memory of a process."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOCAL = ("file://", "local://")
_MARKS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified",
          "updated", "created")  # fmt: skip
_LARGEST = 10_000_000_000  # bytes that a timeout allows for where their number is not known


def is_url(text: str) -> bool:
    """Return whether a text is a URL, and not a path of this machine."""
    return _URL.match(text) is not None


@dataclass(frozen=True, slots=True)
class RemotePath:
    """The place of an object, or of a folder of objects, in a storage.

    It holds no connection, so another process that gets it connects by itself.
    """

    url: str  # without "." and ".." and a slash at its end; never printed
    access: StorageAccess = field(default_factory=StorageAccess, compare=False)
    role: str = field(default="storage", compare=False)  # where it was named, for messages

    @classmethod
    def parse(cls, text: str, access: StorageAccess, role: str) -> FilePath:
        """Read a URL; one of this machine becomes a `Path`.

        Raises
        ------
        ValueError
            It is of no storage that may be named, holds a password, or names nothing.
        """
        if text.lower().startswith(_LOCAL):
            return Path(text.partition("://")[2])
        scheme = text.partition("://")[0].lower()
        if scheme not in SCHEMES:  # a web server would be told what is asked for
            raise ValueError(f"{scheme[:20]}:// is no storage; expected s3://, gs:// or abfs://")
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
        """Return the folder of the place; a bucket lies in itself."""
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
        """Return the place relative to a folder (ValueError where it does not lie there)."""
        return PurePosixPath(self.url).relative_to(str(folder))

    def lies_below(self, folder: RemotePath) -> bool:
        """Return whether it lies in a folder, however a server reads percent signs."""
        return all(
            read(self.url).startswith(f"{read(folder.url)}/")
            for read in (str, lambda url: _tidy(unquote(url)))
        )

    def is_file(self) -> bool:
        """Return whether there is such an object."""
        try:
            return bool(self._ask("info")["type"] == "file")
        except FileNotFoundError:
            return False

    def stamp(self) -> str:
        """Return the size of the object, and a mark that changes with its content.

        Raises
        ------
        FileNotFoundError
        ConfigError, StorageError
            See `_ask`; the same holds for the methods below.
        """
        return _stamp(self._ask("info"))

    def entries(self) -> dict[str, int | None]:
        """Return the sizes in bytes of the objects in the folder, by name; None for a folder."""
        return {name: size for name, size, _ in self._listed()}

    def stamps(self) -> dict[str, str]:
        """Return the stamp of each object in the folder."""
        return {name: stamp for name, size, stamp in self._listed() if size is not None}

    def read_bytes(self, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes of the object, or of a part that ends within it."""
        size = _LARGEST if end is None else end - (start or 0)
        content: bytes = self._ask("cat_file", start=start, end=end, size=size)
        return content

    def write_bytes(self, content: bytes) -> None:
        """Write the object, in one step where the storage can."""
        self._ask("pipe_file", content, size=len(content))

    def fetch(self, target: Path, most: int | None = None) -> None:
        """Copy the object, at most `most` bytes, into a file for its owner alone.

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

    def _ask(self, method: str, *given: Any, size: int = 0, **more: Any) -> Any:
        """Call a method of the storage's file system; `size`, bytes to move, extends the timeout.

        Raises
        ------
        FileNotFoundError, TooLargeError
        ConfigError
            The library is missing, access is denied, credentials are missing, or this machine has
            no room for a copy.
        StorageError
            The storage gives no answer, cannot be reached, or answers with an error.
        """
        try:
            storage, access = _opened(self.protocol, self.access, os.getpid()), self.access
            if storage.async_impl:  # a body that is waiting to be sent has no time limit of its own
                more["timeout"] = 2.0 * (1 + access.retries) * access.timeout + size / _SLOWEST
            return getattr(storage, method)(self.url, *given, **more)
        except (RavlMedError, FileNotFoundError, TooLargeError, MemoryError):
            raise
        except (IsADirectoryError, NotADirectoryError):
            raise FileNotFoundError(errno.ENOENT, "no such object") from None
        except PermissionError:
            raise ConfigError(
                f"{self.role}: the storage ({self.protocol}://) denies access; expected "
                "credentials that may read there, list, and write where cache.shared lies. Check "
                "the environment (for S3 AWS_PROFILE, or AWS_ACCESS_KEY_ID and its like), and "
                "whether they have run out."
            ) from None
        except Exception as error:  # each library has a tree of its own
            raise _named(error, self.protocol, self.access, self.role) from None

    def _listed(self) -> list[tuple[str, int | None, str]]:
        found = self._ask("ls", detail=True)
        named = [(str(one["name"]).rstrip("/").rpartition("/")[2], one) for one in found]
        return sorted(
            (name, int(one["size"] or 0) if one["type"] == "file" else None, _stamp(one))
            for name, one in named
            if name
        )


FilePath = Path | RemotePath
"""A file or folder: of this machine, or in a storage."""


class _Bound(Callback):  # type: ignore[misc]
    """Stops a copy that exceeds its limit."""

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


def _stamp(info: dict[str, Any]) -> str:
    mark = next((info[name] for name in _MARKS if info.get(name)), "")
    return f"{info.get('size')} {mark}"


def _tidy(url: str) -> str:
    """Resolve ``.``, ``..`` and blank parts of a URL; nothing lies above its bucket."""
    protocol, _, rest = url.partition("://")
    parts: list[str] = []
    for part in rest.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return f"{protocol.lower()}://{'/'.join(parts)}"
