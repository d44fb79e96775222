"""Servers that do not belong together: each says why, neither is harmed, and none joins."""

import pytest

from tests.support.broker import NATS_SERVER, Broker, free_port
from tests.support.cluster import CLUSTER, Hosts, wait_heard
from tests.support.fixtures import Dial
from tests.support.waiting import PATIENCE, wait_until
from tests.support.wireclient import WireClient

# Who listens, who dials.
ENDS = (("shardd-1", "shardd-1"), ("shardd-1", NATS_SERVER), (NATS_SERVER, "shardd-1"))
SEEN_S = 10.0 * PATIENCE


def urls(broker: Broker) -> list[str]:
    with WireClient(broker.host, broker.port) as client:
        found: list[str] = client.info.get("connect_urls", [])
        return found


def log_of(hosts: Hosts) -> str:
    """Of all of them: which end says it depends on who finds out first."""
    return "".join(broker.log_text() for broker in hosts.brokers)


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param(
            ends,
            id=f"{ends[1]}-to-{ends[0]}",
            marks=() if ends[1] == NATS_SERVER else pytest.mark.slow,
        )
        for ends in ENDS
    ],
)
@pytest.mark.parametrize(
    ("is_wrong", "complaint"),
    [
        ("cluster", f'cluster name "other" does not match "{CLUSTER}"'),
        ("password", "authentication error"),
        ("server_name", "Remote server has a duplicate name"),
    ],
    ids=["cluster-name", "password", "server-name"],
)
def test_a_server_that_does_not_belong_is_refused(
    no_leaks: None, dial: Dial, ends: tuple[str, str], is_wrong: str, complaint: str
) -> None:
    hosts = Hosts()
    try:
        for number, kind in enumerate((*ends, "shardd-1")):
            is_odd = number == 1
            # Where nobody is yet: the first one has no seed.
            seed = hosts.cluster_ports[0] if number else free_port()
            name = "host1" if is_odd and is_wrong == "server_name" else f"host{number + 1}"
            password = "guess" if is_odd and is_wrong == "password" else "secret"
            # The last of several values counts.
            hosts.add(
                kind,
                more=f"server_name: {name}",
                block=f"authorization {{ user: route, password: {password} }}\n"
                f'routes: ["nats://route:{password}@127.0.0.1:{seed}"]\n'
                + ("name: other" if is_odd and is_wrong == "cluster" else ""),
            )
            if is_odd:
                wait_until(lambda: complaint in log_of(hosts), "the refusal", SEEN_S)
        assert "secret" not in log_of(hosts)
        good = {f"{hosts[index].host}:{hosts[index].port}" for index in (0, 2)}

        def have_joined() -> bool:
            return all(set(urls(hosts[index])) == good for index in (0, 2))

        wait_until(have_joined, "the good ones to join")
        subscriber = dial(hosts[0]).connect()
        subscriber.subscribe(b"a", b"1")
        wait_heard(subscriber, dial(hosts[2]).connect(), b"a")
    finally:
        hosts.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "more", "end"),
    [
        ("authorization { user: route, password: guess }", "", "Authorization Violation"),
        ("", "server_name: host1", "Duplicate Server Name"),
    ],
    ids=["password", "server-name"],
)
def test_a_server_that_is_refused_does_not_storm(
    no_leaks: None, block: str, more: str, end: str
) -> None:
    hosts = Hosts()
    try:
        hosts.add("shardd-1", block=block.replace("guess", "secret"))
        hosts.add(NATS_SERVER, block=block, more=more)
        closed = f"Router connection closed: {end}"
        wait_until(lambda: hosts[0].log_text().count(closed) >= 3, "some refusals", SEEN_S)
        assert hosts[0].log_text().count(closed) < 30
    finally:
        hosts.stop()
