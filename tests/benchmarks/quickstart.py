"""The whole tool on phantom cohorts whose truth is known.

Planted cohorts have to fail; the regions of the first correlation have to lie on the planted
feature, whatever the tower and the tiles; and a bystander that travels with the feature must not be
called used.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Literal

from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError
from ravl_med.pipeline.audit import audit
from ravl_med.pipeline.truth import compare_with_truth
from ravl_med.reporting.files.audit_run import Audit
from tests.benchmarks.bystanders import confirm_planted
from tests.benchmarks.processes import side_by_side
from tests.benchmarks.runner import Page, Part, Setup, silent
from tests.benchmarks.tables import (
    Cell,
    Column,
    Row,
    Table,
    Target,
    bullets,
    fill,
    yes_no,
)

Tower = Literal["resnet", "vit"]

_BYSTANDER = "marker"
_UNSEEN = 100  # nobody looked at cohorts of these seeds while a rule was changed
_TOWERS: tuple[Tower, ...] = ("resnet", "vit")
_TILES = ((4, 4), (6, 6))
_PRECISION = 0.95


@dataclass(frozen=True, slots=True)
class Trial:
    """One audit.

    Attributes
    ----------
    planted : bool - with the config's feature; False plants nothing
    seed : int - of films and model
    tiles : tuple of int - rows, columns
    """

    planted: bool
    seed: int
    tower: Tower
    tiles: tuple[int, int]
    bystander: str | None = None

    def label(self) -> str:
        """Return how the progress calls it."""
        kind = "planted" if self.planted else "null"
        beside = f", {self.bystander} beside it" if self.bystander else ""
        rows, columns = self.tiles
        return f"{kind} {self.seed}, {self.tower}, {rows} x {columns}{beside}"


def phantom_settings(config: Config, trial: Trial) -> Config:
    """Return the config of a trial.

    Raises
    ------
    ConfigError
        The config names a cohort or a model of the user's own.
    """
    synthetic, model = config.cohort.synthetic, config.model.quickstart
    if synthetic is None or model is None:
        raise ConfigError(
            "benchmark: the config must use cohort.synthetic and model.quickstart, whose truth is "
            "known. Try configs/quickstart.yaml."
        )
    films = synthetic.model_copy(
        update={
            "strength": synthetic.strength if trial.planted else 0.0,
            "seed": trial.seed,
            "bystander": trial.bystander,
        }
    )
    # The model that ships is of one cohort; a model that writes starts from weights of none.
    anew = {"retrain": model.retrain or config.model.answers is None}
    tower = model.model_copy(update={"seed": trial.seed, "tower": trial.tower, **anew})
    return config.model_copy(
        update={
            "cohort": config.cohort.model_copy(update={"synthetic": films}),
            "model": config.model.model_copy(update={"quickstart": tower}),
            "regions": config.regions.model_copy(update={"tiles": trial.tiles}),
        }
    )


def audit_phantoms(setup: Setup, trial: Trial) -> tuple[Row, Audit]:
    """Audit one phantom cohort and hold the outcome against its truth.

    Precisions are those of the regions of the first correlation: by removal effect, where it lies;
    by removal effect, as they were cut; by similarity to the medoid. Gaps are those by true
    presence of the planted feature; overlaps the mean intersection over union of the first ten
    regions with it; the detectable gap is that of a feature in 20 % of the films.
    """

    def note(stage: str, done: int, total: int) -> None:
        setup.progress(f"{trial.label()}: {stage}", done, total)

    settings = phantom_settings(setup.config, trial)
    done = audit(settings, key=setup.key, cache=setup.cache, progress=note)
    check = compare_with_truth(done)
    kinds = [c.kind for c in done.result.correlations if c.confirmation.status == "confirmed"]
    placed = {
        "precision_at_10": check.precision,
        "tile_precision_at_10": check.tile_precision,
        "paper_precision_at_10": check.paper_precision,
        "overlap": check.overlap,
        "located_overlap": check.located_overlap,
    }
    row = {
        "cohort": "planted" if trial.planted else "null",
        "tower": trial.tower,
        "tiles": f"{trial.tiles[0]} x {trial.tiles[1]}",
        "seed": trial.seed,
        "verdict": done.result.verdict.name,
        "accuracy": done.result.accuracy.overall,
        "raised_gap": check.raised_gap,
        "lowered_gap": check.lowered_gap,
        "top_kind": check.kind,
        "top_names_finding": check.names_finding,
        **(placed if trial.planted else dict.fromkeys(placed)),
        "confirmed": len(kinds),
        "shortcuts": kinds.count("shortcut"),
        "plausible_signs": kinds.count("plausible_sign"),
        "detectable_gap": _detectable(done),
        "why": done.result.verdict.reasons[0],
        "seconds": round(sum(done.timings.values()), 1),
    }
    return row, done


def _detectable(run: Audit) -> float:
    sensitivity = run.result.sensitivity
    if sensitivity is None:
        return math.nan
    return min(sensitivity.detectable, key=lambda d: abs(d.prevalence - 0.20)).gap


def plan_trials(part: str, count: int, config: Config) -> list[Trial]:
    """Return the audits of a part: so many cohorts, each with its own films and model."""
    tiles = config.regions.tiles
    tower: Tower = config.model.quickstart.tower if config.model.quickstart else "resnet"
    if part == "localisation":
        return [
            Trial(True, seed, kind, grid)
            for kind, grid, seed in product(_TOWERS, _TILES, range(count))
        ]
    if part == "bystander":
        seeds = range(_UNSEEN, _UNSEEN + count)
        return [Trial(True, seed, tower, tiles, _BYSTANDER) for seed in seeds]
    return [Trial(True, seed, tower, tiles) for seed in range(count)]


def measure_audits(part: str, setup: Setup) -> Iterator[Row]:
    """Audit the cohorts of a part; yield a row each."""
    yield from audit_side_by_side(setup, plan_trials(part, setup.size("cohorts"), setup.config))


def audit_side_by_side(setup: Setup, trials: Sequence[Trial]) -> Iterator[Row]:
    """Audit phantom cohorts, a process a core; yield a row of each in order."""
    work = partial(_audit_one, replace(setup, progress=silent))
    for done, row in enumerate(side_by_side(work, trials), 1):
        setup.progress("audits", done, len(trials))
        yield row


def _audit_one(setup: Setup, trial: Trial) -> Row:
    return audit_phantoms(setup, trial)[0]


def measure_bystanders(setup: Setup) -> Iterator[Row]:
    """Audit cohorts with a bystander; yield a row of it and one of the planted feature each."""
    trials = plan_trials("bystander", setup.size("cohorts"), setup.config)
    work = partial(_confirm_one, replace(setup, progress=silent))
    for done, rows in enumerate(side_by_side(work, trials), 1):
        setup.progress("audits", done, len(trials))
        yield from rows


def _confirm_one(setup: Setup, trial: Trial) -> list[Row]:
    return confirm_planted(audit_phantoms(setup, trial)[1], trial.seed, setup.cache)


def mean_precision(rows: Sequence[Row], field: str = "precision_at_10") -> float:
    """Return the mean of a precision over the rows; none counts as 0."""
    return sum(float(row[field] or 0.0) for row in rows) / max(len(rows), 1)


def _precision(rows: Sequence[Row]) -> str:
    mean = mean_precision(rows)
    return (
        f"precision@10, mean of {len(rows)}: {mean:.2f} (target: at least {_PRECISION}; met: "
        f"{yes_no(mean >= _PRECISION)}); in the paper's order "
        f"{mean_precision(rows, 'paper_precision_at_10'):.2f}"
    )


def planted_summary(rows: Sequence[Row]) -> str:
    """Count planted cohorts that fail, and those whose shortcut is named first."""
    failed = sum(row["verdict"] == "fail" for row in rows)
    named = sum(row["top_kind"] == "shortcut" and row["top_names_finding"] for row in rows)
    return bullets(
        [
            f"`fail`: {failed} of {len(rows)} (target: all)",
            f"first correlation a shortcut that names the finding: {named} of {len(rows)} "
            "(target: all)",
            _precision(rows),
        ]
    )


def _first(row: Row) -> str | None:
    if row["top_kind"] == "none":
        return None
    named = "names the finding" if row["top_names_finding"] else "names another class"
    return fill(f"{{top_kind:words}}, {named}", row)


def _precision_cell(row: Row) -> str | None:
    if row["precision_at_10"] is None:
        return None
    return fill("{precision_at_10:.1f} ({paper_precision_at_10:.1f})", row)


def _contrast(name: str) -> Cell:
    def cell(row: Row) -> str:
        values = row[name]
        if not values:
            return "not tried"
        return f"{values[0]:+.2f} ({values[1]:+.2f} to {values[2]:+.2f})"

    return cell


def _use(row: Row) -> str:
    if row["untested"]:
        return "not tested"
    return fill("{used:yes} ({q_value:.3f})", row)


def _bystander_summary(rows: Sequence[Row]) -> str:
    """Count bystanders, and planted features, that are called used or accused."""

    def count(role: str, field: str) -> str:
        own = [bool(row[field]) for row in rows if row["role"] == role]
        return f"{sum(own)} of {len(own)}"

    spared = not any(row["used"] for row in rows if row["role"] == "bystander")
    why = Counter(row["untested"] for row in rows if row["untested"])
    return bullets(
        [
            f"bystander called used: {count('bystander', 'used')} (target: none; met: "
            f"{yes_no(spared)}); accused by the audit: {count('bystander', 'accused')}",
            f"planted feature called used: {count('planted', 'used')}; accused by the audit: "
            f"{count('planted', 'accused')}",
            *(f"not tested, {number} of {len(rows)}: {text}" for text, number in why.items()),
        ]
    )


AUDITS = Table(
    Column("seed", "{seed}"),
    Column("accuracy", "{accuracy:.1%}"),
    Column(
        "gaps of the planted pair",
        lambda row: f"{100 * row['raised_gap']:+.0f} / {-100 * row['lowered_gap']:+.0f} points",
    ),
    Column("verdict", "{verdict:words}"),
    Column("first correlation", _first),
    Column("precision@10 (paper's order)", _precision_cell),
    Column(
        "confirmed: all, shortcuts, plausible signs", "{confirmed}, {shortcuts}, {plausible_signs}"
    ),
    Column("gap that could be seen", "{detectable_gap:points}"),
)
_LOCALISATION = Table(
    Column("tower", "{tower}"),
    Column("tiles", "{tiles}"),
    Column("seed", "{seed}"),
    Target("precision_at_10", _PRECISION, least=True).beside(
        "reached: precision@10", "{precision_at_10:.1f}"
    ),
    Column("of the tiles as cut", "{tile_precision_at_10:.1f}"),
    Column("in the paper's order", "{paper_precision_at_10:.1f}"),
    Column("overlap with the feature: tile, located box", "{overlap:.2f}, {located_overlap:.2f}"),
    Column("verdict", "{verdict:words}"),
)
_BYSTANDERS = Table(
    Column("on the films", "{thing} ({role})"),
    Column("seed", "{seed}"),
    Column("phi with the feature", "{phi:.2f}"),
    Column("held out", "{status:words}, raises {raised}"),
    Column("gaps", "{raised_gap:signed} / {opposed_gap:signed} points"),
    Column("effect maps", _contrast("mapped")),
    Column("removal, typical", _contrast("typical")),
    Column("removal, replaced", _contrast("replaced")),
    Column("transplant", _contrast("transplant")),
    Column("target", lambda row: "used" if row["role"] == "planted" else "not used"),
    Column("called used (q)", _use),
    Column("shown by", lambda row: " and ".join(row["shown_by"]) or "neither"),
    Column("met", lambda row: yes_no(row["used"] is (row["role"] == "planted"))),
    Column("accused by the audit", "{accused:yes}"),
)

PAGE = Page(
    "quickstart",
    "The whole tool, on phantoms whose truth is known",
    "Audit phantom cohorts with a planted shortcut and compare with their truth.",
    (
        Part(
            "planted",
            "Planted: a shortcut that the model has learned",
            "Each cohort has films and a model of its own. The first correlation has to be a "
            "shortcut that names the planted finding.",
            [planted_summary, AUDITS],
            lambda setup: measure_audits("planted", setup),
            {"cohorts": 5},
            stepwise=True,
        ),
        Part(
            "localisation",
            "Localisation: the first ten regions of the first correlation",
            "A region hits when it shares half the area of the smaller box. Regions count where "
            "their removal effect lies; beside it as they were cut. A generator on the border of "
            "tiles hits none of them: of 4 x 4 tiles one in two generators has no tile that holds "
            "half of it.",
            [lambda rows: bullets([_precision(rows)]), _LOCALISATION],
            lambda setup: measure_audits("localisation", setup),
            {"cohorts": 1},
            stepwise=True,
        ),
        Part(
            "bystander",
            "Bystander: what travels with the feature and is of no use to the model",
            "On the audited films the bystander goes with the planted feature, on those of the "
            "fine-tuning with nothing. Each is the cluster of the tiles that hit it and hold "
            "nothing of the other, taken from the truth. Contrasts are in logits against controls, "
            "intervals 95 %, not corrected; what is tested and called used is decided over the two "
            "as in an audit: of features whose effect lies in one place one is tested, and speaks "
            "for both.",
            [_bystander_summary, _BYSTANDERS],
            measure_bystanders,
            {"cohorts": 20},
            stepwise=True,
        ),
    ),
)
