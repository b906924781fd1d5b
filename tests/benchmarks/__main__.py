"""The command line of the benchmarks: ``python -m tests.benchmarks NAME``.

Every page has the same options; its help lists its parts and sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ravl_med.cli.console import (
    DebugOption,
    ResultsOption,
    reporting_errors,
    say,
    show_progress,
)
from ravl_med.regions.segmenter import built_in_segmenter
from ravl_med.reporting.contact_sheet import write_sheet
from tests.benchmarks import (
    discovery,
    effects,
    encoders,
    evaluation,
    fuzz,
    generative,
    intake,
    labels,
    mitigation,
    quickstart,
    regions,
    report,
    scale,
)
from tests.benchmarks.boxed_films import read_boxed_films
from tests.benchmarks.runner import NOTHING, Page, Setup, choose_parts, read_sizes, run_page

PAGES = {
    module.PAGE.name: module.PAGE
    for module in (
        effects, discovery, quickstart, regions, encoders, generative, intake, labels, report,
        mitigation, scale, fuzz,
    )
}  # fmt: skip
DEFAULT_FOLDER = Path("reports/benchmark")

app = typer.Typer(help="Measure the tool on cohorts whose truth is known.", no_args_is_help=True)

PartsOption = Annotated[
    str | None,
    typer.Option(help=f"Some parts, with commas; {NOTHING} draws the page anew from its numbers."),
]
SizeOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME=NUMBER", help="How much is measured.")
]
FilmsOption = Annotated[
    Path | None,
    typer.Option(help="CSV of films that people have marked: image, patient, mask (255)."),
]
BoxesOption = Annotated[
    Path | None, typer.Option(help="Boxes on the same films: CSV, COCO or scene graphs.")
]
ObjectsOption = Annotated[
    Path | None,
    typer.Option(help="Folder of real films with boxes of objects: films.csv, boxes.csv, films/."),
]
ReportsOption = Annotated[
    Path | None, typer.Option(help="Archive of coded reports (Open-i, .tgz), or its folder.")
]


def _help(page: Page) -> str:
    lines = [page.help, "Parts that are not run keep their earlier numbers."]
    for part in page.parts:
        sizes = ", ".join(f"{name} {size}" for name, size in part.sizes.items())
        files = ", ".join(f"needs --{option}" for option in part.files)
        more = "; ".join(text for text in (sizes, files) if text)
        lines.append(f"{part.name}: {part.title}{f' ({more})' if more else ''}")
    return "\n\n".join(lines)


def _command(page: Page) -> Callable[..., None]:
    def measure(
        parts: PartsOption = None,
        size: SizeOption = None,
        films: FilmsOption = None,
        boxes: BoxesOption = None,
        objects: ObjectsOption = None,
        reports: ReportsOption = None,
        out: ResultsOption = DEFAULT_FOLDER,
        debug: DebugOption = False,
    ) -> None:
        with reporting_errors(debug):
            named = {"films": films, "boxes": boxes, "objects": objects, "reports": reports}
            files = {option: path for option, path in named.items() if path is not None}
            chosen = choose_parts(page, parts, files)
            sizes = read_sizes(page, size or [])
            with show_progress() as progress:
                path = run_page(page, chosen, out, Setup.of_user(sizes, files, progress))
            typer.echo(path.read_text(encoding="utf-8").rstrip())

    return measure


for _page in PAGES.values():
    app.command(_page.name, help=_help(_page))(_command(_page))


@app.command("evaluation")
def draw_evaluation(out: ResultsOption = DEFAULT_FOLDER, debug: DebugOption = False) -> None:
    """Draw the controlled evaluation as Markdown, HTML and PDF from its results."""
    with reporting_errors(debug):
        typer.echo(evaluation.write_pages(out).read_text(encoding="utf-8").rstrip())


@app.command()
def contact_sheet(
    films: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of real films with boxes.")],
    sheet: Annotated[Path, typer.Argument(metavar="FILE.png", help="Contact sheet to draw.")],
    show: Annotated[int, typer.Option(min=1, max=100)] = 24,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    debug: DebugOption = False,
) -> None:
    """Draw what the built-in segmenter finds on some films of the test part, to be looked at."""
    with reporting_errors(debug):
        test = read_boxed_films(films, "test")
        drawn = regions.draw_contact_sheet(built_in_segmenter(), test, show, seed)
        write_sheet(drawn, sheet)
        say(f"Sheet: {escape(str(sheet))}")


@app.command()
def train_quickstart(
    weights: Annotated[Path, typer.Argument(metavar="FILE", help="Safetensors to write.")],
    debug: DebugOption = False,
) -> None:
    """Train the model of configs/quickstart.yaml, as it ships."""
    with reporting_errors(debug):
        from tests.benchmarks.train_quickstart import train_shipped_model

        with show_progress() as progress:
            train_shipped_model(weights, progress)
        say(f"Weights: {escape(str(weights))}")


@app.command()
def train_generative(
    weights: Annotated[Path, typer.Argument(metavar="FILE", help="Safetensors to write.")],
    films: Annotated[int, typer.Option(help="Phantoms to train on.", min=64)] = 16_000,
    epochs: Annotated[int, typer.Option(min=1)] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 1000,
    debug: DebugOption = False,
) -> None:
    """Train the weights that the quickstart model that writes starts from, as they ship."""
    with reporting_errors(debug):
        from tests.benchmarks.train_generative import train_start

        with show_progress() as progress:
            train_start(weights, films, epochs, seed, progress)
        say(f"Weights: {escape(str(weights))}")


@app.command()
def train_segmenter(
    weights: Annotated[Path, typer.Argument(metavar="FILE", help="Safetensors to write.")],
    films: Annotated[
        Path, typer.Option(help="Folder of real films with boxes: films.csv, boxes.csv, films/.")
    ],
    phantoms: Annotated[int, typer.Option(help="Phantoms to train on.", min=8)] = 500,
    steps: Annotated[int, typer.Option(help="Of 8 films.", min=4)] = 2000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    debug: DebugOption = False,
) -> None:
    """Train the built-in segmenter on phantoms and real films, and set its thresholds."""
    with reporting_errors(debug):
        from tests.benchmarks.train_segmenter import train_segmenter as train

        with show_progress() as progress:
            train(weights, films, phantoms=phantoms, steps=steps, seed=seed, progress=progress)
        say(f"Weights: {escape(str(weights))}")


if __name__ == "__main__":
    app()
