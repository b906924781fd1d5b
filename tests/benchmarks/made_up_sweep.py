"""Rows of a sweep that nobody ran, for the tables that are made of them."""

import math

from ravl_med.evaluation.methods import METHODS, OURS
from ravl_med.evaluation.repairs import BEFORE, REPAIRS

Row = dict[str, object]


def made_up_rows(groups: int = 3, domain: str = "phantoms", kind: str = "planted") -> list[Row]:
    rows: list[Row] = []
    for group in range(groups):
        for seed in range(3):
            for place, method in enumerate(METHODS):
                rows.append(
                    {
                        "digest": f"{domain}{kind}{group}{seed}",
                        "group": f"{domain}{kind}{group}",
                        "domain": domain,
                        "kind": kind,
                        "architecture": "resnet" if group % 2 else "vit",
                        "regions": "tiles",
                        "feature": "letter",
                        "finding": "cardiomegaly",
                        "feature_2": "",
                        "finding_2": "",
                        "strength": 0.9,
                        "reached": 0.9,
                        "seed": seed,
                        "version": "0",
                        "accuracy": 0.7,
                        "raised_gap": 0.15 + 0.1 * group,
                        "lowered_gap": 0.5,
                        "valid": kind != "null",
                        "films": 600,
                        "region_count": 21600,
                        "seconds": 20.0,
                        "cpu_seconds": 19.0,
                        "training_seconds": 9.0,
                        "method": method,
                        "precision_10": place / 10 if kind != "null" else math.nan,
                        "precision_25": place / 20,
                        "touching_10": place / 10,
                        "right_class": method == OURS,
                        "accuses": True,
                        "true_rank": int(method == OURS),
                        "tested_true": 1,
                        "confirmed_true": 1,
                        "tested_other": 20,
                        "confirmed_other": 1,
                        "shortcuts": int(kind == "null" and group == 0 and seed == 0),
                        "reviewed": 0,
                        "pairs_found": 1,
                    }
                )
    return rows


def made_up_arms(precision: float = 1.0) -> list[Row]:
    """One group, three seeds: RaVL's worst group is 20 %, ours 60 %, that of most others 15 %."""
    worst = {BEFORE: 0.1, "ravl": 0.2, "counterfactual": 0.6, "alignment": 0.33}
    return [
        {
            "digest": f"phantomsplanted0{seed}",
            "group": "phantomsplanted0",
            "domain": "phantoms",
            "architecture": "vit",
            "strength": 0.9,
            "seed": seed,
            "precision_10": precision,
            "arm": arm,
            "image_overall": 0.8,
            "image_worst": worst.get(arm, 0.15),
            "region_overall": 0.7,
            "region_worst": 0.3,
            "raised_gap": 0.1,
            "lowered_gap": 0.1,
            "seconds": 3.0,
        }
        for seed in range(3)
        for arm in (BEFORE, *REPAIRS)
    ]
