from dataclasses import replace

import numpy as np
import pytest

from ravl_med.evidence.results import BurnedInText
from ravl_med.regions.burned_in_text import TextArea, View
from ravl_med.reporting.pictures import TextMasking, burned_in_sentence, hide_areas

FOUND = BurnedInText("an OCR", True, 12, 3, 5, 2, 1)


def area(x0, y0, x1, y1, *, allowed=False):
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=np.float64)
    return TextArea(corners, allowed)


class Search:
    method, reads = "made up", True

    def __init__(self, *areas):
        self.areas, self.views = areas, ()

    def find(self, film, views=()):
        self.views = views
        if self.areas == ("broken",):
            raise ValueError("DOE JOHN")
        return self.areas


def test_an_area_is_flat_gray_in_a_light_outline_and_the_rest_untouched():
    film = np.random.default_rng(0).integers(0, 255, (100, 200), dtype=np.uint8)
    hidden = hide_areas(film, [area(50, 40, 120, 60)])
    assert (hidden[42:58, 52:118] == 112).all()
    changed = np.argwhere(hidden != film)
    (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
    assert top >= 32
    assert left >= 22
    assert bottom <= 67
    assert right <= 148
    assert (hidden[top, left + 2 : right - 2] == 224).all()


def test_areas_that_overlap_have_one_outline():
    hidden = hide_areas(
        np.zeros((100, 200), np.uint8), [area(20, 40, 90, 60), area(60, 40, 150, 60)]
    )
    assert (hidden[50, 20:150] == 112).all()


def test_an_area_that_is_turned_or_leaves_the_film_is_hidden():
    turned = TextArea(np.array([[60.0, 20], [100, 60], [90, 70], [50, 30]]), allowed=False)
    hidden = hide_areas(np.zeros((100, 110), np.uint8), [turned, area(-5, 90, 40, 140)])
    assert hidden[45, 75] == 112
    assert hidden[99, 10] in (112, 224)
    assert hidden[20, 20] == 0


def test_the_film_itself_is_not_changed():
    film = np.zeros((50, 60), np.uint8)
    assert TextMasking(Search(area(10, 10, 30, 20))).mask(film).pixels.any()
    assert not film.any()


def test_allowed_words_are_left_and_told():
    done = TextMasking(Search(area(10, 10, 30, 20, allowed=True))).mask(
        np.zeros((50, 60), np.uint8)
    )
    assert (done.hidden, done.allowed) == (0, True)
    assert not done.pixels.any()


def test_views_reach_the_search():
    search = Search()
    TextMasking(search).mask(np.zeros((50, 60), np.uint8), [View((0, 0, 9, 9), 2.0)])
    assert search.views == [View((0, 0, 9, 9), 2.0)]


def test_a_search_that_fails_hides_all_and_tells_nothing(capsys):
    done = TextMasking(Search("broken")).mask(np.zeros((50, 60), np.uint8))
    assert (done.pixels == 112).all()
    assert done.hidden == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("found", "synthetic", "told"),
    [
        (FOUND, True, ""),
        (None, True, ""),
        (replace(FOUND, films=0), False, ""),
        (None, False, "shown as it is"),
        (FOUND, False, "12 films shown; 5 lines hidden, on 3 of them"),
        (replace(FOUND, reads=False), False, "pip install rapidocr onnxruntime"),
    ],
)
def test_the_sentence_says_what_was_done(found, synthetic, told):
    sentence = burned_in_sentence(found, synthetic=synthetic)
    assert (sentence == "") if told == "" else (told in sentence)
