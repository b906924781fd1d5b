"""Mitigations of phantom models whose shortcut was planted, every arm against the truth."""

from __future__ import annotations

import csv
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from ravl_med.cohort.film import FilmReader
from ravl_med.config.loading import Config
from ravl_med.config.mitigation import ArmName
from ravl_med.encoders.zero_shot import embed_classes
from ravl_med.mitigation.distributed import Processes, make_fabric
from ravl_med.mitigation.final_test import Predictions
from ravl_med.mitigation.spurious_regions import PseudoGroups
from ravl_med.mitigation.training import open_tower, predict_films_and_regions
from ravl_med.pipeline.mitigate import Mitigation, mitigate
from ravl_med.pipeline.mitigation_setup import WorkFolder
from ravl_med.pipeline.split_films import SplitFilms
from ravl_med.pipeline.stages import Run, prepare_manifest, prepare_model, questions_of
from tests.benchmarks.mitigation_cost import measure_cost, measure_memory
from tests.benchmarks.processes import side_by_side
from tests.benchmarks.quickstart import Trial, phantom_settings
from tests.benchmarks.runner import Page, Part, Setup, silent
from tests.benchmarks.tables import (
    Column,
    Row,
    Table,
    bullets,
    draw_table,
    fill,
    mean_with_interval,
    yes_no,
)

_MEMORY_SHARE = 5  # a step of a large tower takes seconds, and its memory hardly varies
_MEASURES = ("image_overall", "image_worst", "region_overall", "region_worst")
_DELIVERED, _CLEAN, _PAPER = "counterfactual", "clean", "ravl"
_MARGINS = {"image_worst": 0.08, "region_worst": 0.10}  # of ours over every published arm
_FALL = 0.01  # of overall accuracy that ours may cost against standard fine-tuning
_LEARNED = 0.3  # least gap of an audited model that has learned the shortcut
_LIMITS = {("RN50", "ravl"): 1.8, ("quickstart", "ravl"): 3.0, ("RN50", "exchange"): 1.05,
           ("quickstart", "exchange"): 1.05}  # fmt: skip

Estimate = tuple[float, float, float]
"""A mean and its 95 % interval."""


def measure_arms(setup: Setup, compare: Sequence[ArmName] = get_args(ArmName)) -> Iterator[Row]:
    """Mitigate planted models by some arms, each beside one that never saw the correlation."""
    work = partial(_mitigate_cohort, replace(setup, progress=silent), compare)
    seeds = setup.several("seeds")
    for done, rows in enumerate(side_by_side(work, seeds), 1):
        setup.progress("cohorts", done, len(seeds))
        yield from rows


