"""The command line: one function for each verb, the only prints and the only exit codes.

Heavy imports happen inside the verbs, so that ``--help`` answers at once. A verb returns its exit
code; `verb` adds ``--debug`` and ``--quiet`` to its options and turns errors into one line.
"""

from __future__ import annotations

import gc
import inspect as inspection
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from ravl_med import __version__
from ravl_med.cli import console
from ravl_med.errors import ConfigError, DataError, visible

if TYPE_CHECKING:
    from ravl_med.config.loading import Config
    from ravl_med.storage.cache import Cache, CacheEntry

_DAY = 86_400.0
_SPINS = "1000"  # of 300,000: beside other work, threads that wait busily cost ten times the time

PlaceOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="CONFIG", help="Config that names the cache (cache.folder)."),
]
ReportsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--reports",
        metavar="FILE.csv",
        help="Reports or findings by accession, study or image; may be given several times.",
    ),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Return 1 for 'review' too.")]
AcceptOption = Annotated[
    bool, typer.Option("--accept-conditional", help="Return 0 for 'conditional'.")
]

_VERBS = {
    "Start": {
        "doctor": "Check the installation.",
        "inspect": "Say what a folder or a manifest holds.",
        "init": "Write a manifest and a config for a folder.",
        "config": "Check a config, print it with defaults.",
    },
    "Audit": {
        "regions": "Draw the regions of some films, to check.",
        "power": "Estimate what so many films could show.",
        "plan": "Estimate what an audit costs here.",
        "audit": "Audit a model: films in, PDF and JSON out.",
    },
    "Review": {
        "review": "Decide on what was found, in a browser.",
        "report": "Draw the report again, with the decisions.",
        "compare": "Compare two audits.",
    },
    "Repair": {"mitigate": "Train the shortcut away, and test that."},
    "Many machines": {
        "embed": "Embed a part of the films ahead of an audit.",
        "merge": "Join what several machines embedded.",
        "cache": "List or clear what is kept between runs.",
    },
    "For developers": {
        "synthesize": "Write a cohort of chest phantoms.",
        "evaluate": "Find known shortcuts in trained models.",
        "schema": "Print the JSON Schema of the results.",
    },
}
"""Verbs by what they are for, in the order in which they are used."""


class _Verbs(TyperGroup):
    """The verbs, listed by what they are for."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each group."""
        for title, verbs in _VERBS.items():
            with formatter.section(title):
                formatter.write_dl(list(verbs.items()), col_max=12)


app = typer.Typer(
    name="ravl-med",
    cls=_Verbs,
    help="Audit radiology vision-language models for shortcuts, and repair them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cache = typer.Typer(help="List what is kept between runs, and clear it.", no_args_is_help=True)
app.add_typer(cache, name="cache")

Verb = Callable[..., int | None]


def verb(
    group: typer.Typer = app, name: str | None = None, *, long: bool = False
) -> Callable[[Verb], Verb]:
    """Make a function a verb of the command line; one that takes long can be quiet."""

    def register(function: Verb) -> Verb:
        @wraps(function)
        def run(*, debug: bool, quiet: bool = False, **options: object) -> None:
            console.QUIET.set(quiet)
            console.OPENED.set(None)
            with console.reporting_errors(debug):
                code = function(**options)
            if code:
                raise typer.Exit(code)

        signature = inspection.signature(function, eval_str=True)
        more = {"quiet": console.QuietOption} if long else {}
        own = [*signature.parameters.values()]
        own += [
            inspection.Parameter(
                key, inspection.Parameter.KEYWORD_ONLY, default=False, annotation=a
            )
            for key, a in {**more, "debug": console.DebugOption}.items()
        ]
        run.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
        group.command(name)(run)
        return function

    return register


def _open(config: Path, *changes: str) -> tuple[Config, Cache]:
    """Return a config with its overrides, and the cache that it names."""
    from ravl_med.config.loading import load_config
    from ravl_med.storage.cache import open_cache

    if not gc.get_freeze_count():  # what was imported stays: half a second in every collection
        gc.freeze()
    settings = load_config(config, changes)
    console.OPENED.set((settings, config.absolute().parent))
    return settings, open_cache(settings.cache.folder)


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(visible(line) + "\n")


def _print_json(content: object) -> None:
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


def _gate_code(verdict: str, *, strict: bool, accept_conditional: bool, exit_zero: bool) -> int:
    passed = {"pass"} | ({"conditional"} if accept_conditional else set())
    passed |= set() if strict else {"review"}
    return 0 if verdict in passed or exit_zero else 1


@verb()
def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="Folder of films and reports, a manifest.csv or a config."
        ),
    ],
    reports: ReportsOption = None,
    listed: Annotated[
        Path | None,
        typer.Option(
            "--list", metavar="FILE.csv", help="New file for the names of what is set aside."
        ),
    ] = None,
) -> int | None:
    """Say what a folder or a manifest holds: films read and rejected, views, makers, findings.

    Nothing but --list is written, and nothing that names a patient is printed. Returns 0, 3 where
    no film can be used, and as audit for errors.
    """
    from ravl_med.pipeline.initialise import write_set_aside
    from ravl_med.pipeline.inspect import inspect as look

    with console.show_progress() as progress:
        report = look(path, tables=tuple(reports or ()), progress=progress)
    _print_lines(report.lines())
    if listed is not None:
        write_set_aside(report, listed)
    return 0 if report.usable else DataError.exit_code


