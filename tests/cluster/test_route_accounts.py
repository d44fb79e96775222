"""Accounts that the router learns late: by a reload, or from another server before that."""

import os
import signal
from collections.abc import Iterator
from typing import Final

import pytest

from tests.support.broker import Broker, free_port, make_broker, newest_child
from tests.support.cluster import RoutePeer, cluster_text, wait_heard_by
from tests.support.fixtures import Dial
from tests.support.waiting import wait_until
from tests.support.wireclient import WireClient

OLD: Final = "accounts { OLD { users: [{user: old, password: pw}] } }"
BOTH: Final = (
    "accounts { OLD { users: [{user: old, password: pw}] }, "
    "NEW { users: [{user: new, password: pw}] } }"
)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def server(port: int, no_leaks: None) -> Iterator[Broker]:
    broker = make_broker("shardd-2")
    broker.start_text(cluster_text("host1", port, more=OLD))
    yield broker
    assert broker.stop() == 0


@pytest.fixture
def peer(server: Broker, port: int) -> Iterator[RoutePeer]:
    peer = RoutePeer(port).join()
    yield peer
    peer.close()


def learn(server: Broker, port: int) -> None:
    assert "Reloaded server configuration" in server.reload(cluster_text("host1", port, more=BOTH))


def enter(server: Broker, dial: Dial, user: str) -> WireClient:
    return dial(server).connect(user=user, **{"pass": "pw"}, headers=True, no_responders=True)


def test_what_a_peer_wants_of_an_account_counts_once_a_reload_brings_it(
    server: Broker, port: int, peer: RoutePeer, dial: Dial
) -> None:
    peer.wire.send(b"RS+ NEW foo\r\nRS+ NEW gone\r\nRS- NEW gone\r\nRS+ NEW many g 2\r\n")
    peer.settle()
    learn(server, port)
    client = enter(server, dial, "new")
    wait_heard_by(peer, client, b"NEW", b"foo")
    client.send(b"PUB gone 0\r\n\r\nPUB foo 2\r\nhi\r\nPUB many 2\r\nho\r\n")
    peer.wire.expect(b"RMSG NEW foo 2\r\nhi\r\nRMSG NEW many | g 2\r\nho\r\n")
    peer.wire.send(b"RS- NEW foo\r\n")
    peer.settle()
    client.subscribe(b"in.>", b"1")

    def is_unheard() -> bool:
        client.send(b"PUB foo in.1 0\r\n\r\nPING\r\n")
        return b" 503" in client.read_until(b"PONG\r\n")

    wait_until(is_unheard, "the interest of the peer to end")


def test_what_comes_for_an_account_arrives_once_a_reload_brings_it(
    server: Broker, port: int, peer: RoutePeer, dial: Dial
) -> None:
    peer.wire.send(b"RMSG NEW foo 4\r\nlost\r\n")
    peer.settle()
    learn(server, port)
    client = enter(server, dial, "new")
    client.subscribe(b"foo", b"1")
    client.ping()
    peer.lines_until(b"RS+ NEW foo")
    peer.wire.send(b"RMSG NEW foo 2\r\nhi\r\n")
    client.expect_msg(b"foo", b"1", b"hi")


def test_interest_of_a_peer_that_left_before_the_reload_is_gone(
    server: Broker, port: int, peer: RoutePeer, dial: Dial
) -> None:
    other = RoutePeer(port, "OTHER", "other").join()
    other.wire.send(b"RS+ NEW foo\r\n")
    other.settle()
    other.close()
    wait_until(lambda: "Router connection closed" in server.log_text(), "the route to end")
    learn(server, port)
    client = enter(server, dial, "new")
    client.send(b"SUB in.> 1\r\nPUB foo in.1 0\r\n\r\n")
    assert b" 503" in client.read_until(b"\r\n\r\n\r\n")


def test_a_worker_that_has_reloaded_before_the_router_is_understood(
    server: Broker, port: int, peer: RoutePeer, dial: Dial
) -> None:
    router = newest_child(server)
    peer.wire.send(b"RS+ NEW foo\r\n")
    assert peer.settle() == []
    os.kill(router, signal.SIGSTOP)
    try:
        server.configuration.write_text(cluster_text("host1", port, more=BOTH))
        os.kill(server.pid, signal.SIGHUP)

        def is_let_in() -> bool:
            try:
                client.append(enter(server, dial, "new"))
            except AssertionError:
                return False
            return True

        client: list[WireClient] = []
        wait_until(is_let_in, "a worker to have the new account")
        client[0].send(b"SUB bar 1\r\n")
    finally:
        os.kill(router, signal.SIGCONT)
    peer.lines_until(b"RS+ NEW bar")
    client[0].ping()
    wait_heard_by(peer, client[0], b"NEW", b"foo")
    assert router in {process.pid for process in server.processes()}, "the router has ended"
