"""A report drawn again from its run folder, and what reviewers decided in between."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pypdf import PdfReader
from run_folders import GATE, WORD, fill, film, run_folder
from typer.testing import CliRunner

from ravl_med.cli import app
from ravl_med.errors import ConfigError, DataError
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.verdict import decide_verdict
from ravl_med.reporting.comparison import compare
from ravl_med.reporting.comparison.runs import open_run
from ravl_med.reporting.files import saved_run
from ravl_med.reporting.files.review_log import ReviewSession
from ravl_med.reporting.files.run_folder import Strangers, find_strangers
from ravl_med.reporting.files.saved_run import redraw_run
from ravl_med.reporting.files.tables import earlier_rows, write_review

TODAY = date(2026, 11, 25)
SHARED = ("result.json", "report.pdf", "report.html")
ResultOf = Callable[..., AuditResult]


@pytest.fixture(scope="module")
def judged(result_of: ResultOf) -> AuditResult:
    """A result whose verdict follows from its correlations."""
    result = result_of()
    assert result.sensitivity is not None
    verdict = decide_verdict(result.correlations, result.task.classes, GATE, result.sensitivity)
    return replace(result, verdict=verdict)


@pytest.fixture(scope="module")
def audited(judged: AuditResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its run folder, as the audit left it."""
    return run_folder(tmp_path_factory.mktemp("audited") / "run", judged)


@pytest.fixture
def folder(audited: Path, tmp_path: Path) -> Path:
    """A copy of it, for whoever changes it."""
    return shutil.copytree(audited, tmp_path / "run")


def test_the_same_folder_gives_the_same_bytes_but_for_the_review(folder: Path) -> None:
    audited = {name: (folder / name).read_bytes() for name in SHARED}
    redraw_run(folder, TODAY)
    for path in (folder / "private", *(folder / "private").rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    once = {name: (folder / name).read_bytes() for name in SHARED}
    redraw_run(folder, TODAY)

    assert {name: (folder / name).read_bytes() for name in SHARED} == once
    before, after = json.loads(audited["result.json"]), json.loads(once["result.json"])
    assert (before.pop("undecided"), before.pop("rulings")) == (None, [])
    assert after.pop("undecided") > 0
    assert after.pop("rulings") == []
    assert (before.pop("to_decide"), after.pop("to_decide")) == (None, [1, 2])
    assert before == after
    assert [entry["labels"] is None for entry in before["correlations"]] == [False] * 2
    assert sorted(p.name for p in (folder / "figures").iterdir())


def test_decisions_turn_the_verdict_and_stand_on_page_one(
    judged: AuditResult, folder: Path
) -> None:
    assert judged.verdict.name == "fail"
    fill(folder, decision="disease", **WORD)
    result = redraw_run(folder, TODAY)

    assert result.verdict.name == "conditional"  # a shortcut of the audit is among them
    assert result.undecided == 0
    document = json.loads((folder / "result.json").read_text())
    assert document["verdict"] == result.verdict.name
    assert {ruling["word"] for ruling in document["rulings"]} == {"disease"}
    ids = {entry["correlation_id"] for entry in document["correlations"]}
    with (folder / "review.csv").open() as stream:
        assert {row["correlation"][2:] for row in csv.DictReader(stream)} <= ids
    page = PdfReader(folder / "report.pdf").pages[0].extract_text()
    for words in ("Decisions of reviewers", "Dr. A", "Seen with Dr. B.", "FINAL"):
        assert words in page
    assert "DRAFT" not in page
    html = (folder / "report.html").read_text()
    assert "Decisions of reviewers" in html
    assert "DRAFT" not in html


def test_an_acceptance_that_has_expired_is_told_and_does_not_hold(folder: Path) -> None:
    fill(folder, decision="accepted", until="2026-11-24", **WORD)
    result = redraw_run(folder, TODAY)

    assert result.verdict.name == "fail"
    page = PdfReader(folder / "report.pdf").pages[0].extract_text()
    assert "tolerated until 2026-11-24, expired" in " ".join(page.split())
    assert "DRAFT" in page


def test_what_is_tolerated_is_never_a_pass(folder: Path) -> None:
    """In the PDF, the browser, JSON, both cards, on the console, and by its exit code."""
    fill(folder, decision="accepted", until="9999-12-31", **WORD)
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert done.exit_code == 1, done.output
    assert "CONDITIONAL" in done.output
    accepted = CliRunner().invoke(app, ["report", str(folder), "--accept-conditional"])
    assert accepted.exit_code == 0, accepted.output
    document = json.loads((folder / "result.json").read_text())
    assert document["verdict"] == "conditional"
    assert not document["gates"]["gate.max_gap"]["passed"]
    pages = [
        " ".join(page.extract_text().split()) for page in PdfReader(folder / "report.pdf").pages
    ]
    page = " ".join((folder / "report.html").read_text().split())
    cards = [(folder / f"model_card.{kind}").read_text() for kind in ("xml", "md")]
    (signing,) = [text for text in pages if text.startswith("Sign-off")]
    for text in (pages[0], signing, page, *cards):
        assert "Use this model only under the conditions below." in text
        assert "No shortcut above" not in text
    for text in (pages[0], page, *cards):
        assert "tolerated until 9999-12-31" in text
    for text in (" ".join(pages), page):
        assert "is tolerated by Dr. A until 9999-12-31" in text
    for text in (pages[0], page):
        assert "Conditions and decisions of reviewers" in text
    assert "valid until 9999-12-31" in pages[0]


def test_a_result_that_was_edited_is_not_compared(folder: Path) -> None:
    path = folder / "result.json"
    path.write_text(path.read_text().replace('"verdict": "fail"', '"verdict": "pass"'))
    with pytest.raises(DataError, match=r"RUN_A: result\.json changed since the run wrote it"):
        open_run(folder, "RUN_A")


def test_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ["report", str(folder)])
    assert outcome.exit_code == 1, outcome.output
    assert "FAIL" in outcome.output
    assert "Draft: 2 features still need a decision (0 decided)." in outcome.output
    fill(folder, decision="maybe", **WORD)
    before = (folder / "report.pdf").read_bytes()
    outcome = CliRunner().invoke(app, ["report", str(folder)])
    assert outcome.exit_code == 3
    assert "review.csv row 2: decision is 'maybe'" in " ".join(outcome.output.split())
    assert (folder / "report.pdf").read_bytes() == before
    outcome = CliRunner().invoke(app, ["report", str(tmp_path / "none")])
    assert outcome.exit_code == 2


