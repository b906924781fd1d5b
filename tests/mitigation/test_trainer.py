"""The training loop: it learns, repeats, selects, stops, resumes, and refuses."""

from __future__ import annotations

import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from resumed_training import train
from torch import Tensor, nn
from toys import toy_model, toy_set, toy_texts

from ravl_med.config.mitigation import MitigationConfig
from ravl_med.config.model import QuickstartModelConfig
from ravl_med.encoders.open_clip import open_model
from ravl_med.errors import ConfigError, DataError
from ravl_med.mitigation.arms import ARMS, ImageTower, Objective
from ravl_med.mitigation.distributed import make_fabric
from ravl_med.mitigation.quickstart import train_quickstart_model
from ravl_med.mitigation.trainer import Selection, Step, Task, TrainingConfig, TrainingHistory, fit

TINY = QuickstartModelConfig(image_size=32, epochs=3, batch_size=16, learning_rate=2e-3)
RESUMED = Path(__file__).parent / "resumed_training.py"


def toy(count: int = 96) -> tuple[np.ndarray, list[str]]:
    """Films that are bright above or bright below, with a text that says so."""
    rng = np.random.default_rng(0)
    films = rng.normal(0, 0.3, (count, 32, 32)).astype(np.float32)
    films[::2, :16] += 2
    films[1::2, 16:] += 2
    return films, ["bright above", "bright below"] * (count // 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int]]]:
    """The folder of a model that has learned from 32 films, and the steps that it told of."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    seen: list[tuple[int, int]] = []
    train_quickstart_model(TINY, *toy(32), folder, lambda done, total: seen.append((done, total)))
    return folder, seen


@pytest.mark.parametrize("frozen", [True, False])
def test_the_loss_falls(frozen: bool) -> None:
    films, model = toy_set(96), toy_model()
    tower, fabric = ImageTower(model), make_fabric()
    lesson = Objective(ARMS["standard"], films, toy_texts(), MitigationConfig(), fabric)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    epochs = 1 if frozen else 8  # statistics of a net that has seen nothing teach little
    curve = fit(
        fabric,
        tower,
        96,
        Task(lesson.step),
        TrainingConfig(epochs, 16, 2e-3, 0, freeze_norms=frozen),
    )
    if not frozen:
        # Eight films of a batch share each text, so ln 8 is the best that the objective allows.
        assert np.mean(curve.losses[-6:]) < 0.5 * (curve.losses[0] + math.log(8))
    still = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    statistics = {name for name in before if "running" in name or "tracked" in name}
    assert len(statistics) > 30
    assert (statistics <= still) if frozen else not (statistics & still)
    assert "visual.conv1.weight" not in still
    assert {name for name in before if name.startswith("transformer.")} <= still


@pytest.mark.long
def test_the_classes_part(tmp_path: Path) -> None:
    films, texts = toy()
    config = TINY.model_copy(update={"epochs": 6})
    train_quickstart_model(config, films, texts, tmp_path / "model")
    encoder = open_model(tmp_path / "model", torch.device("cpu"))
    assert not encoder.model.training
    assert encoder.model.logit_scale.item() <= math.log(100.0) + 1e-6
    images = torch.from_numpy(films)[:, None].expand(-1, 3, -1, -1)
    read = encoder.encode_text(["bright above", "bright below"])
    told = (encoder.encode_image(images) @ read.T).argmax(dim=1).numpy()
    assert (told == np.arange(96) % 2).mean() > 0.95


def test_the_same_seed_gives_the_same_weights(
    tmp_path: Path, trained: tuple[Path, list[tuple[int, int]]]
) -> None:
    train_quickstart_model(TINY, *toy(32), tmp_path / "again")
    first, second = (
        (folder / "open_clip_model.safetensors").read_bytes()
        for folder in (trained[0], tmp_path / "again")
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


def test_progress_counts_every_step(trained: tuple[Path, list[tuple[int, int]]]) -> None:
    assert trained[1] == [(step, 6) for step in range(1, 7)]


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
    module: Line, recipe: TrainingConfig, scores: list[float] | None = None, *, broken_at: int = -1
) -> TrainingHistory:
    """Learn y = 3 x; what the selection says is given."""
    count = iter(range(1000))

    def step(model: nn.Module, rows: Tensor, part: slice, epoch: int, g: torch.Generator) -> Tensor:
        loss: Tensor = ((model(X[rows]) - 3 * X[rows]) ** 2).mean()
        return loss * (float("nan") if next(count) == broken_at else 1.0)

    given: Iterator[float] = iter(scores or [])
    chosen: Step = step
    return fit(
        make_fabric(),
        module,
        32,
        Task(
            chosen,
            select=None
            if scores is None
            else (lambda: Selection(next(given), module.weight.item())),
        ),
        recipe,
    )


def recipe(**more: object) -> TrainingConfig:
    values: dict[str, object] = {
        "epochs": 6, "batch_size": 8, "learning_rate": 0.1, "seed": 0, "weight_decay": 0.0, **more
    }  # fmt: skip
    return TrainingConfig(**values)  # type: ignore[arg-type]


def test_warm_up_and_cosine() -> None:
    """Adam's first steps are as long as the learning rate, whatever the gradient."""
    module = Line()
    weights = [0.0]

    def step(model: nn.Module, rows: Tensor, part: slice, epoch: int, g: torch.Generator) -> Tensor:
        weights.append(module.weight.item())
        return -1000.0 * model.weight.sum()

    fit(make_fabric(), module, 32, Task(step), recipe(epochs=10))  # 40 steps, 4 of them warm-up
    moves = np.diff([*weights[1:], module.weight.item()])
    assert moves[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1], rel=1e-3)
    assert moves[4] == pytest.approx(0.1, rel=1e-3)
    assert moves[22] == pytest.approx(0.05, rel=1e-2)
    assert moves[-1] < 0.001
    assert module.weight.grad is not None
    assert module.weight.grad.item() == pytest.approx(-1.0)  # of norm 1, not 1000


