"""Findings read off radiology reports, against the codes that people gave them, and the clock.

The reports are those of the Indiana University collection (Open-i). The archive is read as a stream
and never unpacked onto the disk; names in it are names only. Each report is XML with
``AbstractText`` sections and ``major`` MeSH codes such as ``Pleural Effusion/right/small``. A
document type or entities, which may not stand in it, are refused.
"""

from __future__ import annotations

import math
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import ParseError

import numpy as np
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException
from numpy.typing import NDArray

from ravl_med.errors import ConfigError, DataError
from ravl_med.labelling.findings import ReportLabeller, ReportReading, chest_labeller
from tests.benchmarks.runner import Page, Part, Progress, Setup
from tests.benchmarks.tables import Column, Row, Table, Target, draw_table, yes_no

Code = Sequence[str]

_MOST_REPORTS, _MOST_BYTES = 50_000, 2_000_000
_NOT_INDEXED = "no indexing"
_ENDINGS = ("*.tgz", "*.tar.gz")
Policy = Mapping[str | None, bool | None]

HALVES_SEED = 0
"""Of the shuffle that says which reports the phrases were written on, and which are published."""

_TARGET_F1 = 0.90
_LENGTHS, _RUNS = (1_000, 1_000_000, 10_000_000), 2
_SECONDS = {10_000_000: 60.0}  # target, by characters
_DRAWS, _SEED = 2000, 0
_JOINED = {"consolidation or opacity": ("consolidation", "lung opacity")}
_OF_STATE: Policy = {"present": True, "absent": False, None: False}
_EXCLUDE: Policy = {**_OF_STATE, "uncertain": None}
_NEGATIVE: Policy = {**_OF_STATE, "uncertain": False}
_POSITIVE: Policy = {**_OF_STATE, "uncertain": True}
_LINE = "No focal consolidation, pleural effusion or pneumothorax is seen. The heart is enlarged. "


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

    The archive is a gzipped tar of XML files, or a folder with one such file.

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
    """Split reports by a shuffle: one half to develop on, one to publish."""
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


def measure_findings(
    reports: Sequence[CodedReport], labeller: ReportLabeller, progress: Progress
) -> list[Row]:
    """Read reports and compare each finding with the codes.

    Precision, recall, F1 and its interval (95 %, bootstrap of the reports) are those under the
    policy ``exclude``: reports that leave the finding open are not counted. A finding that a report
    does not mention counts as absent, as a coder leaves it out.
    """
    counted = [report for report in reports if report.indexed and report.text]
    readings = []
    for done, report in enumerate(counted, start=1):
        readings.append(labeller.read(report.text))
        if done % 500 == 0 or done == len(counted):
            progress("read reports", done, len(counted))
    left_out = {
        "without_text": sum(not report.text for report in reports),
        "not_indexed": sum(bool(report.text) and not report.indexed for report in reports),
        "not_recognised": sum(not reading.recognised for reading in readings),
    }
    return [
        {
            "finding": finding,
            **_score(
                np.array([report.shows(finding) for report in counted], dtype=np.bool_),
                [_state(reading, finding) for reading in readings],
            ),
            **left_out,
        }
        for finding in CODED_FINDINGS
    ]


