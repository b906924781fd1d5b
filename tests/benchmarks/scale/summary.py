"""The benchmark of scale on one table: what was asked, what was reached, and the projection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.benchmarks.benchmark_file import tell_met
from tests.benchmarks.scale.tables import (
    FLAT,
    GAIN,
    LINEAR,
    OVERHEAD,
    RUN_MB,
    SEARCH_FILMS,
    SEARCH_MB,
    SEARCH_SECONDS,
    projection_line,
)

MARKED = "scale"
"""Name of the marks on the page that the summary stands on."""

Row = Mapping[str, Any]
Line = tuple[str, str, str, bool]

_NODES = ("CPU nodes", "H100 node")


def scale_summary(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the summary of the parts that were measured, in Markdown.

    Parameters
    ----------
    parts : mapping of part to its content in ``scale.json``
    """
    tell = {
        "same": _same,
        "speed": _speed,
        "memory": _memory,
        "discovery": _discovery,
        "chaos": _chaos,
    }
    lines = ["| what | target | reached | met |", "|---|---|---|---|"]
    for name, told in tell.items():
        if name in parts:
            lines += [
                f"| {what} | {target} | {reached} | {tell_met(met)} |"
                for what, target, reached, met in told(parts[name]["rows"])
            ]
    if "projection" in parts:
        lines += [
            "",
            "| 377,110 films of MIMIC-CXR on | what | arithmetic | |",
            "|---|---|---|---|",
            *(
                projection_line(row)
                for row in parts["projection"]["rows"]
                if row["where"] in _NODES
            ),
        ]
    return "\n".join(lines)


def _same(rows: list[Row]) -> Iterator[Line]:
    same = sum(row["same"] for row in rows)
    yield (
        f"`result.json`: {'; '.join(row['engine'] for row in rows)}",
        "the same bytes",
        f"{same} of {len(rows)} the same",
        same == len(rows),
    )


def _speed(rows: list[Row]) -> Iterator[Line]:
    known = {(row["tower"], row["engine"], row["workers"]): row for row in rows}
    rate = {who: row["rate"] for who, row in known.items()}
    for tower, engine in dict.fromkeys((row["tower"], row["engine"]) for row in rows):
        gain = rate[tower, engine, 2] / rate[tower, engine, 1]
        if engine != "passes alone":
            used = known[tower, engine, 1]["processors"]
            yield (
                f"two workers against one, {tower}, {engine}",
                f"at least {GAIN:g} x",
                f"{gain:.2f} x; one uses {used:.2f} processors",
                gain >= GAIN,
            )
        if engine == "ray":
            more = [rate[tower, "local", n] / rate[tower, "ray", n] - 1.0 for n in (1, 2)]
            yield (
                f"Ray's overhead, {tower}, with 1 and 2 workers",
                f"at most {100 * OVERHEAD:.0f} %",
                " and ".join(f"{100 * one:.1f} %" for one in more),
                max(more) <= OVERHEAD,
            )


def _memory(rows: list[Row]) -> Iterator[Line]:
    least, most = (pick(rows, key=lambda row: row["films"]) for pick in (min, max))
    sizes = f"{least['films']:,} and {most['films']:,} films"
    for name in ("run", "worker", "reader"):
        few, many = least[f"{name}_mb"], most[f"{name}_mb"]
        ratio = many / max(few, 1e-9)
        yield (
            f"memory of the {name}, {sizes}",
            f"at most {RUN_MB / 1000:.0f} GB; flat: {FLAT:g} x",
            f"{few / 1000:.2f}, {many / 1000:.2f} GB; {ratio:.2f} x",
            max(few, many) <= RUN_MB and ratio <= FLAT,
        )


def _discovery(rows: list[Row]) -> Iterator[Line]:
    least, most = (pick(rows, key=lambda row: row["films"]) for pick in (min, max))
    if most["films"] >= SEARCH_FILMS:
        yield (
            f"{most['films']:,} films x {most['regions'] // most['films']} regions x "
            f"{most['size']}, search to `result.json`",
            f"at most {SEARCH_SECONDS:.0f} s, {SEARCH_MB / 1000:.0f} GB",
            f"{most['seconds']:.0f} s, {most['peak_mb'] / 1000:.2f} GB",
            most["seconds"] <= SEARCH_SECONDS and most["peak_mb"] <= SEARCH_MB,
        )
    if most["films"] > least["films"]:
        more, longer = most["films"] / least["films"], most["seconds"] / least["seconds"]
        yield (
            f"seconds of it, {least['films']:,} to {most['films']:,} films",
            f"linear: {more:.0f} x",
            f"{longer:.1f} x",
            longer <= LINEAR * more,
        )


def _chaos(rows: list[Row]) -> Iterator[Line]:
    for row in rows:
        killed = "a random worker" if row["killed"] == "worker" else "the whole run"
        yield (
            f"`kill -9` of {killed}, {row['hits']} times: {row['engine']}",
            "the same `result.json`",
            f"{row['same']} of {row['runs']} runs",
            row["same"] == row["runs"],
        )
