"""Region embeddings beside crops of the same regions, by what they say of phantoms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ravl_med.cache import Cache
from ravl_med.cohort.film import Film, FilmReader
from ravl_med.cohort.manifest import read_manifest
from ravl_med.config import Config
from ravl_med.encoders.base import Encoder, pick_device
from ravl_med.encoders.foreign import CropEncoder
from ravl_med.encoders.opening import open_encoder
from ravl_med.encoders.zero_shot import embed_classes
from ravl_med.pipeline.stages import prepare_manifest, prepare_model
from ravl_med.regions.tiles import slide_windows

__all__ = ["AccuracyRow", "measure_accuracy"]

Progress = Callable[[str, int, int], None]
_TOWERS = ("resnet", "vit")
_FILMS_AT_ONCE = 32
_SIDE, _STEP = 0.7, 0.25  # of a window, and of the way to the next: nine a film


@dataclass(frozen=True, slots=True)
class AccuracyRow:
    """What films and windows of them say, by regions and by crops.

    Attributes
    ----------
    tower : str
    films, windows : int - windows are those of all films
    whole, regions, crops : float - accuracy of whole films, of region embeddings, of crops
    """

    tower: str
    films: int
    windows: int
    whole: float
    regions: float
    crops: float


def measure_accuracy(
    config: Config, films: int, cache: Cache, progress: Progress
) -> list[AccuracyRow]:
    """Train the quickstart model of each tower on a cohort without a shortcut, and ask it.

    Parameters
    ----------
    config : Config - of the quickstart; its planted correlation is taken away
    films : int - of the final test, at most
    cache : Cache - of cohorts and models
    progress : callable - called with (stage, done, total)
    """
    synthetic, model = config.cohort.synthetic, config.model.quickstart
    assert synthetic is not None
    assert model is not None
    plain = config.cohort.model_copy(
        update={"synthetic": synthetic.model_copy(update={"strength": 0.0}), "split": "test"}
    )
    rows = []
    for tower in _TOWERS:
        own = config.model.model_copy(
            update={"quickstart": model.model_copy(update={"tower": tower})}
        )
        trained = config.model_copy(update={"cohort": plain, "model": own})
        rows.append(_ask(trained, tower, films, cache, progress))
    return rows


def _ask(config: Config, tower: str, films: int, cache: Cache, progress: Progress) -> AccuracyRow:
    reader = FilmReader.of(config.cohort)
    manifest = prepare_manifest(config, cache, progress)
    cohort = read_manifest(manifest, split="test", columns=config.task.columns())
    folder, _ = prepare_model(config, manifest, reader, cache, progress)
    encoder = open_encoder(config.model, folder, pick_device(config.model.device))
    cropping: Encoder = CropEncoder(encoder)
    classes = embed_classes(encoder, config.task.texts())
    right: dict[str, list[NDArray[np.bool_]]] = {"whole": [], "regions": [], "crops": []}
    count = min(films, len(cohort))
    for start in range(0, count, _FILMS_AT_ONCE):
        indices = range(start, min(start + _FILMS_AT_ONCE, count))
        seen: list[Film] = [reader.film(cohort, index) for index in indices]
        inputs = torch.stack([encoder.preprocess(film.pixels) for film in seen])
        boxes = [_windows(encoder, film) for film in seen]
        labels = cohort.labels[list(indices)]
        of_window = np.repeat(labels, [len(part) for part in boxes])
        whole, regions = encoder.encode_regions(inputs, boxes)
        _, crops = cropping.encode_regions(inputs, boxes)
        for name, embedded, wanted in (
            ("whole", whole, labels),
            ("regions", regions, of_window),
            ("crops", crops, of_window),
        ):
            nearest = (embedded.float().cpu().numpy() @ classes.T).argmax(axis=1)
            right[name].append(nearest == wanted)
        progress(f"ask {tower}", indices[-1] + 1, count)
    share = {name: round(float(np.concatenate(parts).mean()), 4) for name, parts in right.items()}
    windows = sum(len(part) for part in right["regions"])
    title = f"quickstart {tower}, {encoder.info.image_size} pixels"
    return AccuracyRow(tower=title, films=count, windows=windows, **share)


def _windows(encoder: Encoder, film: Film) -> torch.Tensor:
    height, width = film.pixels.shape
    boxes = slide_windows(height, width, _SIDE, _STEP)
    return torch.from_numpy(encoder.geometry(height, width).to_input(boxes))
