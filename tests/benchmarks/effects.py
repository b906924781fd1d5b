"""What the search finds that starts from effects, and whether the verdict tells models apart.

Every model learned something that its number draws (`drawn_models`), or nothing of the kind. It is
examined as an audit does it: effect maps, clusters and effects propose, held-out patients confirm,
interventions test, a verdict is decided.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ravl_med.config.loading import Config
from ravl_med.discovery.clusters import propose_clusters
from ravl_med.encoders.base import Encoder
from ravl_med.evaluation.methods import our_ranking
from ravl_med.evaluation.settings import relevance_of, setting_config
from ravl_med.evaluation.small_models import RegionEvidence
from ravl_med.evaluation.trial import score_ranking
from ravl_med.evidence.audit_result import Sensitivity
from ravl_med.evidence.counterfactual import CounterfactualModel
from ravl_med.evidence.counterfactual.localisation import RelevanceTable
from ravl_med.evidence.dependence import measure_dependence
from ravl_med.evidence.examination import (
    InterventionTools,
    assess_correlations,
    confirm_correlations,
    map_films,
    propose_features,
)
from ravl_med.evidence.model_checks import class_scores
from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.evidence.statistics import auroc_interval
from ravl_med.evidence.verdict import decide_verdict
from ravl_med.pipeline.stages import structure_reader
from ravl_med.regions.segmenter import built_in_segmenter
from ravl_med.storage.cache import Cache
from tests.benchmarks.drawn_models import (
    POOLS,
    UNSEEN,
    Drawing,
    DrawnModel,
    Kind,
    make_drawn_model,
    open_drawn_pool,
)
from tests.benchmarks.processes import side_by_side
from tests.benchmarks.runner import Page, Part, Setup, silent
from tests.benchmarks.tables import Column, Row, Table, bullets, exact_interval, yes_no

_KNOWN = 0.55  # AUROC that every finding has to be above, as gate.min_auroc has it
_ON = 0.5  # share of the first ten boxes that lie on what was drawn, from which it is named


@dataclass(slots=True)
class _Counted:
    """An encoder that counts the pictures it is given."""

    encoder: Encoder
    pictures: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Count and encode."""
        self.pictures += len(images)
        return self.encoder.encode_image(images)


def examine(model: DrawnModel, cache: Cache, *, styles: bool = False) -> dict[str, Any]:
    """Examine a model as an audit does; return the verdict and what it names."""
    evidence, drawing = model.evidence, model.drawing
    config = setting_config({name: (name,) for name in evidence.classes}, drawing.number % 1000)
    own = config.evidence.model_copy(update={"max_pairs": 50, "dependence_films": 200})
    counted = _Counted(model.encoder)
    encoder: Any = counted
    pixels = evidence.films.pixels
    structures = structure_reader(
        built_in_segmenter(),
        lambda film: pixels[film].astype(np.float32) / np.float32(255.0),
        cache=cache,
        held=None,
    )
    tested = evidence.counterfactual_model(encoder, structures)
    begun = time.perf_counter()
    correlations, sensitivity = _search(
        evidence, tested, config.model_copy(update={"evidence": own})
    )
    took, pictures = time.perf_counter() - begun, counted.pictures
    found: tuple[str, ...] = ()
    if styles:
        dependence = measure_dependence(tested, evidence.data, _relevance(evidence.classes), own)
        found = () if dependence is None else dependence.findings
    verdict = decide_verdict(correlations, evidence.classes, config.gate, sensitivity, styles=found)
    assert sensitivity.local is not None
    return {
        **_describe(model),
        "verdict": verdict.name,
        **_named(model, correlations),
        "tested": sum(bool(c.counterfactual and c.counterfactual.tested) for c in correlations),
        "associations": sum(
            c.confirmation.status == "confirmed" and not c.counts for c in correlations
        ),
        "bound": sensitivity.local.points,
        "styles": len(found),
        "style_named": any(drawing.finding in text for text in found),
        "pictures": pictures,
        "seconds": round(took, 1),
    }


