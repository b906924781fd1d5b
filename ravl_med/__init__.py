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

Method: Varma, Delbrouck, Chen, Chaudhari, Langlotz, "RaVL: Discovering and Mitigating Spurious
Correlations in Fine-Tuned Vision-Language Models", NeurIPS 2024 (arXiv 2411.04097).
"""

import os

# Films are patient data: the engine of the OCR must not report to its maker, from its first import
# on. Its releases know one name or the other.
os.environ["ORT_DISABLE_TELEMETRY"] = os.environ["ORT_TELEMETRY_DISABLED"] = "1"

__all__ = ["__version__"]

__version__ = "0.1.0"
