"""What a server says of its routes: `shardd routes --json` beside nats-server's `/routez`, and how
the command shows it."""

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import pytest

from tests.support.broker import NATS_SERVER, Broker, Shardd, free_port, newest_child
from tests.support.cluster import Hosts, RoutePeer, cluster_text
from tests.support.fixtures import Dial, Serve
from tests.support.machines import kill_router, wait_replaced
from tests.support.waiting import PATIENCE, wait_until

RUN_S: Final = 20 * PATIENCE
ROW: Final = {
    "rid": int,
    "remote_id": str,
    "remote_name": str,
    "did_solicit": bool,
    "is_configured": bool,
    "ip": str,
    "port": int,
    "start": str,
    "last_activity": str,
    "rtt": str,
    "uptime": str,
    "idle": str,
    "pending_size": int,
    "in_msgs": int,
    "out_msgs": int,
    "in_bytes": int,
    "out_bytes": int,
    "subscriptions": int,
    "compression": str,
}
TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z")


def routes(*argv: str) -> subprocess.CompletedProcess[str]:
    """Runs `shardd routes` to its end."""
    command = [sys.executable, "-m", "shardd", "routes", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)


def routez(broker: Broker, *flags: str) -> dict[str, Any]:
    """What a shardd reports."""
    done = routes(str(broker.pid), "--json", *flags)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture
def port() -> int:
    return free_port()


class Report:
    """``report()``: what one server, of either kind, says of its routes."""

    def __init__(self, broker: Broker, http: int) -> None:
        self.broker = broker
        self._http = http

    def __call__(self, *, has_subscriptions: bool = False) -> dict[str, Any]:
        if self.broker.kind != NATS_SERVER:
            return routez(self.broker, *(("--subs",) if has_subscriptions else ()))
        url = f"http://127.0.0.1:{self._http}/routez?subs={int(has_subscriptions)}"
        with urllib.request.urlopen(url, timeout=RUN_S) as response:
            document: dict[str, Any] = json.load(response)
            return document

    def row(self) -> dict[str, Any]:
        """The only route."""
        (row,) = self()["routes"]
        assert isinstance(row, dict)
        return row


@pytest.fixture
def report(configured_kind: str, serve: Serve, port: int) -> Report:
    http = free_port()
    more = f'http: "127.0.0.1:{http}"' if configured_kind == NATS_SERVER else ""
    return Report(serve(cluster_text("host1", port, more=more)), http)


@pytest.fixture
def peer(report: Report, port: int) -> Iterator[RoutePeer]:
    """Another server that is only bytes, and has joined."""
    peer = RoutePeer(port, "PEER", "peer").join()
    yield peer
    peer.close()


def time_of(text: str) -> float:
    assert TIME.fullmatch(text), text
    return datetime.fromisoformat(re.sub(r"(\.[0-9]{6})[0-9]+", r"\1", text)).timestamp()


def test_a_route_has_the_fields_of_routez(report: Report, peer: RoutePeer) -> None:
    document = report()
    assert document["server_id"] == peer.info["server_id"]
    assert document["server_name"] == "host1"
    assert document["num_routes"] == 1
    (row,) = document["routes"]
    assert {name: type(value) for name, value in row.items()} == ROW
    assert row["remote_id"] == "PEER"
    assert row["remote_name"] == "peer"
    assert not row["did_solicit"]
    assert not row["is_configured"]
    assert row["ip"] == "127.0.0.1"
    assert row["port"] == peer.wire.local_port
    assert row["pending_size"] == 0
    assert time_of(row["start"]) <= time_of(row["last_activity"]) <= time_of(document["now"])
    assert re.fullmatch(r"([0-9]+m)?[0-9]+s", row["uptime"])
    assert re.fullmatch(r"([0-9]+m)?[0-9]+s", row["idle"])
    assert re.fullmatch(r"0s|[0-9.]+(\u00b5s|ms|s)", row["rtt"])
    assert "subscriptions_list" not in row


def test_nobody_is_listed_before_both_ends_know_each_other(report: Report, port: int) -> None:
    stranger = RoutePeer(port)
    assert report()["num_routes"] == 0
    assert report()["routes"] == []
    stranger.close()


def test_messages_and_their_bytes_are_counted_both_ways(
    report: Report, peer: RoutePeer, dial: Dial
) -> None:
    client = dial(report.broker).connect(headers=True)
    client.subscribe(b"here", b"1")
    peer.wire.send(b"RS+ $G there\r\n")
    peer.settle()
    before = report.row()
    client.send(b"PUB there 5\r\nhello\r\nHPUB there reply 12 14\r\nNATS/1.0\r\n\r\nhi\r\n")
    client.ping()
    peer.wire.send(b"RMSG $G here 3\r\nabc\r\nRMSG $G nobody 4\r\nabcd\r\n")
    peer.settle()

    def has_counted() -> bool:
        row = report.row()
        return (row["out_msgs"], row["in_msgs"]) == (2, 2)

    wait_until(has_counted, "two messages each way")
    after = report.row()
    assert (after["out_bytes"], after["in_bytes"]) == (19, 7)
    assert time_of(after["last_activity"]) > time_of(before["last_activity"])


