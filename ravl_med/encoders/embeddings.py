"""Embeddings of a cohort: films are read, cut into regions, preprocessed and encoded in batches.

One pass over the films; no film stays in memory longer than its batch. What was embedded lies in a
store on disk, where the same films, regions and model find it again.
"""

from __future__ import annotations

import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.dicom_header import Edge
from ravl_med.cohort.film import Film
from ravl_med.cohort.table import RejectedFilm
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.batches import (
    BatchEncoder,
    EmbeddedRow,
    ProposeRegions,
    films_a_part,
    prepare_film,
    store_films,
)
from ravl_med.regions.region_set import RegionKind
from ravl_med.storage.mapped_arrays import copy_of, empty_rows, let_go, map_parts
from ravl_med.storage.remote import FilePath

FindEmbeddings = Callable[[bytes], tuple[NDArray[np.float32], NDArray[np.float32]]]

_GATHERED = 512  # films after which what was written to it is let go


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Image and region embeddings with the regions they belong to.

    Attributes
    ----------
    films : ndarray of shape (N,), int64 - position in the cohort of each film that was read
    digests : tuple of str, length N - SHA-256 of the pixels
    applied : tuple of str, length N - how stored values became pixels
    sizes : ndarray of shape (N, 2), int64 - height and width of the stored matrix
    image : ndarray of shape (N, D), float32 - unit norm
    region : ndarray of shape (R, D), float32 - unit norm
    region_image : ndarray of shape (R,), int64 - 0 .. N - 1, ascending
    region_boxes : ndarray of shape (R, 4), float32 - xyxy in stored pixels, half-open
    region_kind : ndarray of shape (R,), int64 - position in `kinds`
    kinds : tuple of RegionKind - all that there are
    unseen : int - regions left out because the model does not see them
    problems : mapping of str to int - what was to be a region and is none, by reason
    not_finite : tuple of int - cohort indices of films for which the model gives NaN or infinity
    attributes : tuple of mapping, length N - acquisition attributes that DICOM headers state
    left_edges : tuple of Edge, length N - side of the patient at the left edge of each film
    found : int - films whose embeddings were there before
    halved_to : int - films encoded at once, where memory did not suffice for more; 0: it did
    file_bytes : int - of the files that were read
    """

    films: NDArray[np.int64]
    digests: tuple[str, ...]
    applied: tuple[str, ...]
    sizes: NDArray[np.int64]
    image: NDArray[np.float32]
    region: NDArray[np.float32]
    region_image: NDArray[np.int64]
    region_boxes: NDArray[np.float32]
    region_kind: NDArray[np.int64]
    kinds: tuple[RegionKind, ...]
    unseen: int
    problems: Mapping[str, int]
    rejected: tuple[RejectedFilm, ...]
    not_finite: tuple[int, ...]
    attributes: tuple[Mapping[str, str], ...] = ()
    left_edges: tuple[Edge, ...] = ()
    found: int = 0
    halved_to: int = 0
    file_bytes: int = 0

    def let_go(self) -> None:
        """Let go of what is held of arrays that lie in mapped files."""
        for mapped in (
            self.image,
            self.region,
            self.region_image,
            self.region_boxes,
            self.region_kind,
        ):
            let_go(mapped)


def embed_films(
    encoder: Encoder,
    films: Iterable[Film | RejectedFilm],
    propose: ProposeRegions,
    *,
    min_visible: float,
    batch_size: int,
    most_regions: int | None = None,
    root: Path | None = None,
    shared: FilePath | None = None,
    pieces: Sequence[str] = (),
    progress: Callable[[int], None] = lambda done: None,
) -> Embeddings:
    """Embed films and their regions.

    Parameters
    ----------
    films : iterable of Film or RejectedFilm - in cohort order
    propose : callable - film to its regions
    min_visible : float - regions of which the model sees a smaller share are left out
    batch_size : int - films encoded at once, at most
    most_regions : int or None - that a film can have; each is filled up to them, see
        `fixed_batches`
    root : Path or None - where embeddings are kept and looked for; None keeps none
    shared : Path, RemotePath or None - where other machines keep theirs
    pieces : sequence of str - names of the parts of the cohort, `films_a_part` films each, to note
        when they are done
    progress : callable - called with the number of films passed so far

    Returns
    -------
    Embeddings - without the films for which the model gives NaN or infinity; they are named
    """
    with _kept_in(root) as place:
        batches = BatchEncoder(encoder, place, batch_size, most_regions, shared)
        columns = EmbeddedColumns()

        def note(done: int, row: EmbeddedRow | RejectedFilm) -> None:
            progress(done)
            columns.add(row)

        found = store_films(
            batches,
            enumerate(films),
            lambda film: prepare_film(encoder, film, propose, min_visible, batches.store),
            part=films_a_part(batch_size),
            pieces=dict(enumerate(pieces)),
            note=note,
        )
        gathered = columns.gather(batches.find, encoder.info.embedding_size)
    halved = batches.size if batches.size < batch_size else 0
    return replace(gathered, found=found, halved_to=halved)


@contextmanager
def _kept_in(root: Path | None) -> Iterator[Path]:
    """Yield the folder of the stores; without one, a folder that goes again."""
    with nullcontext(root) if root is not None else tempfile.TemporaryDirectory() as place:
        yield Path(place)


class EmbeddedColumns:
    """What is told of films on their way, column by column.

    As objects, 200,000 films with 16 regions each would take half a gigabyte, and leave a heap that
    nobody gets back.
    """

    def __init__(self) -> None:
        self._films, self._sizes = array("q"), array("q")
        self._counts, self._region_kind = array("q"), array("q")
        self._boxes = bytearray()
        self._keys: list[bytes] = []
        self._digests: list[str] = []
        self._applied: list[str] = []
        self._left_edges: list[Edge] = []
        self._attributes: list[Mapping[str, str]] = []
        self._rejected: list[RejectedFilm] = []
        self._kinds: dict[RegionKind, int] = {}
        self._problems: Counter[str] = Counter()
        self._alike: dict[Any, Any] = {}
        self._unseen = self._file_bytes = 0

    def add(self, row: EmbeddedRow | RejectedFilm) -> None:
        """Take the next film of the cohort."""
        if isinstance(row, RejectedFilm):
            self._rejected.append(row)
            return
        film, regions = row.film, row.regions
        self._films.append(film.index)
        self._sizes.extend(row.size)
        self._counts.append(len(regions))
        self._region_kind.extend(
            self._kinds.setdefault(kind, len(self._kinds)) for kind in regions.kinds
        )
        self._boxes += regions.boxes.astype(np.float32, copy=False).tobytes()
        self._keys.append(row.key)
        self._digests.append(film.digest)
        self._applied.append(self._alike.setdefault(film.applied, film.applied))
        self._left_edges.append(self._alike.setdefault(film.left_edge, film.left_edge))
        stated = tuple(sorted(film.attributes.items()))
        self._attributes.append(self._alike.setdefault(stated, film.attributes))
        self._problems.update(row.problems)
        self._unseen += row.unseen
        self._file_bytes += film.file_bytes

    def gather(self, find: FindEmbeddings, size: int) -> Embeddings:
        """Read the embeddings from where they are kept.

        Parameters
        ----------
        find : callable - key of a film to its embedding (D,) and those of its regions (r, D)
        size : int - D

        Returns
        -------
        Embeddings - without the films for which the model gives NaN or infinity; they are named
        """
        counts = np.frombuffer(self._counts, np.int64)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        image = empty_rows((len(counts), size), np.float32)
        region = empty_rows((int(starts[-1]), size), np.float32)
        for at, key in enumerate(self._keys):
            image[at], region[starts[at] : starts[at + 1]] = find(key)
            if at % _GATHERED == 0:
                let_go(image)
                let_go(region)
        gathered = Embeddings(
            films=np.frombuffer(self._films, np.int64),
            digests=tuple(self._digests),
            applied=tuple(self._applied),
            sizes=np.frombuffer(self._sizes, np.int64).reshape(-1, 2),
            image=image,
            region=region,
            region_image=copy_of(np.repeat(np.arange(len(counts), dtype=np.int64), counts)),
            region_boxes=copy_of(np.frombuffer(self._boxes, np.float32).reshape(-1, 4)),
            region_kind=copy_of(np.frombuffer(self._region_kind, np.int64)),
            kinds=tuple(self._kinds),
            unseen=self._unseen,
            problems=dict(self._problems),
            rejected=tuple(self._rejected),
            not_finite=(),
            attributes=tuple(self._attributes),
            left_edges=tuple(self._left_edges),
            file_bytes=self._file_bytes,
        )
        return _only_finite(gathered)


def _only_finite(embeddings: Embeddings) -> Embeddings:
    """Leave out the films with an embedding that holds NaN or infinity."""
    finite = map_parts(embeddings.image, _finite_rows)
    broken = ~map_parts(embeddings.region, _finite_rows)
    finite[embeddings.region_image[broken]] = False
    if finite.all():
        return embeddings
    kept, regions = np.flatnonzero(finite), np.flatnonzero(finite[embeddings.region_image])
    position = np.cumsum(finite) - 1
    return replace(
        embeddings,
        films=embeddings.films[kept],
        digests=tuple(embeddings.digests[i] for i in kept),
        applied=tuple(embeddings.applied[i] for i in kept),
        sizes=embeddings.sizes[kept],
        image=_taken(embeddings.image, kept),
        region=_taken(embeddings.region, regions),
        region_image=position[embeddings.region_image[regions]].astype(np.int64),
        region_boxes=embeddings.region_boxes[regions],
        region_kind=embeddings.region_kind[regions],
        not_finite=tuple(int(i) for i in embeddings.films[~finite]),
        attributes=tuple(embeddings.attributes[i] for i in kept if embeddings.attributes),
        left_edges=tuple(embeddings.left_edges[i] for i in kept if embeddings.left_edges),
    )


def _taken(array: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Copy some rows of (n, D), into memory or, where they are many, into a mapped file."""
    taken = empty_rows((len(rows), array.shape[1]), np.float32)
    for start in range(0, len(rows), _GATHERED):
        part = slice(start, start + _GATHERED)
        taken[part] = array[rows[part]]
        let_go(array)
        let_go(taken)
    return taken


def _finite_rows(array: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each row of (n, D) holds finite numbers alone, shape (n,)."""
    return np.asarray(np.isfinite(array).all(axis=1), dtype=np.bool_)
