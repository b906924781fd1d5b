"""The sweep over settings: a plan, its shards, and one small file a setting, so that it can stop.

Each finished setting is a Parquet file of its own, named by its digest and put in place in one
step: what was killed half way leaves nothing, and whoever goes on finds what is done. Merging joins
them with the rows that are already in the results.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ravl_med.errors import ConfigError
from ravl_med.evaluation.planting import FilmPool, open_pool
from ravl_med.evaluation.repairs import ArmOfSetting, mitigate_setting
from ravl_med.evaluation.settings import Domain, Setting
from ravl_med.evaluation.trial import MethodRow, run_setting
from ravl_med.pipeline.shards import Shard
from ravl_med.storage.cache import Cache

RESULTS, ARMS = "evaluation.parquet", "evaluation-arms.parquet"
_PARTS = "evaluation-parts"
_FILES: Mapping[type, tuple[str, str]] = {
    MethodRow: (RESULTS, ".parquet"),
    ArmOfSetting: (ARMS, ".arms.parquet"),
}
"""Name of the results, and ending of the part of a setting, by kind of row."""

_HELD_POOLS = 4

WHOLE = Shard()
"""The shard of a process that runs all of them."""

Progress = Callable[[str, int, int], None]
Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What a call runs.

    Attributes
    ----------
    settings : tuple of Setting - in their order, before they are shared out
    repairs : tuple of str - of `REPAIRS`, by which what was found is repaired too
    films : Path or None - folder of radiographs, or of the files of MNIST
    """

    settings: tuple[Setting, ...]
    shard: Shard = WHOLE
    repairs: tuple[str, ...] = ()
    device: str = "cpu"
    films: Path | None = None


def take_shard(settings: Sequence[Setting], shard: Shard) -> list[Setting]:
    """Return the settings of a shard: whole groups, dealt out in turn."""
    groups = list(dict.fromkeys(setting.group for setting in settings))
    own = {group for at, group in enumerate(groups) if at % shard.count == shard.number - 1}
    return [setting for setting in settings if setting.group in own]


def run_sweep(
    plan: SweepPlan,
    folder: Path,
    cache: Cache,
    progress: Progress = lambda stage, done, total: None,
) -> int:
    """Run the settings of a shard that are not done yet, and return how many were run.

    A group of which a seed was not valid cannot become valid: its other seeds are passed over.

    Raises
    ------
    ConfigError
        The folder cannot be written, or a domain lacks the films that the user has to name.
    """
    own = take_shard(plan.settings, plan.shard)
    run = 0
    rows = _rows_by_digest(folder, MethodRow)
    done = set(rows)
    dead = {
        row["group"]
        for of_setting in rows.values()
        for row in of_setting
        if row["kind"] != "null" and not row["valid"]
    }
    repaired = {
        digest: {row["arm"] for row in arms}
        for digest, arms in _rows_by_digest(folder, ArmOfSetting).items()
    }
    pools = lru_cache(maxsize=_HELD_POOLS)(
        lambda domain, seed: open_pool(domain, seed, cache, plan.films)
    )

    def is_settled(setting: Setting) -> bool:
        if setting.group in dead:
            return True
        if plan.repairs:
            arms = repaired.get(setting.digest, set())
            return "" in arms or arms.issuperset(plan.repairs)
        return setting.digest in done

    for at, setting in enumerate(own):
        progress("settings", at, len(own))
        if is_settled(setting):
            continue
        row = _run(setting, plan, folder, cache, pools)
        gc.collect()  # films and models in cycles: Python does not see how large they are
        run += 1
        done.add(setting.digest)
        repaired[setting.digest] = set(plan.repairs)
        if setting.kind != "null" and not row.valid:
            dead.add(setting.group)
    return run


def merge_parts(folder: Path) -> tuple[int, int]:
    """Join all parts with the results; what was run again takes the place of its older rows.

    Returned are the settings in the results, and the rows of arms.

    Raises
    ------
    ConfigError
        A part or the results cannot be read, or nothing has been run yet.
    """
    settings, arms = (_rows_by_digest(folder, kind) for kind in _FILES)
    for kind, by_digest in ((MethodRow, settings), (ArmOfSetting, arms)):
        if by_digest:
            rows = [row for digest in sorted(by_digest) for row in by_digest[digest]]
            _write_rows(folder / _FILES[kind][0], rows, kind)
    if not settings:
        raise ConfigError("--merge: the folder holds no finished setting. Run the sweep first.")
    return len(settings), sum(map(len, arms.values()))


def read_results(folder: Path) -> tuple[Rows, Rows]:
    """Return the rows of methods and of arms; no arms is no error.

    Raises
    ------
    ConfigError
        There are no results, or they cannot be read.
    """
    if not (folder / RESULTS).is_file():
        raise ConfigError(f"--out: the folder has no {RESULTS}. Run `ravl-med evaluate` and merge.")
    return _read_rows(folder / RESULTS), _read_rows(folder / ARMS)


def _run(
    setting: Setting,
    plan: SweepPlan,
    folder: Path,
    cache: Cache,
    pools: Callable[[Domain, int], FilmPool],
) -> MethodRow:
    """Run one setting, and write its part once everything of it is there."""
    pool = pools(setting.domain, setting.seed)
    trial = run_setting(setting, pool, cache, plan.device)
    if plan.repairs:
        arms = mitigate_setting(setting, pool, trial, plan.device, plan.repairs)
        known = {arm.arm for arm in arms}
        older = _rows_by_digest(folder, ArmOfSetting).get(setting.digest, [])
        kept = [row for row in older if row["arm"] not in known]
        rows = [*(asdict(arm) for arm in arms), *kept]
        _write_rows(_part_of(folder, setting.digest, ArmOfSetting), rows, ArmOfSetting)
    rows = [asdict(row) for row in trial.rows]
    _write_rows(_part_of(folder, setting.digest, MethodRow), rows, MethodRow)
    return trial.rows[0]


def _part_of(folder: Path, digest: str, kind: type) -> Path:
    return folder / _PARTS / f"{digest}{_FILES[kind][1]}"


def _rows_by_digest(folder: Path, kind: type) -> dict[str, Rows]:
    """Rows by setting, those of parts in place of older ones."""
    by_digest = _by_digest(_read_rows(folder / _FILES[kind][0]))
    for path in sorted((folder / _PARTS).glob(_part_of(Path(), "?" * 16, kind).name)):
        by_digest |= _by_digest(_read_rows(path))
    return by_digest


def _by_digest(rows: Rows) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(row["digest"], []).append(row)
    return found


def _read_rows(path: Path) -> Rows:
    """Rows of a file; none where there is no such file."""
    if not path.is_file():
        return []
    try:
        rows: Rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException):
        raise ConfigError(
            f"--out: {path.name} is not a readable Parquet file. Move it away and run again."
        ) from None
    if rows and not {"digest", "group"} <= set(rows[0]):
        raise ConfigError(f"--out: {path.name} holds no results of this evaluation.")
    return rows


def _write_rows(path: Path, rows: Rows, kind: type) -> None:
    """Write rows in one step; what is killed before leaves no file of that name."""
    schema = pa.schema([(one.name, _TYPES[str(one.type)]) for one in fields(kind)])
    draft = path.with_name(f".{path.name}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), draft, compression="zstd")
        draft.replace(path)
    except OSError as error:
        raise ConfigError(f"--out: cannot be written ({type(error).__name__}).") from None


_TYPES: Mapping[str, Any] = {
    "str": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
}
