"""Accuracy by acquisition and patient attribute, and a correlation inside their strata.

A feature can be confounded with the view, the scanner or the site. So every attribute is measured
by itself, classes held apart; and every correlation is measured inside each stratum and pooled over
them with the weights of Mantel and Haenszel.

References
----------
Mantel, Haenszel, "Statistical aspects of the analysis of data from retrospective studies of
disease", Journal of the National Cancer Institute 22 (1959).
Greenland, Robins, "Estimation of a common effect parameter from sparse follow-up data", Biometrics
41 (1985), for the risk difference.
Benjamini, Hochberg, "Controlling the false discovery rate", JRSS B 57 (1995).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.stats.contingency import association

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.candidates import FeatureCluster
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.audit_result import Stratum
from ravl_med.evidence.effects import NOT_STATED, age_band
from ravl_med.evidence.permutation import AlikePatients
from ravl_med.evidence.results import UNKNOWN, CrossedAttribute, Interval, Strata, StratumGap
from ravl_med.evidence.statistics import PatientBootstrap, count_patients, percentile_interval

_AXES = ("view", "portable", "manufacturer", "model", "site", "sex", "age", "study_year")
_MAX_VALUES = 12
_MIN_PATIENTS = 5
OTHER_VALUES = "other ("

_NAN = float("nan")


def attribute_strata(attributes: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.str_]]:
    """Return the strata (N,) of view, portable, manufacturer, model, site, sex, age and study year.

    Ages become bands, blanks become a stratum of their own. Where an attribute has very many
    values, the 12 largest stay and the others are pooled as ``other (n values)``: a table of 300
    sites is not read, and costs every other stratum its power. Unknown attributes are left
    aside, since free columns may hold identities.
    """
    return {
        name: np.array(pool_rare(stated_values(name, attributes[name])), dtype=np.str_)
        for name in _AXES
        if name in attributes
    }


def measure_subgroups(
    data: AuditData, evidence: EvidenceConfig, bootstrap: PatientBootstrap
) -> tuple[Stratum, ...]:
    """Measure the accuracy of every stratum against the other films of its attribute.

    The difference is standardised over the classes, so that a stratum with more of the harder
    class does not pose as one in which the model is worse. The films of a comparison are those of
    classes that both sides have. With fewer than `min_n` of them or fewer than 5 patients on
    either side the row stays, marked insufficient and without difference, p and q.

    The q-values are Benjamini-Hochberg over the comparisons and not over the rows: two strata that
    part the films in the same way, such as the two values of an attribute, are one test that both
    rows carry. The bootstrap is of all N films.
    """
    used = data.labels >= 0
    truth, hit, whose = data.labels[used], data.correct[used], data.patients[used]
    rows: list[tuple[Stratum, bytes]] = []
    tests: dict[bytes, NDArray[np.bool_]] = {}
    for attribute, axis in data.attributes.items():
        values, codes = code_values(axis)
        member = (codes[:, None] == np.arange(len(values))) & used[:, None]
        rng = np.random.default_rng([bootstrap.seed, 3])
        shares = _hedge(*_draw_counts(member, data.correct, bootstrap), rng)
        for v, value in enumerate(values):
            inside = member[used, v]
            interval = percentile_interval(shares[:, v], evidence.confidence)
            row = _describe(attribute, value, hit[inside], whose[inside], interval)
            key = np.packbits(inside ^ inside[:1]).tobytes()  # the other side has the same
            if _comparable(inside, truth, whose, evidence.min_n):
                difference = mantel_haenszel(inside, hit, truth)
                row = replace(row, difference=difference, insufficient=False)
                tests.setdefault(key, inside)
            rows.append((row, key))
    if not tests:
        return tuple(row for row, _ in rows)
    alike, draws = AlikePatients.of(whose, truth), evidence.permutations
    p_values = [
        alike.test(side, hit, alternative="two-sided", draws=draws, seed=(evidence.seed, i)).p_value
        for i, side in enumerate(tests.values())
    ]
    p_of = dict(zip(tests, p_values, strict=True))
    q_of = dict(zip(tests, stats.false_discovery_control(p_values).tolist(), strict=True))
    return tuple(
        row if row.insufficient else replace(row, p_value=p_of[key], q_value=q_of[key])
        for row, key in rows
    )


def cross_with_attributes(
    data: AuditData, cluster: FeatureCluster, bootstrap: PatientBootstrap, confidence: float
) -> Strata:
    """Measure the gap of a correlation inside the strata of every attribute of the N films.

    Films without a label are left out, and so is the gap of a lowered class where there is none.
    """
    used, present = data.labels >= 0, cluster.present
    arms = np.column_stack([present, ~present])
    crossed = []
    for attribute, axis in data.attributes.items():
        values, codes = code_values(axis)
        member = codes[:, None] == np.arange(len(values))
        by_name = np.argsort(np.argsort(values))  # so that the axis is not sorted once more
        cells = member[:, :, None] & arms[:, None, :]
        (up, up_gap, up_interval), (down, down_gap, down_interval) = (
            ((), _NAN, UNKNOWN)
            if c is None
            else _class_gaps(
                values,
                cells & (data.labels == c)[:, None, None],
                data.correct,
                bootstrap,
                confidence,
            )
            for c in (cluster.raised_class, cluster.lowered_class)
        )
        crossed.append(
            CrossedAttribute(
                attribute=attribute,
                association=cramers_v(present[used], by_name[codes[used]]),
                raised=up,
                lowered=down,
                raised_adjusted=up_gap,
                raised_interval=up_interval,
                lowered_adjusted=down_gap,
                lowered_interval=down_interval,
                empty=_empty_arms(up, down),
            )
        )
    return Strata(cramers_v(present[used], data.labels[used]), tuple(crossed))


def mantel_haenszel(
    present: NDArray[np.bool_], correct: NDArray[np.bool_], strata: NDArray[np.generic]
) -> float:
    """Return the accuracy with minus without a feature, strata held apart; all arrays are (n,).

    The mean of the differences inside the strata, each weighted by ``n1 n0 / (n1 + n0)`` with n1
    films that hold the feature and n0 that do not. A stratum without one of them has no weight;
    NaN where no stratum has both.
    """
    values, codes = np.unique(strata, return_inverse=True)
    films, hits = np.zeros((2, len(values), 2))
    for arm, member in enumerate((present, ~present)):
        films[:, arm] = np.bincount(codes[member], minlength=len(values))
        hits[:, arm] = np.bincount(codes[member & correct], minlength=len(values))
    return _adjusted_gap(films, hits)


def cramers_v(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    """Return the association of two categories (n,): 0 none, 1 one follows from the other.

    Small tables with many cells look associated by chance: it ranks attributes, it tests nothing.
    0 where one of them is constant or there are no films.
    """
    values, rows = np.unique(a, return_inverse=True)
    others, columns = np.unique(b, return_inverse=True)
    if len(values) < 2 or len(others) < 2:
        return 0.0
    pairs = np.bincount(rows * len(others) + columns, minlength=len(values) * len(others))
    table = pairs.reshape(len(values), len(others))
    return min(1.0, float(association(table, method="cramer", correction=False)))


def stated_values(name: str, values: Sequence[str]) -> list[str]:
    """Return the values of an attribute as they are counted: ages as bands, blanks not stated."""
    stripped = (value.strip() for value in values)
    return [(age_band(v) if name == "age" else v) or NOT_STATED for v in stripped]


def pool_rare(values: Sequence[str]) -> list[str]:
    """Keep the 12 largest values, and the others as one if they are several; blanks stay blank."""
    counts = Counter(value for value in values if value not in ("", NOT_STATED))
    if len(counts) <= _MAX_VALUES + 1:
        return list(values)
    ranked = sorted(counts, key=lambda value: (-counts[value], value))
    pooled = f"{OTHER_VALUES}{len(ranked) - _MAX_VALUES} values)"
    small = set(ranked[_MAX_VALUES:])
    return [pooled if value in small else value for value in values]


def code_values(axis: NDArray[np.str_]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the values, pooled and not stated ones last, and the place of each film's: (N,)."""
    found, codes = np.unique(axis, return_inverse=True)
    values = [str(value) for value in found]
    ordered = sorted(values, key=lambda v: (v == NOT_STATED, v.startswith(OTHER_VALUES), v))
    place = np.array([ordered.index(value) for value in values], dtype=np.int64)
    return tuple(ordered), place[codes]


