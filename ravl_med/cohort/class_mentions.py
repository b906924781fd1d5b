"""The class that a report names, for films without label columns.

A prompt counts as mentioned where its words stand in a sentence without a negation before them. It
is a plain reading of short impressions, for reports that no labeller has read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ravl_med.cohort.radiology_report import impression_of

__all__ = ["class_of_report"]

_SENTENCE = re.compile(r"[.;\n]+")
_NEGATION = re.compile(
    r"\b(no|not|without|negative for|free of|absence of|resolved|rule out|r/o|denies)\b"
)
_WORD = re.compile(r"[a-z0-9]+")


def class_of_report(text: str, prompts: Mapping[str, Sequence[str]]) -> int:
    """Return the class that a report names; -1 where it names none or several.

    Parameters
    ----------
    text : str - a radiology report; the impression is read where it has one
    prompts : mapping of class to texts - the class name and its prompts are looked for. A prompt
        that itself holds a negation is looked for as it is

    Returns
    -------
    int - position in `prompts`, or -1
    """
    sentences = [s.strip().lower() for s in _SENTENCE.split(impression_of(text)) if s.strip()]
    named = [
        number
        for number, (name, texts) in enumerate(prompts.items())
        if any(_mentioned(phrase, sentences) for phrase in (name, *texts))
    ]
    return named[0] if len(named) == 1 else -1


def _mentioned(phrase: str, sentences: Sequence[str]) -> bool:
    words = " ".join(_WORD.findall(phrase.lower()))
    if not words:
        return False
    negated = _NEGATION.search(words) is not None
    pattern = re.compile(rf"\b{re.escape(words)}\b")
    for sentence in sentences:
        plain = " ".join(_WORD.findall(sentence))
        found = pattern.search(plain)
        if found and (negated or not _NEGATION.search(plain[: found.start()])):
            return True
    return False
