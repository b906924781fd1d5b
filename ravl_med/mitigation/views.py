"""Views of films: small shifts, other exposures, parts of a film, with the boxes that lie on it.

The parts are those of contrastive pre-training (open_clip's RandomResizedCrop): they teach the
tower to say of a part what the part shows, which region embeddings live on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Views", "draw_views", "move_boxes", "view_films"]


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """How each of B films is looked at.

    Attributes
    ----------
    side : Tensor of shape (B,) - of the part that is seen, as a share of the film
    centre : Tensor of shape (B, 2) - x and y of its centre, from -1 to 1
    gain, offset : Tensor of shape (B,) - of the brightness, in units of the input
    """

    side: Tensor
    centre: Tensor
    gain: Tensor
    offset: Tensor

    def part(self, rows: slice) -> Views:
        """Return the views of some of the films."""
        return Views(self.side[rows], self.centre[rows], self.gain[rows], self.offset[rows])


def draw_views(count: int, cropped: float, generator: torch.Generator) -> Views:
    """Draw views: shifts and zooms of up to 5 %, and for a share of the films a part of them.

    Parameters
    ----------
    count : int - B
    cropped : float in [0, 1] - chance of a film to be cut to a part of 0.2 to 0.8 of its side
    generator : torch.Generator
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    cut = torch.rand(count, generator=generator) < cropped
    side = torch.where(cut, uniform(0.2, 0.8), uniform(0.95, 1.05))
    reach = torch.where(cut, 1.0 - side, torch.full((count,), 0.05)).clamp(min=0.0)
    centre = torch.stack([uniform(-1.0, 1.0) * reach, uniform(-1.0, 1.0) * reach], dim=1)
    gain = 1.0 + 0.1 * torch.randn(count, 1, 1, generator=generator)
    offset = 0.1 * torch.randn(count, 1, 1, generator=generator)
    return Views(side, centre, gain[:, 0, 0], offset[:, 0, 0])


def view_films(films: Tensor, views: Views) -> Tensor:
    """Look at films (B, S, S), float32; what lies outside of a film repeats its border."""
    count = len(films)
    theta = torch.zeros(count, 2, 3, device=films.device)
    theta[:, 0, 0] = theta[:, 1, 1] = views.side
    theta[:, :, 2] = views.centre
    grid = functional.affine_grid(theta, [count, 1, *films.shape[-2:]], align_corners=False)
    moved = functional.grid_sample(
        films[:, None], grid, padding_mode="border", align_corners=False
    )[:, 0]
    seen: Tensor = moved * views.gain[:, None, None] + views.offset[:, None, None]
    return seen


def move_boxes(boxes: Tensor, film: Tensor, views: Views, size: int) -> tuple[Tensor, Tensor]:
    """Carry boxes into the views of their films.

    Parameters
    ----------
    boxes : Tensor of shape (R, 4), float32 - xyxy in input pixels
    film : Tensor of shape (R,), int64 - position of its film among the views
    views : Views
    size : int - side of the input in pixels

    Returns
    -------
    boxes : Tensor of shape (R, 4), float32 - clipped to the view
    visible : Tensor of shape (R,), float32 - share of each box that is in the view
    """
    centre = views.centre[film].repeat(1, 2)
    moved = ((2.0 * boxes / size - 1.0 - centre) / views.side[film, None] + 1.0) * (size / 2.0)
    seen = moved.clamp(0.0, float(size))
    area = (moved[:, 2:] - moved[:, :2]).prod(dim=1)
    inside = (seen[:, 2:] - seen[:, :2]).clamp(min=0.0).prod(dim=1)
    return seen, inside / area.clamp(min=1e-6)
