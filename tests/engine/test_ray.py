"""Workers of Ray: order, deaths, faults, loopback, silence, and plans that cannot be scheduled."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ravl_med.config.runtime import EngineConfig
from ravl_med.engine.ray import cpus_a_worker, joined_cluster
from ravl_med.errors import ConfigError

HERE = Path(__file__).parent
with_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: extra `ray`")
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
RUN = """
import json, re, subprocess, sys
sys.path.insert(0, sys.argv[1])
from toy_work import Opener
from ravl_med.config.runtime import EngineConfig
from ravl_med.engine.ray import RayEngine, joined_cluster
from ravl_med.engine.local import Work
from ravl_med.errors import RavlMedError

told = {}
address = sys.argv[4] if len(sys.argv) > 4 else None
with joined_cluster(EngineConfig(kind="ray", workers=2, address=address), 1) as cpus:
    import ray
    told["nodes"] = [node["NodeManagerAddress"] for node in ray.nodes()]
    if address is None:
        told["folder"] = ray._private.worker._global_node.get_session_dir_path()
    told["cpus"] = cpus
    for case in json.loads(sys.argv[2]):
        work = Work(Opener(case.get("broken", "")), name="toys")
        try:
            told[case["name"]] = list(RayEngine(2, cpus).map(work, case["units"]))
        except RavlMedError as error:
            told[case["name"]] = [type(error).__name__, str(error)]
with open(sys.argv[3], "w") as stream:
    json.dump(told, stream)
