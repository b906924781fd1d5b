"""What is known of films that went through a model: a table as they come by, then arrays."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.dicom_header import Edge
from ravl_med.cohort.film import Film
from ravl_med.cohort.near_duplicates import SKETCH_BYTES
from ravl_med.cohort.table import RejectedFilm
from ravl_med.encoders.kept_films import KeptFilms
from ravl_med.regions.region_set import RegionKind, RegionSet
from ravl_med.storage.bounded_reading import open_regular, parse_json
from ravl_med.storage.mapped_arrays import empty_rows, map_parts, mapped_copy, release_pages

FindEmbeddings = Callable[[bytes], tuple[NDArray[np.float32], NDArray[np.float32]]]

_TEXTS = ("digests", "_applied", "_left_edges")
_NUMBERS, _NANOMETRES = 7, 1e6  # of each film; of a millimetre
_GATHERED = 512  # films after which what was written to it is let go


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Image and region embeddings with the regions they belong to."""

    films: NDArray[np.int64]  # (N,) position in the cohort of each film that was read
    digests: tuple[str, ...]  # (N,) SHA-256 of the pixels
    applied: tuple[str, ...]  # (N,) how stored values became pixels
    sizes: NDArray[np.int64]  # (N, 2) height and width of the stored matrix
    image: NDArray[np.float32]  # (N, D) unit norm
    region: NDArray[np.float32]  # (R, D) unit norm
    region_image: NDArray[np.int64]  # (R,) 0 .. N - 1, ascending
    region_boxes: NDArray[np.float32]  # (R, 4) xyxy in stored pixels, half-open
    region_kind: NDArray[np.int64]  # (R,) position in `kinds`
    kinds: tuple[RegionKind, ...]  # all that there are
    unseen: int  # regions left out because the model does not see them
    problems: Mapping[str, int]  # what was to be a region and is none, by reason
    rejected: tuple[RejectedFilm, ...]
    not_finite: tuple[int, ...]  # cohort indices of films for which the model gives NaN or infinity
    # (N,) acquisition attributes that DICOM headers state
    attributes: tuple[Mapping[str, str], ...] = ()
    left_edges: tuple[Edge, ...] = ()  # (N,) side of the patient at the left edge of each film
    # (N,) width of a pixel in millimetres as it is stored, 0 where that is not stated
    pixel_mm: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    # (N, 128) by which films are found among others, see `near_duplicates`
    sketches: NDArray[np.uint8] = field(
        default_factory=lambda: np.empty((0, SKETCH_BYTES), dtype=np.uint8)
    )
    found: int = 0  # films whose embeddings were there before
    halved_to: int = 0  # films encoded at once, where memory did not suffice for more; 0: it did
    file_bytes: int = 0  # of the files that were read
    inputs: KeptFilms | None = None  # the N films as the model reads them; None: they are not kept
    # (N, C) logits of a model that scores the classes itself; None: they are cosines with texts
    answers: NDArray[np.float32] | None = None

    def release_pages(self) -> None:
        """Let go of what is held of arrays that lie in mapped files."""
        for mapped in (
            self.image,
            self.region,
            self.region_image,
            self.region_boxes,
            self.region_kind,
        ):
            release_pages(mapped)

    def widths_mm(self, films: NDArray[np.int64]) -> list[float]:
        """Return the widths of films (n,) in millimetres, 0 where a file does not state them."""
        if not len(self.pixel_mm):
            return [0.0] * len(films)
        widths: list[float] = (self.pixel_mm[films] * self.sizes[films, 1]).tolist()
        return widths

    def logits(self, classes: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
        """Return the logits (N, C) of the films: answers, or cosines with (C, D) over tau."""
        if self.answers is not None:
            return self.answers
        logits: NDArray[np.float32] = self.image @ classes.T / temperature
        return logits

    def only_finite(self) -> Embeddings:
        """Leave out the films with an embedding, or an answer, that holds NaN or infinity."""
        finite = map_parts(self.image, _finite_rows)
        if self.answers is not None:
            finite &= _finite_rows(self.answers)
        finite[self.region_image[~map_parts(self.region, _finite_rows)]] = False
        if finite.all():
            return self
        kept, regions = np.flatnonzero(finite), np.flatnonzero(finite[self.region_image])
        position = np.cumsum(finite) - 1
        return replace(
            self,
            films=self.films[kept],
            digests=tuple(compress(self.digests, finite)),
            applied=tuple(compress(self.applied, finite)),
            sizes=self.sizes[kept],
            image=_taken(self.image, kept),
            region=_taken(self.region, regions),
            region_image=position[self.region_image[regions]].astype(np.int64),
            region_boxes=self.region_boxes[regions],
            region_kind=self.region_kind[regions],
            not_finite=tuple(int(i) for i in self.films[~finite]),
            attributes=tuple(compress(self.attributes, finite)),
            left_edges=tuple(compress(self.left_edges, finite)),
            pixel_mm=self.pixel_mm[kept] if len(self.pixel_mm) else self.pixel_mm,
            sketches=self.sketches[kept] if len(self.sketches) else self.sketches,
            inputs=None if self.inputs is None else self.inputs.take(kept),
            answers=None if self.answers is None else self.answers[kept],
        )


@dataclass(frozen=True, slots=True, eq=False)
class FilmRow:
    """A film that was read and cut into regions."""

    film: Film  # without its pixels
    size: tuple[int, int]  # height and width of the stored matrix
    regions: RegionSet  # those that the model sees
    unseen: int  # those that it does not
    problems: tuple[str, ...]  # what was to be a region and is none
    key: bytes  # under which the embeddings are stored


class FilmTable:
    """Films as they come by, a column for each thing that is known of them.

    As objects, 200,000 films with 16 regions each would take half a gigabyte, and leave a heap that
    nobody gets back.
    """

    def __init__(self) -> None:
        # position in the cohort, height, width, regions, unseen ones, bytes of the file, width of a
        # pixel in nanometres
        self._numbers = array("q")
        self._boxes, self._region_kind = bytearray(), array("q")
        self._sketches = bytearray()
        self.digests: list[str] = []
        self.keys: list[bytes] = []
        self._applied: list[str] = []
        self._left_edges: list[Edge] = []
        self._attributes: list[Mapping[str, str]] = []
        self._problems: list[tuple[str, ...]] = []
        self._kinds: dict[RegionKind, int] = {}
        self._alike: dict[Any, Any] = {}
        self.rejected: list[tuple[int, RejectedFilm]] = []  # with their positions in the cohort
        self.found = 0  # films whose embeddings were there before

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Position, height, width, regions, unseen ones, bytes, nanometres of a pixel: (N, 7)."""
        return np.frombuffer(self._numbers, np.int64).reshape(-1, _NUMBERS)

    def add(self, position: int, row: FilmRow | RejectedFilm) -> None:
        """Take the next film of the cohort."""
        if isinstance(row, RejectedFilm):
            self.rejected.append((position, row))
            return
        film, regions = row.film, row.regions
        wide = round(film.pixel_mm * _NANOMETRES)
        seen = len(regions), row.unseen
        self._numbers.extend((position, *row.size, *seen, film.file_bytes, wide))
        self._boxes += regions.boxes.astype(np.float32, copy=False).tobytes()
        self._region_kind.extend(
            self._kinds.setdefault(kind, len(self._kinds)) for kind in regions.kinds
        )
        self.digests.append(film.digest)
        self._sketches += film.sketch
        self.keys.append(row.key)
        stated = tuple(sorted(film.attributes.items()))
        self._applied.append(self._once(film.applied, film.applied))
        self._left_edges.append(self._once(film.left_edge, film.left_edge))
        self._attributes.append(self._once(stated, film.attributes))
        self._problems.append(self._once(row.problems, row.problems))

    def extend(self, other: FilmTable, keep: NDArray[np.bool_]) -> None:
        """Take the films of another table that `keep` (n,) says, and all that it has rejected."""
        numbers = other.numbers
        of_region = np.repeat(keep, numbers[:, 3])
        boxes = np.frombuffer(other._boxes, np.float32).reshape(-1, 4)[of_region]
        codes = np.frombuffer(other._region_kind, np.int64)[of_region]
        used, first = np.unique(codes, return_index=True)
        code = np.zeros(len(other._kinds), dtype=np.int64)
        for old in used[np.argsort(first)].tolist():
            kind = list(other._kinds)[old]
            code[old] = self._kinds.setdefault(kind, len(self._kinds))
        self._numbers.frombytes(numbers[keep].tobytes())
        self._boxes += boxes.tobytes()
        self._sketches += other._sketched()[keep].tobytes()
        self._region_kind.frombytes(code[codes].tobytes())
        for name in ("digests", "keys", "_applied", "_left_edges", "_attributes", "_problems"):
            getattr(self, name).extend(compress(getattr(other, name), keep))
        self.rejected += other.rejected
        self.found += other.found

    def gather(
        self, find: FindEmbeddings, size: int, inputs: KeptFilms | None, answers: int = 0
    ) -> Embeddings:
        """Read the embeddings, of D = `size` numbers, from where they are kept.

        `find` takes the key of a film; `inputs` are the films of this table; so many `answers`
        stand behind the embedding of each. Films for which the model gives NaN or infinity are
        left out, and named.
        """
        numbers = self.numbers
        counts = numbers[:, 3]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        image = empty_rows((len(counts), size), np.float32)
        region = empty_rows((int(starts[-1]), size), np.float32)
        answered = np.empty((len(counts), answers), np.float32)
        for at, key in enumerate(self.keys):
            whole, region[starts[at] : starts[at + 1]] = find(key)
            image[at], answered[at] = whole[:size], whole[size:]
            if at % _GATHERED == 0:
                release_pages(image)
                release_pages(region)
        return Embeddings(
            films=numbers[:, 0].copy(),
            digests=tuple(self.digests),
            applied=tuple(self._applied),
            sizes=numbers[:, 1:3].copy(),
            image=image,
            region=region,
            region_image=mapped_copy(np.repeat(np.arange(len(counts), dtype=np.int64), counts)),
            region_boxes=mapped_copy(np.frombuffer(self._boxes, np.float32).reshape(-1, 4)),
            region_kind=mapped_copy(np.frombuffer(self._region_kind, np.int64)),
            kinds=tuple(self._kinds),
            unseen=int(numbers[:, 4].sum()),
            problems=dict(Counter(problem for of_film in self._problems for problem in of_film)),
            rejected=tuple(film for _, film in sorted(self.rejected, key=lambda r: r[0])),
            not_finite=(),
            attributes=tuple(self._attributes),
            left_edges=tuple(self._left_edges),
            pixel_mm=numbers[:, 6] / _NANOMETRES,
            sketches=self._sketched().copy(),
            found=self.found,
            file_bytes=int(numbers[:, 5].sum()),
            inputs=inputs,
            answers=answered if answers else None,
        ).only_finite()

    def dump(self) -> bytes:
        """Return the table as the content of a file, without the paths of what was rejected."""
        from safetensors.numpy import save

        rejected = [[at, film.row, film.reason, film.message] for at, film in self.rejected]
        texts = {
            "kinds": [[kind.source, kind.name, kind.place] for kind in self._kinds],
            "rejected": rejected,
            "found": self.found,
            **{name: list(getattr(self, name)) for name in (*_TEXTS, "_attributes", "_problems")},
        }
        return bytes(
            save(
                {
                    "numbers": self.numbers,
                    "sketches": self._sketched(),
                    "keys": np.frombuffer(b"".join(self.keys), np.uint8),
                    "boxes": np.frombuffer(self._boxes, np.float32),
                    "region_kind": np.frombuffer(self._region_kind, np.int64),
                },
                metadata={"texts": json.dumps(texts, default=dict)},
            )
        )

    @classmethod
    def load(cls, path: Path) -> FilmTable | None:
        """Open a table that `dump` has made; None where there is none, or a damaged one."""
        from safetensors import safe_open

        table = cls()
        try:
            with open_regular(path), safe_open(path, framework="numpy") as stored:
                arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                texts = parse_json(stored.metadata()["texts"].encode())
            if arrays["numbers"].shape[1:] != (_NUMBERS,):  # of an earlier version
                return None
            table._numbers.frombytes(arrays["numbers"].tobytes())
            table._sketches += arrays["sketches"].tobytes()
            table._boxes += arrays["boxes"].tobytes()
            table._region_kind.frombytes(arrays["region_kind"].tobytes())
            keys = arrays["keys"].tobytes()
            table.keys = [keys[at : at + 32] for at in range(0, len(keys), 32)]
            table._kinds = {RegionKind(*kind): n for n, kind in enumerate(texts["kinds"])}
            table._problems = [tuple(found) for found in texts["_problems"]]
            for name in (*_TEXTS, "_attributes"):
                setattr(table, name, texts[name])
            table.rejected = [(at, RejectedFilm(*film)) for at, *film in texts["rejected"]]
            table.found = texts["found"]
        except Exception:  # not there; safetensors raises a type of its own for what is damaged
            return None
        return table

    def _sketched(self) -> NDArray[np.uint8]:
        return np.frombuffer(self._sketches, np.uint8).reshape(-1, SKETCH_BYTES)

    def _once(self, known_by: Any, value: Any) -> Any:
        """Return what was held first of equal values."""
        return self._alike.setdefault(known_by, value)


def _taken(array: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Copy some rows of (n, D), into memory or, where they are many, into a mapped file."""
    taken = empty_rows((len(rows), array.shape[1]), np.float32)
    for start in range(0, len(rows), _GATHERED):
        part = slice(start, start + _GATHERED)
        taken[part] = array[rows[part]]
        release_pages(array)
        release_pages(taken)
    return taken


def _finite_rows(array: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each row of (n, D) holds finite numbers alone, shape (n,)."""
    return np.asarray(np.isfinite(array).all(axis=1), dtype=np.bool_)
