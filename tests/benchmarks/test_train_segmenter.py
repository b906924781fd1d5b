"""Training films and the training of the segmenter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from ravl_med.phantoms.film import ANATOMY
from ravl_med.regions.segmenter import STRUCTURES, WEIGHTS, PhantomSegmenter
from tests.benchmarks.train_segmenter import train_segmenter
from tests.benchmarks.training_films import draw_training_film

SEEDS = range(24)


def test_the_same_seed_draws_the_same_film() -> None:
    first, masks = draw_training_film(5, 64)
    again, same = draw_training_film(5, 64)
    other, _ = draw_training_film(6, 64)

    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(masks, same)
    assert (first != other).any()
    assert first.shape == (64, 64)
    assert masks.shape == (len(STRUCTURES), 64, 64)


def test_every_kind_is_drawn_and_can_be_seen() -> None:
    films, masks = zip(*(draw_training_film(seed, 128) for seed in SEEDS), strict=True)
    there = np.array([mask.any(axis=(1, 2)) for mask in masks])

    assert there.any(axis=0).all()
    assert there[:, [STRUCTURES.index(name) for name in ANATOMY]].mean() > 0.9
    for film, mask in zip(films, masks, strict=True):
        assert np.ptp(film) > 100
        border = mask[STRUCTURES.index("border")]
        if border.any():
            others = np.delete(mask, STRUCTURES.index("border"), axis=0)
            assert others[:, border].mean() < 0.05  # but for letters that were put on it


@pytest.mark.slow
def test_a_little_training_writes_weights_that_open(tmp_path: Path) -> None:
    steps = []
    path = tmp_path / "small.safetensors"
    train_segmenter(path, films=8, steps=2, seed=1, progress=lambda *step: steps.append(step))

    assert steps[-1] == ("train", 2, 2)
    segmenter = PhantomSegmenter(path)
    film = segmenter.segment(np.random.default_rng(0).random((40, 60), dtype=np.float32))
    assert film.likelihoods["heart"].shape == (256, 256)


def test_the_weights_of_the_package_say_how_they_were_made() -> None:
    with safe_open(str(WEIGHTS), framework="np") as stored:
        made = stored.metadata()

    assert made["structures"] == ", ".join(STRUCTURES)
    assert int(made["steps"]) > 1000
    assert WEIGHTS.stat().st_size < 4_000_000


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3, np.float32)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(RuntimeError, match="Missing key"):
        PhantomSegmenter(tmp_path / "other.safetensors")
