"""Stores of machines that share nothing but a folder or a storage: pushed, taken, made again."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from fsspec.implementations.memory import MemoryFileSystem

from ravl_med.encoders import film_store
from ravl_med.encoders.film_store import EmbeddedFilm, FilmStore, SharedFilms, film_key, part_number
from ravl_med.errors import ConfigError, StorageError
from ravl_med.storage.files import atomic_write_bytes, entries
from ravl_med.storage.remote import FilePath, RemotePath

BOXES = np.array([[0, 0, 8, 8], [8, 0, 16, 8]], dtype=np.float32)
PIECE = "ab" * 16


def film(number: int, regions: int = 2) -> EmbeddedFilm:
    rng = np.random.default_rng(number)
    image, region = rng.random(5, np.float32), rng.random((regions, 5), np.float32)
    return film_key(f"film {number}", BOXES[:regions]), image, region


@pytest.fixture(params=["this machine", "memory"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> FilePath:
    if request.param == "this machine":
        return tmp_path / "shared" / "embeddings" / "recipe"
    MemoryFileSystem.store.clear()
    return RemotePath("memory://bucket/cache/embeddings/recipe", role="cache.shared")


@pytest.fixture
def machine(tmp_path: Path, shared: FilePath):
    """The store of a machine, as it opens it now."""

    def opened(name: str) -> FilmStore:
        return FilmStore(tmp_path / name / "embeddings" / "recipe", 5, shared)

    return opened


def contents(folder: FilePath) -> dict[str, bytes]:
    own = entries(folder)
    files = [name for name, size in own.items() if size is not None]
    listed = [f"listed/{name}" for name in entries(folder / "listed")]
    return {name: (folder / name).read_bytes() for name in (*files, *listed)}


def test_what_a_machine_has_finished_another_one_takes(machine, shared, tmp_path) -> None:
    films = [film(0), film(1, regions=0), film(2, regions=1)]
    one = machine("one")
    one.write(3, films)
    one.list_done(PIECE)

    other = machine("other")

    assert PIECE in other.listed()
    assert other.done(["none", PIECE]) == {1}
    assert len(other) == 0
    for key, image, region in films:
        assert key in other
        found = other.read(key)
        np.testing.assert_array_equal(found[0], image)
        np.testing.assert_array_equal(found[1], region)
    assert film(7)[0] not in other
    assert {path.name: path.read_bytes() for path in other.folder.glob("*.safetensors")} == {
        path.name: path.read_bytes() for path in one.folder.glob("*.safetensors")
    }


def test_a_file_is_taken_only_when_a_film_of_it_is_wanted(machine, monkeypatch) -> None:
    one = machine("one")
    for part in range(3):
        one.write(part, [film(part)])
    other = machine("other")
    asked: list[str] = []
    honest = SharedFilms.take
    monkeypatch.setattr(
        SharedFilms, "take", lambda self, name: asked.append(name) or honest(self, name)
    )
    assert film(9)[0] not in other
    assert film(1)[0] in other
    assert film(1)[0] in other
    assert [part_number(name) for name in asked] == [1]


def test_two_writers_of_one_part_leave_what_one_leaves(machine, shared) -> None:
    one, other = machine("one"), machine("other")
    one.write(0, [film(0), film(1)])
    one.list_done(PIECE)
    alone = contents(shared)
    other.write(0, [film(0), film(1)])
    other.list_done(PIECE)
    assert contents(shared) == alone
    assert sorted(alone) == sorted([next(iter(alone)), f"listed/{PIECE}"])


def test_what_was_done_before_anything_was_shared_is_pushed(machine, shared, tmp_path) -> None:
    folder = tmp_path / "one" / "embeddings" / "recipe"
    FilmStore(folder, 5).write(0, [film(0)])
    FilmStore(folder, 5).list_done(PIECE)
    machine("one").publish()
    assert film(0)[0] in machine("other")
    assert PIECE in machine("other").listed()
    before = contents(shared)
    machine("one").publish()
    assert contents(shared) == before


@pytest.mark.parametrize("length", [0, 7, 60, 270, 300, -40, -1])
def test_a_damaged_object_is_ignored_and_made_again(machine, shared, length: int) -> None:
    one = machine("one")
    one.write(4, [film(0)])
    one.write(5, [film(1)])
    one.list_done(PIECE)
    name = min(name for name in contents(shared) if name.startswith("000004"))
    whole = contents(shared)[name]
    atomic_write_bytes(shared / name, whole[:length])

    other = machine("other")

    assert film(0)[0] not in other
    assert film(1)[0] in other
    assert other.done([*["none"] * 4, PIECE]) == set()  # is to be made again
    other.write(4, [film(0)])
    assert contents(shared)[name] == whole
    assert other.done([*["none"] * 4, PIECE]) == {4}
    assert film(0)[0] in machine("third")


def test_an_object_whose_rows_were_reversed_is_made_again(machine, shared) -> None:
    one = machine("one")
    one.write(4, [film(0), film(1)])
    one.list_done(PIECE)
    (name,) = (name for name in contents(shared) if name.startswith("000004"))
    whole = contents(shared)[name]
    tensors = dict(safetensors.numpy.load(whole))
    tensors["image"] = np.ascontiguousarray(tensors["image"][::-1])
    atomic_write_bytes(shared / name, safetensors.numpy.save(tensors))

    other = machine("other")
    assert film(0)[0] not in other
    other.write(4, [film(0), film(1)])
    assert contents(shared)[name] == whole
    third = machine("third")
    assert film(1)[0] in third
    np.testing.assert_array_equal(third.read(film(1)[0])[0], film(1)[1])


def test_an_object_that_only_looks_whole_is_not_used(machine, shared) -> None:
    """Its keys can be read, and what they are of is of another size."""
    key = film(0)[0]
    wrong = FilmStore(machine("wrong").folder, 4, shared)
    wrong.write(0, [(key, np.zeros(4, np.float32), np.zeros((2, 4), np.float32))])
    other = machine("other")
    assert key not in other
    assert key not in other
    assert not list(other.folder.glob("*.safetensors"))


def test_headers_that_lie_are_of_damaged_objects(machine, shared) -> None:
    one = machine("one")
    one.write(0, [film(0)])
    (name,) = contents(shared)
    whole = contents(shared)[name]
    length = int.from_bytes(whole[:8], "little")
    told = json.loads(whole[8 : 8 + length])
    for keys in (
        {"shape": [1, 32], "data_offsets": [10**9, 10**9 + 32]},
        {"shape": [1, 32], "data_offsets": [-40, -8]},
        {"shape": [0, 32], "data_offsets": [0, 0]},
        {"shape": [1, 31], "data_offsets": [0, 31]},
        {"shape": "x", "data_offsets": None},
        [],
    ):
        head = json.dumps({**told, "keys": keys}).encode()
        lying = len(head).to_bytes(8, "little") + head + whole[8 + length :]
        atomic_write_bytes(shared / name, lying)
        assert film(0)[0] not in machine("other")
    atomic_write_bytes(shared / name, (3000).to_bytes(8, "little") + b"[" * 3000)
    assert film(0)[0] not in machine("other")


def test_a_shared_folder_of_somebody_else_is_told(tmp_path: Path, monkeypatch) -> None:
    shared = tmp_path / "shared" / "embeddings" / "recipe"
    FilmStore(tmp_path / "one" / "e" / "r", 5, shared).write(0, [film(0)])
    honest = Path.open

    def refuse(path: Path, *told, **more):
        if shared in path.parents:
            raise PermissionError(13, "Permission denied")
        return honest(path, *told, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=r"cache\.shared: cannot be read \(Permission denied\)"):
        FilmStore(tmp_path / "other" / "e" / "r", 5, shared)


def test_an_object_that_goes_in_between_is_no_error(machine, shared) -> None:
    machine("one").write(0, [film(0)])
    other = machine("other")
    for name in contents(shared):
        if isinstance(shared, RemotePath):
            MemoryFileSystem.store.clear()
        else:
            (shared / name).unlink()
    assert film(0)[0] not in other


def test_other_objects_are_passed_over(machine, shared) -> None:
    atomic_write_bytes(shared / "notes.txt", b"x", above=3)
    atomic_write_bytes(shared / "00000-x.safetensors", b"x")
    machine("one").write(0, [film(0)])
    assert film(0)[0] in machine("other")


def test_a_shared_folder_of_this_machine_is_for_its_owner_alone(tmp_path: Path) -> None:
    shared = tmp_path / "shared" / "embeddings" / "recipe"
    old = os.umask(0)
    try:
        store = FilmStore(tmp_path / "own" / "embeddings" / "recipe", 5, shared)
        store.write(0, [film(0)])
        store.list_done(PIECE)
    finally:
        os.umask(old)
    for path in (tmp_path / "shared", *(tmp_path / "shared").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_a_place_that_takes_nothing_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "shared").touch()
    store = FilmStore(tmp_path / "own" / "e" / "r", 5, tmp_path / "shared" / "e" / "r")
    with pytest.raises(ConfigError, match=r"cache\.shared: cannot be written to") as caught:
        store.publish()
    assert str(tmp_path) not in str(caught.value)


def test_a_storage_that_vanishes_leaves_what_is_done_here(tmp_path, monkeypatch) -> None:
    shared = RemotePath("memory://bucket/vanishing/embeddings/recipe", role="cache.shared")

    def machine(name: str) -> FilmStore:
        return FilmStore(tmp_path / name / "embeddings" / "recipe", 5, shared)

    def gone(*told: object, **more: object) -> None:
        raise ConnectionResetError

    store = machine("one")
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", gone)
    with pytest.raises(StorageError, match=r"cache\.shared: the storage .* is gone"):
        store.write(0, [film(0)])
    monkeypatch.undo()
    again = machine("one")
    assert film(0)[0] in again
    again.publish()
    assert film(0)[0] in machine("other")


def test_names_of_files() -> None:
    assert part_number(f"000017-{'a' * 24}.safetensors") == 17
    for name in ("17.safetensors", f"000017-{'a' * 24}", f"../000017-{'a' * 24}.safetensors"):
        assert part_number(name) is None
    assert film_store._PIECE.fullmatch(PIECE)
