"""The page of the controlled evaluation, drawn from what ``ravl-med evaluate`` has run.

Markdown with a plot, HTML and PDF are drawn from the same blocks. Every number comes from the rows
of the results. The first section answers what the first edition of the page got wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ravl_med.errors import ConfigError
from ravl_med.evaluation.methods import OURS
from ravl_med.evaluation.settings import SEEDS
from ravl_med.evaluation.sweep import ARMS, RESULTS, Rows, read_rows
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
    USES,
    Mean,
    MethodScore,
    accused,
    exact_share,
    format_mean,
    format_number,
    format_share,
    gain_over_best,
    group_mean,
    mean_precision,
    precision_table,
    published,
    score_methods,
    table_of_rows,
    valid_models,
)
from tests.benchmarks.evaluation_sections import (
    PAPER_MODELS,
    arm_blocks,
    confirmation_blocks,
    cost_blocks,
    criterion_blocks,
    option_blocks,
    other_blocks,
    tower_blocks,
)
from tests.benchmarks.tables import DASH, yes_no

Row = Mapping[str, object]

TITLE = "Controlled evaluation: models whose shortcut is known"

_ABLATED = ("gap_unweighted", "gap_weighted", "ravl", "pooled", "confirmed", OURS)
_ABLATION_NAMES = {
    **METHOD_NAMES,
    "ravl": "and influence (RaVL, as published)",
    OURS: "and counterfactuals (RaVL-Med)",
}
_REAL = ("nih", "radiographs")
_PRECISION, _REAL_PRECISION = 0.95, 0.90
_MOST_FAIL, _MOST_FAIL_HIGH, _LEAST_PASS, _LEAST_NULLS = 0.05, 0.08, 0.60, 200
_LEAST_GROUPS, _LEAST_REPAIRED = 20, 60
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
    every = table_of_rows(rows)
    table = published(every)
    valid = valid_models(table)
    planted = valid[valid["kind"] == "planted"]
    shown = [arm for arm in arms if arm["seed"] in SEEDS]
    measured = (
        ()
        if not len(valid)
        else (
            *_discovery(planted),
            *_strengths(planted),
            *_towers(planted),
            *_ablation(planted),
            *criterion_blocks(valid, table),
            *confirmation_blocks(table, planted),
            *other_blocks(valid),
            *arm_blocks(shown, set(valid["digest"])),
        )
    )
    return [
        Title(TITLE, "small vision-language models, each trained on a planted pair"),
        Text(_summary(table, valid)),
        *_answers(table, valid, planted, shown),
        *_targets(table, valid, planted, shown),
        *tower_blocks(every),
        *option_blocks(every),
        *measured,
        *cost_blocks(every, valid),
    ]


def _summary(table: pd.DataFrame, valid: pd.DataFrame) -> str:
    models = table.drop_duplicates("digest")
    taught = models[models["kind"] != "null"]
    learned = exact_share(int(taught["valid"].sum()), len(taught))
    whole = valid["digest"].nunique()
    seeds = ", ".join(map(str, SEEDS))
    return (
        f"{len(models)} models were trained on the published seeds {seeds}, which no rule and no "
        f"option was chosen on; {len(taught)} were taught a planted pair, of which "
        f"{learned.count} learned it (both gaps of the validity test above 10 points), and {whole} "
        "of those belong to a group that all three seeds have learned: these are the valid models, "
        f"of which RaVL's authors had {PAPER_MODELS}. {len(models) - len(taught)} models have "
        "nothing to learn (null settings). Means are given with 95 % intervals, bootstrapped over "
        "groups of seeds; shares with exact intervals. Any row is rebuilt by ravl-med evaluate "
        "--only domain=...,kind=...,architecture=...,strength=...,seed=... A process computes in "
        "one thread, so that a row does not depend on how many cores there are."
    )


def _answers(
    table: pd.DataFrame, valid: pd.DataFrame, planted: pd.DataFrame, arms: Sequence[Row]
) -> Iterator[Block]:
    """Say what did not stand in the first edition, and the number that takes its place."""
    best, gain = gain_over_best(planted, "fitted_10")
    cut = gain_over_best(planted, "precision_10")[1]
    alarms = accused(table[table["kind"] == "null"]).get(OURS)
    own = planted[planted["method"] == "ravl"]["fitted_10"].mean()
    known = {str(arm["digest"]) for arm in arms if arm["arm"]}
    answers = (
        (
            "Plain RaVL was handicapped: 6 x 6 tiles over a 3 x 3 map, pooled after the last "
            "stage, 4 to 10 clusters for two classes. Gains of 338 and 698 % were withdrawn.",
            "Maps fit their regions, and every method has its best option. RaVL: "
            f"{format_number(float(own))}. Ours less the best published method"
            f"{f' ({METHOD_NAMES[best]})' if best else ''}: {format_mean(gain)}.",
        ),
        (
            "Ours was scored on boxes that it had moved and fitted, the others on tiles as cut.",
            "Every method is scored as cut, and on boxes fitted alike. Ours less the best, as cut: "
            f"{format_mean(cut)}.",
        ),
        (
            "Finds and false alarms were counted by different rules; a default value stood as "
            "76 of 76 false alarms of the others.",
            "One event, accuses, for planted and clean models. Clean models that ours accuses: "
            f"{format_share(alarms) if alarms else DASH}.",
        ),
        (
            "Mitigation was measured on models at chance, on 14 patients, with the published arm's "
            "loss summed and ours averaged.",
            f"A model has to know the classes first; {len(known)} were repaired. RaVL's arm stands "
            "summed and averaged, from the audited weights and from those before.",
        ),
        (
            "225 valid models of the paper's 654; no V of 0.7, no clean models of digits or ViTs; "
            "seeds had been looked at.",
            f"{valid['digest'].nunique()} valid models on seeds that nothing was chosen on; "
            f"{table[table['kind'] == 'null']['digest'].nunique()} clean ones.",
        ),
    )
    yield Section("What the first edition said, and what takes its place")
    yield Table(
        "Withdrawn, and measured again",
        (Column("What did not stand", "wide"), Column("Now", "wide")),
        answers,
        "A dash: not measured on published seeds yet.",
        titled=False,
    )


def _met(mean: Mean, reached: bool) -> str:
    """Say whether a target is met; of fewer than two groups nothing is said."""
    return DASH if math.isnan(mean.low) else yes_no(reached)


def _targets(
    table: pd.DataFrame, valid: pd.DataFrame, planted: pd.DataFrame, arms: Sequence[Row]
) -> Iterator[Block]:
    """Say what was asked beside what was reached."""
    whole = valid["digest"].nunique()
    rows: list[tuple[Cell, ...]] = [
        ("valid models", f"at least {PAPER_MODELS}", str(whole), yes_no(whole >= PAPER_MODELS))
    ]
    for name, own in _parts(planted, "domain"):
        least = _REAL_PRECISION if name in _REAL else _PRECISION
        mean = _precision(own)
        met = _met(mean, mean.value >= least)
        asked = f"at least {least:.2f}"
        rows.append((f"precision@10 on {name}, fitted", asked, format_mean(mean), met))
        best, gain = gain_over_best(own, "fitted_10")
        met = _met(gain, gain.value >= 0)
        asked = f"{name}: less the best published method, {METHOD_NAMES.get(best, DASH)}"
        rows.append((asked, "at least 0", format_mean(gain), met))
    gain = gain_over_best(planted, "fitted_10")[1]
    met = _met(gain, gain.low > 0)
    rows.append(("all: less the best published method", "above 0", format_mean(gain), met))
    nulls = table[(table["kind"] == "null") & (table["method"] == OURS)]
    failed = exact_share(int(nulls["accuses"].sum()), len(nulls))
    passed = exact_share(int((nulls["verdict"] == "pass").sum()), len(nulls))
    few = failed.value <= _MOST_FAIL and failed.high <= _MOST_FAIL_HIGH
    rows += [
        ("clean models", f"at least {_LEAST_NULLS}", str(len(nulls)), yes_no(len(nulls) >= 200)),
        (
            "clean models: fail",
            f"at most {100 * _MOST_FAIL:.0f} %, interval to {100 * _MOST_FAIL_HIGH:.0f} %",
            format_share(failed),
            yes_no(few) if failed.total else DASH,
        ),
        (
            "clean models: pass",
            f"at least {100 * _LEAST_PASS:.0f} %",
            format_share(passed),
            yes_no(passed.value >= _LEAST_PASS) if passed.total else DASH,
        ),
    ]
    repaired = {(str(arm["digest"]), str(arm["group"])) for arm in arms if arm["arm"]}
    groups = len({group for _, group in repaired})
    rows.append(
        (
            "models repaired, and their groups",
            f"at least {_LEAST_REPAIRED} of {_LEAST_GROUPS}",
            f"{len(repaired)} of {groups}",
            yes_no(len(repaired) >= _LEAST_REPAIRED and groups >= _LEAST_GROUPS),
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
        "precision@10: share of the first regions that lie on the planted mark (half of the "
        "smaller box is shared), as they were cut, and with boxes fitted to where removal takes "
        "most, those of every method by the same code. Touching: any common area counts, as cut. "
        "Class: the planted class is named as raised. Found: fitted precision@10 above 0.6, which "
        "RaVL's authors call right. First: the first cluster of the list is the mark: half of its "
        "regions, as cut, touch it. A method that lists single regions has no cluster."
    )
    for domain, own in _parts(planted, "domain"):
        caption = f"{domain}: {own['digest'].nunique()} valid models"
        yield _score_table(caption, own, COMPARED, METHOD_NAMES)


def _score_table(
    caption: str,
    rows: pd.DataFrame,
    methods: Sequence[str],
    names: Mapping[str, str],
) -> Table:
    scores = {score.method: score for score in score_methods(rows)}
    counts = [Column(h, "number") for h in ("touching", "class", "found", "first")]
    method = Column("Method", "wide")
    means = Column("As cut", "interval"), Column("Fitted", "interval")
    columns = [method, *means, *counts, Column(Scale(), "plot")]
    return Table(caption, columns, tuple(_score_row(scores[name], names[name]) for name in methods))


def _score_row(score: MethodScore, name: str) -> tuple[Cell, ...]:
    mean = score.fitted_10
    dot = Dot(name, mean.value, Interval(mean.low, mean.high))
    rest = (score.touching_10, score.right_class, score.found, score.first)
    means = format_mean(score.cut_10), format_mean(mean)
    return (name, *means, *(format_number(part.value) for part in rest), Dots((dot,)))


_USE_NAMES = (
    f"up to {USES[0]:g}",
    *(f"{low:g} to {high:g}" for low, high in pairwise(USES)),
    f"above {USES[-1]:g}",
)


def _strengths(planted: pd.DataFrame) -> Iterator[Block]:
    """precision@10 by what was learned and used, and by Cramer's V."""
    parts = [("all", planted), *_parts(planted, "domain")]
    learned = [
        (f"{name}, {100 * least:.0f} points", own[own["learned"] > least])
        for name, own in parts
        for least in BINS
    ]
    tied = [(f"Cramer's V {strength}", own) for strength, own in _parts(planted, "strength")]
    used = [
        (name, planted[(planted["use"] > low) & (planted["use"] <= high)])
        for name, (low, high) in zip(
            _USE_NAMES, pairwise((-math.inf, *USES, math.inf)), strict=True
        )
    ]
    yield Section("By strength")
    yield precision_table("precision@10 by what both gaps of the model exceed", learned)
    yield Text(
        "Gaps alone let some models in that hardly use the mark: of few films of a class, those "
        "with it may be harder by chance. How far a mark moves the model is measured by painting "
        "none: how far the margin of its class falls on films of other classes, in standard "
        "deviations of all films."
    )
    yield precision_table("precision@10 by how far the mark moves the model", used)
    yield precision_table("precision@10 by how tightly the pair was planted", tied)


