"""Pixel Data of one DICOM frame: which package decodes it, and what is refused before decoding.

References
----------
DICOM PS3.5 A.4 (encapsulated pixel data), PS3.6 A (transfer syntaxes); ITU-T T.81 B.2.2 (frame
header of JPEG), T.800 A.5.1 (SIZ marker of JPEG 2000).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGExtended12Bit,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from ravl_med.errors import ImageError

_HTJ2K = tuple(UID(f"1.2.840.10008.1.2.4.20{n}") for n in (1, 2, 3))
_J2K_FAMILY = (*JPEG2000TransferSyntaxes, *_HTJ2K)


@dataclass(frozen=True, slots=True)
class Decoder:
    """The decoder of a transfer syntax."""

    uid: str
    plugin: str = ""  # of pydicom; blank where pydicom needs none
    package: str = "pydicom"  # that brings the plugin, as pip calls it


DECODERS: tuple[Decoder, ...] = (
    Decoder("1.2.840.10008.1.2"),
    Decoder("1.2.840.10008.1.2.1"),
    Decoder("1.2.840.10008.1.2.1.99"),
    Decoder("1.2.840.10008.1.2.2"),
    Decoder("1.2.840.10008.1.2.5", "pydicom"),
    Decoder("1.2.840.10008.1.2.4.50", "pillow", "pillow"),
    Decoder("1.2.840.10008.1.2.4.51", "gdcm", "python-gdcm"),
    Decoder("1.2.840.10008.1.2.4.57", "gdcm", "python-gdcm"),
    Decoder("1.2.840.10008.1.2.4.70", "gdcm", "python-gdcm"),
    Decoder("1.2.840.10008.1.2.4.80", "pyjpegls", "pyjpegls"),
    Decoder("1.2.840.10008.1.2.4.81", "pyjpegls", "pyjpegls"),
    Decoder("1.2.840.10008.1.2.4.90", "pylibjpeg", "pylibjpeg-openjpeg"),
    Decoder("1.2.840.10008.1.2.4.91", "pylibjpeg", "pylibjpeg-openjpeg"),
    *(Decoder(uid, "pylibjpeg", "pylibjpeg-openjpeg") for uid in _HTJ2K),
)
"""The transfer syntaxes that can be read, each with its preferred decoder."""

_BY_UID: Mapping[str, Decoder] = {decoder.uid: decoder for decoder in DECODERS}


def decoder_of(syntax: str) -> tuple[str, bool]:
    """Return the package that decodes a transfer syntax, blank if none, and whether it is there."""
    known = _BY_UID.get(str(syntax))
    try:
        available = bool(get_decoder(UID(str(syntax))).is_available)
    except NotImplementedError:
        available = False
    if syntax == JPEGExtended12Bit:  # others decode 8 bits of it
        available = find_spec("gdcm") is not None
    return known.package if known else "", available


def decode_frame(dataset: pydicom.Dataset, frame: int) -> tuple[NDArray[Any], str]:
    """Decode one frame, from 0, as stored values (H, W) or RGB (H, W, 3) and what they mean.

    Raises
    ------
    ImageError
        ``no_decoder``, ``truncated``, ``bad_geometry``, ``undecodable``.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    package, available = decoder_of(syntax or "")
    if syntax and not available:
        raise _no_decoder(syntax, package)
    try:
        if syntax and UID(syntax).is_encapsulated:
            _check_codestream(dataset, syntax, frame)
        if syntax == JPEGExtended12Bit and int(dataset.BitsStored) > 8:
            return _decode_extended(dataset, frame)
        decoder = get_decoder(syntax)
        plugin = _BY_UID[syntax].plugin
        stored, described = decoder.as_array(
            dataset,
            index=frame,
            decoding_plugin=plugin if plugin in decoder.available_plugins else "",
        )
        return np.asarray(stored), str(described["photometric_interpretation"])
    except ImageError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many types on hostile streams
        raise ImageError(
            "undecodable", f"Pixel Data cannot be decoded ({type(error).__name__}); truncated?"
        ) from None


def _no_decoder(syntax: str, package: str) -> ImageError:
    name = getattr(UID(syntax), "name", "unknown")
    cure = (
        f"Install it: pip install {package}"
        if package
        else "Convert the file to an uncompressed syntax, or exclude it."
    )
    missing = f"package {package} is missing" if package else "no package is known that decodes it"
    return ImageError("no_decoder", f"transfer syntax {syntax} ({name}): {missing}. {cure}")


def _check_codestream(dataset: pydicom.Dataset, syntax: str, frame: int) -> None:
    """Compare the size that a compressed frame claims with the header, and look for its end."""
    if syntax not in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *_J2K_FAMILY):
        return
    stream = _frame_bytes(dataset, frame)
    claimed = _j2k_size(stream) if syntax in _J2K_FAMILY else _jpeg_size(stream)
    header = (int(dataset.Rows), int(dataset.Columns))
    if claimed is not None and claimed != header:
        raise ImageError(
            "bad_geometry",
            f"the compressed image is {claimed[0]} x {claimed[1]}; expected {header[0]} x "
            f"{header[1]} as (0028,0010) Rows x Columns says.",
        )
    if not stream.rstrip(b"\0\xff").endswith(b"\xff\xd9") and b"\xff\xd9" not in stream[-64:]:
        raise ImageError(
            "truncated", "Pixel Data ends before the end of its image; export the file again."
        )


def _frame_bytes(dataset: pydicom.Dataset, frame: int) -> bytes:
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    table = None
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        table = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    data = dataset.PixelData
    return bytes(get_frame(data, frame, number_of_frames=count, extended_offsets=table))


def _jpeg_size(stream: bytes) -> tuple[int, int] | None:
    """Return rows and columns of the frame header (SOF0 to SOF15, SOF55 of JPEG-LS)."""
    at = 2
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        marker, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return (
                int.from_bytes(stream[at + 5 : at + 7], "big"),
                int.from_bytes(stream[at + 7 : at + 9], "big"),
            )
        at += 1 if marker == 0xFF else 2 + length  # 0xFF may be repeated as filling
    return None


def _j2k_size(stream: bytes) -> tuple[int, int] | None:
    """Return rows and columns of the SIZ marker, which comes first in a codestream."""
    start = stream.find(b"\xff\x4f\xff\x51", 0, 1024)  # a JP2 header may go before it
    if start < 0 or len(stream) < start + 24:
        return None
    right, bottom, left, top = (
        int.from_bytes(stream[start + at : start + at + 4], "big") for at in (8, 12, 16, 20)
    )
    return bottom - top, right - left


def _decode_extended(dataset: pydicom.Dataset, frame: int) -> tuple[NDArray[Any], str]:
    """Decode 12-bit JPEG by GDCM itself, since pydicom's plugin refuses what GDCM decodes."""
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(_frame_bytes(dataset, frame))
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    rows, columns, bits = int(dataset.Rows), int(dataset.Columns), int(dataset.BitsStored)
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    photometric = str(dataset.PhotometricInterpretation)
    kind = gdcm.PhotometricInterpretation.GetPIType(photometric)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(JPEGExtended12Bit)))
    image.SetPixelFormat(
        gdcm.PixelFormat(1, 16, bits, bits - 1, int(dataset.get("PixelRepresentation", 0)))
    )
    data = image.GetBuffer().encode("utf-8", "surrogateescape")
    if int(dataset.SamplesPerPixel) != 1 or len(data) != 2 * rows * columns:
        raise ValueError("not a frame of this size")
    return np.frombuffer(data, "<u2").reshape(rows, columns), photometric
