"""Files and objects through the same calls: copied, written whole, listed, and taken away again."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
import time
from pathlib import Path

import pytest
from s3_server import S3Server

from ravl_med.errors import StorageError
from ravl_med.storage import files
from ravl_med.storage.files import (
    atomic_write_bytes,
    entries,
    for_each,
    local_copy,
    read_part,
    stamp,
)
from ravl_med.storage.remote import FilePath, RemotePath, StorageAccess, TooLargeError

LEFT = "ravl-object-*"


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies lie, so that what is left of them is seen."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(params=["this machine", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> FilePath:
    """A folder of each kind that holds nothing yet."""
    name = request.node.name.translate(str.maketrans("_[] ", "----")).rstrip("-")[:40]
    if request.param == "this machine":
        return tmp_path / "folder"
    if request.param == "memory":
        return RemotePath(f"memory://{name}", role="cohort.manifest")
    server: S3Server = request.getfixturevalue("s3")
    bucket = server.bucket(f"files-{time.monotonic_ns()}")
    return RemotePath(f"{bucket}/{name}", StorageAccess(server.endpoint, 5.0, 0), "x")


def test_what_is_written_is_read(folder: FilePath, own_temporary_folder: Path) -> None:
    file = folder / "a.nii.gz"
    atomic_write_bytes(file, b"content of it")
    assert read_part(file, 3, 7) == b"tent"
    assert read_part(file, 8, 4000) == b"of it"
    assert file.is_file()
    with local_copy(file, 1000) as copy:
        assert copy.read_bytes() == b"content of it"
        assert copy.name.endswith(".nii.gz")
    assert not list(own_temporary_folder.glob(LEFT))
    atomic_write_bytes(file, b"")
    with local_copy(file) as copy:
        assert copy.read_bytes() == b""


def test_a_copy_is_for_its_owner_and_goes_whatever_happens(own_temporary_folder: Path) -> None:
    file = RemotePath("memory://owner/Doe_John.dcm")
    atomic_write_bytes(file, b"x")
    seen: list[Path] = []

    def read() -> None:
        with local_copy(file) as copy:
            seen.append(copy)
            assert stat.S_IMODE(copy.stat().st_mode) == 0o600
            assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
            raise KeyError("of a reader")

    with pytest.raises(KeyError, match="of a reader"):
        read()
    assert own_temporary_folder in seen[0].parents
    assert "Doe" not in str(seen[0])
    assert not list(own_temporary_folder.glob(LEFT))


def test_an_object_that_is_too_large_is_not_copied(
    folder: FilePath, own_temporary_folder: Path
) -> None:
    file = folder / "large"
    atomic_write_bytes(file, bytes(300_000))
    with local_copy(file, 300_000) as copy:
        assert copy.stat().st_size == 300_000
    if isinstance(file, Path):
        return
    with pytest.raises(TooLargeError, match="300000"), local_copy(file, 299_999):
        pass
    assert not list(own_temporary_folder.glob(LEFT))


def test_what_is_not_there(folder: FilePath) -> None:
    assert entries(folder) == {}
    assert stamp(folder / "none").endswith("none missing")
    assert not (folder / "none").is_file()
    if isinstance(folder, RemotePath):
        with (
            pytest.raises(FileNotFoundError, match=r"none|exist|No such"),
            local_copy(folder / "none"),
        ):
            pass


def test_entries_and_stamps(folder: FilePath) -> None:
    atomic_write_bytes(folder / "b", b"12345")
    atomic_write_bytes(folder / "a" / "c", b"")
    assert entries(folder) == {"a": None, "b": 5}
    first = stamp(folder / "b")
    assert stamp(folder / "b") == first
    assert " 5 " in first
    atomic_write_bytes(folder / "b", b"54321")
    assert stamp(folder / "b") != first


def test_drafts_are_no_entries(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".b.1234").touch()
    assert entries(tmp_path / "folder") == {}


def test_a_file_of_this_machine_is_for_its_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        atomic_write_bytes(tmp_path / "a" / "b" / "c", b"x", above=2)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a" / "b" / "c").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c"]


def test_objects_are_looked_at_in_threads_and_come_in_order() -> None:
    places = [RemotePath(f"memory://each/{number}") for number in range(40)]
    together = threading.Barrier(8)

    def look(file: FilePath) -> str:
        if int(file.name) < 8:
            together.wait(timeout=20)  # which fewer than eight at once never pass
        return file.name

    assert list(for_each(look, places)) == [str(number) for number in range(40)]


def test_files_of_this_machine_are_looked_at_in_this_thread(tmp_path: Path) -> None:
    threads = set(for_each(lambda file: threading.get_ident(), [tmp_path / "a", tmp_path / "b"]))
    assert threads == {threading.get_ident()}


def test_an_object_that_arrives_cut_short_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def cut(self: object, url: str, target: str, callback: object, **more: object) -> None:
        callback.set_size(10)  # type: ignore[attr-defined]
        Path(target).write_bytes(b"1234")

    monkeypatch.setattr(MemoryFileSystem, "get_file", cut)
    with (
        pytest.raises(StorageError, match="arrived with 4 of 10 bytes"),
        local_copy(RemotePath("memory://cut/short")),
    ):
        pass


def test_copies_of_killed_processes_go(own_temporary_folder: Path) -> None:
    old, new = own_temporary_folder / "ravl-object-old", own_temporary_folder / "ravl-object-new"
    for left in (old, new):
        left.mkdir()
        (left / "object.dcm").touch()
    os.utime(old, (time.time() - 1e6,) * 2)
    atomic_write_bytes(RemotePath("memory://sweep/a"), b"x")
    files._sweep.cache_clear()
    with local_copy(RemotePath("memory://sweep/a")):
        pass
    assert not old.exists()
    assert (new / "object.dcm").exists()
