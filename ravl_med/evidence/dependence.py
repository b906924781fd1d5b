"""What the answers depend on: structures of the films that are covered, and styles of whole films.

Every film of a sample is changed in some forty ways, and one run of the model on a changed film
answers for all findings at once. The margin of a finding is its logit less the logsumexp of all
others.

Exposure or collimation that went with a finding in training is no place, and regions cannot show
it. A fixed step of style accuses nobody: a step beyond what the films of a hospital do is nothing
that a model has to bear. Over the natural spread of a style, a model that follows it moves in one
direction, while a fragile one scatters. It is a finding where the move exceeds
``evidence.max_style_shift`` with the lower end of its interval, and where films that differ so by
themselves are answered so, labels held apart. The default, half a standard deviation, is Cohen's
medium effect over the middle two thirds of the films: a sixteenth of the variance of the margin.

References
----------
Cohen, "Statistical Power Analysis for the Behavioral Sciences", 2nd edition (1988).
DeGrave, Janizek, Lee, "AI for radiographic COVID-19 detection selects shortcuts over signal",
Nature Machine Intelligence 3 (2021): borders and exposure as shortcuts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.audit_result import Dependence, DependenceCell, StyleDependence
from ravl_med.evidence.changed_films import (
    STYLE_ENDS,
    STYLES,
    Change,
    ChangedFilm,
    Picture,
    StyleLevels,
    anatomy_changes,
    black_and_white,
    most_changes,
    structure_changes,
    style_changes,
)
from ravl_med.evidence.counterfactual import CounterfactualModel
from ravl_med.evidence.counterfactual.localisation import RelevanceTable
from ravl_med.evidence.counterfactual.model_inputs import spread_over_patients
from ravl_med.evidence.model_checks import class_scores
from ravl_med.evidence.results import UNKNOWN
from ravl_med.evidence.statistics import (
    PatientBootstrap,
    auroc,
    auroc_interval,
    percentile_interval,
)
from ravl_med.regions.film_structures import NOTHING

LEAST_FILMS = 20
"""Films below which a cell says nothing."""

_NAN = math.nan
_CAUSES: Mapping[str, Mapping[str, str]] = {
    "exposure": {
        "brightness": "brightness goes from low to high",
        "gamma": "gamma goes from dark to bright",
        "contrast": "contrast goes from low to high",
    },
    "collimation": {"frame": "the dark border goes from narrow to wide"},
}


@dataclass(frozen=True, slots=True, eq=False)
class FilmSample:
    """The n films that are changed, and what is known of them."""

    data: AuditData
    films: NDArray[np.int64]  # (n,)
    labels: NDArray[np.int64]  # (n,)
    patients: NDArray[np.int64]  # (n,) 0 .. P - 1
    findings: tuple[int, ...]
    bootstrap: PatientBootstrap
    evidence: EvidenceConfig

    def count(self, known: NDArray[np.bool_]) -> tuple[int, int]:
        """Return the number of films (n,) that are known, and of their patients."""
        return int(known.sum()), len(np.unique(self.patients[known]))


@dataclass(frozen=True, slots=True, eq=False)
class _Answers:
    """What the model says of the n films, changed in one way; NaN and -1 where it was not asked."""

    margin: NDArray[np.float64]  # (n, C)
    called: NDArray[np.int64]  # (n,)
    covered: float = _NAN  # mean share of the film


def most_dependence_pictures(films: int, findings: int) -> int:
    """Return how many pictures `measure_dependence` has the model encode, at most."""
    return films * (1 + most_changes(findings))


def measure_dependence(
    model: CounterfactualModel,
    data: AuditData,
    relevance: RelevanceTable,
    evidence: EvidenceConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Dependence | None:
    """Measure what the answers about each finding depend on, on a sample of the films.

    Returns
    -------
    Dependence or None - None where fewer than `LEAST_FILMS` films could be taken
    """
    sample = draw_sample(data, relevance, evidence, evidence.dependence_films)
    if len(sample.films) < LEAST_FILMS:
        return None
    plain = replace(model, structures=None)  # styles need none, and they take long
    levels = StyleLevels.of(sample.films, partial(read_changed_films, plain, sample))
    changes = [
        *structure_changes(sample.findings),
        *anatomy_changes(data.classes, sample.findings, relevance),
        *style_changes(sample.findings, levels, evidence.seed),
        *levels.changes(sample.findings),
    ]
    answers, pictures = _ask(model, sample, changes, progress)
    full = answers[0]
    cells = [
        _measure_cell(sample, change, finding, full, after)
        for change, after in zip(changes, answers[1:], strict=True)
        for finding in change.findings
        if change.name not in STYLE_ENDS
    ]
    ends = {
        change.name: after
        for change, after in zip(changes, answers[1:], strict=True)
        if change.name in STYLE_ENDS
    }
    styles = [
        _measure_style(sample, levels, style, finding, (full, ends))
        for style in STYLES
        for finding in sample.findings
    ]
    return Dependence(
        *sample.count(np.ones(len(sample.films), dtype=np.bool_)),
        pictures=pictures,
        max_style_shift=evidence.max_style_shift,
        cells=tuple(cells),
        styles=tuple(styles),
        findings=describe_styles(styles, evidence.max_style_shift),
    )


def draw_sample(
    data: AuditData, relevance: RelevanceTable, evidence: EvidenceConfig, most: int
) -> FilmSample:
    """Draw films, at most so many, evenly over classes, and over patients within a class."""
    rng = np.random.default_rng([evidence.seed, 23])
    turns, drawn = [], []
    for label in range(len(data.classes)):
        own = np.flatnonzero(data.labels == label)
        if len(own):
            drawn.append(spread_over_patients(own, data.patients, rng))
            turns.append(np.arange(len(own)))
    films = np.concatenate([*drawn, np.empty(0, np.int64)]).astype(np.int64)
    order = np.argsort(np.concatenate([*turns, np.empty(0, np.int64)]), kind="stable")
    films = np.sort(films[order[:most]])
    _, patients = np.unique(data.patients[films], return_inverse=True)
    patients = patients.astype(np.int64)
    return FilmSample(
        data,
        films,
        data.labels[films],
        patients,
        _findings(data.classes, relevance),
        PatientBootstrap(patients, evidence.draws, evidence.seed),
        evidence,
    )


def _findings(classes: Sequence[str], relevance: RelevanceTable) -> tuple[int, ...]:
    """Return all classes; of two mirrored ones that with a known place, else the last."""
    if len(classes) != 2:
        return tuple(range(len(classes)))
    known = [c for c, name in enumerate(classes) if relevance.find(name) is not None]
    return (known[0] if len(known) == 1 else 1,)


def read_changed_films(
    model: CounterfactualModel, sample: FilmSample, rows: NDArray[np.int64] | None = None
) -> Iterator[ChangedFilm]:
    """Give the films of a sample, all or some rows of it, as they can be changed."""
    sizes, info = sample.data.sizes, model.encoder.info
    for film in (sample.films if rows is None else sample.films[rows]).tolist():
        geometry = model.encoder.geometry(int(sizes[film][0]), int(sizes[film][1]))
        picture = model.read(film)
        structures = NOTHING if model.structures is None else model.structures(film)
        whole = np.ones(structures.foreign.shape, dtype=np.bool_)
        inside = geometry.mask_to_input(whole)
        black, white = black_and_white(info, picture)
        yield ChangedFilm(film, picture, inside, structures, geometry.mask_to_input, black, white)


def _ask(
    model: CounterfactualModel,
    sample: FilmSample,
    changes: Sequence[Change],
    progress: Callable[[int, int], None],
) -> tuple[list[_Answers], int]:
    """Ask the model about each film as it is, then about each change; and count the pictures."""
    places: list[tuple[int, int]] = []
    covered = np.full((len(sample.films), len(changes) + 1), np.nan)

    def pictures() -> Iterator[Picture]:
        for row, film in enumerate(read_changed_films(model, sample)):
            progress(row, len(sample.films))
            places.append((row, 0))
            yield film.picture
            for column, change in enumerate(changes, start=1):
                made = change.make(film)
                if made is not None:
                    places.append((row, column))
                    covered[row, column] = made[1]
                    yield made[0]

    logits = model.logits(pictures())
    progress(len(sample.films), len(sample.films))
    scores = class_scores(logits, 1.0)
    margin = np.full((*covered.shape, scores.shape[1]), np.nan)
    called = np.full(covered.shape, -1, dtype=np.int64)
    row, column = np.array(places).T
    margin[row, column] = scores
    finite = np.isfinite(logits).all(axis=1)
    called[row, column] = np.where(finite, np.nan_to_num(logits, nan=-np.inf).argmax(axis=1), -1)
    margin[called < 0] = np.nan
    answers = []
    for at in range(covered.shape[1]):
        shares = covered[:, at][np.isfinite(covered[:, at])]
        share = float(shares.mean()) if len(shares) else _NAN
        answers.append(_Answers(margin[:, at], called[:, at], share))
    return answers, len(places)


def _measure_cell(
    sample: FilmSample, change: Change, finding: int, full: _Answers, after: _Answers
) -> DependenceCell:
    """Compare the answers about a finding before and after a change."""
    old, new = full.margin[:, finding], after.margin[:, finding]
    known = np.isfinite(old) & np.isfinite(new)
    films, patients = sample.count(known)
    confidence = sample.evidence.confidence
    member = sample.labels == finding
    flipped = (full.called == finding) != (after.called == finding)
    spread = float(old[known].std()) if films else _NAN
    few = films < LEAST_FILMS or not spread > 0
    moved = np.where(known, new - old, np.nan) / (_NAN if few else spread)
    draws = sample.bootstrap.proportions(known[:, None], flipped)[:, 0]
    areas = _NAN, _NAN, UNKNOWN
    if not few:
        own, whose = member[known], sample.patients[known]
        interval = auroc_interval(new[known], own, whose, confidence)
        areas = auroc(old[known], own), auroc(new[known], own), interval
    note = f"fewer than {LEAST_FILMS} films" if films < LEAST_FILMS else ""
    return DependenceCell(
        finding=sample.data.classes[finding],
        group=change.group,
        change=change.name,
        films=films,
        patients=patients,
        covered=after.covered,
        steps=change.steps,
        shift=_NAN if few else float(np.nanmean(moved)),
        shift_interval=UNKNOWN
        if few
        else percentile_interval(sample.bootstrap.mean(moved), confidence),
        flips=_NAN if few else float(flipped[known].mean()),
        flips_interval=UNKNOWN if few else percentile_interval(draws, confidence),
        auroc_before=areas[0],
        auroc_after=areas[1],
        auroc_interval=areas[2],
        correlation=_NAN if few else _correlate(old[known], new[known]),
        note=note or ("all films are answered alike" if few else ""),
    )


def _correlate(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Pearson's correlation; NaN where one of the two is constant."""
    if a.std() == 0 or b.std() == 0:
        return _NAN
    return float(np.corrcoef(a, b)[0, 1])


