"""The peak rises with what is held, and can be forgotten."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.discovery.trials import map_in_children
from tests.benchmarks.peak_memory import forget_peak, peak_mb


def hold_for_a_moment(megabytes: int) -> float:
    before = forget_peak()
    held = np.ones(megabytes * 125_000)
    del held
    return peak_mb() - before


def test_the_peak_is_that_of_what_was_held_since() -> None:
    # A process of its own, as benchmarks have it: where a system does not let the peak be set
    # back, that of the process that runs the tests lies far above anything held here.
    (peak,) = map_in_children(hold_for_a_moment, [40], workers=1)
    assert peak == pytest.approx(40, abs=20)


def test_without_the_files_of_linux_there_is_still_a_number(monkeypatch) -> None:
    def refuse(*_args: object, **_more: object) -> str:
        raise OSError

    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    assert forget_peak() > 10
