"""Entries of one's own in the information dictionary of a PDF.

reportlab writes the entries that the standard names and no others; a reader that looks for its own,
such as the model card of the Coalition for Health AI, finds them there.

References
----------
ISO 32000-1, 14.3.3 (document information dictionary).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from reportlab.pdfbase.pdfdoc import PDFDictionary, PDFDocument, PDFInfo, PDFString

__all__ = ["PropertiesInfo"]


class PropertiesInfo(PDFInfo):
    """An information dictionary with further entries beside the standard ones.

    Parameters
    ----------
    info : PDFInfo - title, author and the like
    properties : mapping of name to text - names of ASCII letters and digits
    """

    def __init__(self, info: PDFInfo, properties: Mapping[str, str]) -> None:
        super().__init__()
        self.__dict__.update(info.__dict__)
        self.properties = dict(properties)

    def digest(self, md5object: hashlib._Hash) -> None:
        """Let the file's ID depend on the further entries too."""
        super().digest(md5object)
        for name, text in self.properties.items():
            md5object.update(f"{name}={text}".encode())

    def format(self, document: PDFDocument) -> bytes:
        """Return the dictionary as it stands in the file."""
        standard: bytes = super().format(document)
        added = PDFDictionary({name: PDFString(text) for name, text in self.properties.items()})
        further: bytes = added.format(document)
        # Two dictionaries, `<< a >>` and `<< b >>`, become one.
        return standard.removesuffix(b">>") + further.removeprefix(b"<<")
