"""The section of the model: where it lies and, for a raw checkpoint, what it is."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ravl_med.config.base import DEVICE, ConfigLocation, ConfigPath, Section

RegionPooling = Literal["one_pass", "last_stage", "crops"]


class QuickstartModelConfig(Section):
    """A small model, fine-tuned on the cohort's fine-tuning split and cached.

    With ``answers`` it writes: a SigLIP tower (vit), a projector and a decoder. Else it is an
    open_clip model.
    """

    tower: Literal["resnet", "vit"] = Field("resnet", description="that embeds films")
    image_size: int = Field(96, ge=32, le=2_048, multiple_of=32, description="input side in pixels")
    epochs: int = Field(14, ge=1, le=100_000, description="passes over the films")
    batch_size: int = Field(64, ge=2, le=65_536, description="films a step")
    learning_rate: float = Field(1e-3, gt=0, le=100.0, description="peak, after a warm-up")
    seed: int = Field(
        0, ge=0, le=4_294_967_295, description="of the first weights and of the order of films"
    )
    retrain: bool = Field(
        False, description="train from the first step what ships trained, in whole or in part"
    )


Colour = Annotated[float, Field(ge=-1_000.0, le=1_000.0)]
Spread = Annotated[float, Field(gt=0, le=1_000.0)]


class PreprocessConfig(Section):
    """How the images of a raw checkpoint were made, which its file does not state."""

    size: int | None = Field(
        None, ge=16, le=8_192, description="input side in pixels; null: that of the architecture"
    )
    mean: tuple[Colour, Colour, Colour] = Field(
        (0.48145466, 0.4578275, 0.40821073), description="of the channels, films being 0 to 1"
    )
    std: tuple[Spread, Spread, Spread] = Field(
        (0.26862954, 0.26130258, 0.27577711), description="of the channels"
    )
    interpolation: Literal["bicubic", "bilinear"] = Field(
        "bicubic", description="by which films are resized"
    )
    resize_mode: Literal["shortest", "longest", "squash"] = Field(
        "shortest",
        description="shortest side resized and the centre cut out; longest side resized and padded "
        "with black; both sides stretched",
    )


AnswerStyle = Literal["yes_no", "choice", "report"]
_ASKED = {
    "yes_no": "Does this chest radiograph show {}?",
    "choice": "What is the main finding of this chest radiograph?",
    "report": "Does this chest radiograph show {}?",
}


class AnswersConfig(Section):
    """How a model that writes text is asked about the classes of the task."""

    style: AnswerStyle = Field(
        "yes_no",
        description="a yes/no question a prompt of each class; one question, with the prompts of "
        "the classes as its answers; or a report that is read for findings, the yes/no questions "
        "being its margins",
    )
    question: str | None = Field(
        None,
        min_length=1,
        description="{} stands for a prompt of a class, but for choice; a prompt that ends with ? "
        "is a question of its own. null: the tool's own",
    )
    reworded: tuple[str, ...] = Field(
        ("Is there {} in this chest radiograph?", "Can you see {} on this chest radiograph?"),
        description="the question in other words, to see whether its answer stays",
    )
    request: str = Field(
        "Write the report of this chest radiograph.", description="what a report is asked for by"
    )
    yes: tuple[str, ...] = Field(
        ("Yes", "yes"), min_length=1, description="first words of an answer; one token each"
    )
    no: tuple[str, ...] = Field(("No", "no"), min_length=1, description="likewise")
    blank_corrected: bool = Field(
        False, description="take off what is answered to a blank film; both are shown"
    )
    max_tokens: int = Field(96, ge=1, le=4096, description="of a report, at most")
    image_size: int | None = Field(
        None,
        ge=28,
        le=8192,
        description="side in pixels of the square that a film is laid on for processors that take "
        "any size (LLaVA-NeXT, Qwen-VL, Idefics); null: what the processor is made for",
    )
    region_films: int = Field(
        100,
        ge=0,
        le=100_000,
        description="wrongly called films whose regions are each asked about, for the influence of "
        "clusters; 0: none, which leaves it to effects to propose what has no large gap",
    )

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        wanted = 0 if self.style == "choice" else 1
        asked = [*([] if self.question is None else [self.question])]
        asked += [] if self.style == "choice" else list(self.reworded)
        for text in asked:
            if text.count("{}") != wanted:
                raise ValueError(
                    f"question {text[:60]!r} must hold the placeholder {{}} "
                    f"{'once' if wanted else 'nowhere: the classes are its answers'}"
                )
        both = {one.lower() for one in self.yes} & {one.lower() for one in self.no}
        if both:
            raise ValueError(f"{sorted(both)[0]!r} stands in both 'yes' and 'no'")
        return self

    @property
    def asked(self) -> str:
        """Return the question, the tool's own where none is given."""
        return self.question or _ASKED[self.style]


