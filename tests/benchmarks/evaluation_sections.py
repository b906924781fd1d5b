"""Sections of the controlled evaluation beside discovery: towers, options, verdicts, arms, cost."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import pandas as pd

from ravl_med.evaluation.films import SIDE
from ravl_med.evaluation.methods import CHOSEN, OPTIONS, OURS
from ravl_med.evaluation.repairs import ABLATIONS, ABOVE, BASE, BEFORE, CLEAN, GUESS, REPAIRS
from ravl_med.evaluation.settings import ARCHITECTURES, TRIED
from ravl_med.reporting.layout.blocks import Block, Cell, Column, Section, Table, Text
from ravl_med.reporting.wording import plural
from tests.benchmarks.evaluation_measures import (
    COMPARED,
    METHOD_NAMES,
    Mean,
    accused,
    best_options,
    exact_share,
    finds_at,
    format_mean,
    format_number,
    format_share,
    group_mean,
    ratio_of_means,
    tried,
)
from tests.benchmarks.tables import DASH
from tests.benchmarks.tower_facts import describe_tower

PAPER_MODELS = 654
"""Valid models that RaVL's authors had."""

ALARMS = (0.02, 0.05, 0.10, 0.20, 0.50)
"""Shares of clean models that a gate may let be accused."""

_MEASURES = ("image_overall", "image_worst", "region_overall", "region_worst")


def tower_blocks(table: pd.DataFrame) -> Iterator[Block]:
    """Say what each tower can tell apart."""
    rows: list[tuple[Cell, ...]] = []
    models = table.drop_duplicates("digest")
    for architecture in ARCHITECTURES:
        facts = describe_tower(architecture)
        own = models[(models["architecture"] == architecture) & models["leak"].notna()]
        leaks = group_mean(own["leak"].to_numpy(dtype="float64"), own["group"].tolist())
        rows.append(
            (
                architecture,
                f"{facts.cells} x {facts.cells}",
                f"{facts.cell:.0f}",
                f"{facts.receptive} of {SIDE}",
                format_mean(leaks),
            )
        )
    yield Section("Towers")
    yield Table(
        "Maps, and how far a mark carries",
        (
            Column("Tower", "label"),
            Column("Map"),
            Column("Cell, pixels", "number"),
            Column("A cell depends on, pixels"),
            Column("Leak", "interval"),
        ),
        tuple(rows),
        "Tiles are 16 pixels wide, quadrants 48: none is finer than a cell. Leak: how much a mark "
        "changes the embeddings of regions that it does not touch, as a share of how much it "
        "changes those that it touches (one less the cosine, same films with and without it).",
        titled=False,
    )


def option_blocks(table: pd.DataFrame) -> Iterator[Block]:
    """Say which option of each method was chosen, on which models."""
    own = tried(table)
    again = f"ravl-med evaluate --only seed={','.join(map(str, TRIED))}"
    yield Section("Options")
    yield Text(
        "Each method has two poolings of regions and two settings of its own that its paper or its "
        "code documents; ours as well. Which of them is published was chosen by the mean precision "
        f"of fitted boxes on seeds {' and '.join(map(str, TRIED))}, which no other number here "
        "comes from. A ViT has one pooling alone. "
        + (
            f"{own['digest'].nunique()} valid models."
            if len(own)
            else f"The rows that it was chosen by are not among these: {again} runs them."
        )
    )
    if not len(own):
        return
    best = best_options(own)
    rows: list[tuple[Cell, ...]] = []
    for method, options in OPTIONS.items():
        for option in options:
            there = own[(own["method"] == method) & (own["option"] == option.label())]
            groups = there["group"].tolist()
            cut, fitted = (
                group_mean(there[name].to_numpy(dtype="float64"), groups)
                for name in ("precision_10", "fitted_10")
            )
            mark = "best" if best.get(method) == option.label() else ""
            mark = "published" if option == CHOSEN[method] else mark
            rows.append(
                (METHOD_NAMES[method], option.label(), format_mean(cut), format_mean(fitted), mark)
            )
    yield Table(
        "precision@10 of every option",
        (
            Column("Method", "wide"),
            Column("Option", "wide"),
            Column("As cut", "interval"),
            Column("Fitted", "interval"),
            Column(""),
        ),
        tuple(rows),
        titled=False,
    )


