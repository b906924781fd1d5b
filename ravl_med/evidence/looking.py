"""Whether a model looks at the film: other films in its place, its evidence covered, other words.

A model that answers from the question alone answers every film alike. It is asked about a blank
film, about noise, and about the film of another patient with the same label and with another one.
Where the answers stay whatever film is shown, and no finding is distinguished better than by
chance, the model ignores the film and nothing else is worth a look. A model that always calls one
class but tells films by its margins does look.

Two quantities say what it looks at, on films that are called rightly: the share of calls that
persist when all places where the finding shows are covered (a direct shortcut), and the share that
fall when the places of other findings are (a contextual one).

References
----------
SHOVIR (arXiv 2606.30201): direct and contextual shortcuts of report generators by occlusion.
"Vision-language models for chest radiography do not always need the image" (arXiv 2606.17710).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ravl_med.config.audit import EvidenceConfig
from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.audit_result import LookingCell, LookingCheck, Regrounding, Rewording
from ravl_med.evidence.changed_films import cover_places
from ravl_med.evidence.counterfactual import CounterfactualModel
from ravl_med.evidence.counterfactual.localisation import RelevanceTable, RelevantPlaces
from ravl_med.evidence.dependence import LEAST_FILMS, FilmSample, draw_sample, read_changed_films
from ravl_med.evidence.model_checks import class_scores
from ravl_med.evidence.results import UNKNOWN, Interval
from ravl_med.evidence.statistics import auroc, auroc_interval, percentile_interval

STAYS = 0.9
"""Share of the answers that stay, whatever is shown, from which a model ignores the film."""

Picture = NDArray[np.float32]  # (3, S, S)
Ask = Callable[[Iterable[Picture]], NDArray[np.float32]]  # pictures to logits (n, C)
_NAN = math.nan
_GRAY = 0.5
_NONE = RelevantPlaces()


def most_looking_pictures(films: int, wordings: int = 0) -> int:
    """Return how many pictures `measure_looking` has the model answer about, at most."""
    return films * (4 + wordings)


def measure_looking(
    model: CounterfactualModel,
    data: AuditData,
    relevance: RelevanceTable,
    evidence: EvidenceConfig,
    *,
    wordings: Mapping[str, Ask] | None = None,
    blind: NDArray[np.float32] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LookingCheck | None:
    """Measure on a sample of the films whether, and where, the model looks.

    Parameters
    ----------
    wordings : mapping of str to function - the questions in other words, with what is answered
    blind : ndarray of shape (C,), or None - logits without any film, by the question alone

    Returns
    -------
    LookingCheck or None - None where fewer than `LEAST_FILMS` films could be taken
    """
    sample = draw_sample(data, relevance, evidence, evidence.looking_films)
    if len(sample.films) < LEAST_FILMS:
        return None
    steps = 2 + len(wordings or {})
    progress(0, steps)
    plain = replace(model, structures=None)  # whole films need none, and they take long
    logits = model.known_logits(len(data.labels))[sample.films]
    shown = {
        "the film": logits,
        **_other_films(sample, logits),
        **_no_films(plain, sample),
        **({} if blind is None else {"the question alone": np.tile(blind, (len(logits), 1))}),
    }
    progress(1, steps)
    conditions = [_measure_condition(sample, name, own, logits) for name, own in shown.items()]
    grounding = _measure_grounding(model, sample, relevance, logits)
    progress(2, steps)
    said = []
    for done, (wording, ask) in enumerate((wordings or {}).items(), start=3):
        again = ask(film.picture for film in read_changed_films(plain, sample))
        said.append(_measure_wording(sample, wording, again, logits))
        progress(done, steps)
    sentence = _ignores(sample, conditions, logits)
    every = np.ones(len(sample.films), dtype=np.bool_)
    return LookingCheck(
        *sample.count(every), tuple(conditions), tuple(grounding), tuple(said), sentence
    )


def _other_films(sample: FilmSample, logits: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return the logits of other patients' films in place of each, NaN where there is none."""
    rng = np.random.default_rng([sample.evidence.seed, 51])
    apart = sample.patients[:, None] != sample.patients[None]
    alike = sample.labels[:, None] == sample.labels[None]
    swapped = {}
    for name, wanted in (("same label", apart & alike), ("another label", apart & ~alike)):
        chance = np.where(wanted, rng.random(wanted.shape), -1.0)
        best = chance.argmax(axis=1)
        found = wanted[np.arange(len(best)), best]
        swapped[f"another patient, {name}"] = np.where(
            found[:, None], logits[best], np.float32(_NAN)
        )
    return swapped


