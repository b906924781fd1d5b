"""The training loop: it learns, repeats, selects, stops, resumes, and refuses."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor, nn

from ravl_med.config import QuickstartModelConfig
from ravl_med.encoders.open_clip import open_model
from ravl_med.errors import DataError
from ravl_med.mitigation.quickstart import train_quickstart_model
from ravl_med.mitigation.trainer import Curve, Recipe, Selection, Step, fit, make_fabric

TINY = QuickstartModelConfig(image_size=32, epochs=3, batch_size=16, learning_rate=2e-3)
RESUMED = Path(__file__).parent / "resumed_training.py"


def toy(count: int = 96) -> tuple[np.ndarray, list[str]]:
    """Films that are bright above or bright below, with a text that says so."""
    rng = np.random.default_rng(0)
    films = rng.normal(0, 0.3, (count, 32, 32)).astype(np.float32)
    films[::2, :16] += 2
    films[1::2, 16:] += 2
    return films, ["bright above", "bright below"] * (count // 2)


def test_the_classes_part(tmp_path: Path) -> None:
    films, texts = toy()
    config = TINY.model_copy(update={"epochs": 12})
    train_quickstart_model(config, films, texts, tmp_path / "model")
    encoder = open_model(tmp_path / "model", torch.device("cpu"))
    assert not encoder.model.training
    assert encoder.model.logit_scale.item() <= math.log(100.0) + 1e-6
    images = torch.from_numpy(films)[:, None].expand(-1, 3, -1, -1)
    read = encoder.encode_text(["bright above", "bright below"])
    told = (encoder.encode_image(images) @ read.T).argmax(dim=1).numpy()
    assert (told == np.arange(96) % 2).mean() > 0.95


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    films, texts = toy(32)
    for name in ("a", "b"):
        train_quickstart_model(TINY, films, texts, tmp_path / name)
    first, second = (
        (tmp_path / name / "open_clip_model.safetensors").read_bytes() for name in ("a", "b")
    )
    assert first == second


def test_training_goes_on_from_a_model(tmp_path: Path) -> None:
    films, texts = toy(32)
    still = TINY.model_copy(update={"epochs": 1, "learning_rate": 1e-12})
    train_quickstart_model(TINY, films, texts, tmp_path / "first")
    train_quickstart_model(still, films, texts, tmp_path / "second", start=tmp_path / "first")
    old, new = (open_model(tmp_path / n, torch.device("cpu")) for n in ("first", "second"))
    torch.testing.assert_close(
        old.model.visual.conv1.weight, new.model.visual.conv1.weight, rtol=0, atol=1e-8
    )


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
    with pytest.raises(DataError, match=r"8 films; expected at least 16, one step"):
        train_quickstart_model(TINY, films, texts, tmp_path / "m")
    assert not (tmp_path / "m").exists()


class Line(nn.Module):
    """One weight and a BatchNorm beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x: Tensor) -> Tensor:
        self.norm(x[:, None])
        return self.weight * x


X = torch.linspace(-1, 1, 32)


def learn(
    module: Line, recipe: Recipe, scores: list[float] | None = None, *, broken_at: int = -1
) -> Curve:
    """Learn y = 3 x; what the selection says is given."""
    count = iter(range(1000))

    def step(model: nn.Module, rows: Tensor, mine: slice, epoch: int, g: torch.Generator) -> Tensor:
        loss: Tensor = ((model(X[rows]) - 3 * X[rows]) ** 2).mean()
        return loss * (float("nan") if next(count) == broken_at else 1.0)

    given: Iterator[float] = iter(scores or [])
    chosen: Step = step
    return fit(
        make_fabric(),
        module,
        32,
        chosen,
        recipe,
        select=None if scores is None else (lambda: Selection(next(given), module.weight.item())),
    )


def recipe(**more: object) -> Recipe:
    values: dict[str, object] = {
        "epochs": 6, "batch_size": 8, "learning_rate": 0.1, "seed": 0, "weight_decay": 0.0, **more
    }  # fmt: skip
    return Recipe(**values)  # type: ignore[arg-type]


def test_warm_up_and_cosine() -> None:
    """Adam's first steps are as long as the learning rate, whatever the gradient."""
    module = Line()
    weights = [0.0]

    def step(model: nn.Module, rows: Tensor, mine: slice, epoch: int, g: torch.Generator) -> Tensor:
        weights.append(module.weight.item())
        return -1000.0 * model.weight.sum()

    fit(make_fabric(), module, 32, step, recipe(epochs=10))  # 40 steps, 4 of them warm-up
    moves = np.diff([*weights[1:], module.weight.item()])
    assert moves[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1], rel=1e-3)
    assert moves[4] == pytest.approx(0.1, rel=1e-3)
    assert moves[22] == pytest.approx(0.05, rel=1e-2)
    assert moves[-1] < 0.001


