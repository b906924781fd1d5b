"""What the report says of the interventions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.reporting.audit.evidence import intervention_note

HIDDEN = -1


def note(correlation: SpuriousCorrelation) -> str:
    return intervention_note(correlation)


@pytest.fixture
def correlation(result_of: Callable[[], AuditResult]) -> SpuriousCorrelation:
    return result_of().correlations[0]


def with_films(correlation: SpuriousCorrelation, films: int) -> SpuriousCorrelation:
    """The same with so many films on the side of the test that hold the feature."""
    arms = correlation.confirmation.arms
    spread = np.zeros_like(arms.n_present)
    spread[0] = films
    arms = replace(arms, n_present=np.full_like(spread, HIDDEN) if films < 0 else spread)
    return replace(correlation, confirmation=replace(correlation.confirmation, arms=arms))


def test_the_size_of_the_sample_is_told(correlation: SpuriousCorrelation) -> None:
    assert (
        " Removal is measured on a sample of 23 films with the feature, spread over patients, of "
        "1,984 in the half it was tested on."
    ) in note(with_films(correlation, 1984))


@pytest.mark.parametrize("films", [23, 5, HIDDEN])
def test_without_a_sample_or_a_count_nothing_is_told(
    correlation: SpuriousCorrelation, films: int
) -> None:
    assert "sample" not in note(with_films(correlation, films))
