"""NIfTI films: the same picture however the array lies, and a reason code for all else."""

import gzip
import itertools
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.intensity.array import ScaleIntensityRange
from monai.transforms.spatial.array import Orientation, Resize
from numpy.typing import NDArray

from ravl_med.cohort.nifti import read_nifti_film, read_nifti_mask
from ravl_med.config.cohort import DEFAULT_READING, ReadingConfig, VolumeConfig
from ravl_med.errors import ImageError

SHARED = Path(os.environ.get("RAVL_MED_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
RNG = np.random.default_rng(0)
VOLUME = RNG.integers(-1000, 1000, (6, 5, 8)).astype(np.float32)  # R, A, S


def saved(path: Path, data: NDArray[np.float32], affine: NDArray[np.float64] | None = None) -> Path:
    image = nib.Nifti1Image(data, np.eye(4) if affine is None else affine)
    nib.save(image, path)
    return path


def read_nifti(
    path: Path, reading: ReadingConfig = DEFAULT_READING
) -> tuple[NDArray[np.float32], str]:
    return read_nifti_film(path, reading)[:2]


def stretch(film: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = np.percentile(film, (0.5, 99.5))
    return np.clip((film - low) / (high - low), 0, 1)


def lay(order: tuple[int, ...], flips: tuple[bool, ...]) -> tuple[NDArray[np.float32], NDArray]:
    """The volume with its axes in another order and direction, and the affine that says so."""
    data, affine = VOLUME.transpose(order), np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (world, flip) in enumerate(zip(order, flips, strict=True)):
        affine[world, axis] = -2.0 if flip else 2.0
        if flip:
            data = np.flip(data, axis)
            affine[world, 3] = 2.0 * (data.shape[axis] - 1)
    return np.ascontiguousarray(data), affine


def test_a_volume_is_averaged_from_front_to_back(tmp_path: Path) -> None:
    pixels, applied = read_nifti(saved(tmp_path / "a.nii", VOLUME))
    # Rows from head to foot (S descending), columns from the patient's right to the left.
    expected = np.array(
        [[VOLUME[x, :, z].mean() for x in range(5, -1, -1)] for z in range(7, -1, -1)]
    )
    np.testing.assert_allclose(pixels, stretch(expected), atol=1e-5)
    assert pixels.shape == (8, 6)
    assert pixels.dtype == np.float32
    assert applied == "projection from front to back"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(False,) * 3, (True, False, False), (True, True, True)])
def test_the_film_does_not_depend_on_how_the_array_lies(
    tmp_path: Path, order: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    data, affine = lay(order, flips)
    turned, _ = read_nifti(saved(tmp_path / "b.nii", data, affine))
    straight, _ = read_nifti(saved(tmp_path / "a.nii", VOLUME))
    np.testing.assert_allclose(turned, straight, atol=1e-5)


def test_the_patients_left_is_at_the_right_and_the_head_on_top(tmp_path: Path) -> None:
    data = np.zeros((20, 4, 30), dtype=np.float32)
    data[2:4, :, 26:28] = 1  # low x is left in RAS, high z is up
    pixels, _ = read_nifti(saved(tmp_path / "a.nii", data))
    rows, columns = np.nonzero(pixels)
    assert sorted(set(rows)) == [2, 3]
    assert sorted(set(columns)) == [16, 17]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_is_shown_as_it_is(tmp_path: Path, axis: int) -> None:
    slice_ = np.take(VOLUME, [0], axis=axis)
    pixels, applied = read_nifti(saved(tmp_path / "a.nii", slice_))
    picture = slice_.squeeze(axis).T[::-1]
    np.testing.assert_allclose(
        pixels, stretch(picture if axis == 0 else picture[:, ::-1]), atol=1e-5
    )
    assert applied == "single slice"


def test_two_dimensions(tmp_path: Path) -> None:
    pixels, applied = read_nifti(saved(tmp_path / "a.nii", VOLUME[:, :, 0]))
    np.testing.assert_allclose(pixels, stretch(VOLUME[::-1, ::-1, 0].T), atol=1e-5)
    assert applied == "single slice"


def test_scale_of_the_header_is_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOLUME.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 7)
    nib.save(image, tmp_path / "b.nii")
    scaled, _ = read_nifti(tmp_path / "b.nii")
    plain, _ = read_nifti(saved(tmp_path / "a.nii", VOLUME))
    np.testing.assert_allclose(scaled, plain, atol=1e-5)


def test_gzip_nifti_2_and_odd_names(tmp_path: Path) -> None:
    plain, _ = read_nifti(saved(tmp_path / "a.nii", VOLUME))
    zipped = tmp_path / "b.bin"
    zipped.write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
    np.testing.assert_array_equal(read_nifti(zipped)[0], plain)
    nib.save(nib.Nifti2Image(VOLUME, np.eye(4)), tmp_path / "c.nii")
    (tmp_path / "c.nii").rename(tmp_path / "c")
    np.testing.assert_array_equal(read_nifti(tmp_path / "c")[0], plain)


def test_a_constant_volume_is_black(tmp_path: Path) -> None:
    pixels, _ = read_nifti(saved(tmp_path / "a.nii", np.full((4, 4, 4), 3, dtype=np.float32)))
    np.testing.assert_array_equal(pixels, np.zeros((4, 4)))


def test_one_bright_pixel_on_an_empty_film_stays_in_range(tmp_path: Path) -> None:
    data = np.zeros((40, 1, 40), dtype=np.float32)
    data[3, 0, 4] = 900
    pixels, _ = read_nifti(saved(tmp_path / "a.nii", data))
    assert pixels.max() == 1
    assert pixels.sum() == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    data = VOLUME.copy()
    data[1, 1, 1] = value
    with pytest.raises(ImageError, match="NaN or infinity") as caught:
        read_nifti(saved(tmp_path / "a.nii", data))
    assert caught.value.reason == "undecodable"


def test_a_series_of_volumes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"shape is \(6, 5, 8, 2\); expected 2 or 3") as caught:
        read_nifti(saved(tmp_path / "a.nii", np.stack([VOLUME, VOLUME], axis=3)))
    assert caught.value.reason == "bad_geometry"


