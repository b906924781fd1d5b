"""From a folder to an audit: inspect, init, doctor, as a user meets them."""

import csv
import json
import os
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from ravl_med.cli import app, self_check
from ravl_med.cohort.manifest import list_split
from ravl_med.config.loading import load_config
from ravl_med.evidence.audit_result import result_document
from ravl_med.phantoms.cohort import synthesize
from ravl_med.pipeline.audit import audit
from ravl_med.storage import files
from ravl_med.storage.cache import Cache

SECRET = "ZZSECRET"
QUICK = (  # for an audit whose findings do not matter
    "model.quickstart={image_size: 64, epochs: 1, batch_size: 8}",
    "regions.sources=[tiles]",
    "cohort.workers=0",
    "discovery.clusters=[8]",
    "evidence.simulations=20",
    "evidence.effect_films=20",
    "evidence.dependence_films=0",
    "evidence.max_pairs=12",
    "privacy.burned_in_text=show",
    "gate={min_films: 5, max_prediction_share: 0, min_prediction_share: 0}",  # no search
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small archive whose patients, hospital and folders have names that must not be seen."""
    root = tmp_path_factory.mktemp("archive")
    synthesize(root / "made", images=60, size=64, seed=2, workers=1)
    with (root / "made" / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    table = [["accession", "report", "cardiomegaly"]]
    for number, row in enumerate(rows):
        dataset = pydicom.dcmread(root / "made" / row["image"])
        dataset.PatientName, dataset.InstitutionName = f"{SECRET}^X", f"{SECRET} Hospital"
        dataset.PatientID = f"{SECRET}{dataset.PatientID}"
        path = root / "tree" / f"{SECRET}{number % 5}" / f"IM{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path)
        table.append([str(dataset.AccessionNumber), row["report"], row["cardiomegaly"]])
    with (root / "ris.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(table)
    (root / "tree" / "broken.dcm").write_bytes(
        (root / "tree" / f"{SECRET}0" / "IM0").read_bytes()[:900]
    )
    return root / "tree"


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def one_line(outcome: Result, *parts: str) -> None:
    lines = outcome.stderr.strip().splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], outcome.stderr
    for part in parts:
        assert part in outcome.stderr


def test_inspect_tells_counts_and_no_identity(tree: Path) -> None:
    outcome = run("inspect", str(tree), "--reports", str(tree.parent / "ris.csv"))
    assert outcome.exit_code == 0, outcome.output
    assert "61 files read, 60 films kept" in outcome.output
    assert "  view: " in outcome.output
    assert "site 1: 60" in outcome.output
    assert "reports: table" in outcome.output
    assert "Findings, from table" in outcome.output
    assert SECRET not in outcome.output
    assert max(len(line) for line in outcome.output.splitlines()) < 200


def test_inspect_lists_what_is_set_aside(tree: Path, tmp_path: Path) -> None:
    listed = tmp_path / "aside.csv"
    outcome = run("inspect", str(tree), "--list", str(listed))
    assert outcome.exit_code == 0, outcome.output
    with listed.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == [str(tree / "broken.dcm")]
    assert rows[0]["reason"] in outcome.output
    assert listed.stat().st_mode & 0o777 == 0o600
    again = run("inspect", str(tree), "--list", str(listed))
    assert again.exit_code == 2
    one_line(again, "aside.csv cannot be written")
    manifest = tree.parent / "made" / "manifest.csv"
    lost = manifest.with_name("lost.csv")
    lost.write_text(manifest.read_text(encoding="utf-8") + "gone.dcm,9\n", encoding="utf-8")
    assert run("inspect", str(lost), "--list", str(tmp_path / "lost.csv")).exit_code == 0
    assert "gone.dcm,missing" in (tmp_path / "lost.csv").read_text(encoding="utf-8")


def test_a_full_disk_leaves_no_half_of_a_list(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        outcome = run("inspect", str(tree), "--list", str(tmp_path / "aside.csv"))
    assert outcome.exit_code == 2
    one_line(outcome, "No space left on device")
    assert list(tmp_path.iterdir()) == []
    assert run("inspect", str(tree), "--list", str(tmp_path / "aside.csv")).exit_code == 0


def test_reports_without_films_tell_what_they_say(tmp_path: Path) -> None:
    texts = (
        "Pleural effusion on the left.",
        "No pleural effusion.",
        "No effusion. No edema.",
        "Hm",
    )
    for number, text in enumerate(texts * 12):
        (tmp_path / f"{SECRET}{number}.txt").write_text(text)
    outcome = run("inspect", str(tmp_path))
    assert outcome.exit_code == 0, outcome.output
    assert "48 files read, 0 films kept" in outcome.output
    assert "Films kept" not in outcome.output
    assert "Findings, from reports without a film" in outcome.output
    (line,) = [line for line in outcome.output.splitlines() if "pleural effusion" in line]
    assert line.split()[2:] == ["12", "24", "0", "12"]
    assert "reports in which nothing is recognised: 12" in outcome.output
    assert SECRET not in outcome.output


def test_no_cell_of_a_manifest_is_a_formula(tree: Path, tmp_path: Path) -> None:
    """Names of films and headers of others' tables are text to a spreadsheet, and still work."""
    table = [["accession", "report", "=cmd()"]]
    for number, name in enumerate(("=cmd|calc!A0.dcm", "+1.dcm", "@SUM(1).dcm", "-2.dcm", "a.dcm")):
        dataset = pydicom.dcmread(tree / f"{SECRET}{number}" / f"IM{number}")
        dataset.save_as(tmp_path / name)
        table.append([str(dataset.AccessionNumber), "=HYPERLINK(1)", str(number % 2)])
    with (tmp_path / "ris.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(table)
    outcome = run("init", str(tmp_path), "--out", str(tmp_path),
                  "--reports", str(tmp_path / "ris.csv"))  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    with (tmp_path / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert any("=cmd|calc!A0.dcm" in cell for cell in cells)
    assert [cell for cell in cells if cell[:1] in "=+-@\t\r" and cell not in ("", "-1")] == []
    films = list_split(tmp_path / "manifest.csv", None)
    assert {path.name for path in films.paths} >= {"=cmd|calc!A0.dcm", "+1.dcm", "-2.dcm"}


@pytest.mark.long
def test_init_inspect_audit(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "start"
    words = ("--reports", str(tree.parent / "ris.csv"), "--finding", "Cardiomegaly")
    outcome = run("init", str(tree), "--out", str(out), *words)
    assert outcome.exit_code == 0, outcome.output
    assert SECRET not in outcome.output
    assert {path.name for path in out.iterdir()} == {"manifest.csv", "audit.yaml", "relevance.yaml"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in out.iterdir())
    with (out / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 60
    assert all(row["patient"][0] == "p" and row["study"][0] == "s" for row in rows)
    assert {row["site"] for row in rows} == {"site 1"}
    assert all((out / row["image"]).is_file() for row in rows)
    assert not any(Path(row["image"]).is_absolute() for row in rows)
    assert {row["cardiomegaly"] for row in rows} == {"0", "1"}
    splits = {row["patient"]: row["split"] for row in rows}
    assert all(splits[row["patient"]] == row["split"] for row in rows)
    settings = load_config(out / "audit.yaml")
    assert settings.cohort.roots == (out / settings.cohort.roots[0],)
    looked = run("inspect", str(out / "audit.yaml"))
    assert looked.exit_code == 0, looked.output
    assert SECRET not in looked.output
    sets = [word for one in QUICK for word in ("--set", one)]
    words = ("audit", str(out / "audit.yaml"), "--out", str(tmp_path / "run"), "--exit-zero")
    audited = run(*words, *sets)
    assert audited.exit_code == 0, audited.output
    shared = [p for p in (tmp_path / "run").rglob("*") if p.is_file() and "private" not in p.parts]
    assert not [path.name for path in shared if SECRET.encode() in path.read_bytes()]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, str]]]:
    """A folder of 110 films, and the accession number and the report of each."""
    folder = tmp_path_factory.mktemp("films")
    synthesize(folder, images=110, size=64, seed=3, workers=1)
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    (folder / "manifest.csv").unlink()
    for mask in folder.rglob("*.png"):  # of which a segmenter would have to say that it is no film
        mask.unlink()
    numbers = [str(pydicom.dcmread(folder / row["image"]).AccessionNumber) for row in rows]
    return folder, list(zip(numbers, (row["report"] for row in rows), strict=True))


@pytest.mark.parametrize(
    ("findings", "chosen", "lacking"),
    [
        ({"edema": 12, "no finding": 14}, "edema", True),  # neither has 20 in the half
        ({"edema": 2, "no finding": 55}, "no finding", False),
        ({"edema": 56, "no finding": 56}, "edema", False),
    ],
)
def test_init_counts_the_half_that_is_audited(
    films: tuple[Path, list[tuple[str, str]]],
    tmp_path: Path,
    findings: dict[str, int],
    chosen: str,
    *,
    lacking: bool,
) -> None:
    """Of so many of 110 films a finding is present."""
    folder, told = films
    with (tmp_path / "ris.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["accession", "report", *findings])
        for number, row in enumerate(told):
            has = [int(number * 7 % len(told) < count) for count in findings.values()]
            writer.writerow([*row, *has])
    outcome = run(
        "init", str(folder), "--out", str(tmp_path / "o"), "--reports", str(tmp_path / "ris.csv")
    )
    assert outcome.exit_code == 0, outcome.output
    assert ("in the half that is audited" in outcome.output) == lacking
    config = YAML(typ="safe").load((tmp_path / "o" / "audit.yaml").read_text(encoding="utf-8"))
    assert config["task"]["name"] == chosen


@pytest.mark.long
def test_headers_become_axes_of_the_audit(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "start"
    assert (
        run(
            "init", str(tree), "--out", str(out), "--reports", str(tree.parent / "ris.csv")
        ).exit_code
        == 0
    )
    with (out / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    kept = ("image", "patient", "split", "report", "cardiomegaly", "view")
    with (out / "manifest.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, kept, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "view": "" if n % 2 else "LATERAL"} for n, row in enumerate(rows))
    found = attributes(out, tmp_path)
    assert set(found) >= {"sex", "age", "manufacturer", "model", "site", "study_year", "pixels"}
    assert set(found["site"]) == {"site 1"}
    assert set(found["view"]) == {"LATERAL", "not stated"}  # the manifest has the column
    from_headers = attributes(out, tmp_path, "cohort.attributes_from_header=true")
    assert set(from_headers["view"]) > {"LATERAL"}
    assert "not stated" not in from_headers["view"]
    without = attributes(out, tmp_path, "cohort.attributes_from_header=false")
    assert not set(without) & {"sex", "age", "manufacturer", "site"}


def attributes(out: Path, cache: Path, *changes: str) -> dict[str, dict[str, int]]:
    """Films by each attribute, as an audit that ends at its gate counts them."""
    changes = (*QUICK, "privacy.min_cell=1", *changes)
    made = audit(load_config(out / "audit.yaml", changes), key=bytes(32), cache=Cache(cache))
    document = json.loads(result_document(made.result, 0).model_dump_json())
    found: dict[str, dict[str, int]] = document["cohort"]["attributes"]
    return found


def test_a_folder_of_images_and_a_table_is_enough(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(48):
        pixels = rng.integers(0, 255, (32, 32), dtype=np.uint8)
        kind = "jpg" if number % 2 else "png"
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.{kind}")
    rows = [
        f"images/{number:02}.{'jpg' if number % 2 else 'png'},{SECRET}{number // 2},"
        f"{'Edema' if number % 4 < 2 else 'No Finding'},PA"
        for number in range(48)
    ]
    table = "\n".join(["filename,patient_id,finding,view", *rows])
    (tmp_path / "labels.csv").write_text(table, encoding="utf-8")
    looked = run("inspect", str(tmp_path))
    assert "49 files read, 48 films kept: 24 patients" in looked.output
    waits = run("init", str(tmp_path), "--out", str(tmp_path / "waits"))
    assert "Not ready: a model: name its folder in the config (model is not there" in waits.output
    assert "demonstration" not in waits.output
    waiting = load_config(tmp_path / "waits" / "audit.yaml")
    assert (waiting.model.quickstart, waiting.cohort.split) == (None, None)
    assert waiting.model.path == tmp_path / "waits" / "model"
    (tmp_path / "model").mkdir()
    outcome = run("init", str(tmp_path), "--model", str(tmp_path / "model"))
    assert outcome.exit_code == 0, outcome.output
    assert outcome.output.splitlines()[-1].endswith("(Edema)")
    assert "Findings, from table: Edema. Other labels: No Finding." in outcome.output
    assert "Findings by" not in outcome.output
    assert SECRET not in looked.output + outcome.output
    with (tmp_path / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        films = list(csv.DictReader(stream))
    assert {film["patient"] for film in films} == {f"p{n:05}" for n in range(1, 25)}
    assert [film["Edema"] for film in films[:4]] == ["1", "1", "0", "0"]
    assert load_config(tmp_path / "audit.yaml").task.columns()["no Edema"] == {"Edema": 0}


def test_init_writes_nothing_over(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "audit.yaml").write_text("mine", encoding="utf-8")
    outcome = run("init", str(tree), "--out", str(tmp_path))
    assert outcome.exit_code == 2
    one_line(outcome, "audit.yaml exists", "--out")
    assert (tmp_path / "audit.yaml").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "manifest.csv").exists()


def odd_folder(tree: Path, root: Path) -> Path:
    """Films, one with a name in Latin-1; a folder without rights; folders deeper than a path is."""
    odd = root / "odd"
    (odd / "closed").mkdir(parents=True)
    for number, path in enumerate(sorted(tree.rglob("IM*"))[:12]):
        (odd / ("J\udce9r.dcm" if number == 11 else f"{number}.dcm")).write_bytes(path.read_bytes())
    handle = os.open(odd, os.O_RDONLY)
    for _ in range(25):  # more than 4,096 bytes
        os.mkdir("e" * 200, dir_fd=handle)
        inner = os.open("e" * 200, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(handle)
    return odd


def test_odd_names_and_closed_folders_are_counted_and_said(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd, scandir = odd_folder(tree, tmp_path), os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may look into everything
    try:
        out = tmp_path / "out"
        for words, expected in (
            (("inspect", str(odd)), (
                "folders that cannot be looked into: no right to, or too deep",
                "the file's name is not UTF-8 text; rename it",
            )),
            (("init", str(odd), "--out", str(out)), ("folder_not_read: 2, name_no_text: 1",)),
        ):  # fmt: skip
            outcome = run(*words)
            assert outcome.exit_code == 0, outcome.output
            said = " ".join(outcome.output.split())
            assert all(text in said for text in expected), said
        with (out / "manifest.csv").open(encoding="utf-8", newline="") as stream:
            assert len(list(csv.DictReader(stream))) == 11
    finally:  # pytest tidies up no path that long
        monkeypatch.undo()
        subprocess.run(["rm", "-rf", str(odd)], check=True)


def test_init_with_a_model_audits_every_film(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    outcome = run(
        "init", str(tree), "--out", str(tmp_path / "o"), "--model", str(tmp_path / "model")
    )
    assert outcome.exit_code == 0, outcome.output
    assert "Not ready: labels" in outcome.output
    config = YAML(typ="safe").load((tmp_path / "o" / "audit.yaml").read_text(encoding="utf-8"))
    assert config["model"] == {"path": "../model", "name": "model"}
    assert "demonstration" not in outcome.output
    assert config["cohort"]["split"] is None
    assert (
        "split" not in (tmp_path / "o" / "manifest.csv").read_text(encoding="utf-8").splitlines()[0]
    )


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (("inspect", "nowhere"), 2, ("'nowhere': no such file or folder", "expected a folder")),
        (("init", "nowhere"), 2, ("'nowhere' is no folder",)),
        (("init", "{empty}"), 3, ("none of 0 files", "the folder is empty")),
        (("init", "{tree}", "--out", "{empty}/o", "--finding", "gout"), 2, ("'gout'", "none of")),
        (
            ("init", "{tree}", "--out", "{empty}/o", "--reports", "{empty}/no.csv"),
            2,
            ("--reports no.csv: no such file.",),
        ),
    ],
)
def test_bad_input_gets_one_line(
    tree: Path, tmp_path: Path, words: tuple[str, ...], code: int, parts: tuple[str, ...]
) -> None:
    (tmp_path / "empty").mkdir()
    filled = [word.format(empty=tmp_path / "empty", tree=tree) for word in words]
    outcome = run(*filled)
    assert outcome.exit_code == code, outcome.output
    one_line(outcome, *parts)
    assert not list((tmp_path / "empty").iterdir())


def test_a_folder_without_a_usable_film_is_unusable(tmp_path: Path) -> None:
    (tmp_path / "film.jpg").write_bytes(b"\xff\xd8\xff")
    outcome = run("inspect", str(tmp_path))
    assert outcome.exit_code == 3, outcome.output
    assert "1 files read, 0 films kept" in outcome.output


def test_a_manifest_can_be_inspected(tree: Path) -> None:
    outcome = run("inspect", str(tree.parent / "made" / "manifest.csv"))
    assert outcome.exit_code == 0, outcome.output
    assert "60 films kept" in outcome.output
    assert "Findings, from manifest" in outcome.output
    assert "  cardiomegaly " in outcome.output


def test_a_manifest_may_say_its_labels_in_words(tree: Path) -> None:
    made = tree.parent / "made" / "manifest.csv"
    with made.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    lines = [
        f"{row['image']};{row['patient']};{'Yes' if n < 25 else 'no'}" for n, row in enumerate(rows)
    ]
    worded = made.with_name("worded.csv")
    worded.write_text("\n".join(["Image;Patient;gout", *lines]), encoding="utf-8")
    outcome = run("inspect", str(worded))
    assert outcome.exit_code == 0, outcome.output
    (line,) = [line for line in outcome.output.splitlines() if line.startswith("  gout ")]
    assert line.split()[1:3] == ["25", "35"]


def test_the_doctor_is_well_here() -> None:
    short = run("doctor")
    assert short.exit_code == 0, short.output
    assert len(short.output.splitlines()) <= 10
    assert "decoders: 16 transfer syntaxes" in short.output
    outcome = run("doctor", "--verbose")
    assert outcome.exit_code == 0, outcome.output
    lines = outcome.output.splitlines()
    assert max(map(len, lines)) < 80
    assert "MISSING" not in outcome.output
    for part in ("Python 3.", "1.2.840.10008.1.2.4.70 JPEG Lossless: python-gdcm", "cache folder"):
        assert part in outcome.output
    assert str(Path.home()) not in outcome.output


def test_the_doctor_says_what_finds_text_on_films(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "burned-in text: rapidocr" in " ".join(run("doctor").output.split())
    monkeypatch.setattr("ravl_med.regions.burned_in_text.ocr_version", str)
    told = " ".join(run("doctor").output.split())
    assert "MISSING burned-in text: no OCR" in told
    assert "-> pip install rapidocr onnxruntime" in told


def test_the_doctor_speaks_json() -> None:
    checks = json.loads(run("doctor", "--json").output)
    assert {check["status"] for check in checks} <= {"ok", "note"}
    assert all(set(check) == {"name", "status", "found", "cure"} for check in checks)


def test_the_doctor_names_what_is_missing_and_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "pyjpegls":
            raise metadata.PackageNotFoundError(name)
        return "0.0.1" if name == "numpy" else "9999"

    requirements = ["numpy>=2.0", "pyjpegls>=1.5", 'extra-thing; extra == "test"']
    monkeypatch.setattr(self_check.metadata, "version", version)
    monkeypatch.setattr(self_check.metadata, "requires", lambda name: requirements)
    monkeypatch.setattr("ravl_med.cohort.pixel_decoding.find_spec", lambda name: None)
    outcome = run("doctor")
    assert outcome.exit_code == 1
    for part in (
        "MISSING numpy: 0.0.1; expected >=2.0",
        '-> pip install "pyjpegls>=1.5"',
        "-> pip install python-gdcm",
    ):
        assert part in outcome.output
    assert "extra-thing" not in outcome.output


def test_the_doctor_sees_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_check.os, "access", lambda path, mode: False)
    outcome = run("doctor")
    assert outcome.exit_code == 1
    assert "MISSING cache folder: cannot be written" in outcome.output
    assert "-> set XDG_CACHE_HOME to a folder of your own" in outcome.output
