"""What the README shows of the controlled evaluation, between two marks, made from the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ravl_med.evaluation.controlled.discovery_methods import OURS
from ravl_med.evaluation.controlled.sweep_cells import (
    COMPARED,
    METHOD_NAMES,
    tell_mean,
    tell_share,
)
from ravl_med.evaluation.controlled.sweep_measures import (
    false_alarms,
    score_methods,
    table_of_rows,
    valid_models,
)

__all__ = ["BEGIN", "END", "front_text", "renew_front_page"]

BEGIN, END = "<!-- evaluation: begin -->", "<!-- evaluation: end -->"

_DOMAINS = {"phantoms": "phantoms", "radiographs": "real radiographs", "digits": "digits"}


def front_text(rows: Sequence[Mapping[str, object]]) -> str:
    """Return the table of the README, in Markdown.

    Parameters
    ----------
    rows : sequence of mapping - fields of `MethodRow`
    """
    table = table_of_rows(rows)
    valid = valid_models(table)
    planted = valid[(valid["kind"] == "planted") & (valid["regions"] == "tiles")]
    parts = {domain: planted[planted["domain"] == domain] for domain in _DOMAINS}
    shown = {domain: own for domain, own in parts.items() if len(own)}
    scores = {
        domain: {score.method: score.precision_10 for score in score_methods(own)}
        for domain, own in shown.items()
    }
    alarms = false_alarms(table)
    heads = [
        "precision@10",
        *(f"{_DOMAINS[name]}, {_count(own)} models" for name, own in shown.items()),
        "accuses a clean model",
    ]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for method in COMPARED:
        cells = [METHOD_NAMES[method], *(tell_mean(scores[name][method]) for name in shown)]
        cells.append(tell_share(alarms[method]))
        lines.append(_row([f"**{cell}**" for cell in cells] if method == OURS else cells))
    models = table.drop_duplicates("digest")
    told = (
        f"{len(models)} small models were trained, {_count(valid)} of them valid (every seed "
        "learned the planted shortcut). Means with 95 % intervals over groups of seeds."
    )
    return "\n".join([told, "", *lines])


def renew_front_page(page: Path, text: str) -> bool:
    """Put a text between the marks of a page; nothing is done where there is none, or no marks.

    Parameters
    ----------
    page : Path - the README
    text : str

    Returns
    -------
    bool - whether the page has the marks
    """
    if not page.is_file():
        return False
    whole = page.read_text(encoding="utf-8")
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return False
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    return True


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _count(rows: pd.DataFrame) -> int:
    return int(rows["digest"].nunique())
