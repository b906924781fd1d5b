"""The ways of fine-tuning that repair settings: every arm, and ours with parts left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ravl_med.mitigation.arms import ARMS, Arm

__all__ = ["ABLATIONS", "BASE", "REPAIRS", "Repair", "choose_repairs"]

BASE = "counterfactual"
"""The arm that parts are left out of."""

_LESS, _MORE = 0.5, 0.95  # lambda, about the 0.8 of the paper


@dataclass(frozen=True, slots=True)
class Repair:
    """One way to fine-tune.

    Attributes
    ----------
    title : str - how pages call it
    arm : Arm
    clip_weight : float or None - lambda, of L_CLIP; None: the config's
    """

    title: str
    arm: Arm
    clip_weight: float | None = None


REPAIRS: Mapping[str, Repair] = {
    **{name: Repair(arm.title, arm) for name, arm in ARMS.items()},
    "relevance": Repair("exchange and L_R", replace(ARMS[BASE], terms=("relevance",))),
    "alignment": Repair("exchange and L_A", replace(ARMS[BASE], terms=("alignment",))),
    "less_clip": Repair(f"exchange, L_R and L_A, lambda {_LESS:g}", ARMS[BASE], _LESS),
    "more_clip": Repair(f"exchange, L_R and L_A, lambda {_MORE:g}", ARMS[BASE], _MORE),
}
"""By name; the first are those of `ARMS`."""

ABLATIONS = tuple(name for name in REPAIRS if name not in ARMS)


def choose_repairs(*, arms: bool, ablations: bool) -> tuple[str, ...]:
    """Return the names that are asked for: every arm, and ours with parts left out."""
    return (*(ARMS if arms else ()), *(ABLATIONS if ablations else ()))
