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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError
from ravl_med.evaluation.painting import (
    ANYWHERE,
    BESIDE,
    LETTERS,
    OUTSIDE,
    PLACES,
    STYLES,
    Mark,
    draw_mark,
    draw_rectangle,
)
from ravl_med.evidence.counterfactual.localisation import (
    RelevanceTable,
    RelevantPlaces,
    read_relevance,
)
from ravl_med.phantoms.devices import FEATURES
from ravl_med.phantoms.film import FINDINGS

TAU = 0.07
RATE = 5e-4  # of learning, by seed 9000; at 1e-3 ConvNeXts learn few pairs, ResNets few digits

Domain = Literal["phantoms", "radiographs", "nih", "digits", "garments", "mnist"]
Kind = Literal["planted", "null", "two", "style"]
Architecture = Literal["resnet", "vit", "convnext", "coarse resnet", "coarse vit"]

DOMAINS: tuple[Domain, ...] = get_args(Domain)
KINDS: tuple[Kind, ...] = get_args(Kind)
ARCHITECTURES: tuple[Architecture, ...] = ("resnet", "vit", "convnext")
"""Of the published settings; the maps of the others are coarser than the tiles."""

MADE: tuple[Domain, ...] = ("phantoms", "digits", "garments")
"""Domains whose films need no folder."""

OBJECTS: tuple[Domain, ...] = ("digits", "garments", "mnist")
"""Domains whose films hold one object, in a quadrant."""

STRENGTHS = (0.99, 0.95, 0.9, 0.8, 0.7)
SEEDS = (1000, 1001, 1002)
"""Seeds of what is published: no rule and no option was chosen on any of them."""

TRIED = (9000, 9001)
"""Seeds that options are chosen on; whoever changes a method tries it on these."""

RECIPE = 2
"""Raised whenever films, models or methods change so that older rows no longer compare."""

