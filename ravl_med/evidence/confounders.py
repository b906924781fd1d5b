"""Confounders in plain sight: attributes of acquisition and patient that go with the label.

Where every PA film is one of the ward, a model may read the view in place of the disease, and no
audit on these films can tell. That is seen in the tables, without a model. Each patient counts
once: films share its weight.

References
----------
Bergsma, "A bias-correction for Cramer's V and Tschuprow's T", Journal of the Korean Statistical
Society 42 (2013).
Nadeau, Bengio, "Inference for the generalization error", Machine Learning 52 (2003): how much
wider an interval is whose folds learn from the same films.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ravl_med.config.audit import EvidenceConfig
from ravl_med.evidence.audit_result import AttributeValue, Confounder, Verdict
from ravl_med.evidence.disclosure_control import hidden_cells, hide_confounder
from ravl_med.evidence.effects import NOT_STATED
from ravl_med.evidence.results import Interval
from ravl_med.evidence.statistics import PatientBootstrap, count_patients, percentile_interval
from ravl_med.evidence.subgroups import OTHER_VALUES, code_values, pool_rare, stated_values

_FOLDS, _DRAWS = 5, 2_000
_WIDER = (1 + _FOLDS / (_FOLDS - 1)) ** 0.5  # folds share what they learn from
_MOST = 0.5  # of the variance of the label, or of the patients of a class
_MIN_PATIENTS = 5
_SENTENCES_SHOWN = 3
_NAMES = {"model": "scanner model", "study_year": "study year", "age": "age band"}
_NAMES["pixels"] = "pixel processing"
_UNSEEN = ("label source", "label certainty")  # no film shows them, so no model reads them off it


def measure_confounders(
    attributes: Mapping[str, Sequence[str]],  # (N,) each, blank where not stated
    labels: NDArray[np.int64],  # (N,), -1 where a film has none
    patients: NDArray[np.int64],  # (N,)
    classes: Sequence[str],
    evidence: EvidenceConfig,
    least: int = 0,
) -> tuple[Confounder, ...]:
    """Measure how far each attribute goes with the label, the closest first.

    An attribute is a confounder, and has a sentence, where the films leave hardly anything to tell
    it from the label: the lower end of Cramer's V says that it explains more than half of the
    variance of the label; or values under which a class always (or never) occurs, more often than
    chance allows, hold more than half of the patients of the class (or of the others). Chance is
    an exact binomial bound, with Bonferroni over all attributes, values and classes.

    `least` is the smallest number of patients that a sentence may name; 0 hides nothing.
    """
    used = np.flatnonzero(labels >= 0)
    _, unit = np.unique(patients[used], return_inverse=True)
    left_out, tables = [], []
    for name, values in attributes.items():
        stated = stated_values(name, [values[i] for i in used.tolist()])
        why = _unfit(stated, labels[used], int(unit.max(initial=-1)) + 1)
        if why:
            left_out.append(Confounder(name, why))
            continue
        axis = np.array(pool_rare(stated), dtype=np.str_)
        tables.append(_Crossed.of(name, axis, labels[used], unit, len(classes)))
    tests = sum(table.cells.size * (1 + (len(classes) > 2)) for table in tables)
    found = [_measure(table, classes, evidence, tests, least) for table in tables]
    return (*sorted(found, key=lambda one: (not one.sentence, -one.association)), *left_out)


def confounder_reasons(confounders: Sequence[Confounder]) -> tuple[str, ...]:
    """Return the sentences of the closest confounders, and one that names the others."""
    named = [one for one in confounders if one.sentence]
    rest = ", ".join(attribute_name(one.attribute) for one in named[_SENTENCES_SHOWN:])
    more = (f"Other attributes that give away the label: {rest}.",) if rest else ()
    return (*(one.sentence for one in named[:_SENTENCES_SHOWN]), *more)


def with_confounders(verdict: Verdict, confounders: Sequence[Confounder]) -> Verdict:
    """Return a verdict that names the confounders: they keep a pass away, and a person decides."""
    named = confounder_reasons(confounders)
    if not named:
        return verdict
    if verdict.name in ("pass", "conditional"):
        return replace(verdict, name="review", reasons=(*named, *verdict.reasons))
    return replace(verdict, reasons=(*verdict.reasons[:1], *named, *verdict.reasons[1:]))


def attribute_name(attribute: str) -> str:
    """Return an attribute as it is called in a sentence."""
    return _NAMES.get(attribute, attribute.replace("_", " "))


def _films_of_value(attribute: str, value: str) -> str:
    """``PA film`` or ``film of manufacturer X``: what comes after *every* or *no*."""
    name = attribute_name(attribute)
    if value == NOT_STATED:
        return f"film without a stated {name}"
    if value.startswith(OTHER_VALUES):
        return f"film of a rarer {name}"
    text = _printed(value)
    return f"{text} film" if attribute == "view" else f"film of {name} {text}"


def _printed(value: str) -> str:
    """Leave out of a manifest's value what a terminal would act on."""
    return "".join(char for char in value if char.isprintable())[:40]


