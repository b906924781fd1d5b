"""The page on which a radiologist decides, correlation by correlation.

One file that needs nothing else. Served by ``ravl-med review`` it saves each decision at once;
opened from a disk it keeps them in the browser and downloads ``review.csv``. Its films are those of
the report, in the same sizes, their text hidden; nothing is fetched.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from string import Template

from ravl_med import __version__
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.reporting import wording
from ravl_med.reporting.audit import sentences
from ravl_med.reporting.files.tables import Row, run_digest
from ravl_med.reporting.layout import blocks
from ravl_med.reporting.layout.html import body_of, content_policy, resource
from ravl_med.reporting.layout.html_figures import Film as PageFilm
from ravl_med.reporting.layout.html_figures import films_of, html_text, overlay
from ravl_med.reporting.pictures import (
    HIDDEN_LOOK,
    Film,
    Picture,
    correlation_pictures,
    shown_correlations,
)

_FOREIGN = 0.5  # share of an effect in artifacts that speaks against the disease

PHRASES = {
    "disease": ("Part of the finding itself.", "A sign that goes with the finding."),
    "shortcut": ("A device, no part of the finding.", "A marker or an edge of the film."),
    "chance": ("The regions have nothing in common.",),
    "cannot tell": ("No single thing is seen.", "The films are too small to tell."),
}
"""Reasons that are one click away."""


def draw_review_page(
    result: AuditResult, rows: Sequence[Row], asked: Collection[int], film: Film
) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    result : AuditResult - small counts hidden
    rows : sequence of Row - of ``review.csv``, nothing decided
    asked : collection of int - ranks of the correlations that ask for a decision
    film : callable - reads a film that the report shows, its text hidden
    """
    by_rank = {str(one.rank): one for one in result.correlations}
    points = [by_rank[row["rank"]] for row in rows]
    films = {
        one.rank: review_films(result, one, film)
        for one in points
        if one in shown_correlations(result)
    }
    small = films_of(
        picture
        for groups in films.values()
        for shown in chain.from_iterable(groups.values())
        for picture in (shown.picture, shown.after)
        if picture is not None
    )
    cases = [
        _case(result, one, row, _films(films.get(one.rank, {}), small), asked=one.rank in asked)
        for one, row in zip(points, rows, strict=True)
    ]
    hidden = result.burned_in is not None and result.burned_in.masked > 0
    names = [sentences.feature_name(result, one) for one in points]
    return _page(result, rows, names, cases, HIDDEN_LOOK if hidden else "")


def _case(
    result: AuditResult, correlation: SpuriousCorrelation, row: Row, films: str, *, asked: bool
) -> str:
    """Return what is shown of one correlation."""
    classes, rank = result.task.classes, correlation.rank
    described = row["description"]
    name = sentences.feature_name(result, correlation)
    raised = wording.class_name(classes, correlation.cluster.raised_class)
    content: list[blocks.Block] = [
        blocks.Text(sentences.correlation_sentence(correlation, classes, described), "lead"),
        *([blocks.Text(f"Its regions: {described}.", limit=200)] if described else []),
        blocks.Text(sentences.counter_evidence(correlation, classes)),
        _accuracies(correlation, classes),
    ]
    title = f"No. {rank}: {wording.printable(name, 60)}, raises {raised}"
    note = "asks for a decision" if asked else "may be decided on"
    return (
        f'<section class="case" id="no-{rank}" data-id="{html_text(row["correlation"], 20)}" '
        f'data-rank="{rank}" data-asked="{int(asked)}" data-counts="{int(correlation.counts)}" '
        f'data-raised="{html_text(raised)}" data-warning="{html_text(_warning(correlation))}">\n'
        f'<h2 tabindex="-1">{html_text(title, 160)}</h2>\n<p class="muted">{note}; '
        f"{html_text(row['kind'])}</p>\n"
        f'<div class="place"></div>\n{films}\n'
        f'<div class="evidence">\n{body_of(content)}\n</div>\n</section>'
    )


def _warning(correlation: SpuriousCorrelation) -> str:
    """Return what is asked of whoever calls a foreign thing the disease."""
    tested = correlation.counterfactual
    shares = None if tested is None else tested.removal.shares
    if shares is None or not (math.isfinite(shares.artifact) and shares.artifact >= _FOREIGN):
        return ""
    return (
        f"{wording.percent(shares.artifact)} of its effect lies in artifacts. Let a second reader "
        "decide as well."
    )


