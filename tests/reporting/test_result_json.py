"""result.json: numbers as they are, null where there is none, valid under its own schema."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest

from ravl_med.evidence.audit_result import AuditResult, Interval
from ravl_med.reporting.result_json import SCHEMA_VERSION, document_of, result_schema

ResultOf = Callable[..., AuditResult]


def written(result: AuditResult, regions_listed: int = 200) -> Any:
    """The document as a reader of the file gets it, checked against the schema."""
    document = document_of(result, regions_listed).model_dump(mode="json")
    read = json.loads(json.dumps(document, allow_nan=False))
    jsonschema.Draft202012Validator(result_schema()).validate(read)
    return read


def test_the_schema_is_a_schema_and_closed() -> None:
    schema = result_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    parts = [schema, *schema["$defs"].values()]
    assert all(part["additionalProperties"] is False for part in parts)


def test_the_schema_refuses_what_it_does_not_know(result_of: ResultOf) -> None:
    document = written(result_of())
    validator = jsonschema.Draft202012Validator(result_schema())
    with pytest.raises(jsonschema.ValidationError, match="'extra' was unexpected"):
        validator.validate(document | {"extra": 1})
    with pytest.raises(jsonschema.ValidationError, match="'maybe' is not one of"):
        validator.validate(document | {"verdict": "maybe"})


def test_head_task_cohort_and_discovery(result_of: ResultOf) -> None:
    result = result_of()
    document = written(result)
    assert document["schema_version"] == SCHEMA_VERSION
    assert document["name"] == "sample-run"
    assert document["verdict"] == "fail"
    assert document["verdict_reasons"] == list(result.verdict.reasons)
    assert document["model"]["parameters"] == 12_345_678
    assert list(document["task"]["classes"]) == list(result.task.classes)
    assert document["cohort"]["left_out"] == {"another split": 170, "blank label": 7}
    assert document["cohort"]["rejected"] == {"truncated": 2, "no_pixel_data": 1}
    assert document["cohort"]["attributes"]["view"] == {"PA": 80, "AP": 40}
    assert document["discovery"]["silhouettes"] == {"20": 0.31, "25": 0.3}
    assert document["accuracy"]["overall"] == 0.734
    assert document["accuracy"]["interval"] == [0.69, 0.779]
    assert document["accuracy"]["classes"]["cardiomegaly"]["images"] == 40


def test_a_correlation(result_of: ResultOf) -> None:
    result = result_of(correlations=3)
    document = written(result)
    assert [c["rank"] for c in document["correlations"]] == [1, 2, 3]
    assert [c["counts"] for c in document["correlations"]] == [True, True, False]
    first, source = document["correlations"][0], result.correlations[0]
    assert first["kind"] == "shortcut"
    assert first["raised_class"] == "cardiomegaly"
    assert first["lowered_classes"] == ["no finding", "pleural effusion"]
    gap = first["classes"]["cardiomegaly"]
    assert gap["gap"] == pytest.approx(gap["accuracy_present"] - gap["accuracy_absent"])
    assert gap["gap"] == pytest.approx(0.966 - 0.42)  # 0.97 - 0.004 and 0.41 + 0.01
    assert gap["weighted_gap"] == pytest.approx(0.6 * gap["gap"])
    assert (gap["n_present"], gap["n_absent"]) == (9, 16)
    assert gap["gap_interval"] == pytest.approx([gap["gap"] - 0.08, gap["gap"] + 0.08])
    assert first["removal"]["measured"] == 35  # five of forty are not measured
    assert first["removal"]["mean"] == pytest.approx(source.removal.mean)
    assert first["regions_total"] == len(first["regions"]) == 40


def test_regions_run_by_removal_effect_and_point_at_their_film(result_of: ResultOf) -> None:
    result = result_of()
    regions = written(result)["correlations"][0]["regions"]
    effects = [region["removal_effect"] for region in regions]
    measured = [effect for effect in effects if effect is not None]
    assert measured == sorted(measured, reverse=True)
    assert effects[len(measured) :] == [None] * 5
    for region in regions:
        film = result.image_ids.index(region["image_id"])
        row, column = (int(n) - 1 for n in region["name"].removeprefix("tile ").split(","))
        assert region["box"] == [40 * column, 40 * row, 40 * column + 40, 40 * row + 40]
        source = film * 36 + row * 6 + column
        place = int(np.flatnonzero(result.correlations[0].cluster.regions == source)[0])
        assert region["similarity"] == result.correlations[0].cluster.similarity[place]


def test_as_many_regions_as_asked(result_of: ResultOf) -> None:
    (first, second) = written(result_of(), regions_listed=7)["correlations"]
    assert len(first["regions"]) == len(second["regions"]) == 7
    assert first["regions_total"] == 40


def test_nothing_found_is_a_result(result_of: ResultOf) -> None:
    document = written(result_of(correlations=0))
    assert document["verdict"] == "pass"
    assert document["correlations"] == []


def test_numbers_that_do_not_exist_are_null(result_of: ResultOf) -> None:
    nan, nothing = float("nan"), Interval(float("nan"), float("inf"))
    result = result_of()
    first = result.correlations[0]
    empty = np.array([0, 9, 9])
    absent = np.where(empty > 0, 0.5, nan)
    first = replace(
        first,
        cluster=replace(first.cluster, n_present=empty, accuracy_present=absent, influence=nan),
        gap_interval=(nothing,) * 3,
        accuracy_present_interval=(nothing,) * 3,
        removal=replace(
            first.removal,
            effect=np.full(40, nan),
            mean=nan,
            interval=nothing,
            inside_share=nan,
        ),
    )
    accuracy = replace(
        result.accuracy,
        overall=nan,
        overall_interval=nothing,
        by_class=(nan, 0.5, 0.5),
        by_class_interval=(nothing,) * 3,
        images_by_class=(0, 40, 40),
    )
    document = written(replace(result, accuracy=accuracy, correlations=(first,), discovery=None))
    assert document["discovery"] is None
    assert document["accuracy"]["overall"] is None
    assert document["accuracy"]["interval"] == [None, None]
    assert document["accuracy"]["classes"]["cardiomegaly"]["accuracy"] is None
    (found,) = document["correlations"]
    assert found["influence"] is None
    assert found["removal"] == {
        "mean": None,
        "interval": [None, None],
        "measured": 0,
        "inside_share": None,
    }
    gap = found["classes"]["cardiomegaly"]
    assert gap["accuracy_present"] is gap["gap"] is None
    assert gap["gap_interval"] == [None, None]
    assert all(region["removal_effect"] is None for region in found["regions"])
