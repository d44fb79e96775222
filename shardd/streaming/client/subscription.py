"""A subscription as the application holds it: messages in, to a callback or a loop; acks out.

It outlives the session that it was made in: after a loss the connection opens it again in the next
one. A durable subscription then goes on by itself; one that is not is asked for from the first
message on that was received and not yet dealt with.
"""

import asyncio
import contextlib
import inspect
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Final, Protocol, Self

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from shardd.streaming.client.errors import (
    ConnectionClosedError,
    ManualAckError,
    NatsError,
    RefusedError,
    StreamingError,
    SubscriptionClosedError,
)
from shardd.streaming.client.message import StreamingMessage
from shardd.streaming.client.options import SubscriptionOptions
from shardd.streaming.client.session import Session
from shardd.streaming.messages import (
    Ack,
    MsgProto,
    StartPosition,
    SubscriptionRequest,
    UnsubscribeRequest,
)

MessageCallback = Callable[[StreamingMessage], Awaitable[object] | object]

_log: Final = logging.getLogger("shardd.streaming")


class Owner(Protocol):
    """What a subscription asks of its connection."""

    @property
    def client_id(self) -> str:
        """The client's id."""

    @property
    def session(self) -> Session | None:
        """The registration that holds now, if one does."""

    async def usable_session(self) -> Session:
        """The registration, waited for; raises ConnectionClosedError, RequestTimeoutError."""

    def forget(self, subscription: "Subscription") -> None:
        """The subscription has ended."""

    def report(self, error: Exception) -> None:
        """A callback of the application raised this."""


