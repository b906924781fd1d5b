"""The audited cohort in counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ravl_med.cohort.manifest import Cohort
from ravl_med.evidence.audit_result import CohortSummary

__all__ = ["summarise_cohort"]


def summarise_cohort(cohort: Cohort, applied: Sequence[str], *, synthetic: bool) -> CohortSummary:
    """Count the audited films by class and attribute, and the others by reason.

    Parameters
    ----------
    cohort : Cohort - the audited films
    applied : sequence of str, length N - how stored values became pixels
    synthetic : bool - phantoms only
    """
    attributes = {
        name: Counter(value or "not stated" for value in values)
        for name, values in cohort.attributes.items()
        if name != "age"
    }
    if "age" in cohort.attributes:
        attributes["age"] = Counter(_age_band(value) for value in cohort.attributes["age"])
    attributes["pixels"] = Counter(applied)
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
        attributes={name: dict(counts.most_common()) for name, counts in attributes.items()},
        radiology_reports=sum(bool(text) for text in cohort.radiology_reports),
        synthetic=synthetic,
    )


def _age_band(value: str) -> str:
    """Decade of an age such as ``63`` or ``063Y``; DICOM ages in months or days count as 0 to 9."""
    text = value.strip().upper()
    if text.endswith(("M", "W", "D")) and text[:-1].isdigit():
        return "0-9"
    try:
        years = int(float(text.removesuffix("Y")))
    except (ValueError, OverflowError):
        return "not stated"
    if years < 0:
        return "not stated"
    return "90+" if years >= 90 else f"{years // 10 * 10}-{years // 10 * 10 + 9}"
