"""How it was found: method, thresholds, limitations."""

from __future__ import annotations

from collections.abc import Mapping

from ravl_med.reporting.report_blocks import (
    NEW_PAGE,
    Block,
    Chapter,
    Items,
    Section,
    Table,
    Text,
    sized,
)

__all__ = ["LIMITATIONS", "method_chapter"]


_METHOD = (
    "Sanity. First, each finding has to be told from the other classes (AUROC, with an interval "
    "by patient), and embeddings, texts and input are looked at. A fault that leaves no doubt, "
    "such as a flipped class, stops the audit; chance alone does not, since a model that follows "
    "a balanced shortcut is at chance too, but then the audit ends in a fail or says nothing.",
    "Proposing. Films are cut into regions, the image tower embeds every region, and regions that "
    "look alike to the model are grouped by k-medoids, in several numbers K of clusters and "
    "several draws, pooled and near-duplicates folded. No label enters.",
    "Choosing. The patients are split into two halves, all films of a patient on one. On the "
    "discovery half the accuracy on films with a region of a cluster is compared, class by class, "
    "with that on films without one. G sums these gaps, weighted by how evenly the films are "
    "split; H is the share of mistakes in which the region that speaks loudest for the wrong "
    "answer belongs to the cluster. Clusters with low H, or without both a raised and a lowered "
    "class, are dropped, but those with large gaps on both sides are carried along. This is the "
    "discovery stage of RaVL (Varma et al., NeurIPS 2024, arXiv 2411.04097).",
    "Confirming. Clusters that share half of their regions and raise the same class are taken as "
    "one. Each makes one hypothesis, fixed before the confirmation half is looked at: with the "
    "feature its raised class is right more often and its lowered classes, taken as one, less "
    "often. Whole patients are exchanged within class; with one film a patient the test is exact. "
    "The two sides are joined by Stouffer's method, and Benjamini-Hochberg holds the false "
    "discovery rate over all candidates (q). A confirmed correlation also keeps its sign, its "
    "least gap on both halves, and each side by itself.",
    "Using. A gap is an association until an intervention shows otherwise. Of what holds, what "
    "the filters keep and what they drop take turns. Removal: the regions are filled, once with "
    "the median of their surroundings and once by inpainting, and the drop of the margin (logit "
    "of the raised minus that of the lowered class) is held against films of the same class "
    "without the feature, filled at the same place; where the best of k places is taken, half a "
    "step aside too, the control is the best of k too. Transplant: the feature is blended into "
    "films of other classes, against an ordinary region from the same place. A feature is used "
    "when both fills lower the margin beyond the controls and by enough to matter, and the "
    "transplant, where it could be tried, raises it.",
    "Kind. What of a region is artifact, what is anatomy in which the raised class shows, and the "
    "rest are removed one by one; what each costs the model is its share. In such anatomy, a "
    "plausible sign; in artifacts or elsewhere, a shortcut; between or unknown, undecided.",
    "Subgroups and strata. Accuracy by attribute is compared with the other films, classes held "
    "apart, by exchange of whole patients. Each confirmed correlation is looked at inside the "
    "strata of every attribute and joined over them (Mantel-Haenszel).",
    "What could be seen. Cohorts with these films, patients and accuracies are simulated, each "
    "with a planted gap, and put through the same choice and test. Intervals come from a "
    "bootstrap of patients. All thresholds were fixed before the run.",
)

LIMITATIONS = (
    "This report is about a model on one set of films. “Used” means used on these films; films of "
    "another site can differ. It is no diagnosis and no clinical validation.",
    "Only features that fit into a region (a tile) and that appear in some films and not in others "
    "can be found: not one that is in every film or spread over the film.",
    "What is smaller or rarer than the search page says may be there unseen.",
    "Fills can look unusual to the model; a control film is like its partner in class and place.",
    "A region next to the cause can carry part of its effect; where a finding shows is coarse.",
    "Labels are taken as given; a gap may come from labels that are more often wrong with it.",
)


def method_chapter(thresholds: Mapping[str, str]) -> list[Block]:
    """Return the method in own words, the thresholds and the limitations."""
    story: list[Block] = [Chapter("Method and limitations", "method", NEW_PAGE)]
    story += [Text(text) for text in _METHOD]
    if thresholds:
        columns = sized(("", ""), (160, 0))
        rows = tuple(thresholds.items())
        story.append(Table("Thresholds", columns, rows, headed=False, limit=120))
    return [*story, Section("Limitations"), Items(LIMITATIONS, 1500)]
