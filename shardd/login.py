"""Reaching somebody else's NATS servers as a client: their URLs, who to be there, and TLS.

The streaming pool that runs alone and the load generator connect this way.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from shardd.auth.seeds import Signer, UserCredentials, read_credentials, read_seed
from shardd.config.streaming import NatsOptions
from shardd.errors import BootError
from shardd.sockets import error_text, join_address

_PORT: Final = 4222


@dataclass(frozen=True, slots=True)
class NatsUrl:
    """One server, and who to be there."""

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)
    is_encrypted: bool = False

    def __str__(self) -> str:
        """Without credentials, for the log."""
        return join_address(self.host, self.port)


def parse_nats_url(text: str) -> NatsUrl:
    """`nats://user:password@host:port`, `tls://...`, `host:port`, `host`. Raises ValueError."""
    parts = urlsplit(text if "://" in text else f"nats://{text}")
    if not parts.hostname or parts.scheme not in ("nats", "tls"):
        raise ValueError("expected a URL as nats://host:4222")
    return NatsUrl(
        parts.hostname,
        parts.port or _PORT,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        parts.scheme == "tls",
    )


class Identity:
    """Who a client is to the servers, read from files once. Raises BootError."""

    def __init__(self, options: NatsOptions) -> None:
        self._options = options
        self._credentials: UserCredentials | None = None
        self._signer: Signer | None = None
        try:
            if options.credentials_file:
                text = Path(options.credentials_file).read_text()
                self._credentials = read_credentials(text)
            if options.nkey_seed_file:
                self._signer = read_seed(Path(options.nkey_seed_file).read_text())
        except OSError as error:
            raise BootError(f"could not read {error.filename}: {error_text(error)}") from None
        except ValueError as error:
            name = options.nkey_seed_file if self._credentials else options.credentials_file
            raise BootError(f"{name or options.nkey_seed_file}: {error}") from None

    def fields(self, url: NatsUrl, nonce: str) -> dict[str, str]:
        """What CONNECT says of it. Flags win over the URL."""
        options = self._options
        if self._credentials is not None:
            signer = self._credentials.signer
            return {"jwt": self._credentials.jwt, "sig": signer.sign(nonce)}
        if self._signer is not None:
            return {"nkey": self._signer.public_key, "sig": self._signer.sign(nonce)}
        if options.user or options.password:
            return {"user": options.user, "pass": options.password}
        if options.token:
            return {"auth_token": options.token}
        if url.user and not url.password:
            return {"auth_token": url.user}
        return {"user": url.user, "pass": url.password} if url.user else {}


def tls_context(options: NatsOptions) -> ssl.SSLContext:
    """How connections to the servers are encrypted. Raises BootError."""
    try:
        context = ssl.create_default_context(cafile=options.tls_ca or None)
        if options.tls_cert or options.tls_key:
            context.load_cert_chain(options.tls_cert, options.tls_key or None)
    except (OSError, ssl.SSLError) as error:
        names = ", ".join(filter(None, (options.tls_ca, options.tls_cert, options.tls_key)))
        raise BootError(f"tls of the way to NATS ({names}): {error}") from None
    if options.tls_insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def why_unreachable(error: Exception) -> str:
    """Why a server could not be reached, in one line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"tls: {error.reason or error}"
    if isinstance(error, OSError) and error.errno:
        return error_text(error)
    return str(error) or "i/o timeout"
