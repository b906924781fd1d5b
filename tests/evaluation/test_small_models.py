"""Small towers are models like any other: they are saved, opened, and pool their regions."""

from pathlib import Path

import pytest
import torch

from ravl_med.encoders.local_files import TextFiles
from ravl_med.encoders.open_clip import build_model, open_model, save_model
from ravl_med.encoders.region_pooling import region_pooling_of
from ravl_med.evaluation.films import SIDE
from ravl_med.evaluation.settings import ARCHITECTURES, Architecture
from ravl_med.evaluation.small_models import pool_regions, small_layout
from tests.benchmarks.tower_facts import describe_tower


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_tower_is_saved_and_opened_and_embeds_regions(
    architecture: Architecture, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = build_model(small_layout(architecture), TextFiles(), "evaluate").eval()
    save_model(model, small_layout(architecture), tmp_path / "model")
    encoder = open_model(tmp_path / "model", torch.device("cpu"))
    films = torch.randn(2, 3, SIDE, SIDE)
    whole, tile = [0.0, 0.0, SIDE, SIDE], [16.0, 16.0, 32.0, 32.0]
    for pooling in ("last_stage", "one_pass"):
        pool_regions(encoder, pooling)
        images, regions = encoder.encode_regions(films, [torch.tensor([whole, tile])] * 2)
        assert regions.shape == (4, 96)
        torch.testing.assert_close(images, encoder.encode_image(films), atol=1e-5, rtol=0)
        torch.testing.assert_close(regions[::2], images, atol=1e-5, rtol=0)
    _, pool = region_pooling_of(model.visual)
    again = pool(model.visual, films, [torch.tensor([tile])] * 2)[1]
    torch.testing.assert_close(
        torch.nn.functional.normalize(again.detach(), dim=-1), regions[1::2], atol=1e-5, rtol=0
    )


def test_no_tile_is_finer_than_a_cell_of_a_published_tower() -> None:
    assert {describe_tower(architecture).cell for architecture in ARCHITECTURES} == {12.0, 16.0}
    assert describe_tower("coarse resnet").cell == 32.0
