"""What a header says of text that is burned in, without a look at the pixels."""

from pathlib import Path

import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from ravl_med.cohort.image_file import declares_burned_in


@pytest.mark.parametrize(("said", "declared"), [("YES", True), ("NO", False), (None, False)])
def test_a_header_tells_whether_text_is_burned_in(
    tmp_path: Path, said: str | None, declared: bool
) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.PatientName = "DOE^JANE"
    if said is not None:
        dataset.BurnedInAnnotation = said
    dataset.save_as(tmp_path / "film.dcm")
    assert declares_burned_in(tmp_path / "film.dcm") is declared


def test_other_files_do_not_tell(tmp_path: Path) -> None:
    for name, content in (("a.png", b"\x89PNG\r\n\x1a\n"), ("a.dcm", b"\0" * 128 + b"DICM\xff")):
        (tmp_path / name).write_bytes(content)
        assert not declares_burned_in(tmp_path / name)
    assert not declares_burned_in(tmp_path / "missing.dcm")
