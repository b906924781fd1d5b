"""The fine-tuning films of a mitigation, with their classes, reports, and located features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.class_mentions import class_of_report
from ravl_med.cohort.radiology_report import impression_of
from ravl_med.discovery.detector import nearest_medoids
from ravl_med.errors import DataError
from ravl_med.evidence.counterfactual import Probe, build_bench
from ravl_med.evidence.mitigation_result import MitigatedCorrelation, SplitSummary
from ravl_med.mitigation.co_occurrence import find_co_occurring
from ravl_med.mitigation.fine_tuning_set import FineTuningSet, RegionTable, embed_reports
from ravl_med.mitigation.spurious_regions import locate_carriers
from ravl_med.pipeline.setting import Setting, staged
from ravl_med.pipeline.split_films import SplitFilms, read_split, summarise_split

__all__ = ["prepare_fine_tuning"]


def prepare_fine_tuning(
    setting: Setting, manifest: Path, explored: SplitFilms, half: NDArray[np.bool_]
) -> tuple[FineTuningSet, tuple[MitigatedCorrelation, ...], tuple[str, ...], SplitSummary]:
    """Read the fine-tuning films: classes, reports, and where the features lie.

    Parameters
    ----------
    setting : Setting
    manifest : Path
    explored : SplitFilms - the films of the audit
    half : ndarray of shape (N,), bool - those of the discovery half

    Returns
    -------
    films : FineTuningSet
    mitigated : tuple of MitigatedCorrelation
    notes : tuple of str - what a reader of the report has to know
    summary : SplitSummary

    Raises
    ------
    DataError
        A class has no film, or no film holds the features.
    """
    config = setting.config
    parsed = config.mitigation.classes_from == "reports"
    split = read_split(
        config,
        manifest,
        "finetune",
        setting.encoder,
        setting.reader,
        setting.work.own,
        setting.progress,
        labelled=not parsed,
        cache=setting.cache,
    )
    cohort = split.cohort
    labels, notes = cohort.labels, []
    classes = tuple(config.task.classes)
    if parsed:
        texts = config.task.texts()
        labels = np.array(
            [class_of_report(text, texts) for text in cohort.radiology_reports], dtype=np.int64
        )
        unnamed = int((labels < 0).sum())
        notes.append(
            f"{unnamed} of {len(labels)} fine-tuning reports name no class or several; their films "
            "take part in the contrast of films and reports alone."
        )
    for number, name in enumerate(classes):
        if not (labels == number).any():
            raise DataError(
                f"fine-tuning: none of {len(labels)} films has class {name}; expected some of each "
                "class. Add films to the split 'finetune', or drop the class."
            )
    reports = [impression_of(text) for text in cohort.radiology_reports]
    blank = sum(not text for text in reports)
    if blank:
        notes.append(
            f"{blank} fine-tuning films have no report; the first prompt of their class stands in, "
            "where they have one."
        )
        prompts = [*(texts[0] for texts in config.task.texts().values()), ""]
        reports = [text or prompts[label] for text, label in zip(reports, labels, strict=True)]
    found = split.find(setting.features)
    present = split.present(found)
    if not present.any():
        raise DataError(
            f"fine-tuning: none of {len(split)} films holds a region of the mitigated features; "
            "there is nothing to learn away from. Fine-tune on films like those of the audit."
        )
    carriers, located = _locate(setting, split, found)
    if not len(carriers.boxes):
        notes.append(
            "Removal located the feature in none of the fine-tuning films; its regions as they "
            "were assigned are exchanged instead."
        )
        rows = np.flatnonzero(found.any(axis=1))
        carriers = RegionTable.of(
            split.regions.boxes[rows], split.embeddings.region_image[rows], len(split)
        )
    along = _find_companions(setting, split, explored, half)
    along &= carriers.counts()[split.embeddings.region_image] > 0
    spurious = np.asarray(found.any(axis=1))
    bare = int((np.bincount(split.embeddings.region_image[~spurious], minlength=len(split)) == 0)
               .sum())  # fmt: skip
    if bare:
        notes.append(
            f"In {bare} fine-tuning films every region belongs to a mitigated feature; they have "
            "no region loss of their own."
        )
    films = FineTuningSet(
        films=split.films,
        reports=embed_reports(setting.encoder, reports),
        labels=labels,
        present=np.asarray(present.any(axis=1)),
        regions=split.regions,
        spurious=spurious,
        carriers=carriers,
        companions=RegionTable.of(
            split.regions.boxes[along], split.embeddings.region_image[along], len(split)
        ),
    )
    mitigated = tuple(
        MitigatedCorrelation(
            rank=feature.rank,
            kind=feature.kind,
            forced=feature.rank in config.mitigation.force,
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
    summary = summarise_split("fine-tuning", labels, cohort.patients, classes, config.hidden_below)
    return films, mitigated, tuple(notes), summary


def _find_companions(
    setting: Setting, split: SplitFilms, explored: SplitFilms, half: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Regions (R,) of a split that travel with the features.

    All clusters of the partitions that the features come from are asked.
    """
    present = np.asarray(explored.present(explored.find(setting.features)).any(axis=1))[half]
    along = np.zeros(len(split.embeddings.region_image), dtype=np.bool_)
    partitions = {f.detector.medoids.tobytes(): f.detector.medoids for f in setting.features}
    for medoids in partitions.values():
        holds = np.zeros((len(explored), len(medoids)), dtype=np.bool_)
        nearest = nearest_medoids(medoids, explored.embeddings.region)
        holds[explored.embeddings.region_image, nearest] = True
        companions = find_co_occurring(
            holds[half],
            present,
            explored.cohort.labels[half],
            setting.config.mitigation.companion_lift,
        )
        along |= np.isin(nearest_medoids(medoids, split.embeddings.region), companions)
    return along


def _locate(
    setting: Setting, split: SplitFilms, found: NDArray[np.bool_]
) -> tuple[RegionTable, list[int]]:
    """Regions that carry the features, of all features together; films located by each."""
    config, cohort = setting.config, split.cohort
    probe = Probe(
        setting.encoder,
        lambda index: setting.reader.film(cohort, index).pixels,
        setting.classes,
        config.task.temperature,
        config.model.batch_size,
    )
    images = split.images(np.zeros(len(split), dtype=np.int64))
    where, boxes, located = [], [], []
    for number, feature in enumerate(setting.features):
        detector = feature.detector
        bench = build_bench(probe, detector.raised_class, detector.lowered_class, images)
        stage = f"locate feature {number + 1} of {len(setting.features)} by removal"
        films, places = locate_carriers(
            bench, detector, found[:, number], staged(setting.progress, stage)
        )
        where.append(films)
        boxes.append(places)
        located.append(len(np.unique(films)))
    film = np.concatenate(where)
    order = np.argsort(film, kind="stable")
    return RegionTable.of(np.concatenate(boxes)[order], film[order], len(split)), located
