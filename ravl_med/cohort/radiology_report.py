"""Radiology reports: the text that goes with a film."""

from __future__ import annotations

import re

from ravl_med.errors import DataError
from ravl_med.storage.files import local_copy
from ravl_med.storage.filesystems import TooLargeError
from ravl_med.storage.remote_path import FilePath

__all__ = ["impression_of", "read_radiology_report"]

_MAX_BYTES = 1_000_000
_IMPRESSION = re.compile(r"\bimpression\s*:", re.IGNORECASE)


def read_radiology_report(path: FilePath) -> str:
    """Read a report kept as a text file.

    Parameters
    ----------
    path : Path or RemotePath
        UTF-8 text, at most 1 MB.

    Raises
    ------
    DataError
        The file is missing, too large or not text. The message does not name the file.
    ConfigError, StorageError
        It lies in a storage that denies access, or does not answer.
    """
    try:
        with local_copy(path, _MAX_BYTES) as file:
            if file.stat().st_size > _MAX_BYTES:
                raise TooLargeError(file.stat().st_size)
            return file.read_text(encoding="utf-8-sig").strip()
    except TooLargeError:
        raise DataError(
            "report_path: the file is over 1 MB; expected the text of one report."
        ) from None
    except (FileNotFoundError, NotADirectoryError):
        raise DataError("report_path: no such file. Paths are relative to the manifest.") from None
    except UnicodeDecodeError:
        raise DataError("report_path: not UTF-8 text. Convert the file.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"report_path: cannot be read ({type(error).__name__}).") from None


def impression_of(text: str) -> str:
    """Return the section after IMPRESSION, or the whole text where there is none.

    Parameters
    ----------
    text : str - a radiology report, in any line layout
    """
    tail = _IMPRESSION.split(text)[-1]
    return " ".join((tail if tail.strip() else text).split())
