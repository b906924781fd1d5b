"""The run folder that a mitigation leaves."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

from ravl_med import __version__
from ravl_med.config.loading import Config
from ravl_med.mitigation.arms import ARMS
from ravl_med.pipeline.mitigate import Mitigation
from ravl_med.reporting.audit.history import MitigationDetails
from ravl_med.reporting.cards.hub import model_card_text
from ravl_med.reporting.files.audit_run import write_run
from ravl_med.reporting.files.run_folder import (
    config_text,
    draft_folder,
    write_json,
    write_owner_only,
)
from ravl_med.reporting.files.run_record import package_versions, peak_memory_mb
from ravl_med.reporting.layout.dicom_pdf import DocumentDetails, write_dicom_pdf
from ravl_med.reporting.mitigation.report import write_mitigation_report
from ravl_med.storage.documents import document_of


def write_mitigation(
    run: Mitigation,
    folder: Path,
    *,
    date: str | None,
    history_root: Path | None,
    replace: bool = False,
) -> None:
    """Write a finished mitigation as a run folder, whole or not at all, and clear its work folder.

    Parameters
    ----------
    folder : Path - an earlier run there is replaced
    date : str or None - printed on the report
    history_root : Path or None - where the re-audit is noted, see `user_history_root`
    replace : bool - an earlier run that holds what no run wrote is kept beside the new one

    Raises
    ------
    ConfigError
        The folder holds something else than a run, or cannot be written.
    """
    with draft_folder(folder, replace=replace) as draft:
        _fill(draft, run, date, history_root)
    run.work.remove()


def _fill(draft: Path, run: Mitigation, date: str | None, history_root: Path | None) -> None:
    config, result = run.config, run.result
    start = time.perf_counter()
    shared_config = config_text(config, show_paths=False)
    digests = {
        "audited model": result.audited_digest,
        "config": hashlib.sha256(shared_config.encode()).hexdigest(),
    }
    if result.new_digest:
        digests["new model"] = result.new_digest
    details = MitigationDetails(
        date=date,
        config_yaml=shared_config,
        versions=package_versions(),
        digests=digests,
        seeds={"mitigation": config.mitigation.seed, "evidence": config.evidence.seed},
        recipe=describe_training(config),
    )
    (draft / "config.yaml").write_text(shared_config, encoding="utf-8")
    document = document_of(result).model_dump(mode="json")
    write_json(draft / "mitigation.json", document)
    write_mitigation_report(result, details, draft)
    if config.report.dicom:
        write_dicom_pdf(draft / "report.pdf", draft / "report.dcm", _document_details(run, details))
    private = draft / "private"
    private.mkdir(mode=0o700)
    write_owner_only(private / "config.yaml", config_text(config, show_paths=True))
    if run.model is not None:
        shutil.copytree(run.model, draft / "model")
        own = (run.model / "open_clip_config.json").is_file()
        card = model_card_text(result, details, "open_clip" if own else "transformers")
        (draft / "model" / "README.md").write_text(card, encoding="utf-8")
    if run.reaudit is not None:
        write_run(run.reaudit, draft / "reaudit", date=date, history_root=history_root)
    run.timings["report"] = round(time.perf_counter() - start, 3)
    record: dict[str, Any] = {
        "tool": {"name": "ravl-med", "version": __version__},
        "versions": dict(details.versions),
        "digests": digests,
        "seeds": dict(details.seeds),
        "recipe": dict(details.recipe),
        "audit_reused": result.audit_reused,
        "timings_s": run.timings,
        "throughput": run.throughput,
        "peak_memory_mb": peak_memory_mb(),
    }
    write_json(draft / "run.json", record)


def _document_details(run: Mitigation, details: MitigationDetails) -> DocumentDetails:
    """Return what the DICOM document says of the mitigation; its pages show no film."""
    result = run.result
    return DocumentDetails(
        kind="mitigation",
        name=result.name,
        title=result.title,
        date=details.date,
        model_digest=result.audited_digest,
        digests=(details.digests["config"], result.new_digest),
        shows_patients=False,
    )


def describe_training(config: Config) -> dict[str, str]:
    """Describe how every arm was trained, in sentences."""
    settings, answers = config.mitigation, config.model.answers is not None
    trained = "projector and image tower" if answers else "image tower"
    if settings.lora_rank:
        how = f"adapters of rank {settings.lora_rank} in the attention of the image tower"
        trained = trained.replace("image tower", how)
    return {
        "start": f"the audited model; {trained} trained, {'decoder' if answers else 'text tower'} "
        "frozen",
        "optimiser": f"AdamW, learning rate {settings.learning_rate:g} at its peak, weight decay "
        f"{settings.weight_decay:g}, warm-up over a tenth of the steps, then half a cosine",
        "budget": f"at most {settings.epochs} epochs, batches of {settings.batch_size} films, "
        f"{settings.accumulate} per step; stops after {settings.patience} epochs without gain",
        "selection": "the epoch with the best worst group on the discovery half of the validation "
        f"patients, mean of {settings.judged} epochs in a row; groups of fewer than "
        f"{settings.min_group} films joined",
        "BatchNorm": "statistics frozen" if settings.freeze_norms else "statistics trained",
        "objective": f"lambda {settings.clip_weight:g} of the "
        f"{'cross-entropy of the answers' if answers else 'contrastive loss'}, tau "
        f"{settings.temperature:g}; L_R over a {settings.denominator}, {settings.reduction} over "
        f"the batch (mean in {ARMS['counterfactual'].title}); group DRO eta {settings.eta:g}",
        "exchange": f"each film has the feature with chance {settings.exchange_share:g}; with it "
        f"goes fine detail of clusters that are on {100 * settings.companion_lift:g} % more of the "
        "films with the feature, class by class",
        "precision": settings.precision
        + (", gradients checkpointed" if settings.gradient_checkpointing else ""),
    }
