"""CHAI's card: elements in the order of its schema, the numbers of result.json, no patient.

The order is written down here by hand from the published schema (v0.2); which element may be left
out is marked.
"""

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from hostile_results import FIVE, HOSTILE, hostile_result

from ravl_med.evidence.audit_result import result_document
from ravl_med.evidence.disclosure_control import hide_small_cells
from ravl_med.evidence.results import ReviewDecision
from ravl_med.reporting.cards.chai import NAMESPACE, chai_card, chai_properties
from ravl_med.reporting.cards.words import NOT_FILLED

CONFIG = "evidence:\n  confidence: 0.95\n"
METRIC = (
    ("MetricGoal", ()),
    ("Results", "MetricResult"),
    ("Interpretation", ()),
    ("TestType", ()),
    ("TestingDataDescription", ()),
    ("ValidationProcessAndJustification", ()),
)
OUTLINE = (
    ("BasicInfo", (("ModelName", ()), ("ModelDeveloper", ()), ("DeveloperContact", ()))),
    (
        "ReleaseInfo",
        (
            ("ReleaseStage", ()),
            ("ReleaseDate", ()),
            ("ReleaseVersion", ()),
            ("GlobalAvailability", ()),
            ("RegulatoryApproval", ()),  # optional
        ),
    ),
    ("ModelSummary", (("Summary", ()), ("Keywords", "Keyword"))),
    (
        "UsesAndDirections",
        (
            ("IntendedUseAndWorkflow", ()),
            ("PrimaryIntendedUsers", ()),
            ("HowToUse", ()),
            ("TargetedPatientPopulation", ()),
            ("CautionedOutOfScopeSettings", ()),
        ),
    ),
    (
        "Warnings",
        (
            ("KnownRisksAndLimitations", ()),
            ("KnownBiasesOrEthicalConsiderations", ()),
            ("ClinicalRiskLevel", ()),
        ),
    ),
    (
        "TrustIngredients",
        (
            (
                "AISystemFacts",
                (
                    ("OutcomesAndOutputs", ()),
                    ("ModelType", ()),
                    ("FoundationModels", ()),  # optional
                    ("InputDataSource", ()),
                    ("OutputAndInputDataTypes", ()),
                    ("DevelopmentDataCharacterization", ()),
                    ("BiasMitigationApproaches", ()),
                    ("OngoingMaintenance", ()),
                    ("Security", ()),  # optional
                    ("Transparency", ()),  # optional
                ),
            ),
            (
                "TransparencyInformation",
                (
                    ("FundingSource", ()),
                    ("ThirdPartyInformation", ()),  # optional
                    ("StakeholdersConsulted", ()),
                ),
            ),
        ),
    ),
    (
        "KeyMetrics",
        (
            ("UsefulnessUsabilityEfficacy", METRIC),
            ("FairnessEquity", METRIC),
            ("SafetyReliability", METRIC),
        ),
    ),
    (
        "Resources",
        (
            ("EvaluationReferences", ()),  # optional
            ("ClinicalTrial", ()),  # optional
            ("PeerReviewedPublications", ()),
            ("ReimbursementStatus", ()),  # optional
            ("PatientConsentOrDisclosure", ()),
        ),
    ),
    ("Bibliography", ()),
)
NOT_TOLD = {
    "ModelDeveloper",
    "DeveloperContact",
    "ReleaseStage",
    "ReleaseDate",
    "GlobalAvailability",
    "RegulatoryApproval",
    "IntendedUseAndWorkflow",
    "PrimaryIntendedUsers",
    "TargetedPatientPopulation",
    "ClinicalRiskLevel",
    "FoundationModels",
    "DevelopmentDataCharacterization",
    "OngoingMaintenance",
    "Security",
    "FundingSource",
    "ThirdPartyInformation",
    "StakeholdersConsulted",
    "ClinicalTrial",
    "ReimbursementStatus",
    "PatientConsentOrDisclosure",
}


@pytest.fixture
def card(details):
    def make(result) -> ElementTree.Element:
        text = chai_card(result, replace(details, config_yaml=CONFIG))
        assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n')
        root = ElementTree.fromstring(text.encode())
        assert root.tag == f"{{{NAMESPACE}}}AppliedModelCard"
        return root

    return make


def local(element: ElementTree.Element) -> str:
    return element.tag.removeprefix(f"{{{NAMESPACE}}}")


