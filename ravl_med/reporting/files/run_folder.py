"""The run folder: written beside its final place and moved there whole, or not at all."""

from __future__ import annotations

import csv
import ctypes
import fcntl
import glob
import hashlib
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from ruamel.yaml import YAML

from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError, DataError, needing_disk_space, visible
from ravl_med.storage import bounded_reading
from ravl_med.storage.remote import FilePath, RemotePath

_MARK, _TOOL = "run.json", "ravl-med"
_UNFINISHED = ".unfinished"  # in a draft until its files are listed
_PRIVATE, _PRIVATE_FILES = "private", "files.json"
_OWN_DRAFTS: set[Path] = set()  # of this process, which alone writes there
_OF_SYSTEMS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_SHOWN = 5
_NO_ROOM = (
    "--out: no room left on the disk; nothing was written there. Make room, or choose another "
    "folder: the same command takes what was done from the cache."
)


@dataclass(frozen=True, slots=True)
class Strangers:
    """Files of a run folder that the run did not write, or that were changed since, by path."""

    foreign: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


@contextmanager
def draft_folder(
    target: Path, *, replace: bool = False, carried: Strangers | None = None
) -> Iterator[Path]:
    """Give an empty folder that becomes `target` when the block ends without an error.

    An earlier run at `target` gives way in one step: at every moment one of both is there, whole.
    It is removed, unless it holds what no run wrote; then it is kept beside the new one.

    Parameters
    ----------
    replace : bool - an earlier run that holds what no run wrote does not stop this one
    carried : Strangers, optional - what others laid into the earlier run or changed there, which
        the block takes over; it stays theirs

    Raises
    ------
    ConfigError
        `target` is not the folder of an earlier run, or cannot be written; or the earlier run holds
        what no run wrote, and neither `replace` nor `carried` is given.
    """
    target = _resolved(target)  # "." and a link have no name of their own to move
    if carried is None:
        prepare_folder(target, replace=replace)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        draft.mkdir(parents=True)
        mode = stat.S_IMODE(draft.stat().st_mode)
        draft.chmod(0o700)
        (draft / _UNFINISHED).touch()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--out: the folder cannot be written ({type(error).__name__}). Choose another."
        ) from None
    inside = target.parent in _OWN_DRAFTS  # held already: to wait for it would be for ever
    _OWN_DRAFTS.add(draft)
    with _held(draft):
        try:
            with needing_disk_space(_NO_ROOM):
                yield draft
                _seal(draft, _files_of(target), carried or Strangers())
                draft.chmod(mode)
            with nullcontext() if inside else _held(target.parent, wait=True):
                _put_in_place(draft, target)
        finally:
            _OWN_DRAFTS.discard(draft)
            _discard(draft)


def prepare_folder(target: Path, *, replace: bool = False) -> tuple[str, ...]:
    """Make ready for a run: clear drafts of dead processes, and refuse what is not to be replaced.

    Returns what was found and done, a line each, for the user.

    Raises
    ------
    ConfigError
        The folder holds something else than an earlier run, or what no run wrote.
    """
    target = _resolved(target)
    try:
        notes = _recover(target)
        if not target.exists():
            return notes
        strangers = find_strangers(target)
        empty = target.is_dir() and not any(target.iterdir())
    except OSError as error:
        raise ConfigError(
            f"--out: the folder cannot be read ({type(error).__name__}). Choose another."
        ) from None
    if strangers is None:
        if empty:
            return notes
        raise ConfigError(
            "--out: the folder exists and is not an earlier run (it has no run.json of this tool). "
            "Choose another, or empty it."
        )
    found = (*strangers.foreign, *strangers.changed)
    if found and not replace:
        raise ConfigError(
            f"--out: the earlier run holds what no run wrote, or what was changed since: "
            f"{list_names(found)}. Choose another folder, or say --replace: it is then kept whole "
            "beside the new one, under a name with the date."
        )
    return notes