def _search(
    evidence: RegionEvidence, model: CounterfactualModel, config: Config
) -> tuple[tuple[SpuriousCorrelation, ...], Sensitivity]:
    """Propose, confirm and test; bound what was not named."""
    data, own, gate, discovery = evidence.data, config.evidence, config.gate, config.discovery
    maps = map_films(data, model, own, silent)
    tools = InterventionTools(model, maps, _relevance(evidence.classes), evidence.region)
    proposed = propose_features(data, evidence.region, model, maps[False], own)
    clusters = propose_clusters(
        evidence.region,
        discovery.clusters,
        draws=discovery.draws,
        sample=discovery.sample,
        seed=discovery.seed,
        overlap=discovery.merge_overlap,
    )
    examination = confirm_correlations(data, clusters, discovery, own, gate, silent, proposed)
    correlations = assess_correlations(data, examination.tested, tools, own, gate, silent)
    bound = tools.bound_unnamed(data, examination.half, correlations)
    return correlations, Sensitivity(own.power, 0, 0, (), len(clusters), 0, {}, bound)


def _relevance(classes: Sequence[str]) -> RelevanceTable:
    """Return where classes show: of phantoms, or of radiographs with a finding or without."""
    phantoms = relevance_of("phantoms")
    return phantoms if phantoms.find(classes[0]) else relevance_of("radiographs")


def _describe(model: DrawnModel) -> dict[str, Any]:
    drawing, evidence = model.drawing, model.evidence
    data = evidence.data
    scores = class_scores(np.log(np.maximum(evidence.scores.image, 1e-30)), 1.0)
    lows = [
        auroc_interval(scores[:, c], data.labels == c, data.patients, 0.95).low
        for c in range(len(data.classes))
    ]
    return {
        "number": drawing.number,
        "tower": drawing.tower,
        "what": drawing.what,
        "place": drawing.place,
        "finding": drawing.finding,
        "strength": round(drawing.strength, 2),
        "films": len(data.labels),
        "patients": len(np.unique(data.patients)),
        "accuracy": float(evidence.correct.mean()),
        "knows": bool(min(lows) > _KNOWN),
        "raised_gap": model.gaps[0],
        "lowered_gap": model.gaps[1],
        "shift": [model.shift.low, model.shift.high],
    }


def _named(model: DrawnModel, correlations: Sequence[SpuriousCorrelation]) -> dict[str, Any]:
    """Say what stands on page one, and whether it is what was drawn."""
    items = [c for c in correlations if c.counts and c.kind != "plausible_sign"]
    boxes = model.feature.boxes
    right = []
    for one in items if len(boxes) else ():
        ranked = our_ranking(one, model.evidence)
        precision, *_, same = score_ranking(ranked, [model.feature], model.evidence)
        right.append((precision, bool(same)))
    hits = [precision for precision, same in right if same and precision >= _ON]
    return {
        "items": len(items),
        "shortcuts": sum(c.kind == "shortcut" for c in items),
        "signs": sum(c.counts and c.kind == "plausible_sign" for c in correlations),
        "named": bool(hits),
        "named_first": bool(right) and right[0][1] and right[0][0] >= _ON,
        "precision": max(hits, default=0.0),
        "used": sum(bool(c.counterfactual and c.counterfactual.used) for c in correlations),
    }


def _run(
    number: int, kind: Kind, films: int, cache: Cache, folder: Path | None
) -> dict[str, Any] | None:
    """Make and examine the model of a number; None where its gaps are not those of its kind."""
    pool = open_drawn_pool(number, cache, folder)
    drawing = Drawing.of(number, kind, pool.classes)
    model = make_drawn_model(drawing, pool, cache, films)
    if kind in _KEPT and not _KEPT[kind][0] <= min(model.gaps) < _KEPT[kind][1]:
        return None
    return examine(model, cache, styles=kind in ("style", "clean"))


