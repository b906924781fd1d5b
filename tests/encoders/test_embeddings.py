"""Films through the encoder: order, batches, what the model does not see."""

import shutil

import numpy as np
import pytest
import torch

from ravl_med.cohort.manifest import RejectedFilm
from ravl_med.encoders.embeddings import embed_films
from ravl_med.encoders.open_clip import open_model, save_model
from ravl_med.regions.region_set import RegionKind, RegionSet
from ravl_med.regions.tiles import cut_tiles, tile_names

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


def embed(encoder, films, *, propose=QUADRANTS, min_visible=0.5, batch_size=3, **options):
    return embed_films(
        encoder, films, propose, min_visible=min_visible, batch_size=batch_size, **options
    )


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
def test_batches_do_not_change_the_result(tower, encoder_of, films):
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


def test_rejected_films_are_set_aside_in_order(encoder_of, films):
    first, second = (RejectedFilm(row, "truncated", f"row {row}") for row in (3, 9))
    told: list[int] = []
    films = [first, films[1], films[2], second, films[4]]

    result = embed(encoder_of("vit_1_layer"), films, progress=told.append)

    assert result.rejected == (first, second)
    assert result.films.tolist() == [1, 2, 4]
    assert result.digests == ("digest 1", "digest 2", "digest 4")
    assert result.applied == ("as stored",) * 3
    assert result.sizes.tolist() == [[64, 80], [100, 64], [64, 64]]
    assert result.region_image.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert numbers(result, 2, 2) == [0, 1, 2, 3] * 3
    assert told == [1, 2, 3, 4, 5]


def test_regions_outside_the_centre_crop_are_counted(cropping, film_of):
    # 64 x 128: the model sees x from 32 to 96, so of four columns the middle two.
    films = [film_of(0, 64, 128), film_of(1, 64, 64)]

    result = embed(cropping, films, propose=tiles(1, 4))

    assert result.unseen == 2
    assert numbers(result, 1, 4) == [1, 2, 0, 1, 2, 3]
    assert result.region_image.tolist() == [0, 0, 1, 1, 1, 1]
    assert result.region_boxes[:2].tolist() == [[32, 0, 64, 64], [64, 0, 96, 64]]


def test_a_region_of_which_nothing_is_seen_is_left_out_even_without_a_threshold(cropping, film_of):
    result = embed(cropping, [film_of(0, 64, 128)], propose=tiles(1, 4), min_visible=0.0)

    assert result.unseen == 2
    assert numbers(result, 1, 4) == [1, 2]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_film_may_have_no_region_that_is_seen(cropping, film_of, batch_size):
    # 64 x 256 in two halves: the model sees a quarter of each.
    films = [film_of(0, 64, 256), film_of(1, 64, 64)]

    result = embed(cropping, films, propose=tiles(1, 2), batch_size=batch_size)

    assert result.image.shape == (2, 128)
    assert result.region_image.tolist() == [1, 1]
    assert result.unseen == 2


def test_no_film_at_all_is_empty_and_has_its_shapes(encoder_of):
    result = embed(encoder_of("vit_1_layer"), [RejectedFilm(1, "missing", "row 1")])

    assert (result.image.shape, result.region.shape) == ((0, 128), (0, 128))
    assert (result.sizes.shape, result.region_boxes.shape) == ((0, 2), (0, 4))


@pytest.mark.parametrize("tower", ["resnet", "vit"])
def test_weights_that_hold_nan_leave_no_film(tower, folder_of, films, tmp_path):
    encoder = open_model(shutil.copytree(folder_of(tower), tmp_path / "model"), CPU)
    with torch.no_grad():
        encoder.model.visual.conv1.weight[0, 0, 0, 0] = float("nan")

    result = embed(encoder, films)

    assert result.not_finite == tuple(film.index for film in films)
    assert len(result.films) == len(result.image) == len(result.region) == 0


def test_a_film_whose_region_is_not_finite_is_named_and_the_others_stay(encoder_of, films):
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
