"""Where the structures of a film lie, and what finds them: the values that segmenters give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["SIDE", "Segmentation", "Segmenter"]

SIDE = 256
"""Side of a segmentation in pixels; films are squashed to a square."""


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """Where the structures of a film lie.

    Attributes
    ----------
    likelihoods : mapping of str to ndarray of shape (SIDE, SIDE), float32 - by structure, 0 to 1
    """

    likelihoods: Mapping[str, NDArray[np.float32]]

    def mask(self, *names: str, certain: float = 0.5) -> NDArray[np.bool_]:
        """Return where any of some structures lies; nothing of one that is not known."""
        found: NDArray[np.bool_] = np.zeros((SIDE, SIDE), dtype=np.bool_)
        for name in names:
            if name in self.likelihoods:
                found |= self.likelihoods[name] > certain
        return found


class Segmenter(Protocol):
    """Finds structures on films.

    Attributes
    ----------
    structures : tuple of str - that it knows
    digest : str - SHA-256 of its weights
    """

    structures: tuple[str, ...]
    digest: str

    def segment(self, pixels: NDArray[np.float32]) -> Segmentation:
        """Segment a film (H, W), float32 in [0, 1]; bright is dense."""
        ...