def list_names(names: Sequence[str]) -> str:
    """Return the first of some names of files, on one line."""
    shown = ", ".join(visible(name[-80:]) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def find_strangers(folder: Path) -> Strangers | None:
    """Return what of a run folder its run did not write as it is now; None for no run folder."""
    record = _record(folder)
    if record is None:
        return None
    known = _files_of(folder)
    foreign, changed = [], []
    for name, path in _walk(folder):
        if name not in known:
            foreign.append(name)
        elif known[name] != (_digest_record(record) if name == _MARK else _digest(path)):
            changed.append(name)
    return Strangers(tuple(foreign), tuple(changed))


def _resolved(target: Path) -> Path:
    try:
        return target.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--out: no folder can be called so ({type(error).__name__}). Choose another."
        ) from None


def _record(folder: Path) -> dict[str, Any] | None:
    """Return the content of a folder's ``run.json``, or None where this tool did not write it."""
    try:
        record = bounded_reading.parse_json(bounded_reading.read_regular(folder / _MARK))
        return record if record["tool"]["name"] == _TOOL else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files_of(folder: Path) -> dict[str, str]:
    """Return the digests of the files that the run of a folder wrote, by path."""
    known: dict[str, str] = {}
    for files in ((_record(folder) or {}).get("files"), _private_files(folder)):
        if isinstance(files, dict):
            known |= {str(name): str(digest) for name, digest in files.items()}
    return known


def _private_files(folder: Path) -> Any:
    """Return the digests of private files; None where they were removed with ``private/``."""
    try:
        return bounded_reading.parse_json(
            bounded_reading.read_regular(folder / _PRIVATE / _PRIVATE_FILES)
        )
    except (OSError, ValueError):
        return None


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield path and place of all files, sorted; links are files, and are not followed."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from ((f"{path.name}/{name}", found) for name, found in _walk(path))
        elif path.name not in _OF_SYSTEMS:
            yield path.name, path


