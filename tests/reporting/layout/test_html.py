"""The HTML of an audit: one file that asks for nothing, the words and numbers of PDF and JSON."""

import base64
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, WHY_NOT, Browser, dump_dom
from hostile_results import HOSTILE, hostile_result
from html_reading import Reader, read_html
from pypdf import PdfReader

from ravl_med.evidence.audit_result import result_document
from ravl_med.reporting.audit.history import AuditHistory
from ravl_med.reporting.audit.report import write_report
from ravl_med.reporting.pictures import film_panels
from ravl_med.reporting.wording import number, signed

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason=WHY_NOT)
NUMBER = re.compile(r"[+−]?\d+(?:,\d{3})*(?:\.\d+)?")
# Tables of what the JSON does not hold.
OF_THE_RUN = {"Digests", "Seeds", "Versions", "Thresholds", "What is signed", "Checklist map"}
IMAGES_SHOWN = 2 + 7 + 7 * 4 + 7 * (4 + 10)  # page one, a list; films of each; films and regions
LINKED = re.compile(  # on paper the number of a page
    r"Correlation \d+|Model and cohort|Performance|Search for shortcuts|Method and thresholds"
    r"|What has to be decided|What the answers depend on|Reproducibility|Sign-off"
    r"|Checks and subgroups|Limits, and how this was found"
)


def bare(text: str) -> str:
    """Text without any space, since a line may end anywhere on paper."""
    return re.sub(r"\s", "", text)


@pytest.fixture(scope="module")
def folder(full_result, report_of, details) -> Path:
    """The report of an audit with every kind of correlation."""
    return report_of(full_result, details)


