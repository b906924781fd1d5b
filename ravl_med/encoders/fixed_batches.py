"""Films through a model in batches of one shape.

What a kernel adds up, and in which order, can depend on the shape of its input. So a batch always
has the same number of films, each with the same number of regions, and what is not there is filled
up: then a film's embedding is the same, bit for bit, whatever it was encoded beside.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ravl_med import __version__
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.embedding_store import EmbeddedFilm, EmbeddingStore
from ravl_med.encoders.region_pooling import ONE_BY_ONE
from ravl_med.errors import ModelError
from ravl_med.storage.files import local_copy, write_whole
from ravl_med.storage.filesystems import TooLargeError
from ravl_med.storage.remote_path import FilePath

__all__ = ["BatchEncoder", "PreparedFilm", "read_size"]

_NOTE = 32  # bytes
_SHORT = ("out of memory", "not enough memory", "can't allocate memory")


@dataclass(frozen=True, slots=True, eq=False)
class PreparedFilm:
    """A film as the model reads it.

    Attributes
    ----------
    key : bytes - see `film_key`
    image : Tensor of shape (3, S, S) - float32
    boxes : Tensor of shape (r, 4) - xyxy in input pixels, float32
    """

    key: bytes
    image: torch.Tensor
    boxes: torch.Tensor


class BatchEncoder:
    """Encodes films in batches of one shape; where memory does not suffice, of half the size.

    Parameters
    ----------
    encoder : Encoder
    root : Path - of the stores
    batch_size : int - films at once, at most
    regions : int or None - to which the regions of each film are filled up; None: they are not, and
        neither are those that cost a pass each
    shared : Path, RemotePath or None - of the stores that other machines reach

    Attributes
    ----------
    size : int - films at once
    store : EmbeddingStore - of this size
    stores : list of EmbeddingStore - of this size, and of those that were too large
    """

    def __init__(
        self,
        encoder: Encoder,
        root: Path,
        batch_size: int,
        regions: int | None = None,
        shared: FilePath | None = None,
    ) -> None:
        self._encoder, self._root, self._shared = encoder, root, shared
        self._regions = None if encoder.info.region_pooling in ONE_BY_ONE else regions
        self.size = min(batch_size, self._known_size(batch_size))
        self.stores = [self._open_store()]

    @property
    def store(self) -> EmbeddingStore:
        """The store of the present size."""
        return self.stores[-1]

    @property
    def image_size(self) -> int:
        """Side of the model's input in pixels."""
        return self._encoder.info.image_size

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
        """Return the embedding (D,) of a film and those of its regions (r, D), of any size."""
        return next(store for store in reversed(self.stores) if key in store).read(key)

    def encode(self, films: Mapping[int, PreparedFilm]) -> list[EmbeddedFilm]:
        """Encode films, each in its place of a batch.

        Parameters
        ----------
        films : mapping of int to PreparedFilm - by place, 0 or more; those beyond the size make
            further batches

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
        whole, regions = self._encoder.encode_regions(images, boxes)
        image, region = (_array(part) for part in (whole, regions))
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
            side = self._encoder.info.image_size
            raise ModelError(
                f"model: memory does not suffice to encode one film of {side} x {side} pixels; "
                "choose another device (model.device) or fewer regions."
            )
        self.size //= 2
        for place in self._places():
            write_whole(place / self.size_note, f"{self.size}\n".encode(), above=2)
        self.stores.append(self._open_store())

    def _open_store(self) -> EmbeddingStore:
        name = self.folder_of(self.size)
        shared = None if self._shared is None else self._shared / name
        return EmbeddingStore(self._root / name, self._encoder.info.embedding_size, shared)

    def _known_size(self, wanted: int) -> int:
        """Size that an earlier run found to fit, here or on another machine."""
        notes = [place / self.size_note for place in self._places()]
        return min(wanted, *(read_size(note, wanted) for note in notes))

    def _places(self) -> list[FilePath]:
        return [self._root, *([] if self._shared is None else [self._shared])]

    def _digest(self, **more: int) -> str:
        """Return the digest of all that a bit of an embedding can depend on."""
        info, device = self._encoder.info, self._encoder.device
        cpu = device.type == "cpu"
        recipe: dict[str, Any] = {
            "model": info.digest,
            "input": (info.image_size, info.resize_mode, info.mean, info.std),
            "pooling": (info.region_pooling, self._regions),
            "precision": type(self._encoder).__name__,
            "device": "cpu" if cpu else (device.type, _device_name(device)),
            "threads": torch.get_num_threads() if cpu else 0,
            "versions": (__version__, torch.__version__),
            **more,
        }
        return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:24]


def read_size(note: FilePath, wanted: int) -> int:
    """Return how many films fit at once by a note; `wanted` where there is none.

    Parameters
    ----------
    note : Path or RemotePath
    wanted : int
    """
    try:
        with local_copy(note, _NOTE) as file:
            found = int(file.read_bytes()[:_NOTE])
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
        word in text for word in _SHORT
    )