def test_the_best_epoch_is_kept_and_ties_go_by_the_overall() -> None:
    module = Line()
    curve = learn(module, recipe(), [0.1, 0.5, 0.5, 0.2, 0.4, 0.3])
    # The overall of these selections is the weight, which still rises from epoch 1 to 2.
    assert curve.best == 2
    assert module.weight.item() == curve.selections[2].overall
    assert module.weight.item() < curve.selections[5].overall
    assert curve.stopped == "budget"
    assert len(curve.losses) == 24
    assert not module.training


def test_it_stops_after_epochs_without_gain() -> None:
    curve = learn(Line(), recipe(patience=2), [0.1, 0.5, 0.4, 0.3, 0.9, 0.9])
    assert curve.stopped == "early"
    assert len(curve.selections) == 4
    assert curve.best == 1


def test_a_diverging_run_stops_at_the_last_good_weights() -> None:
    module = Line()
    curve = learn(module, recipe(), [0.1, 0.3, 0.2, 0.4], broken_at=13)
    assert curve.stopped == "diverged"
    assert len(curve.losses) == 13
    assert module.weight.item() == curve.selections[1].overall
    without = Line()
    curve = learn(without, recipe(), broken_at=13)  # no selection: those of the last epoch
    assert curve.stopped == "diverged"
    assert without.weight.item() == module_after(12)


def module_after(steps: int) -> float:
    module = Line()
    weights: list[float] = []

    def step(model: nn.Module, rows: Tensor, mine: slice, epoch: int, g: torch.Generator) -> Tensor:
        weights.append(module.weight.item())
        loss: Tensor = ((model(X[rows]) - 3 * X[rows]) ** 2).mean()
        return loss

    fit(make_fabric(), module, 32, step, recipe())
    return weights[steps]


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_of_norms_stay_only_where_they_are_frozen(frozen: bool) -> None:
    module = Line()
    learn(module, recipe(freeze_norms=frozen, epochs=1))
    still = module.norm.running_mean.item() == 0.0 and module.norm.running_var.item() == 1.0
    assert still == frozen


def test_accumulated_batches_are_one_step_on_their_mean() -> None:
    halves, whole = Line(), Line()
    learn(halves, recipe(batch_size=8, accumulate=2, epochs=2))
    learn(whole, recipe(batch_size=16, epochs=2))
    assert halves.weight.item() == pytest.approx(whole.weight.item(), rel=1e-5)


def resumed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, str(RESUMED), str(folder), *words],
        cwd=RESUMED.parent, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("killed_at", ["4", "8"])
def test_what_was_killed_goes_on_to_the_same_weights(tmp_path: Path, killed_at: str) -> None:
    """Group DRO keeps weights from batch to batch; checkpoints fall after two steps of an epoch."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    straight.mkdir()
    broken.mkdir()
    assert resumed(straight).returncode == 0
    killed = resumed(broken, killed_at)
    assert killed.returncode == -signal.SIGKILL
    assert (broken / "arm.ckpt").is_file()
    assert not (broken / "weights.pt").exists()
    outcome = resumed(broken)
    assert outcome.returncode == 0, outcome.stderr
    done, again = (
        torch.load(folder / "weights.pt", weights_only=True) for folder in (straight, broken)
    )
    assert done["losses"] == again["losses"]
    assert done["best"] == again["best"]
    assert all(torch.equal(done["model"][k], again["model"][k]) for k in done["model"])


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "arm.ckpt"

    def step(model: nn.Module, rows: Tensor, mine: slice, epoch: int, g: torch.Generator) -> Tensor:
        loss: Tensor = ((model(X[rows]) - 3 * X[rows]) ** 2).mean()
        return loss

    fit(make_fabric(), Line(), 32, step, recipe(epochs=1), checkpoint=path)
    torch.load(path, weights_only=True)  # nothing in it has to be unpickled
    for other, films in ((recipe(epochs=2), 32), (recipe(epochs=1), 24)):
        with pytest.raises(DataError, match="written under another recipe or for other films"):
            fit(make_fabric(), Line(), films, step, other, checkpoint=path)
