"""Very many idle connections: how fast they are accepted, and what one costs in memory."""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from bench import dialer
from bench.frames import HELLO
from bench.load import Load, Measurement, Metric, Stage, Variant
from bench.placement import Address, flush
from bench.sides import Side, close_connections

COUNT = 10_000
IN_FLIGHT = 64
SOURCES = 20
PROBED = 100
METRICS = (
    Metric("memory", "B/conn", is_higher_better=False),
    Metric("connect", "conn/s"),
)
# Closing resets the connection, so that no port stays in TIME_WAIT.
_LINGER_NOTHING = struct.pack("ii", 1, 0)


def dial_many(side: Side, address: Address, count: int) -> float:
    """Open `count` connections, each up to its PONG; return the seconds it took."""
    done = dialer.dial(
        address.host, address.port, count, IN_FLIGHT, SOURCES, HELLO, address.patience_s
    )
    for fd in done.fds:
        connection = socket.socket(fileno=fd)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOTHING)
        connection.settimeout(address.patience_s)
        side.connections.append(connection)
    return (done.end_ns - done.start_ns) / 1e9


def probe(side: Side) -> None:
    """Raise unless connections all over the range still answer."""
    for connection in side.connections[:: max(1, len(side.connections) // PROBED)]:
        flush(connection)


@dataclass(frozen=True, slots=True)
class ConnectionsLoad:
    """So many connections that do nothing."""

    count: int
    name: str = "connections-10k"
    metrics: tuple[Metric, ...] = METRICS
    variants: tuple[Variant, ...] = (Variant.ANY,)
    needs_fresh_server: bool = True
    is_encrypted: bool = False

    @property
    def summary(self) -> str:
        """One line for people."""
        return f"{self.count} idle connections"

    def measure(self, stage: Stage) -> Measurement:
        """Open them all, look at the memory, ask some of them, close them."""
        count = stage.scale.pick(self.count, 200)
        address = stage.server.address
        try:
            before_bytes = stage.server.pss_bytes()
            cpu_before_s = stage.server.cpu_s()
            dialled = stage.publisher.submit(dial_many, address, count).take()
            server_cpu_s = stage.server.cpu_s() - cpu_before_s
            grown_bytes = stage.server.pss_bytes() - before_bytes
            stage.publisher.call(probe)
        finally:
            stage.publisher.call(close_connections)
        figures = {"memory": grown_bytes / count, "connect": count / dialled.value}
        return Measurement(figures, count, server_cpu_s, dialled.cpu_s)


def loads() -> Iterator[Load]:
    """The family, as far as this process may open files."""
    yield ConnectionsLoad(COUNT)
