"""Reading what may be hostile: regular files of bounded size, JSON and YAML of bounded depth.

A named pipe would hold a run for ever, a device never ends, and a few lines of YAML that refer to
each other unfold to billions of values: each is refused before it is read or built.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader, StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

from ravl_med.errors import DataError

SMALL = 16 << 20
"""Bytes that a file which describes something may have: a config, a table of prompts, a record."""

_DEEPEST, _MOST_VALUES = 64, 200_000
_MOST_UNPACKED = 8 << 30
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_NO_TEXT = re.compile("[\\x00\ud800-\udfff]")
_MAY_BE_NO_TEXT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class TableError(ValueError):
    """A CSV text cannot be read beyond a row, which `str` names with what is wrong and a cure."""


class UnreadableFileError(OSError):
    """A path leads to no regular file, or to one that is too large; `str` says which."""


def open_regular(path: Path) -> BufferedReader:
    """Open a file to read its bytes, at once or not at all.

    Raises
    ------
    FileNotFoundError, PermissionError, OSError
        As `open` does, also for a path that the system cannot take (a NUL, too long a name).
    UnreadableFileError
        It is no regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
    except ValueError as error:  # a NUL, or half of a character
        raise UnreadableFileError(f"a name that no file can have ({error})") from None
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind != stat.S_IFREG:
        os.close(handle)
        raise UnreadableFileError(f"{_KINDS.get(kind, 'something else')}; expected a regular file")
    return os.fdopen(handle, "rb")


def read_regular(path: Path, most: int = SMALL) -> bytes:
    """Return the bytes of a file of at most `most` bytes; errors as those of `open_regular`."""
    with open_regular(path) as stream:
        size = min(os.fstat(stream.fileno()).st_size, most)
        content = stream.read(size + 1)  # it takes as much memory as it is asked for
        content += stream.read(most - size) if len(content) > size else b""  # a file that grows
    if len(content) > most:
        raise UnreadableFileError(f"larger than the {most / 1e6:,.0f} MB that it may have")
    return content


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz`` file, none of which is unpickled, or larger than it says.

    Raises
    ------
    OSError, ValueError
        It is missing, no archive of plain arrays, or unpacks to more than 8 GB.
    """
    with _only_value_errors(), open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > _MOST_UNPACKED:
            raise ValueError("unpacks to more than 8 GB")
        for member in members:
            with archive.open(member) as inside:
                _require_plain_array(inside, member.file_size)
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}


def read_array(path: Path) -> NDArray[Any]:
    """Return the array of an ``.npy`` file as `read_arrays` returns those of an archive."""
    with _only_value_errors(), open_regular(path) as stream:
        _require_plain_array(stream, os.fstat(stream.fileno()).st_size)
        stream.seek(0)
        return np.asarray(np.load(stream, allow_pickle=False))


@contextmanager
def _only_value_errors() -> Iterator[None]:
    """Turn what damaged archives and headers end in into a ValueError, but for an OSError."""
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:  # a header is Python's own syntax, and fails as a program does
        raise ValueError(f"{type(error).__name__} in an archive or a header") from None


def _require_plain_array(stream: Any, size: int) -> None:
    """Refuse an array whose header says another shape than its file has bytes for (ValueError)."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError("another version")
    first = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, _, kind = read(stream)
    if kind.hasobject or math.prod(shape) * kind.itemsize != size - stream.seek(0, os.SEEK_CUR):
        raise ValueError("not the values that its header says")


def parse_json(content: bytes) -> Any:
    """Return the value of a JSON text in UTF-8 (else ValueError).

    It is nested at most 64 deep, and holds neither half of a character nor a NUL.
    """
    bare = np.frombuffer(_STRINGS.sub(b"", content), dtype=np.uint8)
    steps = np.isin(bare, list(b"[{")).astype(np.int8) - np.isin(bare, list(b"]}")).astype(np.int8)
    if steps.cumsum(dtype=np.int64).max(initial=0) > _DEEPEST:
        raise ValueError(f"nested more than {_DEEPEST} deep")
    value = json.loads(content.decode("utf-8"))
    if _MAY_BE_NO_TEXT.search(content):  # only so can it be written, and few files are so written
        _require_text(value)
    return value


