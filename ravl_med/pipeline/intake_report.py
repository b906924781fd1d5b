"""What a folder or a manifest holds, in counts: nothing of it names a patient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ravl_med.cohort.attributes import number_sites
from ravl_med.evidence.cohort_summary import NOT_STATED, age_band
from ravl_med.pipeline.prevalence import Prevalence, prevalence_lines

__all__ = ["IntakeReport", "attribute_values", "count_attributes", "count_findings"]

_SHOWN = 12  # values of an attribute on one line
_REASONS = {
    "report": "radiology reports",
    "not_dicom": "no DICOM file",
    "other_modality": "another modality",
    "other_body_part": "another part of the body",
    "not_frontal": "a lateral or another view",
    "for_processing": "raw films, not for presentation",
    "no_frontal_chest": "header silent, and the pixels show no frontal chest",
    "duplicate_pixels": "the same pixels as an earlier file",
    "no_pixel_data": "no image",
}


@dataclass(frozen=True, slots=True)
class IntakeReport:
    """What was looked at.

    Attributes
    ----------
    files : int - files, or rows of a manifest
    films : int - that can be audited
    patients, studies : int - of them
    rejected : mapping of reason to count
    by_pixels : int - films that were kept by their pixels, the header being silent
    attributes : mapping of attribute to (value to count)
    applied : mapping of str to int - how stored values became pixels
    reports : mapping of source to count - films with a report
    findings : mapping of finding to (cell to count) - cells 1, 0, -1 and blank
    findings_from : str - ``"table"``, ``"manifest"``, ``"reports"``, blank, or, where no film was
        kept, ``"reports without a film"``
    unrecognised : int - reports in which nothing was recognised
    prevalence : mapping - findings by value of each attribute, as `count_prevalence` gives them
    hidden_below : int - counts of fewer patients are hidden in the prevalence
    """

    files: int
    films: int
    patients: int
    studies: int
    rejected: Mapping[str, int]
    by_pixels: int = 0
    attributes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    applied: Mapping[str, int] = field(default_factory=dict)
    reports: Mapping[str, int] = field(default_factory=dict)
    findings: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    findings_from: str = ""
    unrecognised: int = 0
    prevalence: Prevalence = field(default_factory=dict)
    hidden_below: int = 0

    def lines(self) -> list[str]:
        """Return the report, a few words a line."""
        told = [
            f"{self.files} files looked at, {self.films} films kept: {self.patients} patients, "
            f"{self.studies} studies.",
        ]
        if self.by_pixels:
            told.append(f"{self.by_pixels} of them by their pixels, the header being silent.")
        if self.rejected:
            told += ["", "Not kept"]
        for reason, count in sorted(self.rejected.items(), key=lambda entry: -entry[1]):
            words = _REASONS.get(reason)
            told.append(f"  {count:6d}  {reason}{f': {words}' if words else ''}")
        if self.films:
            told += ["", "Films kept"]
            for name, counts in self.attributes.items():
                told.append(f"  {name.replace('_', ' ')}: {_listed(counts)}")
            told.append(f"  pixels: {_listed(self.applied)}")
            told.append(f"  reports: {_listed(self.reports) or 'none'}")
        by_attribute = prevalence_lines(self.prevalence, self.hidden_below)
        return [*told, *self._overall(), *by_attribute]

    def _overall(self) -> list[str]:
        if not self.findings:
            return []
        told = ["", f"Findings, from {self.findings_from}: present, absent, uncertain, not stated"]
        width = max(len(name) for name in self.findings)
        for name, cells in self.findings.items():
            numbers = "".join(f"{cells.get(cell, 0):8d}" for cell in ("1", "0", "-1", ""))
            told.append(f"  {name:<{width}}{numbers}")
        if self.unrecognised:
            told.append(f"  reports in which nothing is recognised: {self.unrecognised}")
        return told


def count_attributes(
    films: Sequence[Mapping[str, str]], names: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Count the values of attributes; ages in bands, institutions by number, blanks as such.

    Parameters
    ----------
    films : sequence of mapping of attribute to value
    names : sequence of str - attributes, in the order of the report
    """
    counted = {name: Counter(values) for name, values in attribute_values(films, names).items()}
    return {
        name: dict(counts.most_common())
        for name, counts in counted.items()
        if set(counts) - {NOT_STATED}
    }


def attribute_values(
    films: Sequence[Mapping[str, str]], names: Sequence[str]
) -> dict[str, list[str]]:
    """Return the values of attributes as they may be told, film by film.

    Parameters
    ----------
    films : sequence of mapping of attribute to value
    names : sequence of str - attributes, in the order of the report
    """
    told = {}
    for name in names:
        values = [film.get(name, "") for film in films]
        if name == "site":
            values = number_sites(values)
        if name == "age":
            values = [age_band(value) for value in values]
        told[name] = [value or NOT_STATED for value in values]
    return told


def count_findings(
    films: Sequence[Mapping[str, str]], names: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Count the cells of findings, the most frequent finding first.

    Parameters
    ----------
    films : sequence of mapping of finding to cell - 1, 0, -1 or blank
    names : sequence of str
    """
    counted = {name: dict(Counter(film.get(name, "") for film in films)) for name in names}
    stated = {name: cells for name, cells in counted.items() if set(cells) - {""}}
    return dict(sorted(stated.items(), key=lambda entry: -entry[1].get("1", 0)))


def _listed(counts: Mapping[str, int]) -> str:
    named = [f"{value} {count}" for value, count in list(counts.items())[:_SHOWN]]
    if len(counts) > _SHOWN:
        named.append(f"and {len(counts) - _SHOWN} more")
    return ", ".join(named)
