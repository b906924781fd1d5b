"""The run folder: whole or not at all, private parts for the owner alone, no path in the open."""

import csv
import errno
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from ravl_med.config.loading import Config, load_config
from ravl_med.errors import ConfigError
from ravl_med.reporting.files.run_folder import (
    config_text,
    draft_folder,
    refuse_foreign_folder,
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


def run(target: Path, **files: str) -> None:
    with draft_folder(target) as draft:
        for name, text in files.items():
            (draft / f"{name}.json").write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir()}


def test_a_full_disk_is_told_and_an_earlier_run_stays(place: Path) -> None:
    run(place / "run", run="1")
    with pytest.raises(ConfigError, match=r"^--out: no room left") as caught:
        _fill_the_disk(place / "run")
    assert "doe" not in str(caught.value)
    assert [path.name for path in place.iterdir()] == ["run"]
    assert (place / "run" / "run.json").read_text(encoding="utf-8") == "1"


def _fill_the_disk(target: Path) -> None:
    with draft_folder(target) as draft:
        (draft / "begun").write_text("x", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device", "/patients/doe.dcm")


def test_a_run_appears_when_it_is_whole(place: Path) -> None:
    target = place / "deep" / "first"
    with draft_folder(target) as draft:
        (draft / "run.json").write_text("1")
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
        (draft / "run.json").write_text("2")
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
            refuse_foreign_folder(place / name)
        assert str(place) not in str(caught.value)
    assert (place / "folder" / "thesis.txt").read_text() == "years"
    refuse_foreign_folder(place / "none")


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