def _measure_style(
    sample: FilmSample,
    levels: StyleLevels,
    style: str,
    finding: int,
    answers: tuple[_Answers, Mapping[str, _Answers]],  # of the films as they are; by level
) -> StyleDependence:
    """Measure how far a style moves a finding over its natural spread, and whether it does."""
    full, ends = answers
    before, measured = full.margin[:, finding], levels.measured[style]
    low, high = (ends[f"{style} {end}"].margin[:, finding] for end in ("low", "high"))
    known = np.isfinite(before) & np.isfinite(low) & np.isfinite(high)
    films, patients = sample.count(known)
    shift = association = _NAN
    shift_interval = association_interval = UNKNOWN
    spread = float(before[known].std()) if films else 0.0
    if films >= LEAST_FILMS and spread > 0:
        confidence, comparisons = sample.evidence.confidence, len(STYLES) * len(sample.findings)
        moved = np.where(known, high - low, np.nan) / spread
        shift = float(np.nanmean(moved))
        shift_interval = percentile_interval(sample.bootstrap.mean(moved), confidence, comparisons)
        association, draws = _associate(sample, known, measured, before)
        association_interval = percentile_interval(draws, confidence, comparisons)
    least = min(abs(shift_interval.low), abs(shift_interval.high))
    same_way = shift_interval.excludes_zero() and association_interval.excludes_zero()
    return StyleDependence(
        finding=sample.data.classes[finding],
        style=style,
        films=films,
        patients=patients,
        spread=levels.spread[style],
        low=levels.level(style, "low"),
        high=levels.level(style, "high"),
        shift=shift,
        shift_interval=shift_interval,
        association=association,
        association_interval=association_interval,
        exceeds=same_way and least > sample.evidence.max_style_shift and shift * association > 0,
    )


