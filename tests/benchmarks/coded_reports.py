"""Radiology reports that people have coded: the Indiana University collection (Open-i).

The archive is read as a stream and never unpacked onto the disk; names in it are names only. Each
report is XML with ``AbstractText`` sections and ``major`` MeSH codes such as
``Pleural Effusion/right/small``. What may not stand in it (a document type, entities) is refused.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import ParseError

import numpy as np
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from ravl_med.errors import ConfigError, DataError

Code = Sequence[str]

_MOST_REPORTS, _MOST_BYTES = 50_000, 2_000_000
_NOT_INDEXED = "no indexing"
_ENDINGS = ("*.tgz", "*.tar.gz")


@dataclass(frozen=True, slots=True)
class CodedReport:
    """One report and its codes.

    Attributes
    ----------
    number : int - its own in the collection
    text : str - sections with their headings; blank where neither findings nor impression has text
    codes : tuple of tuple of str - each code in lower case, split at the slashes
    """

    number: int
    text: str
    codes: tuple[tuple[str, ...], ...]

    @property
    def indexed(self) -> bool:
        """Whether somebody has coded it."""
        return bool(self.codes) and all(code[0] != _NOT_INDEXED for code in self.codes)

    def shows(self, finding: str) -> bool:
        """Whether a code of it stands for a finding of `CODED_FINDINGS`."""
        return any(CODED_FINDINGS[finding](code) for code in self.codes)


def _named(*names: str) -> Callable[[Code], bool]:
    return lambda code: code[0] in names


def _enlarged_heart(code: Code) -> bool:
    shadow = code[0] == "cardiac shadow" and bool({"enlarged", "borderline"} & set(code[1:2]))
    return code[0] == "cardiomegaly" or shadow


def _opacity(code: Code) -> bool:
    if code[0] == "density":  # the coder's word for an opacity that the report calls a density
        return code[1:2] in (("lung",), ("retrocardiac",)) and "round" not in code
    return code[0] in ("consolidation", "infiltrate", "airspace disease", "opacity", "pneumonia")


CODED_FINDINGS: Mapping[str, Callable[[Code], bool]] = {
    "cardiomegaly": _enlarged_heart,
    "pleural effusion": _named("pleural effusion", "hydropneumothorax", "hemothorax"),
    "pneumothorax": _named("pneumothorax", "hydropneumothorax"),
    "consolidation or opacity": _opacity,
    "atelectasis": _named("pulmonary atelectasis"),
    "edema": _named("pulmonary edema"),
    "device": _named(
        "catheters, indwelling", "implanted medical device", "medical device", "tube, inserted",
        "stents",
    ),
    "normal": _named("normal"),
}  # fmt: skip
"""The codes that stand for each finding."""


def read_coded_reports(path: Path) -> list[CodedReport]:
    """Read the reports of an archive, in the order of their numbers.

    Parameters
    ----------
    path : Path - a gzipped tar of XML files, or a folder with one such file

    Raises
    ------
    ConfigError
        There is no such archive.
    DataError
        It is not one, or holds something else than coded reports.
    """
    archive = _archive(path)
    reports: dict[int, CodedReport] = {}
    try:
        with tarfile.open(archive, mode="r|gz") as members:
            for number, content in _xml_files(members):
                reports[number] = _parse(number, content)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(
            f"--reports: the archive cannot be read ({type(error).__name__}); expected a gzipped "
            "tar of XML reports. Fetch it again."
        ) from None
    if not reports:
        raise DataError("--reports: the archive holds no XML file that is named by a number.")
    return [reports[number] for number in sorted(reports)]


def split_halves(
    reports: Sequence[CodedReport], seed: int
) -> tuple[list[CodedReport], list[CodedReport]]:
    """Split reports by a shuffle of their numbers: one half to develop on, one to publish.

    Parameters
    ----------
    reports : sequence of CodedReport - in the order of their numbers
    seed : int - of the shuffle
    """
    order = np.random.default_rng(seed).permutation(len(reports)).tolist()
    half = len(reports) // 2
    return [reports[i] for i in order[:half]], [reports[i] for i in order[half:]]


def _archive(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(f for ending in _ENDINGS for f in path.glob(ending)) if path.is_dir() else []
    if len(found) != 1:
        raise ConfigError(
            f"--reports: expected an archive of XML reports (.tgz), or a folder with one; got "
            f"{len(found) if path.is_dir() else 'no such file'}."
        )
    return found[0]


def _xml_files(members: tarfile.TarFile) -> Iterator[tuple[int, bytes]]:
    for count, member in enumerate(members):
        if count >= _MOST_REPORTS:
            raise DataError(f"--reports: over {_MOST_REPORTS:,} files in the archive.")
        name = PurePosixPath(member.name)
        if not member.isfile() or name.suffix != ".xml" or not name.stem.isdecimal():
            continue
        stream = members.extractfile(member)
        if stream is None or member.size > _MOST_BYTES:
            raise DataError(
                f"--reports: report {int(name.stem)} has {member.size:,} bytes; expected at most "
                f"{_MOST_BYTES:,}."
            )
        yield int(name.stem), stream.read()


def _parse(number: int, content: bytes) -> CodedReport:
    try:
        root = ElementTree.fromstring(content, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise DataError(
            f"--reports: report {number} is not plain XML ({type(error).__name__})."
        ) from None
    sections = {
        (part.get("Label") or "").upper(): " ".join((part.text or "").split())
        for part in root.iter("AbstractText")
    }
    shown = any(sections.get(name) for name in ("FINDINGS", "IMPRESSION"))
    codes = [tuple((code.text or "").lower().strip().split("/")) for code in root.iter("major")]
    return CodedReport(
        number,
        "\n".join(f"{name}: {text}" for name, text in sections.items()) if shown else "",
        tuple(codes),
    )
