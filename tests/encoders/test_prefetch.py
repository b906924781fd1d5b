"""Items made ahead: in order, errors in their place, nothing left behind."""

import threading
import time

import pytest

from ravl_med.encoders.batches import prefetch


def test_items_come_in_order():
    assert list(prefetch(iter(range(100)), 3)) == list(range(100))
    assert list(prefetch([], 3)) == []


def test_an_error_is_raised_in_its_place():
    def made():
        yield 1
        raise ValueError("broken")

    items = prefetch(made(), 3)
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)


def test_no_more_than_wanted_is_made_and_the_source_is_closed():
    count = 0
    closed = threading.Event()

    def made():
        nonlocal count
        try:
            while True:
                count += 1
                yield count
        finally:
            closed.set()

    items = prefetch(made(), 4)
    assert next(items) == 1
    time.sleep(0.05)
    assert count <= 7
    items.close()
    assert closed.wait(2)
    assert not [t for t in threading.enumerate() if t.name == "read-ahead"]


def test_what_is_made_overlaps_with_what_is_done():
    def made():
        for item in range(10):
            time.sleep(0.02)
            yield item

    start = time.perf_counter()
    for _ in prefetch(made(), 2):
        time.sleep(0.02)
    assert time.perf_counter() - start < 0.36  # one after the other would take 0.40
