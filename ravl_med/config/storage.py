"""The section of the storage: how objects are reached; credentials have no place here."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from ravl_med.config.base import Section
from ravl_med.storage.filesystems import StorageAccess

__all__ = ["StorageConfig"]

_ENDPOINT = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:\d{1,5})?(/[\w./-]*)?")


def _is_endpoint(text: str) -> str:
    if _ENDPOINT.fullmatch(text) is None:  # a password may stand in it, which is not repeated
        raise ValueError(
            "expected http://HOST:PORT or https://HOST:PORT; credentials come from the environment"
        )
    return text


class StorageConfig(Section):
    """How storages are reached that ``cohort``, ``model.path`` or ``cache.shared`` name by URL."""

    endpoint: Annotated[str, AfterValidator(_is_endpoint)] | None = Field(
        None,
        description="URL of an S3 that is not Amazon's, such as MinIO's; null: AWS_ENDPOINT_URL",
    )
    timeout: float = Field(
        20.0, gt=0.0, le=3600.0, description="seconds that a storage may take to answer"
    )
    retries: int = Field(3, ge=0, le=20, description="times that a request is tried again")

    def access(self) -> StorageAccess:
        """Return the section as storages are asked by it."""
        return StorageAccess(self.endpoint, self.timeout, self.retries)
