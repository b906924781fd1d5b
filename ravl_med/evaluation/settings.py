"""Controlled settings: which feature is tied to which finding, how tightly, in which model.

A setting is one model to be trained and audited. The settings that differ in nothing but their seed
are a group; RaVL's validity test asks all seeds of a group, so they are planned side by side.

References
----------
Varma et al., RaVL, NeurIPS 2024 (arXiv 2411.04097), section 4 and appendix: 654 settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError
from ravl_med.evidence.counterfactual.localisation import RelevanceTable, read_relevance
from ravl_med.phantoms.devices import FEATURES
from ravl_med.phantoms.film import FINDINGS

TAU = 0.07

GLOBAL = "brightness"
"""Planted on the whole film; it has no place."""

PAINTED = ("button", "faint button", "fixed button", "letter", "clip")
"""A button that wanders over the film, the same in a fainter tone, one at a fixed place in a lung,
a boxed letter in a corner, a large metal clip over the lower third."""

RECTANGLES = ("rectangle", "faint rectangle")
"""As RaVL lays them beside a digit."""

Domain = Literal["phantoms", "radiographs", "digits", "mnist"]
Kind = Literal["planted", "null", "two", "global"]
Architecture = Literal["resnet", "vit", "coarse vit"]
RegionChoice = Literal["tiles", "structures"]

DOMAINS: tuple[Domain, ...] = get_args(Domain)
KINDS: tuple[Kind, ...] = get_args(Kind)
ARCHITECTURES: tuple[Architecture, ...] = ("resnet", "vit")
"""Of the published settings."""

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
_FEATURES: Mapping[Domain, tuple[str, ...]] = {
    "phantoms": (*FEATURES, *PAINTED),
    "radiographs": PAINTED,
    "digits": RECTANGLES,
    "mnist": RECTANGLES,
}
_NULLS = 2  # settings of each feature and architecture, each on another finding and three seeds


@dataclass(frozen=True, slots=True)
class Pair:
    """A feature and the class that it is tied to."""

    feature: str
    finding: str


@dataclass(frozen=True, slots=True)
class Setting:
    """One model: what is planted, and how it is trained and cut into regions.

    Attributes
    ----------
    kind : {"planted", "null", "two", "global"} - null: the feature is on half the films of each
        class; two: two pairs at once; global: what is planted has no place
    pairs : tuple of Pair - one, or two
    strength : float - Cramer's V of feature and finding on the films to fine-tune on
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
        # A planted feature was called a thing when the first settings were run.
        pairs = [{"thing": pair.feature, "finding": pair.finding} for pair in self.pairs]
        known = {**asdict(self), "pairs": pairs, "recipe": RECIPE}
        text = json.dumps(known, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def group(self) -> str:
        """Digest of the setting whatever its seed."""
        return replace(self, seed=0).digest

    def label(self) -> str:
        """Return how the progress calls it."""
        pairs = " and ".join(f"{pair.feature} on {pair.finding}" for pair in self.pairs)
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
    strengths about as they are asked for; which feature and which finding comes first is drawn by
    digest.
    """
    strengths = sorted(strengths, reverse=True)
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
    placed.sort(key=lambda entry: entry[:2])
    return [replace(group, seed=seed) for _, _, group in placed for seed in seeds]


Planted = tuple[tuple[Pair, ...], float, RegionChoice]
"""Pairs, their strength, and how films are cut into regions."""


def _groups(
    domain: Domain, kind: Kind, architecture: Architecture, strengths: Sequence[float]
) -> Iterator[Setting]:
    """Give the settings of one domain, kind and architecture, for seed 0."""
    for pairs, strength, regions in _PLANS[kind](domain, strengths):
        yield Setting(domain, kind, pairs, strength, architecture, 0, regions)


def _plan_planted(domain: Domain, strengths: Sequence[float]) -> Iterator[Planted]:
    findings = _FINDINGS[domain]
    for feature, finding, strength in product(_FEATURES[domain], findings, strengths):
        yield (Pair(feature, finding),), strength, "tiles"
    if domain == "phantoms":  # what a segmenter knows by name: devices
        for feature, finding in product(FEATURES, findings[:2]):
            yield (Pair(feature, finding),), max(strengths), "structures"


def _plan_null(domain: Domain, strengths: Sequence[float]) -> Iterator[Planted]:
    findings = _FINDINGS[domain]
    for (number, feature), turn in product(enumerate(_FEATURES[domain]), range(_NULLS)):
        yield (Pair(feature, findings[(number + turn) % len(findings)]),), 0.0, "tiles"


def _plan_two(domain: Domain, strengths: Sequence[float]) -> Iterator[Planted]:
    features, findings = _FEATURES[domain], _FINDINGS[domain]
    for (number, feature), strength in product(enumerate(features), strengths[:2]):
        other = features[(number + 1) % len(features)]
        first, second = (findings[(number + turn) % len(findings)] for turn in (0, 1))
        yield (Pair(feature, first), Pair(other, second)), strength, "tiles"


def _plan_global(domain: Domain, strengths: Sequence[float]) -> Iterator[Planted]:
    for finding, strength in product(_FINDINGS[domain], strengths[:2]):
        yield (Pair(GLOBAL, finding),), strength, "tiles"


_PLANS: Mapping[Kind, Callable[[Domain, Sequence[float]], Iterator[Planted]]] = {
    "planted": _plan_planted, "null": _plan_null, "two": _plan_two, "global": _plan_global,
}  # fmt: skip

_TABLE = "relevance/chest.yaml"


def setting_config(prompts: Mapping[str, Sequence[str]], seed: int) -> Config:
    """Return the config of one setting.

    What differs from the defaults of an audit saves time: counterfactuals on fewer films, and fewer
    draws of the bootstrap and of permutations.
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
            "relevance": str(_relevance_file()), "max_pairs": 40,
            "draws": 2000, "permutations": 1999, "seed": seed,
        },
        "mitigation": {  # the rate as the audited model was trained, as in the paper
            "epochs": 10, "batch_size": 32, "learning_rate": 1e-3, "weight_decay": 0.05,
            "patience": 10, "seed": seed,
        },
    }  # fmt: skip
    return Config.model_validate(sections)


