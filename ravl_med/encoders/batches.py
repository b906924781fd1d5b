"""Films through a model, in batches of one shape, into a store.

What a kernel adds up, and in which order, can depend on the shape of its input. So a batch always
has the same number of films, each with the same number of regions, and what is not there is filled
up: then a film's embedding is the same, bit for bit, whatever it was encoded beside. Films are
decoded and prepared while the model is busy with those before them.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ravl_med import __version__
from ravl_med.cohort.film import Film
from ravl_med.cohort.table import RejectedFilm
from ravl_med.encoders.base import Encoder, EncoderInfo, answering
from ravl_med.encoders.embeddings import FilmRow, FilmTable
from ravl_med.encoders.film_store import (
    EmbeddedFilm,
    FilmStore,
    InputStore,
    KeptInput,
    film_key,
    input_key,
)
from ravl_med.encoders.region_pooling import ONE_BY_ONE
from ravl_med.errors import ModelError
from ravl_med.regions.region_set import RegionSet
from ravl_med.storage.bounded_reading import read_regular
from ravl_med.storage.files import atomic_write_bytes, local_copy
from ravl_med.storage.remote import FilePath, TooLargeError

T = TypeVar("T")
ProposeRegions = Callable[[Film], RegionSet]

_NOTE = 32  # bytes
_LAYOUT = 1  # of the files of inputs
_PATIENCE = 0.2  # seconds between looks at whether anybody still wants more
_PART = 256  # films of a file, about; what a run that is ended has to do again
_HELD_BYTES = 128 * 2**20  # of inputs that wait for the model, or to be written
_SHORT = ("out of memory", "not enough memory", "can't allocate memory")


@dataclass(frozen=True, slots=True, eq=False)
class PreparedFilm:
    """A film as the model reads it."""

    key: bytes  # see `film_key`
    image: torch.Tensor  # (3, S, S) float32
    boxes: torch.Tensor  # (r, 4) xyxy in input pixels, float32


class BatchEncoder:
    """Encodes films in batches of one shape; where memory does not suffice, of half the size.

    The regions of each film are filled up to `regions`, unless that is None or each costs a pass.
    The stores lie below `root`, and those that other machines reach below `shared`; the last of
    them is of the present size, the others are of those that were too large.
    """

    def __init__(
        self,
        encoder: Encoder,
        root: Path,
        batch_size: int,
        regions: int | None = None,
        shared: FilePath | None = None,
    ) -> None:
        self.encoder, self.root, self._shared = encoder, root, shared
        self._regions = None if encoder.info.region_pooling in ONE_BY_ONE else regions
        self.size = min(batch_size, self._known_size(batch_size))
        self.stores = [self._open_store()]
        self.inputs = open_inputs(encoder, root)

    @property
    def store(self) -> FilmStore:
        """The store of the present size."""
        return self.stores[-1]

    @property
    def recipe(self) -> str:
        """Digest of all that a bit of an embedding can depend on, but for the size."""
        return self._digest()

    @property
    def size_note(self) -> str:
        """Name of the file that says how many films fit at once, where it was found out."""
        return f"{self._digest()}.batch-size"

    def folder_of(self, size: int) -> str:
        """Return the name of the store of a size."""
        return self._digest(batch=size)

    def shrink_to(self, size: int) -> None:
        """Encode no more films at once than fitted elsewhere, and note it."""
        while self.size > size:
            self._halve()

    def find(self, key: bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what is stored of a film, by batches of any size; see `EmbeddedFilm`."""
        return next(store for store in reversed(self.stores) if store.holds(key)).read(key)

    def encode(self, films: Mapping[int, PreparedFilm]) -> list[EmbeddedFilm]:
        """Encode films, each in its place of a batch; those beyond the size make further batches.

        Raises
        ------
        ModelError
            Memory does not suffice for a single film.
        """
        done: list[EmbeddedFilm] = []
        start = 0
        while any(place >= start for place in films):
            part = {p - start: f for p, f in films.items() if start <= p < start + self.size}
            try:
                done += self._encode(part) if part else []
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _is_short(error):
                    raise
                self._halve()
            else:
                start += self.size
        return done

    def _encode(self, films: Mapping[int, PreparedFilm]) -> list[EmbeddedFilm]:
        side = next(iter(films.values())).image.shape[-1]
        images = torch.zeros(self.size, 3, side, side)
        boxes = [self._fill_up(torch.empty(0, 4), side) for _ in range(self.size)]
        for place, film in films.items():
            images[place] = film.image
            boxes[place] = self._fill_up(film.boxes, side)
        whole, regions = self.encoder.encode_regions(images, boxes)
        image, region = (_array(part) for part in (whole, regions))
        own = answering(self.encoder)
        if own is not None:
            image = np.concatenate([image, _array(own.answer(images))], axis=1)
        starts = np.concatenate([[0], np.cumsum([len(part) for part in boxes])])
        return [
            (film.key, image[place], region[starts[place] : starts[place] + len(film.boxes)])
            for place, film in sorted(films.items())
        ]

    def _fill_up(self, boxes: torch.Tensor, side: int) -> torch.Tensor:
        lacking = max((self._regions or 0) - len(boxes), 0)
        whole = torch.tensor([[0.0, 0.0, side, side]]).expand(lacking, 4)
        return torch.cat([boxes, whole])

    def _halve(self) -> None:
        if self.size == 1:
            side = self.encoder.info.image_size
            raise ModelError(
                f"model: memory does not suffice to encode one film of {side} x {side} pixels; "
                "choose another device (model.device) or fewer regions."
            )
        self.size //= 2
        for place in self._places():
            atomic_write_bytes(place / self.size_note, f"{self.size}\n".encode(), above=2)
        self.stores.append(self._open_store())

    def _open_store(self) -> FilmStore:
        name = self.folder_of(self.size)
        shared = None if self._shared is None else self._shared / name
        info = self.encoder.info
        return FilmStore(self.root / name, info.embedding_size, shared, info.answers)

    def _known_size(self, wanted: int) -> int:
        """Size that an earlier run found to fit, here or on another machine."""
        notes = [place / self.size_note for place in self._places()]
        return min(wanted, *(read_size(note, wanted) for note in notes))

    def _places(self) -> list[FilePath]:
        return [self.root, *([] if self._shared is None else [self._shared])]

    def _digest(self, **more: int) -> str:
        """Return the digest of all that a bit of an embedding can depend on."""
        info, device = self.encoder.info, self.encoder.device
        cpu = device.type == "cpu"
        recipe: dict[str, Any] = {
            **_input_recipe(info),
            "pooling": (info.region_pooling, self._regions),
            "precision": type(self.encoder).__name__,
            "device": "cpu" if cpu else (device.type, _device_name(device)),
            "threads": torch.get_num_threads() if cpu else 0,
            "versions": (__version__, torch.__version__),
            **more,
        }
        return _digest_of(recipe)


