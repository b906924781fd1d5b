"""What a model that writes says of a cohort: its answers as scores of films and of regions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from ravl_med.cohort.manifest import Cohort
from ravl_med.config.cohort import LabelsConfig
from ravl_med.config.loading import Config
from ravl_med.discovery.ravl import AuditData
from ravl_med.encoders.base import Encoder, answering
from ravl_med.encoders.embeddings import Embeddings
from ravl_med.encoders.generative import GenerativeEncoder
from ravl_med.encoders.zero_shot import Scores, score_answers
from ravl_med.evidence.audit_result import ModelCheck, TaskSummary, WrittenPair
from ravl_med.evidence.confirmation import split_patients
from ravl_med.evidence.counterfactual import CounterfactualModel
from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.labelling.film_labels import cells_from_reports, label_films
from ravl_med.labelling.findings import chest_labeller

_LEAST_SHARE = 0.5  # of the first token that is one of the answer words
_TIE = 1e-6  # log-odds
_REFUSAL = re.compile(
    r"\b(i('m| am) (sorry|unable|not able)|i (cannot|can't|can not)|as an ai\b|unable to (provide|"
    r"analy[sz]e|interpret|diagnose))",
    re.IGNORECASE,
)
_NUMBERS = re.compile(r"\d[\d/.:,-]*")
_CAPITAL = r"[^\W\d_a-zß-öø-ÿ]"
_PARTICLE = r"(?:van|von|der|den|de|del|della|di|da|dos|du|la|le|el|al|bin|ter|ten|zu)"
_TITLED = re.compile(
    r"\b((?i:dr|mrs?|ms|prof|doctor|patient|name|(?:signed|dictated|read|reviewed|verified) by)\b"
    rf"[.:]?)(?:[\s,]+(?:{_PARTICLE}\s+)*{_CAPITAL}(?:\.(?=\s)|[\w'’-]*))+"
)
_WRITTEN = 5  # correlations whose films are written of
_READ = LabelsConfig(blank="negative", uncertain="positive")
"""How a report that a model wrote is read: what it leaves out is not there, a doubt is."""


@dataclass(frozen=True, slots=True, eq=False)
class AnsweredFilms:
    """The films of a cohort, and the model that was asked about them."""

    cohort: Cohort  # N films
    embeddings: Embeddings  # of these, with their answers
    encoder: GenerativeEncoder
    read: Callable[[int], NDArray[np.float32]]  # film to the model's input (3, S, S)

    @classmethod
    def of(
        cls,
        cohort: Cohort,
        embeddings: Embeddings,
        encoder: Encoder,
        read: Callable[[int], NDArray[np.float32]],
    ) -> AnsweredFilms:
        """Take an encoder that is known to answer."""
        return cls(cohort, embeddings, cast(GenerativeEncoder, encoder), read)

    def batches(self, films: Iterable[int], size: int) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Give films, and their inputs (b, 3, S, S), batch by batch."""
        stream = iter(films)
        while part := list(islice(stream, size)):
            yield part, torch.from_numpy(np.stack([self.read(film) for film in part]))


def score_answered(
    config: Config, films: AnsweredFilms, progress: Callable[[int, int], None]
) -> Scores:
    """Score films by what the model answers, and regions of wrongly called ones by asking again.

    Where the model writes reports, a film is called as its report says.
    """
    answers = films.embeddings.answers
    asked = config.model.answers
    assert answers is not None
    assert asked is not None
    called = answers.argmax(axis=1).astype(np.int64)
    if asked.style == "report":
        called = call_by_reports(config, films, answers, progress)
    regions = ask_regions(config, films, called, progress)
    return replace(score_answers(answers, regions, config.task.scores), predictions=called)


