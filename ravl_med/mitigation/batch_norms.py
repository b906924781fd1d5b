"""BatchNorm: which parts of a module keep statistics of batches, and how they are kept still."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["kept_statistics", "norms_of"]


def norms_of(module: nn.Module) -> list[nn.Module]:
    """Return the parts that keep statistics of batches."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


@contextmanager
def kept_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the statistics of BatchNorm while gradients are computed.

    Where these are checkpointed, films pass the norms a second time on the way back.
    """
    kept = [
        (buffer, buffer.clone())
        for norm in norms_of(module)
        if norm.training
        for buffer in norm.buffers(recurse=False)
    ]
    yield
    for buffer, value in kept:
        buffer.copy_(value)
