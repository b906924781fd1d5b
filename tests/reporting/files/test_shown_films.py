"""Films of a report: kept as they are shown, their text hidden, and drawn again from that."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from run_folders import GATE

from ravl_med.errors import DataError
from ravl_med.regions.burned_in_text import TextArea
from ravl_med.reporting.files.saved_run import (
    SavedRun,
    _require_searched,
    keep_films,
    read_kept,
    read_run,
)
from ravl_med.reporting.pictures import TextMasking, crop_view, shown_boxes


class Corner:
    """Finds a line in the corner of every second film that it is asked about."""

    method, reads = "a made-up search", True

    def __init__(self):
        self.asked = []

    def find(self, film, views=()):
        self.asked.append(tuple(views))
        box = np.array([[10.0, 10], [90, 10], [90, 30], [10, 30]])
        return (TextArea(box, allowed=len(self.asked) % 2 == 0),)


def test_each_film_is_searched_once_with_the_parts_that_are_shown(result_of, film, tmp_path):
    result, search = result_of(), Corner()
    found = keep_films(result, 10, film, tmp_path, TextMasking(search), lambda index: index == 0)
    shown = shown_boxes(result, 10)
    assert found.films == len(shown) == len(search.asked) == len(list(tmp_path.iterdir()))
    assert found.masked == found.areas == -(-len(shown) // 2)
    assert found.allowed == len(shown) // 2
    assert found.declared == int(0 in shown)
    assert found.method == "a made-up search"
    first = next(iter(shown))
    wanted = tuple(crop_view(film(first).shape, box) for box in shown[first])
    assert search.asked[0] == wanted
    kept = read_kept(tmp_path)(first)
    assert (kept[15:25, 15:85] == 112).all()
    assert np.array_equal(kept[60:], film(first)[60:])


def test_films_are_kept_as_they_are_where_nothing_is_hidden(result_of, film, tmp_path):
    assert keep_films(result_of(), 10, film, tmp_path, None) is None
    index = int(next(tmp_path.iterdir()).stem)
    assert np.array_equal(read_kept(tmp_path)(index), film(index))


def test_a_film_that_is_missing_is_told(tmp_path):
    with pytest.raises(DataError, match="missing in private/films"):
        read_kept(tmp_path)(3)


def test_a_film_that_unpacks_to_too_much_is_told(tmp_path, monkeypatch):
    Image.new("L", (60, 40)).save(tmp_path / "3.png")
    assert read_kept(tmp_path)(3).shape == (40, 60)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match="missing in private/films, or cannot be read"):
        read_kept(tmp_path)(3)


def test_a_run_tells_what_was_hidden_and_keeps_it(result_of, film, details, tmp_path):
    (tmp_path / "private").mkdir()
    run = SavedRun(result_of(), details, GATE.model_dump_json(), 20, None, 0)
    run.save(tmp_path, film, TextMasking(Corner()))
    (tmp_path / "run.json").write_text("{}")
    kept = read_run(tmp_path, "RUN_DIR").result.burned_in
    assert kept is not None
    assert kept.masked > 0
    assert "Gray in a light outline: text hidden." in (tmp_path / "report.html").read_text("utf-8")
    sheet = np.asarray(Image.open(next(tmp_path.glob("figures/*_films.png"))).convert("L"))
    assert (sheet == 112).sum() > 100


def test_regions_that_nobody_searched_are_not_shown(result_of, film, tmp_path):
    before = result_of()
    found = keep_films(before, 10, film, tmp_path, TextMasking(Corner()))
    before = replace(before, burned_in=found)
    _require_searched(before, before)
    fewer = replace(before, correlations=before.correlations[1:])
    with pytest.raises(DataError, match="not searched for burned-in text"):
        _require_searched(fewer, before)
