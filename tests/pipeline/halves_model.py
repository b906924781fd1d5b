"""A model that tells films with a bright left half from those with a bright right half.

Right, and wired wrong in several ways: factories for ``model.factory``.
"""

import numpy as np
import torch
from torch.nn import functional

from ravl_med.encoders.base import EncoderInfo
from ravl_med.regions.geometry import InputGeometry

SIDE = 32
GRID = 8


class HalvesModel:
    def __init__(
        self, device, *, swapped=False, constant=False, chance=False, norm=1.0, fragile=False
    ):
        self.device, self.norm, self.fragile = device, norm, fragile
        self.swapped, self.constant, self.chance = swapped, constant, chance
        self.info = EncoderInfo(
            architecture="halves", digest=f"{swapped}{constant}{chance}{norm}", image_size=SIDE,
            resize_mode="squash", mean=(0.5,) * 3, std=(0.5,) * 3, region_pooling="",
            embedding_size=GRID * GRID, parameters=0,
        )  # fmt: skip

    def preprocess(self, pixels):
        small = functional.interpolate(torch.from_numpy(pixels)[None, None], (SIDE, SIDE))
        return ((small[0] - 0.5) / 0.5).expand(3, -1, -1).contiguous()

    def geometry(self, height, width):
        return InputGeometry.of(height, width, SIDE, "squash")

    def encode_image(self, images):
        seen = functional.adaptive_avg_pool2d(images[:, :1], GRID).flatten(1)
        if self.constant:
            seen = torch.ones_like(seen)
        if self.chance:
            mixing = np.random.default_rng(0).normal(size=(GRID * GRID,) * 2)
            seen = torch.sin(40 * seen @ torch.from_numpy(mixing).float())
        embedded = self.norm * functional.normalize(seen, dim=-1)
        if self.fragile:  # by a part of the cross in the lower left corner
            stroke = images[:, 0].diagonal(-3 * SIDE // 4, dim1=1, dim2=2) > 0.6
            embedded[stroke.any(dim=1) & ~stroke.all(dim=1)] = torch.nan
        return embedded

    def encode_text(self, texts):
        left = torch.ones(GRID, GRID)
        left[:, GRID // 2 :] = -1
        sides = [left if ("left" in text) != self.swapped else -left for text in texts]
        return functional.normalize(torch.stack(sides).flatten(1), dim=-1)


def right(device):
    return HalvesModel(device)


def swapped(device):
    return HalvesModel(device, swapped=True)


def constant(device):
    return HalvesModel(device, constant=True)


def chance(device):
    return HalvesModel(device, chance=True)


def long(device):
    return HalvesModel(device, norm=7.0)


def fragile(device):
    return HalvesModel(device, fragile=True)