def _towers(planted: pd.DataFrame) -> Iterator[Block]:
    yield Section("By architecture, and by what was planted")
    yield precision_table("precision@10 by architecture", list(_parts(planted, "architecture")))
    yield precision_table("precision@10 by shape", list(_parts(planted, "feature")))
    places = [(name or "its own place", own) for name, own in _parts(planted, "place")]
    yield precision_table("precision@10 by place", places)
    sized = planted[planted["radius"] > 0]
    for column, unit in (("radius", "width, % of the film"), ("contrast", "contrast, %")):
        scale = 200 if column == "radius" else 100
        edges = [0.0, 0.05, 0.06, 0.07, 1.0] if column == "radius" else [0.0, 0.5, 0.75, 1.0]
        parts = [
            (f"{scale * low:.0f} to {scale * min(high, 1):.0f}" if high < 1 or scale == 100
             else f"above {scale * low:.0f}",
             sized[(sized[column] > low) & (sized[column] <= high)])
            for low, high in pairwise(edges)
        ]  # fmt: skip
        yield precision_table(f"precision@10 by {unit}", parts)


def _ablation(planted: pd.DataFrame) -> Iterator[Block]:
    """Show what each step adds."""
    yield Section("Ablations")
    yield _score_table("Step by step, all domains", planted, _ABLATED, _ABLATION_NAMES)