def _unfit(axis: Sequence[str], labels: NDArray[np.int64], patients: int) -> str:
    """Say why an attribute cannot be measured; blank where it can."""
    values, kinds = len(set(axis)), len(np.unique(labels))
    if kinds < 2:
        return "the films are not of two classes"
    if values < 2:
        return "one value"
    if patients < 2 * _FOLDS:
        return f"fewer than {2 * _FOLDS} patients"
    return "most patients have a value of their own" if 2 * values > patients else ""


@dataclass(frozen=True, slots=True, eq=False)
class _Crossed:
    """An attribute against the label on n labelled films, V values and C classes."""

    attribute: str
    values: tuple[str, ...]
    codes: NDArray[np.int64]  # (n,)
    labels: NDArray[np.int64]  # (n,)
    patients: NDArray[np.int64]  # (n,), 0 .. P - 1
    cells: NDArray[np.int64]  # (V, C) patients
    of_value: NDArray[np.int64]  # (V,) patients
    of_class: NDArray[np.int64]  # (2, C) patients with a film of the class; of another class

    @classmethod
    def of(
        cls,
        attribute: str,
        axis: NDArray[np.str_],
        labels: NDArray[np.int64],
        patients: NDArray[np.int64],
        classes: int,
    ) -> _Crossed:
        values, codes = code_values(axis)
        member = codes[:, None] == np.arange(len(values))
        own = labels[:, None] == np.arange(classes)
        by_class = [count_patients(member & own[:, [c]], patients) for c in range(classes)]
        return cls(
            attribute,
            values,
            codes,
            labels,
            patients,
            np.stack(by_class, axis=1),
            count_patients(member, patients),
            np.stack([count_patients(own, patients), count_patients(~own, patients)]),
        )

    @property
    def size(self) -> int:
        """P, the number of patients."""
        return int(self.patients.max()) + 1

    def chance(self, tests: int, least: int) -> NDArray[np.float64]:
        """Return p (2, V, C) that a class always, or never, occurs; NaN where it does neither.

        A patient with films of several classes counts as one of each: p is rather too large.
        """
        never = self.cells == 0
        always = never.sum(axis=1, keepdims=True) - never == self.cells.shape[1] - 1
        share = self.of_class / self.size
        p = np.minimum(share[:, None, :] ** self.of_value[:, None] * tests, 1.0)
        pure = np.stack([always, never if len(share[0]) > 2 else np.zeros_like(never)])
        fit = pure & (self.of_value >= max(least, _MIN_PATIENTS))[:, None]
        return np.where(fit, p, np.nan)


def _measure(
    table: _Crossed, classes: Sequence[str], evidence: EvidenceConfig, tests: int, least: int
) -> Confounder:
    confidence = evidence.confidence
    once, twice, aurocs = _draw(table, evidence.seed)
    known = np.isfinite(aurocs[0])
    best = int(np.nanargmax(aurocs[0]))
    mean = aurocs[:, known].mean(axis=1)
    ends = [percentile_interval(draws[1:], confidence) for draws in (twice, once)]
    interval = _holding(once[0], Interval(ends[0].low, ends[1].high))
    p_values = table.chance(tests, least)
    one = Confounder(
        attribute=table.attribute,
        association=float(once[0]),
        interval=interval,
        auroc=float(mean[0]),
        auroc_interval=_holding(mean[0], percentile_interval(mean[1:], confidence)),
        finding=classes[best],
        finding_auroc=float(aurocs[0, best]),
        finding_interval=_holding(
            aurocs[0, best], percentile_interval(aurocs[1:, best], confidence, int(known.sum()))
        ),
        strongest=_strongest(table, p_values, classes, 1 - confidence, least),
        patients=table.cells,
    )
    explained = interval.low**2 > _MOST
    if table.attribute in _UNSEEN or not (explained or _holds_most(table, p_values, confidence)):
        return one
    few = hidden_cells(table.of_value.tolist(), least)
    shown = hide_confounder(one, [table.values[v] for v in few], least)
    return replace(one, sentence=_sentence(shown, one, inseparable=explained))


