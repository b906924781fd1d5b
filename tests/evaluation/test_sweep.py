import math
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ravl_med.encoders.base import using_threads
from ravl_med.errors import ConfigError
from ravl_med.evaluation import sweep
from ravl_med.evaluation.painting import Mark
from ravl_med.evaluation.repairs import BEFORE, ArmOfSetting, choose_repairs
from ravl_med.evaluation.settings import RECIPE, Pair, Setting, plan_settings
from ravl_med.evaluation.sweep import (
    ARMS,
    RESULTS,
    SweepPlan,
    merge_parts,
    run_sweep,
    take_shard,
)
from ravl_med.evaluation.trial import MethodRow
from ravl_med.pipeline.shards import Shard
from ravl_med.storage.cache import Cache
from tests.benchmarks.evaluation import read_results

SETTINGS = tuple(plan_settings(domains=("digits",), kinds=("planted",), strengths=(0.9,)))[:12]


def row_of(setting: Setting, *, valid: bool = True, method: str = "ours") -> MethodRow:
    return MethodRow(
        digest=setting.digest,
        group=setting.group,
        domain=setting.domain,
        kind=setting.kind,
        architecture=setting.architecture,
        feature=setting.pairs[0].mark.shape,
        place=setting.pairs[0].mark.place,
        inside=False,
        radius=0.05,
        contrast=0.8,
        finding=setting.pairs[0].finding,
        feature_2="",
        finding_2="",
        strength=setting.strength,
        reached=setting.strength,
        seed=setting.seed,
        version="0",
        recipe=RECIPE,
        accuracy=0.7,
        bare=0.7,
        majority=0.1,
        raised_gap=0.5 if valid else 0.02,
        lowered_gap=0.6,
        valid=valid,
        leak=0.1,
        films=10,
        region_count=40,
        seconds=1.0,
        cpu_seconds=1.0,
        training_seconds=0.5,
        method=method if valid else "",
        precision_10=0.9 if valid else math.nan,
    )


class Trainer:
    """Stands for the minutes of a setting; what is asked of the sweep is what it keeps."""

    def __init__(self, *, invalid: frozenset[str] = frozenset(), dies_at: int = -1) -> None:
        self.seen: list[str] = []
        self.invalid, self.dies_at = invalid, dies_at

    def __call__(self, setting: Setting, *rest: Any) -> SimpleNamespace:
        if len(self.seen) == self.dies_at:
            raise KeyboardInterrupt
        self.seen.append(setting.digest)
        return SimpleNamespace(rows=(row_of(setting, valid=setting.group not in self.invalid),))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setattr(sweep, "open_pool", lambda *asked: None)
    monkeypatch.setattr(sweep, "require_umap", lambda: None)
    monkeypatch.setattr(sweep.gc, "collect", lambda: None)  # of all that the tests have loaded
    return Cache(tmp_path / "cache")


def test_shards_hold_every_setting_once_and_whole_groups() -> None:
    shards = [take_shard(SETTINGS, Shard(number, 3)) for number in (1, 2, 3)]
    assert sorted(s.digest for part in shards for s in part) == sorted(s.digest for s in SETTINGS)
    groups = [{s.group for s in part} for part in shards]
    assert not groups[0] & groups[1]
    assert not groups[1] & groups[2]


def test_what_was_killed_is_gone_on_with(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = SweepPlan(SETTINGS)
    first = Trainer(dies_at=5)
    monkeypatch.setattr(sweep, "run_setting", first)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan, tmp_path, cache)
    second = Trainer()
    monkeypatch.setattr(sweep, "run_setting", second)
    assert run_sweep(plan, tmp_path, cache) == len(SETTINGS) - 5
    assert first.seen + second.seen == [s.digest for s in SETTINGS]
    assert merge_parts(tmp_path) == (len(SETTINGS), 0)
    assert run_sweep(plan, tmp_path, cache) == 0


