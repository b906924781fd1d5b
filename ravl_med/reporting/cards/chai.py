"""The Applied Model Card of the Coalition for Health AI, as far as an audit can fill it.

The card describes a product; an audit sees a model, a list of films and what came of them. The card
says of everything else that an audit cannot fill it, so that a developer or an institution can go
on from it. One optional element is left out: EHR compatibility, which versions of the schema spell
in two ways and an audit knows nothing of.

Texts are Markdown, as the card allows. Key metrics are the numbers of ``result.json`` as JSON, in
the two forms that the examples of the schema use: a single value, and an estimate with its
interval. A metric that was not measured, or that is hidden since it is of few patients, is left
out.

References
----------
CHAI Applied Model Card v0.2, schema https://mc.chai.org/v0.2/schema.xsd, and what it says on PDFs:
the document as text under ``chaiMcXml``, the program that made it under ``chaiMcSoftwareId``, both
in the metadata. Its own program writes both into the information dictionary.
"""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ravl_med import __version__
from ravl_med.evidence.audit_result import AuditResult, Stratum
from ravl_med.evidence.results import UNKNOWN, Interval, SpuriousCorrelation
from ravl_med.reporting import wording
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.audit.sentences import (
    correlation_name,
    detectable_sentences,
    lowered_classes_text,
)
from ravl_med.reporting.cards import words
from ravl_med.reporting.layout.markdown import bullets, code, escaped

_CLASSES_WITH_METRICS = 60
STRATA_SHOWN = 40  # subgroups on a card; the report has them all
_CORRELATIONS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Metric:
    """A number with what it is of, as it is printed: rounded, shares as percent."""

    label: str
    value: float
    unit: str
    interval: Interval = UNKNOWN


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
        _share(f"Accuracy on films of {wording.class_name(classes, c)}", value, interval)
        for c, value, interval in zip(
            range(len(classes)), accuracy.by_class, accuracy.by_class_interval, strict=True
        )
    ]
    return _known(made[: 1 + _CLASSES_WITH_METRICS])


def compared_strata(result: AuditResult) -> tuple[Stratum, ...]:
    """Return the subgroups that were compared with the other films, and are not hidden."""
    compared = (one for one in result.subgroups if not one.insufficient)
    return tuple(one for one in compared if math.isfinite(one.accuracy))


def subgroup_metrics(result: AuditResult) -> tuple[Metric, ...]:
    """Return accuracy by subgroup, for those that were compared."""
    shown = compared_strata(result)[:STRATA_SHOWN]
    return _known(
        [_share(f"Accuracy, {stratum_name(one)}", one.accuracy, one.interval) for one in shown]
    )


def stratum_name(stratum: Stratum) -> str:
    """Return attribute and value of a subgroup, such as ``view AP``."""
    return (
        f"{wording.printable(stratum.attribute, 30)} "
        f"{wording.printable(stratum.value, 40) or wording.DASH}"
    )


def shortcut_metrics(result: AuditResult) -> tuple[Metric, ...]:
    """Return how many correlations count, their gaps, and which gaps could have been found."""
    if result.discovery is None:
        return ()
    counting = [entry for entry in result.correlations if entry.counts]
    shortcuts = sum(entry.kind == "shortcut" for entry in counting)
    made = [
        Metric("Confirmed shortcuts that the model uses", shortcuts, "count"),
        Metric("Other correlations that count", len(counting) - shortcuts, "count"),
    ]
    for entry in counting[:_CORRELATIONS_SHOWN]:
        made += _gap_metrics(entry, result.task.classes)
    if result.sensitivity is not None:
        power = wording.percent(result.sensitivity.power)
        made += [
            Metric(
                f"Smallest gap found with {power} power, feature in "
                f"{wording.percent(entry.prevalence)} of the films",
                _percent(entry.gap),
                "points",
            )
            for entry in result.sensitivity.detectable
        ]
    return _known(made)


