"""An earlier run of the audit, used again when it was of the same model, films and settings."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from ravl_med.config import Config
from ravl_med.evidence.claims import ConfirmedFeature
from ravl_med.evidence.rulings import Word
from ravl_med.pipeline.split_films import SplitFilms
from ravl_med.pipeline.stages import digest_cohort
from ravl_med.regions.proposal import choose_segmenter
from ravl_med.reporting.files.feature_file import read_features
from ravl_med.reporting.files.run_record import digest_regions, digest_settings

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
    PastAudit or None - None where there is no such run, or it was of something else; what a
        reviewer called the disease or a shortcut since is one
    """
    if folder is None:
        return None
    wanted = {
        "model": model_digest,
        "cohort": digest_cohort(films.kept.digests, films.cohort.labels),
        "settings": digest_settings(config),
        "regions": digest_regions(films.kept.boxes, films.region_image),
        "segmenter": choose_segmenter(config.regions).digest,
    }
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if any(record["digests"].get(name) != digest for name, digest in wanted.items()):
            return None
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        ruled = {r["rank"]: r["word"] for r in result.get("rulings", ()) if r["in_force"]}
        features = read_features(folder / "private" / "features.npz")
        decided = tuple(_follow(feature, ruled.get(feature.rank)) for feature in features)
        return PastAudit(str(result["verdict"]), decided)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _follow(feature: ConfirmedFeature, word: Word | None) -> ConfirmedFeature:
    """Return a feature as a reviewer sees it; what is accepted for a time stays what it is."""
    if word == "shortcut":
        return replace(feature, kind="shortcut", counts=True)
    return replace(feature, kind="plausible_sign") if word == "disease" else feature
