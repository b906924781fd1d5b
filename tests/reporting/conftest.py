"""A plausible audit, made by hand with numpy alone.

Correlations by rank: 1 a shortcut that counts, with every part of the evidence; 2 a shortcut that
counts, whose removal could not be tried; 3 a confirmed bystander, without an effect in the maps and
so not tested by interventions; 4 raised_only, tested and not used; 5 not confirmed, so without a
counterfactual; 6 rare, confirmed and used, below the gate; 7 not tested; every later one not
confirmed. Labels: of 1 and 6 all read off one section, and
stated; of 2 from several, with a lowered gap that vanishes on stated ones; of 3 and 4 some
uncertain ones of the manifest.
"""

import hashlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ravl_med.config.audit import GateConfig
from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.discovery.clusters import ClusterMap, map_clusters
from ravl_med.evidence.audit_result import (
    Accuracy,
    AuditResult,
    CohortSummary,
    DetectableGap,
    DiscoverySummary,
    FilmAnswers,
    Gate,
    LocalEffectBound,
    ModelSummary,
    PartitionSummary,
    Sensitivity,
    Stratum,
    TaskSummary,
    Verdict,
)
from ravl_med.evidence.results import (
    AccuracyByPresence,
    Confirmation,
    ConfirmationStatus,
    Counterfactual,
    CrossedAttribute,
    EffectShares,
    Interval,
    LabelQuality,
    LabelShare,
    PairedChange,
    Removal,
    ReviewDecision,
    ScoreShift,
    SpuriousCorrelation,
    StatedGap,
    StatedOutcome,
    Strata,
    StratumGap,
)
from ravl_med.evidence.verdict import decide_verdict, open_correlations
from ravl_med.regions.region_set import RegionKind
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.audit.report import write_report

IMAGES, GRID, SIDE = 120, 6, 240
NAMES = ("cardiomegaly", "no finding", "pleural effusion", "pneumothorax", "pneumonia")
GATE = GateConfig()
NAN = float("nan")
NOTHING = Interval(NAN, NAN)

STATUS: dict[int, ConfirmationStatus] = {
    1: "confirmed",
    2: "confirmed",
    3: "confirmed",
    4: "raised_only",
    6: "confirmed",
    7: "not_tested",
}
WHY: dict[ConfirmationStatus, tuple[str, ...]] = {
    "confirmed": (),
    "raised_only": ("The lowered side by itself has p = 0.210, above 0.1 (evidence.side_level).",),
    "not_confirmed": ("q is 0.430, above 0.05 (evidence.fdr).",),
    "not_tested": (
        "Not tested: cardiomegaly has 3 films in the smaller arm on the half it is tested on; "
        "5 are needed (evidence.min_n).",
    ),
}
NO_EFFECT = (
    "An association of the model with its own answer: covering its places on films of the "
    "discovery half moves the margin, beyond films of the same class, by less than the smallest "
    "effect that is counted: 10 % of its spread (evidence.min_effect)."
)
UNUSED = (
    "Removing it is not shown to lower the score, beyond control films, by more than 10 % of its "
    "spread, the smallest effect that counts (evidence.min_effect).",
    "Transplant could not be tried: fewer than 20 films of other classes could be given the "
    "feature and an ordinary place (evidence.min_pairs).",
)
BELOW_GATE = "The gap on cardiomegaly is below 10 points (gate.max_gap)."


def interval(value: float, half: float = 0.06) -> Interval:
    return Interval(max(value - half, 0.0), min(value + half, 1.0))


def around(value: float, half: float) -> Interval:
    return Interval(value - half, value + half)


