"""What a report prints beside its result, for the sake of doing it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ravl_med.reporting.audit.history import AuditHistory

__all__ = ["MitigationDetails", "ReportDetails"]


@dataclass(frozen=True, slots=True)
class ReportDetails:
    """What the report of an audit prints beside the result.

    Attributes
    ----------
    date : str or None - of the run
    config_yaml : str - the effective config, paths already replaced
    versions, digests : mapping of name to version or digest
    seeds : mapping of stage to seed
    thresholds : mapping of rule to its threshold, in words
    regions_shown : int - regions of each correlation that are shown
    history : AuditHistory or None - earlier audits of the model on these films; None says nothing
    """

    date: str | None
    config_yaml: str
    versions: Mapping[str, str]
    digests: Mapping[str, str]
    seeds: Mapping[str, int]
    thresholds: Mapping[str, str]
    regions_shown: int = 10
    history: AuditHistory | None = None


@dataclass(frozen=True, slots=True)
class MitigationDetails:
    """What the report of a mitigation prints beside the result.

    Attributes
    ----------
    date : str or None - of the run
    config_yaml : str - the effective config, paths already replaced
    versions, digests : mapping of name to version or digest
    seeds : mapping of stage to seed
    recipe : mapping of setting to its value, in words - how the arms were trained
    """

    date: str | None
    config_yaml: str
    versions: Mapping[str, str]
    digests: Mapping[str, str]
    seeds: Mapping[str, int]
    recipe: Mapping[str, str]
