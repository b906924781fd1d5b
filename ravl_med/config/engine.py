"""The section of the engine: who does the work, in how many processes, on which machines."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ravl_med.config.base import Section

__all__ = ["EngineConfig"]


class EngineConfig(Section):
    """What films, regions and counterfactuals are spread over; it changes no number."""

    kind: Literal["local", "ray"] = Field(
        "local", description="processes of this machine; or Ray (pip install 'ravl-med[ray]')"
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
