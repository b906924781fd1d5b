"""Paths of a manifest stay in its folder, their links followed."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ravl_med.cohort.table import (
    ManifestFiles,
    path_is_inside,
    require_path_inside,
    rows_with_outside_paths,
)
from ravl_med.errors import ImageError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    inside, outside = tmp_path / "cohort", tmp_path / "elsewhere"
    (inside / "films").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.dcm").touch()
    (inside / "films" / "link.dcm").symlink_to(outside / "secret.dcm")
    (inside / "films" / "folder").symlink_to(outside)
    (inside / "films" / "own.dcm").symlink_to(inside / "films")
    return inside, outside


def test_files_of_a_column_are_paths_when_they_are_asked_for(tmp_path: Path) -> None:
    files = ManifestFiles(["a.dcm", "sub/b.dcm", "/far/c.dcm"], tmp_path)
    paths = (tmp_path / "a.dcm", tmp_path / "sub" / "b.dcm", Path("/far/c.dcm"))
    assert (tuple(files), len(files)) == (paths, 3)
    assert (files[-1], tuple(files[1:]), tuple(files.take([2, 0]))) == (
        paths[2],
        paths[1:],
        (paths[2], paths[0]),
    )
    assert tuple(pickle.loads(pickle.dumps(files))) == paths  # workers are sent some


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("films/a.dcm", True),
        ("films/../films/a.dcm", True),
        ("films/own.dcm", True),
        ("../elsewhere/secret.dcm", False),
        ("films/../../elsewhere/secret.dcm", False),
        ("films/link.dcm", False),
        ("films/folder/secret.dcm", False),
        ("/etc/passwd", False),
    ],
)
def test_paths_and_links(folders: tuple[Path, Path], name: str, allowed: bool) -> None:
    inside, outside = folders
    assert path_is_inside(inside / name, (inside,)) is allowed
    assert path_is_inside(inside / name, ())
    assert path_is_inside(inside / name, (inside, outside, Path("/etc")))
    if not allowed:
        with pytest.raises(ImageError, match=r"Name the other folder in cohort\.roots") as caught:
            require_path_inside(inside / name, (inside,))
        assert caught.value.reason == "outside_root"
        assert "secret" not in str(caught.value)


def test_a_ring_of_links_is_left_to_the_reader(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert path_is_inside(tmp_path / "a", (tmp_path,))
    assert path_is_inside(tmp_path / "a\0b", (tmp_path,))


def test_reports_and_annotations_of_rows(folders: tuple[Path, Path]) -> None:
    inside, _ = folders
    table = pd.DataFrame(
        {
            "report_path": ["films/r.txt", "../elsewhere/r.txt", "", "/etc/passwd"],
            "annotation": ["a.png; ../elsewhere/b.png", "", "films/folder/c.png", ""],
        }
    )
    taken = np.array([True, True, True, False])
    assert rows_with_outside_paths(table, taken, inside, (inside,)) == [0, 1, 2]
    assert rows_with_outside_paths(table[["report_path"]], taken, inside, (inside,)) == [1]
    assert rows_with_outside_paths(table[[]], taken, inside, (inside,)) == []
