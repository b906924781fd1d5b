"""Results in which every string from outside is hostile, and what reads their pages."""

from dataclasses import replace

from ravl_med.evidence.audit_result import Gate, Verdict
from ravl_med.evidence.results import CrossedAttribute, Interval, Strata, StratumGap

HOSTILE = (
    '<img src="http://x.invalid/a.png"/>',
    "R&D <b>",
    "[/x] %s {} \\",
    "y" * 10_000,
    "肺炎 🫁",
    "אבג\u202eright to left",
)
FIVE = ("cardiomegaly", "no finding", "pleural effusion", "pneumothorax", "pneumonia")


def hostile_strata() -> Strata:
    gaps = tuple(StratumGap(text, 5, 6, 0.2, Interval(0.1, 0.3)) for text in HOSTILE)
    sides = (0.2, Interval(-0.1, 0.3), -0.2, Interval(-0.3, 0.1), HOSTILE)
    return Strata(0.1, tuple(CrossedAttribute(text, 0.1, gaps, gaps, *sides) for text in HOSTILE))


def hostile_result(result):
    """Every string that can come from outside is one of `HOSTILE`."""
    first, *rest = result.correlations
    tested = replace(first.counterfactual, used=False, reasons=HOSTILE * 3)
    return replace(
        result,
        name="x" * 64,
        title="<para>" * 300,
        verdict=Verdict(
            "fail", (*HOSTILE, *HOSTILE), tuple(Gate(text, False, text) for text in HOSTILE * 5)
        ),
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
        discovery=replace(
            result.discovery,
            region_source=HOSTILE[3],
            left_out={60 + n: HOSTILE[n % 6] for n in range(20)},
        ),
        subgroups=tuple(
            replace(result.subgroups[0], attribute=text, value=text) for text in HOSTILE * 30
        ),
        sensitivity=replace(result.sensitivity, untested=dict.fromkeys(HOSTILE, 1)),
        correlations=(
            replace(
                first,
                reasons=HOSTILE * 3,
                counts=False,
                counterfactual=tested,
                strata=hostile_strata(),
                also=tuple(range(100)),
            ),
            *(replace(entry, reasons=HOSTILE * 3, counts=False) for entry in rest),
        ),
    )


def entries_of(outline):
    for entry in outline:
        if isinstance(entry, list):
            yield from entries_of(entry)
        else:
            yield entry
