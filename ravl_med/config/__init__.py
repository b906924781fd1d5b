"""The one config: a YAML 1.2 file, read into frozen models that forbid unknown keys.

A default stands here and nowhere else. Paths are relative to the config file. The effective
config, with every default filled in, is written into each run folder.
"""

from ravl_med.config.audit import DiscoveryConfig, EvidenceConfig, GateConfig, ReportConfig
from ravl_med.config.inputs import (
    ClassConfig,
    CohortConfig,
    LabelsConfig,
    ModelConfig,
    QuickstartModelConfig,
    RegionsConfig,
    RegionSource,
    SyntheticConfig,
    TaskConfig,
    WindowsConfig,
)
from ravl_med.config.loading import Config, load_config, parse_yaml
from ravl_med.config.mitigation import ArmName, MitigationConfig

__all__ = [
    "ArmName",
    "ClassConfig",
    "CohortConfig",
    "Config",
    "DiscoveryConfig",
    "EvidenceConfig",
    "GateConfig",
    "LabelsConfig",
    "MitigationConfig",
    "ModelConfig",
    "QuickstartModelConfig",
    "RegionSource",
    "RegionsConfig",
    "ReportConfig",
    "SyntheticConfig",
    "TaskConfig",
    "WindowsConfig",
    "load_config",
    "parse_yaml",
]
