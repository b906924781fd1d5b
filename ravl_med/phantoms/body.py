"""The phantom's body: one patient's shape, and its outlines in body coordinates (see `Canvas`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.phantoms.canvas import curve

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
