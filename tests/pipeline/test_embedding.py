"""Films as units of work: who embeds them changes no byte, and deaths cost nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch
from engine_audits import config_of, result_of, units_here

from ravl_med.encoders import batches
from ravl_med.encoders.film_store import FilmStore
from ravl_med.engine import opened_engine
from ravl_med.engine.local import LocalEngine
from ravl_med.errors import ConfigError, EngineError
from ravl_med.phantoms.cohort import synthesize
from ravl_med.pipeline import embedding, stages
from ravl_med.pipeline.shards import Shard, embed
from ravl_med.pipeline.stages import Run
from ravl_med.storage.cache import Cache

pytestmark = pytest.mark.long

FILMS = 60
ENGINES = {
    "local 1": {"workers": 1},
    "local 2": {"workers": 2},
    "ray 1": {"kind": "ray", "workers": 1},
    "ray 2": {"kind": "ray", "workers": 2},
}
with_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: extra `ray`")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Phantoms, one of them twice, another one cut short; and a small model that knows nothing."""
    import open_clip

    from ravl_med.config.model import QuickstartModelConfig
    from ravl_med.encoders.open_clip import save_model
    from ravl_med.mitigation.quickstart import quickstart_layout

    folder = tmp_path_factory.mktemp("engines")
    synthesize(folder / "cohort", images=FILMS, size=96, seed=3, workers=1)
    manifest = folder / "cohort" / "manifest.csv"
    images = [manifest.parent / name for name in pd.read_csv(manifest)["image"]]
    shutil.copyfile(images[1], images[41])  # another unit reads it
    images[20].write_bytes(images[20].read_bytes()[:900])
    layout = quickstart_layout(QuickstartModelConfig(tower="resnet", image_size=64))
    torch.manual_seed(0)
    save_model(open_clip.CLIP(**layout["model_cfg"]), layout, folder / "model")
    return folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Parts of a batch, so that the few films make many; workers are told with each unit."""
    monkeypatch.setattr(batches, "_PART", 4)


@pytest.fixture(scope="module")
def expected(root, tmp_path_factory) -> str:
    """What one process finds."""
    text = result_of(config_of(root), tmp_path_factory.mktemp("expected"))
    assert '"duplicate_pixels":1' in text
    return text


@pytest.mark.parametrize("name", [
    "local 2", pytest.param("local 1", marks=pytest.mark.slow),
    pytest.param("ray 1", marks=[with_ray, pytest.mark.slow]),
    pytest.param("ray 2", marks=[with_ray, pytest.mark.slow]),
])  # fmt: skip
def test_every_engine_finds_the_same(root, expected, tmp_path, name):
    config = config_of(root, engine=ENGINES[name], cohort={"workers": 1})
    assert result_of(config, tmp_path) == expected


def test_seven_shards_are_found_by_an_audit(root, expected, tmp_path):
    config = config_of(root)
    for number in range(7, 0, -1):
        embed(config, shard=Shard(number, 7), cache=Cache(tmp_path))
    assert result_of(config, tmp_path) == expected


def test_workers_that_keep_nothing_find_the_same(root, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(LocalEngine, "map", units_here)
    config = config_of(root, engine={"workers": 1}, cache={"embeddings": False})
    assert result_of(config, tmp_path) == expected
    assert not (tmp_path / "embeddings").exists()


def test_threads_of_workers_are_those_of_the_config_or_one(root):
    assert config_of(root, model={"threads": None}).threads is None
    assert config_of(root, model={"threads": None}, engine={"workers": 1}).threads == 1
    assert config_of(root, model={"threads": 3}, engine={"workers": 2}).threads == 3


def kept(cache: Path, size: int = 128) -> dict[bytes, bytes]:
    """Every film that a cache holds, by its key, and the parts that are listed as done."""
    (folder,) = (path for path in (cache / "embeddings").iterdir() if "." not in path.name)
    store = FilmStore(folder, size)
    films = {key: b"".join(part.tobytes() for part in store.read(key)) for key in store._place}
    return films | {path.name.encode(): b"" for path in (folder / "listed").iterdir()}


def kill_a_worker_later(count: list[int]) -> threading.Thread:
    """Kill -9 a process that reads films for a worker's parent: the worker that is seen first."""

    def kill() -> None:
        for _ in range(600):
            for process in worker_processes():
                os.kill(process, signal.SIGKILL)
                count.append(process)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def worker_processes() -> list[int]:
    """Workers below this process that read films already: processes with a reading one."""
    parents: dict[int, int] = {}
    reading = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        parents[int(entry.name)] = parent
        if b"ravl_med.cohort.reading_worker" in command:
            reading.add(parent)

    def ours(process: int) -> bool:
        while process > 1 and process != os.getpid():
            process = parents.get(process, 1)
        return process == os.getpid()

    return [process for process in sorted(reading - {os.getpid()}) if ours(process)]


