"""The model card: where the model comes from, what was measured, what got worse, the limits."""

import re
from dataclasses import replace

import mitigation_results as made

from ravl_med.evidence.mitigation_result import MitigationVerdict
from ravl_med.reporting.cards.hub import model_card_text
from ravl_med.reporting.mitigation.tables import difference_text
from ravl_med.reporting.wording import accuracy_text, score_text


def plain(text: str) -> str:
    """The card without the backslashes of Markdown, spaces alike."""
    return re.sub(r"\s+", " ", re.sub(r"\\([^\w\s])", r"\1", text))


def flat(text: str) -> str:
    return " ".join(text.split())


def test_origin_recipe_and_how_to_open():
    card = model_card_text(made.improved(), made.details())
    assert card.startswith("---\nlibrary_name: open_clip\n")
    text = plain(card)
    assert f"Fine-tuned from the audited model: SHA-256 `{'ab12' * 16}`" in text
    assert f"This model: SHA-256 `{'cd34' * 16}`" in text
    assert "Arm: RaVL with counterfactual regions (counterfactual; ours; tower trained)" in text
    assert "| optimiser | AdamW, peak 5e-05, weight decay 0.2 |" in text
    assert "with the feature the model tends to call films cardiomegaly, at the cost of no" in text
    assert "It is no confirmed shortcut; it was mitigated because the config asks" in text
    assert 'folder = "local-dir:."' in card
    assert "No clinical validation" in text


def test_a_model_of_transformers_is_opened_by_transformers():
    card = model_card_text(made.improved(), made.details(), "transformers")

    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "AutoModel.from_pretrained(folder, local_files_only=True)" in card
    assert "open_clip" not in card[card.index("## How to open it") :]


def test_the_numbers_of_the_final_test():
    result = made.improved()
    text = plain(model_card_text(result, made.details()))
    for arm in result.arms:
        for change in (arm.image_overall, arm.image_worst, arm.region_overall, arm.region_worst):
            assert flat(accuracy_text(change.after, change.interval)) in text
        assert flat(score_text(arm.auroc.after, arm.auroc.interval)) in text
    for entry in result.delivered.gaps:
        assert flat(difference_text(entry.gap)) in text
    worst = result.delivered.image_worst
    assert f"| {flat(difference_text(worst))} |" in text


def test_everything_that_got_worse_and_the_re_audit():
    result = made.improved()
    text = plain(model_card_text(result, made.details()))
    for name, change in result.delivered.worsened():
        surely = "✗ yes" if change.fell_surely() else "no"
        row = re.search(rf"\| {re.escape(name)} \|[^|]*\|[^|]*\|[^|]*\|([^|]*)\|([^|]*)\|", text)
        assert row is not None
        assert row.group(1).strip() == flat(difference_text(change))
        assert row.group(2).strip() == surely
    assert "**Review**. Gone:" in text
    assert result.reaudit.appeared[0] in text
    failed = plain(model_card_text(made.failed(), made.details()))
    assert "**Worse**" in failed
    assert "Not gone: 1 mitigated shortcut found again" in failed
    assert "raises cardiomegaly, gap +84.1 points" in failed


def test_tables_have_as_many_cells_in_every_row():
    for block in model_card_text(made.improved(), made.details()).split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) <= 1


def test_text_is_no_markup():
    evil = "a|b <b> *c* `d` [e](f) &lt;"
    result = made.improved()
    delivered = replace(result.delivered, classes={evil: made.change(0.7, 0.6)})
    hostile = replace(
        result,
        verdict=MitigationVerdict("worse", (evil,)),
        arms=(*result.arms[:-1], delivered),
    )
    card = model_card_text(hostile, made.details())
    assert r"a\|b \<b\> \*c\* \`d\` \[e\](f) &amp;lt;" in card
    assert "a|b" not in card
    assert not re.search(r"(?<!\\)<b", card.replace("<br>", ""))


def test_nothing_to_do_says_that_there_is_no_model():
    text = plain(model_card_text(made.idle(), made.details()))
    assert "**Nothing to do**" in text
    assert "No model was made" in text
    assert "The audit found no confirmed shortcut above the gate." in text
    assert "create_model" not in text


def test_a_mitigation_without_a_re_audit_says_so():
    text = plain(model_card_text(replace(made.improved(), reaudit=None), made.details()))
    assert "The new model was not audited again." in text
