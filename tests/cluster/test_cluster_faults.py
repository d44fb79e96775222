"""What goes wrong between hosts: routers that are killed, hosts that end, peers that misbehave.

After each fault the hosts agree again, and clients that had no part in it have noticed nothing.
"""

import contextlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.support.broker import Broker, free_port, make_broker
from tests.support.cluster import Hosts, RoutePeer, cluster_text, wait_heard
from tests.support.fixtures import Dial
from tests.support.machines import kill_router, wait_replaced
from tests.support.waiting import wait_until
from tests.support.wireclient import WireClient

Form = Callable[..., Hosts]


@pytest.fixture
def form(no_leaks: None) -> Iterator[Form]:
    """``form(*kinds)``: a settled cluster of this test's own."""
    made: list[Hosts] = []

    def start(*kinds: str, more: str = "") -> Hosts:
        hosts = Hosts()
        made.append(hosts)
        for kind in kinds:
            hosts.add(kind, more=more)
        hosts.settle()
        return hosts

    yield start
    for hosts in made:
        hosts.stop()


def listen(dial: Dial, broker: Broker, subject: bytes) -> WireClient:
    client = dial(broker).connect()
    client.subscribe(subject, b"1")
    client.ping()
    return client


def _is_logged(broker: Broker, text: str) -> bool:
    return text in broker.log_text()


def test_a_router_that_is_killed_is_replaced_and_nobody_here_notices(
    form: Form, dial: Dial
) -> None:
    hosts = form("shardd-2", "shardd-2", "nats-server")
    here, there = hosts[0], hosts[1]
    far = [listen(dial, broker, b"far") for broker in hosts.brokers[1:]]
    near = listen(dial, here, b"near")
    publishers = [dial(here).connect() for _ in range(4)]
    for subscriber in far:
        wait_heard(subscriber, publishers[0], b"far")
    old = kill_router(here)
    for number in range(200):
        publisher = publishers[number % 4]
        publisher.publish(b"near", b"%d" % number)
        near.expect_msg(b"near", b"1", b"%d" % number)
    wait_replaced(here, old)
    hosts.settle()
    for subscriber in far:
        wait_heard(subscriber, publishers[0], b"far")
    wait_heard(near, dial(there).connect(), b"near")
    for client in (*publishers, near):
        client.expect_silence()


def test_a_host_that_ends_is_forgotten_and_known_again(form: Form, dial: Dial) -> None:
    hosts = form("shardd-2", "shardd-2", "shardd-2")
    subscriber, publisher = listen(dial, hosts[2], b"a"), dial(hosts[0]).connect()
    wait_heard(subscriber, publisher, b"a")
    hosts[1].kill()
    hosts.settle()
    wait_heard(subscriber, publisher, b"a")
    again = make_broker("shardd-2")
    port = hosts.cluster_ports[1]
    hosts.brokers[1] = again
    again.start_text(cluster_text("host2", port, hosts.cluster_ports[:1]))
    hosts.settle()
    wait_heard(listen(dial, again, b"a"), publisher, b"a")
    wait_heard(subscriber, dial(again).connect(), b"a")


def test_a_nats_server_may_go_and_come_back(form: Form, dial: Dial) -> None:
    hosts = form("nats-server", "shardd-2")
    subscriber = listen(dial, hosts[1], b"a")
    hosts[0].stop()
    hosts.settle()
    for told in ("Client Closed - Remote: host1", "connect to route (attempt 1)"):
        wait_until(partial(_is_logged, hosts[1], told), f"{told!r} in the log")
    back = make_broker("nats-server")
    hosts.brokers[0] = back
    back.start_text(cluster_text("host1", hosts.cluster_ports[0]))
    hosts.settle()
    wait_heard(subscriber, dial(back).connect(), b"a")


def test_nothing_is_lost_between_others_when_a_host_joins_and_leaves(
    form: Form, dial: Dial
) -> None:
    hosts = form("shardd-2", "shardd-2")
    subscriber, publisher = listen(dial, hosts[1], b"count"), dial(hosts[0]).connect()
    wait_heard(subscriber, publisher, b"count")
    sent = 0

    def send(count: int) -> None:
        nonlocal sent
        publisher.send(b"".join(b"PUB count 6\r\n%06d\r\n" % (sent + n) for n in range(count)))
        publisher.ping()
        sent += count

    send(2000)
    hosts.add("shardd-2")
    send(2000)
    hosts.settle()
    send(2000)
    hosts[2].stop()
    send(2000)
    hosts.settle()
    send(2000)
    for number in range(sent):
        subscriber.expect_msg(b"count", b"1", b"%06d" % number)