def criterion_blocks(valid: pd.DataFrame, table: pd.DataFrame) -> Iterator[Block]:
    """Say whom each method accuses, of planted and of clean models, by one rule."""
    nulls = table[table["kind"] == "null"]
    local = valid[valid["kind"] == "planted"]
    yield Section("Finds and false alarms, by one rule")
    yield Text(
        "A method accuses where its own rule says that the model has a shortcut: ours where the "
        "verdict is fail, RaVL where a cluster passes its filters. The same event is counted for "
        "models with a planted shortcut and for clean ones, where the mark lies on half of the "
        "films of each class. Methods that name a feature of any model have no decision rule. A "
        "model knows its classes where its accuracy on films without a mark is "
        f"{100 * ABOVE:g} points above the share of the largest class; an audit calls others not "
        "auditable (gate.min_auroc), and these verdicts leave that gate out."
    )
    rules, alarms = accused(local), accused(nulls)
    asks = accused(local, "asks"), accused(nulls, "asks")
    rows: list[tuple[Cell, ...]] = []
    for method in COMPARED:
        if method not in rules and method not in alarms:
            rows.append((METHOD_NAMES[method], "no decision rule", "", ""))
            continue
        right = local[(local["method"] == method) & local["accuses"] & local["found"]]
        rows.append(
            (
                METHOD_NAMES[method],
                format_share(rules.get(method, exact_share(0, 0))),
                format_share(exact_share(len(right), int((local["method"] == method).sum()))),
                format_share(alarms.get(method, exact_share(0, 0))),
            )
        )
    rows.append(
        (
            f"{METHOD_NAMES[OURS]} asks a reviewer",
            format_share(asks[0].get(OURS, exact_share(0, 0))),
            "",
            format_share(asks[1].get(OURS, exact_share(0, 0))),
        )
    )
    clean = nulls[nulls["method"] == OURS]
    knowing = clean[clean["bare"] >= clean["majority"] + ABOVE]
    for whose, own in (("", clean), (" a model that knows its classes", knowing)):
        passed = exact_share(int((own["verdict"] == "pass").sum()), len(own))
        rows.append((f"{METHOD_NAMES[OURS]} passes{whose}", "", "", format_share(passed)))
    yield Table(
        "Accused",
        (
            Column("Method", "wide"),
            Column("Planted", "interval"),
            Column("Planted, and right in class and place", "interval"),
            Column("Clean", "interval"),
        ),
        tuple(rows),
        titled=False,
    )
    yield _by_domain(local, nulls)
    yield _as_the_gate_moves(local, nulls)


def _by_domain(planted: pd.DataFrame, nulls: pd.DataFrame) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name in sorted({*planted["domain"], *nulls["domain"]}):
        found, clean = (
            rows_of[(rows_of["domain"] == name) & (rows_of["method"] == OURS)]
            for rows_of in (planted, nulls)
        )
        cells = [
            format_share(exact_share(int((rows_of["verdict"] == verdict).sum()), len(rows_of)))
            for rows_of in (found, clean)
            for verdict in ("fail", "review", "pass")
        ]
        rows.append((name, *cells))
    heads = [f"{side}: {verdict}" for side in ("planted", "clean")
             for verdict in ("fail", "review", "pass")]  # fmt: skip
    return Table(
        "Verdicts of RaVL-Med by domain",
        (Column("Films", "label"), *(Column(head, "interval") for head in heads)),
        tuple(rows),
    )


def _as_the_gate_moves(planted: pd.DataFrame, nulls: pd.DataFrame) -> Table:
    rows = tuple(
        (
            METHOD_NAMES[method],
            *(format_number(finds_at(planted, nulls, method, alarms)) for alarms in ALARMS),
        )
        for method in COMPARED
    )
    return Table(
        "Share of planted models found, as the gate moves",
        (
            Column("Method", "wide"),
            *(Column(f"{100 * alarms:.0f} % of clean accused", "number") for alarms in ALARMS),
        ),
        rows,
        "A gate on each method's own claim: its gap, fall, discrepancy or balanced accuracy; ours "
        "is the gap or the share of wrong calls of a shortcut. Found: right class, and fitted "
        "precision@10 above 0.6.",
    )


def confirmation_blocks(table: pd.DataFrame, planted: pd.DataFrame) -> Iterator[Block]:
    """Say the rates of the test on held-out patients."""
    ours = planted[planted["method"] == OURS]
    nulls = table[(table["kind"] == "null") & (table["method"] == OURS)]

    def rate(rows: pd.DataFrame, kind: str) -> str:
        return format_share(
            exact_share(int(rows[f"confirmed_{kind}"].sum()), int(rows[f"tested_{kind}"].sum()))
        )

    yield Section("Confirmation on held-out patients")
    yield Table(
        "Confirmed",
        (Column("Candidates", "wide"), Column("Confirmed", "interval")),
        (
            ("that travel with the planted thing and name its class", rate(ours, "true")),
            ("that have nothing to do with it, in the same models", rate(ours, "other")),
            ("of models without a shortcut", rate(nulls, "other")),
        ),
        "What has nothing to do with the thing may be used by the model all the same: a sign of "
        "the disease.",
        titled=False,
    )


