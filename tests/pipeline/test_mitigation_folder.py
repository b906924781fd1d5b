"""What reports and model cards say of the training is what was set."""

from __future__ import annotations

from pathlib import Path

from ravl_med.config.loading import load_config
from ravl_med.pipeline.mitigation_folder import describe_training

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


def test_the_recipe_tells_every_choice_that_shapes_the_weights() -> None:
    changed = {
        "judged": ("5", "selection", "mean of 5 epochs in a row"),
        "min_group": ("7", "selection", "fewer than 7 films"),
        "exchange_share": ("0.25", "exchange", "with chance 0.25"),
        "companion_lift": ("0.3", "exchange", "on 30 % more of the films with the feature"),
        "reduction": ("sum", "objective", "sum over the batch (mean in RaVL with counterfactual"),
        "freeze_norms": ("false", "BatchNorm", "statistics trained"),
        "patience": ("9", "budget", "after 9 epochs without gain"),
    }
    settings = tuple(f"mitigation.{key}={value}" for key, (value, *_) in changed.items())
    recipe = describe_training(load_config(QUICKSTART, settings))
    for _, row, words in changed.values():
        assert words in recipe[row]
