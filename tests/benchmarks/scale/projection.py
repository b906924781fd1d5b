"""What all of MIMIC-CXR would cost: hours and euros, every step of the arithmetic in words.

Seconds of a film are measured on this machine with a ViT-B/16 of random weights, whose passes take
as long as those of trained ones; operations are counted by PyTorch. Whatever cannot be measured
here is an assumption, and is called one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ravl_med.config.loading import Config
from ravl_med.encoders.open_clip import open_model
from ravl_med.phantoms.dicom import Acquisition, write_dicom
from ravl_med.pipeline.planning import CostPlan, plan_cost
from ravl_med.regions.region_set import cut_tiles
from ravl_med.storage.cache import Cache
from tests.benchmarks.scale.speed_trials import save_tower

Progress = Callable[[str, int, int], None]

MIMIC_FILMS, REGIONS = 377_110, 16
TOWER = "ViT-B-16"
_GRID = 4
_SHAPE = (3056, 2544)  # pixels of most films of MIMIC-CXR


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is not measured.

    Attributes
    ----------
    cpu_nodes, cpu_cores : int - nodes, and processors of each
    cpu_euros : float - of such a node and hour
    gpus, gpu_cores : int - of the GPU node, and its processors
    gpu_euros : float - of the GPU node and hour
    gpu_tflops : float - of a GPU in bf16, dense, as its maker states it
    utilisation : float - share of them that a ViT reaches
    efficiency : float - share of their sum that many workers reach: two at 1.7 times one
    """

    cpu_nodes: int = 16
    cpu_cores: int = 32
    cpu_euros: float = 1.60
    gpus: int = 8
    gpu_cores: int = 96
    gpu_euros: float = 40.0
    gpu_tflops: float = 989.0
    utilisation: float = 0.30
    efficiency: float = 0.85


@dataclass(frozen=True, slots=True)
class Measured:
    """What a film costs one processor of this machine.

    Attributes
    ----------
    read, prepare, encode, picture : float - seconds to read a film; for its regions and the model's
        input; for the model with 16 regions; for a changed film in a counterfactual
    gflop : float - billions of operations of the model for a film with 16 regions
    pictures : int - of all counterfactuals, at most
    store_bytes : int - embeddings of all films on disk
    sample : int - films that were measured
    search : float - seconds of the search for a film, on two processors of this machine
    search_films : int - films that this was measured on
    """

    read: float
    prepare: float
    encode: float
    picture: float
    gflop: float
    pictures: int
    store_bytes: int
    sample: int
    search: float
    search_films: int


@dataclass(frozen=True, slots=True)
class ProjectionLine:
    """A step of the arithmetic.

    Attributes
    ----------
    where : {"measured", "assumed", "CPU nodes", "H100 node"}
    what, how : str
    value : float
    unit : str
    """

    where: str
    what: str
    how: str
    value: float
    unit: str


def measure_films(
    config: Config, sample: int, searches: Sequence[Mapping[str, Any]], progress: Progress
) -> Measured:
    """Send films of the size of MIMIC-CXR's through reading, regions and a ViT-B/16.

    Parameters
    ----------
    config : Config - its sections discovery, evidence and gate
    sample : int - films
    searches : sequence of mapping - rows of the part ``discovery`` that was measured before; the
        largest is used, and without one the clustering of the sample alone
    progress : callable - called with (stage, done, total)
    """
    with tempfile.TemporaryDirectory(prefix="ravl-scale-") as place:
        folder = Path(place)
        _write_films(folder, sample)
        save_tower(TOWER, folder / "model")
        plan = plan_cost(
            _config(config, folder),
            workers=1,
            films=MIMIC_FILMS,
            sample=sample,
            cache=Cache(folder / "cache"),
            progress=progress,
        )
        gflop = _count_operations(folder / "model")
    search, films = _search_seconds(plan, searches)
    return Measured(
        read=plan.read_seconds,
        prepare=plan.region_seconds,
        encode=plan.encode_seconds,
        picture=plan.picture_seconds,
        gflop=gflop,
        pictures=plan.pictures,
        store_bytes=plan.store_bytes,
        sample=plan.sample,
        search=search,
        search_films=films,
    )


