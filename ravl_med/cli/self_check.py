"""Check of an installation, with a cure for each fault."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from ravl_med import __version__

Status = Literal["ok", "note", "missing"]

_MARKS = {"ok": "ok     ", "note": "note   ", "missing": "MISSING"}
_WIDTH = 79
_LEAST_PYTHON = (3, 11)
_LEAST_MEMORY_GB, _LEAST_DISK_GB = 4.0, 2.0


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the installation."""

    name: str
    status: Status
    found: str
    cure: str = ""  # blank where all is well

    def lines(self) -> list[str]:
        """Return the check for a terminal of 80 columns."""
        indent = " " * len(f"{_MARKS[self.status]} ")
        wrapper = textwrap.TextWrapper(_WIDTH, subsequent_indent=indent, break_on_hyphens=False)
        lines = wrapper.wrap(f"{_MARKS[self.status]} {self.name}: {self.found}")
        if self.cure:
            wrapper.initial_indent, wrapper.subsequent_indent = indent, indent + "   "
            lines += wrapper.wrap(f"-> {self.cure}")
        return lines

    def document(self) -> dict[str, str]:
        """Return the check as plain values."""
        return asdict(self)


def check_installation() -> list[Check]:
    """Check Python, packages, decoders, device, memory and folders; name no path."""
    return [_python(), *_packages(), *_decoders(), _text(), _device(), _memory(), *_folders()]


def folded(checks: Sequence[Check]) -> list[Check]:
    """Return the checks, with the transfer syntaxes that can be decoded counted in one."""
    syntaxes = [one for one in checks if one.status == "ok" and one.name.startswith("1.2.840.")]
    left = [one for one in checks if one not in syntaxes]
    return [*left, Check("decoders", "ok", f"{len(syntaxes)} transfer syntaxes of DICOM")]


def _python() -> Check:
    found = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    if sys.version_info[:2] < _LEAST_PYTHON:
        return Check("Python", "missing", found, "install Python 3.11 or later")
    return Check("Python", "ok", found)


def _packages() -> Iterator[Check]:
    """Compare the installed packages with the requirements of this version."""
    yield Check("ravl-med", "ok", __version__)
    try:
        from packaging.requirements import Requirement

        lines = metadata.requires("ravl-med") or []
    except ImportError as error:  # PackageNotFoundError is one: run from a checkout
        yield Check("packages", "note", f"not known ({type(error).__name__})", "pip install -e .")
        return
    wanted = [Requirement(line) for line in lines]
    wanted = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    faults = 0
    for requirement in wanted:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = ""
        if version and requirement.specifier.contains(version, prereleases=True):
            continue
        faults += 1
        yield Check(
            requirement.name,
            "missing",
            f"{version or 'not installed'}; expected {requirement.specifier or 'any version'}",
            f'pip install "{requirement.name}{requirement.specifier}"',
        )
    if not faults:
        yield Check("packages", "ok", f"{len(wanted)} of {len(wanted)} that are required")


def _decoders() -> Iterator[Check]:
    """Check for each transfer syntax whether an installed package decodes it."""
    try:
        from pydicom.uid import UID

        from ravl_med.cohort.pixel_decoding import DECODERS, decoder_of
    except ImportError as error:
        yield Check("decoders", "missing", f"{error.name} is missing", f"pip install {error.name}")
        return
    for decoder in DECODERS:
        uid = UID(decoder.uid)
        package, available = decoder_of(decoder.uid)
        syntax = uid.name.partition(" (")[0].partition(", Non-")[0]  # less its process
        name = f"{uid} {syntax.replace(' Image Compression', '')}"
        if available:
            yield Check(name, "ok", package)
        else:
            yield Check(name, "missing", f"{package} is not installed", f"pip install {package}")


def _text() -> Check:
    """Check the reader of text burned into films."""
    from ravl_med.regions.burned_in_text import ocr_version

    version = ocr_version()
    if version:
        return Check("burned-in text", "ok", version)
    found = "no OCR, or without its networks; rows of letters are hidden by their shape"
    return Check("burned-in text", "missing", found, "pip install rapidocr onnxruntime")


def _device() -> Check:
    try:
        import torch
    except ImportError:
        return Check("device", "missing", "torch is not installed", "pip install torch")
    found = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        return Check("device", "ok", f"cuda: {name}, {memory:.0f} GB; {found}")
    if torch.backends.mps.is_available():
        return Check("device", "ok", f"mps; {found}")
    if shutil.which("nvidia-smi"):
        cure = "install the CUDA build of torch, as pytorch.org says"
        return Check("device", "note", f"cpu, but an NVIDIA driver is there; {found}", cure)
    return Check("device", "ok", f"cpu; {found}")


def _memory() -> Check:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):
        return Check("memory", "note", "the system does not say")
    found = f"{total:.1f} GB, {os.cpu_count()} cores"
    if total < _LEAST_MEMORY_GB:
        cure = f"expected {_LEAST_MEMORY_GB:.0f} GB; lower model.batch_size and cohort.workers"
        return Check("memory", "note", found, cure)
    return Check("memory", "ok", found)


def _folders() -> Iterator[Check]:
    try:
        import platformdirs
    except ImportError:
        yield Check("folders", "missing", "not known", "pip install platformdirs")
        return
    yield _folder("cache folder", Path(platformdirs.user_cache_dir("ravl-med")))
    yield _folder("config folder", Path(platformdirs.user_config_dir("ravl-med")))


def _folder(name: str, folder: Path) -> Check:
    """Check whether a folder can be written or made; it is not made here."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    variable = "XDG_CACHE_HOME" if "cache" in name else "XDG_CONFIG_HOME"
    if not os.access(there, os.W_OK | os.X_OK):
        cure = f"set {variable} to a folder of your own"
        return Check(name, "missing", "cannot be written", cure)
    free = shutil.disk_usage(there).free / 1e9
    found = f"can be written, {free:.1f} GB free"
    if free < _LEAST_DISK_GB:
        return Check(name, "note", found, f"expected {_LEAST_DISK_GB:.0f} GB; set {variable}")
    return Check(name, "ok", found)
