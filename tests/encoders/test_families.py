"""Every family of models: opened offline as its own library opens it, and saved so again."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import transformers
from PIL import Image
from tiny_models import FAMILIES, OPEN_CLIP, build
from torch.nn import functional

from ravl_med.encoders.huggingface import open_huggingface
from ravl_med.encoders.opening import open_model_folder
from ravl_med.errors import ModelError

CPU = torch.device("cpu")
HUGGING_FACE = [family for family in FAMILIES if family.startswith("hf_")]
TEXTS = ["Cardiomegaly.", "no finding", "pleural effusion, a normal heart"]


@pytest.fixture(scope="module")
def images():
    def make(encoder, count: int = 3) -> torch.Tensor:
        coarse = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        return functional.interpolate(coarse, encoder.info.image_size, mode="bicubic")

    return make


@pytest.fixture
def broken(family_folder, tmp_path):
    """A copy of a good folder, to be broken."""

    def copy(family: str) -> Path:
        return Path(shutil.copytree(family_folder(family), tmp_path / "patient-1234"))

    return copy


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_opens_and_embeds_without_a_socket(family, family_folder, film_of, images):
    encoder = open_model_folder(family_folder(family), CPU)
    film = film_of(0, 90, 130)
    side = encoder.info.image_size

    inputs = encoder.preprocess(film.pixels)
    image, text = encoder.encode_image(images(encoder)), encoder.encode_text(TEXTS)

    assert inputs.shape == (3, side, side)
    assert inputs.dtype == torch.float32
    assert image.shape == (3, encoder.info.embedding_size)
    assert text.shape == (3, encoder.info.embedding_size)
    for embedded in (image, text):
        torch.testing.assert_close(embedded.norm(dim=1), torch.ones(3))
        others = (embedded @ embedded.T)[0, 1:]
        assert (others < 0.999).all()  # the model tells them apart
    assert not encoder.model.training
    assert set(encoder.info.digests) == {"weights", "config", "tokenizer"}


@pytest.mark.parametrize("family", [f for f in OPEN_CLIP if f != "biomedclip"])
def test_open_clip_says_the_same(family, family_folder, family_encoder, images, film_of):
    encoder, name = family_encoder(family), f"local-dir:{family_folder(family)}"
    model, transform = open_clip.create_model_from_pretrained(name)
    model.eval()
    inputs = images(encoder)
    gray = Image.fromarray(np.rint(film_of(0, 90, 130).pixels * 255).astype(np.uint8))

    with torch.inference_mode():
        torch.testing.assert_close(
            encoder.encode_image(inputs),
            model.encode_image(inputs, normalize=True),
            rtol=1e-3,
            atol=1e-4,
        )
        tokens = open_clip.get_tokenizer(name)(TEXTS)
        torch.testing.assert_close(
            encoder.encode_text(TEXTS), model.encode_text(tokens, normalize=True)
        )
    assert torch.equal(encoder.preprocess(film_of(0, 90, 130).pixels), transform(gray))
    assert encoder.info.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))


def test_biomedclips_layout_says_what_its_two_towers_say(family_folder, family_encoder, images):
    folder, encoder = family_folder("biomedclip"), family_encoder("biomedclip")
    state = encoder.state_dict()
    bert = transformers.BertModel(
        transformers.BertConfig.from_pretrained(folder), add_pooling_layer=False
    ).eval()
    prefix = "text.transformer."
    bert.load_state_dict(
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    )
    tokens = transformers.BertTokenizer.from_pretrained(folder)(
        TEXTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )

    with torch.inference_mode():
        seen = bert(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state[:, 0]
        middle = functional.gelu(seen @ state["text.proj.0.weight"].T)
        wanted = functional.normalize(middle @ state["text.proj.2.weight"].T, dim=-1)

    torch.testing.assert_close(encoder.encode_text(TEXTS), wanted)
    assert "test_vit" in encoder.info.architecture
    assert "PubMedBERT" in encoder.info.architecture


@pytest.mark.parametrize("family", HUGGING_FACE)
def test_transformers_says_the_same(family, family_folder, family_encoder, images, film_of):
    folder, encoder = family_folder(family), family_encoder(family)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    film = film_of(0, 90, 130).pixels
    gray = Image.fromarray(np.rint(film * 255).astype(np.uint8)).convert("RGB")
    if family == "hf_naflex":
        side = encoder.info.image_size
        gray = gray.resize((side, side), Image.Resampling.BILINEAR)  # the only step of our own
    given = processor(images=gray, return_tensors="pt")
    texts = TEXTS if family == "hf_clip" else [text.lower() for text in TEXTS]
    tokens = tokenizer(
        texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )
    if family != "hf_clip":
        tokens = {"input_ids": tokens["input_ids"]}

    with torch.inference_mode():
        image = functional.normalize(model.get_image_features(**given).pooler_output, dim=-1)
        text = functional.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)

    torch.testing.assert_close(
        encoder.encode_image(encoder.preprocess(film)[None]), image, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(encoder.encode_text(TEXTS), text)
    assert encoder.info.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))
    wanted = None if family == "hf_clip" else -10.0
    assert encoder.info.logit_bias == wanted


@pytest.mark.parametrize("family", ["hf_siglip", "hf_siglip2", "hf_naflex"])
def test_siglip_reads_lower_case_and_its_padding(family, family_encoder):
    encoder = family_encoder(family)
    upper, lower = encoder.encode_text(["PLEURAL EFFUSION", "pleural effusion"])

    torch.testing.assert_close(upper, lower)
    alone = encoder.encode_text(["edema"])
    together = encoder.encode_text(["edema", "pleural effusion, a normal heart"])
    torch.testing.assert_close(together[:1], alone)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_opens_again_as_it_was(family, family_folder, images, tmp_path):
    encoder = open_model_folder(family_folder(family), CPU)
    with torch.no_grad():  # as a mitigation leaves it
        for parameter in encoder.model.visual.parameters():
            parameter.mul_(1.02)
    inputs = images(encoder)

    encoder.save(tmp_path / "saved")
    again = open_model_folder(tmp_path / "saved", CPU)

    torch.testing.assert_close(again.encode_image(inputs), encoder.encode_image(inputs))
    torch.testing.assert_close(again.encode_text(TEXTS), encoder.encode_text(TEXTS))
    before, after = encoder.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.info.digest != encoder.info.digest
    assert again.info.digests["tokenizer"] == encoder.info.digests["tokenizer"]
    assert again.info.architecture == encoder.info.architecture


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("biomedclip", "open_clip_config.json"),
        ("biomedclip", "config.json"),
        ("biomedclip", "tokenizer.json"),
        ("hf_clip", "config.json"),
        ("hf_clip", "preprocessor_config.json"),
        ("hf_siglip", "tokenizer_config.json"),
    ],
)
def test_the_digest_follows_every_file(family, name, family_folder, broken):
    folder = broken(family)
    before = open_model_folder(folder, CPU).info
    path = folder / name
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")

    after = open_model_folder(folder, CPU).info

    assert before.digest == open_model_folder(family_folder(family), CPU).info.digest
    assert after.digest != before.digest
    changed = {part for part in before.digests if before.digests[part] != after.digests[part]}
    assert changed == {"tokenizer" if "tokenizer" in name else "config"}


def test_weights_are_another_digest(broken, tmp_path):
    first, second = (build("hf_clip", tmp_path / str(seed), seed) for seed in (0, 1))
    one, two = (open_model_folder(folder, CPU).info for folder in (first, second))

    assert one.digests["weights"] != two.digests["weights"]
    assert one.digests["config"] == two.digests["config"]


def test_half_precision_weights_fill_a_float32_model(family_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(family_folder("open_clip_vit"), tmp_path / "half"))
    path = folder / "open_clip_model.safetensors"
    save_file({k: v.half() for k, v in load_file(path).items()}, path)

    encoder = open_model_folder(folder, CPU)

    assert {p.dtype for p in encoder.model.parameters()} == {torch.float32}


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize(
    ("family", "gone", "message"),
    [
        ("biomedclip", ["config.json"], r"text tower 'microsoft/.*' is described by a config.json"),
        (
            "biomedclip",
            ["tokenizer.json", "vocab.txt"],
            r"tokenizer 'microsoft/.*' is not in the folder. Lay its tokenizer.json",
        ),
        ("hf_clip", ["model.safetensors"], "no weights in the folder; expected model.safetensors"),
        ("hf_clip", ["preprocessor_config.json"], r"has no preprocessor_config\.json"),
        ("hf_siglip", ["spiece.model"], "no tokenizer in the folder; expected tokenizer.json"),
        ("hf_clip", ["tokenizer.json", "vocab.json"], "no tokenizer in the folder"),
    ],
)
def test_a_missing_file_is_named_and_not_fetched(family, gone, message, broken):
    folder = broken(family)
    for name in gone:
        (folder / name).unlink()

    with pytest.raises(ModelError, match=message) as caught:
        open_model_folder(folder, CPU)
    assert "patient-1234" not in str(caught.value)


def test_a_text_tower_may_lie_in_a_subfolder(broken):
    folder = broken("biomedclip")
    wanted = open_model_folder(folder, CPU).encode_text(TEXTS)
    for place in ("text_tower", "BiomedNLP-PubMedBERT-base-uncased-abstract"):
        (folder / place).mkdir()
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            shutil.move(folder / name, folder / place / name)
        torch.testing.assert_close(open_model_folder(folder, CPU).encode_text(TEXTS), wanted)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            shutil.move(folder / place / name, folder / name)


def test_a_clip_tokenizer_may_be_a_vocabulary_and_merges(broken):
    folder = broken("hf_clip")
    wanted = open_model_folder(folder, CPU).encode_text(TEXTS)
    (folder / "tokenizer.json").unlink()

    torch.testing.assert_close(open_model_folder(folder, CPU).encode_text(TEXTS), wanted)


def test_config_and_tokenizer_may_lie_apart(broken):
    """As BiomedCLIP comes: the tokenizer in its folder, the config of the text tower not."""
    folder = broken("biomedclip")
    wanted = open_model_folder(folder, CPU).encode_text(TEXTS)
    (folder / "text_tower").mkdir()
    shutil.move(folder / "config.json", folder / "text_tower" / "config.json")
    # What the folder had for a while: a Hugging Face model with code of its own.
    (folder / "config.json").write_text('{"model_type": "clip", "auto_map": {"A": "b.C"}}')

    torch.testing.assert_close(open_model_folder(folder, CPU).encode_text(TEXTS), wanted)


def test_position_ids_of_older_checkpoints_are_passed_over(broken):
    from safetensors.torch import load_file, save_file

    folder = broken("hf_clip")
    path = folder / "model.safetensors"
    old = {"text_model.embeddings.position_ids": torch.arange(16)[None],
           "vision_model.embeddings.position_ids": torch.arange(17)[None]}  # fmt: skip
    save_file(load_file(path) | old, path, metadata={"format": "pt"})

    assert open_model_folder(folder, CPU).info.parameters > 0


@pytest.mark.parametrize("family", ["biomedclip", "hf_clip"])
def test_a_tokenizer_without_padding_is_refused(family, broken):
    folder = broken(family)
    edit(folder / "tokenizer_config.json", lambda config: config.update(pad_token=None))

    with pytest.raises(ModelError, match="tokenizer has no padding token"):
        open_model_folder(folder, CPU)


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_tokenizer_that_is_none_is_refused(content, broken):
    folder = broken("hf_clip")
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")

    with pytest.raises(ModelError, match="the tokenizer in the folder does not open"):
        open_model_folder(folder, CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "blip"}, "config.json is of a 'blip'; expected model_type clip, siglip"),
        ({"auto_map": {"AutoModel": "model.Evil"}, "model_type": "concept"}, "of a 'concept'"),
    ],
)
def test_another_kind_of_folder_is_refused(change, message, broken):
    folder = broken("hf_clip")
    edit(folder / "config.json", lambda config: config.update(change))

    with pytest.raises(ModelError, match=message):
        open_model_folder(folder, CPU)


def test_code_of_a_text_tower_is_refused(broken):
    folder = broken("biomedclip")
    edit(folder / "config.json", lambda config: config.update(auto_map={"AutoModel": "a.B"}))

    with pytest.raises(ModelError, match="text tower asks for code of its own"):
        open_model_folder(folder, CPU)


def test_code_beside_a_hugging_face_model_is_not_run(broken, tmp_path):
    folder, ran = broken("hf_clip"), tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\n", encoding="utf-8")
    for name, key in (
        ("config.json", "AutoModel"),
        ("tokenizer_config.json", "AutoTokenizer"),
        ("preprocessor_config.json", "AutoImageProcessor"),
    ):
        edit(folder / name, lambda c, key=key: c.update(auto_map={key: "evil.Evil"}))

    with contextlib.suppress(ModelError):
        open_model_folder(folder, CPU)
    assert not ran.exists()


@pytest.mark.parametrize("family", ["hf_clip", "hf_siglip2"])
def test_weights_that_are_not_those_of_the_config_are_refused(family, broken):
    from safetensors.torch import load_file, save_file

    folder = broken(family)
    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if "vision_model.encoder.layers.1" in name)
    save_file({k: v for k, v in state.items() if k != name}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"1 are missing \(vision_model.encoder.layers.1"):
        open_model_folder(folder, CPU)

    save_file(state | {"extra": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"1 are not expected \(extra\)"):
        open_model_folder(folder, CPU)

    save_file(state | {name: torch.ones(3)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"do not open as the model that config\.json describes"):
        open_model_folder(folder, CPU)


def test_a_pickle_in_a_hugging_face_folder_does_not_run(broken, tmp_path):
    class Payload:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    folder = broken("hf_clip")
    (folder / "model.safetensors").unlink()
    torch.save({"logit_scale": Payload()}, folder / "pytorch_model.bin")

    with pytest.raises(ModelError, match="the weights do not open"):
        open_model_folder(folder, CPU)
    assert not (tmp_path / "ran").exists()


def test_a_bin_file_that_holds_only_tensors_opens(broken, images):
    from safetensors.torch import load_file

    folder = broken("hf_clip")
    wanted = open_model_folder(folder, CPU)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()

    encoder = open_huggingface(folder, CPU)

    torch.testing.assert_close(
        encoder.encode_image(images(encoder)), wanted.encode_image(images(encoder))
    )


@pytest.mark.parametrize("family", ["open_clip_vit", "hf_clip"])
def test_weights_with_nan_are_refused(family, broken):
    from safetensors.torch import load_file, save_file

    folder = broken(family)
    path = next(folder.glob("*.safetensors"))
    state = load_file(path)
    name = next(n for n in state if "conv1" in n or "patch_embedding.weight" in n)
    state[name][0] = float("nan")
    save_file(state, path, metadata={"format": "pt"})

    with pytest.raises(ModelError, match="the weights hold NaN or infinity"):
        open_model_folder(folder, CPU)