class Matrix(nn.Module):
    """Parameters of every sort, none of which the loss asks for."""

    def __init__(self, logit_scale: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale))

    def forward(self) -> Tensor:
        return 0.0 * (self.linear.weight.sum() + self.linear.bias.sum()) + 0.0 * self.logit_scale


def test_weights_decay_and_biases_and_scale_do_not() -> None:
    module = Matrix(1.0)
    matrix, bias = module.linear.weight.detach().clone(), module.linear.bias.detach().clone()
    chosen = recipe(epochs=1, weight_decay=0.5, learning_rate=0.1)  # 4 steps, 1 of them warm-up
    fit(make_fabric(), module, 32, Task(lambda model, *rest: model()), chosen)
    shrunk = math.prod(
        1 - 0.5 * 0.1 * rate for rate in (1.0, 1.0, 0.75, 0.25)
    )  # half a cosine over the three steps after the first
    torch.testing.assert_close(module.linear.weight.detach(), matrix * shrunk)
    assert torch.equal(module.linear.bias, bias)
    assert module.logit_scale.item() == 1.0


@pytest.mark.parametrize(("sign", "end"), [(-1.0, math.log(100.0)), (1.0, 0.0)])
def test_the_logit_scale_stays_between_1_and_100(sign: float, end: float) -> None:
    module = Matrix(math.log(10.0))
    chosen = recipe(epochs=2, learning_rate=10.0)
    task = Task(lambda model, *rest: model() + sign * model.logit_scale)
    fit(make_fabric(), module, 32, task, chosen)
    assert module.logit_scale.item() == pytest.approx(end)


def test_an_epoch_shows_each_film_once_in_its_own_order() -> None:
    shown: list[list[int]] = []

    def step(model: nn.Module, rows: Tensor, part: slice, epoch: int, g: torch.Generator) -> Tensor:
        assert part == slice(0, 8)
        shown.append([epoch, *rows.tolist()])
        return model.weight.sum()

    fit(make_fabric(), Line(), 35, Task(step), recipe(epochs=2))
    assert [batch[0] for batch in shown] == [0] * 4 + [1] * 4  # three films are left over
    first, second = ([row for b in shown[i : i + 4] for row in b[1:]] for i in (0, 4))
    for rows in (first, second):
        assert len(set(rows)) == 32
        assert set(rows) <= set(range(35))
    assert first != second
    assert first != sorted(first)
    shown.clear()
    fit(make_fabric(), Line(), 35, Task(step, lambda count, g: torch.arange(35)), recipe(epochs=1))
    assert [row for batch in shown for row in batch[1:]] == list(range(32))


