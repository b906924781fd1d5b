"""The sweep over settings: a plan, its shards, and one small file a setting, so that it can stop.

Each finished setting is a Parquet file of its own, named by its digest and put in place in one
step: what was killed half way leaves nothing, and whoever goes on finds what is done. A setting
that runs is claimed by a file, so that any number of processes, on any number of machines that see
the folder, share the work; a claim whose process is gone, or that is old, counts as none. Merging
joins the parts with the rows that are already in the results; rows of another recipe are dropped.
"""

from __future__ import annotations

import gc
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ravl_med.encoders.base import using_threads
from ravl_med.errors import ConfigError
from ravl_med.evaluation.methods import require_umap
from ravl_med.evaluation.planting import FilmPool, open_pool
from ravl_med.evaluation.repairs import REPAIRS, ArmOfSetting, left_alone, mitigate_setting
from ravl_med.evaluation.settings import DOMAINS, MADE, RECIPE, Domain, Setting
from ravl_med.evaluation.trial import MethodRow, run_setting
from ravl_med.pipeline.shards import Shard
from ravl_med.pipeline.stages import Progress
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

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What a call runs.

    Attributes
    ----------
    settings : tuple of Setting - in their order, before they are shared out
    repairs : tuple of str - of `REPAIRS`, by which what was found is repaired too
    films : mapping of Domain to Path - folders of the films that are not made
    """

    settings: tuple[Setting, ...]
    shard: Shard = WHOLE
    repairs: tuple[str, ...] = ()
    device: str = "cpu"
    films: Mapping[Domain, Path] = field(default_factory=dict)

    @property
    def without(self) -> tuple[Domain, ...]:
        """Domains that are asked for and whose films nobody has named."""
        asked = dict.fromkeys(setting.domain for setting in self.settings)
        return tuple(domain for domain in asked if domain not in (*MADE, *self.films))


def read_folders(named: Sequence[str]) -> dict[Domain, Path]:
    """Read ``radiographs=FOLDER`` and the like.

    Raises
    ------
    ConfigError
        A domain is unknown or needs no folder, or there is no such folder.
    """
    folders: dict[Domain, Path] = {}
    wanted = [domain for domain in DOMAINS if domain not in MADE]
    for text in named:
        name, equals, path = text.partition("=")
        domain = next((one for one in wanted if one == name.strip()), None)
        if domain is None or not equals:
            raise ConfigError(
                f"--films: expected DOMAIN=FOLDER with one of {', '.join(wanted)}; "
                f"got {name[:40]!r}{'' if equals else ' without a folder'}."
            )
        folders[domain] = Path(path)
        if not folders[domain].is_dir():
            raise ConfigError(f"--films {domain}: there is no such folder.")
    return folders


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

    Domains without films are left out, see `SweepPlan.without`. A group of which a seed was not
    valid cannot become valid: its other seeds are passed over.

    Raises
    ------
    ConfigError
        The folder cannot be written, films that are named are not what they should be, or no domain
        that is asked for has films.
    """
    own = [s for s in take_shard(plan.settings, plan.shard) if s.domain not in plan.without]
    if not own and plan.without:
        open_pool(plan.without[0], 0, cache)  # which says what it needs
    require_umap()
    run = 0
    pools = lru_cache(maxsize=_HELD_POOLS)(
        lambda domain, seed: open_pool(domain, seed, cache, plan.films.get(domain))
    )
    done = _Done.read(folder)
    for at, setting in enumerate(own):
        progress("settings", at, len(own))
        if done.settles(setting, plan.repairs):
            continue
        with _claimed(folder, setting.digest) as claimed:
            if not claimed:
                continue
            done = _Done.read(folder)  # others may have been here since
            if done.settles(setting, plan.repairs):
                continue
            with using_threads(1):  # so that rows are the same however many cores there are
                _run(setting, plan, folder, cache, pools, progress)
            gc.collect()  # films and models in cycles: Python does not see how large they are
            run += 1
            done = _Done.read(folder)
    return run


