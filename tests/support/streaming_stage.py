"""Clients of the streaming double, on a real nats-server: the stage of a test's scenario."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import nats
from nats.aio.client import Client

from shardd.streaming.client.connection import Connection, connect
from shardd.streaming.client.errors import StreamingError
from tests.support.streaming_double import CLUSTER_ID, StreamingDouble
from tests.support.waiting import PATIENCE

SCENARIO_S: Final = 30.0 * PATIENCE
SHORT_S: Final = 0.05  # a wait that is meant to run out

Scenario = Callable[["Stage"], Awaitable[None]]
Play = Callable[[Scenario], None]


class Stage:
    """The double, and clients of it."""

    def __init__(self, url: str, double: StreamingDouble, ours: contextlib.AsyncExitStack) -> None:
        self.url = url
        self.double = double
        self._ours = ours

    async def connect(self, **options: Any) -> Connection:
        """A client, closed at the end if it is not."""
        connection = await connect(CLUSTER_ID, "me", servers=self.url, **options)

        async def close() -> None:
            with contextlib.suppress(StreamingError):
                await connection.close()

        self._ours.push_async_callback(close)
        return connection

    async def nats(self) -> Client:
        """A NATS connection, closed at the end."""
        client = await nats.connect(self.url, allow_reconnect=False)
        self._ours.push_async_callback(client.close)
        return client


@contextlib.asynccontextmanager
async def stage(url: str) -> AsyncIterator[Stage]:
    """A double that listens, and what is needed to be its client."""
    async with contextlib.AsyncExitStack() as stack:
        client = await nats.connect(url, allow_reconnect=False)
        stack.push_async_callback(client.close)
        double = StreamingDouble(client)
        await double.start()
        yield Stage(url, double, stack)


def play_on(url: str, scenario: Scenario) -> None:
    """Runs a scenario under a watchdog."""

    async def on_stage() -> None:
        async with asyncio.timeout(SCENARIO_S), stage(url) as it:
            await scenario(it)

    asyncio.run(on_stage())
