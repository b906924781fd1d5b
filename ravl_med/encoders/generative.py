"""Hugging Face folders of models that write (image-text-to-text), offline, scored without sampling.

A film is asked about each class, and the answer is read off the logits of its first token: log-odds
of the yes-words against the no-words. Or the texts of the classes are the answers, and each has the
log-likelihood of its tokens, by their number. What questions of one film have in common, all of
its image tokens among it, goes through the decoder once, where that reads left to right.
"""

from __future__ import annotations

import copy
import inspect
import math
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ravl_med.encoders import local_files
from ravl_med.encoders.base import EncoderInfo
from ravl_med.encoders.huggingface import quiet
from ravl_med.encoders.model_config import (
    AreaImages,
    HuggingFaceImages,
    HuggingFaceTokenizer,
    machine_memory,
    require_bounded_numbers,
    require_room_for,
    require_valid,
)
from ravl_med.encoders.questions import Prompt, PromptWriter, Questions, shared_length
from ravl_med.encoders.visual_tokens import FAMILIES, Seen, VisualTokens, open_visual_tokens
from ravl_med.errors import ModelError
from ravl_med.regions.geometry import InputGeometry
from ravl_med.storage.bounded_reading import open_regular, parse_json

_KEY = "model.path"
_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}  # else bfloat16
_LONGEST_HEAD, _MOST_SIDES = 100_000_000, 16  # bytes of a safetensors head; sides of a tensor
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")
_TOKENIZER = "tokenizer_config.json"
_FILES = ("*.json", "*.model", "*.txt", "*.jinja", "*.py")  # beside the weights
_REGIONS = 16  # of a film that are asked about at once
_POOLING = "mean of the visual tokens of a region, after the projector"
_POOLING_QUERIES = "mean of what the model's queries read off the patches of a region"


