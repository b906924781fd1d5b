"""The films of a synthetic cohort: splits, findings, the planted feature's contingency table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product

import numpy as np
from numpy.typing import NDArray
from scipy.stats.contingency import association

from ravl_med.phantoms.devices import BASE_RATE, FEATURES
from ravl_med.phantoms.dicom import MAKERS, Acquisition
from ravl_med.phantoms.film import FINDINGS

SPLITS: dict[str, float] = {"finetune": 5 / 11, "validation": 3 / 11, "test": 3 / 11}
FILMS_A_PATIENT = (0.65, 0.25, 0.10)  # one, two, three films
PATIENT_TRAITS = ("generator", "tube")
BYSTANDER_PHI = {"finetune": 0.0, "validation": 0.8, "test": 0.8}
"""Phi of the bystander and the planted feature within every class; 0 lays it on half the films."""
SITES = ("A", "B", "C")
MAKERS_AT_SITE = ((0.5, 0.2, 0.2, 0.1), (0.15, 0.45, 0.15, 0.25), (0.2, 0.15, 0.4, 0.25))

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FilmPlan:
    """One film before it is rendered."""

    image: int
    split: str
    finding: str
    features: tuple[str, ...]  # devices and letters on it
    acquisition: Acquisition


def cramers_v(target: Bools, feature: Bools) -> float:
    """Return Cramér's V of two flags (N,), signed by direction; 0 where either is constant."""
    table = np.array([[np.sum((target == a) & (feature == b)) for b in (0, 1)] for a in (0, 1)])
    if not (table.sum(axis=0).all() and table.sum(axis=1).all()):
        return 0.0
    strength = float(association(table, method="cramer", correction=False))
    lower = table[0, 0] * table[1, 1] < table[0, 1] * table[1, 0]
    return -strength if lower else strength


def _halve(films: Ints, members: Ints, rng: np.random.Generator) -> Ints:
    """Choose half of the members, with half of the films as near as patients allow."""
    order = rng.permutation(members)
    order = order[np.argsort(-films[order], kind="stable")]
    chosen: list[int] = []
    surplus = int(rng.integers(2))  # films without the feature less films with it
    for patient in order:
        if surplus > 0 or (surplus == 0 and rng.random() < 0.5):
            chosen.append(int(patient))
            surplus -= 2 * int(films[patient])
        surplus += int(films[patient])
    return np.array(chosen, dtype=np.int64)


def plan_contingency(
    finding: Ints, films: Ints, target: int, strength: float, rng: np.random.Generator
) -> Bools:
    """Decide which patients (P,) carry the planted feature, at a Cramér's V of `strength`.

    Starts from perfect association and moves one patient a class into the other cell, again and
    again, until chi-squared <= V^2 n over the films; the last step may move only some of the
    classes, whichever comes nearest. A strength of 0 gives half of every class the feature.
    `finding` (P,) is the class and `films` (P,) the number of films of each patient; `target` is
    the class that the feature is tied to.
    """
    classes = np.unique(finding)
    members = [np.flatnonzero(finding == k) for k in classes]
    if strength == 0:
        carries: Bools = np.zeros(len(finding), dtype=bool)
        for group in members:
            carries[_halve(films, group, rng)] = True
        return carries
    carries = finding == target
    queues = [list(rng.permutation(group)) for group in members]

    def reached(flags: Bools) -> float:
        return cramers_v(np.repeat(finding == target, films), np.repeat(flags, films))

    while reached(carries) > strength and any(queues):
        movers = [queue.pop() for queue in queues if queue]
        step = carries.copy()
        step[movers] = ~step[movers]
        if reached(step) > strength:
            carries = step
            continue
        tries = []
        for some in product((False, True), repeat=len(movers)):
            trial = carries.copy()
            moved = np.array(movers)[list(some)]
            trial[moved] = ~trial[moved]
            tries.append(trial)
        nearest: Bools = min(tries, key=lambda flags: abs(reached(flags) - strength))
        return nearest
    return carries


