"""Regions on phantoms, on films that people have marked, and against the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ravl_med.errors import ConfigError
from ravl_med.regions.segmenter import Segmenter, built_in_segmenter
from tests.benchmarks.benchmark_file import BenchmarkFile
from tests.benchmarks.regions.tables import regions_markdown
from tests.benchmarks.regions.trials import (
    TestFilm,
    count_proposals,
    measure_devices,
    measure_lungs,
    measure_phantoms,
    measure_speed,
    read_test_films,
)

Progress = Callable[[str, int, int], None]

PARTS = ("phantoms", "lungs", "devices", "films", "speed")

_PHANTOMS_SEED = 4_000  # no film of it was seen in training
_SIDE, _RUNS = 1024, 15
_SHOWN, _PICTURE = 8, 360  # films with the lowest Dice, and their side in pixels


@dataclass(frozen=True, slots=True)
class RegionsPlan:
    """What is measured.

    Attributes
    ----------
    parts : tuple of str - of `PARTS`
    films : Path or None - CSV of films that people have marked: image, patient, mask
    boxes : Path or None - annotations of the same films
    phantoms : int
    pictures : Path or None - PNG to be written of the films with the lowest Dice
    """

    parts: tuple[str, ...] = PARTS
    films: Path | None = None
    boxes: Path | None = None
    phantoms: int = 400
    pictures: Path | None = None

    def command(self, part: str) -> str:
        """Return the command that repeats one part."""
        words = ["ravl-med benchmark regions", "--parts", part]
        if part in ("lungs", "devices", "films"):
            words.append("--films FILMS.csv")
        if part == "devices":
            words.append("--boxes BOXES")
        if part == "phantoms":
            words += ["--phantoms", str(self.phantoms)]
        return " ".join(words)


def run_regions_benchmark(
    plan: RegionsPlan,
    folder: Path,
    *,
    progress: Progress = lambda stage, done, total: None,
) -> Path:
    """Measure the parts that are asked for; write ``regions.json`` and ``regions.md``.

    Parameters
    ----------
    plan : RegionsPlan
    folder : Path
    progress : callable - called with (stage, done, total)

    Returns
    -------
    Path - of the Markdown

    Raises
    ------
    ConfigError
        A part needs films or boxes that are not named, or the folder cannot be written.
    DataError
        The films or boxes cannot be read.
    """
    if plan.films is None and {"lungs", "devices", "films"} & set(plan.parts):
        raise ConfigError("--films: expected a CSV of films for lungs, devices and films.")
    if plan.boxes is None and "devices" in plan.parts:
        raise ConfigError("--boxes: expected annotations of the films for devices.")
    file = BenchmarkFile(folder, "regions", PARTS, regions_markdown)
    segmenter = built_in_segmenter()
    films = read_test_films(plan.films) if plan.films else []
    return file.measure(
        plan.parts, plan.command, lambda part: _measure(part, plan, segmenter, films, progress)
    )


def _measure(
    part: str,
    plan: RegionsPlan,
    segmenter: Segmenter,
    films: Sequence[TestFilm],
    progress: Progress,
) -> Sequence[Any]:
    if part == "phantoms":
        return measure_phantoms(segmenter, plan.phantoms, _PHANTOMS_SEED, progress)
    if part == "lungs":
        worst = _Worst()
        rows = measure_lungs(segmenter, films, progress, worst.see if plan.pictures else None)
        if plan.pictures is not None:
            worst.write(plan.pictures)
        return rows
    if part == "devices":
        assert plan.boxes is not None
        return measure_devices(segmenter, films, plan.boxes, progress)
    if part == "films":
        return count_proposals(segmenter, films, progress)
    return measure_speed(segmenter, _SIDE, _RUNS, progress)


class _Worst:
    """Pictures of the films with the lowest Dice: found in blue, drawn in orange."""

    def __init__(self) -> None:
        self._held: list[tuple[float, Image.Image]] = []

    def see(
        self,
        dice: float,
        film: NDArray[np.float32],
        found: NDArray[np.bool_],
        drawn: NDArray[np.bool_],
    ) -> None:
        gray = np.repeat(np.rint(255 * film)[..., None], 3, axis=2)
        if found.shape == film.shape:
            for mask, colour in ((found, (0, 114, 178)), (drawn, (230, 159, 0))):
                gray[mask] = 0.65 * gray[mask] + 0.35 * np.array(colour)
        picture = Image.fromarray(gray.astype(np.uint8)).resize((_PICTURE, _PICTURE))
        self._held = sorted([*self._held, (dice, picture)], key=lambda entry: entry[0])[:_SHOWN]

    def write(self, path: Path) -> None:
        sheet = Image.new("RGB", (4 * _PICTURE, _PICTURE * -(-_SHOWN // 4)))
        for number, (_, picture) in enumerate(self._held):
            sheet.paste(picture, (number % 4 * _PICTURE, number // 4 * _PICTURE))
        sheet.save(path, format="PNG")
