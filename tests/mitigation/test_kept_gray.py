"""Films in several files are one array, whichever process reads them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from toys import keep_films

from ravl_med.encoders import kept_films
from ravl_med.encoders.kept_films import KeptFilms, tensor_place
from ravl_med.errors import ConfigError

COUNTS = (3, 0, 1, 4)


@pytest.fixture
def films() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (sum(COUNTS), 5, 5), dtype=np.uint8)


@pytest.fixture
def shards(films: np.ndarray, tmp_path: Path) -> KeptFilms:
    return keep_films(films, tmp_path, COUNTS)


@pytest.mark.parametrize("most", [1, 2, 100])
def test_they_are_one_array(
    films: np.ndarray, shards: KeptFilms, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_films, "_OPEN_FILES", most)
    assert shards.shape == films.shape
    for rows in ([7, 0, 3, 3, 2, 6, 1], [5], []):
        index = np.array(rows, dtype=np.int64)
        assert np.array_equal(shards[index], films[index])
    assert len(shards._open) <= most


def test_another_process_opens_them_by_itself(films: np.ndarray, shards: KeptFilms) -> None:
    every = np.arange(len(films))
    shards[every]
    there = pickle.loads(pickle.dumps(shards))
    assert there.shape == films.shape
    assert not there._open
    assert np.array_equal(there[every], films)


def test_files_are_closed_with_it(shards: KeptFilms) -> None:
    shards[np.arange(8)]
    handles = [handle for handle, _ in shards._open.values()]
    assert len(handles) == 3  # there is no second file, which would hold no film
    shards.__del__()
    shards._open.clear()
    for handle in handles:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(handle)


@pytest.mark.parametrize("gone", [True, False])
def test_a_file_that_is_gone_or_too_short_is_named(shards: KeptFilms, gone: bool) -> None:
    if gone:
        shards.paths[2].unlink()
    else:
        head = shards.paths[2].read_bytes()
        start = tensor_place("gray", head)[1]
        shards.paths[2].write_bytes(head[: start + 3 * 25 + 24])
    assert len(shards[np.array([0, 3, 4 if not gone else 2])]) == 3
    said = "No such file or directory" if gone else "it is too short"
    with pytest.raises(
        ConfigError, match=rf"cache: a file of films .* cannot be read \({said}\); expected it as"
    ) as told:
        shards[np.array([7])]
    assert str(shards.paths[2]) not in str(told.value)
