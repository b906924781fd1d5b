"""The verbs about what is kept between runs: ``embed``, ``cache list``, ``cache clear``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ravl_med.cli.console import (
    ConfigArgument,
    DebugOption,
    DeviceOption,
    SetOption,
    overrides,
    reporting_errors,
    say,
)
from ravl_med.cli.progress import show_progress

if TYPE_CHECKING:
    from ravl_med.cache import Cache, CacheEntry

__all__ = ["cache", "embed"]

cache = typer.Typer(help="Look at what is kept between runs, and clear it.", no_args_is_help=True)

_DAY = 86_400.0
PlaceOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="CONFIG", help="YAML file whose cache.folder is meant."),
]


def embed(
    config: ConfigArgument,
    shard: Annotated[
        str, typer.Option(metavar="i/N", help="Part of the cohort; N processes make all of it.")
    ] = "1/1",
    set_values: SetOption = None,
    device: DeviceOption = None,
    debug: DebugOption = False,
) -> None:
    """Embed the cohort of a config into the cache, ahead of its audit.

    Several processes or machines with one cache.folder may each take a shard; an audit finds them
    all. A run that was ended goes on where it was. Returns 0, and as audit for errors.
    """
    with reporting_errors(debug):
        from ravl_med.cache import open_cache
        from ravl_med.config import load_config
        from ravl_med.pipeline.embedding import Shard
        from ravl_med.pipeline.embedding import embed as run_embedding

        settings = load_config(config, overrides(set_values, device))
        part = Shard.parse(shard)
        with show_progress() as progress:
            report = run_embedding(
                settings,
                shard=part,
                cache=open_cache(settings.cache.folder),
                progress=progress,
            )
        for line in report.lines():
            say(escape(line))


@cache.command("list")
def list_cache(config: PlaceOption = None, debug: DebugOption = False) -> None:
    """List what is kept: kind, digest, size, age. Nothing that names a patient is printed."""
    with reporting_errors(debug):
        place = _place(config)
        entries = list(place.entries())
        _print(entries)
        size = _size(sum(entry.size for entry in entries))
        say(f"{len(entries)} entries, {size}: {escape(str(place.root))}")


@cache.command("clear")
def clear_cache(
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", help="cohorts, embeddings, mitigations or models; default all."),
    ] = None,
    older_than: Annotated[
        float, typer.Option("--older-than", metavar="DAYS", help="Only what is older.", min=0.0)
    ] = 0.0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: PlaceOption = None,
    debug: DebugOption = False,
) -> None:
    """Remove what is kept, by kind and age; what it was made from stays, and it is made again.

    Do not clear while another run works. Returns 0, 1 where the answer is no, 2 for a wrong option.
    """
    with reporting_errors(debug):
        from ravl_med.cache import KINDS
        from ravl_med.errors import ConfigError

        unknown = [kind for kind in kinds or () if kind not in KINDS]
        if unknown:
            raise ConfigError(f"--kind is {unknown[0][:40]!r}; expected one of {', '.join(KINDS)}.")
        place, latest = _place(config), time.time() - older_than * _DAY
        entries = [
            entry
            for entry in place.entries()
            if entry.kind in (kinds or KINDS) and entry.changed <= latest
        ]
        if not entries:
            say("Nothing to clear.")
            return
        _print(entries)
        size = _size(sum(entry.size for entry in entries))
        if not yes:
            typer.confirm(f"Remove {len(entries)} entries, {size}?", abort=True)
        place.remove(entries)
        say(f"{len(entries)} entries removed, {size}.")


def _place(config: Path | None) -> Cache:
    from ravl_med.cache import open_cache
    from ravl_med.config import load_config

    return open_cache(None if config is None else load_config(config).cache.folder)


def _print(entries: list[CacheEntry]) -> None:
    from ravl_med.cache import KINDS

    for entry in entries:
        days = max(time.time() - entry.changed, 0.0) / _DAY
        sys.stdout.write(
            f"{entry.kind:<12} {entry.name:<38} {_size(entry.size):>9} {days:>7.1f} days  "
            f"{KINDS[entry.kind]}\n"
        )


def _size(count: int) -> str:
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= least:
            return f"{count / least:.1f} {unit}"
    return f"{count} B"
