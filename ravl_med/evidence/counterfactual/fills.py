"""Pictures without a region, and pictures with a foreign one.

All of it happens at the resolution of the model, on its preprocessed input. Two fills stand beside
each other: the most ordinary of like places of any films needs to know nothing of a feature, but
that most films are without it; a like place of one film without it needs to know which films those
are. An effect that only one of them shows is an effect of the fill.

References
----------
Perez, Gangnet, Blake, "Poisson image editing", SIGGRAPH 2003: a patch is carried over less the
difference at its border, which is interpolated inwards. Bertalmio, Bertozzi, Sapiro,
"Navier-Stokes, fluid dynamics, and image and video inpainting", CVPR 2001.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]  # (3, S, S) input of the model; what is returned is a copy
Mask = NDArray[np.bool_]  # (S, S)
Place = tuple[int, int, int, int]  # whole pixels, xyxy

_RADIUS = 3
_DEPTH = 65535.0


def fill_interpolated(image: Image, box: NDArray[np.float32]) -> Image:
    """Fill every pixel that a box (4,), xyxy, touches by interpolation from its border.

    Across and down, values go straight from one side of the box to the other; the two are mixed by
    how near each pixel is to their sides. It invents nothing: no value lies outside of those at the
    border. Where a side of the box is a side of the image the opposite one stands for it; a box
    that is the whole image takes the median of the image, channel by channel.
    """
    place = _pixel_box(box, image)
    x0, y0, x1, y1 = place
    filled = image.copy()
    filled[:, y0:y1, x0:x1] = _interpolated(image, place)
    return filled


def transplant_box(target: Image, source: Image, box: NDArray[np.float32]) -> Image:
    """Put what a box (4,), xyxy, holds in one film into the same place of another.

    The two differ along the border of the box; the difference is interpolated across it and taken
    off, so that no seam is left. A box that is the whole image is taken as it is, plus the
    median of the difference.
    """
    place = _pixel_box(box, target)
    x0, y0, x1, y1 = place
    moved = target.copy()
    moved[:, y0:y1, x0:x1] = source[:, y0:y1, x0:x1] + _interpolated(target - source, place)
    return moved


class Interpolation:
    """Fills places of films, by number, from their borders: where no other films are at hand."""

    def __init__(self, read: Callable[[int], Image]) -> None:
        self._read = read

    def fill(self, film: int, box: NDArray[np.float32]) -> Image:
        """Fill a box (4,), xyxy, of a film as it would be without a feature."""
        return fill_interpolated(self._read(film), box)

    def replace(self, film: int, box: NDArray[np.float32], bare: NDArray[np.bool_]) -> Image:
        """Fill it in a second way, from one film that is `bare`, (N,): without the feature."""
        return self.fill(film, box)


class LikePlaces(Interpolation):
    """Fills places of films with what the same places of other films hold.

    A bank of films gives patches; those are like a place whose borders are. They are set in as
    `transplant_box` does, so that what fills a lung is lung. Interpolation alone is neutral hardly
    anywhere: a lung that is filled from its border looks consolidated, whatever was in it.

    Films in the bank are seeded, spread over patients, and of one frame (what of the model's input
    is film, and what is padding). A film is never filled from one of its own patient.
    """

    def __init__(
        self,
        read: Callable[[int], Image],
        patients: NDArray[np.int64],  # (N,)
        frames: NDArray[np.float32],  # (N, 4) xyxy, of each film in its input
        seed: int,
    ) -> None:
        super().__init__(read)
        self._patients = patients
        size = max(float(frames.max(initial=1.0)), 1.0)
        kinds = np.unique(np.rint(_FRAMES * frames / size), axis=0, return_inverse=True)[1]
        self._kind = kinds.ravel()
        self._order = np.random.default_rng([seed, 9]).permutation(len(patients))
        self._border = lru_cache(maxsize=max(64, int(_HELD / (_BANK * 8 * size))))(self._borders_of)
        window = 3 * 4 * (size / 4) ** 2  # bytes of a patch of a coarse window
        self._most = max(64, int(_HELD / window))
        self._known: dict[tuple[int, Place], tuple[Image, float]] = {}  # the oldest first
        self._bank = lru_cache(maxsize=16)(self._bank_of)

    def fill(self, film: int, box: NDArray[np.float32]) -> Image:
        """Fill a box (4,), xyxy, of a film by the most ordinary patch of like places.

        That is their medoid, the one that is nearest to the others: a real patch, which a mean of
        several is not, and not one with something that few of them hold. Of the likest places those
        are taken that stand out no more than what they replace, as long as there are enough: a
        removal puts nothing in. Where there are too few others, or no border, it is interpolated.
        """
        picture = self._read(film)
        filled, place = fill_interpolated(picture, box), _pixel_box(box, picture)
        donors = self._likest(film, place, None)[:_CHOICE].tolist()
        if len(donors) < _FEWEST:
            return filled
        patches, stands_out = zip(*self._patches_of(donors, place), strict=True)
        x0, y0, x1, y1 = place
        own = np.square((picture[0] - filled[0])[y0:y1, x0:x1]).mean()
        calm = np.flatnonzero(np.array(stands_out) <= own)
        if len(calm) < _FEWEST:
            calm = np.argsort(stands_out, kind="stable")[:_FEWEST]
        filled[:, y0:y1, x0:x1] += _medoid([patches[at] for at in calm[:_LIKEST]])
        return filled

    def replace(self, film: int, box: NDArray[np.float32], bare: NDArray[np.bool_]) -> Image:
        """Fill a box (4,), xyxy, with the likest place of one film out of some, (N,).

        Films of the bank that are `bare` come first; where it has none, as `fill`.
        """
        picture = self._read(film)
        donors = self._likest(film, _pixel_box(box, picture), bare)
        if not len(donors):
            return self.fill(film, box)
        return transplant_box(picture, self._read(int(donors[0])), box)

    def _likest(
        self, film: int, place: Place, allowed: NDArray[np.bool_] | None
    ) -> NDArray[np.int64]:
        """Return films of other patients in the bank, those with the likest border first."""
        picture = self._read(film)
        bank, _ = self._bank(int(self._kind[film]))
        ring = _ring(place, picture.shape[1:])
        if not ring.any():
            return bank[:0]
        borders = self._border(int(self._kind[film]), place)
        apart = np.square(borders - _centred(picture[:1][:, ring])).mean(axis=1)
        usable = self._patients[bank] != self._patients[film]
        if allowed is not None:
            usable &= allowed[bank]
        order = np.argsort(apart, kind="stable")
        likest: NDArray[np.int64] = bank[order[usable[order]]]
        return likest

    def _bank_of(self, kind: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return films (m,) of a kind of frame, and their first channel (m, S, S)."""
        own = self._order[self._kind[self._order] == kind]
        first = np.sort(np.unique(self._patients[own], return_index=True)[1])
        bank = np.concatenate([own[first], np.delete(own, first)])[:_BANK]  # of each patient first
        return bank, np.stack([self._read(int(film))[0] for film in bank])

    def _borders_of(self, kind: int, place: Place) -> NDArray[np.float32]:
        """Return the border of a place on each film of the bank, centred, (m, b)."""
        _, gray = self._bank(kind)
        return _centred(gray[:, _ring(place, gray.shape[1:])])

    def _patches_of(self, films: Sequence[int], place: Place) -> list[tuple[Image, float]]:
        """Return what a place of each film holds, see `_cut_patches`; some are held."""
        missing = [film for film in films if (film, place) not in self._known]
        if missing:
            made = _cut_patches([self._read(film) for film in missing], place)
            self._known.update(zip(((film, place) for film in missing), made, strict=True))
        found = [self._known[film, place] for film in films]
        for oldest in list(islice(self._known, max(0, len(self._known) - self._most))):
            del self._known[oldest]
        return found


