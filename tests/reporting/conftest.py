"""A plausible audit, made by hand with numpy alone."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ravl_med.discovery.ravl import FeatureCluster
from ravl_med.evidence.audit_result import (
    Accuracy,
    AuditResult,
    CohortSummary,
    DiscoverySummary,
    Interval,
    ModelSummary,
    Removal,
    SpuriousCorrelation,
    TaskSummary,
    Verdict,
)
from ravl_med.reporting.pdf import ReportDetails

IMAGES, GRID, SIDE = 120, 6, 240
NAMES = ("cardiomegaly", "no finding", "pleural effusion", "pneumothorax", "pneumonia")


def interval(value: float, half: float = 0.06) -> Interval:
    return Interval(max(value - half, 0.0), min(value + half, 1.0))


def spuriousness(rank: int, classes: int, counts: bool) -> SpuriousCorrelation:
    """A cluster that raises class 0 and lowers the rest, weaker by rank."""
    rng = np.random.default_rng(rank)
    present_films = rng.permutation(IMAGES)[:40]
    regions = present_films * GRID * GRID + rng.integers(0, GRID * GRID, 40)
    present = np.zeros(IMAGES, dtype=bool)
    present[present_films] = True
    with_it = np.clip(0.3 + 0.02 * np.arange(classes) + 0.004 * rank, 0, 0.6)
    without = np.clip(0.9 - 0.01 * np.arange(classes) - 0.004 * rank, 0.61, 1)
    with_it[0], without[0] = 0.97 - 0.004 * rank, 0.41 + 0.01 * rank
    n_present, n_absent = np.full(classes, 8 + rank), np.full(classes, 16)
    gap = with_it - without
    effect = rng.normal(2.9, 0.6, 40)
    effect[35:] = np.nan
    measured = effect[np.isfinite(effect)]
    order = np.argsort(np.where(np.isfinite(effect), -effect, np.inf), kind="stable")
    cluster = FeatureCluster(
        cluster=10 + rank,
        regions=regions.astype(np.int64),
        similarity=np.linspace(1, 0.5, 40),
        present=present,
        n_present=n_present,
        n_absent=n_absent,
        accuracy_present=with_it,
        accuracy_absent=without,
        weighted_gap=0.6 * gap,
        performance_gap=float(np.abs(0.6 * gap).sum()),
        influence=0.92,
        raised_class=0,
        lowered_classes=tuple(int(c) for c in np.argsort(gap) if gap[c] < 0),
    )
    return SpuriousCorrelation(
        rank=rank,
        cluster=cluster,
        kind="shortcut" if counts else "undecided",
        counts=counts,
        reasons=() if counts else ("The interval of the gap on no finding includes zero.",),
        gap_interval=tuple(Interval(float(g) - 0.08, float(g) + 0.08) for g in gap),
        accuracy_present_interval=tuple(interval(float(v)) for v in with_it),
        accuracy_absent_interval=tuple(interval(float(v), 0.04) for v in without),
        removal=Removal(effect, float(measured.mean()), Interval(2.41, 3.32), 0.03),
        order=order.astype(np.int64),
    )


def make_result(
    classes: Sequence[str] = NAMES[:3], correlations: int = 2, **changes: Any
) -> AuditResult:
    """An audit with so many classes and correlations; the first two correlations count."""
    names, C = tuple(classes), len(classes)
    by_class = tuple(0.85 - 0.3 * c / max(C - 1, 1) for c in range(C))
    tiles = np.arange(IMAGES * GRID * GRID)
    row, column = (tiles // GRID) % GRID, tiles % GRID
    step = SIDE / GRID
    boxes = np.stack([column, row, column + 1, row + 1], axis=1) * step
    found = tuple(spuriousness(rank, C, rank <= 2) for rank in range(1, correlations + 1))
    entries: dict[str, Any] = {
        "name": "sample-run",
        "title": "Audit of a chest film model",
        "verdict": Verdict(
            "fail" if found else "pass",
            ("Correlation 1 has a gap of +56 points on cardiomegaly; 10 points are tolerated.",)
            if found
            else ("No correlation counts.",),
        ),
        "task": TaskSummary(
            "finding",
            names,
            {name: (f"a chest film with {name}", f"findings of {name}") for name in names},
            0.07,
        ),
        "model": ModelSummary(
            "quickstart-resnet", "CLIP ResNet", "ab12" * 16, 96, "squash", "layer4", 12_345_678
        ),
        "cohort": CohortSummary(
            listed=300,
            left_out={"another split": 170, "blank label": 7},
            rejected={"truncated": 2, "no_pixel_data": 1},
            rejected_rows=(
                (17, "truncated", "m"),
                (44, "no_pixel_data", "m"),
                (91, "truncated", "m"),
            ),
            images=IMAGES,
            patients=70,
            images_by_class=dict.fromkeys(names, IMAGES // C),
            attributes={"view": {"PA": 80, "AP": 40}, "sex": {"F": 61, "M": 59}},
            radiology_reports=110,
            synthetic=False,
        ),
        "accuracy": Accuracy(
            overall=0.734,
            overall_interval=Interval(0.69, 0.779),
            images=IMAGES,
            by_class=by_class,
            by_class_interval=tuple(interval(v) for v in by_class),
            images_by_class=(IMAGES // C,) * C,
            predicted_share=(1 / C,) * C,
        ),
        "discovery": DiscoverySummary(4320, 12, "6 x 6 tiles", 20, {20: 0.31, 25: 0.3}, len(found)),
        "correlations": found,
        "image_ids": tuple(f"{i * 2654435761 % 2**48:012x}" for i in range(IMAGES)),
        "region_image": tiles // (GRID * GRID),
        "region_boxes": boxes.astype(np.float32),
        "region_names": tuple(f"tile {r + 1},{c + 1}" for r, c in zip(row, column, strict=True)),
    }
    return AuditResult(**(entries | changes))


def make_film(index: int) -> NDArray[np.uint8]:
    """A film that is wider than high, bright in the middle, with a bright square."""
    y, x = np.mgrid[0:SIDE, 0 : SIDE + 40]
    film = 200 * np.exp(-(((x - 140) / 90) ** 2) - ((y - 120) / 80) ** 2) + 20
    place = 20 + 13 * index % 180
    film[place : place + 22, place : place + 22] = 250
    return film.astype(np.uint8)


@pytest.fixture(scope="session")
def result_of() -> Callable[..., AuditResult]:
    return make_result


@pytest.fixture(scope="session")
def film() -> Callable[[int], NDArray[np.uint8]]:
    return make_film


@pytest.fixture(scope="session")
def details() -> ReportDetails:
    return ReportDetails(
        date="2025-03-01",
        config_yaml="name: sample-run\ncohort:\n  manifest: <manifest>\n" + "a: 1\n" * 60,
        versions={"ravl-med": "0.1.0", "numpy": "2.1.0"},
        digests={"model": "ab12" * 16, "manifest": "cd34" * 16},
        seeds={"discovery": 0, "evidence": 7},
        thresholds={"largest tolerated gap": "10 points", "smallest influence H": "0.25"},
    )
