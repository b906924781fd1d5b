"""Findings that a radiology report states, denies or leaves open, and the class that it names.

``vocabulary.yaml`` holds phrases for each finding, and triggers for negation, uncertainty and the
past. A phrase is written as words; ``(a|b c|)`` stands for any one of its alternatives, an empty
one included, ``{name}`` for a list that is defined once, and ``~`` for up to five words of the same
clause. All phrases become one tree, which is followed down once from each word of a sentence, so
the time grows with the length of the sentence alone.

Context is read as in NegEx and ConText: a trigger ("no", "possible", "history of") has a scope, up
to the end of the sentence or to a word that ends it ("but", another trigger), and a phrase in the
scope is negated, uncertain or past. A longer phrase wins over the triggers within it: "no change
in" is no negation, "cannot exclude" is uncertainty.

References
----------
Chapman et al. 2001, A simple algorithm for identifying negated findings and diseases in discharge
summaries (NegEx). Harkema et al. 2009, ConText: an algorithm for determining negation, experiencer,
and temporal status from clinical reports.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from itertools import accumulate, product
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from ruamel.yaml import YAML

from ravl_med.labelling.sections import impression_of, sentences_of, split_sections, stem

Tag = TypeVar("Tag", bound=Hashable)

GAP = "~"
_MOST_SKIPPED = 5
_MOST_EXPANSIONS = 4000
_PART = re.compile(r"\(([^()]*)\)|\{(\w+)\}|([^\s(){}]+)")


@dataclass(frozen=True, slots=True)
class Match(Generic[Tag]):
    """A phrase in a sentence, from token ``start`` to ``end`` - 1."""

    start: int
    end: int
    tokens: int  # that the phrase itself names, without those that "~" skipped
    tag: Tag


@dataclass(slots=True)
class _Node(Generic[Tag]):
    children: dict[str, _Node[Tag]] = field(default_factory=dict)
    after_gap: _Node[Tag] | None = None
    tags: list[Tag] = field(default_factory=list)


class PhraseTree(Generic[Tag]):
    """A tree of tokens whose nodes know which phrases end there."""

    def __init__(
        self, phrases: Iterable[tuple[str, Tag]], lists: Mapping[str, Sequence[str]]
    ) -> None:
        self._root: _Node[Tag] = _Node()
        self.tokens: set[str] = set()
        for phrase, tag in phrases:
            for tokens in expand_phrase(phrase, lists):
                self._add(tokens, tag)

    def _add(self, tokens: Sequence[str], tag: Tag) -> None:
        node = self._root
        for token in tokens:
            if token == GAP:
                node.after_gap = node.after_gap or _Node()
                node = node.after_gap
            else:
                self.tokens.add(token)
                node = node.children.setdefault(token, _Node())
        if tag not in node.tags:
            node.tags.append(tag)

    def matches(self, sentence: Sequence[str]) -> list[Match[Tag]]:
        """Return every phrase in a sentence of stemmed lower-case tokens, in order of start."""
        found: list[Match[Tag]] = []
        for start, token in enumerate(sentence):
            if token in self._root.children:
                found += self._from(sentence, start)
        return found

    def _from(self, sentence: Sequence[str], start: int) -> list[Match[Tag]]:
        # A state is a node, the tokens it took, and how many more a gap before it may skip.
        states: list[tuple[_Node[Tag], int, int]] = [(self._root, 0, 0)]
        found = []
        for position in range(start, len(sentence)):
            token, following = sentence[position], []
            for node, tokens, skips in states:
                if skips and token != ",":
                    following.append((node, tokens, skips - 1))
                child = node.children.get(token)
                if child is None:
                    continue
                found += [Match(start, position + 1, tokens + 1, tag) for tag in child.tags]
                following.append((child, tokens + 1, 0))
                if child.after_gap is not None:
                    following.append((child.after_gap, tokens + 1, _MOST_SKIPPED))
            states = following
            if not states:
                break
        return found


def expand_phrase(phrase: str, lists: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Return all sequences of stemmed tokens that a phrase stands for.

    Raises
    ------
    ValueError
        The phrase names an unknown list, stands for nothing, or for more than 4,000 sequences.
    """
    choices: list[list[tuple[str, ...]]] = []
    size = 1
    for group, name, token in _PART.findall(phrase):
        if name and name not in lists:
            raise ValueError(f"phrase {phrase!r}: no list is called {name!r}")
        texts = lists[name] if name else [token] if token else group.split("|")
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
_REACH_BACK = 12  # tokens before a trigger whose scope lies before it


class Trigger(NamedTuple):
    """The effect of a trigger.

    ``meaning`` is a status, ``"end"`` for a word that ends scopes, or ``"none"`` for a phrase that
    only looks like a trigger; its scope lies ``"after"`` it, ``"before"`` it, or on ``"both"``
    sides.
    """

    meaning: str
    side: str


