"""Chest-radiograph phantoms: one posed body, one finding, devices, an exposure.

The model is a line integral: thickness maps of soft tissue, bone, air and metal are added up, the
sum is exposed with quantum noise, and a look-up curve with edge enhancement makes the film, as in a
digital radiograph. Bright is dense (the sense of MONOCHROME2); the patient's left is at the image's
right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, label

from ravl_med.phantoms.anatomy import Body, Chest, draw_chest, lung_outline
from ravl_med.phantoms.canvas import Canvas, Floats, Pose
from ravl_med.phantoms.devices import Device, draw_devices

FINDINGS: tuple[str, ...] = (
    "cardiomegaly",
    "pleural effusion",
    "pneumothorax",
    "consolidation",
    "no finding",
)

LABELS: dict[str, int] = {
    name: value
    for value, name in enumerate(
        ("background", "lung", "heart", "spine", "diaphragm", "generator", "lead", "tube",
         "electrode", "wire", "marker", "text", *FINDINGS)
    )
}  # fmt: skip
"""Values of the label map. An enlarged heart keeps ``heart``; ``cardiomegaly`` and ``no finding``
are reserved and never painted. Devices lie over findings, findings over anatomy."""

ANATOMY: tuple[str, ...] = (
    "right lung", "left lung", "heart", "mediastinum", "abdomen", "spine", "body", "airway",
)  # fmt: skip
"""Structures of every body, with the patient's sides."""

