"""The streaming client when a server restarts, forgets it, or another client takes its place."""

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

import nats
import pytest

from shardd.streaming.client.connection import Connection, connect
from shardd.streaming.client.errors import (
    ClientIdInUseError,
    ConnectionLostError,
    RefusedError,
    StreamingError,
)
from shardd.streaming.client.message import StreamingMessage
from shardd.streaming.client.options import StartAt
from shardd.streaming.messages import CloseRequest
from tests.support.streaming_fixtures import ServeStreaming
from tests.support.streaming_server import CLUSTER_ID, StreamingServer
from tests.support.waiting import PATIENCE, wait_until_async

SCENARIO_S: Final = 50.0 * PATIENCE
REPLACED: Final = "client has been replaced or is no longer registered"

Connect = Callable[..., Awaitable[Connection]]
Scenario = Callable[[Connect], Awaitable[None]]


async def be_silent(_: Exception) -> None:
    """That NATS is away for a while is what these tests are about."""


def run(url: str, scenario: Scenario) -> None:
    """Runs a scenario under a watchdog with a way to connect; all is closed at the end."""

    async def on_stage() -> None:
        async with asyncio.timeout(SCENARIO_S), contextlib.AsyncExitStack() as stack:

            async def open_client(client_id: str = "", **options: Any) -> Connection:
                connection = await connect(
                    CLUSTER_ID,
                    client_id or f"client-{uuid.uuid4().hex}",
                    servers=url,
                    nats_options={"reconnect_time_wait": 0.05, "error_cb": be_silent},
                    ping_interval_s=1,
                    **options,
                )

                async def close() -> None:
                    with contextlib.suppress(StreamingError):
                        await connection.close()

                stack.push_async_callback(close)
                return connection

            await scenario(open_client)

    asyncio.run(on_stage())


async def close_at_the_server(url: str, connection: Connection) -> None:
    """The server forgets the client, as it does with one that another replaces."""
    client = await nats.connect(url, allow_reconnect=False)
    subject = f"_STAN.close.{CLUSTER_ID}"
    answer = await client.request(subject, CloseRequest(connection.client_id).encode(), timeout=5)
    assert answer.data == b""
    await client.close()


def new_channel() -> str:
    return f"test.{uuid.uuid4().hex}"


def test_a_restart_of_the_server_is_not_noticed(serve_streaming: ServeStreaming) -> None:
    server = serve_streaming()

    async def scenario(connect: Connect) -> None:
        lost: list[Any] = []
        connection = await connect(connection_lost_cb=lambda *what: lost.append(what))
        got: list[StreamingMessage] = []
        await connection.subscribe("a", got.append, ack_wait_s=1)
        await connection.publish("a", b"1")
        await wait_until_async(lambda: len(got) == 1, "the first message")

        restarting = asyncio.get_running_loop().run_in_executor(None, server.restart)
        await wait_until_async(lambda: not connection.nats.is_connected, "the disconnection")
        assert not connection.is_connected
        published = asyncio.create_task(connection.publish("a", b"2"))
        await restarting
        await published

        def second() -> list[int]:
            """The first may come again: its ack may have died with the server."""
            return [message.sequence for message in got if message.data == b"2"]

        await wait_until_async(second, "the second message")
        assert set(second()) == {2}
        assert not lost

    run(server.url, scenario)


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_over_restarts(serve_streaming: ServeStreaming) -> None:
    server = serve_streaming()

    async def scenario(connect: Connect) -> None:
        connection = await connect(publish_wait_s=1.0)
        got: set[bytes] = set()
        await connection.subscribe("a", lambda message: got.add(message.data), ack_wait_s=1)
        acknowledged: set[bytes] = set()
        is_over = False

        async def publish() -> None:
            for number in itertools.count():
                if is_over:
                    return
                data = b"%d" % number
                with contextlib.suppress(StreamingError):
                    await connection.publish("a", data)
                    acknowledged.add(data)

        publishing = asyncio.create_task(publish())
        for _ in range(2):
            enough = len(acknowledged) + 50
            await wait_until_async(lambda: len(acknowledged) > enough, "some acks")  # noqa: B023
            await asyncio.get_running_loop().run_in_executor(None, server.restart)
        is_over = True
        await publishing
        await wait_until_async(lambda: acknowledged <= got, "all that was acknowledged")

    run(server.url, scenario)


def test_a_client_that_the_server_forgot_is_lost(streaming_server: StreamingServer) -> None:
    async def scenario(connect: Connect) -> None:
        lost: list[Any] = []

        async def note(*what: Any) -> None:
            await asyncio.sleep(0)
            lost.append(what)

        connection = await connect(connection_lost_cb=note)
        subscription = await connection.subscribe(new_channel())
        waits: Any = asyncio.ensure_future(anext(aiter(subscription)))
        await close_at_the_server(streaming_server.url, connection)
        with pytest.raises(ConnectionLostError, match=REPLACED):
            await waits
        await wait_until_async(lambda: bool(lost), "the callback")
        assert lost[0][0] is connection
        assert isinstance(lost[0][1], RefusedError)
        assert connection.is_closed
        assert connection.nats.is_closed
        for use in (connection.subscribe("a"), connection.publish("a", b""), subscription.close()):
            with pytest.raises(ConnectionLostError, match=REPLACED):
                await use
        await connection.close()

    run(streaming_server.url, scenario)


