"""The contact sheet: every film, said in words, written whole and for its owner alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ravl_med.errors import ConfigError
from ravl_med.regions.region_set import RegionKind, RegionSet
from ravl_med.reporting.contact_sheet import (
    ContactSheet,
    SheetFilm,
    draw_sheet,
    refuse_foreign_file,
    sheet_file,
    write_sheet,
)


def film(gray: int, *problems: str) -> SheetFilm:
    kinds = (RegionKind("artifacts", "tube"), RegionKind("anatomy", "right lung apex"))
    boxes = np.array([[50, 40, 150, 60], [20, 10, 60, 30]], dtype=np.float32)
    pixels = np.full((100, 200), gray, dtype=np.uint8)
    return SheetFilm.of(f"{gray:016x}", pixels, RegionSet(boxes, kinds, problems))


def sheet(films: int) -> ContactSheet:
    return ContactSheet(
        name="small",
        sources=("artifacts", "anatomy"),
        description="artifacts; anatomy",
        cohort_films=1200,
        films=tuple(film(10 + 2 * i) for i in range(films)),
        skipped={},
        problems={},
    )


def test_a_film_is_brought_to_the_size_of_the_sheet() -> None:
    small = film(40)
    assert small.pixels.shape == (210, 420)
    assert small.pixels.dtype == np.uint8
    assert small.regions.boxes[0].tolist() == pytest.approx([105, 84, 315, 126])
    one = RegionSet(np.array([[500, 0, 1500, 3000]], np.float32), (RegionKind("tiles", "t"),))
    large = SheetFilm.of("x", np.zeros((3000, 1500), np.uint8), one)
    assert large.pixels.shape == (420, 210)
    assert large.regions.boxes[0].tolist() == pytest.approx([70, 0, 210, 420])


@pytest.mark.parametrize("films", [1, 3, 4, 9, 100])
def test_every_film_is_on_the_sheet(films: int) -> None:
    drawn = np.asarray(draw_sheet(sheet(films)))
    gray = drawn[..., 0][(drawn == drawn[..., :1]).all(axis=2)]
    counts = np.bincount(gray, minlength=256)
    assert (counts[10 : 10 + 2 * films : 2] > 50_000).all()  # of 210 x 420 pixels
    assert drawn.shape[1] == (3 if films < 4 else 4) * 454 + 40
    assert (drawn[:, :10] == 255).all()
    assert (drawn[-10:] == 255).all()


def test_the_same_sheet_twice_has_the_same_pixels() -> None:
    assert draw_sheet(sheet(5)).tobytes() == draw_sheet(sheet(5)).tobytes()


def test_what_is_said() -> None:
    plain = sheet(4)
    assert plain.sentence() == (
        "4 of 1,200 films shown; regions per film: artifacts 1.0, anatomy 1.0. No problems."
    )
    more = replace(
        plain,
        sources=("annotations", "artifacts", "anatomy"),
        skipped={"missing": 2, "too_small": 1},
        problems={"anatomy_not_found": 3, "over_limit": 1, "never_heard": 2},
    )
    assert more.regions_a_film() == {"annotations": 0.0, "artifacts": 1.0, "anatomy": 1.0}
    shown, regions, problems = more.lines()
    assert shown == (
        "4 of 1,200 films shown, 3 set aside (missing 2, too small 1), a random sample over the "
        "patients."
    )
    assert regions == "Regions: artifacts; anatomy. 2.0 per film (mean)."
    assert problems == (
        "Problems: films on which no anatomy was found: 3; never heard: 2; regions left out, more "
        "than a film may have (regions.max_per_image): 1."
    )


def test_problems_stand_under_their_film() -> None:
    clean, broken = (
        np.asarray(draw_sheet(replace(sheet(1), films=(film(10, *problems),))))
        for problems in ((), ("anatomy_not_found", "over_limit", "over_limit"))
    )
    rows, columns = np.nonzero((clean != broken).any(axis=2))
    assert len(rows) > 100
    assert rows.min() > len(clean) - 66  # of margin and caption
    assert columns.max() < 454


def test_the_side_of_a_film_stands_beside_it() -> None:
    drawn = {
        edge: np.asarray(draw_sheet(replace(sheet(1), films=(replace(film(10), edge=edge),))))
        for edge in ("R", "L", "")
    }
    rows, columns = np.nonzero((drawn["R"] != drawn["L"]).any(axis=2))
    caption = len(drawn["R"]) - 66
    letter = columns[rows < caption]
    assert len(letter) > 20
    middle = 20 + 454 // 2
    assert letter.max() < middle - 210  # the film is 420 wide
    assert letter.min() >= 20
    assert (rows >= caption).any()  # the unusual side is said in words
    plate = (drawn["R"] == (16, 22, 28)).all(axis=2)[:caption, : middle - 210]
    assert plate[:, letter.min() :].sum() > 60
    assert (
        not (drawn[""] == (16, 22, 28)).all(axis=2)[caption - 210 : caption, : middle - 210].any()
    )


def test_an_earlier_sheet_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "reports" / "small-regions.png"
    write_sheet(sheet(1), target)
    write_sheet(sheet(5), target)
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert target.stat().st_mode & 0o777 == 0o600
    with Image.open(target) as image:
        assert image.info == {"Software": "ravl-med regions"}
        assert image.tobytes() == draw_sheet(sheet(5)).tobytes()


def test_a_sheet_that_cannot_be_written_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "sheet.png"
    write_sheet(sheet(1), target)
    before = target.read_bytes()

    def full(self: Image.Image, stream: object, **_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(ConfigError, match=r"--out: the file cannot be written \(OSError\)"):
        write_sheet(sheet(2), target)
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == before


def test_what_is_no_sheet_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("thesis", encoding="utf-8")
    Image.new("L", (20, 20)).save(tmp_path / "b.png")
    (tmp_path / "c.png").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        with pytest.raises(ConfigError, match=r"--out: .* not an earlier contact sheet"):
            write_sheet(sheet(1), tmp_path / name)
    with pytest.raises(ConfigError, match=r"got 'new\.jpg'; expected a folder, or a file"):
        refuse_foreign_file(tmp_path / "new.jpg")
    refuse_foreign_file(tmp_path / "new.PNG")
    assert sheet_file(tmp_path, "small") == tmp_path / "small-regions.png"
    assert sheet_file(tmp_path / "new", "small") == tmp_path / "new" / "small-regions.png"
    assert sheet_file(None, "small") == Path("reports/small-regions.png")
    assert sheet_file(tmp_path / "x.png", "small") == tmp_path / "x.png"
    with pytest.raises(ConfigError, match="cannot be written"):
        write_sheet(sheet(1), tmp_path / "a.png" / "x.png")
