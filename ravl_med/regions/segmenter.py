"""Segmenters: the structures that they find, and the built-in U-Nets.

One network finds the anatomy on a coarse picture of the film, the other what is made by man on a
finer one. Their weights lie beside this module; ``tests/benchmarks`` holds their training, and
``README.md`` names the films that they were trained on.

References
----------
Ronneberger et al., U-Net, MICCAI 2015; MONAI's ``UNet`` with residual units.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ravl_med.phantoms.film import ANATOMY

SIDE = 256
"""Side of a mask in pixels; films are squashed to a square."""

FINE_SIDE = 512
"""Side of the picture on which the built-in segmenter looks for what is made by man."""


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """The structures of a film, as likelihoods."""

    likelihoods: Mapping[str, NDArray[np.float32]]  # (S, S) by structure, 0 to 1; S may differ
    found: Mapping[str, float] = field(default_factory=dict)  # least of an object's core, by kind
    names: Mapping[str, float] = field(default_factory=dict)  # mean from which a thing has a name
    lean: float | None = (
        None  # how far the heart leans to the right of the picture; None: `lean_of`
    )

    def edge(self, name: str) -> float:
        """Return the likelihood above which a pixel belongs to a structure."""
        return min(_HALF, self.found.get(name, _HALF))

    def mask(self, *names: str) -> NDArray[np.bool_]:
        """Return where any of some structures lies, (SIDE, SIDE); unknown ones lie nowhere."""
        found: NDArray[np.bool_] = np.zeros((SIDE, SIDE), dtype=np.bool_)
        for name in names:
            if name in self.likelihoods:
                found |= coarse_mask(self.likelihoods[name] > self.edge(name))
        return found


def coarse_mask(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Bring a mask (S, S), S a multiple of SIDE, to (SIDE, SIDE); what is thin stays."""
    step = len(mask) // SIDE
    if step < 2:
        return mask
    parts = [mask[row::step, column::step] for row in range(step) for column in range(step)]
    return np.asarray(np.logical_or.reduce(parts))


class Segmenter(Protocol):
    """Finds structures on films; `digest` is the SHA-256 of its weights."""

    structures: tuple[str, ...]
    digest: str

    def segment(self, pixels: NDArray[np.float32]) -> Segmentation:
        """Segment a film (H, W), float32 in [0, 1]; bright is dense."""
        ...


OBJECTS: tuple[str, ...] = (
    "generator", "lead", "tube", "electrode", "wire", "metal", "marker", "text",
)  # fmt: skip
"""What is made by man. A wire leaves an electrode and a lead a generator; metal is any other dense
object, such as clips, buttons and jewellery."""

LETTERS = ("marker", "text")
"""Objects that are written."""

LINES = ("lead", "tube", "wire")
"""Objects that are long and thin."""

COMPACT = ("generator", "electrode", "metal")
"""Objects that are neither."""

ANY = {"compact": COMPACT, "line": LINES}
"""Structures that stand for several kinds: something foreign, whatever it is."""

ARTIFACTS: tuple[str, ...] = (*OBJECTS, *ANY, "border")
"""All that is no part of the body; the border was not exposed."""

STRUCTURES: tuple[str, ...] = (*ANATOMY, "border", *OBJECTS, *ANY)
"""What the built-in segmenter finds, in the order of its channels: the coarse network's first."""

COARSE, FINE = (*ANATOMY, "border"), (*OBJECTS, *ANY)
"""The channels of the two networks."""


WEIGHTS = Path(__file__).with_name("segmenter.safetensors")

_COARSE_CHANNELS = (16, 32, 48, 64, 96, 128)
_FINE_CHANNELS = (12, 24, 48, 64, 96, 128)
_HALF = 0.5
_SIDES = {"right lung": "left lung", "left lung": "right lung"}
MIRRORED = tuple(COARSE.index(_SIDES.get(name, name)) for name in COARSE)
"""Where each channel of the coarse network stands on a mirrored film."""

_HEART_AND_SPINE = [COARSE.index("heart"), COARSE.index("spine")]
_THROUGH = 0.15  # of the lower heart's rows; a column of fewer is a spike
_TAILS = (0.01, 0.99)  # quantiles of a film that become -1 and 1


def make_coarse_network() -> nn.Module:
    """Return the network of anatomy, random: films (B, 1, SIDE, SIDE) to logits (B, K, ...)."""
    return _make_network(_COARSE_CHANNELS, len(COARSE))


def _make_network(channels: tuple[int, ...], structures: int) -> nn.Module:
    from monai.networks.nets.unet import UNet  # a second, which only those who segment wait for

    network: nn.Module = UNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=structures,
        channels=channels,
        strides=(2,) * (len(channels) - 1),
        num_res_units=1,
        norm=("instance", {"affine": True}),
        act="relu",
    )
    return network


def normalise_films(films: Tensor) -> Tensor:
    """Bring films (B, 1, S, S) to a common range by their quantiles."""
    tails = np.quantile(films.flatten(1).cpu().numpy(), _TAILS, axis=1)  # torch sorts them all
    low, high = torch.from_numpy(tails).to(films).reshape(2, -1, 1, 1, 1)
    common: Tensor = 2.0 * ((films - low) / (high - low).clamp(min=1e-3)).clamp(-0.5, 1.5) - 1.0
    return common


Thresholds = tuple[Mapping[str, float], Mapping[str, float]]
"""`Segmentation.found` and `Segmentation.names`."""


