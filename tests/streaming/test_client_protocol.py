"""What the streaming client says to a server, and what it makes of odd answers and of silence.

The server is a double on a real nats-server, so that each bad moment can be arranged.
"""

import asyncio
from typing import Any

import pytest

from shardd.streaming.client.connection import connect
from shardd.streaming.client.errors import (
    ClientIdInUseError,
    ConnectionClosedError,
    MalformedReplyError,
    NatsError,
    PublishTimeoutError,
    RefusedError,
    RequestTimeoutError,
    StreamingError,
    SubscriptionClosedError,
)
from shardd.streaming.client.message import StreamingMessage
from shardd.streaming.client.options import StartAt
from shardd.streaming.messages import (
    Ack,
    CloseRequest,
    ConnectResponse,
    MsgProto,
    PubAck,
    PubMsg,
    StartPosition,
    SubscriptionRequest,
    SubscriptionResponse,
    UnsubscribeRequest,
)
from tests.support.broker import NATS_SERVER
from tests.support.fixtures import BrokerPool
from tests.support.streaming_double import CLUSTER_ID, is_anybody_at
from tests.support.streaming_stage import SCENARIO_S, SHORT_S, Play, Stage, play_on
from tests.support.waiting import wait_until_async


@pytest.fixture
def play(session_pool: BrokerPool, no_leaks: None) -> Play:
    """Runs a scenario under a watchdog."""
    url = session_pool.get(NATS_SERVER, {}).url
    return lambda scenario: play_on(url, scenario)


# --- connecting ----------------------------------------------------------------------------------


def test_a_connect_request_says_all_that_protocol_1_has(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect(ping_interval_s=7, ping_max_out=9)
        (request,) = await it.double.wait_for("connect")
        assert request.client_id == "me"
        assert request.protocol == 1
        assert len(request.conn_id) == 22
        assert (request.ping_interval, request.ping_max_out) == (7, 9)
        assert (connection.client_id, connection.cluster_id) == ("me", CLUSTER_ID)
        assert connection.is_connected
        assert not connection.is_closed
        heartbeat = await it.double.nats.request(request.heartbeat_inbox.decode(), b"", timeout=5)
        assert heartbeat.data == b""
        await connection.close()
        assert await it.double.wait_for("close") == [CloseRequest("me")]
        assert not await is_anybody_at(it.double.nats, request.heartbeat_inbox.decode())

    play(scenario)


def test_a_cluster_that_nobody_serves_is_a_timeout(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        with pytest.raises(RequestTimeoutError, match="possibly wrong cluster ID") as caught:
            await connect("other", "me", servers=it.url)
        assert caught.value.is_nobody_there

    play(scenario)


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (None, RequestTimeoutError, "stan: connect request timeout"),
        (b"\x08", MalformedReplyError, "malformed ConnectResponse"),
        (ConnectResponse(error="no"), RefusedError, "^no$"),
        (
            ConnectResponse(error="stan: clientID already registered"),
            ClientIdInUseError,
            "already registered",
        ),
    ],
)
def test_a_failed_connect_leaves_nothing_behind(
    play: Play, answer: Any, error: type[Exception], text: str
) -> None:
    async def scenario(it: Stage) -> None:
        it.double.answers["connect"] = answer
        given = await it.nats()
        with pytest.raises(error, match=text):
            await connect(CLUSTER_ID, "me", nats=given, connect_wait_s=SHORT_S)
        (request,) = it.double.got["connect"]
        await given.flush()
        await given.flush()
        assert not await is_anybody_at(it.double.nats, request.heartbeat_inbox.decode())
        assert given.is_connected

    play(scenario)


