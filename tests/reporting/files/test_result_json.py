"""result.json: numbers as they are, null where there is none, valid under its own schema."""

import json
import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import jsonschema
import numpy as np
import pytest

from ravl_med.evidence.audit_result import SCHEMA_VERSION, AuditResult, result_document
from ravl_med.evidence.results import Interval
from ravl_med.storage.documents import schema_of

ResultOf = Callable[..., AuditResult]
NAN = float("nan")
NOTHING = Interval(NAN, float("inf"))


def written(result: AuditResult, regions_listed: int = 200) -> Any:
    """The document as a reader of the file gets it, checked against the schema."""
    document = result_document(result, regions_listed).model_dump(mode="json")
    read = json.loads(json.dumps(document, allow_nan=False))
    jsonschema.Draft202012Validator(schema_of(AuditResult)).validate(read)
    return read


def blanked(value: Any) -> Any:
    """The same with every float, scalar or array, turned into NaN."""
    if isinstance(value, Interval):
        return NOTHING
    if is_dataclass(value) and not isinstance(value, type):
        entries = {f.name: blanked(getattr(value, f.name)) for f in fields(value)}
        return replace(value, **entries)
    if isinstance(value, np.ndarray):
        return np.full_like(value, NAN) if value.dtype.kind == "f" else value
    if isinstance(value, tuple):
        return tuple(blanked(entry) for entry in value)
    return NAN if isinstance(value, float) else value


def test_the_schema_is_a_schema_and_closed() -> None:
    schema = schema_of(AuditResult)
    jsonschema.Draft202012Validator.check_schema(schema)
    parts = [schema, *schema["$defs"].values()]
    assert all(part["additionalProperties"] is False for part in parts if "properties" in part)


def test_the_schema_explains_every_name() -> None:
    schema = schema_of(AuditResult)
    for part in (schema, *schema["$defs"].values()):
        assert part["description"]
        for name, entry in part["properties"].items():
            told = schema["$defs"][entry["$ref"].split("/")[-1]] if "$ref" in entry else entry
            assert len(told["description"]) >= 4, name


def test_every_name_is_always_there() -> None:
    schema = schema_of(AuditResult)
    for part in (schema, *schema["$defs"].values()):
        assert set(part["required"]) == set(part["properties"])


def test_the_schema_refuses_what_it_does_not_know(result_of: ResultOf) -> None:
    document = written(result_of())
    validator = jsonschema.Draft202012Validator(schema_of(AuditResult))
    with pytest.raises(jsonschema.ValidationError, match="'extra' was unexpected"):
        validator.validate(document | {"extra": 1})
    with pytest.raises(jsonschema.ValidationError, match="'maybe' is not one of"):
        validator.validate(document | {"verdict": "maybe"})


def test_head_and_task(result_of: ResultOf) -> None:
    result = result_of()
    document = written(result)
    assert document["schema_version"] == SCHEMA_VERSION == "4.5"
    assert document["name"] == "sample-run"
    assert document["verdict"] == "fail"
    assert document["verdict_reasons"] == list(result.verdict.reasons)
    assert list(document["gates"]) == [gate.name for gate in result.verdict.gates]
    assert document["gates"]["gate.max_gap"] == {
        "passed": False,
        "open": False,
        "text": "2 shortcuts with a gap of 10 points or more; none is tolerated",
    }
    assert document["model"]["parameters"] == 12_345_678
    assert document["model"]["digest"] == "ab12" * 16
    assert list(document["task"]["classes"]) == list(result.task.classes)


def test_cohort_and_accuracy(result_of: ResultOf) -> None:
    document = written(result_of())
    cohort, accuracy = document["cohort"], document["accuracy"]
    assert cohort["left_out"] == {"another split": 170, "blank label": 7}
    assert cohort["rejected"] == {"truncated": 2, "no_pixel_data": 1}
    assert cohort["rejected_rows"][1] == {"row": 44, "reason": "no_pixel_data"}  # no message
    assert cohort["attributes"]["view"] == {"PA": 80, "AP": 40}
    assert cohort["classes_by_attribute"]["view"]["AP"] == {
        "cardiomegaly": {"films": 14, "share": 14 / 40},
        "no finding": {"films": 13, "share": 13 / 40},
        "pleural effusion": {"films": 13, "share": 13 / 40},
    }
    assert accuracy["overall"] == 0.734
    assert accuracy["interval"] == [0.69, 0.779]
    assert accuracy["classes"]["cardiomegaly"]["images"] == 40


