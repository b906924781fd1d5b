"""Acquisition attributes of a cohort: what the manifest states, and what headers add to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ravl_med.cohort.manifest import ATTRIBUTES, Cohort

__all__ = ["add_header_attributes", "number_sites"]


def add_header_attributes(
    cohort: Cohort, headers: Sequence[Mapping[str, str]], from_header: bool | None
) -> Cohort:
    """Return the cohort with what the headers of its films state.

    Parameters
    ----------
    cohort : Cohort
    headers : sequence of mapping, length N - as `read_acquisition` gives them
    from_header : bool or None - None: only attributes that the manifest has no column for; True:
        blank cells as well; False: none

    Returns
    -------
    Cohort - an attribute that no header states is not added; institutions are numbered, since their
        names are not to be printed
    """
    if from_header is False or len(headers) != len(cohort):
        return cohort
    attributes = dict(cohort.attributes)
    for name in ATTRIBUTES:
        stated = [header.get(name, "") for header in headers]
        if name == "site":
            stated = number_sites(stated)
        before = attributes.get(name)
        if not any(stated) or (before is not None and from_header is None):
            continue
        if before is None:
            attributes[name] = tuple(stated)
        else:
            attributes[name] = tuple(a or b for a, b in zip(before, stated, strict=True))
    return replace(cohort, attributes=attributes)


def number_sites(names: Sequence[str]) -> list[str]:
    """Return ``site 1``, ``site 2`` ... in the order in which institutions first appear.

    Parameters
    ----------
    names : sequence of str - institutions; blank stays blank
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(filter(None, names)), 1)}
    return [f"site {numbers[name]}" if name else "" for name in names]