def other_blocks(valid: pd.DataFrame) -> Iterator[Block]:
    """Say what becomes of two shortcuts at once, and of one without a place."""
    two = valid[(valid["kind"] == "two") & (valid["method"] == OURS)]
    whole = valid[(valid["kind"] == "style") & (valid["method"] == OURS)]
    if not len(two) and not len(whole):
        return
    yield Section("Two shortcuts, and one without a place")
    rows: list[tuple[Cell, ...]] = []
    if len(two):
        for count, found in ((1, "at least one found"), (2, "both found")):
            share = exact_share(int((two["pairs_found"] >= count).sum()), len(two))
            rows.append((f"two pairs at once: {found}", format_share(share)))
    for verdict in ("fail", "review", "pass") if len(whole) else ():
        share = exact_share(int((whole["verdict"] == verdict).sum()), len(whole))
        rows.append((f"a style of the whole film: {verdict}", format_share(share)))
    yield Table(
        "What RaVL-Med finds",
        (Column("", "wide"), Column("Models", "interval")),
        tuple(rows),
        "RaVL's authors say that a feature without a place cannot be found by regions.",
        titled=False,
    )


def cost_blocks(table: pd.DataFrame, valid: pd.DataFrame) -> Iterator[Block]:
    """Say what settings take, how many models learn their pair, and what is left to do."""
    models = table.drop_duplicates("digest")
    rows: list[tuple[Cell, ...]] = []
    for (domain, architecture), own in models.groupby(["domain", "architecture"]):
        asked, taught = own[own["method"] != ""], own[own["kind"] != "null"]
        rows.append(
            (
                f"{domain}, {architecture}",
                str(len(own)),
                f"{100 * taught['valid'].mean():.0f} %" if len(taught) else DASH,
                f"{own['training_seconds'].median():.0f}",
                f"{asked['seconds'].median():.0f}" if len(asked) else DASH,
                f"{asked['cpu_seconds'].median():.0f}" if len(asked) else DASH,
            )
        )
    yield Section("Cost")
    yield Table(
        "Medians",
        (
            Column("Settings", "wide"),
            *(
                Column(head, "number")
                for head in ("run", "learned", "training, s", "whole, s", "processor, s")
            ),
        ),
        tuple(rows),
        "The whole setting is that of models that every method was asked about.",
        titled=False,
    )
    left = _left_to_paper(models, valid)
    if left:
        yield Text(left)


def _left_to_paper(models: pd.DataFrame, valid: pd.DataFrame) -> str:
    """Say what as many valid models as RaVL's authors had would take beyond these."""
    whole = valid["digest"].nunique()
    if not 0 < whole < PAPER_MODELS:
        return ""
    taught = models[models["kind"] != "null"]
    each = float(taught["cpu_seconds"].sum()) / whole
    hours = (PAPER_MODELS - whole) * each / 3600.0
    return (
        f"A valid model has cost {each:.0f} s of a processor, with what did not learn its pair: "
        f"{PAPER_MODELS} of them, as RaVL's authors had, take some {hours:.1f} hours more of one, "
        "shared among as many processes as run ravl-med evaluate --films nih=FOLDER --films "
        "radiographs=FOLDER on one folder; then --merge."
    )


def arm_blocks(rows: Sequence[Mapping[str, object]], valid: Collection[object]) -> Iterator[Block]:
    """Say what every way of fine-tuning makes of the models; nothing where none was run.

    Rows hold the fields of `ArmOfSetting`; models whose digest is not among the valid are left out.
    """
    table = _table_of(rows, valid)
    yield Section("Mitigation")
    reasons = [str(row["reason"]) for row in rows if row["digest"] in valid and row["reason"]]
    why = pd.Series(reasons, dtype=str).value_counts()
    left = ", ".join(f"{reason} {count}" for reason, count in sorted(why.items()))
    yield Text(
        "Arms share recipe and budget and start from the audited model, some from the weights "
        "before that. Groups are class by true presence, on films that nobody has touched. A model "
        f"enters if it knows the classes without the mark's help: {100 * ABOVE:.0f} points above "
        "the largest class on films without any mark. Beside the arms: a guesser, and a model "
        "trained on the same films with the mark on half of each class. Closed: how much of the "
        "distance between the audited model and that one an arm makes up in the worst group."
        + (f" Not repaired: {left}." if left else "")
    )
    if not len(table):
        yield Text("No model has been repaired yet.")
        return
    for domain, own in table.groupby("domain"):
        yield from _of_domain(str(domain), own)
    own = _repaired_by(table, ("standard", "exchange", BASE, *ABLATIONS))
    if len(own):
        yield _arm_table(own, ("standard", "exchange", *ABLATIONS, BASE), "What each part gains")
        yield Text(
            "Exchange: the feature's regions are dealt out anew in each batch, whatever the class "
            "of a film. L_R draws the best of a film's other regions to its class among classes, "
            "L_A among films; both push the feature's regions away. lambda is the share of L_CLIP "
            "in the loss, 0.8 where none is named."
        )


