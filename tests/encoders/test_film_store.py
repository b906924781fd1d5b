"""Embeddings on disk: found again, whole or not at all, the same whatever happened in between."""

import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ravl_med.encoders.film_store import FilmStore, digest_tensors, film_key
from ravl_med.errors import ConfigError

SCRIPT = Path(__file__).with_name("killed_embedding.py")
FILMS = 80
BOXES = np.array([[0, 0, 8, 8], [8, 0, 16, 8]], dtype=np.float32)


def film(number: int, regions: int = 2):
    rng = np.random.default_rng(number)
    image, region = rng.random(5, np.float32), rng.random((regions, 5), np.float32)
    return film_key(f"film {number}", BOXES[:regions]), image, region


def store_of(tmp_path: Path) -> FilmStore:
    return FilmStore(tmp_path / "root" / "embeddings" / "recipe", 5)


def test_what_is_written_is_found_by_another_run(tmp_path):
    films = [film(0), film(1, regions=0), film(2, regions=1)]
    written = store_of(tmp_path)
    written.write(3, films)

    store = store_of(tmp_path)

    assert len(store) == 3
    for key, image, region in films:
        assert key in store
        for source in (store, written):
            found = source.read(key)
            np.testing.assert_array_equal(found[0], image)
            np.testing.assert_array_equal(found[1], region)
    assert film(7)[0] not in store


def test_a_film_without_any_region_in_its_file_is_found(tmp_path):
    store_of(tmp_path).write(0, [film(0, regions=0)])
    image, region = store_of(tmp_path).read(film(0, regions=0)[0])
    assert image.shape == (5,)
    assert region.shape == (0, 5)


def rewritten(tmp_path, change, *, resealed: bool = False) -> FilmStore:
    """A store whose file somebody has changed, with or without a new digest."""
    from safetensors.numpy import load_file, save_file

    films = [film(0), film(1)]
    store_of(tmp_path).write(3, films)
    (path,) = (tmp_path / "root" / "embeddings" / "recipe").glob("*.safetensors")
    tensors = {name: values.copy() for name, values in load_file(path).items()}
    change(tensors)
    if resealed:
        del tensors["digest"]
        digest = digest_tensors(tensors, "recipe")
        tensors["digest"] = np.frombuffer(digest, dtype=np.uint8)
    save_file(tensors, path)
    return store_of(tmp_path)


def reverse_rows(tensors):
    tensors["image"] = np.ascontiguousarray(tensors["image"][::-1])


def without_digest(tensors):
    del tensors["digest"]


@pytest.mark.parametrize("change", [reverse_rows, without_digest])
def test_a_file_that_was_changed_is_taken_away_and_made_again(change, tmp_path):
    store = rewritten(tmp_path, change)
    assert len(store) == 0
    assert store.damaged == {3}
    assert list(store.files()) == []
    store.write(3, [film(0), film(1)])
    np.testing.assert_array_equal(store_of(tmp_path).read(film(0)[0])[0], film(0)[1])


def test_a_file_of_another_recipe_is_not_taken(tmp_path):
    store = store_of(tmp_path)
    store.write(3, [film(0)])
    (path,) = store.files()
    other = FilmStore(tmp_path / "root" / "embeddings" / "other", 5)
    assert not other.adopt(path.name, path.read_bytes())
    assert film(0)[0] not in other


@pytest.mark.parametrize("name", ["image", "region"])
def test_a_film_with_nan_is_made_again_and_only_that_one(name, tmp_path):
    def spoil(tensors):
        tensors[name][-1, 0] = np.nan  # of the second film

    store = rewritten(tmp_path, spoil, resealed=True)
    first, second = film(0), film(1)
    assert first[0] in store
    assert second[0] not in store
    assert store.holds(second[0])
    assert not store.holds(film(7)[0])


def test_pixels_regions_and_their_order_make_the_key():
    keys = {
        film_key("a", BOXES),
        film_key("b", BOXES),
        film_key("a", BOXES[:1]),
        film_key("a", BOXES[::-1]),
        film_key("a", BOXES + np.float32(0.5)),
    }
    assert len(keys) == 5


def test_of_two_files_with_a_film_the_lower_part_counts(tmp_path):
    key, image, region = film(0)
    store = store_of(tmp_path)
    store.write(5, [(key, image + 1, region)])
    store.write(2, [(key, image, region), film(1)])

    np.testing.assert_array_equal(store_of(tmp_path).read(key)[0], image)