def _describe(
    attribute: str,
    value: str,
    correct: NDArray[np.bool_],
    patients: NDArray[np.int64],
    interval: Interval,
) -> Stratum:
    """Fill the row of a stratum that is not compared with anything yet."""
    films = len(correct)
    return Stratum(
        attribute=attribute,
        value=value,
        films=films,
        patients=len(np.unique(patients)),
        accuracy=float(correct.mean()) if films else _NAN,
        interval=interval if films else UNKNOWN,
        difference=_NAN,
        p_value=_NAN,
        q_value=_NAN,
        insufficient=True,
    )


def _comparable(
    inside: NDArray[np.bool_],
    labels: NDArray[np.int64],
    patients: NDArray[np.int64],
    min_films: int,
) -> bool:
    """Enough films and patients on both sides, of classes that both sides have."""
    shared = np.isin(labels, np.intersect1d(labels[inside], labels[~inside]))
    return all(
        side.sum() >= min_films and len(np.unique(patients[side])) >= _MIN_PATIENTS
        for side in (inside & shared, ~inside & shared)
    )


def _class_gaps(
    values: Sequence[str],
    cells: NDArray[np.bool_],
    correct: NDArray[np.bool_],
    bootstrap: PatientBootstrap,
    confidence: float,
) -> tuple[tuple[StratumGap, ...], float, Interval]:
    """Gap in each of V strata, and pooled over them; `cells` (N, V, 2) are films of one class."""
    films = cells.sum(axis=0)
    hits = (cells & correct[:, None, None]).sum(axis=0)
    drawn = _draw_counts(cells.reshape(len(cells), -1), correct, bootstrap)
    drawn_films, drawn_hits = (counts.reshape(-1, len(values), 2) for counts in drawn)
    rng = np.random.default_rng([bootstrap.seed, 4])
    inside = -np.diff(_hedge(drawn_films, drawn_hits, rng))[:, :, 0]
    pooled = -np.diff(_hedge(*_standardise(drawn_films, drawn_hits), rng))[:, 0]
    gaps = []
    for v, value in enumerate(values):
        with_it, without = (int(n) for n in films[v])
        gap, interval = _NAN, UNKNOWN
        if with_it and without:
            gap = float(hits[v, 0] / with_it - hits[v, 1] / without)
            interval = percentile_interval(inside[:, v], confidence)
        patients = count_patients(cells[:, v], bootstrap.patients)
        gaps.append(
            StratumGap(value, with_it, without, gap, interval, (int(patients[0]), int(patients[1])))
        )
    adjusted = _adjusted_gap(films.astype(np.float64), hits.astype(np.float64))
    if np.isnan(adjusted):
        return tuple(gaps), adjusted, UNKNOWN
    return tuple(gaps), adjusted, percentile_interval(pooled, confidence)


