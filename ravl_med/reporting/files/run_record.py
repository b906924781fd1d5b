"""``run.json``: what is needed to do a run again, and what it cost."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import sys
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravl_med import __version__
from ravl_med.config.audit import DiscoveryConfig, EvidenceConfig, GateConfig
from ravl_med.config.loading import Config
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit.history import AuditHistory, settings_of
from ravl_med.reporting.files.run_folder import config_text

_PACKAGES = (
    "lightning-fabric",
    "monai",
    "nibabel",
    "numpy",
    "open_clip_torch",
    "pydicom",
    "reportlab",
    "scikit-learn",
    "scipy",
    "timm",
    "torch",
    "torchvision",
    "transformers",
)


def describe_run(
    config: Config,
    result: AuditResult,
    digests: tuple[str, str],
    model_cached: bool,
    history: AuditHistory | None,
) -> dict[str, Any]:
    """Return the content of ``run.json`` but for what the run cost.

    `digests` are those of the cohort and of the segmenter.
    """
    text = config_text(config, show_paths=False, without=("mitigation",))
    seeds = {"discovery": config.discovery.seed, "evidence": config.evidence.seed}
    if config.cohort.synthetic is not None:
        seeds["synthetic cohort"] = config.cohort.synthetic.seed
    if config.model.quickstart is not None:
        seeds["quickstart model"] = config.model.quickstart.seed
    return {
        "tool": {"name": "ravl-med", "version": __version__},
        "versions": package_versions(),
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "device": config.model.device,
        },
        "digests": {
            "model": result.model.digest,
            "cohort": digests[0],
            "segmenter": digests[1],
            "config": hashlib.sha256(text.encode()).hexdigest(),
            "settings": digest_settings(config),
            "regions": digest_regions(result.region_boxes, result.region_image),
        },
        "seeds": seeds,
        "model_cached": model_cached,
        **_describe_history(history),
    }


def digest_regions(boxes: NDArray[np.float32], image: NDArray[np.int64]) -> str:
    """Return the SHA-256 over boxes (R, 4) and their films (R,): files of annotations change."""
    digest = hashlib.sha256(np.ascontiguousarray(boxes, dtype=np.float32).tobytes())
    digest.update(np.ascontiguousarray(image, dtype=np.int64).tobytes())
    return digest.hexdigest()


def package_versions() -> dict[str, str]:
    """Return the versions of this tool, of Python and of packages that a number can depend on."""
    own = {"ravl-med": __version__, "Python": platform.python_version()}
    return own | {name: version(name) for name in _PACKAGES}


def digest_settings(config: Config) -> str:
    """Return the SHA-256 of the settings that a finding can depend on."""
    text = json.dumps(settings_of(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _describe_history(history: AuditHistory | None) -> dict[str, Any]:
    """Return the number of the audit and what came before it; null where no history is kept."""
    if history is None:
        return dict.fromkeys(
            ("audit_number", "changed_keys", "ever_changed_keys", "earlier_verdicts")
        )
    return {
        "audit_number": history.number,
        "changed_keys": [
            {"key": key, "before": before, "now": now} for key, before, now in history.changed
        ],
        "ever_changed_keys": list(history.ever_changed),
        "earlier_verdicts": dict(history.verdicts),
    }


def describe_thresholds(config: Config) -> dict[str, str]:
    """Return every threshold that was fixed before the run, in words.

    First what decides the verdict, then what makes a claim, then what finds candidates.
    """
    sections = {
        "gate": _describe_gate(config.gate),
        "evidence": _describe_evidence(config.evidence),
        "discovery": _describe_discovery(config.discovery),
    }
    return {
        f"{name}.{key}": text for name, texts in sections.items() for key, text in texts.items()
    }


def _describe_gate(gate: GateConfig) -> dict[str, str]:
    return {
        "max_gap": f"a correlation counts with a gap of {_percent(gate.max_gap)} or more on both "
        "sides, or wrong calls (foreign: any), if mistakes go with it",
        "min_films": f"at least {gate.min_films} films of each class, else not auditable",
        "max_prediction_share": f"at most {_percent(gate.max_prediction_share)} of the "
        "predictions for one class, else not auditable",
        "min_prediction_share": f"at least {_percent(gate.min_prediction_share)} of the "
        "predictions for each class, else not auditable",
        "min_auroc": f"AUROC of each finding with a lower bound above {gate.min_auroc:g}, "
        "otherwise the verdict cannot be better than fail or not auditable"
        if gate.min_auroc
        else "AUROC is not judged",
        "max_local_effect": "a pass needs that a local feature that was not named costs at most "
        f"{_percent(gate.max_local_effect)} of accuracy",
        "max_detectable_gap": "of a model known by its scores, a pass needs that a gap of "
        f"{_percent(gate.max_detectable_gap)} would be found in 20 % of films",
        "min_tested": f"and that {_percent(gate.min_tested)} of the clusters were tested",
        "max_leaked_patients": f"at most {gate.max_leaked_patients} audited patients that the "
        "model may have been fitted on, otherwise fail or not auditable",
        "max_rejected_fraction": f"at most {_percent(gate.max_rejected_fraction)} of the films set "
        "aside, else the run ends",
    }


def _describe_evidence(evidence: EvidenceConfig) -> dict[str, str]:
    directions = "both ways, p doubled" if evidence.cross_fit else "one way, no swap of the halves"
    return {
        "discovery_share": f"{_percent(evidence.discovery_share)} of the patients to choose "
        "candidates on, the others to test them on",
        "cross_fit": directions,
        "fdr": f"q at most {evidence.fdr:g} over all candidates",
        "side_level": f"p at most {evidence.side_level:g} of the raised and of the lowered side",
        "min_gap": f"a gap of at least {_percent(evidence.min_gap)} on both halves",
        "min_n": f"at least {evidence.min_n} films in the smaller arm of a class, half of them "
        "on each half",
        "permutations": f"at least {evidence.permutations:,} exchanges of patients where a test "
        "is not exact",
        "draws": f"{evidence.draws:,} bootstrap draws of patients",
        "confidence": f"{_percent(evidence.confidence)} intervals by patient; those of removal "
        "and transplant too",
        "effect_films": f"effects mapped on at most {evidence.effect_films} films of the discovery "
        "half",
        "max_pairs": f"at most {evidence.max_pairs} films, each with a control, in such a test",
        "min_pairs": f"no such test with fewer than {evidence.min_pairs} films",
        "min_effect": "a used feature moves the margin, removed or put in, by more than "
        f"{_percent(evidence.min_effect)} of its standard deviation (lower limit)",
        "fill_agreement": "the effect of either fill is at most "
        f"{evidence.fill_agreement:g} times that of the other",
        "max_fitted": f"boxes of at most {evidence.max_fitted} regions of a used feature adjusted "
        "to the area of the effect",
        "dependence_films": f"structures covered and styles changed on {evidence.dependence_films} "
        "films",
        "looking_films": "whether the model looks at the film is tested on "
        f"{evidence.looking_films} films",
        "max_style_shift": "exposure and collimation move the margin of a finding by at most "
        f"{evidence.max_style_shift:g} sd over these films",
        "power": f"a detectable gap is found in {_percent(evidence.power)} of simulated cohorts",
        "simulations": f"{evidence.simulations} simulated cohorts for each prevalence",
        "sign_share": f"a plausible sign has {_percent(evidence.sign_share)} of the removal "
        "effect or more where the finding shows, or a lowered class",
        "shortcut_share": f"a shortcut has {_percent(evidence.shortcut_share)} of it or less there "
        f"({_percent(evidence.sign_share)} if in artifacts or not with the finding); more "
        "may be a soft sign",
    }


_PROTOCOLS = {
    "pooled": "clusters of several K, pooled",
    "paper": "that of the paper: K by the silhouette, the top cluster alone",
    "ravl": "plain RaVL: K by the silhouette, on all films, nothing confirmed",
}


def _describe_discovery(discovery: DiscoveryConfig) -> dict[str, str]:
    pooled = discovery.protocol == "pooled"
    unused, unused_pooled = "not used by the protocol of the paper", "not used where K is pooled"
    values = ", ".join(str(number) for number in discovery.clusters)
    return {
        "protocol": _PROTOCOLS[discovery.protocol],
        "k_range": unused_pooled
        if pooled
        else "K of 2 to 5 times the classes"
        if discovery.k_range is None
        else f"K of {discovery.k_range[0]} to {discovery.k_range[1]}",
        "propose": f"candidates from {' and '.join(discovery.propose)}" if pooled else unused,
        "clusters": f"K of {values}" if pooled else unused,
        "draws": f"{discovery.draws} draws of the sample for each K" if pooled else unused,
        "sample": f"medoids fitted on {discovery.sample:,} regions, all regions assigned",
        "merge_overlap": "clusters that share "
        f"{_percent(discovery.merge_overlap)} of their regions (Jaccard) are one"
        if pooled
        else unused,
        "min_influence": f"influence H of at least {discovery.min_influence:g}, but for clusters "
        "with large gaps",
        "min_strength": f"gaps at least {discovery.min_strength:g} standard errors from 0 in the "
        "discovery half, both sides joined, before a cluster is tested"
        if pooled
        else unused,
    }


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    return round(peak * unit / 1e6, 1)
