"""What is written of a result follows from the fields of its type."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Literal

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, ValidationError

from ravl_med.storage.documents import (
    BY_CLASS,
    Count,
    Table,
    class_columns,
    declared_types,
    document_of,
    result_type,
    schema_of,
)


@result_type(key="name")
class Part:
    """A part."""

    name: str
    gap: float = Field(description="a gap; null: none")
    films: Count = Field(default=3, description="of the part")
    patients: int | None = Field(default=None, exclude=True, description="behind them")


@result_type(
    "CellsDocument",
    "overall rows",
    tables=(Table("rows", row="RowDocument", doc="A class.", columns="n share=shares twice"),),
    eq=False,
)
class Cells:
    """Cells by class."""

    overall: float
    n: NDArray[np.int64] = Field(description="films")
    shares: tuple[float, ...] = Field(description="of the films")

    @property
    def twice(self) -> NDArray[np.float64]:
        """Twice the films."""
        return 2.0 * self.n


@result_type(
    "WholeDocument",
    "first=title parts cells.rows cells.overall maybe.gap by_class left greeting status",
    doc="A whole.",
    eq=False,
)
class Whole:
    """The whole, for those who read the code."""

    title: str = Field(description="of the whole")
    classes: tuple[str, ...]
    parts: tuple[Part, ...]
    cells: Cells
    maybe: Part | None
    by_class: Annotated[tuple[Count, ...], BY_CLASS]
    left: Mapping[int, tuple[str, ...]] = Field(default_factory=dict)

    @property
    def status(self) -> Literal["new", "old"]:
        """Age of the whole."""
        return "new"

    def greeting(self, whole: Whole) -> str:
        """Return the greeting of all classes."""
        return " and ".join(whole.classes)


def made(**changes) -> Whole:
    entries = {
        "title": "T",
        "classes": ("a", "b"),
        "parts": (Part("p", 0.5), Part("q", math.nan, -1)),
        "cells": Cells(math.inf, np.array([4, -1]), (0.25, math.nan)),
        "maybe": None,
        "by_class": (5, -1),
        "left": {7: ("x",)},
    }
    return Whole(**(entries | changes))


def test_by_hand() -> None:
    assert document_of(made()).model_dump(mode="json") == {
        "first": "T",
        "parts": {"p": {"gap": 0.5, "films": 3}, "q": {"gap": None, "films": None}},
        "rows": {
            "a": {"n": 4, "share": 0.25, "twice": 8.0},
            "b": {"n": None, "share": None, "twice": -2.0},
        },
        "overall": None,
        "gap": None,
        "by_class": {"a": 5, "b": None},
        "left": {"7": ["x"]},
        "greeting": "a and b",
        "status": "new",
    }
    assert document_of(made(maybe=Part("p", 0.25))).model_dump()["gap"] == 0.25


def test_the_schema_has_every_name_and_its_description() -> None:
    schema = schema_of(Whole)
    jsonschema.validate(document_of(made()).model_dump(mode="json"), schema)
    assert (schema["title"], schema["description"]) == ("WholeDocument", "A whole.")
    assert set(schema["$defs"]) == {"PartDocument", "RowDocument"}
    entries = schema["properties"]
    assert schema["required"] == list(entries)
    assert entries["first"]["description"] == "of the whole"
    assert entries["status"] == {
        "description": "age of the whole", "enum": ["new", "old"], "title": "Status",
        "type": "string",
    }  # fmt: skip
    assert entries["greeting"]["description"] == "greeting of all classes"
    row = schema["$defs"]["RowDocument"]
    assert (row["description"], list(row["properties"])) == ("A class.", ["n", "share", "twice"])
    assert schema["$defs"]["PartDocument"]["additionalProperties"] is False


def test_a_result_type_is_a_frozen_dataclass_that_validates_nothing() -> None:
    part = Part(3, "no number")  # type: ignore[arg-type]
    assert dataclasses.replace(part, gap=1.0) == Part(3, 1.0)  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        part.gap = 2.0  # type: ignore[misc]
    with pytest.raises(ValidationError):
        document_of(made(title=3))
    with pytest.raises(TypeError, match="gap"):
        Part("p")


def test_a_number_that_has_to_be_there_is_refused_where_it_is_not() -> None:
    @result_type()
    class Level:
        """A level."""

        value: FiniteFloat = Field(description="in percent")

    level = schema_of(Level)["properties"]["value"]
    assert level == {"description": "in percent", "title": "Value", "type": "number"}
    with pytest.raises(ValidationError):
        document_of(Level(math.nan))


def test_types_and_columns_of_a_declaration() -> None:
    assert class_columns(Cells) == ("n", "shares")
    assert declared_types(Part)["films"] == Count
    assert list(declared_types(Part)) == ["name", "gap", "films", "patients"]
