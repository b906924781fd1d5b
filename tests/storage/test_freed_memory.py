"""What is not used any more is the system's again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ravl_med.storage.mapped_arrays import trim_memory


def held() -> int:
    """Bytes of this process that lie in no file."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is held")
def test_what_was_freed_is_handed_back() -> None:
    trim_memory()
    before = held()
    blocks = [bytearray(10_000) for _ in range(8_000)]  # small enough to come from the heap
    kept = bytearray(10_000)  # above them: the heap does not shrink by itself
    full = held()
    assert full - before > 60_000_000
    blocks.clear()
    trim_memory()
    assert held() - before < 0.3 * (full - before)
    assert len(kept) == 10_000
