"""Tiny models of every family with random weights, in the layout that their publishers use.

Attention is scaled up: with plain random weights every token sees the mean of all, and a mistake in
what a region attends to does not show.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import open_clip
import sentencepiece
import timm
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional

from ravl_med.encoders.open_clip import save_model

SIZE = 64
WORDS = [
    "cardiomegaly", "pleural", "effusion", "pneumothorax", "consolidation", "edema", "no",
    "finding", "normal", "chest", "radiograph", "the", "heart", "is", "enlarged", ".", ",",
]  # fmt: skip
FAMILIES = (
    "open_clip_resnet",
    "open_clip_vit",
    "open_clip_vit_avg",
    "coca",
    "convnext",
    "timm_vit",
    "timm_vit_avg",
    "timm_vit_map",
    "biomedclip",
    "hf_clip",
    "hf_siglip",
    "hf_siglip2",
    "hf_naflex",
)
OPEN_CLIP = FAMILIES[:9]


def build(family: str, folder: Path, seed: int = 0) -> Path:
    """Write a tiny model of a family into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    if family.startswith("hf_"):
        _huggingface(family, folder)
    else:
        _open_clip(family, folder)
    return folder


def layout_of(family: str) -> dict[str, Any]:
    """Return the open_clip_config.json of a family."""
    text: dict[str, Any] = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2,
                            "layers": 1}  # fmt: skip
    vision: dict[str, Any] = {"image_size": SIZE}
    vit = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
    more: dict[str, Any] = {}
    if family == "open_clip_resnet":
        vision |= {"layers": [1, 1, 1, 1], "width": 16, "head_width": 32}
    elif family.startswith("open_clip_vit"):
        vision |= vit
        if family.endswith("avg"):
            vision["pool_type"] = "avg"
    elif family == "coca":
        vision |= vit | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True,
                         "attn_pooler_queries": 5}  # fmt: skip
        text |= {"embed_cls": True, "output_tokens": True}
        more = {"custom_text": True,
                "multimodal_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32,
                                   "heads": 2, "layers": 1, "attn_pooler_heads": 2}}  # fmt: skip
    elif family == "convnext":
        vision |= {"timm_model_name": "test_convnext2", "timm_pool": "", "timm_proj": "linear"}
    elif family == "timm_vit_map":
        vision |= {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none",
                   "image_size": 160}  # fmt: skip
    else:
        name = "test_vit2" if family == "timm_vit_avg" else "test_vit"
        vision |= {"timm_model_name": name, "timm_pool": "", "timm_proj": "linear"}
        if family == "timm_vit_avg":
            vision["timm_pool"] = "avg"
    if family == "biomedclip":
        name = "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract"
        text = {"hf_model_name": name, "hf_tokenizer_name": name, "hf_proj_type": "mlp",
                "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 16}  # fmt: skip
    embedding = 96 if family == "timm_vit_map" else 32
    size = vision["image_size"]
    return {
        "model_cfg": {"embed_dim": embedding, "vision_cfg": vision, "text_cfg": text, **more},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic",
                           "resize_mode": "squash", "size": [size, size]},
    }  # fmt: skip


def scale_attention(visual: nn.Module) -> None:
    """Let attention, class tokens and residual branches matter."""
    with torch.no_grad():
        for name, parameter in visual.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight", "in_proj_weight", "qkv.weight")):
                parameter.mul_(6.0 if parameter.std() < 0.1 else 2.0)
            elif name.endswith(("attn_pool.q.weight", "attn_pool.kv.weight")):
                parameter.mul_(6.0)
            elif name.endswith(("attn.proj.weight", "patch_embed.proj.weight")):
                parameter.mul_(6.0 if parameter.std() < 0.05 else 2.0)
            elif name.endswith(("class_embedding", "cls_token", "probe", "latent", "reg_token")):
                parameter.copy_(torch.randn_like(parameter))
            elif name.endswith(("bn3.weight", "gamma")):
                parameter.fill_(1.0)
            elif name.endswith("position_embedding.weight") or "pos_embed" in name:
                parameter.mul_(0.2)


