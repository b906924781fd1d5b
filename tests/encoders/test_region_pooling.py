"""Region embeddings: the whole image is the image, a region is its own place."""

import copy

import open_clip
import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet
from torch.nn import functional
from torchvision.ops import roi_align

from ravl_med.encoders.conv_pooling import pool_resnet_regions
from ravl_med.encoders.region_pooling import pool_crops, pool_vit_regions, region_pooling_of

SIZE = 64
POOLINGS = {"resnet": pool_resnet_regions, "vit": pool_vit_regions, "vit_avg": pool_vit_regions}
WHOLE = torch.tensor([[0.0, 0.0, SIZE, SIZE]])
NO_BOX = torch.empty((0, 4))


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(3, 3, 8, 8, generator=generator)
    return functional.interpolate(coarse, SIZE, mode="bicubic")


@pytest.fixture(scope="module")
def visual_of(encoder_of):
    return lambda tower: encoder_of(tower).model.visual


@pytest.fixture(autouse=True)
def _no_gradient():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("tower", POOLINGS)
def test_each_tower_has_its_pooling(tower, visual_of):
    assert region_pooling_of(visual_of(tower))[1] is POOLINGS[tower]


@pytest.mark.parametrize("tower", POOLINGS)
def test_the_image_embedding_is_the_models_own(tower, visual_of, images):
    visual = visual_of(tower)

    whole, _ = POOLINGS[tower](visual, images, [WHOLE] * 3)

    torch.testing.assert_close(whole, visual(images), rtol=1e-4, atol=1e-4)
    similarity = functional.cosine_similarity(whole[0], whole[1], dim=0)
    assert similarity < 0.99  # the model tells images apart, so the next tests can fail


@pytest.mark.parametrize("tower", POOLINGS)
def test_the_region_that_is_the_whole_image_gives_the_image_embedding(tower, visual_of, images):
    visual = visual_of(tower)
    quarter = torch.tensor([[0.0, 0.0, 32.0, 32.0]])

    whole, regions = POOLINGS[tower](visual, images, [torch.cat([WHOLE, quarter])] * 3)

    cosine = functional.cosine_similarity(regions, whole.repeat_interleave(2, dim=0), dim=-1)
    assert (cosine[::2] >= 0.9999).all()
    assert (cosine[1::2] < 0.999).all()


