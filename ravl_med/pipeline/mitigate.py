"""Every stage of a mitigation, in order: read, audit, locate, train, test, repair."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.manifest import shared_patients
from ravl_med.config.loading import Config
from ravl_med.config.model import ModelConfig
from ravl_med.encoders.gradient_checkpointing import require_checkpointing
from ravl_med.encoders.opening import require_folder
from ravl_med.encoders.zero_shot import embed_classes
from ravl_med.errors import ConfigError, DataError
from ravl_med.evidence.confirmation import split_patients
from ravl_med.evidence.mitigation_result import MitigationResult, Reaudit
from ravl_med.evidence.results import ConfirmedFeature, Decision
from ravl_med.mitigation.arms import ARMS, find_attention
from ravl_med.mitigation.distributed import Processes
from ravl_med.mitigation.final_test import Predictions
from ravl_med.mitigation.spurious_regions import choose_features
from ravl_med.mitigation.training import ArmTraining, SelectionFilms, TrainedArm
from ravl_med.mitigation.verdict import (
    compare_reaudit,
    decide_mitigation_verdict,
    nothing_to_mitigate,
)
from ravl_med.pipeline import stages
from ravl_med.pipeline.audit import audit
from ravl_med.pipeline.final_test import FinalTestOutcome, run_final_test
from ravl_med.pipeline.fine_tuning_films import PreparedFilms, prepare_fine_tuning
from ravl_med.pipeline.mitigation_setup import ExploredFilms, Setting, WorkFolder
from ravl_med.pipeline.split_films import SplitFilms
from ravl_med.regions.proposal import choose_segmenter
from ravl_med.reporting.files.audit_run import Audit
from ravl_med.reporting.files.run_folder import Strangers, find_strangers, list_names
from ravl_med.reporting.files.run_record import digest_regions, digest_settings
from ravl_med.reporting.files.tables import read_features
from ravl_med.storage.bounded_reading import parse_json, read_regular
from ravl_med.storage.cache import Cache
from ravl_med.storage.remote import FilePath

_Ruling = tuple[int, Decision, bool]  # rank, what was decided, whether that is in force
_FINETUNE, _VALIDATION, _TEST = "finetune", "validation", "test"


@dataclass(frozen=True, slots=True, eq=False)
class Mitigation:
    """A finished mitigation: the result, and what is needed to write it."""

    config: Config  # effective
    result: MitigationResult
    work: WorkFolder  # can be thrown away once the run is written
    audit: Audit | None  # that was run because no earlier one had the same digests
    timings: dict[str, float]
    throughput: Mapping[str, Mapping[str, float]]
    # folder of the new model, in the work folder; None where nothing was done
    model: Path | None = None
    reaudit: Audit | None = None  # of the new model on the final test
    test: SplitFilms | None = None  # the final test, as the audited model sees it
    # of each model for the final test
    predictions: Mapping[str, Predictions] = field(default_factory=dict)


def mitigate(
    config: Config,
    *,
    key: bytes,
    cache: Cache,
    work: WorkFolder,
    processes: Processes,
    earlier_run: Path | None = None,
    keep_audit: Callable[[Audit], None] = lambda audit: None,
    progress: stages.Progress = lambda stage, done, total: None,
) -> Mitigation:
    """Fine-tune the audited model away from its shortcuts, and test what came of it.

    Called by the first process; the others serve it, see `Processes`.

    Parameters
    ----------
    key : bytes - secret of the pseudonyms
    cache : Cache - of synthetic cohorts, models and films
    work : WorkFolder - checkpoints and the new model; what an interrupted run left there is gone on
        from
    earlier_run : Path or None - folder of an audit, used when its digests match
    keep_audit : callable - called with an audit as soon as one had to be made, so that a run that
        is ended later finds it again

    Raises
    ------
    ConfigError, ModelError, DataError, EngineError
        With one clear line; nothing but an audit has been written outside the work folder by then.
    """
    setting, explored = _read(config, stages.Run(cache, progress, key=key), work)
    past, fresh = _audit(setting, explored.films, earlier_run, keep_audit)
    setting = replace(setting, features=choose_features(past.features, config.mitigation.force))
    clock = setting.run.clock
    if not setting.features:
        nothing = _nothing_done(setting, past, reused=fresh is None)
        return Mitigation(config, nothing, work, fresh, clock.seconds, clock.throughput())
    prepared = _locate(setting, explored)
    trained = _train(setting, explored, prepared, processes)
    tested = _test(setting, explored, trained, processes)
    repaired = _repair(setting, past, trained, tested)
    result = _result(setting, explored, prepared, trained, tested, repaired, reused=fresh is None)
    return Mitigation(
        config,
        result,
        work,
        fresh,
        clock.seconds,
        clock.throughput(),
        model=repaired.folder,
        reaudit=repaired.audit,
        test=tested.films,
        predictions=tested.predictions,
    )


def _read(config: Config, run: stages.Run, work: WorkFolder) -> tuple[Setting, ExploredFilms]:
    """Open the audited model, and read the films of its audit."""
    manifest = _require_splits(config, run)
    with run.stage("model"):
        folder, _ = stages.prepare_model(config, manifest, FilmReader.of(config.cohort), run)
        encoder = stages.open_model_of(config, folder)
        if config.mitigation.gradient_checkpointing:
            answers = config.model.answers is not None
            require_checkpointing(encoder.model if answers else encoder.model.visual)
        if config.mitigation.lora_rank:
            find_attention(encoder.model)  # which not every tower has
        start = require_folder(encoder, folder, work.folder / "audited-model")
        classes = embed_classes(encoder, config.task.texts())
    setting = Setting(config, run, work, manifest, (encoder, folder), start, classes)
    with run.stage("validation films"):
        films = setting.read(_VALIDATION)
    run.clock.note("validation films", films=len(films))
    evidence, cohort = config.evidence, films.cohort
    half = split_patients(cohort.patients, cohort.labels, evidence.discovery_share, evidence.seed)
    return setting, ExploredFilms(films, half)


def _require_splits(config: Config, run: stages.Run) -> FilePath:
    """Return the manifest, once a model can be trained and the splits can be audited."""
    if config.model.scores is not None:
        raise ConfigError(
            "model.scores names a table: a model that nobody can open cannot be fine-tuned. "
            "Expected a model alone."
        )
    if config.model.answers is not None and config.model.precision != "fp32":
        raise ConfigError(
            f"model.precision is {config.model.precision!r}; a model with answers is trained in "
            "fp32. Set it."
        )
    if config.cohort.split != _VALIDATION:
        raise ConfigError(
            f"cohort.split is {config.cohort.split!r}; mitigate needs 'validation', beside the "
            "splits 'finetune' and 'test' of the manifest."
        )
    with run.stage("cohort"):
        manifest = stages.prepare_manifest(config, run, whole=True)
        shared = shared_patients(manifest, (_FINETUNE, _VALIDATION, _TEST))
    if shared:
        pairs = ", ".join(f"{a} and {b} share {count}" for (a, b), count in shared.items())
        raise DataError(
            f"{manifest.name}: patients are in two splits ({pairs}); expected none. Move all films "
            "of a patient into one split."
        )
    for split in (_VALIDATION, _TEST):  # both are audited: what lacks is told before the work
        listed = stages.list_films(config, manifest, split)
        stages.require_classes(listed, config.gate.min_films, split)
    return manifest


def _audit(
    setting: Setting, films: SplitFilms, earlier_run: Path | None, keep: Callable[[Audit], None]
) -> tuple[PastAudit, Audit | None]:
    """Return what the audit found, and the audit where it had to be made."""
    with setting.run.stage("audit"):
        digest = setting.encoder.info.digest
        past = find_past_audit(earlier_run, setting.config, digest, films)
        if past is not None:
            return past, None
        fresh = _audit_of(setting.config, setting.run)
        keep(fresh)
        rulings = [(one.rank, one.decision, one.in_force) for one in fresh.result.rulings]
        return PastAudit.of(fresh.result.verdict.name, fresh.features, rulings), fresh


def _locate(setting: Setting, explored: ExploredFilms) -> PreparedFilms:
    """Read the films to fine-tune on, and find where the features lie in them."""
    with setting.run.stage("fine-tuning films"):
        prepared = prepare_fine_tuning(setting, explored)
    setting.run.clock.note("fine-tuning films", films=len(prepared.films))
    return prepared


@dataclass(frozen=True, slots=True, eq=False)
class _Trained:
    """The arms, and the films that their epochs were chosen by."""

    selection: SelectionFilms
    arms: Mapping[str, TrainedArm]


def _train(
    setting: Setting, explored: ExploredFilms, prepared: PreparedFilms, processes: Processes
) -> _Trained:
    """Train every arm, in all processes; the first one says how far it is."""
    config, run = setting.config, setting.run
    selection = SelectionFilms.of(
        explored.films.films,
        explored.half,
        explored.groups(setting.features),
        explored.films.cohort.labels,
        config.mitigation.min_group,
    )
    arms: dict[str, TrainedArm] = {}
    for name in config.mitigation.arms():
        arm = ARMS[name]
        training = ArmTraining(
            arm=arm,
            start=setting.start,
            films=prepared.folder,
            selection=selection,
            classes=setting.classes,
            config=config.mitigation,
            region_pooling=config.model.region_pooling,
            questions=stages.questions_of(config),
            checkpoint=setting.work.folder / f"{name}.ckpt",
        )
        stage = partial(_report_progress, run.progress, arm.title)
        with run.stage(f"train: {arm.title}"):
            arms[name] = processes.together(training, partial(training, progress=stage))
    return _Trained(selection, arms)


def _report_progress(
    progress: stages.Progress, title: str, done: int, total: int, note: str
) -> None:
    progress(f"{title}{f' ({note})' if note else ''}", done, total)


def _test(
    setting: Setting, explored: ExploredFilms, trained: _Trained, processes: Processes
) -> FinalTestOutcome:
    """Measure every arm on the films that nobody touched."""
    with setting.run.stage("final test"):
        test = setting.read(_TEST)
        test.require_other_pixels(explored.films, (_TEST, _VALIDATION))
        device = processes.fabric.device
        return run_final_test(setting, test, explored, trained.arms, device)


@dataclass(frozen=True, slots=True, eq=False)
class _Repaired:
    """The new model, its audit on the final test, and what of the old correlations is left."""

    folder: Path
    audit: Audit
    reaudit: Reaudit


def _repair(
    setting: Setting, past: PastAudit, trained: _Trained, tested: FinalTestOutcome
) -> _Repaired:
    """Save the delivered model in the layout of the audited one, and audit it."""
    config, run = setting.config, setting.run
    folder = setting.work.folder / "model"
    with run.stage("save the model"):
        shutil.rmtree(folder, ignore_errors=True)
        trained.arms[config.mitigation.arm].encoder.save(folder)
    with run.stage("re-audit"):
        again = _audit_of(reaudit_config(config, folder), run)
        known = [one for one in past.features if one.confirmed or one in setting.features]
        present = tested.films.present(tested.films.find(known))
        least = config.hidden_below
        reaudit = compare_reaudit(again.result, known, setting.features, present, least)
    return _Repaired(folder, again, reaudit)


def _audit_of(config: Config, run: stages.Run) -> Audit:
    return audit(config, key=run.key, cache=run.cache, progress=run.progress)


def reaudit_config(config: Config, folder: Path) -> Config:
    """Return the config of the re-audit: the new model, in a folder, on the final test."""
    model = config.model.model_copy(
        update={
            **ModelConfig(path=folder).model_dump(
                exclude={
                    "device",
                    "batch_size",
                    "precision",
                    "threads",
                    "region_pooling",
                    "answers",
                }
            ),
            "name": f"{config.model.name or config.name}, mitigated",
        }
    )
    cohort = config.cohort.model_copy(update={"split": _TEST})
    return config.model_copy(
        update={"model": model, "cohort": cohort, "name": f"{config.name}-reaudit"}
    )


def _result(
    setting: Setting,
    explored: ExploredFilms,
    prepared: PreparedFilms,
    trained: _Trained,
    tested: FinalTestOutcome,
    repaired: _Repaired,
    *,
    reused: bool,
) -> MitigationResult:
    """Put together what the stages have found."""
    config, films, half = setting.config, explored.films, explored.half
    delivered, shown = next(
        pair for pair in zip(tested.outcomes, tested.shown, strict=True) if pair[0].delivered
    )
    least, tolerance = config.hidden_below, config.mitigation.max_fall
    return MitigationResult(
        name=config.name,
        title=config.mitigation.title,
        verdict=decide_mitigation_verdict(
            delivered, shown, repaired.reaudit, tolerance, config.gate.max_gap
        ),
        audited_digest=setting.encoder.info.digest,
        new_digest=repaired.audit.result.model.digest,
        audit_reused=reused,
        mitigated=prepared.mitigated,
        companion_regions=len(prepared.films.companions.boxes),
        splits=(
            films.summary("discovery half: choice of candidates and of epochs", least, half),
            films.summary("confirmation half: test of candidates", least, ~half),
            prepared.summary,
            tested.films.summary("final test", least),
        ),
        selection_groups=trained.selection.count_groups(films.cohort.patients, least),
        arms=tested.shown,
        reaudit=repaired.reaudit,
        notes=(*prepared.notes, *_diverged(trained.arms)),
    )


def _nothing_done(setting: Setting, past: PastAudit, *, reused: bool) -> MitigationResult:
    return MitigationResult(
        name=setting.config.name,
        title=setting.config.mitigation.title,
        verdict=nothing_to_mitigate(past.verdict, sum(one.confirmed for one in past.features)),
        audited_digest=setting.encoder.info.digest,
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


def _diverged(trained: Mapping[str, TrainedArm]) -> list[str]:
    """Name the arms whose training broke off."""
    return [
        f"{ARMS[name].title}: the loss was no longer finite after {arm.curve.steps} steps; the "
        "training stopped, and the best weights before that stand. Lower mitigation.learning_rate."
        for name, arm in trained.items()
        if arm.curve.stopped == "diverged"
    ]


@dataclass(frozen=True, slots=True, eq=False)
class PastAudit:
    """What a mitigation needs of an audit: its verdict, and what it confirmed."""

    verdict: str
    features: tuple[ConfirmedFeature, ...]  # as reviewers see them

    @classmethod
    def of(
        cls, verdict: str, features: Sequence[ConfirmedFeature], rulings: Iterable[_Ruling]
    ) -> PastAudit:
        """Return an audit as reviewers see it."""
        decided = {rank: decision for rank, decision, in_force in rulings if in_force}
        return cls(verdict, tuple(_follow(one, decided.get(one.rank)) for one in features))


def find_past_audit(
    folder: Path | None, config: Config, model_digest: str, films: SplitFilms
) -> PastAudit | None:
    """Return an earlier audit when model, films, labels, regions and settings are the same.

    What a reviewer called the disease or a shortcut since is one. None where the run folder holds
    no such audit, or one that no digest vouches for.

    Raises
    ------
    DataError
        It holds one, and its result or private files are not as the run wrote them.
    """
    if folder is None:
        return None
    embeddings = films.embeddings
    wanted = {
        "model": model_digest,
        "cohort": stages.digest_cohort(embeddings.digests, films.cohort.labels),
        "settings": digest_settings(config),
        "regions": digest_regions(embeddings.region_boxes, embeddings.region_image),
        "segmenter": choose_segmenter(config.regions).digest,
    }
    try:
        record = parse_json(read_regular(folder / "run.json"))
        if any(record["digests"].get(name) != digest for name, digest in wanted.items()):
            return None
        strangers = find_strangers(folder) or Strangers()
        kept = ("result.json", "private/")
        changed = [name for name in strangers.changed if name.startswith(kept)]
        if changed:
            raise DataError(
                f"--audit: {list_names(changed)} changed since the run wrote it; expected it as it "
                "was. Draw the report again (ravl-med report), or audit again."
            )
        if any(name.startswith(kept) for name in strangers.foreign):
            return None
        result = parse_json(read_regular(folder / "result.json", 1 << 30))
        rulings = [(r["rank"], r["word"], r["in_force"]) for r in result.get("rulings", ())]
        features = read_features(folder / "private" / "features.npz")
        return PastAudit.of(str(result["verdict"]), features, rulings)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _follow(feature: ConfirmedFeature, decision: Decision | None) -> ConfirmedFeature:
    """Return a feature as a reviewer sees it; what is accepted for a time stays what it is."""
    if decision == "shortcut":
        return replace(feature, kind="shortcut", counts=True)
    return replace(feature, kind="plausible_sign") if decision == "disease" else feature
