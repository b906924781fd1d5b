"""What goes wrong with a storage is an error of ours, of the right class, that names no object."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from s3_server import CREDENTIALS, S3Server

from ravl_med.errors import ConfigError, RavlMedError, StorageError
from ravl_med.storage.remote import RemotePath, StorageAccess

KEY = "films/Doe_John.dcm"


def place(endpoint: str, bucket: str, **access) -> RemotePath:
    told = StorageAccess(endpoint, **{"timeout": 5.0, "retries": 0, **access})
    return RemotePath(f"s3://{bucket}/{KEY}", told, "cohort.manifest")


ASKED = {
    "copy": lambda file, folder: file.fetch(folder / "copy"),
    "read": lambda file, folder: file.read_bytes(),
    "part": lambda file, folder: file.read_bytes(2, 4),
    "look": lambda file, folder: file.stamp(),
    "list": lambda file, folder: file.parent.entries(),
    "write": lambda file, folder: file.write_bytes(b"content"),
}


@pytest.fixture(params=ASKED)
def asked(request, tmp_path):
    """What a storage is asked, and its error, which names nothing."""

    def ask(file: RemotePath, expected: type[RavlMedError], match: str) -> str:
        with pytest.raises(expected, match=match) as caught:
            ASKED[request.param](file, tmp_path)
        message = str(caught.value)
        assert "\n" not in message
        assert not any(word in message for word in ("Doe", "John", "films", "bucket-", "127.0.0.1"))
        return message

    return ask


@pytest.fixture
def mute() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_storage_that_never_answers_is_told_in_time(s3: S3Server, mute: str, asked) -> None:
    file, begun = place(mute, "bucket-mute", timeout=0.3), time.monotonic()
    message = asked(file, StorageError, r"gives no answer within 0\.3 s \(storage\.timeout\)")
    assert time.monotonic() - begun < 10.0
    assert message.startswith("cohort.manifest: the storage (s3://)")


def test_a_storage_that_is_not_there_is_told(s3: S3Server, asked) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    file = place(f"http://127.0.0.1:{port}", "bucket-gone")
    asked(file, StorageError, r"cannot be reached, or is gone .* after 1 attempt")


def test_missing_credentials_are_told(s3: S3Server, monkeypatch, asked) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    asked(
        place(s3.endpoint, "bucket-none", timeout=4.5),
        ConfigError,
        "no credentials for the storage .*AWS_PROFILE",
    )


def test_denied_access_is_told(s3: S3Server, tmp_path) -> None:
    s3.bucket("bucket-denied")
    s3.client.put_object(Bucket="bucket-denied", Key=KEY, Body=b"x")
    denied = {"Effect": "Deny", "Principal": "*", "Action": "s3:*"}
    policy = {"Version": "2012-10-17", "Statement": [
        {**denied, "Resource": "arn:aws:s3:::bucket-denied/*"}
    ]}  # fmt: skip
    s3.client.put_bucket_policy(Bucket="bucket-denied", Policy=json.dumps(policy))
    for name in ("copy", "read", "part", "write"):
        with pytest.raises(ConfigError, match="denies access; expected credentials"):
            ASKED[name](place(s3.endpoint, "bucket-denied"), tmp_path)


def test_no_bucket_and_no_object_are_not_there(s3: S3Server, tmp_path) -> None:
    s3.bucket("bucket-empty")
    for bucket in ("bucket-empty", "bucket-that-is-not"):
        for name in ("copy", "read", "part", "look", "list"):
            with pytest.raises(FileNotFoundError, match=r"does not exist|bucket-"):
                ASKED[name](place(s3.endpoint, bucket), tmp_path)
        assert not place(s3.endpoint, bucket).is_file()


def test_a_name_that_no_bucket_has_is_told(s3: S3Server, tmp_path) -> None:
    with pytest.raises(ConfigError, match="no bucket can be called so"):
        place(s3.endpoint, "B_!").stamp()


@pytest.fixture
def faltering() -> Iterator[tuple[str, list[int]]]:
    """A server that is too busy twice before it answers; and what it has said."""
    said: list[int] = []

    class Faltering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said.append(503 if len(said) < 2 else 206)
            self.send_response(said[-1])
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(b"content")

        def log_message(self, *told: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Faltering) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", said
        server.shutdown()
        thread.join()


def test_a_request_is_tried_again(s3: S3Server, faltering) -> None:
    endpoint, said = faltering
    assert place(endpoint, "bucket-again", retries=2).read_bytes(0, 7) == b"content"
    assert said == [503, 503, 206]


def test_a_storage_that_stays_too_busy_is_told(s3: S3Server, faltering) -> None:
    with pytest.raises(StorageError, match=r"answers with an error .* after 1 attempt "):
        place(faltering[0], "bucket-again").read_bytes(0, 7)


@pytest.fixture
def breaking_off() -> Iterator[str]:
    """A server that ends each connection in the middle of an object."""

    class BreakingOff(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"a few bytes")

        def log_message(self, *told: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), BreakingOff) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_object_that_breaks_off_is_told(s3: S3Server, breaking_off, tmp_path) -> None:
    with pytest.raises(StorageError, match=r"cannot be reached, or is gone"):
        place(breaking_off, "bucket-torn").fetch(tmp_path / "copy")


def test_a_library_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"gs:// needs gcsfs \(pip install gcsfs\)"):
        RemotePath("gs://bucket/film").stamp()


def test_s3_without_its_library_names_the_extra(monkeypatch) -> None:
    def lacking(protocol: str) -> None:
        raise ImportError(f"Install {protocol}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", lacking)
    access = StorageAccess(timeout=7.25)  # opened by no other test
    with pytest.raises(ConfigError, match=r"s3:// needs s3fs \(pip install '\.\[s3\]'\)"):
        RemotePath("s3://bucket/film", access).stamp()


def test_a_protocol_that_there_is_not_is_told() -> None:
    with pytest.raises(ConfigError, match="'nonsense' is no storage that fsspec knows"):
        RemotePath("nonsense://bucket/film").stamp()
