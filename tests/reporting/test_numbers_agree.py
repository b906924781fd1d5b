"""Every number of PDF, HTML, cards and console is that of the JSON, rounded in one way.

Three nets. What stands beside a known label in a sentence has the value of the JSON, and so the
same value wherever it stands. Each row that a table has to have is there. And no number with a
decimal point stands anywhere that the JSON does not hold.
"""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import mitigation_results as made
import pytest
from html_reading import read_html
from pypdf import PdfReader

import ravl_med as rm
from ravl_med.cli.console import print_audit, print_mitigation, print_review
from ravl_med.config.loading import Config
from ravl_med.evidence.audit_result import AuditResult, VerdictName, result_document
from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.pipeline.mitigate import Mitigation
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.cards.hub import model_card_text
from ravl_med.reporting.files.audit_run import Audit
from ravl_med.reporting.files.saved_run import SavedRun, read_archive
from ravl_med.reporting.mitigation.report import write_mitigation_report
from ravl_med.storage.documents import document_of

Truth = Mapping[str, set[tuple[str, ...]]]
CONFIG = Config.model_validate(
    {
        "name": "run",
        "cohort": {"manifest": "films.csv"},
        "task": {"classes": {"a": {"prompts": ["A."]}, "b": {"prompts": ["B."]}}},
        "model": {"path": "clip"},
        "evidence": {"relevance": "chest.yaml"},
        "privacy": {"min_cell": 0},  # the results here are shown whole
    }
)


class Outputs(NamedTuple):
    """Texts by name, and what the JSON holds."""

    texts: dict[str, str]
    document: Any


# The one way to write a number


def write(value: float | None, decimals: int = 0, *, scale: float = 1.0, sign: bool = False) -> str:
    if value is None:
        return "–"
    text = f"{scale * value:,.{decimals}f}"
    text = text.lstrip("-") if not re.search("[1-9]", text) else text.replace("-", "−")
    return f"+{text}" if sign and re.search("[1-9]", text) and text[0] != "−" else text


def points(value: float | None, decimals: int = 1) -> str:
    return write(value, decimals, scale=100.0, sign=True)


def percent(value: float | None, decimals: int = 1) -> str:
    text = write(value, decimals, scale=100.0)
    return text if text == "–" else f"{text} %"


def q_text(value: float | None) -> str:
    return "< 0.001" if value is not None and value < 0.001 else write(value, 3)


def bounds(values: list[float | None], writer: Callable[..., str], *more: Any) -> tuple[str, str]:
    return cast("tuple[str, str]", tuple(writer(value, *more) for value in values))


def spread(values: list[float | None], decimals: int = 1) -> str:
    low, high = (write(value, decimals, scale=100.0) for value in values)
    return "–" if "–" in (low, high) else f"{low} to {high}"


def estimate(value: float | None, interval: list[float | None], decimals: int = 1) -> str:
    low, high = bounds(interval, points, decimals)
    return points(value, decimals) + ("" if "–" in (low, high) else f" ({low} to {high})")


def logits(value: float | None, interval: list[float | None]) -> str:
    low, high = (write(one, 2, sign=True) for one in interval)
    return write(value, 2, sign=True) + ("" if "–" in (low, high) else f" ({low} to {high})")


# What sentences have to say

