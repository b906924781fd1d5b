"""A result as files, so that its report can be drawn again without model or cohort.

Frozen dataclasses become JSON, their arrays an ``.npz`` beside it; both are read back by the types
that the dataclasses declare. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin

import numpy as np
from numpy.typing import NDArray

from ravl_med.errors import DataError

__all__ = ["read_archive", "write_archive"]

T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]

_JSON, _ARRAYS = "archive.json", "archive.npz"
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def write_archive(value: Any, folder: Path) -> None:
    """Write a dataclass and all that it holds.

    Parameters
    ----------
    value : dataclass instance - of dataclasses, tuples, mappings, arrays, numbers, texts and None
    folder : Path - where ``archive.json`` and ``archive.npz`` are written; the same value gives the
        same JSON
    """
    arrays: Arrays = {}
    text = json.dumps(_encode(value, arrays), allow_nan=False, sort_keys=True)
    (folder / _JSON).write_text(text + "\n", encoding="utf-8")
    np.savez_compressed(folder / _ARRAYS, **cast("dict[str, Any]", arrays))


_LATER: Mapping[str, frozenset[str]] = {
    "AuditResult": frozenset({"left_edges", "burned_in"}),
    "CohortSummary": frozenset({"classes_by_attribute"}),
    "SpuriousCorrelation": frozenset({"labels"}),
}
"""Fields that came after the first archives were written, by class; these take their defaults."""


def read_archive(kind: type[T], folder: Path) -> T:
    """Read what `write_archive` wrote.

    Parameters
    ----------
    kind : type - of the dataclass
    folder : Path

    Raises
    ------
    DataError
        A file is missing, damaged, or of another kind of dataclass. A field that the archive lacks,
        since it came later, takes its default.
    """
    try:
        data = json.loads((folder / _JSON).read_text(encoding="utf-8"))
        with np.load(folder / _ARRAYS, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        value: T = _decode(kind, data, arrays)
    except FileNotFoundError:
        raise DataError(
            "the run folder has no archive in private/; it was made by an earlier version, or "
            "private/ was removed. Audit again."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the archive in private/ cannot be read ({type(error).__name__}); it is damaged or of "
            "another version. Audit again."
        ) from None
    return value


def _encode(value: Any, arrays: Arrays) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _encode(getattr(value, field.name), arrays)
            for field in dataclasses.fields(value)
        }
    match value:
        case np.ndarray():
            name = f"a{len(arrays)}"
            arrays[name] = value
            return {"array": name}
        case Mapping():  # keys need not be text
            return [[_encode(k, arrays), _encode(v, arrays)] for k, v in value.items()]
        case tuple() | list():
            return [_encode(entry, arrays) for entry in value]
        case bool() | str() | None:
            return value
        case np.generic():
            return _encode(value.item(), arrays)
        case int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
    raise TypeError(f"{type(value).__name__} cannot be archived")


def _decode(kind: Any, data: Any, arrays: Arrays) -> Any:
    """Turn JSON back into a value of a declared type."""
    if kind is Any:  # a setting of the config, which came from JSON
        return data
    origin, inner = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, data, arrays)
    if kind is np.ndarray or origin is np.ndarray:
        array = arrays[data["array"]]
        array.flags.writeable = False
        return array
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in inner:
            return None
        (meant,) = [one for one in inner if one is not type(None)]
        return _decode(meant, data, arrays)
    if origin is tuple:
        return _decode_tuple(inner, data, arrays)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return {_decode(inner[0], k, arrays): _decode(inner[1], v, arrays) for k, v in data}
    if origin is typing.Literal:
        if data not in inner:
            raise ValueError(data)
        return data
    if kind is float:
        return _NOT_FINITE[data] if isinstance(data, str) else float(data)
    if kind in (int, str, bool) and type(data) is kind:
        return data
    raise TypeError(str(kind))


def _decode_dataclass(kind: Any, data: Any, arrays: Arrays) -> Any:
    hints = _hints(kind)
    if not _required(kind) <= set(data) <= set(hints):
        raise ValueError("fields of another version")
    return kind(**{name: _decode(hints[name], entry, arrays) for name, entry in data.items()})


def _decode_tuple(inner: tuple[Any, ...], data: Any, arrays: Arrays) -> tuple[Any, ...]:
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(_decode(inner[0], entry, arrays) for entry in data)
    return tuple(_decode(one, entry, arrays) for one, entry in zip(inner, data, strict=True))


@functools.cache
def _required(kind: Any) -> frozenset[str]:
    """Names of the fields of a dataclass that every archive has.

    A default alone excuses nothing: without its patients, an arm would be hidden by its films.
    """
    names = {field.name for field in dataclasses.fields(kind)}
    return frozenset(names - _LATER.get(kind.__name__, frozenset()))


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """Types of the fields of a dataclass, its forward references resolved."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