def _digest(path: Path) -> str:
    try:
        if path.is_symlink():
            return "a link"
        with bounded_reading.open_regular(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return "unreadable"


def _digest_record(record: Mapping[str, Any]) -> str:
    bare = {key: value for key, value in record.items() if key != "files"}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()


def _seal(draft: Path, before: Mapping[str, str], carried: Strangers) -> None:
    """Note the digest of each file that the run wrote, of private ones in ``private/``."""
    private = draft / _PRIVATE
    digests = {
        name: before[name] if name in carried.changed else _digest(path)
        for name, path in _walk(draft)
        if name not in carried.foreign
        and name not in (_MARK, _UNFINISHED, f"{_PRIVATE}/{_PRIVATE_FILES}")
    }
    hidden = {name: one for name, one in digests.items() if _PRIVATE in name.split("/")}
    shown = {name: one for name, one in digests.items() if name not in hidden}
    if private.is_dir():
        (private / _PRIVATE_FILES).unlink(missing_ok=True)
        write_owner_only(private / _PRIVATE_FILES, json.dumps(hidden, indent=1) + "\n")
        shown[f"{_PRIVATE}/{_PRIVATE_FILES}"] = _digest(private / _PRIVATE_FILES)
        for path in (private, *private.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o700 if path.is_dir() else 0o600)
    record = _record(draft)
    if record is not None:
        record["files"] = {**shown, _MARK: _digest_record(record)}
        write_json(draft / _MARK, record)
    (draft / _UNFINISHED).unlink()


def _put_in_place(draft: Path, target: Path) -> None:
    """Put a finished draft where an earlier run may be, which is removed or kept beside it."""
    if not target.exists():
        draft.rename(target)
        return
    with _held(target):  # so that nobody takes it for the draft of a dead process
        old = draft
        if not _exchange(draft, target):
            old = draft.with_suffix(_OLD)
            target.rename(old)
            try:
                draft.rename(target)
            except OSError:
                old.rename(target)
                raise
        _retire(old, target)


_OLD = ".old"


def _retire(old: Path, target: Path) -> str:
    """Remove an earlier run, or keep it where it holds more; return its name then, else blank."""
    strangers = find_strangers(old) or Strangers()
    theirs = [*strangers.foreign, *strangers.changed]
    lost = [name for name in theirs if _digest(old / name) != _digest(target / name)]
    if not lost:
        _discard(old)
        return ""
    day = date.today().isoformat()
    for number in range(1, 1000):
        aside = target.with_name(f"{target.name}.{day}" + (f".{number}" if number > 1 else ""))
        if not aside.exists():
            old.rename(aside)
            return aside.name
    raise ConfigError("--out: a thousand earlier runs of today lie beside it. Move some away.")


def _discard(folder: Path) -> None:
    """Remove a folder, its record first: what a kill leaves of it then is no run to anybody."""
    with suppress(OSError):
        (folder / _MARK).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _recover(target: Path) -> tuple[str, ...]:
    """Take back an earlier run that a kill left without its name, and sweep drafts of the dead."""
    if not target.parent.is_dir():
        return ()
    notes = []
    left = [
        path
        for path in target.parent.glob(f".{glob.escape(target.name)}.*")
        if path.suffix in (".partial", _OLD) and path.is_dir() and not path.is_symlink()
    ]
    for path in sorted(left, key=lambda path: path.suffix != _OLD):
        with _held(path) as free:
            if not free:
                continue
            if path.suffix == _OLD and not target.exists():
                path.rename(target)
                notes.append(
                    f"{target.name}: a run was killed while it took its place; the earlier one is "
                    "back."
                )
            elif (path / _UNFINISHED).exists():
                _discard(path)
            elif target.exists() and (kept := _retire(path, target)):
                notes.append(f"{kept}: an earlier run with files of yours, which a kill had left.")
            elif path.exists():
                _discard(path)
    return tuple(notes)


@contextmanager
def _held(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a folder; yield whether it was free, False where there are no locks."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        free = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            free = False
        yield free
    finally:
        os.close(handle)


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    return bool(rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def copy_run(folder: Path, draft: Path, without: Sequence[str]) -> None:
    """Copy what lies in a run folder into a draft, but for names of its top; links are refused.

    Raises
    ------
    DataError
        It holds a link, a pipe or a device, which may lead anywhere.
    """
    for name, path in _walk(folder):
        if name.split("/")[0] in without:
            continue
        target = draft / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if path.is_symlink():
                raise bounded_reading.UnreadableFileError("a link")
            with bounded_reading.open_regular(path) as source, target.open("xb") as copy:
                shutil.copyfileobj(source, copy)
        except bounded_reading.UnreadableFileError as error:
            raise DataError(
                f"RUN_DIR: {list_names([name])} is {error}; expected files that the run wrote. "
                "Move it away."
            ) from None
        shutil.copystat(path, target)


def config_text(config: Config, *, show_paths: bool, without: Sequence[str] = ()) -> str:
    """Return the effective config as YAML; paths are replaced by their role unless asked for.

    Sections named in `without` are left out.
    """
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 96
    plain = _plain(config, "", show_paths)
    yaml.dump({name: value for name, value in plain.items() if name not in without}, stream)
    return stream.getvalue()


def _plain(value: Any, role: str, show_paths: bool) -> Any:
    if isinstance(value, BaseModel):
        return {
            name: _plain(getattr(value, name), f"{role}.{name}".strip("."), show_paths)
            for name in type(value).model_fields
        }
    if isinstance(value, Mapping):
        return {str(k): _plain(v, role, show_paths) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, role, show_paths) for v in value]
    if isinstance(value, (Path, RemotePath)):
        return str(value) if show_paths else f"<{role}>"
    return value


def write_predictions_file(
    path: Path,
    image_ids: Sequence[str],
    labels: Sequence[str],
    classes: Sequence[str],
    scores: NDArray[np.float32],
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write ``predictions.parquet``: image_id, label, and scores (N, C) as ``score:CLASS``.

    More columns, each of N values, follow.
    """
    import pyarrow as pa
    from pyarrow import parquet

    columns: dict[str, Any] = {"image_id": list(image_ids), "label": list(labels)}
    for c, name in enumerate(classes):
        columns[f"score:{name}"] = scores[:, c]
    columns |= more or {}
    parquet.write_table(pa.table(columns), path)


def write_private(
    folder: Path, image_ids: Sequence[str], paths: Sequence[FilePath], config: Config
) -> None:
    """Write what only the owner may see: ``key.csv`` with paths, and the config with paths."""
    folder.mkdir(mode=0o700)
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(["image_id", "path"])
    writer.writerows((name, str(path)) for name, path in zip(image_ids, paths, strict=True))
    write_owner_only(folder / "key.csv", rows.getvalue())
    write_owner_only(folder / "config.yaml", config_text(config, show_paths=True))


def write_owner_only(path: Path, content: str | bytes) -> None:
    """Write a file that only its owner can read."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, keys in the order given; NaN is refused."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
