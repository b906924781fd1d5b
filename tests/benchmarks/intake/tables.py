"""The Markdown of the benchmark of reading: what was asked beside what was reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.benchmarks.benchmark_file import tell_met, tell_parts

Row = Mapping[str, Any]

_MOST_RATIO, _LEAST_GAIN = 1.25, 1.7


def intake_markdown(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of the parts that were measured.

    Parameters
    ----------
    parts : mapping of part to its content in ``intake.json``
    """
    return tell_parts("Reading of DICOM films", parts, {"speed": _speed, "cores": _cores})


def _speed(rows: list[Row]) -> list[str]:
    lines = [
        "## One core",
        "",
        "Films of 2500 x 2048 pixels, 12 bits, read in turns by pydicom (decode, modality and VOI "
        "LUT) and by this tool (the same within the limits on hostile files, inversion, 0 to 1). "
        "The last column adds what an audit needs besides: checks, and the SHA-256 of the pixels.",
        "",
        "| transfer syntax | pydicom, ms a film | this tool, ms | target: ratio | reached | met "
        "| with digest, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {row['syntax']} | {row['pydicom_ms']:.0f} | {row['ours_ms']:.0f} "
        f"| at most {_MOST_RATIO} | {row['ratio']:.2f} | {tell_met(row['ratio'] <= _MOST_RATIO)} "
        f"| {row['with_digest_ms']:.0f} |"
        for row in rows
    ]


def _cores(rows: list[Row]) -> list[str]:
    lines = [
        "## Two processes",
        "",
        "The same films as an audit reads them, in one process and in two others that may die or "
        "hang, their pixels sent to the first one.",
        "",
        "| transfer syntax | one, ms a film | two, ms a film | target: times faster | reached "
        "| met |",
        "|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {row['syntax']} | {row['one_ms']:.0f} | {row['two_ms']:.0f} | at least {_LEAST_GAIN} "
        f"| {row['gain']:.2f} | {tell_met(row['gain'] >= _LEAST_GAIN)} |"
        for row in rows
    ]
