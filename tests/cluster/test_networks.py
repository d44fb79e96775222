"""Clusters whose servers are hosts of a network, with an address each, as they are in service."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.fixtures import Dial
from tests.support.machines import CLIENT_PORT, Machines, machines_of
from tests.support.network import Tap
from tests.support.wireclient import WireClient, parse_info

FORMATIONS = {
    "three shardd": ("shardd-2", "shardd-2", "shardd-2"),
    "two shardd": ("shardd-2", "shardd-2", "nats-server"),
    "one shardd": ("nats-server", "shardd-2", "nats-server"),
}
HOSTS = range(3)


@pytest.fixture(scope="module", params=FORMATIONS, ids=lambda name: name.replace(" ", "-"))
def machines(request: pytest.FixtureRequest) -> Iterator[Machines]:
    """All of the cluster's servers listen on 0.0.0.0, and only the first is a seed."""
    with machines_of(FORMATIONS[request.param]) as machines:
        yield machines


@pytest.fixture
def clients(machines: Machines, dial: Dial) -> list[WireClient]:
    """One client of each host."""
    return [dial(broker).connect(headers=True, no_responders=True) for broker in machines.brokers]


@pytest.fixture
def tap(machines: Machines) -> Iterator[Callable[[int], Tap]]:
    """``tap(index)``: all that a host sends and receives from now on."""
    taps: list[Tap] = []

    def open_tap(index: int) -> Tap:
        taps.append(machines.network.tap(index))
        return taps[-1]

    yield open_tap
    for each in taps:
        each.close()


def test_clients_are_told_addresses_that_they_can_reach(machines: Machines, dial: Dial) -> None:
    addresses = [f"{machines.address(index)}:{CLIENT_PORT}" for index in HOSTS]
    for index in HOSTS:
        urls = dial(machines[index]).info["connect_urls"]
        assert urls[0] == addresses[index]
        assert sorted(urls) == addresses


def test_routes_lead_to_the_addresses_of_the_hosts(machines: Machines) -> None:
    for index in HOSTS:
        wanted = {f"host{i + 1}": machines.address(i) for i in HOSTS if i != index}
        assert {row["remote_name"]: row["ip"] for row in machines.routes(index)} == wanted


def test_what_hosts_believe_of_each_other_is_true(
    machines: Machines, clients: list[WireClient]
) -> None:
    for index, client in enumerate(clients):
        client.send(b"SUB same 1\r\nSUB only.%d 2\r\nSUB only.%d 3\r\n" % (index, index))
        client.send(b"SUB wild.*.> 4\r\nSUB work group 5\r\nSUB work group 6\r\nSUB work 7\r\n")
        client.ping()
    wanted = [["same", f"only.{index}", "wild.*.>", "work", "work"] for index in HOSTS]
    machines.wait_interest(wanted)
    clients[0].send(b"UNSUB 1\r\nUNSUB 2\r\nUNSUB 5\r\n")
    clients[1].send(b"UNSUB 3\r\nUNSUB 2\r\nUNSUB 4\r\n")
    clients[2].send(b"UNSUB 5\r\nUNSUB 6\r\nUNSUB 7\r\n")
    machines.wait_interest(
        [
            ["only.0", "wild.*.>", "work", "work"],
            ["same", "work", "work"],
            ["same", "only.2", "wild.*.>"],
        ]
    )
    for client in clients:
        client.finish()
    machines.wait_interest([[], [], []])


def test_a_message_is_seen_on_the_wire_only_where_somebody_wants_it(
    machines: Machines, clients: list[WireClient], tap: Callable[[int], Tap]
) -> None:
    clients[1].subscribe(b"some.where", b"1")
    clients[2].subscribe(b"else.where", b"2")
    machines.wait_interest([[], ["some.where"], ["else.where"]])
    hub, own = machines.network.hub.address, machines.address(0)
    seen = tap(0)
    clients[0].send(
        b"PUB no.where 9\r\n<nowhere>\r\nPUB some.where 6\r\n<some>\r\n"
        b"PUB else.where 6\r\n<else>\r\nPUB some.where 6\r\n<last>\r\n"
    )
    clients[1].expect_msg(b"some.where", b"1", b"<some>")
    clients[1].expect_msg(b"some.where", b"1", b"<last>")
    clients[2].expect_msg(b"else.where", b"2", b"<else>")
    assert seen.seen(b"<nowhere>") == {(hub, own)}
    assert seen.seen(b"<some>") == {(hub, own), (own, machines.address(1))}
    assert seen.seen(b"<else>") == {(hub, own), (own, machines.address(2))}


def test_a_message_for_a_group_is_on_one_wire_and_one_hop_is_all(
    machines: Machines, clients: list[WireClient], tap: Callable[[int], Tap]
) -> None:
    for client in clients[1:]:
        client.subscribe(b"work", b"1", b"group")
        client.subscribe(b"all", b"2")
    machines.wait_interest([[], ["all", "work"], ["all", "work"]])
    taps = [tap(index) for index in HOSTS]
    for number in range(50):
        clients[0].publish(b"work", b"<work %d>" % number)
    clients[0].publish(b"all", b"<all>")
    for client in clients[1:]:
        client.read_until(b"<all>\r\n")
    hub = machines.network.hub.address
    one, two, three = (machines.address(index) for index in HOSTS)
    went = dict.fromkeys((two, three), 0)
    for number in range(50):
        ways = taps[0].seen(b"<work %d>" % number) - {(hub, one)}
        assert len(ways) == 1
        went[ways.pop()[1]] += 1
    # Of 50 messages each of two hosts gets 25 on average; the standard deviation is 3.5.
    assert min(went.values()) > 4, went
    # Neither the second nor the third hands on to the other what came by a route.
    assert taps[1].seen(b"<all>") == {(one, two), (two, hub)}
    assert taps[2].seen(b"<all>") == {(one, three), (three, hub)}


def test_clients_learn_of_a_newcomer_and_of_its_end(dial: Dial) -> None:
    with machines_of(("shardd-1", "nats-server")) as machines:
        clients = [dial(broker).connect(protocol=1) for broker in machines.brokers]
        for kind in ("shardd-1", "nats-server"):
            newcomer = machines.add(kind)
            address = f"{newcomer.host}:{CLIENT_PORT}"
            for client in clients:
                while address not in parse_info(client.expect_line())["connect_urls"]:
                    pass
            machines.settle()
            newcomer.stop()
            for client in clients:
                while address in parse_info(client.expect_line())["connect_urls"]:
                    pass
            machines.settle()
        for client in clients:
            client.finish()
