"""How frequent each finding is among the films with each value of an acquisition attribute.

A finding that is told more often on portable films, or at one site, is what a model can learn the
attribute for. Few patients are hidden: unlike the other counts of an intake, these tie a finding to
a kind of patient.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import product

from ravl_med.evidence.cohort_summary import NOT_STATED
from ravl_med.evidence.suppression import HIDDEN, hidden_cells

__all__ = ["Prevalence", "count_prevalence", "prevalence_lines"]

Prevalence = Mapping[str, Mapping[str, Mapping[str, tuple[int, int]]]]
"""By attribute, finding and value: films with the finding, and films. Hidden ones are -1."""

_WIDTH = 100
_VALUES_SHOWN = 12
_PRESENT = "1"
_NO_BREAK = "\u00a0"


def count_prevalence(
    values: Mapping[str, Sequence[str]],
    findings: Mapping[str, Sequence[str]],
    patients: Sequence[Hashable],
    least: int,
) -> dict[str, dict[str, dict[str, tuple[int, int]]]]:
    """Count the films with each finding by value of each attribute.

    Parameters
    ----------
    values : mapping of attribute to sequence of str, length N - as they may be told
    findings : mapping of finding to sequence of str, length N - cells 1, 0, -1 or blank
    patients : sequence, length N - whatever tells them apart
    least : int - smallest number of patients that may be told; 0 tells all

    Returns
    -------
    dict of attribute, finding and value to (films with it, films) - attributes of which two values
        or more are stated, the most frequent value first; films with the finding are -1 where few
        patients have it, or have it not, or where it would tell of another value
    """
    counted: dict[str, dict[str, dict[str, tuple[int, int]]]] = {}
    for attribute, told in values.items():
        films = Counter(told)
        if len(set(films) - {NOT_STATED}) < 2:
            continue
        names = [name for name, _ in films.most_common()]
        counted[attribute] = {
            finding: _by_value(names, told, cells, patients, least)
            for finding, cells in findings.items()
        }
    return counted


def _by_value(
    names: Sequence[str],
    told: Sequence[str],
    cells: Sequence[str],
    patients: Sequence[Hashable],
    least: int,
) -> dict[str, tuple[int, int]]:
    """Count one finding by value of one attribute."""
    films = Counter(zip(told, (cell == _PRESENT for cell in cells), strict=True))
    kinds = set(zip(told, (cell == _PRESENT for cell in cells), patients, strict=True))
    who = Counter((value, present) for value, present, _ in kinds)
    hidden: frozenset[int] = frozenset()
    for _, present in product(range(2), (True, False)):  # what one row hides, the other hides
        hidden |= hidden_cells([who[name, present] for name in names], least, hidden)
    return {
        name: (
            HIDDEN if at in hidden else films[name, True],
            films[name, True] + films[name, False],
        )
        for at, name in enumerate(names)
    }


def prevalence_lines(prevalence: Prevalence, least: int) -> list[str]:
    """Return the counts, a finding a line, in lines of at most 100 characters.

    Parameters
    ----------
    prevalence : mapping - from `count_prevalence`
    least : int - with which it was counted
    """
    told = []
    for attribute, findings in prevalence.items():
        told += ["", f"Findings by {attribute.replace('_', ' ')}: present, of the films with it"]
        silent = [name for name, counts in findings.items() if not _tells(counts)]
        for name, counts in findings.items():
            if name not in silent:
                told += _wrapped(f"  {name}:", _listed(counts))
        if silent:
            told += _wrapped(f"  hidden, of fewer than {least} patients:", silent)
    return told


def _tells(counts: Mapping[str, tuple[int, int]]) -> bool:
    return any(present != HIDDEN for present, _ in counts.values())


def _listed(counts: Mapping[str, tuple[int, int]]) -> list[str]:
    words = [
        f"{value} hidden"
        if present == HIDDEN
        else f"{value} {present} of {films} ({present / films:.0%})"
        for value, (present, films) in list(counts.items())[:_VALUES_SHOWN]
    ]
    if len(counts) > _VALUES_SHOWN:
        words.append(f"and {len(counts) - _VALUES_SHOWN} more")
    return words


def _wrapped(head: str, items: Sequence[str]) -> list[str]:
    """Join items in lines that end between them, not inside."""
    whole = ", ".join(item.replace(" ", _NO_BREAK) for item in items)
    lines = textwrap.wrap(f"{head} {whole}", _WIDTH, subsequent_indent="      ")
    return [line.replace(_NO_BREAK, " ") for line in lines]
