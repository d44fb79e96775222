"""TLS: contexts from what the configuration read, and the layer that a connection goes through.

The layer is the standard library's TLS engine over memory: bytes in, bytes out, no socket, so that
it stands in the same epoll set and the same buffers as everything else. Certificates are given as
bytes, because every process of a host has to have the same ones whatever becomes of the files.
"""

import contextlib
import hashlib
import os
import ssl
from collections.abc import Iterator
from typing import Any, Final, cast

from shardd.config.ciphers import CIPHERS, CURVES
from shardd.config.model import Tls
from shardd.errors import CloseReason, ConfigError
from shardd.layer import LayerError

# What a peer may send before its handshake is done: several times the longest chain that is
# reasonable (OpenSSL refuses one of more than 100 kB itself).
_HANDSHAKE_BYTES_MAX: Final = 262_144

# What OpenSSL calls the first bytes of a peer that speaks no TLS: another protocol's.
_PLAIN_TEXT: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST")

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def server_context(tls: Tls, *, must_verify: bool = False) -> ssl.SSLContext:
    """The context of a listener; `must_verify`: as servers do of each other, whatever `tls` says.
    Raises ConfigError for what the library refuses."""
    context = _context(tls, ssl.PROTOCOL_TLS_SERVER)
    if must_verify or tls.verify or tls.verify_and_map:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """The context of connections that this server makes. Raises ConfigError likewise."""
    context = _context(tls, ssl.PROTOCOL_TLS_CLIENT)
    if tls.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _context(tls: Tls, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = _VERSIONS[tls.minimum_version]
    # A client that goes on where it was would not show its certificate again.
    context.options |= ssl.OP_NO_TICKET
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # TLS 1.3 has tickets of another kind
    try:
        for chain, key in tls.certificates:
            with _path_of(chain) as chain_path, _path_of(key) as key_path:
                context.load_cert_chain(chain_path, key_path, password=_no_password)
        if tls.authorities:
            context.load_verify_locations(cadata=tls.authorities.decode("ascii"))
        else:
            context.load_default_certs(
                ssl.Purpose.CLIENT_AUTH
                if protocol == ssl.PROTOCOL_TLS_SERVER
                else ssl.Purpose.SERVER_AUTH
            )
        older = [CIPHERS[name] for name in tls.cipher_suites if CIPHERS[name]]
        if older:
            context.set_ciphers(":".join(older))
        if tls.curves:
            context.set_ecdh_curve(CURVES[tls.curves[0]])
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise ConfigError(f"tls: {', '.join(tls.files) or 'certificates'}: {reason}") from None
    return context


def _no_password() -> str:
    """Asked for the password of an encrypted key: there is nobody to ask."""
    raise ValueError("the private key is encrypted")


@contextlib.contextmanager
def _path_of(content: bytes) -> Iterator[str]:
    """A path to bytes in memory, for a library that only reads files."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


class TlsLayer:
    """TLS on one connection (`layer.Layer`).

    Args:
        context: of the listener, or of the route.
        tls: for the pins that a peer's certificate has to have.
        is_server: which end this is.
        host: whom a client expects to find.
    """

    __slots__ = (
        "_incoming",
        "_is_closing",
        "_is_drained",
        "_outgoing",
        "_pinned",
        "_received",
        "is_ended",
        "is_open",
        "peer_certificate",
        "tls_object",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        tls: Tls,
        *,
        is_server: bool = True,
        host: str | None = None,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls_object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=is_server, server_hostname=host
        )
        self._pinned = tls.pinned
        self._received = 0
        self._is_closing = False
        self._is_drained = False
        self.is_open = False
        self.is_ended = False
        # DER, once the handshake has verified it; None: it was not asked for, or has none.
        self.peer_certificate: bytes | None = None
        if not is_server:
            self._shake_hands()

    @property
    def client_ip(self) -> str:
        """TLS says nothing of where a client is."""
        return ""

    @property
    def cookies(self) -> None:
        """Nor of cookies."""
        return None

    @property
    def version(self) -> str:
        """As monitoring spells it: "1.3"."""
        return (self.tls_object.version() or "").removeprefix("TLSv")

    @property
    def cipher(self) -> str:
        """The cipher suite's name."""
        cipher = self.tls_object.cipher()
        return cipher[0] if cipher else ""

    def facts(self) -> dict[str, Any]:
        """What monitoring tells of it: version, cipher suite, the peer's certificate."""
        if not self.is_open:
            return {}
        facts: dict[str, Any] = {
            "tls_version": self.version,
            "tls_cipher_suite": self.cipher,
        }
        certificate = self.peer_certificate
        if certificate is not None:
            from cryptography import x509  # as in `key_pin`

            facts["tls_peer_certs"] = [
                {
                    "subject": x509.load_der_x509_certificate(certificate).subject.rfc4514_string(),
                    "spki_sha256": key_pin(certificate),
                    "cert_sha256": hashlib.sha256(certificate).hexdigest(),
                }
            ]
        return facts

    def receive(self, data: memoryview) -> None:
        """Bytes of the peer, borrowed. Raises LayerError."""
        self._incoming.write(data)
        self._is_drained = False
        if not self.is_open:
            self._received += len(data)
            self._shake_hands()

    def read_into(self, room: memoryview) -> int:
        """Moves plaintext into `room`, as much as fits; 0 when there is none for now."""
        total = 0
        tls_object = self.tls_object
        # To be told that there is nothing costs an exception: that much for one `receive`, no more.
        while total < len(room) and not self._is_drained and not self.is_ended:
            try:
                # With a buffer it answers with a count (the stubs know only of bytes).
                got = cast(int, tls_object.read(len(room) - total, room[total:]))
            except ssl.SSLWantReadError:
                self._is_drained = True
                break
            except ssl.SSLError as error:
                if isinstance(error, ssl.SSLZeroReturnError):
                    self.is_ended = True
                    break
                raise LayerError(CloseReason.READ_ERROR, f"TLS: {error.reason}") from None
            if got == 0:
                self.is_ended = True
            total += got
            if not self._incoming.pending and not tls_object.pending():
                self._is_drained = True
        return total

    def send(self, data: memoryview) -> None:
        """Encodes plaintext for the peer, borrowed."""
        try:
            self.tls_object.write(data)
        except ssl.SSLError as error:
            raise LayerError(CloseReason.WRITE_ERROR, f"TLS: {error.reason}") from None

    def trust(self) -> None:
        """A record of TLS is small, whoever the peer is."""

    def take(self) -> bytes:
        """The bytes that wait to be written."""
        return self._outgoing.read()

    def close(self) -> None:
        """Says goodbye: a close_notify."""
        if self.is_open and not self._is_closing:
            self._is_closing = True
            with contextlib.suppress(ssl.SSLError):
                self.tls_object.unwrap()

    def _shake_hands(self) -> None:
        try:
            self.tls_object.do_handshake()
        except ssl.SSLWantReadError:
            if self._received > _HANDSHAKE_BYTES_MAX:
                raise _failure("TLS handshake error: too long") from None
            return
        except ssl.SSLError as error:
            raise _failure(f"TLS handshake error: {_reason_of(error)}") from None
        self.is_open = True
        self.peer_certificate = self.tls_object.getpeercert(binary_form=True)
        if self._pinned and not self._is_pinned():
            raise _failure("certificate not pinned")

    def _is_pinned(self) -> bool:
        return self.peer_certificate is not None and key_pin(self.peer_certificate) in self._pinned


def key_pin(certificate: bytes) -> str:
    """Hex SHA-256 of a DER certificate's SubjectPublicKeyInfo: what `pinned_certs` lists."""
    # A server without TLS starts faster without it; one with TLS has it before it forks.
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = x509.load_der_x509_certificate(certificate).public_key()
    return hashlib.sha256(
        key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def _reason_of(error: ssl.SSLError) -> str:
    """OpenSSL's name for it; and in words, what is wrong with a certificate, or that the other end
    speaks no TLS."""
    reason = error.reason or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{reason}: {error.verify_message.rstrip('.')}"
    if reason in _PLAIN_TEXT:
        return f"{reason}: the other end speaks no TLS"
    return reason


def _failure(detail: str) -> LayerError:
    return LayerError(CloseReason.TLS_HANDSHAKE_FAILURE, detail)
