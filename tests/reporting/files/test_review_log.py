"""A review as readers make it: the page's server, the log, and what becomes of review.csv."""

from __future__ import annotations

import csv
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from run_folders import GATE, WORD, fill, run_folder
from typer.testing import CliRunner

from ravl_med import __version__
from ravl_med.cli import app
from ravl_med.cli.review_server import ReviewServer
from ravl_med.errors import ConfigError, DataError
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.verdict import decide_verdict
from ravl_med.reporting.files.review_log import LOG, ReviewSession, hold_for_review, read_log
from ravl_med.reporting.files.run_folder import find_strangers


@pytest.fixture(scope="module")
def audited(result_of, tmp_path_factory: pytest.TempPathFactory) -> Path:
    result: AuditResult = result_of()
    assert result.sensitivity is not None
    verdict = decide_verdict(result.correlations, result.task.classes, GATE, result.sensitivity)
    judged = replace(result, verdict=verdict)
    return run_folder(tmp_path_factory.mktemp("audited") / "run", judged)


@pytest.fixture
def folder(audited: Path, tmp_path: Path) -> Path:
    return shutil.copytree(audited, tmp_path / "run")


@pytest.fixture
def session(folder: Path) -> ReviewSession:
    return ReviewSession(folder)


def said(session: ReviewSession, at: int, decision: str, **more: str) -> dict[str, str]:
    row = session.rows[at]
    return {"correlation": row["correlation"], "decision": decision, "reason": "Seen.", **more}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "review.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_each_decision_is_on_the_disk_and_turns_the_report(session, folder: Path) -> None:
    count = len(session.rows)
    assert count == 2
    session.save(said(session, 0, "disease"), "first", "AB")
    session.save(said(session, 1, "same as No. 1", reason=""), "first", "AB")
    assert [row["decision"] for row in rows_of(folder)] == ["disease", "same as No. 1"]
    log = read_log(folder / LOG)
    assert [(one.name, one.role, one.decision) for one in log] == [
        ("AB", "first", "disease"), ("AB", "first", "same as No. 1"),
    ]  # fmt: skip
    assert log[0].time.endswith("+00:00")
    assert log[0].tool == f"ravl-med {__version__}"
    result = session.draw()
    assert result.undecided == 0
    assert {ruling.decision for ruling in result.rulings} == {"disease"}
    assert len(read_log(folder / LOG)) == count
    assert "<!DOCTYPE html>" in (folder / "review.html").read_text()
    session.save(said(session, 0, ""), "first", "AB")
    assert [row["decision"] for row in rows_of(folder)] == ["", "same as No. 1"]
    assert session.draw().undecided == 2


def test_two_readers_do_not_see_each_other_before_both_are_done(session, folder: Path) -> None:
    for at in (0, 1):
        session.save(said(session, at, "shortcut"), "first", "AB")
    assert session.state("second")["readings"] == {}
    session.save(said(session, 0, "shortcut"), "second", "CD")
    for role in ("first", "second"):
        assert not session.state(role)["agreement"]
        assert {one["name"] for one in session.state(role)["readings"].values()} == {
            "AB" if role == "first" else "CD"
        }
    assert session.state("together")["readings"] == {}
    with pytest.raises(DataError, match="ab is the other reader"):
        session.save(said(session, 1, "disease"), "second", "ab")
    session.save(said(session, 1, "disease", reason="Heart."), "second", "CD")
    state = session.state("first")
    assert state["agreement"] == "Two readers agree on 1 of 2 correlations (Cohen's kappa 0.00)."
    assert state["differing"] == [session.rows[1]["rank"]]
    first, second = rows_of(folder)
    assert (first["decision"], first["name"]) == ("shortcut", "AB, CD")
    assert (second["decision"], second["reason"]) == (
        "", "Readers differ: AB: shortcut; CD: disease",
    )  # fmt: skip
    session.save(said(session, 1, "disease", reason="Both."), "together", "AB CD")
    assert rows_of(folder)[1]["decision"] == "disease"
    session.draw()
    assert state["agreement"] in unescape((folder / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"decision": "maybe"}, "decision is 'maybe'; expected disease"),
        ({"decision": "disease", "reason": " "}, "reason is blank"),
        ({"decision": "accepted"}, "until is blank"),
        ({"decision": "accepted", "until": "soon"}, "until is 'soon'"),
        ({"decision": "same as No. 99"}, "no row has this number"),
        ({"decision": "same as No. 1"}, "the same as each other"),
        ({"decision": "disease", "correlation": "0" * 12}, "not one of this run"),
        ({"decision": "disease", "name": " "}, "initials are blank"),
    ],
)
def test_what_is_no_decision_changes_nothing(
    session, folder: Path, changed: dict[str, str], message: str
) -> None:
    before = (folder / "review.csv").read_bytes()
    with pytest.raises(DataError, match=message):
        session.save(said(session, 0, "") | changed, "first", changed.get("name", "AB"))
    assert (folder / "review.csv").read_bytes() == before
    assert not (folder / LOG).exists()


