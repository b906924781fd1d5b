"""What a sentence says about a phrase in it: that it is there, is not, may be, or was.

This is the reading of NegEx and ConText: a trigger ("no", "possible", "history of") has a scope, up
to the end of the sentence or to a word that ends it ("but", another trigger), and what stands in
it is negated, uncertain or past. A longer phrase wins over the triggers within it: "no change in"
is no negation, "cannot exclude" is uncertainty.

References
----------
Chapman et al. 2001, A simple algorithm for identifying negated findings and diseases in discharge
summaries (NegEx). Harkema et al. 2009, ConText: an algorithm for determining negation, experiencer,
and temporal status from clinical reports.

Phrases that are looked for in a sentence, all at once.

A phrase is written as words; ``(a|b c|)`` stands for any one of its alternatives, an empty one
included, ``{name}`` for a list of words that is defined once, and ``~`` for up to five words of the
same clause. All phrases become one tree of words. From each word of a sentence the tree is
followed down once, so that the time grows with the length of the sentence alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, product
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from ravl_med.labelling.sections import stem

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
    words : int - those that the phrase itself names, without what ``~`` skipped
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


Status = Literal["present", "absent", "uncertain", "past"]

_MEANINGS: tuple[Status, ...] = ("past", "absent", "uncertain")  # the first that holds counts
_REACH_BACK = 12  # words before a trigger that stands after what it speaks of


class Trigger(NamedTuple):
    """What a trigger does.

    ``meaning`` is a status, ``"end"`` for a word that ends scopes, or ``"none"`` for a phrase that
    only looks like a trigger; ``side`` is where that which it speaks of stands: ``"after"`` it,
    ``"before"`` it, or on ``"both"`` sides.
    """

    meaning: str
    side: str


@dataclass(frozen=True, slots=True)
class ScopedTrigger:
    """A trigger in a sentence, with its scope.

    Attributes
    ----------
    start : int - its first word
    meaning, side : str - as in `Trigger`
    until : float - first word after it that is out of its scope
    since : float - last word before it that is out of its scope
    """

    start: int
    meaning: Status
    side: str
    until: float
    since: float

    def covers(self, phrase: Match[Any]) -> bool:
        """Whether a phrase of the sentence stands in the scope."""
        # A trigger within a phrase with a gap ("heart is not enlarged") holds for its last word.
        after = self.side != "before" and self.start < phrase.end - 1
        if after and phrase.start <= self.until:
            return True
        before = self.side != "after" and 0 <= self.start - phrase.end <= _REACH_BACK
        return before and self.since < phrase.end


class ContextRules:
    """The triggers of a vocabulary.

    Parameters
    ----------
    triggers : mapping - of ``absent``, ``uncertain`` and ``past`` to mappings of side to phrases,
        of ``end`` and ``none`` to phrases
    lists : mapping of name to words - what ``{name}`` stands for
    """

    def __init__(self, triggers: Mapping[str, Any], lists: Mapping[str, Sequence[str]]) -> None:
        phrases = [
            (phrase, Trigger(meaning, side))
            for meaning in _MEANINGS
            for side, texts in triggers.get(meaning, {}).items()
            for phrase in texts
        ]
        phrases += [(p, Trigger(m, "")) for m in ("end", "none") for p in triggers.get(m, ())]
        self._tree: PhraseTree[Trigger] = PhraseTree(phrases, lists)
        self.words = self._tree.words

    def triggers(self, sentence: Sequence[str]) -> list[ScopedTrigger]:
        """Return the triggers of a sentence; of those that share a word, the longest."""
        return _scopes(best_matches(self._tree.matches(sentence)), sentence)

    def status(self, phrase: Match[Any], triggers: Sequence[ScopedTrigger]) -> Status:
        """Return what a sentence says of one of its phrases.

        Parameters
        ----------
        triggers : sequence of ScopedTrigger - those of the sentence, without those that the phrase
            consists of
        """
        met = {trigger.meaning for trigger in triggers if trigger.covers(phrase)}
        return next((meaning for meaning in _MEANINGS if meaning in met), "present")


def best_matches(matches: Sequence[Match[Any]]) -> list[Match[Any]]:
    """Return matches that share no word: those with most words first, then the shortest span."""
    taken: list[Match[Any]] = []
    used: set[int] = set()
    for match in sorted(matches, key=lambda m: (-m.words, m.end - m.start, m.start)):
        span = range(match.start, match.end)
        if used.isdisjoint(span):
            used.update(span)
            taken.append(match)
    return sorted(taken, key=lambda m: m.start)


def _scopes(triggers: Sequence[Match[Trigger]], sentence: Sequence[str]) -> list[ScopedTrigger]:
    """Give the triggers that mean something their scopes, in three passes over the sentence."""
    until = _nearest_ends(list(reversed(triggers)), "before", math.inf)[::-1]
    since = _nearest_ends(triggers, "after", -math.inf)
    commas = list(accumulate((n if w == "," else -1 for n, w in enumerate(sentence)), max))
    since = [
        # What stands on both sides joins neighbours: "an opacity, atelectasis versus pneumonia".
        max(before, commas[trigger.start]) if trigger.tag.side == "both" else before
        for trigger, before in zip(triggers, since, strict=True)
    ]
    return [
        ScopedTrigger(trigger.start, meaning, trigger.tag.side, after, before)
        for trigger, after, before in zip(triggers, until, since, strict=True)
        for meaning in _MEANINGS
        if trigger.tag.meaning == meaning
    ]


def _nearest_ends(triggers: Sequence[Match[Trigger]], harmless: str, none: float) -> list[float]:
    """Return where the scope of each trigger stops at one that came earlier in the sequence.

    A trigger of another meaning stops it, unless what it speaks of stands on its `harmless` side.
    """
    last: dict[str, float] = {}
    ends = []
    for trigger in triggers:
        meaning, side = trigger.tag
        ends.append(last.get(meaning, none))
        if meaning != "none" and side != harmless:
            last |= {other: trigger.start for other in _MEANINGS if other != meaning}
    return ends