@dataclass(frozen=True, slots=True, eq=False)
class _Done:
    """What a folder holds: settings, groups that cannot be valid, and arms by setting."""

    settings: frozenset[str]
    dead: frozenset[str]
    arms: Mapping[str, frozenset[str]]

    @classmethod
    def read(cls, folder: Path) -> _Done:
        rows = _rows_by_digest(folder, MethodRow)
        every = [row for of_setting in rows.values() for row in of_setting]
        dead = {row["group"] for row in every if row["kind"] != "null" and not row["valid"]}
        arms = _rows_by_digest(folder, ArmOfSetting).items()
        return cls(
            frozenset(rows),
            frozenset(dead),
            {digest: frozenset(row["arm"] for row in own) for digest, own in arms},
        )

    def settles(self, setting: Setting, repairs: Sequence[str]) -> bool:
        """Whether nothing is left to run of a setting."""
        if setting.group in self.dead:
            return True
        if not repairs:
            return setting.digest in self.settings
        arms = self.arms.get(setting.digest, frozenset())
        # What starts before the audited model is left out where that started from nothing.
        wanted = {name for name in repairs if not REPAIRS[name].pretrained}
        return "" in arms or arms >= wanted


_STALE = 3600.0  # seconds; no setting takes so long


@contextmanager
def _claimed(folder: Path, digest: str) -> Iterator[bool]:
    """Claim a setting for this process; False where another one works on it."""
    path = folder / _PARTS / f"{digest}.claim"
    own = f"{socket.gethostname()} {os.getpid()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _is_stale(path):
            path.unlink(missing_ok=True)
        with path.open("x", encoding="utf-8") as stream:
            stream.write(own)
    except FileExistsError:
        yield False
        return
    except OSError as error:
        raise ConfigError(f"--out: cannot be written ({type(error).__name__}).") from None
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)


def _is_stale(path: Path) -> bool:
    """Whether a claim is old, or of a process of this machine that is gone."""
    try:
        host, _, process = path.read_text(encoding="utf-8").partition(" ")
        age = time.time() - path.stat().st_mtime
    except OSError:
        return False
    if age > _STALE or host != socket.gethostname() or not process.isdecimal():
        return age > _STALE
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


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


def _run(
    setting: Setting,
    plan: SweepPlan,
    folder: Path,
    cache: Cache,
    pools: Callable[[Domain, int], FilmPool],
    progress: Progress,
) -> None:
    """Run one setting, and write its part once everything of it is there."""
    kinds = MethodRow, ArmOfSetting
    known, older = (_rows_by_digest(folder, kind).get(setting.digest, []) for kind in kinds)
    rows = tuple(MethodRow(**row) for row in known)
    arms = left_alone(rows) if rows else []
    if not arms:
        pool = pools(setting.domain, setting.seed)
        trial = run_setting(setting, pool, cache, plan.device, progress, rows)
        rows = trial.rows
        if plan.repairs:
            arms = mitigate_setting(setting, pool, trial, cache, plan.device, plan.repairs)
    if plan.repairs:
        done = {arm.arm for arm in arms}
        every = [*map(asdict, arms), *(row for row in older if row["arm"] not in done)]
        _write_rows(_part_of(folder, setting.digest, ArmOfSetting), every, ArmOfSetting)
    _write_rows(_part_of(folder, setting.digest, MethodRow), [*map(asdict, rows)], MethodRow)


def _part_of(folder: Path, digest: str, kind: type) -> Path:
    return folder / _PARTS / f"{digest}{_FILES[kind][1]}"


def _rows_by_digest(folder: Path, kind: type) -> dict[str, Rows]:
    """Rows by setting, those of parts in place of older ones."""
    by_digest = _by_digest(read_rows(folder / _FILES[kind][0]))
    for path in sorted((folder / _PARTS).glob(_part_of(Path(), "?" * 16, kind).name)):
        by_digest |= _by_digest(read_rows(path))
    return by_digest


def _by_digest(rows: Rows) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(row["digest"], []).append(row)
    return found


def read_rows(path: Path) -> Rows:
    """Rows of a file that are of this recipe; none where there is no such file."""
    try:
        return _read_rows_once(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return []


@lru_cache(maxsize=8192)  # a sweep looks at all parts after every setting
def _read_rows_once(path: Path, written: int) -> Rows:
    try:
        rows: Rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException):
        raise ConfigError(
            f"--out: {path.name} is not a readable Parquet file. Move it away and run again."
        ) from None
    if rows and not {"digest", "group"} <= set(rows[0]):
        raise ConfigError(f"--out: {path.name} holds no results of this evaluation.")
    return [row for row in rows if row.get("recipe") == RECIPE]


def _write_rows(path: Path, rows: Rows, kind: type) -> None:
    """Write rows in one step; what is killed before leaves no file of that name."""
    schema = pa.schema([(one.name, _TYPES[str(one.type)]) for one in fields(kind)])
    draft = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.draft")
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
