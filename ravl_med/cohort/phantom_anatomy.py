"""The phantom's body: ribs, lungs, heart, vessels and what else a chest film shows.

Everything is a shape in body coordinates (see `phantom_canvas`); `draw_chest` puts the shapes of
one body on one film as masks and thickness maps, which `phantom` adds up to an attenuation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ravl_med.cohort.phantom_canvas import Canvas, Floats, Layer, curve

__all__ = ["Body", "Chest", "draw_body", "draw_chest", "lung_outline"]

Points = NDArray[np.float64]

RIB_REACH = np.array([0.31, 0.455, 0.55, 0.615, 0.665, 0.70, 0.72, 0.733, 0.735, 0.72, 0.66])
RIB_DROP = np.array([0.17, 0.23, 0.29, 0.35, 0.41, 0.45, 0.48, 0.49, 0.48, 0.46, 0.42])
RIB_END = np.radians([148, 146, 146, 145, 143, 140, 135, 128, 118, 106, 92])  # angle at its tip
RIB_TOP, RIB_PITCH = -0.79, 0.134


@dataclass(frozen=True, slots=True)
class Body:
    """One patient's shape; all films of the patient share it. Lengths in half film sides.

    Parameters
    ----------
    width, height : float
        Size of the rib cage against the mean.
    fat : float
        Thickness of the chest wall, 0 (thin) to 1.
    breast : float
        Breast shadow, 0 (none) to 1.
    cardiothoracic_ratio : float
        Width of the heart over the inner width of the rib cage.
    heart_share : float
        Part of the heart's width that lies on the patient's right.
    knob : float
        Size of the aortic knob.
    domes : tuple of float
        Height of the right and of the left diaphragm dome.
    rib_slope, rib_width, bone : float
        Slant and width of the ribs and density of the bones, against the mean.
    bend : float
        Sideways curve of the spine.
    vessels : float
        Fullness of the lung vessels.
    gas : float
        Size of the stomach bubble, 0 for none.
    seed : tuple of int
        Seed of the vessel tree.
    """

    width: float
    height: float
    fat: float
    breast: float
    cardiothoracic_ratio: float
    heart_share: float
    knob: float
    domes: tuple[float, float]
    rib_slope: float
    rib_width: float
    bone: float
    bend: float
    vessels: float
    gas: float
    seed: tuple[int, ...]


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
    trachea: Floats
    gas: Floats
    thickness: Floats


def draw_body(seed: tuple[int, ...], *, female: bool, age: int, enlarged: bool) -> Body:
    """Draw one patient.

    Parameters
    ----------
    seed : tuple of int
        Seed of everything that is the patient's own.
    female : bool
        Sex.
    age : int
        Years.
    enlarged : bool
        Whether the heart is enlarged (cardiothoracic ratio 0.53 to 0.67, else 0.39 to 0.49).

    Returns
    -------
    Body
        The patient's shape.
    """
    rng = np.random.default_rng([*seed, 1])
    fat = float(np.clip(rng.beta(2.2, 2.6), 0.05, 0.95))
    lo, mode, hi = (0.525, 0.585, 0.67) if enlarged else (0.385, 0.445, 0.495)
    right = rng.uniform(0.29, 0.39)
    return Body(
        width=(0.95 if female else 1.0) * rng.normal(1.0, 0.035),
        height=(0.95 if female else 1.0) * rng.normal(1.0, 0.04),
        fat=fat,
        breast=float(rng.uniform(0.25, 1.0)) if female else float(rng.uniform(0.0, 0.12)),
        cardiothoracic_ratio=float(rng.triangular(lo, mode, hi)),
        heart_share=float(rng.uniform(0.30, 0.38)),
        knob=float(np.clip(rng.normal(0.75 + age / 160, 0.18), 0.5, 1.7)),
        domes=(float(right), float(right + rng.uniform(0.03, 0.09))),
        rib_slope=float(rng.normal(1.0, 0.08)),
        rib_width=float(rng.normal(1.0, 0.08)),
        bone=float(np.clip(rng.normal(1.16 - age / 260, 0.1), 0.6, 1.4)),
        bend=float(rng.normal(0.0, 0.012)),
        vessels=float(rng.normal(1.12 if enlarged else 1.0, 0.12)),
        gas=float(rng.uniform(0.5, 1.3)) if rng.random() < 0.75 else 0.0,
        seed=(*seed, 2),
    )


def _rib(body: Body, number: int, side: int, angle: Points) -> tuple[Points, Points]:
    """Centre line (n, 2) and depth (n,) of a rib at angles from the spine."""
    reach, drop = RIB_REACH[number] * body.width, RIB_DROP[number] * body.rib_slope
    top = (RIB_TOP + RIB_PITCH * number) * body.height
    x = 0.035 + (reach - 0.035) * np.sin(angle)
    y = top + drop * body.height * (1 - np.cos(angle)) / 1.85 - 0.022 * np.sin(2 * angle)
    return np.stack([side * x, y], axis=-1), -0.5 * np.cos(angle)


def lung_outline(body: Body, side: int, inset: float | Points = 0.0, breath: float = 0.0) -> Points:
    """Outline of one lung.

    Parameters
    ----------
    body : Body
        The patient.
    side : int
        -1 for the patient's right (image left), 1 for the left.
    inset : float or ndarray of shape (9,)
        How far the outer border is drawn in, from the apex down; half film sides.
    breath : float
        Shift of the diaphragm, positive for a deep breath.

    Returns
    -------
    ndarray of shape (n, 2), float64
        Closed outline in body coordinates: apex, outer wall, angle, dome, inner border.
    """
    lateral = np.array([_rib(body, i, 1, np.array([np.pi / 2]))[0][0] for i in range(1, 10)])
    lateral[:, 0] -= 0.022
    dome = body.domes[0 if side < 0 else 1] * body.height + breath
    angle_y = dome + 0.27 * body.height
    wall = lateral[lateral[:, 1] < angle_y - 0.05]
    inset_wall = np.broadcast_to(np.asarray(inset, dtype=np.float64), (9,))[: len(wall)]
    wall = wall - np.stack([inset_wall, 0 * inset_wall], axis=-1)
    edge = float(wall[-1, 0])
    top = (RIB_TOP + 0.03) * body.height
    drop_in = float(inset_wall[0])
    apex = [(0.10, top + 0.22), (0.125, top + 0.10 + drop_in * 0.6), (0.20, top + drop_in)]
    apex.append((0.31 * body.width - drop_in * 0.3, top + 0.035 + drop_in * 0.8))
    outer = curve([*apex, *wall, (edge + 0.002, angle_y)], 6)
    k = np.linspace(0.985, 0.06, 14) * edge
    peak = 0.44 * edge
    beyond, before = np.clip((k - peak) / (edge - peak), 0, 1), np.clip((peak - k) / peak, 0, 1)
    rise = beyond**2.3 + 0.32 * before**2
    floor = np.stack([k, dome + 0.26 * body.height * rise], axis=-1)
    outline = np.concatenate([outer, floor, [(0.05, top + 0.4)]])
    outline[:, 0] *= side
    return outline


def heart_outline(body: Body, breath: float, magnification: float) -> Points:
    """Trace the heart: closed outline (n, 2) in body coordinates."""
    inner = 2 * (RIB_REACH.max() - 0.022) * body.width
    w = inner * body.cardiothoracic_ratio * magnification
    r, q = body.heart_share * w, (1 - body.heart_share) * w
    low = 0.44 * body.height + (body.domes[0] - 0.33) + breath * 0.7
    tall = 0.62 * (0.75 + 0.5 * (w / 0.66 - 0.5)) * body.height
    shape = [
        (-0.06, -1.0), (-r * 0.72, -0.72), (-r * 0.97, -0.45), (-r * 0.97, -0.26),
        (-r * 0.78, -0.06),
        (-r * 0.3, 0.02), (0.10, 0.03), (q * 0.62, 0.03), (q * 0.90, -0.05), (q, -0.19),
        (q * 0.97, -0.33), (q * 0.80, -0.55), (q * 0.52, -0.78), (0.12, -0.97), (0.03, -1.04),
    ]  # fmt: skip
    pts = curve(shape, 6, closed=True)
    pts[:, 1] = low + pts[:, 1] * tall
    middle = 0.5 * (q - r)
    reach = pts[:, 0] - middle
    pts[:, 0] = middle + reach * (w / np.ptp(pts[:, 0]))
    return pts


def _mediastinum(body: Body) -> Points:
    k = 0.045 * body.knob
    right = [(-0.13, -1.3), (-0.10, -0.75), (-0.10, -0.55), (-0.115, -0.38), (-0.125, -0.2)]
    low = [(-0.10, 0.1), (-0.08, 0.7), (0.09, 0.7), (0.11, 0.1)]
    left = [(0.14, -0.09), (0.155, -0.17), (0.125, -0.235), (0.118 + k, -0.30), (0.112 + k, -0.36)]
    top = [(0.10, -0.43), (0.085, -0.55), (0.09, -0.75), (0.13, -1.3)]
    pts = curve([*right, *low, *left, *top], 5, closed=True)
    return pts * np.array([1.0, body.height])


def _draw_ribs(canvas: Canvas, body: Body) -> Floats:
    """Line integral of the ribs and clavicles."""
    back, front = canvas.layer(), canvas.layer()
    for number in range(len(RIB_REACH)):
        for side in (-1, 1):
            end = RIB_END[number]
            for sheet, a0, a1, half, tone in (
                (back, 0.03, 0.56 * np.pi, 0.0165, 150),
                (front, 0.44 * np.pi, end, 0.0205, 120),
            ):
                if a1 <= a0:
                    continue
                angle = np.linspace(a0, a1, 18)
                line, depth = _rib(body, number, side, angle)
                _strip(canvas, sheet, line, depth, half * body.rib_width, tone)
    return back.array() + front.array() * np.float32(0.72)


def _strip(
    canvas: Canvas, sheet: Layer, line: Points, depth: Points | float, half: float, tone: int
) -> None:
    """Draw a hollow bone along a line: a tone inside, brighter at its edges."""
    step = np.gradient(line, axis=0)
    normal = np.stack([-step[:, 1], step[:, 0]], axis=-1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    a, b = canvas.place(line + half * normal, depth), canvas.place(line - half * normal, depth)
    sheet.polygon(np.concatenate([a, b[::-1]]), tone)
    rim = canvas.pixels(0.007)
    sheet.line(a, rim, min(255, tone + 38))
    sheet.line(b, rim, min(255, tone + 55))


def _draw_shoulders(canvas: Canvas, body: Body, scapula_shift: float, lift: float) -> Floats:
    """Line integral of clavicles, scapulae and humeral heads."""
    girdle, blade = canvas.layer(), canvas.layer()
    for s in (-1, 1):
        w, h = body.width, body.height
        clavicle = curve(
            [(0.065, -0.575 - lift * 0.4), (0.16, -0.63 - lift * 0.7), (0.32, -0.66 - lift),
             (0.50, -0.70 - lift), (0.66, -0.755 - lift), (0.80, -0.765 - lift)], 6,
        )  # fmt: skip
        clavicle *= np.array([s * w, h])
        widths = 0.03 - 0.010 * np.sin(np.linspace(0.15, 1.0, len(clavicle)) * np.pi)
        step = np.gradient(clavicle, axis=0)
        normal = np.stack([-step[:, 1], step[:, 0]], axis=-1)
        normal *= (widths / np.linalg.norm(normal, axis=1))[:, None]
        a, b = canvas.place(clavicle + normal, 0.3), canvas.place(clavicle - normal, 0.3)
        girdle.polygon(np.concatenate([a, b[::-1]]), 165)
        girdle.line(a, canvas.pixels(0.009), 235)
        girdle.line(b, canvas.pixels(0.009), 235)
        d = scapula_shift
        wing = np.array(
            [(0.66 - d, -0.66), (0.62 - d, -0.45), (0.66 - d, -0.2), (0.73 - d, -0.02),
             (0.79 - d, -0.06), (0.84 - d, -0.3), (0.88, -0.52), (0.92, -0.66), (0.80, -0.72)]
        )  # fmt: skip
        wing = curve(wing, 5, closed=True) * np.array([s * w, h])
        blade.polygon(canvas.place(wing, -0.5), 60)
        blade.line(canvas.place(wing[20:31], -0.5), canvas.pixels(0.022), 150)
        blade.line(canvas.place(wing[:16], -0.5), canvas.pixels(0.008), 105)
        spine = curve([(0.64 - d, -0.52), (0.76, -0.64), (0.92, -0.76)], 6)
        blade.line(canvas.place(spine * (s * w, h), -0.5), canvas.pixels(0.03), 120)
        head = canvas.place(np.array([(s * 1.0 * w, -0.64 * h)]))[0]
        blade.disc(head, canvas.pixels(0.115), 170)
        shaft = np.array([(1.03, -0.6), (1.16, -0.25), (1.24, 0.1)]) * (s * w, h)
        blade.line(canvas.place(shaft), canvas.pixels(0.12), 160)
    return girdle.array() * np.float32(1.05) + blade.array()


def _draw_spine(canvas: Canvas, body: Body) -> tuple[Floats, Floats]:
    """Line integral of the vertebrae, and the mask of the column."""
    bodies, details, column = canvas.layer(), canvas.layer(), canvas.layer()
    middle = []
    for i in range(-3, 16):
        y = (RIB_TOP + RIB_PITCH * (i + 0.1)) * body.height
        x = body.bend * np.sin(2.2 * y + 0.4)
        half = 0.060 + 0.0016 * i
        middle.append((x, y, half))
        tall = RIB_PITCH * body.height * 0.41
        waist = half * 0.86
        box = np.array([(x - half, y - tall), (x - waist, y), (x - half, y + tall),
                        (x + half, y + tall), (x + waist, y), (x + half, y - tall)])  # fmt: skip
        bodies.polygon(canvas.place(box, -0.35), 150)
        for edge in (-tall, tall):
            plate = np.array([(x - half, y + edge), (x + half, y + edge)])
            bodies.line(canvas.place(plate, -0.35), canvas.pixels(0.010), 225)
        for s in (-1, 1):
            at = canvas.place(np.array([(x + s * half * 0.62, y - tall * 0.25)]), -0.42)[0]
            details.disc(at, canvas.pixels(0.013), 170)
            wing = np.array([(x + s * half * 0.8, y - 0.02), (x + s * half * 1.75, y - 0.035)])
            details.line(canvas.place(wing, -0.5), canvas.pixels(0.026), 110)
        tip = np.array([(x, y + tall * 0.3), (x, y + tall * 1.25)])
        details.line(canvas.place(tip, -0.62), canvas.pixels(0.016), 190)
    track = np.array(middle)
    rim = np.stack([track[:, 0] - track[:, 2], track[:, 1]], axis=-1)
    other = np.stack([track[:, 0] + track[:, 2], track[:, 1]], axis=-1)
    column.polygon(canvas.place(np.concatenate([rim, other[::-1]]), -0.35))
    return bodies.array() + np.float32(0.6) * details.array(), column.array()


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
    for side in (-1, 1):
        hilum = np.array([0.135, -0.10 if side < 0 else -0.145]) * (body.width, body.height)
        fan = np.radians([-82, -62, -42, -20, 2, 22, 40, 56, 70, 84])
        heading = fan + rng.normal(0.0, 0.09, len(fan))
        length = np.array([0.46, 0.52, 0.52, 0.50, 0.50, 0.54, 0.60, 0.62, 0.58, 0.5])
        length = length * rng.uniform(0.85, 1.1, len(fan))
        start = (
            hilum
            + rng.normal(0.0, 0.02, (len(fan), 2))
            + np.stack([0 * fan, 0.09 * np.sin(fan)], axis=-1)
        )
        paths = _grow(rng, start, heading, length)
        generations = [paths]
        for count, reach in ((5, 0.42), (3, 0.45)):
            parent = np.repeat(np.arange(len(paths)), count)
            at = rng.integers(1, 5, len(parent))
            direction = paths[parent, at + 1] - paths[parent, at]
            turn = rng.choice([-1.0, 1.0], len(parent)) * rng.uniform(0.35, 0.85, len(parent))
            length = np.repeat(length, count) * reach * rng.uniform(0.7, 1.25, len(parent))
            heading = np.arctan2(direction[:, 1], direction[:, 0]) + turn
            paths = _grow(rng, paths[parent, at], heading, length)
            generations.append(paths)
        for order in (2, 1, 0):
            placed = canvas.place(generations[order] * (side, 1.0))
            radius = canvas.pixels((0.022, 0.0105, 0.005)[order] * body.vessels)
            tone = (205, 140, 85)[order]
            for path in placed:
                if order == 2:
                    sheet.line(path[::2], radius, tone)
                    continue
                sheet.line(path[3:], radius * 0.45, int(tone * 0.62))
                sheet.line(path[1:4], radius * 0.7, int(tone * 0.82))
                sheet.line(path[:2], radius, tone)
    return sheet.array()


def _draw_airway(canvas: Canvas, body: Body) -> Floats:
    sheet = canvas.layer()
    h = body.height
    pipe = curve([(0.0, -1.4), (0.004, -0.8), (-0.006, -0.5), (-0.012, -0.235)], 6) * (1, h)
    sheet.line(canvas.place(pipe), canvas.pixels(0.075), 255)
    for s, y in ((-1, -0.10), (1, -0.13)):
        tube = curve([(-0.012, -0.26), (s * 0.06, -0.19), (s * 0.14, y)], 6) * (1, h)
        sheet.line(canvas.place(tube), canvas.pixels(0.045), 170)
    return sheet.array()


def _thickness(canvas: Canvas, body: Body) -> Floats:
    """Soft tissue from front to back, (H, W); 1 is the middle of a mean chest."""
    x, y = canvas.lattice()
    ys = [-1.4, -0.95, -0.8, -0.6, -0.3, 0.0, 0.4, 0.8, 1.4]
    depth = np.interp(y, ys, [0.55, 0.62, 0.72, 0.86, 0.95, 0.98, 1.04, 1.12, 1.12])
    half = np.interp(y, ys, [0.32, 0.45, 1.1, 1.35, 1.2, 1.0, 0.97, 0.99, 1.0])
    profile = np.clip(1 - (np.abs(x) / (half * (1 + 0.12 * body.fat))) ** 2.6, 0.02, 1) ** 0.5
    field = depth * profile * (0.9 + 0.28 * body.fat)
    for s in (-1, 1):
        u = (x - s * 0.42 * body.width) / 0.30
        v = (y - 0.24 * body.height) / 0.27
        r = np.sqrt(u * u + np.where(v > 0, v * v * 1.2, v * v * 0.45))
        field += 0.20 * body.breast * np.clip(1.15 - r, 0, 1) ** 0.6
    return canvas.enlarge(field.astype(np.float32))


def _silhouette(canvas: Canvas, body: Body) -> Floats:
    sheet = canvas.layer()
    skin = 0.80 * body.width + 0.05 + 0.13 * body.fat
    neck = 0.23 + 0.07 * body.fat
    half = [(neck, -1.6), (neck, -1.02), (neck + 0.10, -0.93), (0.62, -0.86), (0.88, -0.80),
            (1.12, -0.66), (1.35, -0.3), (1.4, 0.0), (1.2, 0.02), (skin + 0.06, -0.04),
            (skin, 0.10), (skin - 0.01, 0.4), (skin, 0.8), (skin + 0.04, 1.8)]  # fmt: skip
    edge = curve(half, 5) * (1.0, body.height)
    sheet.polygon(canvas.place(np.concatenate([edge, edge[::-1] * (-1, 1)])))
    return sheet.array()


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
    lungs, cardiac, centre, below, gas = (canvas.layer() for _ in range(5))
    for side in (-1, 1):
        outline = lung_outline(body, side, breath=breath)
        lungs.polygon(canvas.place(outline))
        dome = outline[-15:-1]
        rim = np.array([(side * 1.0, 1.6), (0.0, 1.6), (0.0, dome[-1, 1])])
        wall = np.array([(side * 1.0, dome[0, 1])])
        below.polygon(canvas.place(np.concatenate([dome, rim[::-1][:1], rim[1::-1], wall])))
    heart = heart_outline(body, breath, 1.035 if anteroposterior else 1.0)
    cardiac.polygon(canvas.place(heart, 0.25))
    centre.polygon(canvas.place(_mediastinum(body), 0.0))
    if body.gas:
        y = body.domes[1] * body.height + breath + 0.045 + 0.05 * body.gas
        t = np.linspace(0, 2 * np.pi, 24)
        bubble = np.stack([0.36 + 0.11 * body.gas * np.cos(t), y + 0.05 * body.gas * np.sin(t)], -1)
        gas.polygon(canvas.place(bubble))
    column, spine = _draw_spine(canvas, body)
    scapulae = _draw_shoulders(
        canvas, body, 0.16 if anteroposterior else 0.0, 0.05 if anteroposterior else 0.0
    )
    soft = canvas.unit * 0.008
    return Chest(
        silhouette=_silhouette(canvas, body),
        lung=lungs.array(),
        heart=gaussian_filter(cardiac.array(), soft, truncate=2.5),
        mediastinum=gaussian_filter(centre.array(), soft, truncate=2.5),
        abdomen=below.array(),
        spine=spine,
        bones=_draw_ribs(canvas, body) + column * np.float32(0.9),
        shoulder=scapulae,
        vessels=_draw_vessels(canvas, body),
        trachea=gaussian_filter(_draw_airway(canvas, body), soft, truncate=2.5),
        gas=gaussian_filter(gas.array(), soft, truncate=2.5),
        thickness=_thickness(canvas, body),
    )
