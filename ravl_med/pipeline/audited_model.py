"""The audited model: one that can be asked, or a table of what another one said."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ravl_med.cohort.score_table import ScoreTable
from ravl_med.config import Config
from ravl_med.encoders.base import Encoder, EncoderInfo
from ravl_med.encoders.embeddings import Embeddings
from ravl_med.encoders.zero_shot import Scores, digest_texts, softmax
from ravl_med.evidence.audit_result import ModelSummary

__all__ = ["AuditedModel", "scores_of_table", "summarise_model"]


@dataclass(frozen=True, slots=True, eq=False)
class AuditedModel:
    """A model, and what it says of a cohort.

    Attributes
    ----------
    encoder : Encoder
    embeddings : Embeddings - of N films
    classes : ndarray of shape (C, D), float32 - class texts
    scores : ndarray of shape (N, C), float32, or None - of a table, in place of the model's own
    """

    encoder: Encoder
    embeddings: Embeddings
    classes: NDArray[np.float32]
    scores: NDArray[np.float32] | None = None


def scores_of_table(table: ScoreTable, region: NDArray[np.float32], kind: str) -> Scores:
    """Return the scores of a table, beside those of regions.

    Parameters
    ----------
    table : ScoreTable - of N films and C classes
    region : ndarray of shape (R, C), float32 - of the model that embeds regions
    kind : {"softmax", "sigmoid"} - how logits become scores
    """
    image = table.values
    if table.logits:
        image = softmax(image) if kind == "softmax" else expit(image).astype(np.float32)
    return Scores(image, region, table.values.argmax(axis=1).astype(np.int64))


def summarise_model(config: Config, info: EncoderInfo, table: ScoreTable | None) -> ModelSummary:
    """Tell what was audited; of a table, the model that only embeds regions."""
    architecture, digest, digests = info.architecture, info.digest, dict(info.digests)
    if table is not None:
        architecture = f"not known: scores from a table; regions by {architecture}"
        digest = hashlib.sha256(f"{table.digest} {digest}".encode()).hexdigest()
        digests = {"scores": table.digest, **digests}
    return ModelSummary(
        name=config.model.name or ("quickstart" if config.model.quickstart else "unnamed"),
        architecture=architecture,
        digest=digest,
        image_size=info.image_size,
        resize_mode=info.resize_mode,
        region_pooling=info.region_pooling,
        parameters=info.parameters,
        logit_scale=info.logit_scale,
        logit_bias=info.logit_bias,
        digests={**digests, "prompts": digest_texts(config.task.texts())},
    )
