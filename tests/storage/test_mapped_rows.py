"""Arrays in a mapped file: nothing of them is lost, and little of them is held."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ravl_med.storage import mapped_arrays
from ravl_med.storage.mapped_arrays import (
    empty_rows,
    map_parts,
    mapped_copy,
    mapped_parts,
    multiply,
    release_pages,
    take_rows,
)


def held_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@pytest.fixture
def mapped() -> np.ndarray:
    """64 MB that have been written to, as embeddings are."""
    array = empty_rows((32_768, 512), np.float32)
    for start in range(0, len(array), 4_096):
        array[start : start + 4_096] = np.arange(start, start + 4_096)[:, None]
    return array


def test_what_was_written_stays_in_the_file_alone(mapped) -> None:
    before = held_mb()
    release_pages(mapped[100:200])  # of a part of it: of all
    assert held_mb() < before - 50
    np.testing.assert_array_equal(mapped[:, 3], np.arange(32_768))


def test_parts_make_the_whole_and_are_let_go(mapped, monkeypatch) -> None:
    monkeypatch.setattr(mapped_arrays, "_PART_BYTES", 2**20)
    release_pages(mapped)
    before = held_mb()
    total, count = 0.0, 0
    for part in mapped_parts(mapped):
        total += float(part[:, 0].sum(dtype=np.float64))
        count += 1
        assert held_mb() < before + 20
    assert (total, count) == (np.arange(32_768).sum(), 64)
    assert list(mapped_parts(mapped[:0])) == []


def test_rows_are_copied(mapped) -> None:
    rows = np.arange(5, 32_768, 11)
    taken = take_rows(mapped, rows)
    np.testing.assert_array_equal(taken, mapped[rows])
    taken[:] = -1
    assert mapped.min() == 0


def test_a_product_is_made_part_by_part(mapped, monkeypatch) -> None:
    monkeypatch.setattr(mapped_arrays, "_PART_BYTES", 2**20)
    release_pages(mapped)
    before = held_mb()
    matrix = np.zeros((512, 2), np.float32)
    matrix[3, 0] = matrix[4, 1] = 2.0
    product = multiply(mapped, matrix)
    assert held_mb() < before + 20
    assert product.dtype == np.float32
    np.testing.assert_array_equal(product, 2.0 * np.arange(32_768)[:, None] * np.ones((1, 2)))
    assert multiply(mapped[:0], matrix).shape == (0, 2)


def test_a_large_copy_is_not_held_and_a_small_one_lies_in_memory() -> None:
    numbers = np.arange(4_000_000, dtype=np.int64)
    before = held_mb()
    copied = mapped_copy(numbers)
    assert held_mb() < before + 10
    np.testing.assert_array_equal(copied, numbers)
    copied[7] = -1
    release_pages(copied)
    assert (copied[7], numbers[7]) == (-1, 7)
    assert type(mapped_copy(numbers[:9])) is np.ndarray
    assert mapped_copy(numbers[:9]).flags.owndata


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    """On a disk of 4 MB in a namespace of its own; asked for later, it would end the process."""
    script = (
        "import numpy as np\n"
        "from ravl_med.errors import ConfigError\n"
        "from ravl_med.storage.mapped_arrays import empty_rows\n"
        "try:\n"
        "    empty_rows((40_000, 512), np.float32)[:] = 1\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    mounted = f'mount -t tmpfs -o size=4m tmpfs "{tmp_path}" || exit 77; exec "$@"'
    within = ("unshare", "--mount", "--map-root-user", "sh", "-c", mounted, "sh")
    try:
        done = subprocess.run(
            [*within, sys.executable, "-c", script],
            env={**os.environ, "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        pytest.skip("a small disk cannot be made: no unshare here")
    if done.returncode in (1, 77) and "ravl_med" not in done.stderr:
        pytest.skip("a small disk cannot be made: namespaces of users are not allowed here")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"the temporary folder has no room for 82 MB .* by TMPDIR\.\n", done.stdout)


def test_what_a_function_of_rows_makes_is_put_together(mapped, monkeypatch) -> None:
    monkeypatch.setattr(mapped_arrays, "_PART_BYTES", 2**20)
    small = map_parts(mapped, lambda part: part[:, 3] < 5)
    assert (small.dtype, int(small.sum()), len(small)) == (np.bool_, 5, 32_768)
    assert map_parts(mapped[:0], lambda part: part[:, :2]).shape == (0, 2)


def test_arrays_in_memory_and_private_copies_are_left_alone(tmp_path: Path) -> None:
    release_pages(np.zeros(5))
    np.full(1_000, 7.0, np.float32).tofile(tmp_path / "numbers")
    private = np.memmap(tmp_path / "numbers", np.float32, mode="c")
    private[:] = 9.0
    release_pages(private)
    assert private.min() == 9.0
