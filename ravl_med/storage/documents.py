"""Result types: frozen dataclasses, declared once; JSON and JSON Schema follow from their fields.

A field is written under its name, with the description that ``Field`` gives it, in the order of the
declaration; a property or a method is described by its docstring. Numbers that are not finite and
hidden counts are written as ``null``. Nothing is validated when a value is made.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_origin

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationInfo,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo

T = TypeVar("T")


class _Mark(Enum):
    HIDEABLE = "hideable"
    BY_CLASS = "by class"


Count = Annotated[int, _Mark.HIDEABLE]
"""A number of films or patients; one below 0 is hidden, since it is of too few patients."""

BY_CLASS = _Mark.BY_CLASS
"""Marks a tuple with a value for each class, which is written as an object by class."""


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _count(value: int | None) -> int | None:
    return None if value is None or value < 0 else int(value)


Number = Annotated[float | None, BeforeValidator(_number)]
_COUNT = Annotated[int | None, BeforeValidator(_count)]
_FINITE = get_args(FiniteFloat)[1]


@dataclass(frozen=True, slots=True)
class Table:
    """A member that holds a row for each class, made of fields that hold a value for each class.

    Attributes
    ----------
    row, doc : str - name and description of a row in the schema
    columns : str - as the members of `result_type`
    """

    name: str
    row: str
    doc: str
    columns: str


@dataclass(frozen=True, slots=True)
class _Declaration:
    name: str
    doc: str
    members: str = ""
    key: str = ""
    tables: tuple[Table, ...] = ()
    written: Any = None


_DECLARED: dict[type, _Declaration] = {}


@dataclass_transform(frozen_default=True, field_specifiers=(Field, dataclasses.field))
def result_type(
    name: str = "",
    members: str = "",
    *,
    doc: str = "",
    key: str = "",
    tables: tuple[Table, ...] = (),
    written: Any = None,
    eq: bool = True,
) -> Callable[[type[T]], type[T]]:
    """Make a frozen dataclass with slots of a class whose fields are described by ``Field``.

    Parameters
    ----------
    name, doc : str - in the schema, where they are not those of the class
    members : str - names of what is written, in order, where that is not every field: fields,
        properties, tables, methods (see `document_of`), and paths to them, such as
        ``cluster.rare``; ``a=b`` writes b under the name a
    key : str - a tuple of such values is written as an object, by the names that this field holds
    written : pydantic type or None - in which a value is written in place of an object
    """

    def declare(cls: type[T]) -> type[T]:
        for field, info in list(vars(cls).items()):
            if isinstance(info, FieldInfo):
                setattr(cls, field, _stored(info))
        made = dataclass(frozen=True, slots=True, eq=eq)(cls)
        default = f"{cls.__name__.removesuffix('Summary')}Document"
        _DECLARED[made] = _Declaration(
            name or default, doc or cls.__doc__ or "", members, key, tables, written
        )
        return made

    return declare


def _stored(info: FieldInfo) -> Any:
    """Return the field of a dataclass that keeps what pydantic's field says."""
    given: dict[str, Any] = {"metadata": {"info": info}}
    if info.default_factory is not None:
        given["default_factory"] = info.default_factory
    elif not info.is_required():
        given["default"] = info.default
    return dataclasses.field(**given)


def document_of(whole: Any) -> BaseModel:
    """Return what is written of a value.

    Methods that are members, of the value or of a part of it, take the whole value; its ``classes``
    name what has a value for each class.
    """
    kind: Any = type(whole)
    return _model_of(kind).model_validate(whole, context=whole)


def schema_of(kind: type) -> dict[str, Any]:
    """Return the JSON Schema of what is written of a type."""
    return _model_of(kind).model_json_schema()


def class_columns(kind: type) -> tuple[str, ...]:
    """Return the fields that hold a value for each class."""
    own = {field.name for field in dataclasses.fields(kind)}
    tables = _DECLARED[kind].tables
    return tuple(path for table in tables for _, path in _split(table.columns) if path in own)


_Get = Callable[[Any, Any], Any]  # of a value and the whole that it is a part of


@dataclass(frozen=True, slots=True)
class _Member:
    """What is written under a name: the declared type, its description, and how to read it."""

    hint: Any
    info: FieldInfo | None
    get: _Get


@functools.cache
def _model_of(kind: type) -> type[BaseModel]:
    declared = _DECLARED[kind]
    written = {name: _member(kind, path) for name, path in _split(declared.members)}
    if not written:
        fields = [f for f in dataclasses.fields(kind) if f.name != declared.key]
        written = {field.name: _member(kind, field.name) for field in fields}
    return _model(declared.name, declared.doc, written)


def _split(members: str) -> list[tuple[str, str]]:
    """Return names and paths; without a name of its own, a path has that of its last part."""
    parts = [member.rpartition("=") for member in members.split()]
    return [(name or path.rpartition(".")[2], path) for name, _, path in parts]


