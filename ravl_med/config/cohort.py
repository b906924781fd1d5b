"""Sections of the input: films and how they are read, labels, regions."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ravl_med.config.base import ConfigLocation, ConfigPath, Section, Share

Split = Literal["finetune", "validation", "test"]


class SyntheticConfig(Section):
    """A phantom cohort made by ``ravl-med synthesize`` and kept in the user's cache folder."""

    images: int = Field(3300, ge=40, le=1_000_000, description="films over all splits")
    feature: str = Field("generator", description="the planted device or lettering")
    finding: str = Field("cardiomegaly", description="the finding that it is planted on")
    strength: Share = Field(0.95, description="Cramer's V in the fine-tuning split; 0: none")
    seed: int = Field(0, ge=0, le=4_294_967_295, description="same seed, same films")
    size: int = Field(256, ge=64, le=4_096, description="shorter side of a film in pixels")
    bystander: str | None = Field(
        None, description="a device that goes with the feature but was never tied to the finding"
    )


Level = Annotated[float, Field(ge=-1e9, le=1e9)]


class VolumeConfig(Section):
    """How a NIfTI volume becomes one film."""

    show: Literal["projection", "slice"] = Field(
        "projection", description="the mean along an axis, or one slice"
    )
    plane: Literal["coronal", "axial", "sagittal"] = Field(
        "coronal", description="of the film that is made"
    )
    slice: Share = Field(
        0.5, description="place of the slice where no number is given: 0 is left, back or foot"
    )
    window: tuple[Level, Annotated[float, Field(gt=0, le=1e9)]] | None = Field(
        None, description="centre and width; null: from the 0.5th to the 99.5th percentile"
    )
    spacing: Literal["stored", "isotropic"] = Field(
        "stored", description="one pixel a voxel, or square pixels of the finer side's spacing"
    )


class ReadingConfig(Section):
    """How stored values become films, and what is refused before it is decoded."""

    voi_view: int = Field(
        0, ge=0, le=1_000, description="which VOI LUT or window of a DICOM film is applied"
    )
    voi: Literal["lut", "window", "full range"] = Field(
        "lut",
        description="what is applied of a DICOM film that carries a VOI LUT and a window: one of "
        "them, or the full range of stored values",
    )
    preset: Literal["window", "mimic-cxr-jpg", "chexpert"] = Field(
        "window",
        description="DICOM films as the standard shows them, or as the JPEG exports do that known "
        "models were trained on",
    )
    frame: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="frame of a multi-frame file, or slice of a volume, the first is 1; the "
        "manifest's column frame goes before it",
    )
    volume: VolumeConfig = VolumeConfig()
    max_pixels: int = Field(
        100_000_000,
        ge=1,
        le=100_000_000_000,
        description="films with more pixels are set aside before decoding",
    )
    max_file_mb: int = Field(1024, ge=1, le=1_000_000, description="larger files are set aside")
    max_inflated_mb: int = Field(
        1024,
        ge=1,
        le=1_000_000,
        description="deflated and gzipped files that unpack to more are set aside",
    )
    max_memory_mb: int = Field(
        4096,
        ge=512,
        le=10_000_000,
        description="data that a reading process may hold, if the system can limit it",
    )
    max_seconds: float = Field(
        60.0, gt=0, le=86_400.0, description="time that a film may take to be read"
    )

    def for_frame(self, frame: int | None) -> Self:
        """Return the section for a file whose row names a frame; None: as it is."""
        return self if frame is None else self.model_copy(update={"frame": frame})


DEFAULT_READING = ReadingConfig()
"""The standard's pipeline within the default limits."""