@verb()
def init(
    folder: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="Folder of films (DICOM, PNG, JPEG) and tables (CSV)."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to write to; default PATH itself."),
    ] = None,
    reports: ReportsOption = None,
    finding: Annotated[
        str | None,
        typer.Option("--finding", help="Finding to audit; default the most balanced one."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", metavar="DIR", help="Folder of your model; without it, a demonstration."
        ),
    ] = None,
) -> None:
    """Make a manifest and a config out of a folder of films and reports.

    Frontal chest films are kept, by their header or a table, or by their pixels where none says.
    No file is overwritten. Returns 0, and as audit for errors.
    """
    from ravl_med.pipeline.initialise import StartPlan, initialise

    plan = StartPlan(folder, out, tuple(reports or ()), finding, model)
    with console.show_progress() as progress:
        start = initialise(plan, progress=progress)
    _print_lines(start.report.summary())
    sys.stdout.write("\n")
    console.say(f"Manifest: {escape(str(start.manifest))}")
    console.say(f"Config:   {escape(str(start.config))}")
    if model is None and start.report.reports:
        console.say(
            "No --model was given: this config is a demonstration. It trains a small model on half "
            "of your films and audits it on the other half."
        )
    for lack in start.lacking:
        console.say(f"Not ready: {escape(lack)}.")
    if not start.lacking:
        console.say(f"Next: ravl-med audit {escape(str(start.config))}  ({escape(start.finding)})")


@verb()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print a line for each transfer syntax.")
    ] = False,
) -> int | None:
    """Check Python, packages, decoders, device, memory and folders, and show how to cure faults.

    Returns 0 where all is well, and 1 where something is missing.
    """
    from ravl_med.cli.self_check import check_installation, folded

    checks = check_installation()
    if as_json:
        _print_json([check.document() for check in checks])
    else:
        for check in checks if verbose else folded(checks):
            for line in check.lines():
                sys.stdout.write(line + "\n")
        missing = sum(check.status == "missing" for check in checks)
        last = f"{missing} missing: do what stands behind ->, then call doctor again."
        console.say(last if missing else "All is well. Try: ravl-med audit configs/quickstart.yaml")
    return 1 if any(check.status == "missing" for check in checks) else 0


@verb(name="config")
def show_config(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="YAML file to check.")
    ] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Print every key there is, as Markdown.")
    ] = False,
    set_values: console.SetOption = None,
) -> None:
    """Check a config, and print it with every default filled in; or the reference of all keys.

    No film is read and no model opened. Returns 0, 2 for a wrong config.
    """
    if reference:
        from ravl_med.config.reference import config_reference

        sys.stdout.write(config_reference())
        return
    if config is None:
        raise ConfigError("config: expected a CONFIG to check, or --reference.")
    from ravl_med.config.loading import load_config
    from ravl_med.reporting.files.run_folder import config_text

    settings = load_config(config, console.overrides(set_values, None))
    _print_lines(config_text(settings, show_paths=True).splitlines())


@verb()
def embed(
    config: console.ConfigArgument,
    shard: Annotated[
        str, typer.Option(metavar="i/N", help="Part to embed; N processes embed all.")
    ] = "1/1",
    set_values: console.SetOption = None,
    device: console.DeviceOption = None,
) -> None:
    """Embed the cohort of a config into the cache, ahead of its audit.

    Several processes or machines with one cache.folder may each take a shard; an audit finds them
    all. A run that was ended goes on where it was. Returns 0, and as audit for errors.
    """
    from ravl_med.pipeline.shards import Shard
    from ravl_med.pipeline.shards import embed as run_embedding

    settings, cached = _open(config, *console.overrides(set_values, device))
    part = Shard.parse(shard)
    with console.show_progress() as progress:
        report = run_embedding(settings, shard=part, cache=cached, progress=progress)
    for line in report.lines():
        console.say(escape(line))


