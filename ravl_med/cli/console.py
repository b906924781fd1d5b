"""The terminal: one line a problem, and the options that verbs share."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ravl_med.errors import ConfigError, RavlMedError
from ravl_med.storage.disk_room import says_full

__all__ = [
    "ConfigArgument",
    "DebugOption",
    "DeviceOption",
    "ExitZeroOption",
    "ResultsOption",
    "SetOption",
    "complain",
    "console",
    "overrides",
    "print_file",
    "reporting_errors",
    "say",
]

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
