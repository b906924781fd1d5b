"""The one runner of all pages: it measures parts, keeps the others' numbers, and draws the page.

A page is made of parts, each with a function that measures its rows. Rows are kept as JSON, with
the machine, the seconds and the sizes that they were measured with; the Markdown beside it is drawn
from the JSON alone.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ravl_med import __version__
from ravl_med.config.loading import Config, load_config
from ravl_med.errors import ConfigError
from ravl_med.storage.cache import Cache, user_cache, user_key
from tests.benchmarks.tables import Row, fill

Progress = Callable[[str, int, int], None]
Size = int | tuple[int, ...]

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
NOTHING = "none"
"""Names no part: the page is drawn anew from the numbers that are there."""


def silent(stage: str, done: int, total: int) -> None:
    """Take progress and show nothing of it."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a measuring function is given.

    Attributes
    ----------
    config : Config - of the quickstart: phantoms and the model that is trained on them
    cache : Cache - of films and models
    key : bytes - secret of the pseudonyms
    sizes : mapping of name to int, or to several - how much is measured
    files : mapping of option to path - that the user has named
    """

    config: Config
    cache: Cache
    key: bytes
    sizes: Mapping[str, Size] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    progress: Progress = silent

    @classmethod
    def of_user(
        cls, sizes: Mapping[str, Size], files: Mapping[str, Path], progress: Progress
    ) -> Setup:
        """Return a run with the user's own cache and key."""
        return cls(load_config(QUICKSTART), user_cache(), user_key(), sizes, files, progress)

    def size(self, name: str) -> int:
        """Return a size that is one number."""
        size = self.sizes[name]
        assert isinstance(size, int)
        return size

    def several(self, name: str) -> tuple[int, ...]:
        """Return a size that is several numbers."""
        size = self.sizes[name]
        assert isinstance(size, tuple)
        return size


@dataclass(frozen=True, slots=True)
class Part:
    """One question of a page.

    Attributes
    ----------
    text : str - template over the fields of the first row; what is measured, and how
    blocks : sequence of callable - rows to Markdown, such as a `Table`; blank ones are left out
    measure : callable - to the rows
    sizes : mapping of name to int, or to several - how much is measured where nothing is said
    files : mapping of option to what the command shows for it - that have to be named
    stepwise : bool - hours long: what is measured is written row by row
    """

    name: str
    title: str
    text: str
    blocks: Sequence[Callable[[list[Row]], str]]
    measure: Callable[[Setup], Iterable[Row]]
    sizes: Mapping[str, Size] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    stepwise: bool = False

    def draw(self, rows: list[Row]) -> str:
        """Draw the section."""
        blocks = [block(rows) for block in self.blocks]
        text = fill(self.text, rows[0] if rows else {}) if self.text else ""
        return "\n\n".join(block for block in (f"## {self.title}", text, *blocks) if block)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of ``reports/benchmark``.

    Attributes
    ----------
    help : str - of its command
    summary : callable or None - parts to the text that stands between marks in ``README.md``
    """

    name: str
    title: str
    help: str
    parts: tuple[Part, ...]
    summary: Callable[[Mapping[str, list[Row]]], str] | None = None

    def part(self, name: str) -> Part:
        """Return the part of a name."""
        return next(part for part in self.parts if part.name == name)

    def command(self, part: Part, sizes: Mapping[str, Size]) -> str:
        """Return the command that repeats a part."""
        options = [f"--size {name}={_numbers(size)}" for name, size in sizes.items()]
        options += [f"--{option} {shown}" for option, shown in part.files.items()]
        return " ".join([f"python -m tests.benchmarks {self.name} --parts {part.name}", *options])

    def draw(self, content: Mapping[str, Mapping[str, Any]]) -> str:
        """Draw the page from what its JSON holds."""
        sections = [f"# {self.title}"]
        for name, kept in content.items():
            part = self.part(name)
            sizes = {n: tuple(s) if isinstance(s, list) else s for n, s in kept["sizes"].items()}
            sections += [
                part.draw(kept["rows"]),
                f"Made by `{self.command(part, sizes)}` ({kept['tool']}, {kept['machine']}) in "
                f"{kept['seconds']:.0f} s.{_STOPPED if kept.get('unfinished') else ''}",
            ]
        return "\n\n".join(sections) + "\n"

    def read(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Return the parts that the JSON of a folder holds; no file is no error.

        Raises
        ------
        ConfigError
            The JSON cannot be read, or is not one of this page.
        """
        path = folder / f"{self.name}.json"
        known = {part.name for part in self.parts}
        try:
            parts = json.loads(path.read_text(encoding="utf-8"))["parts"]
            whole = all(
                name in known and isinstance(part["rows"], list) and isinstance(part["sizes"], dict)
                for name, part in parts.items()
            )
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ConfigError(
                f"--out: {path.name} cannot be read ({type(error).__name__})."
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise ConfigError(
                f"--out: the {path.name} in that folder is not one of this benchmark. Move it away "
                "or name another folder."
            )
        return dict(parts)

    def write(self, folder: Path, content: Mapping[str, Mapping[str, Any]], *, draw: bool) -> None:
        """Write the JSON, its parts in their order, and draw the page.

        Raises
        ------
        ConfigError
            The folder cannot be written.
        """
        ordered = {part.name: content[part.name] for part in self.parts if part.name in content}
        text = json.dumps({"parts": ordered}, indent=2, allow_nan=False) + "\n"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{self.name}.json").write_text(text, encoding="utf-8")
            if not draw:
                return
            (folder / f"{self.name}.md").write_text(self.draw(ordered), encoding="utf-8")
            if self.summary is not None:
                rows = {name: part["rows"] for name, part in ordered.items()}
                renew_marked(folder / "README.md", self.name, self.summary(rows))
        except OSError as error:
            raise ConfigError(f"--out: cannot be written ({type(error).__name__}).") from None


_STOPPED = " **Stopped before its end: rows are missing.**"


def run_page(page: Page, parts: Sequence[str], folder: Path, setup: Setup) -> Path:
    """Measure parts of a page one by one, and write each as soon as it is done.

    Raises
    ------
    ConfigError
        A part needs a file that is not named, the folder cannot be written, or its JSON is not one
        of this page.
    """
    chosen = [page.part(name) for name in parts]
    for part in chosen:
        missing = [option for option in part.files if option not in setup.files]
        if missing:
            raise ConfigError(
                f"--{missing[0]}: {page.name} needs {part.files[missing[0]]} for its part "
                f"{part.name}; expected its path."
            )
    content = page.read(folder)
    for part in chosen:
        sizes = {name: setup.sizes.get(name, size) for name, size in part.sizes.items()}
        start, rows = time.perf_counter(), list[Row]()
        for row in part.measure(replace(setup, sizes=sizes)):
            rows.append(_without_nan(row))
            if part.stepwise:
                content[part.name] = {**_kept(sizes, start, rows), "unfinished": True}
                page.write(folder, content, draw=False)
        content[part.name] = _kept(sizes, start, rows)
        page.write(folder, content, draw=True)
    if not chosen:
        page.write(folder, content, draw=True)
    return folder / f"{page.name}.md"


def choose_parts(page: Page, text: str | None, files: Mapping[str, Path]) -> tuple[str, ...]:
    """Read a list of parts; without one, all whose files are named, in the order of the page.

    Raises
    ------
    ConfigError
        A part is unknown, or none is named.
    """
    known = [part.name for part in page.parts]
    if text is None:
        return tuple(part.name for part in page.parts if set(part.files) <= set(files))
    named = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in named if name not in known]
    if named == [NOTHING]:
        return ()
    if unknown or not named:
        got = repr(unknown[0]) if unknown else "nothing"
        raise ConfigError(
            f"--parts: expected some of {', '.join(known)}, with commas, or {NOTHING}; got {got}."
        )
    return tuple(name for name in known if name in named)


