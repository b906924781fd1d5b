"""How it was found: the steps that this audit took, its thresholds and limitations.

Where a reviewer finds what guidelines and the law ask for, item by item, and what is not here.

Items are told in own words, under the numbers of the published lists. Each of them is in the map
but for those of a manuscript alone, which the text above it names.

References
----------
CLAIM 2024: Tejani et al., Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024
Update, Radiology: Artificial Intelligence 6(4):e240300 (2024), 44 items.
TRIPOD+AI: Collins et al., BMJ 385:e078378 (2024), 27 items in 52 parts.
EU AI Act: Regulation (EU) 2024/1689, Annex IV, point 2 (g).

The last page of an audit's report: what is signed, what a signature says, who signs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit.verdict import report_status
from ravl_med.reporting.layout.blocks import (
    NEW_PAGE,
    Block,
    Chapter,
    Items,
    Reference,
    Section,
    SignOff,
    Table,
    Text,
    sized,
)
from ravl_med.reporting.layout.pdf_signing import can_sign
from ravl_med.reporting.wording import DASH, VERDICT_LINES, VERDICT_WORDS, plural, printable

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


_SANITY = (
    "Sanity. First, each finding has to be told from the other classes (AUROC, with an interval "
    "by patient), and embeddings, texts and input are looked at. A fault that leaves no doubt, "
    "such as a flipped class, stops the audit; chance alone does not, since a model that follows "
    "a balanced shortcut is at chance too, but then the audit ends in a fail or says nothing."
)
_STOPPED = (
    "Measuring. Films were cut into regions, and the image tower embedded films and regions. "
    "Accuracy is that of every film, with intervals from a bootstrap of patients.",
    "Stopping. The audit ended before its search for shortcuts was done, for the reasons on page "
    "one. No feature was proposed, tested or judged, and nothing is said of how small an effect "
    "these films could have shown.",
)
_REGIONS = (
    "Proposing. Films are cut into regions, the image tower embeds every region, and regions that "
    "look alike to the model are grouped by k-medoids, "
)
_GROUPING = {
    "pooled": "in several numbers K of clusters and several draws, pooled and near-duplicates "
    "folded. No label enters.",
    "paper": "for every number K of clusters from 2 to 5 times that of the classes, of which the "
    "one with the best silhouette is kept. No label enters.",
}
_CHOOSING = (
    "Choosing. The patients are split into two halves, all films of a patient on one. On the "
    "discovery half the accuracy on films with a region of a cluster is compared, class by class, "
    "with that on films without one. G sums these gaps, weighted by how evenly the films are "
    "split; H is the share of mistakes in which the region that speaks loudest for the wrong "
    "answer belongs to the cluster. Clusters with low H, or without both a raised and a lowered "
    "class, are dropped, but those with large gaps on both sides are carried along. This is the "
    "discovery stage of RaVL (Varma et al., NeurIPS 2024, arXiv 2411.04097)."
)
_CONFIRMING = (
    "Confirming. Clusters that share half of their regions and raise the same class are taken as "
    "one. Each makes one hypothesis, fixed before the confirmation half is looked at: with the "
    "feature its raised class is right more often and its lowered classes, taken as one, less "
    "often. Whole patients are exchanged within class; with one film a patient the test is exact. "
    "The two sides are joined by Stouffer's method, and Benjamini-Hochberg holds the false "
    "discovery rate over all candidates (q). A confirmed correlation also keeps its sign, its "
    "least gap on both halves, and each side by itself."
)
_NOTHING_CONFIRMED = (
    "Nothing was left to confirm on the other half of the patients, or to test on the model."
)
_USING = (
    "Using. A gap is an association until an intervention shows otherwise. Of what holds, what "
    "the filters keep and what they drop take turns. Removal: the regions are filled, once with "
    "the median of their surroundings and once by inpainting, and the drop of the margin (logit "
    "of the raised minus that of the lowered class) is held against films of the same class "
    "without the feature, filled at the same place; where the best of k places is taken, half a "
    "step aside too, the control is the best of k too. Transplant: the feature is blended into "
    "films of other classes, against an ordinary region from the same place. A feature is used "
    "when both fills lower the margin beyond the controls and by enough to matter, and the "
    "transplant, where it could be tried, raises it."
)
_NOT_TESTED = (
    "Using. A gap is an association until an intervention shows otherwise; none was made here. "
)
_KIND = (
    "Kind. What of a region is artifact, what is anatomy in which the raised class shows, and the "
    "rest are removed one by one; what each costs the model is its share. In such anatomy, a "
    "plausible sign; in artifacts or elsewhere, a shortcut; between or unknown, undecided."
)
_SUBGROUPS = (
    "Subgroups. Accuracy by attribute is compared with the other films, classes held apart, by "
    "exchange of whole patients."
)
_STRATA = (
    "Strata. Each confirmed correlation is looked at inside the strata of every attribute and "
    "joined over them (Mantel-Haenszel)."
)
_SENSITIVITY = (
    "What could be seen. Cohorts with these films, patients and accuracies are simulated, each "
    "with a planted gap, and put through the same choice and test."
)
_THRESHOLDS = (
    "Intervals come from a bootstrap of patients. All thresholds were fixed before the run."
)
_SEARCHING = ("evidence.", "discovery.")  # thresholds of steps that a stopped audit did not take

LIMITATIONS = (
    "This report is about a model on one set of films. “Used” means used on these films; films of "
    "another site can differ. It is no diagnosis and no clinical validation.",
    "Only features that fit into a region (a tile) and that appear in some films and not in others "
    "can be found: not one that is in every film or spread over the film.",
    "What is smaller or rarer than the search page says may be there unseen.",
    "Fills can look unusual to the model; a control film is like its partner in class and place.",
    "A region next to the cause can carry part of its effect; where a finding shows is coarse.",
    "Labels are taken as given; a gap may come from labels that are more often wrong with it.",
)


_STOPPED_LIMITATIONS = (
    "This report is about a model on one set of films. Films of another site can differ. It is no "
    "diagnosis and no clinical validation.",
    "Whether the model uses shortcuts was not examined. Labels are taken as given.",
)


def method_chapter(result: AuditResult, thresholds: Mapping[str, str]) -> list[Block]:
    """Return the steps that were taken in own words, their thresholds and the limitations."""
    searched = result.discovery is not None
    blocks: list[Block] = [Chapter("Method and limitations", "method", NEW_PAGE)]
    if result.sanity is not None:
        blocks.append(Text(_SANITY))
    blocks += [Text(text) for text in (_search(result) if searched else _STOPPED)]
    blocks.append(Text(_sides(result)))
    rows = tuple(
        (rule, text)
        for rule, text in thresholds.items()
        if searched or not rule.startswith(_SEARCHING)
    )
    if rows:
        columns = sized(("", ""), (160, 0))
        blocks.append(Table("Thresholds", columns, rows, headed=False, limit=120))
    limits = LIMITATIONS if searched else _STOPPED_LIMITATIONS
    return [*blocks, Section("Limitations"), Items(limits, 1500)]


def _search(result: AuditResult) -> list[str]:
    """Return what a search did, from its proposals on."""
    protocol = result.discovery.protocol if result.discovery is not None else "pooled"
    told = [_REGIONS + _GROUPING[protocol], _CHOOSING]
    if not result.correlations:
        told.append(_NOTHING_CONFIRMED)
    else:
        told += [_CONFIRMING, *_interventions(result)]
    parts = [
        _SUBGROUPS if result.subgroups else "",
        _STRATA if any(entry.strata is not None for entry in result.correlations) else "",
    ]
    told += [" ".join(filter(None, parts))] if any(parts) else []
    last = [_SENSITIVITY] if result.sensitivity is not None else []
    return [*told, " ".join([*last, _THRESHOLDS])]


def _interventions(result: AuditResult) -> list[str]:
    """Say how correlations were tested on the model, or why none was."""
    tested = [e.counterfactual for e in result.correlations if e.counterfactual is not None]
    if tested:
        return [_USING, *([_KIND] if any(one.removal.shares is not None for one in tested) else [])]
    if result.task.scores == "table":
        return [f"{_NOT_TESTED}The model's scores are a table, and a table cannot be asked again."]
    return [f"{_NOT_TESTED}No correlation came so far."]


def _sides(result: AuditResult) -> str:
    """Say what the letter beside a film means, and how many films state their side."""
    films = result.cohort.images
    stated = sum(edge != "" for edge in result.left_edges)
    mirrored = result.left_edges.count("L")
    told = (
        "Sides. The letter beside a film is the side of the patient at its left edge (Right, Left, "
        "Anterior, Posterior, Head, Foot), as its header states it: on "
        f"{stated:,} of {plural(films, 'film')}"
    )
    told += f", {mirrored:,} of them mirrored (L)." if mirrored else "."
    if stated < films:
        told += (
            " Where it is not stated, names of anatomy take the left edge for the patient's right."
        )
    return told


SIGNERS = ("Validation engineer", "Radiologist", "Person responsible for deployment")

_STATEMENT = (
    "Who signs has read this report and takes note of its verdict, of the decisions of reviewers "
    "and of the limitations. A signature does not change the verdict, and it is no diagnosis, no "
    "clinical validation and no approval by an authority."
)
_ROLES = (
    "Validation engineer: the run was made with this model, these films and this config, and the "
    "thresholds were fixed before it.",
    "Radiologist: has looked at the films that this report shows, where it shows any, and stands "
    "by the medical decisions in it.",
    "Person responsible for deployment: knows the verdict and the limitations, and decides on the "
    "use of the model.",
)
_HOW = (
    "In the PDF, name, role, date and remarks can be filled in on a screen. A name that is filled "
    "in is no signature: sign on paper, or {electronically}. Any later change makes it another "
    "file."
)
_IN_A_FIELD = (
    "in the signature field of your role with any tool that signs PDF files, after your row was "
    "filled in"
)
_FROM_OUTSIDE = "sign the whole file with a tool of your institution, after it was filled in"


def signing_chapter(result: AuditResult, digests: Mapping[str, str]) -> list[Block]:
    """Return the last page: what is signed, what a signature says, and where to sign.

    Parameters
    ----------
    digests : mapping of name to digest - that of the films is "cohort"
    """
    name = result.verdict.name
    facts = (
        ("Run", printable(result.name, 80)),
        ("Model", printable(result.model.name, 80)),
        ("Model digest", printable(result.model.digest, 80)),
        ("Cohort digest", printable(digests.get("cohort", ""), 80) or DASH),
        ("Verdict", f"{VERDICT_WORDS[name]}. {VERDICT_LINES[name]}"),
        ("Status", f"{report_status(result)}. {status_sentence(result)}"),
        ("Decisions on correlations", _decisions(result)),
    )
    return [
        Chapter("Sign-off", "sign-off", NEW_PAGE),
        Table("What is signed", sized(("", ""), (120, 0)), facts, headed=False, dense=False),
        Section("What a signature says"),
        Text(_STATEMENT),
        Items(_ROLES),
        Text(_HOW.format(electronically=_IN_A_FIELD if can_sign() else _FROM_OUTSIDE), "muted"),
        SignOff(SIGNERS, can_sign()),
    ]


def status_sentence(result: AuditResult) -> str:
    """Say why the report is a draft, or that it is final."""
    if result.undecided is None:
        return "No review has been taken in."
    return (
        "Not all that asks for a reviewer is decided." if result.undecided else "Nothing is open."
    )


def _decisions(result: AuditResult) -> str:
    """Count what reviewers decided and what is open; before a review the latter is not known."""
    if result.sensitivity is None:
        return "none; the audit stopped before there was anything to decide"
    if result.undecided is None:
        return "none yet; what is open is counted with the first review"
    decided = sum(ruling.in_force for ruling in result.rulings)
    expired = len(result.rulings) - decided
    told = f"{plural(decided, 'correlation')} decided, {result.undecided:,} open"
    return f"{told}; {plural(expired, 'acceptance')} expired" if expired else told
