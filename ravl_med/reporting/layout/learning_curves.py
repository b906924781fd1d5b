"""The learning curves of a mitigation report, as shapes; see `figure_shapes`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from ravl_med.evidence.mitigation_result import LearningCurve
from ravl_med.reporting.layout.figure_shapes import COLOURS, Figure, Label, Mark, Path
from ravl_med.reporting.wording import number

__all__ = ["curve_figure", "epochs_words"]

_INK, _MUTED, _RULE, _AFTER = (COLOURS[name] for name in ("ink", "muted", "rule", "main"))


def curve_figure(curve: LearningCurve, width: float, height: float = 112.0) -> Figure:
    """Draw the loss above and the accuracies on the selection films below, over the epochs.

    Parameters
    ----------
    curve : LearningCurve - what is not a number is left out
    width, height : float - points
    """
    left, right, low, middle = 36.0, width - 6.0, 18.0, 0.56 * height
    epochs = max(len(curve.losses), len(curve.worst_group), 1)
    loss_box = (left, middle + 6.0, right, height - 11.0)
    accuracy_box = (left, low, right, middle - 6.0)
    finite = [loss for loss in curve.losses if math.isfinite(loss)]
    shapes: list[Path | Mark | Label] = [*_frame(loss_box), *_frame(accuracy_box)]
    shapes += [
        Label(left - 3, loss_box[1] + 1, number(min(finite), 2) if finite else "", "end"),
        Label(left - 3, loss_box[3] - 5, number(max(finite), 2) if finite else "no loss", "end"),
        Label(left - 3, accuracy_box[1] + 1, "0 %", "end"),
        Label(left - 3, accuracy_box[3] - 5, "100 %", "end"),
        Label(left, 8.0, "1"),
        Label((left + right) / 2, 8.0, "epoch", "middle"),
        Label(right, 8.0, str(epochs), "end"),
    ]
    span = (min(finite), max(finite)) if finite else (0.0, 1.0)
    shapes += _curve(curve.losses, span, loss_box, epochs, _INK, 1.2)
    shapes += _curve(curve.overall, (0.0, 1.0), accuracy_box, epochs, _MUTED, 0.9, (3.0, 2.0))
    shapes += _curve(curve.worst_group, (0.0, 1.0), accuracy_box, epochs, _AFTER, 1.5)
    shapes += _kept(curve, accuracy_box, height, epochs)
    words = f"Learning curve, epoch {epochs_words(curve)} kept; the numbers are in the table below"
    return Figure(width, height, tuple(shapes), words)


Box = tuple[float, float, float, float]


def _frame(box: Box) -> list[Path]:
    left, low, right, high = box
    return [Path(((left, high), (left, low), (right, low)), _RULE, 0.6)]


def _place(epoch: int, epochs: int, box: Box) -> float:
    return box[0] + (box[2] - box[0]) * (epoch / (epochs - 1) if epochs > 1 else 0.5)


def _curve(
    values: Sequence[float],
    span: tuple[float, float],
    box: Box,
    epochs: int,
    colour: str,
    weight: float,
    dash: tuple[float, ...] = (),
) -> list[Path | Mark]:
    """Lines through the finite values, a dot where one stands alone."""
    low, high = span
    size = high - low or 1.0
    runs: list[list[tuple[float, float]]] = [[]]
    for epoch, value in enumerate(values):
        if not math.isfinite(value):
            runs.append([])
            continue
        share = (value - low) / size if high > low else 0.5
        runs[-1].append((_place(epoch, epochs, box), box[1] + share * (box[3] - box[1])))
    made: list[Path | Mark] = []
    for run in runs:
        if len(run) > 1:
            made.append(Path(tuple(run), colour, weight, dash))
        elif run:
            made.append(Mark(*run[0], 1.2, colour, colour))
    return made


def _kept(
    curve: LearningCurve, box: Box, height: float, epochs: int
) -> Iterator[Path | Mark | Label]:
    """Mark the epoch that was kept, in words too."""
    if not 0 <= curve.best < epochs:
        return
    x = _place(curve.best, epochs, box)
    yield Path(((x, box[1]), (x, height - 9.0)), _INK, 0.7, (1.0, 1.6))
    edge = x > (box[0] + box[2]) / 2
    anchor: Literal["start", "end"] = "end" if edge else "start"
    yield Label(x, height - 6.5, f"kept: epoch {curve.best + 1}", anchor, _INK)
    if curve.best < len(curve.worst_group) and math.isfinite(curve.worst_group[curve.best]):
        y = box[1] + curve.worst_group[curve.best] * (box[3] - box[1])
        yield Mark(x, y, 2.2, _AFTER, _AFTER)


def epochs_words(curve: LearningCurve) -> str:
    """Return the epoch that was kept, counted from 1, of how many."""
    kept = str(curve.best + 1) if 0 <= curve.best < len(curve.losses) else "none"
    return f"{kept} of {len(curve.losses)}"
