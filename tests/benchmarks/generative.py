"""Models that write: their scores beside those of `generate`, their tokens, and what sharing saves.

Families are tiny models of their published layout with random weights: the page says that the tool
asks them as transformers would, and nothing about how good they are.
"""

from __future__ import annotations

import importlib
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ravl_med.config.model import AnswersConfig
from ravl_med.encoders.generative import GenerativeEncoder, open_generative
from ravl_med.encoders.questions import Questions
from tests.benchmarks import answering_models
from tests.benchmarks.runner import Page, Part, Setup
from tests.benchmarks.tables import Column, Row, Table, Target

_CLASSES = {
    name: [name] for name in ("cardiomegaly", "effusion", "pneumothorax", "consolidation", "normal")
}
_EXACT, _ENERGY, _SAVED = 1e-4, 0.95, 0.40
_CELLS = ((0, 0), (1, 2), (2, 1), (2, 2))


def _tiny() -> Any:
    """Return the builder of tiny models, which the tests of encoders share."""
    return importlib.import_module("tests.encoders.tiny_generative")


def _open(family: str, folder: Path) -> GenerativeEncoder:
    _tiny().build(family, folder)
    questions = Questions(AnswersConfig(), _CLASSES)
    return open_generative(folder, torch.device("cpu"), questions)