def write_pairs(
    model: CounterfactualModel,
    data: AuditData,
    correlations: Sequence[SpuriousCorrelation],
    images: Sequence[str],  # (N,) pseudonyms
) -> tuple[WrittenPair, ...] | None:
    """Let the model write of a film with each feature that counts, and of it without.

    The film is the one on which removal does most. None for a model that writes nothing.
    """
    if answering(model.encoder) is None:
        return None
    encoder, fill = cast(GenerativeEncoder, model.encoder), model.like_places(data).fill
    pairs = []
    for one in [c for c in correlations if c.counts and len(c.order)][:_WRITTEN]:
        at = int(one.order[0])
        film = int(data.region_image[one.cluster.regions[at]])
        height, width = data.sizes[film].tolist()
        box = encoder.geometry(height, width).to_input(one.located_boxes[[at]])[0]
        if np.isfinite(box).all():
            shown = torch.from_numpy(np.stack([model.read(film), fill(film, box)]))
            before, after = (mask_identities(text) for text in encoder.write(shown))
            pairs.append(WrittenPair(one.rank, images[film], before, after))
    return tuple(pairs)


def mask_identities(text: str) -> str:
    """Return what a model wrote without numbers and without what follows a title.

    A model may write down what it was trained on.
    """
    return _NUMBERS.sub("#", _TITLED.sub(r"\1 #", text))


@dataclass(frozen=True, slots=True, eq=False)
class RewordedAnswers:
    """What a model that writes says to its questions in other words, and without any film."""

    wordings: Mapping[str, Callable[[Iterable[NDArray[np.float32]]], NDArray[np.float32]]]
    blind: NDArray[np.float32] | None  # (C,)


def reworded_answers(encoder: Encoder, batch_size: int) -> RewordedAnswers:
    """Return how a model can be asked otherwise; in no way, where it answers no questions."""
    if answering(encoder) is None:
        return RewordedAnswers({}, None)
    own = cast(GenerativeEncoder, encoder)

    def ask(pictures: Iterable[NDArray[np.float32]], wording: str) -> NDArray[np.float32]:
        stream, logits = iter(pictures), []
        while part := list(islice(stream, batch_size)):
            logits.append(own.answer(torch.from_numpy(np.stack(part)), wording).numpy())
        return np.concatenate(logits)

    others = own.questions.wordings()[1:]
    return RewordedAnswers(
        {wording: partial(ask, wording=wording) for wording in others}, own.answer_blind().numpy()
    )


def summarise_questions(task: TaskSummary, encoder: Encoder) -> TaskSummary:
    """Return a task with the prompts of each class verbatim, as the decoder reads them."""
    own = cast(GenerativeEncoder, encoder)
    config, prompts = own.questions.config, own.prompts()
    asked = zip(own.questions.ask(config.asked), prompts, strict=True)
    by_class: dict[int, list[str]] = {}
    for question, prompt in asked:
        by_class.setdefault(question.of, []).append(prompt.text)
    if config.style == "choice":
        frame = by_class[-1][0]
        texts = {
            name: tuple(f"{frame} {text}" for text in answers)
            for name, answers in own.questions.classes.items()
        }
    else:
        texts = {name: tuple(by_class[c]) for c, name in enumerate(task.classes)}
    return replace(task, texts=texts, scores=f"answers, {config.style}")


def ask_regions(
    config: Config,
    films: AnsweredFilms,
    called: NDArray[np.int64],  # (N,)
    progress: Callable[[int, int], None],
) -> NDArray[np.float32]:
    """Ask about each region of wrongly called films by itself: logits (R, C).

    It is NaN for the regions of all other films. The influence of clusters rests on wrongly called
    films of the discovery half; at most ``model.answers.region_films`` of them are asked about,
    since each of their regions costs as much as a film.
    """
    embeddings, cohort, asked = films.embeddings, films.cohort, config.model.answers
    assert asked is not None
    scores = np.full((len(embeddings.region), len(cohort.classes)), np.nan, dtype=np.float32)
    evidence = config.evidence
    half = split_patients(cohort.patients, cohort.labels, evidence.discovery_share, evidence.seed)
    wrong = (called != cohort.labels) & (cohort.labels >= 0) & (half | evidence.cross_fit)
    order = np.random.default_rng([evidence.seed, 41]).permutation(np.flatnonzero(wrong))
    chosen = np.sort(order[: asked.region_films])
    for done, (film, images) in enumerate(films.batches(chosen.tolist(), 1)):
        progress(done, len(chosen))
        rows = np.arange(*np.searchsorted(embeddings.region_image, [film[0], film[0] + 1]))
        height, width = embeddings.sizes[film[0]].tolist()
        boxes = films.encoder.geometry(height, width).to_input(embeddings.region_boxes[rows])
        scores[rows] = films.encoder.answer_regions(images, [torch.from_numpy(boxes)]).numpy()
    progress(len(chosen), len(chosen))
    return scores


