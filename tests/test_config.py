"""The config: strict keys with a guess, YAML 1.2, paths beside the file, overrides."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from ravl_med.cli import app
from ravl_med.config.base import Section, explain_problems
from ravl_med.config.loading import Config, load_config, parse_yaml
from ravl_med.config.reference import config_reference
from ravl_med.config.task import ClassConfig, TaskConfig
from ravl_med.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
MINIMAL = """\
name: chest
cohort: {manifest: films/manifest.csv}
task:
  classes:
    effusion: {prompts: [Pleural effusion.]}
    no finding: {prompts: [Normal.], label: {effusion: 0}}
model: {path: models/clip}
evidence: {relevance: relevance.yaml}
"""


def load(folder: Path, text: str = MINIMAL, *overrides: str) -> Config:
    path = folder / "audit.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configs_of_the_project_load(path: Path) -> None:
    config = load_config(path)
    assert config.evidence.relevance.is_file()


def test_there_are_configs() -> None:
    assert CONFIGS


def test_paths_are_relative_to_the_config_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    load(tmp_path)
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = load_config(Path("../audit.yaml"))
    assert config.cohort.manifest is not None
    assert config.cohort.manifest.is_absolute()
    assert config.cohort.manifest.resolve() == tmp_path / "films" / "manifest.csv"
    assert config.model.path is not None
    assert config.model.path.resolve() == tmp_path / "models" / "clip"
    assert config.evidence.relevance.resolve() == tmp_path / "relevance.yaml"
    config = load_config(tmp_path / "audit.yaml", ("cohort.manifest=/data/manifest.csv",))
    assert config.cohort.manifest == Path("/data/manifest.csv")


def test_the_config_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(tmp_path).name = "other"  # type: ignore[misc]


def test_yaml_is_1_2(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: 1e-5\nb: no\nc: on\nd: 0o17\ne: 12:30\nf: true\n", encoding="utf-8")
    assert parse_yaml(path) == {"a": 1e-5, "b": "no", "c": "on", "d": 15, "e": "12:30", "f": True}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("regionz: {}", r"unknown key 'regionz'\. Did you mean 'regions'\?"),
        ("gate: {maxgap: 0.1}", r"unknown key 'gate.maxgap'\. Did you mean 'max_gap'\?"),
        (
            "labels: {zzz: 1}",
            r"unknown key 'labels.zzz'\. Known keys: source, blank, uncertain, max_unrecognised\.",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^config 'audit.yaml': {message}$"):
        load(tmp_path, f"{MINIMAL}{line}\n")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.classes.effusion.promts=[a]", r"Did you mean 'prompts'\?"),
        ("task.classes.label={promts: [a], prompts: [a]}", r"Did you mean 'prompts'\?"),
        ("model={quickstart: {epoch: 3}}", r"'model.quickstart.epoch'. Did you mean 'epochs'\?"),
        ("cohort={synthetic: {feture: tube}}", r"Did you mean 'feature'\?"),
    ],
)
def test_an_unknown_key_far_inside_names_the_nearest(
    tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, MINIMAL, override)


def test_every_problem_has_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gate\.max_gap.*\n.*report\.regions") as caught:
        load(tmp_path, MINIMAL, "gate.max_gap=2", "report.regions=0")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name=", r"name: input should be a valid string; got None"),
        ("name=a b", r"name: expected at most 64 letters, .*; got 'a b'"),
        ("name=../up", "name: expected at most 64 letters"),
        ("cohort={}", "cohort: name exactly one of 'manifest' and 'synthetic'"),
        ("cohort.synthetic={}", "cohort: name exactly one of 'manifest' and 'synthetic'"),
        ("cohort=/data/doe.csv", "cohort: expected a section of keys; got str"),
        ("cohort.split=train", "cohort.split: .*'finetune', 'validation' or 'test'; got 'train'"),
        ("cohort.voi_view=-1", "cohort.voi_view: .*greater than or equal to 0; got -1"),
        ("cohort.max_pixels=0", "cohort.max_pixels: .*greater than or equal to 1; got 0"),
        ("labels.blank=no", "labels.blank: input should be 'exclude' or 'negative'; got 'no'"),
        ("task.classes={a: {prompts: [x]}}", "task.classes: .*at least 2 items"),
        ("task.classes.effusion.prompts=[]", "task.classes.effusion.prompts: .*at least 1 item"),
        ("task.classes.effusion.label={a: 2}", r"effusion.label.a: input should be 0 or 1; got 2"),
        ("task.templates=[]", "task.templates: .*at least 1 item"),
        ("task.templates=[a film]", "task: template 'a film' must hold the placeholder {} once"),
        ("task.templates=['{} {}']", "task: template '{} {}' must hold the placeholder {} once"),
        ("task.temperature=0", "task.temperature: input should be greater than 0; got 0"),
        ("task.temperature=.inf", "task.temperature: input should be a finite number; got inf"),
        ("model={}", "model: name exactly one of 'path', 'weights', 'factory' and 'quickstart'"),
        ("model.quickstart={}", "model: name exactly one of 'path', 'weights', 'factory' and"),
        ("model={weights: a.pt}", "model: weights need exactly one of 'architecture' and 'layout'"),
        ("model.keys={a.: null}", "model: 'keys' describes 'weights', which is not named"),
        ("model.quick_gelu=true", "model: 'quick_gelu' describes 'weights', which is not named"),
        ("model={factory: a.b:c}", "model: factory 'a.b:c' is code, .*: set allow_code to true"),
        ("model={factory: a b}", "model.factory: string should match pattern"),
        (
            "model={weights: a.pt, architecture: RN50, preprocess: {std: [1, 1, 0]}}",
            "model.preprocess.std.2: input should be greater than 0; got 0",
        ),
        ("model.device=gpu", "model.device: expected auto, cpu, .*; got 'gpu'"),
        ("model={quickstart: {image_size: 100}}", "image_size: .*multiple of 32; got 100"),
        ("model={quickstart: {tower: mlp}}", "tower: input should be 'resnet' or 'vit'"),
        ("regions.tiles=[6]", "regions.tiles"),
        ("regions.tiles=[6, 65]", "regions.tiles.1: .*less than or equal to 64; got 65"),
        ("regions.min_visible=.nan", "regions.min_visible: .*got nan"),
        ("discovery.clusters=[1]", "discovery.clusters.0: .*equal to 2; got 1"),
        ("discovery.clusters=[]", "discovery.clusters: .*at least 1 item"),
        (
            "discovery.protocol=other",
            "discovery.protocol: input should be 'pooled', 'paper' or 'ravl'",
        ),
        ("discovery.merge_overlap=0", "discovery.merge_overlap: .*greater than 0; got 0"),
        ("discovery.min_influence=1.5", "discovery.min_influence: .*equal to 1; got 1.5"),
        ("evidence.draws=10", "evidence.draws: .*equal to 2000; got 10"),
        ("evidence.fdr=0", "evidence.fdr: .*greater than 0; got 0"),
        (
            "evidence.shortcut_share=0.6",
            r"evidence: shortcut_share \(0.6\) must not exceed sign_share \(0.5\)",
        ),
        (
            "gate={min_prediction_share: 0.6, max_prediction_share: 0.5}",
            r"gate: min_prediction_share \(0.6\) must not exceed max_prediction_share \(0.5\)",
        ),
        ("evidence.confidence=1", "evidence.confidence: input should be less than 1; got 1"),
        ("evidence={}", "evidence.relevance: field required"),
        ("gate.max_gap=-0.1", "gate.max_gap: .*equal to 0; got -0.1"),
        ("report.regions=25", "report.regions: .*equal to 24; got 25"),
    ],
)
def test_every_limit(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("{}", r"\{\}")):
        load(tmp_path, MINIMAL, override)


def test_synthetic_limits(tmp_path: Path) -> None:
    for key, value in {"images": 39, "strength": 1.1, "seed": -1, "size": 63}.items():
        with pytest.raises(ConfigError, match=rf"cohort.synthetic.{key}: .*; got {value}"):
            load(tmp_path, MINIMAL, f"cohort={{synthetic: {{{key}: {value}}}}}")


def test_a_missing_section(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config 'audit.yaml': task: field required\."):
        load(tmp_path, MINIMAL.replace("task:", "regions: {}\ngate:", 1).replace("classes", "x"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a mapping of sections, got nothing"),
        (b"- a\n", "expected a mapping of sections, got list"),
        (b"a: [1\nb: 2\n", "line 2, column 2: not valid YAML"),
        (b"a: 1\na: 2\n", 'line 2, column 1: not valid YAML: found duplicate key "a"'),
        (b"a: 2024-13-45\n", "not valid YAML: month must be in 1..12"),
        (b"a: !!python/object:os.system x\n", "not valid YAML: could not determine a constructor"),
        (b"a: \x07\n", "not valid YAML"),
        (b"\xff\xfe\x00", r"cannot be read as text \(UnicodeDecodeError\)"),
    ],
)
def test_what_is_not_a_config(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "audit.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(tmp_path) not in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config 'none.yaml': no such file\.") as caught:
        load_config(tmp_path / "none.yaml")
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ConfigError, match="a folder; expected a regular file"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be read as text \(OSError\)"):
        load_config(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("gate.max_gap=0.2", lambda c: c.gate.max_gap == 0.2),
        ("gate.max_gap = 1e-1", lambda c: c.gate.max_gap == 0.1),
        ("cohort.split=null", lambda c: c.cohort.split is None),
        ("cohort.split=", lambda c: c.cohort.split is None),
        ("regions.tiles=[2, 3]", lambda c: c.regions.tiles == (2, 3)),
        ("report.title=a=b", lambda c: c.report.title == "a=b"),
        (
            "task.classes.no finding.prompts=[Clear.]",
            lambda c: c.task.classes["no finding"].prompts == ("Clear.",),
        ),
        ("task.classes.edema.prompts=[Edema.]", lambda c: len(c.task.classes) == 3),
    ],
)
def test_overrides(tmp_path: Path, override: str, read: Any) -> None:
    assert read(load(tmp_path, MINIMAL, override))


def test_the_last_override_wins(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL, "report.regions=3", "report.regions=4").report.regions == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("gate.max_gap", r"--set 'gate.max_gap': expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("gate..max_gap=3", "expected section.key=value"),
        ("gate.max_gap=[1", "the value is not valid YAML"),
        ("name=2024-13-45", "the value is not valid YAML"),
        ("name.first=a", "'name' is a value, not a section"),
        ("gate.max_gab=1", r"unknown key 'gate.max_gab'. Did you mean 'max_gap'\?"),
    ],
)
def test_overrides_that_cannot_be(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, MINIMAL, override)


def task(*templates: str) -> TaskConfig:
    return TaskConfig(
        classes={
            "effusion": ClassConfig(prompts=("Effusion.", "Fluid.")),
            "none": ClassConfig(prompts=("Clear.",), label={"effusion": 0, "edema": 0}),
        },
        templates=templates,
    )


def test_a_class_is_its_own_column_unless_told() -> None:
    assert task("{}").columns() == {
        "effusion": {"effusion": 1},
        "none": {"effusion": 0, "edema": 0},
    }


def test_texts_are_prompts_in_templates() -> None:
    assert task("{}", "A film: {}").texts() == {
        "effusion": ["Effusion.", "A film: Effusion.", "Fluid.", "A film: Fluid."],
        "none": ["Clear.", "A film: Clear."],
    }


@given(st.text(alphabet="ab{}% ", max_size=12), st.text(alphabet="xy{}", max_size=5))
def test_a_template_is_text_whatever_else_it_holds(template: str, prompt: str) -> None:
    if template.count("{}") != 1:
        with pytest.raises(ValueError, match="must hold the placeholder"):
            task(template)
        return
    before, _, after = template.partition("{}")
    classes = {n: ClassConfig(prompts=(more + prompt,)) for n, more in (("a", ""), ("b", "no "))}
    if not (before + prompt + after).strip():
        with pytest.raises(ValueError, match=r"classes\.a\.prompts: a prompt is blank"):
            TaskConfig(classes=classes, templates=(template,))
        return
    filled = TaskConfig(classes=classes, templates=(template,))
    assert filled.texts()["a"] == [before + prompt + after]
    with pytest.raises(ValueError, match="classes a and b have the same prompts"):
        TaskConfig(classes=dict.fromkeys("ab", classes["a"]), templates=(template,))


def test_prompts_are_a_list() -> None:
    for prompts, said in (("Pneumonia.", r"expected a list, as \[Pneumonia\.\]"),
                          ([], "the list should have at least 1 item, not 0")):  # fmt: skip
        with pytest.raises(ValidationError) as caught:
            TaskConfig.model_validate({"classes": {n: {"prompts": prompts} for n in "ab"}})
        first, _ = explain_problems(caught.value, TaskConfig)
        assert re.search(rf"^classes\.a\.prompts: {said}", first)


# Hostile text


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("report: {title: %s}", r"references unfolded"),
        ("report: {title: %s}" % ("[" * 3000), r"deep"),
        ('report: {title: "a\\ud800"}', r"holds half of a character, or a NUL"),
        ('report: {title: "a\\0b"}', r"holds half of a character, or a NUL"),
    ],
    ids=["bomb", "deep", "surrogate", "nul"],
)
def test_a_hostile_text_is_one_line(tmp_path: Path, line: str, match: str) -> None:
    if "%s" in line:
        levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
        line = "\n".join([*levels, line % "*a11"])
    path = tmp_path / "audit.yaml"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(ConfigError, match=match) as caught:
        load_config(path)
    assert len(str(caught.value)) < 400


@pytest.mark.timeout(10)
def test_a_config_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "audit.yaml")
    with pytest.raises(ConfigError, match="a named pipe; expected a regular file"):
        load_config(tmp_path / "audit.yaml")
    with pytest.raises(ConfigError, match="a device"):
        load_config(Path("/dev/zero"))


# Reference


def test_the_reference_is_that_of_the_schema_and_leaves_nothing_unsaid() -> None:
    said = config_reference()
    page = (CONFIGS[0].parent / "README.md").read_text(encoding="utf-8")
    assert page.endswith(f"<!-- written by: ravl-med config --reference -->\n{said}")
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows if len(row) != 4 or "" in [one.strip(" |") for one in row]] == []
    keys = {row[0].strip("|` ") for row in rows}
    assert len(keys) == len(rows)
    assert {"name", "task.classes.NAME.prompts", "model.answers", "model.answers.style"} <= keys
    plain = load_config(CONFIGS[0]).model_dump()
    plain["task"]["classes"] = {"NAME": next(iter(plain["task"]["classes"].values()))}
    assert set(leaves(plain)) <= keys


def leaves(section: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, value in section.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}"


@pytest.mark.parametrize(
    ("key", "row"),
    [
        ("regions.tiles", ("list of 2: whole number, 1 to 64", "`[6, 6]`")),
        ("evidence.fdr", ("number, above 0, below 1", "`0.05`")),
        ("cohort.split", ("`finetune`, `validation`, `test` or `null`", "`validation`")),
        ("model.quickstart.image_size", ("whole number, 32 to 2,048, in steps of 32", "`96`")),
        ("evidence.relevance", ("path", "required")),
    ],
)
def test_a_row_says_what_a_key_takes(key: str, row: tuple[str, str]) -> None:
    assert f"| `{key}` | {row[0]} | {row[1]} | " in config_reference()


def test_the_verb_checks_a_config_and_fills_it_in(tmp_path: Path) -> None:
    load(tmp_path)
    words = ["config", str(tmp_path / "audit.yaml"), "--set", "gate.min_films=33"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0
    (tmp_path / "again.yaml").write_text(shown.output, encoding="utf-8")
    assert load_config(tmp_path / "again.yaml") == load(tmp_path, MINIMAL, "gate.min_films=33")
    assert CliRunner().invoke(app, ["config", "--reference"]).output == config_reference()
    assert CliRunner().invoke(app, ["config"]).exit_code == 2
    assert CliRunner().invoke(app, [*words[:-1], "gate.min_film=33"]).exit_code == 2


# Bounds


def unbounded(annotation: Any, metadata: tuple[Any, ...] = ()) -> bool:
    """Whether a number of an annotation may be as large as it likes."""
    if annotation in (int, float):
        return not any(getattr(m, "le", None) is not None or getattr(m, "lt", None) is not None
                       for m in metadata)  # fmt: skip
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        own = [inner for m in parts[1:] for inner in getattr(m, "metadata", (m,))]
        return unbounded(parts[0], (*metadata, *own))
    return any(unbounded(part, metadata) for part in parts)


def sections(model: type[Section]) -> Iterator[type[Section]]:
    yield model
    for field in model.model_fields.values():
        left = [field.annotation]
        while left:
            kind = left.pop()
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from sections(kind)
            left += get_args(kind)


def test_every_number_of_the_config_has_an_upper_bound() -> None:
    loose = {
        f"{section.__name__}.{name}"
        for section in sections(Config)
        for name, field in section.model_fields.items()
        if unbounded(field.annotation, tuple(field.metadata))
    }
    assert loose == set()


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("cohort.max_seconds=1e300", r"cohort\.max_seconds: .*less than or equal to 86400"),
        ("model.threads=100000", r"model\.threads: .*less than or equal to 1024"),
        ("evidence.draws=1000000000", r"evidence\.draws: .*less than or equal to 1000000"),
        ("gate.max_gap=true", r"gate\.max_gap: a truth value; expected a number\."),
        ("evidence.draws=true", r"evidence\.draws: a truth value; expected a number\."),
        ("regions.tiles=[true, 6]", r"regions\.tiles: a truth value; expected a number\."),
    ],
)
def test_numbers_out_of_bounds_and_truth_values(tmp_path: Path, override: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        load_config(CONFIGS[0], (override,))
