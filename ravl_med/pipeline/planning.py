"""Before a run: what an audit will cost on this machine, and what a planned cohort could show.

For the cost a few films go through the real reading, regions and model; the rest is arithmetic that
`CostPlan` shows. For the power the audit's own test runs on simulated cohorts.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.film import Film, FilmReader
from ravl_med.cohort.manifest import Cohort
from ravl_med.cohort.table import RejectedFilm
from ravl_med.config.audit import DiscoveryConfig, GateConfig
from ravl_med.config.loading import Config
from ravl_med.discovery.clusters import cluster_regions
from ravl_med.discovery.ravl import film_shares
from ravl_med.encoders.base import Encoder, using_threads
from ravl_med.encoders.batches import BatchEncoder, PreparedFilm, ReadFilm, prepare_film
from ravl_med.encoders.zero_shot import embed_classes
from ravl_med.errors import ConfigError, DataError
from ravl_med.evidence.audit_result import DetectableGap, Sensitivity
from ravl_med.evidence.counterfactual import CounterfactualModel, most_test_pictures
from ravl_med.evidence.counterfactual.effect_maps import map_effects, most_map_pictures, window_side
from ravl_med.evidence.counterfactual.fills import LikePlaces
from ravl_med.evidence.counterfactual.localisation import MOST_REGIONS, most_share_pictures
from ravl_med.evidence.dependence import most_dependence_pictures
from ravl_med.evidence.examination import min_strength_of
from ravl_med.evidence.looking import most_looking_pictures
from ravl_med.evidence.power import (
    CohortDesign,
    design_like,
    design_to_collect,
    measure_sensitivity,
)
from ravl_med.evidence.statistics import spread_positions
from ravl_med.pipeline import stages
from ravl_med.regions.film_structures import read_structures
from ravl_med.regions.proposal import RegionProposer, choose_segmenter
from ravl_med.reporting.files.run_record import peak_memory_mb
from ravl_med.reporting.files.saved_run import read_patients, read_run
from ravl_med.reporting.pictures import TextMasking
from ravl_med.reporting.wording import plural
from ravl_med.storage.cache import Cache

T = TypeVar("T")

_TESTED = 13  # features that the quickstart tests on held-out patients
_MAPPED, _LONGEST = 8, 5.0  # films that are mapped to see how long it takes, and seconds of it
_SEGMENTED = 3  # films whose anatomy and artifacts are found to see how long it takes
_CLUSTERED = (5_000, 20_000)  # regions whose clustering is timed: what is fixed, and what grows


@dataclass(frozen=True, slots=True)
class CostPlan:
    """What an audit costs."""

    films: int
    regions: int  # from their mean on the sample
    sample: int  # films that were measured
    rejected: int  # films of the sample that were set aside
    workers: int  # that the hours are for
    cores: int  # of this machine
    device: str  # that films were encoded on
    embedding_size: int  # D
    read_seconds: float  # of a film
    region_seconds: float  # of a film: its regions, and the model's input
    encode_seconds: float  # of a film
    map_seconds: float  # of a film whose effects are mapped
    structure_seconds: float  # of a film whose anatomy and artifacts are found
    text_seconds: float  # of a film whose text is looked for before it is shown; 0: it is not
    store_bytes: int  # of embeddings on disk
    worker_bytes: int  # of memory, as measured here
    run_bytes: int  # of memory beside it; embeddings above 1 GiB lie in a mapped file
    embed_hours: float
    looking_hours: float
    cluster_hours: float
    effect_hours: float
    counterfactual_hours: float  # of as many features as the quickstart tests
    dependence_hours: float

    def document(self) -> dict[str, Any]:
        """Return the plan as plain values, for JSON."""
        return asdict(self)

    @property
    def hours(self) -> float:
        """What was measured, all together."""
        first = self.embed_hours + self.looking_hours + self.cluster_hours + self.effect_hours
        return first + self.counterfactual_hours + self.dependence_hours

    def lines(self) -> list[str]:
        """Return the plan as a short table."""
        each = 1000.0 * np.array([self.read_seconds, self.region_seconds, self.encode_seconds])
        aside = f", {self.rejected} more set aside" if self.rejected else ""
        rows = [
            ("films", f"{self.films:,}"),
            ("regions", f"{self.regions:,}, {self.regions / self.films:.1f} per film"),
            (
                "on disk",
                f"{_bytes(self.store_bytes)} of films at the model's resolution and of embeddings, "
                f"{self.embedding_size} numbers",
            ),
            ("memory", f"{_bytes(self.worker_bytes)} per worker, {_bytes(self.run_bytes)} the run"),
            ("embedding", f"{_hours(self.embed_hours)} with {plural(self.workers, 'worker')}"),
            ("looking", _hours(self.looking_hours)),
            ("clusters", _hours(self.cluster_hours)),
            ("effects", _hours(self.effect_hours)),
            ("counterfactuals", f"{_hours(self.counterfactual_hours)} if {_TESTED} features are "
             "tested"),
            ("dependence", _hours(self.dependence_hours)),
            ("all of these", _hours(self.hours)),
            ("report", f"{self.text_seconds:.1f} s per film shown, to look for text"
             if self.text_seconds else "no text is looked for"),
            ("not measured", "confirmation, power, pages of the report: 14 s on the quickstart"),
            ("per film", f"{each[0]:.0f} ms to read, {each[1]:.0f} ms its regions and input, "
             f"{each[2]:.0f} ms the model"),
            ("measured on", f"{self.sample} films{aside}; {self.cores} cores, {self.device}"),
        ]  # fmt: skip
        return [f"{name:<16} {text}" for name, text in rows]


def plan_cost(
    config: Config,
    *,
    workers: int | None = None,
    films: int | None = None,
    sample: int = 16,
    cache: Cache,
    progress: stages.Progress = lambda stage, done, total: None,
) -> CostPlan:
    """Measure a sample of a cohort, and project what all of it costs.

    Parameters
    ----------
    workers : int or None - 1 or more, each with processors of its own; None: those of the config,
        1 where it has none, on the processors of this machine unless Ray has others
    films : int or None - of a cohort like this one; None: its own
    sample : int - films to measure, spread over the cohort
    cache : Cache - of synthetic cohorts and quickstart models

    Raises
    ------
    ConfigError, ModelError, DataError
        With one clear line; DataError also where no film of the sample can be read.
    """
    for name, value in (("--workers", workers), ("--films", films), ("--sample", sample)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be an int in the range [1, inf). Got {value} instead.")
    reader = FilmReader.of(config.cohort)
    run = stages.Run(cache, progress)
    manifest = stages.prepare_manifest(config, run)
    cohort = stages.list_films(config, manifest)
    stages.require_films(cohort, config.gate.max_rejected_fraction)
    with using_threads(config.threads or (1 if workers else None)):  # as a worker computes
        folder, _ = stages.prepare_model(config, manifest, reader, run)
        encoder = stages.open_model_of(config, folder)
        measured = _measure(config, cohort, reader, encoder, sample, progress)
    cores = os.cpu_count() or 1
    if workers is None:
        own = config.engine.workers or 1
        workers = own if config.engine.kind == "ray" else min(own, cores)
    return _project(config, measured, films or len(cohort), workers)


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """What a sample of films has cost."""

    sample: int
    rejected: int
    device: str
    size: int
    side: int
    regions: float
    read: float
    prepare: float
    encode: float
    preprocess: float  # of a film to the model's input
    window: float  # side of a window of the effect maps, as a share of that of the input
    mapping: float
    structures: float
    text: float
    clustering: tuple[float, float]  # seconds, and seconds a region


def _measure(
    config: Config,
    cohort: Cohort,
    reader: FilmReader,
    encoder: Encoder,
    sample: int,
    progress: stages.Progress,
) -> _Measured:
    chosen = np.array(spread_positions(len(cohort), sample), dtype=np.int64)
    some = cohort.keep(chosen)
    proposer = RegionProposer.of(config.regions, cohort)
    here = replace(reader, workers=0)  # in this process: what is timed is reading alone
    read, outcomes = _timed(lambda: list(here.films(some)))
    good = [replace(one, index=int(at)) for at, one in _readable(cohort.name, chosen, outcomes)]
    progress("measure a sample of films", len(chosen), len(chosen))
    with tempfile.TemporaryDirectory() as place:
        batches = BatchEncoder(
            encoder, Path(place), config.model.batch_size, stages.most_regions(config.regions)
        )

        def prepare() -> list[ReadFilm]:
            least = config.regions.min_visible
            return [prepare_film(batches, one, proposer.propose(one), least) for one in good]

        preparing, rows = _timed(prepare)
        inputs: dict[int, PreparedFilm] = {
            at: read.prepared
            for at, read in enumerate(rows[: batches.size])
            if read.prepared is not None
        }
        batches.encode(inputs)  # the first batch pays for what is made once
        encoding, embedded = _timed(lambda: batches.encode(inputs))
        filled = batches.size
    known = np.concatenate([film[2] for film in embedded])
    sizes = np.array([one.row.size for one in rows for _ in one.row.regions.boxes])
    boxes = np.concatenate([one.row.regions.boxes for one in rows])
    window = window_side(film_shares(boxes, sizes))
    return _Measured(
        sample=len(good),
        rejected=len(outcomes) - len(good),
        device=str(encoder.device),
        size=encoder.info.embedding_size,
        side=encoder.info.image_size,
        regions=sum(len(read.row.regions) for read in rows) / len(rows),
        read=read / len(chosen),
        prepare=preparing / len(good),
        encode=encoding / filled,  # a batch is always full
        preprocess=_timed(lambda: [encoder.preprocess(one.pixels) for one in good])[0] / len(good),
        window=window,
        mapping=_measure_mapping(config, encoder, good, cohort.patients, window),
        structures=_measure_structures(config, good[:_SEGMENTED]),
        text=_measure_text(config, good[0]),
        clustering=_measure_clustering(config, known, len(cohort.classes)),
    )


def _measure_mapping(
    config: Config,
    encoder: Encoder,
    films: Sequence[Film],
    patients: NDArray[np.int64],
    window: float,
) -> float:
    """Time the mapping of effects on films of a sample: seconds a film."""
    classes = embed_classes(encoder, config.task.texts())
    held = [encoder.preprocess(film.pixels).numpy() for film in films]
    frames = [
        encoder.geometry(*film.pixels.shape).to_input(
            np.array([[0, 0, *film.pixels.shape[::-1]]], dtype=np.float32)
        )[0]
        for film in films
    ]
    model = CounterfactualModel(
        encoder, held.__getitem__, classes, config.task.temperature, config.model.batch_size
    )
    own = patients[[film.index for film in films]]
    fill = LikePlaces(held.__getitem__, own, np.array(frames), config.evidence.seed).fill
    start, done = time.perf_counter(), 0
    while done < min(len(films), _MAPPED) and time.perf_counter() - start < _LONGEST:
        map_effects(
            held.__getitem__,
            fill,
            lambda pictures: np.concatenate(list(model.batches(pictures))),
            np.array([done]),
            encoder.info.image_size,
            window,
        )
        done += 1
    return (time.perf_counter() - start) / done


def _measure_structures(config: Config, films: Sequence[Film]) -> float:
    """Time the search for anatomy and artifacts: seconds a film."""
    segmenter = choose_segmenter(config.regions)
    read_structures(segmenter, films[0].pixels)  # the first pays for what is made once
    took, _ = _timed(lambda: [read_structures(segmenter, film.pixels) for film in films])
    return took / len(films)


def _measure_text(config: Config, film: Film) -> float:
    """Time the search for text on a film that is shown; 0 where none is made."""
    masking = TextMasking.of(config)
    if masking is None:
        return 0.0
    masking.mask(film.gray()[:64, :64])  # opens the networks
    return _timed(lambda: masking.mask(film.gray()))[0]


def _readable(
    name: str, chosen: NDArray[np.int64], outcomes: Sequence[Film | RejectedFilm]
) -> list[tuple[int, Film]]:
    """Return the films of a sample that could be read, with their positions in the cohort."""
    pairs = zip(chosen.tolist(), outcomes, strict=True)
    good = [(at, film) for at, film in pairs if isinstance(film, Film)]
    if not good:
        reasons = Counter(one.reason for one in outcomes if isinstance(one, RejectedFilm))
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        raise DataError(
            f"{name}: none of a sample of {len(chosen)} films can be read ({counts}); "
            "expected some that can. ravl-med inspect says more."
        )
    return good


def _measure_clustering(
    config: Config, known: np.ndarray[Any, np.dtype[np.float32]], classes: int
) -> tuple[float, float]:
    """Time the clustering of regions like those of the sample: seconds, and seconds a region."""
    rng = np.random.default_rng(0)
    took = []
    for count in _CLUSTERED:
        regions = known[rng.integers(len(known), size=count)]
        regions = regions + rng.normal(0.0, 0.05, regions.shape).astype(np.float32)
        regions /= np.linalg.norm(regions, axis=1, keepdims=True)
        took.append(_timed(partial(cluster_regions, regions, classes, config.discovery))[0])
    slope = max(took[1] - took[0], 0.0) / (_CLUSTERED[1] - _CLUSTERED[0])
    return max(took[0] - slope * _CLUSTERED[0], 0.0), slope


def _project(config: Config, measured: _Measured, films: int, workers: int) -> CostPlan:
    """Project what all films cost from what some did."""
    cores = os.cpu_count() or 1
    reading = measured.read / max(config.cohort.workers, 1)
    at_once = cores >= workers * (1 + config.cohort.workers) and config.cohort.workers > 0
    own = measured.prepare + measured.encode
    film = max(own, reading) if at_once else own + measured.read
    regions = round(films * measured.regions)
    row = 4 * measured.size
    evidence = config.evidence
    look, change, mapped = (
        min(most, films)
        for most in (evidence.looking_films, evidence.dependence_films, evidence.effect_films)
    )
    filled = measured.mapping / most_map_pictures(1, measured.window)  # a film with a place filled
    whole = measured.preprocess + max(measured.encode, filled)  # one that is changed as a whole
    test = most_test_pictures(evidence) + most_share_pictures(MOST_REGIONS)
    changes = most_dependence_pictures(change, len(config.task.texts()))
    fixed, slope = measured.clustering
    peak = round(1e6 * peak_memory_mb())
    return CostPlan(
        films=films,
        regions=regions,
        sample=measured.sample,
        rejected=measured.rejected,
        workers=workers,
        cores=cores,
        device=measured.device,
        embedding_size=measured.size,
        read_seconds=measured.read,
        region_seconds=measured.prepare,
        encode_seconds=measured.encode,
        map_seconds=measured.mapping,
        structure_seconds=measured.structures,
        text_seconds=measured.text,
        store_bytes=films * (32 + 8 + row + 32 + 1 + measured.side**2) + regions * row,
        worker_bytes=peak,
        run_bytes=peak + min((films + regions) * row, 2**30),
        embed_hours=films * film / workers / 3600.0,
        looking_hours=(look * measured.structures + most_looking_pictures(look) * whole) / 3600.0,
        cluster_hours=(fixed + slope * regions) / 3600.0,
        effect_hours=mapped * measured.mapping / 3600.0,
        counterfactual_hours=_TESTED
        * (test * filled + MOST_REGIONS / 2 * measured.structures)  # films recur, and are held
        / 3600.0,
        dependence_hours=(change * measured.structures + changes * whole) / 3600.0,
    )


def _timed(do: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    made = do()
    return time.perf_counter() - start, made


def _hours(hours: float) -> str:
    if hours >= 1.0:
        return f"{hours:.1f} hours"
    return f"{60.0 * hours:.1f} minutes" if hours >= 1 / 60 else f"{3600.0 * hours:.1f} seconds"


def _bytes(count: int) -> str:
    for unit, least in (("GB", 1e9), ("MB", 1e6)):
        if count >= least:
            return f"{count / least:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


_COMMON = 0.20  # prevalence at which a pass needs power
_ROUNDING = 1e-9
_MOST_FILMS = 1_000_000


@dataclass(frozen=True, slots=True)
class PlannedCohort:
    """A cohort that is yet to be collected."""

    films: int
    accuracy: float = 0.8  # expected zero-shot accuracy on each class
    films_a_patient: float = 1.0  # mean
    candidates: int | None = None  # clusters to stand out among; None: what the search carries
    simulations: int = 200  # cohorts for each prevalence


@dataclass(frozen=True, slots=True, eq=False)
class PlannedPower:
    """What such a cohort could show."""

    cohort: PlannedCohort
    classes: int
    sensitivity: Sensitivity
    gate: GateConfig
    by_scores: bool  # a pass of a model known by its scores alone needs a gap to be detectable

    @property
    def common(self) -> DetectableGap:
        """The row that a pass is held against: feature in 20 % of the films."""
        return min(self.sensitivity.detectable, key=lambda d: abs(d.prevalence - _COMMON))

    @property
    def enough(self) -> bool:
        """Whether the gap that can be detected is small enough for a model's scores to pass."""
        return self.common.gap <= self.gate.max_detectable_gap + _ROUNDING  # NaN does not

    def table(self) -> list[str]:
        """Return what could be seen, as lines of a table in plain text."""
        lines = ["feature in         smallest gap found   power at the largest gap"]
        for row in self.sensitivity.detectable:
            gap = _points(row.gap)
            if row.gap == row.gap:
                low, high = row.interval.low, row.interval.high
                gap = f"{gap} ({100 * low:.0f} to {_points(high).removesuffix(' points')})"
            lines.append(
                f"{_percent(row.prevalence):>10}   {gap:>24}   {_percent(row.power_at_largest):>24}"
            )
        return lines

    def sentence(self) -> str:
        """Return the outcome as a sentence."""
        cohort, power = self.cohort, self.sensitivity.power
        seen = (
            f"is found with {_percent(power)} power from a gap of "
            f"{100 * self.common.gap:.0f} points on"
            if self.common.gap == self.common.gap
            else f"is not found with {_percent(power)} power, however large its gap"
        )
        return (
            f"With {cohort.films:,} films, {self.classes} classes, an accuracy of "
            f"{_percent(cohort.accuracy)} and {self.sensitivity.candidates} candidates, a feature "
            f"in {_percent(self.common.prevalence)} of the films {seen}. {self._needed()}"
        )

    def _needed(self) -> str:
        """Say what a pass needs."""
        if self.by_scores:
            return (
                f"A pass needs {100 * self.gate.max_detectable_gap:.0f} points "
                f"(gate.max_detectable_gap){'.' if self.enough else ': collect more films.'}"
            )
        return (
            "A pass does not depend on this gap, but on what only the audit can measure: a local "
            "feature that is not named may cost at most "
            f"{100 * self.gate.max_local_effect:g} points of accuracy (gate.max_local_effect)."
        )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _points(gap: float) -> str:
    return f"{100 * gap:.0f} points" if gap == gap else "none"


