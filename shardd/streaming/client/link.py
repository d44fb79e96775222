"""The NATS connection below a streaming connection: given by the application, or made here.

While NATS reconnects, nothing is handed to nats-py that it would send afterwards: a request or a
message whose sender was told "timeout" must not be sent later. Acks of messages are the exception:
they are never too late.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from shardd.streaming.client.errors import NatsError, RequestTimeoutError

OnMessage = Callable[[Msg], Awaitable[None]]

_log: Final = logging.getLogger("shardd.streaming")

# nats-py tells nobody but the callbacks given to its `connect` that it is connected again; a
# connection that the application made has others. So who waits for it looks at it this often.
_LOOK_S: Final = 0.01

# What nats-py raises when a connection breaks under it: also TypeError, from a transport that is
# closed, in some versions of Python 3.12 and 3.13.
_BROKEN: Final = (nats.errors.Error, OSError, TypeError)

# Infinite, as in the Go client: the streaming connection's own pings decide when it is lost.
_RECONNECTS: Final = -1


class NatsLink:
    """One NATS connection, and whether it is ours to close."""

    def __init__(
        self,
        client: Client | None,
        servers: str | Sequence[str],
        options: Mapping[str, Any],
        wait_s: float,
    ) -> None:
        """With a client it is the application's, else one is made of the rest."""
        self._client = client or Client()
        self._is_ours = client is None
        self._servers = [servers] if isinstance(servers, str) else list(servers)
        self._options = dict(options)
        self._wait_s = wait_s

    @property
    def client(self) -> Client:
        """nats-py's connection."""
        return self._client

    @property
    def is_ours(self) -> bool:
        """Whether it was made here."""
        return self._is_ours

    async def open(self) -> None:
        """Connects, unless it is connected. Raises NatsError if it cannot be, after every server
        has refused once or the time is over."""
        if self._client.is_connected or self._client.is_reconnecting:
            return
        if not self._is_ours:
            raise NatsError("stan: invalid connection")
        self._client = Client()
        failures: list[Exception] = []
        tried_all = asyncio.Event()
        report = self._options.get("error_cb")

        async def note(error: Exception) -> None:
            if not self._client.is_connected and not tried_all.is_set():
                failures.append(error)
                if len(failures) >= len(self._servers):
                    tried_all.set()
            elif report is not None:
                await report(error)
            else:
                _log.warning("NATS: %s", _text_of(error))

        settings = {
            "max_reconnect_attempts": _RECONNECTS,
            **self._options,
            "servers": self._servers,
            "error_cb": note,
        }
        connecting = asyncio.create_task(self._client.connect(**settings))
        failing = asyncio.create_task(tried_all.wait())
        try:
            await asyncio.wait(
                (connecting, failing), timeout=self._wait_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not connecting.done():
                cause = failures[-1] if failures else TimeoutError("no answer")
                raise NatsError(f"cannot connect to NATS: {_text_of(cause)}") from cause
            try:
                connecting.result()
            except (OSError, nats.errors.Error) as error:
                raise NatsError(f"cannot connect to NATS: {_text_of(error)}") from error
        except BaseException:
            connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError, nats.errors.Error):
                await connecting
            await self.close()
            raise
        finally:
            tried_all.set()
            failing.cancel()

    async def close(self) -> None:
        """Closes the connection if it is ours."""
        if self._is_ours and not self._client.is_closed:
            # nats-py tries to write what it still has, wherever the other end is.
            with contextlib.suppress(*_BROKEN):
                await self._client.close()

    async def wait_connected(self, until: float) -> bool:
        """Whether NATS is connected, or is again before this moment of the loop's clock."""
        loop = asyncio.get_running_loop()
        while not self._client.is_connected:
            if self._client.is_closed:
                raise NatsError("nats: connection closed")
            if loop.time() >= until:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    async def subscribe(self, subject: str, on_message: OnMessage) -> Subscription:
        """A subscription without bounds of its own: the streaming protocol bounds what comes.

        Raises NatsError.
        """
        try:
            return await self._client.subscribe(
                subject, cb=on_message, pending_msgs_limit=0, pending_bytes_limit=0
            )
        except _BROKEN as error:
            raise NatsError(_text_of(error)) from error

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Ends one; one that ended with its connection is as good."""
        with contextlib.suppress(*_BROKEN):
            await subscription.unsubscribe()

    async def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Sends a message. Raises NatsError."""
        try:
            await self._client.publish(subject, payload, reply=reply)
        except _BROKEN as error:
            raise NatsError(_text_of(error)) from error

    async def request(self, subject: str, payload: bytes, wait_s: float, text: str) -> bytes:
        """The payload of the answer. Raises RequestTimeoutError with this text, or NatsError."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        if not await self.wait_connected(until):
            raise RequestTimeoutError(text)
        try:
            answer = await self._client.request(subject, payload, timeout=until - loop.time())
        except nats.errors.NoRespondersError as error:
            raise RequestTimeoutError(text, is_nobody_there=True) from error
        except nats.errors.TimeoutError as error:
            raise RequestTimeoutError(text) from error
        except _BROKEN as error:
            raise NatsError(_text_of(error)) from error
        return answer.data


def is_no_responders(message: Msg) -> bool:
    """Whether it is the NATS server's word that nobody got the request."""
    return not message.data and (message.headers or {}).get("Status") == "503"


def _text_of(error: BaseException) -> str:
    return str(error) or type(error).__name__
