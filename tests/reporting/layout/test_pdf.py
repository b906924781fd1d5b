import io
import re
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hostile_results import FIVE, HOSTILE, entries_of, hostile_result
from pypdf import PdfReader

from ravl_med.evidence.audit_result import Verdict
from ravl_med.evidence.results import CrossedAttribute, Interval, Strata, StratumGap
from ravl_med.reporting.audit.history import AuditHistory
from ravl_med.reporting.audit.report import write_report
from ravl_med.reporting.audit.verdict import NEXT_STEPS
from ravl_med.reporting.pictures import shown_correlations
from ravl_med.reporting.wording import (
    estimate,
    gate_mark,
    number,
    percent,
    probability,
    signed,
    spread,
)

NAN = float("nan")
NOTHING = Interval(NAN, NAN)


def write_pdf(result, film, details, path: Path) -> None:
    write_report(result, film, details, path.parent)
    (path.parent / "report.pdf").replace(path)


def flat(text: str) -> str:
    """Text on one line, as `pages_of` gives it."""
    return " ".join(text.split())


@cache
def pages_of(path: Path) -> list[str]:
    """Text of each page on one line; of a file that stays as it is."""
    reader = PdfReader(io.BytesIO(path.read_bytes()))
    return [flat(page.extract_text()) for page in reader.pages]


def part(pages: list[str], rank: int) -> str:
    """The text of one correlation, however many pages it takes, and its numbers in the annex."""
    ends = r"Correlation \d+: |Model and cohort"
    starts = [at for at, page in enumerate(pages) if re.match(ends, page)]
    at = next(at for at in starts if pages[at].startswith(f"Correlation {rank}: "))
    whole = " ".join(pages)
    numbers = whole[whole.index(f"Numbers of correlation {rank} ") :]
    end = re.search(r".(Numbers of correlation \d|What the answers depend on)", numbers)
    return " ".join([*pages[at : starts[starts.index(at) + 1]], numbers[: end.start()]])


def search_part(pages: list[str]) -> str:
    """Features without a page, and how the search went."""
    whole = " ".join(pages)
    start = "Features without a page of their own"
    start = start if start in whole else "Search for shortcuts"
    end = re.search(r"Checks and subgroups|Prompts, digests and rows", whole[whole.index(start) :])
    return whole[whole.index(start) :][: end.start()]


@pytest.fixture
def text_of(report_of, details):
    def make(result, **changes):
        if result.to_decide is None:  # a page for each
            ranks = tuple(entry.rank for entry in result.correlations)
            result = replace(result, to_decide=ranks)
        return pages_of(report_of(result, replace(details, **changes)) / "report.pdf")

    return make


def test_verdict_page(result_of, text_of):
    result = result_of()
    first = text_of(result)[0]
    assert "Fail" in first
    assert "DRAFT" in first
    assert result.title in first
    assert result.model.name in first
    assert result.verdict.reasons[0] in first
    assert "page 1 of" in first
    assert "The model takes a pulse generator for cardiomegaly." in first
    assert "Of 8 films of no finding with it, 2 were called right; without it, 15 of 17." in first


def test_how_sure_tells_gaps_q_and_contrasts_of_what_counts(result_of, text_of):
    result = result_of(correlations=3)
    first = text_of(result)[0]
    sure = first[first.index("How sure") : first.index("What could have been missed")]
    entry = result.correlations[0]
    tested = entry.counterfactual
    fills = sorted(
        (tested.removal.typical, tested.removal.replaced), key=lambda fill: fill.contrast
    )
    for change in (fills[0], tested.transplant):
        score = flat(estimate(change.contrast, change.interval, 2, scale=1.0)).replace("+", "")
        decisions = flat(estimate(change.decisions, change.decisions_interval, 0)).replace("+", "")
        changed = f"by {score} logits and changes {decisions} of 100 answers, beyond control films"
        assert changed in sure
    assert f"the weaker of two fills; the other: {fills[1].contrast:.2f} logits" in sure
    assert "found on 35 patients, confirmed on 35 others (q < 0.001, corrected for 3" in sure


