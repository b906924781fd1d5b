"""Films a second by hand, and a small tower on a few films."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravl_med.errors import ConfigError
from ravl_med.phantoms.cohort import synthesize
from tests.benchmarks.engine_speed import (
    SMALL_TOWER,
    _embed,
    _Films,
    measure_speed,
    save_tower,
    steady_rate,
)


def test_one_worker_is_as_fast_as_its_films_and_its_pauses() -> None:
    """100 films in 10 s, a pause of 2 s, 60 in 8 s."""
    units = [(1, 5.0, 15.0, 100), (1, 17.0, 25.0, 60)]
    assert steady_rate(units) == pytest.approx(160 / 20)


def test_only_the_time_counts_in_which_all_are_at_work() -> None:
    """The second begins 4 s later and ends 2 s sooner: 14 s, of which the first has 140 films."""
    units = [(1, 0.0, 20.0, 200), (2, 4.0, 11.0, 70), (2, 11.0, 18.0, 70)]
    assert steady_rate(units) == pytest.approx((140 + 140) / 14)


def test_without_any_such_time_all_of_it_counts() -> None:
    assert steady_rate([(1, 0.0, 4.0, 40), (2, 6.0, 10.0, 40)]) == pytest.approx(8.0)


def test_an_unknown_tower_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^benchmark scale: open_clip has no model 'ViT-Z'; expected"
    ):
        save_tower("ViT-Z", tmp_path)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> _Films:
    folder = tmp_path_factory.mktemp("speed")
    synthesize(folder / "films", images=44, size=64, workers=1)
    save_tower(SMALL_TOWER, folder / "model")
    return _Films(folder, folder / "model", 40)


@pytest.mark.slow
def test_a_worker_is_timed_from_its_films_to_embeddings(films) -> None:
    timing = _embed(films, ("local", 1, "0 1"))
    assert timing.rate > 0
    assert 0 < timing.processors < 2.5  # one thread of the model beside those that read
    assert timing.engine_start < timing.model_start < timing.seconds
    assert 40 / timing.rate < timing.seconds
    assert not list(films.folder.glob("cache *"))


@pytest.mark.slow
def test_engines_take_turns() -> None:
    steps: list[tuple[str, int, int]] = []
    rows = list(
        measure_speed(
            40, (SMALL_TOWER,), 1, lambda *step: steps.append(step), ray=False, side=64, alone=0.2
        )
    )
    assert [(row["engine"], row["workers"], row["films"]) for row in rows] == [
        ("passes alone", 1, 0), ("passes alone", 2, 0), ("local", 1, 320), ("local", 2, 320),
    ]  # fmt: skip
    assert all(row["rate"] > 0 for row in rows)
    assert steps[-1] == ("speed: quickstart", 2, 2)
