"""The run folder: written beside its final place and moved there whole, or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from ruamel.yaml import YAML

from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError, needing_disk_space
from ravl_med.storage.remote import FilePath, RemotePath

_MARK = "run.json"
_NO_ROOM = (
    "--out: no room left on the disk; nothing was written there. Make room, or choose another "
    "folder: the same command takes what was done from the cache."
)


@contextmanager
def draft_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder that becomes `target` when the block ends without an error.

    An earlier run at `target` is replaced; anything else there is left alone.

    Raises
    ------
    ConfigError
        `target` exists and is not the folder of an earlier run, or cannot be written.
    """
    target = target.resolve()  # "." and a link have no name of their own to move
    refuse_foreign_folder(target)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(
            f"--out: the folder cannot be written ({type(error).__name__}). Choose another."
        ) from None
    try:
        with needing_disk_space(_NO_ROOM):
            yield draft
        if target.exists():
            old = draft.with_suffix(".old")
            target.rename(old)
            try:
                draft.rename(target)
            except OSError:
                old.rename(target)
                raise
            shutil.rmtree(old)
        else:
            draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def refuse_foreign_folder(target: Path) -> None:
    """Refuse a run folder that holds something else than an earlier run.

    Raises
    ------
    ConfigError
    """
    if target.exists() and not (
        target.is_dir() and ((target / _MARK).is_file() or not any(target.iterdir()))
    ):
        raise ConfigError(
            "--out: the folder exists and is not an earlier run (it has no run.json). Choose "
            "another, or empty it."
        )


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
) -> None:
    """Write ``predictions.parquet``: image_id, label, and scores (N, C) as ``score:CLASS``."""
    import pyarrow as pa
    from pyarrow import parquet

    columns: dict[str, Any] = {"image_id": list(image_ids), "label": list(labels)}
    for c, name in enumerate(classes):
        columns[f"score:{name}"] = scores[:, c]
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
