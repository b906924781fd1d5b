"""mitigation.json: numbers as they are, null where there is none, valid under its own schema."""

import json
from dataclasses import fields, is_dataclass, replace
from typing import Any

import jsonschema
import mitigation_results as made
import pytest

from ravl_med.evidence.mitigation_result import MITIGATION_SCHEMA_VERSION, Change, MitigationResult
from ravl_med.evidence.results import Interval
from ravl_med.storage.documents import document_of, schema_of

RESULTS = pytest.mark.parametrize("result", [made.improved(), made.failed(), made.idle()])


def written(result: MitigationResult) -> Any:
    """The document as a reader of the file gets it, checked against the schema."""
    document = document_of(result).model_dump(mode="json")
    read = json.loads(json.dumps(document, allow_nan=False))
    jsonschema.Draft202012Validator(schema_of(MitigationResult)).validate(read)
    return read


def blanked(value: Any) -> Any:
    """The same with every float turned into NaN."""
    if isinstance(value, Interval):
        return made.NOTHING
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: blanked(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, tuple):
        return tuple(blanked(entry) for entry in value)
    if isinstance(value, dict):
        return {key: blanked(entry) for key, entry in value.items()}
    return made.NAN if isinstance(value, float) else value


def finite(value: float) -> float | None:
    return None if value != value else value


def described(change: Change) -> dict[str, Any]:
    """What the file has to say of a change."""
    return {
        "before": finite(change.before),
        "after": finite(change.after),
        "interval": [finite(change.interval.low), finite(change.interval.high)],
        "difference": finite(change.difference),
        "difference_interval": [
            finite(change.difference_interval.low),
            finite(change.difference_interval.high),
        ],
        "films": change.films,
    }


def test_the_schema_is_a_schema_and_closed() -> None:
    schema = schema_of(MitigationResult)
    jsonschema.Draft202012Validator.check_schema(schema)
    parts = [schema, *schema["$defs"].values()]
    assert all(part["additionalProperties"] is False for part in parts if "properties" in part)


def test_the_schema_explains_every_name_and_every_name_is_always_there() -> None:
    schema = schema_of(MitigationResult)
    for part in (schema, *schema["$defs"].values()):
        assert part["description"]
        assert set(part["required"]) == set(part["properties"])
        for name, entry in part["properties"].items():
            told = schema["$defs"][entry["$ref"].split("/")[-1]] if "$ref" in entry else entry
            assert len(told.get("description", entry.get("description", ""))) >= 4, name


def test_the_schema_refuses_what_it_does_not_know() -> None:
    document = written(made.improved())
    validator = jsonschema.Draft202012Validator(schema_of(MitigationResult))
    with pytest.raises(jsonschema.ValidationError, match="'extra' was unexpected"):
        validator.validate(document | {"extra": 1})
    with pytest.raises(jsonschema.ValidationError, match="'maybe' is not one of"):
        validator.validate(document | {"verdict": "maybe"})


@RESULTS
def test_head(result: MitigationResult) -> None:
    document = written(result)
    assert document["schema_version"] == MITIGATION_SCHEMA_VERSION == "1.0"
    assert document["name"] == "sample-mitigation"
    assert document["verdict"] == result.verdict.name
    assert document["verdict_reasons"] == list(result.verdict.reasons)
    assert list(document["gates"]) == [gate.name for gate in result.verdict.gates]
    assert document["audited_digest"] == "ab12" * 16
    assert document["audit_reused"] is result.audit_reused
    assert document["notes"] == list(result.notes)
    assert document["companion_regions"] == result.companion_regions
    assert document["selection_groups"] == dict(result.selection_groups)
    assert [split["films"] for split in document["splits"]] == [s.films for s in result.splits]


@RESULTS
def test_every_arm_holds_the_values_of_the_result(result: MitigationResult) -> None:
    document = written(result)
    assert [arm["name"] for arm in document["arms"]] == [arm.name for arm in result.arms]
    for told, arm in zip(document["arms"], result.arms, strict=True):
        for name in ("image_overall", "image_worst", "region_overall", "region_worst", "auroc"):
            assert told[name] == described(getattr(arm, name))
        assert told["calibration"] == described(arm.calibration)
        assert told["classes"] == {name: described(c) for name, c in arm.classes.items()}
        assert told["groups"] == {name: described(c) for name, c in arm.groups.items()}
        assert {
            (entry["attribute"], entry["value"]): entry["accuracy"] for entry in told["subgroups"]
        } == {key: described(change) for key, change in arm.subgroups.items()}
        assert [entry["gap"] for entry in told["gaps"]] == [described(g.gap) for g in arm.gaps]
        assert [(entry["name"], entry["surely"]) for entry in told["worsened"]] == [
            (name, change.fell_surely()) for name, change in arm.worsened()
        ]


def test_heads_have_no_regions_and_a_diverged_arm_keeps_its_losses() -> None:
    arms = {arm["name"]: arm for arm in written(made.improved())["arms"]}
    nothing = {"after": None, "interval": [None, None], "difference": None, "films": 0}
    assert nothing.items() <= arms["dfr"]["region_worst"].items()
    assert arms["dfr"]["curve"] is None
    curve = arms["vl_gdro"]["curve"]
    assert curve["stopped"] == "diverged"
    assert curve["losses"][-2:] == [7.25, None]
    assert (curve["best"], curve["steps"]) == (0, 132)


def test_what_was_mitigated_and_the_re_audit() -> None:
    document = written(made.improved())
    assert document["delivered"] == "counterfactual"
    assert document["mitigated"][1] == {
        "rank": 4,
        "kind": "plausible_sign",
        "forced": True,
        "raised_class": "pneumonia",
        "lowered_class": None,
        "finetune_films": 96,
        "finetune_regions": 131,
        "located_films": 40,
        "confirmed": True,
    }
    assert document["reaudit"]["verdict"] == "review"
    assert document["reaudit"]["remaining"] == []


def test_nothing_to_do_is_a_document_too() -> None:
    document = written(made.idle())
    assert document["arms"] == document["mitigated"] == []
    assert document["delivered"] is document["reaudit"] is document["new_digest"] is None


def test_every_number_may_be_missing() -> None:
    arms = written(blanked(made.improved()))["arms"]
    assert arms[0]["image_worst"]["before"] is None
    assert set(arms[-1]["curve"]["losses"]) == {None}
