"""The section of the cache: where it lies, and whether embeddings are kept in it."""

from __future__ import annotations

from pydantic import Field

from ravl_med.config.base import ConfigPath, Section

__all__ = ["CacheConfig"]


class CacheConfig(Section):
    """What is kept between runs; all of it is readable by its owner alone."""

    folder: ConfigPath | None = Field(
        None, description="null: ravl-med in the user's own cache folder"
    )
    embeddings: bool = Field(
        True, description="keep embeddings, so that the same films are not embedded twice"
    )
