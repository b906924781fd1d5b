"""Signature fields: empty, where they belong, the same bytes each time; signed and validated."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pypdf
import pytest
from html_reading import read_html

from ravl_med.evidence.audit_result import AuditResult
from ravl_med.reporting.audit.report import write_report
from ravl_med.reporting.layout.blocks import SignOff, Text, Title
from ravl_med.reporting.layout.pdf import draw_pdf
from ravl_med.reporting.layout.pdf_style import SignatureField, add_signature_fields, can_sign

pytestmark = pytest.mark.skipif(
    find_spec("pyhanko") is None, reason="pyHanko is not installed: `pip install '.[sign]'`"
)

ROLES = ("Validation engineer", "Radiologist", "Person responsible for deployment")
SLUGS = ("validation_engineer", "radiologist", "person_responsible_for_deployment")


def document(*, signable: bool = True) -> bytes:
    blocks = [Title("Report", "below"), Text("What is signed."), SignOff(ROLES, signable=signable)]
    return draw_pdf(blocks, "run", "title", "subject")


def signatures(content: bytes) -> dict[str, Any]:
    fields = pypdf.PdfReader(io.BytesIO(content)).get_fields() or {}
    return {name: field for name, field in fields.items() if field["/FT"] == "/Sig"}


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Somebody with a certificate that is their own authority, for this test alone."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from pyhanko.sign.signers import SimpleSigner

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test signer")])
    start = datetime.now(UTC) - timedelta(days=1)
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=True, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("signer")
    encoding = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(encoding))
    (folder / "key.pem").write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return SimpleSigner.load(str(folder / "key.pem"), str(folder / "certificate.pem"))


def signed(content: bytes, field: str, signer: Any) -> bytes:
    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
    from pyhanko.sign import signers

    writer = IncrementalPdfFileWriter(io.BytesIO(content))
    meta = signers.PdfSignatureMetadata(field_name=field)
    made = signers.sign_pdf(writer, meta, signer, existing_fields_only=True)
    return bytes(made.getvalue())


def validated(content: bytes, signer: Any) -> dict[str, Any]:
    """Field to status, of every signature in a document."""
    from pyhanko.pdf_utils.reader import PdfFileReader
    from pyhanko.sign.validation import validate_pdf_signature
    from pyhanko_certvalidator import ValidationContext

    reader = PdfFileReader(io.BytesIO(content))
    context = ValidationContext(trust_roots=[signer.signing_cert], allow_fetching=False)
    return {
        found.field_name: validate_pdf_signature(found, context)
        for found in reader.embedded_signatures
    }


def test_it_is_found_where_it_is_installed() -> None:
    assert can_sign()


def test_each_role_has_an_empty_field() -> None:
    content = document()
    fields = signatures(content)
    assert set(fields) == {f"{slug}_signature" for slug in SLUGS}
    assert not any(field.get("/V") for field in fields.values())
    assert fields["radiologist_signature"]["/TU"] == "Signature: Radiologist"
    page = pypdf.PdfReader(io.BytesIO(content)).pages[0]
    areas = [tuple(map(float, note.get_object()["/Rect"])) for note in page["/Annots"]]
    assert len(areas) == 3 * 4 + 1
    for at, (x0, y0, x1, y1) in enumerate(areas):
        assert 40 < x0 < x1 < 560
        assert 50 < y0 < y1 < 800
        for a0, b0, a1, b1 in areas[at + 1 :]:
            assert x1 <= a0 or a1 <= x0 or y1 <= b0 or b1 <= y0
    assert "external signature" not in page.extract_text()


def test_fields_are_added_behind_what_was_there_and_twice_the_same() -> None:
    plain = document(signable=False)
    assert not signatures(plain)
    field = SignatureField("here", "Signature: somebody", 1, (60.2, 60.4, 160.0, 90.0))
    content = add_signature_fields(plain, [field])
    assert content.startswith(plain)
    assert content == add_signature_fields(plain, [field])
    (found,) = signatures(content).values()
    assert found["/TU"] == "Signature: somebody"
    before, after = (pypdf.PdfReader(io.BytesIO(made)) for made in (plain, content))
    assert before.metadata == after.metadata
    assert before.trailer["/ID"][0] == after.trailer["/ID"][0]
    assert before.trailer["/ID"][1] != after.trailer["/ID"][1]
    assert [p.extract_text() for p in before.pages] == [p.extract_text() for p in after.pages]


def test_without_a_field_nothing_is_changed() -> None:
    plain = document(signable=False)
    assert add_signature_fields(plain, []) is plain
    assert "external signature" in pypdf.PdfReader(io.BytesIO(plain)).pages[0].extract_text()


def test_a_report_can_be_signed_by_each_role_and_a_change_is_seen(signer: Any) -> None:
    content = document()
    for slug in SLUGS:
        content = signed(content, f"{slug}_signature", signer)
    found = validated(content, signer)
    assert set(found) == {f"{slug}_signature" for slug in SLUGS}
    for status in found.values():
        assert status.bottom_line
        assert status.intact
        assert status.trusted
    where = content.index(b"/Title")
    changed = content[: where + 1] + b"E" + content[where + 2 :]
    assert not any(status.bottom_line for status in validated(changed, signer).values())


def test_a_name_can_be_filled_in_and_then_signed(signer: Any) -> None:
    writer = pypdf.PdfWriter(io.BytesIO(document()), incremental=True)
    writer.update_page_form_field_values(writer.pages[0], {"radiologist_name": "R. Ray"})
    stream = io.BytesIO()
    writer.write(stream)
    content = signed(stream.getvalue(), "radiologist_signature", signer)
    (status,) = validated(content, signer).values()
    assert status.bottom_line
    fields = pypdf.PdfReader(io.BytesIO(content)).get_fields() or {}
    assert fields["radiologist_name"]["/V"] == "R. Ray"


def test_an_audit_says_so_on_paper_and_in_the_browser(
    null_result: AuditResult, film, details, tmp_path: Path
) -> None:
    final = replace(null_result, to_decide=())
    write_report(final, film, details, tmp_path)
    content = (tmp_path / "report.pdf").read_bytes()
    assert len(signatures(content)) == 3
    told = "in the signature field of your role with any tool that signs PDF files"
    pages = [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(content)).pages]
    (signing,) = [page for page in pages if page.startswith("Sign-off")]
    assert told in " ".join(signing.split())
    reader = read_html((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert told in reader.text
    write_report(final, film, details, tmp_path)
    assert (tmp_path / "report.pdf").read_bytes() == content
    write_report(replace(null_result, to_decide=(1, 2)), film, details, tmp_path)
    assert not signatures((tmp_path / "report.pdf").read_bytes())
