"""The one config: a YAML 1.2 file, read into frozen models that forbid unknown keys.

A default stands here and nowhere else. Paths are relative to the config file. The effective
config, with every default filled in, is written into each run folder.
"""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ravl_med.errors import ConfigError

__all__ = [
    "ClassConfig",
    "CohortConfig",
    "Config",
    "DiscoveryConfig",
    "EvidenceConfig",
    "GateConfig",
    "LabelsConfig",
    "ModelConfig",
    "QuickstartModelConfig",
    "RegionsConfig",
    "ReportConfig",
    "SyntheticConfig",
    "TaskConfig",
    "load_config",
    "parse_yaml",
]

Split = Literal["finetune", "validation", "test"]


def _resolve(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    return path if folder is None or path.is_absolute() else Path(folder) / path


ConfigPath = Annotated[Path, AfterValidator(_resolve)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A frozen part of the config that refuses keys it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )


class SyntheticConfig(Section):
    """A phantom cohort made by ``ravl-med synthesize`` and kept in the user's cache folder."""

    images: int = Field(3000, ge=40, description="films over all splits")
    feature: str = Field("generator", description="the planted thing")
    finding: str = Field("cardiomegaly", description="the finding that it is planted on")
    strength: Share = Field(0.95, description="Cramer's V in the fine-tuning split; 0 = null")
    seed: int = Field(0, ge=0)
    size: int = Field(256, ge=64, description="shorter side of a film in pixels")
    bystander: str | None = Field(
        None, description="a thing that goes with the feature but was never tied to the finding"
    )


class CohortConfig(Section):
    """Where films, radiology reports and labels come from."""

    manifest: ConfigPath | None = Field(None, description="manifest.csv of the user's own cohort")
    synthetic: SyntheticConfig | None = None
    split: Split | None = Field(
        "validation", description="rows of the manifest that are audited; null takes every row"
    )
    voi_view: int = Field(0, ge=0, description="which VOI LUT or window of a DICOM film is applied")
    max_pixels: int = Field(
        100_000_000, ge=1, description="films with more pixels are set aside before decoding"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.manifest is None) == (self.synthetic is None):
            raise ValueError("name exactly one of 'manifest' and 'synthetic'")
        return self


class LabelsConfig(Section):
    """What a blank label cell means."""

    blank: Literal["exclude", "negative"] = Field(
        "exclude", description="a film with a blank cell is left out, or blank counts as 0"
    )


class ClassConfig(Section):
    """One class of the zero-shot task."""

    prompts: tuple[str, ...] = Field(min_length=1, description="texts put into the templates")
    label: dict[str, Literal[0, 1]] | None = Field(
        None,
        description="manifest columns and the values that make a film a member; default: the "
        "column of the class's own name is 1",
    )


class TaskConfig(Section):
    """A zero-shot task: classes, prompts, templates."""

    name: str = "finding"
    classes: dict[str, ClassConfig] = Field(min_length=2)
    templates: tuple[str, ...] = Field(("{}",), min_length=1)
    temperature: float = Field(0.07, gt=0, description="tau of RaVL's zero-shot softmax")

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"template {template!r} must hold the placeholder {{}} once")
        return self

    def columns(self) -> dict[str, dict[str, int]]:
        """Map each class to the manifest columns and values that define it."""
        return {
            name: dict(entry.label) if entry.label else {name: 1}
            for name, entry in self.classes.items()
        }

    def texts(self) -> dict[str, list[str]]:
        """Map each class to its prompts, verbatim as the text tower reads them."""
        return {
            name: [
                template.replace("{}", prompt)  # other braces of a template are plain text
                for prompt in entry.prompts
                for template in self.templates
            ]
            for name, entry in self.classes.items()
        }


