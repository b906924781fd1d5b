"""``private/features.npz``: the confirmed features of an audit, for a mitigation that follows.

Medoids are embeddings of regions of the audited films, so the file lies with what only its owner
may read. Arrays alone; nothing in it is ever unpickled.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ravl_med.discovery.detector import FeatureDetector
from ravl_med.evidence.claims import ConfirmedFeature, Kind

__all__ = ["read_features", "write_features"]

_KINDS: tuple[Kind, ...] = get_args(Kind)


def write_features(path: Path, features: Sequence[ConfirmedFeature]) -> None:
    """Write features so that only the owner can read them; equal medoids are kept once."""
    medoids: list[NDArray[np.float32]] = []
    table = []
    for feature in features:
        own = feature.detector.medoids
        place = next((i for i, m in enumerate(medoids) if np.array_equal(m, own)), len(medoids))
        if place == len(medoids):
            medoids.append(own)
        lowered = feature.detector.lowered_class
        table.append(
            (
                feature.rank,
                _KINDS.index(feature.kind),
                int(feature.counts),
                place,
                feature.detector.label,
                feature.detector.raised_class,
                -1 if lowered is None else lowered,
            )
        )
    content = io.BytesIO()
    arrays: Any = {f"medoids_{i}": own for i, own in enumerate(medoids)}
    np.savez(
        content,
        table=np.array(table, dtype=np.int64).reshape(-1, 7),
        threshold=np.array([f.detector.threshold for f in features], dtype=np.float64),
        **arrays,
    )
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content.getvalue())


def read_features(path: Path) -> tuple[ConfirmedFeature, ...]:
    """Read features that `write_features` has written.

    Raises
    ------
    OSError, ValueError, KeyError
        The file is missing or is not one.
    """
    with np.load(path, allow_pickle=False) as kept:
        return tuple(
            ConfirmedFeature(
                rank=rank,
                kind=_KINDS[kind],
                counts=bool(counts),
                detector=FeatureDetector(
                    medoids=kept[f"medoids_{place}"],
                    label=label,
                    raised_class=raised,
                    lowered_class=None if lowered < 0 else lowered,
                    threshold=float(threshold),
                ),
            )
            for (rank, kind, counts, place, label, raised, lowered), threshold in zip(
                kept["table"].tolist(), kept["threshold"], strict=True
            )
        )