def read_rows(lines: Iterable[str], separator: str = ",") -> Iterator[list[str]]:
    """Yield the rows of a CSV text, which a spreadsheet numbers from 1.

    Raises
    ------
    TableError
        Double quotes are never closed or stand within a cell, or a cell is too long.
    """
    row = 0
    try:
        for cells in csv.reader(lines, delimiter=separator, strict=True):
            row += 1
            yield cells
    except csv.Error as error:
        what = "double quotes stand within a cell. Double those that belong to the text"
        if "unexpected end of data" in str(error):
            what = (
                "double quotes that open a cell are never closed; the cell swallows all rows below "
                "it. Close them, or double those that belong to the text"
            )
        elif "field limit" in str(error):
            what = (
                f"a cell is over {csv.field_size_limit():,} characters, as one is whose double "
                "quotes are never closed. Close them; a long report belongs into a file, which a "
                "manifest names in the column report_path"
            )
        raise TableError(f"row {row + 1}: {what}.") from None


def read_csv(path: Path, most: int, name: str) -> tuple[bytes, list[list[str]]]:
    """Return the bytes of a CSV file and its rows; commas, semicolons or tabs lie between cells.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        It does not exist.
    DataError
        It is no CSV in UTF-8, or larger than `most` bytes; the message begins with `name`.
    """
    with naming_table(name):
        content = read_regular(path, most)
        text = content.decode("utf-8-sig")
        first = text.lstrip().partition("\n")[0]
        separator = max(",;\t", key=first.count)
        return content, list(read_rows(StringIO(text, newline=""), separator))


@contextmanager
def naming_table(name: str) -> Iterator[None]:
    """Turn what a file that is no CSV table ends in into a DataError that begins with `name`."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except TableError as error:
        raise DataError(f"{name} {error}") from None
    except UnreadableFileError as error:
        raise DataError(f"{name}: {error}. Name a CSV table.") from None
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(
            f"{name}: not a UTF-8 CSV table ({type(error).__name__}). Save it as CSV with commas."
        ) from None


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML 1.2 text.

    Raises
    ------
    YAMLError, ValueError
        It is none, is nested too deep, unfolds to too many values where it refers to itself, or
        holds half of a character or a NUL.
    """
    try:
        _require_bounded(text)
        value = YAML(typ="safe", pure=True).load(text)
        _require_text(value)
        return value
    except RecursionError:
        raise ValueError(f"nested more than {_DEEPEST} deep") from None
    except (AttributeError, KeyError, TypeError, IndexError, AssertionError) as error:
        raise YAMLError(f"{type(error).__name__} of the parser") from None


def _require_text(value: Any) -> None:
    """Refuse halves of characters and NUL, which no file and no model can take (ValueError)."""
    if isinstance(value, str) and _NO_TEXT.search(value):
        raise ValueError(f"{ascii(value)[:80]} holds half of a character, or a NUL")
    if isinstance(value, dict):
        value = [*value, *value.values()]
    for one in value if isinstance(value, (list, tuple, set)) else ():
        _require_text(one)


def _require_bounded(text: str) -> None:
    """Count depth and values of a YAML text, references unfolded, without building anything."""
    open_ones: list[tuple[str | None, int]] = []  # anchor and values before, of what is open
    sizes: dict[str | None, int] = {}
    values = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        match event:
            case CollectionStartEvent(anchor=anchor):
                open_ones.append((anchor, values))
                values += 1
            case CollectionEndEvent():
                anchor, before = open_ones.pop()
                sizes[anchor] = values - before
            case ScalarEvent(anchor=anchor):
                values += 1
                sizes[anchor] = 1
            case AliasEvent(anchor=anchor):
                if anchor in {name for name, _ in open_ones}:
                    raise ValueError(f"*{anchor[:40]} refers to what it stands in")
                values += sizes.get(anchor, 1)
        if len(open_ones) > _DEEPEST or values > _MOST_VALUES:
            raise ValueError(
                f"nested more than {_DEEPEST} deep, or more than {_MOST_VALUES:,} values with "
                "references unfolded"
            )
