"""The streaming connection: what an application begins with.

One connection is one client id at one cluster. It goes over a NATS connection that it makes itself
or is given, and holds through reconnections of that one. It is lost when the server no longer
knows it or answers no pings; then it ends, or, if asked to, is made anew with its subscriptions.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from nats.aio.client import Client

from shardd.streaming.client import options as defaults
from shardd.streaming.client.errors import (
    ClientIdInUseError,
    ConnectionClosedError,
    ConnectionLostError,
    NatsError,
    PublishTimeoutError,
    RefusedError,
    RequestTimeoutError,
    StreamingError,
)
from shardd.streaming.client.link import NatsLink
from shardd.streaming.client.options import ConnectionOptions, StartAt, SubscriptionOptions
from shardd.streaming.client.publisher import AckCallback, Publisher
from shardd.streaming.client.session import Session
from shardd.streaming.client.subscription import MessageCallback, Subscription

LostCallback = Callable[["Connection", StreamingError], Awaitable[None] | None]
ErrorCallback = Callable[[Exception], Awaitable[None] | None]

_log: Final = logging.getLogger("shardd.streaming")

# Between tries to make a lost connection anew: doubled each time, up to the second.
_RETRY_S_MIN: Final = 0.25
_RETRY_S_MAX: Final = 8.0
# An answer "already registered" may come from a look at our own former registration that is still
# under way at the server; after so many it is another client's.
_IN_USE_TRIES: Final = 3


async def connect(
    cluster_id: str,
    client_id: str,
    *,
    servers: str | Sequence[str] = "nats://127.0.0.1:4222",
    nats: Client | None = None,
    nats_options: Mapping[str, Any] | None = None,
    connect_wait_s: float = defaults.CONNECT_WAIT_S,
    publish_wait_s: float = defaults.PUBLISH_WAIT_S,
    publishes_in_flight_max: int = defaults.PUBLISHES_IN_FLIGHT_MAX,
    ping_interval_s: int = defaults.PING_INTERVAL_S,
    ping_max_out: int = defaults.PING_MAX_OUT,
    discover_prefix: str = defaults.DISCOVER_PREFIX,
    reconnect: bool = False,
    connection_lost_cb: LostCallback | None = None,
    connection_restored_cb: LostCallback | None = None,
    error_cb: ErrorCallback | None = None,
) -> "Connection":
    """Connects to a streaming cluster.

    The NATS connection below is `nats`, which stays the application's and must be connected, or is
    made from `servers` and `nats_options` (those of nats-py's `connect`) and closed at the end.
    `connect_wait_s` bounds this and every later request, `publish_wait_s` the wait for a message's
    ack. Pings go out every `ping_interval_s` whole seconds; more than `ping_max_out` without an
    answer are a loss. With `reconnect` a lost connection is made anew, with its subscriptions, and
    `connection_restored_cb` is told what had ended the last one; `connection_lost_cb` is called
    once, when the connection is lost for good. `error_cb` gets what the application's other
    callbacks raise; without it that is logged.

    Raises NatsError if NATS cannot be reached, RequestTimeoutError if no server of the cluster
    answers, ClientIdInUseError if another client has the id, RefusedError for other answers.
    """
    options = ConnectionOptions(
        cluster_id=cluster_id,
        client_id=client_id,
        connect_wait_s=connect_wait_s,
        publish_wait_s=publish_wait_s,
        publishes_in_flight_max=publishes_in_flight_max,
        ping_interval_s=ping_interval_s,
        ping_max_out=ping_max_out,
        discover_prefix=discover_prefix,
    )
    link = NatsLink(nats, servers, {"name": client_id, **(nats_options or {})}, connect_wait_s)
    connection = Connection(
        link, options, reconnect, connection_lost_cb, connection_restored_cb, error_cb
    )
    await connection.open()
    return connection


class Connection:
    """A streaming connection. Made by `connect`; an async context manager that closes it."""

    def __init__(
        self,
        link: NatsLink,
        options: ConnectionOptions,
        reconnect: bool,
        lost_cb: LostCallback | None,
        restored_cb: LostCallback | None,
        error_cb: ErrorCallback | None,
    ) -> None:
        self._link = link
        self._options = options
        self._reconnect = reconnect
        self._lost_cb = lost_cb
        self._restored_cb = restored_cb
        self._error_cb = error_cb
        self._publisher = Publisher(options, self._run)
        self._session: Session | None = None
        self._changed = asyncio.Event()  # set while there is a session or never will be one
        self._end: ConnectionClosedError | None = None
        self._subscriptions: set[Subscription] = set()
        self._tasks: set[asyncio.Future[Any]] = set()
        self._restoring: asyncio.Task[None] | None = None

    @property
    def client_id(self) -> str:
        """The id that the server knows this client by."""
        return self._options.client_id

    @property
    def cluster_id(self) -> str:
        """The cluster."""
        return self._options.cluster_id

    @property
    def nats(self) -> Client:
        """The NATS connection below; closing it ends the streaming connection badly."""
        return self._link.client

    @property
    def is_closed(self) -> bool:
        """Whether it was closed or lost for good."""
        return self._end is not None

    @property
    def is_connected(self) -> bool:
        """Whether the server knows the client and NATS is connected, as far as is known here."""
        return self._session is not None and self._link.client.is_connected

    @property
    def in_flight(self) -> int:
        """How many published messages wait for their acks."""
        return self._publisher.in_flight

    # --- publishing ------------------------------------------------------------------------------

    async def publish(self, channel: str, data: bytes) -> str:
        """Publishes a message and returns its guid once the server has stored it.

        Raises PublishTimeoutError without an ack, RefusedError with the server's text,
        ConnectionClosedError and ConnectionLostError when the connection ends first, NatsError for
        what NATS does not carry: a channel with spaces, a message that is too large.
        """
        return await (await self.publish_async(channel, data))

    async def publish_async(
        self, channel: str, data: bytes, callback: AckCallback | None = None
    ) -> asyncio.Future[str]:
        """Publishes a message; the future that is returned ends as `publish` does.

        Waits while as many messages as may be are without their acks, and while NATS reconnects,
        up to `publish_wait_s` in all. `callback` is called with the guid and the error, None if
        the message is stored.
        """
        until = asyncio.get_running_loop().time() + self._options.publish_wait_s
        while True:
            session = await self._usable_session(until, PublishTimeoutError())
            if self._publisher.in_flight < self._options.publishes_in_flight_max:
                return await self._publisher.publish(session, channel, data, callback)
            await self._publisher.wait_for_room(until)

    async def flush(self) -> None:
        """Returns once every message published so far, and meanwhile, has its ack or has failed."""
        await self._publisher.wait_until_idle()

    # --- subscribing -----------------------------------------------------------------------------

    async def subscribe(
        self,
        channel: str,
        callback: MessageCallback | None = None,
        *,
        queue_group: str = "",
        durable_name: str = "",
        start: StartAt | None = None,
        max_in_flight: int = defaults.MAX_IN_FLIGHT,
        ack_wait_s: float = defaults.ACK_WAIT_S,
        manual_ack: bool = False,
    ) -> Subscription:
        """Subscribes to a channel, or resumes a durable subscription.

        Messages go to `callback`, a function or a coroutine function, one after the other; without
        it, iterate over the subscription. A message counts as handled when the callback returns,
        or with `manual_ack` when `StreamingMessage.ack` was called; one that is not handled within
        `ack_wait_s` (whole seconds) is delivered again, and no more than `max_in_flight` are on
        their way at a time. A callback that raises leaves its message for redelivery.

        Raises RefusedError with the server's text, RequestTimeoutError, ConnectionClosedError,
        NatsError; ValueError for numbers that the protocol cannot hold.
        """
        options = SubscriptionOptions(
            channel=channel,
            queue_group=queue_group,
            durable_name=durable_name,
            start=start or StartAt(),
            max_in_flight=max_in_flight,
            ack_wait_s=ack_wait_s,
            manual_ack=manual_ack,
        )
        session = await self.usable_session()
        subscription = Subscription(self, options, callback)
        await subscription.open(session)
        if self._session is not session:
            # It was lost in the moment of the answer.
            await subscription.drop(session)
            subscription.end()
            raise self._why_closed()
        self._subscriptions.add(subscription)
        return subscription

    # --- its end ---------------------------------------------------------------------------------

    async def close(self) -> None:
        """Ends the connection; durable subscriptions keep their positions at the server.

        Messages whose acks have not come fail with ConnectionClosedError: `flush` first if they
        matter. Raises RequestTimeoutError, RefusedError or NatsError if the server did not hear of
        it or said no; the connection is closed on this side nevertheless. Closed already: nothing.
        """
        if self._end is not None:
            return
        session, self._session = self._session, None
        self._finish(ConnectionClosedError())
        try:
            restoring = self._restoring
            if restoring is not None and restoring is not asyncio.current_task():
                restoring.cancel()
                await asyncio.wait((restoring,))
            if session is not None:
                await self._drop(session)
                await session.close()
        finally:
            await self._link.close()

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes it; what goes wrong with that does not hide what ended the block."""
        try:
            await self.close()
        except StreamingError:
            if error is None:
                raise

    # --- for subscriptions -----------------------------------------------------------------------

    @property
    def session(self) -> Session | None:
        """The registration that holds now, if one does."""
        return self._session

    async def usable_session(self) -> Session:
        """The registration, waited for as long as a request; raises ConnectionClosedError,
        RequestTimeoutError."""
        until = asyncio.get_running_loop().time() + self._options.connect_wait_s
        return await self._usable_session(until, RequestTimeoutError("stan: not connected"))

    def forget(self, subscription: Subscription) -> None:
        """The subscription has ended."""
        self._subscriptions.discard(subscription)

    def report(self, error: Exception) -> None:
        """A callback of the application raised this."""
        if self._error_cb is None:
            _log.error("the streaming client of %s: %s", self.client_id, error, exc_info=error)
            return
        try:
            result = self._error_cb(error)
        except Exception:
            _log.exception("the callback for errors failed")
            return
        if inspect.isawaitable(result):
            self._start(self._last_resort(result))

    # --- sessions --------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connects for the first time; `connect` calls this."""
        try:
            await self._link.open()
            session = await self._open_session()
        except BaseException:
            await self._link.close()
            raise
        self._begin(session)

    async def _open_session(self) -> Session:
        return await Session.open(
            self._link, self._options, self._publisher.process_ack, self._lose
        )

    def _begin(self, session: Session) -> None:
        self._session = session
        session.start_pings()
        self._changed.set()

    async def _usable_session(self, until: float, too_late: RequestTimeoutError) -> Session:
        """A session over a NATS connection that is connected, before this moment."""
        while True:
            if self._end is not None:
                raise self._why_closed()
            if self._session is not None:
                if self._link.client.is_connected:
                    return self._session
                if not await self._link.wait_connected(until):
                    raise too_late
                continue
            try:
                async with asyncio.timeout_at(until):
                    await self._changed.wait()
            except TimeoutError:
                raise too_late from None

    def _why_closed(self) -> ConnectionClosedError:
        """A new error for who comes after the end, or in the middle of a loss."""
        end = self._end or ConnectionLostError("stan: connection lost")
        why = type(end)(str(end))
        why.__cause__ = end.__cause__
        return why

    def _lose(self, session: Session, error: StreamingError) -> None:
        """The session is no longer known to the server, or nobody answers."""
        if session is not self._session:
            return
        self._session = None
        self._changed.clear()
        _log.info("the streaming connection of %s is lost: %s", self.client_id, error)
        self._publisher.fail_all(ConnectionLostError(str(error)))
        self._restoring = asyncio.create_task(self._go_on(session, error))

    async def _go_on(self, session: Session, error: StreamingError) -> None:
        """After a loss: makes the connection anew, or ends it."""
        final = error
        try:
            await self._drop(session)
        except asyncio.CancelledError:
            await self._drop(session)
            raise
        if self._reconnect:
            try:
                await self._restore()
            except StreamingError as failure:
                final = failure
            else:
                _log.info("the streaming connection of %s is restored", self.client_id)
                if self._restored_cb is not None:
                    self._run(self._restored_cb, self, error)
                return
        lost = ConnectionLostError(str(final))
        lost.__cause__ = final
        self._finish(lost)
        await self._link.close()
        if self._lost_cb is not None:
            self._run(self._lost_cb, self, final)

    async def _restore(self) -> None:
        """Tries until there is a session with all subscriptions; raises what makes it pointless."""
        retry_s = _RETRY_S_MIN
        in_use_tries = 0
        while True:
            try:
                await self._link.open()
                session = await self._open_session()
            except ClientIdInUseError:
                in_use_tries += 1
                if in_use_tries >= _IN_USE_TRIES:
                    raise
            except (RequestTimeoutError, NatsError) as error:
                if not self._link.is_ours and self._link.client.is_closed:
                    raise
                _log.debug("the streaming connection of %s: %s", self.client_id, error)
            else:
                if await self._resume_all(session):
                    self._begin(session)
                    return
            await asyncio.sleep(retry_s)
            retry_s = min(retry_s * 2, _RETRY_S_MAX)

    async def _resume_all(self, session: Session) -> bool:
        """Opens every subscription in the new session; False if the server went silent again. A
        subscription that it refuses ends with that error."""
        for subscription in list(self._subscriptions):
            if subscription.is_closed:
                continue
            try:
                await subscription.open(session, is_again=True)
            except RefusedError as error:
                self.forget(subscription)
                subscription.end(error)
                self.report(error)
            except StreamingError:
                await self._drop(session)
                return False
            except BaseException:
                await self._drop(session)
                raise
        return True

    async def _drop(self, session: Session) -> None:
        """Lets go of a session and of all that was subscribed in it."""
        await session.drop()
        for subscription in list(self._subscriptions):
            await subscription.drop(session)

    def _finish(self, end: ConnectionClosedError) -> None:
        """Nothing works any more from now on."""
        self._end = end
        self._publisher.fail_all(end)
        self._changed.set()
        is_loss = isinstance(end, ConnectionLostError)
        for subscription in self._subscriptions:
            subscription.end(end if is_loss else None)

    # --- callbacks of the application ------------------------------------------------------------

    def _run(self, callback: Callable[..., Awaitable[None] | None], *arguments: object) -> None:
        """Calls it; a coroutine goes on as a task. What it raises goes to `report`."""
        try:
            result = callback(*arguments)
        except Exception as error:
            self.report(error)
            return
        if inspect.isawaitable(result):
            self._start(self._guarded(result))

    async def _guarded(self, awaitable: Awaitable[None]) -> None:
        try:
            await awaitable
        except Exception as error:
            self.report(error)

    async def _last_resort(self, awaitable: Awaitable[None]) -> None:
        try:
            await awaitable
        except Exception:
            _log.exception("the callback for errors failed")

    def _start(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
