"""Which report belongs to which film."""

from pathlib import Path

import pytest

from ravl_med.cohort.archive import ReportSources, read_report_table
from ravl_med.cohort.survey import SurveyedFile
from ravl_med.errors import DataError

FILM = SurveyedFile("film", accession="ACC1", study="1.2.3", instance="1.2.3.4")
PATH = Path("/archive/patient/IM0001.dcm")


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_latest_structured_report_of_the_study() -> None:
    sources = ReportSources()
    sources.add_structured(SurveyedFile("report", study="1.2.3", when="20200103", text="new"))
    sources.add_structured(SurveyedFile("report", study="1.2.3", when="20200102", text="old"))
    found = sources.find(FILM, PATH)
    assert (found.text, found.source) == ("new", "structured report")


@pytest.mark.parametrize("name", ["ACC1", "IM0001", "IM0001.dcm", "1.2.3", "1.2.3.4"])
def test_a_text_file_by_accession_name_or_identifier(tmp_path: Path, name: str) -> None:
    sources = ReportSources()
    sources.add_files([tmp_path / "other.txt", tmp_path / f"{name}.txt"])
    found = sources.find(FILM, PATH)
    assert (found.path, found.source) == (tmp_path / f"{name}.txt", "text file")


def test_a_table_goes_before_the_rest_and_adds_findings(tmp_path: Path) -> None:
    path = table(
        tmp_path / "ris.csv",
        "Accession Number,findings,impression,effusion,edema,note\n"
        "ACC1,Large heart.,Cardiomegaly.,1,-1,\nACC2,,,0.0,,a\n",
    )
    sources = ReportSources()
    sources.add_structured(SurveyedFile("report", accession="ACC1", text="structured"))
    assert sources.add_table(path)
    found = sources.find(FILM, PATH)
    assert found.text == "FINDINGS: Large heart.\nIMPRESSION: Cardiomegaly."
    assert found.source == "table"
    assert found.findings == {"effusion": "1"} | {}
    assert sources.columns == ("effusion",)


def test_findings_of_a_table_join_a_report_from_elsewhere(tmp_path: Path) -> None:
    sources = ReportSources()
    sources.add_table(table(tmp_path / "l.csv", "image,effusion\nsub/IM0001.dcm,1\n"))
    sources.add_structured(SurveyedFile("report", study="1.2.3", text="structured"))
    found = sources.find(FILM, PATH)
    assert (found.text, found.findings) == ("structured", {"effusion": "1"})


def test_no_report() -> None:
    found = ReportSources().find(FILM, PATH)
    assert (found.text, found.path, found.source, found.findings) == ("", None, "", {})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,b\n1,2\n",
        "accession,age\nACC1,61\n",
        "image,patient,report\na.dcm,1,Clear.\n",  # a manifest
    ],
)
def test_tables_that_are_none_of_films(tmp_path: Path, text: str) -> None:
    assert read_report_table(table(tmp_path / "t.csv", text)) == ({}, ())


def test_a_table_that_is_no_text_is_not_named(tmp_path: Path) -> None:
    path = tmp_path / "doe.csv"
    path.write_bytes(b"\xff\xfe\x00accession")
    with pytest.raises(DataError, match=r"no UTF-8 CSV \(UnicodeDecodeError\)") as caught:
        read_report_table(path)
    assert "doe" not in str(caught.value)


def test_labels_in_words_are_labels(tmp_path: Path) -> None:
    text = (
        "accession,covid-19,Effusion,portable,remark\n"
        "A,Yes,negative,yes,old\nB,no,POSITIVE,no,\nC,unknown,,,x\n"
    )
    rows, columns = read_report_table(table(tmp_path / "t.csv", text))
    assert columns == ("covid-19", "Effusion")
    assert [list(rows[key].findings.values()) for key in "ABC"] == [
        ["1", "0"],
        ["0", "1"],
        ["", ""],
    ]