@pytest.mark.parametrize("tower", POOLINGS)
def test_regions_come_in_order_whatever_the_batch(tower, visual_of, images):
    visual = visual_of(tower)
    boxes = [
        torch.tensor([[0.0, 0.0, 32.0, 32.0], [10.0, 20.0, 40.0, 60.0], [16.0, 0.0, 64.0, 16.0]]),
        NO_BOX,
        torch.tensor([[32.0, 32.0, 64.0, 64.0]]),
    ]

    _, together = POOLINGS[tower](visual, images, boxes)

    alone = [
        POOLINGS[tower](visual, images[i : i + 1], [box[None]])[1]
        for i, part in enumerate(boxes)
        for box in part
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tower", POOLINGS)
def test_a_batch_without_regions_still_has_image_embeddings(tower, visual_of, images):
    visual = visual_of(tower)

    whole, regions = POOLINGS[tower](visual, images[:2], [NO_BOX, NO_BOX])

    torch.testing.assert_close(whole, visual(images[:2]), rtol=1e-4, atol=1e-4)
    assert regions.shape == (0, whole.shape[1])


def test_the_resnet_pools_more_regions_than_fit_into_one_pass(visual_of, images, monkeypatch):
    visual = visual_of("resnet")
    boxes = [torch.tensor([[float(i), 0.0, i + 30.0, 40.0] for i in range(5)])]
    _, expected = pool_resnet_regions(visual, images[:1], boxes)

    monkeypatch.setattr("ravl_med.encoders.conv_pooling._ATTENTION_REGIONS_AT_ONCE", 2)

    _, regions = pool_resnet_regions(visual, images[:1], boxes)
    torch.testing.assert_close(regions, expected, rtol=1e-4, atol=1e-4)


def test_patches_outside_the_region_do_not_matter_to_a_vit(visual_of, images):
    visual = visual_of("vit_1_layer")  # one layer, so that patches have not mixed before
    box = torch.tensor([[16.0, 16.0, 48.0, 32.0]])
    other = images[:1].clone()
    other[:, :, :16] += 3.0
    other[:, :, 32:] -= 3.0
    inside = images[:1].clone()
    inside[:, :, 16:32, 16:32] += 3.0

    whole, region = pool_vit_regions(visual, images[:1], [box])
    whole_other, region_other = pool_vit_regions(visual, other, [box])
    _, region_inside = pool_vit_regions(visual, inside, [box])

    torch.testing.assert_close(region_other, region, rtol=1e-5, atol=1e-5)
    assert functional.cosine_similarity(whole_other, whole) < 0.99
    assert functional.cosine_similarity(region_inside, region) < 0.99


def test_region_tokens_do_not_change_a_vits_image_embedding(visual_of, images):
    visual = visual_of("vit")
    crowd = torch.rand((40, 4), generator=torch.Generator().manual_seed(2)) * 32
    crowd[:, 2:] += 32

    whole, _ = pool_vit_regions(visual, images, [crowd] * 3)

    torch.testing.assert_close(whole, visual(images), rtol=1e-3, atol=1e-4)


def test_a_vits_region_token_is_a_second_class_token_over_its_patches(visual_of, images):
    """Layer by layer without a mask: the query sees itself and its patches, by covered share."""
    visual = visual_of("vit")
    box = torch.tensor([[8.0, 0.0, 32.0, 20.0]])
    share_x = torch.tensor([0.5, 1.0, 0.0, 0.0])
    share_y = torch.tensor([1.0, 0.25, 0.0, 0.0])
    share = (share_y[:, None] * share_x[None, :]).flatten()
    kept = share.nonzero().flatten()
    tokens = visual._embeds(images[:1])
    query = tokens[:, :1]
    for block in visual.transformer.resblocks:
        near = torch.cat([query, tokens[:, 1:][:, kept]], dim=1)
        weight = torch.cat([torch.ones(1), share[kept]]).log()[None]
        q, kv = block.ln_1(query), block.ln_1(near)
        query = query + block.attn(q, kv, kv, attn_mask=weight, need_weights=False)[0]
        query = query + block.mlp(block.ln_2(query))
        tokens = block(tokens)
    expected = visual.ln_post(query[:, 0]) @ visual.proj

    _, region = pool_vit_regions(visual, images[:1], [box])

    torch.testing.assert_close(region, expected, rtol=1e-3, atol=1e-3)


def test_patches_keep_their_place_where_they_do_not_fill_the_image(layout_of):
    layout = layout_of("vit_1_layer")["model_cfg"]
    layout["vision_cfg"] |= {"image_size": 60, "patch_size": 16}  # 3 x 3 patches, 12 pixels left
    torch.manual_seed(0)
    visual = open_clip.CLIP(**layout).visual.eval()
    visual.class_embedding.mul_(20.0)
    image = torch.randn(1, 3, 60, 60)
    second_row = torch.tensor([[0.0, 16.0, 60.0, 32.0]])
    other = image.clone()
    other[:, :, :16] += 5.0
    other[:, :, 32:] += 5.0

    _, region = pool_vit_regions(visual, image, [second_row])
    _, region_other = pool_vit_regions(visual, other, [second_row])

    torch.testing.assert_close(region_other, region, rtol=1e-5, atol=1e-5)


def test_a_crop_is_encoded_as_an_image(visual_of, images):
    visual = visual_of("vit_avg")
    crop = functional.interpolate(
        images[:1, :, 8:40, 16:32], (SIZE, SIZE), mode="bilinear", align_corners=False
    )

    _, region = pool_crops(visual, images[:1], [torch.tensor([[16.2, 8.0, 32.0, 39.8]])])

    torch.testing.assert_close(region, visual(crop), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", [pool_vit_regions, pool_crops])
def test_a_tower_may_also_return_its_tokens(pooling, layout_of, images):
    layout = copy.deepcopy(layout_of("vit_avg")["model_cfg"])
    layout["vision_cfg"] |= {"output_tokens": True}
    torch.manual_seed(0)
    visual = open_clip.CLIP(**layout).visual.eval()

    whole, regions = pooling(visual, images, [WHOLE] * 3)

    torch.testing.assert_close(whole, visual(images)[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(regions, whole, rtol=1e-4, atol=1e-4)


def test_pooling_on_the_map_equals_a_map_for_each_region() -> None:
    """Queries, keys and values are projected once; here each region gets a map of its own."""
    torch.manual_seed(1)
    tower = ModifiedResNet([1, 1, 1, 1], output_dim=16, heads=4, image_size=96, width=8).eval()
    images = torch.randn(3, 3, 96, 96)
    boxes = [
        torch.tensor([[0.0, 0.0, 96.0, 96.0], [10.0, 20.0, 37.0, 61.0]]),
        torch.empty(0, 4),
        torch.tensor([[-9.0, 50.0, 30.0, 110.0]]),  # partly outside
    ]
    with torch.no_grad():
        whole, regions = pool_resnet_regions(tower, images, boxes)
        features = tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(images)))))
        pool = tower.attnpool
        place, side = pool.positional_embedding, features.shape[-1]
        cells = (features + place[1:].T.reshape(1, -1, side, side)).permute(0, 2, 3, 1)
        maps = [features, *(p(cells).permute(0, 3, 1, 2) for p in (pool.k_proj, pool.v_proj))]
        index = torch.tensor([[0.0], [0.0], [2.0]])
        rois = torch.cat([index, torch.cat(boxes)], dim=1)
        wanted = []
        aligned = roi_align(torch.cat(maps, dim=1), rois, (side, side), side / 96, 0, aligned=True)
        for own in aligned:
            seen, keys, values = own.flatten(1).T.chunk(3, dim=-1)
            mean = seen.mean(dim=0, keepdim=True) + place[:1]
            keys = torch.cat([pool.k_proj(mean), keys]).reshape(-1, 4, keys.shape[-1] // 4)
            values = torch.cat([pool.v_proj(mean), values]).reshape(keys.shape)
            query = pool.q_proj(mean).reshape(4, -1)
            share = functional.softmax(
                torch.einsum("hd,thd->ht", query, keys) / query.shape[1] ** 0.5, dim=1
            )
            wanted.append(pool.c_proj(torch.einsum("ht,thd->hd", share, values).flatten()))
    torch.testing.assert_close(regions, torch.stack(wanted), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(whole, tower(images))
