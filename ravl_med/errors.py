"""Every deliberate error of the tool, as one tree.

    RavlMedError                  exit code 4
    ├── ConfigError               exit code 2   a config file, a flag or a value in it
    ├── DataError                 exit code 3   a manifest, a film, a report, a label
    │   └── ImageError            exit code 3   one film; the cohort sets it aside
    ├── ModelError                exit code 2   a checkpoint that is not one, or does not fit
    ├── EngineError               exit code 4   workers that died, a cluster that does not answer
    └── StorageError              exit code 4   a storage that does not answer, or is gone

A message says what, where, got, allowed and cure. It never carries a patient's name, ID, UID,
date or file path: file names carry names. An image is named by its manifest row and pseudonym.
"""

from __future__ import annotations

from typing import ClassVar


class RavlMedError(Exception):
    """An error that the tool raises on purpose, with a message for its user."""

    exit_code: ClassVar[int] = 4


class ConfigError(RavlMedError):
    """The config file, a flag, or a value in them cannot be used."""

    exit_code: ClassVar[int] = 2


class DataError(RavlMedError):
    """The cohort cannot be used as it stands."""

    exit_code: ClassVar[int] = 3


class ImageError(DataError):
    """One film cannot be read.

    Parameters
    ----------
    reason : str
        Short code for the intake table, for example ``truncated`` or ``no_pixel_data``.
    message : str
        The line for the user.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ModelError(RavlMedError):
    """The model cannot be opened, or is not what the config says."""

    exit_code: ClassVar[int] = 2


class EngineError(RavlMedError):
    """The workers, or the cluster that they were to run on, did not do their work."""


class StorageError(RavlMedError):
    """The storage that files lie in gave no answer; a file in it may be as good as any."""
