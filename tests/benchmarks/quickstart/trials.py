"""Audits of phantom cohorts whose truth is known, each by the whole tool."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError
from ravl_med.pipeline.audit import audit
from ravl_med.pipeline.stages import Progress
from ravl_med.pipeline.truth import compare_with_truth
from ravl_med.reporting.files.audit_run import Audit
from ravl_med.storage.cache import Cache

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
    precision_at_10, tile_precision_at_10, paper_precision_at_10 : float - of the first
        correlation's regions: by removal effect, where it lies; by removal effect, as they were
        cut; by similarity to the medoid; NaN without a planted feature
    overlap, located_overlap : float - mean intersection over union of the first ten with the
        planted feature, as cut and as located
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
    tile_precision_at_10: float
    paper_precision_at_10: float
    overlap: float
    located_overlap: float
    confirmed: int
    shortcuts: int
    plausible_signs: int
    detectable_gap: float
    seconds: float


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
    return config.model_copy(
        update={
            "cohort": config.cohort.model_copy(update={"synthetic": films}),
            "model": config.model.model_copy(update={"quickstart": tower}),
            "regions": config.regions.model_copy(update={"tiles": trial.tiles}),
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
        tile_precision_at_10=check.tile_precision if trial.planted else math.nan,
        paper_precision_at_10=check.paper_precision if trial.planted else math.nan,
        overlap=check.overlap if trial.planted else math.nan,
        located_overlap=check.located_overlap if trial.planted else math.nan,
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
