"""Folders made once and found again; the key of the pseudonyms."""

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from ravl_med.errors import ConfigError
from ravl_med.storage.cache import Cache, open_cache, user_cache, user_key


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def fill(folder: Path) -> None:
    (folder / "a.txt").write_text("content")


def never(folder: Path) -> None:
    pytest.fail("what is there must not be made again")


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    first, found = cache.folder("cohorts", {"seed": 1, "size": 2}, fill)
    assert not found
    assert (first / "a.txt").read_text() == "content"
    again, found = cache.folder("cohorts", {"size": 2, "seed": 1}, never)
    assert found
    assert again == first


def test_another_recipe_or_kind_is_another_folder(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    folders = {
        cache.folder(kind, {"seed": seed}, fill)[0]
        for kind in ("cohorts", "models")
        for seed in (1, 2, "1")
    }
    assert len(folders) == 6


def test_a_kind_that_could_not_be_cleared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        Cache(tmp_path).folder("drawings", {}, fill)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_make_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise RuntimeError("no more disk")

    cache = Cache(tmp_path)
    with pytest.raises(RuntimeError, match="no more disk"):
        cache.folder("cohorts", {}, fail)
    assert list((tmp_path / "cohorts").iterdir()) == []
    _, found = cache.folder("cohorts", {}, fill)
    assert not found


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def make(folder: Path) -> None:
        (folder / "begun").write_text("x", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device", "/patients/doe.dcm")

    with pytest.raises(ConfigError, match=r"^cache: no room left .* cache\.folder") as caught:
        cache.folder("models", {"a": 1}, make)
    assert "doe" not in str(caught.value)
    assert not list((tmp_path / "models").iterdir())


def test_two_runs_at_once_keep_one_folder(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def overtaken(folder: Path) -> None:
        fill(folder)
        cache.folder("cohorts", {}, fill)

    target, _ = cache.folder("cohorts", {}, overtaken)
    assert list((tmp_path / "cohorts").iterdir()) == [target]
    assert (target / "a.txt").is_file()


def test_folders_are_for_their_owner_alone(tmp_path: Path) -> None:
    target, _ = Cache(tmp_path / "cache").folder("cohorts", {}, fill)
    assert [mode(p) for p in (target, target.parent, target.parent.parent)] == [0o700] * 3


def test_the_user_cache_lies_in_the_users_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache().root == tmp_path / "ravl-med"
    assert not user_cache().root.exists()


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "ravl-med" / "pseudonym.key"


def test_the_key_is_made_once_and_for_its_owner_alone(key_file: Path) -> None:
    old = os.umask(0)
    try:
        key = user_key()
    finally:
        os.umask(old)
    assert len(key) == 32
    assert user_key() == key
    assert key_file.read_text() == key.hex()
    assert (mode(key_file), mode(key_file.parent)) == (0o600, 0o700)
    assert list(key_file.parent.iterdir()) == [key_file]


def test_two_users_have_two_keys(
    key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = user_key()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    assert user_key() != first


@pytest.mark.parametrize("content", [b"", b"abcd", b"z" * 64, b"\xff" * 64])
def test_a_damaged_key_is_not_used(key_file: Path, content: bytes) -> None:
    key_file.parent.mkdir()
    key_file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"pseudonym.key .* is not a key of 64 hex digits") as e:
        user_key()
    assert str(key_file.parent) not in str(e.value)
    assert key_file.read_bytes() == content


@pytest.fixture
def filled(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path / "cache")
    cache.folder("cohorts", {"seed": 1}, fill)
    cache.folder("embeddings", {"seed": 1}, fill)
    old, _ = cache.folder("embeddings", {"seed": 2}, fill)
    (cache.root / "embeddings" / ("ab" * 12 + ".batch-size")).write_text("8")
    for path in (old / "a.txt", old):
        os.utime(path, (time.time() - 20 * 86_400,) * 2)
    (cache.root / "embeddings" / "thesis").mkdir()  # somebody else's
    (cache.root / "letters").mkdir()
    return cache


def test_entries_tell_kind_size_and_age(filled: Cache) -> None:
    entries = list(filled.entries())
    assert [entry.kind for entry in entries] == ["cohorts", *["embeddings"] * 3]
    assert sorted(entry.size for entry in entries) == [1, 7, 7, 7]
    ages = sorted(time.time() - entry.changed for entry in entries)
    assert ages[0] < 60
    assert ages[-1] > 19 * 86_400
    assert list(Cache(filled.root / "none").entries()) == []


def test_only_what_is_named_is_removed_and_nothing_of_others(filled: Cache) -> None:
    entries = [entry for entry in filled.entries() if entry.kind == "embeddings"]
    filled.remove(entries)
    assert [entry.kind for entry in filled.entries()] == ["cohorts"]
    assert [path.name for path in (filled.root / "embeddings").iterdir()] == ["thesis"]
    assert (filled.root / "letters").is_dir()


def test_a_link_is_no_entry(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    (tmp_path / "elsewhere").mkdir()
    (cache.open_kind("models") / ("cd" * 12)).symlink_to(tmp_path / "elsewhere")
    assert list(cache.entries()) == []


def test_the_folder_of_a_config_is_the_cache(tmp_path: Path) -> None:
    assert open_cache(tmp_path / "mine").root == tmp_path / "mine"
    assert open_cache(None).root == user_cache().root
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cache\.folder names a file; expected a folder"):
        open_cache(tmp_path / "file")


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cache: its folder cannot be made .*cache\.folder") as e:
        Cache(tmp_path / "file" / "cache").open_kind("models")
    assert str(tmp_path) not in str(e.value)


def test_a_key_that_others_can_read_is_refused_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    key = user_key()
    path = tmp_path / "ravl-med" / "pseudonym.key"
    for mode in (0o666, 0o644, 0o640):
        path.chmod(mode)
        with pytest.raises(ConfigError, match=r"can be read by others.*chmod 600 /") as caught:
            user_key()
        assert key.hex() not in str(caught.value)
    path.chmod(0o600)
    assert user_key() == key


@pytest.mark.timeout(10)
def test_a_key_that_cannot_be_kept_says_where_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cannot be kept .*NotADirectory.*XDG_CONFIG_HOME"):
        user_key()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "ravl-med").mkdir()
    os.mkfifo(tmp_path / "ravl-med" / "pseudonym.key")
    with pytest.raises(ConfigError, match="cannot be kept"):
        user_key()
