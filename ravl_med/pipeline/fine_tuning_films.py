"""The fine-tuning films of a mitigation, with their classes, reports, and located features.

Removal asks the audited model where the features lie, by the workers of an engine and in the films
that the model will be trained on, at its resolution; none is decoded again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravl_med.config.loading import Config
from ravl_med.discovery.candidates import ANYWHERE, FeatureDetector
from ravl_med.discovery.ravl import AuditData
from ravl_med.encoders.base import Encoder, using_threads
from ravl_med.engine import opened_engine
from ravl_med.engine.local import Work
from ravl_med.errors import DataError
from ravl_med.evidence.counterfactual import CounterfactualModel, prepare_inputs
from ravl_med.evidence.counterfactual.fills import Interpolation
from ravl_med.evidence.counterfactual.model_inputs import ModelInputs
from ravl_med.evidence.mitigation_result import MitigatedCorrelation, SplitSummary
from ravl_med.labelling.findings import class_of_report
from ravl_med.labelling.sections import impression_of
from ravl_med.mitigation.fine_tuning_set import (
    FineTuningSet,
    GrayFilms,
    RegionTable,
    ReportTable,
    notes_of_fine_tuning_set,
    open_fine_tuning_set,
    write_fine_tuning_set,
    write_reports,
)
from ravl_med.mitigation.spurious_regions import (
    TrimmingRule,
    carriers_in,
    films_to_explore,
    find_co_occurring,
    regions_by_film,
    settle_rule,
)
from ravl_med.pipeline.mitigation_setup import ExploredFilms, Setting
from ravl_med.pipeline.split_films import SplitFilms, summarise_split
from ravl_med.pipeline.stages import open_model_of

_FILMS = 256  # of a unit

Located = tuple[NDArray[np.int64], NDArray[np.float32]]


def locate_features(
    setting: Setting, split: SplitFilms, found: NDArray[np.bool_]
) -> tuple[RegionTable, list[int]]:
    """Find the regions that carry the features, by removal, among those that hold them (R, F).

    Return those of all features together, and how many films were located by each.

    Raises
    ------
    EngineError
        Workers died.
    """
    where, boxes, located = [], [], []
    for number, feature in enumerate(setting.features):
        stage = f"locate feature {number + 1} of {len(setting.features)} by removal"
        films, places = _locate_feature(
            setting, split, found[:, number], feature.detector, setting.run.staged(stage)
        )
        where.append(films)
        boxes.append(places)
        located.append(len(np.unique(films)))
    film = np.concatenate(where)
    order = np.argsort(film, kind="stable")
    return RegionTable.of(np.concatenate(boxes)[order], film[order], len(split)), located


@dataclass(frozen=True, slots=True, eq=False)
class _Unit:
    """Some films of a split, called 0, 1, ..., and the regions of a feature on them."""

    films: NDArray[np.int64]  # (n,) what they are called in the split
    data: AuditData  # with the regions of the feature alone
    pictures: GrayFilms  # of the n films
    detector: FeatureDetector
    rule: TrimmingRule | None = None  # None before it is settled

    @classmethod
    def of(
        cls,
        split: SplitFilms,
        regions: dict[int, NDArray[np.int64]],
        films: list[int],
        detector: FeatureDetector,
    ) -> _Unit:
        """Take some films out of a split, with the regions of each."""
        own = np.array(films, dtype=np.int64)
        rows = np.concatenate([regions[film] for film in films])
        none = np.zeros(len(own), dtype=np.int64)
        data = AuditData(
            classes=split.cohort.classes,
            labels=none,
            predictions=none,
            patients=none,
            sizes=split.embeddings.sizes[own],
            region_image=np.repeat(np.arange(len(own)), [len(regions[film]) for film in films]),
            region_boxes=split.embeddings.region_boxes[rows],
        )
        pictures = replace(split.films, rows=split.films.rows[own])
        return cls(own, data, pictures, detector)

    def regions(self) -> dict[int, NDArray[np.int64]]:
        """Return the regions of each film."""
        film = self.data.region_image
        return regions_by_film(np.ones(len(film), dtype=np.bool_), film)


@dataclass(frozen=True, slots=True, eq=False)
class _Locator:
    """What a worker holds: the model, and what the classes are called in its space."""

    config: Config
    encoder: Encoder
    classes: NDArray[np.float32]

    def inputs(self, unit: _Unit) -> ModelInputs:
        """Return the films of a unit as they will be trained on, and what asks the model."""
        model = CounterfactualModel(
            self.encoder, unit.pictures.input, self.classes, self.config.task.temperature,
            self.config.model.batch_size,
        )  # fmt: skip
        sides = unit.detector.raised_class, unit.detector.lowered_class
        # A unit holds some of the films, so that what fills a place must not depend on the others.
        return prepare_inputs(model, *sides, unit.data, like=Interpolation(model.read))

    def settle(self, unit: _Unit) -> TrimmingRule:
        """Settle how regions are filled, on all films of a unit."""
        regions = unit.regions()
        return settle_rule(self.inputs(unit), list(regions), regions)

    def locate(self, unit: _Unit) -> Located:
        """Find the regions that carry the feature, by the films' names in the split."""
        assert unit.rule is not None  # it is settled before units are sent
        found, boxes = carriers_in(self.inputs(unit), unit.regions(), unit.rule)
        return unit.films[found], boxes


