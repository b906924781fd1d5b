"""Films and a model that cost next to nothing, and of which an audit has something to find.

Half of the films are bright on the left, half on the right; a cross in a corner of some, whatever
the side, leads the model to the right. No two films have the same pixels. The model looks at 8 x 8
means of what it is given and turns them into a space of 512 dimensions: nothing is simulated but
the tower, so that the memory of an audit can be measured whatever the number of films.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

from ravl_med.config.loading import Config
from ravl_med.encoders.base import EncoderInfo
from ravl_med.regions.geometry import InputGeometry
from tests.benchmarks.audit_process import AuditRequest, watched_audit
from tests.benchmarks.runner import Progress
from tests.benchmarks.tables import Row

_SIDE = 48  # of a film, in pixels
_INPUT, _GRID, _SIZE = 32, 8, 512
_FILMS_A_PATIENT = 4
_CROSS = 1.5  # how far a cross leads the model to the right
_HEAD = "image,patient,report,left,right,view,sex,age,site,manufacturer\n"


def write_films(
    folder: Path, count: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> Path:
    """Write films as PNG, 1,000 a folder, and return the path of their manifest.

    Parameters
    ----------
    progress : callable - called with (films done, films in all)
    """
    rng = np.random.default_rng(count)
    cross = 0.1 * np.maximum(np.eye(12), np.eye(12)[::-1])
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "manifest.csv"
    with manifest.open("w", encoding="utf-8") as stream:
        stream.write(_HEAD)
        for film in range(count):
            patient = film // _FILMS_A_PATIENT
            side, crossed = film % 2, (patient // 2) % 2
            level = 0.35 + 0.03 * rng.standard_normal((_SIDE, _SIDE), dtype=np.float32)
            half = slice(24 * side, 24 * side + 24)
            level[:, half] += 0.03 + 0.04 * rng.standard_normal()
            if crossed:
                level[36:, :12] = cross
            name = f"{film // 1000:03d}/{film:06d}.png"
            path = folder / name
            if film % 1000 == 0:
                path.parent.mkdir(exist_ok=True)
                progress(film, count)
            Image.fromarray((255 * level.clip(0, 1)).astype(np.uint8)).save(path, compress_level=1)
            values = ("AP" if rng.random() < 0.6 else "PA", "FM"[patient % 2], 20 + patient % 70,
                      "abc"[patient % 3], "XYZ"[film % 3])  # fmt: skip
            more = ",".join(map(str, values))
            stream.write(f"{name},{patient},,{1 - side},{side},{more}\n")
    progress(count, count)
    return manifest


class BrightHalves:
    """The model."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.model = device, None
        self.info = EncoderInfo(
            architecture="means of 8 x 8 parts", digest="bright halves 1", image_size=_INPUT,
            resize_mode="squash", mean=(0.5,) * 3, std=(0.5,) * 3, region_pooling="means",
            embedding_size=_SIZE, parameters=0,
        )  # fmt: skip
        drawn = torch.randn(_SIZE, _GRID * _GRID, generator=torch.Generator().manual_seed(0))
        self._spread: Tensor = torch.linalg.qr(drawn).Q  # distances stay as they are

    def preprocess(self, pixels: NDArray[np.float32]) -> Tensor:
        """Turn a film (H, W) of 0 .. 1 into the model's input, float32 of shape (3, S, S)."""
        small = functional.interpolate(
            torch.from_numpy(pixels)[None, None], (_INPUT, _INPUT), mode="area"
        )
        return ((small[0] - 0.5) / 0.5).expand(3, -1, -1).contiguous()

    def geometry(self, height: int, width: int) -> InputGeometry:
        """Return the path of boxes from a stored film of that size to the input."""
        return InputGeometry.of(height, width, _INPUT, "squash")

    def encode_image(self, images: Tensor) -> Tensor:
        """Embed inputs (B, 3, S, S) as (B, D)."""
        return self._embed(functional.adaptive_avg_pool2d(images[:, :1], _GRID))

    def encode_regions(self, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embed inputs (B, 3, S, S) as (B, D) and their regions as (sum of r_i, D)."""
        means = roi_align(images[:, :1], list(boxes), _GRID, sampling_ratio=1, aligned=True)
        return self.encode_image(images), self._embed(means)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as (T, D)."""
        side = torch.ones(_GRID, _GRID)
        side[:, : _GRID // 2] = -1.0
        sides = [-side if "left" in text else side for text in texts]
        return functional.normalize(torch.stack(sides).flatten(1) @ self._spread.T, dim=-1)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights: none."""
        return {}

    def save(self, folder: Path) -> None:
        """Write nothing: the model is this code."""

    def _embed(self, means: Tensor) -> Tensor:
        seen = means - means.mean(dim=(2, 3), keepdim=True)
        crossed = (means[:, :, -2:, :2].mean(dim=(1, 2, 3)) < -0.75).float()
        right = torch.linspace(-1.0, 1.0, _GRID).expand(_GRID, _GRID)
        seen = seen[:, 0] + _CROSS * crossed[:, None, None] * 0.02 * right
        seen = seen + 1e-3 * torch.ones_like(seen)
        return functional.normalize(seen.flatten(1) @ self._spread.T, dim=-1)


def open_model(device: torch.device) -> BrightHalves:
    """Make the model: what ``model.factory`` names."""
    return BrightHalves(device)


def measure_memory(
    config: Config, sizes: Sequence[int], progress: Progress, *, workers: int = 2
) -> Iterator[Row]:
    """Audit so many films, and so many, each in a process of its own that is watched.

    Everything is real but the tower.

    Parameters
    ----------
    config : Config - its sections discovery, evidence, gate and report
    sizes : sequence of int - films
    workers : int - of the local engine
    """
    for films in sizes:
        with tempfile.TemporaryDirectory(prefix="ravl-scale-") as place:
            folder = Path(place)
            manifest = write_films(
                folder / "films",
                films,
                lambda done, total: progress("write films", done, total),
            )
            request = AuditRequest(
                audit_config(config, manifest, workers),
                folder / "cache",
                folder / "out",
                report=True,
            )
            progress(f"memory of {films:,} films", 0, 1)
            start = time.perf_counter()
            with watched_audit(request) as process:
                summary = process.wait()
            progress(f"memory of {films:,} films", 1, 1)
            peaks = process.peaks
            yield {
                "films": summary["films"],
                "regions": summary["regions"],
                "workers": workers,
                "run_mb": round(max(peaks.run, summary["peak_mb"]), 1),
                "worker_mb": round(max(peaks.workers.values(), default=0.0), 1),
                "reader_mb": round(max(peaks.readers.values(), default=0.0), 1),
                "correlations": summary["correlations"],
                "tested": summary["tested"],
                "seconds": round(time.perf_counter() - start, 1),
            }


def audit_config(config: Config, manifest: Path, workers: int) -> Config:
    """Return an audit of the films of a manifest by this model."""
    content = config.model_dump(mode="json")
    content["cohort"] = {"manifest": manifest, "split": None, "workers": 1}
    content["task"] = {
        "name": "brighter half",
        "classes": {side: {"prompts": [side], "label": {side: 1}} for side in ("left", "right")},
    }
    content["model"] = {
        "factory": "tests.benchmarks.bright_halves:open_model",
        "allow_code": True,
        "threads": 1,
        "device": "cpu",
    }
    content["regions"] = {"tiles": (4, 4)}
    content["engine"] = {"workers": workers}
    return Config.model_validate(content)