def test_a_setting_is_run_in_one_thread_whatever_the_machine_has(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model trained in two threads differs from the second digit on."""
    trainer, threads = Trainer(), []

    def run(*asked: Any) -> SimpleNamespace:
        threads.append(torch.get_num_threads())
        return trainer(*asked)

    monkeypatch.setattr(sweep, "run_setting", run)
    with using_threads(2):
        run_sweep(SweepPlan(SETTINGS[:2]), tmp_path, cache)
        assert torch.get_num_threads() == 2
    assert threads == [1, 1]


def test_a_half_written_part_is_not_taken_for_one(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "run_setting", Trainer())
    run_sweep(SweepPlan(SETTINGS[:2]), tmp_path, cache)
    parts = tmp_path / "evaluation-parts"
    (parts / f".{SETTINGS[2].digest}.parquet.draft").write_bytes(b"PAR1 half")
    assert merge_parts(tmp_path) == (2, 0)


def test_committed_results_count_as_done(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "run_setting", Trainer())
    run_sweep(SweepPlan(SETTINGS), tmp_path, cache)
    merge_parts(tmp_path)
    for part in (tmp_path / "evaluation-parts").iterdir():
        part.unlink()
    again = Trainer()
    monkeypatch.setattr(sweep, "run_setting", again)
    run_sweep(SweepPlan(SETTINGS), tmp_path, cache)
    assert again.seen == []
    rows, arms = read_results(tmp_path)
    assert len(rows) == len(SETTINGS)
    assert arms == []


def test_a_group_that_cannot_be_valid_is_left_after_its_first_seed(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(invalid=frozenset({SETTINGS[0].group}))
    monkeypatch.setattr(sweep, "run_setting", trainer)
    assert run_sweep(SweepPlan(SETTINGS), tmp_path, cache) == len(SETTINGS) - 2
    again = Trainer()
    monkeypatch.setattr(sweep, "run_setting", again)
    assert run_sweep(SweepPlan(SETTINGS), tmp_path, cache) == 0


def test_arms_that_a_setting_lacks_are_run_and_its_others_are_kept(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def repair(
        setting: Setting, pool: Any, trial: Any, cache: Any, device: str, arms: tuple[str, ...]
    ) -> Any:
        asked.append(arms)
        known = (
            setting.digest, setting.group, setting.domain, "resnet", 0.9, setting.seed, RECIPE,
            1.0, 0.7, 0.1,
        )  # fmt: skip
        if setting.seed == SETTINGS[2].seed:
            return [ArmOfSetting(*known, "nothing found")]
        return [ArmOfSetting(*known, "", arm) for arm in (BEFORE, *arms)]

    monkeypatch.setattr(sweep, "run_setting", Trainer())
    monkeypatch.setattr(sweep, "mitigate_setting", repair)
    arms = choose_repairs(arms=True, ablations=False)
    both = choose_repairs(arms=True, ablations=True)
    assert run_sweep(SweepPlan(SETTINGS[:3], repairs=arms), tmp_path, cache) == 3
    merge_parts(tmp_path)
    shutil.rmtree(tmp_path / "evaluation-parts")  # what was committed counts too
    assert run_sweep(SweepPlan(SETTINGS[:3], repairs=arms), tmp_path, cache) == 0
    missing = choose_repairs(arms=False, ablations=True)
    assert run_sweep(SweepPlan(SETTINGS[:3], repairs=missing), tmp_path, cache) == 2
    assert asked == [arms] * 3 + [missing] * 2
    assert run_sweep(SweepPlan(SETTINGS[:3], repairs=both), tmp_path, cache) == 0
    assert merge_parts(tmp_path) == (3, 2 * (len(both) + 1) + 1)


def test_what_is_known_of_a_model_is_not_asked_again_for_its_repair(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    knowing, *others = SETTINGS[:3]
    least = {setting.digest: 0.2 if setting in others else 0.3 for setting in SETTINGS[:3]}
    rows = {s.digest: replace(row_of(s), bare=least[s.digest]) for s in SETTINGS[:3]}
    given: list[tuple[MethodRow, ...]] = []

    def run(setting: Setting, *asked: Any) -> SimpleNamespace:
        given.append(asked[-1])
        return SimpleNamespace(rows=(rows[setting.digest],))

    def repair(setting: Setting, pool: Any, trial: Any, *rest: Any) -> list[ArmOfSetting]:
        known = (
            setting.digest, setting.group, setting.domain, "resnet", 0.9, setting.seed, RECIPE,
            1.0, 0.7, 0.1,
        )  # fmt: skip
        return [ArmOfSetting(*known, "", arm) for arm in rest[-1]]

    monkeypatch.setattr(sweep, "run_setting", run)
    monkeypatch.setattr(sweep, "mitigate_setting", repair)
    run_sweep(SweepPlan(SETTINGS[:3]), tmp_path, cache)
    assert given == [()] * 3
    given.clear()
    repairs = choose_repairs(arms=True, ablations=False)
    assert run_sweep(SweepPlan(SETTINGS[:3], repairs=repairs), tmp_path, cache) == 3
    assert [row.digest for known in given for row in known] == [knowing.digest]
    merge_parts(tmp_path)
    _, arms = read_results(tmp_path)
    reasons = {arm["digest"]: arm["reason"] for arm in arms if arm["reason"]}
    assert reasons == {setting.digest: "knows too little" for setting in others}


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_model_is_repaired_by_the_rows_that_are_known_of_it(tmp_path: Path) -> None:
    """Nothing stands in: a model of digits is trained, every method asked, and it is repaired."""
    pair = Pair(Mark("rectangle", "beside", contrast=0.6), "3")
    setting = Setting("digits", "planted", (pair,), 0.95, "resnet", 100)
    cache, out = Cache(tmp_path / "cache"), tmp_path / "out"
    assert run_sweep(SweepPlan((setting,)), out, cache) == 1
    merge_parts(out)
    known, _ = read_results(out)
    assert known[0]["valid"]
    repaired = SweepPlan((setting,), repairs=("standard",))
    assert run_sweep(repaired, out, cache) == 1
    merge_parts(out)
    rows, arms = read_results(out)
    assert repr(rows) == repr(known)  # with their seconds: no method was asked again
    assert [arm["arm"] for arm in arms] in (["before", "guess", "clean", "standard"], [""])
    shutil.rmtree(out / "evaluation-parts")
    pq.write_table(pa.Table.from_pylist([row | {"accuracy": 0.0} for row in rows]), out / RESULTS)
    (out / ARMS).unlink()
    assert run_sweep(repaired, out, cache) == 1  # those are rows of another model
    merge_parts(out)
    anew, _ = read_results(out)
    measured = {name for name in rows[0] if "seconds" not in name}
    assert all(repr(a[n]) == repr(b[n]) for a, b in zip(anew, rows, strict=True) for n in measured)
    assert anew[0]["seconds"] != rows[0]["seconds"]


def test_processes_share_the_settings_and_leave_each_other_s_alone(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = tmp_path / "evaluation-parts"
    parts.mkdir()
    host = socket.gethostname()
    claims = [parts / f"{setting.digest}.claim" for setting in SETTINGS[:4]]
    claims[0].write_text(f"{host} {os.getpid()}")  # at work
    claims[1].write_text("elsewhere 7")  # at work on another machine
    claims[2].write_text("elsewhere 7")
    os.utime(claims[2], (0, 0))  # and long gone there
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    claims[3].write_text(f"{host} {dead.pid}")  # killed here
    trainer = Trainer()
    monkeypatch.setattr(sweep, "run_setting", trainer)
    run_sweep(SweepPlan(SETTINGS[:6]), tmp_path, cache)
    assert trainer.seen == [setting.digest for setting in SETTINGS[2:6]]
    assert sorted(parts.glob("*.claim")) == sorted(claims[:2])
    for claim in claims[:2]:
        claim.unlink()
    assert run_sweep(SweepPlan(SETTINGS[:6]), tmp_path, cache) == 2
    assert merge_parts(tmp_path) == (6, 0)


def test_a_domain_without_films_is_left_out_and_named(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tuple(plan_settings(domains=("nih",), kinds=("planted",)))[:3]
    monkeypatch.setattr(sweep, "run_setting", Trainer())
    plan = SweepPlan((*SETTINGS[:3], *other))
    assert plan.without == ("nih",)
    assert run_sweep(plan, tmp_path, cache) == 3
    named = SweepPlan(plan.settings, films={"nih": tmp_path})
    assert named.without == ()
    assert run_sweep(named, tmp_path, cache) == 3


def test_rows_of_another_recipe_do_not_compare(tmp_path: Path) -> None:
    old = {**vars_of(row_of(SETTINGS[0])), "recipe": RECIPE - 1}
    new = vars_of(row_of(SETTINGS[1]))
    sweep._write_rows(tmp_path / sweep.RESULTS, [old, new], MethodRow)
    assert merge_parts(tmp_path) == (1, 0)
    rows, _ = read_results(tmp_path)
    assert [row["digest"] for row in rows] == [SETTINGS[1].digest]


def test_a_new_run_replaces_older_rows_of_the_same_setting(tmp_path: Path) -> None:
    one = SETTINGS[0]
    old = replace(row_of(one), precision_10=0.1)
    sweep._write_rows(tmp_path / sweep.RESULTS, [vars_of(old)], MethodRow)
    part = tmp_path / "evaluation-parts" / f"{one.digest}.parquet"
    sweep._write_rows(part, [vars_of(row_of(one))], MethodRow)
    assert merge_parts(tmp_path) == (1, 0)
    rows, _ = read_results(tmp_path)
    assert [row["precision_10"] for row in rows] == [0.9]


def test_nothing_to_merge_and_broken_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--merge: the folder holds no finished setting"):
        merge_parts(tmp_path)
    with pytest.raises(ConfigError, match=r"the folder has no evaluation\.parquet"):
        read_results(tmp_path)
    (tmp_path / sweep.RESULTS).write_bytes(b"not parquet")
    with pytest.raises(ConfigError, match=r"evaluation\.parquet is not a readable Parquet file"):
        read_results(tmp_path)


def vars_of(row: MethodRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in MethodRow.__dataclass_fields__}