def read_sizes(page: Page, texts: Sequence[str]) -> dict[str, Size]:
    """Read ``NAME=NUMBER``, or ``NAME=NUMBER,NUMBER`` where the page takes several.

    Raises
    ------
    ConfigError
        The page has no such size, or it is no whole number.
    """
    known = {name: size for part in page.parts for name, size in part.sizes.items()}
    sizes: dict[str, Size] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in known:
            raise ConfigError(
                f"--size: expected NAME=NUMBER with one of {', '.join(known) or 'no name'}; got "
                f"{text[:40]!r}."
            )
        numbers = [number.strip() for number in value.split(",")]
        default = known[name]
        least = min(1, *default) if isinstance(default, tuple) else 1
        if (
            not all(n.isascii() and n.isdecimal() and int(n) >= least for n in numbers)
            or (isinstance(default, int) and len(numbers) > 1)
        ):  # fmt: skip
            several = ", or several with commas" if isinstance(default, tuple) else ""
            raise ConfigError(
                f"--size: {name} expected a whole number from {least}{several}; got {value[:40]!r}."
            )
        read = tuple(sorted({int(number) for number in numbers}))
        sizes[name] = read if isinstance(default, tuple) else read[0]
    return sizes


def renew_marked(page: Path, name: str, text: str) -> bool:
    """Put a text between its marks on a page; say whether the page has them."""
    if not page.is_file():
        return False
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, begin, rest = page.read_text(encoding="utf-8").partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        return False
    page.write_text(f"{before}{first}\n{text}\n{last}{after}", encoding="utf-8")
    return True


def _kept(sizes: Mapping[str, Size], start: float, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "tool": f"ravl-med {__version__}",
        "machine": _describe_machine(),
        "sizes": dict(sizes),
        "seconds": round(time.perf_counter() - start, 1),
        "rows": list(rows),
    }


def _describe_machine() -> str:
    about = [f"Python {platform.python_version()}", f"NumPy {np.__version__}"]
    about += [f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} cores"]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        about += names[:1]
    return ", ".join(about)


def _without_nan(row: Row) -> Row:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def _numbers(size: Size) -> str:
    return ",".join(map(str, size)) if isinstance(size, tuple) else str(size)
