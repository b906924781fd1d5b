"""RaVL-Med: audit and repair the shortcuts that radiology vision-language models learn.

The flow, in the order in which a run makes it::

    Cohort -> Regions -> Embeddings -> Scores -> Discovery -> SpuriousCorrelation list -> AuditResult
    films     boxes      f(I), f(r)    zero-shot  clusters,    effect, interval, kind     PDF, JSON
    labels                             softmax    gap, influence

Letters, the same everywhere: P patients, N images, R regions, C classes, D embedding size,
K clusters.

Method: Varma, Delbrouck, Chen, Chaudhari, Langlotz, "RaVL: Discovering and Mitigating Spurious
Correlations in Fine-Tuned Vision-Language Models", NeurIPS 2024 (arXiv 2411.04097).
"""

__version__ = "0.1.0"