def test_discovery(result_of: ResultOf) -> None:
    result = result_of(correlations=3)
    discovery = written(result)["discovery"]
    assert result.discovery is not None
    drawn, clusters = result.discovery.cluster_map, discovery["cluster_map"].pop("clusters")
    assert discovery.pop("cluster_map") == {"kept": drawn.kept, "correlation": drawn.correlation}
    assert len(clusters) == len(drawn.clusters) == 20
    assert [c["rank"] for c in clusters if c["rank"]] == [1, 2, 3]
    assert clusters[11] == {
        "cluster": 11,
        "x": drawn.clusters[11].x,
        "y": drawn.clusters[11].y,
        "regions": drawn.clusters[11].regions,
        "rank": 1,
    }
    assert discovery == {
        "protocol": "pooled",
        "regions": 4320,
        "regions_unseen": 12,
        "region_problems": {"blank_mask": 3, "no_region": 2},
        "region_source": "6 x 6 tiles",
        "partitions": [
            {"clusters": 20, "draw": 0, "loss": 0.213},
            {"clusters": 20, "draw": 1, "loss": 0.211},
            {"clusters": 40, "draw": 0, "loss": 0.174},
        ],
        "left_out": {"80": "K is above the number of sampled regions (60)"},
        "clusters": 20,
        "survivors": 2,
        "candidates": 3,
        "discovery_half": {"films": 58, "patients": 35},
        "confirmation_half": {"films": 62, "patients": 35},
    }


def test_subgroups(result_of: ResultOf) -> None:
    rows = written(result_of())["subgroups"]
    assert [(row["attribute"], row["value"]) for row in rows] == [
        ("view", "AP"), ("view", "LL"), ("view", "PA"), ("sex", "F"), ("sex", "M"),
    ]  # fmt: skip
    assert rows[0] == {
        "attribute": "view",
        "value": "AP",
        "films": 40,
        "patients": 25,
        "accuracy": 0.61,
        "interval": [0.47, 0.74],
        "difference": -0.17,
        "p_value": 0.012,
        "q_value": 0.036,
        "insufficient": False,
    }
    assert rows[1]["insufficient"] is True
    assert rows[1]["films"] == 3
    assert rows[1]["accuracy"] is rows[1]["difference"] is rows[1]["q_value"] is None
    assert rows[1]["interval"] == [None, None]


def test_sensitivity(result_of: ResultOf) -> None:
    sensitivity = written(result_of(correlations=7))["sensitivity"]
    assert sensitivity["power"] == 0.8
    assert (sensitivity["simulations"], sensitivity["candidates"]) == (200, 7)
    assert [(row["prevalence"], row["gap"]) for row in sensitivity["detectable"]] == [
        (0.05, None), (0.1, 0.34), (0.2, 0.22), (0.5, 0.18),
    ]  # fmt: skip
    assert sensitivity["detectable"][0]["power_at_largest"] == 0.31
    assert (sensitivity["clusters"], sensitivity["tested"]) == (20, 14)
    assert sum(sensitivity["untested"].values()) == 6


def test_a_correlation(full_result: AuditResult) -> None:
    document = written(full_result)
    assert [c["rank"] for c in document["correlations"]] == [1, 2, 3, 4, 5, 6, 7]
    assert [c["counts"] for c in document["correlations"]] == [True] * 2 + [False] * 5
    assert (
        document["correlations"][1]["description"] == "88 % pulse generator (right 24 of 25 times)"
    )
    assert [c["rare"] for c in document["correlations"]] == [False] * 5 + [True, False]
    first = document["correlations"][0]
    assert first["kind"] == "shortcut"
    assert first["reasons"] == []
    assert (first["task"], first["cluster"], first["also"]) == ("finding", 11, [3, 47])
    assert first["raised_class"] == "cardiomegaly"
    assert first["lowered_class"] == "no finding"
    assert first["lowered_classes"] == ["no finding", "pleural effusion"]
    assert first["opposed_classes"] == ["no finding", "pleural effusion"]
    assert first["films_with_feature"] == 40
    assert first["regions_total"] == len(first["regions"]) == 40


