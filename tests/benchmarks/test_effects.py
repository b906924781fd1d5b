"""A model that learned something drawn at random is made and examined, as the page does."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravl_med.storage.cache import Cache
from tests.benchmarks.drawn_models import Drawing, make_drawn_model, open_drawn_pool
from tests.benchmarks.effects import PAGE, examine


@pytest.mark.long
def test_a_drawn_model_is_made_and_examined(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    pool = open_drawn_pool(0, cache, None)
    drawing = Drawing.of(0, "inside", pool.classes)
    row = examine(make_drawn_model(drawing, pool, cache, 200), cache)
    assert row["pictures"] > 200
    assert 0 < row["accuracy"] <= 1
    assert row["films"] >= 200
    assert PAGE.part("inside").blocks[0]([row]).startswith("- ")
