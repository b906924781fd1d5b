"""Films of every domain without any mark: objects, radiographs that the user names, phantoms.

Every film is a square of `SIDE` pixels; all films of a patient have one class and lie in one split.
Digits and drawn garments lie in one of four quadrants, as RaVL plants its rectangle: scikit-learn
brings 1,797 small digits along, garments are silhouettes of the classes of FashionMNIST, and MNIST,
or what is stored like it, is read from IDX files. Some objects make two films, at two places. Of
radiographs the most frequent finding against all others is the task, of films of the NIH the
patient's sex; there are few such films, so each patient makes as many as any other, in another
exposure and a little aside each time, and copies of one film never lie on both sides. A phantom is
rendered once without a device and once with each, with the same body, pose and noise.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ravl_med import __version__
from ravl_med.cohort.image_file import read_raster
from ravl_med.errors import ConfigError, ImageError
from ravl_med.evaluation.settings import GARMENTS
from ravl_med.evidence.counterfactual.localisation import grow_mask
from ravl_med.phantoms.cohort import render_film
from ravl_med.phantoms.film import FINDINGS, Phantom
from ravl_med.phantoms.plan import SPLITS, FilmPlan, plan_cohort
from ravl_med.regions.film_structures import FilmStructures
from ravl_med.storage.cache import Cache

SIDE = 96
"""Side of a film in pixels."""

FINETUNE, VALIDATION, TEST, PRETRAIN = 0, 1, 2, 3
"""Splits: to fine-tune on, to audit, for the final test of a mitigation, and to pre-train on."""


@dataclass(frozen=True, slots=True, eq=False)
class PoolFilms:
    """N films without a feature; a patient has films of one class, in one split."""

    pixels: NDArray[np.uint8]  # (N, SIDE, SIDE)
    labels: NDArray[np.int64]  # (N,)
    patients: NDArray[np.int64]  # (N,)
    split: NDArray[np.int64]  # (N,), `FINETUNE`, `VALIDATION`, `TEST` or `PRETRAIN`

    def rows(self, split: int) -> NDArray[np.int64]:
        """Return the films of a split."""
        return np.flatnonzero(self.split == split).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Planted:
    """n films with a feature on them, and where it lies, with one box or more a film."""

    pixels: NDArray[np.uint8]  # (n, S, S)
    boxes: NDArray[np.float32]  # (M, 4), xyxy in pixels, half-open
    film: NDArray[np.int64]  # (M,), 0 .. n - 1, ascending
    masks: NDArray[np.bool_] | None = None  # (n, S, S), of the lines that belong to it


def deal_splits(
    patients: NDArray[np.int64],
    labels: NDArray[np.int64],
    shares: tuple[float, float],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Deal whole patients out to the splits, class by class: the split of each film, (N,).

    Shares are those of the patients of each class to audit and to test; the rest is to fine-tune
    on.
    """
    known, first = np.unique(patients, return_index=True)
    dealt = np.full(int(known.max()) + 1, FINETUNE, dtype=np.int64)
    for label in np.unique(labels):
        own = rng.permutation(known[labels[first] == label])
        audited = round(shares[0] * len(own))
        dealt[own[:audited]] = VALIDATION
        dealt[own[audited : audited + round(shares[1] * len(own))]] = TEST
    split: NDArray[np.int64] = dealt[patients]
    return split


def set_aside(films: PoolFilms, share: float, rng: np.random.Generator) -> PoolFilms:
    """Set a share of the patients to fine-tune on aside, to pre-train on."""
    rows = films.rows(FINETUNE)
    dealt = deal_splits(films.patients[rows], films.labels[rows], (share, 0.0), rng)
    split = films.split.copy()
    split[rows[dealt == VALIDATION]] = PRETRAIN
    return replace(films, split=split)


_DIGIT_SHARES = (0.3, 0.25)
_DIGITS, _DIGIT_FILMS = 1797, 2200
_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
_MAGIC = {_FILES[0]: 2051, _FILES[1]: 2049}


