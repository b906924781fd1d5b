"""Films to train the segmenter on: phantoms with far more variety than a cohort has.

A network that has seen only one maker's bodies, devices and exposures knows nothing else. So body,
opacities, devices, metal, letters and shutters are drawn from wide ranges here. Each is drawn on a
film (H, W), float32, in place, and added to the mask of its kind where it can be seen. No real film
is needed.

References
----------
Tobin et al., "Domain randomization for transferring deep neural networks from simulation to the
real world", IROS 2017. Billot et al., SynthSeg, Medical Image Analysis 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from ravl_med.phantoms.anatomy import draw_body
from ravl_med.phantoms.canvas import Floats, Layer, curve
from ravl_med.phantoms.film import FINDINGS, Look, render_phantom
from ravl_med.regions.segmenter import STRUCTURES

Masks = dict[str, NDArray[np.bool_]]

_SEEN = 0.06  # change of brightness for a density of 1 from which a thing can be seen, and
_READ = 0.2  # that letters can be read

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/:.-"
_LABELS = ("PORTABLE", "AP", "PA", "SUPINE", "ERECT", "CHEST", "SEMI-ERECT", "L", "R", "MOBILE")


def lay_dense(film: Floats, density: Floats, gain: float) -> NDArray[np.bool_]:
    """Put something dense into the beam; gives where it can be seen.

    What is bright already changes little, and a network that is taught to see what cannot be seen
    sees it everywhere.
    """
    change = np.clip(gain * density, 0.0, 1.0) * (1.0 - film)
    film += change
    return np.asarray(gaussian_filter(change, 2.0) > _SEEN * gaussian_filter(density, 2.0))


def _close(film: Floats, masks: Masks, name: str, sheet: Layer, gain: float) -> None:
    density = sheet.array()
    masks[name] |= (density > 0.2) & lay_dense(film, density, gain)


def pick_spot(
    film: Floats, rng: np.random.Generator, box: tuple[float, float, float, float]
) -> NDArray[np.float64]:
    """Pick a point (2,) in pixels, inside of a box in shares of the film."""
    height, width = film.shape
    x0, y0, x1, y1 = box
    return np.array([rng.uniform(x0, x1) * width, rng.uniform(y0, y1) * height])


def _outline(rng: np.random.Generator, radius: float) -> NDArray[np.float64]:
    """Draw a closed outline of a rounded box, an oval or a disc about the origin, (n, 2)."""
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    power = rng.uniform(0.4, 1.0)
    c, s = np.cos(t), np.sin(t)
    shape = np.stack([np.sign(c) * np.abs(c) ** power, np.sign(s) * np.abs(s) ** power], axis=1)
    if rng.random() < 0.4:  # flatter on one side, as most cans are
        shape[:, 1] = np.where(shape[:, 1] < 0, shape[:, 1] * rng.uniform(0.6, 1.0), shape[:, 1])
    outline: NDArray[np.float64] = shape * radius * np.array([1.0, rng.uniform(0.7, 1.25)])
    return outline


def _turned(points: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    cos, sin = np.cos(angle), np.sin(angle)
    turned: NDArray[np.float64] = points @ np.array([[cos, sin], [-sin, cos]])
    return turned


def _generator(film: Floats, masks: Masks, rng: np.random.Generator) -> None:
    """Draw a can with its inside and header, most of the time with leads."""
    height, width = film.shape
    side = min(height, width)
    radius = side * rng.uniform(0.035, 0.085)
    if rng.random() < 0.85:
        flank = rng.choice([-1, 1], p=[0.35, 0.65])
        centre = np.array([0.5 + flank * rng.uniform(0.12, 0.42), rng.uniform(0.08, 0.45)])
    else:
        centre = rng.uniform((0.1, 0.1), (0.9, 0.9))
    centre = centre * (width, height)
    angle = rng.uniform(-np.pi, np.pi)
    shape = _outline(rng, radius)
    can = Layer(height, width)
    if rng.random() < 0.7:
        top = float(shape[:, 1].min())
        reach, tall = rng.uniform(0.4, 0.8, 2) * radius, rng.uniform(0.2, 0.5) * radius
        header = np.array([(-reach[0], top * 0.7), (-reach[0] * 0.9, top - tall),
                           (reach[1] * 0.9, top - tall), (reach[1], top * 0.7)])  # fmt: skip
        can.polygon(centre + _turned(header, angle), int(rng.integers(70, 200)))
    can.polygon(centre + _turned(shape, angle), int(rng.integers(170, 256)))
    if rng.random() < 0.8:
        rim = rng.uniform(0.75, 0.93)
        can.polygon(centre + _turned(shape * rim, angle), int(rng.integers(110, 256)))
    for _ in range(rng.integers(0, 5)):
        part = _outline(rng, radius * rng.uniform(0.15, 0.5)) + rng.uniform(-0.4, 0.4, 2) * radius
        can.polygon(centre + _turned(part, angle), int(rng.integers(90, 256)))
    _close(film, masks, "generator", can, rng.uniform(0.45, 1.1))
    for _ in range(rng.integers(0, 4)):
        lead = Layer(height, width)
        far = pick_spot(film, rng, (0.35, 0.4, 0.75, 0.85))
        via = centre + rng.normal(0, 0.1, 2) * side
        bend = pick_spot(film, rng, (0.35, 0.1, 0.6, 0.45))
        path = curve([centre + rng.normal(0, 0.8, 2) * radius, via, bend, far], 12)
        lead.line(path, side * rng.uniform(0.003, 0.007), int(rng.integers(150, 256)))
        if rng.random() < 0.5:
            at = int(rng.integers(20, len(path) - 2))
            lead.line(path[at : at + 6], side * rng.uniform(0.006, 0.012), 255)
        density = lead.array()
        seen = lay_dense(film, density, rng.uniform(0.3, 0.8))
        masks["lead"] |= (density > 0.2) & seen & ~masks["generator"]


def _tube(film: Floats, masks: Masks, rng: np.random.Generator) -> None:
    """Draw a tube or a line: two walls and a stripe, or one solid stroke."""
    height, width = film.shape
    side = min(height, width)
    kind = rng.choice(3)
    if kind == 0:  # chest tube
        flank = rng.choice([0.0, 1.0])
        start = np.array([flank + rng.uniform(-0.1, 0.1), rng.uniform(0.4, 0.95)])
        end = np.array([0.5 + (flank - 0.5) * rng.uniform(0.2, 0.7), rng.uniform(0.1, 0.8)])
    elif kind == 1:  # down the middle: airway or stomach
        start = np.array([rng.uniform(0.4, 0.6), -0.05])
        end = np.array([rng.uniform(0.44, 0.6), rng.uniform(0.22, 1.0)])
    else:  # central line
        start = np.array([rng.uniform(0.1, 0.9), rng.uniform(-0.05, 0.3)])
        end = np.array([rng.uniform(0.4, 0.55), rng.uniform(0.3, 0.6)])
    way = np.linspace(start, end, 4)
    way[1:3] += rng.normal(0, 0.05, (2, 2))
    path = curve(way * (width, height), 14)
    sheet = Layer(height, width)
    half = side * rng.uniform(0.004, 0.014)
    if rng.random() < 0.6 and half > 0.006 * side:
        step = np.gradient(path, axis=0)
        normal = np.stack([-step[:, 1], step[:, 0]], axis=1)
        normal /= np.maximum(np.linalg.norm(step, axis=1), 1e-6)[:, None]
        a, b = path + half * normal, path - half * normal
        sheet.polygon(np.concatenate([a, b[::-1]]), int(rng.integers(55, 130)))
        for wall in (a, b):
            sheet.line(wall, side * 0.003, int(rng.integers(80, 200)))
        if rng.random() < 0.7:
            sheet.line(path + rng.uniform(-0.6, 0.6) * half * normal, side * 0.005, 255)
    else:
        sheet.line(path, max(half, side * 0.004), int(rng.integers(120, 256)))
    _close(film, masks, "tube", sheet, rng.uniform(0.2, 0.6))


def _electrodes(film: Floats, masks: Masks, rng: np.random.Generator) -> None:
    """Draw stickers with snaps, and wires from some of them."""
    height, width = film.shape
    side = min(height, width)
    snaps, wires = Layer(height, width), Layer(height, width)
    gather = pick_spot(film, rng, (-0.1, 0.8, 1.1, 1.2))
    cable, wired = side * rng.uniform(0.002, 0.006), rng.random() < 0.7
    for _ in range(rng.integers(1, 7)):
        spot = pick_spot(film, rng, (0.05, 0.05, 0.95, 0.95))
        radius = side * rng.uniform(0.01, 0.03)
        snaps.disc(spot, radius, 30 if rng.random() < 0.5 else int(rng.integers(90, 160)))
        snaps.disc(spot, radius * rng.uniform(0.45, 0.7), int(rng.integers(130, 256)))
        if rng.random() < 0.6:
            snaps.disc(spot, radius * 0.25, int(rng.choice([40, 255])))
        if wired:
            knots = np.linspace(spot, gather, 4)
            knots[1:3] += rng.normal(0, 0.07, (2, 2)) * side
            wires.line(curve(knots, 12), cable, int(rng.integers(130, 256)))
    _close(film, masks, "wire", wires, rng.uniform(0.25, 0.7))
    _close(film, masks, "electrode", snaps, rng.uniform(0.35, 0.9))


def _metal(film: Floats, masks: Masks, rng: np.random.Generator) -> None:
    """Draw other dense things: clips, buttons, rings, a chain, a zip, a plate."""
    height, width = film.shape
    side = min(height, width)
    sheet = Layer(height, width)
    kind = rng.choice(5)
    if kind == 0:  # clips and sutures
        for _ in range(rng.integers(1, 9)):
            spot = pick_spot(film, rng, (0.15, 0.1, 0.85, 0.9))
            reach = _turned(np.array([(side * rng.uniform(0.005, 0.015), 0.0)]), rng.uniform(0, 3))
            sheet.line(np.concatenate([spot - reach, spot + reach]), side * 0.005, 255)
    elif kind == 1:  # buttons
        x = rng.uniform(0.3, 0.7) * width
        for y in np.arange(rng.uniform(0.1, 0.3), 0.95, rng.uniform(0.1, 0.25)) * height:
            spot, radius = np.array([x + rng.normal(0, 3), y]), side * rng.uniform(0.008, 0.02)
            sheet.disc(spot, radius, int(rng.integers(70, 200)))
            sheet.disc(spot, radius * 0.3, int(rng.choice([30, 255])))
    elif kind == 2:  # chain
        low = pick_spot(film, rng, (0.4, 0.15, 0.6, 0.45))
        path = curve([(0.25 * width, 0.02 * height), low, (0.75 * width, 0.02 * height)], 20)
        sheet.line(path, side * rng.uniform(0.004, 0.01), 255)
    elif kind == 3:  # rings
        for _ in range(rng.integers(1, 4)):
            spot, radius = (
                pick_spot(film, rng, (0.1, 0.05, 0.9, 0.95)),
                side * rng.uniform(0.01, 0.03),
            )
            t = np.linspace(0, 2 * np.pi, 30)
            ring = spot + radius * np.stack([np.cos(t), np.sin(t)], axis=1)
            sheet.line(ring, side * rng.uniform(0.003, 0.007), 255)
    else:  # plate, rod, zip
        a = pick_spot(film, rng, (0.1, 0.05, 0.9, 0.9))
        b = a + rng.normal(0, 0.18, 2) * side
        sheet.line(np.stack([a, b]), side * rng.uniform(0.008, 0.02), 255)
    _close(film, masks, "metal", sheet, rng.uniform(0.4, 1.1))


def _letters(film: Floats, masks: Masks, rng: np.random.Generator) -> None:
    """Burn lines of text into the film, bright or dark, with or without a plate."""
    height, width = film.shape
    side = min(height, width)
    tall = side * rng.uniform(0.022, 0.06)
    corner = _edge_place(film, rng)
    value = float(rng.choice([1.0, 1.0, 0.85, 0.0]))
    for line in range(rng.integers(1, 4)):
        word = str(rng.choice(_LABELS))
        if rng.random() < 0.6:
            word = "".join(rng.choice(list(_LETTERS), rng.integers(3, 12)))
        sheet = Layer(height, width)
        box = sheet.text((corner[0], corner[1] + 1.5 * line * tall), word, tall)
        if len(word) == 1:  # a single letter is a marker
            continue
        _burn(film, masks, "text", sheet, box, value, plate=rng.random() < 0.25)


def draw_marker(film: Floats, masks: Masks, rng: np.random.Generator) -> None:
    """Lay a letter of lead beside the body, plain, framed or on a disc; or an arrow."""
    height, width = film.shape
    side = min(height, width)
    tall = side * rng.uniform(0.035, 0.11)
    x, y = _edge_place(film, rng)
    sheet = Layer(height, width)
    letter = str(rng.choice(["L", "R", "L", "R", "D", "G", "S", "P", "RT", "LT"]))
    box = sheet.text((x, y), letter, tall, weight=tall * rng.uniform(0.0, 0.06))
    pad = tall * rng.uniform(0.1, 0.3)
    low, high = np.array(box[:2]) - pad, np.array(box[2:]) + pad
    frame = rng.random()
    if frame < 0.3:
        path = np.array([low, (high[0], low[1]), high, (low[0], high[1]), low])
        sheet.line(path, max(1.0, tall * 0.08), 235)
    elif frame < 0.5:
        t = np.linspace(0, 2 * np.pi, 30)
        ring = (low + high) / 2 + np.max(high - low) * 0.6 * np.stack([np.cos(t), np.sin(t)], 1)
        sheet.line(ring, max(1.0, tall * 0.07), 235)
    outer = (*(low - pad), *(high + pad))
    value = float(rng.choice([1.0, 1.0, 0.9, 0.75]))
    _burn(film, masks, "marker", sheet, outer, value, plate=False)


def _edge_place(film: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """Pick an upper left corner for letters: mostly near the border of the film."""
    height, width = film.shape
    if rng.random() < 0.8:
        x = rng.choice([rng.uniform(0.01, 0.15), rng.uniform(0.7, 0.92)])
        y = rng.choice([rng.uniform(0.01, 0.2), rng.uniform(0.01, 0.2), rng.uniform(0.75, 0.94)])
    else:
        x, y = rng.uniform(0.02, 0.85, 2)
    return float(x * width), float(y * height)


def _burn(
    film: Floats,
    masks: Masks,
    name: str,
    sheet: Layer,
    box: tuple[float, ...],
    value: float,
    *,
    plate: bool,
) -> None:
    """Write ink of a value; the mask is the filled box around it."""
    height, width = film.shape
    x0, y0 = max(int(box[0]) - 1, 0), max(int(box[1]) - 1, 0)
    x1, y1 = min(int(box[2]) + 2, width), min(int(box[3]) + 2, height)
    ink = sheet.array()
    if ink[y0:y1, x0:x1].size == 0 or ink.max() < 0.3:
        return
    if plate:
        film[y0:y1, x0:x1] = 1.0 - value
    change = ink * (value - film)
    film += change
    if np.abs(change).sum() < _READ * ink.sum():
        return
    rows = np.flatnonzero((ink > 0.3).any(axis=1))
    columns = np.flatnonzero((ink > 0.3).any(axis=0))
    masks[name][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True


def _border(film: Floats, masks: Masks, rng: np.random.Generator) -> None:
    """Shutter some sides of the film, straight or a little aslant."""
    height, width = film.shape
    value = float(rng.choice([0.0, 0.0, 0.03, 1.0]))
    y, x = np.mgrid[:height, :width] / np.array([height, width], dtype=np.float64)[:, None, None]
    slant = np.tan(rng.normal(0, 0.02))
    shut = np.zeros(film.shape, dtype=bool)
    for edge in (x + slant * y, 1 - x + slant * y, y + slant * x, 1 - y + slant * x):
        if rng.random() < 0.5:
            shut |= edge < rng.uniform(0.01, 0.14)
    film[shut] = value + rng.normal(0, 0.005, int(shut.sum()))
    for name in masks:
        masks[name] &= ~shut
    masks["border"] |= shut


DRAWN: tuple[tuple[float, Callable[[Floats, Masks, np.random.Generator], None]], ...] = (
    (0.25, _generator),
    (0.45, _tube),
    (0.35, _electrodes),
    (0.3, _metal),
    (0.35, _border),
    (0.35, _letters),
    (0.5, draw_marker),
)
"""What may lie on a film and how often; a border hides what was drawn before it."""


_OWN = {"generator": 0.2, "tube": 0.2, "electrode": 0.2, "marker": 0.25, "text": 0.15}
_OTHER = 0.05  # share of films that are no chest


def draw_training_film(seed: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw a film and where everything on it lies.

    Parameters
    ----------
    seed : int - same seed, same film
    size : int - side in pixels

    Returns
    -------
    film : ndarray of shape (size, size), uint8 - bright is dense
    masks : ndarray of shape (len(STRUCTURES), size, size), bool
    """
    rng = np.random.default_rng([29, seed])
    body = draw_body(
        (seed, 5),
        female=bool(rng.random() < 0.5),
        age=int(rng.integers(18, 95)),
        enlarged=bool(rng.random() < 0.35),
    )
    body = replace(
        body,
        width=body.width * rng.uniform(0.88, 1.12),
        height=body.height * rng.uniform(0.72, 1.12),
    )
    phantom = render_phantom(
        body,
        str(rng.choice(FINDINGS)),
        [name for name, chance in _OWN.items() if rng.random() < chance],
        seeds=((seed, 1), (seed, 2)),
        size=size,
        anteroposterior=bool(rng.random() < 0.5),
        look=Look(rng.uniform(0.3, 2.5), rng.uniform(0.6, 1.5), rng.uniform(0.0, 2.5)),
    )
    film = phantom.pixels.copy()
    empty = np.zeros(film.shape, dtype=bool)
    masks: Masks = {name: phantom.structures.get(name, empty).copy() for name in STRUCTURES}
    for side in ("right", "left"):  # people who draw lungs stop at the great vessels
        masks[f"{side} lung"] &= ~masks["mediastinum"] | masks["heart"]
    for kind, x0, y0, x1, y1 in phantom.boxes:
        if kind in ("marker", "text"):  # letters with what lies between them
            masks[kind][y0:y1, x0:x1] = True
    for _ in range(rng.integers(0, 4)):
        _cloud(film, masks, rng)
    for _ in range(rng.integers(0, 7)):
        _bone(film, rng)
    for _ in range(rng.integers(0, 4)):
        _fold(film, rng)
    for chance, draw in DRAWN:
        if rng.random() < chance:
            draw(film, masks, rng)
    if rng.random() < _OTHER:
        film, masks = _other_part(film.shape, rng)
    shown = np.clip(film, 0.0, 1.0)
    stack = np.stack([masks[name] for name in STRUCTURES])
    return (
        np.rint(255 * _resize(shown, size)).astype(np.uint8),
        np.stack([_resize(mask.astype(np.float32), size) > 0.45 for mask in stack]),
    )


