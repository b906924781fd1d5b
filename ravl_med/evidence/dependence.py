"""What the answers depend on: structures of the films that are covered, and styles of whole films.

Every film of a sample is changed in some forty ways, and one run of the model on a changed film
answers for all findings at once. The margin of a finding is its logit less the logsumexp of all
others.

A structure is covered by continuing its surroundings into it (`fill_mask_inpaint`). What is larger
than a third of the input, such as everything but the heart, has no surroundings to speak of: it
takes the mean gray of the film. A blurred film in its place would still show how wide the heart is.

A style is no place, and what regions cannot show: exposure or collimation that went with a finding
in training. A fixed step, such as gamma 0.7, says how fragile a model is. It accuses nobody: a step
beyond what the films of a hospital do is nothing that a model has to bear. So four styles are
measured on every film, and every film is brought to a level one standard deviation below the mean
of the films and to one above. A model that follows a style moves in one direction, while a fragile
one scatters. It is a finding where the move exceeds ``evidence.max_style_shift`` with the lower end
of its interval, and where films that differ so by themselves are answered so, labels held apart.
The default, half a standard deviation, is Cohen's medium effect over the middle two thirds of
the films: a sixteenth of the variance of the margin.

References
----------
Cohen, "Statistical Power Analysis for the Behavioral Sciences", 2nd edition (1988).
DeGrave, Janizek, Lee, "AI for radiographic COVID-19 detection selects shortcuts over signal",
Nature Machine Intelligence 3 (2021): borders and exposure as shortcuts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.ravl import AuditData
from ravl_med.encoders.base import EncoderInfo
from ravl_med.evidence.audit_result import (
    Dependence,
    DependenceCell,
    DependenceGroup,
    StyleDependence,
)
from ravl_med.evidence.counterfactual import CounterfactualModel
from ravl_med.evidence.counterfactual.fills import fill_mask_inpaint
from ravl_med.evidence.counterfactual.localisation import RelevanceTable, RelevantPlaces
from ravl_med.evidence.counterfactual.model_inputs import spread_over_patients
from ravl_med.evidence.model_checks import class_scores
from ravl_med.evidence.results import Interval
from ravl_med.evidence.statistics import (
    PatientBootstrap,
    auroc,
    auroc_interval,
    percentile_interval,
)
from ravl_med.regions.film_structures import NOTHING, FilmStructures
from ravl_med.regions.segmenter import LETTERS

LEAST_FILMS = 20
"""Films below which a cell says nothing."""

Picture = NDArray[np.float32]  # (3, S, S) input of the model
Gray = NDArray[np.float64]  # (S, S), 0 is black and 1 is white
Mask = NDArray[np.bool_]  # (S, S)

_NAN = math.nan
_NOTHING = Interval(_NAN, _NAN)
_EDGE = 0.08  # of the film's sides
_LARGE = 1 / 3  # share of the input from which a mask takes the mean
_RIM = 0.03  # of a film's side: an enlarged heart shows at its border
_HALO = 0.015  # a blurred rim of a device is the device
_OUTSIDE = 0.05  # of the range from black to white: what a resize adds
_BLUR, _NOISE = 0.012, 0.05  # sigma as a share of the input's side; standard deviation of the gray
_GAMMAS = (0.7, 1.4)
_SEARCH = math.log(8.0)  # the largest gamma that is looked for
_DARK = 0.02  # of the range, above the darkest of a film: not exposed
_STAYS = 1e-3  # standard deviation below which a style is the same on all films
_ANATOMY = {
    "heart": ("cardiac silhouette",),
    "left lung": ("left lung",),
    "right lung": ("right lung",),
    "mediastinum": ("mediastinum",),
    "diaphragm": ("hemidiaphragms",),
    "background": ("outside the body",),
}
_CAUSES: Mapping[str, Mapping[str, str]] = {
    "exposure": {
        "brightness": "brightness goes from low to high",
        "gamma": "gamma goes from dark to bright",
        "contrast": "contrast goes from low to high",
    },
    "collimation": {"frame": "the dark border goes from narrow to wide"},
}


@dataclass(frozen=True, slots=True, eq=False)
class _Film:
    """A film of the sample as the model reads it."""

    number: int
    picture: Picture
    inside: Mask  # the film; the rest of the input is padding
    structures: FilmStructures
    carry: Callable[[Mask], Mask]  # a mask of the film to its input
    black: NDArray[np.float32]  # (3, 1, 1), what is black in each channel
    white: NDArray[np.float32]

    @property
    def gray(self) -> Gray:
        """The film as gray values; channels of a film differ by scale and offset alone."""
        first = self.picture[0].astype(np.float64)
        gray: Gray = (first - self.black[0]) / (self.white[0] - self.black[0])
        return gray

    def with_gray(self, gray: Gray) -> Picture:
        """Return the picture of other gray values, from black to white; padding stays."""
        bounded = np.clip(gray, 0.0, 1.0).astype(np.float32)
        changed = self.black + bounded * (self.white - self.black)
        picture: Picture = np.where(self.inside, changed, self.picture).astype(np.float32)
        return picture

    def cover(self, mask: Mask) -> Picture:
        """Cover a mask: by its surroundings, or by the mean gray where it is large."""
        mask = mask & self.inside
        if mask.mean() <= _LARGE:
            return fill_mask_inpaint(self.picture, mask)
        return self.with_gray(np.where(mask, self.gray[self.inside].mean(), self.gray))


_Made = tuple[Picture, float]  # and the share of the film that is covered; NaN for a style


@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    """A way to change films; `make` returns None where a film lacks what is to be changed."""

    group: DependenceGroup
    name: str
    findings: tuple[int, ...]  # that it is of interest for
    make: Callable[[_Film], _Made | None]
    steps: float = _NAN  # size in standard deviations over the films


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
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
    structures, styles = len(_ANATOMY) + 4, 2 * len(_GAMMAS) + 5
    return films * (1 + structures + 2 * findings + styles + len(_LEVELS))


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
    sample = _draw_sample(data, relevance, evidence)
    if len(sample.films) < LEAST_FILMS:
        return None
    levels = _StyleLevels.of(model, sample)
    changes = [
        *_structure_changes(sample.findings),
        *_anatomy_changes(data.classes, sample.findings, relevance),
        *_style_changes(sample.findings, levels, evidence.seed),
        *levels.changes(sample.findings),
    ]
    answers, pictures = _ask(model, sample, changes, progress)
    full = answers[0]
    cells = [
        _measure_cell(sample, change, finding, full, after)
        for change, after in zip(changes, answers[1:], strict=True)
        for finding in change.findings
        if change.name not in _LEVELS
    ]
    ends = {
        change.name: after
        for change, after in zip(changes, answers[1:], strict=True)
        if change.name in _LEVELS
    }
    styles = [
        _measure_style(sample, levels, style, finding, (full, ends))
        for style in _STYLES
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


def _draw_sample(data: AuditData, relevance: RelevanceTable, evidence: EvidenceConfig) -> _Sample:
    """Draw films evenly over classes, and over patients within a class."""
    rng = np.random.default_rng([evidence.seed, 23])
    turns, drawn = [], []
    for label in range(len(data.classes)):
        own = np.flatnonzero(data.labels == label)
        if len(own):
            drawn.append(spread_over_patients(own, data.patients, rng))
            turns.append(np.arange(len(own)))
    films = np.concatenate([*drawn, np.empty(0, np.int64)]).astype(np.int64)
    order = np.argsort(np.concatenate([*turns, np.empty(0, np.int64)]), kind="stable")
    films = np.sort(films[order[: evidence.dependence_films]])
    _, patients = np.unique(data.patients[films], return_inverse=True)
    patients = patients.astype(np.int64)
    return _Sample(
        data,
        films,
        data.labels[films],
        patients,
        _findings(data.classes, relevance),
        PatientBootstrap(patients, evidence.draws, evidence.seed),
        evidence,
    )


def _findings(classes: Sequence[str], relevance: RelevanceTable) -> tuple[int, ...]:
    """Return all classes; of two, which mirror each other, the one that shows at a known place.

    Else it is the last, which is the presence of a finding of a multi-label task.
    """
    if len(classes) != 2:
        return tuple(range(len(classes)))
    known = [c for c, name in enumerate(classes) if relevance.find(name) is not None]
    return (known[0] if len(known) == 1 else 1,)


def _read_films(model: CounterfactualModel, sample: _Sample) -> Iterator[_Film]:
    sizes, info = sample.data.sizes, model.encoder.info
    for film in sample.films.tolist():
        geometry = model.encoder.geometry(int(sizes[film][0]), int(sizes[film][1]))
        picture = model.read(film)
        structures = NOTHING if model.structures is None else model.structures(film)
        whole = np.ones(structures.foreign.shape, dtype=np.bool_)
        inside = geometry.mask_to_input(whole)
        black, white = _black_and_white(info, picture)
        yield _Film(film, picture, inside, structures, geometry.mask_to_input, black, white)


def _black_and_white(
    info: EncoderInfo, picture: Picture
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what is black and white in the input, by the normalisation that the model states.

    Where the values of the film do not fit it, they are the darkest and brightest of the film.
    """
    mean, std = (
        np.resize(np.array(v, np.float32), 3)[:, None, None] for v in (info.mean, info.std)
    )
    black, white = -mean / std, (1.0 - mean) / std
    slack = _OUTSIDE * (white - black)
    if np.all(picture >= black - slack) and np.all(picture <= white + slack):
        return black, white
    low, high = (f(axis=(1, 2), keepdims=True) for f in (picture.min, picture.max))
    return low, np.where(high > low, high, low + 1.0).astype(np.float32)


