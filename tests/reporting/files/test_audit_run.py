"""A finished audit on disk: the whole folder, then its line in the history; never one for half."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.manifest import Cohort
from ravl_med.cohort.table import ManifestFiles
from ravl_med.config.loading import Config
from ravl_med.encoders.zero_shot import Scores
from ravl_med.errors import ConfigError
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit.history import AuditHistory, ReportDetails, earlier_audits
from ravl_med.reporting.files import saved_run
from ravl_med.reporting.files.audit_run import Audit, write_run

COHORT_DIGEST = "cd34" * 16


def config_of(**gate: float) -> Config:
    classes = {name: {"prompts": [name]} for name in ("cardiomegaly", "no finding")}
    return Config.model_validate(
        {
            "name": "run",
            "cohort": {"manifest": "/patients/doe.csv"},
            "task": {"classes": classes},
            "model": {"path": "/models/clip"},
            "evidence": {"relevance": "/tables/chest.yaml"},
            "gate": gate,
        }
    )


def audit_of(result: AuditResult, **gate: float) -> Audit:
    """An audit of films that are never opened."""
    films, classes = len(result.image_ids), result.task.classes
    labels = np.arange(films, dtype=np.int64) % len(classes)
    scores = np.full((films, len(classes)), 1 / len(classes), dtype=np.float32)
    cohort = Cohort(
        name="doe.csv",
        rows=np.arange(films) + 2,
        paths=ManifestFiles((f"{i}.png" for i in range(films)), Path("/patients")),
        patients=np.arange(films),
        radiology_reports=("",) * films,
        labels=labels,
        classes=classes,
        attributes={},
        listed=films,
        left_out={},
    )
    return Audit(
        config=config_of(**gate),
        result=result,
        cohort=cohort,
        scores=Scores(image=scores, region=scores, predictions=labels),
        reader=FilmReader(),
        manifest=Path("/patients/doe.csv"),
        cohort_digest=COHORT_DIGEST,
        segmenter_digest="ef56" * 16,
        timings={"cohort": 1.5},
        model_cached=False,
        features=(),
        throughput={"embeddings": {"films_per_s": 12.5}},
    )


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[AuditHistory | None]:
    """What each report is told of the history; pages and pictures have tests of their own."""
    told: list[AuditHistory | None] = []

    def note(
        result: AuditResult, film: Any, details: ReportDetails, folder: Path, *progress: Any
    ) -> None:
        told.append(details.history)
        (folder / "report.pdf").write_bytes(b"%PDF")
        (folder / "report.html").write_text("<!DOCTYPE html>")

    monkeypatch.setattr(saved_run, "write_report", note)
    monkeypatch.setattr(saved_run, "draw_review_page", lambda *asked: "<!DOCTYPE html>")
    monkeypatch.setattr(saved_run, "keep_films", lambda *asked: None)
    monkeypatch.setattr(saved_run, "write_figures", lambda result, film, folder: folder.mkdir())
    return told


def run_json(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


ResultOf = Callable[..., AuditResult]


def test_the_third_audit_says_what_came_before(
    result_of: ResultOf, told: list[AuditHistory | None], tmp_path: Path
) -> None:
    root = tmp_path / "config"
    found, nothing = result_of(), result_of(correlations=0)
    runs = (audit_of(found), audit_of(found, max_gap=0.3), audit_of(nothing, max_gap=0.5))
    for number, run in enumerate(runs):
        write_run(run, tmp_path / f"run{number}", date=None, history_root=root)
    first, second, third = (run_json(tmp_path / f"run{number}") for number in range(3))
    assert [record["audit_number"] for record in (first, second, third)] == [1, 2, 3]
    assert first["changed_keys"] == first["ever_changed_keys"] == []
    assert first["earlier_verdicts"] == {}
    assert second["changed_keys"] == [{"key": "gate.max_gap", "before": 0.1, "now": 0.3}]
    assert third["changed_keys"] == [{"key": "gate.max_gap", "before": 0.3, "now": 0.5}]
    assert third["ever_changed_keys"] == ["gate.max_gap"]
    assert third["earlier_verdicts"] == {"fail": 2}
    assert [history.number for history in told if history] == [1, 2, 3]
    assert told[2] == AuditHistory(3, (("gate.max_gap", 0.3, 0.5),), ("gate.max_gap",), {"fail": 2})
    past = earlier_audits(root, found.model.digest, COHORT_DIGEST)
    assert [audit.verdict for audit in past] == ["fail", "fail", "pass"]


def test_the_result_does_not_know_the_history(
    result_of: ResultOf, told: list[AuditHistory | None], tmp_path: Path
) -> None:
    for number, date in enumerate((None, "2025-03-01")):
        write_run(
            audit_of(result_of()), tmp_path / f"{number}", date=date, history_root=tmp_path / "c"
        )
    write_run(audit_of(result_of()), tmp_path / "2", date=None, history_root=None)
    results = {(tmp_path / f"{number}" / "result.json").read_bytes() for number in range(3)}
    assert len(results) == 1
    assert len(told) == 3


def test_without_a_history_nothing_is_said_or_written(
    result_of: ResultOf,
    told: list[AuditHistory | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    write_run(audit_of(result_of()), tmp_path / "run", date=None, history_root=None)
    record = run_json(tmp_path / "run")
    for key in ("audit_number", "changed_keys", "ever_changed_keys", "earlier_verdicts"):
        assert record[key] is None
    assert told == [None]
    assert not (tmp_path / "config").exists()


def test_a_run_that_is_not_written_is_not_counted(
    result_of: ResultOf,
    told: list[AuditHistory | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt("stop")

    monkeypatch.setattr(saved_run, "write_figures", stop)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        write_run(audit_of(result_of()), tmp_path / "run", date=None, history_root=tmp_path / "c")
    assert list(tmp_path.iterdir()) == []
    assert told == []


def test_a_history_that_cannot_be_read_stops_before_the_folder(
    result_of: ResultOf, told: list[AuditHistory | None], tmp_path: Path
) -> None:
    root = tmp_path / "config"
    root.mkdir()
    (root / "audits").write_text("")
    with pytest.raises(ConfigError, match=r"history of audits .* cannot be read"):
        write_run(audit_of(result_of()), tmp_path / "run", date=None, history_root=root)
    assert not (tmp_path / "run").exists()
    assert told == []


def test_the_folder_of_a_run(
    result_of: ResultOf, told: list[AuditHistory | None], tmp_path: Path
) -> None:
    write_run(audit_of(result_of()), tmp_path / "run", date=None, history_root=tmp_path / "c")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.yaml", "figures", "intake.csv", "predictions.parquet", "private",
        "report.html", "report.pdf", "result.json", "review.csv", "review.html", "run.json",
    }  # fmt: skip
    record = run_json(tmp_path / "run")
    assert list(record["timings_s"]) == ["cohort", "report"]
    assert record["throughput"] == {"embeddings": {"films_per_s": 12.5}}
    assert record["peak_memory_mb"] > 10
    (history,) = (tmp_path / "c" / "audits").iterdir()
    for path in (tmp_path / "run" / "run.json", tmp_path / "run" / "result.json", history):
        assert "/patients" not in path.read_text(encoding="utf-8")
    assert len(told) == 1


def test_the_report_is_a_dicom_document_too_where_it_is_asked_for(
    result_of: ResultOf, told: list[AuditHistory | None], tmp_path: Path
) -> None:
    burned_in = {}
    found, nothing = result_of(), result_of(correlations=0)
    phantoms = replace(found, cohort=replace(found.cohort, synthetic=True))
    films = replace(found, cohort=replace(found.cohort, synthetic=False))
    for name, result in {"films": films, "phantoms": phantoms, "no film": nothing}.items():
        run, folder = audit_of(result), tmp_path / name
        report = run.config.report.model_copy(update={"dicom": True})
        run = replace(run, config=run.config.model_copy(update={"report": report}))
        write_run(run, folder, date="2025-03-01", history_root=None)
        document = pydicom.dcmread(folder / "report.dcm")
        assert document.EncapsulatedDocument == (folder / "report.pdf").read_bytes()
        assert document.PatientID == f"RAVL-MED-{result.model.digest[:16]}"
        assert document.StudyDate == "20250301"
        assert b"/patients" not in (folder / "report.dcm").read_bytes()
        burned_in[name] = document.BurnedInAnnotation
    assert burned_in == {"films": "YES", "phantoms": "NO", "no film": "NO"}
    assert len(told) == 3