N = r"([+−-]?\d[\d,]*(?:\.\d+)?)"
Q = r"((?:< |below )?[\d.]+)"
OF_A_CORRELATION: dict[str, str] = {
    "called right": rf"Of {N} films? of (?P<of>[a-z ]+?) with it, {N} w\w+ called right; without "
    rf"it, {N} of {N}\.",
    "tested on": rf"They are among {N} films? of {N} patients? that had no part",
    "found and tested": rf"found on {N} patients?, \w+ on {N} others? \(q {Q}, corrected for {N} ",
    "taken out": rf"Taking it out lowers the score for [a-z ]+ by {N} \({N} to {N}\) logits "
    rf"and changes {N} \({N} to {N}\) of 100 answers, beyond control films",
    "taken out, other fill": rf"the weaker of two fills; the other: {N} logits, {N} of 100",
    "put in": rf"Putting it into other films raises it by {N} \({N} to {N}\) logits "
    rf"and changes {N} \({N} to {N}\) of 100 answers, beyond control films",
    "accuracy with and without": rf"[:;] (?P<of>[a-z ]+?) {N} % with it and {N} % without",
    "smallest in a subgroup": rf"smallest {N} points \((\w+ \w+)\)",
    "where the effect lies": rf"{N} % of the effect of removal comes from artifacts, {N} % from "
    rf"anatomy where [a-z ]+ shows, {N} % from elsewhere",
    "regions that carry it": rf"{N} of {N} measured regions? carry",
    "cluster": rf"Cluster {N} holds {N} regions? on {N} of {N} films",
    "score shift": rf"shifted by {N} \({N} to {N}\) on films of [a-z ]+ and by {N} \({N} to {N}\) ",
    "points more often": rf"finds [a-z ]+? {N} points more often(?: and [a-z ,]+? {N} points less "
    rf"often)? \(q {Q}\)",
    "removal, console": rf"; removal {N} logits",
    "transplant, console": rf", transplant {N}\.",
}
SENTENCES: dict[str, str] = {
    **OF_A_CORRELATION,
    "accuracy": rf"accuracy on {N} films: {N} % \({N} to {N}\)",
    "accuracy, console": rf"accuracy {N} %\.",
    "films of patients": rf"{N} films? of {N} patients?\b(?!,)",
    "candidates": rf"{N} candidates?\b",
    "what became of candidates": rf"{N} candidates?, {N} confirmed, {N} counted",
    "what became of clusters": rf"{N} clusters?, {N} candidates?, {N} confirmed on held-out "
    rf"patients, {N} used by the model",
    "detectable gap": rf"in (?P<of>\d+) %(?: of the films with a gap of|:) {N} points",
    "detectable gap, console": rf"{N} points at (?P<of>\d+) %",
    "cost of what is not named": rf"may cost:?(?: up to)? {N} "
    "points",
    "subgroups that differ": rf"Of {N} subgroups? that can be compared, {N} differ",
    "difference of a subgroup": rf"(?P<of>(?:view|sex) \w+) {N} points[,.]",
    "a subgroup, card": rf"(?P<of>(?:view|sex) \w+): {N} films? of {N} patients?, difference from "
    rf"the other films {N} points, q {Q}",
    "open": rf"(?:decide on {N} features?: No|\. {N} decisions? (?:still )?open|, {N} open\b|"
    rf"{N} features? still needs? a|{N} correlations? still to be|open: {N} features? asks? for)",
    "decided": rf"{N} (?:made,|decided\b)",
    "listed as open": r"decide on \d+ features?: No\. ([\d, ]+\d)",
    "tolerated until": r"(?:until|valid until) (\d{4}-\d\d-\d\d)",
    "shortcuts": rf"(?<!%){N} shortcuts?(?:, shown on| found)",
}


