"""Several connections between two servers: how many there are, what goes by which, and repairs."""

import ctypes
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import psutil
import pytest

from tests.support.broker import NATS_SERVER, Broker, free_port, make_broker, newest_child
from tests.support.cluster import CLUSTER, Hosts, RoutePeer, cluster_text
from tests.support.fixtures import Dial, Serve
from tests.support.machines import kill_router, rows_of, wait_replaced
from tests.support.waiting import wait_until
from tests.support.wireclient import WireClient

PIDFD_GETFD: Final = 438  # the number of the system call, on every architecture
# Each of them goes by the place in a pool of three that its name says.
ACCOUNTS: Final = ("A", "B", "C", "G")
USERS: Final = "accounts {{ {} }}".format(
    ", ".join(f"{name} {{ users: [{{user: {name.lower()}, password: pw}}] }}" for name in ACCOUNTS)
)
PAIRS: Final = [
    ("shardd-2", "nats-server"),
    ("nats-server", "shardd-2"),
    ("shardd-1", "shardd-2"),
]
SLOW_PAIRS: Final = [pytest.param(pair, marks=pytest.mark.slow) for pair in PAIRS[1:]]

Form = Callable[..., Hosts]


@pytest.fixture
def form(no_leaks: None) -> Iterator[Form]:
    """``form(kinds, blocks)``: servers with the accounts, the first one is the seed."""
    made: list[Hosts] = []

    def start(kinds: Sequence[str], blocks: Sequence[str]) -> Hosts:
        hosts = Hosts()
        made.append(hosts)
        for kind, block in zip(kinds, blocks, strict=True):
            hosts.add(kind, more=USERS, block=block)
        hosts.settle()
        return hosts

    yield start
    for hosts in made:
        hosts.stop()


def enter(dial: Dial, broker: Broker, account: str) -> WireClient:
    """A client of this account; of the global one where there is no name."""
    user = {"user": account.lower(), "pass": "pw"} if account else {}
    return dial(broker).connect(headers=True, no_responders=True, **user)


def hear(dial: Dial, hosts: Hosts, accounts: Sequence[str] = ACCOUNTS) -> None:
    """Wait until a message of every account has gone from each host to each other one."""
    for account in accounts:
        clients = [enter(dial, broker, account) for broker in hosts.brokers]
        for number, client in enumerate(clients):
            client.subscribe(b"to.%d" % number, b"1")
            client.ping()
        for here in clients:
            for number, there in enumerate(clients):
                if here is not there:
                    _wait_heard(here, there, b"to.%d" % number)
        for client in clients:
            client.close()


def _wait_heard(here: WireClient, there: WireClient, subject: bytes) -> None:
    def is_heard() -> bool:
        here.send(b"PUB %b 1\r\n!\r\nPING\r\n" % subject)
        here.read_until(b"PONG\r\n")
        there.send(b"PING\r\n")
        return subject in there.read_until(b"PONG\r\n")

    wait_until(is_heard, f"{subject!r} to be heard on the other host")


def shardd_of(hosts: Hosts) -> Broker:
    return next(broker for broker in hosts.brokers if broker.kind != NATS_SERVER)


def wait_routes(hosts: Hosts, pooled: int, accounts: Sequence[str]) -> list[dict[str, Any]]:
    """Wait until a shardd has exactly these connections to the only other host."""
    rows: list[dict[str, Any]] = []

    def is_there() -> bool:
        rows[:] = rows_of(shardd_of(hosts))
        found = sorted(row.get("account", "") for row in rows)
        return found == sorted([*[""] * pooled, *accounts])

    wait_until(is_there, f"{pooled} routes and those of {accounts}", 20.0)
    return rows


# What both ends' files say, and how many connections they have then, and for which accounts.
POOLS: Final = [
    (("", ""), 3, ["$SYS"]),
    (("pool_size: 1", "pool_size: 1"), 1, ["$SYS"]),
    (("pool_size: 5", "pool_size: 2"), 5, ["$SYS"]),
    (("pool_size: 1", ""), 3, ["$SYS"]),
    (("pool_size: -1", ""), 1, []),
    (("", "pool_size: -1"), 1, []),
    (("accounts: [A, C]", "accounts: [A, C]"), 3, ["$SYS", "A", "C"]),
]
QUICK: Final = [
    *((PAIRS[0], pool) for pool in POOLS),
    (PAIRS[1], POOLS[2]),
    (PAIRS[1], POOLS[6]),
]


