"""How frequent findings are by attribute: counted by hand, few patients hidden."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ravl_med.evidence.disclosure_control import HIDDEN
from ravl_med.pipeline.inspect import count_prevalence, prevalence_lines

VIEWS = ["PA"] * 60 + ["AP"] * 40 + ["not stated"] * 20
EDEMA = ["1"] * 15 + ["0"] * 30 + ["-1"] * 5 + [""] * 10 + ["1"] * 25 + ["0"] * 15 + [""] * 20


def test_by_hand():
    counted = count_prevalence({"view": VIEWS}, {"edema": EDEMA}, range(120), 0)

    assert counted == {"view": {"edema": {"PA": (15, 60), "AP": (25, 40), "not stated": (0, 20)}}}
    assert prevalence_lines(counted, 0) == [
        "",
        "Findings by view: present, of the films with it",
        "  edema: PA 15 of 60 (25 %), AP 25 of 40 (62 %), not stated 0 of 20 (0 %)",
    ]


def test_what_has_one_value_or_none_is_told_overall():
    sites, blank = ["site 1"] * 100 + ["not stated"] * 20, ["not stated"] * 120

    assert count_prevalence({"site": sites, "sex": blank}, {"edema": EDEMA}, range(120), 0) == {}
    assert count_prevalence({}, {"edema": EDEMA}, range(120), 0) == {}
    assert count_prevalence({"view": []}, {"edema": []}, [], 11) == {}
    assert prevalence_lines({}, 11) == []


def test_few_patients_are_hidden_with_what_would_tell_them():
    few = ["1"] * 15 + ["0"] * 45 + ["1"] * 3 + ["0"] * 37 + ["1"] * 20  # 3 of the AP films
    counted = count_prevalence({"view": VIEWS}, {"edema": few}, range(120), 11)["view"]["edema"]

    assert counted == {"PA": (HIDDEN, 60), "AP": (HIDDEN, 40), "not stated": (20, 20)}
    (_, head, line) = prevalence_lines({"view": {"edema": counted}}, 11)
    assert line == "  edema: PA hidden, AP hidden, not stated 20 of 20 (100 %)"
    assert "3" not in head + line


def test_few_without_a_finding_are_few_as_well():
    most = ["1"] * 30 + ["0"] * 30 + ["1"] * 37 + ["0"] * 3 + ["0"] * 20
    counted = count_prevalence({"view": VIEWS}, {"edema": most}, range(120), 11)["view"]["edema"]

    assert counted["AP"] == (HIDDEN, 40)
    assert list(counted.values()).count((HIDDEN, 40)) < 3
    assert sum(present == HIDDEN for present, _ in counted.values()) >= 2


def test_films_of_one_patient_are_one():
    """Fifteen PA films with it are of three patients, and all that are not stated of four."""
    patients = [at // 5 for at in range(120)]
    counted = count_prevalence({"view": VIEWS}, {"edema": EDEMA}, patients, 11)

    assert {present for present, _ in counted["view"]["edema"].values()} == {HIDDEN}


def test_findings_of_which_nothing_is_told_share_a_line():
    silent = {"PA": (HIDDEN, 60), "AP": (HIDDEN, 40)}
    told = {"PA": (20, 60), "AP": (15, 40)}
    lines = prevalence_lines({"study_year": {"a": silent, "b": told, "c": silent}}, 11)

    assert lines[1].startswith("Findings by study year: ")
    assert lines[2:] == [
        "  b: PA 20 of 60 (33 %), AP 15 of 40 (38 %)",
        "  hidden, of fewer than 11 patients: a, c",
    ]


def test_lines_are_wrapped_and_many_values_cut():
    counts = {f"a maker with a long name {n}": (20, 60) for n in range(15)}
    lines = prevalence_lines({"manufacturer": {"edema": counts}}, 0)

    assert max(map(len, lines)) <= 100
    assert lines[-1].endswith("and 3 more")
    assert "name 11 20 of 60" in " ".join(" ".join(lines).split())
    assert "name 12" not in " ".join(lines)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), min_size=2, max_size=120),
    st.integers(2, 15),
)
def test_no_small_cell_is_told_or_follows(films, least):
    """One film a patient: neither a told cell nor what is left of the total is small."""
    values, present = zip(*films, strict=True)
    cells = ["1" if here else "0" for here in present]
    counted = count_prevalence({"x": values}, {"f": cells}, range(len(films)), least)
    if not counted:
        return
    rows = counted["x"]["f"]
    told = {name: n for name, (n, _) in rows.items() if n != HIDDEN}
    hidden = [name for name in rows if name not in told]
    assert len(hidden) != 1 or len(told) == sum(n == 0 or n == rows[k][1] for k, n in told.items())
    for name, n in told.items():
        rest = rows[name][1] - n
        assert not 0 < n < least
        assert not 0 < rest < least
        inside = np.array(values) == name
        assert n == (inside & np.array(present)).sum()
