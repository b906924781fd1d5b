"""Tiny generative models of every family with random weights, in the layout of their publishers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

PATCH, SIDE = 14, 56  # of a tower; 4 x 4 patches
FAMILIES = (
    "llava",
    "llava_next",
    "llava_onevision",
    "paligemma",
    "gemma3",
    "qwen2_vl",
    "qwen2_5_vl",
    "idefics3",
    "smolvlm",
    "blip2",
    "instructblip",
    "florence2",
)
HERE = tuple(f for f in FAMILIES if f != "smolvlm" or find_spec("num2words"))
"""Families whose processor can be opened with what is installed."""

_TEXT = """Does this chest radiograph show ? Is there Can you see Yes No yes no cardiomegaly pleural
effusion pneumothorax consolidation finding normal Question : Answer USER ASSISTANT answer en What
the main of is a user model assistant Write report in one sentence . , The heart enlarged acute
abnormality I cannot"""
WORDS = _TEXT.split()
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<image>", "<video>", "<boi>", "<eoi>",
           "<|vision_start|>", "<|vision_end|>", "<fake_token_around_image>", "<global-img>",
           "<end_of_utterance>", "<loc>"]  # fmt: skip
SPECIAL += [f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)]

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | upper }} : {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE {% else %}{{ c['text'] }} {% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)


def tokenizer(**named: str) -> Any:
    """Return a tokenizer of words; `named` are special tokens by attribute."""
    vocabulary = {word: n for n, word in enumerate(dict.fromkeys([*SPECIAL, *WORDS, "\n"]))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(SPECIAL)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", bos_token="<s>",
        eos_token="</s>", extra_special_tokens=named, model_max_length=512,
    )  # fmt: skip


def build(family: str, folder: Path, seed: int = 0) -> Path:
    """Write a tiny model of a family into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model, processor = globals()[f"_{family}"]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and parameter.std() < 0.1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            elif "query_tokens" in name or "class_embedding" in name:
                parameter.normal_(std=0.5)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def local_tower(model: nn.Module) -> None:
    """Keep patches of the image tower from seeing each other."""
    names = ("self_attn.out_proj", "self_attn.projection", "attn.proj", "channel_attn.proj",
             "window_attn.proj", ".conv1", ".conv2")  # fmt: skip
    with torch.no_grad():
        for name, part in model.named_modules():
            vision = any(key in name for key in ("vision", "visual"))
            if vision and name.endswith(names):
                for parameter in part.parameters():
                    parameter.zero_()


def _vision(**more: Any) -> dict[str, Any]:
    return {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH, **more}  # fmt: skip


def _text(**more: Any) -> dict[str, Any]:
    words = tokenizer()
    return {"vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
            "max_position_embeddings": 256, "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
            **more}  # fmt: skip


def _id(token: str) -> int:
    return int(tokenizer().convert_tokens_to_ids(token))


def _clip_images(kind: Any, **more: Any) -> Any:
    return kind(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, **more)


def _llava() -> tuple[Any, Any]:
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**_vision()),
        text_config=transformers.LlamaConfig(**_text()),
        image_token_index=_id("<image>"), vision_feature_layer=-2,
    )  # fmt: skip
    processor = transformers.LlavaProcessor(
        _clip_images(transformers.CLIPImageProcessor), tokenizer(image_token="<image>"),
        patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )  # fmt: skip
    return transformers.LlavaForConditionalGeneration(config), processor


_PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]


def _llava_next() -> tuple[Any, Any]:
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**_vision()),
        text_config=transformers.LlamaConfig(**_text()), image_grid_pinpoints=_PINPOINTS,
        image_token_index=_id("<image>"), vision_feature_layer=-2,
    )  # fmt: skip
    processor = transformers.LlavaNextProcessor(
        _clip_images(transformers.LlavaNextImageProcessor, image_grid_pinpoints=_PINPOINTS),
        tokenizer(image_token="<image>"), patch_size=PATCH,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )  # fmt: skip
    return transformers.LlavaNextForConditionalGeneration(config), processor


