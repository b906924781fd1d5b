"""Very many films at the level of embeddings, and the search on them: seconds and memory.

No pixels and no model: region embeddings around prototypes, patients with one film or dozens,
labels, predictions, attributes, and one planted feature that raises a class and lowers the others.
Everything lies in files of a folder, the embeddings in one that is mapped, so that what is measured
runs in another process than what draws them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.dicom_header import Edge
from ravl_med.cohort.manifest import Cohort
from ravl_med.cohort.table import ManifestFiles
from ravl_med.config.loading import Config
from ravl_med.encoders.embeddings import Embeddings
from ravl_med.encoders.zero_shot import Scores
from ravl_med.evidence.audit_result import ModelChecks, ModelSummary, result_document
from ravl_med.evidence.counterfactual.localisation import read_relevance
from ravl_med.evidence.disclosure_control import hide_small_cells
from ravl_med.evidence.effects import measure_accuracy
from ravl_med.evidence.statistics import PatientBootstrap
from ravl_med.pipeline.audit import Findings, SearchTools, audit_data, collect_result, search_films
from ravl_med.pipeline.stages import Run
from ravl_med.regions.region_set import RegionKind, cut_tiles, tile_names
from ravl_med.reporting.files.run_folder import write_json
from ravl_med.storage.cache import Cache
from tests.benchmarks.processes import forget_peak, map_in_children, peak_mb
from tests.benchmarks.runner import Progress
from tests.benchmarks.simulated_cohorts import (
    Feature,
    class_accuracy,
    draw_embeddings,
    draw_prototypes,
)
from tests.benchmarks.tables import Row

_MODEL = ModelSummary("none", "none", "0" * 64, 224, "squash", "simulated", 0)

CLASSES = 4
FEATURE = 60
"""Number of the planted prototype: that of the others."""

_FILMS_A_PATIENT = 5.8  # as MIMIC-CXR has them, most patients with few and some with very many
_OWN_CLASS = 0.2  # films of a patient that have a class of their own
_ACCURACY = 0.8
_PREVALENCE, _GAP = 0.2, 0.25  # of the feature
_BODIES, _TRAIT = 8, 8.0  # mixtures of prototypes that patients have, and how alike these are
_LEANING = 0.08  # by which a body raises a class and lowers the others: among many films it shows
_LOUD = 3  # every third prototype speaks up in mispredicted films, so that it passes RaVL's filter
_LOUDEST = 0.9  # score of the region that speaks for a wrong prediction
_SIDE = 1024
_RIGHT: tuple[Edge, ...] = ("R",)
_ATTRIBUTES: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "view": (("AP", "PA", "LATERAL", "LL"), (0.40, 0.26, 0.22, 0.12)),
    "portable": (("yes", "no"), (0.4, 0.6)),
    "manufacturer": (("A", "B", "C", "D"), (0.4, 0.3, 0.2, 0.1)),
    "model": (tuple(f"M{n}" for n in range(9)), (0.2, 0.2, 0.15, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05)),
    "site": (("east", "north", "west"), (0.5, 0.3, 0.2)),
    "sex": (("F", "M", ""), (0.47, 0.5, 0.03)),
    "age": (tuple(str(age) for age in range(18, 92)), (1 / 74,) * 74),
    "study_year": (tuple(str(year) for year in range(2011, 2019)), (0.125,) * 8),
}
_OF_PATIENTS = ("sex", "site")


@dataclass(frozen=True, slots=True)
class FilmsPlan:
    """How many films are drawn.

    Attributes
    ----------
    films : int - N
    regions : int - of each film, a square number
    size : int - D
    seed : int
    """

    films: int
    regions: int = 16
    size: int = 512
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedFilms:
    """What an audit holds of very many films, and the truth.

    Attributes
    ----------
    cohort : Cohort
    embeddings : Embeddings - of its regions in a mapped file, its images without any numbers
    scores : Scores
    kinds : ndarray of shape (R,), int64 - prototype of each region, `FEATURE` for the planted one
    """

    cohort: Cohort
    embeddings: Embeddings
    scores: Scores
    kinds: NDArray[np.int64]


def draw_films(plan: FilmsPlan, folder: Path) -> None:
    """Draw films into the files of a folder; the same plan draws the same."""
    rng = np.random.default_rng([plan.seed, plan.films])
    patients = _draw_patients(plan.films, rng)
    labels = rng.integers(CLASSES, size=plan.films)[patients]
    labels = np.where(
        rng.random(plan.films) < _OWN_CLASS, rng.integers(CLASSES, size=plan.films), labels
    )
    carries = (rng.random(plan.films) < _PREVALENCE)[patients]
    body = rng.integers(_BODIES, size=plan.films)[patients]
    predictions = _predict(labels, carries, body, rng)
    kinds = _draw_kinds(plan, body, carries, rng)
    named: dict[str, Any] = {
        f"attribute_{name}": rng.choice(len(values), size=plan.films, p=shares)
        for name, (values, shares) in _ATTRIBUTES.items()
    }
    for name in _OF_PATIENTS:
        named[f"attribute_{name}"] = named[f"attribute_{name}"][patients]
    np.savez(
        folder / "films.npz",
        patients=patients,
        labels=labels,
        predictions=predictions,
        kinds=kinds,
        image=_score(predictions, rng),
        region=_score_regions(kinds, labels, predictions, rng),
        **named,
    )
    anchors = draw_prototypes(FEATURE + 1, plan.size, rng)
    shape = (kinds.size, plan.size)
    region = np.memmap(folder / "region.f32", dtype=np.float32, mode="w+", shape=shape)
    draw_embeddings(anchors, kinds.ravel(), region, rng)
    region.flush()


def open_films(plan: FilmsPlan, folder: Path) -> SimulatedFilms:
    """Open the films of a folder.

    Parameters
    ----------
    plan : FilmsPlan - that they were drawn with
    """
    with np.load(folder / "films.npz", allow_pickle=False) as stored:
        drawn: dict[str, NDArray[Any]] = {name: stored[name] for name in stored.files}
    films, each = drawn["kinds"].shape
    region = np.memmap(
        folder / "region.f32", dtype=np.float32, mode="r", shape=(films * each, plan.size)
    )
    cohort = Cohort(
        name="simulated",
        rows=np.arange(2, 2 + films),
        paths=ManifestFiles((f"{film:06d}.dcm" for film in range(films)), Path()),
        patients=drawn["patients"],
        radiology_reports=("",) * films,
        labels=drawn["labels"],
        classes=tuple(f"class {c + 1}" for c in range(CLASSES)),
        attributes={
            name: tuple(values[code] for code in drawn[f"attribute_{name}"].tolist())
            for name, (values, _) in _ATTRIBUTES.items()
        },
        listed=films,
        left_out={},
        label_sources=("manifest",) * films,
        label_certainty=("stated",) * films,
    )
    scores = Scores(drawn["image"], drawn["region"], drawn["predictions"])
    return SimulatedFilms(cohort, _embeddings(films, each, region), scores, drawn["kinds"].ravel())


def _embeddings(films: int, each: int, region: NDArray[np.float32]) -> Embeddings:
    side = round(each**0.5)
    names = tile_names(side, side)
    return Embeddings(
        films=np.arange(films),
        digests=tuple(f"{film:064x}" for film in range(films)),
        applied=("window",) * films,
        sizes=np.full((films, 2), _SIDE, dtype=np.int64),
        image=np.empty((films, 0), dtype=np.float32),
        region=np.asarray(region),
        region_image=np.repeat(np.arange(films, dtype=np.int64), each),
        region_boxes=np.tile(cut_tiles(_SIDE, _SIDE, side, side), (films, 1)),
        region_kind=np.tile(np.arange(each, dtype=np.int64), films),
        kinds=tuple(RegionKind("tiles", name) for name in names),
        unseen=0,
        problems={},
        rejected=(),
        not_finite=(),
        left_edges=_RIGHT * films,
    )


def _draw_patients(films: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Patient of each film: one film, or more by a geometric distribution."""
    counts = rng.geometric(1.0 / _FILMS_A_PATIENT, size=films)
    return np.repeat(np.arange(films, dtype=np.int64), counts)[:films]