_BANK = 64  # films
_HELD = 64 * 2**20  # bytes of patches that are held, and of borders
_CHOICE, _LIKEST, _FEWEST = 24, 15, 5  # films with the likest border; of these; of any
_FRAMES = 16  # steps of a side in which frames are told apart
_WIDE = 2  # pixels of a border


def _cut_patches(pictures: Sequence[Image], place: Place) -> list[tuple[Image, float]]:
    """Return what a place holds beyond its border carried on, (3, h, w), and how it stands out."""
    x0, y0, x1, y1 = place
    left, top = max(x0 - 1, 0), max(y0 - 1, 0)
    cut = np.concatenate([one[:, top : y1 + 1, left : x1 + 1] for one in pictures])
    inner = x0 - left, y0 - top, x1 - left, y1 - top
    beyond = cut[:, inner[1] : inner[3], inner[0] : inner[2]] - _interpolated(cut, inner)
    each = beyond.reshape(len(pictures), -1, y1 - y0, x1 - x0)
    stands_out = np.square(each[:, 0]).reshape(len(each), -1).mean(axis=1)
    return list(zip(each, stands_out.tolist(), strict=True))


def _medoid(patches: Sequence[Image]) -> Image:
    """Return the patch (3, h, w) whose median distance from the others is smallest."""
    flat = np.stack([patch[0].ravel() for patch in patches])
    square = np.square(flat).sum(axis=1)
    apart = square[:, None] + square[None] - 2.0 * flat @ flat.T
    return patches[int(np.median(apart, axis=1).argmin())]


def _ring(place: Place, shape: tuple[int, ...]) -> Mask:
    """Pixels around a place, (S, S)."""
    x0, y0, x1, y1 = place
    around = np.zeros(shape, dtype=np.bool_)
    around[max(y0 - _WIDE, 0) : y1 + _WIDE, max(x0 - _WIDE, 0) : x1 + _WIDE] = True
    around[y0:y1, x0:x1] = False
    return around


