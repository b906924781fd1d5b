"""The page of the controlled evaluation, drawn from what ``ravl-med evaluate`` has run.

Markdown with a plot, HTML and PDF are drawn from the same blocks. Every number comes from the rows
of the results. The first section says what they do not show.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ravl_med.errors import ConfigError
from ravl_med.evaluation.methods import OURS
from ravl_med.evaluation.sweep import read_results
from ravl_med.evidence.results import Interval
from ravl_med.reporting.layout.blocks import (
    Block,
    Cell,
    Column,
    Dot,
    Dots,
    Scale,
    Section,
    Table,
    Text,
    Title,
)
from ravl_med.reporting.layout.html import draw_html
from ravl_med.reporting.layout.markdown import as_markdown
from ravl_med.reporting.layout.pdf import draw_pdf
from tests.benchmarks.evaluation_measures import (
    BINS,
    COMPARED,
    METHOD_NAMES,
    Mean,
    MethodScore,
    exact_share,
    format_mean,
    format_number,
    group_mean,
    mean_precision,
    precision_table,
    score_methods,
    table_of_rows,
    valid_models,
)
from tests.benchmarks.evaluation_sections import (
    PAPER_MODELS,
    arm_blocks,
    confirmation_blocks,
    cost_blocks,
    null_blocks,
    other_blocks,
)
from tests.benchmarks.tables import yes_no

Row = Mapping[str, object]

TITLE = "Controlled evaluation: models whose shortcut is known"

_ABLATED = ("gap_unweighted", "gap_weighted", "ravl", "pooled", "confirmed", OURS)
_ABLATION_NAMES = {
    **METHOD_NAMES,
    "ravl": "and influence (RaVL, as published)",
    OURS: "and counterfactuals (RaVL-Med)",
}
_TARGETS = {"phantoms": 0.95, "radiographs": 0.85}
_WANTED = 200
_SECONDS = 60.0
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


def draw_blocks(rows: Sequence[Row], arms: Sequence[Row]) -> list[Block]:
    """Return the page; rows hold the fields of `MethodRow`, and arms those of `ArmOfSetting`."""
    table = table_of_rows(rows)
    valid = valid_models(table)
    planted = valid[(valid["kind"] == "planted") & (valid["regions"] == "tiles")]
    return [
        Title(TITLE, "small vision-language models, each trained on a planted pair"),
        Text(_summary(table, valid)),
        *_withdrawn(),
        *_targets(table, planted),
        *_discovery(planted),
        *_strengths(planted),
        *_towers(planted),
        *_ablation(valid, planted),
        *null_blocks(table),
        *confirmation_blocks(table, planted),
        *other_blocks(valid),
        *arm_blocks(arms, set(valid["digest"])),
        *cost_blocks(table, valid),
    ]


def _summary(table: pd.DataFrame, valid: pd.DataFrame) -> str:
    models = table.drop_duplicates("digest")
    taught = models[models["kind"] != "null"]
    learned = exact_share(int(taught["valid"].sum()), len(taught))
    whole = valid["digest"].nunique()
    return (
        f"{len(models)} models were trained; {len(taught)} were taught a planted pair, of which "
        f"{learned.count} learned it (both gaps of the validity test above 10 points), and {whole} "
        "of those belong to a group that all three seeds have learned: these are the valid models, "
        f"of which RaVL's authors had {PAPER_MODELS}. {len(models) - len(taught)} models have "
        "nothing to learn (null settings). Means are given with 95 % intervals, bootstrapped over "
        "groups of seeds; shares with exact intervals."
    )


_WITHDRAWN = (
    "The first edition of this page claimed gains over published methods. They do not stand, and "
    "are withdrawn until fair numbers replace them.",
    "The baseline was handicapped. RaVL and the other published methods ranked 6 x 6 tiles over a "
    "3 x 3 feature map, pooled after the last stage, with 4 to 10 clusters for two classes. On the "
    "path of its authors (pooled before the last stage, tiles no finer than the map, 20 to 50 "
    "clusters) plain RaVL reached precision@10 1.00 in 4 of 4 settings that are counted as 0.00 "
    "here.",
    "Boxes differ. RaVL-Med is scored on boxes that it moved and fitted, the published methods on "
    "tiles as they were cut: as cut, ours reached 0.53 in settings that are counted as 1.00 here.",
    "False alarms and finds were counted by different rules. An alarm needed a correlation of kind "
    "shortcut, which cannot occur on radiographs and digits, where the table of relevance is "
    "empty; by the same rule RaVL-Med finds nothing there. The table of models without a shortcut "
    "now uses the rule that credits finds.",
    "Mitigation was measured on models that know nothing. The radiograph models are at chance "
    "(49.9 %), their test set is 238 films of 14 patients, and the worst group of our arm lies 5.9 "
    "points (-0.8 to +12.0) above a random guesser's. The published arm's loss was summed over the "
    "batch, ours was averaged; averaged, RaVL's arm does better as well.",
)


def _withdrawn() -> Iterator[Block]:
    """Say what the numbers below do not show."""
    yield Section("What these numbers do not show")
    for text in _WITHDRAWN:
        yield Text(text)


def _targets(table: pd.DataFrame, planted: pd.DataFrame) -> Iterator[Block]:
    """Say what was asked beside what was reached."""
    whole = valid_models(table)["digest"].nunique()
    rows: list[tuple[Cell, ...]] = [
        ("valid models", f"at least {_WANTED}", str(whole), yes_no(whole >= _WANTED))
    ]
    for domain, least in _TARGETS.items():
        mean = _precision(planted[planted["domain"] == domain])
        rows.append(
            (
                f"precision@10 on {domain}",
                f"at least {least:.2f}",
                format_mean(mean),
                "does not stand",
            )
        )
    asked = table[table["method"] != ""].drop_duplicates("digest")["cpu_seconds"]
    if len(asked):
        rows.append(
            (
                "one setting, every method",
                f"at most {_SECONDS:.0f} s on 2 cores",
                f"{asked.median():.0f} s of one (median)",
                yes_no(float(asked.median()) <= _SECONDS),
            )
        )
    yield Section("Targets")
    yield Table(
        "What was asked, and what was reached",
        (Column("", "label"), Column("Target"), Column("Reached", "wide"), Column("Met")),
        tuple(rows),
        titled=False,
    )


def _discovery(planted: pd.DataFrame) -> Iterator[Block]:
    """Every method on every domain."""
    yield Section("Discovery")
    yield Text(
        "precision@10 and @25: share of the first regions that lie on the planted thing (half of "
        "the smaller box is shared). Touching: any common area counts. Class: the planted class is "
        "named as raised. Found: precision@10 above 0.6, which RaVL's authors call right. First: "
        "the first cluster of the list is the thing: half of its regions, as they were cut, touch "
        "it. A method that lists single regions has no cluster."
    )
    for domain, own in _parts(planted, "domain"):
        yield _score_table(
            f"{domain}: {own['digest'].nunique()} valid models", own, COMPARED, METHOD_NAMES
        )


def _score_table(
    caption: str,
    rows: pd.DataFrame,
    methods: Sequence[str],
    names: Mapping[str, str],
) -> Table:
    scores = {score.method: score for score in score_methods(rows)}
    counts = [Column(h, "number") for h in ("@25", "touching", "class", "found", "first")]
    method, mean = Column("Method", "wide"), Column("precision@10", "interval")
    columns = [method, mean, *counts, Column(Scale(), "plot")]
    return Table(caption, columns, tuple(_score_row(scores[name], names[name]) for name in methods))


def _score_row(score: MethodScore, name: str) -> tuple[Cell, ...]:
    mean = score.precision_10
    dot = Dot(name, mean.value, Interval(mean.low, mean.high))
    rest = (score.precision_25, score.touching_10, score.right_class, score.found, score.first)
    return (name, format_mean(mean), *(format_number(part.value) for part in rest), Dots((dot,)))


def _strengths(planted: pd.DataFrame) -> Iterator[Block]:
    """precision@10 by what was learned, and by Cramer's V."""
    parts = [("all", planted), *_parts(planted, "domain")]
    learned = [
        (f"{name}, {100 * least:.0f} points", own[own["learned"] > least])
        for name, own in parts
        for least in BINS
    ]
    tied = [(f"Cramer's V {strength}", own) for strength, own in _parts(planted, "strength")]
    yield Section("By strength")
    yield precision_table("precision@10 by what both gaps of the model exceed", learned)
    yield precision_table("precision@10 by how tightly the pair was planted", tied)


