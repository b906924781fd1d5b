"""The Markdown of the benchmark of scale: what was asked beside what was reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.benchmarks.benchmark_file import tell_met, tell_parts

Row = Mapping[str, Any]

GAIN, OVERHEAD = 1.7, 0.15
RUN_MB, FLAT = 2_000.0, 1.1
SEARCH_SECONDS, SEARCH_MB, SEARCH_FILMS = 360.0, 3_000.0, 200_000
LINEAR = 1.1  # of the ratio of films, that the ratio of seconds may be


def scale_markdown(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of the parts that were measured.

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
        "projection": _projection,
    }
    return tell_parts("Beyond one machine", parts, tell)


def _same(rows: list[Row]) -> list[str]:
    lines = [
        "## Does who does the work change the result?",
        "",
        "Phantoms and their quickstart model, the whole audit with its report, each in a process "
        "and with a cache of its own; one thread a worker (`model.threads: 1`). Target: the same "
        "bytes of `result.json`, which holds no times.",
        "",
        "| who | films, regions | correlations, tested on the model | seconds | bytes, SHA-256 "
        "| the same |",
        "|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {row['engine']} | {row['films']:,}, {row['regions']:,} "
        f"| {row['correlations']}, {row['tested']} | {row['seconds']:.0f} s "
        f"| {row['size']:,}, {row['digest']} | {tell_met(row['same'])} |"
        for row in rows
    ]


def _speed(rows: list[Row]) -> list[str]:
    first = rows[0]
    lines = [
        "## What does a second worker gain, and what does Ray cost?",
        "",
        "Phantoms from DICOM files to embeddings on disk, 16 tiles each, one thread a worker, "
        "which reads its films itself; by turns, each time in a process of its own, medians of "
        f"{first['rounds']} rounds. Films a second are counted while all workers are at work; "
        "what it takes until they are stands by itself. Passes alone: the model in plain "
        "processes, without films and engine, which is what two processors of this machine gain. A "
        "worker reads films while the model passes others: it may use more than one processor, and "
        "a second worker then gains what is left of them.",
        "",
        "| tower | films | who | 1 worker | 2 workers | gain | target | met | processors used "
        "| start of the engine, and until a model is open | all of it |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    known = {(row["tower"], row["engine"], row["workers"]): row for row in rows}
    for tower, engine in dict.fromkeys((row["tower"], row["engine"]) for row in rows):
        one, two = (known[tower, engine, workers] for workers in (1, 2))
        gain = two["rate"] / one["rate"]
        cells = [tower, "–", engine, f"{one['rate']:.1f} films/s", f"{two['rate']:.1f} films/s"]
        cells += [f"{gain:.2f} x", *"–––––"]
        if engine != "passes alone":
            starts = [
                f"{row['engine_start']:.1f} + {row['model_start']:.1f} s" for row in (one, two)
            ]
            cells[1] = f"{one['films']:,}"
            cells[6:] = [
                f"at least {GAIN:g} x",
                tell_met(gain >= GAIN),
                f"{one['processors']:.2f}, {two['processors']:.2f}",
                ", ".join(starts),
                f"{one['seconds']:.0f}, {two['seconds']:.0f} s",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [*_overheads(known)]
    return lines


def _overheads(known: Mapping[tuple[str, str, int], Row]) -> list[str]:
    lines = [
        "",
        "| tower | workers | Ray's overhead while they work | target | met | in all of it, start "
        "included |",
        "|---|---|---|---|---|---|",
    ]
    for (tower, engine, workers), row in known.items():
        if engine == "ray":
            local = known[tower, "local", workers]
            more = local["rate"] / row["rate"] - 1.0
            lines.append(
                f"| {tower} | {workers} | {100 * more:+.1f} % | at most {100 * OVERHEAD:.0f} % "
                f"| {tell_met(more <= OVERHEAD)} "
                f"| {100 * (row['seconds'] / local['seconds'] - 1.0):+.0f} % |"
            )
    return lines if len(lines) > 3 else []


def _memory(rows: list[Row]) -> list[str]:
    least, most = (pick(rows, key=lambda row: row["films"]) for pick in (min, max))
    lines = [
        "## Does memory grow with the number of films?",
        "",
        f"A whole audit with its report and {least['workers']} workers. Everything is real but the "
        "tower, which is a few means of pixels turned into 512 numbers. Peak resident memory, "
        "pages of mapped files included, of the run, of the largest worker and of the largest "
        "process that reads films.",
        "",
        "| films, regions | run | worker | reader | target | met | correlations, tested "
        "| seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        largest = max(row["run_mb"], row["worker_mb"], row["reader_mb"])
        lines.append(
            f"| {row['films']:,}, {row['regions']:,} | {row['run_mb']:,.0f} MB "
            f"| {row['worker_mb']:,.0f} MB | {row['reader_mb']:,.0f} MB "
            f"| at most {RUN_MB / 1000:.0f} GB | {tell_met(largest <= RUN_MB)} "
            f"| {row['correlations']}, {row['tested']} | {row['seconds']:,.0f} s |"
        )
    if most["films"] > least["films"]:
        more = 1e3 * (most["run_mb"] - least["run_mb"]) / (most["films"] - least["films"])
        flat = ", ".join(_tell_flat(name, most, least) for name in ("run", "worker", "reader"))
        lines += [
            "",
            f"{most['films'] / least['films']:.0f} times the films, memory (flat: at most "
            f"{FLAT:g} x): {flat}. The run holds {more:.1f} kB more for each film.",
        ]
    return lines


def _tell_flat(name: str, most: Row, least: Row) -> str:
    ratio = most[f"{name}_mb"] / max(least[f"{name}_mb"], 1e-9)
    return f"{name} {ratio:.2f} x ({tell_met(ratio <= FLAT)})"


def _discovery(rows: list[Row]) -> list[str]:
    lines = [
        "## What does the search cost, once the films are embedded?",
        "",
        "Simulated films: region embeddings around prototypes in a mapped file, patients with one "
        "film or dozens, eight attributes, predictions that lean on what films show, and one "
        "planted feature. From there everything that needs no model, to `result.json`, in a "
        "process of its own. Memory is resident, pages of mapped files included.",
        "",
        "| films, patients | regions x size | seconds | target | met | peak memory (before) "
        "| target | met | clusters, candidates, confirmed | the feature is confirmed |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        judged = row["films"] >= SEARCH_FILMS
        lines.append(
            f"| {row['films']:,}, {row['patients']:,} | {row['regions']:,} x {row['size']} "
            f"| {row['seconds']:.0f} s | {f'at most {SEARCH_SECONDS:.0f} s' if judged else '–'} "
            f"| {tell_met(row['seconds'] <= SEARCH_SECONDS) if judged else '–'} "
            f"| {row['peak_mb'] / 1000:.2f} GB ({row['before_mb'] / 1000:.2f}) "
            f"| at most {SEARCH_MB / 1000:.0f} GB | {tell_met(row['peak_mb'] <= SEARCH_MB)} "
            f"| {row['clusters']}, {row['candidates']}, {row['confirmed']} "
            f"| {tell_met(row['found'])} |"
        )
    stages = list(dict.fromkeys(stage for row in rows for stage in row["stages"]))
    lines += ["", f"| films | {' | '.join(stages)} |", f"|---|{'---|' * len(stages)}"]
    for row in rows:
        told = " | ".join(f"{row['stages'].get(stage, 0.0):.1f} s" for stage in stages)
        lines.append(f"| {row['films']:,} | {told} |")
    least, most = (pick(rows, key=lambda row: row["films"]) for pick in (min, max))
    if most["films"] > least["films"]:
        more = most["films"] / least["films"]
        longer = most["seconds"] / max(least["seconds"], 1e-9)
        lines += [
            "",
            f"{more:.0f} times the films take {longer:.1f} times the seconds ({more:.0f} is "
            f"linear: {tell_met(longer <= LINEAR * more)}).",
        ]
    return lines


def _chaos(rows: list[Row]) -> list[str]:
    lines = [
        "## What do deaths cost?",
        "",
        "`kill -9` of a random worker at a random moment, in as many runs as it takes, one after "
        "the other; and of the whole run, in turns in embedding and counterfactuals, before "
        "one is let finish on what the others left. Hits are kills that found something alive. "
        "What worked for a killed run is gone within seconds; two agents of Ray, which do not "
        "work, stay a minute. Target: the bytes of `result.json` are those of a run that nobody "
        "touched.",
        "",
        "| who | what was killed | films | hits, of tries | in embedding, counterfactuals, "
        "elsewhere | runs finished | the same result | met | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {row['engine']} | {'a worker' if row['killed'] == 'worker' else 'the run'} "
        f"| {row['films']:,} | {row['hits']} of {row['tries']} "
        f"| {row['embedding']}, {row['counterfactuals']}, {row['elsewhere']} | {row['runs']} "
        f"| {row['same']} of {row['runs']} | {tell_met(row['same'] == row['runs'])} "
        f"| {row['seconds']:.0f} s |"
        for row in rows
    ]


def _projection(rows: list[Row]) -> list[str]:
    lines = [
        "## What would MIMIC-CXR cost?",
        "",
        "377,110 films, 16 regions each, a ViT-B/16. Measured lines were measured on this machine, "
        "one processor where nothing else is said; assumed lines are options of the command.",
        "",
        "| where | what | how | value |",
        "|---|---|---|---|",
    ]
    return lines + [projection_line(row) for row in rows]


def projection_line(row: Row) -> str:
    """Return a line of the projection: where, what, how, and its value with its unit."""
    return f"| {row['where']} | {row['what']} | {row['how'] or '–'} | {_value(row)} |"


def _value(row: Row) -> str:
    value, unit = row["value"], row["unit"]
    if float(value).is_integer():
        number = f"{value:,.0f}"
    else:
        number = f"{value:,.2f}" if abs(value) >= 10 else f"{value:.4g}"
    return f"{number} {unit}".strip()
