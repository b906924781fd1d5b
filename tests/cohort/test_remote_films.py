"""Films, reports and annotations in a storage: read as those of a folder are, and then gone."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from ravl_med.cohort.film import Film, FilmReader
from ravl_med.cohort.image_file import declares_burned_in
from ravl_med.cohort.manifest import Cohort, read_manifest
from ravl_med.cohort.table import RejectedFilm
from ravl_med.config.cohort import ReadingConfig
from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError, StorageError
from ravl_med.phantoms.cohort import synthesize
from ravl_med.regions.proposal import RegionProposer
from ravl_med.storage.files import atomic_write_bytes
from ravl_med.storage.remote import FilePath, RemotePath

FILMS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms with reports of their own and, of one film, a mask."""
    root = tmp_path_factory.mktemp("remote") / "cohort"
    synthesize(root, images=40, size=64, seed=5, workers=1)
    table = pd.read_csv(root / "manifest.csv").head(FILMS)
    (root / "reports").mkdir()
    for row, text in enumerate(table["report"]):
        (root / "reports" / f"{row}.txt").write_text(f"{text}\r\nRow {row}.", encoding="utf-8")
    table["report_path"] = [f"reports/{row}.txt" for row in range(FILMS)]
    table["annotation"] = ["masks/0.png", *[""] * (FILMS - 1)]
    (root / "masks").mkdir()
    mask = np.zeros(FilmReader().read(root / str(table["image"][0]))[0].shape, np.uint8)
    mask[4:20, 8:30] = 255
    Image.fromarray(mask).save(root / "masks" / "0.png")
    table.drop(columns="report").to_csv(root / "manifest.csv", index=False)
    return root


