"""How stored values become films, and what is refused before it is decoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Preset = Literal["window", "mimic-cxr-jpg", "chexpert"]
Voi = Literal["lut", "window", "full range"]


@dataclass(frozen=True, slots=True)
class ReadingLimits:
    """What a file may cost.

    Attributes
    ----------
    max_pixels : int - rows x columns x frames x samples, or voxels
    max_file_mb : int - size of the file, in megabytes
    max_inflated_mb : int - size of what a deflated or gzipped file unpacks to, in megabytes
    max_memory_mb : int - data that a worker may hold, in megabytes
    max_seconds : float - time that a worker may take for one file
    """

    max_pixels: int = 100_000_000
    max_file_mb: int = 1024
    max_inflated_mb: int = 1024
    max_memory_mb: int = 4096
    max_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class VolumePolicy:
    """How a NIfTI volume becomes one film.

    Attributes
    ----------
    show : {"projection", "slice"} - the mean along an axis, or one slice
    plane : {"coronal", "axial", "sagittal"} - of the film
    slice : float - place of the slice where no number is given, 0 (left, back or foot) to 1
    window : pair of float or None - centre and width, in units of the volume; None: from the 0.5th
        to the 99.5th percentile
    spacing : {"stored", "isotropic"} - one pixel a voxel, or pixels of the finer side's spacing
    """

    show: Literal["projection", "slice"] = "projection"
    plane: Literal["coronal", "axial", "sagittal"] = "coronal"
    slice: float = 0.5
    window: tuple[float, float] | None = None
    spacing: Literal["stored", "isotropic"] = "stored"


@dataclass(frozen=True, slots=True)
class ReadingPolicy:
    """How stored values become films.

    Attributes
    ----------
    voi : {"lut", "window", "full range"} - what is applied of a film that carries both
    voi_view : int - which VOI LUT or window of several
    preset : {"window", "mimic-cxr-jpg", "chexpert"} - the standard's pipeline, or that of a data
        set of JPEG exports
    frame : int or None - which frame of several, or which slice of a volume, the first is 1
    """

    voi: Voi = "lut"
    voi_view: int = 0
    preset: Preset = "window"
    frame: int | None = None
    limits: ReadingLimits = field(default_factory=ReadingLimits)
    volume: VolumePolicy = field(default_factory=VolumePolicy)


DEFAULT_POLICY = ReadingPolicy()
"""The standard's pipeline within the limits above."""