@dataclass(frozen=True, slots=True)
class ScopedTrigger:
    """A trigger in a sentence, with its scope."""

    start: int  # its first token
    meaning: Status
    side: str
    until: float  # first token after it that is out of its scope
    since: float  # last token before it that is out of its scope

    def covers(self, phrase: Match[Any]) -> bool:
        """Return whether a phrase of the sentence stands in the scope."""
        # A trigger within a phrase with a gap ("heart is not enlarged") holds for its last word.
        after = self.side != "before" and self.start < phrase.end - 1
        if after and phrase.start <= self.until:
            return True
        before = self.side != "after" and 0 <= self.start - phrase.end <= _REACH_BACK
        return before and self.since < phrase.end


class ContextRules:
    """The triggers of a vocabulary.

    `triggers` maps ``absent``, ``uncertain`` and ``past`` to phrases by side, and ``end`` and
    ``none`` to phrases.
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
        self.tokens = self._tree.tokens

    def triggers(self, sentence: Sequence[str]) -> list[ScopedTrigger]:
        """Return the triggers of a sentence; the longest of those that share a token."""
        return _scopes(match_phrases(self._tree.matches(sentence)), sentence)

    def status(self, phrase: Match[Any], triggers: Sequence[ScopedTrigger]) -> Status:
        """Return the status of a phrase, given the triggers that are no part of it."""
        met = {trigger.meaning for trigger in triggers if trigger.covers(phrase)}
        return next((meaning for meaning in _MEANINGS if meaning in met), "present")


def match_phrases(matches: Sequence[Match[Any]]) -> list[Match[Any]]:
    """Return matches that share no token: those with most tokens first, then the shortest span."""
    taken: list[Match[Any]] = []
    used: set[int] = set()
    for match in sorted(matches, key=lambda m: (-m.tokens, m.end - m.start, m.start)):
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
        # A scope on both sides joins neighbours: "an opacity, atelectasis versus pneumonia".
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
    """Return where each trigger's scope stops at an earlier one, but for its `harmless` side."""
    last: dict[str, float] = {}
    ends = []
    for trigger in triggers:
        meaning, side = trigger.tag
        ends.append(last.get(meaning, none))
        if meaning != "none" and side != harmless:
            last |= {other: trigger.start for other in _MEANINGS if other != meaning}
    return ends


FindingState = Literal["present", "uncertain", "absent"]

NO_FINDING, NORMAL = "no finding", "normal"
"""Findings that follow from the others: nothing but devices and minor changes; nothing at all."""

_STRENGTH: tuple[FindingState, ...] = ("present", "uncertain", "absent")
_CELLS: dict[FindingState, int] = {"present": 1, "uncertain": -1, "absent": 0}
_LEAST_DENIED = 2  # findings that a report denies before it counts as one without any
_LEAST_KNOWN = 0.5  # share of the words that an English report has from the vocabulary, at least
_LEAST_ENGLISH = 0.3  # or share of words that no other language has, in a patient's story
_FOREIGN_WEIGHT = 2  # "Kein Pneumothorax" shares half of its words with English


class _Phrase(NamedTuple):
    finding: str
    kind: str  # present, uncertain, absent, unlike


@dataclass(frozen=True, slots=True)
class ReportReading:
    """The findings that a labeller read in one report."""

    states: Mapping[str, FindingState]  # without findings that the report does not mention
    sections: tuple[str, ...]  # kinds of the sections that were read, in their order
    recognised: bool  # the report is English, and some of it stands in the vocabulary

    def cell(self, finding: str) -> int | None:
        """Return a finding as a manifest's cell: 1, 0, -1 for uncertain, None for not stated."""
        state = self.states.get(finding)
        return None if state is None else _CELLS[state]