def _deal_patients(counts: Sequence[int], rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Return class and number of films of every patient of a split; `counts` are films by class."""
    finding: list[int] = []
    films: list[int] = []
    for kind, count in enumerate(counts):
        left = count
        while left:
            drawn = min(left, 1 + int(rng.choice(3, p=FILMS_A_PATIENT)))
            finding.append(kind)
            films.append(drawn)
            left -= drawn
    order = rng.permutation(len(finding))
    return np.array(finding)[order], np.array(films)[order]


def _draw_films(
    first: int, patient: int, split: str, kind: int, films: int, traits: dict[str, bool], seed: int
) -> list[FilmPlan]:
    """Plan the films of one patient; only features and finding depend on each other."""
    rng = np.random.default_rng([seed, 11, patient])
    sex = "F" if rng.random() < 0.48 else "M"
    age = int(np.clip(rng.normal(60, 16), 20, 92))
    site = int(rng.choice(3, p=(0.45, 0.33, 0.22)))
    own = {name: bool(rng.random() < BASE_RATE[name]) for name in PATIENT_TRAITS}
    day = int(rng.integers(0, 1200))
    plans = []
    for image in range(first, first + films):
        chance = {name: bool(rng.random() < BASE_RATE[name]) for name in FEATURES}
        present = {**chance, **own, **traits}
        features = tuple(name for name in FEATURES if present[name])
        view = "AP" if rng.random() < 0.35 else "PA"
        maker = int(rng.choice(len(MAKERS), p=MAKERS_AT_SITE[site]))
        acquisition = Acquisition(patient, sex, age, view, SITES[site], maker, day, present["text"])
        plans.append(FilmPlan(image, split, FINDINGS[kind], features, acquisition))
        day += int(rng.integers(1, 90))
    return plans


def _add_bystander(
    plans: Sequence[FilmPlan], feature: str, bystander: str, phi: float, rng: np.random.Generator
) -> list[FilmPlan]:
    """Lay a bystander on the films of a split, at a phi with the feature within every class."""
    by_patient = bystander in PATIENT_TRAITS
    units: dict[tuple[str, bool], list[list[int]]] = {}
    for _, group in groupby(plans, key=lambda p: p.acquisition.patient if by_patient else p.image):
        unit = list(group)
        cell = (unit[0].finding, feature in unit[0].features)
        units.setdefault(cell, []).append([plan.image for plan in unit])
    # A class passes its rounding error on to the next one, so that small splits reach phi too.
    owed = {True: 0.0, False: 0.0}
    chosen: set[int] = set()
    for (_, carries), cell_units in sorted(units.items()):
        share = (1 + phi) / 2 if carries else (1 - phi) / 2
        shuffled = [cell_units[i] for i in rng.permutation(len(cell_units))]
        for images in sorted(shuffled, key=len, reverse=True):
            owed[carries] += share * len(images)
            if owed[carries] >= len(images) / 2:
                chosen.update(images)
                owed[carries] -= len(images)
    laid = []
    for plan in plans:
        present = {*plan.features} - {bystander} | ({bystander} if plan.image in chosen else set())
        features = tuple(name for name in FEATURES if name in present)
        acquisition = replace(plan.acquisition, burned_in="text" in present)
        laid.append(replace(plan, features=features, acquisition=acquisition))
    return laid


def plan_cohort(
    images: int,
    feature: str,
    finding: str,
    strength: float,
    seed: int,
    bystander: str | None = None,
) -> list[FilmPlan]:
    """Plan every film of a cohort, by number; the films of a patient follow each other.

    `strength` is the Cramér's V on the fine-tuning films; validation and test films are
    independent. `bystander` goes with the feature on them, see `BYSTANDER_PHI`.
    """
    sizes = {name: round(share * images) for name, share in SPLITS.items()}
    sizes["validation"] = images - sizes["finetune"] - sizes["test"]
    plans: list[FilmPlan] = []
    patient = 1
    for order, (split, size) in enumerate(sizes.items()):
        rng = np.random.default_rng([seed, 10, order])
        base, rest = divmod(size, len(FINDINGS))
        kinds, films = _deal_patients([base + (k < rest) for k in range(len(FINDINGS))], rng)
        asked = strength if split == "finetune" else 0.0
        carries = plan_contingency(kinds, films, FINDINGS.index(finding), asked, rng)
        first = len(plans)
        for kind, count, flag in zip(kinds, films, carries, strict=True):
            traits = {feature: bool(flag)}
            plans += _draw_films(len(plans), patient, split, int(kind), int(count), traits, seed)
            patient += 1
        if bystander is not None:
            own = np.random.default_rng([seed, 12, order])
            phi = BYSTANDER_PHI[split]
            plans[first:] = _add_bystander(plans[first:], feature, bystander, phi, own)
    return plans
