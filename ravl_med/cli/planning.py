"""The verb that tells what an audit will cost: ``plan``."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from ravl_med.cli.console import (
    ConfigArgument,
    DebugOption,
    DeviceOption,
    SetOption,
    overrides,
    reporting_errors,
)
from ravl_med.cli.progress import show_progress

__all__ = ["plan"]


def plan(
    config: ConfigArgument,
    workers: Annotated[
        int | None, typer.Option(help="To plan for; default those of engine.workers.")
    ] = None,
    films: Annotated[
        int | None, typer.Option(help="Of a cohort like this one; default its own number.")
    ] = None,
    sample: Annotated[int, typer.Option(help="Films to measure.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    set_values: SetOption = None,
    device: DeviceOption = None,
    debug: DebugOption = False,
) -> None:
    """Tell what an audit will cost here: regions, bytes on disk, memory, hours.

    A sample of films goes through the real reading and the real model. Nothing is kept. Returns 0,
    and as audit for errors.
    """
    with reporting_errors(debug):
        from ravl_med.cache import open_cache
        from ravl_med.config import load_config
        from ravl_med.pipeline.planning import plan_cost

        settings = load_config(config, overrides(set_values, device))
        with show_progress() as progress:
            cost = plan_cost(
                settings,
                workers=workers,
                films=films,
                sample=sample,
                cache=open_cache(settings.cache.folder),
                progress=progress,
            )
        if as_json:
            sys.stdout.write(json.dumps(cost.document(), indent=2) + "\n")
            return
        for line in cost.lines():
            sys.stdout.write(line + "\n")