@verb()
def merge(
    config: console.ConfigArgument,
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER...", help="Paths or URLs of caches that ravl-med embed has filled."
        ),
    ],
    shards: Annotated[
        int | None,
        typer.Option(help="Number of shards of the cohort; default one for each FOLDER."),
    ] = None,
    set_values: console.SetOption = None,
    device: console.DeviceOption = None,
) -> int | None:
    """Join the embeddings of shards into the cache of a config, where an audit finds them.

    Only embeddings of this config's model and settings are taken; if a folder holds others, it is
    refused and nothing is merged. Returns 0 where the cohort is complete, 3 where parts are missing
    or a file is damaged, and as audit for errors.
    """
    from ravl_med.pipeline.shards import merge as run_merging

    settings, cached = _open(config, *console.overrides(set_values, device))
    with console.show_progress() as progress:
        report = run_merging(settings, folders, shards=shards, cache=cached, progress=progress)
    for line in report.lines():
        console.say(escape(line))
    return 0 if report.complete else DataError.exit_code


@verb()
def plan(
    config: console.ConfigArgument,
    workers: Annotated[
        int | None, typer.Option(help="Number of workers to plan for; default engine.workers.")
    ] = None,
    films: Annotated[
        int | None, typer.Option(help="Number of films to plan for; default those of the cohort.")
    ] = None,
    sample: Annotated[int, typer.Option(help="Number of films to measure.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    set_values: console.SetOption = None,
    device: console.DeviceOption = None,
) -> None:
    """Estimate what an audit will cost here: regions, bytes on disk, memory, hours.

    A sample of films is read and embedded for real. Nothing is kept. Returns 0, and as audit for
    errors.
    """
    from ravl_med.pipeline.planning import plan_cost

    settings, cached = _open(config, *console.overrides(set_values, device))
    with console.show_progress() as progress:
        cost = plan_cost(
            settings, workers=workers, films=films, sample=sample, cache=cached, progress=progress
        )
    if as_json:
        _print_json(cost.document())
        return
    _print_lines(cost.lines())


@verb(long=True)
def audit(
    config: console.ConfigArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; default reports/NAME.")
    ] = None,
    set_values: console.SetOption = None,
    device: console.DeviceOption = None,
    exit_zero: console.ExitZeroOption = False,
    strict: StrictOption = False,
    accept_conditional: AcceptOption = False,
    replace: console.ReplaceOption = False,
) -> int | None:
    """Audit a model: films and reports in, PDF and JSON out.

    Returns 0 for pass and review, 1 for fail, conditional and not auditable, 2 for a wrong config,
    3 for data that cannot be used, 4 for an internal error.
    """
    if not console.QUIET.get():
        console.say(f"Audit of {escape(config.name)}: reading config, films and model.")
    settings, cached = _open(config, *console.overrides(set_values, device))
    from datetime import date

    from ravl_med.pipeline.audit import audit as run_audit
    from ravl_med.reporting.audit.history import user_history_root
    from ravl_med.reporting.files.audit_run import write_run
    from ravl_med.reporting.files.run_folder import prepare_folder
    from ravl_med.storage.cache import user_key

    folder = out if out is not None else Path("reports") / settings.name
    console.note(prepare_folder(folder, replace=replace))
    with console.show_progress() as progress:
        run = run_audit(
            settings, key=user_key(), cache=cached, progress=progress, today=date.today()
        )
        progress("write the report", 0, 1)
        write_run(
            run,
            folder,
            date=date.today().isoformat(),
            history_root=user_history_root(),
            replace=replace,
            progress=progress,
        )
        progress("write the report", 1, 1)
    console.print_audit(run, folder, config)
    return _gate_code(
        run.result.verdict.name,
        strict=strict,
        accept_conditional=accept_conditional,
        exit_zero=exit_zero,
    )


@verb()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run folder of an audit.")],
    exit_zero: console.ExitZeroOption = False,
    strict: StrictOption = False,
    accept_conditional: AcceptOption = False,
) -> int | None:
    """Draw a report again, with the decisions in review.csv; needs no model and no films.

    The verdict follows the decisions. Returns what audit returns.
    """
    from datetime import date

    from ravl_med.reporting.files.review_log import agreement_sentence
    from ravl_med.reporting.files.saved_run import redraw_run

    result = redraw_run(run, date.today(), agreement_sentence(run))
    console.print_review(result, run)
    return _gate_code(
        result.verdict.name,
        strict=strict,
        accept_conditional=accept_conditional,
        exit_zero=exit_zero,
    )


