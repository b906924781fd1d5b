"""Region embeddings beside crops of the same regions, by what they say of phantoms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ravl_med.cohort.film import Film, FilmReader
from ravl_med.cohort.manifest import Cohort, read_manifest
from ravl_med.config.loading import Config
from ravl_med.encoders.base import Encoder, pick_device
from ravl_med.encoders.opening import CropEncoder, open_encoder
from ravl_med.encoders.zero_shot import embed_classes
from ravl_med.pipeline.stages import (
    Run,
    prepare_manifest,
    prepare_model,
)
from ravl_med.regions.region_set import slide_windows
from ravl_med.storage.cache import Cache

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


@dataclass(frozen=True, slots=True, eq=False)
class TrainedTower:
    """A quickstart model and the films of its final test.

    Attributes
    ----------
    title : str - how tables call it
    encoder : Encoder
    reader : FilmReader
    cohort : Cohort - the final test
    classes : ndarray of shape (C, D), float32 - class texts, unit norm
    """

    title: str
    encoder: Encoder
    reader: FilmReader
    cohort: Cohort
    classes: NDArray[np.float32]

    def windows(
        self, films: int
    ) -> Iterator[tuple[Tensor, list[Tensor], NDArray[np.int64], int, int]]:
        """Yield films with windows of them, some at once.

        Parameters
        ----------
        films : int - at most

        Returns
        -------
        inputs : Tensor of shape (n, 3, S, S)
        boxes : list of n tensors of shape (r, 4) - windows in input pixels
        labels : ndarray of shape (n,), int64
        done, count : int - films so far, and of all
        """
        count = min(films, len(self.cohort))
        for start in range(0, count, _FILMS_AT_ONCE):
            indices = range(start, min(start + _FILMS_AT_ONCE, count))
            seen = [self.reader.film(self.cohort, index) for index in indices]
            inputs = torch.stack([self.encoder.preprocess(film.pixels) for film in seen])
            boxes = [self._windows_of(film) for film in seen]
            yield inputs, boxes, self.cohort.labels[list(indices)], indices[-1] + 1, count

    def nearest(self, embedded: Tensor) -> NDArray[np.int64]:
        """Return the class (n,) whose text is nearest to embeddings (n, D)."""
        similar = embedded.float().cpu().numpy() @ self.classes.T
        return np.asarray(similar.argmax(axis=1))

    def _windows_of(self, film: Film) -> Tensor:
        height, width = film.pixels.shape
        boxes = slide_windows(height, width, _SIDE, _STEP)
        return torch.from_numpy(self.encoder.geometry(height, width).to_input(boxes))


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
    return [_ask(trained, films, progress) for trained in train_towers(config, cache, progress)]


def train_towers(config: Config, cache: Cache, progress: Progress) -> Iterator[TrainedTower]:
    """Yield the quickstart model of each tower, trained on a cohort without a shortcut.

    Parameters
    ----------
    config : Config - of the quickstart; its planted correlation is taken away
    cache : Cache - of cohorts and models
    progress : callable - called with (stage, done, total)
    """
    synthetic, model = config.cohort.synthetic, config.model.quickstart
    assert synthetic is not None
    assert model is not None
    plain = config.cohort.model_copy(
        update={"synthetic": synthetic.model_copy(update={"strength": 0.0}), "split": "test"}
    )
    for tower in _TOWERS:
        own = config.model.model_copy(
            update={"quickstart": model.model_copy(update={"tower": tower})}
        )
        trained = config.model_copy(update={"cohort": plain, "model": own})
        reader = FilmReader.of(trained.cohort)
        manifest = prepare_manifest(trained, Run(cache, progress))
        cohort = read_manifest(manifest, split="test", columns=trained.task.columns())
        folder, _ = prepare_model(trained, manifest, reader, Run(cache, progress))
        encoder = open_encoder(trained.model, folder, pick_device(trained.model.device))
        title = f"quickstart {tower}, {encoder.info.image_size} pixels"
        classes = embed_classes(encoder, trained.task.texts())
        yield TrainedTower(title, encoder, reader, cohort, classes)


def _ask(trained: TrainedTower, films: int, progress: Progress) -> AccuracyRow:
    encoder = trained.encoder
    cropping: Encoder = CropEncoder(encoder)
    right: dict[str, list[NDArray[np.bool_]]] = {"whole": [], "regions": [], "crops": []}
    for inputs, boxes, labels, done, count in trained.windows(films):
        of_window = np.repeat(labels, [len(part) for part in boxes])
        whole, regions = encoder.encode_regions(inputs, boxes)
        _, crops = cropping.encode_regions(inputs, boxes)
        for name, embedded, wanted in (
            ("whole", whole, labels),
            ("regions", regions, of_window),
            ("crops", crops, of_window),
        ):
            right[name].append(trained.nearest(embedded) == wanted)
        progress(f"ask {trained.title}", done, count)
    share = {name: round(float(np.concatenate(parts).mean()), 4) for name, parts in right.items()}
    windows = sum(len(part) for part in right["regions"])
    return AccuracyRow(tower=trained.title, films=count, windows=windows, **share)
