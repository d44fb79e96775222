"""The Python client of NATS, as people use it, on each kind of server.

The last tests kill a worker of shardd under a connected client: it reconnects by itself, and a
client of another worker never notices.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.support.broker import SHARDD_KINDS, Broker, Shardd, make_broker
from tests.support.waiting import PATIENCE, WAIT_S, wait_until, wait_until_async

SCENARIO_S = 30.0 * PATIENCE
RECONNECT_WAIT_S: Any = 0.05  # nats-py's annotation says int, and any number of seconds works


def run(scenario: Awaitable[None]) -> None:
    """Run one scenario under a watchdog."""

    async def with_watchdog() -> None:
        await asyncio.wait_for(scenario, SCENARIO_S)

    asyncio.run(with_watchdog())


@contextlib.asynccontextmanager
async def clients(server: Broker, count: int = 1) -> AsyncIterator[list[Client]]:
    """Connected clients that report every asynchronous error at the end."""
    errors: list[Exception] = []

    async def note_error(error: Exception) -> None:
        errors.append(error)

    connected: list[Client] = []
    try:
        for _ in range(count):
            client = await nats.connect(server.url, error_cb=note_error, allow_reconnect=False)
            connected.append(client)
        yield connected
    finally:
        for client in connected:
            await client.close()
    assert not errors


async def settle(client: Client) -> None:
    """Return when the server has done all that this client asked for.

    One flush is not enough: nats-py writes its PING past commands that wait for its flusher task.
    The first round trip gives that task its turn, the second one counts.
    """
    await client.flush()
    await client.flush()


Scenario = Callable[[list[Client]], Awaitable[None]]


def run_with(server: Broker, count: int, scenario: Scenario) -> None:
    """Run a scenario with this many clients."""

    async def connected() -> None:
        async with clients(server, count) as all_clients:
            await scenario(all_clients)

    run(connected())


def test_publish_and_subscribe(server: Broker) -> None:
    async def scenario(two: list[Client]) -> None:
        subscription = await two[0].subscribe("py.pub.*")
        await settle(two[0])
        for number in range(100):
            await two[1].publish(f"py.pub.{number}", str(number).encode())
        for number in range(100):
            message = await subscription.next_msg(timeout=WAIT_S)
            assert message.subject == f"py.pub.{number}"
            assert message.data == str(number).encode()

    run_with(server, 2, scenario)


def test_a_callback_gets_every_message_in_order(server: Broker) -> None:
    async def scenario(two: list[Client]) -> None:
        received: list[bytes] = []

        async def on_message(message: Msg) -> None:
            received.append(message.data)

        await two[0].subscribe("py.callback", cb=on_message)
        await settle(two[0])
        wanted = [b"%d" % number for number in range(2000)]
        for data in wanted:
            await two[1].publish("py.callback", data)
        await wait_until_async(lambda: len(received) >= 2000, "all messages")
        assert received == wanted

    run_with(server, 2, scenario)


def test_request_and_reply(server: Broker) -> None:
    async def scenario(two: list[Client]) -> None:
        async def answer(message: Msg) -> None:
            await message.respond(b"re: " + message.data)

        await two[0].subscribe("py.request", cb=answer)
        await settle(two[0])
        for number in range(50):
            reply = await two[1].request("py.request", b"%d" % number, timeout=WAIT_S)
            assert reply.data == b"re: %d" % number
        replies = await asyncio.gather(
            *(two[1].request("py.request", b"%d" % n, timeout=WAIT_S) for n in range(100))
        )
        assert [reply.data for reply in replies] == [b"re: %d" % n for n in range(100)]

    run_with(server, 2, scenario)


def test_old_style_requests_with_an_inbox_each(server: Broker) -> None:
    async def scenario(two: list[Client]) -> None:
        async def answer(message: Msg) -> None:
            await message.respond(message.data * 2)

        await two[0].subscribe("py.oldstyle", cb=answer)
        await settle(two[0])
        for _ in range(20):
            reply = await two[1].request("py.oldstyle", b"ab", timeout=WAIT_S, old_style=True)
            assert reply.data == b"abab"

    run_with(server, 2, scenario)


def test_no_responders_is_known_at_once(server: Broker) -> None:
    async def scenario(one: list[Client]) -> None:
        for _ in range(3):
            with pytest.raises(nats.errors.NoRespondersError):
                await one[0].request("py.nobody", b"", timeout=WAIT_S)

    run_with(server, 1, scenario)


def test_headers_go_both_ways(server: Broker) -> None:
    async def scenario(two: list[Client]) -> None:
        async def answer(message: Msg) -> None:
            assert message.headers is not None
            answered = {"Answer": message.headers["Question"][::-1]}
            await two[0].publish(message.reply, b"", headers=answered)

        await two[0].subscribe("py.headers", cb=answer)
        await settle(two[0])
        reply = await two[1].request(
            "py.headers", b"body", timeout=WAIT_S, headers={"Question": "drawer"}
        )
        assert reply.headers == {"Answer": "reward"}
        assert reply.data == b""

    run_with(server, 2, scenario)


def test_a_queue_group_shares_the_messages(server: Broker) -> None:
    async def scenario(many: list[Client]) -> None:
        received: list[list[bytes]] = [[] for _ in range(4)]

        def collector(index: int) -> Callable[[Msg], Awaitable[None]]:
            async def on_message(message: Msg) -> None:
                received[index].append(message.data)

            return on_message

        for index in range(4):
            await many[index].subscribe("py.queue", queue="workers", cb=collector(index))
            await settle(many[index])
        for number in range(800):
            await many[4].publish("py.queue", b"%d" % number)
        await wait_until_async(lambda: sum(map(len, received)) >= 800, "all messages")
        assert sorted(int(data) for part in received for data in part) == list(range(800))
        assert all(part for part in received)

    run_with(server, 5, scenario)


def test_unsubscribe_after_a_number_of_messages(server: Broker) -> None:
    async def scenario(two: list[Client]) -> None:
        received: list[bytes] = []

        async def on_message(message: Msg) -> None:
            received.append(message.data)

        limited = await two[0].subscribe("py.max", cb=on_message)
        await limited.unsubscribe(limit=5)
        marker = await two[0].subscribe("py.max.end")
        await settle(two[0])
        for number in range(20):
            await two[1].publish("py.max", b"%d" % number)
        await two[1].publish("py.max.end", b"")
        await marker.next_msg(timeout=WAIT_S)
        await wait_until_async(lambda: len(received) >= 5, "five messages")
        assert received == [b"0", b"1", b"2", b"3", b"4"]

    run_with(server, 2, scenario)


def test_unsubscribe_ends_delivery(server: Broker) -> None:
    async def scenario(two: list[Client]) -> None:
        received: list[bytes] = []

        async def on_message(message: Msg) -> None:
            received.append(message.data)

        subscription = await two[0].subscribe("py.unsub", cb=on_message)
        marker = await two[0].subscribe("py.unsub.end")
        await settle(two[0])
        await two[1].publish("py.unsub", b"before")
        await wait_until_async(lambda: received, "the message before")
        await subscription.unsubscribe()
        await settle(two[0])
        await two[1].publish("py.unsub", b"after")
        await two[1].publish("py.unsub.end", b"")
        await marker.next_msg(timeout=WAIT_S)
        assert received == [b"before"]

    run_with(server, 2, scenario)


def test_drain_handles_what_has_arrived_and_closes(server: Broker) -> None:
    async def scenario(two: list[Client]) -> None:
        received: list[bytes] = []

        async def on_message(message: Msg) -> None:
            await asyncio.sleep(0)
            received.append(message.data)

        await two[0].subscribe("py.drain", cb=on_message)
        await settle(two[0])
        for number in range(200):
            await two[1].publish("py.drain", b"%d" % number)
        await settle(two[1])
        await wait_until_async(lambda: received, "the first message")
        await two[0].drain()
        await wait_until_async(lambda: two[0].is_closed, "the drained client to be closed")
        assert received == [b"%d" % number for number in range(len(received))]

    run_with(server, 2, scenario)


@pytest.mark.parametrize("size", [0, 1, 70_000, 900 * 1024, 1_048_576])
def test_messages_of_every_size(server: Broker, size: int) -> None:
    async def scenario(two: list[Client]) -> None:
        subscription = await two[0].subscribe("py.big")
        await settle(two[0])
        data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
        for _ in range(3):
            await two[1].publish("py.big", data)
        for _ in range(3):
            assert (await subscription.next_msg(timeout=WAIT_S)).data == data

    run_with(server, 2, scenario)


def test_a_message_over_the_limit_is_refused_by_the_client(server: Broker) -> None:
    async def scenario(one: list[Client]) -> None:
        assert one[0].max_payload == 1_048_576
        with pytest.raises(nats.errors.MaxPayloadError):
            await one[0].publish("py.toobig", b"x" * 1_048_577)

    run_with(server, 1, scenario)


def test_many_subscriptions_each_get_their_own_messages(server: Broker) -> None:
    async def scenario(two: list[Client]) -> None:
        subscriptions = [await two[0].subscribe(f"py.many.{n}") for n in range(1000)]
        await settle(two[0])
        for number in range(1000):
            await two[1].publish(f"py.many.{number}", b"%d" % number)
        for number, subscription in enumerate(subscriptions):
            message = await subscription.next_msg(timeout=WAIT_S)
            assert message.data == b"%d" % number
            assert subscription.pending_msgs == 0

    run_with(server, 2, scenario)


def test_flush_waits_for_the_server(server: Broker) -> None:
    async def scenario(one: list[Client]) -> None:
        for _ in range(50):
            await one[0].publish("py.flush", b"x" * 100)
            await one[0].flush()
        assert await one[0].rtt() >= 0

    run_with(server, 1, scenario)


def test_without_echo_own_messages_do_not_come_back(server: Broker) -> None:
    async def scenario() -> None:
        quiet = await nats.connect(server.url, no_echo=True, allow_reconnect=False)
        other = await nats.connect(server.url, allow_reconnect=False)
        try:
            subscription = await quiet.subscribe("py.echo")
            await settle(quiet)
            await quiet.publish("py.echo", b"mine")
            await settle(quiet)
            await other.publish("py.echo", b"theirs")
            assert (await subscription.next_msg(timeout=WAIT_S)).data == b"theirs"
        finally:
            await quiet.close()
            await other.close()

    run(scenario())


def test_verbose_and_pedantic_clients_work(server: Broker) -> None:
    async def scenario() -> None:
        client = await nats.connect(server.url, verbose=True, pedantic=True, allow_reconnect=False)
        try:
            subscription = await client.subscribe("py.verbose")
            await client.publish("py.verbose", b"hi")
            assert (await subscription.next_msg(timeout=WAIT_S)).data == b"hi"
        finally:
            await client.close()

    run(scenario())


# --- a worker dies ----------------------------------------------------------------------------


@pytest.fixture
def own_shardd(server_kind: str, no_leaks: None) -> Iterator[Shardd]:
    """A server of this test's own, whose workers it may kill."""
    broker = make_broker(server_kind)
    assert isinstance(broker, Shardd)
    broker.start()
    yield broker
    broker.stop()


