"""The house stays livable: its size, the size of its functions, and the words of its names."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ravl_med"

MODULES, LINES = 219, 63_332
FUNCTION_LINES, MEDIAN_LINES, PARAMETERS = 60, 10, 8
IMPORT_SHARE = 0.067

DIALECT = frozenset({"told", "tell", "tells", "mine", "weigh", "bench", "suspect"})
"""Words that no colleague would expect in a name."""

VAGUE = frozenset({"word", "thing"})
"""Words that say nothing where they are the whole name."""


@cache
def modules() -> tuple[tuple[Path, str, ast.Module], ...]:
    read = ((path, path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py")))
    return tuple((path.relative_to(PACKAGE.parent), text, ast.parse(text)) for path, text in read)


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path, _, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path}:{node.lineno} {node.name}", node


def length(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    own = node.args
    named = [one.arg for one in (*own.posonlyargs, *own.args, *own.kwonlyargs)]
    return [name for name in named if name not in ("self", "cls")]


def names(tree: ast.AST) -> Iterator[str]:
    """Every name that a module gives or uses; strings are not looked into."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name):
                yield name
            case ast.keyword(arg=str() as name) | ast.alias(name=name):
                yield name.rpartition(".")[2]


def test_modules_and_lines() -> None:
    assert len(modules()) <= MODULES
    assert sum(len(text.splitlines()) for _, text, _ in modules()) <= LINES


def test_functions_are_short_and_take_few_parameters() -> None:
    lengths = {where: length(node) for where, node in functions()}
    assert [where for where, lines in lengths.items() if lines > FUNCTION_LINES] == []
    assert statistics.median(lengths.values()) <= MEDIAN_LINES
    assert [where for where, node in functions() if len(parameters(node)) > PARAMETERS] == []


def test_imports_are_a_small_part() -> None:
    imports = lines = 0
    for _, text, tree in modules():
        lines += len(text.splitlines())
        imports += sum(
            length(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)
        )
    assert imports <= IMPORT_SHARE * lines


def test_only_the_package_itself_has_a_list_of_its_public_names() -> None:
    holding = [str(path) for path, text, _ in modules() if "\n__all__" in text]
    assert holding == ["ravl_med/__init__.py"]


def test_names_are_those_of_the_field() -> None:
    found = {
        f"{path}: {name}"
        for path, _, tree in modules()
        for name in names(tree)
        if DIALECT & set(name.lower().split("_")) or name.lower() in VAGUE
    }
    assert sorted(found) == []


@pytest.mark.parametrize("code", ["def tell_it(): ...", "x.told = 1", "f(bench=2)", "word = 3"])
def test_a_name_of_the_old_dialect_is_noticed(code: str) -> None:
    said = set(names(ast.parse(code)))
    assert any(DIALECT & set(name.split("_")) or name in VAGUE for name in said)
