"""Places in a storage: read, joined, held inside a folder; nothing of them is secret."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravl_med.storage.remote import RemotePath, StorageAccess, is_url

ACCESS = StorageAccess("http://minio:9000", 3.0, 1)


def read(text: str) -> RemotePath:
    found = RemotePath.parse(text, ACCESS, "cohort.manifest")
    assert isinstance(found, RemotePath)
    return found


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://bucket/a/b.dcm", "s3://bucket/a/b.dcm"),
        ("S3://bucket/a/", "s3://bucket/a"),
        ("s3://bucket//a/./b", "s3://bucket/a/b"),
        ("s3://bucket/a/../b", "s3://bucket/b"),
        ("s3://bucket/a/../../other/b", "s3://other/b"),
        ("memory:///a", "memory://a"),
        ("abfs://box@account.example/a", "abfs://box@account.example/a"),
        ("s3://bucket/a%20b?c=1#d::e", "s3://bucket/a%20b?c=1#d::e"),
    ],
)
def test_urls_are_read(text: str, url: str) -> None:
    assert str(read(text)) == url


def test_a_url_of_this_machine_is_a_path() -> None:
    assert RemotePath.parse("file:///data/a.csv", ACCESS, "x") == Path("/data/a.csv")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("s3://", "names nothing"),
        ("s3://key:secret@bucket/a", "a password"),
        ("http://host/secret", r"http:// is no storage; expected s3://, gs:// or abfs://"),
        ("hf://datasets/secret", r"hf:// is no storage"),
        ("ftp://host/a", r"ftp:// is no storage"),
    ],
)
def test_urls_that_are_refused(text: str, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        read(text)
    assert "secret" not in str(caught.value)


def test_what_is_no_url() -> None:
    for text in ("films/a.dcm", "/data/a", "C:\\films\\a", "a:b", "://a", "1s3://a", ""):
        assert not is_url(text)


def test_it_is_used_as_a_path_is() -> None:
    file = read("s3://bucket/cohort/films/a.nii.gz")
    assert (file.name, file.suffix, file.protocol) == ("a.nii.gz", ".gz", "s3")
    assert str(file.parent.parent / "labels.csv") == "s3://bucket/cohort/labels.csv"
    assert file.relative_to(read("s3://bucket/cohort")).as_posix() == "films/a.nii.gz"
    bucket = read("s3://bucket")
    assert bucket.parent == bucket


def test_what_another_process_gets_can_connect_there() -> None:
    file = pickle.loads(pickle.dumps(read("s3://bucket/a") / "b"))
    assert (file.url, file.access, file.role) == ("s3://bucket/a/b", ACCESS, "cohort.manifest")


@pytest.mark.parametrize(
    ("url", "inside"),
    [
        ("s3://bucket/cohort/a.dcm", True),
        ("s3://bucket/cohort/x/a.dcm", True),
        ("s3://bucket/cohort", False),
        ("s3://bucket/cohort-of-others/a.dcm", False),
        ("s3://bucket/cohort/../secret", False),
        ("s3://bucket/cohort/%2e%2e/secret", False),
        ("s3://bucket/cohort/x%2F..%2F..%2Fsecret", False),
        ("s3://other/cohort/a.dcm", False),
        ("gs://bucket/cohort/a.dcm", False),
    ],
)
def test_what_lies_below_a_folder(url: str, inside: bool) -> None:
    assert read(url).lies_below(read("s3://bucket/cohort")) is inside


@given(st.lists(st.sampled_from(["a", "..", ".", "", "%2e%2e", "b c"]), max_size=8))
def test_no_way_leads_out_of_a_folder_and_counts_as_below_it(parts: list[str]) -> None:
    folder = read("s3://bucket/cohort")
    place = folder / "/".join(parts)
    assert ".." not in place.url.split("/")
    if place.lies_below(folder):
        assert place.url.startswith("s3://bucket/cohort/")