def _search_seconds(plan: CostPlan, searches: Sequence[Mapping[str, Any]]) -> tuple[float, int]:
    largest = max(searches, key=lambda row: row["films"], default=None)
    if largest is None:
        return 3600.0 * plan.cluster_hours / plan.films, 0
    return float(largest["seconds"]) / largest["films"], int(largest["films"])


def _write_films(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    height, width = _SHAPE
    rows = ["image,patient,report,a,b"]
    for film in range(count):
        coarse = rng.random((height // 16 + 1, width // 16 + 1), dtype=np.float32)
        pixels = np.kron(coarse, np.ones((16, 16), np.float32))[:height, :width]
        pixels = 0.8 * pixels + 0.2 * rng.random((height, width), dtype=np.float32)
        acquisition = Acquisition(film, "F", 60, "PA", "A", 0, film, burned_in=False)
        write_dicom(folder / f"{film}.dcm", pixels, acquisition, seed=0, image=film)
        rows.append(f"{film}.dcm,{film},,{film % 2},{1 - film % 2}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _config(config: Config, folder: Path) -> Config:
    told = config.model_dump(mode="json")
    told["cohort"] = {"manifest": folder / "manifest.csv", "split": None, "workers": 0}
    told["task"] = {
        "name": "none",
        "classes": {name: {"prompts": [name], "label": {name: 1}} for name in "ab"},
    }
    told["model"] = {"path": folder / "model", "batch_size": 8, "threads": 1, "device": "cpu"}
    told["regions"] = {"tiles": (_GRID, _GRID)}
    return Config.model_validate(told)


def _count_operations(model: Path) -> float:
    """Count billions of operations, multiplications and additions, of a film with 16 regions."""
    encoder = open_model(model, torch.device("cpu"))
    side = encoder.info.image_size
    boxes = [torch.from_numpy(cut_tiles(side, side, _GRID, _GRID))]
    with FlopCounterMode(display=False) as counter:
        encoder.encode_regions(torch.zeros(1, 3, side, side), boxes)
    return float(counter.get_total_flops()) / 1e9


def project(measured: Measured, assumed: Assumptions) -> list[ProjectionLine]:
    """Show the arithmetic from what was measured and assumed to hours and euros.

    Parameters
    ----------
    measured : Measured
    assumed : Assumptions
    """
    return [
        *_tell_measured(measured),
        *_tell_assumed(assumed),
        *_on_cpus(measured, assumed),
        *_on_gpus(measured, assumed),
    ]


def _tell_measured(m: Measured) -> list[ProjectionLine]:
    height, width = _SHAPE
    searched = (
        f"part discovery, {m.search_films:,} films on two cores"
        if m.search_films
        else "clustering of the sample alone: part discovery was not measured"
    )
    told = (
        ("reading a film", f"DICOM, {width} x {height}, uncompressed; mean of {m.sample}", m.read),
        ("its regions and input", "16 tiles", m.prepare),
        ("the model", "ViT-B/16, 16 regions, one thread, fp32", m.encode),
        ("a changed film", "of a counterfactual, ViT-B/16", m.picture),
        ("the search, for a film", searched, m.search),
    )
    lines = [ProjectionLine("measured", what, how, value, "s") for what, how, value in told]
    return [
        *lines,
        ProjectionLine(
            "measured", "operations of a film", "by PyTorch's counter", m.gflop, "GFLOP"
        ),
        ProjectionLine(
            "measured", "pictures of all counterfactuals", "at most, by the config", m.pictures, ""
        ),
        ProjectionLine(
            "measured", "embeddings on disk", f"{MIMIC_FILMS:,} films", m.store_bytes / 1e9, "GB"
        ),
    ]


def _tell_assumed(a: Assumptions) -> list[ProjectionLine]:
    told: tuple[tuple[str, str, float, str], ...] = (
        ("CPU nodes", "asked for", a.cpu_nodes, ""),
        ("processors of each", "as fast as one of this machine", a.cpu_cores, ""),
        ("a CPU node, an hour", "price", a.cpu_euros, "euros"),
        ("H100 of the node", "", a.gpus, ""),
        ("processors of the node", "as fast as one of this machine", a.gpu_cores, ""),
        ("the H100 node, an hour", "price", a.gpu_euros, "euros"),
        ("an H100", "bf16, dense, as stated by its maker", a.gpu_tflops, "TFLOP/s"),
        ("of it reached", "utilisation of a ViT", a.utilisation, ""),
        ("many workers reach, of their sum", "two at 1.7 times one", a.efficiency, ""),
    )
    return [ProjectionLine("assumed", *line) for line in told]


def _on_cpus(m: Measured, a: Assumptions) -> list[ProjectionLine]:
    where, cores = "CPU nodes", a.cpu_nodes * a.cpu_cores
    film = m.read + m.prepare + m.encode
    embed = MIMIC_FILMS * film / (cores * a.efficiency) / 3600.0
    change = m.pictures * (m.picture) / (min(cores, 6) * a.efficiency) / 3600.0
    search = MIMIC_FILMS * m.search / 3600.0
    # One node is enough for what is not spread.
    euros = a.cpu_euros * (a.cpu_nodes * embed + change + search)
    return [
        ProjectionLine(
            where, "a film", f"{m.read:.4f} + {m.prepare:.4f} + {m.encode:.4f} s", film, "s"
        ),
        ProjectionLine(
            where,
            "embedding",
            f"{MIMIC_FILMS:,} x {film:.4f} s / ({a.cpu_nodes} x {a.cpu_cores} x "
            f"{a.efficiency:g}) / 3600",
            embed,
            "hours",
        ),
        ProjectionLine(
            where,
            "counterfactuals",
            f"{m.pictures:,} x {m.picture:.4f} s / (6 x {a.efficiency:g}) / 3600, a correlation a "
            "worker",
            change,
            "hours",
        ),
        ProjectionLine(
            where, "search", f"{MIMIC_FILMS:,} x {m.search:.6f} s / 3600", search, "hours"
        ),
        ProjectionLine(where, "together", "the sum", embed + change + search, "hours"),
        ProjectionLine(
            where,
            "price",
            f"{a.cpu_euros:g} x ({a.cpu_nodes} x {embed:.2f} + {change:.2f} + {search:.2f}), one "
            "node for what is not spread",
            euros,
            "euros",
        ),
    ]


def _on_gpus(m: Measured, a: Assumptions) -> list[ProjectionLine]:
    where = "H100 node"
    passes = m.gflop / (1000.0 * a.gpu_tflops * a.utilisation) / a.gpus
    reading = (m.read + m.prepare) / (a.gpu_cores * a.efficiency)
    film = max(passes, reading)
    embed = MIMIC_FILMS * film / 3600.0
    change = m.pictures * ((m.read + m.prepare) / a.gpu_cores + passes) / 3600.0
    search = MIMIC_FILMS * m.search / 3600.0
    together = embed + change + search
    return [
        ProjectionLine(
            where,
            "passes of a film",
            f"{m.gflop:.1f} GFLOP / ({a.gpu_tflops:g} TFLOP/s x {a.utilisation:g} x {a.gpus})",
            1000.0 * passes,
            "ms",
        ),
        ProjectionLine(
            where,
            "reading a film",
            f"({m.read:.4f} + {m.prepare:.4f} s) / ({a.gpu_cores} x {a.efficiency:g})",
            1000.0 * reading,
            "ms",
        ),
        ProjectionLine(
            where,
            "embedding",
            f"{MIMIC_FILMS:,} x {1000.0 * film:.3f} ms / 3600, the slower of the two",
            embed,
            "hours",
        ),
        ProjectionLine(
            where,
            "counterfactuals",
            f"{m.pictures:,} pictures, at most one read for each",
            change,
            "hours",
        ),
        ProjectionLine(
            where, "search", f"{MIMIC_FILMS:,} x {m.search:.6f} s / 3600", search, "hours"
        ),
        ProjectionLine(where, "together", "the sum", together, "hours"),
        ProjectionLine(
            where, "price", f"{a.gpu_euros:g} x {together:.2f}", a.gpu_euros * together, "euros"
        ),
    ]