def _parts(rows: pd.DataFrame, column: str) -> Iterator[tuple[str, pd.DataFrame]]:
    for value, own in rows.groupby(column):
        yield str(value), own


def _precision(rows: pd.DataFrame) -> Mean:
    own = rows[rows["method"] == OURS]
    return group_mean(own["fitted_10"].to_numpy(dtype="float64"), own["group"].tolist())


def read_results(folder: Path) -> tuple[Rows, Rows]:
    """Return the rows of methods and of arms; no arms is no error.

    Raises
    ------
    ConfigError
        There are no results, or they cannot be read.
    """
    if not (folder / RESULTS).is_file():
        raise ConfigError(f"--out: the folder has no {RESULTS}. Run `ravl-med evaluate` and merge.")
    return read_rows(folder / RESULTS), read_rows(folder / ARMS)


def draw_markdown(blocks: list[Block]) -> str:
    """Draw the page as Markdown."""
    parts = [
        f"# {TITLE}",
        f"![precision@10 by what the models have learned]({_STEM}.svg)",
        *as_markdown(blocks),
        "Made by `python -m tests.benchmarks evaluation` from `evaluation.parquet`, which "
        "`ravl-med evaluate` has run, with the folders of real films in `--films`.",
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
    valid = valid_models(published(table_of_rows(rows)))
    valid = valid[valid["kind"] == "planted"]
    domains = sorted(valid["domain"].unique()) or ["no valid models yet"]
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
