"""The section of the cache: where it lies, and whether embeddings are kept in it."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from ravl_med.config.base import ConfigLocation, ConfigPath, Section

__all__ = ["CacheConfig"]


class CacheConfig(Section):
    """What is kept between runs; all of it is readable by its owner alone."""

    folder: ConfigPath | None = Field(
        None, description="null: ravl-med in the user's own cache folder"
    )
    embeddings: bool = Field(
        True, description="keep embeddings, so that the same films are not embedded twice"
    )
    shared: ConfigLocation | None = Field(
        None,
        description="folder or URL that embeddings are put into as well, and taken from, so that "
        "machines without a common file system share them; null: none",
    )

    @model_validator(mode="after")
    def _kept(self) -> Self:
        if self.shared is not None and not self.embeddings:
            raise ValueError("shared needs embeddings that are kept; set embeddings to true")
        return self