class QuickstartModelConfig(Section):
    """A small open_clip model, fine-tuned on the cohort's fine-tuning split and cached."""

    tower: Literal["resnet", "vit"] = "resnet"
    image_size: int = Field(96, ge=32, multiple_of=32, description="input side in pixels")
    epochs: int = Field(14, ge=1)
    batch_size: int = Field(64, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    seed: int = Field(0, ge=0)


class ModelConfig(Section):
    """The vision-language model under audit."""

    path: ConfigPath | None = Field(None, description="folder with open_clip_config.json")
    quickstart: QuickstartModelConfig | None = None
    name: str | None = Field(None, description="how the report calls the model")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    batch_size: int = Field(64, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.quickstart is None):
            raise ValueError("name exactly one of 'path' and 'quickstart'")
        return self


class RegionsConfig(Section):
    """How a film is cut into regions."""

    tiles: tuple[Annotated[int, Field(ge=1, le=64)], Annotated[int, Field(ge=1, le=64)]] = Field(
        (6, 6), description="rows and columns of equal tiles"
    )
    min_visible: Share = Field(
        0.5, description="regions of which the model sees less than this share are left out"
    )


class DiscoveryConfig(Section):
    """RaVL, Stage 1."""

    protocol: Literal["pooled", "paper"] = Field(
        "pooled",
        description="candidates from several K, pooled; or the paper's: K over 2C .. 5C, best "
        "silhouette, the top cluster alone",
    )
    clusters: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        (20, 40, 80), min_length=1, description="values of K (pooled)"
    )
    draws: int = Field(3, ge=1, le=20, description="draws of the sample for each K (pooled)")
    sample: int = Field(
        3000, ge=10, description="regions that k-medoids is fitted on; all are then assigned"
    )
    merge_overlap: float = Field(
        0.8, gt=0.0, le=1.0, description="clusters that share this much (Jaccard) are one"
    )
    min_influence: Share = Field(0.25, description="clusters with a lower H are dropped")
    min_strength: float = Field(
        1.64,
        ge=0.0,
        description="gaps of both sides on the discovery half against their standard errors, as "
        "one normal deviate; weaker clusters are listed but not carried into confirmation",
    )
    seed: int = Field(0, ge=0)


class EvidenceConfig(Section):
    """How a candidate becomes a claim."""

    discovery_share: float = Field(
        0.5, gt=0.0, lt=1.0, description="share of the patients that candidates are chosen on"
    )
    cross_fit: bool = Field(False, description="swap the halves too: p = min(1, 2 min(p, p'))")
    fdr: float = Field(0.05, gt=0.0, lt=1.0, description="largest q-value of a confirmed claim")
    side_level: float = Field(
        0.10, gt=0.0, lt=1.0, description="largest p of either side by itself: both are needed"
    )
    min_gap: Share = Field(0.05, description="least unweighted gap on both halves")
    min_n: int = Field(
        10, ge=2, description="films in the smaller arm of a class, half of them on each half"
    )
    permutations: int = Field(
        9_999, ge=99, description="exchanges of patients where a test is not exact, at least"
    )
    draws: int = Field(10_000, ge=2_000, description="bootstrap draws of patients")
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    max_correlations: int = Field(
        6, ge=1, le=50, description="correlations that are tested by counterfactuals"
    )
    max_removals: int = Field(
        240, ge=1, description="regions of a cluster whose removal effect is measured"
    )
    max_pairs: int = Field(
        80, ge=10, description="films, each with a control, in a counterfactual test"
    )
    min_pairs: int = Field(20, ge=2, description="films below which no such test is made")
    min_effect: float = Field(
        0.1,
        ge=0.0,
        description="least contrast of removal in a used feature, the mean of both fills, as a "
        "share of the standard deviation of the margin over films",
    )
    max_fitted: int = Field(
        10, ge=0, description="regions of a used feature that are fitted to where the effect lies"
    )
    power: float = Field(0.8, gt=0.0, lt=1.0, description="power of the detectable gap")
    simulations: int = Field(
        100, ge=20, description="simulated cohorts behind the detectable gap, each prevalence"
    )
    relevance: ConfigPath = Field(description="table of where each finding shows on a film")
    sign_share: Share = Field(0.5, description="at least this share inside: plausible sign")
    shortcut_share: Share = Field(0.2, description="at most this share inside: shortcut")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.shortcut_share > self.sign_share:
            raise ValueError(
                f"shortcut_share ({self.shortcut_share:g}) must not exceed sign_share "
                f"({self.sign_share:g})"
            )
        needed = math.ceil(4 * self.max_correlations / (1.0 - self.confidence))
        if self.draws < needed:
            raise ValueError(
                f"draws is {self.draws}; expected at least {needed}, so that two draws lie in "
                f"each tail of an interval corrected for {self.max_correlations} correlations"
            )
        return self


