"""From a YAML 1.2 file to one frozen config, or to one clear line a problem."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator
from ruamel.yaml.error import YAMLError

from ravl_med.config.audit import (
    DiscoveryConfig,
    EvidenceConfig,
    GateConfig,
    PrivacyConfig,
    ReportConfig,
)
from ravl_med.config.base import NAME, Section, explain_problems, reached_by
from ravl_med.config.cohort import CohortConfig, LabelsConfig, RegionsConfig
from ravl_med.config.mitigation import MitigationConfig
from ravl_med.config.model import ModelConfig
from ravl_med.config.runtime import CacheConfig, EngineConfig, StorageConfig
from ravl_med.config.task import TaskConfig
from ravl_med.errors import ConfigError
from ravl_med.storage import bounded_reading
from ravl_med.storage.bounded_reading import UnreadableFileError


class Config(Section):
    """One whole audit, and the mitigation that may follow it."""

    name: str = Field(
        pattern=NAME,
        description="of the run, and of its folder under reports/: letters, digits, . _ and -",
    )
    cohort: CohortConfig
    labels: LabelsConfig = LabelsConfig()
    task: TaskConfig
    model: ModelConfig
    regions: RegionsConfig = RegionsConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    evidence: EvidenceConfig
    gate: GateConfig = GateConfig()
    report: ReportConfig = ReportConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    mitigation: MitigationConfig = MitigationConfig()
    cache: CacheConfig = CacheConfig()
    engine: EngineConfig = EngineConfig()
    storage: StorageConfig = StorageConfig()

    @model_validator(mode="wrap")
    @classmethod
    def _reach(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Let every URL of the config carry how its storage is reached."""
        given = data.get("storage") if isinstance(data, dict) else None
        try:
            storage = StorageConfig.model_validate(given if given is not None else {})
        except ValidationError:  # reported below, with all others
            storage = StorageConfig()
        with reached_by(storage.access()):
            return handler(data)

    @property
    def threads(self) -> int | None:
        """Return the threads of every process that encodes; None: as many as PyTorch takes.

        With workers it is one, unless `model.threads` says otherwise, in the run's own process
        too, so that the number of workers changes no bit.
        """
        return self.model.threads or (1 if self.engine.workers else None)

    @property
    def hidden_below(self) -> int:
        """Return the number of patients below which counts are hidden; 0 for phantoms."""
        return 0 if self.cohort.synthetic is not None else self.privacy.min_cell


def parse_yaml(path: Path, key: str = "config") -> Any:
    """Read a YAML 1.2 file into plain Python values; `key` is what an error calls it.

    Raises
    ------
    ConfigError
        The file is missing, is not text, is not YAML, or unfolds to too much.
    """
    try:
        return bounded_reading.parse_yaml(bounded_reading.read_regular(path).decode("utf-8"))
    except FileNotFoundError:
        where = "Paths are relative to the config file; copy it there too, or name its own place."
        raise ConfigError(
            f"{key} {path.name!r}: no such file. "
            f"{'Start from a file in configs/.' if key == 'config' else where}"
        ) from None
    except (UnicodeDecodeError, OSError) as error:
        what = error if isinstance(error, UnreadableFileError) else type(error).__name__
        raise ConfigError(f"{key} {path.name!r}: cannot be read as text ({what}).") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "syntax error"
        raise ConfigError(f"{key} {path.name!r}{where}: not valid YAML: {problem}.") from None
    except ValueError as error:  # an invalid date or tagged number, or too much of it
        raise ConfigError(f"{key} {path.name!r}: not valid YAML: {error}.") from None


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read a config file and apply ``section.key=value`` overrides.

    Relative paths in the file are resolved against its folder.

    Raises
    ------
    ConfigError
        With one line a problem, each naming the key, what was given and the nearest known key.
    """
    data = parse_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(
            f"config {path.name!r}: expected a mapping of sections, got "
            f"{'nothing' if data is None else type(data).__name__}."
        )
    for override in overrides:
        _apply_override(data, override)
    try:
        return Config.model_validate(data, context={"folder": path.absolute().parent})
    except ValidationError as error:
        lines = explain_problems(error, Config)
        raise ConfigError("\n".join(f"config {path.name!r}: {line}" for line in lines)) from None


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"--set {override!r}: expected section.key=value.")
    try:
        value = bounded_reading.parse_yaml(text)
    except (YAMLError, ValueError):
        raise ConfigError(f"--set {override!r}: the value is not valid YAML.") from None
    target = data
    for part in parts[:-1]:
        if target.get(part) is None:
            target[part] = {}
        target = target[part]
        if not isinstance(target, dict):
            raise ConfigError(f"--set {override!r}: {part!r} is a value, not a section.")
    target[parts[-1]] = value
