"""An earlier run of the audit, used again when it was of the same model, films and settings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ravl_med.config import Config
from ravl_med.evidence.claims import ConfirmedFeature
from ravl_med.pipeline.split_films import SplitFilms
from ravl_med.pipeline.stages import digest_cohort
from ravl_med.reporting.feature_file import read_features
from ravl_med.reporting.run_record import digest_regions, digest_settings

__all__ = ["PastAudit", "find_past_audit"]


@dataclass(frozen=True, slots=True, eq=False)
class PastAudit:
    """What a mitigation needs of an audit: its verdict, and what it confirmed."""

    verdict: str
    features: tuple[ConfirmedFeature, ...]


def find_past_audit(
    folder: Path | None, config: Config, model_digest: str, films: SplitFilms
) -> PastAudit | None:
    """Return an earlier audit when model, films, labels, regions and settings are the same.

    Parameters
    ----------
    folder : Path or None - run folder
    config : Config
    model_digest : str
    films : SplitFilms - of the audited split

    Returns
    -------
    PastAudit or None - None where there is no such run, or it was of something else
    """
    if folder is None:
        return None
    wanted = {
        "model": model_digest,
        "cohort": digest_cohort(films.embeddings.digests, films.cohort.labels),
        "settings": digest_settings(config),
        "regions": digest_regions(films.embeddings.region_boxes, films.embeddings.region_image),
    }
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if any(record["digests"].get(name) != digest for name, digest in wanted.items()):
            return None
        verdict = json.loads((folder / "result.json").read_text(encoding="utf-8"))["verdict"]
        return PastAudit(str(verdict), read_features(folder / "private" / "features.npz"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
