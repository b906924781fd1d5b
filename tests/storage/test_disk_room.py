"""A disk that is full is told as such, whatever the library that finds out."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.numpy import save_file

from ravl_med.errors import ConfigError, means_disk_full, needing_disk_space

FULL = Path("/dev/full")  # every write to it finds no room

needs_device = pytest.mark.skipif(not FULL.exists(), reason="/dev/full is of Linux")


@needs_device
def test_a_file_that_finds_no_room() -> None:
    with pytest.raises(ConfigError, match="no room"), needing_disk_space("no room"):
        FULL.write_bytes(b"x" * 100_000)


@needs_device
def test_pytorch_and_what_stands_behind_an_error() -> None:
    with pytest.raises(ConfigError, match="no room"), needing_disk_space("no room"):
        torch.save({"weights": torch.zeros(100_000)}, FULL)
    with pytest.raises(ConfigError, match="no room"), needing_disk_space("no room"):
        _copy_in_another_kind()


def _copy_in_another_kind() -> None:
    try:
        shutil.copyfile(__file__, FULL)
    except OSError as error:
        raise RuntimeError("another kind") from error


def test_safetensors_and_pydicom_tell_it_in_words() -> None:
    assert means_disk_full(ValueError("I/O error: No space left on device (os error 28)"))
    assert means_disk_full(OSError("With tag (7FE0,0010) got exception: [Errno 28] No space left"))
    assert not means_disk_full(ValueError("I/O error: Permission denied (os error 13)"))


def test_other_errors_go_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), needing_disk_space("no room"):
        (tmp_path / "none" / "file").write_text("x", encoding="utf-8")
    with pytest.raises(Exception, match="os error 2"), needing_disk_space("no room"):
        save_file({}, tmp_path / "none" / "file")
    assert means_disk_full(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert not means_disk_full(OSError(errno.EROFS, "Read-only file system"))


def test_an_error_that_stands_behind_itself_ends() -> None:
    first, second = ValueError("one"), ValueError("other")
    first.__context__, second.__context__ = second, first
    assert not means_disk_full(first)