class Subscription:
    """A subscription to one channel. Made by `Connection.subscribe`; an async context manager that
    closes it, and, without a callback, an async iterable of its messages."""

    def __init__(
        self, owner: Owner, options: SubscriptionOptions, callback: MessageCallback | None
    ) -> None:
        self._owner = owner
        self._options = options
        self._callback = callback
        self._inbox = ""
        self._ack_inbox = ""
        self._nats: NatsSubscription | None = None
        self._is_closed = False  # by the application, whether the server has heard it or not
        self._has_ended = False
        self._error: StreamingError | None = None  # what ended it, if not the application did
        self._delivering: asyncio.Task[None] | None = None
        # Received and not yet handed on; a newer delivery of the same message replaces it, so this
        # does not grow beyond max_in_flight while the application is slow.
        self._waiting: OrderedDict[int, StreamingMessage] = OrderedDict()
        self._arrived = asyncio.Event()
        # Where it goes on after a loss if it is not durable: with the first message that was
        # received and not acknowledged by us, else with the one behind the last that was new.
        self._outstanding: set[int] = set()
        self._next_sequence = 0  # 0: none was received yet
        self._asked_at_ns = time.monotonic_ns()

    @property
    def channel(self) -> str:
        """The channel."""
        return self._options.channel

    @property
    def queue_group(self) -> str:
        """The queue group; empty for none."""
        return self._options.queue_group

    @property
    def durable_name(self) -> str:
        """The durable name; empty for none."""
        return self._options.durable_name

    @property
    def is_closed(self) -> bool:
        """Whether it delivers no more."""
        return self._is_closed or self._has_ended

    @property
    def waiting(self) -> int:
        """How many messages were received and not yet handed to the application."""
        return len(self._waiting)

    # --- messages to the application -------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[StreamingMessage]:
        """The messages, until the subscription is closed. Unless acks are manual, a message is
        acknowledged when the next one is asked for: leaving the loop does not acknowledge."""
        if self._callback is not None:
            raise StreamingError("a subscription with a callback cannot be iterated over")
        return _Iteration(self)

    async def take(self) -> StreamingMessage | None:
        """The next message; None after the end. Raises ConnectionLostError if that was a loss."""
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self.is_closed:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popitem(last=False)[1]

    async def acknowledge_handled(self, message: StreamingMessage) -> None:
        """The ack that the application need not think of. If it does not get through, the message
        comes again."""
        if self._options.manual_ack:
            return
        self._outstanding.discard(message.sequence)
        with contextlib.suppress(NatsError):
            await self._send_ack(message)

    async def acknowledge(self, message: StreamingMessage) -> None:
        """The application's own ack: see `StreamingMessage.ack`."""
        if not self._options.manual_ack:
            raise ManualAckError
        if self.is_closed:
            raise self._error or SubscriptionClosedError()
        if self._owner.session is None:
            raise ConnectionClosedError
        await self._send_ack(message)
        self._outstanding.discard(message.sequence)

    async def _send_ack(self, message: StreamingMessage) -> None:
        session = self._owner.session
        if session is not None:
            ack = Ack(message.channel.encode(errors="surrogateescape"), message.sequence)
            await session.link.publish(self._ack_inbox, ack.encode())

    async def _deliver(self, callback: MessageCallback) -> None:
        """Hands message after message to the callback; the task of one subscription."""
        with contextlib.suppress(StreamingError):
            while (message := await self.take()) is not None:
                try:
                    result = callback(message)
                    if inspect.isawaitable(result):
                        await result
                except Exception as error:  # the application's: not acknowledged, so it comes again
                    self._owner.report(error)
                else:
                    await self.acknowledge_handled(message)

    # --- messages from the server ----------------------------------------------------------------

    async def _receive(self, raw: Msg) -> None:
        try:
            proto = MsgProto.decode(raw.data)
        except ValueError as error:
            _log.warning("a server sent a malformed message: %s", error)
            return
        if self.is_closed:
            return
        if not proto.redelivered:
            self._next_sequence = proto.sequence + 1
        self._outstanding.add(proto.sequence)
        self._waiting[proto.sequence] = StreamingMessage(
            channel=proto.subject.decode(errors="surrogateescape"),
            sequence=proto.sequence,
            data=proto.data,
            timestamp_ns=proto.timestamp_ns,
            redelivered=proto.redelivered,
            redelivery_count=proto.redelivery_count,
            reply=proto.reply.decode(errors="surrogateescape"),
            _subscription=self,
        )
        self._arrived.set()

    # --- its life, driven by the connection ------------------------------------------------------

    async def open(self, session: Session, *, is_again: bool = False) -> None:
        """Asks the server for it. Raises what `Session.subscribe` raises."""
        link = session.link
        self._inbox = link.client.new_inbox()
        self._ack_inbox = ""
        self._nats = await link.subscribe(self._inbox, self._receive)
        try:
            self._ack_inbox = await session.subscribe(self._request(is_again=is_again))
        except BaseException:
            await self.drop(session)
            raise
        # Messages may be here already, but their acks had nowhere to go until now.
        if self._delivering is None and self._callback is not None:
            self._delivering = asyncio.create_task(self._deliver(self._callback))

    async def drop(self, session: Session) -> None:
        """Stops listening, without a word to the streaming server. What waits is forgotten: the
        server has no ack for it."""
        if self._nats is not None:
            nats, self._nats = self._nats, None
            await session.link.unsubscribe(nats)
        self._waiting.clear()

    def end(self, error: StreamingError | None = None) -> None:
        """Delivers no more; a loop over its messages ends, with this error if there is one."""
        if not self.is_closed:
            self._error = error
        self._has_ended = True
        self._waiting.clear()
        self._arrived.set()

    def _request(self, *, is_again: bool) -> SubscriptionRequest:
        options = self._options
        position, sequence, delta_ns = self._start(is_again=is_again)
        return SubscriptionRequest(
            client_id=self._owner.client_id,
            subject=options.channel.encode(),
            queue_group=options.queue_group,
            inbox=self._inbox.encode(),
            max_in_flight=options.max_in_flight,
            ack_wait_s=int(options.ack_wait_s),
            durable_name=options.durable_name,
            start_position=position,
            start_sequence=sequence,
            start_time_delta_ns=delta_ns,
        )

    def _start(self, *, is_again: bool) -> tuple[StartPosition, int, int]:
        """Position, sequence and time delta to ask for; after a loss, the place reached."""
        start = self._options.start
        if is_again and self._next_sequence:
            self._next_sequence = min(self._outstanding, default=self._next_sequence)
            self._outstanding.clear()
            return StartPosition.SEQUENCE, self._next_sequence, 0
        if start.position == StartPosition.TIME_DELTA:
            return start.position, 0, time.time_ns() - start.time_ns
        if is_again and start.position in {StartPosition.NEW_ONLY, StartPosition.LAST_RECEIVED}:
            # Nothing had come yet, so nothing was there; what came meanwhile is wanted.
            return StartPosition.TIME_DELTA, 0, time.monotonic_ns() - self._asked_at_ns
        return start.position, start.start_sequence, 0

    # --- its end, asked for by the application ---------------------------------------------------

    async def unsubscribe(self) -> None:
        """Ends it at the server; a durable one is forgotten there, with its position.

        Raises RequestTimeoutError, RefusedError, NatsError; it can be tried again then.
        SubscriptionClosedError if that was done before, ConnectionClosedError if the connection is.
        """
        session, request = await self._stop()
        with self._finishing():
            await session.unsubscribe(request)

    async def close(self) -> None:
        """Ends it; a durable one keeps its position at the server and can be resumed by
        subscribing again. Raises as `unsubscribe` does."""
        session, request = await self._stop()
        with self._finishing():
            await session.close_subscription(request)

    async def _stop(self) -> tuple[Session, UnsubscribeRequest]:
        if self._has_ended:
            raise self._error or SubscriptionClosedError()
        session = await self._owner.usable_session()
        self._is_closed = True
        await self.drop(session)
        self._arrived.set()
        request = UnsubscribeRequest(
            client_id=self._owner.client_id,
            subject=self._options.channel.encode(),
            inbox=self._ack_inbox.encode(),
        )
        return session, request

    @contextlib.contextmanager
    def _finishing(self) -> Iterator[None]:
        """Once the server has answered, whatever it said, there is nothing left to end."""
        try:
            yield
        except RefusedError:
            self._finish()
            raise
        self._finish()

    def _finish(self) -> None:
        self.end()
        self._owner.forget(self)

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes it, unless it or its connection is closed; what goes wrong with that does not
        hide what ended the block."""
        if self._has_ended:
            return
        try:
            await self.close()
        except ConnectionClosedError:
            pass
        except StreamingError:
            if error is None:
                raise


class _Iteration(AsyncIterator[StreamingMessage]):
    """One loop over a subscription's messages."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._handled: StreamingMessage | None = None

    async def __anext__(self) -> StreamingMessage:
        if self._handled is not None:
            handled, self._handled = self._handled, None
            await self._subscription.acknowledge_handled(handled)
        message = await self._subscription.take()
        if message is None:
            raise StopAsyncIteration
        self._handled = message
        return message