_FOOT = 3  # lines of text at the foot of a page
VERDICTS = ("fail", "conditional", "review", "pass", "not_auditable")


@pytest.mark.parametrize("name", VERDICTS)
def test_page_one_says_what_next_whatever_the_verdict(verdict_results, text_of, name):
    result = verdict_results[name]
    first = text_of(result)[0]
    assert flat(NEXT_STEPS[result.verdict.name]) in first
    assert "This report is about a model, not about a patient." in first or result.rulings


def placed_text(page) -> list[float]:
    """Heights of the pieces of text on a page, in points, the lowest first."""
    places: list[float] = []

    def place(text, cm, tm, *_) -> None:
        if text.strip():
            places.append(tm[5] + cm[5])

    page.extract_text(visitor_text=place)
    return sorted(places)


def test_no_page_before_the_annex_is_mostly_empty(result_of, report_of, details):
    few = replace(result_of(correlations=3), to_decide=(1,))
    document = PdfReader(report_of(few, details) / "report.pdf")
    lowest = []
    for page in document.pages:
        if page.extract_text().startswith("Annex"):
            break
        places = placed_text(page)
        lowest.append(places[_FOOT] / float(page.mediabox.height))
    assert 5 <= len(lowest) <= 10
    assert max(lowest[:-1]) < 0.6, lowest  # but for the page to sign


def test_gates_by_name(result_of, text_of):
    result = result_of()
    first = text_of(result)[0]
    for gate in result.verdict.gates:
        assert f"{gate_mark(gate)} {gate.name} {gate.text}" in first


def test_history_stands_on_page_one(result_of, text_of):
    assert "audit of this model on these films" not in text_of(result_of())[0]
    first = text_of(result_of(), history=AuditHistory(1, (), (), {}))[0]
    assert "This is the first audit of this model on these films." in first
    third = AuditHistory(
        3,
        (("evidence.min_gap", 0.05, 0.1), ("task.templates", ["{}"], None)),
        ("discovery.seed", "evidence.min_gap"),
        {"fail": 1, "not_auditable": 1},
    )
    assert (
        "This is the 3rd audit of this model on these films; changed since the last: "
        'evidence.min_gap 0.05 -> 0.1, task.templates ["{}"] -> not set; changed at some time '
        "before: discovery.seed; earlier verdicts: 1 fail, 1 not auditable."
    ) in text_of(result_of(), history=third)[0]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("fail", "Fail"),
        ("review", "Review"),
        ("conditional", "Conditional"),
        ("pass", "Pass"),
        ("not_auditable", "Not auditable"),
    ],
)
def test_verdict_words(result_of, text_of, name, word):
    result = result_of(correlations=0, verdict=Verdict(name, ("A reason.",)))
    first = text_of(result)[0]
    assert word in first
    assert "A reason." in first


def test_numbers_are_those_of_the_result(result_of, text_of):
    result = result_of()
    pages = text_of(result)
    whole = " ".join(pages)
    performance = whole[whole.index("Zero-shot accuracy on") :][:1500]
    for value in (*result.accuracy.by_class, result.accuracy.overall):
        assert flat(percent(value, 1)) in performance
    for entry in result.correlations:
        text, arms = part(pages, entry.rank), entry.confirmation.arms
        assert result.task.classes[entry.cluster.raised_class] in text
        for c in range(len(result.task.classes)):
            assert (
                f"{arms.n_present[c]} / {arms.n_absent[c]} "
                f"{flat(percent(float(arms.accuracy_present[c]), 1))} "
                f"{flat(percent(float(arms.accuracy_absent[c]), 1))} "
                f"{flat(estimate(float(arms.gap[c]), arms.gap_interval[c]))} "
                f"{signed(100 * float(entry.cluster.gap[c]))}"
            ) in text
        removal = entry.counterfactual.removal
        positions = entry.order[:10]
        images = result.region_image[entry.cluster.regions[positions]]
        for position, image in zip(positions, images, strict=True):
            assert f"removal effect {signed(float(removal.effect[position]), 2)}" in text
            assert result.image_ids[image] in text
    assert "a chest film with no finding" in whole
    assert "arXiv 2411.04097" in whole
    assert "nan" not in re.findall(r"[a-z]+", whole)