def _empty_arms(raised: Sequence[StratumGap], lowered: Sequence[StratumGap]) -> tuple[str, ...]:
    """Strata in which a class has nothing to compare, in words: one sentence a stratum."""
    lacks: dict[str, list[str]] = {}
    for side, gaps in (("raised", raised), ("lowered", lowered)):
        for gap in gaps:
            arms = (("with", gap.n_present), ("without", gap.n_absent))
            without_films = [f" {arm} the feature" for arm, films in arms if not films]
            if without_films:
                which = without_films[0] if len(without_films) == 1 else ""
                lacks.setdefault(gap.value, []).append(f"of the {side} class{which}")
    return tuple(f"{value}: no film {', nor '.join(parts)}" for value, parts in lacks.items())


def _draw_counts(
    cells: NDArray[np.bool_], correct: NDArray[np.bool_], bootstrap: PatientBootstrap
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Films and hits of each of M cells in each draw of patients, (draws, M)."""
    both = np.hstack([cells, cells & correct[:, None]])
    films, hits = np.split(bootstrap.totals(both), 2, axis=1)
    return films, hits


def _hedge(
    films: NDArray[np.float64], hits: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Share of hits with a pseudo-success and a pseudo-failure, as `PatientBootstrap` has them."""
    success, failure = rng.poisson(1.0, films.shape), rng.poisson(1.0, films.shape)
    size = films + success + failure
    return np.divide(hits + success, size, out=np.full_like(size, 0.5), where=size > 0)


def _adjusted_gap(films: NDArray[np.float64], hits: NDArray[np.float64]) -> float:
    """Mantel-Haenszel risk difference of counts (V, 2); NaN where no stratum has both arms."""
    size, right = _standardise(films, hits)
    return float(right[0] / size[0] - right[1] / size[1]) if size.all() else _NAN


def _standardise(
    films: NDArray[np.float64], hits: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Films (Kish) and hits (..., 2) of both arms (..., V, 2), all strata weighing the same."""
    total = films.sum(axis=-1, keepdims=True)
    weight = films.prod(axis=-1, keepdims=True) / np.maximum(total, 1)
    each = weight / np.maximum(films, 1)
    sums, spread = weight.sum(axis=-2), (each * weight).sum(axis=-2)
    nothing = np.zeros_like(spread)
    size = np.divide(sums**2, spread, out=nothing.copy(), where=spread > 0)
    share = np.divide((each * hits).sum(axis=-2), sums, out=nothing, where=sums > 0)
    return size, share * size
