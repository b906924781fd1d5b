"""The manifest: every column rule, what is left out, what is set aside, rows as shown."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravl_med.cohort.manifest import Cohort, read_manifest
from ravl_med.cohort.table import intern_texts
from ravl_med.config.cohort import LabelsConfig
from ravl_med.errors import ConfigError, DataError

TASK = {"effusion": {"effusion": 1}, "no finding": {"effusion": 0, "edema": 0}}


def read(folder: Path, text: str, **options: object) -> Cohort:
    path = folder / "manifest.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return read_manifest(path, **({"split": None} | options))  # type: ignore[arg-type]


def test_a_manifest_without_a_task(tmp_path: Path) -> None:
    cohort = read(
        tmp_path,
        "image,patient,report,view,sex,age,site,manufacturer\n"
        " a.png ,p2, Clear lungs. ,PA,F,61,north,Acme\n"
        "sub/b.dcm,p1,,AP,M,,south,\n"
        "/far/c.png,p2,,,,,,\n",
        roots=(Path("/far"),),
    )
    assert len(cohort) == cohort.listed == 3
    assert cohort.name == "manifest.csv"
    assert cohort.rows.tolist() == [2, 3, 4]
    assert tuple(cohort.paths) == (
        tmp_path / "a.png",
        tmp_path / "sub" / "b.dcm",
        Path("/far/c.png"),
    )
    assert cohort.patients.tolist() == [1, 0, 1]
    assert cohort.radiology_reports == ("Clear lungs.", "", "")
    assert cohort.labels.tolist() == [-1, -1, -1]
    assert cohort.classes == ()
    assert cohort.attributes == {
        "view": ("PA", "AP", ""),
        "sex": ("F", "M", ""),
        "age": ("61", "", ""),
        "site": ("north", "south", ""),
        "manufacturer": ("Acme", "", ""),
    }
    assert cohort.rejected == ()


def test_classes_and_all_that_is_left_out(tmp_path: Path) -> None:
    cohort = read(
        tmp_path,
        "image,patient,effusion,edema\n"
        "a,1,1,0\n"
        "b,1,1.0,1\n"
        "c,2,0,0.0\n"
        "d,2,0,1\n"  # no class
        "e,3,-1,0\n"  # uncertain
        "f,3,-1.0,0\n"
        "g,4,1,\n",  # blank
        columns=TASK,
    )
    assert cohort.classes == ("effusion", "no finding")
    assert cohort.labels.tolist() == [0, 0, 1]
    assert cohort.rows.tolist() == [2, 3, 4]
    assert cohort.left_out == {"no class": 1, "uncertain label": 2, "blank label": 1}
    assert cohort.listed == 7


def test_a_film_of_two_classes_is_left_out(tmp_path: Path) -> None:
    task = {"effusion": {"effusion": 1}, "edema": {"edema": 1}}
    cohort = read(tmp_path, "image,patient,effusion,edema\na,1,1,1\nb,1,0,1\n", columns=task)
    assert cohort.labels.tolist() == [1]
    assert cohort.left_out == {"several classes": 1}


def test_blank_may_count_as_negative_but_uncertain_may_not(tmp_path: Path) -> None:
    text = "image,patient,effusion,edema\na,1,1,\nb,1,,\nc,1,-1,\n"
    cohort = read(tmp_path, text, columns=TASK, labels=LabelsConfig(blank="negative"))
    assert cohort.labels.tolist() == [0, 1]
    assert cohort.left_out == {"uncertain label": 1}


@pytest.mark.parametrize("cell", ["x", "2", "nan", "yes", "0.5"])
def test_a_label_that_is_none(tmp_path: Path, cell: str) -> None:
    text = f"image,patient,effusion,edema\na,1,1,0\nb,1,0,{cell}\n"
    with pytest.raises(
        DataError, match=rf"manifest.csv row 3: edema is '{cell}'; expected 1, 0, -1 or blank"
    ):
        read(tmp_path, text, columns=TASK)


@pytest.mark.parametrize("separator", [";", "\t", ","])
def test_a_spreadsheet_may_separate_name_and_spell_as_it_does(
    tmp_path: Path, separator: str
) -> None:
    lines = ("Image;PATIENT;View;effusion;Edema", "a;1;PA;Yes;negative", "b;2;AP;no;NO")
    task = {"effusion": {"effusion": 1}, "no finding": {"effusion": 0, "Edema": 0}}
    cohort = read(tmp_path, "\n".join(lines).replace(";", separator), columns=task)
    assert cohort.labels.tolist() == [0, 1]
    assert cohort.attributes == {"view": ("PA", "AP")}


def test_columns_outside_the_task_may_hold_anything(tmp_path: Path) -> None:
    cohort = read(tmp_path, "image,patient,effusion,edema,x\na,1,1,0,NA\n", columns=TASK)
    assert len(cohort) == 1


def test_a_class_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"task.classes.edema: manifest.csv has no column 'oedema'; got image, patient, "
        r"edema. Did you mean 'edema'\?",
    ):
        read(tmp_path, "image,patient,edema\na,1,1\n", columns={"edema": {"oedema": 1}})
    with pytest.raises(ConfigError, match=r"no column 'xyz'; got image, patient\.$"):
        read(tmp_path, "image,patient\na,1\n", columns={"a": {"xyz": 1}})


@pytest.mark.parametrize("column", ["image", "patient"])
def test_required_columns(tmp_path: Path, column: str) -> None:
    header = "image,patient".replace(column, "other")
    with pytest.raises(DataError, match=f"manifest.csv: column '{column}' is missing; got .*other"):
        read(tmp_path, f"{header}\na,1\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "manifest.csv: the file is empty; expected a header"),
        (b"\n , \n", "the file is empty"),
        (b"image,patient\n", "no rows below the header"),
        (b"image,patient\n,\n\n", "no rows below the header"),
        (b"image,patient\n\xff\xfe,1\n", r"not a UTF-8 CSV table \(UnicodeDecodeError\)"),
        (
            b'image,patient\na,1\n"b,1\nc,2\n',
            "row 3: double quotes that open a cell are never closed",
        ),
        (b"picture;patient\na;1\n", "column 'image' is missing; got picture, patient"),
        (b"image,patient,Image\na,1,b\n", "column 'image' stands 2 times"),
        (b"image,patient,image\na,1,b\n", "column 'image' stands 2 times"),
        (b"image,patient\na,1\nb,1,No effusion\n", "row 3: 3 cells; expected 2 as in the header"),
        (b"image,patient\na,1,No effusion\n", "row 2: 3 cells; expected 2 as in the header"),
    ],
)
def test_what_is_not_a_manifest(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_manifest(path, split=None)
    assert str(tmp_path) not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cohort.manifest: 'none.csv' does not exist") as caught:
        read_manifest(tmp_path / "none.csv", split=None)
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(DataError, match="a folder; expected a regular file"):
        read_manifest(tmp_path, split=None)


def test_byte_order_mark_carriage_returns_and_quotes(tmp_path: Path) -> None:
    text = '\ufeffimage, patient ,report\r\na,p,"Two lines,\r\nand ""quotes""."\r\nb,p,\r\n'
    cohort = read(tmp_path, text)
    assert cohort.rows.tolist() == [2, 3]
    assert cohort.radiology_reports == ('Two lines,\r\nand "quotes".', "")


def test_rows_are_counted_as_a_spreadsheet_does(tmp_path: Path) -> None:
    text = 'image,patient,report\na,1,"line\nline"\n\n,,\nb,1,\n,2,\n\n'
    cohort = read(tmp_path, text)
    # A quoted line break stays in its row, a blank row has a number but is no film.
    assert cohort.rows.tolist() == [2, 5]
    assert [film.row for film in cohort.rejected] == [6]
    assert cohort.listed == 3


def test_short_rows_trailing_commas_and_an_unnamed_column(tmp_path: Path) -> None:
    cohort = read(tmp_path, ",image,patient,view,\n0,a,1\n1,b,2,P\0A,,,\n")
    assert tuple(cohort.paths) == (tmp_path / "a", tmp_path / "b")
    assert cohort.attributes == {"view": ("", "P A")}  # a NUL could not be read back


def test_blanks_do_not_split_a_patient(tmp_path: Path) -> None:
    assert read(tmp_path, "image,patient\na,p1\nb, p1 \nc,NA\n").patients.tolist() == [1, 1, 0]


def test_rows_that_cannot_be_used(tmp_path: Path) -> None:
    cohort = read(tmp_path, "image,patient\na,1\n,2\nb,\na,3\nc,4\n")
    assert cohort.rows.tolist() == [2, 6]
    assert cohort.patients.tolist() == [0, 1]
    assert [(film.row, film.reason) for film in cohort.rejected] == [
        (3, "no_image"),
        (4, "no_patient"),
        (5, "listed_twice"),
    ]
    assert [film.message for film in cohort.rejected] == [
        "manifest.csv row 3: image is blank; expected a path. Fill it in.",
        "manifest.csv row 4: patient is blank; expected any stable code, since patients are "
        "resampled.",
        "manifest.csv row 5: the image stands in an earlier row. Remove one.",
    ]


def test_report_files(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("From a file.\n")
    text = (
        "image,patient,report,report_path\n"
        "a,1,In the cell.,r.txt\nb,1,,r.txt\nc,1,,\nd,1,,doe.txt\n"
    )
    cohort = read(tmp_path, text)
    assert cohort.radiology_reports == ("In the cell.", "From a file.", "")
    (lost,) = cohort.rejected
    assert (lost.row, lost.reason) == (5, "report_unreadable")
    assert lost.message.startswith("manifest.csv row 5: report_path: no such file")
    assert "doe" not in lost.message


SPLITS = "image,patient,split,effusion,edema\na,1,finetune,1,0\nb,2, test ,1,0\nc,3,,1,0\n"


def test_a_split_is_taken(tmp_path: Path) -> None:
    cohort = read(tmp_path, SPLITS, split="test")
    assert cohort.rows.tolist() == [3]
    assert cohort.left_out == {"other split": 2}
    assert len(read(tmp_path, SPLITS, split=None)) == 3
    assert len(read(tmp_path, "image,patient\na,1\n", split="test")) == 1


def test_what_another_split_hides_is_not_counted_twice(tmp_path: Path) -> None:
    text = SPLITS + "a,4,test,-1,0\n,5,finetune,1,0\n"
    cohort = read(tmp_path, text, split="test", columns=TASK)
    assert cohort.left_out == {"other split": 3, "uncertain label": 1}
    assert cohort.rejected == ()


def test_splits_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"row 2: split is 'train'; expected one of finetune, validation, test"
    ):
        read(tmp_path, "image,patient,split\na,1,train\n")
    with pytest.raises(DataError, match=r"no row has split 'validation'; got finetune, test\. Set"):
        read(tmp_path, SPLITS, split="validation")
    with pytest.raises(DataError, match="no row has split 'test'; got blanks"):
        read(tmp_path, "image,patient,split\na,1,\n", split="test")


def test_keep_renumbers_patients_and_carries_the_rest(tmp_path: Path) -> None:
    text = "image,patient,report,view\na,p0,A,PA\nb,p1,B,AP\nc,p2,C,PA\nd,p1,D,\n,p9,,\n"
    cohort = read(tmp_path, text)
    kept = cohort.keep(np.array([1, 2, 3]), cohort.rejected)
    assert kept.patients.tolist() == [0, 1, 0]
    assert kept.rows.tolist() == [3, 4, 5]
    assert tuple(kept.paths) == (tmp_path / "b", tmp_path / "c", tmp_path / "d")
    assert kept.radiology_reports == ("B", "C", "D")
    assert kept.attributes == {"view": ("AP", "PA", "")}
    assert len(kept.rejected) == 2
    assert kept.listed == 5
    assert len(cohort) == 4  # the cohort itself is left as it was
    assert len(cohort.keep(np.array([], dtype=np.int64))) == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["p", "q", "r"]), st.sampled_from("ab"), st.sampled_from("ab")),
        min_size=1,
        max_size=12,
    )
)
def test_every_row_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, films: list[tuple[str, str, str]]
) -> None:
    cells = {"a": "1", "b": "0"}
    lines = [f"{i}.png,{p},{cells[x]},{cells[y]}" for i, (p, x, y) in enumerate(films)]
    text = "\n".join(["image,patient,effusion,edema", *lines])
    cohort = read(tmp_path_factory.mktemp("m"), text, columns=TASK)
    assert len(cohort) + sum(cohort.left_out.values()) == cohort.listed == len(films)
    names = [films[row - 2][0] for row in cohort.rows]
    assert np.unique(cohort.patients).tolist() == list(range(len(set(names))))
    pairs = set(zip(names, cohort.patients.tolist(), strict=True))
    assert len(pairs) == len(set(names))


def test_labels_read_off_reports(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("FINDINGS: Edema. IMPRESSION: Cardiomegaly.", encoding="utf-8")
    text = (
        "image,patient,report,report_path\n"
        "a,1,IMPRESSION: Cardiomegaly.,\n"
        "b,1,Heart size is normal. No edema.,\n"
        "c,2,Possible cardiomegaly.,\n"
        "d,2,,d.txt\n"
        "e,3,Clear lungs.,\n"  # the heart is not mentioned
        "f,3,Herz nicht vergrößert. Kein Erguss.,\n"
        "g,4,,\n"
        "h,4,,none.txt\n"
    )
    task = {"cardiomegaly": {"cardiomegaly": 1}, "other": {"cardiomegaly": 0}}
    cohort = read(tmp_path, text, columns=task, labels=LabelsConfig(source="reports"))
    assert cohort.rows.tolist() == [2, 3, 5]
    assert cohort.labels.tolist() == [0, 1, 0]
    assert cohort.label_sources == (
        "report: impression", "report: free text", "report: findings and impression",
    )  # fmt: skip
    assert cohort.label_certainty == ("stated",) * 3
    assert cohort.left_out == {
        "uncertain label": 1, "blank label": 1, "report not recognised": 1, "no report": 1,
    }  # fmt: skip
    assert [film.reason for film in cohort.rejected] == ["report_unreadable"]

    policy = LabelsConfig(source="reports", uncertain="positive", blank="negative")
    cohort = read(tmp_path, text, columns=task, labels=policy)
    assert cohort.labels.tolist() == [0, 1, 0, 0, 1]
    assert cohort.label_certainty == ("stated", "stated", "uncertain", "stated", "blank")
    kept = cohort.keep(np.array([2, 4]))
    assert kept.label_certainty == ("uncertain", "blank")
    assert kept.label_sources == ("report: free text",) * 2


def test_reports_of_another_language_stop_the_run(tmp_path: Path) -> None:
    text = "image,patient,report\na,1,Cardiomegaly.\nb,1,Kein Pneumothorax. Herz normal.\n"
    task = {"cardiomegaly": {"cardiomegaly": 1}, "pneumothorax": {"pneumothorax": 1}}
    with pytest.raises(DataError, match=r"nothing is recognised in 1 of 2 reports \(50 %"):
        read(tmp_path, text, columns=task, labels=LabelsConfig(source="reports"))


def test_certainty_of_labels_from_columns(tmp_path: Path) -> None:
    text = "image,patient,effusion,edema\na,1,1,\nb,1,0,0\nc,2,-1,0\n"
    policy = LabelsConfig(uncertain="negative", blank="negative")
    cohort = read(tmp_path, text, columns=TASK, labels=policy)
    assert cohort.labels.tolist() == [0, 1, 1]
    assert cohort.label_certainty == ("blank", "stated", "uncertain")
    assert cohort.label_sources == ("manifest",) * 3


def test_one_film_of_each_study(tmp_path: Path) -> None:
    text = (
        "image,patient,study,view,effusion,edema\n"
        "a,1,s,LATERAL,1,0\nb,1,s,PA,1,0\nc,1,t,AP,0,0\nd,2,,AP,1,0\ne,2,s,AP,,0\n"
    )
    cohort = read(tmp_path, text, columns=TASK, unit="study")
    assert cohort.rows.tolist() == [3, 4]
    assert cohort.left_out == {"blank label": 1, "another film of the study": 1}
    assert [(film.row, film.reason) for film in cohort.rejected] == [(5, "no_study")]
    assert "study is blank; expected any stable code" in cohort.rejected[0].message
    with pytest.raises(DataError, match="column 'study' is missing"):
        read(tmp_path, "image,patient\na,1\n", unit="study")


def test_a_cell_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a cell is over 131,072 characters, as one is whose"):
        read(tmp_path, "image,patient,report\na,1," + "x" * 140_000 + "\n")


def test_frames_are_read_and_an_image_may_stand_once_for_each(tmp_path: Path) -> None:
    cohort = read(tmp_path, "image,patient,frame\na,1,1\na,1,2\na,1,2\nb,2,\n")
    assert cohort.frames == (1, 2, None)
    assert cohort.keep(np.array([1])).frames == (2,)
    assert [(film.row, film.reason) for film in cohort.rejected] == [(4, "listed_twice")]
    assert read(tmp_path, "image,patient\na,1\n").frames == ()


@pytest.mark.parametrize("cell", ["0", "-1", "1.5", "first", "\u0663"])
def test_a_frame_that_is_none(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DataError, match=r"manifest.csv row 2: frame is .*expected a number from 1"):
        read(tmp_path, f"image,patient,frame\na,1,{cell}\n")


def test_reports_and_annotations_outside_the_folder_are_set_aside(tmp_path: Path) -> None:
    folder = tmp_path / "cohort"
    folder.mkdir()
    (tmp_path / "r.txt").write_text("secret", encoding="utf-8")
    text = "image,patient,report_path,annotation\na,1,../r.txt,\nb,2,,../b.png\nc,3,,c.png\n"
    cohort = read(folder, text)
    assert [(f.row, f.reason) for f in cohort.rejected] == [
        (2, "outside_root"),
        (3, "outside_root"),
    ]
    assert "secret" not in "".join(cohort.radiology_reports)
    assert "r.txt" not in cohort.rejected[0].message
    allowed = read(folder, text, roots=(tmp_path,))
    assert allowed.radiology_reports == ("secret", "", "")
    assert allowed.rejected == ()


def test_equal_short_texts_are_one_and_long_ones_stay_as_they_are() -> None:
    short, long = ["".join(["P", "A"]) for _ in range(2)], ["-".join(["word"] * 9)] * 2
    known: dict[str, str] = {}
    shared = intern_texts([*short, *long, ""], known)
    assert shared == [*short, *long, ""]
    assert shared[0] is shared[1]
    assert intern_texts(["".join(["P", "A"])], known)[0] is shared[0]
    assert set(known) == {"PA", ""}


# Patients and films that stand elsewhere too

LEAKY = (
    "image,patient,split\n"
    "a.png,p1,finetune\n"
    "b.png,p2,finetune\n"
    "c.png,p1,validation\n"  # another film of a patient
    "b.png,p9,validation\n"  # the same film under another code
    "d.png,p3,validation\n"
    "e.png,p3,test\n"
    "f.png,p4,validation\n"
)


def test_films_and_patients_in_another_split_are_noted(tmp_path: Path) -> None:
    cohort = read(tmp_path, LEAKY, split="validation")
    assert {place: films.tolist() for place, films in cohort.elsewhere.items()} == {
        "split finetune": [True, True, False, False],
        "split test": [False, False, True, False],
    }
    some = cohort.keep(np.array([1, 3]))
    assert some.elsewhere["split finetune"].tolist() == [True, False]
    assert read(tmp_path, LEAKY, split=None).elsewhere["split finetune"].sum() == 3
    assert read(tmp_path, "image,patient\na.png,p1\n").elsewhere == {}


def test_films_of_the_list_that_a_model_was_fitted_on_are_noted(tmp_path: Path) -> None:
    fitted = tmp_path / "fitted.csv"
    for text, wanted in (
        ("patient\np3\np7\n", [False, False, True, False]),
        ("image\nf.png\n", [False, False, False, True]),
        ("image,patient\nx.png,p1\n", [True, False, False, False]),
    ):
        fitted.write_text(text, encoding="utf-8")
        cohort = read(tmp_path, LEAKY, split="validation", trained_on=fitted)
        assert cohort.elsewhere["model.trained_on"].tolist() == wanted
    fitted.write_text("film\nf.png\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"trained_on: 'fitted.csv' has neither column 'patient'"):
        read(tmp_path, LEAKY, split="validation", trained_on=fitted)
    with pytest.raises(ConfigError, match=r"model\.trained_on: 'none.csv' does not exist"):
        read(tmp_path, LEAKY, split="validation", trained_on=tmp_path / "none.csv")


@pytest.mark.timeout(10)
def test_a_manifest_that_is_no_file_and_a_quote_that_never_closes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match=r"pipe.csv: a named pipe; expected a regular file"):
        read_manifest(tmp_path / "pipe.csv", split=None)
    with pytest.raises(DataError, match="double quotes that open a cell are never closed"):
        read(tmp_path, 'image,patient\n"a.png,p1\nb.png,p2\n')
    with pytest.raises(DataError, match=r"manifest\.csv row 3: .* double quotes are never closed"):
        read(tmp_path, 'image,patient\na.png,p1\n"b.png,p2\n' + "c.png,p3\n" * 20_000)
    with pytest.raises(DataError, match=r"row 2: double quotes stand within a cell"):
        read(tmp_path, 'image,patient\n"a" png,p1\n')


@pytest.mark.timeout(10)
def test_a_report_that_is_no_file_sets_its_row_aside(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    cohort = read(tmp_path, "image,patient,report_path\na.png,p1,pipe.txt\nb.png,p2,\n")
    assert [(film.row, film.reason) for film in cohort.rejected] == [(2, "report_unreadable")]
    assert cohort.rows.tolist() == [3]