class GateConfig(Section):
    """Thresholds that decide the verdict, fixed before the run."""

    max_gap: Share = Field(0.10, description="unweighted gap in accuracy that is still tolerated")
    min_films: int = Field(20, ge=1, description="films a class needs to be audited")
    max_prediction_share: Share = Field(0.98, description="a class predicted more often is stuck")
    min_prediction_share: Share = Field(0.02, description="a class predicted less often is dead")
    max_detectable_gap: Share = Field(
        0.30, description="a pass needs this gap to be detectable, feature in 20 % of the films"
    )
    min_tested: Share = Field(
        0.5, description="a pass needs this share of the clusters to have been tested"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_prediction_share > self.max_prediction_share:
            raise ValueError(
                f"min_prediction_share ({self.min_prediction_share:g}) must not exceed "
                f"max_prediction_share ({self.max_prediction_share:g})"
            )
        return self


class ReportConfig(Section):
    """What the pages show."""

    title: str = "Audit of a vision-language model"
    regions: int = Field(10, ge=1, le=24, description="regions shown for each correlation")
    regions_listed: int = Field(200, ge=1, description="regions of each correlation in the JSON")


class Config(Section):
    """One whole audit."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    cohort: CohortConfig
    labels: LabelsConfig = LabelsConfig()
    task: TaskConfig
    model: ModelConfig
    regions: RegionsConfig = RegionsConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    evidence: EvidenceConfig
    gate: GateConfig = GateConfig()
    report: ReportConfig = ReportConfig()


def parse_yaml(path: Path) -> Any:
    """Read a YAML 1.2 file into plain Python values.

    Raises
    ------
    ConfigError
        The file is missing, is not text, or is not YAML.
    """
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"config {path.name!r}: no such file. Check the spelling, or start from a file in "
            "configs/."
        ) from None
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(
            f"config {path.name!r}: cannot be read as text ({type(error).__name__})."
        ) from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "syntax error"
        raise ConfigError(f"config {path.name!r}{where}: not valid YAML: {problem}.") from None
    except ValueError as error:  # a date or a tagged number that is none
        raise ConfigError(f"config {path.name!r}: not valid YAML: {error}.") from None


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read a config file and apply ``section.key=value`` overrides.

    Parameters
    ----------
    path : Path
        YAML file; relative paths inside it are resolved against its folder.
    overrides : tuple of str
        Each ``section.key=value``; the value is read as YAML.

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
        lines = [_explain(issue) for issue in error.errors()]
        raise ConfigError("\n".join(f"config {path.name!r}: {line}" for line in lines)) from None


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"--set {override!r}: expected section.key=value.")
    try:
        value = YAML(typ="safe", pure=True).load(text)
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


def _explain(issue: Any) -> str:
    """Turn one pydantic error into: where, what, got, cure."""
    where = ".".join(str(part) for part in issue["loc"]) or "config"
    if issue["type"] == "extra_forbidden":
        known = _known_keys(issue["loc"][:-1])
        near = difflib.get_close_matches(str(issue["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known keys: {', '.join(known)}."
        return f"unknown key {where!r}. {hint}"
    if issue["type"] == "model_type":
        return f"{where}: expected a section of keys; got {type(issue['input']).__name__}."
    message = issue["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if issue["type"] in ("missing", "value_error"):
        return f"{where}: {message}."
    return f"{where}: {message}; got {issue['input']!r}."


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields at a place of the config, walking through mappings of sections."""
    model: Any = Config
    for part in location:
        if get_origin(model) is dict:  # a mapping of sections, left by a key of the user's
            model = get_args(model)[1]
        else:
            model = model.model_fields[str(part)].annotation
            if type(None) in get_args(model):  # "Section | None"
                model = get_args(model)[0]
    return list(model.model_fields)