def test_a_log_survives_a_kill_and_a_hand(session, folder: Path) -> None:
    session.save(said(session, 0, "shortcut", reason="=cmd|' /C calc'!A0"), "first", "Ä. B.")
    with (folder / LOG).open("ab") as stream:
        stream.write(b'{"time": "2026')  # killed while it wrote
    again = ReviewSession(folder)
    assert len(again.readings) == 1
    again.save(said(again, 1, "cannot tell"), "first", "Ä. B.")
    assert len(read_log(folder / LOG)) == 2
    (folder / LOG).unlink()
    again.save(said(again, 1, "shortcut"), "first", "Ä. B.")
    assert [one.decision for one in read_log(folder / LOG)] == [
        "shortcut", "cannot tell", "shortcut",
    ]  # fmt: skip
    assert rows_of(folder)[0]["reason"].startswith(" =cmd")
    (folder / LOG).write_text('{"time": 1}\n')
    with pytest.raises(DataError, match=r"review\.jsonl line 1 is none that a review wrote"):
        ReviewSession(folder)


def test_what_was_decided_by_hand_is_taken_over_and_kept(session, folder: Path) -> None:
    session.save(said(session, 0, "shortcut"), "first", "AB")
    fill(folder, decision="disease", **(WORD | {"date": "24.11.2026"}))
    written = (folder / "review.csv").read_bytes()
    again = ReviewSession(folder)
    assert [one.role for one in again.readings] == ["first", "together", "together"]
    assert {row["decision"] for row in rows_of(folder)} == {"disease"}
    assert {row["date"] for row in rows_of(folder)} == {"2026-11-24"}
    assert (folder / "review.by-hand.csv").read_bytes() == written
    assert len(ReviewSession(folder).readings) == 3
    fill(folder, correlation="c-0123456789ab", rank="")
    with pytest.raises(DataError, match="row 3: this correlation was decided in a row above"):
        ReviewSession(folder)


def test_an_edited_and_a_changed_run_are_refused(session, folder: Path, tmp_path: Path) -> None:
    result = folder / "result.json"
    result.write_text(result.read_text().replace("fail", "pass"))
    with pytest.raises(ConfigError, match=r"RUN_DIR: result\.json changed since the run wrote it"):
        ReviewSession(folder)
    archive = folder / "private" / "archive.json"
    archive.write_text(archive.read_text() + " ")
    with pytest.raises(DataError, match="another than the one this review began with"):
        session.save(said(session, 0, "disease"), "first", "AB")
    assert not (folder / LOG).exists()


@pytest.fixture
def server(session: ReviewSession) -> Iterator[ReviewServer]:
    server = ReviewServer(session)
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server
    server.close()
    thread.join()


def ask(server: ReviewServer, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(
        "GET" if body is None else "POST", path, json.dumps(body) if body else None, headers
    )
    answer = connection.getresponse()
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.status, answer.read()


def test_only_who_knows_the_address_on_this_machine_is_answered(server: ReviewServer) -> None:
    own = f"/{server.token}/"
    assert server._server.server_address[0] == "127.0.0.1"
    assert ask(server, own)[0] == 200
    assert ask(server, own + "report.pdf")[1].startswith(b"%PDF")
    for path in ("/", "/x/", f"/{server.token[:-1]}/", own + "../run.json", own + "private/key.csv",
                 own + "%2e%2e/result.json"):  # fmt: skip
        assert ask(server, path) == (404, b"")
    assert ask(server, own, Host="evil.example") == (404, b"")
    assert ask(server, own + "save", {"run": "x"}, Origin="https://evil.example")[0] == 404


def test_decisions_by_http(server: ReviewServer, session: ReviewSession, folder: Path) -> None:
    own = f"/{server.token}/"
    decision = {"run": session.run, "role": "first", "name": "AB", **said(session, 0, "shortcut")}
    status, content = ask(server, own + "save", decision)
    assert (status, json.loads(content)["unwritten"]) == (200, 1)
    status, content = ask(server, own + "state?role=first")
    (reading,) = json.loads(content)["readings"].values()
    assert (reading["decision"], reading["name"]) == ("shortcut", "AB")
    for wrong, words in (
        ({"run": "other"}, "another run"),
        ({"role": "third"}, "role is 'third'"),
        ({"name": ""}, "initials"),
        ({"decision": "x"}, "decision is"),
    ):
        status, content = ask(server, own + "save", decision | wrong)
        assert status == 409
        assert words in json.loads(content)["error"]
    status, content = ask(server, own + "report", {"run": session.run})
    assert json.loads(content)["text"] == (
        "The report is drawn. Verdict: FAIL. 1 still to decide: DRAFT."
    )
    assert find_strangers(folder).foreign == (LOG,)
    assert ask(server, own + "state?role=first")[0] == 200


def test_on_the_command_line(folder: Path, server: ReviewServer) -> None:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    outcome = CliRunner().invoke(app, ["review", str(folder), "--port", str(port), "--no-browser"])
    taken.close()
    assert outcome.exit_code == 2
    assert f"error: --port: {port} is taken" in outcome.output
    with hold_for_review(folder):
        outcome = CliRunner().invoke(app, ["review", str(folder), "--no-browser"])
    assert outcome.exit_code == 2
    assert "another review of this run is open" in outcome.output
    outcome = CliRunner().invoke(app, ["review", str(folder.parent)])
    assert (outcome.exit_code, "expected the run folder" in outcome.output) == (2, True)