def _llava_onevision() -> tuple[Any, Any]:
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**_vision(vision_use_head=False)),
        text_config=transformers.Qwen2Config(**_text()), image_grid_pinpoints=_PINPOINTS,
        image_token_index=_id("<image>"), video_token_index=_id("<video>"),
        vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    images = transformers.LlavaOnevisionImageProcessor(
        size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=_PINPOINTS
    )
    processor = transformers.LlavaOnevisionProcessor(
        images, tokenizer(image_token="<image>", video_token="<video>"),
        transformers.LlavaOnevisionVideoProcessor(), num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full", chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )  # fmt: skip
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


def _paligemma() -> tuple[Any, Any]:
    words = tokenizer(image_token="<image>")
    images = transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    images.image_seq_length = (SIDE // PATCH) ** 2
    processor = transformers.PaliGemmaProcessor(images, words)
    text = _text(head_dim=16) | {"vocab_size": len(processor.tokenizer)}
    config = transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(
            **_vision(projection_dim=32, vision_use_head=False)
        ),
        text_config=transformers.GemmaConfig(**text), projection_dim=32, hidden_size=32,
        image_token_index=_id("<image>"), vocab_size=text["vocab_size"],
    )  # fmt: skip
    return transformers.PaliGemmaForConditionalGeneration(config), processor


def _gemma3() -> tuple[Any, Any]:
    words = tokenizer(image_token="<image>", boi_token="<boi>", eoi_token="<eoi>")
    images = transformers.Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE})
    processor = transformers.Gemma3Processor(
        images, words, image_seq_length=4, chat_template=TEMPLATE.replace("IMAGE", "<boi>")
    )
    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(**_vision(vision_use_head=False)),
        text_config=transformers.Gemma3TextConfig(
            **_text(head_dim=16, sliding_window=16, query_pre_attn_scalar=16,
                    layer_types=["sliding_attention", "full_attention"])
        ),
        mm_tokens_per_image=4, image_token_index=_id("<image>"), boi_token_index=_id("<boi>"),
        eoi_token_index=_id("<eoi>"),
    )  # fmt: skip
    return transformers.Gemma3ForConditionalGeneration(config), processor


def _qwen(two_five: bool) -> tuple[Any, Any]:
    own = {"hidden_size": 32, "patch_size": PATCH, "spatial_merge_size": 2, "num_heads": 2,
           "depth": 2}  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    text = _text(rope_parameters=rope)
    ids = {"image_token_id": _id("<image>"), "video_token_id": _id("<video>"),
           "vision_start_token_id": _id("<|vision_start|>"),
           "vision_end_token_id": _id("<|vision_end|>")}  # fmt: skip
    kind: Any
    if two_five:
        own |= {"out_hidden_size": 32, "intermediate_size": 48, "window_size": 4 * PATCH,
                "fullatt_block_indexes": [1]}  # fmt: skip
        config: Any = transformers.Qwen2_5_VLConfig(vision_config=own, text_config=text, **ids)
        kind = transformers.Qwen2_5_VLForConditionalGeneration
    else:
        own |= {"embed_dim": 32, "mlp_ratio": 2}
        config = transformers.Qwen2VLConfig(vision_config=own, text_config=text, **ids)
        kind = transformers.Qwen2VLForConditionalGeneration
    images = transformers.Qwen2VLImageProcessor(
        size={"shortest_edge": 4 * PATCH**2 * 4, "longest_edge": 64 * PATCH**2}
    )
    slot = "<|vision_start|><image><|vision_end|>"
    name = "Qwen2_5_VLProcessor" if two_five else "Qwen2VLProcessor"
    processor = getattr(transformers, name)(
        images, tokenizer(image_token="<image>", video_token="<video>"),
        transformers.Qwen2VLVideoProcessor(), chat_template=TEMPLATE.replace("IMAGE", slot),
    )  # fmt: skip
    return kind(config), processor


