"""What a body puts on a film: lungs, heart, vessels, airway, diaphragm, soft tissue, bones.

`draw_chest` draws them as masks and thickness maps, which `phantom` adds up to an attenuation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.phantom_body import (
    Body,
    heart_outline,
    lung_outline,
    mediastinum_outline,
    skin_outline,
)
from ravl_med.cohort.phantom_canvas import Canvas, Floats, curve
from ravl_med.cohort.phantom_skeleton import draw_ribs, draw_shoulders, draw_spine

__all__ = ["Chest", "draw_chest"]

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Chest:
    """What the body puts on one film; every field of shape (H, W), float32, mostly in [0, 1]."""

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
    """Paths (n, 6, 2) that leave `start` (n, 2) at `heading` (n,) and wander a little."""
    n = len(start)
    t = np.linspace(0.0, 1.0, 6)
    bend = rng.normal(0.0, 0.35, (n, 1)) * t + rng.normal(0.0, 0.05, (n, 6))
    angle = heading[:, None] + bend
    step = np.stack([np.cos(angle), np.sin(angle)], axis=-1) * (length[:, None, None] / 5)
    step[:, 0] = 0.0
    return np.asarray(start[:, None] + np.cumsum(step, axis=1))


def _draw_vessels(canvas: Canvas, body: Body) -> Floats:
    """Line integral of the vessel trees of both lungs."""
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
    """Air outside the lungs: trachea, main bronchi, stomach bubble."""
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
    """Soft tissue from front to back, (H, W); 1 is the middle of a mean chest."""
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

    Parameters
    ----------
    canvas : Canvas
        The film.
    body : Body
        The patient.
    anteroposterior : bool
        AP instead of PA: a larger heart shadow, scapulae over the lungs, higher clavicles.
    breath : float
        Shift of the diaphragm, positive for a deep breath.

    Returns
    -------
    Chest
        Masks and thickness maps.
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
