"""Every family goes through a whole audit of phantoms; with random weights, any verdict will do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_generative import build
from tiny_models import FAMILIES, layout_of
from typer.testing import CliRunner

from ravl_med.cli import app
from ravl_med.config.loading import load_config
from ravl_med.evidence.audit_result import result_document
from ravl_med.phantoms.cohort import synthesize
from ravl_med.pipeline.answers import mask_identities
from ravl_med.pipeline.audit import audit
from ravl_med.storage.cache import Cache

pytestmark = pytest.mark.long

CONFIG = """
name: family
cohort:
  manifest: cohort/manifest.csv
  split: validation
  workers: 0
task:
  prompts: chexpert14
  style: report
  findings: [Cardiomegaly, Pleural Effusion, Pneumothorax]
  label_columns:
    Cardiomegaly: cardiomegaly
    Pleural Effusion: pleural effusion
    Pneumothorax: pneumothorax
model: {model}
regions:
  tiles: [3, 3]
discovery:
  clusters: [6, 9]
  draws: 1
gate:
  min_films: 5
  max_prediction_share: 1.0
  min_prediction_share: 0.0
  min_auroc: 0.0
evidence:
  relevance: {relevance}
  permutations: 99
  draws: 2000
  simulations: 20
  effect_films: 20
  dependence_films: 0
  max_pairs: 12
