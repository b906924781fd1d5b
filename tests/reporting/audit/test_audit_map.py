"""The map in the report: who is marked how, what leads where, what the note says; both formats."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pypdf
import pytest
from html_reading import read_html

from ravl_med.discovery.clusters import ClusterMap, MappedCluster
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit.search import map_part
from ravl_med.reporting.layout.blocks import Chapter, ClusterPlot, Entry, Text
from ravl_med.reporting.layout.html import body_of
from ravl_med.reporting.layout.pdf import draw_pdf


def part_of(result: AuditResult) -> ClusterPlot:
    (block,) = map_part(result)
    assert isinstance(block, ClusterPlot)
    return block


def with_map(result: AuditResult, clusters: int, **values: float) -> AuditResult:
    spots = [MappedCluster(at, at % 7 / 7, at % 11 / 11, 50 + at, None) for at in range(clusters)]
    shown = ClusterMap(tuple(spots), values.get("kept", 0.5), values.get("correlation", 0.75))
    assert result.discovery is not None
    return replace(result, discovery=replace(result.discovery, cluster_map=shown))


def test_marks_say_what_became_of_a_cluster(full_result: AuditResult) -> None:
    block = part_of(full_result)
    looks = {spot.number: spot.look for spot in block.spots if spot.number}
    assert looks == {
        "1": "shortcut",
        "2": "shortcut",
        "3": "confirmed",
        "4": "candidate",
        "5": "candidate",
        "6": "confirmed",
        "7": "candidate",
    }
    assert {look for _, look in block.legend} == {"shortcut", "confirmed", "candidate", "other"}
    assert len(block.spots) == 20
    # Cluster 3 is shown as one with correlation 1, and has its mark without a number.
    assert sum(spot.look == "shortcut" for spot in block.spots) == 3
    assert "shown as one with a correlation" in block.note


@pytest.mark.parametrize(("kind", "look"), [("plausible_sign", "sign"), ("undecided", "undecided")])
def test_what_counts_and_is_no_shortcut(full_result: AuditResult, kind: str, look: str) -> None:
    first = replace(full_result.correlations[0], kind=kind)
    block = part_of(replace(full_result, correlations=(first, *full_result.correlations[1:])))
    assert next(spot.look for spot in block.spots if spot.number == "1") == look


def test_only_those_with_a_page_are_numbered_and_lead_there(result_of) -> None:
    block = part_of(result_of(correlations=14, to_decide=tuple(range(3, 11))))
    links = {spot.number: spot.key for spot in block.spots if spot.number}
    assert links == {str(rank): f"correlation-{rank}" for rank in range(1, 11)}
    assert sum(spot.look == "candidate" and not spot.number for spot in block.spots) == 4


def test_what_effects_proposed_has_no_mark_and_the_note_says_so(full_result: AuditResult) -> None:
    first, *rest = full_result.correlations
    proposed = replace(first, cluster=replace(first.cluster, source="effects"))
    said = "Features that effects proposed are no clusters, and have no mark."
    assert said in part_of(replace(full_result, correlations=(proposed, *rest))).note
    assert said not in part_of(full_result).note


def test_the_note_says_how_far_the_map_can_be_trusted(null_result: AuditResult) -> None:
    note = part_of(with_map(null_result, 12)).note.replace("\u00a0", " ")
    assert "12 feature clusters" in note
    assert "(50 to 61)" in note
    assert "keep 50 % of the squared distances (distances correlate by 0.75)" in note
    assert "No correlation was found" in note
    assert "What is far apart here is so to the model" in note
    little = part_of(with_map(null_result, 12, kept=0.19)).note
    assert little.endswith("That is little: this map says next to nothing.")
    blank = part_of(with_map(null_result, 1, kept=math.nan, correlation=math.nan)).note
    assert "1 feature cluster," in blank
    assert "there is no distance to show" in blank


def test_no_cluster_and_no_search_have_no_map(null_result, stopped_result) -> None:
    (block,) = map_part(with_map(null_result, 0))
    assert isinstance(block, Text)
    assert "No feature cluster was proposed" in block.text
    assert map_part(stopped_result) == []


def test_of_very_many_the_smallest_are_left_out_in_words(null_result: AuditResult) -> None:
    block = part_of(with_map(null_result, 1600))
    assert len(block.spots) == 1500
    assert min(spot.size for spot in block.spots) == 50 + 100
    assert "The smallest 100 are not drawn." in block.note


def test_in_a_browser_numbers_are_links_and_the_map_is_told(full_result: AuditResult) -> None:
    block = part_of(full_result)
    reader = read_html(body_of([block]))
    (drawn,) = reader.of("svg")
    assert drawn["role"] == "group"  # links inside of an image would be unheard
    told = drawn["aria-label"] or ""
    assert told.startswith("Map of the feature clusters. 20 clusters drawn")
    links = reader.of("a")
    assert {link["href"] for link in links} == {f"#correlation-{rank}" for rank in range(1, 8)}
    for link in links:
        assert (link["aria-label"] or "") in told
    assert reader.paragraphs[-1].startswith("20 feature clusters")


def test_on_paper_numbers_lead_to_their_pages(full_result: AuditResult) -> None:
    entries = [
        Entry(f"Correlation {rank}", f"correlation-{rank}", "correlation", (), (Text("page"),))
        for rank in range(1, 8)
    ]
    blocks = [Chapter("Search", "search"), *map_part(full_result), *entries]
    paper = draw_pdf(blocks, "run", "title", "subject")
    reader = pypdf.PdfReader(io.BytesIO(paper))
    pages = reader.pages  # no chapter stands on the first
    links = [annotation.get_object() for annotation in pages[1]["/Annots"]]
    assert {link["/Subtype"] for link in links} == {"/Link"}
    there = [reader.get_page_number(link["/Dest"][0].get_object()) for link in links]
    assert sorted(there) == [2, 3, 4, 5, 6, 7, 8]
    assert "shortcut" in pages[1].extract_text()
