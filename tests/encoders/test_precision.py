"""Another precision: the same model, a little less exact, embeddings still float32."""

import pytest
import torch

from ravl_med.encoders.base import HalfPrecisionEncoder, in_precision, using_threads


@pytest.mark.parametrize("tower", ["resnet", "vit"])
def test_bf16_is_near_and_not_the_same(tower, encoder_of, film_of):
    exact = encoder_of(tower)
    half = in_precision(exact, "bf16")
    images = torch.stack([exact.preprocess(film_of(i, 64, 64).pixels) for i in range(4)])
    boxes = [torch.tensor([[0.0, 0.0, 32.0, 32.0]])] * 4

    whole, regions = half.encode_regions(images, boxes)

    wanted = exact.encode_regions(images, boxes)
    for given, right in zip((whole, regions, half.encode_image(images)),
                            (*wanted, exact.encode_image(images)), strict=True):  # fmt: skip
        assert given.dtype == torch.float32
        # these weights have sharp attention; cosines of two films are below 0.7
        assert float((given * right).sum(dim=1).min()) > 0.9
        assert not torch.equal(given, right)
        torch.testing.assert_close(given.norm(dim=1), torch.ones(4), atol=1e-5, rtol=0)
    texts = half.encode_text(["Cardiomegaly."])
    assert float((texts * exact.encode_text(["Cardiomegaly."])).sum()) > 0.99
    assert half.info is exact.info


def test_fp32_is_the_encoder_itself(encoder_of):
    encoder = encoder_of("vit_1_layer")
    assert in_precision(encoder, "fp32") is encoder
    assert isinstance(in_precision(encoder, "bf16"), HalfPrecisionEncoder)


def test_threads_are_set_for_a_while():
    before = torch.get_num_threads()
    with using_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with using_threads(None):
        assert torch.get_num_threads() == before