def test_a_folder_that_is_no_run_and_one_without_its_archive(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"RUN_DIR: .*expected the run folder of an audit"):
        redraw_run(tmp_path, TODAY)
    next((folder / "private" / "films").iterdir()).unlink()
    with pytest.raises(DataError, match="a film that the report shows is missing"):
        redraw_run(folder, TODAY)
    (folder / "private" / "archive.json").unlink()
    with pytest.raises(DataError, match="has no archive"):
        redraw_run(folder, TODAY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def unseal(folder: Path) -> None:
    """Take away the digests, as whoever forges a folder would."""
    (folder / "private" / "files.json").unlink()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["archive.npz", "archive.json", "films"])
@pytest.mark.parametrize("change", [cut_short, flip_a_bit])
def test_what_a_copy_has_damaged_is_named(
    folder: Path, change: Callable[[Path], None], name: str
) -> None:
    path = folder / "private" / name
    path = next(path.iterdir()) if path.is_dir() else path
    change(path)
    with pytest.raises(DataError, match=f"private/{name}.* changed since the run wrote it"):
        redraw_run(folder, TODAY)
    if change is cut_short:
        unseal(folder)
        with pytest.raises(DataError, match="cannot be read"):
            redraw_run(folder, TODAY)


def forge(folder: Path, place: str, value: object) -> None:
    """Set one value of the archive, at a place such as ``result.name``, which no digest guards."""
    unseal(folder)
    path = folder / "private" / "archive.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    *above, last = [int(key) if key.isdecimal() else key for key in place.split(".")]
    part = content
    for key in above:
        part = part[key]
    part[last] = value
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("result.task.name", "half \ud800"),
        ("result.discovery.cluster_map.clusters.0.x", "inf"),
        ("result.discovery.protocol", ""),
        ("gate", "{"),
        ("document", []),
    ],
)
def test_a_value_that_no_audit_gives_is_one_line(folder: Path, place: str, value: object) -> None:
    forge(folder, place, value)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match=r"it is damaged or of another version\. Audit again\.$"):
        redraw_run(folder, TODAY)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_an_error_over_an_archive_as_it_was_written_is_the_tools_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_run, "write_figures", lambda *given: {}["name"])
    with pytest.raises(KeyError):
        redraw_run(folder, TODAY)
    unseal(folder)
    with pytest.raises(DataError, match=r"RUN_DIR: .* holds what cannot be drawn \(KeyError\)"):
        redraw_run(folder, TODAY)


