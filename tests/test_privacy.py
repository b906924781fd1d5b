"""Fifty words that name nobody, planted wherever a patient could be named: none may come out."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from burned_in_films import burn
from numpy.typing import NDArray
from PIL import Image
from pypdf import PdfReader
from rapidocr import RapidOCR
from typer.testing import CliRunner

from ravl_med.cli import app
from ravl_med.phantoms.cohort import synthesize
from ravl_med.regions.burned_in_text import TextReader

pytestmark = pytest.mark.long

TAGS = (
    "PatientName", "PatientID", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName",
    "PatientAddress", "PatientTelephoneNumbers", "PatientComments", "MedicalRecordLocator",
    "IssuerOfPatientID", "PatientReligiousPreference", "Occupation", "EthnicGroup", "MilitaryRank",
    "AccessionNumber", "StudyID", "StudyDescription", "SeriesDescription", "ProtocolName",
    "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName",
    "DeviceSerialNumber", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName",
    "NameOfPhysiciansReadingStudy", "RequestingPhysician", "PhysiciansOfRecord",
    "RequestingService", "ImageComments", "AdmittingDiagnosesDescription",
    "RequestedProcedureDescription",
    "PerformedProcedureStepDescription", "AdditionalPatientHistory",
)  # fmt: skip
FOLDERS, FILES, REPORTS = 4, 4, 6
TOKENS = [f"QZX{number:02d}VWK" for number in range(len(TAGS) + FOLDERS + FILES + REPORTS)]


def burn_token(dataset: pydicom.Dataset, number: int) -> None:
    """Write a token into the pixels, white or black as shown: upright, or from below upwards."""
    stored = dataset.pixel_array
    dark, turned = number % 3 == 1, (0, 90)[number % 4 == 2]
    place = (20 + number % 60, 20 + number % 70) if turned else (20 + number % 60, 20 + number)
    blank = np.full(stored.shape, 255 if dark else 0, dtype=np.uint8)
    _, words = burn(blank, TOKENS[number % 50], place, 14, -255 if dark else 255, turned)
    ink = words.ink
    if dark:  # black letters stand on something bright
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        plate = np.s_[rows[0] - 4 : rows[-1] + 5, columns[0] - 4 : columns[-1] + 5]
        stored[plate] = shown_as(dataset, white=True)
    stored[ink] = shown_as(dataset, white=not dark)
    dataset.PixelData = stored.tobytes()
    dataset.BurnedInAnnotation = "YES" if number % 2 else "NO"


def shown_as(dataset: pydicom.Dataset, *, white: bool) -> int:
    """The stored value that is shown in white, or black."""
    bright = white == (dataset.PhotometricInterpretation == "MONOCHROME2")
    bits = int(dataset.BitsStored) - int(dataset.PixelRepresentation)
    least = -(2**bits) if dataset.PixelRepresentation else 0
    return 2**bits - 1 if bright else least


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films whose headers, folders, names and reports hold the tokens; some cannot be read."""
    root = tmp_path_factory.mktemp("privacy")
    synthesize(root / "made", images=120, size=192, seed=2, workers=1)
    with (root / "made" / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    folders, names = TOKENS[len(TAGS) :][:FOLDERS], TOKENS[len(TAGS) + FOLDERS :][:FILES]
    words = TOKENS[-REPORTS:]
    table = [["image", "report", "cardiomegaly"]]
    for number, row in enumerate(rows):
        dataset = pydicom.dcmread(root / "made" / row["image"])
        for tag, token in zip(TAGS, TOKENS, strict=False):
            setattr(dataset, tag, f"{token}-{row['patient']}"[:16])
        burn_token(dataset, number)
        path = root / "in" / folders[number % FOLDERS] / f"{names[number % FILES]}-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path)
        if number % 20 == 7:  # cut where its pixels are
            path.write_bytes(path.read_bytes()[:-3000])
        text = f"{row['report']} Reported by {words[number % REPORTS]}."
        table.append([path.name, text, row["cardiomegaly"]])
    with (root / "ris.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(table)
    return root


def streams(content: bytes) -> bytes:
    """A PDF, or a DICOM file around one, with its streams unpacked."""
    found = [content]
    for match in re.finditer(rb"stream\r?\n(.*?)endstream", content, re.DOTALL):
        try:
            found.append(zlib.decompressobj().decompress(match[1]))
        except zlib.error:
            continue
    return b"\n".join(found)


def seen_in(folder: Path) -> dict[str, set[str]]:
    """Tokens by the file, outside of private/, that holds them, whatever it is packed with."""
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*"):
        if not path.is_file() or "private" in path.parts:
            continue
        content = streams(path.read_bytes())
        if content[:2] == b"\x1f\x8b":
            content += gzip.decompress(content)
        if path.suffix == ".pdf":
            content += "".join(page.extract_text() for page in PdfReader(path).pages).encode()
        held = {token for token in TOKENS if token.encode() in content or token in path.name}
        if held:
            found[path.name] = held
    return found


def pictures(folder: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Every picture outside of private/: files, those in the PDF and those in the HTML."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or "private" in path.parts:
            continue
        found: list[bytes] = []
        if path.suffix == ".png":
            found = [path.read_bytes()]
        elif path.suffix == ".pdf":
            images = {
                image.name: image.data for page in PdfReader(path).pages for image in page.images
            }
            found = list(images.values())
        elif path.suffix == ".html":
            coded = re.findall(r"data:image/\w+;base64,([A-Za-z0-9+/=]+)", path.read_text("utf-8"))
            found = [base64.b64decode(one) for one in coded]
        for content in found:
            with Image.open(io.BytesIO(content)) as image:
                yield path.name, np.asarray(image.convert("L"))


def snapshot(folder: Path) -> dict[str, bytes]:
    """The pictures that are files, and the films that the report is drawn from."""
    files = [*folder.glob("figures/*.png"), *folder.glob("private/films/*.png")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def sheets(folder: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The pictures of each file, four small ones on a sheet, twice as large."""
    small: dict[str, list[NDArray[np.uint8]]] = {}
    for name, pixels in pictures(folder):
        if max(pixels.shape) > 320:
            yield name, pixels
        else:
            small.setdefault(name, []).append(pixels)
    for name, found in small.items():
        for start in range(0, len(found), 4):
            four = found[start : start + 4]
            side = max(max(pixels.shape) for pixels in four) + 20
            sheet = np.zeros((2 * side, 2 * side), dtype=np.uint8)
            for place, pixels in enumerate(four):
                top, left = side * (place // 2), side * (place % 2)
                sheet[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
            yield name, np.asarray(Image.fromarray(sheet).resize((4 * side, 4 * side)))


def read_in(folder: Path, files: str = "", without: str = " ") -> Iterator[tuple[str, int]]:
    """How many parts of tokens an OCR of its own settings reads in each sheet of each file."""
    threads = "EngineConfig.onnxruntime.intra_op_num_threads"  # the other core has its own tests
    reader = RapidOCR(params={"Global.log_level": "critical", "Global.text_score": 0.3, threads: 1})
    for name, sheet in sheets(folder):
        if files in name and without not in name:
            told = reader(np.repeat(sheet[..., None], 3, axis=2))
            texts = "".join(getattr(told, "txts", None) or ()).upper()
            yield name, len(re.findall(r"QZX|ZX\d\d|\dVW|VWK", texts))


@pytest.mark.parametrize(
    ("clusters", "regions", "films", "skipped"),  # least films that are shown; charts show none
    [(4, 3, 10, "accuracy"), pytest.param(8, 6, 15, " ", marks=pytest.mark.slow)],
)
def test_none_of_fifty_words_comes_out(
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clusters: int,
    regions: int,
    films: int,
    skipped: str,
) -> None:
    assert len(set(TOKENS)) == 50
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    # So few films ask for no decision; two candidates have a page, so that films are shown.
    every = "ravl_med.evidence.review.open_correlations"
    monkeypatch.setattr(every, lambda found, gate: tuple(found[:2]))
    printed = []

    def run(*words: str) -> int:
        outcome = CliRunner().invoke(app, list(words))
        printed.append(outcome.output + outcome.stderr + repr(outcome.exception))
        return outcome.exit_code

    reports = ("--reports", str(archive / "ris.csv"))
    config = str(tmp_path / "start" / "audit.yaml")
    assert run("inspect", str(archive / "in"), *reports) == 0
    assert run("init", str(archive / "in"), "--out", str(tmp_path / "start"), *reports) == 0
    manifest = tmp_path / "start" / "manifest.csv"
    assert len(manifest.read_text(encoding="utf-8").splitlines()) > 50
    broken = next(p for p in (archive / "in").rglob(f"*-{7}"))
    with manifest.open(encoding="utf-8", newline="") as stream:
        columns = next(csv.reader(stream))
    with manifest.open("a", encoding="utf-8", newline="") as stream:  # cut short, and not there
        writer = csv.DictWriter(stream, columns)
        for number, path in enumerate((broken, broken.with_name(f"{TOKENS[-1]}.dcm"))):
            row = {"image": path, "patient": f"p9{number}", "split": "validation"}
            writer.writerow({**row, "cardiomegaly": "1"})
    sets = (
        "--set", "model.quickstart={image_size: 64, epochs: 8, batch_size: 8}",
        "--set", "regions.sources=[tiles]", "--set", "report.dicom=true",
        "--set", "privacy.min_cell=1", "--set", "gate.min_films=2", "--set", "gate.min_auroc=0",
        "--set", "gate.max_prediction_share=1", "--set", "gate.min_prediction_share=0",
        "--set",
        f"discovery={{clusters: [{clusters}], draws: 1, min_influence: 0, min_strength: 0}}",
        "--set", "evidence.min_n=2", "--set", "evidence.simulations=20",
        "--set", "evidence.effect_films=20", "--set", "evidence.max_pairs=20",
        "--set", "evidence.dependence_films=0",
        "--set", f"report.regions={regions}",
    )  # fmt: skip
    assert run("inspect", config) == 0
    assert run("audit", config, "--out", str(tmp_path / "run"), "--exit-zero", *sets) == 0
    roots = ("--set", "cohort.roots=[]")
    assert run("audit", config, "--out", str(tmp_path / "no"), *sets, *roots) == 3
    shown = tmp_path / "shown"
    as_they_are = (
        "--set", "privacy.burned_in_text=show", "--set", "cache.embeddings=false",
        "--set", "cohort.workers=0",
        "--set", f"report.regions={4 * regions}",  # whatever films the model leans on: plenty
    )  # fmt: skip
    assert run("audit", config, "--out", str(shown), "--exit-zero", *sets, *as_they_are) == 0
    intake = (tmp_path / "run" / "intake.csv").read_text(encoding="utf-8")
    assert "missing" in intake
    assert "undecodable" in intake or "truncated" in intake
    assert seen_in(tmp_path / "run") == {}
    assert seen_in(tmp_path / "cache") == {}
    assert [token for token in TOKENS if token in "".join(printed)] == []

    facts = json.loads((tmp_path / "run" / "result.json").read_text("utf-8"))["burned_in_text"]
    assert facts["masked"] == facts["films"] >= films
    assert 0 < facts["declared"] < facts["films"]
    assert "looked for with rapidocr" in (tmp_path / "run" / "report.html").read_text("utf-8")
    read = list(read_in(tmp_path / "run", without=skipped))
    assert {"report.pdf", "report.html", "correlation_01_films.png"} <= {name for name, _ in read}
    assert {name for name, count in read if count} == set()
    parts = accumulate(count for _, count in read_in(shown, files="report.html"))
    assert any(count >= 10 for count in parts)  # so the OCR does read them

    # The model reads films as they are: embedded anew, it says the same, bit for bit.
    said = [pq.read_table(folder / "predictions.parquet") for folder in (tmp_path / "run", shown)]
    assert said[0].equals(said[1])
    before = snapshot(tmp_path / "run")
    monkeypatch.setattr(TextReader, "find", None)  # a report is drawn again without OCR
    assert run("report", str(tmp_path / "run")) in (0, 1)  # 1: what the gate says
    assert snapshot(tmp_path / "run") == before
    assert seen_in(tmp_path / "run") == {}