@pytest.mark.parametrize(
    ("kinds", "blocks", "pooled", "accounts"),
    [
        pytest.param(
            kinds, *pool, id=str((kinds, pool)),
            marks=() if (kinds, pool) in QUICK else pytest.mark.slow,
        )
        for kinds in PAIRS
        for pool in POOLS
    ],
)  # fmt: skip
def test_both_ends_find_the_same_connections(
    form: Form,
    dial: Dial,
    kinds: Sequence[str],
    blocks: Sequence[str],
    pooled: int,
    accounts: list[str],
) -> None:
    hosts = form(kinds, blocks)
    hear(dial, hosts)
    rows = wait_routes(hosts, pooled, accounts)
    assert len({row["rid"] for row in rows}) == len(rows)
    assert len({row["remote_id"] for row in rows}) == 1


@pytest.mark.parametrize("kinds", PAIRS)
def test_two_that_dial_each_other_agree(form: Form, dial: Dial, kinds: Sequence[str]) -> None:
    hosts = form((), ())
    ports = [free_port(), free_port()]
    for number, kind in enumerate(kinds):
        hosts.brokers.append(make_broker(kind))
        hosts.cluster_ports.append(ports[number])
        text = cluster_text(f"host{number + 1}", ports[number], [ports[1 - number]], USERS)
        hosts[number].start_text(text)
    hosts.settle()
    hear(dial, hosts)
    wait_routes(hosts, 3, ["$SYS"])


@pytest.mark.parametrize("kinds", PAIRS)
def test_an_account_of_one_side_only_goes_nowhere_and_harms_nobody(
    form: Form, dial: Dial, kinds: Sequence[str]
) -> None:
    hosts = form(kinds, ("", "accounts: [A]"))
    hear(dial, hosts, ("B", "C", "G"))
    wait_routes(hosts, 3, ["$SYS"])
    if hosts[1].kind != NATS_SERVER:
        wait_until(lambda: 'No route for account "A"' in hosts[1].log_text(), "the log to say why")


def cut(broker: Broker, ports: Sequence[int], index: int) -> None:
    """End one of the connections of a server's router to cluster ports, or from there."""
    pid = newest_child(broker)
    connections = [
        each.fd
        for each in psutil.Process(pid).net_connections("tcp")
        if each.status == psutil.CONN_ESTABLISHED
        and (each.raddr.port in ports or each.laddr.port in ports)
    ]
    with socket.socket(fileno=_borrow(pid, sorted(connections)[index])) as connection:
        connection.shutdown(socket.SHUT_RDWR)