class ReportLabeller:
    """Reads findings off reports, by the phrases of a vocabulary such as ``vocabulary.yaml``."""

    def __init__(self, vocabulary: Mapping[str, Any]) -> None:
        lists = vocabulary["lists"]
        entries = vocabulary["findings"]
        self._minor = frozenset(name for name, e in entries.items() if e.get("minor"))
        shown = [name for name, entry in entries.items() if not entry.get("hidden")]
        self.findings = (*shown, NO_FINDING, NORMAL)
        self._names = {name: name for name in self.findings}
        for name, entry in entries.items():
            self._names |= dict.fromkeys(entry.get("aliases", ()), name)
        phrases = [
            (phrase, _Phrase(name, kind))
            for name, entry in {**entries, NORMAL: vocabulary["normal"]}.items()
            for kind in ("present", "uncertain", "absent", "unlike")
            for phrase in entry.get(kind, ())
        ]
        self._tree: PhraseTree[_Phrase] = PhraseTree(phrases, lists)
        self.rules = ContextRules(vocabulary["context"], lists)
        ordinary, self._foreign, international = (
            {stem(token) for text in vocabulary[key] for token in text.split()}
            for key in ("english", "foreign", "international")
        )
        self._known = self._tree.tokens | self.rules.tokens | ordinary | international
        self._english = self._known - international

    def finding(self, name: str) -> str | None:
        """Return the finding that a name or alias means, in any case; None if unknown."""
        return self._names.get(" ".join(name.lower().replace("_", " ").split()))

    def nearest(self, name: str) -> str | None:
        """Return the known name that resembles an unknown one."""
        near = difflib.get_close_matches(name.lower(), list(self._names), n=1, cutoff=0.5)
        return near[0] if near else None

    def read(self, text: str) -> ReportReading:
        """Read a whole report.

        Each finding has the strongest state of its mentions: present before uncertain before
        absent. A past mention ("history of pneumonia") states nothing.
        """
        sections = split_sections(text)
        sentences = [s for section in sections for s in sentences_of(section.text)]
        kinds = tuple(dict.fromkeys(section.kind for section in sections))
        if not self._is_english(sentences):
            return ReportReading({}, kinds, recognised=False)
        found: dict[str, set[Status]] = {}
        for sentence in sentences:
            for finding, status in self._mentions(sentence):
                found.setdefault(finding, set()).add(status)
        states: dict[str, FindingState] = {}
        for name, seen in found.items():
            met = [state for state in _STRENGTH if state in seen]
            if met:  # none where every mention is past
                states[name] = met[0]
        states |= self._conclude(states)
        shown = {name: states[name] for name in self.findings if name in states}
        return ReportReading(shown, kinds, recognised=bool(found))

    def _conclude(self, states: dict[str, FindingState]) -> dict[str, FindingState]:
        """Return whether the film has no finding, and whether it is normal, where that follows."""
        denies_all = states.pop(NORMAL, None) is not None
        derived: dict[str, FindingState] = {}
        for name, allowed in ((NO_FINDING, self._minor), (NORMAL, frozenset[str]())):
            counted = [state for finding, state in states.items() if finding not in allowed]
            if "present" in counted:
                derived[name] = "absent"
            elif denies_all or len(states.keys() - self._minor) >= _LEAST_DENIED:
                derived[name] = "uncertain" if "uncertain" in counted else "present"
        return derived

    def _is_english(self, sentences: Sequence[Sequence[str]]) -> bool:
        tokens = [w for s in sentences for w in s if w != "," and not w[0].isdecimal()]
        known, english, foreign = (
            sum(token in of for token in tokens)
            for of in (self._known, self._english, self._foreign)
        )
        against = _FOREIGN_WEIGHT * foreign
        if not (english or known == len(tokens) > 0):
            return False  # "Nincs pneumothorax": the only known word is Latin
        return known - against >= _LEAST_KNOWN * len(
            tokens
        ) or english - against >= _LEAST_ENGLISH * len(tokens)

    def _mentions(self, sentence: Sequence[str]) -> list[tuple[str, Status]]:
        """Return the findings that a sentence names, each with its status."""
        triggers = self.rules.triggers(sentence)
        of_finding: dict[str, list[Match[_Phrase]]] = {}
        for match in self._tree.matches(sentence):
            of_finding.setdefault(match.tag.finding, []).append(match)
        return [
            (finding, self._status(match, triggers))
            for finding, matches in of_finding.items()
            for match in match_phrases(matches)
        ]

    def _status(self, match: Match[_Phrase], triggers: Sequence[ScopedTrigger]) -> Status:
        kind = match.tag.kind
        if kind == "unlike":
            return "past"  # like a past mention, it states nothing
        if kind == "absent":
            # The first token of such a phrase ("no acute disease") is no trigger on it.
            outer = [t for t in triggers if t.start != match.start]
            return "absent" if self.rules.status(match, outer) == "present" else "past"
        status = self.rules.status(match, triggers)
        return "uncertain" if kind == "uncertain" and status == "present" else status


@lru_cache(maxsize=1)
def chest_labeller() -> ReportLabeller:
    """Return the labeller of chest radiograph reports in English; it is built once."""
    source = resources.files("ravl_med.labelling").joinpath("vocabulary.yaml")
    text = source.read_text(encoding="utf-8")
    return ReportLabeller(YAML(typ="safe", pure=True).load(text))


def class_of_report(text: str, prompts: Mapping[str, Sequence[str]]) -> int:
    """Return the position of the class that a report's impression names; -1 for none or several.

    The names and prompts of the classes are searched for, so that any task can be read. A prompt
    that holds a negation is searched for as it is.
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
    """Return the phrases of each class, without marks that the vocabulary would interpret."""
    phrases = []
    for number, texts in enumerate(classes):
        for text in texts:
            tokens = " ".join(token for sentence in sentences_of(text) for token in sentence)
            if tokens:
                phrases.append((tokens, number))
    return PhraseTree(phrases, {})
