"""``comparison.json``: the numbers of a comparison under stable names, with a JSON Schema.

A and B are the runs in the order in which they were named. Accuracies, gaps and differences are
shares between -1 and 1, differences are B minus A. A number that does not exist is ``null``.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ravl_med.evidence.audit_result import VerdictName
from ravl_med.evidence.results import Kind
from ravl_med.reporting.comparison.compare import MIN_OVERLAP, Comparison, Matching, Outcome
from ravl_med.reporting.files.result_json import Bounds, Count, Number, Part
from ravl_med.reporting.layout.blocks import Status

COMPARISON_SCHEMA_VERSION = "1.0"


class RunFactsDocument(Part):
    """One of the two runs."""

    name: str = Field(description="of the run")
    title: str = Field(description="of its report")
    date: str | None = Field(description="of the run")
    model: str = Field(description="as its config calls it")
    model_digest: str = Field(description="SHA-256 over everything that was loaded")
    cohort_digest: str = Field(description="SHA-256 over the audited films and their labels")
    config_digest: str = Field(description="SHA-256 over the effective config")
    films: Count = Field(description="that were audited")
    patients: Count = Field(description="that they belong to")
    synthetic: bool = Field(description="phantoms only, no patient")
    verdict: VerdictName = Field(description="as its own report has it, after any review")
    status: Status = Field(description="FINAL: reviewers have decided on all that asks for one")
    searched: bool = Field(description="the audit got as far as the search for correlations")
    candidates: int = Field(description="correlations that were carried into evidence")
    confirmed: int = Field(description="those among them that hold on held-out patients")
    counting: int = Field(description="those that decide its verdict")


class FilmCountsDocument(Part):
    """Which films are compared; they are the same where their pseudonyms are."""

    compared: Count = Field(description="films in both runs that bear the same label")
    patients: Count = Field(description="that they belong to")
    only_a: Count = Field(description="films of A that are not in B")
    only_b: Count = Field(description="films of B that are not in A")
    other_label: int = Field(description="films in both that bear another label in B; left out")
    joined: int = Field(description="patients of one run that the other splits, taken as one")


class SettingDocument(Part):
    """A config key, or a version, that is not the same in both."""

    key: str = Field(description="in dots; or 'version of' a package")
    a: str = Field(description="text, or JSON; 'not set' for none")
    b: str = Field(description="the same in B")


class PairedDocument(Part):
    """A measure of both models on the same films."""

    films: Count = Field(description="that it is measured on")
    a: Number = Field(description="of the model of A")
    a_interval: Bounds
    b: Number = Field(description="of the model of B")
    b_interval: Bounds
    difference: Number = Field(description="b minus a")
    interval: Bounds = Field(
        description="[low, high] of the difference, the same draws of patients for both models"
    )


class WorstClassDocument(Part):
    """Accuracy on the class that each model does worst on."""

    change: PairedDocument
    class_a: str = Field(description="worst class of A")
    class_b: str = Field(description="worst class of B")


class AgreementDocument(Part):
    """How often both models are right together; counts of films."""

    films: Count = Field(description="all of them")
    same: Count = Field(description="with the same decision, right or wrong")
    same_share: Number = Field(description="the same as a share")
    both_right: Count
    only_a: Count = Field(description="A right, B wrong")
    only_b: Count = Field(description="B right, A wrong")
    both_wrong: Count


class FoundCorrelationDocument(Part):
    """A correlation as its own run reports it."""

    rank: int = Field(description="in its run")
    correlation_id: str = Field(description="as in its result.json")
    outcome: str = Field(description="what became of it, in words")
    description: str = Field(description="what its regions are called; blank: not said")
    kind: Kind = Field(description="by where the removal effect lies")
    counts: bool = Field(description="it decides the verdict of its run")
    confirmed: bool = Field(description="it holds on held-out patients")
    used: bool | None = Field(description="by the model; null: not tested")
    q_value: Number = Field(description="Benjamini-Hochberg over the candidates of its run")
    lowered_classes: list[str] = Field(description="that are tested together as one")
    raised_gap: Number = Field(description="of the raised class, on its held-out patients")
    raised_interval: Bounds
    lowered_gap: Number = Field(description="of the lowered classes, on its held-out patients")
    lowered_interval: Bounds
    removal: Number = Field(
        description="fall of the margin beyond a control, median fill, logits; null: not tested"
    )
    removal_interval: Bounds
    removal_size: Number = Field(
        description="the same, mean of both fills, over the standard deviation of the margin"
    )
    ruling: str | None = Field(description="decision of a reviewer that is in force")


class ComparedCorrelationDocument(Part):
    """A correlation that counts, or is confirmed, in one of the runs."""

    raised_class: str = Field(description="class that the feature raises")
    matching: Matching = Field(
        description="what the other run has of it: the same raised class on the same films"
    )
    overlap: Number = Field(description="Jaccard index of the films with it; null: no match")
    a: FoundCorrelationDocument | None = Field(description="null: no candidate of A matches")
    b: FoundCorrelationDocument | None = Field(description="null: no candidate of B matches")
    feature_of: Literal["A", "B"] = Field(description="whose feature the gaps below are of")
    films_with_feature: Count = Field(description="compared films that hold it")
    raised: PairedDocument = Field(
        description="gap of the raised class on the compared films, those it was found on included"
    )
    lowered: PairedDocument = Field(description="the same of the lowered classes together")


class ComparisonDocument(Part):
    """Two audits side by side."""

    schema_version: str = Field(description="major.minor; the major changes when a name goes")
    outcome: Outcome = Field(description="what the interval of the difference of accuracy shows")
    status: Status = Field(description="FINAL where both runs are")
    a: RunFactsDocument
    b: RunFactsDocument
    task: str = Field(description="of both")
    films: FilmCountsDocument
    settings: list[SettingDocument] = Field(description="that differ; empty: none does")
    overall: PairedDocument = Field(description="accuracy on all compared films")
    worst: WorstClassDocument
    by_class: dict[str, PairedDocument] = Field(description="accuracy on the films of each class")
    agreement: AgreementDocument
    agreement_interval: Bounds = Field(description="[low, high] of agreement.same_share")
    agreement_by_class: dict[str, AgreementDocument]
    p_value: Number = Field(
        description="two-sided, exact, of the difference of accuracy: the answers of both models "
        "exchanged patient by patient"
    )
    one_film_a_patient: bool = Field(description="true: that test is McNemar's exact test")
    correlations: list[ComparedCorrelationDocument] = Field(
        description="what counts or is confirmed in a run; what counts comes first"
    )
    min_overlap: float = Field(description="Jaccard index from which on two features are one")
    confidence: float = Field(description="of every interval")
    draws: int = Field(description="bootstrap draws of patients")
    seed: int = Field(description="of the draws")
    hidden_below: int = Field(
        description="counts of fewer patients, and what would tell them, are null; 0: none is"
    )


def comparison_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``comparison.json``."""
    return ComparisonDocument.model_json_schema()


