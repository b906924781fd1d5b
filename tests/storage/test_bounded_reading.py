"""What is no regular file is not waited for, and what unfolds without end is not built."""

from __future__ import annotations

import json
import os
import socket
import tracemalloc
from pathlib import Path

import pytest
from ruamel.yaml.error import YAMLError

from ravl_med.storage.bounded_reading import (
    UnreadableFileError,
    open_regular,
    parse_json,
    parse_yaml,
    read_regular,
)


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"film")
    (tmp_path / "link").symlink_to("a")
    assert read_regular(tmp_path / "a") == b"film"
    with open_regular(tmp_path / "link") as stream:
        assert stream.read() == b"film"


@pytest.mark.timeout(10)
def test_what_is_no_regular_file_is_named_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, name in (
        (tmp_path / "pipe", "pipe"),
        (Path("/dev/zero"), "device"),
        (tmp_path, "folder"),
    ):
        with pytest.raises(UnreadableFileError, match=name):
            read_regular(path)
    (tmp_path / "round").symlink_to("round")
    with socket.socket(socket.AF_UNIX) as end:
        os.chdir(tmp_path)  # a socket's path is short
        end.bind("socket")
    for name in ("round", "socket", "n" * 300, "nul\0", "half \ud800"):
        with pytest.raises(OSError):  # noqa: PT011 - several kinds, all of them caught as one
            read_regular(tmp_path / name)


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_regular(tmp_path / "a", 5) == b"12345"
    with pytest.raises(UnreadableFileError, match="larger"):
        read_regular(tmp_path / "a", 4)


def test_json_is_bounded_in_depth() -> None:
    value = {"a": [1, "]]]]" * 100, '\\"[[[[' * 100], "ü": None}
    assert parse_json(json.dumps(value).encode()) == value
    for deep in (b"[" * 65, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 3000):
        with pytest.raises(ValueError, match="deep"):
            parse_json(deep)
    with pytest.raises(ValueError, match="decode"):
        parse_json(b"\xff")


@pytest.mark.parametrize("escape", ["\\ud800", "\\uDFFF", "\\u0000"])
def test_what_is_no_text_is_refused_wherever_it_stands(escape: str) -> None:
    for text in (f'["a", {{"b": ["c{escape}"]}}]', f'{{"{escape}": 1}}', f'"{escape}"'):
        with pytest.raises(ValueError, match="holds half of a character, or a NUL"):
            parse_json(text.encode())
        with pytest.raises(ValueError, match="holds half of a character, or a NUL"):
            parse_yaml(text)
    assert parse_json(b'["\\ud83e\\udec1", "\\\\ud800", "\\u00e4"]') == [
        "\U0001fac1",
        "\\ud800",
        "ä",
    ]


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.timeout(20)
def test_yaml_is_bounded_in_depth_and_in_what_it_unfolds_to() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}
    assert len(parse_yaml(bomb(3))["a2"]) == 9
    with pytest.raises(ValueError, match="unfolded"):
        parse_yaml(bomb(12))
    for deep in ("[" * 5000, "a: " + "[" * 70 + "]" * 70, "- " * 3000 + "x"):
        with pytest.raises(ValueError, match="deep"):
            parse_yaml(deep)
    with pytest.raises(ValueError, match="stands in"):
        parse_yaml("a: &x [*x]")
    with pytest.raises(YAMLError):
        parse_yaml("a: [1")


def test_a_small_file_takes_little_memory_whatever_it_may_have(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"film")
    tracemalloc.start()
    try:
        assert read_regular(tmp_path / "a", 1 << 30) == b"film"
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc here")
def test_a_file_that_holds_more_than_it_says_is_read_to_its_end_or_refused() -> None:
    """As one that grows while it is read: those of /proc have no size at all."""
    growing = Path("/proc/self/status")
    assert growing.stat().st_size == 0
    assert b"voluntary_ctxt_switches" in read_regular(growing)
    with pytest.raises(UnreadableFileError, match="larger than"):
        read_regular(growing, 4)
