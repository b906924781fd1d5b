"""The command line as a user meets it: exit codes, one clear line, nothing half written."""

from __future__ import annotations

import ast
import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
import torch
from pypdf import PdfReader
from typer.testing import CliRunner, Result

from ravl_med.cli import _VERBS, app
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.phantoms.cohort import synthesize
from ravl_med.storage.cache import Cache, user_cache
from ravl_med.storage.documents import schema_of

REPOSITORY = Path(__file__).parents[1]
CONFIG = """
name: small
cohort:
  manifest: cohort/manifest.csv
  workers: 0
task:
  name: finding
  classes:
    cardiomegaly: {prompts: [Cardiomegaly.]}
    pleural effusion: {prompts: [Pleural effusion.]}
    pneumothorax: {prompts: [Pneumothorax.]}
    consolidation: {prompts: [Consolidation.]}
    no finding: {prompts: [Normal chest radiograph.]}
model:
  quickstart: {tower: resnet, image_size: 64, epochs: 1, batch_size: 32}
gate:
  min_films: 5
  max_prediction_share: 1.0
  min_prediction_share: 0.0
  min_auroc: 0.0
discovery: {clusters: [8, 12]}
evidence:
  {relevance: %s, simulations: 20, effect_films: 20, max_pairs: 20, dependence_films: 0,
   looking_films: 0}
privacy: {burned_in_text: show}  # `test_privacy` is about it; looking takes a second a film
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small cohort, a config, and its own cache and key."""
    root = tmp_path_factory.mktemp("cli")
    synthesize(root / "cohort", images=220, size=96, seed=3, workers=1)
    relevance = REPOSITORY / "configs" / "relevance" / "chest.yaml"
    (root / "audit.yaml").write_text(CONFIG % relevance, encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def own_folders(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(workplace / "config"))


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def audit(workplace: Path, out: Path, *words: str) -> Result:
    return run("audit", str(workplace / "audit.yaml"), "--out", str(out), *words)


@pytest.fixture(scope="module")
def audited(workplace: Path) -> Path:
    """The run folder of an audit, under a name that a terminal could take for markup."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(workplace / "cache"))
        patch.setenv("XDG_CONFIG_HOME", str(workplace / "config"))
        out = workplace / "[red, blue] [/x]"
        outcome = audit(workplace, out, "--exit-zero")
    assert outcome.exit_code == 0, outcome.output
    assert any(line.startswith("Report: ") for line in outcome.output.splitlines())
    assert "[red, blue] [/x]" in outcome.output
    return out


def one_line(outcome: Result, *parts: str) -> None:
    """The outcome is one error on stderr that says every part, and no traceback."""
    text = outcome.stderr
    lines = text.strip().splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], text
    assert "Traceback" not in text
    for part in parts:
        assert part in text


def require_private(folder: Path) -> None:
    """Every file below ``private/`` is for its owner alone, and every folder."""
    for path in (folder / "private", *(folder / "private").rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_an_audit_writes_the_whole_folder(audited: Path) -> None:
    out = audited
    assert {path.name for path in out.iterdir()} == {
        "config.yaml",
        "figures",
        "intake.csv",
        "model_card.md",
        "model_card.xml",
        "predictions.parquet",
        "private",
        "report.html",
        "report.pdf",
        "result.json",
        "review.csv",
        "review.html",
        "run.json",
    }
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    jsonschema.validate(result, schema_of(AuditResult))
    assert result["cohort"]["images"] == 60
    search = result["discovery"]
    placed = {c["rank"]: c["cluster"] for c in search["cluster_map"]["clusters"] if c["rank"]}
    assert len(search["cluster_map"]["clusters"]) == search["clusters"]
    of_all = {c["rank"]: c["cluster"] for c in result["correlations"]}
    assert placed == {rank: n for rank, n in of_all.items() if n < search["clusters"]}
    predictions = pd.read_parquet(out / "predictions.parquet")
    assert list(predictions.columns[:2]) == ["image_id", "label"]
    assert len(predictions) == 60
    assert predictions["image_id"].is_unique
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert set(record["digests"]) == {
        "model",
        "cohort",
        "config",
        "settings",
        "regions",
        "segmenter",
    }
    assert record["peak_memory_mb"] > 0
    assert record["timings_s"]["report"] > 0
    read = record["throughput"]["embeddings"]
    assert 0 < read["films_per_s"] < read["regions_per_s"]
    assert read["megabytes_per_s"] > 0
    assert record["throughput"]["clustering"]["regions_per_s"] > 0
    require_private(out)
    assert {"key.csv", "config.yaml", "features.npz", "films"} <= {
        path.name for path in (out / "private").iterdir()
    }
    pages = PdfReader(out / "report.pdf").pages
    assert len(pages) >= 4


def test_mitigate_uses_the_audit_and_says_that_there_is_nothing_to_do(
    workplace: Path, audited: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mitigation"
    words = ("mitigate", str(workplace / "audit.yaml"), "--audit", str(audited), "--out", str(out))
    outcome = run(*words)
    assert outcome.exit_code == 0, outcome.output
    assert "NOTHING TO DO" in outcome.output
    assert "The model was not changed." in outcome.output
    document = json.loads((out / "mitigation.json").read_text(encoding="utf-8"))
    assert document["verdict"] == "nothing_to_do"
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["audit_reused"] is True
    assert not (out / "model").exists()
    assert not list((workplace / "cache" / "ravl-med" / "mitigations").iterdir())
    assert run(*words).exit_code == 0  # an earlier run is replaced


def test_mitigate_refuses_what_it_cannot_use(workplace: Path, tmp_path: Path) -> None:
    def mitigate(*words: str) -> Result:
        out = str(tmp_path / "out")
        return run("mitigate", str(workplace / "audit.yaml"), "--out", out, *words)

    outcome = mitigate("--set", "mitigation.arm=ravel")
    assert outcome.exit_code == 2
    one_line(outcome, "mitigation.arm", "'ravel'")
    outcome = mitigate("--set", "cohort.split=null")
    assert outcome.exit_code == 2
    one_line(outcome, "cohort.split", "validation")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").touch()
    outcome = mitigate()
    assert outcome.exit_code == 2
    one_line(outcome, "--out", "not an earlier run")
    assert not (tmp_path / "reports").exists()


@pytest.mark.long
def test_another_run_gives_the_same_result_and_nothing_identifying_leaves_its_private_folder(
    workplace: Path, audited: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ("--set", "report.dicom=true", "--set", "cohort.workers=2")
    outcome = audit(workplace, out, "--exit-zero", *words)
    assert outcome.exit_code == 0, outcome.output
    assert (out / "result.json").read_bytes() == (audited / "result.json").read_bytes()
    assert (out / "report.dcm").stat().st_size > (out / "report.pdf").stat().st_size
    manifest = pd.read_csv(workplace / "cohort" / "manifest.csv", dtype=str)
    shared = [path for path in out.rglob("*") if path.is_file() and "private" not in path.parts]
    text = "".join(page.extract_text() for page in PdfReader(out / "report.pdf").pages)
    for path in shared:
        text += path.read_bytes().decode("latin-1")
    assert str(workplace) not in text
    for column in ("patient", "image"):
        assert not [value for value in manifest[column] if value in text]


@pytest.mark.long
def test_a_vit_goes_the_whole_way(workplace: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("--set", "model.quickstart.tower=vit", "--set", "report.operator=V. Engineer")
    outcome = audit(workplace, out, "--exit-zero", *words)
    assert outcome.exit_code == 0, outcome.output
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert "class token" in result["model"]["region_pooling"]
    assert result["about"] == {"operator": "V. Engineer"}


def test_the_gate_decides_the_exit_code(workplace: Path, tmp_path: Path) -> None:
    stuck = ("--set", "gate.max_prediction_share=0")
    assert audit(workplace, tmp_path / "a", *stuck).exit_code == 1
    result = json.loads((tmp_path / "a" / "result.json").read_text(encoding="utf-8"))
    assert result["verdict"] == "not_auditable"
    assert result["correlations"] == []
    (tmp_path / "a" / "signed.pdf").write_text("signature")
    outcome = audit(workplace, tmp_path / "a", "--exit-zero", *stuck)
    assert outcome.exit_code == 2
    one_line(outcome, "--out: the earlier run holds what no run wrote", "signed.pdf", "--replace")
    assert audit(workplace, tmp_path / "a", "--replace", "--exit-zero", *stuck).exit_code == 0
    assert not (tmp_path / "a" / "signed.pdf").exists()
    (aside,) = (path for path in tmp_path.iterdir() if path.name != "a")
    assert (aside / "signed.pdf").read_text() == "signature"
    assert json.loads((aside / "result.json").read_text(encoding="utf-8")) == result


@pytest.mark.long
def test_patients_that_the_model_was_fitted_on_void_the_audit(
    workplace: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(workplace / "cohort" / "manifest.csv", dtype=str, keep_default_na=False)
    audited = sorted(set(table["patient"][table["split"] == "validation"]))
    table.loc[table.index[table["split"] == "finetune"][:30], "patient"] = (audited * 30)[:30]
    table.to_csv(workplace / "cohort" / "leaky.csv", index=False)
    words = ("--set", "cohort.manifest=cohort/leaky.csv", "--set", "gate.max_prediction_share=0")
    outcome = audit(workplace, tmp_path / "a", *words)
    assert outcome.exit_code == 1, outcome.output
    said = "in split finetune too: the model may have been fitted on them"
    result = json.loads((tmp_path / "a" / "result.json").read_text(encoding="utf-8"))
    assert result["verdict"] == "not_auditable"
    assert not result["gates"]["gate.max_leaked_patients"]["passed"]
    (leak,) = (one for one in result["cohort"]["leaks"] if one["place"] == "split finetune")
    assert (leak["fitted"], leak["patients"]) == (True, min(30, len(audited)))
    assert any(said in reason for reason in result["verdict_reasons"])
    first = PdfReader(tmp_path / "a" / "report.pdf").pages[0].extract_text()
    for text in (outcome.output, first):
        assert said in " ".join(text.split())


def test_too_few_films_of_a_class_are_told_before_any_film_is_read(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("ravl_med.pipeline.stages.prepare_model", reached)
    never = "task.classes.never={prompts: [Never.], label: {cardiomegaly: 1, no finding: 1}}"
    outcome = audit(workplace, tmp_path / "run", "--exit-zero", "--set", never)
    assert outcome.exit_code == 3, outcome.output
    one_line(outcome, "too few films of never (0); expected at least 5", "Of 220 rows 60 count",
             "Add films, choose other classes, or lower gate.min_films.")  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("regions.tiles=[1, 1]",), "fewer than 2 regions"),
        (("discovery.clusters=[5000]",), "5000"),
    ],
)
def test_what_cannot_be_searched_is_a_named_outcome(
    workplace: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    sets = [part for word in words for part in ("--set", word)]
    outcome = audit(workplace, tmp_path / "run", "--set", "cohort.split=test", *sets)
    assert outcome.exit_code == 1, outcome.output
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert result["verdict"] == "not_auditable"
    assert any(said in reason for reason in result["verdict_reasons"])
    assert result["discovery"] is None
    text = " ".join(
        page.extract_text() for page in PdfReader(tmp_path / "run" / "report.pdf").pages
    )
    assert said in " ".join(text.split())


@pytest.mark.long
def test_the_next_audit_says_so(workplace: Path, tmp_path: Path) -> None:
    stuck = ("--set", "gate.max_prediction_share=0", "--set", "cohort.split=null")
    for number, words in enumerate(((), ("--set", "evidence.min_gap=0.07")), start=1):
        outcome = audit(workplace, tmp_path / "run", "--exit-zero", *stuck, *words)
        assert outcome.exit_code == 0, outcome.output
        record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
        assert record["audit_number"] == number
    assert "evidence.min_gap" in json.dumps(record["changed_keys"])
    text = " ".join(
        page.extract_text() for page in PdfReader(tmp_path / "run" / "report.pdf").pages
    )
    assert "2nd audit" in " ".join(text.split())


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (("--set", "gate.maxgap=0.2"), 2, ("gate.maxgap", "max_gap")),
        (("--set", "gate.max_gap"), 2, ("section.key=value",)),
        (("--set", "cohort.manifest=nowhere.csv"), 2, ("'nowhere.csv'", "does not exist")),
        (("--set", "cohort.manifest=../no.csv"), 2, ("Tried: ../no.csv -> ", "{parent}/no.csv")),
        (("--set", "evidence.relevance=no.yaml"), 2, ("no such file", "no.yaml -> {root}/no.yaml")),
        (("--set", "evidence.relevance=null"), 2, ("expected the path of a file", "got null.")),
        (("--set", "model={path: nowhere}"), 2, ("model.path", "no such folder")),
        (
            ("--set", "task.classes.cardiomegly={prompts: [x]}"),
            2,
            ("cardiomegly", "Did you mean 'cardiomegaly'?"),
        ),
        (("--set", "evidence.draws=200"), 2, ("evidence.draws", "2000")),
        (("--set", "cohort.manifest=/dev/zero"), 3, ("zero: a device; expected a regular file",)),
        (("--set", "evidence.relevance=/dev/zero"), 2, ("a device; expected a regular file",)),
        (("--set", "gate.accepted=/dev/zero"), 3, ("review.csv cannot be read",)),
        (("--device", "tpu"), 2, ("model.device",)),
    ],
)
@pytest.mark.timeout(60)
def test_bad_input_gets_one_line(
    workplace: Path, tmp_path: Path, words: tuple[str, ...], code: int, parts: tuple[str, ...]
) -> None:
    outcome = audit(workplace, tmp_path / "run", *words)
    assert outcome.exit_code == code, outcome.output
    one_line(outcome, *(p.format(root=workplace, parent=workplace.parent) for p in parts))
    assert not list(tmp_path.iterdir())


def said_in_the_package() -> set[str]:
    """Every text in the code, with … for what is put into it."""
    said = set()
    for path in (REPOSITORY / "ravl_med").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [getattr(one, "value", None) for one in parts]
            said.add("".join(one if isinstance(one, str) else "…" for one in texts))
    return said


def test_the_page_of_errors_quotes_what_the_tool_says() -> None:
    page = (REPOSITORY / "reports" / "README.md").read_text(encoding="utf-8")
    table = page[page.index("| the line says") :].splitlines()[2:]
    quoted = [line.split("`")[1] for line in table if line.startswith("| `")]
    said = said_in_the_package()
    assert len(quoted) >= 20
    assert [one for one in quoted if not any(one.strip("… ") in text for text in said)] == []


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    outcome = run("audit", str(tmp_path / "none.yaml"))
    assert outcome.exit_code == 2
    one_line(outcome, "'none.yaml'", "no such file")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ("manifest.csv", "empty")),
        ("image,patient\n", ("manifest.csv", "no rows")),
        ("picture,patient\na,b\n", ("'image'",)),
    ],
)
def test_an_unusable_manifest_is_named(
    workplace: Path, tmp_path: Path, content: str, parts: tuple[str, ...]
) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(content, encoding="utf-8")
    outcome = audit(workplace, tmp_path / "run", "--set", f"cohort.manifest={manifest}")
    assert outcome.exit_code == 3
    one_line(outcome, *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_bad_films_are_set_aside_and_the_rest_goes_on(workplace: Path, tmp_path: Path) -> None:
    table = pd.read_csv(workplace / "cohort" / "manifest.csv", dtype=str)
    table["image"] = [str(workplace / "cohort" / name) for name in table["image"]]
    rows = table.index[table["split"] == "validation"][:3]
    corrupt = tmp_path / "corrupt.dcm"
    corrupt.write_bytes(Path(table.loc[rows[0], "image"]).read_bytes()[:4000])
    table.loc[rows[0], "image"] = str(corrupt)
    table.loc[rows[1], "image"] = str(tmp_path / "gone.dcm")
    (tmp_path / "text.dcm").write_text("not an image", encoding="utf-8")
    table.loc[rows[2], "image"] = str(tmp_path / "text.dcm")
    manifest = tmp_path / "manifest.csv"
    table.to_csv(manifest, index=False)
    out = tmp_path / "run"
    words = ("--exit-zero", "--set", f"cohort.manifest={manifest}", "--set")
    outcome = audit(workplace, out, *words, f"cohort.roots=['{workplace}']")
    assert outcome.exit_code == 0, outcome.output
    cohort = json.loads((out / "result.json").read_text(encoding="utf-8"))["cohort"]
    assert cohort["images"] == 57
    assert cohort["rejected"] == {"undecodable": 1, "missing": 1, "not_dicom": 1}
    text = "".join(page.extract_text() for page in PdfReader(out / "report.pdf").pages)
    assert "gone.dcm" not in text
    intake = pd.read_csv(out / "intake.csv", dtype=str, keep_default_na=False)
    assert list(intake.columns) == ["row", "image_id", "reason", "message"]
    assert intake["reason"].value_counts().to_dict() == {"read": 57, **cohort["rejected"]}
    assert (intake["image_id"] == "").sum() == 3
    assert not intake["message"].str.contains("dcm|" + tmp_path.name).any()
    paths = pd.read_csv(out / "private" / "rejected.csv", dtype=str)
    assert sorted(paths["path"]) == sorted(table.loc[rows, "image"])
    assert (out / "private" / "rejected.csv").stat().st_mode & 0o777 == 0o600
    few = (*words, f"cohort.roots=['{workplace}']", "--set", "gate.max_rejected_fraction=0.03")
    outcome = audit(workplace, tmp_path / "few", *few)
    assert outcome.exit_code == 3
    one_line(outcome, "3 of 60 films cannot be used", "missing 1", "at most 3 %")
    outcome = audit(workplace, tmp_path / "none", *words, "cohort.roots=[]")
    assert outcome.exit_code == 3
    one_line(outcome, "outside_root 57", "First: manifest.csv row")
    assert not (tmp_path / "few").exists()


@pytest.mark.usefixtures("audited")
def test_no_readable_film_ends_with_the_reasons(workplace: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    columns = "image,patient,cardiomegaly,pleural effusion,pneumothorax,consolidation,no finding"
    rows = [
        f"secret-name-{row}.dcm,p{row}," + ",".join("01"[row % 5 == at] for at in range(5))
        for row in range(25)
    ]
    manifest.write_text("\n".join([columns, *rows, ""]), encoding="utf-8")
    model = next((workplace / "cache" / "ravl-med" / "models").iterdir())
    outcome = audit(
        workplace,
        tmp_path / "run",
        "--set",
        f"cohort.manifest={manifest}",
        "--set",
        f"model={{path: '{model}'}}",
    )
    assert outcome.exit_code == 3
    one_line(outcome, "missing 25", "row 2")
    assert "secret-name" not in outcome.output


def test_a_foreign_folder_is_left_alone(workplace: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    outcome = audit(workplace, tmp_path)
    assert outcome.exit_code == 2
    one_line(outcome, "--out", "not an earlier run")
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "mine"


def test_a_full_disk_is_no_internal_error(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Cache, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/patients/doe.dcm")

    monkeypatch.setattr(type(user_cache()), "folder", full)
    outcome = audit(workplace, tmp_path / "run")
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("error: no room left on a disk; expected some where the cache")
    assert "doe" not in outcome.output + outcome.stderr


@pytest.mark.parametrize("error", [MemoryError("X^DOE"), torch.OutOfMemoryError("X^DOE")])
def test_memory_that_runs_out_is_no_internal_error(
    error: Exception, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(self: Cache, *_: object) -> None:
        raise error

    monkeypatch.setattr(type(user_cache()), "folder", short)
    outcome = audit(workplace, tmp_path / "run")
    assert outcome.exit_code == 2
    one_line(outcome, "the memory of this machine does not suffice", "model.batch_size")
    assert "X^DOE" not in outcome.output + outcome.stderr


def test_an_internal_error_shows_no_traceback(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Cache, *_: object) -> None:
        raise KeyError("secret-name")

    monkeypatch.setattr(type(user_cache()), "folder", broken)
    outcome = audit(workplace, tmp_path / "run")
    assert outcome.exit_code == 4
    assert outcome.stderr.startswith("internal error: KeyError")
    assert "secret-name" not in outcome.output


def test_synthesize_writes_a_cohort(tmp_path: Path) -> None:
    words = ("synthesize", str(tmp_path / "c"), "--images", "40", "--size", "64", "--strength", "0")
    assert run(*words).exit_code == 0
    assert len(list((tmp_path / "c" / "images").iterdir())) == 40
    again = run(*words)
    assert again.exit_code == 3
    one_line(again, "manifest.csv")


@pytest.mark.parametrize(("words", "field"), [((), "correlations"), (("--mitigation",), "arms")])
def test_schema_is_a_json_schema(words: tuple[str, ...], field: str) -> None:
    outcome = run("schema", *words)
    assert outcome.exit_code == 0
    printed = json.loads(outcome.output)
    jsonschema.Draft202012Validator.check_schema(printed)
    assert field in printed["properties"]


def test_help_lists_each_verb_once_in_a_line() -> None:
    listed = [name for verbs in _VERBS.values() for name in verbs]
    known = [one.name or one.callback.__name__ for one in app.registered_commands]
    known += [one.name for one in app.registered_groups]
    assert sorted(listed) == sorted(known)
    help_lines = CliRunner().invoke(app, ["--help"]).output.splitlines()
    for verbs in _VERBS.values():
        for name, text in verbs.items():
            assert len(text) <= 45
            assert any(line.split() == [name, *text.split()] for line in help_lines)


def test_help_answers_without_heavy_imports() -> None:
    script = (
        "import sys; from ravl_med.cli import main; sys.argv = ['ravl-med', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pydantic', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    start = time.perf_counter()
    outcome = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "audit" in outcome.stdout
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize(("given", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_threads_do_not_wait_busily_unless_they_are_asked_to(
    given: dict[str, str], spins: str
) -> None:
    script = (
        "import os, sys; from ravl_med.cli import main; sys.argv = ['ravl-med', '--version']\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules; print(os.environ['GOMP_SPINCOUNT'])\n"
    )
    own = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"} | given
    outcome = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=own
    )
    assert outcome.stdout.split()[-1] == spins


def test_the_module_runs() -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "ravl_med", "--version"], capture_output=True, text=True, check=True
    )
    assert outcome.stdout.startswith("ravl-med ")


def test_a_terminal_obeys_nothing_that_it_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from ravl_med.cli import console
    from ravl_med.errors import visible

    evil = "a\x1b]0;owned\x07\x1b[2Jb\u202ec\u2066d\x9be\rf\u00ad\u00a0é"
    console.say(evil)
    console.complain(evil)
    console.note([evil])
    out, err = capfd.readouterr()
    for text in (out, err):
        assert not set("\x1b\x07\x9b\r\u202e\u2066") & set(text)
        assert r"a\x1b]0;owned\x07\x1b[2Jb\u202ec\u2066d\x9be\rf" in text
        assert "é" in text
    assert visible("\ud800\n") == r"\ud800\n"
    (tmp_path / "audit.yaml").write_text('"\\e[2Jname": 1\n', encoding="utf-8")
    outcome = run("audit", str(tmp_path / "audit.yaml"))
    assert outcome.exit_code == 2
    assert "\x1b" not in outcome.output


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_run_that_is_told_to_stop_says_that_it_goes_on(tmp_path: Path, number: str) -> None:
    code = (
        "import os, signal, threading, time, ravl_med.cli as cli\n"
        "def stop():\n"
        f"    time.sleep(0.5); os.kill(os.getpid(), signal.{number})\n"
        "@cli.verb(name='wait')\n"
        "def wait() -> None:\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # shells may ignore it
        "    threading.Thread(target=stop).start(); time.sleep(20)\n"
        "cli.main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "wait"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.strip().startswith("stopped. What was finished is kept")
    assert "Traceback" not in ended.stderr


def test_who_stops_reading_is_no_internal_error() -> None:
    command = f"({sys.executable} -m ravl_med config --reference; echo code $? >&2) | true"
    cut = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "internal error" not in cut.stderr
    assert "Traceback" not in cut.stderr
    assert cut.stderr.split()[-2:] == ["code", "2"]