def _films(encoder: GenerativeEncoder, count: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    films = (rng.random((140, 100)).astype(np.float32) for _ in range(count))
    return torch.stack([encoder.preprocess(film) for film in films])


def measure_families(setup: Setup) -> Iterator[Row]:
    """Compare each family with transformers' own generation, and plant squares."""
    families = _tiny().HERE
    for done, family in enumerate(families, start=1):
        with tempfile.TemporaryDirectory() as place:
            encoder = _open(family, Path(place))
            images = _films(encoder, setup.size("films"))
            row = {
                "family": encoder.info.architecture.split(",")[0].removeprefix("Hugging Face "),
                "films": len(images),
                "difference": _largest_difference(encoder, images),
                "whole": _whole_difference(encoder, images),
                "energy": _least_energy(encoder, family),
            }
        setup.progress("families", done, len(families))
        yield row


def _largest_difference(encoder: GenerativeEncoder, images: torch.Tensor) -> float:
    """Return how far scores are from the logits that `generate` has for the first new token."""
    std, mean = (torch.tensor(v)[:, None, None] for v in (encoder.info.std, encoder.info.mean))
    inside: Any = encoder
    worst = 0.0
    scores = encoder.answer(images)
    for image, own in zip(images, scores, strict=True):
        level = (image * std + mean).clamp(0, 1)
        for at, prompt in enumerate(encoder.prompts()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                given = inside._processor(
                    text=[prompt.text], images=[level], return_tensors="pt", do_rescale=False
                )
            given.pop("labels", None)
            made = encoder.model.generate(
                **given, max_new_tokens=1, do_sample=False, output_logits=True,
                return_dict_in_generate=True,
            )  # fmt: skip
            yes, no = (made.logits[-1][0][ids].logsumexp(0) for ids in encoder.answer_words)
            worst = max(worst, abs(float(yes - no) - float(own[at])))
    return worst


def _whole_difference(encoder: GenerativeEncoder, images: torch.Tensor) -> float:
    side = float(encoder.info.image_size)
    box = torch.tensor([[0.0, 0.0, side, side]])
    whole, regions = encoder.encode_regions(images, [box] * len(images))
    return float((whole - regions).abs().max())


def _least_energy(encoder: GenerativeEncoder, family: str) -> float:
    """Return the least share of a planted square's energy that lies in the tokens of its box."""
    _tiny().local_tower(encoder.model)
    wide = 2 if family == "florence2" else 1  # its convolutions see beyond a token
    unit, least = encoder.info.image_size / 4, 1.0
    for row, column in _CELLS:
        film = np.full((200, 160), 0.2, dtype=np.float32)
        geometry = encoder.geometry(200, 160)
        wanted = np.array([[column, row, column + wide, row + wide]], dtype=np.float32) * unit
        box = geometry.to_stored(wanted)
        x0, y0, x1, y1 = np.rint(box[0]).astype(int)
        bright = film.copy()
        bright[y0:y1, x0:x1] = 0.9
        before, after = (_placed(encoder, pixels) for pixels in (film, bright))
        energy = (after - before).pow(2).sum(dim=1)
        own = encoder.visual.shares(torch.from_numpy(geometry.to_input(box)))[0] > 0.01
        least = min(least, float(energy[own].sum() / energy.sum()))
    return least


@torch.inference_mode()
def _placed(encoder: Any, pixels: NDArray[np.float32]) -> torch.Tensor:
    """Return the tokens of a film whose places are known, (T, D)."""
    seen = encoder._see(encoder.preprocess(pixels)[None])
    found: torch.Tensor = seen.tokens if seen.patches is None else seen.patches
    return found[0, -len(encoder.visual.boxes) :]


def measure_sharing(setup: Setup) -> Iterator[Row]:
    """Time the questions of a film with and without what they share."""
    with tempfile.TemporaryDirectory() as place:
        encoder = _large(Path(place))
        inside: Any = encoder
        images = _films(encoder, setup.size("films"))
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(setup.size("rounds") + 1):
            for shares in (True, False):
                inside._decoder._shares = shares
                start = time.process_time()
                encoder.answer(images)
                if turn:  # the first is for caches to fill
                    seconds[shares].append(time.process_time() - start)
            setup.progress("sharing", turn + 1, setup.size("rounds") + 1)
        shared, alone = (float(np.median(seconds[s])) for s in (True, False))
        visual = int(encoder.prompts()[0].image.sum())
        yield {
            "films": len(images),
            "questions": len(_CLASSES),
            "tokens": visual,
            "own": round(float(np.mean([len(p) for p in encoder.prompts()])) - visual),
            "parameters": encoder.info.parameters,
            "shared": shared / len(images),
            "alone": alone / len(images),
            "saved": 1.0 - shared / alone,
        }


def _large(folder: Path) -> GenerativeEncoder:
    """Open a LLaVA with as many image tokens as the published one, most weights in its decoder."""
    import transformers

    tiny, side, patch = _tiny(), 336, 14
    words = tiny.tokenizer(image_token="<image>")
    torch.manual_seed(0)
    vision = transformers.CLIPVisionConfig(
        hidden_size=96, intermediate_size=192, num_hidden_layers=3, num_attention_heads=3,
        image_size=side, patch_size=patch,
    )  # fmt: skip
    text = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=384, intermediate_size=768, num_hidden_layers=4,
        num_attention_heads=6, max_position_embeddings=1024, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    made: Any = transformers.LlavaForConditionalGeneration(config)
    process: Any = transformers.LlavaProcessor
    images: Any = transformers.CLIPImageProcessor
    processor = process(
        images(size={"shortest_edge": side}, crop_size={"height": side, "width": side}), words,
        patch_size=patch, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=tiny.TEMPLATE.replace("IMAGE", "<image>"),
    )  # fmt: skip
    made.save_pretrained(folder)
    processor.save_pretrained(folder)
    return open_generative(folder, torch.device("cpu"), Questions(AnswersConfig(), _CLASSES))


_DIFFERENCE = Target("difference", _EXACT, "{limit:.0e}")
_WITHIN = Target("energy", _ENERGY, "{limit:.2f}", least=True)
_SPARED = Target("saved", _SAVED, "{limit:.0%}", least=True)

PAGE = Page(
    name="generative",
    title="Models that write",
    help="Models that write: scores, tokens, what questions share, repairs.",
    parts=(
        Part(
            "families",
            "Scores and tokens, family by family",
            "Tiny models with random weights in the published layout, {films} films of noise and "
            "five questions each. Largest difference of the scores (log-odds) from the logits of "
            "`generate` by the model's own processor; largest difference of the region that is the "
            "whole film from the mean of the tokens, in unit vectors; least share of the energy of "
            "a bright square, planted at four places of a film of 160 x 200, that lies in the "
            "tokens of its box, with attention in the image tower turned off, which would spread "
            "it.",
            (
                Table(
                    (
                        Column("family", "{family}"),
                        *_DIFFERENCE.beside("scores", "{difference:.1e}"),
                        Column("whole film", "{whole:.1e}"),
                        *_WITHIN.beside("square", "{energy:.3f}"),
                    )
                ),
            ),
            measure_families,
            {"films": 3},
        ),
        Part(
            "sharing",
            "What the questions of a film share",
            "A LLaVA with random weights, {parameters:,} of them, most in its decoder, and as many "
            "image tokens as LLaVA 1.5 has: five questions about each of {films} films, processor "
            "time, median of the rounds. The image tower runs once either way. A tiny decoder "
            "behind a larger tower saves less.",
            (
                Table(
                    (
                        Column("questions", "{questions}"),
                        Column("tokens of the image", "{tokens}"),
                        Column("other tokens", "{own}"),
                        Column("shared, s a film", "{shared:.2f}"),
                        Column("one by one", "{alone:.2f}"),
                        *_SPARED.beside("saved", "{saved:.0%}"),
                    )
                ),
            ),
            measure_sharing,
            {"films": 2, "rounds": 3},
        ),
        *answering_models.PARTS,
    ),
)
