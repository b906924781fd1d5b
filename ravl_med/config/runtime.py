"""Sections of the cache, the engine and object storage; credentials have no place in them."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ravl_med.config.base import ConfigLocation, ConfigPath, Section
from ravl_med.storage.remote import StorageAccess


class CacheConfig(Section):
    """The store of results between runs, readable by its owner alone."""

    folder: ConfigPath | None = Field(
        None, description="null: ravl-med in the user's own cache folder"
    )
    embeddings: bool = Field(
        True,
        description="keep films at the model's resolution, for their owner alone, and their "
        "embeddings, so that the same films are not embedded twice; and what a segmenter finds on "
        "films that are changed",
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


class EngineConfig(Section):
    """The workers that films, regions and counterfactuals are given to; no number changes."""

    kind: Literal["local", "ray"] = Field(
        "local", description="processes of this machine; or Ray (pip install '.[ray]')"
    )
    workers: int = Field(
        0,
        ge=0,
        le=10_000,
        description="processes that each hold the model, in model.threads threads (null: one); 0: "
        "the run's own process does the work",
    )
    address: str | None = Field(
        None,
        pattern=r"^(auto|(ray://)?[A-Za-z0-9.-]{1,253}:\d{1,5})$",
        description="of a Ray cluster: ray://HOST:PORT, HOST:PORT of its head, or auto; null: Ray "
        "is started on this machine, on the loopback alone, and ends with the run",
    )
    gpus_per_worker: float = Field(
        0.0, ge=0.0, le=64.0, description="of Ray; a share such as 0.5 puts two workers on a GPU"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "local" and (self.address is not None or self.gpus_per_worker):
            stray = "address" if self.address is not None else "gpus_per_worker"
            raise ValueError(f"{stray} is of Ray; set kind to ray, or leave it out")
        if self.kind == "ray" and not self.workers:
            raise ValueError("kind ray needs workers, 1 or more")
        if self.gpus_per_worker > 1.0 and not self.gpus_per_worker.is_integer():
            raise ValueError(
                f"gpus_per_worker is {self.gpus_per_worker:g}; expected a share of one GPU, or a "
                "whole number of them"
            )
        return self


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
        """Return the section as `RemotePath` takes it."""
        return StorageAccess(self.endpoint, self.timeout, self.retries)