def _mitigate_cohort(setup: Setup, compare: Sequence[ArmName], seed: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as work:
        return _compare_arms(setup, compare, seed, WorkFolder(Path(work)))


def _compare_arms(
    setup: Setup, compare: Sequence[ArmName], seed: int, work: WorkFolder
) -> list[Row]:
    """Return a row for each arm; none where the audit has found no shortcut to mitigate."""
    planted = _with_arms(setup.config, seed, compare)
    done = mitigate(
        planted,
        key=setup.key,
        cache=setup.cache,
        work=work,
        processes=Processes(make_fabric(alone=True)),
        progress=setup.progress,
    )
    if done.test is None:
        return []
    truth = _Truth.of(planted, done.test)
    rows = [
        {
            "seed": seed,
            "arm": arm.name,
            "title": arm.title,
            "published": arm.published,
            "head": arm.role == "head",
            **truth.measure(done.predictions[arm.name]),
            "seconds": None if arm.curve is None else arm.curve.seconds,
            "verdict": done.result.verdict.name if arm.delivered else "",
            "gone": arm.delivered and _is_gone(done),
        }
        for arm in done.result.arms
    ]
    answered = _ask_clean_model(setup, seed, done.test)
    clean = {"arm": _CLEAN, "title": "trained without the correlation", "published": False}
    empty = {"head": False, "seconds": None, "verdict": "", "gone": False}
    return [*rows, {"seed": seed, **clean, **truth.measure(answered), **empty}]


def _trial(config: Config, seed: int, *, planted: bool) -> Config:
    tower = config.model.quickstart.tower if config.model.quickstart else "resnet"
    return phantom_settings(config, Trial(planted, seed, tower, config.regions.tiles))


def _with_arms(config: Config, seed: int, compare: Sequence[ArmName]) -> Config:
    """Return the config of a planted cohort, with the arms to compare."""
    planted = _trial(config, seed, planted=True)
    mitigation = planted.mitigation.model_copy(update={"compare": tuple(compare), "seed": seed})
    return planted.model_copy(update={"mitigation": mitigation})


def _is_gone(run: Mitigation) -> bool:
    return run.result.reaudit is not None and not run.result.reaudit.remaining


def _ask_clean_model(setup: Setup, seed: int, test: SplitFilms) -> Predictions:
    """Train a model on the same plan without the correlation; what it says of the same films."""
    config = _trial(setup.config, seed, planted=False)
    reader = FilmReader.of(config.cohort)
    run = Run(setup.cache, setup.progress)
    manifest = prepare_manifest(config, run, whole=True)
    folder, _ = prepare_model(config, manifest, reader, run)
    assert folder is not None  # a quickstart model has one
    encoder, tower = open_tower(folder, config.model.region_pooling, questions_of(config))
    classes = torch.from_numpy(embed_classes(encoder, config.task.texts()))
    return predict_films_and_regions(
        tower, test.films, test.regions, classes, config.task.temperature
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Truth:
    """Where the planted feature really is."""

    groups: PseudoGroups
    labels: NDArray[np.int64]
    target: int

    @classmethod
    def of(cls, config: Config, test: SplitFilms) -> _Truth:
        planted = config.cohort.synthetic
        assert planted is not None  # phantom_settings has seen to it
        root = Path(str(test.cohort.paths[0])).parents[1]
        with (root / "truth.csv").open(encoding="utf-8", newline="") as stream:
            holding = {
                row["image"] for row in csv.DictReader(stream) if row["kind"] == planted.feature
            }
        names = [path.relative_to(root).as_posix() for path in test.cohort.paths]
        present = np.array([name in holding for name in names])
        labels, classes = test.cohort.labels, test.cohort.classes
        groups = PseudoGroups.cross(labels, present, classes)
        return cls(groups, labels, classes.index(planted.finding))

    def measure(self, answered: Predictions) -> Row:
        """Overall and worst-group accuracy of films and of regions, and the gaps.

        Gaps are by true presence of the feature: accuracy on the planted finding with minus
        without it; the largest, over the other classes, of without minus with it.
        """
        right = answered.logits.argmax(axis=1) == self.labels
        by_group = self.groups.accuracy(right)
        region: list[float | None] = [None, None]
        if answered.region_class is not None:
            hit = answered.region_class == self.labels
            region = [float(hit.mean()), float(np.nanmin(self.groups.accuracy(hit)))]
        without, having = by_group[0::2], by_group[1::2]
        others = np.arange(len(without)) != self.target
        return {
            "image_overall": float(right.mean()),
            "image_worst": float(np.nanmin(by_group)),
            "region_overall": region[0],
            "region_worst": region[1],
            "raised_gap": float(having[self.target] - without[self.target]),
            "lowered_gap": float(np.max((without - having)[others])),
        }


def _measure_costs(setup: Setup) -> Iterator[Row]:
    rounds = setup.size("rounds")
    yield from measure_cost(
        make_fabric(alone=True), repeats=rounds, seed=0, progress=setup.progress
    )
    repeats = max(1, rounds // _MEMORY_SHARE)
    yield from measure_memory(repeats=repeats, seed=0, progress=setup.progress)


def margin_over(
    rows: Sequence[Row], measure: str, arm: str, others: Sequence[str]
) -> tuple[str, Estimate]:
    """Return the best of other arms by its mean, and how far an arm is above it by seed."""
    best = max(others, key=lambda name: mean_with_interval(_column(rows, name, measure))[0])
    return best, difference(rows, measure, arm, best)


def difference(rows: Sequence[Row], measure: str, arm: str, other: str) -> Estimate:
    """Return how far an arm is above another one, seed by seed."""
    ours, theirs = _column(rows, arm, measure), _column(rows, other, measure)
    return mean_with_interval([a - b for a, b in zip(ours, theirs, strict=True)])


def _column(rows: Sequence[Row], arm: str, measure: str) -> list[float]:
    """Values of an arm by seed; below every number where it has none."""
    own = sorted((r for r in rows if r["arm"] == arm), key=lambda r: int(r["seed"]))
    return [-math.inf if r[measure] is None else float(r[measure]) for r in own]


@dataclass(frozen=True, slots=True)
class Margin:
    """How far our arm is above the best published one, and what was asked.

    Attributes
    ----------
    distance : float - from that one to the model trained without the correlation
    """

    measure: str
    best: str
    gap: Estimate
    asked: float
    distance: float

    @property
    def met(self) -> bool:
        """Whether it is as far above as asked, or closes half of the distance."""
        closes_half = self.distance > 0 and self.gap[0] >= self.distance / 2
        return self.gap[0] >= self.asked or closes_half


def margins(rows: Sequence[Row], others: Sequence[str]) -> list[Margin]:
    """Return the margins of our arm over the best of others, by measure."""
    found = []
    for measure, asked in _MARGINS.items():
        best, gap = margin_over(rows, measure, _DELIVERED, others)
        clean = mean_with_interval(_column(rows, _CLEAN, measure))[0]
        ours = mean_with_interval(_column(rows, _DELIVERED, measure))[0]
        found.append(Margin(measure, best, gap, asked, clean - (ours - gap[0])))
    return found


def draw_arms(rows: Sequence[Row]) -> str:
    """Draw the arms as a table, and say what was asked of ours."""
    if not rows:
        return "No shortcut was confirmed; there was nothing to mitigate."
    seeds = len({row["seed"] for row in rows})
    valid = sum(
        min(row["raised_gap"], row["lowered_gap"]) > _LEARNED
        for row in rows
        if row["arm"] == "before"
    )
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    table = draw_table(
        ("arm", "image overall", "image worst group", "region overall", "region worst group", "s"),
        [_arm_line([row for row in rows if row["arm"] == arm]) for arm in arms],
    )
    return "\n\n".join(
        [
            f"Planted cohorts: {seeds}, each with its own films and model. Both gaps of the "
            f"audited model above {100 * _LEARNED:.0f} points: {valid} of {seeds}.",
            table,
            bullets(_targets(rows, arms)),
        ]
    )


def _arm_line(own: Sequence[Row]) -> list[str]:
    first = own[0]
    ours = "" if first["published"] or first["arm"] in ("before", _CLEAN) else " (ours)"
    cells = [_percent(mean_with_interval([r[m] for r in own])) for m in _MEASURES]
    seconds = mean_with_interval([r["seconds"] for r in own])[0]
    return [f"{first['title']}{ours}", *cells, "" if math.isnan(seconds) else f"{seconds:.0f}"]


def _targets(rows: Sequence[Row], arms: Sequence[str]) -> Iterator[str]:
    """Say what was asked of RaVL and of ours, beside what was reached."""
    published = [
        row["arm"]
        for row in rows
        if row["published"] and not row["head"] and row["arm"] not in ("before", _PAPER)
    ]
    published = list(dict.fromkeys(published))
    if not published:
        return
    if _PAPER in arms:
        best, gap = margin_over(rows, "image_worst", _PAPER, published)
        yield (
            "RaVL as in the paper, image worst group above every other published arm: "
            f"{_points(gap)} points to `{best}`; met: {yes_no(gap[0] > 0)}"
        )
        published = [*published, _PAPER]
    if _DELIVERED in arms:
        yield from _our_targets(rows, arms, published)


def _our_targets(
    rows: Sequence[Row], arms: Sequence[str], published: Sequence[str]
) -> Iterator[str]:
    for margin in margins(rows, published):
        yield (
            f"ours, {margin.measure.replace('_', ' ')} group against the best published arm "
            f"(`{margin.best}`): {_points(margin.gap)} points; asked: {100 * margin.asked:.0f}, or "
            "half of the distance to the model trained without the correlation "
            f"({100 * margin.distance:.1f}); met: {yes_no(margin.met)}; distance left "
            f"{100 * (margin.distance - margin.gap[0]):.1f}"
        )
    plain = difference(rows, "image_overall", _DELIVERED, "standard")
    yield (
        f"ours, overall accuracy against standard fine-tuning: {_points(plain)} points; asked: no "
        f"fall of more than {100 * _FALL:.0f}; met: {yes_no(plain[0] >= -_FALL)}"
    )
    for head in dict.fromkeys(row["arm"] for row in rows if row["head"]):
        gap = difference(rows, "image_worst", _DELIVERED, head)
        yield (
            f"ours, image worst group against `{head}`, which trains no tower and is fitted on the "
            f"validation films of the discovery half: {_points(gap)} points"
        )
    last = [row for row in rows if row["arm"] == _DELIVERED]
    gone = sum(bool(row["gone"]) for row in last)
    improved = sum(row["verdict"] == "improved" for row in last)
    yield (
        f"ours, verdict `improved`: {improved} of {len(last)}; the re-audit finds the shortcut no "
        f"more: {gone} of {len(last)}"
    )


def _percent(estimate: Estimate) -> str:
    mean, low, high = (100 * v for v in estimate)
    if math.isnan(mean):
        return "–"
    if math.isnan(low):
        return f"{mean:.1f}"
    return f"{mean:.1f} ({max(low, 0.0):.1f} to {min(high, 100.0):.1f})"  # a share


def _points(estimate: Estimate) -> str:
    mean, low, high = (100 * v for v in estimate)
    return f"{mean:+.1f}" if math.isnan(low) else f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def _limit(row: Row) -> str:
    limit = _LIMITS.get((row["tower"], row["arm"]))
    return "" if limit is None else f"at most {limit:g}"


_COST = Table(
    Column("tower", "{tower}"),
    Column("films", "{batch}"),
    Column("regions a film", "{regions}"),
    Column("arm", "{title}"),
    Column("s", "{seconds:.3f}"),
    Column("target", _limit),
    Column("against a plain step", "{ratio:.2f}"),
)
_MEMORY = Table(
    Column("tower", "{tower}"),
    Column("without: MB", "{peak_mb:,.0f}"),
    Column("s", "{seconds:.2f}"),
    Column("with: MB", "{peak_mb_checkpointed:,.0f}"),
    Column("s", "{seconds_checkpointed:.2f}"),
    Column("memory, times", lambda row: f"{row['peak_mb_checkpointed'] / row['peak_mb']:.2f}"),
    Column("time, times", lambda row: f"{row['seconds_checkpointed'] / row['seconds']:.2f}"),
)


def _draw_costs(rows: Sequence[Row]) -> str:
    return _COST([row for row in rows if "ratio" in row])


def _draw_memory(rows: Sequence[Row]) -> str:
    measured = [row for row in rows if "peak_mb" in row]
    if not measured:
        return ""
    text = fill(
        "A step of {title}, {batch} films with {regions} regions each, in a process of its own. "
        "Memory: resident at most, above libraries, weights and films. The weights that are "
        "learned are the same.",
        measured[0],
    )
    title = "### Memory of a step, with `mitigation.gradient_checkpointing`"
    return "\n\n".join([title, text, _MEMORY(measured)])


PAGE = Page(
    "mitigation",
    "Mitigation, on phantoms whose shortcut is known",
    "Mitigate planted phantom models by every arm, and time a step of each.",
    (
        Part(
            "arms",
            "Arms",
            "Every arm starts from the audited model and has the same recipe and budget. Groups "
            "are class by true presence of the feature. `region`: the class of a film is that of "
            "its best-matching region. Mean over the cohorts with its 95 % t interval, in percent.",
            [draw_arms],
            measure_arms,
            {"seeds": (0, 1, 2, 3, 4)},
            stepwise=True,
        ),
        Part(
            "cost",
            "Cost of a step, forward and backward",
            "In turns on the same films; the ratio is the median over rounds.",
            [_draw_costs, _draw_memory],
            _measure_costs,
            {"rounds": 15},
        ),
    ),
)
