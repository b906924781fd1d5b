"""A sample of mutated inputs of every kind ends in a result or in a named error."""

from __future__ import annotations

import random

import pytest

from tests.benchmarks import run_folders
from tests.benchmarks.fuzz import Kind, make_corpus, mutate, run_case
from tests.benchmarks.runner import silent

CASES = 200


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def test_what_is_not_mutated_is_read(kinds: dict[str, Kind]) -> None:
    for kind in kinds.values():
        kind.read()


def test_mutations_follow_their_seed_and_change_something() -> None:
    content = bytes(range(200))
    made = [mutate(content, random.Random(seed)) for seed in range(50)]
    assert made == [mutate(content, random.Random(seed)) for seed in range(50)]
    assert sum(one != content for one in made) > 45
    assert mutate(b"", random.Random(0)) is not None


@pytest.mark.long
def test_a_sample_of_every_kind(kinds: dict[str, Kind]) -> None:
    before = {name: kind.file.read_bytes() for name, kind in kinds.items()}
    found = [(number, *run_case(kinds, number, seed=1)[:2]) for number in range(CASES)]
    assert [one for one in found if one[2]] == []
    assert {name for _, name, _ in found} == set(kinds)
    assert {name: kind.file.read_bytes() for name, kind in kinds.items()} == before


def test_a_fault_is_noticed(kinds: dict[str, Kind]) -> None:
    def broken() -> None:
        raise KeyError("name")

    kind = Kind(kinds["report.txt"].file, broken)
    assert run_case({"report.txt": kind}, 0, 0)[:2] == ("report.txt", "KeyError")


def test_reruns_and_kills_touch_nothing_and_leave_a_run_whole() -> None:
    (reruns,) = run_folders.measure_reruns(12, 0, silent)
    assert (reruns["refused"], reruns["named"]) == (12, 12)
    assert reruns["touched"] == reruns["lost"] == 0
    for row in run_folders.measure_kills(8, 5, 0, silent):
        assert row["kills"] == (3 if row["how"] == "at any moment" else 5)
        assert row["earlier"] + row["new"] == row["kills"]
        assert row["broken"] == row["left"] == 0
