"""A patient's body, and its anatomy on a film: lungs, heart, vessels, airway, diaphragm, bones.

Outlines are in body coordinates (see `Canvas`). `draw_chest` draws masks and thickness maps, which
`film` adds up to an attenuation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.phantoms.canvas import Canvas, Floats, Layer, curve

Points = NDArray[np.float64]

RIB_REACH = np.array([0.29, 0.445, 0.55, 0.615, 0.665, 0.70, 0.72, 0.733, 0.735, 0.72, 0.66])
RIB_DROP = np.array([0.19, 0.24, 0.29, 0.35, 0.41, 0.45, 0.48, 0.49, 0.48, 0.46, 0.42])
RIB_TOP, RIB_PITCH = -0.79, 0.134  # of the first rib at the spine, and from rib to rib


@dataclass(frozen=True, slots=True)
class Body:
    """One patient's shape, shared by all films of the patient; lengths in half film sides."""

    width: float  # of the rib cage against the mean, as its height
    height: float
    fat: float  # thickness of the chest wall, 0 (thin) to 1
    breast: float  # shadow, 0 (none) to 1
    cardiothoracic_ratio: float  # width of the heart over the inner width of the rib cage
    heart_share: float  # part of the heart's width that lies on the patient's right
    knob: float  # size of the aortic knob
    domes: tuple[float, float]  # height of the right and the left diaphragm dome
    rib_slope: float  # slant and width of the ribs and density of the bones, against the mean
    rib_width: float
    bone: float
    bend: float  # sideways curve of the spine
    vessels: float  # fullness of the lung vessels
    gas: float  # size of the stomach bubble, 0 for none
    seed: tuple[int, ...]  # of the vessel tree


def draw_body(seed: tuple[int, ...], *, female: bool, age: int, enlarged: bool) -> Body:
    """Draw one patient from the seed of everything that is the patient's own; `age` is in years.

    An enlarged heart has a cardiothoracic ratio of 0.475 to 0.63, another 0.395 to 0.53; they
    overlap where real readers disagree.
    """
    rng = np.random.default_rng([*seed, 1])
    fat = float(np.clip(rng.beta(2.2, 2.6), 0.05, 0.95))
    lo, mode, hi = (0.475, 0.535, 0.63) if enlarged else (0.395, 0.45, 0.53)
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
        vessels=float(rng.normal(1.04 if enlarged else 1.0, 0.12)),
        gas=float(rng.uniform(0.5, 1.3)) if rng.random() < 0.75 else 0.0,
        seed=(*seed, 2),
    )


def rib_lines(body: Body, angle: Points) -> tuple[Points, Points]:
    """Trace the ribs of the patient's left: centre lines (11, n, 2) and depths (11, n).

    `angle` (11, n) runs along each rib in radians, from the spine (0) over the outer wall (pi / 2)
    to the front.
    """
    reach, drop = RIB_REACH[:, None] * body.width, RIB_DROP[:, None] * body.rib_slope
    top = (RIB_TOP + RIB_PITCH * np.arange(len(RIB_REACH))[:, None]) * body.height
    x = 0.035 + (reach - 0.035) * np.sin(angle)
    y = top + drop * body.height * (1 - np.cos(angle)) / 1.85 - 0.022 * np.sin(2 * angle)
    return np.stack([x, y], axis=-1), -0.5 * np.cos(angle)


def lung_outline(body: Body, side: int, inset: float | Points = 0.0, breath: float = 0.0) -> Points:
    """Trace one lung, closed (n, 2): apex, outer wall, angle, dome, inner border.

    Parameters
    ----------
    side : int - -1 for the patient's right (image left), 1 for the left
    inset : float or ndarray of shape (9,) - shift of the outer border inwards, from the apex down
    breath : float - shift of the diaphragm, positive for a deep breath
    """
    lateral = rib_lines(body, np.full((len(RIB_REACH), 1), np.pi / 2))[0][1:10, 0]
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
        (-0.10, -1.02), (-r * 0.72, -0.72), (-r * 0.97, -0.45), (-r * 0.97, -0.26),
        (-r * 0.78, -0.06),
        (-r * 0.3, 0.02), (0.10, 0.03), (q * 0.62, 0.03), (q * 0.90, -0.05), (q, -0.19),
        (q * 0.97, -0.33), (q * 0.80, -0.55), (q * 0.52, -0.78), (0.155, -0.98), (0.03, -1.08),
    ]  # fmt: skip
    pts = curve(shape, 6, closed=True)
    pts[:, 1] = low + pts[:, 1] * tall
    middle = 0.5 * (q - r)
    reach = pts[:, 0] - middle
    pts[:, 0] = middle + reach * (w / np.ptp(pts[:, 0]))
    return pts


def mediastinum_outline(body: Body) -> Points:
    """Trace the great vessels and the rest between the lungs: closed outline (n, 2)."""
    k = 0.045 * body.knob
    right = [(-0.13, -1.3), (-0.095, -0.75), (-0.10, -0.55), (-0.125, -0.38), (-0.145, -0.2)]
    low = [(-0.10, 0.1), (-0.08, 0.7), (0.09, 0.7), (0.11, 0.1)]
    left = [(0.14, -0.09), (0.158, -0.17), (0.142, -0.235), (0.118 + k, -0.31), (0.112 + k, -0.37)]
    top = [(0.10, -0.43), (0.085, -0.55), (0.09, -0.75), (0.13, -1.3)]
    pts = curve([*right, *low, *left, *top], 5, closed=True)
    stretched: Points = pts * np.array([1.0, body.height])
    return stretched


def skin_outline(body: Body) -> Points:
    """Trace neck, shoulders, armpits and flanks: closed outline (n, 2) in body coordinates."""
    skin = 0.80 * body.width + 0.05 + 0.13 * body.fat
    neck = 0.24 + 0.07 * body.fat
    half = [(neck, -1.6), (neck, -1.06), (neck + 0.05, -0.97), (neck + 0.20, -0.91), (0.68, -0.87),
            (0.92, -0.81), (1.12, -0.68), (1.35, -0.3), (1.4, 0.02), (1.2, 0.09),
            (skin + 0.07, 0.0), (skin + 0.01, 0.14), (skin - 0.01, 0.4), (skin, 0.8),
            (skin + 0.04, 1.8)]  # fmt: skip
    edge = curve(half, 5) * (1.0, body.height)
    return np.concatenate([edge, edge[::-1] * (-1, 1)])


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
