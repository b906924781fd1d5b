"""What the config asks for is what a film is cut into."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ravl_med.cohort.annotation_file import AnnotatedBox
from ravl_med.cohort.film import Film
from ravl_med.cohort.manifest import read_manifest
from ravl_med.config.cohort import RegionsConfig, WindowsConfig
from ravl_med.errors import ConfigError, ModelError
from ravl_med.phantoms.cohort import render_film
from ravl_med.phantoms.plan import plan_cohort
from ravl_med.regions.annotations import AnnotationTable
from ravl_med.regions.proposal import RegionProposer, choose_segmenter, describe_sources
from ravl_med.regions.region_set import RegionKind
from ravl_med.regions.segmenter import Segmentation, built_in_segmenter


def film(height: int = 60, width: int = 90) -> Film:
    return Film(0, np.zeros((height, width), np.float32), "digest", "as stored")


def test_regions_of_a_mirrored_film_have_the_names_of_the_patients_sides() -> None:
    plan = plan_cohort(40, "generator", "cardiomegaly", 0.0, 3)[1]
    pixels = render_film(plan, seed=3, size=256).pixels
    proposer = RegionProposer(RegionsConfig(sources=("anatomy",)), segmenter=built_in_segmenter())
    usual = Film(0, pixels, "digest", "as stored", left_edge="R")
    turned = Film(0, np.ascontiguousarray(pixels[:, ::-1]), "other", "as stored", left_edge="L")
    boxes = [
        {kind.name: box for kind, box in zip(found.kinds, found.boxes, strict=True)}
        for found in map(proposer.propose, (usual, turned))
    ]
    assert len(boxes[0]) > 15
    assert set(boxes[0]) == set(boxes[1])
    width = pixels.shape[1]
    for name, (x0, y0, x1, y1) in boxes[0].items():
        assert boxes[1][name].tolist() == pytest.approx([width - x1, y0, width - x0, y1], abs=1e-3)


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


class Seen:
    """A segmenter that sees a plain chest and electrodes all over it."""

    structures = ("right lung", "left lung", "heart", "body", "electrode")

    def __init__(self, electrodes: int = 0, *, chest: bool = True) -> None:
        self.electrodes, self.chest = electrodes, chest

    def segment(self, pixels: np.ndarray) -> Segmentation:
        likely = {name: np.zeros((256, 256), np.float32) for name in self.structures}
        if self.chest:
            likely["right lung"][40:200, 40:110] = 0.9
            likely["left lung"][40:200, 146:216] = 0.9
            likely["heart"][120:200, 100:180] = 0.9
            likely["body"][:, 10:246] = 0.9
        for number in range(self.electrodes):
            row, column = 8 * (number // 16) + 100, 15 * (number % 16) + 2
            likely["electrode"][row : row + 5, column : column + 5] = 0.85 + 0.001 * number
        return Segmentation(likely)


def test_anatomy_and_artifacts_are_named_with_their_place() -> None:
    config = RegionsConfig(sources=("artifacts", "anatomy"))
    proposer = RegionProposer(config, segmenter=Seen(1))
    unsaid = proposer.propose(film(120, 60))
    proposed = proposer.propose(replace(film(120, 60), left_edge="R"))

    assert proposed.kinds[0] == RegionKind("artifacts", "electrode", "outside the body")
    assert proposed.boxes[0].tolist() == pytest.approx([2 / 256 * 60, 100 / 256 * 120, 7 / 256 * 60,
                                                        105 / 256 * 120])  # fmt: skip
    names = [kind.name for kind in proposed.kinds[1:]]
    assert "cardiac silhouette" in names
    assert "left costophrenic angle" in names
    assert "costophrenic angle at the right of the picture" in [k.name for k in unsaid.kinds]
    (scored, *_) = replace(proposer, scored=True).propose(film(120, 60)).kinds
    assert scored.score is not None
    assert 0.5 < scored.score <= 1.0
    assert {kind.source for kind in proposed.kinds[1:]} == {"anatomy"}
    assert describe_sources(config) == (
        "artifacts that a segmenter finds; anatomical regions that a segmenter finds"
    )


def test_artifacts_leave_room_for_the_anatomy() -> None:
    config = RegionsConfig(sources=("artifacts", "anatomy"), max_per_image=24)
    proposed = RegionProposer(config, segmenter=Seen(40)).propose(film(256, 256))
    sources = [kind.source for kind in proposed.kinds]

    assert len(proposed) <= 24
    assert sources.count("artifacts") == 8  # a third of all
    assert sources.count("anatomy") >= 14
    assert proposed.problems.count("over_limit") >= 32


def test_a_film_without_anatomy_says_so_and_takes_tiles() -> None:
    config = RegionsConfig(sources=("anatomy",), tiles=(2, 2))
    proposed = RegionProposer(config, segmenter=Seen(chest=False)).propose(film())

    assert [kind.source for kind in proposed.kinds] == ["tiles"] * 4
    assert proposed.problems == ("anatomy_not_found", "no_region")


def test_a_segmenter_of_ones_own_comes_before_the_built_in(tmp_path: Path) -> None:
    assert choose_segmenter(RegionsConfig()) is built_in_segmenter()
    with pytest.raises(ModelError, match=r"regions\.segmenter: no such folder"):
        choose_segmenter(RegionsConfig(segmenter=tmp_path / "none"))
