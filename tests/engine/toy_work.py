"""Work for the tests of both engines: a unit says what is to happen to whoever does it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ravl_med.errors import DataError, ImageError, ModelError


@dataclass(frozen=True)
class Opener:
    """Opens what does the work; `broken` says how; `deaths`: a file, counts down."""

    broken: str = ""
    deaths: str = ""

    def __call__(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        if self.deaths and (left := int(Path(self.deaths).read_text("ascii"))):
            Path(self.deaths).write_text(str(left - 1), "ascii")
            os.kill(os.getpid(), signal.SIGKILL)
        if self.broken == "refused":
            raise ModelError("model: no such folder.")
        if self.broken == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return do


def do(unit: dict[str, Any]) -> dict[str, Any]:
    if "sleep" in unit:
        time.sleep(unit["sleep"])
    if "die_once" in unit and not Path(unit["die_once"]).exists():
        Path(unit["die_once"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if unit.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    match unit.get("fail"):
        case "data":
            raise DataError("manifest.csv row 3: no such file.")
        case "image":
            raise ImageError("truncated", "the file ends early.")
        case "other":
            raise ValueError("/films/Doe_John/0001.dcm")
    sys.stdout.write("Doe_John\n")  # what decoders print must not come through
    return {
        "value": unit["value"] ** 2,
        "process": os.getpid(),
        "parent": os.getppid(),
        "threads": torch.get_num_threads(),
        "usage": os.environ.get("RAY_USAGE_STATS_ENABLED"),
    }
