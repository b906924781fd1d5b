"""Fifty words that name nobody, planted wherever a patient could be named: none may come out."""

import csv
import gzip
import re
import zlib
from pathlib import Path

import pydicom
import pytest
from pypdf import PdfReader
from typer.testing import CliRunner

from ravl_med.cli import app
from ravl_med.cohort.synthetic import synthesize

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


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films whose headers, folders, names and reports hold the tokens; some cannot be read."""
    root = tmp_path_factory.mktemp("privacy")
    synthesize(root / "made", images=60, size=64, seed=2, workers=1)
    with (root / "made" / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    folders, names = TOKENS[len(TAGS) :][:FOLDERS], TOKENS[len(TAGS) + FOLDERS :][:FILES]
    words = TOKENS[-REPORTS:]
    table = [["image", "report", "cardiomegaly"]]
    for number, row in enumerate(rows):
        dataset = pydicom.dcmread(root / "made" / row["image"])
        for tag, token in zip(TAGS, TOKENS, strict=False):
            setattr(dataset, tag, f"{token}-{row['patient']}"[:16])
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


def test_none_of_fifty_words_comes_out(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(set(TOKENS)) == 50
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
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
        "--set", "model.quickstart={image_size: 64, epochs: 1, batch_size: 8}",
        "--set", "regions.sources=[tiles]", "--set", "report.dicom=true",
        "--set", "privacy.min_cell=1",
    )  # fmt: skip
    assert run("inspect", config) == 0
    assert run("audit", config, "--out", str(tmp_path / "run"), "--exit-zero", *sets) == 0
    roots = ("--set", "cohort.roots=[]")
    assert run("audit", config, "--out", str(tmp_path / "no"), *sets, *roots) == 3
    intake = (tmp_path / "run" / "intake.csv").read_text(encoding="utf-8")
    assert "missing" in intake
    assert "undecodable" in intake or "truncated" in intake
    assert seen_in(tmp_path / "run") == {}
    assert seen_in(tmp_path / "cache") == {}
    assert [token for token in TOKENS if token in "".join(printed)] == []
