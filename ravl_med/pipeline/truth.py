"""A finished audit of a synthetic cohort against the truth that was written beside its films."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.regions.geometry import box_overlap, box_shares
from ravl_med.reporting.files.audit_run import Audit

_LINES = ("lead", "tube", "wire")


@dataclass(frozen=True, slots=True)
class TruthCheck:
    """What an audit said, beside what was planted."""

    feature: str  # planted on the finding
    finding: str
    strength: float  # Cramer's V in the fine-tuning split
    # RaVL's validity test by true presence of the feature: accuracy with minus without it.
    raised_gap: float  # on the finding
    lowered_gap: float  # on other classes, the largest, without minus with it
    # Share of the top ten regions of the first correlation that hit the feature; NaN without one.
    precision: float  # where their effect lies
    tile_precision: float  # as they were cut
    paper_precision: float  # in the paper's order, by similarity to the medoid
    # Mean intersection over union of the feature's box with those of the top ten regions.
    overlap: float  # as they were cut; NaN where none of their films holds it
    located_overlap: float  # where their effect lies
    names_finding: bool  # the first correlation raises the planted finding
    kind: str  # of the first correlation, or "none"
    shortcuts: int  # correlations of kind shortcut

    def lines(self) -> list[str]:
        """Return the check in a few lines for the terminal."""
        if self.strength == 0.0:
            return [f"nothing was planted; correlations of kind shortcut: {self.shortcuts}"]
        named = "names" if self.names_finding else "does not name"
        return [
            f"{self.feature} planted on {self.finding}, Cramer's V {self.strength:g}; learned: "
            f"accuracy {100 * self.raised_gap:+.0f} points with it on {self.finding}, "
            f"{-100 * self.lowered_gap:+.0f} on the most lowered class",
            f"first correlation ({self.kind.replace('_', ' ')}) {named} {self.finding}; of its "
            f"top 10 regions {_share(self.precision)} hit the {self.feature} "
            f"({_share(self.paper_precision)} in the paper's order)",
        ]


def compare_with_truth(run: Audit) -> TruthCheck:
    """Compare a finished audit of a synthetic cohort with its ``truth.csv``."""
    planted = run.config.cohort.synthetic
    assert planted is not None
    boxes, names = truth_boxes(run, planted.feature), film_names(run)
    present = np.array([name in boxes for name in names])
    raised, lowered = _validity_gaps(run, present, planted.finding)
    found = run.result.correlations
    first = found[0] if found else None
    by_effect = as_cut = by_similarity = math.nan
    overlaps = (math.nan, math.nan)
    if first is not None:
        cut = run.result.region_boxes[first.cluster.regions]
        by_effect = _precision(run, first, names, boxes, first.order, _effect_boxes(run, first))
        as_cut = _precision(run, first, names, boxes, first.order, cut)
        by_similarity = _precision(run, first, names, boxes, np.arange(len(cut)), cut)
        overlaps = _overlaps(run, first, names, boxes)
    return TruthCheck(
        feature=planted.feature,
        finding=planted.finding,
        strength=planted.strength,
        raised_gap=raised,
        lowered_gap=lowered,
        precision=by_effect,
        tile_precision=as_cut,
        paper_precision=by_similarity,
        overlap=overlaps[0],
        located_overlap=overlaps[1],
        names_finding=first is not None
        and run.result.task.classes[first.cluster.raised_class] == planted.finding,
        kind=first.kind if first is not None else "none",
        shortcuts=sum(c.kind == "shortcut" for c in found),
    )


def is_hit(region: NDArray[np.floating], box: NDArray[np.floating]) -> bool:
    """Tell whether two xyxy boxes share at least half the area of the smaller one."""
    return bool(box_shares(region[None], box[None])[0, 0] >= 0.5)


def precision_at(hits: list[bool], count: int) -> float:
    """Return the share of hits among the first `count`; missing ones count as misses."""
    return sum(hits[:count]) / count


def _precision(
    run: Audit,
    correlation: SpuriousCorrelation,
    names: list[str],
    boxes: Mapping[str, list[NDArray[np.float64]]],
    order: NDArray[np.int64],
    places: NDArray[np.float32],
) -> float:
    planted = run.config.cohort.synthetic
    assert planted is not None
    hits = []
    for position in order[:10]:
        region = int(correlation.cluster.regions[position])
        name = names[int(run.result.region_image[region])]
        box = places[position]
        if planted.feature in _LINES:
            hits.append(_line_hit(_folder(run), name, planted.feature, box))
        else:
            hits.append(any(is_hit(box, truth) for truth in boxes.get(name, ())))
    return precision_at(hits, 10)


def _overlaps(
    run: Audit,
    correlation: SpuriousCorrelation,
    names: list[str],
    boxes: Mapping[str, list[NDArray[np.float64]]],
) -> tuple[float, float]:
    """Mean overlap of the top ten regions with the feature on their film: as cut, as located."""
    located = _effect_boxes(run, correlation)
    found = []
    for position in correlation.order[:10]:
        region = int(correlation.cluster.regions[position])
        for truth in boxes.get(names[int(run.result.region_image[region])], ())[:1]:
            cut = box_overlap(run.result.region_boxes[region], truth)
            found.append((cut, box_overlap(located[position], truth)))
    if not found:
        return math.nan, math.nan
    cut, own = np.mean(found, axis=0)
    return float(cut), float(own)


def _effect_boxes(run: Audit, correlation: SpuriousCorrelation) -> NDArray[np.float32]:
    """Where the effect of each region lies (n, 4); the region itself where it was not measured."""
    regions = run.result.region_boxes[correlation.cluster.regions]
    tested = correlation.counterfactual
    if tested is None or tested.removal.located is None:
        return regions
    located = tested.removal.located
    return np.where(np.isfinite(located), located, regions)


def _folder(run: Audit) -> Path:
    """Folder of the phantoms, which lie on this machine."""
    assert isinstance(run.manifest, Path)
    return run.manifest.parent


def film_names(run: Audit) -> list[str]:
    """Return the audited films as the truth names them."""
    root = _folder(run)
    return [path.relative_to(root).as_posix() for path in run.cohort.paths]


def _line_hit(root: Path, name: str, kind: str, region: NDArray[np.floating]) -> bool:
    """Tell whether a region holds pixels of a line, at least half its shorter side of them."""
    with (root / "truth" / "labels.csv").open(encoding="utf-8") as stream:
        values = {row["name"]: int(row["value"]) for row in csv.DictReader(stream)}
    with Image.open(root / "truth" / f"{Path(name).stem}.png") as image:
        mask = np.asarray(image) == values[kind]
    x0, y0, x1, y1 = np.rint(region).astype(int)
    return bool(mask[y0:y1, x0:x1].sum() >= 0.5 * min(x1 - x0, y1 - y0))


def _validity_gaps(run: Audit, present: NDArray[np.bool_], finding: str) -> tuple[float, float]:
    labels, classes = run.cohort.labels, run.cohort.classes
    correct = run.scores.predictions == labels

    def gap(c: int) -> float:
        with_it = correct[(labels == c) & present]
        without = correct[(labels == c) & ~present]
        if not len(with_it) or not len(without):
            return math.nan
        return float(with_it.mean() - without.mean())

    target = classes.index(finding)
    others = [-gap(c) for c in range(len(classes)) if c != target]
    return gap(target), float(np.nanmax(others))


def truth_boxes(run: Audit, kind: str) -> dict[str, list[NDArray[np.float64]]]:
    """Return the boxes (4,), xyxy in stored pixels, of a kind of object on each film."""
    boxes: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    with (_folder(run) / "truth.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["kind"] == kind:
                boxes[row["image"]].append(
                    np.array([float(row[k]) for k in ("x0", "y0", "x1", "y1")])
                )
    return boxes


def _share(value: float) -> str:
    return "none" if math.isnan(value) else f"{100 * value:.0f} %"
