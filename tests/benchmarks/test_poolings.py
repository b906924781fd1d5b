"""Ways of embedding regions: toys whose leak is known by hand, and who is chosen."""

from __future__ import annotations

import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import nn
from torch.nn import functional

from ravl_med.config.loading import load_config
from ravl_med.encoders.region_pooling import region_pooling_of
from ravl_med.regions.region_set import cut_tiles
from ravl_med.storage.cache import Cache
from tests.benchmarks import poolings
from tests.benchmarks.poolings import (
    PoolingSizes,
    draw_poolings,
    judge_poolings,
    measure_poolings,
)
from tests.benchmarks.runner import QUICKSTART, silent

TILES = torch.from_numpy(cut_tiles(8, 8, 2, 2))


class Pixels(nn.Module):
    """Embeds an image as its pixels, so that a change is seen where it is."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def only_inside(visual: nn.Module, images: torch.Tensor, boxes):
    kept = []
    for image, own in zip(images, boxes, strict=True):
        for x0, y0, x1, y1 in own.int().tolist():
            inside = torch.zeros_like(image)
            inside[:, y0:y1, x0:x1] = image[:, y0:y1, x0:x1]
            kept.append(inside.flatten())
    return visual(images), torch.stack(kept)


def all_of_it(visual: nn.Module, images: torch.Tensor, boxes):
    whole = visual(images)
    return whole, whole.repeat_interleave(len(boxes[0]), dim=0)


def orthogonal_images() -> torch.Tensor:
    """Four images of one sign everywhere that are orthogonal to each other, tile by tile."""
    signs = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]).float()
    return signs[:, None, :, None].repeat_interleave(2, dim=2).expand(-1, 3, -1, 8).contiguous()


@pytest.mark.parametrize(
    ("pool", "same", "other"), [(only_inside, 1.0, 0.0), (all_of_it, 0.25, 0.0)]
)
def test_the_change_is_the_share_of_the_image_that_is_not_the_region(pool, same, other):
    images = orthogonal_images()[:, :, [0, 2, 4, 6, 1, 3, 5, 7]]  # every tile has all signs

    found = poolings._compare_surroundings(Pixels(), pool, images, TILES)

    assert found == pytest.approx((same, other), abs=1e-6)


@pytest.mark.slow
def test_the_last_stage_leaks_less_than_the_map_and_crops_do_not_leak():
    torch.manual_seed(0)
    tower = ModifiedResNet([1, 1, 1, 1], output_dim=16, heads=4, image_size=128, width=8)
    for name, weight in tower.named_parameters():
        if name.endswith("bn3.weight"):
            nn.init.ones_(weight)
    noise = functional.interpolate(torch.randn(16, 3, 8, 8), 128, mode="bicubic")
    with torch.inference_mode():
        for part in noise.split(8):
            tower.train()(part)
        tower.eval()
        tower.attnpool.c_proj.bias -= tower(noise).mean(dim=0)
        tiles = torch.from_numpy(cut_tiles(128, 128, 4, 4))
        leak = {}
        for how in ("one_pass", "last_stage", "crops"):
            _, pool = region_pooling_of(tower, how)
            same, other = poolings._compare_surroundings(tower, pool, noise[:4], tiles)
            leak[how] = (1 - same) / (1 - other)

    assert leak["crops"] == pytest.approx(0.0, abs=1e-5)
    assert 0.0 < leak["last_stage"] < leak["one_pass"] < 1.0


def row(how: str, **changes):
    plain = {
        "tower": "A", "how": how, "pooling": "p", "images": 4, "regions": 16, "whole": 1.0,
        "windows": 90, "right": 0.8, "outside": 0.9, "other": 0.5, "leak": 0.2, "threads": 1,
        "rounds": 3, "ratio": {"one_pass": 1.2, "last_stage": 6.0, "crops": 16.0}[how],
    }  # fmt: skip
    return {**plain, **changes}


@pytest.mark.parametrize(
    ("changes", "chosen"),
    [
        ({}, "one_pass"),
        ({"one_pass": {"ratio": 7.0}}, "last_stage"),  # the cheapest
        ({"one_pass": {"whole": 0.9985}}, "last_stage"),
        ({"one_pass": {"right": 0.76}}, "last_stage"),  # more than 3 points behind crops
        ({"one_pass": {"right": 0.775}}, "one_pass"),
        ({"one_pass": {"right": None}, "last_stage": {"right": None}}, "one_pass"),
        ({how: {"whole": 0.5} for how in ("one_pass", "last_stage", "crops")}, None),
    ],
)
def test_the_cheapest_faithful_way_is_chosen(changes, chosen):
    rows = [row(how, **changes.get(how, {})) for how in ("one_pass", "last_stage", "crops")]

    assert {one["chosen"] for one in judge_poolings(rows)} == {chosen}


def test_towers_are_judged_by_themselves():
    untrained = {"tower": "B", "right": None}
    rows = [row("one_pass", right=0.7), row("last_stage"), row("crops")]
    rows += [row("one_pass", **untrained), row("crops", **untrained)]

    judged = judge_poolings(rows)

    assert [one["chosen"] for one in judged] == ["last_stage"] * 3 + ["one_pass"] * 2
    assert [poolings.is_faithful(one) for one in judged] == [False, True, True, True, True]
    text = draw_poolings(rows)
    assert "- A: the default would be `last_stage`, not `one_pass`, which leaks 0.20" in text
    assert "no way is faithful" in draw_poolings([row("one_pass", whole=0.5)])


@pytest.mark.slow
def test_every_way_of_a_trained_tower_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(poolings, "_UNTRAINED", ())
    overrides = (
        "cohort.synthetic.images=160", "cohort.synthetic.size=96", "cohort.workers=0",
        "model.quickstart.epochs=1", "model.quickstart.image_size=64",
        "model.quickstart.batch_size=32",
    )  # fmt: skip
    config = load_config(QUICKSTART, overrides)

    rows = measure_poolings(config, PoolingSizes(8, 4, 2, 1), 0, Cache(tmp_path), silent)

    assert [(r["tower"].split()[1], r["how"]) for r in rows] == [
        ("resnet,", "one_pass"), ("resnet,", "last_stage"), ("resnet,", "crops"),
        ("vit,", "one_pass"), ("vit,", "crops"),
    ]  # fmt: skip
    for found in rows:
        assert found["whole"] >= 0.999
        assert (found["images"], found["regions"], found["windows"]) == (8, 16, 72)
        assert 0 <= found["right"] <= 1
        assert found["ratio"] > 0.5
    assert all(r["leak"] == pytest.approx(0.0, abs=1e-3) for r in rows if r["how"] == "crops")
