"""Asking the server, again and again, whether a connection still exists."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from nats.aio.msg import Msg

from shardd.streaming.client.errors import (
    ConnectionLostError,
    NatsError,
    StreamingError,
    refusal,
)
from shardd.streaming.client.link import NatsLink, is_no_responders
from shardd.streaming.messages import Ping, PingResponse

OnLost = Callable[[StreamingError], None]

_log: Final = logging.getLogger("shardd.streaming")

PINGS_FAILED: Final = "stan: connection lost due to PING failure"


class Pinger:
    """Pings at an interval; one answer, whoever it is from, makes up for all that were missed."""

    def __init__(
        self,
        link: NatsLink,
        subject: str,
        inbox: str,
        conn_id: bytes,
        interval_s: float,
        max_out: int,
        on_lost: OnLost,
    ) -> None:
        self._link = link
        self._subject = subject
        self._inbox = inbox
        self._payload = Ping(conn_id).encode()
        self._interval_s = interval_s
        self._max_out = max_out
        self._on_lost = on_lost
        self._unanswered = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins, one interval from now."""
        self._task = asyncio.create_task(self._ping())

    def stop(self) -> None:
        """Ends; nothing is reported any more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def process_response(self, message: Msg) -> None:
        """Takes an answer: no bytes mean that all is well."""
        if is_no_responders(message):
            return
        try:
            error = PingResponse.decode(message.data).error
        except ValueError:
            _log.warning("a server answered a ping with bytes that are no answer")
            return
        if error:
            self._lose(refusal(error))
        else:
            self._unanswered = 0

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            self._unanswered += 1
            if self._unanswered > self._max_out:
                return self._lose(ConnectionLostError(PINGS_FAILED))
            if self._link.client.is_closed:
                return self._lose(NatsError("nats: connection closed"))
            if self._link.client.is_connected:
                # A ping that cannot be sent counts as one that is not answered.
                with contextlib.suppress(NatsError):
                    await self._link.publish(self._subject, self._payload, self._inbox)

    def _lose(self, error: StreamingError) -> None:
        if self._task is not None:
            self.stop()
            self._on_lost(error)
