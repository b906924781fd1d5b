"""Segmenters: the structures that they find, and the built-in U-Net that was trained on phantoms.

Its weights lie beside this module; ``tests/benchmarks`` holds its training.

References
----------
Ronneberger et al., U-Net, MICCAI 2015; MONAI's ``UNet`` with residual units.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from ravl_med.phantoms.film import ANATOMY

SIDE = 256
"""Side of a segmentation in pixels; films are squashed to a square."""


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """The structures of a film, as likelihoods."""

    likelihoods: Mapping[str, NDArray[np.float32]]  # (SIDE, SIDE) by structure, 0 to 1

    def mask(self, *names: str, certain: float = 0.5) -> NDArray[np.bool_]:
        """Return where any of some structures lies; unknown ones lie nowhere."""
        found: NDArray[np.bool_] = np.zeros((SIDE, SIDE), dtype=np.bool_)
        for name in names:
            if name in self.likelihoods:
                found |= self.likelihoods[name] > certain
        return found


class Segmenter(Protocol):
    """Finds structures on films; `digest` is the SHA-256 of its weights."""

    structures: tuple[str, ...]
    digest: str

    def segment(self, pixels: NDArray[np.float32]) -> Segmentation:
        """Segment a film (H, W), float32 in [0, 1]; bright is dense."""
        ...


ARTIFACTS: tuple[str, ...] = (
    "generator", "lead", "tube", "electrode", "wire", "marker", "text", "metal", "border",
)  # fmt: skip
"""Objects that are no part of the body. A wire leaves an electrode and a lead a generator; metal is
any other dense object, such as clips, buttons and jewellery; the border was not exposed."""

LETTERS = ("marker", "text")
"""Artifacts that are written."""

LINES = ("lead", "tube", "wire")
"""Artifacts that are long and thin."""

STRUCTURES: tuple[str, ...] = (*ANATOMY, *ARTIFACTS)
"""Channels of the segmenter, in order."""


WEIGHTS = Path(__file__).with_name("segmenter.safetensors")

_CHANNELS = (16, 32, 48, 64, 96, 128)
# On the development films a mirror image steadies large structures and halves false tubes; small
# ones are found better without it.
_STEADY = (*ANATOMY, "generator", "tube", "metal")
_SIDES = {"right lung": "left lung", "left lung": "right lung"}
_MIRRORED = tuple(STRUCTURES.index(_SIDES.get(name, name)) for name in STRUCTURES)
_TAILS = (0.01, 0.99)  # quantiles of a film that become -1 and 1


def make_network() -> nn.Module:
    """Return the network with random weights: films (B, 1, S, S) to logits (B, K, S, S)."""
    from monai.networks.nets.unet import UNet  # a second, which only those who segment wait for

    network: nn.Module = UNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=len(STRUCTURES),
        channels=_CHANNELS,
        strides=(2,) * (len(_CHANNELS) - 1),
        num_res_units=1,
        norm=("instance", {"affine": True}),
        act="relu",
    )
    return network


def normalise_films(films: Tensor) -> Tensor:
    """Bring films (B, 1, S, S) to a common range by their quantiles."""
    tails = torch.tensor(_TAILS, dtype=films.dtype, device=films.device)
    low, high = torch.quantile(films.flatten(1), tails, dim=1).reshape(2, -1, 1, 1, 1)
    common: Tensor = 2.0 * ((films - low) / (high - low).clamp(min=1e-3)).clamp(-0.5, 1.5) - 1.0
    return common


class PhantomSegmenter:
    """The built-in segmenter; it looks at each film and at its mirror image."""

    structures = STRUCTURES

    def __init__(self, weights: Path = WEIGHTS) -> None:
        self._network = make_network()
        stored = load_file(str(weights))
        self._network.load_state_dict({name: value.float() for name, value in stored.items()})
        self._network.eval()
        self.digest = hashlib.sha256(weights.read_bytes()).hexdigest()

    def segment(self, pixels: NDArray[np.float32]) -> Segmentation:
        """Segment a film (H, W), float32 in [0, 1]; bright is dense."""
        shrunk = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        with torch.inference_mode():
            films = normalise_films(torch.from_numpy(shrunk)[None, None])
            seen, mirrored = self._network(torch.cat([films, films.flip(-1)])).sigmoid()
            both = 0.5 * (seen + mirrored.flip(-1)[list(_MIRRORED)])
        likely = {
            name: (both if name in _STEADY else seen)[channel].numpy()
            for channel, name in enumerate(STRUCTURES)
        }
        return Segmentation(likely)


class JointSegmenter:
    """Two segmenters: the second finds the structures that the first does not know."""

    def __init__(self, first: Segmenter, second: Segmenter) -> None:
        self._both = (second, first)
        self.structures = tuple(dict.fromkeys((*first.structures, *second.structures)))
        self.digest = hashlib.sha256(f"{first.digest} {second.digest}".encode()).hexdigest()

    def segment(self, pixels: NDArray[np.float32]) -> Segmentation:
        """Segment a film (H, W), float32 in [0, 1]; bright is dense."""
        behind, before = (one.segment(pixels) for one in self._both)
        return replace(before, likelihoods={**behind.likelihoods, **before.likelihoods})


@lru_cache(maxsize=1)
def built_in_segmenter() -> PhantomSegmenter:
    """Return the segmenter with the weights of this package, opened once."""
    return PhantomSegmenter()
