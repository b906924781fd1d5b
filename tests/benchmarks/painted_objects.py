"""Man-made objects painted on films, with where they lie: to train and to try the segmenter.

Each kind is drawn on a film (H, W), float32 in [0, 1], in place, and added to the mask of its kind
where it can be seen. What is dense absorbs: it is added to the attenuation that a film's look-up
curve (a logistic one, as in `ravl_med.phantoms.film`) shows, with blur, scatter and the edge
enhancement of a digital system, so that it saturates on what is bright already.

References
----------
Mathew et al., "Lines, tubes and devices on chest radiographs", RadioGraphics 2021, for what there
is; Tobin et al., "Domain randomization for transferring deep neural networks from simulation to
the real world", IROS 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ravl_med.phantoms.canvas import Floats, Layer, curve
from ravl_med.regions.segmenter import OBJECTS

Masks = dict[str, NDArray[np.bool_]]
Points = NDArray[np.float64]
Rng = np.random.Generator

_SEEN = 0.03  # change of brightness for a density of 1 from which a thing can be seen, and
_READ = 0.2  # that letters can be read
_MARGIN = 0.02  # brightness that no film falls below or exceeds, for the look-up curve
_THERE = 0.2  # density from which a thing lies somewhere

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/:.-"
_LABELS = (
    "PORTABLE", "AP", "PA", "SUPINE", "ERECT", "CHEST", "SEMI-ERECT", "L", "R", "MOBILE", "SEMI",
    "UPRIGHT", "AP PORT", "PORT", "LINE", "ICU",
)  # fmt: skip


def no_masks(shape: tuple[int, ...]) -> Masks:
    """Return a mask for each kind of `OBJECTS`, empty."""
    return {name: np.zeros(shape, dtype=np.bool_) for name in OBJECTS}


def absorb(film: Floats, density: Floats, strength: float, rng: Rng) -> NDArray[np.bool_]:
    """Put something dense into the beam; gives where it can be seen.

    `strength` is the attenuation of a density of 1 in units of the look-up curve: 1 takes mid gray
    to 0.73, 4 to 0.98. What is bright already changes little, and a network that is taught to see
    what cannot be seen sees it everywhere.
    """
    side = min(film.shape)
    sharp = _blurred(density, side * rng.uniform(0.0004, 0.0022))
    veil = rng.uniform(0.0, 0.12)
    shadow = (1.0 - veil) * sharp + veil * _blurred(density, 0.012 * side)
    if rng.random() < 0.4:
        shadow = shadow + rng.uniform(0.0, 0.8) * (sharp - _blurred(sharp, 0.008 * side))
    level = np.clip(film, _MARGIN, 1.0 - _MARGIN)
    before = np.log(level / (1.0 - level))
    change = (1.0 / (1.0 + np.exp(-before - strength * shadow)) - level).astype(np.float32)
    film += change
    np.clip(film, 0.0, 1.0, out=film)
    wide = 0.004 * side
    return np.asarray(_blurred(change, wide) > _SEEN * _blurred(density, wide))


def _lay(
    film: Floats, masks: Masks, name: str, sheet: Layer, strength: float, rng: Rng
) -> NDArray[np.bool_]:
    density = sheet.array()
    seen = (density > _THERE) & absorb(film, density, strength, rng)
    masks[name] |= seen
    return seen


def _blurred(field: Floats, deviation: float) -> Floats:
    """Blur a field (H, W) by a Gaussian of some pixels."""
    return np.asarray(cv2.GaussianBlur(field, (0, 0), max(deviation, 0.05)), dtype=np.float32)


def pick_spot(film: Floats, rng: Rng, box: tuple[float, float, float, float]) -> Points:
    """Pick a point (2,) in pixels, inside of a box in shares of the film."""
    height, width = film.shape
    x0, y0, x1, y1 = box
    return np.array([rng.uniform(x0, x1) * width, rng.uniform(y0, y1) * height])


def _sheet(film: Floats) -> tuple[Layer, int]:
    height, width = film.shape
    return Layer(height, width), min(height, width)


def _tone(rng: Rng, low: int = 120, high: int = 256) -> int:
    return int(rng.integers(low, high))


def _circle(rng: Rng, power: float = 1.0, points: int = 48) -> Points:
    """Return a closed outline about the origin, (n, 2): a disc, or a rounded box below power 1."""
    t = np.linspace(0, 2 * np.pi, points, endpoint=False) + rng.uniform(0, 0.1)
    c, s = np.cos(t), np.sin(t)
    return np.stack([np.sign(c) * np.abs(c) ** power, np.sign(s) * np.abs(s) ** power], axis=1)


def _closed(outline: Points) -> Points:
    return np.concatenate([outline, outline[:1]])


def _can(rng: Rng, radius: float) -> Points:
    shape = _circle(rng, rng.uniform(0.4, 1.0))
    if rng.random() < 0.4:  # flatter on one side, as most cans are
        shape[:, 1] = np.where(shape[:, 1] < 0, shape[:, 1] * rng.uniform(0.6, 1.0), shape[:, 1])
    return np.asarray(shape * radius * np.array([1.0, rng.uniform(0.7, 1.25)]))


def _turned(points: Points, angle: float) -> Points:
    cos, sin = np.cos(angle), np.sin(angle)
    turned: Points = points @ np.array([[cos, sin], [-sin, cos]])
    return turned


def _walls(path: Points, half: float) -> tuple[Points, Points]:
    """Return the two sides of a tube of half a width along a path (n, 2)."""
    step = np.gradient(path, axis=0)
    normal = np.stack([-step[:, 1], step[:, 0]], axis=1)
    normal /= np.maximum(np.linalg.norm(step, axis=1), 1e-6)[:, None]
    return path + half * normal, path - half * normal


def paint_generator(film: Floats, masks: Masks, rng: Rng) -> None:
    """Paint a pacemaker or ICD: a can with its inside and header, up to three leads with coils."""
    can, side = _sheet(film)
    width, height = film.shape[1], film.shape[0]
    radius = side * rng.uniform(0.03, 0.085)
    if rng.random() < 0.85:
        flank = rng.choice([-1, 1], p=[0.35, 0.65])
        share = np.array([0.5 + flank * rng.uniform(0.12, 0.42), rng.uniform(0.08, 0.45)])
    else:
        share = rng.uniform((0.1, 0.1), (0.9, 0.9))
    centre = share * (width, height)
    angle = rng.uniform(-np.pi, np.pi)
    shape = _can(rng, radius)
    if rng.random() < 0.7:
        top = float(shape[:, 1].min())
        reach, tall = rng.uniform(0.4, 0.8, 2) * radius, rng.uniform(0.2, 0.5) * radius
        header = np.array([(-reach[0], top * 0.7), (-reach[0] * 0.9, top - tall),
                           (reach[1] * 0.9, top - tall), (reach[1], top * 0.7)])  # fmt: skip
        can.polygon(centre + _turned(header, angle), _tone(rng, 70, 200))
    can.polygon(centre + _turned(shape, angle), _tone(rng, 170))
    if rng.random() < 0.8:
        can.polygon(centre + _turned(shape * rng.uniform(0.75, 0.93), angle), _tone(rng, 110))
    for _ in range(rng.integers(0, 5)):
        part = _can(rng, radius * rng.uniform(0.15, 0.5)) + rng.uniform(-0.4, 0.4, 2) * radius
        can.polygon(centre + _turned(part, angle), _tone(rng, 90))
    seen = _lay(film, masks, "generator", can, rng.uniform(1.5, 6.0), rng)
    for _ in range(rng.integers(0, 4)):
        lead, _ = _sheet(film)
        far = pick_spot(film, rng, (0.35, 0.4, 0.75, 0.85))
        via = centre + rng.normal(0, 0.1, 2) * side
        bend = pick_spot(film, rng, (0.35, 0.1, 0.6, 0.45))
        path = curve([centre + rng.normal(0, 0.8, 2) * radius, via, bend, far], 12)
        lead.line(path, side * rng.uniform(0.003, 0.007), _tone(rng, 150))
        if rng.random() < 0.6:  # a tip, or the coil of an ICD
            at = int(rng.integers(18, len(path) - 4))
            long = int(rng.choice([4, 6, 12]))
            lead.line(path[at : at + long], side * rng.uniform(0.006, 0.013), 255)
        _lay(film, masks, "lead", lead, rng.uniform(0.8, 3.5), rng)
    masks["lead"] &= ~seen


_TUBE_KINDS = ("chest", "airway", "stomach", "central", "drain", "any")


def paint_tube(film: Floats, masks: Masks, rng: Rng) -> None:
    """Paint a chest, endotracheal or gastric tube, a central line or a drain."""
    width, height = film.shape[1], film.shape[0]
    sheet, side = _sheet(film)
    kind = str(rng.choice(_TUBE_KINDS))
    wide = rng.uniform(0.0045, 0.014) * side
    if kind == "chest":
        flank = rng.choice([0.0, 1.0])
        start = np.array([flank + rng.uniform(-0.1, 0.1), rng.uniform(0.4, 0.95)])
        end = np.array([0.5 + (flank - 0.5) * rng.uniform(0.2, 0.7), rng.uniform(0.1, 0.8)])
    elif kind == "airway":
        start = np.array([rng.uniform(0.42, 0.58), -0.05])
        end = np.array([rng.uniform(0.46, 0.54), rng.uniform(0.18, 0.38)])
        wide = rng.uniform(0.007, 0.013) * side
    elif kind == "stomach":
        start = np.array([rng.uniform(0.42, 0.58), -0.05])
        end = np.array([rng.uniform(0.5, 0.7), rng.uniform(0.75, 1.05)])
        wide = rng.uniform(0.003, 0.009) * side
    elif kind == "central":
        start = np.array([rng.uniform(0.05, 0.95), rng.uniform(-0.05, 0.4)])
        end = np.array([rng.uniform(0.4, 0.55), rng.uniform(0.3, 0.6)])
        wide = rng.uniform(0.0015, 0.0045) * side
    else:
        start, end = rng.uniform(-0.1, 1.1, (2, 2))
        wide = rng.uniform(0.002, 0.01) * side
    way = np.linspace(start, end, 5)
    way[1:4] += rng.normal(0, 0.05 if kind != "airway" else 0.012, (3, 2))
    path = curve(way * (width, height), 14)
    if kind == "drain" and rng.random() < 0.6:  # a pigtail
        t = np.linspace(0, rng.uniform(4.0, 7.5), 30)[:, None]
        loop = rng.uniform(0.012, 0.03) * side
        curl = np.concatenate([np.cos(t) - 1.0, np.sin(t)], axis=1) * loop
        path = np.concatenate([path, path[-1] + _turned(curl, rng.uniform(0, 6.3))])
    if wide > 0.005 * side and rng.random() < 0.75:  # two walls and a stripe
        a, b = _walls(path, wide)
        sheet.polygon(np.concatenate([a, b[::-1]]), _tone(rng, 30, 130))
        for wall in (a, b):
            sheet.line(wall, side * rng.uniform(0.0015, 0.003), _tone(rng, 60, 200))
        if rng.random() < 0.8:
            stripe = path + rng.uniform(-0.8, 0.8) * (a - path)
            for piece in _holed(stripe, rng):
                sheet.line(piece, side * rng.uniform(0.0025, 0.006), 255)
        _band(masks, film, "tube", a, b, sheet, rng.uniform(0.5, 2.5), rng)
        return
    sheet.line(path, max(wide, 0.0018 * side), _tone(rng, 150))
    if rng.random() < 0.3:  # the hub, or a weighted tip
        sheet.line(path[-4:], max(2.0 * wide, 0.005 * side), 255)
    _lay(film, masks, "tube", sheet, rng.uniform(0.4, 2.5), rng)


def _holed(stripe: Points, rng: Rng) -> Sequence[Points]:
    """Cut side holes into the stripe of a tube, near its end."""
    if rng.random() < 0.6:
        return [stripe]
    at = len(stripe) - int(rng.integers(5, 20))
    return [stripe[:at], stripe[at + 2 :]] if len(stripe) - at > 5 else [stripe]


def _band(
    masks: Masks,
    film: Floats,
    name: str,
    a: Points,
    b: Points,
    sheet: Layer,
    strength: float,
    rng: Rng,
) -> None:
    """Lay a tube; its mask holds what lies between its walls."""
    density = sheet.array()
    seen = absorb(film, density, strength, rng) & (density > 0.08)
    inner, _ = _sheet(film)
    inner.polygon(np.concatenate([a, b[::-1]]))
    near = _blurred(seen.astype(np.float32), 0.008 * min(film.shape)) > 0.1
    masks[name] |= seen | ((inner.array() > 0.5) & near)


def paint_electrodes(film: Floats, masks: Masks, rng: Rng) -> None:
    """Paint ECG electrodes of one make: snap, clip, ring, carbon or tab; wires from some."""
    snaps, side = _sheet(film)
    wires, _ = _sheet(film)
    make = str(rng.choice(["snap", "clip", "ring", "pad", "tab", "grabber"]))
    size = side * rng.uniform(0.01, 0.03)
    gather = pick_spot(film, rng, (-0.1, 0.6, 1.1, 1.2))
    cable, wired = side * rng.uniform(0.0015, 0.0055), rng.random() < 0.75
    tones = _tone(rng, 20, 90), _tone(rng, 110, 256), int(rng.choice([30, 255]))
    for _ in range(rng.integers(1, 7)):
        spot = pick_spot(film, rng, (0.03, 0.03, 0.97, 0.97))
        angle = rng.uniform(-np.pi, np.pi)
        if make in ("snap", "pad"):
            pad = size * (rng.uniform(1.3, 2.2) if make == "pad" else 1.0)
            snaps.disc(spot, pad, tones[0])
            snaps.disc(spot, size * 0.55, tones[1])
            snaps.disc(spot, size * 0.25, tones[2])
        elif make == "ring":
            snaps.line(spot + _closed(_circle(rng)) * size, max(1.0, 0.25 * size), tones[1])
            snaps.disc(spot, size * 0.35, tones[2])
        elif make == "tab":
            snaps.polygon(spot + _turned(_circle(rng, 0.4) * size * (0.6, 1.0), angle), tones[0])
            snaps.disc(spot, size * 0.4, tones[1])
        else:  # an alligator clip, or a grabber with a spring
            jaw = np.array([(-1.2, -0.3), (0.9, -0.45), (1.3, 0.0), (0.9, 0.45), (-1.2, 0.3)])
            snaps.polygon(spot + _turned(jaw * size, angle), tones[0] + 40)
            snaps.line(spot + _turned(jaw[1:4] * size, angle), max(1.0, 0.2 * size), tones[1])
            snaps.disc(spot, size * 0.35, tones[1])
            if make == "grabber":
                back = np.array([(-1.2, 0.0), (-2.4, 0.0)]) * size
                snaps.line(spot + _turned(back, angle), max(1.5, 0.4 * size), tones[1])
        if wired:
            knots = np.linspace(spot, gather, 4)
            knots[1:3] += rng.normal(0, 0.08, (2, 2)) * side
            wires.line(curve(knots, 12), cable, _tone(rng, 130))
    _lay(film, masks, "wire", wires, rng.uniform(0.6, 4.0), rng)
    density = snaps.array()
    seen = absorb(film, density, rng.uniform(1.0, 5.0), rng)
    masks["electrode"] |= seen & (density > 0.1)


def paint_wires(film: Floats, masks: Masks, rng: Rng) -> None:
    """Paint cables that lie on the film without their electrodes: loops, bundles, connectors."""
    sheet, side = _sheet(film)
    start, end = (pick_spot(film, rng, (-0.1, -0.1, 1.1, 1.1)) for _ in range(2))
    knots = np.linspace(start, end, 5)
    knots[1:4] += rng.normal(0, 0.12, (3, 2)) * side
    wide, tone = side * rng.uniform(0.0015, 0.0055), _tone(rng, 130)
    for _ in range(rng.integers(1, 5)):
        sheet.line(curve(knots + rng.normal(0, 0.012, knots.shape) * side, 12), wide, tone)
    if rng.random() < 0.3:
        path = curve(knots, 12)
        at = int(rng.integers(4, len(path) - 6))
        sheet.line(path[at : at + 3], side * rng.uniform(0.008, 0.02), tone)
    _lay(film, masks, "wire", sheet, rng.uniform(0.6, 4.0), rng)


def _clips(sheet: Layer, film: Floats, rng: Rng, side: int) -> None:
    """Surgical clips and staples: short strokes, alone, in rows or in clusters."""
    home = pick_spot(film, rng, (0.15, 0.1, 0.85, 0.95))
    spread, row = rng.uniform(0.0, 0.1) * side, rng.random() < 0.3
    along = rng.normal(0, 0.03, 2) * side
    reach, thick = side * rng.uniform(0.004, 0.014), side * rng.uniform(0.002, 0.005)
    for number in range(rng.integers(1, 9)):
        spot = home + (number * along if row else rng.normal(0, 1, 2) * spread)
        tip = _turned(np.array([(reach, 0.0)]), rng.uniform(0, 3))
        sheet.line(np.concatenate([spot - tip, spot + tip]), thick, 255)
        if rng.random() < 0.4:  # both arms of a V
            other = _turned(tip, rng.uniform(0.2, 0.6))
            sheet.line(np.concatenate([spot - tip, spot - tip + 2 * other]), thick, 255)


def _buttons(sheet: Layer, film: Floats, rng: Rng, side: int) -> None:
    """Buttons and snaps of a gown or shirt: alone, or in a row."""
    width, height = film.shape[1], film.shape[0]
    radius, hole = side * rng.uniform(0.007, 0.022), rng.random()
    tone, dot = _tone(rng, 70, 256), int(rng.choice([20, 255]))
    if rng.random() < 0.5:
        x = rng.uniform(0.1, 0.9) * width
        rows = np.arange(rng.uniform(0.1, 0.3), 0.95, rng.uniform(0.08, 0.25)) * height
        spots = np.stack([x + rng.normal(0, 0.006 * side, len(rows)), rows], axis=1)
    else:
        spots = np.stack([pick_spot(film, rng, (0.03, 0.03, 0.97, 0.97)) for _ in range(3)])
    for spot in spots[: rng.integers(1, 6)]:
        sheet.disc(spot, radius, tone)
        if hole < 0.35:
            sheet.disc(spot, radius * 0.6, dot)
            sheet.disc(spot, radius * 0.3, tone)
        elif hole < 0.7:
            for turn in range(4):
                at = _turned(np.array([(0.35 * radius, 0.0)]), turn * np.pi / 2)[0]
                sheet.disc(spot + at, radius * 0.13, 0)


def _discs(sheet: Layer, film: Floats, rng: Rng, side: int) -> None:
    """A coin, a medal, a port chamber, a lead-shield or a body-piercing ball."""
    spot, radius = pick_spot(film, rng, (0.03, 0.03, 0.97, 0.97)), side * rng.uniform(0.006, 0.04)
    shape = spot + _circle(rng, rng.choice([1.0, 1.0, 0.6])) * radius * rng.uniform(0.7, 1.0, 2)
    sheet.polygon(shape, _tone(rng, 120))
    if rng.random() < 0.5:
        sheet.line(_closed(shape), max(1.0, 0.12 * radius), 255)
    if rng.random() < 0.3:
        sheet.disc(spot, radius * rng.uniform(0.3, 0.6), _tone(rng, 40))


def _rings(sheet: Layer, film: Floats, rng: Rng, side: int) -> None:
    """Rings, ear rings, bra hooks and slides, the ring or struts of a prosthetic valve."""
    for _ in range(rng.integers(1, 4)):
        spot = pick_spot(film, rng, (0.03, 0.03, 0.97, 0.97))
        radius, flat = side * rng.uniform(0.007, 0.035), rng.uniform(0.35, 1.0)
        shape = _turned(_circle(rng, rng.choice([1.0, 1.0, 0.5])) * radius * (1.0, flat),
                        rng.uniform(0, 3.2))  # fmt: skip
        open_from = int(rng.choice([0, 0, 8]))
        sheet.line(spot + _closed(shape)[open_from:], side * rng.uniform(0.002, 0.006), 255)
        if rng.random() < 0.25:
            sheet.line(spot + shape[[0, 24]], side * 0.003, 255)


def _chain(sheet: Layer, film: Floats, rng: Rng, side: int) -> None:
    """A necklace: a thin chain or beads, with or without a pendant."""
    width, height = film.shape[1], film.shape[0]
    low = pick_spot(film, rng, (0.4, 0.12, 0.6, 0.45))
    ends = rng.uniform(0.2, 0.4), rng.uniform(0.6, 0.8)
    path = curve([(ends[0] * width, -0.02 * height), low, (ends[1] * width, -0.02 * height)], 40)
    if rng.random() < 0.6:
        sheet.line(path, side * rng.uniform(0.002, 0.006), _tone(rng, 150))
    else:
        for spot in path[:: rng.integers(2, 5)]:
            sheet.disc(spot, side * rng.uniform(0.003, 0.006), 255)
    if rng.random() < 0.5:
        sheet.polygon(low + _circle(rng, rng.uniform(0.5, 1)) * side * rng.uniform(0.006, 0.02))


def _zip(sheet: Layer, film: Floats, rng: Rng, side: int) -> None:
    """A zip: two rows of teeth and a slider."""
    x, top = pick_spot(film, rng, (0.1, 0.0, 0.9, 0.5))
    pitch, half = side * rng.uniform(0.006, 0.012), side * rng.uniform(0.003, 0.008)
    long = rng.uniform(0.15, 0.7) * side
    for number, y in enumerate(np.arange(top, top + long, pitch)):
        side_of = half if number % 2 else -half
        sheet.line(np.array([(x, y), (x + side_of, y)]), 0.45 * pitch, 255)
    if rng.random() < 0.7:
        pull = np.array([(x - half, top), (x + half, top), (x + half, top + 3 * half),
                         (x - half, top + 3 * half)])  # fmt: skip
        sheet.polygon(pull, 255)


def _rods(sheet: Layer, film: Floats, rng: Rng, side: int) -> None:
    """A plate, rods with screws, a pin, the underwire of a bra, a hair clip."""
    a = pick_spot(film, rng, (0.05, 0.02, 0.95, 0.95))
    b = a + rng.normal(0, 0.15, 2) * side
    kind = rng.choice(3)
    thick = side * rng.uniform(0.005, 0.018)
    if kind == 0:
        sheet.line(np.stack([a, b]), thick, _tone(rng, 170))
        for share in rng.uniform(0, 1, rng.integers(0, 5)):
            sheet.disc(a + share * (b - a), thick * rng.uniform(0.6, 1.2), 255)
    elif kind == 1:
        bow = (a + b) / 2 + rng.normal(0, 0.05, 2) * side
        sheet.line(curve([a, bow, b], 20), side * rng.uniform(0.003, 0.006), 255)
    else:
        gap = rng.normal(0, 0.015, 2) * side
        for shift in (0.0, 1.0):
            sheet.line(np.stack([a, b]) + shift * gap, side * rng.uniform(0.003, 0.006), 255)


def _sternal_wires(sheet: Layer, film: Floats, rng: Rng, side: int) -> None:
    """Sternal wires: twisted loops down the middle."""
    width, height = film.shape[1], film.shape[0]
    x = rng.uniform(0.42, 0.58) * width
    wide, thick = side * rng.uniform(0.018, 0.035), side * rng.uniform(0.002, 0.0045)
    for y in np.arange(rng.uniform(0.15, 0.3), 0.72, rng.uniform(0.06, 0.1)) * height:
        spot = np.array([x + rng.normal(0, 0.006 * side), y])
        shape = _turned(_circle(rng, 1.0) * (wide, wide * rng.uniform(0.15, 0.5)),
                        rng.normal(0, 0.25))  # fmt: skip
        sheet.line(spot + (_closed(shape) if rng.random() < 0.7 else shape[:36]), thick, 255)
        if rng.random() < 0.6:
            sheet.disc(spot + np.array([rng.normal(0, 0.4 * wide), 0.0]), 1.5 * thick, 255)


_METAL: tuple[Callable[[Layer, Floats, Rng, int], None], ...] = (
    _clips, _clips, _buttons, _buttons, _discs, _rings, _chain, _zip, _rods, _sternal_wires,
)  # fmt: skip


def paint_metal(film: Floats, masks: Masks, rng: Rng) -> None:
    """Paint other dense things: clips, buttons, coins, rings, chains, zips, rods, sternal wires."""
    sheet, side = _sheet(film)
    _METAL[rng.integers(len(_METAL))](sheet, film, rng, side)
    density = sheet.array()
    seen = absorb(film, density, rng.uniform(1.0, 6.0), rng)
    masks["metal"] |= seen & (density > 0.12)


def paint_pad(film: Floats, masks: Masks, rng: Rng) -> None:
    """Paint an external pad: a large, faint plate with a rim and its cable."""
    sheet, side = _sheet(film)
    spot = pick_spot(film, rng, (0.1, 0.1, 0.9, 0.95))
    shape = _turned(_circle(rng, 0.45) * side * rng.uniform(0.07, 0.14, 2), rng.uniform(0, 3.2))
    sheet.polygon(spot + shape, _tone(rng, 60, 160))
    sheet.line(spot + _closed(shape), side * rng.uniform(0.002, 0.005), _tone(rng, 150))
    _lay(film, masks, "electrode", sheet, rng.uniform(0.3, 1.2), rng)


def paint_port(film: Floats, masks: Masks, rng: Rng) -> None:
    """Paint a port: its chamber with a ring, and its catheter to the heart."""
    chamber, side = _sheet(film)
    line, _ = _sheet(film)
    flank = rng.choice([-1, 1])
    spot = np.array([0.5 + flank * rng.uniform(0.15, 0.35), rng.uniform(0.12, 0.4)])
    spot = spot * (film.shape[1], film.shape[0])
    radius = side * rng.uniform(0.012, 0.026)
    shape = spot + _circle(rng, rng.choice([1.0, 0.6])) * radius
    chamber.polygon(shape, _tone(rng, 60, 200))
    chamber.line(_closed(shape), max(1.0, 0.2 * radius), 255)
    if rng.random() < 0.6:
        chamber.disc(spot, 0.45 * radius, _tone(rng, 20, 256))
    over = pick_spot(film, rng, (0.4, 0.05, 0.6, 0.2))
    end = pick_spot(film, rng, (0.42, 0.35, 0.52, 0.55))
    line.line(curve([spot, (spot + over) / 2 + rng.normal(0, 0.03, 2) * side, over, end], 14),
              side * rng.uniform(0.0025, 0.005), _tone(rng, 150))  # fmt: skip
    _lay(film, masks, "tube", line, rng.uniform(0.6, 2.5), rng)
    _lay(film, masks, "metal", chamber, rng.uniform(1.0, 5.0), rng)


def paint_letters(film: Floats, masks: Masks, rng: Rng) -> None:
    """Burn lines of text into the film, bright or dark, with or without a plate."""
    side = min(film.shape)
    tall = side * rng.uniform(0.014, 0.055)
    corner = _edge_place(film, rng)
    value = float(rng.choice([1.0, 1.0, 0.85, 0.0]))
    for line in range(rng.integers(1, 4)):
        word = str(rng.choice(_LABELS))
        if rng.random() < 0.6:
            word = "".join(rng.choice(list(_LETTERS), rng.integers(3, 12)))
        sheet, _ = _sheet(film)
        box = sheet.text((corner[0], corner[1] + 1.5 * line * tall), word, tall)
        if len(word) == 1:  # a single letter is a marker
            continue
        _burn(film, masks, "text", sheet, box, value, plate=rng.random() < 0.25)


def paint_marker(film: Floats, masks: Masks, rng: Rng) -> None:
    """Lay a letter of lead beside the body: plain, framed, on a disc, with initials, mirrored."""
    sheet, side = _sheet(film)
    tall = side * rng.uniform(0.025, 0.1)
    x, y = _edge_place(film, rng)
    letter = str(rng.choice(["L", "R", "L", "R", "D", "G", "S", "P", "RT", "LT", "L", "R"]))
    box = sheet.text((x, y), letter, tall, weight=tall * rng.uniform(0.0, 0.07))
    pad = tall * rng.uniform(0.1, 0.3)
    if rng.random() < 0.25:  # the initials of who made it
        initials = "".join(rng.choice(list(_LETTERS[:26]), rng.integers(2, 4)))
        box = (*box[:2], *sheet.text((x, box[3] + 0.2 * tall), initials, 0.4 * tall)[2:])
    low, high = np.array(box[:2]) - pad, np.array(box[2:]) + pad
    frame = rng.random()
    if frame < 0.3:
        path = np.array([low, (high[0], low[1]), high, (low[0], high[1]), low])
        sheet.line(path, max(1.0, tall * 0.08), 235)
    elif frame < 0.55:
        ring = (low + high) / 2 + np.max(high - low) * 0.6 * _closed(_circle(rng))
        sheet.line(ring, max(1.0, tall * 0.07), 235)
        low, high = ring.min(axis=0), ring.max(axis=0)
    elif frame < 0.65:  # an arrow beside it
        tip = np.array([(low[0] - tall, low[1]), (low[0] - 0.4 * tall, low[1] - 0.7 * tall)])
        sheet.line(tip, max(1.5, tall * 0.1), 255)
        barb = tip[1] + np.array([(-0.3, 0.1), (0.0, 0.0), (0.05, 0.3)]) * tall
        sheet.line(barb, max(1.5, tall * 0.1), 255)
        low = np.minimum(low, barb.min(axis=0))
    value = float(rng.choice([1.0, 1.0, 0.9, 0.75]))
    _burn(film, masks, "marker", sheet, (*(low - pad), *(high + pad)), value, plate=False)


def paint_ruler(film: Floats, masks: Masks, rng: Rng) -> None:
    """Burn a ruler with its ticks into a side of the film."""
    sheet, side = _sheet(film)
    x, top = rng.choice([0.02, 0.05, 0.95, 0.98]) * film.shape[1], rng.uniform(0.05, 0.4) * side
    long, pitch = rng.uniform(0.2, 0.5) * side, rng.uniform(0.008, 0.02) * side
    tick = side * rng.uniform(0.006, 0.015) * (1 if x < 0.5 * side else -1)
    for number, y in enumerate(np.arange(top, top + long, pitch)):
        reach = tick * (2 if number % 5 == 0 else 1)
        sheet.line(np.array([(x, y), (x + reach, y)]), max(1.0, 0.002 * side), 255)
    _lay(film, masks, "text", sheet, 6.0, rng)


def _edge_place(film: Floats, rng: Rng) -> tuple[float, float]:
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


PAINTERS: tuple[tuple[float, Callable[[Floats, Masks, Rng], None]], ...] = (
    (0.15, paint_generator),
    (0.35, paint_tube),
    (0.25, paint_tube),
    (0.35, paint_electrodes),
    (0.25, paint_wires),
    (0.35, paint_metal),
    (0.3, paint_metal),
    (0.06, paint_pad),
    (0.12, paint_port),
    (0.04, paint_ruler),
    (0.3, paint_letters),
    (0.45, paint_marker),
)
"""What may lie on a film and how often."""


def paint_objects(film: Floats, rng: Rng) -> Masks:
    """Paint a random choice of objects on a film (H, W), in place; gives where each kind lies."""
    masks = no_masks(film.shape)
    for number in rng.permutation(len(PAINTERS)):
        chance, paint = PAINTERS[number]
        if rng.random() < chance:
            paint(film, masks, rng)
    return masks


def paint_thing(film: Floats, thing: str, rng: Rng) -> tuple[str, NDArray[np.bool_]]:
    """Paint one of `THINGS` where it can be seen; gives the segmenter's kind and where it lies."""
    while True:
        tried, masks = film.copy(), no_masks(film.shape)
        if thing in _METAL_THINGS:
            sheet, side = _sheet(film)
            _METAL_THINGS[thing](sheet, tried, rng, side)
            density = sheet.array()
            kind = "metal"
            masks[kind] = absorb(tried, density, rng.uniform(2.0, 6.0), rng) & (density > 0.12)
        else:
            kind = thing
            (paint_marker if thing == "marker" else paint_generator)(tried, masks, rng)
        if masks[kind].sum() >= _LEAST_SEEN * film.size:
            film[:] = tried
            return kind, masks[kind]


_LEAST_SEEN = 8e-5  # share of a film that a painted thing covers
_METAL_THINGS = {"ring": _rings, "coin": _discs, "clip": _clips, "button": _buttons}

THINGS = (*_METAL_THINGS, "marker", "generator")
"""Things that `paint_thing` paints, one of a kind or several of the same."""
