"""The reference of the config, off its models: what every key takes, default and meaning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import BaseModel, PlainSerializer
from pydantic.fields import FieldInfo

from ravl_med.config.loading import Config

_HEAD = "| key | takes | default | meaning |\n|---|---|---|---|"
_NAMES = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text", Path: "path"}
_SHOWN = 4  # items of a default that is a list

_Row = tuple[str, str, str, str]


def config_reference() -> str:
    """Return the reference as Markdown, a table for each section."""
    parts = [f"{_HEAD}\n{_lines(_rows(Config, '', nested=False))}"]
    for name, field in Config.model_fields.items():
        section = _section(field.annotation)
        if section is not None:
            parts.append(f"### {name}\n\n{_summary(section)}")
            parts.append(f"{_HEAD}\n{_lines(_rows(section, f'{name}.'))}")
    return "\n\n".join(parts) + "\n"


def _lines(rows: Iterator[_Row]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _rows(section: type[BaseModel], path: str, *, nested: bool = True) -> Iterator[_Row]:
    """Yield a row for each key of a section, its own before inherited ones, and of those in it."""
    own = section.__annotations__
    for name, field in sorted(section.model_fields.items(), key=lambda one: one[0] not in own):
        inner, named = _section(field.annotation), get_origin(field.annotation) is dict
        optional = NoneType in get_args(field.annotation)
        if inner is None or named or optional:
            taken = _taken(field.annotation, field.metadata)
            meaning = field.description or (_summary(inner) if inner else "")
            yield f"`{path}{name}`", f"{taken}{' or `null`' * optional}", _default(field), meaning
        if inner is not None and nested:
            yield from _rows(inner, f"{path}{name}.{'NAME.' * named}")


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field holds: itself, or null, or under names of the user's."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _summary(section: type[BaseModel]) -> str:
    return " ".join((section.__doc__ or "").replace("``", "`").split())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return f"`{_written(field.get_default(call_default_factory=True))}`"


def _written(value: Any) -> str:
    """Write a default as YAML does; of a long list its beginning."""
    if isinstance(value, tuple):
        shown = [_written(one) for one in value[:_SHOWN]]
        return f"[{', '.join([*shown, *['…'] * (len(value) > _SHOWN)])}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = f"{value:.9g}" if isinstance(value, float) else str(value)
    return f'"{text}"' if isinstance(value, str) and "{" in text else text


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.9g}"


def _taken(annotation: Any, metadata: Sequence[Any]) -> str:
    """Return in words what a field takes, with its bounds."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if any(isinstance(one, PlainSerializer) for one in metadata):  # `ConfigLocation`
        return "path or URL"
    if origin is Annotated:
        return _taken(parts[0], (*parts[1:], *metadata))
    if origin in (Union, UnionType):
        return " or ".join(_taken(part, metadata) for part in parts if part is not NoneType)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in parts)
    if origin is dict:
        return f"mapping of {_taken(parts[0], ())} to {_taken(parts[1], ())}"
    if origin is tuple:
        kinds = dict.fromkeys(_taken(part, ()) for part in parts if part is not Ellipsis)
        count = "list" if Ellipsis in parts else f"list of {len(parts)}"
        return f"{count}: {'; '.join(kinds)}"
    return _NAMES.get(annotation, "section") + _bounds(metadata)


def _bounds(metadata: Sequence[Any]) -> str:
    """Return the bounds of a number in words."""
    flat = [one for own in metadata for one in getattr(own, "metadata", (own,))]
    said = {type(one): one for one in flat}
    words = []
    if Ge in said and Le in said:
        words.append(f"{_number(said[Ge].ge)} to {_number(said[Le].le)}")
    else:
        for kind, text in ((Ge, "at least"), (Gt, "above"), (Le, "at most"), (Lt, "below")):
            if kind in said:
                words.append(f"{text} {_number(getattr(said[kind], kind.__name__.lower()))}")
    if MultipleOf in said:
        words.append(f"in steps of {said[MultipleOf].multiple_of}")
    return "".join(f", {one}" for one in words)
