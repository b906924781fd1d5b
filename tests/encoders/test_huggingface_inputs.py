"""Boxes go where the processor of a folder puts the pixels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ravl_med.encoders.opening import open_model_folder
from ravl_med.errors import ModelError

CPU = torch.device("cpu")
SIZES = [(200, 200), (200, 300), (311, 205), (97, 241)]
SHORTEST = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
MODES = {
    "hf_clip": [
        SHORTEST,
        {"size": {"shortest_edge": 80}, "crop_size": {"height": 64, "width": 64}},
        {"size": {"height": 64, "width": 64}, "do_center_crop": False},
        {"size": {"height": 72, "width": 72}, "crop_size": {"height": 64, "width": 64}},
    ],
    "hf_siglip": [{}],
    "hf_naflex": [{}],
}


def opened(family: str, family_folder, tmp_path: Path, change: dict):
    folder = Path(shutil.copytree(family_folder(family), tmp_path / "model"))
    path = folder / "preprocessor_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | change), encoding="utf-8")
    return open_model_folder(folder, CPU)


@pytest.mark.parametrize(
    ("family", "change"),
    [(family, change) for family, changes in MODES.items() for change in changes],
)
def test_a_bright_square_is_found_where_the_geometry_says(family, change, family_folder, tmp_path):
    encoder = opened(family, family_folder, tmp_path, change)
    for height, width in SIZES:
        film = np.zeros((height, width), np.float32)
        y0, x0 = int(0.42 * height), int(0.45 * width)
        y1, x1 = y0 + int(0.2 * height), x0 + int(0.15 * width)
        film[y0:y1, x0:x1] = 1.0

        inputs = encoder.preprocess(film)[0].numpy()
        rows, columns = np.nonzero(inputs > (inputs.max() + inputs.min()) / 2)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        box = np.array([[x0, y0, x1, y1]], dtype=np.float32)
        geometry = encoder.geometry(height, width)

        assert inputs.shape == (64, 64)
        np.testing.assert_allclose(geometry.to_input(box)[0], found, atol=1.0)
        np.testing.assert_allclose(
            geometry.to_stored(geometry.to_input(box)), box, atol=0.05
        )  # nothing of it is cut away


def test_the_corner_that_is_cut_away_is_not_seen(family_folder, tmp_path):
    encoder = opened("hf_clip", family_folder, tmp_path, SHORTEST)

    share = encoder.geometry(100, 300).visible_share(
        np.array([[0, 0, 100, 100], [100, 0, 200, 100]], dtype=np.float32)
    )

    assert share == pytest.approx([0.0, 1.0], abs=0.01)


def test_info_is_that_of_the_processor(family_folder, tmp_path):
    change = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], **SHORTEST}
    info = opened("hf_clip", family_folder, tmp_path, change).info

    assert info.mean == (0.1, 0.2, 0.3)
    assert info.std == (0.4, 0.5, 0.6)
    assert (info.image_size, info.resize_mode) == (64, "shortest")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"size": {"shortest_edge": 64}, "do_center_crop": False},
            r"boxes of regions cannot follow \(size shortest_edge 64, crop none\)",
        ),
        ({"size": {"height": 64, "width": 96}, "do_center_crop": False}, "cannot follow"),
        ({"do_resize": False}, "cannot follow"),
        ({"do_pad": True}, "cannot follow"),
        ({"crop_size": {"height": 64, "width": 48}}, "cannot follow"),
        (
            {"size": {"shortest_edge": 32}, "crop_size": {"height": 64, "width": 64}},
            "cuts 64 pixels out of 32",
        ),
        (
            {"size": {"shortest_edge": 96}, "crop_size": {"height": 96, "width": 96}},
            "makes images of 96 pixels, the image tower reads 64",
        ),
        ({"image_processor_type": "Evil"}, "names no image processor that transformers has"),
    ],
)
def test_what_boxes_cannot_follow_is_refused(change, message, family_folder, tmp_path):
    with pytest.raises(ModelError, match=message):
        opened("hf_clip", family_folder, tmp_path, change)
