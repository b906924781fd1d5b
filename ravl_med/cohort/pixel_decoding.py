"""Pixel Data of one DICOM frame: which package decodes it, and what is refused before decoding.

References
----------
DICOM PS3.5 A.4 (encapsulated pixel data), PS3.6 A (transfer syntaxes); ITU-T T.81 B.2.2 (frame
header of JPEG), T.800 A.5.1 (SIZ marker of JPEG 2000).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    JPEGBaseline8Bit,
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
    _require_decoder(syntax)
    try:
        if UID(syntax).is_encapsulated:
            _check_codestream(dataset, syntax, frame)
        elif "HighBit" in dataset and dataset.HighBit != dataset.BitsStored - 1:  # PS3.5 8.1.1
            raise ImageError(
                "undecodable",
                f"(0028,0102) High Bit is {dataset.HighBit} with {dataset.BitsStored} bits stored; "
                f"expected {dataset.BitsStored - 1}, else nothing says which bits hold the film.",
            )
        if syntax == JPEGExtended12Bit and int(dataset.BitsStored) > 8:
            return _decode_extended(dataset, frame)
        decoder = get_decoder(syntax)
        plugin = _BY_UID[syntax].plugin
        stored, described = decoder.as_array(
            dataset,
            index=frame,
            decoding_plugin=plugin if plugin in decoder.available_plugins else "",
        )
        if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
            require_whole_jpeg(_frame_bytes(dataset, frame), np.asarray(stored))
        return np.asarray(stored), str(described["photometric_interpretation"])
    except ImageError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many types on hostile streams
        raise ImageError(
            "undecodable", f"Pixel Data cannot be decoded ({type(error).__name__}); truncated?"
        ) from None


def _require_decoder(syntax: str | None) -> None:
    if not syntax:
        raise ImageError(
            "undecodable",
            "(0002,0010) Transfer Syntax UID is missing, which says how Pixel Data are coded. "
            "Export the file again.",
        )
    package, available = decoder_of(syntax)
    if not available:
        raise _no_decoder(syntax, package)


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
    stored = np.frombuffer(data, "<u2").reshape(rows, columns)
    require_whole_jpeg(_frame_bytes(dataset, frame), stored)
    return stored, photometric


_ENDS_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2


@dataclass(slots=True)
class _Scan:
    """One scan of a JPEG: its components as (h, v, DC table, AC table), and its coded bytes."""

    parts: Sequence[tuple[int, int, Mapping[int, int], Mapping[int, int]]]
    band: tuple[int, int, int]  # first and last coefficient, and the bits that are left for later
    interval: int  # MCUs between two restarts; 0: none
    coded: bytes


@dataclass(slots=True)
class _Jpeg:
    """The headers of a JPEG."""

    kind: int = 0  # of the frame header, SOF0 to SOF2
    depth: int = 8
    size: tuple[int, int] = (0, 0)
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)  # of each component
    scans: list[_Scan] = field(default_factory=list)


def require_whole_jpeg(stream: bytes, decoded: NDArray[Any]) -> None:
    """Refuse a JPEG whose coded data end before its image, although an end marker follows.

    Decoders of libjpeg fill what is missing with the middle grey and only warn. So the last block
    says whether anything may be missing; only where it is grey the coded blocks are counted.

    Parameters
    ----------
    decoded : ndarray of shape (H, W) or (H, W, 3) - what a decoder has made of it

    Raises
    ------
    ImageError
        ``truncated``.
    """
    try:
        jpeg = _parse_jpeg(stream)
    except (IndexError, KeyError, ValueError):  # headers that libjpeg read otherwise
        return
    if not jpeg.scans:
        return
    if jpeg.kind == _PROGRESSIVE:
        whole = _is_refined(jpeg) and not _ends_grey(jpeg, decoded)
    else:
        whole = all(_has_restarts(jpeg, scan) for scan in jpeg.scans) and (
            not _ends_grey(jpeg, decoded)
            or all(_count_units(jpeg, scan) >= _units_of(jpeg, scan) for scan in jpeg.scans)
        )
    if not whole:
        raise ImageError(
            "truncated", "the compressed image ends before its last rows; export the file again."
        )


def _parse_jpeg(stream: bytes) -> _Jpeg:
    """Read the headers of a JPEG of Huffman codes; any other has no scans."""
    jpeg, at, interval = _Jpeg(), 2, 0
    tables: dict[int, dict[int, int]] = {}
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD7:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            break
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        body = stream[at + 4 : at + 2 + length]
        at += 2 + length
        if marker in (*_SEQUENTIAL, _PROGRESSIVE):
            _read_frame(jpeg, marker, body)
        elif marker == 0xC4:
            tables |= _read_tables(body)
        elif marker == 0xDD:
            interval = int.from_bytes(body[:2], "big")
        elif marker == 0xDA and jpeg.kind:
            end = _ENDS_SCAN.search(stream, at)
            coded = stream[at : end.start() if end else len(stream)]
            jpeg.scans.append(_read_scan(jpeg, body, tables, interval, coded))
            at += len(coded)
    return jpeg


def _read_frame(jpeg: _Jpeg, kind: int, body: bytes) -> None:
    jpeg.kind, jpeg.depth = kind, body[0]
    jpeg.size = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    for at in range(6, 6 + 3 * body[5], 3):
        jpeg.sampling[body[at]] = (body[at + 1] >> 4, body[at + 1] & 15)


def _read_scan(
    jpeg: _Jpeg, body: bytes, tables: Mapping[int, dict[int, int]], interval: int, coded: bytes
) -> _Scan:
    count = body[0]
    parts = []
    for at in range(1, 1 + 2 * count, 2):
        dc, ac = tables.get(body[at + 1] >> 4, {}), tables.get(16 | (body[at + 1] & 15), {})
        parts.append((*jpeg.sampling[body[at]], dc, ac))
    first, last, bits = body[1 + 2 * count : 4 + 2 * count]
    return _Scan(parts, (first, last, bits & 15), interval, coded)


def _read_tables(body: bytes) -> dict[int, dict[int, int]]:
    """Return Huffman tables by class and number: of a 1 before the code to the value."""
    tables: dict[int, dict[int, int]] = {}
    while body:
        counts, values = body[1:17], iter(body[17:])
        code, table = 1, {}
        for count in counts:
            code <<= 1
            for _ in range(count):
                table[code] = next(values)
                code += 1
        tables[body[0]] = table
        body = body[17 + sum(counts) :]
    return tables


def _units_of(jpeg: _Jpeg, scan: _Scan) -> int:
    """Return the MCUs of a scan."""
    most_h = max(h for h, _ in jpeg.sampling.values())
    most_v = max(v for _, v in jpeg.sampling.values())
    height, width = jpeg.size
    if len(scan.parts) == 1:  # a block is a unit then
        h, v = scan.parts[0][:2]
        return math.ceil(width * h / most_h / 8) * math.ceil(height * v / most_v / 8)
    return math.ceil(width / (8 * most_h)) * math.ceil(height / (8 * most_v))


def _has_restarts(jpeg: _Jpeg, scan: _Scan) -> bool:
    if not scan.interval:
        return True
    wanted = -(-_units_of(jpeg, scan) // scan.interval) - 1
    return len(_RESTART.findall(scan.coded)) >= wanted


def _is_refined(jpeg: _Jpeg) -> bool:
    """Return whether the scans of a progressive JPEG bring every bit of every coefficient."""
    left: dict[int, int] = {}
    for scan in jpeg.scans:
        first, last, bits = scan.band
        left |= dict.fromkeys(range(first, last + 1), bits)
    return all(left.get(at, 1) == 0 for at in (0, 1, 63))


def _ends_grey(jpeg: _Jpeg, decoded: NDArray[Any]) -> bool:
    """Return whether the last MCU has the one grey that stands for missing data."""
    most_h = max(h for h, _ in jpeg.sampling.values())
    most_v = max(v for _, v in jpeg.sampling.values())
    rows = (decoded.shape[0] - 1) % (8 * most_v) + 1
    columns = (decoded.shape[1] - 1) % (8 * most_h) + 1
    if (most_h, most_v) != (1, 1):  # colours of the neighbours reach two pixels into it
        rows, columns = max(1, rows - 2), max(1, columns - 2)
    return bool((decoded[-rows:, -columns:] == 1 << (jpeg.depth - 1)).all())


def _count_units(jpeg: _Jpeg, scan: _Scan) -> int:
    """Count the MCUs that the coded bytes of a sequential scan hold."""
    single = len(scan.parts) == 1
    blocks = [(dc, ac) for h, v, dc, ac in scan.parts for _ in range(1 if single else h * v)]
    total = 0
    for segment in _RESTART.split(scan.coded):
        most = scan.interval or _units_of(jpeg, scan)
        total += _count_in_segment(segment.replace(b"\xff\x00", b"\xff"), blocks, most)
    return total


def _count_in_segment(
    data: bytes, blocks: Sequence[tuple[Mapping[int, int], Mapping[int, int]]], most: int
) -> int:
    bits = _Bits(data)
    for unit in range(most):
        try:
            for dc, ac in blocks:
                bits.skip(bits.symbol(dc) & 15)
                at = 1
                while at < 64:
                    value = bits.symbol(ac)
                    if value == 0:  # the rest of the block is 0
                        break
                    bits.skip(value & 15)
                    at += 1 + (value >> 4)
        except (IndexError, KeyError):
            return unit
    return most


class _Bits:
    """Bits of coded bytes, read one Huffman code at a time; IndexError at their end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._end = data, 0, 8 * len(data)

    def skip(self, count: int) -> None:
        self._at += count
        if self._at > self._end:
            raise IndexError

    def symbol(self, table: Mapping[int, int]) -> int:
        data, at = self._data, self._at
        window = int.from_bytes(data[at >> 3 : (at >> 3) + 3].ljust(3, b"\0"), "big")
        window = (window >> (8 - (at & 7))) & 0xFFFF
        for length in range(1, 17):
            value = table.get((1 << length) | (window >> (16 - length)))
            if value is not None:
                self.skip(length)
                return value
        raise KeyError
