"""A set to fine-tune on comes back from its folder as it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from toys import keep_films, toy_set, toy_texts

from ravl_med.errors import ConfigError
from ravl_med.mitigation import fine_tuning_set
from ravl_med.mitigation.fine_tuning_set import (
    FineTuningSet,
    notes_of_fine_tuning_set,
    open_fine_tuning_set,
    write_fine_tuning_set,
    write_reports,
)


class Reader:
    """A text tower that knows the two texts of the toys."""

    info = SimpleNamespace(embedding_size=128)

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return toy_texts()[[int(text) for text in texts]]


@pytest.fixture
def laid(tmp_path: Path) -> tuple[FineTuningSet, Path]:
    """The toy set, and the folder that it was written to."""
    films, reader = toy_set(20), Reader()
    kept = keep_films(films.films.gray[:], tmp_path / "films", (13, 7))
    store = replace(films.films, gray=kept, rows=np.arange(1, 20))
    folder = tmp_path / "set"
    folder.mkdir()

    def texts() -> Iterator[str]:
        yield from (str(label) for label in films.labels)

    some: Any = reader
    reports = write_reports(folder, some, texts())
    whole = replace(films, films=store, reports=reports)
    write_fine_tuning_set(folder, whole, {"notes": ["Two.", "Lines."]})
    return whole, folder


@pytest.mark.parametrize("small", [0, 2**20])
def test_it_comes_back_as_it_was(
    laid: tuple[FineTuningSet, Path], small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = laid
    monkeypatch.setattr(fine_tuning_set, "_SMALL_BYTES", small)
    again = open_fine_tuning_set(folder)
    assert isinstance(again.regions.boxes, np.memmap) == (small == 0)
    every, rows = torch.arange(20), np.arange(19)
    torch.testing.assert_close(again.reports[every], toy_texts()[whole.labels])
    assert len(again) == 19
    torch.testing.assert_close(again.films.read(rows), toy_set(20).films.read(rows + 1))
    for name in ("labels", "present", "spurious"):
        assert np.array_equal(getattr(again, name), getattr(whole, name)), name
    for name in ("regions", "carriers", "companions"):
        one, other = getattr(again, name), getattr(whole, name)
        assert np.array_equal(one.boxes, other.boxes)
        assert np.array_equal(one.starts, other.starts)
    assert (again.films.mean, again.films.std) == (whole.films.mean, whole.films.std)
    assert notes_of_fine_tuning_set(folder) == {"notes": ["Two.", "Lines."]}


def test_without_its_last_file_there_is_no_set(laid: tuple[FineTuningSet, Path]) -> None:
    _, folder = laid
    (folder / "set.json").unlink()
    assert notes_of_fine_tuning_set(folder) is None
    with pytest.raises(
        ConfigError, match=r"cache: the set to fine-tune on cannot be opened \(FileNotFoundError\)"
    ):
        open_fine_tuning_set(folder)


def test_a_part_that_is_gone_is_named(laid: tuple[FineTuningSet, Path]) -> None:
    _, folder = laid
    (folder / "carriers.npy").unlink()
    with pytest.raises(ConfigError, match="expected the folder as the first process wrote it"):
        open_fine_tuning_set(folder)


def test_files_are_for_their_owner_alone(laid: tuple[FineTuningSet, Path]) -> None:
    _, folder = laid
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
