"""``run.json``: what is needed to do a run again, and what it cost."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import sys
from importlib.metadata import version
from typing import Any

from ravl_med import __version__
from ravl_med.config import Config
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.run_folder import config_text

__all__ = ["describe_run", "describe_thresholds", "peak_memory_mb"]

_PACKAGES = (
    "monai",
    "nibabel",
    "numpy",
    "open_clip_torch",
    "pydicom",
    "reportlab",
    "scikit-learn",
    "scipy",
    "torch",
    "torchvision",
)


def describe_run(
    config: Config,
    result: AuditResult,
    cohort_digest: str,
    model_cached: bool,
) -> dict[str, Any]:
    """Return the content of ``run.json`` but for what the run cost."""
    text = config_text(config, show_paths=False)
    seeds = {"discovery": config.discovery.seed, "evidence": config.evidence.seed}
    if config.cohort.synthetic is not None:
        seeds["synthetic cohort"] = config.cohort.synthetic.seed
    if config.model.quickstart is not None:
        seeds["quickstart model"] = config.model.quickstart.seed
    return {
        "tool": {"name": "ravl-med", "version": __version__},
        "versions": {
            "ravl-med": __version__,
            "Python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "device": config.model.device,
        },
        "digests": {
            "model": result.model.digest,
            "cohort": cohort_digest,
            "config": hashlib.sha256(text.encode()).hexdigest(),
        },
        "seeds": seeds,
        "model_cached": model_cached,
    }


def describe_thresholds(config: Config) -> dict[str, str]:
    """Return every threshold that was fixed before the run, in words."""
    gate, evidence, discovery = config.gate, config.evidence, config.discovery
    return {
        "gate.max_gap": f"{gate.max_gap:.0%} gap in accuracy, of the raised and of a lowered class",
        "gate.min_films": f"{gate.min_films} films a class",
        "gate.max_prediction_share": f"{gate.max_prediction_share:.0%} of the predictions",
        "gate.min_prediction_share": f"{gate.min_prediction_share:.0%} of the predictions",
        "evidence.confidence": f"{evidence.confidence:.0%}, Bonferroni over all clusters",
        "evidence.min_n": f"{evidence.min_n} films in the smaller arm",
        "evidence.sign_share": f"{evidence.sign_share:.0%} of the removal effect or more inside",
        "evidence.shortcut_share": f"{evidence.shortcut_share:.0%} of the effect or less inside",
        "discovery.min_influence": f"{discovery.min_influence:g}",
    }


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    return round(peak * unit / 1e6, 1)
