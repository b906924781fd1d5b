"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ravl_med.errors import ConfigError
from ravl_med.storage.files import atomic_write, sweep_drafts


class EndedError(Exception):
    """What ends a run here."""


def test_a_file_is_there_when_all_of_it_is(tmp_path: Path) -> None:
    path = tmp_path / "table.npy"
    for content in (b"one", b"another"):
        with atomic_write(path) as stream:
            stream.write(content)
            assert not path.exists() or path.read_bytes() == b"one"
        assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_ends_on_the_way_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "table.npy"
    path.write_bytes(b"before")

    def write(error: Exception) -> None:
        with atomic_write(path) as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(EndedError, match="elsewhere"):
        write(EndedError("elsewhere"))
    with pytest.raises(RuntimeError, match="not of a file"):
        write(RuntimeError("not of a file"))
    with pytest.raises(
        ConfigError, match=r"cannot be written \(No space left on device\); expected"
    ):
        write(OSError(28, "No space left on device"))
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"before"


def test_a_disk_that_is_full_at_last_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> Any:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(ConfigError, match=r"cache: .* cannot be written \(Disk quota exceeded\)"),
        atomic_write(tmp_path / "table.npy") as stream,
    ):
        stream.write(b"all of it")
    assert not list(tmp_path.iterdir())


def test_drafts_of_runs_that_were_killed_are_swept(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in (".a.ckpt.12345678.partial", "deep/.b.gray.12345678.partial", "deep/b.gray"):
        (tmp_path / name).write_bytes(b"x")
    sweep_drafts(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["b.gray"]