def cluster_of(rank: int, classes: int) -> FeatureCluster:
    """A cluster in 40 films that raises class 0 and lowers the rest, weaker by rank."""
    rng = np.random.default_rng(rank)
    present_films = rng.permutation(IMAGES)[:40]
    regions = present_films * GRID * GRID + rng.integers(0, GRID * GRID, 40)
    present = np.zeros(IMAGES, dtype=bool)
    present[present_films] = True
    with_it = np.clip(0.3 + 0.02 * np.arange(classes) + 0.004 * rank, 0, 0.6)
    without = np.clip(0.9 - 0.01 * np.arange(classes) - 0.004 * rank, 0.61, 1)
    with_it[0], without[0] = 0.97 - 0.004 * rank, 0.41 + 0.01 * rank
    gap = with_it - without
    lowered = tuple(int(c) for c in np.argsort(gap) if gap[c] < 0)
    rare = rank == 6
    return FeatureCluster(
        cluster=10 + rank,
        regions=regions.astype(np.int64),
        similarity=np.linspace(1, 0.5, 40),
        present=present,
        n_present=np.full(classes, 8 + rank),
        n_absent=np.full(classes, 16),
        accuracy_present=with_it,
        accuracy_absent=without,
        weighted_gap=0.6 * gap,
        performance_gap=float(np.abs(0.6 * gap).sum()),
        influence=float("-inf") if rare else 0.92,
        raised_class=0,
        lowered_classes=lowered,
        opposed_classes=lowered[:2],
        opposed_gap=float(gap[list(lowered[:2])].mean()),
        rare=rare,
    )


def confirmation_of(rank: int, cluster: FeatureCluster) -> Confirmation:
    """The test on the other half, where accuracies lie two points lower."""
    status = STATUS.get(rank, "not_confirmed")
    with_it, without = cluster.accuracy_present - 0.02, cluster.accuracy_absent - 0.02
    opposed = float((with_it - without)[list(cluster.opposed_classes)].mean())
    arms = AccuracyByPresence(
        n_present=cluster.n_present - 1,
        n_absent=cluster.n_absent + 1,
        accuracy_present=with_it,
        accuracy_absent=without,
        present_interval=tuple(interval(float(v)) for v in with_it),
        absent_interval=tuple(interval(float(v), 0.04) for v in without),
        gap_interval=tuple(around(float(g), 0.08) for g in with_it - without),
        opposed_gap=opposed,
        opposed_interval=around(opposed, 0.07),
    )
    p_raised, p_lowered, p_value, q_value = {
        "confirmed": (0.0002 * rank, 0.0011, 0.00004 * rank, 0.0004 * rank),
        "raised_only": (0.0009, 0.21, 0.0021, 0.0063),
        "not_confirmed": (0.34, 0.29, 0.28, 0.43),
        "not_tested": (NAN, NAN, NAN, NAN),
    }[status]
    return Confirmation(
        status=status,
        reasons=WHY[status],
        films=62,
        patients=35,
        p_raised=p_raised,
        p_lowered=p_lowered,
        p_value=p_value,
        q_value=q_value,
        exact=rank % 2 == 1,
        arms=arms,
        shift=ScoreShift(2.4, Interval(1.7, 3.1), 1.9, Interval(1.1, 2.6)),
    )


def paired(change: float, control: float, decisions: float, pairs: int = 23) -> PairedChange:
    return PairedChange(
        pairs=pairs,
        patients=17,
        change=change,
        change_interval=around(change, 0.4),
        control=control,
        contrast=change - control,
        interval=around(change - control, 0.45),
        decisions=decisions,
        decisions_interval=around(decisions, 0.12),
        p_value=0.0004 if change - control > 0.45 else 0.93,
    )


