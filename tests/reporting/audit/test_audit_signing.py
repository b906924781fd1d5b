"""The last page: what is signed, and where; its fields can be filled in."""

import io
from dataclasses import replace

import pytest
from hostile_results import HOSTILE, entries_of, hostile_result
from html_reading import read_html
from pypdf import PdfReader, PdfWriter

from ravl_med.evidence.results import ReviewDecision
from ravl_med.reporting.audit.method import CHOICES, SIGNERS, signing_chapter
from ravl_med.reporting.audit.report import write_report
from ravl_med.reporting.cards.chai import chai_card
from ravl_med.reporting.layout.blocks import Table

DIGESTS = {"model": "ab12" * 16, "cohort": "ef56" * 16}
SLUGS = ("validation_engineer", "radiologist", "person_responsible_for_deployment")
CELLS = ("name", "role", "date")
TYPED = {f"{slug}_{cell}" for slug in SLUGS for cell in CELLS} | {"remarks"}
CHOSEN = {f"{slug}_decision" for slug in SLUGS}


def flat(text: str) -> str:
    return " ".join(text.split())


def ruling(rank: int, in_force: bool = True) -> ReviewDecision:
    return ReviewDecision(rank, "accepted", "2026-12-31", "why", "R. Ray", "2026-11-01", in_force)


def signing_page(reader: PdfReader) -> int:
    """The last page of the report itself; the annex follows."""
    (at,) = [
        at for at, page in enumerate(reader.pages)
        if page.extract_text().startswith("Sign-off")
    ]  # fmt: skip
    return at


def facts_of(result, digests=DIGESTS) -> dict[str, str]:
    (table,) = [b for b in signing_chapter(result, digests) if isinstance(b, Table)]
    return dict(table.rows)


@pytest.fixture(autouse=True)
def _without_pyhanko(monkeypatch):
    """With it there are signature fields; see `test_pdf_signing`."""
    monkeypatch.setattr("ravl_med.reporting.audit.method.can_sign", lambda: False)


@pytest.fixture
def paper(film, details, tmp_path):
    def make(result, **changes) -> PdfReader:
        changed = replace(details, **({"digests": DIGESTS} | changes))
        write_report(result, film, changed, tmp_path)
        return PdfReader(io.BytesIO((tmp_path / "report.pdf").read_bytes()))

    return make


def test_what_is_signed(result_of):
    result = result_of()
    assert facts_of(result) == {
        "Run": "sample-run",
        "Model": "quickstart-resnet",
        "Model digest": "ab12" * 16,
        "Cohort digest": "ef56" * 16,
        "Verdict": "Fail. Do not use this model as it stands.",
        "Status": "DRAFT. Not yet reviewed.",
        "Decisions on correlations": "not yet reviewed",
    }
    assert facts_of(result, {})["Cohort digest"] == "–"


@pytest.mark.parametrize(
    ("rulings", "undecided", "status", "told"),
    [
        ((), 3, "DRAFT. 3 decisions still open.", "0 made, 3 open"),
        ((ruling(1),), 0, "FINAL. Nothing is open. Valid until 2026-12-31.", "1 made, 0 open"),
        (
            (ruling(1), ruling(2, in_force=False)),
            1,
            "DRAFT. 1 decision still open.",
            "1 made, 1 open; 1 acceptance expired",
        ),
        ((), 0, "FINAL. Nothing is open.", "0 made, 0 open"),
    ],
)
def test_decisions_are_counted(result_of, rulings, undecided, status, told):
    held = sum(one.in_force for one in rulings)
    to_decide = tuple(range(1, held + undecided + 1))
    facts = facts_of(result_of(rulings=rulings, to_decide=to_decide))
    assert facts["Status"] == status
    assert facts["Decisions on correlations"] == told


def test_a_stopped_audit_has_nothing_to_decide(stopped_result):
    facts = facts_of(stopped_result)
    assert facts["Verdict"].startswith("Not auditable")
    assert facts["Decisions on correlations"].startswith("none; the audit stopped")


def test_the_last_page_has_empty_fields_with_names_of_their_own(result_of, paper):
    reader = paper(result_of(to_decide=()))
    fields = reader.get_fields()
    assert set(fields) == TYPED | CHOSEN
    assert all(fields[name]["/FT"] == "/Tx" and fields[name]["/V"] == "" for name in TYPED)
    assert all(fields[name]["/FT"] == "/Btn" and "/V" not in fields[name] for name in CHOSEN)
    signing = signing_page(reader)
    widgets = [
        [a.get_object() for a in page.get("/Annots", ()) if a.get_object()["/Subtype"] == "/Widget"]
        for page in reader.pages
    ]
    assert not any(widgets[:signing] + widgets[signing + 1 :])
    names = [widget["/T"] for widget in widgets[signing] if "/T" in widget]
    assert len(names) == len(set(names)) == len(TYPED) == 10
    assert len(widgets[signing]) == len(TYPED) + len(SIGNERS) * len(CHOICES)
    tips = {widget["/T"]: widget["/TU"] for widget in widgets[signing] if "/T" in widget}
    assert tips["radiologist_role"] == "Role and institution: Radiologist"
    assert tips["remarks"] == "Conditions, and remarks of those who sign"
    assert fields["radiologist_decision"]["/TU"] == "Decision: Radiologist"
    assert len(set(tips.values())) == 10
    left, low, right, high = reader.pages[signing_page(reader)].mediabox
    areas = [tuple(map(float, widget["/Rect"])) for widget in widgets[signing]]
    for x0, y0, x1, y1 in areas:
        assert left + 40 < x0 < x1 < right - 40
        assert low + 50 < y0 < y1 < high - 40
    for at, (x0, y0, x1, y1) in enumerate(areas):
        for a0, b0, a1, b1 in areas[at + 1 :]:
            assert x1 < a0 or a1 < x0 or y1 < b0 or b1 < y0
    (remarks,) = [widget for widget in widgets[signing] if widget.get("/T") == "remarks"]
    assert remarks["/Ff"] & 1 << 12  # more than one line