def _locate_feature(
    setting: Setting,
    split: SplitFilms,
    found: NDArray[np.bool_],
    detector: FeatureDetector,
    progress: Callable[[int, int], None],
) -> Located:
    config, start, classes = setting.config, setting.start, setting.classes
    regions = regions_by_film(found, split.embeddings.region_image)
    films = list(regions)
    if not films:
        return np.empty(0, np.int64), np.empty((0, 4), np.float32)
    own = _Locator(config, setting.encoder, classes)
    with (
        using_threads(config.threads),
        opened_engine(config.engine, config.model.device, config.threads) as engine,
    ):
        rule = own.settle(_Unit.of(split, regions, films_to_explore(films), detector))
        units = [
            replace(_Unit.of(split, regions, films[i : i + _FILMS], detector), rule=rule)
            for i in range(0, len(films), _FILMS)
        ]
        work: Work[_Unit, Located] = Work(
            open=partial(_open_locator, config, start, classes),
            here=lambda: own.locate,
            threads=config.threads or 1,
            name="location of features",
        )
        done: list[Located] = []
        for located in engine.map(work, units):
            done.append(located)
            progress(min(len(done) * _FILMS, len(films)), len(films))
    return np.concatenate([w for w, _ in done]), np.concatenate([b for _, b in done])


def _open_locator(
    config: Config, model: Path, classes: NDArray[np.float32]
) -> Callable[[_Unit], Located]:
    return _Locator(config, open_model_of(config, model), classes).locate


@dataclass(frozen=True, slots=True, eq=False)
class PreparedFilms:
    """Films to fine-tune on, and what a report says of them."""

    folder: Path  # that every process of the training opens, see `open_fine_tuning_set`
    films: FineTuningSet  # as it is opened from there
    mitigated: tuple[MitigatedCorrelation, ...]
    notes: tuple[str, ...]  # what a reader of the report has to know
    summary: SplitSummary


def prepare_fine_tuning(setting: Setting, explored: ExploredFilms) -> PreparedFilms:
    """Read the fine-tuning films: classes, reports, and where the features lie.

    What an interrupted run had finished is opened again.

    Raises
    ------
    DataError
        A class has no film, no film holds the features, or one has the pixels of an audited one.
    ConfigError, EngineError
        Files cannot be written; workers died.
    """
    folder = setting.work.folder / f"set-{_digest(setting, explored)}"
    about = notes_of_fine_tuning_set(folder)
    if about is None:
        about = _prepare(setting, explored, folder)
    return PreparedFilms(
        folder,
        open_fine_tuning_set(folder),
        tuple(MitigatedCorrelation(**one) for one in about["mitigated"]),
        tuple(about["notes"]),
        SplitSummary(**about["summary"]),
    )


def _prepare(setting: Setting, explored: ExploredFilms, folder: Path) -> dict[str, Any]:
    """Write the set into a folder; return the notes that lie in it."""
    config = setting.config
    parsed = config.mitigation.classes_from == "reports"
    split = setting.read("finetune", labelled=not parsed, reports=True)
    split.require_other_pixels(explored.films, ("finetune", "validation"))
    folder.mkdir(mode=0o700, exist_ok=True)
    notes: list[str] = []
    labels = _labels(setting, split, notes) if parsed else split.cohort.labels
    classes = tuple(config.task.classes)
    for number, name in enumerate(classes):
        if not (labels == number).any():
            raise DataError(
                f"fine-tuning: none of {len(labels)} films has class {name}; expected some of each "
                "class. Add films to the split 'finetune', or drop the class."
            )
    reports = _reports(setting, split, labels, folder, notes)
    split = replace(split, cohort=replace(split.cohort, radiology_reports=()))
    films, mitigated = _locate(setting, split, explored, notes)
    patients = split.cohort.patients
    summary = summarise_split("fine-tuning", labels, patients, classes, config.hidden_below)
    about = {
        "mitigated": [asdict(one) for one in mitigated],
        "notes": notes,
        "summary": asdict(summary),
    }
    write_fine_tuning_set(folder, replace(films, reports=reports, labels=labels), about)
    return about


def _labels(setting: Setting, split: SplitFilms, notes: list[str]) -> NDArray[np.int64]:
    """Classes that the reports mention, -1 for none or several."""
    texts = setting.config.task.texts()
    labels = np.array(
        [class_of_report(text, texts) for text in split.cohort.radiology_reports], dtype=np.int64
    )
    unnamed = int((labels < 0).sum())
    notes.append(
        f"{unnamed} of {len(labels)} fine-tuning reports name no class or several; their films "
        "take part in the contrast of films and reports alone."
    )
    return labels


