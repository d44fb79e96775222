"""One registration of a client at its server: from the connect request to its end.

A connection has one after the other if it comes back after a loss; each has inboxes and an id of
its own, so that nothing of an older one is taken for the newer one's.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Self, TypeVar

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.nuid import NUID

from shardd.streaming.client.errors import (
    MalformedReplyError,
    NatsError,
    RequestTimeoutError,
    StreamingError,
    refusal,
)
from shardd.streaming.client.link import NatsLink, is_no_responders
from shardd.streaming.client.options import ConnectionOptions
from shardd.streaming.client.pings import Pinger
from shardd.streaming.messages import (
    CloseRequest,
    CloseResponse,
    ConnectRequest,
    ConnectResponse,
    SubscriptionRequest,
    SubscriptionResponse,
    UnsubscribeRequest,
)

# Gets the payload of an ack; None is the NATS server's word that nobody got some message.
OnAck = Callable[[bytes | None], None]
OnLost = Callable[["Session", StreamingError], None]

# The version of the protocol that has connection ids and pings.
_PROTOCOL: Final = 1
_ACK_PREFIX: Final = "_STAN.acks"

Reply = TypeVar("Reply", ConnectResponse, SubscriptionResponse, CloseResponse)


class Session:
    """What the server was told of us and told us, and the requests that go on from there."""

    def __init__(self, link: NatsLink, options: ConnectionOptions) -> None:
        self._link = link
        self._options = options
        self._response = ConnectResponse()
        self._subscriptions: list[Subscription] = []
        self._pinger: Pinger | None = None
        self.conn_id = bytes(NUID().next())
        self.ack_subject = f"{_ACK_PREFIX}.{NUID().next().decode()}"
        self.pub_prefix = ""

    @classmethod
    async def open(
        cls, link: NatsLink, options: ConnectionOptions, on_ack: OnAck, on_lost: OnLost
    ) -> Self:
        """Registers. Raises RequestTimeoutError, RefusedError, MalformedReplyError, NatsError."""
        session = cls(link, options)
        try:
            await session._open(on_ack, on_lost)
        except BaseException:
            await session.drop()
            raise
        return session

    @property
    def link(self) -> NatsLink:
        """The NATS connection that it goes over."""
        return self._link

    def start_pings(self) -> None:
        """Begins to ask whether the registration still holds, if the server takes pings."""
        if self._pinger is not None:
            self._pinger.start()

    async def subscribe(self, request: SubscriptionRequest) -> str:
        """Asks for a subscription and returns where its acks go.

        Raises as `open` does. After a timeout or when given up, what the server may have made is
        undone.
        """
        text = "stan: subscribe request timeout"
        subject = self._response.sub_requests.decode()
        try:
            data = await self._ask(subject, request.encode(), text)
        except RequestTimeoutError as error:
            if not error.is_nobody_there:
                await self._undo(request)
            raise
        except asyncio.CancelledError:
            await self._undo(request)
            raise
        response = _read(SubscriptionResponse, data)
        return response.ack_inbox.decode()

    async def unsubscribe(self, request: UnsubscribeRequest) -> None:
        """Ends a subscription; a durable one is forgotten. Raises as `open` does."""
        subject = self._response.unsub_requests.decode()
        text = "stan: unsubscribe request timeout"
        _read(SubscriptionResponse, await self._ask(subject, request.encode(), text))

    async def close_subscription(self, request: UnsubscribeRequest) -> None:
        """Ends a subscription; a durable one keeps its position. Raises as `open` does."""
        subject = self._response.sub_close_requests.decode()
        if not subject:
            raise StreamingError("stan: not supported by server")
        text = "stan: close request timeout"
        _read(SubscriptionResponse, await self._ask(subject, request.encode(), text))

    async def close(self) -> None:
        """Ends the registration at the server. Raises as `open` does."""
        request = CloseRequest(self._options.client_id)
        subject = self._response.close_requests.decode()
        data = await self._ask(subject, request.encode(), "stan: close request timeout")
        _read(CloseResponse, data)

    async def drop(self) -> None:
        """Lets go of everything on this side, without a word to the streaming server."""
        if self._pinger is not None:
            self._pinger.stop()
            self._pinger = None
        while self._subscriptions:
            await self._link.unsubscribe(self._subscriptions.pop())

    async def _open(self, on_ack: OnAck, on_lost: OnLost) -> None:
        async def process_ping_response(message: Msg) -> None:
            if self._pinger is not None:
                self._pinger.process_response(message)

        async def process_ack(message: Msg) -> None:
            on_ack(None if is_no_responders(message) else message.data)

        link, options = self._link, self._options
        heartbeat_inbox, ping_inbox = link.client.new_inbox(), link.client.new_inbox()
        self._subscriptions.append(await link.subscribe(heartbeat_inbox, self._answer_heartbeat))
        self._subscriptions.append(await link.subscribe(ping_inbox, process_ping_response))
        request = ConnectRequest(
            client_id=options.client_id,
            heartbeat_inbox=heartbeat_inbox.encode(),
            protocol=_PROTOCOL,
            conn_id=self.conn_id,
            ping_interval=options.ping_interval_s,
            ping_max_out=options.ping_max_out,
        )
        subject = f"{options.discover_prefix}.{options.cluster_id}"
        text = "stan: connect request timeout (possibly wrong cluster ID?)"
        response = _read(ConnectResponse, await self._ask(subject, request.encode(), text))
        self._response = response
        self.pub_prefix = response.pub_prefix.decode()
        self._subscriptions.append(await link.subscribe(self.ack_subject, process_ack))
        # The server has the last word on how often.
        if response.protocol >= _PROTOCOL and response.ping_interval > 0:
            self._pinger = Pinger(
                link,
                response.ping_requests.decode(),
                ping_inbox,
                self.conn_id,
                response.ping_interval,
                response.ping_max_out,
                lambda error: on_lost(self, error),
            )

    async def _answer_heartbeat(self, message: Msg) -> None:
        with contextlib.suppress(NatsError):
            await self._link.publish(message.reply, b"")

    async def _undo(self, request: SubscriptionRequest) -> None:
        """The server may have made a subscription that nobody knows the ack inbox of; it finds it
        by the inbox for messages too."""
        undo = UnsubscribeRequest(
            client_id=request.client_id, subject=request.subject, inbox=request.inbox
        )
        with contextlib.suppress(NatsError):
            await self._link.publish(self._response.sub_close_requests.decode(), undo.encode())

    async def _ask(self, subject: str, payload: bytes, text: str) -> bytes:
        return await self._link.request(subject, payload, self._options.connect_wait_s, text)


def _read(kind: type[Reply], data: bytes) -> Reply:
    """The reply in these bytes; raises the error that it may be."""
    try:
        reply = kind.decode(data)
    except ValueError as error:
        raise MalformedReplyError(f"stan: malformed {kind.__name__}: {error}") from error
    if reply.error:
        raise refusal(reply.error)
    return reply
