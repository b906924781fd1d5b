"""Exchange of the spurious feature between films, so that it says nothing about the class.

Discovery has located the feature in every fine-tuning film. In each batch it is dealt out anew:
every film is to have it with the same chance, whatever its class. Each film is patched twice. First
where its feature lies, or, without one, where that of some other film does: there it gets the same
place of a film without the feature. Then at the place of the feature of a donor: a film that is to
have the feature gets the donor's, any other the same place of a film without it. So neither the
feature nor the seams of patches, nor their number or place, tell the class.

Patches are faded in and shifted to the brightness around their new place. What travels with the
feature, see `co_occurrence`, often lies over the anatomy that the finding shows in: a lead over the
heart. Of these regions fine detail alone is exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

_FADE = 1.0 / 6.0  # of the side of a box
_RING = 0.25  # width of fade and surroundings, of the side of a box, and
_LEAST_RING = 2.0  # pixels of surroundings at least
_FINE = 0.02  # half the width, of the side of a film, below which a structure is fine detail


@dataclass(frozen=True, slots=True, eq=False)
class Dealing:
    """Who gives what to whom, in a batch of B films; every film is patched twice."""

    clear: Tensor  # (B,) films whose content is put in first
    clear_place: Tensor  # (B,) films at whose feature it is put in
    give: Tensor  # (B,) films whose content is put in then
    give_place: Tensor  # (B,) films at whose feature it is put in
    present: Tensor  # (B,) the film has the feature afterwards, at `give_place`

    def part(self, part: slice) -> tuple[Tensor, Tensor, Dealing]:
        """Return the dealing of some of the films, and the films of the batch that it needs.

        The needed ones (n,) are positions in the batch, ascending; then come the b films, and their
        dealing, by their positions among the needed ones.
        """
        asked = (torch.arange(len(self.clear)), self.clear, self.clear_place, self.give,
                 self.give_place)  # fmt: skip
        needed, place = torch.unique(
            torch.cat([films[part] for films in asked]), return_inverse=True
        )
        own, clear, clear_place, give, give_place = place.chunk(len(asked))
        present = self.present[part]
        return needed, own, Dealing(clear, clear_place, give, give_place, present)


@dataclass(frozen=True, slots=True, eq=False)
class FeaturePlaces:
    """Where the feature lies in a batch of B films; zero for films without it."""

    # (B, S, S) 1 inside, a cosine ramp to 0 over a sixth of the side of a box, outwards; boxes of a
    # film join
    masks: Tensor
    rings: Tensor  # (B, S, S) 1 around the boxes, outside of the ramp
    companions: Tensor  # (B, S, S) like the masks, where something travels along


def deal_feature(has: Tensor, share: float, generator: torch.Generator) -> Dealing:
    """Deal the feature out anew: each of B films has it with a chance, whatever it `has` now (B,).

    Where all films have it, or none, each keeps its own content.
    """
    own = torch.arange(len(has))
    carriers, plain = has.nonzero()[:, 0], (~has).nonzero()[:, 0]
    if len(carriers) == 0 or len(plain) == 0:
        return Dealing(own, own, own, own, has.clone())
    present = torch.rand(len(has), generator=generator) < share
    donor = _draw(carriers, own, generator)
    home = torch.where(has, own, _draw(carriers, donor, generator))
    clear, ordinary = _draw(plain, own, generator), _draw(plain, own, generator)
    return Dealing(clear, home, torch.where(present, donor, ordinary), donor, present)


def _draw(pool: Tensor, but: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a film of the pool for each of B films, another one than `but` where there is one."""
    drawn = torch.randint(len(pool), but.shape, generator=generator)
    step = torch.randint(1, max(len(pool), 2), but.shape, generator=generator)
    return pool[torch.where(pool[drawn] == but, (drawn + step) % len(pool), drawn)]


