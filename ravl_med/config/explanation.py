"""What pydantic says of a wrong value, as one clear line: where, what, got, cure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

__all__ = ["explain_problems"]

_LONGEST = 80  # characters of a value that are repeated


def explain_problems(
    error: ValidationError, model: type[BaseModel], names: Mapping[str, str] | None = None
) -> list[str]:
    """Return one line a problem.

    Parameters
    ----------
    error : ValidationError - of `model`
    model : type of BaseModel
    names : mapping of str to str or None - what the file calls keys of the outermost section
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
    if issue["type"] == "model_type":
        return f"{where}expected a section of keys; got {type(issue['input']).__name__}."
    message = issue["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if issue["type"] in ("missing", "value_error"):
        return f"{where}{message}."
    return f"{where}{message}; got {repr(issue['input'])[:_LONGEST]}."


def _known_keys(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields at a place of a model, walking through mappings of sections."""
    for part in location:
        if get_origin(model) is dict:  # a mapping of sections, left by a key of the user's
            model = get_args(model)[1]
        else:
            model = model.model_fields[str(part)].annotation
            if type(None) in get_args(model):  # "Section | None"
                model = get_args(model)[0]
    return [field.alias or name for name, field in model.model_fields.items()]
