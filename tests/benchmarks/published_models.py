"""Published models at full size: opened from what their publishers hand out, and asked.

Their weights are random: the sizes, the names of tensors, the position embeddings and the files are
the publishers'. Vocabularies are short where the publisher's is not at hand; the text tower's table
of words is as long as published.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ravl_med.config.model import ModelConfig
from ravl_med.encoders.base import Encoder, EncoderInfo
from ravl_med.encoders.open_clip import save_model
from ravl_med.encoders.opening import open_encoder, open_model_folder
from ravl_med.evidence.counterfactual.fills import fill_interpolated
from ravl_med.regions.geometry import InputGeometry
from ravl_med.regions.region_set import cut_tiles
from tests.benchmarks.processes import forget_peak, map_in_children, peak_mb
from tests.benchmarks.runner import Setup
from tests.benchmarks.tables import Row
from tests.benchmarks.towers import processor_seconds

_FOLDER = "RAVL_MED_PUBLISHED"  # variable of the environment: where `open_swin` finds its files
_CPU = torch.device("cpu")
_GRID = 4  # tiles a side: 16 regions
_REMOVED = 5  # the tile that is taken out
_FILM = (1024, 900)
_TEXTS = ("cardiomegaly", "no finding", "pleural effusion")
_BERT = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
         "intermediate_size": 3072, "max_position_embeddings": 512}  # fmt: skip
_SHAPE = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
          "num_attention_heads": 16}  # fmt: skip
_CHEXZERO = {"mean": (0.398,) * 3, "std": (0.3272,) * 3, "resize_mode": "longest"}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

Embed = Callable[[Tensor, Sequence[str]], tuple[Tensor, Tensor, float]]
"""Inputs (B, 3, S, S) and texts to their embeddings (B, D) and (T, D), and the scale of logits."""


@dataclass(frozen=True, slots=True)
class Published:
    """A model of a publisher.

    Attributes
    ----------
    title : str - how the table calls it
    write : callable - writes what the publisher hands out into a folder, and returns the `model`
        section that opens it
    refer : callable - opens the same files by the publisher's own library
    """

    title: str
    write: Callable[[Path], dict[str, Any]]
    refer: Callable[[Path], Embed]


def measure_published(setup: Setup) -> Iterator[Row]:
    """Write, open and ask every model, one after another, each in processes of its own."""
    rounds = setup.size("rounds")
    for done, name in enumerate(PUBLISHED):
        setup.progress("published models", done, len(PUBLISHED))
        with tempfile.TemporaryDirectory() as work:
            yield measure_model(name, Path(work), rounds)


def measure_model(name: str, work: Path, rounds: int) -> Row:
    """Write a model of `PUBLISHED` into an empty folder, open it, ask it, save it, open that.

    What is written is written by a process that ends, so that its memory does not count. Seconds
    are of one thread, and the median of the rounds.
    """
    (section,) = map_in_children(_write, [(name, work / "published")])
    (row,) = map_in_children(_measure, [(name, section, work, rounds)])
    return row


def _write(asked: tuple[str, Path]) -> dict[str, Any]:
    torch.manual_seed(0)
    return PUBLISHED[asked[0]].write(asked[1])


def _measure(asked: tuple[str, dict[str, Any], Path, int]) -> Row:
    name, section, work, rounds = asked
    os.environ[_FOLDER] = str(work / "published")
    held, begun = forget_peak(), time.process_time()
    encoder = _open(section)
    opened = time.process_time() - begun
    row, images, logits = _ask(encoder, rounds)
    peak = peak_mb() - held
    again = _saved_again(encoder, work / "saved", images)
    del encoder
    with torch.inference_mode():
        seen, said, scale = PUBLISHED[name].refer(work / "published")(images, _TEXTS)
    wanted = _logits(seen, said, scale)
    return {
        "model": PUBLISHED[name].title,
        **row,
        "opened": round(opened, 1),
        "peak": round(peak),
        "spread": float(logits.std(dim=0).min()),
        "again": None if again is None else float((again - logits).abs().max()),
        "difference": float((wanted - logits).abs().max()),
    }


def _open(section: Mapping[str, Any]) -> Encoder:
    config = ModelConfig.model_validate(section)
    folder = section.get("path")
    return open_encoder(config, None if folder is None else Path(folder), _CPU)


def _logits(images: Tensor, texts: Tensor, scale: float) -> Tensor:
    images, texts = functional.normalize(images, dim=-1), functional.normalize(texts, dim=-1)
    return scale * images @ texts.T


@torch.inference_mode()
def _ask(encoder: Encoder, rounds: int) -> tuple[Row, Tensor, Tensor]:
    """Embed two films, one of them with 16 regions, and take a place out of it."""
    films = _films(2)
    images = torch.stack([encoder.preprocess(film) for film in films])
    texts = encoder.encode_text(_TEXTS)
    scale = float(encoder.info.logit_scale or 1.0)
    logits = _logits(encoder.encode_image(images), texts, scale)
    tiles = cut_tiles(*_FILM, _GRID, _GRID)
    boxes = torch.from_numpy(encoder.geometry(*_FILM).to_input(tiles))

    def remove() -> float:
        filled = fill_interpolated(images[0].numpy(), boxes[_REMOVED].numpy())
        changed = _logits(encoder.encode_image(torch.from_numpy(filled)[None]), texts, scale)
        moved = (logits[0] - changed[0]).numpy()
        return float(moved[0] - moved[1])

    def embed_regions() -> Tensor:
        return encoder.encode_regions(images[:1], [boxes])[1]

    effect = remove()
    regions = embed_regions()
    alone = [processor_seconds(lambda: encoder.encode_image(images[:1])) for _ in range(rounds)]
    together = [processor_seconds(embed_regions) for _ in range(rounds)]
    removal = [processor_seconds(remove) for _ in range(rounds)]
    assert regions.shape == (len(tiles), encoder.info.embedding_size)
    return (
        {
            "side": encoder.info.image_size,
            "parameters": encoder.info.parameters,
            "pooling": encoder.info.region_pooling,
            "film": float(np.median(alone)),
            "regions": float(np.median(together)) / float(np.median(alone)),
            "removal": float(np.median(removal)),
            "effect": effect,
            "finite": bool(torch.isfinite(regions).all() and np.isfinite(effect)),
        },
        images,
        logits,
    )


@torch.inference_mode()
def _saved_again(encoder: Encoder, folder: Path, images: Tensor) -> Tensor | None:
    """Return what a model says that was saved and opened again; None where code made it."""
    if encoder.model is None:
        return None
    encoder.save(folder)
    again = open_model_folder(folder, _CPU)
    scale = float(again.info.logit_scale or 1.0)
    return _logits(again.encode_image(images), again.encode_text(_TEXTS), scale)


def _films(count: int) -> list[NDArray[np.float32]]:
    """Return films (H, W) of smooth noise, 0 to 1."""
    coarse = torch.rand(count, 1, 9, 8, generator=torch.Generator().manual_seed(1))
    films = functional.interpolate(coarse, _FILM, mode="bicubic").clamp(0.0, 1.0)
    return [np.ascontiguousarray(film[0].numpy()) for film in films]


def _tiny() -> Any:
    """Tokenizers and attention that matters: as the tests of tiny models make them."""
    return importlib.import_module("tests.encoders.tiny_models")


def _state_into(model: Any, path: Path) -> Any:
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


def _by_open_clip(model: Any, tokens: Callable[[Sequence[str]], Any]) -> Embed:
    def embed(images: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor, float]:
        said = model.encode_text(tokens(texts))
        return model.encode_image(images), said, float(model.logit_scale.exp())

    return embed


def _openai(name: str, file: str, side: int = 0) -> tuple[Any, Any]:
    """Write and refer to a checkpoint under OpenAI's names, of an architecture of open_clip.

    Where a side is named, films are prepared as for CheXzero.
    """

    def build() -> Any:
        layout = open_clip.get_model_config(name)
        layout["vision_cfg"]["image_size"] = side or layout["vision_cfg"]["image_size"]
        return open_clip.CLIP(**layout, quick_gelu=True)

    def write(folder: Path) -> dict[str, Any]:
        folder.mkdir()
        model = build()
        _tiny().scale_attention(model.visual)
        if hasattr(model.visual, "attnpool"):
            _tiny().settle_norms(model.visual, 224)
        torch.save(model.state_dict(), folder / file)
        section = {"weights": folder / file, "architecture": name, "quick_gelu": True}
        return section | ({"preprocess": {**_CHEXZERO, "size": side}} if side else {})

    def refer(folder: Path) -> Embed:
        model = _state_into(build(), folder / file)
        return _by_open_clip(model, open_clip.get_tokenizer(name))

    return write, refer


_BIOMEDCLIP: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {"timm_model_name": "vit_base_patch16_224", "timm_model_pretrained": False,
                   "timm_pool": "", "timm_proj": "linear", "image_size": 224},
    "text_cfg": {"hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
                 "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
                 "hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler",
                 "context_length": 256},
}  # fmt: skip


def _build_biomedclip(folder: Path) -> Any:
    text = {**_BIOMEDCLIP["text_cfg"], "hf_model_name": str(folder), "hf_model_pretrained": False}
    return open_clip.CustomTextCLIP(**{**_BIOMEDCLIP, "text_cfg": text})


def _write_biomedclip(folder: Path) -> dict[str, Any]:
    _tiny().write_bert(folder, words=30_522, **_BERT)
    model = _build_biomedclip(folder)
    _tiny().scale_attention(model.visual)
    layout = {
        "model_cfg": _BIOMEDCLIP,
        "preprocess_cfg": {"mean": [0.481, 0.458, 0.408], "std": [0.269, 0.261, 0.276],
                           "interpolation": "bicubic", "resize_mode": "shortest", "size": 224},
    }  # fmt: skip
    save_model(model, layout, folder)
    return {"path": folder}


def _refer_biomedclip(folder: Path) -> Embed:
    from safetensors.torch import load_file

    model = _build_biomedclip(folder).eval()
    model.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    tokens = _bert_tokens(folder, 256)
    return _by_open_clip(model, lambda texts: tokens(texts)["input_ids"])


def _bert_tokens(folder: Path, context: int) -> Callable[[Sequence[str]], Any]:
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    return lambda texts: tokenizer(
        list(texts),
        padding="max_length",
        max_length=context,
        truncation=True,
        return_tensors="pt",
    )


def _write_cxr_clip(folder: Path) -> dict[str, Any]:
    tiny = _tiny()
    bert = tiny.write_bert(folder / "bio_clinical_bert", words=28_996, **_BERT)
    model = tiny.CxrClip(bert, "resnet50", 512)
    tiny.scale_attention(model.image_encoder)
    tiny.settle_norms(model.image_encoder.resnet, 224)
    torch.save({"model": model.state_dict(), "epoch": 12}, folder / "r50_mcc.tar")
    layout = tiny.cxr_clip_layout("resnet50", 224, 512, 256)
    (folder / "cxr_clip_r50.json").write_text(json.dumps(layout), encoding="utf-8")
    return {
        "weights": folder / "r50_mcc.tar",
        "layout": folder / "cxr_clip_r50.json",
        "text_tower": folder / "bio_clinical_bert",
        "preprocess": {**_IMAGENET, "interpolation": "bilinear"},
        "keys": tiny.CXR_CLIP_KEYS,
    }


def _refer_cxr_clip(folder: Path) -> Embed:
    text = folder / "bio_clinical_bert"
    model = _tiny().CxrClip(transformers.BertConfig.from_pretrained(text), "resnet50", 512)
    kept = torch.load(folder / "r50_mcc.tar", map_location="cpu", weights_only=True)
    model.load_state_dict(kept["model"])
    return _by_open_clip(model.eval(), _bert_tokens(text, 256))


def _build_swin(folder: Path) -> Any:
    return _tiny().CxrClipSwin(transformers.BertConfig.from_pretrained(folder), "swin", 512)


class SwinEncoder:
    """What a user brings through ``model.factory`` for it: no regions, so that they are crops."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.model = _state_into(_build_swin(folder), folder / "swint_mcc.pt").to(device)
        self.device = device
        self._tokens = _bert_tokens(folder, 256)
        self.info = EncoderInfo(
            architecture="Swin-T with Bio_ClinicalBERT",
            digest="",
            image_size=224,
            resize_mode="squash",
            mean=_IMAGENET["mean"],
            std=_IMAGENET["std"],
            region_pooling="",
            embedding_size=512,
            parameters=sum(weight.numel() for weight in self.model.parameters()),
            logit_scale=float(self.model.logit_scale.detach().exp()),
        )

    def preprocess(self, pixels: NDArray[np.float32]) -> Tensor:
        """Squash a film (H, W) of 0 .. 1 to the input, (3, 224, 224)."""
        film = torch.from_numpy(pixels)[None, None]
        small = functional.interpolate(film, (224, 224), mode="bilinear", antialias=True)
        mean, std = (
            torch.tensor(part).reshape(3, 1, 1) for part in (self.info.mean, self.info.std)
        )
        return (small[0].expand(3, -1, -1) - mean) / std

    def geometry(self, height: int, width: int) -> InputGeometry:
        """Return the mapping of boxes from a film to the input."""
        return InputGeometry.of(height, width, 224, "squash")

    @torch.inference_mode()
    def encode_image(self, images: Tensor) -> Tensor:
        """Embed inputs (B, 3, 224, 224) as (B, 512), unit norm."""
        return functional.normalize(self.model.encode_image(images), dim=-1)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as (T, 512), unit norm."""
        return functional.normalize(self.model.encode_text(self._tokens(texts)), dim=-1)


def open_swin(device: torch.device) -> SwinEncoder:
    """Open what `_write_swin` wrote: a factory is given the device and nothing else."""
    return SwinEncoder(Path(os.environ[_FOLDER]), device)


def _write_swin(folder: Path) -> dict[str, Any]:
    _tiny().write_bert(folder, words=28_996, **_BERT)
    model = _build_swin(folder)
    with torch.no_grad():
        for name, weight in model.image_encoder.named_parameters():
            if name.endswith(("query.weight", "key.weight")):
                weight.mul_(6.0)
    torch.save(model.state_dict(), folder / "swint_mcc.pt")
    return {"factory": f"{__name__}:open_swin", "allow_code": True}


def _refer_swin(folder: Path) -> Embed:
    model = _state_into(_build_swin(folder), folder / "swint_mcc.pt")
    return _by_open_clip(model, _bert_tokens(folder, 256))


def _write_medsiglip(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    tiny = _tiny()
    tiny.write_siglip_tokenizer(folder, 64)
    config = transformers.SiglipConfig(
        vision_config={**_SHAPE, "image_size": 448, "patch_size": 14},
        text_config={**_SHAPE, "vocab_size": 32_000, "max_position_embeddings": 64,
                     "projection_size": 1152, "bos_token_id": 2, "eos_token_id": 1,
                     "pad_token_id": 1},
    )  # fmt: skip
    model = transformers.SiglipModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(4.7)
        model.logit_bias.fill_(-10.0)
    tiny.scale_attention(model.vision_model)
    model.save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": 448, "width": 448}).save_pretrained(folder)
    return {"path": folder, "batch_size": 8}


def _refer_medsiglip(folder: Path) -> Embed:
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def embed(images: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor, float]:
        tokens = tokenizer(
            list(texts), padding="max_length", max_length=64, truncation=True, return_tensors="pt"
        )
        seen = model.get_image_features(pixel_values=images).pooler_output
        said = model.get_text_features(input_ids=tokens["input_ids"]).pooler_output
        return seen, said, float(model.logit_scale.exp())

    return embed


PUBLISHED: dict[str, Published] = {
    "biomedclip": Published("BiomedCLIP: ViT-B/16, BERT", _write_biomedclip, _refer_biomedclip),
    "pubmedclip": Published("PubMedCLIP: RN50", *_openai("RN50", "PubMedCLIP_RN50.pth")),
    "chexzero": Published("CheXzero: ViT-B/32", *_openai("ViT-B-32", "best_64.pt", 224)),
    "chexzero_320": Published(
        "the same, trained at 320 pixels", *_openai("ViT-B-32", "best_64.pt", 320)
    ),
    "cxr_clip": Published("CXR-CLIP: ResNet-50, BERT", _write_cxr_clip, _refer_cxr_clip),
    "cxr_clip_swin": Published("CXR-CLIP: Swin-T, BERT, by a factory", _write_swin, _refer_swin),
    "medsiglip": Published("MedSigLIP: SigLIP So400m/14", _write_medsiglip, _refer_medsiglip),
    "vit_l": Published("open_clip ViT-L/14", *_openai("ViT-L-14", "vit_l_14.pt")),
}
"""By a short name, in the order in which they are asked."""
