"""Run folders as an audit writes them, and the hand that fills in their review."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ravl_med.config.audit import GateConfig
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.files.run_folder import draft_folder, write_json
from ravl_med.reporting.files.saved_run import SavedRun
from ravl_med.reporting.files.tables import write_review

GATE = GateConfig()


def film(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 255, (240, 240)).astype(np.uint8)


def saved(result: AuditResult) -> SavedRun:
    details = ReportDetails(
        date="2026-11-20",
        config_yaml="name: run\n",
        versions={"ravl-med": "0"},
        digests={"model": "ab" * 32, "cohort": "cd" * 32},
        seeds={"evidence": 0},
        thresholds={"gate.max_gap": "10 points"},
    )
    return SavedRun(result, details, GATE.model_dump_json(), 20, None, 0)


def run_folder(folder: Path, result: AuditResult) -> Path:
    """Write a run folder as an audit does."""
    with draft_folder(folder) as draft:
        (draft / "private").mkdir()
        saved(result).save(draft, film)
        write_review(draft / "review.csv", result, GATE, [])
        write_json(draft / "run.json", {"tool": {"name": "ravl-med"}})
    return folder


def fill(folder: Path, **decision: str) -> None:
    """Decide on every row alike."""
    path = folder / "review.csv"
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | decision for row in rows)


WORD = {"reason": "Seen with Dr. B.", "name": "Dr. A", "date": "2026-11-24"}
