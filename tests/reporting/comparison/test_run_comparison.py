"""Two audits side by side: by hand, against itself, refused, and the same numbers everywhere."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hostile_results import HOSTILE
from html_reading import read_html
from pypdf import PdfReader
from scipy import stats
from typer.testing import CliRunner

from ravl_med.cli import app
from ravl_med.errors import ConfigError, DataError
from ravl_med.evidence.audit_result import AuditResult, TaskSummary, result_document
from ravl_med.evidence.disclosure_control import hide_small_cells
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.comparison.compare import Comparison, compare_runs
from ravl_med.reporting.comparison.report import write_comparison
from ravl_med.reporting.comparison.runs import swap_test
from ravl_med.reporting.files.run_folder import write_json, write_predictions_file
from ravl_med.reporting.files.saved_run import SavedRun, write_archive, write_patients
from ravl_med.storage.documents import document_of, schema_of

FILMS, CLASSES = 120, 3
LABELS = np.arange(FILMS) % CLASSES
ONE_EACH = np.arange(FILMS)
CONFIG = "name: run\nevidence:\n  draws: 2000\n  seed: 0\n"
ResultOf = Callable[..., AuditResult]


def run_folder(
    folder: Path,
    result: AuditResult,
    predictions: Sequence[int] | np.ndarray,
    labels: np.ndarray = LABELS,
    patients: np.ndarray = ONE_EACH,
    config: str = CONFIG,
    min_cell: int = 0,
) -> Path:
    """Write what a comparison reads of a run folder, as an audit does, with these predictions."""
    details = ReportDetails(
        date="2026-11-20",
        config_yaml=config,
        versions={"ravl-med": "0"},
        digests={"model": "ab" * 32, "cohort": "cd" * 32, "config": "ef" * 32},
        seeds={"evidence": 0},
        thresholds={"gate.max_gap": "10 points"},
    )
    (folder / "private").mkdir(parents=True)
    write_archive(SavedRun(result, details, "{}", 5, None, min_cell), folder / "private")
    document = result_document(hide_small_cells(result, min_cell), 5)
    write_json(folder / "result.json", document.model_dump(mode="json"))
    classes = result.task.classes
    scores = np.eye(len(classes), dtype=np.float32)[np.asarray(predictions)]
    names = [classes[c] for c in labels]
    write_predictions_file(folder / "predictions.parquet", result.image_ids, names, classes, scores)
    write_patients(folder, patients)
    (folder / "run.json").write_text('{"tool": {"name": "ravl-med"}}')
    return folder


def wrong_on(films: Sequence[int] | np.ndarray) -> np.ndarray:
    """Predictions that are right but on these films, where the next class is said."""
    predictions = LABELS.copy()
    predictions[films] = (LABELS[films] + 1) % CLASSES
    return predictions


@pytest.fixture
def pair(result_of: ResultOf, tmp_path: Path) -> tuple[Path, Path]:
    """A is wrong on films 0 to 5; B on 3 to 11, and on film 3 with another class than A."""
    result = result_of()
    of_b = wrong_on(range(3, 12))
    of_b[3] = (LABELS[3] + 2) % CLASSES
    return (
        run_folder(tmp_path / "a", result, wrong_on(range(6))),
        run_folder(tmp_path / "b", result, of_b),
    )


def flat(text: str) -> str:
    return " ".join(text.split())


def bare(text: str) -> str:
    """Text without any space: a line may end anywhere on paper."""
    return re.sub(r"\s|\ufffd", "", text)


def paper(folder: Path) -> str:
    pages = PdfReader(folder / "report.pdf").pages
    return flat(" ".join(page.extract_text() for page in pages))


def test_a_comparison_by_hand(pair: tuple[Path, Path]) -> None:
    made = compare_runs(*pair)
    assert (made.films.compared, made.films.patients) == (120, 120)
    assert (made.films.only_a, made.films.only_b, made.films.other_label) == (0, 0, 0)
    assert made.overall.a == pytest.approx(114 / 120)
    assert made.overall.b == pytest.approx(111 / 120)
    assert made.overall.difference == pytest.approx(-3 / 120)
    assert made.overall.interval.low < -3 / 120 < made.overall.interval.high
    # Films 0 to 5 are two of each class, films 3 to 11 three of each.
    assert [one.a for one in made.by_class] == pytest.approx([38 / 40] * 3)
    assert [one.b for one in made.by_class] == pytest.approx([37 / 40] * 3)
    assert [one.films for one in made.by_class] == [40, 40, 40]
    counted = made.agreement
    assert (counted.both_right, counted.only_a, counted.only_b, counted.both_wrong) == (
        108, 6, 3, 3,
    )  # fmt: skip
    assert counted.same == 110  # both right, and two of the three on which both are wrong
    by_class = made.agreement_by_class
    assert [one.only_a for one in by_class] == [2, 2, 2]
    assert [one.same for one in by_class] == [36, 37, 37]
    assert made.p_value == pytest.approx(stats.binomtest(3, 9).pvalue)
    assert made.one_film_a_patient
    assert made.outcome == "no_difference_shown"
    assert made.draws == 2000


def test_a_run_against_itself_differs_by_nothing(pair: tuple[Path, Path]) -> None:
    made = compare_runs(pair[0], pair[0])
    gaps = [side for entry in made.correlations for side in (entry.raised, entry.lowered)]
    for paired in (made.overall, made.worst.change, *made.by_class, *gaps):
        assert paired.difference == 0
        assert (paired.interval.low, paired.interval.high) == (0, 0)
    assert made.outcome == "same_decisions"
    assert made.agreement.same_share == 1
    assert made.p_value == 1
    assert made.settings == ()
    assert [entry.matching for entry in made.correlations] == ["in_both"] * 2
    assert [entry.overlap for entry in made.correlations] == [1, 1]


def test_a_planted_difference_is_found(result_of: ResultOf, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wrong = rng.permutation(FILMS)
    worse = np.setdiff1d(wrong[:45], np.flatnonzero(LABELS == 1))  # class 1 stays as it is
    a = run_folder(tmp_path / "a", result_of(), wrong_on(wrong[100:]))
    b = run_folder(tmp_path / "b", result_of(), wrong_on([*worse, *wrong[100:]]))
    made = compare_runs(a, b)
    assert made.outcome == "a_more_accurate"
    assert made.overall.difference == pytest.approx(-len(worse) / FILMS)
    assert made.overall.interval.low < made.overall.difference < made.overall.interval.high < 0
    assert made.p_value < 1e-6
    one = made.by_class[1]
    assert (one.difference, one.interval.low, one.interval.high) == (0, 0, 0)
    assert all(made.by_class[c].interval.high < 0 for c in (0, 2))
    turned = compare_runs(b, a)
    assert turned.outcome == "b_more_accurate"
    assert turned.overall.interval.low == pytest.approx(-made.overall.interval.high)


def test_films_of_a_patient_come_along(result_of: ResultOf, tmp_path: Path) -> None:
    """The same answers say less where ten films are of one patient."""
    wrong = np.arange(40)
    widths, p_values = [], []
    for name, patients in (("one", ONE_EACH), ("ten", ONE_EACH // 10)):
        right = run_folder(tmp_path / name / "a", result_of(), LABELS, patients=patients)
        worse = run_folder(tmp_path / name / "b", result_of(), wrong_on(wrong), patients=patients)
        made = compare_runs(right, worse)
        widths.append(made.overall.interval.high - made.overall.interval.low)
        p_values.append(made.p_value)
    assert widths[1] > 2 * widths[0]
    assert p_values == pytest.approx([2 * 0.5**40, 2 * 0.5**4])
    assert not made.one_film_a_patient


def test_the_swap_test_counts_every_exchange() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        patients = np.sort(rng.integers(0, 7, 25))
        _, patients = np.unique(patients, return_inverse=True)
        a, b = rng.random(25) < 0.5, rng.random(25) < 0.7
        gain = np.bincount(patients, weights=b.astype(float) - a)
        totals = [
            abs(np.dot(signs, gain)) for signs in itertools.product((-1, 1), repeat=len(gain))
        ]
        expected = np.mean(np.array(totals) >= abs(gain.sum()) - 1e-9)
        assert swap_test(a, b, patients) == pytest.approx(expected)
        single = np.arange(25)
        only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
        exact = stats.binomtest(only_b, only_a + only_b).pvalue if only_a + only_b else 1.0
        assert swap_test(a, b, single) == pytest.approx(exact)


def moved(result: AuditResult, at: int, present: np.ndarray, **changes: Any) -> AuditResult:
    """The result with other films in one of its correlations."""
    found = list(result.correlations)
    found[at] = replace(found[at], cluster=replace(found[at].cluster, present=present), **changes)
    return replace(result, correlations=tuple(found))


def on(films: Sequence[int]) -> np.ndarray:
    return np.isin(np.arange(FILMS), films)


def test_correlations_match_by_class_and_films(result_of: ResultOf, tmp_path: Path) -> None:
    """First: 20 of 40 films shared. Second: 19 of 41, a film too few."""
    first, second = np.arange(30), np.arange(60, 90)
    result = moved(moved(result_of(), 0, on(first)), 1, on(second))
    other = moved(moved(result_of(), 0, on(first + 10)), 1, on(second + 11))
    a = run_folder(tmp_path / "a", result, LABELS)
    b = run_folder(tmp_path / "b", other, LABELS)
    made = compare_runs(a, b)
    told = [(entry.matching, entry.feature_of) for entry in made.correlations]
    assert told == [("in_both", "A"), ("not_found_in_b", "A"), ("new_in_b", "B")]
    assert made.correlations[0].overlap == pytest.approx(0.5)
    assert [(e.a and e.a.rank, e.b and e.b.rank) for e in made.correlations] == [
        (1, 1), (2, None), (None, 2),
    ]  # fmt: skip
    assert np.isnan(made.correlations[1].overlap)

    confirmation = replace(other.correlations[0].confirmation, status="not_confirmed")
    weak = moved(other, 0, on(first + 10), confirmation=confirmation, counts=False)
    c = run_folder(tmp_path / "c", weak, LABELS)
    told = [entry.matching for entry in compare_runs(a, c).correlations]
    assert told == ["not_confirmed_in_b", "not_found_in_b", "new_in_b"]
    told = [entry.matching for entry in compare_runs(c, a).correlations]
    assert told == ["not_found_in_b", "not_confirmed_in_a", "new_in_b"]


def test_gaps_of_both_models_with_one_feature(result_of: ResultOf, tmp_path: Path) -> None:
    """The feature is in films 0 to 59, 20 of each class; B is wrong on 10 of the raised ones."""
    result = moved(result_of(correlations=1), 0, on(range(60)))
    raised = [i for i in range(60) if LABELS[i] == 0]
    lowered = [i for i in range(60, 120) if LABELS[i] == 2]
    a = run_folder(tmp_path / "a", result, LABELS)
    b = run_folder(tmp_path / "b", result, wrong_on(raised[:10] + lowered[:5]))
    (entry,) = compare_runs(a, b).correlations
    assert entry.films_with_feature == 60
    assert (entry.raised.a, entry.raised.b, entry.raised.films) == (0, -0.5, 40)
    assert entry.raised.interval.high < 0
    # Classes 1 and 2 are tested as one, with equal weights; class 2 lost 5 of 20 without it.
    assert set(result.correlations[0].cluster.opposed_classes) == {1, 2}
    assert (entry.lowered.a, entry.lowered.b) == pytest.approx((0, 0.125))
    assert entry.a is not None
    assert entry.a.raised_gap == pytest.approx(
        float(result.correlations[0].confirmation.arms.gap[0])
    )


def test_only_shared_films_with_one_label_are_compared(result_of: ResultOf, tmp_path: Path) -> None:
    """B has other films in place of the first 20, another order, and another label of one."""
    result = result_of()
    order = np.arange(FILMS)[::-1]
    ids = tuple(f"new{i}" if i < 20 else result.image_ids[i] for i in order)
    labels = LABELS[order].copy()
    where = int(np.flatnonzero(order == 50)[0])
    labels[where] = (labels[where] + 1) % CLASSES
    found = tuple(
        replace(c, cluster=replace(c.cluster, present=c.cluster.present[order]))
        for c in result.correlations
    )
    other = replace(result, image_ids=ids, correlations=found)
    a = run_folder(tmp_path / "a", result, wrong_on(range(30)))
    b = run_folder(tmp_path / "b", other, LABELS[order], labels=labels)
    made = compare_runs(a, b)
    films = made.films
    assert (films.compared, films.only_a, films.only_b, films.other_label) == (99, 20, 20, 1)
    assert made.overall.a == pytest.approx(89 / 99)
    assert made.overall.b == 1
    assert [entry.overlap for entry in made.correlations] == [1, 1]


def test_the_order_of_classes_does_not_matter(result_of: ResultOf, tmp_path: Path) -> None:
    result = result_of(correlations=0)
    names = result.task.classes
    turned = replace(
        result, task=replace(result.task, classes=names[::-1], texts=dict(result.task.texts))
    )
    predictions = wrong_on(range(9))
    a = run_folder(tmp_path / "a", result, predictions)
    b = run_folder(tmp_path / "b", turned, 2 - predictions, labels=2 - LABELS)
    made = compare_runs(a, b)
    assert made.outcome == "same_decisions"
    assert made.classes == names


def test_films_with_the_same_pixels_stay_apart(result_of: ResultOf, tmp_path: Path) -> None:
    result = result_of(correlations=0)
    ids = (result.image_ids[1], *result.image_ids[1:])
    a = run_folder(tmp_path / "a", replace(result, image_ids=ids), wrong_on([0]))
    made = compare_runs(a, a)
    assert made.films.compared == FILMS
    assert made.agreement.both_wrong == 1


def test_patients_that_one_run_splits_are_one(result_of: ResultOf, tmp_path: Path) -> None:
    a = run_folder(tmp_path / "a", result_of(), LABELS)
    b = run_folder(tmp_path / "b", result_of(), LABELS, patients=ONE_EACH // 2)
    films = compare_runs(a, b).films
    assert (films.patients, films.joined) == (60, 60)


def test_a_class_without_films_is_a_dash(result_of: ResultOf, tmp_path: Path) -> None:
    labels = LABELS % 2
    a = run_folder(tmp_path / "a", result_of(), labels, labels=labels)
    made = compare_runs(a, a)
    assert np.isnan(made.by_class[2].a)
    document = document_of(made)
    gone = document.by_class[made.classes[2]]
    assert (gone.films, gone.a, gone.difference, gone.interval) == (0, None, None, (None, None))
    write_comparison(made, tmp_path / "out")
    assert f"{made.classes[2]} 0 – – –" in paper(tmp_path / "out")


def test_what_cannot_be_compared_is_refused(
    result_of: ResultOf, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    result = result_of()
    ids = tuple(f"x{i}" for i in range(FILMS))
    disjoint = run_folder(tmp_path / "c", replace(result, image_ids=ids), LABELS)
    with pytest.raises(DataError, match="no film in common: pseudonyms agree only"):
        compare_runs(pair[0], disjoint)
    relabelled = run_folder(tmp_path / "l", result, LABELS, labels=(LABELS + 1) % CLASSES)
    with pytest.raises(DataError, match="no film that is in both runs bears the same label"):
        compare_runs(pair[0], relabelled)
    named = replace(result, task=replace(result.task, name="view"))
    with pytest.raises(ConfigError, match="RUN_B: its task is 'view', that of RUN_A is 'finding'"):
        compare_runs(pair[0], run_folder(tmp_path / "d", named, LABELS))
    others = ("cardiomegaly", "no finding", "edema")
    task = TaskSummary("finding", others, {name: (name,) for name in others}, 0.07)
    other = replace(result, task=task, correlations=())
    with pytest.raises(ConfigError, match="its classes are not those of RUN_A"):
        compare_runs(pair[0], run_folder(tmp_path / "e", other, LABELS))
    with pytest.raises(ConfigError, match=r"RUN_B: .*expected the run folder of an audit"):
        compare_runs(pair[0], tmp_path)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("private/patients.npy", "does not say which films are of one patient"),
        ("private/archive.json", "has no archive in private/"),
        ("predictions.parquet", "predictions.parquet cannot be read"),
    ],
)
def test_a_damaged_run_is_refused(pair: tuple[Path, Path], name: str, what: str) -> None:
    (pair[1] / name).unlink()
    with pytest.raises(DataError, match=what):
        compare_runs(*pair)
    (pair[1] / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"cannot be read"):
        compare_runs(*pair)


def test_files_of_another_run_are_refused(pair: tuple[Path, Path], result_of: ResultOf) -> None:
    write_patients(pair[1], ONE_EACH[:50])
    with pytest.raises(DataError, match=r"RUN_B: private/patients\.npy does not fit"):
        compare_runs(*pair)
    write_patients(pair[1], ONE_EACH)
    result, path = result_of(), pair[1] / "predictions.parquet"
    names = [result.task.classes[c] for c in LABELS]
    scores = np.zeros((FILMS, CLASSES), dtype=np.float32)
    write_predictions_file(path, result.image_ids[::-1], names, result.task.classes, scores)
    with pytest.raises(DataError, match=r"RUN_B: predictions\.parquet is of other films"):
        compare_runs(*pair)
    (pair[0] / "result.json").write_text('{"verdict": "pass"}')
    with pytest.raises(DataError, match=r"RUN_A: result\.json or the config cannot be read"):
        compare_runs(*pair)


def test_keys_that_differ_are_listed(result_of: ResultOf, tmp_path: Path) -> None:
    a = run_folder(tmp_path / "a", result_of(), LABELS)
    more = CONFIG.replace("draws: 2000", "draws: 3000") + "regions:\n  tiles: [6, 6]\n"
    b = run_folder(tmp_path / "b", result_of(), LABELS, config=more)
    made = compare_runs(a, b)
    assert [(one.key, one.a, one.b) for one in made.settings] == [
        ("evidence.draws", "2000", "3000"),
        ("regions.tiles", "not set", "[6, 6]"),
    ]
    assert made.draws == 3000


def test_the_verdict_is_that_of_the_report_of_the_run(pair: tuple[Path, Path]) -> None:
    path = pair[0] / "result.json"
    document = json.loads(path.read_text())
    ruling = {
        "rank": 1, "word": "disease", "until": "", "reason": "r", "name": "n", "date": "2026-11-24",
        "in_force": True,
    }  # fmt: skip
    path.write_text(json.dumps(document | {"verdict": "pass", "undecided": 0, "rulings": [ruling]}))
    made = compare_runs(*pair)
    assert (made.a.verdict, made.a.status) == ("pass", "FINAL")
    assert (made.b.verdict, made.b.status, made.status) == ("fail", "DRAFT", "DRAFT")
    entry = made.correlations[0]
    assert entry.a is not None
    assert entry.b is not None
    assert (entry.a.ruling, entry.b.ruling) == ("disease", None)


@pytest.mark.parametrize("older", [0, 1])
def test_a_run_of_an_older_schema_is_refused_by_its_name(
    pair: tuple[Path, Path], older: int, tmp_path: Path
) -> None:
    """Its removals were filled in other ways: their numbers cannot stand beside those of today."""
    path = pair[older] / "private" / "archive.json"
    data = json.loads(path.read_text())
    for correlation in data["result"]["correlations"]:
        removal = correlation["counterfactual"]["removal"]
        removal["median"] = removal.pop("typical")
    path.write_text(json.dumps(data))
    outcome = CliRunner().invoke(app, ["compare", *map(str, pair), "--out", str(tmp_path / "out")])
    assert outcome.exit_code == 3
    told = flat(outcome.output)
    assert f"RUN_{'AB'[older]}: the archive in private/ cannot be read" in told
    assert told.endswith("it is damaged or of another version. Audit again.")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def written(pair: tuple[Path, Path], tmp_path: Path) -> tuple[Comparison, Path]:
    made = compare_runs(*pair)
    write_comparison(made, tmp_path / "out")
    return made, tmp_path / "out"


def test_the_same_runs_give_the_same_bytes(
    written: tuple[Comparison, Path], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    write_comparison(compare_runs(*pair), tmp_path / "again")
    names = sorted(path.name for path in written[1].iterdir())
    assert names == ["comparison.json", "report.html", "report.pdf", "run.json"]
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (written[1] / name).read_bytes()


def test_json_follows_its_schema(written: tuple[Comparison, Path]) -> None:
    document = json.loads((written[1] / "comparison.json").read_text())
    jsonschema.validate(document, schema_of(Comparison))
    assert document["overall"]["difference"] == pytest.approx(-3 / 120)
    assert document["agreement"]["both_right"] == 108
    assert document["p_value"] == pytest.approx(written[0].p_value)


def test_pdf_html_and_json_say_the_same(written: tuple[Comparison, Path]) -> None:
    folder = written[1]
    document = json.loads((folder / "comparison.json").read_text())
    on_paper = bare(paper(folder))
    reader = read_html((folder / "report.html").read_text(encoding="utf-8"))
    on_screen = bare(" ".join(reader.texts))
    told = []
    for paired in (
        document["overall"],
        document["worst"]["change"],
        *document["by_class"].values(),
    ):
        told += [f"{100 * paired[side]:.1f}%({_interval(paired[f'{side}_interval'])})"
                 for side in ("a", "b")]  # fmt: skip
        told.append(f"{_sign(paired['difference'])}({_interval(paired['interval'], sign=True)})")
    for entry in document["correlations"]:
        for side in (entry["raised"], entry["lowered"]):
            told.append(f"{_sign(side['difference'])}({_interval(side['interval'], sign=True)})")
        for run in (entry["a"], entry["b"]):
            told.append(
                f"{_sign(run['raised_gap'])}({_interval(run['raised_interval'], sign=True)})"
            )
            told.append(run["outcome"].replace(" ", ""))
    counted = document["agreement"]
    told.append(
        f"Bothrighton{counted['both_right']},Aaloneon{counted['only_a']},Baloneon"
        f"{counted['only_b']},neitheron{counted['both_wrong']}."
    )
    for words in told:
        assert words in on_paper
        assert words in on_screen
    assert "Nodifferenceshown" in on_paper
    assert "DRAFT" in on_paper


def _sign(value: float, *, sign: bool = True) -> str:
    text = f"{100 * value:+.1f}" if sign and round(100 * value, 1) else f"{100 * value:.1f}"
    return text.replace("-", "−")


def _interval(bounds: Sequence[float], *, sign: bool = False) -> str:
    return "to".join(_sign(bound, sign=sign).removeprefix("" if sign else "+") for bound in bounds)


def test_hostile_names_are_inert(result_of: ResultOf, tmp_path: Path) -> None:
    classes = [*HOSTILE[:2], HOSTILE[-1]]
    result = result_of(classes=classes, name=HOSTILE[0], title=HOSTILE[1])
    result = replace(
        result,
        model=replace(result.model, name=HOSTILE[2]),
        descriptions={c.cluster.cluster: HOSTILE[0] for c in result.correlations},
    )
    a = run_folder(tmp_path / "a", result, LABELS)
    b = run_folder(tmp_path / "b", result, wrong_on(range(50)), config="'<b>&\"': '<script>x'\n")
    made = compare_runs(a, b)
    assert {setting.key for setting in made.settings} >= {'<b>&"'}
    write_comparison(made, tmp_path / "out")
    source = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    reader = read_html(source)
    assert not {tag for tag, _ in reader.tags} & {"img", "b", "iframe", "link", "object"}
    assert len(reader.scripts) == 1
    assert "<script>x" not in source
    assert len(PdfReader(tmp_path / "out" / "report.pdf").pages) >= 3


def test_an_audit_that_stopped_is_compared_without_correlations(
    result_of: ResultOf, tmp_path: Path
) -> None:
    stopped = result_of(correlations=0, discovery=None, subgroups=(), sensitivity=None)
    a = run_folder(tmp_path / "a", result_of(), LABELS)
    b = run_folder(tmp_path / "b", stopped, LABELS)
    made = compare_runs(a, b)
    write_comparison(made, tmp_path / "out")
    assert "the audit of B stopped before them" in paper(tmp_path / "out")
    none = compare_runs(b, b)
    assert none.correlations == ()
    assert not none.a.searched


def test_on_the_command_line(pair: tuple[Path, Path], tmp_path: Path) -> None:
    def run(*words: str | Path) -> tuple[int, str]:
        outcome = CliRunner().invoke(app, [*map(str, words)])
        return outcome.exit_code, flat(outcome.output)

    out = tmp_path / "out"
    code, told = run("compare", *pair, "--out", out)
    assert code == 0, told
    assert "NO DIFFERENCE SHOWN" in told
    assert "Both right on 108, A alone on 6, B alone on 3, neither on 3." in told
    assert json.loads((out / "run.json").read_text())["kind"] == "comparison"
    assert run("compare", *pair, "--out", out)[0] == 0  # an earlier comparison is replaced
    before = (pair[0] / "result.json").read_bytes()
    code, told = run("compare", *pair, "--out", pair[0])
    assert code == 2
    assert "holds a run that is no comparison" in told
    assert (pair[0] / "result.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("x")
    assert run("compare", *pair, "--out", tmp_path / "mine")[0] == 2
    assert run("compare", pair[0], out)[0] == 2  # a comparison is no audit
    assert run("report", out)[0] == 2
    (pair[1] / "private" / "patients.npy").unlink()
    assert run("compare", *pair, "--out", out)[0] == 3


def test_the_folder_by_default(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["compare", "a", "b"]).exit_code == 0
    assert (tmp_path / "reports" / "a-vs-b" / "comparison.json").is_file()


def test_the_schema_is_printed() -> None:
    outcome = CliRunner().invoke(app, ["schema", "--comparison"])
    assert outcome.exit_code == 0
    assert json.loads(outcome.output) == schema_of(Comparison)


def test_nothing_is_told_of_few_patients(result_of: ResultOf, tmp_path: Path) -> None:
    """Forty films of a class are many, but not of six patients; the next class goes too."""
    patients = np.where(LABELS == 2, 1000 + ONE_EACH % 6 // 2, ONE_EACH)
    folders = [
        run_folder(tmp_path / name, result_of(), wrong_on(range(n)), patients=patients, min_cell=11)
        for name, n in (("a", 6), ("b", 9))
    ]
    made = compare_runs(*folders)
    assert made.hidden_below == 11
    assert [one.films for one in made.by_class] == [-1, 40, -1]
    assert math.isnan(made.by_class[2].difference)
    assert [one.same for one in made.agreement_by_class] == [-1, -1, -1]
    assert made.agreement_by_class[1].films == 40
    assert made.agreement.only_a == made.agreement.both_right == -1  # 3 films, and what is left
    assert made.by_class[1].a == made.by_class[1].b == 0.75  # 38 and 37 of 40
    assert made.worst.class_a == made.worst.class_b == made.classes[1]
    assert made.overall.films == 120
    entry = made.correlations[0]  # of cardiomegaly, which is hidden
    assert entry.raised.films == -1
    assert math.isnan(entry.raised.difference)
    assert entry.films_with_feature == -1

    write_comparison(made, tmp_path / "out")
    document = json.loads((tmp_path / "out" / "comparison.json").read_text())
    jsonschema.validate(document, schema_of(Comparison))
    last = document["by_class"][made.classes[2]]
    assert (last["films"], last["a"], last["interval"]) == (None, None, [None, None])
    told = paper(tmp_path / "out")
    assert "hidden" in told
    assert "fewer than 11 patients" in told
    assert "fewer than 11 patients" in flat((tmp_path / "out" / "report.html").read_text())
