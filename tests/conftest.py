"""Two processes run the tests: both collect the same names, and each keeps to one core."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from s3_server import S3Server

if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")

gc.disable()  # until all tests are collected: what they import stays

_LONGEST = {
    "test_privacy.py", "test_mitigate.py", "test_html_in_a_browser.py", "test_embedding.py",
    "test_cli.py", "test_cli_intake.py", "test_mirrored_films.py", "test_trainer.py",
}  # fmt: skip

# The same examples each time, however long they take: what was pushed green stays green. Others are
# tried with `pytest --hypothesis-profile=search`.
settings.register_profile("search", deadline=None)
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Keep the content of files out of test names: gzip writes the second into its header."""
    return f"{argname}_{len(val)}_bytes" if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that no process is left alone with one of them."""
    items.sort(key=lambda item: item.path.name not in _LONGEST)


def pytest_collection_finish() -> None:
    """Leave what imports brought out of every later collection; an audit asks for three."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def s3_of_session() -> Iterator[S3Server]:
    from s3_server import S3Server

    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_of_session: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A running S3 server on the loopback, and credentials for it in the environment alone."""
    from s3_server import CREDENTIALS, NO_OTHERS

    for name, value in {**CREDENTIALS, **NO_OTHERS}.items():
        monkeypatch.setenv(name, value)
    s3_of_session.start()
    return s3_of_session
