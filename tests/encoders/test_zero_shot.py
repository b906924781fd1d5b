"""Zero-shot scores by hand."""

import numpy as np
import pytest
import torch

from ravl_med.encoders.zero_shot import digest_texts, embed_classes, score_embeddings, softmax
from ravl_med.errors import ModelError


class Texts:
    """An encoder of texts by table."""

    def __init__(self, table: dict[str, list[float]]) -> None:
        self.table = table

    def encode_text(self, texts):
        return torch.tensor([self.table[text] for text in texts])


def test_softmax_by_hand():
    shares = softmax(np.log(np.array([[1.0, 2.0, 5.0], [3.0, 3.0, 3.0]], dtype=np.float32)))

    np.testing.assert_allclose(shares, [[1 / 8, 2 / 8, 5 / 8], [1 / 3] * 3], rtol=1e-6)
    assert shares.dtype == np.float32


def test_softmax_bears_large_logits():
    shares = softmax(np.array([[1e4, 0.0], [-1e4, -1e4]], dtype=np.float32))

    assert shares.tolist() == [[1, 0], [0.5, 0.5]]


def test_a_class_is_the_normalised_mean_of_its_prompts():
    encoder = Texts({"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.6, 0.8]})

    classes = embed_classes(encoder, {"both": ["a", "b"], "one": ["c"], "twice a": ["a", "a", "b"]})

    root = np.sqrt(0.5)
    np.testing.assert_allclose(
        classes, [[root, root], [0.6, 0.8], [2 / np.sqrt(5), 1 / np.sqrt(5)]], rtol=1e-6
    )
    assert classes.dtype == np.float32


@pytest.mark.parametrize("vector", [[float("nan"), 1.0], [float("inf"), 0.0], [0.0, 0.0]])
def test_a_text_that_has_no_direction_is_an_error(vector):
    with pytest.raises(ModelError, match="text embedding of class 'edema' is not finite"):
        embed_classes(Texts({"x": vector}), {"edema": ["x"]})


def test_scores_by_hand():
    classes = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    image = np.array([[1.0, 0.0], [0.6, 0.8]], dtype=np.float32)
    region = np.array([[0.0, 1.0]], dtype=np.float32)

    scores = score_embeddings(image, region, classes, temperature=0.5)

    first = 1 / (1 + np.exp(-2.0))
    second = 1 / (1 + np.exp(0.4))
    np.testing.assert_allclose(scores.image, [[first, 1 - first], [second, 1 - second]], rtol=1e-5)
    np.testing.assert_allclose(scores.region, [[1 - first, first]], rtol=1e-5)
    assert scores.predictions.tolist() == [0, 1]
    assert scores.predictions.dtype == np.int64


def test_prompts_of_a_model_have_unit_norm(encoder_of):
    texts = {"a": ["cardiomegaly", "large heart"], "b": ["no finding"]}

    classes = embed_classes(encoder_of("vit_1_layer"), texts)

    np.testing.assert_allclose(np.linalg.norm(classes, axis=1), 1, rtol=1e-5)


def test_a_sigmoid_scores_each_class_by_itself():
    classes = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    image = np.array([[0.6, 0.8], [-1.0, 0.0]], dtype=np.float32)

    scores = score_embeddings(image, image[:1], classes, temperature=0.5, sigmoid=(10.0, -6.0))

    wanted = 1 / (1 + np.exp(-(10.0 * np.array([[0.6, 0.8], [-1.0, 0.0]]) - 6.0)))
    np.testing.assert_allclose(scores.image, wanted, rtol=1e-5)
    np.testing.assert_allclose(scores.region, wanted[:1], rtol=1e-5)
    assert scores.predictions.tolist() == [1, 1]
    assert scores.image.dtype == np.float32


def test_predictions_hold_where_every_sigmoid_is_zero():
    classes = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    image = np.array([[0.1, 0.2]], dtype=np.float32)

    scores = score_embeddings(image, image, classes, temperature=1.0, sigmoid=(100.0, -1000.0))

    assert scores.image.max() == 0.0
    assert scores.predictions.tolist() == [1]


def test_the_digest_of_texts_follows_every_word_and_the_order():
    one = digest_texts({"a": ["x", "y"], "b": ["z"]})

    assert one == digest_texts({"a": ("x", "y"), "b": ("z",)})
    others = [
        {"a": ["x y"], "b": ["z"]},
        {"a": ["y", "x"], "b": ["z"]},
        {"b": ["z"], "a": ["x", "y"]},
    ]
    assert len({one, *map(digest_texts, others)}) == 4