def test_evidence_tells_what_was_found_and_what_was_tested(result_of, text_of):
    result = result_of(correlations=5)
    pages = text_of(result)
    for entry in result.correlations:
        text, cluster, test = part(pages, entry.rank), entry.cluster, entry.confirmation
        found = (
            f"Found, discovery half 58 (35) {cluster.n_present.sum()} / {cluster.n_absent.sum()} "
            f"{number(cluster.performance_gap)} {number(cluster.influence)} "
            f"{signed(100 * float(cluster.gap[0]))} {signed(100 * cluster.opposed_gap)}"
        )
        assert found in text
        assert (
            flat(
                f"Tested, confirmation half {test.films} ({test.patients}) "
                f"{test.arms.n_present.sum()} / {test.arms.n_absent.sum()} "
                f"{estimate(float(test.arms.gap[0]), test.arms.gap_interval[0])} "
                f"{estimate(test.arms.opposed_gap, test.arms.opposed_interval)}"
            )
            in text
        )
        values = (test.p_raised, test.p_lowered, test.p_value, test.q_value)
        kind = "exact, one film per patient" if test.exact else "permutation of whole patients"
        assert flat(f"{' '.join(map(probability, values))} {kind}") in text
        shift = flat(estimate(test.shift.raised, test.shift.raised_interval, 2, scale=1.0))
        assert f"shifted by {shift} on films of cardiomegaly" in text
    assert "2 near-identical clusters (3, 47) are merged into this one." in part(pages, 1)


def test_what_effects_proposed_says_so(result_of, text_of):
    result = result_of(correlations=1)
    (entry,) = result.correlations
    proposed = replace(entry, cluster=replace(entry.cluster, source="effects"))
    said = "Found by the effects of removal, not by clustering."
    assert said in part(text_of(replace(result, correlations=(proposed,))), 1)
    assert said not in part(text_of(result), 1)


def test_a_candidate_of_the_other_direction_says_so(result_of, text_of):
    result = result_of(correlations=1)
    entry = result.correlations[0]
    swapped = replace(entry, confirmation=replace(entry.confirmation, swapped=True))
    text = part(text_of(replace(result, correlations=(swapped,))), 1)
    assert "Found, confirmation half 62 (35)" in text
    assert "Tested, discovery half" in text
    assert "it was found on the confirmation half and tested on the other" in text


def test_interventions_in_a_table(result_of, text_of):
    result = result_of(correlations=5)
    pages = text_of(result)
    tested = result.correlations[0].counterfactual
    rows = {
        "Removal, typical": tested.removal.typical,
        "Removal, replaced": tested.removal.replaced,
        "Removal, both": tested.removal.both,
        "Removal, wrong calls": tested.removal.wrong_calls,
        "Transplant": tested.transplant,
    }
    for name, change in rows.items():
        assert flat(
            f"{name} {change.pairs} ({change.patients}) {signed(change.change, 2)} "
            f"{signed(change.control, 2)} "
            f"{estimate(change.contrast, change.interval, 2, scale=1.0)} "
            f"{estimate(change.decisions, change.decisions_interval)}"
        ) in part(pages, 1)
    assert "Used by the model: yes, shown by removal and transplant." in part(pages, 1)
    assert "The test of whether the model uses it has q 0.001." in part(pages, 1)
    assert "over films is 2.40; films with the feature start 0.04 of it above" in part(pages, 1)
    where = "92 % of the effect of removal comes from artifacts, 3 % from anatomy where"
    assert where in part(pages, 1)
    assert "Used by the model: yes, shown by transplant." in part(pages, 2)
    assert "Removal, both not tried" in part(pages, 2)
    mapped = result.correlations[2].counterfactual
    why = mapped.reasons[0]
    assert "Not shown to be used by the model, for the reasons above." in part(pages, 3)
    assert why in part(pages, 3)
    change = mapped.removal.explored
    assert f"Effect maps {change.pairs} ({change.patients}) {signed(change.change, 2)}" in part(
        pages, 3
    )
    assert "Effect maps, wrong calls not tried" in part(pages, 3)
    assert "Transplant" not in part(pages, 3)
    assert "Intervals are not corrected for the number of features." in part(pages, 3)
    assert re.search(
        r"0 of \d+ measured regions carry the feature; the first of each", part(pages, 3)
    )
    assert "Not tested whether the model uses it." in part(pages, 5)
    assert "most like the centre of the cluster (a selection)" in part(pages, 5)
    assert "removal effect not measured" not in part(pages, 5)


