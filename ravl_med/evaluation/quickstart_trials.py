"""Audits of phantom cohorts whose truth is known, each by the whole tool."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ravl_med.cache import Cache
from ravl_med.config import Config, SyntheticConfig
from ravl_med.errors import ConfigError
from ravl_med.evaluation.truth import compare_with_truth, hit_regions
from ravl_med.evidence.claims import PairedChange, SpuriousCorrelation
from ravl_med.pipeline import Audit, Progress, audit

__all__ = [
    "AuditRow",
    "ThingRow",
    "Tower",
    "Trial",
    "audit_phantoms",
    "phantom_settings",
    "weigh_things",
]

_TESTED = 40  # correlations that are tested by counterfactuals where a bystander is looked for

Tower = Literal["resnet", "vit"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One audit.

    Attributes
    ----------
    planted : bool - with the config's feature; False plants nothing
    seed : int - of films and model
    tower : {"resnet", "vit"}
    tiles : tuple of int - rows, columns
    bystander : str or None
    """

    planted: bool
    seed: int
    tower: Tower
    tiles: tuple[int, int]
    bystander: str | None = None

    def label(self) -> str:
        """Return how the progress calls it."""
        what = "planted" if self.planted else "null"
        beside = f", {self.bystander} beside it" if self.bystander else ""
        rows, columns = self.tiles
        return f"{what} {self.seed}, {self.tower}, {rows} x {columns}{beside}"


@dataclass(frozen=True, slots=True)
class AuditRow:
    """An audit against its truth.

    Attributes
    ----------
    cohort : str - "planted" or "null"
    tower, tiles : str
    seed : int
    verdict : str
    accuracy : float - zero-shot, overall
    raised_gap, lowered_gap : float - by true presence of the planted feature
    top_kind : str - of the first correlation, or "none"
    top_names_finding : bool - the first correlation raises the planted finding
    precision_at_10, paper_precision_at_10 : float - of the first correlation's regions, by removal
        effect and by similarity to the medoid; NaN without a planted feature
    overlap, fitted_overlap : float - mean intersection over union with the planted feature of the
        regions that hit it, as cut and as fitted
    confirmed, shortcuts, plausible_signs : int - confirmed correlations, in all and of these kinds
    detectable_gap : float - smallest gap found with the asked power, feature in 20 % of the films
    seconds : float - the whole audit, model and cohort included unless they were cached
    """

    cohort: str
    tower: str
    tiles: str
    seed: int
    verdict: str
    accuracy: float
    raised_gap: float
    lowered_gap: float
    top_kind: str
    top_names_finding: bool
    precision_at_10: float
    paper_precision_at_10: float
    overlap: float
    fitted_overlap: float
    confirmed: int
    shortcuts: int
    plausible_signs: int
    detectable_gap: float
    seconds: float


@dataclass(frozen=True, slots=True)
class ThingRow:
    """A thing on the films, and the confirmed correlation whose regions show it.

    Attributes
    ----------
    thing, role : str - role is "planted" or "bystander"
    seed : int
    phi : float - of the thing and the planted feature, on the audited films
    rank : int - of the correlation; 0 where none shows the thing
    hits : float - share of its regions that hit the thing
    raised_gap, opposed_gap : float - on held-out patients
    kind : str
    used : bool - by the model, as the audit says
    companion : bool - named as one that travels with a used feature
    removal, inpainted, transplant : tuple of contrast and its interval in logits; empty where not
        tried
    """

    thing: str
    role: str
    seed: int
    phi: float
    rank: int = 0
    hits: float = math.nan
    raised_gap: float = math.nan
    opposed_gap: float = math.nan
    kind: str = "none"
    used: bool = False
    companion: bool = False
    removal: tuple[float, ...] = ()
    inpainted: tuple[float, ...] = ()
    transplant: tuple[float, ...] = ()


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
    tower = model.model_copy(update={"seed": trial.seed, "tower": trial.tower})
    tested = _TESTED if trial.bystander else config.evidence.max_correlations
    return config.model_copy(
        update={
            "cohort": config.cohort.model_copy(update={"synthetic": films}),
            "model": config.model.model_copy(update={"quickstart": tower}),
            "regions": config.regions.model_copy(update={"tiles": trial.tiles}),
            "evidence": config.evidence.model_copy(update={"max_correlations": tested}),
        }
    )