def relevance_of(domain: str) -> RelevanceTable:
    """Return where findings show: the packaged table for phantoms, an empty one elsewhere.

    The classes of radiographs that a user names, and digits, have no anatomy that would clear them.
    """
    if domain != "phantoms":
        return RelevanceTable({})
    return read_relevance(_relevance_file())


def _relevance_file() -> Path:
    package = Path(__file__).parents[1]
    for folder in (package, package.parent / "configs"):
        if (folder / _TABLE).is_file():
            return folder / _TABLE
    raise ConfigError("the table of relevance is missing from the package. Install it again.")


def read_settings(text: str) -> tuple[Setting, ...]:
    """Return the settings that ``domain=digits,kind=null,two,seed=0`` asks for.

    A name stands for all values up to the next one. What is not named is not narrowed, but for the
    domain: films of phantoms and digits need no folder.

    Raises
    ------
    ConfigError
        A name or a value is unknown, a number is out of range, or a name has no value.
    """
    asked: dict[str, list[str]] = {}
    name = ""
    for part in filter(None, map(str.strip, text.split(","))):
        before, equals, value = (side.strip() for side in part.rpartition("="))
        name = before if equals else name
        if name not in _CHOICES:
            expected = ", ".join(f"{known}=..." for known in _CHOICES)
            raise ConfigError(f"--only: expected {expected}; got {part!r}.")
        asked.setdefault(name, []).extend([value] if value else [])
    chosen: dict[str, Any] = {"domains": ("phantoms", "digits")}
    for name, values in asked.items():
        expected, read = _CHOICES[name]
        wanted = [read(value) for value in values]
        if None in wanted or not wanted:
            got = ",".join(values) or "none"
            raise ConfigError(f"--only {name}: expected {expected}; got {got!r}.")
        chosen[f"{name}s"] = tuple(dict.fromkeys(wanted))
    return tuple(plan_settings(**chosen))


def _some_of(known: Sequence[str]) -> tuple[str, Callable[[str], str | None]]:
    return f"some of {', '.join(known)}", lambda value: value if value in known else None


def _read_strength(value: str) -> float | None:
    try:
        strength = float(value)
    except ValueError:
        return None
    return strength if 0.0 < strength < 1.0 else None


_CHOICES: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "domain": _some_of(DOMAINS),
    "kind": _some_of(KINDS),
    "architecture": _some_of(ARCHITECTURES),
    "strength": ("numbers in the range (0, 1)", _read_strength),
    "seed": ("whole numbers", lambda value: int(value) if value.isdecimal() else None),
}
"""What `--only` takes: what a message says of it, and how a value is read; None refuses it."""
