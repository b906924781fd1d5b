"""Films to train the segmenter on: phantoms with far more variety than a cohort has.

A network that has seen only one maker's bodies and exposures knows nothing else. So bodies,
opacities, bones, folds and shutters are drawn from wide ranges here, on a film (H, W), float32, in
place; `painted_objects` adds what is made by man. No real film is needed.

References
----------
Tobin et al., "Domain randomization for transferring deep neural networks from simulation to the
real world", IROS 2017. Billot et al., SynthSeg, Medical Image Analysis 2023.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from ravl_med.phantoms.anatomy import draw_body
from ravl_med.phantoms.canvas import Floats, Layer, curve
from ravl_med.phantoms.film import FINDINGS, Look, render_phantom
from ravl_med.regions.segmenter import ANY, STRUCTURES
from tests.benchmarks.painted_objects import Masks, paint_marker, paint_objects, pick_spot


def _lay_bone(film: Floats, density: Floats) -> None:
    """Whiten what is dense; what is bright already changes little."""
    film += np.clip(density, 0.0, 1.0) * (1.0 - film)


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


_OWN = {"generator": 0.2, "tube": 0.2, "electrode": 0.2, "marker": 0.25, "text": 0.15}
_SHUT = 0.35  # share of films with shutters, which hide what was drawn before
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
    shut = rng.random()
    if shut < _SHUT / 2:  # letters may lie on a shutter
        _border(film, masks, rng)
    for name, mask in paint_objects(film, rng).items():
        masks[name] |= mask
    if _SHUT / 2 <= shut < _SHUT:
        _border(film, masks, rng)
    if rng.random() < _OTHER:
        film, masks = _other_part(film.shape, rng)
    for name, kinds in ANY.items():
        masks[name] = np.any([masks[kind] for kind in kinds], axis=0)
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
    _lay_bone(film, gaussian_filter(density, blur))


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
        paint_marker(film, masks, rng)
    return film, masks