def _of_domain(domain: str, table: pd.DataFrame) -> Iterator[Block]:
    """Tables of the arms of a domain: from the audited model, and from the start."""
    later = [name for name, one in REPAIRS.items() if one.pretrained]
    plain = [name for name in REPAIRS if name not in (*later, *ABLATIONS)]
    for arms in (plain, [*plain, *later]):
        own = _repaired_by(table, (BEFORE, GUESS, CLEAN, *arms))
        if len(own) and (arms is plain) == (not len(_repaired_by(table, later))):
            yield _arm_table(own, (BEFORE, GUESS, CLEAN, *arms), domain)


def _table_of(rows: Sequence[Mapping[str, object]], valid: Collection[object]) -> pd.DataFrame:
    """Rows of arms of valid models in which there was something to repair."""
    return pd.DataFrame([dict(row) for row in rows if row["arm"] and row["digest"] in valid])


def _repaired_by(table: pd.DataFrame, arms: Iterable[str]) -> pd.DataFrame:
    """Rows of the models that all of these arms have repaired."""
    wanted = frozenset(arms)
    if not len(table):
        return table
    known = table.groupby("digest")["arm"].agg(lambda names: wanted.issubset(names))
    return table[table["digest"].isin(known[known].index)]


def _of(rows: pd.DataFrame, arm: str) -> pd.DataFrame:
    return rows[rows["arm"] == arm]


_BESIDE: Mapping[str, str] = {
    BEFORE: "audited model",
    GUESS: "guesser",
    CLEAN: "trained without the correlation",
}


def _arm_table(rows: pd.DataFrame, arms: Sequence[str], caption: str) -> Table:
    lines: list[tuple[Cell, ...]] = []
    for arm in arms:
        own = _of(rows, arm)
        means = [_mean(own, measure) for measure in _MEASURES]
        closed = [_closed(rows, arm, measure) for measure in ("image_worst", "region_worst")]
        name = _BESIDE.get(arm) or REPAIRS[arm].title
        lines.append((name, *(_percent(mean) for mean in means), *map(_percent, closed)))
    models, groups = rows["digest"].nunique(), rows["group"].nunique()
    smallest = int(rows["smallest"].min())
    return Table(
        f"{caption}: {plural(models, 'model')} of {plural(groups, 'group')}, %",
        (
            Column("Arm", "wide"),
            *(
                Column(head, "number")
                for head in (
                    "overall", "worst group", "regions, overall", "regions, worst",
                    "closed", "regions, closed",
                )
            ),
        ),
        tuple(lines),
        f"The smallest group of any of these models has {smallest} films.",
    )  # fmt: skip


def _closed(rows: pd.DataFrame, arm: str, measure: str) -> Mean:
    """Share of the distance from the audited to the clean model, of means over models."""
    known = {name: _of(rows, name).set_index("digest")[measure] for name in (BEFORE, CLEAN, arm)}
    if arm in (BEFORE, GUESS, CLEAN) or not len(known[CLEAN]):
        return Mean(math.nan, math.nan, math.nan, 0)
    groups = _of(rows, arm).set_index("digest")["group"]
    gained = (known[arm] - known[BEFORE]).dropna()
    distance = (known[CLEAN] - known[BEFORE]).reindex(gained.index)
    return ratio_of_means(
        gained.to_numpy(dtype="float64"),
        distance.to_numpy(dtype="float64"),
        groups.reindex(gained.index).tolist(),
    )


def _mean(rows: pd.DataFrame, measure: str) -> Mean:
    return group_mean(rows[measure].to_numpy(dtype="float64"), rows["group"].tolist())


def _percent(mean: Mean) -> str:
    if not mean.models or math.isnan(mean.value):
        return DASH
    if math.isnan(mean.low):
        return f"{100 * mean.value:.1f} (one group)"
    return f"{100 * mean.value:.1f} ({100 * mean.low:.1f} to {100 * mean.high:.1f})"