def call_by_reports(
    config: Config,
    films: AnsweredFilms,
    answers: NDArray[np.float32],  # (N, C)
    progress: Callable[[int, int], None],
) -> NDArray[np.int64]:
    """Let the model write a report of each film, and call the film as that says, (N,).

    Where a report fits no class, or several, the class with the best answer is taken.
    """
    texts: list[str] = []
    for part, images in films.batches(range(len(answers)), config.model.batch_size):
        progress(part[0], len(answers))
        texts += films.encoder.write(images)
    columns = config.task.columns()
    every = np.ones(len(texts), dtype=np.bool_)
    cells = cells_from_reports(
        texts, every, columns, chest_labeller(), max_unrecognised=None, name="reports of the model"
    )
    read = label_films(cells, columns, _READ).classes
    return np.where(read >= 0, read, answers.argmax(axis=1)).astype(np.int64)


def check_answers(films: AnsweredFilms, sample: NDArray[np.float32]) -> list[ModelCheck]:
    """Check that the model answers at all, and with the words that are looked for.

    `sample` are some films as the model reads them, (k, 3, S, S).
    """
    answers, encoder = films.embeddings.answers, films.encoder
    assert answers is not None
    config = encoder.questions.config
    checks = [_check_ties(answers, films.cohort.classes)]
    if not len(sample):
        return checks
    images = torch.from_numpy(sample)
    first = encoder.write(images, encoder.questions.ask(config.asked)[0].text)
    first = [mask_identities(text) for text in first]
    refused = [text for text in first if _REFUSAL.search(text)]
    if refused:
        return [
            *checks,
            ModelCheck(
                "refusal",
                "failed",
                f"The model refuses to answer on {len(refused)} of {len(first)} films: "
                f"“{refused[0][:80]}”. The usual cure: the chat template and a request as it was "
                "trained with (model.answers.question).",
            ),
        ]
    if config.style != "choice":
        checks.append(_check_words(encoder, images, first))
    blank = encoder.blank_answer.cpu().numpy()
    odds = ", ".join(
        f"{name} {value:+.2f}" for name, value in zip(films.cohort.classes, blank, strict=True)
    )
    taken = (
        "taken off" if config.blank_corrected else "not taken off (model.answers.blank_corrected)"
    )
    return [
        *checks,
        ModelCheck("blank film", "held", f"answers to a film of one gray, {taken}: {odds}"),
    ]


def _check_ties(answers: NDArray[np.float32], classes: tuple[str, ...]) -> ModelCheck:
    """Check that yes and no do not tie, and that not all films are answered alike."""
    if bool((np.abs(answers) < _TIE).all()):
        text = (
            "Yes and no always tie: the answer words stand for the same to the model. The usual "
            "cure: other words in model.answers.yes and no, or weights that were not loaded."
        )
        return ModelCheck("answers", "failed", text)
    spread = answers.std(axis=0)
    same = [name for name, one in zip(classes, spread, strict=True) if one < _TIE]
    if len(same) == len(classes):
        text = (
            "All films are answered alike: the model does not see them. The usual cure: its "
            "processor, the chat template, or weights that were not loaded."
        )
        return ModelCheck("answers", "failed", text)
    text = f"least spread over films {float(spread.min()):.3g} logits"
    return ModelCheck("answers", "odd" if same else "held", text)


def _check_words(
    encoder: GenerativeEncoder, images: torch.Tensor, written: list[str]
) -> ModelCheck:
    share = float(np.median(encoder.first_shares(images).numpy()))
    text = (
        f"{100 * share:.0f} % of the first token are answer words (median of {len(images)} films)"
    )
    if share >= _LEAST_SHARE:
        return ModelCheck("answer words", "held", text)
    text += (
        f"; it would write “{written[0][:60]}”: ask so that it begins with one of them "
        "(model.answers.question, yes, no)"
    )
    return ModelCheck("answer words", "odd", text)