def carried_candidates(config: DiscoveryConfig) -> int:
    """Return about how many clusters a search carries into its test.

    Pooled searches were seen to carry half as many as the sum of their K: 65 and 70 of 140.
    """
    return sum(config.clusters) // 2 if config.protocol == "pooled" else 1


def cohort_of_run(folder: Path, films: int | None, simulations: int) -> PlannedCohort:
    """Return a cohort like that of a finished audit; its number of films where none is given.

    Raises
    ------
    ConfigError, DataError
        There is no run, or it was made by an earlier version.
    """
    result = read_run(folder, "--run").result
    found, own = result.discovery, result.cohort
    candidates = max(found.candidates, 1) if found is not None else None
    each = own.images / max(own.patients, 1)
    return PlannedCohort(
        films or own.images, result.accuracy.overall, each, candidates, simulations
    )


def plan_power(
    config: Config,
    cohort: PlannedCohort,
    *,
    like: Path | None = None,
    progress: stages.Progress = lambda stage, done, total: None,
) -> PlannedPower:
    """Simulate what a planned cohort could show, with the classes and thresholds of a config.

    `like` is the run folder of an audit: classes, patients and accuracy are then drawn of its own.

    Raises
    ------
    ConfigError
        A number of the planned cohort is out of range, or there is no run of this task.
    DataError
        The run cannot be used.
    """
    classes, evidence = len(config.task.classes), config.evidence
    if cohort.candidates is None:
        cohort = replace(cohort, candidates=carried_candidates(config.discovery))
    _require_sense(cohort, classes)
    design = (
        _design_of_run(config, cohort, like)
        if like is not None
        else design_to_collect(
            cohort.films,
            classes,
            cohort.accuracy,
            cohort.films_a_patient,
            evidence.discovery_share,
            evidence.seed,
        )
    )
    sensitivity = measure_sensitivity(
        design,
        evidence.model_copy(update={"simulations": cohort.simulations}),
        min_strength=min_strength_of(config.discovery),
        candidates=cohort.candidates or 1,
        progress=partial(progress, "simulate what could be seen"),
    )
    by_scores = config.model.scores is not None
    return PlannedPower(cohort, classes, sensitivity, config.gate, by_scores)


