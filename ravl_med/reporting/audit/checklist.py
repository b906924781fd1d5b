"""Where a reviewer finds what guidelines and the law ask for, item by item, and what is not here.

Items are told in own words, under the numbers of the published lists. Each of them is in the map
but for those of a manuscript alone, which the text above it names.

References
----------
CLAIM 2024: Tejani et al., Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024
Update, Radiology: Artificial Intelligence 6(4):e240300 (2024), 44 items.
TRIPOD+AI: Collins et al., BMJ 385:e078378 (2024), 27 items in 52 parts.
EU AI Act: Regulation (EU) 2024/1689, Annex IV, point 2 (g).
"""

from __future__ import annotations

from dataclasses import dataclass

from ravl_med.reporting.layout.blocks import Block, Chapter, Reference, Table, Text, sized
from ravl_med.reporting.wording import DASH

__all__ = ["checklist_chapter"]

_COHORT = Reference("cohort", "Model and cohort")
_PERFORMANCE = Reference("performance", "Performance")
_SEARCH = Reference("search", "Search for shortcuts")
_METHOD = Reference("method", "Method and limitations")
_AGAIN = Reference("reproducibility", "Reproducibility")
_SIGNED = Reference("sign-off", "Sign-off")
_NOT = "Not filled by an audit"
_ACT = "2 (g)"
_ROOM = 650.0  # of the whole map, which is read at a glance


@dataclass(frozen=True, slots=True)
class _Asked:
    """Something that is asked for.

    Attributes
    ----------
    what : str - in own words
    claim, tripod : str - numbers of the items; blank: not asked there
    act : str - of Annex IV; blank: not asked there
    here : str - what the report says to it
    where : Reference or None - None: nothing
    """

    what: str
    claim: str
    tripod: str
    act: str
    here: str
    where: Reference | None = None


_FOUND = (
    _Asked(
        "Films and patients taken, left out or missing, with reasons and flow",
        "8, 10, 12, 35",
        "6b, 11, 20a",
        _ACT,
        "flow, reasons, films of each class",
        _COHORT,
    ),
    _Asked(
        "Characteristics of participants; how images were acquired",
        "13, 36",
        "9b, 20b",
        _ACT,
        "view, device, sex, age, site, as far as files tell",
        _COHORT,
    ),
    _Asked(
        "Preprocessing and checks of quality",
        "9",
        "7",
        "",
        "input, resizing, pixel values; films that cannot be read",
        _COHORT,
    ),
    _Asked(
        "The model: version, input, output, how it predicts",
        "22",
        "12g, 15",
        "",
        "digest, architecture, prompts; no layers, no weights",
        _COHORT,
    ),
    _Asked(
        "Performance with its uncertainty",
        "37, 38",
        "23a",
        _ACT,
        "accuracy with intervals, overall and by class",
        _PERFORMANCE,
    ),
    _Asked(
        "Performance in subgroups and between sites; impacts that may discriminate",
        "",
        "12d, 23a, 23b",
        _ACT,
        "accuracy by subgroup; no judgement of what is fair",
        _PERFORMANCE,
    ),
    _Asked(
        "How data were partitioned, and that the parts are disjoint",
        "19, 20",
        "21",
        "",
        "halves of the audit, by patient; not the developer's",
        _SEARCH,
    ),
    _Asked(
        "Robustness, sensitivity analysis",
        "30",
        "",
        _ACT,
        "against shortcuts alone; not noise, attacks, drift",
        _SEARCH,
    ),
    _Asked(
        "Explainability; analysis of failures",
        "31, 39",
        "",
        "",
        "features that go with mistakes; what removing them does",
        _SEARCH,
    ),
    _Asked(
        "Sample size",
        "21",
        "10",
        "",
        "not planned ahead; how small an effect was to be seen",
        _SEARCH,
    ),
    _Asked(
        "Measures and statistical methods, procedures of testing",
        "28, 29",
        "12e",
        _ACT,
        "method, thresholds; no calibration, no clinical utility",
        _METHOD,
    ),
    _Asked(
        "Interpretation and limitations",
        "40",
        "25, 26",
        "",
        "limitations; the verdict is on page one",
        _METHOD,
    ),
    _Asked(
        "Software and code; logs of the tests",
        "23",
        "18f",
        _ACT,
        "versions, seeds, config of the audit; run.json",
        _AGAIN,
    ),
    _Asked(
        "Test reports, dated and signed by those responsible",
        "",
        "",
        _ACT,
        "page to sign; the date of the run is on page one",
        _SIGNED,
    ),
)

_MISSING = (
    _Asked(
        "Intended use, users, place in care, what follows for practice",
        "3, 41",
        "3a, 3b, 27a–27c",
        "",
        _NOT,
    ),
    _Asked("Source, setting and dates of the data; treatments", "7", "5a, 5b, 6a, 6c", "", _NOT),
    _Asked(
        "How the reference standard was made, by whom",
        "14–18",
        "8a–8c",
        "",
        f"{_NOT}: taken as given",
    ),
    _Asked(
        "Data, procedure and choices of training; full model",
        "24–27",
        "9a, 12a–12c, 13, 22",
        "",
        _NOT,
    ),
    _Asked(
        "Whether data are internal or external to the development",
        "32, 33",
        "16, 20c",
        "",
        f"{_NOT}: not told to it",
    ),
    _Asked("Known inequalities; approaches to fairness", "", "3c, 14", "", _NOT),
    _Asked("Updating; changes determined in advance", "", "12f, 24", _ACT, _NOT),
    _Asked("De-identification of the data; ethical approval", "11", "17", "", _NOT),
    _Asked("Protocol and registration", "34, 42", "18c, 18d", "", _NOT),
    _Asked("Availability of data and model", "43", "18e", "", _NOT),
    _Asked("Funding, conflicts of interest", "44", "18a, 18b", "", _NOT),
    _Asked("Involvement of patients and public", "", "19", "", _NOT),
)

_ABOUT = (
    "A map for reviewers, no claim of conformity. Items are told in short and in own words; the "
    "guidelines themselves count, and each asks for more than an audit can tell. Numbers are those "
    "of CLAIM 2024 (artificial intelligence in medical imaging, update of 2024), of TRIPOD+AI "
    "(prediction models, BMJ 2024), and of Annex IV of the EU AI Act, Regulation (EU) 2024/1689: "
    "point 2 (g), on validation and testing. Asked of a manuscript, and not in the map: CLAIM 1, "
    "2, 4, 5, 6; TRIPOD+AI 1, 2, 4, 9c."
)


def checklist_chapter() -> list[Block]:
    """Return the map: what is asked for, by which items, what the report says to it, and where."""
    rows = tuple(
        (
            asked.what,
            asked.claim or DASH,
            asked.tripod or DASH,
            asked.act or DASH,
            asked.here,
            asked.where or DASH,
        )
        for asked in (*_FOUND, *_MISSING)
    )
    heads = ("Asked for", "CLAIM 2024", "TRIPOD+AI", "AI Act", "In this report", "Page")
    return [
        Chapter("Where a reviewer finds what guidelines ask for", "checklist", _ROOM),
        Text(_ABOUT, "muted"),
        Table(
            caption="Checklist map",
            columns=sized(heads, (150, 58, 72, 36, 0, 30)),
            rows=rows,
            limit=200,
            titled=False,
        ),
    ]
