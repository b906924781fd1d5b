"""The body on a film: lungs, heart, vessels, airway, diaphragm, soft tissue and bones.

`draw_chest` draws masks and thickness maps, which `film` adds up to an attenuation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.phantoms.body import (
    RIB_PITCH,
    RIB_TOP,
    Body,
    heart_outline,
    lung_outline,
    mediastinum_outline,
    rib_lines,
    skin_outline,
)
from ravl_med.phantoms.canvas import Canvas, Floats, Layer, curve

Points = NDArray[np.float64]

RIB_TIP = np.radians([148, 146, 146, 145, 143, 140, 135, 128, 118, 106, 92])


def _strips(
    canvas: Canvas, sheet: Layer, lines: Points, depths: Points | float, half: Points | float,
    tone: int,
) -> None:  # fmt: skip
    """Draw hollow bones along lines (b, n, 2): a tone inside, brighter at the edges."""
    step = lines[:, 2:] - lines[:, :-2]
    step = np.concatenate([step[:, :1], step, step[:, -1:]], axis=1)
    normal = np.stack([-step[..., 1], step[..., 0]], axis=-1)
    normal *= np.expand_dims(half / np.linalg.norm(step, axis=-1), -1)
    a, b = canvas.place(lines + normal, depths), canvas.place(lines - normal, depths)
    sheet.polygons(np.concatenate([a, b[:, ::-1]], axis=1), tone)
    rim = canvas.pixels(0.007)
    sheet.lines(a, rim, min(255, tone + 38))
    sheet.lines(b, rim, min(255, tone + 55))


def draw_ribs(canvas: Canvas, body: Body) -> Floats:
    """Draw eleven pairs of ribs: line integral of bone (H, W), about 1 where ribs cross."""
    back, front = canvas.layer(), canvas.layer()
    t = np.linspace(0.0, 1.0, 16)
    count = len(RIB_TIP)
    behind = np.broadcast_to(0.03 + t * (0.56 * np.pi - 0.03), (count, 16))
    before = 0.44 * np.pi + t * np.clip(RIB_TIP[:, None] - 0.44 * np.pi, 0.05, None)
    for sheet, angle, half, tone in ((back, behind, 0.0165, 150), (front, before, 0.0205, 128)):
        lines, depths = rib_lines(body, angle)
        for side in (-1, 1):
            flipped = lines * (side, 1.0)
            _strips(canvas, sheet, flipped, depths, half * body.rib_width, tone)
    return back.array() + front.array() * np.float32(0.72)


def draw_shoulders(canvas: Canvas, body: Body, *, anteroposterior: bool) -> Floats:
    """Draw clavicles, scapulae and humeri: line integral of bone (H, W), about 1 in a clavicle.

    In AP films the scapulae lie over the lungs and the clavicles higher.
    """
    girdle, blade = canvas.layer(), canvas.layer()
    d, lift = (0.15, 0.05) if anteroposterior else (0.0, 0.0)
    collar = curve(
        [(0.062, -0.565 - lift * 0.4), (0.16, -0.63 - lift * 0.7), (0.32, -0.665 - lift),
         (0.50, -0.70 - lift), (0.66, -0.755 - lift), (0.80, -0.775 - lift)], 6,
    )  # fmt: skip
    along = np.linspace(0.0, 1.0, len(collar))
    widths = (0.031 - 0.011 * np.sin((0.1 + 0.9 * along) * np.pi)) * np.minimum(
        1.0, 0.45 + 9 * np.minimum(along, 1 - along)
    )
    wing = curve(
        [(0.68 - d, -0.66), (0.635 - d, -0.45), (0.67 - d, -0.2), (0.735 - d, -0.02),
         (0.785 - d, -0.06), (0.84 - d, -0.3), (0.90, -0.50), (0.93, -0.64), (0.82, -0.72)],
        5, closed=True,
    )  # fmt: skip
    crest = curve([(0.66 - d, -0.52), (0.78, -0.65), (0.94, -0.77)], 6)
    shaft = curve([(1.01, -0.64), (1.07, -0.45), (1.17, -0.1), (1.22, 0.1)], 4)
    for side in (-1, 1):
        scale = np.array([side * body.width, body.height])
        _strips(canvas, girdle, (collar * scale)[None], 0.3, widths, 150)
        blade.polygon(canvas.place(wing * scale, -0.5), 50)
        blade.line(canvas.place(wing[17:33] * scale, -0.5), canvas.pixels(0.020), 120)
        blade.line(canvas.place(wing[:17] * scale, -0.5), canvas.pixels(0.009), 95)
        blade.line(canvas.place(crest * scale, -0.5), canvas.pixels(0.032), 105)
        blade.line(canvas.place(shaft * scale), canvas.pixels(0.13), 135)
        head = canvas.place(np.array([(1.0, -0.66)]) * scale)[0]
        blade.disc(head, canvas.pixels(0.112), 150)
    soft = blade.soft(canvas.unit * 0.010)
    return girdle.array() + soft


def draw_spine(canvas: Canvas, body: Body) -> tuple[Floats, Floats]:
    """Draw the vertebrae from the neck to the upper abdomen.

    Returns
    -------
    bone, column : ndarray of shape (H, W), float32
        Line integral of bone, and the mask of the column.
    """
    bodies, details, column = canvas.layer(), canvas.layer(), canvas.layer()
    level = np.arange(-4, 16)
    y = (RIB_TOP + RIB_PITCH * (level + 0.1)) * body.height
    x = body.bend * np.sin(2.2 * y + 0.4)
    half = 0.060 + 0.0018 * level
    tall = RIB_PITCH * body.height * 0.42

    def beside(across: float, down: float) -> Points:
        return np.stack([x + across * half, y + down * tall], axis=-1)

    box = [(-1, -1), (-0.87, 0), (-1, 1), (1, 1), (0.87, 0), (1, -1)]
    bodies.polygons(canvas.place(np.stack([beside(*p) for p in box], axis=1), -0.35), 150)
    for end in (-0.96, 0.96):
        plate = np.stack([beside(-1, end), beside(1, end)], axis=1)
        bodies.lines(canvas.place(plate, -0.35), canvas.pixels(0.011), 205)
    for side in (-1, 1):
        for spot in canvas.place(beside(side * 0.62, -0.25), -0.42):
            details.disc(spot, canvas.pixels(0.013), 150)
        wing = np.stack([beside(side * 0.8, -0.35), beside(side * 1.75, -0.6)], axis=1)
        details.lines(canvas.place(wing, -0.5), canvas.pixels(0.026), 90)
    tip = np.stack([beside(0, 0.3), beside(0, 1.25)], axis=1)
    details.lines(canvas.place(tip, -0.62), canvas.pixels(0.017), 150)
    column.polygon(canvas.place(np.concatenate([beside(-1, 0), beside(1, 0)[::-1]]), -0.35))
    return bodies.array() + np.float32(0.6) * details.array(), column.array()


@dataclass(frozen=True, slots=True, eq=False)
class Chest:
    """The parts of a body on one film; every field has shape (H, W), float32, mostly in [0, 1]."""

    silhouette: Floats
    lung: Floats
    heart: Floats
    mediastinum: Floats
    abdomen: Floats
    spine: Floats
    bones: Floats
    shoulder: Floats
    vessels: Floats
    airway: Floats
    thickness: Floats


def _grow(rng: np.random.Generator, start: Points, heading: Points, length: Points) -> Points:
    """Grow paths (n, 6, 2) from `start` (n, 2) at `heading` (n,) that wander a little."""
    n = len(start)
    t = np.linspace(0.0, 1.0, 6)
    bend = rng.normal(0.0, 0.35, (n, 1)) * t + rng.normal(0.0, 0.05, (n, 6))
    angle = heading[:, None] + bend
    step = np.stack([np.cos(angle), np.sin(angle)], axis=-1) * (length[:, None, None] / 5)
    step[:, 0] = 0.0
    return np.asarray(start[:, None] + np.cumsum(step, axis=1))


def _draw_vessels(canvas: Canvas, body: Body) -> Floats:
    """Return the line integral of the vessel trees of both lungs."""
    rng = np.random.default_rng(body.seed)
    sheet = canvas.layer()
    fan = np.radians([-82, -62, -42, -20, 2, 22, 40, 56, 70, 84])
    reach = np.array([0.46, 0.52, 0.52, 0.50, 0.50, 0.54, 0.60, 0.62, 0.58, 0.5])
    for side in (-1, 1):
        hilum = np.array([0.135, -0.10 if side < 0 else -0.145]) * (body.width, body.height)
        blob = curve([(0.06, -0.09), (0.16, -0.08), (0.20, 0.02), (0.16, 0.10), (0.07, 0.11)], 4)
        blob += (0.02, hilum[1] + 0.01)
        sheet.polygon(canvas.place(blob * (side, 1.0)), 80)
        length = reach * rng.uniform(0.85, 1.1, len(fan))
        spread = np.stack([0 * fan, 0.09 * np.sin(fan)], axis=-1)
        start = hilum + spread + rng.normal(0.0, 0.02, (len(fan), 2))
        paths = _grow(rng, start, fan + rng.normal(0.0, 0.09, len(fan)), length)
        orders = [paths]
        for count, share in ((5, 0.42), (2, 0.48)):
            parent = np.repeat(np.arange(len(paths)), count)
            at = rng.integers(1, 5, len(parent))
            way = paths[parent, at + 1] - paths[parent, at]
            turn = rng.choice([-1.0, 1.0], len(parent)) * rng.uniform(0.35, 0.85, len(parent))
            length = np.repeat(length, count) * share * rng.uniform(0.7, 1.25, len(parent))
            heading = np.arctan2(way[:, 1], way[:, 0]) + turn
            paths = _grow(rng, paths[parent, at], heading, length)
            orders.append(paths)
        for order, width, tone in ((2, 0.005, 85), (1, 0.0105, 140), (0, 0.024, 205)):
            placed = canvas.place(orders[order] * (side, 1.0))
            radius = canvas.pixels(width * body.vessels)
            if order == 2:
                sheet.lines(placed[:, ::2], radius, tone)
                continue
            sheet.lines(placed[:, 2:], radius * 0.5, int(tone * 0.66))
            sheet.lines(placed[:, :3], radius, int(tone * 0.95))
    return sheet.array()


def _draw_airway(canvas: Canvas, body: Body, breath: float) -> Floats:
    """Draw air outside the lungs: trachea, main bronchi, stomach bubble."""
    sheet = canvas.layer()
    h = body.height
    pipe = curve([(0.0, -1.4), (0.004, -0.8), (-0.006, -0.5), (-0.012, -0.235)], 6) * (1, h)
    sheet.line(canvas.place(pipe), canvas.pixels(0.072), 190)
    for s, y in ((-1, -0.10), (1, -0.13)):
        tube = curve([(-0.012, -0.26), (s * 0.06, -0.19), (s * 0.14, y)], 6) * (1, h)
        sheet.line(canvas.place(tube), canvas.pixels(0.045), 130)
    if body.gas:
        y = body.domes[1] * h + breath + 0.05 + 0.05 * body.gas
        t = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        wavy = 1 + 0.12 * np.sin(2 * t + 9 * body.bend) + 0.08 * np.sin(3 * t + 40 * body.fat)
        x, drop = 0.10 * body.gas * wavy * np.cos(t), 0.052 * body.gas * wavy * np.sin(t)
        middle = 0.30 + 0.1 * body.heart_share
        sheet.polygon(canvas.place(np.stack([middle + x, y + drop + 0.3 * x**2], axis=-1)), 235)
    return sheet.soft(canvas.unit * 0.010)


def _thickness(canvas: Canvas, body: Body) -> Floats:
    """Return soft tissue from front to back, (H, W); 1 is the middle of a mean chest."""
    x, y = canvas.lattice()
    across = np.abs(x)
    ys = [-1.4, -0.95, -0.8, -0.6, -0.3, 0.0, 0.4, 0.8, 1.4]
    depth = np.interp(y, ys, [0.50, 0.60, 0.72, 0.86, 0.95, 0.98, 1.04, 1.10, 1.08])
    half = np.interp(y, ys, [0.34, 0.48, 1.1, 1.35, 1.25, 1.0, 0.97, 0.99, 1.0])
    profile = np.clip(1 - (across / (half * (1 + 0.12 * body.fat))) ** 2.6, 0.02, 1) ** 0.5
    field = depth * profile * (0.9 + 0.26 * body.fat)
    cage = np.interp(y, [-0.8, -0.6, -0.3, 0.1, 1.4], [0.3, 0.52, 0.68, 0.76, 0.78]) * body.width
    outside = 1 / (1 + np.exp(-(across - cage - 0.03) / 0.025))
    field *= 1 - (0.10 + 0.10 * body.fat) * outside  # fat outside the cage absorbs less
    fold = -0.02 - 0.30 * (0.85 - across)
    muscle = 1 / (1 + np.exp((y - fold) / 0.03)) / (1 + np.exp((0.34 - across) / 0.06))
    field += 0.055 * (1 - body.breast) * muscle
    for s in (-1, 1):
        u = (x - s * 0.42 * body.width) / 0.30
        v = (y - 0.24 * body.height) / 0.27
        r = np.sqrt(u * u + np.where(v > 0, v * v * 1.2, v * v * 0.45))
        field += 0.20 * body.breast * np.clip(1.15 - r, 0, 1) ** 0.6
    return canvas.enlarge(field.astype(np.float32))


def draw_chest(canvas: Canvas, body: Body, *, anteroposterior: bool, breath: float) -> Chest:
    """Draw a body on a film.

    An AP film has a larger heart shadow, scapulae over the lungs and higher clavicles. `breath`
    shifts the diaphragm, positive for a deep breath.
    """
    lungs, cardiac, centre, below, skin = (canvas.layer() for _ in range(5))
    for side in (-1, 1):
        outline = lung_outline(body, side, breath=breath)
        lungs.polygon(canvas.place(outline))
        dome = outline[-15:-1]
        foot = [(0.0, dome[-1, 1]), (0.0, 1.6), (side * 1.0, 1.6), (side * 1.0, dome[0, 1])]
        below.polygon(canvas.place(np.concatenate([dome, foot])))
    heart = heart_outline(body, breath, 1.035 if anteroposterior else 1.0)
    cardiac.polygon(canvas.place(heart, 0.25))
    centre.polygon(canvas.place(mediastinum_outline(body)))
    skin.polygon(canvas.place(skin_outline(body)))
    column, spine = draw_spine(canvas, body)
    return Chest(
        silhouette=skin.array(),
        lung=lungs.array(),
        heart=cardiac.soft(canvas.unit * 0.008),
        mediastinum=centre.array(),
        abdomen=below.array(),
        spine=spine,
        bones=draw_ribs(canvas, body) + column * np.float32(0.75),
        shoulder=draw_shoulders(canvas, body, anteroposterior=anteroposterior),
        vessels=_draw_vessels(canvas, body),
        airway=_draw_airway(canvas, body, breath),
        thickness=_thickness(canvas, body),
    )