@pytest.fixture
def remote(folder: Path) -> RemotePath:
    """The same, as objects."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    place = RemotePath("memory://hospital/cohort", role="cohort.manifest")
    for path in folder.rglob("*"):
        if path.is_file():
            atomic_write_bytes(place / path.relative_to(folder).as_posix(), path.read_bytes())
    return place


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def listed(place: FilePath, roots: tuple[FilePath, ...] = ()) -> Cohort:
    return read_manifest(place / "manifest.csv", split=None, roots=roots)


def reader_of(place: FilePath, workers: int = 0, **limits: int) -> FilmReader:
    policy = ReadingConfig(**limits)
    return FilmReader(policy, workers, (place,))


@pytest.mark.parametrize("workers", [0, 2])
def test_films_reports_and_labels_are_those_of_the_folder(
    folder: Path, remote: RemotePath, workers: int, own_temporary_folder: Path
) -> None:
    here, there = listed(folder), listed(remote)
    assert there.radiology_reports == here.radiology_reports
    assert all("Row" in text and "\r" not in text for text in there.radiology_reports)
    assert there.attributes == here.attributes
    expected = list(reader_of(folder).films(here))
    found = list(reader_of(remote, workers).films(there))
    assert len(found) == FILMS
    for one, other in zip(expected, found, strict=True):
        assert isinstance(one, Film)
        assert isinstance(other, Film)
        assert (one.digest, one.applied, one.attributes) == (
            other.digest, other.applied, other.attributes,
        )  # fmt: skip
    assert not list(own_temporary_folder.glob("ravl-object-*"))


def test_annotations_lie_beside_the_films(folder: Path, remote: RemotePath) -> None:
    regions = Config.model_validate(
        {
            "name": "a",
            "cohort": {"manifest": str(remote / "manifest.csv")},
            "task": {"classes": {"a": {"prompts": ["a"]}, "b": {"prompts": ["b"]}}},
            "model": {"path": "model"},
            "regions": {"sources": ["annotations"]},
            "evidence": {"relevance": "r.yaml"},
        }
    ).regions
    boxes = []
    for place in (folder, remote):
        cohort = listed(place)
        film = reader_of(place).film(cohort, 0)
        boxes.append(RegionProposer.of(regions, cohort).propose(film))
    np.testing.assert_array_equal(boxes[0].boxes, boxes[1].boxes)
    assert [kind.source for kind in boxes[1].kinds] == ["annotations"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_and_a_large_film_are_set_aside_by_their_rows(
    remote: RemotePath, workers: int
) -> None:
    cohort = listed(remote)
    store = MemoryFileSystem.store
    del store[cohort.paths[2].as_posix().removeprefix("memory:/")]
    atomic_write_bytes(cohort.paths[4], bytes(2_000_001))

    found = list(reader_of(remote, workers, max_file_mb=2).films(cohort))

    aside = {film.row: film.reason for film in found if isinstance(film, RejectedFilm)}
    assert aside == {4: "missing", 6: "too_large"}
    assert sum(isinstance(film, Film) for film in found) == FILMS - 2
    told = " ".join(film.message for film in found if isinstance(film, RejectedFilm))
    assert "the file has 2 MB; expected at most 2" in told
    assert "memory" not in told
    assert "hospital" not in told


def test_a_missing_report_sets_its_row_aside(remote: RemotePath) -> None:
    del MemoryFileSystem.store["/hospital/cohort/reports/3.txt"]
    atomic_write_bytes(remote / "reports" / "5.txt", bytes(1_000_001))
    cohort = listed(remote)
    assert {film.row: film.reason for film in cohort.rejected} == {
        5: "report_unreadable",
        7: "report_unreadable",
    }
    assert "no such file" in cohort.rejected[0].message
    assert "over 1 MB" in cohort.rejected[1].message


@pytest.mark.parametrize(
    "cell",
    [
        "../secret/film.dcm",
        "films/../../secret/film.dcm",
        "memory://hospital/secret/film.dcm",
        "memory://hospital/cohort/../secret/film.dcm",
        "memory://hospital/cohort/%2e%2e/secret/film.dcm",
        "memory://other/film.dcm",
        "memory://",
        "s3://hospital/cohort/film.dcm",
        "http://127.0.0.1:1/film.dcm",
        "hf://datasets/a/b",
        "http://[::1",
        "ssh://",
        "file:///etc/passwd",
        "/etc/passwd",
    ],
)
def test_what_leads_out_of_the_folder_is_set_aside(
    folder: Path, remote: RemotePath, cell: str
) -> None:
    table = pd.read_csv(folder / "manifest.csv")
    table.loc[0, "image"] = cell
    table.loc[1, "report_path"] = cell
    atomic_write_bytes(remote / "manifest.csv", table.to_csv(index=False).encode())

    cohort = listed(remote)

    assert [(film.row, film.reason) for film in cohort.rejected] == [
        (2, "outside_root"),
        (3, "outside_root"),
    ]
    assert not {2, 3} & set(cohort.rows.tolist())


@pytest.mark.parametrize("here", [True, False])
def test_other_folders_and_storages_are_roots(folder: Path, remote: RemotePath, here: bool) -> None:
    """A manifest of one place, films of the other; their URLs or paths are absolute."""
    table = pd.read_csv(folder / "manifest.csv").drop(columns=["report_path", "annotation"])
    manifest, films = (folder, remote) if here else (remote, folder)
    table["image"] = [str(films / name) for name in table["image"]]
    atomic_write_bytes(manifest / "other.csv", table.to_csv(index=False).encode())

    cohort = read_manifest(manifest / "other.csv", split=None, roots=(films,))

    found = list(FilmReader(roots=(manifest, films)).films(cohort))
    assert all(isinstance(film, Film) for film in found)
    aside = read_manifest(manifest / "other.csv", split=None).rejected
    assert {film.reason for film in aside} == {"outside_root"}
    refused = list(FilmReader(roots=(manifest,)).films(cohort))
    assert {film.reason for film in refused if isinstance(film, RejectedFilm)} == {"outside_root"}


@pytest.mark.parametrize(
    ("fault", "error", "match", "workers"),
    [
        (TimeoutError(), StorageError, "gives no answer", 0),
        (TimeoutError(), StorageError, "gives no answer", 1),
        (ConnectionResetError(), StorageError, "cannot be reached", 0),
        (PermissionError(), ConfigError, "denies access", 0),
        (OSError(28, "No space left"), ConfigError, r"no room for a copy .*TMPDIR", 0),
    ],
    ids=["late", "late, of a worker", "gone", "denied", "full"],
)
def test_a_fault_of_the_storage_is_no_fault_of_a_film(
    remote: RemotePath,
    monkeypatch: pytest.MonkeyPatch,
    fault: OSError,
    error: type[Exception],
    match: str,
    workers: int,
) -> None:
    cohort = listed(remote)
    honest = MemoryFileSystem.get_file

    def get(self: MemoryFileSystem, url: str, *told: object, **more: object) -> None:
        if str(cohort.paths[3]).endswith(url.rpartition("/")[2]):
            raise fault
        honest(self, url, *told, **more)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get)
    films = reader_of(remote, workers).films(cohort)
    assert all(isinstance(next(films), Film) for _ in range(3))
    with pytest.raises(error, match=match) as caught:
        next(films)
    assert "hospital" not in str(caught.value)
    films.close()


def test_a_manifest_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"'none\.csv' does not exist\. Expected a bucket"):
        read_manifest(RemotePath("memory://nowhere/none.csv"), split=None)


def test_a_header_is_asked_in_a_storage_too(remote: RemotePath) -> None:
    assert declares_burned_in(listed(remote).paths[0])  # as phantoms say
    assert not declares_burned_in(remote / "none.dcm")
