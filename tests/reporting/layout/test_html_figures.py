"""Films as data in a page, as large as its budget lets them be; boxes that lie over them."""

import base64
import io
import re

import numpy as np
from html_reading import read_html
from PIL import Image

from ravl_med.reporting.layout.blocks import Flow, FlowBox
from ravl_med.reporting.layout.html import body_of
from ravl_med.reporting.layout.html_figures import films_of, overlay
from ravl_med.reporting.pictures import Picture, film_picture

NOISE = np.random.default_rng(0).integers(0, 256, (1000, 800), dtype=np.uint8)


def opened(address: str) -> Image.Image:
    content = address.removeprefix("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_the_larger_picture_is_taken_and_once():
    picture = film_picture(NOISE, [], large=768)
    films = films_of([picture, picture])
    assert len(films) == 1
    assert (films[picture].width, films[picture].height) == (614, 768)
    assert opened(films[picture].address).size == (614, 768)


def test_a_small_picture_keeps_its_size():
    picture = Picture(NOISE[:50, :70], ())
    assert (films_of([picture])[picture].width, films_of([picture])[picture].height) == (70, 50)


def test_all_get_smaller_until_they_fit():
    pictures = [film_picture(NOISE, [], large=768) for _ in range(4)]
    for budget in (400_000, 100_000, 20_000):
        films = films_of(pictures, budget)
        sizes = {(film.width, film.height) for film in films.values()}
        assert len(sizes) == 1
        assert sum(len(base64.b64decode(f.address.split(",")[1])) for f in films.values()) <= budget
    assert films_of(pictures, 1)[pictures[0]].height == 90  # never none at all


def test_no_picture_is_no_film():
    assert films_of([]) == {}


def test_boxes_are_shares_of_the_picture():
    picture = Picture(NOISE[:100, :200], ((0.25, 0.5, 0.5, 1.0),))
    drawn = overlay(picture, 400, 200)
    assert 'viewBox="0 0 400 200"' in drawn
    boxes = re.findall(r'<rect x="(\S+)" y="(\S+)" width="(\S+)" height="(\S+)" (.*?)/>', drawn)
    assert [box[:4] for box in boxes] == [("100", "100", "100", "100")] * 2


def test_a_flow_is_a_figure_that_is_told_in_words() -> None:
    box = FlowBox('<img src="x">: 3 rows', ("2 & more",))
    source = body_of([Flow("Cohort flow", box, (box,), box, ())])
    reader = read_html(source)
    assert not reader.of("img")
    (drawn,) = reader.of("svg")
    told = '<img src="x">: 3 rows (2 & more)'
    assert drawn["aria-label"] == f"Cohort flow. {told}. {told}. {told}."
    assert drawn["role"] == "img"
    assert reader.paragraphs == ["Cohort flow"]
    assert 'fill="#ffffff" stroke="#1b2733"' in source  # a box hides the line behind it
