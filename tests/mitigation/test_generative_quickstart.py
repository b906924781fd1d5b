"""Models that write: what they learn in packed lessons, and how arms train them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from toys import CLASSES, SIDE, toy_set

from ravl_med.config.mitigation import MitigationConfig
from ravl_med.config.model import AnswersConfig, QuickstartModelConfig
from ravl_med.encoders.generative import GenerativeEncoder, open_generative
from ravl_med.encoders.questions import Questions
from ravl_med.encoders.zero_shot import embed_classes
from ravl_med.errors import ConfigError
from ravl_med.mitigation.arms import ARMS, AnswerTower, Objective
from ravl_med.mitigation.distributed import make_fabric
from ravl_med.mitigation.generative_quickstart import (
    START,
    AnsweredReports,
    AnsweringModel,
    starting_weights,
    train_generative_model,
    write_untrained_model,
)
from ravl_med.mitigation.quickstart import read_packed
from ravl_med.mitigation.training import ArmTraining, SelectionFilms, predict_films

pytestmark = pytest.mark.long

QUESTIONS = Questions(AnswersConfig(), {"above": ["a bright top"], "below": ["a bright base"]})
TINY = QuickstartModelConfig(
    tower="vit", image_size=SIDE, epochs=12, batch_size=16, learning_rate=1e-3
)
REPORTS = ("Bright above.", "Bright below, it seems.")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that has learned to write where a film is bright."""
    folder = tmp_path_factory.mktemp("answers") / "model"
    films = toy_set(96)
    inputs = films.films.read(np.arange(96)).numpy()
    reports = [REPORTS[label] for label in films.labels]
    train_generative_model(TINY, QUESTIONS, AnsweredReports(inputs, reports, films.labels), folder)
    return folder


def opened(folder: Path) -> GenerativeEncoder:
    return open_generative(folder, CPU, QUESTIONS)


def inputs(count: int = 16, seed: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    films = toy_set(count, seed)
    seen = films.films.read(np.arange(count))
    return seen[:, None].expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(films.labels)


def test_it_answers_and_writes_what_it_was_taught(trained: Path) -> None:
    encoder = opened(trained)
    images, labels = inputs()
    assert 2e6 < encoder.info.parameters < 8e6
    answers = encoder.answer(images)
    assert (answers.argmax(dim=1) == labels).float().mean() > 0.9
    assert float(encoder.first_shares(images).min()) > 0.9
    written = encoder.write(images)
    right = [text == ("bright above.", "bright below, it seems.")[label]
             for text, label in zip(written, labels.tolist(), strict=True)]  # fmt: skip
    assert np.mean(right) > 0.9


def test_packed_lessons_teach_what_is_asked_one_by_one(trained: Path) -> None:
    encoder = opened(trained)
    module = AnsweringModel(encoder)
    images, _ = inputs(3)
    prompts = [*encoder.prompts(), encoder.request]
    answers = [torch.tensor([5, 3]), torch.tensor([6, 3]), torch.tensor([7, 8, 3])]
    shares = torch.tensor([0.5, 1.0, 2.0])
    lessons = [
        module.lesson(p, a, share)
        for p, a, share in zip(prompts, answers, shares.tolist(), strict=True)
    ]
    with torch.inference_mode():
        losses = module(images, module.pack([lessons, lessons[:1], lessons[1:]]))
        tokens = encoder.visual.see(images).tokens
        each = torch.zeros(3, 3)
        for at, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            before = answer[:-1].expand(3, -1)
            logits = encoder._decoder._last(prompt, tokens, len(answer), before)
            ids = answer.expand(3, -1)
            each[:, at] = functional.cross_entropy(
                logits.transpose(1, 2), ids, reduction="none"
            ).sum(dim=1)
    each = shares * each / torch.tensor([2.0, 2.0, 3.0])  # by its share, however long it is
    expected = [each[0].sum() / 3.5, each[1, 0] / 0.5, each[2, 1:].sum() / 3]
    np.testing.assert_allclose(losses.numpy(), np.array(expected), rtol=1e-4)


def test_its_image_side_starts_from_what_ships_and_its_decoder_from_its_seed(
    tmp_path: Path,
) -> None:
    own = QuickstartModelConfig(tower="vit")
    assert START.stat().st_size <= 2_000_000
    assert starting_weights(own) == START
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        write_untrained_model(own, QUESTIONS, ("An effusion.",), tmp_path / str(seed))
        states.append(opened(tmp_path / str(seed)).model.state_dict())
    shipped = read_packed(START)
    for name, weight in states[0].items():
        image_side = "vision_tower" in name or "projector" in name
        assert (name in shipped) == image_side, name
        if image_side:
            torch.testing.assert_close(weight, shipped[name])
        elif "norm" not in name:
            assert not torch.equal(weight, states[1][name])


def test_inputs_of_another_size_and_models_trained_anew_start_from_their_seed() -> None:
    assert starting_weights(TINY) is None
    assert starting_weights(QuickstartModelConfig(tower="vit", retrain=True)) is None


def objective(name: str, encoder: GenerativeEncoder) -> Objective:
    films = toy_set()
    texts = dict(zip(CLASSES, QUESTIONS.classes.values(), strict=True))
    classes = torch.from_numpy(embed_classes(encoder, texts))
    return Objective(ARMS[name], films, classes, MitigationConfig(), make_fabric(), answers=True)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_trains_the_image_side_and_leaves_the_decoder(name: str, trained: Path) -> None:
    encoder = opened(trained)
    tower = AnswerTower(encoder)
    generator = torch.Generator().manual_seed(0)
    loss = objective(name, encoder).step(tower, torch.arange(16), slice(None), 0, generator)
    assert torch.isfinite(loss)
    loss.backward()
    found = {n for n, p in tower.inner.named_parameters() if p.grad is not None and p.grad.any()}
    assert any("vision_tower" in n for n in found)
    assert any("multi_modal_projector" in n for n in found)
    assert not any("language_model" in n or "lm_head" in n for n in found)


def test_an_arm_is_trained_to_the_end_and_its_model_opens(trained: Path, tmp_path: Path) -> None:
    films, encoder = toy_set(64), opened(trained)
    half = np.ones(64, dtype=np.bool_)
    from toys import toy_groups

    selection = SelectionFilms.of(films.films, half, toy_groups(films), films.labels, 2)
    config = MitigationConfig(epochs=2, batch_size=16, learning_rate=1e-3, judged=1)
    classes = embed_classes(encoder, QUESTIONS.classes)
    training = ArmTraining(
        ARMS["counterfactual"], trained, films, selection, classes, config, questions=QUESTIONS
    )
    arm = training(make_fabric())
    assert len(arm.curve.losses) == 2
    rows = np.arange(16)
    logits = predict_films(arm.tower, films.films, rows, torch.from_numpy(classes), 1.0)
    arm.encoder.save(tmp_path / "repaired")
    again = opened(tmp_path / "repaired")
    images = films.films.inputs(films.films.read(rows))
    np.testing.assert_allclose(again.answer(images).numpy(), logits, atol=1e-5)
    assert not np.allclose(encoder.answer(images).numpy(), logits, atol=1e-3)


def test_several_processes_are_refused(trained: Path) -> None:
    fabric = make_fabric()
    two = type("Two", (), {"world_size": 2, "device": fabric.device, "global_rank": 0})()
    films = toy_set(32)
    training = ArmTraining(
        ARMS["standard"], trained, films, None, np.eye(2, 192, dtype=np.float32),  # type: ignore[arg-type]
        MitigationConfig(), questions=replace(QUESTIONS),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="2 processes; a model with answers is trained by one"):
        training(two)
