"""Connections that say nothing: each gets its INFO, costs nobody anything, and can still speak."""

import pytest

from tests.support.broker import Broker
from tests.support.fixtures import Dial, Join
from tests.support.wireclient import WireClient


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_silent_connections_are_kept_and_disturb_nobody(
    server: Broker, dial: Dial, join: Join, count: int
) -> None:
    subscriber, publisher = join(), join()
    subscriber.subscribe(b"idle.a", b"1")
    silent: list[WireClient] = []
    for number in range(count):
        silent.append(dial(server))
        if number % 100 == 0:
            publisher.publish(b"idle.a", b"%d" % number)
            subscriber.expect_msg(b"idle.a", b"1", b"%d" % number)
    assert len({client.info["client_id"] for client in silent}) == count
    for client in silent[:: max(1, count // 100)]:
        client.expect_silence()
    silent[-1].send(b"SUB idle.a 9\r\n")
    silent[-1].expect(b"+OK\r\n")
    publisher.publish(b"idle.a", b"last")
    silent[-1].expect_msg(b"idle.a", b"9", b"last")
    subscriber.expect_msg(b"idle.a", b"1", b"last")


def test_subscribed_but_silent_connections_all_hear_a_message(server: Broker, dial: Dial) -> None:
    silent = []
    for _ in range(300):
        client = dial(server)
        client.send(b"SUB idle.all 1\r\n")
        client.expect(b"+OK\r\n")
        silent.append(client)
    publisher = dial(server).connect()
    publisher.publish(b"idle.all", b"wake up")
    for client in silent:
        client.expect_msg(b"idle.all", b"1", b"wake up")


def test_many_connections_come_and_go(server: Broker, dial: Dial) -> None:
    for _ in range(10):
        clients = [dial(server).connect() for _ in range(50)]
        for client in clients:
            client.finish()
