import numpy as np
import pytest
from burned_in_films import burn, phantom_film

from ravl_med.regions.burned_in_text import LetterRows
from ravl_med.regions.segmenter import built_in_segmenter
from ravl_med.reporting.pictures import hide_areas


def hidden(areas, shape):
    return hide_areas(np.zeros(shape, np.uint8), areas) > 0


@pytest.mark.parametrize("turned", [0, 90])
@pytest.mark.parametrize("change", [255, -200])
def test_rows_of_letters_are_found(turned, change):
    film = phantom_film(2, 512)
    film = film if change > 0 else np.maximum(film, 210)
    film, burned = burn(film, "QZX12VWK", (190, 240), 20, change, turned)
    assert hidden(LetterRows().find(film), film.shape)[burned.ink].mean() > 0.95


def test_nothing_is_allowed_since_nothing_is_read():
    film, _ = burn(phantom_film(2, 512), "PORTABLE", (40, 20), 20)
    search = LetterRows()
    assert not search.reads
    assert not any(area.allowed for area in search.find(film))


def test_a_single_letter_is_left():
    film, burned = burn(phantom_film(2, 512), "L", (470, 30), 24)
    assert not hidden(LetterRows().find(film), film.shape)[burned.ink].any()


def test_text_of_a_segmenter_is_taken_as_well():
    film = phantom_film(0, 256, ("text",))
    assert len(LetterRows(built_in_segmenter()).find(film)) > len(LetterRows().find(film))


def test_an_empty_film_has_no_rows():
    assert LetterRows().find(np.zeros((64, 48), np.uint8)) == ()
