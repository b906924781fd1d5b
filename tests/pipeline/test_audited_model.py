"""Whole audits of models that are wired right, wired wrong, and of one that nobody can open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError, DataError
from ravl_med.evidence.audit_result import result_document
from ravl_med.evidence.review import apply_decisions
from ravl_med.pipeline.audit import audit
from ravl_med.storage.cache import Cache

RELEVANCE = Path(__file__).parents[2] / "configs" / "relevance" / "chest.yaml"
FILMS = 320


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Films of two classes; half of each hold a cross in one corner."""
    return make_films(tmp_path_factory.mktemp("halves"), 2)


def make_films(folder: Path, each: int) -> Path:
    """Write films of two classes; one in so many of each holds a cross in one corner."""
    rng = np.random.default_rng(0)
    rows = []
    for film in range(FILMS):
        side, cross = film % 2, int((film // 2) % each == each - 1)
        level = np.full((64, 64), 0.35) + 0.03 * rng.normal(size=(64, 64))
        level[:, 32 * side : 32 * side + 32] += 0.2
        if cross:
            level[48:, :16] = np.eye(16) + np.eye(16)[::-1]
        name = f"film{film:03d}.png"
        Image.fromarray((255 * level.clip(0, 1)).astype(np.uint8)).save(folder / name)
        rows.append({"image": name, "patient": film, "report": "", "cross": cross,
                     "left": 1 - side, "right": side})  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder


def config_of(root: Path, factory: str = "right", **model) -> Config:
    return Config.model_validate({
        "name": "halves",
        "cohort": {"manifest": root / "manifest.csv", "split": None, "workers": 0},
        "task": {"name": "side", "classes": {
            "left": {"prompts": ["left", "a left half"]}, "right": {"prompts": ["right"]},
        }},
        "model": {"factory": f"halves_model:{factory}", "allow_code": True, "device": "cpu",
                  **model},
        "regions": {"tiles": (4, 4)},
        "discovery": {"clusters": (8, 12), "draws": 1},
        "evidence": {"relevance": RELEVANCE, "permutations": 999, "draws": 2000, "simulations": 20,
                     "effect_films": 40, "max_pairs": 20, "dependence_films": 0},
        "gate": {"max_prediction_share": 1.0, "min_prediction_share": 0.0},
        "privacy": {"min_cell": 0},
    })  # fmt: skip


def audited(root: Path, tmp_path: Path, *arguments, **model):
    return audit(config_of(root, *arguments, **model), key=b"k" * 32, cache=Cache(tmp_path)).result


@pytest.mark.long
def test_a_model_that_is_wired_right_passes_the_gate(root, tmp_path):
    result = audited(root, tmp_path)
    assert result.sanity.stops == result.sanity.doubts == ()
    assert all(one.interval.low > 0.9 for one in result.sanity.findings)
    assert not [check for check in result.sanity.checks if check.status == "failed"]
    assert result.discovery is not None
    gate = next(gate for gate in result.verdict.gates if gate.name == "gate.min_auroc")
    assert gate.passed
    assert gate.text.startswith("the model distinguishes 2 of 2 findings (lower bound")


@pytest.mark.parametrize(("factory", "reason"), [
    ("swapped", "Class left is flipped: the model gives it to films without it (AUROC 0.0"),
    ("constant", "All films have the same embedding: the model does not see them."),
    ("long", "Embeddings of films have norms of 7 to 7; expected 1."),
])  # fmt: skip
def test_a_fault_without_doubt_stops_the_audit(root, tmp_path, factory, reason):
    result = audited(root, tmp_path, factory)
    assert result.verdict.name == "not_auditable"
    assert [told for told in result.verdict.reasons if told.startswith(reason)]
    assert [told for told in result.verdict.reasons if "The usual cure: " in told]
    assert result.discovery is None
    document = result_document(result, 10)
    assert document.sanity.stops
    assert document.sanity.findings["left"].films == FILMS // 2


@pytest.mark.long
def test_a_model_at_chance_is_not_auditable(root, tmp_path):
    result = audited(root, tmp_path, "chance")
    assert result.verdict.name == "not_auditable"
    assert result.verdict.reasons[0].startswith(
        "The model does not distinguish left from right (AUROC: left "
    )
    assert result.discovery is not None  # a shortcut would have been found
    again = apply_decisions(result, (), config_of(root).gate, None)
    assert again.verdict == result.verdict


def test_a_model_that_says_nan_of_a_filled_film_is_not_auditable(tmp_path):
    """Films without the cross fill a part of it, and of such a film the model says NaN."""
    result = audited(make_films(tmp_path, 6), tmp_path / "cache", "fragile")
    assert result.verdict.name == "not_auditable"
    assert result.verdict.reasons[0].startswith("The model gives NaN or infinity for films of")
    assert result.accuracy.images == FILMS  # of the films themselves it says nothing of the kind
    assert result.accuracy.overall > 0.9


def table(root: Path, path: Path, *, cross: bool) -> Path:
    """A vendor's scores: nearly always right, or led to the left by a cross."""
    rng = np.random.default_rng(1)
    manifest = pd.read_csv(root / "manifest.csv")
    left = np.where(rng.random(FILMS) < 0.75, manifest["left"], 1 - manifest["left"])
    if cross:
        led = (manifest["cross"] == 1) & (rng.random(FILMS) < 0.9)
        left = np.where(led, 1, left)
    share = 0.5 + (left - 0.5) * rng.uniform(0.2, 0.9, FILMS)
    rows = pd.DataFrame({"image": manifest["image"], "left": share, "right": 1 - share})
    rows.sample(frac=1, random_state=0).to_csv(path, index=False)
    return path


def test_a_black_box_that_follows_a_feature_is_for_review(root, tmp_path):
    scores = table(root, tmp_path / "scores.csv", cross=True)
    result = audited(root, tmp_path, scores=scores)
    assert result.verdict.name == "review", result.verdict
    assert "confirmed association" in result.verdict.reasons[0]
    assert "No counterfactual is possible" in result.verdict.reasons[-1]
    assert all(entry.counterfactual is None for entry in result.correlations)
    assert not any(entry.counts for entry in result.correlations)
    first = result.correlations[0]
    assert first.confirmation.status == "confirmed"
    assert any("No counterfactual is possible" in reason for reason in first.reasons)
    assert result.task.scores == "table"
    assert result.model.architecture.startswith("not known: scores from a table; regions by")
    assert len(result.model.digests["scores"]) == 64
    again = apply_decisions(result, (), config_of(root).gate, None)
    assert again.verdict == result.verdict


def test_a_class_that_is_hardly_predicted_does_not_end_the_search(root, tmp_path):
    config = config_of(root, scores=table(root, tmp_path / "scores.csv", cross=True))
    gate = config.gate.model_copy(update={"min_prediction_share": 0.6})
    config = config.model_copy(update={"gate": gate})
    result = audit(config, key=b"k" * 32, cache=Cache(tmp_path)).result
    assert result.verdict.name == "not_auditable"
    assert "less than 60 % of the films each (gate.min_pred" in result.verdict.reasons[0]
    assert result.correlations[0].confirmation.status == "confirmed"
    assert apply_decisions(result, (), gate, None).verdict == result.verdict


def test_a_black_box_that_is_right_has_its_own_accuracy(root, tmp_path):
    scores = table(root, tmp_path / "scores.csv", cross=False)
    result = audited(root, tmp_path, scores=scores)
    right = pd.read_csv(scores).merge(pd.read_csv(root / "manifest.csv"), on="image")
    wanted = ((right["left_x"] > 0.5) == (right["left_y"] == 1)).mean()
    assert result.accuracy.overall == pytest.approx(wanted)
    assert result.sanity.findings[0].auroc > 0.65
    assert np.isnan(result.sanity.findings[0].lowest)  # it has no prompts
    assert {check.name for check in result.sanity.checks}.isdisjoint({"effect of padding"})
    assert "No counterfactual is possible" in result.verdict.reasons[-1]
    assert result.verdict.name in ("pass", "not_auditable")


def test_a_black_box_with_a_hole_in_its_table_is_refused(root, tmp_path):
    scores = table(root, tmp_path / "scores.csv", cross=False)
    lines = scores.read_text().splitlines()
    scores.write_text("\n".join(lines[:-1]))
    with pytest.raises(DataError, match=f"1 of {FILMS} films of manifest.csv have no row"):
        audited(root, tmp_path, scores=scores)


def test_a_black_box_cannot_be_mitigated(root, tmp_path):
    from ravl_med.pipeline.mitigate import _require_splits
    from ravl_med.pipeline.stages import Run

    config = config_of(root, scores=tmp_path / "scores.csv")
    with pytest.raises(ConfigError, match="a model that nobody can open cannot be fine-tuned"):
        _require_splits(config, Run(Cache(tmp_path)))
