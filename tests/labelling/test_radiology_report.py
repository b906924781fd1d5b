"""Radiology reports: text or a reason, the impression alone."""

from pathlib import Path

import pytest

from ravl_med.errors import DataError
from ravl_med.labelling.sections import impression_of, read_radiology_report


def test_text_is_read_without_bom_and_outer_blanks(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf\n FINDINGS: none.\r\nIMPRESSION: d\xc3\xa9j\xc3\xa0 vu. \n")
    assert read_radiology_report(path).splitlines() == ["FINDINGS: none.", "IMPRESSION: déjà vu."]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "report_path: no such file. Paths are relative to the manifest"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"x" * 1_000_001, "over 1 MB"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "jane_doe.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_radiology_report(path)
    assert "jane" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_a_folder_and_a_nul(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="report_path: cannot be read"):
        read_radiology_report(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "impression"),
    [
        ("FINDINGS: clear lungs.\nIMPRESSION:\n  No acute\n disease.", "No acute disease."),
        ("Findings: clear.\nImpression: Normal chest.", "Normal chest."),
        ("IMPRESSION: old. ADDENDUM. IMPRESSION : new.", "new."),
        ("Clear lungs.\n\nNo effusion.", "Clear lungs. No effusion."),
        ("Clear lungs. IMPRESSION: ", "Clear lungs. IMPRESSION:"),
        ("My impression is normal.", "My impression is normal."),
        ("", ""),
    ],
)
def test_impression(text: str, impression: str) -> None:
    assert impression_of(text) == impression
