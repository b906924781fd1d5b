"""The verb that joins what shards have made: ``merge``."""

from __future__ import annotations

from typing import Annotated

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
from ravl_med.errors import DataError

__all__ = ["merge"]


def merge(
    config: ConfigArgument,
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER...", help="Paths or URLs of caches that ravl-med embed has filled."
        ),
    ],
    shards: Annotated[
        int | None, typer.Option(help="That the cohort was cut into; default one for each FOLDER.")
    ] = None,
    set_values: SetOption = None,
    device: DeviceOption = None,
    debug: DebugOption = False,
) -> None:
    """Join the embeddings of shards into the cache of a config, where an audit finds them.

    Only what this config's model and settings have made is taken; a folder of something else is
    refused, and nothing is merged then. Returns 0 where the cohort is complete, 3 where parts are
    missing or a file is damaged, and as audit for errors.
    """
    with reporting_errors(debug):
        from ravl_med.cache import open_cache
        from ravl_med.config import load_config
        from ravl_med.pipeline.merging import merge as run_merging

        settings = load_config(config, overrides(set_values, device))
        with show_progress() as progress:
            report = run_merging(
                settings,
                folders,
                shards=shards,
                cache=open_cache(settings.cache.folder),
                progress=progress,
            )
        for line in report.lines():
            say(escape(line))
        code = 0 if report.complete else DataError.exit_code
    raise typer.Exit(code)