def test_how_it_was_found(full_result: AuditResult) -> None:
    found = written(full_result)["correlations"][0]["discovery"]
    gap = found["classes"]["cardiomegaly"]
    assert gap["gap"] == pytest.approx(gap["accuracy_present"] - gap["accuracy_absent"])
    assert gap["gap"] == pytest.approx(0.966 - 0.42)  # 0.97 - 0.004 and 0.41 + 0.01
    assert gap["weighted_gap"] == pytest.approx(0.6 * gap["gap"])
    assert (gap["n_present"], gap["n_absent"]) == (9, 16)
    total = sum(abs(entry["weighted_gap"]) for entry in found["classes"].values())
    assert found["performance_gap"] == pytest.approx(total)
    assert found["influence"] == 0.92
    assert found["opposed_gap"] == pytest.approx(full_result.correlations[0].cluster.opposed_gap)


def test_how_it_was_tested(full_result: AuditResult) -> None:
    document = written(full_result)["correlations"]
    first, test = document[0], document[0]["confirmation"]
    assert (test["films"], test["patients"], test["swapped"]) == (62, 35, False)
    gap = test["classes"]["cardiomegaly"]
    assert gap["gap"] == pytest.approx(0.946 - 0.4)  # two points lower on either side
    assert gap["gap_interval"] == pytest.approx([gap["gap"] - 0.08, gap["gap"] + 0.08])
    assert gap["accuracy_present_interval"] == pytest.approx([0.886, 1.0])
    assert gap["accuracy_absent_interval"] == pytest.approx([0.36, 0.44])
    assert (gap["n_present"], gap["n_absent"]) == (8, 17)
    lowered = [test["classes"][name]["gap"] for name in first["opposed_classes"]]
    assert test["opposed_gap"] == pytest.approx(sum(lowered) / 2)
    assert test["opposed_gap_interval"][0] == pytest.approx(test["opposed_gap"] - 0.07)
    p_values = [first[key] for key in ("p_raised", "p_lowered", "p_value", "q_value")]
    assert p_values == [0.0002, 0.0011, 0.00004, 0.0004]
    assert first["exact"] is True
    assert first["score_shift"] == {
        "raised": 2.4,
        "raised_interval": [1.7, 3.1],
        "lowered": 1.9,
        "lowered_interval": [1.1, 2.6],
    }


def test_outcomes_of_the_test(full_result: AuditResult) -> None:
    document = written(full_result)["correlations"]
    assert [c["status"] for c in document] == [
        "confirmed", "confirmed", "confirmed", "raised_only", "not_confirmed", "confirmed",
        "not_tested",
    ]  # fmt: skip
    assert [c["confirmed"] for c in document] == [True] * 3 + [False] * 2 + [True, False]
    assert document[4]["confirmation"]["reasons"] == ["q is 0.430, above 0.05 (evidence.fdr)."]
    untested = document[6]
    for key in ("p_raised", "p_lowered", "p_value", "q_value", "exact"):
        assert untested[key] is None


def test_who_proposed_it(full_result: AuditResult) -> None:
    first, *rest = full_result.correlations
    proposed = replace(first, cluster=replace(first.cluster, source="effects"))
    document = written(replace(full_result, correlations=(proposed, *rest)))["correlations"]
    assert [c["source"] for c in document[:2]] == ["effects", "clusters"]


