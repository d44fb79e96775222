"""What `permissions` of a cluster let in and out, as a peer sees it: shardd as nats-server."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from tests.support.broker import NATS_SERVER, Broker, free_port
from tests.support.cluster import Hosts, RoutePeer, cluster_text
from tests.support.fixtures import Dial, Serve
from tests.support.waiting import wait_until
from tests.support.wireclient import WireClient

RULES: Final = (
    'permissions { import: ["imp.>", "lit"], '
    'export: { allow: ["exp.>", "x.*", "q.>"], deny: ["exp.no", "q.no"] } }'
)
OTHERS: Final = 'permissions { import: ["other", "lit"], export: "new.*" }'

Meet = Callable[..., RoutePeer]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def server(serve: Serve, port: int) -> Broker:
    return serve(cluster_text("host1", port, block=RULES))


@pytest.fixture
def client(server: Broker, dial: Dial) -> WireClient:
    return dial(server).connect(headers=True, no_responders=True)


@pytest.fixture
def meet(server: Broker, port: int) -> Iterator[Meet]:
    peers: list[RoutePeer] = []

    def open_peer(**options: Any) -> RoutePeer:
        peers.append(RoutePeer(port, **options))
        return peers[-1].join()

    yield open_peer
    for peer in peers:
        peer.close()


def change(server: Broker, port: int, block: str) -> None:
    line = server.reload(cluster_text("host1", port, block=block))
    assert "Reloaded server configuration" in line


def settled(peer: RoutePeer) -> list[bytes]:
    """What came by now, interest that a reload brings included."""
    return [*peer.settle(), *peer.settle()]


def test_a_peer_is_told_what_may_pass(meet: Meet) -> None:
    info = meet().info
    assert info["import"] == {"allow": ["imp.>", "lit"]}
    assert info["export"] == {"allow": ["exp.>", "x.*", "q.>"], "deny": ["exp.no", "q.no"]}


def test_only_what_may_come_in_is_asked_for(meet: Meet, client: WireClient) -> None:
    early = b"SUB imp.early 1\r\nSUB early 2\r\nSUB lit g 3\r\nSUB > 4\r\n"
    client.send(early)
    client.ping()
    peer = meet()
    lines = peer.joined
    while len(lines) < 2:
        lines += peer.settle()
    assert sorted(lines) == [b"RS+ $G imp.early", b"RS+ $G lit g 1"]
    client.send(b"SUB imp.* 5\r\nSUB other 6\r\nSUB * 7\r\nSUB other g 8\r\nSUB lit 9\r\n")
    client.ping()
    assert sorted(peer.lines_until(b"RS+ $G lit")) == [b"RS+ $G imp.*", b"RS+ $G lit"]
    client.send(b"UNSUB 6\r\nUNSUB 8\r\nUNSUB 5\r\n")
    client.ping()
    assert peer.lines_until(b"RS- $G imp.*") == [b"RS- $G imp.*"]


def test_what_comes_unasked_is_delivered_as_any_message(meet: Meet, client: WireClient) -> None:
    client.send(b"SUB other 1\r\n")
    client.ping()
    peer = meet()
    peer.wire.send(b"RMSG $G other 2\r\nhi\r\n")
    client.expect_msg(b"other", b"1", b"hi")


def test_only_what_may_leave_does(meet: Meet, client: WireClient) -> None:
    peer = meet()
    peer.wire.send(b"RS+ $G exp.*\r\nRS+ $G exp.no\r\nRS+ $G x.1\r\nRS+ $G nope\r\n")
    peer.wire.send(b"RS+ $G >\r\nRS+ $G exp.no g 1\r\nRS+ $G q.* g 1\r\n")
    peer.settle()
    for subject in (b"exp.no", b"exp.yes", b"x.1", b"nope", b"x.2", b"q.no", b"q.yes"):
        client.send(b"PUB %b 1\r\n.\r\n" % subject)
    client.ping()
    peer.wire.expect(
        b"RMSG $G exp.yes 1\r\n.\r\nRMSG $G x.1 1\r\n.\r\nRMSG $G q.yes | g 1\r\n.\r\n"
    )
    assert peer.settle() == []


def test_a_reload_tells_and_withdraws(
    server: Broker, port: int, meet: Meet, client: WireClient
) -> None:
    client.send(b"SUB imp.a 1\r\nSUB lit 2\r\nSUB other 3\r\nSUB other g 4\r\nSUB else 5\r\n")
    client.ping()
    peer = meet()
    lines = peer.joined
    while len(lines) < 2:
        lines += peer.settle()
    peer.wire.send(b"RS+ $G exp.1\r\nRS+ $G new.1\r\n")
    peer.settle()
    change(server, port, OTHERS)
    text = peer.wire.read_until(b'"export":{"allow":["new.*"]}')
    assert b'"import":{"allow":["other","lit"]}' in text
    peer.wire.read_until(b"\r\n")
    lines = []
    while len(lines) < 3:
        lines += peer.settle()
    # nats-server leaves out the weight here, which costs it the route to another one.
    told = sorted(b" ".join(line.split()[:4]) for line in lines)
    assert told == [b"RS+ $G other", b"RS+ $G other g", b"RS- $G imp.a"]
    assert server.kind == NATS_SERVER or b"RS+ $G other g 1" in lines
    # What it had refused, it does not know; what it took, it has forgotten.
    client.send(b"PUB exp.1 1\r\n1\r\nPUB new.1 1\r\n2\r\n")
    client.ping()
    assert settled(peer) == []
    peer.wire.send(b"RS+ $G new.1\r\n")
    peer.settle()
    client.send(b"PUB exp.1 1\r\n1\r\nPUB new.1 1\r\n2\r\n")
    peer.wire.expect(b"RMSG $G new.1 1\r\n2\r\n")
    change(server, port, "")
    lines = []
    while b"RS+ $G imp.a" not in lines or b"RS+ $G else" not in lines:
        lines += peer.settle()


def test_a_peer_that_lets_out_more_is_told_again(meet: Meet, client: WireClient) -> None:
    client.send(b"SUB imp.a 1\r\nSUB imp.b 2\r\nSUB imp.c 3\r\nSUB other 4\r\n")
    client.ping()
    peer = meet(export={"allow": ["imp.a"]})
    lines = peer.joined
    while len(lines) < 3:
        lines += peer.settle()
    peer.tell(export={"allow": ["imp.a", "imp.b", "other"]})
    assert peer.lines_until(b"RS+ $G imp.b") == [b"RS+ $G imp.b"]
    peer.tell(export=None)
    assert peer.lines_until(b"RS+ $G imp.c") == [b"RS+ $G imp.c"]
    assert settled(peer) == []


@pytest.mark.parametrize("kinds", [("shardd-2", "shardd-1"), ("shardd-2", "nats-server")])
def test_two_servers_agree_after_a_reload_of_either(
    kinds: tuple[str, str], dial: Dial, no_leaks: None
) -> None:
    hosts = Hosts()
    try:
        hosts.add(kinds[0], block='permissions { export: ["a.>"], import: ["a.>"] }')
        hosts.add(kinds[1])
        hosts.settle()
        clients = [dial(broker).connect() for broker in hosts.brokers]
        for each in clients:
            each.send(b"SUB a.1 1\r\nSUB b.1 2\r\n")
            each.ping()
        for here, there in (clients, clients[::-1]):
            wait_heard(here, there, b"a.1")
            here.send(b"PUB b.1 1\r\nx\r\nPUB a.1 4\r\nlast\r\n")
            assert b"b.1" not in there.read_until(b"last\r\n")
            here.read_until(b"last\r\n")
        text = cluster_text("host1", hosts.cluster_ports[0])
        assert "Reloaded server" in hosts[0].reload(text)
        for here, there in (clients, clients[::-1]):
            wait_heard(here, there, b"b.1")
    finally:
        hosts.stop()


def wait_heard(here: WireClient, there: WireClient, subject: bytes) -> None:
    """Until what one client publishes reaches the other."""

    def is_heard() -> bool:
        here.send(b"PUB %b 2\r\n!!\r\nPING\r\n" % subject)
        here.read_until(b"PONG\r\n")
        there.send(b"PING\r\n")
        return subject in there.read_until(b"PONG\r\n")

    wait_until(is_heard, f"{subject!r} to be heard on the other host")
