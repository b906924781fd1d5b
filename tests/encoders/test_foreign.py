"""Encoders that code of the user makes: off unless allowed, crops where they have no regions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from ravl_med.config.model import ModelConfig
from ravl_med.encoders.base import in_precision
from ravl_med.encoders.opening import CropEncoder, open_encoder, open_model_folder, require_folder
from ravl_med.encoders.region_pooling import CROPS
from ravl_med.errors import ModelError

CPU = torch.device("cpu")
CODE = """
from pathlib import Path

from ravl_med.encoders.opening import open_model_folder

FOLDER = Path({folder!r})


class Images:
    def __init__(self, inner):
        for name in ("info", "device", "preprocess", "geometry", "encode_image", "encode_text"):
            setattr(self, name, getattr(inner, name))
        self.inner = inner


def whole(device):
    return open_model_folder(FOLDER, device)


def images_only(device):
    return Images(open_model_folder(FOLDER, device))


def unsaved(device):
    encoder = images_only(device)
    encoder.model = encoder.inner.model
    return encoder


def broken(device):
    raise ValueError("secret-name")


def nothing(device):
    return object()
"""


@pytest.fixture
def package(family_folder, tmp_path, monkeypatch) -> str:
    name = f"clinic_model_{abs(hash(str(tmp_path)))}"
    code = CODE.format(folder=str(family_folder("open_clip_vit")))
    (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def opened(factory: str, *, allow: bool = True):
    config = ModelConfig(factory=factory, allow_code=True)
    return open_encoder(config.model_copy(update={"allow_code": allow}), None, CPU)


def test_an_encoder_of_the_users_own_is_taken_as_it_is(package, family_encoder):
    encoder = opened(f"{package}:whole")

    assert encoder.info.digest == family_encoder("open_clip_vit").info.digest
    assert "class token" in encoder.info.region_pooling


def test_an_encoder_of_images_alone_gets_crops(package, family_encoder):
    encoder, inner = opened(f"{package}:images_only"), family_encoder("open_clip_vit")
    coarse = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    images = functional.interpolate(coarse, 64, mode="bicubic")
    boxes = [torch.tensor([[0.0, 0.0, 64.0, 64.0], [16.0, 8.0, 48.0, 40.0]]), torch.empty((0, 4))]

    whole, regions = encoder.encode_regions(images, boxes)

    crop = functional.interpolate(
        images[:1, :, 8:40, 16:48], (64, 64), mode="bilinear", align_corners=False
    )
    assert isinstance(encoder, CropEncoder)
    assert encoder.info.region_pooling == CROPS
    torch.testing.assert_close(whole, inner.encode_image(images))
    torch.testing.assert_close(regions[:1], whole[:1])
    torch.testing.assert_close(regions[1:], inner.encode_image(crop))


def test_code_runs_only_where_it_is_allowed(package):
    with pytest.raises(ModelError, match=r"is code; set model\.allow_code to true if you trust"):
        opened(f"{package}:whole", allow=False)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("gone", r"is not found \(AttributeError\)"),
        ("broken", r"failed \(ValueError\)"),
        ("nothing", "has no device, encode_image, encode_text, geometry, info, preprocess"),
    ],
)
def test_what_is_no_encoder_is_said_in_one_line(function, message, package):
    with pytest.raises(ModelError, match=message) as caught:
        opened(f"{package}:{function}")
    assert "secret-name" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_package_that_is_not_there():
    with pytest.raises(ModelError, match=r"'no.such.package:make' is not found \(ModuleNotFound"):
        opened("no.such.package:make")


def test_mitigation_needs_a_model_that_can_be_saved(package, family_folder, tmp_path):
    folder = family_folder("open_clip_vit")

    assert require_folder(opened(f"{package}:whole"), folder, tmp_path / "a") == folder
    written = require_folder(opened(f"{package}:whole"), None, tmp_path / "b")
    assert open_model_folder(written, CPU).info.parameters > 0
    for function in ("images_only", "unsaved"):
        for encoder in (own := opened(f"{package}:{function}"), in_precision(own, "bf16")):
            with pytest.raises(ModelError, match="has no model or no save; mitigation needs both"):
                require_folder(encoder, None, Path("never"))


def test_the_users_own_encoder_is_asked_for_crops_but_for_no_stage(package):
    def opened_by(function: str, how: str):
        config = ModelConfig(factory=f"{package}:{function}", allow_code=True, region_pooling=how)  # type: ignore[arg-type]
        return open_encoder(config, None, CPU)

    assert opened_by("whole", "crops").info.region_pooling == CROPS
    assert opened_by("images_only", "crops").info.region_pooling == CROPS
    with pytest.raises(ModelError, match=r"'last_stage' is for models that are opened from files"):
        opened_by("images_only", "last_stage")