def test_the_bound_on_what_was_not_named(full_result: AuditResult) -> None:
    assert written(full_result)["sensitivity"]["local"] == {
        "points": 0.043, "seen": 0.043, "unseen": 0.031, "looked_at": 12, "films": 110, "wrong": 37,
    }  # fmt: skip
    scores = replace(full_result.sensitivity, local=None)
    assert written(replace(full_result, sensitivity=scores))["sensitivity"]["local"] is None


def test_whether_the_model_uses_it(full_result: AuditResult) -> None:
    document = written(full_result)["correlations"]
    assert [c["used"] for c in document] == [True, True, False, False, None, True, None]
    first = document[0]
    assert first["used_reasons"] == []
    assert first["removal"]["measured"] == 35  # five of forty are not measured
    effect = full_result.correlations[0].counterfactual.removal.effect  # type: ignore[union-attr]
    assert first["removal"]["carrying"] == int((effect > 1.9).sum())
    assert first["removal"]["threshold"] == 1.9
    assert (first["removal"]["spread"], first["removal"]["imbalance"]) == (2.4, 0.04)
    assert (first["removal"]["called"], first["removal"]["sharper"]) == (0.35, 0.86)
    assert first["removal"]["shares"]["inside"] == 0.03
    assert first["removal"]["shares"]["inside_interval"] == [0.01, 0.08]
    assert first["removal"]["explored"]["pairs"] == 24
    assert first["removal"]["replaced"]["change"] == 2.55
    assert first["removal"]["both"]["change"] == 2.71
    assert first["removal"]["wrong_calls"]["decisions"] == 0.42
    assert first["removal"]["typical"] == {
        "pairs": 23,
        "patients": 17,
        "change": 2.87,
        "change_interval": pytest.approx([2.47, 3.27]),
        "control": 0.21,
        "contrast": pytest.approx(2.66),
        "interval": pytest.approx([2.21, 3.11]),
        "decisions": 0.61,
        "decisions_interval": pytest.approx([0.49, 0.73]),
        "p_value": 0.0004,
    }
    assert first["transplant"]["contrast"] == pytest.approx(1.82)
    assert [c["shown_by"] for c in document if c["used"]] == [
        ["removal", "transplant"], ["transplant"], ["removal"],
    ]  # fmt: skip
    assert (first["intervention_p"], first["intervention_q"]) == (0.0008, 0.0011)
    assert document[5]["transplant"] is None
    bystander = document[2]
    assert (bystander["tested"], bystander["shown_by"]) == (False, [])
    for name in (
        "typical",
        "replaced",
        "both",
        "wrong_calls",
        "imbalance",
        "sharper",
        "shares",
    ):
        assert bystander["removal"][name] is None
    assert bystander["intervention_p"] is bystander["intervention_q"] is None
    assert bystander["removal"]["explored"]["contrast"] == pytest.approx(0.05)
    assert len(bystander["used_reasons"]) == 1
    untested = document[4]
    assert untested["removal"] is untested["transplant"] is untested["tested"] is None
    assert untested["used_reasons"] == []


def test_strata(full_result: AuditResult) -> None:
    document = written(full_result)["correlations"]
    assert [c["strata"] is None for c in document] == [False, False, True, True, True, False, True]
    strata = document[0]["strata"]
    assert strata["label_association"] == 0.08
    assert list(strata["attributes"]) == ["view", "sex"]
    view = strata["attributes"]["view"]
    assert view["association"] == 0.41
    assert view["raised"] == [
        {"value": "AP", "n_present": 6, "n_absent": 0, "gap": None, "interval": [None, None]},
        {"value": "PA", "n_present": 9, "n_absent": 14, "gap": 0.52, "interval": [0.28, 0.71]},
    ]
    assert [stratum["gap"] for stratum in view["lowered"]] == [-0.55, -0.6]
    assert (view["raised_adjusted"], view["raised_interval"]) == (0.52, [0.28, 0.71])
    assert (view["lowered_adjusted"], view["lowered_interval"]) == (-0.58, [-0.77, -0.35])
    assert view["empty"] == ["AP: no film of cardiomegaly without the feature"]


