"""Which report belongs to which film."""

from dataclasses import replace
from pathlib import Path

import pytest

from ravl_med.cohort.archive import ReportSources
from ravl_med.cohort.report_table import read_report_table
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
        "accession,remark\nACC1,old\n",
    ],
)
def test_tables_that_are_none_of_films(tmp_path: Path, text: str) -> None:
    assert read_report_table(table(tmp_path / "t.csv", text)) == ({}, ())


def test_a_table_that_is_no_text_is_not_named(tmp_path: Path) -> None:
    path = tmp_path / "doe.csv"
    path.write_bytes(b"\xff\xfe\x00accession")
    with pytest.raises(DataError, match=r"not a UTF-8 CSV table \(UnicodeDecodeError\)") as caught:
        read_report_table(path)
    assert "doe" not in str(caught.value)
    with pytest.raises(DataError, match=r"a table row 2: double quotes .* are never closed"):
        read_report_table(table(path, 'accession,report\nA,"Clear lungs.\nB,Effusion.\n'))


def test_semicolons_lie_between_cells_as_well(tmp_path: Path) -> None:
    text = "image;report;edema\n1.png;Clear, no edema.;0\n2.png;Edema.;1\n"
    rows, columns = read_report_table(table(tmp_path / "t.csv", text))
    assert (columns, rows["/1.png"].text) == (("edema",), "Clear, no edema.")


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


BARE = SurveyedFile("film", has_header=False)


def test_a_table_says_what_images_do_not(tmp_path: Path) -> None:
    text = (
        "Image Index,Finding Labels,Patient ID,View Position,Patient Gender\n"
        "1.png,Edema|Mass,7,PA,F\n2.png,Edema,8,AP,M\n3.png,No Finding,8,AP,M\n"
        "4.png,No Finding,9,AP,M\n5.png,Mass,9,,\n"
    )
    rows, columns = read_report_table(table(tmp_path / "nih.csv", text))
    assert columns == ("Edema", "Mass", "No Finding")
    assert rows["/1.png"].findings == {"Edema": "1", "Mass": "1", "No Finding": "0"}
    assert rows["/1.png"].stated == {
        "patient": "7",
        "view": "PA",
        "sex": "F",
        "age": "",
        "site": "",
    }
    assert rows["/1.png"].text == ""


def test_a_path_names_a_film_by_what_no_other_has(tmp_path: Path) -> None:
    """As in CheXpert, where every file is called view1_frontal.jpg."""
    folder = Path("/data/train")
    paths = [folder / f"patient{n}" / "study1" / "view1.jpg" for n in (1, 2, 3)]
    sources = ReportSources()
    sources.note_paths([*paths, folder / "own.jpg"])
    text = "Path,Edema\nC/train/patient1/study1/view1.jpg,1\nC/train/patient2/study1/view1.jpg,0\n"
    assert sources.add_table(table(tmp_path / "train.csv", f"{text}elsewhere/own.jpg,1\n"))
    said = [sources.find(BARE, path).findings.get("Edema") for path in paths]
    assert said == ["1", "0", None]
    assert sources.find(BARE, folder / "own.jpg").findings == {"Edema": "1"}
    alone = ReportSources()
    alone.note_paths(paths)
    alone.add_table(table(tmp_path / "one.csv", "image,Edema\nview1.jpg,1\n"))
    assert not any(alone.find(BARE, path).findings for path in paths)


def test_a_row_of_the_film_goes_before_one_of_its_study(tmp_path: Path) -> None:
    rows = "1.2.3,IM0001.dcm,1\n1.2.3,IM0002.dcm,0\n,1.2.3.9,0\n"
    sources = ReportSources()
    sources.add_table(table(tmp_path / "a.csv", f"StudyInstanceUID,image,edema\n{rows}"))
    films = [(FILM, PATH), (FILM, PATH.with_name("IM0002.dcm"))]
    films += [(replace(FILM, study="", instance="1.2.3.9"), PATH.with_name("IM0003.dcm"))]
    said = [sources.find(film, path).findings["edema"] for film, path in films]
    assert said == ["1", "0", "0"]


def test_a_text_file_is_that_of_the_nearest_film(tmp_path: Path) -> None:
    """Of films that are called alike, with and without a suffix, each has its own patient's."""
    images = [tmp_path / "p1" / "IM1", tmp_path / "p2" / "IM1.dcm", tmp_path / "p2" / "IM2.dcm"]
    images += [tmp_path / "p2" / "IM2.png"]  # a preview
    reports = [tmp_path / place / "IM1.txt" for place in ("p1", "p2")] + [tmp_path / "IM2.txt"]
    sources = ReportSources()
    sources.note_paths(images)
    sources.add_files(reports)
    found = [sources.find(SurveyedFile("film"), path).path for path in images]
    assert found == [reports[0], reports[1], reports[2], reports[2]]
    lacking = ReportSources()
    lacking.note_paths(images)
    lacking.add_files([reports[0], tmp_path / "x" / "IM2.txt", tmp_path / "y" / "IM2.txt"])
    found = [lacking.find(SurveyedFile("film"), path).path for path in images]
    assert found == [reports[0], None, None, None]  # p2 has none; two trees have one of IM2


def test_two_tables_of_one_film_are_one(tmp_path: Path) -> None:
    sources = ReportSources()
    sources.add_table(table(tmp_path / "a.csv", "image,patient,accession\n1.png,7,A\n"))
    sources.add_table(table(tmp_path / "b.csv", "image,accession,report,edema\n1.png,A,Clear.,1\n"))
    found = sources.find(BARE, Path("/x/1.png"))
    assert (found.text, found.findings, found.stated["patient"]) == ("Clear.", {"edema": "1"}, "7")
    assert len(sources.reports()) == 1