def _accuracies(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> blocks.Table:
    arms = correlation.confirmation.arms
    return blocks.Table(
        caption="Films called right, with and without the feature (held-out patients)",
        columns=(
            blocks.Column("Class", "wide"),
            blocks.Column("Films with / without", "status"),
            blocks.Column("With", "number"),
            blocks.Column("Without", "number"),
        ),
        rows=[
            (
                wording.class_name(classes, c),
                wording.with_without(int(arms.n_present[c]), int(arms.n_absent[c])),
                wording.percent(float(arms.accuracy_present[c])),
                wording.percent(float(arms.accuracy_absent[c])),
            )
            for c in range(len(classes))
        ],
    )


@dataclass(frozen=True, slots=True, eq=False)
class ReviewFilm:
    """A film as it is shown for a decision."""

    image_id: str
    said: str  # label and answer, in words
    picture: Picture
    after: Picture | None = None  # with the feature taken out, or put in
    said_after: str = ""

    @property
    def wrong(self) -> bool:
        """Whether the answer is not the label."""
        return self.said.startswith("✗")


MISTAKES, CHANGED, AT_RANDOM, WITHOUT = (
    "With it, and called wrongly",
    "Before and after: the feature taken out, or put in (Space)",
    "With it, at random",
    "Without it, of the same classes",
)


def review_films(
    result: AuditResult, correlation: SpuriousCorrelation, film: Film
) -> dict[str, tuple[ReviewFilm, ...]]:
    """Return the films that the report shows of a correlation, by what they are shown for."""
    shown = correlation_pictures(result, correlation, film, 0, enlarged=True)
    whole = ((MISTAKES, shown.mistakes), (AT_RANDOM, shown.random), (WITHOUT, shown.without))
    groups = {
        name: tuple(ReviewFilm(one.image_id, one.answer, one.picture) for one in films)
        for name, films in whole
    }
    groups[CHANGED] = tuple(
        ReviewFilm(
            one.before.image_id,
            one.before.answer,
            one.before.picture,
            one.after.picture,
            one.after.answer,
        )
        for one in shown.changes
    )
    return {name: groups[name] for name in (MISTAKES, CHANGED, AT_RANDOM, WITHOUT) if groups[name]}


def _films(groups: Mapping[str, Sequence[ReviewFilm]], small: Mapping[Picture, PageFilm]) -> str:
    """Return the films of a correlation."""
    if not groups:
        return '<p class="muted">No film of it was kept: the report shows none.</p>'
    return "\n".join(
        f"<h3>{html_text(name)}</h3>\n"
        f'<div class="shots">\n{"".join(_film(one, small) for one in films)}\n</div>'
        for name, films in groups.items()
    )


def _film(shown: ReviewFilm, small: Mapping[Picture, PageFilm]) -> str:
    drawn, edge, after = small[shown.picture], shown.picture.edge, ""
    letter = f'<span class="edge" aria-hidden="true">{edge}</span>' if edge else ""
    said = shown.said or "Label and answer: not kept."
    if shown.after is not None:
        words = html_text(f"After: {shown.said_after}", 160)
        after = f' data-changed="{small[shown.after].address}" data-said="{words}"'
    lines = [said, wording.EDGE_TEXT[edge] if edge else "", shown.image_id]
    if after:
        lines.insert(1, f"After: {shown.said_after}")
    caption = "<br>".join(html_text(line, 160) for line in lines if line)
    return (
        f'<figure class="shot{" wrong" if shown.wrong else ""}"><button type="button" '
        f'class="film{" sided" if edge else ""}" disabled '
        f'style="--ratio:{drawn.width / drawn.height:.3f}"{after}>'
        f'<img src="{drawn.address}" width="{drawn.width}" height="{drawn.height}" '
        f'decoding="async" alt="{html_text(f"Film {shown.image_id}. {said}", 200)}">'
        f"{overlay(shown.picture, drawn.width, drawn.height)}{letter}</button>"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _page(
    result: AuditResult, rows: Sequence[Row], names: Sequence[str], cases: Sequence[str], note: str
) -> str:
    data = {"run": run_digest(rows), "rows": list(rows), "phrases": PHRASES}
    links = (
        f'<li><a href="#no-{html_text(row["rank"], 8)}"><span class="which">No. '
        f"{html_text(row['rank'], 8)}</span> {html_text(name, 60)} "
        f'<span class="state"></span></a></li>'
        for row, name in zip(rows, names, strict=True)
    )
    return Template(resource("review.html")).substitute(
        policy=content_policy("review.js", "'self'"),
        version=html_text(__version__, 20),
        name=html_text(result.name, 80),
        style=resource("report.css") + resource("review.css"),
        links="".join(links),
        cases="\n".join(cases) or "<p>Nothing in this run asks for a decision.</p>",
        note=html_text(note),
        data=json.dumps(data, ensure_ascii=True).replace("<", "\\u003c"),
        script=resource("review.js"),
    )
