"""Earlier audits of a model on the same films, and what a report prints beside its result.

Who audits again and again under changed settings until the verdict is a pass has no pass. Each
finished audit leaves one line in a file of the user's config folder: its verdict and its settings,
without dates, names and paths.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import platformdirs
from pydantic import BaseModel

from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError
from ravl_med.evidence.audit_result import VerdictName
from ravl_med.storage.bounded_reading import open_regular, parse_json, read_regular
from ravl_med.storage.files import local_copy
from ravl_med.storage.remote import FilePath, RemotePath

CANNOT_CHANGE_A_FINDING = (
    "name",
    "cohort.workers",
    "task.name",
    "model.name",
    "model.device",
    "model.batch_size",
    "model.threads",
    "report",
    "privacy",
    "mitigation",
    "cache",
    "engine",
    "storage",
)
"""Keys and sections of the config that are no part of the settings of an audit."""

_LARGEST, _MOST_LINES = 64 << 30, 1 << 28  # bytes of a file of the config, and of a history
_PLACE = (Path, RemotePath)
_VERDICTS: tuple[VerdictName, ...] = get_args(VerdictName)


@dataclass(frozen=True, slots=True)
class PastAudit:
    """A finished audit: its verdict and the settings that it was made under."""

    verdict: VerdictName
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AuditHistory:
    """Where an audit stands among those of the same model on the same films."""

    number: int  # of this audit, 1 for the first
    # settings that differ from the latest earlier audit, by key; None for a key that one of the
    # two does not have
    changed: tuple[tuple[str, Any, Any], ...]
    # keys that differ from the first audit in any later one, this one among them
    ever_changed: tuple[str, ...]
    verdicts: Mapping[str, int]  # of the earlier audits


def user_history_root() -> Path:
    """Return the user's config folder, where the history lies beside the key of the pseudonyms."""
    return Path(platformdirs.user_config_dir("ravl-med"))


def settings_of(config: Config) -> dict[str, Any]:
    """Return the settings that a finding can depend on, flat: dotted key to JSON value.

    A file stands by a digest of its content (another table of relevance is another setting), any
    other path by its role. What `CANNOT_CHANGE_A_FINDING` names is left out.
    """
    return {
        key: value
        for key, value in _flat(config, "").items()
        if not any(key == part or key.startswith(f"{part}.") for part in CANNOT_CHANGE_A_FINDING)
    }


def _flat(value: Any, key: str) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, Mapping) and value:
        return {
            name: leaf
            for part, entry in value.items()
            for name, leaf in _flat(entry, f"{key}.{part}".removeprefix(".")).items()
        }
    if isinstance(value, _PLACE):
        return {key: _file_digest(value) or f"<{key}>"}
    if isinstance(value, (list, tuple)) and any(isinstance(entry, _PLACE) for entry in value):
        return {key: [_file_digest(entry) or f"<{key}>" for entry in value]}
    return {key: json.loads(json.dumps(value))}  # tuples become lists, as they come back


def _file_digest(path: FilePath) -> str | None:
    if isinstance(path, RemotePath) and not path.is_file():
        return None
    try:
        with local_copy(path) as file, open_regular(file) as stream:
            if os.fstat(stream.fileno()).st_size > _LARGEST:
                return None
            return f"sha256 {hashlib.file_digest(stream, 'sha256').hexdigest()[:16]}"
    except OSError:  # a folder, whose content the digest of the model tells, or no file at all
        return None


def earlier_audits(root: Path, model_digest: str, cohort_digest: str) -> tuple[PastAudit, ...]:
    """Read the earlier audits of a model on a cohort, oldest first; a damaged line is skipped.

    Raises
    ------
    ConfigError
        There is a history, and it cannot be read.
    """
    try:
        content = read_regular(_file(root, model_digest, cohort_digest), _MOST_LINES)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigError(
            f"history of audits in the user's config folder: cannot be read "
            f"({type(error).__name__}). Give its owner the right to read the folder 'audits'."
        ) from None
    audits = (_parsed(line) for line in content.split(b"\n"))
    return tuple(audit for audit in audits if audit is not None)


def record_audit(root: Path, model_digest: str, cohort_digest: str, audit: PastAudit) -> None:
    """Append a finished audit to the history, in one write, readable by the owner alone.

    Raises
    ------
    ConfigError
        The history cannot be written.
    """
    path = _file(root, model_digest, cohort_digest)
    entry = {"verdict": audit.verdict, "settings": dict(audit.settings)}
    line = json.dumps(entry, sort_keys=True, allow_nan=False).encode("ascii") + b"\n"
    try:
        for folder in (root, path.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"  # the machine stopped there
            os.write(handle, b"\n" + line if torn else line)
        finally:
            os.close(handle)
    except OSError as error:
        raise ConfigError(
            "history of audits in the user's config folder: cannot be written "
            f"({type(error).__name__}), so the next report would miscount. The run folder itself "
            "is whole. Make the folder 'audits' there writable for its owner."
        ) from None


def describe_history(past: Sequence[PastAudit], settings: Mapping[str, Any]) -> AuditHistory:
    """Return where an audit under these settings stands among the earlier ones, oldest first."""
    changed = _changed(past[-1].settings, settings) if past else ()
    made = [*(audit.settings for audit in past), settings]
    ever = {key for later in made[1:] for key, _, _ in _changed(made[0], later)}
    counts = Counter(audit.verdict for audit in past)
    return AuditHistory(
        number=len(past) + 1,
        changed=changed,
        ever_changed=tuple(sorted(ever)),
        verdicts={name: counts[name] for name in _VERDICTS if counts[name]},
    )


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[tuple[str, Any, Any], ...]:
    return tuple(
        (key, before.get(key), now.get(key))
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    )


def _file(root: Path, model_digest: str, cohort_digest: str) -> Path:
    name = hashlib.sha256((model_digest + cohort_digest).encode()).hexdigest()[:24]
    return root / "audits" / f"{name}.jsonl"


def _parsed(line: bytes) -> PastAudit | None:
    """Read one line; None when it is no audit."""
    try:
        entry = parse_json(line)
    except ValueError:
        return None
    if not isinstance(entry, dict):
        return None
    verdict, settings = entry.get("verdict"), entry.get("settings")
    if verdict not in _VERDICTS or not isinstance(settings, dict):
        return None
    return PastAudit(cast(VerdictName, verdict), settings)


@dataclass(frozen=True, slots=True)
class _RunDetails:
    """What every report prints beside a result."""

    date: str | None  # of the run
    config_yaml: str  # the effective config, paths already replaced
    versions: Mapping[str, str]
    digests: Mapping[str, str]
    seeds: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ReportDetails(_RunDetails):
    """What the report of an audit prints beside the result."""

    thresholds: Mapping[str, str]
    regions_shown: int = 10  # regions of each correlation that are shown
    # earlier audits of the model on these films; None says nothing
    history: AuditHistory | None = None


@dataclass(frozen=True, slots=True)
class MitigationDetails(_RunDetails):
    """What the report of a mitigation prints beside the result."""

    recipe: Mapping[str, str]  # how the arms were trained
