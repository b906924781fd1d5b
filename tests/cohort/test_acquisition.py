"""Attributes of a header: what is stated, in one form; nothing is guessed."""

from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from ravl_med.cohort.dicom_header import read_acquisition, view_of


def header(**tags: Any) -> Dataset:
    dataset = Dataset()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def code(value: str) -> Sequence:
    item = Dataset()
    item.CodeValue = value
    return Sequence([item])


def test_all_attributes() -> None:
    found = read_acquisition(
        header(
            ViewPosition="AP",
            SeriesDescription="Chest portable",
            PatientSex="F",
            PatientAge="063Y",
            InstitutionName="St. Elsewhere",
            Manufacturer=" Acme  Imaging ",
            ManufacturerModelName="X-1",
            StudyDate="20210703",
            PatientName="Doe^Jane",
        )
    )
    assert found == {
        "view": "AP",
        "portable": "yes",
        "sex": "F",
        "age": "63",
        "site": "St. Elsewhere",
        "manufacturer": "Acme Imaging",
        "model": "X-1",
        "study_year": "2021",
    }


def test_what_is_not_stated_is_missing() -> None:
    assert read_acquisition(header()) == {}
    dataset = header(PatientSex="X", ViewPosition="")
    dataset.add_new("StudyDate", "SH", "2021")
    assert read_acquisition(dataset) == {}


@pytest.mark.parametrize(
    ("tags", "view"),
    [
        ({"ViewPosition": "PA"}, "PA"),
        ({"ViewPosition": "LL"}, "LATERAL"),
        ({"ViewPosition": "RLO"}, "RLO"),
        ({"ViewCodeSequence": code("R-10214")}, "PA"),
        ({"ViewCodeSequence": code("399067008")}, "LATERAL"),
        ({"SeriesDescription": "Thorax a.p. liegend"}, "AP"),
        ({"SeriesDescription": "W033 Chest Lat."}, "LATERAL"),
        ({"SeriesDescription": "Chest, PA and lateral"}, ""),
        ({"SeriesDescription": "PA", "StudyDescription": "XR CHEST PA AND LATERAL"}, "PA"),
        ({"SeriesDescription": "LL", "StudyDescription": "XR CHEST PA AND LATERAL"}, "LATERAL"),
        ({"StudyDescription": "CHEST PA AND LATERAL", "ProtocolName": "Chest PA"}, "PA"),
        ({"SeriesDescription": "Chest", "StudyDescription": "Portable AP"}, "AP"),
        ({"StudyDescription": "apical chest"}, ""),
        ({}, ""),
    ],
)
def test_views(tags: dict[str, Any], view: str) -> None:
    assert view_of(header(**tags)) == view


@pytest.mark.parametrize(
    ("tags", "age"),
    [
        ({"PatientAge": "063Y"}, "63"),
        ({"PatientAge": "018M"}, "018M"),
        ({"PatientAge": "102Y"}, "90"),
        ({"PatientBirthDate": "19600704", "StudyDate": "20210703"}, "60"),
        ({"PatientBirthDate": "19600703", "StudyDate": "20210703"}, "61"),
        ({"PatientBirthDate": "20600703", "StudyDate": "20210703"}, ""),
        ({"PatientBirthDate": "19600703"}, ""),
        ({"PatientAge": "old"}, ""),
    ],
)
def test_ages(tags: dict[str, Any], age: str) -> None:
    dataset = Dataset()
    for name, value in tags.items():
        dataset.add_new(name, {"PatientAge": "SH"}.get(name, "DA"), value)
    assert read_acquisition(dataset).get("age", "") == age


def test_values_that_would_break_a_line() -> None:
    dataset = Dataset()
    dataset.add_new("Manufacturer", "LT", "Acme\r\n\x1b[31m" + "x" * 200)
    value = read_acquisition(dataset)["manufacturer"]
    assert value.isprintable()
    assert len(value) == 64