def test_strata_tell_raw_adjusted_and_inside(result_of, text_of):
    result = result_of()
    text, entry = part(text_of(result), 1), result.correlations[0]
    arms, strata = entry.confirmation.arms, entry.strata
    lowered = entry.cluster.lowered_class
    assert (
        flat(
            f"held-out films, unadjusted {arms.n_present[0]} / {arms.n_absent[0]} "
            f"{estimate(float(arms.gap[0]), arms.gap_interval[0])} "
            f"{arms.n_present[lowered]} / {arms.n_absent[lowered]} "
            f"{estimate(float(arms.gap[lowered]), arms.gap_interval[lowered])}"
        )
        in text
    )
    for crossed in strata.attributes:
        assert (
            flat(
                f"adjusted for {crossed.attribute} {number(crossed.association)} "
                f"{estimate(crossed.raised_adjusted, crossed.raised_interval)} "
                f"{estimate(crossed.lowered_adjusted, crossed.lowered_interval)}"
            )
            in text
        )
        for up, down in zip(crossed.raised, crossed.lowered, strict=True):
            assert (
                flat(
                    f"{up.value} {up.n_present} / {up.n_absent} {estimate(up.gap, up.interval)} "
                    f"{down.n_present} / {down.n_absent} {estimate(down.gap, down.interval)}"
                )
                in text
            )
    assert "with the label it is 0.08" in text
    assert (
        "Not compared, an arm is empty: view AP: no film of cardiomegaly without the feature."
        in text
    )
    assert "Counter-evidence: comparisons with an empty arm: view 1." in text


def test_many_strata_are_cut_and_a_gap_that_is_one_of_view_is_named(result_of, text_of):
    result = result_of(correlations=1)
    gaps = tuple(StratumGap(f"site {n}", 5, 30 - n, 0.2, Interval(-0.1, 0.4)) for n in range(12))
    crossed = CrossedAttribute(
        "site", 0.6, gaps, gaps, 0.02, Interval(-0.1, 0.15), -0.4, Interval(-0.6, -0.2), ()
    )
    entry = replace(result.correlations[0], strata=Strata(0.3, (crossed,) * 14))
    text = part(text_of(replace(result, correlations=(entry,))), 1)
    assert "site 7" in text
    assert "site 8" not in text
    assert "and 4 more" in text
    assert "and 4 more attributes" in text
    assert (
        "the gap on cardiomegaly is not distinguished from 0 once adjusted for site, site" in text
    )


def test_uncounted_candidate_names_the_failed_rules(result_of, text_of):
    result = result_of(correlations=7)
    pages = text_of(result)
    outcomes = {
        3: "confirmed, not shown to be used",
        4: "one-sided",
        5: "not confirmed",
        6: "confirmed and used, not counted",
        7: "not tested",
    }
    for rank, outcome in outcomes.items():
        text = part(pages, rank)
        assert text.startswith(f"Correlation {rank}: {outcome} · a pulse generator · raises card")
        assert "Why it does not affect the verdict by itself:" in text
        for reason in result.correlations[rank - 1].reasons:
            assert reason in text
    for rank in (3, 4, 5, 7):
        assert "Accuracy differs between films with" in part(pages, rank)
        assert "tends to" not in part(pages, rank)


def test_a_correlation_has_two_pages_or_where_there_are_many_one(result_of, text_of):
    for correlations, most in ((2, 2), (8, 2)):
        pages = text_of(result_of(FIVE, correlations))
        starts = [at for at, page in enumerate(pages) if page.startswith("Correlation ")]
        end = next(at for at, page in enumerate(pages) if page.startswith("Model and cohort"))
        assert max(np.diff([*starts, end])) <= most
    few = text_of(result_of(FIVE, 2))
    assert next(at for at, page in enumerate(few) if page.startswith("Annex")) <= 10