def check(element: ElementTree.Element, outline) -> None:
    """Elements are those of the schema, in its order; texts hold no element and are not blank."""
    if isinstance(outline, str):
        assert len(element) > 0
        assert {local(child) for child in element} == {outline}
    elif not outline:
        assert len(element) == 0
        assert (element.text or "").strip()
    else:
        assert [local(child) for child in element] == [name for name, _ in outline]
        for child, (_, inner) in zip(element, outline, strict=True):
            check(child, inner)


def text_of(root: ElementTree.Element, name: str) -> str:
    (element,) = root.iter(f"{{{NAMESPACE}}}{name}")
    return element.text or ""


def metrics_of(root: ElementTree.Element, part: str) -> dict[str, dict]:
    """Values by label, without the backslashes of Markdown."""
    (results,) = root.findall(f".//{{*}}{part}/{{*}}Results")
    told = [[child.text or "" for child in entry] for entry in results]
    return {re.sub(r"\\(.)", r"\1", label): json.loads(value) for label, value in told}


@pytest.fixture(params=["full_result", "null_result", "stopped_result"])
def any_result(request):
    return request.getfixturevalue(request.param)


def test_elements_stand_in_the_order_of_the_schema(any_result, card):
    root = card(any_result)
    check(root, OUTLINE)
    for entry in root.iter(f"{{{NAMESPACE}}}MetricResult"):
        assert [local(child) for child in entry] == ["Label", "ValueJson"]


def test_what_an_audit_cannot_know_says_so(any_result, card):
    root = card(any_result)
    untold = {
        local(element) for element in root.iter() if (element.text or "").strip() == NOT_FILLED
    }
    assert untold == NOT_TOLD
    for name in ("ReleaseVersion", "HowToUse", "KnownBiasesOrEthicalConsiderations"):
        assert text_of(root, name).endswith(NOT_FILLED)
        assert text_of(root, name) != NOT_FILLED


def points(share: float) -> float:
    return round(100 * share, 1)


def test_key_metrics_are_the_numbers_of_the_json(full_result, card):
    root = card(full_result)
    found = json.loads(result_document(full_result, 20).model_dump_json())

    def estimate(value: float, bounds: list[float], unit: str = "%") -> dict:
        return {
            "kind": "estimate_ci",
            "estimate": points(value),
            "lower": points(bounds[0]),
            "upper": points(bounds[1]),
            "level": 95,
            "unit": unit,
        }

    accuracy = found["accuracy"]
    assert metrics_of(root, "UsefulnessUsabilityEfficacy") == {
        "Accuracy, all classes": estimate(accuracy["overall"], accuracy["interval"]),
        **{
            f"Accuracy on films of {name}": estimate(entry["accuracy"], entry["interval"])
            for name, entry in accuracy["classes"].items()
        },
    }
    assert metrics_of(root, "FairnessEquity") == {
        f"Accuracy, {entry['attribute']} {entry['value']}": estimate(
            entry["accuracy"], entry["interval"]
        )
        for entry in found["subgroups"]
        if not entry["insufficient"]
    }
    safety = metrics_of(root, "SafetyReliability")
    counting = [entry for entry in found["correlations"] if entry["counts"]]
    assert safety["Confirmed shortcuts that the model uses"]["value"] == len(counting) == 2
    for entry in counting:
        label = f"Correlation {entry['rank']}, accuracy with minus without the feature, on films of"
        test = entry["confirmation"]
        raised = test["classes"][entry["raised_class"]]
        assert safety[f"{label} {entry['raised_class']}"] == estimate(
            raised["gap"], raised["gap_interval"], "points"
        )
        together = ", ".join(entry["opposed_classes"]) + " together"
        assert safety[f"{label} {together}"] == estimate(
            test["opposed_gap"], test["opposed_gap_interval"], "points"
        )
    gaps = [
        {"kind": "single", "value": points(entry["gap"]), "unit": "points"}
        for entry in found["sensitivity"]["detectable"]
        if entry["gap"] is not None
    ]
    assert [value for label, value in safety.items() if label.startswith("Smallest gap")] == gaps
    assert len(safety) == 2 + 2 * len(counting) + len(gaps)


def test_words_tell_model_films_and_outcome(full_result, card):
    root = card(full_result)
    summary = text_of(root, "Summary")
    for told in (
        "CLIP ResNet, 12,345,678 parameters",
        "ab12" * 16,
        "120 films of 70 patients",
        "run sample-run, 2025-03-01",
        "**Fail**. Do not use",
        "DRAFT, not signed",
    ):
        assert told in summary
    assert "- view: PA 80, AP 40" in next(
        element.text for element in root.iter(f"{{{NAMESPACE}}}TestingDataDescription")
    )
    biases = text_of(root, "KnownBiasesOrEthicalConsiderations")
    assert "Correlation 1. When a pulse generator is present" in biases
    assert "89 % pulse generator" in biases
    assert "Correlation 3" not in biases


