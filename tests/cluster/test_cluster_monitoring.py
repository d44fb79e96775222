"""A cluster of real nats-servers and shardd is watched as one: requests in the system account reach
all of them, whoever is asked, and each tells of its routes."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import pytest

from tests.support.broker import NATS_SERVER
from tests.support.cluster import Hosts
from tests.support.waiting import PATIENCE, wait_until
from tests.support.watched import document, shape
from tests.support.wireclient import WireClient

KINDS: Final = (NATS_SERVER, "shardd-2", NATS_SERVER)
MORE: Final = """
http: "127.0.0.1:-1"
accounts { A { users [ {user: u, password: p} ] }, SYS { users [ {user: s, password: p} ] } }
system_account: SYS
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    hosts = Hosts()
    try:
        for kind in KINDS:
            hosts.add(kind, more=MORE)
        hosts.settle()
        for index in range(len(KINDS)):
            # Routes of the system account are made after those that tell clients of each other.
            wait_until(partial(all_answer, hosts, index), f"host {index} to reach everybody", 40.0)
        yield hosts
    finally:
        hosts.stop()


def all_answer(hosts: Hosts, index: int) -> bool:
    """Whether all servers answer somebody who asks this one."""
    with WireClient(hosts[index].host, hosts[index].port) as client:
        client.connect(user="s", **{"pass": "p"}, headers=True)
        client.subscribe(b"present", b"1")
        client.publish(b"$SYS.REQ.SERVER.PING.VARZ", b"", b"present")
        client.socket.settimeout(2.0 * PATIENCE)
        try:
            for _ in KINDS:
                line = client.expect_line().split()
                client.read(int(line[-1]) + 2)
        except AssertionError:
            return False
    return True


def answers(hosts: Hosts, index: int, subject: bytes, body: bytes = b"") -> list[dict[str, Any]]:
    """What the servers of the cluster say to somebody who asks one of them."""
    found: list[dict[str, Any]] = []
    with WireClient(hosts[index].host, hosts[index].port) as client:
        client.connect(user="s", **{"pass": "p"}, headers=True)
        client.subscribe(b"answers", b"1")
        client.publish(subject, body, b"answers")
        while len(found) < len(KINDS):
            line = client.expect_line().split()
            found.append(json.loads(client.read(int(line[-1]) + 2)[:-2]))
    return sorted(found, key=lambda each: str(each["server"]["name"]))


@pytest.mark.parametrize("index", range(len(KINDS)))
@pytest.mark.parametrize(
    "subject", ["SERVER.PING", "SERVER.PING.ROUTEZ", "SERVER.PING.VARZ", "ACCOUNT.PING.STATZ"]
)
def test_all_servers_answer_whoever_is_asked(hosts: Hosts, index: int, subject: str) -> None:
    body = b'{"include_unused":true}' if "ACCOUNT" in subject else b""
    found = answers(hosts, index, b"$SYS.REQ." + subject.encode(), body)
    assert [each["server"]["name"] for each in found] == ["host1", "host2", "host3"]
    assert {each["server"]["cluster"] for each in found} == {"trial"}


def test_every_server_counts_the_others(hosts: Hosts) -> None:
    first, second, _ = answers(hosts, 1, b"$SYS.REQ.SERVER.PING")
    without = ("feature_flags",)
    assert shape(second, without) == shape(first, without)

    def counts() -> set[int]:
        found = answers(hosts, 1, b"$SYS.REQ.SERVER.PING")
        return {each["statsz"]["active_servers"] for each in found}

    wait_until(lambda: counts() == {3}, "all servers to know of all", 40.0)


def test_routes_are_told_in_the_same_form(hosts: Hosts) -> None:
    with WireClient(hosts[0].host, hosts[0].port) as client:
        client.connect(user="u", **{"pass": "p"}).subscribe(b"far.away", b"1")

        def ours() -> dict[str, Any] | None:
            found = document(hosts[1], "routez?subs=1")
            lists = [row.get("subscriptions_list", []) for row in found["routes"]]
            return found if any("far.away" in each for each in lists) else None

        found = wait_until(ours, "the other server's subscription")
    assert found is not None
    theirs = document(hosts[0], "routez")
    ours_now = document(hosts[1], "routez")
    assert {row["remote_name"] for row in found["routes"]} == {"host1", "host3"}
    extra = ("slow_consumers",)
    # nats-server pins the system account to a route of its own, whose row names it.
    pinned = ("account",)
    without = (*extra, *pinned, "routes")
    assert shape(ours_now, without) == shape(theirs, without)
    assert shape(ours_now["routes"][0], pinned) == shape(theirs["routes"][0], pinned)
    varz = document(hosts[1], "varz")
    assert varz["remotes"] == 2
    wait_until(
        lambda: document(hosts[1], "varz")["routes"] == document(hosts[1], "routez")["num_routes"],
        "both to tell of the same routes: more may come for a while",
    )
    assert set(varz["connect_urls"]) == {f"{each.host}:{each.port}" for each in hosts.brokers}