def _no_films(model: CounterfactualModel, sample: FilmSample) -> dict[str, NDArray[np.float32]]:
    """Return the logits of films of one gray, and of noise."""
    seed = sample.evidence.seed

    def blank() -> Iterator[Picture]:
        for film in read_changed_films(model, sample):
            yield film.with_gray(np.full(film.inside.shape, _GRAY))

    def noise() -> Iterator[Picture]:
        for film in read_changed_films(model, sample):
            rng = np.random.default_rng([seed, 52, film.number])
            yield film.with_gray(rng.random(film.inside.shape))

    return {"a blank film": model.logits(blank()), "noise": model.logits(noise())}


def _measure_condition(
    sample: FilmSample, name: str, shown: NDArray[np.float32], before: NDArray[np.float32]
) -> LookingCell:
    """Compare what is answered, to the label of the film and to what is answered to it."""
    known = np.asarray(np.isfinite(shown).all(axis=1), dtype=np.bool_)
    films, patients = sample.count(known)
    if films < LEAST_FILMS:
        note = f"fewer than {LEAST_FILMS} films"
        return LookingCell(name, films, patients, _NAN, UNKNOWN, _NAN, _NAN, UNKNOWN, note)
    called = np.where(known, np.nan_to_num(shown, nan=-np.inf).argmax(axis=1), -1)
    right, same = called == sample.labels, called == before.argmax(axis=1)
    scores = class_scores(shown[known].astype(np.float64), 1.0)
    areas = [auroc(scores[:, c], sample.labels[known] == c) for c in sample.findings]
    finite = [area for area in areas if math.isfinite(area)]
    return LookingCell(
        condition=name,
        films=films,
        patients=patients,
        accuracy=float(right[known].mean()),
        accuracy_interval=_share_interval(sample, known, right),
        auroc=float(np.mean(finite)) if finite else _NAN,
        unchanged=float(same[known].mean()),
        unchanged_interval=_share_interval(sample, known, same),
    )


def _share_interval(
    sample: FilmSample, known: NDArray[np.bool_], hit: NDArray[np.bool_]
) -> Interval:
    draws = sample.bootstrap.proportions(known[:, None], hit)[:, 0]
    return percentile_interval(draws, sample.evidence.confidence)


@dataclass(frozen=True, slots=True)
class _Covering:
    """What is covered on films of a finding: its own places, or those of other findings."""

    kind: str
    finding: int
    cover: RelevantPlaces
    spare: RelevantPlaces  # that stays whatever is covered


def _measure_grounding(
    model: CounterfactualModel,
    sample: FilmSample,
    relevance: RelevanceTable,
    logits: NDArray[np.float32],
) -> list[Regrounding]:
    """Cover places of findings on films that are called rightly, and see which calls stay."""
    if model.structures is None:
        return []
    places = {c: relevance.find(sample.data.classes[c]) for c in range(len(sample.data.classes))}
    known = {c: own for c, own in places.items() if own is not None}
    coverings = [
        covering
        for finding, own in known.items()
        for covering in (
            _Covering("direct", finding, own, _NONE),
            _Covering("contextual", finding, _joined(known, finding), own),
        )
    ]
    right = (logits.argmax(axis=1) == sample.labels) & np.isin(sample.labels, list(known))
    rows = np.flatnonzero(right)
    covered: list[tuple[int, int]] = []

    def pictures() -> Iterator[Picture]:
        films = read_changed_films(model, sample, rows)
        for row, film in zip(rows.tolist(), films, strict=True):
            for number, covering in enumerate(coverings):
                own = sample.labels[row] == covering.finding
                made = cover_places(film, covering.cover, covering.spare) if own else None
                if made is not None:
                    covered.append((row, number))
                    yield made[0]

    called = model.logits(pictures()).argmax(axis=1)
    at = np.array(covered, dtype=np.int64).reshape(-1, 2)
    return [
        _measure_covering(sample, covering, at[at[:, 1] == n, 0], called[at[:, 1] == n])
        for n, covering in enumerate(coverings)
    ]


