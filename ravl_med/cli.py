"""The command line: verbs, the only print and the only exit code.

Heavy imports happen inside the verbs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ravl_med import __version__
from ravl_med.errors import RavlMedError

if TYPE_CHECKING:
    from ravl_med.evidence.audit_result import Sensitivity
    from ravl_med.evidence.claims import SpuriousCorrelation
    from ravl_med.pipeline import Audit, Mitigation

__all__ = ["app", "main"]

app = typer.Typer(
    name="ravl-med",
    help="Audit radiology vision-language models for shortcuts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
benchmark = typer.Typer(
    help="Measure the tool on cohorts whose truth is known.", no_args_is_help=True
)
app.add_typer(benchmark, name="benchmark")

_WORDS = {
    "fail": ("red", "FAIL"),
    "review": ("yellow", "REVIEW"),
    "pass": ("green", "PASS"),
    "not_auditable": ("magenta", "NOT AUDITABLE"),
    "improved": ("green", "IMPROVED"),
    "no_change": ("yellow", "NO CHANGE"),
    "worse": ("red", "WORSE"),
    "nothing_to_do": ("green", "NOTHING TO DO"),
}
_CORRELATIONS_TOLD = 5

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the audit.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One config value, as section.key=value."),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:0 or mps.")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show warnings and tracebacks.")]


@app.command()
def audit(
    config: ConfigArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; default reports/NAME.")
    ] = None,
    set_values: SetOption = None,
    device: DeviceOption = None,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="Return 0 whatever the verdict.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Return 1 for 'review' too.")] = False,
    debug: DebugOption = False,
) -> None:
    """Audit a model: films and reports in, PDF and JSON out.

    Returns 0 for pass and review, 1 for fail and not auditable, 2 for a wrong config, 3 for data
    that cannot be used, 4 for an internal error.
    """
    with _reporting_errors(debug):
        from datetime import date

        from ravl_med.cache import user_cache, user_key
        from ravl_med.config import load_config
        from ravl_med.pipeline import audit as run_audit
        from ravl_med.pipeline import write_run
        from ravl_med.reporting.audit_history import user_history_root
        from ravl_med.reporting.run_folder import refuse_foreign_folder

        overrides = [*(set_values or ())]
        if device is not None:
            overrides.append(f"model.device={device}")
        settings = load_config(config, tuple(overrides))
        folder = out if out is not None else Path("reports") / settings.name
        refuse_foreign_folder(folder)
        with _progress() as progress:
            run = run_audit(settings, key=user_key(), cache=user_cache(), progress=progress)
            progress("write the report", 0, 1)
            write_run(run, folder, date=date.today().isoformat(), history_root=user_history_root())
            progress("write the report", 1, 1)
        _tell_audit(run, folder)
        failed = run.result.verdict.name in ("fail", "not_auditable")
        reviewed = strict and run.result.verdict.name == "review"
        code = 1 if (failed or reviewed) and not exit_zero else 0
    raise typer.Exit(code)


@app.command()
def mitigate(
    config: ConfigArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; default reports/NAME-mitigation.")
    ] = None,
    audit_run: Annotated[
        Path | None,
        typer.Option("--audit", help="Run folder of the audit; default reports/NAME."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoints of an interrupted run.")
    ] = False,
    set_values: SetOption = None,
    device: DeviceOption = None,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="Return 0 whatever the verdict.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Fine-tune the audited model away from its shortcut, and prove what came of it.

    Returns 0 for improved and nothing to do, 1 for no change and worse, and as audit for errors.
    An earlier run of the audit is used when model, films and settings are the same.
    """
    with _reporting_errors(debug):
        from datetime import date

        from ravl_med.cache import user_cache, user_key
        from ravl_med.config import load_config
        from ravl_med.mitigation.trainer import make_fabric
        from ravl_med.pipeline import mitigate as run_mitigation
        from ravl_med.pipeline import open_work_folder, write_mitigation, write_run
        from ravl_med.reporting.audit_history import user_history_root
        from ravl_med.reporting.run_folder import refuse_foreign_folder

        overrides = [*(set_values or ())]
        if device is not None:
            overrides.append(f"model.device={device}")
        settings = load_config(config, tuple(overrides))
        folder = out if out is not None else Path("reports") / f"{settings.name}-mitigation"
        audited = audit_run if audit_run is not None else Path("reports") / settings.name
        for target in (folder, audited):
            refuse_foreign_folder(target)
        fabric = make_fabric(settings.model.device, settings.mitigation.precision)
        work = open_work_folder(settings, user_cache(), fabric, resume=resume)
        with _progress(quiet=fabric.global_rank > 0) as progress:
            run = run_mitigation(
                settings,
                key=user_key(),
                cache=user_cache(),
                work=work,
                fabric=fabric,
                earlier_run=audited,
                progress=progress,
            )
            if fabric.global_rank == 0:
                progress("write the report", 0, 1)
                today, history = date.today().isoformat(), user_history_root()
                if run.audit is not None:
                    write_run(run.audit, audited, date=today, history_root=history)
                write_mitigation(run, folder, date=today, history_root=history)
                progress("write the report", 1, 1)
        if fabric.global_rank == 0:
            _tell_mitigation(run, folder)
        good = run.result.verdict.name in ("improved", "nothing_to_do")
        code = 0 if good or exit_zero else 1
    raise typer.Exit(code)


