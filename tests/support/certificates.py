"""Certificates for tests: one authority, servers and clients it vouches for, and a stranger."""

import datetime
import ipaddress
import ssl
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


class Issued:
    """One certificate and its key, as files."""

    def __init__(self, directory: Path, name: str) -> None:
        self.certificate = directory / f"{name}.pem"
        self.key = directory / f"{name}-key.pem"


class Authority:
    """Signs certificates; its own is `certificate`."""

    def __init__(self, name: str) -> None:
        self.directory = Path(mkdtemp(prefix="certificates-"))
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self.directory / "ca.pem"
        made = (
            _builder(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate.write_bytes(made.public_bytes(Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        email: str = "",
        subject: x509.Name | None = None,
        host: str = "",
        has_expired: bool = False,
    ) -> Issued:
        """A certificate for this machine or, if given, for an e-mail address, a subject or
        another host (names and addresses, with blanks between)."""
        key = ec.generate_private_key(ec.SECP256R1())
        loopback = x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))
        names: list[x509.GeneralName] = (
            [] if email or subject else [x509.DNSName("localhost"), loopback]
        )
        if host:
            names = [_name_of(each) for each in host.split()]
        if email:
            names.append(x509.RFC822Name(email))
        own = subject or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(own, self._name, key, -_DAY / 24 if has_expired else _DAY)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        issued = Issued(self.directory, name)
        issued.certificate.write_bytes(made.public_bytes(Encoding.PEM))
        issued.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return issued


def _name_of(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    valid_for: datetime.timedelta = _DAY,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + valid_for)
    )


@cache
def authority() -> Authority:
    """The authority of this test session."""
    return Authority("shardd tests")


@cache
def server() -> Issued:
    """The server's certificate."""
    return authority().issue("server")


def client_context(issued: Issued | None = None, **versions: ssl.TLSVersion) -> ssl.SSLContext:
    """What a client trusts, and shows of itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(authority().certificate)
    if issued is not None:
        context.load_cert_chain(issued.certificate, issued.key)
    for name, version in versions.items():
        setattr(context, name, version)
    return context
