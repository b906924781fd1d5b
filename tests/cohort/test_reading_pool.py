"""Reading in other processes: the same films; a file that brings its reader down costs itself."""

import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from ravl_med.cohort.image_file import read_film_file
from ravl_med.cohort.reading_pool import ReadingPool
from ravl_med.config.cohort import CohortConfig, ReadingConfig, VolumeConfig
from ravl_med.engine import supervisor
from ravl_med.errors import DataError, ImageError

ROOMY = ReadingConfig(max_pixels=10**9)
BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.fixture(scope="module")
def pool() -> Iterator[ReadingPool]:
    with ReadingPool(ReadingConfig(max_seconds=60), 2) as made:
        yield made


def png(path: Path, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def large(path: Path, side: int) -> None:
    """A film that is small on disk and takes long to read."""
    Image.new("I;16", (side, side)).save(path, "PNG", compress_level=1)


def bomb(path: Path, megabytes: int) -> Path:
    """A deflated DICOM file of a few kilobytes that unpacks to much more."""
    content = (BUNDLED / "image_dfl.dcm").read_bytes()
    start = 132 + 12 + pydicom.dcmread(BUNDLED / "image_dfl.dcm").file_meta[0x00020000].value
    head, tail = content[:start], zlib.decompress(content[start:], -zlib.MAX_WBITS)
    extra = struct.pack("<HH2sHI", 0x7FE1, 0x0010, b"OB", 0, megabytes << 20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(
        head
        + packer.compress(tail + extra)
        + b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes))
        + packer.flush()
    )
    return path


def test_the_same_films_in_order(tmp_path: Path, pool: ReadingPool) -> None:
    paths = [png(tmp_path / str(seed), seed) for seed in range(12)]
    paths.insert(5, tmp_path / "missing")
    paths.append(BUNDLED / "MR_small.dcm")
    read = list(pool.read((path, None) for path in paths))
    for path, content in zip(paths, read, strict=True):
        if path.name == "missing":
            assert isinstance(content, ImageError)
            assert content.reason == "missing"
            assert str(tmp_path) not in str(content)
            continue
        here = read_film_file(path, ReadingConfig())
        assert not isinstance(content, ImageError)
        np.testing.assert_array_equal(content.pixels, here.pixels)
        assert (content.digest, content.applied) == (here.digest, here.applied)
        assert content.attributes == here.attributes


def test_a_named_frame_travels_along(pool: ReadingPool) -> None:
    path = BUNDLED / "examples_ybr_color.dcm"
    first, last, none, beyond = pool.read([(path, 1), (path, 30), (path, None), (path, 31)])
    assert not isinstance(first, ImageError)
    assert not isinstance(last, ImageError)
    assert first.digest != last.digest
    assert isinstance(none, ImageError)
    assert isinstance(beyond, ImageError)
    assert (none.reason, beyond.reason) == ("multi_frame", "multi_frame")


def test_a_process_that_dies_costs_one_file(tmp_path: Path) -> None:
    paths = [png(tmp_path / str(seed), seed) for seed in range(4)]
    large(tmp_path / "large.png", 12_000)
    with ReadingPool(ROOMY, 1) as pool:
        list(pool.read([(paths[0], None)]))
        process = pool._crew.children[0]._process
        assert process is not None
        killer = threading.Timer(0.3, process.kill)
        killer.start()
        died, *read = pool.read((path, None) for path in (tmp_path / "large.png", *paths))
    assert isinstance(died, ImageError)
    assert died.reason == "decoder_died"
    assert not [content for content in read if isinstance(content, ImageError)]


def test_a_process_that_hangs_is_ended(tmp_path: Path) -> None:
    large(tmp_path / "large.png", 12_000)
    reading = ROOMY.model_copy(update={"max_seconds": 0.3})
    start = time.perf_counter()
    with ReadingPool(reading, 1) as pool:
        wanted = [(tmp_path / "large.png", None), (png(tmp_path / "a", 0), None)]
        late, fine = pool.read(wanted)
    assert isinstance(late, ImageError)
    assert late.reason == "timed_out"
    assert "longer than 0.3 s (cohort.max_seconds)" in str(late)
    assert not isinstance(fine, ImageError)
    assert time.perf_counter() - start < 30


def test_a_deflated_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = bomb(tmp_path / "a.dcm", 80)
    assert path.stat().st_size < 200_000
    reading = ReadingConfig(max_inflated_mb=64)
    with ReadingPool(reading, 1) as pool:
        (refused,) = pool.read([(path, None)])
    assert isinstance(refused, ImageError)
    assert refused.reason == "too_large"
    assert "unpacks to more than 64 MB (cohort.max_inflated_mb)" in str(refused)


def test_a_file_that_needs_more_memory_than_there_is(tmp_path: Path) -> None:
    reading = ReadingConfig(max_memory_mb=512)
    large(tmp_path / "large.png", 8_000)
    with ReadingPool(reading, 1) as pool:
        refused, fine = pool.read([(tmp_path / "large.png", None), (png(tmp_path / "a", 0), None)])
    assert isinstance(refused, ImageError)
    assert refused.reason == "out_of_memory"
    assert not isinstance(fine, ImageError)


def test_paths_outside_the_roots_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    outside, inside = png(tmp_path / "b", 0), png(tmp_path / "cohort" / "a", 1)
    with ReadingPool(ReadingConfig(), 1, (tmp_path / "cohort",)) as pool:
        refused, read = pool.read([(outside, None), (inside, None)])
    assert isinstance(refused, ImageError)
    assert refused.reason == "outside_root"
    assert not isinstance(read, ImageError)


def test_no_process_is_left_behind(tmp_path: Path) -> None:
    with ReadingPool(ReadingConfig(), 1) as pool:
        list(pool.read([(png(tmp_path / "a", 0), None)]))
        process = pool._crew.children[0]._process
        assert process is not None
    assert process.poll() is not None


def test_leaving_at_once_leaves_no_process_behind(tmp_path: Path) -> None:
    path = png(tmp_path / "a", 0)
    with ReadingPool(ReadingConfig(), 2) as pool:
        outcomes = pool.read([(path, None)] * 9)
        next(outcomes)
        for worker in pool._crew.children:
            worker.stop()
        for worker in pool._crew.children:
            worker._stopped = False
        pool._crew.threads.submit(pool._ask, "film", path, None)  # starts another one
        outcomes.close()
    assert [worker._process for worker in pool._crew.children] == [None, None]


def test_a_reader_that_cannot_start_is_an_error_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor.sys, "executable", "/bin/true")
    with (
        ReadingPool(ReadingConfig(), 1) as pool,
        pytest.raises(DataError, match=r"cohort\.workers: no process .* Set it to 0"),
    ):
        list(pool.read([(png(tmp_path / "a", 0), None)]))


def test_a_worker_learns_how_to_read_and_no_path(tmp_path: Path) -> None:
    volume = VolumeConfig(show="slice", plane="axial", slice=0.25, window=(40.0, 400.0))
    config = CohortConfig(manifest=tmp_path / "doe.csv", voi="window", frame=3, volume=volume)
    with ReadingPool(config, 1) as pool:
        line = pool._crew.children[0]._greeting
    assert b"doe" not in line
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert ReadingConfig.model_validate_json(line) == ReadingConfig(
        voi="window", frame=3, volume=volume
    )