def _resize(field: Floats, size: int) -> Floats:
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)


def _cloud(film: Floats, masks: Masks, rng: np.random.Generator) -> None:
    """Whiten a part of the lungs, evenly or in flecks."""
    height, width = film.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    u = (x - rng.uniform(0.1, 0.9) * width) / (rng.uniform(0.03, 0.22) * width)
    v = (y - rng.uniform(0.1, 0.95) * height) / (rng.uniform(0.03, 0.22) * height)
    flecks = gaussian_filter(rng.standard_normal(film.shape, dtype=np.float32), rng.uniform(1, 6))
    strength = rng.uniform(0.1, 0.8) * np.exp(-(u**2) - v**2)
    strength = strength * np.clip(1 + rng.uniform(0, 0.7) * flecks / flecks.std(), 0, 1.3)
    lungs = gaussian_filter((masks["right lung"] | masks["left lung"]).astype(np.float32), 2.0)
    film += np.clip(strength * lungs, 0, 1) * (rng.uniform(0.65, 0.9) - film)


def _bone(film: Floats, rng: np.random.Generator) -> None:
    """Draw a bone with its dense rim, which is no device: phantoms have too few edges."""
    height, width = film.shape
    side = min(height, width)
    inner, rim = Layer(height, width), Layer(height, width)
    start = pick_spot(film, rng, (-0.05, -0.05, 1.05, 1.0))
    if rng.random() < 0.6:  # long: ribs, clavicles, the border of a shoulder blade
        path = curve(np.cumsum([start, *rng.normal(0, 0.12, (3, 2)) * side], axis=0), 12)
        step = np.gradient(path, axis=0)
        normal = np.stack([-step[:, 1], step[:, 0]], axis=1)
        normal /= np.maximum(np.linalg.norm(step, axis=1), 1e-6)[:, None]
        half = side * rng.uniform(0.012, 0.04)
        edges = [path + half * normal, path - half * normal]
        inner.polygon(np.concatenate([edges[0], edges[1][::-1]]))
        shown = edges if rng.random() < 0.5 else edges[:1]
    else:  # flat or round: a shoulder blade, a joint, a vertebra
        corners = start + rng.normal(0, 0.09, (5, 2)) * side
        shape = curve(corners, 10, closed=True)
        inner.polygon(shape)
        shown = [np.concatenate([shape, shape[:1]])]
    for edge in shown:
        rim.line(edge, side * rng.uniform(0.003, 0.008), 255)
    blur = rng.uniform(0.6, 1.8)
    density = rng.uniform(0.02, 0.18) * inner.array() + rng.uniform(0.0, 0.18) * rim.array()
    lay_dense(film, gaussian_filter(density, blur), 1.0)


