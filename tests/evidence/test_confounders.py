"""Attributes beside the label: planted truth, shuffled attributes, formulas by hand, bad input."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats.contingency import association

from ravl_med.config.audit import EvidenceConfig
from ravl_med.evidence.audit_result import Confounder, Verdict
from ravl_med.evidence.confounders import (
    confounder_reasons,
    measure_confounders,
    with_confounders,
)
from ravl_med.evidence.disclosure_control import HIDDEN, hide_confounder

EVIDENCE = EvidenceConfig.model_construct(seed=0, confidence=0.95)
CLASSES = ("no finding", "pneumonia", "effusion")


def measure(
    attributes: Mapping[str, Sequence[str]],
    labels: Sequence[int] | np.ndarray,
    patients: np.ndarray | None = None,
    classes: Sequence[str] = CLASSES[:2],
    least: int = 0,
) -> dict[str, Confounder]:
    truth = np.asarray(labels, np.int64)
    whose = np.arange(len(truth)) if patients is None else patients
    found = measure_confounders(attributes, truth, whose, classes, EVIDENCE, least)
    return {one.attribute: one for one in found}


def crossed(*rows: tuple[str, int, int]) -> tuple[list[str], np.ndarray]:
    """Views and labels, a film a patient, from rows of (view, class, films)."""
    films = [row[2] for row in rows]
    return (
        np.repeat([row[0] for row in rows], films).tolist(),
        np.repeat([row[1] for row in rows], films),
    )


def shuffled(seed: int, patients: int = 120) -> tuple[dict[str, list[str]], np.ndarray, np.ndarray]:
    """Attributes that patients have by chance; labels that differ between films of a patient."""
    rng = np.random.default_rng(seed)
    whose = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    labels = rng.choice(3, patients, p=(0.6, 0.3, 0.1))[whose]
    other = rng.random(len(whose)) < 0.1
    labels[other] = rng.choice(3, other.sum())
    axes: dict[str, Any] = {
        "view": rng.choice(["AP", "PA", ""], patients, p=(0.5, 0.45, 0.05)),
        "site": rng.choice(list("abcdefgh"), patients),
        "age": rng.integers(1, 95, patients).astype(str),
    }
    return {name: axis[whose].tolist() for name, axis in axes.items()}, labels, whose


@pytest.fixture(scope="module")
def natural() -> Confounder:
    """Every PA film is of one class; AP films are of both."""
    view, labels = crossed(("PA", 0, 88), ("AP", 0, 32), ("AP", 1, 62))
    return measure({"view": view}, labels)["view"]


def test_a_value_that_always_has_one_label_is_named_with_its_patients(natural: Confounder) -> None:
    assert natural.sentence.startswith(
        "View alone gives away the label: every PA film is labelled no finding "
        "(88 of 88 patients); Cramér's V 0."
    )
    assert "no audit on these films can tell a shortcut on view from the disease" in (
        natural.sentence
    )
    strongest = natural.strongest
    assert strongest is not None
    assert (strongest.value, strongest.finding) == ("PA", "no finding")
    assert strongest.elsewhere == pytest.approx(32 / 94)
    # By hand: two values, two classes, either of which may always occur.
    assert strongest.p_value == pytest.approx(4 * (120 / 182) ** 88)


@pytest.mark.parametrize(("off", "films"), [(0, 60), (6, 120), (15, 300)])
def test_a_planted_association_of_nine_tenths_or_one_is_called(off: int, films: int) -> None:
    view, labels = crossed(
        ("PA", 0, films - off), ("PA", 1, off), ("AP", 0, off), ("AP", 1, films - off)
    )
    one = measure({"view": view}, labels)["view"]
    assert one.association == pytest.approx(1 - 2 * off / films, abs=0.01)
    assert one.interval.low <= one.association <= one.interval.high
    assert "inseparable" in one.sentence
    assert ("nearly" in one.sentence) == (off > 0)


def test_shuffled_attributes_are_rarely_called_and_have_no_lower_end_above_zero() -> None:
    called, above, lucky, measured = 0, 0, 0, 0
    for seed in range(20):
        found = measure(*shuffled(seed), classes=CLASSES)
        called += any(one.sentence for one in found.values())
        above += sum(one.interval.low > 0 for one in found.values())
        lucky += sum(one.auroc_interval.low > 0.5 for one in found.values())
        measured += len(found)
    assert called == 0
    assert above <= 2
    assert lucky <= 0.1 * measured


def test_the_association_is_bergsmas_and_not_the_plain_one() -> None:
    view, labels = crossed(
        ("PA", 0, 30), ("PA", 1, 12), ("AP", 0, 9), ("AP", 1, 20), ("LL", 0, 8), ("LL", 1, 9)
    )
    one = measure({"view": view}, labels)["view"]
    table = np.array([[30, 12], [9, 20], [8, 9]])
    n, (rows, columns) = table.sum(), table.shape
    plain = association(table, method="cramer")
    phi = plain**2 * (columns - 1) - (rows - 1) * (columns - 1) / (n - 1)
    expected = np.sqrt(phi / (columns - (columns - 1) ** 2 / (n - 1) - 1))
    assert one.association == pytest.approx(expected)
    assert one.association < plain


def test_a_patient_counts_once_however_many_films_it_has() -> None:
    view, labels = crossed(("PA", 0, 40), ("PA", 1, 10), ("AP", 0, 12), ("AP", 1, 38))
    once = measure({"view": view}, labels)["view"]
    films = np.where(np.arange(100) % 7 == 0, 30, 1)
    again = measure(
        {"view": np.repeat(view, films).tolist()},
        np.repeat(labels, films),
        np.repeat(np.arange(100), films),
    )["view"]
    assert again.association == pytest.approx(once.association)
    assert again.auroc == pytest.approx(once.auroc)
    assert again.strongest is not None
    assert once.strongest is not None
    p = once.strongest.p_value
    assert again.strongest.p_value == pytest.approx(p, nan_ok=True)
    assert replace(again.strongest, p_value=0.0) == replace(once.strongest, p_value=0.0)


def test_a_rare_value_with_one_label_may_be_chance_and_is_no_confounder() -> None:
    view, labels = crossed(("LL", 0, 6), ("PA", 0, 60), ("PA", 1, 40), ("AP", 0, 50), ("AP", 1, 30))
    assert not measure({"view": view}, labels)["view"].sentence


def test_a_value_of_few_of_the_patients_of_a_class_is_no_confounder() -> None:
    """Thirty children without the disease do not stop an audit of four hundred adults."""
    age, labels = crossed(("8", 0, 30), ("50", 0, 200), ("50", 1, 200))
    one = measure({"age": age}, labels)["age"]
    assert not one.sentence
    assert one.strongest is not None
    assert one.strongest.value == "0-17"
    assert one.strongest.p_value < 1e-5


def test_one_attribute_predicts_the_labels_of_other_patients() -> None:
    view, labels = crossed(
        ("PA", 0, 60), ("AP", 1, 60), ("AP", 2, 30), ("PA", 2, 30), ("PA", 1, 2), ("AP", 0, 2)
    )
    one = measure({"view": view}, labels, classes=CLASSES)["view"]
    assert one.finding in ("no finding", "pneumonia")
    assert 0.75 < one.finding_auroc < 0.9
    assert one.finding_interval.low < one.finding_auroc < one.finding_interval.high
    assert one.auroc < one.finding_auroc


def test_values_that_are_not_stated_are_a_value() -> None:
    view, labels = crossed(("", 0, 50), ("AP", 0, 20), ("AP", 1, 60))
    one = measure({"view": view}, labels)["view"]
    assert "every film without a stated view is labelled no finding" in one.sentence


@pytest.mark.parametrize(
    ("attributes", "labels", "why"),
    [
        ({"view": ["PA"] * 20}, [0, 1] * 10, "one value"),
        ({"view": [""] * 20}, [0, 1] * 10, "one value"),
        ({"site": [f"s{i}" for i in range(20)]}, [0, 1] * 10, "most patients have a value"),
        ({"view": ["PA", "AP"] * 4}, [0, 1] * 4, "fewer than 10 patients"),
        ({"view": ["PA", "AP"] * 10}, [0] * 20, "not of two classes"),
        ({"view": ["PA", "AP"] * 10}, [-1] * 20, "not of two classes"),
        ({"view": []}, [], "not of two classes"),
    ],
)
def test_what_cannot_be_measured_is_left_out_with_a_reason(
    attributes: dict[str, list[str]], labels: list[int], why: str
) -> None:
    (one,) = measure(attributes, labels).values()
    assert why in one.left_out
    assert not one.sentence
    assert np.isnan(one.association)


def test_a_class_without_films_changes_nothing() -> None:
    view, labels = crossed(("PA", 0, 60), ("AP", 1, 60))
    one = measure({"view": view}, labels, classes=CLASSES)["view"]
    assert one.association == pytest.approx(1.0)
    assert one.auroc == pytest.approx(1.0)


def test_few_patients_of_many_kinds_are_measured() -> None:
    """Ten patients, one of them of another class: no fold may be left without a number."""
    for seed in range(10):
        view = np.random.default_rng(seed).permutation(["PA"] * 5 + ["AP"] * 5).tolist()
        one = measure({"view": view}, [0] * 9 + [1])["view"]
        assert np.isfinite([one.association, one.auroc, one.interval.low]).all()
        assert not one.sentence


def test_control_characters_of_a_manifest_stay_out_of_the_sentence() -> None:
    site, labels = crossed(("\x1b[31mred\u202e", 0, 60), ("b", 1, 60))
    sentence = measure({"site": site}, labels)["site"].sentence
    assert "site [31mred is labelled" in sentence or "site b is labelled" in sentence
    assert sentence.isprintable()


def test_many_values_are_pooled_and_films_without_a_label_left_aside() -> None:
    rng = np.random.default_rng(0)
    sites = [f"s{i}" for i in rng.integers(0, 40, 400)]
    labels = rng.integers(-1, 2, 400)
    one = measure({"site": sites}, labels)["site"]
    assert one.patients is not None
    assert one.patients.shape == (13, 2)
    assert one.patients.sum() == (labels >= 0).sum()


def test_what_no_film_shows_is_measured_but_holds_back_nothing() -> None:
    source, labels = crossed(("manifest", 0, 60), ("report: impression", 1, 60))
    one = measure({"label source": source}, labels)["label source"]
    assert one.association == pytest.approx(1.0)
    assert not one.sentence


def test_no_number_shows_a_cell_of_few_patients() -> None:
    view, labels = crossed(("PA", 0, 88), ("AP", 0, 4), ("AP", 1, 90))
    raw = measure({"view": view}, labels)["view"]
    shown = hide_confounder(raw, (), 11)
    assert "88 of 88" in raw.sentence
    assert shown.patients is None
    assert np.isnan([shown.association, *vars_of(shown)]).all()
    assert shown.strongest is not None
    assert shown.strongest.patients == shown.strongest.with_finding == HIDDEN
    inside = measure({"view": view}, labels, least=11)["view"]
    assert not any(digit in inside.sentence for digit in "0123456789")
    assert inside.sentence.startswith("View alone gives away the label: every PA film")


def vars_of(one: Confounder) -> list[float]:
    return [
        *(one.auroc, one.finding_auroc),
        *(one.interval.low, one.auroc_interval.high, one.finding_interval.low),
    ]


def test_in_a_large_cohort_numbers_are_rounded_far_beyond_the_worth_of_such_a_cell() -> None:
    shown = []
    for few in (1, 4, 10):  # a small cell, the sums of rows and columns known
        view, labels = crossed(
            ("PA", 0, 9000 - few), ("PA", 1, few), ("AP", 0, 3000 + few), ("AP", 1, 9000 - few)
        )
        raw = measure({"view": view}, labels)["view"]
        one = hide_confounder(raw, (), 11)
        assert one.association == round(raw.association, 1) != raw.association
        shown.append((one.association, one.auroc, one.finding_auroc))
    assert len(set(shown)) == 1


def test_nothing_is_hidden_where_no_cell_is_small(natural: Confounder) -> None:
    shown = hide_confounder(natural, (), 11)
    assert shown.association == natural.association
    assert shown.strongest == natural.strongest
    assert hide_confounder(natural, ("AP",), 11).strongest != natural.strongest


def test_a_confounder_keeps_a_pass_away_and_stands_among_all_other_reasons(
    natural: Confounder,
) -> None:
    found = (natural,)
    assert with_confounders(Verdict("pass", ("Nothing.",)), found) == Verdict(
        "review", (natural.sentence, "Nothing.")
    )
    stopped = with_confounders(Verdict("not_auditable", ("Few.", "Fewer.")), found)
    assert stopped == Verdict("not_auditable", ("Few.", natural.sentence, "Fewer."))
    assert with_confounders(Verdict("fail", ("A shortcut.",)), found).name == "fail"
    clean = Verdict("pass", ("Nothing.",))
    assert with_confounders(clean, (replace(natural, sentence=""),)) == clean
    many = [replace(natural, attribute=f"a{i}") for i in range(5)]
    assert confounder_reasons(many)[3:] == ("Other attributes that give away the label: a3, a4.",)


def test_the_same_seed_gives_the_same_numbers() -> None:
    first, second = (measure(*shuffled(3), classes=CLASSES) for _ in range(2))
    for name, one in first.items():
        assert (
            replace(one, patients=None).__repr__()
            == replace(second[name], patients=None).__repr__()
        )
