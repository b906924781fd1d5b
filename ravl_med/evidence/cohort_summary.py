"""The audited cohort in counts."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ravl_med.cohort.manifest import Cohort
from ravl_med.evidence.audit_result import CohortSummary
from ravl_med.evidence.statistics import count_patients

__all__ = ["NOT_STATED", "age_band", "summarise_cohort"]

NOT_STATED = "not stated"
_BAND_STARTS = (0, 18, 40, 60, 80)
_BANDS = ("0-17", "18-39", "40-59", "60-79", "80+")
_PER_YEAR = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}


def summarise_cohort(cohort: Cohort, applied: Sequence[str], *, synthetic: bool) -> CohortSummary:
    """Count the audited films by class and attribute, and the others by reason.

    Parameters
    ----------
    cohort : Cohort - the audited films
    applied : sequence of str, length N - how stored values became pixels
    synthetic : bool - phantoms only
    """
    values = {
        name: [age_band(v) if name == "age" else v or NOT_STATED for v in told]
        for name, told in cohort.attributes.items()
    }
    by_class = {name: _count_classes(told, cohort) for name, told in values.items()}
    values["pixels"] = list(applied)
    if cohort.label_sources:
        values["label source"] = list(cohort.label_sources)
        values["label certainty"] = list(cohort.label_certainty)
    patients = cohort.patients.tolist()
    return CohortSummary(
        listed=cohort.listed,
        left_out=dict(cohort.left_out),
        rejected=dict(Counter(film.reason for film in cohort.rejected)),
        rejected_rows=tuple((f.row, f.reason, f.message) for f in cohort.rejected),
        images=len(cohort),
        patients=len(np.unique(cohort.patients)),
        images_by_class={
            name: int((cohort.labels == c).sum()) for c, name in enumerate(cohort.classes)
        },
        attributes={name: dict(Counter(told).most_common()) for name, told in values.items()},
        radiology_reports=sum(bool(text) for text in cohort.radiology_reports),
        synthetic=synthetic,
        patients_by_class={
            name: len(np.unique(cohort.patients[cohort.labels == c]))
            for c, name in enumerate(cohort.classes)
        },
        attribute_patients={
            name: dict(Counter(value for value, _ in set(zip(told, patients, strict=True))))
            for name, told in values.items()
        },
        classes_by_attribute={name: films for name, (films, _) in by_class.items()},
        class_patients={name: patients for name, (_, patients) in by_class.items()},
    )


def _count_classes(
    told: Sequence[str], cohort: Cohort
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Count films, and patients, of each class by value, the most frequent value first."""
    member = cohort.labels[:, None] == np.arange(len(cohort.classes))
    films, patients = {}, {}
    for value, _ in Counter(told).most_common():
        inside = member & (np.array(told) == value)[:, None]
        films[value] = tuple(inside.sum(axis=0).tolist())
        patients[value] = tuple(count_patients(inside, cohort.patients).tolist())
    return films, patients


def age_band(value: str) -> str:
    """Name the band of an age such as ``63``, ``063Y`` or ``018M``.

    Children stand apart, since a film of a child is another examination; adults stand in bands of
    twenty years: decades would leave too few films of a decade to compare in most audits, and ages
    above 89 may not be told in any case.

    Parameters
    ----------
    value : str - years, or a DICOM age string (``Y``, ``M``, ``W`` or ``D`` at the end)

    Returns
    -------
    str - ``"0-17"``, ``"18-39"``, ``"40-59"``, ``"60-79"``, ``"80+"`` or ``"not stated"``
    """
    text = value.strip().upper()
    per_year = _PER_YEAR.get(text[-1:], 0.0)
    try:
        years = float(text[:-1] if per_year else text) / (per_year or 1.0)
    except ValueError:
        return NOT_STATED
    if not 0 <= years < np.inf:
        return NOT_STATED
    return _BANDS[bisect_right(_BAND_STARTS, years) - 1]
