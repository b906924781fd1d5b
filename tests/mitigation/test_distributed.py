"""Processes of one start find each other beside what earlier starts have left in the store."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from torch import distributed

from ravl_med.errors import EngineError
from ravl_med.mitigation.distributed import _agree_on_start

PATIENCE = timedelta(seconds=20)


def start(store: distributed.Store, ranks: list[int], world: int) -> dict[int, str]:
    """What processes of a start call it; those that do not come have been killed before."""
    told: dict[int, str] = {}

    def come(rank: int) -> None:
        told[rank] = _agree_on_start(store, rank, world, PATIENCE)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return told


def test_each_start_has_a_name_of_its_own() -> None:
    store = distributed.HashStore()
    names = set()
    for _ in range(3):
        told = start(store, [2, 1, 0, 3], 4)
        assert len(told) == 4
        assert len(set(told.values())) == 1
        names |= set(told.values())
    assert len(names) == 3


def test_words_of_processes_that_were_killed_do_no_harm() -> None:
    store = distributed.HashStore()
    first = start(store, [0, 1], 2)
    store.set("ravl-med/token/1", "said by a process that was killed before it was answered")
    again = start(store, [1, 0], 2)
    assert again[0] == again[1] != first[0]


def test_processes_that_do_not_come_are_counted() -> None:
    store = distributed.HashStore()
    with pytest.raises(
        EngineError, match="2 of 3 processes have not come within 0 s; expected all that torchrun"
    ):
        _agree_on_start(store, 0, 3, timedelta(seconds=0.3))
