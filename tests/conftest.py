"""Two processes run the tests: both collect the same names, and each keeps to one core."""

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Keep the content of files out of test names: gzip writes the second into its header."""
    return f"{argname}_{len(val)}_bytes" if isinstance(val, bytes) else None