@verb()
def review(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run folder of an audit.")],
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port of this machine; 0: any that is free.")
    ] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address and open nothing.")
    ] = False,
) -> None:
    """Decide on what an audit found, in a browser of this machine; each decision is saved at once.

    Ends with Ctrl-C, and then draws the report with what was decided. Returns 0, and as audit for
    errors.
    """
    from ravl_med.cli.review_server import ReviewServer, opened_browser
    from ravl_med.reporting.files.review_log import ReviewSession, hold_for_review

    with hold_for_review(run):
        session = ReviewSession(run)
        server = ReviewServer(session, port)
        with nullcontext() if no_browser else opened_browser(server.address):
            console.say(escape(f"Review at {server.address}"))
            console.say("Only this machine can open it. Ctrl-C ends it; nothing is lost.")
            with suppress(KeyboardInterrupt):
                server.serve()
        if session.drawn < len(session.readings):
            console.say("Drawing the report again ...")
            console.print_review(session.draw(), run)


@verb()
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="Run folder of an audit.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Run folder of another.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Default reports/A-vs-B.")
    ] = None,
    replace: console.ReplaceOption = False,
) -> None:
    """Compare two audits: two models on the same films, or one model before and after.

    Needs no model and no films. Returns 0 whatever differs, and as audit for errors.
    """
    from ravl_med.reporting.comparison.compare import compare_runs
    from ravl_med.reporting.comparison.report import prepare_comparison_folder, write_comparison
    from ravl_med.reporting.files.saved_run import naming_damage

    name = f"{run_a.resolve().name}-vs-{run_b.resolve().name}"
    folder = out if out is not None else Path("reports") / name
    console.note(prepare_comparison_folder(folder, replace=replace))
    with naming_damage(run_a, "RUN_A"), naming_damage(run_b, "RUN_B"):
        comparison = compare_runs(run_a, run_b)
        write_comparison(comparison, folder, replace=replace)
    console.print_comparison(comparison, folder)


@verb(long=True)
def mitigate(
    config: console.ConfigArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; default reports/NAME-mitigation.")
    ] = None,
    audit_run: Annotated[
        Path | None, typer.Option("--audit", help="Run folder of the audit; default reports/NAME.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoints of an interrupted run.")
    ] = False,
    set_values: console.SetOption = None,
    device: console.DeviceOption = None,
    exit_zero: console.ExitZeroOption = False,
    replace: console.ReplaceOption = False,
) -> int | None:
    """Fine-tune the audited model away from its shortcut, and test the result.

    Returns 0 for improved and nothing to do, 1 for no change and worse, and as audit for errors.
    An earlier run of the audit is used when model, films and settings are the same. Under torchrun
    --max-restarts it returns 0 whatever the verdict, since torchrun would otherwise start again.
    """
    from datetime import date

    from ravl_med.mitigation.distributed import Processes, make_fabric
    from ravl_med.pipeline.mitigate import mitigate as run_mitigation
    from ravl_med.pipeline.mitigation_folder import write_mitigation
    from ravl_med.pipeline.mitigation_setup import open_work_folder, torchrun_starts_again
    from ravl_med.reporting.audit.history import user_history_root
    from ravl_med.reporting.files.audit_run import write_run
    from ravl_med.reporting.files.run_folder import prepare_folder
    from ravl_med.storage.cache import user_key

    settings, cached = _open(config, *console.overrides(set_values, device))
    folder = out or Path("reports") / f"{settings.name}-mitigation"
    audited = audit_run or Path("reports") / settings.name
    console.note((*prepare_folder(folder, replace=replace), *prepare_folder(audited, replace=True)))
    processes = Processes(make_fabric(settings.model.device, settings.mitigation.precision))
    if not processes.first:
        processes.serve()
        return 0
    noted: Any = {"date": date.today().isoformat(), "history_root": user_history_root()}
    with processes, console.show_progress() as progress:
        run = run_mitigation(
            settings,
            key=user_key(),
            cache=cached,
            work=open_work_folder(settings, cached, processes, resume=resume),
            processes=processes,
            earlier_run=audited,
            keep_audit=lambda run: write_run(run, audited, **noted, replace=True),
            progress=progress,
        )
        progress("write the report", 0, 1)
        write_mitigation(run, folder, **noted, replace=replace)
        progress("write the report", 1, 1)
    console.print_mitigation(run, folder)
    good = exit_zero or run.result.verdict.name in ("improved", "nothing_to_do")
    return 0 if good or torchrun_starts_again() else 1