def test_nats_that_cannot_be_reached_is_said_at_once_and_why(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        with pytest.raises(NatsError, match=r"cannot connect to NATS: .*onnect"):
            await connect(CLUSTER_ID, "me", servers="nats://127.0.0.1:1", connect_wait_s=SCENARIO_S)
        given = await it.nats()
        await given.close()
        with pytest.raises(NatsError, match="invalid connection"):
            await connect(CLUSTER_ID, "me", nats=given)

    play(scenario)


@pytest.mark.parametrize(
    "options",
    [{"ping_interval_s": 0}, {"ping_max_out": 1}, {"publishes_in_flight_max": 0}],
)
def test_options_that_cannot_work_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        asyncio.run(connect(CLUSTER_ID, "me", **options))


def test_a_connection_that_is_given_stays_open(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        given = await it.nats()
        async with await connect(CLUSTER_ID, "me", nats=given) as connection:
            assert connection.nats is given
            await connection.subscribe("a")
        (request,) = it.double.got["sub"]
        await given.flush()
        await given.flush()
        assert given.is_connected
        assert not await is_anybody_at(it.double.nats, request.inbox.decode())

    play(scenario)


def test_a_close_that_nobody_answers_closes_nevertheless(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect(connect_wait_s=SHORT_S * 4)
        it.double.answers["close"] = None
        with pytest.raises(RequestTimeoutError, match="stan: close request timeout"):
            await connection.close()
        assert connection.is_closed
        assert connection.nats.is_closed
        await connection.close()
        with pytest.raises(ConnectionClosedError, match="stan: connection closed"):
            await connection.publish("a", b"")
        with pytest.raises(ConnectionClosedError):
            await connection.subscribe("a")

    play(scenario)


# --- publishing ----------------------------------------------------------------------------------


def test_a_message_is_published_as_its_channel_with_the_connection_id(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()
        guid = await connection.publish("a.b", b"data")
        other = await connection.publish("a.b", b"data")
        assert guid != other
        (request,) = it.double.got["connect"]
        assert it.double.got["pub"][0] == PubMsg(
            client_id="me",
            guid=guid.encode(),
            subject=b"a.b",
            data=b"data",
            conn_id=request.conn_id,
        )

    play(scenario)


def test_a_refused_message_is_told_by_future_and_callback(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()
        it.double.answers["pub"] = PubAck(error="stan: invalid publish request")
        told: list[tuple[str, StreamingError | None]] = []

        async def slow(guid: str, error: StreamingError | None) -> None:
            await asyncio.sleep(0)
            told.append((guid, error))

        with pytest.raises(RefusedError, match="stan: invalid publish request"):
            await connection.publish("a", b"")
        await connection.publish_async("a", b"", lambda guid, error: told.append((guid, error)))
        await connection.publish_async("a", b"", slow)
        await wait_until_async(lambda: len(told) == 2, "both callbacks")
        assert all(isinstance(error, RefusedError) for _, error in told)

    play(scenario)


def test_an_ack_that_does_not_come_is_a_timeout_and_a_late_one_is_nothing(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect(publish_wait_s=SHORT_S)
        it.double.answers["pub"] = None
        futures = [await connection.publish_async("a", b"") for _ in range(3)]
        for future in futures:
            with pytest.raises(PublishTimeoutError, match="stan: publish ack timeout"):
                await future
        assert connection.in_flight == 0
        publisher: Any = connection._publisher
        (message, *_) = await it.double.wait_for("pub", 3)
        publisher.process_ack(PubAck(message.guid).encode())
        publisher.process_ack(b"\xff")

    play(scenario)


def test_no_more_than_so_many_messages_wait_for_acks(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect(publishes_in_flight_max=2)
        it.double.answers["pub"] = None
        first, second = [await connection.publish_async("a", b"") for _ in range(2)]
        third = asyncio.create_task(connection.publish_async("a", b"third"))
        await it.double.wait_for("pub", 2)
        assert (connection.in_flight, third.done()) == (2, False)
        it.double.answers["pub"] = PubAck()
        publisher: Any = connection._publisher
        publisher.process_ack(PubAck(it.double.got["pub"][1].guid).encode())
        await second
        await (await third)
        assert not first.done()
        publisher.process_ack(PubAck(it.double.got["pub"][0].guid).encode())
        await connection.flush()
        assert first.done()

    play(scenario)


def test_a_publisher_that_waits_for_room_gives_up_in_time(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect(publishes_in_flight_max=1, publish_wait_s=SCENARIO_S)
        it.double.answers["pub"] = None
        waits = await connection.publish_async("a", b"")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.publish_async("a", b""), SHORT_S)
        closing = asyncio.create_task(connection.publish_async("a", b""))
        await asyncio.sleep(0)
        await connection.close()
        for each in (waits, closing):
            with pytest.raises(ConnectionClosedError):
                await each

    play(scenario)


def test_messages_that_nobody_got_are_sent_again_in_order(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()
        await it.double.stop("pub")
        futures = [await connection.publish_async("a", b"%d" % number) for number in range(5)]
        publisher: Any = connection._publisher
        await wait_until_async(lambda: publisher._retry_timer, "the word that nobody is there")
        await it.double.listen("pub")
        for future in futures:
            await future
        assert [each.data for each in it.double.got["pub"]] == [b"0", b"1", b"2", b"3", b"4"]

    play(scenario)


def test_what_may_have_been_got_is_not_sent_again(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect(publish_wait_s=SHORT_S * 10)
        it.double.answers["pub"] = None
        heard = await connection.publish_async("a", b"heard")
        await it.double.wait_for("pub")
        await it.double.stop("pub")
        unheard = await connection.publish_async("a", b"unheard")
        await connection.nats.flush()
        await it.double.listen("pub")
        for future in (heard, unheard):
            with pytest.raises(PublishTimeoutError):
                await future
        assert not it.double.got["pub"]

    play(scenario)


def test_what_nats_does_not_carry_is_told_and_takes_no_room(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect(publishes_in_flight_max=1)
        with pytest.raises(NatsError):
            await connection.publish("with space", b"")
        with pytest.raises(NatsError):
            await connection.publish("a", bytes(connection.nats.max_payload + 1))
        await connection.publish("a", b"")

    play(scenario)


# --- subscribing ---------------------------------------------------------------------------------


def test_a_subscription_request_has_every_option(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()
        await connection.subscribe(
            "a.b",
            queue_group="q",
            durable_name="d",
            start=StartAt.sequence(17),
            max_in_flight=3,
            ack_wait_s=4.9,
        )
        await connection.subscribe("c")
        first, second = it.double.got["sub"]
        assert first == SubscriptionRequest(
            client_id="me",
            subject=b"a.b",
            queue_group="q",
            inbox=first.inbox,
            max_in_flight=3,
            ack_wait_s=4,
            durable_name="d",
            start_position=StartPosition.SEQUENCE,
            start_sequence=17,
        )
        assert second == SubscriptionRequest(
            client_id="me", subject=b"c", inbox=second.inbox, max_in_flight=1024, ack_wait_s=30
        )
        assert first.inbox != second.inbox

    play(scenario)


def test_messages_that_are_faster_than_the_answer_are_acknowledged_after_it(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()
        it.double.early = MsgProto(1, b"a", data=b"x")
        got: list[StreamingMessage] = []
        await connection.subscribe("a", got.append)
        assert await it.double.wait_for("acks") == [Ack(b"a", 1)]
        assert [message.data for message in got] == [b"x"]

    play(scenario)


def test_a_subscribe_that_is_given_up_is_undone_too(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()
        it.double.answers["sub"] = None
        subscribing = asyncio.create_task(connection.subscribe("a"))
        (request,) = await it.double.wait_for("sub")
        subscribing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await subscribing
        undone = await it.double.wait_for("subclose")
        assert undone == [UnsubscribeRequest(client_id="me", subject=b"a", inbox=request.inbox)]

    play(scenario)


def test_a_subscribe_that_times_out_is_undone_by_its_inbox(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect(connect_wait_s=SHORT_S * 4)
        it.double.answers["sub"] = None
        with pytest.raises(RequestTimeoutError, match="stan: subscribe request timeout"):
            await connection.subscribe("a", durable_name="d")
        (request,) = it.double.got["sub"]
        undone = await it.double.wait_for("subclose")
        assert undone == [UnsubscribeRequest(client_id="me", subject=b"a", inbox=request.inbox)]

    play(scenario)


def test_closing_and_unsubscribing_name_the_ack_inbox(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect(connect_wait_s=SHORT_S * 4)
        subscription = await connection.subscribe("a")
        it.double.answers["unsub"] = None
        with pytest.raises(RequestTimeoutError, match="stan: unsubscribe request timeout"):
            await subscription.unsubscribe()
        assert subscription.is_closed
        it.double.answers["unsub"] = SubscriptionResponse()
        await subscription.unsubscribe()
        request = UnsubscribeRequest(client_id="me", subject=b"a", inbox=b"double.acks")
        assert it.double.got["unsub"] == [request, request]
        with pytest.raises(SubscriptionClosedError, match="stan: invalid subscription"):
            await subscription.close()

        async with await connection.subscribe("a"):
            pass
        assert it.double.got["subclose"] == [request]

    play(scenario)


def test_a_server_that_cannot_close_subscriptions_is_told_apart(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        it.double.answers["connect"] = ConnectResponse(
            sub_requests=b"double.sub", close_requests=b"double.close"
        )
        connection = await it.connect()
        subscription = await connection.subscribe("a")
        with pytest.raises(StreamingError, match="stan: not supported by server"):
            await subscription.close()

    play(scenario)


def test_a_redelivery_of_a_message_that_still_waits_replaces_it(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()
        async with await connection.subscribe("a") as subscription:
            (request,) = it.double.got["sub"]
            await it.double.deliver(request.inbox, MsgProto(1, b"a"))
            await it.double.deliver(request.inbox, MsgProto(2, b"a"))
            await it.double.deliver(
                request.inbox, MsgProto(1, b"a", redelivered=True, redelivery_count=1)
            )
            await it.double.deliver(request.inbox, MsgProto(3, b"a"))
            await it.double.nats.publish(request.inbox.decode(), b"\xff")
            await wait_until_async(lambda: subscription.waiting == 3, "three messages")
            messages = aiter(subscription)
            got = [await anext(messages) for _ in range(3)]
            assert [(each.sequence, each.redelivery_count) for each in got] == [
                (1, 1),
                (2, 0),
                (3, 0),
            ]

    play(scenario)


def test_a_subscription_with_a_callback_is_not_iterable(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        connection = await it.connect()
        subscription = await connection.subscribe("a", print)
        with pytest.raises(StreamingError, match="cannot be iterated"):
            aiter(subscription)
        with pytest.raises(ValueError, match="is not a number"):
            await connection.subscribe("a", max_in_flight=1 << 31)

    play(scenario)