def _ask(
    model: CounterfactualModel,
    sample: _Sample,
    changes: Sequence[_Change],
    progress: Callable[[int, int], None],
) -> tuple[list[_Answers], int]:
    """Ask the model about each film as it is, then about each change; and count the pictures."""
    places: list[tuple[int, int]] = []
    covered = np.full((len(sample.films), len(changes) + 1), np.nan)

    def pictures() -> Iterator[Picture]:
        for row, film in enumerate(_read_films(model, sample)):
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
    sample: _Sample, change: _Change, finding: int, full: _Answers, after: _Answers
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
    areas = _NAN, _NAN, _NOTHING
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
        shift_interval=_NOTHING
        if few
        else percentile_interval(sample.bootstrap.mean(moved), confidence),
        flips=_NAN if few else float(flipped[known].mean()),
        flips_interval=_NOTHING if few else percentile_interval(draws, confidence),
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


def _structure_changes(findings: tuple[int, ...]) -> list[_Change]:
    """Cover each structure of a film, and everything but its border."""
    named = [
        _Change("structure", name, findings, partial(_cover_anatomy, names=names))
        for name, names in _ANATOMY.items()
    ]
    return [
        *named,
        _Change("structure", "text and markers", findings, _cover_letters),
        _Change("structure", "devices", findings, _cover_devices),
        _Change("structure", "border", findings, _cover_border),
        _Change("anatomy", "border alone", findings, _leave_border),
    ]


