"""The terminal: one line a problem, and the options that verbs share.

How far a run is: a bar for each stage on a terminal, a line a minute in a log.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ravl_med.errors import ConfigError, RavlMedError, says_full

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the audit.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One config value, as section.key=value."),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:0 or mps.")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show warnings and tracebacks.")]
ResultsOption = Annotated[Path, typer.Option("--out", help="Folder of the results.")]
ExitZeroOption = Annotated[bool, typer.Option("--exit-zero", help="Return 0 whatever the verdict.")]


def overrides(set_values: list[str] | None, device: str | None) -> tuple[str, ...]:
    """Return what the command line says against the config file, as section.key=value."""
    more = () if device is None else (f"model.device={device}",)
    return (*(set_values or ()), *more)


@contextmanager
def reporting_errors(debug: bool) -> Iterator[None]:
    """Turn every error into one clear line and its exit code."""
    if not debug:
        warnings.filterwarnings("ignore")
    try:
        yield
    except RavlMedError as error:
        if debug:
            raise
        for line in str(error).splitlines():
            complain(f"error: {line}")
        raise typer.Exit(error.exit_code) from None
    except (typer.Exit, typer.Abort, KeyboardInterrupt):
        raise
    except Exception as error:
        if debug:
            raise
        if says_full(error):
            complain(
                "error: no room left on a disk; expected some where the cache, the output and "
                "temporary files lie (cache.folder, --out, TMPDIR). Make room and run the same "
                "command again: what was finished is kept."
            )
            raise typer.Exit(ConfigError.exit_code) from None
        complain(
            f"internal error: {type(error).__name__}. Nothing was written. Run again with --debug "
            "for the traceback, which may hold file names, and report it."
        )
        raise typer.Exit(4) from None


def console(*, stderr: bool = False) -> Console:
    """Wrap at words on a terminal; keep lines whole in a pipe."""
    made = Console(stderr=stderr, highlight=False)
    made.soft_wrap = not made.is_terminal
    return made


def say(text: str) -> None:
    """Print a line."""
    console().print(text)


def complain(text: str) -> None:
    """Print a line of an error, in red on a terminal."""
    console(stderr=True).print(escape(text), style="bold red")


def print_file(path: Path) -> None:
    """Print a text file."""
    for line in path.read_text(encoding="utf-8").splitlines():
        sys.stdout.write(line + "\n")


Show = Callable[[str, int, int], None]

_WINDOW = 300.0  # seconds that a pace is measured over: what the cache held went by faster
_SAMPLES = 100
_EVERY = 60.0  # seconds between lines of a log


class Pace:
    """How fast something is done, over the last minutes.

    Parameters
    ----------
    window : float - seconds that are looked back at
    """

    def __init__(self, window: float = _WINDOW) -> None:
        self._window = window
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, done: int) -> None:
        """Note how much is done at a time in seconds."""
        seen = self._seen
        if len(seen) > 1 and now - seen[-2][0] < self._window / _SAMPLES:
            seen.pop()  # close to the one before it: the newest of both is enough
        seen.append((now, done))
        while len(seen) > 2 and now - seen[1][0] >= self._window:
            seen.popleft()

    @property
    def a_second(self) -> float:
        """How much is done in a second; 0 while nobody can tell."""
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def left(self, total: int) -> float | None:
        """Seconds until all is done at this pace; None while nobody can tell."""
        rate = self.a_second
        return max(total - self._seen[-1][1], 0) / rate if rate > 0 else None

    def words(self, total: int) -> str:
        """Pace and time left in words; blank while nobody can tell."""
        left = self.left(total)
        if left is None:
            return ""
        rate = self.a_second
        each = f"{rate:,.1f} a second" if rate >= 0.95 else f"{60.0 * rate:,.1f} a minute"
        return each if not left else f"{each}, {_duration(left)} left"


class StageLog:
    """Lines for a log: one a minute, so that a run of seconds leaves none.

    Parameters
    ----------
    write : callable - called with a line
    clock : callable - seconds
    """

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._said = clock()
        self._paces: dict[str, Pace] = {}

    def show(self, stage: str, done: int, total: int) -> None:
        """Note how much of a stage is done, and say it where it is time."""
        now = self._clock()
        pace = self._paces.setdefault(stage, Pace())
        pace.note(now, done)
        if now - self._said >= _EVERY:
            self._said = now
            told = [f"{stage}: {done:,} of {total:,}", pace.words(total)]
            self._write(", ".join(part for part in told if part))


@contextmanager
def show_progress(*, quiet: bool = False) -> Iterator[Show]:
    """Show how far each stage is, with its pace and the time left; all workers are counted."""
    terminal = Console(stderr=True)
    if quiet:
        yield lambda stage, done, total: None
        return
    if not terminal.is_terminal:
        terminal.soft_wrap = True
        log = StageLog(lambda line: terminal.print(escape(line), highlight=False))
        yield log.show
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[pace]}", style="dim"),
    ]
    with Progress(*columns, console=terminal) as bars:
        tasks: dict[str, Any] = {}
        paces: dict[str, Pace] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                for earlier in tasks.values():
                    bars.stop_task(earlier)
                tasks[stage] = bars.add_task(escape(stage), total=total, pace="")
            pace = paces.setdefault(stage, Pace())
            pace.note(time.monotonic(), done)
            bars.update(tasks[stage], completed=done, total=total, pace=pace.words(total))

        yield show


def _duration(seconds: float) -> str:
    """Tell a duration in two units at most."""
    minutes = round(seconds / 60.0)
    if minutes < 1:
        return f"{max(round(seconds), 1)} s"
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