def _centred(borders: NDArray[np.float32]) -> NDArray[np.float32]:
    centred: NDArray[np.float32] = borders - borders.mean(axis=1, keepdims=True, dtype=np.float32)
    return centred


def fill_mask(image: Image, inside: Mask) -> Image:
    """Fill a mask (S, S) by continuing its surroundings into it.

    Navier-Stokes stays within the values of the film; Telea, the other method of OpenCV, leaves
    them on 32-bit floats (-1.0 to 2.0 from values of 0 to 1, OpenCV 5.0). Each channel is stretched
    to 16 bits, so no band shows; channels that differ by scale and offset alone, as those of a film
    do, are computed once. A mask that is the whole image has no surroundings and takes the median.
    """
    filled = image.copy()
    if inside.all():
        filled[:] = _median(image)[:, None, None]
        return filled
    levels = painted = np.empty((0, 0), np.uint16)
    for channel in range(len(image)):
        low, high = float(image[channel].min()), float(image[channel].max())
        scale = (high - low) / _DEPTH or 1.0
        own = np.rint((image[channel] - low) / scale).astype(np.uint16)
        if own.shape != levels.shape or np.abs(own.astype(np.int32) - levels).max() > 1:
            levels = own
            painted = np.asarray(
                cv2.inpaint(levels, inside.astype(np.uint8), _RADIUS, cv2.INPAINT_NS)
            )
        filled[channel, inside] = painted[inside] * np.float32(scale) + np.float32(low)
    return filled


def pixel_boxes(boxes: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Whole pixels that boxes touch, at least one each, inside the image: (k, 4) xyxy."""
    height, width = shape
    limits = np.array([width, height], dtype=np.int64)
    low = np.floor(boxes[:, :2] + 1e-3).astype(np.int64)
    low = np.minimum(np.maximum(low, 0), limits - 1)  # np.clip is three times slower on so few
    high = np.ceil(boxes[:, 2:] - 1e-3).astype(np.int64)
    high = np.minimum(np.maximum(high, low + 1), limits)
    return np.concatenate([low, high], axis=1)


def _pixel_box(box: NDArray[np.float32], image: Image) -> Place:
    x0, y0, x1, y1 = pixel_boxes(box[None], image.shape[1:])[0].tolist()
    return x0, y0, x1, y1


def _interpolated(image: Image, place: Place) -> Image:
    """Return the patch (c, h, w) of a place of an image (c, S, S), see `fill_interpolated`."""
    x0, y0, x1, y1 = place
    height, width = image.shape[1:]
    left = image[:, y0:y1, x0 - 1] if x0 > 0 else None
    right = image[:, y0:y1, x1] if x1 < width else None
    above = image[:, y0 - 1, x0:x1] if y0 > 0 else None
    below = image[:, y1, x0:x1] if y1 < height else None
    across, down = _between(left, right, x1 - x0), _between(above, below, y1 - y0)
    if across is not None and down is not None:
        weight = _nearness(y1 - y0, x1 - x0)
        patch: Image = across * weight + down.transpose(0, 2, 1) * (1 - weight)
        return patch
    if across is not None:
        return across
    if down is not None:
        return down.transpose(0, 2, 1)
    return np.broadcast_to(_median(image)[:, None, None], image.shape)


def _smoothed(line: NDArray[np.float32]) -> NDArray[np.float32]:
    """Binomial mean of three neighbours along a line (c, n), so that grain makes no streaks."""
    mean = line * np.float32(0.5)
    quarter = line * np.float32(0.25)
    mean[:, 1:] += quarter[:, :-1]
    mean[:, :-1] += quarter[:, 1:]
    mean[:, 0] += quarter[:, 0]
    mean[:, -1] += quarter[:, -1]
    return mean


def _between(
    first: NDArray[np.float32] | None, last: NDArray[np.float32] | None, steps: int
) -> NDArray[np.float32] | None:
    """Values (c, n, steps) on lines between two smoothed sides (c, n); one stands for a missing."""
    first, last = (first if first is not None else last), (last if last is not None else first)
    if first is None or last is None:
        return None
    first, last = _smoothed(first), _smoothed(last)
    return first[:, :, None] + (last - first)[:, :, None] * _steps(steps)


@lru_cache(maxsize=64)
def _steps(count: int) -> NDArray[np.float32]:
    """Places of so many pixels between two others, as shares of the way, (count,)."""
    return ((np.arange(count) + 1) / (count + 1)).astype(np.float32)


@lru_cache(maxsize=64)
def _nearness(height: int, width: int) -> NDArray[np.float32]:
    """How much nearer each pixel of a box is to its left or right side than above or below."""
    down, across = (np.minimum(n := np.arange(side) + 1, side + 1 - n) for side in (height, width))
    near: NDArray[np.float32] = (down[:, None] / (across + down[:, None])).astype(np.float32)
    return near


def _median(image: Image) -> Image:
    """Median of an image, channel by channel, (3,)."""
    median: Image = np.median(image.reshape(len(image), -1), axis=1).astype(np.float32)
    return median