def test_who_audits_and_what_for_is_said_where_it_is_stated(result_of, paper, details):
    use = f"Triage of frontal films of adults. {'Users are radiologists. ' * 14}".strip()
    about = {
        "institution": "Harbour Hospital\x07",
        "operator": "V. Engineer",
        "intended_use": use,
    }
    stated = replace(result_of(), about=about)

    facts = facts_of(stated)
    assert facts["Institution"] == "Harbour Hospital"
    assert facts["Operator"] == "V. Engineer"
    assert facts["Intended use"] == use
    pages = paper(stated)
    first = flat(pages.pages[0].extract_text())
    assert f"Intended use {use}" in flat(pages.pages[signing_page(pages)].extract_text())
    assert "audited by V. Engineer, Harbour Hospital" in first
    assert f"Intended use of the model: {use}" in first
    card = chai_card(stated, details)
    assert f"<IntendedUseAndWorkflow>{use}</" in card
    assert "Institution" not in facts_of(result_of())
    assert "audited by" not in flat(paper(result_of()).pages[0].extract_text())


def test_the_last_page_tells_what_a_signature_says(result_of, paper):
    reader = paper(result_of(to_decide=()))
    last = flat(reader.pages[signing_page(reader)].extract_text())
    assert last.startswith("Sign-off What is signed Run sample-run")
    for told in (
        *SIGNERS,
        "ef56" * 16,
        "A signature does not change the verdict",
        "Conditions and remarks",
        *CHOICES,
    ):
        assert told in last
    assert last.count("external signature") == 3
    assert "sign the whole file with a tool of your institution" in last
    titles = [entry.title for entry in entries_of(reader.outline)]
    assert titles[-2:] == ["Reproducibility", "Where a reviewer finds what guidelines ask for"]
    assert titles[titles.index("Sign-off") + 1] == "Annex"


def test_a_draft_has_no_place_to_sign(result_of, paper, tmp_path):
    reader = paper(result_of(to_decide=(1, 2)))
    assert not reader.get_fields()
    last = flat(reader.pages[signing_page(reader)].extract_text())
    assert "This is a draft. It cannot be signed: 2 decisions open." in last
    assert "Signatures" not in last
    page = read_html((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Signatures" not in [table.caption for table in page.tables]


def test_fields_can_be_filled_in(result_of, paper):
    reader = paper(result_of(to_decide=()))
    writer = PdfWriter(clone_from=reader)
    writer.update_page_form_field_values(
        writer.pages[signing_page(reader)], {"radiologist_name": "R. Ray"}
    )
    stream = io.BytesIO()
    writer.write(stream)
    assert PdfReader(stream).get_fields()["radiologist_name"]["/V"] == "R. Ray"


def test_same_input_same_bytes(result_of, film, details, tmp_path):
    made = []
    for _ in range(2):
        write_report(result_of(correlations=0, to_decide=()), film, details, tmp_path)
        made.append((tmp_path / "report.pdf").read_bytes())
    assert made[0] == made[1]
    assert b"/AcroForm" in made[0]


def test_html_has_cells_to_write_in_and_no_field_that_keeps_nothing(result_of, paper, tmp_path):
    paper(result_of(correlations=0, to_decide=()))
    reader = read_html((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not reader.of("input", "textarea", "form", "select")
    (table,) = [table for table in reader.tables if table.caption == "Signatures"]
    assert table.rows == [
        ["To be signed by", "Name", "Role, institution", "Date", "Signature"],
        *([role, "", "", "", ""] for role in SIGNERS),
    ]
    assert [a for a in reader.of("div") if a.get("class") == "remarks"]
    assert (3, "Conditions and remarks") in reader.headings
    (chosen,) = [table for table in reader.tables if table.caption == "Decisions"]
    assert chosen.rows[0] == ["", *CHOICES]
    assert [row[0] for row in chosen.rows[1:]] == list(SIGNERS)


def test_hostile_text_stays_on_one_last_page(result_of, paper, tmp_path):
    reader = paper(
        replace(hostile_result(result_of(HOSTILE, 2)), to_decide=()),
        digests=dict.fromkeys(DIGESTS, HOSTILE[3]),
    )
    assert set(reader.get_fields()) == TYPED | CHOSEN
    last = flat(reader.pages[signing_page(reader)].extract_text())
    assert last.startswith("Sign-off")
    assert '<img src="http://x.invalid/a.png"/>' in last
    assert "Conditions and remarks" in last
