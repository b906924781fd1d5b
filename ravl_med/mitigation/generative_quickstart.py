"""The quickstart model that writes: LLaVA's layout at toy size, trained on reports and questions.

A SigLIP tower, a projector and a small Llama decoder over the words of the reports: three million
weights. It learns to write the impression of a film, and to answer yes and no to the questions of
the task, in every wording, by the class that its film has.
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

from ravl_med.config.model import QuickstartModelConfig
from ravl_med.encoders.generative import GenerativeEncoder, open_generative
from ravl_med.encoders.huggingface import quiet
from ravl_med.encoders.questions import Questions
from ravl_med.mitigation.answer_training import AnsweringModel, Lesson
from ravl_med.mitigation.arms import draw_views, view_films
from ravl_med.mitigation.distributed import make_fabric
from ravl_med.mitigation.trainer import Task, TrainingConfig, fit

_PATCH, _WIDTH, _LAYERS = 16, 192, (4, 3)  # of the tower, and of the decoder
_CONTEXT = 192
_CROPPED = 0.25  # share of films that are cut to a part in the second half of the training
_SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>")
_TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }} {% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@dataclass(frozen=True, slots=True, eq=False)
class AnsweredReports:
    """Films to learn from, with what was written of them."""

    films: NDArray[np.float32]  # (N, S, S) one channel of the input
    reports: Sequence[str]  # one sentence or more each
    labels: NDArray[np.int64]  # (N,) class, -1 for none


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
    with tempfile.TemporaryDirectory() as start:
        _write_folder(config, questions, taught.reports, Path(start))
        encoder = open_generative(Path(start), torch.device("cpu"), questions)
        _train(config, encoder, taught, progress)
        encoder.save(folder)


def _train(
    config: QuickstartModelConfig,
    encoder: GenerativeEncoder,
    taught: AnsweredReports,
    progress: Callable[[int, int], None],
) -> None:
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
        loss: Tensor = model(images, packed).mean()
        return loss

    fit(
        make_fabric(alone=True),
        module,
        len(taught.films),
        Task(step),
        training,
        progress=lambda done, total, note: progress(done, total),
    )


class _Teacher:
    """Draws what is asked about a film: its report, its class, and one that it does not have."""

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
        for wording in questions.wordings():
            asked = zip(questions.ask(wording), encoder.prompts(wording), strict=True)
            for question, prompt in asked:
                both = module.lesson(prompt, yes), module.lesson(prompt, no)
                self._asked[question.of].append(both)

    def lessons(self, film: int, generator: torch.Generator) -> list[Lesson]:
        """Return the lessons of a film for this time."""
        own, found = int(self._labels[film]), [self._reports[film]]
        if own < 0:
            return found

        def draw(count: int) -> int:
            return int(torch.randint(count, (1,), generator=generator))

        other = (own + 1 + draw(len(self._asked) - 1)) % len(self._asked)
        right, wrong = (self._asked[c] for c in (own, other))
        return [*found, right[draw(len(right))][0], wrong[draw(len(wrong))][1]]


def _write_folder(
    config: QuickstartModelConfig, questions: Questions, reports: Sequence[str], folder: Path
) -> None:
    """Write an untrained model with a processor and a tokenizer of the words that come up."""
    import transformers

    asked = [one.text for wording in questions.wordings() for one in questions.ask(wording)]
    own = questions.config
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
        "num_attention_heads": 6, "image_size": config.image_size, "patch_size": _PATCH,
        "vision_use_head": False,
    }  # fmt: skip
    side = {"height": config.image_size, "width": config.image_size}
    made: Any = transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            vision_config=transformers.SiglipVisionConfig(**vision),
            text_config=transformers.LlamaConfig(**text),
            image_token_index=ids["<image>"],
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
    )
    process: Any = transformers.LlavaProcessor
    processor = process(
        transformers.SiglipImageProcessor(size=side),
        words,
        patch_size=_PATCH,
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
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    kind: Any = transformers.PreTrainedTokenizerFast
    return kind(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=_CONTEXT,
    )
