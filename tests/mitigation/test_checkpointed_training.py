"""Training with checkpointed gradients: the same weights, and statistics that move once a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from toys import SIDE, toy_groups, toy_model, toy_set, toy_texts

from ravl_med.config.mitigation import MitigationConfig
from ravl_med.config.model import QuickstartModelConfig
from ravl_med.encoders.gradient_checkpointing import checkpoint_gradients
from ravl_med.encoders.open_clip import save_model
from ravl_med.errors import ModelError
from ravl_med.mitigation.arms import ARMS, ImageTower, Objective
from ravl_med.mitigation.distributed import make_fabric
from ravl_med.mitigation.quickstart import quickstart_layout
from ravl_med.mitigation.trainer import Task, TrainingConfig, batch_norms_of, fit
from ravl_med.mitigation.training import ArmTraining, SelectionFilms


def timm_model() -> nn.Module:
    torch.manual_seed(0)
    vision = {"image_size": SIDE, "timm_model_name": "test_resnet", "timm_pool": "avg",
              "timm_proj": "linear", "timm_model_pretrained": False}  # fmt: skip
    text = {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
    model: nn.Module = open_clip.CLIP(embed_dim=128, vision_cfg=vision, text_cfg=text)
    return model


def learned(model: nn.Module, *, frozen: bool, checkpointed: bool) -> dict[str, Tensor]:
    """What a tower holds after two steps of the region losses."""
    films, tower = toy_set(32), ImageTower(model)
    if checkpointed:
        checkpoint_gradients(tower.visual)
    lesson = Objective(ARMS["ravl"], films, toy_texts(), MitigationConfig(), make_fabric())
    config = TrainingConfig(1, 16, 1e-3, 0, freeze_norms=frozen)
    fit(make_fabric(), tower, 32, Task(lesson.step), config)
    return tower.state_dict()


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(
    ("make", "passes"),
    [(toy_model, 2), (timm_model, 2 * 17)],  # the latter has no map: 16 crops and the film
)
def test_statistics_of_batches_move_once_a_pass(
    make: Callable[[], nn.Module], passes: int, frozen: bool
) -> None:
    plain = learned(make(), frozen=frozen, checkpointed=False)
    again = learned(make(), frozen=frozen, checkpointed=True)
    assert plain.keys() == again.keys()
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-5, msg=name)
    seen = {int(value) for name, value in again.items() if name.endswith("num_batches_tracked")}
    assert seen == {0 if frozen else passes}
    assert len(batch_norms_of(make())) > 5


def test_an_arm_learns_the_same_with_the_key(tmp_path: Path) -> None:
    films, layout = toy_set(32), quickstart_layout(QuickstartModelConfig(image_size=SIDE))
    save_model(toy_model(), layout, tmp_path / "model")
    groups = toy_groups(films)
    selection = SelectionFilms(films.films, np.arange(32), films.labels, groups.used())
    found = []
    for checkpointed in (False, True):
        config = MitigationConfig(
            epochs=1, batch_size=16, learning_rate=1e-3, gradient_checkpointing=checkpointed
        )
        training = ArmTraining(
            ARMS["counterfactual"],
            tmp_path / "model",
            films,
            selection,
            toy_texts().numpy(),
            config,
        )
        arm = training(make_fabric())
        found.append((arm.curve.losses, arm.encoder.state_dict()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    for name, value in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_a_tower_that_cannot_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    films, layout = toy_set(32), quickstart_layout(QuickstartModelConfig(image_size=SIDE))
    save_model(toy_model(), layout, tmp_path / "model")
    groups = toy_groups(films)
    selection = SelectionFilms(films.films, np.arange(32), films.labels, groups.used())
    monkeypatch.setattr(
        "ravl_med.encoders.gradient_checkpointing.ModifiedResNet", TimmModel
    )  # one that is not known
    with pytest.raises(ModelError, match="the image tower ModifiedResNet has no switch for it"):
        ArmTraining(
            ARMS["standard"], tmp_path / "model", films, selection, toy_texts().numpy(),
            MitigationConfig(batch_size=16, gradient_checkpointing=True),
        )(make_fabric())  # fmt: skip