def test_a_null_report_is_short(result_of, stopped_result, text_of):
    assert len(text_of(result_of(correlations=0))) <= 9
    assert len(text_of(stopped_result)) <= 8


def test_subgroups_in_a_table_insufficient_rows_stay(result_of, text_of):
    result = result_of()
    page = " ".join(text_of(result))
    page = page[page.index("By subgroup") :]
    for stratum in result.subgroups:
        row = f"{stratum.value} {stratum.films} {stratum.patients} "
        if stratum.insufficient:
            assert f"{row}– – insufficient –" in page
            continue
        assert (
            flat(
                f"{row}{percent(stratum.accuracy, 1)} {spread(stratum.interval, 1, sign=False)} "
                f"{signed(100 * stratum.difference)} {probability(stratum.q_value)}"
            )
            in page
        )
    assert "view AP" in page


def test_search_tells_how_and_how_many(result_of, text_of):
    text = search_part(text_of(result_of(correlations=8)))
    assert "4,320 regions (6 x 6 tiles) were grouped" in text
    assert "in 3 runs (protocol: pooled)" in text
    assert "near-duplicates folded, which leaves 20 clusters" in text
    assert "12 regions of which the model sees too little were left out" in text
    assert (
        "Regions that could not be used: blank masks: 3; films without any region, which took "
        "tiles: 2."
    ) in text
    assert "20 2 0.213, 0.211 40 1 0.174" in text
    assert "80 left out K is above the number of sampled regions (60)" in text
    assert "discovery half, 58 films of 35 patients" in text
    assert "confirmation half, 62 films of 35 other patients" in text
    assert "20 7 8 4 3 2" in text  # proposed, survived, candidates, confirmed, used, counted


def test_what_has_no_page_stands_in_one_list(result_of, text_of):
    result = replace(result_of(correlations=8), to_decide=(1, 2))
    along = replace(result.correlations[2], companion_of=1)
    entries = (*result.correlations[:2], along, *result.correlations[3:])
    text = search_part(text_of(replace(result, correlations=entries)))
    assert "What counts or asks for a decision has a page: 2 features. Without one: 6." in text
    for entry in entries[2:]:
        cluster, test = entry.cluster, entry.confirmation
        row = flat(
            f"{90 - entry.rank} % pulse generator (right 24 of 25 times) cardiomegaly "
            f"{number(cluster.performance_gap)} {number(cluster.influence)} "
            f"{signed(100 * float(test.arms.gap[0]), 0)} / "
            f"{signed(100 * test.arms.opposed_gap, 0)} {probability(test.q_value)}"
        )
        assert text.count(row) == 1
    titles = ("They occur together", "Candidates", "Large gaps that RaVL", "One-sided")
    assert sorted(titles, key=text.index) == list(titles)
    assert "They occur together with No. 1" in text
    alone = search_part(text_of(result_of(correlations=2)))
    assert "Large gaps that RaVL" not in alone
    assert "One-sided" not in alone


def test_what_could_have_been_seen(result_of, text_of):
    pages = text_of(result_of())
    whole = " ".join(pages)
    told = whole[whole.index("How small a shortcut these films can detect") :]
    for text in (pages[0], told):
        for seen in (
            "By accuracy alone, a feature in 20 % of the films with a gap of 22 points or more "
            "would have been found with 80 % probability (in 10 %: 34 points, in 50 %: 18 points).",
            "By accuracy alone, a feature in 5 % of the films may have been missed, however large "
            "its gap.",
        ):
            assert seen in text
    assert "5 % not even 100 points 31 % 10 % 34 99 % 20 % 22 100 % 50 % 18 100 %" in told
    assert "200 simulated cohorts" in told
    assert (
        "14 of 20 proposed clusters had enough films in both halves to be tested; not tested: "
        "fewer than 5 films with it (5), in every film (1)."
    ) in whole