def settle_norms(visual: nn.Module, size: int) -> None:
    """Fill the statistics of batch norm, and take away what all images share."""
    noise = functional.interpolate(torch.randn(24, 3, 8, 8), size, mode="bicubic")
    with torch.no_grad():
        visual.train()
        for part in noise.split(8):
            visual(part)
        visual.eval()
        if hasattr(visual, "attnpool"):
            visual.attnpool.c_proj.bias -= visual(noise).mean(dim=0)


def _open_clip(family: str, folder: Path) -> None:
    layout = layout_of(family)
    config = json.loads(json.dumps(layout["model_cfg"]))
    kind: Any = open_clip.CLIP
    if family == "coca":
        kind = open_clip.CoCa
        config.pop("custom_text")
    if family == "biomedclip":
        write_bert(folder)
        kind = open_clip.CustomTextCLIP
        config["text_cfg"] |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    model = kind(**config)
    if family == "coca":  # open_clip leaves what only captions need as it finds the memory
        with torch.no_grad():
            for name, parameter in (
                *model.text.named_parameters(),
                *model.text_decoder.named_parameters(),
            ):
                if name in ("cls_emb", "positional_embedding", "text_projection"):
                    nn.init.normal_(parameter, std=0.2)
    if family == "biomedclip":
        with torch.no_grad():
            for name, parameter in model.text.transformer.named_parameters():
                if ".attention." in name and name.endswith(
                    ("query.weight", "value.weight", "dense.weight")
                ):
                    parameter.mul_(10.0)
    scale_attention(model.visual)
    settle_norms(model.visual, config["vision_cfg"]["image_size"])
    save_model(model, layout, folder)


_TINY_BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "intermediate_size": 64, "max_position_embeddings": 32}  # fmt: skip


def write_bert(folder: Path, words: int = 0, **size: int) -> transformers.BertConfig:
    """Config and tokenizer of a BERT, as BiomedCLIP's folder and PubMedBERT's have them.

    So many words, or as many as there are; sizes that are not named are tiny.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = list("abcdefghijklmnopqrstuvwxyz")
    vocabulary = [*special, *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = list(dict.fromkeys(vocabulary))
    vocabulary += [f"[unused{number}]" for number in range(words - len(vocabulary))]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer = transformers.BertTokenizer(vocab={w: i for i, w in enumerate(vocabulary)})
    tokenizer.save_pretrained(folder)
    config = transformers.BertConfig(vocab_size=len(vocabulary), **{**_TINY_BERT, **size})
    config.save_pretrained(folder)
    return config


class CxrClip(nn.Module):
    """CXR-CLIP's names and steps: a ResNet, a BERT read at its last token, linear heads."""

    def __init__(self, bert: transformers.BertConfig, tower: str, size: int) -> None:
        super().__init__()
        self.image_encoder, self.text_encoder = nn.Module(), nn.Module()
        features = self.add_tower(tower)
        self.text_encoder.text_encoder = transformers.BertModel(bert)
        self.image_projection, self.text_projection = nn.Module(), nn.Module()
        self.image_projection.projection = nn.Linear(features, size)
        self.text_projection.projection = nn.Linear(bert.hidden_size, size)
        self.logit_scale = nn.Parameter(torch.tensor(2.6))

    def add_tower(self, tower: str) -> int:
        self.image_encoder.resnet = timm.create_model(tower, num_classes=0)
        return self.image_encoder.resnet.num_features

    def encode_text(self, tokens) -> torch.Tensor:
        seen = self.text_encoder.text_encoder(**tokens)["last_hidden_state"]
        last = tokens["attention_mask"].sum(dim=-1) - 1
        return self.text_projection.projection(seen[torch.arange(len(seen)), last])

    def encode_image(self, images) -> torch.Tensor:
        return self.image_projection.projection(self.image_encoder.resnet(images))


class CxrClipSwin(CxrClip):
    """The same with a Swin-T, the first cell of whose last map is the image."""

    def add_tower(self, tower: str) -> int:
        self.image_encoder.image_encoder = transformers.SwinModel(transformers.SwinConfig())
        return self.image_encoder.image_encoder.num_features

    def encode_image(self, images) -> torch.Tensor:
        cells = self.image_encoder.image_encoder(images).last_hidden_state
        return self.image_projection.projection(cells[:, 0])


