"""Audits of phantoms, each with a cache of its own, that are held side by side."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ravl_med.cohort.film import FilmReader
from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError
from ravl_med.pipeline.stages import (
    Run,
    prepare_manifest,
    prepare_model,
)
from ravl_med.storage.cache import Cache
from tests.benchmarks.scale.audit_process import AuditRequest

Progress = Callable[[str, int, int], None]

ENGINES: Mapping[str, Mapping[str, Any]] = {
    "local, no worker": {"workers": 0},
    "local, 1 worker": {"workers": 1},
    "local, 2 workers": {"workers": 2},
    "Ray, 1 worker": {"kind": "ray", "workers": 1},
    "Ray, 2 workers": {"kind": "ray", "workers": 2},
}
"""Who may do the work, as the section ``engine`` of a config."""


def phantom_audit(config: Config, films: int, cache: Cache, progress: Progress) -> Config:
    """Make phantoms and a quickstart model, and return an audit that takes them as it takes films.

    Parameters
    ----------
    config : Config - with ``cohort.synthetic`` and ``model.quickstart``
    films : int - phantoms, of which 3 in 11 are audited
    cache : Cache - where both are kept
    progress : callable - called with (stage, done, total)

    Raises
    ------
    ConfigError
        The config is not one of a quickstart model.
    """
    if config.cohort.synthetic is None or config.model.quickstart is None:
        raise ConfigError(
            "benchmark scale: expected a config with cohort.synthetic and model.quickstart, such "
            "as configs/quickstart.yaml."
        )
    synthetic = config.cohort.synthetic.model_copy(update={"images": films})
    whole = config.model_copy(
        update={"cohort": config.cohort.model_copy(update={"synthetic": synthetic})}
    )
    manifest = prepare_manifest(whole, Run(cache, progress))
    reader = FilmReader.of(whole.cohort)
    model, _ = prepare_model(whole, manifest, reader, Run(cache, progress))
    return _changed(
        whole,
        cohort={"synthetic": None, "manifest": manifest, "workers": 1},
        model={"quickstart": None, "path": model, "threads": 1, "device": "cpu"},
        privacy={"burned_in_text": "show"},  # no patients, as when they are made by the audit
    )


def _changed(config: Config, **sections: Mapping[str, Any]) -> Config:
    told = config.model_dump(mode="json")
    for name, values in sections.items():
        told[name] = {**told[name], **values}
    return Config.model_validate(told)


@dataclass(slots=True)
class AuditTrials:
    """Audits of one cohort one after the other, each with a cache of its own.

    Attributes
    ----------
    config : Config
    place : Path - folder of all of them
    count : int - that were asked for
    expected : bytes - of the result that the others are held against
    """

    config: Config
    place: Path
    count: int = 0
    expected: bytes = b""

    def request(self, **more: Any) -> AuditRequest:
        """Return a request with an empty cache."""
        self.count += 1
        folder = self.place / f"{self.count:03d}"
        config = _changed(self.config, engine=more.pop("engine", {}))
        return AuditRequest(config, folder / "cache", folder, **more)

    def compare(self, request: AuditRequest) -> bool:
        """Tell whether a result is the expected one, and take the run away."""
        found = request.result.read_bytes()
        shutil.rmtree(request.folder)
        return found == self.expected


@contextmanager
def audit_trials(config: Config) -> Iterator[AuditTrials]:
    """Yield the audits of a config; what they have written goes in the end.

    Parameters
    ----------
    config : Config - as `phantom_audit` returns it
    """
    with tempfile.TemporaryDirectory(prefix="ravl-scale-", ignore_cleanup_errors=True) as place:
        yield AuditTrials(config, Path(place))
