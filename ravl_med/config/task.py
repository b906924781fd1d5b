"""The section of the zero-shot task: classes, prompts, templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from ravl_med.config.base import ConfigPath, Section
from ravl_med.config.prompt_sets import expand_task

__all__ = ["ClassConfig", "TaskConfig"]


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
    prompts: str | None = Field(
        None,
        description="a ready set of findings (chexpert5, chexpert14, nih14, vindr18, padchest); it "
        "writes out the classes",
    )
    prompt_file: ConfigPath | None = Field(None, description="or a set of the user's own")
    style: str | None = Field(
        None,
        description="how a ready set puts a finding into words: plain (default), evidence, "
        "caption, report, or a style of the set",
    )
    finding: str | None = Field(None, description="of a ready set, told from its absence")
    findings: tuple[str, ...] | None = Field(
        None, min_length=2, description="of a ready set, told from each other"
    )
    label_columns: dict[str, str] = Field(
        default_factory=dict, description="findings of a ready set whose column is called otherwise"
    )
    classes: dict[str, ClassConfig] = Field(min_length=2)
    templates: tuple[str, ...] = Field(("{}",), min_length=1)
    temperature: float = Field(0.07, gt=0, description="tau of RaVL's zero-shot softmax")
    scores: Literal["softmax", "sigmoid"] = Field(
        "softmax",
        description="over the classes, with tau; or class by class, with the scale and bias that a "
        "SigLIP was trained with",
    )

    @model_validator(mode="before")
    @classmethod
    def _ready_set(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, dict):
            return data
        sources = [name for name in ("prompts", "prompt_file") if data.get(name) is not None]
        if len(sources) > 1:
            raise ValueError("name either 'prompts' or 'prompt_file', not both")
        if not sources:
            stray = [n for n in ("style", "finding", "findings", "label_columns") if data.get(n)]
            if stray:
                raise ValueError(f"{stray[0]!r} belongs to 'prompts', which names no set")
            return data
        named = str(data[sources[0]])
        folder = Path((info.context or {}).get("folder") or ".")
        return expand_task(data, named if sources[0] == "prompts" else folder / named)

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
