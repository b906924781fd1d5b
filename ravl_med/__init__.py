"""RaVL-Med: audit and repair the shortcuts that radiology vision-language models learn.

The flow, in the order in which a run makes it::

    Cohort                  films, radiology reports, labels
    -> Regions              boxes of each film
    -> Embeddings           f(I) of films, f(r) of regions
    -> Scores               zero-shot softmax of both
    -> Discovery            feature clusters, performance gap, influence
    -> SpuriousCorrelation  effect, interval, removal effect, kind
    -> AuditResult          verdict; PDF, HTML and JSON
    -> MitigationResult     a new model, before and after; PDF, HTML and JSON

Letters, the same everywhere: P patients, N images, R regions, C classes, D embedding size,
K clusters.

In Python::

    import ravl_med as rm

    run = rm.audit("my.yaml")
    run.verdict, run.correlations

Method: Varma, Delbrouck, Chen, Chaudhari, Langlotz, "RaVL: Discovering and Mitigating Spurious
Correlations in Fine-Tuned Vision-Language Models", NeurIPS 2024 (arXiv 2411.04097).
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ravl_med.api import Comparison, Mitigated, Run, audit, compare, load_run, mitigate
    from ravl_med.pipeline.discover import Discovered, discover

# Films are patient data: the engine of the OCR must not report to its maker, from its first import
# on. Its releases know one name or the other.
os.environ["ORT_DISABLE_TELEMETRY"] = os.environ["ORT_TELEMETRY_DISABLED"] = "1"

__all__ = [
    "Comparison",
    "Discovered",
    "Mitigated",
    "Run",
    "__version__",
    "audit",
    "compare",
    "discover",
    "load_run",
    "mitigate",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the public API at its first use: ``import ravl_med`` alone is quick."""
    if name not in __all__:
        raise AttributeError(f"module 'ravl_med' has no attribute {name!r}")
    module = "pipeline.discover" if name in ("Discovered", "discover") else "api"
    return getattr(importlib.import_module(f"ravl_med.{module}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