def test_exactly_one_step_of_films_is_enough_and_one_fewer_is_refused() -> None:
    chosen = recipe(epochs=1, accumulate=4)
    assert len(learn(Line(), chosen).losses) == 1
    with pytest.raises(DataError, match=r"32 films; expected at least 40, one step"):
        learn(Line(), replace(chosen, accumulate=5))


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    three: Any = SimpleNamespace(world_size=3)
    with pytest.raises(DataError, match=r"a batch of 8 films for 3 processes; expected a multiple"):
        fit(three, Line(), 32, Task(lambda *given: torch.zeros(())), recipe())


def test_what_is_told_is_the_last_selection() -> None:
    told: list[tuple[int, int, str]] = []
    scores = iter([Selection(0.25, 0.75), Selection(0.5, 0.8)])
    fit(
        make_fabric(), Line(), 16,
        Task(lambda model, *rest: model.weight.sum(), select=lambda: next(scores)),
        recipe(epochs=2), progress=lambda *more: told.append(more),
    )  # fmt: skip
    last = "worst group 25 %, overall 75 %"
    assert told == [(1, 4, ""), (2, 4, ""), (3, 4, last), (4, 4, last)]


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


def test_one_lucky_epoch_is_not_the_best_of_several_judged_together() -> None:
    scores = [0.8, 0.1, 0.2, 0.5, 0.6, 0.3]  # means of three: 0.37, 0.27, 0.43, 0.47
    assert learn(Line(), recipe(), scores).best == 0
    module = Line()
    curve = learn(module, recipe(judged=3), scores)
    assert curve.best == 5
    assert module.weight.item() == curve.selections[5].overall
    assert learn(Line(), recipe(judged=3), [0.8, 0.7, 0.6, 0.5, 0.9, 0.1]).best == 2
    short = learn(Line(), recipe(judged=9, epochs=2), [0.8, 0.1])  # no epoch has nine
    assert short.best == 1
    stopped = learn(Line(), recipe(judged=3, patience=1), [0.8, 0.1, 0.2, 0.0, 0.9, 0.9])
    assert (stopped.best, stopped.stopped) == (2, "early")


def test_it_stops_after_epochs_without_gain() -> None:
    module = Line()
    curve = learn(module, recipe(patience=2), [0.1, 0.5, 0.4, 0.3, 0.9, 0.9])
    assert curve.stopped == "early"
    assert len(curve.selections) == 4
    assert curve.best == 1
    assert module.weight.item() == curve.selections[1].overall
    assert module.weight.item() < curve.selections[3].overall


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
    early = Line()
    curve = learn(early, recipe(), [0.1], broken_at=2)  # before any epoch: as it was
    assert curve.stopped == "diverged"
    assert curve.best is None
    assert early.weight.item() == 0.0


def test_answers_that_are_not_finite_are_divergence() -> None:
    module = Line()
    curve = learn(module, recipe(), [0.1, 0.3, float("nan")])
    assert curve.stopped == "diverged"
    assert len(curve.selections) == 2
    assert module.weight.item() == curve.selections[1].overall


def test_a_gradient_that_is_not_finite_is_divergence() -> None:
    """The root of 0 is 0, and its slope has no end."""
    module = Line()
    curve = fit(
        make_fabric(), module, 32, Task(lambda model, *rest: model.weight.abs().sqrt().sum()),
        recipe(),
    )  # fmt: skip
    assert curve.stopped == "diverged"
    assert curve.losses == []
    assert module.weight.item() == 0.0


