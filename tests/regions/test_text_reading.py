"""Words burned into phantom films are found, whichever way they stand, and told nobody."""

import logging
import os
import socket
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from burned_in_films import Burned, burn, burn_anywhere, phantom_film

from ravl_med.config.audit import SHOWN_WORDS
from ravl_med.regions.burned_in_text import TextReader, View, fold_words, ocr_version
from ravl_med.reporting.pictures import hide_areas

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def reader():
    return TextReader(fold_words(SHOWN_WORDS))


def hidden(areas, shape):
    return hide_areas(np.zeros(shape, np.uint8), [one for one in areas if not one.allowed]) > 0


def test_version_names_package_and_engine():
    assert ocr_version().startswith("rapidocr ")
    assert " with onnxruntime " in ocr_version()


def test_nothing_is_fetched_nor_told(monkeypatch, caplog, capfd):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    film, _ = burn(phantom_film(1, 512), "QZX12VWK", (20, 20), 20)
    with caplog.at_level(logging.DEBUG):
        areas = TextReader(frozenset()).find(film)
    assert len(areas) >= 1
    told = caplog.text + "".join(capfd.readouterr()) + repr(areas)
    assert "QZX" not in told
    assert "onnx" not in told


def test_the_engine_keeps_no_record_of_its_use(tmp_path):
    """Releases of it that report to their maker leave an identity and a queue in the cache."""
    told = {n: v for n, v in os.environ.items() if not n.startswith(("ORT_", "CI", "GITHUB"))}
    told.pop("PYTEST_CURRENT_TEST", None)
    homes = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")}
    code = (
        "from ravl_med.regions.burned_in_text import TextReader as T; import numpy as np;"
        "T(frozenset()).find(np.eye(64, dtype=np.uint8) * 255)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**told, **homes}, timeout=300)
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert not [name for name in left if "onnx" in name or "deviceid" in name]


@pytest.mark.parametrize(
    ("change", "turned"),
    [
        *((255, turned) for turned in (0, 90, 180, 270, 12)),
        (-255, 90),
        (40, 12),
        *(
            pytest.param(change, turned, marks=pytest.mark.slow)
            for change in (-255, 40)
            for turned in (0, 90, 180, 270, 12)
            if (change, turned) not in ((-255, 90), (40, 12))
        ),
    ],
)
def test_words_are_hidden_whichever_way_they_stand(reader, turned, change):
    film, burned = burn(phantom_film(2, 512), "DOE JOHN 1955", (190, 240), 16, change, turned)
    if change < 0:
        film = 255 - film
    assert hidden(reader.find(film), film.shape)[burned.ink].mean() > 0.98


@pytest.mark.parametrize("word", ["PORTABLE", "AP ERECT", "Supine", "LEFT"])
def test_allowed_words_are_left(reader, word):
    film, burned = burn(phantom_film(3, 512), word, (300, 20), 18)
    areas = reader.find(film)
    assert not hidden(areas, film.shape).any()
    assert [one.allowed for one in areas if one.corners[:, 1].max() < 60] != []
    assert burned.ink.any()


def test_a_name_beside_an_allowed_word_is_hidden(reader):
    film, one = burn(phantom_film(4, 512), "PORTABLE", (330, 20), 18)
    film, other = burn(film, "DOE JOHN", (330, 60), 18)
    covered = hidden(reader.find(film), film.shape)
    assert covered[other.ink].mean() > 0.98
    assert covered[one.ink].mean() < 0.05


def test_small_words_in_a_part_that_is_shown_enlarged(reader):
    film, burned = burn(phantom_film(5, 2400), "QZX12VWK", (1000, 400), 16)
    view = View((900, 300, 1300, 600), 1.0)
    assert hidden(reader.find(film, [view]), film.shape)[burned.ink].mean() > 0.95


def test_the_same_film_gives_the_same_areas(reader):
    film, _ = burn(phantom_film(6, 512), "QZX12VWK", (40, 300), 14, 60)
    one, two = ([a.corners for a in reader.find(film)] for _ in range(2))
    assert np.array_equal(one, two)


def hidden_without_words(reader, films):
    """On how many of so many films without words something is hidden."""
    made = (phantom_film(n, 512, ("generator", "electrode", "tube")) for n in range(films))
    return sum(hidden(reader.find(film), film.shape).any() for film in made)


def test_films_without_words_are_left(reader):
    assert hidden_without_words(reader, 2) == 0


@pytest.mark.slow
def test_of_eight_films_without_words_one_at_most_is_not_left(reader):
    assert hidden_without_words(reader, 8) <= 1


def _films(count):
    """Films of three sizes, each with up to three names of 8 to 24 points at 768 pixels."""
    for number in range(count):
        rng = np.random.default_rng((6, number))
        size = (512, 1024, 2048)[number % 3]
        film = phantom_film(number, size, ("generator",) if number % 3 == 0 else ())
        clean, taken, burned = film, np.zeros(film.shape, np.bool_), []
        for _ in range(3):
            height = max(8, round(float(rng.choice([8, 12, 16, 24])) * max(film.shape) / 768))
            made = burn_anywhere(film, rng, height, taken)
            if made is not None:
                film, one = made
                taken = taken | one.ink
                burned.append(one)
        yield clean, film, burned


def _kind(one: Burned, shape) -> str:
    shown = one.height * 768 / max(shape)
    if one.contrast < 12:
        return "cannot be seen"
    if shown < 8:
        return "letters below 8 pixels as shown"
    return "faint, 12 to 25 gray levels" if one.contrast < 25 else "plain"


@pytest.mark.slow
def test_recall_on_a_hundred_films(reader):
    found, written, false, read = Counter(), Counter(), 0, 0
    for number, (clean, film, burned) in enumerate(_films(100)):
        covered = hidden(reader.find(film), film.shape)
        for one in burned:
            kind = _kind(one, film.shape)
            written[kind] += 1
            found[kind] += covered[one.ink].mean() >= 0.95
        if number % 4 == 0:
            read += 1
            false += hidden(reader.find(clean), clean.shape).any()
    for kind in written:
        print(f"{kind}: {found[kind]} of {written[kind]} hidden")  # noqa: T201
    print(f"films without words on which something is hidden: {false} of {read}")  # noqa: T201
    assert found["plain"] >= 0.97 * written["plain"]
    assert false <= 0.1 * read