@verb(name="regions")
def preview(
    config: console.ConfigArgument,
    show: Annotated[int, typer.Option(help="Number of films on the sheet, at most 100.")] = 20,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PATH", help="DIR or FILE.png; default reports.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="finetune, validation, test or all; default cohort.split.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the sample.")] = 0,
    set_values: console.SetOption = None,
) -> None:
    """Draw the regions of some films on a contact sheet, to check before an audit.

    No model is opened. Returns 0, and as audit for errors.
    """
    from ravl_med.pipeline.preview import preview_regions
    from ravl_med.reporting.contact_sheet import sheet_file, write_sheet
    from ravl_med.storage.cache import user_key

    chosen = {None: (), "all": ("cohort.split=null",)}.get(split, (f"cohort.split={split}",))
    settings, cached = _open(config, *console.overrides(set_values, None), *chosen)
    path = sheet_file(out, settings.name)
    with console.show_progress() as progress:
        sheet = preview_regions(
            settings, shown=show, seed=seed, key=user_key(), cache=cached, progress=progress
        )
        write_sheet(sheet, path)
    console.say(escape(sheet.sentence()))
    console.say(f"Sheet: {escape(str(path))}")


@verb()
def synthesize(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Empty or new folder.")],
    images: Annotated[int, typer.Option(help="Number of films, all splits together.")] = 3300,
    feature: Annotated[
        str, typer.Option(help="generator, tube, electrode, marker or text.")
    ] = "generator",
    finding: Annotated[str, typer.Option(help="Finding that the feature is planted on.")] = (
        "cardiomegaly"
    ),
    strength: Annotated[
        float, typer.Option(help="Cramer's V in the fine-tuning split; 0 plants nothing.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="Random seed; the same one gives the same bytes.")] = 0,
    size: Annotated[int, typer.Option(help="Shorter side of a film in pixels.")] = 256,
    bystander: Annotated[
        str | None, typer.Option(help="Second device that goes with nothing.")
    ] = None,
) -> None:
    """Write a cohort of chest phantoms as DICOM, with reports, labels and the ground truth."""
    from ravl_med.phantoms.cohort import synthesize as write_cohort

    with console.show_progress() as progress:
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
    console.say(f"{images} films written. Manifest: {escape(str(manifest))}")


@verb()
def power(
    config: console.ConfigArgument,
    films: Annotated[
        int | None, typer.Option(help="Number of films to collect, all classes together.")
    ] = None,
    accuracy: Annotated[float, typer.Option(help="Expected accuracy on each class.")] = 0.8,
    films_per_patient: Annotated[
        float, typer.Option(help="Mean number of films per patient, at least 1.")
    ] = 1.0,
    candidates: Annotated[
        int | None,
        typer.Option(help="Number of candidates to correct for; default what such a search finds."),
    ] = None,
    simulations: Annotated[int, typer.Option(help="Number of simulated cohorts per row.")] = 200,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            metavar="RUN_DIR",
            help="Finished audit to take classes, patients, accuracy and candidates from.",
        ),
    ] = None,
) -> None:
    """Estimate what a cohort that is yet to be collected could show."""
    from ravl_med.pipeline.planning import PlannedCohort, cohort_of_run, plan_power

    settings, _ = _open(config)
    if run is not None:
        cohort = cohort_of_run(run, films, simulations)
    elif films is None:
        raise ConfigError("--films: expected how many films are to be collected, or --run.")
    else:
        cohort = PlannedCohort(films, accuracy, films_per_patient, candidates, simulations)
    with console.show_progress() as progress:
        plan = plan_power(settings, cohort, like=run, progress=progress)
    _print_lines(plan.table())
    console.say(escape(plan.sentence()))


