"""The one config: a YAML 1.2 file, read into frozen models that forbid unknown keys.

A default stands here and nowhere else. Paths are relative to the config file. The effective
config, with every default filled in, is written into each run folder.
"""

from ravl_med.config.audit import (
    DiscoveryConfig,
    EvidenceConfig,
    GateConfig,
    PrivacyConfig,
    ReportConfig,
)
from ravl_med.config.caching import CacheConfig
from ravl_med.config.engine import EngineConfig
from ravl_med.config.inputs import (
    CohortConfig,
    LabelsConfig,
    RegionsConfig,
    RegionSource,
    SyntheticConfig,
    VolumeConfig,
    WindowsConfig,
)
from ravl_med.config.loading import Config, load_config, parse_yaml
from ravl_med.config.mitigation import ArmName, MitigationConfig
from ravl_med.config.model import (
    ModelConfig,
    PreprocessConfig,
    QuickstartModelConfig,
    RegionPooling,
)
from ravl_med.config.storage import StorageConfig
from ravl_med.config.task import ClassConfig, TaskConfig

__all__ = [
    "ArmName",
    "CacheConfig",
    "ClassConfig",
    "CohortConfig",
    "Config",
    "DiscoveryConfig",
    "EngineConfig",
    "EvidenceConfig",
    "GateConfig",
    "LabelsConfig",
    "MitigationConfig",
    "ModelConfig",
    "PreprocessConfig",
    "PrivacyConfig",
    "QuickstartModelConfig",
    "RegionPooling",
    "RegionSource",
    "RegionsConfig",
    "ReportConfig",
    "StorageConfig",
    "SyntheticConfig",
    "TaskConfig",
    "VolumeConfig",
    "WindowsConfig",
    "load_config",
    "parse_yaml",
]