def _gap_metrics(entry: SpuriousCorrelation, classes: tuple[str, ...]) -> list[Metric]:
    """Return the gaps of both sides on held-out patients."""
    arms, raised = entry.confirmation.arms, entry.cluster.raised_class
    label = f"{correlation_name(entry)}, accuracy with minus without the feature, on films of "
    gap, interval = float(arms.gap[raised]), arms.gap_interval[raised]
    made = [_share(f"{label}{wording.class_name(classes, raised)}", gap, interval, "points")]
    if entry.cluster.opposed_classes:
        side = lowered_classes_text(entry.cluster, classes)
        made.append(_share(f"{label}{side}", arms.opposed_gap, arms.opposed_interval, "points"))
    return made


def confidence_level(details: ReportDetails) -> float | None:
    """Return the level of the intervals in percent, as the config of the run says; else None."""
    try:
        config = YAML(typ="safe", pure=True).load(details.config_yaml)
        level = float(config["evidence"]["confidence"])
    except (YAMLError, KeyError, TypeError, ValueError):
        return None
    return round(100.0 * level, 3)


NAMESPACE = "https://mc.chai.org/v0.2/schema.xsd"

_KEYWORDS = ("radiology", "vision-language model", "zero-shot classification", "shortcut audit")
_CLASSES_IN_TASK = 20

_Fields: TypeAlias = Sequence[tuple[str, "str | _Fields"]]
"""Elements in the order of the schema: a name, and a text or the elements inside."""


