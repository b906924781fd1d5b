"""Sections that say what goes in: films, labels, task, model, regions."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ravl_med.config.base import ConfigPath, Section, Share

__all__ = [
    "ClassConfig",
    "CohortConfig",
    "LabelsConfig",
    "ModelConfig",
    "QuickstartModelConfig",
    "RegionSource",
    "RegionsConfig",
    "SyntheticConfig",
    "TaskConfig",
    "WindowsConfig",
]

Split = Literal["finetune", "validation", "test"]


class SyntheticConfig(Section):
    """A phantom cohort made by ``ravl-med synthesize`` and kept in the user's cache folder."""

    images: int = Field(3300, ge=40, description="films over all splits")
    feature: str = Field("generator", description="the planted thing")
    finding: str = Field("cardiomegaly", description="the finding that it is planted on")
    strength: Share = Field(0.95, description="Cramer's V in the fine-tuning split; 0 = null")
    seed: int = Field(0, ge=0)
    size: int = Field(256, ge=64, description="shorter side of a film in pixels")
    bystander: str | None = Field(
        None, description="a thing that goes with the feature but was never tied to the finding"
    )


class CohortConfig(Section):
    """Where films, radiology reports and labels come from."""

    manifest: ConfigPath | None = Field(None, description="manifest.csv of the user's own cohort")
    synthetic: SyntheticConfig | None = None
    split: Split | None = Field(
        "validation", description="rows of the manifest that are audited; null takes every row"
    )
    voi_view: int = Field(0, ge=0, description="which VOI LUT or window of a DICOM film is applied")
    max_pixels: int = Field(
        100_000_000, ge=1, description="films with more pixels are set aside before decoding"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.manifest is None) == (self.synthetic is None):
            raise ValueError("name exactly one of 'manifest' and 'synthetic'")
        return self


class LabelsConfig(Section):
    """What a blank label cell means."""

    blank: Literal["exclude", "negative"] = Field(
        "exclude", description="a film with a blank cell is left out, or blank counts as 0"
    )


class ClassConfig(Section):
    """One class of the zero-shot task."""

    prompts: tuple[str, ...] = Field(min_length=1, description="texts put into the templates")
    label: dict[str, Literal[0, 1]] | None = Field(
        None,
        description="manifest columns and the values that make a film a member; default: the "
        "column of the class's own name is 1",
    )


class TaskConfig(Section):
    """A zero-shot task: classes, prompts, templates."""

    name: str = "finding"
    classes: dict[str, ClassConfig] = Field(min_length=2)
    templates: tuple[str, ...] = Field(("{}",), min_length=1)
    temperature: float = Field(0.07, gt=0, description="tau of RaVL's zero-shot softmax")

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"template {template!r} must hold the placeholder {{}} once")
        return self

    def columns(self) -> dict[str, dict[str, int]]:
        """Map each class to the manifest columns and values that define it."""
        return {
            name: dict(entry.label) if entry.label else {name: 1}
            for name, entry in self.classes.items()
        }

    def texts(self) -> dict[str, list[str]]:
        """Map each class to its prompts, verbatim as the text tower reads them."""
        return {
            name: [
                template.replace("{}", prompt)  # other braces of a template are plain text
                for prompt in entry.prompts
                for template in self.templates
            ]
            for name, entry in self.classes.items()
        }


class QuickstartModelConfig(Section):
    """A small open_clip model, fine-tuned on the cohort's fine-tuning split and cached."""

    tower: Literal["resnet", "vit"] = "resnet"
    image_size: int = Field(96, ge=32, multiple_of=32, description="input side in pixels")
    epochs: int = Field(14, ge=1)
    batch_size: int = Field(64, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    seed: int = Field(0, ge=0)


class ModelConfig(Section):
    """The vision-language model under audit."""

    path: ConfigPath | None = Field(None, description="folder with open_clip_config.json")
    quickstart: QuickstartModelConfig | None = None
    name: str | None = Field(None, description="how the report calls the model")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    batch_size: int = Field(64, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.quickstart is None):
            raise ValueError("name exactly one of 'path' and 'quickstart'")
        return self


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
        description="boxes of the user's own, of all films: CSV, COCO JSON, or scene graphs; files "
        "of single films stand in the manifest's column 'annotation'",
    )
    mask_names: dict[int, str] = Field(
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
        description="regions of a film, the most specific and the most certain first; tiles and "
        "windows, which cover a film only together, are not counted",
    )
    segmenter: ConfigPath | None = Field(
        None,
        description="folder of a segmentation model of the user's own (TorchScript or MONAI "
        "bundle); without it the built-in one finds anatomy and artifacts",
    )
    tiles: tuple[Annotated[int, Field(ge=1, le=64)], Annotated[int, Field(ge=1, le=64)]] = Field(
        (6, 6), description="rows and columns of equal tiles"
    )
    min_visible: Share = Field(
        0.5, description="regions of which the model sees less than this share are left out"
    )
