"""Whether a model is set up right, before its shortcuts are searched for.

Most faults of published models are of their set-up: prompts, padding, resize, an inverted class.
Such a model gives noise, and so would its audit. Faults that leave no doubt stop the audit. A
finding that the model does not tell from the others does not stop it, since a model that follows a
shortcut alone is at chance too where the shortcut is balanced: a confirmed shortcut fails it,
anything else is not auditable.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from ravl_med.encoders.base import Encoder, EncoderInfo
from ravl_med.evidence.audit_result import FindingAuroc, ModelCheck, ModelCheckStatus
from ravl_med.evidence.statistics import auroc, auroc_interval
from ravl_med.storage.mapped_arrays import map_parts, mapped_parts

_CHANCE = 0.5
_UNIT = 1e-3  # a norm may be off by so much
_SAME, _ALIKE = 1e-6, 1e-3  # 1 - cosine below which embeddings are one, and hard to separate
_PADDED = 1e-3  # 1 - cosine of a text alone and among others
_SPREAD = 0.15  # AUROC of the best prompt minus that of the worst
_LARGEST = 4.0  # normalised input; those of known models end below 2.7
_SCALES = (1.0, 200.0)
_APART = 5.0  # factor between the model's scale and 1 / tau
_NORMS = {
    "OpenAI's CLIP": ((0.481, 0.458, 0.408), (0.269, 0.261, 0.276)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0.5 and 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "0 and 1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "the quickstart model": ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
}
_CURE_FLIPPED = (
    "The usual cure: prompts or label columns of two classes stand in each other's place, or those "
    "of presence and absence."
)
_CURE_LOW = (
    "The usual cure: prompts in the style that the model was trained with, its own preprocessing "
    "(size, mean, std, resize) and activation, or more films."
)


def class_scores(
    similarity: NDArray[np.floating], temperature: float | None
) -> NDArray[np.float64]:
    """Return how far each class is above the others, where no softmax saturates.

    Similarities are cosines (N, C); without a temperature each class stands by itself.
    """
    classes = range(similarity.shape[1])
    return np.hstack(
        [prompt_scores(similarity[:, [c]], similarity, c, temperature) for c in classes]
    )


def prompt_scores(
    by_prompt: NDArray[np.floating],  # (N, T) cosines with the prompts of a class
    similarity: NDArray[np.floating],  # (N, C) cosines with the classes
    own: int,
    temperature: float | None,
) -> NDArray[np.float64]:
    """Return how far single prompts of the class `own` are above the other classes, (N, T)."""
    prompts, exact = by_prompt.astype(np.float64), similarity.astype(np.float64)
    if temperature is None:
        return prompts
    rest = logsumexp(np.delete(exact, own, axis=1) / temperature, axis=1)
    above: NDArray[np.float64] = prompts / temperature - rest[:, None]
    return above


def measure_findings(
    scores: NDArray[np.floating],  # (N, C)
    labels: NDArray[np.int64],  # (N,)
    patients: NDArray[np.int64],  # (N,)
    classes: Sequence[str],
    confidence: float,
    by_prompt: Sequence[NDArray[np.floating]] = (),  # (N, T) of each class
) -> tuple[FindingAuroc, ...]:
    """Measure the AUROC of each class against the others, and of single prompts."""
    found = []
    for c, name in enumerate(classes):
        member = labels == c
        single = [auroc(one, member) for one in by_prompt[c].T] if by_prompt else []
        several = len(single) > 1
        strict = auroc_interval(
            scores[:, c], member, patients, 1 - (1 - confidence) / max(len(classes), 1)
        )
        found.append(
            FindingAuroc(
                finding=name,
                films=int(member.sum()),
                auroc=auroc(scores[:, c], member),
                interval=auroc_interval(scores[:, c], member, patients, confidence),
                lowest=min(single) if several else float("nan"),
                highest=max(single) if several else float("nan"),
                flipped=bool(strict.high < _CHANCE),
            )
        )
    return tuple(found)


def assess_findings(
    findings: Sequence[FindingAuroc], min_auroc: float, hidden: Collection[int] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return why an audit cannot go on, and why it can end in nothing better than a fail.

    Where `min_auroc` is 0 nothing is judged. The numbers of `hidden` classes are left out, since
    they are of few patients.
    """
    if not min_auroc:
        return (), ()
    stops, low, shown = [], [], []
    for c, one in enumerate(findings):
        area = f"{one.auroc:.2f}, {one.interval.low:.2f} to {one.interval.high:.2f}"
        if math.isnan(one.interval.low):
            area = "not known, as it is of one patient alone"
        if one.flipped:
            stops.append(
                f"Class {one.finding} is flipped: the model gives it to films without it"
                f"{'' if c in hidden else f' (AUROC {area})'}. {_CURE_FLIPPED}"
            )
        elif one.films and not one.interval.low > min_auroc:  # nor where it is not known
            low.append(one.finding)
            shown += [] if c in hidden else [f"{one.finding} {area}"]
    if not low:
        return tuple(stops), ()
    areas = f" (AUROC: {'; '.join(shown)})" if shown else ""
    names = [one.finding for one in findings]
    apart = " from ".join(names) if len(names) == 2 else f"{', '.join(low)} from the other classes"
    doubt = (
        f"The model does not distinguish {apart}{areas}; the lower bound of the AUROC must exceed "
        f"{min_auroc:g} (gate.min_auroc). {_CURE_LOW}"
    )
    return tuple(stops), (doubt,)