def read_bundled_digits(seed: int) -> PoolFilms:
    """Return films of the digits that come with scikit-learn (8 x 8 pixels, grey of 0 to 16)."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 8, 8) * 255.0 / 16.0).astype(np.uint8)
    return _lay_out(images, labels.astype(np.int64), seed)


def read_idx_digits(folder: Path, seed: int) -> PoolFilms:
    """Return films of some of the digits of MNIST, or of what is stored like it.

    Raises
    ------
    ConfigError
        A file is missing or is not what it should be.
    """
    images, labels = (_read_idx(folder, name) for name in _FILES)
    if images.ndim != 3 or len(images) != len(labels) or len(images) < 100 or labels.max() > 9:
        raise ConfigError(
            f"--films: {_FILES[0]} holds {len(images)} images and {_FILES[1]} {len(labels)} labels;"
            " expected as many of both, at least 100, and labels of 0 to 9."
        )
    chosen = np.random.default_rng([seed, 40]).permutation(len(images))[:_DIGITS]
    return _lay_out(images[chosen], labels[chosen].astype(np.int64), seed)


def _lay_out(images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int) -> PoolFilms:
    """Put each digit into a quadrant of its own film; some digits make two films."""
    rng = np.random.default_rng([seed, 41])
    patients = np.concatenate([np.arange(len(images)), rng.permutation(len(images))])[:_DIGIT_FILMS]
    patients = np.sort(patients).astype(np.int64)
    split = deal_splits(patients, labels[patients], _DIGIT_SHARES, rng)
    pixels = np.zeros((len(patients), SIDE, SIDE), dtype=np.uint8)
    half = SIDE // 2
    for film, patient in zip(pixels, patients, strict=True):
        size = int(rng.uniform(0.34, 0.43) * SIDE)
        gray = Image.fromarray(images[patient])
        digit = np.asarray(gray.resize((size, size), Image.Resampling.BICUBIC))
        x, y = rng.integers(0, 2, 2) * half + rng.integers(2, half - size - 2, 2)
        film[y : y + size, x : x + size] = digit
        film[:] = np.clip(film + rng.normal(6, 4, film.shape), 0, 255)
    return PoolFilms(pixels, labels[patients], patients, split)


_INK = 40  # gray from which a pixel is ink, above the noise of the films
_RIM = 0.02  # of a film's side, around an object


@dataclass(frozen=True, slots=True, eq=False)
class ObjectStructures(FilmStructures):
    """The object of a film as its only anatomy, and all other ink as artifacts."""

    def region(self, names: Sequence[str]) -> NDArray[np.bool_] | None:
        """Return where the object lies, (S, S), whatever the names."""
        return self.anatomy["object"]


def read_object(plain: NDArray[np.uint8], film: NDArray[np.uint8]) -> ObjectStructures:
    """Take a film (S, S) apart: the object where the film without marks has it, and other ink."""
    there = grow_mask(plain > _INK, _RIM)
    other = (film > _INK) & ~there
    return ObjectStructures({"object": there}, (), other, np.zeros_like(other))


def draw_garments(seed: int) -> PoolFilms:
    """Return films of drawn silhouettes of `GARMENTS`, as many of each; no two are alike."""
    rng = np.random.default_rng([seed, 43])
    labels = np.arange(_DIGITS, dtype=np.int64) % len(GARMENTS)
    images = np.stack([_garment(GARMENTS[label], rng) for label in labels])
    return _lay_out(images, labels, seed)


_OUTLINES: Mapping[str, tuple[tuple[float, float], ...]] = {  # right half, or all of a side view
    "t-shirt": ((0, 2), (3, 1), (9, 5), (8, 8), (5, 7), (5, 18), (0, 18)),
    "trousers": ((0, 1), (5, 1), (6, 19), (2, 19), (1, 7), (0, 7)),
    "pullover": ((0, 2), (3, 1), (8, 4), (9, 17), (6.5, 17), (5.5, 8), (5, 18), (0, 18)),
    "dress": ((0, 3), (2, 1), (3, 1), (3, 7), (8, 19), (0, 19)),
    "coat": ((0.6, 3), (3, 0), (8, 4), (9, 16), (6.8, 16), (6, 9), (6, 19.5), (0.6, 19.5)),
    "sandal": ((-9, 14), (-3, 11), (-3, 9), (3, 12), (9, 14), (9, 16), (-9, 16)),
    "shirt": ((0, 3), (2, 1), (9, 4), (8.5, 11), (6, 11), (5, 6), (5.5, 19), (0, 19)),
    "sneaker": ((-9, 9), (-5, 8), (-2, 11), (6, 12), (9, 14), (9, 17), (-9, 17)),
    "bag": ((0, 3), (3, 3), (4, 7), (9, 7), (8, 18), (0, 18), (0, 7), (2.6, 7), (2, 4.6), (0, 4.6)),
    "boot": ((-8, 2), (-1, 2), (-1, 11), (6, 12), (9, 15), (9, 18), (-8, 18)),
}
_SIDE_VIEWS = ("sandal", "sneaker", "boot")


def _garment(name: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a silhouette of another cut, cloth and turn each time, (28, 28)."""
    right = np.array(_OUTLINES[name], dtype=np.float64)
    right = right * rng.uniform(0.85, 1.1, 2) + rng.normal(0, 0.35, right.shape)
    if name in _SIDE_VIEWS:
        outline = right * np.array([rng.choice((-1.0, 1.0)), 1.0])
    else:
        outline = np.concatenate([right, (right * np.array([-1.0, 1.0]))[::-1]])
    angle = rng.normal(0, 0.07)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    path = (outline - np.array([0.0, 10.0])) @ turn * 1.25 + 14.0
    sheet = Image.new("L", (112, 112))
    ImageDraw.Draw(sheet).polygon([tuple(point) for point in 4 * path], fill=255)
    shape = np.asarray(sheet.resize((28, 28), Image.Resampling.BOX), dtype=np.float64) / 255.0
    down, across = np.mgrid[:28, :28]
    way, step = rng.uniform(0, np.pi), rng.uniform(0.5, 2.0)
    weave = np.sin(step * (np.cos(way) * across + np.sin(way) * down))
    cloth = rng.uniform(120, 220) + rng.uniform(5, 35) * weave + rng.normal(0, 6, shape.shape)
    drawn: NDArray[np.uint8] = np.clip(shape * cloth, 0, 255).astype(np.uint8)
    return drawn


