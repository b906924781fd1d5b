"""Films whose headers say that they are mirrored: an audit says so wherever it shows one."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pypdf import PdfReader
from typer.testing import CliRunner

from ravl_med.cli import app
from ravl_med.phantoms.cohort import synthesize

pytestmark = pytest.mark.long

CONFIG = f"""
name: small
cohort: {{manifest: cohort/manifest.csv, workers: 0}}
task:
  classes:
    cardiomegaly: {{prompts: [Cardiomegaly.]}}
    pleural effusion: {{prompts: [Pleural effusion.]}}
    pneumothorax: {{prompts: [Pneumothorax.]}}
    consolidation: {{prompts: [Consolidation.]}}
    no finding: {{prompts: [Normal chest radiograph.]}}
model:
  quickstart: {{tower: resnet, image_size: 64, epochs: 2, batch_size: 8}}
regions: {{sources: [tiles], tiles: [3, 3]}}
gate: {{min_films: 2, max_prediction_share: 1.0, min_prediction_share: 0.0, min_auroc: 0.0}}
discovery: {{clusters: [8, 12], draws: 2, min_influence: 0.0, min_strength: 0.0}}
evidence:
  min_n: 4
  relevance: {Path(__file__).parents[1] / "configs" / "relevance" / "chest.yaml"}
  draws: 2000
  permutations: 200
  simulations: 20
  effect_films: 20
  dependence_films: 0
  max_pairs: 12
privacy: {{burned_in_text: show}}  # `test_privacy` is about it; looking takes a second a film
"""
SHARED = ("result.json", "report.pdf", "report.html", "figures/correlation_01_films.png")


def mirror(path: Path) -> None:
    """Store a film the other way round, and let its header say so."""
    film = pydicom.dcmread(path)
    assert film.PatientOrientation == ["L", "F"]
    film.PixelData = np.ascontiguousarray(film.pixel_array[:, ::-1]).tobytes()
    film["PixelData"].VR = "OW"
    film.PatientOrientation = ["R", "F"]
    film.FieldOfViewHorizontalFlip = "YES"  # tells what was done to the pixels, not what to do
    film.save_as(path)


@pytest.fixture(scope="module", autouse=True)
def every_candidate_has_a_page() -> Iterator[None]:
    """So few films ask for no decision, and what asks for none shows no film."""
    with pytest.MonkeyPatch.context() as patch:
        every = "ravl_med.evidence.review.open_correlations"
        patch.setattr(every, lambda found, gate: tuple(found))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit of mirrored films, but for one that is not, and one that does not say."""
    root = tmp_path_factory.mktemp("mirrored")
    synthesize(root / "cohort", images=330, size=64, seed=3, workers=1)
    with (root / "cohort" / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "validation"]
    paths = [root / "cohort" / row["image"] for row in rows]
    for path in paths[2:]:
        mirror(path)
    silent = pydicom.dcmread(paths[0])
    silent.PatientOrientation = None
    silent.save_as(paths[0])
    (root / "audit.yaml").write_text(CONFIG, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.setenv("XDG_CONFIG_HOME", str(root / "config"))
        words = ("audit", str(root / "audit.yaml"), "--out", str(root / "run"), "--exit-zero")
        outcome = CliRunner().invoke(app, list(words))
    assert outcome.exit_code == 0, outcome.output
    (root / "films").write_text(str(len(paths)))
    return root / "run"


def words_of(folder: Path) -> tuple[str, str]:
    """The text of the PDF and the source of the HTML, in one line each."""
    pages = (page.extract_text() for page in PdfReader(folder / "report.pdf").pages)
    html = (folder / "report.html").read_text(encoding="utf-8").replace("&#x27;", "'")
    return " ".join(" ".join(pages).split()), html


def test_the_report_says_what_is_mirrored(run: Path) -> None:
    films = int((run.parent / "films").read_text())
    told = f"on {films - 1} of {films} films, {films - 2} of them mirrored (L)"
    paper, html = words_of(run)
    for text in (paper, html):
        assert told in text
        assert "patient's left at the left edge" in text
    assert '<span class="edge" aria-hidden="true">L</span>' in html
    document = json.loads((run / "result.json").read_text())
    shown = [region for entry in document["correlations"] for region in entry["regions"]]
    assert shown
    assert {region["left_edge"] for region in shown} <= {"L", "R", None}
    assert sum(region["left_edge"] == "L" for region in shown) > 0.8 * len(shown)


def test_drawn_again_it_says_the_same(run: Path) -> None:
    def redraw() -> dict[str, bytes]:
        outcome = CliRunner().invoke(app, ["report", str(run)])
        assert outcome.exit_code in (0, 1), outcome.output
        return {name: (run / name).read_bytes() for name in SHARED}

    before = (run / "figures" / "correlation_01_films.png").read_bytes()
    once = redraw()
    assert redraw() == once
    assert once["figures/correlation_01_films.png"] == before
    assert "patient's left at the left edge" in words_of(run)[0]
