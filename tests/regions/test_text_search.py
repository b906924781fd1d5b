import pytest

from ravl_med.config.audit import SHOWN_WORDS
from ravl_med.regions.burned_in_text import fold_words, only_allowed_text

ALLOWED = fold_words(SHOWN_WORDS)


@pytest.mark.parametrize(
    "text", ["L", "r", " portable ", "AP ERECT", "AP/SUPINE", "Ⓛ", "ＡＰ", "(R)"]
)
def test_sides_and_positions_may_be_shown(text):
    assert only_allowed_text(text, ALLOWED)


@pytest.mark.parametrize(
    "text", ["", "..", "DOE", "L DOE", "AP 12:30", "PORTABLE1", "PORTABL", "ERECTL", "右 L", "R2"]
)
def test_anything_else_may_not(text):
    assert not only_allowed_text(text, ALLOWED)


def test_words_of_a_config_are_folded():
    assert fold_words(["Links", "l"]) == {"LINKS", "L"}
