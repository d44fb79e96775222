"""Clusters of servers that are hosts of a network: each has an address and the usual ports.

What a test does itself, as a client or with a question, it does from the hub of the network:
`machines_of` and the fixture `machines` let the test's thread live there.
"""

import contextlib
import json
import os
import signal
import socket
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from shardd import inquiry
from shardd.runfiles import directory_of
from tests.support.broker import NATS_SERVER, Broker, make_broker, newest_child
from tests.support.cluster import CLUSTER, Hosts
from tests.support.network import Network, network_of
from tests.support.waiting import PATIENCE, WaitedTooLong, wait_until

CLIENT_PORT: Final = 4222
ROUTE_PORT: Final = 6222
HTTP_PORT: Final = 8222
_ANSWER_S: Final = 10.0 * PATIENCE
# A peer that is silent is noticed within three seconds; one that is merely slow is not.
_QUICK: Final = "ping_interval: 500ms, ping_max: 5"


class Machines(Hosts):
    """Servers of one cluster, each on a host of its own.

    Args:
        network: its hosts are those of the servers.
        is_watched: whether shardd has monitoring over HTTP; nats-server has.
    """

    def __init__(self, network: Network, *, is_watched: bool = False) -> None:
        super().__init__()
        self.network = network
        self._is_watched = is_watched
        self._texts: list[str] = []

    def add(
        self, kind: str, routes: Sequence[int] | None = None, more: str = "", block: str = ""
    ) -> Broker:
        """Start one more server. `routes`: the indexes of the hosts that it dials, only the first
        one if not said otherwise."""
        index = len(self.brokers)
        if index == len(self.network):
            self.network.add()
        if routes is None:
            routes = [0] if index else []
        urls = ", ".join(f'"nats://{self.address(each)}:{ROUTE_PORT}"' for each in routes)
        self._texts.append(
            f"server_name: host{index + 1}\n{more}\n"
            f'cluster {{ name: {CLUSTER}, listen: "0.0.0.0:{ROUTE_PORT}", routes: [{urls}]\n'
            f"{_QUICK}\n{block}\n}}\n"
        )
        self.cluster_ports.append(ROUTE_PORT)
        self.brokers.append(make_broker(kind))
        return self.start(index)

    def start(self, index: int, kind: str = "") -> Broker:
        """Start the server of this host, again or for the first time, perhaps as another kind."""
        broker = make_broker(kind or self.brokers[index].kind)
        self.brokers[index] = broker
        broker.listen_address = "0.0.0.0"
        broker.listen_port = CLIENT_PORT
        broker.reached_at = self.address(index)
        with self.network[index].entered():
            broker.start_text(self._file_of(index))
        return broker

    def change(self, index: int, edit: Callable[[str], str]) -> str:
        """Edit the configuration file that this host is started with from now on; returns it as
        the server that runs is to read it."""
        self._texts[index] = edit(self._texts[index])
        return self._file_of(index)

    def _file_of(self, index: int) -> str:
        text = self._texts[index]
        if self._is_watched or self.brokers[index].kind == NATS_SERVER:
            text += f'http: "0.0.0.0:{HTTP_PORT}"\n'
        return text

    def address(self, index: int) -> str:
        """Of this host."""
        return self.network[index].address

    def power_off(self, index: int) -> None:
        """The host is gone from one moment to the next: no packet says good-bye."""
        self.network.unplug(index)
        self.brokers[index].kill()

    def plug(self, index: int) -> None:
        """The host's link is up again; returns when the host can be reached. For a moment its
        kernel may still hold the hub to be unreachable, and reset what comes from there."""
        self.network.plug(index)
        address = self.brokers[index].host, self.brokers[index].port

        def is_reached() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(address, 1.0) as probe:
                return bool(probe.recv(1))
            return False

        wait_until(is_reached, f"host{index + 1} to be reached")

    def settle(self) -> None:
        """Wait until all that live are routed to all others, and tell clients so."""
        super().settle()
        living = [index for index, broker in enumerate(self.brokers) if broker.is_alive()]
        names = {f"host{index + 1}" for index in living}

        def is_meshed() -> bool:
            return all(self.peers(i) == names - {f"host{i + 1}"} for i in living)

        wait_until(is_meshed, "a full mesh of routes", 20.0 * PATIENCE)

    # --- what they report ----------------------------------------------------------------------

    def peers(self, index: int) -> set[str]:
        """The names of the servers that this one has a route to."""
        return {row["remote_name"] for row in self.routes(index)}

    def routes(self, index: int) -> list[dict[str, Any]]:
        """The rows of `/routez`, with what each peer subscribes to as (subject, queue) in `wants`;
        nats-server does not tell the queue."""
        broker = self.brokers[index]
        if broker.kind == NATS_SERVER:
            return _rows_of_original(self.address(index))
        return _rows_of_ours(broker)

    def interest(self, index: int) -> dict[str, list[str]]:
        """What this server believes that each of its peers subscribes to, but for the subjects of
        the system account."""
        found: dict[str, list[str]] = {}
        for row in self.routes(index):
            subjects = found.setdefault(row["remote_name"], [])
            subjects += [subject for subject in row["subjects"] if not subject.startswith("$")]
            subjects.sort()
        return found

    def wait_interest(self, truth: Sequence[Iterable[str]]) -> None:
        """Wait until every server that lives believes of every other what is true: `truth` has
        the subjects that the clients of each host subscribe to, one for each queue group."""
        living = [index for index, broker in enumerate(self.brokers) if broker.is_alive()]

        def differences() -> list[tuple[str, str, list[str], list[str]]]:
            return [
                (f"host{i + 1}", f"host{j + 1}", believed, sorted(truth[j]))
                for i in living
                for j in living
                for believed in [self.interest(i).get(f"host{j + 1}", ["no route"])]
                if i != j and believed != sorted(truth[j])
            ]

        try:
            wait_until(lambda: not differences(), "interest", 15.0 * PATIENCE)
        except WaitedTooLong:
            raise AssertionError(f"beliefs that are not true: {differences()}") from None

    def counted(self, index: int, field: str) -> Counter[str]:
        """The sums of a field of `/routez`, by peer."""
        sums: Counter[str] = Counter()
        for row in self.routes(index):
            sums[row["remote_name"]] += row[field]
        return sums


