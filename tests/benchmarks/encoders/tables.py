"""The Markdown of the benchmark of encoders: what was asked beside what was reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.benchmarks.benchmark_file import tell_met, tell_parts
from tests.benchmarks.encoders.pooling_tables import MARGIN, WHOLE, poolings_markdown

Row = Mapping[str, Any]


def encoders_markdown(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of the parts that were measured.

    Parameters
    ----------
    parts : mapping of part to its content in ``encoders.json``
    """
    tell = {
        "faithful": _faithful,
        "cost": _cost,
        "poolings": poolings_markdown,
        "accuracy": _accuracy,
        "films": _films,
        "memory": _memory,
    }
    return tell_parts("Encoders: regions in the space of the text, in one pass", parts, tell)


def _faithful(rows: list[Row]) -> list[str]:
    lines = [
        "## Is the region that is the whole image the image?",
        "",
        "Cosines on smooth noise; towers of published sizes, random weights with attention scaled "
        "up. A quarter of the image and another image stand beside it, so that a tower that says "
        "the same of everything would show.",
        "",
        "| tower | regions by | target | whole image, least | met | image beside regions, least "
        "| a quarter, most | another image, most |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['tower']} | {row['pooling']} | at least {WHOLE} | {row['whole']:.6f} "
            f"| {tell_met(row['whole'] >= WHOLE)} | {row['image']:.6f} | {row['quarter']:.3f} "
            f"| {row['others']:.3f} |"
        )
    return lines


def _cost(rows: list[Row]) -> list[str]:
    lines = [
        "## What 16 regions cost",
        "",
        "Processor seconds of a batch of images alone; the same batch with 16 regions an image, "
        "and with each region encoded as an image, as multiples of it. In turns in one run; "
        "medians of rounds.",
        "",
        "| tower | batch, threads | images alone | target | with 16 regions | met | crops |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        asked = f"at most {row['target']} x" if row["target"] else "–"
        met = tell_met(row["ratio"] <= row["target"]) if row["target"] else "–"
        lines.append(
            f"| {row['tower']} | {row['batch']}, {row['threads']} | {row['seconds']:.2f} s "
            f"| {asked} | {row['ratio']:.2f} x | {met} | {row['crops']:.1f} x |"
        )
    return lines


def _accuracy(rows: list[Row]) -> list[str]:
    lines = [
        "## Do regions say what crops of them say?",
        "",
        "Models trained on phantoms without a planted correlation. Each film of the final test is "
        "seen through windows; a window is right where its nearest class is that of the film.",
        "",
        "| tower | films, windows | whole films | crops | target | regions | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        asked = row["crops"] - MARGIN
        lines.append(
            f"| {row['tower']} | {row['films']}, {row['windows']} | {row['whole']:.1%} "
            f"| {row['crops']:.1%} | at least {asked:.1%} | {row['regions']:.1%} "
            f"| {tell_met(row['regions'] >= asked)} |"
        )
    return lines


def _films(rows: list[Row]) -> list[str]:
    lines = [
        "## What reading films costs beside the passes",
        "",
        "DICOM films of 1024 x 1024 pixels to embeddings on disk, as `ravl-med embed` makes them, "
        "as multiples of the passes of the same batches with their regions, in turns in one run; "
        "medians of rounds. Decoding: the same films read and prepared with nothing beside it.",
        "",
        "| tower | films, batch, threads, readers | passes alone | decoding alone | target "
        "| everything | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['tower']} | {row['films']}, {row['batch']}, {row['threads']}, "
            f"{row['workers']} | {row['passes']:.2f} s | {row['decoding']:.2f} s "
            f"| at most {row['target']} x | {row['ratio']:.2f} x "
            f"| {tell_met(row['ratio'] <= row['target'])} |"
        )
    return lines


def _memory(rows: list[Row]) -> list[str]:
    lines = [
        "## Does memory grow with the number of films?",
        "",
        "Peak resident memory of a process that embeds films of 1024 x 1024 pixels; without those "
        "that read files for it.",
        "",
        "| tower | films, batch | peak | films | peak | flat (within 5 %) |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['tower']} | {row['films']}, {row['batch']} | {row['once']:.0f} MB "
            f"| {row['films'] * row['times']} | {row['more']:.0f} MB "
            f"| {tell_met(row['more'] <= 1.05 * row['once'])} |"
        )
    return lines