def _reports(
    setting: Setting, split: SplitFilms, labels: NDArray[np.int64], folder: Path, notes: list[str]
) -> ReportTable:
    """Embed the impressions; where a film has no report, the first prompt of its class."""
    prompts = [*(texts[0] for texts in setting.config.task.texts().values()), ""]
    blank = [0]

    def impressions() -> Iterator[str]:
        for text, label in zip(split.cohort.radiology_reports, labels.tolist(), strict=True):
            impression = impression_of(text)
            blank[0] += not impression
            yield impression or prompts[label]

    reports = write_reports(folder, setting.encoder, impressions())
    if blank[0]:
        notes.append(
            f"{blank[0]} fine-tuning films have no report; the first prompt of their class stands "
            "in, where they have one."
        )
    return reports


def _locate(
    setting: Setting, split: SplitFilms, explored: ExploredFilms, notes: list[str]
) -> tuple[FineTuningSet, tuple[MitigatedCorrelation, ...]]:
    """Films with the regions of the features, where these were located, and what travels along."""
    found, film = split.find(setting.features), split.embeddings.region_image
    present = split.present(found)
    if not present.any():
        raise DataError(
            f"fine-tuning: none of {len(split)} films holds a region of the mitigated features; "
            "there is nothing to learn away from. Fine-tune on films like those of the audit."
        )
    carriers, located = locate_features(setting, split, found)
    if not len(carriers.boxes):
        notes.append(
            "Removal located the feature in none of the fine-tuning films; its regions as they "
            "were assigned are exchanged instead."
        )
        rows = np.flatnonzero(found.any(axis=1))
        carriers = RegionTable.of(split.regions.boxes[rows], film[rows], len(split))
    along = _find_companions(setting, split, explored)
    along &= carriers.counts()[split.embeddings.region_image] > 0
    spurious = np.asarray(found.any(axis=1))
    bare = int((np.bincount(film[~spurious], minlength=len(split)) == 0).sum())
    if bare:
        notes.append(
            f"In {bare} fine-tuning films every region belongs to a mitigated feature; they have "
            "no region loss of their own."
        )
    films = FineTuningSet(
        films=split.films,
        reports=ReportTable(np.empty((0, 0), np.float32), np.empty(0, np.int64)),  # not yet
        labels=split.cohort.labels,
        present=np.asarray(present.any(axis=1)),
        regions=split.regions,
        spurious=spurious,
        carriers=carriers,
        companions=RegionTable.of(split.regions.boxes[along], film[along], len(split)),
    )
    return films, _mitigated(setting, present, found, located)


def _mitigated(
    setting: Setting, present: NDArray[np.bool_], found: NDArray[np.bool_], located: Sequence[int]
) -> tuple[MitigatedCorrelation, ...]:
    classes = tuple(setting.config.task.classes)
    return tuple(
        MitigatedCorrelation(
            rank=feature.rank,
            kind=feature.kind,
            forced=feature.rank in setting.config.mitigation.force,
            confirmed=feature.confirmed,
            raised_class=classes[feature.detector.raised_class],
            lowered_class=None
            if feature.detector.lowered_class is None
            else classes[feature.detector.lowered_class],
            finetune_films=int(present[:, i].sum()),
            finetune_regions=int(found[:, i].sum()),
            located_films=located[i],
        )
        for i, feature in enumerate(setting.features)
    )


def _find_companions(
    setting: Setting, split: SplitFilms, explored: ExploredFilms
) -> NDArray[np.bool_]:
    """Find the regions (R,) of a split that travel with the features, among all their clusters."""
    films, half = explored.films, explored.half
    present = np.asarray(films.present(films.find(setting.features)).any(axis=1))[half]
    along = np.zeros(len(split.embeddings.region_image), dtype=np.bool_)
    own = (f.detector for f in setting.features if f.detector.place == ANYWHERE)
    for medoids in {one.medoids.tobytes(): one.medoids for one in own}.values():
        holds = np.zeros((len(films), len(medoids)), dtype=np.bool_)
        holds[films.embeddings.region_image, films.nearest(medoids)] = True
        companions = find_co_occurring(
            holds[half],
            present,
            films.cohort.labels[half],
            setting.config.mitigation.companion_lift,
        )
        along |= np.isin(split.nearest(medoids), companions)
    return along


def _digest(setting: Setting, explored: ExploredFilms) -> str:
    """Digest of what a set depends on beside the config, the manifest and its films."""
    digest = hashlib.sha256(setting.encoder.info.digest.encode())
    for feature in setting.features:
        detector = feature.detector
        digest.update(np.ascontiguousarray(detector.medoids).tobytes())
        settled = (feature.rank, feature.kind, detector.label, detector.raised_class,
                   detector.lowered_class, detector.place)  # fmt: skip
        digest.update(repr(settled).encode())
    digest.update("".join(explored.films.embeddings.digests).encode())
    for values in (explored.films.cohort.labels, explored.half):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:24]
