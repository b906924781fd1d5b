"""Training of the built-in segmenter: on phantoms, and on real films that may be trained on.

The fine network learns objects from phantoms and from real films without any that are painted on,
from such films as they are, and from real films whose objects are boxed: compact boxes are filled,
and where lines lie on these films is not known. The coarse network learns anatomy from phantoms,
then from its own answers on real films, where they hold under augmentation. MONAI's transforms vary
pose, exposure and sharpness as a film is shown. Films of a third of the training patients that show
nothing made by man are kept from training: with the validation films, they set the thresholds.

References
----------
Lee, Pseudo-label, ICML workshop 2013; Billot et al., SynthSeg, Medical Image Analysis 2023.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from monai.losses.dice import DiceLoss
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandBiasFieldd,
    RandGaussianNoised,
    RandGaussianSharpend,
    RandGaussianSmoothd,
    RandHistogramShiftd,
)
from monai.transforms.spatial.dictionary import RandAffined, RandFlipd
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from ravl_med.regions.segmenter import (
    ANY,
    COARSE,
    COMPACT,
    FINE,
    FINE_SIDE,
    LETTERS,
    LINES,
    MIRRORED,
    OBJECTS,
    SIDE,
    STRUCTURES,
    BuiltInSegmenter,
    FineLayout,
    make_coarse_network,
    normalise_films,
)
from tests.benchmarks.boxed_films import Box, BoxedFilm, read_boxed_films
from tests.benchmarks.calibrate_segmenter import choose_thresholds
from tests.benchmarks.followed_lines import draw_lines
from tests.benchmarks.painted_objects import Masks, no_masks, paint_objects
from tests.benchmarks.training_films import draw_training_film

Progress = Callable[[str, int, int], None]

_BATCH = 8
_COARSE_RATE = 3e-3
_CLEAN = 3.0  # weight of a film on which nothing is, against bones and gas that look like wires
_RARE = 20.0  # weight of a pixel that is something's
_ENTROPY, _SMOOTH = 3.0, 30.0  # weight of the cross-entropy beside the overlap; pixels
_LEAST_THERE = 500.0  # pixels of a kind in a batch, so that a batch without any counts little
_WIDE = {"lead": 3, "tube": 5, "wire": 3}  # pixels of a line that is followed
_KEPT_BACK = 3  # one of so many training patients with clean films calibrates


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """A film with what is known of it."""

    film: NDArray[np.uint8]  # (S, S)
    masks: NDArray[np.uint8]  # (K, S, S / 8), packed
    known: NDArray[np.bool_]  # (K,), else only what is marked is known
    empty: NDArray[np.uint8]  # (S, S / 8), packed: where no line is, though lines are not known
    weight: float = 1.0


def keeps_back(film: BoxedFilm) -> bool:
    """Return whether a film is kept from training, to calibrate."""
    return film.clean and sum(map(ord, film.patient)) % _KEPT_BACK == 0


def _shrunk(film: BoxedFilm, side: int) -> NDArray[np.float32]:
    small = cv2.resize(film.read(), (side, side), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small, dtype=np.float32)


def _lesson(
    pixels: NDArray[np.float32],
    masks: Masks,
    *,
    loose: Collection[str] = (),
    empty: NDArray[np.bool_] | None = None,
    weight: float = 1.0,
) -> Lesson:
    """Put a film (S, S) and its masks together; of `loose` kinds only what is marked is known."""
    for name, kinds in ANY.items():
        masks[name] = np.any([masks[kind] for kind in kinds], axis=0)
    known = [loose_of(name).isdisjoint(loose) for name in FINE]
    return Lesson(
        np.rint(255 * np.clip(pixels, 0.0, 1.0)).astype(np.uint8),
        np.packbits(np.stack([masks[name] for name in FINE]), axis=-1),
        np.array(known),
        np.packbits(np.zeros(pixels.shape, np.bool_) if empty is None else empty, axis=-1),
        weight,
    )


def loose_of(name: str) -> set[str]:
    """Return the kinds of which all must be known for a structure to be known."""
    return {name, *ANY.get(name, ())}


def _rows(box: Box, side: int) -> tuple[slice, slice]:
    x0, y0, x1, y1 = (round(edge * side) for edge in box.xyxy)
    return slice(max(y0, 0), max(y1, y0 + 1)), slice(max(x0, 0), max(x1, x0 + 1))


def box_masks(film: BoxedFilm, side: int) -> Masks:
    """Fill the boxes of compact objects by ellipses, those of letters whole; (S, S) by kind."""
    masks = no_masks((side, side))
    for box in film.boxes:
        down, across = _rows(box, side)
        if box.kind in LETTERS:
            masks[box.kind][down, across] = True
        elif box.kind in COMPACT:
            high, wide = down.stop - down.start, across.stop - across.start
            y, x = np.ogrid[:high, :wide]
            u, v = (x + 0.5) / wide - 0.5, (y + 0.5) / high - 0.5
            masks[box.kind][down, across] |= (u * u + v * v <= 0.25)[
                : side - down.start, : side - across.start
            ]
    return masks


def _phantom_lesson(seed: int) -> Lesson:
    film, masks = draw_training_film(seed, FINE_SIDE)
    named = {name: masks[STRUCTURES.index(name)] for name in OBJECTS}
    return _lesson(film.astype(np.float32) / 255.0, named)


def _painted_lesson(film: BoxedFilm, seed: int) -> Lesson:
    """Paint on a clean film, or on one of which it is known what kinds are on it, not where."""
    pixels = _shrunk(film, FINE_SIDE)
    masks = paint_objects(pixels, np.random.default_rng([37, seed]))
    known = _add_letters(masks, film)
    return _lesson(pixels, masks, loose={*(() if known else LETTERS), *(film.listed or ())})


def _clean_lesson(film: BoxedFilm) -> Lesson:
    masks = box_masks(film, FINE_SIDE)
    loose = () if _add_letters(masks, film) or film.boxed else LETTERS
    return _lesson(_shrunk(film, FINE_SIDE), masks, loose=loose, weight=_CLEAN)


def _add_letters(masks: Masks, film: BoxedFilm) -> bool:
    """Add the letters of a film, where they were boxed by eye; return whether they were."""
    found = _read_letters().get(film.image.name, [])
    for kind, down, across in found:
        masks[kind][down, across] = True
    return bool(found)


@cache
def _read_letters() -> dict[str, list[tuple[str, slice, slice]]]:
    """Read the boxes of letters of each film: kind, rows and columns on the fine side."""
    boxes: dict[str, list[tuple[str, slice, slice]]] = {}
    with LETTER_BOXES.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            x0, y0, x1, y1 = (
                round(float(row[edge]) * FINE_SIDE / _OUTLINED) for edge in ("x0", "y0", "x1", "y1")
            )
            boxes.setdefault(row["file"], []).append((row["kind"], slice(y0, y1), slice(x0, x1)))
    return boxes


def boxed_lesson(film: BoxedFilm, seed: int, *, painted: bool) -> Lesson:
    """Return a film with boxes as a lesson, with more objects painted on it or as it is."""
    pixels, masks = _shrunk(film, FINE_SIDE), box_masks(film, FINE_SIDE)
    pieces = [(box.kind, *_rows(box, FINE_SIDE)) for box in film.boxes if box.kind in LINES]
    drawn, empty = draw_lines(pixels, pieces, _WIDE)
    masks |= drawn
    if painted:
        for name, mask in paint_objects(pixels, np.random.default_rng([41, seed])).items():
            masks[name] |= mask
    lines = LINES if film.listed is None else film.listed & {*LINES}
    return _lesson(pixels, masks, loose=lines, empty=empty)


@dataclass(frozen=True, slots=True)
class Round:
    """Lessons that are drawn anew, and how long and how hard they are learned."""

    seed: int  # besides that of the recipe
    phantoms: float  # of those that are asked for
    steps: float
    rate: float
    warm: float  # share of the steps in which the rate rises
    mix: tuple[int, int, int, int]  # films of a batch: phantoms, painted, clean, boxed
    side: int  # pixels of a film that a step shows
    seeking: bool  # what is missed costs more than what is found where nothing is


# Crops first, for their speed; then whole films, since networks normalise by all that they see.
_OBJECT_ROUNDS = (
    Round(0, 1.0, 1.0, 4e-3, 0.3, (3, 2, 1, 2), 256, seeking=True),
    Round(5, 0.75, 0.75, 3e-3, 0.05, (2, 3, 1, 2), 256, seeking=False),
    Round(7, 0.5, 0.35, 2e-3, 0.05, (1, 1, 1, 1), FINE_SIDE, seeking=False),
    Round(9, 0.5, 0.5, 2e-3, 0.05, (1, 1, 1, 1), FINE_SIDE, seeking=False),
)
_LINE = FINE.index("line")


def train_objects(
    films: Sequence[BoxedFilm],
    *,
    phantoms: int,
    steps: int,
    seed: int,
    progress: Progress,
    kept: Path | None = None,
) -> nn.Module:
    """Train the fine network, round by round; `films` are those of the training patients.

    What a round learned lies in the folder `kept`, if one is given, and is not learned again.
    """
    torch.manual_seed(seed)
    network = FineLayout().make()
    for number, one in enumerate(_OBJECT_ROUNDS):
        state = kept / f"objects-{number + 1}.safetensors" if kept is not None else None
        if state is not None and state.is_file():
            network.load_state_dict(load_file(state))
            continue
        pools = _object_lessons(films, round(one.phantoms * phantoms), one, seed, progress)
        _learn_objects(network, pools, round(one.steps * steps), one, seed, progress)
        if state is not None:
            save_file({k: v.contiguous() for k, v in network.state_dict().items()}, state)
    return network


def _object_lessons(
    films: Sequence[BoxedFilm], phantoms: int, one: Round, seed: int, progress: Progress
) -> list[list[Lesson]]:
    """Return the lessons of a round: phantoms, painted films, clean ones, boxed ones."""
    clean = [film for film in films if film.clean and not keeps_back(film)]
    boxed = [film for film in films if film.boxed and not film.clean]
    listed = [film for film in films if not film.clean and not film.boxed and film.listed]
    known = clean + listed
    first = 1_000_003 * (seed + one.seed)
    drawn, painted = [], []
    for number in range(phantoms):
        drawn.append(_phantom_lesson(first + number))
        progress("draw phantoms", number + 1, phantoms)
    for number in range(2 * phantoms):
        painted.append(_painted_lesson(known[number % len(known)], first + number))
        progress("paint films", number + 1, 2 * phantoms)
    again = [
        boxed_lesson(
            boxed[number % len(boxed)],
            10_000 * one.seed + number,
            painted=number >= 2 * len(boxed),
        )
        for number in range(4 * len(boxed))
    ]
    return [
        pool for pool in (drawn, painted, [_clean_lesson(film) for film in clean], again) if pool
    ]


def _learn_objects(
    network: nn.Module,
    pools: Sequence[Sequence[Lesson]],
    steps: int,
    one: Round,
    seed: int,
    progress: Progress,
) -> None:
    batches = _batches(pools, one.mix, seed + one.seed, one.side)

    def loss_of(network: nn.Module) -> Tensor:
        lessons, shown, wanted, empty = next(batches)
        known = torch.from_numpy(np.stack([lesson.known for lesson in lessons])).float()
        counts = torch.maximum(known[:, :, None, None], wanted)
        counts[:, _LINE] = torch.maximum(counts[:, _LINE], empty)
        weight = torch.tensor([lesson.weight for lesson in lessons])
        loss = _seeking_loss if one.seeking else _judging_loss
        return loss(_answers(network, shown), wanted, counts, weight)

    _descend(network, loss_of, steps, "train objects", progress, one.rate, one.warm)


def _answers(network: nn.Module, shown: Tensor) -> Tensor:
    # Half of the time of a step in full precision, where the processor knows bfloat16.
    with torch.autocast("cpu", torch.bfloat16):
        logits: Tensor = network(normalise_films(shown))
    return logits.float()


def _descend(
    network: nn.Module,
    loss_of: Callable[[nn.Module], Tensor],
    steps: int,
    name: str,
    progress: Progress,
    rate: float,
    warm: float = 0.3,
) -> None:
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=max(steps, 2), pct_start=warm
    )
    network.train()
    for step in range(steps):
        loss = loss_of(network)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        progress(name, step + 1, steps)
    network.eval()


def _seeking_loss(logits: Tensor, wanted: Tensor, counts: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy, and the overlap of what is there, film by film.

    An object covers a thousandth of a film: without the weight of its pixels the network learns
    for long that nothing is anywhere. What is found where nothing is costs little.
    """
    entropy = functional.binary_cross_entropy_with_logits(
        logits, wanted, reduction="none", pos_weight=torch.tensor(_RARE)
    )
    entropy = (entropy * counts * weight[:, None, None, None]).mean()
    likely = logits.sigmoid() * counts
    there = wanted.sum((2, 3))
    common = 2.0 * (likely * wanted).sum((2, 3)) + _SMOOTH
    overlap = 1.0 - common / ((likely**2).sum((2, 3)) + there + _SMOOTH)
    shown = (there > 0).float()
    return _ENTROPY * entropy + (overlap * shown).sum() / shown.sum().clamp(min=1.0)


