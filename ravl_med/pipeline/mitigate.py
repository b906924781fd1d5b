"""Every stage of a mitigation, in order.

An earlier run of the audit, used again when it was of the same model, films and settings.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.manifest import shared_patients
from ravl_med.config.loading import Config
from ravl_med.config.mitigation import ArmName
from ravl_med.config.model import ModelConfig
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.gradient_checkpointing import require_checkpointing
from ravl_med.encoders.opening import require_folder
from ravl_med.encoders.zero_shot import embed_classes
from ravl_med.errors import ConfigError, DataError
from ravl_med.evidence.confirmation import split_patients
from ravl_med.evidence.disclosure_control import hide_counts
from ravl_med.evidence.mitigation_result import MitigationResult, MitigationVerdict
from ravl_med.evidence.results import ConfirmedFeature, Decision
from ravl_med.mitigation.arms import ARMS
from ravl_med.mitigation.distributed import Processes
from ravl_med.mitigation.final_test import Answered, decide_mitigation_verdict, nothing_to_mitigate
from ravl_med.mitigation.groups import PseudoGroups
from ravl_med.mitigation.training import ArmTraining, SelectionFilms, TrainedArm
from ravl_med.pipeline.audit import audit
from ravl_med.pipeline.final_test import compare_reaudit, prove_arms
from ravl_med.pipeline.fine_tuning_films import prepare_fine_tuning
from ravl_med.pipeline.mitigation_setup import Setting, WorkFolder
from ravl_med.pipeline.split_films import SplitFilms, read_split
from ravl_med.pipeline.stages import (
    Clock,
    Progress,
    Run,
    digest_cohort,
    open_model_of,
    prepare_manifest,
    prepare_model,
)
from ravl_med.regions.proposal import choose_segmenter
from ravl_med.reporting.files.audit_run import Audit
from ravl_med.reporting.files.run_record import digest_regions, digest_settings
from ravl_med.reporting.files.tables import read_features
from ravl_med.storage.cache import Cache
from ravl_med.storage.remote import FilePath


@dataclass(frozen=True, slots=True, eq=False)
class PastAudit:
    """What a mitigation needs of an audit: its verdict, and what it confirmed."""

    verdict: str
    features: tuple[ConfirmedFeature, ...]


def find_past_audit(
    folder: Path | None, config: Config, model_digest: str, films: SplitFilms
) -> PastAudit | None:
    """Return an earlier audit when model, films, labels, regions and settings are the same.

    Parameters
    ----------
    folder : Path or None - run folder
    films : SplitFilms - of the audited split

    Returns
    -------
    PastAudit or None - None where there is no such run, or it was of something else; what a
        reviewer called the disease or a shortcut since is one
    """
    if folder is None:
        return None
    wanted = {
        "model": model_digest,
        "cohort": digest_cohort(films.kept.digests, films.cohort.labels),
        "settings": digest_settings(config),
        "regions": digest_regions(films.kept.boxes, films.region_image),
        "segmenter": choose_segmenter(config.regions).digest,
    }
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if any(record["digests"].get(name) != digest for name, digest in wanted.items()):
            return None
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        ruled = {r["rank"]: r["word"] for r in result.get("rulings", ()) if r["in_force"]}
        features = read_features(folder / "private" / "features.npz")
        decided = tuple(_follow(feature, ruled.get(feature.rank)) for feature in features)
        return PastAudit(str(result["verdict"]), decided)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _follow(feature: ConfirmedFeature, word: Decision | None) -> ConfirmedFeature:
    """Return a feature as a reviewer sees it; what is accepted for a time stays what it is."""
    if word == "shortcut":
        return replace(feature, kind="shortcut", counts=True)
    return replace(feature, kind="plausible_sign") if word == "disease" else feature


_FINETUNE, _TEST = "finetune", "test"


@dataclass(frozen=True, slots=True, eq=False)
class Mitigation:
    """A finished mitigation: the result, and what is needed to write it.

    Attributes
    ----------
    config : Config - effective
    work : WorkFolder - can be thrown away once the run is written
    model : Path or None - folder of the new model, in the work folder; None where nothing was done
    audit : Audit or None - that was run because no earlier one had the same digests
    reaudit : Audit or None - of the new model on the final test
    test : SplitFilms or None - the final test, as the audited model sees it
    answers : mapping of arm to Answered - what each model says of the final test
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
    throughput: Mapping[str, Mapping[str, float]]