def _read_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped or not."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            break
    else:
        raise ConfigError(f"--films: the folder has no {name}; expected it, or {name}.gz.")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix else path.read_bytes()
        head = np.frombuffer(content[:16], dtype=">u4")
        dimensions = 3 if name == _FILES[0] else 1
        shape = [int(size) for size in head[1 : 1 + dimensions]]
        values = np.frombuffer(content[4 * (1 + dimensions) :], dtype=np.uint8).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError):
        raise ConfigError(f"--films: {path.name} is not an IDX file of bytes.") from None
    if int(head[0]) != _MAGIC[name]:
        raise ConfigError(f"--films: {path.name} is not an IDX file of bytes.")
    return values


_RADIOGRAPH_SHARES, _NIH_SHARES = (0.4, 0.15), (0.35, 0.25)
_RADIOGRAPH_FILMS = 1600
_LEAST = 20  # patients of each class
_COLUMNS = ("patientid", "finding", "filename")
_FRONTAL = ("PA", "AP")
_GROWN = 1.14  # films are kept this much larger, so that they can be moved


def read_radiographs(folder: Path, seed: int) -> PoolFilms:
    """Return films of the radiographs in a folder, with ``metadata.csv`` and ``images/``.

    The columns of the table are patientid, finding, filename and, if there is one, view.

    Raises
    ------
    ConfigError
        The table is missing or lacks a column; too few patients of either class can be read.
    """
    table = _read_table(folder / "metadata.csv", _COLUMNS)
    if "view" in table:
        table = table[table["view"].str.startswith(_FRONTAL)]
    table = table[(table["finding"] != "") & (table["filename"] != "")]
    if table.empty:
        raise ConfigError("--films: metadata.csv lists no frontal film with a finding.")
    kinds = table["finding"].str.split(",").str[0].str.strip()
    label_of = dict(zip(table["patientid"], (kinds != kinds.mode()[0]).astype(int), strict=True))
    kept, owners = _read_films(folder / "images", table["filename"], table["patientid"])
    return _copy_films(
        kept,
        owners,
        label_of,
        ("the most frequent finding", "other findings"),
        _RADIOGRAPH_SHARES,
        [seed, 42],
    )


_NIH_COLUMNS = ("file", "patient", "sex")