"""


def run_cases(folder: Path, cases: list[dict[str, Any]], *address: str) -> dict[str, Any]:
    """Return what a process of its own saw: Ray listens where its first import says."""
    run = subprocess.run(
        [sys.executable, "-c", RUN, str(HERE), json.dumps(cases), str(folder / "told"), *address],
        env={**os.environ, "PYTHONPATH": str(HERE), **TOKEN},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    seen = json.loads((folder / "told").read_text(encoding="utf-8"))
    return {**seen, "printed": run.stdout + run.stderr}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    if find_spec("ray") is None:
        pytest.skip("ray is not installed: extra `ray`")
    folder = tmp_path_factory.mktemp("ray")
    cases = [
        {"name": "order", "units": [{"value": n, "sleep": 0.3 * (n == 0)} for n in range(6)]},
        {"name": "died", "units": [{"value": 1}, {"value": 2, "die_once": str(folder / "died")}]},
        {"name": "data", "units": [{"value": 1}, {"fail": "data"}]},
        {"name": "other", "units": [{"fail": "other"}]},
        {"name": "refused", "units": [{"value": 1}], "broken": "refused"},
        {"name": "poison", "units": [{"value": 1}, {"die": True}]},
        {"name": "nothing", "units": []},
    ]
    return run_cases(folder, cases)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two processors that somebody else has started: ports of its head."""
    if find_spec("ray") is None:
        pytest.skip("ray is not installed: extra `ray`")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as other:
        ports = [server.getsockname()[1] for server in (one, other)]
    ray = Path(sys.executable).with_name("ray")
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        head = subprocess.Popen(
            [ray, "start", "--head", "--block", f"--port={ports[0]}", "--num-cpus=2",
             f"--ray-client-server-port={ports[1]}", "--include-dashboard=false",
             "--object-store-memory=200000000", f"--temp-dir={folder}", "--disable-usage-stats"],
            env={**os.environ, "PYTHONPATH": str(HERE), **TOKEN},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            for port in ports:
                _wait_for(port)
            yield ports
        finally:
            os.killpg(head.pid, signal.SIGTERM)
            head.wait()


def _wait_for(port: int) -> None:
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(port)


@pytest.mark.slow
@pytest.mark.parametrize(("address", "port"), [("127.0.0.1:{}", 0), ("ray://127.0.0.1:{}", 1)])
def test_a_cluster_of_others_is_joined(cluster, tmp_path, address, port) -> None:
    cases = [
        {"name": "order", "units": [{"value": n, "sleep": 0.2 * (n == 0)} for n in range(4)]},
        {"name": "other", "units": [{"value": 1}, {"fail": "other"}]},
    ]
    seen = run_cases(tmp_path, cases, address.format(cluster[port]))
    assert [unit["value"] for unit in seen["order"]] == [0, 1, 4, 9]
    assert seen["cpus"] == 0.5
    assert seen["other"][0] == "EngineError"
    assert "Doe" not in seen["printed"] + seen["other"][1]


@pytest.mark.slow
def test_order_threads_and_silence(told) -> None:
    done = told["order"]
    assert [unit["value"] for unit in done] == [0, 1, 4, 9, 16, 25]
    assert {unit["threads"] for unit in done} == {1}
    assert {unit["usage"] for unit in done} == {"0"}
    assert told["nothing"] == []
    assert "Doe" not in told["printed"]


@pytest.mark.slow
def test_ray_listens_on_the_loopback_and_leaves_nothing(told) -> None:
    assert all(address.startswith("127.") for address in told["nodes"])
    assert not Path(told["folder"]).exists()
    assert "/ravl-" in told["folder"]


@pytest.mark.slow
def test_a_worker_that_died_is_replaced_and_a_poison_is_named(told) -> None:
    assert [unit["value"] for unit in told["died"]] == [1, 4]
    kind, line = told["poison"]
    assert kind == "EngineError"
    assert line.startswith("engine: the same unit of work brought 8 workers down; expected")


@pytest.mark.slow
def test_an_error_of_a_worker_is_one_line_without_a_name(told) -> None:
    assert told["data"] == ["DataError", "manifest.csv row 3: no such file."]
    assert told["refused"] == ["ModelError", "model: no such folder."]
    kind, line = told["other"]
    assert kind == "EngineError"
    assert line.startswith("engine: toys, unit 1 of 1, ended a worker's attempt with ValueError.")
    assert "Doe" not in line


@pytest.mark.parametrize(("workers", "nodes", "threads", "share"), [
    (1, [2.0], 1, 1.0),
    (2, [2.0], 1, 0.5),  # one CPU is left to Ray's own tasks
    (1, [1.0], 1, 0.5),
    (3, [2.0], 1, None),
    (2, [2.0], 2, None),
    (8, [4.0, 4.0], 1, 0.87),
    (60, [64.0], 1, 1.0),
    (4, [3.0, 3.0], 1, 1.0),
    (2, [8.0], 3, 3.0),
    (2, [1.0, 2.0], 2, None),  # in all there is room, on no machine is
    (1, [], 1, None),
])  # fmt: skip
def test_workers_are_sized_from_what_there_is(workers, nodes, threads, share) -> None:
    assert cpus_a_worker(workers, nodes, threads) == share


@with_ray
@pytest.mark.parametrize(
    "address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "ray://nowhere.invalid:1"]
)
def test_an_address_where_nobody_answers_is_one_line_at_once(address) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    start = time.monotonic()
    config = EngineConfig(kind="ray", workers=1, address=address.format(port))
    with (
        pytest.raises(ConfigError, match=r"^engine\.address: nothing answers at .* within 5 s"),
        joined_cluster(config, 1),
    ):
        pass
    assert time.monotonic() - start < 20


@with_ray
@pytest.mark.slow
def test_an_address_of_something_else_is_one_line_in_time(tmp_path) -> None:
    script = (
        "from ravl_med.config.runtime import EngineConfig\n"
        "from ravl_med.engine.ray import RayEngine, joined_cluster\n"
        "from ravl_med.errors import ConfigError\n"
        "import sys, os\n"
        "config = EngineConfig(kind='ray', workers=1, address=sys.argv[1])\n"
        "try:\n"
        "    with joined_cluster(config, 1): pass\n"
        "except ConfigError as error:\n"
        "    print(error, flush=True)\n"
        "os._exit(0)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as dumb:
        held: list[socket.socket] = []
        threading.Thread(target=lambda: held.extend(_taken(dumb)), daemon=True).start()
        told = subprocess.run(
            [sys.executable, "-c", script, f"127.0.0.1:{dumb.getsockname()[1]}"],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert told.stdout.startswith("engine.address: no Ray cluster can be joined there (")
    assert len(told.stdout.splitlines()) == 1


def _taken(server: socket.socket):
    while True:
        try:
            yield server.accept()[0]
        except OSError:
            return


@with_ray
@pytest.mark.slow
def test_a_plan_that_cannot_be_scheduled_is_refused() -> None:
    script = (
        "from ravl_med.config.runtime import EngineConfig\n"
        "from ravl_med.engine.ray import RayEngine, joined_cluster\n"
        "from ravl_med.errors import ConfigError\n"
        "for more in ({'workers': 10_000}, {'workers': 1, 'gpus_per_worker': 64}):\n"
        "    try:\n"
        "        with joined_cluster(EngineConfig(kind='ray', **more), 1): pass\n"
        "    except ConfigError as error:\n"
        "        print(error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    first, second = told.stdout.splitlines()
    assert first.startswith("engine: 10000 workers of 1 threads do not fit into the cluster")
    assert second.startswith("engine: 1 workers of 64 GPU do not fit into the cluster")


def test_without_ray_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ConfigError, match=r"not installed. Install it \(pip install '\.\[ray\]"),
        joined_cluster(EngineConfig(kind="ray", workers=1), 1),
    ):
        pass


@pytest.mark.parametrize(("section", "line"), [
    ({"kind": "ray"}, "kind ray needs workers, 1 or more"),
    ({"address": "auto"}, "address is of Ray; set kind to ray"),
    ({"gpus_per_worker": 0.5}, "gpus_per_worker is of Ray"),
    ({"kind": "ray", "workers": 1, "gpus_per_worker": 1.5}, "expected a share of one GPU, or a"),
    ({"kind": "slurm"}, "Input should be 'local' or 'ray'"),
    ({"workers": -1}, "greater than or equal to 0"),
    ({"kind": "ray", "workers": 1, "address": "http://x"}, "should match pattern"),
])  # fmt: skip
def test_a_section_that_contradicts_itself_is_refused(section, line) -> None:
    with pytest.raises(ValueError, match=line):
        EngineConfig.model_validate(section)