def audit_phantoms(
    config: Config, trial: Trial, *, key: bytes, cache: Cache, progress: Progress
) -> tuple[AuditRow, Audit]:
    """Audit one phantom cohort and hold the outcome against its truth.

    Parameters
    ----------
    config : Config - of a synthetic cohort and a quickstart model
    trial : Trial
    key : bytes - secret of the pseudonyms
    cache : Cache
    progress : callable - called with (stage, done, total)
    """

    def told(stage: str, done: int, total: int) -> None:
        progress(f"{trial.label()}: {stage}", done, total)

    run = audit(phantom_settings(config, trial), key=key, cache=cache, progress=told)
    check = compare_with_truth(run)
    kinds = [c.kind for c in run.result.correlations if c.confirmation.status == "confirmed"]
    row = AuditRow(
        cohort="planted" if trial.planted else "null",
        tower=trial.tower,
        tiles=f"{trial.tiles[0]} x {trial.tiles[1]}",
        seed=trial.seed,
        verdict=run.result.verdict.name,
        accuracy=run.result.accuracy.overall,
        raised_gap=check.raised_gap,
        lowered_gap=check.lowered_gap,
        top_kind=check.kind,
        top_names_finding=check.names_finding,
        precision_at_10=check.precision if trial.planted else math.nan,
        paper_precision_at_10=check.paper_precision if trial.planted else math.nan,
        overlap=check.overlap if trial.planted else math.nan,
        fitted_overlap=check.fitted_overlap if trial.planted else math.nan,
        confirmed=len(kinds),
        shortcuts=kinds.count("shortcut"),
        plausible_signs=kinds.count("plausible_sign"),
        detectable_gap=_detectable(run),
        seconds=round(sum(run.timings.values()), 1),
    )
    return row, run


def _detectable(run: Audit) -> float:
    sensitivity = run.result.sensitivity
    if sensitivity is None:
        return math.nan
    return min(sensitivity.detectable, key=lambda d: abs(d.prevalence - 0.20)).gap


def weigh_things(run: Audit, seed: int) -> list[ThingRow]:
    """Look at the planted feature and at the bystander through the audit's own correlations.

    Of the confirmed correlations that were tested by counterfactuals and raise the planted finding,
    the one stands for a thing that shows it best: share of its regions that hit the thing times
    share of the thing's films that they lie on.

    Parameters
    ----------
    run : Audit - of a cohort with a bystander
    seed : int
    """
    planted = run.config.cohort.synthetic
    if planted is None or planted.bystander is None:
        raise ConfigError("benchmark: the audited cohort has no bystander.")
    shown = {thing: hit_regions(run, thing) for thing in (planted.feature, planted.bystander)}
    with_feature = shown[planted.feature].films
    rows = []
    for thing, role in ((planted.feature, "planted"), (planted.bystander, "bystander")):
        phi = float(np.corrcoef(with_feature, shown[thing].films)[0, 1])
        row = ThingRow(thing, role, seed, phi)
        best = _best_shown(run, planted, shown[thing].regions, shown[thing].films)
        rows.append(row if best is None else _describe(row, best, shown[thing].regions))
    return rows


def _best_shown(
    run: Audit,
    planted: SyntheticConfig,
    hits: NDArray[np.bool_],
    films: NDArray[np.bool_],
) -> SpuriousCorrelation | None:
    classes, image = run.result.task.classes, run.result.region_image

    def shows(correlation: SpuriousCorrelation) -> float:
        regions = correlation.cluster.regions
        inside = regions[hits[regions]]
        reached = len(np.unique(image[inside])) / max(int(films.sum()), 1)
        return len(inside) / len(regions) * reached

    tested = [
        c
        for c in run.result.correlations
        if c.confirmation.status == "confirmed"
        and c.counterfactual is not None
        and classes[c.cluster.raised_class] == planted.finding
    ]
    best = max(tested, key=shows, default=None)
    return best if best is not None and shows(best) > 0 else None


def _describe(row: ThingRow, found: SpuriousCorrelation, hits: NDArray[np.bool_]) -> ThingRow:
    counterfactual, arms = found.counterfactual, found.confirmation.arms
    assert counterfactual is not None  # only tested ones are looked at
    removal = counterfactual.removal
    return ThingRow(
        thing=row.thing,
        role=row.role,
        seed=row.seed,
        phi=row.phi,
        rank=found.rank,
        hits=float(hits[found.cluster.regions].mean()),
        raised_gap=float(arms.gap[found.cluster.raised_class]),
        opposed_gap=arms.opposed_gap,
        kind=found.kind,
        used=counterfactual.used,
        companion=found.companion_of is not None,
        removal=_contrast(removal.median),
        inpainted=_contrast(removal.inpainted),
        transplant=_contrast(counterfactual.transplant),
    )


def _contrast(change: PairedChange | None) -> tuple[float, ...]:
    if change is None:
        return ()
    return change.contrast, change.interval.low, change.interval.high
