"""What a client's certificate says of it: the names that `verify_and_map` tries.

The names come in the order in which nats-server tries them (sheet 7): e-mail addresses, DNS names
and URIs of the subject alternative name, then the distinguished name.
"""

import datetime
from collections.abc import Iterator, Sequence

from cryptography import x509
from cryptography.x509.oid import NameOID

_SHORT_NAMES = {
    NameOID.COMMON_NAME: "CN",
    NameOID.COUNTRY_NAME: "C",
    NameOID.LOCALITY_NAME: "L",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.STREET_ADDRESS: "STREET",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.SERIAL_NUMBER: "SERIALNUMBER",
    NameOID.POSTAL_CODE: "POSTALCODE",
    NameOID.DOMAIN_COMPONENT: "DC",
    NameOID.USER_ID: "UID",
}


def end_of(pem: bytes) -> datetime.datetime:
    """Until when the first certificate of a PEM text is valid."""
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def user_of(certificate: bytes, users: Sequence[str]) -> str | None:
    """The first configured user that a DER certificate names, or None."""
    known = set(users)
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        for name in _alternative_names(parsed):
            if name in known:
                return name
        parts = _parts(parsed.subject)
    except ValueError:  # a name in it cannot be read
        return None
    wanted = frozenset(parts)
    for user in users:
        if "=" in user and frozenset(_parts_of_text(user)) == wanted:
            return user
    plain = ",".join(f"{key}={value}" for key, value in reversed(parts) if key != "DC")
    return plain if plain in known else None


def _alternative_names(certificate: x509.Certificate) -> Iterator[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    yield from names.get_values_for_type(x509.RFC822Name)
    yield from names.get_values_for_type(x509.DNSName)
    yield from names.get_values_for_type(x509.UniformResourceIdentifier)


def _parts(name: x509.Name) -> list[tuple[str, str]]:
    return [
        (_SHORT_NAMES.get(item.oid, item.oid.dotted_string), str(item.value))
        for part in name.rdns
        for item in part
    ]


def _parts_of_text(text: str) -> list[tuple[str, str]]:
    """A distinguished name as text (RFC 4514), in parts; empty when it is none."""
    try:
        return _parts(x509.Name.from_rfc4514_string(text))
    except ValueError:
        return []
