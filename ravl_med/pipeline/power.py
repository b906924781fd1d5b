"""What a cohort that is yet to be collected could show."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError
from ravl_med.evidence.audit_result import DetectableGap, Sensitivity
from ravl_med.evidence.examination import min_strength_of
from ravl_med.evidence.power import measure_sensitivity, plan_design
from ravl_med.pipeline.stages import Progress

_COMMON = 0.20  # prevalence at which a pass needs power
_ROUNDING = 1e-9
_MOST_FILMS = 1_000_000


@dataclass(frozen=True, slots=True)
class PlannedCohort:
    """A cohort that is yet to be collected."""

    films: int
    accuracy: float = 0.8  # expected zero-shot accuracy on each class
    films_a_patient: float = 1.0  # mean
    candidates: int = 20  # clusters that the feature has to stand out among
    simulations: int = 200  # cohorts for each prevalence


@dataclass(frozen=True, slots=True, eq=False)
class PlannedPower:
    """What such a cohort could show."""

    cohort: PlannedCohort
    classes: int
    sensitivity: Sensitivity
    asked: float  # gap that a pass needs to be detectable (gate.max_detectable_gap)

    @property
    def common(self) -> DetectableGap:
        """The row that a pass is held against: feature in 20 % of the films."""
        return min(self.sensitivity.detectable, key=lambda d: abs(d.prevalence - _COMMON))

    @property
    def enough(self) -> bool:
        """Whether the cohort could carry a pass."""
        return self.common.gap <= self.asked + _ROUNDING  # NaN does not

    def table(self) -> list[str]:
        """Return what could be seen, as lines of a table in plain text."""
        lines = ["feature in   smallest gap found   power at the largest gap"]
        for row in self.sensitivity.detectable:
            gap = f"{100 * row.gap:.0f} points" if row.gap == row.gap else "none"
            lines.append(f"{row.prevalence:>10.0%}   {gap:>18}   {row.power_at_largest:>24.0%}")
        return lines

    def sentence(self) -> str:
        """Return the outcome as a sentence."""
        cohort, power = self.cohort, self.sensitivity.power
        seen = (
            f"is found with {power:.0%} power from a gap of {100 * self.common.gap:.0f} points on"
            if self.common.gap == self.common.gap
            else f"is not found with {power:.0%} power, however large its gap"
        )
        return (
            f"With {cohort.films:,} films, {self.classes} classes and an accuracy of "
            f"{cohort.accuracy:.0%}, a feature in {self.common.prevalence:.0%} of the films {seen}."
            f" A pass needs {100 * self.asked:.0f} points (gate.max_detectable_gap)"
            f"{'.' if self.enough else ': collect more films.'}"
        )


def plan_power(
    config: Config,
    cohort: PlannedCohort,
    *,
    progress: Progress = lambda stage, done, total: None,
) -> PlannedPower:
    """Simulate what a planned cohort could show, with the classes and thresholds of a config.

    Raises
    ------
    ConfigError
        A number of the planned cohort is out of range.
    """
    classes = len(config.task.classes)
    _require_sense(cohort, classes)
    evidence = config.evidence
    design = plan_design(
        cohort.films,
        classes,
        cohort.accuracy,
        cohort.films_a_patient,
        evidence.discovery_share,
        evidence.seed,
    )
    sensitivity = measure_sensitivity(
        design,
        evidence.model_copy(update={"simulations": cohort.simulations}),
        min_strength=min_strength_of(config.discovery),
        candidates=cohort.candidates,
        progress=partial(progress, "simulate what could be seen"),
    )
    return PlannedPower(cohort, classes, sensitivity, config.gate.max_detectable_gap)


def _require_sense(cohort: PlannedCohort, classes: int) -> None:
    """Refuse numbers that describe no cohort; written so that NaN is refused too."""
    least = 2 * classes
    checks = (
        (
            "--films",
            cohort.films,
            least <= cohort.films <= _MOST_FILMS,
            f"in the range [{least}, {_MOST_FILMS}], two a class at the least",
        ),
        ("--accuracy", cohort.accuracy, 0.0 < cohort.accuracy < 1.0, "in the range (0, 1)"),
        (
            "--films-per-patient",
            cohort.films_a_patient,
            1.0 <= cohort.films_a_patient <= cohort.films / least,
            f"in the range [1, {cohort.films / least:g}], two patients a class at the least",
        ),
        ("--candidates", cohort.candidates, cohort.candidates >= 1, "1 or more"),
        (
            "--simulations",
            cohort.simulations,
            cohort.simulations >= 20,
            "20 or more",
        ),
    )
    for name, value, sensible, expected in checks:
        if not sensible:
            raise ConfigError(f"{name}: expected a number {expected}; got {value}.")
