"""The audit that nobody made: as large as asked, the same each time, and a report can be drawn."""

from __future__ import annotations

import numpy as np
import pytest

from ravl_med.evidence.audit_result import result_document
from ravl_med.reporting.files.saved_run import read_archive, write_archive
from tests.benchmarks.made_up_audit import AuditSize, make_up_audit, make_up_films

SMALL = AuditSize(60, 2, classes=3, subgroups=8, clusters=30, shape=(60, 48))


def test_it_is_as_large_as_asked() -> None:
    result = make_up_audit(SMALL)
    assert result.cohort.images == len(result.image_ids) == 60
    assert len(result.correlations) == 2
    assert len(result.task.classes) == len(result.accuracy.by_class) == 3
    assert len(result.subgroups) == 8
    assert result.discovery is not None
    assert len(result.discovery.cluster_map.clusters) == result.discovery.clusters == 30
    assert len(result.region_image) == len(result.region_boxes) == 60 * 36
    assert result.region_boxes[:, 2].max() == 48
    assert result.region_boxes[:, 3].max() == 60
    for entry in result.correlations:
        assert entry.counts
        assert entry.cluster.present.sum() == 12
        assert set(result.region_image[entry.cluster.regions]) == set(
            np.flatnonzero(entry.cluster.present)
        )


def test_the_same_seed_makes_the_same(tmp_path) -> None:
    first, again, other = make_up_audit(SMALL), make_up_audit(SMALL), make_up_audit(SMALL, 1)
    texts = [result_document(one, 10).model_dump_json() for one in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]
    write_archive(first, tmp_path)
    assert result_document(read_archive(type(first), tmp_path), 10).model_dump_json() == texts[0]


@pytest.mark.parametrize("correlations", [0, 40])
def test_nothing_found_and_more_correlations_than_films_allow(correlations: int) -> None:
    result = make_up_audit(AuditSize(20, correlations, clusters=50))
    assert len(result.correlations) == correlations
    assert result.verdict.name == ("fail" if correlations else "pass")
    ranks = [one.rank for one in result.discovery.cluster_map.clusters if one.rank]  # type: ignore[union-attr]
    assert ranks == list(range(1, correlations + 1))


def test_films_are_films() -> None:
    films = make_up_films(SMALL)
    assert {film.shape for film in films} == {(60, 48)}
    assert all(film.dtype == np.uint8 and film.std() > 10 for film in films)
    assert len({film.tobytes() for film in films}) == len(films)
