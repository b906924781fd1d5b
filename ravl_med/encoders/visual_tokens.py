"""From a film to the tokens that a generative model reads of it, and where on the film each lies.

Processors with one fixed input (LLaVA 1.5, PaliGemma, Gemma 3, BLIP-2, Florence-2) resize a film as
their files say. Those that cut a film by its shape into tiles or patches (LLaVA-NeXT and OneVision,
Qwen2-VL, Idefics 3, SmolVLM) are given the film on a black square, its longer side resized, so that
all films are cut alike; the cutting itself is done by the model's own processor. Tokens are those
after the projector. A Q-Former (BLIP-2, InstructBLIP) has tokens without a place: a region is then
what its queries read off the patches of the region alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ravl_med.encoders.huggingface import FilmProcessor, Normalisation, measure_processor
from ravl_med.errors import ModelError
from ravl_med.regions.geometry import InputGeometry

_KEY = "model.path"
_SQUARE = 672  # pixels, of processors that take any size
_TINY = 1e-6
_HALF = 0.5  # share of a patch in a region from which a Q-Former reads it


@dataclass(frozen=True, slots=True)
class SquareFilm(Normalisation):
    """The way of a film onto a black square, for processors that cut it by its shape."""

    size: int  # side of the square in pixels
    mode: str = "longest"

    def __call__(self, pixels: NDArray[np.float32]) -> Tensor:
        """Turn a film (H, W) of 0 .. 1 into the input, float32 of shape (3, S, S)."""
        path = self.geometry(*pixels.shape)
        height, width = (
            round(side * scale)
            for side, scale in zip(pixels.shape, (path.scale_y, path.scale_x), strict=True)
        )
        gray = Image.fromarray(np.rint(pixels * 255.0).astype(np.uint8))
        square = Image.new("L", (self.size, self.size))
        square.paste(
            gray.resize((width, height), Image.Resampling.BICUBIC),
            (int(path.offset_x), int(path.offset_y)),
        )
        level = torch.from_numpy(np.asarray(square, dtype=np.float32) / 255.0)
        return (level.expand(3, -1, -1) - _channels(self.mean)) / _channels(self.std)

    def geometry(self, height: int, width: int) -> InputGeometry:
        """Return the mapping of boxes from a stored film of that size to the input."""
        return InputGeometry.of(height, width, self.size, "longest")

    def cut(self, images: Tensor) -> dict[str, Tensor]:
        """Let the processor cut inputs (B, 3, S, S) into what the image tower reads."""
        level = images * _channels(self.std).to(images) + _channels(self.mean).to(images)
        films: list[Any] = list(level.clamp(0.0, 1.0))
        if hasattr(self.processor, "do_image_splitting"):  # a list is the images of one text
            films = [[film] for film in films]
        made = self.processor(images=films, do_rescale=False, return_tensors="pt")
        cut = {name: value.to(images.device) for name, value in made.items()}
        if "pixel_attention_mask" in cut:  # of these models, which leave out tiles that are all 0
            pixels = cut["pixel_values"]
            empty = (pixels == 0).flatten(2).all(dim=2)
            cut["pixel_values"] = torch.where(empty[:, :, None, None, None], _TINY, pixels)
        return cut


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the model sees of B inputs."""

    tokens: Tensor  # (B, T, D) as the decoder reads them
    patches: Tensor | None = None  # (B, P, W) that a Q-Former reads


