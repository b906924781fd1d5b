"""Films before and after a feature is taken out of them or put into them, to be looked at.

They are drawn at random, whatever the model then answers: a choice of those that change would show
more than is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from ravl_med.discovery.ravl import AuditData
from ravl_med.evidence.audit_result import FilmChange
from ravl_med.evidence.changed_films import black_and_white
from ravl_med.evidence.counterfactual import CounterfactualModel
from ravl_med.evidence.counterfactual.fills import transplant_box
from ravl_med.evidence.results import SpuriousCorrelation

CHANGED = 2
"""Films of each correlation from which its feature is taken, and as many into which it is put."""

_STRONGEST = 12  # films with the largest effects, of which one gives the feature
_TRIED = 200  # films of which some have the frame of one that gives


@dataclass(frozen=True, slots=True, eq=False)
class _Changed:
    """A film of which one place is changed, in input pixels."""

    film: int
    change: Literal["removal", "insertion"]
    box: NDArray[np.float32]  # (4,) xyxy, whole pixels
    picture: NDArray[np.float32]  # (3, S, S), after


def example_changes(
    model: CounterfactualModel,
    data: AuditData,
    correlation: SpuriousCorrelation,
    images: Sequence[str],  # (N,) pseudonyms
) -> tuple[FilmChange, ...]:
    """Change a few films and ask the model before and after; none where no effect was located.

    The feature is taken out of films of other classes that are called as the raised one, where
    there are enough, and put into films of other classes without it.
    """
    places = _places(model, data, correlation)
    if not places:
        return ()
    rng = np.random.default_rng([model.seed, correlation.rank, 3])
    raised = correlation.cluster.raised_class
    films = np.array(list(places), dtype=np.int64)
    wrong = (data.predictions[films] == raised) & (data.labels[films] != raised)
    drawn = np.concatenate([rng.permutation(films[wrong]), rng.permutation(films[~wrong])])
    fill = model.like_places(data).fill
    made = [
        _Changed(film, "removal", places[film], fill(film, places[film]))
        for film in drawn[:CHANGED].tolist()
    ]
    bare = (data.labels >= 0) & (data.labels != raised) & ~correlation.cluster.present
    donors = np.array(list(places)[:_STRONGEST], dtype=np.int64)
    frames = {film: _frame(model, data, film) for film in donors.tolist()}
    for film in rng.permutation(np.flatnonzero(bare)).tolist()[:_TRIED]:
        if sum(one.change == "insertion" for one in made) == CHANGED:
            break
        own = _frame(model, data, film)
        alike = [donor for donor in donors.tolist() if frames[donor] == own]
        if alike:
            donor = int(rng.choice(alike))
            after = transplant_box(model.read(film), model.read(donor), places[donor])
            made.append(_Changed(film, "insertion", places[donor], after))
    logits = [
        model.logits(pictures)
        for pictures in ([model.read(one.film) for one in made], [one.picture for one in made])
    ]
    return tuple(
        _describe(model, data, (correlation.rank, images[one.film]), one, before, after)
        for one, before, after in zip(made, *logits, strict=True)
    )


def _frame(model: CounterfactualModel, data: AuditData, film: int) -> tuple[int, ...]:
    """Return what of the model's input is film and not padding: a place is one of it."""
    height, width = data.sizes[film].tolist()
    whole = np.array([[0, 0, width, height]], dtype=np.float32)
    (frame,) = model.encoder.geometry(height, width).to_input(whole)
    return tuple(np.rint(frame).astype(int).tolist())


def _places(
    model: CounterfactualModel, data: AuditData, correlation: SpuriousCorrelation
) -> dict[int, NDArray[np.float32]]:
    """Return where the largest effect of each film lies, in input pixels, the largest first."""
    places: dict[int, NDArray[np.float32]] = {}
    located = correlation.located_boxes
    for at in correlation.order.tolist():
        film = int(data.region_image[correlation.cluster.regions[at]])
        if film in places or not np.isfinite(located[at]).all():
            continue
        height, width = data.sizes[film].tolist()
        (box,) = model.encoder.geometry(height, width).to_input(located[[at]])
        whole = np.concatenate([np.floor(box[:2] + 1e-3), np.ceil(box[2:] - 1e-3)])
        if (whole[2:] > whole[:2]).all():
            places[film] = whole.astype(np.float32)
    return places


def _describe(
    model: CounterfactualModel,
    data: AuditData,
    name: tuple[int, str],
    one: _Changed,
    before: NDArray[np.float32],  # (C,) logits
    after: NDArray[np.float32],
) -> FilmChange:
    """Return a change as it is shown, with the answers as shares of a softmax."""
    height, width = data.sizes[one.film].tolist()
    geometry = model.encoder.geometry(height, width)
    (stored,) = geometry.to_stored(one.box[None])
    black, white = black_and_white(model.encoder.info, one.picture)
    x0, y0, x1, y1 = one.box.astype(int).tolist()
    gray = ((one.picture - black) / (white - black))[0, y0:y1, x0:x1]
    patch = np.rint(255 * np.clip(gray, 0.0, 1.0)).astype(np.uint8)
    called, then = int(before.argmax()), int(after.argmax())
    label = int(data.labels[one.film])
    left, top, right, bottom = (float(edge) for edge in stored)
    return FilmChange(
        rank=name[0],
        image=name[1],
        change=one.change,
        box=(left, top, right, bottom),
        label=data.classes[label] if label >= 0 else "",
        called=data.classes[called],
        score=float(softmax(before.astype(np.float64))[called]),
        called_after=data.classes[then],
        score_after=float(softmax(after.astype(np.float64))[then]),
        patch=patch[:, ::-1] if geometry.mirrored else patch,
    )