class GenerativeEncoder:
    """A model of transformers that answers questions about films, as an `Encoder`.

    ``info.answers`` is the number of classes C that it scores itself.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        visual: VisualTokens,
        questions: Questions,
        folder: Path,
        device: torch.device,
    ) -> None:
        self.model, self.device = model.eval().to(device), device
        self.visual, self.questions = visual, questions
        self._processor, self._folder = processor, folder
        self._family = FAMILIES[model.config.model_type]
        with torch.inference_mode():
            blank = self._blank(visual.film.size)
            seen = visual.see(blank)
        self._writer = PromptWriter(model, processor, visual.film.size, seen.tokens.shape[1])
        self._decoder = _Decoder(model, self._family.shares)
        self._asked: dict[str, tuple[Prompt, ...]] = {}
        digests = _digests(folder)
        digests["answers"] = questions.digest
        self.info = EncoderInfo(
            architecture=_architecture(model, seen.tokens.shape[1]),
            digest=local_files.join_digests([*digests.values(), str(model.dtype)]),
            image_size=visual.film.size,
            resize_mode=visual.film.mode,  # type: ignore[arg-type]
            mean=visual.film.mean,
            std=visual.film.std,
            region_pooling=_POOLING_QUERIES if self._family.queries else _POOLING,
            embedding_size=int(seen.tokens.shape[2]),
            parameters=sum(p.numel() for p in model.parameters()),
            digests=digests,
            answers=len(questions.classes),
        )
        self.prompts(questions.config.asked)  # bad questions and words are refused before all work
        self.answer_words = self._find_words()  # ids of the yes-words, and of the no-words

    def preprocess(self, pixels: NDArray[np.float32]) -> Tensor:
        """Turn a film (H, W) of 0 .. 1 into the model's input, float32 of shape (3, S, S)."""
        return self.visual.film(pixels)

    def geometry(self, height: int, width: int) -> InputGeometry:
        """Return the mapping of boxes from a stored film of that size to the input."""
        return self.visual.film.geometry(height, width)

    @torch.inference_mode()
    def encode_image(self, images: Tensor) -> Tensor:
        """Return the mean visual token of inputs (B, 3, S, S) as (B, D), unit norm."""
        return self.encode_regions(images, [torch.empty(0, 4)] * len(images))[0]

    @torch.inference_mode()
    def encode_regions(self, images: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embed inputs (B, 3, S, S) as (B, D) and their regions as (sum of r_i, D), unit norm."""
        whole, regions = self.visual.pool(self._see(images), boxes)
        return functional.normalize(whole.float(), dim=-1), functional.normalize(
            regions.float(), dim=-1
        )

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Return the mean token of texts, as the decoder reads them, as (T, D), unit norm."""
        embed = self.model.get_input_embeddings()
        means = [embed(self._writer.answer_ids("", t).to(self.device)).mean(dim=0) for t in texts]
        return functional.normalize(torch.stack(means).float(), dim=-1)

    @torch.inference_mode()
    def answer(self, images: Tensor, wording: str | None = None) -> Tensor:
        """Score the classes for inputs (B, 3, S, S): logits (B, C), float32.

        `wording` is one of `Questions.wordings`, the first one if it is None.
        """
        logits = self._score(self._see(images), self.prompts(wording))
        if self.questions.config.blank_corrected:
            logits = logits - self.blank_answer.to(logits)
        return logits.cpu()

    @cached_property
    def blank_answer(self) -> Tensor:
        """What is answered to a film of one gray, logits (C,)."""
        with torch.inference_mode():
            return self._score(self._see(self._blank(self.info.image_size)), self.prompts())[0]

    def answer_losses(self, seen: Seen, labels: Tensor) -> Tensor:
        """Return the cross-entropy (B,) of the answers for films of classes (B,), with gradients.

        It is the mean over the questions of the task; 0 for a film without a class, -1.
        """
        tokens, prompts = self._seen_by(seen), self.prompts()
        if self.questions.config.style == "choice":
            scores = self._decoder.likelihoods(tokens, prompts[0], self._class_answers())
            return functional.cross_entropy(scores, labels, reduction="none", ignore_index=-1)
        yes, no = (words.to(labels.device) for words in self.answer_words)
        asked = self.questions.ask(self.questions.config.asked)
        losses = torch.zeros(len(labels), device=labels.device)
        for question, logits in zip(asked, self._decoder.first(tokens, prompts), strict=True):
            share = logits.log_softmax(dim=1)
            right = torch.where(
                labels == question.of, share[:, yes].logsumexp(dim=1), share[:, no].logsumexp(dim=1)
            )
            losses = losses - right / len(asked)
        return torch.where(labels >= 0, losses, 0.0)

    @torch.inference_mode()
    def answer_regions(self, images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Score the classes for regions of inputs, logits (sum of r_i, C).

        The tokens of a region are kept; all others are the mean token of the input.
        """
        seen, prompts = self._see(images), self.prompts()
        scores = [torch.empty(0, self.info.answers)]
        for film, own in enumerate(boxes):
            for part in torch.split(own, _REGIONS) if len(own) else ():
                kept = self.visual.keep(seen, film, part.to(self.device))
                scores.append(self._score(Seen(kept), prompts).cpu())
        return torch.cat(scores)

    @torch.inference_mode()
    def answer_blind(self) -> Tensor:
        """Score the classes without an image, by the questions alone: logits (C,)."""
        prompts = tuple(prompt.blind() for prompt in self.prompts())
        empty = torch.empty(1, 0, self.info.embedding_size, dtype=self.model.dtype)
        return self._score(Seen(empty.to(self.device)), prompts)[0].cpu()

    @torch.inference_mode()
    def write(self, images: Tensor, question: str | None = None) -> list[str]:
        """Write an answer to inputs (B, 3, S, S), greedily: to a question, or the report."""
        config = self.questions.config
        prompt = self._writer.write(question) if question else self.request
        seen = self._see(images, prompt)
        ids = self._decoder.write(prompt, seen.tokens, config.max_tokens)
        texts = self._processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def prompts(self, wording: str | None = None) -> tuple[Prompt, ...]:
        """Return the prompts of a wording, the first one if it is None."""
        wording = wording or self.questions.config.asked
        if wording not in self._asked:
            asked = self.questions.ask(wording)
            self._asked[wording] = tuple(self._writer.write(one.text) for one in asked)
        return self._asked[wording]

    @cached_property
    def request(self) -> Prompt:
        """The prompt that a report is asked for by."""
        return self._writer.write(self.questions.config.request)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the decoder."""
        return self._processor.tokenizer

    def first_shares(self, images: Tensor) -> Tensor:
        """Return the share of the first token that is a yes- or a no-word, (B, questions)."""
        with torch.inference_mode():
            seen, words = self._see(images), torch.cat(self.answer_words).to(self.device)
            logits = self._decoder.first(self._seen_by(seen), self.prompts())
            return torch.stack([one.softmax(1)[:, words].sum(1) for one in logits], dim=1).cpu()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights under the names of transformers."""
        return dict(self.model.state_dict())

    def save(self, folder: Path) -> None:
        """Write the model, as it is now, into a folder that `open_generative` opens."""
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in _FILES:
            for path in self._folder.glob(pattern):
                if not path.name.endswith(".index.json"):
                    shutil.copyfile(path, folder / path.name)
        with quiet():
            self.model.save_pretrained(folder)

    def _see(self, images: Tensor, prompt: Prompt | None = None) -> Seen:
        images = images.to(self.device)
        given = images if images.dtype == self.model.dtype else images.to(self.model.dtype)
        return self.visual.see(given, None if prompt is None else prompt.instruction)

    def _blank(self, side: int) -> Tensor:
        film = self.visual.film
        mean, std = (torch.tensor(v)[:, None, None] for v in (film.mean, film.std))
        gray = torch.full((3, side, side), 0.5)
        return ((gray - mean) / std)[None].to(self.device, self.model.dtype)

    def _seen_by(self, seen: Seen) -> Any:
        """Return what gives the tokens (B, T, D) that belong to a prompt."""

        def tokens(prompt: Prompt) -> Tensor:
            if prompt.instruction is None or seen.patches is None:
                return seen.tokens
            return self.visual.ask(seen, prompt.instruction)

        return tokens

    def _score(self, seen: Seen, prompts: Sequence[Prompt]) -> Tensor:
        """Score the classes for what is seen: logits (B, C)."""
        tokens = self._seen_by(seen)
        if self.questions.config.style == "choice":
            return self._decoder.likelihoods(tokens, prompts[0], self._class_answers())
        yes, no = (words.to(self.device) for words in self.answer_words)
        odds = torch.stack(
            [
                one[:, yes].logsumexp(dim=1) - one[:, no].logsumexp(dim=1)
                for one in self._decoder.first(tokens, prompts)
            ],
            dim=1,
        )
        of = torch.tensor([q.of for q in self.questions.ask(self.questions.config.asked)])
        means = [odds[:, of == c].mean(dim=1) for c in range(self.info.answers)]
        return torch.stack(means, dim=1)

    def _find_words(self) -> tuple[Tensor, Tensor]:
        config, prompt = self.questions.config, self.prompts()[0].text
        if config.style == "choice":
            return torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)
        return (
            self._writer.first_ids(prompt, config.yes, "yes"),
            self._writer.first_ids(prompt, config.no, "no"),
        )

    def _class_answers(self) -> list[list[Tensor]]:
        """Return the ids of the texts of each class."""
        prompt = self.prompts()[0].text
        return [
            [self._writer.answer_ids(prompt, text) for text in texts]
            for texts in self.questions.classes.values()
        ]


class _Decoder:
    """The decoder of a model, which reads prompts with visual tokens in their place."""

    def __init__(self, model: Any, shares: bool) -> None:
        self._model = model
        # BLIP's decoder is a whole model of its own.
        self._whole = model.language_model if hasattr(model, "language_projection") else model
        self._encodes = bool(self._whole.config.is_encoder_decoder)
        self._shares = shares and not self._encodes
        known = inspect.signature(self._whole.forward).parameters
        self._cache = "cache" if "cache" in known else "past_key_values"
        self._known = known

    def first(self, tokens: Any, prompts: Sequence[Prompt]) -> list[Tensor]:
        """Return the logits (B, V) of the first token of the answer to each prompt."""
        if not self._keeps() or len(prompts) == 1:
            return [self._last(prompt, tokens(prompt), 1)[:, -1] for prompt in prompts]
        common = shared_length(prompts)
        seen = tokens(prompts[0])
        if not bool(prompts[0].image[:common].sum() == prompts[0].image.sum()):
            return [self._last(prompt, seen, 1)[:, -1] for prompt in prompts]
        cache = self._new_cache()
        self._read(prompts[0], seen, slice(0, common), cache)
        return [
            self._read(one, seen, slice(common, len(one)), _branch(cache))[:, -1].float()
            for one in prompts
        ]

    def likelihoods(
        self, tokens: Any, prompt: Prompt, answers: Sequence[Sequence[Tensor]]
    ) -> Tensor:
        """Return the mean log-likelihood of the tokens of answers, the mean of each class, (B, C).

        `answers` are the ids of the texts of each class.
        """
        seen = tokens(prompt)
        state = self._start(prompt, seen)
        means = []
        for texts in answers:
            each = [self._likelihood(prompt, seen, ids.to(seen.device), state) for ids in texts]
            means.append(torch.stack(each).mean(dim=0))
        return torch.stack(means, dim=1)

    def write(self, prompt: Prompt, tokens: Tensor, most: int) -> Tensor:
        """Return the ids (B, n) of the likeliest next tokens, one by one, up to the end."""
        ends = self._ends(tokens.device)
        state = self._start(prompt, tokens)
        logits = self._follow(prompt, tokens, None, state)
        written: list[Tensor] = []
        done = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        while len(written) < most:
            following = logits[:, -1].argmax(dim=-1)
            following = torch.where(done, ends[0], following)
            written.append(following)
            done |= torch.isin(following, ends)
            if bool(done.all()):
                break
            logits = self._follow(prompt, tokens, torch.stack(written, dim=1), state)
        return torch.stack(written, dim=1)

    def _keeps(self) -> bool:
        """Whether a cache is filled: layers whose gradients are checkpointed leave it empty."""
        if not (self._shares and self._whole.training and torch.is_grad_enabled()):
            return self._shares
        parts = self._whole.modules()
        return not any(getattr(part, "gradient_checkpointing", False) for part in parts)

    def _start(self, prompt: Prompt, tokens: Tensor) -> Any:
        """Read what comes before the last token of a prompt; None where nothing is kept of it."""
        if self._encodes:
            embedded = self._embed(prompt, tokens, slice(0, len(prompt)))
            mask = torch.ones(embedded.shape[:2], dtype=torch.long, device=embedded.device)
            encoder = self._whole.get_encoder()
            read = encoder(inputs_embeds=embedded, attention_mask=mask, use_cache=False)
            return read, mask
        if not self._keeps():
            return None
        cache = self._new_cache()
        self._read(prompt, tokens, slice(0, len(prompt) - 1), cache)
        return cache

    def _follow(self, prompt: Prompt, tokens: Tensor, ids: Tensor | None, state: Any) -> Tensor:
        """Return the logits (B, 1 + n, V) after a prompt and ids (B, n) that were written."""
        count = 0 if ids is None else ids.shape[1]
        if self._encodes:
            begin = self._begin(len(tokens), tokens.device)
            given = begin if ids is None else torch.cat([begin, ids], dim=1)
            read, mask = state
            logits: Tensor = self._whole(
                encoder_outputs=read, attention_mask=mask, decoder_input_ids=given, use_cache=False
            ).logits
            return logits[:, begin.shape[1] - 1 :].float()
        if state is None:
            return self._last(prompt, tokens, 1 + count, ids)
        last = len(prompt) - 1
        part = slice(last, last + 1 + count)
        return self._read(prompt, tokens, part, _branch(state), ids).float()

    def _likelihood(self, prompt: Prompt, tokens: Tensor, ids: Tensor, state: Any) -> Tensor:
        """Return the mean log-likelihood (B,) of ids (n,) after a prompt."""
        given = ids.expand(len(tokens), -1)
        logits = self._follow(prompt, tokens, given[:, :-1] if len(ids) > 1 else None, state)
        each = logits.log_softmax(dim=-1).gather(2, given[:, :, None])[:, :, 0]
        return each.mean(dim=1)

    def _last(self, prompt: Prompt, tokens: Tensor, keep: int, ids: Tensor | None = None) -> Tensor:
        """Return the last logits (B, keep, V) of a prompt that is read at once."""
        if self._encodes:
            return self._follow(prompt, tokens, ids, self._start(prompt, tokens))
        count = 0 if ids is None else ids.shape[1]
        whole = slice(0, len(prompt) + count)
        return self._read(prompt, tokens, whole, None, ids)[:, -keep:].float()

    def _read(
        self, prompt: Prompt, tokens: Tensor, part: slice, cache: Any, ids: Tensor | None = None
    ) -> Tensor:
        """Read a part of a prompt, followed by ids (B, n), after what the cache holds."""
        embedded = self._embed(prompt, tokens, part)
        if ids is not None:
            more = self._model.get_input_embeddings()(ids)
            embedded = torch.cat([embedded, more.to(embedded)], dim=1)
        batch = len(embedded)
        ones = torch.ones(batch, part.stop, dtype=torch.long, device=embedded.device)
        given: dict[str, Any] = {"inputs_embeds": embedded, "attention_mask": ones}
        given |= {"use_cache": cache is not None} | ({} if cache is None else {self._cache: cache})
        kinds = prompt.own.get("token_type_ids")
        if kinds is not None and "token_type_ids" in self._known and part.start == 0:
            written = kinds.new_full((1, part.stop - kinds.shape[1]), 1) if (
                part.stop > kinds.shape[1]
            ) else kinds[:, :0]  # fmt: skip
            own = torch.cat([kinds, written], dim=1)[:, part]
            given["token_type_ids"] = own.expand(batch, -1).to(embedded.device)
        places = self._places(prompt, part.stop)
        if places is not None:
            given["position_ids"] = places[:, :, part].expand(-1, batch, -1).to(embedded.device)
        logits: Tensor = self._whole(**given).logits
        return logits

    def _places(self, prompt: Prompt, length: int) -> Tensor | None:
        """Return the positions (3, 1, L) of models whose image tokens have a row and a column."""
        inner: Any = getattr(self._model, "model", None)
        if not hasattr(inner, "get_rope_index") or "mm_token_type_ids" not in prompt.own:
            return None
        step = self._model.config.vision_config.spatial_merge_size
        count = round(float(prompt.image.sum()) ** 0.5) * step
        grid = torch.tensor([[1, count, count]]) if prompt.image.any() else None
        places, delta = inner.get_rope_index(
            prompt.ids[None].to("cpu"),
            mm_token_type_ids=prompt.own["mm_token_type_ids"].cpu(),
            image_grid_thw=grid,
        )
        more = torch.arange(len(prompt), max(length, len(prompt))) + int(delta)
        return torch.cat([places.cpu(), more.expand(3, 1, -1)], dim=2)

    def _embed(self, prompt: Prompt, tokens: Tensor, part: slice) -> Tensor:
        """Return a part of a prompt with its visual tokens, (B, L, D)."""
        embed, device = self._model.get_input_embeddings(), tokens.device
        image = prompt.image[part]
        ids = prompt.ids[part].masked_fill(image, 0).to(device)
        embedded: Tensor = embed(ids)[None].expand(len(tokens), -1, -1)
        if image.any():
            first = int(prompt.image[: part.start].sum())
            own = tokens[:, first : first + int(image.sum())]
            embedded = embedded.clone()
            embedded[:, image.to(device)] = own.to(embedded)
        return embedded

    def _begin(self, batch: int, device: torch.device) -> Tensor:
        """Return what a decoder with an encoder begins with, (B, n)."""
        text, written = self._whole.config.get_text_config(decoder=True), self._whole
        chosen = getattr(written, "generation_config", None)
        begin = [
            getattr(chosen, name, None) or getattr(text, name, None)
            for name in ("decoder_start_token_id", "forced_bos_token_id")
        ]
        ids = [one for one in begin if one is not None]
        return torch.tensor([ids], device=device).expand(batch, -1)

    def _ends(self, device: torch.device) -> Tensor:
        chosen = getattr(self._whole, "generation_config", None)
        text = self._whole.config.get_text_config(decoder=True)
        found = getattr(chosen, "eos_token_id", None)
        found = getattr(text, "eos_token_id", None) if found is None else found
        return torch.tensor(found if isinstance(found, list) else [found], device=device)

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self._whole.config.get_text_config(decoder=True))


def _branch(cache: Any) -> Any:
    """Return a cache to read on in: its layers take other tensors, and the first keeps its own."""
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    return branch


def open_generative(
    folder: Path,
    device: torch.device,
    questions: Questions,
    *,
    precision: str = "fp32",
    allow_code: bool = False,
) -> GenerativeEncoder:
    """Open a folder of an image-text-to-text model without touching the network.

    Raises
    ------
    ModelError
        The folder is of another kind, asks for code of its own, lacks a file or holds a wrong one;
        its weights do not fit into memory; or it cannot be asked these questions.
    """
    import transformers

    config = local_files.read_json(folder / "config.json", _KEY)
    kind = str(config.get("model_type"))
    if "auto_map" in config and not allow_code and kind not in FAMILIES:
        raise ModelError(
            f"{_KEY}: config.json asks for code of its own (auto_map); refused. Set "
            "model.allow_code to true if you trust it."
        )
    if kind not in FAMILIES:
        raise ModelError(
            f"{_KEY}: config.json is of a {kind[:40]!r}; with model.answers it has to be one of "
            f"{', '.join(FAMILIES)}. Leave model.answers out for a contrastive model."
        )
    require_bounded_numbers(config, _KEY, "config.json")
    _require_memory(folder, device, precision)
    images = AreaImages if kind.startswith("qwen") else HuggingFaceImages
    for name in (*_PROCESSORS, _TOKENIZER):
        if (folder / name).is_file():
            given = local_files.read_json(folder / name, _KEY)
            wanted = HuggingFaceTokenizer if name == _TOKENIZER else images
            require_valid(wanted, given.get("image_processor", given), _KEY, name)
    processor = _open_processor(folder, allow_code)
    own = allow_code and "auto_map" in config
    model = _load(folder, transformers.AutoModelForImageTextToText, precision, own)
    visual = open_visual_tokens(model, processor, questions.config.image_size)
    return GenerativeEncoder(model, processor, visual, questions, folder, device)


def _open_processor(folder: Path, allow_code: bool) -> Any:
    import transformers

    if not any((folder / name).is_file() for name in _PROCESSORS):
        raise ModelError(
            f"{_KEY}: the folder has no processor ({' or '.join(_PROCESSORS)}), which says how the "
            "model wants images and questions. Lay the one that was published with the model "
            "beside config.json."
        )
    kind: Any = transformers.AutoProcessor
    try:
        with quiet(), local_files.no_network():
            processor = kind.from_pretrained(
                folder, local_files_only=True, trust_remote_code=allow_code
            )
    except ImportError as error:
        raise ModelError(
            f"{_KEY}: the processor needs a package that is not installed "
            f"({_package(str(error))}). Install it."
        ) from None
    except Exception as error:  # transformers and tokenizers raise many types here
        raise ModelError(
            f"{_KEY}: the processor in the folder does not open ({type(error).__name__}); expected "
            "the files as they were published, without code of their own."
        ) from None
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ModelError(
            f"{_KEY}: the processor in the folder has no "
            f"{'tokenizer' if hasattr(processor, 'image_processor') else 'image processor'}; "
            "expected the one that was published with the model."
        )
    return processor


def _package(message: str) -> str:
    quoted = message.split("`")
    return quoted[1][:40] if len(quoted) > 1 else message[:60]


def _load(folder: Path, kind: Any, precision: str, allow_code: bool) -> Any:
    """Load the weights, all of them and nothing else."""
    import transformers

    try:
        with quiet(), local_files.no_network():
            if not allow_code:  # what is trusted may do more than build
                config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
                least = max(_BYTES[precision], 2)
                require_room_for(lambda: kind.from_config(config), _KEY, least)
            model, report = kind.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=allow_code,
                use_safetensors=True,
                output_loading_info=True,
                dtype=_DTYPES.get(precision, torch.bfloat16),
                attn_implementation="sdpa",
            )
    except ModelError:
        raise
    except Exception as error:  # transformers, torch and safetensors raise many types here
        raise ModelError(
            f"{_KEY}: the weights do not open as the model that config.json describes "
            f"({type(error).__name__}); expected model.safetensors, in one file or several, as it "
            "was published."
        ) from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{_KEY}: the weights do not open as the model that config.json describes: "
            f"{len(missing)} are missing ({', '.join(missing[:3])})."
        )
    local_files.require_finite(model, _KEY)
    return quantise(model) if precision == "int8" else model


def _weights(folder: Path) -> list[Path]:
    found = sorted(folder.glob("model*.safetensors"))
    if not found:
        raise ModelError(
            f"{_KEY}: no safetensors in the folder; expected model.safetensors, in one file or "
            "several. Other weights of generative models are not opened."
        )
    return found


def _require_memory(folder: Path, device: torch.device, precision: str) -> None:
    """Refuse weights that do not fit, before they are loaded."""
    weights = sum(_count_weights(path) for path in _weights(folder))
    loaded = max(_BYTES[precision], 2)  # of int8, while they are read
    free = free_memory(device)
    if weights * loaded <= free:
        return
    smaller = [name for name, size in _BYTES.items() if weights * max(size, 2) <= free]
    cure = f"Take model.precision: {smaller[0]}, or" if smaller else "Take"
    raise ModelError(
        f"{_KEY}: the weights take {weights * loaded / 1e9:.1f} GB in {precision}, and "
        f"{free / 1e9:.1f} GB are free on {device.type}; expected more memory than that. {cure} a "
        "larger machine."
    )


def _count_weights(path: Path) -> int:
    """Return how many numbers a file of safetensors holds, by its description alone."""
    try:
        with open_regular(path) as stream:
            length = int.from_bytes(stream.read(8), "little")
            described = parse_json(stream.read(length if length <= _LONGEST_HEAD else 0))
        shapes = [v["shape"] for name, v in described.items() if name != "__metadata__"]
        return sum(math.prod(map(int, shape[:_MOST_SIDES])) for shape in shapes)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError):
        raise ModelError(
            f"{_KEY}: {path.name} is no safetensors file, or is cut short; fetch it again."
        ) from None


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as stream:
            lines = dict(line.split(":", 1) for line in stream)
        available = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, ValueError, LookupError):
        return machine_memory()
    return min(available, machine_memory())


class Int8Linear(nn.Module):
    """A linear layer whose weights are int8, with a scale for each row."""

    weight: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        scale = layer.weight.detach().float().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        rounded = (layer.weight.detach().float() / scale).round().to(torch.int8)
        self.register_buffer("weight", rounded)
        self.register_buffer("scale", scale.to(layer.weight.dtype))
        self.bias = layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply with the weights as they were, to 8 bits."""
        weight = self.weight.to(inputs.dtype) * self.scale.to(inputs.dtype)
        return functional.linear(inputs, weight, self.bias)


def quantise(model: Any) -> Any:
    """Put int8 weights in place of those of all linear layers but the last, which gives logits."""
    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer is not head:
                setattr(parent, name, Int8Linear(layer))
    return model


def _digests(folder: Path) -> dict[str, str]:
    described = [path for p in _FILES[:1] for path in sorted(folder.glob(p))]
    described += sorted(folder.glob("*.jinja"))
    tokenizer = local_files.tokenizer_files(folder)
    own = [path for path in described if path not in tokenizer]
    return {
        "weights": local_files.digest_files(_weights(folder)),
        "config": local_files.digest_files(own),
        "tokenizer": local_files.digest_files(tokenizer),
    }


def _architecture(model: Any, tokens: int) -> str:
    config = model.config
    text = config.get_text_config(decoder=True)
    layers = getattr(text, "num_hidden_layers", None) or getattr(text, "decoder_layers", "?")
    width = getattr(text, "hidden_size", None) or getattr(text, "d_model", "?")
    return (
        f"Hugging Face {FAMILIES[config.model_type].title}, which writes: {tokens} visual tokens a "
        f"film, decoder {layers} layers x {width}"
    )