class VisualTokens:
    """The image side of a model: inputs to tokens, and tokens of regions.

    `instruction` is what a Q-Former reads beside the image, ids (1, L); other models need none.
    """

    def __init__(self, model: Any, film: FilmProcessor | SquareFilm, boxes: Tensor) -> None:
        self.model, self.film = model, film
        self.boxes = boxes  # (T, 4) xyxy in input pixels; NaN: a token without a place

    def see(self, images: Tensor, instruction: Tensor | None = None) -> Seen:
        """Return the tokens of inputs (B, 3, S, S)."""
        return Seen(self._stack(self.model.get_image_features(**self._cut(images))))

    def ask(self, seen: Seen, instruction: Tensor) -> Tensor:
        """Return the tokens that are read for an instruction, (B, T, D): the same for any."""
        return seen.tokens

    def pool(self, seen: Seen, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Average tokens over inputs, (B, D), and over regions, (sum of r_i, D).

        `boxes` are B tensors of shape (r_i, 4), xyxy in input pixels.
        """
        placed = torch.isfinite(self.boxes[:, 0])
        whole = seen.tokens[:, placed.to(seen.tokens.device)].mean(dim=1)
        parts = [whole[:0]]
        for tokens, own in zip(seen.tokens, boxes, strict=True):
            share = self.shares(own).to(tokens)
            parts.append(share / share.sum(dim=1, keepdim=True) @ tokens)
        return whole, torch.cat(parts)

    def keep(self, seen: Seen, film: int, boxes: Tensor) -> Tensor:
        """Return the tokens of one input with those of each region (r, 4) kept, (r, T, D).

        All others are the mean token of the input; a token that lies half in a region is half kept.
        """
        tokens = seen.tokens[film]
        placed = torch.isfinite(self.boxes[:, 0]).to(tokens.device)
        mean = tokens[placed].mean(dim=0)
        share = self.shares(boxes).to(tokens)[:, :, None]
        return torch.where(placed[None, :, None], share * tokens + (1 - share) * mean, tokens)

    def shares(self, boxes: Tensor) -> Tensor:
        """Return the share of each token that lies in each box, (r, T).

        A box that no token lies in has the nearest one.
        """
        return box_shares_of(boxes, self.boxes)

    def _cut(self, images: Tensor) -> dict[str, Tensor]:
        if isinstance(self.film, SquareFilm):
            return self.film.cut(images)
        return {"pixel_values": images}

    @staticmethod
    def _stack(features: Any) -> Tensor:
        found = features.pooler_output
        return found if isinstance(found, Tensor) else torch.stack(list(found))


class QFormerTokens(VisualTokens):
    """Tokens that queries read off all patches, as in BLIP-2 and InstructBLIP.

    `boxes` are those of the patches.
    """

    def see(self, images: Tensor, instruction: Tensor | None = None) -> Seen:
        """Return the tokens of inputs (B, 3, S, S), and their patches without the class token."""
        patches = self.model.vision_model(pixel_values=images, return_dict=True)[0]
        every = torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device)
        return Seen(self._read(patches, every, instruction), patches)

    def pool(self, seen: Seen, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Average tokens over inputs, (B, D), and those read off regions, (sum of r_i, D)."""
        whole = seen.tokens.mean(dim=1)
        given = (place for place in enumerate(boxes) if len(place[1]))
        kept = [self.keep(seen, film, own).mean(dim=1) for film, own in given]
        return whole, torch.cat([whole[:0], *kept])

    def ask(self, seen: Seen, instruction: Tensor) -> Tensor:
        """Return the tokens that the queries read for an instruction, (B, T, D)."""
        assert seen.patches is not None
        every = torch.ones(seen.patches.shape[:2], dtype=torch.long, device=seen.patches.device)
        return self._read(seen.patches, every, instruction)

    def keep(self, seen: Seen, film: int, boxes: Tensor) -> Tensor:
        """Return what the queries read off the patches of each region (r, 4) alone, (r, T, D)."""
        assert seen.patches is not None
        patches = seen.patches[film].expand(len(boxes), -1, -1)
        share = self.shares(boxes).to(patches.device)
        own = (share >= _HALF) | (share == share.amax(dim=1, keepdim=True))
        prefix = patches.shape[1] - own.shape[1]  # the class token is of all patches
        whole = own.all(dim=1, keepdim=True)
        mask = torch.cat([whole.expand(-1, prefix), own], dim=1).long()
        return self._read(patches, mask, None)

    def _read(self, patches: Tensor, mask: Tensor, instruction: Tensor | None) -> Tensor:
        """Let the queries read patches (n, P, W) under a mask (n, P)."""
        queries = self.model.query_tokens.expand(len(patches), -1, -1)
        given: dict[str, Any] = {}
        if self.model.config.model_type == "instructblip":
            text = self.instruction if instruction is None else instruction
            text = text.to(patches.device).expand(len(patches), -1)
            ones = torch.ones(
                len(patches), queries.shape[1] + text.shape[1], dtype=torch.long,
                device=patches.device,
            )  # fmt: skip
            given = {"input_ids": text, "attention_mask": ones}
        read = self.model.qformer(
            query_embeds=queries,
            encoder_hidden_states=patches,
            encoder_attention_mask=mask,
            return_dict=True,
            **given,
        )[0][:, : queries.shape[1]]
        tokens: Tensor = self.model.language_projection(read.to(patches.dtype))
        return tokens

    instruction: Tensor = torch.empty((1, 0), dtype=torch.long)
    """What an InstructBLIP reads where nothing is asked; ids (1, L)."""


def box_shares_of(boxes: Tensor, cells: Tensor) -> Tensor:
    """Return the share of each cell (T, 4) that lies in each box (r, 4), shape (r, T).

    Cells that are NaN lie in none; a box that no cell lies in has the nearest one.
    """
    cells = cells.to(boxes)
    low = torch.maximum(boxes[:, None, :2], cells[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], cells[None, :, 2:])
    area = (cells[:, 2:] - cells[:, :2]).prod(dim=1)
    share = ((high - low).clamp(min=0).prod(dim=2) / area).nan_to_num(0.0)
    missed = ~(share.sum(dim=1) > 0)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    away = (middle[:, None] - (cells[:, :2] + cells[:, 2:]) / 2).norm(dim=2).nan_to_num(torch.inf)
    nearest = away.argmin(dim=1)
    share[missed, nearest[missed]] = 1.0
    return share


def open_visual_tokens(model: Any, processor: Any, side: int | None) -> VisualTokens:
    """Return the image side of a model of a known family; `side` is S where it is free to choose.

    Raises
    ------
    ModelError
        Boxes cannot follow what the processor does with a film.
    """
    family = FAMILIES[model.config.model_type]
    film: FilmProcessor | SquareFilm
    if family.square is not None:
        film = SquareFilm(processor.image_processor, family.square(model, processor, side))
    else:
        if side is not None:
            raise ModelError(
                f"model.answers.image_size is {side}, but {family.title} reads one size alone; "
                "leave it out."
            )
        film = measure_processor(processor.image_processor, _KEY)
    boxes = family.boxes(model, processor, film.size)
    kind = QFormerTokens if family.queries else VisualTokens
    return kind(model, film, torch.from_numpy(boxes.astype(np.float32)))


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None]


