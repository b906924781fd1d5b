"""The public API, as a notebook uses it; its docstrings run here."""

from __future__ import annotations

import ast
import doctest
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
import transformers

import ravl_med as rm
from ravl_med import api
from ravl_med.config.model import ModelConfig
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.objects import encoder_of
from ravl_med.encoders.opening import open_encoder
from ravl_med.errors import ConfigError, DataError, ModelError
from ravl_med.pipeline import discover as discovery
from ravl_med.pipeline.planning import cohort_of_run, plan_power
from ravl_med.pipeline.stages import open_model_of
from tests.encoders.tiny_models import build

CLASSES = {"disease": ["Disease."], "no finding": ["Normal."]}
SMALL = {
    "cohort": {"workers": 0},
    "regions": {"tiles": [3, 3]},
    "discovery": {"clusters": [6], "draws": 1, "propose": ["clusters"]},
    "evidence": {"simulations": 20, "draws": 2000, "permutations": 99, "effect_films": 20,
                 "max_pairs": 10, "dependence_films": 0, "looking_films": 0},
    "report": {"regions": 3},
    "gate": {"min_films": 5, "min_auroc": 0.0},
    "privacy": {"burned_in_text": "show", "min_cell": 0},
}  # fmt: skip


class Toy:
    """Calls a film diseased for a bright middle, now and then, and for a bright corner, always."""

    image_size, mean, std = 24, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return self.feature_map(images).amax(dim=(2, 3))

    def feature_map(self, images: torch.Tensor) -> torch.Tensor:
        """Embed each ninth of a film: disease, none, mark, anything."""
        cells = torch.nn.functional.avg_pool2d(images[:, :1], 8)
        mark = torch.clamp(cells - 0.7, min=0) * (cells.new_tensor([[1, 0, 0], [0] * 3, [0] * 3]))
        said = 0.3 * torch.clamp(cells - 0.5, min=0) + mark
        rest = torch.full_like(cells, 0.1)
        return torch.cat([said, rest, 5 * mark, 0.2 * cells], dim=1)

    def encode_text(self, texts: list[str]) -> np.ndarray:
        return np.array(
            [[1.0, 0, 0, 0] if text == "Disease." else [0, 1.0, 0, 0] for text in texts]
        )


