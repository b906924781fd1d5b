"""Questions to a model that writes: prompts as its processor makes them, and words of an answer."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ravl_med.config.model import AnswersConfig
from ravl_med.encoders.visual_tokens import FAMILIES
from ravl_med.errors import ModelError

_KEY = "model.answers"
_ORDERS = (" Answer yes or no.", " Answer no or yes.")
_OF_TOKENS = ("token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one class, or about all of them where its answers are their texts."""

    text: str
    of: int  # class; -1: all


@dataclass(frozen=True, slots=True)
class Questions:
    """What a model is asked for a task of C classes."""

    config: AnswersConfig
    classes: Mapping[str, Sequence[str]]  # prompts of each class

    @property
    def digest(self) -> str:
        """SHA-256 of all that an answer can depend on."""
        plain = json.dumps([self.config.model_dump(), [list(p) for p in self.classes.items()]])
        return hashlib.sha256(plain.encode()).hexdigest()

    def wordings(self) -> tuple[str, ...]:
        """Return the question, in other words, and with either order of yes and no."""
        own = self.config.asked
        if self.config.style == "choice":
            return (own,)
        return (own, *self.config.reworded, *(own + order for order in _ORDERS))

    def ask(self, wording: str) -> tuple[Question, ...]:
        """Return the questions in a wording, class by class."""
        if self.config.style == "choice":
            return (Question(wording, -1),)
        return tuple(
            Question(_fill(wording, self.config.asked, prompt), c)
            for c, prompts in enumerate(self.classes.values())
            for prompt in prompts
        )


