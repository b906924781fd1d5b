"""Controlled settings: which thing is tied to which finding, how tightly, in which model.

A setting is one model to be trained and audited. The settings that differ in nothing but their seed
are a group; RaVL's validity test asks all seeds of a group, so they are planned side by side.

References
----------
Varma et al., RaVL, NeurIPS 2024 (arXiv 2411.04097), section 4 and appendix: 654 settings.

The config that settings are audited and mitigated under: an audit's defaults, said once.

What a command line asks of the sweep, read strictly.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError
from ravl_med.evaluation.painted_things import GLOBAL, PAINTED, RECTANGLES
from ravl_med.evidence.counterfactual.effect_places import RelevanceTable, read_relevance
from ravl_med.phantoms.devices import FEATURES
from ravl_med.phantoms.film import FINDINGS

TAU = 0.07


Domain = Literal["phantoms", "radiographs", "digits", "mnist"]
Kind = Literal["planted", "null", "two", "global"]
Architecture = Literal["resnet", "vit"]
RegionChoice = Literal["tiles", "structures"]

DOMAINS: tuple[Domain, ...] = get_args(Domain)
KINDS: tuple[Kind, ...] = get_args(Kind)
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
STRENGTHS = (0.99, 0.95, 0.9, 0.8, 0.7)
SEEDS = (0, 1, 2)
"""Seeds of what is published; whoever changes a method tries it on others."""

RECIPE = 1
"""Raised whenever films, models or methods change so that older rows no longer compare."""

_DIGITS = tuple(str(digit) for digit in range(10))
_FINDINGS: Mapping[Domain, tuple[str, ...]] = {
    "phantoms": FINDINGS,
    "radiographs": ("present", "absent"),
    "digits": _DIGITS,
    "mnist": _DIGITS,
}
_THINGS: Mapping[Domain, tuple[str, ...]] = {
    "phantoms": (*FEATURES, *PAINTED),
    "radiographs": PAINTED,
    "digits": RECTANGLES,
    "mnist": RECTANGLES,
}
_NULLS = 2  # settings of each thing and architecture, each on another finding and three seeds


@dataclass(frozen=True, slots=True)
class Pair:
    """A thing and the class that it is tied to."""

    thing: str
    finding: str


@dataclass(frozen=True, slots=True)
class Setting:
    """One model: what is planted, and how it is trained and cut into regions.

    Attributes
    ----------
    kind : {"planted", "null", "two", "global"} - null: the thing is on half the films of each
        class; two: two pairs at once; global: what is planted has no place
    pairs : tuple of Pair - one, or two
    strength : float - Cramer's V of thing and finding on the films to fine-tune on
    seed : int - of films, contingency and model
    regions : {"tiles", "structures"} - structures: anatomy and artifacts by the segmenter
    """

    domain: Domain
    kind: Kind
    pairs: tuple[Pair, ...]
    strength: float
    architecture: Architecture
    seed: int
    regions: RegionChoice = "tiles"

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 over every field and the recipe."""
        text = json.dumps({**asdict(self), "recipe": RECIPE}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def group(self) -> str:
        """Digest of the setting whatever its seed."""
        return replace(self, seed=0).digest

    def label(self) -> str:
        """Return how the progress calls it."""
        pairs = " and ".join(f"{pair.thing} on {pair.finding}" for pair in self.pairs)
        return (
            f"{self.domain}, {self.kind}, {pairs}, V {self.strength:g}, {self.architecture}, "
            f"{self.regions}, seed {self.seed}"
        )


def plan_settings(
    domains: Sequence[Domain] = DOMAINS,
    kinds: Sequence[Kind] = KINDS,
    architectures: Sequence[Architecture] = ARCHITECTURES,
    strengths: Sequence[float] = STRENGTHS,
    seeds: Sequence[int] = SEEDS,
) -> list[Setting]:
    """Return the settings in the order in which they are run: groups together, seed after seed.

    Groups are dealt out so that any beginning of the plan holds domains, kinds, architectures and
    strengths about as they are asked for; which thing and which finding comes first is drawn by
    digest.

    Parameters
    ----------
    domains, kinds, architectures, strengths, seeds : sequence - what is wanted
    """
    groups = [
        group
        for domain, kind, architecture in product(domains, kinds, architectures)
        for group in _groups(domain, kind, architecture, strengths)
    ]
    decks: dict[tuple[object, ...], list[Setting]] = {}
    for group in sorted(groups, key=lambda group: group.digest):
        key = (group.domain, group.kind, group.architecture, group.strength, group.regions)
        decks.setdefault(key, []).append(group)
    placed = [
        ((rank + 0.5) / len(deck), number, group)
        for number, deck in enumerate(decks.values())
        for rank, group in enumerate(deck)
    ]
    return [
        replace(group, seed=seed) for _, _, group in sorted(placed, key=_place) for seed in seeds
    ]


def _place(entry: tuple[float, int, Setting]) -> tuple[float, int]:
    return entry[:2]


def _groups(
    domain: Domain, kind: Kind, architecture: Architecture, strengths: Sequence[float]
) -> Iterator[Setting]:
    """Give the settings of one domain, kind and architecture, for seed 0."""
    things, findings = _THINGS[domain], _FINDINGS[domain]

    def of(pairs: tuple[Pair, ...], strength: float, regions: RegionChoice = "tiles") -> Setting:
        return Setting(domain, kind, pairs, strength, architecture, 0, regions)

    if kind == "planted":
        for thing, finding, strength in product(things, findings, strengths):
            yield of((Pair(thing, finding),), strength)
        if domain == "phantoms":  # what a segmenter knows by name: devices
            for thing, finding in product(FEATURES, findings[:2]):
                yield of((Pair(thing, finding),), max(strengths), "structures")
    elif kind == "null":
        for number, thing in enumerate(things):
            for turn in range(_NULLS):
                yield of((Pair(thing, findings[(number + turn) % len(findings)]),), 0.0)
    elif kind == "two":
        for number, thing in enumerate(things):
            other = things[(number + 1) % len(things)]
            first = findings[number % len(findings)]
            second = findings[(number + 1) % len(findings)]
            for strength in strengths[:2]:
                yield of((Pair(thing, first), Pair(other, second)), strength)
    else:
        for finding, strength in product(findings, strengths[:2]):
            yield of((Pair(GLOBAL, finding),), strength)


_TABLE = "relevance/chest.yaml"


def setting_config(prompts: Mapping[str, Sequence[str]], seed: int) -> Config:
    """Return the config of one setting.

    What differs from the defaults of an audit saves time: counterfactuals on fewer films, and fewer
    draws of the bootstrap and of permutations.

    Parameters
    ----------
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
