"""The most memory that this process held, and a fresh start for that number."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path


def forget_peak() -> float:
    """Set the peak of this process back to what it holds now, where the system can; MB."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_mb()


def peak_mb() -> float:
    """Peak resident memory in MB. A child's ``ru_maxrss`` starts at that of its parent on Linux."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        kilobytes = int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError, UnicodeDecodeError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kilobytes = peak // 1024 if sys.platform == "darwin" else peak
    return kilobytes * 1024 / 1e6
