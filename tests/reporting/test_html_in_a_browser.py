"""The HTML in Chromium, as somebody without a mouse or without eyes uses it; and offline.

Playwright drives the browser of the system, axe-core looks for what keeps people out.
"""

from __future__ import annotations

import csv
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, WHY_NOT
from hostile_results import HOSTILE, hostile_result
from numpy.typing import NDArray
from run_folders import run_folder

from ravl_med.cli.review_server import ReviewServer
from ravl_med.evidence.audit_result import AuditResult, FilmAnswers
from ravl_med.evidence.review import read_decisions
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.audit.report import write_report
from ravl_med.reporting.files.review_log import ReviewSession

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason=WHY_NOT),
    pytest.mark.skipif(
        find_spec("playwright") is None or find_spec("axe_playwright_python") is None,
        reason="playwright or axe-playwright-python is not installed: `pip install -e '.[test]'`",
    ),
]

WIDE, PHONE = (1200, 900), (400, 800)
OPTIONS = ["--no-sandbox", "--disable-gpu"]
FOCUSED = "document.activeElement"
SEEN = (
    "(({{height, top}}) => height > 0 && top >= 0 && top < innerHeight)"
    "(document.getElementById({0!r}).getBoundingClientRect())"
)

Make = Callable[..., AuditResult]
Film = Callable[[int], NDArray[np.uint8]]


class Reading:
    """One page; every request but that for its own file is refused and kept."""

    def __init__(self, browser: Any, path: Path, size: tuple[int, int] = WIDE) -> None:
        self._context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        self.page = self._context.new_page()
        self.asked: list[str] = []
        self.told: list[str] = []
        self._own = path.as_uri()
        self._context.route("**/*", self._answer)
        self.page.on("console", lambda message: self.told.append(message.text))
        self.page.on("pageerror", lambda error: self.told.append(str(error)))
        self.page.goto(self._own)

    def _answer(self, route: Any) -> None:
        if route.request.url.partition("#")[0] == self._own:
            route.continue_()
            return
        self.asked.append(route.request.url)
        route.abort()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def tab_to(self, selector: str, most: int = 400) -> None:
        """Go on by the Tab key alone until something that fits has the focus."""
        for _ in range(most):
            self.press("Tab")
            if self.page.evaluate(f"{FOCUSED}.matches({selector!r})"):
                return
        raise AssertionError(f"{selector} cannot be reached by Tab")

    def wait_until(self, expression: str) -> None:
        """Wait for what scrolls; the page forbids Playwright's own way, which evaluates text."""
        for _ in range(100):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(expression)

    def close(self) -> None:
        self._context.close()


