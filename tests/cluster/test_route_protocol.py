"""The route port of one server, asked by a peer that is only bytes: shardd as nats-server."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.broker import Broker, free_port
from tests.support.cluster import CLUSTER, RoutePeer, cluster_text
from tests.support.crowd import worker_of
from tests.support.fixtures import Dial, Serve
from tests.support.waiting import wait_until
from tests.support.wireclient import WireClient

Meet = Callable[..., RoutePeer]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def server(serve: Serve, port: int) -> Broker:
    """One server with a route port; its only route leads nowhere."""
    return serve(cluster_text("host1", port))


@pytest.fixture
def meet(server: Broker, port: int) -> Iterator[Meet]:
    """``meet(...)``: one more peer."""
    peers: list[RoutePeer] = []

    def open_peer(**options: Any) -> RoutePeer:
        peers.append(RoutePeer(port, **options))
        return peers[-1]

    yield open_peer
    for peer in peers:
        peer.close()


@pytest.fixture
def client(server: Broker, dial: Dial) -> WireClient:
    return dial(server).connect(headers=True, no_responders=True)


def test_the_first_line_tells_who_it_is(server: Broker, meet: Meet, port: int) -> None:
    info = meet().info
    assert info["server_name"] == "host1"
    assert info["cluster"] == CLUSTER
    assert info["host"] == "127.0.0.1"
    assert info["port"] == port
    assert info["headers"] is True
    assert info["max_payload"] == 1048576
    assert info["connect_urls"] == [f"127.0.0.1:{server.port}"]


def test_what_comes_before_connect_is_refused(meet: Meet) -> None:
    for line in (b"PING\r\n", b"RS+ $G foo\r\n", b"RMSG $G foo 2\r\nhi\r\n", b"hello\r\n"):
        peer = meet()
        peer.wire.send(line)
        if line != b"PING\r\n":
            assert b"-ERR 'Authorization Violation'\r\n" in peer.wire.read_to_end()


def test_another_cluster_is_refused(meet: Meet) -> None:
    peer = meet(cluster="other")
    peer.connect(cluster="other")
    peer.introduce()
    text = f'-ERR \'Rejecting connection, cluster name "other" does not match "{CLUSTER}"\'\r\n'
    assert text.encode() in peer.wire.read_to_end()


def test_a_client_on_the_route_port_is_told(meet: Meet) -> None:
    peer = meet()
    peer.connect(lang="go", version="1.0")
    assert b"-ERR 'attempted to connect to route port'\r\n" in peer.wire.read_to_end()


def test_a_server_of_the_same_name_is_closed_without_a_word(meet: Meet) -> None:
    peer = meet(name="host1")
    peer.connect()
    peer.introduce()
    assert b"-ERR" not in peer.wire.read_to_end()


def test_the_server_itself_is_not_its_own_peer(meet: Meet) -> None:
    own = meet().info["server_id"]
    peer = meet(server_id=own)
    peer.connect()
    peer.introduce()
    assert b"RS+" not in peer.wire.read_to_end()


def test_the_second_route_to_the_same_server_is_closed(meet: Meet, client: WireClient) -> None:
    first, second = meet().join(), meet()
    second.connect()
    second.introduce()
    second.wire.read_to_end()
    client.subscribe(b"foo", b"1")
    client.ping()
    first.lines_until(b"RS+ $G foo")


def test_interest_is_told_once_and_withdrawn_once(meet: Meet, client: WireClient) -> None:
    client.send(b"SUB before 1\r\nSUB before g 2\r\n")
    client.ping()
    peer = meet().join()
    lines = peer.joined
    while len(lines) < 2:
        lines += peer.settle()
    assert sorted(lines) == [b"RS+ $G before", b"RS+ $G before g 1"]
    steps = [
        (b"SUB foo 3\r\n", b"RS+ $G foo"),
        (b"SUB foo 4\r\nSUB q grp 5\r\n", b"RS+ $G q grp 1"),
        (b"SUB q grp 6\r\n", b"RS+ $G q grp 2"),
        (b"UNSUB 3\r\nUNSUB 5\r\n", b"RS+ $G q grp 1"),
        (b"UNSUB 4\r\n", b"RS- $G foo"),
        (b"UNSUB 6\r\n", b"RS- $G q grp"),
        (b"SUB in.* 7\r\n", b"RS+ $G in.*"),
        (b"SUB in.> 8\r\n", b"RS+ $G in.>"),
        (b"UNSUB 7\r\n", b"RS- $G in.*"),
    ]
    for sent, told in steps:
        client.send(sent)
        client.ping()
        lines = peer.lines_until(told)
        assert b"RS- $G foo" not in lines[:-1]
        assert lines.count(told) == 1
    assert peer.settle() == []


def test_what_a_client_has_at_its_end_is_withdrawn(server: Broker, meet: Meet, dial: Dial) -> None:
    peer = meet().join()
    client = dial(server).connect()
    client.send(b"SUB foo 1\r\nSUB bar g 2\r\n")
    client.ping()
    peer.lines_until(b"RS+ $G bar g 1")
    client.close()
    lines = [*peer.lines_until(b"RS- $G foo")]
    while b"RS- $G bar g" not in lines:
        lines += peer.settle()


def test_a_message_reaches_who_it_names(meet: Meet, client: WireClient) -> None:
    client.send(b"SUB foo 1\r\nSUB foo 2\r\nSUB q g 3\r\nSUB q g 4\r\nSUB q h 5\r\nSUB q 6\r\n")
    client.ping()
    peer = meet().join()
    peer.wire.send(b"RMSG $G foo 2\r\nhi\r\n")
    got = {client.read_until(b"hi\r\n"), client.read_until(b"hi\r\n")}
    assert got == {b"MSG foo 1 2\r\nhi\r\n", b"MSG foo 2 2\r\nhi\r\n"}
    peer.wire.send(b"RMSG $G q 2\r\nno\r\n")
    client.expect_msg(b"q", b"6", b"no")
    peer.wire.send(b"RMSG $G q | g 2\r\nqq\r\n")
    sids = {client.read_until(b"qq\r\n").split()[2] for _ in range(2)}
    assert sids in ({b"6", b"3"}, {b"6", b"4"})
    peer.wire.send(b"RMSG $G q + reply.to h g 2\r\nrr\r\n")
    lines = [client.read_until(b"rr\r\n").split() for _ in range(3)]
    assert {line[2] for line in lines} in ({b"6", b"5", b"3"}, {b"6", b"5", b"4"})
    assert {line[3] for line in lines} == {b"reply.to"}
    peer.wire.send(b"HMSG $G foo in.box 12 13\r\nNATS/1.0\r\n\r\nz\r\n")
    for _ in range(2):
        line = client.read_until(b"\r\n\r\nz\r\n")
        assert line.startswith(b"HMSG foo ")
        assert line.endswith(b" in.box 12 13\r\nNATS/1.0\r\n\r\nz\r\n")
    peer.wire.send(
        b"RMSG nobody foo 2\r\nxx\r\nRMSG $G unwanted 2\r\nxx\r\nRMSG $G foo 4\r\nlast\r\n"
    )
    client.read_until(b"last\r\n")
    client.read_until(b"last\r\n")
    client.expect_silence()


def test_a_client_message_leaves_for_who_wants_it(meet: Meet, client: WireClient) -> None:
    peer = meet().join()
    peer.wire.send(b"RS+ $G svc\r\nRS+ $G many workers 3\r\nRS+ $G many other 1\r\n")
    peer.wire.send(b"RS+ $G wild.*.x\r\n")
    peer.settle()
    client.send(b"PUB nobody 1\r\nx\r\nPUB svc in.1 1\r\nx\r\n")
    peer.wire.read_until(b"RMSG $G svc in.1 1\r\nx\r\n")
    client.send(b"PUB many 1\r\ny\r\n")
    line = peer.wire.read_until(b"y\r\n")
    assert line.startswith(b"RMSG $G many | ")
    assert sorted(line.split()[4:-1]) == [b"1", b"other", b"workers"]
    client.send(b"PUB many in.2 1\r\ny\r\n")
    line = peer.wire.read_until(b"y\r\n")
    assert line.startswith(b"RMSG $G many + in.2 ")
    client.send(b"HPUB svc 12 13\r\nNATS/1.0\r\n\r\nz\r\n")
    peer.wire.expect(b"HMSG $G svc 12 13\r\nNATS/1.0\r\n\r\nz\r\n")
    client.send(b"PUB wild.1.x 0\r\n\r\nPUB wild.1.y 0\r\n\r\nPUB svc 0\r\n\r\n")
    peer.wire.expect(b"RMSG $G wild.1.x 0\r\n\r\nRMSG $G svc 0\r\n\r\n")
    peer.wire.send(b"RS- $G svc\r\nRS+ $G many workers 0\r\nRS- $G many other\r\n")
    peer.settle()
    client.send(b"SUB in.> 9\r\n")
    client.ping()
    peer.lines_until(b"RS+ $G in.>")
    client.send(b"PUB svc in.3 1\r\nx\r\n")
    assert b" 503" in client.read_until(b"\r\n\r\n\r\n")
    assert peer.settle() == []


def test_what_came_by_a_route_leaves_by_none(meet: Meet, client: WireClient) -> None:
    one, two = meet().join(), meet(server_id="OTHER", name="other").join()
    for peer in (one, two):
        peer.wire.send(b"RS+ $G foo\r\nRS+ $G q g 1\r\n")
        peer.settle()
    client.send(b"SUB foo 1\r\nSUB q g 2\r\n")
    client.ping()
    for peer in (one, two):
        peer.lines_until(b"RS+ $G q g 1")
    one.wire.send(b"RMSG $G foo 2\r\nhi\r\nRMSG $G q | g 2\r\nhi\r\n")
    client.expect_msg(b"foo", b"1", b"hi")
    client.expect_msg(b"q", b"2", b"hi")
    assert two.settle() == []
    assert one.settle() == []


def test_a_peer_gets_one_line_for_a_message_however_often_a_queue_member_leaves(
    server: Broker, meet: Meet, dial: Dial
) -> None:
    peer = meet().join()
    peer.wire.send(b"RS+ $G work\r\nRS+ $G work q 1\r\n")
    peer.settle()
    publisher = dial(server).connect()
    member = dial(server).connect()
    while worker_of(member, 2) == worker_of(
        publisher, 2
    ):  # it leaves while a message is on its way
        member = dial(server).connect()
    for start in range(0, 1000, 50):
        member.send(b"SUB work q 1\r\nPING\r\n")
        member.read_until(b"PONG\r\n")
        tokens = [b"<%05d>" % number for number in range(start, start + 50)]
        publisher.send(*(b"PUB work 7\r\n%b\r\n" % token for token in tokens))
        member.send(b"UNSUB 1\r\nPING\r\n")
        member.read_until(b"PONG\r\n")
        publisher.ping()
        lines = [*peer.lines_until(tokens[-1]), *peer.settle()]
        heard = [line for line in lines if line.startswith(b"<")]
        assert heard == tokens


def test_the_interest_of_a_peer_that_left_is_gone(meet: Meet, client: WireClient) -> None:
    peer = meet().join()
    peer.wire.send(b"RS+ $G foo\r\n")
    peer.settle()
    client.send(b"SUB in.> 1\r\nPUB foo in.1 0\r\n\r\n")
    peer.wire.read_until(b"RMSG $G foo in.1 0\r\n\r\n")
    peer.close()

    def nobody_listens() -> bool:
        client.send(b"PUB foo in.2 0\r\n\r\nPING\r\n")
        return b" 503" in client.read_until(b"PONG\r\n")

    wait_until(nobody_listens, "the interest of a closed route to end")


def test_a_newcomer_is_made_known(meet: Meet) -> None:
    first = meet().join()
    meet(server_id="LATE", name="late", listens=4711).join()
    text = first.wire.read_until(b'"LATE"')
    rest = first.wire.read_until(b"\r\n")
    assert b"nats-route://127.0.0.1:4711/" in text + rest


def test_clients_learn_of_a_peer_and_forget_it(server: Broker, meet: Meet, dial: Dial) -> None:
    client = dial(server).connect(protocol=1)
    client.send(b"PING\r\n")
    client.read_until(b"PONG\r\n")
    peer = meet(connect_urls=["10.1.2.3:4222"]).join()
    assert b'"127.0.0.1:%d","10.1.2.3:4222"' % server.port in client.read_until(b'10.1.2.3:4222"]')
    client.read_until(b"\r\n")
    peer.close()
    line = client.read_until(b"\r\n")
    assert line.startswith(b"INFO ")
    assert b"10.1.2.3" not in line


def test_a_queue_without_a_weight_ends_the_route(meet: Meet) -> None:
    peer = meet().join()
    peer.wire.send(b"RS+ $G foo g\r\n")
    peer.wire.read_to_end()


def test_lines_of_other_kinds_of_connections_do_no_harm(meet: Meet, client: WireClient) -> None:
    peer = meet().join()
    peer.wire.send(b"A+ foo\r\nA- foo\r\n+OK\r\nRS+ unknown foo\r\nRS- $G never\r\nRS+ $G foo\r\n")
    peer.settle()
    client.publish(b"foo", b"x")
    peer.wire.expect(b"RMSG $G foo 1\r\nx\r\n")


def test_a_message_may_be_larger_than_clients_may_publish(
    serve: Serve, port: int, dial: Dial
) -> None:
    broker = serve(cluster_text("host1", port, more="max_payload: 1000"))
    client = dial(broker).connect()
    client.subscribe(b"big", b"1")
    client.ping()
    peer = RoutePeer(port).join()
    body = b"b" * 3_000_000
    peer.wire.send(b"RMSG $G big %d\r\n" % len(body), body, b"\r\n")
    client.expect_msg(b"big", b"1", body)
    peer.close()


def test_a_password_is_asked_for(serve: Serve, port: int) -> None:
    serve(cluster_text("host1", port, block="authorization { user: route, password: secret }"))
    for user, password in (("route", "wrong"), ("other", "secret"), ("", "")):
        peer = RoutePeer(port)
        assert peer.info["auth_required"] is True
        peer.connect(**{"user": user, "pass": password})
        assert b"-ERR 'Authorization Violation'\r\n" in peer.wire.read_to_end()
        peer.close()
    RoutePeer(port).join(**{"user": "route", "pass": "secret"}).close()
