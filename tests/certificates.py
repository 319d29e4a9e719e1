"""Certificates for servers on this machine."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path


class Identity(NamedTuple):
    """What a server shows, and what a client needs to trust it, as files."""

    certificate: str
    key: str
    authority: str

    def context(self) -> ssl.SSLContext:
        """Give the server's side of TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def issue(folder: Path, *addresses: str, days: int = 1) -> Identity:
    """Make an authority, and a certificate by it for IP addresses that is valid for so many days."""
    now = datetime.now(UTC)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name, name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("authority", "server"))
    authority = (
        _builder(authority_name, authority_name, authority_key, now + timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(text)) for text in addresses])
    certificate = (
        _builder(name, authority_name, key, now + timedelta(days=days))
        .add_extension(names, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    files = Identity(*(str(folder / part) for part in ("certificate.pem", "key.pem", "authority.pem")))
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "authority.pem").write_bytes(authority.public_bytes(Encoding.PEM))
    return files


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(until - timedelta(days=20))
        .not_valid_after(until)
    )