def mitigate(
    config: Config,
    *,
    key: bytes,
    cache: Cache,
    work: WorkFolder,
    processes: Processes,
    earlier_run: Path | None = None,
    keep_audit: Callable[[Audit], None] = lambda audit: None,
    progress: Progress = lambda stage, done, total: None,
) -> Mitigation:
    """Fine-tune the audited model away from its shortcuts, and prove what came of it.

    Called by the first process; the others serve it, see `Processes`.

    Parameters
    ----------
    key : bytes - secret of the pseudonyms
    cache : Cache - of synthetic cohorts and quickstart models
    work : WorkFolder - films at the model's resolution, checkpoints and the new model; what an
        interrupted run left there is gone on from
    processes : Processes - that train together
    earlier_run : Path or None - folder of an audit, used when its digests match
    keep_audit : callable - called with an audit as soon as one had to be made, so that a run that
        is ended later finds it again

    Raises
    ------
    ConfigError, ModelError, DataError, EngineError
        With one clear line; nothing but an audit has been written outside the work folder by then.
    """
    clock = Clock()
    manifest, audited_split = _prepare(config, cache, progress, clock)
    reader = FilmReader.of(config.cohort)
    with clock.stage("model"):
        folder_of_model, _ = prepare_model(config, manifest, reader, Run(cache, progress))
        encoder = open_model_of(config, folder_of_model)
        if config.mitigation.gradient_checkpointing:
            require_checkpointing(encoder.model.visual)
        start = require_folder(encoder, folder_of_model, work.folder / "audited-model")
        classes = embed_classes(encoder, config.task.texts())

    def read(split: str) -> SplitFilms:
        return read_split(
            config,
            manifest,
            split,
            encoder,
            reader,
            work.folder,
            progress,
            cache=cache,
            model=folder_of_model,
        )

    with clock.stage("validation films"):
        validation = read(audited_split)
    clock.note("validation films", films=len(validation))
    with clock.stage("audit"):
        past = find_past_audit(earlier_run, config, encoder.info.digest, validation)
        fresh = None
        if past is None:
            fresh = audit(config, key=key, cache=cache, progress=progress)
            keep_audit(fresh)
            past = PastAudit(fresh.result.verdict.name, fresh.features)
    chosen = _choose(past.features, config)
    if not chosen:
        verdict = nothing_to_mitigate(past.verdict, len(past.features))
        result = _empty_result(config, verdict, encoder, reused=fresh is None)
        return Mitigation(
            config, result, work, None, fresh, None, None, {}, clock.seconds, clock.throughput()
        )
    setting = Setting(
        config, start, folder_of_model, encoder, reader, classes, chosen, work, cache, progress
    )
    half = split_patients(
        validation.cohort.patients,
        validation.cohort.labels,
        config.evidence.discovery_share,
        config.evidence.seed,
    )
    with clock.stage("fine-tuning films"):
        prepared = prepare_fine_tuning(setting, manifest, validation, half)
    clock.note("fine-tuning films", films=len(prepared.films))
    least = config.hidden_below
    selection = _selection(setting, validation, half)
    trained: dict[str, TrainedArm] = {}
    for name in config.mitigation.arms():
        with clock.stage(f"train: {ARMS[name].title}"):
            trained[name] = _train(setting, name, prepared.folder, selection, processes)
    with clock.stage("final test"):
        test = read(_TEST)
        _refuse_shared_films(films_of={"test": test, audited_split: validation})
        outcomes, answers, untold = prove_arms(
            setting, test, validation, half, trained, processes.fabric.device
        )
    folder = work.folder / "model"
    with clock.stage("save the model"):
        shutil.rmtree(folder, ignore_errors=True)
        trained[config.mitigation.arm].encoder.save(folder)  # in the layout of the audited one
    with clock.stage("re-audit"):
        again = audit(_of_new_model(config, folder), key=key, cache=cache, progress=progress)
        found = test.present(test.find(past.features))
        reaudit = compare_reaudit(again, past.features, chosen, found)
    delivered = next(outcome for outcome in outcomes if outcome.delivered)
    result = MitigationResult(
        name=config.name,
        title=config.mitigation.title,
        verdict=decide_mitigation_verdict(
            delivered, reaudit, config.mitigation.max_fall, config.gate.max_gap
        ),
        audited_digest=encoder.info.digest,
        new_digest=again.result.model.digest,
        audit_reused=fresh is None,
        mitigated=prepared.mitigated,
        companion_regions=len(prepared.films.companions.boxes),
        splits=(
            validation.summary("discovery half: choice of candidates and of epochs", least, half),
            validation.summary("confirmation half: test of candidates", least, ~half),
            prepared.summary,
            test.summary("final test", least),
        ),
        selection_groups=_count_groups(selection, validation.cohort.patients, least),
        arms=tuple(outcome.without(untold) for outcome in outcomes),
        reaudit=reaudit,
        notes=(*prepared.notes, *_diverged(trained)),
    )
    return Mitigation(
        config,
        result,
        work,
        folder,
        fresh,
        again,
        test,
        answers,
        clock.seconds,
        clock.throughput(),
    )