def _design_of_run(config: Config, cohort: PlannedCohort, folder: Path) -> CohortDesign:
    result = read_run(folder, "--run").result
    if result.answers is None or result.classes != tuple(config.task.classes):
        raise ConfigError(
            "--run: the run is of other classes than the config, or of an earlier version; "
            "expected an audit of this config."
        )
    labels = result.answers.labels
    patients = read_patients(folder, len(labels))
    accuracy = np.array(result.accuracy.by_class, dtype=np.float64)
    share, seed = config.evidence.discovery_share, config.evidence.seed
    return design_like(labels, patients, accuracy, cohort.films, share, seed)


def _require_sense(cohort: PlannedCohort, classes: int) -> None:
    """Refuse numbers that describe no cohort; written so that NaN is refused too."""
    least = 2 * classes
    checks = (
        (
            "--films",
            cohort.films,
            least <= cohort.films <= _MOST_FILMS,
            f"in the range [{least}, {_MOST_FILMS}], two per class at the least",
        ),
        ("--accuracy", cohort.accuracy, 0.0 < cohort.accuracy < 1.0, "in the range (0, 1)"),
        (
            "--films-per-patient",
            cohort.films_a_patient,
            1.0 <= cohort.films_a_patient <= cohort.films / least,
            f"in the range [1, {cohort.films / least:g}], two patients per class at the least",
        ),
        ("--candidates", cohort.candidates, (cohort.candidates or 0) >= 1, "1 or more"),
        ("--simulations", cohort.simulations, cohort.simulations >= 20, "20 or more"),
    )
    for name, value, sensible, expected in checks:
        if not sensible:
            raise ConfigError(f"{name}: expected a number {expected}; got {value}.")
