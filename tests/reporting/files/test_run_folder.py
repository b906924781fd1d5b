"""The run folder: whole or not at all, private parts for the owner alone, no path in the open."""

import csv
import errno
import json
import os
import shutil
import signal
import stat
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from ravl_med.config.loading import Config, load_config
from ravl_med.errors import ConfigError
from ravl_med.reporting.files import run_folder
from ravl_med.reporting.files.run_folder import (
    Strangers,
    config_text,
    draft_folder,
    find_strangers,
    prepare_folder,
    write_json,
    write_predictions_file,
    write_private,
)

TEXT = """\
name: run
cohort: {manifest: patients_of_dr_doe/manifest.csv}
task:
  classes:
    "no": {prompts: ["Nothing: clear."]}
    effusion: {prompts: [Fluid.], label: {effusion: 1, "no": 0}}
model: {path: secret_model}
evidence: {relevance: relevance.yaml}
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "audit.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return load_config(path)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "reports"
    folder.mkdir()
    return folder


def write_record(folder: Path, number: str) -> None:
    """Write the run.json of this tool, with a number to tell runs apart."""
    record = {"tool": {"name": "ravl-med"}, "number": number}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")


def run(target: Path, *, replace: bool = False, **files: str) -> None:
    with draft_folder(target, replace=replace) as draft:
        for name, text in files.items():
            if name == "run":
                write_record(draft, text)
            else:
                (draft / f"{name}.json").write_text(text)


def contents(folder: Path) -> dict[str, str]:
    """Return the texts of a run folder; of run.json the number."""
    texts = {p.name: p.read_text() for p in folder.iterdir()}
    return texts | {"run.json": json.loads(texts["run.json"])["number"]}


def test_a_full_disk_is_told_and_an_earlier_run_stays(place: Path) -> None:
    run(place / "run", run="1")
    with pytest.raises(ConfigError, match=r"^--out: no room left") as caught:
        _fill_the_disk(place / "run")
    assert "doe" not in str(caught.value)
    assert [path.name for path in place.iterdir()] == ["run"]
    assert contents(place / "run") == {"run.json": "1"}


def _fill_the_disk(target: Path) -> None:
    with draft_folder(target) as draft:
        (draft / "begun").write_text("x", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device", "/patients/doe.dcm")


def test_a_run_appears_when_it_is_whole(place: Path) -> None:
    target = place / "deep" / "first"
    with draft_folder(target) as draft:
        write_record(draft, "1")
        assert not target.exists()
        assert draft.parent == target.parent
    assert contents(target) == {"run.json": "1"}
    assert list(target.parent.iterdir()) == [target]


def test_an_earlier_run_is_replaced_whole(place: Path) -> None:
    run(place / "a", run="1", old="x")
    run(place / "a", run="2", new="y")
    assert contents(place / "a") == {"run.json": "2", "new.json": "y"}
    assert list(place.iterdir()) == [place / "a"]


def test_an_empty_folder_is_taken(place: Path) -> None:
    (place / "a").mkdir()
    run(place / "a", run="1")
    assert contents(place / "a") == {"run.json": "1"}


@pytest.mark.parametrize("earlier", [True, False])
def test_after_an_error_all_is_as_before(place: Path, earlier: bool) -> None:
    if earlier:
        run(place / "a", run="1")

    def stop(draft: Path) -> None:
        write_record(draft, "2")
        raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt, match="stop"), draft_folder(place / "a") as draft:
        stop(draft)
    assert [p.name for p in place.iterdir()] == ["a"] * earlier
    if earlier:
        assert contents(place / "a") == {"run.json": "1"}


def test_an_earlier_run_comes_back_when_the_new_one_cannot_be_moved(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(place / "a", run="1")
    monkeypatch.setattr(run_folder, "_exchange", lambda one, other: False)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            raise PermissionError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError, match="no"):
        run(place / "a", run="2")
    assert list(place.iterdir()) == [place / "a"]
    assert contents(place / "a") == {"run.json": "1"}


def test_a_foreign_folder_or_file_is_refused(place: Path) -> None:
    (place / "folder").mkdir()
    (place / "folder" / "thesis.txt").write_text("years")
    (place / "file").write_text("years")
    for name in ("folder", "file"):
        with (
            pytest.raises(ConfigError, match=r"--out: the folder exists and is not an .*run.json"),
            draft_folder(place / name),
        ):
            pytest.fail("the block must not run")
        with pytest.raises(ConfigError, match="Choose another, or empty it") as caught:
            prepare_folder(place / name)
        assert str(place) not in str(caught.value)
    assert (place / "folder" / "thesis.txt").read_text() == "years"
    assert prepare_folder(place / "none") == ()


@pytest.mark.parametrize(
    "record", ["{}", "1", "", "[]", '{"tool": {"name": "other"}}', "[" * 10_000]
)
def test_a_folder_of_another_tool_is_left_alone(place: Path, record: str) -> None:
    (place / "theirs").mkdir()
    (place / "theirs" / "run.json").write_text(record, encoding="utf-8")
    (place / "theirs" / "thesis.txt").write_text("years")
    with pytest.raises(ConfigError, match=r"is not an earlier run"):
        run(place / "theirs", run="1", replace=True)
    assert (place / "theirs" / "thesis.txt").read_text() == "years"


def lay_into(folder: Path) -> None:
    (folder / "signed.pdf").write_text("signature")
    (folder / "notes").mkdir()
    (folder / "notes" / "a\x1b[2J.txt").write_text("years")
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "review.json").write_text("edited")


def test_what_no_run_wrote_stops_a_rerun_and_is_named(place: Path) -> None:
    run(place / "a", run="1", review="blank")
    (place / "a" / ".DS_Store").touch()
    run(place / "a", run="2", review="blank")
    assert contents(place / "a")["run.json"] == "2"

    lay_into(place / "a")
    with pytest.raises(ConfigError) as caught:
        run(place / "a", run="3")
    line = str(caught.value)
    for name in ("signed.pdf", r"notes/a\x1b[2J.txt", "link", "review.json", "--replace"):
        assert name in line
    assert (place / "a" / "review.json").read_text() == "edited"
    assert [p.name for p in place.iterdir()] == ["a"]


def test_replace_keeps_the_earlier_run_whole_beside_the_new_one(place: Path) -> None:
    today = date.today().isoformat()
    for number in ("1", "3"):
        run(place / "a", run=number, review="blank", replace=True)
        lay_into(place / "a")
    run(place / "a", run="5", review="blank", replace=True)
    assert contents(place / "a") == {"run.json": "5", "review.json": "blank"}
    assert sorted(p.name for p in place.iterdir()) == ["a", f"a.{today}", f"a.{today}.2"]
    for name, number in ((f"a.{today}", "1"), (f"a.{today}.2", "3")):
        kept = place / name
        assert json.loads((kept / "run.json").read_text())["number"] == number
        assert (kept / "signed.pdf").read_text() == "signature"
        assert (kept / "review.json").read_text() == "edited"


def test_what_is_laid_there_while_a_run_works_is_kept(place: Path) -> None:
    run(place / "a", run="1")
    with draft_folder(place / "a") as draft:
        write_record(draft, "2")
        (place / "a" / "signed.pdf").write_text("signature")
    assert contents(place / "a") == {"run.json": "2"}
    (aside,) = (path for path in place.iterdir() if path.name != "a")
    assert (aside / "signed.pdf").read_text() == "signature"


def test_a_record_that_was_changed_counts_too(place: Path) -> None:
    run(place / "a", run="1", other="x")
    assert find_strangers(place / "a") == Strangers()
    record = json.loads((place / "a" / "run.json").read_text())
    (place / "a" / "run.json").write_text(json.dumps(record | {"number": "9"}))
    assert find_strangers(place / "a") == Strangers(changed=("run.json",))


def test_private_digests_stay_private(place: Path, config: Config) -> None:
    with draft_folder(place / "a") as draft:
        assert stat.S_IMODE(draft.stat().st_mode) == 0o700
        write_record(draft, "1")
        write_private(draft / "private", ["1a"], [Path("/films/doe.dcm")], config)
        (draft / "private" / "films").mkdir()
        (draft / "private" / "films" / "0.png").touch()
    record = json.loads((place / "a" / "run.json").read_text())
    assert set(record["files"]) == {"run.json", "private/files.json"}
    private = place / "a" / "private"
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (private, *private.rglob("*"))
    }
    folders = {"private": 0o700, "films": 0o700}
    assert modes == folders | dict.fromkeys(
        ("key.csv", "config.yaml", "0.png", "files.json"), 0o600
    )
    (place / "a" / "private" / "films" / "0.png").write_text("changed")
    assert find_strangers(place / "a") == Strangers(changed=("private/films/0.png",))


def run_and_die(target: Path, at: int, exchange: bool) -> bool:
    """Write a run in a process of its own, which is killed at a step; return whether it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads
        child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    steps = 0

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return step

    if not exchange:
        run_folder._exchange = lambda one, other: False  # type: ignore[assignment]
    for owner, name in (
        (Path, "rename"), (Path, "chmod"), (run_folder.shutil, "rmtree"),
        (run_folder, "_exchange"), (run_folder, "_seal"), (run_folder, "_retire"),
    ):  # fmt: skip
        setattr(owner, name, dying(getattr(owner, name)))
    try:
        run(target, run="2", big="new")
    finally:
        os._exit(0)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_kill_at_any_step_leaves_one_run_whole(place: Path, exchange: bool) -> None:
    for at in range(1, 20):
        target = place / f"a{at}"
        run(target, run="1", old="x")
        killed = run_and_die(target, at, exchange)
        prepare_folder(target)
        left = contents(target)
        assert left in ({"run.json": "1", "old.json": "x"}, {"run.json": "2", "big.json": "new"})
        assert {p.name for p in place.iterdir()} == {f"a{n}" for n in range(1, at + 1)}
        if not killed:
            break
    assert at > 4  # that many steps were killed
    assert left["run.json"] == "2"


