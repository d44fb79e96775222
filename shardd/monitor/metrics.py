"""What Prometheus reads at `/metrics`. The text format is the official library's.

A series is told by its process where that means something; sums over processes are the reader's.
docs/operations.md says what each one means.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from shardd.host import HostSetup
from shardd.monitor.gathering import Gathering
from shardd.reports.accountz import AccountFacts
from shardd.reports.processz import ProcessFacts, label
from shardd.version import NATS_VERSION, SHARDD_VERSION

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

# Counters of the shared page: name of the series, what it means.
_COUNTERS: Final = {
    "connections_total": ("connections_opened", "Client connections accepted"),
    "messages_in": ("messages_received", "Messages from clients"),
    "bytes_in": ("bytes_received", "Payload bytes from clients"),
    "messages_out": ("messages_sent", "Messages to clients"),
    "bytes_out": ("bytes_sent", "Payload bytes to clients"),
    "slow_consumers": ("slow_consumers", "Peers closed because they did not keep up"),
    "stale_connections": ("stale_connections", "Clients closed because they answered no PING"),
    "stalled_clients": ("stalled_publishers", "Times a publisher was held back for its readers"),
    "ring_stalls": ("ring_stalls", "Times the ring to the other processes was full"),
    "ring_bytes": ("ring_bytes", "Bytes published to the other processes"),
    "oversize_messages": ("oversize_messages", "Messages too large for the ring"),
    "redirected": ("redirected_messages", "Queue-group messages whose member had just left"),
    "loop_late_us": ("loop_late_seconds", "Time by which the event loop's ticks came late"),
}
_GAUGES: Final = {
    "connections": ("connections", "Client connections open"),
    "subscriptions": ("subscriptions", "Subscriptions of clients"),
}
_SCALES: Final = {"loop_late_us": 1e-6}


class Metrics:
    """Touched by the monitor's event loop only.

    Args:
        setup: the host.
        gathering: where the facts come from.
    """

    def __init__(self, setup: HostSetup, gathering: Gathering) -> None:
        self._setup = setup
        self._gathering = gathering

    async def text(self) -> bytes:
        """All series, as of now."""
        accounts = await self._gathering.account_facts()
        routes = await self._gathering.make_routez(False)
        processes = self._gathering.processes()
        registry = CollectorRegistry()
        registry.register(
            _Families(
                [
                    *self._server(),
                    *_of_processes(processes),
                    *_of_accounts(accounts),
                    *_of_routes(routes["routes"]),
                ]
            )
        )
        text: bytes = generate_latest(registry)
        return text

    def _server(self) -> Iterator[Metric]:
        setup = self._setup
        info = InfoMetricFamily("shardd_server", "The server")
        info.add_metric(
            (),
            {
                "server_id": setup.server_id,
                "server_name": setup.server_name,
                "version": SHARDD_VERSION,
                "nats_version": NATS_VERSION,
            },
        )
        yield info
        yield GaugeMetricFamily(
            "shardd_start_time_seconds", "When the server began", self._gathering.start_ns / 1e9
        )
        yield GaugeMetricFamily(
            "shardd_ready", "1 while the server serves", float(self._gathering.health()[0])
        )


class _Families(Collector):
    """Families that are made already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _of_processes(processes: Iterable[ProcessFacts]) -> Iterator[Metric]:
    processes = list(processes)
    for names, make in ((_COUNTERS, CounterMetricFamily), (_GAUGES, GaugeMetricFamily)):
        for counter, (name, text) in names.items():
            family = make(f"shardd_{name}", text, labels=["process"])
            for each in processes:
                if counter in each.counters:
                    value = each.counters[counter] * _SCALES.get(counter, 1)
                    family.add_metric([label(each.name)], value)
            yield family
    cpu = CounterMetricFamily("shardd_cpu_seconds", "Processor time used", labels=["process"])
    memory = GaugeMetricFamily(
        "shardd_memory_bytes", "Resident memory, what is shared counted once", labels=["process"]
    )
    used = GaugeMetricFamily(
        "shardd_ring_used_bytes", "Bytes in the ring not yet read by all", labels=["process"]
    )
    size = GaugeMetricFamily("shardd_ring_size_bytes", "Size of the ring", labels=["process"])
    for each in processes:
        labels = [label(each.name)]
        cpu.add_metric(labels, each.cpu_seconds)
        memory.add_metric(labels, each.memory_bytes)
        if each.ring_bytes:
            used.add_metric(labels, each.ring_used_bytes)
            size.add_metric(labels, each.ring_bytes)
    yield from (cpu, memory, used, size)


def _of_accounts(accounts: dict[str, AccountFacts]) -> Iterator[Metric]:
    gauges = {
        "connections": ("Client connections of the account", "connections"),
        "subscriptions": ("Subscriptions of the account", "subscriptions"),
    }
    counters = {
        "messages_received": ("Messages from the account's clients", "received_messages"),
        "bytes_received": ("Payload bytes from the account's clients", "received_bytes"),
        "messages_sent": ("Messages to the account's clients", "sent_messages"),
        "bytes_sent": ("Payload bytes to the account's clients", "sent_bytes"),
    }
    for names, make in ((gauges, GaugeMetricFamily), (counters, CounterMetricFamily)):
        for name, (text, field) in names.items():
            family = make(f"shardd_account_{name}", text, labels=["account"])
            for account, facts in accounts.items():
                family.add_metric([account], getattr(facts, field))
            yield family


def _of_routes(rows: Iterable[dict[str, Any]]) -> Iterator[Metric]:
    fields = {
        "messages_received": ("Messages from the other server", "in_msgs"),
        "bytes_received": ("Bytes from the other server", "in_bytes"),
        "messages_sent": ("Messages to the other server", "out_msgs"),
        "bytes_sent": ("Bytes to the other server", "out_bytes"),
    }
    labels = ["rid", "remote_id", "remote_name"]
    rows = list(rows)
    for name, (text, field) in fields.items():
        family = CounterMetricFamily(f"shardd_route_{name}", text, labels=labels)
        for row in rows:
            family.add_metric(_names(row), row[field])
        yield family
    pending = GaugeMetricFamily(
        "shardd_route_pending_bytes", "Bytes that wait for the other server", labels=labels
    )
    for row in rows:
        pending.add_metric(_names(row), row["pending_size"])
    yield pending


def _names(row: dict[str, Any]) -> list[str]:
    return [str(row["rid"]), row["remote_id"], row["remote_name"]]
