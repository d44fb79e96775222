"""How the streaming client notices that its connection is lost, and what it makes of that."""

import asyncio
from typing import Any

import pytest

from shardd.streaming.client.connection import Connection
from shardd.streaming.client.errors import (
    ConnectionLostError,
    RefusedError,
    RequestTimeoutError,
    StreamingError,
)
from shardd.streaming.client.link import NatsLink
from shardd.streaming.client.pings import Pinger
from shardd.streaming.messages import (
    Ping,
    PingResponse,
    PubAck,
)
from tests.support.broker import NATS_SERVER
from tests.support.fixtures import BrokerPool
from tests.support.streaming_stage import SHORT_S, Play, Stage, play_on
from tests.support.waiting import wait_until_async


@pytest.fixture
def play(session_pool: BrokerPool, no_leaks: None) -> Play:
    """Runs a scenario under a watchdog."""
    url = session_pool.get(NATS_SERVER, {}).url
    return lambda scenario: play_on(url, scenario)


def test_pings_name_the_connection_and_an_error_is_a_loss(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        lost: list[tuple[Connection, StreamingError]] = []
        it.double.answers["ping"] = PingResponse("client has been replaced")
        connection = await it.connect(
            ping_interval_s=1, connection_lost_cb=lambda *what: lost.append(what)
        )
        subscription = await connection.subscribe("a")
        waits: Any = asyncio.ensure_future(anext(aiter(subscription)))
        it.double.answers["pub"] = None
        published = await connection.publish_async("a", b"")
        (ping,) = await it.double.wait_for("ping")
        (request,) = it.double.got["connect"]
        assert ping == Ping(request.conn_id)
        for each in (published, waits):
            with pytest.raises(ConnectionLostError, match="client has been replaced"):
                await each
        await wait_until_async(lambda: bool(lost), "the callback")
        assert lost[0][0] is connection
        assert isinstance(lost[0][1], RefusedError)
        assert connection.is_closed
        assert connection.nats.is_closed
        assert not it.double.got["close"]
        with pytest.raises(ConnectionLostError):
            await connection.publish("a", b"")

    play(scenario)


@pytest.mark.parametrize("is_there", [False, True], ids=["nobody there", "silent"])
def test_pings_without_answers_are_a_loss(play: Play, is_there: bool) -> None:
    async def scenario(it: Stage) -> None:
        it.double.answers["ping"] = None
        link = NatsLink(await it.nats(), [], {}, 1.0)
        lost: list[StreamingError] = []
        subject = "double.ping" if is_there else "nobody"
        inbox = link.client.new_inbox()
        pinger = Pinger(link, subject, inbox, b"id", SHORT_S, 2, lost.append)

        async def process(message: Any) -> None:
            pinger.process_response(message)

        await link.subscribe(inbox, process)
        pinger.start()
        await wait_until_async(lambda: bool(lost), "the loss")
        assert str(lost[0]) == "stan: connection lost due to PING failure"
        assert len(it.double.got["ping"]) == (2 if is_there else 0)

    play(scenario)


def test_one_answer_makes_up_for_all_missed_pings(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        link = NatsLink(await it.nats(), [], {}, 1.0)
        lost: list[StreamingError] = []
        inbox = link.client.new_inbox()
        pinger = Pinger(link, "double.ping", inbox, b"id", 0.01, 20, lost.append)

        async def process(message: Any) -> None:
            pinger.process_response(message)

        await link.subscribe(inbox, process)
        pinger.start()
        await it.double.wait_for("ping", 30)
        pinger.stop()
        assert not lost

    play(scenario)


def test_messages_without_acks_fail_though_the_connection_comes_back(play: Play) -> None:
    async def scenario(it: Stage) -> None:
        restored = asyncio.Event()
        it.double.answers["ping"] = PingResponse("gone")
        connection = await it.connect(
            ping_interval_s=1,
            reconnect=True,
            connection_restored_cb=lambda *_: restored.set(),
            connect_wait_s=SHORT_S * 4,
        )
        await connection.subscribe("kept")
        closed = await connection.subscribe("closed")
        it.double.answers |= {"pub": None, "subclose": None}
        with pytest.raises(RequestTimeoutError):
            await closed.close()
        published = await connection.publish_async("a", b"before")
        await restored.wait()
        with pytest.raises(ConnectionLostError, match="gone"):
            await published
        assert [each.subject for each in it.double.got["sub"]] == [b"kept", b"closed", b"kept"]
        it.double.answers |= {"pub": PubAck(), "ping": PingResponse()}
        await connection.publish("a", b"after")
        first, second = it.double.got["connect"]
        assert first.client_id == second.client_id
        assert first.conn_id != second.conn_id
        assert [each.conn_id for each in it.double.got["pub"]] == [first.conn_id, second.conn_id]

    play(scenario)