_DIGITS = tuple(str(digit) for digit in range(10))
GARMENTS = (
    "t-shirt", "trousers", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
"""The classes of FashionMNIST, whose silhouettes are drawn here."""

_FINDINGS: Mapping[Domain, tuple[str, ...]] = {
    "phantoms": FINDINGS,
    "radiographs": ("present", "absent"),
    "nih": ("women", "men"),
    "digits": _DIGITS,
    "garments": GARMENTS,
    "mnist": _DIGITS,
}
_INSIDE: Mapping[str, str] = {  # finding to a place where it shows
    "cardiomegaly": "heart",
    "consolidation": "left lower lung",
    "pneumothorax": "right lung",
    "pleural effusion": "left lower lung",
    "present": "right lung",
    "absent": "left lower lung",
    "women": "left lower lung",
    "men": "heart",
}
_GROUPS, _NULLS, _OTHERS = 26, 5, 2
"""Groups of three seeds of each domain and architecture: planted, null, two at once or a style."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A mark and the class that it is tied to."""

    mark: Mark
    finding: str

    @property
    def inside(self) -> bool:
        """Whether the mark lies over anatomy where a finding of the chest shows."""
        return self.mark.place in PLACES and self.mark.place not in OUTSIDE


@dataclass(frozen=True, slots=True)
class Setting:
    """One model: what is planted, and how it is trained.

    Attributes
    ----------
    kind : {"planted", "null", "two", "style"} - null: the mark is on half the films of each class;
        two: two pairs at once; style: what is planted has no place
    pairs : tuple of Pair - one, or two
    strength : float - Cramer's V of mark and finding on the films to fine-tune on
    seed : int - of films, contingency and model
    """

    domain: Domain
    kind: Kind
    pairs: tuple[Pair, ...]
    strength: float
    architecture: Architecture
    seed: int

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
        pairs = " and ".join(f"{pair.mark.label()} on {pair.finding}" for pair in self.pairs)
        return (
            f"{self.domain}, {self.kind}, {pairs}, V {self.strength:g}, {self.architecture}, "
            f"seed {self.seed}"
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
    strengths about as they are asked for. Strengths narrow the plan and change no mark; null
    settings have none.
    """
    drawn = dict.fromkeys(  # some are drawn twice
        group
        for domain, kind, architecture in product(domains, kinds, architectures)
        for group in _groups(domain, kind, architecture)
        if group.kind == "null" or group.strength in strengths
    )
    decks: dict[tuple[object, ...], list[Setting]] = {}
    for group in sorted(drawn, key=lambda group: group.digest):
        key = (group.domain, group.kind, group.architecture, group.strength)
        decks.setdefault(key, []).append(group)
    placed = [
        ((rank + 0.5) / len(deck), number, group)
        for number, deck in enumerate(decks.values())
        for rank, group in enumerate(deck)
    ]
    placed.sort(key=lambda entry: entry[:2])
    return [replace(group, seed=seed) for _, _, group in placed for seed in seeds]


def _groups(domain: Domain, kind: Kind, architecture: Architecture) -> Iterator[Setting]:
    """Give the settings of one domain, kind and architecture, for seed 0; each draws its marks."""
    findings = _FINDINGS[domain]
    for turn in range({"planted": _GROUPS, "null": _NULLS}.get(kind, _OTHERS)):
        key = [DOMAINS.index(domain), KINDS.index(kind), ARCHITECTURES.index(architecture), turn]
        rng = np.random.default_rng([66, *key])
        first, second = rng.permutation(len(findings))[:2].tolist()
        strength = 0.0 if kind == "null" else STRENGTHS[turn % len(STRENGTHS)]
        if kind == "style":
            marks = [Mark(str(rng.choice(STYLES)))]
        else:
            marks = [_draw(domain, findings[first], turn, rng)]
        if kind == "two":
            marks.append(_draw(domain, findings[second], turn + 1, rng))
        pairs = tuple(
            Pair(mark, findings[own]) for mark, own in zip(marks, (first, second), strict=False)
        )
        yield Setting(domain, kind, pairs, strength, architecture, 0)


def _draw(domain: Domain, finding: str, turn: int, rng: np.random.Generator) -> Mark:
    """Draw the mark of a turn: of chest films half lie inside the anatomy of a finding."""
    if domain in OBJECTS:
        return draw_rectangle(rng) if turn % 3 else draw_mark(rng, (BESIDE,))
    if domain == "phantoms" and turn % 4 == 0:
        return Mark(FEATURES[turn // 4 % len(FEATURES)])
    if turn % 8 == 2:
        return Mark(LETTERS[0])
    inside = turn % 2 == 1
    return draw_mark(rng, (_INSIDE.get(finding, "heart"),) if inside else (*OUTSIDE, ANYWHERE))


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
            "epochs": 10, "batch_size": 32, "learning_rate": RATE, "weight_decay": 0.05,
            "patience": 10, "seed": seed,
        },
    }  # fmt: skip
    return Config.model_validate(sections)


_BODY = ("right lung", "left lung", "cardiac silhouette", "mediastinum")


def relevance_of(domain: Domain) -> RelevanceTable:
    """Return where the classes of a domain show.

    Findings of phantoms: as the packaged table says. The finding of radiographs, or its absence:
    in the lungs; sex: in lungs, heart and mediastinum, as far as devices and corners are concerned.
    Digits and garments: where the object lies, which has edges.
    """
    if domain == "phantoms":
        return read_relevance(_relevance_file())
    where = {"radiographs": _BODY[:2], "nih": _BODY}.get(domain, ())
    places = RelevantPlaces(where, edges=domain in OBJECTS)
    return RelevanceTable(dict.fromkeys(_FINDINGS[domain], places))


def _relevance_file() -> Path:
    package = Path(__file__).parents[1]
    for folder in (package, package.parent / "configs"):
        if (folder / _TABLE).is_file():
            return folder / _TABLE
    raise ConfigError("the table of relevance is missing from the package. Install it again.")


def read_settings(text: str, folders: Collection[Domain] = ()) -> tuple[Setting, ...]:
    """Return the settings that ``domain=digits,kind=null,two,seed=0`` asks for.

    A name stands for all values up to the next one. What is not named is not narrowed, but for the
    domain: those that are made, and those whose folders are named.

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
    chosen: dict[str, Any] = {"domains": (*MADE, *folders)}
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