@app.command()
def evaluate(
    only: Annotated[
        str,
        typer.Option(
            metavar="NAME=VALUES",
            help="Narrow domain (phantoms, digits, garments; radiographs, nih, mnist), kind "
            "(planted, null, two, style), architecture (resnet, vit, convnext), strength (Cramer's "
            "V) and seed: domain=digits,kind=null,two.",
        ),
    ] = "",
    shard: Annotated[str, typer.Option(help="Part that this process runs, as i/N.")] = "1/1",
    films: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DOMAIN=FOLDER",
            help="Films that are not made: radiographs (metadata.csv with patientid, finding, "
            "filename, view; images/), nih (films.csv with file, patient, sex; films/), mnist (IDX "
            "files). Their settings are run too.",
        ),
    ] = None,
    mitigate: Annotated[bool, typer.Option(help="Repair what is found, by every arm.")] = False,
    ablate: Annotated[
        bool, typer.Option(help="Repair it by our arm with parts left out, too.")
    ] = False,
    merge: Annotated[bool, typer.Option(help="Join what shards have done; run nothing.")] = False,
    out: console.ResultsOption = Path("reports/benchmark"),
    debug: console.DebugOption = False,
) -> None:
    """Train models with known shortcuts and find them, by RaVL, its baselines and this tool.

    Stop it at any time: the next call goes on from there. Several processes, on any machines that
    see the results, share the settings; --merge joins what they have done. From a checkout,
    `python -m tests.benchmarks evaluation` draws the page.
    """  # fmt: skip
    with console.reporting_errors(debug):
        from ravl_med.encoders.base import pick_device
        from ravl_med.evaluation.repairs import choose_repairs
        from ravl_med.evaluation.settings import read_settings
        from ravl_med.evaluation.sweep import SweepPlan, merge_parts, read_folders, run_sweep
        from ravl_med.pipeline.shards import Shard
        from ravl_med.storage.cache import user_cache

        if merge:
            settings, arms = merge_parts(out)
            console.say(f"{settings} settings, {arms} rows of arms")
            return
        folders = read_folders(films or [])
        plan = SweepPlan(
            settings=read_settings(only, folders),
            shard=Shard.parse(shard),
            repairs=choose_repairs(arms=mitigate, ablations=ablate),
            device=str(pick_device("auto")),
            films=folders,
        )
        with console.show_progress() as progress:
            run = run_sweep(plan, out, user_cache(), progress)
        console.say(f"{run} settings run, none of this shard left")
        if plan.without:
            console.say(f"Left out, since --films names no folder: {', '.join(plan.without)}")


@verb(cache, "list")
def list_cache(config: PlaceOption = None) -> None:
    """List the entries: kind, digest, size, age. Nothing that names a patient is printed."""
    place = _place(config)
    entries = list(place.entries())
    _print(entries)
    size = _size(sum(entry.size for entry in entries))
    console.say(f"{len(entries)} entries, {size}: {escape(str(place.root))}")


@verb(cache, "clear")
def clear_cache(
    kinds: Annotated[
        list[str] | None, typer.Option("--kind", help="A kind that `list` shows; default all.")
    ] = None,
    older_than: Annotated[
        float, typer.Option("--older-than", metavar="DAYS", help="Only older entries.", min=0.0)
    ] = 0.0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: PlaceOption = None,
) -> None:
    """Remove entries, by kind and age; they can be made again from their sources.

    Do not clear while another run works. Returns 0, 1 if you answer no, 2 for a wrong option.
    """
    from ravl_med.storage.cache import KINDS

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
        console.say("Nothing to clear.")
        return
    _print(entries)
    size = _size(sum(entry.size for entry in entries))
    if not yes:
        typer.confirm(f"Remove {len(entries)} entries, {size}?", abort=True)
    place.remove(entries)
    console.say(f"{len(entries)} entries removed, {size}.")


def _place(config: Path | None) -> Cache:
    from ravl_med.storage.cache import user_cache

    return user_cache() if config is None else _open(config)[1]


def _print(entries: list[CacheEntry]) -> None:
    from ravl_med.storage.cache import KINDS

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


@app.command()
def schema(
    mitigation: Annotated[
        bool, typer.Option("--mitigation", help="Print the schema of mitigation.json.")
    ] = False,
    comparison: Annotated[
        bool, typer.Option("--comparison", help="Print the schema of comparison.json.")
    ] = False,
) -> None:
    """Print the JSON Schema of result.json."""
    from ravl_med.evidence.audit_result import AuditResult
    from ravl_med.evidence.mitigation_result import MitigationResult
    from ravl_med.reporting.comparison.compare import Comparison
    from ravl_med.storage.documents import schema_of

    kind = Comparison if comparison else MitigationResult if mitigation else AuditResult
    _print_json(schema_of(kind))


def main() -> None:
    """Run the command line; a SIGTERM (Slurm, Kubernetes, systemd) ends it as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)  # OpenMP reads it when PyTorch is imported
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