def test_files_are_for_their_owner_alone(tmp_path):
    old = os.umask(0)
    try:
        store = store_of(tmp_path)
        store.write(0, [film(0)])
        store.list_done("ab" * 16)
    finally:
        os.umask(old)
    for path in (tmp_path / "root").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert store_of(tmp_path).listed() == {"ab" * 16}


@pytest.mark.parametrize("length", [0, 7, 60, -1])
def test_a_damaged_file_is_taken_away_and_the_others_stay(tmp_path, length):
    store = store_of(tmp_path)
    store.write(0, [film(0)])
    store.write(1, [film(1)])
    damaged = next(store.files())
    damaged.write_bytes(damaged.read_bytes()[:length])

    again = store_of(tmp_path)

    assert film(0)[0] not in again
    assert film(1)[0] in again
    assert not damaged.exists()


def test_a_file_of_another_size_is_taken_away(tmp_path):
    store = FilmStore(tmp_path / "root" / "embeddings" / "recipe", 4)
    store.write(0, [(film(0)[0], np.zeros(4, np.float32), np.zeros((2, 4), np.float32))])
    assert len(store_of(tmp_path)) == 0
    assert not list(store.files())


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "root").touch()
    with pytest.raises(ConfigError, match=r"embeddings cannot be written .*cache\.folder") as error:
        store_of(tmp_path).write(0, [film(0)])
    assert str(tmp_path) not in str(error.value)


def test_old_drafts_go_and_new_ones_stay(tmp_path):
    store = store_of(tmp_path)
    store.write(0, [film(0)])
    old, new = store.folder / ".old.safetensors.1", store.folder / ".new.safetensors.2"
    for draft in (old, new):
        draft.touch()
    os.utime(old, (time.time() - 1e6,) * 2)

    store_of(tmp_path)

    assert not old.exists()
    assert new.exists()


class Workers:
    """Processes that fill stores with the same films, one at a time."""

    def __init__(self, model: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(model), str(FILMS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
        )

    def start(self, store: Path) -> int:
        self.process.stdin.write(f"{store}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def finish(self, store: Path) -> dict[str, bytes]:
        self.start(store)
        assert self.end() == 0
        return {
            path.relative_to(store).as_posix(): path.read_bytes()
            for path in sorted(store.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }

    def kill(self, store: Path, after: float) -> bool:
        """Start, and kill after so many seconds; say whether it was still at work."""
        process = self.start(store)
        time.sleep(after)
        os.kill(process, signal.SIGKILL)
        return self.end() == -signal.SIGKILL

    def end(self) -> int:
        self.process.stdin.write("wait\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture
def workers(request, folder_of):
    with (made := Workers(folder_of(request.param))).process:
        yield made
        made.process.stdin.close()


def measured(workers: Workers, tmp_path: Path) -> tuple[dict[str, bytes], float]:
    """The bytes of a run that nobody ended, and the seconds that another one takes."""
    whole = workers.finish(tmp_path / "whole")
    begun = time.monotonic()
    assert workers.finish(tmp_path / "again") == whole
    return whole, time.monotonic() - begun


@pytest.mark.long
@pytest.mark.parametrize("workers", ["vit_1_layer"], indirect=True)
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(workers, tmp_path):
    whole, most = measured(workers, tmp_path)
    assert len(whole) == 30  # ten files of films, ten of embeddings, ten parts that are done
    moments = random.Random(0)

    ended = [workers.kill(tmp_path / "killed", moments.uniform(0, 0.4 * most)) for _ in range(5)]

    assert any(ended)
    assert workers.finish(tmp_path / "killed") == whole


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["resnet", "vit"], indirect=True)
def test_twenty_kills_leave_the_same_bytes(workers, tmp_path):
    """Each kill meets a store that is still empty, half full, or just being written to."""
    whole, most = measured(workers, tmp_path)
    moments = random.Random(1)
    met, ended = set(), 0
    for number in range(20):
        store = tmp_path / f"killed {number}"
        ended += workers.kill(store, moments.uniform(0, most))
        met.add(len(list(store.rglob("*.safetensors"))))
        assert workers.finish(store) == whole
    assert ended >= 10
    assert len(met) >= 5  # at many places
