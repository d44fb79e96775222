"""The streaming client, as people use it, on each kind of streaming server."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from shardd.streaming.client.connection import Connection, connect
from shardd.streaming.client.errors import (
    ClientIdInUseError,
    ConnectionClosedError,
    ManualAckError,
    RefusedError,
    SubscriptionClosedError,
)
from shardd.streaming.client.message import StreamingMessage
from shardd.streaming.client.options import StartAt
from shardd.streaming.client.subscription import Subscription
from tests.support.streaming_server import CLUSTER_ID, StreamingServer
from tests.support.waiting import PATIENCE, WAIT_S, wait_until_async

SCENARIO_S: Final = 30.0 * PATIENCE

Scenario = Callable[["Stage"], Awaitable[None]]
Play = Callable[[Scenario], None]


class Stage:
    """Clients of a server, a channel that no other test has, and what came by it."""

    def __init__(self, url: str, stack: contextlib.AsyncExitStack) -> None:
        self.url = url
        self.channel = f"test.{uuid.uuid4().hex}"
        self._stack = stack

    async def connect(self, client_id: str = "", **options: Any) -> Connection:
        """A client, closed at the end."""
        name = client_id or f"client-{uuid.uuid4().hex}"
        options = {"connect_wait_s": WAIT_S, **options}
        connection = await connect(CLUSTER_ID, name, servers=self.url, **options)
        self._stack.push_async_callback(connection.close)
        return connection

    async def fill(self, connection: Connection, count: int) -> None:
        """Messages that say their number, from 1."""
        for number in range(1, count + 1):
            await connection.publish(self.channel, b"%d" % number)


@pytest.fixture
def play(streaming_server: StreamingServer) -> Play:
    """Runs a scenario on the shared server, under a watchdog."""
    return lambda scenario: run(streaming_server.url, scenario)


def run(url: str, scenario: Scenario) -> None:
    async def on_stage() -> None:
        async with asyncio.timeout(SCENARIO_S), contextlib.AsyncExitStack() as stack:
            await scenario(Stage(url, stack))

    asyncio.run(on_stage())


async def take(subscription: Subscription, count: int) -> list[StreamingMessage]:
    """The next messages; all but the last are acknowledged, if that is done for us."""
    messages = aiter(subscription)
    return [await anext(messages) for _ in range(count)]


def sequences(messages: list[StreamingMessage]) -> list[int]:
    return [message.sequence for message in messages]


@contextlib.asynccontextmanager
async def nothing_more(subscription: Subscription, connection: Connection) -> AsyncIterator[None]:
    """Whatever is published inside is not delivered to the subscription, or not yet: a message to
    another subscriber, published behind it, is."""
    channel = f"{subscription.channel}.sentinel"
    async with await connection.subscribe(channel) as sentinel:
        yield
        await connection.publish(channel, b"")
        await take(sentinel, 1)
        assert subscription.waiting == 0


# --- publishing and receiving --------------------------------------------------------------------


def test_messages_come_in_order_with_sequence_and_time(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()
        async with await connection.subscribe(it.channel) as subscription:
            began = datetime.now(UTC)
            futures = [
                await connection.publish_async(it.channel, b"%d" % number) for number in range(100)
            ]
            guids = [await future for future in futures]
            assert len(set(guids)) == 100
            messages = await take(subscription, 100)
            assert sequences(messages) == list(range(1, 101))
            assert [int(message.data) for message in messages] == list(range(100))
            assert {message.channel for message in messages} == {it.channel}
            assert not any(message.redelivered for message in messages)
            assert abs(messages[0].timestamp - began) < timedelta(seconds=SCENARIO_S)
            assert messages[0].timestamp_ns // 1000 == round(
                messages[0].timestamp.timestamp() * 1e6
            )

    play(scenario)


@pytest.mark.parametrize("is_coroutine", [False, True], ids=["function", "coroutine function"])
def test_a_callback_gets_the_messages_and_they_are_acknowledged(
    play: Play, is_coroutine: bool
) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()
        got: list[StreamingMessage] = []

        async def slow(message: StreamingMessage) -> None:
            await asyncio.sleep(0)
            got.append(message)

        callback: Any = slow if is_coroutine else got.append
        subscription = await connection.subscribe(it.channel, callback, max_in_flight=1)
        await it.fill(connection, 5)
        await wait_until_async(lambda: len(got) == 5, "all messages, one in flight at a time")
        assert sequences(got) == [1, 2, 3, 4, 5]
        await subscription.close()
        assert subscription.is_closed

    play(scenario)


def test_a_callback_that_raises_gets_its_message_again(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        errors: list[Exception] = []
        connection = await it.connect(error_cb=errors.append)
        got: list[StreamingMessage] = []

        def fail_once(message: StreamingMessage) -> None:
            got.append(message)
            if not message.redelivered:
                raise ZeroDivisionError

        await connection.subscribe(it.channel, fail_once, ack_wait_s=1)
        await it.fill(connection, 1)
        await wait_until_async(lambda: len(got) == 2, "the redelivery")
        assert got[1].redelivery_count == 1
        assert [type(error) for error in errors] == [ZeroDivisionError]

    play(scenario)


def test_a_loop_acknowledges_what_it_went_past(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()
        await it.fill(connection, 3)
        subscribe = lambda: connection.subscribe(  # noqa: E731
            it.channel, durable_name="d", start=StartAt.all_available(), max_in_flight=1
        )
        async with await subscribe() as subscription:
            async for message in subscription:
                if message.sequence == 2:
                    break
        async with await subscribe() as subscription:
            first, second = await take(subscription, 2)
            assert (first.sequence, first.redelivered) == (2, True)
            assert (second.sequence, second.redelivered) == (3, False)

    play(scenario)


def test_publish_callbacks_hear_of_every_message(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect(publishes_in_flight_max=10)
        told: list[tuple[str, Exception | None]] = []
        for _ in range(100):
            await connection.publish_async(it.channel, b"", lambda *what: told.append(what))
            assert connection.in_flight <= 10
        await connection.flush()
        assert connection.in_flight == 0
        assert [error for _, error in told] == [None] * 100

    play(scenario)


def test_the_first_example_of_the_documentation_runs(
    streaming_server: StreamingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "streaming-client.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    example = example.replace("nats://localhost:4222", streaming_server.url)
    example = example.replace('"orders"', f'"example.{uuid.uuid4().hex}"')
    exec(compile(example, "streaming-client.md", "exec"), {})
    assert capsys.readouterr().out.startswith("1 ")


# --- start positions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "first"),
    [
        (StartAt.new_only, 6),
        (StartAt.last_received, 5),
        (StartAt.all_available, 1),
        (lambda: StartAt.sequence(3), 3),
        (lambda: StartAt.sequence(0), 1),
        (lambda: StartAt.sequence(99), 6),
        (lambda: StartAt.time(datetime.now(UTC) + timedelta(hours=1)), 6),
        (lambda: StartAt.time(datetime.now(UTC) - timedelta(hours=1)), 1),
        (lambda: StartAt.time_delta(timedelta(hours=1)), 1),
        (lambda: StartAt.time_delta(timedelta(hours=-1)), 6),
    ],
)
def test_every_start_position(play: Play, start: Callable[[], StartAt], first: int) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()
        await it.fill(connection, 5)
        async with await connection.subscribe(it.channel, start=start()) as subscription:
            await connection.publish(it.channel, b"6")
            got = await take(subscription, 7 - first)
            assert sequences(got) == list(range(first, 7))
            assert [int(message.data) for message in got] == sequences(got)

    play(scenario)


def test_a_start_between_two_messages(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()
        await it.fill(connection, 1)
        between = datetime.now(UTC)
        # The delta is taken from the server's clock when the request arrives: that is later.
        await wait_until_async(
            lambda: datetime.now(UTC) > between + timedelta(seconds=0.5), "time to pass"
        )
        await it.fill(connection, 1)
        for start in (StartAt.time(between), StartAt.time_delta(datetime.now(UTC) - between)):
            async with await connection.subscribe(it.channel, start=start) as subscription:
                assert sequences(await take(subscription, 1)) == [2]

    play(scenario)


# --- acks ----------------------------------------------------------------------------------------


def test_no_more_than_max_in_flight_are_on_their_way(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()
        await it.fill(connection, 5)
        async with await connection.subscribe(
            it.channel, start=StartAt.all_available(), max_in_flight=2, manual_ack=True
        ) as subscription:
            first, second = await take(subscription, 2)
            async with nothing_more(subscription, connection):
                pass
            await second.ack()
            (third,) = await take(subscription, 1)
            async with nothing_more(subscription, connection):
                pass
            await third.ack()
            await first.ack()
            assert sequences(await take(subscription, 2)) == [4, 5]

    play(scenario)


def test_a_message_without_ack_comes_again_and_again(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()
        await it.fill(connection, 2)
        async with await connection.subscribe(
            it.channel, start=StartAt.all_available(), ack_wait_s=1, manual_ack=True
        ) as subscription:
            first, second = await take(subscription, 2)
            await second.ack()
            for count in (1, 2):
                (again,) = await take(subscription, 1)
                assert (again.sequence, again.redelivered) == (1, True)
                assert again.redelivery_count == count
                assert again.data == first.data
            await again.ack()

    play(scenario)


def test_acks_by_hand_are_for_manual_subscriptions_that_are_open(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()
        await it.fill(connection, 1)
        start = StartAt.all_available()
        async with await connection.subscribe(it.channel, start=start) as subscription:
            (message,) = await take(subscription, 1)
            with pytest.raises(ManualAckError, match="stan: cannot manually ack in auto-ack mode"):
                await message.ack()
        async with await connection.subscribe(
            it.channel, start=start, manual_ack=True
        ) as subscription:
            (message,) = await take(subscription, 1)
        with pytest.raises(SubscriptionClosedError):
            await message.ack()

    play(scenario)


# --- durables and queue groups -------------------------------------------------------------------


def test_a_durable_subscription_goes_on_after_close_and_starts_anew_after_unsubscribe(
    play: Play,
) -> None:
    async def scenario(it: Stage) -> None:
        name = f"durable-{uuid.uuid4().hex}"
        options: dict[str, Any] = {"durable_name": "d", "start": StartAt.all_available()}
        async with await it.connect(name) as connection:
            await it.fill(connection, 3)
            subscription = await connection.subscribe(it.channel, manual_ack=True, **options)
            first, _, third = await take(subscription, 3)
            await first.ack()
            await third.ack()
        async with await it.connect(name) as connection:
            subscription = await connection.subscribe(it.channel, manual_ack=True, **options)
            (second,) = await take(subscription, 1)
            assert (second.sequence, second.redelivered) == (2, True)
            await second.ack()
            await connection.publish(it.channel, b"4")
            (fourth,) = await take(subscription, 1)
            assert (fourth.sequence, fourth.redelivered) == (4, False)
            await subscription.unsubscribe()
            async with await connection.subscribe(it.channel, **options) as subscription:
                assert subscription.durable_name == "d"
                assert sequences(await take(subscription, 4)) == [1, 2, 3, 4]

    play(scenario)


def test_a_queue_group_shares_messages_and_takes_over_from_who_leaves(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        options: dict[str, Any] = {"queue_group": "q", "manual_ack": True, "max_in_flight": 5}
        one, other = await it.connect(), await it.connect()
        first = await one.subscribe(it.channel, **options)
        second = await other.subscribe(it.channel, **options)
        assert first.queue_group == "q"
        await it.fill(one, 10)
        got = await take(first, 5), await take(second, 5)
        assert sorted(sequences(got[0]) + sequences(got[1])) == list(range(1, 11))
        for message in got[1]:
            await message.ack()
        await one.close()
        again = await take(second, 5)
        assert sorted(sequences(again)) == sorted(sequences(got[0]))
        assert all(message.redelivered for message in again)

    play(scenario)


def test_a_durable_queue_group_outlives_its_members(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        options: dict[str, Any] = {"queue_group": "q", "durable_name": "d"}
        async with await it.connect() as connection:
            await it.fill(connection, 2)
            start = StartAt.all_available()
            subscription = await connection.subscribe(it.channel, start=start, **options)
            assert len(await take(subscription, 2)) == 2
        async with await it.connect() as connection:
            await connection.publish(it.channel, b"3")
            subscription = await connection.subscribe(it.channel, **options)
            # The first loop ended before it had acknowledged the second message.
            got = await take(subscription, 2)
            assert [(each.sequence, each.redelivered) for each in got] == [(2, True), (3, False)]

    play(scenario)


# --- refusals and ends ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "options", "text"),
    [
        ("a.*", {}, "stan: invalid subject"),
        ("a..b", {}, "stan: invalid subject"),
        ("", {}, "stan: invalid subject"),
        ("a", {"ack_wait_s": 0.9}, "stan: invalid ack wait time, should be >= 1s"),
        ("a", {"max_in_flight": 0}, "stan: invalid MaxInflight, should be >= 1"),
        ("a", {"durable_name": "x:y", "queue_group": "q"}, "can't contain the character ':'"),
    ],
)
def test_subscriptions_are_refused_in_the_servers_words(
    play: Play, channel: str, options: dict[str, Any], text: str
) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()
        with pytest.raises(RefusedError) as caught:
            await connection.subscribe(channel, **options)
        assert text in str(caught.value)

    play(scenario)


def test_names_that_are_taken_are_refused(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()
        with pytest.raises(ClientIdInUseError, match="stan: clientID already registered"):
            await it.connect(connection.client_id)
        with pytest.raises(RefusedError, match="stan: invalid clientID: only alphanumeric"):
            await it.connect("a.b")
        await connection.subscribe(it.channel, durable_name="d")
        with pytest.raises(RefusedError, match="stan: duplicate durable registration"):
            await connection.subscribe(it.channel, durable_name="d")
        with pytest.raises(RefusedError, match="stan: invalid publish request"):
            await connection.publish("a.>", b"")

    play(scenario)


def test_a_loop_ends_with_its_subscription_or_connection(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()

        async def loop(subscription: Subscription) -> str:
            async for _ in subscription:
                pass
            return "ended"

        first, second = [await connection.subscribe(it.channel) for _ in range(2)]
        loops = [asyncio.create_task(loop(each)) for each in (first, second)]
        await asyncio.sleep(0)
        await first.unsubscribe()
        assert await loops[0] == "ended"
        assert not loops[1].done()
        await connection.close()
        assert await loops[1] == "ended"
        with pytest.raises(ConnectionClosedError):
            await connection.publish(it.channel, b"")

    play(scenario)


def test_a_callback_may_close_its_subscription_and_its_connection(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        publisher, connection = await it.connect(), await it.connect()
        ended: list[int] = []

        async def one_is_enough(message: StreamingMessage) -> None:
            await subscription.close()
            ended.append(message.sequence)

        subscription = await connection.subscribe(it.channel, one_is_enough)
        await it.fill(publisher, 2)
        await wait_until_async(lambda: ended == [1], "the end of the callback")

        async def that_is_all(message: StreamingMessage) -> None:
            await connection.close()
            ended.append(message.sequence)

        await connection.subscribe(it.channel, that_is_all, start=StartAt.all_available())
        await wait_until_async(lambda: ended == [1, 1], "the end of the callback")
        assert connection.is_closed
        # The server has freed the id.
        await it.connect(connection.client_id)

    play(scenario)