def violations(reading: Reading) -> list[str]:
    """What axe-core finds, each with its impact and the first place."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(reading.page).response["violations"]
    return [f"{one['impact']}: {one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_of(
    film: Film, details: ReportDetails, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[AuditResult], Path]:
    """An audit to its page; the same audit is drawn once."""
    drawn: dict[int, Path] = {}
    kept: list[AuditResult] = []

    def draw(result: AuditResult) -> Path:
        if id(result) not in drawn:
            kept.append(result)
            folder = tmp_path_factory.mktemp("page")
            write_report(result, film, details, folder)
            drawn[id(result)] = folder / "report.html"
        return drawn[id(result)]

    return draw


@pytest.fixture
def read(browser: Any) -> Iterator[Callable[..., Reading]]:
    opened: list[Reading] = []

    def open_page(path: Path, size: tuple[int, int] = WIDE) -> Reading:
        opened.append(Reading(browser, path, size))
        return opened[-1]

    yield open_page
    for reading in opened:
        reading.close()


@pytest.fixture(scope="module")
def hundred(result_of: Make) -> AuditResult:
    return result_of(correlations=100)


@pytest.fixture(scope="module")
def hostile(result_of: Make) -> AuditResult:
    """Texts that ask for a picture elsewhere, and worse."""
    return hostile_result(result_of(HOSTILE, 2))


@pytest.fixture
def reading(page_of, read, full_result) -> Reading:
    return read(page_of(full_result))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("full_result", WIDE),
        ("full_result", PHONE),
        pytest.param("hundred", WIDE, marks=pytest.mark.slow),
        pytest.param("hundred", PHONE, marks=pytest.mark.slow),
        pytest.param("hostile", WIDE, marks=pytest.mark.slow),
        ("hostile", PHONE),
        ("null_result", WIDE),
        pytest.param("null_result", PHONE, marks=pytest.mark.slow),
        pytest.param("stopped_result", WIDE, marks=pytest.mark.slow),
        ("stopped_result", PHONE),
    ],
)
def test_nothing_keeps_people_out_and_nothing_is_asked_for(
    request: pytest.FixtureRequest, page_of, read, name: str, size: tuple[int, int]
) -> None:
    reading = read(page_of(request.getfixturevalue(name)), size)
    assert violations(reading) == []
    assert reading.asked == []
    assert reading.told == []


@pytest.mark.parametrize("name", ["conditional", "review", "pass"])
def test_other_verdicts_keep_nobody_out_on_a_phone(
    verdict_results: dict[str, AuditResult], page_of, read, name: str
) -> None:
    reading = read(page_of(verdict_results[name]), PHONE)
    assert violations(reading) == []
    narrow = (
        "[...document.querySelectorAll('caption, td, th')].filter((cell) => "
        "cell.textContent.trim().length > 12 && cell.offsetWidth > 1 && "
        "cell.getBoundingClientRect().width < 60).map((cell) => cell.textContent)"
    )
    assert reading.page.evaluate(narrow) == []
    assert reading.page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]


def test_axe_and_the_refusal_of_requests_do_find_something(read, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text('<p style="color:#ccc">pale</p><img src="http://example.org/x.png">')
    reading = read(path)
    found = " ".join(violations(reading))
    assert "critical: image-alt" in found
    assert "serious: color-contrast" in found
    assert reading.asked == ["http://example.org/x.png"]


def test_the_first_stop_skips_to_the_report_and_the_contents_open(reading: Reading) -> None:
    reading.press("Tab")
    assert reading.page.evaluate(f"{FOCUSED}.className") == "skip"
    reading.press("Enter")
    assert reading.page.evaluate(f"{FOCUSED}.id") == "main"
    reading.page.reload()
    reading.tab_to("summary")
    reading.press("Enter")
    reading.tab_to('a[href="#sign-off"]')
    reading.press("Enter")
    reading.wait_until(SEEN.format("sign-off"))
    assert reading.page.url.endswith("#sign-off")
    assert violations(reading) == []


def test_films_open_large_and_boxes_go_by_keyboard(reading: Reading) -> None:
    reading.tab_to("button.film")
    small = reading.page.evaluate(f"{FOCUSED}.getBoundingClientRect().width")
    reading.page.evaluate(f"window.opened = {FOCUSED}")
    reading.press("Enter")
    assert reading.page.evaluate("document.getElementById('viewer').open")
    large = "document.querySelector('#viewer-frame img').getBoundingClientRect().width"
    assert reading.page.evaluate(large) > 2 * small
    assert violations(reading) == []
    boxes = "getComputedStyle(document.querySelector('#viewer-frame .boxes')).display"
    assert reading.page.evaluate(boxes) == "block"
    reading.tab_to("#viewer [data-boxes]", 10)
    reading.press(" ")
    assert reading.page.evaluate(boxes) == "none"
    assert reading.page.evaluate(f"{FOCUSED}.ariaPressed") == "false"
    reading.press("Escape")
    assert not reading.page.evaluate("document.getElementById('viewer').open")
    assert reading.page.evaluate(f"{FOCUSED} === window.opened")
    assert (reading.asked, reading.told) == ([], [])


def test_clusters_are_filtered_by_keyboard(reading: Reading) -> None:
    reading.tab_to('input[name="kind"]')
    reading.press("ArrowRight")
    assert reading.page.evaluate(f"{FOCUSED}.value") == "needs-my-decision"
    assert reading.page.inner_text("#shown") == "7 of 7 correlations shown"
    reading.press("ArrowRight")
    assert reading.page.evaluate(f"{FOCUSED}.value") == "counted"
    assert reading.page.inner_text("#shown") == "2 of 7 correlations shown"
    assert violations(reading) == []
    reading.press("Tab", " ")  # on to the boxes
    assert reading.page.evaluate("document.documentElement.classList.contains('bare')")


def test_numbers_on_the_map_lead_to_their_pages_by_keyboard(reading: Reading) -> None:
    reading.tab_to('input[name="kind"]')
    reading.press("ArrowRight", "ArrowRight")  # correlation 5 is hidden by now
    reading.page.evaluate("document.querySelector('.map').scrollIntoView()")
    reading.page.evaluate("document.querySelector('.map .wide').focus()")
    for _ in range(7):
        reading.press("Tab")
        if reading.page.evaluate(f"{FOCUSED}.getAttribute('href')") == "#correlation-5":
            break
    name = reading.page.evaluate(f"{FOCUSED}.getAttribute('aria-label')")
    assert name.startswith("Correlation 5, not confirmed: cluster 15 with ")
    assert reading.page.evaluate(f"getComputedStyle({FOCUSED}).outlineStyle") == "solid"
    reading.press("Enter")
    reading.wait_until(SEEN.format("correlation-5"))
    assert reading.page.inner_text("#shown") == "7 of 7 correlations shown"


def test_the_map_is_told_to_who_cannot_see_it(reading: Reading) -> None:
    drawn = reading.page.locator(".map svg")
    told = drawn.get_attribute("aria-label") or ""
    assert told.startswith("Map of the feature clusters. 20 clusters drawn")
    for rank in range(1, 8):
        assert f"Correlation {rank}, " in told
        assert reading.page.get_by_role("link", name=f"Correlation {rank}, ").count() == 1


@pytest.fixture(scope="module")
def to_review(result_of: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an audit with five correlations to decide on."""
    result = result_of(correlations=5)
    five = (replace(one, counts=True, kind="undecided") for one in result.correlations)
    films = np.arange(len(result.image_ids))
    answers = FilmAnswers(films % 3, films // 2 % 3, np.full(len(films), 0.8, dtype=np.float32))
    result = replace(result, correlations=tuple(five), to_decide=(1, 2, 3, 4, 5), answers=answers)
    return run_folder(tmp_path_factory.mktemp("review") / "run", result)


@pytest.fixture
def reviewed(to_review: Path, tmp_path: Path) -> Iterator[ReviewServer]:
    server = ReviewServer(ReviewSession(shutil.copytree(to_review, tmp_path / "run")))
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server
    server.close()
    thread.join()


def decide(page: Any, key: str, reason: str = "Seen on all films.") -> None:
    """Decide on the correlation that is shown, by keyboard; the page goes on to the next."""
    page.evaluate("document.getElementById('message').className = ''")
    page.keyboard.press(key)
    if key == "5":
        page.keyboard.press("1")
    else:
        page.keyboard.type(reason)
    page.keyboard.press("Enter")
    page.wait_for_selector("#message.good")


def test_five_correlations_are_decided_by_keyboard_and_outlive_the_browser(
    browser: Any, reviewed: ReviewServer
) -> None:
    own, folder = reviewed.address, reviewed.session.folder
    page = browser.new_page(viewport={"width": WIDE[0], "height": WIDE[1]})
    asked: list[str] = []
    told: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.goto(own)
    page.wait_for_selector("#decision:not([hidden])")
    page.keyboard.press("2")
    page.keyboard.type("A pacemaker.")
    page.keyboard.press("Enter")
    assert page.inner_text("#message") == "Your initials first."
    page.keyboard.type("AB")
    for key in ("Escape", "2"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")  # the reason stands there
    page.wait_for_selector("#message.good")
    for key in ("1", "5"):
        decide(page, key)
    page.close()  # in the middle

    page = browser.new_page(viewport={"width": PHONE[0], "height": PHONE[1]})
    page.on("request", lambda request: asked.append(request.url))
    page.goto(own)
    page.wait_for_selector("#decision:not([hidden])")
    assert page.inner_text("#progress").startswith("3 of 5 decided.")
    assert page.inner_text("h2:visible").startswith("No. 4")
    page.fill("#name", "AB")
    page.focus("h2:visible")
    for key in ("4", "3"):
        decide(page, key)
    assert page.inner_text("#progress").startswith("5 of 5 decided.")
    page.click("#draw")
    page.wait_for_selector("#message:has-text('Verdict')")
    assert "Verdict: FAIL. 2 still to decide: DRAFT." in page.inner_text("#message")
    with (folder / "review.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["decision"] for row in rows] == [
        "shortcut", "disease", "same as No. 1", "cannot tell", "chance",
    ]  # fmt: skip
    assert {row["name"] for row in rows} == {"AB"}
    assert "A pacemaker." in (folder / "report.html").read_text()
    assert all(url.startswith((own, "data:", "blob:")) for url in asked)
    assert told == []
    page.close()


@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_the_review_from_a_disk_downloads_its_decisions(
    read, to_review: Path, size: tuple[int, int]
) -> None:
    reading = read(to_review / "review.html", size)
    page = reading.page
    page.wait_for_selector("#decision:not([hidden])")
    assert violations(reading) == []
    assert "labelled" in page.inner_text("#caption")
    page.fill("#name", "CD")
    page.focus("h2:visible")
    reading.press("b", "+", "ArrowRight")
    assert page.get_attribute("#boxes", "aria-pressed") == "false"
    decide(page, "1", 'Part of it, "seen".')
    reading.press("k")
    page.evaluate("document.getElementById('message').className = ''")
    reading.press("u")
    page.wait_for_selector("#message.good")
    decide(page, "2", "=no")
    page.reload()
    page.wait_for_selector("#decision:not([hidden])")
    with page.expect_download() as download:
        page.click("#download")
    decisions = read_decisions(download.value.path())
    assert [(one.decision, one.reason, one.name) for one in decisions] == [
        ("shortcut", "=no", "CD"),
    ]  # fmt: skip
    assert [url for url in reading.asked if not url.startswith("blob:")] == []
    assert reading.told == []