"""
RELEVANCE = Path(__file__).parents[2] / "configs" / "relevance" / "chest.yaml"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("families")
    synthesize(root / "cohort", images=110, size=96, seed=3, workers=1)
    return root


@pytest.fixture(autouse=True)
def own_folders(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(workplace / "config"))


def config_file(workplace: Path, name: str, model: str) -> Path:
    path = workplace / f"{name}.yaml"
    path.write_text(CONFIG.format(model=model, relevance=RELEVANCE), encoding="utf-8")
    return path


def audited(workplace: Path, model: str, *changes: str) -> dict:
    """What an audit says, before pages are made of it."""
    changes = ("model.device=cpu", *changes)
    config = load_config(config_file(workplace, "unwritten", model), changes)
    run = audit(config, key=bytes(32), cache=Cache(workplace / "unwritten"))
    return json.loads(result_document(run.result, 0).model_dump_json())


def written(workplace: Path, out: Path, model: str, *words: str) -> dict:
    """What an audit from the command line to its run folder says."""
    path = config_file(workplace, out.name, model)
    outcome = CliRunner().invoke(
        app, ["audit", str(path), "--out", str(out), "--exit-zero", "--device", "cpu", *words]
    )
    assert outcome.exit_code == 0, outcome.output
    return json.loads((out / "result.json").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_goes_through_a_whole_audit(family, family_folder, workplace):
    result = audited(workplace, f"{{path: '{family_folder(family)}'}}")

    assert result["verdict"] in ("pass", "review", "fail", "not_auditable")
    assert result["model"]["digests"].keys() == {"weights", "config", "tokenizer", "prompts"}
    assert result["model"]["region_pooling"]
    assert result["discovery"] is not None, result["verdict_reasons"]
    assert result["discovery"]["regions"] == 9 * result["cohort"]["images"]
    assert list(result["task"]["classes"]) == ["cardiomegaly", "pleural effusion", "pneumothorax"]
    assert "There is pleural effusion." in result["task"]["classes"]["pleural effusion"]


@pytest.mark.usefixtures("no_sockets")
def test_a_checkpoint_goes_through_a_whole_audit(family_folder, workplace, tmp_path):
    weights, layout = tmp_path / "best.pt", tmp_path / "layout.json"
    torch.save(load_file(family_folder("open_clip_vit") / "open_clip_model.safetensors"), weights)
    layout.write_text(json.dumps(layout_of("open_clip_vit")), encoding="utf-8")

    model = f"{{weights: '{weights}', layout: '{layout}'}}"
    result = audited(workplace, model)

    assert "class token" in result["model"]["region_pooling"]
    assert result["discovery"] is not None


@pytest.mark.usefixtures("no_sockets")
def test_a_mitigation_of_a_checkpoint_opens_it_too(family_folder, workplace, tmp_path):
    weights, layout = tmp_path / "best.pt", tmp_path / "layout.json"
    torch.save(load_file(family_folder("convnext") / "open_clip_model.safetensors"), weights)
    layout.write_text(json.dumps(layout_of("convnext")), encoding="utf-8")
    model = f"{{weights: '{weights}', layout: '{layout}'}}"
    written(workplace, tmp_path / "run", model)

    outcome = CliRunner().invoke(
        app,
        ["mitigate", str(workplace / "run.yaml"), "--audit", str(tmp_path / "run"), "--out",
         str(tmp_path / "repaired"), "--device", "cpu"],
    )  # fmt: skip

    assert outcome.exit_code == 0, outcome.output
    document = json.loads((tmp_path / "repaired" / "mitigation.json").read_text(encoding="utf-8"))
    assert document["verdict"] == "nothing_to_do"


@pytest.mark.usefixtures("no_sockets")
def test_the_other_activation_of_a_checkpoint_is_tried(family_folder, workplace, tmp_path):
    weights, layout = tmp_path / "best.safetensors", tmp_path / "layout.json"
    weights.write_bytes(
        (family_folder("open_clip_vit") / "open_clip_model.safetensors").read_bytes()
    )
    layout.write_text(json.dumps(layout_of("open_clip_vit")), encoding="utf-8")

    model = f"{{weights: '{weights}', layout: '{layout}'}}"
    result = audited(workplace, model, "gate.min_auroc=0.99")

    (told,) = [c["text"] for c in result["sanity"]["checks"] if c["name"] == "activation"]
    assert "with model.quick_gelu: true it would be 0." in told
    assert result["verdict"] in ("not_auditable", "fail")


@pytest.mark.usefixtures("no_sockets")
def test_siglips_sigmoid_goes_through_a_whole_audit(family_folder, workplace):
    model = f"{{path: '{family_folder('hf_siglip')}'}}"
    result = audited(workplace, model, "task.scores=sigmoid")

    assert result["task"]["scores"] == "sigmoid"
    assert result["model"]["logit_bias"] == -10.0


def test_a_softmax_model_has_no_sigmoid(family_folder, workplace, tmp_path):
    path = workplace / "sigmoid.yaml"
    model = f"{{path: '{family_folder('hf_clip')}'}}"
    path.write_text(CONFIG.format(model=model, relevance=RELEVANCE), encoding="utf-8")

    outcome = CliRunner().invoke(
        app, ["audit", str(path), "--out", str(tmp_path / "run"), "--set", "task.scores=sigmoid"]
    )

    assert outcome.exit_code == 2
    assert "the model has no logit bias; expected a SigLIP" in outcome.stderr


@pytest.mark.usefixtures("no_sockets")
def test_a_report_names_the_way_that_regions_are_embedded(family_folder, workplace, tmp_path):
    model = f"{{path: '{family_folder('open_clip_resnet')}', region_pooling: %s}}"
    told, found = {}, {}
    for how in ("one_pass", "last_stage", "crops"):
        result = written(workplace, tmp_path / how, model % how)
        told[how] = result["model"]["region_pooling"]
        found[how] = result["discovery"]["regions"]
        page = (tmp_path / how / "report.html").read_text(encoding="utf-8")
        assert f"Region pooling</th><td>{told[how]}" in page.replace("</td><td>", "</th><td>")
        assert f"region_pooling: {how}" in (tmp_path / how / "config.yaml").read_text("utf-8")

    assert told == {
        "one_pass": "RoIAlign on the last stage, one attention-pooling query per region",
        "last_stage": "RoIAlign before the last stage, which each region then passes by itself",
        "crops": "crops, each encoded as an image",
    }
    assert len(set(found.values())) == 1


def test_a_tower_without_stages_says_so_in_one_line(family_folder, workplace, tmp_path):
    path = workplace / "no-stages.yaml"
    model = f"{{path: '{family_folder('hf_clip')}', region_pooling: last_stage}}"
    path.write_text(CONFIG.format(model=model, relevance=RELEVANCE), encoding="utf-8")

    outcome = CliRunner().invoke(app, ["audit", str(path), "--out", str(tmp_path / "run")])

    assert outcome.exit_code == 2
    assert "model.region_pooling: 'last_stage' is for the stages of" in outcome.output
    assert "Expected one_pass or crops" in " ".join(outcome.output.split())
    assert "Traceback" not in outcome.output
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def writing_folder(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("generative")
    return lambda family: build(family, root / family)


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize(
    ("family", "style"), [("llava", "yes_no"), ("qwen2_vl", "choice"), ("paligemma", "report")]
)
def test_a_model_that_writes_goes_through_a_whole_audit(family, style, writing_folder, workplace):
    answers = f"answers: {{style: {style}, max_tokens: 4, region_films: 5}}"
    asked = 30 if style == "yes_no" else 0  # random weights may well ignore the film
    changes = ("task.style=plain", "model.batch_size=8", "cohort.split=finetune",
               f"evidence.looking_films={asked}")  # fmt: skip
    result = audited(workplace, f"{{path: '{writing_folder(family)}', {answers}}}", *changes)

    assert result["discovery"] is not None, result["verdict_reasons"]
    assert result["task"]["scores"] == f"answers, {style}"
    assert result["model"]["region_pooling"].startswith("mean of the visual tokens")
    assert "pleural effusion" in result["task"]["classes"]["pleural effusion"][0]
    assert {"answers", "blank film"} <= {check["name"] for check in result["sanity"]["checks"]}
    if asked:
        shown = [cell["condition"] for cell in result["looking"]["conditions"]]
        assert shown[-1] == "the question alone"
        assert len(result["looking"]["wordings"]) == 4


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("Seen by Dr. Ada Smith on 12/03/2020.", "Seen by Dr. # on #"),
        ("Patient Jane Doe, MRN 4711: heart enlarged.", "Patient # # heart enlarged."),
        ("DR. SMITH notified. No effusion.", "DR. # notified. No effusion."),
        ("NAME: DOE, JANE", "NAME: #"),
        ("Told to Dr Åsa van der Öberg. Heart normal.", "Told to Dr #. Heart normal."),
        ("Prof. J. Müller-Lüdenscheidt, and Mrs O'Hara", "Prof. #, and Mrs #"),
        ("Signed by Jürgen Müller MD", "Signed by #"),
        ("Read by a resident. Name of the device: none.", None),
        ("The patient has no effusion.", "The patient has no effusion."),
    ],
)
def test_what_a_model_writes_names_nobody(written, shown):
    assert mask_identities(written) == (written if shown is None else shown)