def test_what_cannot_be_drawn_ends_review_report_and_comparison_alike(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge(folder, "gate", '{"max_gap": 7}')
    with pytest.raises(DataError, match=r"RUN_DIR: .* damaged or of another version"):
        ReviewSession(folder)
    monkeypatch.setattr(compare, "compare_runs", lambda *given: {}["name"])
    out = ["--out", str(tmp_path / "both")]
    for words in (["report", str(folder)], ["compare", str(folder), str(folder), *out]):
        outcome = CliRunner().invoke(app, words)
        assert outcome.exit_code == 3, outcome.output
        assert "damaged or of another version" in " ".join(outcome.stderr.split())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["archive.json", "archive.npz", "films/pipe", "patients.npy"])
def test_links_and_pipes_of_a_run_folder_are_not_followed(folder: Path, name: str) -> None:
    path = folder / "private" / name
    path.unlink(missing_ok=True)
    unseal(folder)
    os.mkfifo(path)
    with pytest.raises(DataError):
        redraw_run(folder, TODAY)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(DataError):
        redraw_run(folder, TODAY)


def test_a_link_in_the_open_is_not_copied(folder: Path) -> None:
    for target in ("/etc", "/dev/zero", "nowhere"):
        (folder / "notes").symlink_to(target)
        with pytest.raises(DataError, match=r"RUN_DIR: notes is a link; expected files"):
            redraw_run(folder, TODAY)
        (folder / "notes").unlink()


def test_arrays_that_claim_more_than_they_hold_are_refused(folder: Path) -> None:
    path = folder / "private" / "archive.npz"
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a0.npy", head.getvalue())
    unseal(folder)
    with pytest.raises(DataError, match=r"archive in private/ cannot be read \(ValueError\)"):
        redraw_run(folder, TODAY)


@pytest.mark.long
def test_files_of_the_users_own_stay_theirs(folder: Path) -> None:
    (folder / "signed.pdf").write_text("signature")
    fill(folder, decision="disease", **WORD)
    redraw_run(folder, TODAY)
    assert (folder / "signed.pdf").read_text() == "signature"
    assert find_strangers(folder) == Strangers(("signed.pdf",), ("review.csv",))
    redraw_run(folder, TODAY)

    (folder / "report.pdf").write_text("signed in place")
    with pytest.raises(ConfigError, match=r"RUN_DIR: report.pdf changed since the run wrote it"):
        redraw_run(folder, TODAY)
    assert (folder / "report.pdf").read_text() == "signed in place"


def test_only_films_that_are_shown_are_kept(judged: AuditResult, folder: Path) -> None:
    films = list((folder / "private" / "films").iterdir())

    assert 0 < len(films) < len(judged.image_ids)
    with Image.open(films[0]) as image:
        np.testing.assert_array_equal(np.asarray(image), film(int(films[0].stem)))


def test_what_reviewers_wrote_survives_another_audit(
    judged: AuditResult, folder: Path, tmp_path: Path
) -> None:
    fill(folder, decision="disease", **WORD)
    rows = earlier_rows(folder)
    again = tmp_path / "again"
    again.mkdir()
    write_review(again / "review.csv", judged, GATE, rows)
    assert (again / "review.csv").read_bytes() == (folder / "review.csv").read_bytes().replace(
        b"\r\n", b"\n"
    )
    assert not (again / "review.earlier.csv").exists()
    other = replace(judged, model=replace(judged.model, digest="ef" * 32))
    write_review(again / "review.csv", other, GATE, rows)
    with (again / "review.csv").open() as stream:
        assert not any(row["decision"] for row in csv.DictReader(stream))
    with (again / "review.earlier.csv").open() as stream:
        assert all(row["decision"] == "disease" for row in csv.DictReader(stream))


def test_a_name_that_a_spreadsheet_would_run_is_made_plain(
    judged: AuditResult, tmp_path: Path
) -> None:
    names = tuple(f"=cmd|' /C calc'!A{n}" for n in range(len(judged.task.classes)))
    hostile = replace(judged, task=replace(judged.task, classes=names))
    write_review(tmp_path / "review.csv", hostile, GATE, [])
    with (tmp_path / "review.csv").open() as stream:
        rows = list(csv.DictReader(stream))

    assert rows
    assert all(row["raised_class"].startswith("'=") for row in rows)


def test_no_review_is_no_error(tmp_path: Path) -> None:
    assert earlier_rows(tmp_path) == []
    (tmp_path / "review.csv").write_bytes(b"\xff\xfe")
    assert earlier_rows(tmp_path) == []