def _covered(film: _Film, mask: Mask) -> _Made | None:
    """Cover a mask of the film; None where the model sees nothing of it, or nothing else."""
    own = film.carry(mask) & film.inside
    if not own.any() or own.sum() == film.inside.sum():
        return None
    return film.cover(own), float(own.sum() / film.inside.sum())


def _cover_anatomy(film: _Film, names: Sequence[str]) -> _Made | None:
    found = film.structures.region(names)
    return None if found is None else _covered(film, _grow(found, _HALO))


def _cover_letters(film: _Film) -> _Made | None:
    return _covered(film, _grow(_letters(film.structures), _HALO))


def _cover_devices(film: _Film) -> _Made | None:
    other = film.structures.foreign & ~_letters(film.structures, ("border", *LETTERS))
    kinds = {one.kind for one in film.structures.artifacts}
    return _covered(film, _grow(other, _HALO)) if kinds - {"border", *LETTERS} else None


def _cover_border(film: _Film) -> _Made | None:
    return _covered(film, _border(film.structures.foreign.shape))


def _leave_border(film: _Film) -> _Made | None:
    return _covered(film, ~_border(film.structures.foreign.shape))


def _letters(film: FilmStructures, kinds: Sequence[str] = LETTERS) -> Mask:
    """Return the boxes of the artifacts of some kinds."""
    mask = np.zeros_like(film.foreign)
    for one in film.artifacts:
        if one.kind in kinds:
            _add_box(mask, one.box)
    return mask


