"""The verbs that come before an audit: ``inspect``, ``init``, ``doctor``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ravl_med.cli.console import DebugOption, reporting_errors, say
from ravl_med.cli.progress import show_progress

__all__ = ["doctor", "init", "inspect"]

ReportsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--reports",
        metavar="FILE.csv",
        help="Reports or findings by accession, study or image; may be given several times.",
    ),
]


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="Folder of DICOM files and reports, a manifest.csv or a config."
        ),
    ],
    reports: ReportsOption = None,
    debug: DebugOption = False,
) -> None:
    """Say what a folder or a manifest holds: read, rejected and why, views, makers, findings.

    Nothing is written, and nothing that names a patient is printed. Returns 0, and as audit for
    errors.
    """
    with reporting_errors(debug):
        from ravl_med.pipeline.inspecting import inspect as look

        with show_progress() as progress:
            report = look(path, tables=tuple(reports or ()), progress=progress)
        for line in report.lines():
            sys.stdout.write(line + "\n")


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="PATH", help="Folder of DICOM files and reports.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where to write; default the folder itself."),
    ] = None,
    reports: ReportsOption = None,
    finding: Annotated[
        str | None, typer.Option("--finding", help="That is audited; default the best balanced.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", metavar="DIR", help="Of the model; default a small one is trained."
        ),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Make a manifest and a config out of a folder of DICOM files and reports.

    Frontal chest films are kept, by their header, and by their pixels where it is silent. No file
    is written over. Returns 0, and as audit for errors.
    """
    with reporting_errors(debug):
        from ravl_med.pipeline.initialising import StartPlan, initialise

        plan = StartPlan(folder, out, tuple(reports or ()), finding, model)
        with show_progress() as progress:
            start = initialise(plan, progress=progress)
        for line in start.report.lines():
            sys.stdout.write(line + "\n")
        sys.stdout.write("\n")
        say(f"Manifest: {escape(str(start.manifest))}")
        say(f"Config:   {escape(str(start.config))}")
        for lack in start.lacking:
            say(f"Lacking: {escape(lack)}.")
        if not start.lacking:
            say(f"Next: ravl-med audit {escape(str(start.config))}  ({escape(start.finding)})")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
    debug: DebugOption = False,
) -> None:
    """Check Python, packages, decoders, device, memory and folders; say what cures a fault.

    Returns 0 where all is well, and 1 where something is missing.
    """
    with reporting_errors(debug):
        from ravl_med.cli.self_check import check_installation

        checks = check_installation()
        if as_json:
            sys.stdout.write(json.dumps([check.document() for check in checks], indent=2) + "\n")
        else:
            for check in checks:
                for line in check.lines():
                    sys.stdout.write(line + "\n")
        code = 1 if any(check.status == "missing" for check in checks) else 0
    raise typer.Exit(code)
