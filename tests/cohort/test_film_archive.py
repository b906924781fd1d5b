"""A folder of an archive: what is kept, what is not and why, which report belongs where."""

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image

from ravl_med.cohort.archive import ArchiveSurvey, find_files, survey_archive
from ravl_med.config.cohort import ReadingConfig
from ravl_med.errors import ConfigError, DataError
from ravl_med.phantoms.cohort import synthesize

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films in folders under odd names, reports as text and table, and every other kind of file."""
    root = tmp_path_factory.mktemp("archive")
    synthesize(root / "made", images=40, size=64, seed=1, workers=1)
    films = sorted((root / "made" / "images").iterdir())[:8]
    tree = root / "tree"
    for number, film in enumerate(films):
        target = tree / f"PAT{number % 3}" / f"IM{number}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(film, target)
        if number == 6:
            retag(target, ViewPosition="", BodyPartExamined="", StudyDescription="")
        if number == 7:
            retag(target, ViewPosition="LL")
    accession = [str(pydicom.dcmread(film).AccessionNumber) for film in films]
    (tree / "reports").mkdir()
    (tree / "reports" / f"{accession[0]}.txt").write_text("Cardiomegaly.", encoding="utf-8")
    (tree / "ris.csv").write_text(
        f"accession,report\n{accession[1]},No pleural effusion.\n", encoding="utf-8"
    )
    (tree / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    shutil.copy(tree / "PAT0" / "IM0", tree / "copy.dcm")
    shutil.copy(BUNDLED / "CT_small.dcm", tree / "ct")
    shutil.copy(BUNDLED / "reportsi.dcm", tree / "sr")
    (tree / "notes.pdf").write_bytes(b"%PDF")
    (tree / "DICOMDIR").write_bytes(b"x")
    (tree / ".hidden").write_bytes(b"x")
    (tree / "link").symlink_to(films[9] if len(films) > 9 else films[0])
    return tree


def retag(path: Path, **tags: str) -> None:
    dataset = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path)


def survey(tree: Path, *, lungs: bool = True, tables: tuple[Path, ...] = ()) -> ArchiveSurvey:
    def is_frontal(pixels: NDArray[np.float32]) -> bool:
        assert pixels.ndim == 2
        return lungs

    return survey_archive(tree, ReadingConfig(), is_frontal=is_frontal, workers=1, tables=tables)


def test_what_is_kept_and_why_the_rest_is_not(tree: Path) -> None:
    found = survey(tree)
    assert found.files == 15
    assert len(found.films) == 7
    assert found.by_pixels == 1
    assert found.rejected == {
        "report": 3,  # a text file, a table, a structured report
        "not_dicom": 2,
        "other_modality": 1,
        "duplicate_pixels": 1,
        "not_frontal": 1,
    }
    assert [film.path for film in found.films] == sorted(film.path for film in found.films)
    assert all(film.found.pixels is None for film in found.films)


def test_pixels_decide_where_the_header_is_silent(tree: Path) -> None:
    found = survey(tree, lungs=False)
    assert found.rejected["no_frontal_chest"] == 1
    assert len(found.films) == 6


def test_reports_find_their_films(tree: Path) -> None:
    reports = {film.path.name: film.report for film in survey(tree).films}
    by_source = {report.source for report in reports.values()}
    assert by_source == {"text file", "table", ""}
    assert reports["IM1"].text == "No pleural effusion."
    assert sum(report.path is not None for report in reports.values()) == 1


def test_links_hidden_files_and_directories_are_passed_by(tree: Path) -> None:
    names = {path.name for path in find_files(tree)}
    assert not names & {"link", ".hidden", "DICOMDIR"}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'nowhere' is no folder"):
        survey(tmp_path / "nowhere")


def test_a_table_that_was_named_must_be_one(tree: Path) -> None:
    with pytest.raises(DataError, match=r"--reports: the table has no column that names films"):
        survey(tree, tables=(tree / "other.csv",))


def test_odd_entries_of_a_folder_are_counted_and_the_rest_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").touch()
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(1500):  # deeper than Python recurses
            os.mkdir("e", dir_fd=handle)
            inner = os.open("e", os.O_RDONLY, dir_fd=handle)
            os.close(handle)
            handle = inner
        (tmp_path / "b\udce9r.dcm").touch()  # Latin-1
        os.mkfifo(tmp_path / "pipe.dcm")
        unread: Counter[str] = Counter()
        assert [path.name for path in find_files(tmp_path, unread)] == ["a.dcm"]
        assert unread["name_no_text"] == 1
        assert set(unread) <= {"name_no_text", "folder_not_read"}
    finally:  # pytest recurses too when it tidies up
        os.close(handle)
        subprocess.run(["rm", "-rf", str(tmp_path / "e")], check=True)


def test_a_folder_without_rights_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: object) -> object:
        if str(path).endswith("closed"):
            raise PermissionError
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refuse)  # root may look into everything
    unread: Counter[str] = Counter()
    assert find_files(tmp_path, unread) == []
    assert unread == {"folder_not_read": 1}


def images(folder: Path, count: int) -> None:
    rng = np.random.default_rng(count)
    folder.mkdir(exist_ok=True)
    for number in range(count):
        pixels = rng.integers(0, 255, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def test_images_are_films_with_what_a_table_says(tmp_path: Path) -> None:
    images(tmp_path, 4)
    rows = "image,patient,view,sex,edema\n0.png,a,AP Supine,female,1\n1.png,a,L,,0\n2.png,b,,,0\n"
    (tmp_path / "t.csv").write_text(rows, encoding="utf-8")
    found = survey(tmp_path)
    assert [film.found.patient for film in found.films] == ["a", "b", ""]
    assert found.films[0].found.attributes == {"view": "AP", "sex": "F"}
    assert found.films[0].report.findings == {"edema": "1"}
    assert found.rejected == {"report": 1, "not_frontal": 1}
    assert found.by_pixels == 2
    assert len(survey(tmp_path, lungs=False).films) == 1


def test_images_beside_dicom_are_films_where_a_table_names_them(tree: Path) -> None:
    images(tree / "previews", 2)
    table = tree / "named.csv"
    table.write_text("file,patient\npreviews/1.png,x\n", encoding="utf-8")
    found = survey(tree)
    table.unlink()
    assert found.rejected["beside_dicom"] == 1
    assert [film.path.name for film in found.films if not film.found.has_header] == ["1.png"]
    assert survey(tree).rejected["beside_dicom"] == 2
    shutil.rmtree(tree / "previews")
