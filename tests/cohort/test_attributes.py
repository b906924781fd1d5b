"""What headers add to the attributes of a manifest."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from ravl_med.cohort.manifest import Cohort, add_header_attributes, number_sites, read_manifest

HEADERS: list[Mapping[str, str]] = [
    {"view": "AP", "site": "St. Elsewhere", "study_year": "2020"},
    {"view": "PA", "sex": "F"},
    {"site": "St. Elsewhere"},
]


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    path = tmp_path / "manifest.csv"
    path.write_text("image,patient,view,sex\na,1,LATERAL,M\nb,2,,\nc,3,,\n", encoding="utf-8")
    return read_manifest(path, split=None)


def test_by_default_only_columns_that_the_manifest_lacks(cohort: Cohort) -> None:
    found = add_header_attributes(cohort, HEADERS, None).attributes
    assert found == {
        "view": ("LATERAL", "", ""),
        "sex": ("M", "", ""),
        "site": ("site 1", "", "site 1"),
        "study_year": ("2020", "", ""),
    }


def test_blank_cells_where_it_is_asked_for(cohort: Cohort) -> None:
    found = add_header_attributes(cohort, HEADERS, True).attributes
    assert found["view"] == ("LATERAL", "PA", "")
    assert found["sex"] == ("M", "F", "")


def test_nothing_where_it_is_switched_off(cohort: Cohort) -> None:
    assert add_header_attributes(cohort, HEADERS, False) is cohort


def test_sites_are_numbered_as_they_come() -> None:
    assert number_sites(["b", "", "a", "b"]) == ["site 1", "", "site 2", "site 1"]
