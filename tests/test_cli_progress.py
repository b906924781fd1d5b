"""What a run tells of itself while it goes on."""

import io
import sys

import pytest
from typer.testing import CliRunner

from ravl_med.cli import app
from ravl_med.cli.console import QUIET, Pace, StageLog, show_progress


def noted(*pairs, window=300.0):
    pace = Pace(window)
    for now, done in pairs:
        pace.note(now, done)
    return pace


def test_a_pace_is_what_is_done_in_a_second():
    pace = noted((10.0, 100), (20.0, 140))

    assert pace.a_second == pytest.approx(4.0)
    assert pace.left(200) == pytest.approx(15.0)
    assert pace.text(200) == "4.0 per second, 15 s left"


def test_nobody_can_tell_a_pace_from_one_look():
    pace = noted((10.0, 100))

    assert pace.left(200) is None
    assert pace.text(200) == ""
    assert noted((10.0, 100), (20.0, 100)).text(200) == ""


def test_what_the_cache_held_is_forgotten_after_the_window():
    """A thousand films in a second, then one a second: the rest takes its own time."""
    looks = [(0.0, 0), (1.0, 1000)] + [(1.0 + s, 1000 + s) for s in range(1, 400)]

    pace = noted(*looks)

    assert pace.a_second == pytest.approx(1.0)
    assert pace.left(1399 + 60) == pytest.approx(60.0)


def test_many_looks_keep_little():
    pace = noted(*[(s / 1000.0, s) for s in range(100_000)])

    assert len(pace._seen) < 150
    assert pace.a_second == pytest.approx(1000.0)


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (20, "20 s"), (60, "1 min"), (3 * 60 + 20, "3 min"), (2 * 3600 + 37 * 60, "2 h 37 min"),
        (100 * 3600, "4 d 4 h"),
    ],
)  # fmt: skip
def test_time_left_is_told_in_two_units_at_most(left, words):
    assert noted((0.0, 0), (1.0, 1)).text(1 + left) == f"1.0 per second, {words} left"


def test_what_is_slow_is_told_by_the_minute():
    assert noted((0.0, 0), (40.0, 2)).text(3) == "3.0 per minute, 20 s left"
    assert noted((0.0, 0), (1.0, 2)).text(2) == "2.0 per second"


def test_a_log_has_a_line_for_a_stage_and_a_minute_and_none_of_a_short_run():
    lines, now = [], [0.0]
    log = StageLog(lines.append, lambda: now[0])
    for second in range(131):
        now[0] = float(second)
        log.show("embed films and regions", 10 * second, 12_000)
    log.show("cluster regions", 0, 9)
    for feature in range(1, 4):
        log.show(f"remove and transplant, feature {feature} of 3", 0, 9)

    assert lines == [
        "embed films and regions: 50 of 12,000, 10.0 per second, 20 min left",
        "embed films and regions: 650 of 12,000, 10.0 per second, 19 min left",
        "embed films and regions: 1,250 of 12,000, 10.0 per second, 18 min left",
        "cluster regions: 0 of 9",
        "remove and transplant, feature 1 of 3: 0 of 9",
    ]


def test_off_a_terminal_nothing_is_drawn(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    with show_progress() as show:
        show("stage", 1, 2)

    assert written.getvalue() == ""


def test_quiet_shows_nothing_and_only_what_takes_long_can_be(monkeypatch):
    class Screen(io.StringIO):
        def isatty(self):
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    quiet = QUIET.set(True)
    with show_progress() as show:
        show("stage", 1, 2)
    QUIET.reset(quiet)

    assert screen.getvalue() == ""
    helps = {verb: CliRunner().invoke(app, [verb, "--help"]).output for verb in ("audit", "config")}
    assert {verb: "--quiet" in text for verb, text in helps.items()} == {
        "audit": True,
        "config": False,
    }


def test_a_terminal_has_a_bar_with_pace_and_time_left(monkeypatch):
    class Screen(io.StringIO):
        def isatty(self):
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    moments = iter([0.0, 10.0])
    monkeypatch.setattr("ravl_med.cli.console.time.monotonic", lambda: next(moments, 20.0))
    with show_progress() as show:
        show("embed [films]", 0, 400)
        show("embed [films]", 100, 400)

    assert "embed [films]" in screen.getvalue()
    assert "100/400" in screen.getvalue()
    assert "10.0 per second, 30 s left" in screen.getvalue()
