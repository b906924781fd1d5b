"""The command line: verbs, the only print and the only exit code.

Heavy imports happen inside the verbs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ravl_med import __version__
from ravl_med.cli.benchmarks import benchmark
from ravl_med.cli.caching import cache, embed
from ravl_med.cli.console import (
    ConfigArgument,
    DebugOption,
    DeviceOption,
    ExitZeroOption,
    SetOption,
    overrides,
    reporting_errors,
    say,
)
from ravl_med.cli.intake import doctor, init, inspect
from ravl_med.cli.merging import merge
from ravl_med.cli.planning import plan
from ravl_med.cli.progress import show_progress
from ravl_med.cli.telling import tell_audit, tell_comparison, tell_mitigation, tell_review

__all__ = ["app", "main"]

app = typer.Typer(
    name="ravl-med",
    help="Audit radiology vision-language models for shortcuts, and repair them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(benchmark, name="benchmark")
app.add_typer(cache, name="cache")
for verb in (inspect, init, doctor, embed, merge, plan):
    app.command()(verb)


@app.command()
def audit(
    config: ConfigArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; default reports/NAME.")
    ] = None,
    set_values: SetOption = None,
    device: DeviceOption = None,
    exit_zero: ExitZeroOption = False,
    strict: Annotated[bool, typer.Option("--strict", help="Return 1 for 'review' too.")] = False,
    debug: DebugOption = False,
) -> None:
    """Audit a model: films and reports in, PDF and JSON out.

    Returns 0 for pass and review, 1 for fail and not auditable, 2 for a wrong config, 3 for data
    that cannot be used, 4 for an internal error.
    """
    with reporting_errors(debug):
        from datetime import date

        from ravl_med.cache import open_cache, user_key
        from ravl_med.config import load_config
        from ravl_med.pipeline import audit as run_audit
        from ravl_med.pipeline import write_run
        from ravl_med.reporting.audit.history import user_history_root
        from ravl_med.reporting.files.run_folder import refuse_foreign_folder

        settings = load_config(config, overrides(set_values, device))
        folder = out if out is not None else Path("reports") / settings.name
        refuse_foreign_folder(folder)
        with show_progress() as progress:
            run = run_audit(
                settings,
                key=user_key(),
                cache=open_cache(settings.cache.folder),
                progress=progress,
                today=date.today(),
            )
            progress("write the report", 0, 1)
            write_run(run, folder, date=date.today().isoformat(), history_root=user_history_root())
            progress("write the report", 1, 1)
        tell_audit(run, folder)
        failed = run.result.verdict.name in ("fail", "not_auditable")
        reviewed = strict and run.result.verdict.name == "review"
        code = 1 if (failed or reviewed) and not exit_zero else 0
    raise typer.Exit(code)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run folder of an audit.")],
    exit_zero: ExitZeroOption = False,
    strict: Annotated[bool, typer.Option("--strict", help="Return 1 for 'review' too.")] = False,
    debug: DebugOption = False,
) -> None:
    """Draw a report again, with what reviewers wrote into review.csv; no model, no films needed.

    The verdict follows the decisions. Returns what audit returns.
    """
    with reporting_errors(debug):
        from datetime import date

        from ravl_med.reporting.files.saved_run import redraw_run

        result = redraw_run(run, date.today())
        tell_review(result, run)
        failed = result.verdict.name in ("fail", "not_auditable")
        reviewed = strict and result.verdict.name == "review"
        code = 1 if (failed or reviewed) and not exit_zero else 0
    raise typer.Exit(code)


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="Run folder of an audit.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Run folder of another.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Default reports/A-vs-B.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Put two audits side by side: two models on the same films, or one before and after.

    No model, no films needed. Returns 0 whatever differs, and as audit for errors.
    """
    with reporting_errors(debug):
        from ravl_med.reporting.comparison.report import refuse_other_folder, write_comparison
        from ravl_med.reporting.comparison.run_comparison import compare_runs

        name = f"{run_a.resolve().name}-vs-{run_b.resolve().name}"
        folder = out if out is not None else Path("reports") / name
        refuse_other_folder(folder)
        comparison = compare_runs(run_a, run_b)
        write_comparison(comparison, folder)
        tell_comparison(comparison, folder)


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
    exit_zero: ExitZeroOption = False,
    debug: DebugOption = False,
) -> None:
    """Fine-tune the audited model away from its shortcut, and prove what came of it.

    Returns 0 for improved and nothing to do, 1 for no change and worse, and as audit for errors.
    An earlier run of the audit is used when model, films and settings are the same. Under torchrun
    --max-restarts it returns 0 whatever came of it: else torchrun would do it all again.
    """
    with reporting_errors(debug):
        from datetime import date

        from ravl_med.cache import open_cache, user_key
        from ravl_med.config import load_config
        from ravl_med.mitigation.processes import Processes, make_fabric
        from ravl_med.pipeline import mitigate as run_mitigation
        from ravl_med.pipeline import open_work_folder, write_mitigation, write_run
        from ravl_med.pipeline.work_folder import starts_again
        from ravl_med.reporting.audit.history import user_history_root
        from ravl_med.reporting.files.audit_run import Audit
        from ravl_med.reporting.files.run_folder import refuse_foreign_folder

        settings = load_config(config, overrides(set_values, device))
        folder = out if out is not None else Path("reports") / f"{settings.name}-mitigation"
        audited = audit_run if audit_run is not None else Path("reports") / settings.name
        for target in (folder, audited):
            refuse_foreign_folder(target)
        processes = Processes(make_fabric(settings.model.device, settings.mitigation.precision))
        if not processes.first:
            processes.serve()
            raise typer.Exit
        today, history = date.today().isoformat(), user_history_root()
        cache = open_cache(settings.cache.folder)

        def keep_audit(run: Audit) -> None:
            write_run(run, audited, date=today, history_root=history)

        with processes, show_progress() as progress:
            work = open_work_folder(settings, cache, processes, resume=resume)
            run = run_mitigation(
                settings,
                key=user_key(),
                cache=cache,
                work=work,
                processes=processes,
                earlier_run=audited,
                keep_audit=keep_audit,
                progress=progress,
            )
            progress("write the report", 0, 1)
            write_mitigation(run, folder, date=today, history_root=history)
            progress("write the report", 1, 1)
        tell_mitigation(run, folder)
        good = run.result.verdict.name in ("improved", "nothing_to_do")
        code = 0 if good or exit_zero or starts_again() else 1
    raise typer.Exit(code)


