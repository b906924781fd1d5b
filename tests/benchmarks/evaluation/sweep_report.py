"""The pages of the controlled evaluation on disk: Markdown with a plot, HTML and PDF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ravl_med.errors import ConfigError
from ravl_med.evaluation.sweep import read_results
from ravl_med.reporting.layout.html import draw_html
from ravl_med.reporting.layout.markdown import as_markdown
from ravl_med.reporting.layout.pdf import draw_pdf
from tests.benchmarks.evaluation.sweep_cells import METHOD_NAMES
from tests.benchmarks.evaluation.sweep_measures import (
    BINS,
    score_methods,
    table_of_rows,
    valid_models,
)
from tests.benchmarks.evaluation.sweep_pages import TITLE, sweep_blocks

_STEM = "evaluation"
_LINES = {
    "random": ("#9aa4ad", ":"),
    "distilling_failures": ("#9aa4ad", "--"),
    "george": ("#9aa4ad", "-."),
    "domino": ("#9aa4ad", "-"),
    "spurious_aware": ("#5d6871", ":"),
    "ravl": ("#d98200", "-"),
    "ours": ("#0b5fa5", "-"),
}


def write_sweep_report(folder: Path) -> Path:
    """Write ``evaluation.md``, ``.svg``, ``.html`` and ``.pdf`` from the results in a folder.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    Path - of the Markdown

    Raises
    ------
    ConfigError
        There are no results, they cannot be read, or the folder cannot be written.
    """
    rows, arms = read_results(folder)
    blocks = sweep_blocks(rows, arms)
    text = "\n\n".join(
        [
            f"# {TITLE}",
            f"![precision@10 by what the models have learned]({_STEM}.svg)",
            *as_markdown(blocks),
            "Made by `ravl-med benchmark evaluation` and `ravl-med benchmark pages` from "
            "`evaluation.parquet`.",
        ]
    )
    subject = "Discovery and mitigation of planted shortcuts, against published methods"
    try:
        (folder / f"{_STEM}.md").write_text(text + "\n", encoding="utf-8")
        (folder / f"{_STEM}.html").write_text(
            draw_html(blocks, "benchmark", TITLE, still=True), encoding="utf-8"
        )
        (folder / f"{_STEM}.pdf").write_bytes(draw_pdf(blocks, "benchmark", TITLE, subject))
        _plot(rows, folder / f"{_STEM}.svg")
    except OSError as error:
        raise ConfigError(f"--out: cannot be written ({type(error).__name__}).") from None
    return folder / f"{_STEM}.md"


def _plot(rows: list[dict[str, object]], path: Path) -> None:
    """precision@10 of each method over the strength bins, a panel a domain."""
    valid = valid_models(table_of_rows(rows))
    valid = valid[(valid["kind"] == "planted") & (valid["regions"] == "tiles")]
    domains = sorted(valid["domain"].unique()) or ["none"]
    figure = Figure(figsize=(3.4 * len(domains) + 1.6, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(domains), sharey=True, squeeze=False)[0]
    for panel, domain in zip(axes, domains, strict=True):
        own = valid[valid["domain"] == domain]
        scores = [score_methods(own[own["learned"] > least]) for least in BINS]
        for method, (colour, dash) in _LINES.items():
            values = [
                next(s.precision_10.value for s in bin_ if s.method == method) for bin_ in scores
            ]
            wide = 2.2 if method == "ours" else 1.4
            panel.plot(
                100 * np.array(BINS),
                values,
                dash,
                color=colour,
                lw=wide,
                label=METHOD_NAMES[method],
            )
        panel.set_title(f"{domain}, {own['digest'].nunique()} models", fontsize=9)
        panel.set_xlabel("both gaps above, points", fontsize=8)
        panel.set_ylim(-0.02, 1.02)
        panel.tick_params(labelsize=8)
    axes[0].set_ylabel("precision@10", fontsize=8)
    axes[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    with rc_context({"svg.hashsalt": _STEM}):  # the same results give the same file
        figure.savefig(path, metadata={"Date": None})