def test_a_kill_while_the_earlier_run_is_removed_leaves_nothing_beside(place: Path) -> None:
    """Half of it is gone, its list of private files too: what is left is no file of a user."""
    for at in range(1, 6):
        target = place / f"a{at}"
        for number in ("1", "2"):
            if number == "2":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    child = os.fork()
                if child:
                    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
                    continue
                kill_at(os, "unlink", at + 2)  # two are of the new run
            try:
                with draft_folder(target) as draft:
                    (draft / "private").mkdir()
                    for name in ("b.npz", "c.json", "z.npy"):
                        (draft / "private" / name).write_text(number)
                    write_record(draft, number)
            finally:
                if number == "2":
                    os._exit(0)
        (left,) = place.glob(".a*")
        there = [path for path in left.rglob("*") if path.is_file()]
        assert len(there) == 5 or not (left / "run.json").exists()  # whole, or no run
        prepare_folder(target)
        assert (target / "private" / "c.json").read_text() == "2"
        assert [path.name for path in place.iterdir()] == [target.name]
        shutil.rmtree(target)


def kill_at(owner: Any, name: str, at: int) -> None:
    """Let this process die at a call of a function."""
    real, calls = getattr(owner, name), iter(range(1, 1000))

    def call(*arguments: Any, **options: Any) -> Any:
        if next(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    setattr(owner, name, call)


@pytest.mark.parametrize("exchange", [True, False])
def test_two_runs_that_meet_while_they_take_their_place(place: Path, exchange: bool) -> None:
    """One sleeps between its renames; the other waits for it, and both end well."""
    run(place / "a", run="1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        rename = Path.rename
        if not exchange:
            run_folder._exchange = lambda one, other: False  # type: ignore[assignment]

        def slow(path: Path, to: Path) -> Path:
            moved = rename(path, to)
            (place / "begun").touch()
            time.sleep(0.3)
            return moved

        Path.rename = slow  # type: ignore[assignment]
        retire = run_folder._retire
        run_folder._retire = lambda *asked: ((place / "begun").touch(), retire(*asked))[1]
        code = 1
        try:
            run(place / "a", run="2")
            code = 0
        finally:
            os._exit(code)
    while not (place / "begun").exists():
        time.sleep(0.01)
    run(place / "a", run="3")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert contents(place / "a") == {"run.json": "3"}
    assert sorted(path.name for path in place.iterdir()) == ["a", "begun"]


def test_the_draft_of_a_run_that_works_is_not_swept(place: Path) -> None:
    with draft_folder(place / "a") as draft:
        write_record(draft, "1")
        run(place / "a", run="2")  # another, which ends first
        assert draft.is_dir()
    assert contents(place / "a") == {"run.json": "1"}
    assert [p.name for p in place.iterdir()] == ["a"]


def test_a_run_that_a_kill_left_without_its_name_is_back(place: Path) -> None:
    run(place / "a", run="1", old="x")
    (place / "a").rename(place / ".a.0123.old")
    (note,) = prepare_folder(place / "a")
    assert note == "a: a run was killed while it took its place; the earlier one is back."
    assert contents(place / "a") == {"run.json": "1", "old.json": "x"}
    assert prepare_folder(place / "a") == ()


def test_a_name_that_no_folder_can_have(place: Path) -> None:
    for name in ("n" * 300, "a\0b"):
        with pytest.raises(ConfigError, match="--out: "):
            run(place / name, run="1")


def test_a_place_that_cannot_be_written(place: Path) -> None:
    (place / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"--out: the folder cannot be written .NotADirectory"),
        draft_folder(place / "file" / "a"),
    ):
        pytest.fail("the block must not run")


def test_the_current_folder_and_a_link(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "here").mkdir()
    monkeypatch.chdir(place / "here")
    run(Path(), run="1")
    assert contents(place / "here") == {"run.json": "1"}
    (place / "link").symlink_to(place / "here")
    run(place / "link", run="2")
    assert (place / "link").is_symlink()
    assert contents(place / "here") == {"run.json": "2"}
    assert sorted(p.name for p in place.iterdir()) == ["here", "link"]


def test_the_config_in_the_open_has_no_path(config: Config, tmp_path: Path) -> None:
    text = config_text(config, show_paths=False)
    for word in (str(tmp_path), "doe", "secret", "/"):
        assert word not in text
    for role in ("cohort.manifest", "model.path", "evidence.relevance"):
        assert f"<{role}>" in text
    assert "max_gap: 0.1" in text  # defaults are filled in


def test_the_private_config_gives_the_same_audit(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.yaml"
    path.write_text(config_text(config, show_paths=True), encoding="utf-8")
    assert load_config(path) == config


def test_private_files_are_for_their_owner_alone(config: Config, place: Path) -> None:
    paths = [Path("/films/a,b.dcm"), Path('/films/"é".png')]
    old = os.umask(0)
    try:
        write_private(place / "private", ["1a", "2b"], paths, config)
    finally:
        os.umask(old)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (place / "private").iterdir()}
    assert modes == {"key.csv": 0o600, "config.yaml": 0o600}
    assert stat.S_IMODE((place / "private").stat().st_mode) == 0o700
    with (place / "private" / "key.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [["image_id", "path"], ["1a", str(paths[0])], ["2b", str(paths[1])]]
    assert "patients_of_dr_doe" in (place / "private" / "config.yaml").read_text(encoding="utf-8")


def test_as_many_names_as_paths(config: Config, place: Path) -> None:
    with pytest.raises(ValueError, match=r"zip\(\)"):
        write_private(place / "private", ["1a"], [], config)


def test_predictions(place: Path) -> None:
    scores = np.array([[0.25, 0.75], [0.5, 0.5]], dtype=np.float32)
    write_predictions_file(place / "p.parquet", ["1a", "2b"], ["x", "y"], ["x", "y"], scores)
    table = parquet.read_table(place / "p.parquet").to_pydict()
    assert table == {
        "image_id": ["1a", "2b"],
        "label": ["x", "y"],
        "score:x": [0.25, 0.5],
        "score:y": [0.75, 0.5],
    }


def test_json_keeps_order_and_letters_and_refuses_nan(place: Path) -> None:
    write_json(place / "a.json", {"b": 1, "a": "é"})
    text = (place / "a.json").read_text(encoding="utf-8")
    assert text == '{\n  "b": 1,\n  "a": "é"\n}\n'
    assert json.loads(text) == {"a": "é", "b": 1}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(place / "b.json", {"a": float("nan")})
    assert not (place / "b.json").exists()
