"""What a command line asks of the sweep, read strictly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from ravl_med.errors import ConfigError
from ravl_med.evaluation.controlled.settings import (
    ARCHITECTURES,
    DOMAINS,
    KINDS,
    Setting,
    plan_settings,
)

__all__ = ["read_settings"]

Word = TypeVar("Word", bound=str)


def read_settings(
    domains: str, kinds: str, architectures: str, strengths: str, seeds: str
) -> tuple[Setting, ...]:
    """Return the settings that lists of words and numbers, with commas, ask for.

    Raises
    ------
    ConfigError
        A word is unknown, a number is out of range, or a list is empty.
    """
    return tuple(
        plan_settings(
            _words("--domains", domains, DOMAINS),
            _words("--kinds", kinds, KINDS),
            _words("--architectures", architectures, ARCHITECTURES),
            _strengths(strengths),
            _seeds(seeds),
        )
    )


def _words(option: str, text: str, known: Sequence[Word]) -> list[Word]:
    named = _parts(text)
    unknown = [word for word in named if word not in known]
    if unknown or not named:
        got = repr(unknown[0]) if unknown else "none"
        raise ConfigError(f"{option}: expected some of {', '.join(known)}, with commas; got {got}.")
    return [word for word in known if word in named]


def _strengths(text: str) -> list[float]:
    try:
        values = [float(word) for word in _parts(text)]
    except ValueError:
        values = []
    if not values or not all(math.isfinite(v) and 0.0 < v < 1.0 for v in values):
        raise ConfigError(f"--strengths: expected numbers in the range (0, 1); got {text!r}.")
    return sorted(set(values), reverse=True)


def _seeds(text: str) -> list[int]:
    words = _parts(text)
    if not words or not all(word.isdecimal() for word in words):
        raise ConfigError(f"--seeds: expected whole numbers with commas; got {text!r}.")
    return list(dict.fromkeys(map(int, words)))


def _parts(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
