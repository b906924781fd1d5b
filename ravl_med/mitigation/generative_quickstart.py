"""The quickstart model that writes: LLaVA's layout at toy size, trained on reports and questions.

A SigLIP tower, a projector and a small Llama decoder over the words of the reports: three million
weights. It learns to write the impression of a film, and to answer yes and no to the questions of
the task, in every wording, by the class that its film has. Its image side starts from weights that
tell the findings of other phantoms apart and see devices: a few hundred films cannot teach that.

What is asked about a film and answered, its report among it, is laid out one after the other behind
the image. Each part sees the image and itself, at the positions that it would have alone, so that
training teaches what `GenerativeEncoder` asks.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ravl_med.config.model import QuickstartModelConfig
from ravl_med.encoders.generative import GenerativeEncoder, open_generative
from ravl_med.encoders.huggingface import quiet
from ravl_med.encoders.questions import Prompt, Questions, shared_length
from ravl_med.mitigation.arms import draw_views, view_films
from ravl_med.mitigation.distributed import make_fabric
from ravl_med.mitigation.quickstart import STD, read_packed
from ravl_med.mitigation.trainer import Task, TrainingConfig, fit

START = Path(__file__).with_name("generative_start.safetensors")
"""Weights of the image side in 8 bits, by ``python -m tests.benchmarks train-generative``."""

_CELLS = 8  # patches a side
_WIDTH, _LAYERS = 192, (4, 3)  # of the tower, and of the decoder
_CONTEXT = 192
_UNSEEN = -1  # of a target that is not learned
_CROPPED = 0.25  # share of films that are cut to a part in the second half of the training
_START_SIDE = 96  # pixels of the input that they were trained at
_SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>")
_TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }} {% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """Something that is asked and answered."""

    asked: Tensor  # (n,) ids after what all prompts begin with
    answer: Tensor  # (m,) ids, the end among them
    share: float = 1.0  # of a film's loss, beside those of its other lessons


@dataclass(frozen=True, slots=True, eq=False)
class PackedLessons:
    """Lessons of B films behind their images, filled up to one length."""

    ids: Tensor  # (B, L) of what all begin with, and of the lessons
    places: Tensor  # (B, L) positions
    targets: Tensor  # (B, L) id that follows; `_UNSEEN`: none is learned
    shares: Tensor  # (B, L) of the loss of a film, 1 in all; a lesson has its own, however long
    mask: Tensor  # (B, 1, L, L) whether a token is seen by another

    @classmethod
    def of(cls, prefix: Tensor, lessons: Sequence[Sequence[Lesson]]) -> PackedLessons:
        """Lay the lessons of each film out behind `prefix`, ids (P,)."""
        rows = [_lay_out(prefix, own) for own in lessons]
        length = max(len(row[0]) for row in rows)
        ids, places, targets, shares, blocks = (
            torch.stack([functional.pad(row[k], (0, length - len(row[k])), value=fill)
                         for row in rows])
            for k, fill in enumerate((0, 0, _UNSEEN, 0, -1))
        )  # fmt: skip
        before = torch.ones(length, length, dtype=torch.bool).tril()
        first = blocks[:, None, :] == 0
        same = blocks[:, :, None] == blocks[:, None, :]
        mask = before & (first | same)
        return cls(ids, places, targets, shares, mask[:, None])


def _lay_out(prefix: Tensor, lessons: Sequence[Lesson]) -> tuple[Tensor, ...]:
    """Return ids, positions, targets, shares and blocks (L,) of one film; block 0 is the prefix."""
    count = len(prefix)
    nothing, all_shares = torch.full_like(prefix, _UNSEEN), sum(one.share for one in lessons)
    parts = [(prefix, torch.arange(count), nothing, torch.zeros(count), torch.zeros_like(prefix))]
    for number, lesson in enumerate(lessons, start=1):
        ids = torch.cat([lesson.asked, lesson.answer[:-1]])
        targets, shares = torch.full_like(ids, _UNSEEN), torch.zeros(len(ids))
        targets[len(lesson.asked) - 1 :] = lesson.answer
        shares[len(lesson.asked) - 1 :] = lesson.share / (len(lesson.answer) * all_shares)
        places = count + torch.arange(len(ids))
        parts.append((ids, places, targets, shares, torch.full_like(ids, number)))
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


class AnsweringModel(nn.Module):
    """A model that writes, as it is trained: inputs and lessons to the loss of each film."""

    def __init__(self, encoder: GenerativeEncoder) -> None:
        super().__init__()
        self.inner: Any = encoder.model
        self._visual = encoder.visual
        prompts = encoder.prompts()
        request = encoder.request
        self.shared = shared_length([*prompts, request])
        self.start: Prompt = prompts[0]
        assert int(self.start.image[: self.shared].sum()) == int(self.start.image.sum())

    def lesson(self, prompt: Prompt, answer: Tensor, share: float = 1.0) -> Lesson:
        """Return what is learned of a prompt and the ids (m,) of its answer."""
        return Lesson(prompt.ids[self.shared :], answer, share)

    def pack(self, lessons: Sequence[Sequence[Lesson]]) -> PackedLessons:
        """Lay out the lessons of films behind what all prompts begin with."""
        return PackedLessons.of(self.start.ids[: self.shared], lessons)

    def forward(self, images: Tensor, packed: PackedLessons) -> Tensor:
        """Return the loss (B,) of inputs (B, 3, S, S).

        That is the cross-entropy of answers, each lesson by its share.
        """
        tokens = self._visual.see(images).tokens
        device = tokens.device
        ids, targets = packed.ids.to(device), packed.targets.to(device)
        image = self.start.image[: self.shared].to(device)
        embedded = self.inner.get_input_embeddings()(
            ids.masked_fill(functional.pad(image, (0, ids.shape[1] - len(image))), 0)
        ).clone()
        embedded[:, : self.shared][:, image] = tokens.to(embedded)
        mask = torch.zeros(packed.mask.shape, dtype=embedded.dtype, device=device)
        mask.masked_fill_(~packed.mask.to(device), torch.finfo(embedded.dtype).min)
        logits = self.inner(
            inputs_embeds=embedded,
            attention_mask=mask,
            position_ids=packed.places.to(device),
            use_cache=False,
        ).logits
        each = functional.cross_entropy(
            logits.transpose(1, 2), targets, ignore_index=_UNSEEN, reduction="none"
        )
        return torch.sum(each * packed.shares.to(each), dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class AnsweredReports:
    """Films to learn from, with what was written of them."""

    films: NDArray[np.float32]  # (N, S, S) one channel of the input
    reports: Sequence[str]  # one sentence or more each
    labels: NDArray[np.int64]  # (N,) class, -1 for none


def starting_weights(config: QuickstartModelConfig) -> Path | None:
    """Return the file of weights that a model starts from; None: from those of its seed."""
    return START if config.image_size == _START_SIDE and not config.retrain else None


def train_generative_model(
    config: QuickstartModelConfig,
    questions: Questions,
    taught: AnsweredReports,
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Train a model that writes, and save it as a folder that transformers opens.

    Raises
    ------
    DataError
        Fewer films than one batch.
    """
    torch.manual_seed(config.seed)
    with tempfile.TemporaryDirectory() as place:
        write_untrained_model(config, questions, taught.reports, Path(place))
        encoder = open_generative(Path(place), torch.device("cpu"), questions)
        _teach(config, encoder, taught, progress)
        encoder.save(folder)


