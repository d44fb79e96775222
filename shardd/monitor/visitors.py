"""Who is connected to monitoring: bounded in number and in silence.

aiohttp takes whoever comes. Here, a visitor that neither asks nor reads is let go after a while,
and when there are too many, the address that has the most gives way: so neither a crowd of silent
connections, nor answers that nobody fetches, keep another one from being answered.
"""

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from shardd import limits

# A handshake, a request, or the reading of an answer takes no longer.
SILENCE_S: Final = 30.0
_HANDSHAKE_S: Final = 5.0
_SWEEP_S: Final = 1.0


@dataclass(slots=True, eq=False)
class _Visitor:
    """One connection."""

    address: str
    active_at: float
    task: "asyncio.Task[None] | None" = None  # while it is being let in
    transport: asyncio.WriteTransport | None = None  # from then on

    def is_over(self) -> bool:
        return self.task is None and (self.transport is None or self.transport.is_closing())

    def let_go(self) -> None:
        if self.task is not None:
            self.task.cancel()
        elif self.transport is not None:
            self.transport.abort()


class Visitors:
    """Owned by the monitor, touched by its event loop only.

    Args:
        listener: where they come in; it stays its owner's.
        context: for HTTPS.
        protocol: makes what speaks with one of them.
        visitors_max: how many there may be at a time.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext | None,
        protocol: Callable[[], asyncio.BaseProtocol],
        visitors_max: int = limits.MONITORING_CONNECTIONS_MAX,
    ) -> None:
        self._listener = listener
        self._context = context
        self._protocol = protocol
        self._max = visitors_max
        self._loop = asyncio.get_running_loop()
        self._visitors: set[_Visitor] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Let them in from now on."""
        self._listener.setblocking(False)
        self._tasks = [self._loop.create_task(self._accept()), self._loop.create_task(self._tidy())]

    def stop(self) -> None:
        """Let nobody in any more, and everybody go."""
        for task in self._tasks:
            task.cancel()
        for visitor in self._visitors:
            visitor.let_go()

    def note(self, transport: asyncio.BaseTransport | None) -> None:
        """A visitor has asked for something."""
        for visitor in self._visitors:
            if visitor.transport is transport:
                visitor.active_at = self._loop.time()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._visitors)

    async def _accept(self) -> None:
        while True:
            try:
                connection, peer = await self._loop.sock_accept(self._listener)
            except OSError:  # no descriptor left: it waits, and does not spin
                await asyncio.sleep(limits.ACCEPT_BACKOFF_S_MAX)
                continue
            self._make_room()
            visitor = _Visitor(peer[0] if peer else "", self._loop.time())
            self._visitors.add(visitor)
            visitor.task = self._loop.create_task(self._let_in(connection, visitor))

    async def _let_in(self, connection: socket.socket, visitor: _Visitor) -> None:
        connection.setblocking(False)
        timeout_s = _HANDSHAKE_S if self._context is not None else None
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                self._protocol, connection, ssl=self._context, ssl_handshake_timeout=timeout_s
            )
            visitor.transport = cast(asyncio.WriteTransport, transport)
        except (OSError, asyncio.CancelledError):
            connection.close()  # it speaks no TLS, or has left already
        finally:
            visitor.task = None

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            self._forget()
            silent_since = self._loop.time() - SILENCE_S
            for visitor in self._visitors:
                if visitor.active_at < silent_since:
                    visitor.let_go()

    def _forget(self) -> None:
        self._visitors = {each for each in self._visitors if not each.is_over()}

    def _make_room(self) -> None:
        """If all places are taken, the address with most of them gives its oldest away."""
        if len(self._visitors) < self._max:
            return
        self._forget()
        while len(self._visitors) >= self._max:
            counts = Counter(each.address for each in self._visitors)
            victim = max(self._visitors, key=lambda each: (counts[each.address], -each.active_at))
            with contextlib.suppress(OSError):
                victim.let_go()
            self._visitors.discard(victim)
