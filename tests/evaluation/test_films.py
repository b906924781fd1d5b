import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ravl_med.errors import ConfigError
from ravl_med.evaluation.films import (
    FINETUNE,
    PRETRAIN,
    SIDE,
    TEST,
    VALIDATION,
    PoolFilms,
    draw_garments,
    read_bundled_digits,
    read_idx_digits,
    read_nih,
    read_object,
    read_radiographs,
    render_planted_films,
)
from ravl_med.evaluation.planting import open_pool
from ravl_med.storage.cache import Cache


def write_idx(folder: Path, images: int = 200, *, zipped: bool = False, magic: int = 2051) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (images, 28, 28)).astype(np.uint8)
    head = struct.pack(">IIII", magic, images, 28, 28)
    labels = struct.pack(">II", 2049, images) + bytes(n % 10 for n in range(images))
    for name, content in (
        ("train-images-idx3-ubyte", head + pixels.tobytes()),
        ("train-labels-idx1-ubyte", labels),
    ):
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


@pytest.mark.parametrize("films", [read_bundled_digits(5), draw_garments(5)])
def test_objects_lie_in_one_quadrant_and_none_is_in_two_splits(films: PoolFilms) -> None:
    half = SIDE // 2
    for film in films.pixels[:50]:
        bright = [
            int((film[y : y + half, x : x + half] > 100).sum())
            for y in (0, half)
            for x in (0, half)
        ]
        assert sorted(bright)[:3] == [0, 0, 0]
        assert max(bright) > 20
    owners = [set(films.patients[films.split == s]) for s in (FINETUNE, VALIDATION, TEST)]
    assert not owners[0] & (owners[1] | owners[2])
    assert not owners[1] & owners[2]
    assert set(films.labels) == set(range(10))


def test_the_same_seed_gives_the_same_digits() -> None:
    first, second, other = (read_bundled_digits(seed) for seed in (1, 1, 2))
    assert (first.pixels == second.pixels).all()
    assert (first.split == second.split).all()
    assert not (first.split == other.split).all()


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_are_read(tmp_path: Path, *, zipped: bool) -> None:
    write_idx(tmp_path, zipped=zipped)
    films = read_idx_digits(tmp_path, 0)
    assert len(np.unique(films.patients)) == 200
    assert films.pixels.shape[1:] == (SIDE, SIDE)


def test_wrong_idx_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--films: the folder has no train-images-idx3-ubyte"):
        read_idx_digits(tmp_path, 0)
    write_idx(tmp_path, magic=7)
    with pytest.raises(ConfigError, match="--films: train-images-idx3-ubyte is not an IDX file"):
        read_idx_digits(tmp_path, 0)
    write_idx(tmp_path, images=20)
    with pytest.raises(ConfigError, match=r"--films: .* holds 20 images"):
        read_idx_digits(tmp_path, 0)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\x00\x00")
    with pytest.raises(ConfigError, match="is not an IDX file"):
        read_idx_digits(tmp_path, 0)