def test_interest_alone_is_activity_and_a_ping_is_none(report: Report, peer: RoutePeer) -> None:
    start = time_of(report.row()["last_activity"])
    peer.wire.send(b"RS+ $G a\r\n")

    def is_later() -> bool:
        return time_of(report.row()["last_activity"]) > start

    wait_until(is_later, "activity")
    peer.settle()
    seen = time_of(report.row()["last_activity"])
    peer.settle()
    assert abs(time_of(report.row()["last_activity"]) - seen) < 0.001


def test_what_the_peer_subscribes_to_is_counted_and_listed(report: Report, port: int) -> None:
    for number, (lines, subjects) in enumerate(
        (
            (b"RS+ $G a\r\nRS+ $G b.*\r\n", ["a", "b.*"]),
            (b"RS+ $G a\r\nRS+ $G a\r\n", ["a"]),
            (b"RS+ $G a\r\nRS+ $G a q 1\r\nRS+ $G a r 2\r\n", ["a", "a", "a"]),
            (b"RS+ $G a q 1\r\nRS+ $G a q 5\r\n", ["a"]),
            (b"RS+ $G a\r\nRS+ $G b q 5\r\nRS- $G b q\r\n", ["a"]),
            (b"RS+ $G a\r\nRS- $G a\r\nRS- $G a\r\nRS- $G never\r\n", []),
        )
    ):
        peer = RoutePeer(port, f"PEER{number}", f"peer{number}").join()
        peer.wire.send(lines)
        peer.settle()
        (row,) = report(has_subscriptions=True)["routes"]
        assert row["subscriptions"] == len(subjects), lines
        assert sorted(row.get("subscriptions_list", [])) == subjects, lines
        peer.close()
        wait_until(lambda: report()["num_routes"] == 0, "the peer to be gone")


def test_a_round_trip_is_measured(report: Report, peer: RoutePeer) -> None:
    def is_measured() -> bool:
        peer.settle()  # answers a PING that has come
        return bool(report.row()["rtt"] != "0s")

    wait_until(is_measured, "the first round trip")
    assert re.fullmatch(r"([0-9]+\u00b5s)|([0-9.]+m?s)", report.row()["rtt"])


@pytest.fixture
def hosts(no_leaks: None) -> Iterator[Hosts]:
    hosts = Hosts()
    yield hosts
    hosts.stop()


def test_a_route_is_configured_only_where_the_file_names_it(hosts: Hosts) -> None:
    ports = []
    for kind, others in (("shardd-1", 0), ("shardd-1", 1), ("nats-server", 2)):
        hosts.add(kind, routes=hosts.cluster_ports[:others])
        ports.append(hosts.cluster_ports[-1])
        hosts.settle()  # or gossip may let the first one dial the second one
    rows = {row["remote_name"]: row for row in routez(hosts[1])["routes"]}
    assert rows.keys() == {"host1", "host3"}
    assert rows["host1"]["did_solicit"]
    assert rows["host1"]["is_configured"]
    assert rows["host1"]["port"] == ports[0]
    assert not rows["host3"]["is_configured"]
    by_first = routez(hosts[0])["routes"]
    assert {row["remote_name"] for row in by_first} == {"host2", "host3"}
    assert not any(row["did_solicit"] or row["is_configured"] for row in by_first)

    def has_told() -> bool:
        rows = [row for row in routez(hosts[0])["routes"] if row["remote_name"] == "host3"]
        return any(row["subscriptions"] > 0 for row in rows)

    wait_until(has_told, "the interest of nats-server, which pools its connections")


def test_a_slow_peer_is_counted_also_by_the_next_router(hosts: Hosts, dial: Dial) -> None:
    broker = hosts.add("shardd-1", more="max_pending: 1MB")
    peer = RoutePeer(hosts.cluster_ports[0]).join()
    peer.wire.send(b"RS+ $G big\r\n")
    peer.settle()
    client, body = dial(broker).connect(), b"b" * 60_000

    def is_cut() -> bool:
        client.send(b"PUB big 60000\r\n%b\r\n" % body * 10)
        client.ping()
        return "Slow Consumer Detected" in broker.log_text()

    assert routez(broker)["slow_consumers"] == 0
    wait_until(is_cut, "the end of a route that is not read", 30.0)
    wait_until(lambda: routez(broker)["num_routes"] == 0, "the route to be gone")
    assert routez(broker)["slow_consumers"] == 1
    wait_replaced(broker, kill_router(broker))
    assert routez(broker)["slow_consumers"] == 1
    peer.close()


