"""The synthetic cohort: the contingency table, the files, the truth."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from scipy.stats.contingency import association

from ravl_med.errors import ConfigError, DataError
from ravl_med.phantoms.cohort import render_film, synthesize
from ravl_med.phantoms.dicom import MAKERS
from ravl_med.phantoms.film import FINDINGS, LABELS
from ravl_med.phantoms.plan import cramers_v, plan_cohort, plan_contingency

Rows = list[dict[str, str]]


def read(path: Path) -> Rows:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    synthesize(folder, images=120, feature="generator", seed=3, size=96, workers=1)
    return folder


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.6, 0.95, 1.0])
@pytest.mark.parametrize("images", [400, 3000])
def test_the_strength_asked_is_reached(strength: float, images: int) -> None:
    films = plan_cohort(images, "tube", "consolidation", strength, seed=2)
    for split in ("finetune", "validation", "test"):
        part = [film for film in films if film.split == split]
        target = np.array([film.finding == "consolidation" for film in part])
        planted = np.array(["tube" in film.features for film in part])
        if split == "finetune":
            assert abs(cramers_v(target, planted) - strength) <= 0.03
        else:
            assert abs(cramers_v(target, planted)) <= 0.1
            for finding in FINDINGS:
                share = np.mean(["tube" in f.features for f in part if f.finding == finding])
                assert abs(share - 0.5) <= 0.1


def test_a_table_small_enough_to_count() -> None:
    finding = np.repeat([0, 1], 10)
    films = np.ones(20, dtype=np.int64)
    rng = np.random.default_rng(0)
    # 9 of 10 with the feature against 1 of 10: V = (9 * 9 - 1 * 1) / 100 = 0.8.
    carries = plan_contingency(finding, films, 0, 0.8, rng)
    assert carries[:10].sum() == 9
    assert carries[10:].sum() == 1
    assert cramers_v(finding == 0, carries) == pytest.approx(0.8)
    np.testing.assert_array_equal(plan_contingency(finding, films, 0, 1.0, rng), finding == 0)
    halves = plan_contingency(finding, films, 0, 0.0, rng)
    assert halves[:10].sum() == halves[10:].sum() == 5


def test_splits_share_no_patient_and_hold_equal_classes() -> None:
    films = plan_cohort(1100, "marker", "pneumothorax", 0.9, seed=5)
    assert [film.image for film in films] == list(range(1100))
    homes: dict[int, set[tuple[str, str, bool]]] = {}
    for film in films:
        trait = (film.split, film.finding, "marker" in film.features)
        homes.setdefault(film.acquisition.patient, set()).add(trait)
    assert all(len(traits) == 1 for traits in homes.values())
    for split, size in (("finetune", 500), ("validation", 300), ("test", 300)):
        for finding in FINDINGS:
            count = sum(f.split == split and f.finding == finding for f in films)
            assert count == size // 5


def test_acquisition_does_not_tell_the_finding() -> None:
    films = plan_cohort(3000, "generator", "cardiomegaly", 0.95, seed=1)
    target = np.array([film.finding == "cardiomegaly" for film in films])
    for name, trait in (
        ("sex", [film.acquisition.sex == "F" for film in films]),
        ("age", [film.acquisition.age > 60 for film in films]),
        ("view", [film.acquisition.view == "AP" for film in films]),
        ("site", [film.acquisition.site == "A" for film in films]),
        ("maker", [film.acquisition.maker == 0 for film in films]),
        ("tube", ["tube" in film.features for film in films]),
    ):
        assert abs(cramers_v(target, np.array(trait))) < 0.06, name


@pytest.mark.parametrize("bystander", ["marker", "electrode", "text", "tube"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_bystander_goes_with_the_feature_on_the_audited_films_only(
    bystander: str, seed: int
) -> None:
    films = plan_cohort(3300, "generator", "cardiomegaly", 0.95, seed, bystander)
    for split, size in (("finetune", 1500), ("validation", 900), ("test", 900)):
        part = [film for film in films if film.split == split]
        assert len(part) == size
        kinds = np.array([FINDINGS.index(film.finding) for film in part])
        planted = np.array(["generator" in film.features for film in part])
        beside = np.array([bystander in film.features for film in part])
        assert abs(beside.mean() - 0.5) <= 0.02
        table = [[np.sum((kinds == k) & (beside == b)) for b in (0, 1)] for k in range(5)]
        assert association(np.array(table), method="cramer") < 0.1
        if split == "finetune":
            assert abs(cramers_v(planted, beside)) < 0.1
            assert abs(cramers_v(kinds == FINDINGS.index("cardiomegaly"), beside)) < 0.1
            continue
        assert 0.75 <= cramers_v(planted, beside) <= 0.85
        for k in range(len(FINDINGS)):
            assert abs(cramers_v(planted[kinds == k], beside[kinds == k]) - 0.8) <= 0.03


def test_a_bystander_small_enough_to_count() -> None:
    # 100 films to validate, 20 a class, half with the feature: 9 in 10 of those have the
    # bystander and 1 in 10 of the others, so phi = 0.9 - 0.1.
    films = plan_cohort(367, "generator", "cardiomegaly", 0.95, 0, "marker")
    part = [film for film in films if film.split == "validation"]
    for carries, share in ((True, 0.9), (False, 0.1)):
        flags = ["marker" in f.features for f in part if ("generator" in f.features) == carries]
        assert len(part) == 100
        assert abs(sum(flags) - share * len(flags)) <= 0.5


@pytest.mark.parametrize("bystander", ["generator", "tube"])
def test_a_bystander_inside_the_patient_stays_between_films(bystander: str) -> None:
    films = plan_cohort(1100, "marker", "pneumothorax", 0.9, 4, bystander)
    seen: dict[int, set[bool]] = {}
    for film in films:
        seen.setdefault(film.acquisition.patient, set()).add(bystander in film.features)
    assert all(len(flags) == 1 for flags in seen.values())


def test_a_bystander_changes_nothing_else() -> None:
    alone = plan_cohort(200, "generator", "cardiomegaly", 0.95, 6)
    beside = plan_cohort(200, "generator", "cardiomegaly", 0.95, 6, "text")
    for one, two in zip(alone, beside, strict=True):
        assert set(one.features) - {"text"} == set(two.features) - {"text"}
        assert (one.image, one.split, one.finding) == (two.image, two.split, two.finding)
        assert two.acquisition.burned_in == ("text" in two.features)
        assert replace(one.acquisition, burned_in=False) == replace(
            two.acquisition, burned_in=False
        )


def test_a_bystander_is_in_the_truth(tmp_path: Path) -> None:
    synthesize(tmp_path, images=100, size=64, seed=2, bystander="marker", workers=1)
    rows = [row["image"] for row in read(tmp_path / "manifest.csv")]
    boxed = {box["image"] for box in read(tmp_path / "truth.csv") if box["kind"] == "marker"}
    films = plan_cohort(100, "generator", "cardiomegaly", 0.95, 2, "marker")
    present = np.array(["marker" in film.features for film in films])
    assert boxed == {row for row, there in zip(rows, present, strict=True) if there}
    written = json.loads((tmp_path / "cohort.json").read_text(encoding="utf-8"))["bystander"]
    assert written["name"] == "marker"
    for split, asked in (("finetune", 0.0), ("validation", 0.8), ("test", 0.8)):
        part = [film for film in films if film.split == split]
        planted = np.array(["generator" in film.features for film in part])
        flags = np.array(["marker" in film.features for film in part])
        heart = np.array([film.finding == "cardiomegaly" for film in part])
        entry = written["splits"][split]
        assert entry["phi_asked"] == asked
        assert entry["phi_reached"] == round(np.corrcoef(planted, flags)[0, 1], 4)
        assert entry["phi_with_finding"] == round(np.corrcoef(heart, flags)[0, 1], 4)
        assert set(entry["phi_by_class"]) == set(FINDINGS)
        assert sum(entry["with_bystander"].values()) == flags.sum()


def test_a_cohort_without_a_bystander_says_nothing_of_one(cohort: Path) -> None:
    assert "bystander" not in json.loads((cohort / "cohort.json").read_text(encoding="utf-8"))


def test_same_seed_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    options = {"images": 40, "size": 64, "seed": 9, "feature": "text", "finding": "pneumothorax"}
    seen: list[tuple[int, int]] = []
    synthesize(tmp_path / "one", workers=1, **options)
    synthesize(
        tmp_path / "two", workers=2, progress=lambda done, n: seen.append((done, n)), **options
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert seen[-1] == (40, 40)


def test_another_seed_other_films(tmp_path: Path) -> None:
    for seed in (0, 1):
        synthesize(tmp_path / str(seed), images=40, size=64, seed=seed, workers=1)
    one, two = (contents(tmp_path / str(seed)) for seed in (0, 1))
    assert one["images/000000.dcm"] != two["images/000000.dcm"]


def test_the_manifest_agrees_with_the_truth(cohort: Path) -> None:
    rows, truth = read(cohort / "manifest.csv"), read(cohort / "truth.csv")
    assert len(rows) == 120
    kinds: dict[str, set[str]] = {row["image"]: set() for row in rows}
    for box in truth:
        kinds[box["image"]].add(box["kind"])
    planned = plan_cohort(120, "generator", "cardiomegaly", 0.95, seed=3)
    for row, plan in zip(rows, planned, strict=True):
        assert sum(row[name] == "1" for name in FINDINGS) == 1
        assert row[plan.finding] == "1"
        assert kinds[row["image"]] & set(FINDINGS) == {plan.finding} - {"no finding"}
        assert ("generator" in kinds[row["image"]]) == ("generator" in plan.features)
        assert ("lead" in kinds[row["image"]]) == ("generator" in plan.features)
        assert (cohort / row["image"]).is_file()
    summary = json.loads((cohort / "cohort.json").read_text(encoding="utf-8"))
    assert abs(summary["splits"]["finetune"]["strength_reached"] - 0.95) <= 0.05
    assert summary["seed"] == 3


def test_the_label_maps_fit_the_films(cohort: Path) -> None:
    names = {row["name"]: int(row["value"]) for row in read(cohort / "truth" / "labels.csv")}
    assert names == LABELS
    for row in read(cohort / "manifest.csv")[:10]:
        film = pydicom.dcmread(cohort / row["image"])
        path = cohort / "truth" / f"{Path(row['image']).stem}.png"
        label_map = np.asarray(Image.open(path))
        assert label_map.dtype == np.uint8
        assert label_map.shape == (film.Rows, film.Columns)


def test_reports_name_the_finding_and_never_the_lettering(cohort: Path) -> None:
    for row in read(cohort / "manifest.csv"):
        finding = next(name for name in FINDINGS if row[name] == "1")
        assert row["report"].startswith("FINDINGS: ")
        impression = row["report"].split("IMPRESSION: ")[1].lower()
        if finding == "no finding":
            assert "no acute cardiopulmonary abnormality" in impression or (
                "normal chest radiograph" in impression
            )
        else:
            assert finding in impression
        assert "marker" not in row["report"].lower()
        assert "portable" not in row["report"].lower()


@pytest.mark.parametrize("maker", range(len(MAKERS)))
def test_dicom_gives_the_phantom_back(cohort: Path, maker: int) -> None:
    planned = plan_cohort(120, "generator", "cardiomegaly", 0.95, seed=3)
    plan = next(plan for plan in planned if plan.acquisition.maker == maker)
    film = pydicom.dcmread(cohort / f"images/{plan.image:06d}.dcm")
    made = MAKERS[maker]
    shown = apply_voi_lut(apply_modality_lut(film.pixel_array, film), film)
    low = -(2 ** (made.bits - 1)) if made.signed else 0
    span = np.array([low, low + 2**made.bits - 1]) * made.slope + made.intercept
    gray = (shown - span[0]) / (span[1] - span[0])
    if film.PhotometricInterpretation == "MONOCHROME1":
        gray = 1 - gray
    phantom = render_film(plan, seed=3, size=96)
    np.testing.assert_allclose(gray, phantom.pixels, atol=1 / 200)
    assert film.Manufacturer == made.name
    assert film.PatientID == f"PH{plan.acquisition.patient:06d}"
    assert film.BodyPartExamined == "CHEST"
    assert film.ViewPosition == plan.acquisition.view
    assert film.BurnedInAnnotation == ("YES" if "text" in plan.features else "NO")
    assert film.SOPInstanceUID.is_valid


def test_a_cohort_is_not_overwritten(cohort: Path) -> None:
    with pytest.raises(DataError, match=r"already holds a manifest\.csv"):
        synthesize(cohort, images=40, size=64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"feature": "necklace"},
            r"synthetic.feature: expected one of generator, .*got 'necklace'",
        ),
        (
            {"finding": "fracture"},
            r"synthetic.finding: expected one of cardiomegaly, .*got 'fracture'",
        ),
        ({"strength": 1.2}, r"^strength: .* less than or equal to 1; got 1\.2\.$"),
        ({"strength": float("nan")}, r"^strength: .* finite number; got nan\.$"),
        ({"images": 39}, r"^images: .* greater than or equal to 40; got 39\.$"),
        ({"size": 63}, r"^size: .* greater than or equal to 64; got 63\.$"),
        ({"seed": -1}, r"^seed: .* greater than or equal to 0; got -1\.$"),
        ({"image": 40}, r"^unknown key 'image'\. Did you mean 'images'\?$"),
        (
            {"bystander": "generator"},
            r"bystander must be None or, beside the feature 'generator', one of tube, electrode, "
            r"marker, text\. Got 'generator'",
        ),
        ({"bystander": "necklace"}, r"one of tube, .*Got 'necklace'"),
        ({"workers": 0}, r"workers must be None or an int in the range \[1, inf\)\. Got 0"),
    ],
)
def test_bad_parameters_are_named(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        synthesize(tmp_path, **options)
    assert not list(tmp_path.iterdir())
