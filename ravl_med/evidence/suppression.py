"""Cells of a row that may not be told when its total is (complementary suppression)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["HIDDEN", "hidden_cells"]

HIDDEN = -1
"""Stands for a count that is not told; rates that belong to it are NaN."""


def hidden_cells(counts: Sequence[int], least: int, forced: Collection[int] = ()) -> frozenset[int]:
    """Return the cells of a row that may not be told when its total is.

    Parameters
    ----------
    counts : sequence of int - patients of each cell
    least : int - smallest count that may be told; 0 is always told
    forced : collection of int - positions that are hidden whatever they count

    Returns
    -------
    frozenset of int - positions; none, or at least two which hold at least `least`, or every cell
        that is not empty
    """
    hidden = {at for at, count in enumerate(counts) if 0 < count < least or at in forced}
    if not hidden:
        return frozenset()
    others = sorted(
        (at for at, count in enumerate(counts) if count and at not in hidden),
        key=lambda at: (counts[at], at),
    )
    for at in others:
        if len(hidden) >= 2 and sum(counts[cell] for cell in hidden) >= least:
            break
        hidden.add(at)
    return frozenset(hidden)
