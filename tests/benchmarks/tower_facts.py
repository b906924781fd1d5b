"""What the towers of the controlled evaluation can tell apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from ravl_med.encoders.conv_pooling import split_tower
from ravl_med.encoders.local_files import TextFiles
from ravl_med.encoders.open_clip import build_model
from ravl_med.evaluation.films import SIDE
from ravl_med.evaluation.settings import Architecture
from ravl_med.evaluation.small_models import small_layout


@dataclass(frozen=True, slots=True)
class TowerFacts:
    """What a tower can tell apart, on films of `SIDE` pixels."""

    cells: int  # of its last map in a row
    cell: float  # side of a cell in pixels
    receptive: int  # side in pixels of what the middle cell depends on; at most `SIDE`


def describe_tower(architecture: Architecture) -> TowerFacts:
    """Measure the map and the receptive field of a tower, on random weights."""
    torch.manual_seed(0)
    visual = build_model(small_layout(architecture), TextFiles(), "evaluate").visual.eval()
    if architecture in ("vit", "coarse vit"):  # every patch attends to every other
        cells = int(visual.grid_size[0])
        return TowerFacts(cells, SIDE / cells, SIDE)
    for part in visual.modules():
        if isinstance(part, nn.BatchNorm2d):  # some begin at 0 and let nothing through
            nn.init.ones_(part.weight)
    films = torch.randn(8, 3, SIDE, SIDE, requires_grad=True)
    if isinstance(visual, TimmModel):
        features: Tensor = visual.trunk.forward_features(films)
    else:
        staged = split_tower(visual)
        assert staged is not None
        features = visual.layer4(staged.before(films))
    cells = int(features.shape[-1])
    middle = features[:, :, cells // 2, cells // 2].square().sum()
    (gradient,) = torch.autograd.grad(middle, films)
    seen = gradient.abs().sum(dim=(0, 1)) > 0
    lines = [torch.nonzero(seen.any(dim=axis)) for axis in (0, 1)]
    sides = [int(own.max() - own.min()) for own in lines]
    return TowerFacts(cells, SIDE / cells, max(sides) + 1)