@app.command("regions")
def preview(
    config: ConfigArgument,
    show: Annotated[int, typer.Option(help="Films on the sheet, at most 100.")] = 20,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.png", help="Default reports/NAME-regions.png."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="finetune, validation, test or all; default as in the config."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample: same seed, same films.")] = 0,
    set_values: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Draw the regions of some films on a contact sheet, to look at before an audit.

    No model is opened. Returns 0, and as audit for errors.
    """
    with reporting_errors(debug):
        from ravl_med.cache import open_cache, user_key
        from ravl_med.config import load_config
        from ravl_med.pipeline.previewing import preview_regions
        from ravl_med.reporting.contact_sheet import refuse_foreign_file, write_sheet

        chosen = {None: (), "all": ("cohort.split=null",)}.get(split, (f"cohort.split={split}",))
        settings = load_config(config, (*overrides(set_values, None), *chosen))
        path = out if out is not None else Path("reports") / f"{settings.name}-regions.png"
        refuse_foreign_file(path)
        with show_progress() as progress:
            sheet = preview_regions(
                settings,
                shown=show,
                seed=seed,
                key=user_key(),
                cache=open_cache(settings.cache.folder),
                progress=progress,
            )
            write_sheet(sheet, path)
        say(escape(sheet.sentence()))
        say(f"Sheet: {escape(str(path))}")


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
    with reporting_errors(debug):
        from ravl_med.cohort.synthetic import synthesize as write_cohort

        with show_progress() as progress:
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
        say(f"{images} films written. Manifest: {escape(str(manifest))}")


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
    with reporting_errors(debug):
        from ravl_med.config import load_config
        from ravl_med.evaluation.planned_cohort import PlannedCohort, plan_power

        settings = load_config(config)
        cohort = PlannedCohort(films, accuracy, films_per_patient, candidates, simulations)
        with show_progress() as progress:
            plan = plan_power(settings, cohort, progress=progress)
        for line in plan.table():
            sys.stdout.write(line + "\n")
        say(escape(plan.sentence()))


@app.command("train-segmenter")
def train_segmenter(
    weights: Annotated[Path, typer.Argument(metavar="FILE", help="Safetensors to write.")],
    films: Annotated[int, typer.Option(help="Phantoms to train on.", min=8)] = 3000,
    steps: Annotated[int, typer.Option(help="Of 8 films.", min=1)] = 3600,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    debug: DebugOption = False,
) -> None:
    """Train the built-in segmenter of anatomy and artifacts, on phantoms alone."""
    with reporting_errors(debug):
        from ravl_med.regions.segmenter_training import train_segmenter as train

        with show_progress() as progress:
            train(weights, films=films, steps=steps, seed=seed, progress=progress)
        say(f"Weights: {escape(str(weights))}")


@app.command()
def schema(
    mitigation: Annotated[
        bool, typer.Option("--mitigation", help="Of mitigation.json instead.")
    ] = False,
    comparison: Annotated[
        bool, typer.Option("--comparison", help="Of comparison.json instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of result.json."""
    from ravl_med.reporting.comparison.document import comparison_schema
    from ravl_med.reporting.files.result_json import result_schema
    from ravl_med.reporting.mitigation.document import mitigation_schema

    made = comparison_schema if comparison else mitigation_schema if mitigation else result_schema
    printed = made()
    sys.stdout.write(json.dumps(printed, indent=2) + "\n")


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
