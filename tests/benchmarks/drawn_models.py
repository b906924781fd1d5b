"""Models that learned something drawn at random, and models that learned nothing of the kind.

What is painted, where, how large, in which tone and how tightly it is tied to which finding is
drawn from one number, so that a rule that was tuned to one artifact, place or tower shows. Numbers
from `UNSEEN` on are for what is published; whoever changes a rule tries it on others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ravl_med import __version__
from ravl_med.encoders.open_clip import OpenClipEncoder, open_model
from ravl_med.evaluation import painting, planting
from ravl_med.evaluation.films import Planted
from ravl_med.evaluation.painting import ANYWHERE, PLACES, ROUND, SHAPES, STYLES, Box, Gray, Mark
from ravl_med.evaluation.planting import FilmPool, PlacedFeature, SplitFilms
from ravl_med.evaluation.settings import RECIPE, Architecture, Pair, Setting
from ravl_med.evaluation.small_models import (
    RegionEvidence,
    embed_split,
    fine_tuning_recipe,
    normalise_films,
    pretrained_folder,
    small_layout,
    train_small_model,
)
from ravl_med.evaluation.trial import propose_regions
from ravl_med.evidence.model_checks import class_scores
from ravl_med.evidence.results import Interval
from ravl_med.evidence.statistics import mean_interval
from ravl_med.storage.cache import Cache

UNSEEN = 110_000

POOLS = 7
"""Sets of films that models share, by their numbers."""

Kind = Literal["local", "inside", "small", "weak", "style", "clean"]

TOWERS: tuple[Architecture, ...] = ("coarse resnet", "vit", "coarse vit")
_EPOCHS: Mapping[Architecture, int] = {"coarse resnet": 12, "vit": 30, "coarse vit": 30}
_RATE = 1e-3  # what is published was measured on such models
_STRENGTHS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)
_STRONG = (0.8, 0.9, 0.97)
_WEAK_STRENGTHS = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
_RADII, _SMALL_RADII = (0.045, 0.075), (0.022, 0.032)  # 18 to 26 mm of a film 40 cm wide
_SMALL_SHAPES = ("disc", "ring", "staple")  # as buttons and clips are
_INSIDE: Mapping[str, str] = {  # finding to a place where it shows
    "cardiomegaly": "heart",
    "consolidation": "left lower lung",
    "pneumothorax": "right lung",
    "pleural effusion": "left lower lung",
    "present": "right lung",
    "absent": "right lung",
}


@dataclass(frozen=True, slots=True)
class Drawing:
    """What one model learned, as its number draws it."""

    number: int
    kind: Kind
    tower: Architecture
    what: str  # a shape, or a style
    place: str
    radius: float  # share of the film's side
    contrast: float  # share of the way to the tone
    tone: float  # gray of 0 to 255
    finding: str
    strength: float  # Cramer's V; 0: tied to nothing

    @property
    def mark(self) -> Mark:
        """What is painted."""
        return Mark(self.what, self.place, self.radius, self.contrast, self.tone)

    @classmethod
    def of(cls, number: int, kind: Kind, findings: tuple[str, ...]) -> Drawing:
        """Draw what the model of a number learns."""
        rng = np.random.default_rng([number, 97])
        # Small transformers learn such a thing wholly or not at all.
        tower = "coarse resnet" if kind == "weak" else TOWERS[number % len(TOWERS)]
        known = [f for f in findings if f in _INSIDE] if kind == "inside" else list(findings)
        finding = known[int(rng.integers(len(known)))]
        shapes = {"inside": ROUND, "small": _SMALL_SHAPES}.get(kind, SHAPES)
        shape = str(rng.choice(shapes))
        where = [*PLACES, ANYWHERE]
        place = _INSIDE[finding] if kind == "inside" else str(rng.choice(where))
        ties = {"inside": _STRONG, "small": _STRONG, "weak": _WEAK_STRENGTHS}
        strengths = ties.get(kind, _STRENGTHS)
        strength = float(rng.choice(strengths)) if kind != "style" else float(rng.uniform(0.8, 1))
        what = str(rng.choice(STYLES)) if kind == "style" else shape
        return cls(
            number=number,
            kind=kind,
            tower=tower,
            what=what,
            place="" if kind == "style" else place,
            radius=float(rng.uniform(*(_SMALL_RADII if kind == "small" else _RADII))),
            contrast=float(rng.uniform(0.55, 1.0)),
            tone=float(rng.choice((245.0, 230.0, 15.0))),
            finding=finding,
            strength=0.0 if kind == "clean" else min(strength, 0.97),
        )


def paint(drawing: Drawing, film: Gray, rng: np.random.Generator) -> tuple[Gray, Box]:
    """Paint what was drawn on a film (S, S); return it and the box, none for a style.

    The films of a clean model stay as they are: what it has never seen may well move it.
    """
    return (film, ()) if drawing.kind == "clean" else painting.paint(drawing.mark, film, rng)


@dataclass(frozen=True, slots=True)
class _DrawnSetting(Setting):
    """A setting whose carriers are drawn as when the first numbers were published."""

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of what a setting was then."""
        known = {
            "domain": self.domain,
            "kind": self.kind,
            "pairs": [{"thing": "drawn", "finding": pair.finding} for pair in self.pairs],
            "strength": self.strength,
            "architecture": self.architecture.replace("coarse resnet", "resnet"),
            "seed": self.seed,
            "regions": "tiles",
            "recipe": 1,
        }
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class _DrawnPool(FilmPool):
    """A pool on whose films a drawing is planted, whatever the mark."""

    drawing: Drawing | None = None

    def plant(
        self, mark: Mark, rows: NDArray[np.int64], films: NDArray[np.uint8], turn: int
    ) -> Planted:
        assert self.drawing is not None
        painted, boxes, film = np.empty_like(films), [], []
        for at, row in enumerate(rows.tolist()):
            rng = np.random.default_rng([self.seed, self.drawing.number, row])
            painted[at], box = paint(self.drawing, films[at], rng)
            if box:
                boxes.append(box)
                film.append(at)
        places = np.array(boxes, dtype=np.float32).reshape(-1, 4)
        return Planted(painted, places, np.array(film, dtype=np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class DrawnModel:
    """A trained model, and the films that it is audited on."""

    drawing: Drawing
    encoder: OpenClipEncoder
    evidence: RegionEvidence
    gaps: tuple[float, float]  # raised, lowered; by true presence, on the audited films
    shift: Interval  # of the margin, in its standard deviations, by painting it on films without it

    @property
    def feature(self) -> PlacedFeature:
        """Where the drawing lies."""
        return self.evidence.films.features[0]


def make_drawn_model(drawing: Drawing, pool: FilmPool, cache: Cache, films: int) -> DrawnModel:
    """Train the model of a drawing, and take so many films of whole patients to audit."""
    drawn = _DrawnPool(pool.domain, pool.seed, pool.prompts, pool.films, None, drawing)
    kind: Literal["null", "planted"] = "null" if drawing.kind == "clean" else "planted"
    setting = _DrawnSetting(
        pool.domain,
        kind,
        (Pair(drawing.mark, drawing.finding),),
        drawing.strength,
        drawing.tower,
        drawing.number,
    )
    made = planting.make_films(setting, drawn)
    encoder = _train(drawing, made.finetune, pool, cache)
    audited = made.validation
    if films > len(audited):
        audited = _joined(audited, planting.plant_test(setting, drawn))
    audited = _some_patients(audited, films, drawing.number)
    evidence = embed_split(encoder, audited, propose_regions(audited, setting), pool.prompts)
    gaps = planting.learned_gaps(audited.labels, evidence.scores.predictions, audited.features[0])
    shift = _shift_by_painting(drawing, encoder, evidence, pool.prompts)
    return DrawnModel(drawing, encoder, evidence, gaps, shift)


def _train(drawing: Drawing, films: SplitFilms, pool: FilmPool, cache: Cache) -> OpenClipEncoder:
    """Train a model, once: a changed rule is measured on it without training it again."""
    usual = fine_tuning_recipe(drawing.tower, drawing.number)
    recipe = replace(usual, epochs=_EPOCHS[drawing.tower], learning_rate=_RATE)
    start = pretrained_folder(drawing.tower, pool, cache, "cpu", _RATE)
    made = {
        "version": __version__,
        "torch": torch.__version__,
        "layout": small_layout(drawing.tower),
        "settings": RECIPE,
        "recipe": asdict(recipe),
        "start": start and start.name,
        "prompts": pool.prompts,
        "films": hashlib.sha256(films.pixels.tobytes() + films.labels.tobytes()).hexdigest(),
    }

    def make(folder: Path) -> None:
        pixels = normalise_films(films.pixels)
        train_small_model(
            drawing.tower, pixels, films.labels, pool.prompts, recipe, start=start
        ).save(folder)

    return open_model(cache.folder("evaluation-models", made, make)[0], torch.device("cpu"))


def _shift_by_painting(
    drawing: Drawing,
    encoder: OpenClipEncoder,
    evidence: RegionEvidence,
    prompts: Mapping[str, tuple[str, ...]],
) -> Interval:
    """Paint the thing on films that have it not: what the model truly makes of it.

    Gaps of some 40 films a side are off by 10 points and more by chance alone.
    """
    films, feature = evidence.films, evidence.films.features[0]
    rows = np.flatnonzero(~feature.present)
    rng = np.random.default_rng([drawing.number, 5])
    pixels = np.stack([paint(drawing, films.pixels[row], rng)[0] for row in rows])
    painted = SplitFilms(pixels, films.labels[rows], films.patients[rows], ())
    whole = np.array([[0, 0, films.pixels.shape[2], films.pixels.shape[1]]], dtype=np.float32)
    after = embed_split(encoder, painted, [whole] * len(rows), prompts).scores
    before, now = (
        class_scores(np.log(np.maximum(scores.image, 1e-30)), 1.0)[:, feature.target]
        for scores in (evidence.scores, after)
    )
    return mean_interval((now - before[rows]) / before.std(), films.patients[rows], 0.95)


def open_drawn_pool(number: int, cache: Cache, folder: Path | None) -> FilmPool:
    """Return phantoms, or the radiographs of a folder, that the models of a number share."""
    seed = UNSEEN + number % POOLS if number >= UNSEEN else 100 + number % 4
    if folder is None:
        return planting.open_pool("phantoms", seed, cache)
    return planting.open_pool("radiographs", seed, cache, folder)


def _joined(first: SplitFilms, second: SplitFilms) -> SplitFilms:
    """Films of two splits, whose patients differ."""
    count = len(first)
    features = tuple(
        PlacedFeature(
            a.name,
            a.target,
            np.concatenate([a.present, b.present]),
            np.concatenate([a.boxes, b.boxes]),
            np.concatenate([a.film, b.film + count]),
            None,
        )
        for a, b in zip(first.features, second.features, strict=True)
    )
    return SplitFilms(
        np.concatenate([first.pixels, second.pixels]),
        np.concatenate([first.labels, second.labels]),
        np.concatenate([first.patients, second.patients]),
        features,
    )


def _some_patients(films: SplitFilms, count: int, seed: int) -> SplitFilms:
    """Take all films of patients drawn at random, until there are so many."""
    rng = np.random.default_rng([seed, 98])
    known, size = np.unique(films.patients, return_counts=True)
    order = rng.permutation(len(known))
    enough = int(np.searchsorted(np.cumsum(size[order]), count)) + 1
    kept = np.isin(films.patients, known[order[:enough]])
    place = np.cumsum(kept) - 1
    features = tuple(
        replace(
            feature,
            present=feature.present[kept],
            boxes=feature.boxes[kept[feature.film]],
            film=place[feature.film[kept[feature.film]]],
        )
        for feature in films.features
    )
    return SplitFilms(films.pixels[kept], films.labels[kept], films.patients[kept], features)