def read_nih(folder: Path, seed: int) -> PoolFilms:
    """Return films of women and men from a folder with ``films.csv`` and ``films/``.

    The columns of the table are file, patient and sex (F, M), one row a film.

    Raises
    ------
    ConfigError
        The table is missing or lacks a column; too few patients of either sex can be read.
    """
    table = _read_table(folder / "films.csv", _NIH_COLUMNS)
    table = table[table["sex"].isin(("F", "M"))]
    label_of = dict(zip(table["patient"], (table["sex"] == "M").astype(int), strict=True))
    kept, owners = _read_films(folder / "films", table["file"], table["patient"])
    return _copy_films(kept, owners, label_of, ("sex F", "sex M"), _NIH_SHARES, [seed, 44])


def _copy_films(
    kept: Sequence[NDArray[np.uint8]],
    owners: Sequence[str],
    label_of: Mapping[str, int],
    names: tuple[str, str],
    shares: tuple[float, float],
    seed: Sequence[int],
) -> PoolFilms:
    """Make as many films of each patient, and deal whole patients out."""
    known, of_film = np.unique(np.array(owners, dtype=str), return_inverse=True)
    label = np.array([label_of[owner] for owner in known], dtype=np.int64)
    count = np.bincount(label, minlength=2)
    if count.min() < _LEAST:
        raise ConfigError(
            f"--films: frontal films of {count[0]} patients with {names[0]} and of {count[1]} "
            f"with {names[1]} can be read; expected {_LEAST} each."
        )
    rng = np.random.default_rng(seed)
    copies = -(-_RADIOGRAPH_FILMS // len(known))
    patients = np.repeat(np.arange(len(known), dtype=np.int64), copies)
    own = [np.flatnonzero(of_film == patient) for patient in range(len(known))]
    turns = np.tile(np.arange(copies), len(known))
    pixels = np.stack(
        [
            _expose(kept[own[patient][turn % len(own[patient])]], rng)
            for patient, turn in zip(patients, turns, strict=True)
        ]
    )
    labels = label[patients]
    return PoolFilms(pixels, labels, patients, deal_splits(patients, labels, shares, rng))


def _read_films(
    folder: Path, files: Iterable[str], owners: Iterable[str]
) -> tuple[list[NDArray[np.uint8]], list[str]]:
    """Read what of some films can be read, and whose they are."""
    read = [
        (_read_film(folder / Path(name).name), own) for name, own in zip(files, owners, strict=True)
    ]
    return [film for film, _ in read if film is not None], [
        owner for film, owner in read if film is not None
    ]


def _read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise ConfigError(f"--films: the folder has no {path.name}.") from None
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise ConfigError(
            f"--films: {path.name} cannot be read ({type(error).__name__})."
        ) from None
    missing = [name for name in columns if name not in table]
    if missing:
        raise ConfigError(
            f"--films: {path.name} has no column {missing[0]!r}; expected {', '.join(columns)}."
        )
    return table.reset_index(drop=True)


def _read_film(path: Path) -> NDArray[np.uint8] | None:
    """Film squashed to a square that is a little larger than `SIDE`; None where unreadable."""
    try:
        pixels, _ = read_raster(path)
    except ImageError:
        return None
    side = round(_GROWN * SIDE)
    gray = Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
    squashed: NDArray[np.uint8] = np.asarray(gray.resize((side, side), Image.Resampling.BICUBIC))
    return squashed


def _expose(film: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Cut a square of `SIDE` out of a film and expose it anew."""
    room = len(film) - SIDE
    y, x = rng.integers(0, room + 1, 2)
    cut = film[y : y + SIDE, x : x + SIDE].astype(np.float32)
    exposed = cut * rng.uniform(0.88, 1.06) + rng.uniform(0, 10) + rng.normal(0, 2.0, cut.shape)
    gray: NDArray[np.uint8] = np.clip(exposed, 0, 255).astype(np.uint8)
    return gray


_PHANTOMS = 2200  # 1000 to fine-tune on, 600 to audit, 600 to test
_LINES = {"tube": "tube", "generator": "lead", "electrode": "wire"}
"""Things of which a line is a part, or that are one: its pixels count beside the boxes."""


@dataclass(frozen=True, slots=True, eq=False)
class PhantomLayer:
    """All films of a seed with one feature, or with none: then `planted` has no boxes."""

    films: PoolFilms
    planted: Planted


def planted_phantom_layer(feature: str, seed: int, cache: Cache) -> PhantomLayer:
    """Return the films of a seed with a feature of phantoms, from the cache or newly rendered.

    A blank name stands for no feature.
    """
    recipe = {
        "version": __version__,
        "films": _PHANTOMS,
        "side": SIDE,
        "seed": seed,
        "thing": feature,
    }
    folder, _ = cache.folder("evaluation-films", recipe, partial(_write_layer, feature, seed))

    def load(name: str) -> NDArray[Any]:
        values: NDArray[Any] = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return values

    pixels = load("pixels")
    films = PoolFilms(pixels, load("labels"), load("patients"), load("split"))
    masks = None
    if feature in _LINES:
        masks = np.unpackbits(load("masks"), axis=-1).astype(np.bool_)
    return PhantomLayer(films, Planted(pixels, load("boxes"), load("film"), masks))


def _write_layer(feature: str, seed: int, folder: Path) -> None:
    for name, values in render_planted_films(feature, seed, _PHANTOMS).items():
        np.save(folder / f"{name}.npy", values, allow_pickle=False)


def render_planted_films(feature: str, seed: int, films: int) -> dict[str, NDArray[Any]]:
    """Render the phantoms of a setting with a planted feature, or with none where it is blank.

    Returned are the arrays of `PoolFilms` and `Planted`; masks are packed along the last axis.
    """
    plans = plan_cohort(films, "generator", FINDINGS[0], 0.0, seed)
    plans = [replace(plan, features=(feature,) if feature else ()) for plan in plans]
    parts = [plans[i : i + 50] for i in range(0, len(plans), 50)]
    work = partial(_render_part, feature=feature, seed=seed)
    if films < 200:
        done = [work(part) for part in parts]
    else:  # as many as the machine has: a film takes 8 ms
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            done = list(pool.map(work, parts))
    places = np.concatenate([box for _, boxes, _ in done for box in boxes])
    counts = [len(box) for _, boxes, _ in done for box in boxes]
    splits = list(SPLITS)
    return {
        "pixels": np.concatenate([pixels for pixels, _, _ in done]),
        "labels": np.array([FINDINGS.index(plan.finding) for plan in plans], dtype=np.int64),
        "patients": np.array([plan.acquisition.patient - 1 for plan in plans], dtype=np.int64),
        "split": np.array([splits.index(plan.split) for plan in plans], dtype=np.int64),
        "boxes": places.astype(np.float32),
        "film": np.repeat(np.arange(films, dtype=np.int64), counts),
        "masks": np.packbits(np.concatenate([masks for _, _, masks in done]), axis=-1),
    }


def _render_part(
    plans: Sequence[FilmPlan], *, feature: str, seed: int
) -> tuple[NDArray[np.uint8], list[NDArray[np.float64]], NDArray[np.bool_]]:
    """Pixels, boxes film by film, and masks of some films."""
    pixels = np.empty((len(plans), SIDE, SIDE), dtype=np.uint8)
    masks = np.zeros((len(plans), SIDE, SIDE), dtype=np.bool_)
    boxes = []
    for row, plan in enumerate(plans):
        phantom = render_film(plan, seed=seed, size=SIDE)
        height, width = phantom.pixels.shape
        gray = Image.fromarray(np.rint(phantom.pixels * 255).astype(np.uint8))
        pixels[row] = np.asarray(gray.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        stretch = np.array([SIDE / width, SIDE / height, SIDE / width, SIDE / height])
        boxes.append(_boxes(phantom, feature) * stretch)
        line = phantom.structures.get(_LINES.get(feature, ""))
        if line is not None:
            mask = Image.fromarray(line)
            masks[row] = np.asarray(mask.resize((SIDE, SIDE), Image.Resampling.NEAREST))
    return pixels, boxes, masks


def _boxes(phantom: Phantom, feature: str) -> NDArray[np.float64]:
    own = [box[1:] for box in phantom.boxes if box[0] == feature != _LINES.get(feature)]
    return np.array(own, dtype=np.float64).reshape(-1, 4)