def write_radiographs(folder: Path, patients: int = 44) -> None:
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    lines = ["patientid,finding,view,filename"]
    for patient in range(patients):
        name = f"{patient}.png"
        pixels = rng.integers(0, 255, (90, 80)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
        finding = "A" if patient % 2 else '"B, more"'
        lines.append(f"{patient},{finding},PA,{name}")
    lines += ["99,A,L,0.png", "98,,PA,0.png", "97,A,PA,missing.png"]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_radiographs_make_several_films_and_patients_stay_together(tmp_path: Path) -> None:
    write_radiographs(tmp_path)
    films = read_radiographs(tmp_path, 3)
    assert len(films.labels) >= 1600
    for patient in np.unique(films.patients):
        own = films.patients == patient
        assert len(set(films.split[own])) == 1
        assert len(set(films.labels[own])) == 1
    assert len(np.unique(films.patients)) == 44


def test_wrong_folders_of_radiographs_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--films: the folder has no metadata\.csv"):
        read_radiographs(tmp_path, 0)
    (tmp_path / "metadata.csv").write_text("patientid,finding\n1,A\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"has no column 'filename'"):
        read_radiographs(tmp_path, 0)
    (tmp_path / "metadata.csv").write_text("patientid,finding,filename\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="lists no frontal film"):
        read_radiographs(tmp_path, 0)
    write_radiographs(tmp_path, patients=6)
    with pytest.raises(ConfigError, match=r"of 3 patients .* of 3 with other findings can be read"):
        read_radiographs(tmp_path, 0)


def write_nih(folder: Path, patients: int = 44) -> None:
    (folder / "films").mkdir()
    rng = np.random.default_rng(0)
    lines = ["file,patient,sex"]
    for patient in range(patients):
        for film in range(1 + patient % 2):
            name = f"{patient}_{film}.png"
            pixels = rng.integers(0, 255, (90, 80)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "films" / name)
            lines.append(f"{name},{patient},{'F' if patient % 2 else 'M'}")
    lines.append("missing.png,99,F")
    (folder / "films.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_films_of_a_person_lie_on_one_side_with_all_their_copies(tmp_path: Path) -> None:
    write_nih(tmp_path)
    films = read_nih(tmp_path, 3)
    assert len(films.labels) >= 1600
    assert len(set(np.bincount(films.patients))) == 1  # as many of each
    for patient in np.unique(films.patients):
        own = films.patients == patient
        assert len(set(films.split[own])) == len(set(films.labels[own])) == 1


def test_wrong_folders_of_the_nih_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--films: the folder has no films\.csv"):
        read_nih(tmp_path, 0)
    (tmp_path / "films.csv").write_text("file,sex\na.png,F\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"films\.csv has no column 'patient'; expected file"):
        read_nih(tmp_path, 0)
    write_nih(tmp_path, patients=6)
    with pytest.raises(ConfigError, match="of 3 patients with sex F and of 3 with sex M"):
        read_nih(tmp_path, 0)


def test_an_object_is_told_from_other_ink() -> None:
    plain = np.zeros((96, 96), dtype=np.uint8)
    plain[10:30, 10:30] = 200
    film = plain.copy()
    film[60:80, 60:80] = 150
    seen = read_object(plain, film)
    there = seen.region(("lungs",))
    assert there is not None
    assert there[10:30, 10:30].all()
    assert seen.foreign[60:80, 60:80].all()
    assert not (there & seen.foreign).any()


def test_a_domain_asks_for_the_folder_that_it_needs(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with pytest.raises(
        ConfigError, match=r"--films: radiographs need a folder .* as --films radiographs=FOLDER"
    ):
        open_pool("radiographs", 0, cache, None)
    with pytest.raises(ConfigError, match="--films: mnist need a folder with the IDX"):
        open_pool("mnist", 0, cache, None)


def test_films_to_pretrain_on_are_of_other_patients(tmp_path: Path) -> None:
    films = open_pool("digits", 4, Cache(tmp_path), None).films
    owners = [set(films.patients[films.split == s]) for s in (PRETRAIN, FINETUNE, VALIDATION)]
    assert all(owners)
    assert not owners[0] & (owners[1] | owners[2])


def test_a_phantom_with_a_thing_differs_there_alone() -> None:
    plain, with_it = (render_planted_films(feature, 7, 40) for feature in ("", "marker"))
    assert (plain["labels"] == with_it["labels"]).all()
    assert len(plain["boxes"]) == 0
    assert len(set(with_it["film"])) >= 38  # a marker may lie off a film
    change = np.abs(with_it["pixels"].astype(int) - plain["pixels"]) > 40
    inside = np.zeros_like(change)
    for film, box in zip(with_it["film"], with_it["boxes"], strict=True):
        x0, y0, x1, y1 = np.rint(box).astype(int)
        inside[film, max(y0 - 2, 0) : y1 + 2, max(x0 - 2, 0) : x1 + 2] = True
    assert change.sum() > 0
    assert (change & ~inside).sum() < 0.02 * change.sum()


def test_a_tube_has_a_mask_and_no_box() -> None:
    layer = render_planted_films("tube", 7, 20)
    masks = np.unpackbits(layer["masks"], axis=-1)
    assert len(layer["boxes"]) == 0
    assert (masks.sum(axis=(1, 2)) > 10).mean() > 0.8