def _associate(
    sample: FilmSample,
    known: NDArray[np.bool_],
    style: NDArray[np.float64],
    margin: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64]]:
    """Correlate style and margin within labels; also over draws of patients."""
    x, y = np.where(known, style, 0.0), np.where(known, margin, 0.0)
    for label in np.unique(sample.labels[known]):
        own = known & (sample.labels == label)
        x[own] -= x[own].mean()
        y[own] -= y[own].mean()
    drawn = sample.bootstrap.totals(np.column_stack([x * y, x * x, y * y]))
    whole = np.array([[x @ y, x @ x, y @ y]])
    with np.errstate(invalid="ignore", divide="ignore"):
        r, draws = (sums[:, 0] / np.sqrt(sums[:, 1] * sums[:, 2]) for sums in (whole, drawn))
    return float(r[0]), draws


def describe_styles(styles: Sequence[StyleDependence], most: float) -> tuple[str, ...]:
    """Return a sentence for exposure and one for collimation, where a finding depends on it.

    One cause moves several findings; the one that follows it most stands for all.
    """
    sentences = []
    for cause, names in _CAUSES.items():
        found = [one for one in styles if one.exceeds and one.style in names]
        if not found:
            continue
        worst = max(found, key=lambda one: (round(abs(one.association), 2), abs(one.shift)))
        others = len({one.finding for one in found}) - 1
        also = f" It moves {others} more." if others else ""
        ends = sorted((abs(worst.shift_interval.low), abs(worst.shift_interval.high)))
        sentences.append(
            f"{worst.finding} depends on {cause}: its margin "
            f"{'rises' if worst.shift > 0 else 'falls'} by {abs(worst.shift):.2f} standard "
            f"deviations ({ends[0]:.2f} to {ends[1]:.2f}) as {names[worst.style]} over the spread "
            f"of these films; allowed: at most {most:g} (evidence.max_style_shift). Films that "
            "differ so by themselves are answered so (correlation "
            f"{worst.association:.2f} within labels).{also} A radiologist decides."
        )
    return tuple(sentences)
