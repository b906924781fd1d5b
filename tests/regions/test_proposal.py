"""What the config asks for is what a film is cut into."""

from __future__ import annotations

import numpy as np

from ravl_med.cohort.film import Film
from ravl_med.config import RegionsConfig, WindowsConfig
from ravl_med.regions.proposal import RegionProposer


def film(height: int = 60, width: int = 90) -> Film:
    return Film(0, np.zeros((height, width), np.float32), "digest", "as stored")


def test_tiles_alone_by_default() -> None:
    proposer = RegionProposer(RegionsConfig(tiles=(2, 3)))
    proposed = proposer.propose(film())
    assert len(proposed) == 6
    assert proposed.boxes[5].tolist() == [60, 30, 90, 60]
    assert proposed.kinds[5].name == "tile row 2 of 2, column 3 of 3"
    assert proposer.describe() == "tiles, 2 rows x 3 columns"


def test_windows_of_several_sizes_and_tiles() -> None:
    config = RegionsConfig(
        sources=("windows", "tiles"),
        tiles=(2, 2),
        windows=WindowsConfig(sides=(0.5, 0.25), step=1.0),
    )
    proposed = RegionProposer(config).propose(film())
    # Windows of half a side without overlap are the tiles themselves, and come once.
    assert [kind.source for kind in proposed.kinds] == ["windows"] * 20
    assert RegionProposer(config).describe() == (
        "windows of 50 %, 25 % of the film; tiles, 2 rows x 2 columns"
    )
