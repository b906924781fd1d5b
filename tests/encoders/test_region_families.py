"""Regions of every family: the whole image is the image, and a region is what an oracle says.

The oracles are written without the package: block by block, with the keys that a query may see
picked out by hand, or with a library's own pooling over the patches of a region alone.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import timm
import torch
from tiny_models import FAMILIES, scale_attention
from torch import nn
from torch.nn import functional
from torchvision.ops import roi_align

from ravl_med.encoders.conv_pooling import has_feature_map, pool_map_regions
from ravl_med.encoders.huggingface_tower import PatchRegions
from ravl_med.encoders.region_pooling import CROPS, region_pooling_of

POOLINGS = {
    "open_clip_resnet": "one attention-pooling query per region",
    "open_clip_vit": "one class token a region",
    "open_clip_vit_avg": "mean of the patches",
    "coca": "the model's attention pool",
    "convnext": "RoIAlign on the last stage, then the model's own pooling",
    "timm_vit": "one class token a region",
    "timm_vit_avg": "mean of the patches",
    "timm_vit_map": "the model's attention pool",
    "biomedclip": "one class token a region",
    "hf_clip": "one class token a region",
    "hf_siglip": "the model's attention pool",
    "hf_siglip2": "the model's attention pool",
    "hf_naflex": "the model's attention pool",
}


@pytest.fixture(autouse=True)
def _no_gradient():
    with torch.inference_mode():
        yield


def noise(encoder, count: int = 3) -> torch.Tensor:
    coarse = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return functional.interpolate(coarse, encoder.info.image_size, mode="bicubic")


def boxes_of(encoder, *shares: tuple[float, float, float, float]) -> torch.Tensor:
    return torch.tensor(shares) * encoder.info.image_size


def tokens_of(encoder) -> tuple:
    """Tokens before the blocks, the blocks, the number before the patches, patches a side."""
    visual = encoder.model.visual
    if hasattr(visual, "trunk"):
        trunk = visual.trunk
        side = encoder.info.image_size // trunk.patch_embed.patch_size[0]

        def embed(images):
            return trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(images)))

        return embed, trunk.blocks, trunk.num_prefix_tokens, side
    if hasattr(visual, "vision"):
        vision = visual.vision

        def embed(images):
            return vision.pre_layrnorm(vision.embeddings(images))

        return embed, vision.encoder.layers, 1, visual.grid[0]
    return visual._embeds, visual.transformer.resblocks, 1, visual.grid_size[0]


def naive_attention(block, query, near, weight):
    """One query over the tokens near it, by the block's own projections; `weight` is added."""
    if hasattr(block, "self_attn"):
        attention, norm = block.self_attn, block.layer_norm1
        q, k, v = (
            p(norm(t)) for p, t in
            ((attention.q_proj, query), (attention.k_proj, near), (attention.v_proj, near))
        )  # fmt: skip
        out, heads = attention.out_proj, attention.num_heads
    elif hasattr(block.attn, "qkv"):
        width = query.shape[-1]
        parts = [
            functional.linear(block.norm1(t), block.attn.qkv.weight[i * width : (i + 1) * width],
                              block.attn.qkv.bias[i * width : (i + 1) * width])
            for i, t in enumerate((query, near, near))
        ]  # fmt: skip
        (q, k, v), out, heads = parts, block.attn.proj, block.attn.num_heads
    else:
        attended = block.attn(
            block.ln_1(query), block.ln_1(near), block.ln_1(near),
            attn_mask=weight[None], need_weights=False,
        )  # fmt: skip
        return attended[0]
    split = [t.reshape(len(t), -1, heads, t.shape[-1] // heads).transpose(1, 2) for t in (q, k, v)]
    scores = split[0] @ split[1].transpose(2, 3) / split[0].shape[-1] ** 0.5 + weight
    return out((scores.softmax(dim=-1) @ split[2]).transpose(1, 2).flatten(2))


def naive_feed(block, tokens):
    if hasattr(block, "self_attn"):
        return block.mlp(block.layer_norm2(tokens))
    return block.mlp(block.norm2(tokens) if hasattr(block, "norm2") else block.ln_2(tokens))


def shares_of(side: int) -> torch.Tensor:
    """Shares of the patches in the box from (1/2, 0) to (2, 5/4) patches."""
    x, y = torch.zeros(side), torch.zeros(side)
    x[0], x[1], y[0], y[1] = 0.5, 1.0, 1.0, 0.25
    return (y[:, None] * x[None, :]).flatten()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pooling_is_the_one_that_fits_and_is_named(family, family_encoder):
    assert set(POOLINGS) == set(FAMILIES)
    assert POOLINGS[family] in family_encoder(family).info.region_pooling


@pytest.mark.parametrize("family", FAMILIES)
def test_the_region_that_is_the_whole_image_gives_the_image_embedding(family, family_encoder):
    encoder = family_encoder(family)
    images = noise(encoder)
    boxes = boxes_of(encoder, (0, 0, 1, 1), (0, 0, 0.5, 0.5))

    whole, regions = encoder.encode_regions(images, [boxes] * 3)
    alone = encoder.encode_image(images)

    assert functional.cosine_similarity(whole, alone).min() >= 0.99999
    assert functional.cosine_similarity(regions[::2], alone).min() >= 0.9999
    assert functional.cosine_similarity(regions[1::2], alone).max() < 0.995
    torch.testing.assert_close(regions.norm(dim=1), torch.ones(6))


@pytest.mark.parametrize("family", FAMILIES)
def test_regions_come_in_order_whatever_the_batch(family, family_encoder):
    encoder = family_encoder(family)
    images = noise(encoder)
    boxes = [
        boxes_of(encoder, (0, 0, 0.5, 0.5), (0.2, 0.3, 0.6, 0.9), (0.25, 0, 1, 0.25)),
        torch.empty((0, 4)),
        boxes_of(encoder, (0.5, 0.5, 1, 1)),
    ]

    _, together = encoder.encode_regions(images, boxes)

    alone = [
        encoder.encode_regions(images[i : i + 1], [box[None]])[1]
        for i, part in enumerate(boxes)
        for box in part
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_region_and_many_regions_leave_the_image_embedding(family, family_encoder):
    encoder = family_encoder(family)
    images = noise(encoder, 2)
    low = torch.rand((30, 4), generator=torch.Generator().manual_seed(2)) * 0.5
    crowd = torch.cat([low[:, :2], low[:, 2:] + 0.5], dim=1) * encoder.info.image_size

    none, no_regions = encoder.encode_regions(images, [torch.empty((0, 4))] * 2)
    many, _ = encoder.encode_regions(images, [crowd] * 2)

    torch.testing.assert_close(none, encoder.encode_image(images), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(many, none, rtol=1e-3, atol=1e-4)
    assert no_regions.shape == (0, encoder.info.embedding_size)


@pytest.mark.parametrize("family", ["open_clip_vit", "timm_vit", "biomedclip", "hf_clip"])
def test_a_region_token_is_a_second_class_token_over_its_patches(family, family_encoder):
    """Layer by layer without a mask: the query sees itself and its patches, by covered share."""
    encoder = family_encoder(family)
    visual = encoder.model.visual
    embed, blocks, prefix, side = tokens_of(encoder)
    patch = encoder.info.image_size / side
    share = shares_of(side)
    kept = share.nonzero().flatten()
    images = noise(encoder, 1)
    tokens = embed(images)
    query = tokens[:, :1]
    weight = torch.cat([torch.ones(1), share[kept]]).log()
    for block in blocks:
        near = torch.cat([query, tokens[:, prefix + kept]], dim=1)
        query = query + naive_attention(block, query, near, weight)
        query = query + naive_feed(block, query)
        out = block(tokens, None) if hasattr(block, "self_attn") else block(tokens)
        tokens = out[0] if isinstance(out, tuple) else out
    if hasattr(visual, "trunk"):
        wanted = visual.head(visual.trunk.fc_norm(visual.trunk.norm(query[:, 0])))
    elif hasattr(visual, "vision"):
        wanted = visual.projection(visual.vision.post_layernorm(query[:, 0]))
    else:
        wanted = visual.ln_post(query[:, 0]) @ visual.proj

    box = torch.tensor([[0.5 * patch, 0.0, 2 * patch, 1.25 * patch]])
    _, region = encoder.encode_regions(images, [box])

    torch.testing.assert_close(region, functional.normalize(wanted), rtol=1e-3, atol=1e-3)


def test_register_tokens_are_seen_by_a_region_token():
    """A timm ViT with a class token and registers: the query sees the registers too."""
    torch.manual_seed(0)
    trunk = timm.models.vision_transformer.VisionTransformer(
        img_size=64, patch_size=16, embed_dim=32, depth=2, num_heads=2, num_classes=0,
        reg_tokens=2, no_embed_class=True, global_pool="token",
    ).eval()  # fmt: skip
    scale_attention(trunk)
    visual = timm_model(trunk)
    encoder = SimpleNamespace(info=SimpleNamespace(image_size=64))
    images = noise(encoder, 1)
    share = shares_of(4)
    kept = share.nonzero().flatten()
    tokens = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(images)))
    query = tokens[:, :1]
    weight = torch.cat([torch.ones(3), share[kept]]).log()
    for block in trunk.blocks:
        near = torch.cat([query, tokens[:, 1:3], tokens[:, 3 + kept]], dim=1)
        query = query + naive_attention(block, query, near, weight)
        query = query + naive_feed(block, query)
        tokens = block(tokens)

    name, pool = region_pooling_of(visual)
    whole, regions = pool(
        visual, images, [torch.tensor([[8.0, 0.0, 32.0, 20.0], [0.0, 0.0, 64.0, 64.0]])]
    )

    assert "class token" in name
    torch.testing.assert_close(regions[:1], trunk.norm(query[:, 0]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(regions[1:], whole, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(whole, trunk(images), rtol=1e-3, atol=1e-3)


def timm_model(trunk: nn.Module) -> nn.Module:
    """What open_clip makes of a trunk, without its catalogue of names."""
    from open_clip.timm_model import TimmModel

    model = TimmModel("test_vit", 32, image_size=64)
    model.trunk, model.head = trunk, nn.Identity()
    return model


@pytest.mark.parametrize("family", ["open_clip_vit_avg", "timm_vit_avg"])
def test_an_averaging_vit_averages_the_patches_of_a_region(family, family_encoder):
    encoder = family_encoder(family)
    visual = encoder.model.visual
    embed, blocks, prefix, side = tokens_of(encoder)
    images = noise(encoder, 1)
    tokens = embed(images)
    for block in blocks:
        tokens = block(tokens)
    patches = (visual.trunk.norm(tokens) if hasattr(visual, "trunk") else visual.ln_post(tokens))[
        :, prefix:
    ]
    share = shares_of(side)
    pooled = sum(float(s) * patches[:, i] for i, s in enumerate(share)) / float(share.sum())
    if hasattr(visual, "trunk"):
        wanted = visual.head(visual.trunk.fc_norm(pooled))
    else:
        wanted = pooled @ visual.proj
    patch = encoder.info.image_size / side

    box = torch.tensor([[0.5 * patch, 0.0, 2 * patch, 1.25 * patch]])
    _, region = encoder.encode_regions(images, [box])

    torch.testing.assert_close(region, functional.normalize(wanted), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["timm_vit_map", "hf_siglip", "hf_siglip2"])
def test_an_attention_pool_is_asked_about_the_patches_of_a_region_alone(family, family_encoder):
    """The library's own head, handed nothing but the patches of a region."""
    encoder = family_encoder(family)
    visual = encoder.model.visual
    images = noise(encoder, 1)
    if hasattr(visual, "trunk"):
        trunk = visual.trunk
        tokens, prefix, side = trunk.forward_features(images), trunk.num_prefix_tokens, 10
        kept = [prefix + row * side + column for row in (1, 2) for column in (0, 1, 2)]
        assert trunk.pool_include_prefix
        wanted = visual.head(trunk.attn_pool(tokens[:, [*range(prefix), *kept]]))
    else:
        vision, side = visual.vision, visual.grid[0]
        mixed = vision(images).last_hidden_state
        kept = [row * side + column for row in (1, 2) for column in (0, 1, 2)]
        wanted = vision.head(mixed[:, kept])
    patch = encoder.info.image_size / side

    _, region = encoder.encode_regions(images, [torch.tensor([[0.0, 1, 3, 3]]) * patch])

    torch.testing.assert_close(region, functional.normalize(wanted), rtol=1e-3, atol=1e-4)


def test_cocas_first_query_asks_a_regions_class_token_and_patches(family_encoder):
    encoder = family_encoder("coca")
    visual = encoder.model.visual
    images = noise(encoder, 1)
    embed, blocks, _, side = tokens_of(encoder)
    kept = torch.tensor([1, 2, side + 1, side + 2])
    tokens = embed(images)
    query = tokens[:, :1]
    for block in blocks:
        near = torch.cat([query, tokens[:, 1 + kept]], dim=1)
        query = query + naive_attention(block, query, near, torch.zeros(5))
        query = query + naive_feed(block, query)
        tokens = block(tokens)
    pooled = visual.ln_post(visual.attn_pool(torch.cat([query, tokens[:, 1 + kept]], dim=1)))
    wanted = pooled[:, 0] @ visual.proj
    patch = encoder.info.image_size / side

    _, region = encoder.encode_regions(images, [torch.tensor([[1.0, 0, 3, 2]]) * patch])

    torch.testing.assert_close(region, functional.normalize(wanted), rtol=1e-3, atol=1e-4)


def test_a_convnext_pools_what_roi_align_reads_of_its_map(family_encoder):
    encoder = family_encoder("convnext")
    visual = encoder.model.visual
    images = noise(encoder, 2)
    features = visual.trunk.stages(visual.trunk.stem(images))
    side = features.shape[-1]
    box = torch.tensor([[8.0, 4.0, 40.0, 50.0]])
    rois = torch.tensor([[1.0, 8.0, 4.0, 40.0, 50.0]])
    read = roi_align(features, rois, (side, side), side / 64, 0, aligned=True)
    mean = read.mean(dim=(2, 3), keepdim=True)
    head = visual.trunk.head
    wanted = visual.head(head.flatten(head.norm(mean)))

    _, regions = encoder.encode_regions(images, [torch.empty((0, 4)), box])

    torch.testing.assert_close(regions, functional.normalize(wanted), rtol=1e-4, atol=1e-4)


def test_a_map_whose_channels_come_last_is_pooled_like_any_other():
    torch.manual_seed(0)
    trunk = timm.models.swin_transformer.SwinTransformer(
        img_size=64, patch_size=4, embed_dim=16, depths=(1, 1), num_heads=(2, 4), window_size=4,
        num_classes=0, global_pool="avg",
    ).eval()  # fmt: skip
    assert has_feature_map(trunk, 64)
    visual = timm_model(trunk)
    images = noise(SimpleNamespace(info=SimpleNamespace(image_size=64)), 2)
    boxes = [torch.tensor([[0.0, 0.0, 64.0, 64.0], [0.0, 0.0, 32.0, 32.0]])] * 2

    name, pool = region_pooling_of(visual)
    whole, regions = pool(visual, images, boxes)

    assert pool is pool_map_regions
    assert "RoIAlign" in name
    torch.testing.assert_close(whole, trunk(images))
    torch.testing.assert_close(regions[::2], whole, rtol=1e-4, atol=1e-4)
    assert functional.cosine_similarity(regions[1::2], whole).max() < 0.999


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("test_resnet", 96, True),
        ("test_efficientnet", 96, True),
        ("mobilenetv3_small_050", 96, True),
        ("levit_128s", 224, False),  # tokens, with neither a class token nor a map
        ("mixer_s32_224", 224, False),
    ],
)
def test_what_ends_in_a_map_is_seen_from_its_shapes(name, size, expected):
    trunk = timm.create_model(name, num_classes=0)
    before = {key: value.clone() for key, value in trunk.state_dict().items()}

    assert has_feature_map(trunk.train(), size) is expected
    after = trunk.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)  # not even batch norm


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_other_trunks_with_a_map_are_faithful_too(name):
    torch.manual_seed(0)
    from open_clip.timm_model import TimmModel

    visual = TimmModel(name, 32, image_size=96, pool="avg", proj="linear").eval()
    images = noise(SimpleNamespace(info=SimpleNamespace(image_size=96)), 2)
    boxes = [torch.tensor([[0.0, 0.0, 96.0, 96.0], [0.0, 0.0, 48.0, 48.0]])] * 2

    _, pool = region_pooling_of(visual)
    whole, regions = pool(visual, images, boxes)

    assert pool is pool_map_regions
    torch.testing.assert_close(whole, visual(images))
    assert functional.cosine_similarity(regions[::2], whole).min() >= 0.9999


def test_a_map_is_pooled_in_parts_when_there_are_many_regions(family_encoder, monkeypatch):
    encoder = family_encoder("convnext")
    images = noise(encoder, 1)
    boxes = [torch.tensor([[float(i), 0.0, i + 30.0, 40.0] for i in range(5)])]
    _, expected = encoder.encode_regions(images, boxes)

    monkeypatch.setattr("ravl_med.encoders.conv_pooling._MAP_REGIONS_AT_ONCE", 2)

    torch.testing.assert_close(encoder.encode_regions(images, boxes)[1], expected)


@pytest.mark.parametrize("pool", ["max", "avgmax"])
def test_a_vit_that_pools_otherwise_gets_crops(pool):
    trunk = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=16, embed_dim=32, depth=1, num_heads=2, num_classes=0,
        global_pool=pool,
    )  # fmt: skip

    assert region_pooling_of(timm_model(trunk))[0] == CROPS


def test_a_box_between_the_patches_and_the_border_takes_the_nearest_patch():
    like = torch.zeros(1)
    boxes = [torch.tensor([[50.0, 50.0, 60.0, 60.0], [3.0, 3.0, 3.0, 3.0]])]

    regions = PatchRegions.of(boxes, (16, 16), (3, 3), like)  # 48 of 60 pixels

    assert regions.shares[0].tolist() == [[0.0] * 8 + [1.0], [1.0] + [0.0] * 8]
