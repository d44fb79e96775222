"""Messages on their way to the server: how many may be, whose ack came, whose did not in time.

While no streaming server listens (it starts, and its NATS server is up already), the NATS server
says for each message that nobody got it, but not for which one. Once it has said so as often as
there are messages without acks, it is true of all of them, and they are sent again, in order.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from nats.nuid import NUID

from shardd.streaming.client.errors import (
    ConnectionClosedError,
    NatsError,
    PublishTimeoutError,
    StreamingError,
    refusal,
)
from shardd.streaming.client.options import ConnectionOptions
from shardd.streaming.client.session import Session
from shardd.streaming.messages import PubAck, PubMsg

# Called with the message's guid and what went wrong, None when it is stored.
AckCallback = Callable[[str, StreamingError | None], Awaitable[None] | None]
# Runs a callback of the application.
Run = Callable[[AckCallback, str, StreamingError | None], None]

_log: Final = logging.getLogger("shardd.streaming")


# Between sending and sending again what nobody got: doubled each time, up to the second.
_RETRY_S_MIN: Final = 0.05
_RETRY_S_MAX: Final = 1.0


@dataclass(slots=True)
class _Pending:
    """A message that was sent and waits for its ack until a moment of the loop's clock."""

    session: Session
    subject: str
    payload: bytes
    future: asyncio.Future[str]
    callback: AckCallback | None
    until: float


class Publisher:
    """The messages of one connection that wait for their acks, in the order they were sent."""

    def __init__(self, options: ConnectionOptions, run: Run) -> None:
        self._client_id = options.client_id
        self._wait_s = options.publish_wait_s
        self._in_flight_max = options.publishes_in_flight_max
        self._run = run
        self._pending: OrderedDict[bytes, _Pending] = OrderedDict()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._timer: asyncio.TimerHandle | None = None
        self._unheard = 0  # at least so many of those that wait were got by nobody
        self._retry_s = _RETRY_S_MIN
        self._retry_timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.Task[None] | None = None
        self._guid_prefix = NUID().next().decode()
        self._sent = 0

    @property
    def in_flight(self) -> int:
        """How many messages wait for their acks."""
        return len(self._pending)

    async def wait_for_room(self, until: float) -> None:
        """Returns once another message may be sent. Raises PublishTimeoutError."""
        while len(self._pending) >= self._in_flight_max:
            self._has_room.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._has_room.wait()
            except TimeoutError as error:
                raise PublishTimeoutError from error

    async def wait_until_idle(self) -> None:
        """Returns once no message waits for its ack."""
        await self._is_idle.wait()

    async def publish(
        self, session: Session, channel: str, data: bytes, callback: AckCallback | None
    ) -> asyncio.Future[str]:
        """Sends a message; the future has its guid once it is stored. Raises NatsError."""
        loop = asyncio.get_running_loop()
        self._sent += 1
        guid = f"{self._guid_prefix}.{self._sent:x}".encode()
        message = PubMsg(
            client_id=self._client_id,
            guid=guid,
            subject=channel.encode(),
            data=data,
            conn_id=session.conn_id,
        )
        subject = f"{session.pub_prefix}.{channel}"
        payload = message.encode()
        future: asyncio.Future[str] = loop.create_future()
        until = loop.time() + self._wait_s
        self._pending[guid] = _Pending(session, subject, payload, future, callback, until)
        self._is_idle.clear()
        if self._timer is None:
            self._timer = loop.call_later(self._wait_s, self._expire)
        try:
            await session.link.publish(subject, payload, session.ack_subject)
        except BaseException:
            self._take(guid)
            raise
        return future

    def process_ack(self, data: bytes | None) -> None:
        """Takes an ack from the server, or, None, that nobody got a message."""
        if data is None:
            self._unheard += 1
        else:
            try:
                ack = PubAck.decode(data)
            except ValueError as error:
                _log.warning("a server sent a malformed ack of a message: %s", error)
                return
            self._retry_s = _RETRY_S_MIN
            self._settle(ack.guid, refusal(ack.error) if ack.error else None)
        if self._unheard and self._retry is None and self._retry_timer is None:
            self._consider_retry()

    def fail_all(self, error: ConnectionClosedError) -> None:
        """Tells everybody who waits that no ack will come."""
        if self._retry_timer is not None:
            self._retry_timer.cancel()
            self._retry_timer = None
        for guid in list(self._pending):
            self._settle(guid, error)
        self._unheard = 0

    def _settle(self, guid: bytes, error: StreamingError | None) -> None:
        pending = self._take(guid)
        if pending is None:
            return  # its time was over, or the ack is not for us
        if not pending.future.done():
            if error is None:
                pending.future.set_result(guid.decode())
            else:
                pending.future.set_exception(error)
        if pending.callback is not None:
            if not pending.future.cancelled():
                pending.future.exception()  # the callback is told; nobody else need ask
            self._run(pending.callback, guid.decode(), error)

    def _take(self, guid: bytes) -> _Pending | None:
        pending = self._pending.pop(guid, None)
        if pending is not None:
            self._has_room.set()
            if not self._pending:
                self._is_idle.set()
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
        return pending

    def _expire(self) -> None:
        """All wait equally long, so the oldest are over first and one timer is enough."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._pending:
            guid, pending = next(iter(self._pending.items()))
            if pending.until > now:
                self._timer = loop.call_at(pending.until, self._expire)
                return
            # Whether it was one that nobody got is not known: better too few of them than too many.
            self._unheard = max(self._unheard - 1, 0)
            self._settle(guid, PublishTimeoutError())

    def _is_nobody_there(self) -> bool:
        """Whether every message that waits was got by nobody."""
        return 0 < len(self._pending) <= self._unheard

    def _consider_retry(self) -> None:
        if self._is_nobody_there():
            loop = asyncio.get_running_loop()
            self._retry_timer = loop.call_later(self._retry_s, self._start_retry)
            self._retry_s = min(self._retry_s * 2, _RETRY_S_MAX)

    def _start_retry(self) -> None:
        self._retry_timer = None
        # A message that was published meanwhile brings an answer that leads here again.
        if self._is_nobody_there():
            self._unheard = 0
            self._retry = asyncio.create_task(self._send_again(dict(self._pending)))

    async def _send_again(self, messages: dict[bytes, _Pending]) -> None:
        try:
            for guid, pending in messages.items():
                session = pending.session
                with contextlib.suppress(NatsError):
                    if await session.link.wait_connected(pending.until) and guid in self._pending:
                        await session.link.publish(
                            pending.subject, pending.payload, session.ack_subject
                        )
        finally:
            self._retry = None
            self._consider_retry()
