"""Offline means offline: no verb and none of its processes asks another machine for anything."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from encoders.tiny_models import build

import ravl_med
from ravl_med.cohort.manifest import read_manifest
from ravl_med.phantoms.cohort import synthesize

REPOSITORY = Path(__file__).parents[1]
CONFIG = """
name: offline
cohort: {manifest: cohort/manifest.csv, split: null, workers: 1}
task:
  classes:
    cardiomegaly: {prompts: [Cardiomegaly.]}
    no finding: {prompts: [Normal chest radiograph.]}
model: {path: model}
discovery: {clusters: [8]}
engine: {workers: 1}
gate: {max_rejected_fraction: 0.9, min_films: 1}
evidence: {relevance: %s, simulations: 20, effect_films: 20, max_pairs: 20, dependence_films: 0,
  looking_films: 0}
"""
HOOK = """
import os, sys

def note(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        if not isinstance(arguments[1], tuple):
            return  # a Unix socket leads to this machine alone
    elif event not in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        return
    with open(os.environ["CONNECTIONS"], "a") as stream:
        stream.write(f"{event} {arguments[1:]!r}\\n")

sys.addaudithook(note)
with open(os.environ["CONNECTIONS"] + ".processes", "a") as stream:
    stream.write(f"{os.getpid()}\\n")
"""
Verb = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def listener():
    """A web server's address on the loopback; whoever calls is left in its queue."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        server.setblocking(False)
        yield server


def hostile_cells(port: int) -> list[str]:
    return [
        f"http://127.0.0.1:{port}/exfil?who=me",
        f"HTTP://127.0.0.1:{port}/a",
        "https://localhost/a",
        "http://[::1",
        "hf://datasets/a/b",
        "ftp://127.0.0.1/a",
        "ssh://127.0.0.1/a",
        "github://a:b@/x",
        "s3:///x",
        "s3://bucket/film.dcm",
        "gs://",
        "dask://",
        "reference://a",
        "file:///etc/passwd",
        "//127.0.0.1/share/film.dcm",
        "/net/127.0.0.1/film.dcm",
    ]


@pytest.fixture(scope="module")
def verb(tmp_path_factory: pytest.TempPathFactory, listener: socket.socket) -> Verb:
    """Runs a verb by itself in a folder whose manifest names other machines."""
    root = tmp_path_factory.mktemp("offline")
    synthesize(root / "cohort", images=40, size=96, seed=3, workers=1)
    build("open_clip_vit", root / "model")
    table = pd.read_csv(root / "cohort" / "manifest.csv", dtype=str, keep_default_na=False)
    cells = hostile_cells(listener.getsockname()[1])
    table.loc[table.index[: len(cells)], "image"] = cells
    table.to_csv(root / "cohort" / "manifest.csv", index=False)
    relevance = REPOSITORY / "configs" / "relevance" / "chest.yaml"
    (root / "audit.yaml").write_text(CONFIG % relevance, encoding="utf-8")
    (root / "hook").mkdir()
    (root / "hook" / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    environment = {
        **os.environ,
        "CONNECTIONS": str(root / "connections"),
        "PYTHONPATH": os.pathsep.join([str(root / "hook"), str(REPOSITORY)]),
        "XDG_CACHE_HOME": str(root / "cache"),
        "XDG_CONFIG_HOME": str(root / "home"),
    }

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [sys.executable, "-m", "ravl_med", *words],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not (root / "connections").exists(), (root / "connections").read_text()
        with pytest.raises(BlockingIOError):
            listener.accept()
        return ended

    run.root = root  # type: ignore[attr-defined]
    return run


@pytest.mark.long
def test_a_manifest_that_names_other_machines_reaches_none(verb: Verb, listener) -> None:
    ended = verb("embed", "audit.yaml")
    assert ended.returncode == 0, ended.stderr
    aside = read_manifest(verb.root / "cohort" / "manifest.csv", split=None).rejected
    assert [film.row for film in aside] == list(range(2, 2 + len(hostile_cells(0))))
    assert {film.reason for film in aside} == {"outside_root"}
    processes = (verb.root / "connections.processes").read_text().split()
    assert len(set(processes)) >= 3  # the run's own, a reader and a worker: all had the hook
    assert "127.0.0.1" not in ended.stdout + ended.stderr


@pytest.mark.long
def test_an_audit_and_its_report_connect_to_nothing(verb: Verb) -> None:
    """In few processes; `test_no_verb_connects` has those of workers too."""
    words = ("audit", "audit.yaml", "--out", "run", "--set", "engine.workers=0")
    for verb_words in (words, ("report", "run")):
        ended = verb(*verb_words)
        assert ended.returncode in (0, 1), ended.stderr
    assert (verb.root / "run" / "report.pdf").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "codes"),
    [
        (("doctor",), (0,)),
        (("inspect", "cohort"), (0, 3)),
        (("init", "cohort/films", "--out", "begun"), (0, 2, 3)),
        (("plan", "audit.yaml", "--sample", "8"), (0,)),
        (("regions", "audit.yaml", "--show", "4"), (0,)),
        (("power", "audit.yaml", "--films", "100", "--simulations", "20"), (0,)),
        (("audit", "audit.yaml", "--out", "run"), (0, 1)),
        (("compare", "run", "run", "--out", "both"), (0, 1, 2)),
        (("merge", "audit.yaml", "cache/ravl-med"), (0, 2, 3)),
        (("mitigate", "audit.yaml", "--audit", "run"), (0, 1, 2, 3)),
        (("cache", "list"), (0,)),
        (("schema",), (0,)),
    ],
    ids=lambda value: value[0] if isinstance(value[0], str) else None,
)
def test_no_verb_connects(verb: Verb, words: tuple[str, ...], codes: tuple[int, ...]) -> None:
    ended = verb(*words)
    assert ended.returncode in codes, ended.stderr


@pytest.mark.parametrize("cell", ["http://host/a", "hf://datasets/a", "ftp://host/a"])
def test_a_config_that_names_a_web_server_is_refused(tmp_path: Path, cell: str) -> None:
    from ravl_med.config.loading import load_config
    from ravl_med.errors import ConfigError

    text = (CONFIG % "relevance.yaml").replace("cohort/manifest.csv", f'"{cell}"')
    (tmp_path / "audit.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cohort\.manifest: \w+:// is no storage; expected s3"):
        load_config(tmp_path / "audit.yaml")


def test_nothing_that_the_package_reads_is_unpickled() -> None:
    """What workers hand back is, between processes of one user; the threat model says so."""
    package = Path(ravl_med.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
                risky = (node.arg, node.value.value) in {
                    ("allow_pickle", True), ("weights_only", False),
                }  # fmt: skip
                names = ["pickle"] if risky else []
            if {name.split(".")[0] for name in names} & {"pickle", "cloudpickle", "dill", "joblib"}:
                found.add(path.relative_to(package).as_posix())
    assert found == {"engine/local.py", "engine/ray.py"}
    text = " ".join((package / "README.md").read_text(encoding="utf-8").split())
    assert "tasks and results are pickled between processes of the user" in text