def claims(
    text: str, first: int, patterns: Mapping[str, str] = SENTENCES
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Give what the sentences of a text say: the label with its subject, and the numbers.

    What belongs to a correlation belongs to the last one that was named; before, to the `first`.
    """
    named = [(0, first)]
    mention = r"[Cc]orrelation (\d+)|\b(\d+)\. (?:Shortcut|Undecided|Plausible sign): with"
    named += [(found.start(), int(found[1] or found[2])) for found in re.finditer(mention, text)]
    for label, pattern in patterns.items():
        for match in re.finditer(pattern, text):
            name = label
            if label in OF_A_CORRELATION:
                name += f", correlation {max(one for one in named if one[0] <= match.start())[1]}"
            of = match.groupdict().get("of")
            said = [one for one in match.groups() if one is not None]
            if of is not None:
                said.remove(of)
                name += f", {of.removeprefix('and ').strip()}"
            yield name, tuple(said)


def truth_of(document: Any) -> Truth:
    """What the JSON says, by the labels of `claims`."""
    truth: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    accuracy, cohort, search = document["accuracy"], document["cohort"], document["discovery"]
    overall = write(accuracy["overall"], 1, scale=100.0)
    low, high = (write(one, 1, scale=100.0) for one in accuracy["interval"])
    truth["accuracy"].add((write(accuracy["images"]), overall, low, high))
    truth["accuracy, console"].add((overall,))
    halves = [search["discovery_half"], search["confirmation_half"]] if search else []
    extra = [document[one] for one in ("dependence", "looking") if document[one]]
    for one in ({"films": cohort["images"], "patients": cohort["patients"]}, *halves, *extra):
        truth["films of patients"].add((write(one["films"]), write(one["patients"])))
    for one in document["subgroups"]:
        truth["films of patients"].add((write(one["films"]), write(one["patients"])))
    _add_search(truth, document)
    for entry in document["correlations"]:
        _add_correlation(truth, entry, search, write(cohort["images"]))
    _add_sensitivity(truth, document["sensitivity"])
    _add_subgroups(truth, document["subgroups"])
    asked, decided = document["to_decide"] or [], [one["rank"] for one in document["rulings"]]
    left = [rank for rank in asked if rank not in decided]
    truth["open"] = {(write(len(left)),)}
    truth["decided"] = {(write(len(decided)),)}
    truth["listed as open"] = {(", ".join(map(str, left)),)}
    truth["tolerated until"] = {(one["until"],) for one in document["rulings"] if one["until"]}
    return truth


def _add_search(truth: dict[str, set[tuple[str, ...]]], document: Any) -> None:
    search, found = document["discovery"], document["correlations"]
    if search is None:
        return
    confirmed = write(sum(one["confirmed"] for one in found))
    counted = write(sum(one["counts"] for one in found))
    used = write(sum(bool(one["used"]) for one in found))
    candidates, clusters = write(search["candidates"]), write(search["clusters"])
    truth["candidates"] = {(candidates,), (write(document["sensitivity"]["candidates"]),)}
    truth["what became of candidates"] = {(candidates, confirmed, counted)}
    truth["what became of clusters"] = {(clusters, candidates, confirmed, used)}
    harmful = sum(one["counts"] and one["kind"] == "shortcut" for one in found)
    truth["shortcuts"] = {(write(harmful),)}


def _add_correlation(
    truth: dict[str, set[tuple[str, ...]]], entry: Any, search: Any, images: str
) -> None:
    test, of = entry["confirmation"], f", correlation {entry['rank']}"
    for name, arms in test["classes"].items():
        present, absent = arms["n_present"], arms["n_absent"]
        shares = (arms["accuracy_present"], arms["accuracy_absent"])  # null of no films
        right = (round(present * (shares[0] or 0)), round(absent * (shares[1] or 0)))
        truth[f"called right{of}, {name}"] = {tuple(map(write, (present, *right, absent)))}
        texts = tuple(write(one, 0, scale=100.0) for one in shares)
        truth[f"accuracy with and without{of}, {name}"] = {texts}
    truth[f"tested on{of}"] = {(write(test["films"]), write(test["patients"]))}
    truth[f"cluster{of}"] = {
        (
            str(entry["cluster"]),
            write(entry["regions_total"]),
            write(entry["films_with_feature"]),
            images,
        )
    }
    patients = [write(one["patients"]) for one in (search["discovery_half"], test)]
    known = q_text(entry["q_value"])
    truth[f"found and tested{of}"] = {(*patients, known, write(search["candidates"]))}
    raised = write(test["classes"][entry["raised_class"]]["gap"], 0, scale=100.0)
    lowered = write(test["opposed_gap"], 0, scale=-100.0)
    truth[f"points more often{of}"] = {(raised, lowered, known.replace("< ", "below "))}
    shift = entry["score_shift"]
    truth[f"score shift{of}"] = {
        tuple(
            write(one, 2, sign=True)
            for side in ("raised", "lowered")
            for one in (shift[side], *(shift[f"{side}_interval"] or ()))
        )
    }
    _add_interventions(truth, entry, of)
    strata = entry["strata"]
    for crossed in strata["attributes"].items() if strata else ():
        for one in crossed[1]["raised"]:
            value = f"{crossed[0]} {one['value']}"
            truth[f"smallest in a subgroup{of}"].add((points(one["gap"]), value))


def _add_interventions(truth: dict[str, set[tuple[str, ...]]], entry: Any, of: str) -> None:
    removal, transplant = entry["removal"], entry["transplant"]
    if removal is None:
        return
    regions = (write(removal["carrying"]), write(removal["measured"]))
    truth[f"regions that carry it{of}"] = {regions}
    if removal["shares"]:
        names = ("artifact", "inside", "elsewhere")
        texts = tuple(write(removal["shares"][one], 0, scale=100.0) for one in names)
        truth[f"where the effect lies{of}"] = {texts}
    fills = [removal[one] for one in ("typical", "replaced") if removal[one]]
    weaker = sorted(fills, key=lambda one: float(one["contrast"]))
    for name, made_of in (("taken out", weaker[0] if weaker else None), ("put in", transplant)):
        if made_of:
            shift = (made_of["contrast"], *made_of["interval"])
            calls = (made_of["decisions"], *made_of["decisions_interval"])
            texts = tuple(write(one, 2) for one in shift)
            truth[f"{name}{of}"] = {texts + tuple(write(one, 0, scale=100.0) for one in calls)}
    if weaker[1:]:
        other = write(weaker[1]["contrast"], 2), write(weaker[1]["decisions"], 0, scale=100.0)
        truth[f"taken out, other fill{of}"] = {other}
    for name, one in (("removal", removal["both"]), ("transplant", transplant)):
        truth[f"{name}, console{of}"] = {(write(one["contrast"], 2, sign=True),)} if one else set()


def _add_sensitivity(truth: dict[str, set[tuple[str, ...]]], sensitivity: Any) -> None:
    if sensitivity is None:
        return
    truth["cost of what is not named"] = {(write(sensitivity["local"]["points"], 1, scale=100.0),)}
    for one in sensitivity["detectable"]:
        share = write(one["prevalence"], 0, scale=100.0)
        for label in ("detectable gap", "detectable gap, console"):
            truth[f"{label}, {share}"] = {(write(one["gap"], 0, scale=100.0),)}


def _add_subgroups(truth: dict[str, set[tuple[str, ...]]], subgroups: Any) -> None:
    compared = [one for one in subgroups if not one["insufficient"]]
    differ = sum(one["q_value"] <= 0.05 for one in compared)
    truth["subgroups that differ"] = {(write(len(compared)), write(differ))}
    for one in compared:
        name, difference = f"{one['attribute']} {one['value']}", points(one["difference"])
        truth[f"difference of a subgroup, {name}"] = {(difference,)}
        counts = (write(one["films"]), write(one["patients"]))
        truth[f"a subgroup, card, {name}"] = {(*counts, difference, q_text(one["q_value"]))}


# What tables have to say


def rows_of(document: Any) -> Iterator[tuple[str, ...]]:
    """Rows that stand in the PDF and in the HTML, cell by cell; what is drawn is left out."""
    accuracy = document["accuracy"]
    for name, one in accuracy["classes"].items():
        measured = percent(one["accuracy"]), spread(one["interval"])
        yield name, write(one["images"]), *measured, percent(one["predicted_share"])
    for one in document["subgroups"]:
        few = one["insufficient"]
        yield (
            one["value"],
            write(one["films"]),
            write(one["patients"]),
            percent(one["accuracy"]),
            spread(one["interval"]),
            "insufficient" if few else points(one["difference"]),
            "–" if few else q_text(one["q_value"]),
        )
    for one in document["sensitivity"]["detectable"]:
        gap = "not even 100 points" if one["gap"] is None else write(one["gap"], 0, scale=100.0)
        yield percent(one["prevalence"], 0), gap, percent(one["power_at_largest"], 0)
    found, search = document["correlations"], document["discovery"]
    steps = [search[one] for one in ("clusters", "survivors", "candidates")]
    steps += [sum(bool(one[key]) for one in found) for key in ("confirmed", "used", "counts")]
    yield tuple(map(write, steps))
    shown = set(document["to_decide"]) | {one["rank"] for one in found if one["counts"]}
    for entry in found:
        yield from _paged(entry, search) if entry["rank"] in shown else [_listed(entry)]
    for one in document["gates"].items():
        yield "✓ met" if one[1]["passed"] else "✗ not met", one[0], one[1]["text"]
    for one in document["rulings"]:
        yield str(one["rank"]), f"tolerated until {one['until']}", one["reason"], one["name"]


def _listed(entry: Any) -> tuple[str, ...]:
    """A correlation without a page."""
    found, test = entry["discovery"], entry["confirmation"]
    gap = test["classes"][entry["raised_class"]]["gap"]
    return (
        str(entry["rank"]),
        entry["description"],
        entry["raised_class"],
        write(found["performance_gap"], 2),
        write(found["influence"], 2),
        f"{points(gap, 0)} / {points(test['opposed_gap'], 0)}",
        q_text(entry["q_value"]),
    )


def _paged(entry: Any, search: Any) -> Iterator[tuple[str, ...]]:
    """A correlation with a page: what was found, tested, removed, and put in."""
    found, test, raised = entry["discovery"], entry["confirmation"], entry["raised_class"]
    for name, one in test["classes"].items():
        yield (
            name,
            f"{write(one['n_present'])} / {write(one['n_absent'])}",
            percent(one["accuracy_present"]),
            percent(one["accuracy_absent"]),
            estimate(one["gap"], one["gap_interval"]),
            points(found["classes"][name]["gap"]),
        )
    counts = [
        " / ".join(
            write(sum(one[key] for one in half.values())) for key in ("n_present", "n_absent")
        )
        for half in (found["classes"], test["classes"])
    ]
    half = search["discovery_half"]
    yield (
        f"{write(half['films'])} ({write(half['patients'])})",
        counts[0],
        write(found["performance_gap"], 2),
        write(found["influence"], 2),
        points(found["classes"][raised]["gap"]),
        points(found["opposed_gap"]),
    )
    yield (
        f"{write(test['films'])} ({write(test['patients'])})",
        counts[1],
        estimate(test["classes"][raised]["gap"], test["classes"][raised]["gap_interval"]),
        estimate(test["opposed_gap"], test["opposed_gap_interval"]),
    )
    keys = ("p_raised", "p_lowered", "p_value", "q_value")
    yield tuple(q_text(entry[one]) for one in keys)
    removal = entry["removal"] or {}
    tested = {
        "Removal, typical": removal.get("typical"),
        "Removal, replaced": removal.get("replaced"),
        "Removal, both": removal.get("both"),
        "Transplant": entry["transplant"],
    }
    for name, one in tested.items() if entry["tested"] else ():
        if one:
            yield (
                name,
                f"{write(one['pairs'])} ({write(one['patients'])})",
                write(one["change"], 2, sign=True),
                write(one["control"], 2, sign=True),
                logits(one["contrast"], one["interval"]),
                estimate(one["decisions"], one["decisions_interval"]),
            )
    for name, crossed in (entry["strata"] or {"attributes": {}})["attributes"].items():
        yield (
            f"adjusted for {name}",
            write(crossed["association"], 2),
            estimate(crossed["raised_adjusted"], crossed["raised_interval"]),
            estimate(crossed["lowered_adjusted"], crossed["lowered_interval"]),
        )


def card_metrics(document: Any) -> Iterator[tuple[str, float, list[float]]]:
    """Key metrics of CHAI's card: a label, a value, an interval; points and percent."""
    accuracy = document["accuracy"]
    yield "Accuracy, all classes", accuracy["overall"], accuracy["interval"]
    for name, one in accuracy["classes"].items():
        yield f"Accuracy on films of {name}", one["accuracy"], one["interval"]
    for one in document["subgroups"]:
        if not one["insufficient"]:
            name = f"Accuracy, {one['attribute']} {one['value']}"
            yield name, one["accuracy"], one["interval"]
    for entry in document["correlations"]:
        test, raised = entry["confirmation"], entry["raised_class"]
        if entry["counts"]:
            own = test["classes"][raised]
            yield (
                f"Correlation {entry['rank']}, accuracy with minus without the feature, on films "
                f"of {raised}",
                own["gap"],
                own["gap_interval"],
            )


# What must not be there

DECIMAL = re.compile(r"(?<![\w.:/^])\d+\.\d+(?![\w.]*\w)")
FIXED = {"0.07", "2411.04097", "0.25", "0.05", "0.5", "0.1", "0.55"}
"""Decimals of texts that hold for every audit, and of the thresholds of these."""


def known_decimals(document: Any) -> set[str]:
    """Every number of the JSON in every way that the house has to round it."""
    known, left = set(FIXED), [document]
    while left:
        match left.pop():
            case dict() as one:
                left += one.values()
            case list() as some:
                left += some
            case str() as text:
                known |= set(DECIMAL.findall(text))
            case bool() | None:
                continue
            case int() | float() as value:
                known |= {f"{abs(s * value):.{d}f}" for s in (1, 100) for d in (1, 2, 3)}
    return known


def squeezed(text: str) -> str:
    return re.sub(r"[\s|*\\]|<br>", "", text)


def contradictions(outputs: Outputs, *, every_row: bool = True) -> list[str]:
    """Every number of the texts that is not that of the JSON, in words.

    Long tables end before their last row; then only rows that are begun have to go on as they do.
    """
    texts, document = outputs
    truth, known, found = truth_of(document), known_decimals(document), []
    first = next((one["rank"] for one in document["correlations"] if one["counts"]), 1)
    for output, text in texts.items():
        for label, said in claims(text, first):
            if said not in truth.get(label, set()):
                found.append(f"{output}: {label}: {said}, expected {truth.get(label)}")
        strange = sorted(set(DECIMAL.findall(text)) - known)
        found += [f"{output}: {number} is no number of the JSON" for number in strange]
    for output in ("PDF", "HTML"):
        whole = squeezed(texts[output])
        for row in rows_of(document):
            begun = every_row or squeezed("".join(row[:2])) in whole
            if begun and squeezed("".join(row)) not in whole:
                found.append(f"{output}: no row {' | '.join(row)}")
    for label, value, interval in card_metrics(document):
        estimate_and_bounds = [round(100 * one, 1) for one in (value, *interval)]
        numbers = dict(zip(("estimate", "lower", "upper"), estimate_and_bounds, strict=True))
        said = re.search(re.escape(label) + r" (\{.*?\})", texts["model_card.xml"])
        if said is None or not numbers.items() <= json.loads(said[1]).items():
            found.append(f"model_card.xml: {label} is not {numbers}")
    return found


# What is said of a result, in every place


def html_text(folder: Path) -> str:
    """The text of the page, without its navigation."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    return read_html(re.sub(r"<nav\b.*?</nav>", "", page, flags=re.DOTALL)).text


def pdf_text(folder: Path) -> str:
    return " ".join(page.extract_text() for page in PdfReader(folder / "report.pdf").pages)


def flat(text: str) -> str:
    """On one line, without what a page adds: its number, and references to pages."""
    text = re.sub(r" \(page \d+\)", "", " ".join(text.split()))
    return re.sub(r"[\w-]+ (?:DRAFT |FINAL )?· RaVL-Med [\d.]+ page \d+ of \d+ ?", "", text)


def printed(say: Callable[[], None]) -> str:
    """What is said on the console, without the cost of the run."""
    with redirect_stdout(io.StringIO()) as stream:
        say()
    return re.sub(r"\(\d+ s, [\d.]+ GB\)", "", stream.getvalue())


def outputs_of(result: AuditResult, folder: Path) -> Outputs:
    none = cast("Any", None)
    run = Audit(CONFIG, result, none, none, none, Path(), "", "", {"report": 1.0}, False, ())
    card = ElementTree.parse(folder / "model_card.xml").getroot()
    texts = {
        "PDF": pdf_text(folder),
        "HTML": html_text(folder),
        "model_card.md": (folder / "model_card.md").read_text(encoding="utf-8"),
        "model_card.xml": " ".join(card.itertext()),
        "console": printed(lambda: print_audit(run, folder, Path("my.yaml"))),
        "console, review": printed(lambda: print_review(result, folder)),
    }
    document = result_document(result, 20).model_dump(mode="json")
    return Outputs({name: flat(text) for name, text in texts.items()}, document)


@pytest.fixture(scope="module")
def said(
    verdict_results: Mapping[str, AuditResult],
    report_of: Callable[[AuditResult, ReportDetails], Path],
    details: ReportDetails,
) -> dict[str, Outputs]:
    """Outputs by verdict."""
    return {
        name: outputs_of(result, report_of(result, replace(details, regions_shown=2)))
        for name, result in verdict_results.items()
    }


@pytest.mark.parametrize("verdict", get_args(VerdictName))
def test_no_number_of_an_audit_contradicts(verdict: str, said: dict[str, Outputs]) -> None:
    assert said[verdict].document["verdict"] == verdict
    found = contradictions(said[verdict])
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_no_number_of_a_real_audit_contradicts(tmp_path: Path) -> None:
    run = rm.audit(
        Path(__file__).parents[2] / "configs" / "quickstart.yaml",
        cohort={"synthetic": {"images": 1600, "size": 128}},
        model={"quickstart": {"image_size": 64, "epochs": 14}},
        discovery={"draws": 2, "clusters": [20, 40]},
        out=tmp_path / "run",
    )
    outputs = outputs_of(read_archive(SavedRun, run.folder / "private").result, run.folder)
    written = json.loads((run.folder / "result.json").read_text(encoding="utf-8"))
    outputs = outputs._replace(document=written)
    claimed = sum(len(list(claims(text, 1))) for text in outputs.texts.values())
    assert claimed > 100
    found = contradictions(outputs, every_row=False)
    assert not found, "\n".join(found)


def test_each_label_is_found(said: dict[str, Outputs]) -> None:
    texts = [text for outputs in said.values() for text in outputs.texts.values()]
    found = {name for text in texts for name, _ in claims(text, 1)}
    assert [one for one in SENTENCES if not any(name.startswith(one) for name in found)] == []
    least = {"PDF": 50, "HTML": 50, "model_card.md": 15, "model_card.xml": 15, "console": 10}
    for output, count in least.items():
        assert len(list(claims(said["fail"].texts[output], 1))) >= count


def changed(document: Any, path: Sequence[str | int]) -> Any:
    """The document with one number larger by a little."""
    if not path:
        return document + (1 if isinstance(document, int) else 0.0201)
    key, *rest = path
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[key] = changed(document[key], rest)
    return copy


NUMBERS = (
    ("accuracy overall", {"PDF", "HTML", "model_card.md", "model_card.xml", "console"}),
    ("accuracy classes cardiomegaly predicted_share", {"PDF", "HTML"}),
    ("cohort patients", {"PDF", "HTML", "model_card.md", "console"}),
    ("discovery candidates", {"PDF", "HTML", "model_card.md", "console"}),
    ("discovery confirmation_half patients", {"PDF", "HTML"}),
    ("subgroups 0 difference", {"PDF", "HTML", "model_card.xml"}),
    ("sensitivity detectable 2 gap", {"PDF", "HTML", "model_card.md", "model_card.xml", "console"}),
    ("sensitivity local points", {"PDF", "HTML", "model_card.md", "model_card.xml", "console"}),
    ("correlations 0 q_value", {"PDF", "HTML", "console"}),
    ("correlations 0 confirmation classes no finding accuracy_present", {"PDF", "HTML"}),
    ("correlations 0 confirmation opposed_gap", {"PDF", "HTML", "console"}),
    ("correlations 0 removal replaced contrast", {"PDF", "HTML"}),
    ("correlations 0 removal carrying", {"PDF", "HTML"}),
    ("correlations 0 transplant decisions", {"PDF", "HTML"}),
    ("correlations 0 strata attributes view raised_adjusted", {"PDF", "HTML"}),
    ("correlations 4 discovery performance_gap", {"PDF", "HTML"}),
)


@pytest.mark.parametrize(("path", "where"), NUMBERS)
def test_a_number_that_differs_is_noticed(
    path: str, where: set[str], said: dict[str, Outputs]
) -> None:
    keys = [int(key) if key.isdigit() else key for key in path.replace("no finding", "no_").split()]
    keys = ["no finding" if key == "no_" else key for key in keys]
    texts, document = said["fail"]
    found = contradictions(Outputs(texts, changed(document, keys)))
    assert where <= {one.split(":")[0] for one in found}


@pytest.mark.parametrize("output", ["PDF", "HTML", "model_card.md", "console"])
def test_a_text_that_differs_is_noticed(output: str, said: dict[str, Outputs]) -> None:
    texts, document = said["fail"]
    for true, false in (("73.4 %", "73.5 %"), ("7 candidates", "72 candidates")):
        assert true in texts[output]
        wrong = {**texts, output: texts[output].replace(true, false)}
        assert {one.split(":")[0] for one in contradictions(Outputs(wrong, document))} == {output}


# The same of a mitigation

MITIGATION: dict[str, str] = {
    "worsened": rf"{N} of {N} measured classes, groups and subgroups have a lower accuracy than "
    r"before; for (\w+) of them",
    "films of the final test": rf"(?:the same|whole film;) {N} films",
    "companion regions": rf"goes along \({N} regions\)",
    "console": rf"(?P<of>RaVL\w*(?: with counterfactual regions)?|audited model) +overall +{N} % +"
    rf"worst group +{N} %",
}


def mitigation_truth(document: Any) -> Truth:
    """What the JSON says, by the labels of `MITIGATION`."""
    delivered = next(arm for arm in document["arms"] if arm["delivered"])
    parts = [*delivered["classes"].values(), *delivered["groups"].values()]
    parts += [one["accuracy"] for one in delivered["subgroups"]]
    surely = sum(one["difference_interval"][1] < 0 for one in parts)
    worsened = sum(one["difference"] < 0 for one in parts)
    films = write(document["arms"][0]["image_overall"]["films"])
    return {
        "worsened": {(write(worsened), write(len(parts)), write(surely))},
        "films of the final test": {(films,)},
        "companion regions": {(write(document["companion_regions"]),)},
        **{
            f"console, {arm['title']}": {
                tuple(
                    write(arm[one]["after"], 1, scale=100.0)
                    for one in ("image_overall", "image_worst")
                )
            }
            for arm in document["arms"]
        },
    }


def with_interval(value: float, interval: list[float], writer: Callable[..., str]) -> str:
    decimals, scale, unit = (3, 1.0, "") if writer is write else (1, 100.0, " %")
    low, high = (write(one, decimals, scale=scale) for one in interval)
    return f"{write(value, decimals, scale=scale)}{unit} ({low} to {high})"


def difference(change: Any) -> str:
    low, high = change["difference_interval"]
    sure = " *" if low > 0 or high < 0 else ""
    return estimate(change["difference"], change["difference_interval"]) + sure


def mitigation_rows(document: Any) -> Iterator[tuple[str, ...]]:
    """Rows of the tables of all arms, and of the delivered one."""
    for split in document["splits"]:
        classes = ", ".join(f"{name} {films}" for name, films in split["by_class"].items())
        yield split["role"], write(split["films"]), write(split["patients"]), classes
    before = next(arm for arm in document["arms"] if arm["role"] == "before")
    for arm in document["arms"]:
        cells = [
            with_interval(arm[one]["after"], arm[one]["interval"], percent)
            + (f" {difference(arm[one])}" if arm is not before else "")
            for one in ("image_overall", "image_worst")
        ]
        yield "DELIVERED" if arm["delivered"] else "", *cells
    arm = next(arm for arm in document["arms"] if arm["delivered"])
    changes = [(name, one, before["classes"][name]) for name, one in arm["classes"].items()]
    changes += [(name, one, before["groups"][name]) for name, one in arm["groups"].items()]
    changes += [
        (f"{one['attribute']}: {one['value']}", one["accuracy"], other["accuracy"])
        for one, other in zip(arm["subgroups"], before["subgroups"], strict=True)
    ]
    for name, one, audited in changes:
        yield (
            name,
            write(one["films"]),
            with_interval(one["before"], audited["interval"], percent),
            with_interval(one["after"], one["interval"], percent),
            difference(one),
        )


def mitigation_contradictions(outputs: Outputs) -> list[str]:
    """Every number of the texts that is not that of the JSON, in words."""
    texts, document = outputs
    truth, known, found = mitigation_truth(document), known_decimals(document), []
    for output, text in texts.items():
        for label, said in claims(text, 1, MITIGATION):
            if said not in truth.get(label, set()):
                found.append(f"{output}: {label}: {said}, expected {truth.get(label)}")
        strange = sorted(set(DECIMAL.findall(text)) - known)
        found += [f"{output}: {number} is no number of the JSON" for number in strange]
        if output in ("PDF", "HTML"):
            whole = squeezed(text)
            rows = [one for one in mitigation_rows(document) if squeezed("".join(one)) not in whole]
            found += [f"{output}: no row {' | '.join(row)}" for row in rows]
    return found


def test_the_console_says_what_something_foreign_does_where_no_gap_is_confirmed(
    full_result: AuditResult,
) -> None:
    """Of the first, 42 % of the wrong calls on 35 % of the films are its doing; or none is."""
    first = full_result.correlations[0]
    unshown = replace(first, confirmation=replace(first.confirmation, status="raised_only"))
    assert unshown.counterfactual is not None
    assert "; 15 % of the other films are wrong for it; removal" in print_line(unshown, full_result)
    removal = replace(unshown.counterfactual.removal, wrong_calls=None)
    turning = replace(unshown, counterfactual=replace(unshown.counterfactual, removal=removal))
    assert "; put in, it changes 38 of 100 answers; removal" in print_line(turning, full_result)


def test_the_console_shows_no_more_than_the_report(full_result: AuditResult) -> None:
    shown = print_line(full_result.correlations[0], full_result, min_cell=11)
    assert "accuracy 75.0 %" in shown
    assert "cardiomegaly – points more often" in shown
    cohort = replace(full_result.cohort, patients=7)
    few = print_line(full_result.correlations[0], replace(full_result, cohort=cohort), min_cell=11)
    assert "films of a hidden number of patients" in few
    assert "nan" not in shown + few


def print_line(correlation: SpuriousCorrelation, result: AuditResult, min_cell: int = 0) -> str:
    """The line of a correlation on the console."""
    lines = replace(result, correlations=(correlation,))
    none = cast("Any", None)
    privacy = CONFIG.privacy.model_copy(update={"min_cell": min_cell})
    config = CONFIG.model_copy(update={"privacy": privacy})
    run = Audit(config, lines, none, none, none, Path(), "", "", {"report": 1.0}, False, ())
    return printed(lambda: print_audit(run, Path("out"), Path("my.yaml")))


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    result, folder, none = made.improved(), tmp_path_factory.mktemp("repaired"), cast("Any", None)
    write_mitigation_report(result, made.details(), folder)
    run = Mitigation(CONFIG, result, none, None, {"report": 1.0}, {}, folder)
    texts = {
        "PDF": pdf_text(folder),
        "HTML": html_text(folder),
        "model card": model_card_text(result, made.details()),
        "console": printed(lambda: print_mitigation(run, folder)),
    }
    document = document_of(result).model_dump(mode="json")
    return Outputs({name: flat(text) for name, text in texts.items()}, document)


def test_no_number_of_a_mitigation_contradicts(repaired: Outputs) -> None:
    found = mitigation_contradictions(repaired)
    assert not found, "\n".join(found)
    labels = {name for text in repaired.texts.values() for name, _ in claims(text, 1, MITIGATION)}
    assert [one for one in MITIGATION if not any(name.startswith(one) for name in labels)] == []


@pytest.mark.parametrize("path", ["image_worst after", "classes pneumonia after", "auroc after"])
def test_a_number_of_a_mitigation_that_differs_is_noticed(path: str, repaired: Outputs) -> None:
    texts, document = repaired
    last = len(document["arms"]) - 1
    wrong = Outputs(texts, changed(document, ["arms", last, *path.split()]))
    assert {"PDF", "HTML"} <= {one.split(":")[0] for one in mitigation_contradictions(wrong)}