def _judging_loss(logits: Tensor, wanted: Tensor, counts: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy for each pixel that is there, and the overlap over all films of the batch.

    What is found where nothing is, on any film, costs as much as what is missed.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    entropy = (entropy * counts * weight[:, None, None, None]).sum((0, 2, 3))
    there = wanted.sum((0, 2, 3))
    likely = logits.sigmoid() * counts
    common = 2.0 * (likely * wanted).sum((0, 2, 3)) + _SMOOTH
    overlap = 1.0 - common / ((likely**2).sum((0, 2, 3)) + there + _SMOOTH)
    return (entropy / (there + _LEAST_THERE) + overlap).mean()


def _batches(
    pools: Sequence[Sequence[Lesson]], mix: Sequence[int], seed: int, side: int
) -> Iterator[tuple[list[Lesson], Tensor, Tensor, Tensor]]:
    """Show parts of lessons without end: (B, 1, S, S), masks (B, K, S, S), empty (B, S, S)."""
    rng = np.random.default_rng([31, seed])
    vary = _variation(seed, FINE_SIDE, ["film", "masks"], shown=side, mirrored=True)
    taken = [(pool, count) for pool, count in zip(pools, mix, strict=True) if pool]
    orders = [_endless(len(pool), rng) for pool, _ in taken]
    while True:
        lessons = [
            pool[next(order)]
            for (pool, count), order in zip(taken, orders, strict=True)
            for _ in range(count)
        ]
        shown, wanted = [], []
        for lesson in lessons:
            planes = np.concatenate([lesson.masks, lesson.empty[None]])
            item: dict[str, Any] = {
                "film": torch.from_numpy(lesson.film.astype(np.float32) / 255.0)[None],
                "masks": torch.from_numpy(np.unpackbits(planes, axis=-1).astype(np.float32)),
            }
            item = vary(item)
            shown.append(item["film"].as_tensor())
            wanted.append(item["masks"].as_tensor())
        moved = torch.stack(wanted)
        yield lessons, torch.stack(shown), moved[:, :-1], moved[:, -1]


def _endless(count: int, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(count).tolist()


def _variation(
    seed: int, side: int, moved: list[str], *, shown: int, mirrored: bool = False
) -> Compose:
    """Vary pose, exposure and sharpness; mirrored where left and right are the same.

    Of a film's side so many pixels are shown, some part of it.
    """
    move = RandAffined(
        moved,
        prob=1.0,
        rotate_range=0.12,
        shear_range=0.06,
        translate_range=0.08 * side + (side - shown) / 2,
        spatial_size=(shown, shown),
        scale_range=0.2,
        mode=["bilinear", *["nearest"] * (len(moved) - 1)],
        padding_mode="zeros",
    )
    film = ["film"]
    vary = Compose(
        [
            move,
            RandFlipd(moved, prob=0.5 if mirrored else 0.0, spatial_axis=1),
            RandAdjustContrastd(film, prob=0.6, gamma=(0.5, 1.9)),
            RandBiasFieldd(film, prob=0.2, coeff_range=(0.0, 0.25)),
            RandHistogramShiftd(film, prob=0.3, num_control_points=(4, 8)),
            RandGaussianSmoothd(film, prob=0.4, sigma_x=(0.3, 1.4), sigma_y=(0.3, 1.4)),
            RandGaussianSharpend(film, prob=0.2),
            RandGaussianNoised(film, prob=0.5, std=0.03),
        ]
    )
    vary.set_random_state(seed)
    return vary


LETTER_BOXES = Path(__file__).with_name("letter_boxes.csv")
"""Boxes of the letters of clean training films, drawn by eye, on a side of 768."""

OUTLINES = Path(__file__).with_name("lung_outlines.csv")
"""Lungs of training films that a network of phantoms gets wrong, outlined by eye: file, side and
points x:y on a side of 768."""

_OUTLINED = 768.0
_LUNGS = tuple(COARSE.index(f"{side} lung") for side in ("right", "left"))
_AGREE = 0.93  # Dice of both lungs under augmentation, from which an answer is a lesson
_ROUNDS = 2  # of answers that become lessons


def train_anatomy(
    films: Sequence[BoxedFilm], *, phantoms: int, steps: int, seed: int, progress: Progress
) -> nn.Module:
    """Train the coarse network: on phantoms, then on its own steady answers on real films too."""
    drawn = []
    for number in range(phantoms):
        film, masks = draw_training_film(1_000_003 * (seed + 7) + number, SIDE)
        drawn.append((film, np.packbits(masks[: len(COARSE)], axis=-1)))
        progress("draw phantoms", number + 1, phantoms)
    torch.manual_seed(seed)
    network = make_coarse_network()
    rounds = [(drawn, steps, _COARSE_RATE)]
    for number in range(_ROUNDS + 1):
        pool, long, rate = rounds[number]
        batches = _coarse_batches(pool, seed + number)

        def loss_of(network: nn.Module) -> Tensor:
            shown, wanted = next(batches)  # noqa: B023 - used in this round alone
            logits = _answers(network, shown)
            overlap: Tensor = DiceLoss(sigmoid=True, batch=True)(logits, wanted)
            return functional.binary_cross_entropy_with_logits(logits, wanted) + overlap

        _descend(network, loss_of, long, f"train anatomy {number + 1}", progress, rate)
        if number < _ROUNDS:
            real = _own_answers(network, films, seed)
            progress("films that agree", len(real), len(films))
            again = max(len(drawn) // max(len(real), 1), 1)
            rounds.append(([*drawn, *again * real], steps // 2, _COARSE_RATE / 2))
    return network


Answered = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def _own_answers(network: nn.Module, films: Sequence[BoxedFilm], seed: int) -> list[Answered]:
    """Return the films on which the network's lungs hold under augmentation, with its answers.

    Where lungs are outlined by eye, the outline stands for them.
    """
    outlines = _read_outlines()
    answers = []
    for film in films:
        pixels = _shrunk(film, SIDE)
        likely, agreement = steady_answer(network, pixels, seed)
        drawn = outlines.get(film.image.name)
        if drawn is None and agreement < _AGREE:
            continue
        masks = likely > 0.5
        for at, side in zip(_LUNGS, ("right", "left"), strict=True):
            masks[at] = _smooth(masks[at]) if drawn is None else drawn[side]
        whole = np.rint(255 * pixels).astype(np.uint8)
        answers.append((whole, np.packbits(masks, axis=-1)))
    return answers


def steady_answer(
    network: nn.Module, pixels: NDArray[np.float32], seed: int
) -> tuple[NDArray[np.float32], float]:
    """Return mean likelihoods (K, S, S) over small changes of a film, and their least agreement.

    The agreement is the least Dice of both lungs between one answer and the mean.
    """
    rng = np.random.default_rng([43, seed])
    answers = []
    for number in range(8):
        turn = cv2.getRotationMatrix2D(
            (SIDE / 2, SIDE / 2), rng.normal(0, 3), rng.uniform(0.9, 1.1)
        )
        turn = turn + np.array([[0.0, 0.0, step] for step in rng.normal(0, 5, 2)])
        back = cv2.invertAffineTransform(turn)
        film = cv2.warpAffine(pixels, turn, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
        film = np.clip(film, 0.0, 1.0) ** np.float32(rng.uniform(0.7, 1.4))
        mirrored = number % 2 == 1
        shown = torch.from_numpy(np.ascontiguousarray(film[:, ::-1] if mirrored else film))
        with torch.inference_mode():
            (answer,) = network(normalise_films(shown[None, None])).sigmoid()
        maps = answer.flip(-1)[list(MIRRORED)] if mirrored else answer
        answers.append([cv2.warpAffine(m, back, (SIDE, SIDE)) for m in maps.numpy()])
    stack = np.array(answers, dtype=np.float32)
    mean = stack.mean(axis=0)
    lungs = [np.any(maps[list(_LUNGS)] > 0.5, axis=0) for maps in (*stack, mean)]
    dice = [
        2.0 * (one & lungs[-1]).sum() / max(one.sum() + lungs[-1].sum(), 1) for one in lungs[:-1]
    ]
    return mean, float(min(dice))


def _smooth(lung: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the largest part of a lung, without notches and spikes."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (11, 11))
    even = cv2.morphologyEx(lung.astype(np.uint8), cv2.MORPH_CLOSE, disc)
    even = cv2.morphologyEx(even, cv2.MORPH_OPEN, disc)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(even)
    if count < 2:
        return lung
    largest: NDArray[np.bool_] = parts == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
    return largest


def _read_outlines() -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Read the outlined lungs of each film, (SIDE, SIDE) by side."""
    outlines: dict[str, dict[str, NDArray[np.bool_]]] = {}
    with OUTLINES.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            points = [point.split(":") for point in row["points"].split()]
            path = np.array(points, dtype=np.float64) * (SIDE / _OUTLINED)
            mask = cv2.fillPoly(np.zeros((SIDE, SIDE), np.uint8), [np.rint(path).astype(int)], 1)
            outlines.setdefault(row["file"], {})[row["side"]] = mask > 0
    return outlines


def _coarse_batches(pool: Sequence[Answered], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Show films without end: (B, 1, S, S) and (B, K, S, S)."""
    order = _endless(len(pool), np.random.default_rng([31, seed]))
    vary = _variation(seed, SIDE, ["film", "masks"], shown=SIDE)
    border = COARSE.index("border")
    while True:
        shown, wanted = [], []
        for _ in range(_BATCH):
            film, packed = pool[next(order)]
            masks = np.unpackbits(packed, axis=-1).astype(np.float32)
            on_film = np.ones((1, *film.shape), dtype=np.float32)
            item: dict[str, Any] = {
                "film": torch.from_numpy(film.astype(np.float32) / 255.0)[None],
                "masks": torch.from_numpy(np.concatenate([masks, on_film])),
            }
            item = vary(item)
            moved = item["masks"].as_tensor()
            moved[border] += 1.0 - moved[-1]
            shown.append(item["film"].as_tensor())
            wanted.append(moved[:-1].clamp(0.0, 1.0))
        yield torch.stack(shown), torch.stack(wanted)


def train_segmenter(
    weights: Path,
    folder: Path,
    *,
    phantoms: int,
    steps: int,
    seed: int,
    progress: Progress = lambda stage, done, total: None,
) -> None:
    """Train both networks, set the thresholds and write the weights in half precision."""
    films = read_boxed_films(folder, "train")
    fine = train_objects(
        films, phantoms=phantoms, steps=steps, seed=seed, progress=progress, kept=weights.parent
    )
    coarse = train_anatomy(
        films, phantoms=2 * phantoms, steps=steps * 3 // 4, seed=seed, progress=progress
    )
    kept = [film for film in films if keeps_back(film)] + read_boxed_films(folder, "validation")
    segment = BuiltInSegmenter(coarse, fine).segment
    found, names = choose_thresholds(segment, kept, seed)
    stored = {
        f"{name}.{key}": value.half().contiguous()
        for name, network in (("coarse", coarse), ("fine", fine))
        for key, value in network.state_dict().items()
    }
    about = {
        "phantoms": str(phantoms),
        "steps": str(steps),
        "seed": str(seed),
        "structures": ", ".join(STRUCTURES),
        "thresholds": json.dumps([found, names]),
        "films": SOURCE,
    }
    save_file(stored, str(weights), about)


SOURCE = (
    "Trained on phantoms and on films of NIH ChestX-ray14, provided by the NIH Clinical Center: "
    "https://nihcc.app.box.com/v/ChestXray-NIHCC; Wang et al., ChestX-ray8, CVPR 2017, 3462-3471"
)
"""Where the real films come from, as their terms ask."""