def _add_box(mask: Mask, box: tuple[float, float, float, float]) -> None:
    """Add a box, xyxy as shares of width and height, to a mask."""
    x0, y0, x1, y1 = np.array(box) * [mask.shape[1], len(mask), mask.shape[1], len(mask)]
    mask[int(y0) : math.ceil(y1), int(x0) : math.ceil(x1)] = True


def _border(shape: tuple[int, ...]) -> Mask:
    mask = np.ones(shape, dtype=np.bool_)
    high, wide = max(1, round(_EDGE * shape[0])), max(1, round(_EDGE * shape[1]))
    mask[high:-high, wide:-wide] = False
    return mask


def _grow(mask: Mask, share: float) -> Mask:
    size = 2 * max(1, round(share * len(mask))) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel) > 0)


def _anatomy_changes(
    classes: Sequence[str], findings: tuple[int, ...], relevance: RelevanceTable
) -> list[_Change]:
    """Cover all places where a finding shows, then all else; findings of the same places once."""
    sharing: dict[RelevantPlaces, list[int]] = {}
    for finding in findings:
        places = relevance.find(classes[finding])
        if places is not None:
            sharing.setdefault(places, []).append(finding)
    return [
        _Change("anatomy", name, tuple(own), partial(_cover_relevant, places=places, all_else=rest))
        for places, own in sharing.items()
        for name, rest in (("relevant covered", False), ("relevant alone", True))
    ]


def _cover_relevant(film: _Film, places: RelevantPlaces, *, all_else: bool) -> _Made | None:
    mask = np.zeros_like(film.structures.foreign)
    if places.anatomy:
        found = film.structures.region(places.anatomy)
        if found is None:
            return None
        mask |= _grow(found, _RIM)
    for box in places.boxes:
        _add_box(mask, box)
    if places.artifacts:
        mask |= _grow(film.structures.foreign, _HALO)
    return _covered(film, ~mask if all_else else mask)


def _style_changes(findings: tuple[int, ...], levels: _StyleLevels, seed: int) -> Iterator[_Change]:
    """Give fixed steps of style; exposure is also said in natural standard deviations."""
    steps: list[tuple[str, Callable[[_Film], Gray], float]] = [
        (f"{style} {size:g}", partial(change, size=size), abs(math.log(size)) / spread)
        for style, change in (("gamma", _raise_gamma), ("contrast", _stretch))
        for size in _GAMMAS
        for spread in (levels.spread[style] if levels.varies(style) else _NAN,)
    ]
    plain: list[tuple[str, Callable[[_Film], Gray]]] = [
        ("blur", _blur),
        ("noise", partial(_add_noise, seed=seed)),
        ("horizontal flip", lambda film: film.gray[:, ::-1]),
        ("border crop", _crop_border),
        ("invert", lambda film: 1.0 - film.gray),
    ]
    for name, change, size in [*steps, *((name, change, _NAN) for name, change in plain)]:
        yield _Change("style", name, findings, partial(_restyle, change=change), size)


def _restyle(film: _Film, change: Callable[[_Film], Gray]) -> _Made:
    return film.with_gray(change(film)), _NAN


def _raise_gamma(film: _Film, size: float) -> Gray:
    raised: Gray = np.clip(film.gray, 0.0, 1.0) ** size
    return raised


def _stretch(film: _Film, size: float) -> Gray:
    mean = film.gray[film.inside].mean()
    stretched: Gray = mean + size * (film.gray - mean)
    return stretched


