"""Two processes run the tests: both collect the same names, and each keeps to one core."""

import os

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")

_LONGEST = {"test_real_radiographs.py", "test_privacy.py", "test_engines.py"}

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
