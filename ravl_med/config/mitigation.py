"""The section of the mitigation: what is repaired, how, and what counts as better."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ravl_med.config.base import Section, Share

ArmName = Literal[
    "standard",
    "upsampled",
    "vl_erm",
    "vl_gdro",
    "spurious_aware",
    "ravl",
    "exchange",
    "counterfactual",
]


class MitigationConfig(Section):
    """Fine-tuning away from a shortcut (RaVL, Stage 2); defaults are those of the paper."""

    title: str = Field("Mitigation of a vision-language model", description="of the report")
    arm: ArmName = Field("counterfactual", description="the arm whose model is delivered")
    compare: tuple[ArmName, ...] = Field(
        ("standard",), description="arms that are trained beside it, under the same budget"
    )
    heads: bool = Field(
        True, description="also DFR and projection of the class texts, which train no tower"
    )
    force: tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...] = Field(
        (),
        description="ranks of correlations that are mitigated whatever their kind; of one that was "
        "not confirmed the report warns",
    )
    classes_from: Literal["labels", "reports"] = Field(
        "labels",
        description="class of a fine-tuning film: its label columns, or what its report mentions",
    )
    epochs: int = Field(100, ge=1, le=100_000, description="at most")
    batch_size: int = Field(128, ge=2, le=1_000_000, description="films of all processes together")
    learning_rate: float = Field(
        5e-5,
        gt=0,
        le=100.0,
        description="peak; warm-up over a tenth of the steps, then half a cosine",
    )
    weight_decay: float = Field(0.2, ge=0, le=100.0, description="of AdamW")
    patience: int = Field(
        5, ge=1, le=100_000, description="epochs without gain after which it stops"
    )
    judged: int = Field(
        3,
        ge=1,
        le=100_000,
        description="epochs in a row whose mean worst group chooses the best, since one epoch's is "
        "a few dozen films",
    )
    accumulate: int = Field(
        1, ge=1, le=100_000, description="batches for each step of the optimiser"
    )
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="of the training")
    gradient_checkpointing: bool = Field(
        False,
        description="keep less of the forward pass and compute it again for the gradients: less "
        "memory, more time, the same weights",
    )
    lora_rank: int = Field(
        0,
        ge=0,
        le=1_024,
        description="rank of adapters that are trained in the attention of the image tower in "
        "place of its weights (LoRA, twice its rank as alpha), for less memory; 0: none",
    )
    freeze_norms: bool = Field(True, description="keep the statistics of BatchNorm")
    cropped: Share = Field(0.0, description="share of the films that are cut to a random part")
    clip_weight: Share = Field(0.8, description="lambda: share of L_CLIP in the loss")
    temperature: float = Field(
        0.07, gt=0, le=1_000.0, description="tau of regions and zero-shot logits"
    )
    denominator: Literal["multiset", "distinct"] = Field(
        "multiset", description="L_R sums over the texts of the batch, or over distinct classes"
    )
    reduction: Literal["sum", "mean"] = Field(
        "mean",
        description="of L_R + L_A over the films of a batch; the paper leaves it open, and a sum "
        "drowns L_CLIP",
    )
    eta: float = Field(
        0.01, gt=0, le=1_000.0, description="step size of the group weights in VL-GDRO"
    )
    exchange_share: Share = Field(
        0.5, description="chance of a film to have the feature after the exchange"
    )
    companion_lift: Share = Field(
        0.15,
        description="fine detail of a cluster is exchanged as well where it is on so much more of "
        "the films with the feature than of those without it; 1 for never",
    )
    min_group: int = Field(
        10,
        ge=1,
        le=100_000_000,
        description="groups with fewer films are joined when the best epoch is chosen and the "
        "worst group is named",
    )
    max_fall: Share = Field(
        0.01, description="fall of the overall accuracy that is tolerated in an improved model"
    )
    checkpoint_steps: int = Field(
        500, ge=1, le=1_000_000_000, description="steps after which what was done is kept"
    )
    seed: int = Field(0, ge=0, le=4_294_967_295, description="of the order of films and exchanges")

    def arms(self) -> tuple[ArmName, ...]:
        """Return every arm that is trained, the delivered one last."""
        return (*(name for name in dict.fromkeys(self.compare) if name != self.arm), self.arm)