def check_embeddings(
    image: NDArray[np.float32], classes: NDArray[np.float32] | None, names: Sequence[str]
) -> Iterator[ModelCheck]:
    """Check norms, and whether all films (N, D) or two classes (C, D) have one embedding."""
    if not len(image):
        return
    norms = map_parts(image, lambda part: np.linalg.norm(part, axis=1))
    wrong = bool(np.abs(norms - 1).max() > _UNIT)
    yield ModelCheck(
        "length of image embeddings",
        "failed" if wrong else "held",
        f"Embeddings of films have norms of {norms.min():.4g} to {norms.max():.4g}; expected 1. "
        "The usual cure: encode_image has to normalise."
        if wrong
        else f"normalised: {norms.min():.4f} to {norms.max():.4f}",
    )
    n = len(image)
    sums = [part.sum(axis=0, dtype=np.float64) for part in mapped_parts(image)]
    mean = np.sum(sums, axis=0) / n
    alike = float(mean @ mean) if n == 1 else (n * float(mean @ mean) - 1) / (n - 1)
    apart = 1 - alike
    text = f"mean cosine of two films {alike:.4f}"
    if n > 1 and apart < _SAME:
        text = (
            "All films have the same embedding: the model does not see them. The usual cure: the "
            "range of its input (0 to 1 or 0 to 255), mean and std, or "
            "weights that were not loaded."
        )
    elif n > 1 and apart < _ALIKE:
        text += ": hard to distinguish. Check mean and std of the input."
    yield ModelCheck("films distinguishable", _status(apart) if n > 1 else "held", text)
    if classes is None:
        return
    cosines = classes.astype(np.float64) @ classes.T.astype(np.float64)
    np.fill_diagonal(cosines, -1.0)
    a, b = divmod(int(cosines.argmax()), len(cosines))
    apart = 1 - float(cosines[a, b])
    text = f"nearest two: {names[a]} and {names[b]}, cosine {cosines[a, b]:.4f}"
    if apart < _SAME:
        text = (
            f"The texts of {names[a]} and {names[b]} have the same embedding: the text tower does "
            "not distinguish them. The usual cure: its tokenizer, padding, or prompts that differ."
        )
    yield ModelCheck("prompts distinguishable", _status(apart), text)


def _status(apart: float) -> ModelCheckStatus:
    """Return the status of embeddings that lie so far apart (1 - cosine)."""
    return "failed" if apart < _SAME else "odd" if apart < _ALIKE else "held"


def check_prompts(findings: Sequence[FindingAuroc], hidden: Collection[int] = ()) -> ModelCheck:
    """Check how much the AUROC of a finding hangs on single prompts; `hidden` classes are not."""
    name = "prompt sensitivity"
    several = [one for c, one in enumerate(findings) if np.isfinite(one.lowest) and c not in hidden]
    if not several:
        return ModelCheck(name, "held", "not known: one prompt a class")
    worst = max(several, key=lambda one: one.highest - one.lowest)
    spread = worst.highest - worst.lowest
    text = f"largest spread of AUROC over the prompts of a class {spread:.2f} ({worst.finding})"
    if spread > _SPREAD:
        return ModelCheck(name, "odd", f"{text}: much depends on how a finding is put into words")
    return ModelCheck(name, "held", text)


def check_inputs(info: EncoderInfo, inputs: NDArray[np.float32]) -> tuple[ModelCheck, ...]:
    """Check how films become inputs (k, 3, S, S): normalisation, range, contrast."""
    known = next((name for name, pair in _NORMS.items() if _near((info.mean, info.std), pair)), "")
    text = f"mean {_numbers(info.mean)}, std {_numbers(info.std)}"
    sigmoid = info.logit_bias is not None
    if not known:
        text += ": not those of CLIP, ImageNet or SigLIP; compare with the model's own"
    elif sigmoid and known != "0.5 and 0.5":
        text += f" ({known}): models with a logit bias (SigLIP) read 0.5 and 0.5"
    odd = not known or (sigmoid and known != "0.5 and 0.5")
    checks = [ModelCheck("normalisation", "odd" if odd else "held", text)]
    if len(inputs):
        low, high = float(inputs.min()), float(inputs.max())
        spread = float(np.median(inputs.std(axis=(1, 2, 3))))
        values = f"{low:.2f} to {high:.2f}".replace("-", "−")
        text = f"{len(inputs)} films: values {values}, contrast {spread:.2f}"
        wide = max(abs(low), abs(high)) > _LARGEST
        if wide:
            text += f"; known models read at most {_LARGEST:g}: 0 to 255 in place of 0 to 1?"
        checks.append(ModelCheck("range of the input", "odd" if wide else "held", text))
    return tuple(checks)