def films_of(count: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    images, labels = [], []
    for number in range(count):
        film = rng.uniform(0.2, 0.4, (48, 48))
        if number % 2:
            film[16:32, 16:32] = rng.uniform(0.8, 0.9)
        if number % 4 < 2:
            film[:16, :16] = 0.95
        images.append((film * 255).astype(np.uint8))
        labels.append("disease" if number % 2 else "no finding")
    return pd.DataFrame({"image": images, "label": labels, "patient": range(count)})


@pytest.fixture(scope="module", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


def examples(name: str, module: ModuleType, **names: object) -> doctest.DocTest:
    """Run the examples of a docstring; what they made lies in `globs`."""
    (found,) = doctest.DocTestFinder(recurse=False).find(
        getattr(module, name), name, module, extraglobs=names
    )
    outcome = doctest.DocTestRunner().run(found, clear_globs=False)
    assert (outcome.failed, outcome.attempted > 1) == (0, True)
    return found


@pytest.fixture(scope="module")
def run(own_folders: None) -> rm.Run:
    """The audit of the docstring."""
    made = examples("audit", api, model=Toy(), films=films_of(), classes=CLASSES, small=SMALL)
    found: rm.Run = made.globs["run"]
    return found


def test_every_public_name_is_there_and_documented() -> None:
    assert rm.__all__ == [
        "Comparison", "Discovered", "Mitigated", "Run", "__version__", "audit", "compare",
        "discover", "load_run", "mitigate",
    ]  # fmt: skip
    assert dir(rm) == rm.__all__
    for name in set(rm.__all__) - {"__version__"}:
        assert len(getattr(rm, name).__doc__) > 40, name
        shown = getattr(rm, name)
        for own in vars(shown) if isinstance(shown, type) else ():
            assert own.startswith("_") or getattr(shown, own).__doc__ or True
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        rm.other  # noqa: B018


def test_the_import_is_quick_and_loads_nothing() -> None:
    code = (
        "import sys, ravl_med; print([m for m in ('numpy', 'torch', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_docstrings_run(run: rm.Run) -> None:
    examples("Run", api, run=run)
    examples("discover", discovery)


def test_an_audit_of_objects_is_tables_and_pictures(run: rm.Run, tmp_path: Path) -> None:
    table = run.correlations
    assert table.index.name == "rank"
    assert table.loc[1, "finding"] == "disease"
    assert set(table["decision"]) <= {"", "open"}
    films = run.films(1)
    assert len(films) == 120
    assert (films["right"] == (films["label"] == films["predicted"])).all()
    assert films.loc[films["has_feature"], "score"].notna().all()
    assert films["patient"].nunique() == 120
    assert set(films["half"]) == {"discovery", "confirmation"}
    assert len(run.plot(1).axes) == 1
    shown = run.show(1, which="mistakes", count=3)
    assert 1 <= len(shown.axes) <= 3
    assert all(axes.get_title().startswith("✗ labelled ") for axes in shown.axes)
    with pytest.raises(ValueError, match="rank is 99; expected 1 to"):
        run.films(99)
    page = run._repr_html_()
    assert run.verdict.replace("_", " ").upper() in page
    saved = run.save(tmp_path / "kept")
    again = rm.load_run(saved)
    pd.testing.assert_frame_equal(again.correlations, table)
    assert run.folder == saved
    sentences = rm.compare(again, saved).sentences
    assert sentences[1].startswith("Accuracy on 120 films: A 60.8")


def test_power_like_a_run_says_what_the_run_says(run: rm.Run) -> None:
    said = run.result.sensitivity
    assert said is not None
    with api._settings(None, Toy(), films_of(), CLASSES, SMALL) as config:
        cohort = cohort_of_run(run.folder, None, 20)
        plan = plan_power(config, cohort, like=run.folder)
        larger = plan_power(config, cohort_of_run(run.folder, 480, 20), like=run.folder)
    assert (cohort.films, plan.sensitivity.candidates) == (120, said.candidates)
    gaps = [[one.gap for one in found.detectable] for found in (plan.sensitivity, said)]
    np.testing.assert_allclose(*gaps, atol=0.03)
    for one in plan.sensitivity.detectable:
        assert not one.interval.low > one.gap
        assert not one.interval.high < one.gap
    assert larger.common.gap < 0.7
    assert not larger.common.gap > plan.common.gap


def test_what_objects_are_refused(tmp_path: Path) -> None:
    films = films_of(4)
    for words, error, given in (
        ("a config, or all of model", ConfigError, {"model": Toy()}),
        ("not both", ConfigError, {"config": "x.yaml", "model": Toy()}),
        ("column 'patient' is missing", DataError,
         {"model": Toy(), "films": films.drop(columns="patient"), "classes": CLASSES}),
        ("label 'sick' is no class", DataError,
         {"model": Toy(), "films": films.assign(label="sick"), "classes": CLASSES}),
        (r"an array of shape \(2,\)", DataError,
         {"model": Toy(), "films": films.assign(image=[np.zeros(2)] * 4), "classes": CLASSES}),
        ("object has no encode_image and no encode_text", ModelError,
         {"model": object(), "films": films, "classes": CLASSES}),
        ("audit: unknown key 'gate.max_gapp'", ConfigError,
         {"model": Toy(), "films": films, "classes": CLASSES, "gate": {"max_gapp": 1}}),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            rm.audit(**given)


ENDED = {"gate": {"max_prediction_share": 0.0, "min_prediction_share": 0.0, "min_films": 5}}


def opened(model: object, tmp_path: Path) -> tuple[Encoder, rm.Run]:
    """A model as an audit opens it, and the audit of a few films, which finds nothing."""
    films = films_of(20)
    with api._settings(None, model, films, CLASSES, {}) as config:
        encoder = open_model_of(config, config.model.path)
    changed = SMALL | ENDED
    run = rm.audit(model=model, films=films, classes=CLASSES, out=tmp_path / "run", **changed)
    assert (run.verdict, len(run.films())) == ("not_auditable", 20)
    return encoder, run


NAMES = {
    "hf_clip": "CLIPModel",
    "open_clip_vit": "open_clip CLIP, image tower VisionTransformer",
}


@pytest.mark.parametrize("family", NAMES)
def test_a_model_object_is_as_its_folder(family: str, tmp_path: Path) -> None:
    folder = build(family, tmp_path / family)
    model: tuple[Any, Any]
    if family == "hf_clip":
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
        images = transformers.CLIPImageProcessor.from_pretrained(folder)
        processor = transformers.CLIPProcessor(image_processor=images, tokenizer=tokenizer)
        model = transformers.CLIPModel.from_pretrained(folder), processor
    else:
        made, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        model = made, open_clip.get_tokenizer(f"local-dir:{folder}")
    encoder, run = opened(model, tmp_path)
    known = open_encoder(ModelConfig(path=folder), folder, torch.device("cpu"))
    pixels = np.random.default_rng(0).uniform(size=(60, 90)).astype(np.float32)
    inputs = known.preprocess(pixels)[None]
    boxes = [torch.tensor([[0.0, 0, 20, 20], [10, 10, 30, 30]])]
    torch.testing.assert_close(encoder.preprocess(pixels)[None], inputs)
    assert encoder.geometry(60, 90) == known.geometry(60, 90)
    assert encoder.info.region_pooling == known.info.region_pooling
    for theirs, own in zip(
        encoder.encode_regions(inputs, boxes), known.encode_regions(inputs, boxes), strict=True
    ):
        torch.testing.assert_close(theirs, own)
    texts = ["Normal.", "no heart"]
    torch.testing.assert_close(encoder.encode_text(texts), known.encode_text(texts))
    assert run.result.model.name == NAMES[family]
    with pytest.raises(ModelError, match=r"came without its (processor|tokenizer)"):
        rm.audit(model=model[0], films=films_of(4), classes=CLASSES)


def test_workers_cannot_share_a_model_in_memory() -> None:
    with pytest.raises(ConfigError, match="workers cannot share a model in memory"):
        rm.audit(model=Toy(), films=films_of(4), classes=CLASSES, engine={"workers": 2})


def test_a_feature_map_gives_regions_in_one_pass() -> None:
    class Mapped(Toy):
        def feature_map(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.avg_pool2d(images, 8)

    encoder = encoder_of(Mapped(), torch.device("cpu"))
    methods = {
        "encode_image": lambda images: images.mean((2, 3)),
        "encode_text": encoder.encode_text,
    }
    images = torch.zeros((2, 3, 24, 24))
    images[:, 1, :8, :8] = 1.0
    boxes = [torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([[0.0, 0, 8, 8], [16, 16, 24, 24]])]
    whole, regions = encoder.encode_regions(images, boxes)
    assert whole.shape == (2, 3)
    torch.testing.assert_close(regions[0], torch.tensor([0.0, 1.0, 0.0]))
    crops = encoder_of(SimpleNamespace(**methods), torch.device("cpu"))
    assert crops.encode_regions(images, boxes)[1].shape == (3, 3)
    assert "crop" in crops.info.region_pooling
    bad = Mapped()
    bad.encode_image = lambda images: np.zeros(len(images))  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"embedded 4 inputs as an array of shape \(4,\)"):
        encoder_of(bad, torch.device("cpu"))


def naive(scores, regions, image, labels, own, members):
    """G, by class and in all, and H of one cluster, as the paper writes them."""
    said = scores.argmax(1)
    inside = np.array([any(image[r] == i for r in members) for i in range(len(labels))])
    gaps, influence = [], [-np.inf]
    for y in range(scores.shape[1]):
        of = labels == y
        n_in, n_out = (of & inside).sum(), (of & ~inside).sum()
        if not (n_in and n_out):
            gaps.append(0.0)
            continue
        difference = (said == y)[of & inside].mean() - (said == y)[of & ~inside].mean()
        gaps.append(2 * min(n_in, n_out) / (n_in + n_out) * difference)
        if difference < 0:
            wrong = np.flatnonzero(of & inside & (said != y))
            best = [max(np.flatnonzero(image == i), key=lambda r: own[r, said[i]]) for i in wrong]
            if len(wrong):
                influence.append(np.mean([r in members for r in best]))
    return gaps, np.abs(gaps).sum(), max(influence)


@pytest.mark.parametrize("seed", range(3))
def test_discovery_has_the_formulas_of_the_paper(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, classes, each = 60, 3, 4
    labels = rng.integers(0, classes, count)
    scores = rng.dirichlet(np.ones(classes), count) + 0.5 * np.eye(classes)[labels]
    regions = rng.normal(size=(count * each, 6))
    image = np.repeat(np.arange(count), each)
    texts = rng.normal(size=(classes, 6))
    found = rm.discover(scores, regions, image, labels, class_embeddings=texts, k_range=(5, 7))
    units, names = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (regions, texts))
    own = np.exp(units @ names.T / 0.07)
    own /= own.sum(1, keepdims=True)
    for cluster in found.clusters.index:
        members = set(found.regions(cluster).tolist())
        by_class, gap, influence = naive(scores, regions, image, labels, own, members)
        np.testing.assert_allclose(found.weighted_gaps.loc[cluster], by_class, atol=1e-12)
        row = found.clusters.loc[cluster]
        assert row["G"] == pytest.approx(gap)
        assert row["H"] == pytest.approx(influence)
        plain = found.gaps.loc[cluster].fillna(0)
        assert row["kept"] == (influence >= 0.25 and plain.max() > 0 and plain.min() < 0)
    kept = found.clusters[found.clusters["kept"]].sort_values("rank")
    assert kept["G"].is_monotonic_decreasing
    given = rm.discover(scores, regions, image, labels, region_scores=own, k_range=(5, 7))
    pd.testing.assert_frame_equal(given.clusters, found.clusters)
    ours = rm.discover(scores, regions, image, labels, region_scores=own, protocol="pooled",
                       clusters=(5,), draws=1, patients=np.arange(count) // 2)  # fmt: skip
    assert {"status", "q"} <= set(ours.clusters.columns)


def test_our_search_tests_what_it_found_on_other_patients() -> None:
    rng = np.random.default_rng(1)
    labels, marked = np.arange(200) % 2, np.arange(200) % 4 < 2
    regions = np.tile(np.eye(4)[3] + np.eye(4)[0], (200, 2, 1)) + rng.normal(0, 0.1, (200, 2, 4))
    regions[marked, 0] = np.eye(4)[2] + 2 * np.eye(4)[1] + rng.normal(0, 0.1, (100, 4))
    scores = np.eye(2)[marked.astype(int)]
    arrays = scores, regions.reshape(-1, 4), np.repeat(np.arange(200), 2), labels
    ours = {"protocol": "pooled", "clusters": (4,), "draws": 1}
    found = rm.discover(*arrays, class_embeddings=np.eye(4)[:2], **ours)
    best = found.clusters.query("rank == 1").iloc[0]
    assert (best["status"], best["raised"], best["H"]) == ("confirmed", 1, 1.0)
    assert best["q"] < 1e-6
    assert set(found.regions(best.name) % 2) == {0}


def test_discovery_says_what_does_not_fit() -> None:
    scores, regions, image, labels = np.eye(2), np.ones((4, 3)), [0, 0, 1, 1], [0, 1]
    own = np.full((4, 2), 0.5)
    for words, error, changed in (
        ("expected region_scores or class_embeddings", ConfigError, {"region_scores": None}),
        (r"labels has shape \(1,\); expected \(2,\)", DataError, {"labels": [0]}),
        (r"labels holds a number outside -1 .. 1", DataError, {"labels": [0, 2]}),
        (r"region_image holds a number outside 0 .. 1", DataError, {"region_image": [0, 0, 1, 2]}),
        ("rows .* of finite numbers", DataError, {"region_embeddings": np.full((4, 3), np.nan)}),
        (
            "image_scores holds NaN or infinity in 1 rows",
            DataError,
            {"image_scores": np.array([[0.5, np.nan], [0.2, 0.8]])},
        ),
        ("region scores holds NaN or infinity in 4", DataError, {"region_scores": own * np.inf}),
        ("discover: seed", ConfigError, {"seed": -1}),
        ("arrays have no effects", ConfigError, {"protocol": "pooled", "propose": ("effects",)}),
    ):
        given = {"image_scores": scores, "region_embeddings": regions, "region_image": image,
                 "labels": labels, "region_scores": own}  # fmt: skip
        with pytest.raises(error, match=words):
            rm.discover(**(given | changed))


NOTEBOOK = Path(__file__).parents[1] / "reports" / "sample" / "audit.ipynb"


def notebook_cells() -> list[str]:
    book = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(one["source"]) for one in book["cells"] if one["cell_type"] == "code"]


def test_the_notebook_asks_for_nothing_that_is_not_there() -> None:
    cells = notebook_cells()
    assert len(json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]) <= 16
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell))]
    own = [one for one in nodes if isinstance(one, ast.Attribute)]
    asked = {one.attr for one in own if getattr(one.value, "id", "") == "rm"}
    assert {"audit", "discover", "mitigate"} <= asked <= set(rm.__all__)


@pytest.mark.slow
def test_the_notebook_finds_and_repairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(NOTEBOOK.parent)
    names: dict[str, Any] = {"__name__": "notebook"}
    for cell in notebook_cells():
        exec(compile(cell, "cell", "exec"), names)
    run, fixed = names["run"], names["fixed"]
    assert run.verdict == "fail"
    assert "pulse generator" in run.correlations.loc[1, "feature"]
    (delivered,) = fixed.arms[fixed.arms["delivered"]].itertuples()
    assert delivered.worst > delivered.worst_before
