"""The key metrics of a card: a label, a number, its interval; the numbers of ``result.json``.

A metric that was not measured, or that is hidden since it is of few patients, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ravl_med.evidence.audit_result import AuditResult, Stratum
from ravl_med.evidence.claims import Interval, SpuriousCorrelation
from ravl_med.reporting.audit.details import ReportDetails
from ravl_med.reporting.audit.sentences import correlation_name, lowered_side
from ravl_med.reporting.wording import DASH, class_name, percent, printable

__all__ = [
    "STRATA_TOLD",
    "Metric",
    "accuracy_metrics",
    "compared_strata",
    "confidence_level",
    "shortcut_metrics",
    "stratum_name",
    "subgroup_metrics",
]

_CLASSES_TOLD = 60
STRATA_TOLD = 40
"""Subgroups that a card tells; the report tells all."""

_CORRELATIONS_TOLD = 10
_NOTHING = Interval(math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class Metric:
    """A number with what it is of.

    Attributes
    ----------
    label : str
    value : float - as it is printed: rounded, shares as percent
    unit : str
    interval : Interval - of the value; NaN bounds where there is none
    """

    label: str
    value: float
    unit: str
    interval: Interval = _NOTHING


def _share(label: str, value: float, interval: Interval, unit: str = "%") -> Metric:
    """Return a share, or a difference of shares, as percent with a decimal."""
    low, high = _percent(interval.low), _percent(interval.high)
    return Metric(label, _percent(value), unit, Interval(low, high))


def _percent(share: float) -> float:
    return round(100.0 * share, 1) + 0.0  # no minus before a zero


def _known(metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    return tuple(metric for metric in metrics if math.isfinite(metric.value))


def accuracy_metrics(result: AuditResult) -> tuple[Metric, ...]:
    """Return accuracy on all films, and on those of each class."""
    accuracy, classes = result.accuracy, result.task.classes
    made = [_share("Accuracy, all classes", accuracy.overall, accuracy.overall_interval)]
    made += [
        _share(f"Accuracy on films of {class_name(classes, c)}", value, interval)
        for c, (value, interval) in enumerate(
            zip(accuracy.by_class, accuracy.by_class_interval, strict=True)
        )
    ]
    return _known(made[: 1 + _CLASSES_TOLD])


def compared_strata(result: AuditResult) -> tuple[Stratum, ...]:
    """Return the subgroups that were compared with the other films, and are not hidden."""
    return tuple(
        stratum
        for stratum in result.subgroups
        if not stratum.insufficient and math.isfinite(stratum.accuracy)
    )


def subgroup_metrics(result: AuditResult) -> tuple[Metric, ...]:
    """Return accuracy by subgroup, for those that were compared."""
    return _known(
        [
            _share(f"Accuracy, {stratum_name(stratum)}", stratum.accuracy, stratum.interval)
            for stratum in compared_strata(result)[:STRATA_TOLD]
        ]
    )


def stratum_name(stratum: Stratum) -> str:
    """Return attribute and value of a subgroup, such as ``view AP``."""
    return f"{printable(stratum.attribute, 30)} {printable(stratum.value, 40) or DASH}"


def shortcut_metrics(result: AuditResult) -> tuple[Metric, ...]:
    """Return how many correlations count, their gaps, and which gaps could have been found.

    Parameters
    ----------
    result : AuditResult - without any search, there is none
    """
    if result.discovery is None:
        return ()
    counting = [entry for entry in result.correlations if entry.counts]
    shortcuts = sum(entry.kind == "shortcut" for entry in counting)
    made = [
        Metric("Confirmed shortcuts that the model uses", shortcuts, "count"),
        Metric("Other correlations that count", len(counting) - shortcuts, "count"),
    ]
    for entry in counting[:_CORRELATIONS_TOLD]:
        made += _gap_metrics(entry, result.task.classes)
    if result.sensitivity is not None:
        power = percent(result.sensitivity.power)
        made += [
            Metric(
                f"Smallest gap found with {power} power, feature in "
                f"{percent(entry.prevalence)} of the films",
                _percent(entry.gap),
                "points",
            )
            for entry in result.sensitivity.detectable
        ]
    return _known(made)


def _gap_metrics(entry: SpuriousCorrelation, classes: tuple[str, ...]) -> list[Metric]:
    """Return the gaps of both sides on held-out patients."""
    arms, raised = entry.confirmation.arms, entry.cluster.raised_class
    name = correlation_name(entry)
    what = "accuracy with minus without the feature, on films of"
    gap = float(arms.gap[raised])
    made = [
        _share(
            f"{name}, {what} {class_name(classes, raised)}",
            gap,
            arms.gap_interval[raised],
            "points",
        )
    ]
    if entry.cluster.opposed_classes:
        side = lowered_side(entry.cluster, classes)
        label = f"{name}, {what} {side}"
        made.append(_share(label, arms.opposed_gap, arms.opposed_interval, "points"))
    return made


def confidence_level(details: ReportDetails) -> float | None:
    """Return the level of the intervals in percent, as the config of the run says; else None."""
    try:
        config = YAML(typ="safe", pure=True).load(details.config_yaml)
        level = float(config["evidence"]["confidence"])
    except (YAMLError, KeyError, TypeError, ValueError):
        return None
    return round(100.0 * level, 3)