Box = tuple[str, int, int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """One film and the truth about it."""

    pixels: Floats  # (H, W) in [0, 1]; bright is dense
    boxes: tuple[Box, ...]  # kind and xyxy in stored pixels, half-open; cardiomegaly's is the heart
    label_map: NDArray[np.uint8]  # (H, W), values of `LABELS`
    structures: Mapping[str, NDArray[np.bool_]]  # (H, W) of each of `ANATOMY` and kind of device


@dataclass(frozen=True, slots=True)
class Look:
    """How a maker's machine renders a film, each against the mean machine."""

    noise: float = 1.0  # quantum noise
    contrast: float = 1.0  # slope of the look-up curve
    enhancement: float = 1.0  # strength of the edge enhancement


@dataclass(frozen=True, slots=True, eq=False)
class _Disease:
    """The effect of a finding on the air in the lungs, the vessels and the soft tissue."""

    air: Floats | None = None  # factor on the air
    vessels: Floats | None = None  # factor on the vessels
    extra: Floats | None = None  # attenuation added
    mask: NDArray[np.bool_] | None = None


def render_phantom(
    body: Body,
    finding: str,
    features: Sequence[str],
    *,
    seeds: tuple[tuple[int, ...], tuple[int, ...]],
    size: int = 256,
    anteroposterior: bool = False,
    look: Look | None = None,
) -> Phantom:
    """Render one film of a body with a finding out of `FINDINGS` and devices out of `FEATURES`.

    An enlarged heart is a property of `body`. `seeds` are that of the patient's films and that of
    this film. `size` is the nominal side in pixels; height or width may be up to 12 % more. Without
    a `look` the machine is the mean one.
    """
    look = look or Look()
    film = np.random.default_rng(seeds[1])
    canvas = _pose(film, size, anteroposterior)
    breath = float(np.clip(film.normal(-0.025 if anteroposterior else 0.01, 0.025), -0.08, 0.06))
    chest = draw_chest(canvas, body, anteroposterior=anteroposterior, breath=breath)
    patient = np.random.default_rng([*seeds[0], 3])
    disease = _DISEASES[finding](canvas, chest, body, breath, patient)
    devices = draw_devices(
        canvas,
        features,
        np.random.default_rng([*seeds[0], 4]),
        np.random.default_rng([*seeds[1], 5]),
    )
    attenuation = _attenuation(canvas, chest, body, disease, film)
    for device in devices:
        if not device.burned:
            attenuation += device.density
    pixels = _expose(canvas, attenuation, anteroposterior, look, film)
    for device in devices:
        if device.burned:
            pixels = np.maximum(pixels, device.density)
    middle = round(float(canvas.place([(0.0, 0.3)])[0, 0]))
    boxes, label_map = _describe(chest, finding, disease, devices, middle)
    structures = {**_structures(chest, middle), **{d.kind: d.mask for d in devices}}
    return Phantom(pixels, boxes, label_map, structures)


def _pose(rng: np.random.Generator, size: int, anteroposterior: bool) -> Canvas:
    """Choose the film's shape and lay the body on it."""
    grow = round(size * (1 + rng.uniform(0.0, 0.12)))
    height, width = (grow, size) if rng.random() < 0.65 else (size, grow)
    loose = 1.6 if anteroposterior else 1.0
    pose = Pose(
        x=float(np.clip(rng.normal(0.0, 0.022 * loose), -0.08, 0.08)),
        y=float(np.clip(rng.normal(0.05, 0.025 * loose), -0.06, 0.12)),
        scale=float(np.clip(rng.normal(1.12 if anteroposterior else 1.09, 0.03), 1.0, 1.2)),
        tilt=float(np.clip(rng.normal(0.0, 0.016 * loose), -0.07, 0.07)),
        turn=float(np.clip(rng.normal(0.0, 0.035 * loose), -0.14, 0.14)),
    )
    return Canvas(height, width, size, pose)


def _effusion(
    canvas: Canvas, chest: Chest, body: Body, breath: float, rng: np.random.Generator
) -> _Disease:
    """Fluid that climbs the outer wall: a meniscus over one or both lung bases."""
    sides = [(-1,), (1,), (-1, 1)][rng.choice(3, p=[0.4, 0.35, 0.25])]
    sheet = canvas.layer()
    for side in sides:
        dome = body.domes[0 if side < 0 else 1] * body.height + breath
        level = dome + 0.25 - rng.beta(1.7, 2.2) * 0.50 * body.height
        u = np.linspace(0.0, 0.80, 30)
        climb = rng.uniform(0.10, 0.2) * np.clip((u - 0.25) / 0.5, 0, 1.1) ** 2
        top = level + 0.02 - climb + 0.05 * (u < 0.2) * (0.2 - u) / 0.2
        edge = np.stack([side * u, top], -1)
        rim = np.array([(side * 0.95, 1.5), (0.0, 1.5)])
        sheet.polygon(canvas.place(np.concatenate([edge, rim])))
    fluid = sheet.soft(canvas.pixels(rng.uniform(0.012, 0.03)))
    lung = chest.lung > 0.5
    density = np.float32(rng.uniform(0.72, 0.92))
    return _Disease(air=1 - density * fluid, mask=(fluid > 0.5) & lung)


def _pneumothorax(
    canvas: Canvas, chest: Chest, body: Body, breath: float, rng: np.random.Generator
) -> _Disease:
    """Air between lung and wall: a dark crescent without vessels behind a thin pleural line."""
    side = int(rng.choice([-1, 1]))
    depth = rng.uniform(0.035, 0.16)
    fall = np.linspace(1.0, rng.uniform(0.05, 0.6), 9)
    outline = lung_outline(body, side, depth * fall, breath)
    whole, rest, line = canvas.layer(), canvas.layer(), canvas.layer()
    whole.polygon(canvas.place(lung_outline(body, side, breath=breath)))
    rest.polygon(canvas.place(outline))
    border = outline[6 : len(outline) - 22]
    line.line(canvas.place(border), canvas.pixels(0.008))
    lung, collapsed = whole.array(), rest.array()
    gap = np.clip(lung - collapsed, 0, 1)
    air = 1 + np.float32(0.16) * gap - np.float32(rng.uniform(0.03, 0.12)) * collapsed
    pleura = np.float32(rng.uniform(0.045, 0.085)) * line.array() * lung
    return _Disease(air=air, vessels=1 - gap, extra=pleura, mask=gap > 0.5)


def _consolidation(
    canvas: Canvas, chest: Chest, body: Body, breath: float, rng: np.random.Generator
) -> _Disease:
    """Airless patches in one lung zone, with air left in the bronchi."""
    x, y = canvas.lattice()
    side = rng.choice([-1.0, 1.0])
    centre = (side * rng.uniform(0.26, 0.5) * body.width, rng.uniform(-0.40, 0.30) * body.height)
    radius = rng.uniform(0.13, 0.25)
    angle = rng.uniform(0, np.pi)
    u = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
    v = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)
    distance = np.sqrt((u / (1.25 * radius)) ** 2 + (v / (0.8 * radius)) ** 2)
    rough = gaussian_filter(rng.standard_normal(x.shape, dtype=np.float32), 2.2, mode="wrap")
    fine = gaussian_filter(rng.standard_normal(x.shape, dtype=np.float32), 0.9, mode="wrap")
    field = 1.05 - distance + 0.30 * rough / rough.std() + 0.14 * fine / fine.std()
    patch = canvas.enlarge(np.clip(field * 1.25, 0, 1).astype(np.float32))
    patch = np.clip(patch, 0, 1) * chest.lung
    density = np.float32(rng.uniform(0.36, 0.74))
    mask = patch > 0.4
    return _Disease(air=1 - density * patch, vessels=1 - np.float32(0.8) * patch, mask=mask)


_DISEASES: dict[str, Callable[..., _Disease]] = {
    "cardiomegaly": lambda *_: _Disease(),
    "pleural effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "consolidation": _consolidation,
    "no finding": lambda *_: _Disease(),
}


