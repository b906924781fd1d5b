"""The structures that the segmenter knows: anatomy of a chest, and what is not of the body."""

from __future__ import annotations

from ravl_med.cohort.phantom import ANATOMY

__all__ = ["ANATOMY", "ARTIFACTS", "LETTERS", "LINES", "STRUCTURES"]

ARTIFACTS: tuple[str, ...] = (
    "generator", "lead", "tube", "electrode", "wire", "marker", "text", "metal", "border",
)  # fmt: skip
"""Things that are not of the body. A wire leaves an electrode and a lead a generator; metal is any
other dense thing, such as clips, buttons and jewellery; the border is what was not exposed."""

LETTERS = ("marker", "text")
"""Artifacts that are written."""

LINES = ("lead", "tube", "wire")
"""Artifacts that are long and thin."""

STRUCTURES: tuple[str, ...] = (*ANATOMY, *ARTIFACTS)
"""Channels of the segmenter, in order."""