def test_nothing_found_says_what_was_looked_for_and_what_could_have_been_seen(result_of, text_of):
    pages = text_of(result_of(correlations=0))
    text = search_part(pages)
    assert "Nothing found" in text
    assert "We looked for a group of regions, alike to the model" in text
    assert "This says nothing about smaller effects" in text
    assert "a gap of 22 points or more would have been found with 80 % probability" in pages[0]
    assert "No candidate for a shortcut came out of the search." in pages[0]
    assert "4,320 regions (6 x 6 tiles)" in text


def test_candidates_without_any_that_counts(result_of, text_of):
    result = result_of(correlations=5)
    none = tuple(replace(entry, counts=False, reasons=("A.",)) for entry in result.correlations)
    pages = text_of(replace(result, correlations=none, to_decide=()))
    assert "every criterion: 5 candidates were examined; associations confirmed: 3." in pages[0]
    assert "would have been found with 80 % probability" in pages[0]
    assert "How sure" not in pages[0]
    assert "has a page: 0 features. Without one: 5." in search_part(pages)


def test_stopped_before_discovery(stopped_result, text_of):
    pages = text_of(stopped_result)
    whole = " ".join(pages)
    assert "No search was made: the audit stopped before discovery." in whole
    assert stopped_result.verdict.reasons[0] in search_part(pages)
    assert "✗ not met gate.min_films" in pages[0]
    assert "Nothing found" not in whole
    assert "How small a shortcut" not in whole
    assert "By subgroup" not in whole


def test_search_without_sensitivity(result_of, text_of):
    pages = text_of(result_of(correlations=0, sensitivity=None))
    assert "What could have been missed?" not in pages[0]
    assert "Not measured: the audit stopped before it." in " ".join(pages)


def test_what_has_to_be_decided_has_a_page_and_ten_of_the_others(result_of, text_of):
    result = result_of(correlations=12)
    # A late correlation that counts comes before earlier ones that do not.
    late = replace(result.correlations[-1], counts=True, kind="shortcut", reasons=())
    pages = text_of(replace(result, correlations=(*result.correlations[:-1], late)))
    assert "has a page: 12 features. Without one: 0." in search_part(pages)
    starts = [page for page in pages if re.match(r"Correlation \d+:", page)]
    assert [re.match(r"Correlation (\d+)", page)[1] for page in starts[:4]] == ["1", "2", "12", "3"]
    assert len(starts) == 12

    signs = [replace(one, counts=True, kind="plausible_sign") for one in result.correlations]
    shown = shown_correlations(replace(result, correlations=tuple(signs), to_decide=(11, 12)))
    assert [one.rank for one in shown] == [1, 2, 3, 4, 5, 6, 7, 8, 11, 12]


def test_sixty_classes_split_over_pages(result_of, text_of):
    pages = text_of(result_of(tuple(f"finding {c}" for c in range(60)), 2))
    assert len(pages) <= 18
    tables = [page for page in pages if "Class Films Accuracy Interval" in page]
    assert len(tables) >= 2
    assert all(f"finding {c} " in " ".join(tables) for c in range(60))
    assert "40 more classes with smaller gaps" in " ".join(pages)


