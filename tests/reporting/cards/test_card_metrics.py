"""Numbers of a card: those of result.json, rounded; what was not measured is left out."""

import math
from dataclasses import replace

import pytest

from ravl_med.evidence.results import Interval
from ravl_med.reporting.cards.chai import (
    STRATA_SHOWN,
    Metric,
    accuracy_metrics,
    compared_strata,
    confidence_level,
    shortcut_metrics,
    stratum_name,
    subgroup_metrics,
)

NAN = float("nan")


def by_label(metrics: tuple[Metric, ...]) -> dict[str, Metric]:
    assert len({metric.label for metric in metrics}) == len(metrics)
    return {metric.label: metric for metric in metrics}


def test_accuracy_is_percent_with_a_decimal(result_of):
    told = by_label(accuracy_metrics(result_of()))
    assert told["Accuracy, all classes"] == Metric(
        "Accuracy, all classes", 73.4, "%", Interval(69.0, 77.9)
    )
    assert list(told)[1:] == [
        "Accuracy on films of cardiomegaly",
        "Accuracy on films of no finding",
        "Accuracy on films of pleural effusion",
    ]


def test_a_class_without_films_is_left_out(result_of):
    result = result_of()
    accuracy = replace(result.accuracy, by_class=(NAN, *result.accuracy.by_class[1:]))
    told = by_label(accuracy_metrics(replace(result, accuracy=accuracy)))
    assert "Accuracy on films of cardiomegaly" not in told
    assert len(told) == 3


def test_subgroups_that_were_compared(result_of):
    result = result_of()
    assert [stratum_name(s) for s in compared_strata(result)] == [
        "view AP",
        "view PA",
        "sex F",
        "sex M",
    ]
    told = by_label(subgroup_metrics(result))
    assert told["Accuracy, view AP"].value == 61.0
    assert told["Accuracy, view AP"].interval == Interval(47.0, 74.0)
    many = tuple(replace(result.subgroups[0], value=f"v{n}") for n in range(STRATA_SHOWN + 5))
    assert len(subgroup_metrics(replace(result, subgroups=many))) == STRATA_SHOWN


def test_gaps_of_what_counts_and_what_could_have_been_found(result_of):
    told = by_label(shortcut_metrics(result_of(correlations=7)))
    assert told["Confirmed shortcuts that the model uses"].value == 2
    assert told["Other correlations that count"].value == 0
    gap = told["Correlation 1, accuracy with minus without the feature, on films of cardiomegaly"]
    assert (gap.value, gap.unit, gap.interval) == (54.6, "points", Interval(46.6, 62.6))
    assert sum(label.startswith("Correlation ") for label in told) == 4
    found = {label: metric.value for label, metric in told.items() if label.startswith("Smallest")}
    start = "Smallest gap found with 80\u00a0% power, feature in"
    assert found == {
        f"{start} 10\u00a0% of the films": 34.0,
        f"{start} 20\u00a0% of the films": 22.0,
        f"{start} 50\u00a0% of the films": 18.0,
    }


def test_nothing_searched_nothing_told(stopped_result):
    assert shortcut_metrics(stopped_result) == ()
    assert subgroup_metrics(stopped_result) == ()


def test_no_minus_stands_before_a_zero(result_of):
    result = result_of()
    accuracy = replace(result.accuracy, overall=-1e-9, overall_interval=Interval(-1e-9, 0.1))
    metric = accuracy_metrics(replace(result, accuracy=accuracy))[0]
    assert math.copysign(1.0, metric.value) == 1.0
    assert math.copysign(1.0, metric.interval.low) == 1.0


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("evidence:\n  confidence: 0.95\n", 95.0),
        ("evidence:\n  confidence: 0.995\n", 99.5),
        ("name: run\n", None),
        ("evidence: 1\n", None),
        ("evidence:\n  confidence: high\n", None),
        ("a: [1\n", None),
        ("", None),
    ],
)
def test_the_level_of_the_intervals_is_that_of_the_config(text, level, details):
    assert confidence_level(replace(details, config_yaml=text)) == level
