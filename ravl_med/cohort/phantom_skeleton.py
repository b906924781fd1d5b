"""The phantom's bones on one film: ribs, clavicles, scapulae, humeri, vertebrae."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.phantom_body import RIB_PITCH, RIB_TOP, Body, rib_lines
from ravl_med.cohort.phantom_canvas import Canvas, Floats, Layer, curve

__all__ = ["draw_ribs", "draw_shoulders", "draw_spine"]

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
    """Draw eleven pairs of ribs.

    Parameters
    ----------
    canvas : Canvas
        The film.
    body : Body
        The patient.

    Returns
    -------
    ndarray of shape (H, W), float32
        Line integral of bone, about 1 where ribs cross.
    """
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
    """Draw clavicles, scapulae and humeri.

    Parameters
    ----------
    canvas : Canvas
        The film.
    body : Body
        The patient.
    anteroposterior : bool
        Scapulae over the lungs and clavicles higher.

    Returns
    -------
    ndarray of shape (H, W), float32
        Line integral of bone, about 1 in a clavicle.
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

    Parameters
    ----------
    canvas : Canvas
        The film.
    body : Body
        The patient.

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
