"""The side of the patient beside every film: on paper, on a screen, on slides, and in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_reading import read_html
from PIL import Image
from pypdf import PdfReader

from ravl_med.cohort.dicom_header import EDGES
from ravl_med.evidence.audit_result import AuditResult, result_document
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.contact_sheet import DARK
from ravl_med.reporting.files.saved_run import read_archive, write_archive
from ravl_med.reporting.layout.pdf_shapes import FilmFlowable
from ravl_med.reporting.pictures import Film, Picture, correlation_pictures, film_picture
from ravl_med.reporting.slides import write_figures
from ravl_med.reporting.wording import EDGE_TEXT

Write = Callable[[AuditResult], tuple[str, str]]
NOISE = np.random.default_rng(0).integers(60, 200, (90, 120), dtype=np.uint8)


def sided(result: AuditResult, edge: Any) -> AuditResult:
    return replace(result, left_edges=(edge,) * len(result.image_ids))


@pytest.fixture
def write(report_of: Callable[..., Path], details: ReportDetails) -> Write:
    """Return the text of the PDF on one line, and the source of the HTML."""

    def made(result: AuditResult) -> tuple[str, str]:
        folder = report_of(result, details)
        pages = PdfReader(folder / "report.pdf").pages
        text = " ".join(" ".join(page.extract_text() for page in pages).split())
        return text, (folder / "report.html").read_text(encoding="utf-8")

    return made


def test_every_side_has_words() -> None:
    assert set(EDGE_TEXT) == set(EDGES)
    assert len(set(EDGE_TEXT.values())) == len(EDGES)


def test_films_have_their_side_and_crops_none(full_result: AuditResult, film: Film) -> None:
    result = replace(full_result, left_edges=("R", "L", "") * 40)
    pictures = correlation_pictures(result, result.correlations[0], film, 10, enlarged=True)
    for shown in pictures.random:
        assert shown.picture.edge == result.left_edges[result.image_ids.index(shown.image_id)]
    assert {shown.picture.edge for shown in pictures.random} <= {"R", "L", ""}
    assert {crop.picture.edge for crop in pictures.crops} == {""}


@pytest.mark.parametrize("edge", ["R", "L", "A"])
def test_paper_and_screen_show_the_letter_and_say_what_it_means(
    edge: str, result_of: Callable[..., AuditResult], write: Write
) -> None:
    paper, html = write(sided(result_of(correlations=1), edge))
    words = EDGE_TEXT[edge]  # type: ignore[index]
    assert "Letter beside a film: the patient's side at its left edge." in paper
    assert paper.count(words) == (0 if edge == "R" else 6)  # page one shows two of the four
    page = read_html(html)
    films = [alt for alt in (image["alt"] for image in page.of("img")) if alt.startswith("Film ")]
    assert len(films) == 6
    assert sum(alt.endswith(f"; {words}") for alt in films) == 4
    assert html.count(f'<span class="edge" aria-hidden="true">{edge}</span></button>') == 6
    assert html.count('class="film sided"') == 6


def test_what_is_not_stated_is_said(result_of: Callable[..., AuditResult], write: Write) -> None:
    result = result_of(correlations=1)
    paper, html = write(result)
    assert "Sides of the patient: side not stated." in paper
    assert 'class="edge"' not in html
    assert html.count('; side not stated"') == 4
    some = replace(result, left_edges=("R", "") * 60)
    assert "the patient's side at its left edge; none: not stated." in write(some)[0]


def test_the_letter_lies_beside_the_film_on_paper() -> None:
    plain, lettered = (
        FilmFlowable(film_picture(NOISE, [], edge=edge), 90.0, 60.0) for edge in ("", "R")
    )
    assert (plain.width, plain.height, plain.beside) == (80.0, 60.0, 0.0)
    assert (lettered.across, lettered.height) == (80.0, 60.0)
    assert lettered.width == 80.0 + lettered.beside < 90.0
    narrow = FilmFlowable(film_picture(NOISE, [], edge="R"), 60.0, 60.0)
    assert narrow.width == pytest.approx(60.0)
    assert narrow.across == pytest.approx(60.0 - narrow.beside)
    assert narrow.height == pytest.approx(0.75 * narrow.across)


def test_slides_have_the_letter_beside_the_film(
    result_of: Callable[..., AuditResult], film: Film, tmp_path: Path
) -> None:
    result, drawn = result_of(correlations=1), {}
    for name, edges in (("none", ()), ("R", "R" * 120), ("L", "L" * 120)):
        write_figures(replace(result, left_edges=tuple(edges)), film, tmp_path / name)
        with Image.open(tmp_path / name / "correlation_01_films.png") as image:
            drawn[name] = np.asarray(image.convert("RGB")).astype(int)
    first = film(int(result.region_image[result.correlations[0].cluster.regions[0]]))
    assert first.shape == (240, 280)
    right, left = drawn["R"], drawn["L"]
    assert right.shape == left.shape == (drawn["none"].shape[0], drawn["none"].shape[1] + 140, 3)
    rows, columns = np.nonzero((right != left).any(axis=2))
    above = rows < 300 + 6  # the picture of the first row; captions lie below
    assert above.any()
    assert (rows >= 306).any()  # L is said in words, too
    for x in np.unique(columns[above]):  # nothing of a film is covered
        assert (right[:306, x] == 255).all(axis=1).any()
    plate = right[306 - 120 - 7 : 306 - 120 + 7, 2:30]
    assert (plate == DARK).all(axis=2).sum() > 60
    assert (plate == 255).all(axis=2).sum() > 20


def test_the_json_says_it_of_each_region(result_of: Callable[..., AuditResult]) -> None:
    result = replace(result_of(), left_edges=("R", "L", "") * 40)
    document = json.loads(result_document(result, 20).model_dump_json())
    regions = [region for entry in document["correlations"] for region in entry["regions"]]
    for region in regions:
        edge = result.left_edges[result.image_ids.index(region["image_id"])]
        assert region["left_edge"] == (edge or None)
    assert {region["left_edge"] for region in regions} == {"R", "L", None}


@pytest.mark.parametrize(("edges", "edge"), [(("L",) * 120, "L"), ((), "")])
def test_archives_with_and_without_sides_open(
    full_result: AuditResult, edges: tuple[str, ...], edge: str, tmp_path: Path
) -> None:
    write_archive(replace(full_result, left_edges=edges), tmp_path)
    again = read_archive(AuditResult, tmp_path)
    assert again.left_edges == edges
    assert again.left_edge(3) == edge


def test_a_picture_has_no_side_unless_it_is_told() -> None:
    assert Picture(NOISE, ()).edge == film_picture(NOISE, []).edge == ""
