"""Films at the model's resolution, and boxes by film."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ravl_med.config.model import QuickstartModelConfig
from ravl_med.encoders.kept_films import gray_levels
from ravl_med.encoders.open_clip import OpenClipEncoder, open_model, save_model
from ravl_med.mitigation import fine_tuning_set
from ravl_med.mitigation.fine_tuning_set import GrayFilms, RegionTable, ReportTable, embed_reports
from ravl_med.mitigation.quickstart import quickstart_layout


@pytest.fixture(scope="module", params=["one scale", "a scale for each channel"])
def encoder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> OpenClipEncoder:
    layout = quickstart_layout(QuickstartModelConfig(image_size=32))
    if request.param != "one scale":
        layout["preprocess_cfg"]["mean"] = [0.48145466, 0.4578275, 0.40821073]
        layout["preprocess_cfg"]["std"] = [0.26862954, 0.26130258, 0.27577711]
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    save_model(open_clip.CLIP(**layout["model_cfg"]), layout, folder)
    return open_model(folder, torch.device("cpu"))


def test_what_is_kept_is_what_the_model_is_given(encoder: OpenClipEncoder) -> None:
    rng = np.random.default_rng(0)
    pixels = [rng.random((40 + i, 50)).astype(np.float32) for i in range(3)]
    pixels.append(np.repeat([[0.0], [1.0]], 20, axis=0).astype(np.float32) * np.ones((1, 50)))
    seen = [encoder.preprocess(film) for film in pixels]
    gray = np.stack([gray_levels(image, encoder.info) for image in seen])
    kept = GrayFilms(gray, np.array([0, 1, 3]), encoder.info.mean, encoder.info.std)
    assert len(kept) == 3
    assert kept.side == 32
    inputs = kept.inputs(kept.read(np.array([2, 0, 1])))
    for got, wanted in zip(inputs, (seen[3], seen[0], seen[1]), strict=True):
        level = 1.01 / 255 / min(encoder.info.std)  # one gray level
        torch.testing.assert_close(got, wanted, rtol=0, atol=level)
        assert (got - wanted).abs().mean() < 0.1 * level


def told(table: ReportTable) -> torch.Tensor:
    return table[torch.arange(len(table.of_film))]


def test_reports_are_embedded_once_and_in_their_order(encoder: OpenClipEncoder) -> None:
    texts = ["Pneumothorax.", "Cardiomegaly.", "Pneumothorax."]
    table = embed_reports(encoder, iter(texts))
    got = told(table)
    torch.testing.assert_close(got, encoder.encode_text(texts).float())
    assert len(table.texts) == 2
    assert torch.equal(got[0], got[2])
    assert torch.equal(table[torch.tensor([2, 1])], got[[2, 1]])


def test_boxes_of_films_by_hand() -> None:
    boxes = np.arange(20, dtype=np.float32).reshape(5, 4)
    table = RegionTable.of(boxes, np.array([0, 0, 2, 3, 3]), 5)
    assert table.counts().tolist() == [2, 0, 1, 2, 0]
    assert table.counts_of(np.array([3, 1, 0])).tolist() == [2, 0, 2]
    index, film = table.take(np.array([3, 1, 0]))
    assert index.tolist() == [3, 4, 0, 1]
    assert film.tolist() == [0, 0, 2, 2]
    assert [len(a) for a in table.take(np.array([4, 1]))] == [0, 0]


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=8),
    st.lists(st.integers(0, 7), max_size=10),
)
def test_boxes_of_films_one_by_one(counts: list[int], wanted: list[int]) -> None:
    film_of_box = np.repeat(np.arange(len(counts)), counts)
    rows = np.array([w % len(counts) for w in wanted], dtype=np.int64)
    table = RegionTable.of(np.zeros((len(film_of_box), 4), np.float32), film_of_box, len(counts))
    index, film = table.take(rows)
    naive = [(b, n) for n, row in enumerate(rows) for b in np.flatnonzero(film_of_box == row)]
    assert list(zip(index.tolist(), film.tolist(), strict=True)) == naive


def test_equal_reports_in_parts(encoder: OpenClipEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fine_tuning_set, "_TEXTS_AT_ONCE", 2)
    texts = [f"Finding {i % 5}." for i in (3, 0, 4, 1, 2, 5, 3)]
    table = embed_reports(encoder, texts)
    assert table.texts.shape == (5, 128)
    torch.testing.assert_close(told(table), encoder.encode_text(texts).float())


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        ((0.5, 0.4, 0.3), (0.25, 0.25, 0.25)),
        ((0.5, 0.5, 0.5), (0.25, 0.3, 0.2)),
    ],
)
def test_each_channel_has_its_own_scale(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (3, 4, 4)).astype(np.uint8)
    store = GrayFilms(gray, np.arange(len(gray)), mean, std)
    got = store.inputs(store.read(np.array([2, 0])))
    wanted = np.stack(
        [(gray[[2, 0]] / 255 - m) / s for m, s in zip(mean, std, strict=True)], axis=1
    )
    torch.testing.assert_close(got, torch.from_numpy(wanted).float())
    assert got.is_contiguous(memory_format=torch.channels_last)