def test_one_dimension_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="expected 2 or 3 dimensions") as caught:
        read_nifti(saved(tmp_path / "a.nii", VOLUME[:, 0, 0]))
    assert caught.value.reason == "bad_geometry"


def test_too_large_is_told_before_the_data_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii", VOLUME)
    path.write_bytes(path.read_bytes()[:352])
    with pytest.raises(ImageError, match="expected at most 239") as caught:
        read_nifti(path, ReadingConfig(max_pixels=239))
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize("name", ["jane_doe.nii", "jane_doe.nii.gz"])
@pytest.mark.parametrize("keep", [0.1, 0.6])
def test_truncated(tmp_path: Path, name: str, keep: float) -> None:
    path = saved(tmp_path / name, VOLUME)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ImageError, match="NIfTI file cannot be read") as caught:
        read_nifti(path)
    assert caught.value.reason == "undecodable"
    assert "jane" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", gzip.compress(b"text"), b"x" * 500])
def test_something_else(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="NIfTI file cannot be read") as caught:
        read_nifti(path)
    assert caught.value.reason == "undecodable"


def test_an_affine_that_names_no_axes(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii", VOLUME)
    header = bytearray(path.read_bytes())
    header[252:256] = (0).to_bytes(2, "little") + (1).to_bytes(2, "little")  # sform alone
    header[280:328] = b"\0" * 48
    path.write_bytes(header)
    with pytest.raises(ImageError, match="NIfTI file cannot be read") as caught:
        read_nifti(path)
    assert caught.value.reason == "undecodable"


@pytest.mark.parametrize("name", ["example_ct_sm.nii.gz", "example_mr_sm.nii.gz"])
def test_real_volumes(name: str) -> None:
    path = SHARED / "nifti" / name
    if not path.is_file():
        pytest.skip("the shared test volumes are not beside this checkout")
    pixels, _ = read_nifti(path)
    assert pixels.ndim == 2
    assert pixels.dtype == np.float32
    assert 0 == pixels.min() < pixels.max() == 1


def volume_policy(**named: Any) -> ReadingConfig:
    frame = named.pop("frame", None)
    return ReadingConfig(frame=frame, volume=VolumeConfig(**named))


@pytest.mark.parametrize(
    ("plane", "axis", "along"),
    [
        ("sagittal", 0, "from left to right"),
        ("coronal", 1, "from front to back"),
        ("axial", 2, "from head to foot"),
    ],
)
def test_projections_along_each_axis(tmp_path: Path, plane: str, axis: int, along: str) -> None:
    path = saved(tmp_path / "a.nii", VOLUME)
    pixels, applied = read_nifti(path, volume_policy(plane=plane))
    film = VOLUME.mean(axis=axis).T[::-1]
    np.testing.assert_allclose(pixels, stretch(film if axis == 0 else film[:, ::-1]), atol=1e-5)
    assert applied == f"projection {along}"


@pytest.mark.parametrize(
    ("named", "index"),
    [
        ({"show": "slice"}, 4),  # the middle of 8, rounded to even
        ({"show": "slice", "slice": 0.0}, 0),
        ({"show": "slice", "slice": 1.0}, 7),
        ({"frame": 3}, 2),
        ({"show": "slice", "frame": 8}, 7),
    ],
)
def test_a_slice_by_place_or_number(tmp_path: Path, named: dict[str, Any], index: int) -> None:
    path = saved(tmp_path / "a.nii", VOLUME)
    policy = volume_policy(plane="axial", **named)
    pixels, applied = read_nifti(path, policy)
    np.testing.assert_allclose(pixels, stretch(VOLUME[::-1, ::-1, index].T), atol=1e-5)
    assert applied == "axial slice"
    np.testing.assert_array_equal(read_nifti_mask(path, policy), VOLUME[::-1, ::-1, index].T)


def test_a_slice_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="slice 9 is asked for; the volume has 8") as caught:
        read_nifti(saved(tmp_path / "a.nii", VOLUME), volume_policy(plane="axial", frame=9))
    assert caught.value.reason == "multi_frame"


