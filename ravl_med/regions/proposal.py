"""The regions of a film, proposed by the sources that the config names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from ravl_med.cohort.film import Film, FilmReader
from ravl_med.cohort.manifest import Cohort
from ravl_med.config.cohort import RegionsConfig, RegionSource
from ravl_med.errors import ConfigError, ImageError
from ravl_med.regions.anatomy import PROPOSED
from ravl_med.regions.annotations import AnnotationTable, boxes_within
from ravl_med.regions.custom_segmenter import open_segmenter
from ravl_med.regions.film_structures import FilmStructures, View, box_of, read_structures
from ravl_med.regions.region_set import (
    RegionKind,
    RegionSet,
    combine_regions,
    cut_tiles,
    slide_windows,
    tile_names,
    window_names,
)
from ravl_med.regions.segmenter import JointSegmenter, Segmenter, built_in_segmenter
from ravl_med.storage.remote import FilePath


@dataclass(frozen=True, slots=True, eq=False)
class RegionProposer:
    """Proposes the regions of the films of a cohort."""

    config: RegionsConfig
    films: Sequence[FilePath] = ()  # of the cohort
    files: tuple[tuple[FilePath, ...], ...] = ()  # annotation files of each film, if any
    table: AnnotationTable | None = None
    segmenter: Segmenter | None = None  # if the sources need one
    reader: FilmReader | None = None  # of annotation files; None: they are read in this process
    scored: bool = False  # artifacts tell how likely they are

    @classmethod
    def of(cls, config: RegionsConfig, cohort: Cohort) -> RegionProposer:
        """Return the proposer of a cohort.

        Raises
        ------
        ConfigError
            Annotations are wanted and there are none.
        DataError
            The table of annotations cannot be read, or none of its images is in the cohort.
        """
        segmenter: Segmenter | None = None
        if {"anatomy", "artifacts"} & set(config.sources):
            segmenter = choose_segmenter(config)
        if "annotations" not in config.sources:
            return cls(config, segmenter=segmenter)
        if config.annotations is None and not cohort.annotations:
            raise ConfigError(
                "regions.sources names annotations; neither regions.annotations nor a column "
                "'annotation' of the manifest says where they are. Name one of them."
            )
        table = None
        if config.annotations is not None:
            table = AnnotationTable.read(config.annotations, cohort.paths)
        return cls(config, cohort.paths, cohort.annotations, table, segmenter)

    def of_films(self, films: Sequence[int]) -> RegionProposer:
        """Return the proposer of some films, renumbered from 0, without a segmenter.

        It can be sent to another process, where `with_segmenter` completes it.
        """
        table = None
        if self.table is not None:
            boxes = {at: self.table.of_film.get(film, ()) for at, film in enumerate(films)}
            table = AnnotationTable({at: own for at, own in boxes.items() if own}, 0)
        return replace(
            self,
            films=tuple(self.films[film] for film in films) if self.films else (),
            files=tuple(self.files[film] for film in films) if self.files else (),
            table=table,
            segmenter=None,
        )

    def with_segmenter(self, segmenter: Segmenter | None) -> RegionProposer:
        """Return the proposer with a segmenter, if its sources need one."""
        wanted = {"anatomy", "artifacts"} & set(self.config.sources)
        return replace(self, segmenter=segmenter if wanted else None)

    def with_reader(self, reader: FilmReader) -> RegionProposer:
        """Return the proposer with what reads annotation files, in processes where it has some."""
        return replace(self, reader=reader)

    def propose(self, film: Film) -> RegionSet:
        """Return the regions of a film; tiles where no source finds any."""
        height, width = film.pixels.shape
        sets = []
        if "annotations" in self.config.sources:
            sets.append(self._annotations(film))
        if self.segmenter is not None:
            found = read_structures(self.segmenter, film.pixels, left_edge=film.left_edge)
            sets += self._structures(found, height, width)
        if "windows" in self.config.sources:
            sets.append(self._windows(height, width))
        if "tiles" in self.config.sources:
            sets.append(self._tiles(height, width))
        joined = combine_regions(sets, self.config.merge_overlap, self.config.max_per_image)
        if len(joined):
            return joined
        problems = (*joined.problems, "no_region")
        return replace(self._tiles(height, width), problems=problems)

    def unmatched(self) -> dict[str, int]:
        """Count the images of the table that are not in the cohort, as a problem."""
        if self.table is None or not self.table.unmatched:
            return {}
        return {"other_image": self.table.unmatched}

    def _annotations(self, film: Film) -> RegionSet:
        height, width = film.pixels.shape
        boxes = list(self.table.of_film.get(film.index, ())) if self.table else []
        reader = self.reader or FilmReader(film.reading)
        problems = []
        for path in self.files[film.index] if self.files else ():
            try:
                boxes += reader.annotation(
                    path,
                    self.films[film.index],
                    (height, width),
                    self.config.mask_names,
                    film.reading.frame,
                )
            except ImageError as error:
                problems.append(error.reason)
        found = boxes_within(boxes, height, width)
        return replace(found, problems=(*found.problems, *problems))

    def _structures(self, film: FilmStructures, height: int, width: int) -> list[RegionSet]:
        sides = np.array([width, height, width, height], dtype=np.float32)
        names = [name for name in PROPOSED if name in film.anatomy]
        sets = []
        if "artifacts" in self.config.sources:
            most = self._most_artifacts(len(names))
            certain = film.artifacts[:most]
            boxes = np.array([found.box for found in certain], dtype=np.float32).reshape(-1, 4)
            kinds = [
                RegionKind(
                    "artifacts", one.name, film.place(one.box), one.score if self.scored else None
                )
                for one in certain
            ]
            problems = ("over_limit",) * (len(film.artifacts) - len(certain))
            sets.append(RegionSet(boxes * sides, tuple(kinds), problems))
        if "anatomy" in self.config.sources:
            boxes = np.array([box_of(film.anatomy[name]) for name in names], dtype=np.float32)
            problems = () if film.view == "frontal" else (_VIEWS[film.view],)
            kinds = [RegionKind("anatomy", film.call(name)) for name in names]
            sets.append(RegionSet(boxes.reshape(-1, 4) * sides, tuple(kinds), problems))
        return sets

    def _most_artifacts(self, anatomy: int) -> int:
        """Return how many artifacts leave room for the anatomy; a third of all regions at least."""
        most = self.config.max_per_image
        if "anatomy" not in self.config.sources:
            return most
        return max(most - anatomy, -(-most // 3))

    def _tiles(self, height: int, width: int) -> RegionSet:
        boxes = cut_tiles(height, width, *self.config.tiles)
        return RegionSet(boxes, _named("tiles", tile_names(*self.config.tiles)))

    def _windows(self, height: int, width: int) -> RegionSet:
        windows = self.config.windows
        boxes = [slide_windows(height, width, side, windows.step) for side in windows.sides]
        names = tuple(name for side in windows.sides for name in window_names(side, windows.step))
        return RegionSet(np.concatenate(boxes), _named("windows", names))


_VIEWS: Mapping[View, str] = {
    "mirrored": "looks_mirrored",
    "turned": "looks_turned",
    "lateral": "looks_lateral",
    "none": "anatomy_not_found",
}


@lru_cache(maxsize=64)
def _named(source: RegionSource, names: tuple[str, ...]) -> tuple[RegionKind, ...]:
    """Return the kinds of regions that every film has, shared by all films."""
    return tuple(RegionKind(source, name) for name in names)


def choose_segmenter(config: RegionsConfig) -> Segmenter:
    """Return the segmenter of a config: the built-in one, which completes the user's own."""
    if config.segmenter is None:
        return built_in_segmenter()
    own = open_segmenter(config.segmenter, torch.device("cpu"), config.allow_code)
    return JointSegmenter(own, built_in_segmenter())


def describe_sources(config: RegionsConfig) -> str:
    """Return a sentence part that says what a region is."""
    rows, columns = config.tiles
    sides: Sequence[str] = [f"{100 * side:g} %" for side in config.windows.sides]
    names = {
        "annotations": "annotations",
        "artifacts": "artifacts that a segmenter finds",
        "anatomy": "anatomical regions that a segmenter finds",
        "windows": f"windows of {', '.join(sides)} of the film",
        "tiles": f"tiles, {rows} rows x {columns} columns",
    }
    return "; ".join(names[source] for source in names if source in config.sources)