@app.command()
def synthesize(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Empty or new folder.")],
    images: Annotated[int, typer.Option(help="Films over all splits.")] = 3300,
    feature: Annotated[
        str, typer.Option(help="generator, tube, electrode, marker or text.")
    ] = "generator",
    finding: Annotated[str, typer.Option(help="The finding that it is planted on.")] = (
        "cardiomegaly"
    ),
    strength: Annotated[
        float, typer.Option(help="Cramer's V in the fine-tuning split; 0 plants nothing.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    size: Annotated[int, typer.Option(help="Shorter side of a film in pixels.")] = 256,
    bystander: Annotated[
        str | None,
        typer.Option(help="A thing beside the feature that no model has a reason to use."),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Write a cohort of chest phantoms as DICOM, with reports, labels and the whole truth."""
    with _reporting_errors(debug):
        from ravl_med.cohort.synthetic import synthesize as write_cohort

        with _progress() as progress:
            manifest = write_cohort(
                folder,
                images=images,
                feature=feature,
                finding=finding,
                strength=strength,
                seed=seed,
                size=size,
                bystander=bystander,
                progress=lambda done, total: progress("synthesize films", done, total),
            )
        _say(f"{images} films written. Manifest: {escape(str(manifest))}")


@app.command()
def power(
    config: ConfigArgument,
    films: Annotated[int, typer.Option(help="Films to be collected, all classes together.")],
    accuracy: Annotated[float, typer.Option(help="Expected accuracy on each class.")] = 0.8,
    films_per_patient: Annotated[float, typer.Option(help="Mean, at least 1.")] = 1.0,
    candidates: Annotated[
        int, typer.Option(help="Clusters that a feature has to stand out among.")
    ] = 20,
    simulations: Annotated[int, typer.Option(help="Simulated cohorts for each row.")] = 200,
    debug: DebugOption = False,
) -> None:
    """Tell what a cohort that is yet to be collected could show."""
    with _reporting_errors(debug):
        from ravl_med.config import load_config
        from ravl_med.evaluation.planned_cohort import PlannedCohort, plan_power

        settings = load_config(config)
        cohort = PlannedCohort(films, accuracy, films_per_patient, candidates, simulations)
        with _progress() as progress:
            plan = plan_power(settings, cohort, progress=progress)
        for line in plan.table():
            sys.stdout.write(line + "\n")
        _say(escape(plan.sentence()))


@app.command()
def schema(
    mitigation: Annotated[
        bool, typer.Option("--mitigation", help="Of mitigation.json instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of result.json."""
    from ravl_med.reporting.mitigation_json import mitigation_schema
    from ravl_med.reporting.result_json import result_schema

    printed = mitigation_schema() if mitigation else result_schema()
    sys.stdout.write(json.dumps(printed, indent=2) + "\n")


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
    out: Annotated[Path, typer.Option("--out", help="Folder of the results.")] = Path(
        "reports/benchmark"
    ),
    debug: DebugOption = False,
) -> None:
    """Audit phantom cohorts, planted and null, and compare with their truth.

    Parts that are not run keep their earlier numbers.
    """
    with _reporting_errors(debug):
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
        with _progress() as progress:
            path = run_quickstart_benchmark(
                settings, plan, out, key=user_key(), cache=user_cache(), progress=progress
            )
        _print_file(path)


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
    out: Annotated[Path, typer.Option("--out", help="Folder of the results.")] = Path(
        "reports/benchmark"
    ),
    debug: DebugOption = False,
) -> None:
    """Measure how often the search accuses without cause, what it finds, and how fast.

    Parts that are not run keep their earlier numbers.
    """
    with _reporting_errors(debug):
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
        with _progress() as progress:
            path = run_discovery_benchmark(settings, plan, out, progress=progress)
        _print_file(path)


@benchmark.command("mitigation")
def benchmark_mitigation(
    config: ConfigArgument = Path("configs/quickstart.yaml"),
    parts: Annotated[str, typer.Option(help="Some of arms and cost, with commas.")] = "arms,cost",
    seeds: Annotated[
        str, typer.Option(help="Planted cohorts, each with its own films and model, with commas.")
    ] = "0,1,2,3,4",
    repeats: Annotated[int, typer.Option(help="Rounds of the cost.", min=1)] = 15,
    out: Annotated[Path, typer.Option("--out", help="Folder of the results.")] = Path(
        "reports/benchmark"
    ),
    debug: DebugOption = False,
) -> None:
    """Mitigate planted phantom models by every arm, and time a step of each.

    Parts that are not run keep their earlier numbers.
    """
    with _reporting_errors(debug):
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
        with _progress() as progress:
            path = run_mitigation_benchmark(
                settings, plan, out, key=user_key(), cache=user_cache(), progress=progress
            )
        _print_file(path)


def main() -> None:
    """Run the command line."""
    app()


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"ravl-med {__version__}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.Exit(2)


def _named(config: Path) -> str:
    """Name a config as a command shows it: without the folders of this machine."""
    return config.name if config.is_absolute() else config.as_posix()


def _print_file(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        sys.stdout.write(line + "\n")


def _tell_audit(run: Audit, folder: Path) -> None:
    """Say the verdict in a few lines, and where the PDF is."""
    result = run.result
    colour, word = _WORDS[result.verdict.name]
    console = _console()
    console.print(f"[bold {colour}]{word}[/]  {escape(result.name)}")
    for reason in result.verdict.reasons:
        console.print(f"  {escape(reason)}")
    cohort = result.cohort
    console.print(
        f"  {cohort.images} films of {cohort.patients} patients audited, "
        f"{sum(cohort.rejected.values())} set aside; accuracy {result.accuracy.overall:.1%}."
    )
    for correlation in [c for c in result.correlations if c.counts][:_CORRELATIONS_TOLD]:
        console.print(escape(f"  {_correlation_line(correlation, result.task.classes)}"))
    if result.discovery is not None:
        found = result.correlations
        confirmed = sum(c.confirmation.status == "confirmed" for c in found)
        used = sum(c.counterfactual is not None and c.counterfactual.used for c in found)
        console.print(
            f"  {result.discovery.clusters} clusters, {result.discovery.candidates} candidates, "
            f"{confirmed} confirmed on held-out patients, {used} used by the model."
        )
    if result.sensitivity is not None:
        console.print(f"  {_sensitivity_line(result.sensitivity)}")
    if run.config.cohort.synthetic is not None:
        from ravl_med.evaluation.truth import compare_with_truth

        for line in compare_with_truth(run).lines():
            console.print(f"  truth: {escape(line)}")
    from ravl_med.reporting.run_record import peak_memory_mb

    cost = f"{sum(run.timings.values()):.0f} s, {peak_memory_mb() / 1000:.1f} GB"
    console.print(f"Report: {escape(str(folder / 'report.pdf'))}  ({cost})", style="bold")


def _tell_mitigation(run: Mitigation, folder: Path) -> None:
    """Say the verdict, every arm in a line, and where the new model is."""
    result = run.result
    colour, word = _WORDS[result.verdict.name]
    console = _console()
    console.print(f"[bold {colour}]{word}[/]  {escape(result.name)}")
    for reason in result.verdict.reasons:
        console.print(f"  {escape(reason)}")
    for arm in result.arms:
        regions = "" if arm.region_worst.films == 0 else f"{arm.region_worst.after:7.1%}"
        console.print(
            escape(
                f"  {arm.title:<50} overall {arm.image_overall.after:6.1%}  worst group "
                f"{arm.image_worst.after:6.1%}"
                + (f"  regions, worst group {regions}" if regions else "")
                + ("  <- delivered" if arm.delivered else "")
            )
        )
    if result.reaudit is not None:
        again = result.reaudit
        left = "; ".join(again.remaining) or "the shortcut is gone"
        new = "; ".join(again.appeared) or "no new one"
        console.print(escape(f"  Re-audit ({again.verdict.replace('_', ' ')}): {left}; {new}."))
    from ravl_med.reporting.run_record import peak_memory_mb

    cost = f"{sum(run.timings.values()):.0f} s, {peak_memory_mb() / 1000:.1f} GB"
    if run.model is not None:
        console.print(f"Model:  {escape(str(folder / 'model'))}")
    console.print(f"Report: {escape(str(folder / 'report.pdf'))}  ({cost})", style="bold")


def _correlation_line(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> str:
    cluster, tested = correlation.cluster, correlation.confirmation
    others = ", ".join(classes[c] for c in cluster.opposed_classes)
    line = (
        f"{correlation.rank}. {correlation.kind.replace('_', ' ')}: raises "
        f"{classes[cluster.raised_class]} by "
        f"{100 * tested.arms.gap[cluster.raised_class]:+.0f} points, moves {others} by "
        f"{100 * tested.arms.opposed_gap:+.0f}, q {_small(tested.q_value)}"
    )
    counterfactual = correlation.counterfactual
    if counterfactual is not None and counterfactual.removal.median is not None:
        line += f"; removal {counterfactual.removal.median.contrast:+.2f} logits"
    if counterfactual is not None and counterfactual.transplant is not None:
        line += f", transplant {counterfactual.transplant.contrast:+.2f}"
    return f"{line}."


def _small(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.3f}"


def _sensitivity_line(sensitivity: Sensitivity) -> str:
    told = [
        f"{100 * d.gap:.0f} points at {d.prevalence:.0%}"
        for d in sensitivity.detectable
        if d.gap == d.gap
    ]
    if not told:
        return "These films could not have shown any gap with the asked power."
    return (
        f"Smallest gap found with {sensitivity.power:.0%} power, by share of films with the "
        f"feature: {', '.join(told)}."
    )


@contextmanager
def _reporting_errors(debug: bool) -> Iterator[None]:
    """Turn every error into one clear line and its exit code."""
    if not debug:
        warnings.filterwarnings("ignore")
    try:
        yield
    except RavlMedError as error:
        if debug:
            raise
        for line in str(error).splitlines():
            _complain(f"error: {line}")
        raise typer.Exit(error.exit_code) from None
    except (typer.Exit, typer.Abort, KeyboardInterrupt):
        raise
    except Exception as error:
        if debug:
            raise
        _complain(
            f"internal error: {type(error).__name__}. Nothing was written. Run again with --debug "
            "for the traceback, which may hold file names, and report it."
        )
        raise typer.Exit(4) from None


@contextmanager
def _progress(*, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each stage; quiet when not on a terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda stage, done, total: None
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
    ]
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                for earlier in tasks.values():
                    bars.stop_task(earlier)
                tasks[stage] = bars.add_task(escape(stage), total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


def _console(*, stderr: bool = False) -> Console:
    """Wrap at words on a terminal; keep lines whole in a pipe."""
    console = Console(stderr=stderr, highlight=False)
    console.soft_wrap = not console.is_terminal
    return console


def _say(text: str) -> None:
    _console().print(text)


def _complain(text: str) -> None:
    _console(stderr=True).print(escape(text), style="bold red")
