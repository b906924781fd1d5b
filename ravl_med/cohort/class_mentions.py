"""The class that a report names, for fine-tuning films without label columns.

The texts looked for are the task's own prompts, so that any task can be read, whatever its classes
are called. Negation, uncertainty and the past are read as for findings (`report_context`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from ravl_med.cohort.radiology_report import impression_of
from ravl_med.cohort.report_findings import chest_labeller
from ravl_med.cohort.report_phrases import PhraseTree
from ravl_med.cohort.report_sections import sentences_of

__all__ = ["class_of_report"]


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
    tree = _tree(tuple((name, *texts) for name, texts in prompts.items()))
    rules = chest_labeller().rules
    named = set()
    for sentence in sentences_of(impression_of(text)):
        triggers = rules.triggers(sentence)
        for match in tree.matches(sentence):
            outer = [t for t in triggers if not match.start <= t.start < match.end]
            if rules.status(match, outer) == "present":
                named.add(match.tag)
    return named.pop() if len(named) == 1 else -1


@lru_cache(maxsize=8)
def _tree(classes: tuple[tuple[str, ...], ...]) -> PhraseTree[int]:
    """Phrases of each class; what has a meaning in a vocabulary is no word, and is dropped."""
    phrases = []
    for number, texts in enumerate(classes):
        for text in texts:
            words = " ".join(word for sentence in sentences_of(text) for word in sentence)
            if words:
                phrases.append((words, number))
    return PhraseTree(phrases, {})
