"""What a run folder keeps, so that its report can be drawn again without model or cohort.

The archive of the result and the films that the report shows lie in ``private/``; what leaves the
folder is drawn from them, and so is the same, byte for byte, each time. In the archive, dataclasses
are JSON and their arrays an ``.npz`` beside it; both are read back by the types that the
dataclasses declare, and nothing is pickled. Text on the films is hidden before they are kept.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast, get_args, get_origin

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ravl_med.config.audit import GateConfig
from ravl_med.errors import ConfigError, DataError, RavlMedError
from ravl_med.evidence.audit_result import AuditResult, result_document
from ravl_med.evidence.disclosure_control import hide_small_cells
from ravl_med.evidence.results import BurnedInText
from ravl_med.evidence.review import apply_decisions, read_decisions
from ravl_med.evidence.verdict import open_correlations
from ravl_med.reporting import pictures
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.audit.report import write_report
from ravl_med.reporting.audit.review_page import draw_review_page
from ravl_med.reporting.files.run_folder import (
    Strangers,
    copy_run,
    draft_folder,
    find_strangers,
    list_names,
    write_json,
)
from ravl_med.reporting.files.tables import REVIEW, review_rows
from ravl_med.reporting.layout.dicom_pdf import DocumentDetails, write_dicom_pdf
from ravl_med.reporting.slides import REGIONS_ON_SLIDES, write_figures
from ravl_med.reporting.wording import printable
from ravl_med.storage import bounded_reading
from ravl_med.storage.documents import declared_types

T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]

_JSON, _ARRAYS = "archive.json", "archive.npz"
_LARGEST = 1 << 30  # bytes of the JSON
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def write_archive(value: Any, folder: Path) -> None:
    """Write a dataclass of dataclasses, tuples, mappings, arrays, numbers, texts and None."""
    arrays: Arrays = {}
    text = json.dumps(_encode(value, arrays), allow_nan=False, sort_keys=True)
    (folder / _JSON).write_text(text + "\n", encoding="utf-8")
    np.savez_compressed(folder / _ARRAYS, **cast("dict[str, Any]", arrays))


def read_archive(kind: type[T], folder: Path) -> T:
    """Read a dataclass that `write_archive` wrote.

    Raises
    ------
    DataError
        A file is missing, damaged, or of another kind of dataclass.
    """
    try:
        data = bounded_reading.parse_json(bounded_reading.read_regular(folder / _JSON, _LARGEST))
        value: T = _decode(kind, data, bounded_reading.read_arrays(folder / _ARRAYS))
    except FileNotFoundError:
        raise DataError(
            "the run folder has no archive in private/; it was made by an earlier version, or "
            "private/ was removed. Audit again."
        ) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"the archive in private/ cannot be read ({type(error).__name__}); it is damaged or of "
            "another version. Audit again."
        ) from None
    return value


def _encode(value: Any, arrays: Arrays) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _encode(getattr(value, field.name), arrays)
            for field in dataclasses.fields(value)
        }
    match value:
        case np.ndarray():
            name = f"a{len(arrays)}"
            arrays[name] = value
            return {"array": name}
        case Mapping():  # keys need not be text
            return [[_encode(k, arrays), _encode(v, arrays)] for k, v in value.items()]
        case tuple() | list():
            return [_encode(entry, arrays) for entry in value]
        case np.generic():
            return _encode(value.item(), arrays)
        case bool() | int() | str() | None:
            return value
        case float():
            return value if math.isfinite(value) else str(value)
    raise TypeError(f"{type(value).__name__} cannot be archived")


def _decode(kind: Any, data: Any, arrays: Arrays) -> Any:
    """Turn JSON back into a value of a declared type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is typing.Annotated:
        return _decode(inner[0], data, arrays)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, data, arrays)
    if np.ndarray in (kind, origin):
        array = arrays[data["array"]]
        array.flags.writeable = False
        return array
    if origin in (typing.Union, types.UnionType):
        (meant,) = set(inner) - {types.NoneType}
        return None if data is None else _decode(meant, data, arrays)
    if origin is tuple:
        return _decode_tuple(inner, data, arrays)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {_decode(inner[0], k, arrays): _decode(inner[1], v, arrays) for k, v in data}
    return _decode_plain(kind, data)


