"""Empty signature fields in a PDF, for whoever signs it later with a tool of their own.

pyHanko (extra ``sign``) adds them as an incremental update; it signs nothing here. Without it there
are none, and the report says that a signature comes from outside.

References
----------
ISO 32000-2:2020, 12.7.5.5 (signature fields) and 14.4 (file identifiers).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec


@dataclass(frozen=True, slots=True)
class SignatureField:
    """Where somebody may sign.

    Attributes
    ----------
    name : str - unique in the document
    tooltip : str - who signs there
    page : int - from 1
    box : (x0, y0, x1, y1) - in points, from the lower left corner of the page
    """

    name: str
    tooltip: str
    page: int
    box: tuple[float, float, float, float]


@cache
def can_sign() -> bool:
    """Return whether pyHanko is installed."""
    return find_spec("pyhanko") is not None and find_spec("pyhanko.sign") is not None


def add_signature_fields(document: bytes, fields: Sequence[SignatureField]) -> bytes:
    """Return a PDF with empty signature fields; without any it stays as it is.

    Parameters
    ----------
    document : bytes - of a PDF

    Returns
    -------
    bytes - the same input gives the same bytes
    """
    if not fields:
        return document
    from pyhanko.pdf_utils.generic import ArrayObject, ByteStringObject
    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
    from pyhanko.sign.fields import SigFieldSpec, append_signature_field

    writer = IncrementalPdfFileWriter(io.BytesIO(document))
    for field in fields:
        spec = SigFieldSpec(
            field.name,
            field.page - 1,
            tuple(map(round, field.box)),
            readable_field_name=field.tooltip,
        )
        append_signature_field(writer, spec)
    # Left to itself it writes a random identifier and the time of day. The standard proposes a
    # digest of the content for the one, and the other is the business of who signs.
    changed = ByteStringObject(hashlib.sha256(document).digest()[:16])
    writer._document_id = ArrayObject([writer._document_id[0], changed])
    writer._update_meta = lambda: None
    stream = io.BytesIO()
    writer.write(stream)
    return stream.getvalue()
