"""Allowed words, and a search that is kept."""

import os
from dataclasses import replace

import cv2
import numpy as np
import pytest

from ravl_med.config.audit import SHOWN_WORDS
from ravl_med.regions.burned_in_text import (
    KeptTextSearch,
    LetterRows,
    View,
    fold_words,
    only_allowed_text,
)
from ravl_med.storage.cache import Cache

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


class Counting:
    """A real search that counts how often it is asked."""

    method, reads = "rows", True

    def __init__(self) -> None:
        self.asked = 0

    def find(self, film, views=()):
        self.asked += 1
        return tuple(replace(area, allowed=True) for area in LetterRows().find(film, views))


def test_a_film_is_searched_once_and_what_is_kept_holds_no_text(tmp_path):
    film = cv2.putText(np.full((240, 500), 90, np.uint8), "JOHN DOE", (20, 99), 0, 1, 250, 2)
    inner, cache = Counting(), Cache(tmp_path / "cache")
    search = KeptTextSearch(inner, cache, ALLOWED)
    first, again = search.find(film), search.find(film)

    assert inner.asked == 1
    assert len(first) == len(again) >= 1
    np.testing.assert_array_equal(first[0].corners, again[0].corners)
    assert again[0].allowed
    (kept,) = (tmp_path / "cache" / "texts").iterdir()
    assert b"DOE" not in kept.read_bytes()
    search.find(film, [View((0, 0, 60, 60), 1.0)])
    KeptTextSearch(inner, cache, fold_words(["DOE"])).find(film)
    assert inner.asked == 3
    kept.write_bytes(b'[["nonsense"')
    assert len(search.find(film)) == len(first)
    assert inner.asked == 4
    kept.write_bytes(b"[" * 100_000)
    assert len(search.find(film)) == len(first)
    kept.unlink()
    os.mkfifo(kept)  # is written over
    assert len(search.find(film)) == len(first)
    assert inner.asked == 6
