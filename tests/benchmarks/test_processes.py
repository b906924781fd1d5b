"""Child processes: their errors arrive, and the peak of what they held is theirs."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from tests.benchmarks.processes import forget_peak, map_in_children, peak_mb, side_by_side


def test_an_error_in_a_child_arrives() -> None:
    with pytest.raises(ZeroDivisionError, match="division"):
        map_in_children(one_over, [0])


def one_over(number: int) -> float:
    return 1 / number


def with_its_threads(number: int) -> tuple[int, str]:
    time.sleep(number / 10)
    return number, os.environ["OMP_NUM_THREADS"]


def test_side_by_side_the_order_is_that_of_the_items_and_each_has_a_thread() -> None:
    assert list(side_by_side(with_its_threads, [3, 0, 1])) == [(3, "1"), (0, "1"), (1, "1")]


def hold_for_a_moment(megabytes: int) -> float:
    before = forget_peak()
    held = np.ones(megabytes * 125_000)
    del held
    return peak_mb() - before


def test_the_peak_is_that_of_what_was_held_since() -> None:
    # A process of its own, as benchmarks have it: where a system does not let the peak be set
    # back, that of the process that runs the tests lies far above anything held here.
    (peak,) = map_in_children(hold_for_a_moment, [40])
    assert peak == pytest.approx(40, abs=20)


def test_without_the_files_of_linux_there_is_still_a_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_args: object, **_more: object) -> str:
        raise OSError

    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    assert forget_peak() > 10