def _model(name: str, doc: str, members: Mapping[str, _Member]) -> type[BaseModel]:
    shown = {
        name: member
        for name, member in members.items()
        if not (member.info and member.info.exclude)
    }
    fields: dict[str, Any] = {
        name: (
            _written(member.hint),
            Field(description=member.info.description) if member.info else ...,
        )
        for name, member in shown.items()
    }

    def read(value: Any, info: ValidationInfo) -> Any:
        return {name: member.get(value, info.context) for name, member in shown.items()}

    validators: dict[str, Any] = {"read": model_validator(mode="before")(read)}
    return create_model(
        name,
        __config__=ConfigDict(frozen=True, extra="forbid", protected_namespaces=()),
        __doc__=doc,
        __validators__=validators,
        **fields,
    )


def _member(kind: type, path: str) -> _Member:
    """Find a member by its path; it is null where a value on the way is None."""
    name, _, rest = path.partition(".")
    if not rest:
        return _own_member(kind, name)
    hint = declared_types(kind)[name]
    (inner,) = (one for one in (get_args(hint) or (hint,)) if one is not types.NoneType)
    end = _member(inner, rest)

    def reach(value: Any, whole: Any) -> Any:
        held = getattr(value, name)
        return None if held is None else end.get(held, whole)

    return _Member(end.hint if inner is hint else end.hint | None, end.info, reach)


def _own_member(kind: type, name: str) -> _Member:
    for table in _DECLARED[kind].tables:
        if table.name == name:
            return _table(kind, table)
    for field in dataclasses.fields(kind):
        if field.name == name:
            info = field.metadata.get("info")
            return _Member(declared_types(kind)[name], info, lambda value, _: getattr(value, name))
    own = inspect.getattr_static(kind, name)
    if isinstance(own, property):
        return _Member(_returned(own.fget), _said(own), lambda value, _: getattr(value, name))
    return _Member(_returned(own), _said(own), lambda value, whole: getattr(value, name)(whole))


def _said(member: Any) -> FieldInfo:
    """Turn the docstring of a property or method into the description of what it returns."""
    text = (inspect.getdoc(member) or "").removeprefix("Return the ").removeprefix("Return ")
    first = text[:1] if text[1:2].isupper() else text[:1].lower()
    return FieldInfo(description=first + text[1:].rstrip("."))


def _table(kind: type, table: Table) -> _Member:
    columns = {name: _own_member(kind, path) for name, path in _split(table.columns)}
    cells = {
        name: _Member(_element(column.hint), column.info, _cell(at))
        for at, (name, column) in enumerate(columns.items())
    }
    row = _model(table.row, table.doc, cells)

    def rows(value: Any, whole: Any) -> Any:
        held = (column.get(value, whole) for column in columns.values())
        return dict(zip(whole.classes, zip(*held, strict=True), strict=True))

    return _Member(dict[str, row], FieldInfo(description="class by class"), rows)  # type: ignore[valid-type]


def _cell(at: int) -> _Get:
    return lambda row, _: row[at]


def _element(column: Any) -> Any:
    """Return the type of one value of a column."""
    if get_origin(column) is not np.ndarray:
        return get_args(column)[0]
    (number,) = get_args(get_args(column)[1])
    return Count if issubclass(number, np.integer) else float


def _written(hint: Any) -> Any:
    """Return the pydantic type in which a declared type is written."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is float:
        return Number
    if hint in _DECLARED:
        return _DECLARED[hint].written or _model_of(hint)
    if origin is Annotated:
        return _written_as_marked(inner[0], inner[1:])
    if origin in (typing.Union, types.UnionType):
        (meant,) = (one for one in inner if one is not types.NoneType)
        return _written(meant) | None
    if origin is tuple:
        return _written_tuple(inner)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        by_text = BeforeValidator(lambda held: {str(name): one for name, one in held.items()})
        return Annotated[dict[str, _written(inner[1])], by_text]  # type: ignore[misc]
    return hint


def _written_as_marked(hint: Any, marks: tuple[Any, ...]) -> Any:
    if _Mark.HIDEABLE in marks:
        return _COUNT
    if _FINITE in marks:
        return FiniteFloat
    if _Mark.BY_CLASS in marks:
        return _by_name(
            get_args(hint)[0], lambda values, whole: zip(whole.classes, values, strict=True)
        )
    return _written(hint)


def _written_tuple(inner: tuple[Any, ...]) -> Any:
    if len(inner) != 2 or inner[1] is not Ellipsis:
        return tuple[tuple(map(_written, inner))]  # type: ignore[misc]
    key = _DECLARED[inner[0]].key if inner[0] in _DECLARED else ""
    if key:
        return _by_name(inner[0], lambda values, _: ((getattr(one, key), one) for one in values))
    return list[_written(inner[0])]  # type: ignore[misc]


def _by_name(hint: Any, named: Callable[[Any, Any], Iterable[tuple[str, Any]]]) -> Any:
    def read(values: Any, info: ValidationInfo) -> Any:
        return dict(named(values, info.context))

    return Annotated[dict[str, _written(hint)], BeforeValidator(read)]  # type: ignore[misc]


def _returned(function: Any) -> Any:
    """Return the type that a function returns; those of its parameters need not be known here."""
    holder = type("", (), {"__annotations__": {"it": function.__annotations__["return"]}})
    holder.__module__ = function.__module__
    return typing.get_type_hints(holder, include_extras=True)["it"]


@functools.cache
def declared_types(kind: type) -> dict[str, Any]:
    """Return the types of the fields of a dataclass, with what they are annotated with."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
