"""Films are decoded and prepared while the model is busy with those before them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

__all__ = ["read_ahead"]

T = TypeVar("T")

_PATIENCE = 0.2  # seconds between looks at whether anybody still wants more


def read_ahead(items: Iterable[T], most: int) -> Iterator[T]:
    """Yield items in order, made in a thread of their own.

    Parameters
    ----------
    items : iterable - is closed when nobody wants more, where it can be
    most : int - items that may wait

    Raises
    ------
    Exception
        Whatever making an item raises, in its place.
    """
    waiting: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(most)
    unwanted = threading.Event()

    def put(item: T | None, error: BaseException | None) -> None:
        while not unwanted.is_set():
            with suppress(queue.Full):
                waiting.put((item, error), timeout=_PATIENCE)
                return

    def make() -> None:
        try:
            for item in items:
                put(item, None)
                if unwanted.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:  # it is raised where the item is wanted
            put(None, error)
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = threading.Thread(target=make, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        unwanted.set()
        thread.join()
