"""How it was found, where a reviewer finds what guidelines ask for, and where the report is signed.

``checklist.csv`` holds what guidelines and the law ask for, in our own words, under the numbers of
the published lists: all of it but what is asked of a manuscript alone, which the text above the map
names.

References
----------
CLAIM 2024: Tejani et al., Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024
Update, Radiology: Artificial Intelligence 6(4):e240300 (2024), 44 items.
TRIPOD+AI: Collins et al., BMJ 385:e078378 (2024), 27 items in 52 parts.
EU AI Act: Regulation (EU) 2024/1689, Annex IV, point 2 (g).
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from importlib.resources import files

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit.search import sensitivity_part
from ravl_med.reporting.audit.sentences import holds_until, verdict_line
from ravl_med.reporting.audit.verdict import report_status
from ravl_med.reporting.layout import blocks
from ravl_med.reporting.layout.pdf_style import can_sign
from ravl_med.reporting.tables import fact_table
from ravl_med.reporting.wording import DASH, VERDICT_NAMES, plural, printable

_CHAPTERS = {
    "cohort": "Model and cohort",
    "performance": "Performance",
    "decisions": "What has to be decided",
    "dependence": "What the answers depend on",
    "search": "Search for shortcuts",
    "method": "Method and thresholds",
    "limits": "Limits, and how this was found",
    "subgroups": "Checks and subgroups",
    "candidates": "Features without a page of their own",
    "prompts": "Prompts, digests and rows",
    "reproducibility": "Reproducibility",
    "sign-off": "Sign-off",
}
_ABOUT = (
    "A map for reviewers, no claim of conformity. Items are paraphrased; the guidelines prevail, "
    "and each requires more than an audit can show. Numbers are those "
    "of CLAIM 2024 (artificial intelligence in medical imaging, update of 2024), of TRIPOD+AI "
    "(prediction models, BMJ 2024), and of Annex IV of the EU AI Act, Regulation (EU) 2024/1689: "
    "point 2 (g), on validation and testing. Required of a manuscript, and not in the map: CLAIM "
    "1, 2, 4, 5, 6; TRIPOD+AI 1, 2, 4, 9c."
)


def checklist_chapter(chapters: Collection[str]) -> list[blocks.Block]:
    """Return the map: what is asked for, by which items, what the report says to it, and where.

    `chapters` are the keys of those that the report has; of several the first is named.
    """
    table = files(__package__).joinpath("checklist.csv").read_text(encoding="utf-8")
    _, *items = csv.reader(table.splitlines())
    rows: list[tuple[blocks.Cell, ...]] = []
    for *cells, keys in items:
        key = next((one for one in keys.split() if one in chapters), "")
        place = blocks.Reference(key, _CHAPTERS[key]) if key else DASH
        rows.append((*(cell or DASH for cell in cells), place))
    return [
        blocks.Chapter("Where a reviewer finds what guidelines ask for", "checklist", "whole"),
        blocks.Text(_ABOUT, "muted"),
        blocks.Table(
            caption="Checklist map",
            columns=(
                blocks.Column("Asked for", "wide"),
                *blocks.columns("text", "CLAIM 2024", "TRIPOD+AI", "AI Act"),
                blocks.Column("In this report", "wide"),
                blocks.Column("Page", "number"),
            ),
            rows=rows,
            limit=200,
            titled=False,
        ),
    ]


_SANITY = (
    "Checks. First we check that the model can tell the findings apart (AUROC, with an interval "
    "by patient), and that embeddings, texts and input are sound. A fault that leaves no doubt, "
    "such as a flipped class, stops the audit; chance alone does not, since a model that follows "
    "a balanced shortcut is at chance too, but the verdict is then fail or not auditable."
)
_STOPPED = (
    "Measuring. Films were cut into regions, and the image tower embedded films and regions. "
    "Accuracy is that of every film, with intervals from a bootstrap of patients.",
    "Stopping. The audit ended before its search for shortcuts was done, for the reasons on page "
    "one. No feature was proposed, tested or judged, and nothing is said of how small an effect "
    "these films could have shown.",
)
_REGIONS = (
    "Proposing. Films are cut into regions, the image tower embeds every region, and regions that "
    "look alike to the model are grouped by k-medoids, "
)
_GROUPING = {
    "pooled": "in several numbers K of clusters and several draws, pooled and near-duplicates "
    "folded. Labels are not used.",
    "paper": "for every number K of clusters from 2 to 5 times that of the classes, or in the "
    "range that the config names, of which the one with the best silhouette is kept. Labels are "
    "not used.",
}
_GROUPING["ravl"] = _GROUPING["paper"]
_CHOOSING = (
    "Choosing. The patients are split into two halves, all films of a patient in the same. On the "
    "discovery half the accuracy on films with a region of a cluster is compared, class by class, "
    "with that on films without one. G sums these gaps, weighted by how evenly the films are "
    "split; H is the share of mistakes in which the region with the highest score for the wrong "
    "class belongs to the cluster. Clusters with low H, or without both a raised and a lowered "
    "class, are dropped, but those with large gaps on both sides are kept. This is the discovery "
    "stage of RaVL (Varma et al., NeurIPS 2024, arXiv 2411.04097)."
)
_LISTING = (
    "Choosing. Plain RaVL (Varma et al., NeurIPS 2024, arXiv 2411.04097), on all films: the "
    "accuracy on films with a region of a cluster is compared, class by class, with that on films "
    "without one. G sums these gaps, weighted by how evenly the films are split; H is the share of "
    "mistakes in which the region with the highest score for the wrong class belongs to the "
    "cluster. Every cluster with a high H and with both a raised and a lowered class is listed, by "
    "G, its regions by similarity to the medoid. Nothing is confirmed on other patients and "
    "nothing is tested on the model; on clean models this lists clusters as well."
)
_CONFIRMING = (
    "Confirming. Clusters that share half of their regions and raise the same class are taken as "
    "one. Each makes one hypothesis, fixed before the confirmation half is used: with the feature "
    "its raised class is right more often and its lowered classes, taken as one, less often. Whole "
    "patients are exchanged within class; with one film a patient the test is exact. The two sides "
    "are joined by Stouffer's method, and Benjamini-Hochberg holds the false discovery rate over "
    "all candidates (q). A confirmed correlation also keeps its sign, its least gap on both "
    "halves, and each side by itself."
)
_NOTHING_CONFIRMED = (
    "Nothing was left to confirm on the other half of the patients, or to test on the model."
)
_USING = (
    "Using. A gap is an association until an intervention shows otherwise. A window slides over "
    "films of the discovery half and is filled each time with the most ordinary of like places of "
    "other films, which has nothing that few of them have, and stands out no more than what it "
    "covers: these maps show where answers come from, for every class at once. What moves them "
    "most on a film is grouped into further candidates; so is what films differ by at one place, "
    "where the embedding there predicts, on other patients, how much the place moves. Each is "
    "looked up in the maps; those without an effect are how the model sees its own answers, and no "
    "finding. Others are tested on the other half; of those in one place, the one that tells best "
    "which films it moves, and the best confirmed one. Removal: of the windows over it the 3 that "
    "did most in the maps are filled so, the best also with a like place of one film without the "
    "feature; the drop of the margin (logit of the raised minus the lowered class) is held against "
    "films of the same class without the feature, at the best of the same places. Transplant: it "
    "is put into films of other classes, against an ordinary place, chosen alike on films that "
    "have about the same margin. A feature is used when either moves the margin by more than the "
    "least effect that matters, by itself and beyond its control; of a removal the two fills have "
    "to agree. The two make one test, and Benjamini-Hochberg holds the false discovery rate over "
    "all features."
)
_NOT_TESTED = (
    "Using. A gap is an association until an intervention shows otherwise; none was made here. "
)
_KIND = (
    "Kind. Artifacts of a region, anatomy where the raised class shows, and the rest are removed "
    "in turn; what each costs is its share. A place is sharp where it has finer detail than its "
    "control's on more than six films in ten (lower limit): man-made objects have edges; the body "
    "is blurred. In artifacts or sharp, moving other films, and hardly in such anatomy (mostly "
    "outside, if mostly in artifacts, or not shown to go with the finding): a shortcut. In it, on "
    "films of the finding more often than on others, or on those it is told from, or doing less in "
    "other films than in its own: a plausible sign, if not shown to move other films, or hardly in "
    "artifacts and not sharp, but for findings with edges. Of what is soft, anatomy where a "
    "lowered class shows counts too. All else is undecided."
)
_CONFOUNDERS = (
    "Confounders. Each attribute is compared with the label, without the model: Cramér's V, "
    "corrected for chance, and how well the attribute alone predicts the label on other patients. "
    "It is named on page one where it explains more than half of the variance of the label, by "
    "the lower end of the interval, or where values under which a class always or never occurs, "
    "beyond chance (exact binomial, Bonferroni), hold most patients of a class."
)
_SUBGROUPS = (
    "Subgroups. Accuracy by attribute is compared with the other films, adjusted for class, by "
    "exchange of whole patients."
)
_STRATA = (
    "Strata. Each correlation that was tested on the model is measured inside every subgroup too, "
    "and joined over them (Mantel-Haenszel)."
)
_SENSITIVITY = (
    "What could be seen. Cohorts with these films, patients and accuracies are simulated, each "
    "with a planted gap, and put through the same choice and test."
)
_THRESHOLDS = (
    "Intervals come from a bootstrap of patients. All thresholds were fixed before the run."
)
_SEARCHING = ("evidence.", "discovery.")  # thresholds of steps that a stopped audit did not take

LIMITATIONS = (
    "This report is about a model on one set of films. “Used” means used on these films; films of "
    "another site can differ. It is no diagnosis and no clinical validation.",
    "Only features that fit into a region (a tile) and that appear in some films and not in others "
    "can be found: not one that is in every film or spread over the film.",
    "Smaller or rarer shortcuts than those of the table of detectable gaps may exist.",
    "Fills can look unusual to the model; a control film is like its partner in margin and place.",
    "A region next to the cause can carry part of its effect; the table of where findings show is "
    "coarse.",
    "Labels are taken as given; labels may be wrong more often when the feature is present.",
)


_STOPPED_LIMITATIONS = (
    "This report is about a model on one set of films. Films of another site can differ. It is no "
    "diagnosis and no clinical validation.",
    "Whether the model uses shortcuts was not examined. Labels are taken as given.",
)


_PLAIN = (
    "The model was given films and asked which finding they show. Films were cut into regions, and "
    "regions that look alike to the model were grouped into features.",
    "On half of the patients we looked for features that go with right and wrong answers; on the "
    "other half we tested them. What is reported held on patients that had no part in the search.",
    "Then the feature was taken out of films, by two methods, and put into other films. If the "
    "answers change more than when the same is done elsewhere, the model uses it.",
    "Where the effect lies says what it is: a device or a mark is a shortcut, anatomy of the "
    "finding a plausible sign, all else is for a radiologist to decide.",
)
_GLOSSARY = (
    ("gap", "accuracy on films with a feature minus accuracy on films without it, in points"),
    ("G", "performance gap: the gaps of all classes, weighted by how evenly films are split"),
    ("H", "influence: share of mistakes in which the feature scores highest for the wrong class"),
    ("margin", "score of one class minus that of another, in logits: the larger, the surer"),
    ("removal", "the feature is painted over with what like places of other films hold"),
    ("transplant", "the feature is put into films that do not have it (insertion)"),
    ("control", "the same change made elsewhere or on films without the feature"),
    ("q", "share of false findings to expect among those with this q or a smaller one"),
    ("held-out", "patients that had no part in choosing what is tested"),
    ("AUROC", "1: the model separates two classes without error; 0.5: as a coin does"),
)


def limits_chapter(result: AuditResult) -> list[blocks.Block]:
    """Return what a signature has to know of: limits, method in plain words, and ten terms."""
    searched = result.discovery is not None
    content: list[blocks.Block] = [
        blocks.Chapter("Limits, and how this was found", "limits", "page"),
        blocks.Section("What this report cannot say"),
        blocks.Items(LIMITATIONS if searched else _STOPPED_LIMITATIONS, 1500),
    ]
    if not searched:
        return content
    return [
        *content,
        *sensitivity_part(result.sensitivity),
        blocks.Section("How it was found"),
        blocks.Items(_PLAIN),
        fact_table("Terms", _GLOSSARY),
    ]


def method_chapter(result: AuditResult, thresholds: Mapping[str, str]) -> list[blocks.Block]:
    """Return the steps that were taken in own words, and their thresholds."""
    searched = result.discovery is not None
    content: list[blocks.Block] = [blocks.Chapter("Method and thresholds", "method")]
    if result.sanity is not None:
        content.append(blocks.Text(_SANITY))
    if result.confounders:
        content.append(blocks.Text(_CONFOUNDERS))
    content += [blocks.Text(text) for text in (_search(result) if searched else _STOPPED)]
    content.append(blocks.Text(_sides(result)))
    rows = tuple(
        (rule, text)
        for rule, text in thresholds.items()
        if searched or not rule.startswith(_SEARCHING)
    )
    return [*content, *([fact_table("Thresholds", rows)] if rows else [])]


def _search(result: AuditResult) -> list[str]:
    """Return what a search did, from its proposals on."""
    protocol = result.discovery.protocol if result.discovery is not None else "pooled"
    steps = [_REGIONS + _GROUPING[protocol], _LISTING if protocol == "ravl" else _CHOOSING]
    if protocol == "ravl":
        pass
    elif not result.correlations:
        steps.append(_NOTHING_CONFIRMED)
    else:
        steps += [_CONFIRMING, *_interventions(result)]
    parts = [
        _SUBGROUPS if result.subgroups else "",
        _STRATA if any(entry.strata is not None for entry in result.correlations) else "",
    ]
    steps += [" ".join(filter(None, parts))] if any(parts) else []
    last = [_SENSITIVITY] if result.sensitivity is not None else []
    return [*steps, " ".join([*last, _THRESHOLDS])]


def _interventions(result: AuditResult) -> list[str]:
    """Say how correlations were tested on the model, or why none was."""
    tested = [e.counterfactual for e in result.correlations if e.counterfactual is not None]
    if tested:
        return [_USING, *([_KIND] if any(one.removal.shares is not None for one in tested) else [])]
    if result.task.scores == "table":
        return [f"{_NOT_TESTED}The model's scores are a table: it cannot be run on changed films."]
    return [f"{_NOT_TESTED}No correlation came so far."]


def _sides(result: AuditResult) -> str:
    """Say what the letter beside a film means, and how many films state their side."""
    films = result.cohort.images
    stated = sum(edge != "" for edge in result.left_edges)
    mirrored = result.left_edges.count("L")
    text = (
        "Sides. The letter beside a film is the side of the patient at its left edge (Right, Left, "
        "Anterior, Posterior, Head, Foot), as its header states it: on "
        f"{stated:,} of {plural(films, 'film')}"
    )
    text += f", {mirrored:,} of them mirrored (L)." if mirrored else "."
    if stated < films:
        text += (
            " Sides in names of anatomy are the patient's: where it is not stated, the heart shows "
            "them, and where it does not, the name says the picture's side."
        )
    return text


CHOICES = ("Use", "Use with conditions", "Do not use", "I disagree with this report")
SIGNERS = ("Validation engineer", "Radiologist", "Person responsible for deployment")

_STATEMENT = (
    "By signing, I confirm that I have read this report, including its verdict, the decisions of "
    "reviewers and the limitations. A signature does not change the verdict. It is no diagnosis, "
    "no clinical validation and no approval by an authority."
)
_ROLES = (
    "Validation engineer: the run was made with this model, these films and this config, and the "
    "thresholds were fixed before it.",
    "Radiologist: I have reviewed the films shown, if any, and agree with the decisions listed on "
    "page one, or say below where I disagree.",
    "Person responsible for deployment: I know the verdict and the limitations, and decide whether "
    "the model is used, and under which conditions.",
)
_WHOLE = 400  # signs: nothing that is signed is cut
_HOW = (
    "In the PDF, all of this can be filled in on a screen. Typing a name is not a signature: sign "
    "on paper, or {electronically}. Changing the file afterwards invalidates the signature."
)
_IN_A_FIELD = (
    "in the signature field of your role with any tool that signs PDF files, after your row was "
    "filled in"
)
_FROM_OUTSIDE = "sign the whole file with a tool of your institution, after it was filled in"
_DRAFT = (
    "This is a draft. It cannot be signed: {open}. Decide with a reason each (ravl-med review RUN, "
    "or review.csv of the run folder) and draw the report again (ravl-med report RUN). The final "
    "report has the places to sign."
)


def signing_chapter(result: AuditResult, digests: Mapping[str, str]) -> list[blocks.Block]:
    """Return the last page: what is signed, what a signature says, and where to sign.

    The digest of the films is called "cohort".
    """
    name = result.verdict.name
    facts = (
        ("Run", printable(result.name, 80)),
        ("Model", printable(result.model.name, 80)),
        *(
            (name.replace("_", " ").capitalize(), printable(text, _WHOLE))
            for name, text in result.about.items()
        ),
        ("Model digest", printable(result.model.digest, 80)),
        ("Cohort digest", printable(digests.get("cohort", ""), 80) or DASH),
        ("Verdict", f"{VERDICT_NAMES[name]}. {verdict_line(result)}"),
        ("Status", f"{report_status(result)}. {status_sentence(result)}"),
        ("Decisions on correlations", _decisions(result)),
    )
    return [
        blocks.Chapter("Sign-off", "sign-off", "page"),
        fact_table("What is signed", facts, dense=False, limit=_WHOLE),
        *(_places_to_sign() if report_status(result) == "FINAL" else _no_place(result)),
    ]


def _no_place(result: AuditResult) -> list[blocks.Block]:
    """Say why a draft has no place to sign."""
    left = result.undecided
    open_ones = "it has not been reviewed" if left is None else f"{plural(left, 'decision')} open"
    return [
        blocks.Text(_DRAFT.format(open=open_ones), "lead"),
        blocks.Section("What a signature on the final report will say"),
        blocks.Text(_STATEMENT),
        blocks.Items(_ROLES),
        blocks.Text(
            f"Each of them chooses one: {'; '.join(CHOICES)}. There is room for conditions."
        ),
    ]


def _places_to_sign() -> list[blocks.Block]:
    """Return what a signature says, the choices and where to sign."""
    return [
        blocks.Section("What a signature says"),
        blocks.Text(_STATEMENT),
        blocks.Items(_ROLES),
        blocks.Text(
            _HOW.format(electronically=_IN_A_FIELD if can_sign() else _FROM_OUTSIDE), "muted"
        ),
        blocks.SignOff(SIGNERS, CHOICES, signable=can_sign()),
    ]


def status_sentence(result: AuditResult) -> str:
    """Say why the report is a draft, or that it is final."""
    if result.undecided is None:
        return "Not yet reviewed."
    if not result.undecided:
        until = holds_until(result)
        return f"Nothing is open. Valid until {until}." if until else "Nothing is open."
    return f"{plural(result.undecided, 'decision')} still open."


def _decisions(result: AuditResult) -> str:
    """Count what reviewers decided and what is open; before a review the latter is not known."""
    if result.sensitivity is None:
        return "none; the audit stopped before there was anything to decide"
    if result.undecided is None:
        return "not yet reviewed"
    decided = sum(ruling.in_force for ruling in result.rulings)
    expired = len(result.rulings) - decided
    text = f"{decided:,} made, {result.undecided:,} open"
    return f"{text}; {plural(expired, 'acceptance')} expired" if expired else text
