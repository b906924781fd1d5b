"""A radiology report as text, its sections, and a section as sentences of tokens.

Every step passes over the text once: the patterns have no nested repetition, so a long or hostile
report costs time in proportion to its length.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

from ravl_med.errors import DataError
from ravl_med.storage.bounded_reading import open_regular
from ravl_med.storage.files import local_copy
from ravl_med.storage.remote import FilePath, TooLargeError

_MAX_BYTES = 1_000_000
_IMPRESSION = re.compile(r"\bimpression\s*:", re.IGNORECASE)


def read_radiology_report(path: FilePath) -> str:
    """Read a report kept as a text file: UTF-8, at most 1 MB.

    Raises
    ------
    DataError
        The file is missing, too large or not text. The message does not name the file.
    ConfigError, StorageError
        It lies in a storage that denies access, or does not answer.
    """
    try:
        with local_copy(path, _MAX_BYTES) as file, open_regular(file) as stream:
            content = stream.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise TooLargeError(len(content))
        text = content.decode("utf-8-sig").strip()
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except TooLargeError:
        raise DataError(
            "report_path: the file is over 1 MB; expected the text of one report."
        ) from None
    except (FileNotFoundError, NotADirectoryError):
        raise DataError("report_path: no such file. Paths are relative to the manifest.") from None
    except UnicodeDecodeError:
        raise DataError("report_path: not UTF-8 text. Convert the file.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"report_path: cannot be read ({type(error).__name__}).") from None


def impression_of(text: str) -> str:
    """Return the section after IMPRESSION, or the whole text where there is none."""
    tail = _IMPRESSION.split(text)[-1]
    return " ".join((tail if tail.strip() else text).split())


_HEADINGS = {
    "findings": ("findings", "finding", "chest findings", "report", "observations"),
    "impression": (
        "impression", "impressions", "conclusion", "conclusions", "opinion", "assessment",
        "summary", "interpretation", "diagnosis", "final diagnosis",
    ),
    "addendum": ("addendum", "addenda"),
    "other": (
        "indication", "indications", "history", "clinical history", "clinical information",
        "clinical indication", "clinical data", "clinical statement", "clinical question",
        "reason for exam", "reason for examination", "reason for study", "reason for this exam",
        "reason", "comparison", "comparisons", "compared to", "prior studies", "technique",
        "procedure", "procedures", "procedure comments", "examination", "exam", "study", "views",
        "view", "protocol", "recommendation", "recommendations", "notification", "communication",
        "dictated by", "signed by", "attending", "date", "patient", "accession",
    ),
}  # fmt: skip
_KIND = {name: kind for kind, names in _HEADINGS.items() for name in names}
_NAMES = "|".join(sorted(map(re.escape, _KIND), key=len, reverse=True))
_HEADING = re.compile(
    rf"(?<![^\s.;,>*#_])(?P<colon>{_NAMES})[ \t]{{0,3}}:"
    rf"|^[ \t]{{0,8}}(?P<line>{_NAMES})[ \t]{{0,3}}$",
    re.IGNORECASE | re.MULTILINE,
)
_MOST_TOKENS = 100  # of a sentence; a longer one is cut, so that its triggers stay few
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,8});")
_TAG = re.compile(r"</?[A-Za-z!][^<>]{0,300}>")
_PARAGRAPH = re.compile(r"\n[ \t]{0,40}\n")
_LINE = r"\n[ \t]{0,40}(?:\n|[-*•]|(?=\d{1,2}[.)]\s))"  # an empty one, or one of a list
_TOKEN_OR_STOP = re.compile(rf"\d+[.,]\d+|[^\W_]+(?:'[^\W_]+)?|[.;:?!,]|{_LINE}")


@dataclass(frozen=True, slots=True)
class ReportSection:
    """A section of a report that is read for findings."""

    kind: str
    text: str


def split_sections(text: str) -> tuple[ReportSection, ...]:
    """Split a report, without HTML marks and NUL bytes, into the sections that describe the film.

    Headings are those of the field's reports, in any case, before a colon or alone on their line;
    an organ before a colon ("HEART:") is part of the text. What the referrer says (indication,
    history) and how the film was taken (technique, comparison) is left out. Text without a heading
    is free text; so are further paragraphs below a heading that is left out, since many reports
    write no FINDINGS heading.
    """
    plain = _plain(text)
    parts: list[tuple[str, str]] = []
    kind, start = "free text", 0
    for heading in _HEADING.finditer(plain):
        parts.append((kind, plain[start : heading.start()]))
        kind = _KIND[(heading["colon"] or heading["line"]).lower()]
        start = heading.end()
    parts.append((kind, plain[start:]))
    sections = []
    for name, part in parts:
        shown, body = name, part.strip()
        if name == "other":
            paragraphs = _PARAGRAPH.split(part.lstrip(), maxsplit=1)
            shown, body = "free text", paragraphs[1].strip() if len(paragraphs) > 1 else ""
        if body:
            sections.append(ReportSection(shown, body))
    titled = any(section.kind in ("findings", "impression") for section in sections)
    if titled and sections[0].kind == "free text" and parts[0][1].strip():
        sections = sections[1:]  # what stands above the first heading is the title
    return tuple(sections)


def sentences_of(text: str) -> list[list[str]]:
    """Split text into sentences of lower-case tokens; commas stay, as tokens of their own.

    A sentence ends at a full stop that is not within a number, at ``;``, ``:``, ``?`` or ``!``, at
    an empty line, at a line that starts a list, and after 100 tokens.
    """
    sentences: list[list[str]] = [[]]
    for token in _TOKEN_OR_STOP.findall(text.lower()):
        if token == "," or token[0].isalnum():
            if len(sentences[-1]) == _MOST_TOKENS:
                sentences.append([])
            sentences[-1].append(stem(token))
        elif sentences[-1]:
            sentences.append([])
    return [sentence for sentence in sentences if sentence]


def stem(token: str) -> str:
    """Return a lower-case token without the ending of its plural."""
    if len(token) < 4 or not token.endswith("s") or token.endswith(("ss", "us", "is")):
        return token
    return f"{token[:-3]}y" if token.endswith("ies") else token[:-1]


def _plain(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", " ")
    if "<" in text:
        text = _TAG.sub(" ", text)
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
