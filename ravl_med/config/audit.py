"""Sections of the audit: search, evidence, gate, report."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ravl_med.config.base import ConfigPath, Section, Share

SHOWN_WORDS = (
    "L", "R", "LT", "RT", "LEFT", "RIGHT", "AP", "PA", "LAT", "LATERAL", "PORT", "PORTABLE",
    "MOBILE", "SUPINE", "ERECT", "UPRIGHT", "SITTING", "STANDING", "SEMI", "SEMIERECT",
    "DECUBITUS", "CHEST", "INSP", "EXP",
)  # fmt: skip
"""Words on films that a reviewer needs and that identify no patient: side, view, position."""


_Clusters = Annotated[int, Field(ge=2, le=10_000)]


class DiscoveryConfig(Section):
    """RaVL, Stage 1."""

    protocol: Literal["pooled", "paper", "ravl"] = Field(
        "pooled",
        description="candidates from several K, pooled; or the paper's: the K with the best "
        "silhouette, the top cluster alone; or ravl: the same on all films, every cluster that "
        "passes the filters, by similarity to its medoid, with nothing confirmed: the verdict is "
        "review at most",
    )
    k_range: tuple[_Clusters, _Clusters] | None = Field(
        None,
        description="first and last K that are tried (paper, ravl); null: 2C .. 5C for C classes. "
        "The paper's medical run has 20 .. 50",
    )
    propose: tuple[Literal["clusters", "effects"], ...] = Field(
        ("clusters", "effects"),
        min_length=1,
        description="where candidates come from besides clusters of regions: effects of removal, "
        "on films of the discovery half, find what no cluster holds (pooled)",
    )
    clusters: tuple[_Clusters, ...] = Field(
        (20, 40, 80), min_length=1, description="values of K (pooled)"
    )
    draws: int = Field(3, ge=1, le=20, description="draws of the sample for each K (pooled)")
    sample: int = Field(
        3000,
        ge=10,
        le=10_000_000,
        description="regions that k-medoids is fitted on; all are then assigned",
    )
    merge_overlap: float = Field(
        0.8, gt=0.0, le=1.0, description="clusters that share this much (Jaccard) are one"
    )
    min_influence: Share = Field(0.25, description="clusters with a lower H are dropped")
    min_strength: float = Field(
        1.64,
        ge=0.0,
        le=1_000.0,
        description="gaps of both sides on the discovery half against their standard errors, as "
        "one normal deviate; weaker clusters are listed but not carried into confirmation",
    )
    seed: int = Field(0, ge=0, le=4_294_967_295, description="of the draws")

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.k_range is not None and self.k_range[0] > self.k_range[1]:
            raise ValueError(
                f"k_range is {self.k_range[0]} .. {self.k_range[1]}; expected the smaller K first"
            )
        return self


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
        10,
        ge=2,
        le=1_000_000,
        description="films in the smaller arm of a class, half of them on each half",
    )
    permutations: int = Field(
        9_999,
        ge=99,
        le=10_000_000,
        description="exchanges of patients where a test is not exact, at least",
    )
    draws: int = Field(10_000, ge=2_000, le=1_000_000, description="bootstrap draws of patients")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="of every interval")
    max_pairs: int = Field(
        50, ge=10, le=10_000, description="films, each with a control, in a counterfactual test"
    )
    effect_films: int = Field(
        160,
        ge=20,
        le=400,
        description="films of the discovery half whose effects are mapped, half of them called "
        "wrongly where there are as many; only a candidate with an effect there is tested on the "
        "other half",
    )
    min_pairs: int = Field(
        20, ge=2, le=10_000, description="films below which no such test is made"
    )
    min_effect: float = Field(
        0.1,
        ge=0.0,
        le=1_000.0,
        description="a used feature moves the margin by more than this share of its standard "
        "deviation over films: this is tested, not the estimate",
    )
    fill_agreement: float = Field(
        3.0,
        ge=1.0,
        le=1_000.0,
        description="the effects of two fills are believed where both lower the margin, and "
        "neither by more than so many times the other",
    )
    max_fitted: int = Field(
        10,
        ge=0,
        le=10_000,
        description="regions of a used feature that are fitted to where the effect lies",
    )
    dependence_films: int = Field(
        200,
        ge=0,
        le=400,
        description="films on which structures are covered and styles changed; 0: none",
    )
    looking_films: int = Field(
        120,
        ge=0,
        le=400,
        description="films on which it is asked whether the model looks at them at all; 0: none",
    )
    max_style_shift: float = Field(
        0.5,
        gt=0.0,
        le=1_000.0,
        description="change of a finding's margin, in its standard deviations, that a style may "
        "bring between its low and its high end among the films",
    )
    power: float = Field(0.8, gt=0.0, lt=1.0, description="power of the detectable gap")
    simulations: int = Field(
        100,
        ge=20,
        le=100_000,
        description="simulated cohorts behind the detectable gap, each prevalence",
    )
    relevance: ConfigPath = Field(description="table of where each finding shows on a film")
    sign_share: Share = Field(
        0.5,
        description="share of the effect where the finding shows: at least this much in a sign; at "
        "most, in a shortcut in artifacts, or one that is not shown to go with the finding",
    )
    shortcut_share: Share = Field(
        0.2,
        description="at most this much there in any other shortcut, in artifacts in a sign that "
        "raises other films, and elsewhere in a sharp one; at least, in one that is no thing",
    )
    seed: int = Field(
        0, ge=0, le=4_294_967_295, description="of the halves, exchanges and bootstrap draws"
    )

    @property
    def min_n_on_half(self) -> int:
        """Films in the smaller arm of a class on each half of the patients."""
        return math.ceil(self.min_n / 2)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.shortcut_share > self.sign_share:
            raise ValueError(
                f"shortcut_share ({self.shortcut_share:g}) must not exceed sign_share "
                f"({self.sign_share:g})"
            )
        return self


class GateConfig(Section):
    """Thresholds that decide the verdict, fixed before the run."""

    max_gap: Share = Field(
        0.10,
        description="gap in accuracy, or share of wrong calls that a feature makes, that is still "
        "tolerated; of something foreign none that is no chance",
    )
    min_films: int = Field(
        20,
        ge=1,
        le=100_000_000,
        description="films that each class needs; checked before any is read",
    )
    max_prediction_share: Share = Field(0.98, description="a class predicted more often is stuck")
    min_prediction_share: Share = Field(0.02, description="a class predicted less often: no pass")
    min_auroc: Share = Field(
        0.55,
        description="AUROC of each finding that the lower end of its interval has to be above, "
        "else the verdict is fail or not auditable; a finding clearly below 0.5 stops the audit. "
        "0: not judged",
    )
    max_local_effect: Share = Field(
        0.06,
        description="accuracy over all films that a local feature may cost which the search did "
        "not name, at most: the upper confidence limit has to be below it for a pass. A gap of 30 "
        "points with the feature in 20 % of the films costs as much",
    )
    max_detectable_gap: Share = Field(
        0.30,
        description="where the model cannot be run on changed films, a pass needs this gap to be "
        "detectable instead, feature in 20 % of the films",
    )
    min_tested: Share = Field(0.5, description="and this share of the clusters to have been tested")
    max_leaked_patients: int = Field(
        0,
        ge=0,
        le=100_000_000,
        description="audited patients that the model may have been fitted on (split finetune, "
        "model.trained_on), at most, else the verdict is fail or not auditable",
    )
    max_rejected_fraction: Share = Field(
        0.2, description="share of the films that may be set aside; more ends the run"
    )
    accepted: ConfigPath | None = Field(
        None,
        description="review.csv of an earlier audit: what a reviewer decided holds as long as "
        "model, films and regions are the same, an acceptance until its date",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_prediction_share > self.max_prediction_share:
            raise ValueError(
                f"min_prediction_share ({self.min_prediction_share:g}) must not exceed "
                f"max_prediction_share ({self.max_prediction_share:g})"
            )
        return self


class PrivacyConfig(Section):
    """Limits on what the shared part of a run reveals about patients."""

    min_cell: int = Field(
        11,
        ge=0,
        le=1_000_000,
        description="counts of fewer patients, and what would reveal them, are hidden in the "
        "report and in result.json: rates are the middle of steps that hold as many patients, q is "
        "a bound. private/result.full.json has them all, to debug a pilot below 100 patients; of "
        "phantoms nothing is hidden",
    )
    burned_in_text: Literal["mask", "show"] = Field(
        "mask",
        description="text on the films that are shown is filled with gray, but for shown_words; "
        "or films are shown as they are. The model sees them as they are",
    )
    shown_words: tuple[Annotated[str, Field(pattern=r"^[A-Za-z]{1,16}$")], ...] = Field(
        SHOWN_WORDS,
        description="sides, views and positions: a line is left as it is when each of its words is "
        "one of them, in capitals or not",
    )


class ReportConfig(Section):
    """The content of the report's pages."""

    title: str = Field("Audit of a vision-language model", description="of the report")
    institution: str = Field("", max_length=120, description="where the audit is made")
    operator: str = Field("", max_length=120, description="who makes the audit")
    intended_use: str = Field(
        "", max_length=400, description="what the model is meant for: task, films, users"
    )
    regions: int = Field(10, ge=1, le=24, description="regions shown for each correlation")
    regions_listed: int = Field(
        200, ge=1, le=1_000_000, description="regions of each correlation in the JSON"
    )
    dicom: bool = Field(
        False,
        description="also write report.dcm, the PDF as a DICOM document under a patient and a "
        "study of its own (RAVL-MED^MODEL AUDIT); BurnedInAnnotation is YES where it shows films "
        "of patients",
    )

    def stated(self) -> dict[str, str]:
        """Return what is stated of the audit, of which no number follows: institution and so on."""
        kept = self.model_dump(include={"institution", "operator", "intended_use"})
        return {name: text for name, text in kept.items() if text}
