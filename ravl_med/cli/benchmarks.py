"""The verbs of ``ravl-med benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ravl_med.cli.console import (
    ConfigArgument,
    DebugOption,
    print_file,
    reporting_errors,
    show_progress,
)

__all__ = ["benchmark"]

benchmark = typer.Typer(
    help="Measure the tool on cohorts whose truth is known.", no_args_is_help=True
)

OutOption = Annotated[Path, typer.Option("--out", help="Folder of the results.")]


@benchmark.command("quickstart")
def benchmark_quickstart(
    config: ConfigArgument = Path("configs/quickstart.yaml"),
    parts: Annotated[
        str, typer.Option(help="Some of planted, null, localisation and bystander, with commas.")
    ] = "planted,null,localisation,bystander",
    seeds: Annotated[
        int, typer.Option(help="Planted cohorts, each with its own films and model.", min=1)
    ] = 5,
    nulls: Annotated[
        int, typer.Option(help="Null cohorts, each with its own films and model.", min=1)
    ] = 20,
    located: Annotated[
        int, typer.Option(help="Planted cohorts for each tower and tiling.", min=1)
    ] = 1,
    out: OutOption = Path("reports/benchmark"),
    debug: DebugOption = False,
) -> None:
    """Audit phantom cohorts, planted and null, and compare with their truth.

    Parts that are not run keep their earlier numbers.
    """
    with reporting_errors(debug):
        from ravl_med.cache import user_cache, user_key
        from ravl_med.config import load_config
        from ravl_med.evaluation.benchmark_file import choose_parts
        from ravl_med.evaluation.quickstart_benchmark import (
            PARTS,
            QuickstartPlan,
            run_quickstart_benchmark,
        )

        chosen = choose_parts(parts, PARTS)
        plan = QuickstartPlan(chosen, seeds, nulls, located, _named(config))
        settings = load_config(config)
        with show_progress() as progress:
            path = run_quickstart_benchmark(
                settings, plan, out, key=user_key(), cache=user_cache(), progress=progress
            )
        print_file(path)


@benchmark.command("discovery")
def benchmark_discovery(
    config: ConfigArgument = Path("configs/quickstart.yaml"),
    parts: Annotated[
        str, typer.Option(help="Some of calibration, power, table and speed, with commas.")
    ] = "calibration,power,table,speed",
    cohorts: Annotated[
        int, typer.Option(help="Simulated cohorts of each kind, for calibration and power.", min=1)
    ] = 200,
    million: Annotated[bool, typer.Option(help="Time a million regions too (4 GB).")] = True,
    out: OutOption = Path("reports/benchmark"),
    debug: DebugOption = False,
) -> None:
    """Measure how often the search accuses without cause, what it finds, and how fast.

    Parts that are not run keep their earlier numbers.
    """
    with reporting_errors(debug):
        from ravl_med.config import load_config
        from ravl_med.evaluation.benchmark_file import choose_parts
        from ravl_med.evaluation.discovery_benchmark import (
            PARTS,
            DiscoveryPlan,
            run_discovery_benchmark,
        )

        chosen = choose_parts(parts, PARTS)
        plan = DiscoveryPlan(chosen, cohorts, million=million, config_file=_named(config))
        settings = load_config(config)
        with show_progress() as progress:
            path = run_discovery_benchmark(settings, plan, out, progress=progress)
        print_file(path)


@benchmark.command("mitigation")
def benchmark_mitigation(
    config: ConfigArgument = Path("configs/quickstart.yaml"),
    parts: Annotated[str, typer.Option(help="Some of arms and cost, with commas.")] = "arms,cost",
    seeds: Annotated[
        str, typer.Option(help="Planted cohorts, each with its own films and model, with commas.")
    ] = "0,1,2,3,4",
    repeats: Annotated[int, typer.Option(help="Rounds of the cost.", min=1)] = 15,
    out: OutOption = Path("reports/benchmark"),
    debug: DebugOption = False,
) -> None:
    """Mitigate planted phantom models by every arm, and time a step of each.

    Parts that are not run keep their earlier numbers.
    """
    with reporting_errors(debug):
        from ravl_med.cache import user_cache, user_key
        from ravl_med.config import load_config
        from ravl_med.errors import ConfigError
        from ravl_med.evaluation.benchmark_file import choose_parts
        from ravl_med.evaluation.mitigation_benchmark import (
            PARTS,
            MitigationPlan,
            run_mitigation_benchmark,
        )

        chosen = choose_parts(parts, PARTS)
        numbers = [word.strip() for word in seeds.split(",")]
        if not all(word.isdecimal() for word in numbers):
            raise ConfigError(f"--seeds: expected whole numbers with commas; got {seeds!r}.")
        plan = MitigationPlan(chosen, tuple(map(int, numbers)), repeats, _named(config))
        settings = load_config(config)
        with show_progress() as progress:
            path = run_mitigation_benchmark(
                settings, plan, out, key=user_key(), cache=user_cache(), progress=progress
            )
        print_file(path)


@benchmark.command("regions")
def benchmark_regions(
    parts: Annotated[
        str, typer.Option(help="Some of phantoms, lungs, devices, films and speed, with commas.")
    ] = "phantoms,speed",
    films: Annotated[
        Path | None,
        typer.Option(help="CSV of films that people have marked: image, patient, mask (255)."),
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="Boxes on the same films: CSV, COCO or scene graphs.")
    ] = None,
    phantoms: Annotated[int, typer.Option(help="Phantoms.", min=1)] = 400,
    pictures: Annotated[
        Path | None, typer.Option(help="PNG to write of the films with the worst lungs.")
    ] = None,
    out: OutOption = Path("reports/benchmark"),
    debug: DebugOption = False,
) -> None:
    """Measure anatomy and artifact regions against what is known of films.

    Parts that are not run keep their earlier numbers. Films of patients never leave this machine:
    only numbers are written, and the pictures that are asked for.
    """
    with reporting_errors(debug):
        from ravl_med.evaluation.benchmark_file import choose_parts
        from ravl_med.evaluation.regions_benchmark import (
            PARTS,
            RegionsPlan,
            run_regions_benchmark,
        )

        plan = RegionsPlan(choose_parts(parts, PARTS), films, boxes, phantoms, pictures)
        with show_progress() as progress:
            path = run_regions_benchmark(plan, out, progress=progress)
        print_file(path)


def _named(config: Path) -> str:
    """Name a config as a command shows it: without the folders of this machine."""
    return config.name if config.is_absolute() else config.as_posix()
