"""What a file states of the left edge of its picture; all else stays unknown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from ravl_med.cohort.dicom_header import EDGES, edge_of, left_edge_of
from ravl_med.cohort.film import Film, FilmReader
from ravl_med.cohort.manifest import read_manifest
from ravl_med.phantoms.anatomy import draw_body
from ravl_med.phantoms.dicom import Acquisition, write_dicom
from ravl_med.phantoms.film import render_phantom


def header(orientation: Any, **tags: Any) -> Dataset:
    dataset = Dataset()
    dataset.PatientOrientation = orientation
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


@pytest.mark.parametrize(
    ("stated", "edge"),
    [
        ("L\\F", "R"),  # frontal, as usual
        ("R\\F", "L"),  # mirrored
        ("L\\H", "R"),  # upside down
        ("R\\H", "L"),  # turned by half
        ("A\\F", "P"),  # lateral
        ("P\\F", "A"),
        ("F\\R", "H"),  # turned by a quarter
        ("H\\L", "F"),
        ("L\\P", "R"),  # axial
        ("LF\\FR", "R"),  # the first letter is the main direction
        ("RH\\HL", "L"),
        ("AL\\FP", "P"),
        ("LPF\\FRP", "R"),
        ("L \\F ", "R"),  # spaces around a code string mean nothing
    ],
)
def test_the_left_edge_is_opposite_to_where_the_rows_run(stated: str, edge: str) -> None:
    assert left_edge_of(header(stated)) == edge


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
@pytest.mark.parametrize(
    "stated",
    [
        "", None, "\\", "\\\\", "L", "L\\", "\\F", "L\\F\\P", "X\\Y", "L\\X", "l\\f", "LEFT\\FOOT",
        "L\\R", "L\\L", "LA\\RF", "LR\\F", "LL\\F", "LFPA\\F", "0\\1", "L/F", "\u2113\\F",
        "L\\F" * 40,
    ],
)  # fmt: skip
def test_what_is_not_two_directions_says_nothing(stated: Any) -> None:
    assert left_edge_of(header(stated)) == ""


def test_a_header_without_it_or_with_a_value_of_another_kind_says_nothing() -> None:
    assert left_edge_of(Dataset()) == ""
    broken = Dataset()
    broken.add(pydicom.DataElement((0x0020, 0x0020), "OB", b"L\\F"))
    assert left_edge_of(broken) == ""
    nested = Dataset()
    nested.add(pydicom.DataElement((0x0020, 0x0020), "SQ", [Dataset(), Dataset()]))
    assert left_edge_of(nested) == ""


def test_letters_of_a_quadruped_mean_something_else() -> None:
    assert left_edge_of(header("R\\L", AnatomicalOrientationType="QUADRUPED")) == ""
    assert left_edge_of(header("L\\F", AnatomicalOrientationType="QUADRUPED")) == ""
    assert left_edge_of(header("L\\F", AnatomicalOrientationType="BIPED")) == "R"


def test_a_flip_that_was_applied_and_a_paired_body_part_change_nothing() -> None:
    stated = {"FieldOfViewHorizontalFlip": "YES", "ImageLaterality": "L", "Laterality": "L"}
    assert left_edge_of(header("L\\F", **stated)) == "R"
    assert left_edge_of(header(None, ViewPosition="PA", **stated)) == ""


def test_a_letter_that_is_none_is_unknown() -> None:
    assert [edge_of(edge) for edge in EDGES] == list(EDGES)
    assert [edge_of(text) for text in ("r", "RL", "<b>", "unknown")] == [""] * 4


def body_on_film(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, heart and spine of a phantom."""
    body = draw_body((1, number), female=number % 2 == 0, age=50, enlarged=False)
    phantom = render_phantom(body, "no finding", (), seeds=((1, number), (2, number)), size=96)
    return phantom.pixels, phantom.structures["heart"], phantom.structures["spine"]


def column(mask: np.ndarray) -> float:
    return float(np.nonzero(mask)[1].mean())


@pytest.mark.parametrize("number", range(4))
def test_the_heart_of_a_phantom_lies_on_the_side_that_its_header_says(
    number: int, tmp_path: Path
) -> None:
    pixels, heart, spine = body_on_film(number)
    acquisition = Acquisition(1, "F", 50, "PA", "A", number % 4, 9, burned_in=False)
    write_dicom(tmp_path / "a.dcm", pixels, acquisition, seed=0, image=number)

    assert left_edge_of(pydicom.dcmread(tmp_path / "a.dcm")) == "R"
    assert column(heart) > column(spine) + 0.02 * pixels.shape[1]  # towards the patient's left


@pytest.mark.parametrize("workers", [0, 1])
def test_a_film_knows_its_left_edge_whichever_process_reads_it(
    workers: int, tmp_path: Path
) -> None:
    lines = ["image,patient"]
    stated = {"usual": ["L", "F"], "mirrored": ["R", "F"], "silent": None, "wrong": ["L", "L"]}
    for number, (name, orientation) in enumerate(stated.items()):
        path = tmp_path / f"{name}.dcm"
        acquisition = Acquisition(1, "F", 50, "PA", "A", 0, 9, burned_in=False)
        write_dicom(path, body_on_film(number)[0], acquisition, seed=0, image=number)
        film = pydicom.dcmread(path)
        film.PatientOrientation = orientation
        film.save_as(path)
        lines.append(f"{path.name},p{number}")
    noise = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "plain.png")
    (tmp_path / "manifest.csv").write_text("\n".join([*lines, "plain.png,p9"]) + "\n")
    reader = replace(FilmReader(), workers=workers)
    films = list(reader.films(read_manifest(tmp_path / "manifest.csv", split=None)))

    assert all(isinstance(film, Film) for film in films)
    assert [film.left_edge for film in films if isinstance(film, Film)] == ["R", "L", "", "", ""]
