"""`ravl-med benchmark evaluation` and `benchmark pages`: models whose shortcut is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ravl_med.cli.console import (
    DebugOption,
    DeviceOption,
    ResultsOption,
    print_file,
    reporting_errors,
    say,
)
from ravl_med.cli.progress import show_progress

__all__ = ["benchmark_evaluation", "benchmark_pages"]


def benchmark_evaluation(
    domains: Annotated[
        str, typer.Option(help="Some of phantoms, radiographs, digits and mnist, with commas.")
    ] = "phantoms,digits",
    kinds: Annotated[
        str, typer.Option(help="Some of planted, null, two and global, with commas.")
    ] = "planted,null,two,global",
    architectures: Annotated[str, typer.Option(help="Some of resnet and vit.")] = "resnet,vit",
    strengths: Annotated[
        str, typer.Option(help="Cramer's V of the planted pairs, with commas.")
    ] = "0.99,0.95,0.9,0.8,0.7",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "0,1,2",
    shard: Annotated[str, typer.Option(help="Share of this worker, as i/N.")] = "1/1",
    limit: Annotated[int | None, typer.Option(help="Settings at most.", min=1)] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no further setting after so long.", min=0)
    ] = None,
    films: Annotated[
        Path | None,
        typer.Option(
            help="Folder of real radiographs: metadata.csv (patientid, finding, "
            "filename, view) and images/."
        ),
    ] = None,
    mnist: Annotated[Path | None, typer.Option(help="Folder with the IDX files of MNIST.")] = None,
    mitigate: Annotated[bool, typer.Option(help="Repair what is found, by every arm.")] = False,
    ablate: Annotated[
        bool, typer.Option(help="Repair it by our arm with parts left out, too.")
    ] = False,
    merge: Annotated[bool, typer.Option(help="Join what shards have done; run nothing.")] = False,
    device: DeviceOption = None,
    out: ResultsOption = Path("reports/benchmark"),
    debug: DebugOption = False,
) -> None:
    """Train models with known shortcuts and find them, by RaVL, its baselines and this tool.

    Goes on where an earlier call has stopped. Several workers share the settings (--shard 1/2 and
    --shard 2/2); --merge joins what they have done, and `benchmark pages` draws the pages.
    """  # fmt: skip
    with reporting_errors(debug):
        from ravl_med.cache import user_cache
        from ravl_med.encoders.base import pick_device
        from ravl_med.evaluation.controlled.film_pool import FilmSources
        from ravl_med.evaluation.controlled.repairs import choose_repairs
        from ravl_med.evaluation.controlled.sweep import Shard, SweepPlan, merge_parts, run_sweep
        from ravl_med.evaluation.controlled.sweep_options import read_settings

        if merge:
            settings, arms = merge_parts(out)
            say(f"{settings} settings, {arms} rows of arms")
            return
        plan = SweepPlan(
            settings=read_settings(domains, kinds, architectures, strengths, seeds),
            shard=Shard.parse(shard),
            limit=limit,
            minutes=minutes,
            repairs=choose_repairs(arms=mitigate, ablations=ablate),
            device=str(pick_device(device or "auto")),
            sources=FilmSources(films, mnist),
        )
        with show_progress() as progress:
            run, left = run_sweep(plan, out, user_cache(), progress)
        say(f"{run} settings run, {left} of this shard left")


def benchmark_pages(
    out: ResultsOption = Path("reports/benchmark"), debug: DebugOption = False
) -> None:
    """Draw the controlled evaluation as Markdown, HTML and PDF from its results."""
    with reporting_errors(debug):
        from ravl_med.evaluation.controlled.sweep_report import write_sweep_report

        print_file(write_sweep_report(out))