def _qwen2_vl() -> tuple[Any, Any]:
    return _qwen(False)


def _qwen2_5_vl() -> tuple[Any, Any]:
    return _qwen(True)


def _idefics(kind: str) -> tuple[Any, Any]:
    words = tokenizer(image_token="<image>", fake_image_token="<fake_token_around_image>",
                      global_image_token="<global-img>", video_token="<video>",
                      end_of_utterance_token="<end_of_utterance>")  # fmt: skip
    images = getattr(transformers, f"{kind}ImageProcessor")(
        size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}
    )
    given = {"image_seq_len": 4, "chat_template": TEMPLATE.replace("IMAGE", "<image>")}
    if kind == "SmolVLM":
        given["video_processor"] = transformers.SmolVLMVideoProcessor()
    processor = getattr(transformers, f"{kind}Processor")(images, words, **given)
    config = getattr(transformers, f"{kind}Config")(
        vision_config=_vision(), text_config=transformers.LlamaConfig(**_text()),
        image_token_id=_id("<image>"), scale_factor=2,
    )  # fmt: skip
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor


def _idefics3() -> tuple[Any, Any]:
    return _idefics("Idefics3")


def _smolvlm() -> tuple[Any, Any]:
    return _idefics("SmolVLM")


def _blip(kind: str) -> tuple[Any, Any]:
    opt = {"vocab_size": len(tokenizer()), "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2,
           "num_attention_heads": 2, "max_position_embeddings": 256, "word_embed_proj_dim": 32,
           "bos_token_id": _id("<s>"), "eos_token_id": _id("</s>"),
           "pad_token_id": _id("<pad>")}  # fmt: skip
    qformer = {"vocab_size": len(tokenizer()), "hidden_size": 32, "num_hidden_layers": 2,
               "num_attention_heads": 2, "intermediate_size": 48,
               "encoder_hidden_size": 32}  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(
        vision_config=_vision(initializer_range=0.02), qformer_config=qformer,
        text_config=transformers.OPTConfig(**opt), num_query_tokens=6,
        image_token_index=_id("<image>"),
    )  # fmt: skip
    images = transformers.BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    words = [tokenizer()] if kind == "Blip2" else [tokenizer(), tokenizer()]
    processor = getattr(transformers, f"{kind}Processor")(images, *words, num_query_tokens=6)
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor


def _blip2() -> tuple[Any, Any]:
    return _blip("Blip2")


def _instructblip() -> tuple[Any, Any]:
    return _blip("InstructBlip")


def _florence2() -> tuple[Any, Any]:
    side = 64
    vision = {"depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 4],
              "patch_padding": [3, 1], "patch_prenorm": [False, True], "embed_dim": [16, 32],
              "num_heads": [2, 2], "num_groups": [2, 2], "window_size": 4,
              "projection_dim": 32}  # fmt: skip
    bart = {"vocab_size": len(tokenizer()), "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
            "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48, "max_position_embeddings": 256, "bos_token_id": _id("<s>"),
            "eos_token_id": _id("</s>"), "pad_token_id": _id("<pad>"),
            "decoder_start_token_id": _id("</s>"), "forced_eos_token_id": None}  # fmt: skip
    config = transformers.Florence2Config(
        vision_config=vision, text_config=transformers.BartConfig(**bart),
        image_token_id=_id("<image>"),
    )  # fmt: skip
    images = transformers.CLIPImageProcessor(
        size={"height": side, "width": side}, do_center_crop=False
    )
    images.image_seq_length = 17
    processor = transformers.Florence2Processor(
        images, tokenizer(image_token="<image>"), num_additional_image_tokens=1
    )
    return transformers.Florence2ForConditionalGeneration(config), processor