def _borrow(pid: int, descriptor: int) -> int:
    """A duplicate of another process's descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    try:
        found = libc.syscall(PIDFD_GETFD, pidfd, descriptor, 0)
    finally:
        os.close(pidfd)
    if found < 0:
        pytest.skip(f"pidfd_getfd is not allowed here: {os.strerror(ctypes.get_errno())}")
    return int(found)


@pytest.mark.parametrize("kinds", [PAIRS[0], *SLOW_PAIRS])
def test_one_connection_that_is_lost_is_made_again(
    form: Form, dial: Dial, kinds: Sequence[str]
) -> None:
    hosts = form(kinds, ("accounts: [A]", "accounts: [A]"))
    hear(dial, hosts)
    for index in (0, -1):
        before = {row["rid"] for row in wait_routes(hosts, 3, ["$SYS", "A"])}
        cut(shardd_of(hosts), hosts.cluster_ports, index)

        def is_mended(before: set[int] = before) -> bool:
            now = {row["rid"] for row in wait_routes(hosts, 3, ["$SYS", "A"])}
            return len(now - before) == 1

        wait_until(is_mended, "one new connection beside the others", 20.0)
    hear(dial, hosts)


def test_three_hosts_that_know_one_pool_with_each_other(form: Form, dial: Dial) -> None:
    kinds = ("shardd-1", "nats-server", "shardd-2")
    hosts = form(kinds, ["accounts: [A]"] * 3)
    hear(dial, hosts)

    def is_whole() -> bool:
        for broker in (hosts[0], hosts[2]):
            found: dict[str, list[str]] = {}
            for row in rows_of(broker):
                found.setdefault(row["remote_name"], []).append(row.get("account", ""))
            if sorted(map(sorted, found.values())) != [["", "", "", "$SYS", "A"]] * 2:
                return False
        return True

    wait_until(is_whole, "every connection between three hosts", 30.0)


def test_a_router_that_is_killed_comes_back_with_all_connections(form: Form, dial: Dial) -> None:
    hosts = form(("shardd-2", "nats-server"), ("", ""))
    wait_routes(hosts, 3, ["$SYS"])
    broker = hosts[0]
    wait_replaced(broker, kill_router(broker))
    hear(dial, hosts)
    wait_routes(hosts, 3, ["$SYS"])


@pytest.mark.parametrize("kinds", [PAIRS[0], *SLOW_PAIRS])
def test_a_reload_may_change_how_many_there_are(
    form: Form, dial: Dial, kinds: Sequence[str]
) -> None:
    hosts = form(kinds, ("", ""))
    wait_routes(hosts, 3, ["$SYS"])
    for number, broker in enumerate(hosts.brokers):
        text = cluster_text(
            f"host{number + 1}",
            hosts.cluster_ports[number],
            hosts.cluster_ports[:number],
            USERS,
            "pool_size: 2, accounts: [B]",
        )
        assert "Reloaded server configuration" in broker.reload(text)
    wait_routes(hosts, 2, ["$SYS", "B"])
    hear(dial, hosts)


# --- byte by byte ---------------------------------------------------------------------------------


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def server(serve: Serve, port: int) -> Broker:
    return serve(cluster_text("host1", port, more=USERS, block="accounts: [B]"))


@pytest.fixture
def meet(server: Broker, port: int) -> Iterator[Callable[..., RoutePeer]]:
    """``meet(...)``: one more connection of the same peer, which pools."""
    peers: list[RoutePeer] = []

    def open_peer(**options: Any) -> RoutePeer:
        peers.append(RoutePeer(port, **{"route_pool_size": 3, **options}))
        return peers[-1]

    yield open_peer
    for peer in peers:
        peer.close()


Meet = Callable[..., RoutePeer]


def test_accounts_go_by_the_connection_that_their_name_says(
    server: Broker, meet: Meet, dial: Dial
) -> None:
    pool = [meet(route_pool_idx=index).join() for index in range(3)]
    pinned = meet(route_account="B").join()
    places = {"A": 0, "C": 1, "G": 2}
    for account, index in places.items():
        client = enter(dial, server, account)
        client.subscribe(b"foo", b"1")
        client.ping()
        pool[index].lines_until(b"RS+ %b foo" % account.encode())
        pool[index].wire.send(b"RS+ %b bar\r\n" % account.encode())
        pool[index].settle()
        client.publish(b"bar", b"x")
        pool[index].wire.expect(b"RMSG %b bar 1\r\nx\r\n" % account.encode())
        pool[index].wire.send(b"RMSG %b foo 1\r\ny\r\n" % account.encode())
        client.expect_msg(b"foo", b"1", b"y")
    client = enter(dial, server, "B")
    client.send(b"SUB foo 1\r\nSUB foo g 2\r\n")
    client.ping()
    assert sorted(pinned.lines_until(b"RS+ foo g 1")) == [b"RS+ foo", b"RS+ foo g 1"]
    pinned.wire.send(b"RS+ bar\r\nRS+ many g 2\r\n")
    pinned.settle()
    client.send(
        b"PUB bar in 1\r\nx\r\nPUB many 1\r\nx\r\nHPUB many in 12 13\r\nNATS/1.0\r\n\r\nz\r\n"
    )
    pinned.wire.expect(b"RMSG bar in 1\r\nx\r\nRMSG many | g 1\r\nx\r\n")
    pinned.wire.expect(b"HMSG many + in g 12 13\r\nNATS/1.0\r\n\r\nz\r\n")
    pinned.wire.send(b"RMSG foo | g 1\r\ny\r\n")
    assert {client.read_until(b"y\r\n").split()[2] for _ in range(2)} == {b"1", b"2"}
    for each in (*pool, pinned):
        assert each.settle() == []


def test_what_a_lost_connection_wanted_is_wanted_no_more(
    server: Broker, meet: Meet, dial: Dial
) -> None:
    first, second = meet().join(), meet(route_pool_idx=1).join()
    first.wire.send(b"RS+ A foo\r\n")
    first.settle()
    second.wire.send(b"RS+ C foo\r\nRS+ C bar g 1\r\n")
    second.settle()
    a, c = enter(dial, server, "A"), enter(dial, server, "C")
    second.close()

    def is_unheard() -> bool:
        c.send(b"SUB in.* 9\r\nPUB foo in.1 0\r\n\r\nPING\r\n")
        return b" 503" in c.read_until(b"PONG\r\n")

    wait_until(is_unheard, "the interest of the lost connection to end")
    a.publish(b"foo", b"x")
    first.wire.expect(b"RMSG A foo 1\r\nx\r\n")
    again = meet(route_pool_idx=1).join()
    lines = again.joined
    while b"RS+ C in.*" not in lines:
        lines += again.settle()
    again.wire.send(b"RS+ C foo\r\n")
    again.settle()
    c.publish(b"foo", b"x")
    again.wire.expect(b"RMSG C foo 1\r\nx\r\n")


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ({"route_account": "A"}, b"-ERR 'No route for account \"A\"'\r\n"),
        ({"route_pool_idx": 3}, b"-ERR 'Invalid route pool index: 3 - pool size is 3'\r\n"),
        (
            {"route_account": "B", "route_pool_size": 0},
            b'-ERR \'Not possible to have a dedicated route for account "B" between',
        ),
    ],
)
def test_what_cannot_be_is_refused(meet: Meet, told: dict[str, Any], text: bytes) -> None:
    peer = meet(**told)
    peer.connect()
    peer.introduce()
    assert text in peer.wire.read_to_end()


def test_a_place_is_taken_once(meet: Meet) -> None:
    first, pinned = meet().join(), meet(route_account="B").join()
    for again in (meet(), meet(route_account="B")):
        again.connect()
        again.introduce()
        assert b"RS+" not in again.wire.read_to_end()
    for each in (first, pinned):
        each.settle()


class Acceptor:
    """A peer that is dialed: a listening socket, and lines."""

    def __init__(self, **introduction: Any) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(20)
        self.port: int = self._listener.getsockname()[1]
        self._introduction = {
            "server_id": "PEER",
            "server_name": "peer",
            "version": "2.10.0",
            "proto": 1,
            "host": "127.0.0.1",
            "port": self.port,
            "headers": True,
            "max_payload": 1048576,
            "cluster": CLUSTER,
            **introduction,
        }
        self._connections: list[socket.socket] = []

    def accept(self) -> tuple[dict[str, Any], socket.socket]:
        """The next connection: what the dialer says of itself once it knows who this is."""
        connection, _ = self._listener.accept()
        connection.settimeout(20)
        self._connections.append(connection)
        connection.sendall(b"INFO " + json.dumps(self._introduction).encode() + b"\r\n")
        reader = connection.makefile("rb")
        assert reader.readline().startswith(b"CONNECT ")
        line = reader.readline()
        while not line.startswith(b"INFO"):
            assert line, "the dialer has left"
            line = reader.readline()
        connection.sendall(b"PONG\r\n")
        told: dict[str, Any] = json.loads(line[5:])
        return told, connection

    def close(self) -> None:
        """Leave."""
        for each in (*self._connections, self._listener):
            each.close()


def test_who_dials_says_which_connection_it_is(serve: Serve, port: int) -> None:
    acceptor = Acceptor(route_pool_size=4)
    serve(cluster_text("host1", port, [acceptor.port], USERS, "accounts: [B]"))
    dialed = [acceptor.accept() for _ in range(6)]
    told = sorted(
        (info.get("route_account", ""), info.get("route_pool_idx", 0)) for info, _ in dialed
    )
    assert told == [("", 0), ("", 1), ("", 2), ("", 3), ("$SYS", 0), ("B", 0)]
    assert {info["route_pool_size"] for info, _ in dialed} == {3}
    info, connection = dialed[0]
    connection.close()
    again, _ = acceptor.accept()
    for name in ("route_account", "route_pool_idx"):
        assert again.get(name) == info.get(name)
    acceptor.close()


def test_an_old_server_is_dialed_once(no_leaks: None) -> None:
    acceptor = Acceptor()
    broker = make_broker("shardd-1")
    broker.start_text(cluster_text("host1", free_port(), [acceptor.port], USERS))
    told, connection = acceptor.accept()
    assert told["route_pool_size"] == 3
    connection.sendall(b"PING\r\n")
    rows = wait_until(lambda: rows_of(broker), "the route to be there")
    assert [row["remote_name"] for row in rows] == ["peer"]
    acceptor.close()
    broker.stop()