def _teach(
    config: QuickstartModelConfig,
    encoder: GenerativeEncoder,
    taught: AnsweredReports,
    progress: Callable[[int, int], None],
) -> None:
    """Train a model that writes on reports, and on the questions of its task, in place."""
    module = AnsweringModel(encoder)
    teacher = _Teacher(encoder, module, taught)
    training = TrainingConfig(config.epochs, config.batch_size, config.learning_rate, config.seed)
    inputs = torch.from_numpy(taught.films)

    def step(
        model: nn.Module, rows: Tensor, part: slice, epoch: int, generator: torch.Generator
    ) -> Tensor:
        cropped = _CROPPED if 2 * epoch >= config.epochs else 0.0
        seen = view_films(inputs[rows], draw_views(len(rows), cropped, generator))
        images = seen[:, None].expand(-1, 3, -1, -1).contiguous()
        packed = module.pack([teacher.lessons(row, generator) for row in rows.tolist()])
        return torch.mean(model(images, packed))

    fit(
        make_fabric(alone=True),
        module,
        len(taught.films),
        Task(step),
        training,
        progress=lambda done, total, note: progress(done, total),
    )


class _Teacher:
    """Asks for a film's report, its class and all others; each has a third of the loss."""

    def __init__(
        self, encoder: GenerativeEncoder, module: AnsweringModel, taught: AnsweredReports
    ) -> None:
        tokenizer = encoder.tokenizer
        end = torch.tensor([tokenizer.eos_token_id])
        self._labels = taught.labels
        texts = (tokenizer(text.lower(), add_special_tokens=False) for text in taught.reports)
        self._reports = [
            module.lesson(encoder.request, torch.cat([torch.tensor(t["input_ids"]), end]))
            for t in texts
        ]
        questions = encoder.questions
        yes, no = (torch.cat([words[:1], end]) for words in encoder.answer_words)
        # by class, then by wording: the lesson of yes, and that of no
        self._asked: list[list[tuple[Lesson, Lesson]]] = [[] for _ in questions.classes]
        others = 1 / max(len(self._asked) - 1, 1)
        for wording in questions.wordings():
            asked = zip(questions.ask(wording), encoder.prompts(wording), strict=True)
            for question, prompt in asked:
                both = module.lesson(prompt, yes), module.lesson(prompt, no, others)
                self._asked[question.of].append(both)

    def lessons(self, film: int, generator: torch.Generator) -> list[Lesson]:
        """Return the lessons of a film for this time."""
        own, found = int(self._labels[film]), [self._reports[film]]
        for of, asked in enumerate(self._asked if own >= 0 else ()):
            turn = int(torch.randint(len(asked), (1,), generator=generator))
            found.append(asked[turn][0 if of == own else 1])
        return found