@pytest.mark.parametrize("engine", [
    pytest.param({"workers": 2}, marks=pytest.mark.slow),
    pytest.param({"kind": "ray", "workers": 2}, marks=[with_ray, pytest.mark.slow]),
], ids=["local", "ray"])  # fmt: skip
def test_a_worker_that_is_killed_costs_nothing(root, tmp_path, engine):
    embed(config_of(root), cache=Cache(tmp_path / "whole"))
    killed: list[int] = []
    thread = kill_a_worker_later(killed)

    config = config_of(root, engine=engine, cohort={"workers": 1})
    report = embed(config, cache=Cache(tmp_path / "killed"))

    thread.join()
    assert len(killed) == 1
    assert report.films == FILMS - 2  # none is lost, none is counted twice
    assert report.rejected == {"duplicate_pixels": 1, "no_pixel_data": 1}
    after = kept(tmp_path / "killed")
    assert after == kept(tmp_path / "whole")
    assert len(after) == FILMS - 2 + FILMS // 4


@pytest.mark.slow
def test_two_runs_at_once_share_a_store(root, expected, tmp_path):
    config, other_config = config_of(root, engine={"workers": 1}), config_of(root)
    script = (
        "import sys; from pathlib import Path; from ravl_med.storage.cache import Cache\n"
        "from ravl_med.config.loading import Config; from ravl_med.pipeline.shards import embed\n"
        "from ravl_med.encoders import batches; batches._PART = 4\n"
        "config = Config.model_validate_json(Path(sys.argv[1]).read_text())\n"
        # Films of parts that the first run was done with are not read: fewer, and never more.
        "films = embed(config, cache=Cache(Path(sys.argv[2]))).films\n"
        "assert films <= int(sys.argv[3]), films\n"
    )
    (tmp_path / "config.json").write_text(other_config.model_dump_json(), encoding="utf-8")
    other = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "config.json", tmp_path / "kept", str(FILMS - 2)],
        stderr=subprocess.PIPE,
    )
    found = result_of(config, tmp_path / "kept")
    _, told = other.communicate()
    assert other.returncode == 0, told.decode()[-3000:]
    assert found == expected
    assert result_of(other_config, tmp_path / "kept") == expected


def test_workers_of_two_kinds_are_refused(root, tmp_path, monkeypatch):
    def mixed(engine, work, units):
        for number, made in enumerate(units_here(engine, work, units)):
            yield replace(made, recipe=f"recipe {number}")

    monkeypatch.setattr(LocalEngine, "map", mixed)
    with pytest.raises(EngineError, match=r"the workers are of \d+ kinds"):
        embed(config_of(root, engine={"workers": 1}), cache=Cache(tmp_path))


def test_a_cluster_needs_a_store_that_all_reach(root, tmp_path):
    config = config_of(
        root, engine={"kind": "ray", "workers": 1, "address": "auto"}, cache={"embeddings": False}
    )
    model = (stages.open_model_of(config, root / "model"), root / "model")
    cohort = embedding.Cohort.__new__(embedding.Cohort)
    with pytest.raises(ConfigError, match="need a store that all of them reach"):
        embedding.embed_with(LocalEngine(1), config, cohort, model, Run(Cache(tmp_path)))


def test_a_gpu_that_ray_hides_is_refused(root):
    config = config_of(root, model={"device": "cuda"}, engine={"kind": "ray", "workers": 1})
    with (
        pytest.raises(ConfigError, match="Ray hides every GPU from such workers"),
        opened_engine(config.engine, config.model.device, config.threads),
    ):
        pass


def test_annotations_reach_the_film_that_they_are_of(root, tmp_path, monkeypatch):
    images = pd.read_csv(root / "cohort" / "manifest.csv")["image"]
    lines = [f"{images[at]},thing,{at},{at},{at + 30},{at + 20}" for at in (2, 17, 33, 50)]
    table = tmp_path / "boxes.csv"
    table.write_text("image,name,x0,y0,x1,y1\n" + "\n".join([*lines, "none.dcm,x,1,1,9,9"]))
    regions = {"sources": ("annotations",), "annotations": table}
    expected = result_of(config_of(root, regions=regions), tmp_path / "one")
    assert '"other_image":1' in expected
    monkeypatch.setattr(LocalEngine, "map", units_here)
    config = config_of(root, regions=regions, engine={"workers": 1})
    assert result_of(config, tmp_path / "many") == expected
