"""Small audits for the tests of what is spread over workers."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ravl_med.config.loading import Config
from ravl_med.engine.local import LocalEngine, Work
from ravl_med.evidence.audit_result import result_document
from ravl_med.pipeline.audit import audit
from ravl_med.storage.cache import Cache

RELEVANCE = Path(__file__).parents[2] / "configs" / "relevance" / "chest.yaml"


def config_of(root: Path, **sections) -> Config:
    plain = {
        "cohort": {"manifest": root / "cohort" / "manifest.csv", "split": None, "workers": 0},
        "task": {"name": "t", "classes": {
            "big heart": {"prompts": ["Cardiomegaly."], "label": {"cardiomegaly": 1}},
            "other": {"prompts": ["Normal."], "label": {"cardiomegaly": 0}},
        }},
        "model": {"path": root / "model", "batch_size": 4, "device": "cpu", "threads": 1},
        "regions": {"tiles": (3, 3)},
        "discovery": {"clusters": (4, 8), "draws": 1, "min_strength": 0.0, "min_influence": 0.0},
        "evidence": {"relevance": RELEVANCE, "permutations": 99, "draws": 2000, "simulations": 20,
                     "effect_films": 20, "dependence_films": 0, "looking_films": 0,
                     "max_pairs": 10, "min_pairs": 2, "min_n": 2, "fdr": 0.99,
                     "side_level": 0.99, "min_gap": 0.0},
        "gate": {"min_films": 2, "max_prediction_share": 1.0, "min_prediction_share": 0.0,
                 "min_auroc": 0.0},
        "privacy": {"min_cell": 0},
    }  # fmt: skip
    names = {*plain, *sections}
    return Config.model_validate(
        {"name": "e", **{n: {**plain.get(n, {}), **sections.get(n, {})} for n in names}}
    )


def units_here(engine: LocalEngine, work: Work[Any, Any], units: Iterable[Any]) -> Iterator[Any]:
    """Do here what a worker would get by pickling; in place of `LocalEngine.map`."""
    do = pickle.loads(pickle.dumps(work.open))()
    yield from (do(pickle.loads(pickle.dumps(unit))) for unit in units)


def result_of(config: Config, cache: Path) -> str:
    run = audit(config, key=b"k" * 32, cache=Cache(cache))
    return result_document(run.result, 50).model_dump_json()
