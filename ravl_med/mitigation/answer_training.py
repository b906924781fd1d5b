"""Training of models that write: the answers of a film, all of them in one pass of the decoder.

What is asked about a film and answered, a report among it, is laid out one after the other behind
the image. Each part sees the image and itself, at the positions that it would have alone, so that
training teaches what `GenerativeEncoder` asks. The loss is the cross-entropy of the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ravl_med.encoders.generative import GenerativeEncoder
from ravl_med.encoders.questions import Prompt, shared_length

_UNSEEN = -1  # of a target that is not learned
_IMAGE_SIDE = (
    "vision_tower", "vision_model", "visual", "multi_modal_projector", "connector", "qformer",
    "language_projection", "query_tokens", "image_newline",
)  # fmt: skip
"""Parts of the names of weights that belong to the image tower and its projector."""


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """Something that is asked and answered."""

    asked: Tensor  # (n,) ids after what all prompts begin with
    answer: Tensor  # (m,) ids, the end among them


@dataclass(frozen=True, slots=True, eq=False)
class PackedLessons:
    """Lessons of B films behind their images, filled up to one length."""

    ids: Tensor  # (B, L) of what all begin with, and of the lessons
    places: Tensor  # (B, L) positions
    targets: Tensor  # (B, L) id that follows; `_UNSEEN`: none is learned
    mask: Tensor  # (B, 1, L, L) whether a token is seen by another

    @classmethod
    def of(cls, prefix: Tensor, lessons: Sequence[Sequence[Lesson]]) -> PackedLessons:
        """Lay the lessons of each film out behind `prefix`, ids (P,)."""
        rows = [_lay_out(prefix, own) for own in lessons]
        length = max(len(row[0]) for row in rows)
        ids, places, targets, blocks = (
            torch.stack([functional.pad(row[k], (0, length - len(row[k])), value=fill)
                         for row in rows])
            for k, fill in enumerate((0, 0, _UNSEEN, -1))
        )  # fmt: skip
        before = torch.ones(length, length, dtype=torch.bool).tril()
        first = blocks[:, None, :] == 0
        same = blocks[:, :, None] == blocks[:, None, :]
        mask = before & (first | same)
        return cls(ids, places, targets, mask[:, None])


def _lay_out(prefix: Tensor, lessons: Sequence[Lesson]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ids, positions, targets and blocks (L,) of one film; block 0 is the prefix."""
    count = len(prefix)
    parts = [(prefix, torch.arange(count), torch.full_like(prefix, _UNSEEN), 0)]
    for number, lesson in enumerate(lessons, start=1):
        ids = torch.cat([lesson.asked, lesson.answer[:-1]])
        targets = torch.full_like(ids, _UNSEEN)
        targets[len(lesson.asked) - 1 :] = lesson.answer
        parts.append((ids, count + torch.arange(len(ids)), targets, number))
    blocks = torch.cat([torch.full_like(ids, number) for ids, _, _, number in parts])
    ids, places, targets = zip(*(part[:3] for part in parts), strict=True)
    return torch.cat(ids), torch.cat(places), torch.cat(targets), blocks


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

    def lesson(self, prompt: Prompt, answer: Tensor) -> Lesson:
        """Return what is learned of a prompt and the ids (m,) of its answer."""
        return Lesson(prompt.ids[self.shared :], answer)

    def pack(self, lessons: Sequence[Sequence[Lesson]]) -> PackedLessons:
        """Lay out the lessons of films behind what all prompts begin with."""
        return PackedLessons.of(self.start.ids[: self.shared], lessons)

    def see(self, images: Tensor) -> Tensor:
        """Return the visual tokens of inputs (B, 3, S, S), (B, T, D)."""
        return self._visual.see(images).tokens

    def forward(self, images: Tensor, packed: PackedLessons) -> Any:
        """Return the loss (B,) of films: the mean cross-entropy of their answers."""
        return self.losses(self.see(images), packed)

    def losses(self, tokens: Tensor, packed: PackedLessons) -> Tensor:
        """Return the loss (B,) of what is seen, (B, T, D)."""
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
        learned = (targets != _UNSEEN).sum(dim=1).clamp(min=1)
        losses: Tensor = each.sum(dim=1) / learned
        return losses


class AnswerTower(nn.Module):
    """The image side of a model that writes, as arms train it: its decoder is frozen in place.

    What is taught are the answers to the questions of the task: the share of their first token that
    is the right word, or of the texts of the classes the right one.
    """

    def __init__(self, encoder: GenerativeEncoder) -> None:
        super().__init__()
        self.inner: Any = encoder.model
        self._encoder = encoder
        self.inner.requires_grad_(False)
        for name, parameter in self.inner.named_parameters():
            parameter.requires_grad_(any(part in name for part in _IMAGE_SIDE))

    def forward(
        self, images: Tensor, boxes: list[Tensor] | None = None, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return inputs (B, D), regions (R, D) or None, unit norm, and losses (B,) or None.

        `labels` (B,) are the classes that are taught; -1 teaches nothing.
        """
        seen = self._encoder.visual.see(images)
        own = [images.new_empty(0, 4)] * len(images) if boxes is None else boxes
        whole, regions = self._encoder.visual.pool(seen, own)
        return (
            functional.normalize(whole, dim=-1),
            None if boxes is None else functional.normalize(regions, dim=-1),
            None if labels is None else self._encoder.answer_losses(seen, labels),
        )

    def logits(self, images: Tensor, classes: Tensor, temperature: float) -> Tensor:
        """Return the answers (B, C) to inputs, on the CPU; class texts have no part in them."""
        return self._encoder.answer(images)