def test_a_lost_connection_is_made_anew_with_its_subscriptions(
    streaming_server: StreamingServer,
) -> None:
    async def scenario(connect: Connect) -> None:
        url = streaming_server.url
        restored: list[Any] = []
        publisher = await connect()
        connection = await connect(
            reconnect=True, connection_restored_cb=lambda *what: restored.append(what)
        )
        handled, fresh, durable, closed = (new_channel() for _ in range(4))
        got: dict[str, list[int]] = {channel: [] for channel in (handled, fresh, durable)}

        def note(message: StreamingMessage) -> None:
            got[message.channel].append(message.sequence)

        await publisher.publish(handled, b"")
        await publisher.publish(durable, b"")
        start = StartAt.all_available()
        await connection.subscribe(handled, note, start=start)
        await connection.subscribe(fresh, note)
        kept = await connection.subscribe(durable, note, start=start, durable_name="d")
        await (await connection.subscribe(closed)).close()
        await wait_until_async(lambda: got[handled] == got[durable] == [1], "the first messages")

        await close_at_the_server(url, connection)
        for channel in (handled, fresh, durable):
            await publisher.publish(channel, b"")
        await wait_until_async(lambda: bool(restored), "the new connection")
        assert restored[0][0] is connection
        assert str(restored[0][1]) == REPLACED
        for channel in (handled, fresh, durable):
            await connection.publish(channel, b"")
        await wait_until_async(
            lambda: got == {handled: [1, 2, 3], fresh: [1, 2], durable: [1, 2, 3]},
            "what came while it was away, once, and what came then",
        )
        assert connection.is_connected
        await kept.unsubscribe()

    run(streaming_server.url, scenario)


def test_what_was_received_and_not_acknowledged_comes_again_after_a_loss(
    streaming_server: StreamingServer,
) -> None:
    async def scenario(connect: Connect) -> None:
        channel = new_channel()
        restored = asyncio.Event()
        connection = await connect(reconnect=True, connection_restored_cb=lambda *_: restored.set())
        subscription = await connection.subscribe(channel, manual_ack=True)
        for _ in range(4):
            await connection.publish(channel, b"")
        messages = aiter(subscription)
        first, _, third = [await anext(messages) for _ in range(3)]
        await first.ack()
        await third.ack()
        await close_at_the_server(streaming_server.url, connection)
        await restored.wait()
        assert [(await anext(messages)).sequence for _ in range(3)] == [2, 3, 4]

    run(streaming_server.url, scenario)


def test_a_store_in_memory_that_is_gone_is_no_end(serve_streaming: ServeStreaming) -> None:
    server = serve_streaming(is_durable=False)

    async def scenario(connect: Connect) -> None:
        restored = asyncio.Event()
        connection = await connect(reconnect=True, connection_restored_cb=lambda *_: restored.set())
        got: list[tuple[int, bytes]] = []
        await connection.subscribe("a", lambda each: got.append((each.sequence, each.data)))
        await connection.publish("a", b"before")
        await asyncio.get_running_loop().run_in_executor(None, server.restart)
        await restored.wait()
        await connection.publish("a", b"after")
        await wait_until_async(lambda: len(got) == 2, "the message after")
        assert got == [(1, b"before"), (1, b"after")]

    run(server.url, scenario)


@pytest.mark.slow
def test_a_client_id_that_another_has_taken_is_a_loss_for_good(
    streaming_server: StreamingServer,
) -> None:
    async def scenario(connect: Connect) -> None:
        lost: list[Any] = []
        connection = await connect(
            reconnect=True, connection_lost_cb=lambda *what: lost.append(what)
        )
        await close_at_the_server(streaming_server.url, connection)
        await connect(connection.client_id)
        await wait_until_async(lambda: bool(lost), "the loss")
        assert isinstance(lost[0][1], ClientIdInUseError)
        assert connection.is_closed

    run(streaming_server.url, scenario)


def test_a_connection_can_be_closed_while_it_tries_to_come_back(
    serve_streaming: ServeStreaming,
) -> None:
    server = serve_streaming(is_durable=False)

    async def scenario(connect: Connect) -> None:
        given = await nats.connect(server.url, reconnect_time_wait=0.05, error_cb=be_silent)
        connection = await connect(nats=given, reconnect=True, connect_wait_s=0.5)
        subscription = await connection.subscribe("a")
        waits: Any = asyncio.ensure_future(anext(aiter(subscription)))
        await asyncio.sleep(0)
        loop: Any = asyncio.get_running_loop()
        await loop.run_in_executor(None, server.kill)
        connection._lose(connection.session, ConnectionLostError("test"))
        publishing = asyncio.create_task(connection.publish("a", b""))
        await asyncio.sleep(0)
        await connection.close()
        with pytest.raises(StopAsyncIteration):
            await waits
        with pytest.raises(StreamingError, match="stan: connection closed"):
            await publishing
        assert not given.is_closed
        # It had something to say to the server that is gone; see also NatsLink.close.
        with contextlib.suppress(OSError, TypeError):
            await given.close()

    run(server.url, scenario)
