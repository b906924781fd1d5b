"""Storages that fsspec opens, and what goes wrong with them as errors of ours.

Credentials are never told to a storage here: its library finds them where it always does, in the
environment, a profile or the machine's role.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import fsspec

from ravl_med.errors import ConfigError, RavlMedError, StorageError
from ravl_med.storage.disk_room import FULL

__all__ = ["AT_ONCE", "StorageAccess", "TooLargeError", "ask", "naming_faults"]

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
    access : StorageAccess
    method : str
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
    protocol : str
    access : StorageAccess
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
