"""Films on their way into a store of embeddings: cut into regions, put into batches, written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from ravl_med.cohort.film import Film
from ravl_med.cohort.manifest import RejectedFilm
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.embedding_store import EmbeddedFilm, EmbeddingStore, film_key
from ravl_med.encoders.fixed_batches import BatchEncoder, PreparedFilm
from ravl_med.encoders.read_ahead import read_ahead
from ravl_med.regions.region_set import RegionSet

__all__ = ["EmbeddedRow", "ProposeRegions", "films_a_part", "prepare_film", "store_films"]

ProposeRegions = Callable[[Film], RegionSet]

_PART = 256  # films of a file, about; what a run that is ended has to do again
_HELD_BYTES = 128 * 2**20  # of inputs that wait for the model


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedRow:
    """A film on its way through the model.

    Attributes
    ----------
    film : Film - without its pixels
    size : tuple of int - height and width of the stored matrix
    regions : RegionSet - those that the model sees
    unseen : int - those that it does not
    problems : tuple of str - what was to be a region and is none
    key : bytes - under which the embeddings are stored
    prepared : PreparedFilm or None - None where they are stored already
    """

    film: Film
    size: tuple[int, int]
    regions: RegionSet
    unseen: int
    problems: tuple[str, ...]
    key: bytes
    prepared: PreparedFilm | None


def films_a_part(batch_size: int) -> int:
    """Return how many films of a cohort make one file of a store: whole batches."""
    return batch_size * max(1, _PART // batch_size)


def store_films(
    batches: BatchEncoder,
    stream: Iterable[tuple[int, Film | RejectedFilm]],
    prepare: Callable[[Film], EmbeddedRow],
    *,
    part: int,
    pieces: Mapping[int, str],
    note: Callable[[int, EmbeddedRow | RejectedFilm], None],
) -> int:
    """Put the embeddings of films into a store.

    A film's place in its batch is that of its position in the cohort, so that runs that were ended,
    and runs that share a cohort, make the same batches. Where most films of a batch are stored
    already, the others wait until they fill one.

    Parameters
    ----------
    batches : BatchEncoder
    stream : iterable of (position in the cohort, Film or RejectedFilm) - positions ascend
    prepare : callable - film to its row; called in another thread
    part : int - films of one file
    pieces : mapping of part number to the name that is noted when it is done
    note : callable - called with the number of films so far and each of them, in order

    Returns
    -------
    int - films that were stored before
    """
    made = ((at, f if isinstance(f, RejectedFilm) else prepare(f)) for at, f in stream)
    filling = _Filling(batches, part, pieces)
    side = batches.image_size
    most = min(2 * batches.size, max(4, _HELD_BYTES // (12 * side * side)))
    for done, (position, row) in enumerate(read_ahead(made, most), start=1):
        note(done, row)
        filling.add(position, row if isinstance(row, EmbeddedRow) else None)
    filling.finish()
    return filling.found


class _Filling:
    """Batches and files as films come by."""

    def __init__(self, batches: BatchEncoder, part: int, pieces: Mapping[int, str]) -> None:
        self._batches, self._part, self._pieces = batches, part, pieces
        self._window = self._number = -1
        self._waiting: dict[int, PreparedFilm] = {}  # of the present batch, by place
        self._stored_here = 0
        self._late: list[PreparedFilm] = []  # of batches that were mostly stored
        self._done: list[EmbeddedFilm] = []  # of the present part
        self._ended: list[int] = []  # parts that wait for their late films
        self._span = batches.size
        self.found = 0

    def add(self, position: int, row: EmbeddedRow | None) -> None:
        window, number = position // self._span, position // self._part
        if window != self._window:
            self._end_window()
            self._window = window
        if number != self._number:
            self._end_part()
            self._number = number
        if row is None:
            return
        if row.prepared is None:
            self._stored_here += 1
            self.found += 1
        else:
            self._waiting[position % self._span] = row.prepared

    def finish(self) -> None:
        self._end_window()
        self._encode_late(0)
        self._end_part()

    def _end_window(self) -> None:
        waiting, self._waiting = self._waiting, {}
        stored, self._stored_here = self._stored_here, 0
        if stored and 2 * len(waiting) < self._span:
            self._late += waiting.values()
            self._encode_late(self._span)
        elif waiting:
            self._done += self._batches.encode(waiting)

    def _encode_late(self, least: int) -> None:
        if self._late and len(self._late) >= least:
            now, self._late = self._late[: self._span], self._late[self._span :]
            self._done += self._batches.encode(dict(enumerate(now)))

    def _end_part(self) -> None:
        """Write what is embedded; a part whose films are all written is noted as done."""
        if self._number < 0:
            return
        self._batches.store.write(self._number, self._done)
        self._done = []
        self._ended.append(self._number)
        if not self._late:
            for number in self._ended:
                if number in self._pieces:
                    self._batches.store.list_done(self._pieces[number])
            self._ended = []


def prepare_film(
    encoder: Encoder,
    film: Film,
    propose: ProposeRegions,
    min_visible: float,
    store: EmbeddingStore,
) -> EmbeddedRow:
    """Cut a film into regions, and make the model's input of it where it is not stored.

    Parameters
    ----------
    encoder : Encoder
    film : Film
    propose : callable - film to its regions
    min_visible : float - regions of which the model sees a smaller share are left out
    store : EmbeddingStore
    """
    height, width = film.pixels.shape
    geometry = encoder.geometry(height, width)
    proposed = propose(film)
    share = geometry.visible_share(proposed.boxes)
    visible = proposed.take(np.flatnonzero((share >= min_visible) & (share > 0)).tolist())
    key = film_key(film.digest, visible.boxes)
    prepared = None
    if key not in store:
        boxes = torch.from_numpy(geometry.to_input(visible.boxes))
        prepared = PreparedFilm(key, encoder.preprocess(film.pixels), boxes)
    return EmbeddedRow(
        film=replace(film, pixels=np.empty((0, 0), np.float32)),
        size=(height, width),
        regions=replace(visible, problems=()),
        unseen=len(proposed) - len(visible),
        problems=proposed.problems,
        key=key,
        prepared=prepared,
    )