def removal_of(rank: int) -> Removal:
    """Of the second no film could be paired; the third and fourth have no effect."""
    rng = np.random.default_rng(100 + rank)
    unused, tried = rank in (3, 4), rank not in (2, 3)
    effect = rng.normal(0.0, 0.1, 40) if unused else rng.normal(2.9, 0.6, 40)
    effect[35:] = NAN
    first, second, mean = (
        ((0.04, 0.05, 0.0), (0.06, 0.02, 0.0), (0.05, 0.035, 0.0))
        if unused
        else ((2.87, 0.21, 0.61), (2.55, 0.18, 0.57), (2.71, 0.195, 0.59))
    )
    return Removal(
        effect=effect,
        carries=np.nan_to_num(effect) > 1.9,
        threshold=1.9,
        spread=2.4,
        explored=paired(0.06, 0.01, 0.0, 24) if unused else paired(2.2, 0.3, 0.5, 24),
        typical=paired(*first) if tried else None,
        replaced=paired(*second) if tried else None,
        both=paired(*mean) if tried else None,
        wrong_calls=paired(2.9, 0.3, 0.42, 12) if rank in (1, 6) else None,
        called=0.02 if unused else 0.35,
        imbalance=0.04 if tried else NAN,
        sharper=0.86 if tried else NAN,
        shares=None if unused else EffectShares(0.03, Interval(0.01, 0.08), 0.92, 32, 0),
    )


def counterfactual_of(rank: int) -> Counterfactual | None:
    """What the maps and the interventions say of a confirmed correlation."""
    if STATUS.get(rank, "not_confirmed") not in ("confirmed", "raised_only"):
        return None
    shown_by = {1: ("removal", "transplant"), 2: ("transplant",), 6: ("removal",)}.get(rank, ())
    return Counterfactual(
        removal=removal_of(rank),
        transplant=paired(1.94, 0.12, 0.38) if rank in (1, 2) else None,
        used=bool(shown_by),
        reasons={3: (NO_EFFECT,), 4: UNUSED}.get(rank, ()),
        p_value={1: 0.0008, 2: 0.0008, 4: 1.0, 6: 0.0008}.get(rank, NAN),
        q_value={1: 0.0011, 2: 0.0011, 4: 1.0, 6: 0.0011}.get(rank, NAN),
        shown_by=shown_by,
        tested=rank != 3,
    )


def strata_of(rank: int) -> Strata | None:
    """A tested correlation inside views and sexes; no AP film lacks the feature."""
    if rank not in (1, 2, 6):
        return None
    view = CrossedAttribute(
        attribute="view",
        association=0.41,
        raised=(
            StratumGap("AP", 6, 0, NAN, NOTHING),
            StratumGap("PA", 9, 14, 0.52, Interval(0.28, 0.71)),
        ),
        lowered=(
            StratumGap("AP", 5, 4, -0.55, Interval(-0.9, -0.1)),
            StratumGap("PA", 7, 11, -0.6, Interval(-0.8, -0.33)),
        ),
        raised_adjusted=0.52,
        raised_interval=Interval(0.28, 0.71),
        lowered_adjusted=-0.58,
        lowered_interval=Interval(-0.77, -0.35),
        empty=("AP: no film of cardiomegaly without the feature",),
    )
    sex = CrossedAttribute(
        attribute="sex",
        association=0.06,
        raised=(
            StratumGap("F", 8, 7, 0.5, Interval(0.2, 0.75)),
            StratumGap("M", 7, 7, 0.57, Interval(0.25, 0.8)),
        ),
        lowered=(
            StratumGap("F", 6, 8, -0.57, Interval(-0.8, -0.25)),
            StratumGap("M", 6, 7, -0.6, Interval(-0.85, -0.3)),
        ),
        raised_adjusted=0.53,
        raised_interval=Interval(0.33, 0.7),
        lowered_adjusted=-0.58,
        lowered_interval=Interval(-0.75, -0.37),
        empty=(),
    )
    return Strata(label_association=0.08, attributes=(view, sex))


def share_of(value: str, present: int, absent: int) -> LabelShare:
    """Of 40 films with the feature and 80 without it."""
    return LabelShare(value, present, absent, present / 40, absent / 80, (present, absent))