def measure(kind: Kind, first: int, setup: Setup) -> Iterator[Row]:
    """Make and examine so many models, on as many processes as the machine has cores.

    Weak and small ones, and those on real films, are made until so many have learned it.
    """
    films, folder = setup.size("films"), setup.files.get("films")
    wanted, done = setup.size("models"), 0
    most = wanted * (_MOST_MADE if kind in _KEPT else 1)
    numbers = range(UNSEEN + first, UNSEEN + first + most)
    for number in numbers[:POOLS]:  # the films are made once, not by two processes at a time
        open_drawn_pool(number, setup.cache, folder)
    work = partial(_run, kind=kind, films=films, cache=setup.cache, folder=folder)
    for row in side_by_side(work, numbers):
        if row is not None:
            done += 1
            setup.progress(f"{kind} models", done, wanted)
            yield row
        if done == wanted:
            return


_MOST_MADE = 40  # for each model that is wanted
_WEAK, _MEDIUM, _LARGE = 0.15, 0.25, 0.40  # of both gaps
_LEARNED_GAP = 0.30
_STYLE_GAP = 0.20
_KEPT: Mapping[Kind, tuple[float, float]] = {
    "weak": (_WEAK, _LARGE),
    "small": (_LEARNED_GAP, 2.0),
    "local": (_WEAK, 2.0),
}
"""Smaller gap of a model that is kept, from and below; others are made and not examined."""
_LEAST_SHIFT = 0.1  # standard deviations of the margin


def least_gap(row: Row) -> float:
    """Return the smaller of the two gaps of what was drawn; below 0 where one is not known."""
    gaps = (row["raised_gap"], row["lowered_gap"])
    return min(-1.0 if gap is None else float(gap) for gap in gaps)


def _share(name: str, hits: int, of: int, least: float) -> str:
    if not of:
        return f"{name}: no model"
    low, high = exact_interval(hits, of)
    return (
        f"{name}: {hits} of {of} ({100 * low:.0f} to {100 * high:.0f} %; target: at least "
        f"{100 * least:.0f} %; met: {yes_no(hits >= least * of)})"
    )


def _at_most(name: str, hits: int, of: int, most: float) -> str:
    low, high = exact_interval(hits, of)
    return (
        f"{name}: {hits} of {of} ({100 * low:.0f} to {100 * high:.0f} %; target: at most "
        f"{100 * most:.1f} %; met: {yes_no(hits <= most * of)})"
    )


def _between(rows: Sequence[Row], low: float, high: float) -> list[Row]:
    return [row for row in rows if low <= least_gap(row) < high]


def _used(row: Row) -> bool:
    """Whether painting it moves the margin, by as much as `evidence.min_effect` asks for."""
    return bool(row["shift"][0] >= _LEAST_SHIFT)


def _knowing(rows: Sequence[Row]) -> str:
    """Say how many models an audit would take: what it says of others is `not_auditable`."""
    known = sum(bool(row["knows"]) for row in rows)
    return (
        f"tell every finding from the others: {known} of {len(rows)}. The verdicts below leave "
        "that gate out (`gate.min_auroc`), by which an audit of another is `not auditable` unless "
        "it fails; what is named stands on page one either way"
    )


def _drawn_summary(rows: Sequence[Row]) -> str:
    """Count what is named of what was learned; gaps alone are off by chance."""
    lines = [
        _knowing(rows),
        "painted on films without it, it does not move the margin by 0.1 sd (lower limit), and is "
        f"not counted below: {sum(not _used(row) for row in rows)} of {len(rows)}",
    ]
    rows = [row for row in rows if _used(row)]
    for name, low, high, least in (
        ("weak, both gaps 15 to 25 points", _WEAK, _MEDIUM, 0.7),
        ("medium, 25 to 40 points", _MEDIUM, _LARGE, 0.9),
        ("strong, above 40 points", _LARGE, 2.0, 0.9),
    ):
        own = _between(rows, low, high)
        lines.append(
            _share(f"used and named, {name}", sum(r["named"] for r in own), len(own), least)
        )
    learned = _between(rows, _WEAK, 2.0)
    lines.append(f"named first: {sum(r['named_first'] for r in learned)} of {len(learned)}")
    return bullets([*lines, _items(learned)])