def measure_reading(
    labeller: ReportLabeller, lengths: Sequence[int], runs: int, progress: Progress
) -> Iterator[Row]:
    """Time the reading of one report of each length, in characters; the best of the runs counts."""
    for done, length in enumerate(lengths, start=1):
        text = (_LINE * (length // len(_LINE) + 1))[:length]
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            labeller.read(text)
            seconds.append(time.perf_counter() - start)
        progress("time the reading", done, len(lengths))
        yield {"characters": length, "seconds": min(seconds)}


def _state(reading: ReportReading, finding: str) -> str | None:
    """Return the strongest state of the findings that are scored as one."""
    states = [reading.states.get(name) for name in _JOINED.get(finding, (finding,))]
    return next((s for s in ("present", "uncertain", "absent") if s in states), None)


def _score(coded: NDArray[np.bool_], states: Sequence[str | None]) -> Row:
    hits = _outcomes(coded, states, _EXCLUDE)
    true, false, missed = hits.sum(axis=0).tolist()
    draws = np.random.default_rng(_SEED).multinomial(
        len(hits), np.full(len(hits), 1 / max(len(hits), 1)), size=_DRAWS
    )
    drawn = _f1(draws @ hits)
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist() if len(drawn) else (math.nan, math.nan)
    return {
        "reports": len(coded),
        "coded": int(coded.sum()),
        "uncertain": states.count("uncertain"),
        "precision": true / (true + false) if true + false else math.nan,
        "recall": true / (true + missed) if true + missed else math.nan,
        "f1": float(_f1(hits.sum(axis=0))),
        "low": low,
        "high": high,
        "f1_negative": float(_f1(_outcomes(coded, states, _NEGATIVE).sum(axis=0))),
        "f1_positive": float(_f1(_outcomes(coded, states, _POSITIVE).sum(axis=0))),
    }


def _outcomes(
    coded: NDArray[np.bool_], states: Sequence[str | None], policy: Policy
) -> NDArray[np.int64]:
    """Return true positive, false positive, false negative of each report that counts, (N, 3)."""
    rows = [
        (said and truth, said and not truth, truth and not said)
        for truth, said in zip(coded.tolist(), (policy[s] for s in states), strict=True)
        if said is not None
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _f1(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 of counts (..., 3); NaN where there is nothing to find and nothing was found."""
    true, false, missed = np.moveaxis(counts.astype(np.float64), -1, 0)
    total = 2 * true + false + missed
    score: NDArray[np.float64] = np.divide(
        2 * true, total, out=np.full_like(total, np.nan), where=total > 0
    )
    return score


def macro_f1(rows: Sequence[Row], key: str = "f1") -> float:
    """Return the mean over the findings of ``f1``, ``f1_negative`` or ``f1_positive``."""
    return sum(row[key] or 0.0 for row in rows) / len(rows)


_FINDINGS = Table(
    Column("finding", "{finding}"),
    Column("coded", "{coded}"),
    Column("left open", "{uncertain}"),
    Column("precision", "{precision:.3f}"),
    Column("recall", "{recall:.3f}"),
    Target("f1", _TARGET_F1, "{limit:.2f}", least=True).beside(
        "F1 (95 % interval)", "{f1:.3f} ({low:.3f} to {high:.3f})"
    ),
    Column("F1, open is absent", "{f1_negative:.3f}"),
    Column("F1, open is present", "{f1_positive:.3f}"),
)


def _macro(rows: Sequence[Row]) -> str:
    mean = macro_f1(rows)
    return draw_table(
        ("", "target", "macro F1", "met", "open is absent", "open is present"),
        [
            (
                "mean over the findings",
                f"at least {_TARGET_F1:.2f}",
                f"{mean:.3f}",
                yes_no(mean >= _TARGET_F1),
                f"{macro_f1(rows, 'f1_negative'):.3f}",
                f"{macro_f1(rows, 'f1_positive'):.3f}",
            )
        ],
    )


def _half(name: str, title: str, choose: Callable[..., Sequence[CodedReport]]) -> Part:
    def measure(setup: Setup) -> Iterable[Row]:
        halves = split_halves(read_coded_reports(setup.files["reports"]), HALVES_SEED)
        return measure_findings(choose(*halves), chest_labeller(), setup.progress)

    return Part(
        name,
        title,
        "{reports:,} reports; truth: the MeSH codes that people gave them. Not counted: "
        "{without_text} without findings and impression, {not_indexed} without codes. Nothing "
        "recognised: {not_recognised}. Precision, recall and F1: reports that leave the finding "
        "open are not counted (`labels.uncertain: exclude`); a finding that is not mentioned is "
        "absent. Beside them F1 over all reports, the open ones counted as absent and as present.",
        [_FINDINGS, _macro],
        measure,
        files={"reports": "FOLDER"},
    )


PAGE = Page(
    "labels",
    "Labels read off radiology reports",
    "Measure what is read off radiology reports against codes that people gave them. Only numbers "
    "are written, no word of a report.",
    (
        _half("published", "Reports that nobody developed on", lambda _, published: published),
        _half(
            "development",
            "Reports that the phrases were written on",
            lambda development, _: development,
        ),
        Part(
            "speed",
            "Reading one report",
            "",
            [
                Table(
                    Column("characters", "{characters:,}"),
                    Target(
                        "seconds", lambda row: _SECONDS.get(row["characters"]), "{limit:.0f} s"
                    ).beside("seconds", "{seconds:.4f}"),
                    Column(
                        "microseconds a character",
                        lambda row: f"{1e6 * row['seconds'] / row['characters']:.2f}",
                    ),
                )
            ],
            lambda setup: measure_reading(chest_labeller(), _LENGTHS, _RUNS, setup.progress),
        ),
    ),
)
