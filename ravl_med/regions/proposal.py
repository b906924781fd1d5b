"""What proposes the regions of a film: the sources that the config names, joined."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ravl_med.cohort.film import Film
from ravl_med.config import RegionsConfig
from ravl_med.regions.region_set import RegionKind, RegionSet, combine_regions
from ravl_med.regions.tiles import cut_tiles, slide_windows, tile_names, window_names

__all__ = ["RegionProposer"]


@dataclass(frozen=True, slots=True)
class RegionProposer:
    """Proposes the regions of films.

    Attributes
    ----------
    config : RegionsConfig
    """

    config: RegionsConfig

    def propose(self, film: Film) -> RegionSet:
        """Return the regions of a film; tiles where no source finds any."""
        height, width = film.pixels.shape
        sets = []
        if "windows" in self.config.sources:
            sets.append(self._windows(height, width))
        if "tiles" in self.config.sources:
            sets.append(self._tiles(height, width))
        return combine_regions(sets, self.config.merge_overlap)

    def describe(self) -> str:
        """Return what a region is, in words."""
        rows, columns = self.config.tiles
        windows = self.config.windows
        sides = ", ".join(f"{100 * side:g} %" for side in windows.sides)
        words = {
            "windows": f"windows of {sides} of the film",
            "tiles": f"tiles, {rows} rows x {columns} columns",
        }
        return "; ".join(words[source] for source in words if source in self.config.sources)

    def _tiles(self, height: int, width: int) -> RegionSet:
        boxes = cut_tiles(height, width, *self.config.tiles)
        return RegionSet.of(boxes, [RegionKind("tiles", n) for n in tile_names(*self.config.tiles)])

    def _windows(self, height: int, width: int) -> RegionSet:
        windows = self.config.windows
        boxes = [slide_windows(height, width, side, windows.step) for side in windows.sides]
        names = [name for side in windows.sides for name in window_names(side, windows.step)]
        return RegionSet.of(np.concatenate(boxes), [RegionKind("windows", n) for n in names])