def write_untrained_model(
    config: QuickstartModelConfig, questions: Questions, reports: Sequence[str], folder: Path
) -> None:
    """Write a model to be trained, with a processor and a tokenizer of the words that come up."""
    import transformers

    asked = [one.text for wording in questions.wordings() for one in questions.ask(wording)]
    own, patch = questions.config, config.image_size // _CELLS
    words = _tokenizer([*asked, own.request, *own.yes, *own.no, "user assistant :", *reports])
    ids = {name: words.convert_tokens_to_ids(name) for name in _SPECIAL}
    text: dict[str, Any] = {
        "vocab_size": len(words), "hidden_size": _WIDTH, "intermediate_size": 512,
        "num_hidden_layers": _LAYERS[1], "num_attention_heads": 6, "num_key_value_heads": 6,
        "max_position_embeddings": _CONTEXT, "pad_token_id": ids["<pad>"],
        "bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"],
    }  # fmt: skip
    vision: dict[str, Any] = {
        "hidden_size": _WIDTH, "intermediate_size": 512, "num_hidden_layers": _LAYERS[0],
        "num_attention_heads": 6, "image_size": config.image_size, "patch_size": patch,
        "vision_use_head": False,
    }  # fmt: skip
    side = {"height": config.image_size, "width": config.image_size}
    reads: Any = {"size": side, "image_mean": [0.5] * 3, "image_std": [STD] * 3}
    made: Any = transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            vision_config=transformers.SiglipVisionConfig(**vision),
            text_config=transformers.LlamaConfig(**text),
            image_token_index=ids["<image>"],
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
    )
    for name, weight in made.named_parameters():  # transformers' are so small that learning stalls
        if "position_embedding" in name:
            nn.init.normal_(weight, std=0.5)
        elif "projector" in name and weight.ndim == 2:
            nn.init.xavier_normal_(weight, gain=2**0.5)
    start = starting_weights(config)
    if start is not None:
        made.load_state_dict(made.state_dict() | read_packed(start))
    process: Any = transformers.LlavaProcessor
    processor = process(
        transformers.SiglipImageProcessor(**reads),
        words,
        patch_size=patch,
        vision_feature_select_strategy="full",
        chat_template=_TEMPLATE,
    )
    with quiet():
        made.save_pretrained(folder)
        processor.save_pretrained(folder)


def _tokenizer(texts: Sequence[str]) -> Any:
    """Return a tokenizer of the words and marks of some texts, in lower case."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    found = {piece for text in texts for piece in re.findall(r"\w+|[^\w\s]", text.lower())}
    vocabulary = {piece: n for n, piece in enumerate([*_SPECIAL, *sorted(found)])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(list(_SPECIAL))
    begin = [("<s>", vocabulary["<s>"])]
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=begin)
    kind: Any = transformers.PreTrainedTokenizerFast
    return kind(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=_CONTEXT,
        clean_up_tokenization_spaces=True,
    )