def test_the_window_goes_before_the_projection(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii", VOLUME)
    pixels, applied = read_nifti(path, volume_policy(window=(40.0, 400.0)))
    windowed = np.clip((VOLUME - 40) / 400 + 0.5, 0, 1)
    np.testing.assert_allclose(pixels, windowed.mean(axis=1).T[::-1, ::-1], atol=1e-5)
    assert applied == "window, projection from front to back"


def test_isotropic_pixels_keep_the_proportions(tmp_path: Path) -> None:
    data = np.zeros((20, 2, 10), dtype=np.float32)
    data[5:15, :, 4:6] = 1
    path = saved(tmp_path / "a.nii", data, np.diag([1.0, 1.0, 3.0, 1.0]))
    policy = volume_policy(spacing="isotropic")
    pixels, applied = read_nifti(path, policy)
    assert pixels.shape == (30, 20)
    assert applied.endswith("isotropic pixels")
    mask = read_nifti_mask(path, policy)
    assert mask.shape == (30, 20)
    assert set(np.unique(mask)) == {0, 1}
    assert mask.sum() == 10 * 6
    assert read_nifti(path)[0].shape == (10, 20)


@pytest.mark.parametrize("spacing", [1e-30, 1e-8])
def test_a_spacing_that_would_make_a_giant_film(tmp_path: Path, spacing: float) -> None:
    path = saved(tmp_path / "a.nii", VOLUME, np.diag([spacing, 1.0, 1.0, 1.0]))
    with pytest.raises(ImageError, match=r"isotropic pixels; expected at most|cannot be read"):
        read_nifti(path, volume_policy(spacing="isotropic"))


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    with gzip.open(path, "wb", compresslevel=9) as stream:
        for _ in range(20):
            stream.write(bytes(1_000_000))
    policy = ReadingConfig(max_inflated_mb=10)
    with pytest.raises(ImageError, match=r"more than 10 MB \(cohort.max_inflated_mb") as caught:
        read_nifti(path, policy)
    assert caught.value.reason == "too_large"


def seen_by_monai(path: Path, window: tuple[float, float]) -> NDArray[np.float32]:
    """The middle axial slice through MONAI's transforms, at isotropic spacing."""
    image: Any = nib.load(path)
    voxels = torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32)[None])
    volume: Any = Orientation("RAS", labels=None)(MetaTensor(voxels, affine=image.affine))
    low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    volume = ScaleIntensityRange(low, high, 0.0, 1.0, clip=True)(volume)
    sides = np.linalg.norm(np.asarray(volume.affine)[:3, :3], axis=0)
    film = volume[:, :, :, round(0.5 * (volume.shape[3] - 1))].flip(1, 2).transpose(1, 2)
    size = np.rint(np.array(film.shape[1:]) * sides[1::-1] / sides[:2].min()).astype(int)
    return np.asarray(Resize(size.tolist(), mode="bilinear")(film)[0])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(False,) * 3, (True, False, True)])
