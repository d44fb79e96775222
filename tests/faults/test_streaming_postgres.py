"""A real server whose streaming workers keep everything in PostgreSQL, with real clients."""

import asyncio
import contextlib
import itertools
import os
import signal
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

import psutil
import pytest

from shardd.streaming.client.connection import Connection, connect
from shardd.streaming.client.errors import StreamingError
from shardd.streaming.client.message import StreamingMessage
from shardd.streaming.client.options import StartAt
from tests.support.broker import Broker, make_broker
from tests.support.postgres import PASSWORD, Cluster, make_cluster
from tests.support.waiting import PATIENCE, WAIT_S, wait_until, wait_until_async

SCENARIO_S: Final = 50.0 * PATIENCE
READY: Final = "STREAM: Streaming Server is ready"

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = make_cluster()
    yield made
    made.remove()


@pytest.fixture
def source(cluster: Cluster) -> str:
    return cluster.source(cluster.schema())


@contextlib.contextmanager
def server_of(source: str, workers: int = 1) -> Iterator[Broker]:
    """A server with one broker worker, started and ended, which has told no password."""
    broker = make_broker("shardd-1")
    try:
        broker.start_text(
            f'streaming {{ store: SQL, sql {{ source: "{source}" }}, workers: {workers} }}\n'
        )
        wait_until(lambda: READY in broker.log_text(), READY)
        yield broker
    finally:
        broker.stop()
    assert PASSWORD not in broker.log_text()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def watched() -> None:
        async with asyncio.timeout(SCENARIO_S):
            await scenario()

    asyncio.run(watched())


@contextlib.asynccontextmanager
async def client_of(url: str, **options: Any) -> AsyncIterator[Connection]:
    name = f"client-{uuid.uuid4().hex}"
    connection = await connect(
        "test-cluster", name, servers=url, publish_wait_s=3.0, connect_wait_s=WAIT_S, **options
    )
    try:
        yield connection
    finally:
        with contextlib.suppress(StreamingError):
            await connection.close()


class Publisher:
    """Publishes without a pause; what was acknowledged, and what was refused and why."""

    def __init__(self, connection: Connection, channels: list[str]) -> None:
        self.acknowledged: list[bytes] = []
        self.refusals: list[str] = []
        self._connection = connection
        self._channels = channels
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        for number, channel in enumerate(itertools.cycle(self._channels)):
            payload = b"%s %d" % (channel.encode(), number)
            try:
                await self._connection.publish(channel, payload)
            except StreamingError as error:
                self.refusals.append(str(error))
                await asyncio.sleep(0)
            else:
                self.acknowledged.append(payload)

    async def more(self, count: int) -> None:
        goal = len(self.acknowledged) + count
        await wait_until_async(
            lambda: len(self.acknowledged) >= goal, f"{count} more acks", 20.0 * PATIENCE
        )

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))


def test_a_server_serves_from_postgres_and_again_after_a_restart(source: str) -> None:
    channels = [f"c.{number}" for number in range(5)]

    async def first(url: str) -> None:
        async with client_of(url) as connection:
            got: list[StreamingMessage] = []
            await connection.subscribe("c.0", got.append, durable_name="d")
            for channel in channels:
                for number in range(20):
                    await connection.publish(channel, b"%d" % number)
            await wait_until_async(lambda: len(got) == 20, "20 messages")

    async def second(url: str) -> None:
        async with client_of(url) as connection:
            replayed: list[StreamingMessage] = []
            await connection.subscribe("c.1", replayed.append, start=StartAt.all_available())
            await wait_until_async(lambda: len(replayed) == 20, "20 messages")
            assert [message.data for message in replayed] == [b"%d" % n for n in range(20)]
            await connection.publish("c.0", b"next")
            await connection.publish("c.1", b"next")
            await wait_until_async(lambda: len(replayed) == 21, "the next message")
            assert replayed[-1].sequence == 21

    for scenario, workers in ((first, 1), (second, 2)):  # parts go to whoever is there
        with server_of(source, workers) as broker:
            run(lambda scenario=scenario, broker=broker: scenario(broker.url))  # type: ignore[misc]


def test_the_database_stops_and_starts_under_load(cluster: Cluster, source: str) -> None:
    channels = [f"c.{number}" for number in range(4)]
    with server_of(source) as broker:

        async def scenario() -> None:
            async with client_of(broker.url) as connection:
                got: list[bytes] = []
                for channel in channels:
                    await connection.subscribe(
                        channel, lambda m: got.append(m.data), durable_name="d", ack_wait_s=1
                    )
                publisher = Publisher(connection, channels)
                await publisher.more(50)
                await asyncio.to_thread(cluster.stop, signal.SIGQUIT)
                text = "the message could not be stored: the database cannot be reached"
                await wait_until_async(
                    lambda: any(text in each for each in publisher.refusals), "a refusal"
                )
                await asyncio.to_thread(cluster.start)
                await publisher.more(50)
                await publisher.stop()
                await wait_until_async(
                    lambda: set(publisher.acknowledged) <= set(got), "what was acknowledged"
                )

        run(scenario)
        lines = broker.log_text().splitlines()
        assert sum("the connection is lost" in line for line in lines) == 1
        assert sum("can be used again" in line for line in lines) == 1


def test_a_killed_worker_is_replaced_and_reads_what_it_acknowledged(source: str) -> None:
    with server_of(source) as broker:

        async def scenario() -> None:
            async with client_of(broker.url) as connection:
                got: list[bytes] = []
                await connection.subscribe(
                    "foo", lambda m: got.append(m.data), durable_name="d", ack_wait_s=1
                )
                publisher = Publisher(connection, ["foo"])
                await publisher.more(50)
                children = psutil.Process(broker.pid).children()
                os.kill(max(children, key=lambda c: (c.create_time(), c.pid)).pid, signal.SIGKILL)
                text = "Streaming 0 is ready"
                await wait_until_async(lambda: text in broker.log_text(), text)
                await publisher.more(50)
                await publisher.stop()
                await wait_until_async(
                    lambda: set(publisher.acknowledged) <= set(got), "what was acknowledged"
                )

        run(scenario)


def test_a_server_that_starts_before_its_database_waits_for_it(
    cluster: Cluster, source: str
) -> None:
    cluster.stop()
    broker = make_broker("shardd-1")
    thread = threading.Thread(target=server_text_started, args=(broker, source))
    thread.start()
    try:
        place = f'database "postgres" on 127.0.0.1:{cluster.port} cannot be reached'

        def attempts() -> bool:
            return broker.log_text().count(place) > 3  # more often than a broken boot

        wait_until(attempts, "the worker says what it misses", 30.0 * PATIENCE)
        cluster.start()
        thread.join()
        wait_until(lambda: READY in broker.log_text(), READY)
        assert PASSWORD not in broker.log_text()
    finally:
        thread.join()
        broker.stop()


def server_text_started(broker: Broker, source: str) -> None:
    broker.start_text(f'streaming {{ store: SQL, sql {{ source: "{source}" }} }}\n')