def _attenuation(
    canvas: Canvas, chest: Chest, body: Body, disease: _Disease, rng: np.random.Generator
) -> Floats:
    """Add up the line integrals; 1 is soft tissue of a mean chest's depth."""
    deep = canvas.enlarge(gaussian_filter(canvas.shrink(chest.lung), 3.5))
    thick_heart = canvas.enlarge(gaussian_filter(canvas.shrink(chest.heart), 4.0))
    air = chest.lung * (0.50 + 0.38 * deep)
    air *= 1 - chest.heart * (0.50 + 0.42 * thick_heart)
    air *= 1 - np.float32(0.80) * chest.mediastinum
    air *= 1 + np.float32(0.032) * canvas.grain(rng, 0.9, fine=True)
    lungs = air.copy()
    if disease.air is not None:
        air *= disease.air
    air += np.float32(0.32) * chest.airway * (1 - np.float32(0.6) * chest.lung)
    vessels = chest.vessels * lungs
    if disease.vessels is not None:
        vessels *= disease.vessels
    total = chest.thickness * (1 - np.float32(0.76) * air)
    total *= 1 + np.float32(0.012) * canvas.grain(rng, 2.0)
    total += np.float32(0.22) * vessels
    total += np.float32(0.165 * body.bone) * chest.bones * (0.38 + 0.62 * deep)
    total += np.float32(0.17 * body.bone) * chest.shoulder
    total += np.float32(0.05) * np.maximum(chest.heart, chest.mediastinum * (1 - chest.abdomen))
    if disease.extra is not None:
        total += disease.extra
    return np.asarray(total * chest.silhouette, dtype=np.float32)


def _expose(
    canvas: Canvas, attenuation: Floats, anteroposterior: bool, look: Look, rng: np.random.Generator
) -> Floats:
    """Turn attenuation into a film (H, W) of [0, 1]: detector, processing and collimator."""
    noise = rng.standard_normal(attenuation.shape, dtype=np.float32)
    quantum = np.float32(
        look.noise * rng.uniform(0.012, 0.024) * (1.25 if anteroposterior else 1.0)
    )
    signal = attenuation + quantum * noise * (0.35 + attenuation)
    signal = gaussian_filter(signal, canvas.unit * 0.0042, truncate=2.5)
    broad = canvas.enlarge(gaussian_filter(canvas.shrink(signal), 4.0))
    # Dynamic-range compression with edge enhancement, as digital systems do.
    sharp = (0.62 + 0.06 * look.enhancement) * signal + 0.30 * broad
    sharp += np.float32(0.28 * look.enhancement) * (signal - broad)
    slope = look.contrast * rng.uniform(3.9, 4.9) * (0.88 if anteroposterior else 1.0)
    middle = rng.normal(0.60, 0.03)
    film = 1 / (1 + np.exp(-slope * (sharp - np.float32(middle))))
    floor = 1 / (1 + np.exp(slope * middle))
    film = np.clip((film - floor) / (0.985 - floor), 0, 1).astype(np.float32)
    if rng.random() < 0.4:
        _collimate(film, rng)
    return np.asarray(film)


def _collimate(film: Floats, rng: np.random.Generator) -> None:
    """Blacken one to four borders of a film of shape (H, W), in place."""
    height, width = film.shape
    for axis, side in ((0, 0), (0, 1), (1, 0), (1, 1)):
        length = height if axis == 0 else width
        band = int(length * rng.uniform(-0.02, 0.035))
        if band > 0:
            view = film if axis == 0 else film.T
            stop = slice(0, band) if side == 0 else slice(length - band, length)
            view[stop] *= np.float32(0.04)


def _describe(
    chest: Chest, finding: str, disease: _Disease, devices: Sequence[Device], middle: int
) -> tuple[tuple[Box, ...], NDArray[np.uint8]]:
    """Paint the label map and list the boxes."""
    labels = np.zeros(chest.lung.shape, dtype=np.uint8)
    labels[(chest.abdomen > 0.5) & (chest.silhouette > 0.5)] = LABELS["diaphragm"]
    labels[chest.lung > 0.5] = LABELS["lung"]
    labels[(chest.spine > 0.5) & (chest.silhouette > 0.5)] = LABELS["spine"]
    heart = chest.heart > 0.5
    labels[heart] = LABELS["heart"]
    boxes: list[Box] = []
    mask = heart if finding == "cardiomegaly" else disease.mask
    if mask is not None:
        cut = middle if finding == "pleural effusion" else 0  # fluid on both sides is two boxes
        for left, part in ((0, mask[:, :cut]), (cut, mask[:, cut:])):
            rows, cols = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
            if len(rows):
                x0, x1 = left + int(cols[0]), left + int(cols[-1]) + 1
                boxes.append((finding, x0, int(rows[0]), x1, int(rows[-1]) + 1))
    if disease.mask is not None:
        labels[disease.mask] = LABELS[finding]
    for device in devices:
        labels[device.mask] = LABELS[device.kind]
        boxes += [(device.kind, *box) for box in device.boxes]
    return tuple(boxes), labels


def _structures(chest: Chest, middle: int) -> dict[str, NDArray[np.bool_]]:
    """Return the masks of `ANATOMY`; the middle of the body separates the lungs."""
    parts, count = label(chest.lung > 0.5)
    right = np.zeros(parts.shape, dtype=bool)
    for part in range(1, count + 1):
        here = parts == part
        right |= here & (np.nonzero(here)[1].mean() < middle)
    body = chest.silhouette > 0.5
    masks = (
        right, (parts > 0) & ~right, chest.heart > 0.5, chest.mediastinum > 0.5,
        (chest.abdomen > 0.5) & body, (chest.spine > 0.5) & body, body, chest.airway > 0.4,
    )  # fmt: skip
    return dict(zip(ANATOMY, masks, strict=True))
