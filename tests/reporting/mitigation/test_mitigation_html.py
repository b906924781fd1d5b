"""The HTML of a mitigation: one file, well formed, the numbers of the JSON, text escaped."""

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import mitigation_results as made
import pytest

from ravl_med.evidence.mitigation_result import Change, MitigationResult, MitigationVerdict
from ravl_med.evidence.results import Interval
from ravl_med.reporting.mitigation.report import write_mitigation_report
from ravl_med.reporting.mitigation.tables import difference_text
from ravl_med.reporting.wording import accuracy_text, score_text
from ravl_med.storage.documents import document_of

RESULTS = pytest.mark.parametrize("result", [made.improved(), made.failed(), made.idle()])
VOID = {"meta", "br", "col", "wbr"}
SHAPES = {"polyline", "polygon", "rect", "circle"}


class Reader(HTMLParser):
    """Checks that every element is closed in order, and keeps tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SHAPES
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def read(result: MitigationResult, folder: Path) -> tuple[str, Reader]:
    write_mitigation_report(result, made.details(), folder)
    source = (folder / "report.html").read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(source)
    reader.close()
    assert reader.open == []
    return source, reader


def flat(text: str) -> str:
    return " ".join(text.split())


@RESULTS
def test_it_is_one_file_without_script_or_resource(result, tmp_path):
    source, reader = read(result, tmp_path)
    assert source.startswith("<!DOCTYPE html>")
    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "a", "image", "use"}
    for _, attributes in reader.tags:
        assert not {"src", "href", "xlink:href", "srcset", "action"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert "http" not in source
    assert "url(" not in source
    assert "@import" not in source
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in (
        reader.tags
    )


@RESULTS
def test_headings_and_tables_are_semantic(result, tmp_path):
    source, reader = read(result, tmp_path)
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("h1") == 1
    levels = [int(tag[1]) for tag in tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert tags.count("caption") == tags.count("table") > 0
    assert all(a.get("scope") in ("row", "col") for tag, a in reader.tags if tag == "th")
    assert "@media print" in source
    figures = [attributes for tag, attributes in reader.tags if tag == "svg"]
    assert all(("aria-hidden" in a) != ("aria-label" in a) for a in figures)


def test_the_numbers_are_those_of_the_json(tmp_path):
    result = made.improved()
    _, reader = read(result, tmp_path)
    document = document_of(result)
    text = reader.text
    for arm in document.arms:
        measures = (arm.image_overall, arm.image_worst, arm.region_overall, arm.region_worst)
        for measure in measures:
            assert value_of(measure) in text
            assert arm.role == "before" or flat(difference_text(change_of(measure))) in text
        for measure in (arm.auroc, arm.calibration):
            assert value_of(measure, score_text) in text
    delivered = document.arms[-1]
    changes = [
        *delivered.classes.values(),
        *delivered.groups.values(),
        *(entry.accuracy for entry in delivered.subgroups),
    ]
    for change in changes:
        assert f"{value_of(change)} {flat(difference_text(change_of(change)))}" in text
    for entry in delivered.worsened:
        assert entry.name in text
    for reason in document.verdict_reasons:
        assert reason in text
    for gate, entry in document.gates.items():
        assert f"{gate} {entry.text}" in text
    for split in document.splits:
        assert f"{split.role} {split.films:,} {split.patients:,}" in text


def change_of(document) -> Change:
    """A change as the JSON has it."""
    low, high = (made.NAN if bound is None else bound for bound in document.difference_interval)
    difference = made.NAN if document.difference is None else document.difference
    return Change(made.NAN, made.NAN, made.NOTHING, difference, Interval(low, high), 0)


def value_of(document, words=accuracy_text) -> str:
    if document.after is None:
        return "–"
    return flat(words(document.after, Interval(*document.interval)))


def test_figures_are_drawn(tmp_path):
    result = made.improved()
    source, reader = read(result, tmp_path)
    labels = [a["aria-label"] for tag, a in reader.tags if tag == "svg" and "aria-label" in a]
    assert sum(label.startswith("Learning curve, epoch") for label in labels) == 4
    assert "kept: epoch 33" in reader.text
    assert "nan" not in re.findall(r"[a-z]+", " ".join(re.findall(r"<svg.*?</svg>", source)))


def test_text_is_escaped(tmp_path):
    evil = '<script>alert("1")</script> & more'
    result = made.improved()
    delivered = replace(
        result.delivered,
        title=evil,
        classes={evil: made.change(0.7, 0.6)},
        subgroups={(evil, '"><b>'): made.change(0.7, 0.6)},
    )
    hostile = replace(
        result,
        name=evil,
        title=evil,
        verdict=MitigationVerdict("worse", (evil,)),
        arms=(*result.arms[:-1], delivered),
        selection_groups={evil: 3},
        notes=(evil,),
    )
    source, reader = read(hostile, tmp_path)
    assert "<script" not in source
    assert "<b>" not in source
    assert "&lt;script&gt;" in source
    assert evil in unescape(reader.text)


def test_nothing_to_do_says_so(tmp_path):
    _, reader = read(made.idle(), tmp_path)
    assert "Nothing to do" in reader.text
    assert "No model was made." in reader.text
    assert "All arms" not in reader.text


def test_same_input_same_bytes(tmp_path):
    pages = []
    for _ in range(2):
        write_mitigation_report(made.improved(), made.details(), tmp_path)
        pages.append((tmp_path / "report.html").read_bytes())
    assert pages[0] == pages[1]