def module_after(steps: int) -> float:
    module = Line()
    weights: list[float] = []

    def step(model: nn.Module, rows: Tensor, part: slice, epoch: int, g: torch.Generator) -> Tensor:
        weights.append(module.weight.item())
        loss: Tensor = ((model(X[rows]) - 3 * X[rows]) ** 2).mean()
        return loss

    fit(make_fabric(), module, 32, Task(step), recipe())
    return weights[steps]


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_of_norms_stay_only_where_they_are_frozen(frozen: bool) -> None:
    module = Line()
    learn(module, recipe(freeze_norms=frozen, epochs=1))
    still = module.norm.running_mean.item() == 0.0 and module.norm.running_var.item() == 1.0
    assert still == frozen


def test_accumulated_batches_are_one_step_on_their_mean() -> None:
    halves, whole = Line(), Line()
    small = recipe(batch_size=8, accumulate=2, epochs=2, learning_rate=0.01)
    with torch.no_grad():  # near the goal the gradient is not clipped
        halves.weight.fill_(2.9)
        whole.weight.fill_(2.9)
    first = learn(halves, small)
    second = learn(whole, replace(small, batch_size=16, accumulate=1))
    assert first.losses == pytest.approx(second.losses, rel=1e-5)
    assert halves.weight.item() == pytest.approx(whole.weight.item(), rel=1e-5)
    assert halves.weight.grad is not None
    assert whole.weight.grad is not None
    assert 0 < whole.weight.grad.abs().item() < 0.9
    assert halves.weight.grad.item() == pytest.approx(whole.weight.grad.item(), rel=1e-4)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def killed(folder: Path, *kills: tuple[str, int]) -> list[tuple[Path, dict[str, Any]]]:
    """Train in processes that end by SIGKILL; what each leaves, and the checkpoint in it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    told = [str(part) for kill in kills for part in kill]
    outcome = subprocess.run(
        [sys.executable, str(RESUMED), str(folder), *told],
        cwd=RESUMED.parent, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr
    left = [folder.with_name(f"{folder.name}-{turn}") for turn in range(len(kills))]
    assert not any((there / "weights.pt").exists() for there in left)
    return [(there, torch.load(there / "arm.ckpt", weights_only=True)) for there in left]


@pytest.mark.long
def test_what_was_killed_goes_on_to_the_same_weights(tmp_path: Path, one_thread: None) -> None:
    """Group DRO keeps weights from batch to batch."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    straight.mkdir()
    broken.mkdir()
    train(straight)
    step, write, epoch = killed(
        broken,
        ("step", 5),  # in the middle of an epoch
        ("write", 2),  # half of a checkpoint is there; what counts is the one before it
        ("epoch", 3),  # all steps of an epoch are done, and it is being judged
    )
    assert (step[1]["epoch"], step[1]["done_in_epoch"]) == (1, 1)
    assert (write[1]["epoch"], write[1]["done_in_epoch"]) == (1, 3)
    assert len(list(write[0].glob(".arm.ckpt.*.partial"))) == 1
    assert (epoch[1]["epoch"], epoch[1]["done_in_epoch"]) == (2, 2)
    train(broken)
    done, again = (
        torch.load(folder / "weights.pt", weights_only=True) for folder in (straight, broken)
    )
    assert len(done["losses"]) == 12
    assert done["losses"] == again["losses"]
    assert done["best"] == again["best"]
    assert all(torch.equal(done["model"][k], again["model"][k]) for k in done["model"])


class StoppedError(Exception):
    """What stops a training here."""