def test_missing_numbers_are_dashes(result_of, text_of):
    result = result_of(correlations=1)
    accuracy = replace(
        result.accuracy,
        overall=NAN,
        overall_interval=NOTHING,
        by_class=(NAN,) * 3,
        by_class_interval=(NOTHING,) * 3,
        predicted_share=(NAN,) * 3,
    )
    entry = result.correlations[0]
    test, removal = entry.confirmation, entry.counterfactual.removal
    cluster = replace(
        entry.cluster, opposed_classes=(), lowered_classes=(), opposed_gap=NAN, influence=-np.inf
    )
    arms = replace(
        test.arms,
        accuracy_absent=np.array([0.41, NAN, 0.8]),
        accuracy_present=np.array([0.97, NAN, 0.2]),
        present_interval=(NOTHING,) * 3,
        absent_interval=(NOTHING,) * 3,
        gap_interval=(NOTHING,) * 3,
        opposed_gap=NAN,
        opposed_interval=NOTHING,
    )
    shift = replace(test.shift, raised=NAN, lowered=NAN)
    test = replace(test, p_lowered=NAN, p_value=NAN, q_value=NAN, arms=arms, shift=shift)
    removal = replace(
        removal,
        effect=np.full(40, NAN),
        carries=np.zeros(40, bool),
        spread=NAN,
        explored=None,
        typical=None,
        replaced=None,
        both=None,
        wrong_calls=None,
        called=NAN,
        imbalance=NAN,
        shares=None,
    )
    entry = replace(
        entry,
        cluster=cluster,
        confirmation=test,
        counterfactual=replace(entry.counterfactual, removal=removal, transplant=None),
        strata=Strata(NAN, ()),
        order=np.arange(40),
    )
    pages = text_of(replace(result, accuracy=accuracy, correlations=(entry,)))
    words = re.findall(r"[a-z]+", " ".join(pages).lower())
    assert "nan" not in words
    assert "inf" not in words
    text = part(pages, 1)
    assert text.startswith("Correlation 1: shortcut · a pulse generator · raises cardiomegaly The")
    assert "How far the score moves with the feature was not measured." in text
    assert "removal could not be tried" in text
    assert "Where the effect of removal lies could not be measured" in text
    assert "no finding 8 / 17 – – – " in text


def test_hostile_strings_stay_text(result_of, text_of):
    pages = text_of(
        hostile_result(result_of(HOSTILE, 2)),
        config_yaml="\n".join(HOSTILE),
        versions=dict.fromkeys(HOSTILE, HOSTILE[3]),
        digests={HOSTILE[0]: HOSTILE[5]},
        thresholds=dict.fromkeys(HOSTILE, HOSTILE[4]),
        history=AuditHistory(
            12, tuple((text, text, text) for text in HOSTILE * 3), HOSTILE, {HOSTILE[0]: 2}
        ),
    )
    whole = " ".join(pages)
    assert '<img src="http://x.invalid/a.png"/>' in whole
    assert "R&D <b>" in whole
    assert "[/x] %s {} \\" in whole
    assert "U+80BA U+708E U+1FAC1" in whole
    assert "U+05D0 U+05D1 U+05D2" in whole
    assert "\u202e" not in whole
    assert "row 19" in whole
    assert "row 21" not in whole
    assert "and 480 more" in whole
    assert "and 60 more" in whole  # subgroups
    assert "This is the 12th audit" in whole
    assert len(pages) <= 30


def test_pseudonyms_but_no_messages_of_rejected_rows(result_of, text_of):
    result = result_of()
    rows = ((17, "truncated", "SECRET-NAME.dcm ends early"),)
    whole = " ".join(text_of(replace(result, cohort=replace(result.cohort, rejected_rows=rows))))
    assert "row 17 (truncated)" in whole
    assert "SECRET" not in whole


def test_same_input_same_bytes(result_of, report_of, film, details, tmp_path):
    write_pdf(result_of(), film, details, tmp_path / "again.pdf")
    once = report_of(result_of(), details) / "report.pdf"
    assert once.read_bytes() == (tmp_path / "again.pdf").read_bytes()


def test_metadata_outline_fonts(result_of, report_of, details):
    result = result_of()
    path = report_of(result, details) / "report.pdf"
    reader = PdfReader(io.BytesIO(path.read_bytes()))
    assert reader.metadata.title == result.title
    assert reader.metadata.author.startswith("RaVL-Med")
    assert "sample-run" in reader.metadata.subject
    assert reader.trailer["/Root"]["/Lang"] == "en"
    titles = [entry.title for entry in entries_of(reader.outline)]
    assert titles[0] == result.title
    assert any(title.startswith("Correlation 2: shortcut") for title in titles)
    for page in reader.pages:
        for font in page["/Resources"]["/Font"].values():
            assert "DejaVu" in font.get_object()["/BaseFont"]