def chai_card(result: AuditResult, details: ReportDetails) -> str:
    """Return the card of an audited model as an XML document."""
    level = confidence_level(details)
    card = ElementTree.Element("AppliedModelCard", {"xmlns": NAMESPACE})
    _fill(
        card,
        (
            ("BasicInfo", _basic_info(result)),
            ("ReleaseInfo", _release_info(result)),
            ("ModelSummary", _model_summary(result, details)),
            ("UsesAndDirections", _uses(result)),
            ("Warnings", _warnings(result)),
            ("TrustIngredients", _trust_ingredients(result)),
            (
                "KeyMetrics",
                (
                    ("UsefulnessUsabilityEfficacy", _usefulness(result, level)),
                    ("FairnessEquity", _fairness(result, level)),
                    ("SafetyReliability", _safety(result, level)),
                ),
            ),
            ("Resources", _resources(result, details)),
            ("Bibliography", words.METHOD_CITATION),
        ),
    )
    ElementTree.indent(card, "  ")
    text = ElementTree.tostring(card, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def chai_properties(card: str) -> dict[str, str]:
    """Return what CHAI asks for in the metadata of a PDF, with the text of a card."""
    return {"chaiMcXml": card, "chaiMcSoftwareId": f"ravl-med {__version__}"}


def _fill(parent: ElementTree.Element, fields: _Fields) -> None:
    for name, content in fields:
        element = ElementTree.SubElement(parent, name)
        if isinstance(content, str):
            element.text = content
        else:
            _fill(element, content)


def _unfilled(*names: str) -> _Fields:
    return tuple((name, words.NOT_FILLED) for name in names)


def _basic_info(result: AuditResult) -> _Fields:
    return (
        ("ModelName", escaped(result.model.name, 120) or wording.DASH),
        *_unfilled("ModelDeveloper", "DeveloperContact"),
    )


def _release_info(result: AuditResult) -> _Fields:
    version = (
        f"SHA-256 {code(result.model.digest)} over all that was loaded. Name of the version: "
        f"{words.NOT_FILLED}"
    )
    return (
        *_unfilled("ReleaseStage", "ReleaseDate"),
        ("ReleaseVersion", version),
        *_unfilled("GlobalAvailability", "RegulatoryApproval"),
    )


def _model_summary(result: AuditResult, details: ReportDetails) -> _Fields:
    named = [wording.printable(name, 60) for name in result.task.classes[:_CLASSES_IN_TASK]]
    keywords = (*_KEYWORDS, *(name for name in named if name))
    return (
        ("Summary", words.card_summary(result, details)),
        ("Keywords", tuple(("Keyword", escaped(keyword, 60)) for keyword in keywords)),
    )


def _uses(result: AuditResult) -> _Fields:
    return (
        ("IntendedUseAndWorkflow", words.intended_use(result)),
        *_unfilled("PrimaryIntendedUsers"),
        (
            "HowToUse",
            f"{words.audited_use_text(result)} Directions for the clinic: {words.NOT_FILLED}",
        ),
        ("TargetedPatientPopulation", words.NOT_FILLED),
        ("CautionedOutOfScopeSettings", words.out_of_scope(result)),
    )


def _warnings(result: AuditResult) -> _Fields:
    ethics = f"Ethical considerations: {words.NOT_FILLED}"
    biases = f"{words.found_biases(result)}\n\n{words.decisions_text(result)}\n\n{ethics}"
    return (
        ("KnownRisksAndLimitations", words.known_limits(result)),
        ("KnownBiasesOrEthicalConsiderations", biases),
        ("ClinicalRiskLevel", words.NOT_FILLED),
    )


def _trust_ingredients(result: AuditResult) -> _Fields:
    model = result.model
    facts = (
        (
            "OutcomesAndOutputs",
            "For a film, a score for each of "
            f"{wording.plural(len(result.task.classes), 'class', 'es')}; the class with the "
            f"highest score is the answer. Outcomes for patients: {words.NOT_FILLED}",
        ),
        ("ModelType", words.audited_model(result)),
        ("FoundationModels", words.NOT_FILLED),
        ("InputDataSource", f"{words.NOT_FILLED} The key metrics describe the films of the audit."),
        (
            "OutputAndInputDataTypes",
            f"Input: a radiograph, {model.image_size} x {model.image_size} pixels, and the texts "
            "of the classes. Output: a number for each class.",
        ),
        ("DevelopmentDataCharacterization", words.NOT_FILLED),
        ("BiasMitigationApproaches", f"{words.NOT_FILLED} An audit changes nothing in a model."),
        *_unfilled("OngoingMaintenance", "Security"),
        (
            "Transparency",
            "Of the audit alone: report.pdf and report.html show films, numbers, method, "
            "thresholds, seeds and config, result.json holds the numbers, and the report has a "
            f"page to sign. Mechanisms of the product: {words.NOT_FILLED}",
        ),
    )
    openness = _unfilled("FundingSource", "ThirdPartyInformation", "StakeholdersConsulted")
    return (("AISystemFacts", facts), ("TransparencyInformation", openness))


def _usefulness(result: AuditResult, level: float | None) -> _Fields:
    missing = sum(not math.isfinite(value) for value in result.accuracy.by_class)
    return _key_metric(
        "How often the model names the class of a film that its label names.",
        _results(accuracy_metrics(result), level, "Accuracy was not measured"),
        "Accuracy of the answers, no proof of use: usability and effect on care were not "
        f"examined.{_left_out(missing, 'class', 'es')} Outcome of the audit: "
        f"{words.verdict_text(result)}",
        words.films_text(result),
        "The answer is the class with the highest zero-shot score. Intervals come from a bootstrap "
        "that draws patients, not films.",
    )


def _fairness(result: AuditResult, level: float | None) -> _Fields:
    compared = compared_strata(result)
    shown = [
        f"{stratum_name(stratum)}: {wording.plural(stratum.films, 'film')} of "
        f"{wording.plural(stratum.patients, 'patient')}, difference from the other films "
        f"{wording.signed(100 * stratum.difference)} points, q "
        f"{wording.probability(stratum.q_value)}"
        for stratum in compared[:STRATA_SHOWN]
    ]
    rest = len(compared) - len(shown)
    more = f" {wording.plural(rest, 'more group')} in report.pdf." if rest > 0 else ""
    interpretation = (
        "No judgement of what is fair; groups that the files do not name were not compared."
        f"{_left_out(len(result.subgroups) - len(compared), 'group')}{more}"
    )
    return _key_metric(
        "Whether the model is right less often in one group of patients or films than in others.",
        _results(subgroup_metrics(result), level, "No group was compared"),
        "\n\n".join(part for part in (interpretation, bullets(shown)) if part),
        words.films_text(result),
        "Accuracy by attribute, and its difference from the other films, adjusted for class; "
        "whole patients are exchanged within class, and the false discovery rate is held over all "
        "comparisons (q).",
    )


def _safety(result: AuditResult, level: float | None) -> _Fields:
    could = result.sensitivity
    seen = detectable_sentences(could) if could is not None else []
    parts = [
        f"Outcome of the audit: {words.verdict_text(result)}",
        bullets([*words.unnamed_reasons(result)[:8], *seen]),
        words.decisions_text(result),
    ]
    return _key_metric(
        "Whether answers follow features other than the finding (shortcuts), by how much, and how "
        "large one would have had to be to be seen.",
        _results(shortcut_metrics(result), level, "No search for shortcuts was made"),
        "\n\n".join(part for part in parts if part),
        words.films_text(result),
        "Groups of regions that are alike to the model are found on one half of the patients "
        "(RaVL) and tested on the other; the model uses a feature when either removing it lowers "
        "the score or transplanting it raises it, beyond a control and by more than the least "
        "effect that matters. Thresholds were fixed before the run. Not examined: "
        f"{words.unmeasured(result)}, failures in operation.",
    )


def _left_out(count: int, noun: str, ending: str = "s") -> str:
    if not count:
        return ""
    are = "has" if count == 1 else "have"
    return (
        f" {wording.plural(count, noun, ending)} {are} no number here: too few films or patients."
    )


def _key_metric(
    goal: str, results: _Fields, interpretation: str, data: str, process: str
) -> _Fields:
    return (
        ("MetricGoal", goal),
        ("Results", results),
        ("Interpretation", interpretation),
        (
            "TestType",
            "Retrospective, by software, on a fixed list of films; an audit cannot know whether "
            "they are internal or external to the development of the model.",
        ),
        ("TestingDataDescription", data),
        ("ValidationProcessAndJustification", process),
    )


def _results(metrics: Sequence[Metric], level: float | None, without: str) -> _Fields:
    """Return a result for each metric; the schema asks for one, so none is null."""
    if not metrics:
        return (("MetricResult", _result(without, {"kind": "single", "value": None})),)
    return tuple(
        ("MetricResult", _result(metric.label, _value(metric, level))) for metric in metrics
    )


def _result(label: str, value: dict[str, Any]) -> _Fields:
    number = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return (("Label", escaped(label, 200)), ("ValueJson", number))


def _value(metric: Metric, level: float | None) -> dict[str, Any]:
    bounds = metric.interval
    if not (math.isfinite(bounds.low) and math.isfinite(bounds.high)):
        return {"kind": "single", "value": metric.value, "unit": metric.unit}
    return {
        "kind": "estimate_ci",
        "estimate": metric.value,
        "lower": bounds.low,
        "upper": bounds.high,
        **({} if level is None else {"level": int(level) if level.is_integer() else level}),
        "unit": metric.unit,
    }


def _resources(result: AuditResult, details: ReportDetails) -> _Fields:
    films = details.digests.get("cohort")
    over = f", films and labels SHA-256 {code(films)}" if films else ""
    return (
        (
            "EvaluationReferences",
            f"Run {escaped(result.name, 80)}{over}: report.pdf, report.html and result.json in the "
            "same folder.",
        ),
        ("ClinicalTrial", words.NOT_FILLED),
        (
            "PeerReviewedPublications",
            f"On the model: {words.NOT_FILLED} On the method of the audit: see the bibliography.",
        ),
        *_unfilled("ReimbursementStatus", "PatientConsentOrDisclosure"),
    )
