"""The quickstart model as it ships: trained on its cohort, then written in 8 bits."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.manifest import read_manifest
from ravl_med.config.loading import load_config
from ravl_med.labelling.sections import impression_of
from ravl_med.mitigation.quickstart import CONTEXT, RECIPE, ROWS, SCALE, shipped_recipe
from ravl_med.pipeline.stages import Run, prepare_manifest, prepare_model
from ravl_med.storage.cache import Cache
from tests.benchmarks.runner import QUICKSTART


def train_shipped_model(file: Path, progress: Callable[[str, int, int], None]) -> None:
    """Train the model of the quickstart and write it as the file that ships."""
    config = load_config(QUICKSTART, ("model.quickstart.retrain=true",))
    with tempfile.TemporaryDirectory() as place:
        run = Run(Cache(Path(place)), progress)
        manifest = prepare_manifest(config, run)
        folder, _ = prepare_model(config, manifest, FilmReader.of(config.cohort), run)
        assert folder is not None  # a quickstart model has one
        films = read_manifest(manifest, split="finetune")
        learned = [impression_of(report) for report in films.radiology_reports]
        asked = [text for texts in config.task.texts().values() for text in texts]
        pack_model(folder, [*learned, *asked], shipped_recipe(config), file)


def pack_model(folder: Path, texts: Sequence[str], recipe: Mapping[str, Any], file: Path) -> None:
    """Write a trained model in 8 bits; of its vocabulary the words of the texts."""
    weights = load_file(folder / "open_clip_model.safetensors")
    words = torch.unique(open_clip.SimpleTokenizer(context_length=CONTEXT)(list(texts)))
    vocabulary = "token_embedding.weight"
    weights |= {vocabulary: weights[vocabulary][words], vocabulary + ROWS: words.to(torch.int32)}
    write_packed(weights, {RECIPE: json.dumps(recipe, sort_keys=True)}, file)


def write_packed(weights: Mapping[str, Tensor], facts: Mapping[str, str], file: Path) -> None:
    """Write weights, matrices in 8 bits with a scale a row, and what is to be known about them."""
    packed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.ndim < 2:
            packed[name] = weight
            continue
        rows = weight.reshape(len(weight), -1)
        scale = rows.abs().amax(dim=1).clamp(min=1e-12) / 127
        packed[name] = (rows / scale[:, None]).round().to(torch.int8).reshape(weight.shape)
        packed[name + SCALE] = scale
    save_file(packed, file, metadata=dict(facts))
