"""Fine-tuning: it learns, it repeats, it refuses what cannot be trained."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from ravl_med.config import QuickstartModelConfig
from ravl_med.encoders.open_clip import open_model
from ravl_med.errors import DataError
from ravl_med.mitigation.quickstart import quickstart_layout, train_quickstart_model
from ravl_med.mitigation.trainer import Recipe, fine_tune

TINY = QuickstartModelConfig(image_size=32, epochs=3, batch_size=16, learning_rate=2e-3)


def toy(count: int = 96) -> tuple[np.ndarray, list[str]]:
    """Films that are bright above or bright below, with a text that says so."""
    rng = np.random.default_rng(0)
    films = rng.normal(0, 0.3, (count, 32, 32)).astype(np.float32)
    films[::2, :16] += 2
    films[1::2, 16:] += 2
    return films, ["bright above", "bright below"] * (count // 2)


def test_the_loss_falls_and_the_classes_part(tmp_path: Path) -> None:
    films, texts = toy()
    torch.manual_seed(0)
    model = open_clip.CLIP(**quickstart_layout(TINY)["model_cfg"])
    tokens = open_clip.SimpleTokenizer(context_length=40)(texts)
    losses = fine_tune(model, torch.from_numpy(films), tokens, Recipe(12, 16, 2e-3, 0))
    # Eight films of a batch share each text, so ln 8 is the best that the objective allows.
    assert np.mean(losses[-6:]) < 0.5 * (losses[0] + math.log(8))
    assert not model.training
    assert model.logit_scale.item() <= math.log(100.0) + 1e-6
    with torch.inference_mode():
        images = torch.from_numpy(films)[:, None].expand(-1, 3, -1, -1)
        seen = model.encode_image(images, normalize=True)
        read = model.encode_text(tokens[:2], normalize=True)
    assert ((seen @ read.T).argmax(dim=1).numpy() == np.arange(96) % 2).mean() > 0.95


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    films, texts = toy(32)
    for name in ("a", "b"):
        train_quickstart_model(TINY, films, texts, tmp_path / name)
    first, second = (
        (tmp_path / name / "open_clip_model.safetensors").read_bytes() for name in ("a", "b")
    )
    assert first == second


@pytest.mark.parametrize("tower", ["resnet", "vit"])
def test_open_clip_opens_the_folder(tower: str, tmp_path: Path) -> None:
    films, texts = toy(32)
    config = TINY.model_copy(update={"tower": tower, "epochs": 1})
    train_quickstart_model(config, films, texts, tmp_path / "model")
    encoder = open_model(tmp_path / "model", torch.device("cpu"))
    theirs, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'model'}")
    theirs.eval()
    images = torch.from_numpy(films[:4])[:, None].expand(-1, 3, -1, -1)
    with torch.inference_mode():
        torch.testing.assert_close(
            encoder.encode_image(images), theirs.encode_image(images, normalize=True)
        )


def test_progress_counts_every_step(tmp_path: Path) -> None:
    films, texts = toy(32)
    seen: list[tuple[int, int]] = []
    train_quickstart_model(
        TINY, films, texts, tmp_path / "m", lambda done, total: seen.append((done, total))
    )
    assert seen == [(step, 6) for step in range(1, 7)]


def test_fewer_films_than_a_batch_are_refused(tmp_path: Path) -> None:
    films, texts = toy(8)
    with pytest.raises(DataError, match=r"8 films with a report; expected at least 16"):
        train_quickstart_model(TINY, films, texts, tmp_path / "m")
    assert not (tmp_path / "m").exists()
