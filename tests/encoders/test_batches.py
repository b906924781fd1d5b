"""Batches of one shape: what else is in them changes nothing; short memory halves them."""

import os

import numpy as np
import pytest
import torch

from ravl_med.encoders.batches import BatchEncoder, PreparedFilm, read_size
from ravl_med.encoders.film_store import film_key
from ravl_med.errors import ModelError


def prepared(number: int, regions: int = 3) -> PreparedFilm:
    generator = torch.Generator().manual_seed(number)
    corner = torch.rand(regions, 2, generator=generator) * 30
    boxes = torch.cat([corner, corner + 20], dim=1)
    key = film_key(f"film {number}", boxes.numpy())
    return PreparedFilm(key, torch.randn(3, 64, 64, generator=generator), boxes)


@pytest.mark.parametrize("tower", ["resnet", "vit", "vit_avg"])
def test_a_film_is_the_same_bit_for_bit_whatever_it_is_encoded_beside(tower, encoder_of, tmp_path):
    batches = BatchEncoder(encoder_of(tower), tmp_path, 8, regions=6)
    films = {place: prepared(place, regions=place % 5) for place in range(8)}

    whole = batches.encode(films)

    for place in (0, 3, 7):
        ((key, image, region),) = batches.encode({place: films[place]})
        assert key == films[place].key
        np.testing.assert_array_equal(image, whole[place][1])
        np.testing.assert_array_equal(region, whole[place][2])
        assert len(region) == place % 5


def test_places_beyond_the_size_make_further_batches(encoder_of, tmp_path):
    batches = BatchEncoder(encoder_of("vit_1_layer"), tmp_path, 4, regions=3)
    films = {place: prepared(place) for place in (1, 5, 9)}

    done = batches.encode(films)

    assert [film[0] for film in done] == [films[p].key for p in (1, 5, 9)]
    np.testing.assert_array_equal(done[1][1], batches.encode({1: films[5]})[0][1])


class Short:
    """An encoder on a device with room for a few films."""

    def __init__(self, inner, room, error):
        self.inner, self.room, self.error = inner, room, error
        self.info, self.device = inner.info, inner.device
        self.sizes = []

    def encode_regions(self, images, boxes):
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise self.error
        return self.inner.encode_regions(images, boxes)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: not enough memory"),
]


@pytest.mark.parametrize("error", ERRORS)
def test_a_batch_is_halved_where_memory_does_not_suffice(encoder_of, tmp_path, error):
    inner = encoder_of("vit_1_layer")
    short = Short(inner, 2, error)
    batches = BatchEncoder(short, tmp_path, 8, regions=3)
    films = {place: prepared(place) for place in range(8)}
    first = batches.store.folder

    done = batches.encode(films)

    assert short.sizes == [8, 4, 2, 2, 2, 2]
    assert batches.size == 2
    assert batches.store.folder != first  # another shape is another digest
    right = BatchEncoder(inner, tmp_path / "other", 2, regions=3).encode(films)
    for one, other in zip(done, right, strict=True):
        np.testing.assert_array_equal(one[1], other[1])
    again = BatchEncoder(Short(inner, 2, error), tmp_path, 8, regions=3)
    assert again.size == 2  # found once
    assert again.store.folder == batches.store.folder


def test_a_device_without_room_for_one_film_is_one_line(encoder_of, tmp_path):
    batches = BatchEncoder(Short(encoder_of("vit_1_layer"), 0, MemoryError()), tmp_path, 4)
    with pytest.raises(ModelError, match="memory does not suffice to encode one film of 64 x 64"):
        batches.encode({0: prepared(0)})


def test_another_error_is_no_lack_of_memory(encoder_of, tmp_path):
    batches = BatchEncoder(Short(encoder_of("vit_1_layer"), 0, RuntimeError("odd")), tmp_path, 4)
    with pytest.raises(RuntimeError, match="odd"):
        batches.encode({0: prepared(0)})
    assert batches.size == 4


def test_threads_batch_and_regions_are_part_of_the_recipe(encoder_of, tmp_path):
    encoder = encoder_of("vit_1_layer")
    before = torch.get_num_threads()
    folders = set()
    try:
        for threads, size, regions in ((1, 4, 3), (2, 4, 3), (1, 2, 3), (1, 4, 5), (1, 4, None)):
            torch.set_num_threads(threads)
            folders.add(BatchEncoder(encoder, tmp_path, size, regions).store.folder)
    finally:
        torch.set_num_threads(before)
    assert len(folders) == 5


@pytest.mark.timeout(20)
def test_a_note_that_is_damaged_or_a_pipe_is_none(tmp_path):
    note = tmp_path / "note"
    for content, size in ((b"3", 3), (b"0", 8), (b"9", 8), (b"three", 8), (b"3" * 40, 8)):
        note.write_bytes(content)
        assert read_size(note, 8) == size
    note.unlink()
    os.mkfifo(note)
    assert read_size(note, 8) == 8