@pytest.fixture(scope="module")
def source(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reader(source: str) -> Reader:
    return read_html(source)


@pytest.fixture(scope="module")
def paper(folder: Path) -> str:
    """The text of the PDF without the foot of its pages."""
    pages = PdfReader(io.BytesIO((folder / "report.pdf").read_bytes())).pages
    text = " ".join(page.extract_text() for page in pages)
    return re.sub(r"sample-run\s+DRAFT · RaVL-Med \S+\s+page \d+ of \d+", " ", text)


@pytest.fixture
def read(report_of, details):
    def make(result, **changes: Any) -> tuple[str, Reader]:
        written = report_of(result, replace(details, **changes))
        source = (written / "report.html").read_text(encoding="utf-8")
        return source, read_html(source)

    return make


def test_it_is_one_file_that_asks_for_nothing(source: str, reader: Reader) -> None:
    assert source.startswith("<!DOCTYPE html>")
    assert not reader.of("link", "iframe", "object", "embed", "image", "use", "base", "form")
    for _, attributes in reader.tags:
        assert not {"srcset", "action", "xlink:href", "background", "poster"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("src") or "data:image/jpeg;base64,").startswith("data:image/jpeg")
        assert (attributes.get("href") or "#").startswith("#")
    assert "http" not in source.replace("http-equiv", "")
    assert "url(" not in source
    assert "@import" not in source


def test_the_browser_is_told_to_run_this_script_alone(source: str, reader: Reader) -> None:
    (policy,) = [a["content"] for a in reader.of("meta") if "http-equiv" in a]
    (script,) = reader.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "script-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert source.index("Content-Security-Policy") < source.index("<style>")
    assert not re.search(r"\b(fetch|XMLHttpRequest|eval|innerHTML|import)\b", script)


def assert_headed(reader: Reader) -> None:
    """One h1, no jump from a level to one deeper than the next, no empty heading."""
    levels = [level for level, _ in reader.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(text.strip() for _, text in reader.headings)


def test_headings_go_down_step_by_step(reader: Reader, stopped_result, null_result, read) -> None:
    assert_headed(reader)
    for result in (stopped_result, null_result):
        assert_headed(read(result)[1])
    titles = [text for level, text in reader.headings if level == 2]
    chapters = [title for title in titles if not title.startswith("Numbers of")]
    assert chapters[chapters.index("What has to be decided") :] == [
        "What has to be decided", "Performance", "Model and cohort",
        "Limits, and how this was found", "Sign-off", "Annex",
        "Features without a page of their own", "What the answers depend on",
        "Search for shortcuts", "Checks and subgroups", "Prompts, digests and rows",
        "Method and thresholds", "Reproducibility",
        "Where a reviewer finds what guidelines ask for",
    ]  # fmt: skip
    entries = [text for level, text in reader.headings if level == 3]
    assert sum(text.startswith("Correlation ") for text in entries) == 7


def assert_linked(reader: Reader) -> None:
    """Ids are there once, and whatever points to one finds it."""
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in reader.tags:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert set((attributes.get(name) or "").split()) <= set(ids)
        if "href" in attributes:
            assert attributes["href"][1:] in ids


def test_ids_and_what_points_to_them(reader: Reader) -> None:
    assert_linked(reader)
    links = reader.of("a")
    assert links[0]["href"] == "#main"
    assert {f"#correlation-{rank}" for rank in range(1, 8)} <= {a["href"] for a in links}


def test_who_cannot_see_is_told_everything(source: str, reader: Reader, full_result) -> None:
    assert reader.of("html") == [{"lang": "en"}]
    assert len(reader.of("main")) == len(reader.of("nav")) == len(reader.of("h1")) == 1
    assert all(table.caption.strip() for table in reader.tables)
    assert all(a.get("scope") in ("row", "col") for a in reader.of("th"))
    assert all(("aria-hidden" in a) != ("aria-label" in a) for a in reader.of("svg"))
    alts = [a["alt"] for a in reader.of("img")]
    assert len(alts) == IMAGES_SHOWN
    first = film_panels(full_result, full_result.correlations[0]).random[0]
    name = full_result.image_ids[first]
    assert alts[0] == f"Film {name}, feature outlined. side not stated"
    assert all(re.match(r"(Film |Region \d+ of cluster |a pulse generator)", alt) for alt in alts)
    assert source.count("<label><input") == len(reader.of("input"))
    assert len(reader.of("legend")) == len(reader.of("fieldset")) == 1
    assert all(a.get("type") == "button" for a in reader.of("button"))
    assert any(a.get("role") == "status" for a in reader.of("p"))
    for told in ("prefers-reduced-motion", "@media print", ":focus-visible"):
        assert told in source


def test_without_its_script_the_page_shows_everything_and_offers_nothing(reader: Reader) -> None:
    assert not [a for a in reader.of("section") if "hidden" in a]
    (controls,) = [a for a in reader.of("div") if a.get("id") == "controls"]
    assert "hidden" in controls
    films = [a for a in reader.of("button") if a.get("class") == "film"]
    assert len(films) == len(reader.of("img"))
    assert all("disabled" in a for a in films)


def test_correlations_are_marked_by_kind_and_by_what_counts(reader: Reader) -> None:
    marks = [a["data-marks"] for a in reader.of("section")]
    mine = "needs-my-decision"
    assert marks == [f"{mine} counted shortcut"] * 2 + [f"{mine} not-counted"] * 5
    values = [a["value"] for a in reader.of("input")]
    assert values == ["all", mine, "counted", "shortcut", "not-counted"]
    assert "all (7) needs my decision (7) counted (2) shortcut (2) not counted (5)" in reader.text


def test_every_row_of_a_table_stands_in_the_pdf(reader: Reader, paper: str) -> None:
    printed = bare(paper)
    rows = [row for table in reader.tables for row in table.rows if any(row)]
    assert len(rows) > 180
    for row in rows:
        linked = LINKED.fullmatch(row[-1])
        assert bare("".join(row[:-1] if linked else row)) in printed


def test_every_word_stands_in_the_pdf(reader: Reader, paper: str) -> None:
    printed = bare(re.sub(r"\s\(page \d+\)", " ", paper))
    told = [text for text in reader.paragraphs if text.strip()]
    told = told[told.index("Audit of a chest film model") :]  # what comes before is navigation
    assert len(told) > 250
    for text in told:
        if text.startswith("name: sample-run"):  # the config is attached to the PDF
            continue
        assert bare(re.sub(r" \((Correlation \d+|the list)\)\.$", ".", text)) in printed, text


def test_every_number_of_the_pdf_stands_in_the_html(reader: Reader, paper: str) -> None:
    text = re.sub(r"\s\(page \d+\)\.", " ", paper)
    told = set(NUMBER.findall(reader.text))
    drawn = {number for a in reader.of("svg") for number in NUMBER.findall(a.get("aria-label", ""))}
    told |= drawn
    pages = {str(page) for page in range(1, 24)}  # in the lists of correlations and of guidelines
    assert set(NUMBER.findall(text)) - told - pages <= {"50", "100", "0"}  # of drawn scales
    assert len(set(NUMBER.findall(text))) > 300


def renderings(value: float) -> Iterator[str]:
    for scale in (1.0, 100.0):
        for decimals in range(4):
            yield number(scale * value, decimals)
            yield signed(scale * value, decimals)
    if float(value).is_integer():
        yield f"{value:,.0f}"
        yield f"−{value:,.0f}"


def values_of(part: Any) -> Iterator[float | str]:
    """Every number and text of a JSON document, how many there are, and sums over classes."""
    if isinstance(part, dict):
        yield float(len(part))
        yield from (str(key) for key in part)
        rows = [row for row in part.values() if isinstance(row, dict)]
        for key in set.intersection(*(set(row) for row in rows)) if rows else ():
            if all(isinstance(row[key], int) for row in rows):
                yield float(sum(row[key] for row in rows))
        part = list(part.values())
    if isinstance(part, list):
        yield float(len(part))
        for entry in part:
            yield from values_of(entry)
    elif isinstance(part, bool) or part is None:
        return
    elif isinstance(part, int | float | str):
        yield float(part) if not isinstance(part, str) else part


def test_every_number_of_a_table_comes_from_the_json(reader: Reader, full_result) -> None:
    document = result_document(full_result, 10).model_dump(mode="json")
    known = {"0.001", "100", "0"}  # below a thousandth, of no gap at all, none left out
    for value in values_of(document):
        known |= set(NUMBER.findall(value)) if isinstance(value, str) else set(renderings(value))
    tables = [table for table in reader.tables if table.caption not in OF_THE_RUN]
    assert len(tables) > 30
    for table in tables:
        for row in table.rows:
            unknown = [n for n in NUMBER.findall(" ".join(row)) if n not in known]
            assert not unknown, (table.caption, row)


def test_what_became_of_clusters_is_counted_in_the_json(reader: Reader, full_result) -> None:
    document = result_document(full_result, 10).model_dump(mode="json")
    found, search = document["correlations"], document["discovery"]
    (funnel,) = [t for t in reader.tables if t.caption == "How many clusters came how far"]
    assert funnel.rows[1] == [
        str(count)
        for count in (
            search["clusters"],
            search["survivors"],
            search["candidates"],
            sum(entry["status"] == "confirmed" for entry in found),
            sum(bool(entry["used"]) for entry in found),
            sum(entry["counts"] for entry in found),
        )
    ]


def test_hostile_text_is_inert(result_of, read) -> None:
    evil = ("<script>alert(1)</script>", "'\"><img src=http://x onerror=alert(1)>", *HOSTILE[3:])
    source, reader = read(
        hostile_result(result_of(HOSTILE, 2)),
        config_yaml="\n".join(evil),
        versions=dict.fromkeys(evil, HOSTILE[3]),
        thresholds=dict.fromkeys(evil, evil[0]),
        digests={evil[1]: evil[0]},
        history=AuditHistory(3, tuple((t, t, t) for t in evil), evil, {evil[0]: 2}),
    )
    assert len(reader.of("script")) == source.count("<script") == 1
    assert all((a["src"] or "").startswith("data:image/jpeg") for a in reader.of("img"))
    assert not reader.of("b", "para")
    for _, attributes in reader.tags:
        assert not any(name.startswith("on") for name in attributes)
    assert bare("<script>alert(1)</script>") in bare(reader.text)
    assert '<img src="http://x.invalid/a.png"/>' in reader.text
    assert "U+80BA U+708E U+1FAC1" in reader.text
    assert "U+05D0 U+05D1 U+05D2" in reader.text
    assert "\u202e" not in source
    assert "y" * 1600 not in source
    assert "and 480 more" in reader.text
    assert_headed(reader)
    assert_linked(reader)
    assert len(source) < 1_000_000


def test_pseudonyms_but_no_messages_of_rejected_rows(result_of, read) -> None:
    result = result_of()
    rows = ((17, "truncated", "SECRET-NAME.dcm ends early"),)
    source, reader = read(replace(result, cohort=replace(result.cohort, rejected_rows=rows)))
    assert "row 17 (truncated)" in reader.text
    assert "SECRET" not in source


def test_nothing_found_has_nothing_to_choose_from(null_result, stopped_result, read) -> None:
    _, reader = read(null_result)
    assert "Nothing found" in reader.text
    assert "a gap of 22 points or more would have been found with 80 % probability" in reader.text
    assert not reader.of("input", "img", "section")
    _, reader = read(stopped_result)
    assert "No search was made: the audit stopped before discovery." in reader.text
    assert not reader.of("input", "img", "section")


def test_all_that_has_to_be_decided_is_shown(result_of, read) -> None:
    _, reader = read(result_of(correlations=12, to_decide=tuple(range(1, 13))))
    assert len(reader.of("section")) == 12
    assert "has a page: 12 features. Without one: 0." in reader.text


@pytest.mark.slow
def test_twenty_correlations_of_large_noisy_films_stay_under_ten_megabytes(
    result_of, details, tmp_path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1000), dtype=np.uint8)
    result = result_of(correlations=20)
    scale = np.array([1000, 1200, 1000, 1200]) / 240
    result = replace(result, region_boxes=(result.region_boxes * scale).astype(np.float32))
    write_report(result, lambda _: noise, replace(details, regions_shown=24), tmp_path)
    assert 1_000_000 < (tmp_path / "report.html").stat().st_size < 10_000_000


def test_same_input_same_bytes(result_of, report_of, film, details, tmp_path) -> None:
    write_report(result_of(), film, details, tmp_path)
    once = report_of(result_of(), details) / "report.html"
    assert once.read_bytes() == (tmp_path / "report.html").read_bytes()


@needs_chromium
@pytest.mark.parametrize(
    ("fragment", "shown"),
    [
        ("", [1, 2, 3, 4, 5, 6, 7]),
        ("#kind=shortcut", [1, 2]),
        ("#kind=not-counted", [3, 4, 5, 6, 7]),
        ("#kind=unheard-of", [1, 2, 3, 4, 5, 6, 7]),
        ("#correlation-3", [1, 2, 3, 4, 5, 6, 7]),
        ("#%E0%A4%A", [1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_the_address_chooses_correlations(
    folder: Path, tmp_path: Path, fragment: str, shown: list[int]
) -> None:
    reader = read_html(dump_dom(folder / "report.html", fragment, tmp_path))
    ranks = [
        int(a["aria-labelledby"].removeprefix("correlation-"))
        for a in reader.of("section")
        if "hidden" not in a
    ]
    assert ranks == shown
    (controls,) = [a for a in reader.of("div") if a.get("id") == "controls"]
    assert "hidden" not in controls
    assert f"{len(shown)} of 7 correlations shown" in reader.text


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as browser:
        yield browser


@needs_chromium
def test_the_page_is_silent_and_fetches_nothing(folder: Path, browser: Browser) -> None:
    browser.open(folder / "report.html")
    assert browser.run("document.images.length") == IMAGES_SHOWN
    assert browser.run("[...document.images].every((image) => image.naturalWidth > 50)")
    assert browser.told == []
    assert {url.split(":")[0] for url in browser.asked} == {"file", "data"}
    assert sum(url.startswith("file:") for url in browser.asked) == 1


@needs_chromium
def test_films_open_large_by_keyboard_and_the_focus_goes_back(
    folder: Path, browser: Browser
) -> None:
    browser.open(folder / "report.html")
    browser.run("window.films = [...document.querySelectorAll('.film')]; films[9].focus()")
    browser.press("Enter")
    assert browser.run("document.getElementById('viewer').open")
    assert browser.run("document.activeElement.id") == "viewer-close"
    name = browser.run("document.getElementById('viewer-name').textContent")
    assert name == browser.run("films[9].querySelector('img').alt")
    wide = "document.querySelector('#viewer-frame img').getBoundingClientRect().width"
    assert browser.run(wide) > 2 * browser.run("films[9].getBoundingClientRect().width")
    browser.press("ArrowRight")
    assert browser.run("document.getElementById('viewer-name').textContent") != name
    browser.press("Escape")
    assert not browser.run("document.getElementById('viewer').open")
    browser.wait_for("films.indexOf(document.activeElement) === 10")
    browser.press(" ")
    assert browser.run("document.getElementById('viewer').open")
    browser.press("Enter")  # on "Close"
    assert not browser.run("document.getElementById('viewer').open")
    assert browser.told == []


@needs_chromium
def test_boxes_toggle_and_a_link_brings_back_what_is_hidden(folder: Path, browser: Browser) -> None:
    browser.open(folder / "report.html")
    display = "getComputedStyle(document.querySelector('.film .boxes')).display"
    pressed = "[...document.querySelectorAll('[data-boxes]')].map((b) => b.ariaPressed).join(' ')"
    assert (browser.run(display), browser.run(pressed)) == ("block", "true true")
    browser.run("document.querySelector('[data-boxes]').click()")
    assert (browser.run(display), browser.run(pressed)) == ("none", "false false")
    shown = "document.getElementById('shown').textContent"
    browser.run("document.querySelector('input[value=counted]').click()")
    assert browser.run(shown) == "2 of 7 correlations shown"
    assert browser.run("location.hash") == "#kind=counted"
    browser.run("document.querySelector('td a[href=\"#correlation-5\"]').click()")
    browser.wait_for(f"{shown} === '7 of 7 correlations shown'")
    assert browser.told == []


CONTRAST = """
(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) =>
    v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
  ).reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  let least = 21;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest("script")) continue;
    const style = getComputedStyle(element);
    const colour = element.closest("svg") ? style.fill : style.color;
    const [a, b] = [light(parse(colour)), light(behind(element))];
    least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return least;
})()
"""


@needs_chromium
@pytest.mark.parametrize("verdict", ["fail", "review", "conditional", "pass", "not_auditable"])
def test_text_stands_out_and_nothing_is_wider_than_a_phone(
    result_of, report_of, details, tmp_path, verdict
) -> None:
    result = result_of(correlations=7 if verdict == "fail" else 1)
    result = replace(result, verdict=replace(result.verdict, name=verdict))
    written = report_of(result, details)
    with Browser(tmp_path / "profile") as browser:
        browser.open(written / "report.html")
        assert browser.run(CONTRAST) >= 4.5
        size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        browser.call("Emulation.setDeviceMetricsOverride", **size)
        assert browser.run("document.documentElement.scrollWidth") <= 400


@needs_chromium
def test_a_changed_script_does_not_run(source: str, browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "changed.html"
    path.write_text(source.replace('"use strict";', '"use strict"; document.title = "x";'))
    browser.open(path)
    assert browser.run("document.title") == "Audit of a chest film model"
    assert browser.run("document.getElementById('controls').hidden")
    assert any("Content Security Policy" in text for text in browser.told)