@dataclass(frozen=True, slots=True)
class FineLayout:
    """What the fine network looks at and finds."""

    side: int = FINE_SIDE  # of the picture, in pixels
    channels: tuple[int, ...] = _FINE_CHANNELS  # of its levels
    structures: tuple[str | None, ...] = FINE  # of its outputs; None is ignored

    @classmethod
    def parse(cls, text: str) -> FineLayout:
        """Read a layout from the metadata of weights."""
        stored = json.loads(text)
        return cls(int(stored["side"]), tuple(stored["channels"]), tuple(stored["structures"]))

    def make(self) -> nn.Module:
        """Return the network, random: (B, 1, side, side) to logits (B, K, side, side)."""
        return _make_network(self.channels, len(self.structures))


class BuiltInSegmenter:
    """The segmenter of this package; for anatomy it looks at the mirror image as well."""

    def __init__(
        self,
        coarse: nn.Module,
        fine: nn.Module,
        thresholds: Thresholds = ({}, {}),
        digest: str = "",
        layout: FineLayout | None = None,
    ) -> None:
        self._coarse, self._fine = coarse.eval(), fine.eval()
        self._thresholds = thresholds
        self._layout = layout or FineLayout()
        self.digest = digest
        self.structures = (*COARSE, *filter(None, self._layout.structures))

    @classmethod
    def read(cls, weights: Path = WEIGHTS) -> BuiltInSegmenter:
        """Open weights: safetensors of both networks, with their layout and thresholds."""
        with safe_open(str(weights), framework="np") as file:
            about = file.metadata() or {}
        found, names = json.loads(about.get("thresholds", "[{}, {}]"))
        layout = FineLayout.parse(about["fine"]) if "fine" in about else FineLayout()
        networks = {"coarse": make_coarse_network(), "fine": layout.make()}
        stored = {name: value.float() for name, value in load_file(str(weights)).items()}
        for name, network in networks.items():
            prefix = f"{name}."
            own = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
            network.load_state_dict(own)
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        return cls(networks["coarse"], networks["fine"], (found, names), digest, layout)

    def segment(self, pixels: NDArray[np.float32]) -> Segmentation:
        """Segment a film (H, W), float32 in [0, 1]; bright is dense."""
        with torch.inference_mode():
            films = _picture(pixels, SIDE)
            seen, mirrored = self._coarse(torch.cat([films, films.flip(-1)])).sigmoid()
            both = 0.5 * (seen + mirrored.flip(-1)[list(MIRRORED)])
            (fine,) = self._fine(_picture(pixels, self._layout.side)).sigmoid()
        # A network expects the heart where it mostly is; beside what it says of the mirror image,
        # that cancels out.
        leans = [lean_of(*(one[_HEART_AND_SPINE].numpy() > _HALF)) for one in (seen, mirrored)]
        likely = dict(zip(COARSE, both.numpy(), strict=True))
        for name, plane in zip(self._layout.structures, fine.numpy(), strict=True):
            if name is not None:
                likely[name] = plane
        return Segmentation(likely, *self._thresholds, lean=0.5 * (leans[0] - leans[1]))


def lean_of(heart: NDArray[np.bool_], spine: NDArray[np.bool_]) -> float:
    """Return how far the lower heart leans to the right of the picture, -0.5 to 0.5.

    It is the share of its width that lies right of the spine, less one half; 0 where one of the
    two masks (S, S) is missing.
    """
    rows = np.flatnonzero(heart.any(axis=1))
    if not len(rows) or not spine[rows].any():
        return 0.0
    middle = float(np.nonzero(spine[rows])[1].mean())
    lower = heart[rows[len(rows) // 3] : rows[-1] + 1]
    columns = np.flatnonzero(lower.mean(axis=0) > _THROUGH)
    if len(columns) < 2:
        return 0.0
    return float((columns[-1] - middle) / (columns[-1] - columns[0])) - 0.5


def _picture(pixels: NDArray[np.float32], side: int) -> Tensor:
    """Squash a film to a square, (1, 1, S, S), in the range of the networks."""
    small = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
    return normalise_films(torch.from_numpy(small)[None, None])


class JointSegmenter:
    """Two segmenters: the second finds the structures that the first does not know."""

    def __init__(self, first: Segmenter, second: Segmenter) -> None:
        self._both = (second, first)
        self.structures = tuple(dict.fromkeys((*first.structures, *second.structures)))
        self.digest = hashlib.sha256(f"{first.digest} {second.digest}".encode()).hexdigest()

    def segment(self, pixels: NDArray[np.float32]) -> Segmentation:
        """Segment a film (H, W), float32 in [0, 1]; bright is dense."""
        behind, before = (one.segment(pixels) for one in self._both)
        return join_segmentations(before, behind)


def join_segmentations(before: Segmentation, behind: Segmentation) -> Segmentation:
    """Complete what one segmenter knows by another; nothing is found by both."""
    more = {n: v for n, v in behind.likelihoods.items() if n not in before.likelihoods}
    for name, kinds in ANY.items():
        known = [kind for kind in kinds if kind in before.likelihoods]
        if name in before.likelihoods:  # all of them, whatever their kinds
            more = {one: value for one, value in more.items() if one not in kinds}
        elif known and name in more:
            seen = before.mask(*known).astype(np.uint8)
            larger = cv2.resize(seen, more[name].shape, interpolation=cv2.INTER_NEAREST)
            more[name] = np.where(larger > 0, np.float32(0.0), more[name])
    found, names = (
        {name: least for name, least in given.items() if name in more}
        for given in (behind.found, behind.names)
    )
    return Segmentation(
        {**more, **before.likelihoods},
        {**found, **before.found},
        {**names, **before.names},
        behind.lean if before.lean is None else before.lean,
    )


@lru_cache(maxsize=1)
def built_in_segmenter() -> BuiltInSegmenter:
    """Return the segmenter with the weights of this package, opened once."""
    return BuiltInSegmenter.read()
