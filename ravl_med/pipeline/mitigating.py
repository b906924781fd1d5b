"""Every stage of a mitigation, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from ravl_med.cache import Cache
from ravl_med.cohort.class_mentions import class_of_report
from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.manifest import shared_patients
from ravl_med.cohort.radiology_report import impression_of
from ravl_med.config import Config
from ravl_med.encoders.base import pick_device
from ravl_med.encoders.open_clip import OpenClipEncoder, open_model, save_model
from ravl_med.encoders.zero_shot import embed_classes
from ravl_med.errors import ConfigError, DataError
from ravl_med.evidence.claims import ConfirmedFeature
from ravl_med.evidence.counterfactual import Probe, build_bench
from ravl_med.evidence.halves import split_patients
from ravl_med.evidence.mitigation_result import (
    ArmOutcome,
    LearningCurve,
    MitigatedCorrelation,
    MitigationResult,
    MitigationVerdict,
    SplitSummary,
)
from ravl_med.evidence.statistics import PatientBootstrap
from ravl_med.evidence.subgroups import attribute_strata
from ravl_med.mitigation.answers import ask_films_and_regions
from ravl_med.mitigation.arms import ARMS, ImageTower
from ravl_med.mitigation.class_heads import feature_direction, project_texts, retrain_last_layer
from ravl_med.mitigation.fine_tuning_set import FineTuningSet, RegionTable, embed_reports
from ravl_med.mitigation.proof import Answered, FinalTest
from ravl_med.mitigation.pseudo_groups import PseudoGroups
from ravl_med.mitigation.spurious_regions import locate_carriers
from ravl_med.mitigation.training import SelectionFilms, TrainedArm, train_arm
from ravl_med.mitigation.verdict import judge_mitigation, nothing_to_mitigate
from ravl_med.pipeline.auditing import audit
from ravl_med.pipeline.past_audit import PastAudit, find_past_audit
from ravl_med.pipeline.reauditing import compare_reaudit
from ravl_med.pipeline.split_films import SplitFilms, read_split
from ravl_med.pipeline.stages import Clock, Progress, prepare_manifest, prepare_model
from ravl_med.pipeline.work_folder import WorkFolder
from ravl_med.reporting.audit_run import Audit

__all__ = ["Mitigation", "mitigate"]

_FINETUNE, _TEST = "finetune", "test"


@dataclass(frozen=True, slots=True, eq=False)
class Mitigation:
    """A finished mitigation: the result, and what is needed to write it.

    Attributes
    ----------
    config : Config - effective
    result : MitigationResult
    work : WorkFolder - can be thrown away once the run is written
    model : Path or None - folder of the new model, in the work folder; None where nothing was done
    audit : Audit or None - that was run because no earlier one had the same digests
    reaudit : Audit or None - of the new model on the final test
    test : SplitFilms or None - the final test, as the audited model sees it
    answers : mapping of arm to Answered - what each model says of the final test
    timings : mapping of stage to seconds, in order
    """

    config: Config
    result: MitigationResult
    work: WorkFolder
    model: Path | None
    audit: Audit | None
    reaudit: Audit | None
    test: SplitFilms | None
    answers: Mapping[str, Answered]
    timings: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class _Setting:
    """What every stage after the audit needs."""

    config: Config
    start: Path
    encoder: OpenClipEncoder
    reader: FilmReader
    classes: NDArray[np.float32]
    features: tuple[ConfirmedFeature, ...]
    work: WorkFolder
    progress: Progress

    def texts(self) -> torch.Tensor:
        return torch.from_numpy(self.classes)


def mitigate(
    config: Config,
    *,
    key: bytes,
    cache: Cache,
    work: WorkFolder,
    fabric: Fabric,
    earlier_run: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Mitigation:
    """Fine-tune the audited model away from its shortcuts, and prove what came of it.

    Parameters
    ----------
    config : Config
    key : bytes - secret of the pseudonyms
    cache : Cache - of synthetic cohorts and quickstart models
    work : WorkFolder - films at the model's resolution, checkpoints and the new model; what an
        interrupted run left there is gone on from
    fabric : Fabric - of this process
    earlier_run : Path or None - folder of an audit, used when its digests match
    progress : callable - called with (stage, done, total)

    Raises
    ------
    ConfigError, ModelError, DataError
        With one clear line; nothing has been written outside the work folder by then.
    """
    clock = Clock()
    manifest, audited_split = _prepare(config, cache, progress, clock)
    reader = FilmReader(config.cohort.voi_view, config.cohort.max_pixels)
    with clock.stage("model"):
        start, _ = prepare_model(config, manifest, reader, cache, progress)
        encoder = open_model(start, pick_device(config.model.device))
        classes = embed_classes(encoder, config.task.texts())
    with clock.stage("validation films"):
        validation = read_split(
            config, manifest, audited_split, encoder, reader, work.own, progress
        )
    with clock.stage("audit"):
        past = find_past_audit(earlier_run, config, encoder.info.digest, validation)
        fresh = None
        if past is None:
            fresh = audit(config, key=key, cache=cache, progress=progress)
            past = PastAudit(fresh.result.verdict.name, fresh.features)
    chosen = _choose(past.features, config)
    if not chosen:
        verdict = nothing_to_mitigate(past.verdict, len(past.features))
        result = _empty_result(config, verdict, encoder, reused=fresh is None)
        return Mitigation(config, result, work, None, fresh, None, None, {}, clock.seconds)
    setting = _Setting(config, start, encoder, reader, classes, chosen, work, progress)
    with clock.stage("fine-tuning films"):
        films, mitigated, notes, summary = _fine_tuning_set(setting, manifest)
    half = split_patients(
        validation.cohort.patients,
        validation.cohort.labels,
        config.evidence.discovery_share,
        config.evidence.seed,
    )
    selection = _selection(setting, validation, half)
    groups = PseudoGroups.cross(films.labels, films.present, validation.cohort.classes)
    trained: dict[str, TrainedArm] = {}
    for name in config.mitigation.arms():
        with clock.stage(f"train: {ARMS[name].title}"):
            trained[name] = _train(setting, name, films, groups, selection, fabric)
    with clock.stage("final test"):
        test = read_split(config, manifest, _TEST, encoder, reader, work.own, progress)
        _refuse_shared_films(films_of={"test": test, audited_split: validation})
        outcomes, answers = _prove(setting, test, validation, half, trained)
    folder = work.shared / "model"
    with clock.stage("save the model"):
        _save(trained[config.mitigation.arm], start, folder, first=fabric.global_rank == 0)
        fabric.barrier()
    with clock.stage("re-audit"):
        again = audit(_of_new_model(config, folder), key=key, cache=cache, progress=progress)
        found = test.present(test.find(past.features))
        reaudit = compare_reaudit(again, past.features, chosen, found)
    delivered = next(outcome for outcome in outcomes if outcome.delivered)
    result = MitigationResult(
        name=config.name,
        title=config.mitigation.title,
        verdict=judge_mitigation(
            delivered, reaudit, config.mitigation.max_fall, config.gate.max_gap
        ),
        audited_digest=encoder.info.digest,
        new_digest=again.result.model.digest,
        audit_reused=fresh is None,
        mitigated=mitigated,
        splits=(
            validation.summary("discovery half: choice of candidates and of epochs", half),
            validation.summary("confirmation half: test of candidates", ~half),
            summary,
            test.summary("final test"),
        ),
        selection_groups=dict(
            zip(selection.groups.names, selection.groups.sizes().tolist(), strict=True)
        ),
        arms=outcomes,
        reaudit=reaudit,
        notes=notes,
    )
    fabric.barrier()
    return Mitigation(config, result, work, folder, fresh, again, test, answers, clock.seconds)


def _prepare(config: Config, cache: Cache, progress: Progress, clock: Clock) -> tuple[Path, str]:
    """Manifest and audited split, once no patient is in two splits."""
    split = config.cohort.split
    if split not in ("validation",):
        raise ConfigError(
            f"cohort.split is {split!r}; mitigate needs 'validation', beside the splits 'finetune' "
            "and 'test' of the manifest."
        )
    with clock.stage("cohort"):
        manifest = prepare_manifest(config, cache, progress)
        shared = shared_patients(manifest, (_FINETUNE, split, _TEST))
    if shared:
        told = ", ".join(f"{a} and {b} share {count}" for (a, b), count in shared.items())
        raise DataError(
            f"{manifest.name}: patients are in two splits ({told}); expected none. Move all films "
            "of a patient into one split."
        )
    return manifest, split


def _choose(features: Sequence[ConfirmedFeature], config: Config) -> tuple[ConfirmedFeature, ...]:
    """Choose the confirmed shortcuts that count, and what is forced."""
    force = config.mitigation.force
    known = {feature.rank for feature in features}
    unknown = sorted(set(force) - known)
    if unknown:
        raise ConfigError(
            f"mitigation.force names rank {unknown[0]}; expected confirmed correlations that were "
            f"tested by counterfactuals: {', '.join(map(str, sorted(known))) or 'there is none'}."
        )
    return tuple(f for f in features if f.rank in force or (f.kind == "shortcut" and f.counts))


def _empty_result(
    config: Config, verdict: MitigationVerdict, encoder: OpenClipEncoder, *, reused: bool
) -> MitigationResult:
    return MitigationResult(
        name=config.name,
        title=config.mitigation.title,
        verdict=verdict,
        audited_digest=encoder.info.digest,
        new_digest="",
        audit_reused=reused,
        mitigated=(),
        splits=(),
        selection_groups={},
        arms=(),
        reaudit=None,
        notes=(),
    )


def _fine_tuning_set(
    setting: _Setting, manifest: Path
) -> tuple[FineTuningSet, tuple[MitigatedCorrelation, ...], tuple[str, ...], SplitSummary]:
    """Films, classes, reports, and where the features lie."""
    config = setting.config
    parsed = config.mitigation.classes_from == "reports"
    split = read_split(
        config,
        manifest,
        _FINETUNE,
        setting.encoder,
        setting.reader,
        setting.work.own,
        setting.progress,
        labelled=not parsed,
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
            f"{blank} fine-tuning films have no report; the first prompt of their class stands in."
        )
        prompts = [texts[0] for texts in config.task.texts().values()]
        reports = [
            text or prompts[max(int(label), 0)] for text, label in zip(reports, labels, strict=True)
        ]
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
    by_class = {name: int((labels == c).sum()) for c, name in enumerate(classes)}
    summary = SplitSummary("fine-tuning", len(split), len(np.unique(cohort.patients)), by_class)
    return films, mitigated, tuple(notes), summary


def _locate(
    setting: _Setting, split: SplitFilms, found: NDArray[np.bool_]
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
            bench, detector, found[:, number], _staged(setting.progress, stage)
        )
        where.append(films)
        boxes.append(places)
        located.append(len(np.unique(films)))
    film = np.concatenate(where)
    order = np.argsort(film, kind="stable")
    return RegionTable.of(np.concatenate(boxes)[order], film[order], len(split)), located


def _selection(
    setting: _Setting, validation: SplitFilms, half: NDArray[np.bool_]
) -> SelectionFilms:
    rows = np.flatnonzero(half)
    labels = validation.cohort.labels[rows]
    present = validation.present(validation.find(setting.features))[rows]
    there = np.asarray(present.any(axis=1))
    groups = PseudoGroups.cross(labels, there, validation.cohort.classes)
    return SelectionFilms(
        validation.films, rows, labels, groups.pooled(setting.config.mitigation.min_group).used()
    )


def _train(
    setting: _Setting,
    name: str,
    films: FineTuningSet,
    groups: PseudoGroups,
    selection: SelectionFilms,
    fabric: Fabric,
) -> TrainedArm:
    title = ARMS[name].title

    def told(done: int, total: int, more: str) -> None:
        setting.progress(f"{title}{f' ({more})' if more else ''}", done, total)

    return train_arm(
        ARMS[name],
        setting.start,
        films,
        groups,
        selection,
        setting.texts(),
        setting.config.mitigation,
        fabric,
        checkpoint=setting.work.shared / f"{name}.ckpt",
        progress=told,
    )


def _refuse_shared_films(films_of: Mapping[str, SplitFilms]) -> None:
    """Refuse splits that hold the same pixels under other names."""
    (first, a), (second, b) = films_of.items()
    shared = len(set(a.embeddings.digests) & set(b.embeddings.digests))
    if shared:
        raise DataError(
            f"{a.cohort.name}: {shared} films of split {first!r} have the same pixels as films of "
            f"split {second!r}; expected none. Remove one of each pair."
        )


def _prove(
    setting: _Setting,
    test: SplitFilms,
    validation: SplitFilms,
    half: NDArray[np.bool_],
    trained: Mapping[str, TrainedArm],
) -> tuple[tuple[ArmOutcome, ...], dict[str, Answered]]:
    """Read the final test once, for every arm."""
    config, texts = setting.config, setting.texts()
    tau = config.task.temperature
    proof = FinalTest(
        labels=test.cohort.labels,
        classes=test.cohort.classes,
        present=test.present(test.find(setting.features)),
        sides=tuple((f.detector.raised_class, f.detector.lowered_class) for f in setting.features),
        axes=attribute_strata(test.cohort.attributes),
        bootstrap=PatientBootstrap(
            test.cohort.patients, config.evidence.draws, config.evidence.seed
        ),
        confidence=config.evidence.confidence,
        min_group=config.mitigation.min_group,
        min_films=config.evidence.min_n,
    )

    def ask(tower: ImageTower, title: str) -> Answered:
        stage = f"final test: {title}"
        return ask_films_and_regions(
            tower, test.films, test.regions, texts, tau, _staged(setting.progress, stage)
        )

    original = ImageTower(open_model(setting.start, torch.device("cpu")).model)
    before = ask(original, "the audited model")

    def outcome(
        name: str,
        title: str,
        after: Answered,
        curve: LearningCurve | None = None,
        role: str = "tower",
    ) -> ArmOutcome:
        return ArmOutcome(
            name=name,
            title=title,
            role="before" if role == "before" else "head" if role == "head" else "tower",
            published=ARMS[name].published if name in ARMS else True,
            delivered=name == config.mitigation.arm,
            curve=curve,
            **proof.measure(before, after),
        )

    answers = {"before": before}
    outcomes = [outcome("before", "audited model", before, role="before")]
    if config.mitigation.heads:
        for name, title, logits in _heads(setting, test, validation, half):
            answers[name] = Answered(logits, None)
            outcomes.append(outcome(name, title, answers[name], role="head"))
    for name, arm in trained.items():
        title = ARMS[name].title
        answers[name] = ask(arm.tower, title)
        outcomes.append(outcome(name, title, answers[name], arm.curve))
    return tuple(outcomes), answers


def _heads(
    setting: _Setting, test: SplitFilms, validation: SplitFilms, half: NDArray[np.bool_]
) -> list[tuple[str, str, NDArray[np.float32]]]:
    """Logits of the arms that train no tower."""
    config = setting.config
    found = validation.find(setting.features)
    present = validation.present(found).any(axis=1)
    groups = PseudoGroups.cross(
        validation.cohort.labels, np.asarray(present), validation.cohort.classes
    )
    heads = []
    head = retrain_last_layer(
        validation.embeddings.image[half],
        validation.cohort.labels[half],
        groups.of_film[half],
        len(validation.cohort.classes),
        config.mitigation.seed,
    )
    if head is not None:
        title = "last-layer retraining (DFR), on the discovery half"
        heads.append(("dfr", title, head.logits(test.embeddings.image)))
    directions = [
        feature_direction(validation.embeddings.region, found[:, i])
        for i in range(found.shape[1])
        if found[:, i].any() and not found[:, i].all()
    ]
    if directions:
        texts = project_texts(setting.classes, np.stack(directions))
        logits = test.embeddings.image @ texts.T / config.task.temperature
        heads.append(("projection", "class texts without the feature's direction", logits))
    return heads


def _save(arm: TrainedArm, start: Path, folder: Path, *, first: bool) -> None:
    """Write the new model in the layout of the audited one."""
    import json
    import shutil

    if not first:
        return
    shutil.rmtree(folder, ignore_errors=True)
    layout = json.loads((start / "open_clip_config.json").read_text(encoding="utf-8"))
    save_model(arm.model, layout, folder)


def _of_new_model(config: Config, folder: Path) -> Config:
    """Return the config of the re-audit: the new model on the final test."""
    model = config.model.model_copy(
        update={
            "path": folder,
            "quickstart": None,
            "name": f"{config.model.name or config.name}, mitigated",
        }
    )
    cohort = config.cohort.model_copy(update={"split": _TEST})
    return config.model_copy(
        update={"model": model, "cohort": cohort, "name": f"{config.name}-reaudit"}
    )


def _staged(progress: Progress, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(stage, done, total)