def _add_noise(film: _Film, seed: int) -> Gray:
    rng = np.random.default_rng([seed, film.number])
    return film.gray + rng.normal(0.0, _NOISE, film.gray.shape)


def _blur(film: _Film) -> Gray:
    sigma = _BLUR * len(film.gray)
    return np.asarray(cv2.GaussianBlur(film.gray, (0, 0), sigma), dtype=np.float64)


def _crop_border(film: _Film) -> Gray:
    """Cut the outermost part of the film off and stretch the rest."""
    x0, y0, x1, y1 = _extent(film.inside)
    gray = film.gray
    cut_x, cut_y = max(1, round(_EDGE * (x1 - x0))), max(1, round(_EDGE * (y1 - y0)))
    kept = gray[y0 + cut_y : y1 - cut_y, x0 + cut_x : x1 - cut_x]
    gray[y0:y1, x0:x1] = cv2.resize(kept, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    return gray


def _extent(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True, slots=True)
class _Style:
    """How a style is measured on gray values inside a film, and brought to a level."""

    measure: Callable[[Gray, Mask, float], float]  # and a mean gray that gamma is measured from
    bring: Callable[[Gray, Mask, float, float, float], Gray]  # from a level to another


def _measure_gamma(gray: Gray, inside: Mask, middle: float) -> float:
    """Return the logarithm of the gamma that gives a film the mean gray `middle`; high is bright.

    NaN where there is none.
    """
    values, counts = np.unique(np.rint(255 * np.clip(gray[inside], 0, 1)), return_counts=True)
    share, low, high = counts / counts.sum(), -_SEARCH, _SEARCH
    for _ in range(30):
        half = (low + high) / 2
        mean = float(share @ (values / 255.0) ** math.exp(half))
        low, high = (half, high) if mean > middle else (low, half)
    return low if abs(low) < 0.99 * _SEARCH else _NAN


def _measure_contrast(gray: Gray, inside: Mask, middle: float) -> float:
    spread = float(gray[inside].std())
    return math.log(spread) if spread > _STAYS else _NAN


def _bring_contrast(gray: Gray, inside: Mask, middle: float, old: float, new: float) -> Gray:
    mean = gray[inside].mean()
    stretched: Gray = mean + math.exp(new - old) * (gray - mean)
    return stretched


def _frame_sides(gray: Gray, inside: Mask) -> tuple[tuple[int, int, int, int], Gray]:
    """Return how many lines of each side are not exposed (top, bottom, left, right), and the film.

    A line is not exposed where it is as dark as the darkest of the film.
    """
    x0, y0, x1, y1 = _extent(inside)
    film = gray[y0:y1, x0:x1]
    dark = film <= film.min() + _DARK
    rows, columns = dark.all(axis=1), dark.all(axis=0)
    ends = [int(np.argmin(line)) for line in (rows, rows[::-1], columns, columns[::-1])]
    return (ends[0], ends[1], ends[2], ends[3]), film


def _measure_frame(gray: Gray, inside: Mask, middle: float) -> float:
    """Return the width of the border that is not exposed, as a share of a film's sides."""
    (top, bottom, left, right), film = _frame_sides(gray, inside)
    return 0.5 * float((top + bottom) / len(film) + (left + right) / film.shape[1])


def _bring_frame(gray: Gray, inside: Mask, middle: float, old: float, new: float) -> Gray:
    """Give every side a border of the same width; what was darker than that mirrors the inside."""
    (top, bottom, left, right), film = _frame_sides(gray, inside)
    high, wide = film.shape
    inner = film[top : high - bottom, left : wide - right]
    whole = np.pad(inner, ((top, bottom), (left, right)), mode="reflect")
    edge_y, edge_x = round(max(new, 0.0) * high), round(max(new, 0.0) * wide)
    framed = np.full_like(film, film.min())
    kept = slice(edge_y, high - edge_y), slice(edge_x, wide - edge_x)
    framed[kept] = whole[kept]
    x0, y0, x1, y1 = _extent(inside)
    made = gray.copy()
    made[y0:y1, x0:x1] = framed
    return made


_STYLES: Mapping[str, _Style] = {
    "brightness": _Style(
        lambda gray, inside, middle: float(gray[inside].mean()),
        lambda gray, inside, middle, old, new: gray + (new - old),
    ),
    "gamma": _Style(
        _measure_gamma,
        lambda gray, inside, middle, old, new: np.clip(gray, 0, 1) ** math.exp(old - new),
    ),
    "contrast": _Style(_measure_contrast, _bring_contrast),
    "frame": _Style(_measure_frame, _bring_frame),
}
_LEVELS = tuple(f"{style} {end}" for style in _STYLES for end in ("low", "high"))


@dataclass(frozen=True, slots=True, eq=False)
class _StyleLevels:
    """The styles of the n films of a sample, and their low and high levels."""

    films: NDArray[np.int64]  # (n,)
    measured: Mapping[str, NDArray[np.float64]]  # (n,) by style; NaN where it has no measure
    middle: float  # median of the mean gray of the films
    spread: Mapping[str, float]

    @classmethod
    def of(cls, model: CounterfactualModel, sample: _Sample) -> _StyleLevels:
        """Measure every film of the sample."""
        plain = CounterfactualModel(
            model.encoder, model.read, model.classes, model.temperature, model.batch_size
        )
        means = [float(film.gray[_exposed(film)].mean()) for film in _read_films(plain, sample)]
        middle = float(np.median(means))
        rows = [
            [style.measure(film.gray, _exposed(film, name), middle)
             for name, style in _STYLES.items()]
            for film in _read_films(plain, sample)
        ]  # fmt: skip
        measured = dict(zip(_STYLES, np.array(rows).T, strict=True))
        spread = {
            name: float(np.nanstd(values)) if np.isfinite(values).any() else 0.0
            for name, values in measured.items()
        }
        return cls(sample.films, measured, middle, spread)

    def varies(self, style: str) -> bool:
        """Whether the films differ in a style."""
        return self.spread[style] > _STAYS

    def level(self, style: str, end: str) -> float:
        """Return the low or the high level of a style."""
        measured = self.measured[style]
        if not np.isfinite(measured).any():
            return _NAN
        side = -1.0 if end == "low" else 1.0
        level = float(np.nanmean(measured)) + side * self.spread[style]
        return max(level, 0.0) if style == "frame" else level

    def changes(self, findings: tuple[int, ...]) -> list[_Change]:
        """Bring every film to either level of every style that varies."""
        return [
            _Change("style", f"{style} {end}", findings, partial(self._bring, style=style, end=end))
            for style in _STYLES
            for end in ("low", "high")
        ]

    def _bring(self, film: _Film, style: str, end: str) -> _Made | None:
        old = float(self.measured[style][np.searchsorted(self.films, film.number)])
        if not (self.varies(style) and math.isfinite(old)):
            return None
        new, inside = self.level(style, end), _exposed(film, style)
        gray = _STYLES[style].bring(film.gray, inside, self.middle, old, new)
        return film.with_gray(gray), _NAN


def _exposed(film: _Film, style: str = "") -> Mask:
    """Return the film without a border that was not exposed; all of it where that is the style."""
    if style == "frame":
        return film.inside
    (top, bottom, left, right), inner = _frame_sides(film.gray, film.inside)
    x0, y0, _, _ = _extent(film.inside)
    mask = np.zeros_like(film.inside)
    high, wide = inner.shape
    mask[y0 + top : y0 + high - bottom, x0 + left : x0 + wide - right] = True
    return mask


def _measure_style(
    sample: _Sample,
    levels: _StyleLevels,
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
    shift_interval = association_interval = _NOTHING
    spread = float(before[known].std()) if films else 0.0
    if films >= LEAST_FILMS and spread > 0:
        confidence, comparisons = sample.evidence.confidence, len(_STYLES) * len(sample.findings)
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
    sample: _Sample,
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
            f"of these films; asked: at most {most:g} (evidence.max_style_shift). Films that "
            "differ so by themselves are answered so (correlation "
            f"{worst.association:.2f} within labels).{also} A radiologist decides."
        )
    return tuple(sentences)