def _fold(film: Floats, rng: np.random.Generator) -> None:
    """Draw a step of brightness along a curve: a fold of skin, clothes, the edge of a muscle."""
    height, width = film.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    centre = pick_spot(film, rng, (0.0, 0.0, 1.0, 1.0))
    u = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
    v = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)
    u = u + rng.normal(0, 0.002) * v**2
    step = 1.0 / (1.0 + np.exp(-np.clip(u / rng.uniform(0.5, 2.0), -30, 30)))
    fade = np.exp(-((u / (0.25 * width)) ** 2) - (v / (rng.uniform(0.1, 0.4) * width)) ** 2)
    film += (rng.choice([-1.0, 1.0]) * rng.uniform(0.02, 0.1) * step * fade).astype(np.float32)


def _other_part(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Floats, Masks]:
    """Draw a film that is no chest: bones on soft tissue, or nothing but noise."""
    film = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), rng.uniform(0.0, 25.0))
    film = 0.45 + rng.uniform(0.05, 0.3) * film / max(float(film.std()), 1e-6)
    for _ in range(rng.integers(0, 20)):
        _bone(film, rng)
    masks = {name: np.zeros(shape, dtype=bool) for name in STRUCTURES}
    if rng.random() < 0.5:
        draw_marker(film, masks, rng)
    return film, masks