class Noisy(Line):
    """Dropout draws from the generator that nobody hands over."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, self.training))


def go_on(
    folder: Path, chosen: TrainingConfig, *, judged: bool, broken_at: int = -1, stop_at: int = -1
) -> tuple[TrainingHistory, dict[str, Tensor]]:
    """Train with checkpoints in a folder, and be interrupted after a step."""
    module, state = Noisy(), {"steps": torch.zeros(1)}

    def step(model: nn.Module, rows: Tensor, part: slice, epoch: int, g: torch.Generator) -> Tensor:
        state["steps"] = state["steps"] + 1
        noise = torch.randn(len(rows), generator=g)
        loss: Tensor = ((model(X[rows]) - 3 * X[rows] - noise) ** 2).mean()
        return loss * (float("nan") if state["steps"].item() == broken_at else 1.0)

    def told(done: int, total: int, more: str) -> None:
        if done == stop_at:
            raise StoppedError("stopped here")

    curve = fit(
        make_fabric(), module, 32,
        Task(
            step,
            select=(lambda: Selection(-round(abs(module.weight.item() - 1), 1), 0.0))
            if judged else None,
            state=state,
        ),
        chosen, checkpoint=folder / "line.ckpt", progress=told,
    )  # fmt: skip
    return curve, {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize(
    ("judged", "broken_at", "ends"),
    [
        (True, -1, "early"),
        (False, -1, "budget"),
        (True, 12, "diverged"),
        (True, 4, "diverged"),
        (False, 12, "diverged"),
        (False, 4, "diverged"),
    ],
)
def test_wherever_it_is_interrupted_it_goes_on_to_the_same_weights(
    tmp_path: Path, judged: bool, broken_at: int, ends: str
) -> None:
    chosen = recipe(epochs=4, patience=1, checkpoint_steps=2)
    folder = tmp_path / "straight"
    folder.mkdir()
    wanted, weights = go_on(folder, chosen, judged=judged, broken_at=broken_at)
    assert wanted.stopped == ends
    assert sorted(path.name for path in folder.iterdir()) in ([], ["line.ckpt"])
    for stop_at in range(1, len(wanted.losses) + 1):
        folder = tmp_path / str(stop_at)
        folder.mkdir()
        with pytest.raises(StoppedError, match="stopped here"):
            go_on(folder, chosen, judged=judged, broken_at=broken_at, stop_at=stop_at)
        for _ in range(2):  # what has ended goes on to its end
            found, there = go_on(folder, chosen, judged=judged, broken_at=broken_at)
            assert found == wanted, stop_at
            assert all(torch.equal(there[name], weights[name]) for name in weights), stop_at


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Let files of this process grow to so many bytes, as on a disk that is full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, small_files: Callable[[int], None]
) -> None:
    chosen = recipe(epochs=2, checkpoint_steps=3)
    wanted, weights = go_on(tmp_path, chosen, judged=True)
    (tmp_path / "line.ckpt").unlink()
    with pytest.raises(StoppedError, match="stopped here"):
        go_on(tmp_path, chosen, judged=True, stop_at=5)
    before = (tmp_path / "line.ckpt").read_bytes()
    small_files(len(before) // 2)
    with pytest.raises(
        ConfigError, match=r"cache: a file of the mitigation cannot be written \(.*\); expected a "
        r"folder with room .* --resume"
    ):  # fmt: skip
        go_on(tmp_path, chosen, judged=True)
    small_files(resource.RLIM_INFINITY)
    assert (tmp_path / "line.ckpt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["line.ckpt"]
    assert (tmp_path / "line.ckpt").stat().st_mode & 0o777 == 0o600
    found, there = go_on(tmp_path, chosen, judged=True)
    assert found == wanted
    assert all(torch.equal(there[name], weights[name]) for name in weights)


@pytest.mark.parametrize("content", [b"", b"half a file", b"PK\x03\x04"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "line.ckpt").write_bytes(content)
    with pytest.raises(
        DataError, match=r"--resume: the checkpoint cannot be read \(\w+\); expected"
    ):
        go_on(tmp_path, recipe(epochs=2), judged=True)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "arm.ckpt"

    def step(model: nn.Module, rows: Tensor, part: slice, epoch: int, g: torch.Generator) -> Tensor:
        loss: Tensor = ((model(X[rows]) - 3 * X[rows]) ** 2).mean()
        return loss

    fit(make_fabric(), Line(), 32, Task(step), recipe(epochs=1), checkpoint=path)
    torch.load(path, weights_only=True)  # nothing in it has to be unpickled
    for other, films in ((recipe(epochs=2), 32), (recipe(epochs=1), 24)):
        with pytest.raises(DataError, match="written under another config or for other films"):
            fit(make_fabric(), Line(), films, Task(step), other, checkpoint=path)
