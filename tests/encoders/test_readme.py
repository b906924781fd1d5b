"""The page on models: its config lines are ones that the config takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import open_clip
import pytest
from ruamel.yaml import YAML

from ravl_med.config.model import ModelConfig
from ravl_med.config.task import TaskConfig
from ravl_med.encoders.open_clip import check_layout

PAGE = Path(__file__).parents[2] / "ravl_med" / "encoders" / "README.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_config_lines_are_taken(block: str) -> None:
    sections = YAML(typ="safe", pure=True).load(block)

    assert set(sections) <= {"task", "model"}
    if "task" in sections:
        TaskConfig.model_validate(sections["task"])
    model = ModelConfig.model_validate(sections["model"])
    if model.architecture is not None:
        assert open_clip.get_model_config(model.architecture) is not None


def test_the_layout_is_one() -> None:
    (layout,) = re.findall(r"```json\n(.*?)```", TEXT, flags=re.DOTALL)

    check_layout({"model_cfg": json.loads(layout)}, "model.layout", "the file")


def test_every_model_is_there() -> None:
    for name in (
        "BiomedCLIP", "PubMedCLIP", "CheXzero", "CXR-CLIP", "XrayCLIP", "MedSigLIP", "Mammo-CLIP",
    ):  # fmt: skip
        assert re.search(rf"^### {name}\b", TEXT, flags=re.MULTILINE), name


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", TEXT):
        if "benchmark/" not in target:  # written by a run
            assert (PAGE.parent / target).exists(), target