def open_inputs(encoder: Encoder, root: Path) -> InputStore:
    """Open the store of what a model reads, below the folder of all stores."""
    recipe = {**_input_recipe(encoder.info), "version": __version__, "layout": _LAYOUT}
    return InputStore(root / f"{_digest_of(recipe)}.inputs", encoder.info)


def _input_recipe(info: EncoderInfo) -> dict[str, Any]:
    shape = (info.image_size, info.resize_mode, info.mean, info.std)
    return {"model": info.digest, "input": shape}


def _digest_of(recipe: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:24]


def read_size(note: FilePath, wanted: int) -> int:
    """Return how many films fit at once by a note; `wanted` where there is none."""
    try:
        with local_copy(note, _NOTE) as file:
            found = int(read_regular(file, _NOTE))
    except (OSError, ValueError, TooLargeError):
        return wanted
    return found if 0 < found < wanted else wanted


def _array(embedded: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = embedded.float().cpu().numpy()
    return array


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def _is_short(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        sign in text for sign in _SHORT
    )


def prefetch(items: Iterable[T], most: int) -> Iterator[T]:
    """Yield items in order, made in a thread of their own; at most `most` wait.

    What making an item raises is raised in its place. Items that can be closed are closed when no
    more are wanted.
    """
    waiting: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(most)
    unwanted = threading.Event()
    making = (items, waiting, unwanted)
    thread = threading.Thread(target=_make_items, args=making, name="prefetch", daemon=True)
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


def _make_items(
    items: Iterable[T],
    waiting: queue.Queue[tuple[T | None, BaseException | None]],
    unwanted: threading.Event,
) -> None:
    def put(item: T | None, error: BaseException | None) -> None:
        while not unwanted.is_set():
            with suppress(queue.Full):
                waiting.put((item, error), timeout=_PATIENCE)
                return

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


def films_a_part(batch_size: int) -> int:
    """Return how many films of a cohort make one file of a store: whole batches."""
    return batch_size * max(1, _PART // batch_size)


@dataclass(frozen=True, slots=True, eq=False)
class ReadFilm:
    """A film on its way: its row of the table, and what the store lacks of it."""

    row: FilmRow
    prepared: PreparedFilm | None
    kept: KeptInput | None


def encode_films(
    batches: BatchEncoder,
    films: Iterable[tuple[int, Film | RejectedFilm]],  # positions ascend
    propose: ProposeRegions,  # film to its regions; called in another thread
    *,
    min_visible: float,  # regions of which the model sees a smaller share are left out
    part: int,  # films of the cohort that make one file, see `films_a_part`
    pieces: Mapping[int, str] | None = None,  # parts of the cohort, to note when they are done
    progress: Callable[[int], None] = lambda done: None,
) -> FilmTable:
    """Read films once: cut them into regions, and put inputs and embeddings into the store.

    A film's place in its batch is that of its position in the cohort, so that runs that were ended,
    and runs that share a cohort, make the same batches. Where most films of a batch are stored
    already, the others wait until they fill one.
    """

    def read(film: Film | RejectedFilm) -> ReadFilm | RejectedFilm:
        if isinstance(film, RejectedFilm):
            return film
        return prepare_film(batches, film, propose(film), min_visible)

    table, filling = FilmTable(), _Filling(batches, part, pieces or {})
    side = batches.encoder.info.image_size
    most = min(2 * batches.size, max(4, _HELD_BYTES // (12 * side * side)))
    made = ((at, read(film)) for at, film in films)
    for done, (position, film) in enumerate(prefetch(made, most), start=1):
        progress(done)
        table.add(position, film if isinstance(film, RejectedFilm) else film.row)
        filling.add(position, None if isinstance(film, RejectedFilm) else film)
    filling.finish()
    table.found = filling.found
    return table


def prepare_film(
    batches: BatchEncoder, film: Film, proposed: RegionSet, min_visible: float
) -> ReadFilm:
    """Make of a film and its proposed regions what the stores lack; its pixels are not kept."""
    height, width = film.pixels.shape
    geometry = batches.encoder.geometry(height, width)
    share = geometry.visible_share(proposed.boxes)
    visible = proposed.take(np.flatnonzero((share >= min_visible) & (share > 0)).tolist())
    key = film_key(film.digest, visible.boxes)
    encoded, kept = key in batches.store, input_key(film.digest) in batches.inputs
    image = None if encoded and kept else batches.encoder.preprocess(film.pixels)
    prepared = packed = None
    if image is not None and not encoded:
        boxes = torch.from_numpy(geometry.to_input(visible.boxes))
        prepared = PreparedFilm(key, image, boxes)
    if image is not None and not kept:
        packed = batches.inputs.pack(film.digest, image)
    row = FilmRow(
        film=replace(film, pixels=np.empty((0, 0), np.float32)),
        size=(height, width),
        regions=replace(visible, problems=()),
        unseen=len(proposed) - len(visible),
        problems=proposed.problems,
        key=key,
    )
    return ReadFilm(row, prepared, packed)


class _Filling:
    """Batches and files as films come by."""

    def __init__(self, batches: BatchEncoder, part: int, pieces: Mapping[int, str]) -> None:
        self._batches, self._part, self._pieces = batches, part, pieces
        self._window = self._number = -1
        self._waiting: dict[int, PreparedFilm] = {}  # of the present batch, by place
        self._stored_here = 0
        self._late: list[PreparedFilm] = []  # of batches that were mostly stored
        self._done: list[EmbeddedFilm] = []  # of the present part
        self._inputs: list[KeptInput] = []
        self._ended: list[int] = []  # parts that wait for their late films
        self._span = batches.size
        self.found = 0

    def add(self, position: int, film: ReadFilm | None) -> None:
        window, number = position // self._span, position // self._part
        if window != self._window:
            self._end_window()
            self._window = window
        if number != self._number:
            self._end_part()
            self._number = number
        if film is None:
            return
        if film.kept is not None:
            self._inputs.append(film.kept)
            if len(self._inputs) * film.kept[1].size > _HELD_BYTES:
                self._write_inputs()
        if film.prepared is None:
            self._stored_here += 1
            self.found += 1
        else:
            self._waiting[position % self._span] = film.prepared

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

    def _write_inputs(self) -> None:
        self._batches.inputs.write(self._number, self._inputs)
        self._inputs = []

    def _end_part(self) -> None:
        """Write what is embedded; a part whose films are all written is noted as done."""
        if self._number < 0:
            return
        self._write_inputs()
        self._batches.store.write(self._number, self._done)
        self._done = []
        self._ended.append(self._number)
        if not self._late:
            for number in self._ended:
                if number in self._pieces:
                    self._batches.store.list_done(self._pieces[number])
            self._ended = []