def test_the_table_has_a_line_for_each_route_and_no_controls_of_strangers(hosts: Hosts) -> None:
    broker = hosts.add("shardd-1")
    peer = RoutePeer(hosts.cluster_ports[0], name="bad\x1b[31m").join()
    peer.wire.send(b"RS+ $G plain\r\nRS+ $G work workers 3\r\nRS+ $G \x1b]0;x\r\n")
    peer.settle()
    done = routes(str(broker.pid), "--subs")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    _, table, listing = done.stdout.split("\n\n")
    head, line = table.splitlines()
    title, *wishes = listing.splitlines()
    assert head.split()[:4] == ["RID", "NAME", "ADDRESS", "KIND"]
    assert line.split()[1:4] == ["bad\\x1b[31m", f"127.0.0.1:{peer.wire.local_port}", "accepted"]
    assert title == f"bad\\x1b[31m (rid {line.split()[0]}) subscribes to"
    assert [wish.strip() for wish in wishes] == [
        "$G  \\x1b]0;x",
        "$G  plain",
        "$G  work  queue group workers, 3 members",
    ]
    peer.close()


@pytest.mark.parametrize("flag", ["--subs=detail", "--detail"])
def test_subscriptions_come_in_detail(hosts: Hosts, flag: str) -> None:
    broker = hosts.add("shardd-1", block="accounts: [A]")
    port = hosts.cluster_ports[0]
    peer = RoutePeer(port, route_pool_size=3, route_pool_idx=2).join()
    pinned = RoutePeer(port, route_pool_size=3, route_account="A").join()
    peer.wire.send(b"RS+ $G plain\r\nRS+ $G work workers 3\r\nRS+ X unknown\r\n")
    pinned.wire.send(b"RS+ own g 2\r\n")
    for each in (peer, pinned):
        each.settle()
    by_account = {row.get("account"): row for row in routez(broker, flag)["routes"]}
    row = by_account[None]
    details = sorted(row["subscriptions_list_detail"], key=lambda each: each["sid"])
    assert details == [
        {"account": "$G", "subject": "plain", "sid": "$G plain", "cid": row["rid"], "members": 1},
        {
            "account": "$G",
            "subject": "work",
            "qgroup": "workers",
            "sid": "$G work workers",
            "cid": row["rid"],
            "members": 3,
        },
        {"account": "X", "subject": "unknown", "sid": "X unknown", "cid": row["rid"], "members": 1},
    ]
    assert row["subscriptions"] == 3
    (detail,) = by_account["A"]["subscriptions_list_detail"]
    assert detail["sid"] == "own g"
    for each in (peer, pinned):
        each.close()


def test_permissions_are_reported(hosts: Hosts) -> None:
    block = 'permissions { import: ["a", "b.>"], export: { deny: "c" } }'
    broker = hosts.add("shardd-1", block=block)
    document = routez(broker)
    assert document["import"] == {"allow": ["a", "b.>"]}
    assert document["export"] == {"deny": ["c"]}
    lines = routes(str(broker.pid)).stdout.splitlines()
    assert "Lets in:         a b.>" in lines
    assert "Lets out:        all but not c" in lines


def test_many_subscriptions_come_whole(hosts: Hosts) -> None:
    broker = hosts.add("shardd-1")
    peer = RoutePeer(hosts.cluster_ports[0]).join()
    peer.wire.send(b"".join(b"RS+ $G s.%d\r\n" % number for number in range(20_000)))
    peer.settle()
    (row,) = routez(broker, "--subs")["routes"]
    assert row["subscriptions"] == 20_000
    assert sorted(row["subscriptions_list"]) == sorted(f"s.{number}" for number in range(20_000))
    peer.close()


def test_a_server_that_cannot_be_asked_is_one_line(hosts: Hosts) -> None:
    alone, other = hosts.add("shardd-1"), hosts.add("nats-server")
    router = newest_child(alone)
    for target, text in (
        (str(other.pid), f"process {other.pid} is no shardd server"),
        (str(router), f"process {router} is no shardd server"),
        ("4194305", "could not ask server 4194305: no such process"),
        ("0", "invalid pid: 0"),
        ("/no/such", "could not read pid file /no/such: no such file or directory"),
    ):
        done = routes(target)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr == f"shardd: {text}\n"


def test_a_server_without_a_cluster_says_so(no_leaks: None) -> None:
    broker = Shardd(1)
    broker.start()
    try:
        done = routes(str(broker.pid))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"shardd: server {broker.pid} is in no cluster\n"
    finally:
        broker.stop()