class CohortConfig(ReadingConfig):
    """The source of films, radiology reports and labels, and how films are read."""

    manifest: ConfigLocation | None = Field(
        None, description="manifest.csv of the user's own cohort; a path, or a URL such as s3://"
    )
    synthetic: SyntheticConfig | None = None
    split: Split | None = Field(
        "validation", description="rows of the manifest that are audited; null takes every row"
    )
    unit: Literal["image", "study"] = Field(
        "image",
        description="what is counted: every film; or one film of each study, PA before AP before "
        "others, by the column study",
    )
    attributes_from_header: bool | None = Field(
        None,
        description="acquisition attributes of DICOM headers: null for columns that the manifest "
        "lacks, true for blank cells too, false for none",
    )
    roots: tuple[ConfigLocation, ...] = Field(
        (),
        description="folders or URLs besides the manifest's own that its paths may lead to; a path "
        "or link that leads elsewhere is set aside",
    )
    compared_films: int = Field(
        20_000,
        ge=0,
        le=10_000_000,
        description="films of other splits that are read once, to find audited ones among them by "
        "their pixels, also encoded, scaled or windowed anew; what stands in finetune counts for "
        "gate.max_leaked_patients. 0: none",
    )
    workers: int = Field(
        2,
        ge=0,
        le=64,
        description="processes that films are read in, so that a file that brings its decoder down "
        "costs itself alone; 0: the run's own process reads",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.manifest is None) == (self.synthetic is None):
            raise ValueError("name exactly one of 'manifest' and 'synthetic'")
        return self


class LabelsConfig(Section):
    """The source of labels, and the meaning of blank and uncertain ones."""

    source: Literal["manifest", "reports"] = Field(
        "manifest", description="columns of the manifest, or what is read off its reports"
    )
    blank: Literal["exclude", "negative"] = Field(
        "exclude", description="a film with a blank cell is left out, or blank counts as 0"
    )
    uncertain: Literal["exclude", "positive", "negative"] = Field(
        "exclude", description="a film with an uncertain cell is left out, or it counts as 1 or 0"
    )
    max_unrecognised: Share = Field(
        0.2, description="share of the reports in which nothing may be recognised; more end the run"
    )


RegionSource = Literal["annotations", "artifacts", "anatomy", "windows", "tiles"]
"""Where a region comes from, the most specific first."""


class WindowsConfig(Section):
    """Windows that slide over a film; several sizes are scales."""

    sides: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = Field(
        (0.5, 0.3), min_length=1, description="sides of the windows, as shares of the film's"
    )
    step: float = Field(
        0.75, ge=0.1, le=1.0, description="distance of neighbours, as a share of a window's side"
    )


class RegionsConfig(Section):
    """How a film is cut into regions."""

    sources: tuple[RegionSource, ...] = Field(
        ("tiles",), min_length=1, description="what proposes regions; they are joined"
    )
    windows: WindowsConfig = WindowsConfig()
    annotations: ConfigPath | None = Field(
        None,
        description="boxes of the user's own, of all films: CSV (image, name, x0, y0, x1, y1), "
        "COCO JSON, or a folder of Chest ImaGenome scene graphs; files "
        "of single films stand in the manifest's column 'annotation'",
    )
    mask_names: dict[Annotated[int, Field(ge=0, le=4_294_967_295)], str] = Field(
        default_factory=dict,
        description="what the values of PNG and NIfTI masks mean; without it all but 0 is 'mask'",
    )
    merge_overlap: float = Field(
        0.8,
        gt=0.0,
        le=1.0,
        description="regions that overlap this much (intersection over union) are one",
    )
    max_per_image: int = Field(
        32,
        ge=1,
        le=10_000,
        description="regions of a film, the most specific and the most certain first; tiles and "
        "windows, which cover a film only together, are not counted",
    )
    segmenter: ConfigPath | None = Field(
        None,
        description="folder of a segmentation model of the user's own (segmenter.yaml or MONAI "
        "bundle); without it the built-in one finds anatomy and artifacts",
    )
    allow_code: bool = Field(
        False, description="run the TorchScript of segmenter, which is a program"
    )
    tiles: tuple[Annotated[int, Field(ge=1, le=64)], Annotated[int, Field(ge=1, le=64)]] = Field(
        (6, 6), description="rows and columns of equal tiles"
    )
    min_visible: Share = Field(
        0.5, description="regions of which the model sees less than this share are left out"
    )
