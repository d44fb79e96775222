"""Reaching NATS over TCP: the servers by URL, the handshake, and again for ever when it is lost.

The servers are tried in turn, those given first, then those that a server told of; a round without
success is followed by a pause. The bus learns of a connection when its handshake is over.
"""

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

from shardd.auth.seeds import Signer, UserCredentials, read_credentials, read_seed
from shardd.config.streaming import NatsOptions
from shardd.errors import BootError
from shardd.sockets import error_text, join_address
from shardd.streaming.tcp_bus import TcpBus, TcpLink
from shardd.version import SHARDD_VERSION

RECONNECT_S: Final = 0.250  # as the original's
CONNECT_S_MAX: Final = 2.0  # for one server, as NATS's client libraries'
PING_S: Final = 30.0
PINGS_OUT_MAX: Final = 2
_PORT: Final = 4222
_PAYLOAD_MAX: Final = 1_048_576
_SAID_AGAIN_S: Final = 30.0  # a server that cannot be reached is named this often

log = logging.getLogger("shardd.streaming")


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
    """Who the pool is to the servers, read from files once. Raises BootError."""

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


class Dialer:
    """Keeps a bus connected. Touched by one event loop only.

    Args:
        bus: which is told of every connection.
        options: the servers and who to be there.
        name: of the client.
        on_connected: called with the URL after every handshake.

    Raises:
        BootError: a file cannot be read, a URL is none.
    """

    def __init__(
        self,
        bus: TcpBus,
        options: NatsOptions,
        name: str,
        on_connected: Callable[[NatsUrl], object],
    ) -> None:
        self._bus = bus
        self._options = options
        self._name = name
        self._on_connected = on_connected
        try:
            self._urls = [parse_nats_url(text) for text in options.urls]
        except ValueError as error:
            raise BootError(f"--nats: {error}") from None
        self._identity = Identity(options)
        self._needs_tls = options.tls_required or any(url.is_encrypted for url in self._urls)
        self._context = tls_context(options)
        self._learned: list[NatsUrl] = []
        # Called when the servers have changed that a server tells of.
        self.on_servers: Callable[[], object] | None = None
        self._said_at: dict[str, float] = {}

    async def run(self) -> None:
        """Connects, and again whenever the connection is lost, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            for url in (*self._urls, *self._learned):
                lost = loop.create_future()
                try:
                    async with asyncio.timeout(CONNECT_S_MAX):
                        link = await self._open(url, lost)
                except (OSError, ValueError, TimeoutError) as error:
                    self._say(url, error)
                    continue
                log.info("STREAM: Connected to NATS at %s", url)
                self._on_connected(url)
                await self._watch(link, lost)
                why = lost.result()
                log.warning(
                    "STREAM: Lost the connection to NATS at %s: %s",
                    url,
                    error_text(why) if isinstance(why, OSError) else why or "closed",
                )
            await asyncio.sleep(RECONNECT_S)

    async def _open(self, url: NatsUrl, lost: "asyncio.Future[Any]") -> TcpLink:
        """One connection, its handshake done. Raises OSError, ValueError."""
        loop = asyncio.get_running_loop()
        link = TcpLink(self._bus)
        first: asyncio.Future[dict[str, Any]] = loop.create_future()
        answer: asyncio.Future[None] = loop.create_future()
        link.on_info = lambda text: self._on_info(text, first)
        link.on_pong = lambda: None if answer.done() else answer.set_result(None)
        link.on_error = lambda text: _refuse(text, first, answer)
        link.on_lost = lambda error: _end(error, first, answer, lost)
        protocol = cast(asyncio.BaseProtocol, link)  # it has all that uvloop asks for
        transport, _ = await loop.create_connection(lambda: protocol, url.host, url.port)
        try:
            info = await first
            if self._needs_tls or info.get("tls_required"):
                name = self._options.tls_server_name or url.host
                transport = await loop.start_tls(  # type: ignore[assignment]
                    transport, protocol, self._context, server_hostname=name
                )
                link.transport = transport
            transport.write(self._connect_line(url, info) + b"PING\r\n")
            await answer
        except BaseException:
            transport.abort()
            raise
        link.on_error = self._on_error
        self._bus.attach(link, int(info.get("max_payload") or _PAYLOAD_MAX))
        return link

    def _connect_line(self, url: NatsUrl, info: dict[str, Any]) -> bytes:
        fields = {
            "verbose": False,
            "pedantic": False,
            "tls_required": self._needs_tls,
            "name": self._name,
            "lang": "python",
            "version": SHARDD_VERSION,
            "protocol": 1,
            "echo": False,
            "headers": bool(info.get("headers")),
            "no_responders": bool(info.get("headers")),
            **self._identity.fields(url, str(info.get("nonce", ""))),
        }
        return b"CONNECT " + json.dumps(fields).encode() + b"\r\n"

    async def _watch(self, link: TcpLink, lost: "asyncio.Future[Any]") -> None:
        """Until the connection is lost: asks from time to time whether the server lives."""
        while not lost.done():
            await asyncio.wait((lost,), timeout=PING_S)
            if lost.done():
                return
            if self._bus.pings_out > PINGS_OUT_MAX and link.transport is not None:
                link.transport.abort()
                await lost
                return
            self._bus.ping()

    def _on_info(self, text: bytes, first: "asyncio.Future[dict[str, Any]]") -> None:
        try:
            info = json.loads(text)
            if not isinstance(info, dict):
                raise ValueError("INFO is no object")
        except ValueError:
            if not first.done():
                first.set_exception(ValueError("this is no NATS server"))
            return
        urls = info.get("connect_urls")
        if isinstance(urls, list):
            known = {(url.host, url.port) for url in self._urls}
            before, self._learned = self._learned, []
            for each in urls:
                with contextlib.suppress(ValueError):
                    url = parse_nats_url(str(each))
                    if (url.host, url.port) not in known:
                        self._learned.append(url)
            if self._learned != before and self.on_servers is not None:
                self.on_servers()
        if not first.done():
            first.set_result(info)

    def _on_error(self, text: str) -> None:
        log.error("STREAM: NATS says: %s", text)

    def _say(self, url: NatsUrl, error: Exception) -> None:
        """Names a server that cannot be reached, once in a while."""
        now = asyncio.get_running_loop().time()
        said = self._said_at.get(str(url))
        if said is not None and now - said < _SAID_AGAIN_S:
            return
        self._said_at[str(url)] = now
        log.warning("STREAM: Cannot connect to NATS at %s: %s", url, _reason(error))


def _reason(error: Exception) -> str:
    """Why a server could not be reached, in one line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"tls: {error.reason or error}"
    if isinstance(error, OSError) and error.errno:
        return error_text(error)
    return str(error) or "i/o timeout"


def _refuse(text: str, *waiting: "asyncio.Future[Any]") -> None:
    """The server refuses: whoever waits for it hears why."""
    for future in waiting:
        if not future.done():
            future.set_exception(ValueError(text))
            # The other one may never be asked for.
            future.exception()


def _end(
    error: Exception | None,
    first: "asyncio.Future[Any]",
    answer: "asyncio.Future[Any]",
    lost: "asyncio.Future[Any]",
) -> None:
    _refuse(str(error or "connection closed"), first, answer)
    if not lost.done():
        lost.set_result(error)