Boxes = NDArray[np.float64]  # (T, 4) xyxy in input pixels
_NO_PLACE = np.full((1, 4), np.nan)


def _grid(rows: int, columns: int, side: float) -> Boxes:
    """Return the cells of a square of `side` pixels, row by row."""
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    high, wide = side / rows, side / columns
    cells: Boxes = np.stack([x * wide, y * high, (x + 1) * wide, (y + 1) * high], axis=2)
    return cells.reshape(-1, 4)


def _patches(vision: Any) -> tuple[int, int]:
    """Return the patches along a side of the image tower, and the pixels that they cover."""
    count = int(vision.image_size) // int(vision.patch_size)
    return count, count * int(vision.patch_size)


def _one_grid(model: Any, processor: Any, side: int) -> Boxes:
    """Return the patches of a tower that sees the whole input, after its class token if kept."""
    count, covered = _patches(model.config.vision_config)
    cells = _grid(count, count, covered)  # in pixels of the tower, as is the input
    kept = getattr(model.config, "vision_feature_select_strategy", None) == "full"
    has_class = "clip" in model.config.vision_config.model_type
    return np.concatenate([_NO_PLACE, cells]) if kept and has_class else cells


def _pooled_grid(model: Any, processor: Any, side: int) -> Boxes:
    count = round(model.config.mm_tokens_per_image**0.5)
    return _grid(count, count, side)


