"""Further entries of the metadata: read back by pypdf and by poppler, the same bytes each time."""

import io
import shutil
import subprocess

import numpy as np
import pytest
from pypdf import PdfReader

from ravl_med.reporting.layout.blocks import Banner, Figure, FigureGrid, Section, Text, Title
from ravl_med.reporting.layout.pdf import draw_pdf
from ravl_med.reporting.pictures import Picture

BLOCKS = [Title("Title", "below"), Text("A page.")]
ENTRIES = {
    "chaiMcXml": '<?xml version="1.0" encoding="UTF-8"?>\n<a b="(c\\d)">– − “é” \u0394 '
    + "x" * 40_000,
    "chaiMcSoftwareId": "ravl-med 1",
}


def drawn(properties=None) -> bytes:
    return draw_pdf(BLOCKS, "run", "A title", "Audit run", properties)


def test_entries_are_read_back_beside_the_standard_ones():
    metadata = PdfReader(io.BytesIO(drawn(ENTRIES))).metadata
    assert {name: metadata[f"/{name}"] for name in ENTRIES} == ENTRIES
    plain = PdfReader(io.BytesIO(drawn())).metadata
    assert {name: metadata[name] for name in plain} == plain
    assert set(metadata) - set(plain) == {"/chaiMcXml", "/chaiMcSoftwareId"}
    assert metadata.title == "A title"
    assert metadata.subject == "Audit run"  # without a verdict nothing is to be signed


def test_what_is_to_be_signed_is_a_draft_until_it_is_final():
    for status in ("DRAFT", "FINAL"):
        blocks = [Banner("Pass", "line", "good", "level", status), *BLOCKS]
        pages = PdfReader(io.BytesIO(draw_pdf(blocks, "run", "A title", "Audit run")))
        assert pages.metadata.subject == f"Audit run ({status.lower()})"
        assert f"{status} · RaVL-Med" in pages.pages[0].extract_text()


def test_same_entries_same_bytes_other_entries_another_id():
    first, other = drawn(ENTRIES), drawn(ENTRIES | {"chaiMcSoftwareId": "ravl-med 2"})
    assert first == drawn(dict(ENTRIES))
    ids = [PdfReader(io.BytesIO(made)).trailer["/ID"] for made in (first, other, drawn())]
    assert len({str(entry) for entry in ids}) == 3


@pytest.mark.skipif(shutil.which("pdfinfo") is None, reason="poppler's pdfinfo is not installed")
def test_poppler_does_not_complain(tmp_path):
    path = tmp_path / "report.pdf"
    path.write_bytes(drawn(ENTRIES))
    told = subprocess.run(
        ["pdfinfo", "-custom", str(path)], capture_output=True, check=True, encoding="utf-8"
    )
    assert told.stderr == ""
    assert "chaiMcSoftwareId:ravl-med 1" in told.stdout.replace(" ", "").replace(
        "ravl-med", "ravl-med "
    )
    assert ENTRIES["chaiMcXml"] in told.stdout


@pytest.mark.parametrize("kind", ["film", "region"])
def test_no_heading_is_left_behind_by_its_films(kind):
    """Wherever on the page it comes, of films that are higher than a table's first rows."""
    picture = Picture(np.zeros((300, 200), np.uint8), ())
    films = FigureGrid((Figure(picture, "a film", ("called normal", "film 1")),) * 4, kind)
    lines = [Text("A line of text.")] * 80
    left = []
    for count in range(20, 56):
        content = [BLOCKS[0], *lines[:count], Section("Films with it"), films]
        pages = PdfReader(io.BytesIO(draw_pdf(content, "run", "A title", "Audit run"))).pages
        (page,) = [p.extract_text() for p in pages if "Films with it" in p.extract_text()]
        left.append("film 1" not in page)
    assert not any(left)
