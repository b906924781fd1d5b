"""Beyond one machine: the same result by any engine, speed, memory, deaths, and very many films."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec

from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError
from tests.benchmarks.audit_process import ENGINES, audit_trials, phantom_audit, watched_audit
from tests.benchmarks.bright_halves import measure_memory
from tests.benchmarks.engine_speed import SMALL_TOWER, measure_speed
from tests.benchmarks.killed_audits import measure_chaos
from tests.benchmarks.runner import Page, Part, Progress, Setup
from tests.benchmarks.simulated_films import FilmsPlan, measure_discovery
from tests.benchmarks.tables import Column, Row, Table, Target, draw_table, yes_no

_SHARDS = 7
_TOWERS = (SMALL_TOWER, "ViT-B-32")
_BARE = "passes alone"

GAIN, OVERHEAD = 1.7, 0.15
RUN_MB, FLAT = 2_000.0, 1.1
SEARCH_SECONDS, SEARCH_MB, SEARCH_FILMS = 360.0, 3_000.0, 200_000
LINEAR = 1.1  # of the ratio of films, that the ratio of seconds may be

Line = tuple[str, str, str, bool]
"""What was asked about, the target, what was reached, and whether that meets it."""


def measure_sameness(config: Config, progress: Progress, *, ray: bool = True) -> Iterator[Row]:
    """Audit the same films by every engine, and after seven shards, and compare what was written.

    Parameters
    ----------
    config : Config - as `phantom_audit` returns it
    """
    engines = {name: engine for name, engine in ENGINES.items() if ray or "Ray" not in name}
    engines[f"{_SHARDS} shards, then an audit"] = {}
    with audit_trials(config) as trials:
        for number, (name, engine) in enumerate(engines.items()):
            progress("the same result", number, len(engines))
            shards = 0 if engine else _SHARDS
            request = trials.request(engine=engine, shards=shards, report=True)
            start = time.perf_counter()
            with watched_audit(request) as process:
                summary = process.wait()
            seconds = time.perf_counter() - start
            written = request.result.read_bytes()
            trials.expected = trials.expected or written
            yield {
                "engine": name,
                **{n: summary[n] for n in ("films", "regions", "correlations", "tested")},
                "seconds": round(seconds, 1),
                "size": len(written),
                "digest": hashlib.sha256(written).hexdigest()[:16],
                "same": trials.compare(request),
            }
    progress("the same result", len(engines), len(engines))


def _with_ray(measure: Callable[[Setup], Iterator[Row]]) -> Callable[[Setup], Iterator[Row]]:
    """Refuse to begin without Ray, which is measured beside the local engine."""

    def measured(setup: Setup) -> Iterator[Row]:
        if find_spec("ray") is None:
            raise ConfigError(
                "benchmark scale: Ray is not installed; expected it for the parts same, speed and "
                "chaos. Install it: pip install '.[ray]'."
            )
        return measure(setup)

    return measured


def _same(setup: Setup) -> Iterator[Row]:
    audit = phantom_audit(setup.config, setup.size("same-films"), setup.cache, setup.progress)
    return measure_sameness(audit, setup.progress)


def _speed(setup: Setup) -> Iterator[Row]:
    return measure_speed(setup.size("speed-films"), _TOWERS, setup.size("rounds"), setup.progress)


def _chaos(setup: Setup) -> Iterator[Row]:
    audit = phantom_audit(setup.config, setup.size("chaos-films"), setup.cache, setup.progress)
    return measure_chaos(audit, setup.size("kills"), setup.progress)


def _discovery(setup: Setup) -> Iterator[Row]:
    plans = [FilmsPlan(films) for films in setup.several("discovery-films")]
    return measure_discovery(setup.config, plans, setup.progress)


def gains(rows: Sequence[Row]) -> list[Row]:
    """Return for each tower and engine one worker beside two, and what the second gains."""
    known = {(row["tower"], row["engine"], row["workers"]): row for row in rows}
    found: list[Row] = []
    for tower, engine in dict.fromkeys((row["tower"], row["engine"]) for row in rows):
        one, two = (known[tower, engine, workers] for workers in (1, 2))
        gain = two["rate"] / one["rate"]
        found.append({"tower": tower, "engine": engine, "one": one, "two": two, "gain": gain})
    return found


def overheads(rows: Sequence[Row]) -> list[Row]:
    """Return what Ray costs against the local engine: while they work, and in all of it."""
    known = {(row["tower"], row["engine"], row["workers"]): row for row in rows}
    found: list[Row] = []
    for (tower, engine, workers), row in known.items():
        if engine == "ray":
            local = known[tower, "local", workers]
            found.append(
                {
                    "tower": tower,
                    "workers": workers,
                    "more": local["rate"] / row["rate"] - 1.0,
                    "more_in_all": row["seconds"] / local["seconds"] - 1.0,
                }
            )
    return found


def growth(rows: Sequence[Row], field: str) -> tuple[float, float] | None:
    """Return how many times the films, and of a field, the largest row has of the smallest."""
    least, most = _ends(rows)
    if most["films"] <= least["films"]:
        return None
    return most["films"] / least["films"], most[field] / max(least[field], 1e-9)


def _ends(rows: Sequence[Row]) -> tuple[Row, Row]:
    ordered = sorted(rows, key=lambda row: int(row["films"]))
    return ordered[0], ordered[-1]


def _is_bare(row: Row) -> bool:
    return bool(row["engine"] == _BARE)


def _both(text: str, join: str = ", ", end: str = "") -> Callable[[Row], str | None]:
    """Show a template for one worker and for two; nothing of passes alone."""

    def cell(row: Row) -> str | None:
        if _is_bare(row):
            return None
        return join.join(text.format_map(row[which]) for which in ("one", "two")) + end

    return cell


_SAME = Table(
    Column("engine", "{engine}"),
    Column("films, regions", "{films:,}, {regions:,}"),
    Column("correlations, tested on the model", "{correlations}, {tested}"),
    Column("seconds", "{seconds:.0f} s"),
    Column("bytes, SHA-256", "{size:,}, {digest}"),
    Column("the same", "{same:yes}"),
)
_GAINS = Table(
    Column("tower", "{tower}"),
    Column("films", lambda row: None if _is_bare(row) else f"{row['one']['films']:,}"),
    Column("engine", "{engine}"),
    Column("1 worker", "{one[rate]:.1f} films/s"),
    Column("2 workers", "{two[rate]:.1f} films/s"),
    Target("gain", lambda row: None if _is_bare(row) else GAIN, "{limit:g} x", least=True).beside(
        "gain", "{gain:.2f} x"
    ),
    Column("processors used", _both("{processors:.2f}")),
    Column(
        "start of the engine, and until a model is open",
        _both("{engine_start:.1f} + {model_start:.1f} s"),
    ),
    Column("all of it", _both("{seconds:.0f}", end=" s")),
)
_OVERHEADS = Table(
    Column("tower", "{tower}"),
    Column("workers", "{workers}"),
    Target("more", OVERHEAD, "15 %").beside(
        "Ray's overhead while they work", lambda row: f"{100 * row['more']:+.1f} %"
    ),
    Column("in all of it, start included", lambda row: f"{100 * row['more_in_all']:+.0f} %"),
)
_MEMORY = Table(
    Column("films, regions", "{films:,}, {regions:,}"),
    Column("run", "{run_mb:,.0f} MB"),
    Column("worker", "{worker_mb:,.0f} MB"),
    Column("reader", "{reader_mb:,.0f} MB"),
    Target(
        lambda row: float(max(row["run_mb"], row["worker_mb"], row["reader_mb"])), RUN_MB, "2 GB"
    ).beside("the largest", lambda row: _largest(row)),
    Column("correlations, tested", "{correlations}, {tested}"),
    Column("seconds", "{seconds:,.0f} s"),
)


def _largest(row: Row) -> str:
    return max(("run", "worker", "reader"), key=lambda name: float(row[f"{name}_mb"]))


_SEARCH = Table(
    Column("films, patients", "{films:,}, {patients:,}"),
    Column("regions x size", "{regions:,} x {size}"),
    Target(
        "seconds",
        lambda row: SEARCH_SECONDS if row["films"] >= SEARCH_FILMS else None,
        "{limit:.0f} s",
    ).beside("seconds", "{seconds:.0f} s"),
    Target("peak_mb", SEARCH_MB, "3 GB").beside(
        "peak memory (before)",
        lambda row: f"{row['peak_mb'] / 1000:.2f} GB ({row['before_mb'] / 1000:.2f})",
    ),
    Column("clusters, candidates, confirmed", "{clusters}, {candidates}, {confirmed}"),
    Column("the feature is confirmed", "{found:yes}"),
)
_CHAOS = Table(
    Column("engine", "{engine}"),
    Column("what was killed", lambda row: "a worker" if row["killed"] == "worker" else "the run"),
    Column("films", "{films:,}"),
    Column("hits, of tries", "{hits} of {tries}"),
    Column(
        "in embedding, counterfactuals, elsewhere", "{embedding}, {counterfactuals}, {elsewhere}"
    ),
    Column("runs finished", "{runs}"),
    Column("the same result", "{same} of {runs}"),
    Column("met", lambda row: yes_no(row["same"] == row["runs"])),
    Column("seconds", "{seconds:.0f} s"),
)


def _overhead_table(rows: Sequence[Row]) -> str:
    found = overheads(rows)
    return _OVERHEADS(found) if found else ""


def _memory_growth(rows: Sequence[Row]) -> str:
    least, most = _ends(rows)
    grown = {name: growth(rows, f"{name}_mb") for name in ("run", "worker", "reader")}
    known = {name: both for name, both in grown.items() if both is not None}
    if not known:
        return ""
    flat = ", ".join(
        f"{name} {ratio:.2f} x ({yes_no(ratio <= FLAT)})" for name, (_, ratio) in known.items()
    )
    more = 1e3 * (most["run_mb"] - least["run_mb"]) / (most["films"] - least["films"])
    return (
        f"{known['run'][0]:.0f} times the films, memory (flat: at most {FLAT:g} x): {flat}. The "
        f"run holds {more:.1f} kB more for each film."
    )


def _stages(rows: Sequence[Row]) -> str:
    stages = list(dict.fromkeys(stage for row in rows for stage in row["stages"]))
    return draw_table(
        ["films", *stages],
        [
            [f"{row['films']:,}", *(f"{row['stages'].get(stage, 0.0):.1f} s" for stage in stages)]
            for row in rows
        ],
    )


def _search_growth(rows: Sequence[Row]) -> str:
    grown = growth(rows, "seconds")
    if grown is None:
        return ""
    more, longer = grown
    return (
        f"{more:.0f} times the films take {longer:.1f} times the seconds ({more:.0f} is linear: "
        f"{yes_no(longer <= LINEAR * more)})."
    )


def summarise(parts: Mapping[str, list[Row]]) -> str:
    """Draw one table of all parts that were measured: the target beside what was reached."""
    lines = [line for name, lines_of in _SUMMARY.items() if name in parts
             for line in lines_of(parts[name])]  # fmt: skip
    return draw_table(
        ("what", "target", "reached", "met"),
        [(about, target, reached, yes_no(met)) for about, target, reached, met in lines],
    )


def same_lines(rows: Sequence[Row]) -> Iterator[Line]:
    """Say whether the engines have written the same bytes."""
    same = sum(row["same"] for row in rows)
    yield (
        f"`result.json`: {'; '.join(row['engine'] for row in rows)}",
        "the same bytes",
        f"{same} of {len(rows)} the same",
        same == len(rows),
    )


def speed_lines(rows: Sequence[Row]) -> Iterator[Line]:
    """Say what a second worker gains, and what Ray costs."""
    for row in gains(rows):
        tower, engine = row["tower"], row["engine"]
        if _is_bare(row):
            continue
        yield (
            f"two workers against one, {tower}, {engine}",
            f"at least {GAIN:g} x",
            f"{row['gain']:.2f} x; one uses {row['one']['processors']:.2f} processors",
            row["gain"] >= GAIN,
        )
        if engine == "ray":
            more = [one["more"] for one in overheads(rows) if one["tower"] == tower]
            yield (
                f"Ray's overhead, {tower}, with 1 and 2 workers",
                f"at most {100 * OVERHEAD:.0f} %",
                " and ".join(f"{100 * one:.1f} %" for one in more),
                max(more) <= OVERHEAD,
            )


def memory_lines(rows: Sequence[Row]) -> Iterator[Line]:
    """Say how much memory the processes of an audit take, and whether it grows."""
    least, most = _ends(rows)
    for name in ("run", "worker", "reader"):
        few, many = least[f"{name}_mb"], most[f"{name}_mb"]
        ratio = many / max(few, 1e-9)
        yield (
            f"memory of the {name}, {least['films']:,} and {most['films']:,} films",
            f"at most {RUN_MB / 1000:.0f} GB; flat: {FLAT:g} x",
            f"{few / 1000:.2f}, {many / 1000:.2f} GB; {ratio:.2f} x",
            max(few, many) <= RUN_MB and ratio <= FLAT,
        )


def search_lines(rows: Sequence[Row]) -> Iterator[Line]:
    """Say what the search takes at its size, and whether that is linear."""
    least, most = _ends(rows)
    if most["films"] >= SEARCH_FILMS:
        yield (
            f"{most['films']:,} films x {most['regions'] // most['films']} regions x "
            f"{most['size']}, search to `result.json`",
            f"at most {SEARCH_SECONDS:.0f} s, {SEARCH_MB / 1000:.0f} GB",
            f"{most['seconds']:.0f} s, {most['peak_mb'] / 1000:.2f} GB",
            most["seconds"] <= SEARCH_SECONDS and most["peak_mb"] <= SEARCH_MB,
        )
    grown = growth(rows, "seconds")
    if grown is not None:
        more, longer = grown
        yield (
            f"seconds of it, {least['films']:,} to {most['films']:,} films",
            f"linear: {more:.0f} x",
            f"{longer:.1f} x",
            longer <= LINEAR * more,
        )


def chaos_lines(rows: Sequence[Row]) -> Iterator[Line]:
    """Say whether killed runs and runs of killed workers come to the same result."""
    for row in rows:
        killed = "a random worker" if row["killed"] == "worker" else "the whole run"
        yield (
            f"`kill -9` of {killed}, {row['hits']} times: {row['engine']}",
            "the same `result.json`",
            f"{row['same']} of {row['runs']} runs",
            row["same"] == row["runs"],
        )


_SUMMARY: Mapping[str, Callable[[Sequence[Row]], Iterator[Line]]] = {
    "same": same_lines,
    "speed": speed_lines,
    "memory": memory_lines,
    "discovery": search_lines,
    "chaos": chaos_lines,
}

PAGE = Page(
    "scale",
    "Beyond one machine",
    "Measure what holds beyond one machine: the same result, speed, memory, deaths. Linux only.",
    (
        Part(
            "same",
            "Does who does the work change the result?",
            "Phantoms and their quickstart model, the whole audit with its report, each in a "
            "process and with a cache of its own; one thread a worker (`model.threads: 1`). "
            "Target: the same bytes of `result.json`, which holds no times.",
            [_SAME],
            _with_ray(_same),
            {"same-films": 3_300},
        ),
        Part(
            "speed",
            "What does a second worker gain, and what does Ray cost?",
            "Phantoms from DICOM files to embeddings on disk, 16 tiles each, one thread a worker, "
            "which reads its films itself; by turns, each time in a process of its own, medians of "
            "{rounds} rounds. Films a second are counted while all workers are at work; what it "
            "takes until they are stands by itself. Passes alone: the model in plain processes, "
            "without films and engine, which is what two processors of this machine gain. A worker "
            "reads films while the model passes others: it may use more than one processor, and a "
            "second worker then gains what is left of them.",
            [lambda rows: _GAINS(gains(rows)), _overhead_table],
            _with_ray(_speed),
            {"speed-films": 1_024, "rounds": 3},
        ),
        Part(
            "memory",
            "Does memory grow with the number of films?",
            "A whole audit with its report and {workers} workers. Everything is real but the "
            "tower, which is a few means of pixels turned into 512 numbers. Peak resident memory, "
            "pages of mapped files included, of the run, of the largest worker and of the largest "
            "process that reads films.",
            [_MEMORY, _memory_growth],
            lambda setup: measure_memory(
                setup.config, setup.several("memory-films"), setup.progress
            ),
            {"memory-films": (2_000, 200_000)},
        ),
        Part(
            "discovery",
            "What does the search cost, once the films are embedded?",
            "Simulated films: region embeddings around prototypes in a mapped file, patients with "
            "one film or dozens, eight attributes, predictions that lean on what films show, and "
            "one planted feature. From there everything that needs no model, to `result.json`, in "
            "a process of its own. Memory is resident, pages of mapped files included.",
            [_SEARCH, _stages, _search_growth],
            _discovery,
            {"discovery-films": (20_000, 200_000)},
        ),
        Part(
            "chaos",
            "What do deaths cost?",
            "`kill -9` of a random worker at a random moment, in as many runs as it takes, one "
            "after the other; and of the whole run, in turns in embedding and counterfactuals, "
            "before one is let finish on what the others left. Hits are kills that found something "
            "alive. What worked for a killed run is gone within seconds; two agents of Ray, which "
            "do not work, stay a minute. Target: the bytes of `result.json` are those of a run "
            "that nobody touched.",
            [_CHAOS],
            _with_ray(_chaos),
            {"chaos-films": 3_300, "kills": 20},
        ),
    ),
    summarise,
)