def _joined(known: Mapping[int, RelevantPlaces], finding: int) -> RelevantPlaces:
    """Return the places of all other findings."""
    others = [places for c, places in known.items() if c != finding]
    return RelevantPlaces(
        tuple(dict.fromkeys(name for one in others for name in one.anatomy)),
        tuple(dict.fromkeys(box for one in others for box in one.boxes)),
        any(one.artifacts for one in others),
    )


def _measure_covering(
    sample: FilmSample,
    covering: _Covering,
    rows: NDArray[np.int64],  # (m,) films that were covered
    called: NDArray[np.int64],  # (m,)
) -> Regrounding:
    name = sample.data.classes[covering.finding]
    known = np.zeros(len(sample.films), dtype=np.bool_)
    hit = np.zeros_like(known)
    known[rows] = True
    stays = called == covering.finding
    hit[rows] = stays if covering.kind == "direct" else ~stays
    films, patients = sample.count(known)
    if films < LEAST_FILMS // 2:
        note = f"fewer than {LEAST_FILMS // 2} films"
        return Regrounding(name, covering.kind, films, patients, _NAN, UNKNOWN, note)
    share = float(hit[rows].mean())
    return Regrounding(
        name, covering.kind, films, patients, share, _share_interval(sample, known, hit)
    )


def _measure_wording(
    sample: FilmSample, wording: str, again: NDArray[np.float32], before: NDArray[np.float32]
) -> Rewording:
    same = again.argmax(axis=1) == before.argmax(axis=1)
    every = np.ones(len(same), dtype=np.bool_)
    one, other = (class_scores(x.astype(np.float64), 1.0) for x in (before, again))
    related = [
        float(np.corrcoef(one[:, c], other[:, c])[0, 1])
        for c in sample.findings
        if one[:, c].std() > 0 and other[:, c].std() > 0
    ]
    return Rewording(
        wording=wording,
        unchanged=float(same.mean()),
        unchanged_interval=_share_interval(sample, every, same),
        correlation=float(np.mean(related)) if related else _NAN,
    )


def _ignores(
    sample: FilmSample, conditions: Sequence[LookingCell], logits: NDArray[np.float32]
) -> str:
    """Say that the model ignores the film; blank where it does not."""
    shown = _in_place_of_films(conditions)
    if not all(cell.unchanged_interval.low >= STAYS for cell in shown):  # NaN is not
        return ""
    scores, labels = class_scores(logits.astype(np.float64), 1.0), sample.labels
    confidence = 1 - (1 - sample.evidence.confidence) / max(len(sample.findings), 1)
    areas = {
        c: auroc_interval(scores[:, c], labels == c, sample.patients, confidence)
        for c in sample.findings
    }
    if any(area.low > 0.5 for area in areas.values()):
        return ""
    return sentence_of_ignoring(conditions)


def _in_place_of_films(conditions: Sequence[LookingCell]) -> list[LookingCell]:
    by_name = {cell.condition: cell for cell in conditions}
    return [by_name[name] for name in ("another patient, another label", "a blank film", "noise")]


def sentence_of_ignoring(conditions: Sequence[LookingCell]) -> str:
    """Say that a model ignores the film, by what it answers when something else is shown."""
    swapped, blank, noise = _in_place_of_films(conditions)
    return (
        f"Ignores the film: {100 * swapped.unchanged:.0f} % of the answers stay when another "
        f"patient's film with another label is shown ({100 * swapped.unchanged_interval.low:.0f} % "
        f"to {100 * swapped.unchanged_interval.high:.0f} %), {100 * blank.unchanged:.0f} % with a "
        f"blank film, {100 * noise.unchanged:.0f} % with noise, and no finding is distinguished "
        "better than by chance. The answers come from elsewhere: the question, or what the model "
        "was trained on. The usual cure: a model that was trained on images of this kind; its "
        "processor and chat template."
    )
