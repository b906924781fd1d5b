"""Phrases that are looked for in a sentence, all at once.

A phrase is written as words; ``(a|b c|)`` stands for any one of its alternatives, an empty one
included, ``{name}`` for a list of words that is defined once, and ``~`` for up to five words of the
same clause. All phrases become one tree of words. From each word of a sentence the tree is
followed down once, so that the time grows with the length of the sentence alone.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Generic, TypeVar

from ravl_med.cohort.report_sections import stem

__all__ = ["Match", "PhraseTree", "expand_phrase"]

Tag = TypeVar("Tag", bound=Hashable)

GAP = "~"
_MOST_SKIPPED = 5
_MOST_EXPANSIONS = 4000
_PART = re.compile(r"\(([^()]*)\)|\{(\w+)\}|([^\s(){}]+)")


@dataclass(frozen=True, slots=True)
class Match(Generic[Tag]):
    """A phrase in a sentence: its words are ``start`` to ``end`` - 1.

    Attributes
    ----------
    start, end : int
    words : int - those that the phrase itself names, without what ``~`` skipped
    tag : what the phrase stands for
    """

    start: int
    end: int
    words: int
    tag: Tag


@dataclass(slots=True)
class _Node(Generic[Tag]):
    children: dict[str, _Node[Tag]] = field(default_factory=dict)
    after_gap: _Node[Tag] | None = None
    tags: list[Tag] = field(default_factory=list)


class PhraseTree(Generic[Tag]):
    """A tree of words whose nodes know which phrases end there.

    Parameters
    ----------
    phrases : iterable of pair of phrase and tag - phrases as they stand in the vocabulary
    lists : mapping of name to words - what ``{name}`` stands for
    """

    def __init__(
        self, phrases: Iterable[tuple[str, Tag]], lists: Mapping[str, Sequence[str]]
    ) -> None:
        self._root: _Node[Tag] = _Node()
        self.words: set[str] = set()
        for phrase, tag in phrases:
            for words in expand_phrase(phrase, lists):
                self._add(words, tag)

    def _add(self, words: Sequence[str], tag: Tag) -> None:
        node = self._root
        for word in words:
            if word == GAP:
                node.after_gap = node.after_gap or _Node()
                node = node.after_gap
            else:
                self.words.add(word)
                node = node.children.setdefault(word, _Node())
        if tag not in node.tags:
            node.tags.append(tag)

    def matches(self, sentence: Sequence[str]) -> list[Match[Tag]]:
        """Return every phrase in a sentence, in the order of their first words.

        Parameters
        ----------
        sentence : sequence of str - stemmed lower-case words, and commas
        """
        found: list[Match[Tag]] = []
        for start, word in enumerate(sentence):
            if word in self._root.children:
                found += self._from(sentence, start)
        return found

    def _from(self, sentence: Sequence[str], start: int) -> list[Match[Tag]]:
        # A state is a node, how many words it took, and how many more a gap before it may skip.
        states: list[tuple[_Node[Tag], int, int]] = [(self._root, 0, 0)]
        found = []
        for position in range(start, len(sentence)):
            word, following = sentence[position], []
            for node, words, skips in states:
                if skips and word != ",":
                    following.append((node, words, skips - 1))
                child = node.children.get(word)
                if child is None:
                    continue
                found += [Match(start, position + 1, words + 1, tag) for tag in child.tags]
                following.append((child, words + 1, 0))
                if child.after_gap is not None:
                    following.append((child.after_gap, words + 1, _MOST_SKIPPED))
            states = following
            if not states:
                break
        return found


def expand_phrase(phrase: str, lists: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Return all sequences of stemmed words that a phrase stands for.

    Parameters
    ----------
    phrase : str
    lists : mapping of name to words

    Raises
    ------
    ValueError
        The phrase names an unknown list, stands for nothing, or for more than 4,000 sequences.
    """
    choices: list[list[tuple[str, ...]]] = []
    size = 1
    for group, name, word in _PART.findall(phrase):
        if name and name not in lists:
            raise ValueError(f"phrase {phrase!r}: no list is called {name!r}")
        texts = lists[name] if name else [word] if word else group.split("|")
        choices.append([tuple(stem(w) for w in text.lower().split()) for text in texts])
        size *= len(choices[-1])
        if size > _MOST_EXPANSIONS:
            raise ValueError(f"phrase {phrase!r}: stands for more than {_MOST_EXPANSIONS} texts")
    expanded = {sum(parts, ()) for parts in product(*choices)} - {()}
    if not expanded:
        raise ValueError(f"phrase {phrase!r}: stands for nothing")
    return sorted(expanded)