def comparison_document(comparison: Comparison) -> ComparisonDocument:
    """Turn a comparison into the document that is written."""
    made = comparison
    return ComparisonDocument(
        schema_version=COMPARISON_SCHEMA_VERSION,
        outcome=made.outcome,
        status=made.status,
        a=RunFactsDocument.model_validate(made.a),
        b=RunFactsDocument.model_validate(made.b),
        task=made.task,
        films=FilmCountsDocument.model_validate(made.films),
        settings=[SettingDocument.model_validate(one) for one in made.settings],
        overall=PairedDocument.model_validate(made.overall),
        worst=WorstClassDocument.model_validate(made.worst),
        by_class={
            name: PairedDocument.model_validate(paired)
            for name, paired in zip(made.classes, made.by_class, strict=True)
        },
        agreement=AgreementDocument.model_validate(made.agreement),
        agreement_interval=made.agreement_interval,
        agreement_by_class={
            name: AgreementDocument.model_validate(counted)
            for name, counted in zip(made.classes, made.agreement_by_class, strict=True)
        },
        p_value=made.p_value,
        one_film_a_patient=made.one_film_a_patient,
        correlations=[ComparedCorrelationDocument.model_validate(c) for c in made.correlations],
        min_overlap=MIN_OVERLAP,
        confidence=made.confidence,
        draws=made.draws,
        seed=made.seed,
        hidden_below=made.hidden_below,
    )