class Watched:
    """A client that counts how often it was disconnected and reconnected."""

    def __init__(self) -> None:
        self.disconnects = 0
        self.reconnects = 0
        self.client = Client()

    async def connect(self, server: Broker) -> None:
        async def on_disconnect() -> None:
            self.disconnects += 1

        async def on_reconnect() -> None:
            self.reconnects += 1

        async def on_error(error: Exception) -> None:
            """The loss of the connection is what the test is about."""

        await self.client.connect(
            server.url,
            reconnect_time_wait=RECONNECT_WAIT_S,
            max_reconnect_attempts=-1,
            disconnected_cb=on_disconnect,
            reconnected_cb=on_reconnect,
            error_cb=on_error,
        )

    def slot(self, server: Shardd) -> int:
        """Which worker holds this connection."""
        client_id = self.client.client_id
        assert client_id is not None
        return (client_id - 1) % server.workers


def kill_worker(server: Shardd, slot: int) -> None:
    worker = server.worker_processes()[slot]
    worker.kill()
    wait_until(lambda: not worker.is_running(), "the killed worker to be gone")


@pytest.mark.parametrize("server_kind", SHARDD_KINDS, indirect=True)
def test_a_client_reconnects_after_its_worker_died(own_shardd: Shardd) -> None:
    async def scenario() -> None:
        watched = Watched()
        await watched.connect(own_shardd)
        try:
            subscription = await watched.client.subscribe("py.died")
            await settle(watched.client)
            kill_worker(own_shardd, watched.slot(own_shardd))
            await wait_until_async(lambda: watched.reconnects == 1, "the client to reconnect")
            await settle(watched.client)
            await watched.client.publish("py.died", b"works again")
            message = await subscription.next_msg(timeout=WAIT_S)
            assert message.data == b"works again"
            assert watched.disconnects == 1
        finally:
            await watched.client.close()

    run(scenario())
    assert own_shardd.is_alive()


@pytest.mark.parametrize("server_kind", SHARDD_KINDS[1:], indirect=True)
def test_a_client_of_another_worker_never_notices(own_shardd: Shardd) -> None:
    async def scenario() -> None:
        one, other = Watched(), Watched()
        strangers: list[Client] = []
        try:
            await one.connect(own_shardd)
            await other.connect(own_shardd)
            while other.slot(own_shardd) == one.slot(own_shardd):
                strangers.append(other.client)
                other = Watched()
                await other.connect(own_shardd)

            async def answer(message: Msg) -> None:
                await message.respond(b"still here")

            await other.client.subscribe("py.bystander", cb=answer)
            await settle(other.client)
            kill_worker(own_shardd, one.slot(own_shardd))
            await wait_until_async(lambda: one.reconnects == 1, "the client to reconnect")
            reply = await one.client.request("py.bystander", b"?", timeout=WAIT_S)
            assert reply.data == b"still here"
            assert other.disconnects == other.reconnects == 0
        finally:
            for client in (one.client, other.client, *strangers):
                await client.close()

    run(scenario())
