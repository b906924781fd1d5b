"""Every family can be fine-tuned by the arms of a mitigation, and saved as it is then."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from tiny_generative import HERE, build
from torch.nn import functional

from ravl_med.config.mitigation import MitigationConfig
from ravl_med.config.model import AnswersConfig
from ravl_med.encoders.generative import open_generative
from ravl_med.encoders.gradient_checkpointing import checkpoint_gradients
from ravl_med.encoders.opening import open_model_folder
from ravl_med.encoders.questions import Questions
from ravl_med.encoders.zero_shot import embed_classes
from ravl_med.errors import ConfigError, ModelError
from ravl_med.mitigation.arms import ARMS, AnswerTower, ImageTower, adapt_attention
from ravl_med.mitigation.distributed import make_fabric
from ravl_med.mitigation.fine_tuning_set import FineTuningSet, GrayFilms, RegionTable
from ravl_med.mitigation.spurious_regions import PseudoGroups
from ravl_med.mitigation.training import ArmTraining, SelectionFilms
from ravl_med.regions.region_set import cut_tiles

CPU = torch.device("cpu")
CLASSES = ("above", "below")
COUNT = 16
QUICK = ("gemma3", "qwen2_vl", "blip2")
WRITING = [f if f in QUICK else pytest.param(f, marks=pytest.mark.long) for f in HERE]


def toy_set(encoder, texts: torch.Tensor) -> FineTuningSet:
    """Films of a model's size; a bright square in the corner goes with the first class."""
    side, rng = encoder.info.image_size, np.random.default_rng(0)
    labels = np.arange(COUNT, dtype=np.int64) % 2
    gray = rng.integers(60, 100, (COUNT, side, side)).astype(np.uint8)
    gray[labels == 0, side // 3 : side // 2] += 80
    gray[labels == 1, -side // 4 :] += 80
    has = labels == 0
    has[:2] = ~has[:2]
    gray[has, : side // 2, : side // 2] = 255
    boxes = cut_tiles(side, side, 2, 2)
    film = np.repeat(np.arange(COUNT), len(boxes))
    table = RegionTable.of(np.tile(boxes, (COUNT, 1)), film, COUNT)
    spurious = np.zeros(len(film), dtype=np.bool_)
    spurious[np.flatnonzero(has) * len(boxes)] = True
    return FineTuningSet(
        films=GrayFilms(gray, np.arange(COUNT), encoder.info.mean, encoder.info.std),
        reports=texts[labels],
        labels=labels,
        present=has,
        regions=table,
        spurious=spurious,
        carriers=RegionTable.of(table.boxes[spurious], film[spurious], COUNT),
        companions=RegionTable.empty(COUNT),
    )


def trained(name, folder, encoder, texts, *, lora_rank=0, **more):
    """Films, and an arm that has learned from them, from the model of the folder on."""
    films = toy_set(encoder, texts)
    groups = PseudoGroups.cross(films.labels, films.present, CLASSES)
    selection = SelectionFilms(films.films, np.arange(COUNT), films.labels, groups)
    config = MitigationConfig(epochs=1, batch_size=8, learning_rate=1e-3, lora_rank=lora_rank)
    made = ArmTraining(ARMS[name], folder, films, selection, texts.numpy(), config, **more)
    return films, made(make_fabric())


@pytest.mark.parametrize("family", ["open_clip_resnet", "convnext"])
def test_region_losses_follow_the_way_that_regions_are_embedded(family, family_folder, tmp_path):
    folder = family_folder(family)
    before = open_model_folder(folder, CPU)
    texts = before.encode_text(["cardiomegaly", "no finding"]).clone()
    found = {}
    for how in ("one_pass", "last_stage"):
        films, arm = trained("ravl", folder, before, texts, region_pooling=how)
        inputs = films.films.inputs(films.films.read(np.arange(3)))
        boxes = [torch.from_numpy(films.regions.boxes[:4])] * 3
        arm.encoder.save(tmp_path / how)
        with torch.inference_mode():
            _, regions, _ = arm.tower(inputs, boxes)
        assert regions is not None
        again = open_model_folder(tmp_path / how, CPU, how).encode_regions(inputs, boxes)[1]
        torch.testing.assert_close(again, regions, rtol=1e-3, atol=1e-4)
        found[how] = arm.curve.losses[0]

    assert np.isfinite(list(found.values())).all()
    assert found["one_pass"] != pytest.approx(found["last_stage"], rel=1e-4)


@pytest.mark.parametrize("family", ["biomedclip", "timm_vit_map", "hf_clip", "hf_naflex"])
def test_adapters_are_trained_in_the_attention_alone(family, family_folder, tmp_path):
    pytest.importorskip("peft")
    folder = family_folder(family)
    before = open_model_folder(folder, CPU)
    texts = before.encode_text(["cardiomegaly", "no finding"]).clone()
    films, arm = trained("counterfactual", folder, before, texts, lora_rank=2)
    arm.encoder.save(tmp_path / "new")
    after = open_model_folder(tmp_path / "new", CPU)

    old, new = before.state_dict(), after.state_dict()
    assert old.keys() == new.keys()
    moved = {name for name, weight in old.items() if not torch.equal(weight, new[name])}
    assert {name for name in moved if "att" not in name} <= {"logit_scale"}
    ranks = {
        int(torch.linalg.matrix_rank((new[name] - old[name]).double(), rtol=1e-3))
        for name in moved
        if new[name].ndim == 2
    }
    assert max(ranks) == 2
    inputs = films.films.inputs(films.films.read(np.arange(3)))
    with torch.inference_mode():
        seen, _, _ = arm.tower(inputs)
    torch.testing.assert_close(after.encode_image(inputs), seen, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["open_clip_resnet", "convnext"])
def test_a_tower_without_linear_attention_takes_no_adapters(family, family_folder):
    pytest.importorskip("peft")
    tower = ImageTower(open_model_folder(family_folder(family), CPU).model)
    with pytest.raises(ModelError, match="no linear layer of attention; expected a ViT of timm or"):
        adapt_attention(tower, 2)


@pytest.mark.parametrize(
    "family",
    ["coca", "convnext", "timm_vit_map", "biomedclip", "hf_clip", "hf_siglip", "hf_naflex"],
)
def test_an_arm_trains_the_image_tower_and_leaves_the_text(family, family_folder, tmp_path):
    folder = family_folder(family)
    before = open_model_folder(folder, CPU)
    texts = before.encode_text(["cardiomegaly", "no finding"]).clone()

    films, arm = trained("counterfactual", folder, before, texts)
    arm.encoder.save(tmp_path / "new")
    after = open_model_folder(tmp_path / "new", CPU)

    assert np.isfinite(arm.curve.losses).all()
    kept = after.info.logit_scale == pytest.approx(before.info.logit_scale)
    assert kept is (before.info.logit_bias is not None)  # a sigmoid's scale is not trained
    inputs = films.films.inputs(films.films.read(np.arange(3)))
    with torch.inference_mode():
        seen, _, _ = arm.tower(inputs)
    torch.testing.assert_close(after.encode_image(inputs), seen, rtol=1e-3, atol=1e-4)
    drift = functional.cosine_similarity(seen, before.encode_image(inputs))
    assert (drift < 0.99999).any()
    torch.testing.assert_close(
        after.encode_text(["cardiomegaly", "no finding"]), texts, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("style", ["yes_no", "choice"])
@pytest.mark.parametrize("family", WRITING)
def test_an_arm_trains_the_image_side_of_a_model_that_writes(family, style, tmp_path):
    texts = {name: [f"{name} ."] for name in ("effusion", "pneumothorax")}
    questions = Questions(AnswersConfig(style=style), texts)
    folder = build(family, tmp_path / "model")
    before = open_generative(folder, CPU, questions)
    classes = torch.from_numpy(embed_classes(before, texts))
    name = "counterfactual" if style == "choice" else "standard"  # with regions, and without
    films, arm = trained(name, folder, before, classes, questions=questions)
    arm.encoder.save(tmp_path / "new")

    assert np.isfinite(arm.curve.losses).all()
    images = films.films.inputs(films.films.read(np.arange(3)))
    answers = open_generative(tmp_path / "new", CPU, questions).answer(images).numpy()
    with torch.inference_mode():
        np.testing.assert_allclose(arm.encoder.answer(images).numpy(), answers, atol=1e-4)
    assert not np.allclose(before.answer(images).numpy(), answers, atol=1e-4)


@pytest.mark.parametrize("family", WRITING)
def test_checkpointed_gradients_of_a_model_that_writes_are_the_same(family, tmp_path):
    texts = {name: [f"{name} ."] for name in ("effusion", "pneumothorax")}
    questions = Questions(AnswersConfig(style="yes_no"), texts)
    folder = build(family, tmp_path / "model")
    side = open_generative(folder, CPU, questions).info.image_size
    found, images = {}, torch.rand(2, 3, side, side)
    for checkpointed in (False, True):
        tower = AnswerTower(open_generative(folder, CPU, questions)).train()
        for part in tower.modules():  # what is drawn at random would not be the same
            for name in ("dropout", "p", "drop_prob", "attention_dropout", "activation_dropout"):
                if isinstance(getattr(part, name, None), float):
                    setattr(part, name, 0.0)
        if checkpointed:
            checkpoint_gradients(tower.inner)
        loss = tower(images, labels=torch.tensor([0, 1]))[2]
        loss.sum().backward()
        trained = {name: one for name, one in tower.named_parameters() if one.grad is not None}
        found[checkpointed] = {name: weight.grad for name, weight in trained.items()}
    assert found[True].keys() == found[False].keys()
    for name, gradient in found[False].items():
        torch.testing.assert_close(found[True][name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_adapters_without_their_library_are_refused(family_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    tower = ImageTower(open_model_folder(family_folder("hf_clip"), CPU).model)
    with pytest.raises(ConfigError, match=r"needs peft, which is not installed; pip install"):
        adapt_attention(tower, 2)
