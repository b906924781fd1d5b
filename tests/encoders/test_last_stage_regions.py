"""Regions that pass the last stage one by one, beside a reference written module by module."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from tiny_models import FAMILIES
from torch import nn
from torch.nn import functional

from ravl_med.encoders import conv_pooling
from ravl_med.encoders.batches import BatchEncoder, PreparedFilm
from ravl_med.encoders.conv_pooling import pool_last_stage_regions, split_tower
from ravl_med.encoders.opening import open_model_folder
from ravl_med.encoders.region_pooling import CROPS, ONE_BY_ONE, pool_crops, region_pooling_of
from ravl_med.errors import ModelError

CPU = torch.device("cpu")
SIDE = 96
BOXES = [
    torch.tensor([[0.0, 0.0, 96.0, 96.0], [10.0, 20.0, 37.0, 61.0], [64.0, 0.0, 96.0, 32.0]]),
    torch.empty((0, 4)),
    torch.tensor([[-9.0, 50.0, 30.0, 110.0]]),  # partly outside
]
STAGED = ("open_clip_resnet", "convnext")
TOWERS = ("clip", "convnext", "convnextv2", "resnet", "swin")


@pytest.fixture(autouse=True)
def _no_gradient():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def tower_of():
    made: dict[str, nn.Module] = {}

    def tower(name: str) -> nn.Module:
        if name not in made:
            torch.manual_seed(1)
            made[name] = _settled(_build(name)).eval()
        return made[name]

    return tower


def _build(name: str) -> nn.Module:
    if name == "clip":
        return ModifiedResNet([1, 1, 1, 2], output_dim=16, heads=4, image_size=SIDE, width=8)
    model = TimmModel("test_resnet", 32, SIDE, pool="avg", proj="linear")
    size = {"num_classes": 0}
    trunks = {
        "convnext": lambda: timm.create_model("convnext_atto", **size),
        "convnextv2": lambda: timm.create_model("convnextv2_atto", **size),
        "resnet": lambda: timm.create_model("test_resnet", **size),
        "swin": lambda: timm.models.swin_transformer.SwinTransformer(
            img_size=SIDE, patch_size=4, embed_dim=16, depths=(1, 1, 1), num_heads=(2, 2, 4),
            window_size=3, global_pool="avg", **size,
        ),
    }  # fmt: skip
    model.trunk = trunks[name]()
    model.head = nn.Linear(model.trunk.num_features, 32)
    return model


def _settled(tower: nn.Module) -> nn.Module:
    """Give batch norm the statistics of noise, and take away what all images share."""
    for name, weight in tower.named_parameters():
        if name.endswith("bn3.weight"):
            nn.init.ones_(weight)
    tower.train()
    for _ in range(5):
        tower(images(8))
    tower.eval()
    last = tower.head if isinstance(tower, TimmModel) else tower.attnpool.c_proj
    last.bias -= tower(images(16)).mean(dim=0)
    return tower


def images(count: int = 3) -> torch.Tensor:
    return functional.interpolate(torch.randn(count, 3, 8, 8), SIDE, mode="bicubic")


def naive_roi_align(film: torch.Tensor, box: torch.Tensor, scale: float) -> torch.Tensor:
    """RoIAlign of one box on a map (W, s, s), cell by cell, as Mask R-CNN describes it."""
    side = film.shape[-1]
    x0, y0, x1, y1 = (float(value) * scale - 0.5 for value in box)
    wide, high = (x1 - x0) / side, (y1 - y0) / side
    across, down = math.ceil(wide), math.ceil(high)

    def read(y: float, x: float) -> torch.Tensor:
        if not (-1.0 <= y <= side and -1.0 <= x <= side):
            return torch.zeros(len(film))
        y, x = min(max(y, 0.0), side - 1.0), min(max(x, 0.0), side - 1.0)
        top, left = min(int(y), side - 2), min(int(x), side - 2)
        b, a = y - top, x - left
        return (
            (1 - b) * (1 - a) * film[:, top, left] + (1 - b) * a * film[:, top, left + 1]
            + b * (1 - a) * film[:, top + 1, left] + b * a * film[:, top + 1, left + 1]
        )  # fmt: skip

    cut = torch.zeros_like(film)
    for row in range(side):
        for column in range(side):
            ys = [y0 + high * (row + (j + 0.5) / down) for j in range(down)]
            xs = [x0 + wide * (column + (i + 0.5) / across) for i in range(across)]
            cut[:, row, column] = torch.stack([read(y, x) for y in ys for x in xs]).mean(dim=0)
    return cut


def naive_clip_last_stage(tower: ModifiedResNet, cut: torch.Tensor) -> torch.Tensor:
    """Bottlenecks and attention pool of one cut (1, W, s, s), layer by layer."""
    seen = cut
    for block in tower.layer4:
        inner = block.act1(block.bn1(block.conv1(seen)))
        inner = block.act2(block.bn2(block.conv2(inner)))
        inner = block.bn3(block.conv3(block.avgpool(inner)))
        around = seen if block.downsample is None else block.downsample(seen)
        seen = block.act3(inner + around)
    pool = tower.attnpool
    cells = seen.flatten(2)[0].T
    tokens = torch.cat([cells.mean(dim=0, keepdim=True), cells]) + pool.positional_embedding
    heads, width = pool.num_heads, tokens.shape[-1]
    query, key, value = (
        projection(part).reshape(len(part), heads, width // heads)
        for projection, part in (
            (pool.q_proj, tokens[:1]), (pool.k_proj, tokens), (pool.v_proj, tokens),
        )
    )  # fmt: skip
    share = torch.einsum("qhd,thd->hqt", query, key).div((width // heads) ** 0.5).softmax(dim=-1)
    return pool.c_proj(torch.einsum("hqt,thd->qhd", share, value).flatten())


def test_a_clip_resnet_equals_one_box_at_a_time_module_by_module(tower_of):
    tower, films = tower_of("clip"), images()
    stem = films
    for step in ("conv1", "bn1", "act1", "conv2", "bn2", "act2", "conv3", "bn3", "act3", "avgpool"):
        stem = getattr(tower, step)(stem)
    maps = tower.layer3(tower.layer2(tower.layer1(stem)))
    wanted = [
        naive_clip_last_stage(tower, naive_roi_align(maps[film], box, maps.shape[-1] / SIDE)[None])
        for film, own in enumerate(BOXES)
        for box in own
    ]

    whole, regions = pool_last_stage_regions(tower, films, BOXES)

    torch.testing.assert_close(regions, torch.stack(wanted), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole, tower(films))


def test_a_convnext_equals_one_box_at_a_time_module_by_module(tower_of):
    tower, films = tower_of("convnext"), images()
    trunk = tower.trunk
    maps = trunk.stages[2](trunk.stages[1](trunk.stages[0](trunk.stem(films))))
    wanted = []
    for film, own in enumerate(BOXES):
        for box in own:
            seen = naive_roi_align(maps[film], box, maps.shape[-1] / SIDE)[None]
            seen = trunk.stages[3].downsample(seen)
            for block in trunk.stages[3].blocks:
                inner = block.mlp(block.norm(block.conv_dw(seen)))
                seen = block.gamma.reshape(1, -1, 1, 1) * inner + seen
            mean = trunk.head.norm(seen.mean(dim=(2, 3), keepdim=True)).flatten(1)
            wanted.append(tower.head(mean)[0])

    _, regions = pool_last_stage_regions(tower, films, BOXES)

    torch.testing.assert_close(regions, torch.stack(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TOWERS)
def test_the_image_is_the_models_own_and_so_is_the_region_that_is_all_of_it(name, tower_of):
    tower, films = tower_of(name), images()
    boxes = torch.tensor([[0.0, 0.0, SIDE, SIDE], [0.0, 0.0, SIDE / 2, SIDE / 2]])

    pooling, pool = region_pooling_of(tower, "last_stage")
    whole, regions = pool(tower, films, [boxes] * 3)

    assert pooling == "RoIAlign before the last stage, which each region then passes by itself"
    torch.testing.assert_close(whole, tower(films))
    cosine = functional.cosine_similarity(regions, whole.repeat_interleave(2, dim=0))
    assert cosine[::2].min() >= 0.9999
    assert cosine[1::2].max() < 0.9999  # a quarter is not the image, so the line above can fail


@pytest.mark.parametrize("name", TOWERS)
def test_batches_do_not_change_a_region(name, tower_of, monkeypatch):
    tower, films = tower_of(name), images()
    together = pool_last_stage_regions(tower, films, BOXES)[1]
    alone = [
        pool_last_stage_regions(tower, films[film : film + 1], [box[None]])[1]
        for film, own in enumerate(BOXES)
        for box in own
    ]
    monkeypatch.setattr(conv_pooling, "_LAST_STAGE_REGIONS_AT_ONCE", 2)

    in_parts = pool_last_stage_regions(tower, films, BOXES)[1]

    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together, in_parts, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TOWERS)
def test_boxes_without_area_and_batches_without_boxes(name, tower_of):
    tower, films = tower_of(name), images(2)
    point = torch.tensor([[40.0, 40.0, 40.0, 40.0]])
    pixel = torch.tensor([[40.0, 40.0, 41.0, 41.0]])
    outside = torch.tensor([[200.0, 200.0, 230.0, 230.0]])

    _, regions = pool_last_stage_regions(tower, films[:1], [torch.cat([point, pixel, outside])])
    whole, none = pool_last_stage_regions(tower, films, [torch.empty((0, 4))] * 2)

    assert regions.isfinite().all()
    torch.testing.assert_close(regions[0], regions[1])
    assert not torch.allclose(regions[0], regions[2])  # a point still says what is there
    torch.testing.assert_close(whole, tower(films))
    assert none.shape == (0, whole.shape[1])


@pytest.mark.parametrize("how", ["one_pass", "last_stage", "crops"])
@pytest.mark.parametrize("name", ["clip", "convnext"])
def test_no_way_breaks_on_a_box_without_area(name, how, tower_of):
    tower, films = tower_of(name), images(1)
    boxes = torch.tensor([[40.0] * 4, [96.0, 0.0, 96.0, 96.0], [0.0, 95.5, 9.0, 96.0]])

    _, pool = region_pooling_of(tower, how)
    _, regions = pool(tower, films, [boxes])

    assert regions.shape[0] == len(boxes)
    assert regions.isfinite().all()


def test_what_lies_outside_stays_out_of_the_last_stage(tower_of):
    """Maps that differ only outside of a region give the same region."""
    staged = split_tower(tower_of("clip"))
    assert staged is not None
    maps = staged.before(images(1))
    other = maps.clone()
    other[..., 4:] += 5.0  # six cells a side; the region ends at the third
    box = [torch.tensor([[0.0, 0.0, 48.0, 48.0]])]

    def region_of(seen: torch.Tensor) -> torch.Tensor:
        tower = conv_pooling.StagedTower(lambda _: seen, staged.last)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(conv_pooling, "split_tower", lambda _: tower)
            return pool_last_stage_regions(nn.Identity(), images(1), box)[1]

    torch.testing.assert_close(region_of(other), region_of(maps))
    assert not torch.allclose(staged.last(other), staged.last(maps), atol=1e-3)


def test_a_region_teaches_every_stage():
    with torch.inference_mode(False), torch.enable_grad():
        tower = _build("clip").eval()
        for block in (tower.layer1[0], tower.layer4[0]):
            nn.init.ones_(block.bn3.weight)  # open_clip begins with zeros
        boxes = [torch.tensor([[10.0, 20.0, 37.0, 61.0]])]
        _, regions = pool_last_stage_regions(tower, torch.randn(1, 3, SIDE, SIDE), boxes)
        regions.square().sum().backward()

    layers = (tower.conv1, tower.layer4[0].conv1, tower.attnpool.q_proj)
    for weight in [layer.weight for layer in layers]:
        assert weight.grad is not None
        assert weight.grad.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_opens_with_what_it_has(family, family_folder, family_encoder):
    folder = family_folder(family)
    films = torch.randn(2, 3, *(family_encoder(family).info.image_size,) * 2)
    side = float(films.shape[-1])
    boxes = [torch.tensor([[0.0, 0.0, side, side], [0.0, 0.0, side / 2, side / 2]])] * 2

    crops = open_model_folder(folder, CPU, "crops")

    assert crops.info.region_pooling == CROPS
    assert crops.info.digest == family_encoder(family).info.digest
    whole, regions = crops.encode_regions(films, boxes)
    torch.testing.assert_close(whole, family_encoder(family).encode_image(films))
    torch.testing.assert_close(regions[::2], whole, rtol=1e-4, atol=1e-5)
    own = pool_crops(crops.model.visual, films, boxes)[1]
    torch.testing.assert_close(regions, functional.normalize(own), rtol=1e-4, atol=1e-5)
    if family in STAGED:
        staged = open_model_folder(folder, CPU, "last_stage")
        assert "before the last stage" in staged.info.region_pooling
        staged_whole, staged_regions = staged.encode_regions(films, boxes)
        torch.testing.assert_close(staged_whole, whole)
        torch.testing.assert_close(staged_regions[::2], whole, rtol=1e-4, atol=1e-5)
    else:
        with pytest.raises(ModelError, match=r"region_pooling: 'last_stage' is for .* or crops\."):
            open_model_folder(folder, CPU, "last_stage")


def test_a_store_does_not_mix_ways_of_embedding(family_folder, tmp_path):
    folder = family_folder("open_clip_resnet")
    films = torch.randn(1, 3, 64, 64)
    boxes = torch.tensor([[0.0, 0.0, 30.0, 30.0]])
    key, stored = b"0" * 32, {}
    for how in ("one_pass", "last_stage", "crops"):
        encoder = open_model_folder(folder, CPU, how)
        batches = BatchEncoder(encoder, tmp_path, 2, 4)
        assert key not in batches.store, how
        batches.store.write(0, batches.encode({0: PreparedFilm(key, films[0], boxes)}))
        stored[how] = batches.find(key)
        assert BatchEncoder(encoder, tmp_path, 2, 4).find(key)[1].tobytes() == (
            stored[how][1].tobytes()
        )
        # the regions of a film that cost a pass each are not filled up
        assert (BatchEncoder(encoder, tmp_path, 2).store.folder == batches.store.folder) is (
            encoder.info.region_pooling in ONE_BY_ONE
        )

    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 3
    images_of = [stored[how][0] for how in stored]
    for other in images_of[1:]:
        torch.testing.assert_close(*(torch.from_numpy(a) for a in (other, images_of[0])))
    regions = torch.from_numpy(np.concatenate([stored[how][1] for how in stored]))
    assert (regions @ regions.T).fill_diagonal_(0).max() < 0.9999