def _florence_grid(model: Any, processor: Any, side: int) -> Boxes:
    """Return the mean of all places, then the places, the first centred on the first pixel."""
    stride = int(np.prod(model.config.vision_config.patch_stride))
    count = -(-side // stride)
    cells = _grid(count, count, count * stride) + 0.5 - stride / 2
    cells[:, 2:] = np.where(cells[:, 2:] > side - stride / 2, side, cells[:, 2:])
    return np.concatenate([_NO_PLACE, np.clip(cells, 0.0, side)])


def _any_resolution(model: Any, processor: Any, side: int) -> Boxes:
    """Return the whole film in one tile, then the rows of all tiles, each with its line end."""
    from transformers.models.llava_next import modeling_llava_next

    own: Any = modeling_llava_next
    vision = model.config.vision_config
    count, covered = _patches(vision)
    base = _grid(count, count, side * covered / int(vision.image_size))
    tiles = own.get_anyres_image_grid_shape(
        (side, side), model.config.image_grid_pinpoints, vision.image_size
    )
    shown = own.unpad_image(torch.empty(1, tiles[0] * count, tiles[1] * count), (side, side))
    rows, columns = (int(n) for n in shown.shape[1:])
    limit = str(getattr(model.config, "vision_aspect_ratio", "anyres_max_9"))
    if model.config.model_type == "llava_onevision":
        ratio = (rows * columns / (int(limit.rpartition("_")[2]) * count**2)) ** 0.5
        if ratio > 1.1:
            rows, columns = int(rows // ratio), int(columns // ratio)
    cells = _grid(rows, columns, side).reshape(rows, columns, 4)
    ends = np.broadcast_to(_NO_PLACE, (rows, 1, 4))
    fine = np.concatenate([cells, ends], axis=1).reshape(-1, 4)
    kept = model.config.vision_feature_select_strategy == "full" and "clip" in vision.model_type
    return np.concatenate([*([_NO_PLACE] if kept else []), base, fine])


def _any_square(model: Any, processor: Any, side: int | None) -> int:
    """Choose two tiles a side, where the model knows that resolution, or one."""
    tile = int(model.config.vision_config.image_size)
    known = {min(p) for p in model.config.image_grid_pinpoints if p[0] == p[1]}
    return side or (2 * tile if 2 * tile in known or not known else min(known))


def _merged_patches(model: Any, processor: Any, side: int) -> Boxes:
    step = processor.image_processor.patch_size * processor.image_processor.merge_size
    return _grid(side // step, side // step, side)


def _merged_square(model: Any, processor: Any, side: int | None) -> int:
    """Choose a side in whole merged patches, within what the processor lets through."""
    images = processor.image_processor
    step = images.patch_size * images.merge_size
    low, high = (images.size[name] for name in ("shortest_edge", "longest_edge"))
    most = int(high**0.5) // step * step
    least = -(-int(np.ceil(low**0.5)) // step) * step
    if side is not None and (side % step or not least <= side <= most):
        raise ModelError(
            f"model.answers.image_size is {side}; expected a multiple of {step} from {least} to "
            f"{most}, which is what this processor lets through."
        )
    return side or min(max(_SQUARE // step * step, least), most)


def _split_tiles(model: Any, processor: Any, side: int) -> Boxes:
    """Return the tokens of each tile, row by row of tiles, and of the whole film."""
    vision, images = model.config.vision_config, processor.image_processor
    count = int(vision.image_size) // int(vision.patch_size) // int(model.config.scale_factor)
    tiles = -(-int(images.size["longest_edge"]) // int(images.max_image_size["longest_edge"]))
    whole = _grid(count, count, side)
    if tiles == 1 or not images.do_image_splitting:
        return whole
    shrunk = _grid(count, count, side / tiles)
    corners = _grid(tiles, tiles, side)[:, :2]
    parts = [shrunk + np.tile(corner, 2) for corner in corners]
    return np.concatenate([*parts, whole])


def _split_square(model: Any, processor: Any, side: int | None) -> int:
    return side or int(processor.image_processor.size["longest_edge"])


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of model by its ``model_type``: how it reads films, and how its decoder reads them."""

    title: str
    boxes: Callable[[Any, Any, int], Boxes]  # model, processor and S to the place of each token
    # model, processor and a wanted side to S; None: the processor has one size
    square: Callable[[Any, Any, int | None], int] | None = None
    queries: bool = False  # a Q-Former reads the patches
    # the decoder reads left to right, so that questions of one film share what was read before
    shares: bool = True
    plain: str = "{}"  # a question where the processor has no chat template


FAMILIES: Mapping[str, Family] = {
    "llava": Family("LLaVA", _one_grid),
    "llava_next": Family("LLaVA-NeXT", _any_resolution, _any_square),
    "llava_onevision": Family("LLaVA-OneVision", _any_resolution, _any_square),
    "paligemma": Family("PaliGemma", _one_grid, shares=False, plain="<image>answer en {}"),
    "gemma3": Family("Gemma 3", _pooled_grid),
    "qwen2_vl": Family("Qwen2-VL", _merged_patches, _merged_square),
    "qwen2_5_vl": Family("Qwen2.5-VL", _merged_patches, _merged_square),
    "idefics3": Family("Idefics 3", _split_tiles, _split_square),
    "smolvlm": Family("SmolVLM", _split_tiles, _split_square),
    "blip-2": Family("BLIP-2", _one_grid, queries=True, plain="Question: {} Answer:"),
    "instructblip": Family("InstructBLIP", _one_grid, queries=True, shares=False),
    "florence2": Family("Florence-2", _florence_grid, shares=False),
}
"""What is opened, by ``model_type`` of config.json."""
