"""Processes that embed films into a store, slowly, to be killed: MODEL FILMS.

A line of the input names a store: a process is forked for it, and its number told. At the next line
it is waited for, and how it ended is told. So torch is imported once.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
import open_clip  # noqa: F401 - before any fork
import torch

from ravl_med.cohort.film import Film
from ravl_med.encoders import batches as stored_films
from ravl_med.encoders.open_clip import open_model
from ravl_med.regions.region_set import RegionKind, RegionSet, cut_tiles, tile_names

stored_films._PART = 8  # so that the few films make many files


def films(count: int):
    for index in range(count):
        pixels = np.random.default_rng(index).random((64, 72), dtype=np.float32)
        yield Film(index, pixels, f"digest {index}", "as stored")


def propose(film: Film) -> RegionSet:
    time.sleep(0.01)
    kinds = tuple(RegionKind("tiles", name) for name in tile_names(2, 2))
    return RegionSet(cut_tiles(*film.pixels.shape, 2, 2), kinds)


def fill(model: str, store: str, count: int) -> None:
    batches = stored_films.BatchEncoder(
        open_model(Path(model), torch.device("cpu")), Path(store), 4, 4
    )
    stored_films.encode_films(
        batches,
        enumerate(films(count)),
        propose,
        min_visible=0.5,
        part=stored_films.films_a_part(4),
        pieces={number: f"{number:032x}" for number in range(-(-count // 8))},
    )


def main(model: str, count: str) -> None:
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            fill(model, line.strip(), int(count))
            os._exit(0)
        tell(child)
        sys.stdin.readline()  # until then its number is its own
        _, status = os.waitpid(child, 0)
        tell(os.waitstatus_to_exitcode(status))


def tell(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