CXR_CLIP_KEYS = {
    "image_encoder.resnet.": "visual.trunk.",
    "image_projection.projection.": "visual.head.proj.",
    "text_encoder.text_encoder.pooler.": None,
    "text_encoder.text_encoder.": "text.transformer.",
    "text_projection.projection.": "text.proj.",
}


def cxr_clip_layout(resnet: str, side: int, size: int, context: int) -> dict[str, Any]:
    """Return the layout file of a CXR-CLIP."""
    name = "emilyalsentzer/Bio_ClinicalBERT"
    return {
        "embed_dim": size,
        "vision_cfg": {"image_size": side, "timm_model_name": resnet, "timm_pool": "avg",
                       "timm_proj": "linear", "timm_proj_bias": True},
        "text_cfg": {"context_length": context, "hf_model_name": name, "hf_tokenizer_name": name,
                     "hf_pooler_type": "eos_pooler", "hf_proj_type": "linear",
                     "hf_proj_bias": True},
    }  # fmt: skip


def _huggingface(family: str, folder: Path) -> None:
    vision = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
              "num_attention_heads": 2, "image_size": SIZE, "patch_size": 16}  # fmt: skip
    text = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 16, "bos_token_id": 2,
            "eos_token_id": 1, "pad_token_id": 1}  # fmt: skip
    if family == "hf_clip":
        size = _clip_tokenizer(folder)
        text |= {"vocab_size": size, "bos_token_id": size - 2, "eos_token_id": size - 1,
                 "pad_token_id": size - 1}  # fmt: skip
        config: Any = transformers.CLIPConfig(
            vision_config=vision, text_config=text, projection_dim=32
        )
        model: Any = transformers.CLIPModel(config)
        transformers.CLIPImageProcessor(
            size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
        ).save_pretrained(folder)
    elif family == "hf_naflex":
        text["vocab_size"] = _gemma_tokenizer(folder, "Siglip2Tokenizer")
        vision.pop("image_size")
        vision["num_patches"] = 16
        config = transformers.Siglip2Config(vision_config=vision, text_config=text)
        model = transformers.Siglip2Model(config)
        transformers.Siglip2ImageProcessor(patch_size=16, max_num_patches=16).save_pretrained(
            folder
        )
    else:
        if family == "hf_siglip":
            text["vocab_size"] = write_siglip_tokenizer(folder, 16)
        else:
            text["vocab_size"] = _gemma_tokenizer(folder, "GemmaTokenizer")
        config = transformers.SiglipConfig(vision_config=vision, text_config=text)
        model = transformers.SiglipModel(config)
        transformers.SiglipImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(
            folder
        )
    with torch.no_grad():
        model.logit_scale.fill_(4.0)
        if hasattr(model, "logit_bias"):
            model.logit_bias.fill_(-10.0)
    scale_attention(model.vision_model)
    model.eval().save_pretrained(folder)


def _clip_tokenizer(folder: Path) -> int:
    """vocab.json, merges.txt and their configs, as CLIP's folders have them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = [("h", "e"), ("he", "a"), ("n", "o</w>"), ("e", "d"), ("i", "o"), ("io", "n</w>")]
    pieces += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges)
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(vocabulary)


def write_siglip_tokenizer(folder: Path, context: int) -> int:
    """spiece.model and tokenizer_config.json, as SigLIP's folders have them."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS), *WORDS]), model_writer=model, vocab_size=48,
        pad_id=-1, bos_id=-1, eos_id=1, unk_id=2, hard_vocab_limit=False, minloglevel=2,
        user_defined_symbols=["<extra>"],
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())
    settings = {"tokenizer_class": "SiglipTokenizer", "do_lower_case": True, "eos_token": "</s>",
                "pad_token": "</s>", "unk_token": "<unk>", "model_max_length": context,
                "model_input_names": ["input_ids"]}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return 64


def _gemma_tokenizer(folder: Path, kind: str) -> int:
    """tokenizer.json and its config, as SigLIP 2's folders have them: upper case is kept."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*WORDS, *(word.upper() for word in WORDS)], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": kind, "pad_token": "<pad>", "eos_token": "<eos>",
                "bos_token": "<bos>", "unk_token": "<unk>", "padding_side": "right",
                "model_max_length": 16, "add_eos_token": True, "add_bos_token": False,
                "model_input_names": ["input_ids"]}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return tokenizer.get_vocab_size()
