"""What every section of the config is made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
)

from ravl_med.storage.filesystems import StorageAccess
from ravl_med.storage.remote_path import FilePath, RemotePath, is_url

__all__ = ["ConfigLocation", "ConfigPath", "Section", "Share", "reached_by"]

_ROLES = {
    "manifest": "cohort.manifest",
    "roots": "cohort.roots",
    "path": "model.path",
    "weights": "model.weights",
    "shared": "cache.shared",
}
_ACCESS: ContextVar[StorageAccess] = ContextVar("access")


@contextmanager
def reached_by(access: StorageAccess) -> Iterator[None]:
    """Let every URL that is read in this context be reached so."""
    token = _ACCESS.set(access)
    try:
        yield
    finally:
        _ACCESS.reset(token)


def _resolve(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    return path if folder is None or path.is_absolute() else Path(folder) / path


def _no_url(value: Any) -> Any:
    if isinstance(value, RemotePath) or (isinstance(value, str) and is_url(value)):
        raise ValueError("a URL; expected a path, since this has to lie on this machine")
    return value


def _locate(value: Any, info: ValidationInfo) -> FilePath:
    if isinstance(value, RemotePath):
        return value
    if isinstance(value, str) and is_url(value):
        name = info.field_name or ""
        return RemotePath.parse(value, _ACCESS.get(StorageAccess()), _ROLES.get(name, name))
    if not isinstance(value, (str, Path)):
        raise ValueError(f"expected a path or a URL; got {type(value).__name__}")
    return _resolve(Path(value), info)


ConfigPath = Annotated[Path, BeforeValidator(_no_url), AfterValidator(_resolve)]
ConfigLocation = Annotated[
    FilePath, PlainValidator(_locate), PlainSerializer(str, when_used="json")
]
"""A file or folder that may lie in a storage."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A frozen part of the config that refuses keys it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )
