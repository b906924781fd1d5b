"""A small fixed part of the controlled evaluation, held against what was recorded.

It fails when discovery or mitigation gets worse than the band. Its seeds are none of those that are
published.
"""

from __future__ import annotations

import pytest

from ravl_med.evaluation.discovery_methods import OURS
from ravl_med.evaluation.film_pool import FilmSources, open_pool
from ravl_med.evaluation.repairs import BEFORE, mitigate_setting
from ravl_med.evaluation.settings import Architecture, Domain, Kind, Pair, Setting
from ravl_med.evaluation.trial import MethodRow, Trial, run_setting
from ravl_med.storage.cache import Cache

SEED = 100

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("evaluation"))


def run(
    cache: Cache,
    domain: Domain,
    pair: Pair,
    *,
    kind: Kind = "planted",
    architecture: Architecture = "resnet",
) -> tuple[Setting, Trial]:
    strength = 0.0 if kind == "null" else 0.95
    setting = Setting(domain, kind, (pair,), strength, architecture, SEED)
    pool = open_pool(domain, SEED, cache, FilmSources())
    return setting, run_setting(setting, pool, cache)


def ours(trial: Trial) -> MethodRow:
    return next(row for row in trial.rows if row.method == OURS)


def test_a_letter_on_phantoms_is_learned_found_and_repaired(cache: Cache) -> None:
    setting, trial = run(cache, "phantoms", Pair("letter", "consolidation"))
    row = ours(trial)
    assert row.valid
    assert row.precision_10 >= 0.9
    assert row.right_class
    assert row.confirmed_true >= 1
    assert row.confirmed_other <= 0.05 * row.tested_other
    pool = open_pool("phantoms", SEED, cache, FilmSources())
    arms = mitigate_setting(setting, pool, trial, arms=("standard", "exchange"))
    worst = {arm.arm: arm.image_worst for arm in arms}
    assert worst["exchange"] >= worst[BEFORE] + 0.15
    assert worst["exchange"] > worst["standard"]


def test_a_rectangle_beside_digits_is_found(cache: Cache) -> None:
    _, trial = run(cache, "digits", Pair("rectangle", "3"))
    row = ours(trial)
    assert row.valid
    assert row.precision_10 >= 0.9
    assert row.right_class


def test_a_model_without_a_shortcut_is_not_accused(cache: Cache) -> None:
    _, trial = run(cache, "phantoms", Pair("letter", "consolidation"), kind="null")
    row = ours(trial)
    assert not row.valid
    assert row.shortcuts == 0