def _rows_of_original(address: str) -> list[dict[str, Any]]:
    url = f"http://{address}:{HTTP_PORT}/routez?subs=1"
    with urllib.request.urlopen(url, timeout=_ANSWER_S) as response:
        rows: list[dict[str, Any]] = json.load(response)["routes"]
    return [row | {"subjects": row.get("subscriptions_list", [])} for row in rows]


def rows_of(broker: Broker) -> list[dict[str, Any]]:
    """As `shardd routes --json` has them, without the cost of a process."""
    return next(part["routes"] for part in _ask(broker, has_subs=False) if "routes" in part)


def _ask(broker: Broker, *, has_subs: bool) -> list[dict[str, Any]]:
    directory = directory_of(broker.pid)
    assert directory is not None, "shardd has no runtime directory"
    path = directory / inquiry.socket_name("Router")
    return list(inquiry.ask(path, {"ask": "routez", "subs": has_subs}))


def _rows_of_ours(broker: Broker) -> list[dict[str, Any]]:
    """With what each peer subscribes to."""
    rows: list[dict[str, Any]] = []
    wanted: dict[int, set[tuple[str, str, str | None]]] = {}
    for part in _ask(broker, has_subs=True):
        if "routes" in part:
            rows = part["routes"]
            continue
        for account, subject, queue, _ in part["subscriptions"]:
            wanted.setdefault(part["rid"], set()).add((account, subject, queue))
    return [row | {"subjects": [key[1] for key in wanted.get(row["rid"], ())]} for row in rows]


def kill_router(broker: Broker) -> int:
    """Kill the router of a shardd; returns its pid."""
    pid = newest_child(broker)
    os.kill(pid, signal.SIGKILL)
    return pid


def wait_replaced(broker: Broker, old: int) -> None:
    """Wait until there is another router than this one, which was killed, and it is ready."""

    def has_successor() -> bool:
        after = broker.log_text().partition(f"Router, pid {old}, ended")[2]
        return "Router is ready, pid " in after

    wait_until(has_successor, "another router")


@contextlib.contextmanager
def machines_of(
    kinds: Sequence[str],
    *,
    routes: Sequence[int] | None = None,
    more: str = "",
    block: str = "",
    is_watched: bool = False,
) -> Iterator[Machines]:
    """A settled cluster of these kinds of servers, each on a host of its own, and the calling
    thread in the hub."""
    with network_of(len(kinds)) as network, network.hub.entered():
        machines = Machines(network, is_watched=is_watched)
        try:
            for kind in kinds:
                machines.add(kind, routes, more, block)
            machines.settle()
            yield machines
        finally:
            for index in range(len(machines.brokers)):
                network.plug(index)
            machines.stop()