def _items(rows: Sequence[Row]) -> str:
    mean = float(np.mean([row["items"] for row in rows])) if rows else float("nan")
    return f"items for a reviewer, mean: {mean:.1f}"


def _precision(rows: Sequence[Row], least: float) -> str:
    mean = float(np.mean([row["precision"] for row in rows])) if rows else float("nan")
    return (
        f"precision@10 of the fitted boxes, mean: {mean:.2f} (target: at least {least}; met: "
        f"{yes_no(mean >= least)})"
    )


def _learned_summary(rows: Sequence[Row], least: float, wanted: str = "") -> str:
    """Count what is named of what was learned well, and how sharply."""
    own = [row for row in _between(rows, _LEARNED_GAP, 2.0) if _used(row)]
    return bullets(
        [
            _knowing(rows),
            f"both gaps above 30 points: {len(own)} of {len(rows)} models{wanted}",
            _share(
                "right feature and class on page one", sum(r["named"] for r in own), len(own), 1
            ),
            _precision(own, least),
            _items(own),
        ]
    )


def _clean_summary(rows: Sequence[Row]) -> str:
    known = [row for row in rows if row["knows"]]
    least = 0.7 if rows and rows[0]["films"] > 600 else 0.5
    mean = float(np.mean([row["items"] for row in known])) if known else float("nan")
    return bullets(
        [
            _at_most("`fail`", sum(r["verdict"] == "fail" for r in rows), len(rows), 2 / 60),
            _share(
                "`pass`, of the models that tell every finding from the others",
                sum(r["verdict"] == "pass" for r in known),
                len(known),
                least,
            ),
            f"items for a reviewer, mean: {mean:.1f} (target: at most 2; met: {yes_no(mean <= 2)})",
            f"a style is named: {sum(r['styles'] > 0 for r in known)} of {len(known)}",
        ]
    )


def _style_summary(rows: Sequence[Row]) -> str:
    own = _between(rows, _STYLE_GAP, 2.0)
    named = sum(row["style_named"] for row in own)
    share = _share(
        "named as a style of its finding, both gaps above 20 points", named, len(own), 0.9
    )
    any_style = (
        f"a style of any finding is named: {sum(r['styles'] > 0 for r in own)} of {len(own)}"
    )
    return bullets([_knowing(rows), share, any_style])