def _holding(value: float, interval: Interval) -> Interval:
    return Interval(min(float(value), interval.low), max(float(value), interval.high))


def _draw(
    table: _Crossed, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Measure V, corrected once and twice, and the AUROC of each class (1 + B, C).

    The first row is of the films, the others are of B draws. A draw carries chance twice, of the
    sample and of its own: with both corrected V ends low enough, with one high enough. A draw also
    holds two patients or so in whom attribute and label are independent, so that a table without
    an exception still has an interval.
    """
    size, rows, columns = table.size, *table.cells.shape
    kinds = int(table.cells.any(axis=0).sum())  # classes that there are films of
    rng = np.random.default_rng([seed, 7])
    first = np.zeros(size, dtype=np.int64)
    first[table.patients[::-1]] = table.labels[::-1]
    fold = np.empty(size, dtype=np.int64)  # of each patient, the classes spread evenly
    fold[np.lexsort((rng.random(size), first))] = np.arange(size) % _FOLDS
    weight = (1.0 / np.bincount(table.patients))[table.patients].astype(np.float32)
    place = fold[table.patients] * rows + table.codes
    member = np.zeros((len(place), _FOLDS * rows), dtype=np.float32)
    member[np.arange(len(place)), place] = weight
    bootstrap = PatientBootstrap(table.patients, _DRAWS, seed)

    def totals(columns: NDArray[np.float32]) -> NDArray[np.float64]:
        drawn = np.vstack([columns.sum(axis=0, dtype=np.float64), bootstrap.totals(columns)])
        return drawn.reshape(-1, _FOLDS, rows)

    everyone = totals(member)
    by_value = everyone.sum(axis=1)
    phi, aurocs = np.full(1 + _DRAWS, -1.0), np.full((1 + _DRAWS, columns), np.nan)
    for c in range(columns):
        own = totals(member * (table.labels == c)[:, None])
        of_class = own.sum(axis=(1, 2))
        inside = own.sum(axis=1) ** 2 / np.maximum(by_value, 1e-9)
        phi += inside.sum(axis=1) / np.maximum(of_class, 1e-9)
        aurocs[:, c] = _fold_auroc(own, np.maximum(everyone - own, 0.0))
    pseudo = rng.poisson(2.0, 1 + _DRAWS)
    pseudo[0] = 0
    kept = size / (size + pseudo)
    once, twice = (_corrected(phi * kept**2, rows, kinds, times / (size - 1)) for times in (1, 2))
    aurocs = 0.5 + (aurocs - 0.5) * kept[:, None]
    wider = aurocs[0] + _WIDER * (aurocs - aurocs[0])
    return once, twice, np.clip(wider, 0.0, 1.0)


def _corrected(
    phi: NDArray[np.float64], rows: int, columns: int, chance: float
) -> NDArray[np.float64]:
    """Return Bergsma's V of mean square contingencies, with 1 / (P - 1) as `chance`."""
    sides = [k - 1 - chance * (k - 1) ** 2 for k in (rows, columns)]
    share = (phi - chance * (rows - 1) * (columns - 1)) / max(min(sides), 1e-9)
    corrected: NDArray[np.float64] = np.sqrt(np.clip(share, 0.0, 1.0))
    return corrected


def _fold_auroc(own: NDArray[np.float64], rest: NDArray[np.float64]) -> NDArray[np.float64]:
    """AUROC (B,) inside folds, of counts (B, F, V), scored by the class's share in the others."""
    held, others = own[0], rest[0]
    share = held.sum() / (held.sum() + others.sum())
    train, train_rest = held.sum(axis=0) - held, others.sum(axis=0) - others
    score = (train + share) / (train + train_rest + 1.0)
    above = score[:, :, None] - score[:, None, :]
    wins = 0.5 + 0.5 * np.sign(np.where(np.abs(above) < 1e-9, 0.0, above))
    pairs = (own.sum(axis=2) * rest.sum(axis=2)).sum(axis=1)
    won = np.einsum("bfv,fvw,bfw->b", own, wins, rest, optimize=True)
    area: NDArray[np.float64] = np.full_like(won, np.nan)
    np.divide(won, pairs, out=area, where=pairs > 0)
    return area


def _holds_most(table: _Crossed, p_values: NDArray[np.float64], confidence: float) -> bool:
    """Return whether values with always (never) a class hold most patients of it (the others)."""
    for kind, (of_class, p) in enumerate(zip(table.of_class, p_values, strict=True)):
        for c in np.flatnonzero((p < 1 - confidence).any(axis=0)):
            meant = (table.labels == c) == (kind == 0)
            inside = meant & (p[table.codes, c] < 1 - confidence)
            held = len(np.unique(table.patients[inside]))
            if _binomial_low(np.array(held), of_class[c], confidence) > _MOST:
                return True
    return False


def _strongest(
    table: _Crossed, p_values: NDArray[np.float64], classes: Sequence[str], level: float, least: int
) -> AttributeValue | None:
    """Find the value and class that chance explains least; always or never before any other."""
    enough = table.of_value >= max(least, _MIN_PATIENTS)
    if not enough.any():
        return None
    n = table.of_value[:, None]
    bound = _binomial_low(table.cells, n, 1 - level)
    excess = bound - table.of_class[0] / table.size
    order = np.where(enough[:, None], excess, -np.inf)
    p = np.nan
    pure = next((kind for kind in p_values if (kind < level).any()), None)  # always, or never
    if pure is not None:
        order = -np.nan_to_num(pure, nan=np.inf)
        p = float(-order.max())
    v, c = divmod(int(order.argmax()), order.shape[1])
    elsewhere, own = table.codes != v, table.labels == c
    of = len(np.unique(table.patients[elsewhere]))
    return AttributeValue(
        value=table.values[v],
        finding=classes[c],
        patients=int(table.of_value[v]),
        with_finding=int(table.cells[v, c]),
        elsewhere=len(np.unique(table.patients[elsewhere & own])) / of if of else float("nan"),
        p_value=p,
    )


def _binomial_low(
    count: NDArray[np.int64], of: NDArray[np.int64], confidence: float
) -> NDArray[np.float64]:
    """Return the exact lower end of the interval of a share (Clopper and Pearson)."""
    low = stats.beta.ppf(0.5 - confidence / 2, np.maximum(count, 1), of - count + 1)
    return np.where(count > 0, low, 0.0)


def _sentence(shown: Confounder, one: Confounder, *, inseparable: bool) -> str:
    """Say in one line for a reader of films that an attribute gives away the label."""
    name = attribute_name(one.attribute)
    text, strongest = f"{name.capitalize()} alone gives away the label", one.strongest
    if strongest is not None and shown.strongest is not None:
        counts = f"{strongest.with_finding} of {strongest.patients} patients"
        hidden = shown.strongest.patients < 0
        if np.isfinite(strongest.p_value):
            which = "every" if strongest.with_finding else "no"
            film = _films_of_value(one.attribute, strongest.value)
            text += f": {which} {film} is labelled {strongest.finding}"
            text += "" if hidden else f" ({counts})"
        elif not hidden:
            text += (
                f": with {name} {_printed(strongest.value)}, {counts} are labelled "
                f"{strongest.finding}, of the others {100 * strongest.elsewhere:.0f} %"
            )
    if np.isfinite(shown.association):
        v = f"{shown.association:.2f} ({shown.interval.low:.2f} to {shown.interval.high:.2f})"
        text += f"; Cramér's V {v}, where 1 is inseparable"
    perfect = one.patients is not None and (np.count_nonzero(one.patients, axis=1) == 1).all()
    nearly = "" if perfect else "nearly "
    follows = f"With label and {name} {nearly}inseparable" if inseparable else "Where that holds"
    return (
        f"{text}. {follows}, no audit on these films can tell a shortcut on {name} from the "
        "disease."
    )