@pytest.mark.parametrize(
    ("correlations", "most"), [(4, 4_000_000), pytest.param(20, 10_000_000, marks=pytest.mark.slow)]
)
def test_correlations_of_large_noisy_films_stay_small(
    result_of, details, tmp_path, correlations, most
):
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1000), dtype=np.uint8)
    result = result_of(correlations=correlations)
    scale = np.array([1000, 1200, 1000, 1200]) / 240
    result = replace(result, region_boxes=(result.region_boxes * scale).astype(np.float32))
    path = tmp_path / "report.pdf"
    write_pdf(result, lambda _: noise, details, path)
    assert path.stat().st_size < most


def test_regions_shown_is_kept(result_of, text_of):
    text = part(text_of(result_of(), regions_shown=3), 1)
    assert "The 3 regions that show it best" in text
    assert text.count("removal effect +") == 3


def elements(part: dict, found: list, above: str = "") -> list:
    """Role, words and role above of every element, in reading order."""
    part = part.get_object()
    found.append((part["/S"][1:], part.get("/Alt", ""), above))
    kids = part["/K"]
    for kid in kids if isinstance(kids, list) else ():
        elements(kid, found, part["/S"][1:])
    return found


def test_tags_say_what_is_a_heading_a_table_and_a_picture(result_of, report_of, details):
    result = result_of(correlations=3, to_decide=(1, 2, 3))
    reader = PdfReader(io.BytesIO((report_of(result, details) / "report.pdf").read_bytes()))
    root = reader.trailer["/Root"]
    assert root["/MarkInfo"]["/Marked"] == True  # noqa: E712 - an object of pypdf
    tree = root["/StructTreeRoot"]
    found = elements(tree["/K"], [])
    roles = [role for role, _, _ in found]
    assert roles[:2] == ["Document", "H1"]
    levels = [int(role[1]) for role in roles if re.fullmatch(r"H\d", role)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert {above for role, _, above in found if role == "TR"} == {"Table"}
    assert {above for role, _, above in found if role in ("TH", "TD")} == {"TR"}
    alts = [alt for role, alt, _ in found if role == "Figure"]
    assert len(alts) > 50
    assert alts[0].startswith("Film ")
    assert all(alts)
    numbers = tree["/ParentTree"]["/Nums"]
    assert numbers[::2] == list(range(len(reader.pages)))
    for at, page in enumerate(reader.pages):
        assert page["/StructParents"] == at
        content = page.get_contents().get_data()
        marks = [int(n) for n in re.findall(rb"/MCID (\d+)>> BDC", content)]
        assert marks == list(range(len(numbers[2 * at + 1])))
        assert content.count(b"BDC") == content.count(b"EMC")


def test_the_file_is_of_the_day_of_the_run(result_of, report_of, details):
    for date, said in (("2025-03-01", "D:20250301"), ("no day", "D:2000")):
        path = report_of(result_of(), replace(details, date=date)) / "report.pdf"
        metadata = PdfReader(io.BytesIO(path.read_bytes())).metadata
        assert metadata["/CreationDate"].startswith(said)


def test_the_config_is_attached_and_not_printed(result_of, report_of, details):
    path = report_of(result_of(), replace(details, config_yaml="name: é\n")) / "report.pdf"
    reader = PdfReader(io.BytesIO(path.read_bytes()))
    assert reader.attachments == {"config.yaml": ["name: é\n".encode()]}
    whole = " ".join(pages_of(path))
    assert "The effective config is attached to this file as config.yaml." in whole
    assert "name: é" not in whole


def test_method_says_what_is_done(result_of, text_of):
    pages = text_of(result_of())
    text = " ".join(pages)
    text = text[text.rindex("Method and thresholds") : text.index("Reproducibility")]
    for told in (
        "split into two halves, all films of a patient in the same",
        "Each makes one hypothesis",
        "Whole patients are exchanged within class",
        "Stouffer's method, and Benjamini-Hochberg",
        "an association until an intervention shows otherwise",
        "filled each time with the most ordinary of like places of other films",
        "filled so, the best also with a like place of one film without the feature",
        "films of the same class without the feature, at the best of the same places",
        "against an ordinary place, chosen alike on films that have about the same margin",
        "of a removal the two fills have to agree",
        "The two make one test",
        "holds the false discovery rate over all features",
        "Mantel-Haenszel",
        "Cohorts with these films, patients and accuracies are simulated",
    ):
        assert told in text
