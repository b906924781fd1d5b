"""How it was found: method, limitations, and what it takes to do it again."""

from __future__ import annotations

from collections.abc import Mapping

from reportlab.platypus import Flowable, PageBreak, Table

from ravl_med.reporting.pdf_style import WIDTH, Heading, block, paragraph, table
from ravl_med.reporting.wording import DASH, printable, printable_block

__all__ = ["method_page", "reproducibility_page", "threshold_table"]


def threshold_table(thresholds: Mapping[str, str]) -> Table:
    """Return the thresholds, a row a rule."""
    return table(list(thresholds.items()), [WIDTH - 150, 150], header=False)


_METHOD = (
    "Each film is cut into regions. The model's own image tower embeds every region, and regions "
    "that look alike to the model are grouped into clusters. For each cluster and class the "
    "zero-shot accuracy on films with a region of the cluster is compared with the accuracy on "
    "films without one; G sums these gaps over classes, weighted by how evenly the films are "
    "split. H is the share of mistakes in which the region that speaks loudest for the wrong "
    "answer belongs to the cluster. Clusters with low H, or without both a raised and a lowered "
    "class, are dropped. This is the discovery stage of RaVL (Varma, Delbrouck, Chen, Chaudhari, "
    "Langlotz, NeurIPS 2024, arXiv 2411.04097).",
    "A gap is an association: the feature and the accuracy go together, whatever the cause. The "
    "removal effect is an intervention: the region is filled from its surroundings, and the drop "
    "in the margin of the raised class (its logit minus that of the most lowered class) is "
    "measured. Where that effect lies, in the anatomy of the finding or elsewhere, separates a "
    "plausible sign from a shortcut; this needs a radiologist's eye in the end.",
    "Intervals come from a bootstrap that draws patients, not films. Those of gaps and removal "
    "effects are corrected for the number of clusters that were looked at (Bonferroni), those of "
    "accuracies are not. A correlation counts when the gaps of the raised class and of a lowered "
    "class are large enough on enough films, and when their intervals and that of the removal "
    "effect exclude zero. All thresholds were fixed before the run.",
)

_LIMITATIONS = (
    "This report is about a model on one set of films. It is no diagnosis and no clinical "
    "validation.",
    "Clusters are found and tested on the same films. Beyond the Bonferroni correction the "
    "intervals do not take that choice into account.",
    "Only features that fit into regions, and that appear in enough films, can be found. A feature "
    "that every film carries shows no gap.",
    "Filling a region can itself look unusual to the model. A region next to the cause can carry "
    "part of its effect, since the model sees beyond the edge of a region.",
    "Labels are taken as given; a gap may come from labels that are wrong more often with the "
    "feature than without.",
)


def method_page(thresholds: Mapping[str, str]) -> list[Flowable]:
    """Return the method in own words, the thresholds and the limitations."""
    story: list[Flowable] = [PageBreak(), Heading("Method and limitations", "method")]
    story += [paragraph(text) for text in _METHOD]
    if thresholds:
        story += [paragraph("Thresholds", "h2"), threshold_table(thresholds)]
    story.append(paragraph("Limitations", "h2"))
    return story + [paragraph(text, "item") for text in _LIMITATIONS]


def reproducibility_page(tables: Mapping[str, Mapping[str, str]], config: str) -> list[Flowable]:
    """Return tables of names and values, such as digests, and the effective config as it is."""
    story: list[Flowable] = [PageBreak(), Heading("Reproducibility", "reproducibility")]
    for title, entries in tables.items():
        rows = [(printable(name, 60), printable(value, 140)) for name, value in entries.items()]
        story.append(paragraph(title, "h2"))
        story.append(
            table(rows, [130, WIDTH - 130], mono=(1,), header=False, limit=140)
            if rows
            else paragraph(DASH)
        )
    lines = (printable_block(config, 105, 600) or DASH).split("\n")
    # In pieces, so that the heading stays with the first one and not with the whole file.
    pieces = ["\n".join(lines[at : at + 10]) for at in range(0, len(lines), 10)]
    return [*story, paragraph("Effective config", "h2"), *map(block, pieces)]
