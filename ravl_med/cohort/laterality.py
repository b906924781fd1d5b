"""Which side of the patient lies at the left edge of a picture, where its file says so.

What a file does not state stays unknown: neither pixels nor the view are asked.

References
----------
DICOM PS3.3 C.7.6.1.1.1, Patient Orientation. It is said of the stored rows and columns, so that the
flips that came before need no care: Field of View Horizontal Flip (0018,7034) tells what *has been*
applied to the stored pixels (C.8.11.4, DX Detector Module). Laterality (0020,0060) and Image
Laterality (0020,0062) name one of a pair of body parts, such as a breast, and no edge of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import pydicom

__all__ = ["EDGES", "Edge", "edge_of", "left_edge_of"]

Edge = Literal["", "R", "L", "A", "P", "H", "F"]
"""Right, left, anterior, posterior, head or foot of the patient; blank: not stated."""

EDGES: tuple[Edge, ...] = get_args(Edge)

_OPPOSITE: Mapping[str, Edge] = {"R": "L", "L": "R", "A": "P", "P": "A", "H": "F", "F": "H"}
_AXIS = {letter: frozenset((letter, other)) for letter, other in _OPPOSITE.items()}
_MOST_LETTERS = 3


def edge_of(text: str) -> Edge:
    """Return a letter as an edge; blank for anything else."""
    return next((edge for edge in EDGES if edge == text), "")


def left_edge_of(dataset: pydicom.Dataset) -> Edge:
    r"""Return the side of the patient at the left edge of a DICOM image.

    Patient Orientation (0020,0020) names where its rows run, towards the right edge, and where its
    columns run; of a compound value such as ``LF`` the first letter is the main direction. ``L\F``
    has the patient's right at the left edge, ``R\F`` is mirrored, ``A\F`` is a lateral film.

    Parameters
    ----------
    dataset : pydicom.Dataset

    Returns
    -------
    Edge - blank where the value is missing, is not two directions on different axes, or is said of
        a quadruped, whose letters mean something else
    """
    try:
        stated = dataset.get("PatientOrientation")
        kind = str(dataset.get("AnatomicalOrientationType") or "BIPED").strip()
    except Exception:  # a value that its VR does not allow
        return ""
    if kind != "BIPED" or not isinstance(stated, Sequence) or isinstance(stated, (str, bytes)):
        return ""
    if len(stated) != 2:
        return ""
    rows, columns = (_main_direction(str(value).strip(" ")) for value in stated)
    if not rows or not columns or _AXIS[rows] == _AXIS[columns]:
        return ""
    return _OPPOSITE[rows]


def _main_direction(value: str) -> str:
    """Return the first letter of a direction; blank where it is none."""
    if not 1 <= len(value) <= _MOST_LETTERS or any(letter not in _OPPOSITE for letter in value):
        return ""
    axes = {_AXIS[letter] for letter in value}
    return value[0] if len(axes) == len(value) else ""
