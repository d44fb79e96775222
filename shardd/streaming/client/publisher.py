"""Messages on their way to the server: how many may be, whose ack came, whose did not in time."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from nats.nuid import NUID

from shardd.streaming.client.errors import (
    ConnectionClosedError,
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


@dataclass(slots=True)
class _Pending:
    """A message that was sent and waits for its ack until a moment of the loop's clock."""

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
        payload = message.encode()
        future: asyncio.Future[str] = loop.create_future()
        self._pending[guid] = _Pending(future, callback, loop.time() + self._wait_s)
        self._is_idle.clear()
        if self._timer is None:
            self._timer = loop.call_later(self._wait_s, self._expire)
        try:
            await session.link.publish(
                f"{session.pub_prefix}.{channel}", payload, session.ack_subject
            )
        except BaseException:
            self._take(guid)
            raise
        return future

    def process_ack(self, data: bytes) -> None:
        """Takes an ack from the server."""
        try:
            ack = PubAck.decode(data)
        except ValueError as error:
            _log.warning("a server sent a malformed ack of a message: %s", error)
            return
        self._settle(ack.guid, refusal(ack.error) if ack.error else None)

    def fail_all(self, error: ConnectionClosedError) -> None:
        """Tells everybody who waits that no ack will come."""
        for guid in list(self._pending):
            self._settle(guid, error)

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
            self._settle(guid, PublishTimeoutError())
