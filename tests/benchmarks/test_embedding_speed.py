"""Time and memory of embedding from files, on a few films and a small tower."""

import open_clip
import pytest

from tests.benchmarks import embedding_speed
from tests.benchmarks.embedding_speed import measure_memory, measure_throughput
from tests.benchmarks.runner import silent

SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(autouse=True)
def small_films(monkeypatch):
    monkeypatch.setattr(embedding_speed, "_SIDE", 128)
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: SMALL)


def test_everything_takes_longer_than_the_passes():
    steps = []
    row = measure_throughput(6, 2, 1, lambda *step: steps.append(step))
    assert (row["films"], row["regions"], row["batch"], row["workers"], row["rounds"]) == (
        6,
        16,
        2,
        2,
        1,
    )
    assert row["ratio"] > 1
    assert row["decoding"] > 0
    assert steps[-1] == ("films", 2, 2)
    assert row["target"] == 1.25


@pytest.mark.slow
def test_memory_is_that_of_processes_of_their_own():
    row = measure_memory(4, 2, silent)
    assert (row["films"], row["times"]) == (4, 8)
    assert 100 < row["once"] < 3000
    assert row["more"] < 1.3 * row["once"]
