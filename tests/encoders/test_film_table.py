"""Tables of films: appended film by film or table by table, and found again in a file."""

from __future__ import annotations

import os

import numpy as np
import pytest
import safetensors.numpy

from ravl_med.cohort.film import Film
from ravl_med.cohort.table import RejectedFilm
from ravl_med.encoders.embeddings import Embeddings, FilmRow, FilmTable
from ravl_med.regions.region_set import RegionKind, RegionSet

KINDS = tuple(RegionKind("annotations", name, place) for name, place in (("a", ""), ("b", "x")))


def row(number: int, kinds: tuple[int, ...], problems: tuple[str, ...] = ()) -> FilmRow:
    film = Film(
        0, np.empty((0, 0), np.float32), f"{number:064x}", "as stored", {"view": f"{number % 2}"},
        left_edge="L" if number % 2 else "", file_bytes=10 + number,
    )  # fmt: skip
    boxes = np.arange(4 * len(kinds), dtype=np.float32).reshape(-1, 4) + number
    regions = RegionSet(boxes, tuple(KINDS[kind] for kind in kinds))
    return FilmRow(film, (60 + number, 70), regions, number, problems, bytes([number]) * 32)


ROWS = [row(1, (1, 0)), row(2, ()), row(3, (0,), ("far",)), row(4, (1, 1), ("far", "thin"))]
ASIDE = RejectedFilm(9, "truncated", "row 9: cut short.")


def table_of(*films: tuple[int, FilmRow | RejectedFilm]) -> FilmTable:
    table = FilmTable()
    for position, film in films:
        table.add(position, film)
    return table


def gathered(table: FilmTable) -> Embeddings:
    def find(key: bytes) -> tuple[np.ndarray, np.ndarray]:
        count = {1: 2, 2: 0, 3: 1, 4: 2}[key[0]]
        return np.full(3, key[0], np.float32), np.full((count, 3), key[0], np.float32)

    return table.gather(find, 3, None)


def require_same(one: Embeddings, other: Embeddings) -> None:
    for name in Embeddings.__slots__:
        wanted, found = getattr(one, name), getattr(other, name)
        if isinstance(wanted, np.ndarray):
            np.testing.assert_array_equal(found, wanted, err_msg=name)
        else:
            assert found == wanted, name


WHOLE = [(5, ROWS[0]), (6, ASIDE), (7, ROWS[1]), (8, ROWS[2]), (9, ROWS[3])]


def test_a_table_becomes_arrays() -> None:
    made = gathered(table_of(*WHOLE))
    assert made.films.tolist() == [5, 7, 8, 9]
    assert made.sizes.tolist() == [[61, 70], [62, 70], [63, 70], [64, 70]]
    assert made.region_image.tolist() == [0, 0, 2, 3, 3]
    assert made.kinds == (KINDS[1], KINDS[0])  # as they came by
    assert made.region_kind.tolist() == [0, 1, 1, 0, 0]
    assert made.image[:, 0].tolist() == [1, 2, 3, 4]
    assert made.region[:, 0].tolist() == [1, 1, 3, 4, 4]
    assert made.problems == {"far": 2, "thin": 1}
    assert (made.unseen, made.file_bytes) == (10, 50)
    assert made.left_edges == ("L", "", "L", "")
    assert made.rejected == (ASIDE,)


@pytest.mark.parametrize("cut", range(len(WHOLE) + 1))
def test_two_tables_are_one(cut: int) -> None:
    joined = FilmTable()
    for part in (table_of(*WHOLE[:cut]), table_of(*WHOLE[cut:])):
        joined.extend(part, np.ones(len(part), dtype=np.bool_))
    require_same(gathered(table_of(*WHOLE)), gathered(joined))


def test_films_that_are_left_out_leave_nothing_behind() -> None:
    joined = FilmTable()
    joined.extend(table_of(*WHOLE), np.array([False, True, True, False]))
    require_same(gathered(table_of(WHOLE[1], WHOLE[2], WHOLE[3])), gathered(joined))


def test_a_table_comes_back_from_its_file(tmp_path) -> None:
    path = tmp_path / "table.safetensors"
    path.write_bytes(table_of(*WHOLE).dump())
    table = FilmTable.load(path)
    assert table is not None
    require_same(gathered(table_of(*WHOLE)), gathered(table))
    table.add(10, row(5, (0,)))  # it goes on
    assert len(table) == 5


@pytest.mark.parametrize("length", [0, 7, 200, -1])
def test_a_damaged_table_is_none(tmp_path, length: int) -> None:
    path = tmp_path / "table.safetensors"
    path.write_bytes(table_of(*WHOLE).dump()[:length])
    assert FilmTable.load(path) is None
    assert FilmTable.load(tmp_path / "none") is None


@pytest.mark.timeout(20)
def test_a_table_that_is_a_pipe_or_deep_is_none(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert FilmTable.load(tmp_path / "pipe") is None
    metadata = {"texts": "[" * 100_000}
    arrays = {"numbers": np.zeros((0, 1), np.float32)}
    (tmp_path / "deep").write_bytes(safetensors.numpy.save(arrays, metadata))
    assert FilmTable.load(tmp_path / "deep") is None