def test_a_level_that_is_not_known_is_left_out(full_result, details):
    assert '"level"' not in chai_card(full_result, details)


def test_a_stopped_audit_tells_no_number_of_a_search(stopped_result, card):
    root = card(stopped_result)
    assert metrics_of(root, "SafetyReliability") == {
        "No search for shortcuts was made": {"kind": "single", "value": None}
    }
    assert metrics_of(root, "FairnessEquity") == {
        "No group was compared": {"kind": "single", "value": None}
    }
    assert "The audit stopped before it could search" in text_of(
        root, "KnownBiasesOrEthicalConsiderations"
    )


def test_phantoms_are_no_patients(result_of, card):
    result = result_of()
    made = replace(result, cohort=replace(result.cohort, synthetic=True))
    assert "120 synthetic phantoms (no patient data)" in text_of(card(made), "Summary")


def test_decisions_of_reviewers_are_taken_in_without_their_names(result_of, card):
    rulings = (
        ReviewDecision(1, "disease", "", "Seen with Dr. Blue", "R. Ray", "2026-11-01", True),
        ReviewDecision(2, "accepted", "2026-12-31", "why", "R. Ray", "2026-11-02", False),
    )
    root = card(result_of(rulings=rulings, to_decide=()))
    told = text_of(root, "KnownBiasesOrEthicalConsiderations")
    assert "- Correlation 1: is the disease (decided on 2026-11-01)" in told
    assert "- Correlation 2: tolerated until 2026-12-31, expired" in told
    assert "Nothing is left to decide." in told
    assert "FINAL, not signed. Nothing is open." in text_of(root, "Summary")
    whole = ElementTree.tostring(root, encoding="unicode")
    assert "R. Ray" not in whole
    assert "Dr. Blue" not in whole


def test_no_film_and_no_row_is_named(full_result, details):
    text = chai_card(full_result, details)
    assert not any(name in text for name in full_result.image_ids)


def test_counts_of_few_patients_stay_hidden(full_result, card):
    root = card(hide_small_cells(full_result, 26))
    whole = ElementTree.tostring(root, encoding="unicode")
    assert "view: PA hidden, AP hidden" in whole
    assert "Accuracy, view AP" not in metrics_of(root, "FairnessEquity")
    assert "fewer than 26 patients" in whole
    assert not re.search(r"(?<![\w-])[-−]1(?!\d)|\bnan\b", whole, re.IGNORECASE)


@pytest.mark.parametrize("counts", [False, True])
def test_text_from_outside_is_neither_xml_nor_markdown(counts, result_of, details, card):
    result = hostile_result(result_of(HOSTILE, 2))
    if counts:
        entries = tuple(replace(entry, counts=True) for entry in result.correlations)
        result = replace(result, correlations=entries)
    root = card(result)
    check(root, OUTLINE)
    text = "".join(root.itertext())
    assert r"\<img src=" in text
    assert not re.search(r"(?<!\\)<img", text)
    assert "y" * 601 not in text
    assert len(chai_card(result, details)) < 200_000


def test_many_classes_subgroups_and_correlations_stay_a_card(result_of, details):
    result = result_of(tuple(f"class {n}" for n in range(60)), 100)
    many = tuple(replace(result.subgroups[0], value=f"v{n}") for n in range(1000))
    entries = tuple(replace(entry, counts=True) for entry in result.correlations)
    text = chai_card(replace(result, subgroups=many, correlations=entries), details)
    assert "960 more groups in report.pdf" in text
    assert "and 90 more correlations, in report.pdf" in text
    assert len(text) < 100_000


def test_the_same_audit_the_same_card(result_of, details):
    assert chai_card(result_of(FIVE, 3), details) == chai_card(result_of(FIVE, 3), details)


def test_bibliography_is_bibtex(full_result, card):
    told = text_of(card(full_result), "Bibliography")
    assert told.startswith("@inproceedings{varma2024ravl,")
    assert told.count("{") == told.count("}") > 5
    fields = re.findall(r"^  (\w+) = \{", told, re.MULTILINE)
    assert fields == ["title", "author", "booktitle", "year", "note"]


def test_properties_of_the_pdf():
    told = chai_properties("<card/>")
    assert list(told) == ["chaiMcXml", "chaiMcSoftwareId"]
    assert told["chaiMcXml"] == "<card/>"
    assert re.fullmatch(r"ravl-med \d+\.\d+.*", told["chaiMcSoftwareId"])
