"""The inputs of a model as they are kept: a byte a pixel, and the same bits again."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from ravl_med.encoders.batches import open_inputs
from ravl_med.encoders.film_store import InputStore
from ravl_med.errors import ConfigError


@pytest.fixture
def films(film_of):
    return [film_of(i, 64 + i, 80 - i) for i in range(5)]


def test_an_input_is_kept_bit_for_bit_in_a_byte_a_pixel(encoder_of, films, tmp_path):
    encoder = encoder_of("vit_1_layer")
    store = open_inputs(encoder, tmp_path)
    inputs = {film.digest: encoder.preprocess(film.pixels) for film in films}
    store.write(3, [store.pack(digest, image) for digest, image in inputs.items()])
    (file,) = store.folder.iterdir()
    side = encoder.info.image_size
    assert file.stat().st_size / len(films) < side**2 + 1000  # of which 768 numbers are levels

    kept = open_inputs(encoder, tmp_path).keep(["another", *inputs])

    assert (kept.missing(), kept.input(0)) == (1, None)
    for reader in (kept, pickle.loads(pickle.dumps(kept))):
        for at, image in enumerate(inputs.values(), start=1):
            assert np.array_equal(reader.input(at), image.numpy())
    some = kept.take(np.array([4, 2]))
    assert np.array_equal(some.input(1), list(inputs.values())[1].numpy())
    assert np.array_equal(some[np.array([1, 0])], kept[np.array([2, 4])])


def test_an_input_that_gray_bytes_cannot_tell_is_not_made_of_them(encoder_of, tmp_path):
    store = open_inputs(encoder_of("vit_1_layer"), tmp_path)
    side = store._info.image_size
    flat = torch.zeros(3, side, side)
    bent = flat.clone()
    bent[0, 0, 0] = 1e-4  # a level of its own that rounds to the same byte
    store.write(0, [store.pack("flat", flat), store.pack("bent", bent)])

    kept = store.keep(["flat", "bent"])

    assert np.array_equal(kept.input(0), flat.numpy())
    assert kept.input(1) is None
    assert kept.missing() == 0  # its gray levels are there


def test_a_file_that_is_damaged_or_of_another_size_is_taken_away(encoder_of, films, tmp_path):
    encoder = encoder_of("vit_1_layer")
    store = open_inputs(encoder, tmp_path)
    for part, film in enumerate(films[:2]):
        store.write(part, [store.pack(film.digest, encoder.preprocess(film.pixels))])
    damaged, whole = sorted(store.folder.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert open_inputs(encoder, tmp_path).keep([f.digest for f in films[:2]]).missing() == 1
    assert not damaged.exists()
    other = InputStore(store.folder, replace(encoder.info, image_size=16))
    assert len(other) == 0
    assert not whole.exists()


def test_a_file_that_is_gone_is_named(encoder_of, films, tmp_path):
    encoder = encoder_of("vit_1_layer")
    store = open_inputs(encoder, tmp_path)
    store.write(0, [store.pack(films[0].digest, encoder.preprocess(films[0].pixels))])
    kept = store.keep([films[0].digest])
    (file,) = store.folder.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="it is too short"):
        kept[np.array([0])]
    file.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        store.keep([films[0].digest]).input(0)