def test_without_a_lowered_class(result_of: ResultOf) -> None:
    result = result_of(correlations=1)
    (only,) = result.correlations
    cluster = replace(only.cluster, lowered_classes=(), opposed_classes=())
    (document,) = written(replace(result, correlations=(replace(only, cluster=cluster),)))[
        "correlations"
    ]
    assert document["lowered_class"] is None
    assert document["lowered_classes"] == document["opposed_classes"] == []


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
        assert region["carries"] is ((region["removal_effect"] or 0.0) > 1.9)


def test_regions_without_removal_run_by_similarity(full_result: AuditResult) -> None:
    regions = written(full_result)["correlations"][4]["regions"]
    similarity = [region["similarity"] for region in regions]
    assert similarity == sorted(similarity, reverse=True)
    assert all(region["removal_effect"] is region["carries"] is None for region in regions)


def test_as_many_regions_as_asked(result_of: ResultOf) -> None:
    (first, second) = written(result_of(), regions_listed=7)["correlations"]
    assert len(first["regions"]) == len(second["regions"]) == 7
    assert first["regions_total"] == 40


def test_of_what_was_not_tested_on_the_model_few_regions_are_listed(result_of: ResultOf) -> None:
    result = result_of()
    first, *others = result.correlations
    assert first.counterfactual is not None
    looked_up = replace(first, counterfactual=replace(first.counterfactual, tested=False))
    (whole, *_), (few, *_) = (
        written(replace(result, correlations=(one, *others)))["correlations"]
        for one in (first, looked_up)
    )
    assert (len(whole["regions"]), len(few["regions"])) == (40, 10)


def test_nothing_found_is_a_result(null_result: AuditResult) -> None:
    document = written(null_result)
    assert document["verdict"] == "pass"
    assert document["correlations"] == []
    assert all(gate["passed"] for gate in document["gates"].values())
    assert document["sensitivity"]["detectable"]


def test_an_audit_that_stopped(stopped_result: AuditResult) -> None:
    document = written(stopped_result)
    assert document["verdict"] == "not_auditable"
    assert document["gates"]["gate.min_films"]["passed"] is False
    assert document["discovery"] is document["sensitivity"] is None
    assert document["subgroups"] == document["correlations"] == []


def test_numbers_that_do_not_exist_are_null(full_result: AuditResult) -> None:
    numbers = {
        name: blanked(getattr(full_result, name))
        for name in ("accuracy", "correlations", "subgroups", "sensitivity", "discovery")
    }
    # What the config asks is always a number.
    numbers["sensitivity"] = replace(
        numbers["sensitivity"],
        power=0.8,
        detectable=full_result.sensitivity.detectable,  # type: ignore[union-attr]
    )
    # A cluster is always somewhere.
    assert full_result.discovery is not None
    shown = replace(full_result.discovery.cluster_map, kept=math.nan, correlation=math.nan)
    numbers["discovery"] = replace(numbers["discovery"], cluster_map=shown)
    document = written(replace(full_result, **numbers))
    accuracy = document["accuracy"]
    assert accuracy["overall"] is None
    assert accuracy["interval"] == [None, None]
    first = document["correlations"][0]
    assert first["p_value"] is first["discovery"]["influence"] is None
    assert first["confirmation"]["classes"]["cardiomegaly"]["gap"] is None
    assert first["confirmation"]["classes"]["cardiomegaly"]["gap_interval"] == [None, None]
    assert first["removal"]["measured"] == 0
    for name in ("explored", "typical", "replaced", "both", "wrong_calls"):
        assert first["removal"][name]["contrast"] is None
        assert first["removal"][name]["interval"] == [None, None]
        assert first["removal"][name]["change_interval"] == [None, None]
    assert first["strata"]["attributes"]["sex"]["raised_adjusted"] is None
    assert all(region["removal_effect"] is None for region in first["regions"])
    kept = document["discovery"]["cluster_map"]
    assert kept["kept"] is kept["correlation"] is None


def test_minus_infinity_is_null(full_result: AuditResult) -> None:
    rare = written(full_result)["correlations"][5]
    assert full_result.correlations[5].cluster.influence == float("-inf")
    assert rare["discovery"]["influence"] is None
