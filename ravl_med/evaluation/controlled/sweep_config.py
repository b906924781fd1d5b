"""The config that settings are audited and mitigated under: an audit's defaults, said once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ravl_med.config import Config
from ravl_med.errors import ConfigError
from ravl_med.evaluation.controlled.small_models import TAU
from ravl_med.evidence.relevance import RelevanceTable, read_relevance

__all__ = ["relevance_of", "setting_config"]

_TABLE = "relevance/chest.yaml"


def setting_config(prompts: Mapping[str, Sequence[str]], seed: int) -> Config:
    """Return the config of one setting.

    What differs from the defaults of an audit saves time: counterfactuals on fewer films, and fewer
    draws of the bootstrap and of permutations.

    Parameters
    ----------
    prompts : mapping of class to texts
    seed : int - of clustering, halves and tests
    """
    sections: dict[str, Any] = {
        "name": "evaluation",
        "cohort": {"synthetic": {"images": 40, "seed": seed}},
        "task": {
            "classes": {name: {"prompts": list(texts)} for name, texts in prompts.items()},
            "temperature": TAU,
        },
        "model": {"quickstart": {}},
        "discovery": {"seed": seed},
        "evidence": {
            "relevance": str(_relevance_file()),
            "max_removals": 150,
            "max_pairs": 40,
            "draws": 2000,
            "permutations": 1999,
            "seed": seed,
        },
        "mitigation": {
            "epochs": 10,
            "batch_size": 32,
            "learning_rate": 1e-3,  # as the audited model was trained, as in the paper
            "weight_decay": 0.05,
            "patience": 10,
            "seed": seed,
        },
    }
    return Config.model_validate(sections)


def relevance_of(domain: str) -> RelevanceTable:
    """Return where findings show: the packaged table for phantoms, an empty one elsewhere.

    The classes of radiographs that a user names, and digits, have no anatomy that would clear them.
    """
    if domain != "phantoms":
        return RelevanceTable({})
    return read_relevance(_relevance_file())


def _relevance_file() -> Path:
    package = Path(__file__).parents[2]
    for folder in (package, package.parent / "configs"):
        if (folder / _TABLE).is_file():
            return folder / _TABLE
    raise ConfigError("the table of relevance is missing from the package. Install it again.")