def test_same_as_monai(tmp_path: Path, order: tuple[int, ...], flips: tuple[bool, ...]) -> None:
    data, affine = lay(order, flips)
    affine[0] *= 3.5  # millimetres along the patient's right-left axis
    path = saved(tmp_path / "a.nii", data, affine)
    policy = volume_policy(show="slice", plane="axial", window=(50.0, 900.0), spacing="isotropic")
    np.testing.assert_allclose(
        read_nifti(path, policy)[0], seen_by_monai(path, (50.0, 900.0)), atol=1e-5
    )


def test_a_shared_ct_is_seen_as_monai_sees_it() -> None:
    path = SHARED / "nifti" / "example_ct_sm.nii.gz"
    if not path.is_file():
        pytest.skip("the shared test volumes are not beside this checkout")
    policy = volume_policy(show="slice", plane="axial", window=(40.0, 400.0), spacing="isotropic")
    pixels, applied = read_nifti(path, policy)
    np.testing.assert_allclose(pixels, seen_by_monai(path, (40.0, 400.0)), atol=1e-5)
    assert applied == "window, axial slice, isotropic pixels"


@pytest.mark.parametrize(("plane", "edge"), [("coronal", "R"), ("axial", "R"), ("sagittal", "P")])
def test_the_left_edge_follows_from_how_a_volume_is_laid_out(
    plane: str, edge: str, tmp_path: Path
) -> None:
    # Bright where the patient's right, and the back, are: however the array lies, that is the edge.
    ramp = np.zeros_like(VOLUME)
    ramp[3:] += 1.0  # x runs to the right
    ramp[:, :2] += 10.0  # y runs to the front
    flipped = saved(tmp_path / "b.nii", np.flip(ramp, 0).copy(), np.diag([-1.0, 1.0, 1.0, 1.0]))
    for path in (saved(tmp_path / "a.nii", ramp), flipped):
        pixels, _, found = read_nifti_film(path, ReadingConfig(volume=VolumeConfig(plane=plane)))
        assert found == edge
        assert pixels[:, 0].mean() > pixels[:, -1].mean()


def test_axes_that_a_file_does_not_state_are_not_taken_for_the_patient(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOLUME, None)
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 0
    nib.save(image, tmp_path / "bare.nii")
    assert read_nifti_film(tmp_path / "bare.nii")[2] == ""
    image.set_qform(np.eye(4), code=1)
    nib.save(image, tmp_path / "scanner.nii")
    assert read_nifti_film(tmp_path / "scanner.nii")[2] == "R"
