"""Reaching NATS over TCP: the servers by URL, the handshake, and again for ever when it is lost.

The servers are tried in turn, those given first, then those that a server told of; a round without
success is followed by a pause. The bus learns of a connection when its handshake is over.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from typing import Any, Final, cast

from shardd.config.streaming import NatsOptions
from shardd.errors import BootError
from shardd.login import Identity, NatsUrl, parse_nats_url, tls_context, why_unreachable
from shardd.sockets import error_text
from shardd.streaming.tcp_bus import TcpBus, TcpLink
from shardd.version import SHARDD_VERSION

RECONNECT_S: Final = 0.250  # as the original's
CONNECT_S_MAX: Final = 2.0  # for one server, as NATS's client libraries'
PING_S: Final = 30.0
PINGS_OUT_MAX: Final = 2
_PAYLOAD_MAX: Final = 1_048_576
_SAID_AGAIN_S: Final = 30.0  # a server that cannot be reached is named this often

log = logging.getLogger("shardd.streaming")


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
        log.warning("STREAM: Cannot connect to NATS at %s: %s", url, why_unreachable(error))


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