def _fill(wording: str, own: str, prompt: str) -> str:
    """Put a prompt into a wording; one that is a question stands for all of it but its end."""
    if prompt.rstrip().endswith("?"):
        return prompt + (wording.removeprefix(own) if wording.startswith(own) else "")
    return wording.replace("{}", prompt.strip().rstrip("."))


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A question as the decoder reads it."""

    text: str  # verbatim, one slot standing for all image tokens
    ids: Tensor  # (L,)
    image: Tensor  # (L,) whether an image token stands there
    own: Mapping[str, Tensor] = field(default_factory=dict)  # (1, L) each, by name of an input
    instruction: Tensor | None = None  # (1, I) ids that a Q-Former reads

    def __len__(self) -> int:
        return len(self.ids)

    def blind(self) -> Prompt:
        """Return the question alone, without image."""
        kept = ~self.image
        own = {name: values[:, kept] for name, values in self.own.items()}
        return Prompt(self.text, self.ids[kept], self.image[kept], own, self.instruction)


class PromptWriter:
    """Writes prompts for one model and processor, whose inputs have a side of S pixels."""

    def __init__(self, model: Any, processor: Any, side: int, visual_tokens: int) -> None:
        self._config, self._processor = model.config, processor
        self._tokenizer = processor.tokenizer
        self._film = Image.new("RGB", (side, side), (96, 96, 96))
        self._visual = visual_tokens
        self._image = int(_first(self._config, "image_token_id", "image_token_index"))
        self._context = _context(self._config)

    def write(self, question: str) -> Prompt:
        """Return the prompt of a question.

        Raises
        ------
        ModelError
            The chat template has no slot for an image, or the context is too short.
        """
        text = self._frame(question)
        try:
            with warnings.catch_warnings():  # of transformers about its own calls
                warnings.simplefilter("ignore")
                made = self._processor(text=[text], images=[self._film], return_tensors="pt")
        except (ValueError, IndexError, TypeError) as error:
            raise ModelError(
                f"model.path: the processor makes no input of an image and a question "
                f"({type(error).__name__}); expected the files as they were published."
            ) from None
        ids = made["input_ids"][0]
        image = ids == self._image
        if int(image.sum()) != self._visual:
            raise ModelError(
                f"model.path: the prompt has {int(image.sum())} image tokens, the image tower "
                f"gives {self._visual}; expected as many. "
                + (
                    "The chat template has no slot for an image: lay the one that was published "
                    "with the model into the folder."
                    if not image.any()
                    else "Processor and config.json are of different models."
                )
            )
        if self._context is not None and len(ids) + 1 > self._context:
            raise ModelError(
                f"model.path: a question has {len(ids)} tokens, {self._visual} of them of the "
                f"image, and the model reads {self._context}; expected fewer. Choose a smaller "
                f"{_KEY}.image_size, or a model with a longer context."
            )
        own = {name: made[name] for name in _OF_TOKENS if name in made}
        instruction = made.get("qformer_input_ids")
        return Prompt(text, ids, image, own, instruction)

    def answer_ids(self, prompt: str, text: str) -> Tensor:
        """Return the ids (n,) of a text as the model would write it after a prompt."""
        gap = "" if not prompt or prompt[-1].isspace() or prompt[-1] == ">" else " "
        before = self._encode(prompt)
        after = self._encode(f"{prompt}{gap}{text}")
        if after[: len(before)] == before and len(after) > len(before):
            return torch.tensor(after[len(before) :])
        return torch.tensor(self._encode(text))

    def first_ids(self, prompt: str, words: Sequence[str], key: str) -> Tensor:
        """Return the ids of the tokens that an answer begins with, for words of one token each.

        Raises
        ------
        ModelError
            A word is no single token, or one that the tokenizer does not know.
        """
        found: dict[int, None] = {}
        unknown = self._tokenizer.unk_token_id
        for text in words:
            ways = [self.answer_ids(prompt, text).tolist(), self._encode(text)]
            ways.append(self._encode(f" {text}"))
            single = [way[0] for way in ways if len(way) == 1 and way[0] != unknown]
            if not single:
                shortest = min(ways, key=len)
                what = (
                    "a token that its tokenizer does not know"
                    if len(shortest) == 1
                    else f"{len(shortest)} tokens"
                )
                raise ModelError(
                    f"{_KEY}.{key}: {text[:40]!r} is {what} of this model; expected a word that is "
                    "one token, since the first one decides. Leave it out, or write another."
                )
            found |= dict.fromkeys(single)
        return torch.tensor(list(found))

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _frame(self, question: str) -> str:
        """Put a question into the chat template, or into what the family was trained with."""
        if not getattr(self._processor, "chat_template", None):
            return FAMILIES[self._config.model_type].plain.replace("{}", question)
        content = [{"type": "image"}, {"type": "text", "text": question}]
        try:
            text = self._processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
        except Exception as error:  # jinja2 raises many types here
            raise ModelError(
                f"model.path: the chat template does not take an image with a question "
                f"({type(error).__name__}); expected the one that was published with the model."
            ) from None
        slot = str(getattr(self._processor, "image_token", "<image>"))
        if slot not in text:
            raise ModelError(
                f"model.path: the chat template has no slot for an image ({slot[:40]!r} does not "
                "come up in what it makes). Lay the one that was published with the model into the "
                "folder."
            )
        return str(text)


def _first(config: Any, *names: str) -> Any:
    found = (getattr(config, name, None) for name in names)
    return next(value for value in found if value is not None)


def _context(config: Any) -> int | None:
    """Return how many tokens the decoder reads; None where it does not say."""
    text = config.get_text_config()
    length = getattr(text, "max_position_embeddings", None)
    return None if length is None else int(length)


def shared_length(prompts: Sequence[Prompt]) -> int:
    """Return how many tokens all prompts begin with; each has at least one of its own."""
    shortest = min(len(prompt) for prompt in prompts) - 1
    same = torch.ones(shortest, dtype=torch.bool)
    for prompt in prompts[1:]:
        same &= prompt.ids[:shortest] == prompts[0].ids[:shortest]
    return shortest if bool(same.all()) else int(same.long().argmin())
