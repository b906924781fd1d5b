"""The sweep over settings: a plan, its shards, and one small file a setting, so that it can stop.

Each finished setting is a Parquet file of its own, named by its digest and put in place in one
step: what was killed half way leaves nothing, and whoever goes on finds what is done. Merging joins
them with the rows that are already in the results.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ravl_med.errors import ConfigError
from ravl_med.evaluation.film_pool import FilmPool, FilmSources, open_pool
from ravl_med.evaluation.repairs import ArmOfSetting, mitigate_setting
from ravl_med.evaluation.settings import Domain, Setting
from ravl_med.evaluation.trial import MethodRow, run_setting
from ravl_med.storage.cache import Cache

RESULTS, ARMS = "evaluation.parquet", "evaluation-arms.parquet"
_PARTS = "evaluation-parts"
_ARM_ENDING = ".arms.parquet"
_HELD_POOLS = 4

Progress = Callable[[str, int, int], None]
Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Shard:
    """The share of one of several workers, from 1: ``2/3`` is the second of three."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/N``.

        Raises
        ------
        ConfigError
            It is not two whole numbers with 1 <= i <= N.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise ConfigError(f"--shard: expected i/N with 1 <= i <= N, such as 1/2; got {text!r}.")
        return cls(int(number), int(of))


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What a call runs.

    Attributes
    ----------
    settings : tuple of Setting - in their order, before they are shared out
    limit : int or None - settings at most in this call
    minutes : float or None - after which no further setting is begun
    repairs : tuple of str - of `REPAIRS`, by which what was found is repaired too
    """

    settings: tuple[Setting, ...]
    shard: Shard = Shard()
    limit: int | None = None
    minutes: float | None = None
    repairs: tuple[str, ...] = ()
    device: str = "cpu"
    sources: FilmSources = field(default_factory=FilmSources)


def take_shard(settings: Sequence[Setting], shard: Shard) -> list[Setting]:
    """Return the settings of a shard: whole groups, dealt out in turn."""
    groups = list(dict.fromkeys(setting.group for setting in settings))
    mine = {group for at, group in enumerate(groups) if at % shard.of == shard.number - 1}
    return [setting for setting in settings if setting.group in mine]


def run_sweep(
    plan: SweepPlan,
    folder: Path,
    cache: Cache,
    progress: Progress = lambda stage, done, total: None,
) -> tuple[int, int]:
    """Run the settings of a shard that are not done yet.

    A group of which a seed was not valid cannot become valid: its other seeds are passed over.

    Parameters
    ----------
    folder : Path - of the results
    cache : Cache - of films

    Returns
    -------
    run, left : int - settings run now, and those of the shard that are still to be run

    Raises
    ------
    ConfigError
        The folder cannot be written, or a domain lacks the films that the user has to name.
    """
    mine = take_shard(plan.settings, plan.shard)
    begun, run = time.monotonic(), 0
    done, dead = _done(folder)
    repaired = _repaired(folder) if plan.repairs else {}
    pools = lru_cache(maxsize=_HELD_POOLS)(
        lambda domain, seed: open_pool(domain, seed, cache, plan.sources)
    )

    def is_settled(setting: Setting) -> bool:
        if setting.group in dead:
            return True
        if plan.repairs:
            arms = repaired.get(setting.digest, set())
            return "" in arms or arms.issuperset(plan.repairs)
        return setting.digest in done

    for at, setting in enumerate(mine):
        progress("settings", at, len(mine))
        if is_settled(setting):
            continue
        spent = (time.monotonic() - begun) / 60.0
        if run == plan.limit or (plan.minutes is not None and spent >= plan.minutes):
            break
        row = _run(setting, plan, folder, cache, pools)
        gc.collect()  # films and models in cycles: Python does not see how large they are
        run += 1
        done.add(setting.digest)
        repaired[setting.digest] = set(plan.repairs)
        if setting.kind != "null" and not row.valid:
            dead.add(setting.group)
    left = sum(not is_settled(setting) for setting in mine)
    return run, left


def merge_parts(folder: Path) -> tuple[int, int]:
    """Join all parts with the results; what was run again takes the place of its older rows.

    Returns
    -------
    settings, arms : int - settings in the results, and rows of arms

    Raises
    ------
    ConfigError
        A part or the results cannot be read, or nothing has been run yet.
    """
    counts = []
    for name, ending, kind in (
        (RESULTS, ".parquet", MethodRow),
        (ARMS, _ARM_ENDING, ArmOfSetting),
    ):
        by_digest = _by_digest(_read_rows(folder / name) if (folder / name).is_file() else [])
        for path in _part_files(folder, ending):
            by_digest |= _by_digest(_read_rows(path))
        rows = [row for digest in sorted(by_digest) for row in by_digest[digest]]
        if rows:
            _write_rows(folder / name, rows, kind)
        counts.append(len(by_digest) if name == RESULTS else len(rows))
    if not counts[0]:
        raise ConfigError("--merge: the folder holds no finished setting. Run the sweep first.")
    return counts[0], counts[1]


def read_results(folder: Path) -> tuple[Rows, Rows]:
    """Return the rows of methods and of arms; no arms is no error.

    Raises
    ------
    ConfigError
        There are no results, or they cannot be read.
    """
    if not (folder / RESULTS).is_file():
        raise ConfigError(
            f"--out: the folder has no {RESULTS}. Run `ravl-med benchmark evaluation` and merge."
        )
    arms = _read_rows(folder / ARMS) if (folder / ARMS).is_file() else []
    return _read_rows(folder / RESULTS), arms


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
    parts = folder / _PARTS
    if plan.repairs:
        arms = mitigate_setting(setting, pool, trial, plan.device, plan.repairs)
        path = parts / f"{setting.digest}{_ARM_ENDING}"
        told = {arm.arm for arm in arms}
        older = _by_digest(_read_arms(folder)).get(setting.digest, [])
        kept = [row for row in older if row["arm"] not in told]
        _write_rows(path, [*(asdict(arm) for arm in arms), *kept], ArmOfSetting)
    rows = [asdict(row) for row in trial.rows]
    _write_rows(parts / f"{setting.digest}.parquet", rows, MethodRow)
    return trial.rows[0]


def _done(folder: Path) -> tuple[set[str], set[str]]:
    """Digests of what was run, and groups that cannot be valid any more."""
    rows = _read_rows(folder / RESULTS) if (folder / RESULTS).is_file() else []
    for path in _part_files(folder, ".parquet"):
        rows += _read_rows(path)
    dead = {row["group"] for row in rows if row["kind"] != "null" and not row["valid"]}
    return {row["digest"] for row in rows}, dead


def _repaired(folder: Path) -> dict[str, set[str]]:
    """Arms by which each setting was repaired; a blank one where there was nothing to repair."""
    by_digest = _by_digest(_read_arms(folder))
    return {digest: {row["arm"] for row in rows} for digest, rows in by_digest.items()}


def _read_arms(folder: Path) -> Rows:
    """Rows of arms, those of parts in place of older ones."""
    by_digest = _by_digest(_read_rows(folder / ARMS) if (folder / ARMS).is_file() else [])
    for path in _part_files(folder, _ARM_ENDING):
        by_digest |= _by_digest(_read_rows(path))
    return [row for rows in by_digest.values() for row in rows]


def _part_files(folder: Path, ending: str) -> Iterator[Path]:
    for path in sorted((folder / _PARTS).glob(f"*{ending}")):
        if ending == _ARM_ENDING or not path.name.endswith(_ARM_ENDING):
            yield path


def _by_digest(rows: Rows) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(row["digest"], []).append(row)
    return found


def _read_rows(path: Path) -> Rows:
    try:
        rows: Rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException):
        raise ConfigError(
            f"--out: {path.name} is not a readable Parquet file. Move it away and run again."
        ) from None
    if rows and "digest" not in rows[0]:
        raise ConfigError(f"--out: {path.name} holds no results of this benchmark.")
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
