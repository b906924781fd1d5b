"""The cohort in counts."""

from pathlib import Path

import numpy as np
import pytest

from ravl_med.cohort.manifest import Cohort
from ravl_med.cohort.table import ManifestFiles, RejectedFilm
from ravl_med.evidence.effects import age_band, summarise_cohort


def cohort(**attributes: tuple[str, ...]) -> Cohort:
    return Cohort(
        name="manifest.csv",
        rows=np.array([2, 3, 5, 8]),
        paths=ManifestFiles("abcd", Path()),
        patients=np.array([0, 0, 1, 2]),
        radiology_reports=("Heart is large.", "", "Clear.", ""),
        labels=np.array([1, 1, 0, 1]),
        classes=("no finding", "cardiomegaly", "edema"),
        attributes=attributes,
        listed=9,
        left_out={"other split": 3},
        rejected=(
            RejectedFilm(4, "truncated", "row 4 is short"),
            RejectedFilm(6, "truncated", "row 6 is short"),
        ),
    )


def test_counts_by_hand():
    summary = summarise_cohort(
        cohort(view=("PA", "", "PA", "AP")), ["a", "b", "a", "a"], synthetic=True
    )

    assert (summary.listed, summary.images, summary.patients) == (9, 4, 3)
    assert summary.left_out == {"other split": 3}
    assert summary.rejected == {"truncated": 2}
    assert summary.rejected_rows[0] == (4, "truncated", "row 4 is short")
    assert summary.images_by_class == {"no finding": 1, "cardiomegaly": 3, "edema": 0}
    assert summary.attributes == {
        "view": {"PA": 2, "not stated": 1, "AP": 1},
        "pixels": {"a": 3, "b": 1},
    }
    assert summary.classes_by_attribute == {  # no finding, cardiomegaly, edema
        "view": {"PA": (1, 1, 0), "not stated": (0, 1, 0), "AP": (0, 1, 0)}
    }
    assert summary.class_patients == summary.classes_by_attribute
    assert summary.prevalence("view", "PA", 1) == 0.5
    assert summary.radiology_reports == 2
    assert summary.synthetic


def test_films_of_one_patient_are_one_patient_of_a_class():
    summary = summarise_cohort(cohort(view=("PA",) * 4), ["a"] * 4, synthetic=False)

    assert summary.classes_by_attribute == {"view": {"PA": (1, 3, 0)}}
    assert summary.class_patients == {"view": {"PA": (1, 2, 0)}}


@pytest.mark.parametrize(
    ("age", "band"),
    [
        ("63", "60-79"),
        ("063Y", "60-79"),
        (" 9y ", "0-17"),
        ("17.9", "0-17"),
        ("18", "18-39"),
        ("39", "18-39"),
        ("40.5", "40-59"),
        ("018M", "0-17"),
        ("240M", "18-39"),
        ("012W", "0-17"),
        ("003D", "0-17"),
        ("79", "60-79"),
        ("80", "80+"),
        ("120Y", "80+"),
        ("", "not stated"),
        ("Y", "not stated"),
        ("old", "not stated"),
        ("nan", "not stated"),
        ("inf", "not stated"),
        ("1e999", "not stated"),
        ("-5", "not stated"),
    ],
)
def test_ages_are_told_in_bands_only(age, band):
    summary = summarise_cohort(cohort(age=(age,) * 4), ["a"] * 4, synthetic=False)

    assert age_band(age) == band
    assert summary.attributes["age"] == {band: 4}
