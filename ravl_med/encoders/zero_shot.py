"""Zero-shot classification by class texts.

References
----------
Radford et al., CLIP, ICML 2021 (prompt ensembles); RaVL section 3.1 (softmax with tau = 0.07).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.encoders.base import Encoder
from ravl_med.errors import ModelError

__all__ = ["Scores", "embed_classes", "score_embeddings", "softmax"]


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Zero-shot scores of a cohort.

    Attributes
    ----------
    image : ndarray of shape (N, C), float32 - softmax over classes
    region : ndarray of shape (R, C), float32 - softmax over classes
    predictions : ndarray of shape (N,), int64 - class with the highest image score
    """

    image: NDArray[np.float32]
    region: NDArray[np.float32]
    predictions: NDArray[np.int64]


def embed_classes(encoder: Encoder, texts: Mapping[str, Sequence[str]]) -> NDArray[np.float32]:
    """Embed each class as the normalised mean of its texts.

    Parameters
    ----------
    encoder : Encoder
    texts : mapping of class to texts - verbatim, templates already filled

    Returns
    -------
    ndarray of shape (C, D), float32, unit norm

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
) -> Scores:
    """Score images and regions against the classes.

    Parameters
    ----------
    image : ndarray of shape (N, D), float32 - unit norm
    region : ndarray of shape (R, D), float32 - unit norm
    classes : ndarray of shape (C, D), float32 - unit norm
    temperature : float - tau
    """
    scored = softmax(image @ classes.T / temperature)
    return Scores(
        image=scored,
        region=softmax(region @ classes.T / temperature),
        predictions=scored.argmax(axis=1).astype(np.int64),
    )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the softmax over the last axis, safe for large logits."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    share: NDArray[np.float32] = (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)
    return share