def test_garbage_ends_the_route_and_nothing_else(form: Form, dial: Dial) -> None:
    hosts = form("shardd-2", "shardd-2")
    subscriber, publisher = listen(dial, hosts[1], b"a"), dial(hosts[0]).connect()
    wait_heard(subscriber, publisher, b"a")
    for number, garbage in enumerate(
        (
            b"RMSG $G a 1000000000\r\n",
            b"RMSG $G a | q 99999999999\r\n",
            b"RS+\r\n",
            b"RMSG $G\r\n",
            b"\x00" * 100,
            b"RMSG $G a 1\r\nxyz\r\n",
            b"INFO {\r\n",
            b"RS+ $G " + b"a" * 70_000,
            b"HMSG $G a 10 2\r\nxx\r\n",
        )
    ):
        peer = RoutePeer(hosts.cluster_ports[0], f"BAD{number}", f"bad{number}").join()
        peer.wire.send(garbage)
        peer.wire.read_to_end()
        peer.close()
    wait_heard(subscriber, publisher, b"a")


def test_nothing_is_left_of_peers_that_talk_nonsense(
    form: Form, dial: Dial, rng: random.Random
) -> None:
    hosts = form("shardd-2", "shardd-2")
    subscriber, publisher = listen(dial, hosts[1], b"a"), dial(hosts[0]).connect()
    wait_heard(subscriber, publisher, b"a")
    lines = [
        *(b"RS+ $G g.%d\r\nRS+ $G g.q.%d group 3\r\n" % (n, n) for n in range(5)),
        *(b"RS- $G g.%d\r\nRS- $G g.q.%d group\r\n" % (n, n) for n in range(5)),
        *(b"RMSG $G g 5\r\nhello\r\n", b"RMSG $G g + reply q 5\r\nhello\r\n"),
        *(b"HMSG $G g 12 17\r\nNATS/1.0\r\n\r\nhello\r\n", b"PING\r\n", b"PONG\r\n"),
        *(b'INFO {"server_id":"NOBODY","port":1}\r\n', b"LS+ $G a b\r\n", b"-ERR 'x'\r\n"),
    ]
    for number in range(60):
        peer = RoutePeer(hosts.cluster_ports[number % 2], f"ODD{number}", f"odd{number}").join()
        text = bytearray(b"".join(rng.choices(lines, k=20)))
        for _ in range(rng.randrange(1, 8)):
            where = rng.randrange(len(text))
            text[where : where + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        with contextlib.suppress(OSError):  # it may have been cut off already
            peer.wire.send(bytes(text), b"RS+ $G g.last\r\n")
        peer.close()
    # Whatever they wanted is not wanted any more, by either host.
    asking = dial(hosts[0]).connect(headers=True, no_responders=True)
    asking.subscribe(b"in.*", b"1")

    def is_unwanted(subject: bytes) -> bool:
        asking.send(b"PUB %b in.1 0\r\n\r\nPING\r\n" % subject)
        return b" 503" in asking.read_until(b"PONG\r\n")

    for subject in (
        b"g.last",
        *(b"g.%d" % n for n in range(5)),
        *(b"g.q.%d" % n for n in range(5)),
    ):
        wait_until(partial(is_unwanted, subject), f"the end of interest in {subject!r}")
    hosts.settle()
    wait_heard(subscriber, publisher, b"a")


def test_a_peer_that_reads_no_more_is_cut_off(form: Form, dial: Dial) -> None:
    hosts = form("shardd-2", "shardd-2", more="max_pending: 2MB\nmax_payload: 64KB")
    subscriber, publisher = listen(dial, hosts[1], b"big"), dial(hosts[0]).connect()
    wait_heard(subscriber, publisher, b"big")
    peer = RoutePeer(hosts.cluster_ports[0], "MUTE", "mute").join()
    peer.wire.send(b"RS+ $G big\r\n")
    peer.settle()
    body = b"b" * 60_000

    def is_cut() -> bool:
        publisher.send(b"PUB big 60000\r\n%b\r\n" % body * 10)
        for _ in range(10):
            subscriber.expect_msg(b"big", b"1", body)
        return "Slow Consumer Detected" in hosts[0].log_text()

    wait_until(is_cut, "the end of a route that is not read", 30.0)
    wait_heard(subscriber, publisher, b"big")
    peer.close()


def test_a_server_that_is_about_to_leave_is_not_advertised(form: Form, dial: Dial) -> None:
    hosts = form("shardd-2", "shardd-2", "nats-server")
    leaving = hosts[1]
    clients = [dial(hosts[0]).connect(protocol=1), dial(leaving).connect(protocol=1)]
    for client in clients:
        client.ping()
    os.kill(leaving.pid, signal.SIGUSR2)
    gone = b"127.0.0.1:%d" % leaving.port
    for client in clients:
        line = client.read_until(b"\r\n")
        while gone in line:
            line = client.read_until(b"\r\n")
        assert line.startswith(b"INFO ")
        assert b"127.0.0.1:%d" % hosts[2].port in line
        assert (b'"ldm":true' in line) == (client is clients[1])


def test_routes_that_lead_nowhere_do_no_harm(form: Form, dial: Dial) -> None:
    hosts = Hosts()
    try:
        hosts.add("shardd-2", routes=[free_port()])
        client, other = listen(dial, hosts[0], b"a"), dial(hosts[0]).connect()
        wait_until(
            lambda: "Error trying to connect to route (attempt 1)" in hosts[0].log_text(),
            "the failure to be logged",
        )
        wait_heard(client, other, b"a")
    finally:
        hosts.stop()
