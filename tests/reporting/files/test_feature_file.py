"""Features of an audit, kept for a mitigation that follows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ravl_med.discovery.candidates import FeatureDetector
from ravl_med.evidence.results import ConfirmedFeature
from ravl_med.reporting.files.tables import read_features, write_features


def features() -> list[ConfirmedFeature]:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 5, 3)).astype(np.float32)
    return [
        ConfirmedFeature(1, "shortcut", True, FeatureDetector(first, 4, 0, 2)),
        ConfirmedFeature(3, "plausible_sign", False, FeatureDetector(second, 0, 1, None, place=17)),
        ConfirmedFeature(4, "undecided", True, FeatureDetector(first, 2, 2, 0)),
        ConfirmedFeature(5, "undecided", False, FeatureDetector(first, 1, 2, 0), confirmed=False),
    ]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    write_features(path, features())
    assert path.stat().st_mode & 0o777 == 0o600
    for told, kept in zip(features(), read_features(path), strict=True):
        assert (told.rank, told.kind, told.counts) == (kept.rank, kept.kind, kept.counts)
        assert told.confirmed == kept.confirmed
        np.testing.assert_array_equal(told.detector.medoids, kept.detector.medoids)
        assert told.detector.label == kept.detector.label
        assert told.detector.raised_class == kept.detector.raised_class
        assert told.detector.lowered_class == kept.detector.lowered_class
        assert told.detector.place == kept.detector.place
    with np.load(path, allow_pickle=False) as kept_arrays:  # equal medoids once
        assert sum(name.startswith("medoids_") for name in kept_arrays.files) == 2


def test_features_of_older_audits_were_all_confirmed(tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    write_features(path, features()[:1])
    with np.load(path, allow_pickle=False) as kept:
        np.savez(path, **{**kept, "table": kept["table"][:, :8]})
    (feature,) = read_features(path)
    assert feature.confirmed


def test_no_feature_is_a_file_too(tmp_path: Path) -> None:
    write_features(tmp_path / "features.npz", [])
    assert read_features(tmp_path / "features.npz") == ()


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", table=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="not the values that its header says"):
        read_features(tmp_path / "bad.npz")