def exchange_regions(
    films: Tensor, places: FeaturePlaces, dealing: Dealing, own: Tensor | None = None
) -> Tensor:
    """Carry out a dealing of b films in films (n, S, S); return these b films, as a copy.

    `own` (b,) says which of the films the dealing is of; the others only give. None: all.
    """
    own = torch.arange(len(films)) if own is None else own
    patched, details = films[own], _detail(films)

    def put(source: Tensor, place: Tensor, detail: Tensor) -> None:
        """Put the content of source films in where the feature of others lies; own detail goes."""
        patched.addcmul_(places.companions[place], details[source] - detail)
        difference, ring = patched - films[source], places.rings[place]
        around = ring.sum(dim=(1, 2)).clamp(min=1e-6)
        shift = torch.einsum("bij,bij->b", difference, ring) / around
        # Fade in the other film at the brightness around its new place.
        patched.addcmul_(places.masks[place], difference.sub_(shift[:, None, None]), value=-1.0)

    put(dealing.clear, dealing.clear_place, details[own])
    put(dealing.give, dealing.give_place, _detail(patched))
    return patched


def _detail(films: Tensor) -> Tensor:
    """Return what is finer than the window, bright or dark, in films (n, S, S)."""
    reach = max(1, round(_FINE * films.shape[-1]))
    square = np.ones((2 * reach + 1, 2 * reach + 1), dtype=np.uint8)
    # Twenty times as fast as pooling in torch; films are on the CPU until they are dealt out.
    broad = np.empty(films.shape, dtype=np.float32)
    for film, into in zip(films.numpy(), broad, strict=True):
        cv2.morphologyEx(film, cv2.MORPH_OPEN, square, dst=into)
        cv2.morphologyEx(into, cv2.MORPH_CLOSE, square, dst=into)
    return films - torch.from_numpy(broad)


def find_places(
    carriers: tuple[Tensor, Tensor], companions: tuple[Tensor, Tensor], films: int, side: int
) -> FeaturePlaces:
    """Return where the feature of each film lies, and what travels with it.

    Boxes (M, 4), xyxy in input pixels, come with the position of their film in the batch, (M,).
    """
    masks = _join(*carriers, films, side, soft=True)
    rings = _join(*carriers, films, side, soft=False).masked_fill_(masks > 0, 0.0)
    return FeaturePlaces(masks, rings, _join(*companions, films, side, soft=True))


def _join(boxes: Tensor, film: Tensor, films: int, side: int, *, soft: bool) -> Tensor:
    """Masks of films (B, S, S), of boxes (M, 4) on films (M,)."""
    masks = np.zeros((films, side, side), dtype=np.float32)
    down, across = (_ramps(boxes, axis, side, soft=soft).numpy() for axis in (1, 0))
    for index, rows, columns in zip(film.tolist(), down, across, strict=True):
        y, x = np.flatnonzero(rows), np.flatnonzero(columns)
        if len(y) and len(x):
            here = masks[index, y[0] : y[-1] + 1, x[0] : x[-1] + 1]
            np.maximum(here, np.outer(rows[y], columns[x]), out=here)
    return torch.from_numpy(masks)


def _ramps(boxes: Tensor, axis: int, side: int, *, soft: bool) -> Tensor:
    """Along an axis, (M, S): 1 inside, falling to 0 over the fade; or 1 with surroundings."""
    centre = torch.arange(side, dtype=torch.float32) + 0.5
    size = boxes[:, 2:] - boxes[:, :2]
    low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
    reach = (_FADE * size[:, axis, None]).clamp(min=1.0)
    if not soft:
        reach = torch.maximum(_RING * size[:, axis, None], reach + _LEAST_RING)
    outside = torch.maximum(low - centre, centre - high).clamp(min=0.0) / reach
    inside = outside < 1.0
    ramp = 0.5 * (1.0 + torch.cos(torch.pi * outside.clamp(max=1.0)))
    return torch.where(inside, ramp if soft else torch.ones_like(ramp), 0.0)
