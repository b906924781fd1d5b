"""Films through the encoder: order, batches, what the model does not see."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from ravl_med.cohort.table import RejectedFilm
from ravl_med.encoders.batches import BatchEncoder, encode_films, films_a_part
from ravl_med.encoders.open_clip import open_model, save_model
from ravl_med.regions.region_set import RegionKind, RegionSet, cut_tiles, tile_names

CPU = torch.device("cpu")
SHAPES = [(64, 64), (64, 80), (100, 64), (75, 91), (64, 64)]


def tiles(rows, columns):
    kinds = tuple(RegionKind("tiles", name) for name in tile_names(rows, columns))

    def propose(film):
        return RegionSet(cut_tiles(*film.pixels.shape, rows, columns), kinds)

    return propose


def numbers(result, rows, columns):
    names = tile_names(rows, columns)
    return [names.index(result.kinds[kind].name) for kind in result.region_kind]


QUADRANTS = tiles(2, 2)


@pytest.fixture
def embed(tmp_path_factory):
    """What embeds films as a worker does, and gathers them as a run does."""

    def embedded(
        encoder, films, *, propose=QUADRANTS, min_visible=0.5, batch_size=3, most_regions=None,
        root=None, progress=lambda done: None,
    ):  # fmt: skip
        root = root or tmp_path_factory.mktemp("kept")
        batches = BatchEncoder(encoder, root, batch_size, most_regions)
        table = encode_films(
            batches,
            enumerate(films),
            propose,
            min_visible=min_visible,
            part=films_a_part(batch_size),
            progress=progress,
        )
        inputs = batches.inputs.keep(table.digests)
        return table.gather(batches.find, encoder.info.embedding_size, inputs)

    return embedded


@pytest.fixture
def films(film_of):
    return [film_of(i, *shape) for i, shape in enumerate(SHAPES)]


@pytest.fixture(scope="module")
def cropping(layout_of, model_of, tmp_path_factory):
    """An encoder that cuts out the centre."""
    layout = layout_of("vit_1_layer")
    layout["preprocess_cfg"]["resize_mode"] = "shortest"
    folder = tmp_path_factory.mktemp("cropping")
    save_model(model_of(layout), layout, folder)
    return open_model(folder, CPU)


@pytest.mark.parametrize("tower", ["resnet", "vit", "vit_avg"])
def test_batches_do_not_change_the_result(embed, tower, encoder_of, films):
    encoder = encoder_of(tower)

    one, two, all_ = (embed(encoder, films, batch_size=size) for size in (1, 2, 64))

    for other in (two, all_):
        np.testing.assert_allclose(other.image, one.image, atol=1e-5)
        np.testing.assert_allclose(other.region, one.region, atol=1e-5)
        np.testing.assert_array_equal(other.region_image, one.region_image)
        np.testing.assert_array_equal(other.region_boxes, one.region_boxes)
    assert one.image.shape == (5, 128)
    assert one.region.shape == (20, 128)
    np.testing.assert_allclose(np.linalg.norm(one.region, axis=1), 1, atol=1e-5)


def test_rejected_films_are_set_aside_in_order(embed, encoder_of, films):
    first, second = (RejectedFilm(row, "truncated", f"row {row}") for row in (3, 9))
    told: list[int] = []
    films = [first, films[1], replace(films[2], left_edge="L"), second, films[4]]

    result = embed(encoder_of("vit_1_layer"), films, progress=told.append)

    assert result.rejected == (first, second)
    assert result.films.tolist() == [1, 2, 4]
    assert result.digests == ("digest 1", "digest 2", "digest 4")
    assert result.applied == ("as stored",) * 3
    assert result.left_edges == ("", "L", "")
    assert result.sizes.tolist() == [[64, 80], [100, 64], [64, 64]]
    assert result.region_image.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert numbers(result, 2, 2) == [0, 1, 2, 3] * 3
    assert told == [1, 2, 3, 4, 5]


def test_regions_outside_the_centre_crop_are_counted(embed, cropping, film_of):
    # 64 x 128: the model sees x from 32 to 96, so of four columns the middle two.
    films = [film_of(0, 64, 128), film_of(1, 64, 64)]

    result = embed(cropping, films, propose=tiles(1, 4))

    assert result.unseen == 2
    assert numbers(result, 1, 4) == [1, 2, 0, 1, 2, 3]
    assert result.region_image.tolist() == [0, 0, 1, 1, 1, 1]
    assert result.region_boxes[:2].tolist() == [[32, 0, 64, 64], [64, 0, 96, 64]]


def test_a_region_of_which_nothing_is_seen_is_left_out_without_a_threshold_too(
    embed, cropping, film_of
):
    result = embed(cropping, [film_of(0, 64, 128)], propose=tiles(1, 4), min_visible=0.0)

    assert result.unseen == 2
    assert numbers(result, 1, 4) == [1, 2]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_film_may_have_no_region_that_is_seen(embed, cropping, film_of, batch_size):
    # 64 x 256 in two halves: the model sees a quarter of each.
    films = [film_of(0, 64, 256), film_of(1, 64, 64)]

    result = embed(cropping, films, propose=tiles(1, 2), batch_size=batch_size)

    assert result.image.shape == (2, 128)
    assert result.region_image.tolist() == [1, 1]
    assert result.unseen == 2


def test_no_film_at_all_is_empty_and_has_its_shapes(embed, encoder_of):
    result = embed(encoder_of("vit_1_layer"), [RejectedFilm(1, "missing", "row 1")])

    assert (result.image.shape, result.region.shape) == ((0, 128), (0, 128))
    assert (result.sizes.shape, result.region_boxes.shape) == ((0, 2), (0, 4))


@pytest.mark.parametrize("tower", ["resnet", "vit"])
def test_weights_that_hold_nan_leave_no_film(embed, tower, folder_of, films, tmp_path):
    encoder = open_model(shutil.copytree(folder_of(tower), tmp_path / "model"), CPU)
    with torch.no_grad():
        encoder.model.visual.conv1.weight[0, 0, 0, 0] = float("nan")

    result = embed(encoder, films)

    assert result.not_finite == tuple(film.index for film in films)
    assert len(result.films) == len(result.image) == len(result.region) == 0


def test_a_film_whose_region_is_not_finite_is_named_and_the_others_stay(embed, encoder_of, films):
    encoder = encoder_of("vit_1_layer")
    whole = embed(encoder, films)
    broken = whole.region_image[-1]

    class Broken:
        info, device = encoder.info, encoder.device
        preprocess, geometry = staticmethod(encoder.preprocess), staticmethod(encoder.geometry)

        def encode_regions(self, images, boxes):
            image, region = encoder.encode_regions(images, boxes)
            region = torch.tensor(region.tolist())
            region[-1, 0] = float("inf")
            return image, region

    result = embed(Broken(), films, batch_size=len(films))

    assert result.not_finite == (int(whole.films[broken]),)
    kept = whole.region_image != broken
    assert np.array_equal(result.region, whole.region[kept])
    assert np.array_equal(result.region_boxes, whole.region_boxes[kept])
    assert result.films.tolist() == [f for f in whole.films if f != whole.films[broken]]
    assert len(result.image) == len(result.digests) == len(result.sizes) == len(films) - 1
    assert len(result.left_edges) == len(films) - 1


@pytest.mark.parametrize("tower", ["resnet", "vit"])
def test_batch_sizes_agree_to_a_millionth(embed, tower, encoder_of, films):
    encoder = encoder_of(tower)
    one, *others = (embed(encoder, films, batch_size=size, most_regions=4) for size in (1, 3, 8))
    for other in others:
        for a, b in ((one.image, other.image), (one.region, other.region)):
            a, b = a.astype(np.float64), b.astype(np.float64)
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            assert ((a * b).sum(axis=1) / norms).min() >= 1 - 1e-6


class Counting:
    """An encoder that counts the batches it is given."""

    def __init__(self, inner):
        self.inner, self.batches = inner, 0
        self.info, self.device = inner.info, inner.device
        self.preprocess, self.geometry = inner.preprocess, inner.geometry

    def encode_regions(self, images, boxes):
        self.batches += 1
        return self.inner.encode_regions(images, boxes)


def same(a, b):
    for name in ("films", "sizes", "image", "region", "region_image", "region_boxes"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.digests, a.applied, a.kinds) == (b.digests, b.applied, b.kinds)


def test_the_second_time_nothing_is_encoded(embed, encoder_of, films, tmp_path):
    encoder = Counting(encoder_of("vit_1_layer"))
    kept = {"root": tmp_path, "most_regions": 4, "batch_size": 2}

    first = embed(encoder, films, **kept)
    encoder_batches = encoder.batches
    second = embed(encoder, films, **kept)

    assert (encoder_batches, encoder.batches) == (3, 3)
    assert (first.found, second.found) == (0, 5)
    same(first, second)


def test_other_regions_or_another_model_are_encoded(embed, encoder_of, films, tmp_path):
    encoder = Counting(encoder_of("vit_1_layer"))
    embed(encoder, films, root=tmp_path)
    assert embed(encoder, films, root=tmp_path, propose=tiles(1, 2)).found == 0
    assert embed(encoder_of("vit_avg"), films, root=tmp_path).found == 0
    assert embed(encoder, films, root=tmp_path).found == 5


def test_a_few_new_films_wait_until_they_fill_a_batch(embed, encoder_of, film_of, tmp_path):
    encoder = Counting(encoder_of("vit_1_layer"))
    films = [film_of(i, 64, 64) for i in range(16)]
    kept = {"root": tmp_path, "most_regions": 4, "batch_size": 4}
    embed(encoder, [film for i, film in enumerate(films) if i % 4], **kept)
    before = encoder.batches

    whole = embed(encoder, films, **kept)

    assert encoder.batches == before + 1  # four new films, of four batches
    assert whole.found == 12
    alone = embed(encoder_of("vit_1_layer"), films, batch_size=4, most_regions=4)
    np.testing.assert_allclose(whole.image, alone.image, atol=1e-6)
    np.testing.assert_array_equal(whole.films, alone.films)


def test_films_that_drop_out_move_no_other_film(embed, encoder_of, film_of):
    films = [film_of(i, 64, 64) for i in range(8)]
    gone = [f if i % 3 else RejectedFilm(i, "truncated", "row") for i, f in enumerate(films)]
    encoder = encoder_of("resnet")

    whole = embed(encoder, films, batch_size=4, most_regions=4)
    left = embed(encoder, gone, batch_size=4, most_regions=4)

    np.testing.assert_array_equal(left.image, whole.image[left.films])


def test_large_embeddings_lie_in_a_mapped_file(embed, encoder_of, films, monkeypatch):
    small = embed(encoder_of("vit_1_layer"), films)
    monkeypatch.setattr("ravl_med.storage.mapped_arrays._ROOM_BYTES", 1000)
    mapped = embed(encoder_of("vit_1_layer"), films)
    same(small, mapped)
    assert isinstance(mapped.region.base, np.memmap)