def _predict(
    labels: NDArray[np.int64],
    carries: NDArray[np.bool_],
    body: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Predictions: class 0 is right more often with the feature, the others less often.

    Each body leans towards a class a little, so that many clusters have gaps to be tested.
    """
    right = class_accuracy(
        (_ACCURACY,) * CLASSES, Feature(_PREVALENCE, _GAP, "others"), 0, range(1, CLASSES)
    )
    wrong = (labels + rng.integers(1, CLASSES, size=len(labels))) % CLASSES
    wrong = np.where(carries & (labels != 0), 0, wrong)
    chance = right[carries.astype(np.int64), labels]
    chance += np.where(body % CLASSES == labels, _LEANING / 2, -_LEANING / 2)
    correct = rng.random(len(labels)) < chance
    return np.where(correct, labels, wrong)


def _draw_kinds(
    plan: FilmsPlan,
    body: NDArray[np.int64],
    carries: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Prototype of each region, (N, r): frequent and rare ones, by body, and the feature."""
    common = 1.0 / (np.arange(FEATURE) + 5.0)
    bodies = rng.dirichlet(_TRAIT * common / common.sum() * FEATURE, size=_BODIES).cumsum(axis=1)
    kinds = np.empty((plan.films, plan.regions), dtype=np.int64)
    for number, mixture in enumerate(bodies):
        films = np.flatnonzero(body == number)
        luck = rng.random((len(films), plan.regions))
        kinds[films] = np.minimum(np.searchsorted(mixture, luck), FEATURE - 1)
    place = rng.integers(plan.regions, size=plan.films)
    kinds[carries, place[carries]] = FEATURE
    return kinds


def _score(predictions: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
    """Scores whose largest is the prediction."""
    scores = rng.random((len(predictions), CLASSES), dtype=np.float32)
    scores[np.arange(len(predictions)), predictions] += 1.0
    scores /= scores.sum(axis=1, keepdims=True)
    return scores


def _score_regions(
    kinds: NDArray[np.int64],
    labels: NDArray[np.int64],
    predictions: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Scores (R, C): the feature, else a loud prototype, speaks loudest for a wrong prediction."""
    scores = rng.random((*kinds.shape, CLASSES), dtype=np.float32)
    scores *= np.float32(0.5)
    wrong = np.flatnonzero(predictions != labels)
    here = kinds[wrong]
    rank = rng.random(here.shape) + (here % _LOUD == 0) + 2 * (here == FEATURE)
    scores[wrong, rank.argmax(axis=1), predictions[wrong]] = _LOUDEST
    return scores.reshape(-1, CLASSES)


def measure_discovery(
    config: Config, plans: Sequence[FilmsPlan], progress: Progress
) -> Iterator[Row]:
    """Search films of each plan, each in a process of its own; another one has drawn them.

    Parameters
    ----------
    config : Config - its sections discovery, evidence and gate
    """
    for plan in plans:
        stage = f"search {plan.films * plan.regions:,} regions"
        with tempfile.TemporaryDirectory(prefix="ravl-scale-") as place:
            progress(stage, 0, 2)
            map_in_children(partial(_draw, Path(place)), [plan], threads=None)
            progress(stage, 1, 2)
            yield from map_in_children(partial(_search, Path(place), config), [plan], threads=None)
            progress(stage, 2, 2)


def _draw(place: Path, plan: FilmsPlan) -> None:
    draw_films(plan, place)


def _search(place: Path, config: Config, plan: FilmsPlan) -> Row:
    simulated = open_films(plan, place)
    cohort, scores = simulated.cohort, simulated.scores
    embeddings, evidence = simulated.embeddings, config.evidence
    run, checks = Run(Cache(place)), ModelChecks(0.0, (), (), (), ())
    tools = SearchTools(None, None, read_relevance(evidence.relevance), checks)
    before = forget_peak()
    start = time.perf_counter()
    with run.stage("accuracy"):
        bootstrap = PatientBootstrap(cohort.patients, evidence.draws, evidence.seed)
        accuracy = measure_accuracy(
            cohort.labels,
            scores.predictions,
            len(cohort.classes),
            bootstrap,
            evidence.confidence,
        )
    data = audit_data(cohort, embeddings, scores)
    found = search_films(config, data, embeddings, tools, run)
    with run.stage("result.json"):
        result = collect_result(config, cohort, embeddings, _MODEL, accuracy, found, b"scale" * 8)
        document = result_document(
            hide_small_cells(result, config.privacy.min_cell), config.report.regions_listed
        )
        write_json(place / "result.json", document.model_dump(mode="json"))
    seconds = time.perf_counter() - start
    peak = peak_mb()
    discovery = found.discovery
    assert discovery is not None
    return {
        "films": len(cohort),
        "patients": len(np.unique(cohort.patients)),
        "regions": discovery.regions,
        "size": plan.size,
        "classes": len(cohort.classes),
        "seconds": round(seconds, 1),
        "stages": {stage: round(took, 1) for stage, took in run.clock.seconds.items()},
        "before_mb": round(before, 1),
        "peak_mb": round(peak, 1),
        "clusters": discovery.clusters,
        "candidates": discovery.candidates,
        "confirmed": sum(c.confirmation.status == "confirmed" for c in found.correlations),
        "found": _finds(simulated, found),
        "json_bytes": (place / "result.json").stat().st_size,
    }


def _finds(simulated: SimulatedFilms, found: Findings) -> bool:
    """Whether a confirmed correlation is the planted feature, and raises its class."""
    return any(
        entry.confirmation.status == "confirmed"
        and entry.cluster.raised_class == 0
        and bool(np.mean(simulated.kinds[entry.cluster.regions] == FEATURE) > 0.5)
        for entry in found.correlations
    )
