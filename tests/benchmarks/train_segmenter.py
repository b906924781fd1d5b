"""Training of the built-in segmenter, on phantoms alone.

MONAI's transforms vary pose, exposure and sharpness as a film is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses.dice import DiceLoss
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandBiasFieldd,
    RandGaussianNoised,
    RandGaussianSharpend,
    RandGaussianSmoothd,
    RandHistogramShiftd,
)
from monai.transforms.spatial.dictionary import RandAffined
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from ravl_med.regions.segmenter import SIDE, STRUCTURES, make_network, normalise_films
from tests.benchmarks.training_films import draw_training_film

_BATCH = 8
_RATE = 3e-3


def train_segmenter(
    weights: Path,
    *,
    films: int,
    steps: int,
    seed: int,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> None:
    """Draw films, train, and write the weights in half precision.

    Each film is shown many times, never the same way; a step shows 8 of them.
    """
    torch.manual_seed(seed)
    network = make_network()
    drawn = []
    for number in range(films):
        film, masks = draw_training_film(1_000_003 * seed + number, SIDE)
        drawn.append((film, np.packbits(masks, axis=-1)))
        progress("draw films", number + 1, films)
    optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    overlap = DiceLoss(sigmoid=True, batch=True)
    network.train()
    for step, (shown, wanted) in zip(range(steps), _batches(drawn, seed), strict=False):
        # Half of the time of a step in full precision, where the processor knows bfloat16.
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(normalise_films(shown))
        logits = logits.float()
        loss = functional.binary_cross_entropy_with_logits(logits, wanted)
        loss = loss + overlap(logits, wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        progress("train", step + 1, steps)
    half = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    about = {"films": films, "steps": steps, "seed": seed, "structures": ", ".join(STRUCTURES)}
    save_file(half, str(weights), {name: str(value) for name, value in about.items()})


def _batches(
    drawn: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Show films in random order without end: (B, 1, S, S) and (B, K, S, S), float32."""
    rng = np.random.default_rng([31, seed])
    vary = _variation(seed)
    while True:
        order = rng.permutation(len(drawn))
        for start in range(0, len(order) - _BATCH + 1, _BATCH):
            shown, wanted = [], []
            for number in order[start : start + _BATCH]:
                film, packed = drawn[number]
                masks = np.unpackbits(packed, axis=-1).astype(np.float32)
                on_film = np.ones((1, *film.shape), dtype=np.float32)
                item: dict[str, Any] = {
                    "film": torch.from_numpy(film.astype(np.float32) / 255.0)[None],
                    "masks": torch.from_numpy(np.concatenate([masks, on_film])),
                }
                item = vary(item)
                moved = item["masks"].as_tensor()
                moved[STRUCTURES.index("border")] += 1.0 - moved[-1]
                shown.append(item["film"].as_tensor())
                wanted.append(moved[:-1].clamp(0.0, 1.0))
            yield torch.stack(shown), torch.stack(wanted)


def _variation(seed: int) -> Compose:
    """Vary pose, exposure and sharpness; never mirrored, since left and right are not the same."""
    move = RandAffined(
        ["film", "masks"],
        prob=0.9,
        rotate_range=0.12,
        shear_range=0.06,
        translate_range=20,
        scale_range=0.2,
        mode=["bilinear", "nearest"],
        padding_mode="zeros",
    )
    film = ["film"]
    vary = Compose(
        [
            move,
            RandAdjustContrastd(film, prob=0.6, gamma=(0.5, 1.9)),
            RandBiasFieldd(film, prob=0.3, coeff_range=(0.0, 0.25)),
            RandHistogramShiftd(film, prob=0.3, num_control_points=(4, 8)),
            RandGaussianSmoothd(film, prob=0.4, sigma_x=(0.3, 1.4), sigma_y=(0.3, 1.4)),
            RandGaussianSharpend(film, prob=0.25),
            RandGaussianNoised(film, prob=0.5, std=0.04),
        ]
    )
    vary.set_random_state(seed)
    return vary