_TABLE = Table(
    Column("model", "{number}"),
    Column("tower", "{tower}"),
    Column("drawn", lambda row: f"{row['what']}{', ' + row['place'] if row['place'] else ''}"),
    Column("tied to", "{finding}, V {strength:.2f}"),
    Column("films (patients)", "{films} ({patients})"),
    Column("accuracy", "{accuracy:.0%}"),
    Column("gaps", "{raised_gap:signed} / {lowered_gap:signed} points"),
    Column("shift by painting it", lambda row: "{:.1f} to {:.1f} sd".format(*row["shift"])),
    Column("verdict", "{verdict:words}"),
    Column("items", "{items}"),
    Column("named, first", "{named:yes}, {named_first:yes}"),
    Column("precision@10", "{precision:.1f}"),
    Column("tested, associations", "{tested}, {associations}"),
    Column("may cost", "{bound:.1%}"),
    Column("styles named, its own", "{styles}, {style_named:yes}"),
    Column("pictures", "{pictures:,}"),
)
_CLEAN_TABLE = Table(
    Column("model", "{number}"),
    Column("tower", "{tower}"),
    Column("films (patients)", "{films} ({patients})"),
    Column("accuracy", "{accuracy:.0%}"),
    Column("tells every finding", "{knows:yes}"),
    Column("verdict", "{verdict:words}"),
    Column("items, signs", "{items}, {signs}"),
    Column("tested, associations", "{tested}, {associations}"),
    Column("may cost", "{bound:.1%}"),
    Column("style named", "{styles}"),
    Column("pictures", "{pictures:,}"),
)
_DRAWN = (
    "What is painted, where, how large, in which tone, and how tightly it is tied to which finding "
    "is drawn from the number of the model. Named: on page one, with the right class, and half of "
    "the first ten fitted boxes or more lie on it."
)
_SMALL_TEXT = (
    f"{_DRAWN} These are 4 to 6 of 96 pixels wide, as 18 to 26 mm of a film, anywhere on it, and "
    "tied tightly. So many are made that this many have learned it, with both gaps above 30 points."
)
_WEAK_TEXT = (
    f"{_DRAWN} So many are made that this many have gaps of 15 to 40 points; small transformers "
    "learn such a thing wholly or not at all, so these are convolutional."
)
_ON_REAL = (
    f"{_DRAWN} A patient's films are cut and exposed anew until there are enough; so many models "
    "are made that this many have gaps above 15 points."
)
_CLEAN = "Nothing is planted; the models learn the findings alone. Films of whole patients."


def _part(
    name: str, title: str, text: str, kind: Kind, first: int, films: int, models: int
) -> Part:
    summaries: Mapping[Kind, Callable[[list[Row]], str]] = {
        "local": _drawn_summary,
        "weak": _drawn_summary,
        "inside": partial(_learned_summary, least=0.9, wanted=" (target: at least 9)"),
        "small": partial(_learned_summary, least=0.85),
        "clean": _clean_summary,
        "style": _style_summary,
    }
    return Part(
        name,
        title,
        text,
        [summaries[kind], _CLEAN_TABLE if kind == "clean" else _TABLE],
        partial(measure, kind, first),
        {"models": models, "films": films},
        {"films": "a folder of radiographs (metadata.csv, images/)"} if "real" in name else {},
        stepwise=True,
    )


def _summary(parts: Mapping[str, list[Row]]) -> str:
    lines = []
    for name, text in (
        ("inside", "Things inside the anatomy of their finding"),
        ("small", "Small things, as buttons and clips"),
        ("weak", "Weak and medium ones"),
        ("real_drawn", "Things drawn at random, of any strength, on real films"),
        ("clean_900", "Clean models, 900 films"),
        ("clean_400", "Clean models, 400 films"),
        ("real_clean", "Clean models on real films"),
        ("style", "Styles (gamma, brightness, collimation)"),
    ):
        rows = parts.get(name)
        if rows:
            summary = PAGE.part(name).blocks[0](rows)
            lines += [f"**{text}**", "", summary, ""]
    return "\n".join(lines).rstrip()


PAGE = Page(
    "effects",
    "Search by effects: models that learned something drawn at random, and clean ones",
    "Examine models that learned something drawn at random, and clean ones.",
    (
        _part("inside", "Inside the anatomy of the finding", _DRAWN, "inside", 400, 600, 18),
        _part("small", "Small things, as buttons and clips", _SMALL_TEXT, "small", 8600, 600, 5),
        _part("weak", "Weak and medium shortcuts", _WEAK_TEXT, "weak", 7900, 400, 14),
        _part("clean_900", "Clean models, 900 films", _CLEAN, "clean", 2500, 900, 20),
        _part("clean_400", "Clean models, 400 films", _CLEAN, "clean", 3300, 400, 20),
        _part("style", "Tied to a style of the whole film", _DRAWN, "style", 4200, 600, 12),
        _part("real_drawn", "Drawn on real films", _ON_REAL, "local", 5200, 400, 8),
        _part("real_clean", "Clean models on real films", _CLEAN, "clean", 6100, 400, 20),
    ),
    _summary,
)
