"""The command line of the benchmarks: ``python -m tests.benchmarks NAME``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ravl_med.cli.console import (
    ConfigArgument,
    DebugOption,
    ResultsOption,
    print_file,
    reporting_errors,
    say,
    show_progress,
)

benchmark = typer.Typer(
    help="Measure the tool on cohorts whose truth is known.", no_args_is_help=True
)


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
    out: ResultsOption = Path("reports/benchmark"),
    debug: DebugOption = False,
) -> None:
    """Audit phantom cohorts, planted and null, and compare with their truth.

    Parts that are not run keep their earlier numbers.
    """
    with reporting_errors(debug):
        from ravl_med.config.loading import load_config
        from ravl_med.storage.cache import user_cache, user_key
        from tests.benchmarks.benchmark_file import choose_parts
        from tests.benchmarks.quickstart.benchmark import (
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
    out: ResultsOption = Path("reports/benchmark"),
    debug: DebugOption = False,
) -> None:
    """Measure how often the search accuses without cause, what it finds, and how fast.

    Parts that are not run keep their earlier numbers.
    """
    with reporting_errors(debug):
        from ravl_med.config.loading import load_config
        from tests.benchmarks.benchmark_file import choose_parts
        from tests.benchmarks.discovery.benchmark import (
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
    out: ResultsOption = Path("reports/benchmark"),
    debug: DebugOption = False,
) -> None:
    """Mitigate planted phantom models by every arm, and time a step of each.

    Parts that are not run keep their earlier numbers.
    """
    with reporting_errors(debug):
        from ravl_med.config.loading import load_config
        from ravl_med.errors import ConfigError
        from ravl_med.storage.cache import user_cache, user_key
        from tests.benchmarks.benchmark_file import choose_parts
        from tests.benchmarks.mitigation.benchmark import (
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
    out: ResultsOption = Path("reports/benchmark"),
    debug: DebugOption = False,
) -> None:
    """Measure anatomy and artifact regions against what is known of films.

    Parts that are not run keep their earlier numbers. Films of patients never leave this machine:
    only numbers are written, and the pictures that are asked for.
    """
    with reporting_errors(debug):
        from tests.benchmarks.benchmark_file import choose_parts
        from tests.benchmarks.regions.benchmark import PARTS, RegionsPlan, run_regions_benchmark

        plan = RegionsPlan(choose_parts(parts, PARTS), films, boxes, phantoms, pictures)
        with show_progress() as progress:
            path = run_regions_benchmark(plan, out, progress=progress)
        print_file(path)


@benchmark.command("labels")
def benchmark_labels(
    parts: Annotated[
        str, typer.Option(help="Some of published, development and speed, with commas.")
    ] = "published,speed",
    reports: Annotated[
        Path | None,
        typer.Option(help="The archive of coded reports (Open-i, .tgz), or a folder with it."),
    ] = None,
    out: ResultsOption = Path("reports/benchmark"),
    debug: DebugOption = False,
) -> None:
    """Measure what is read off radiology reports against codes that people gave them.

    Parts that are not run keep their earlier numbers. Only numbers are written, no
    word of a report.
    """
    with reporting_errors(debug):
        from tests.benchmarks.benchmark_file import choose_parts
        from tests.benchmarks.labels.benchmark import PARTS, LabelsPlan, run_labels_benchmark

        plan = LabelsPlan(choose_parts(parts, PARTS), reports)
        with show_progress() as progress:
            path = run_labels_benchmark(plan, out, progress=progress)
        print_file(path)


@benchmark.command("report")
def benchmark_report(
    parts: Annotated[
        str, typer.Option(help="Some of usual and largest, with commas.")
    ] = "usual,largest",
    runs: Annotated[int, typer.Option(help="How often each report is written.", min=1)] = 3,
    out: ResultsOption = Path("reports/benchmark"),
    debug: DebugOption = False,
) -> None:
    """Measure how long PDF and HTML take to write, in how much memory, and how large they are.

    Parts that are not run keep their earlier numbers.
    """
    with reporting_errors(debug):
        from tests.benchmarks.benchmark_file import choose_parts
        from tests.benchmarks.reports.benchmark import PARTS, ReportPlan, run_report_benchmark

        plan = ReportPlan(choose_parts(parts, PARTS), runs)
        with show_progress() as progress:
            path = run_report_benchmark(plan, out, progress=progress)
        print_file(path)


@benchmark.command("encoders")
def benchmark_encoders(
    config: ConfigArgument = Path("configs/quickstart.yaml"),
    parts: Annotated[
        str,
        typer.Option(
            help="Some of faithful, cost, poolings, accuracy, films and memory, with commas."
        ),
    ] = "faithful,cost,poolings,accuracy,films,memory",
    images: Annotated[int, typer.Option(help="Images whose regions are compared.", min=2)] = 8,
    batch: Annotated[int, typer.Option(help="Images that are timed together.", min=1)] = 4,
    rounds: Annotated[int, typer.Option(help="Rounds of the cost.", min=1)] = 7,
    films: Annotated[int, typer.Option(help="Phantoms whose windows are asked.", min=1)] = 300,
    out: ResultsOption = Path("reports/benchmark"),
    debug: DebugOption = False,
) -> None:
    """Measure the region embeddings of every kind of image tower: faithful, fast, right.

    Parts that are not run keep their earlier numbers.
    """
    with reporting_errors(debug):
        from ravl_med.config.loading import load_config
        from ravl_med.storage.cache import user_cache
        from tests.benchmarks.benchmark_file import choose_parts
        from tests.benchmarks.encoders.benchmark import PARTS, EncodersPlan, run_encoders_benchmark

        chosen = choose_parts(parts, PARTS)
        plan = EncodersPlan(chosen, images, batch, rounds, films, _named(config))
        settings = load_config(config)
        with show_progress() as progress:
            path = run_encoders_benchmark(
                settings, plan, out, cache=user_cache(), progress=progress
            )
        print_file(path)


@benchmark.command("intake")
def benchmark_intake(
    parts: Annotated[str, typer.Option(help="Some of speed and cores, with commas.")] = (
        "speed,cores"
    ),
    rounds: Annotated[int, typer.Option(help="Rounds of each measurement.", min=1)] = 9,
    out: ResultsOption = Path("reports/benchmark"),
    debug: DebugOption = False,
) -> None:
    """Time the reading of DICOM films: one core against pydicom, two processes against one.

    Parts that are not run keep their earlier numbers.
    """
    with reporting_errors(debug):
        from tests.benchmarks.benchmark_file import choose_parts
        from tests.benchmarks.intake.benchmark import PARTS, IntakePlan, run_intake_benchmark

        plan = IntakePlan(choose_parts(parts, PARTS), rounds=rounds)
        with show_progress() as progress:
            path = run_intake_benchmark(plan, out, progress=progress)
        print_file(path)


@benchmark.command("scale")
def benchmark_scale(
    config: ConfigArgument = Path("configs/quickstart.yaml"),
    parts: Annotated[
        str,
        typer.Option(
            help="Some of same, speed, memory, discovery, chaos and projection, with commas."
        ),
    ] = "same,speed,memory,discovery,chaos,projection",
    same_films: Annotated[
        int, typer.Option(help="Phantoms of `same`; 3 in 11 are audited.", min=40)
    ] = 3_300,
    speed_films: Annotated[
        int, typer.Option(help="Phantoms of `speed`; 8 times as many for quickstart.", min=40)
    ] = 1_024,
    towers: Annotated[
        str, typer.Option(help="Towers of `speed`: quickstart, names of open_clip, with commas.")
    ] = "quickstart,ViT-B-32",
    rounds: Annotated[int, typer.Option(help="Rounds of `speed`.", min=1)] = 3,
    memory_films: Annotated[
        str, typer.Option(help="Numbers of films of `memory`, with commas.")
    ] = "2000,200000",
    discovery_films: Annotated[
        str, typer.Option(help="Numbers of films of `discovery`, with commas.")
    ] = "20000,200000",
    chaos_films: Annotated[
        int, typer.Option(help="Phantoms of `chaos`; 3 in 11 are audited.", min=40)
    ] = 3_300,
    kills: Annotated[
        int, typer.Option(help="Kills of workers, and of runs, for each engine.", min=1)
    ] = 20,
    sample: Annotated[
        int, typer.Option(help="Films that `projection` is measured on.", min=2)
    ] = 16,
    cpu_euros: Annotated[float, typer.Option(help="A CPU node, an hour (assumed).", min=0)] = 1.60,
    cpu_cores: Annotated[int, typer.Option(help="Processors of it (assumed).", min=1)] = 32,
    gpu_euros: Annotated[
        float, typer.Option(help="An H100 node, an hour (assumed).", min=0)
    ] = 40.0,
    gpus: Annotated[int, typer.Option(help="H100 of it (assumed).", min=1)] = 8,
    utilisation: Annotated[
        float, typer.Option(help="Share of an H100 that a ViT reaches (assumed).", min=0.01, max=1)
    ] = 0.30,
    ray: Annotated[bool, typer.Option(help="Measure Ray too.")] = True,
    out: ResultsOption = Path("reports/benchmark"),
    debug: DebugOption = False,
) -> None:
    """Measure what holds beyond one machine: the same result, speed, memory, deaths, cost.

    Parts that are not run keep their earlier numbers. Linux only.
    """
    with reporting_errors(debug):
        from ravl_med.config.loading import load_config
        from ravl_med.storage.cache import user_cache
        from tests.benchmarks.benchmark_file import choose_parts
        from tests.benchmarks.scale.benchmark import (
            PARTS,
            ScalePlan,
            read_sizes,
            run_scale_benchmark,
        )
        from tests.benchmarks.scale.projection import Assumptions

        plan = ScalePlan(
            parts=choose_parts(parts, PARTS),
            same_films=same_films,
            chaos_films=chaos_films,
            speed_films=speed_films,
            towers=tuple(name.strip() for name in towers.split(",") if name.strip()),
            rounds=rounds,
            memory_films=read_sizes(memory_films, "--memory-films"),
            discovery_films=read_sizes(discovery_films, "--discovery-films"),
            kills=kills,
            sample=sample,
            assumed=Assumptions(
                cpu_euros=cpu_euros,
                cpu_cores=cpu_cores,
                gpu_euros=gpu_euros,
                gpus=gpus,
                utilisation=utilisation,
            ),
            ray=ray,
            config_file=_named(config),
        )
        settings = load_config(config)
        with show_progress() as progress:
            path = run_scale_benchmark(settings, plan, out, cache=user_cache(), progress=progress)
        print_file(path)


@benchmark.command("evaluation")
def benchmark_pages(
    out: ResultsOption = Path("reports/benchmark"), debug: DebugOption = False
) -> None:
    """Draw the controlled evaluation as Markdown, HTML and PDF from its results."""
    with reporting_errors(debug):
        from tests.benchmarks.evaluation.sweep_report import write_sweep_report

        print_file(write_sweep_report(out))


@benchmark.command("train-segmenter")
def train_segmenter(
    weights: Annotated[Path, typer.Argument(metavar="FILE", help="Safetensors to write.")],
    films: Annotated[int, typer.Option(help="Phantoms to train on.", min=8)] = 3000,
    steps: Annotated[int, typer.Option(help="Of 8 films.", min=1)] = 3600,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    debug: DebugOption = False,
) -> None:
    """Train the built-in segmenter of anatomy and artifacts, on phantoms alone."""
    with reporting_errors(debug):
        from tests.benchmarks.train_segmenter import train_segmenter as train

        with show_progress() as progress:
            train(weights, films=films, steps=steps, seed=seed, progress=progress)
        say(f"Weights: {escape(str(weights))}")


def _named(config: Path) -> str:
    """Name a config as a command shows it: without the folders of this machine."""
    return config.name if config.is_absolute() else config.as_posix()
