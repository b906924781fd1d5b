import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pypdf import PdfReader

from ravl_med.evidence.audit_result import Interval, Verdict
from ravl_med.reporting.pdf import write_pdf
from ravl_med.reporting.wording import percent, signed

HOSTILE = (
    '<img src="http://x.invalid/a.png"/>',
    "R&D <b>",
    "[/x] %s {} \\",
    "y" * 10_000,
    "肺炎 🫁",
    "אבג\u202eright to left",
)
NAN = float("nan")


def pages_of(path: Path) -> list[str]:
    """Text of each page on one line."""
    reader = PdfReader(io.BytesIO(path.read_bytes()))
    return [" ".join(page.extract_text().split()) for page in reader.pages]


@pytest.fixture
def text_of(film, details, tmp_path):
    def make(result, **changes):
        path = tmp_path / "report.pdf"
        write_pdf(result, film, replace(details, **changes), path)
        return pages_of(path)

    return make


def test_verdict_page(result_of, text_of):
    result = result_of()
    first = text_of(result)[0]
    assert "Fail" in first
    assert "DRAFT" in first
    assert result.title in first
    assert result.model.name in first
    assert result.verdict.reasons[0] in first
    assert "page 1 of" in first
    assert "When the feature in cluster 11 is present, the model tends to call films" in first
    assert "120 films of 70 patients" in first


@pytest.mark.parametrize(
    ("name", "word"),
    [("fail", "Fail"), ("review", "Review"), ("pass", "Pass"), ("not_auditable", "Not auditable")],
)
def test_verdict_words(result_of, text_of, name, word):
    result = result_of(correlations=0, verdict=Verdict(name, ("A reason.",)))
    first = text_of(result)[0]
    assert word in first
    assert "A reason." in first


def test_numbers_are_those_of_the_result(result_of, text_of):
    result = result_of()
    pages = text_of(result)
    whole = " ".join(pages)
    performance = next(page for page in pages if page.startswith("Performance"))
    for value in (*result.accuracy.by_class, result.accuracy.overall):
        assert percent(value, 1).replace("\u00a0", " ") in performance
    for entry in result.correlations:
        page = next(page for page in pages if page.startswith(f"Correlation {entry.rank}: "))
        assert result.task.classes[entry.cluster.raised_class] in page
        for c in range(len(result.task.classes)):
            assert (
                percent(float(entry.cluster.accuracy_present[c]), 1).replace("\u00a0", " ") in page
            )
            assert (
                percent(float(entry.cluster.accuracy_absent[c]), 1).replace("\u00a0", " ") in page
            )
            assert signed(100 * float(entry.cluster.gap[c])) in page
        top = entry.removal.effect[entry.order[:10]]
        images = result.region_image[entry.cluster.regions[entry.order[:10]]]
        for effect, image in zip(top, images, strict=True):
            assert f"removal effect {signed(float(effect), 2)}" in page
            assert result.image_ids[image] in page
    assert "a chest film with no finding" in whole
    assert "arXiv 2411.04097" in whole
    assert "nan" not in re.findall(r"[a-z]+", whole)


def test_uncounted_candidate_names_the_failed_rules(result_of, text_of):
    result = result_of(correlations=3)
    page = next(page for page in text_of(result) if page.startswith("Correlation 3: not counted"))
    assert result.correlations[2].reasons[0] in page


def test_five_classes_fit_on_one_page_a_correlation(result_of, text_of):
    names = ("cardiomegaly", "no finding", "pleural effusion", "pneumothorax", "pneumonia")
    pages = text_of(result_of(names, 3))
    starts = [at for at, page in enumerate(pages) if page.startswith("Correlation ")]
    assert starts == list(range(starts[0], starts[0] + 3))
    assert pages[starts[-1] + 1].startswith("Method")


def test_nothing_found(result_of, text_of):
    whole = " ".join(text_of(result_of(correlations=0)))
    assert "Nothing found" in whole
    assert "This says nothing about effects smaller than the thresholds" in whole
    assert "4,320 regions (6 x 6 tiles)" in whole
    assert "10 points" in whole


def test_stopped_before_discovery(result_of, text_of):
    verdict = Verdict("not_auditable", ("The class pneumonia has 3 films; 20 are needed.",))
    whole = " ".join(text_of(result_of(correlations=0, discovery=None, verdict=verdict)))
    assert "No search was made: the audit stopped before discovery." in whole
    assert "Nothing found" not in whole


def test_twelve_correlations_make_ten_pages(result_of, text_of):
    result = result_of(correlations=12)
    # A late correlation that counts comes before earlier ones that do not.
    late = replace(result.correlations[-1], counts=True, kind="shortcut", reasons=())
    pages = text_of(replace(result, correlations=(*result.correlations[:-1], late)))
    starts = [page for page in pages if re.match(r"Correlation \d+:", page)]
    assert [re.match(r"Correlation (\d+)", page)[1] for page in starts[:4]] == ["1", "2", "12", "3"]
    assert len(starts) == 10
    assert "and 2 more have none" in " ".join(pages)


def test_sixty_classes_split_over_pages(result_of, text_of):
    pages = text_of(result_of(tuple(f"finding {c}" for c in range(60)), 2))
    tables = [page for page in pages if "Class Films Accuracy Interval" in page]
    assert len(tables) >= 2
    assert all(f"finding {c} " in " ".join(tables) for c in range(60))
    assert "40 more classes with smaller gaps" in " ".join(pages)


