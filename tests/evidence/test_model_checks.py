"""Faults of wiring, each put into a working model on purpose."""

import hashlib

import numpy as np
import pytest
import torch
from torch.nn import functional

from ravl_med.encoders.base import EncoderInfo
from ravl_med.evidence.audit_result import FindingAuroc
from ravl_med.evidence.model_checks import (
    check_embeddings,
    check_inputs,
    check_logit_scale,
    check_prompts,
    check_texts,
)
from ravl_med.evidence.results import Interval

CLIP = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
TEXTS = {"a": ["The heart is enlarged.", "Cardiomegaly."], "b": ["No acute abnormality."]}


def info(**changes) -> EncoderInfo:
    plain = {
        "architecture": "x", "digest": "d", "image_size": 8, "resize_mode": "squash",
        "region_pooling": "p", "embedding_size": 16, "parameters": 1, "logit_scale": 14.3, **CLIP,
    }  # fmt: skip
    return EncoderInfo(**{**plain, **changes})


class TextTower:
    """Embeds a text as the sum of its words, each at its place, up to a context."""

    def __init__(self, context=6, padded=True, lower=False, bias=None):
        self.context, self.padded, self.lower = context, padded, lower
        self.info = info(logit_bias=bias)

    def encode_text(self, texts):
        texts = [text.lower() if self.lower else text for text in texts]
        words = [text.split()[: self.context] for text in texts]
        length = self.context if self.padded else max(map(len, words))
        embedded = []
        for own in words:
            filled = [*own, *["PAD"] * (length - len(own))]
            embedded.append(sum(self._word(word, place) for place, word in enumerate(filled)))
        return functional.normalize(torch.stack(embedded), dim=-1)

    def _word(self, word, place):
        seed = int.from_bytes(hashlib.sha256(f"{word} {place}".encode()).digest()[:4], "big")
        return torch.from_numpy(np.random.default_rng(seed).normal(size=16))


def status(checks):
    return {check.name: check.status for check in checks}


def test_a_text_tower_that_is_wired_right_has_no_fault():
    checks = check_texts(TextTower(), TEXTS)
    assert status(checks) == dict.fromkeys(
        ("effect of padding", "truncated prompts", "case of letters"), "held"
    )
    assert "write prompts as the model was trained" in checks[2].text


def test_padding_to_the_longest_text_stops_the_audit():
    checks = check_texts(TextTower(padded=False), TEXTS)
    assert status(checks)["effect of padding"] == "failed"
    assert "A text changes with those beside it" in checks[0].text
    assert "pads to the model's full length" in checks[0].text


def test_a_text_that_is_not_read_to_its_end_is_named():
    checks = check_texts(TextTower(context=3), TEXTS)
    assert status(checks)["truncated prompts"] == "odd"
    assert "1 texts are not read to their end" in checks[1].text
    assert "The heart is enlarged." in checks[1].text
    assert "Cardiomegaly" not in checks[1].text


@pytest.mark.parametrize(("lower", "bias", "wanted"), [
    (True, -10.0, "held"), (False, -10.0, "odd"), (False, None, "held"),
])  # fmt: skip
def test_a_siglip_reads_lower_case(lower, bias, wanted):
    checks = check_texts(TextTower(lower=lower, bias=bias), TEXTS)
    assert status(checks)["case of letters"] == wanted


def unit(rng, count, spread):
    rows = 1.0 + spread * rng.normal(size=(count, 16))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("spread", "wanted"), [(0.0, "failed"), (0.01, "odd"), (0.5, "held")])
def test_films_and_texts_that_are_all_alike(spread, wanted):
    rng = np.random.default_rng(0)
    checks = tuple(check_embeddings(unit(rng, 50, spread), unit(rng, 2, spread), ("a", "b")))
    assert status(checks) == {
        "length of image embeddings": "held",
        "films distinguishable": wanted,
        "prompts distinguishable": wanted,
    }


def test_norms_are_one():
    rng = np.random.default_rng(0)
    (norms, *_) = check_embeddings(3 * unit(rng, 50, 0.5), None, ("a", "b"))
    assert norms.status == "failed"
    assert "norms of 3 to 3; expected 1" in norms.text


def test_two_classes_with_the_same_text_are_named():
    rng = np.random.default_rng(0)
    classes = unit(rng, 3, 0.5)
    classes[2] = classes[0]
    *_, texts = check_embeddings(unit(rng, 9, 0.5), classes, ("heart", "lung", "none"))
    assert texts.status == "failed"
    assert "The texts of heart and none have the same embedding" in texts.text


def film(low, high):
    return np.linspace(low, high, 2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8)


@pytest.mark.parametrize(("changes", "wanted"), [
    ({}, "held"),
    ({"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}, "held"),
    ({"mean": (0.3, 0.3, 0.3)}, "odd"),
    ({"logit_bias": -10.0}, "odd"),
    ({"logit_bias": -10.0, "mean": (0.5,) * 3, "std": (0.5,) * 3}, "held"),
])  # fmt: skip
def test_normalisation_is_that_of_a_known_model(changes, wanted):
    assert check_inputs(info(**changes), film(-1, 2))[0].status == wanted


def test_an_input_of_0_to_255_is_told():
    normal, wide = (check_inputs(info(), film(-1.8, high))[1] for high in (2.1, 948.0))
    assert normal.status == "held"
    assert wide.status == "odd"
    assert "0 to 255 in place of 0 to 1?" in wide.text
    assert len(check_inputs(info(), np.empty((0, 3, 0, 0), np.float32))) == 1


@pytest.mark.parametrize(("scale", "temperature", "wanted"), [
    (14.3, 0.07, "held"), (100.0, 0.07, "odd"), (100.0, 0.01, "held"), (0.1, 0.07, "odd"),
    (1e5, None, "odd"), (100.0, None, "held"), (None, 0.07, "held"),
])  # fmt: skip
def test_the_logit_scale_is_looked_at_beside_the_temperature(scale, temperature, wanted):
    assert check_logit_scale(info(logit_scale=scale), temperature).status == wanted


def test_prompts_that_differ_are_told_and_hidden_classes_are_not():
    def finding(name, lowest, highest):
        return FindingAuroc(name, 30, 0.8, Interval(0.7, 0.9), lowest, highest, flipped=False)

    findings = (finding("heart", 0.78, 0.82), finding("lung", 0.55, 0.85))
    assert check_prompts(findings).status == "odd"
    assert "0.30 (lung)" in check_prompts(findings).text
    assert check_prompts(findings, hidden={1}).status == "held"
    assert "lung" not in check_prompts(findings, hidden={1}).text
    alone = finding("heart", np.nan, np.nan)
    assert check_prompts([alone]).text == "not known: one prompt a class"
