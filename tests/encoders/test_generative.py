"""Models that write: opened offline, scored as `generate` would, tokens where they lie."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from test_model_config import changed
from tiny_generative import HERE, TEMPLATE, build, local_tower

from ravl_med.config.model import AnswersConfig, ModelConfig
from ravl_med.encoders import generative
from ravl_med.encoders.generative import GenerativeEncoder, open_generative
from ravl_med.encoders.model_config import AreaImages, HuggingFaceImages, require_valid
from ravl_med.encoders.questions import Questions
from ravl_med.errors import ModelError
from ravl_med.mitigation.arms import AnswerTower, adapt_attention

CLASSES = {
    "cardiomegaly": ["cardiomegaly", "The heart is enlarged ."],
    "effusion": ["pleural effusion"],
    "normal": ["Is this chest radiograph normal ?"],
}
CPU = torch.device("cpu")
SHARING = ("llava", "gemma3", "qwen2_vl", "idefics3", "blip2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("generative")
    return {family: build(family, root / family) for family in HERE}


def opened(folder: Path, **answers: Any) -> GenerativeEncoder:
    return open_generative(folder, CPU, Questions(AnswersConfig(**answers), CLASSES))


def films(encoder: GenerativeEncoder, count: int = 2) -> torch.Tensor:
    rng = np.random.default_rng(0)
    pixels: list[NDArray[np.float32]] = [
        rng.random((140, 100)).astype(np.float32) for _ in range(count)
    ]
    return torch.stack([encoder.preprocess(one) for one in pixels])


def generated(encoder: GenerativeEncoder, image: torch.Tensor, text: str, most: int) -> Any:
    """Return what transformers itself makes of an input by the model's processor."""
    info = encoder.info
    std, mean = (torch.tensor(v)[:, None, None] for v in (info.std, info.mean))
    level = (image * std + mean).clamp(0, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = encoder._processor(
            text=[text], images=[level], return_tensors="pt", do_rescale=False
        )
    given.pop("labels", None)
    return encoder.model.generate(
        **given, max_new_tokens=most, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip


@pytest.mark.parametrize("family", HERE)
def test_scores_are_those_of_generate(folders: dict[str, Path], family: str) -> None:
    encoder = opened(folders[family])
    images = films(encoder)
    scores = encoder.answer(images)
    assert scores.shape == (2, 3)
    yes, no = encoder.answer_words
    for image, own in zip(images, scores, strict=True):
        odds = []
        for prompt in encoder.prompts():
            logits = generated(encoder, image, prompt.text, 1).logits[-1][0]
            odds.append(float(logits[yes].logsumexp(0) - logits[no].logsumexp(0)))
        expected = [np.mean(odds[:2]), odds[2], odds[3]]
        np.testing.assert_allclose(own.numpy(), expected, atol=1e-4)
    assert float(scores.std(dim=0).min()) > 1e-3  # the film matters


@pytest.mark.parametrize("family", HERE)
def test_the_whole_film_is_the_mean_of_its_tokens(folders: dict[str, Path], family: str) -> None:
    encoder = opened(folders[family])
    images, side = films(encoder), float(encoder.info.image_size)
    whole, regions = encoder.encode_regions(images, [torch.tensor([[0.0, 0.0, side, side]])] * 2)
    np.testing.assert_allclose(regions.numpy(), whole.numpy(), atol=1e-5)
    assert encoder.info.embedding_size == whole.shape[1]
    some = torch.tensor([[0.0, 0.0, side / 2, side / 2]])
    apart = encoder.encode_regions(images[:1], [some])[1]
    assert float((apart @ whole[0]).item()) < 0.9999
    kept = encoder.answer_regions(images, [some, torch.empty(0, 4)])
    assert kept.shape == (1, 3)
    assert not torch.allclose(kept, encoder.answer(images[:1]), atol=1e-3)


@pytest.mark.parametrize("family", HERE)
def test_a_bright_square_shows_in_the_tokens_of_its_box(
    folders: dict[str, Path], family: str
) -> None:
    encoder = opened(folders[family])
    local_tower(encoder.model)  # or attention spreads it over all tokens
    side = 2 if family == "florence2" else 1  # quarters; its convolutions see beyond a token
    for row, column in ((0, 0), (1, 2), (2, 1)):
        film = np.full((200, 160), 0.2, dtype=np.float32)
        geometry = encoder.geometry(*film.shape)
        size = encoder.info.image_size / 4
        wanted = np.array([[column, row, column + side, row + side]], dtype=np.float32) * size
        box = geometry.to_stored(wanted)
        x0, y0, x1, y1 = np.rint(box[0]).astype(int)
        film[y0:y1, x0:x1] = 0.9
        dark = np.full_like(film, 0.2)
        with torch.inference_mode():
            plain, planted = (
                encoder._see(encoder.preprocess(pixels)[None]) for pixels in (dark, film)
            )
        cells = len(encoder.visual.boxes)
        before, after = (
            (s.tokens if s.patches is None else s.patches)[0, -cells:] for s in (plain, planted)
        )
        energy = (after - before).pow(2).sum(dim=1)
        own = encoder.visual.shares(torch.from_numpy(geometry.to_input(box)))[0] > 0.01
        assert float(energy[own].sum() / energy.sum()) >= 0.95


@pytest.mark.parametrize("family", SHARING)
def test_questions_share_what_they_begin_with(folders: dict[str, Path], family: str) -> None:
    encoder = opened(folders[family])
    images = films(encoder)
    shared = encoder.answer(images)
    encoder._decoder._shares = False
    np.testing.assert_allclose(encoder.answer(images).numpy(), shared.numpy(), atol=1e-5)


@pytest.mark.parametrize("family", ["llava", "gemma3", "paligemma", "florence2"])
def test_texts_of_classes_have_their_mean_log_likelihood(
    folders: dict[str, Path], family: str
) -> None:
    encoder = opened(folders[family], style="choice")
    image = films(encoder, 1)
    scores = encoder.answer(image)[0]
    prompt = encoder.prompts()[0]
    ids = encoder._writer.answer_ids(prompt.text, CLASSES["effusion"][0])
    assert len(ids) == 2
    seen = encoder._see(image).tokens
    expected = 0.0
    with torch.inference_mode():
        for at in range(2):  # one token at a time, nothing kept
            before = None if at == 0 else ids[None, :at]
            logits = encoder._decoder._last(prompt, seen, 1, before)[0, -1]
            expected += float(logits.log_softmax(0)[ids[at]]) / 2
    assert float(scores[1]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "idefics3", "paligemma", "florence2"])
def test_reports_are_those_of_generate(folders: dict[str, Path], family: str) -> None:
    encoder = opened(folders[family], max_tokens=6)
    image = films(encoder, 1)
    text = encoder._writer.write("Write report in one sentence .").text
    made = generated(encoder, image[0], text, 6 + 1 * (family == "florence2")).sequences[0]
    start = 1 if family == "florence2" else len(encoder._writer.write("Write report in one "
                                                                      "sentence ."))  # fmt: skip
    expected = encoder._processor.tokenizer.decode(made[start:], skip_special_tokens=True)
    assert encoder.write(image, "Write report in one sentence .") == [expected.strip()]


def test_a_model_is_saved_as_it_is_and_opens_again(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    encoder = opened(folders["llava"])
    with torch.no_grad():
        encoder.model.model.multi_modal_projector.linear_2.bias.add_(0.5)
    images = films(encoder)
    encoder.save(tmp_path / "saved")
    again = opened(tmp_path / "saved")
    np.testing.assert_array_equal(again.answer(images).numpy(), encoder.answer(images).numpy())
    assert again.info.digest != opened(folders["llava"]).info.digest


@pytest.mark.long
@pytest.mark.parametrize("family", HERE)
def test_adapters_learn_in_the_image_side_and_become_its_weights(
    folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    encoder, images = opened(folders[family]), films(opened(folders[family]))
    tower = AnswerTower(encoder)
    adapted = adapt_attention(tower, 2)
    trained = {name: weight for name, weight in tower.named_parameters() if weight.requires_grad}
    optimiser = torch.optim.SGD(trained.values(), lr=0.1)
    for _ in range(2):  # the first of two factors begins to learn once the second is not 0
        loss = tower(images, labels=torch.tensor([0, 1]))[2]
        assert loss is not None
        loss.sum().backward()
        learned = {name for name, weight in trained.items() if weight.grad is not None}
        optimiser.step()
    assert sum("lora_" in name for name in learned) >= 8  # a LLaVA does not read its last layer
    assert not any("language_model" in name or "decoder" in name for name in trained)
    answers = encoder.answer(images).numpy()
    assert not np.allclose(answers, opened(folders[family]).answer(images).numpy(), atol=1e-4)
    adapted.merge_and_unload()
    encoder.save(tmp_path / "saved")
    again = opened(tmp_path / "saved")
    np.testing.assert_allclose(again.answer(images).numpy(), answers, atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_less_precise_weights_say_almost_the_same(folders: dict[str, Path], precision: str) -> None:
    questions = Questions(AnswersConfig(), CLASSES)
    exact = opened(folders["llava"])
    rough = open_generative(folders["llava"], CPU, questions, precision=precision)
    images = films(exact)
    difference = (rough.answer(images) - exact.answer(images)).abs().max()
    assert 0 < float(difference) < 0.2
    assert rough.info.digest != exact.info.digest


def test_a_blank_film_is_taken_off_where_that_is_asked(folders: dict[str, Path]) -> None:
    plain, corrected = opened(folders["llava"]), opened(folders["llava"], blank_corrected=True)
    images = films(plain)
    np.testing.assert_allclose(
        corrected.answer(images).numpy(),
        (plain.answer(images) - plain.blank_answer).numpy(),
        atol=1e-6,
    )


def test_wordings_ask_the_same_in_other_words(folders: dict[str, Path]) -> None:
    questions = opened(folders["llava"]).questions
    assert questions.wordings() == (
        "Does this chest radiograph show {}?",
        "Is there {} in this chest radiograph?",
        "Can you see {} on this chest radiograph?",
        "Does this chest radiograph show {}? Answer yes or no.",
        "Does this chest radiograph show {}? Answer no or yes.",
    )
    asked = [[one.text for one in questions.ask(wording)] for wording in questions.wordings()]
    assert asked[1][0] == "Is there cardiomegaly in this chest radiograph?"
    assert asked[4][3] == "Is this chest radiograph normal ? Answer no or yes."
    assert asked[1][3] == "Is this chest radiograph normal ?"  # a question of its own stays


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def edit(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **values}), encoding="utf-8")


def test_a_folder_without_processor_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["llava"], tmp_path / "m")
    for name in ("processor_config.json", "preprocessor_config.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"no processor .*published with the model"):
        opened(folder)


@pytest.mark.parametrize(
    "template",
    [TEMPLATE.replace("IMAGE", ""), "{{ raise_exception('no images') }}", "{{ messages[0].x.y }}"],
)
def test_a_chat_template_without_an_image_slot_is_refused(
    folders: dict[str, Path], tmp_path: Path, template: str
) -> None:
    folder = copied(folders["llava"], tmp_path / "m")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(ModelError, match="chat template"):
        opened(folder)


@pytest.mark.parametrize(
    ("words", "what"), [(("Yes", "pleural effusion"), "2 tokens"), (("Jawohl",), "does not know")]
)
def test_an_answer_word_that_is_no_token_is_refused(
    folders: dict[str, Path], words: tuple[str, ...], what: str
) -> None:
    with pytest.raises(ModelError, match=rf"model.answers.yes: .*{what}"):
        opened(folders["llava"], yes=words)


def test_a_context_too_short_for_the_image_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["llava_next"], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = {**config["text_config"], "max_position_embeddings": 64}
    edit(folder / "config.json", text_config=text)
    with pytest.raises(ModelError, match="88 of them of the image, and the model reads 64"):
        opened(folder)


def test_code_of_a_model_is_run_only_where_it_is_trusted(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["llava"], tmp_path / "m")
    edit(folder / "config.json", model_type="chexagent", auto_map={"AutoModel": "x.Y"})
    with pytest.raises(ModelError, match=r"code of its own .*allow_code"):
        opened(folder)
    edit(folder / "config.json", model_type="bert", auto_map={})
    with pytest.raises(ModelError, match="one of llava, llava_next"):
        open_generative(
            folder, CPU, Questions(AnswersConfig(), CLASSES), allow_code=True
        )  # fmt: skip


def test_weights_that_do_not_fit_are_refused_before_they_are_read(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = sum(p.numel() for p in opened(folders["llava"]).model.parameters())
    monkeypatch.setattr(generative, "free_memory", lambda device: 3 * weights)
    monkeypatch.setattr(generative, "_load", lambda *given: pytest.fail("weights were read"))
    with pytest.raises(ModelError, match=r"GB in fp32, and .* GB are free .*precision: bf16"):
        opened(folders["llava"])


def test_weights_are_safetensors(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["llava"], tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no safetensors"):
        opened(folder)
    (folder / "model.safetensors").write_bytes(b"\x04\x00\x00\x00\x00\x00\x00\x00none")
    with pytest.raises(ModelError, match="no safetensors file"):
        opened(folder)


def head(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "content",
    [
        head(b"", 2**64 - 1), head(b"", 10**12), head(b"[" * 100_000), head(b"[]"), b"\x01",
        head(b'{"a": {"shape": "wide"}}'), head(b'{"a": {"shape": [1e999]}}'), head(b'{"a": {}}'),
        head(b'{"a": {"shape": 3}}'), None,
    ],
    ids=["2**64", "1 TB", "deep", "list", "short", "text", "inf", "none", "number", "pipe"],
)  # fmt: skip
def test_a_hostile_head_of_weights_is_one_line(
    content: bytes | None, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["llava"], tmp_path / "m")
    (folder / "model.safetensors").unlink()
    if content is None:
        os.mkfifo(folder / "model.safetensors")
    else:
        (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors is no safetensors file"):
        opened(folder)


IMAGES = "processor_config.json"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("family", "name", "place", "value", "line"),
    [
        ("llava", "config.json", "text_config.num_hidden_layers", 10**6, "at most 512"),
        ("llava", "config.json", "vision_config.num_hidden_layers", 10**6, "at most 512"),
        ("llava", "config.json", "text_config.hidden_size", 10**9, r"describes [\d,]{12,} param"),
        ("llava", IMAGES, "image_processor.resample", 99, "resample"),
        ("llava", IMAGES, "image_processor.image_mean", "grey", "image_mean"),
        ("llava", IMAGES, "image_processor.image_std", [0, 0, 0], "image_std"),
        ("llava", IMAGES, "image_processor.size", {"shortest_edge": 10**9}, "size"),
        ("qwen2_vl", IMAGES, "image_processor.size", {"longest_edge": 10**9}, "size"),
        ("llava", "tokenizer_config.json", "pad_token", 5, "pad_token"),
    ],
)
def test_a_wrong_value_of_a_config_is_one_line(
    family: str, name: str, place: str, value: Any, line: str,
    folders: dict[str, Path], tmp_path: Path,
) -> None:  # fmt: skip
    folder = copied(folders[family], tmp_path / "m")
    changed(folder, name, place, value)
    with pytest.raises(ModelError, match=line) as refused:
        opened(folder)
    assert "\n" not in str(refused.value)


def test_areas_that_qwen_bounds_are_no_sides() -> None:
    published = {"size": {"shortest_edge": 3136, "longest_edge": 12_845_056}}
    require_valid(AreaImages, published, "model.path", IMAGES)
    with pytest.raises(ModelError):
        require_valid(HuggingFaceImages, published, "model.path", IMAGES)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"question": "Is it ill?"}, "must hold the placeholder"),
        ({"style": "choice", "question": "Is it {}?"}, "nowhere"),
        ({"yes": ["Yes"], "no": ["yes"]}, "both"),
        ({"image_size": 3}, "greater than or equal to 28"),
    ],
)
def test_answers_of_a_config_are_checked(given: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError, match=line):
        AnswersConfig(**given)


def test_answers_are_of_a_folder_alone(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="fp16 is for models with 'answers'"):
        ModelConfig(path=tmp_path, precision="fp16")
    with pytest.raises(ValidationError, match="name it in 'path'"):
        ModelConfig(factory="a:b", allow_code=True, answers=AnswersConfig())


@pytest.mark.parametrize(("family", "side", "line"), [
    ("qwen2_vl", 100, "multiple of 28"), ("llava", 112, "reads one size alone")
])  # fmt: skip
def test_a_side_that_a_processor_does_not_take_is_refused(
    folders: dict[str, Path], family: str, side: int, line: str
) -> None:
    with pytest.raises(ModelError, match=line):
        opened(folders[family], image_size=side)
    assert opened(folders["qwen2_vl"], image_size=84).info.image_size == 84