def test_missing_numbers_are_dashes(result_of, text_of):
    result = result_of()
    nothing = Interval(NAN, NAN)
    accuracy = replace(
        result.accuracy,
        overall=NAN,
        overall_interval=nothing,
        by_class=(NAN,) * 3,
        by_class_interval=(nothing,) * 3,
        predicted_share=(NAN,) * 3,
    )
    entry = result.correlations[0]
    blank = np.full(3, NAN)
    cluster = replace(
        entry.cluster,
        accuracy_absent=np.array([0.41, NAN, 0.8]),
        accuracy_present=np.array([0.97, NAN, 0.2]),
        influence=float("-inf"),
    )
    removal = replace(
        entry.removal,
        effect=np.full(40, NAN),
        mean=NAN,
        interval=nothing,
        inside_share=NAN,
    )
    entry = replace(
        entry,
        cluster=cluster,
        removal=removal,
        gap_interval=tuple(Interval(v, v) for v in blank),
        accuracy_present_interval=(nothing,) * 3,
        accuracy_absent_interval=(nothing,) * 3,
        order=np.arange(40),
    )
    pages = text_of(replace(result, accuracy=accuracy, correlations=(entry,)))
    words = re.findall(r"[a-z]+", " ".join(pages).lower())
    assert "nan" not in words
    assert "inf" not in words
    page = next(page for page in pages if page.startswith("Correlation 1"))
    assert "removal effect not measured" in page
    assert "no finding 9 / 16 – – – " in page


def test_hostile_strings_stay_text(result_of, text_of):
    result = result_of(HOSTILE, 2)
    hostile = replace(
        result,
        name="x" * 64,
        title="<para>" * 300,
        verdict=Verdict("fail", (*HOSTILE, *HOSTILE)),
        model=replace(result.model, name=HOSTILE[0], architecture=HOSTILE[3], digest="f" * 500),
        cohort=replace(
            result.cohort,
            left_out=dict.fromkeys(HOSTILE, 1),
            rejected=dict.fromkeys(HOSTILE, 1),
            rejected_rows=tuple((row, HOSTILE[3], HOSTILE[0]) for row in range(500)),
            attributes={text: dict.fromkeys(HOSTILE, 1) for text in HOSTILE},
        ),
        task=replace(result.task, texts=dict.fromkeys(HOSTILE, HOSTILE * 30)),
        image_ids=tuple(f"{HOSTILE[i % 6]}" for i in range(len(result.image_ids))),
        correlations=tuple(
            replace(entry, reasons=HOSTILE * 3, counts=False) for entry in result.correlations
        ),
    )
    pages = text_of(
        hostile,
        config_yaml="\n".join(HOSTILE),
        versions=dict.fromkeys(HOSTILE, HOSTILE[3]),
        digests={HOSTILE[0]: HOSTILE[5]},
        thresholds=dict.fromkeys(HOSTILE, HOSTILE[4]),
    )
    whole = " ".join(pages)
    assert '<img src="http://x.invalid/a.png"/>' in whole
    assert "R&D <b>" in whole
    assert "[/x] %s {} \\" in whole
    assert "U+80BA U+708E U+1FAC1" in whole
    assert "U+05D0 U+05D1 U+05D2" in whole
    assert "\u202e" not in whole
    assert "row 19" in whole
    assert "row 21" not in whole
    assert "and 480 more" in whole


def test_pseudonyms_but_no_messages_of_rejected_rows(result_of, text_of):
    result = result_of()
    rows = ((17, "truncated", "SECRET-NAME.dcm ends early"),)
    whole = " ".join(text_of(replace(result, cohort=replace(result.cohort, rejected_rows=rows))))
    assert "row 17 (truncated)" in whole
    assert "SECRET" not in whole


def test_same_input_same_bytes(result_of, film, details, tmp_path):
    for name in ("a.pdf", "b.pdf"):
        write_pdf(result_of(), film, details, tmp_path / name)
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_metadata_outline_fonts(result_of, film, details, tmp_path):
    path = tmp_path / "report.pdf"
    result = result_of()
    write_pdf(result, film, details, path)
    reader = PdfReader(io.BytesIO(path.read_bytes()))
    assert reader.metadata.title == result.title
    assert reader.metadata.author.startswith("RaVL-Med")
    assert "sample-run" in reader.metadata.subject
    assert reader.trailer["/Root"]["/Lang"] == "en"
    titles = [entry.title for entry in flat(reader.outline)]
    assert titles[0] == result.title
    assert any(title.startswith("Correlation 2: shortcut") for title in titles)
    for page in reader.pages:
        for font in page["/Resources"]["/Font"].values():
            assert "DejaVu" in font.get_object()["/BaseFont"]


def flat(outline):
    for entry in outline:
        if isinstance(entry, list):
            yield from flat(entry)
        else:
            yield entry


def test_twenty_correlations_of_large_noisy_films_stay_small(result_of, details, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1000), dtype=np.uint8)
    result = result_of(correlations=20)
    scale = np.array([1000, 1200, 1000, 1200]) / 240
    result = replace(result, region_boxes=(result.region_boxes * scale).astype(np.float32))
    path = tmp_path / "report.pdf"
    write_pdf(result, lambda _: noise, details, path)
    assert path.stat().st_size < 10_000_000


def test_regions_shown_is_kept(result_of, text_of):
    page = next(p for p in text_of(result_of(), regions_shown=3) if p.startswith("Correlation 1"))
    assert "The first 3 regions" in page
    assert page.count("removal effect +") == 3