def _towers(planted: pd.DataFrame) -> Iterator[Block]:
    yield Section("By architecture and by thing")
    yield precision_table("precision@10 by architecture", list(_parts(planted, "architecture")))
    yield precision_table("precision@10 by thing", list(_parts(planted, "feature")))


def _ablation(valid: pd.DataFrame, planted: pd.DataFrame) -> Iterator[Block]:
    """Show what each step adds; tiles against anatomy and artifacts on the same pairs."""
    yield Section("Ablations")
    yield _score_table("Step by step, all domains", planted, _ABLATED, _ABLATION_NAMES)
    cut = valid[(valid["kind"] == "planted") & (valid["domain"] == "phantoms")]
    named = cut[cut["regions"] == "structures"]
    keys = ["feature", "finding", "strength", "architecture", "seed"]
    tiles = cut[cut["regions"] == "tiles"].merge(named[keys].drop_duplicates(), on=keys)
    named = named.merge(tiles[keys].drop_duplicates(), on=keys)
    if len(named):
        yield precision_table(
            "precision@10 on the same pairs", [("tiles", tiles), ("anatomy, artifacts", named)]
        )


def _parts(rows: pd.DataFrame, column: str) -> Iterator[tuple[str, pd.DataFrame]]:
    for value, own in rows.groupby(column):
        yield str(value), own


def _precision(rows: pd.DataFrame) -> Mean:
    own = rows[rows["method"] == OURS]
    return group_mean(own["precision_10"].to_numpy(dtype="float64"), own["group"].tolist())


def draw_markdown(blocks: list[Block]) -> str:
    """Draw the page as Markdown."""
    parts = [
        f"# {TITLE}",
        f"![precision@10 by what the models have learned]({_STEM}.svg)",
        *as_markdown(blocks),
        "Made by `python -m tests.benchmarks evaluation` from `evaluation.parquet`, which "
        "`ravl-med evaluate --films FOLDER` has run.",
    ]
    return "\n\n".join(parts) + "\n"


def write_pages(folder: Path) -> Path:
    """Write ``evaluation.md``, ``.svg``, ``.html`` and ``.pdf`` from the results in a folder.

    Raises
    ------
    ConfigError
        There are no results, they cannot be read, or the folder cannot be written.
    """
    rows, arms = read_results(folder)
    blocks = draw_blocks(rows, arms)
    subject = "Discovery and mitigation of planted shortcuts, against published methods"
    try:
        (folder / f"{_STEM}.md").write_text(draw_markdown(blocks), encoding="utf-8")
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
        bins = [own[own["learned"] > least] for least in BINS]
        for method, (colour, dash) in _LINES.items():
            values = [mean_precision(models, method) for models in bins]
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
