"""What a benchmark keeps: its parts with their rows, as JSON and as Markdown beside it.

Parts can be run one at a time; those that are not run keep their earlier numbers. Each carries what
it was measured with.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ravl_med import __version__
from ravl_med.errors import ConfigError

Parts = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class BenchmarkFile:
    """The JSON and the Markdown of one benchmark in a folder.

    Attributes
    ----------
    folder : Path
    name : str - of both files, without their ending
    parts : tuple of str - that the benchmark knows, in their order
    markdown : callable - parts to the text of the Markdown
    """

    folder: Path
    name: str
    parts: tuple[str, ...]
    markdown: Callable[[Parts], str]

    @property
    def table(self) -> Path:
        """Path of the Markdown."""
        return self.folder / f"{self.name}.md"

    def read(self) -> dict[str, Any]:
        """Return the parts that an earlier run left; none is no error.

        Raises
        ------
        ConfigError
            The JSON cannot be read, or is not one of this benchmark.
        """
        path = self.folder / f"{self.name}.json"
        try:
            parts = json.loads(path.read_text(encoding="utf-8"))["parts"]
            whole = all(
                name in self.parts and isinstance(part["rows"], list)
                for name, part in parts.items()
            )
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ConfigError(
                f"--out: {path.name} cannot be read ({type(error).__name__})."
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise ConfigError(
                f"--out: the {path.name} in that folder is not one of this benchmark. Move it away "
                "or name another folder."
            )
        return dict(parts)

    def measure(
        self,
        parts: Sequence[str],
        command: Callable[[str], str],
        rows_of: Callable[[str], Sequence[Any]],
    ) -> Path:
        """Measure parts one by one; each is written as soon as it is done.

        Parameters
        ----------
        parts : sequence of str
        command : callable - part to the command that repeats it
        rows_of : callable - part to its rows, dataclass instances

        Returns
        -------
        Path - of the Markdown

        Raises
        ------
        ConfigError
            See `read` and `write`.
        """
        content = self.read()
        for part in parts:
            start = time.perf_counter()
            rows = rows_of(part)
            content[part] = describe_part(command(part), time.perf_counter() - start, rows)
            self.write(content)
        return self.table

    def write(self, parts: Parts) -> None:
        """Write both files, the parts in their order.

        Raises
        ------
        ConfigError
            The folder cannot be written.
        """
        ordered = {name: parts[name] for name in self.parts if name in parts}
        text = json.dumps({"parts": ordered}, indent=2, allow_nan=False) + "\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{self.name}.json").write_text(text, encoding="utf-8")
            self.table.write_text(self.markdown(ordered), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--out: cannot be written ({type(error).__name__}).") from None


def choose_parts(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Read a comma-separated list of parts, in the order in which they are run.

    Raises
    ------
    ConfigError
        A part is unknown, or none is named.
    """
    named = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in named if word not in known]
    if unknown or not named:
        got = repr(unknown[0]) if unknown else "none"
        raise ConfigError(f"--parts: expected some of {', '.join(known)}, with commas; got {got}.")
    return tuple(part for part in known if part in named)


def describe_part(command: str, seconds: float, rows: Sequence[Any]) -> dict[str, Any]:
    """Return a part as it is kept: what it was made with, and its rows.

    Parameters
    ----------
    command : str - that repeats it
    seconds : float
    rows : sequence of dataclass instances
    """
    return {
        "tool": f"ravl-med {__version__}",
        "machine": _describe_machine(),
        "command": command,
        "seconds": round(seconds, 1),
        "rows": [_without_nan(asdict(row)) for row in rows],
    }


def tell_parts(
    title: str, parts: Parts, tell: Mapping[str, Callable[[list[Mapping[str, Any]]], list[str]]]
) -> str:
    """Return the Markdown of the parts that were measured, each with its source below.

    Parameters
    ----------
    title : str
    parts : mapping of part to its content as `describe_part` made it
    tell : mapping of part to the function that turns its rows into lines
    """
    lines = [f"# {title}", ""]
    for name, part in parts.items():
        source = (
            f"Made by `{part['command']}` ({part['tool']}, {part['machine']}) in "
            f"{part['seconds']:.0f} s."
        )
        lines += [*tell[name](part["rows"]), "", source, ""]
    return "\n".join(lines)


def count_held(row: Mapping[str, Any], name: str) -> str:
    """Tell a count of cohorts with its exact interval, in words."""
    return f"{row[name]} of {row['cohorts']} ({100 * row['low']:.1f} to {100 * row['high']:.1f} %)"


def tell_met(held: bool) -> str:
    """Tell whether a target was met."""
    return "yes" if held else "no"


def _describe_machine() -> str:
    words = [f"Python {platform.python_version()}", f"NumPy {np.__version__}"]
    words += [f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} cores"]
    return ", ".join([*words, *_processor()])


def _processor() -> list[str]:
    """Name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.startswith("model name")][:1]


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