def labels_of(rank: int) -> LabelQuality | None:
    """The labels behind what holds on held-out patients."""
    if STATUS.get(rank, "not_confirmed") not in ("confirmed", "raised_only"):
        return None
    sources, uncertain, blank = {
        2: ((("report: findings and impression", 16, 59), ("report: impression", 24, 21)), 12, 3),
        3: ((("manifest", 40, 80),), 12, 0),
        4: ((("manifest", 40, 80),), 12, 0),
    }.get(rank, ((("report: impression", 40, 80),), 0, 0))
    left = uncertain + blank
    certainty = [("stated", 40 - left, 68 + 12 * (left == 0))]
    certainty += [("uncertain", uncertain, 12 * (left > 0)), ("blank", blank, 0)]
    difference = left / 40 - 12 * (left > 0) / 80
    up, down = ("unchanged", "unchanged") if not left else ("holds", "vanishes")
    outcomes: tuple[StatedOutcome, StatedOutcome] = (up, down) if rank != 3 else (up, up)
    patients = np.array(
        [[[12, left], [18, 6]], [[13, 0], [24, 3]], [[40 - left, 0], [26, 3]]], dtype=np.int64
    )
    return LabelQuality(
        n_present=40,
        n_absent=80,
        sources=tuple(share_of(*source) for source in sources),
        certainty=tuple(share_of(*row) for row in certainty),
        not_stated=share_of("not stated", left, 12 * (left > 0)),
        difference=difference,
        interval=around(difference, 0.013 if not left else 0.17),
        raised=StatedGap(12, 18, 0.47, Interval(0.19, 0.66), outcomes[0]),
        lowered=StatedGap(9, 2, NAN, NOTHING, "insufficient")
        if rank == 4
        else StatedGap(13, 24, -0.03, Interval(-0.26, 0.21), outcomes[1]),
        patients=patients,
    )


def correlation_of(rank: int, classes: int) -> SpuriousCorrelation:
    """The correlation of this rank; see the top of the file."""
    cluster = cluster_of(rank, classes)
    confirmation, counterfactual = confirmation_of(rank, cluster), counterfactual_of(rank)
    counts = rank <= 2
    reasons = confirmation.reasons
    if counterfactual is not None:
        reasons += counterfactual.reasons
    effect = np.full(40, NAN) if counterfactual is None else counterfactual.removal.effect
    return SpuriousCorrelation(
        rank=rank,
        cluster=cluster,
        confirmation=confirmation,
        counterfactual=counterfactual,
        strata=strata_of(rank),
        labels=labels_of(rank),
        kind="shortcut" if counts else "undecided",
        counts=counts,
        reasons=(*reasons, BELOW_GATE) if rank == 6 else reasons,
        also=(3, 47) if rank == 1 else (),
        order=np.argsort(np.where(np.isfinite(effect), -effect, np.inf), kind="stable"),
    )


def gates_of(found: int) -> tuple[Gate, ...]:
    return (
        Gate("gate.min_films", True, "the smallest class has 24 films; at least 20 are needed"),
        Gate(
            "gate.max_gap",
            not found,
            f"{found} shortcuts with a gap of 10 points or more; none is tolerated",
        ),
        Gate(
            "gate.max_local_effect",
            True,
            "accuracy that a local feature may cost which was not named: 4.3 points; at most 6",
        ),
    )


def subgroups() -> tuple[Stratum, ...]:
    """Accuracy by view and sex; of lateral films there are too few to say anything."""
    return (
        Stratum("view", "AP", 40, 25, 0.61, Interval(0.47, 0.74), -0.17, 0.012, 0.036, False),
        Stratum("view", "LL", 3, 2, NAN, NOTHING, NAN, NAN, NAN, True),
        Stratum("view", "PA", 77, 45, 0.79, Interval(0.7, 0.87), 0.16, 0.018, 0.036, False),
        Stratum("sex", "F", 61, 36, 0.72, Interval(0.61, 0.82), -0.02, 0.77, 0.77, False),
        Stratum("sex", "M", 59, 34, 0.75, Interval(0.64, 0.85), 0.02, 0.77, 0.77, False),
    )


