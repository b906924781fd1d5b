"""What the config asks for is what a film is cut into."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ravl_med.cohort.film import Film
from ravl_med.cohort.manifest import read_manifest
from ravl_med.config import RegionsConfig, WindowsConfig
from ravl_med.errors import ConfigError
from ravl_med.regions.annotations import AnnotatedBox, AnnotationTable
from ravl_med.regions.proposal import RegionProposer, describe_sources


def film(height: int = 60, width: int = 90) -> Film:
    return Film(0, np.zeros((height, width), np.float32), "digest", "as stored")


def test_tiles_alone_by_default() -> None:
    proposer = RegionProposer(RegionsConfig(tiles=(2, 3)))
    proposed = proposer.propose(film())
    assert len(proposed) == 6
    assert proposed.boxes[5].tolist() == [60, 30, 90, 60]
    assert proposed.kinds[5].name == "tile row 2 of 2, column 3 of 3"
    assert describe_sources(RegionsConfig(tiles=(2, 3))) == "tiles, 2 rows x 3 columns"


def test_windows_of_several_sizes_and_tiles() -> None:
    config = RegionsConfig(
        sources=("windows", "tiles"),
        tiles=(2, 2),
        windows=WindowsConfig(sides=(0.5, 0.25), step=1.0),
    )
    proposed = RegionProposer(config).propose(film())
    # Windows of half a side without overlap are the tiles themselves, and come once.
    assert [kind.source for kind in proposed.kinds] == ["windows"] * 20
    assert describe_sources(config) == (
        "windows of 50 %, 25 % of the film; tiles, 2 rows x 2 columns"
    )


def test_annotations_beside_tiles_and_what_could_not_be_used(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((60, 90), np.uint8)).save(tmp_path / "blank.png")
    proposer = RegionProposer(
        RegionsConfig(sources=("tiles", "annotations"), tiles=(1, 2)),
        films=(tmp_path / "film.png",) * 2,
        files=((tmp_path / "blank.png",), ()),
        table=AnnotationTable({0: (AnnotatedBox("generator", (1, 1, 9, 9)),)}, 0),
    )
    proposed = proposer.propose(film())
    assert proposed.kinds[0].name == "generator"
    assert [kind.source for kind in proposed.kinds] == ["annotations", "tiles", "tiles"]
    assert proposed.problems == ("blank_mask",)


def test_a_film_without_any_region_takes_tiles_and_is_counted(tmp_path: Path) -> None:
    config = RegionsConfig(sources=("annotations",), tiles=(2, 2))
    table = AnnotationTable({1: (AnnotatedBox("generator", (1, 1, 9, 9)),)}, 0)
    proposed = RegionProposer(config, films=(tmp_path, tmp_path), table=table).propose(film())
    assert [kind.source for kind in proposed.kinds] == ["tiles"] * 4
    assert proposed.problems == ("no_region",)


def test_annotations_that_are_nowhere(tmp_path: Path) -> None:
    rows = "image,patient\na.png,1\n"
    (tmp_path / "manifest.csv").write_text(rows, encoding="utf-8")
    config = RegionsConfig(sources=("annotations",))
    with pytest.raises(ConfigError, match=r"sources names annotations; neither regions.annotat"):
        RegionProposer.of(config, read_manifest(tmp_path / "manifest.csv", split=None))
    (tmp_path / "manifest.csv").write_text(
        "image,patient,annotation\na.png,1,m/one.png; m/two.dcm\nb.png,2,\n", encoding="utf-8"
    )
    cohort = read_manifest(tmp_path / "manifest.csv", split=None)
    assert RegionProposer.of(config, cohort).files == (
        (tmp_path / "m/one.png", tmp_path / "m/two.dcm"), (),
    )  # fmt: skip
    assert cohort.keep(np.array([1])).annotations == ((),)


def test_images_of_the_table_that_are_none_of_the_films_are_counted() -> None:
    table = AnnotationTable({0: (AnnotatedBox("generator", (1, 1, 9, 9)),)}, unmatched=3)
    assert RegionProposer(RegionsConfig(), table=table).unmatched() == {"other_image": 3}
    assert RegionProposer(RegionsConfig()).unmatched() == {}
    assert RegionProposer(RegionsConfig(), table=replace(table, unmatched=0)).unmatched() == {}
