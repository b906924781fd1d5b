"""Which films are shown, with whose regions, and what is counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ravl_med.cohort.film import FilmReader, pseudonym
from ravl_med.cohort.manifest import read_manifest
from ravl_med.config.loading import Config, load_config
from ravl_med.errors import ConfigError, DataError
from ravl_med.pipeline.preview import preview_regions
from ravl_med.reporting.contact_sheet import ContactSheet
from ravl_med.storage.cache import Cache

TEXT = """\
name: small
cohort: {manifest: manifest.csv, workers: 0}
task:
  classes:
    effusion: {prompts: [Fluid.], label: {effusion: 1}}
    clear: {prompts: [Clear.], label: {effusion: 0}}
model: {path: nowhere}
regions: {tiles: [2, 3]}
evidence: {relevance: nowhere.yaml}
"""
KEY = bytes(32)
FILMS, PATIENTS = 12, 4


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Twelve films of four patients; the first patient has nine of them."""
    random = np.random.default_rng(0)
    rows = ["image,patient,effusion,split"]
    for i in range(FILMS):
        pixels = random.integers(0, 255, (40, 60), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"film{i}.png")
        rows.append(f"film{i}.png,patient{max(i - 8, 0)},{i % 2},validation")
    rows.append("film0.png,patient9,1,test")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "audit.yaml").write_text(TEXT, encoding="utf-8")
    return tmp_path


def preview(place: Path, *sets: str, shown: int = 20, seed: int = 0) -> ContactSheet:
    config: Config = load_config(place / "audit.yaml", sets)
    return preview_regions(config, shown=shown, seed=seed, key=KEY, cache=Cache(place / "cache"))


def pseudonyms(place: Path) -> list[str]:
    """Pseudonyms of the films in the order of the manifest."""
    cohort = read_manifest(place / "manifest.csv", split="validation")
    reader = FilmReader()
    return [pseudonym(reader.film(cohort, i).digest, KEY) for i in range(len(cohort))]


def test_all_films_where_there_are_no_more(place: Path) -> None:
    sheet = preview(place)
    assert sheet.cohort_films == FILMS
    assert sorted(film.image_id for film in sheet.films) == sorted(pseudonyms(place))
    assert sheet.regions_a_film() == {"tiles": 6.0}
    assert sheet.description == "tiles, 2 rows x 3 columns"
    assert (sheet.skipped, sheet.problems) == ({}, {})
    assert not (place / "cache").exists()  # no model was made


def test_the_sample_follows_the_seed_and_spreads_over_the_patients(place: Path) -> None:
    ids = pseudonyms(place)
    samples = []
    for seed in (0, 0, 1, 2, 3, 4, 5):
        films = [film.image_id for film in preview(place, shown=PATIENTS, seed=seed).films]
        patients = [max(ids.index(film) - 8, 0) for film in films]
        assert sorted(patients) == [0, 1, 2, 3]
        samples.append(tuple(films))
    assert samples[0] == samples[1]
    assert len(set(samples)) > 3


def test_films_that_cannot_be_read_are_counted_and_others_take_their_place(place: Path) -> None:
    for i in range(9, FILMS):
        (place / f"film{i}.png").write_bytes(b"")
    (place / "film8.png").unlink()
    (place / "film7.png").write_bytes((place / "film6.png").read_bytes())
    sheet = preview(place, "cohort.workers=2")
    assert len(sheet.films) == 7
    assert sheet.skipped == {"empty": 3, "missing": 1, "duplicate_pixels": 1}
    assert len(preview(place, shown=7).films) == 7


def test_each_film_has_its_own_annotations(place: Path) -> None:
    rows = ["image,name,x0,y0,x1,y1"]
    rows += [f"film{i}.png,thing {i},{i},0,{i + 6},20" for i in range(FILMS)]
    rows += ["film1.png,outside,70,0,80,20", "film77.png,thing,0,0,6,20"]
    (place / "boxes.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    sets = ("regions.sources=[annotations]", "regions.annotations=boxes.csv")
    ids = pseudonyms(place)
    sheet = preview(place, *sets, shown=9, seed=4)
    for film in sheet.films:
        i = ids.index(film.image_id)
        assert [kind.name for kind in film.regions.kinds] == [f"thing {i}"]
        assert film.regions.boxes[0].tolist() == pytest.approx([7 * i, 0, 7 * i + 42, 140])
    outside = sum(Counter(film.regions.problems)["box_outside"] for film in sheet.films)
    assert sheet.problems == Counter({"other_image": 1, "box_outside": outside}) - Counter()


@pytest.mark.parametrize(
    ("shown", "seed", "said"),
    [
        (0, 0, r"--show must be an int in the range \[1, 100\]. Got 0 instead."),
        (101, 0, r"--show must be an int in the range \[1, 100\]. Got 101 instead."),
        (5, -1, r"--seed must be an int in the range \[0, inf\). Got -1 instead."),
    ],
)
def test_numbers_out_of_range(place: Path, shown: int, seed: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        preview(place, shown=shown, seed=seed)


def test_no_film_at_all_ends_with_the_reasons(place: Path) -> None:
    for i in range(FILMS):
        (place / f"film{i}.png").unlink()
    with pytest.raises(DataError, match=r"none of its 13 rows .* \(missing 12, ") as caught:
        preview(place)
    assert "film1" not in str(caught.value)