def sensitivity(found: int) -> Sensitivity:
    return Sensitivity(
        power=0.8,
        simulations=200,
        candidates=max(found, 1),
        detectable=(
            DetectableGap(0.05, NAN, 0.31),
            DetectableGap(0.1, 0.34, 0.99),
            DetectableGap(0.2, 0.22, 1.0),
            DetectableGap(0.5, 0.18, 1.0),
        ),
        clusters=20,
        tested=14,
        untested={"in every film": 1, "fewer than 5 films with it": 5},
        local=LocalEffectBound(0.043, 0.043, 0.031, 12, 110, 37),
    )


def make_map(found: Sequence[SpuriousCorrelation], clusters: int = 20) -> ClusterMap:
    """Clusters in eight directions or so, few of them large; those of correlations among them."""
    rng = np.random.default_rng(8)
    clusters = max(clusters, *(entry.cluster.cluster + 1 for entry in found), 0)
    centres = rng.normal(size=(8, 24))
    medoids = centres[np.arange(clusters) % 8] + rng.normal(0, 0.6, (clusters, 24))
    medoids /= np.linalg.norm(medoids, axis=1, keepdims=True)
    regions = np.maximum(2000 // np.arange(1, clusters + 1), 12)
    ranks = {entry.cluster.cluster: entry.rank for entry in found}
    return map_clusters(medoids, rng.permutation(regions), ranks)


def shared(films: int, classes: int) -> tuple[int, ...]:
    """Films by class: alike, and what is left in the first."""
    rest = films // classes
    return (films - (classes - 1) * rest, *[rest] * (classes - 1))


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
    found = tuple(correlation_of(rank, C) for rank in range(1, correlations + 1))
    entries: dict[str, Any] = {
        "name": "sample-run",
        "title": "Audit of a chest film model",
        "verdict": Verdict(
            "fail" if found else "pass",
            ("Correlation 1 has a gap of +56 points on cardiomegaly; 10 points are tolerated.",)
            if found
            else ("No correlation counts.",),
            gates_of(min(len(found), 2)),
        ),
        "task": TaskSummary(
            "finding",
            names,
            {name: (f"a chest film with {name}", f"findings of {name}") for name in names},
            0.07,
        ),
        "model": ModelSummary(
            "quickstart-resnet",
            "open_clip CLIP ResNet",
            "ab12" * 16,
            96,
            "squash",
            "layer4",
            12_345_678,
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
            classes_by_attribute={
                "view": {"PA": shared(80, C), "AP": shared(40, C)},
                "sex": {"F": shared(61, C), "M": shared(59, C)},
            },
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
        "discovery": DiscoverySummary(
            protocol="pooled",
            regions=4320,
            regions_unseen=12,
            region_problems={"blank_mask": 3, "no_region": 2},
            region_source="6 x 6 tiles",
            partitions=(
                PartitionSummary(20, 0, 0.213),
                PartitionSummary(20, 1, 0.211),
                PartitionSummary(40, 0, 0.174),
            ),
            left_out={80: "K is above the number of sampled regions (60)"},
            clusters=20,
            survivors=max(len(found) - 1, 0),
            candidates=len(found),
            films=58,
            confirmation_films=62,
            patients=35,
            confirmation_patients=35,
            cluster_map=make_map(found),
        ),
        "correlations": found,
        "descriptions": {
            c.cluster.cluster: f"{90 - c.rank} % pulse generator (right 24 of 25 times)"
            for c in found
        },
        "subgroups": subgroups(),
        "sensitivity": sensitivity(len(found)),
        "image_ids": tuple(f"{i * 2654435761 % 2**48:012x}" for i in range(IMAGES)),
        "region_image": tiles // (GRID * GRID),
        "region_boxes": boxes.astype(np.float32),
        "region_kind": tiles % (GRID * GRID),
        "region_kinds": tuple(
            RegionKind("tiles", f"tile {r + 1},{c + 1}") for r in range(GRID) for c in range(GRID)
        ),
    }
    return AuditResult(**(entries | changes))


def make_stopped() -> AuditResult:
    """An audit that stopped before discovery: one class has too few films."""
    gate = Gate("gate.min_films", False, "pneumonia has 3 films; at least 20 are needed")
    verdict = Verdict(
        "not_auditable", ("The class pneumonia has 3 films; 20 are needed.",), (gate,)
    )
    return make_result(
        correlations=0, verdict=verdict, discovery=None, subgroups=(), sensitivity=None
    )


def answered(result: AuditResult) -> AuditResult:
    """With labels and answers, a third of them wrong."""
    labels = np.arange(len(result.image_ids)) % len(result.classes)
    called = np.where(np.arange(len(labels)) % 3 == 1, 0, labels)
    return replace(
        result, answers=FilmAnswers(labels, called, np.full(len(labels), 0.8, np.float32))
    )


def decided(result: AuditResult, **changes: Any) -> AuditResult:
    """With the verdict and the open points that the audit itself makes of what was found."""
    result = replace(result, **changes)
    assert result.sensitivity is not None
    verdict = decide_verdict(
        result.correlations, result.classes, GATE, result.sensitivity, rulings=result.rulings
    )
    asked = tuple(entry.rank for entry in open_correlations(result.correlations, GATE))
    return replace(result, verdict=verdict, to_decide=result.to_decide or asked)


def make_verdicts() -> dict[str, AuditResult]:
    """An audit of each verdict."""
    few, blind = make_result(correlations=3), sensitivity(1)
    assert blind.local is not None
    tolerated = tuple(
        ReviewDecision(rank, "accepted", "2027-06-30", "Watched.", "Dr. A", "2026-11-25", True)
        for rank in (1, 2)
    )
    idle = tuple(replace(entry, counts=False) for entry in few.correlations)
    untested = (*idle[:2], replace(idle[2], counterfactual=None))
    blind = replace(blind, local=replace(blind.local, points=0.093))
    return {
        "fail": decided(answered(make_result(correlations=7, to_decide=(1, 2, 3)))),
        "conditional": decided(answered(make_result(correlations=2)), rulings=tolerated),
        "review": decided(few, correlations=untested),
        "pass": decided(few, correlations=idle),
        "not_auditable": decided(make_result(correlations=0), sensitivity=blind),
    }


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
def full_result() -> AuditResult:
    """Every kind of correlation, seven in all; each has a page, as a reviewer is asked."""
    return make_result(correlations=7, to_decide=tuple(range(1, 8)))


@pytest.fixture(scope="session")
def null_result() -> AuditResult:
    """Nothing found, with what could have been found."""
    return make_result(correlations=0)


@pytest.fixture(scope="session")
def stopped_result() -> AuditResult:
    """Not auditable: no discovery, no correlation, no subgroups, no sensitivity."""
    return make_stopped()


@pytest.fixture(scope="session")
def verdict_results() -> dict[str, AuditResult]:
    """An audit of each verdict, by its name."""
    return make_verdicts()


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


@pytest.fixture(scope="session")
def report_of(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[AuditResult, ReportDetails], Path]:
    """The folder with the report of an audit: the same one is drawn once, and only to be read."""
    drawn: dict[bytes, Path] = {}

    def draw(result: AuditResult, details: ReportDetails) -> Path:
        key = hashlib.sha256(pickle.dumps((result, details))).digest()
        if key not in drawn:
            folder = tmp_path_factory.mktemp("report")
            write_report(result, make_film, details, folder)
            drawn[key] = folder
        return drawn[key]

    return draw
