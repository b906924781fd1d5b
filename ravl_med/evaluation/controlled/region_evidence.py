"""What every method of a setting is given: the same films, predictions and region embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from ravl_med.discovery.ravl import AuditedTask
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.zero_shot import Scores, embed_classes, score_embeddings
from ravl_med.evaluation.controlled.setting_films import SplitFilms
from ravl_med.evaluation.controlled.small_models import TAU, normalise_films
from ravl_med.evidence.audited_images import AuditedImages
from ravl_med.evidence.counterfactual import Probe
from ravl_med.evidence.effect_places import StructureReader

__all__ = ["RankedRegions", "RegionEvidence", "embed_split"]

_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class RankedRegions:
    """The answer of a method: where the feature is, best first, and which class it raises.

    Attributes
    ----------
    regions : ndarray of shape (n,), int64 - the 25 first at the least, where there are so many
    raised_class : int - -1 where the method names none
    accuses : bool - the method says that there is a shortcut; most have no way to say that there is
        none
    boxes : ndarray of shape (n, 4), float32, or None - where the method says that the feature lies
        on the film of each region; None: the region itself
    members : ndarray of shape (m,), int64, or None - all regions of the cluster named, where it is
        one
    """

    regions: NDArray[np.int64]
    raised_class: int = -1
    accuses: bool = True
    boxes: NDArray[np.float32] | None = None
    members: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)  # no slots: it holds what is derived
class RegionEvidence:
    """N films of a setting and their R regions.

    Attributes
    ----------
    classes : tuple of str
    films : SplitFilms
    region : ndarray of shape (R, D), float32 - unit norm
    region_image : ndarray of shape (R,), int64 - ascending
    region_boxes : ndarray of shape (R, 4), float32 - xyxy in pixels of the film
    scores : Scores
    class_embeddings : ndarray of shape (C, D), float32 - unit norm
    """

    classes: tuple[str, ...]
    films: SplitFilms
    region: NDArray[np.float32]
    region_image: NDArray[np.int64]
    region_boxes: NDArray[np.float32]
    scores: Scores
    class_embeddings: NDArray[np.float32]

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each film is classified rightly, (N,)."""
        right: NDArray[np.bool_] = self.scores.predictions == self.films.labels
        return right

    @cached_property
    def task(self) -> AuditedTask:
        """The films as discovery takes them."""
        return AuditedTask(
            "benchmark",
            self.classes,
            self.films.labels,
            self.scores.predictions,
            self.scores.image,
            self.scores.region,
        )

    @cached_property
    def images(self) -> AuditedImages:
        """The films as evidence takes them; patients are numbered from 0."""
        side = self.films.pixels.shape[-1]
        return AuditedImages(
            classes=self.classes,
            labels=self.films.labels,
            predictions=self.scores.predictions,
            patients=np.unique(self.films.patients, return_inverse=True)[1].astype(np.int64),
            sizes=np.full((len(self.films), 2), side, dtype=np.int64),
            region_image=self.region_image,
            region_boxes=self.region_boxes,
        )

    def probe(self, encoder: Encoder, structures: StructureReader | None) -> Probe:
        """Return what the model can be asked by."""
        return Probe(
            encoder,
            lambda film: self.films.pixels[film].astype(np.float32) / np.float32(255.0),
            self.class_embeddings,
            TAU,
            _BATCH,
            structures,
        )


def embed_split(
    encoder: Encoder,
    films: SplitFilms,
    boxes: Sequence[NDArray[np.float32]],
    prompts: Mapping[str, Sequence[str]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RegionEvidence:
    """Embed films and their regions, and score both against the classes.

    Parameters
    ----------
    encoder : Encoder - a small model
    films : SplitFilms - N films
    boxes : sequence of N ndarrays of shape (r_i, 4), float32 - xyxy in pixels of the film
    prompts : mapping of class to texts
    progress : callable - called with (films done, films in all)
    """
    inputs = torch.from_numpy(normalise_films(films.pixels))
    images, regions = [], []
    for start in range(0, len(films), _BATCH):
        part = inputs[start : start + _BATCH, None].expand(-1, 3, -1, -1)
        places = [torch.from_numpy(own) for own in boxes[start : start + _BATCH]]
        image, region = encoder.encode_regions(part.contiguous(), places)
        images.append(image.float().cpu().numpy())
        regions.append(region.float().cpu().numpy())
        progress(min(start + _BATCH, len(films)), len(films))
    embedded = np.concatenate(regions)
    classes = embed_classes(encoder, prompts)
    counts = [len(own) for own in boxes]
    return RegionEvidence(
        classes=tuple(prompts),
        films=films,
        region=embedded,
        region_image=np.repeat(np.arange(len(films), dtype=np.int64), counts),
        region_boxes=np.concatenate(boxes).astype(np.float32),
        scores=score_embeddings(np.concatenate(images), embedded, classes, TAU),
        class_embeddings=classes,
    )
