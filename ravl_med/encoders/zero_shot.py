"""Zero-shot classification by class texts.

References
----------
Radford et al., CLIP, ICML 2021 (prompt ensembles); RaVL section 3.1 (softmax with tau = 0.07).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from ravl_med.encoders.base import Encoder, EncoderInfo, answering
from ravl_med.errors import ModelError
from ravl_med.storage.mapped_arrays import map_parts, multiply


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Zero-shot scores of a cohort."""

    image: NDArray[np.float32]  # (N, C), softmax over classes, or sigmoid of each
    region: NDArray[np.float32]  # (R, C), the same
    predictions: NDArray[np.int64]  # (N,), class whose texts are nearest


def embed_classes(encoder: Encoder, texts: Mapping[str, Sequence[str]]) -> NDArray[np.float32]:
    """Embed each class as the normalised mean (C, D) of its texts, templates already filled.

    Raises
    ------
    ModelError
        The text tower gives numbers that are not finite.
    """
    means = []
    for name, prompts in texts.items():
        mean = encoder.encode_text(list(prompts)).float().cpu().numpy().mean(axis=0)
        norm = float(np.linalg.norm(mean))
        if not np.isfinite(norm) or norm == 0.0:
            raise ModelError(
                f"model: the text embedding of class {name!r} is not finite; expected a unit "
                "vector. Check the weights of the text tower."
            )
        means.append(mean / norm)
    return np.stack(means).astype(np.float32)


def score_embeddings(
    image: NDArray[np.float32],
    region: NDArray[np.float32],
    classes: NDArray[np.float32],
    temperature: float,
    *,
    sigmoid: tuple[float, float] | None = None,
) -> Scores:
    """Score images (N, D) and regions (R, D) against classes (C, D), all of unit norm.

    `sigmoid` is scale and bias of a sigmoid of each class, in place of the softmax over the classes
    with `temperature`, tau.
    """

    def score(embedded: NDArray[np.float32]) -> NDArray[np.float32]:
        similarity = embedded @ classes.T
        if sigmoid is None:
            return softmax(similarity / temperature)
        logits = similarity * sigmoid[0] + sigmoid[1]
        share: NDArray[np.float32] = expit(logits).astype(np.float32)
        return share

    # By similarity: far from the texts of all classes, every sigmoid is the same zero.
    predictions = multiply(image, classes.T).argmax(axis=1).astype(np.int64)
    return Scores(map_parts(image, score), map_parts(region, score), predictions)


def class_logits(
    encoder: Encoder, images: Tensor, classes: NDArray[np.float32], temperature: float
) -> NDArray[np.float32]:
    """Return logits (B, C) of inputs (B, 3, S, S): the model's own, or cosines over tau."""
    own = answering(encoder)
    if own is not None:
        answers: NDArray[np.float32] = own.answer(images).float().cpu().numpy()
        return answers
    embedded = encoder.encode_image(images)
    logits: NDArray[np.float32] = embedded.float().cpu().numpy() @ classes.T / temperature
    return logits


def score_answers(
    answers: NDArray[np.float32], regions: NDArray[np.float32], kind: Literal["softmax", "sigmoid"]
) -> Scores:
    """Score films by a model's own logits (N, C), and regions (R, C): NaN where none was asked."""

    def score(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        return softmax(logits) if kind == "softmax" else expit(logits).astype(np.float32)

    return Scores(score(answers), score(regions), answers.argmax(axis=1).astype(np.int64))


def sigmoid_of(info: EncoderInfo) -> tuple[float, float]:
    """Return scale and bias of the sigmoid that a model was trained with.

    Raises
    ------
    ModelError
        The model was trained with a softmax: it has no bias.
    """
    if info.logit_scale is None or info.logit_bias is None:
        raise ModelError(
            "task.scores is sigmoid, but the model has no logit bias; expected a SigLIP, which was "
            "trained with one. Use softmax."
        )
    return info.logit_scale, info.logit_bias


def digest_texts(texts: Mapping[str, Sequence[str]]) -> str:
    """Return the SHA-256 of the texts of all classes, verbatim and in their order."""
    plain = json.dumps([[name, list(prompts)] for name, prompts in texts.items()])
    return hashlib.sha256(plain.encode()).hexdigest()


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the softmax over the last axis, safe for large logits."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    share: NDArray[np.float32] = (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)
    return share
