"""What the package depends on: a table of licences, and a lock of the versions it was tested with.

``python -m tests.dependencies`` writes both from what is installed, for the package with its extras
but for those of its tests. No network is asked.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "reports" / "dependencies"
LOCK, TABLE = FOLDER / "lock.txt", FOLDER / "README.md"
FORBIDDEN = re.compile(r"\bA?GPL|GNU (Affero )?General Public", re.IGNORECASE)
"""Licences that a package under Apache-2.0 cannot depend on; the LGPL is none of them."""

_FOR_GPUS = re.compile(r"(cuda|nvidia|pytorch-triton)-|triton$")
_CLASSIFIER = "License :: OSI Approved :: "
_FORTRAN = "its wheel holds libgfortran (GPL-3.0 with the GCC exception), libquadmath (LGPL-2.1)"
_BUNDLED = {
    "numpy": _FORTRAN,
    "opencv-python-headless": "its wheel holds FFmpeg and libquadmath (LGPL-2.1)",
    "scikit-learn": "its wheel holds libgomp (GPL-3.0 with the GCC exception)",
    "scipy": _FORTRAN,
    "shapely": "its wheel holds GEOS (LGPL-2.1)",
}
"""What lies in wheels beside what their metadata speak of."""

_SHORT = {
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 3-Clause": "BSD-3-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0 License": "Apache-2.0",
    "BSD License": "BSD",
    "BSD License, Apache Software License": "BSD, Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT license": "MIT",
    "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}
_HEAD = """\
# Dependencies

Written by `python -m tests.dependencies` from what is installed; `tests/test_dependencies.py` holds
it to `pyproject.toml`, and to licences that a package under Apache-2.0 can depend on. Lower
bounds in `pyproject.toml` leave out releases with published faults. [`lock.txt`](lock.txt) has the
versions that the tests ran with, for a hospital that has to freeze what it validated:

```sh
pip install -r reports/dependencies/lock.txt && pip install --no-deps .
```

For a machine without a network, on one that has one: `pip download -r reports/dependencies/lock.txt
-d wheels`. Digests of the wheels are not in the lock, as they differ by platform; `pip hash` gives
those of what was downloaded. torch is its build for CPUs: one for GPUs brings NVIDIA's libraries,
under their licences, in versions that it pins itself.

| package | version | licence, as its metadata say | asked for by |
|---|---|---|---|
"""


def requirements() -> dict[str, list[Requirement]]:
    """Return what `pyproject.toml` asks for, by extra; blank for the package itself."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: own for name, own in project["optional-dependencies"].items() if name != "test"}
    return {
        extra: [Requirement(line) for line in lines]
        for extra, lines in {"": project["dependencies"], **extras}.items()
    }


def installed() -> dict[str, tuple[metadata.Distribution, str]]:
    """Return all that the package needs and that is installed, each with what first asks for it."""
    found: dict[str, tuple[metadata.Distribution, str]] = {}
    waiting = [
        (one, f"the package{f', extra {extra}' if extra else ''}")
        for extra, own in requirements().items()
        for one in own
    ]
    while waiting:
        wanted, by = waiting.pop(0)
        name = canonicalize_name(wanted.name)
        if name in found:
            continue
        try:
            there = metadata.distribution(wanted.name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = (there, by)
        waiting += [(one, name) for one in needs(there, wanted.extras)]
    return dict(sorted(found.items()))


def needs(there: metadata.Distribution, extras: set[str]) -> Iterator[Requirement]:
    """Yield what an installed package needs on this machine, with some of its extras.

    What a build of torch for GPUs brings, and pins itself, is left out.
    """
    for line in there.requires or ():
        one = Requirement(line)
        if there.name == "torch" and _FOR_GPUS.match(one.name):
            continue
        marks = [{"extra": extra} for extra in ("", *sorted(extras))]
        if one.marker is None or any(one.marker.evaluate(mark) for mark in marks):
            yield one


def licence_of(there: metadata.Distribution) -> str:
    """Return the licence of a package, in the words of its metadata."""
    about = there.metadata
    expression = about.get("License-Expression")
    if expression:
        return expression
    classified = [
        line.removeprefix(_CLASSIFIER)
        for line in about.get_all("Classifier") or ()
        if line.startswith(_CLASSIFIER)
    ]
    stated = (about.get("License") or "").strip().split("\n")[0].strip(" \"'")
    text = ", ".join(classified) or stated or "not stated"
    return _SHORT.get(text, text)[:60]


def read_lock() -> dict[str, str]:
    """Return the versions of the lock by package."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("==")[::2] for line in lines if line and not line.startswith("#"))
    return dict(pairs)


def draw_table() -> str:
    """Return the page of licences."""
    rows = []
    for name, (there, by) in installed().items():
        licence = licence_of(there)
        note = f"; {_BUNDLED[name]}" if name in _BUNDLED else ""
        rows.append(f"| {name} | {public_version(there)} | {licence}{note} | {by} |")
    return _HEAD + "\n".join(rows) + "\n"


def draw_lock() -> str:
    """Return the lock: every package with the version that is installed."""
    head = "# Versions that the tests ran with; written by python -m tests.dependencies.\n"
    return head + "".join(
        f"{n}=={public_version(there)}\n" for n, (there, _) in installed().items()
    )


def public_version(there: metadata.Distribution) -> str:
    """Return a version without the name of a build, such as +cpu, that no index has."""
    return there.version.partition("+")[0]


def main() -> None:
    """Write both files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(draw_table(), encoding="utf-8")
    LOCK.write_text(draw_lock(), encoding="utf-8")
    typer.echo(f"{len(read_lock())} packages")


if __name__ == "__main__":
    typer.run(main)