def _decode_dataclass(kind: Any, data: Any, arrays: Arrays) -> Any:
    hints = declared_types(kind)
    if hints.keys() != data.keys():  # a default excuses none: arms would be hidden by their films
        raise ValueError("fields of another version")
    return kind(**{name: _decode(hints[name], entry, arrays) for name, entry in data.items()})


def _decode_tuple(inner: tuple[Any, ...], data: Any, arrays: Arrays) -> tuple[Any, ...]:
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(_decode(inner[0], entry, arrays) for entry in data)
    return tuple(_decode(one, entry, arrays) for one, entry in zip(inner, data, strict=True))


def _decode_plain(kind: Any, data: Any) -> Any:
    if kind is float:
        return _NOT_FINITE[data] if isinstance(data, str) else float(data)
    known = data in get_args(kind) if get_origin(kind) is typing.Literal else type(data) is kind
    if kind is Any or known:  # anything: a setting of the config, which came from JSON
        return data
    raise ValueError(data)


def keep_films(
    result: AuditResult,
    regions_shown: int,
    film: pictures.Film,
    folder: Path,
    masking: pictures.TextMasking | None,
    declared: Callable[[int], bool] = lambda index: False,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> BurnedInText | None:
    """Write each film that a report shows into a folder, its text hidden; on all cores.

    Parameters
    ----------
    regions_shown : int - of each correlation
    film : callable - index of an image to its film, ndarray of shape (H, W), uint8
    masking : TextMasking or None - None: films are shown as they are, and nothing is returned
    declared : callable - whether the header of a film says that text is burned in
    progress : callable - stage, films done, films in all
    """
    shown, audited = pictures.shown_boxes(result, regions_shown), len(result.image_ids)
    reading = Lock()

    def keep(index: int) -> tuple[int, bool, bool]:
        with reading:
            pixels = film(index)
            states = masking is not None and index < audited and declared(index)
        hidden, allowed = 0, False
        if masking is not None:
            views = [pictures.crop_view(pixels.shape, box) for box in shown[index]]
            done = masking.mask(pixels, views)
            pixels, hidden, allowed = done.pixels, done.hidden, done.allowed
        Image.fromarray(pixels).save(_path(folder, index), compress_level=1)
        return hidden, allowed, states

    found = []
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for done, outcome in enumerate(threads.map(keep, shown), start=1):
            found.append(outcome)
            progress("hide text on the films shown", done, len(shown))
    if masking is None:
        return None
    search = masking.search
    return BurnedInText(
        search.method,
        search.reads,
        len(shown),
        masked=sum(hidden > 0 for hidden, _, _ in found),
        areas=sum(hidden for hidden, _, _ in found),
        allowed=sum(allowed for _, allowed, _ in found),
        declared=sum(states for _, _, states in found),
    )


def read_kept(folder: Path) -> pictures.Film:
    """Return what reads the films that `keep_films` wrote; a DataError where one is missing."""

    def film(index: int) -> NDArray[np.uint8]:
        try:
            with (
                bounded_reading.open_regular(_path(folder, index)) as stream,
                Image.open(stream, formats=("PNG",)) as image,
            ):
                return np.asarray(image.convert("L"))
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
            raise DataError(
                "a film that the report shows is missing in private/films, or cannot be read. "
                "Audit again."
            ) from None

    return film


def _path(folder: Path, index: int) -> Path:
    return folder / f"{index}.png"


_HELD_FILMS = 32  # that are decoded once, whatever shows them
_FILMS = "films"
_PRIVATE = "private"
_PATIENTS = "patients.npy"
_FULL = "result.full.json"
REVIEW_PAGE = "review.html"


@dataclass(frozen=True, slots=True, eq=False)
class SavedRun:
    """A finished audit, with all that its report says."""

    result: AuditResult  # before any review of this run
    details: ReportDetails
    gate: str  # of the config, as JSON
    regions_listed: int  # of each correlation in result.json
    document: DocumentDetails | None  # of report.dcm, where it is asked for
    min_cell: int  # counts of fewer patients are hidden in what is shared

    def save(
        self,
        folder: Path,
        film: pictures.Film,
        masking: pictures.TextMasking | None = None,
        declared: Callable[[int], bool] = lambda index: False,
        progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    ) -> None:
        """Write the archive, and whatever is shared, into a run folder with ``private/``.

        The parameters are those of `keep_films`.
        """
        films = folder / _PRIVATE / _FILMS
        films.mkdir()
        count = max(self.details.regions_shown, REGIONS_ON_SLIDES)
        shown = pictures.with_changes(self.result, film)
        burned_in = keep_films(self.result, count, shown, films, masking, declared, progress)
        run = replace(self, result=replace(self.result, burned_in=burned_in))
        write_archive(run, folder / _PRIVATE)
        write_shared(run, folder, read_kept(films), progress)


def write_shared(
    run: SavedRun,
    folder: Path,
    film: pictures.Film,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    agreement: str = "",
) -> None:
    """Write ``result.json``, the figures, and the report in all its formats.

    Where counts of few patients are hidden in them, ``private/result.full.json`` has them all.
    """
    result = hide_small_cells(run.result, run.min_cell)
    _write_result(result, run.regions_listed, folder / "result.json")
    if result.hidden_below:
        _write_result(run.result, run.regions_listed, folder / _PRIVATE / _FULL)
    film = lru_cache(maxsize=_HELD_FILMS)(film)
    progress("draw the figures", 0, 1)
    write_figures(result, film, folder / "figures")
    progress("draw the figures", 1, 1)
    write_report(result, film, run.details, folder, progress, agreement)
    gate = GateConfig.model_validate_json(run.gate)
    page = draw_review_page(
        result,
        review_rows(run.result, gate),
        {one.rank for one in open_correlations(run.result.correlations, gate)},
        film,
    )
    (folder / REVIEW_PAGE).write_text(page, encoding="utf-8")
    if run.document is not None:
        write_dicom_pdf(folder / "report.pdf", folder / "report.dcm", run.document)


def _write_result(result: AuditResult, regions_listed: int, path: Path) -> None:
    write_json(path, result_document(result, regions_listed).model_dump(mode="json"))


def write_patients(folder: Path, patients: NDArray[np.int64]) -> None:
    """Write the patient number of each film (N,) into ``private/``, for whoever resamples."""
    np.save(folder / _PRIVATE / _PATIENTS, np.asarray(patients, dtype=np.int64))


def read_patients(folder: Path, films: int) -> NDArray[np.int64]:
    """Read the patient number of each of so many films; a DataError where the file does not fit."""
    try:
        patients = bounded_reading.read_array(folder / _PRIVATE / _PATIENTS)
    except FileNotFoundError:
        raise DataError(
            "the run folder does not say which films are of one patient; it was made by an earlier "
            "version, or private/ was removed. Audit again."
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"private/{_PATIENTS} cannot be read ({type(error).__name__}). Audit again."
        ) from None
    if patients.shape != (films,) or patients.dtype != np.int64 or patients.min(initial=0) < 0:
        raise DataError(f"private/{_PATIENTS} does not fit the films of the run. Audit again.")
    return np.asarray(patients)


def _no_run(folder: Path) -> str:
    """Say that a folder holds no run, and which one beside it has almost that name."""
    name = printable(folder.name)
    expected = "expected the run folder of an audit, with its run.json."
    try:
        if folder.is_dir():
            return f"{name!r} is none; {expected}"
        runs = [one.parent.name for one in folder.parent.glob("*/run.json")]
    except (OSError, ValueError):
        runs = []
    near = difflib.get_close_matches(folder.name, runs, n=1)
    hint = f" Did you mean {printable(near[0])!r}?" if near else ""
    return f"no folder {name!r}; {expected}{hint}"


def read_run(folder: Path, argument: str) -> SavedRun:
    """Read what a finished audit left in its run folder, which the user named as `argument`.

    Raises
    ------
    ConfigError
        There is no run of an audit.
    DataError
        Its archive cannot be used.
    """
    try:
        known = all((folder / name).is_file() for name in ("run.json", "result.json"))
        strangers = find_strangers(folder) if known else None
    except (OSError, ValueError):
        known = False
    if not known:
        raise ConfigError(f"{argument}: {_no_run(folder)}")
    changed = [name for name in (strangers or Strangers()).changed if name.startswith(_PRIVATE)]
    if changed:
        raise DataError(
            f"{list_names(changed)} changed since the run wrote it, or was cut short by a copy; "
            "expected it as it was. Copy the folder again, or audit again."
        )
    return read_archive(SavedRun, folder / _PRIVATE)


def read_unchanged_run(folder: Path) -> SavedRun:
    """Read a finished audit whose files are as the run wrote them, but for the review.

    Raises
    ------
    ConfigError, DataError
        As `read_run`; or a file was edited, which drawing the report again would write over.
    """
    saved = read_run(folder, "RUN_DIR")
    changed = (find_strangers(folder) or Strangers()).changed
    rewritten = [name for name in changed if name not in (REVIEW, "run.json")]
    rewritten = [name for name in rewritten if not name.startswith(f"{_PRIVATE}/")]
    if rewritten:
        raise ConfigError(
            f"RUN_DIR: {list_names(rewritten)} changed since the run wrote it, and would be "
            "written again. Move it away first; a copy of it may stay under another name."
        )
    return saved


@contextmanager
def naming_damage(folder: Path, argument: str) -> Iterator[None]:
    """Name a run folder whose archive no digest vouches for, where what it holds ends the context.

    `argument` is how the user named the folder.

    Raises
    ------
    DataError
        In place of any error of a program. One of an archive that is as its run wrote it is a fault
        of the tool, and is raised as it is.
    """
    try:
        yield
    except (RavlMedError, OSError, MemoryError):
        raise
    except Exception as error:  # numbers and names that no audit gives fail anywhere in a drawing
        if f"{_PRIVATE}/{_JSON}" not in (find_strangers(folder) or Strangers()).foreign:
            raise
        raise DataError(
            f"{argument}: the archive in private/ holds what cannot be drawn "
            f"({type(error).__name__}); it is damaged or of another version. Audit again."
        ) from None


def _require_searched(before: AuditResult, now: AuditResult) -> None:
    """Refuse to show regions in which nobody has looked for text."""
    searched = {entry.cluster.cluster for entry in pictures.shown_correlations(before)}
    shown = {entry.cluster.cluster for entry in pictures.shown_correlations(now)}
    if before.burned_in is not None and not shown <= searched:
        raise DataError(
            "after the decisions in review.csv a correlation is shown whose films were not "
            "searched for burned-in text. Audit again."
        )


def redraw_run(folder: Path, today: date, agreement: str = "") -> AuditResult:
    """Draw the report of a run folder again, with what reviewers have decided since.

    `agreement` says how far two readers agree, see `agreement_sentence`.

    The folder is replaced whole, or not at all. The result has the verdict that follows from the
    decisions; acceptances hold or have expired `today`.

    Raises
    ------
    ConfigError
        There is no run of an audit.
    DataError
        Its archive, its films or its ``review.csv`` cannot be used.
    """
    saved = read_unchanged_run(folder)
    review = folder / REVIEW
    decisions = read_decisions(review) if review.is_file() else ()
    film = read_kept(folder / _PRIVATE / _FILMS)
    with naming_damage(folder, "RUN_DIR"):
        gate = GateConfig.model_validate_json(saved.gate)
        result = apply_decisions(saved.result, decisions, gate, today)
        decided = replace(saved, result=result)
        _require_searched(saved.result, result)
        with draft_folder(folder, carried=find_strangers(folder) or Strangers()) as draft:
            copy_run(folder, draft, without=("figures",))
            write_shared(decided, draft, film, agreement=agreement)
    return result