def _prepare(
    config: Config, cache: Cache, progress: Progress, clock: Clock
) -> tuple[FilePath, str]:
    """Manifest and audited split, once no patient is in two splits."""
    if config.model.scores is not None:
        raise ConfigError(
            "model.scores names a table: a model that nobody can open cannot be fine-tuned. "
            "Expected a model alone."
        )
    split = config.cohort.split
    if split not in ("validation",):
        raise ConfigError(
            f"cohort.split is {split!r}; mitigate needs 'validation', beside the splits 'finetune' "
            "and 'test' of the manifest."
        )
    with clock.stage("cohort"):
        manifest = prepare_manifest(config, Run(cache, progress))
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
    config: Config, verdict: MitigationVerdict, encoder: Encoder, *, reused: bool
) -> MitigationResult:
    return MitigationResult(
        name=config.name,
        title=config.mitigation.title,
        verdict=verdict,
        audited_digest=encoder.info.digest,
        new_digest="",
        audit_reused=reused,
        mitigated=(),
        companion_regions=0,
        splits=(),
        selection_groups={},
        arms=(),
        reaudit=None,
        notes=(),
    )


def _count_groups(
    selection: SelectionFilms, patients: NDArray[np.int64], least: int
) -> dict[str, int]:
    """Count the films of each group that the epoch is chosen by; those of few patients hidden."""
    groups = selection.groups
    own = {name: groups.of_film == g for g, name in enumerate(groups.names)}
    return hide_counts(
        {name: int(member.sum()) for name, member in own.items()},
        {name: len(np.unique(patients[selection.rows[member]])) for name, member in own.items()},
        least,
    )


def _selection(setting: Setting, validation: SplitFilms, half: NDArray[np.bool_]) -> SelectionFilms:
    rows = np.flatnonzero(half)
    labels = validation.cohort.labels[rows]
    present = validation.present(validation.find(setting.features))[rows]
    there = np.asarray(present.any(axis=1))
    groups = PseudoGroups.cross(labels, there, validation.cohort.classes)
    return SelectionFilms(
        validation.films, rows, labels, groups.pooled(setting.config.mitigation.min_group).used()
    )


def _train(
    setting: Setting,
    name: ArmName,
    films: Path,
    selection: SelectionFilms,
    processes: Processes,
) -> TrainedArm:
    """Train an arm in all processes; the first one tells how far it is."""
    training = ArmTraining(
        name=name,
        start=setting.start,
        films=films,
        groups=tuple(setting.config.task.classes),
        selection=selection,
        classes=setting.classes,
        config=setting.config.mitigation,
        region_pooling=setting.config.model.region_pooling,
        checkpoint=setting.work.folder / f"{name}.ckpt",
    )

    def told(done: int, total: int, more: str) -> None:
        setting.progress(f"{ARMS[name].title}{f' ({more})' if more else ''}", done, total)

    return processes.together(training, lambda fabric: training(fabric, told))


def _refuse_shared_films(films_of: Mapping[str, SplitFilms]) -> None:
    """Refuse splits that hold the same pixels under other names."""
    (first, a), (second, b) = films_of.items()
    shared = len(set(a.kept.digests) & set(b.kept.digests))
    if shared:
        raise DataError(
            f"{a.cohort.name}: {shared} films of split {first!r} have the same pixels as films of "
            f"split {second!r}; expected none. Remove one of each pair."
        )


def _diverged(trained: Mapping[str, TrainedArm]) -> list[str]:
    """Tell of the arms whose training broke off."""
    return [
        f"{ARMS[name].title}: the loss was no longer finite after {arm.curve.steps} steps; the "
        "training stopped, and the best weights before that stand. Lower "
        "mitigation.learning_rate."
        for name, arm in trained.items()
        if arm.curve.stopped == "diverged"
    ]


def _of_new_model(config: Config, folder: Path) -> Config:
    """Return the config of the re-audit: the new model on the final test."""
    model = config.model.model_copy(
        update={
            **ModelConfig(path=folder).model_dump(
                exclude={"device", "batch_size", "precision", "threads", "region_pooling"}
            ),
            "name": f"{config.model.name or config.name}, mitigated",
        }
    )
    cohort = config.cohort.model_copy(update={"split": _TEST})
    return config.model_copy(
        update={"model": model, "cohort": cohort, "name": f"{config.name}-reaudit"}
    )
