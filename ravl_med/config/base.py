"""The base of every section of the config, and wrong values explained in one line each."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from ravl_med.storage.remote import FilePath, RemotePath, StorageAccess, is_url

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
    """Give every URL that is read in this context its access."""
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
    if not isinstance(value, (str, Path)):
        got = "null" if value is None else type(value).__name__
        raise ValueError(f"expected the path of a file or folder; got {got}")
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

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse ``true`` for a number, which Python takes for 1."""
        listed = value if isinstance(value, (list, tuple)) else (value,)
        if any(isinstance(one, bool) for one in listed):
            kinds = _kinds_of(cls.model_fields[str(info.field_name)].annotation)
            if bool not in kinds and kinds & {int, float}:
                raise ValueError("a truth value; expected a number")
        return value


def _kinds_of(annotation: Any) -> set[Any]:
    """Return every plain type that stands in an annotation."""
    found = {annotation} if isinstance(annotation, type) else set()
    return found.union(*(_kinds_of(part) for part in get_args(annotation)))


_LONGEST = 80  # characters of a value that are repeated


DEVICE = r"^(auto|cpu|mps|cuda(:\d+)?)$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_PATTERNS = {
    DEVICE: "auto, cpu, cuda, cuda:0 or mps",
    NAME: "at most 64 letters, digits, dots, hyphens or underscores, the first a letter or digit",
}
"""What is expected in words."""


def explain_problems(
    error: ValidationError, model: type[BaseModel], names: Mapping[str, str] | None = None
) -> list[str]:
    """Return one line a problem of `model`: where, what, got, cure.

    `names` are the file's own names of keys in the outermost section.
    """
    return [_explain(issue, model, names or {}) for issue in error.errors()]


def _explain(issue: Any, model: type[BaseModel], names: Mapping[str, str]) -> str:
    parts = [str(part) for part in issue["loc"]]
    where = ".".join([names.get(part, part) if at == 0 else part for at, part in enumerate(parts)])
    where = where[:_LONGEST]
    if issue["type"] == "extra_forbidden":
        known = _known_keys(model, issue["loc"][:-1])
        near = difflib.get_close_matches(parts[-1], known, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known keys: {', '.join(known)}."
        return f"unknown key {where!r}. {hint}"
    where = f"{where}: " if where else ""
    if issue["type"] == "string_pattern_mismatch" and issue["ctx"]["pattern"] in _PATTERNS:
        expected = _PATTERNS[issue["ctx"]["pattern"]]
        return f"{where}expected {expected}; got {repr(issue['input'])[:_LONGEST]}."
    if issue["type"] == "model_type":
        return f"{where}expected a section of keys; got {type(issue['input']).__name__}."
    if issue["type"] == "tuple_type":
        return f"{where}expected a list, as [{str(issue['input'])[:_LONGEST]}]."
    message = (
        issue["msg"].replace("Tuple should", "The list should").replace(" after validation", "")
    )
    message = message.removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if issue["type"] in ("missing", "value_error"):
        return f"{where}{message}."
    return f"{where}{message}; got {repr(issue['input'])[:_LONGEST]}."


def _known_keys(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """Return the names of the fields at a place of a model, through mappings of sections."""
    for part in location:
        if get_origin(model) is dict:  # a mapping of sections, left by a key of the user's
            model = get_args(model)[1]
        else:
            model = model.model_fields[str(part)].annotation
            if type(None) in get_args(model):  # "Section | None"
                model = get_args(model)[0]
    return [field.alias or name for name, field in model.model_fields.items()]