def check_logit_scale(info: EncoderInfo, temperature: float | None) -> ModelCheck:
    """Check the scale that the model was trained with, against the temperature of the audit.

    The temperature is None where the model's own scale is used.
    """
    name, scale = "logit scale", info.logit_scale
    if scale is None:
        return ModelCheck(name, "held", "the model states none")
    low, high = _SCALES
    if not low <= scale <= high:
        return ModelCheck(
            name, "odd", f"{scale:.4g}; trained models lie between {low:g} and {high:g}"
        )
    if temperature is not None:
        ratio = scale * temperature
        text = f"{scale:.4g}; the audit takes {1 / temperature:.4g} (1 / task.temperature)"
        if not 1 / _APART <= ratio <= _APART:
            return ModelCheck(name, "odd", f"{text}: shares are not those of the model")
        return ModelCheck(name, "held", text)
    return ModelCheck(name, "held", f"{scale:.4g}")


def check_texts(encoder: Encoder, texts: Mapping[str, Sequence[str]]) -> tuple[ModelCheck, ...]:
    """Check padding, prompts whose end is not read, and upper and lower case."""
    all_texts = list(dict.fromkeys(text for prompts in texts.values() for text in prompts))
    together = _embed(encoder, all_texts)
    return (
        _check_padding(encoder, all_texts, together),
        _check_length(encoder, all_texts, together),
        _check_case(encoder, all_texts, together),
    )


def _check_padding(
    encoder: Encoder, texts: Sequence[str], together: NDArray[np.float64]
) -> ModelCheck:
    """Embed a text alone and beside the longest one."""
    shortest = min(range(len(texts)), key=lambda i: len(texts[i]))
    alone = _embed(encoder, [texts[shortest]])[0]
    longest = max(texts, key=len)
    beside = _embed(encoder, [texts[shortest], f"{longest} {longest}"])[0]
    cosine = min(float(alone @ together[shortest]), float(alone @ beside))
    if 1 - cosine > _PADDED:
        return ModelCheck(
            "effect of padding",
            "failed",
            f"A text changes with those beside it (cosine {cosine:.3f}): it is padded otherwise "
            "each time. The usual cure: a tokenizer that pads to the model's full length, as it "
            "was trained.",
        )
    return ModelCheck(
        "effect of padding", "held", "none: a text is embedded the same alone and in a batch"
    )


def _check_length(
    encoder: Encoder, texts: Sequence[str], together: NDArray[np.float64]
) -> ModelCheck:
    """Leave out the last word of each text; where its end is read, it is another text."""
    name = "truncated prompts"
    several = [i for i, text in enumerate(texts) if len(text.split()) > 1]
    if not several:
        return ModelCheck(name, "held", "none: prompts are single words")
    shorter = _embed(encoder, [texts[i].rsplit(maxsplit=1)[0] for i in several])
    cut = [
        texts[i]
        for i, embedded in zip(several, shorter, strict=True)
        if np.abs(embedded - together[i]).max() < _SAME
    ]
    if not cut:
        return ModelCheck(name, "held", "none: every prompt is read to its end")
    named = "; ".join(f"“{text[:40]}…”" for text in cut[:3])
    more = f" and {len(cut) - 3} more" if len(cut) > 3 else ""
    return ModelCheck(
        name, "odd", f"{len(cut)} texts are not read to their end, shorten them: {named}{more}"
    )


def _check_case(
    encoder: Encoder, texts: Sequence[str], together: NDArray[np.float64]
) -> ModelCheck:
    lower = _embed(encoder, [text.lower() for text in texts])
    cosine = float((lower * together).sum(axis=1).min())
    if 1 - cosine < _ALIKE:
        return ModelCheck("case of letters", "held", "makes no difference")
    text = f"upper case is another text (least cosine {cosine:.3f})"
    if encoder.info.logit_bias is not None:
        return ModelCheck(
            "case of letters", "odd", f"{text}; SigLIP was trained on lower case: write prompts so"
        )
    return ModelCheck("case of letters", "held", f"{text}: write prompts as the model was trained")


def _embed(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float64]:
    embedded = encoder.encode_text(list(texts)).float().cpu().numpy().astype(np.float64)
    norms = np.linalg.norm(embedded, axis=1, keepdims=True)
    unit: NDArray[np.float64] = embedded / np.where(norms > 0, norms, 1.0)
    return unit


def _near(found: Sequence[Sequence[float]], known: Sequence[Sequence[float]]) -> bool:
    return all(
        len(one) == len(other) and np.allclose(one, other, atol=2e-3)
        for one, other in zip(found, known, strict=True)
    )


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
