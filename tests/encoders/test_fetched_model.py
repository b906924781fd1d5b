"""Models in a storage: fetched once, again when they change, and the same as from a folder."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from ravl_med.config.model import ModelConfig
from ravl_med.encoders.local_files import fetch_model
from ravl_med.encoders.opening import open_encoder, open_model_folder, require_folder
from ravl_med.errors import ModelError, StorageError
from ravl_med.storage.cache import Cache
from ravl_med.storage.files import atomic_write_bytes
from ravl_med.storage.remote import RemotePath


@pytest.fixture
def folder(folder_of) -> Path:
    return folder_of("vit_1_layer")


@pytest.fixture
def remote(folder: Path) -> RemotePath:
    MemoryFileSystem.store.clear()
    place = RemotePath("memory://bucket/models/Doe_John", role="model.path")
    for path in folder.rglob("*"):
        if path.is_file():
            atomic_write_bytes(place / path.relative_to(folder).as_posix(), path.read_bytes())
    atomic_write_bytes(place / "text_tower" / "config.json", b"{}")
    return place


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the objects that are copied."""
    names: list[str] = []
    honest = RemotePath.fetch

    def fetch(place: RemotePath, target: Path, most: int | None = None) -> None:
        names.append(place.name)
        honest(place, target, most)

    monkeypatch.setattr(RemotePath, "fetch", fetch)
    return names


def test_a_model_is_fetched_once_and_opens_as_from_its_folder(
    folder: Path, remote: RemotePath, cache: Cache, fetched: list[str]
) -> None:
    here = fetch_model(remote, cache)
    assert fetch_model(remote, cache) == here
    assert sorted(fetched) == [
        "config.json",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
    for path in folder.iterdir():
        assert (here / path.name).read_bytes() == path.read_bytes()
    assert (here / "text_tower" / "config.json").read_bytes() == b"{}"
    encoder, expected = (open_model_folder(place, torch.device("cpu")) for place in (here, folder))
    assert encoder.info.digest == expected.info.digest


def test_it_is_for_its_owner_alone(remote: RemotePath, cache: Cache) -> None:
    fetch_model(remote, cache)
    for path in (cache.root, *cache.root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
        assert "Doe" not in str(path)


def test_a_model_that_changed_is_fetched_again(
    remote: RemotePath, cache: Cache, fetched: list[str]
) -> None:
    first = fetch_model(remote, cache)
    atomic_write_bytes(remote / "open_clip_config.json", b"{}")
    second = fetch_model(remote, cache)
    assert first != second
    assert (second / "open_clip_config.json").read_bytes() == b"{}"
    assert first.is_dir()


def test_a_checkpoint_is_fetched_and_opened(
    folder: Path, cache: Cache, tmp_path: Path, remote: RemotePath
) -> None:
    name = "open_clip_model.safetensors"
    layout = folder / "open_clip_config.json"
    remote_config = ModelConfig(weights=f"{remote}/{name}", layout=layout)
    assert isinstance(remote_config.weights, RemotePath)
    assert remote_config.weights.role == "model.weights"

    here = fetch_model(remote_config.weights, cache)

    assert here.name == name
    local = ModelConfig(weights=folder / name, layout=layout)
    device = torch.device("cpu")
    encoder = open_encoder(remote_config, here, device)
    assert encoder.info.digest == open_encoder(local, None, device).info.digest
    assert require_folder(encoder, here, tmp_path / "written") == tmp_path / "written"


@pytest.mark.parametrize("role", ["model.path", "model.weights"])
def test_nothing_there_is_one_line(cache: Cache, role: str) -> None:
    with pytest.raises(ModelError, match="holds nothing where the URL leads") as caught:
        fetch_model(RemotePath("memory://bucket/Doe_John", role=role), cache)
    assert str(caught.value).startswith(f"{role}: ")
    assert "Doe" not in str(caught.value)


def test_a_folder_of_something_else_is_not_fetched(cache: Cache, fetched: list[str]) -> None:
    place = RemotePath("memory://films", role="model.path")
    atomic_write_bytes(place / "film.dcm", b"x")
    with pytest.raises(ModelError, match=r"has no open_clip_config\.json and no config\.json"):
        fetch_model(place, cache)
    for number in range(201):
        atomic_write_bytes(place / f"{number}.dcm", b"x")
    atomic_write_bytes(place / "config.json", b"{}")
    with pytest.raises(ModelError, match=r"202 files or more .* at most 200|203 files"):
        fetch_model(place, cache)
    assert fetched == []
    assert not cache.root.exists()


def test_a_storage_that_vanishes_leaves_nothing_half_fetched(
    remote: RemotePath, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = MemoryFileSystem.get_file

    def get(self: MemoryFileSystem, url: str, *told: object, **more: object) -> None:
        if url.endswith("open_clip_model.safetensors"):
            raise ConnectionResetError
        honest(self, url, *told, **more)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get)
    with pytest.raises(StorageError, match=r"model\.path: the storage .* is gone"):
        fetch_model(remote, cache)
    assert list((cache.root / "models").iterdir()) == []