class ModelConfig(Section):
    """The vision-language model under audit."""

    path: ConfigLocation | None = Field(
        None, description="folder of an open_clip or Hugging Face model; a path, or a URL"
    )
    weights: ConfigLocation | None = Field(
        None,
        description="raw checkpoint (.safetensors, .pt, .pth, .tar): a state dict; a path, or a "
        "URL",
    )
    architecture: str | None = Field(
        None, description="what the weights are of, by its name in open_clip"
    )
    layout: ConfigPath | None = Field(
        None, description="or by a JSON file like open_clip_config.json, for what has no name there"
    )
    quick_gelu: bool | None = Field(
        None, description="activation of OpenAI's models; null: what the architecture says"
    )
    preprocess: PreprocessConfig | None = None
    keys: dict[str, str | None] = Field(
        default_factory=dict,
        description="beginnings of names in the checkpoint and what stands in their place; null "
        "drops those weights",
    )
    text_tower: ConfigPath | None = Field(
        None, description="folder with config.json and tokenizer of a Hugging Face text tower"
    )
    factory: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="package.module:function that returns an Encoder; needs allow_code",
    )
    allow_code: bool = Field(
        False, description="run the code that factory names, or that a generative model brings"
    )
    answers: AnswersConfig | None = Field(
        None,
        description="how a model is asked that writes text (image-text-to-text, in 'path'); null: "
        "a contrastive model",
    )
    quickstart: QuickstartModelConfig | None = None
    name: str | None = Field(None, description="how the report calls the model")
    device: str = Field(
        "auto",
        pattern=DEVICE,
        description="cpu, mps, cuda, cuda:0 and so on; auto: a GPU where there is one",
    )
    batch_size: int = Field(
        64,
        ge=1,
        le=65_536,
        description="films encoded at once; halved where memory does not suffice, which is said, "
        "and remembered for the model and device",
    )
    precision: Literal["fp32", "bf16", "fp16", "int8"] = Field(
        "fp32",
        description="in which films, regions and texts are encoded; fp16 and int8 (weights alone) "
        "are for models with answers",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1_024,
        description="threads of the encoder on a CPU; null: as many as PyTorch takes. Embeddings "
        "are kept by their number",
    )
    region_pooling: RegionPooling = Field(
        "one_pass",
        description="how regions are embedded: with the image in one pass of it, as fits the "
        "tower; RoIAlign before the last stage of a CLIP ResNet, or of timm's ConvNeXt, ResNet or "
        "Swin, and a pass of that stage a region; crops, each encoded as an image. Embeddings are "
        "kept by it",
    )
    trained_on: ConfigPath | None = Field(
        None,
        description="CSV of what the model was fitted on, with the column 'patient', 'image' or "
        "both, as in the manifest: films of these are no test of it",
    )
    scores: ConfigPath | None = Field(
        None,
        description="CSV with the scores of a model that cannot be opened: a column 'image', "
        "and one of probabilities or logits for each class. The model that is named beside it only "
        "embeds the regions",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = (self.path, self.weights, self.factory, self.quickstart)
        if sum(source is not None for source in sources) != 1:
            raise ValueError("name exactly one of 'path', 'weights', 'factory' and 'quickstart'")
        described = (self.architecture is not None) + (self.layout is not None)
        if self.weights is not None and described != 1:
            raise ValueError("weights need exactly one of 'architecture' and 'layout'")
        of_weights = ("architecture", "layout", "quick_gelu", "preprocess", "text_tower")
        stray = [name for name in of_weights if getattr(self, name) is not None]
        stray += ["keys"] if self.keys else []
        if self.weights is None and stray:
            raise ValueError(f"{stray[0]!r} describes 'weights', which is not named")
        if self.factory is not None and not self.allow_code:
            raise ValueError(
                f"factory {self.factory[:80]!r} is code, which is run only if you trust it: set "
                "allow_code to true then"
            )
        return self

    @model_validator(mode="after")
    def _answers_fit(self) -> Self:
        if self.answers is None and self.precision in ("fp16", "int8"):
            raise ValueError(f"precision {self.precision} is for models with 'answers'; take bf16")
        if self.answers is not None and self.path is None and self.quickstart is None:
            raise ValueError("answers are of a model folder; name it in 'path'")
        small = self.quickstart
        if self.answers is not None and small is not None and small.tower != "vit":
            raise ValueError("'quickstart' with 'answers' has a SigLIP tower; set tower to vit")
        if self.answers is not None and self.region_pooling != "one_pass":
            raise ValueError(
                f"region_pooling {self.region_pooling} is of image towers; regions of a model with "
                "answers are means of its visual tokens"
            )
        return self
