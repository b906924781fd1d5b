"""A sample of mutated inputs of every kind ends in a result or in a named error."""

from __future__ import annotations

import random

import pytest

from tests.benchmarks.fuzz import Kind, make_corpus, mutate, run_case

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


def test_a_sample_of_every_kind(kinds: dict[str, Kind]) -> None:
    before = {name: kind.file.read_bytes() for name, kind in kinds.items()}
    found = [(number, *run_case(kinds, number, seed=1)) for number in range(CASES)]
    assert [one for one in found if one[2]] == []
    assert {name for _, name, _ in found} == set(kinds)
    assert {name: kind.file.read_bytes() for name, kind in kinds.items()} == before


def test_a_fault_is_noticed(kinds: dict[str, Kind]) -> None:
    def broken() -> None:
        raise KeyError("name")

    kind = Kind(kinds["report.txt"].file, broken)
    assert run_case({"report.txt": kind}, 0, 0) == ("report.txt", "KeyError")
