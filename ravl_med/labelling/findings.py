"""The class that a report names, for fine-tuning films without label columns.

The texts looked for are the task's own prompts, so that any task can be read, whatever its classes
are called. Negation, uncertainty and the past are read as for findings (`report_context`).

Findings that a radiology report states, denies, or leaves open.

What is looked for stands in ``vocabulary.yaml``: phrases for each finding, triggers for
negation, uncertainty and the past. Another vocabulary in the same form reads other reports.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Literal, NamedTuple

from ruamel.yaml import YAML

from ravl_med.labelling.phrases import (
    ContextRules,
    Match,
    PhraseTree,
    ScopedTrigger,
    Status,
    best_matches,
)
from ravl_med.labelling.sections import impression_of, sentences_of, split_sections, stem

FindingState = Literal["present", "uncertain", "absent"]

NO_FINDING, NORMAL = "no finding", "normal"
"""Findings that follow from the others: nothing but devices and minor changes; nothing at all."""

_STRENGTH: tuple[FindingState, ...] = ("present", "uncertain", "absent")
_CELLS: dict[FindingState, int] = {"present": 1, "uncertain": -1, "absent": 0}
_LEAST_DENIED = 2  # findings that a report denies before it counts as one without any
_LEAST_KNOWN = 0.5  # share of the words that an English report has from the vocabulary, at least
_LEAST_ENGLISH = 0.3  # or share of words that no other language has, in a story of a patient
_FOREIGN_WEIGHT = 2  # "Kein Pneumothorax" shares half of its words with English


class _Phrase(NamedTuple):
    finding: str
    kind: str  # present, uncertain, absent, unlike


@dataclass(frozen=True, slots=True)
class ReportReading:
    """What a labeller read in one report.

    Attributes
    ----------
    states : mapping of finding to {"present", "uncertain", "absent"} - without those of which the
        report says nothing
    sections : tuple of str - kinds of the sections that were read, in their order
    recognised : bool - the report is English, and something of it stands in the vocabulary
    """

    states: Mapping[str, FindingState]
    sections: tuple[str, ...]
    recognised: bool

    def cell(self, finding: str) -> int | None:
        """Return a finding as a manifest's cell: 1, 0, -1 for uncertain, None for not stated."""
        state = self.states.get(finding)
        return None if state is None else _CELLS[state]


class ReportLabeller:
    """Reads findings off reports, by the phrases of a vocabulary.

    Parameters
    ----------
    vocabulary : mapping - as ``vocabulary.yaml`` describes itself

    Attributes
    ----------
    findings : tuple of str - names that `ReportReading.states` uses
    rules : ContextRules - the triggers of the vocabulary
    """

    def __init__(self, vocabulary: Mapping[str, Any]) -> None:
        lists = vocabulary["lists"]
        entries = vocabulary["findings"]
        self._minor = frozenset(name for name, e in entries.items() if e.get("minor"))
        told = [name for name, entry in entries.items() if not entry.get("hidden")]
        self.findings = (*told, NO_FINDING, NORMAL)
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
            {stem(word) for text in vocabulary[key] for word in text.split()}
            for key in ("english", "foreign", "international")
        )
        self._known = self._tree.words | self.rules.words | ordinary | international
        self._english = self._known - international

    def finding(self, name: str) -> str | None:
        """Return the finding that a name or an alias of it means, in any case; None for none."""
        return self._names.get(" ".join(name.lower().replace("_", " ").split()))

    def nearest(self, name: str) -> str | None:
        """Return the name that resembles one that is none."""
        near = difflib.get_close_matches(name.lower(), list(self._names), n=1, cutoff=0.5)
        return near[0] if near else None

    def read(self, text: str) -> ReportReading:
        """Read a report.

        Each finding has the strongest state of its mentions: present before uncertain before
        absent. What is past ("history of pneumonia") states nothing.

        Parameters
        ----------
        text : str - the whole report
        """
        sections = split_sections(text)
        sentences = [s for section in sections for s in sentences_of(section.text)]
        kinds = tuple(dict.fromkeys(section.kind for section in sections))
        if not self._is_english(sentences):
            return ReportReading({}, kinds, recognised=False)
        said: dict[str, set[Status]] = {}
        for sentence in sentences:
            for finding, status in self._mentions(sentence):
                said.setdefault(finding, set()).add(status)
        states: dict[str, FindingState] = {}
        for name, seen in said.items():
            met = [state for state in _STRENGTH if state in seen]
            if met:  # nothing where all of it is past
                states[name] = met[0]
        states |= self._conclude(states)
        shown = {name: states[name] for name in self.findings if name in states}
        return ReportReading(shown, kinds, recognised=bool(said))

    def _conclude(self, states: dict[str, FindingState]) -> dict[str, FindingState]:
        """Tell whether the report is one of a film without findings, and of a normal one."""
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
        words = [w for s in sentences for w in s if w != "," and not w[0].isdecimal()]
        known, english, foreign = (
            sum(word in of for word in words) for of in (self._known, self._english, self._foreign)
        )
        against = _FOREIGN_WEIGHT * foreign
        if not (english or known == len(words) > 0):
            return False  # "Nincs pneumothorax": the only word that is known is Latin
        return known - against >= _LEAST_KNOWN * len(
            words
        ) or english - against >= _LEAST_ENGLISH * len(words)

    def _mentions(self, sentence: Sequence[str]) -> list[tuple[str, Status]]:
        """Return the findings that a sentence names, each with what it says of it."""
        triggers = self.rules.triggers(sentence)
        of_finding: dict[str, list[Match[_Phrase]]] = {}
        for match in self._tree.matches(sentence):
            of_finding.setdefault(match.tag.finding, []).append(match)
        return [
            (finding, self._status(match, triggers))
            for finding, matches in of_finding.items()
            for match in best_matches(matches)
        ]

    def _status(self, match: Match[_Phrase], triggers: Sequence[ScopedTrigger]) -> Status:
        kind = match.tag.kind
        if kind == "unlike":
            return "past"  # as what is over, it says nothing of the finding
        if kind == "absent":
            # The first word of such a phrase ("no acute disease") is no trigger on it.
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
