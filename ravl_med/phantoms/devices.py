"""Devices and letters on a phantom film: pacemakers, tubes, electrodes, markers, text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravl_med.phantoms.canvas import Canvas, Floats, Layer, curve, text_extent

FEATURES: tuple[str, ...] = ("generator", "tube", "electrode", "marker", "text")
"""Devices that can be planted. A generator has its lead, electrodes have their wires."""

BASE_RATE = {"generator": 0.05, "tube": 0.06, "electrode": 0.2, "marker": 0.6, "text": 0.15}
"""How often a device that is not planted lies on a film, whatever the disease."""

Window = tuple[float, float, float, float]
Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Device:
    """All devices of one kind on a film."""

    kind: str  # of `FEATURES`, or lead or wire
    density: Floats  # (H, W), line integral added to the body's; opacity of ink if `burned`
    mask: NDArray[np.bool_]  # (H, W), where it is seen
    boxes: tuple[tuple[int, int, int, int], ...]  # one a device, xyxy in stored pixels, half-open
    burned: bool = False  # written into the pixels after the exposure


def draw_devices(
    canvas: Canvas, features: Sequence[str], patient: np.random.Generator, film: np.random.Generator
) -> list[Device]:
    """Draw the devices out of `FEATURES` that reach into the film.

    The generators draw what is the patient's own (the can and its place), and what changes from
    film to film.
    """
    devices: list[Device] = []
    if "generator" in features:
        devices += _draw_generator(canvas, patient)
    if "tube" in features:
        devices += _draw_tube(canvas, patient)
    if "electrode" in features:
        devices += _draw_electrodes(canvas, film)
    if "marker" in features or "text" in features:
        devices += _draw_lettering(canvas, features, film)
    return [device for device in devices if device.boxes]


def _window(points: Points, margin: float) -> Window:
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _device(
    kind: str, sheet: Layer, gain: float, windows: Sequence[Window], *, floor: float = 0.2
) -> Device:
    """Return a finished sheet as a device, with one box in each window."""
    density = sheet.array()
    mask = density > floor
    boxes = []
    for x0, y0, x1, y1 in windows:
        left, top = max(int(x0), 0), max(int(y0), 0)
        part = mask[top : max(int(y1) + 2, 0), left : max(int(x1) + 2, 0)]
        rows, cols = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        if len(rows):
            box = (left + cols[0], top + rows[0], left + cols[-1] + 1, top + rows[-1] + 1)
            boxes.append((int(box[0]), int(box[1]), int(box[2]), int(box[3])))
    return Device(kind, density * np.float32(gain), mask, tuple(boxes), burned=kind == "text")


def _draw_generator(canvas: Canvas, rng: np.random.Generator) -> list[Device]:
    """Draw a pulse generator below the left clavicle and its leads to the heart."""
    can, lead = canvas.layer(), canvas.layer()
    pocket = np.array([rng.uniform(0.44, 0.55), rng.uniform(-0.55, -0.42)])
    half = rng.uniform(0.100, 0.125) * canvas.width / (2 * canvas.unit * canvas.pose.scale)
    turn = rng.uniform(-0.45, 0.45)
    cos, sin = np.cos(turn), np.sin(turn)

    def on_can(points: object) -> Points:
        p = np.asarray(points, dtype=np.float64) * half
        return canvas.place(p @ np.array([[cos, sin], [-sin, cos]]) + pocket, 0.45)

    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    power = rng.uniform(0.55, 0.8)
    c, s = np.cos(t), np.sin(t)
    shell = np.stack([np.sign(c) * np.abs(c) ** power, np.sign(s) * np.abs(s) ** power * 0.86], -1)
    shell[:, 1] += 0.12
    header = np.array([(-0.72, -0.60), (-0.62, -0.98), (0.45, -1.02), (0.74, -0.60)])
    can.polygon(on_can(header), 110)
    for row in (-0.90, -0.74)[: rng.integers(1, 3)]:
        can.line(on_can([(-0.60, row), (0.35, row)]), canvas.pixels(half * 0.11), 190)
    can.polygon(on_can(shell), 210)
    can.polygon(on_can(shell * 0.88 + (0, 0.015)), 140)
    can.polygon(on_can([(-0.72, 0.12), (0.70, 0.12), (0.52, 0.80), (-0.52, 0.80)]), 240)
    can.polygon(on_can([(-0.5, -0.42), (0.15, -0.42), (0.15, -0.05), (-0.5, -0.05)]), 185)

    plug = pocket + half * np.array([-0.62 * cos + 0.86 * sin, -0.62 * sin - 0.86 * cos])
    vein = [plug, plug - np.array([0.04, 0.03]), (0.33, -0.60), (0.22, -0.595), (0.08, -0.525)]
    cava = [(-0.055, -0.42), (-0.085, -0.25), (-0.105, -0.05)]
    apex = np.array([(-0.085, 0.12), (0.0, 0.235), (0.12, 0.285), (0.235, 0.275)])
    paths = [curve([*vein, *cava, *(apex + rng.normal(0, 0.015, (1, 2)))], 8)]
    if rng.random() < 0.55:
        hook = np.array([(-0.07, 0.03), (-0.02, 0.045), (0.005, -0.03)]) + rng.normal(0, 0.01, 2)
        shifted = [(x - 0.012, y + 0.014) for x, y in [*vein[1:], *cava]]
        paths.append(curve([plug, *shifted, *hook], 8))
    if rng.random() < 0.5:
        loop = pocket + half * np.array([(-1.15, 0.2), (-0.9, 1.15), (0.3, 1.3), (1.1, 0.6)])
        paths.append(curve([plug, *loop, pocket + half * np.array([0.9, -0.4])], 6))
    for path in paths:
        lead.line(canvas.place(path, 0.2), canvas.pixels(0.0095), 210)
    for path in paths[:2]:
        for a, b in ((-2, None), (-7, -4)):
            lead.line(canvas.place(path[a:b], 0.2), canvas.pixels(0.016), 255)
    all_paths = canvas.place(np.concatenate(paths), 0.2)
    margin = canvas.pixels(0.03) + 2
    return [
        _device("lead", lead, 0.55, [_window(all_paths, margin)]),
        _device("generator", can, 0.82, [_window(on_can(shell * 1.4), margin)]),
    ]


def _draw_tube(canvas: Canvas, rng: np.random.Generator) -> list[Device]:
    """Draw a chest tube: two walls, a stripe, side holes."""
    sheet = canvas.layer()
    side = rng.choice([-1, 1])
    low = rng.uniform(0.18, 0.42)
    high = rng.uniform(-0.55, -0.25)
    end = (rng.uniform(0.2, 0.42), high)
    knots = [(1.05, low + 0.12), (0.82, low + 0.02), (0.62, low - 0.14), (0.50, 0.5 * high), end]
    path = curve(knots, 10) * (side, 1.0)
    half = rng.uniform(0.016, 0.021)
    step = np.gradient(path, axis=0)
    normal = np.stack([-step[:, 1], step[:, 0]], -1) / np.linalg.norm(step, axis=1)[:, None]
    a, b = canvas.place(path + half * normal), canvas.place(path - half * normal)
    sheet.polygon(np.concatenate([a, b[::-1]]), 62)
    for wall in (a, b):
        sheet.line(wall, canvas.pixels(0.006), 120)
    stripe = canvas.place(path + 0.35 * half * normal)
    n = len(stripe)
    holes = [n - 4, n - 9, n - 14]
    for start, stop in zip([0, *(h + 2 for h in holes[::-1])], [*holes[::-1], n], strict=True):
        if stop - start > 1:
            sheet.line(stripe[start:stop], canvas.pixels(0.009), 255)
    points = np.concatenate([a, b])
    return [_device("tube", sheet, 0.34, [_window(points, canvas.pixels(0.012) + 2)])]


def _draw_electrodes(canvas: Canvas, rng: np.random.Generator) -> list[Device]:
    """Draw three to five ECG snaps and the wires that leave them."""
    snaps, wires = canvas.layer(), canvas.layer()
    places = np.array([(-0.56, -0.50), (0.60, -0.46), (0.62, 0.46), (-0.60, 0.44), (0.14, 0.12)])
    count = int(rng.integers(3, 6))
    chosen = places[np.sort(rng.permutation(5)[:count])] + rng.normal(0, 0.05, (count, 2))
    gather = np.array([rng.choice([-1.0, 1.0]) * rng.uniform(0.1, 0.9), 1.5])
    boxes, runs = [], []
    for spot in chosen:
        middle = canvas.place(spot[None], 0.55)[0]
        snaps.disc(middle, canvas.pixels(0.046), 30)
        snaps.disc(middle, canvas.pixels(0.025), 175)
        snaps.disc(middle, canvas.pixels(0.011), 255)
        boxes.append(_window(middle[None], canvas.pixels(0.05) + 1))
        sway = rng.normal(0, 0.10, (2, 2))
        knots = [spot, spot + 0.35 * (gather - spot) + sway[0],
                 spot + 0.7 * (gather - spot) + sway[1], gather]  # fmt: skip
        wire = canvas.place(curve(knots, 10), 0.55)
        wires.line(wire, canvas.pixels(0.0075), 200)
        runs.append(_window(wire, 3.0))
    return [_device("wire", wires, 0.30, runs), _device("electrode", snaps, 0.55, boxes)]


def _draw_lettering(
    canvas: Canvas, features: Sequence[str], rng: np.random.Generator
) -> list[Device]:
    """Set a lead letter in an upper corner and burned text in another."""
    devices = []
    size, width = 2 * canvas.unit, canvas.width
    left_letter = bool(rng.random() < 0.5)
    text_right = not left_letter if "marker" in features else bool(rng.random() < 0.5)
    if "marker" in features:
        sheet = canvas.layer()
        tall = size * rng.uniform(0.060, 0.082)
        edge, top = size * rng.uniform(0.045, 0.10), size * rng.uniform(0.04, 0.12)
        letter = "L" if left_letter else "R"
        wide, _ = text_extent(letter, tall)
        x = width - edge - wide if left_letter else edge
        box = sheet.text((x, top), letter, tall, weight=tall * 0.035)
        if rng.random() < 0.4:
            pad = tall * 0.22
            x0, y0, x1, y1 = box[0] - pad, box[1] - pad, box[2] + pad, box[3] + pad
            frame = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])
            sheet.line(frame, tall * 0.07, 230)
        margin = tall * 0.4
        window = (box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin)
        devices.append(_device("marker", sheet, 1.6, [window]))
    if "text" in features:
        sheet = canvas.layer()
        tall = size * rng.uniform(0.034, 0.042)
        wide, _ = text_extent("PORTABLE", tall)
        edge, top = size * 0.03, size * rng.uniform(0.02, 0.05)
        x = width - edge - wide if text_right else edge
        box = sheet.text((x, top), "PORTABLE", tall)
        devices.append(
            _device("text", sheet, 1.0, [(box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2)])
        )
    return devices
