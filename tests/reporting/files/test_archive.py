"""A result survives its archive; what is damaged is said."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from ravl_med.errors import DataError
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit.history import AuditHistory
from ravl_med.reporting.files.saved_run import read_archive, write_archive


def assert_same(one, other, where="") -> None:
    """Equal, type by type, NaN included."""
    assert type(one) is type(other) or isinstance(one, dict), where
    if dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_same(
                getattr(one, field.name), getattr(other, field.name), f"{where}.{field.name}"
            )
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype, where
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, tuple):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{number}]")
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}[{key!r}]")
    elif isinstance(one, float) and math.isnan(one):
        assert math.isnan(other), where
    else:
        assert one == other, where


@pytest.mark.parametrize("changes", [{}, {"correlations": 0}, {"correlations": 7}])
def test_a_result_comes_back_whole(changes, result_of, tmp_path: Path) -> None:
    result = result_of(**changes)
    write_archive(result, tmp_path)
    again = read_archive(AuditResult, tmp_path)

    assert_same(plain(result), plain(again))
    assert not again.region_boxes.flags.writeable


def plain(value):
    """Numbers of NumPy as numbers of Python: a report cannot tell them apart."""
    if dataclasses.is_dataclass(value):
        return dataclasses.replace(
            value, **{f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        )
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return tuple(plain(entry) for entry in value)
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    return value


def test_the_same_result_is_the_same_text(result_of, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_archive(result_of(), tmp_path / name)
    texts = [(tmp_path / name / "archive.json").read_text() for name in ("a", "b")]

    assert texts[0] == texts[1]
    assert "NaN" not in texts[0]


@dataclasses.dataclass(frozen=True)
class Small:
    number: float
    count: int
    names: tuple[str, ...]
    pairs: dict[int, float]
    maybe: str | None = None


def test_a_small_one_by_hand(tmp_path: Path) -> None:
    write_archive(Small(math.inf, 3, ("a",), {2: math.nan}), tmp_path)
    data = json.loads((tmp_path / "archive.json").read_text())

    assert data == {
        "number": "inf", "count": 3, "names": ["a"], "pairs": [[2, "nan"]], "maybe": None,
    }  # fmt: skip
    again = read_archive(Small, tmp_path)
    assert (again.number, again.count, again.names, again.maybe) == (math.inf, 3, ("a",), None)
    assert math.isnan(again.pairs[2])


def test_settings_that_changed_since_the_last_audit_come_back(tmp_path: Path) -> None:
    changed = (("labels.source", "manifest", "reports"), ("evidence.min_n", 10, None))
    history = AuditHistory(2, changed, ("labels.source",), {"fail": 1})
    write_archive(history, tmp_path)

    again = read_archive(AuditHistory, tmp_path)
    assert (again.changed, again.verdicts) == (changed, {"fail": 1})


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"number": 1.0}',
        '{"number": "many", "count": 1, "names": [], "pairs": [], "maybe": null}',
        '{"number": 1.0, "count": 1.5, "names": [], "pairs": [], "maybe": null}',
        '{"number": 1.0, "count": 1, "names": [1], "pairs": [], "maybe": null}',
        '{"number": 1.0, "count": 1, "names": 3, "pairs": [], "maybe": null}',
        '{"number": 1.0, "count": 1, "names": ["\\ud800"], "pairs": [], "maybe": null}',
        '{"number": 1.0, "count": 1, "names": ["\\u0000"], "pairs": [], "maybe": null}',
        "[" * 100_000,
    ],
)
def test_what_is_damaged_is_said(text: str, tmp_path: Path) -> None:
    write_archive(Small(1.0, 1, (), {}), tmp_path)
    (tmp_path / "archive.json").write_text(text)
    with pytest.raises(DataError, match="the archive in private/ cannot be read"):
        read_archive(Small, tmp_path)


def test_an_archive_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no archive in private/"):
        read_archive(Small, tmp_path)


def test_arrays_that_would_be_unpickled_are_refused(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Holder:
        values: np.ndarray

    write_archive(Holder(np.arange(3)), tmp_path)
    np.savez(tmp_path / "archive.npz", a0=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="cannot be read"):
        read_archive(Holder, tmp_path)


def test_what_is_no_value_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Path cannot be archived"):
        write_archive(Small(1.0, 1, (tmp_path,), {}), tmp_path)  # type: ignore[arg-type]


def archive_of_3_1(result: AuditResult, folder: Path) -> None:
    """What a run wrote before the interventions were others."""
    write_archive(result, folder)
    path = folder / "archive.json"
    data = json.loads(path.read_text())
    del data["sensitivity"]["local"]
    for correlation in data["correlations"]:
        if correlation["counterfactual"] is not None:
            removal = correlation["counterfactual"]["removal"]
            removal["median"], removal["inpainted"] = (
                removal.pop(name) for name in ("typical", "replaced")
            )
    path.write_text(json.dumps(data))


def test_an_archive_of_an_older_schema_is_refused(result_of, tmp_path: Path) -> None:
    for correlations in (0, 3):
        archive_of_3_1(result_of(correlations=correlations), tmp_path)
        with pytest.raises(DataError, match=r"it is damaged or of another version\. Audit again"):
            read_archive(AuditResult, tmp_path)


@pytest.mark.parametrize("name", ["found_patients", "labels", "companion_of"])
def test_no_default_excuses_a_field_that_is_missing(result_of, name: str, tmp_path: Path) -> None:
    write_archive(result_of(correlations=1), tmp_path)
    path = tmp_path / "archive.json"
    data = json.loads(path.read_text())
    del data["correlations"][0][name]
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="of another version"):
        read_archive(AuditResult, tmp_path)
